//! Trains a language model: truncated backpropagation through time with carried state.

use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use carousel_kernels::dropout::key;
use serde::Deserialize;
use serde_json::Value;

use crate::data::{
    Corpus, Coverage, Document, Limits, Segment, Stretch, Tokenizer, Truncation, Vocab, Window, Windows,
};
use crate::decode::sampling::{Sampling, write};
use crate::models::language_model::{LanguageModel, NoisyOutputs};
use crate::output::Loss;
use crate::own_cell::Sizes;
use crate::parameters::NamedTensor;
use crate::recipe::{Named, Recipe, TrainRecipe};
use crate::recurrent::NoisySequences;
use crate::regularize::{Noise, activation_penalty};
use crate::run::RunFolder;
use crate::saved::config;
use crate::state::State;
use crate::train::diagnose::{BrokenBatch, Circumstances, Diagnosis, diagnose, save};
use crate::train::evaluate::measure;
use crate::train::tbptt::{Place, StateShape, Tbptt};
use crate::train::trainer::{Facts, Job, Measured, Objective, Pass, Work, train};
use crate::train::{Control, Event, Sources, Start, Summary, TrainError, shares};

/// How the samples during training are drawn: a little safer than the model's own probabilities.
const SAMPLE_TEMPERATURE: f64 = 0.8;

/// Trains the model of a recipe in a run's folder, and tells what happens through `on_event`.
///
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
    let tokenizer = match start {
        Start::New => {
            let share = shares(recipe, sources)[0];
            let limits = Limits { min_count: recipe.data.min_count, size: recipe.data.vocab_size, share };
            let vocab = Vocab::build(recipe.data.tokens, &sources.train, limits)?;
            run.write_vocab(&vocab)?;
            Tokenizer::new(vocab)
        }
        Start::Resume => Tokenizer::new(run.read_vocab()?),
    };
    let Parts { train: corpus, valid, test } = Parts::read(&tokenizer, recipe, sources)?;
    let TrainRecipe { batch, accumulate, .. } = recipe.train;
    let tbptt = Tbptt::new(&corpus, batch, accumulate, recipe.train.truncation(recipe.seed))?;
    let precision = recipe.train.precision;
    if !precision.is_available() {
        return Err(TrainError::Precision { name: precision.name() });
    }
    let model = config(recipe, tokenizer.vocab().len())
        .init(&Device::default().autodiff())?
        .with_precision(precision);
    let facts = Facts {
        vocabulary: Some(tokenizer.vocab().len()),
        train_tokens: Some(corpus.tokens.len()),
        valid_tokens: Some(valid.as_ref().map_or(0, |part| part.tokens.len())),
    };
    let job = LanguageModelJob { recipe, tokenizer, tbptt, model, valid, test, last: None };
    train(run, recipe, job, facts, start, on_event)
}

/// The corpora of a run; parts that have nothing to predict count as not there.
struct Parts {
    train: Corpus,
    valid: Option<Corpus>,
    test: Option<Corpus>,
}

impl Parts {
    fn read(tokenizer: &Tokenizer, recipe: &Recipe, sources: &Sources) -> Result<Parts, TrainError> {
        let all = tokenizer.corpus(&sources.train)?;
        let [train, valid, test] = all.split(shares(recipe, sources));
        let part = |documents: &[Document], held_out: Corpus| -> Result<Option<Corpus>, TrainError> {
            let part = if documents.is_empty() { held_out } else { tokenizer.corpus(documents)? };
            Ok(Some(part).filter(|part| Windows::new(part, 1, Truncation::every(1), Coverage::All).is_ok()))
        };
        Ok(Parts { train, valid: part(&sources.valid, valid)?, test: part(&sources.test, test)? })
    }
}

struct LanguageModelJob<'a> {
    recipe: &'a Recipe,
    tokenizer: Tokenizer,
    tbptt: Tbptt<'a>,
    model: LanguageModel,
    valid: Option<Corpus>,
    test: Option<Corpus>,
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
    fn measure(&self, model: &LanguageModel, part: Option<&Corpus>) -> Result<Option<Measured>, TrainError> {
        let train = &self.recipe.train;
        let Some(part) = part else { return Ok(None) };
        let Loss { nats, count, correct } = measure(model, part, train.batch, train.k2())?;
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

    /// A longer window is a larger step, as in Merity et al. 2017.
    fn rate(&self) -> f64 {
        self.tbptt.windows().share(self.tbptt.place().window - 1)
    }

    fn objective(&mut self, batch: &(usize, Stretch)) -> Objective {
        let Recipe { seed, train, .. } = self.recipe;
        let Place { window, passes } = self.tbptt.place();
        let noise = Noise::new(&[*seed, passes, window as u64, batch.0 as u64]);
        let model = &self.model;
        let noisy = model.is_noisy();
        let (mut outputs, mut targets, mut penalties) = (Vec::new(), Vec::new(), Vec::new());
        let frames = batch.frames() as f64;
        let last = &mut self.last;
        self.tbptt.read(batch, |window, state| {
            *last = Some((window.clone(), state.as_ref().map(State::detach)));
            let packed = Arc::new(window.batch.clone());
            targets.extend_from_slice(&window.targets);
            let (raw, dropped, state) = if noisy {
                // A document of a stream keeps its masks over all windows of an update.
                let name = |segment: &Segment| key(&[segment.stream as u64, segment.document as u64]) as u32;
                let names: Vec<u32> = window.segments.iter().map(name).collect();
                let noisy = NoisySequences { noise, names: &names };
                let NoisyOutputs { raw, dropped, state } =
                    model.hidden_noisy(&window.inputs, &packed, state, noisy);
                (raw, dropped, state)
            } else {
                let (y, state) = model.hidden(&window.inputs, &packed, state);
                (y.clone(), y, state)
            };
            let share = window.inputs.len() as f64 / frames;
            let (activation, temporal) = (train.activation_penalty * share, train.temporal_penalty * share);
            if activation > 0.0 {
                penalties.push(activation_penalty(dropped.clone(), &packed, activation, 0.0));
            }
            if temporal > 0.0 {
                penalties.push(activation_penalty(raw, &packed, 0.0, temporal));
            }
            outputs.push(dropped);
            state
        });
        let y = if outputs.len() > 1 { Tensor::cat(outputs, 0) } else { outputs.remove(0) };
        penalties.into_iter().fold(Objective::plain(model.loss(y, &targets)), Objective::with)
    }

    fn diagnose(&self, run: &RunFolder, step: u64, gradient_norm: f64) -> Option<Box<Diagnosis>> {
        // It walks through time with the kernels, which know no cell of one's own.
        self.model.recurrent().cell().fused()?;
        let (window, state) = self.last.clone()?;
        let Window { inputs, targets, batch, .. } = window;
        let broken = BrokenBatch { step, inputs, targets, batch, state };
        let told = Circumstances { recipe: self.recipe, gradient_norm, checkpoint: run.latest_path() };
        let mut diagnosis = Box::new(diagnose(&self.model, &broken, told));
        let path = run.path().join(format!("diverged-{step}.safetensors"));
        // A disk that is full must not hide what went wrong.
        diagnosis.replay = save(&path, &self.model, &broken).is_ok().then_some(path);
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
        self.measure(model, self.valid.as_ref())
    }

    fn test(&self, model: &LanguageModel) -> Result<Option<Measured>, TrainError> {
        self.measure(model, self.test.as_ref())
    }

    fn sample(&self, model: &LanguageModel, seed: u64) -> Option<String> {
        let length = self.recipe.train.sample_length;
        let sampling = Sampling { temperature: SAMPLE_TEMPERATURE, top_k: None, top_p: None, seed };
        (length > 0).then(|| write(model, &self.tokenizer, "", length, &sampling, &mut |_| {}))
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
        let shape = StateShape { layers: model.layers, hidden: model.hidden, memory };
        self.tbptt
            .restore(place, carried, shape)?
            .ok_or_else(|| state(format!("window {} of {}", place.window, self.tbptt.windows().len())))
    }
}
