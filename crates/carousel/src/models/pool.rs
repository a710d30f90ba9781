//! From the steps of each sequence to one vector: the last, the mean, the largest values, or a learned mean.
//!
//! All of it works on packed frames; nothing is computed on padding. A sequence without steps becomes zeros.

use burn::module::{Module, Param};
use burn::tensor::{Device, IndexingUpdateOp, Int, Tensor, TensorData};
use carousel_kernels::Direction;

use crate::init::Initializer;
use crate::parameters::{parameter, parts};
use crate::ragged::Batch;
use crate::slices::with_slice;
use crate::state::index_tensor;
use crate::walk;

/// How the steps of a sequence become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The last real step of each direction.
    Last,
    /// The mean of all steps.
    Mean,
    /// The largest value of each unit.
    Max,
    /// A mean whose weights are learned: `a[t] = softmax(u · tanh(W y[t] + b))` over the steps of a sequence
    /// (Yang et al. 2016).
    Attention,
}

/// Turns frames `[F, O]` into `[B, O]`.
#[derive(Module, Debug)]
pub struct Pool {
    #[module(skip)]
    how: Pooling,
    attention: Option<Attention>,
}

/// `u · tanh(W y + b)`.
#[derive(Module, Debug)]
struct Attention {
    weight: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
    context: Param<Tensor<2>>,
}

impl Pool {
    /// A pool for frames of `width` values.
    #[must_use]
    pub fn init(how: Pooling, width: usize, random: &mut Initializer, device: &Device) -> Pool {
        let attention = (how == Pooling::Attention).then(|| {
            let bound = 1.0 / (width as f64).sqrt();
            Attention {
                weight: parameter(random.uniform(width * width, bound), [width, width], device),
                bias: parameter(random.uniform(width, bound), [width], device),
                context: parameter(random.uniform(width, bound), [1, width], device),
            }
        });
        Pool { how, attention }
    }

    /// One vector a sequence, `[B, O]`, of frames `y` `[F, O]` in packed order. What a recurrence ends with `last` tells
    /// where it is asked; without one it is the last step.
    ///
    /// # Panics
    /// When `y` has not one row a frame.
    #[must_use]
    pub fn forward(
        &self,
        y: Tensor<2>,
        batch: &Batch,
        last: impl FnOnce() -> Option<Tensor<2>>,
    ) -> Tensor<2> {
        let [frames, width] = y.dims();
        assert_eq!(frames, batch.frames(), "one row a frame");
        if frames == 0 {
            return Tensor::zeros([batch.sequences(), width], &y.device());
        }
        match (self.how, &self.attention) {
            (Pooling::Attention, Some(attention)) => attention.pool(y, batch),
            (Pooling::Last, _) => last().unwrap_or_else(|| walk::ends(y, batch, Direction::Forward)),
            (Pooling::Max, _) => largest(y, batch),
            _ => {
                let reciprocals = reciprocal_lengths(batch, &y.device());
                sums(y, batch) * reciprocals
            }
        }
    }

    /// How much each frame counts, `[F]`, with attention; they add up to 1 over a sequence.
    #[must_use]
    pub fn weights(&self, y: Tensor<2>, batch: &Batch) -> Option<Tensor<1>> {
        let frames = y.dims()[0];
        let attention = self.attention.as_ref().filter(|_| frames > 0)?;
        Some(attention.weights(y, batch).reshape([frames]))
    }
}

impl Attention {
    /// `[F, 1]`.
    fn weights(&self, y: Tensor<2>, batch: &Batch) -> Tensor<2> {
        let device = y.device();
        let inner = y.matmul(self.weight.val().transpose()) + self.bias.val().unsqueeze_dim::<2>(0);
        let scores = inner.tanh().matmul(self.context.val().transpose());
        // Softmax does not change when its scores are moved; the largest becomes 0 so that none overflows.
        let mut highest = vec![f32::NEG_INFINITY; batch.sequences()];
        with_slice(&scores, |scores| {
            for ((sequence, _), &score) in batch.places().zip(scores) {
                highest[sequence] = highest[sequence].max(score);
            }
        });
        let moved: Vec<f32> = batch.places().map(|(sequence, _)| highest[sequence]).collect();
        let moved = TensorData::new(moved, [batch.frames(), 1]);
        let raised = (scores - Tensor::from_data(moved, &device)).exp();
        let total = sums(raised.clone(), batch);
        raised / total.select(0, sequence_index(batch, &device))
    }

    fn pool(&self, y: Tensor<2>, batch: &Batch) -> Tensor<2> {
        let weights = self.weights(y.clone(), batch);
        sums(y * weights, batch)
    }
}

/// For each frame the sequence it belongs to.
fn sequence_index(batch: &Batch, device: &Device) -> Tensor<1, Int> {
    index_tensor(batch.places().map(|(sequence, _)| sequence as i64).collect(), device)
}

/// The sum over the steps of each sequence, `[B, O]`.
fn sums(y: Tensor<2>, batch: &Batch) -> Tensor<2> {
    let device = y.device();
    let width = y.dims()[1];
    let index = sequence_index(batch, &device);
    Tensor::zeros([batch.sequences(), width], &device).select_assign(0, index, y, IndexingUpdateOp::Add)
}

/// `[B, 1]`.
fn reciprocal_lengths(batch: &Batch, device: &Device) -> Tensor<2> {
    let lengths: Vec<f32> = batch.lengths().iter().map(|&length| 1.0 / length.max(1) as f32).collect();
    Tensor::from_data(TensorData::new(lengths, [batch.sequences(), 1]), device)
}

/// The frame with the largest value is found on plain numbers; the gradient goes to that frame alone.
fn largest(y: Tensor<2>, batch: &Batch) -> Tensor<2> {
    let [frames, width] = y.dims();
    let device = y.device();
    let sequences = batch.sequences();
    let mut best = vec![f32::NEG_INFINITY; sequences * width];
    let mut rows = vec![frames as i64; sequences * width];
    with_slice(&y, |values| {
        for ((frame, (sequence, _)), row) in batch.places().enumerate().zip(values.chunks_exact(width)) {
            let best = &mut best[sequence * width..][..width];
            let rows = &mut rows[sequence * width..][..width];
            for ((best, place), &value) in best.iter_mut().zip(rows).zip(row) {
                if value > *best {
                    (*best, *place) = (value, frame as i64);
                }
            }
        }
    });
    let rows = Tensor::<2, Int>::from_data(TensorData::new(rows, [sequences, width]), &device);
    Tensor::cat(vec![y, Tensor::zeros([1, width], &device)], 0).gather(0, rows)
}

parts! {
    /// `weight`, `bias` and `context` of attention; nothing otherwise.
    Pool { "": attention }
}

parts! { Attention { "weight": weight, "bias": bias, "context": context } }
