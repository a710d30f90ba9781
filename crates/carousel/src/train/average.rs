//! Running means of a model's weights, to be used in their place.

use carousel_kernels::optim;

use crate::parameters::{NamedParameters, NamedTensor};
use crate::recipe::{AverageName, TrainRecipe};
use crate::train::checkpoint::{CheckpointError, find_tensor};

/// How a mean weighs what comes later.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Averaging {
    /// Every step counts the same (Polyak and Juditsky 1992).
    Mean,
    /// Each step keeps this share of what was before.
    Exponential(f64),
}

impl TrainRecipe {
    /// How the recipe averages weights, and the step after which it begins.
    #[must_use]
    pub fn averaging(&self) -> Option<(Averaging, u64)> {
        let from = self.average_from as u64;
        match self.average {
            AverageName::None => None,
            AverageName::Mean => Some((Averaging::Mean, from)),
            AverageName::Exponential => Some((Averaging::Exponential(self.average_decay), from)),
        }
    }
}

/// The mean of a model's weights over some steps. Buffers are the model's last: they are means already.
#[derive(Clone, Debug, PartialEq)]
pub struct Average {
    how: Averaging,
    /// Steps that are in it, at least 1.
    steps: u64,
    values: Vec<NamedTensor>,
}

impl Average {
    /// Begins with a model's weights as they are.
    #[must_use]
    pub fn new(how: Averaging, model: &impl NamedParameters) -> Average {
        Average { how, steps: 1, values: model.named_tensors() }
    }

    /// Goes on with saved values that hold `steps` steps of a model.
    ///
    /// # Errors
    /// [`CheckpointError`] when a value is missing or has another shape.
    pub fn resume(
        how: Averaging,
        steps: u64,
        model: &impl NamedParameters,
        tensors: &[NamedTensor],
    ) -> Result<Average, CheckpointError> {
        let own = model.named_tensors().into_iter();
        let values = own.map(|own| find_tensor(tensors, &own.name, &own.shape).cloned());
        Ok(Average { how, steps, values: values.collect::<Result<_, _>>()? })
    }

    /// Takes a model's weights in.
    ///
    /// # Panics
    /// When it is another model.
    pub fn add(&mut self, model: &impl NamedParameters) {
        self.steps += 1;
        let share = match self.how {
            Averaging::Mean => 1.0 / self.steps as f64,
            Averaging::Exponential(decay) => 1.0 - decay,
        };
        let mut means = self.values.iter_mut();
        for ((name, parameter), mean) in model.parameters().into_iter().zip(&mut means) {
            assert_eq!(name, mean.name, "the average is of another model");
            parameter
                .with_slice(|values| optim::average(&mut mean.values, values, share as f32))
                .expect("a parameter keeps its size");
        }
        for ((_, buffer), last) in model.buffers().into_iter().zip(means) {
            buffer.with_slice(|values| last.values.copy_from_slice(values));
        }
    }

    /// Steps that are in it.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The mean weights, under the model's names.
    #[must_use]
    pub fn values(&self) -> &[NamedTensor] {
        &self.values
    }
}
