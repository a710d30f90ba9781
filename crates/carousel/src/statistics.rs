//! Statistics of batches and their running means, by which values are normalised (Ioffe and Szegedy 2015).
//!
//! A batch of one row has no spread; there the running statistics serve while a net learns too, and stay as they are.

use burn::tensor::{Tensor, TensorData};

use crate::parameters::{Buffer, NamedParameters, Parameter, ParameterMut};
use crate::slices::with_slice;

/// Keeps the divisor from zero.
const EPSILON: f64 = 1e-5;
/// The share of a running mean that each batch replaces, once there were as many as make it up.
const MOMENTUM: f32 = 0.1;

/// Names of running means and variances among a model's buffers.
pub(crate) const STATISTICS: [&str; 2] = ["running_mean", "running_var"];

/// Whose statistics normalise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// Those of the rows at hand, which the running ones learn from: the net learns.
    Batch,
    /// The running ones: the net is used.
    Running,
}

/// Running statistics of `W` values, for each of some steps by itself or for all together.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    mean: Buffer,
    variance: Buffer,
    /// Batches that each step has seen.
    batches: Buffer,
}

impl Running {
    /// Means of 0 and variances of 1 that no batch has touched yet.
    pub(crate) fn new(steps: usize, width: usize) -> Running {
        let shape = |each: &[usize]| if steps == 1 { each.to_vec() } else { [&[steps], each].concat() };
        Running {
            mean: Buffer::filled(shape(&[width]), 0.0),
            variance: Buffer::filled(shape(&[width]), 1.0),
            batches: Buffer::filled(shape(&[]), 0.0),
        }
    }

    /// `(x - mean) / √(variance + ε)` of rows `[N, W]` at a step. Steps beyond the last one are taken for it.
    pub(crate) fn normalise(&self, x: Tensor<2>, step: usize, by: By) -> Tensor<2> {
        let [rows, _] = x.dims();
        if by == By::Running || rows < 2 {
            let [mean, variance] = self.at(step, &x);
            return (x - mean) / (variance + EPSILON).sqrt();
        }
        let mean = x.clone().mean_dim(0);
        let centred = x - mean.clone();
        let variance = centred.clone().powi_scalar(2).mean_dim(0);
        self.take(step, &mean, &variance, rows);
        centred / (variance + EPSILON).sqrt()
    }

    /// The place of a step among those that statistics are kept of.
    fn place(&self, step: usize) -> usize {
        self.batches.with_slice(|batches| step.min(batches.len() - 1))
    }

    /// Moves the running statistics towards those of `rows` rows. The first batch takes the place of the initial
    /// values, the next ones are averaged, and from the tenth on each replaces a tenth.
    fn take(&self, step: usize, mean: &Tensor<2>, variance: &Tensor<2>, rows: usize) {
        let place = self.place(step);
        let share = self.batches.with_slice_mut(|batches| {
            batches[place] += 1.0;
            MOMENTUM.max(1.0 / batches[place])
        });
        let width = mean.dims()[1];
        // The variance of what the rows were drawn from.
        let unbiased = rows as f32 / (rows - 1) as f32;
        for (running, found, factor) in [(&self.mean, mean, 1.0), (&self.variance, variance, unbiased)] {
            with_slice(found, |found| {
                running.with_slice_mut(|running| {
                    let running = &mut running[place * width..][..width];
                    for (running, found) in running.iter_mut().zip(found) {
                        *running += share * (factor * found - *running);
                    }
                });
            });
        }
    }

    /// Mean and variance `[1, W]` of a step, or of the last one before it that a batch has reached.
    fn at(&self, step: usize, like: &Tensor<2>) -> [Tensor<2>; 2] {
        let last = self.place(step);
        let place = self
            .batches
            .with_slice(|batches| (0..=last).rev().find(|&place| batches[place] > 0.0))
            .unwrap_or(last);
        let width = like.dims()[1];
        [&self.mean, &self.variance].map(|running| {
            let row = running.with_slice(|running| running[place * width..][..width].to_vec());
            let row = TensorData::new(row, [1, width]).convert_dtype(like.dtype());
            Tensor::from_data(row, (&like.device(), like.dtype()))
        })
    }
}

/// Buffers under PyTorch's names, and no parameters.
impl NamedParameters for Running {
    fn parameters(&self) -> Vec<(String, Parameter<'_>)> {
        Vec::new()
    }

    fn parameters_mut(&mut self) -> Vec<(String, ParameterMut<'_>)> {
        Vec::new()
    }

    fn buffers(&self) -> Vec<(String, &Buffer)> {
        let all = [
            ("running_mean", &self.mean),
            ("running_var", &self.variance),
            ("num_batches_tracked", &self.batches),
        ];
        all.map(|(name, buffer)| (name.to_owned(), buffer)).into()
    }
}
