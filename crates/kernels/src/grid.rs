//! The time loop, and how its work is split over the team. No sigmoid here.
//!
//! ```text
//!            y0        y1        y2            one step of one layer:
//!            |         |         |               gates = W x[t] + b        (projected ahead, many steps)
//!   h0 --> [cell] -> [cell] -> [cell] --> hT            + U h[t-1]         (this loop)
//!            |         |         |               h[t]  = cell(gates)       (cell/*.rs)
//!            x0        x1        x2
//! ```
//!
//! The same panel of weights serves every step: that is the recurrence's weight sharing, and why the
//! weights are packed once a pass, or once for many.

use crate::cell::{Backward, Forward, Input, Kernel, Panel, zone_out};
use crate::chance::{Chance, FactorRows, StepMask, times};
use crate::disjoint::{
    FrameMap, Geometry, Keep, Matrix, OwnFrame, Part, Pieces, Ranks, Rows, Split, Tile, TileMut, Walk,
};
use crate::gemm::{
    BLOCK, GateColumns, Product, Start, depths, is_tile, load_row, narrow_row, store_row, tiles, with_rows,
    with_vectors,
};
use crate::pack::Panels;
use crate::shape::Batch;
use crate::simd::{Dispatch, Job, Lanes, Level, multiply};
use crate::sizes::Sizes;
use crate::team::{self, Worker};
use std::marker::PhantomData;
use std::ops::Range;

/// Packed weights and their layout.
#[derive(Clone, Copy)]
pub(crate) struct Packed<'a> {
    pub(crate) panels: Panels,
    pub(crate) data: &'a [f32],
}

impl<'a> Packed<'a> {
    fn panel(&self, p: usize) -> &'a [f32] {
        self.panels(p, 1)
    }

    /// A piece of its depth.
    fn part(&self, p: usize, deep: &Range<usize>) -> &'a [f32] {
        self.panels.part(self.data, p, deep)
    }

    /// `count` panels from `p` on.
    fn panels(&self, p: usize, count: usize) -> &'a [f32] {
        let start = p * self.panels.width;
        let end = (start + count * self.panels.width).min(self.panels.vectors);
        let floats = self.panels.lanes * self.panels.depth;
        &self.data[start * floats..end * floats]
    }
}

/// Multiply-adds below which one more worker costs more than it brings, a step.
const WORK_PER_WORKER: usize = 50_000;
/// Recurrent weights, in floats, above which each worker keeps to its own part of them: half a megabyte,
/// what a second-level cache holds beside everything else. Dealing ranks would stream all of them through
/// every worker's cache at every step.
const LARGE_WEIGHTS: usize = 1 << 17;
/// The same on processors with AVX-512, whose second-level caches have a megabyte, where units make less even shares
/// than ranks.
const LARGE_UNEVEN_WEIGHTS: usize = 3 << 16;

/// Weights, in floats, that a worker's second-level cache keeps beside everything else.
const CACHED_WEIGHTS: usize = 1 << 17;

/// Rows of a worker's step from which on the input weights need no larger block.
const FUSED_ROWS: usize = 24;

/// How the recurrence of a batch is dealt to the team.
pub(crate) fn geometry<'a>(batch: &'a Batch, sizes: &Sizes, groups: usize) -> Geometry<'a> {
    let weights = sizes.gates * sizes.units() * sizes.units();
    let work = batch.sequences() * weights;
    let workers = team::workers(work, WORK_PER_WORKER);
    let (ranks, few_rows) = (batch.sequences(), batch.sequences() < 8 * workers);
    // At every step all wait for whoever has the largest share.
    let ranks_are_more_even = ranks.div_ceil(workers) * groups < groups.div_ceil(workers) * ranks;
    let large = match ranks_are_more_even && sizes.lanes == Level::Avx512.lanes() {
        true => LARGE_UNEVEN_WEIGHTS,
        false => LARGE_WEIGHTS,
    };
    let (split, workers) = if (few_rows || weights > large) && groups > 1 {
        (Split::Units, workers.min(groups))
    } else {
        (Split::Ranks, workers.min(ranks.max(1)))
    };
    Geometry { starts: batch.starts(), split, groups, workers }
}

/// Own ranks of a worker among the first `limit`: first, gap, count.
pub(crate) fn own_ranks(
    geometry: &Geometry<'_>,
    worker: &Worker<'_>,
    range: Range<usize>,
) -> (usize, usize, usize) {
    let (first, gap) = geometry.own_ranks(worker);
    let skip = range.start.saturating_sub(first).div_ceil(gap);
    let first = first + skip * gap;
    (first, gap, range.end.saturating_sub(first).div_ceil(gap))
}

/// Own frames, about as many as the second-level cache holds the rows of.
struct FrameBlock<'a> {
    frames: [OwnFrame<'a>; BLOCK],
    count: usize,
}

impl<'a> FrameBlock<'a> {
    fn new() -> FrameBlock<'a> {
        FrameBlock { frames: [OwnFrame::NONE; BLOCK], count: 0 }
    }

    fn push(&mut self, frame: OwnFrame<'a>) {
        self.frames[self.count] = frame;
        self.count += 1;
    }

    fn frames(&self) -> &[OwnFrame<'a>] {
        &self.frames[..self.count]
    }
}

/// Where a step finds its inputs' part of the sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Projected some steps ahead, into the gates.
    Ahead,
    /// It multiplies them itself.
    Fused,
    /// In a table: one projected row for all frames that share it.
    Table,
}

/// A forward pass over a batch.
pub(crate) struct ForwardPass<'a, K> {
    pub(crate) batch: &'a Batch,
    pub(crate) sizes: Sizes,
    pub(crate) hidden: usize,
    /// What `x_starts` point into: the inputs, or the table of projected rows.
    pub(crate) x: &'a [f32],
    pub(crate) x_starts: &'a [usize],
    pub(crate) source: Source,
    pub(crate) input: Packed<'a>,
    /// One for each phase.
    pub(crate) recurrent: [Packed<'a>; 2],
    /// Input bias (with the recurrent one, where they can be added), then the recurrent bias.
    pub(crate) bias: (&'a [f32], &'a [f32]),
    pub(crate) gates: &'a mut [f32],
    pub(crate) h: &'a mut [f32],
    /// `[2 B, units]` or half as wide: the last two states as products read them, where those are not `h`.
    pub(crate) seen: &'a mut [f32],
    pub(crate) chance: &'a Chance,
    pub(crate) c: &'a mut [f32],
    pub(crate) extra: &'a mut [f32],
    pub(crate) y: &'a mut [f32],
    pub(crate) y_map: &'a FrameMap,
    /// Whether a backward pass follows, which wants all gates and states.
    pub(crate) taped: bool,
    pub(crate) kernel: PhantomData<K>,
}

/// Unit groups of the smallest share of units that a worker can have: a panel of the first phase.
const fn span<K: Kernel>() -> usize {
    K::TRAITS.panel / if K::TRAITS.phases == 2 { 2 } else { K::TRAITS.gates }
}

/// Whether each step multiplies its own inputs. Projecting them ahead reads and writes all the sums once
/// more, but passes over the input weights with more rows at a time: that pays where a step has few rows
/// and a worker's weights are too large for its cache.
pub(crate) fn fuses_input<K: Kernel>(batch: &Batch, sizes: &Sizes, input: usize) -> bool {
    let geometry = geometry(batch, sizes, sizes.groups.div_ceil(span::<K>()));
    let weights = sizes.gates * sizes.units() * (input + sizes.units());
    let rows = batch.frames() / batch.steps().max(1);
    let (rows, weights) = match geometry.split {
        Split::Units => (rows, weights / geometry.workers),
        Split::Ranks | Split::Rows => (rows / geometry.workers, weights),
    };
    K::TRAITS.phases == 1 && (rows >= FUSED_ROWS || weights <= 2 * CACHED_WEIGHTS)
}

/// A cell's forward tiles of the same ranks, one panel after the other.
pub(crate) struct ForwardJob<'a, K, const M: usize, const NV: usize> {
    pub(crate) phase: usize,
    /// As wide as all the panels.
    pub(crate) tile: Forward<'a, M>,
    /// Takes `h` as products read it: as pairs, or with some of it dropped. Without columns where they read `h`.
    pub(crate) seen: TileMut<'a, M>,
    pub(crate) panels: usize,
    pub(crate) kernel: PhantomData<K>,
}

impl<S: Lanes, K: Kernel, const M: usize, const NV: usize> Job<S> for ForwardJob<'_, K, M, NV> {
    type Output = ();
    #[inline(always)]
    fn run(mut self, simd: S) {
        if !const { is_tile::<S>(M, NV) && is_panel::<K>(NV) && has_kernel::<S, K>() } {
            unreachable!("no panel of this cell has {NV} vectors in tiles of {M} rows");
        }
        let gates = K::TRAITS.gates;
        let units = NV * S::N / gates_of::<K>(self.phase);
        for p in 0..self.panels {
            let panel = Panel::of(&mut self.tile, p, NV * S::N, units, gates);
            K::forward::<S, M, NV>(simd, self.phase, panel);
        }
        if self.phase + 1 == K::TRAITS.phases {
            zone_out(simd, &mut self.tile);
            let dropped = self.tile.factors.recurrent;
            if dropped.width() > 0 {
                for i in 0..M {
                    drop_row(simd, self.tile.h.row(i), dropped.row(i), self.seen.row(i));
                }
            } else if S::PAIRS {
                for i in 0..M {
                    narrow_row(simd, self.tile.h.row(i), self.seen.row(i));
                }
            }
        }
    }
}

/// `seen = h * factors`, as products read it.
#[inline(always)]
fn drop_row<S: Lanes>(simd: S, h: &[f32], factors: &[f32], seen: &mut [f32]) {
    let width = if S::PAIRS { S::N / 2 } else { S::N };
    let values = h.chunks_exact(S::N).zip(factors.chunks_exact(S::N));
    for ((h, factors), seen) in values.zip(seen.chunks_exact_mut(width)) {
        let v = simd.mul(simd.load(h), simd.load(factors));
        if S::PAIRS { simd.store_pairs(seen, v) } else { simd.store(seen, v) }
    }
}

/// Whether a cell has products of this precision.
const fn has_kernel<S: Lanes, K: Kernel>() -> bool {
    !S::PAIRS || K::TRAITS.phases == 1
}

/// Whether a panel can have so many vectors: all the gates of a unit group, or any number where a gate is all
/// there is.
const fn is_panel<K: Kernel>(vectors: usize) -> bool {
    match K::TRAITS.phases {
        1 => vectors.is_multiple_of(K::TRAITS.gates),
        _ => vectors == K::TRAITS.panel || vectors == K::TRAITS.gates - K::TRAITS.panel,
    }
}

/// Gates that a phase of a step computes.
const fn gates_of<K: Kernel>(phase: usize) -> usize {
    match (K::TRAITS.phases, phase) {
        (1, _) => K::TRAITS.gates,
        (_, 0) => K::TRAITS.panel,
        _ => K::TRAITS.gates - K::TRAITS.panel,
    }
}

/// Whether the recurrent product reads gradients of its own.
const fn is_apart<K: Kernel>() -> bool {
    K::TRAITS.phases == 1 && K::TRAITS.recurrent_gates > 0
}

/// One call of a cell's backward tile.
struct BackwardJob<'a, K, const M: usize, const NV: usize> {
    phase: usize,
    tile: Backward<'a, M>,
    /// Takes what the recurrent product sees as pairs, where it reads pairs.
    narrow: TileMut<'a, M>,
    kernel: PhantomData<K>,
}

impl<S: Lanes, K: Kernel, const M: usize, const NV: usize> Job<S> for BackwardJob<'_, K, M, NV> {
    type Output = ();
    #[inline(always)]
    fn run(mut self, simd: S) {
        if !const { is_tile::<S>(M, NV) && has_kernel::<S, K>() } {
            unreachable!("no level has tiles of {M} rows and {NV} vectors");
        }
        self.tile.prefetch(simd, NV * S::N, &K::TRAITS);
        K::backward::<S, M, NV>(simd, self.phase, &mut self.tile);
        if S::PAIRS {
            let seen = if is_apart::<K>() { &mut self.tile.recurrent } else { &mut self.tile.gates };
            for i in 0..M {
                narrow_row(simd, seen.row(i), self.narrow.row(i));
            }
        }
    }
}

impl<K: Kernel> Dispatch for ForwardPass<'_, K> {
    type Output = ();

    fn run<S: Lanes>(self, simd: S) {
        let sizes = self.sizes;
        let traits = K::TRAITS;
        let span = span::<K>();
        let geometry = geometry(self.batch, &sizes, sizes.groups.div_ceil(span));
        let unit = sizes.lanes * span;
        let units = Rows {
            keep: if self.taped { Keep::All } else { Keep::Two },
            lead: self.batch.sequences(),
            stride: sizes.unit_stride,
            group: unit,
            columns: sizes.units(),
            map: None,
        };
        let frames = Rows { keep: Keep::All, lead: 0, ..units };
        let gate_rows = Rows {
            keep: Keep::All,
            lead: 0,
            stride: sizes.gate_stride,
            group: unit * sizes.gates,
            columns: sizes.units() * sizes.gates,
            map: None,
        };
        let absent = Rows { stride: 0, group: 0, columns: 0, ..units };
        let y_rows = Rows { columns: self.hidden, map: Some(self.y_map), ..frames };
        let has_gates = self.taped || self.source == Source::Ahead;
        let has_extra = traits.extra && (self.taped || traits.phases == 2);
        let gates = Matrix::new(self.gates, geometry, if has_gates { gate_rows } else { absent });
        let h = Matrix::new(self.h, geometry, units);
        let dropped = self.chance.has(StepMask::Recurrent);
        let seen_rows = Rows { keep: Keep::Two, ..units };
        let seen_rows = match (S::PAIRS, dropped) {
            (true, _) => Rows {
                stride: units.stride / 2,
                group: units.group / 2,
                columns: units.columns / 2,
                ..seen_rows
            },
            (false, true) => seen_rows,
            (false, false) => absent,
        };
        let seen = Matrix::new(self.seen, geometry, seen_rows);
        let apart = S::PAIRS || dropped;
        let c = Matrix::new(self.c, geometry, if traits.cell_state { units } else { absent });
        let extra = Matrix::new(self.extra, geometry, if has_extra { frames } else { absent });
        let y = Matrix::new(self.y, geometry, y_rows);

        team::run_on(geometry.workers, |worker| {
            let mut walk = ForwardWalk::<S, K> {
                simd,
                worker,
                geometry,
                sizes,
                span,
                depth: S::depth(self.hidden),
                bias: self.bias,
                x: self.x,
                x_starts: self.x_starts,
                input: self.input,
                source: self.source,
                recurrent: self.recurrent,
                gates: gates.private(worker),
                // Others read one of the two.
                apart,
                h: if apart { h.private(worker) } else { h.published(worker, Walk::Up) },
                seen: if apart { seen.published(worker, Walk::Up) } else { seen.private(worker) },
                factors: FactorRows::new(self.chance, sizes.units()),
                c: c.private(worker),
                // Only a cell of two phases reads others' extra values; elsewhere nobody closes a step.
                extra: match traits.phases {
                    2 => extra.published(worker, Walk::Up),
                    _ => extra.private(worker),
                },
                y: y.private(worker),
                kernel: PhantomData,
            };
            let mut projected = 0;
            for step in 0..self.batch.steps() {
                if step == projected && self.source == Source::Ahead {
                    projected = walk.project(step);
                }
                for phase in 0..traits.phases {
                    walk.step(step, phase);
                    if phase + 1 < traits.phases {
                        walk.extra.publish(worker);
                    }
                }
                if apart { &mut walk.seen } else { &mut walk.h }.publish(worker);
            }
        });
    }
}

/// One worker on its way through time.
struct ForwardWalk<'a, S, K> {
    simd: S,
    worker: &'a Worker<'a>,
    geometry: Geometry<'a>,
    sizes: Sizes,
    /// Unit groups of a panel of the first phase: what the geometry calls one group.
    span: usize,
    depth: usize,
    bias: (&'a [f32], &'a [f32]),
    x: &'a [f32],
    x_starts: &'a [usize],
    input: Packed<'a>,
    source: Source,
    recurrent: [Packed<'a>; 2],
    gates: Part<'a>,
    /// Whether products read `seen` in place of `h`.
    apart: bool,
    h: Part<'a>,
    seen: Part<'a>,
    factors: FactorRows<'a>,
    c: Part<'a>,
    extra: Part<'a>,
    y: Part<'a>,
    kernel: PhantomData<K>,
}

impl<S: Lanes, K: Kernel> ForwardWalk<'_, S, K> {
    /// Multiplies the inputs of the next steps, about a cache's worth, by the input weights. Returns the
    /// first step that is left.
    fn project(&mut self, from: usize) -> usize {
        let mut block = FrameBlock::new();
        let mut step = from;
        while step + 1 < self.geometry.starts.len() {
            let alive = self.geometry.starts[step + 1] - self.geometry.starts[step];
            let (first, gap, own) = own_ranks(&self.geometry, self.worker, 0..alive);
            if !block.frames().is_empty() && block.frames().len() + own > BLOCK {
                break;
            }
            for k in 0..own {
                if block.frames().len() == BLOCK {
                    self.project_block(block.frames());
                    block.count = 0;
                }
                block.push(self.geometry.own_frame(self.worker, step, first + k * gap));
            }
            step += 1;
        }
        self.project_block(block.frames());
        step
    }

    fn project_block(&mut self, block: &[OwnFrame<'_>]) {
        let input = self.input;
        let panels = input.panels;
        let row = panels.lanes * panels.width;
        // Panels of the input weights cover whole groups of the geometry.
        for deep in depths(panels.depth) {
            for p in self.own_panels(panels, self.sizes.gates) {
                let (panel, nv) = (input.part(p, &deep), panels.vectors_of(p));
                let groups = self.panel_groups(p, panels, self.sizes.gates);
                let start = Start::Bias(&self.bias.0[p * row..][..nv * panels.lanes]).at(deep.start);
                for (first, m) in tiles::<S>(block.len(), nv) {
                    with_rows!(m, M => with_vectors!(nv, NV => {
                        let frames = block[first..].first_chunk::<M>().expect("M frames");
                        let mut rows = [0; M];
                        for (row, frame) in rows.iter_mut().zip(frames) {
                            *row = self.x_starts[frame.index()] + deep.start;
                        }
                        self.simd.call(Product::<M, NV> {
                            a: Tile::of(self.x, &rows, deep.len()),
                            depth: deep.len(),
                            panel,
                            start,
                            out: self.gates.own_frames::<M>(frames, &groups),
                        });
                    }));
                }
            }
        }
    }

    /// The panels of a matrix that cover this worker's groups, when a unit has `gates` vectors in it.
    fn own_panels(&self, panels: Panels, gates: usize) -> Range<usize> {
        let own = self.geometry.own_groups(self.worker);
        let per = self.span * gates / panels.width;
        (own.start * per).min(panels.count())..(own.end * per).min(panels.count())
    }

    /// The geometry's groups that panel `p` covers (always whole ones).
    fn panel_groups(&self, p: usize, panels: Panels, gates: usize) -> Range<usize> {
        let per = self.span * gates / panels.width;
        p / per..p / per + 1
    }

    fn step(&mut self, step: usize, phase: usize) {
        let alive = self.geometry.starts[step + 1] - self.geometry.starts[step];
        let (first, gap, own) = own_ranks(&self.geometry, self.worker, 0..alive);
        let packed = self.recurrent[phase];
        let panels = packed.panels;
        let row = panels.lanes * panels.width;
        let gates = panels.vectors / self.sizes.groups;
        let inputs = &self.x_starts[self.geometry.starts[step]..self.geometry.starts[step + 1]];
        let own_panels = self.own_panels(panels, gates);
        let fused_depth = if self.source == Source::Fused { self.input.panels.depth } else { 0 };
        let depths = panels.depth + fused_depth;
        // As many panels as stay in the second-level cache while all tiles pass over them.
        let most = (CACHED_WEIGHTS / (row * depths)).max(1);
        let mut p = own_panels.start;
        while p < own_panels.end {
            let nv = panels.vectors_of(p);
            let same = (own_panels.end - p).min(if nv == panels.width { panels.vectors / nv - p } else { 1 });
            let count = same.min(most);
            let groups = self.panel_groups(p, panels, gates).start
                ..self.panel_groups(p + count - 1, panels, gates).end;
            let columns = p * row..p * row + count * nv * panels.lanes;
            let bias = self.bias.1.get(columns.clone()).unwrap_or(&[]);
            let column = groups.start * self.span * self.sizes.lanes;
            for (k, m) in tiles::<S>(own, nv) {
                let rank = first + k * gap;
                with_rows!(m, M => {
                    let ranks = self.geometry.ranks::<M>(self.worker, rank, gap);
                    let mut rows = [0; M];
                    for (i, row) in rows.iter_mut().enumerate() {
                        *row = inputs[rank + i * gap];
                    }
                    let input = match self.source {
                        Source::Ahead => Input::Gates,
                        Source::Table => {
                            let width = self.sizes.gates * self.sizes.units();
                            Input::Table(Tile::of(self.x, &rows, width).columns(column * self.sizes.gates))
                        }
                        Source::Fused => Input::Product {
                            x: Tile::of(self.x, &rows, fused_depth),
                            depth: fused_depth,
                            // With one phase both weights have the same panels.
                            panel: self.input.panels(p, count),
                            bias: &self.bias.0[columns.clone()],
                        },
                    };
                    let before = (step.checked_sub(1), Some(step));
                    let (past, past_h, h, seen) = if self.apart {
                        let (past_h, h) = self.h.own_pair(before, ranks, &groups);
                        let (past, seen) = self.seen.past_and_own(step, ranks, &groups);
                        (past, past_h, h, seen)
                    } else {
                        let (past, h) = self.h.past_and_own(step, ranks, &groups);
                        (past, past.columns(column), h, TileMut::empty())
                    };
                    let (past_c, c) = self.c.own_pair(before, ranks, &groups);
                    let (a, extra) = if phase == 0 {
                        (past, self.extra.own(Some(step), ranks, &groups))
                    } else {
                        (self.extra.closed(Some(step), ranks), TileMut::empty())
                    };
                    let width = count * nv * S::N / gates;
                    let start = self.geometry.starts[step];
                    let tile = Forward::<M> {
                        factors: self.factors.tile(self.simd, start, ranks, (column, width)),
                        input,
                        a,
                        depth: self.depth,
                        panel: packed.panels(p, count),
                        made: None,
                        bias,
                        past_h,
                        past_c,
                        gates: self.gates.own(Some(step), ranks, &groups),
                        h,
                        c,
                        extra,
                        y: self.y.own(Some(step), ranks, &groups),
                    };
                    with_vectors!(nv, NV => self.simd.call(ForwardJob::<K, M, NV> {
                        phase, tile, seen, panels: count, kernel: PhantomData,
                    }));
                });
            }
            p += count;
        }
    }
}

/// Rows of a buffer that backward only reads.
#[derive(Clone, Copy)]
struct Saved<'a> {
    data: &'a [f32],
    lead: usize,
    stride: usize,
    columns: usize,
}

impl<'a> Saved<'a> {
    /// `M` ranks' rows at `step` (`None`: the leading ones), from column `column` on.
    #[inline(always)]
    fn tile<const M: usize>(
        &self,
        starts: &[usize],
        step: Option<usize>,
        (rank, gap): (usize, usize),
        column: usize,
    ) -> Tile<'a, M> {
        let first = step.map_or(0, |step| self.lead + starts[step]) + rank;
        let mut rows = [0; M];
        for (i, row) in rows.iter_mut().enumerate() {
            *row = (first + i * gap) * self.stride;
        }
        Tile::of(self.data, &rows, self.columns).columns(column.min(self.columns))
    }
}

/// The recurrence of a backward pass: from gradients of the output to gradients of the gates and of the
/// initial state.
pub(crate) struct BackwardPass<'a, K> {
    pub(crate) batch: &'a Batch,
    pub(crate) sizes: Sizes,
    pub(crate) hidden: usize,
    /// One for each phase.
    pub(crate) recurrent_weights: [Packed<'a>; 2],
    pub(crate) dy: Option<&'a [f32]>,
    pub(crate) dy_starts: &'a [usize],
    pub(crate) h: &'a [f32],
    pub(crate) c: &'a [f32],
    pub(crate) extra: &'a [f32],
    pub(crate) gates: &'a mut [f32],
    pub(crate) recurrent: &'a mut [f32],
    /// `[F, gates / 2]`: what the recurrent product sees, where it reads pairs.
    pub(crate) narrow: &'a mut [f32],
    pub(crate) carry_h: &'a mut [f32],
    pub(crate) carry_c: &'a mut [f32],
    pub(crate) chance: &'a Chance,
    pub(crate) kernel: PhantomData<K>,
}

impl<K: Kernel> Dispatch for BackwardPass<'_, K> {
    type Output = ();

    fn run<S: Lanes>(self, simd: S) {
        let sizes = self.sizes;
        let traits = K::TRAITS;
        let batch = self.batch;
        // Columns of the product are units here, four groups a panel.
        const SPAN: usize = 4;
        let geometry = geometry(batch, &sizes, sizes.groups.div_ceil(SPAN));
        let gate_rows = |gates: usize, stride: usize| Rows {
            keep: Keep::All,
            lead: 0,
            stride,
            group: SPAN * sizes.lanes * gates,
            columns: sizes.units() * gates,
            map: None,
        };
        let states = Rows { lead: batch.sequences(), ..gate_rows(1, sizes.unit_stride) };
        let absent = Rows { stride: 0, group: 0, columns: 0, ..states };
        let gates = Matrix::new(self.gates, geometry, gate_rows(sizes.gates, sizes.gate_stride));
        let recurrent = match traits.recurrent_gates {
            0 => absent,
            1 => gate_rows(1, sizes.unit_stride),
            gates => gate_rows(gates, sizes.gate_stride),
        };
        let recurrent = Matrix::new(self.recurrent, geometry, recurrent);
        let narrow_rows = gate_rows(sizes.gates, sizes.gate_stride);
        let narrow_rows = Rows {
            stride: narrow_rows.stride / 2,
            group: narrow_rows.group / 2,
            columns: narrow_rows.columns / 2,
            ..narrow_rows
        };
        let narrow = Matrix::new(self.narrow, geometry, if S::PAIRS { narrow_rows } else { absent });
        let carry_h = Matrix::new(self.carry_h, geometry, states);
        let carry_c = Matrix::new(self.carry_c, geometry, if traits.cell_state { states } else { absent });
        let saved = |data, lead, present| Saved {
            data,
            lead,
            stride: if present { sizes.unit_stride } else { 0 },
            columns: if present { sizes.units() } else { 0 },
        };
        let h = saved(self.h, batch.sequences(), true);
        let c = saved(self.c, batch.sequences(), traits.cell_state);
        let extra = saved(self.extra, 0, traits.extra);

        team::run_on(geometry.workers, |worker| {
            let mut walk = BackwardWalk::<S, K> {
                simd,
                worker,
                geometry,
                hidden: self.hidden,
                unit: SPAN * sizes.lanes,
                weights: self.recurrent_weights,
                dy: self.dy,
                dy_starts: self.dy_starts,
                h,
                c,
                extra,
                gates: match S::PAIRS || is_apart::<K>() {
                    true => gates.private(worker),
                    false => gates.published(worker, Walk::Down),
                },
                recurrent: match S::PAIRS || traits.recurrent_gates == 0 {
                    true => recurrent.private(worker),
                    false => recurrent.published(worker, Walk::Down),
                },
                narrow: match S::PAIRS {
                    true => narrow.published(worker, Walk::Down),
                    false => narrow.private(worker),
                },
                carry_h: carry_h.private(worker),
                carry_c: carry_c.private(worker),
                factors: FactorRows::new(self.chance, SPAN * sizes.lanes),
                zones: self.chance.has(StepMask::Hidden),
                kernel: PhantomData,
            };
            for step in (0..batch.steps()).rev() {
                let (alive, going_on) = (batch.alive(step), batch.alive(step + 1));
                for phase in 0..traits.phases {
                    walk.step(step, phase, 0..going_on, true);
                    walk.step(step, phase, going_on..alive, false);
                    if phase + 1 < traits.phases {
                        walk.recurrent.publish(worker);
                    }
                }
                walk.close_step();
            }
            if batch.steps() > 0 {
                walk.initial(0..batch.alive(0));
            }
        });
    }
}

/// One worker on its way back.
struct BackwardWalk<'a, S, K> {
    simd: S,
    worker: &'a Worker<'a>,
    geometry: Geometry<'a>,
    hidden: usize,
    /// Units of a panel.
    unit: usize,
    weights: [Packed<'a>; 2],
    dy: Option<&'a [f32]>,
    dy_starts: &'a [usize],
    h: Saved<'a>,
    c: Saved<'a>,
    extra: Saved<'a>,
    gates: Part<'a>,
    recurrent: Part<'a>,
    narrow: Part<'a>,
    carry_h: Part<'a>,
    carry_c: Part<'a>,
    factors: FactorRows<'a>,
    /// Whether `h` zones out, so that part of its gradient flows past the product.
    zones: bool,
    kernel: PhantomData<K>,
}

impl<'a, S: Lanes, K: Kernel> BackwardWalk<'a, S, K> {
    /// Lets all workers read this step's gate gradients.
    fn close_step(&mut self) {
        let worker = self.worker;
        let seen = match (S::PAIRS, is_apart::<K>()) {
            (true, _) => &mut self.narrow,
            (false, true) => &mut self.recurrent,
            (false, false) => &mut self.gates,
        };
        seen.publish(worker);
    }

    /// Gate gradients of a closed step, as the recurrent product sees them.
    #[inline(always)]
    fn seen<const M: usize>(&self, step: usize, ranks: Ranks<M>) -> Tile<'a, M> {
        let seen = match (S::PAIRS, is_apart::<K>()) {
            (true, _) => &self.narrow,
            (false, true) => &self.recurrent,
            (false, false) => &self.gates,
        };
        seen.closed(Some(step), ranks)
    }

    fn step(&mut self, step: usize, phase: usize, ranks: Range<usize>, goes_on: bool) {
        let starts = self.geometry.starts;
        let (first, gap, own) = own_ranks(&self.geometry, self.worker, ranks);
        if own == 0 {
            return;
        }
        let packed = self.weights[phase];
        let panels = packed.panels;
        for p in self.geometry.own_groups(self.worker) {
            let (panel, nv) = (packed.panel(p), panels.vectors_of(p));
            let groups = p..p + 1;
            let column = p * self.unit;
            for (k, m) in tiles::<S>(own, nv) {
                let rank = first + k * gap;
                let place = (rank, gap);
                with_rows!(m, M => {
                    let ranks = self.geometry.ranks::<M>(self.worker, rank, gap);
                    let dy = self.dy.filter(|_| phase == 0).map(|dy| {
                        let mut rows = [0; M];
                        for (i, row) in rows.iter_mut().enumerate() {
                            *row = self.dy_starts[starts[step] + rank + i * gap];
                        }
                        Tile::of(dy, &rows, self.hidden).columns(column)
                    });
                    let (next, recurrent) = if phase == 1 {
                        (Some(self.recurrent.closed(Some(step), ranks)), TileMut::empty())
                    } else {
                        let next = goes_on.then(|| self.seen(step + 1, ranks));
                        (next, self.recurrent.own(Some(step), ranks, &groups))
                    };
                    let tile = Backward::<M> {
                        factors: self.factors.tile(self.simd, starts[step], ranks, (column, nv * S::N)),
                        next,
                        depth: panels.depth,
                        panel,
                        dy,
                        h: self.h.tile(starts, Some(step), place, column),
                        past_h: self.h.tile(starts, step.checked_sub(1), place, column),
                        past_c: self.c.tile(starts, step.checked_sub(1), place, column),
                        extra: self.extra.tile(starts, Some(step), place, column),
                        gates: self.gates.own(Some(step), ranks, &groups),
                        recurrent,
                        carry_h: self.carry_h.own(None, ranks, &groups),
                        carry_c: self.carry_c.own(None, ranks, &groups),
                    };
                    with_vectors!(nv, NV => {
                        self.simd.call(BackwardJob::<K, M, NV> {
                            phase,
                            tile,
                            narrow: self.narrow.own(Some(step), ranks, &groups),
                            kernel: PhantomData,
                        });
                    });
                });
            }
        }
    }

    /// The gradient of the initial `h`, left in `carry_h`.
    fn initial(&mut self, ranks: Range<usize>) {
        let (first, gap, own) = own_ranks(&self.geometry, self.worker, ranks);
        let packed = self.weights[0];
        let panels = packed.panels;
        for p in self.geometry.own_groups(self.worker) {
            let (panel, nv) = (packed.panel(p), panels.vectors_of(p));
            for (k, m) in tiles::<S>(own, nv) {
                let rank = first + k * gap;
                with_rows!(m, M => with_vectors!(nv, NV => {
                    let ranks = self.geometry.ranks::<M>(self.worker, rank, gap);
                    let column = (p * self.unit, nv * S::N);
                    self.simd.call(InitialGradient::<M, NV> {
                        a: self.seen(0, ranks),
                        depth: panels.depth,
                        panel,
                        dropped: self.factors.tile(self.simd, 0, ranks, column).recurrent,
                        carries: K::TRAITS.carries || self.zones,
                        out: self.carry_h.own(None, ranks, &(p..p + 1)),
                    });
                }));
            }
        }
    }
}

/// The gradient of a tile of the initial `h`: through the product, and past it where something does.
struct InitialGradient<'a, const M: usize, const NV: usize> {
    a: Tile<'a, M>,
    depth: usize,
    panel: &'a [f32],
    /// Factors of what the product read.
    dropped: Tile<'a, M>,
    /// Whether `out` holds what flows past the product.
    carries: bool,
    out: TileMut<'a, M>,
}

impl<S: Lanes, const M: usize, const NV: usize> Job<S> for InitialGradient<'_, M, NV> {
    type Output = ();
    #[inline(always)]
    fn run(mut self, simd: S) {
        if !const { is_tile::<S>(M, NV) } {
            unreachable!("no level has tiles of {M} rows and {NV} vectors");
        }
        let mut d = [[simd.splat(0.0); NV]; M];
        if self.carries && self.dropped.width() == 0 {
            for i in 0..M {
                load_row(simd, self.out.row(i), &mut d[i]);
            }
        }
        multiply(simd, &self.a, self.depth, self.panel, &mut d);
        for i in 0..M {
            for j in 0..NV {
                let at = j * S::N;
                if self.dropped.width() > 0 {
                    d[i][j] = times(simd, d[i][j], &self.dropped, i, at);
                    if self.carries {
                        d[i][j] = simd.add(d[i][j], simd.load(&self.out.row(i)[at..]));
                    }
                }
            }
            store_row(simd, self.out.row(i), &d[i]);
        }
    }
}

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
        // Small pieces, so that even a short table is shared out.
        let block = count.div_ceil(workers).clamp(1, BLOCK);
        let pieces = Pieces::new(&mut self.out[..count * stride], block * stride, workers);
        team::run_on(workers, |worker| {
            let (first, out) = pieces.take(worker);
            let mut first = first * block;
            for out in out.chunks_mut(block * stride) {
                let count = out.len() / stride;
                for deep in depths(panels.depth) {
                    for p in 0..panels.count() {
                        let (panel, nv) = (self.weights.part(p, &deep), panels.vectors_of(p));
                        let column = p * panels.width * panels.lanes;
                        let columns = column..(column + nv * panels.lanes).min(stride);
                        let from = match self.bias {
                            _ if add => Start::Output,
                            None => Start::Zero,
                            Some(bias) => Start::Bias(&bias[column..]),
                        };
                        for (row, m) in tiles::<S>(count, nv) {
                            with_rows!(m, M => with_vectors!(nv, NV => {
                                let mut starts = [0; M];
                                for (i, at) in starts.iter_mut().enumerate() {
                                    *at = start(first + row + i) + deep.start;
                                }
                                simd.call(Product::<M, NV> {
                                    a: Tile::of(self.rows, &starts, deep.len()),
                                    depth: deep.len(),
                                    panel,
                                    start: from.at(deep.start),
                                    out: TileMut::of(&mut out[row * stride..], stride, &columns),
                                });
                            }));
                        }
                    }
                }
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
