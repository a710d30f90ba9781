//! The specification: the same passes in plain loops, one sequence after the other, in f32 or f64.
//!
//! Slow on purpose. The fused kernels are tested against this, and this against finite differences.
//! Buffers are [`Layout::Padded`](crate::Layout::Padded) and dense; nothing is written into padding but
//! zeros.

use crate::attention::{Attention, Score};
use crate::chance::{StepMask, StepNoise};
use crate::shape::{Activation, Batch, Cell, Direction, GateActivation, LEAK, Layer, Reset};
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

/// A float the reference can calculate with.
pub trait Real:
    Copy
    + Default
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + From<f32>
{
    /// `tanh(self)`
    fn tanh(self) -> Self;
    /// `1 / (1 + e^-self)`
    fn sigmoid(self) -> Self;
    /// `e^self`
    fn exp(self) -> Self;
    /// The square root.
    fn sqrt(self) -> Self;
}

impl Real for f32 {
    fn tanh(self) -> f32 {
        f32::tanh(self)
    }
    fn sigmoid(self) -> f32 {
        1.0 / (1.0 + (-self).exp())
    }
    fn exp(self) -> f32 {
        f32::exp(self)
    }
    fn sqrt(self) -> f32 {
        f32::sqrt(self)
    }
}

impl Real for f64 {
    fn tanh(self) -> f64 {
        f64::tanh(self)
    }
    fn sigmoid(self) -> f64 {
        1.0 / (1.0 + (-self).exp())
    }
    fn exp(self) -> f64 {
        f64::exp(self)
    }
    fn sqrt(self) -> f64 {
        f64::sqrt(self)
    }
}

/// A layer's weights (or their gradients), as in [`crate::Weights`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weights<R> {
    /// `[G·H, I]`
    pub input: Vec<R>,
    /// `[G·H, P]`
    pub recurrent: Vec<R>,
    /// `[G·H]`
    pub bias_input: Vec<R>,
    /// `[G·H]`
    pub bias_recurrent: Vec<R>,
    /// `[O, H]`; see [`Layer::option_length`].
    pub options: Vec<R>,
}

/// A state (or its gradient); `c` is zeros for cells without one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State<R> {
    /// The hidden value, `[B, P]`.
    pub h: Vec<R>,
    /// The cell value, `[B, H]`.
    pub c: Vec<R>,
}

/// Gradients of all that went into a pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradients<R> {
    /// `[B, T, I]`
    pub x: Vec<R>,
    /// Of the initial state.
    pub initial: State<R>,
    /// Of the weights.
    pub weights: Weights<R>,
}

/// What one step of one sequence leaves for backward.
struct Step<R> {
    /// Gate values after their non-linearities, `[G·H]`; of a vanilla cell what its non-linearity is given.
    gates: Vec<R>,
    /// GRU, reset after: `Un h + cn`, `[H]`.
    candidate: Vec<R>,
    /// What the candidate's non-linearity is given, `[H]`: g of an LSTM, n of a GRU.
    asked: Vec<R>,
    /// Of each gate's sum, where they are normalised.
    normal: Vec<Normal<R>>,
    /// Of `c`.
    normal_c: Normal<R>,
    /// LSTM: what its tanh is given on the way to `h`.
    seen_c: Vec<R>,
    /// LSTM: `o * tanh(c)`, which a projection makes `h` of.
    full: Vec<R>,
    /// The new values, before zoneout.
    new_h: Vec<R>,
    new_c: Vec<R>,
    h: Vec<R>,
    c: Vec<R>,
}

/// What layer normalisation makes of values.
#[derive(Clone, Default)]
struct Normal<R> {
    /// Mean 0, variance 1.
    values: Vec<R>,
    /// One over the deviation.
    inverse: R,
}

/// Added to a variance before its root.
const EPSILON: f32 = 1e-5;

fn mean<R: Real>(values: impl Iterator<Item = R>, count: usize) -> R {
    let mut sum = R::default();
    values.for_each(|value| sum += value);
    sum / R::from(count as f32)
}

impl<R: Real> Normal<R> {
    fn of(values: &[R]) -> Normal<R> {
        let n = values.len();
        let middle = mean(values.iter().copied(), n);
        let variance = mean(values.iter().map(|&v| (v - middle) * (v - middle)), n);
        let inverse = one::<R>() / (variance + R::from(EPSILON)).sqrt();
        Normal { values: values.iter().map(|&v| (v - middle) * inverse).collect(), inverse }
    }

    /// The gradient of what was normalised, from that of the values.
    fn back(&self, d: &[R]) -> Vec<R> {
        let n = d.len();
        let middle = mean(d.iter().copied(), n);
        let along = mean(d.iter().zip(&self.values).map(|(&d, &v)| d * v), n);
        d.iter().zip(&self.values).map(|(&d, &v)| self.inverse * (d - middle - v * along)).collect()
    }
}

fn act<R: Real>(activation: Activation, a: R) -> R {
    let zero = R::default();
    match activation {
        Activation::Tanh => a.tanh(),
        Activation::Relu if a > zero => a,
        Activation::Relu => zero,
        Activation::LeakyRelu if a > zero => a,
        Activation::LeakyRelu => R::from(LEAK) * a,
        Activation::Elu if a > zero => a,
        Activation::Elu => a.exp() - one(),
        Activation::Silu => a * a.sigmoid(),
        Activation::HardTanh if a > one() => one(),
        Activation::HardTanh if a < -one::<R>() => -one::<R>(),
        Activation::HardTanh => a,
    }
}

/// The slope at `a`.
fn slope<R: Real>(activation: Activation, a: R) -> R {
    let zero = R::default();
    match activation {
        Activation::Tanh => one::<R>() - a.tanh() * a.tanh(),
        Activation::Relu | Activation::LeakyRelu | Activation::Elu if a > zero => one(),
        Activation::Relu => zero,
        Activation::LeakyRelu => R::from(LEAK),
        Activation::Elu => a.exp(),
        Activation::Silu => a.sigmoid() * (one::<R>() + a * (one::<R>() - a.sigmoid())),
        Activation::HardTanh if a < one() && a > -one::<R>() => one(),
        Activation::HardTanh => zero,
    }
}

fn open<R: Real>(gate: GateActivation, a: R) -> R {
    match gate {
        GateActivation::Sigmoid => a.sigmoid(),
        GateActivation::HardSigmoid => {
            let line = a / R::from(6.0) + R::from(0.5);
            if line > one() {
                one()
            } else if line < R::default() {
                R::default()
            } else {
                line
            }
        }
    }
}

/// A gate's slope, from its value.
fn gate_slope<R: Real>(gate: GateActivation, value: R) -> R {
    match gate {
        GateActivation::Sigmoid => value * (one::<R>() - value),
        GateActivation::HardSigmoid if value > R::default() && value < one() => one::<R>() / R::from(6.0),
        GateActivation::HardSigmoid => R::default(),
    }
}

/// What chance does to one step of one sequence: what multiplies each unit.
struct Factors<R> {
    /// Share of the new `h`, and of the new `c`.
    hidden: Vec<R>,
    cell: Vec<R>,
    /// Of `h` as the recurrent weights see it.
    recurrent: Vec<R>,
    /// Of the candidate.
    update: Vec<R>,
}

impl<R: Real> Factors<R> {
    fn none(units: usize) -> Factors<R> {
        let ones = || vec![one(); units];
        Factors { hidden: ones(), cell: ones(), recurrent: ones(), update: ones() }
    }

    /// Those of sequence `b` at time `t`.
    fn of(layer: &Layer, batch: &Batch, noise: Option<&StepNoise<'_>>, b: usize, t: usize) -> Factors<R> {
        let n = layer.hidden;
        let Some(noise) = noise else {
            let share = |rate: f32| vec![R::from(1.0 - rate); n];
            let (hidden, cell) = (share(layer.zoneout.hidden), share(layer.zoneout.cell));
            return Factors { hidden, cell, ..Factors::none(n) };
        };
        let rank = batch.order().iter().position(|&place| place == b).expect("a sequence of the batch");
        let of = |which: StepMask, row: usize| -> Vec<R> {
            let Some(mask) = noise.mask(layer, which) else { return vec![one(); n] };
            let zones = matches!(which, StepMask::Hidden | StepMask::Cell);
            let factor = |unit: usize| match mask.factor((row * n + unit) as u32) {
                kept if kept > 0.0 && zones => one(),
                factor => R::from(factor),
            };
            (0..n).map(factor).collect()
        };
        let row = batch.frame(t, rank);
        Factors {
            hidden: of(StepMask::Hidden, row),
            cell: of(StepMask::Cell, row),
            recurrent: of(StepMask::Recurrent, noise.names[b] as usize),
            update: of(StepMask::Update, row),
        }
    }
}

fn product<R: Real>(a: &[R], b: &[R]) -> Vec<R> {
    a.iter().zip(b).map(|(&a, &b)| a * b).collect()
}

/// `weight[row] · v`
fn dot<R: Real>(weight: &[R], row: usize, v: &[R]) -> R {
    let mut sum = R::default();
    for (&w, &v) in weight[row * v.len()..].iter().zip(v) {
        sum += w * v;
    }
    sum
}

fn one<R: Real>() -> R {
    R::from(1.0)
}

fn step<R: Real>(
    layer: &Layer,
    weights: &Weights<R>,
    x: &[R],
    h: &[R],
    c: &[R],
    factors: &Factors<R>,
) -> Step<R> {
    let from_x = |row: usize| dot(&weights.input, row, x);
    let from_h = |row: usize, h: &[R]| dot(&weights.recurrent, row, h);
    step_of(layer, weights, from_x, from_h, h, c, factors)
}

/// A step, given what a row of each weight makes of the input and of a state.
fn step_of<R: Real>(
    layer: &Layer,
    weights: &Weights<R>,
    from_x: impl Fn(usize) -> R,
    from_h: impl Fn(usize, &[R]) -> R,
    h: &[R],
    c: &[R],
    factors: &Factors<R>,
) -> Step<R> {
    let n = layer.hidden;
    let gates = layer.cell.gates();
    let options = layer.options;
    let Weights { bias_input, bias_recurrent, .. } = weights;
    let seen = product(h, &factors.recurrent);
    let mut s = Step {
        gates: vec![R::default(); gates * n],
        candidate: vec![R::default(); n],
        asked: vec![R::default(); n],
        normal: vec![Normal::default(); gates],
        normal_c: Normal::default(),
        seen_c: Vec::new(),
        full: Vec::new(),
        new_h: Vec::new(),
        new_c: Vec::new(),
        h: vec![R::default(); layer.output()],
        c: c.to_vec(),
    };
    // A gate's sum with what is added to it apart, before its non-linearity.
    let given = |normal: &mut Normal<R>, gate: usize, sums: Vec<R>, apart: bool| -> Vec<R> {
        let bias = |u: usize| {
            let row = gate * n + u;
            if apart { bias_input[row] } else { bias_input[row] + bias_recurrent[row] }
        };
        if !options.norm {
            return (0..n).map(|u| sums[u] + bias(u)).collect();
        }
        *normal = Normal::of(&sums);
        (0..n).map(|u| weights.options[gate * n + u] * normal.values[u] + bias(u)).collect()
    };
    let sums = |gate: usize, h: &[R]| -> Vec<R> {
        (0..n).map(|u| from_x(gate * n + u) + from_h(gate * n + u, h)).collect()
    };
    match layer.cell {
        Cell::Rnn(activation) => {
            s.gates = given(&mut s.normal[0], 0, sums(0, &seen), false);
            s.h = s.gates.iter().map(|&a| act(activation, a)).collect();
        }
        Cell::Lstm => {
            let gate = |s: &mut Step<R>, k: usize, peephole: Option<(usize, &[R])>| {
                let mut sums = sums(k, &seen);
                if let Some((which, c)) = peephole.filter(|_| options.peephole) {
                    let first = layer.term_length() - (3 - which) * n;
                    for u in 0..n {
                        sums[u] += weights.options[first + u] * c[u];
                    }
                }
                for (u, a) in given(&mut s.normal[k], k, sums, false).into_iter().enumerate() {
                    if k == 2 {
                        s.asked[u] = a;
                    }
                    s.gates[k * n + u] =
                        if k == 2 { act(options.activation, a) } else { open(options.gate, a) };
                }
            };
            gate(&mut s, 0, Some((0, c)));
            gate(&mut s, 1, Some((1, c)));
            gate(&mut s, 2, None);
            for u in 0..n {
                let (i, f, g) = (s.gates[u], s.gates[n + u], s.gates[2 * n + u]);
                s.c[u] = f * c[u] + i * (factors.update[u] * g);
            }
            let new_c = s.c.clone();
            gate(&mut s, 3, Some((2, &new_c)));
            s.seen_c = new_c;
            if options.norm {
                s.normal_c = Normal::of(&s.c);
                let (gain, bias) = (&weights.options[4 * n..], &weights.options[5 * n..]);
                s.seen_c = (0..n).map(|u| gain[u] * s.normal_c.values[u] + bias[u]).collect();
            }
            s.full = (0..n).map(|u| s.gates[3 * n + u] * act(options.activation, s.seen_c[u])).collect();
            s.h = match options.projection {
                Some(values) => {
                    let weight = &weights.options[layer.term_length()..];
                    (0..values).map(|k| dot(weight, k, &s.full)).collect()
                }
                None => s.full.clone(),
            };
        }
        Cell::Gru(reset) => {
            for k in 0..2 {
                let given = given(&mut s.normal[k], k, sums(k, &seen), false);
                for (u, a) in given.into_iter().enumerate() {
                    s.gates[k * n + u] = open(options.gate, a);
                }
            }
            let reset_h: Vec<R> = (0..n).map(|u| s.gates[u] * seen[u]).collect();
            let candidate = match reset {
                Reset::After => {
                    s.candidate =
                        (0..n).map(|u| from_h(2 * n + u, &seen) + bias_recurrent[2 * n + u]).collect();
                    let sums = (0..n).map(|u| from_x(2 * n + u) + s.gates[u] * s.candidate[u]).collect();
                    given(&mut s.normal[2], 2, sums, true)
                }
                Reset::Before => given(&mut s.normal[2], 2, sums(2, &reset_h), false),
            };
            for (u, a) in candidate.into_iter().enumerate() {
                let z = s.gates[n + u];
                let candidate = act(options.activation, a);
                s.asked[u] = a;
                s.gates[2 * n + u] = candidate;
                s.h[u] = (one::<R>() - z) * (factors.update[u] * candidate) + z * h[u];
            }
        }
    }
    (s.new_h, s.new_c) = (s.h.clone(), s.c.clone());
    let mix = |share: R, new: R, old: R| share * new + (one::<R>() - share) * old;
    for k in 0..layer.output() {
        s.h[k] = mix(factors.hidden[k], s.new_h[k], h[k]);
    }
    for u in 0..n {
        s.c[u] = mix(factors.cell[u], s.new_c[u], c[u]);
    }
    s
}

/// A vector as integers of ±127 and the scale that makes them values again. The scale of a vector with a
/// value that is not finite is NaN.
#[must_use]
pub fn quantized(values: &[f32]) -> (Vec<i32>, f32) {
    if values.iter().any(|value| !value.is_finite()) {
        return (vec![0; values.len()], f32::NAN);
    }
    let largest = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let inverse = 127.0 / largest;
    if inverse.is_infinite() {
        return (vec![0; values.len()], 0.0);
    }
    let integers = values.iter().map(|value| (value * inverse).round_ties_even() as i32).collect();
    (integers, largest / 127.0)
}

/// `weight[row] · v`, both rounded to eight bits.
fn quantized_dot(weight: &[f32], row: usize, v: &[f32]) -> f32 {
    let (weight, scale) = quantized(&weight[row * v.len()..][..v.len()]);
    let (v, unit) = quantized(v);
    let sum: i32 = weight.iter().zip(&v).map(|(w, v)| w * v).sum();
    unit * scale * sum as f32
}

/// One step of one sequence with weights, input and state rounded to eight bits on their way into the
/// products: what a [`Stepper`](crate::Stepper) with [`StepPrecision::Int8`](crate::StepPrecision::Int8)
/// computes. `x` is `[I]`, the state `[H]`.
///
/// # Panics
/// When a buffer is too short.
#[must_use]
pub fn quantized_step(layer: &Layer, weights: &Weights<f32>, x: &[f32], state: &State<f32>) -> State<f32> {
    let from_x = |row: usize| quantized_dot(&weights.input, row, x);
    let from_h = |row: usize, h: &[f32]| quantized_dot(&weights.recurrent, row, h);
    let factors = Factors::of(layer, &Batch::full(1, 1), None, 0, 0);
    let step = step_of(layer, weights, from_x, from_h, &state.h, &state.c, &factors);
    State { h: step.h, c: step.c }
}

/// The steps of one sequence, in the order they are walked: `(time, what it left)`.
fn walk<R: Real>(
    layer: &Layer,
    batch: &Batch,
    weights: &Weights<R>,
    x: &[R],
    initial: &State<R>,
    noise: Option<&StepNoise<'_>>,
    b: usize,
) -> Vec<(usize, Step<R>)> {
    let (n, p, length) = (layer.hidden, layer.output(), batch.lengths()[b]);
    let mut steps: Vec<(usize, Step<R>)> = Vec::with_capacity(length);
    for s in 0..length {
        let t = match layer.direction {
            Direction::Forward => s,
            Direction::Reverse => length - 1 - s,
        };
        let x = &x[(b * batch.time() + t) * layer.input..][..layer.input];
        let factors = Factors::of(layer, batch, noise, b, t);
        let new = match steps.last() {
            Some((_, last)) => step(layer, weights, x, &last.h, &last.c, &factors),
            None => step(layer, weights, x, &initial.h[b * p..][..p], &initial.c[b * n..][..n], &factors),
        };
        steps.push((t, new));
    }
    steps
}

/// Outputs `[B, T, P]` and the final state of [`crate::forward`], or with noise of [`crate::forward_noisy`].
///
/// # Panics
/// When a buffer is too short.
#[must_use]
pub fn forward<R: Real>(
    layer: &Layer,
    batch: &Batch,
    weights: &Weights<R>,
    x: &[R],
    initial: &State<R>,
    noise: Option<&StepNoise<'_>>,
) -> (Vec<R>, State<R>) {
    let (n, p) = (layer.hidden, layer.output());
    let mut y = vec![R::default(); batch.sequences() * batch.time() * p];
    let mut last = initial.clone();
    for b in 0..batch.sequences() {
        for (t, step) in walk(layer, batch, weights, x, initial, noise, b) {
            y[(b * batch.time() + t) * p..][..p].copy_from_slice(&step.h);
            last.h[b * p..][..p].copy_from_slice(&step.h);
            last.c[b * n..][..n].copy_from_slice(&step.c);
        }
    }
    (y, last)
}

/// The gradients of [`crate::backward`]: `dy` is `[B, T, P]`, `dlast` the gradient of the final state.
///
/// # Panics
/// When a buffer is too short.
#[must_use]
#[allow(clippy::too_many_arguments)]
pub fn backward<R: Real>(
    layer: &Layer,
    batch: &Batch,
    weights: &Weights<R>,
    x: &[R],
    initial: &State<R>,
    dy: &[R],
    dlast: &State<R>,
    noise: Option<&StepNoise<'_>>,
) -> Gradients<R> {
    let (n, p, i) = (layer.hidden, layer.output(), layer.input);
    let zeros = |like: &[R]| vec![R::default(); like.len()];
    let mut d = Gradients {
        x: zeros(x),
        initial: dlast.clone(),
        weights: Weights {
            input: zeros(&weights.input),
            recurrent: zeros(&weights.recurrent),
            bias_input: zeros(&weights.bias_input),
            bias_recurrent: zeros(&weights.bias_recurrent),
            options: zeros(&weights.options),
        },
    };
    let options = layer.options;
    for b in 0..batch.sequences() {
        let steps = walk(layer, batch, weights, x, initial, noise, b);
        for s in (0..steps.len()).rev() {
            let (t, now) = &steps[s];
            let frame = b * batch.time() + t;
            let (past_h, past_c) = match s {
                0 => (&initial.h[b * p..][..p], &initial.c[b * n..][..n]),
                _ => (&steps[s - 1].1.h[..], &steps[s - 1].1.c[..]),
            };
            let mut dh = d.initial.h[b * p..][..p].to_vec();
            for (dh, &dy) in dh.iter_mut().zip(&dy[frame * p..]) {
                *dh += dy;
            }
            let factors = Factors::of(layer, batch, noise, b, *t);
            // Zoneout: a share for the new value, the rest for the last one.
            let mut dpast = vec![R::default(); p];
            let mut dpast_c = vec![R::default(); n];
            let mut dnew_c = vec![R::default(); n];
            for k in 0..p {
                let share = factors.hidden[k];
                (dh[k], dpast[k]) = (dh[k] * share, dh[k] * (one::<R>() - share));
            }
            if options.projection.is_some() {
                let first = layer.term_length();
                let mut full = vec![R::default(); n];
                for k in 0..p {
                    for u in 0..n {
                        full[u] += dh[k] * weights.options[first + k * n + u];
                        d.weights.options[first + k * n + u] += dh[k] * now.full[u];
                    }
                }
                dh = full;
            }
            for u in 0..n {
                let (dc, share) = (d.initial.c[b * n + u], factors.cell[u]);
                (dnew_c[u], dpast_c[u]) = (dc * share, dc * (one::<R>() - share));
            }
            let past_seen = product(past_h, &factors.recurrent);
            // Gradients of what each gate's non-linearity is given, those of its two sums, as the input and as the
            // recurrent weights see them, and what the recurrent weights multiplied.
            let rows = layer.cell.gates() * n;
            let mut given = vec![R::default(); rows];
            let (mut dx_sum, mut dh_sum) = (given.clone(), given.clone());
            let mut seen = vec![past_seen.clone(); layer.cell.gates()];
            let d_options = &mut d.weights.options;
            // From a gate's non-linearity to its sums.
            let mut back = |k: usize, d_given: Vec<R>| -> Vec<R> {
                given[k * n..][..n].copy_from_slice(&d_given);
                let mut d_sums = d_given;
                if options.norm {
                    for u in 0..n {
                        d_options[k * n + u] += d_sums[u] * now.normal[k].values[u];
                        d_sums[u] = d_sums[u] * weights.options[k * n + u];
                    }
                    d_sums = now.normal[k].back(&d_sums);
                }
                dx_sum[k * n..][..n].copy_from_slice(&d_sums);
                dh_sum[k * n..][..n].copy_from_slice(&d_sums);
                d_sums
            };
            let value = |k: usize, u: usize| now.gates[k * n + u];
            match layer.cell {
                Cell::Rnn(activation) => {
                    back(0, (0..n).map(|u| dh[u] * slope(activation, value(0, u))).collect());
                }
                Cell::Lstm => {
                    let act_c: Vec<R> = now.seen_c.iter().map(|&c| act(options.activation, c)).collect();
                    let bend = |a: R| slope(options.activation, a);
                    let slope = |k: usize, u: usize| gate_slope(options.gate, value(k, u));
                    let d_o = back(3, (0..n).map(|u| dh[u] * act_c[u] * slope(3, u)).collect());
                    let mut dc: Vec<R> = (0..n).map(|u| dh[u] * value(3, u) * bend(now.seen_c[u])).collect();
                    let mut d_norm_c = vec![R::default(); if options.norm { 2 * n } else { 0 }];
                    if options.norm {
                        for u in 0..n {
                            d_norm_c[u] = dc[u] * now.normal_c.values[u];
                            d_norm_c[n + u] = dc[u];
                            dc[u] = dc[u] * weights.options[4 * n + u];
                        }
                        dc = now.normal_c.back(&dc);
                    }
                    let peephole = |which: usize| layer.term_length() - (3 - which) * n;
                    for u in 0..n {
                        dc[u] += dnew_c[u];
                        if options.peephole {
                            dc[u] += d_o[u] * weights.options[peephole(2) + u];
                        }
                    }
                    let m = &factors.update;
                    let d_i = back(0, (0..n).map(|u| dc[u] * m[u] * value(2, u) * slope(0, u)).collect());
                    let d_f = back(1, (0..n).map(|u| dc[u] * past_c[u] * slope(1, u)).collect());
                    back(2, (0..n).map(|u| dc[u] * m[u] * value(0, u) * bend(now.asked[u])).collect());
                    for (k, d) in d_norm_c.into_iter().enumerate() {
                        d_options[4 * n + k] += d;
                    }
                    for u in 0..n {
                        let mut past = dc[u] * value(1, u) + dpast_c[u];
                        if options.peephole {
                            past += d_i[u] * weights.options[peephole(0) + u]
                                + d_f[u] * weights.options[peephole(1) + u];
                            d_options[peephole(0) + u] += d_i[u] * past_c[u];
                            d_options[peephole(1) + u] += d_f[u] * past_c[u];
                            d_options[peephole(2) + u] += d_o[u] * now.new_c[u];
                        }
                        d.initial.c[b * n + u] = past;
                    }
                }
                Cell::Gru(reset) => {
                    let m = &factors.update;
                    let bend = |a: R| slope(options.activation, a);
                    let slope = |k: usize, u: usize| gate_slope(options.gate, value(k, u));
                    let (z, c) = (|u: usize| value(1, u), |u: usize| value(2, u));
                    back(1, (0..n).map(|u| dh[u] * (past_h[u] - m[u] * c(u)) * slope(1, u)).collect());
                    let d_n = back(
                        2,
                        (0..n).map(|u| dh[u] * (one::<R>() - z(u)) * m[u] * bend(now.asked[u])).collect(),
                    );
                    let mut d_r = vec![R::default(); n];
                    for u in 0..n {
                        dpast[u] += dh[u] * z(u);
                        let r = value(0, u);
                        d_r[u] = match reset {
                            Reset::After => d_n[u] * now.candidate[u],
                            Reset::Before => {
                                let mut through = R::default();
                                for k in 0..n {
                                    through += d_n[k] * weights.recurrent[(2 * n + k) * n + u];
                                }
                                dpast[u] += through * r * factors.recurrent[u];
                                seen[2][u] = r * past_seen[u];
                                through * past_seen[u]
                            }
                        } * slope(0, u);
                    }
                    back(0, d_r);
                    if reset == Reset::After {
                        for u in 0..n {
                            dh_sum[2 * n + u] = dx_sum[2 * n + u] * now.gates[u];
                        }
                    }
                }
            }
            // A bias inside the reset gate's reach is part of the sum.
            let inside = |row: usize| layer.cell == Cell::Gru(Reset::After) && row >= 2 * n;
            for row in 0..rows {
                d.weights.bias_input[row] += given[row];
                d.weights.bias_recurrent[row] += if inside(row) { dh_sum[row] } else { given[row] };
                for k in 0..i {
                    d.weights.input[row * i + k] += dx_sum[row] * x[frame * i + k];
                    d.x[frame * i + k] += dx_sum[row] * weights.input[row * i + k];
                }
                // With the reset before, the candidate's share of `dpast` went through r * h above.
                let direct = !(layer.cell == Cell::Gru(Reset::Before) && row >= 2 * n);
                for k in 0..p {
                    d.weights.recurrent[row * p + k] += dh_sum[row] * seen[row / n][k];
                    if direct {
                        dpast[k] += dh_sum[row] * weights.recurrent[row * p + k] * factors.recurrent[k];
                    }
                }
            }
            d.initial.h[b * p..][..p].copy_from_slice(&dpast);
        }
    }
    d
}

/// What [`attention`] multiplies with; see [`crate::attention::Weights`].
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct AttentionWeights<R> {
    pub query: Vec<R>,
    pub key: Vec<R>,
    pub vector: Vec<R>,
    pub query_bias: Vec<R>,
    pub combine: Vec<R>,
    pub bias: Vec<R>,
}

/// The steps `y` `[T, H]` of one sentence after a look at its states `x` `[S, E]`, `[T, H]`, as they are written in
/// the papers: the mean of states first, and then all of `C`.
#[must_use]
pub fn attention<R: Real>(
    Attention { score, hidden, states }: Attention,
    weights: &AttentionWeights<R>,
    x: &[R],
    y: &[R],
) -> Vec<R> {
    let dot = |a: &[R], b: &[R]| {
        a.iter().zip(b).fold(R::default(), |mut sum, (&a, &b)| {
            sum += a * b;
            sum
        })
    };
    let row = |matrix: &'_ [R], width: usize, unit: usize| matrix[unit * width..][..width].to_vec();
    let general = |y: &[R], x: &[R]| {
        (0..states).fold(R::default(), |mut sum, e| {
            sum += x[e] * dot(&row(&weights.query, hidden, e), y);
            sum
        })
    };
    let root = R::from(hidden as f32).sqrt();
    let fit = |y: &[R], x: &[R]| match score {
        Score::Dot => dot(y, x),
        Score::ScaledDot => dot(y, x) / root,
        Score::General => general(y, x),
        Score::ScaledGeneral => general(y, x) / root,
        Score::Additive => (0..hidden).fold(R::default(), |mut sum, unit| {
            let query = dot(&row(&weights.query, hidden, unit), y) + weights.query_bias[unit];
            sum += weights.vector[unit] * (query + dot(&row(&weights.key, states, unit), x)).tanh();
            sum
        }),
    };
    let mut out = Vec::with_capacity(y.len());
    for y in y.chunks_exact(hidden) {
        let scores: Vec<R> = x.chunks_exact(states).map(|x| fit(y, x)).collect();
        let top = scores.iter().copied().fold(scores[0], |top, score| if score > top { score } else { top });
        let shares: Vec<R> = scores.iter().map(|&score| (score - top).exp()).collect();
        let mut total = R::default();
        shares.iter().for_each(|&share| total += share);
        let mut read = vec![R::default(); states];
        for (x, &share) in x.chunks_exact(states).zip(&shares) {
            read.iter_mut().zip(x).for_each(|(read, &x)| *read += share / total * x);
        }
        read.extend_from_slice(y);
        let width = states + hidden;
        out.extend(
            (0..hidden)
                .map(|unit| (dot(&row(&weights.combine, width, unit), &read) + weights.bias[unit]).tanh()),
        );
    }
    out
}
