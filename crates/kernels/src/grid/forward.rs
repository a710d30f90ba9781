//! Forward through time: a step's inputs projected ahead, multiplied beside the state or looked up in a table.

use super::{FrameBlock, geometry, has_kernel, own_ranks};
use crate::cell::{Forward, Input, Kernel, Panel, zone_out};
use crate::chance::{Chance, FactorRows, StepMask};
use crate::disjoint::{FrameMap, Geometry, Keep, Matrix, OwnFrame, Part, Rows, Split, Tile, TileMut, Walk};
use crate::gemm::{BLOCK, Product, Start, depths, is_tile, tiles, with_rows, with_vectors};
use crate::pack::{Packed, Panels};
use crate::shape::Batch;
use crate::simd::{Dispatch, Job, Lanes, narrow_row};
use crate::sizes::Sizes;
use crate::team::{self, Worker};
use std::marker::PhantomData;
use std::ops::Range;

/// Weights, in floats, that a worker's second-level cache keeps beside everything else.
const CACHED_WEIGHTS: usize = 1 << 17;

/// Rows of a worker's step from which on the input weights need no larger block.
const FUSED_ROWS: usize = 24;

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
