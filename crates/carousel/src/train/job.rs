//! What the loop asks of a task.

use std::path::Path;

use burn::tensor::Tensor;
use serde_json::Value;

use crate::models::reader::Learned;
use crate::parameters::{NamedParameters, NamedTensor};
use crate::ragged::Batch;
use crate::recipe::TrainRecipe;
use crate::regularize::activation_penalty;
use crate::slices::with_slice;
use crate::train::divergence::diagnosis::{Circumstances, Diagnosis};
use crate::train::{Score, TrainError};

/// What the loop asks of a task.
pub(super) trait Job {
    /// What is trained.
    type Model: NamedParameters + Clone;
    /// What one forward pass reads.
    type Batch: Work;

    fn model(&self) -> &Self::Model;

    fn model_mut(&mut self) -> &mut Self::Model;

    /// Updates that the recipe asks for.
    fn steps(&self) -> u64;

    /// Moves on, and returns what the next update learns from: one batch, or several whose gradients are
    /// added up.
    fn next(&mut self) -> Vec<Self::Batch>;

    /// Why what an update learns from could not be read, where it could not.
    fn failure(&self) -> Option<TrainError> {
        None
    }

    /// Factor on the learning rate of the update under way.
    fn rate(&self) -> f64 {
        1.0
    }

    /// What is to become small on a batch, as a graph.
    fn objective(&mut self, batch: &Self::Batch) -> Objective;

    /// Looks more closely than the loop does at what broke on the batches of an update, and saves what it began with in a
    /// file. `None`, the default: the loop looks into the stacks that the model called.
    fn diagnose(
        &mut self,
        batches: &[Self::Batch],
        path: &Path,
        step: u64,
        told: &Circumstances<'_>,
    ) -> Option<Diagnosis> {
        let _ = (batches, path, step, told);
        None
    }

    /// How far the data was read; `None` where it has no end.
    fn pass(&self) -> Option<Pass>;

    /// Whether there is something to validate on.
    fn validates(&self) -> bool;

    /// Measures a model on what it is validated on.
    fn validate(&self, model: &Self::Model) -> Result<Option<Measured>, TrainError>;

    /// Measures a model on what is kept for the end.
    fn test(&self, model: &Self::Model) -> Result<Option<Measured>, TrainError>;

    /// Something that a model writes, for people to see how it does.
    fn sample(&self, model: &Self::Model, seed: u64) -> Option<String>;

    /// Where in the data the job is.
    fn place(&self) -> Result<Value, serde_json::Error>;

    /// The state that is carried to the next batch.
    fn carried(&self) -> Vec<NamedTensor>;

    /// Goes to a place and takes over a state that were saved.
    fn restore(&mut self, place: &Value, carried: &[NamedTensor]) -> Result<(), TrainError>;
}

/// What a batch holds.
pub(super) trait Work {
    /// What the loss is a mean of, at least 1.
    fn targets(&self) -> usize;

    /// How much they weigh together in that mean, above 0.
    fn weight(&self) -> f64 {
        self.targets() as f64
    }

    /// Steps of all sequences.
    fn frames(&self) -> usize;
}

/// What an update makes smaller.
pub(super) struct Objective {
    /// The mean loss over a batch's targets `[1]`, with all penalties.
    pub(super) whole: Tensor<1>,
    /// The mean loss alone.
    pub(super) mean: f64,
}

impl Objective {
    /// A loss without penalties.
    pub(super) fn plain(loss: Tensor<1>) -> Objective {
        Objective { mean: f64::from(with_slice(&loss, |loss| loss[0])), whole: loss }
    }

    /// The loss of a model that learns, with the prices that a recipe puts on what its last layer gives.
    pub(super) fn priced(learned: Learned, train: &TrainRecipe, batch: &Batch) -> Objective {
        let Learned { loss, raw, dropped } = learned;
        prices(train, 1.0, raw, dropped, batch).into_iter().fold(Objective::plain(loss), Objective::with)
    }

    /// Adds a penalty.
    pub(super) fn with(self, penalty: Tensor<1>) -> Objective {
        Objective { whole: self.whole + penalty, ..self }
    }
}

/// A share of the prices that a recipe puts on what a last layer gives at the frames of a batch: on its size after
/// dropout, and on how it changes before that.
pub(super) fn prices(
    train: &TrainRecipe,
    share: f64,
    raw: Tensor<2>,
    dropped: Tensor<2>,
    batch: &Batch,
) -> Vec<Tensor<1>> {
    let mut all = Vec::new();
    // A batch of sequences without steps gives nothing that could be large.
    if train.activation_penalty > 0.0 && batch.frames() > 0 {
        all.push(activation_penalty(dropped, batch, train.activation_penalty * share, 0.0));
    }
    if train.temporal_penalty > 0.0 && batch.frames() > 0 {
        all.push(activation_penalty(raw, batch, 0.0, train.temporal_penalty * share));
    }
    all
}

/// How good a model is on some data.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Measured {
    /// Summed over the targets.
    pub(super) loss: f64,
    pub(super) targets: usize,
    /// Answers that are right, of how many; `None` where there is no right and wrong.
    pub(super) answers: Option<(usize, usize)>,
    /// What else the task is measured by.
    pub(super) scores: Vec<Score>,
    /// What the best checkpoint is chosen by, higher is better; `None`: the loss.
    pub(super) criterion: Option<f64>,
}

impl Measured {
    /// Both together, but for scores and criterion.
    pub(super) fn plus(self, other: Measured) -> Measured {
        let (right, count) = self.answers.unwrap_or_default();
        Measured {
            loss: self.loss + other.loss,
            targets: self.targets + other.targets,
            answers: other.answers.map(|answers| (right + answers.0, count + answers.1)),
            ..Measured::default()
        }
    }

    /// The mean loss.
    pub(super) fn mean(&self) -> f64 {
        self.loss / self.targets.max(1) as f64
    }

    /// The share of right answers; `None` where there is no right and wrong.
    pub(super) fn accuracy(&self) -> Option<f64> {
        self.answers.map(|(right, count)| right as f64 / count.max(1) as f64)
    }
}

/// How far the data was read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pass {
    /// Passes over the data so far, with the part of the one under way.
    pub(super) epochs: f64,
    /// Complete passes before the one under way.
    pub(super) passes: u64,
    /// The pass under way has just begun: nothing of it but the last batch was read.
    pub(super) began: bool,
    /// A pass has just ended.
    pub(super) ended: bool,
}

/// What a run learns from, in numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) vocabulary: Option<usize>,
    pub(super) train_tokens: Option<usize>,
    pub(super) valid_tokens: Option<usize>,
}
