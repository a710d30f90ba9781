//! Weights rearranged for the micro-kernel.
//!
//! A packed matrix is a row of *vectors*, each `N` lanes wide and `depth` long; a panel of `W` vectors lies
//! as `[depth][W][N]`, so that the micro-kernel reads it front to back. Lanes past the last unit are zero.

use std::array;
use std::ops::Range;

use crate::disjoint::Pieces;
use crate::memory::Buffer;
use crate::simd::{Job, Lanes, MOST_LANES, load_row, narrow_row, pair};
use crate::team::Worker;

/// Floats of a row that are asked for ahead of those that are packed: with few of each row between two of another, no
/// processor reads ahead by itself.
const AHEAD: usize = 64;

/// How a packed matrix is laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Panels {
    /// `N` of the level.
    pub(crate) lanes: usize,
    /// Vectors of a full panel.
    pub(crate) width: usize,
    /// Vectors in all; the last panel has what is left.
    pub(crate) vectors: usize,
    pub(crate) depth: usize,
    /// Whether each float of it is a pair of bfloat16, two steps of the real depth.
    pub(crate) pairs: bool,
}

impl Panels {
    pub(crate) fn floats(&self) -> usize {
        self.vectors * self.lanes * self.depth
    }

    pub(crate) fn count(&self) -> usize {
        self.vectors.div_ceil(self.width)
    }

    /// Vectors of panel `p`.
    pub(crate) fn vectors_of(&self, p: usize) -> usize {
        self.width.min(self.vectors - p * self.width)
    }

    /// Panel `p` of a packed buffer.
    pub(crate) fn panel<'a, T>(&self, data: &'a [T], p: usize) -> &'a [T] {
        let start = p * self.width * self.lanes * self.depth;
        &data[start..start + self.vectors_of(p) * self.lanes * self.depth]
    }

    /// A piece of panel `p`'s depth.
    pub(crate) fn part<'a, T>(&self, data: &'a [T], p: usize, deep: &Range<usize>) -> &'a [T] {
        let line = self.vectors_of(p) * self.lanes;
        &self.panel(data, p)[deep.start * line..deep.end * line]
    }

    pub(crate) fn pieces<'a>(&self, buffer: &'a mut Buffer, workers: usize) -> Pieces<'a> {
        let piece = self.width * self.lanes * self.depth;
        Pieces::new(buffer.ensure(self.floats()), piece, workers)
    }
}

/// Packed weights and their layout.
#[derive(Clone, Copy)]
pub(crate) struct Packed<'a> {
    pub(crate) panels: Panels,
    pub(crate) data: &'a [f32],
}

impl<'a> Packed<'a> {
    pub(crate) fn panel(&self, p: usize) -> &'a [f32] {
        self.panels(p, 1)
    }

    /// A piece of its depth.
    pub(crate) fn part(&self, p: usize, deep: &Range<usize>) -> &'a [f32] {
        self.panels.part(self.data, p, deep)
    }

    /// `count` panels from `p` on.
    pub(crate) fn panels(&self, p: usize, count: usize) -> &'a [f32] {
        let start = p * self.panels.width;
        let end = (start + count * self.panels.width).min(self.panels.vectors);
        let floats = self.panels.lanes * self.panels.depth;
        &self.data[start * floats..end * floats]
    }
}

/// `[gates·H, depth]` weights for `x · Wᵀ`: vector `j` holds gate `j % gates` of unit group `j / gates`.
pub(crate) fn by_unit<S: Lanes>(
    simd: S,
    panels: Panels,
    pieces: &Pieces<'_>,
    worker: &Worker<'_>,
    weight: &[f32],
    gates: usize,
    hidden: usize,
) {
    assert_eq!((panels.lanes, panels.pairs), (S::N, S::PAIRS));
    let (mut index, mut data) = pieces.take(worker);
    while !data.is_empty() {
        let (panel, rest) = data.split_at_mut(panels.vectors_of(index) * S::N * panels.depth);
        simd.call(ByUnit { panel, first: index * panels.width, depth: panels.depth, weight, gates, hidden });
        (index, data) = (index + 1, rest);
    }
}

/// One panel of [`by_unit`].
struct ByUnit<'a> {
    panel: &'a mut [f32],
    /// Its first vector.
    first: usize,
    depth: usize,
    weight: &'a [f32],
    gates: usize,
    hidden: usize,
}

impl<S: Lanes> Job<S> for ByUnit<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self, simd: S) {
        let ByUnit { panel, first, depth, weight, gates, hidden } = self;
        let (row, columns) = (panel.len() / depth, weight.len() / (gates * hidden));
        let wide = if S::PAIRS { 2 * S::N } else { S::N };
        for vector in 0..row / S::N {
            let (gate, unit) = ((first + vector) % gates, (first + vector) / gates * S::N);
            let real = S::N.min(hidden.saturating_sub(unit));
            for (lines, from) in panel.chunks_mut(S::N * row).zip((0..).step_by(wide)) {
                let mut block = [simd.splat(0.0); MOST_LANES];
                for (lane, v) in block[..real].iter_mut().enumerate() {
                    let source = &weight[(gate * hidden + unit + lane) * columns..][..columns][from..];
                    if let Some(ahead) = source.get(AHEAD..) {
                        simd.prefetch(&ahead[..ahead.len().min(wide)]);
                    }
                    if S::PAIRS {
                        let mut both = [0.0; MOST_LANES];
                        narrow_row(simd, &source[..source.len().min(wide)], &mut both);
                        *v = simd.load(&both);
                    } else {
                        load_row(simd, source, array::from_mut(v));
                    }
                }
                transpose(simd, &mut block);
                for (line, v) in lines.chunks_exact_mut(row).zip(block) {
                    simd.store(&mut line[vector * S::N..], v);
                }
            }
        }
    }
}

/// Makes rows of `N` lanes of `N` columns: a shuffle of two halves moves the highest bit of a row's number to the lowest
/// of its lanes', and after as many as `N` has bits each number stands in the other's place.
#[inline(always)]
fn transpose<S: Lanes>(simd: S, block: &mut [S::V; MOST_LANES]) {
    for _ in 0..S::N.ilog2() {
        let before = *block;
        for i in 0..S::N / 2 {
            [block[2 * i], block[2 * i + 1]] = simd.interleave(before[i], before[i + S::N / 2]);
        }
    }
}

/// `[gates·H, columns]` weights for `d · W`, where `d` holds gate gradients in the kernels' order: depth
/// index `(group · all + gate) · N + lane`. `gates` of `all` have weights here, the others count as zero.
pub(crate) fn by_column(
    panels: Panels,
    pieces: &Pieces<'_>,
    worker: &Worker<'_>,
    weight: &[f32],
    (gates, all): (usize, usize),
    hidden: usize,
    columns: usize,
) {
    let (first, data) = pieces.take(worker);
    let lanes = panels.lanes;
    let whole = panels.width * lanes;
    // All panels line by line, so that the rows of the weights are read from one end to the other.
    for d in 0..panels.depth {
        for (p, panel) in (first..).zip(data.chunks_mut(whole * panels.depth)) {
            let (row, column) = (panels.vectors_of(p) * lanes, p * whole);
            let real = row.min(columns - column);
            let source = |d: usize| {
                let (gate, unit) = (d / lanes % all, d / (lanes * all) * lanes + d % lanes);
                (gate < gates && unit < hidden)
                    .then(|| &weight[(gate * hidden + unit) * columns + column..][..real])
            };
            let (line, padding) = panel[d * row..][..row].split_at_mut(real);
            padding.fill(0.0);
            if panels.pairs {
                // Neighbours in depth are units of one gate; the second may lie past the last.
                let [low, high] = [source(2 * d), source(2 * d + 1)];
                for (k, w) in line.iter_mut().enumerate() {
                    *w = pair(low.map_or(0.0, |low| low[k]), high.map_or(0.0, |high| high[k]));
                }
            } else {
                match source(d) {
                    Some(source) => line.copy_from_slice(source),
                    None => line.fill(0.0),
                }
            }
        }
    }
}

/// A bias `[gates·H]` in the order of the columns of [`by_unit`], added onto `to`.
pub(crate) fn add_bias(lanes: usize, to: &mut [f32], bias: &[f32], gates: usize, hidden: usize) {
    for (column, value) in to.iter_mut().enumerate() {
        let j = column / lanes;
        let unit = j / gates * lanes + column % lanes;
        if unit < hidden {
            *value += bias[j % gates * hidden + unit];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Dispatch, Level, Precision};
    use crate::team;

    /// Packs weights that are all different, and compares each with the place it belongs to.
    struct EveryPlace {
        gates: usize,
        hidden: usize,
        columns: usize,
    }

    impl Dispatch for EveryPlace {
        type Output = ();

        fn run<S: Lanes>(self, simd: S) {
            let EveryPlace { gates, hidden, columns } = self;
            let weight: Vec<f32> = (0..gates * hidden * columns).map(|i| i as f32 + 1.0).collect();
            let vectors = gates * hidden.div_ceil(S::N);
            let panels = Panels { lanes: S::N, width: 4, vectors, depth: S::depth(columns), pairs: S::PAIRS };
            let mut packed = Buffer::default();
            packed.ensure(panels.floats()).fill(f32::NAN);
            let pieces = panels.pieces(&mut packed, 2);
            team::run_on(2, |worker| by_unit(simd, panels, &pieces, worker, &weight, gates, hidden));
            for j in 0..vectors {
                let panel = panels.panel(packed.as_ref(), j / 4);
                let width = panels.vectors_of(j / 4) * S::N;
                for (k, lane) in (0..panels.depth).flat_map(|k| (0..S::N).map(move |lane| (k, lane))) {
                    let (gate, unit) = (j % gates, j / gates * S::N + lane);
                    let at = |column: usize| match unit < hidden && column < columns {
                        true => weight[(gate * hidden + unit) * columns + column],
                        false => 0.0,
                    };
                    let expected = if S::PAIRS { pair(at(2 * k), at(2 * k + 1)) } else { at(k) };
                    let found = panel[k * width + j % 4 * S::N + lane];
                    assert_eq!(
                        found.to_bits(),
                        expected.to_bits(),
                        "{:?} pairs {}: {gates} x {hidden} x {columns}, vector {j}, depth {k}, lane {lane}",
                        simd.level(),
                        S::PAIRS
                    );
                }
            }
        }
    }

    #[test]
    fn every_weight_stands_where_the_micro_kernel_reads_it() {
        for &level in Level::available() {
            for precision in [Precision::F32, Precision::Bf16] {
                for (gates, hidden) in [(1, 1), (1, 70), (3, 16), (4, 5), (4, 37)] {
                    for columns in [1, 2, 7, 16, 33, 70, 131] {
                        level.dispatch_at(precision, EveryPlace { gates, hidden, columns });
                    }
                }
            }
        }
    }
}
