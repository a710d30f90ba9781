//! Attention behind a decoder, and the layer that joins what was read with the step: one call for all steps of a batch.
//!
//! Shapes: T steps `y` of the decoder, `H` values each, look at S states `x` of the encoder, `E` values each, of
//! their own sentence.
//!
//! ```text
//! e[t, s] = q[t] · k[s]                 q = y,          k = x       dot; over √H: scaled dot
//!                                       q = y,          k = Wᵀ x    general; over √H: scaled general
//!         = v · tanh(q[t] + k[s])       q = W y + b,    k = U x     additive
//! p[t] = softmax over s of e[t, s]
//! out[t] = tanh(C [Σ p[t, s] x[s]; y[t]] + c)
//! ```
//!
//! `C` has a part for what was read and one for the step. `C Σ p x` is `Σ p (C x)`: states are taken through their
//! part of `C` once, `u[s] = C x[s]`, and general attention's through `Wᵀ`, so that all steps compare and add up
//! vectors of `H` values.
//!
//! Rows are copied into the order of their sentences first. A worker has some sentences, whole ones.

mod look;

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::disjoint::Pieces;
use crate::gemm::Start;
use crate::linear::{Factor, Linear, Packing, Rows, copy_rows, filled, outer, product, stride, workers};
use crate::memory::Buffer;
use crate::shape::{Batch, ShapeError, expect};
use crate::simd::{Dispatch, Lanes, Level};
use crate::team::{self, Worker};
use look::{Fit, Look, LookBack};

/// How well a step `y` and a state `x` fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    /// `y · x`; both have the same width.
    Dot,
    /// `y · x / √H`; both have the same width (Vaswani et al. 2017).
    ScaledDot,
    /// `y · Wᵀ x` (Luong et al. 2015).
    General,
    /// `y · Wᵀ x / √H`. A step of an optimiser moves every weight by about its learning rate, whatever their number,
    /// and with it a sum over `H` by `E` of them: without the root, wide layers look elsewhere after every step.
    ScaledGeneral,
    /// `v · tanh(W y + b + U x)` (Bahdanau et al. 2015).
    Additive,
}

impl Score {
    /// Whether steps and states must have the same width.
    #[must_use]
    pub fn needs_equal_widths(self) -> bool {
        matches!(self, Score::Dot | Score::ScaledDot)
    }
}

/// The sizes of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attention {
    /// How steps and states are compared.
    pub score: Score,
    /// `H`.
    pub hidden: usize,
    /// `E`; `H` where steps and states are multiplied as they are.
    pub states: usize,
}

/// Weights of an [`Attention`]; those that the score has not are empty.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a> {
    /// `W`: `[E, H]` of general attention, `[H, H]` of additive.
    pub query: &'a [f32],
    /// `U`, `[H, E]`.
    pub key: &'a [f32],
    /// `v`, `[H]`.
    pub vector: &'a [f32],
    /// `b`, `[H]`.
    pub query_bias: &'a [f32],
    /// `C`, `[H, E + H]`.
    pub combine: &'a [f32],
    /// `c`, `[H]`.
    pub bias: &'a [f32],
}

/// Gradients of an [`Attention`], overwritten; those that the score has not are empty.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// Of the decoder's steps, `[F, H]`.
    pub y: &'a mut [f32],
    /// Of the encoder's states, `[F, E]`.
    pub x: &'a mut [f32],
    /// Of `W`.
    pub query: &'a mut [f32],
    /// Of `U`.
    pub key: &'a mut [f32],
    /// Of `v`.
    pub vector: &'a mut [f32],
    /// Of `b`.
    pub query_bias: &'a mut [f32],
    /// Of `C`.
    pub combine: &'a mut [f32],
    /// Of `c`.
    pub bias: &'a mut [f32],
}

impl Attention {
    /// Elements of `W`, `U`, `v` and `b`.
    fn score_lengths(&self) -> [usize; 4] {
        let (hidden, states) = (self.hidden, self.states);
        match self.score {
            Score::Dot | Score::ScaledDot => [0; 4],
            Score::General | Score::ScaledGeneral => [states * hidden, 0, 0, 0],
            Score::Additive => [hidden * hidden, hidden * states, hidden, hidden],
        }
    }

    fn check(&self, sources: &Batch, targets: &Batch) -> Result<(), ShapeError> {
        for (what, size) in [("hidden size", self.hidden), ("width of the encoder's states", self.states)] {
            if size == 0 {
                return Err(ShapeError::Zero { what });
            }
        }
        if self.score.needs_equal_widths() {
            expect("a state to multiply with a step", self.states, self.hidden)?;
        }
        expect("sequences to look at", sources.sequences(), targets.sequences())?;
        let empty = sources.lengths().iter().zip(targets.lengths()).any(|(&s, &t)| s == 0 && t > 0);
        if empty {
            return Err(ShapeError::Zero { what: "the length of a sequence that is looked at" });
        }
        Ok(())
    }

    fn check_weights(&self, lengths: [usize; 6]) -> Result<(), ShapeError> {
        let [query, key, vector, query_bias] = self.score_lengths();
        let (hidden, states) = (self.hidden, self.states);
        let expected = [query, key, vector, query_bias, hidden * (states + hidden), hidden];
        let names = [
            "attention's query weight",
            "attention's key weight",
            "attention's vector",
            "attention's bias",
            "weight behind attention",
            "bias behind attention",
        ];
        for ((what, found), expected) in names.into_iter().zip(lengths).zip(expected) {
            expect(what, found, expected)?;
        }
        Ok(())
    }
}

/// Sentences one after another, and where a batch has their rows.
#[derive(Default)]
struct Order {
    /// First row of each sentence, and the end.
    starts: Vec<usize>,
    /// Frame in packed order to row.
    rows: Vec<usize>,
    /// Row to frame.
    frames: Vec<usize>,
}

impl Order {
    fn set(&mut self, batch: &Batch) {
        let Order { starts, rows, frames } = self;
        starts.clear();
        starts.push(0);
        let mut end = 0;
        starts.extend(batch.lengths().iter().map(|length| {
            end += length;
            end
        }));
        rows.clear();
        rows.extend(batch.places().map(|(sentence, step)| starts[sentence] + step));
        frames.clear();
        frames.resize(end, 0);
        rows.iter().enumerate().for_each(|(frame, &row)| frames[row] = frame);
    }

    fn count(&self) -> usize {
        self.rows.len()
    }

    fn of(&self, sentence: usize) -> std::ops::Range<usize> {
        self.starts[sentence]..self.starts[sentence + 1]
    }
}

/// What [`forward`] leaves for [`backward`]. A tape serves one backward pass; its memory is kept from pass to pass.
#[derive(Default)]
pub struct Tape {
    attention: Option<Attention>,
    sources: Order,
    targets: Order,
    /// First weight `p` of each sentence, and the end.
    pairs: Vec<usize>,
    /// Of all sentences one after another, rows filled up with zeros: states and steps …
    x: Buffer,
    y: Buffer,
    /// … what is compared, where that is not they …
    keys: Buffer,
    queries: Buffer,
    /// … states through their part of `C` …
    values: Buffer,
    /// … `p`, `[T, S]` of each sentence …
    shares: Buffer,
    /// … and what came out.
    out: Buffer,
}

impl std::fmt::Debug for Tape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tape({:?})", self.attention)
    }
}

/// Buffers kept from call to call.
#[derive(Default)]
struct Scratch {
    packing: Packing,
    /// The two parts of `C`: `[H, E]` and `[H, H]`.
    parts: [Vec<f32>; 2],
    /// `v`, filled up with zeros.
    vector: Buffer,
    /// Gradients, rows in the order of the sentences.
    dout: Buffer,
    dkeys: Buffer,
    dqueries: Buffer,
    dvalues: Buffer,
    dshares: Buffer,
    /// Of `v`, a row a sentence.
    dvectors: Buffer,
    dx: Buffer,
    dy: Buffer,
    dparts: [Vec<f32>; 2],
}

static SCRATCH: Mutex<Vec<Scratch>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn with_scratch<R>(f: impl FnOnce(&mut Scratch) -> R) -> R {
    let mut scratch = lock(&SCRATCH).pop().unwrap_or_default();
    let result = f(&mut scratch);
    lock(&SCRATCH).push(scratch);
    result
}

/// What the steps `y` `[F, H]` of `targets` know after a look at the states `x` `[F, E]` of `sources`, into `out`
/// `[F, H]`; all in packed order. Sequence by sequence the batches belong to each other.
///
/// # Errors
/// [`ShapeError`] when a buffer does not fit, there are not as many sequences on both sides, or there is nothing that
/// a step could look at; nothing is written then.
pub fn forward(
    attention: Attention,
    (sources, targets): (&Batch, &Batch),
    weights: Weights<'_>,
    x: &[f32],
    y: &[f32],
    out: &mut [f32],
    tape: &mut Tape,
) -> Result<(), ShapeError> {
    attention.check(sources, targets)?;
    let Weights { query, key, vector, query_bias, combine, bias } = weights;
    attention.check_weights([query, key, vector, query_bias, combine, bias].map(<[f32]>::len))?;
    expect("encoder states", x.len(), sources.frames() * attention.states)?;
    expect("decoder steps", y.len(), targets.frames() * attention.hidden)?;
    expect("steps after a look", out.len(), y.len())?;
    tape.attention = Some(attention);
    tape.sources.set(sources);
    tape.targets.set(targets);
    tape.pairs.clear();
    tape.pairs.push(0);
    let mut end = 0;
    tape.pairs.extend(sources.lengths().iter().zip(targets.lengths()).map(|(s, t)| {
        end += s * t;
        end
    }));
    with_scratch(|scratch| {
        Level::current().dispatch(Forward { attention, weights, x, y, out, tape, scratch })
    });
    Ok(())
}

/// The gradients of [`forward`], from `dout` `[F, H]`, that of its output.
///
/// # Errors
/// [`ShapeError`] when a buffer does not fit or the tape is not that of such a forward pass; nothing is written then.
pub fn backward(
    attention: Attention,
    (sources, targets): (&Batch, &Batch),
    weights: Weights<'_>,
    tape: &mut Tape,
    dout: &[f32],
    gradients: Gradients<'_>,
) -> Result<(), ShapeError> {
    attention.check(sources, targets)?;
    let Weights { query, key, vector, query_bias, combine, bias } = weights;
    attention.check_weights([query, key, vector, query_bias, combine, bias].map(<[f32]>::len))?;
    let Gradients { y: dy, x: dx, query, key, vector, query_bias, combine, bias } = &gradients;
    let lengths = [query.len(), key.len(), vector.len(), query_bias.len(), combine.len(), bias.len()];
    attention.check_weights(lengths)?;
    expect("gradient of steps after a look", dout.len(), targets.frames() * attention.hidden)?;
    expect("gradient of decoder steps", dy.len(), dout.len())?;
    expect("gradient of encoder states", dx.len(), sources.frames() * attention.states)?;
    let same = |order: &Order, batch: &Batch| {
        order.count() == batch.frames()
            && order.starts.windows(2).map(|pair| pair[1] - pair[0]).eq(batch.lengths().iter().copied())
    };
    // Taken, for it serves once.
    if tape.attention.take() != Some(attention)
        || !same(&tape.sources, sources)
        || !same(&tape.targets, targets)
    {
        return Err(ShapeError::Tape);
    }
    with_scratch(|scratch| {
        Level::current().dispatch(Backward { attention, weights, tape, dout, gradients, scratch });
    });
    Ok(())
}

/// The next `count` floats.
fn next<'a>(rest: &mut &'a mut [f32], count: usize) -> &'a mut [f32] {
    let (next, after) = std::mem::take(rest).split_at_mut(count);
    *rest = after;
    next
}

/// Cuts a buffer at these places.
fn cut(data: &mut [f32], ends: impl Iterator<Item = usize>) -> Vec<&mut [f32]> {
    let (mut rest, mut last) = (data, 0);
    let one = |end: usize| {
        let count = end - last;
        last = end;
        next(&mut rest, count)
    };
    ends.map(one).collect()
}

/// Where the sentences of each worker end, for about the same work each.
fn shares_of(pairs: &[usize], workers: usize) -> Vec<usize> {
    let (sentences, all) = (pairs.len() - 1, pairs[pairs.len() - 1]);
    let end = |worker: usize| match worker + 1 == workers {
        true => sentences,
        false => pairs.partition_point(|&pair| pair * workers < all * (worker + 1)).min(sentences),
    };
    (0..workers).map(end).collect()
}

/// The parts of a worker, which takes them once.
struct Dealt<T>(Vec<Mutex<Option<T>>>);

impl<T> Dealt<T> {
    fn new(parts: impl Iterator<Item = T>) -> Dealt<T> {
        Dealt(parts.map(|part| Mutex::new(Some(part))).collect())
    }

    fn take(&self, worker: &Worker<'_>) -> T {
        lock(&self.0[worker.index()]).take().expect("a part is taken once")
    }
}

/// Between `C` and its two parts, unit by unit.
fn parts_of(
    Attention { hidden, states, .. }: Attention,
    [read, step]: &mut [Vec<f32>; 2],
) -> impl Iterator<Item = (&mut [f32], &mut [f32])> {
    read.resize(hidden * states, 0.0);
    step.resize(hidden * hidden, 0.0);
    read.chunks_exact_mut(states).zip(step.chunks_exact_mut(hidden))
}

/// One worker's sentences, and what it writes for them.
struct ForwardPart<'a> {
    first: usize,
    end: usize,
    /// From the first one's on.
    shares: &'a mut [f32],
    out: &'a mut [f32],
}

struct Forward<'a> {
    attention: Attention,
    weights: Weights<'a>,
    x: &'a [f32],
    y: &'a [f32],
    out: &'a mut [f32],
    tape: &'a mut Tape,
    scratch: &'a mut Scratch,
}

impl Dispatch for Forward<'_> {
    type Output = ();

    fn run<S: Lanes>(self, simd: S) {
        let Forward { attention, weights, x, y, out, tape, scratch } = self;
        let Attention { score, hidden, states } = attention;
        let Tape { sources, targets, pairs, x: xs, y: ys, keys, queries, values, shares, out: read, .. } =
            tape;
        let Scratch { packing, parts, vector, .. } = scratch;
        let (places, steps) = (sources.count(), targets.count());
        let (wide, wide_states) = (stride(hidden), stride(states));

        let xs = xs.ensure(places * wide_states);
        copy_rows((xs, wide_states), Rows::dense(x, states), &sources.frames);
        let ys = ys.ensure(steps * wide);
        copy_rows((ys, wide), Rows::dense(y, hidden), &targets.frames);
        for (row, (read, step)) in
            weights.combine.chunks_exact(states + hidden).zip(parts_of(attention, parts))
        {
            read.copy_from_slice(&row[..states]);
            step.copy_from_slice(&row[states..]);
        }
        let (x, y) = (Rows::filled(xs, states), Rows::filled(ys, hidden));
        let mut multiply = |a, factor, start, out: &mut [f32]| {
            product(simd, packing, a, factor, start, (out, hidden));
        };
        let values = values.ensure(places * wide);
        multiply(x, Factor::Transposed(&parts[0]), Start::Zero, values);
        let read = read.ensure(steps * wide);
        multiply(y, Factor::Transposed(&parts[1]), Start::Bias(weights.bias), read);
        let (keys, queries) = match score {
            Score::Dot | Score::ScaledDot => (x.data, y.data),
            Score::General | Score::ScaledGeneral => {
                let keys = keys.ensure(places * wide);
                multiply(x, Factor::Plain(weights.query), Start::Zero, keys);
                (&*keys, y.data)
            }
            Score::Additive => {
                let keys = keys.ensure(places * wide);
                multiply(x, Factor::Transposed(weights.key), Start::Zero, keys);
                let (queries, start) = (queries.ensure(steps * wide), Start::Bias(weights.query_bias));
                multiply(y, Factor::Transposed(weights.query), start, queries);
                (&*keys, &*queries)
            }
        };
        let fit = Fit::of(attention, filled(vector, weights.vector));

        let all = pairs[pairs.len() - 1];
        let workers = workers(all * hidden * 2);
        let ends = shares_of(pairs, workers);
        let shares = cut(shares.ensure(all), ends.iter().map(|&end| pairs[end]));
        let outs = cut(read, ends.iter().map(|&end| targets.starts[end] * wide));
        let firsts = [0].into_iter().chain(ends.iter().copied());
        let parts = firsts.zip(&ends).zip(shares.into_iter().zip(outs));
        let dealt =
            Dealt::new(parts.map(|((first, &end), (shares, out))| ForwardPart { first, end, shares, out }));
        team::run_on(workers, |worker| {
            let mut part = dealt.take(worker);
            for sentence in part.first..part.end {
                let (places, steps) = (sources.of(sentence), targets.of(sentence));
                simd.call(Look {
                    fit,
                    wide,
                    keys: &keys[places.start * wide..places.end * wide],
                    values: &values[places.start * wide..places.end * wide],
                    queries: &queries[steps.start * wide..steps.end * wide],
                    shares: next(&mut part.shares, places.len() * steps.len()),
                    out: next(&mut part.out, steps.len() * wide),
                });
            }
        });
        copy_rows((out, hidden), Rows::filled(read, hidden), &targets.rows);
    }
}

/// One worker's sentences, and what it writes for them.
struct BackwardPart<'a> {
    first: usize,
    end: usize,
    dshares: &'a mut [f32],
    dqueries: &'a mut [f32],
    dkeys: &'a mut [f32],
    dvalues: &'a mut [f32],
    dvectors: &'a mut [f32],
}

struct Backward<'a> {
    attention: Attention,
    weights: Weights<'a>,
    tape: &'a Tape,
    dout: &'a [f32],
    gradients: Gradients<'a>,
    scratch: &'a mut Scratch,
}

impl Dispatch for Backward<'_> {
    type Output = ();

    fn run<S: Lanes>(self, simd: S) {
        let Backward { attention, weights, tape, dout: given, gradients, scratch } = self;
        let Attention { score, hidden, states } = attention;
        let Tape { sources, targets, pairs, .. } = tape;
        let Scratch {
            packing,
            parts,
            vector,
            dout,
            dkeys,
            dqueries,
            dvalues,
            dshares,
            dvectors,
            dx,
            dy,
            dparts,
        } = scratch;
        let (places, steps, sentences) = (sources.count(), targets.count(), pairs.len() - 1);
        let (wide, wide_states) = (stride(hidden), stride(states));
        let additive = score == Score::Additive;
        let x = Rows::filled(tape.x.as_ref(), states);
        let y = Rows::filled(tape.y.as_ref(), hidden);
        let keys = if score.needs_equal_widths() { x.data } else { tape.keys.as_ref() };
        let queries = if additive { tape.queries.as_ref() } else { y.data };
        let (values, shares, out) = (tape.values.as_ref(), tape.shares.as_ref(), tape.out.as_ref());
        for (row, (read, step)) in
            weights.combine.chunks_exact(states + hidden).zip(parts_of(attention, parts))
        {
            read.copy_from_slice(&row[..states]);
            step.copy_from_slice(&row[states..]);
        }

        // Through the hyperbolic tangent.
        let dout = dout.ensure(steps * wide);
        copy_rows((dout, wide), Rows::dense(given, hidden), &targets.frames);
        {
            let workers = workers(dout.len());
            let pieces = Pieces::new(dout, wide, workers);
            team::run_on(workers, |worker| {
                let (row, own) = pieces.take(worker);
                let out = &out[row * wide..][..own.len()];
                own.iter_mut().zip(out).for_each(|(d, out)| *d *= 1.0 - out * out);
            });
        }

        let fit = Fit::of(attention, filled(vector, weights.vector));
        let all = pairs[sentences];
        let (dqueries, dkeys) = (dqueries.ensure(steps * wide), dkeys.ensure(places * wide));
        let dvalues = dvalues.ensure(places * wide);
        let dvectors = dvectors.ensure(if additive { sentences * wide } else { 0 });
        {
            let workers = workers(all * hidden * 4);
            let ends = shares_of(pairs, workers);
            let cut_at = |data, at: &dyn Fn(usize) -> usize| cut(data, ends.iter().map(|&end| at(end)));
            let mut parts = [
                cut_at(dshares.ensure(all), &|end| pairs[end]),
                cut_at(&mut *dqueries, &|end| targets.starts[end] * wide),
                cut_at(&mut *dkeys, &|end| sources.starts[end] * wide),
                cut_at(&mut *dvalues, &|end| sources.starts[end] * wide),
                cut_at(&mut *dvectors, &|end| if additive { end * wide } else { 0 }),
            ]
            .map(Vec::into_iter);
            let firsts = [0].into_iter().chain(ends.iter().copied());
            let dealt = Dealt::new(firsts.zip(&ends).map(|(first, &end)| {
                let [dshares, dqueries, dkeys, dvalues, dvectors] =
                    parts.each_mut().map(|parts| parts.next().expect("as many parts as workers"));
                BackwardPart { first, end, dshares, dqueries, dkeys, dvalues, dvectors }
            }));
            let dout = &*dout;
            team::run_on(workers, |worker| {
                let mut part = dealt.take(worker);
                for sentence in part.first..part.end {
                    let (places, steps) = (sources.of(sentence), targets.of(sentence));
                    simd.call(LookBack {
                        fit,
                        wide,
                        keys: &keys[places.start * wide..places.end * wide],
                        values: &values[places.start * wide..places.end * wide],
                        queries: &queries[steps.start * wide..steps.end * wide],
                        shares: &shares[pairs[sentence]..pairs[sentence + 1]],
                        dout: &dout[steps.start * wide..steps.end * wide],
                        dshares: next(&mut part.dshares, places.len() * steps.len()),
                        dqueries: next(&mut part.dqueries, steps.len() * wide),
                        dkeys: next(&mut part.dkeys, places.len() * wide),
                        dvalues: next(&mut part.dvalues, places.len() * wide),
                        dvector: next(&mut part.dvectors, if additive { wide } else { 0 }),
                    });
                }
            });
        }

        let (dout, dvalues) = (Rows::filled(dout, hidden), Rows::filled(dvalues, hidden));
        // What the steps and the states are told.
        let dy = match score {
            Score::Additive => {
                let dy = dy.ensure(steps * wide);
                let a = Rows::filled(dqueries, hidden);
                product(simd, packing, a, Factor::Plain(weights.query), Start::Zero, (dy, hidden));
                dy
            }
            _ => &mut *dqueries,
        };
        product(simd, packing, dout, Factor::Plain(&parts[1]), Start::Output, (dy, hidden));
        copy_rows((gradients.y, hidden), Rows::filled(dy, hidden), &targets.rows);
        let factor = match score {
            Score::Dot | Score::ScaledDot => None,
            Score::General | Score::ScaledGeneral => Some(Factor::Transposed(weights.query)),
            Score::Additive => Some(Factor::Plain(weights.key)),
        };
        let dx_rows = match factor {
            None => &mut *dkeys,
            Some(factor) => {
                let dx = dx.ensure(places * wide_states);
                product(simd, packing, Rows::filled(dkeys, hidden), factor, Start::Zero, (dx, states));
                dx
            }
        };
        product(simd, packing, dvalues, Factor::Plain(&parts[0]), Start::Output, (dx_rows, states));
        copy_rows((gradients.x, states), Rows::filled(dx_rows, states), &sources.rows);

        // What the weights are told.
        parts_of(attention, dparts).for_each(drop);
        let [dread, dstep] = dparts;
        outer(simd, packing, places, (dvalues, x), dread, None);
        outer(simd, packing, steps, (dout, y), dstep, Some(gradients.bias));
        for (row, (read, step)) in
            gradients.combine.chunks_exact_mut(states + hidden).zip(parts_of(attention, dparts))
        {
            row[..states].copy_from_slice(read);
            row[states..].copy_from_slice(step);
        }
        match score {
            Score::Dot | Score::ScaledDot => {}
            Score::General | Score::ScaledGeneral => {
                outer(simd, packing, places, (x, Rows::filled(dkeys, hidden)), gradients.query, None);
            }
            Score::Additive => {
                let (dqueries, dkeys) = (Rows::filled(dqueries, hidden), Rows::filled(dkeys, hidden));
                outer(simd, packing, steps, (dqueries, y), gradients.query, Some(gradients.query_bias));
                outer(simd, packing, places, (dkeys, x), gradients.key, None);
                gradients.vector.fill(0.0);
                for own in dvectors.chunks_exact(wide) {
                    gradients.vector.iter_mut().zip(own).for_each(|(sum, own)| *sum += own);
                }
            }
        }
    }
}

/// States that steps look at one by one, when none knows the next: what no step changes is made once.
pub struct Memory {
    attention: Attention,
    level: Level,
    /// First state of each sentence, and the end.
    starts: Vec<usize>,
    keys: Buffer,
    values: Buffer,
    vector: Buffer,
    query: Option<Linear>,
    own: Linear,
    /// Rows of a look, filled up with zeros.
    y: Buffer,
    queries: Buffer,
    out: Buffer,
    pairs: Vec<usize>,
    same: Vec<usize>,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Memory({:?})", self.attention)
    }
}

impl Memory {
    /// Of the states `x` `[F, E]` of `sources`, in packed order.
    ///
    /// # Errors
    /// [`ShapeError`] when a buffer does not fit or a sequence is empty.
    pub fn new(
        attention: Attention,
        sources: &Batch,
        weights: Weights<'_>,
        x: &[f32],
    ) -> Result<Memory, ShapeError> {
        attention.check(sources, sources)?;
        let Attention { score, hidden, states } = attention;
        let Weights { query, key, vector, query_bias, combine, bias } = weights;
        attention.check_weights([query, key, vector, query_bias, combine, bias].map(<[f32]>::len))?;
        expect("encoder states", x.len(), sources.frames() * states)?;
        if sources.lengths().contains(&0) {
            return Err(ShapeError::Zero { what: "the length of a sequence that is looked at" });
        }
        let query = match score {
            Score::Additive => Some(Linear::new(query, Some(query_bias), hidden)?),
            _ => None,
        };
        let own: Vec<f32> =
            combine.chunks_exact(states + hidden).flat_map(|row| &row[states..]).copied().collect();
        let level = Level::current();
        let mut order = Order::default();
        order.set(sources);
        let mut memory = Memory {
            attention,
            level,
            starts: Vec::new(),
            keys: Buffer::default(),
            values: Buffer::default(),
            vector: Buffer::default(),
            query,
            own: Linear::new(&own, Some(bias), hidden)?,
            y: Buffer::default(),
            queries: Buffer::default(),
            out: Buffer::default(),
            pairs: Vec::new(),
            same: Vec::new(),
        };
        filled(&mut memory.vector, vector);
        level.dispatch(Remember { memory: &mut memory, weights, x, order: &order });
        memory.starts = order.starts;
        Ok(memory)
    }

    /// How many states a sentence has.
    ///
    /// # Panics
    /// When there is no such sentence.
    #[must_use]
    pub fn places(&self, sentence: usize) -> usize {
        self.starts[sentence + 1] - self.starts[sentence]
    }

    /// What steps `y` `[N, H]` know after each has looked at its sentence, into `out` `[N, H]`, and how much of each
    /// state they looked at: row after row as many `shares` as the sentence has states. A row's bits depend on no other
    /// row.
    ///
    /// # Errors
    /// [`ShapeError`] when a buffer does not fit or there is no such sentence; nothing is written then.
    pub fn look(
        &mut self,
        sentences: &[usize],
        y: &[f32],
        out: &mut [f32],
        shares: &mut Vec<f32>,
    ) -> Result<(), ShapeError> {
        let limit = self.starts.len() - 1;
        if let Some(&found) = sentences.iter().find(|&&sentence| sentence >= limit) {
            return Err(ShapeError::Index { what: "a sentence", found, limit });
        }
        expect("steps that look", y.len(), sentences.len() * self.attention.hidden)?;
        expect("steps after a look", out.len(), y.len())?;
        self.pairs.clear();
        self.pairs.push(0);
        let mut end = 0;
        for &sentence in sentences {
            end += self.starts[sentence + 1] - self.starts[sentence];
            self.pairs.push(end);
        }
        shares.resize(end, 0.0);
        self.level.dispatch(LookOnce { memory: self, sentences, y, out, shares });
        Ok(())
    }
}

struct Remember<'a> {
    memory: &'a mut Memory,
    weights: Weights<'a>,
    x: &'a [f32],
    order: &'a Order,
}

impl Dispatch for Remember<'_> {
    type Output = ();

    fn run<S: Lanes>(self, simd: S) {
        let Remember { memory, weights, x, order } = self;
        let Attention { score, hidden, states } = memory.attention;
        let (places, wide_states) = (order.count(), stride(states));
        let Memory { keys, values, .. } = memory;
        let mut rows = Buffer::default();
        let rows = rows.ensure(places * wide_states);
        copy_rows((rows, wide_states), Rows::dense(x, states), &order.frames);
        let x = Rows::filled(rows, states);
        let packing = &mut Packing::default();
        let mut multiply = |factor, out: &mut Buffer| {
            let out = out.ensure(places * stride(hidden));
            product(simd, packing, x, factor, Start::Zero, (out, hidden));
        };
        let read: Vec<f32> =
            weights.combine.chunks_exact(states + hidden).flat_map(|row| &row[..states]).copied().collect();
        multiply(Factor::Transposed(&read), values);
        match score {
            Score::Dot | Score::ScaledDot => keys.ensure(x.data.len()).copy_from_slice(x.data),
            Score::General | Score::ScaledGeneral => multiply(Factor::Plain(weights.query), keys),
            Score::Additive => multiply(Factor::Transposed(weights.key), keys),
        }
    }
}

struct LookOnce<'a> {
    memory: &'a mut Memory,
    sentences: &'a [usize],
    y: &'a [f32],
    out: &'a mut [f32],
    shares: &'a mut [f32],
}

impl Dispatch for LookOnce<'_> {
    type Output = ();

    fn run<S: Lanes>(self, simd: S) {
        let LookOnce { memory, sentences, y, out, shares } = self;
        let hidden = memory.attention.hidden;
        let wide = stride(hidden);
        let rows = sentences.len();
        let Memory {
            attention,
            starts,
            keys,
            values,
            vector,
            query,
            own,
            y: ys,
            queries,
            out: read,
            pairs,
            same,
            ..
        } = memory;
        same.extend(same.len()..rows);
        let ys = ys.ensure(rows * wide);
        copy_rows((ys, wide), Rows::dense(y, hidden), same);
        let y = Rows::filled(ys, hidden);
        let read = read.ensure(rows * wide);
        own.apply_filled(y, read);
        let queries = match query {
            None => y.data,
            Some(query) => {
                let queries = queries.ensure(rows * wide);
                query.apply_filled(y, queries);
                &*queries
            }
        };
        let fit = Fit::of(*attention, vector.as_ref());
        let (keys, values) = (keys.as_ref(), values.as_ref());
        let workers = workers(pairs[rows] * hidden * 2);
        let ends = shares_of(pairs, workers);
        let shares = cut(shares, ends.iter().map(|&end| pairs[end]));
        let outs = cut(&mut *read, ends.iter().map(|&end| end * wide));
        let firsts = [0].into_iter().chain(ends.iter().copied());
        let parts = firsts.zip(&ends).zip(shares.into_iter().zip(outs));
        let dealt =
            Dealt::new(parts.map(|((first, &end), (shares, out))| ForwardPart { first, end, shares, out }));
        team::run_on(workers, |worker| {
            let mut part = dealt.take(worker);
            for row in part.first..part.end {
                let places = starts[sentences[row]] * wide..starts[sentences[row] + 1] * wide;
                simd.call(Look {
                    fit,
                    wide,
                    keys: &keys[places.clone()],
                    values: &values[places],
                    queries: &queries[row * wide..][..wide],
                    shares: next(&mut part.shares, pairs[row + 1] - pairs[row]),
                    out: next(&mut part.out, wide),
                });
            }
        });
        copy_rows((out, hidden), Rows::filled(read, hidden), same);
    }
}
