//! Products of many rows with a matrix, and their gradients: on rows that are filled up with zeros, and with a matrix
//! that is packed once.

use crate::disjoint::{self, Geometry, Keep, Matrix, Pieces, Split};
use crate::gemm::{
    FrameRows, GateColumns, GateGradient, OwnPanels, OwnRows, Start, WeightProduct, multiply_rows,
    weight_gradients,
};
use crate::memory::Buffer;
use crate::pack::{self, Packed, Panels};
use crate::shape::{ShapeError, expect};
use crate::simd::{Dispatch, Lanes, Level};
use crate::team;

/// The most lanes of any level: what rows are filled up to with zeros.
pub(crate) const LANES: usize = 16;

/// Floats from row to row of rows of `width` values.
pub(crate) fn stride(width: usize) -> usize {
    width.next_multiple_of(LANES)
}

/// What a product needs beside its operands.
#[derive(Default)]
pub(crate) struct Packing {
    panels: Buffer,
    bias: Buffer,
    starts: Vec<usize>,
}

/// Rows of `width` values, `stride` floats apart.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) data: &'a [f32],
    stride: usize,
    width: usize,
}

impl<'a> Rows<'a> {
    pub(crate) fn new(data: &'a [f32], stride: usize, width: usize) -> Rows<'a> {
        Rows { data, stride, width }
    }

    pub(crate) fn dense(data: &'a [f32], width: usize) -> Rows<'a> {
        Rows::new(data, width, width)
    }

    /// Rows that are filled up with zeros.
    pub(crate) fn filled(data: &'a [f32], width: usize) -> Rows<'a> {
        Rows::new(data, stride(width), width)
    }
}

/// A matrix to multiply rows with.
#[derive(Clone, Copy)]
pub(crate) enum Factor<'a> {
    /// `x Wᵀ` with `W` `[out, in]`.
    Transposed(&'a [f32]),
    /// `x W` with `W` `[in, out]`.
    Plain(&'a [f32]),
}

/// Workers for so many multiply-adds.
pub(crate) fn workers(work: usize) -> usize {
    team::workers(work, 50_000)
}

/// Row `r` of `to`, of `width` values and `to_stride` floats, from row `index[r]` of `from`; the rest of it is zero.
pub(crate) fn copy_rows((to, to_stride): (&mut [f32], usize), from: Rows<'_>, index: &[usize]) {
    let workers = workers(to.len());
    let pieces = Pieces::new(to, to_stride, workers);
    team::run_on(workers, |worker| {
        let (first, own) = pieces.take(worker);
        for (to, &row) in own.chunks_exact_mut(to_stride).zip(&index[first..]) {
            to[..from.width].copy_from_slice(&from.data[row * from.stride..][..from.width]);
            to[from.width..].fill(0.0);
        }
    });
}

/// `out = start + a · W`, rows of `width` values filled up with zeros; a bias has `width` values.
pub(crate) fn product<S: Lanes>(
    simd: S,
    Packing { panels: packed, bias: padded, .. }: &mut Packing,
    a: Rows<'_>,
    factor: Factor<'_>,
    start: Start<'_>,
    (out, width): (&mut [f32], usize),
) {
    let out_stride = stride(width);
    let vectors = width.div_ceil(S::N);
    let panels = Panels { lanes: S::N, width: 4, vectors, depth: a.width, pairs: false };
    let workers = workers(out.len() / out_stride * a.width * width);
    {
        let pieces = panels.pieces(packed, workers);
        team::run_on(workers, |worker| match factor {
            Factor::Transposed(weight) => pack::by_unit(simd, panels, &pieces, worker, weight, 1, width),
            Factor::Plain(weight) => {
                pack::by_column(panels, &pieces, worker, weight, (1, 1), a.width, width);
            }
        });
    }
    let start = match start {
        Start::Bias(bias) => Start::Bias(filled(padded, bias)),
        other => other,
    };
    multiply_packed(simd, a, Packed { panels, data: packed.as_ref() }, start, (out, out_stride, width));
}

/// The same with a matrix that is packed, to rows of `width` values, `stride` floats apart.
fn multiply_packed<S: Lanes>(
    simd: S,
    a: Rows<'_>,
    weights: Packed<'_>,
    start: Start<'_>,
    (out, stride, width): (&mut [f32], usize, usize),
) {
    let (count, panels) = (out.len() / stride, weights.panels);
    let workers = workers(count * panels.depth * width);
    if count >= workers * S::ROWS[panels.width - 1] || panels.count() < 2 * workers {
        let pieces = Pieces::new(out, stride, workers);
        team::run_on(workers, |worker| {
            let (first, data) = pieces.take(worker);
            let rows = (a.data, |row| (first + row) * a.stride);
            multiply_rows(simd, rows, weights, start, OwnRows { data, stride, width });
        });
    } else {
        // With few rows, reading the weights is the work: each worker reads a share of them.
        let starts: [usize; 2] = [0, count];
        let geometry = Geometry { starts: &starts, split: Split::Units, groups: panels.count(), workers };
        let group = panels.width * S::N;
        let place = disjoint::Rows { keep: Keep::All, lead: 0, stride, group, columns: width, map: None };
        let matrix = Matrix::new(out, geometry, place);
        team::run_on(workers, |worker| {
            let rows = (a.data, |row| row * a.stride);
            let out = OwnPanels { part: matrix.private(worker), geometry, worker };
            multiply_rows(simd, rows, weights, start, out);
        });
    }
    out.chunks_exact_mut(stride).for_each(|row| row[width..].fill(0.0));
}

/// A row, filled up with zeros.
pub(crate) fn filled<'a>(buffer: &'a mut Buffer, values: &[f32]) -> &'a [f32] {
    let row = buffer.ensure(stride(values.len()));
    row[..values.len()].copy_from_slice(values);
    row[values.len()..].fill(0.0);
    row
}

/// `out = dᵀ · b` over `count` rows, `[d.width, b.width]`, and the sums of `d`'s columns.
pub(crate) fn outer<S: Lanes>(
    simd: S,
    Packing { starts, .. }: &mut Packing,
    count: usize,
    (d, b): (Rows<'_>, Rows<'_>),
    out: &mut [f32],
    sums: Option<&mut [f32]>,
) {
    starts.clear();
    starts.extend((0..count).map(|row| row * b.stride));
    let columns = GateColumns { data: d.data, stride: d.stride, frames: count, gates: 1 };
    let rows = FrameRows { data: b.data, starts, width: b.width };
    let workers = workers(count * d.width * b.width);
    let weight = Pieces::new(out, S::N * b.width, workers);
    let bias = sums.map(|sums| Pieces::new(sums, S::N, workers));
    team::run_on(workers, |worker| {
        let out = GateGradient { weight: &weight, bias: bias.as_ref() };
        weight_gradients(simd, columns, 0, [WeightProduct { b: rows, out: &[out] }], false, worker);
    });
}

/// `x Wᵀ + b` with a matrix that is packed once.
pub struct Linear {
    level: Level,
    panels: Panels,
    packed: Buffer,
    bias: Option<Buffer>,
    outputs: usize,
}

impl std::fmt::Debug for Linear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Linear({} to {})", self.panels.depth, self.outputs)
    }
}

impl Linear {
    /// Packs `weight` `[O, I]` for rows of `inputs` values, and a bias `[O]`.
    ///
    /// # Errors
    /// [`ShapeError`] when a size is zero or a buffer does not fit.
    pub fn new(weight: &[f32], bias: Option<&[f32]>, inputs: usize) -> Result<Linear, ShapeError> {
        if inputs == 0 {
            return Err(ShapeError::Zero { what: "width of a matrix" });
        }
        let outputs = weight.len() / inputs;
        if outputs == 0 {
            return Err(ShapeError::Zero { what: "rows of a matrix" });
        }
        expect("matrix", weight.len(), outputs * inputs)?;
        if let Some(bias) = bias {
            expect("bias of a matrix", bias.len(), outputs)?;
        }
        let level = Level::current();
        Ok(level.dispatch(Pack { level, weight, bias, inputs, outputs }))
    }

    /// `I`.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.panels.depth
    }

    /// `O`.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Multiplies rows `x` `[N, I]`, into `out` `[N, O]`.
    ///
    /// # Errors
    /// [`ShapeError`] when a buffer does not fit; nothing is written then.
    pub fn apply(&self, x: &[f32], out: &mut [f32]) -> Result<(), ShapeError> {
        let rows = x.len() / self.inputs();
        expect("rows to multiply", x.len(), rows * self.inputs())?;
        expect("multiplied rows", out.len(), rows * self.outputs)?;
        let (width, stride) = (self.outputs, self.outputs);
        self.multiply(Rows::dense(x, self.inputs()), (out, stride, width));
        Ok(())
    }

    /// The same between rows that are filled up with zeros.
    pub(crate) fn apply_filled(&self, x: Rows<'_>, out: &mut [f32]) {
        self.multiply(x, (out, stride(self.outputs), self.outputs));
    }

    fn multiply(&self, a: Rows<'_>, out: (&mut [f32], usize, usize)) {
        let start = self.bias.as_ref().map_or(Start::Zero, |bias| Start::Bias(bias.as_ref()));
        self.level.dispatch(Multiply {
            a,
            weight: Packed { panels: self.panels, data: self.packed.as_ref() },
            start,
            out,
        });
    }
}

struct Pack<'a> {
    level: Level,
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    inputs: usize,
    outputs: usize,
}

impl Dispatch for Pack<'_> {
    type Output = Linear;

    fn run<S: Lanes>(self, simd: S) -> Linear {
        let Pack { level, weight, bias, inputs, outputs } = self;
        let vectors = outputs.div_ceil(S::N);
        let panels = Panels { lanes: S::N, width: 4, vectors, depth: inputs, pairs: false };
        let mut packed = Buffer::default();
        let workers = workers(weight.len());
        let pieces = panels.pieces(&mut packed, workers);
        team::run_on(workers, |worker| pack::by_unit(simd, panels, &pieces, worker, weight, 1, outputs));
        let bias = bias.map(|values| {
            let mut bias = Buffer::default();
            filled(&mut bias, values);
            bias
        });
        Linear { level, panels, packed, bias, outputs }
    }
}

/// [`multiply_packed`] at a level.
pub(crate) struct Multiply<'a> {
    pub(crate) a: Rows<'a>,
    pub(crate) weight: Packed<'a>,
    pub(crate) start: Start<'a>,
    /// Rows, how far apart they are, and how many values each has.
    pub(crate) out: (&'a mut [f32], usize, usize),
}

impl Dispatch for Multiply<'_> {
    type Output = ();

    fn run<S: Lanes>(self, simd: S) {
        let Multiply { a, weight, start, out } = self;
        multiply_packed(simd, a, weight, start, out);
    }
}
