//! What the entry points read and write, borrowed from the caller, and whether it fits.

use crate::shape::{Activation, Batch, Cell, GateActivation, Layer, Layout, ShapeError, Zoneout, expect};

/// A layer's weights in PyTorch's layout, gates stacked in the order i f g o or r z n.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a> {
    /// `weight_ih`, `[G·H, I]`.
    pub input: &'a [f32],
    /// `weight_hh`, `[G·H, P]`.
    pub recurrent: &'a [f32],
    /// `bias_ih`, `[G·H]`.
    pub bias_input: &'a [f32],
    /// `bias_hh`, `[G·H]`.
    pub bias_recurrent: &'a [f32],
    /// Those of the layer's [`CellOptions`](crate::CellOptions), `[O, H]`: see [`Layer::option_length`].
    pub options: &'a [f32],
}

/// Gradients of a layer's weights, in the same layout. Overwritten.
#[derive(Debug)]
pub struct WeightGradients<'a> {
    /// `[G·H, I]`
    pub input: &'a mut [f32],
    /// `[G·H, P]`
    pub recurrent: &'a mut [f32],
    /// `[G·H]`
    pub bias_input: &'a mut [f32],
    /// `[G·H]`
    pub bias_recurrent: &'a mut [f32],
    /// `[O, H]`
    pub options: &'a mut [f32],
}

/// A state (or its gradient) to read, in the caller's order. `None` stands for zeros.
#[derive(Clone, Copy, Debug, Default)]
pub struct State<'a> {
    /// The hidden value, `[B, P]`.
    pub h: Option<&'a [f32]>,
    /// The cell value, `[B, H]`; an LSTM's alone.
    pub c: Option<&'a [f32]>,
}

/// A state (or its gradient) to write, where it is wanted, in the caller's order.
#[derive(Debug, Default)]
pub struct StateMut<'a> {
    /// The hidden value, `[B, P]`.
    pub h: Option<&'a mut [f32]>,
    /// The cell value, `[B, H]`; an LSTM's alone.
    pub c: Option<&'a mut [f32]>,
}

/// Frames to read: rows of `stride` floats, of which the ones from `offset` on are meant. How many
/// follows from the layer.
#[derive(Clone, Copy, Debug)]
pub struct Frames<'a> {
    /// The buffer, `rows · stride` floats.
    pub data: &'a [f32],
    /// The order of the rows.
    pub layout: Layout,
    /// Floats from row to row.
    pub stride: usize,
    /// First column: the reverse half of a bidirectional layer's output starts at `H`.
    pub offset: usize,
}

/// What a layer reads at each frame.
#[derive(Clone, Copy, Debug)]
pub enum Inputs<'a> {
    /// A row a frame.
    Frames(Frames<'a>),
    /// A row that several frames may share, such as the embedding of a token. Where rows are fewer than
    /// frames, each row, not each frame, meets the input weights.
    Rows {
        /// `[U, I]`.
        data: &'a [f32],
        /// `[F]`: the row of each frame, in [`Layout::Packed`] order.
        index: &'a [u32],
    },
}

impl<'a> From<Frames<'a>> for Inputs<'a> {
    fn from(frames: Frames<'a>) -> Inputs<'a> {
        Inputs::Frames(frames)
    }
}

impl Inputs<'_> {
    /// The buffer.
    pub(crate) fn data(&self) -> &[f32] {
        match self {
            Inputs::Frames(frames) => frames.data,
            Inputs::Rows { data, .. } => data,
        }
    }

    /// Whether there is a row of `width` values for every frame.
    pub(crate) fn check(&self, batch: &Batch, width: usize) -> Result<(), ShapeError> {
        match self {
            Inputs::Frames(x) => {
                check_frames("input", batch, width, (x.data.len(), x.layout, x.stride, x.offset))
            }
            Inputs::Rows { data, index } => {
                let rows = data.len() / width;
                expect("input rows", data.len(), rows * width)?;
                expect("index of the input rows", index.len(), batch.frames())?;
                match index.iter().find(|&&row| row as usize >= rows) {
                    Some(&row) => Err(ShapeError::Index {
                        what: "a frame's input row",
                        found: row as usize,
                        limit: rows,
                    }),
                    None => Ok(()),
                }
            }
        }
    }
}

/// Frames to write; see [`Frames`].
#[derive(Debug)]
pub struct FramesMut<'a> {
    /// The buffer, `rows · stride` floats.
    pub data: &'a mut [f32],
    /// The order of the rows.
    pub layout: Layout,
    /// Floats from row to row.
    pub stride: usize,
    /// First column.
    pub offset: usize,
}

/// What backward does with the gradient of the input.
#[derive(Debug)]
pub enum InputGradients<'a> {
    /// Not wanted, and not computed.
    None,
    /// Overwrites; padding becomes zero. For [`Inputs::Rows`] the buffer is `[U, I]`, of any layout.
    Write(FramesMut<'a>),
    /// Adds to what is there: the second direction of a layer.
    Add(FramesMut<'a>),
}

/// Whether a buffer of `length` floats holds a batch's frames of `width` values.
pub(crate) fn check_frames(
    what: &'static str,
    batch: &Batch,
    width: usize,
    (length, layout, stride, offset): (usize, Layout, usize, usize),
) -> Result<(), ShapeError> {
    let Some(floats) = batch.rows(layout).checked_mul(stride) else {
        return Err(ShapeError::TooLarge { what });
    };
    expect(what, length, floats)?;
    if offset.checked_add(width).is_none_or(|end| end > stride) {
        let room = stride.saturating_sub(offset);
        return Err(ShapeError::Elements {
            what: "a row's part from the offset on",
            found: room,
            expected: width,
        });
    }
    Ok(())
}

/// Whether a layer can be computed, and has weights of its sizes.
pub(crate) fn check_layer(layer: &Layer, weights: &Weights<'_>) -> Result<(), ShapeError> {
    if layer.input == 0 {
        return Err(ShapeError::Zero { what: "input size" });
    }
    if layer.hidden == 0 {
        return Err(ShapeError::Zero { what: "hidden size" });
    }
    let rows = layer.cell.gates().checked_mul(layer.hidden);
    if rows.and_then(|rows| rows.checked_mul(layer.input.max(layer.hidden))).is_none() {
        return Err(ShapeError::TooLarge { what: "the size of the weights" });
    }
    let (input, recurrent, bias) = layer.weight_lengths();
    expect("input weight", weights.input.len(), input)?;
    expect("recurrent weight", weights.recurrent.len(), recurrent)?;
    expect("input bias", weights.bias_input.len(), bias)?;
    expect("recurrent bias", weights.bias_recurrent.len(), bias)?;
    expect("weights of the cell's options", weights.options.len(), layer.option_length())?;
    if layer.options.peephole && layer.cell != Cell::Lstm {
        return Err(ShapeError::State { what: "peepholes were asked for, but only an LSTM has them" });
    }
    if layer.options.gate != GateActivation::Sigmoid && matches!(layer.cell, Cell::Rnn(_)) {
        return Err(ShapeError::State {
            what: "a gate's non-linearity was given, but a vanilla cell has none",
        });
    }
    if layer.options.activation != Activation::Tanh && matches!(layer.cell, Cell::Rnn(_)) {
        return Err(ShapeError::State {
            what: "a candidate's non-linearity was given, but a vanilla cell has its own alone",
        });
    }
    if let Some(values) = layer.options.projection {
        if layer.cell != Cell::Lstm {
            return Err(ShapeError::State { what: "a projection was asked for, but only an LSTM has one" });
        }
        if values == 0 {
            return Err(ShapeError::Zero { what: "projection" });
        }
        if values >= layer.hidden {
            return Err(ShapeError::Index { what: "the projection", found: values, limit: layer.hidden });
        }
    }
    let Zoneout { hidden, cell } = layer.zoneout;
    if !((0.0..1.0).contains(&hidden) && (0.0..1.0).contains(&cell)) {
        return Err(ShapeError::State { what: "the probability to zone out must be from 0 and below 1" });
    }
    if cell > 0.0 && !layer.cell.has_cell_state() {
        return Err(ShapeError::State { what: "a cell state should zone out, but only an LSTM has one" });
    }
    Ok(())
}

/// Whether the parts of a state that are there, called `what`, have so many floats as the batch and the layer want.
pub(crate) fn check_state(
    layer: &Layer,
    batch: &Batch,
    what: (&'static str, &'static str),
    h: Option<usize>,
    c: Option<usize>,
) -> Result<(), ShapeError> {
    if let Some(found) = h {
        expect(what.0, found, batch.sequences() * layer.output())?;
    }
    if let Some(found) = c {
        if !layer.cell.has_cell_state() {
            return Err(ShapeError::State { what: "a cell state was given, but only an LSTM has one" });
        }
        expect(what.1, found, batch.sequences() * layer.hidden)?;
    }
    Ok(())
}
