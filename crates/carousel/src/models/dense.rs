//! Feed-forward layers: the net without a recurrence that the others are compared with.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, activation};

use crate::init::Initializer;
use crate::parameters::{NamedParameters, Parameter, ParameterMut, parameter};
use crate::recurrent::ConfigError;

/// Keeps the divisor of a normalisation from zero.
const EPSILON: f64 = 1e-5;

/// The non-linearity of a feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenseActivation {
    /// `max(0, x)`.
    Relu,
    /// Hyperbolic tangent.
    Tanh,
    /// `1 / (1 + e⁻ˣ)`.
    Sigmoid,
    /// `x Φ(x)` (Hendrycks and Gimpel 2016).
    Gelu,
    /// `x / (1 + e⁻ˣ)`, also called swish.
    Silu,
    /// `max(0.01 x, x)`.
    LeakyRelu,
    /// `ln(1 + eˣ)`.
    Softplus,
}

impl DenseActivation {
    /// Every one.
    pub const ALL: [DenseActivation; 7] = [
        DenseActivation::Relu,
        DenseActivation::Tanh,
        DenseActivation::Sigmoid,
        DenseActivation::Gelu,
        DenseActivation::Silu,
        DenseActivation::LeakyRelu,
        DenseActivation::Softplus,
    ];

    /// The name in recipes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            DenseActivation::Relu => "relu",
            DenseActivation::Tanh => "tanh",
            DenseActivation::Sigmoid => "sigmoid",
            DenseActivation::Gelu => "gelu",
            DenseActivation::Silu => "silu",
            DenseActivation::LeakyRelu => "leaky-relu",
            DenseActivation::Softplus => "softplus",
        }
    }

    fn of(self, x: Tensor<2>) -> Tensor<2> {
        match self {
            DenseActivation::Relu => activation::relu(x),
            DenseActivation::Tanh => x.tanh(),
            DenseActivation::Sigmoid => activation::sigmoid(x),
            DenseActivation::Gelu => activation::gelu(x),
            DenseActivation::Silu => x.clone() * activation::sigmoid(x),
            DenseActivation::LeakyRelu => activation::leaky_relu(x, 0.01),
            DenseActivation::Softplus => activation::softplus(x, 1.0),
        }
    }
}

/// What is normalised before the non-linearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// Nothing.
    None,
    /// The units of each row (Ba et al. 2016).
    Layer,
}

/// Sizes of a [`Dense`].
#[derive(Clone, Copy, Debug)]
pub struct DenseConfig {
    /// `I`.
    pub input: usize,
    /// `H`, units of every layer.
    pub hidden: usize,
    /// Layers.
    pub layers: usize,
    /// Their non-linearity.
    pub activation: DenseActivation,
    /// What is normalised before it.
    pub norm: Norm,
}

impl DenseConfig {
    /// Makes the layers, weights as PyTorch's linear layers have them.
    ///
    /// # Errors
    /// [`ConfigError::Zero`] when a size is zero.
    pub fn init(&self, random: &mut Initializer, device: &Device) -> Result<Dense, ConfigError> {
        for (what, size) in [("input", self.input), ("hidden", self.hidden), ("layers", self.layers)] {
            if size == 0 {
                return Err(ConfigError::Zero { what });
            }
        }
        let hidden = self.hidden;
        let layers = (0..self.layers).map(|layer| {
            let input = if layer == 0 { self.input } else { hidden };
            let bound = 1.0 / (input as f64).sqrt();
            Layer {
                weight: parameter(random.uniform(hidden * input, bound), [hidden, input], device),
                bias: parameter(random.uniform(hidden, bound), [hidden], device),
                norm: (self.norm == Norm::Layer).then(|| Affine {
                    scale: parameter(vec![1.0; hidden], [hidden], device),
                    shift: parameter(vec![0.0; hidden], [hidden], device),
                }),
            }
        });
        Ok(Dense { layers: layers.collect(), activation: self.activation })
    }
}

/// Layers of `f(norm(x Wᵀ + b))`.
#[derive(Module, Debug)]
pub struct Dense {
    layers: Vec<Layer>,
    #[module(skip)]
    activation: DenseActivation,
}

#[derive(Module, Debug)]
struct Layer {
    weight: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
    norm: Option<Affine>,
}

/// What a normalised value is multiplied with and moved by.
#[derive(Module, Debug)]
struct Affine {
    scale: Param<Tensor<1>>,
    shift: Param<Tensor<1>>,
}

impl Dense {
    /// `x` `[N, I]` to `[N, H]`.
    ///
    /// # Panics
    /// When `x` has another width.
    #[must_use]
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.layers.iter().fold(x, |x, layer| {
            let sums = x.matmul(layer.weight.val().transpose()) + layer.bias.val().unsqueeze_dim::<2>(0);
            let sums = layer.norm.as_ref().map_or(sums.clone(), |affine| affine.normalise(sums));
            self.activation.of(sums)
        })
    }
}

impl Affine {
    fn normalise(&self, x: Tensor<2>) -> Tensor<2> {
        let centred = x.clone() - x.mean_dim(1);
        let variance = centred.clone().powi_scalar(2).mean_dim(1);
        let unit = centred / (variance + EPSILON).sqrt();
        unit * self.scale.val().unsqueeze_dim::<2>(0) + self.shift.val().unsqueeze_dim::<2>(0)
    }
}

/// `0.weight`, `0.bias`, `0.scale`, `0.shift`, `1.weight`, …
impl NamedParameters for Dense {
    fn parameters(&self) -> Vec<(String, Parameter<'_>)> {
        let mut all = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            all.push((format!("{index}.weight"), Parameter::Matrix(&layer.weight)));
            all.push((format!("{index}.bias"), Parameter::Vector(&layer.bias)));
            if let Some(affine) = &layer.norm {
                all.push((format!("{index}.scale"), Parameter::Vector(&affine.scale)));
                all.push((format!("{index}.shift"), Parameter::Vector(&affine.shift)));
            }
        }
        all
    }

    fn parameters_mut(&mut self) -> Vec<(String, ParameterMut<'_>)> {
        let mut all = Vec::new();
        for (index, layer) in self.layers.iter_mut().enumerate() {
            all.push((format!("{index}.weight"), ParameterMut::Matrix(&mut layer.weight)));
            all.push((format!("{index}.bias"), ParameterMut::Vector(&mut layer.bias)));
            if let Some(affine) = &mut layer.norm {
                all.push((format!("{index}.scale"), ParameterMut::Vector(&mut affine.scale)));
                all.push((format!("{index}.shift"), ParameterMut::Vector(&mut affine.shift)));
            }
        }
        all
    }
}
