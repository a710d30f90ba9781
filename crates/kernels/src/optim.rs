//! Optimisers over flat slices: one pass over memory, in place, by the whole team.
//!
//! Every element depends on its own history alone, so results are equal to the bit for every number of
//! threads. Formulas and defaults are PyTorch's.

use crate::disjoint::Pieces;
use crate::shape::{ShapeError, expect};
use crate::simd::{Dispatch, Job, Lanes, Level};
use crate::team;
use std::sync::{Mutex, PoisonError};

/// Floats that a worker takes at a time.
const CHUNK: usize = 4096;

/// What clipping asks for, before a rule sees a gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clip {
    /// Factor on every element.
    pub scale: f32,
    /// Largest absolute value of an element after that.
    pub limit: f32,
}

impl Clip {
    /// Gradients as they are.
    pub const NONE: Clip = Clip { scale: 1.0, limit: f32::INFINITY };

    /// Every element times `scale`.
    #[must_use]
    pub const fn by(scale: f32) -> Clip {
        Clip { scale, ..Clip::NONE }
    }
}

/// How weight decay acts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Decay {
    /// On the weight itself, past the running means (AdamW, Loshchilov and Hutter 2019).
    #[default]
    Decoupled,
    /// As part of the gradient (L2).
    Gradient,
}

/// Adam (Kingma and Ba 2015), with weight decay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// Step size.
    pub learning_rate: f32,
    /// Decay of the mean of gradients.
    pub beta1: f32,
    /// Decay of the mean of squared gradients.
    pub beta2: f32,
    /// Keeps the divisor from zero.
    pub epsilon: f32,
    /// Share of each weight that is taken off, times the learning rate; or is added to the gradient.
    pub weight_decay: f32,
    /// Which of both.
    pub decay: Decay,
}

impl Default for Adam {
    fn default() -> Adam {
        Adam {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            decay: Decay::Decoupled,
        }
    }
}

/// Stochastic gradient descent with momentum (Polyak 1964).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// Step size.
    pub learning_rate: f32,
    /// Share of the last step's velocity that is kept; 0 is plain gradient descent.
    pub momentum: f32,
    /// Added to the gradient, times the weight.
    pub weight_decay: f32,
}

/// RMSprop (Tieleman and Hinton 2012).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmsProp {
    /// Step size.
    pub learning_rate: f32,
    /// Decay of the mean of squared gradients.
    pub alpha: f32,
    /// Keeps the divisor from zero.
    pub epsilon: f32,
    /// Added to the gradient, times the weight.
    pub weight_decay: f32,
}

impl Adam {
    /// One step. `step` counts from 1; gradients are clipped first; `first` and `second` are the running
    /// means, zero at the start.
    ///
    /// # Errors
    /// [`ShapeError`] when a slice is not as long as `parameters`, or `step` is 0.
    pub fn step(
        &self,
        step: u64,
        clip: Clip,
        parameters: &mut [f32],
        gradients: &[f32],
        first: &mut [f32],
        second: &mut [f32],
    ) -> Result<(), ShapeError> {
        if step == 0 {
            return Err(ShapeError::Zero { what: "the step of Adam" });
        }
        expect("gradients", gradients.len(), parameters.len())?;
        expect("first moments", first.len(), parameters.len())?;
        expect("second moments", second.len(), parameters.len())?;
        // In f64, because 1 - 0.999^step loses its digits in f32.
        let unbias = |beta: f32| 1.0 - f64::from(beta).powf(step as f64);
        let (unbias1, unbias2) = (unbias(self.beta1), unbias(self.beta2));
        let (decoupled, added) = match self.decay {
            Decay::Decoupled => (self.weight_decay, 0.0),
            Decay::Gradient => (0.0, self.weight_decay),
        };
        let rule = AdamRule {
            keep: 1.0 - self.learning_rate * decoupled,
            beta1: self.beta1,
            beta2: self.beta2,
            rate: (f64::from(self.learning_rate) / unbias1) as f32,
            root: (1.0 / unbias2.sqrt()) as f32,
            epsilon: self.epsilon,
        };
        update(rule, Prepare::new(clip, added), parameters, gradients, [first, second]);
        Ok(())
    }
}

impl Sgd {
    /// One step; `velocity`, zero at the start, is needed with momentum only.
    ///
    /// # Errors
    /// [`ShapeError`] when a slice is not as long as `parameters`, or momentum has no velocity.
    pub fn step(
        &self,
        clip: Clip,
        parameters: &mut [f32],
        gradients: &[f32],
        velocity: Option<&mut [f32]>,
    ) -> Result<(), ShapeError> {
        expect("gradients", gradients.len(), parameters.len())?;
        let rule = SgdRule { rate: self.learning_rate, momentum: self.momentum };
        let prepare = Prepare::new(clip, self.weight_decay);
        match velocity {
            Some(velocity) => {
                expect("velocity", velocity.len(), parameters.len())?;
                update(rule, prepare, parameters, gradients, [velocity]);
            }
            None if self.momentum == 0.0 => update(rule, prepare, parameters, gradients, []),
            None => return Err(ShapeError::State { what: "momentum needs a velocity" }),
        }
        Ok(())
    }
}

impl RmsProp {
    /// One step; `square`, zero at the start, is the running mean of squared gradients.
    ///
    /// # Errors
    /// [`ShapeError`] when a slice is not as long as `parameters`.
    pub fn step(
        &self,
        clip: Clip,
        parameters: &mut [f32],
        gradients: &[f32],
        square: &mut [f32],
    ) -> Result<(), ShapeError> {
        expect("gradients", gradients.len(), parameters.len())?;
        expect("mean squares", square.len(), parameters.len())?;
        let rule = RmsPropRule { rate: self.learning_rate, alpha: self.alpha, epsilon: self.epsilon };
        update(rule, Prepare::new(clip, self.weight_decay), parameters, gradients, [square]);
        Ok(())
    }
}

/// The sum of squares, for clipping by a norm. Chunks are fixed by the length, so the bits are the same for
/// every number of threads.
#[must_use]
pub fn sum_of_squares(values: &[f32]) -> f64 {
    of_chunks(values, |level, chunk| level.dispatch(Squares(chunk)), |squares| squares.iter().sum())
}

/// The largest absolute value, for clipping by value; NaN where one is.
#[must_use]
pub fn largest(values: &[f32]) -> f32 {
    let of_chunk = |chunk: &[f32]| {
        chunk.iter().fold(0.0f32, |largest, value| {
            let value = value.abs();
            if value > largest || value.is_nan() { value } else { largest }
        })
    };
    let larger = |largest: f64, &value: &f64| {
        if largest.is_nan() {
            largest
        } else if value > largest || value.is_nan() {
            value
        } else {
            largest
        }
    };
    let chunk = |_, chunk: &[f32]| f64::from(of_chunk(chunk));
    of_chunks(values, chunk, |all| all.iter().fold(0.0, larger)) as f32
}

/// One number for each chunk, computed by the team, and what `then` makes of them in order.
fn of_chunks<R>(
    values: &[f32],
    of_chunk: impl Fn(Level, &[f32]) -> f64 + Sync,
    then: impl FnOnce(&[f64]) -> R,
) -> R {
    static NUMBERS: Mutex<Vec<Vec<f64>>> = Mutex::new(Vec::new());
    let pool = || NUMBERS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut all = pool().pop().unwrap_or_default();
    all.resize(values.len().div_ceil(CHUNK), 0.0);
    let workers = team::threads().min(all.len().div_ceil(16)).max(1);
    let pieces = Pieces::new(&mut all, 1, workers);
    let level = Level::current();
    team::run_on(workers, |worker| {
        let (first, own) = pieces.take(worker);
        for (k, number) in own.iter_mut().enumerate() {
            let start = (first + k) * CHUNK;
            *number = of_chunk(level, &values[start..(start + CHUNK).min(values.len())]);
        }
    });
    let result = then(&all);
    pool().push(all);
    result
}

/// Moves a running mean towards new values: `mean += share · (values - mean)`.
///
/// # Errors
/// [`ShapeError`] when the slices are not equally long.
pub fn average(mean: &mut [f32], values: &[f32], share: f32) -> Result<(), ShapeError> {
    expect("values of a mean", values.len(), mean.len())?;
    update(MeanRule { share }, Prepare::new(Clip::NONE, 0.0), mean, values, []);
    Ok(())
}

/// What happens to a gradient before a rule sees it.
#[derive(Clone, Copy)]
struct Prepare {
    clip: Clip,
    /// Added, times the weight.
    decay: f32,
}

impl Prepare {
    fn new(clip: Clip, decay: f32) -> Prepare {
        Prepare { clip, decay }
    }

    #[inline(always)]
    fn apply<S: Lanes>(self, simd: S, p: S::V, g: S::V) -> S::V {
        let limit = self.clip.limit;
        let g = simd.mul(g, simd.splat(self.clip.scale));
        let g = simd.max(simd.min(g, simd.splat(limit)), simd.splat(-limit));
        simd.fma(p, simd.splat(self.decay), g)
    }
}

struct Squares<'a>(&'a [f32]);

impl Dispatch for Squares<'_> {
    type Output = f64;
    fn run<S: Lanes>(self, simd: S) -> f64 {
        simd.call(self)
    }
}

impl<S: Lanes> Job<S> for Squares<'_> {
    type Output = f64;
    #[inline(always)]
    fn run(self, simd: S) -> f64 {
        let mut sums = [simd.splat(0.0); 4];
        for (k, lanes) in self.0.chunks(S::N).enumerate() {
            let v = if lanes.len() == S::N { simd.load(lanes) } else { simd.load_part(lanes) };
            sums[k % 4] = simd.fma(v, v, sums[k % 4]);
        }
        let mut total = 0.0;
        for sum in sums {
            let mut lanes = [0.0; 16];
            simd.store(&mut lanes, sum);
            total += lanes[..S::N].iter().map(|&v| f64::from(v)).sum::<f64>();
        }
        total
    }
}

/// One optimiser's arithmetic on a vector, with `K` running values an element.
trait Rule<const K: usize>: Copy + Sync {
    fn apply<S: Lanes>(self, simd: S, p: S::V, g: S::V, state: [S::V; K]) -> (S::V, [S::V; K]);
}

#[derive(Clone, Copy)]
struct AdamRule {
    keep: f32,
    beta1: f32,
    beta2: f32,
    rate: f32,
    root: f32,
    epsilon: f32,
}

impl Rule<2> for AdamRule {
    #[inline(always)]
    fn apply<S: Lanes>(self, simd: S, p: S::V, g: S::V, [m, v]: [S::V; 2]) -> (S::V, [S::V; 2]) {
        let m = simd.fma(simd.splat(1.0 - self.beta1), simd.sub(g, m), m);
        let v = simd.fma(simd.splat(self.beta2), v, simd.mul(simd.mul(simd.splat(1.0 - self.beta2), g), g));
        let divisor = simd.fma(simd.sqrt(v), simd.splat(self.root), simd.splat(self.epsilon));
        let p = simd.mul(p, simd.splat(self.keep));
        (simd.fnma(simd.splat(self.rate), simd.div(m, divisor), p), [m, v])
    }
}

#[derive(Clone, Copy)]
struct SgdRule {
    rate: f32,
    momentum: f32,
}

impl Rule<0> for SgdRule {
    #[inline(always)]
    fn apply<S: Lanes>(self, simd: S, p: S::V, g: S::V, _: [S::V; 0]) -> (S::V, [S::V; 0]) {
        (simd.fnma(simd.splat(self.rate), g, p), [])
    }
}

impl Rule<1> for SgdRule {
    #[inline(always)]
    fn apply<S: Lanes>(self, simd: S, p: S::V, g: S::V, [v]: [S::V; 1]) -> (S::V, [S::V; 1]) {
        let v = simd.fma(simd.splat(self.momentum), v, g);
        (simd.fnma(simd.splat(self.rate), v, p), [v])
    }
}

#[derive(Clone, Copy)]
struct RmsPropRule {
    rate: f32,
    alpha: f32,
    epsilon: f32,
}

impl Rule<1> for RmsPropRule {
    #[inline(always)]
    fn apply<S: Lanes>(self, simd: S, p: S::V, g: S::V, [s]: [S::V; 1]) -> (S::V, [S::V; 1]) {
        let fresh = simd.mul(simd.mul(simd.splat(1.0 - self.alpha), g), g);
        let s = simd.fma(simd.splat(self.alpha), s, fresh);
        let divisor = simd.add(simd.sqrt(s), simd.splat(self.epsilon));
        (simd.fnma(simd.splat(self.rate), simd.div(g, divisor), p), [s])
    }
}

#[derive(Clone, Copy)]
struct MeanRule {
    share: f32,
}

impl Rule<0> for MeanRule {
    #[inline(always)]
    fn apply<S: Lanes>(self, simd: S, mean: S::V, value: S::V, _: [S::V; 0]) -> (S::V, [S::V; 0]) {
        (simd.fma(simd.splat(self.share), simd.sub(value, mean), mean), [])
    }
}

/// Applies a rule to every element.
fn update<R: Rule<K>, const K: usize>(
    rule: R,
    prepare: Prepare,
    parameters: &mut [f32],
    gradients: &[f32],
    state: [&mut [f32]; K],
) {
    let workers = team::threads().min(parameters.len().div_ceil(16 * CHUNK)).max(1);
    let parameters = Pieces::new(parameters, CHUNK, workers);
    let state = state.map(|state| Pieces::new(state, CHUNK, workers));
    let level = Level::current();
    team::run_on(workers, |worker| {
        let (first, parameters) = parameters.take(worker);
        let gradients = &gradients[first * CHUNK..][..parameters.len()];
        let state = state.each_ref().map(|state| state.take(worker).1);
        level.dispatch(Apply { rule, prepare, parameters, gradients, state });
    });
}

struct Apply<'a, R, const K: usize> {
    rule: R,
    prepare: Prepare,
    parameters: &'a mut [f32],
    gradients: &'a [f32],
    state: [&'a mut [f32]; K],
}

impl<R: Rule<K>, const K: usize> Dispatch for Apply<'_, R, K> {
    type Output = ();
    fn run<S: Lanes>(self, simd: S) {
        simd.call(self);
    }
}

impl<S: Lanes, R: Rule<K>, const K: usize> Job<S> for Apply<'_, R, K> {
    type Output = ();
    #[inline(always)]
    fn run(self, simd: S) {
        let count = self.parameters.len();
        let whole = count / S::N * S::N;
        for at in (0..count).step_by(S::N) {
            let end = (at + S::N).min(count);
            let load = |from: &[f32]| if at < whole { simd.load(from) } else { simd.load_part(from) };
            let mut state = [simd.splat(0.0); K];
            for k in 0..K {
                state[k] = load(&self.state[k][at..end]);
            }
            let (p, g) = (load(&self.parameters[at..end]), load(&self.gradients[at..end]));
            let g = self.prepare.apply(simd, p, g);
            let (p, state) = self.rule.apply(simd, p, g, state);
            simd.store_part(&mut self.parameters[at..end], p);
            for k in 0..K {
                simd.store_part(&mut self.state[k][at..end], state[k]);
            }
        }
    }
}
