//! Products over all frames, on the same micro-kernel as the recurrence.
//!
//! A library would do for the products alone. The micro-kernel gives what it cannot promise: one order of
//! summation for every number of threads, and every level forced in tests.

use crate::disjoint::{Pieces, Tile, TileMut};
use crate::simd::{Job, Lanes, multiply, multiply_packed};
use crate::team::{Worker, with_scratch};

/// Rows of A that a block keeps in the second-level cache while all panels pass over them.
pub(crate) const BLOCK: usize = 96;
/// Depth of one pass over a packed block.
const DEPTH: usize = 256;

/// Splits `count` rows into tiles of at most `most`, as even as can be: 16 by 6 gives 5, 5, 6.
pub(crate) fn tiles(count: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let pieces = count.div_ceil(most.max(1));
    (0..pieces).map(move |i| (i * count / pieces, (i + 1) * count / pieces - i * count / pieces))
}

/// Calls `$body` with the constant `$M` equal to the number of rows, 1 to 6.
macro_rules! with_rows {
    ($rows:expr, $M:ident => $body:expr) => {
        match $rows {
            1 => {
                const $M: usize = 1;
                $body
            }
            2 => {
                const $M: usize = 2;
                $body
            }
            3 => {
                const $M: usize = 3;
                $body
            }
            4 => {
                const $M: usize = 4;
                $body
            }
            5 => {
                const $M: usize = 5;
                $body
            }
            6 => {
                const $M: usize = 6;
                $body
            }
            rows => unreachable!("a tile of {rows} rows"),
        }
    };
}
/// Calls `$body` with the constant `$NV` equal to the number of vectors, 1 to 4.
macro_rules! with_vectors {
    ($vectors:expr, $NV:ident => $body:expr) => {
        match $vectors {
            1 => {
                const $NV: usize = 1;
                $body
            }
            2 => {
                const $NV: usize = 2;
                $body
            }
            3 => {
                const $NV: usize = 3;
                $body
            }
            4 => {
                const $NV: usize = 4;
                $body
            }
            vectors => unreachable!("a panel of {vectors} vectors"),
        }
    };
}
pub(crate) use {with_rows, with_vectors};

/// What a product starts from.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    Zero,
    /// One value a column.
    Bias(&'a [f32]),
    /// What the output holds already.
    Output,
}

/// `out = start + a · panel`
pub(crate) struct Product<'a, const M: usize, const NV: usize> {
    pub(crate) a: Tile<'a, M>,
    pub(crate) depth: usize,
    pub(crate) panel: &'a [f32],
    pub(crate) start: Start<'a>,
    pub(crate) out: TileMut<'a, M>,
}

impl<S: Lanes, const M: usize, const NV: usize> Job<S> for Product<'_, M, NV> {
    type Output = ();
    #[inline(always)]
    fn run(mut self, simd: S) {
        let mut acc = [[simd.splat(0.0); NV]; M];
        match self.start {
            Start::Zero => {}
            Start::Bias(bias) => {
                for j in 0..NV {
                    let b = simd.load(&bias[j * S::N..]);
                    for row in &mut acc {
                        row[j] = b;
                    }
                }
            }
            Start::Output => {
                for (i, row) in acc.iter_mut().enumerate() {
                    load_row(simd, self.out.row(i), row);
                }
            }
        }
        multiply(simd, &self.a, self.depth, self.panel, &mut acc);
        for (i, row) in acc.iter().enumerate() {
            store_row(simd, self.out.row(i), row);
        }
    }
}

/// A row of `NV` vectors, cut short where `from` ends.
#[inline(always)]
pub(crate) fn load_row<S: Lanes, const NV: usize>(simd: S, from: &[f32], to: &mut [S::V; NV]) {
    for j in 0..NV {
        to[j] = if from.len() >= (j + 1) * S::N {
            simd.load(&from[j * S::N..])
        } else {
            simd.load_part(&from[(j * S::N).min(from.len())..])
        };
    }
}

/// The opposite of [`load_row`].
#[inline(always)]
pub(crate) fn store_row<S: Lanes, const NV: usize>(simd: S, to: &mut [f32], from: &[S::V; NV]) {
    for j in 0..NV {
        if to.len() >= (j + 1) * S::N {
            simd.store(&mut to[j * S::N..], from[j]);
        } else {
            let start = (j * S::N).min(to.len());
            simd.store_part(&mut to[start..], from[j]);
        }
    }
}

/// Gate gradients `[F, stride]` in the kernels' order, seen as one matrix of `units` columns a gate.
#[derive(Clone, Copy)]
pub(crate) struct GateColumns<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) frames: usize,
    /// Gates side by side in a row.
    pub(crate) gates: usize,
}

impl GateColumns<'_> {
    /// First column of `gate` of a unit group.
    fn column(&self, lanes: usize, gate: usize, group: usize) -> usize {
        (group * self.gates + gate) * lanes
    }
}

/// Rows of `width` floats at given places, one a frame.
#[derive(Clone, Copy)]
pub(crate) struct FrameRows<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) starts: &'a [usize],
    pub(crate) width: usize,
}

/// One worker's share of `out[H, width] = dᵀ · b`, for one gate's columns `d` of the gate gradients; added
/// to what is there with `add`.
#[allow(clippy::too_many_arguments)]
pub(crate) fn weight_gradient<S: Lanes>(
    simd: S,
    d: GateColumns<'_>,
    gate: usize,
    b: FrameRows<'_>,
    out: &Pieces<'_>,
    add: bool,
    worker: &Worker<'_>,
) {
    let (first_group, out) = out.take(worker);
    let rows = out.len() / b.width;
    if d.frames == 0 && !add {
        out.fill(0.0);
    }
    let vectors = b.width.div_ceil(S::N);
    let block_groups = (BLOCK / S::N).max(1);
    with_scratch(DEPTH * (vectors * S::N + BLOCK + S::N), |scratch| {
        let (packed_b, packed_a) = scratch.split_at_mut(DEPTH * vectors * S::N);
        let mut from = 0;
        while from < d.frames {
            // Two even passes rather than a full one and a sliver.
            let left = d.frames - from;
            let depth = if left > DEPTH && left < 2 * DEPTH { left.div_ceil(2) } else { left.min(DEPTH) };
            pack_rows::<S>(b, from, depth, packed_b);
            let mut row = 0;
            while row < rows {
                let block = (block_groups * S::N).min(rows - row);
                pack_columns::<S>(d, gate, first_group + row / S::N, block, from, depth, packed_a);
                let mut column = 0;
                while column < vectors {
                    let nv = 4.min(vectors - column);
                    let panel = &packed_b[column * S::N * depth..][..nv * S::N * depth];
                    let mut a = &packed_a[..];
                    for group in (0..block).step_by(S::N) {
                        for (offset, m) in tiles(S::N.min(block - group), S::tile_rows(4)) {
                            let (tile, rest) = a.split_at(m * depth);
                            a = rest;
                            let at = (row + group + offset) * b.width + column * S::N;
                            let to = &mut out[at..];
                            with_rows!(m, M => with_vectors!(nv, NV => simd.call(Accumulate::<M, NV> {
                                a: tile, depth, panel, stride: b.width,
                                width: (NV * S::N).min(b.width - column * S::N), add: add || from > 0, out: to,
                            })));
                        }
                    }
                    column += nv;
                }
                row += block;
            }
            from += depth;
        }
    });
}

/// `out[M rows, width] (+)= aᵀ · panel`, with `a` packed `[depth][M]`.
struct Accumulate<'a, const M: usize, const NV: usize> {
    a: &'a [f32],
    depth: usize,
    panel: &'a [f32],
    stride: usize,
    width: usize,
    add: bool,
    out: &'a mut [f32],
}

impl<S: Lanes, const M: usize, const NV: usize> Job<S> for Accumulate<'_, M, NV> {
    type Output = ();
    #[inline(always)]
    fn run(self, simd: S) {
        let mut acc = [[simd.splat(0.0); NV]; M];
        if self.add {
            for (i, row) in acc.iter_mut().enumerate() {
                load_row(simd, &self.out[i * self.stride..][..self.width], row);
            }
        }
        multiply_packed(simd, self.a, self.depth, self.panel, &mut acc);
        for (i, row) in acc.iter().enumerate() {
            store_row(simd, &mut self.out[i * self.stride..][..self.width], row);
        }
    }
}

/// Frames `from..from + depth` of `b` as panels of four vectors.
fn pack_rows<S: Lanes>(b: FrameRows<'_>, from: usize, depth: usize, to: &mut [f32]) {
    let vectors = b.width.div_ceil(S::N);
    let mut column = 0;
    while column < vectors {
        let row = 4.min(vectors - column) * S::N;
        let real = row.min(b.width - column * S::N);
        let panel = &mut to[column * S::N * depth..][..row * depth];
        for (line, &start) in panel.chunks_exact_mut(row).zip(&b.starts[from..]) {
            line[..real].copy_from_slice(&b.data[start + column * S::N..][..real]);
            line[real..].fill(0.0);
        }
        column += row / S::N;
    }
}

/// `rows` units of one gate, from unit group `group` on, as tiles `[depth][M]`.
fn pack_columns<S: Lanes>(
    d: GateColumns<'_>,
    gate: usize,
    group: usize,
    rows: usize,
    from: usize,
    depth: usize,
    to: &mut [f32],
) {
    let mut to = to;
    for first in (0..rows).step_by(S::N) {
        let column = d.column(S::N, gate, group + first / S::N);
        for (offset, m) in tiles(S::N.min(rows - first), S::tile_rows(4)) {
            let (tile, rest) = to.split_at_mut(m * depth);
            with_rows!(m, M => {
                for (k, line) in tile.chunks_exact_mut(M).enumerate() {
                    line.copy_from_slice(&d.data[(from + k) * d.stride + column + offset..][..M]);
                }
            });
            to = rest;
        }
    }
}

/// One worker's share of the sums of one gate's columns over all frames, `[H]`.
///
/// Frames are summed in chunks of 128 and the chunks then, which keeps rounding small on long batches and
/// depends on the shape alone.
pub(crate) fn column_sums<S: Lanes>(
    simd: S,
    d: GateColumns<'_>,
    gate: usize,
    out: &Pieces<'_>,
    add: bool,
    worker: &Worker<'_>,
) {
    let (first_group, out) = out.take(worker);
    for (group, out) in out.chunks_mut(S::N).enumerate() {
        simd.call(ColumnSum { d, column: d.column(S::N, gate, first_group + group), out, add });
    }
}

struct ColumnSum<'a> {
    d: GateColumns<'a>,
    column: usize,
    out: &'a mut [f32],
    add: bool,
}

impl<S: Lanes> Job<S> for ColumnSum<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self, simd: S) {
        let mut total = if self.add { simd.load_part(self.out) } else { simd.splat(0.0) };
        for chunk in (0..self.d.frames).step_by(128) {
            let mut sum = simd.splat(0.0);
            for frame in chunk..(chunk + 128).min(self.d.frames) {
                sum = simd.add(sum, simd.load(&self.d.data[frame * self.d.stride + self.column..]));
            }
            total = simd.add(total, sum);
        }
        store_row(simd, self.out, &[total]);
    }
}
