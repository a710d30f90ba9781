//! The cells, and one step of each in plain Burn operations. No time loop here.

use burn::tensor::{Tensor, activation};
pub use carousel_kernels::{Activation, Cell, Reset};

/// What a step multiplies the previous hidden value with.
pub(crate) struct Recurrence {
    /// `[H, G·H]`, the transposed recurrent weights.
    pub(crate) weight: Tensor<2>,
    /// `[1, G·H]`.
    pub(crate) bias: Tensor<2>,
}

impl Recurrence {
    /// `h U + b` for the gates `from..to` of width `hidden`: `[B, (to - from)·H]`.
    fn project(&self, h: Tensor<2>, from: usize, to: usize, hidden: usize) -> Tensor<2> {
        let columns = from * hidden..to * hidden;
        let weight = self.weight.clone().slice([0..hidden, columns.clone()]);
        h.matmul(weight) + self.bias.clone().slice([0..1, columns])
    }
}

/// What multiplies values of a step, `[B, H]` each; see [`Dropout`](crate::regularize::Dropout).
#[derive(Default)]
pub(crate) struct Factors {
    /// `h` as the recurrent weights read it.
    pub(crate) recurrent: Option<Tensor<2>>,
    /// The candidate.
    pub(crate) update: Option<Tensor<2>>,
}

impl Factors {
    fn times(factors: &Option<Tensor<2>>, x: Tensor<2>) -> Tensor<2> {
        match factors {
            Some(factors) => x * factors.clone(),
            None => x,
        }
    }
}

/// One step of `cell` for `B` sequences. `projected` `[B, G·H]` is `W x + b`; `h` and, for an LSTM, `c` are
/// `[B, H]`. Returns the next `h` and `c`.
pub(crate) fn step(
    cell: Cell,
    projected: Tensor<2>,
    recurrence: &Recurrence,
    h: Tensor<2>,
    c: Option<Tensor<2>>,
    factors: &Factors,
) -> (Tensor<2>, Option<Tensor<2>>) {
    let [sequences, hidden] = h.dims();
    let seen = Factors::times(&factors.recurrent, h.clone());
    let gate = |all: &Tensor<2>, index: usize| {
        all.clone().slice([0..sequences, index * hidden..(index + 1) * hidden])
    };
    match cell {
        Cell::Rnn(nonlinearity) => {
            let a = projected + recurrence.project(seen, 0, 1, hidden);
            let h = match nonlinearity {
                Activation::Tanh => a.tanh(),
                Activation::Relu => activation::relu(a),
            };
            (h, None)
        }
        Cell::Lstm => {
            let a = projected + recurrence.project(seen, 0, 4, hidden);
            let input = activation::sigmoid(gate(&a, 0));
            let forget = activation::sigmoid(gate(&a, 1));
            let candidate = gate(&a, 2).tanh();
            let output = activation::sigmoid(gate(&a, 3));
            let c = c.expect("the driver gives an LSTM its cell value");
            let c = forget * c + input * Factors::times(&factors.update, candidate);
            (output * c.clone().tanh(), Some(c))
        }
        Cell::Gru(Reset::After) => {
            let u = recurrence.project(seen, 0, 3, hidden);
            let reset = activation::sigmoid(gate(&projected, 0) + gate(&u, 0));
            let update = activation::sigmoid(gate(&projected, 1) + gate(&u, 1));
            let candidate = (gate(&projected, 2) + reset * gate(&u, 2)).tanh();
            (blend(update, Factors::times(&factors.update, candidate), h), None)
        }
        Cell::Gru(Reset::Before) => {
            let u = recurrence.project(seen.clone(), 0, 2, hidden);
            let reset = activation::sigmoid(gate(&projected, 0) + gate(&u, 0));
            let update = activation::sigmoid(gate(&projected, 1) + gate(&u, 1));
            let u = recurrence.project(reset * seen, 2, 3, hidden);
            let candidate = (gate(&projected, 2) + u).tanh();
            (blend(update, Factors::times(&factors.update, candidate), h), None)
        }
    }
}

/// `(1 - z) n + z h`.
fn blend(update: Tensor<2>, candidate: Tensor<2>, h: Tensor<2>) -> Tensor<2> {
    candidate.clone() + update * (h - candidate)
}
