//! `carousel bench translate`: whole training steps of a translator, and beam search with one.

use std::hint::black_box;
use std::path::PathBuf;

use burn::module::Module;
use burn::tensor::Device;
use carousel::data::{EOS, SOS};
use carousel::decode::beam::{Search, search};
use carousel::models::translator::{Sentences, Translator};
use carousel::parameters::NamedParameters;
use carousel::recipe::{Named, Task};
use carousel::recurrent::Direction;
use carousel::regularize::Noise;
use carousel::report::thousands;
use carousel::slices::with_slice;
use carousel::train::Optimizer;
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::recipes::read_recipe;
use crate::system::check_memory;
use crate::usage::BadUsage;

use super::model::random_tokens;
use super::{MeasureArgs, Measured, check_counted, counted, multiply_adds, timed};

const EXAMPLES: &str = "\
Examples:
  carousel bench translate
  carousel bench translate recipes/cmudict.toml --vocabulary 33,43
  carousel bench translate --mode decode --sentences 32 --beam 5

In training one repetition is one step as `carousel train` makes it: encoder,
decoder, attention, loss, gradients, clipping and update. In decoding it is the
search for the translations of all sentences, each made as long as its source:
with random weights none ends by itself. Lengths are spread evenly over
--lengths. Sizes and update rule come from the recipe. GFLOP/s count products
with weights; attention's scores and sums come on top.";

/// Time a translator: training steps, or beam search
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct TranslateArgs {
    /// Recipe [default: that of `train translate`]
    #[arg(value_name = "RECIPE.toml")]
    recipe: Option<PathBuf>,

    /// Change one key of the recipe; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// train or decode
    #[arg(long, value_enum, default_value_t = Mode::Train, hide_possible_values = true)]
    mode: Mode,

    /// Tokens of source and target
    #[arg(long, value_name = "S,T", default_value = "6000,6000", value_parser = pair)]
    vocabulary: (usize, usize),

    /// Shortest and longest sentence, in tokens
    #[arg(long, value_name = "A,B", default_value = "4,16", value_parser = pair)]
    lengths: (usize, usize),

    /// Sentences side by side [default: train.batch]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = super::size)]
    sentences: Option<usize>,

    /// Hypotheses of a sentence
    #[arg(long, value_name = "N", default_value_t = 5, allow_negative_numbers = true, value_parser = crate::search::beam)]
    beam: usize,

    #[command(flatten)]
    measure: MeasureArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    Train,
    Decode,
}

fn pair(text: &str) -> Result<(usize, usize), String> {
    let number = |text: &str| text.trim().parse().ok().filter(|number| (1..=1_000_000).contains(number));
    text.split_once(',')
        .and_then(|(a, b)| Some((number(a)?, number(b)?)))
        .ok_or("expected two whole numbers from 1 to 1000000 with a comma between".to_owned())
}

/// Lengths spread evenly from the shortest to the longest.
fn spread((shortest, longest): (usize, usize), count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |place| shortest + (longest - shortest) * place / (count - 1).max(1))
}

pub(super) fn run(args: &TranslateArgs) -> anyhow::Result<()> {
    args.measure.apply()?;
    let seed = args.measure.seed.map(|seed| format!("seed={seed}"));
    let assignments: Vec<&String> = args.set.iter().chain(&seed).collect();
    let named = args.recipe.clone().unwrap_or_else(|| PathBuf::from("translate"));
    let recipe = read_recipe(Some(&named), &assignments)?;
    if recipe.task != Task::Translate {
        let found = recipe.task.name();
        let message = format!("bench translate times translators, found task = \"{found}\"");
        return Err(BadUsage(message).into());
    }
    check_counted(&recipe, "translate")?;
    let (vocabulary, lengths) = (args.vocabulary, args.lengths);
    for (what, (least, found)) in [
        ("--lengths A,B with A from 1 to B", lengths),
        ("--vocabulary from 5 on", (5, vocabulary.0.min(vocabulary.1))),
    ] {
        if found < least {
            return Err(BadUsage(format!("expected {what}")).into());
        }
    }
    let count = args.sentences.unwrap_or(recipe.train.batch);
    let lengths: Vec<usize> = spread(lengths, count).collect();
    let tokens: usize = lengths.iter().sum();

    let sizes = &recipe.model;
    let cell = sizes.recurrence().fused().expect("a recipe of translation has a cell that the kernels know");
    let directions = if sizes.direction == Direction::Both { 2 } else { 1 };
    let encoder = multiply_adds(cell, sizes.embedding, sizes.hidden, sizes.layers, directions);
    let decoder = multiply_adds(cell, sizes.embedding, sizes.hidden, sizes.layers, 1)
        + if sizes.attention.score().is_some() {
            (sizes.hidden * sizes.hidden * (1 + directions)) as f64
        } else {
            0.0
        }
        + (sizes.hidden * vocabulary.1) as f64;
    let rows = if args.mode == Mode::Train { count } else { count * args.beam };
    let steps = lengths.last().map_or(0, |longest| longest + 2);
    let values = 2 * (sizes.layers * (cell.gates() + 4) * sizes.hidden * 3 + sizes.embedding);
    let tables = ((vocabulary.0 + vocabulary.1) * sizes.embedding) as f64;
    check_memory(5.0 * (encoder + decoder + tables) + (rows * steps * values + rows * vocabulary.1) as f64)?;

    let config = carousel::saved::translator_config(&recipe, [vocabulary.0, vocabulary.1]);
    let mut model = config.init(&Device::default().autodiff())?.with_precision(recipe.train.precision);
    let parameters: usize = model.parameters().iter().map(|(_, p)| p.shape().iter().product::<usize>()).sum();
    let (sources, targets) = sentences(&lengths, vocabulary, recipe.seed);
    let borrowed: Vec<&[u32]> = sources.iter().map(Vec::as_slice).collect();
    let source_frames = (tokens + 2 * count) as f64;
    let (mode, (peak, timing), operations, made) = match args.mode {
        Mode::Train => {
            let source = Sentences::pack(&borrowed);
            let rows = |part: &dyn Fn(&Vec<u32>) -> Vec<u32>| -> Sentences {
                let all: Vec<Vec<u32>> = targets.iter().map(part).collect();
                Sentences::pack(&all.iter().map(Vec::as_slice).collect::<Vec<_>>())
            };
            let inputs = rows(&|target| target[..target.len() - 1].to_vec());
            let wanted = rows(&|target| target[1..].to_vec()).ids;
            let mut optimizer = Optimizer::new(&recipe.train, &model);
            let mut step = 0;
            let measured = timed(args.measure.seconds, || {
                let noise = Noise::new(&[recipe.seed, step]);
                let loss = model.loss(&source, &inputs.ids, &wanted, &inputs.batch, Some(noise));
                with_slice(&loss, |loss| black_box(loss[0]));
                let gradients = model.take_gradients(&mut loss.backward());
                black_box(optimizer.update(&mut model, &gradients, recipe.train.learning_rate));
                step += 1;
            });
            let target_frames = (tokens + count) as f64;
            let work = 6.0 * (encoder * source_frames + decoder * target_frames);
            ("training step", measured, work, target_frames)
        }
        Mode::Decode => {
            never_end(&mut model);
            let model = model.valid();
            let wanted = Search { beam: args.beam, ratio: 1.0, extra: 0, ..Search::default() };
            let measured = timed(args.measure.seconds, || {
                black_box(search(&model, &borrowed, &[], &wanted));
            });
            let steps: f64 = lengths.iter().map(|length| (length * args.beam + 1) as f64).sum();
            ("beam search", measured, 2.0 * (encoder * source_frames + decoder * steps), tokens as f64)
        }
    };

    let name = cell.name();
    let (from, to) = args.lengths;
    let measured = Measured {
        args: &args.measure,
        title: format!("translate: {}, {mode}, {}", name.to_uppercase(), recipe.train.precision.name()),
        facts: vec![
            (
                "model",
                format!(
                    "V {} and {}, E {}, {} of {}",
                    thousands(vocabulary.0 as u64),
                    thousands(vocabulary.1 as u64),
                    sizes.embedding,
                    counted(sizes.layers, "layer"),
                    sizes.hidden,
                ),
            ),
            (
                "",
                format!("attention {}, {} parameters", sizes.attention.name(), thousands(parameters as u64)),
            ),
            ("work", format!("{} of {from} to {to} tokens", counted(count, "sentence"))),
        ],
        fields: json!({
            "bench": "translate",
            "mode": if args.mode == Mode::Train { "train" } else { "decode" },
            "cell": name,
            "vocabulary": [vocabulary.0, vocabulary.1],
            "embedding": sizes.embedding,
            "hidden": sizes.hidden,
            "layers": sizes.layers,
            "attention": sizes.attention.name(),
            "sentences": count,
            "lengths": [from, to],
            "beam": args.beam,
            "parameters": parameters,
            "precision": recipe.train.precision.name(),
        }),
        timing,
        operations,
        rates: vec![("tokens", "target tokens/s", made), ("sentences", "sentences/s", count as f64)],
        part: None,
    };
    measured.print(peak)
}

/// Random sources and targets of these lengths, with both ends.
fn sentences(lengths: &[usize], vocabulary: (usize, usize), seed: u64) -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
    let side = |size: usize, seed: u64| -> Vec<Vec<u32>> {
        let mut tokens =
            random_tokens(lengths.iter().sum(), size - 4, seed).into_iter().map(|token| token + 4);
        let sentence = |&length: &usize| {
            let inner: Vec<u32> = tokens.by_ref().take(length).collect();
            [&[SOS], inner.as_slice(), &[EOS]].concat()
        };
        lengths.iter().map(sentence).collect()
    };
    (side(vocabulary.0, seed), side(vocabulary.1, seed + 1))
}

/// No hypothesis ends by itself.
fn never_end(model: &mut Translator) {
    for (name, mut parameter) in model.parameters_mut() {
        if name == "output.bias" {
            parameter.with_slice_mut(|bias| bias[EOS as usize] = -1e4);
        }
    }
}
