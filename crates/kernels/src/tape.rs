//! What forward leaves for backward, and scratch that is reused from call to call.

use crate::chance::Chance;
use crate::disjoint::FrameMap;
use crate::memory::Buffer;
use crate::operands::Inputs;
use crate::rowwise::RowBuffers;
use crate::shape::{Batch, Layer, Layout};
use crate::simd::Level;

/// What one forward pass leaves for its backward pass: gate values, states, packed weights.
///
/// A tape can be used for any number of passes, one after the other, and keeps its memory. One backward
/// pass uses it up, because gradients overwrite the gates in place.
#[derive(Default)]
pub struct Tape {
    pub(crate) pass: Option<Pass>,
    /// The batch of `pass`; out here its memory stays.
    pub(crate) batch: Batch,
    /// `[F, gates]`: gate values, then the gradients before their non-linearities.
    pub(crate) gates: Buffer,
    /// `[B + F, units]`, the initial state first.
    pub(crate) h: Buffer,
    pub(crate) c: Buffer,
    /// `[F, units]`: LSTM tanh(c); GRU after `Un h + cn`, before `r * h`.
    pub(crate) extra: Buffer,
    /// `[F, ..]`: gradients that only the recurrent product sees.
    pub(crate) recurrent: Buffer,
    /// `[B, units]` by rank.
    pub(crate) carry_h: Buffer,
    pub(crate) carry_c: Buffer,
    /// `[U, gates]`, where frames share input rows: their projection, then their gradients.
    pub(crate) table: Buffer,
    /// `[B + F, units]`: states as the recurrent weights saw them, where some of them dropped out.
    pub(crate) dropped: Buffer,
    pub(crate) narrow: Narrow,
    /// Of cells with options.
    pub(crate) rows: RowBuffers,
    pub(crate) packed: [Buffer; 3],
    pub(crate) bias: Buffer,
    pub(crate) places: Places,
    pub(crate) chance: Chance,
}

/// Copies of products' operands as pairs of bfloat16.
#[derive(Default)]
pub(crate) struct Narrow {
    /// Input rows.
    pub(crate) x: Buffer,
    /// `[2 B, units / 2]`: the last two states; `[2 B, units]` floats where only some drop out.
    pub(crate) h: Buffer,
    /// `[F, gates / 2]`: gradients that the recurrent product sees.
    pub(crate) recurrent: Buffer,
    /// `[F or U, gates / 2]`: gradients that the inputs see, where they differ.
    pub(crate) gates: Buffer,
}

/// Which pass the tape belongs to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pass {
    pub(crate) layer: Layer,
    pub(crate) level: Level,
}

/// Where the rows of each frame lie.
#[derive(Default)]
pub(crate) struct Places {
    /// Start of each frame's input row; several frames may share one.
    pub(crate) x: Vec<usize>,
    /// Each frame's row in the gradient of the inputs.
    pub(crate) dx: FrameMap,
    /// Each frame's output (or output gradient) row.
    pub(crate) y: FrameMap,
    /// Start of each frame's last state in `h`.
    pub(crate) previous: Vec<usize>,
    /// Start of each frame's row in `extra`.
    pub(crate) extra: Vec<usize>,
    /// Starts of input rows that frames share.
    pub(crate) rows: Vec<usize>,
}

impl Places {
    /// Finds the input row of each frame, in the order of the walk.
    pub(crate) fn set_x(&mut self, batch: &Batch, layer: &Layer, x: &Inputs<'_>) {
        self.x.clear();
        for step in 0..batch.steps() {
            for rank in 0..batch.alive(step) {
                self.x.push(match x {
                    Inputs::Frames(x) => {
                        batch.row(x.layout, layer.direction, step, rank) * x.stride + x.offset
                    }
                    Inputs::Rows { index, .. } => {
                        index[batch.row(Layout::Packed, layer.direction, step, rank)] as usize * layer.input
                    }
                });
            }
        }
    }
}

impl Tape {
    /// Whether a forward pass has filled this tape and no backward pass has used it up.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.pass.is_some()
    }
}
