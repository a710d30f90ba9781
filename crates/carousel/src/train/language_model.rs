//! Trains a language model: truncated backpropagation through time with carried state.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use carousel_kernels::dropout::key;
use serde::Deserialize;
use serde_json::Value;

use crate::data::{
    Corpus, Document, Documents, Limits, Segment, StoredCorpus, Stretch, TokenRow, Tokenizer, Vocab, Window,
    list_files, sampled_vocab,
};
use crate::decode::sampling::{Extent, write};
use crate::models::language_model::{LanguageModel, NoisyOutputs};
use crate::output::Loss;
use crate::own_cell::Sizes;
use crate::parameters::NamedTensor;
use crate::recipe::{Recipe, TrainRecipe};
use crate::recurrent::NoisySequences;
use crate::regularize::Noise;
use crate::run::RunFolder;
use crate::saved::language_model_config;
use crate::state::State;
use crate::train::divergence::diagnosis::{Circumstances, Diagnosis};
use crate::train::divergence::language_model::{BrokenBatch, diagnose, save};
use crate::train::documents::documents;
use crate::train::evaluate::{measure, predicted, streams};
use crate::train::job::{Facts, Job, Measured, Objective, Pass, Work, prices};
use crate::train::tbptt::{Place, StateShape, Tbptt};
use crate::train::trainer::train;
use crate::train::{Control, Event, Sources, Start, Summary, TrainError, precision, sampling, shares};

/// Trains the model of a recipe in a run's folder, and tells what happens through `on_event`.
///
/// Where documents are lines, they are read whole, side by side in ragged batches; otherwise as streams, in windows.
/// The folder gets the vocabulary, metrics and checkpoints; the recipe is there already. A run that is
/// resumed continues to the bit as if it had never stopped: weights, running averages, carried state and
/// place in the data come from its latest checkpoint.
///
/// # Errors
/// [`TrainError`] when the data, the folder or a checkpoint does not do, or training diverges.
pub fn language_model(
    run: &RunFolder,
    recipe: &Recipe,
    sources: &Sources,
    start: Start,
    on_event: &mut dyn FnMut(&Event<'_>) -> Control,
) -> Result<Summary, TrainError> {
    if recipe.data.documents == Documents::Lines {
        return documents(run, recipe, sources, start, on_event);
    }
    let tokenizer = match start {
        Start::New => {
            let share = shares(recipe, sources)[0];
            let limits = Limits { min_count: recipe.data.min_count, size: recipe.data.vocab_size, share };
            let tokens = recipe.data.tokens;
            let vocab = match &sources.large {
                Some(large) => sampled_vocab(tokens, &list_files(&large.train)?.0, limits, recipe.seed)?,
                None => Vocab::build(tokens, &sources.train, limits)?,
            };
            run.write_vocab(&vocab)?;
            Tokenizer::new(vocab)
        }
        Start::Resume => Tokenizer::new(run.read_vocab()?),
    };
    let Parts { train: corpus, valid, test } = Parts::read(&tokenizer, recipe, sources)?;
    // Who resumes has read it.
    let unknown = tokenizer.vocab().unknown().filter(|_| start == Start::New);
    for (part, text) in [("validation", &valid), ("test", &test)] {
        let Some((token, text)) = unknown.zip(text.as_deref()) else { continue };
        let (unknown, tokens) = (predicted(text, token), text.len() - text.document_starts().len());
        if unknown > 0 {
            on_event(&Event::Unknown { part, unknown, tokens });
        }
    }
    let TrainRecipe { batch, accumulate, .. } = recipe.train;
    let tbptt = Tbptt::new(&*corpus, batch, accumulate, recipe.train.truncation(recipe.seed))?;
    let precision = precision(recipe)?;
    let model = language_model_config(recipe, tokenizer.vocab().len())
        .init(&Device::default().autodiff())?
        .with_precision(precision);
    let facts = Facts {
        vocabulary: Some(tokenizer.vocab().len()),
        train_tokens: Some(corpus.len()),
        valid_tokens: Some(valid.as_ref().map_or(0, |part| part.len())),
    };
    let job = LanguageModelJob { recipe, tokenizer, corpus: &*corpus, tbptt, model, valid, test, last: None };
    train(run, recipe, job, facts, start, on_event)
}

/// The corpora of a run; parts that have nothing to predict count as not there.
struct Parts {
    train: Box<dyn TokenRow>,
    valid: Option<Box<dyn TokenRow>>,
    test: Option<Box<dyn TokenRow>>,
}

impl Parts {
    fn read(tokenizer: &Tokenizer, recipe: &Recipe, sources: &Sources) -> Result<Parts, TrainError> {
        let shares = shares(recipe, sources);
        if let Some(large) = &sources.large {
            let index = |paths: &[PathBuf]| StoredCorpus::index(&list_files(paths)?.0, tokenizer);
            let [train, valid, test] = index(&large.train)?.split(shares);
            let part = |paths: &[PathBuf], held_out: StoredCorpus| -> Result<_, TrainError> {
                Ok(predicting(if paths.is_empty() { held_out } else { index(paths)? }))
            };
            let (valid, test) = (part(&large.valid, valid)?, part(&large.test, test)?);
            return Ok(Parts { train: Box::new(train), valid, test });
        }
        let [train, valid, test] = tokenizer.corpus(&sources.train)?.split(shares);
        let part = |documents: &[Document], held_out: Corpus| -> Result<_, TrainError> {
            Ok(predicting(if documents.is_empty() { held_out } else { tokenizer.corpus(documents)? }))
        };
        let (valid, test) = (part(&sources.valid, valid)?, part(&sources.test, test)?);
        Ok(Parts { train: Box::new(train), valid, test })
    }
}

/// A part in which something is predicted.
fn predicting(part: impl TokenRow + 'static) -> Option<Box<dyn TokenRow>> {
    part.predicts().then(|| Box::new(part) as Box<dyn TokenRow>)
}

struct LanguageModelJob<'a> {
    recipe: &'a Recipe,
    tokenizer: Tokenizer,
    corpus: &'a dyn TokenRow,
    tbptt: Tbptt<'a>,
    model: LanguageModel,
    valid: Option<Box<dyn TokenRow>>,
    test: Option<Box<dyn TokenRow>>,
    /// The window that was read last and the state it began from, for a diagnosis.
    last: Option<(Window, Option<State>)>,
}

impl Work for (usize, Stretch) {
    fn targets(&self) -> usize {
        self.1.targets()
    }

    fn frames(&self) -> usize {
        self.1.frames()
    }
}

impl LanguageModelJob<'_> {
    fn measure(
        &self,
        model: &LanguageModel,
        part: Option<&dyn TokenRow>,
    ) -> Result<Option<Measured>, TrainError> {
        let train = &self.recipe.train;
        let Some(part) = part else { return Ok(None) };
        let streams = streams(part, train.batch);
        let Loss { nats, count, correct } = measure(model, part, streams, train.k2())?;
        Ok(Some(Measured {
            loss: nats,
            targets: count,
            answers: Some((correct, count)),
            ..Measured::default()
        }))
    }
}

impl Job for LanguageModelJob<'_> {
    type Model = LanguageModel;
    type Batch = (usize, Stretch);

    fn model(&self) -> &LanguageModel {
        &self.model
    }

    fn model_mut(&mut self) -> &mut LanguageModel {
        &mut self.model
    }

    fn steps(&self) -> u64 {
        match (self.recipe.train.steps, self.recipe.train.epochs) {
            (Some(steps), _) => steps as u64,
            (None, epochs) => self.tbptt.updates(epochs.unwrap_or(1.0)),
        }
    }

    fn next(&mut self) -> Vec<(usize, Stretch)> {
        self.tbptt.advance()
    }

    fn failure(&self) -> Option<TrainError> {
        self.corpus.failure().map(TrainError::from)
    }

    /// A longer window is a larger step, as in Merity et al. 2017.
    fn rate(&self) -> f64 {
        self.tbptt.windows().share(self.tbptt.place().window - 1)
    }

    fn objective(&mut self, batch: &(usize, Stretch)) -> Objective {
        let Recipe { seed, train, .. } = self.recipe;
        let Place { window, passes } = self.tbptt.place();
        let noise = Noise::new(&[*seed, passes, window as u64, batch.0 as u64]);
        let model = &self.model;
        let (mut outputs, mut targets, mut penalties) = (Vec::new(), Vec::new(), Vec::new());
        let frames = batch.frames() as f64;
        let last = &mut self.last;
        let mut readings = 0;
        self.tbptt.read(batch, |window, state| {
            *last = Some((window.clone(), state.as_ref().map(State::detach)));
            let packed = Arc::new(window.batch.clone());
            targets.extend_from_slice(&window.targets);
            // A document of a stream keeps its masks over all windows of an update.
            let name = |segment: &Segment| key(&[segment.stream as u64, segment.document as u64]) as u32;
            let names: Vec<u32> = window.segments.iter().map(name).collect();
            let noisy = NoisySequences { noise: noise.reading(readings), names: &names };
            readings += 1;
            let NoisyOutputs { raw, dropped, state } =
                model.hidden_noisy(&window.inputs, &packed, state, noisy);
            let share = window.inputs.len() as f64 / frames;
            penalties.extend(prices(train, share, raw, dropped.clone(), &packed));
            outputs.push(dropped);
            state
        });
        let y = if outputs.len() > 1 { Tensor::cat(outputs, 0) } else { outputs.remove(0) };
        penalties.into_iter().fold(Objective::plain(model.loss(y, &targets)), Objective::with)
    }

    /// The last batch, back through time too.
    fn diagnose(
        &mut self,
        _: &[Self::Batch],
        path: &Path,
        step: u64,
        told: &Circumstances<'_>,
    ) -> Option<Diagnosis> {
        // It walks through time with the kernels, which know no cell of one's own.
        let walks = self.model.recurrent().walks_by_units();
        let (window, state) = self.last.clone().filter(|_| walks)?;
        let Window { inputs, targets, batch, .. } = window;
        let broken = BrokenBatch { step, inputs, targets, batch, state };
        let mut diagnosis = diagnose(&self.model, &broken, told);
        // A disk that is full must not hide what went wrong.
        diagnosis.replay = save(path, &self.model, &broken).is_ok().then(|| path.to_owned());
        Some(diagnosis)
    }

    fn pass(&self) -> Option<Pass> {
        let Place { window, passes } = self.tbptt.place();
        let length = self.tbptt.windows().len();
        let epochs = passes as f64 + window as f64 / length as f64;
        Some(Pass { epochs, passes, began: window == 1, ended: window == length })
    }

    fn validates(&self) -> bool {
        self.valid.is_some()
    }

    fn validate(&self, model: &LanguageModel) -> Result<Option<Measured>, TrainError> {
        self.measure(model, self.valid.as_deref())
    }

    fn test(&self, model: &LanguageModel) -> Result<Option<Measured>, TrainError> {
        self.measure(model, self.test.as_deref())
    }

    fn sample(&self, model: &LanguageModel, seed: u64) -> Option<String> {
        let length = self.recipe.train.sample_length;
        let extent = Extent { documents: Documents::Files, tokens: length };
        (length > 0).then(|| write(model, &self.tokenizer, "", extent, &sampling(seed), &mut |_| {}))
    }

    fn place(&self) -> Result<Value, serde_json::Error> {
        serde_json::to_value(self.tbptt.place())
    }

    fn carried(&self) -> Vec<NamedTensor> {
        self.tbptt.named_tensors()
    }

    fn restore(&mut self, place: &Value, carried: &[NamedTensor]) -> Result<(), TrainError> {
        let state = |reason: String| TrainError::State { reason };
        let place = Place::deserialize(place).map_err(|error| state(error.to_string()))?;
        let model = &self.recipe.model;
        let memory = model.recurrence().memory(Sizes { input: model.embedding, hidden: model.hidden });
        let shape = StateShape { layers: model.layers, hidden: model.values(), memory };
        self.tbptt
            .restore(place, carried, shape)?
            .ok_or_else(|| state(format!("window {} of {}", place.window, self.tbptt.windows().len())))
    }
}
