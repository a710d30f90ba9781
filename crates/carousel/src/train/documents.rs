//! Trains a language model on many short documents, such as names: ragged batches of whole documents, each from a zero
//! state, in place of windows of one long stream.

use burn::module::Module;
use burn::tensor::Device;

use crate::data::{
    Counts, DataError, Document, Documents, Lengths, Limits, Tokenizer, Vocab, read_lines, split,
};
use crate::decode::sampling::{Extent, write};
use crate::models::language_model::{LanguageModel, NoisyOutputs};
use crate::models::reader::Learned;
use crate::recipe::Recipe;
use crate::recurrent::NoisySequences;
use crate::regularize::Noise;
use crate::run::RunFolder;
use crate::saved::language_model_config;
use crate::train::examples::{ExampleJob, ExampleTask, Parts, deal, shifted};
use crate::train::job::{Facts, Measured, Objective};
use crate::train::trainer::train;
use crate::train::{
    Control, Event, PartStatistics, Sources, Start, Summary, TrainError, precision, sampling, shares,
};

/// Documents written after a validation.
const SAMPLES: u64 = 5;
/// Documents that are measured side by side.
const BATCH: usize = 256;

/// Trains the model of a recipe whose documents are lines; see
/// [`language_model`](super::language_model()).
///
/// # Errors
/// [`TrainError`] when the data, the folder or a checkpoint does not do, or training diverges.
pub(super) fn documents(
    run: &RunFolder,
    recipe: &Recipe,
    sources: &Sources,
    start: Start,
    on_event: &mut dyn FnMut(&Event<'_>) -> Control,
) -> Result<Summary, TrainError> {
    debug_assert_eq!(recipe.data.documents, Documents::Lines);
    let tokens = recipe.data.tokens;
    let parts = line_parts(recipe, sources)?;
    let tokenizer = match start {
        Start::New => {
            let limits =
                Limits { min_count: recipe.data.min_count, size: recipe.data.vocab_size, share: 1.0 };
            let vocab = Vocab::build(tokens, &[with_ends(&parts.train)], limits)?;
            run.write_vocab(&vocab)?;
            Tokenizer::new(vocab)
        }
        Start::Resume => Tokenizer::new(run.read_vocab()?),
    };
    let encode =
        |part: Vec<Vec<u8>>| -> Vec<Vec<u32>> { part.iter().map(|line| tokenizer.line(line)).collect() };
    let parts = Parts { train: encode(parts.train), valid: encode(parts.valid), test: encode(parts.test) };
    let statistics: Vec<PartStatistics> = parts
        .named()
        .map(|(part, documents)| PartStatistics {
            part,
            lengths: Lengths::of(documents.iter().map(|ids| ids.len() - 2).collect()),
            classes: Counts::default(),
        })
        .collect();
    on_event(&Event::Examples { parts: &statistics });
    let precision = precision(recipe)?;
    let vocabulary = tokenizer.vocab().len();
    let model = language_model_config(recipe, vocabulary)
        .init(&Device::default().autodiff())?
        .with_precision(precision);
    let count = |part: &[Vec<u32>]| part.iter().map(|ids| ids.len() - 1).sum();
    let facts = Facts {
        vocabulary: Some(vocabulary),
        train_tokens: Some(count(&parts.train)),
        valid_tokens: Some(count(&parts.valid)),
    };
    let job = ExampleJob::new(DocumentTask { recipe, tokenizer }, recipe, model, parts);
    train(run, recipe, job, facts, start, on_event)
}

fn line_parts(recipe: &Recipe, sources: &Sources) -> Result<Parts<Vec<u8>>, DataError> {
    let read = |documents: &[Document]| read_lines(recipe.data.tokens, documents);
    let (all, valid, test) = (read(&sources.train)?, read(&sources.valid)?, read(&sources.test)?);
    let places = split(all.len(), shares(recipe, sources), recipe.seed);
    deal(all, places, valid, test)
}

/// The lines of the training part of a recipe whose documents are lines, with their ends.
///
/// # Errors
/// [`DataError`] as training has it.
pub fn learned_lines(recipe: &Recipe, sources: &Sources) -> Result<Document, DataError> {
    Ok(with_ends(&line_parts(recipe, sources)?.train))
}

/// Lines with their ends, which are tokens too.
fn with_ends(lines: &[Vec<u8>]) -> Document {
    let bytes = lines.iter().flat_map(|line| line.iter().copied().chain([b'\n'])).collect();
    Document { name: "the training part".to_owned(), bytes }
}

struct DocumentTask<'a> {
    recipe: &'a Recipe,
    tokenizer: Tokenizer,
}

impl ExampleTask for DocumentTask<'_> {
    type Model = LanguageModel;
    /// Token ids, its two ends included.
    type Example = Vec<u32>;

    fn length(&self, example: &Vec<u32>) -> usize {
        example.len() - 1
    }

    fn targets(&self, example: &Vec<u32>) -> usize {
        example.len() - 1
    }

    fn objective(&self, model: &LanguageModel, batch: &[&Vec<u32>], noise: Noise, _: u64) -> Objective {
        let (inputs, targets, batch) = shifted(batch.iter().map(|ids| ids.as_slice()));
        let names: Vec<u32> = (0..batch.sequences() as u32).collect();
        let noisy = NoisySequences { noise, names: &names };
        let NoisyOutputs { raw, dropped, .. } = model.hidden_noisy(&inputs, &batch, None, noisy);
        let learned = Learned { loss: model.loss(dropped.clone(), &targets), raw, dropped };
        Objective::priced(learned, &self.recipe.train, &batch)
    }

    fn measure(&self, model: &LanguageModel, examples: &[Vec<u32>]) -> Measured {
        let model = model.valid();
        let mut order: Vec<&Vec<u32>> = examples.iter().collect();
        order.sort_by_key(|ids| ids.len());
        let mut measured = Measured::default();
        let mut correct = 0;
        for documents in order.chunks(BATCH) {
            let (inputs, targets, batch) = shifted(documents.iter().map(|ids| ids.as_slice()));
            let (loss, _) = model.evaluate(&inputs, &targets, &batch, None);
            measured.loss += loss.nats;
            measured.targets += loss.count;
            correct += loss.correct;
        }
        measured.answers = Some((correct, measured.targets));
        measured
    }

    fn sample(&self, model: &LanguageModel, _: &[Vec<u32>]) -> Option<String> {
        let most = self.recipe.train.sample_length;
        let one = |number: u64| {
            let sampling = sampling(self.recipe.seed.wrapping_add(number));
            let extent = Extent { documents: Documents::Lines, tokens: most };
            write(model, &self.tokenizer, "", extent, &sampling, &mut |_| {}) + "\n"
        };
        (most > 0).then(|| (0..SAMPLES).map(one).collect())
    }
}
