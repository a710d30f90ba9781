//! Feed-forward layers: the net without a recurrence that the others are compared with.

use std::ops::RangeInclusive;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData, activation};

use crate::config_error::ConfigError;
use crate::init::Initializer;
use crate::parameters::{parameter, parts};
use crate::regularize::{Noise, Purpose};
use crate::statistics::{By, Running};

/// What the slope of a parametric ReLU starts with.
const FIRST_SLOPE: f64 = 0.25;
/// The slopes that a randomised ReLU draws from below zero (Xu et al. 2015).
const SLOPES: RangeInclusive<f64> = 1.0 / 8.0..=1.0 / 3.0;
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
    /// `x` above zero, `eˣ - 1` below (Clevert et al. 2016).
    Elu,
    /// The ELU with the two factors that keep mean 0 and variance 1 (Klambauer et al. 2017).
    Selu,
    /// The ELU whose slope has no jump: `α (e^(x / α) - 1)` below zero, here with `α = 2` (Barron 2017).
    Celu,
    /// `min(max(0, x), 6)`.
    Relu6,
    /// `x tanh(softplus(x))` (Misra 2019).
    Mish,
    /// `x / 6 + 1 / 2` between 0 and 1.
    HardSigmoid,
    /// `x` between -1 and 1.
    HardTanh,
    /// `x` above zero, `a x` below, with an `a` a layer that is learned from 0.25 on (He et al. 2015).
    ParametricRelu,
    /// `x` above zero, `a x` below, where `a` is drawn from 1/8 to 1/3 for each value while the net learns, and is
    /// the mean of both afterwards (Xu et al. 2015).
    RandomizedRelu,
    /// The larger of two linear maps (Goodfellow et al. 2013): twice the weights.
    Maxout,
}

impl DenseActivation {
    /// Every one.
    pub const ALL: [DenseActivation; 17] = [
        DenseActivation::Relu,
        DenseActivation::Tanh,
        DenseActivation::Sigmoid,
        DenseActivation::Gelu,
        DenseActivation::Silu,
        DenseActivation::LeakyRelu,
        DenseActivation::Softplus,
        DenseActivation::Elu,
        DenseActivation::Selu,
        DenseActivation::Celu,
        DenseActivation::Relu6,
        DenseActivation::Mish,
        DenseActivation::HardSigmoid,
        DenseActivation::HardTanh,
        DenseActivation::ParametricRelu,
        DenseActivation::RandomizedRelu,
        DenseActivation::Maxout,
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
            DenseActivation::Elu => "elu",
            DenseActivation::Selu => "selu",
            DenseActivation::Celu => "celu",
            DenseActivation::Relu6 => "relu6",
            DenseActivation::Mish => "mish",
            DenseActivation::HardSigmoid => "hard-sigmoid",
            DenseActivation::HardTanh => "hard-tanh",
            DenseActivation::ParametricRelu => "parametric-relu",
            DenseActivation::RandomizedRelu => "randomized-relu",
            DenseActivation::Maxout => "maxout",
        }
    }

    /// Linear maps that a unit has.
    fn pieces(self) -> usize {
        if self == DenseActivation::Maxout { 2 } else { 1 }
    }

    /// Of sums `[N, pieces · H]`: `[N, H]`. The slope below zero is that of a parametric ReLU; `seed`, while the net
    /// learns, that of a randomised ReLU's slopes.
    fn of(self, x: Tensor<2>, slope: Option<Tensor<1>>, seed: Option<u64>) -> Tensor<2> {
        match self {
            DenseActivation::Relu => activation::relu(x),
            DenseActivation::Tanh => x.tanh(),
            DenseActivation::Sigmoid => activation::sigmoid(x),
            DenseActivation::Gelu => activation::gelu(x),
            DenseActivation::Silu => activation::silu(x),
            DenseActivation::LeakyRelu => activation::leaky_relu(x, 0.01),
            DenseActivation::Softplus => activation::softplus(x, 1.0),
            DenseActivation::Elu => activation::elu(x, 1.0),
            DenseActivation::Selu => activation::selu(x),
            DenseActivation::Celu => activation::celu(x, 2.0),
            DenseActivation::Relu6 => activation::relu6(x),
            DenseActivation::Mish => activation::mish(x),
            DenseActivation::HardSigmoid => activation::hard_sigmoid(x, 1.0 / 6.0, 0.5),
            DenseActivation::HardTanh => activation::hardtanh(x, -1.0, 1.0),
            DenseActivation::ParametricRelu => match slope {
                Some(slope) => activation::prelu(x, slope),
                None => activation::leaky_relu(x, FIRST_SLOPE),
            },
            DenseActivation::RandomizedRelu => {
                let (least, most) = SLOPES.into_inner();
                let Some(seed) = seed else { return activation::leaky_relu(x, (least + most) / 2.0) };
                let [rows, width] = x.dims();
                let mut random = Initializer::new(seed);
                let slopes = (0..rows * width).map(|_| (least + (most - least) * random.unit()) as f32);
                let slopes = TensorData::new(slopes.collect::<Vec<_>>(), [rows, width]);
                let slopes = Tensor::from_data(slopes.convert_dtype(x.dtype()), (&x.device(), x.dtype()));
                activation::relu(x.clone()) + x.clamp_max(0.0) * slopes
            }
            DenseActivation::Maxout => {
                let [rows, columns] = x.dims();
                let half = columns / 2;
                x.clone().slice([0..rows, 0..half]).max_pair(x.slice([0..rows, half..columns]))
            }
        }
    }

    /// Of each value alone, for plots and tables; a parametric ReLU with the slope it starts with, a randomised one
    /// with the mean slope. Of maxout, which has two maps, the larger of `x` and `-x`: what it is when one undoes the
    /// other.
    #[must_use]
    pub fn curve(self, x: Tensor<1>) -> Tensor<1> {
        let column = x.unsqueeze_dim::<2>(1);
        let sums = match self.pieces() {
            1 => column,
            _ => Tensor::cat(vec![column.clone(), column.neg()], 1),
        };
        self.of(sums, None, None).squeeze_dim(1)
    }
}

/// What is normalised before the non-linearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// Nothing.
    None,
    /// The units of each row (Ba et al. 2016).
    Layer,
    /// Each unit over the rows of a batch, and by running statistics when the net is used (Ioffe and Szegedy 2015).
    Batch,
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
    /// One layer without a normalisation.
    #[must_use]
    pub fn single(input: usize, hidden: usize, activation: DenseActivation) -> DenseConfig {
        DenseConfig { input, hidden, layers: 1, activation, norm: Norm::None }
    }

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
        let sums = hidden * self.activation.pieces();
        let layers = (0..self.layers).map(|layer| {
            let input = if layer == 0 { self.input } else { hidden };
            let bound = 1.0 / (input as f64).sqrt();
            Layer {
                weight: parameter(random.uniform(sums * input, bound), [sums, input], device),
                bias: parameter(random.uniform(sums, bound), [sums], device),
                norm: (self.norm != Norm::None).then(|| Affine {
                    scale: parameter(vec![1.0; sums], [sums], device),
                    shift: parameter(vec![0.0; sums], [sums], device),
                    running: (self.norm == Norm::Batch).then(|| Running::new(1, sums)),
                }),
                slope: (self.activation == DenseActivation::ParametricRelu)
                    .then(|| parameter(vec![FIRST_SLOPE as f32], [1], device)),
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
    slope: Option<Param<Tensor<1>>>,
}

/// What a normalised value is multiplied with and moved by, and what it is normalised by where that is not its row.
#[derive(Module, Debug)]
struct Affine {
    scale: Param<Tensor<1>>,
    shift: Param<Tensor<1>>,
    #[module(skip)]
    running: Option<Running>,
}

impl Dense {
    /// Weight `[H, I]` and bias of the first layer.
    pub(super) fn first(&self) -> (&Param<Tensor<2>>, &Param<Tensor<1>>) {
        (&self.layers[0].weight, &self.layers[0].bias)
    }

    /// `x` `[N, I]` to `[N, H]`. With `noise` the net learns: batches are normalised by their own statistics, which
    /// the running ones follow, and slopes are random.
    ///
    /// # Panics
    /// When `x` has another width.
    #[must_use]
    pub fn forward(&self, x: Tensor<2>, noise: Option<Noise>) -> Tensor<2> {
        self.layers.iter().enumerate().fold(x, |x, (index, layer)| {
            let sums = x.matmul(layer.weight.val().transpose()) + layer.bias.val().unsqueeze_dim::<2>(0);
            let by = if noise.is_some() { By::Batch } else { By::Running };
            let sums = layer.norm.as_ref().map_or(sums.clone(), |affine| affine.normalise(sums, by));
            let seed = noise.map(|noise| noise.draws(Purpose::Slopes, index));
            self.activation.of(sums, layer.slope.as_ref().map(Param::val), seed)
        })
    }
}

impl Affine {
    fn normalise(&self, x: Tensor<2>, by: By) -> Tensor<2> {
        let unit = match &self.running {
            Some(running) => running.normalise(x, 0, by),
            None => {
                let centred = x.clone() - x.mean_dim(1);
                let variance = centred.clone().powi_scalar(2).mean_dim(1);
                centred / (variance + EPSILON).sqrt()
            }
        };
        unit * self.scale.val().unsqueeze_dim::<2>(0) + self.shift.val().unsqueeze_dim::<2>(0)
    }
}

parts! {
    /// `0.weight`, `0.bias`, `0.scale`, `0.shift`, `0.slope`, `1.weight`, …; `0.running_mean`, …
    Dense { "": layers }
}

parts! { Layer { "weight": weight, "bias": bias, "": norm, "slope": slope } }

parts! { Affine { "scale": scale, "shift": shift, "": running } }

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::NamedParameters;
    use crate::slices::with_slice;

    fn device() -> Device {
        Device::default().autodiff()
    }

    /// Against the formulas, in f64; slopes against differences of them.
    #[test]
    fn curves_are_what_their_formulas_say() {
        let softplus = |x: f64| x.exp().ln_1p();
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let elu = |x: f64, alpha: f64| if x > 0.0 { x } else { alpha * ((x / alpha).exp() - 1.0) };
        // Φ(x) by the integral of its density.
        let normal = |x: f64| {
            let (steps, width) = (20_000, x / 20_000.0);
            let density = |t: f64| (-t * t / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
            0.5 + (0..steps).map(|k| density((f64::from(k) + 0.5) * width) * width).sum::<f64>()
        };
        let formula = |which: DenseActivation, x: f64| match which {
            DenseActivation::Relu => x.max(0.0),
            DenseActivation::Tanh => x.tanh(),
            DenseActivation::Sigmoid => sigmoid(x),
            DenseActivation::Gelu => x * normal(x),
            DenseActivation::Silu => x * sigmoid(x),
            DenseActivation::LeakyRelu => x.max(0.01 * x),
            DenseActivation::Softplus => softplus(x),
            DenseActivation::Elu => elu(x, 1.0),
            DenseActivation::Selu => {
                let (scale, alpha) = (1.050_700_987_355_480_5, 1.673_263_242_354_377_2);
                if x > 0.0 { scale * x } else { scale * alpha * (x.exp() - 1.0) }
            }
            DenseActivation::Celu => elu(x, 2.0),
            DenseActivation::Relu6 => x.clamp(0.0, 6.0),
            DenseActivation::Mish => x * softplus(x).tanh(),
            DenseActivation::HardSigmoid => (x / 6.0 + 0.5).clamp(0.0, 1.0),
            DenseActivation::HardTanh => x.clamp(-1.0, 1.0),
            DenseActivation::ParametricRelu => x.max(0.25 * x),
            DenseActivation::RandomizedRelu => x.max(11.0 / 48.0 * x),
            DenseActivation::Maxout => x.abs(),
        };
        let points = [-7.3f32, -2.6, -0.9, -0.3, 0.2, 0.7, 2.9, 6.5];
        for which in DenseActivation::ALL {
            let x = Tensor::<1>::from_data(points, &device()).require_grad();
            let y = which.curve(x.clone());
            with_slice(&y, |values| {
                for (&x, &value) in points.iter().zip(values) {
                    let wanted = formula(which, f64::from(x));
                    assert!(
                        (f64::from(value) - wanted).abs() < 2e-5,
                        "{which:?} at {x}: {value}, not {wanted}"
                    );
                }
            });
            let slopes = x.grad(&y.sum().backward()).expect("x takes part");
            with_slice(&slopes, |slopes| {
                for (&x, &slope) in points.iter().zip(slopes) {
                    let at = |step: f64| formula(which, f64::from(x) + step);
                    let wanted = (at(1e-4) - at(-1e-4)) / 2e-4;
                    assert!(
                        (f64::from(slope) - wanted).abs() < 1e-3,
                        "{which:?}' at {x}: {slope}, not {wanted}"
                    );
                }
            });
        }
    }

    #[test]
    fn the_slope_of_a_parametric_relu_is_learned() {
        let config = DenseConfig {
            input: 3,
            hidden: 4,
            layers: 2,
            activation: DenseActivation::ParametricRelu,
            norm: Norm::None,
        };
        let dense = config.init(&mut Initializer::new(1), &device()).expect("no size is zero");
        let names: Vec<String> = dense.parameters().into_iter().map(|(name, _)| name).collect();
        assert!(names.contains(&"1.slope".to_owned()), "{names:?}");
        let y = dense.forward(Tensor::from_data([[1.0, -2.0, 3.0], [-1.0, 2.0, -3.0]], &device()), None);
        let gradients = dense.take_gradients(&mut y.sum().backward());
        let place = names.iter().position(|name| name == "0.slope").expect("it is there");
        with_slice(&gradients[place], |slope| assert_ne!(slope[0], 0.0));
    }

    #[test]
    fn slopes_of_a_randomised_relu_are_drawn_while_it_learns() {
        let which = DenseActivation::RandomizedRelu;
        let x = Tensor::<2>::from_data([[-1.0f32; 50], [2.0; 50]], &device()).require_grad();
        let slopes = |seed| {
            let y = which.of(x.clone(), None, seed);
            let gradient = x.grad(&y.clone().sum().backward()).expect("x takes part");
            let [y, gradient] = [y, gradient].map(|values| with_slice(&values, <[f32]>::to_vec));
            for (place, (y, slope)) in y.iter().zip(&gradient).enumerate() {
                assert_eq!(*y, if place < 50 { -slope } else { 2.0 }, "place {place}");
            }
            assert!(gradient[50..].iter().all(|&slope| slope == 1.0));
            gradient[..50].to_vec()
        };
        assert!(slopes(None).iter().all(|slope| (slope - 11.0 / 48.0).abs() < 1e-6));
        let drawn = slopes(Some(1));
        assert!(drawn.iter().all(|slope| (0.125..=1.0 / 3.0 + 1e-6).contains(slope)), "{drawn:?}");
        let spread = drawn.iter().fold(0f32, |most, slope| most.max((slope - 11.0 / 48.0).abs()));
        assert!(spread > 0.08, "{drawn:?}");
        assert_eq!(slopes(Some(1)), drawn, "one seed, the same slopes");
        assert_ne!(slopes(Some(2)), drawn);
    }

    #[test]
    fn maxout_takes_the_larger_of_two_maps() {
        let config = DenseConfig {
            input: 2,
            hidden: 3,
            layers: 1,
            activation: DenseActivation::Maxout,
            norm: Norm::None,
        };
        let dense = config.init(&mut Initializer::new(1), &device()).expect("no size is zero");
        let x = Tensor::<2>::from_data([[0.3, -0.8]], &device());
        let (weight, bias) = (dense.layers[0].weight.val(), dense.layers[0].bias.val());
        let sums = x.clone().matmul(weight.transpose()) + bias.unsqueeze_dim::<2>(0);
        let sums = with_slice(&sums, <[f32]>::to_vec);
        let wanted: Vec<f32> = (0..3).map(|unit| sums[unit].max(sums[3 + unit])).collect();
        assert_eq!(with_slice(&dense.forward(x, None), <[f32]>::to_vec), wanted);
    }
}
