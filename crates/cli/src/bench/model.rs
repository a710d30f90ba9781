//! `carousel bench model`: whole training steps of a recipe's model on random tokens.

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use carousel::data::Tokens;
use carousel::embedding::Embedding;
use carousel::init::Initializer;
use carousel::output::Output;
use carousel::parameters::NamedParameters;
use carousel::ragged::Batch;
use carousel::recipe::{Named, Recipe, Task};
use carousel::report::thousands;
use carousel::slices::with_slice;
use carousel::train::Optimizer;
use clap::Args;
use serde_json::json;

use crate::recipes::read_recipe;
use crate::system::check_memory;
use crate::usage::BadUsage;

use super::{MeasureArgs, Measured, check_counted, counted, multiply_adds, timed};

const EXAMPLES: &str = "\
Examples:
  carousel bench model
  carousel bench model recipes/ptb-small.toml
  carousel bench model --vocabulary 65 --set model.hidden=512 \\
      --set model.embedding=512 --set train.batch=64 --set train.bptt=64

One repetition is one step of training as `carousel train` makes it: embedding,
stack, output layer, loss, gradients, clipping and update, the state carried on.
Tokens are random; speed does not depend on them. Sizes and update rule come
from the recipe (docs/recipe.md), the default one if none is named; the number
of tokens from data.vocab_size, or it is 65 characters, 256 bytes, 10,000 words,
4,096 pieces of words.
--parts times embedding, output layer with loss, clipping and update alone.
GFLOP/s count the products of stack and output layer, forward and backward.";

/// Time whole steps of training a recipe's model
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ModelArgs {
    /// Recipe [default: the one of `train`]
    #[arg(value_name = "RECIPE.toml")]
    recipe: Option<PathBuf>,

    /// Change one key of the recipe; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Tokens there are [default: by the recipe, see below]
    #[arg(long, value_name = "V", value_parser = vocabulary, allow_negative_numbers = true)]
    vocabulary: Option<usize>,

    /// Also time what lies outside the recurrent stack
    #[arg(long)]
    parts: bool,

    #[command(flatten)]
    measure: MeasureArgs,
}

fn vocabulary(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|size| (1..=10_000_000).contains(size))
        .ok_or("expected a whole number from 1 to 10000000".into())
}

/// As many tokens as are usual.
fn usual_vocabulary(recipe: &Recipe) -> usize {
    match recipe.data.tokens {
        Tokens::Byte => 256,
        Tokens::Char => 65,
        Tokens::Word => recipe.data.vocab_size.unwrap_or(10_000),
        Tokens::Bpe => recipe.data.vocab_size.unwrap_or(4_096),
    }
}

pub(super) fn run(args: &ModelArgs) -> anyhow::Result<()> {
    args.measure.apply()?;
    let seed = args.measure.seed.map(|seed| format!("seed={seed}"));
    let assignments: Vec<&String> = args.set.iter().chain(&seed).collect();
    let recipe = read_recipe(args.recipe.as_deref(), &assignments)?;
    if recipe.task != Task::Lm {
        let message = format!("bench model times language models, found task = \"{}\"", recipe.task.name());
        return Err(BadUsage(message).into());
    }
    let rate = recipe.train.learning_rate;
    let vocabulary = args.vocabulary.unwrap_or_else(|| usual_vocabulary(&recipe));
    let (streams, bptt) = (recipe.train.batch, recipe.train.bptt);
    check_counted(&recipe, "model")?;
    let Some(cell) = recipe.model.recurrence().fused() else {
        let name = recipe.model.recurrence().name();
        let message = format!("bench model counts the kernels' work, for rnn, lstm and gru; found {name}");
        return Err(BadUsage(message).into());
    };
    let sizes = &recipe.model;
    let recurrent = multiply_adds(cell, sizes.embedding, sizes.hidden, sizes.layers, 1);
    let output = (sizes.hidden * vocabulary) as f64;
    let parameters = recurrent + output + (sizes.embedding * vocabulary) as f64;
    let frames = streams * bptt;
    let values = 2 * (sizes.layers * (cell.gates() + 4) * sizes.hidden + sizes.embedding);
    check_memory(5.0 * parameters + frames as f64 * values as f64)?;

    let device = Device::default().autodiff();
    let mut model = carousel::saved::language_model_config(&recipe, vocabulary).init(&device)?;
    let mut optimizer = Optimizer::new(&recipe.train, &model);
    let parameters: usize = model.parameters().iter().map(|(_, p)| p.shape().iter().product::<usize>()).sum();
    let batch = Arc::new(Batch::full(streams, bptt));
    let mut tokens = random_tokens(2 * frames, vocabulary, recipe.seed);
    let targets = tokens.split_off(frames);
    let mut state = None;
    let mut gradients = Vec::new();
    let (peak, timing) = timed(args.measure.seconds, || {
        let (loss, next) = model.forward_loss(&tokens, &targets, &batch, state.take());
        state = Some(next);
        with_slice(&loss, |loss| black_box(loss[0]));
        gradients = model.take_gradients(&mut loss.backward());
        black_box(optimizer.update(&mut model, &gradients, rate));
    });
    let part = match args.parts {
        true => {
            let outside = outside(&recipe, vocabulary, (&tokens, &targets), &device)?;
            let (_, timing) = timed(args.measure.seconds / 4.0, || {
                outside();
                black_box(optimizer.update(&mut model, &gradients, rate));
            });
            Some(("outside", timing.median))
        }
        false => None,
    };

    let name = cell.name();
    let measured = Measured {
        args: &args.measure,
        title: format!("model: language model, {}, training step, f32", name.to_uppercase()),
        facts: vec![
            (
                "model",
                format!(
                    "V {}, E {}, {} of {}, {} parameters",
                    thousands(vocabulary as u64),
                    sizes.embedding,
                    counted(sizes.layers, "layer"),
                    sizes.hidden,
                    thousands(parameters as u64)
                ),
            ),
            ("step", format!("B {streams}, T {bptt}, {}", recipe.train.optimizer.name())),
        ],
        fields: json!({
            "bench": "model",
            "cell": name,
            "vocabulary": vocabulary,
            "embedding": sizes.embedding,
            "hidden": sizes.hidden,
            "layers": sizes.layers,
            "batch": streams,
            "bptt": bptt,
            "optimizer": recipe.train.optimizer.name(),
            "clip_norm": recipe.train.clip_norm,
            "parameters": parameters,
            "precision": "f32",
        }),
        timing,
        operations: 6.0 * (recurrent + output) * frames as f64,
        rates: vec![("tokens", "tokens/s", frames as f64)],
        part,
    };
    measured.print(peak)
}

/// Embedding, output layer and loss of the recipe's model, forward and backward, with random numbers in place
/// of what the stack would give.
fn outside(
    recipe: &Recipe,
    vocabulary: usize,
    (tokens, targets): (&[u32], &[u32]),
    device: &Device,
) -> anyhow::Result<impl Fn()> {
    let random = &mut Initializer::new(recipe.seed);
    let (width, hidden) = (recipe.model.embedding, recipe.model.hidden);
    let embedding = Embedding::init(vocabulary, width, random, device)?;
    let output = Output::init(hidden, vocabulary, random, device)?;
    let y = TensorData::new(random.uniform(targets.len() * hidden, 1.0), [targets.len(), hidden]);
    let y = Tensor::<2>::from_data(y, device).require_grad();
    Ok(move || {
        black_box(embedding.forward(tokens).sum().backward());
        black_box(output.cross_entropy(y.clone(), targets).backward());
    })
}

/// Tokens drawn evenly from the vocabulary.
pub(super) fn random_tokens(count: usize, vocabulary: usize, seed: u64) -> Vec<u32> {
    let token =
        |value: f32| (((f64::from(value) + 1.0) / 2.0 * vocabulary as f64) as usize).min(vocabulary - 1);
    Initializer::new(seed).uniform(count, 1.0).into_iter().map(|value| token(value) as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_cover_the_vocabulary() {
        let mut tokens = random_tokens(1000, 7, 1);
        tokens.sort_unstable();
        tokens.dedup();
        assert_eq!(tokens, [0, 1, 2, 3, 4, 5, 6]);
    }
}
