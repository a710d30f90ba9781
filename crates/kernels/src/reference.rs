//! The specification: the same passes in plain loops, one sequence after the other, in f32 or f64.
//!
//! Slow on purpose. The fused kernels are tested against this, and this against finite differences.
//! Buffers are [`Layout::Padded`](crate::Layout::Padded) and dense; nothing is written into padding but
//! zeros.

use crate::chance::{StepMask, StepNoise};
use crate::shape::{Activation, Batch, Cell, Direction, Layer, Reset};
use std::ops::{Add, AddAssign, Mul, Neg, Sub};

/// A float the reference can calculate with.
pub trait Real:
    Copy
    + Default
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + From<f32>
{
    /// `tanh(self)`
    fn tanh(self) -> Self;
    /// `1 / (1 + e^-self)`
    fn sigmoid(self) -> Self;
}

impl Real for f32 {
    fn tanh(self) -> f32 {
        f32::tanh(self)
    }
    fn sigmoid(self) -> f32 {
        1.0 / (1.0 + (-self).exp())
    }
}

impl Real for f64 {
    fn tanh(self) -> f64 {
        f64::tanh(self)
    }
    fn sigmoid(self) -> f64 {
        1.0 / (1.0 + (-self).exp())
    }
}

/// A layer's weights (or their gradients), as in [`crate::Weights`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weights<R> {
    /// `[G·H, I]`
    pub input: Vec<R>,
    /// `[G·H, H]`
    pub recurrent: Vec<R>,
    /// `[G·H]`
    pub bias_input: Vec<R>,
    /// `[G·H]`
    pub bias_recurrent: Vec<R>,
}

/// A state (or its gradient), `[B, H]` each; `c` is zeros for cells without one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State<R> {
    /// The hidden value.
    pub h: Vec<R>,
    /// The cell value.
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
    /// Gate values after their non-linearities, `[G·H]`.
    gates: Vec<R>,
    /// GRU, reset after: `Un h + cn`, `[H]`.
    candidate: Vec<R>,
    /// The new values, before zoneout.
    new_h: Vec<R>,
    new_c: Vec<R>,
    h: Vec<R>,
    c: Vec<R>,
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
    let from_x = |row: usize| dot(&weights.input, row, x) + weights.bias_input[row];
    let from_h = |row: usize, h: &[R]| dot(&weights.recurrent, row, h) + weights.bias_recurrent[row];
    step_of(layer, from_x, from_h, h, c, factors)
}

/// A step, given what a row of each weight makes of the input and of a state, biases included.
fn step_of<R: Real>(
    layer: &Layer,
    from_x: impl Fn(usize) -> R,
    from_h: impl Fn(usize, &[R]) -> R,
    h: &[R],
    c: &[R],
    factors: &Factors<R>,
) -> Step<R> {
    let n = layer.hidden;
    let seen = product(h, &factors.recurrent);
    let mut s = Step {
        gates: vec![R::default(); layer.cell.gates() * n],
        candidate: vec![R::default(); n],
        new_h: Vec::new(),
        new_c: Vec::new(),
        h: vec![R::default(); n],
        c: c.to_vec(),
    };
    match layer.cell {
        Cell::Rnn(activation) => {
            for u in 0..n {
                let sum = from_x(u) + from_h(u, &seen);
                s.h[u] = match activation {
                    Activation::Tanh => sum.tanh(),
                    Activation::Relu if sum > R::default() => sum,
                    Activation::Relu => R::default(),
                };
            }
        }
        Cell::Lstm => {
            for u in 0..n {
                let gate = |g: usize| from_x(g * n + u) + from_h(g * n + u, &seen);
                let (i, f) = (gate(0).sigmoid(), gate(1).sigmoid());
                let (g, o) = (gate(2).tanh(), gate(3).sigmoid());
                s.c[u] = f * c[u] + i * (factors.update[u] * g);
                s.h[u] = o * s.c[u].tanh();
                for (k, value) in [i, f, g, o].into_iter().enumerate() {
                    s.gates[k * n + u] = value;
                }
            }
        }
        Cell::Gru(reset) => {
            for u in 0..2 * n {
                s.gates[u] = (from_x(u) + from_h(u, &seen)).sigmoid();
            }
            let reset_h: Vec<R> = (0..n).map(|u| s.gates[u] * seen[u]).collect();
            for u in 0..n {
                let row = 2 * n + u;
                let (r, z) = (s.gates[u], s.gates[n + u]);
                let candidate = match reset {
                    Reset::After => {
                        s.candidate[u] = from_h(row, &seen);
                        (from_x(row) + r * s.candidate[u]).tanh()
                    }
                    Reset::Before => (from_x(row) + from_h(row, &reset_h)).tanh(),
                };
                s.gates[row] = candidate;
                s.h[u] = (one::<R>() - z) * (factors.update[u] * candidate) + z * h[u];
            }
        }
    }
    (s.new_h, s.new_c) = (s.h.clone(), s.c.clone());
    for u in 0..n {
        let mix = |share: R, new: R, old: R| share * new + (one::<R>() - share) * old;
        s.h[u] = mix(factors.hidden[u], s.new_h[u], h[u]);
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
    let from_x = |row: usize| quantized_dot(&weights.input, row, x) + weights.bias_input[row];
    let from_h =
        |row: usize, h: &[f32]| quantized_dot(&weights.recurrent, row, h) + weights.bias_recurrent[row];
    let factors = Factors::of(layer, &Batch::full(1, 1), None, 0, 0);
    let step = step_of(layer, from_x, from_h, &state.h, &state.c, &factors);
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
    let (n, length) = (layer.hidden, batch.lengths()[b]);
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
            None => step(layer, weights, x, &initial.h[b * n..][..n], &initial.c[b * n..][..n], &factors),
        };
        steps.push((t, new));
    }
    steps
}

/// Outputs `[B, T, H]` and the final state of [`crate::forward`], or with noise of [`crate::forward_noisy`].
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
    let n = layer.hidden;
    let mut y = vec![R::default(); batch.sequences() * batch.time() * n];
    let mut last = initial.clone();
    for b in 0..batch.sequences() {
        for (t, step) in walk(layer, batch, weights, x, initial, noise, b) {
            y[(b * batch.time() + t) * n..][..n].copy_from_slice(&step.h);
            last.h[b * n..][..n].copy_from_slice(&step.h);
            last.c[b * n..][..n].copy_from_slice(&step.c);
        }
    }
    (y, last)
}

/// The gradients of [`crate::backward`]: `dy` is `[B, T, H]`, `dlast` the gradient of the final state.
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
    let (n, i) = (layer.hidden, layer.input);
    let zeros = |like: &[R]| vec![R::default(); like.len()];
    let mut d = Gradients {
        x: zeros(x),
        initial: dlast.clone(),
        weights: Weights {
            input: zeros(&weights.input),
            recurrent: zeros(&weights.recurrent),
            bias_input: zeros(&weights.bias_input),
            bias_recurrent: zeros(&weights.bias_recurrent),
        },
    };
    for b in 0..batch.sequences() {
        let steps = walk(layer, batch, weights, x, initial, noise, b);
        for s in (0..steps.len()).rev() {
            let (t, now) = &steps[s];
            let frame = b * batch.time() + t;
            let (past_h, past_c) = match s {
                0 => (&initial.h[b * n..][..n], &initial.c[b * n..][..n]),
                _ => (&steps[s - 1].1.h[..], &steps[s - 1].1.c[..]),
            };
            let mut dh = d.initial.h[b * n..][..n].to_vec();
            for (dh, &dy) in dh.iter_mut().zip(&dy[frame * n..]) {
                *dh += dy;
            }
            let factors = Factors::of(layer, batch, noise, b, *t);
            // Zoneout: a share for the new value, the rest for the last one.
            let mut dpast = vec![R::default(); n];
            let mut dpast_c = vec![R::default(); n];
            let mut dnew_c = vec![R::default(); n];
            for u in 0..n {
                let share = factors.hidden[u];
                (dh[u], dpast[u]) = (dh[u] * share, dh[u] * (one::<R>() - share));
                let (dc, share) = (d.initial.c[b * n + u], factors.cell[u]);
                (dnew_c[u], dpast_c[u]) = (dc * share, dc * (one::<R>() - share));
            }
            let past_seen = product(past_h, &factors.recurrent);
            // Gradients of each gate's two sums, as the input and as the recurrent weights see them, and
            // what the recurrent weights multiplied.
            let rows = layer.cell.gates() * n;
            let (mut dx_sum, mut dh_sum) = (vec![R::default(); rows], vec![R::default(); rows]);
            let mut seen = vec![past_seen.clone(); layer.cell.gates()];
            match layer.cell {
                Cell::Rnn(activation) => {
                    for u in 0..n {
                        let slope = match activation {
                            Activation::Tanh => one::<R>() - now.new_h[u] * now.new_h[u],
                            Activation::Relu if now.new_h[u] > R::default() => one(),
                            Activation::Relu => R::default(),
                        };
                        dx_sum[u] = dh[u] * slope;
                        dh_sum[u] = dx_sum[u];
                    }
                }
                Cell::Lstm => {
                    for u in 0..n {
                        let gate = |k: usize| now.gates[k * n + u];
                        let (i, f, g, o) = (gate(0), gate(1), gate(2), gate(3));
                        let tanh_c = now.new_c[u].tanh();
                        let dc = dnew_c[u] + dh[u] * o * (one::<R>() - tanh_c * tanh_c);
                        let m = factors.update[u];
                        let sums = [
                            dc * m * g * i * (one::<R>() - i),
                            dc * past_c[u] * f * (one::<R>() - f),
                            dc * m * i * (one::<R>() - g * g),
                            dh[u] * tanh_c * o * (one::<R>() - o),
                        ];
                        for (k, sum) in sums.into_iter().enumerate() {
                            dx_sum[k * n + u] = sum;
                            dh_sum[k * n + u] = sum;
                        }
                        d.initial.c[b * n + u] = dc * f + dpast_c[u];
                    }
                }
                Cell::Gru(reset) => {
                    for u in 0..n {
                        let (z, c) = (now.gates[n + u], now.gates[2 * n + u]);
                        let m = factors.update[u];
                        dx_sum[n + u] = dh[u] * (past_h[u] - m * c) * z * (one::<R>() - z);
                        dx_sum[2 * n + u] = dh[u] * (one::<R>() - z) * m * (one::<R>() - c * c);
                        dpast[u] += dh[u] * z;
                    }
                    for u in 0..n {
                        let r = now.gates[u];
                        let dr = match reset {
                            Reset::After => dx_sum[2 * n + u] * now.candidate[u],
                            Reset::Before => {
                                let mut through = R::default();
                                for k in 0..n {
                                    through += dx_sum[2 * n + k] * weights.recurrent[(2 * n + k) * n + u];
                                }
                                dpast[u] += through * r * factors.recurrent[u];
                                seen[2][u] = r * past_seen[u];
                                through * past_seen[u]
                            }
                        };
                        dx_sum[u] = dr * r * (one::<R>() - r);
                    }
                    dh_sum.copy_from_slice(&dx_sum);
                    if reset == Reset::After {
                        for u in 0..n {
                            dh_sum[2 * n + u] = dx_sum[2 * n + u] * now.gates[u];
                        }
                    }
                }
            }
            for row in 0..rows {
                d.weights.bias_input[row] += dx_sum[row];
                d.weights.bias_recurrent[row] += dh_sum[row];
                for k in 0..i {
                    d.weights.input[row * i + k] += dx_sum[row] * x[frame * i + k];
                    d.x[frame * i + k] += dx_sum[row] * weights.input[row * i + k];
                }
                // With the reset before, the candidate's share of `dpast` went through r * h above.
                let direct = !(layer.cell == Cell::Gru(Reset::Before) && row >= 2 * n);
                for k in 0..n {
                    d.weights.recurrent[row * n + k] += dh_sum[row] * seen[row / n][k];
                    if direct {
                        dpast[k] += dh_sum[row] * weights.recurrent[row * n + k] * factors.recurrent[k];
                    }
                }
            }
            d.initial.h[b * n..][..n].copy_from_slice(&dpast);
        }
    }
    d
}
