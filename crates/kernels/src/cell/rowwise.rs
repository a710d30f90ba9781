//! One step of cells with options, forward and backward, on whole rows: layer normalisation needs all units of a
//! gate, and what the row needs once costs little beside its products. No time loop here.
//!
//! A row of gates has the order of the panels: `N` units of each gate in turn. Lanes past the last unit are zero.

use crate::chance::{Factors, times};
use crate::disjoint::Tile;
use crate::shape::{Activation, Cell, CellOptions, GateActivation, LEAK, Layer, Reset};
use crate::simd::{Job, Lanes};
use crate::sizes::Sizes;

/// Added to a variance before its root.
const EPSILON: f32 = 1e-5;

/// What a row's columns are multiplied with and what is added to them; in the order of the columns.
#[derive(Clone, Copy)]
pub(crate) struct Terms<'a> {
    /// Added ahead of a gate's non-linearity.
    pub(crate) bias: &'a [f32],
    /// Recurrent biases; a GRU's that resets after its product has its candidate's inside the reset gate's reach.
    pub(crate) bias_inside: &'a [f32],
    /// Empty without normalisation.
    pub(crate) gain: &'a [f32],
    /// Gain and bias of `c`.
    pub(crate) cell: [&'a [f32]; 2],
    /// Of i, f and o; empty without.
    pub(crate) peephole: [&'a [f32]; 3],
    /// 1 for every real unit.
    pub(crate) real: &'a [f32],
}

impl<'a> Terms<'a> {
    /// Floats that the terms of a layer take beside its biases.
    pub(crate) fn floats(sizes: &Sizes) -> usize {
        (sizes.gates + 6) * sizes.units()
    }

    /// Arranges a layer's option weights.
    pub(crate) fn pack(layer: &Layer, sizes: &Sizes, options: &[f32], to: &mut [f32]) {
        let (hidden, units, gates) = (layer.hidden, sizes.units(), sizes.gates);
        to.fill(0.0);
        let (gain, rest) = to.split_at_mut(gates * units);
        let (rest, real) = rest.split_at_mut(5 * units);
        real[..hidden].fill(1.0);
        let mut options = options[..layer.term_length()].chunks_exact(hidden);
        if layer.options.norm {
            for (gate, row) in options.by_ref().take(gates).enumerate() {
                for (unit, &value) in row.iter().enumerate() {
                    gain[(unit / sizes.lanes * gates + gate) * sizes.lanes + unit % sizes.lanes] = value;
                }
            }
        }
        // Gain and bias of `c` come first, if there are any; peepholes stand at the end.
        let skip = if layer.options.norm && layer.cell.has_cell_state() { 0 } else { 2 };
        for (row, values) in rest.chunks_exact_mut(units).skip(skip).zip(options) {
            row[..hidden].copy_from_slice(values);
        }
    }

    /// What [`pack`](Terms::pack) has arranged, and the biases.
    pub(crate) fn of(
        layer: &Layer,
        sizes: &Sizes,
        packed: &'a [f32],
        (bias, bias_inside): (&'a [f32], &'a [f32]),
    ) -> Terms<'a> {
        let (units, options) = (sizes.units(), layer.options);
        let (gain, rest) = packed[..Terms::floats(sizes)].split_at(sizes.gates * units);
        let row = |index: usize, present: bool| match present {
            true => &rest[index * units..][..units],
            false => &[][..],
        };
        Terms {
            bias,
            bias_inside,
            gain: if options.norm { gain } else { &[] },
            cell: [0, 1].map(|index| row(index, options.norm)),
            peephole: [2, 3, 4].map(|index| row(index, options.peephole)),
            real: row(5, true),
        }
    }

    fn norms(&self) -> bool {
        !self.gain.is_empty()
    }

    fn peeps(&self) -> bool {
        !self.peephole[0].is_empty()
    }
}

/// What backward needs of a row beside its gates; see [`kept_floats`].
struct Kept<'a> {
    /// Normalised sums of the gates, and `c`.
    gates: &'a mut [f32],
    cell: &'a mut [f32],
    /// The new `c`, before zoneout.
    new_c: &'a mut [f32],
    /// One over the deviation of each.
    inverse: &'a mut [f32],
    /// What the candidate's non-linearity is given, and that of `c`, where it is not tanh.
    asked: &'a mut [f32],
}

/// Floats for the deviations.
const DEVIATIONS: usize = 16;

/// Floats that a step keeps of a row.
pub(crate) fn kept_floats(layer: &Layer, sizes: &Sizes) -> usize {
    let CellOptions { norm, peephole, activation, .. } = layer.options;
    let asked = if activation == Activation::Tanh { 0 } else { 2 * sizes.units() };
    match norm || peephole || asked > 0 {
        true => (sizes.gates + 2) * sizes.units() + DEVIATIONS + asked,
        false => 0,
    }
}

impl<'a> Kept<'a> {
    fn split(row: &'a mut [f32], gates: usize, units: usize) -> Kept<'a> {
        if row.is_empty() {
            return Kept { gates: &mut [], cell: &mut [], new_c: &mut [], inverse: &mut [], asked: &mut [] };
        }
        let (of_gates, rest) = row.split_at_mut(gates * units);
        let (cell, rest) = rest.split_at_mut(units);
        let (new_c, rest) = rest.split_at_mut(units);
        let (inverse, asked) = rest.split_at_mut(DEVIATIONS);
        Kept { gates: of_gates, cell, new_c, inverse, asked }
    }
}

/// Sum over lanes, always in the same order.
#[inline(always)]
fn total<S: Lanes>(simd: S, v: S::V) -> f32 {
    let mut lanes = [0.0f32; 16];
    simd.store(&mut lanes, v);
    let mut left = S::N;
    while left > 1 {
        left /= 2;
        for i in 0..left {
            lanes[i] += lanes[i + left];
        }
    }
    lanes[0]
}

/// Columns of one gate in a row of `gates` gates: start of the `j`-th vector.
#[derive(Clone, Copy)]
struct Columns {
    gate: usize,
    gates: usize,
    groups: usize,
    hidden: usize,
}

impl Columns {
    fn starts<S: Lanes>(self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.groups).map(move |j| (j * S::N, (j * self.gates + self.gate) * S::N))
    }
}

/// `out = N(values)`; gives one over the deviation.
#[inline(always)]
fn normalise<S: Lanes>(simd: S, columns: Columns, values: &[f32], out: &mut [f32], real: &[f32]) -> f32 {
    let count = columns.hidden as f32;
    let mut sum = simd.splat(0.0);
    for (_, at) in columns.starts::<S>() {
        sum = simd.add(sum, simd.load(&values[at..]));
    }
    let mean = simd.splat(total(simd, sum) / count);
    let mut squares = simd.splat(0.0);
    for (unit, at) in columns.starts::<S>() {
        let v = simd.mul(simd.sub(simd.load(&values[at..]), mean), simd.load(&real[unit..]));
        squares = simd.fma(v, v, squares);
        simd.store(&mut out[at..], v);
    }
    let inverse = 1.0 / (total(simd, squares) / count + EPSILON).sqrt();
    for (_, at) in columns.starts::<S>() {
        let v = simd.mul(simd.load(&out[at..]), simd.splat(inverse));
        simd.store(&mut out[at..], v);
    }
    inverse
}

/// Backward of `gain * N(values) + bias` in place: from the gradient `d` of the result to that of the values.
/// Adds to the gradients of gain and bias.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn normalise_back<S: Lanes>(
    simd: S,
    columns: Columns,
    d: &mut [f32],
    normal: &[f32],
    inverse: f32,
    gain: &[f32],
    (d_gain, d_bias): (&mut [f32], &mut [f32]),
    real: &[f32],
) {
    let (mut sum, mut along) = (simd.splat(0.0), simd.splat(0.0));
    for (_, at) in columns.starts::<S>() {
        let (v, n) = (simd.load(&d[at..]), simd.load(&normal[at..]));
        let bias = simd.add(simd.load(&d_bias[at..]), v);
        simd.store(&mut d_bias[at..], bias);
        let of_gain = simd.fma(v, n, simd.load(&d_gain[at..]));
        simd.store(&mut d_gain[at..], of_gain);
        let v = simd.mul(v, simd.load(&gain[at..]));
        simd.store(&mut d[at..], v);
        sum = simd.add(sum, v);
        along = simd.fma(v, n, along);
    }
    let count = columns.hidden as f32;
    let mean = simd.splat(total(simd, sum) / count);
    let along = simd.splat(total(simd, along) / count);
    let inverse = simd.splat(inverse);
    for (unit, at) in columns.starts::<S>() {
        let rest = simd.fnma(simd.load(&normal[at..]), along, simd.sub(simd.load(&d[at..]), mean));
        let v = simd.mul(simd.mul(rest, inverse), simd.load(&real[unit..]));
        simd.store(&mut d[at..], v);
    }
}

#[inline(always)]
fn open<S: Lanes>(simd: S, gate: GateActivation, a: S::V) -> S::V {
    match gate {
        GateActivation::Sigmoid => simd.sigmoid(a),
        GateActivation::HardSigmoid => {
            let line = simd.fma(a, simd.splat(1.0 / 6.0), simd.splat(0.5));
            simd.max(simd.min(line, simd.splat(1.0)), simd.splat(0.0))
        }
    }
}

/// `d` times a gate's slope, from its value.
#[inline(always)]
fn open_back<S: Lanes>(simd: S, gate: GateActivation, value: S::V, d: S::V) -> S::V {
    let rest = simd.sub(simd.splat(1.0), value);
    match gate {
        GateActivation::Sigmoid => simd.mul(d, simd.mul(value, rest)),
        GateActivation::HardSigmoid => {
            let d = simd.mul(d, simd.splat(1.0 / 6.0));
            simd.where_positive(value, simd.where_positive(rest, d))
        }
    }
}

#[inline(always)]
fn act<S: Lanes>(simd: S, activation: Activation, a: S::V) -> S::V {
    let zero = simd.splat(0.0);
    match activation {
        Activation::Tanh => simd.tanh(a),
        Activation::Relu => simd.max(a, zero),
        Activation::LeakyRelu => simd.fma(simd.min(a, zero), simd.splat(LEAK), simd.max(a, zero)),
        Activation::Elu => {
            let (p, s) = simd.exp_parts(simd.max(simd.min(a, zero), simd.splat(-87.0)));
            let below = simd.fma(s, p, simd.sub(s, simd.splat(1.0)));
            simd.add(below, simd.max(a, zero))
        }
        Activation::Silu => simd.mul(a, simd.sigmoid(a)),
        Activation::HardTanh => simd.max(simd.min(a, simd.splat(1.0)), simd.splat(-1.0)),
    }
}

/// `d` times the slope at `a`.
#[inline(always)]
fn act_back<S: Lanes>(simd: S, activation: Activation, a: S::V, d: S::V) -> S::V {
    let one = simd.splat(1.0);
    match activation {
        Activation::Tanh => {
            let t = simd.tanh(a);
            simd.fnma(simd.mul(t, t), d, d)
        }
        Activation::Relu => simd.where_positive(a, d),
        Activation::LeakyRelu => {
            let above = simd.where_positive(a, d);
            simd.fma(simd.sub(d, above), simd.splat(LEAK), above)
        }
        Activation::Elu => simd.mul(d, simd.exp_negative(simd.min(a, simd.splat(0.0)))),
        Activation::Silu => {
            let s = simd.sigmoid(a);
            simd.mul(d, simd.fma(simd.mul(a, s), simd.sub(one, s), s))
        }
        Activation::HardTanh => {
            simd.where_positive(simd.sub(one, a), simd.where_positive(simd.add(one, a), d))
        }
    }
}

/// `d` times the slope of a candidate's non-linearity, from its value, or from what it was given where the value does
/// not tell.
#[inline(always)]
fn bend<S: Lanes>(simd: S, activation: Activation, value: S::V, asked: &[f32], at: usize, d: S::V) -> S::V {
    match activation {
        Activation::Tanh => simd.mul(d, simd.fnma(value, value, simd.splat(1.0))),
        other => act_back(simd, other, simd.load(&asked[at..]), d),
    }
}

/// Zoneout of a row: `share` of its new values and the rest of the last ones. Nothing without a share.
#[inline(always)]
fn zone_out<S: Lanes>(simd: S, share: &Tile<'_, 1>, past: &[f32], now: &mut [f32]) {
    if share.width() == 0 {
        return;
    }
    for at in (0..now.len()).step_by(S::N) {
        let share = simd.load(&share.row(0)[at..]);
        let rest = simd.mul(simd.sub(simd.splat(1.0), share), simd.load(&past[at..]));
        let mixed = simd.fma(share, simd.load(&now[at..]), rest);
        simd.store(&mut now[at..], mixed);
    }
}

/// A row of one step: one sequence, all units.
pub(crate) struct RowForward<'a> {
    pub(crate) layer: &'a Layer,
    /// 0, or 1 once a GRU that resets before its product, or an LSTM that projects, has its second product.
    pub(crate) phase: usize,
    pub(crate) terms: Terms<'a>,
    /// `W x`, where it is not in `gates`.
    pub(crate) x: Option<&'a [f32]>,
    /// `U h`; in phase 1 `Un (r * h)` or `W_hr (o * tanh(c))`.
    pub(crate) sums: &'a [f32],
    pub(crate) past_h: &'a [f32],
    pub(crate) past_c: &'a [f32],
    /// In: `W x`, if made ahead. Out: the gates' values; of a vanilla cell what its non-linearity is given.
    pub(crate) gates: &'a mut [f32],
    pub(crate) kept: &'a mut [f32],
    /// In phase 0 of an LSTM that projects: `o * tanh(c)`.
    pub(crate) h: &'a mut [f32],
    pub(crate) c: &'a mut [f32],
    /// Empty where nobody asks for it.
    pub(crate) extra: &'a mut [f32],
    pub(crate) y: &'a mut [f32],
    /// Takes `h` as the product reads it, where some of it drops out.
    pub(crate) seen: &'a mut [f32],
    pub(crate) factors: Factors<'a, 1>,
}

impl RowForward<'_> {
    fn columns(&self, gate: usize, lanes: usize) -> Columns {
        let gates = self.layer.cell.gates();
        Columns { gate, gates, groups: self.terms.real.len() / lanes, hidden: self.layer.hidden }
    }

    /// Finishes a gate's sums: normalised, if that is asked for, and with their bias.
    #[inline(always)]
    fn given<S: Lanes>(&mut self, simd: S, gate: usize) {
        let columns = self.columns(gate, S::N);
        let Terms { gain, bias, real, .. } = self.terms;
        if self.terms.norms() {
            let kept = Kept::split(self.kept, columns.gates, real.len());
            kept.inverse[gate] = normalise(simd, columns, self.gates, kept.gates, real);
            for (_, at) in columns.starts::<S>() {
                let normal = simd.load(&kept.gates[at..]);
                let a = simd.fma(simd.load(&gain[at..]), normal, simd.load(&bias[at..]));
                simd.store(&mut self.gates[at..], a);
            }
        } else {
            for (_, at) in columns.starts::<S>() {
                let a = simd.add(simd.load(&self.gates[at..]), simd.load(&bias[at..]));
                simd.store(&mut self.gates[at..], a);
            }
        }
    }

    /// `gates = W x + U h` for the first gates.
    #[inline(always)]
    fn add<S: Lanes>(&mut self, simd: S, summed: usize) {
        let Columns { gates, groups, .. } = self.columns(0, S::N);
        for j in 0..groups {
            for gate in 0..gates {
                let at = (j * gates + gate) * S::N;
                let mut a = match self.x {
                    Some(x) => simd.load(&x[at..]),
                    None => simd.load(&self.gates[at..]),
                };
                if gate < summed {
                    a = simd.add(a, simd.load(&self.sums[at..]));
                }
                simd.store(&mut self.gates[at..], a);
            }
        }
    }

    #[inline(always)]
    fn rnn<S: Lanes>(&mut self, simd: S, activation: Activation) {
        self.add(simd, 1);
        self.given(simd, 0);
        for (unit, at) in self.columns(0, S::N).starts::<S>() {
            let h = act(simd, activation, simd.load(&self.gates[at..]));
            simd.store(&mut self.h[unit..], h);
        }
    }

    #[inline(always)]
    fn lstm<S: Lanes>(&mut self, simd: S) {
        let units = self.terms.real.len();
        let (gate, peephole) = (self.layer.options.gate, self.terms.peephole);
        let activation = self.layer.options.activation;
        let bends = activation != Activation::Tanh;
        let (norms, peeps) = (self.terms.norms(), self.terms.peeps());
        self.add(simd, 4);
        if peeps {
            for (unit, at) in self.columns(0, S::N).starts::<S>() {
                let c = simd.load(&self.past_c[unit..]);
                for k in 0..2 {
                    let at = at + k * S::N;
                    let a = simd.fma(simd.load(&peephole[k][unit..]), c, simd.load(&self.gates[at..]));
                    simd.store(&mut self.gates[at..], a);
                }
            }
        }
        for k in 0..3 {
            self.given(simd, k);
        }
        for (unit, at) in self.columns(0, S::N).starts::<S>() {
            let of = |k: usize, gates: &[f32]| simd.load(&gates[at + k * S::N..]);
            let i = open(simd, gate, of(0, self.gates));
            let f = open(simd, gate, of(1, self.gates));
            let a = of(2, self.gates);
            let g = act(simd, activation, a);
            if bends {
                simd.store(&mut Kept::split(self.kept, 4, units).asked[unit..], a);
            }
            let update = simd.mul(i, times(simd, g, &self.factors.update, 0, unit));
            let c = simd.fma(f, simd.load(&self.past_c[unit..]), update);
            simd.store(&mut self.c[unit..], c);
            for (k, v) in [i, f, g].into_iter().enumerate() {
                simd.store(&mut self.gates[at + k * S::N..], v);
            }
            if peeps {
                let o = simd.fma(simd.load(&peephole[2][unit..]), c, of(3, self.gates));
                simd.store(&mut self.gates[at + 3 * S::N..], o);
            }
        }
        self.given(simd, 3);
        let columns = Columns { gate: 0, gates: 1, ..self.columns(0, S::N) };
        let kept = Kept::split(self.kept, 4, units);
        if norms {
            kept.inverse[4] = normalise(simd, columns, self.c, kept.cell, self.terms.real);
        }
        if peeps {
            kept.new_c.copy_from_slice(&self.c[..units]);
        }
        let [gain, bias] = self.terms.cell;
        for (unit, _) in columns.starts::<S>() {
            let c = match norms {
                true => simd.fma(
                    simd.load(&gain[unit..]),
                    simd.load(&kept.cell[unit..]),
                    simd.load(&bias[unit..]),
                ),
                false => simd.load(&self.c[unit..]),
            };
            let act_c = act(simd, activation, c);
            if bends {
                simd.store(&mut kept.asked[units + unit..], c);
            }
            let at = 4 * unit + 3 * S::N;
            let o = open(simd, gate, simd.load(&self.gates[at..]));
            simd.store(&mut self.gates[at..], o);
            simd.store(&mut self.h[unit..], simd.mul(o, act_c));
            if !self.extra.is_empty() {
                simd.store(&mut self.extra[unit..], act_c);
            }
        }
    }

    /// r and z, and what the candidate's product reads or is made of.
    #[inline(always)]
    fn reset<S: Lanes>(&mut self, simd: S, reset: Reset) {
        let gate = self.layer.options.gate;
        self.add(simd, 2);
        self.given(simd, 0);
        self.given(simd, 1);
        for (unit, at) in self.columns(0, S::N).starts::<S>() {
            let r = open(simd, gate, simd.load(&self.gates[at..]));
            let z = open(simd, gate, simd.load(&self.gates[at + S::N..]));
            simd.store(&mut self.gates[at..], r);
            simd.store(&mut self.gates[at + S::N..], z);
            let extra = match reset {
                Reset::After => {
                    let at = at + 2 * S::N;
                    let hn = simd.add(simd.load(&self.sums[at..]), simd.load(&self.terms.bias_inside[at..]));
                    let a = simd.fma(r, hn, simd.load(&self.gates[at..]));
                    simd.store(&mut self.gates[at..], a);
                    hn
                }
                Reset::Before => simd
                    .mul(r, times(simd, simd.load(&self.past_h[unit..]), &self.factors.recurrent, 0, unit)),
            };
            if !self.extra.is_empty() {
                simd.store(&mut self.extra[unit..], extra);
            }
        }
    }

    /// The candidate and `h`.
    #[inline(always)]
    fn blend<S: Lanes>(&mut self, simd: S) {
        self.given(simd, 2);
        let activation = self.layer.options.activation;
        for (unit, at) in self.columns(2, S::N).starts::<S>() {
            let a = simd.load(&self.gates[at..]);
            if activation != Activation::Tanh {
                let units = self.terms.real.len();
                simd.store(&mut Kept::split(self.kept, 3, units).asked[unit..], a);
            }
            let n = act(simd, activation, a);
            simd.store(&mut self.gates[at..], n);
            let z = simd.load(&self.gates[at - S::N..]);
            let n = times(simd, n, &self.factors.update, 0, unit);
            let h = simd.fma(z, simd.sub(simd.load(&self.past_h[unit..]), n), n);
            simd.store(&mut self.h[unit..], h);
        }
    }
}

impl<S: Lanes> Job<S> for RowForward<'_> {
    type Output = ();
    #[inline(always)]
    fn run(mut self, simd: S) {
        let Factors { hidden, cell, recurrent, .. } = self.factors;
        match (self.layer.cell, self.phase) {
            (Cell::Rnn(activation), _) => self.rnn(simd, activation),
            (Cell::Lstm, 0) => {
                self.lstm(simd);
                zone_out(simd, &cell, self.past_c, self.c);
                if self.layer.options.projection.is_some() {
                    return;
                }
            }
            (Cell::Lstm, _) => self.h.copy_from_slice(&self.sums[..self.h.len()]),
            (Cell::Gru(reset), 0) => {
                self.reset(simd, reset);
                if reset == Reset::Before {
                    return;
                }
                self.blend(simd);
            }
            (Cell::Gru(_), _) => {
                for (unit, at) in self.columns(2, S::N).starts::<S>() {
                    let a = simd.add(simd.load(&self.gates[at..]), simd.load(&self.sums[unit..]));
                    simd.store(&mut self.gates[at..], a);
                }
                self.blend(simd);
            }
        }
        zone_out(simd, &hidden, self.past_h, self.h);
        self.y.copy_from_slice(&self.h[..self.y.len()]);
        if !self.seen.is_empty() {
            for at in (0..self.h.len()).step_by(S::N) {
                let v = times(simd, simd.load(&self.h[at..]), &recurrent, 0, at);
                simd.store(&mut self.seen[at..], v);
            }
        }
    }
}

/// Gradients of what all rows share, one set a sequence so that their sums have one order: gain of the gates, bias
/// of the gates, gain and bias of `c`, peepholes.
pub(crate) fn shared_floats(layer: &Layer, sizes: &Sizes) -> usize {
    match layer.options.norm || layer.options.peephole {
        true => (2 * sizes.gates + 5) * sizes.units(),
        false => 0,
    }
}

/// A row of one step backward.
pub(crate) struct RowBackward<'a> {
    pub(crate) layer: &'a Layer,
    pub(crate) phase: usize,
    pub(crate) terms: Terms<'a>,
    /// Gradient of the output, `[P]`; `None` where it is zero.
    pub(crate) dy: Option<&'a [f32]>,
    /// What the product with the next step's gradients gives; in phase 1 that with `Un` or `W_hr`.
    pub(crate) through: Option<&'a [f32]>,
    pub(crate) past_h: &'a [f32],
    pub(crate) past_c: &'a [f32],
    pub(crate) extra: &'a [f32],
    pub(crate) kept: &'a mut [f32],
    /// In: the gates' values. Out: the gradients of their sums.
    pub(crate) gates: &'a mut [f32],
    /// The same as the recurrent product sees them, where it differs; of an LSTM that projects the gradient of `h`.
    pub(crate) recurrent: &'a mut [f32],
    pub(crate) carry_h: &'a mut [f32],
    pub(crate) carry_c: &'a mut [f32],
    pub(crate) shared: &'a mut [f32],
    /// `[2, units]`, the worker's own.
    pub(crate) room: &'a mut [f32],
    pub(crate) factors: Factors<'a, 1>,
}

impl RowBackward<'_> {
    fn columns(&self, gate: usize, lanes: usize) -> Columns {
        let gates = self.layer.cell.gates();
        Columns { gate, gates, groups: self.terms.real.len() / lanes, hidden: self.layer.hidden }
    }

    /// From the gradient of what a gate's non-linearity is given to that of its sums, in place.
    #[inline(always)]
    fn back<S: Lanes>(&mut self, simd: S, gate: usize) {
        if !self.terms.norms() {
            return;
        }
        let columns = self.columns(gate, S::N);
        let Terms { gain, real, .. } = self.terms;
        let kept = Kept::split(self.kept, columns.gates, real.len());
        let shared = self.shared.split_at_mut(columns.gates * real.len());
        normalise_back(simd, columns, self.gates, kept.gates, kept.inverse[gate], gain, shared, real);
    }

    /// The gradient of the new `h`, into the worker's room or, where it is projected, for a product to read; zoneout
    /// leaves its part in `carry_h`.
    #[inline(always)]
    fn gradient_of_h<S: Lanes>(&mut self, simd: S) {
        let Factors { hidden, recurrent, .. } = self.factors;
        let to = match self.layer.options.projection {
            Some(_) => &mut *self.recurrent,
            None => &mut *self.room,
        };
        for at in (0..self.carry_h.len()).step_by(S::N) {
            let mut dh = simd.load(&self.carry_h[at..]);
            if let Some(dy) = self.dy {
                let dy = &dy[at.min(dy.len())..];
                dh = simd.add(dh, simd.load_part(&dy[..dy.len().min(S::N)]));
            }
            if let Some(through) = self.through {
                dh = simd.add(dh, times(simd, simd.load(&through[at..]), &recurrent, 0, at));
            }
            let mut rest = simd.splat(0.0);
            if hidden.width() > 0 {
                let new = times(simd, dh, &hidden, 0, at);
                (dh, rest) = (new, simd.sub(dh, new));
            }
            simd.store(&mut self.carry_h[at..], rest);
            simd.store(&mut to[at..], dh);
        }
    }

    #[inline(always)]
    fn rnn<S: Lanes>(&mut self, simd: S, activation: Activation) {
        for at in (0..self.terms.real.len()).step_by(S::N) {
            let (a, dh) = (simd.load(&self.gates[at..]), simd.load(&self.room[at..]));
            simd.store(&mut self.gates[at..], act_back(simd, activation, a, dh));
        }
        self.back(simd, 0);
    }

    #[inline(always)]
    fn lstm<S: Lanes>(&mut self, simd: S) {
        let units = self.terms.real.len();
        let (gate, peephole) = (self.layer.options.gate, self.terms.peephole);
        let activation = self.layer.options.activation;
        let peeps = self.terms.peeps();
        let asked = &*Kept::split(self.kept, 4, units).asked;
        for at in (0..units).step_by(S::N) {
            let of_o = 4 * at + 3 * S::N;
            let o = simd.load(&self.gates[of_o..]);
            let act_c = simd.load(&self.extra[at..]);
            let dh = simd.load(&self.room[at..]);
            let d_o = open_back(simd, gate, o, simd.mul(dh, act_c));
            simd.store(&mut self.gates[of_o..], d_o);
            let dc = bend(simd, activation, act_c, asked, units + at, simd.mul(dh, o));
            simd.store(&mut self.room[units + at..], dc);
        }
        self.back(simd, 3);
        if self.terms.norms() {
            let kept = Kept::split(self.kept, 4, units);
            let (_, shared) = self.shared.split_at_mut(8 * units);
            let columns = Columns { gate: 0, gates: 1, groups: units / S::N, hidden: self.layer.hidden };
            let Terms { cell: [gain, _], real, .. } = self.terms;
            let d = &mut self.room[units..];
            let shared = shared.split_at_mut(units);
            normalise_back(simd, columns, d, kept.cell, kept.inverse[4], gain, shared, real);
        }
        let asked = &*Kept::split(self.kept, 4, units).asked;
        for at in (0..units).step_by(S::N) {
            let of = |k: usize, gates: &[f32]| simd.load(&gates[4 * at + k * S::N..]);
            let [i, f, g] = [0, 1, 2].map(|k| of(k, self.gates));
            let mut dc = simd.load(&self.carry_c[at..]);
            let mut rest = simd.splat(0.0);
            if self.factors.cell.width() > 0 {
                let new = times(simd, dc, &self.factors.cell, 0, at);
                (dc, rest) = (new, simd.sub(dc, new));
            }
            dc = simd.add(dc, simd.load(&self.room[units + at..]));
            if peeps {
                dc = simd.fma(of(3, self.gates), simd.load(&peephole[2][at..]), dc);
            }
            let update = times(simd, dc, &self.factors.update, 0, at);
            let di = open_back(simd, gate, i, simd.mul(update, g));
            let df = open_back(simd, gate, f, simd.mul(dc, simd.load(&self.past_c[at..])));
            let dg = bend(simd, activation, g, asked, at, simd.mul(update, i));
            simd.store(&mut self.carry_c[at..], simd.fma(dc, f, rest));
            for (k, d) in [di, df, dg].into_iter().enumerate() {
                simd.store(&mut self.gates[4 * at + k * S::N..], d);
            }
        }
        for k in 0..3 {
            self.back(simd, k);
        }
        if peeps {
            let kept = Kept::split(self.kept, 4, units);
            for at in (0..units).step_by(S::N) {
                let mut dc = simd.load(&self.carry_c[at..]);
                for (k, peephole) in peephole.into_iter().enumerate() {
                    let gate = if k == 2 { 3 } else { k };
                    let d = simd.load(&self.gates[4 * at + gate * S::N..]);
                    let read = if k == 2 { &*kept.new_c } else { self.past_c };
                    let to = &mut self.shared[(10 + k) * units + at..];
                    let sum = simd.fma(d, simd.load(&read[at..]), simd.load(to));
                    simd.store(to, sum);
                    if k < 2 {
                        dc = simd.fma(d, simd.load(&peephole[at..]), dc);
                    }
                }
                simd.store(&mut self.carry_c[at..], dc);
            }
        }
    }

    #[inline(always)]
    fn gru<S: Lanes>(&mut self, simd: S, reset: Reset) {
        let one = simd.splat(1.0);
        let gate = self.layer.options.gate;
        let activation = self.layer.options.activation;
        let columns = self.columns(0, S::N);
        let asked = &*Kept::split(self.kept, 3, self.terms.real.len()).asked;
        for (unit, at) in columns.starts::<S>() {
            let z = simd.load(&self.gates[at + S::N..]);
            let n = simd.load(&self.gates[at + 2 * S::N..]);
            let dh = simd.load(&self.room[unit..]);
            let past = simd.load(&self.past_h[unit..]);
            let kept = times(simd, n, &self.factors.update, 0, unit);
            let dz = open_back(simd, gate, z, simd.mul(dh, simd.sub(past, kept)));
            let dn = simd.mul(times(simd, dh, &self.factors.update, 0, unit), simd.sub(one, z));
            simd.store(&mut self.gates[at + S::N..], dz);
            simd.store(&mut self.gates[at + 2 * S::N..], bend(simd, activation, n, asked, unit, dn));
            let carry = simd.fma(dh, z, simd.load(&self.carry_h[unit..]));
            simd.store(&mut self.carry_h[unit..], carry);
        }
        self.back(simd, 1);
        self.back(simd, 2);
        for (unit, at) in columns.starts::<S>() {
            let dn = simd.load(&self.gates[at + 2 * S::N..]);
            if reset == Reset::Before {
                simd.store(&mut self.recurrent[unit..], dn);
                continue;
            }
            let r = simd.load(&self.gates[at..]);
            let dr = open_back(simd, gate, r, simd.mul(dn, simd.load(&self.extra[unit..])));
            simd.store(&mut self.recurrent[at + 2 * S::N..], simd.mul(dn, r));
            simd.store(&mut self.gates[at..], dr);
        }
        if reset == Reset::After {
            self.back(simd, 0);
            for (_, at) in columns.starts::<S>() {
                for at in [at, at + S::N] {
                    simd.store(&mut self.recurrent[at..], simd.load(&self.gates[at..]));
                }
            }
        }
    }

    /// The reset gate, from what the product with `Un` gives.
    #[inline(always)]
    fn gru_reset<S: Lanes>(&mut self, simd: S) {
        let gate = self.layer.options.gate;
        let through = self.through.unwrap_or_default();
        for (unit, at) in self.columns(0, S::N).starts::<S>() {
            let d = times(simd, simd.load(&through[unit..]), &self.factors.recurrent, 0, unit);
            let r = simd.load(&self.gates[at..]);
            let dr = open_back(simd, gate, r, simd.mul(d, simd.load(&self.past_h[unit..])));
            simd.store(&mut self.gates[at..], dr);
            let carry = simd.fma(d, r, simd.load(&self.carry_h[unit..]));
            simd.store(&mut self.carry_h[unit..], carry);
        }
        self.back(simd, 0);
    }
}

impl<S: Lanes> Job<S> for RowBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run(mut self, simd: S) {
        if self.phase == 0 {
            self.gradient_of_h(simd);
        }
        match (self.layer.cell, self.phase) {
            (Cell::Rnn(activation), _) => self.rnn(simd, activation),
            (Cell::Lstm, 0) if self.layer.options.projection.is_some() => {}
            (Cell::Lstm, 0) => self.lstm(simd),
            (Cell::Lstm, _) => {
                let units = self.terms.real.len();
                self.room[..units].copy_from_slice(&self.through.unwrap_or_default()[..units]);
                self.lstm(simd);
            }
            (Cell::Gru(reset), 0) => self.gru(simd, reset),
            (Cell::Gru(_), _) => self.gru_reset(simd),
        }
    }
}
