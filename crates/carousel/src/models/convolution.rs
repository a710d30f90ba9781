//! A small convolutional encoder of images: each layer halves height and width.
//!
//! Shapes: N images, C channels, `[N, C, height, width]`.

use burn::module::{Module, Param};
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor, activation};

use crate::config_error::ConfigError;
use crate::init::Initializer;
use crate::parameters::{parameter, parts};

/// Height and width of a kernel.
const KERNEL: usize = 3;
/// Images that are read at once where no gradient is wanted.
const TOGETHER: usize = 512;

/// Sizes of a [`Convolution`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvolutionConfig {
    /// Channels, height and width of an image.
    pub image: [usize; 3],
    /// Channels that the first layer makes; each further one makes twice as many.
    pub filters: usize,
    /// Layers.
    pub layers: usize,
}

impl ConvolutionConfig {
    /// Channels, height and width of what comes out.
    #[must_use]
    pub fn output(&self) -> [usize; 3] {
        let [channels, height, width] = self.image;
        let half = |size: usize| (0..self.layers).fold(size, |size, _| size.div_ceil(2));
        let last = (self.layers.saturating_sub(1)).min(30);
        let channels = if self.layers == 0 { channels } else { self.filters << last };
        [channels, half(height), half(width)]
    }

    /// Makes the layers: weights uniform in `±√(6/fan-in)` (He et al. 2015), biases zero.
    ///
    /// # Errors
    /// [`ConfigError::Zero`] when a size is zero.
    pub fn init(&self, random: &mut Initializer, device: &Device) -> Result<Convolution, ConfigError> {
        let [channels, height, width] = self.image;
        let sizes = [
            ("image channels", channels),
            ("image height", height),
            ("image width", width),
            ("filters", self.filters),
            ("convolutions", self.layers),
        ];
        if let Some((what, _)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return Err(ConfigError::Zero { what });
        }
        let layers = (0..self.layers).map(|layer| {
            let input = if layer == 0 { channels } else { self.filters << (layer - 1) };
            let output = self.filters << layer;
            let fan = input * KERNEL * KERNEL;
            let values = random.uniform(output * fan, (6.0 / fan as f64).sqrt());
            Layer {
                weight: parameter(values, [output, input, KERNEL, KERNEL], device),
                bias: parameter(vec![0.0; output], [output], device),
            }
        });
        Ok(Convolution { layers: layers.collect(), channels, height, width })
    }
}

/// Layers of `relu(x * W + b)` with a stride of 2.
#[derive(Module, Debug)]
pub struct Convolution {
    layers: Vec<Layer>,
    #[module(skip)]
    channels: usize,
    #[module(skip)]
    height: usize,
    #[module(skip)]
    width: usize,
}

#[derive(Module, Debug)]
struct Layer {
    weight: Param<Tensor<4>>,
    bias: Param<Tensor<1>>,
}

impl Convolution {
    /// Images `[N, C · height · width]` to grids `[N, C', height', width']`.
    ///
    /// # Panics
    /// When there is no image, or images have another size.
    #[must_use]
    pub fn forward(&self, images: Tensor<2>) -> Tensor<4> {
        let [count, values] = images.dims();
        // A backward pass keeps all; without one only a few images need be in memory.
        if count > TOGETHER && !images.device().is_autodiff() && !self.layers[0].bias.device().is_autodiff() {
            let part = |from: usize| images.clone().slice([from..count.min(from + TOGETHER), 0..values]);
            return Tensor::cat(
                (0..count).step_by(TOGETHER).map(|from| self.forward(part(from))).collect(),
                0,
            );
        }
        let x = images.reshape([count, self.channels, self.height, self.width]);
        self.layers.iter().fold(x, |x, layer| {
            let options = ConvOptions::new([2, 2], [KERNEL / 2, KERNEL / 2], [1, 1], 1);
            activation::relu(conv2d(x, layer.weight.val(), Some(layer.bias.val()), options))
        })
    }
}

parts! {
    /// `0.weight`, `0.bias`, `1.weight`, …
    Convolution { "": layers }
}

parts! { Layer { "weight": weight, "bias": bias } }

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::NamedParameters;
    use crate::slices::with_slice;

    /// Against the sums of the definition; halves are rounded up.
    #[test]
    fn a_layer_is_what_its_formula_says() {
        let config = ConvolutionConfig { image: [2, 5, 4], filters: 3, layers: 1 };
        let device = Device::default();
        let net = config.init(&mut Initializer::new(3), &device).expect("no size is zero");
        let image: Vec<f32> = (0..40).map(|place| ((place * 7) % 11) as f32 - 5.0).collect();
        let x = Tensor::from_data(burn::tensor::TensorData::new(image.clone(), [1, 40]), &device);
        let y = net.forward(x);
        assert_eq!(y.dims(), [1, 3, 3, 2]);
        assert_eq!(config.output(), [3, 3, 2]);
        let weight = with_slice(&net.layers[0].weight.val(), <[f32]>::to_vec);
        let at = |c: usize, row: isize, column: isize| match (0..5).contains(&row) && (0..4).contains(&column)
        {
            true => image[(c * 5 + row as usize) * 4 + column as usize],
            false => 0.0,
        };
        with_slice(&y, |y| {
            for (place, &found) in y.iter().enumerate() {
                let (o, row, column) = (place / 6, (place / 2 % 3) as isize, (place % 2) as isize);
                let mut sum = 0.0;
                for c in 0..2 {
                    for (i, j) in (0..9).map(|k| (k / 3, k % 3)) {
                        let w = weight[(o * 2 + c) * 9 + (i * 3 + j) as usize];
                        sum += w * at(c, 2 * row + i - 1, 2 * column + j - 1);
                    }
                }
                assert!((found - sum.max(0.0)).abs() < 1e-4, "{place}: {found}, expected {sum}");
            }
        });
    }

    #[test]
    fn many_images_are_read_as_few() {
        let config = ConvolutionConfig { image: [1, 4, 4], filters: 2, layers: 2 };
        let device = Device::default();
        let net = config.init(&mut Initializer::new(3), &device).expect("no size is zero");
        let values: Vec<f32> = (0..(TOGETHER + 3) * 16).map(|place| (place % 13) as f32).collect();
        let all = Tensor::<2>::from_data(burn::tensor::TensorData::new(values, [TOGETHER + 3, 16]), &device);
        let last = net.forward(all.clone().slice([TOGETHER..TOGETHER + 3, 0..16]));
        let found = net.forward(all).slice([TOGETHER..TOGETHER + 3, 0..4, 0..1, 0..1]);
        with_slice(&found, |found| with_slice(&last, |last| assert_eq!(found, last)));
    }

    #[test]
    fn every_kernel_has_a_gradient() {
        let config = ConvolutionConfig { image: [1, 8, 8], filters: 2, layers: 2 };
        let device = Device::default().autodiff();
        let net = config.init(&mut Initializer::new(3), &device).expect("no size is zero");
        let y = net.forward(Tensor::ones([2, 64], &device));
        let gradients = net.take_gradients(&mut y.sum().backward());
        for ((name, _), gradient) in net.parameters().iter().zip(&gradients) {
            with_slice(gradient, |values| assert!(values.iter().any(|value| *value != 0.0), "{name}"));
        }
    }
}
