//! Streaming: one step at a time, for text as it is generated or a signal as it arrives.

use crate::cell::{Forward, Input, Kernel, gru, lstm, rnn};
use crate::disjoint::{Buffer, Tile, TileMut};
use crate::gemm::{Product, Start, tiles, with_rows, with_vectors};
use crate::grid::ForwardJob;
use crate::layer::{State, Weights, check_layer, pack_forward};
use crate::pack::Panels;
use crate::record::{Signal, copy_gate};
use crate::shape::{Activation, Cell, Direction, Layer, Reset, ShapeError, expect};
use crate::simd::{Dispatch, Lanes, Level};
use crate::tape::Sizes;
use std::marker::PhantomData;

/// A stack of layers that advances one step at a time for a fixed number of streams.
///
/// Weights are packed once, at construction; a step allocates nothing and gives what the sequence call
/// gives.
///
/// # Examples
/// ```
/// use carousel_kernels::*;
///
/// let cell = Cell::Gru(Reset::After);
/// let layer = Layer { cell, direction: Direction::Forward, input: 2, hidden: 3, precision: Precision::F32 };
/// let (w, u, b) = layer.weight_lengths();
/// let (w, u, b) = (vec![0.1; w], vec![0.2; u], vec![0.0; b]);
/// let weights = Weights { input: &w, recurrent: &u, bias_input: &b, bias_recurrent: &b };
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
}

struct StepLayer {
    layer: Layer,
    sizes: Sizes,
    panels: [Panels; 3],
    packed: [Buffer; 3],
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
}

impl Stepper {
    /// Packs a stack's weights for `batch` streams, all states zero. Each layer's `H` is the next one's
    /// `I`.
    ///
    /// # Errors
    /// [`ShapeError`] when a weight does not fit, there is no layer or no stream, or a layer is reversed.
    pub fn new(layers: &[(Layer, Weights<'_>)], batch: usize) -> Result<Stepper, ShapeError> {
        if layers.is_empty() {
            return Err(ShapeError::Zero { what: "number of layers" });
        }
        if batch == 0 {
            return Err(ShapeError::Zero { what: "number of streams" });
        }
        let level = Level::current();
        let mut stack: Vec<StepLayer> = Vec::with_capacity(layers.len());
        for (layer, weights) in layers {
            check_layer(layer, weights)?;
            if layer.direction == Direction::Reverse {
                return Err(ShapeError::State { what: "a reversed layer cannot run step by step" });
            }
            if let Some(below) = stack.last() {
                expect("input of a layer in the stack", layer.input, below.layer.hidden)?;
            }
            let sizes = Sizes::new(layer, level);
            if batch.checked_mul(sizes.gate_stride + sizes.unit_stride).is_none() {
                return Err(ShapeError::TooLarge { what: "number of streams" });
            }
            let (mut packed, mut bias) = <([Buffer; 3], Buffer)>::default();
            let panels = match layer.cell {
                Cell::Rnn(_) => pack_forward::<rnn::Tanh>(layer, *weights, sizes, &mut packed, &mut bias),
                Cell::Lstm => pack_forward::<lstm::Lstm>(layer, *weights, sizes, &mut packed, &mut bias),
                Cell::Gru(Reset::After) => {
                    pack_forward::<gru::After>(layer, *weights, sizes, &mut packed, &mut bias)
                }
                Cell::Gru(Reset::Before) => {
                    pack_forward::<gru::Before>(layer, *weights, sizes, &mut packed, &mut bias)
                }
            };
            let unit_buffer = || {
                let mut buffer = Buffer::default();
                buffer.ensure(batch * sizes.unit_stride).fill(0.0);
                buffer
            };
            let mut gates = Buffer::default();
            gates.ensure(batch * sizes.gate_stride);
            stack.push(StepLayer {
                layer: *layer,
                sizes,
                panels,
                packed,
                bias,
                gates,
                extra: unit_buffer(),
                h: [unit_buffer(), unit_buffer()],
                c: [unit_buffer(), unit_buffer()],
                y: vec![0.0; batch * layer.hidden],
                dense_c: vec![0.0; if layer.cell.has_cell_state() { batch * layer.hidden } else { 0 }],
            });
        }
        Ok(Stepper { layers: stack, batch, level })
    }

    /// Advances all streams by one step: `x` is `[B, I]`, the result the top layer's output `[B, H]`.
    ///
    /// # Errors
    /// [`ShapeError`] when `x` does not fit; the state stays as it was.
    pub fn step(&mut self, x: &[f32]) -> Result<&[f32], ShapeError> {
        expect("input of a step", x.len(), self.batch * self.layers[0].layer.input)?;
        for k in 0..self.layers.len() {
            let (below, rest) = self.layers.split_at_mut(k);
            let x = below.last().map_or(x, |below| &below.y);
            let layer = &mut rest[0];
            let job = StepJob { layer, batch: self.batch, x };
            match job.layer.layer.cell {
                Cell::Rnn(Activation::Tanh) => self.level.dispatch(job.with::<rnn::Tanh>()),
                Cell::Rnn(Activation::Relu) => self.level.dispatch(job.with::<rnn::Relu>()),
                Cell::Lstm => self.level.dispatch(job.with::<lstm::Lstm>()),
                Cell::Gru(Reset::After) => self.level.dispatch(job.with::<gru::After>()),
                Cell::Gru(Reset::Before) => self.level.dispatch(job.with::<gru::Before>()),
            }
        }
        Ok(&self.layers[self.layers.len() - 1].y)
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
        Ok(())
    }

    /// Sets all states to zero.
    pub fn reset(&mut self) {
        for layer in 0..self.layers.len() {
            self.set_state(layer, State::default()).expect("zeros always fit");
        }
    }
}

struct StepJob<'a> {
    layer: &'a mut StepLayer,
    batch: usize,
    x: &'a [f32],
}

impl<'a> StepJob<'a> {
    fn with<K: Kernel>(self) -> Typed<'a, K> {
        Typed(self, PhantomData)
    }
}

struct Typed<'a, K>(StepJob<'a>, PhantomData<K>);

/// Starts of `M` rows from `row` on.
fn starts<const M: usize>(row: usize, stride: usize) -> [usize; M] {
    let mut starts = [0; M];
    for (i, start) in starts.iter_mut().enumerate() {
        *start = (row + i) * stride;
    }
    starts
}

impl<K: Kernel> Dispatch for Typed<'_, K> {
    type Output = ();

    fn run<S: Lanes>(self, simd: S) {
        let StepJob { layer: step, batch, x } = self.0;
        let StepLayer { layer, sizes, panels, packed, bias, gates, extra, h, c, y, dense_c } = step;
        let traits = K::TRAITS;
        let (hidden, input, lanes) = (layer.hidden, layer.input, S::N);
        let (unit_stride, gate_stride) = (sizes.unit_stride, sizes.gate_stride);
        let gates = gates.ensure(batch * gate_stride);
        let columns = sizes.gates * sizes.units();
        let (input_bias, recurrent_bias) = bias.as_ref()[..2 * columns].split_at(columns);
        for p in 0..panels[0].count() {
            let (panel, nv) = (panels[0].panel(packed[0].as_ref(), p), panels[0].vectors_of(p));
            let first = p * panels[0].width * lanes;
            let columns = first..first + nv * lanes;
            for (row, m) in tiles(batch, S::tile_rows(nv)) {
                with_rows!(m, M => with_vectors!(nv, NV => simd.call(Product::<M, NV> {
                    a: Tile::of(x, &starts(row, input), input),
                    depth: input,
                    panel,
                    start: Start::Bias(&input_bias[columns.clone()]),
                    out: TileMut::of(&mut gates[row * gate_stride..], gate_stride, &columns),
                })));
            }
        }
        let ([h, new_h], [c, new_c]) = (h, c);
        let (h, c) = (h.as_ref(), c.as_ref());
        let (new_h, new_c) = (new_h.as_mut(), new_c.as_mut());
        let extra = extra.as_mut();
        for phase in 0..traits.phases {
            let panels = panels[1 + phase];
            let packed = packed[1 + phase].as_ref();
            // Unit groups of one panel.
            let own_gates = panels.vectors / sizes.groups;
            for p in 0..panels.count() {
                let (panel, nv) = (panels.panel(packed, p), panels.vectors_of(p));
                let group = p * panels.width / own_gates;
                let units = group * lanes..(group + nv / own_gates) * lanes;
                let gate_columns = units.start * sizes.gates..units.end * sizes.gates;
                let real = units.start..units.end.min(hidden);
                let at = p * panels.width * lanes;
                let bias = recurrent_bias.get(at..at + nv * lanes).unwrap_or(&[]);
                for (row, m) in tiles(batch, S::tile_rows(nv)) {
                    with_rows!(m, M => {
                        let rows = starts::<M>(row, unit_stride);
                        let past_h = Tile::of(h, &rows, sizes.units()).columns(units.start);
                        let past_c = Tile::of(c, &rows, sizes.units()).columns(units.start);
                        // In the second phase the first one's extra values are read, not written.
                        let (a, new_extra) = if phase == 0 {
                            let to = TileMut::of(&mut extra[row * unit_stride..], unit_stride, &units);
                            (Tile::of(h, &rows, sizes.units()), to)
                        } else {
                            (Tile::of(&*extra, &rows, sizes.units()), TileMut::empty())
                        };
                        let tile = Forward::<M> {
                            input: Input::Gates,
                            a,
                            depth: hidden,
                            panel,
                            bias,
                            past_h,
                            past_c,
                            gates: TileMut::of(&mut gates[row * gate_stride..], gate_stride, &gate_columns),
                            h: TileMut::of(&mut new_h[row * unit_stride..], unit_stride, &units),
                            c: TileMut::of(&mut new_c[row * unit_stride..], unit_stride, &units),
                            extra: new_extra,
                            y: TileMut::of(&mut y[row * hidden..], hidden, &real),
                        };
                        with_vectors!(nv, NV => {
                            simd.call(ForwardJob::<K, M, NV> {
                                phase,
                                tile,
                                panels: 1,
                                narrow: TileMut::empty(),
                                kernel: PhantomData,
                            });
                        });
                    });
                }
            }
        }
        if traits.cell_state {
            let rows = new_c.chunks_exact(unit_stride);
            for (dense, row) in dense_c.chunks_exact_mut(hidden).zip(rows) {
                dense.copy_from_slice(&row[..hidden]);
            }
        }
        step.h.swap(0, 1);
        step.c.swap(0, 1);
    }
}
