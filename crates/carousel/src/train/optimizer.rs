//! Update rules on a model's parameters, with clipping by the global norm.

use burn::tensor::Tensor;
use carousel_kernels::optim::{Adam, RmsProp, Sgd, sum_of_squares};

use crate::fused::with_slice;
use crate::parameters::{NamedParameters, NamedTensor};
use crate::recipe::{self, TrainRecipe};
use crate::train::checkpoint::{CheckpointError, find_tensor};

/// PyTorch's default, and what its users get.
const RMSPROP_ALPHA: f32 = 0.99;
const RMSPROP_EPSILON: f32 = 1e-8;

/// The arithmetic of one update.
#[derive(Clone, Copy, Debug)]
enum Rule {
    Sgd(Sgd),
    RmsProp(RmsProp),
    Adam(Adam),
}

impl Rule {
    /// Names of the running values that each parameter has.
    fn running(self) -> &'static [&'static str] {
        match self {
            Rule::Sgd(Sgd { momentum: 0.0, .. }) => &[],
            Rule::Sgd(_) => &["velocity"],
            Rule::RmsProp(_) => &["square"],
            Rule::Adam(_) => &["first", "second"],
        }
    }
}

/// An update rule and its running values.
#[derive(Debug)]
pub struct Optimizer {
    rule: Rule,
    /// Largest global norm; infinite where gradients are left as they are.
    clip_norm: f64,
    /// Updates done.
    step: u64,
    /// Running values of each parameter, in the model's order.
    running: Vec<Vec<NamedTensor>>,
}

/// What an update saw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// Global norm of the gradient before clipping.
    pub norm: f64,
    /// Whether it was too long.
    pub clipped: bool,
}

impl Optimizer {
    /// The recipe's rule for a model, with all running values zero.
    #[must_use]
    pub fn new(recipe: &TrainRecipe, model: &impl NamedParameters) -> Optimizer {
        let learning_rate = recipe.learning_rate as f32;
        let sgd = |momentum| Rule::Sgd(Sgd { learning_rate, momentum, weight_decay: 0.0 });
        let rule = match recipe.optimizer {
            recipe::Optimizer::Sgd => sgd(0.0),
            recipe::Optimizer::Momentum => sgd(recipe.momentum as f32),
            recipe::Optimizer::RmsProp => {
                Rule::RmsProp(RmsProp { learning_rate, alpha: RMSPROP_ALPHA, epsilon: RMSPROP_EPSILON })
            }
            recipe::Optimizer::Adam => Rule::Adam(Adam { learning_rate, ..Adam::default() }),
        };
        let running = model.parameters().into_iter().map(|(name, parameter)| {
            let shape = parameter.shape();
            let count = shape.iter().product();
            let values = rule.running().iter().map(|value| NamedTensor {
                name: format!("{name}.{value}"),
                shape: shape.clone(),
                values: vec![0.0; count],
            });
            values.collect()
        });
        let clip_norm = if recipe.clip_norm > 0.0 { recipe.clip_norm } else { f64::INFINITY };
        Optimizer { rule, clip_norm, step: 0, running: running.collect() }
    }

    /// Changes the parameters in place. `gradients` are in the model's order, as
    /// [`NamedParameters::take_gradients`] gives them. A gradient that is not finite changes nothing; the
    /// norm tells.
    pub fn update(&mut self, model: &mut impl NamedParameters, gradients: &[Tensor<1>]) -> Update {
        let squares: f64 = gradients.iter().map(|gradient| with_slice(gradient, sum_of_squares)).sum();
        let norm = squares.sqrt();
        if !norm.is_finite() {
            return Update { norm, clipped: false };
        }
        let clipped = norm > self.clip_norm;
        let scale = if clipped { (self.clip_norm / norm) as f32 } else { 1.0 };
        self.step += 1;
        let parameters = model.parameters_mut().into_iter().zip(gradients).zip(&mut self.running);
        for (((_, mut parameter), gradient), running) in parameters {
            let mut running = running.iter_mut().map(|tensor| &mut tensor.values[..]);
            parameter.with_slice_mut(|parameter| {
                with_slice(gradient, |gradient| match (self.rule, running.next(), running.next()) {
                    (Rule::Adam(adam), Some(first), Some(second)) => {
                        adam.step(self.step, scale, parameter, gradient, first, second)
                    }
                    (Rule::RmsProp(rmsprop), Some(square), _) => {
                        rmsprop.step(scale, parameter, gradient, square)
                    }
                    (Rule::Sgd(sgd), velocity, _) => sgd.step(scale, parameter, gradient, velocity),
                    (rule, ..) => unreachable!("{rule:?} was made with its running values"),
                })
                .expect("running values are as long as their parameters");
            });
        }
        Update { norm, clipped }
    }

    /// Copies of all running values: `output.weight.first`, …
    #[must_use]
    pub fn named_tensors(&self) -> Vec<NamedTensor> {
        self.running.iter().flatten().cloned().collect()
    }

    /// Continues after `step` updates with saved running values. On an error nothing is changed.
    ///
    /// # Errors
    /// [`CheckpointError`] when a value is missing or has another shape.
    pub fn load(&mut self, step: u64, tensors: &[NamedTensor]) -> Result<(), CheckpointError> {
        for own in self.running.iter().flatten() {
            find_tensor(tensors, &own.name, &own.shape)?;
        }
        for own in self.running.iter_mut().flatten() {
            own.values.clone_from(&find_tensor(tensors, &own.name, &own.shape)?.values);
        }
        self.step = step;
        Ok(())
    }
}
