//! One step of each cell, forward and backward, on a tile in registers. No time loop here.

pub(crate) mod gru;
pub(crate) mod lstm;
pub(crate) mod rnn;
pub(crate) mod rowwise;

use crate::chance::{Factors, times};
use crate::disjoint::{Tile, TileMut};
use crate::shape::{Cell, Reset};
use crate::simd::{Lanes, load_row, multiply};

/// What a cell kernel needs from the buffers.
pub(crate) struct Traits {
    /// Gates side by side in a row of gate values.
    pub(crate) gates: usize,
    /// Vectors of a panel in phase 0 (a multiple of the gates computed there).
    pub(crate) panel: usize,
    /// Products a step: 2 where one gate needs another's result from all units.
    pub(crate) phases: usize,
    /// A cell value beside `h`.
    pub(crate) cell_state: bool,
    /// One more value per unit and frame for backward.
    pub(crate) extra: bool,
    /// Part of `dh` flows to the step before without a product.
    pub(crate) carries: bool,
    /// Gradients a unit that only the recurrent product sees, in a buffer of their own.
    pub(crate) recurrent_gates: usize,
}

/// Where a forward tile finds its inputs' part of the sums, biases included.
pub(crate) enum Input<'a, const M: usize> {
    /// Projected ahead: in the tile's `gates`.
    Gates,
    /// Projected ahead, at another place: one row a distinct token.
    Table(Tile<'a, M>),
    /// Not yet there: `bias + x · panel`.
    Product { x: Tile<'a, M>, depth: usize, panel: &'a [f32], bias: &'a [f32] },
}

/// A tile of the forward pass: `M` sequences, some unit groups.
pub(crate) struct Forward<'a, const M: usize> {
    pub(crate) input: Input<'a, M>,
    /// Rows that the panel multiplies: the last step's `h`, all units (in phase 1 the cell's own choice).
    pub(crate) a: Tile<'a, M>,
    pub(crate) depth: usize,
    pub(crate) panel: &'a [f32],
    /// Their products where they are made already, from the panel's first column on.
    pub(crate) made: Option<Tile<'a, M>>,
    /// Recurrent bias of these columns, where it cannot be added to the input's.
    pub(crate) bias: &'a [f32],
    /// Last step's `h` of these units.
    pub(crate) past_h: Tile<'a, M>,
    /// Last step's `c` of these units.
    pub(crate) past_c: Tile<'a, M>,
    /// In: the input's projection, if made ahead. Out: the gates' values. Without columns where nobody
    /// asks for them.
    pub(crate) gates: TileMut<'a, M>,
    pub(crate) h: TileMut<'a, M>,
    pub(crate) c: TileMut<'a, M>,
    /// Without columns where nobody asks for it.
    pub(crate) extra: TileMut<'a, M>,
    /// The caller's output; as wide as there are real units.
    pub(crate) y: TileMut<'a, M>,
    /// What chance does. A cell sees to the update and to `r * h`; zoneout comes after it.
    pub(crate) factors: Factors<'a, M>,
}

/// One panel's part of a forward tile: the tile, and where in its rows the part begins. Rows are cut when they are
/// asked for: most tiles of a layer have no use for most of them.
pub(crate) struct Panel<'t, 'a, const M: usize> {
    tile: &'t mut Forward<'a, M>,
    /// Which one it is.
    index: usize,
    /// Its columns of sums.
    sums: usize,
    /// Its first unit, and that unit's first gate.
    unit: usize,
    gate: usize,
}

/// A row from a column on; nothing of a row that is not there.
#[inline(always)]
fn from(row: &[f32], first: usize) -> &[f32] {
    &row[first.min(row.len())..]
}

/// The same to be written.
#[inline(always)]
fn from_mut(row: &mut [f32], first: usize) -> &mut [f32] {
    let first = first.min(row.len());
    &mut row[first..]
}

impl<'t, 'a, const M: usize> Panel<'t, 'a, M> {
    /// Panel `index` of a tile, where a panel has `sums` columns for `units` units of `gates` gates.
    #[inline(always)]
    pub(crate) fn of(
        tile: &'t mut Forward<'a, M>,
        index: usize,
        sums: usize,
        units: usize,
        gates: usize,
    ) -> Panel<'t, 'a, M> {
        let unit = index * units;
        Panel { tile, index, sums, unit, gate: unit * gates }
    }

    /// Its part of packed weights.
    #[inline(always)]
    fn weights<'b>(&self, packed: &'b [f32], depth: usize) -> &'b [f32] {
        let floats = self.sums * depth;
        &packed[self.index * floats..][..floats]
    }

    /// Its part of a row that has a value for each sum.
    #[inline(always)]
    fn of_sums<'b>(&self, row: &'b [f32]) -> &'b [f32] {
        let row = from(row, self.index * self.sums);
        &row[..self.sums.min(row.len())]
    }

    /// Recurrent bias of its columns, where it cannot be added to the input's.
    #[inline(always)]
    fn bias(&self) -> &'a [f32] {
        self.of_sums(self.tile.bias)
    }

    /// Last step's `h` of its units.
    #[inline(always)]
    fn past_h(&self, row: usize) -> &'a [f32] {
        from(self.tile.past_h.row(row), self.unit)
    }

    #[inline(always)]
    fn past_c(&self, row: usize) -> &'a [f32] {
        from(self.tile.past_c.row(row), self.unit)
    }

    #[inline(always)]
    fn gates(&mut self, row: usize) -> &mut [f32] {
        from_mut(self.tile.gates.row(row), self.gate)
    }

    #[inline(always)]
    fn h(&mut self, row: usize) -> &mut [f32] {
        from_mut(self.tile.h.row(row), self.unit)
    }

    #[inline(always)]
    fn c(&mut self, row: usize) -> &mut [f32] {
        from_mut(self.tile.c.row(row), self.unit)
    }

    #[inline(always)]
    fn extra(&mut self, row: usize) -> &mut [f32] {
        from_mut(self.tile.extra.row(row), self.unit)
    }

    #[inline(always)]
    fn y(&mut self, row: usize) -> &mut [f32] {
        from_mut(self.tile.y.row(row), self.unit)
    }

    /// Whether somebody asks for extra values, as backward does.
    #[inline(always)]
    fn has_extra(&self) -> bool {
        self.tile.extra.width() > 0
    }

    /// What is left of a candidate.
    #[inline(always)]
    fn updated<S: Lanes>(&self, simd: S, candidate: S::V, row: usize) -> S::V {
        times(simd, candidate, &self.tile.factors.update, row, self.unit)
    }
}

/// A tile of the backward pass: `M` sequences, `NV` unit groups.
pub(crate) struct Backward<'a, const M: usize> {
    /// Gate gradients of the next step, all units; `None` where a sequence ends here.
    pub(crate) next: Option<Tile<'a, M>>,
    pub(crate) depth: usize,
    pub(crate) panel: &'a [f32],
    /// Gradient of the output; `None` where it is zero.
    pub(crate) dy: Option<Tile<'a, M>>,
    pub(crate) h: Tile<'a, M>,
    pub(crate) past_h: Tile<'a, M>,
    pub(crate) past_c: Tile<'a, M>,
    pub(crate) extra: Tile<'a, M>,
    /// In: the gates' values. Out: the gradients of their sums before the non-linearity.
    pub(crate) gates: TileMut<'a, M>,
    /// The same as the recurrent product sees them, where it differs.
    pub(crate) recurrent: TileMut<'a, M>,
    /// What flows to `h` of the step before past the product; at a sequence's end the gradient of its
    /// final `h`.
    pub(crate) carry_h: TileMut<'a, M>,
    pub(crate) carry_c: TileMut<'a, M>,
    /// What chance did in this step; what dropped out of `h` did so for the next.
    pub(crate) factors: Factors<'a, M>,
}

impl<const M: usize> Backward<'_, M> {
    /// Asks for what the cell reads after its product, `width` units of it. A sequence's tape is larger than the caches
    /// are: asked for now, it comes from the memory while the product is under way. What a vanilla cell reads of `h` was
    /// asked for as the last `h` of the step after.
    #[inline(always)]
    pub(crate) fn prefetch<S: Lanes>(&mut self, simd: S, width: usize, traits: &Traits) {
        for i in 0..M {
            simd.prefetch(upto(self.gates.row(i), width * traits.gates));
            simd.prefetch(upto(self.extra.row(i), width));
            simd.prefetch(upto(
                if traits.cell_state { self.past_c.row(i) } else { self.past_h.row(i) },
                width,
            ));
            if let Some(dy) = &self.dy {
                simd.prefetch(upto(dy.row(i), width));
            }
        }
    }
}

/// A row up to a column.
#[inline(always)]
fn upto(row: &[f32], end: usize) -> &[f32] {
    &row[..end.min(row.len())]
}

/// A cell's maths, generic over the level.
pub(crate) trait Kernel: Copy + Send + Sync + 'static {
    const TRAITS: Traits;

    /// Phase 0 or 1 of a step. `NV` vectors are the panel's width.
    fn forward<S: Lanes, const M: usize, const NV: usize>(simd: S, phase: usize, t: Panel<'_, '_, M>);

    /// Phase 0 or 1 of a step backward.
    fn backward<S: Lanes, const M: usize, const NV: usize>(simd: S, phase: usize, t: &mut Backward<'_, M>);
}

/// What a cell's kernel needs from the buffers.
pub(crate) const fn traits_of(cell: Cell) -> Traits {
    match cell {
        Cell::Rnn(_) => rnn::Tanh::TRAITS,
        Cell::Lstm => lstm::Lstm::TRAITS,
        Cell::Gru(Reset::After) => gru::After::TRAITS,
        Cell::Gru(Reset::Before) => gru::Before::TRAITS,
    }
}

/// The inputs' part of a panel's sums.
#[inline(always)]
pub(crate) fn input_sums<S: Lanes, const M: usize, const NV: usize>(
    simd: S,
    t: &mut Panel<'_, '_, M>,
) -> [[S::V; NV]; M] {
    let mut acc = [[simd.splat(0.0); NV]; M];
    match &t.tile.input {
        Input::Gates => {
            for i in 0..M {
                load_row(simd, t.gates(i), &mut acc[i]);
            }
        }
        Input::Table(rows) => {
            for i in 0..M {
                load_row(simd, t.of_sums(rows.row(i)), &mut acc[i]);
            }
        }
        Input::Product { x, depth, panel, bias } => {
            let mut start = [simd.splat(0.0); NV];
            load_row(simd, t.of_sums(bias), &mut start);
            acc = [start; M];
            multiply(simd, x, *depth, t.weights(panel, *depth), &mut acc);
        }
    }
    acc
}

/// Adds what the recurrent weights make of a panel's rows to its sums.
#[inline(always)]
pub(crate) fn add_recurrent<S: Lanes, const M: usize, const NV: usize>(
    simd: S,
    t: &Panel<'_, '_, M>,
    acc: &mut [[S::V; NV]; M],
) {
    let Forward { made: Some(made), .. } = &*t.tile else {
        let Forward { a, depth, panel, .. } = &*t.tile;
        return multiply(simd, a, *depth, t.weights(panel, *depth), acc);
    };
    for i in 0..M {
        let row = t.of_sums(made.row(i));
        for j in 0..NV {
            acc[i][j] = simd.add(acc[i][j], simd.load(&row[j * S::N..]));
        }
    }
}

/// Zoneout of a forward tile, once its cell has run: `s` of the new value and the rest of the last one.
#[inline(always)]
pub(crate) fn zone_out<S: Lanes, const M: usize>(simd: S, t: &mut Forward<'_, M>) {
    let Factors { hidden, cell, .. } = t.factors;
    if hidden.width() == 0 && cell.width() == 0 {
        return;
    }
    for i in 0..M {
        for (share, past, now) in [(hidden, t.past_h, t.h.row(i)), (cell, t.past_c, t.c.row(i))] {
            if share.width() == 0 {
                continue;
            }
            let (share, past) = (share.row(i).chunks_exact(S::N), past.row(i).chunks_exact(S::N));
            for ((share, past), now) in share.zip(past).zip(now.chunks_exact_mut(S::N)) {
                let share = simd.load(share);
                let rest = simd.sub(simd.splat(1.0), share);
                let mixed = simd.fma(share, simd.load(now), simd.mul(rest, simd.load(past)));
                simd.store(now, mixed);
            }
        }
        if hidden.width() > 0 {
            let real = t.y.width();
            t.y.row(i).copy_from_slice(&t.h.row(i)[..real]);
        }
    }
}

/// What zoneout leaves of a gradient for the new value, and what goes on to the last one.
#[inline(always)]
pub(crate) fn zoned<S: Lanes, const M: usize>(
    simd: S,
    d: S::V,
    share: &Tile<'_, M>,
    row: usize,
    at: usize,
) -> (S::V, S::V) {
    let new = times(simd, d, share, row, at);
    (new, simd.sub(d, new))
}

/// The gradient of a tile's new `h`: what comes from the output, past the product and through it, and then
/// through zoneout, which leaves its part for the last `h` in `carry_h`.
#[inline(always)]
pub(crate) fn gradient_of_h<S: Lanes, const M: usize, const NV: usize>(
    simd: S,
    t: &mut Backward<'_, M>,
    always_carries: bool,
) -> [[S::V; NV]; M] {
    let mut dh = [[simd.splat(0.0); NV]; M];
    let (seen, zones) = (t.factors.recurrent, t.factors.hidden);
    if let Some(next) = &t.next {
        multiply(simd, next, t.depth, t.panel, &mut dh);
        // Only what the product gives goes through its mask.
        if seen.width() > 0 {
            for i in 0..M {
                for j in 0..NV {
                    dh[i][j] = simd.mul(dh[i][j], simd.load(&seen.row(i)[j * S::N..]));
                }
            }
        }
    }
    // After the product, which need not wait for the memory then.
    if let Some(dy) = &t.dy {
        for i in 0..M {
            let mut from = [simd.splat(0.0); NV];
            load_row(simd, dy.row(i), &mut from);
            for j in 0..NV {
                dh[i][j] = simd.add(dh[i][j], from[j]);
            }
        }
    }
    if always_carries || t.next.is_none() || zones.width() > 0 {
        for i in 0..M {
            for j in 0..NV {
                dh[i][j] = simd.add(dh[i][j], simd.load(&t.carry_h.row(i)[j * S::N..]));
            }
        }
    }
    if zones.width() > 0 {
        for i in 0..M {
            for j in 0..NV {
                let (new, past) = zoned(simd, dh[i][j], &zones, i, j * S::N);
                dh[i][j] = new;
                simd.store(&mut t.carry_h.row(i)[j * S::N..], past);
            }
        }
    }
    dh
}
