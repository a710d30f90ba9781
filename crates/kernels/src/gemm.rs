//! Products over all frames, on the same micro-kernel as the recurrence.
//!
//! A library would do for the products alone. The micro-kernel gives what it cannot promise: one order of
//! summation for every number of threads, and every level forced in tests.

use crate::disjoint::{Geometry, Part, Pieces, Tile, TileMut};
use crate::pack::{Packed, Panels};
use crate::simd::{Job, Lanes, MOST_LANES, load_row, multiply, multiply_columns, narrow_row, store_row};
use crate::team::{self, Worker, with_scratch};
use std::ops::Range;

/// Rows of A that a block keeps in the second-level cache while all panels pass over them.
pub(crate) const BLOCK: usize = 96;
/// Depth of one pass over a packed block.
const DEPTH: usize = 512;

/// The most depth of a panel that many rows meet one after the other: of four vectors of sixteen lanes it takes 256 KiB,
/// and stays in the second-level cache meanwhile.
const DEEPEST: usize = 1024;

/// Pieces of a product's depth, as even as can be. Sums go on from what the piece before left in the output.
pub(crate) fn depths(depth: usize) -> impl Iterator<Item = Range<usize>> {
    let pieces = depth.div_ceil(DEEPEST).max(1);
    (0..pieces).map(move |piece| team::share(depth, piece, pieces))
}

/// Splits `count` rows into tiles of a level, first row and rows of each: as even as can be, 16 by 6 gives 6, 5, 5.
/// Where registers hold a part of a tile, all tiles but the last are whole parts: 16 gives 6, 6, 4.
pub(crate) fn tiles<S: Lanes>(count: usize, vectors: usize) -> impl Iterator<Item = (usize, usize)> {
    let (most, held) = (S::ROWS[vectors - 1], S::HELD[vectors - 1]);
    let part = if held < most { held } else { 1 };
    let parts = count.div_ceil(part);
    let pieces = parts.div_ceil(most / part);
    (0..pieces).map(move |piece| {
        let own = team::share(parts, piece, pieces);
        let first = own.start * part;
        (first, (own.end * part).min(count) - first)
    })
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

/// Whether a level has tiles of this size: the compiler need not make code for any other.
pub(crate) const fn is_tile<S: Lanes>(rows: usize, vectors: usize) -> bool {
    rows <= S::ROWS[vectors - 1]
}

/// Whether rows that are [shared out](team::share) to as few parts of at most `most` as there can be make a part of
/// this size: code for no other is needed either.
pub(crate) const fn is_part(part: usize, rows: usize, most: usize) -> bool {
    let parts = rows.div_ceil(most);
    part == rows.div_ceil(parts) || part == rows / parts
}

/// What a product starts from.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    Zero,
    /// One value a column.
    Bias(&'a [f32]),
    /// What the output holds already.
    Output,
}

impl Start<'_> {
    /// Where a piece of the depth starts that begins at `from`.
    pub(crate) fn at(self, from: usize) -> Self {
        if from == 0 { self } else { Start::Output }
    }
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
        if !const { is_tile::<S>(M, NV) } {
            unreachable!("no level has tiles of {M} rows and {NV} vectors");
        }
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

/// What one worker writes of a product.
pub(crate) trait Target {
    fn rows(&self) -> usize;

    /// Of `panels`, those it has.
    fn own(&self, panels: &Panels) -> Range<usize>;

    /// `M` rows from `first` on, of the columns of panel `p`.
    fn tile<const M: usize>(&mut self, first: usize, panels: &Panels, p: usize) -> TileMut<'_, M>;
}

/// Rows of `width` values, `stride` floats apart, that are the worker's.
pub(crate) struct OwnRows<'a> {
    pub(crate) data: &'a mut [f32],
    pub(crate) stride: usize,
    pub(crate) width: usize,
}

impl Target for OwnRows<'_> {
    fn rows(&self) -> usize {
        self.data.len() / self.stride
    }

    fn own(&self, panels: &Panels) -> Range<usize> {
        0..panels.count()
    }

    #[inline(always)]
    fn tile<const M: usize>(&mut self, first: usize, panels: &Panels, p: usize) -> TileMut<'_, M> {
        let column = p * panels.width * panels.lanes;
        let columns = column..(column + panels.vectors_of(p) * panels.lanes).min(self.width);
        TileMut::of(&mut self.data[first * self.stride..], self.stride, &columns)
    }
}

/// The worker's panels of rows that all workers write; a unit group is a panel.
pub(crate) struct OwnPanels<'a> {
    pub(crate) part: Part<'a>,
    pub(crate) geometry: Geometry<'a>,
    pub(crate) worker: &'a Worker<'a>,
}

impl Target for OwnPanels<'_> {
    fn rows(&self) -> usize {
        self.geometry.starts[1]
    }

    fn own(&self, panels: &Panels) -> Range<usize> {
        assert_eq!(self.geometry.groups, panels.count());
        self.geometry.own_groups(self.worker)
    }

    #[inline(always)]
    fn tile<const M: usize>(&mut self, first: usize, _: &Panels, p: usize) -> TileMut<'_, M> {
        self.part.own(Some(0), self.geometry.ranks(self.worker, first, 1), &(p..p + 1))
    }
}

/// `start + rows · weights`, row by row; where row `r` begins in `a`, the function beside it says.
pub(crate) fn multiply_rows<S: Lanes>(
    simd: S,
    (a, row_start): (&[f32], impl Fn(usize) -> usize),
    weights: Packed<'_>,
    start: Start<'_>,
    mut out: impl Target,
) {
    let panels = weights.panels;
    for deep in depths(panels.depth) {
        for p in out.own(&panels) {
            let (panel, nv) = (weights.part(p, &deep), panels.vectors_of(p));
            let start = match start {
                Start::Bias(bias) => Start::Bias(&bias[p * panels.width * S::N..]),
                other => other,
            };
            for (row, m) in tiles::<S>(out.rows(), nv) {
                with_rows!(m, M => with_vectors!(nv, NV => {
                    let mut starts = [0; M];
                    for (i, start) in starts.iter_mut().enumerate() {
                        *start = row_start(row + i) + deep.start;
                    }
                    simd.call(Product::<M, NV> {
                        a: Tile::of(a, &starts, deep.len()),
                        depth: deep.len(),
                        panel,
                        start: start.at(deep.start),
                        out: out.tile(row, &panels, p),
                    });
                }));
            }
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

/// Where the gradients of one gate's weights and bias go.
pub(crate) struct GateGradient<'a> {
    /// Rows of the width of `b`, pieces of one unit group.
    pub(crate) weight: &'a Pieces<'a>,
    /// Pieces of one unit group.
    pub(crate) bias: Option<&'a Pieces<'a>>,
}

/// What gate gradients are multiplied with, and where that goes: one entry of `out` a gate.
pub(crate) struct WeightProduct<'a> {
    pub(crate) b: FrameRows<'a>,
    pub(crate) out: &'a [GateGradient<'a>],
}

/// A worker's part of one gate's gradients.
struct OwnGate<'a> {
    /// First unit group.
    group: usize,
    weight: &'a mut [f32],
    bias: &'a mut [f32],
}

/// One worker's share of `out[H, width] = dᵀ · b` for the gates from `first` on, `d` being a gate's columns
/// of the gate gradients, and of the sums of those columns over all frames; both added to what is there
/// with `add`. Several products of the same gradients read those once.
///
/// Frames are taken in chunks, which depend on the shape alone and keep the rounding of sums small.
pub(crate) fn weight_gradients<S: Lanes, const P: usize>(
    simd: S,
    d: GateColumns<'_>,
    first: usize,
    products: [WeightProduct<'_>; P],
    add: bool,
    worker: &Worker<'_>,
) {
    let gates = products[0].out.len();
    let mut own: [[OwnGate<'_>; MOST_GATES]; P] = products.each_ref().map(|product| {
        std::array::from_fn(|gate| match product.out.get(gate) {
            None => OwnGate { group: 0, weight: &mut [], bias: &mut [] },
            Some(out) => {
                let (group, weight) = out.weight.take(worker);
                OwnGate {
                    group,
                    weight,
                    bias: out.bias.map_or([].as_mut_slice(), |bias| bias.take(worker).1),
                }
            }
        })
    });
    if d.frames == 0 && !add {
        for OwnGate { weight, bias, .. } in own.iter_mut().flatten() {
            weight.fill(0.0);
            bias.fill(0.0);
        }
        return;
    }
    let vectors = products.each_ref().map(|product| product.b.width.div_ceil(S::N));
    let block_rows = (BLOCK / S::N).max(1) * S::N;
    let all_vectors: usize = vectors.iter().sum();
    with_scratch(DEPTH * (all_vectors * S::N + block_rows), |scratch| {
        let (packed_b, packed_a) = scratch.split_at_mut(DEPTH * all_vectors * S::N);
        let mut from = 0;
        while from < d.frames {
            // Two even passes rather than a full one and a sliver.
            let left = d.frames - from;
            let depth = if left > DEPTH && left < 2 * DEPTH { left.div_ceil(2) } else { left.min(DEPTH) };
            let add = add || from > 0;
            let deep = S::depth(depth);
            let mut rest = &mut *packed_b;
            for (product, vectors) in products.iter().zip(vectors) {
                let (to, others) = rest.split_at_mut(DEPTH * vectors * S::N);
                simd.call(PackRows { b: product.b, from, depth, to });
                rest = others;
            }
            for gate in 0..gates {
                let group = own[0][gate].group;
                let rows = own[0][gate].weight.len() / products[0].b.width;
                for (product, own) in products.iter().zip(&own) {
                    // One packing serves all of them.
                    assert_eq!((own[gate].group, own[gate].weight.len()), (group, rows * product.b.width));
                }
                for row in (0..rows).step_by(block_rows) {
                    let block = block_rows.min(rows - row);
                    for (lane, to) in (0..block).step_by(S::N).zip(packed_a.chunks_mut(deep * S::N)) {
                        let at = row + lane;
                        let column = d.column(S::N, first + gate, group + at / S::N);
                        let mut sum = [0.0; MOST_LANES];
                        simd.call(PackColumns { d, column, from, depth, to, sum: &mut sum[..S::N] });
                        for own in &mut own {
                            let bias = own[gate].bias.get_mut(at..(at + S::N).min(rows)).unwrap_or_default();
                            for (to, sum) in bias.iter_mut().zip(&sum) {
                                *to = if add { *to + sum } else { *sum };
                            }
                        }
                    }
                    let mut rest = &*packed_b;
                    for ((product, vectors), own) in products.iter().zip(vectors).zip(&mut own) {
                        let (packed, others) = rest.split_at(DEPTH * vectors * S::N);
                        rest = others;
                        let (width, weight) = (product.b.width, &mut *own[gate].weight);
                        for column in (0..vectors).step_by(4) {
                            let nv = 4.min(vectors - column);
                            let panel = &packed[column * S::N * deep..][..nv * S::N * deep];
                            let columns = (nv * S::N).min(width - column * S::N);
                            for (first, m) in tiles::<S>(block, nv) {
                                let out = &mut weight[(row + first) * width + column * S::N..];
                                let a = (&*packed_a, first);
                                with_rows!(m, M => with_vectors!(nv, NV => simd.call(Accumulate::<M, NV> {
                                    a, depth: deep, panel, stride: width, width: columns, add, out,
                                })));
                            }
                        }
                    }
                }
            }
            from += depth;
        }
    });
}

/// No cell has more gates.
pub(crate) const MOST_GATES: usize = 4;

/// `out[M rows, width] (+)= aᵀ · panel`; of `a`, packed as [`multiply_columns`] has it, `M` columns from one on.
struct Accumulate<'a, const M: usize, const NV: usize> {
    a: (&'a [f32], usize),
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
        if !const { is_tile::<S>(M, NV) } {
            unreachable!("no level has tiles of {M} rows and {NV} vectors");
        }
        let mut acc = [[simd.splat(0.0); NV]; M];
        multiply_columns(simd, self.a, self.depth, self.panel, &mut acc);
        for (i, row) in acc.iter_mut().enumerate() {
            let out = &mut self.out[i * self.stride..][..self.width];
            if self.add {
                // Added last, so that the sums need not wait for these loads.
                let mut before = [simd.splat(0.0); NV];
                load_row(simd, out, &mut before);
                for j in 0..NV {
                    row[j] = simd.add(before[j], row[j]);
                }
            }
            store_row(simd, out, row);
        }
    }
}

/// Frames `from..from + depth` of `b` as panels of four vectors.
struct PackRows<'a> {
    b: FrameRows<'a>,
    from: usize,
    depth: usize,
    to: &'a mut [f32],
}

impl<S: Lanes> Job<S> for PackRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self, simd: S) {
        let PackRows { b, from, depth, to } = self;
        let vectors = b.width.div_ceil(S::N);
        let deep = S::depth(depth);
        let frames = &b.starts[from..from + depth];
        for (column, panel) in (0..vectors).step_by(4).zip(to.chunks_mut(4 * S::N * deep)) {
            let nv = 4.min(vectors - column);
            let panel = &mut panel[..nv * S::N * deep];
            with_vectors!(nv, NV => {
                let row = |start: usize| {
                    let mut vectors = [simd.splat(0.0); NV];
                    load_row(simd, &b.data[start..][..b.width][column * S::N..], &mut vectors);
                    vectors
                };
                let lines = panel.chunks_exact_mut(NV * S::N);
                if S::PAIRS {
                    for (line, starts) in lines.zip(frames.chunks(2)) {
                        let mut both = row(starts[0]);
                        let high = starts.get(1).map_or([simd.splat(0.0); NV], |&start| row(start));
                        for j in 0..NV {
                            both[j] = simd.pairs(both[j], high[j]);
                        }
                        store_row(simd, line, &both);
                    }
                } else {
                    for (line, &start) in lines.zip(frames) {
                        store_row(simd, line, &row(start));
                    }
                }
            });
        }
    }
}

/// One unit group of one gate as `[depth][N]`, and its sum over these frames.
struct PackColumns<'a> {
    d: GateColumns<'a>,
    column: usize,
    from: usize,
    depth: usize,
    to: &'a mut [f32],
    sum: &'a mut [f32],
}

impl<S: Lanes> Job<S> for PackColumns<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self, simd: S) {
        let PackColumns { d, column, from, depth, to, sum } = self;
        let mut total = simd.splat(0.0);
        let frame = |k: usize| simd.load(&d.data[(from + k) * d.stride + column..]);
        let lines = to.chunks_exact_mut(S::N);
        if S::PAIRS {
            for (k, line) in (0..depth).step_by(2).zip(lines) {
                let low = frame(k);
                let high = if k + 1 < depth { frame(k + 1) } else { simd.splat(0.0) };
                simd.store(line, simd.pairs(low, high));
                total = simd.add(simd.add(total, low), high);
            }
        } else {
            for (k, line) in (0..depth).zip(lines) {
                let v = frame(k);
                simd.store(line, v);
                total = simd.add(total, v);
            }
        }
        simd.store(sum, total);
    }
}

/// Rows at given places as rows of pairs of bfloat16, `stride` floats apart.
pub(crate) struct NarrowRows<'a> {
    pub(crate) rows: FrameRows<'a>,
    pub(crate) out: &'a mut [f32],
    pub(crate) stride: usize,
}

/// Floats from row to row of narrow rows of `width` numbers.
pub(crate) fn narrow_stride<S: Lanes>(width: usize) -> usize {
    width.div_ceil(S::N) * S::N / 2
}

impl NarrowRows<'_> {
    pub(crate) fn run<S: Lanes>(self, simd: S) {
        let count = self.rows.starts.len();
        let workers = team::workers(count * self.stride, 50_000);
        let pieces = Pieces::new(&mut self.out[..count * self.stride], self.stride, workers);
        team::run_on(workers, |worker| {
            let (first, out) = pieces.take(worker);
            simd.call(NarrowShare { rows: self.rows, first, out, stride: self.stride });
        });
    }
}

struct NarrowShare<'a> {
    rows: FrameRows<'a>,
    first: usize,
    out: &'a mut [f32],
    stride: usize,
}

impl<S: Lanes> Job<S> for NarrowShare<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self, simd: S) {
        let FrameRows { data, starts, width } = self.rows;
        for (to, &start) in self.out.chunks_exact_mut(self.stride).zip(&starts[self.first..]) {
            narrow_row(simd, &data[start..][..width], to);
        }
    }
}
