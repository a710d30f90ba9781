//! Training: the loop, its checkpoints, and measuring what came out.
//!
//! Nothing here prints. What happens is told as [`Event`]s; whoever receives them draws them, and can ask
//! for a stop.

pub mod checkpoint;
mod diagnose;
mod evaluate;
mod language_model;
mod optimizer;

use std::path::Path;

pub use diagnose::{BrokenBatch, Diagnosis, Origin, Way, replay};
pub use evaluate::{Evaluation, evaluate, evaluate_stepwise};
pub use language_model::language_model;
pub use optimizer::Optimizer;

use crate::data::{DataError, Document};
use crate::parameters::LoadError;
use crate::recurrent::ConfigError;
use crate::run::RunError;
use crate::saved::OpenError;
use crate::train::checkpoint::CheckpointError;

/// Something that happened during training. Losses are in nats per token.
#[derive(Clone, Debug, PartialEq)]
pub enum Event<'a> {
    /// All is read and built; the first step comes next.
    Started {
        /// Trainable numbers in the model.
        parameters: usize,
        /// `V`.
        vocabulary: usize,
        /// Tokens to learn from.
        train_tokens: usize,
        /// Tokens to validate on; 0 where there are none.
        valid_tokens: usize,
        /// Steps in all.
        steps: u64,
        /// The step that a resumed run continues after.
        resumed_at: Option<u64>,
        /// What a user should hear about the checkpoint that was resumed from.
        note: Option<String>,
    },
    /// Some steps were done, `train.log_every` of them or fewer.
    Step {
        /// Steps so far.
        step: u64,
        /// Steps in all.
        steps: u64,
        /// Passes over the data so far.
        epoch: f64,
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
        /// Passes over the data so far.
        epoch: f64,
        /// The loss.
        loss: f64,
        /// Whether none before was lower.
        best: bool,
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
    /// Passes over the data.
    pub epochs: f64,
    /// Mean loss of the last epoch, or of the part of it that was done.
    pub train_loss: f64,
    /// Validation loss of the best checkpoint, the one in `model.safetensors`.
    pub valid_loss: Option<f64>,
    /// Test loss of the best checkpoint.
    pub test_loss: Option<f64>,
    /// Tokens learned from a second, without validation and saving.
    pub tokens_per_second: f64,
    /// Trainable numbers in the model.
    pub parameters: usize,
    /// Whether it was asked to stop before the last step.
    pub stopped: bool,
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
    /// The checkpoint is not complete.
    #[error("the checkpoint does not fit the run's config.toml: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The checkpoint's place in the data is not there.
    #[error("the checkpoint's state.json does not fit: {reason}")]
    State {
        /// What is wrong with it.
        reason: String,
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
