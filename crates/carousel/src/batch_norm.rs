//! Batch normalisation (Ioffe and Szegedy 2015): the statistics of a batch and their running means, and recurrent
//! cells that normalise by them.
//!
//! While a net learns, each value is normalised by mean and variance over the rows of its batch, real frames only.
//! Running means of both serve whoever only uses the net. A batch of one row has no spread; there the running
//! statistics serve while it learns too, and stay as they are.

use std::sync::Mutex;

use burn::tensor::{Tensor, TensorData, activation};
use carousel_kernels::{Cell, Reset};

use crate::cell::{activate, blend};
use crate::layer::lock;
use crate::own_cell::{
    AnyCell, Expose, LayerState, RecurrentCell, Signal, Sizes, Statistic, Weight, Weights,
};
use crate::parameters::Buffer;

/// Keeps the divisor from zero.
const EPSILON: f64 = 1e-5;
/// The share of a running mean that each batch replaces, once there were as many as make it up.
const MOMENTUM: f32 = 0.1;
/// What the gains of recurrent sums start from (Cooijmans et al. 2016, section 4): tanh of a variance of 1 would let
/// no gradient through.
const RECURRENT_GAIN: f32 = 0.1;
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

    /// Under PyTorch's names.
    pub(crate) fn named(&self) -> [(&'static str, &Buffer); 3] {
        [(STATISTICS[0], &self.mean), (STATISTICS[1], &self.variance), ("num_batches_tracked", &self.batches)]
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
            crate::fused::with_slice(found, |found| {
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

/// What a recurrent net normalises by the statistics of its batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchNorm {
    /// What the cell reads, over all frames of a batch (Laurent et al. 2016):
    ///
    /// ```text
    /// sums = γ * norm(W x) + b + U h
    /// ```
    Input,
    /// What the cell reads, its recurrent product and an LSTM's `c` where `h` reads it, each at every step by itself
    /// (Cooijmans et al. 2016):
    ///
    /// ```text
    /// sums = γx * norm(W x) + γh * norm(U h) + b      h = o * tanh(γc * norm(c) + βc)
    /// ```
    ///
    /// In a GRU the candidate's part of `U h` is normalised before the reset gate opens it, or after it where that
    /// is what the product reads.
    Recurrent {
        /// Steps with statistics of their own; later ones have the last's.
        steps: usize,
    },
}

impl BatchNorm {
    /// A cell that normalises so. It has the equations of `cell`, runs in Burn's operations, and learns statistics
    /// where the stack is given [noise](crate::recurrent::Recurrent::forward_noisy).
    ///
    /// Steps are counted from where a call begins.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use carousel::batch_norm::BatchNorm;
    /// use carousel::cell::Cell;
    /// use carousel::parameters::NamedParameters;
    /// use carousel::recurrent::{NoisySequences, RecurrentConfig};
    /// use carousel::regularize::Noise;
    ///
    /// let cell = BatchNorm::Recurrent { steps: 5 }.of(Cell::Lstm);
    /// let stack = RecurrentConfig::new(cell, 3, 8).init(&Device::default())?;
    /// let x = Tensor::<3>::ones([4, 5, 3], &Device::default());
    /// let noise = NoisySequences { noise: Noise::new(&[1]), names: &[0, 1, 2, 3] };
    /// let (y, _) = stack.forward_noisy(x.clone(), None, Some(noise)); // by the batch's statistics, and learns them
    /// let (y, _) = stack.forward(x, None); // by the running ones
    /// assert_eq!(stack.buffers()[0].0, "norm_ih_l0.running_mean");
    /// # Ok::<(), carousel::recurrent::ConfigError>(())
    /// ```
    ///
    /// # Panics
    /// When there are no steps.
    #[must_use]
    pub fn of(self, cell: Cell) -> AnyCell {
        assert!(self != BatchNorm::Recurrent { steps: 0 }, "statistics of no step");
        // A cell lives as long as the program; each kind is made once.
        static MADE: Mutex<Vec<&BatchCell>> = Mutex::new(Vec::new());
        let mut made = lock(&MADE);
        let found = made.iter().find(|made| made.cell == cell && made.norm == self);
        let found = found.copied().unwrap_or_else(|| {
            let new: &BatchCell = Box::leak(Box::new(BatchCell { cell, norm: self }));
            made.push(new);
            new
        });
        found.into()
    }
}

/// A built-in cell that normalises by the statistics of its batches.
#[derive(Debug)]
struct BatchCell {
    cell: Cell,
    norm: BatchNorm,
}

impl BatchCell {
    fn gates(&self) -> usize {
        match self.cell {
            Cell::Rnn(_) => 1,
            Cell::Lstm => 4,
            Cell::Gru(_) => 3,
        }
    }

    /// Gates whose recurrent product is of the last `h` itself.
    fn direct(&self) -> usize {
        if self.cell == Cell::Gru(Reset::Before) { 2 } else { self.gates() }
    }

    /// `γ * norm(U h)`, or `U h`, for the direct gates or (`"norm_hn"`) for the one that the reset gate goes before.
    fn recurrent(&self, weights: &Weights<'_>, h: Tensor<2>, name: &str) -> Tensor<2> {
        let hidden = h.dims()[1];
        let rows = match name {
            "norm_hn" => self.direct() * hidden..self.gates() * hidden,
            _ => 0..self.direct() * hidden,
        };
        let product = h.matmul(weights.get("weight_hh").slice([rows, 0..hidden]).transpose());
        self.scaled(weights, product, name)
    }

    /// `γ * norm(x)`, or `x`.
    fn scaled(&self, weights: &Weights<'_>, x: Tensor<2>, name: &str) -> Tensor<2> {
        match self.norm {
            BatchNorm::Input => x,
            BatchNorm::Recurrent { .. } => weights.normalised(x, name) * weights.get(name),
        }
    }
}

impl RecurrentCell for BatchCell {
    fn name(&self) -> &'static str {
        match self.cell {
            Cell::Rnn(_) => "batch-normalised rnn",
            Cell::Lstm => "batch-normalised lstm",
            Cell::Gru(_) => "batch-normalised gru",
        }
    }

    fn like(&self) -> Option<Cell> {
        Some(self.cell)
    }

    fn weights(&self, sizes: Sizes) -> Vec<Weight> {
        let gates = self.gates();
        let mut all = vec![
            sizes.input("weight_ih", gates),
            sizes.recurrent("weight_hh", gates),
            sizes.gate_bias("bias", self.cell),
        ];
        if self.cell == Cell::Gru(Reset::After) {
            all.push(sizes.bias("bias_hn", 1));
        }
        match self.norm {
            BatchNorm::Input => all.push(sizes.filled("norm_ih", gates, 1.0)),
            BatchNorm::Recurrent { .. } => {
                all.push(sizes.filled("norm_ih", gates, RECURRENT_GAIN));
                all.push(sizes.filled("norm_hh", self.direct(), RECURRENT_GAIN));
                if self.direct() < gates {
                    all.push(sizes.filled("norm_hn", gates - self.direct(), RECURRENT_GAIN));
                }
                if self.cell.has_cell_state() {
                    all.push(sizes.filled("norm_c", 1, RECURRENT_GAIN));
                    all.push(sizes.filled("shift_c", 1, 0.0));
                }
            }
        }
        all
    }

    fn statistics(&self, sizes: Sizes) -> Vec<Statistic> {
        let gates = self.gates();
        let of = |name, gates, steps| Statistic { name, width: gates * sizes.hidden, steps };
        match self.norm {
            BatchNorm::Input => vec![of("norm_ih", gates, 1)],
            BatchNorm::Recurrent { steps } => {
                let mut all = vec![of("norm_ih", gates, steps), of("norm_hh", self.direct(), steps)];
                if self.direct() < gates {
                    all.push(of("norm_hn", gates - self.direct(), steps));
                }
                if self.cell.has_cell_state() {
                    all.push(of("norm_c", 1, steps));
                }
                all
            }
        }
    }

    fn memory(&self, sizes: Sizes) -> Option<usize> {
        AnyCell::Fused(self.cell).memory(sizes)
    }

    fn signals(&self) -> Vec<Signal> {
        let all = AnyCell::Fused(self.cell).signals().into_iter();
        all.filter(|signal| !["h", "c"].contains(&signal.name)).collect()
    }

    fn read(&self, weights: &Weights<'_>, x: Tensor<2>) -> Tensor<2> {
        let product = weights.product(x, "weight_ih");
        match self.norm {
            BatchNorm::Input => {
                weights.normalised(product, "norm_ih") * weights.get("norm_ih") + weights.get("bias")
            }
            BatchNorm::Recurrent { .. } => product,
        }
    }

    fn step(
        &self,
        weights: &Weights<'_>,
        read: Tensor<2>,
        past: LayerState,
        expose: &mut Expose,
    ) -> LayerState {
        let read = match self.norm {
            BatchNorm::Input => read,
            BatchNorm::Recurrent { .. } => self.scaled(weights, read, "norm_ih") + weights.get("bias"),
        };
        let [sequences, hidden] = past.h.dims();
        let gate = |all: &Tensor<2>, gate: usize| {
            all.clone().slice([0..sequences, gate * hidden..(gate + 1) * hidden])
        };
        let recurrent = self.recurrent(weights, past.h.clone(), "norm_hh");
        match self.cell {
            Cell::Rnn(nonlinearity) => LayerState::of(activate(nonlinearity, read + recurrent)),
            Cell::Lstm => {
                let sums = read + recurrent;
                let [i, f, o] = [0, 1, 3].map(|place| activation::sigmoid(gate(&sums, place)));
                let g = gate(&sums, 2).tanh();
                for (name, value) in [("i", &i), ("f", &f), ("g", &g), ("o", &o)] {
                    expose.signal(name, value);
                }
                let c = f * past.c.expect("the driver gives an LSTM its cell value") + i * g;
                let seen = match self.norm {
                    BatchNorm::Input => c.clone(),
                    BatchNorm::Recurrent { .. } => {
                        self.scaled(weights, c.clone(), "norm_c") + weights.get("shift_c")
                    }
                };
                LayerState { h: o * seen.tanh(), c: Some(c) }
            }
            Cell::Gru(reset) => {
                let [r, z] =
                    [0, 1].map(|place| activation::sigmoid(gate(&read, place) + gate(&recurrent, place)));
                let heard = match reset {
                    Reset::After => r.clone() * (gate(&recurrent, 2) + weights.get("bias_hn")),
                    Reset::Before => self.recurrent(weights, r.clone() * past.h.clone(), "norm_hn"),
                };
                let n = (gate(&read, 2) + heard).tanh();
                for (name, value) in [("r", &r), ("z", &z), ("n", &n)] {
                    expose.signal(name, value);
                }
                LayerState::of(blend(z, n, past.h))
            }
        }
    }
}
