//! Update rules on a model's parameters, with clipping.

use burn::tensor::Tensor;
use carousel_kernels::optim::{self, Adam, Decay, RmsProp, Sgd, sum_of_squares};

use crate::parameters::{NamedParameters, NamedTensor};
use crate::recipe::{self, TrainRecipe};
use crate::slices::with_slice;
use crate::train::checkpoint::{CheckpointError, find_tensor};

/// How gradients are kept from exploding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Clip {
    /// Not at all.
    None,
    /// All together are scaled down to this norm (Pascanu et al. 2013).
    GlobalNorm(f64),
    /// Each parameter's is scaled down to this norm.
    EachNorm(f64),
    /// Each element is cut off at this absolute value.
    Value(f64),
}

impl TrainRecipe {
    /// How the recipe clips.
    #[must_use]
    pub fn clip(&self) -> Clip {
        let given = |limit: Option<f64>| limit.filter(|&limit| limit > 0.0);
        let norm = given(self.clip_norm).map(Clip::GlobalNorm);
        let each = given(self.clip_each_norm).map(Clip::EachNorm);
        norm.or(each).or(given(self.clip_value).map(Clip::Value)).unwrap_or(Clip::None)
    }
}

/// The arithmetic of one update.
#[derive(Clone, Copy, Debug)]
enum Rule {
    Sgd(Sgd),
    RmsProp(RmsProp),
    Adam(Adam),
}

impl Rule {
    fn new(recipe: &TrainRecipe) -> Rule {
        // The schedule gives the learning rate of each step.
        let learning_rate = 0.0;
        let weight_decay = recipe.weight_decay as f32;
        let epsilon = recipe.epsilon as f32;
        let sgd = |momentum: f64| Rule::Sgd(Sgd { learning_rate, momentum: momentum as f32, weight_decay });
        let adam = |decay| {
            let (beta1, beta2) = (recipe.beta1 as f32, recipe.beta2 as f32);
            Rule::Adam(Adam { learning_rate, beta1, beta2, epsilon, weight_decay, decay })
        };
        match recipe.optimizer {
            recipe::Optimizer::Sgd | recipe::Optimizer::NtAsgd => sgd(0.0),
            recipe::Optimizer::Momentum => sgd(recipe.momentum),
            recipe::Optimizer::RmsProp => {
                let alpha = recipe.alpha as f32;
                Rule::RmsProp(RmsProp { learning_rate, alpha, epsilon, weight_decay })
            }
            recipe::Optimizer::Adam => adam(Decay::Gradient),
            recipe::Optimizer::AdamW => adam(Decay::Decoupled),
        }
    }

    /// Names of the running values that each parameter has.
    fn running(self) -> &'static [&'static str] {
        match self {
            Rule::Sgd(Sgd { momentum: 0.0, .. }) => &[],
            Rule::Sgd(_) => &["velocity"],
            Rule::RmsProp(_) => &["square"],
            Rule::Adam(_) => &["first", "second"],
        }
    }

    fn with_learning_rate(self, rate: f64) -> Rule {
        let learning_rate = rate as f32;
        match self {
            Rule::Sgd(rule) => Rule::Sgd(Sgd { learning_rate, ..rule }),
            Rule::RmsProp(rule) => Rule::RmsProp(RmsProp { learning_rate, ..rule }),
            Rule::Adam(rule) => Rule::Adam(Adam { learning_rate, ..rule }),
        }
    }
}

/// An update rule and its running values.
#[derive(Debug)]
pub struct Optimizer {
    rule: Rule,
    clip: Clip,
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
    /// Whether any of it was clipped.
    pub clipped: bool,
}

impl Optimizer {
    /// The recipe's rule for a model, with all running values zero.
    #[must_use]
    pub fn new(recipe: &TrainRecipe, model: &impl NamedParameters) -> Optimizer {
        let rule = Rule::new(recipe);
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
        Optimizer { rule, clip: recipe.clip(), step: 0, running: running.collect() }
    }

    /// Changes the parameters in place, with this learning rate. `gradients` are in the model's order, as
    /// [`NamedParameters::take_gradients`] gives them. A gradient that is not finite changes nothing; the
    /// norm tells.
    pub fn update(
        &mut self,
        model: &mut impl NamedParameters,
        gradients: &[Tensor<1>],
        learning_rate: f64,
    ) -> Update {
        let squares: Vec<f64> =
            gradients.iter().map(|gradient| with_slice(gradient, sum_of_squares)).collect();
        let norm = squares.iter().sum::<f64>().sqrt();
        if !norm.is_finite() {
            return Update { norm, clipped: false };
        }
        let scaled = |norm: f64, limit: f64| if norm > limit { (limit / norm) as f32 } else { 1.0 };
        let clips: Vec<optim::Clip> = squares
            .iter()
            .map(|square| match self.clip {
                Clip::None => optim::Clip::NONE,
                Clip::GlobalNorm(limit) => optim::Clip::by(scaled(norm, limit)),
                Clip::EachNorm(limit) => optim::Clip::by(scaled(square.sqrt(), limit)),
                Clip::Value(limit) => optim::Clip { limit: limit as f32, ..optim::Clip::NONE },
            })
            .collect();
        let clipped = match self.clip {
            Clip::Value(limit) => {
                gradients.iter().any(|gradient| f64::from(with_slice(gradient, optim::largest)) > limit)
            }
            _ => clips.iter().any(|clip| clip.scale < 1.0),
        };
        self.step += 1;
        let rule = self.rule.with_learning_rate(learning_rate);
        let parameters = model.parameters_mut().into_iter().zip(gradients).zip(&mut self.running);
        for ((((_, mut parameter), gradient), running), clip) in parameters.zip(clips) {
            let mut running = running.iter_mut().map(|tensor| &mut tensor.values[..]);
            parameter.with_slice_mut(|parameter| {
                with_slice(gradient, |gradient| match (rule, running.next(), running.next()) {
                    (Rule::Adam(adam), Some(first), Some(second)) => {
                        adam.step(self.step, clip, parameter, gradient, first, second)
                    }
                    (Rule::RmsProp(rmsprop), Some(square), _) => {
                        rmsprop.step(clip, parameter, gradient, square)
                    }
                    (Rule::Sgd(sgd), velocity, _) => sgd.step(clip, parameter, gradient, velocity),
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
