//! Backward through time: from gradients of the output to those of gates, frame by frame, and of the initial state.

use super::{geometry, has_kernel, own_ranks};
use crate::cell::{Backward, Kernel};
use crate::chance::{Chance, FactorRows, StepMask, times};
use crate::disjoint::{Geometry, Keep, Matrix, Part, Ranks, Rows, Tile, TileMut, Walk};
use crate::gemm::{is_tile, tiles, with_rows, with_vectors};
use crate::pack::Packed;
use crate::shape::Batch;
use crate::simd::{Dispatch, Job, Lanes, load_row, multiply, narrow_row, store_row};
use crate::sizes::Sizes;
use crate::team::{self, Worker};
use std::marker::PhantomData;
use std::ops::Range;

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
