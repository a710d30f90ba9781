//! Reads what a pass left behind: states and gate values under their names, unit by unit.
//!
//! A pass computes all of this anyway, so recording costs one copy of what is kept and nothing else.

use crate::shape::{Cell, Layer, Layout, ShapeError, expect};
use crate::sizes::Sizes;
use crate::tape::Tape;

/// One of the values that a cell has at every unit and step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// The hidden value `h`.
    Hidden,
    /// An LSTM's cell value `c`.
    Cell,
    /// A gate after its non-linearity, by its place among the cell's gates: i f g o, or r z n.
    Gate(usize),
}

impl Cell {
    /// What this cell exposes, under the names of its equations: `h`, for an LSTM `c i f g o`, for a GRU
    /// `r z n`.
    #[must_use]
    pub const fn signals(self) -> &'static [(&'static str, Signal)] {
        use Signal::Gate;
        const HIDDEN: (&str, Signal) = ("h", Signal::Hidden);
        match self {
            Cell::Rnn(_) => &[HIDDEN],
            Cell::Lstm => {
                &[HIDDEN, ("c", Signal::Cell), ("i", Gate(0)), ("f", Gate(1)), ("g", Gate(2)), ("o", Gate(3))]
            }
            Cell::Gru(_) => &[HIDDEN, ("r", Gate(0)), ("z", Gate(1)), ("n", Gate(2))],
        }
    }

    /// Fails when the cell has no such signal.
    pub(crate) fn expect_signal(self, signal: Signal) -> Result<(), ShapeError> {
        match self.signals().iter().any(|&(_, own)| own == signal) {
            true => Ok(()),
            false => Err(ShapeError::State { what: "the cell has no such signal" }),
        }
    }
}

impl Layer {
    /// Values that a signal has at a step: `P` of `h`, `H` of all others.
    #[must_use]
    pub fn width_of(&self, signal: Signal) -> usize {
        if signal == Signal::Hidden { self.output() } else { self.hidden }
    }
}

/// One gate's units out of a row of gate values, where gates take turns in groups of `lanes` units.
pub(crate) fn copy_gate(sizes: &Sizes, gate: usize, row: &[f32], units: &mut [f32]) {
    let lanes = sizes.lanes;
    for (group, units) in units.chunks_mut(lanes).enumerate() {
        units.copy_from_slice(&row[(group * sizes.gates + gate) * lanes..][..units.len()]);
    }
}

impl Tape {
    /// Copies a signal of the forward pass that filled this tape to rows of `H` values in `layout`, or of `P` where
    /// it is `h`; padding becomes zero.
    ///
    /// # Errors
    /// [`ShapeError`] when `out` does not fit, the cell has no such signal, or the tape is not
    /// [full](Tape::is_full): gradients take the place of the gates.
    ///
    /// # Examples
    /// ```
    /// use carousel_kernels::*;
    ///
    /// let layer = Layer { cell: Cell::Lstm, direction: Direction::Forward, input: 2, hidden: 3, precision: Precision::F32, zoneout: Zoneout::NONE, options: CellOptions::PLAIN };
    /// let batch = Batch::full(1, 4);
    /// let (w, u, b) = layer.weight_lengths();
    /// let (w, u, b) = (vec![0.1; w], vec![0.2; u], vec![0.0; b]);
    /// let weights = Weights { input: &w, recurrent: &u, bias_input: &b, bias_recurrent: &b, options: &[] };
    /// let x = [1.0; 4 * 2];
    /// let (mut y, mut tape) = ([0.0; 4 * 3], Tape::default());
    /// let frames = Frames { data: &x, layout: Layout::Packed, stride: 2, offset: 0 };
    /// let to = FramesMut { data: &mut y, layout: Layout::Packed, stride: 3, offset: 0 };
    /// forward(&layer, &batch, weights, frames, State::default(), to, StateMut::default(), Some(&mut tape))?;
    /// let [mut c, mut o] = [[0.0; 4 * 3]; 2];
    /// tape.copy_signal(Signal::Cell, Layout::Packed, &mut c)?;
    /// tape.copy_signal(Signal::Gate(3), Layout::Packed, &mut o)?;
    /// for k in 0..y.len() {
    ///     assert!((y[k] - o[k] * c[k].tanh()).abs() < 1e-6); // h = o * tanh(c)
    /// }
    /// # Ok::<(), ShapeError>(())
    /// ```
    pub fn copy_signal(&self, signal: Signal, layout: Layout, out: &mut [f32]) -> Result<(), ShapeError> {
        let Some(pass) = &self.pass else { return Err(ShapeError::Tape) };
        let (layer, batch) = (&pass.layer, &self.batch);
        layer.cell.expect_signal(signal)?;
        let width = layer.width_of(signal);
        expect("room for a signal", out.len(), batch.rows(layout) * width)?;
        let sizes = Sizes::new(layer, pass.level);
        if layout == Layout::Padded {
            out.fill(0.0);
        }
        for step in 0..batch.steps() {
            for rank in 0..batch.alive(step) {
                let to = batch.row(layout, layer.direction, step, rank) * width;
                let units = &mut out[to..to + width];
                let frame = batch.frame(step, rank);
                // States have the initial one in front.
                let state = (batch.sequences() + frame) * sizes.unit_stride;
                match signal {
                    Signal::Hidden => units.copy_from_slice(&self.h.as_ref()[state..state + width]),
                    Signal::Cell => units.copy_from_slice(&self.c.as_ref()[state..state + width]),
                    Signal::Gate(gate) => {
                        copy_gate(&sizes, gate, &self.gates.as_ref()[frame * sizes.gate_stride..], units);
                    }
                }
            }
        }
        Ok(())
    }
}
