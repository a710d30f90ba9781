//! Streaming: one step at a time, for text as it is generated or a signal as it arrives.
//!
//! All layers are one job of the team, with a barrier between them. A step of few streams is a product of
//! matrices and vectors: it lasts as long as the weights take from memory, which all workers read at once.

mod branches;
mod walk;

use crate::cell::rowwise::Terms;
use crate::disjoint::{Pieces, Split};
use crate::embedding;
use crate::memory::Buffer;
use crate::operands::{State, Weights, check_layer};
use crate::pack::{Packed, Panels};
use crate::packed::{PackForward, pack_bias, products};
use crate::quant::{self, QuantizedWeight};
use crate::record::{Signal, copy_gate};
use crate::rowwise::RowBuffers;
use crate::shape::{Direction, Layer, ShapeError, expect};
use crate::simd::{ByteLevel, Level, Quad};
use crate::sizes::Sizes;
use crate::team;
use branches::Branches;
use walk::{Stage, StepJob};

/// What a [`Stepper`] keeps its weights in. Biases, gates and states are floats of 32 bits in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum StepPrecision {
    /// Floats of 32 bits: steps give what the sequence call gives.
    #[default]
    F32,
    /// Integers of eight bits with a scale for each row; inputs and states are rounded to eight bits, with a
    /// scale for each, on their way into a product. A quarter of the memory to read at every step.
    Int8,
}

impl StepPrecision {
    /// How many bytes a weight takes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            StepPrecision::F32 => 4,
            StepPrecision::Int8 => 1,
        }
    }
}

/// A stack of layers that advances one step at a time for some streams.
///
/// Weights are packed once, at construction; a step allocates nothing and gives what the sequence call
/// gives.
///
/// # Examples
/// ```
/// use carousel_kernels::*;
///
/// let cell = Cell::Gru(Reset::After);
/// let layer = Layer { cell, direction: Direction::Forward, input: 2, hidden: 3, precision: Precision::F32, zoneout: Zoneout::NONE, options: CellOptions::PLAIN };
/// let (w, u, b) = layer.weight_lengths();
/// let (w, u, b) = (vec![0.1; w], vec![0.2; u], vec![0.0; b]);
/// let weights = Weights { input: &w, recurrent: &u, bias_input: &b, bias_recurrent: &b, options: &[] };
/// let mut stepper = Stepper::new(&[(layer, weights)], 1)?;
/// let first = stepper.step(&[1.0, 0.5])?.to_vec();
/// let second = stepper.step(&[1.0, 0.5])?.to_vec();
/// assert_ne!(first, second); // it remembers
/// stepper.reset();
/// assert_eq!(stepper.step(&[1.0, 0.5])?, first);
/// # Ok::<(), ShapeError>(())
/// ```
pub struct Stepper {
    layers: Vec<StepLayer>,
    batch: usize,
    level: Level,
    byte_level: ByteLevel,
    /// Bytes of all layers' weights.
    bytes: usize,
    /// First frame of the one step there is, and the end.
    starts: [usize; 2],
    rounded: Rounded,
    /// What streams that branch share.
    branches: Option<Branches>,
    /// Keeps its memory from step to step.
    stages: Vec<Stage<'static>>,
}

/// Room for rows in eight bits, a part for each worker.
#[derive(Default)]
struct Rounded {
    quads: Buffer,
    scales: Buffer,
    /// Quads of the widest row; none where no rows are rounded.
    widest: usize,
    /// Quads and scales of a worker's part. Parts share no cache lines, not even those that processors
    /// fetch in pairs: what one worker writes would slow another down that reads.
    part: (usize, usize),
}

struct StepLayer {
    layer: Layer,
    sizes: Sizes,
    weights: StepWeights,
    /// Input bias, then recurrent bias.
    bias: Buffer,
    gates: Buffer,
    extra: Buffer,
    /// The state before and after the step under way.
    h: [Buffer; 2],
    c: [Buffer; 2],
    /// `[B, H]`: the output, dense.
    y: Vec<f32>,
    /// `[B, H]`: the cell value, dense.
    dense_c: Vec<f32>,
    /// Mean shares of the new `h` and `c`, one a unit; empty where the layer does not zone out.
    shares: [Vec<f32>; 2],
    /// Of a cell with options.
    rows: RowBuffers,
}

/// The input's weights, and the recurrent ones by phase.
enum StepWeights {
    F32 { panels: [Panels; 3], packed: [Buffer; 3] },
    Int8([QuantizedWeight; 3]),
}

impl StepWeights {
    fn pack(
        layer: &Layer,
        weights: Weights<'_>,
        (level, sizes): (Level, Sizes),
        bias: &mut Buffer,
        precision: StepPrecision,
    ) -> StepWeights {
        match precision {
            StepPrecision::F32 => {
                let mut packed = <[Buffer; 3]>::default();
                let pack = PackForward { layer, weights, packed: &mut packed, bias };
                let panels = level.dispatch(pack);
                StepWeights::F32 { panels, packed }
            }
            StepPrecision::Int8 => {
                pack_bias(layer, weights, sizes, bias);
                StepWeights::Int8(products(layer, weights, sizes).map(QuantizedWeight::pack))
            }
        }
    }

    fn panels(&self, which: usize) -> Panels {
        match self {
            StepWeights::F32 { panels, .. } => panels[which],
            StepWeights::Int8(weights) => weights[which].panels,
        }
    }

    /// Weights in floats.
    fn packed(&self, which: usize) -> Packed<'_> {
        match self {
            StepWeights::F32 { panels, packed } => {
                Packed { panels: panels[which], data: packed[which].as_ref() }
            }
            StepWeights::Int8(_) => unreachable!("streams branch in floats"),
        }
    }
}

/// Bytes of weights, times streams, below which one more worker costs more than it brings: to call it costs
/// some microseconds, in which one worker alone multiplies about so much.
const WORK_PER_WORKER: usize = 300_000;

impl Stepper {
    /// Packs a stack's weights for `batch` streams, all states zero. Each layer's `H` is the next one's
    /// `I`.
    ///
    /// # Errors
    /// [`ShapeError`] when a weight does not fit, there is no layer or no stream, or a layer is reversed or
    /// [projects](crate::CellOptions::projection).
    pub fn new(layers: &[(Layer, Weights<'_>)], batch: usize) -> Result<Stepper, ShapeError> {
        Stepper::with_precision(layers, batch, StepPrecision::F32)
    }

    /// The same for streams that branch, as the hypotheses of a beam do: what those that follow the same one share
    /// (see [`select`](Stepper::select)) is computed once, and so is what those do that [`read`](Stepper::read) the
    /// same token. Sums are rounded in another order than those of [`new`](Stepper::new), in the same one whatever is
    /// shared.
    ///
    /// # Errors
    /// As [`new`](Stepper::new).
    pub fn branching(layers: &[(Layer, Weights<'_>)], batch: usize) -> Result<Stepper, ShapeError> {
        let stepper = Stepper::new(layers, batch)?;
        let mut branches = Branches::default();
        branches.part(batch);
        Ok(Stepper { branches: Some(branches), ..stepper })
    }

    /// The same with weights kept in `precision`.
    ///
    /// # Errors
    /// As [`new`](Stepper::new), and when a row of 8-bit weights is so long that its sums might not fit 32
    /// bits.
    pub fn with_precision(
        layers: &[(Layer, Weights<'_>)],
        batch: usize,
        precision: StepPrecision,
    ) -> Result<Stepper, ShapeError> {
        if layers.is_empty() {
            return Err(ShapeError::Zero { what: "number of layers" });
        }
        if batch == 0 {
            return Err(ShapeError::Zero { what: "number of streams" });
        }
        let level = Level::current();
        let mut stack: Vec<StepLayer> = Vec::with_capacity(layers.len());
        let (mut bytes, mut widest) = (0usize, 0);
        for (layer, weights) in layers {
            check_layer(layer, weights)?;
            if layer.direction == Direction::Reverse {
                return Err(ShapeError::State { what: "a reversed layer cannot run step by step" });
            }
            if layer.options.projection.is_some() {
                return Err(ShapeError::State { what: "a layer that projects cannot run step by step" });
            }
            if let Some(below) = stack.last() {
                expect("input of a layer in the stack", layer.input, below.layer.hidden)?;
            }
            let sizes = Sizes::new(layer, level);
            if batch.checked_mul(sizes.gate_stride + sizes.unit_stride).is_none() {
                return Err(ShapeError::TooLarge { what: "number of streams" });
            }
            let depth = layer.input.max(layer.hidden);
            if precision == StepPrecision::Int8 {
                quant::check_depth(depth)?;
                widest = widest.max(depth.div_ceil(4));
            }
            let options = weights.options;
            bytes += (weights.input.len() + weights.recurrent.len()) * precision.bytes();
            let mut bias = Buffer::default();
            let weights = StepWeights::pack(layer, *weights, (level, sizes), &mut bias, precision);
            let unit_buffer = || {
                let mut buffer = Buffer::default();
                buffer.ensure(batch * sizes.unit_stride).fill(0.0);
                buffer
            };
            let mut gates = Buffer::default();
            gates.ensure(batch * sizes.gate_stride);
            let mut rows = RowBuffers::default();
            if layer.is_rowwise() {
                let terms = rows.terms.ensure(Terms::floats(&sizes));
                Terms::pack(layer, &sizes, options, terms);
            }
            stack.push(StepLayer {
                layer: *layer,
                sizes,
                weights,
                bias,
                gates,
                extra: unit_buffer(),
                h: [unit_buffer(), unit_buffer()],
                c: [unit_buffer(), unit_buffer()],
                y: vec![0.0; batch * layer.hidden],
                dense_c: vec![0.0; if layer.cell.has_cell_state() { batch * layer.hidden } else { 0 }],
                shares: [layer.zoneout.hidden, layer.zoneout.cell].map(|rate| match rate > 0.0 {
                    true => vec![1.0 - rate; sizes.units()],
                    false => Vec::new(),
                }),
                rows,
            });
        }
        let mut stepper = Stepper {
            stages: Vec::with_capacity(stack.len()),
            layers: stack,
            batch,
            level,
            byte_level: ByteLevel::best(level),
            bytes,
            starts: [0, batch],
            rounded: Rounded::new(batch, widest),
            branches: None,
        };
        stepper.rounded.parts(stepper.workers());
        Ok(stepper)
    }

    /// Advances all streams by one step: `x` is `[B, I]`, the result the top layer's output `[B, H]`.
    ///
    /// # Errors
    /// [`ShapeError`] when `x` does not fit; the state stays as it was.
    pub fn step(&mut self, x: &[f32]) -> Result<&[f32], ShapeError> {
        expect("input of a step", x.len(), self.batch * self.layers[0].layer.input)?;
        self.advance(Some(x));
        Ok(self.top())
    }

    /// Advances all streams by one step of a token each: `table` is `[V, I]`, the same at every step, and `tokens`
    /// names a row of it for each stream.
    ///
    /// # Errors
    /// [`ShapeError`] when the stepper was not made for streams that [branch](Stepper::branching), a buffer does not
    /// fit or there is no such token; the state stays as it was.
    pub fn read(&mut self, table: &[f32], tokens: &[u32]) -> Result<&[f32], ShapeError> {
        expect("tokens of a step", tokens.len(), self.batch)?;
        let Some(branches) = &mut self.branches else {
            return Err(ShapeError::State { what: "tokens are read by a stepper whose streams branch" });
        };
        let first = &self.layers[0];
        if first.layer.is_rowwise() {
            let mut x = vec![0.0; self.batch * first.layer.input];
            embedding::gather(table, first.layer.input, tokens, &mut x)?;
            self.advance(Some(&x));
        } else {
            branches.read(self.level, first, table, tokens)?;
            self.advance(None);
        }
        Ok(self.top())
    }

    /// The top layer's output.
    fn top(&self) -> &[f32] {
        &self.layers[self.layers.len() - 1].y
    }

    /// A step that reads `x`, or tokens that are ready.
    fn advance(&mut self, x: Option<&[f32]>) {
        let (level, workers) = (self.level, self.workers());
        if let Some(branches) = &mut self.branches {
            branches.multiply_states(level, &self.layers);
        }
        level.dispatch(StepJob { stepper: self, workers, x });
        self.part();
    }

    /// No stream follows what another does any more.
    fn part(&mut self) {
        if let Some(branches) = &mut self.branches {
            branches.part(self.batch);
        }
    }

    /// Workers that are worth it.
    fn workers(&self) -> usize {
        let groups = self.layers.iter().map(|layer| layer.weights.panels(0).count()).max().unwrap_or(1);
        let work = self.bytes.saturating_mul(self.batch);
        team::workers(work, WORK_PER_WORKER).min(groups.max(self.batch))
    }

    /// How streams and units are dealt to `workers`. Units, so that each worker reads its own part of the
    /// weights; but streams where there are few units, and enough streams that the shares come out even.
    fn split(&self, workers: usize) -> Split {
        let even = |things: usize| things >= 8 * workers;
        let groups = self.layers.iter().map(|layer| layer.weights.panels(0).count()).min().unwrap_or(1);
        if even(self.batch) && !even(groups) { Split::Ranks } else { Split::Units }
    }

    /// How many streams there are.
    #[must_use]
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// The layers of the stack, from the input up.
    pub fn layers(&self) -> impl ExactSizeIterator<Item = Layer> + '_ {
        self.layers.iter().map(|layer| layer.layer)
    }

    /// A layer's state, `[B, H]` each; `c` for an LSTM.
    ///
    /// # Panics
    /// When there is no such layer.
    #[must_use]
    pub fn state(&self, layer: usize) -> State<'_> {
        let layer = &self.layers[layer];
        State { h: Some(&layer.y), c: layer.layer.cell.has_cell_state().then_some(&layer.dense_c) }
    }

    /// Copies what a layer's cell had in the last step to `[B, H]`. Gates are zero before the first step.
    ///
    /// # Errors
    /// [`ShapeError`] when `out` does not fit or the cell has no such signal.
    ///
    /// # Panics
    /// When there is no such layer.
    pub fn copy_signal(&self, layer: usize, signal: Signal, out: &mut [f32]) -> Result<(), ShapeError> {
        let StepLayer { layer, sizes, gates, y, dense_c, .. } = &self.layers[layer];
        layer.cell.expect_signal(signal)?;
        expect("room for a signal", out.len(), y.len())?;
        match signal {
            Signal::Hidden => out.copy_from_slice(y),
            Signal::Cell => out.copy_from_slice(dense_c),
            Signal::Gate(gate) => {
                let rows = gates.as_ref().chunks_exact(sizes.gate_stride);
                for (units, row) in out.chunks_exact_mut(layer.hidden).zip(rows) {
                    copy_gate(sizes, gate, row, units);
                }
            }
        }
        Ok(())
    }

    /// Sets a layer's state; what is `None` becomes zero.
    ///
    /// # Errors
    /// [`ShapeError`] when a value does not fit; nothing changes then.
    ///
    /// # Panics
    /// When there is no such layer.
    pub fn set_state(&mut self, layer: usize, state: State<'_>) -> Result<(), ShapeError> {
        let batch = self.batch;
        let StepLayer { layer, sizes, h, c, y, dense_c, .. } = &mut self.layers[layer];
        let hidden = layer.hidden;
        if let Some(h) = state.h {
            expect("h of a step's state", h.len(), batch * hidden)?;
        }
        if let Some(c) = state.c {
            expect("c of a step's state", c.len(), dense_c.len())?;
        }
        for (from, dense, padded) in [(state.h, y, &mut h[0]), (state.c, dense_c, &mut c[0])] {
            dense.fill(0.0);
            if let Some(from) = from {
                dense.copy_from_slice(from);
            }
            let rows = padded.ensure(batch * sizes.unit_stride);
            for (row, dense) in rows.chunks_exact_mut(sizes.unit_stride).zip(dense.chunks_exact(hidden)) {
                row[..hidden].copy_from_slice(dense);
            }
        }
        self.part();
        Ok(())
    }

    /// Goes on with these streams, in this order; one may be named more than once. Memory is kept, and grows where
    /// there are more streams than there ever were.
    ///
    /// # Errors
    /// [`ShapeError`] when no stream is named, or one that there is not; nothing changes then.
    pub fn select(&mut self, streams: &[usize]) -> Result<(), ShapeError> {
        if streams.is_empty() {
            return Err(ShapeError::Zero { what: "number of streams" });
        }
        if let Some(&found) = streams.iter().find(|&&stream| stream >= self.batch) {
            return Err(ShapeError::Index { what: "a stream", found, limit: self.batch });
        }
        let count = streams.len();
        for StepLayer { layer, sizes, gates, h, c, y, dense_c, .. } in &mut self.layers {
            gates.ensure(count * sizes.gate_stride);
            for (dense, padded) in [(y, h), (dense_c, c)] {
                // The next step overwrites the other one.
                let [from, to] = &mut *padded;
                let (from, to) = (from.as_ref(), to.ensure(count * sizes.unit_stride));
                let has_values = !dense.is_empty();
                dense.resize(if has_values { count * layer.hidden } else { 0 }, 0.0);
                let mut rows = dense.chunks_exact_mut(layer.hidden);
                for (to, &stream) in to.chunks_exact_mut(sizes.unit_stride).zip(streams) {
                    to.copy_from_slice(&from[stream * sizes.unit_stride..][..sizes.unit_stride]);
                    if let Some(dense) = rows.next() {
                        dense.copy_from_slice(&to[..layer.hidden]);
                    }
                }
                padded.swap(0, 1);
            }
        }
        if let Some(branches) = &mut self.branches {
            branches.follow(streams);
        }
        (self.batch, self.starts) = (count, [0, count]);
        self.rounded.resize(count);
        Ok(())
    }

    /// Sets one stream's states to zero: its text has ended and another begins.
    ///
    /// # Panics
    /// When there is no such stream.
    pub fn reset_stream(&mut self, stream: usize) {
        assert!(stream < self.batch, "stream {stream} of {}", self.batch);
        self.part();
        for StepLayer { layer, sizes, h, c, y, dense_c, .. } in &mut self.layers {
            for (dense, padded) in [(y, &mut h[0]), (dense_c, &mut c[0])] {
                padded.as_mut()[stream * sizes.unit_stride..][..sizes.unit_stride].fill(0.0);
                if let Some(row) = dense.chunks_exact_mut(layer.hidden).nth(stream) {
                    row.fill(0.0);
                }
            }
        }
    }

    /// Sets all states to zero.
    pub fn reset(&mut self) {
        for layer in 0..self.layers.len() {
            self.set_state(layer, State::default()).expect("zeros always fit");
        }
    }
}

impl Rounded {
    /// For `batch` rows of up to `widest` quads.
    fn new(batch: usize, widest: usize) -> Rounded {
        let mut rounded = Rounded { widest, ..Rounded::default() };
        rounded.resize(batch);
        rounded
    }

    /// For so many rows.
    fn resize(&mut self, batch: usize) {
        let lines = |length: usize| length.next_multiple_of(32);
        self.part = if self.widest > 0 { (lines(batch * self.widest), lines(batch)) } else { (0, 0) };
    }

    /// The parts of `workers` workers.
    fn parts(&mut self, workers: usize) -> (Pieces<'_, Quad>, Pieces<'_>) {
        let (quads, scales) = self.part;
        self.quads.ensure(workers * quads);
        let room = &mut self.quads.as_quads_mut()[..workers * quads];
        let scales = Pieces::new(self.scales.ensure(workers * scales), scales, workers);
        (Pieces::new(room, quads, workers), scales)
    }
}
