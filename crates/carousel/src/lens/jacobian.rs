//! The Jacobian of one step, by products: never as a matrix.
//!
//! A step maps the state `(h, c)` to the next, `x` held. `Jᵀ u` is the kernels' backward pass of one step. `J v`
//! is the derivative forward, written here from the gates' values, in the order of the cells' equations:
//!
//! ```text
//! RNN     dh' = act'(a) * U dh
//! LSTM    dc' = f * dc + c * f(1-f) * Uf dh + g * i(1-i) * Ui dh + i * (1-g²) * Ug dh
//!         dh' = tanh(c') * o(1-o) * Uo dh + o * (1 - tanh²(c')) * dc'
//! GRU     dh' = z * dh + z(1-z) * (h - n) * Uz dh + (1-z) * dn
//!         after:  dn = (1-n²) * (r * Un dh + (Un h + cn) * dr)      dr = r(1-r) * Ur dh
//!         before: dn = (1-n²) * Un (r * dh + h * dr)
//! ```

use carousel_kernels::{CellOptions, Layer, Signal, Zoneout};

use crate::cell::{Activation, Cell, Reset};
use crate::layer::PlainWeights;
use crate::one_step::{Pair, Step};

impl Step {
    /// The step made ready for products `J v`.
    pub(crate) fn linearized(&mut self, weights: &PlainWeights) -> Linear {
        let gates = match self.layer.cell {
            Cell::Rnn(_) => Vec::new(),
            cell => (0..cell.gates()).map(|gate| self.signal(weights, Signal::Gate(gate))).collect(),
        };
        Linear {
            layer: self.layer,
            sequences: self.sequences,
            gates,
            x: self.x.clone(),
            before: self.before.clone(),
            after: self.after.clone(),
        }
    }
}

/// A step's values, for products `J v`.
pub(crate) struct Linear {
    layer: Layer,
    sequences: usize,
    gates: Vec<Vec<f32>>,
    x: Vec<f32>,
    before: Pair,
    after: Pair,
}

impl Linear {
    /// `J v` for every sequence.
    pub(crate) fn push(&self, weights: &PlainWeights, v: &Pair) -> Pair {
        let plain = matches!(
            self.layer.cell,
            Cell::Rnn(Activation::Tanh | Activation::Relu) | Cell::Lstm | Cell::Gru(_)
        );
        let zones = self.layer.zoneout != Zoneout::NONE;
        if !plain || zones || self.layer.options != CellOptions::PLAIN {
            return self.difference(weights, v);
        }
        let mut out = Pair::zeros(&self.layer, self.sequences);
        for sequence in 0..self.sequences {
            self.push_one(weights, v, sequence, &mut out);
        }
        out
    }

    /// `J v` of a cell with options or zoneout by central differences, good to three or four digits.
    fn difference(&self, weights: &PlainWeights, v: &Pair) -> Pair {
        let largest = v.h.iter().chain(&v.c).fold(0.0f32, |largest, v| largest.max(v.abs()));
        if largest == 0.0 {
            return Pair::zeros(&self.layer, self.sequences);
        }
        let by = 1e-2 / largest;
        let moved = |by: f32| {
            let add = |a: &[f32], v: &[f32]| a.iter().zip(v).map(|(a, v)| a + by * v).collect();
            let from = Pair { h: add(&self.before.h, &v.h), c: add(&self.before.c, &v.c) };
            Step::take(self.layer, weights, self.x.clone(), from).after
        };
        let (up, down) = (moved(by), moved(-by));
        let slope = |up: &[f32], down: &[f32]| {
            up.iter().zip(down).map(|(up, down)| (up - down) / (2.0 * by)).collect()
        };
        Pair { h: slope(&up.h, &down.h), c: slope(&up.c, &down.c) }
    }

    fn push_one(&self, weights: &PlainWeights, v: &Pair, sequence: usize, out: &mut Pair) {
        let n = self.layer.hidden;
        let row = sequence * n..(sequence + 1) * n;
        let dh = &v.h[row.clone()];
        // U v for one gate's rows.
        let through = |gate: usize, v: &[f32]| -> Vec<f32> {
            let rows = weights.recurrent[gate * n * n..(gate + 1) * n * n].chunks_exact(n);
            rows.map(|weights| dot(weights, v)).collect()
        };
        let gate = |index: usize| &self.gates[index][row.clone()];
        let (h, new_h) = (&self.before.h[row.clone()], &self.after.h[row.clone()]);
        let sigmoid = |value: f32| value * (1.0 - value);
        match self.layer.cell {
            Cell::Rnn(activation) => {
                let du = through(0, dh);
                for u in 0..n {
                    let slope = match activation {
                        Activation::Tanh => 1.0 - new_h[u] * new_h[u],
                        // The others are differences; see `push`.
                        _ => f32::from(new_h[u] > 0.0),
                    };
                    out.h[row.start + u] = slope * du[u];
                }
            }
            Cell::Lstm => {
                let du: Vec<Vec<f32>> = (0..4).map(|gate| through(gate, dh)).collect();
                let (i, f, g, o) = (gate(0), gate(1), gate(2), gate(3));
                for u in 0..n {
                    let at = row.start + u;
                    let tanh_c = self.after.c[at].tanh();
                    let dc = f[u] * v.c[at]
                        + self.before.c[at] * sigmoid(f[u]) * du[1][u]
                        + g[u] * sigmoid(i[u]) * du[0][u]
                        + i[u] * (1.0 - g[u] * g[u]) * du[2][u];
                    out.c[at] = dc;
                    out.h[at] = tanh_c * sigmoid(o[u]) * du[3][u] + o[u] * (1.0 - tanh_c * tanh_c) * dc;
                }
            }
            Cell::Gru(reset) => {
                let (r, z, candidate) = (gate(0), gate(1), gate(2));
                let dr: Vec<f32> = through(0, dh).iter().zip(r).map(|(du, &r)| sigmoid(r) * du).collect();
                let dz = through(1, dh);
                let inner: Vec<f32> = match reset {
                    Reset::After => {
                        let (past, du) = (through(2, h), through(2, dh));
                        let bias = &weights.bias_recurrent[2 * n..];
                        (0..n).map(|u| r[u] * du[u] + (past[u] + bias[u]) * dr[u]).collect()
                    }
                    Reset::Before => {
                        let reset: Vec<f32> = (0..n).map(|u| r[u] * dh[u] + h[u] * dr[u]).collect();
                        through(2, &reset)
                    }
                };
                for u in 0..n {
                    let dn = (1.0 - candidate[u] * candidate[u]) * inner[u];
                    out.h[row.start + u] =
                        z[u] * dh[u] + sigmoid(z[u]) * dz[u] * (h[u] - candidate[u]) + (1.0 - z[u]) * dn;
                }
            }
        }
    }
}

/// In sixteen sums, so that the compiler may use the processor's vectors.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 16];
    let (a_chunks, b_chunks) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..16 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::init::Initializer;
    use carousel_kernels::{Direction, Precision};

    const CELLS: [Cell; 5] = [
        Cell::Rnn(Activation::Tanh),
        Cell::Rnn(Activation::Relu),
        Cell::Lstm,
        Cell::Gru(Reset::After),
        Cell::Gru(Reset::Before),
    ];

    pub(in crate::lens) fn problem(cell: Cell) -> (Layer, PlainWeights, Vec<f32>, Pair, Initializer) {
        problem_with(cell, CellOptions::PLAIN)
    }

    fn problem_with(cell: Cell, options: CellOptions) -> (Layer, PlainWeights, Vec<f32>, Pair, Initializer) {
        let layer = Layer {
            cell,
            direction: Direction::Forward,
            input: 3,
            hidden: 19,
            precision: Precision::F32,
            zoneout: Zoneout::NONE,
            options,
        };
        let mut random = Initializer::new(7);
        let (w, u, b) = layer.weight_lengths();
        let weights = PlainWeights {
            input: random.uniform(w, 0.5),
            recurrent: random.uniform(u, 0.5),
            bias_input: random.uniform(b, 0.3),
            bias_recurrent: random.uniform(b, 0.3),
            options: random.uniform(layer.option_length(), 1.0),
        };
        let x = random.uniform(2 * 3, 1.0);
        let before = vector(&layer, &mut random);
        (layer, weights, x, before, random)
    }

    pub(in crate::lens) fn vector(layer: &Layer, random: &mut Initializer) -> Pair {
        let zeros = Pair::zeros(layer, 2);
        Pair { h: random.uniform(zeros.h.len(), 1.0), c: random.uniform(zeros.c.len(), 1.0) }
    }

    fn inner(a: &Pair, b: &Pair) -> f64 {
        let both = a.h.iter().zip(&b.h).chain(a.c.iter().zip(&b.c));
        both.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    }

    /// `u · J v = Jᵀ u · v`: the derivative written here and the kernels' backward are of the same step.
    #[test]
    fn pushing_and_pulling_are_transposed() {
        for cell in CELLS {
            let (layer, weights, x, before, mut random) = problem(cell);
            let mut step = Step::take(layer, &weights, x, before);
            let (u, v) = (vector(&layer, &mut random), vector(&layer, &mut random));
            let pushed = step.linearized(&weights).push(&weights, &v);
            let pulled = step.pull(&weights, None, &u).before;
            let (left, right) = (inner(&u, &pushed), inner(&pulled, &v));
            assert!((left - right).abs() < 1e-5 * left.abs().max(1.0), "{cell:?}: {left} {right}");
        }
    }

    /// Of cells with options as well, whose `J v` are differences.
    #[test]
    fn pushing_and_pulling_are_transposed_with_options() {
        let norm = CellOptions { norm: true, ..CellOptions::PLAIN };
        let elu = Cell::Rnn(Activation::Elu);
        let zones = Zoneout { hidden: 0.9, cell: 0.0 };
        let plain = |cell| (cell, CellOptions::PLAIN);
        let cells = CELLS.map(|cell| (cell, norm, Zoneout::NONE)).into_iter();
        let cells = cells.chain([(elu, CellOptions::PLAIN, Zoneout::NONE)]);
        for (cell, options, zoneout) in
            cells.chain(CELLS.map(plain).map(|(cell, options)| (cell, options, zones)))
        {
            let (layer, weights, x, before, mut random) = problem_with(cell, options);
            let layer = Layer { zoneout, ..layer };
            let mut step = Step::take(layer, &weights, x, before);
            let (u, v) = (vector(&layer, &mut random), vector(&layer, &mut random));
            let pushed = step.linearized(&weights).push(&weights, &v);
            let pulled = step.pull(&weights, None, &u).before;
            let (left, right) = (inner(&u, &pushed), inner(&pulled, &v));
            assert!(
                (left - right).abs() < 5e-3 * left.abs().max(1.0),
                "{cell:?} {options:?}: {left} {right}"
            );
        }
    }

    /// Central differences of the kernels' own forward step.
    #[test]
    fn pushing_agrees_with_finite_differences() {
        for cell in CELLS {
            let (layer, weights, x, before, mut random) = problem(cell);
            let v = vector(&layer, &mut random);
            let pushed = Step::take(layer, &weights, x.clone(), before.clone())
                .linearized(&weights)
                .push(&weights, &v);
            let moved = |by: f32| {
                let add = |a: &[f32], v: &[f32]| a.iter().zip(v).map(|(a, v)| a + by * v).collect();
                let from = Pair { h: add(&before.h, &v.h), c: add(&before.c, &v.c) };
                Step::take(layer, &weights, x.clone(), from).after
            };
            let by = 1e-3;
            let (up, down) = (moved(by), moved(-by));
            let all = |pair: &Pair| pair.h.iter().chain(&pair.c).copied().collect::<Vec<f32>>();
            for ((up, down), pushed) in all(&up).iter().zip(all(&down)).zip(all(&pushed)) {
                let slope = (up - down) / (2.0 * by);
                assert!((slope - pushed).abs() < 2e-3, "{cell:?}: {slope} {pushed}");
            }
        }
    }
}
