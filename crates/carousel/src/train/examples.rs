//! What tasks over a set of separate examples have in common: passes in random order, batches of about equal
//! length, and where in them a run is.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::data::{Fill, Passes};
use crate::parameters::{NamedParameters, NamedTensor};
use crate::recipe::Recipe;
use crate::regularize::Noise;
use crate::train::TrainError;
use crate::train::trainer::{Job, Measured, Objective, Pass, Work};

/// What a task does with its examples.
pub(super) trait ExampleTask {
    type Model: NamedParameters + Clone;
    type Example;

    /// Steps of an example.
    fn length(&self, example: &Self::Example) -> usize;

    /// What of an example counts in the loss.
    fn targets(&self, example: &Self::Example) -> usize;

    /// The mean loss over a batch's targets `[1]`, and its value, at an update counted from 0.
    fn objective(
        &self,
        model: &Self::Model,
        batch: &[&Self::Example],
        noise: Noise,
        update: u64,
    ) -> Objective;

    /// How good a model is.
    fn measure(&self, model: &Self::Model, examples: &[Self::Example]) -> Measured;

    /// How good the best model is on what was kept for the end, where that is measured more closely.
    fn test(&self, model: &Self::Model, examples: &[Self::Example]) -> Measured {
        self.measure(model, examples)
    }

    /// What a model makes of some examples, for people to see how it does.
    fn sample(&self, _model: &Self::Model, _examples: &[Self::Example]) -> Option<String> {
        None
    }
}

/// The examples of a run.
pub(super) struct Parts<E> {
    pub(super) train: Vec<E>,
    pub(super) valid: Vec<E>,
    pub(super) test: Vec<E>,
}

/// Trains a task on its examples.
pub(super) struct ExampleJob<'a, T: ExampleTask> {
    task: T,
    recipe: &'a Recipe,
    model: T::Model,
    parts: Parts<T::Example>,
    passes: Passes,
    place: Place,
    /// The batches of the pass under way.
    order: Vec<Vec<usize>>,
}

/// Where in the data a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    /// Complete passes.
    passes: u64,
    /// Batches read of the pass under way.
    batch: usize,
    /// The first batch of the update under way.
    first: usize,
}

/// The examples of a batch.
pub(super) struct Chosen {
    examples: Vec<usize>,
    /// The batch's number in its pass.
    number: usize,
    targets: usize,
    frames: usize,
}

impl Work for Chosen {
    fn targets(&self) -> usize {
        self.targets.max(1)
    }

    fn frames(&self) -> usize {
        self.frames
    }
}

impl<'a, T: ExampleTask> ExampleJob<'a, T> {
    pub(super) fn new(task: T, recipe: &'a Recipe, model: T::Model, parts: Parts<T::Example>) -> Self {
        let lengths = parts.train.iter().map(|example| task.length(example)).collect();
        let fill = match recipe.train.batch_tokens {
            Some(tokens) => Fill::Steps(tokens),
            None => Fill::Examples(recipe.train.batch),
        };
        let passes = Passes::filled(lengths, fill, recipe.seed);
        let order = passes.pass(0);
        ExampleJob { task, recipe, model, parts, passes, place: Place::default(), order }
    }

    /// Updates of a pass.
    fn updates(&self) -> usize {
        self.passes.batches().div_ceil(self.recipe.train.accumulate)
    }
}

impl<T: ExampleTask> Job for ExampleJob<'_, T> {
    type Model = T::Model;
    type Batch = Chosen;

    fn model(&self) -> &T::Model {
        &self.model
    }

    fn model_mut(&mut self) -> &mut T::Model {
        &mut self.model
    }

    fn steps(&self) -> u64 {
        let train = &self.recipe.train;
        match (train.steps, train.epochs) {
            (Some(steps), _) => steps as u64,
            (None, epochs) => (epochs.unwrap_or(1.0) * self.updates() as f64).ceil() as u64,
        }
    }

    fn next(&mut self) -> Vec<Chosen> {
        if self.place.batch == self.order.len() {
            self.place = Place { passes: self.place.passes + 1, batch: 0, first: 0 };
            self.order = self.passes.pass(self.place.passes);
        }
        let first = self.place.batch;
        let end = (first + self.recipe.train.accumulate).min(self.order.len());
        (self.place.first, self.place.batch) = (first, end);
        (first..end)
            .map(|number| {
                let examples = self.order[number].clone();
                let sum = |of: &dyn Fn(&T::Example) -> usize| {
                    examples.iter().map(|&example| of(&self.parts.train[example])).sum()
                };
                let targets = sum(&|example| self.task.targets(example));
                let frames = sum(&|example| self.task.length(example));
                Chosen { examples, number, targets, frames }
            })
            .collect()
    }

    fn objective(&mut self, batch: &Chosen) -> Objective {
        let noise = Noise::new(&[self.recipe.seed, self.place.passes, batch.number as u64]);
        let examples: Vec<&T::Example> =
            batch.examples.iter().map(|&example| &self.parts.train[example]).collect();
        let Place { passes, first, .. } = self.place;
        let update = passes * self.updates() as u64 + (first / self.recipe.train.accumulate) as u64;
        self.task.objective(&self.model, &examples, noise, update)
    }

    fn pass(&self) -> Option<Pass> {
        let Place { passes, batch, first } = self.place;
        let count = self.order.len();
        let epochs = passes as f64 + batch as f64 / count.max(1) as f64;
        Some(Pass { epochs, passes, began: first == 0, ended: batch == count })
    }

    fn validates(&self) -> bool {
        !self.parts.valid.is_empty()
    }

    fn validate(&self, model: &T::Model) -> Result<Option<Measured>, TrainError> {
        let valid = &self.parts.valid;
        Ok((!valid.is_empty()).then(|| self.task.measure(model, valid)))
    }

    fn test(&self, model: &T::Model) -> Result<Option<Measured>, TrainError> {
        let test = &self.parts.test;
        Ok((!test.is_empty()).then(|| self.task.test(model, test)))
    }

    fn sample(&self, model: &T::Model, _: u64) -> Option<String> {
        let part = if self.parts.valid.is_empty() { &self.parts.train } else { &self.parts.valid };
        self.task.sample(model, part)
    }

    fn place(&self) -> Result<Value, serde_json::Error> {
        serde_json::to_value(self.place)
    }

    fn carried(&self) -> Vec<NamedTensor> {
        Vec::new()
    }

    fn restore(&mut self, place: &Value, _: &[NamedTensor]) -> Result<(), TrainError> {
        let state = |reason: String| TrainError::State { reason };
        let place = Place::deserialize(place).map_err(|error| state(error.to_string()))?;
        if place.batch > self.order.len() || place.first > place.batch {
            return Err(state(format!("batch {} of {}", place.batch, self.order.len())));
        }
        self.place = place;
        self.order = self.passes.pass(place.passes);
        Ok(())
    }
}
