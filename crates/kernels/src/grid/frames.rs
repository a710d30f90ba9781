//! Products and sums over frames in any order, around the walk through time: tables and projections of inputs before
//! it, gradients of inputs after it.

use super::{FrameBlock, WORK_PER_WORKER, own_ranks};
use crate::disjoint::{FrameMap, Geometry, Keep, Matrix, OwnFrame, Pieces, Rows, Split, Tile};
use crate::gemm::{
    BLOCK, GateColumns, OwnRows, Product, Start, depths, multiply_rows, tiles, with_rows, with_vectors,
};
use crate::pack::{Packed, Panels};
use crate::shape::Batch;
use crate::simd::{Dispatch, Job, Lanes};
use crate::team;

/// `out = bias + rows · W`, row by row.
pub(crate) struct RowProduct<'a> {
    /// Rows of `width` floats.
    pub(crate) rows: &'a [f32],
    pub(crate) width: usize,
    /// Where each starts, if they do not follow each other.
    pub(crate) starts: Option<&'a [usize]>,
    pub(crate) weights: Packed<'a>,
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) out: &'a mut [f32],
}

impl RowProduct<'_> {
    /// Overwrites rows of `stride` floats, as many as there are `rows`, or adds to them.
    pub(crate) fn run<S: Lanes>(self, simd: S, stride: usize, add: bool) {
        let panels = self.weights.panels;
        let count = self.starts.map_or(self.rows.len() / self.width, <[usize]>::len);
        let start = |row: usize| self.starts.map_or(row * self.width, |starts| starts[row]);
        let work = count * panels.floats();
        let workers = team::workers(work, WORK_PER_WORKER);
        let sums = match self.bias {
            _ if add => Start::Output,
            None => Start::Zero,
            Some(bias) => Start::Bias(bias),
        };
        // Small pieces, so that even a short table is shared out.
        let block = count.div_ceil(workers).clamp(1, BLOCK);
        let pieces = Pieces::new(&mut self.out[..count * stride], block * stride, workers);
        team::run_on(workers, |worker| {
            let (first, out) = pieces.take(worker);
            let mut first = first * block;
            for out in out.chunks_mut(block * stride) {
                let from = |row| start(first + row);
                let count = out.len() / stride;
                let out = OwnRows { data: out, stride, width: stride };
                multiply_rows(simd, (self.rows, from), self.weights, sums, out);
                first += count;
            }
        });
    }
}

/// Sums of gate gradients by the input row that the frames share, in the order of the walk.
pub(crate) struct RowSums<'a> {
    pub(crate) gates: GateColumns<'a>,
    /// Start of each frame's row among rows of `width` floats.
    pub(crate) starts: &'a [usize],
    pub(crate) width: usize,
    /// Rows of the gates' stride.
    pub(crate) out: &'a mut [f32],
}

impl RowSums<'_> {
    pub(crate) fn run<S: Lanes>(self, simd: S) {
        let GateColumns { data, stride, frames, .. } = self.gates;
        let workers = team::workers(frames * stride, WORK_PER_WORKER);
        // Every worker has a share of the columns of all rows.
        let rows = self.out.len() / stride;
        let starts: [usize; 2] = [0, rows];
        let geometry = Geometry { starts: &starts, split: Split::Units, groups: stride / S::N, workers };
        let place = Rows { keep: Keep::All, lead: 0, stride, group: S::N, columns: stride, map: None };
        let out = Matrix::new(self.out, geometry, place);
        team::run_on(workers, |worker| {
            let mut out = out.private(worker);
            let groups = geometry.own_groups(worker);
            for row in 0..rows {
                out.own(Some(0), geometry.ranks::<1>(worker, row, 1), &groups).row(0).fill(0.0);
            }
            let columns = groups.start * S::N..groups.end * S::N;
            for (frame, start) in self.starts.iter().enumerate() {
                let ranks = geometry.ranks::<1>(worker, start / self.width, 1);
                let from = &data[frame * stride..][..stride][columns.clone()];
                simd.call(AddRow { from, to: out.own(Some(0), ranks, &groups).row(0) });
            }
        });
    }
}

/// `to += from`
struct AddRow<'a> {
    from: &'a [f32],
    to: &'a mut [f32],
}

impl<S: Lanes> Job<S> for AddRow<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self, simd: S) {
        for (to, from) in self.to.chunks_exact_mut(S::N).zip(self.from.chunks_exact(S::N)) {
            simd.store(to, simd.add(simd.load(to), simd.load(from)));
        }
    }
}

/// Gradients of the inputs: `dx = d · W`, frame by frame.
pub(crate) struct InputGradient<'a> {
    pub(crate) batch: &'a Batch,
    pub(crate) weights: Packed<'a>,
    /// Rows of gate gradients, `stride` floats apart.
    pub(crate) gates: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) input: usize,
    pub(crate) dx: &'a mut [f32],
    pub(crate) dx_map: &'a FrameMap,
    /// Add to what `dx` holds.
    pub(crate) accumulate: bool,
}

impl Dispatch for InputGradient<'_> {
    type Output = ();

    fn run<S: Lanes>(self, simd: S) {
        let Panels { lanes, width, depth, .. } = self.weights.panels;
        let geometry = Geometry {
            starts: self.batch.starts(),
            split: Split::Ranks,
            groups: self.weights.panels.count(),
            workers: team::threads().min(self.batch.sequences().max(1)),
        };
        let rows = Rows {
            keep: Keep::All,
            lead: 0,
            stride: 0,
            group: width * lanes,
            columns: self.input,
            map: Some(self.dx_map),
        };
        let dx = Matrix::new(self.dx, geometry, rows);
        let start = if self.accumulate { Start::Output } else { Start::Zero };
        team::run_on(geometry.workers, |worker| {
            let mut dx = dx.private(worker);
            let mut flush = |block: &[OwnFrame<'_>]| {
                for deep in depths(depth) {
                    for p in 0..geometry.groups {
                        let (panel, nv) = (self.weights.part(p, &deep), self.weights.panels.vectors_of(p));
                        for (first, m) in tiles::<S>(block.len(), nv) {
                            with_rows!(m, M => with_vectors!(nv, NV => {
                                let frames = block[first..].first_chunk::<M>().expect("M frames");
                                let mut rows = [0; M];
                                for (row, frame) in rows.iter_mut().zip(frames) {
                                    *row = frame.index() * self.stride + deep.start;
                                }
                                simd.call(Product::<M, NV> {
                                    a: Tile::of(self.gates, &rows, deep.len()),
                                    depth: deep.len(),
                                    panel,
                                    start: start.at(deep.start),
                                    out: dx.own_frames::<M>(frames, &(p..p + 1)),
                                });
                            }));
                        }
                    }
                }
            };
            let mut block = FrameBlock::new();
            for step in 0..self.batch.steps() {
                let (first, gap, own) = own_ranks(&geometry, worker, 0..self.batch.alive(step));
                for k in 0..own {
                    block.push(geometry.own_frame(worker, step, first + k * gap));
                    if block.frames().len() == BLOCK {
                        flush(block.frames());
                        block.count = 0;
                    }
                }
            }
            flush(block.frames());
        });
    }
}
