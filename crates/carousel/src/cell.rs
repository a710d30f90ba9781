//! The cells, and one step of each in plain Burn operations. No time loop here.

use burn::tensor::{Tensor, activation};
pub use carousel_kernels::{Activation, Cell, CellOptions, GateActivation, Reset};

/// What a step multiplies the previous hidden value with.
pub(crate) struct Recurrence {
    /// `[P, G·H]`, the transposed recurrent weights.
    pub(crate) weight: Tensor<2>,
    /// `[1, G·H]`.
    pub(crate) bias: Tensor<2>,
}

impl Recurrence {
    /// `h U + b` for the gates `from..to` of width `hidden`: `[B, (to - from)·H]`.
    fn project(&self, h: Tensor<2>, from: usize, to: usize, hidden: usize) -> Tensor<2> {
        let columns = from * hidden..to * hidden;
        let weight = self.weight.clone().slice([0..h.dims()[1], columns.clone()]);
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

/// A cell's options and their weights.
pub(crate) struct Options {
    pub(crate) own: CellOptions,
    /// `[O, H]`, as the kernels have them.
    pub(crate) weights: Option<Tensor<2>>,
    /// `[1, G·H]`: what is added to sums once they are normalised.
    pub(crate) bias: Option<Tensor<2>>,
}

/// What keeps a small variance from magnifying rounding.
const EPSILON: f64 = 1e-5;

/// Mean 0 and variance 1 over the units of each row.
fn normalise(values: Tensor<2>) -> Tensor<2> {
    let centred = values.clone() - values.mean_dim(1);
    let variance = (centred.clone() * centred.clone()).mean_dim(1);
    centred / (variance + EPSILON).sqrt()
}

impl Options {
    /// Row `index` of the weights that meet the units one by one, from the first or (`Err`) from the last on.
    fn row(&self, index: Result<usize, usize>) -> Tensor<2> {
        let weights = self.weights.clone().expect("the options have weights");
        let [rows, hidden] = weights.dims();
        let rows = rows - self.own.projection.unwrap_or(0);
        let row = index.unwrap_or_else(|last| rows - 1 - last);
        weights.slice([row..row + 1, 0..hidden])
    }

    /// What becomes of `o * act(c)`.
    fn project(&self, h: Tensor<2>) -> Tensor<2> {
        let Some(values) = self.own.projection else { return h };
        let weights = self.weights.clone().expect("a projection has weights");
        let [rows, hidden] = weights.dims();
        h.matmul(weights.slice([rows - values..rows, 0..hidden]).transpose())
    }

    /// What a gate's non-linearity is given, from its sums.
    fn given(&self, gate: usize, sums: Tensor<2>) -> Tensor<2> {
        let Some(bias) = &self.bias else { return sums };
        let hidden = sums.dims()[1];
        let bias = bias.clone().slice([0..1, gate * hidden..(gate + 1) * hidden]);
        normalise(sums) * self.row(Ok(gate)) + bias
    }

    /// Adds what gate i, f or o (0 to 2) sees of `c`.
    fn peep(&self, which: usize, sums: Tensor<2>, c: &Tensor<2>) -> Tensor<2> {
        if self.own.peephole { sums + c.clone() * self.row(Err(2 - which)) } else { sums }
    }

    /// What `h` sees of `c`.
    fn seen(&self, c: Tensor<2>) -> Tensor<2> {
        if self.own.norm { normalise(c) * self.row(Ok(4)) + self.row(Ok(5)) } else { c }
    }

    /// A candidate, or `c` as it is read, from what the non-linearity is given.
    fn act(&self, a: Tensor<2>) -> Tensor<2> {
        activate(self.own.activation, a)
    }

    fn open(&self, sums: Tensor<2>) -> Tensor<2> {
        match self.own.gate {
            GateActivation::Sigmoid => activation::sigmoid(sums),
            GateActivation::HardSigmoid => (sums / 6.0 + 0.5).clamp(0.0, 1.0),
        }
    }
}

/// The slope of a non-linearity at `a`.
pub(crate) fn slope(nonlinearity: Activation, a: f32) -> f32 {
    let sigmoid = 1.0 / (1.0 + (-a).exp());
    match nonlinearity {
        Activation::Tanh => 1.0 - a.tanh() * a.tanh(),
        Activation::Silu => sigmoid * (1.0 + a * (1.0 - sigmoid)),
        Activation::HardTanh => f32::from(a.abs() < 1.0),
        Activation::Relu | Activation::LeakyRelu | Activation::Elu if a > 0.0 => 1.0,
        Activation::Relu => 0.0,
        Activation::LeakyRelu => 0.01,
        Activation::Elu => a.exp(),
    }
}

/// The non-linearity of a vanilla cell or of a gated cell's candidate, value by value.
pub(crate) fn activate(nonlinearity: Activation, a: Tensor<2>) -> Tensor<2> {
    match nonlinearity {
        Activation::Tanh => a.tanh(),
        Activation::Relu => activation::relu(a),
        Activation::LeakyRelu => activation::leaky_relu(a, 0.01),
        Activation::Elu => activation::relu(a.clone()) + a.clamp_max(0.0).exp() - 1.0,
        Activation::Silu => activation::silu(a),
        Activation::HardTanh => a.clamp(-1.0, 1.0),
    }
}

/// One step of `cell` for `B` sequences. `projected` `[B, G·H]` is `W x + b`; `h` is `[B, P]` and, for an LSTM, `c`
/// `[B, H]`. Returns the next `h` and `c`.
pub(crate) fn step(
    cell: Cell,
    projected: Tensor<2>,
    recurrence: &Recurrence,
    h: Tensor<2>,
    c: Option<Tensor<2>>,
    factors: &Factors,
    options: &Options,
) -> (Tensor<2>, Option<Tensor<2>>) {
    let [sequences, columns] = projected.dims();
    let hidden = columns / cell.gates();
    let seen = Factors::times(&factors.recurrent, h.clone());
    let gate = |all: &Tensor<2>, index: usize| {
        all.clone().slice([0..sequences, index * hidden..(index + 1) * hidden])
    };
    let open = |gate: usize, sums: Tensor<2>| options.open(options.given(gate, sums));
    match cell {
        Cell::Rnn(nonlinearity) => {
            let a = projected + recurrence.project(seen, 0, 1, hidden);
            (activate(nonlinearity, options.given(0, a)), None)
        }
        Cell::Lstm => {
            let a = projected + recurrence.project(seen, 0, 4, hidden);
            let c = c.expect("the driver gives an LSTM its cell value");
            let input = open(0, options.peep(0, gate(&a, 0), &c));
            let forget = open(1, options.peep(1, gate(&a, 1), &c));
            let candidate = options.act(options.given(2, gate(&a, 2)));
            let c = forget * c + input * Factors::times(&factors.update, candidate);
            let output = open(3, options.peep(2, gate(&a, 3), &c));
            (options.project(output * options.act(options.seen(c.clone()))), Some(c))
        }
        Cell::Gru(reset_place) => {
            let gates = if reset_place == Reset::After { 3 } else { 2 };
            let u = recurrence.project(seen.clone(), 0, gates, hidden);
            let reset = open(0, gate(&projected, 0) + gate(&u, 0));
            let update = open(1, gate(&projected, 1) + gate(&u, 1));
            let u = match reset_place {
                Reset::After => reset * gate(&u, 2),
                Reset::Before => recurrence.project(reset * seen, 2, 3, hidden),
            };
            let candidate = options.act(options.given(2, gate(&projected, 2) + u));
            (blend(update, Factors::times(&factors.update, candidate), h), None)
        }
    }
}

/// `(1 - z) n + z h`.
pub(crate) fn blend(update: Tensor<2>, candidate: Tensor<2>, h: Tensor<2>) -> Tensor<2> {
    candidate.clone() + update * (h - candidate)
}
