//! The output layer fused with softmax cross-entropy.
//!
//! Rows are taken in blocks: the logits of one block are made, turned into a loss and a gradient, and
//! multiplied on, while they are in the cache. All logits never exist at once, which at a vocabulary of
//! 10,000 saves hundreds of megabytes.

use crate::disjoint::Pieces;
use crate::gemm::{
    FrameRows, GateColumns, GateGradient, OwnRows, Start, WeightProduct, multiply_rows, weight_gradients,
};
use crate::memory::Buffer;
use crate::pack::{self, Packed, Panels};
use crate::shape::{ShapeError, expect};
use crate::simd::{Dispatch, Job, Lanes, Level};
use crate::team;
use std::sync::{Mutex, PoisonError};

/// Weights of the output layer: `logits = x · weightᵀ + bias`.
#[derive(Clone, Copy, Debug)]
pub struct Output<'a> {
    /// `[V, H]`
    pub weight: &'a [f32],
    /// `[V]`
    pub bias: Option<&'a [f32]>,
}

/// Gradients of [`Output`], overwritten.
#[derive(Debug)]
pub struct OutputGradients<'a> {
    /// Of `x`, `[N, H]`.
    pub x: &'a mut [f32],
    /// Of the weight, `[V, H]`.
    pub weight: &'a mut [f32],
    /// Of the bias, `[V]`.
    pub bias: Option<&'a mut [f32]>,
}

/// What a backward pass differentiates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Objective {
    /// Factor on the sum over the rows: `1 / count` for the mean.
    pub scale: f32,
    /// The share `ε` of the target's probability that is spread over the whole vocabulary (label smoothing,
    /// Szegedy et al. 2016): the loss of a row is `-(1 - ε) ln p(target) - ε/V Σ ln p(v)`.
    pub smoothing: f32,
}

impl Objective {
    /// Plain cross-entropy, times `scale`.
    #[must_use]
    pub const fn scaled(scale: f32) -> Objective {
        Objective { scale, smoothing: 0.0 }
    }
}

/// A target that counts in neither the loss nor the gradients.
pub const IGNORE: u32 = u32::MAX;

/// Targets that count.
#[must_use]
pub fn counted(targets: &[u32]) -> usize {
    targets.iter().filter(|&&target| target != IGNORE).count()
}

/// The loss over all rows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// Sum of `-ln p(target)`, in nats; with label smoothing of its loss.
    pub nats: f64,
    /// Rows whose target counts.
    pub count: usize,
    /// Of these, rows whose target has the largest logit.
    pub correct: usize,
}

/// Floats of logits that one block holds: half of a usual last-level cache. Smaller blocks would stay in nearer
/// caches, but every block streams all the weights, and their gradient, which costs more.
const BLOCK_FLOATS: usize = 1 << 22;

/// Buffers kept from call to call.
#[derive(Default)]
struct Scratch {
    /// `x` has `[H, V]` panels, its gradient `[V, H]` ones.
    forward: Buffer,
    back: Buffer,
    bias: Buffer,
    logits: Buffer,
    starts: Vec<usize>,
    rows: Vec<RowLoss>,
}

/// One row's share of the loss.
#[derive(Clone, Copy, Default)]
struct RowLoss {
    nats: f32,
    correct: bool,
}

static SCRATCH: Mutex<Vec<Scratch>> = Mutex::new(Vec::new());

/// Takes scratch from the pool and gives it back.
fn with_scratch<R>(f: impl FnOnce(&mut Scratch) -> R) -> R {
    let pool = || SCRATCH.lock().unwrap_or_else(PoisonError::into_inner);
    let mut scratch = pool().pop().unwrap_or_default();
    let result = f(&mut scratch);
    pool().push(scratch);
    result
}

/// Checks the sizes; returns `(N, V)`.
fn check(output: &Output<'_>, hidden: usize, x: &[f32]) -> Result<(usize, usize), ShapeError> {
    if hidden == 0 {
        return Err(ShapeError::Zero { what: "hidden size" });
    }
    let (rows, vocabulary) = (x.len() / hidden, output.weight.len() / hidden);
    if vocabulary == 0 {
        return Err(ShapeError::Zero { what: "vocabulary" });
    }
    expect("input of the output layer", x.len(), rows * hidden)?;
    expect("output weight", output.weight.len(), vocabulary * hidden)?;
    if let Some(bias) = output.bias {
        expect("output bias", bias.len(), vocabulary)?;
    }
    Ok((rows, vocabulary))
}

fn check_targets(targets: &[u32], rows: usize, vocabulary: usize) -> Result<(), ShapeError> {
    expect("targets", targets.len(), rows)?;
    match targets.iter().find(|&&t| t != IGNORE && t as usize >= vocabulary) {
        Some(&found) => Err(ShapeError::Index { what: "a target", found: found as usize, limit: vocabulary }),
        None => Ok(()),
    }
}

/// The loss of rows `x`, `[N, H]`, against `targets`, `[N]` ([`IGNORE`] does not count).
///
/// # Errors
/// [`ShapeError`] when a buffer does not fit or a target is not below `V`.
pub fn cross_entropy(
    output: Output<'_>,
    hidden: usize,
    x: &[f32],
    targets: &[u32],
) -> Result<Loss, ShapeError> {
    let (rows, vocabulary) = check(&output, hidden, x)?;
    check_targets(targets, rows, vocabulary)?;
    let pass = Pass { output, hidden, vocabulary, x, goal: Goal::Loss { targets, gradients: None } };
    Ok(with_scratch(|scratch| Level::current().dispatch(WithScratch(pass, scratch))))
}

/// The loss, and the gradients of `objective.scale · nats`.
///
/// # Errors
/// [`ShapeError`] when a buffer does not fit or a target is not below `V`; nothing is written then.
pub fn cross_entropy_backward(
    output: Output<'_>,
    hidden: usize,
    x: &[f32],
    targets: &[u32],
    objective: Objective,
    gradients: OutputGradients<'_>,
) -> Result<Loss, ShapeError> {
    let (rows, vocabulary) = check(&output, hidden, x)?;
    check_targets(targets, rows, vocabulary)?;
    expect("gradient of the output layer's input", gradients.x.len(), x.len())?;
    expect("gradient of the output weight", gradients.weight.len(), output.weight.len())?;
    if let Some(bias) = &gradients.bias {
        expect("gradient of the output bias", bias.len(), vocabulary)?;
    }
    let goal = Goal::Loss { targets, gradients: Some((objective, gradients)) };
    let pass = Pass { output, hidden, vocabulary, x, goal };
    Ok(with_scratch(|scratch| Level::current().dispatch(WithScratch(pass, scratch))))
}

/// The logits themselves, `[N, V]`.
///
/// # Errors
/// [`ShapeError`] when a buffer does not fit.
pub fn logits(output: Output<'_>, hidden: usize, x: &[f32], out: &mut [f32]) -> Result<(), ShapeError> {
    let (rows, vocabulary) = check(&output, hidden, x)?;
    expect("logits", out.len(), rows * vocabulary)?;
    let pass = Pass { output, hidden, vocabulary, x, goal: Goal::Logits(out) };
    with_scratch(|scratch| Level::current().dispatch(WithScratch(pass, scratch)));
    Ok(())
}

/// Scores of which [`totals`] tells the highest together.
pub const TOGETHER: usize = 64;

/// Of rows of `vocabulary` scores, `[N, V]`, the logarithm of each row's sum of exponentials, `[N]`, and the highest
/// of every [`TOGETHER`] scores of a row, `[N, ⌈V / TOGETHER⌉]`.
///
/// # Errors
/// [`ShapeError`] when a buffer does not fit; nothing is written then.
pub fn totals(
    vocabulary: usize,
    scores: &[f32],
    totals: &mut [f64],
    highest: &mut [f32],
) -> Result<(), ShapeError> {
    if vocabulary == 0 {
        return Err(ShapeError::Zero { what: "vocabulary" });
    }
    let (rows, parts) = (totals.len(), vocabulary.div_ceil(TOGETHER));
    expect("scores", scores.len(), rows * vocabulary)?;
    expect("highest scores", highest.len(), rows * parts)?;
    Level::current().dispatch(Totals { vocabulary, scores, totals, highest });
    Ok(())
}

struct Totals<'a> {
    vocabulary: usize,
    scores: &'a [f32],
    totals: &'a mut [f64],
    highest: &'a mut [f32],
}

impl Dispatch for Totals<'_> {
    type Output = ();

    fn run<S: Lanes>(self, simd: S) {
        let Totals { vocabulary, scores, totals, highest } = self;
        let workers = team::workers(scores.len(), 50_000);
        let parts = vocabulary.div_ceil(TOGETHER);
        let (totals, highest) = (Pieces::new(totals, 1, workers), Pieces::new(highest, parts, workers));
        team::run_on(workers, |worker| {
            let ((row, totals), (_, highest)) = (totals.take(worker), highest.take(worker));
            let scores = scores[row * vocabulary..].chunks_exact(vocabulary);
            for ((scores, total), highest) in scores.zip(totals).zip(highest.chunks_exact_mut(parts)) {
                *total = simd.call(RowTotal { scores, highest });
            }
        });
    }
}

/// One row of [`totals`].
struct RowTotal<'a> {
    scores: &'a [f32],
    highest: &'a mut [f32],
}

impl<S: Lanes> Job<S> for RowTotal<'_> {
    type Output = f64;

    #[inline(always)]
    fn run(self, simd: S) -> f64 {
        let RowTotal { scores, highest } = self;
        let lowest = f32::NEG_INFINITY;
        let mut lanes = [0.0; 16];
        for (scores, highest) in scores.chunks(TOGETHER).zip(highest.iter_mut()) {
            let whole = scores.chunks_exact(S::N);
            let rest = whole.remainder().iter().copied().fold(lowest, f32::max);
            let mut top = simd.splat(lowest);
            for scores in whole {
                top = simd.max(simd.load(scores), top);
            }
            simd.store(&mut lanes, top);
            *highest = lanes[..S::N].iter().copied().fold(rest, f32::max);
        }
        let top = highest.iter().copied().fold(lowest, f32::max);
        let shift = simd.splat(top);
        let whole = scores.chunks_exact(S::N);
        let mut rest = [lowest; 16];
        rest[..whole.remainder().len()].copy_from_slice(whole.remainder());
        let mut sum = simd.splat(0.0);
        for scores in whole.chain([&rest[..S::N]]) {
            sum = simd.add(sum, simd.exp_negative(simd.sub(simd.load(scores), shift)));
        }
        simd.store(&mut lanes, sum);
        let sum: f64 = lanes[..S::N].iter().map(|&sum| f64::from(sum)).sum();
        f64::from(top) + sum.ln()
    }
}

enum Goal<'a> {
    Logits(&'a mut [f32]),
    Loss { targets: &'a [u32], gradients: Option<(Objective, OutputGradients<'a>)> },
}

struct Pass<'a> {
    output: Output<'a>,
    hidden: usize,
    vocabulary: usize,
    x: &'a [f32],
    goal: Goal<'a>,
}

struct WithScratch<'a>(Pass<'a>, &'a mut Scratch);

impl Dispatch for WithScratch<'_> {
    type Output = Loss;

    fn run<S: Lanes>(self, simd: S) -> Loss {
        let Pass { output, hidden, vocabulary, x, mut goal } = self.0;
        let scratch = self.1;
        let rows = x.len() / hidden;
        let panels = |depth, columns: usize| Panels {
            lanes: S::N,
            width: 4,
            vectors: columns.div_ceil(S::N),
            depth,
            pairs: false,
        };
        let forward = panels(hidden, vocabulary);
        let wants_back = matches!(goal, Goal::Loss { gradients: Some(_), .. });
        // Depth counts the padded vocabulary: padded logits become zero gradients.
        let padded = forward.vectors * S::N;
        let back = panels(padded, hidden);
        let threads = team::workers(rows * vocabulary * hidden, 50_000);
        {
            let to_logits = forward.pieces(&mut scratch.forward, threads);
            let to_x = wants_back.then(|| back.pieces(&mut scratch.back, threads));
            team::run_on(threads, |worker| {
                pack::by_unit(simd, forward, &to_logits, worker, output.weight, 1, vocabulary);
                if let Some(to_x) = &to_x {
                    pack::by_column(back, to_x, worker, output.weight, (1, 1), vocabulary, hidden);
                }
            });
        }
        let to_logits = Packed { panels: forward, data: scratch.forward.as_ref() };
        let to_x = Packed { panels: back, data: scratch.back.as_ref() };
        let bias = output.bias.map(|from| {
            let bias = scratch.bias.ensure(padded);
            bias.fill(0.0);
            bias[..vocabulary].copy_from_slice(from);
            &*bias
        });
        let start = bias.map_or(Start::Zero, Start::Bias);
        let stride = padded.next_multiple_of(16) + 16;
        let most = (BLOCK_FLOATS / stride).clamp(32, 4096);
        // As even as can be: a small last block would stream the weights for little.
        let block = rows.div_ceil(rows.div_ceil(most).max(1)).max(1);
        let mut loss = Loss::default();
        if rows == 0
            && let Goal::Loss { gradients: Some((_, gradients)), .. } = &mut goal
        {
            gradients.weight.fill(0.0);
            if let Some(bias) = &mut gradients.bias {
                bias.fill(0.0);
            }
        }
        for from in (0..rows).step_by(block) {
            let count = block.min(rows - from);
            let x = &x[from * hidden..][..count * hidden];
            let (targets, mut gradients) = match &mut goal {
                Goal::Logits(out) => {
                    let out = &mut out[from * vocabulary..][..count * vocabulary];
                    let pieces = Pieces::new(out, vocabulary, threads);
                    team::run_on(threads, |worker| {
                        let (row, out) = pieces.take(worker);
                        let rows = (x, |i| (row + i) * hidden);
                        let out = OwnRows { data: out, stride: vocabulary, width: vocabulary };
                        multiply_rows(simd, rows, to_logits, start, out);
                    });
                    continue;
                }
                Goal::Loss { targets, gradients } => (&targets[from..][..count], gradients.as_mut()),
            };
            let objective = gradients.as_ref().map(|(objective, _)| *objective);
            let logits = scratch.logits.ensure(block * stride);
            scratch.rows.resize(block, RowLoss::default());
            {
                let dx = gradients
                    .as_mut()
                    .map(|(_, g)| Pieces::new(&mut g.x[from * hidden..][..count * hidden], hidden, threads));
                let logits = Pieces::new(&mut logits[..count * stride], stride, threads);
                let row_losses = Pieces::new(&mut scratch.rows[..count], 1, threads);
                team::run_on(threads, |worker| {
                    let (row, logits) = logits.take(worker);
                    let own = logits.len() / stride;
                    let rows = (x, |i| (row + i) * hidden);
                    let out = OwnRows { data: logits, stride, width: padded };
                    multiply_rows(simd, rows, to_logits, start, out);
                    let (_, row_losses) = row_losses.take(worker);
                    for (i, line) in logits.chunks_exact_mut(stride).enumerate() {
                        row_losses[i] = simd.call(Softmax {
                            logits: &mut line[..padded],
                            vocabulary,
                            target: targets[row + i],
                            objective,
                        });
                    }
                    if let Some(dx) = &dx {
                        let (_, dx) = dx.take(worker);
                        debug_assert_eq!(dx.len(), own * hidden);
                        let rows = (&*logits, |i| i * stride);
                        let out = OwnRows { data: dx, stride: hidden, width: hidden };
                        multiply_rows(simd, rows, to_x, Start::Zero, out);
                    }
                });
            }
            for (row, &target) in scratch.rows.iter().zip(targets) {
                if target != IGNORE {
                    loss.nats += f64::from(row.nats);
                    loss.count += 1;
                    loss.correct += usize::from(row.correct);
                }
            }
            if let Some((_, gradients)) = gradients {
                let d = GateColumns { data: logits, stride, frames: count, gates: 1 };
                scratch.starts.clear();
                scratch.starts.extend((0..count).map(|row| row * hidden));
                let b = FrameRows { data: x, starts: &scratch.starts, width: hidden };
                let add = from > 0;
                let weight = Pieces::new(gradients.weight, S::N * hidden, threads);
                let bias = gradients.bias.as_deref_mut().map(|bias| Pieces::new(bias, S::N, threads));
                team::run_on(threads, |worker| {
                    let out = GateGradient { weight: &weight, bias: bias.as_ref() };
                    weight_gradients(simd, d, 0, [WeightProduct { b, out: &[out] }], add, worker);
                });
            }
        }
        loss
    }
}

/// One row: logits to loss and, with a scale, to the gradient in place.
struct Softmax<'a> {
    logits: &'a mut [f32],
    vocabulary: usize,
    target: u32,
    objective: Option<Objective>,
}

impl<S: Lanes> Job<S> for Softmax<'_> {
    type Output = RowLoss;

    #[inline(always)]
    fn run(self, simd: S) -> RowLoss {
        let Softmax { logits, vocabulary, target, objective } = self;
        if target == IGNORE {
            if objective.is_some() {
                logits.fill(0.0);
            }
            return RowLoss::default();
        }
        let smoothing = objective.map_or(0.0, |objective| objective.smoothing);
        let spread = if smoothing > 0.0 {
            let sum: f64 = logits[..vocabulary].iter().map(|&logit| f64::from(logit)).sum();
            (sum / vocabulary as f64) as f32
        } else {
            0.0
        };
        // Padding must win no maximum and add nothing to the sum.
        logits[vocabulary..].fill(f32::NEG_INFINITY);
        let mut top = simd.splat(f32::NEG_INFINITY);
        for lanes in logits.chunks_exact(S::N) {
            top = simd.max(simd.load(lanes), top);
        }
        let mut all = [0.0; 16];
        simd.store(&mut all, top);
        let top = all[..S::N].iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let at_target = logits[target as usize];
        let shift = simd.splat(top);
        let mut sum = simd.splat(0.0);
        for lanes in logits.chunks_exact_mut(S::N) {
            let e = simd.exp_negative(simd.sub(simd.load(lanes), shift));
            simd.store(lanes, e);
            sum = simd.add(sum, e);
        }
        simd.store(&mut all, sum);
        let sum: f32 = all[..S::N].iter().sum();
        if let Some(Objective { scale, .. }) = objective {
            let factor = simd.splat(scale / sum);
            for lanes in logits.chunks_exact_mut(S::N) {
                simd.store(lanes, simd.mul(simd.load(lanes), factor));
            }
            if smoothing > 0.0 {
                let share = scale * smoothing / vocabulary as f32;
                logits[..vocabulary].iter_mut().for_each(|logit| *logit -= share);
            }
            logits[target as usize] -= scale * (1.0 - smoothing);
        }
        // What the target's logit is compared with: itself, and with smoothing the mean of all.
        let wanted = at_target + smoothing * (spread - at_target);
        RowLoss { nats: sum.ln() + (top - wanted), correct: at_target >= top }
    }
}
