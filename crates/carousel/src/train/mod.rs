//! Training: the loop, its checkpoints, and measuring what came out.
//!
//! Nothing here prints. What happens is told as [`Event`]s; whoever receives them draws them, and can ask
//! for a stop.

mod average;
mod caption;
pub mod checkpoint;
mod classify;
mod divergence;
mod documents;
mod evaluate;
mod examples;
mod forecast;
mod job;
mod language_model;
mod optimizer;
mod prepare;
mod schedule;
mod synthetic;
mod tag;
mod tbptt;
mod trainer;
mod translate;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use average::{Average, Averaging};
pub use caption::{CAPTIONS, CaptionEvaluation, CaptionedExample, caption, evaluate_captioner};
pub use classify::{
    ClassEvaluation, EVALUATION, WrongExample, classify, evaluate_classifier, evaluate_large_classifier,
};
pub use divergence::{Diagnosis, Origin, Way, replay};
pub use documents::learned_lines;
pub use evaluate::{Evaluation, evaluate, evaluate_large, evaluate_stepwise};
pub use forecast::{Contest, DrawnForecast, FORECASTS, ForecastEvaluation, evaluate_forecaster, forecast};
pub use language_model::language_model;
pub use optimizer::{Clip, Optimizer, Update};
pub use prepare::{Prepared, prepare};
pub(crate) use prepare::{read_sides, reverse};
pub use schedule::{Moment, Schedule};
pub use synthetic::{adding, copy};
pub use tag::{TagEvaluation, evaluate_large_tagger, evaluate_tagger, tag};
pub use tbptt::{Carried, Place, StateShape, Tbptt};
pub use translate::{TRANSLATIONS, TranslateEvaluation, TranslationExample, evaluate_translator, translate};

use crate::config_error::ConfigError;
use crate::data::{Counts, DataError, Document, GivenPaths, Lengths, PairCounts, list_files};
use crate::decode::sampling::Sampling;
use crate::parameters::LoadError;
use crate::recipe::{Named, Recipe, Task};
use crate::recurrent::Precision;
use crate::run::{RunError, RunFolder};
use crate::saved::OpenError;
use crate::train::checkpoint::CheckpointError;

/// Trains what a recipe describes, whatever its task. `sources` are read by the tasks that learn from text.
///
/// # Errors
/// As the function of the task: [`language_model`], [`adding`], [`copy`], [`classify`], [`tag`], [`caption`], [`translate`] or
/// [`forecast`].
pub fn train(
    run: &RunFolder,
    recipe: &Recipe,
    sources: &Sources,
    start: Start,
    on_event: &mut dyn FnMut(&Event<'_>) -> Control,
) -> Result<Summary, TrainError> {
    match recipe.task {
        Task::Lm => language_model(run, recipe, sources, start, on_event),
        Task::Adding => adding(run, recipe, start, on_event),
        Task::Copy => copy(run, recipe, start, on_event),
        Task::Classify => classify(run, recipe, sources, start, on_event),
        Task::Tag => tag(run, recipe, sources, start, on_event),
        Task::Caption => caption(run, recipe, sources, start, on_event),
        Task::Translate => translate(run, recipe, sources, start, on_event),
        Task::Forecast => forecast(run, recipe, sources, start, on_event),
    }
}

/// A measure of a model by name: `accuracy`, `macro_f1`, `span_f1`, `bleu`. Higher is better, but for
/// `token_error_rate` and the errors of forecasts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Its name.
    pub name: String,
    /// Its value, a share from 0 to 1; of `bleu` and `chrf` from 0 to 100, of `mae`, `rmse` and `pinball` in the units
    /// of the data.
    pub value: f64,
}

impl Score {
    pub(crate) fn new(name: &str, value: f64) -> Score {
        Score { name: name.to_owned(), value }
    }
}

/// Something that happened during training. Losses are in nats per token; of the adding problem mean squared
/// errors.
#[derive(Clone, Debug, PartialEq)]
pub enum Event<'a> {
    /// Examples were read; the model is built next.
    Examples {
        /// What each part holds.
        parts: &'a [PartStatistics],
    },
    /// Pairs were read; the model is built next.
    Pairs {
        /// What became of the pairs of training, validation and test.
        parts: &'a [PairCounts; 3],
        /// Places that a source and a target may take, `<sos>` and `<eos>` included.
        max_len: [usize; 2],
        /// Tokens of the source and of the target.
        vocabularies: [usize; 2],
    },
    /// Held-out text was read that has tokens which the vocabulary has not.
    Unknown {
        /// `"validation"` or `"test"`.
        part: &'static str,
        /// How many are to be predicted.
        unknown: usize,
        /// Of how many.
        tokens: usize,
    },
    /// All is read and built; the first step comes next.
    Started {
        /// Trainable numbers in the model.
        parameters: usize,
        /// `V`; `None` where there are no tokens.
        vocabulary: Option<usize>,
        /// Tokens to learn from; `None` where sequences are made on the fly.
        train_tokens: Option<usize>,
        /// Tokens to validate on; 0 where there are none.
        valid_tokens: Option<usize>,
        /// Steps in all.
        steps: u64,
        /// The step that a resumed run continues after.
        resumed_at: Option<u64>,
        /// What a user should hear about the checkpoint that was resumed from.
        note: Option<String>,
    },
    /// A step was done. Told after each, so that a wish to stop is heard at once.
    Stepped {
        /// Steps so far.
        step: u64,
    },
    /// Some steps were done, `train.log_every` of them or fewer.
    Step {
        /// Steps so far.
        step: u64,
        /// Steps in all.
        steps: u64,
        /// Passes over the data so far; `None` where it has no end.
        epoch: Option<f64>,
        /// Mean loss since the last such event.
        loss: f64,
        /// Global norm of the last step's gradient, before clipping.
        gradient_norm: f64,
        /// Share of the steps since the last such event that were clipped.
        clipped: f64,
        /// Of the update rule.
        learning_rate: f64,
        /// Since the last such event.
        tokens_per_second: f64,
        /// An estimate.
        seconds_left: f64,
    },
    /// The model was measured on the validation part.
    Validated {
        /// Steps so far.
        step: u64,
        /// Passes over the data so far; `None` where it has no end.
        epoch: Option<f64>,
        /// The loss.
        loss: f64,
        /// The share of right answers, where there is right and wrong: next tokens, or symbols recalled.
        accuracy: Option<f64>,
        /// What else the task is measured by.
        scores: &'a [Score],
        /// Whether none before was better.
        best: bool,
    },
    /// Something that a run does on its own account.
    Noticed {
        /// Steps so far.
        step: u64,
        /// What, and why.
        what: Notice,
    },
    /// The model wrote something.
    Sampled {
        /// Steps so far.
        step: u64,
        /// What it wrote.
        text: &'a str,
    },
    /// A checkpoint is on the disk.
    Saved {
        /// Steps so far.
        step: u64,
        /// Its folder.
        path: &'a Path,
    },
}

/// What a run does on its own account.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Notice {
    /// The validation loss stands still, so the learning rate falls.
    Plateau {
        /// The new rate.
        learning_rate: f64,
    },
    /// The validation loss stands still, so weights are averaged from here on (NT-ASGD).
    Averaging,
    /// No validation was better for too long, so the run ends.
    EarlyStop {
        /// Validations since the best one.
        validations: usize,
    },
}

/// What the receiver of an event wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Go on.
    Continue,
    /// Finish the step, save, and return.
    Stop,
}

/// The text of an experiment. Where `valid` and `test` are empty, parts of `train` are held out.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// To learn from.
    pub train: Vec<Document>,
    /// To choose the best checkpoint by.
    pub valid: Vec<Document>,
    /// To measure the best checkpoint on, once, at the end.
    pub test: Vec<Document>,
    /// In place of them files that are too large to be held: they are read piece by piece. Language models,
    /// classifiers of texts and taggers of words.
    pub large: Option<LargeSources>,
}

/// Files and folders that are too large to be held, of the three parts.
#[derive(Clone, Debug, Default)]
pub struct LargeSources {
    /// To learn from.
    pub train: Vec<PathBuf>,
    /// To choose the best checkpoint by.
    pub valid: Vec<PathBuf>,
    /// To measure the best checkpoint on.
    pub test: Vec<PathBuf>,
    /// What they are called.
    pub given: GivenPaths,
}

impl LargeSources {
    /// The files of the three parts.
    fn files(&self) -> Result<[Vec<PathBuf>; 3], DataError> {
        let listed = |paths: &[PathBuf]| -> Result<Vec<PathBuf>, DataError> {
            if paths.is_empty() { Ok(Vec::new()) } else { Ok(list_files(paths)?.0) }
        };
        Ok([listed(&self.train)?, listed(&self.valid)?, listed(&self.test)?])
    }
}

/// Examples by the part of their files; `ends` has for each file the number of examples up to its end.
fn by_part<E>(mut examples: Vec<E>, ends: &[usize], files: &[Vec<PathBuf>; 3]) -> [Vec<E>; 3] {
    let end = |files: usize| files.checked_sub(1).map_or(0, |last| ends[last]);
    let test = examples.split_off(end(files[0].len() + files[1].len()));
    let valid = examples.split_off(end(files[0].len()));
    [examples, valid, test]
}

/// The shares of the training data for training, validation and test. Nothing is held out for what was given
/// separately.
#[must_use]
pub fn shares(recipe: &Recipe, sources: &Sources) -> [f64; 3] {
    let [train, valid, test] = recipe.data.split;
    let (no_valid, no_test) = match &sources.large {
        Some(large) => (large.valid.is_empty(), large.test.is_empty()),
        None => (sources.valid.is_empty(), sources.test.is_empty()),
    };
    let held_out = |share: f64, none_given: bool| if none_given { share } else { 0.0 };
    let (kept_valid, kept_test) = (held_out(valid, no_valid), held_out(test, no_test));
    [train + (valid - kept_valid) + (test - kept_test), kept_valid, kept_test]
}

/// What is wrong with a file; of tensors that name none, where they should fit.
fn told(error: &CheckpointError) -> String {
    match error {
        CheckpointError::MissingTensor { .. } | CheckpointError::TensorShape { .. } => {
            format!("the checkpoint does not fit the run's config.toml: {error}")
        }
        _ => error.to_string(),
    }
}

/// Writes a value that was made JSON into a file of a run.
fn write_json(run: &RunFolder, name: &str, text: serde_json::Result<String>) -> Result<(), TrainError> {
    let text = text.map_err(|error| TrainError::State { reason: error.to_string() })?;
    Ok(run.write(name, text + "\n")?)
}

/// The precision that a recipe asks for.
fn precision(recipe: &Recipe) -> Result<Precision, TrainError> {
    let precision = recipe.train.precision;
    match precision.is_available() {
        true => Ok(precision),
        false => Err(TrainError::Precision { name: precision.name() }),
    }
}

/// How a language model writes while it learns: a little safer than its own probabilities.
fn sampling(seed: u64) -> Sampling {
    Sampling { temperature: 0.8, top_k: None, top_p: None, seed }
}

/// What one part of the data holds.
#[derive(Clone, Debug, PartialEq)]
pub struct PartStatistics {
    /// Training, validation or test.
    pub part: &'static str,
    /// How long its sequences are.
    pub lengths: Lengths,
    /// How many there are of each class, or of each tag.
    pub classes: Counts,
}

/// Whether a run begins or goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// From step 0.
    New,
    /// From the latest checkpoint: to the bit as if it had never stopped.
    Resume,
}

/// How a run went. Losses are in nats per token.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Steps done in all.
    pub steps: u64,
    /// Passes over the data; `None` where it has no end.
    pub epochs: Option<f64>,
    /// Mean loss of the last epoch, or of the part of it that was done.
    pub train_loss: f64,
    /// Validation loss of the best checkpoint, the one in `model.safetensors`.
    pub valid_loss: Option<f64>,
    /// Its share of right answers; see [`Event::Validated`].
    pub valid_accuracy: Option<f64>,
    /// What else it was measured by.
    pub valid_scores: Vec<Score>,
    /// Test loss of the best checkpoint.
    pub test_loss: Option<f64>,
    /// What else the best checkpoint was measured by on the test part.
    pub test_scores: Vec<Score>,
    /// Tokens learned from a second, without validation and saving.
    pub tokens_per_second: f64,
    /// Trainable numbers in the model.
    pub parameters: usize,
    /// Whether it was asked to stop before the last step.
    pub stopped: bool,
    /// Whether it ended before the last step because the validation loss stood still.
    pub stopped_early: bool,
}

/// Why a run could not be trained or measured.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The data does not do.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The run's folder does not do.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A saved model does not do.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The sizes of the model cannot be meant.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The checkpoint is of another model.
    #[error("the checkpoint does not fit the run's config.toml: {0}")]
    Load(#[from] LoadError),
    /// A file of a checkpoint, or of a step that broke, does not do.
    #[error("{}", told(.0))]
    Checkpoint(#[from] CheckpointError),
    /// The checkpoint's place in the data is not there.
    #[error("the checkpoint's state.json does not fit: {reason}")]
    State {
        /// What is wrong with it.
        reason: String,
    },
    /// A key needs a validation loss, and there is nothing to validate on.
    #[error(
        "{key} needs something to validate on; give --valid, or a data.split with a second share above 0"
    )]
    NoValidation {
        /// The key and its value.
        key: &'static str,
    },
    /// The warm-up leaves the schedule no step.
    #[error(
        "train.warmup_steps is {warmup}, but the whole run has {steps} steps; lower it or train for longer"
    )]
    Warmup {
        /// Steps of the warm-up.
        warmup: u64,
        /// Steps of the run.
        steps: u64,
    },
    /// The processor has no instructions for the products that are wanted.
    #[error(
        "train.precision is \"{name}\", but this processor has no AVX-512 BF16 instructions; set it to \"f32\""
    )]
    Precision {
        /// The precision's name.
        name: &'static str,
    },
    /// Loss or gradient is not a number any more.
    #[error("step {step}: {what} is not finite{diagnosis}")]
    Diverged {
        /// The step.
        step: u64,
        /// The loss or the gradient.
        what: &'static str,
        /// Where it began, and what to do.
        diagnosis: Box<Diagnosis>,
    },
}
