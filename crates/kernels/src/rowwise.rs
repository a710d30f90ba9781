//! The time loop of cells with options: at each step a product, then a pass over whole rows of its sums.
//!
//! ```text
//!            x[t] W                        shares of units           shares of rows
//!              |                                 |                         |
//!   h[t-1] --> U ---------------------------> sums[t] ----- barrier ---> cell ----- barrier ---> h[t]
//! ```
//!
//! Inputs are projected ahead, or read from a table of projected rows. A GRU that resets before its product does
//! both halves twice a step, and so does an LSTM that projects `h`: its second product is that of the projection, and
//! the rows after it are `h`. Backward likewise: a product with the next step's gate gradients, then the rows.

use crate::cell::rowwise::{RowBackward, RowForward, Terms, kept_floats, shared_floats};
use crate::chance::{Chance, FactorRows, StepMask};
use crate::disjoint::{FrameMap, Geometry, Keep, Matrix, Part, Rows, Split, Walk};
use crate::gemm::{Product, Start, tiles, with_rows, with_vectors};
use crate::grid::{geometry, own_ranks};
use crate::memory::Buffer;
use crate::pack::Packed;
use crate::shape::{Batch, Cell, Layer, Reset};
use crate::simd::Lanes;
use crate::sizes::Sizes;
use crate::team::{self, Worker};
use std::ops::Range;

/// What a tape holds for cells with options.
#[derive(Default)]
pub(crate) struct RowBuffers {
    /// See [`Terms`].
    pub(crate) terms: Buffer,
    /// `[F or 2 B, ..]`: what backward needs of a row beside gates and states.
    pub(crate) kept: Buffer,
    /// `[2 B, gates]`: a step's products, and backward `[2 B, units]`.
    pub(crate) sums: Buffer,
    /// `[2 B, units]`: the second product of a step, where there is one.
    pub(crate) late: Buffer,
    /// `[F or 2 B, units]`: `o * tanh(c)` of an LSTM that projects it to `h`.
    pub(crate) full: Buffer,
    /// `[B, ..]`: gradients of what all rows share, and `[B, units]` those of the initial `h`.
    pub(crate) shared: Buffer,
    pub(crate) initial: Buffer,
}

/// The same workers, with rows dealt.
pub(crate) fn by_row<'a>(units: &Geometry<'a>) -> Geometry<'a> {
    let split = if units.split == Split::Ranks { Split::Ranks } else { Split::Rows };
    Geometry { split, ..*units }
}

/// Floats from row to row of rows of `floats`.
fn stride(floats: usize) -> usize {
    floats.next_multiple_of(16)
}

/// Whether a step has a second product, between two passes over the rows.
fn goes_twice(layer: &Layer) -> bool {
    layer.cell == Cell::Gru(Reset::Before) || layer.options.projection.is_some()
}

/// Rows of what a step keeps, behind `lead` others.
pub(crate) fn kept_rows<'a>(layer: &Layer, sizes: &Sizes, lead: usize) -> Rows<'a> {
    whole_rows(kept_floats(layer, sizes), lead)
}

/// Rows that nobody shares.
fn whole_rows<'a>(floats: usize, lead: usize) -> Rows<'a> {
    Rows { keep: Keep::All, lead, stride: stride(floats), group: floats, columns: floats, map: None }
}

/// A forward pass.
pub(crate) struct RowPass<'a> {
    pub(crate) layer: &'a Layer,
    pub(crate) batch: &'a Batch,
    pub(crate) sizes: Sizes,
    /// Projected rows and where each frame's starts; `None` where `gates` holds the projection.
    pub(crate) table: Option<(&'a [f32], &'a [usize])>,
    /// One for each phase.
    pub(crate) recurrent: [Packed<'a>; 2],
    pub(crate) terms: Terms<'a>,
    pub(crate) gates: &'a mut [f32],
    pub(crate) h: &'a mut [f32],
    /// `[2 B, units]`: the last two states as products read them, where those are not `h`.
    pub(crate) seen: &'a mut [f32],
    pub(crate) chance: &'a Chance,
    pub(crate) c: &'a mut [f32],
    pub(crate) extra: &'a mut [f32],
    pub(crate) kept: &'a mut Buffer,
    pub(crate) sums: &'a mut Buffer,
    pub(crate) late: &'a mut Buffer,
    pub(crate) full: &'a mut Buffer,
    pub(crate) y: &'a mut [f32],
    pub(crate) y_map: &'a FrameMap,
    pub(crate) taped: bool,
}

/// A worker's part of the products: `out = a · panels` for its unit groups of all its ranks.
struct Products<'a, S> {
    simd: S,
    worker: &'a Worker<'a>,
    geometry: Geometry<'a>,
}

impl<S: Lanes> Products<'_, S> {
    /// Panel `p` gives the columns of group `p`, from the `first`-th of them on. `at` is the step to write.
    #[allow(clippy::too_many_arguments)]
    fn run(
        &self,
        weights: &Packed<'_>,
        depth: usize,
        a: (&Part<'_>, Option<usize>),
        out: &mut Part<'_>,
        at: Option<usize>,
        first: usize,
        ranks: Range<usize>,
    ) {
        let (start, gap, own) = own_ranks(&self.geometry, self.worker, ranks);
        let panels = weights.panels;
        for p in self.geometry.own_groups(self.worker) {
            let (panel, nv) = (weights.panel(p), panels.vectors_of(p));
            for (k, m) in tiles::<S>(own, nv) {
                let rank = start + k * gap;
                with_rows!(m, M => with_vectors!(nv, NV => {
                    let reads = a.0.readers(self.geometry.ranks::<M>(self.worker, rank, gap));
                    let writes = self.geometry.ranks::<M>(self.worker, rank, gap);
                    let mut out = out.own(at, writes, &(p..p + 1));
                    self.simd.call(Product::<M, NV> {
                        a: a.0.last_closed(a.1, reads),
                        depth,
                        panel,
                        start: Start::Zero,
                        out: out.part(first, NV * S::N),
                    });
                }));
            }
        }
    }
}

impl RowPass<'_> {
    pub(crate) fn run<S: Lanes>(self, simd: S) {
        let RowPass { layer, batch, sizes, terms, taped, .. } = self;
        let (b, hidden) = (batch.sequences(), layer.hidden);
        let [first, second] = self.recurrent;
        let span = first.panels.width * sizes.groups / first.panels.vectors;
        let units = geometry(batch, &sizes, sizes.groups.div_ceil(span));
        let rows = by_row(&units);
        let (twice, projects) = (goes_twice(layer), layer.options.projection.is_some());
        // The second product has columns of its own: units once more, or values of a projected `h`.
        let late_units = Geometry { groups: if twice { second.panels.count() } else { 0 }, ..units };
        let unit_rows = Rows {
            keep: if taped { Keep::All } else { Keep::Two },
            lead: b,
            stride: sizes.unit_stride,
            group: span * sizes.lanes,
            columns: sizes.units(),
            map: None,
        };
        let frames = Rows { keep: Keep::All, lead: 0, ..unit_rows };
        let gate_rows = Rows {
            stride: sizes.gate_stride,
            group: unit_rows.group * sizes.gates,
            columns: sizes.units() * sizes.gates,
            ..frames
        };
        let absent = Rows { stride: 0, group: 0, columns: 0, ..unit_rows };
        let present = |present: bool, rows| if present { rows } else { absent };
        let two = |rows| Rows { keep: Keep::Two, lead: b, ..rows };
        let kept_rows = Rows { keep: unit_rows.keep, ..kept_rows(layer, &sizes, if taped { 0 } else { b }) };
        let kept = self.kept.ensure(if taped { batch.frames() } else { 2 * b } * kept_rows.stride);
        let drops = self.chance.has(StepMask::Recurrent);
        let h_rows = Rows { columns: sizes.h_units(), ..unit_rows };
        let full_rows = Rows { lead: if taped { 0 } else { b }, ..unit_rows };
        let full = match (projects, taped) {
            (true, true) => batch.frames() * sizes.unit_stride,
            (true, false) => 2 * b * sizes.unit_stride,
            (false, _) => 0,
        };

        let sums = Matrix::new(self.sums.ensure(2 * b * sizes.gate_stride), units, two(gate_rows));
        let late = if twice { 2 * b * sizes.unit_stride } else { 0 };
        let late_rows = Rows { group: second.panels.width * sizes.lanes, ..two(h_rows) };
        let late = Matrix::new(self.late.ensure(late), late_units, present(twice, late_rows));
        let full = Matrix::new(self.full.ensure(full), rows, present(projects, full_rows));
        let gates = Matrix::new(self.gates, rows, gate_rows);
        let h = Matrix::new(self.h, rows, h_rows);
        let seen = Matrix::new(self.seen, rows, present(drops, two(h_rows)));
        let c = Matrix::new(self.c, rows, present(layer.cell.has_cell_state(), unit_rows));
        let has_extra = !self.extra.is_empty();
        let extra = Matrix::new(self.extra, rows, present(has_extra, frames));
        let kept = Matrix::new(kept, rows, kept_rows);
        let y = Rows { columns: layer.output(), map: Some(self.y_map), ..frames };
        let y = Matrix::new(self.y, rows, y);

        team::run_on(rows.workers, |worker| {
            let mut walk = RowWalk {
                simd,
                worker,
                layer,
                geometry: rows,
                terms,
                table: self.table,
                drops,
                gates: gates.private(worker),
                h: if drops { h.private(worker) } else { h.published(worker, Walk::Up) },
                seen: if drops { seen.published(worker, Walk::Up) } else { seen.private(worker) },
                c: c.private(worker),
                extra: match projects {
                    false if twice => extra.published(worker, Walk::Up),
                    _ => extra.private(worker),
                },
                full: full.published(worker, Walk::Up),
                kept: kept.private(worker),
                y: y.private(worker),
                factors: FactorRows::new(self.chance, sizes.units()),
            };
            let products = Products { simd, worker, geometry: units };
            let late_products = Products { simd, worker, geometry: late_units };
            let mut sums = sums.published(worker, Walk::Up);
            let mut late = late.published(worker, Walk::Up);
            for step in 0..batch.steps() {
                let ranks = 0..batch.alive(step);
                let past = if drops { &walk.seen } else { &walk.h };
                let past = (past, step.checked_sub(1));
                products.run(&first, layer.output(), past, &mut sums, Some(step), 0, ranks.clone());
                sums.publish(worker);
                walk.rows(step, 0, &sums);
                if twice {
                    let read = if projects { &mut walk.full } else { &mut walk.extra };
                    read.publish(worker);
                    let read = (&*read, Some(step));
                    late_products.run(&second, hidden, read, &mut late, Some(step), 0, ranks);
                    late.publish(worker);
                    walk.rows(step, 1, &late);
                }
                if drops { &mut walk.seen } else { &mut walk.h }.publish(worker);
            }
        });
    }
}

/// One worker's rows on their way through time.
struct RowWalk<'a, S> {
    simd: S,
    worker: &'a Worker<'a>,
    layer: &'a Layer,
    geometry: Geometry<'a>,
    terms: Terms<'a>,
    table: Option<(&'a [f32], &'a [usize])>,
    /// Whether products read `seen` in place of `h`.
    drops: bool,
    gates: Part<'a>,
    h: Part<'a>,
    seen: Part<'a>,
    c: Part<'a>,
    extra: Part<'a>,
    full: Part<'a>,
    kept: Part<'a>,
    y: Part<'a>,
    factors: FactorRows<'a>,
}

impl<S: Lanes> RowWalk<'_, S> {
    fn rows(&mut self, step: usize, phase: usize, sums: &Part<'_>) {
        let Geometry { starts, groups, .. } = self.geometry;
        let start = starts[step];
        let all = 0..groups;
        let (first, gap, own) = own_ranks(&self.geometry, self.worker, 0..starts[step + 1] - start);
        let before = (step.checked_sub(1), Some(step));
        for rank in (0..own).map(|k| first + k * gap) {
            let ranks = self.geometry.ranks::<1>(self.worker, rank, gap);
            let sums = sums.last_closed(Some(step), sums.readers(ranks));
            let (past_h, mut h) = if self.drops {
                self.h.own_pair(before, ranks, &all)
            } else {
                self.h.past_and_own(step, ranks, &all)
            };
            let (past_c, mut c) = self.c.own_pair(before, ranks, &all);
            let mut gates = self.gates.own(Some(step), ranks, &all);
            let mut kept = self.kept.own(Some(step), ranks, &(0..1));
            // In the second phase the first one's extra values are closed.
            let (mut last, mut full, mut seen, mut y) = Default::default();
            let done = phase == 1 || !goes_twice(self.layer);
            if phase == 0 {
                last = Some(self.extra.own(Some(step), ranks, &all));
                if self.layer.options.projection.is_some() {
                    full = Some(self.full.own(Some(step), ranks, &all));
                }
            }
            if done {
                seen = Some(self.seen.own(Some(step), ranks, &all));
                y = Some(self.y.own(Some(step), ranks, &all));
            }
            let width = self.terms.real.len();
            self.simd.call(RowForward {
                layer: self.layer,
                phase,
                terms: self.terms,
                x: self.table.filter(|_| phase == 0).map(|(rows, at)| &rows[at[start + rank]..]),
                sums: sums.row(0),
                past_h: past_h.row(0),
                past_c: past_c.row(0),
                gates: gates.row(0),
                kept: kept.row(0),
                h: full.as_mut().unwrap_or(&mut h).row(0),
                c: c.row(0),
                extra: last.as_mut().map_or(&mut [], |extra| extra.row(0)),
                y: y.as_mut().map_or(&mut [], |y| y.row(0)),
                seen: seen.as_mut().map_or(&mut [], |seen| seen.row(0)),
                factors: self.factors.tile(self.simd, start, ranks, (0, width)),
            });
        }
    }
}

/// The way back: from gradients of the output to gradients of the gates' sums and of the initial state.
pub(crate) struct RowPassBack<'a> {
    pub(crate) layer: &'a Layer,
    pub(crate) batch: &'a Batch,
    pub(crate) sizes: Sizes,
    /// One for each phase.
    pub(crate) recurrent_weights: [Packed<'a>; 2],
    pub(crate) terms: Terms<'a>,
    pub(crate) dy: Option<&'a [f32]>,
    pub(crate) dy_starts: &'a [usize],
    pub(crate) h: &'a [f32],
    pub(crate) c: &'a [f32],
    pub(crate) extra: &'a [f32],
    pub(crate) kept: &'a mut Buffer,
    pub(crate) gates: &'a mut [f32],
    pub(crate) recurrent: &'a mut [f32],
    pub(crate) carry_h: &'a mut [f32],
    pub(crate) carry_c: &'a mut [f32],
    pub(crate) chance: &'a Chance,
    pub(crate) through: &'a mut Buffer,
    pub(crate) late: &'a mut Buffer,
    pub(crate) shared: &'a mut Buffer,
    pub(crate) initial: &'a mut Buffer,
}

impl RowPassBack<'_> {
    /// Leaves in `carry_h` what does not flow through the first step's product, and in `initial` what does.
    pub(crate) fn run<S: Lanes>(self, simd: S) {
        let RowPassBack { layer, batch, sizes, terms, dy, dy_starts, .. } = self;
        let b = batch.sequences();
        // Columns of the product are units here, four groups a panel.
        const SPAN: usize = 4;
        let units = geometry(batch, &sizes, sizes.groups.div_ceil(SPAN));
        let rows = by_row(&units);
        let values = Geometry { groups: sizes.h_groups.div_ceil(SPAN), ..units };
        let unit_rows = Rows {
            keep: Keep::All,
            lead: b,
            stride: sizes.unit_stride,
            group: SPAN * sizes.lanes,
            columns: sizes.units(),
            map: None,
        };
        let gate_rows = Rows {
            lead: 0,
            stride: sizes.gate_stride,
            group: unit_rows.group * sizes.gates,
            columns: sizes.units() * sizes.gates,
            ..unit_rows
        };
        let absent = Rows { stride: 0, group: 0, columns: 0, ..unit_rows };
        let present = |present: bool, rows| if present { rows } else { absent };
        let two = Rows { keep: Keep::Two, ..unit_rows };
        let kept_rows = kept_rows(layer, &sizes, 0);
        let shared_rows = whole_rows(shared_floats(layer, &sizes), b);
        let (twice, apart) = (goes_twice(layer), layer.cell == Cell::Gru(Reset::After));
        let h_rows = Rows { columns: sizes.h_units(), ..unit_rows };
        let shared = self.shared.ensure(b * shared_rows.stride);
        shared.fill(0.0);
        let late = if twice { 2 * b * sizes.unit_stride } else { 0 };

        let through = self.through.ensure(2 * b * sizes.unit_stride);
        let through = Matrix::new(through, values, Rows { keep: Keep::Two, ..h_rows });
        let late = Matrix::new(self.late.ensure(late), units, present(twice, two));
        let initial = Matrix::new(self.initial.ensure(b * sizes.unit_stride), values, h_rows);
        let gates = Matrix::new(self.gates, rows, gate_rows);
        let recurrent = match (apart, twice) {
            (true, _) => gate_rows,
            (false, true) => Rows { lead: 0, ..h_rows },
            (false, false) => absent,
        };
        let recurrent = Matrix::new(self.recurrent, rows, recurrent);
        let kept = Matrix::new(self.kept.ensure(batch.frames() * kept_rows.stride), rows, kept_rows);
        let shared = Matrix::new(shared, rows, shared_rows);
        let carry_h = Matrix::new(self.carry_h, rows, h_rows);
        let carry_c = Matrix::new(self.carry_c, rows, present(layer.cell.has_cell_state(), unit_rows));
        let (h, c, extra) = (self.h, self.c, self.extra);

        team::run_on(rows.workers, |worker| {
            let products = Products { simd, worker, geometry: values };
            let late_products = Products { simd, worker, geometry: units };
            let mut through = through.published(worker, Walk::Down);
            let mut late = late.published(worker, Walk::Down);
            let mut gates = if apart { gates.private(worker) } else { gates.published(worker, Walk::Down) };
            let mut recurrent = match apart || twice {
                true => recurrent.published(worker, Walk::Down),
                false => recurrent.private(worker),
            };
            let mut kept = kept.private(worker);
            let mut shared = shared.private(worker);
            let (mut carry_h, mut carry_c) = (carry_h.private(worker), carry_c.private(worker));
            let mut factors = FactorRows::new(self.chance, sizes.units());
            let mut room = vec![0.0; 2 * sizes.units()];
            let all = 0..rows.groups;
            let [first, second] = self.recurrent_weights;
            for step in (0..batch.steps()).rev() {
                let (alive, going_on) = (batch.alive(step), batch.alive(step + 1));
                let start = batch.starts()[step];
                if going_on > 0 {
                    let seen = (if apart { &recurrent } else { &gates }, Some(step + 1));
                    let depth = first.panels.depth;
                    products.run(&first, depth, seen, &mut through, Some(step), 0, 0..going_on);
                }
                through.publish(worker);
                for phase in 0..if twice { 2 } else { 1 } {
                    if phase == 1 {
                        recurrent.publish(worker);
                        let (seen, depth) = ((&recurrent, Some(step)), second.panels.depth);
                        late_products.run(&second, depth, seen, &mut late, Some(step), 0, 0..alive);
                        late.publish(worker);
                    }
                    let (from, gap, own) = own_ranks(&rows, worker, 0..alive);
                    for rank in (0..own).map(|k| from + k * gap) {
                        let ranks = rows.ranks::<1>(worker, rank, gap);
                        let product = if phase == 1 { &late } else { &through };
                        let product = (phase == 1 || rank < going_on)
                            .then(|| product.last_closed(Some(step), product.readers(ranks)));
                        let frame = start + rank;
                        let past = match step.checked_sub(1) {
                            Some(past) => b + batch.starts()[past] + rank,
                            None => rank,
                        } * sizes.unit_stride;
                        let mut gates = gates.own(Some(step), ranks, &all);
                        let mut taken = (phase == 0).then(|| recurrent.own(Some(step), ranks, &all));
                        let row = |data: &'_ [f32], at: usize| -> Range<usize> {
                            at.min(data.len())..(at + sizes.units()).min(data.len())
                        };
                        simd.call(RowBackward {
                            layer,
                            phase,
                            terms,
                            dy: dy.map(|dy| &dy[dy_starts[frame]..][..layer.output()]),
                            through: product.as_ref().map(|tile| tile.row(0)),
                            past_h: &h[row(h, past)],
                            past_c: &c[row(c, past)],
                            extra: &extra[row(extra, frame * sizes.unit_stride)],
                            kept: kept.own(Some(step), ranks, &(0..1)).row(0),
                            gates: gates.row(0),
                            recurrent: taken.as_mut().map_or(&mut [], |taken| taken.row(0)),
                            carry_h: carry_h.own(None, ranks, &all).row(0),
                            carry_c: carry_c.own(None, ranks, &all).row(0),
                            shared: shared.own(None, ranks, &(0..1)).row(0),
                            room: &mut room,
                            factors: factors.tile(simd, start, ranks, (0, sizes.units())),
                        });
                    }
                }
                if apart { &mut recurrent } else { &mut gates }.publish(worker);
            }
            if batch.steps() > 0 {
                let mut initial = initial.private(worker);
                let seen = (if apart { &recurrent } else { &gates }, Some(0));
                products.run(&first, first.panels.depth, seen, &mut initial, None, 0, 0..batch.alive(0));
            }
        });
    }
}

/// Adds up what each sequence left of the gradients that all rows share, in the order of the ranks, and hands it
/// out: `options` as in [`Layer::option_length`]; the biases' are added where they are normalised, as those of sums
/// no longer are theirs.
pub(crate) fn share_out(
    layer: &Layer,
    batch: &Batch,
    sizes: &Sizes,
    shared: &[f32],
    options: &mut [f32],
    (bias_input, bias_recurrent): (&mut [f32], &mut [f32]),
) {
    let floats = shared_floats(layer, sizes);
    if floats == 0 {
        return;
    }
    let mut sums = vec![0.0f32; floats];
    for row in shared.chunks_exact(stride(floats)).take(batch.sequences()) {
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
    let (hidden, units, gates) = (layer.hidden, sizes.units(), sizes.gates);
    let (of_gain, rest) = sums.split_at(gates * units);
    let (of_bias, rest) = rest.split_at(gates * units);
    let column =
        |gate: usize, unit: usize| (unit / sizes.lanes * gates + gate) * sizes.lanes + unit % sizes.lanes;
    let mut options = options[..layer.term_length()].chunks_exact_mut(hidden);
    if layer.options.norm {
        // That of a bias inside the reset gate's reach was summed with its weights'.
        let inside = layer.cell == Cell::Gru(Reset::After);
        for gate in 0..gates {
            let gain = options.next().expect("a gain for each gate");
            for (unit, gain) in gain.iter_mut().enumerate() {
                *gain = of_gain[column(gate, unit)];
                let bias = of_bias[column(gate, unit)];
                bias_input[gate * hidden + unit] = bias;
                if !(inside && gate == 2) {
                    bias_recurrent[gate * hidden + unit] = bias;
                }
            }
        }
    }
    let skip = if layer.options.norm && layer.cell.has_cell_state() { 0 } else { 2 };
    for (row, to) in rest.chunks_exact(units).skip(skip).zip(options) {
        to.copy_from_slice(&row[..hidden]);
    }
}
