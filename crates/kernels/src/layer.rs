//! The entry points: one layer in one direction over a whole batch, forward and backward.

use crate::cell::rowwise::Terms;
use crate::cell::{Kernel, gru, lstm, rnn};
use crate::chance::{Chance, StepMask, StepNoise};
use crate::disjoint::{Pieces, kept_row};
use crate::gemm::{
    FrameRows, GateColumns, GateGradient, MOST_GATES, NarrowRows, WeightProduct, narrow_stride,
    weight_gradients,
};
use crate::grid::{BackwardPass, ForwardPass, InputGradient, RowProduct, RowSums, Source, fuses_input};
use crate::memory::Buffer;
use crate::operands::{
    Frames, FramesMut, InputGradients, Inputs, State, StateMut, WeightGradients, Weights, check_frames,
    check_layer, check_state,
};
use crate::pack::{self, Packed, Panels};
use crate::packed::{PackForward, PackedWeights, pack_all, phase_of, projection};
use crate::rowwise::{RowBuffers, RowPass, RowPassBack, share_out};
use crate::shape::{Activation, Batch, Cell, Layer, Layout, Reset, ShapeError, expect};
use crate::simd::{Dispatch, Lanes, Level, pair};
use crate::sizes::Sizes;
use crate::tape::{Pass, Tape};
use crate::team;
use std::marker::PhantomData;
use std::sync::{Mutex, PoisonError};

/// Tapes of passes that nobody wants to keep.
static SPARE: Mutex<Vec<Tape>> = Mutex::new(Vec::new());

/// Runs a layer over a batch.
///
/// `x` holds frames of width `I`, `y` takes frames of width `P`; rows of padding in `y` become zero.
/// `last` takes the state after each sequence's last real step (its initial state where the length is
/// zero). With a `tape`, [`backward`] can follow.
///
/// # Errors
/// [`ShapeError`] when a buffer does not fit; nothing is written then.
///
/// # Examples
/// ```
/// use carousel_kernels::*;
///
/// let layer = Layer { cell: Cell::Lstm, direction: Direction::Forward, input: 2, hidden: 3, precision: Precision::F32, zoneout: Zoneout::NONE, options: CellOptions::PLAIN };
/// let batch = Batch::ragged(&[1, 4], 4)?; // two sequences, padded to four steps
/// let (w, u, b) = layer.weight_lengths();
/// let (w, u, b) = (vec![0.1; w], vec![0.2; u], vec![0.0; b]);
/// let weights = Weights { input: &w, recurrent: &u, bias_input: &b, bias_recurrent: &b, options: &[] };
/// let x = vec![1.0; 2 * 4 * 2];
/// let mut y = vec![f32::NAN; 2 * 4 * 3];
/// let mut h = vec![0.0; 2 * 3];
/// forward(
///     &layer,
///     &batch,
///     weights,
///     Frames { data: &x, layout: Layout::Padded, stride: 2, offset: 0 },
///     State::default(),
///     FramesMut { data: &mut y, layout: Layout::Padded, stride: 3, offset: 0 },
///     StateMut { h: Some(&mut h), c: None },
///     None,
/// )?;
/// assert_eq!(y[0..3], h[0..3]); // the first sequence ends after one step
/// assert_eq!(y[3..12], [0.0; 9]); // its padding is zero
/// # Ok::<(), ShapeError>(())
/// ```
#[allow(clippy::too_many_arguments)]
pub fn forward<'a>(
    layer: &Layer,
    batch: &Batch,
    weights: Weights<'_>,
    x: impl Into<Inputs<'a>>,
    initial: State<'_>,
    y: FramesMut<'_>,
    last: StateMut<'_>,
    tape: Option<&mut Tape>,
) -> Result<(), ShapeError> {
    // The body is compiled once, here, not in every crate that calls it.
    forward_on(layer, batch, Operand::Plain(weights), None, x.into(), initial, y, last, tape)
}

/// [`forward`] with weights that were packed before, and no backward pass to follow.
///
/// # Errors
/// As [`forward`], and [`ShapeError`] when they were packed at another [`Level`].
pub fn forward_packed<'a>(
    weights: &PackedWeights,
    batch: &Batch,
    x: impl Into<Inputs<'a>>,
    initial: State<'_>,
    y: FramesMut<'_>,
    last: StateMut<'_>,
) -> Result<(), ShapeError> {
    forward_on(&weights.layer, batch, Operand::Packed(weights), None, x.into(), initial, y, last, None)
}

/// [`forward`] while learning: zoneout draws which units keep their last value, and units drop out of the
/// recurrence as `noise` says. [`backward`] then follows the same choices.
///
/// # Errors
/// As [`forward`], and [`ShapeError`] when a probability is none, there is not one name a sequence, or the cell
/// has no candidate to drop.
#[allow(clippy::too_many_arguments)]
pub fn forward_noisy<'a>(
    layer: &Layer,
    batch: &Batch,
    weights: Weights<'_>,
    noise: StepNoise<'_>,
    x: impl Into<Inputs<'a>>,
    initial: State<'_>,
    y: FramesMut<'_>,
    last: StateMut<'_>,
    tape: Option<&mut Tape>,
) -> Result<(), ShapeError> {
    forward_on(layer, batch, Operand::Plain(weights), Some(noise), x.into(), initial, y, last, tape)
}

/// A layer's weights, to be packed or packed already.
#[derive(Clone, Copy)]
enum Operand<'a> {
    Plain(Weights<'a>),
    Packed(&'a PackedWeights),
}

#[allow(clippy::too_many_arguments)]
fn forward_on(
    layer: &Layer,
    batch: &Batch,
    weights: Operand<'_>,
    noise: Option<StepNoise<'_>>,
    x: Inputs<'_>,
    initial: State<'_>,
    y: FramesMut<'_>,
    last: StateMut<'_>,
    tape: Option<&mut Tape>,
) -> Result<(), ShapeError> {
    let level = Level::current();
    match weights {
        Operand::Plain(weights) => check_layer(layer, &weights)?,
        Operand::Packed(weights) if weights.level != level => {
            return Err(ShapeError::State { what: "the weights were packed at another instruction level" });
        }
        Operand::Packed(_) => {}
    }
    if let Some(noise) = &noise {
        noise.check(layer, batch)?;
    }
    x.check(batch, layer.input)?;
    check_frames("output", batch, layer.output(), (y.data.len(), y.layout, y.stride, y.offset))?;
    let names = ("initial h", "initial c");
    check_state(layer, batch, names, initial.h.map(<[f32]>::len), initial.c.map(<[f32]>::len))?;
    let names = ("final h", "final c");
    check_state(layer, batch, names, last.h.as_ref().map(|h| h.len()), last.c.as_ref().map(|c| c.len()))?;

    if let Some(tape) = tape {
        tape.chance.set(layer, batch, noise.as_ref());
        run_forward(level, layer, batch, weights, x, initial, y, last, tape, true);
    } else {
        let spare = || SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tape = spare().pop().unwrap_or_default();
        tape.chance.set(layer, batch, noise.as_ref());
        run_forward(level, layer, batch, weights, x, initial, y, last, &mut tape, false);
        spare().push(tape);
    }
    Ok(())
}

#[allow(clippy::too_many_arguments)]
fn run_forward(
    level: Level,
    layer: &Layer,
    batch: &Batch,
    weights: Operand<'_>,
    x: Inputs<'_>,
    initial: State<'_>,
    y: FramesMut<'_>,
    last: StateMut<'_>,
    tape: &mut Tape,
    taped: bool,
) {
    // Full only when all went well: a panic on the way must not leave a tape that looks usable.
    tape.pass = None;
    tape.places.set_x(batch, layer, &x);
    tape.places.y.set(batch, layer.direction, (y.layout, y.stride, y.offset), layer.output());
    clear_padding(batch, layer.output(), y.data, (y.layout, y.stride, y.offset));
    let job = ForwardJob { layer, batch, weights, x, initial, y: y.data, last, tape: &mut *tape, taped };
    let precision = layer.product_precision();
    match layer.cell {
        Cell::Rnn(Activation::Relu) => level.dispatch_at(precision, job.with::<rnn::Relu>()),
        // All others but tanh go by rows.
        Cell::Rnn(_) => level.dispatch_at(precision, job.with::<rnn::Tanh>()),
        Cell::Lstm => level.dispatch_at(precision, job.with::<lstm::Lstm>()),
        Cell::Gru(Reset::After) => level.dispatch_at(precision, job.with::<gru::After>()),
        Cell::Gru(Reset::Before) => level.dispatch_at(precision, job.with::<gru::Before>()),
    }
    if taped {
        tape.pass = Some(Pass { layer: *layer, level });
        tape.batch.clone_from(batch);
    }
}

/// Zeroes the rows past each sequence's end.
fn clear_padding(
    batch: &Batch,
    width: usize,
    data: &mut [f32],
    (layout, stride, offset): (Layout, usize, usize),
) {
    if layout == Layout::Padded {
        for (b, &length) in batch.lengths().iter().enumerate() {
            for t in length..batch.time() {
                data[(b * batch.time() + t) * stride + offset..][..width].fill(0.0);
            }
        }
    }
}

/// States in the caller's order into rows by rank, padded with zeros.
fn load_states(batch: &Batch, hidden: usize, from: Option<&[f32]>, to: &mut [f32], stride: usize) {
    for (&b, row) in batch.order().iter().zip(to.chunks_exact_mut(stride)) {
        match from {
            Some(from) => {
                row[..hidden].copy_from_slice(&from[b * hidden..][..hidden]);
                row[hidden..].fill(0.0);
            }
            None => row.fill(0.0),
        }
    }
}

struct ForwardJob<'a> {
    layer: &'a Layer,
    batch: &'a Batch,
    weights: Operand<'a>,
    x: Inputs<'a>,
    initial: State<'a>,
    y: &'a mut [f32],
    last: StateMut<'a>,
    tape: &'a mut Tape,
    /// Whether the tape is kept for a backward pass.
    taped: bool,
}

impl<'a> ForwardJob<'a> {
    fn with<K: Kernel>(self) -> WithKernel<ForwardJob<'a>, K> {
        WithKernel(self, PhantomData)
    }
}

/// A job for one cell kernel.
struct WithKernel<J, K>(J, PhantomData<K>);

impl<K: Kernel> Dispatch for WithKernel<ForwardJob<'_>, K> {
    type Output = ();

    fn run<S: Lanes>(self, simd: S) {
        let ForwardJob { layer, batch, weights, x, initial, y, last, tape, taped } = self.0;
        let traits = K::TRAITS;
        let (hidden, gates, values) = (layer.hidden, traits.gates, layer.output());
        let sizes = Sizes::of(layer, simd);
        let (b, f) = (batch.sequences(), batch.frames());

        let rows = x.data().len() / layer.input;
        let rowwise = layer.is_rowwise();
        let source = match x {
            // Projecting a row costs as much as projecting a frame; reading it from a table costs little.
            Inputs::Rows { .. } if (rowwise || traits.phases == 1) && 4 * rows <= 3 * f => Source::Table,
            _ if !rowwise && fuses_input::<K>(batch, &sizes, layer.input) => Source::Fused,
            _ => Source::Ahead,
        };
        let has_gates = taped || rowwise || source == Source::Ahead;
        let gate_floats = if has_gates { f * sizes.gate_stride } else { 0 };
        let extra_floats =
            if traits.extra && (taped || traits.phases == 2) { f * sizes.unit_stride } else { 0 };

        let (panels, packed, bias, options) = match weights {
            Operand::Plain(weights) => {
                let (packed, bias) = (&mut tape.packed, &mut tape.bias);
                let panels = PackForward { layer, weights, packed, bias }.run(simd);
                (panels, &tape.packed, &tape.bias, weights.options)
            }
            Operand::Packed(weights) => {
                (weights.panels, &weights.packed, &weights.bias, &weights.options[..])
            }
        };
        let columns = gates * sizes.units();
        let (input_bias, recurrent_bias) = bias.as_ref()[..2 * columns].split_at(columns);
        let unit_floats = (b + if taped { f } else { b }) * sizes.unit_stride;
        let h = tape.h.ensure(unit_floats);
        load_states(batch, values, initial.h, h, sizes.unit_stride);
        let c = tape.c.ensure(if traits.cell_state { unit_floats } else { 0 });
        if traits.cell_state {
            load_states(batch, hidden, initial.c, c, sizes.unit_stride);
        }
        let [input, first, second] = packed;
        let input = Packed { panels: panels[0], data: input.as_ref() };
        let narrow = &mut tape.narrow;
        let (mut x, mut width) = (x.data(), layer.input);
        let starts = &mut tape.places.x;
        if source == Source::Table {
            // From here on each start is the number of a row.
            starts.iter_mut().for_each(|start| *start /= layer.input);
        }
        if S::PAIRS {
            width = narrow_stride::<S>(layer.input);
            let all = &mut tape.places.rows;
            let places = if source == Source::Table {
                all.clear();
                all.extend((0..rows).map(|row| row * layer.input));
                &*all
            } else {
                &*starts
            };
            let count = places.len();
            let rows = FrameRows { data: x, starts: places, width: layer.input };
            let out = narrow.x.ensure(count * width);
            NarrowRows { rows, out, stride: width }.run(simd);
            x = &narrow.x.as_ref()[..count * width];
            if source != Source::Table {
                starts.iter_mut().enumerate().for_each(|(frame, start)| *start = frame * width);
            }
        }
        let drops = tape.chance.has(StepMask::Recurrent);
        let seen_floats = match (S::PAIRS, drops) {
            (true, _) => b * sizes.unit_stride,
            (false, true) => 2 * b * sizes.unit_stride,
            (false, false) => 0,
        };
        let seen = narrow.h.ensure(seen_floats);
        if seen_floats > 0 {
            let seen_stride = seen_floats / (2 * b);
            for (rank, row) in seen.chunks_exact_mut(seen_stride).take(b).enumerate() {
                let h = &h[rank * sizes.unit_stride..][..sizes.unit_stride];
                let at = |unit: usize| h[unit] * recurrent_factor(&tape.chance, rank, unit);
                for (k, to) in row.iter_mut().enumerate() {
                    *to = if S::PAIRS { pair(at(2 * k), at(2 * k + 1)) } else { at(k) };
                }
            }
        }
        if source == Source::Table {
            let table = tape.table.ensure(rows * sizes.gate_stride);
            // Normalisation comes ahead of the bias.
            let bias = (!rowwise).then_some(input_bias);
            let product = RowProduct { rows: x, width, starts: None, weights: input, bias, out: table };
            product.run(simd, sizes.gate_stride, false);
            x = table;
            starts.iter_mut().for_each(|start| *start *= sizes.gate_stride);
        }
        let recurrent = [
            Packed { panels: panels[1], data: first.as_ref() },
            Packed { panels: panels[2], data: second.as_ref() },
        ];
        let bias = (input_bias, recurrent_bias);
        if rowwise {
            let gates = tape.gates.ensure(gate_floats);
            if source == Source::Ahead {
                let starts = Some(&tape.places.x[..]);
                let product = RowProduct { rows: x, width, starts, weights: input, bias: None, out: gates };
                product.run(simd, sizes.gate_stride, false);
            }
            let RowBuffers { terms, kept, sums, late, full, .. } = &mut tape.rows;
            let terms = terms.ensure(Terms::floats(&sizes));
            Terms::pack(layer, &sizes, options, terms);
            RowPass {
                layer,
                batch,
                sizes,
                table: (source == Source::Table).then_some((x, &tape.places.x[..])),
                recurrent,
                terms: Terms::of(layer, &sizes, terms, bias),
                gates,
                h,
                seen,
                chance: &tape.chance,
                c,
                extra: tape.extra.ensure(extra_floats),
                kept,
                sums,
                late,
                full,
                y,
                y_map: &tape.places.y,
                taped,
            }
            .run(simd);
        } else {
            ForwardPass::<K> {
                batch,
                sizes,
                hidden,
                x,
                x_starts: &tape.places.x,
                source,
                input,
                recurrent,
                bias,
                gates: tape.gates.ensure(gate_floats),
                h,
                seen,
                chance: &tape.chance,
                c,
                extra: tape.extra.ensure(extra_floats),
                y,
                y_map: &tape.places.y,
                taped,
                kernel: PhantomData,
            }
            .run(simd);
        }

        for (from, to, width) in [(&tape.h, last.h, values), (&tape.c, last.c, hidden)] {
            let Some(to) = to else { continue };
            for (rank, &place) in batch.order().iter().enumerate() {
                let row = match batch.lengths()[place] {
                    0 => rank,
                    length if taped => b + batch.frame(length - 1, rank),
                    length => kept_row(b, length - 1, rank),
                };
                to[place * width..][..width]
                    .copy_from_slice(&from.as_ref()[row * sizes.unit_stride..][..width]);
            }
        }
    }
}

/// What a rank's unit of `h` is multiplied with before the recurrent weights see it.
fn recurrent_factor(chance: &Chance, rank: usize, unit: usize) -> f32 {
    let place = chance.place(StepMask::Recurrent, 0, rank);
    chance.factor(StepMask::Recurrent).at(place.wrapping_add(unit as u32))
}

/// All states as the recurrent weights saw them.
fn dropped_states<'a>(
    chance: &Chance,
    batch: &Batch,
    sizes: &Sizes,
    h: &[f32],
    to: &'a mut Buffer,
) -> &'a [f32] {
    let (b, stride) = (batch.sequences(), sizes.unit_stride);
    let floats = (b + batch.frames()) * stride;
    let to = to.ensure(floats);
    // A rank's factors are the same at all its steps.
    let factors: Vec<f32> =
        (0..b * stride).map(|k| recurrent_factor(chance, k / stride, k % stride)).collect();
    let ranks = (0..b).chain((0..batch.steps()).flat_map(|step| 0..batch.alive(step)));
    let rows = to.chunks_exact_mut(stride).zip(h.chunks_exact(stride));
    for ((to, h), rank) in rows.zip(ranks) {
        for ((to, h), factor) in to.iter_mut().zip(h).zip(&factors[rank * stride..]) {
            *to = h * factor;
        }
    }
    to
}

/// A weight gradient as one row of pieces a gate, each piece the rows of one unit group.
fn per_gate(
    data: &mut [f32],
    gates: usize,
    (lanes, width): (usize, usize),
    workers: usize,
) -> [Option<Pieces<'_>>; MOST_GATES] {
    let mut all = data.chunks_mut(data.len() / gates);
    std::array::from_fn(|_| all.next().map(|gate| Pieces::new(gate, lanes * width, workers)))
}

/// Where a gate's gradients go. The places past the last gate repeat the first.
fn gate_gradients<'a>(
    weight: &'a [Option<Pieces<'a>>; MOST_GATES],
    bias: &'a [Option<Pieces<'a>>; MOST_GATES],
) -> [GateGradient<'a>; MOST_GATES] {
    std::array::from_fn(|gate| GateGradient {
        weight: weight[gate].as_ref().or(weight[0].as_ref()).expect("a cell has a gate"),
        bias: bias[gate].as_ref().or(bias[0].as_ref()),
    })
}

/// Backpropagation through time over a whole batch: from gradients of the outputs to gradients of
/// everything that went in.
///
/// `tape` comes from [`forward`] over the same layer, batch, weights and `x`, and is used up. `dy` is the
/// gradient of `y` (`None`: zero; padding is not read), `dlast` that of the final state. `dinitial` takes
/// the gradient of the initial state, `gradients` those of the weights.
///
/// # Errors
/// [`ShapeError`] when a buffer does not fit or the tape belongs to another pass; nothing is written then.
#[allow(clippy::too_many_arguments)]
pub fn backward<'a>(
    layer: &Layer,
    batch: &Batch,
    weights: Weights<'_>,
    tape: &mut Tape,
    x: impl Into<Inputs<'a>>,
    dy: Option<Frames<'_>>,
    dlast: State<'_>,
    dx: InputGradients<'_>,
    dinitial: StateMut<'_>,
    gradients: WeightGradients<'_>,
) -> Result<(), ShapeError> {
    backward_on(layer, batch, weights, tape, x.into(), dy, dlast, dx, dinitial, gradients)
}

#[allow(clippy::too_many_arguments)]
fn backward_on(
    layer: &Layer,
    batch: &Batch,
    weights: Weights<'_>,
    tape: &mut Tape,
    x: Inputs<'_>,
    dy: Option<Frames<'_>>,
    dlast: State<'_>,
    dx: InputGradients<'_>,
    dinitial: StateMut<'_>,
    gradients: WeightGradients<'_>,
) -> Result<(), ShapeError> {
    check_layer(layer, &weights)?;
    expect("gradient of the input weight", gradients.input.len(), weights.input.len())?;
    expect("gradient of the recurrent weight", gradients.recurrent.len(), weights.recurrent.len())?;
    expect("gradient of the input bias", gradients.bias_input.len(), weights.bias_input.len())?;
    expect("gradient of the recurrent bias", gradients.bias_recurrent.len(), weights.bias_recurrent.len())?;
    expect("gradient of the options' weights", gradients.options.len(), weights.options.len())?;
    x.check(batch, layer.input)?;
    if let Some(dy) = &dy {
        let place = (dy.data.len(), dy.layout, dy.stride, dy.offset);
        check_frames("output gradient", batch, layer.output(), place)?;
    }
    let (dx, accumulate) = match dx {
        InputGradients::None => (None, false),
        InputGradients::Write(dx) => (Some(dx), false),
        InputGradients::Add(dx) => (Some(dx), true),
    };
    if let Some(dx) = &dx {
        let place = (dx.data.len(), dx.layout, dx.stride, dx.offset);
        match x {
            Inputs::Frames(_) => check_frames("input gradient", batch, layer.input, place)?,
            Inputs::Rows { data, .. } => {
                expect("stride of the gradient of input rows", dx.stride, layer.input)?;
                expect("gradient of input rows", dx.data.len(), data.len())?;
            }
        }
    }
    let names = ("gradient of the final h", "gradient of the final c");
    check_state(layer, batch, names, dlast.h.map(<[f32]>::len), dlast.c.map(<[f32]>::len))?;
    let names = ("gradient of the initial h", "gradient of the initial c");
    let (h, c) = (dinitial.h.as_ref().map(|h| h.len()), dinitial.c.as_ref().map(|c| c.len()));
    check_state(layer, batch, names, h, c)?;
    match &tape.pass {
        Some(pass) if pass.layer == *layer && tape.batch == *batch => {}
        _ => return Err(ShapeError::Tape),
    }
    let Some(pass) = tape.pass.take() else { return Err(ShapeError::Tape) };

    tape.places.set_x(batch, layer, &x);
    if let Some(dy) = &dy {
        tape.places.y.set(batch, layer.direction, (dy.layout, dy.stride, dy.offset), layer.output());
    }
    let job =
        BackwardJob { layer, batch, weights, x, dy: dy.map(|dy| dy.data), dlast, dinitial, gradients, tape };
    let precision = layer.product_precision();
    match layer.cell {
        Cell::Rnn(Activation::Relu) => {
            pass.level.dispatch_at(precision, job.with::<rnn::Relu>(dx, accumulate))
        }
        Cell::Rnn(_) => pass.level.dispatch_at(precision, job.with::<rnn::Tanh>(dx, accumulate)),
        Cell::Lstm => pass.level.dispatch_at(precision, job.with::<lstm::Lstm>(dx, accumulate)),
        Cell::Gru(Reset::After) => pass.level.dispatch_at(precision, job.with::<gru::After>(dx, accumulate)),
        Cell::Gru(Reset::Before) => {
            pass.level.dispatch_at(precision, job.with::<gru::Before>(dx, accumulate))
        }
    }
    Ok(())
}

struct BackwardJob<'a> {
    layer: &'a Layer,
    batch: &'a Batch,
    weights: Weights<'a>,
    x: Inputs<'a>,
    dy: Option<&'a [f32]>,
    dlast: State<'a>,
    dinitial: StateMut<'a>,
    gradients: WeightGradients<'a>,
    tape: &'a mut Tape,
}

impl<'a> BackwardJob<'a> {
    fn with<K: Kernel>(
        self,
        dx: Option<FramesMut<'a>>,
        accumulate: bool,
    ) -> WithKernel<(BackwardJob<'a>, Option<FramesMut<'a>>, bool), K> {
        WithKernel((self, dx, accumulate), PhantomData)
    }
}

impl<K: Kernel> Dispatch for WithKernel<(BackwardJob<'_>, Option<FramesMut<'_>>, bool), K> {
    type Output = ();

    fn run<S: Lanes>(self, simd: S) {
        let (job, dx, accumulate) = self.0;
        let BackwardJob { layer, batch, weights, x, dy, dlast, dinitial, gradients, tape } = job;
        let traits = K::TRAITS;
        let (hidden, gates, values) = (layer.hidden, traits.gates, layer.output());
        let projects = layer.options.projection.is_some();
        let sizes = Sizes::of(layer, simd);
        let (b, f) = (batch.sequences(), batch.frames());

        let (first, first_gates) = phase_of(&traits, 0, weights.recurrent);
        let (second, second_gates) = phase_of(&traits, 1, weights.recurrent);
        let deep = gates * sizes.units();
        let none = Panels { vectors: 0, ..sizes.by_column(hidden, 0) };
        let panels = [
            sizes.by_column(values, deep),
            match projects {
                true => sizes.by_column(hidden, sizes.h_units()),
                false if second_gates > 0 => sizes.by_column(hidden, sizes.units()),
                false => none,
            },
            if dx.is_some() { sizes.by_column(layer.input, deep) } else { none },
        ];
        let second = if projects { projection(layer, weights.options) } else { second };
        let sources = [
            (first, (first_gates, gates), hidden, values),
            (second, (1, 1), values, hidden),
            (weights.input, (gates, gates), hidden, layer.input),
        ];
        pack_all(&mut tape.packed, panels, |which, panels, pieces, worker| {
            let (weight, gates, units, columns) = sources[which];
            pack::by_column(panels, pieces, worker, weight, gates, units, columns);
        });

        let carry_h = tape.carry_h.ensure(b * sizes.unit_stride);
        load_states(batch, values, dlast.h, carry_h, sizes.unit_stride);
        let carry_c = tape.carry_c.ensure(if traits.cell_state { b * sizes.unit_stride } else { 0 });
        if traits.cell_state {
            load_states(batch, hidden, dlast.c, carry_c, sizes.unit_stride);
        }
        let recurrent_floats = match traits.recurrent_gates {
            0 if !projects => 0,
            0 | 1 => f * sizes.unit_stride,
            _ => f * sizes.gate_stride,
        };
        let [first, second, input] = &tape.packed;
        let recurrent_weights = [
            Packed { panels: panels[0], data: first.as_ref() },
            Packed { panels: panels[1], data: second.as_ref() },
        ];
        let rowwise = layer.is_rowwise();
        if rowwise {
            let columns = gates * sizes.units();
            let RowBuffers { terms, kept, sums, late, shared, initial, .. } = &mut tape.rows;
            RowPassBack {
                layer,
                batch,
                sizes,
                recurrent_weights,
                terms: Terms::of(
                    layer,
                    &sizes,
                    terms.as_ref(),
                    tape.bias.as_ref()[..2 * columns].split_at(columns),
                ),
                dy,
                dy_starts: tape.places.y.starts(),
                h: tape.h.as_ref(),
                c: tape.c.as_ref(),
                extra: tape.extra.as_ref(),
                kept,
                gates: tape.gates.ensure(f * sizes.gate_stride),
                recurrent: tape.recurrent.ensure(recurrent_floats),
                carry_h: &mut *carry_h,
                carry_c,
                chance: &tape.chance,
                through: sums,
                late,
                shared,
                initial,
            }
            .run(simd);
            let rows = carry_h
                .chunks_exact_mut(sizes.unit_stride)
                .zip(initial.as_ref().chunks_exact(sizes.unit_stride));
            for (rank, (carry, through)) in rows.enumerate().take(batch.alive(0)) {
                for (unit, (carry, through)) in carry[..values].iter_mut().zip(through).enumerate() {
                    *carry += through * recurrent_factor(&tape.chance, rank, unit);
                }
            }
        } else {
            BackwardPass::<K> {
                batch,
                sizes,
                hidden,
                recurrent_weights,
                dy,
                dy_starts: tape.places.y.starts(),
                h: tape.h.as_ref(),
                c: tape.c.as_ref(),
                extra: tape.extra.as_ref(),
                gates: tape.gates.ensure(f * sizes.gate_stride),
                recurrent: tape.recurrent.ensure(recurrent_floats),
                narrow: tape.narrow.recurrent.ensure(if S::PAIRS { f * sizes.gate_stride / 2 } else { 0 }),
                carry_h,
                carry_c,
                chance: &tape.chance,
                kernel: PhantomData,
            }
            .run(simd);
        }

        for (from, to, width) in [(&tape.carry_h, dinitial.h, values), (&tape.carry_c, dinitial.c, hidden)] {
            let Some(to) = to else { continue };
            for (&place, row) in batch.order().iter().zip(from.as_ref().chunks(sizes.unit_stride)) {
                to[place * width..][..width].copy_from_slice(&row[..width]);
            }
        }

        let places = &mut tape.places;
        places.previous.clear();
        places.extra.clear();
        for step in 0..batch.steps() {
            for rank in 0..batch.alive(step) {
                let row = if step == 0 { rank } else { b + batch.frame(step - 1, rank) };
                places.previous.push(row * sizes.unit_stride);
                places.extra.push(batch.frame(step, rank) * sizes.unit_stride);
            }
        }
        let seen_by_input =
            GateColumns { data: tape.gates.as_ref(), stride: sizes.gate_stride, frames: f, gates };
        let seen_by_recurrent = match traits.recurrent_gates {
            3 => GateColumns { data: tape.recurrent.as_ref(), ..seen_by_input },
            _ => seen_by_input,
        };
        // Frames that share an input row add up before they meet the weights.
        let (by_input, d_input) = match x {
            Inputs::Frames(_) => {
                (FrameRows { data: x.data(), starts: &places.x, width: layer.input }, seen_by_input)
            }
            Inputs::Rows { data, .. } => {
                let rows = data.len() / layer.input;
                let sums = tape.table.ensure(rows * sizes.gate_stride);
                RowSums { gates: seen_by_input, starts: &places.x, width: layer.input, out: sums }.run(simd);
                places.rows.clear();
                places.rows.extend((0..rows).map(|row| row * layer.input));
                let inputs = FrameRows { data, starts: &places.rows, width: layer.input };
                (inputs, GateColumns { data: sums, frames: rows, ..seen_by_input })
            }
        };
        let seen = match tape.chance.has(StepMask::Recurrent) {
            true => dropped_states(&tape.chance, batch, &sizes, tape.h.as_ref(), &mut tape.dropped),
            false => tape.h.as_ref(),
        };
        let states = FrameRows { data: seen, starts: &places.previous, width: values };
        // With the reset before the product, the candidate's weights saw `r * h`.
        let reset = FrameRows { data: tape.extra.as_ref(), starts: &places.extra, width: hidden };

        let WeightGradients { input: d_weight, recurrent: d_recurrent, .. } = gradients;
        let (bias_ih, bias_hh) = (gradients.bias_input, gradients.bias_recurrent);
        let work = f * deep * (layer.input + values);
        let workers = team::workers(work, 200_000);
        let input_pieces = per_gate(d_weight, gates, (sizes.lanes, layer.input), workers);
        let recurrent_pieces = per_gate(d_recurrent, gates, (sizes.lanes, values), workers);
        let bias_input = per_gate(&mut *bias_ih, gates, (sizes.lanes, 1), workers);
        let bias_recurrent = per_gate(&mut *bias_hh, gates, (sizes.lanes, 1), workers);
        let d_projection = &mut gradients.options[layer.term_length()..];
        let projection_pieces = Pieces::new(d_projection, sizes.lanes * hidden, workers);
        team::run_on(workers, |worker| {
            let of_input = gate_gradients(&input_pieces, &bias_input);
            let of_recurrent = gate_gradients(&recurrent_pieces, &bias_recurrent);
            let split = if traits.phases == 2 { traits.panel } else { gates };
            let input = WeightProduct { b: by_input, out: &of_input[..gates] };
            let recurrent = WeightProduct { b: states, out: &of_recurrent[..split] };
            if traits.recurrent_gates == 0 && matches!(x, Inputs::Frames(_)) {
                // Both weights saw the same gradients.
                weight_gradients(simd, d_input, 0, [input, recurrent], false, worker);
            } else {
                weight_gradients(simd, d_input, 0, [input], false, worker);
                weight_gradients(simd, seen_by_recurrent, 0, [recurrent], false, worker);
            }
            if split < gates {
                let late = WeightProduct { b: reset, out: &of_recurrent[split..gates] };
                weight_gradients(simd, seen_by_recurrent, split, [late], false, worker);
            }
            if projects {
                let (data, stride) = (tape.recurrent.as_ref(), sizes.unit_stride);
                let d = GateColumns { data, stride, frames: f, gates: 1 };
                let full = FrameRows { data: tape.rows.full.as_ref(), starts: &places.extra, width: hidden };
                let to = GateGradient { weight: &projection_pieces, bias: None };
                weight_gradients(simd, d, 0, [WeightProduct { b: full, out: &[to] }], false, worker);
            }
        });

        if rowwise {
            share_out(layer, batch, &sizes, tape.rows.shared.as_ref(), gradients.options, (bias_ih, bias_hh));
        }

        let weights = Packed { panels: panels[2], data: input.as_ref() };
        let mut d = &d_input.data[..d_input.frames * sizes.gate_stride];
        let mut stride = sizes.gate_stride;
        if S::PAIRS && dx.is_some() {
            stride /= 2;
            let same = traits.recurrent_gates == 0 && matches!(x, Inputs::Frames(_));
            let narrow = if same { &mut tape.narrow.recurrent } else { &mut tape.narrow.gates };
            let out = narrow.ensure(d_input.frames * stride);
            if !same {
                places.rows.clear();
                places.rows.extend((0..d_input.frames).map(|row| row * sizes.gate_stride));
                let rows = FrameRows { data: d, starts: &places.rows, width: deep };
                NarrowRows { rows, out: &mut *out, stride }.run(simd);
            }
            d = out;
        }
        match (dx, x) {
            (None, _) => {}
            (Some(dx), Inputs::Rows { .. }) => {
                let product =
                    RowProduct { rows: d, width: stride, starts: None, weights, bias: None, out: dx.data };
                product.run(simd, layer.input, accumulate);
            }
            (Some(dx), Inputs::Frames(_)) => {
                let place = (dx.layout, dx.stride, dx.offset);
                places.dx.set(batch, layer.direction, place, layer.input);
                if !accumulate {
                    clear_padding(batch, layer.input, dx.data, place);
                }
                InputGradient {
                    batch,
                    weights,
                    gates: d,
                    stride,
                    input: layer.input,
                    dx: dx.data,
                    dx_map: &places.dx,
                    accumulate,
                }
                .run(simd);
            }
        }
    }
}
