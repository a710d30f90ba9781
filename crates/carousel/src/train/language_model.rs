//! Trains a language model: truncated backpropagation through time with carried state.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::data::{Corpus, Coverage, Document, Limits, Tokenizer, Vocab, Window, Windows};
use crate::decode::sampling::{Sampling, write};
use crate::fused::with_slice;
use crate::models::language_model::LanguageModel;
use crate::parameters::NamedTensor;
use crate::recipe::Recipe;
use crate::run::RunFolder;
use crate::saved::config;
use crate::state::State;
use crate::train::checkpoint::find_tensor;
use crate::train::evaluate::{carry, mean, measure, window_state};
use crate::train::trainer::{Facts, Job, Pass, Work, train};
use crate::train::{Control, Event, Sources, Start, Summary, TrainError};

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
    let windows = Windows::new(&corpus, recipe.train.batch, recipe.train.bptt, Coverage::Equal)?;
    let model = config(recipe, tokenizer.vocab().len()).init(&Device::default().autodiff())?;
    let facts = Facts {
        vocabulary: tokenizer.vocab().len(),
        train_tokens: corpus.tokens.len(),
        valid_tokens: valid.as_ref().map_or(0, |part| part.tokens.len()),
    };
    let place = Place::default();
    let job = LanguageModelJob { recipe, tokenizer, windows, model, place, carried: None, valid, test };
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
            Ok(Some(part).filter(|part| Windows::new(part, 1, 1, Coverage::All).is_ok()))
        };
        Ok(Parts { train, valid: part(&sources.valid, valid)?, test: part(&sources.test, test)? })
    }
}

/// The shares of the training text for training, validation and test. Nothing is held out for what was
/// given separately.
fn shares(recipe: &Recipe, sources: &Sources) -> [f64; 3] {
    let [train, valid, test] = recipe.data.split;
    let held_out = |share: f64, given: &[Document]| if given.is_empty() { share } else { 0.0 };
    let (kept_valid, kept_test) = (held_out(valid, &sources.valid), held_out(test, &sources.test));
    [train + (valid - kept_valid) + (test - kept_test), kept_valid, kept_test]
}

/// Where in the training part a run is.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Place {
    /// The next window of the pass.
    window: usize,
    /// Complete passes.
    passes: u64,
}

struct LanguageModelJob<'a> {
    recipe: &'a Recipe,
    tokenizer: Tokenizer,
    windows: Windows<'a>,
    model: LanguageModel,
    place: Place,
    /// The streams' state after the last window.
    carried: Option<State>,
    valid: Option<Corpus>,
    test: Option<Corpus>,
}

impl Work for Window {
    fn targets(&self) -> usize {
        self.targets.len()
    }

    fn frames(&self) -> usize {
        self.inputs.len()
    }
}

impl LanguageModelJob<'_> {
    fn measure(&self, model: &LanguageModel, part: Option<&Corpus>) -> Result<Option<f64>, TrainError> {
        let train = &self.recipe.train;
        part.map(|part| Ok(mean(measure(model, part, train.batch, train.bptt)?))).transpose()
    }
}

impl Job for LanguageModelJob<'_> {
    type Model = LanguageModel;
    type Batch = Window;

    fn model(&self) -> &LanguageModel {
        &self.model
    }

    fn model_mut(&mut self) -> &mut LanguageModel {
        &mut self.model
    }

    fn steps(&self) -> u64 {
        match (self.recipe.train.steps, self.recipe.train.epochs) {
            (Some(steps), _) => steps as u64,
            (None, epochs) => (epochs.unwrap_or(1.0) * self.windows.len() as f64).round().max(1.0) as u64,
        }
    }

    fn next(&mut self) -> Window {
        if self.place.window == self.windows.len() {
            self.place = Place { window: 0, passes: self.place.passes + 1 };
        }
        if self.place.window == 0 {
            self.carried = None;
        }
        self.place.window += 1;
        self.windows.get(self.place.window - 1)
    }

    fn loss(&mut self, window: &Window) -> Tensor<1> {
        let state = window_state(self.carried.as_ref(), &window.segments);
        let batch = Arc::new(window.batch.clone());
        let (loss, state) = self.model.forward_loss(&window.inputs, &window.targets, &batch, state);
        self.carried = Some(carry(&state, &window.segments, self.windows.streams()));
        loss
    }

    fn pass(&self) -> Option<Pass> {
        let Place { window, passes } = self.place;
        let length = self.windows.len();
        let epochs = passes as f64 + window as f64 / length as f64;
        Some(Pass { epochs, began: window == 1, ended: window == length })
    }

    fn validates(&self) -> bool {
        self.valid.is_some()
    }

    fn validate(&self, model: &LanguageModel) -> Result<Option<f64>, TrainError> {
        self.measure(model, self.valid.as_ref())
    }

    fn test(&self, model: &LanguageModel) -> Result<Option<f64>, TrainError> {
        self.measure(model, self.test.as_ref())
    }

    fn sample(&self, model: &LanguageModel, seed: u64) -> Option<String> {
        let length = self.recipe.train.sample_length;
        let sampling = Sampling { temperature: SAMPLE_TEMPERATURE, top_k: None, top_p: None, seed };
        (length > 0).then(|| write(model, &self.tokenizer, "", length, &sampling, &mut |_| {}))
    }

    fn place(&self) -> Result<Value, serde_json::Error> {
        serde_json::to_value(self.place)
    }

    fn carried(&self) -> Vec<NamedTensor> {
        self.carried.as_ref().map(save_state).unwrap_or_default()
    }

    fn restore(&mut self, place: &Value, carried: &[NamedTensor]) -> Result<(), TrainError> {
        let place =
            Place::deserialize(place).map_err(|error| TrainError::State { reason: error.to_string() })?;
        if place.window > self.windows.len() {
            let reason = format!("window {} of {}", place.window, self.windows.len());
            return Err(TrainError::State { reason });
        }
        self.place = place;
        self.carried = load_state(carried, self.recipe, &Device::default().autodiff())?;
        Ok(())
    }
}

/// The carried state as tensors `h` and `c`, `[layers · directions, B, H]`.
fn save_state(state: &State) -> Vec<NamedTensor> {
    let named = |name: &str, values: Tensor<3>| NamedTensor {
        name: name.to_owned(),
        shape: values.dims().to_vec(),
        values: with_slice(&values, <[f32]>::to_vec),
    };
    let mut all = vec![named("h", state.h())];
    all.extend(state.c().map(|c| named("c", c)));
    all
}

/// The opposite of [`save_state`]; `None` where nothing was carried.
fn load_state(
    tensors: &[NamedTensor],
    recipe: &Recipe,
    device: &Device,
) -> Result<Option<State>, TrainError> {
    if tensors.is_empty() {
        return Ok(None);
    }
    let shape = [recipe.model.layers, recipe.train.batch, recipe.model.hidden];
    let read = |name: &str| -> Result<Tensor<3>, TrainError> {
        let values = find_tensor(tensors, name, &shape)?.values.clone();
        Ok(Tensor::from_data(TensorData::new(values, shape), device))
    };
    let c = if recipe.model.recurrence().has_cell_state() { Some(read("c")?) } else { None };
    Ok(Some(State::new(read("h")?, c)))
}
