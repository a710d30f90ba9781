//! Minimal cells, which a whole sequence can go through at once: minGRU and minLSTM (Feng et al. 2024, "Were RNNs All
//! We Needed?").
//!
//! Their gates see the input alone, not the last state. So all gates of a sequence are one product, and what is left
//! of the recurrence is a weighted mean of the last state and a candidate, which is scanned
//! ([`RecurrentCell::linear`]).

use burn::tensor::{Tensor, activation};

use crate::own_cell::{Expose, LayerState, Linear, RecurrentCell, Signal, Sizes, Weight, Weights};

/// Section 3.1 of the paper, with `k = 1 - z` the share that stays:
///
/// ```text
/// z = σ(Wz x + bz)    n = Wn x + bn    h' = (1 - z) * h + z * n
/// ```
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use carousel::minimal::MinGru;
/// use carousel::recurrent::RecurrentConfig;
///
/// let stack = RecurrentConfig::new(&MinGru, 3, 8).with_layers(2).init(&Device::default())?;
/// let (y, _) = stack.forward(Tensor::<3>::ones([4, 500, 3], &Device::default()), None);
/// assert_eq!(y.dims(), [4, 500, 8]);
/// # Ok::<(), carousel::config_error::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct MinGru;

impl RecurrentCell for MinGru {
    fn name(&self) -> &'static str {
        "min-gru"
    }

    fn weights(&self, sizes: Sizes) -> Vec<Weight> {
        affine(sizes, 2)
    }

    fn signals(&self) -> Vec<Signal> {
        vec![Signal::gate("z"), Signal::keep("k"), Signal::value("n")]
    }

    fn read(&self, weights: &Weights<'_>, x: Tensor<2>) -> Tensor<2> {
        read(weights, x)
    }

    fn step(&self, _: &Weights<'_>, read: Tensor<2>, past: LayerState, expose: &mut Expose) -> LayerState {
        self.factors(read, expose).step(past)
    }

    fn linear(&self, _: &Weights<'_>, read: Tensor<2>, expose: &mut Expose) -> Option<Linear> {
        Some(self.factors(read, expose))
    }
}

impl MinGru {
    fn factors(&self, read: Tensor<2>, expose: &mut Expose) -> Linear {
        let [z, n] = parts(read);
        let (keep, z) = (activation::sigmoid(-z.clone()), activation::sigmoid(z));
        expose.signal("z", &z);
        expose.signal("k", &keep);
        expose.signal("n", &n);
        Linear { keep, add: z * n }
    }
}

/// Section 3.2 of the paper; `f` and `i` are shares of each other, so the state keeps its size:
///
/// ```text
/// f̃ = σ(Wf x + bf)    ĩ = σ(Wi x + bi)    n = Wn x + bn
/// f = f̃ / (f̃ + ĩ)     i = ĩ / (f̃ + ĩ)     h' = f * h + i * n
/// ```
///
/// Gates stand in the order i f n.
#[derive(Clone, Copy, Debug)]
pub struct MinLstm;

impl RecurrentCell for MinLstm {
    fn name(&self) -> &'static str {
        "min-lstm"
    }

    fn weights(&self, sizes: Sizes) -> Vec<Weight> {
        affine(sizes, 3)
    }

    fn signals(&self) -> Vec<Signal> {
        vec![Signal::gate("i"), Signal::keep("f"), Signal::value("n")]
    }

    fn read(&self, weights: &Weights<'_>, x: Tensor<2>) -> Tensor<2> {
        read(weights, x)
    }

    fn step(&self, _: &Weights<'_>, read: Tensor<2>, past: LayerState, expose: &mut Expose) -> LayerState {
        self.factors(read, expose).step(past)
    }

    fn linear(&self, _: &Weights<'_>, read: Tensor<2>, expose: &mut Expose) -> Option<Linear> {
        Some(self.factors(read, expose))
    }
}

impl MinLstm {
    fn factors(&self, read: Tensor<2>, expose: &mut Expose) -> Linear {
        let [i, f, n] = parts(read);
        // f̃ / (f̃ + ĩ) = σ(ln f̃ - ln ĩ): no quotient of two numbers that may both vanish.
        let lead = activation::log_sigmoid(f) - activation::log_sigmoid(i);
        let (keep, i) = (activation::sigmoid(lead.clone()), activation::sigmoid(-lead));
        expose.signal("i", &i);
        expose.signal("f", &keep);
        expose.signal("n", &n);
        Linear { keep, add: i * n }
    }
}

fn affine(sizes: Sizes, gates: usize) -> Vec<Weight> {
    vec![sizes.input("weight_ih", gates), sizes.bias("bias", gates)]
}

fn read(weights: &Weights<'_>, x: Tensor<2>) -> Tensor<2> {
    weights.product(x, "weight_ih") + weights.get("bias")
}

fn parts<const N: usize>(read: Tensor<2>) -> [Tensor<2>; N] {
    read.chunk(N, 1).try_into().expect("as many gates as there are weights for")
}
