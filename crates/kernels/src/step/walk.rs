//! What the workers of a team do of a step: layer after layer, each its share.

use super::branches::Given;
use super::{StepLayer, StepWeights, Stepper};
use crate::cell::rowwise::{RowForward, Terms};
use crate::cell::{Forward, Input, Kernel, gru, lstm, rnn};
use crate::chance::Factors;
use crate::disjoint::{Geometry, Keep, Matrix, Part, Ranks, Rows, Split, Tile, TileMut, Walk};
use crate::gemm::{Product, Start, tiles, with_rows, with_vectors};
use crate::grid::ForwardJob;
use crate::memory::Buffer;
use crate::pack::Panels;
use crate::quant::{self, ByteProduct, Quantize, QuantizedRows, QuantizedWeight};
use crate::rowwise::{RowBuffers, by_row, kept_rows};
use crate::shape::{Activation, Cell, Layer, Reset};
use crate::simd::{ByteLevel, Dispatch, Lanes, Quad};
use crate::sizes::Sizes;
use crate::team::{self, Worker};
use std::marker::PhantomData;

/// One layer's part of a step, as all workers see it.
pub(super) struct Stage<'a> {
    layer: Layer,
    sizes: Sizes,
    weights: &'a StepWeights,
    input_bias: &'a [f32],
    recurrent_bias: &'a [f32],
    geometry: Geometry<'a>,
    past_h: &'a [f32],
    past_c: &'a [f32],
    shares: &'a [Vec<f32>; 2],
    gates: Matrix<'a>,
    extra: Matrix<'a>,
    h: Matrix<'a>,
    c: Matrix<'a>,
    y: Matrix<'a>,
    rows: Option<RowStage<'a>>,
    /// Products that are made, where streams branch.
    given: Option<Given<'a>>,
}

/// What a cell with options has beside.
struct RowStage<'a> {
    /// Who has which rows.
    geometry: Geometry<'a>,
    terms: Terms<'a>,
    /// Products with the input and with the last `h`, and with `r * h`.
    x: Matrix<'a>,
    sums: Matrix<'a>,
    late: Matrix<'a>,
    kept: Matrix<'a>,
}

impl<'a> Stage<'a> {
    fn new(
        layer: &'a mut StepLayer,
        given: Option<Given<'a>>,
        starts: &'a [usize; 2],
        split: Split,
        workers: usize,
    ) -> Stage<'a> {
        let batch = starts[1];
        let StepLayer {
            layer, sizes, weights, bias, gates, extra, h, c, y, shares, rows: row_buffers, ..
        } = layer;
        let panels = weights.panels(0);
        // Panels of all the products cover the same units; one of them is a group.
        let geometry = Geometry { starts, split, groups: panels.count(), workers };
        let shares_units = geometry;
        let unit = panels.width / sizes.gates * sizes.lanes;
        let units = Rows {
            keep: Keep::All,
            lead: 0,
            stride: sizes.unit_stride,
            group: unit,
            columns: sizes.units(),
            map: None,
        };
        let gate_rows = Rows {
            stride: sizes.gate_stride,
            group: unit * sizes.gates,
            columns: sizes.units() * sizes.gates,
            ..units
        };
        let columns = sizes.gates * sizes.units();
        let (input_bias, recurrent_bias) = bias.as_ref()[..2 * columns].split_at(columns);
        let ([past_h, h], [past_c, c]) = (h, c);
        // Only where rows are not computed whole do those who share units write states and gates.
        let geometry = if layer.is_rowwise() { by_row(&shares_units) } else { shares_units };
        let rows = layer.is_rowwise().then(|| {
            let RowBuffers { terms, kept, sums, late, shared, .. } = row_buffers;
            let kept_rows = kept_rows(layer, sizes, 0);
            RowStage {
                geometry,
                terms: Terms::of(layer, sizes, terms.as_ref(), (input_bias, recurrent_bias)),
                x: Matrix::new(shared.ensure(batch * sizes.gate_stride), shares_units, gate_rows),
                sums: Matrix::new(sums.ensure(batch * sizes.gate_stride), shares_units, gate_rows),
                late: Matrix::new(late.ensure(batch * sizes.unit_stride), shares_units, units),
                kept: Matrix::new(kept.ensure(batch * kept_rows.stride), geometry, kept_rows),
            }
        });
        Stage {
            layer: *layer,
            sizes: *sizes,
            weights,
            input_bias,
            recurrent_bias,
            geometry: shares_units,
            past_h: past_h.as_ref(),
            past_c: past_c.as_ref(),
            shares,
            gates: Matrix::new(gates.ensure(batch * sizes.gate_stride), geometry, gate_rows),
            extra: Matrix::new(extra.ensure(batch * sizes.unit_stride), geometry, units),
            h: Matrix::new(h.ensure(batch * sizes.unit_stride), geometry, units),
            c: Matrix::new(c.ensure(batch * sizes.unit_stride), geometry, units),
            y: Matrix::new(y, geometry, Rows { stride: layer.hidden, columns: layer.hidden, ..units }),
            given: given.filter(|_| rows.is_none()),
            rows,
        }
    }
}

impl Stage<'_> {
    /// What zoneout multiplies with: its mean, for all ranks the same.
    #[inline(always)]
    fn means<const M: usize>(&self, first: usize, width: usize) -> Factors<'_, M> {
        let [hidden, cell] = self.shares.each_ref().map(|shares| match shares.is_empty() {
            true => Tile::of(&[], &[0; M], 0),
            false => Tile::of(shares, &[first; M], width),
        });
        Factors { hidden, cell, ..Factors::none() }
    }
}

/// An empty list of another lifetime in the memory of this one.
fn recycle<'a>(mut stages: Vec<Stage<'_>>) -> Vec<Stage<'a>> {
    stages.clear();
    stages.into_iter().map(|_| unreachable!("the list is empty")).collect()
}

pub(super) struct StepJob<'a> {
    pub(super) stepper: &'a mut Stepper,
    pub(super) workers: usize,
    /// `None`: layer 0 reads tokens.
    pub(super) x: Option<&'a [f32]>,
}

impl Dispatch for StepJob<'_> {
    type Output = ();

    fn run<S: Lanes>(self, simd: S) {
        let StepJob { stepper, workers, x } = self;
        let split = stepper.split(workers);
        let Stepper { layers, starts, byte_level, rounded, branches, stages: spare, .. } = stepper;
        let mut stages = recycle(std::mem::take(spare));
        stages.extend(layers.iter_mut().enumerate().map(|(place, layer)| {
            let tokens = place == 0 && x.is_none();
            let given =
                branches.as_ref().map(|branches| branches.given(place, layer.sizes.gate_stride, tokens));
            Stage::new(layer, given, starts, split, workers)
        }));
        let x = x.unwrap_or_default();
        let (quads, scales) = rounded.parts(workers);
        team::run_on(workers, |worker| {
            let mut walk = Walker {
                simd,
                worker,
                byte_level: *byte_level,
                quads: quads.take(worker).1,
                scales: scales.take(worker).1,
            };
            let mut below = None;
            for stage in &stages {
                let x = match &below {
                    None => Source::Slice { data: x, stride: stage.layer.input },
                    Some(below) => Source::Closed(below),
                };
                let h = match stage.layer.cell {
                    _ if stage.rows.is_some() => walk.layer_by_row(stage, &x),
                    Cell::Rnn(Activation::Relu) => walk.layer::<rnn::Relu>(stage, &x),
                    Cell::Rnn(_) => walk.layer::<rnn::Tanh>(stage, &x),
                    Cell::Lstm => walk.layer::<lstm::Lstm>(stage, &x),
                    Cell::Gru(Reset::After) => walk.layer::<gru::After>(stage, &x),
                    Cell::Gru(Reset::Before) => walk.layer::<gru::Before>(stage, &x),
                };
                below = Some(h);
            }
        });
        *spare = recycle(stages);
        for step in layers {
            if step.layer.cell.has_cell_state() {
                let rows = step.c[1].as_ref().chunks_exact(step.sizes.unit_stride);
                for (dense, row) in step.dense_c.chunks_exact_mut(step.layer.hidden).zip(rows) {
                    dense.copy_from_slice(&row[..step.layer.hidden]);
                }
            }
            step.h.swap(0, 1);
            step.c.swap(0, 1);
        }
    }
}

/// Rows that a product reads.
enum Source<'p, 'a> {
    /// That nobody writes.
    Slice { data: &'a [f32], stride: usize },
    /// Of a part whose one step is closed.
    Closed(&'p Part<'a>),
}

impl<'a> Source<'_, 'a> {
    /// The ranks' rows, at least `width` columns of each.
    #[inline(always)]
    fn tile<const M: usize>(&self, ranks: Ranks<M>, width: usize) -> Tile<'a, M> {
        match *self {
            Source::Slice { data, stride } => Tile::of(data, &ranks.each().map(|rank| rank * stride), width),
            Source::Closed(part) => part.closed(Some(0), part.readers(ranks)),
        }
    }
}

/// One worker on its way up the stack.
struct Walker<'a, S> {
    simd: S,
    worker: &'a Worker<'a>,
    byte_level: ByteLevel,
    /// This worker's room for rows in eight bits.
    quads: &'a mut [Quad],
    scales: &'a mut [f32],
}

/// What a worker writes of a layer.
struct Parts<'a> {
    gates: Part<'a>,
    extra: Part<'a>,
    h: Part<'a>,
    c: Part<'a>,
    y: Part<'a>,
}

impl<S: Lanes> Walker<'_, S> {
    /// This worker's part of a layer's step. Gives `h` with the step closed.
    fn layer<'a, K: Kernel>(&mut self, stage: &'a Stage<'a>, x: &Source<'_, '_>) -> Part<'a> {
        let worker = self.worker;
        let mut parts = Parts {
            gates: stage.gates.private(worker),
            // Only a cell of two phases reads others' extra values.
            extra: match K::TRAITS.phases {
                2 => stage.extra.published(worker, Walk::Up),
                _ => stage.extra.private(worker),
            },
            h: stage.h.published(worker, Walk::Up),
            c: stage.c.private(worker),
            y: stage.y.private(worker),
        };
        // In floats, a cell of one phase multiplies its inputs in passing.
        let fuses = K::TRAITS.phases == 1 && matches!(stage.weights, StepWeights::F32 { .. });
        match stage.given {
            _ if fuses => {}
            Some(given) if given.has_tokens() => self.copy_tokens(stage, &given, &mut parts.gates),
            _ => self.product(stage, 0, x, stage.input_bias, &mut parts.gates),
        }
        for phase in 0..K::TRAITS.phases {
            match stage.weights {
                StepWeights::F32 { panels, packed } => {
                    self.recur::<K>(stage, &mut parts, phase, fuses.then_some(x), (panels, packed));
                }
                StepWeights::Int8(weights) => {
                    self.recur_rounded::<K>(stage, &mut parts, phase, &weights[1 + phase]);
                }
            }
            if phase + 1 < K::TRAITS.phases {
                parts.extra.publish(worker);
            }
        }
        parts.h.publish(worker);
        parts.h
    }

    /// How many ranks this worker has.
    fn own(&self, stage: &Stage<'_>) -> usize {
        let (first, gap) = stage.geometry.own_ranks(self.worker);
        (stage.geometry.starts[1] - first).div_ceil(gap)
    }

    /// `M` of this worker's ranks, from its `k`-th on.
    #[inline(always)]
    fn ranks<const M: usize>(&self, stage: &Stage<'_>, k: usize) -> Ranks<M> {
        let (first, gap) = stage.geometry.own_ranks(self.worker);
        stage.geometry.ranks(self.worker, first + k * gap, gap)
    }

    /// This worker's part of a layer of a cell with options: products, and then whole rows. Gives `h` with the step
    /// closed.
    fn layer_by_row<'a>(&mut self, stage: &'a Stage<'a>, from: &Source<'_, '_>) -> Part<'a> {
        let worker = self.worker;
        let rows = stage.rows.as_ref().expect("the layer goes by rows");
        let Stage { layer, sizes, .. } = stage;
        let twice = layer.cell == Cell::Gru(Reset::Before);
        let mut x = rows.x.published(worker, Walk::Up);
        let mut sums = rows.sums.published(worker, Walk::Up);
        let mut late = rows.late.published(worker, Walk::Up);
        let mut extra = stage.extra.published(worker, Walk::Up);
        let mut h = stage.h.published(worker, Walk::Up);
        let mut gates = stage.gates.private(worker);
        let mut c = stage.c.private(worker);
        let mut y = stage.y.private(worker);
        let mut kept = rows.kept.private(worker);
        self.product(stage, 0, from, &[], &mut x);
        x.publish(worker);
        let past = Source::Slice { data: stage.past_h, stride: sizes.unit_stride };
        self.product(stage, 1, &past, &[], &mut sums);
        sums.publish(worker);
        for phase in 0..if twice { 2 } else { 1 } {
            if phase == 1 {
                extra.publish(worker);
                self.product(stage, 2, &Source::Closed(&extra), &[], &mut late);
                late.publish(worker);
            }
            let sums = if phase == 1 { &late } else { &sums };
            let (first, gap) = rows.geometry.own_ranks(worker);
            let all = 0..rows.geometry.groups;
            for rank in (first..rows.geometry.starts[1]).step_by(gap) {
                let ranks = rows.geometry.ranks::<1>(worker, rank, gap);
                let past = rank * sizes.unit_stride;
                let mut own_extra = (phase == 0).then(|| extra.own(Some(0), ranks, &all));
                let sums = sums.last_closed(Some(0), sums.readers(ranks));
                let x = x.last_closed(Some(0), x.readers(ranks));
                self.simd.call(RowForward {
                    layer,
                    phase,
                    terms: rows.terms,
                    x: (phase == 0).then(|| x.row(0)),
                    sums: sums.row(0),
                    past_h: &stage.past_h[past..][..sizes.units()],
                    past_c: &stage.past_c[past..][..sizes.units()],
                    gates: gates.own(Some(0), ranks, &all).row(0),
                    kept: kept.own(Some(0), ranks, &(0..1)).row(0),
                    h: h.own(Some(0), ranks, &all).row(0),
                    c: c.own(Some(0), ranks, &all).row(0),
                    extra: own_extra.as_mut().map_or(&mut [], |extra| extra.row(0)),
                    y: y.own(Some(0), ranks, &all).row(0),
                    seen: &mut [],
                    factors: stage.means(0, sizes.units()),
                });
            }
        }
        h.publish(worker);
        h
    }

    /// Puts what is made of tokens into the gates, for a cell whose second phase reads it there.
    fn copy_tokens(&self, stage: &Stage<'_>, given: &Given<'_>, gates: &mut Part<'_>) {
        let own = stage.geometry.own_groups(self.worker);
        let width = stage.weights.panels(0).width * S::N;
        for k in 0..self.own(stage) {
            let ranks = self.ranks::<1>(stage, k);
            let mut row = gates.own(Some(0), ranks, &own);
            let first = own.start * width;
            let row = row.row(0);
            row.copy_from_slice(given.tokens(ranks.each(), first..first + row.len()).row(0));
        }
    }

    /// `out = from · W + bias` for one of the layer's weights: the input's, or the recurrent ones by phase.
    fn product(
        &mut self,
        stage: &Stage<'_>,
        which: usize,
        from: &Source<'_, '_>,
        bias: &[f32],
        out: &mut Part<'_>,
    ) {
        let depth = if which == 0 { stage.layer.input } else { stage.layer.hidden };
        if let StepWeights::Int8(_) = stage.weights {
            self.quantize(stage, from, depth);
        }
        for p in stage.geometry.own_groups(self.worker) {
            let panels = stage.weights.panels(which);
            let nv = panels.vectors_of(p);
            let start = match bias {
                [] => Start::Zero,
                bias => Start::Bias(&bias[p * panels.width * S::N..][..nv * S::N]),
            };
            for (k, m) in tiles::<S>(self.own(stage), nv) {
                with_rows!(m, M => with_vectors!(nv, NV => {
                    let ranks = self.ranks::<M>(stage, k);
                    let mut out = out.own(Some(0), ranks, &(p..p + 1));
                    let out = out.part(0, NV * S::N);
                    match stage.weights {
                        StepWeights::F32 { panels, packed } => self.simd.call(Product::<M, NV> {
                            a: from.tile(ranks, depth),
                            depth,
                            panel: panels[which].panel(packed[which].as_ref(), p),
                            start,
                            out,
                        }),
                        StepWeights::Int8(weights) => self.byte_level.call(ByteProduct::<M, NV> {
                            a: self.rounded(k, depth),
                            panel: weights[which].panel(p),
                            start,
                            out,
                        }),
                    }
                }));
            }
        }
    }

    /// A phase of the recurrence in floats, with the product of the inputs where `x` is given.
    fn recur<'a, K: Kernel>(
        &mut self,
        stage: &'a Stage<'_>,
        parts: &mut Parts<'a>,
        phase: usize,
        x: Option<&Source<'_, '_>>,
        (all, packed): (&[Panels; 3], &[Buffer; 3]),
    ) {
        let panels = all[1 + phase];
        let Layer { input, hidden, .. } = stage.layer;
        for p in stage.geometry.own_groups(self.worker) {
            let nv = panels.vectors_of(p);
            let at = p * panels.width * S::N;
            let bias = stage.recurrent_bias.get(at..).unwrap_or(&[]);
            for (k, m) in tiles::<S>(self.own(stage), nv) {
                with_rows!(m, M => {
                    let ranks = self.ranks::<M>(stage, k);
                    let read = match (x, stage.given) {
                        (None, _) => Input::Gates,
                        (_, Some(given)) if given.has_tokens() => {
                            Input::Table(given.tokens(ranks.each(), at..at + nv * S::N))
                        }
                        (Some(x), _) => Input::Product {
                            x: x.tile(ranks, input),
                            depth: input,
                            panel: all[0].panel(packed[0].as_ref(), p),
                            bias: &stage.input_bias[at..],
                        },
                    };
                    let given = stage.given.filter(|_| phase == 0);
                    let tile = Forward::<M> {
                        input: read,
                        made: given.map(|given| given.sums(ranks.each(), at..at + nv * S::N)),
                        a: parts.multiplied(stage, phase).tile(ranks, hidden),
                        depth: hidden,
                        panel: panels.panel(packed[1 + phase].as_ref(), p),
                        bias,
                        ..parts.tile::<S, M>(stage, phase, ranks, p)
                    };
                    with_vectors!(nv, NV => self.simd.call(job::<K, M, NV>(phase, tile)));
                });
            }
        }
    }

    /// A phase of the recurrence in eight bits: the products first, then the cell, with nothing left to
    /// multiply.
    fn recur_rounded<'a, K: Kernel>(
        &mut self,
        stage: &'a Stage<'_>,
        parts: &mut Parts<'a>,
        phase: usize,
        weights: &QuantizedWeight,
    ) {
        self.quantize(stage, &parts.multiplied(stage, phase), stage.layer.hidden);
        let column = if phase == 0 { 0 } else { K::TRAITS.panel * S::N };
        let mut late = [[0.0; quant::WIDEST]; 6];
        for p in stage.geometry.own_groups(self.worker) {
            let nv = weights.panels.vectors_of(p);
            for (k, m) in tiles::<S>(self.own(stage), nv) {
                self.add_rounded(stage, &mut parts.gates, (p, k, m), weights, column, &mut late);
                for (i, late) in late[..m].iter().enumerate() {
                    let ranks = self.ranks::<1>(stage, k + i);
                    let tile = Forward::<1> { bias: late, ..parts.tile::<S, 1>(stage, phase, ranks, p) };
                    with_vectors!(nv, NV => self.simd.call(job::<K, 1, NV>(phase, tile)));
                }
            }
        }
    }

    /// Adds panel `p`'s products with `m` rows of eight bits to the gates, from their `column` on. What the
    /// cell itself adds to the last gate when it has made the others goes into `late`, with its bias.
    fn add_rounded(
        &self,
        stage: &Stage<'_>,
        gates: &mut Part<'_>,
        (p, k, m): (usize, usize, usize),
        weights: &QuantizedWeight,
        column: usize,
        late: &mut [[f32; quant::WIDEST]; 6],
    ) {
        let (group, nv) = (p..p + 1, weights.panels.vectors_of(p));
        let (a, panel) = (self.rounded(k, stage.layer.hidden), weights.panel(p));
        with_rows!(m, M => with_vectors!(nv, NV => {
            let mut gates = gates.own(Some(0), self.ranks::<M>(stage, k), &group);
            if stage.layer.cell == Cell::Gru(Reset::After) {
                let columns = 0..NV * S::N;
                let out = TileMut::of(late.as_flattened_mut(), quant::WIDEST, &columns);
                self.byte_level.call(ByteProduct::<M, NV> { a, panel, start: Start::Zero, out });
                let bias = &stage.recurrent_bias[p * columns.len()..][..columns.len()];
                for (i, sums) in late[..M].iter_mut().enumerate() {
                    let (early, late) = sums[..columns.len()].split_at_mut(2 * S::N);
                    for (gate, sum) in gates.row(i).iter_mut().zip(early) {
                        *gate += *sum;
                    }
                    for (sum, bias) in late.iter_mut().zip(&bias[2 * S::N..]) {
                        *sum += bias;
                    }
                }
            } else {
                let out = gates.part(column, NV * S::N);
                self.byte_level.call(ByteProduct::<M, NV> { a, panel, start: Start::Output, out });
            }
        }));
    }

    /// Rounds this worker's rows of `from` to eight bits.
    fn quantize(&mut self, stage: &Stage<'_>, from: &Source<'_, '_>, depth: usize) {
        let quads = depth.div_ceil(4);
        for k in 0..self.own(stage) {
            let row = from.tile(self.ranks::<1>(stage, k), depth).row(0);
            let to = &mut self.quads[k * quads..][..quads];
            self.scales[k] = self.simd.call(Quantize { from: &row[..depth], to });
        }
    }

    /// Rows of eight bits from this worker's `k`-th rank on.
    fn rounded(&self, k: usize, depth: usize) -> QuantizedRows<'_> {
        let depth = depth.div_ceil(4);
        QuantizedRows { quads: &self.quads[k * depth..], scales: &self.scales[k..], depth }
    }
}

/// One panel of a cell's forward tile.
fn job<K, const M: usize, const NV: usize>(phase: usize, tile: Forward<'_, M>) -> ForwardJob<'_, K, M, NV> {
    ForwardJob { phase, tile, seen: TileMut::empty(), panels: 1, kernel: PhantomData }
}

impl<'a> Parts<'a> {
    /// What a phase multiplies with its weights.
    fn multiplied(&self, stage: &'a Stage<'_>, phase: usize) -> Source<'_, 'a> {
        match phase {
            0 => Source::Slice { data: stage.past_h, stride: stage.sizes.unit_stride },
            _ => Source::Closed(&self.extra),
        }
    }

    /// The tile of panel `p`, with nothing to multiply yet.
    fn tile<'s, S: Lanes, const M: usize>(
        &'s mut self,
        stage: &'s Stage<'_>,
        phase: usize,
        ranks: Ranks<M>,
        p: usize,
    ) -> Forward<'s, M> {
        let sizes = &stage.sizes;
        let rows = ranks.each().map(|rank| rank * sizes.unit_stride);
        let first = p * stage.weights.panels(0).width / sizes.gates * S::N;
        let group = p..p + 1;
        let width = stage.weights.panels(0).width / sizes.gates * S::N;
        let width = width.min(sizes.units() - first);
        Forward {
            input: Input::Gates,
            a: Tile::of(stage.past_h, &rows, 0),
            depth: 0,
            panel: &[],
            made: None,
            bias: &[],
            past_h: Tile::of(stage.past_h, &rows, sizes.units()).columns(first),
            past_c: Tile::of(stage.past_c, &rows, sizes.units()).columns(first),
            gates: self.gates.own(Some(0), ranks, &group),
            h: self.h.own(Some(0), ranks, &group),
            c: self.c.own(Some(0), ranks, &group),
            // In the second phase the first one's extra values are read, not written.
            extra: if phase == 0 { self.extra.own(Some(0), ranks, &group) } else { TileMut::empty() },
            y: self.y.own(Some(0), ranks, &group),
            factors: stage.means(first, width),
        }
    }
}
