//! Weights rearranged for the micro-kernel.
//!
//! A packed matrix is a row of *vectors*, each `N` lanes wide and `depth` long; a panel of `W` vectors lies
//! as `[depth][W][N]`, so that the micro-kernel reads it front to back. Lanes past the last unit are zero.

use crate::disjoint::Pieces;
use crate::memory::Buffer;
use crate::simd::pair;
use crate::team::Worker;

/// Lines of a panel that are filled at a time: a cache line of each source row.
const LINES: usize = 64;

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

    pub(crate) fn pieces<'a>(&self, buffer: &'a mut Buffer, workers: usize) -> Pieces<'a> {
        let piece = self.width * self.lanes * self.depth;
        Pieces::new(buffer.ensure(self.floats()), piece, workers)
    }
}

/// `[gates·H, depth]` weights for `x · Wᵀ`: vector `j` holds gate `j % gates` of unit group `j / gates`.
pub(crate) fn by_unit(
    panels: Panels,
    pieces: &Pieces<'_>,
    worker: &Worker<'_>,
    weight: &[f32],
    gates: usize,
    hidden: usize,
) {
    let (mut p, mut data) = pieces.take(worker);
    let columns = weight.len() / (gates * hidden);
    while !data.is_empty() {
        let vectors = panels.vectors_of(p);
        let row = vectors * panels.lanes;
        let (panel, rest) = data.split_at_mut(row * panels.depth);
        // A few lines of the panel at a time, so that they stay in the first-level cache.
        for (lines, first) in panel.chunks_mut(LINES * row).zip((0..).step_by(LINES)) {
            for column in 0..row {
                let j = p * panels.width + column / panels.lanes;
                let unit = j / gates * panels.lanes + column % panels.lanes;
                if unit < hidden {
                    let source = &weight[(j % gates * hidden + unit) * columns..][..columns];
                    let lines = lines.chunks_exact_mut(row);
                    if panels.pairs {
                        for (line, w) in lines.zip(source[2 * first..].chunks(2)) {
                            line[column] = pair(w[0], w.get(1).copied().unwrap_or(0.0));
                        }
                    } else {
                        for (line, &w) in lines.zip(&source[first..]) {
                            line[column] = w;
                        }
                    }
                } else {
                    for line in lines.chunks_exact_mut(row) {
                        line[column] = 0.0;
                    }
                }
            }
        }
        (p, data) = (p + 1, rest);
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
    let (mut p, mut data) = pieces.take(worker);
    let lanes = panels.lanes;
    while !data.is_empty() {
        let row = panels.vectors_of(p) * lanes;
        let (panel, rest) = data.split_at_mut(row * panels.depth);
        let first = p * panels.width * lanes;
        let real = row.min(columns - first);
        for (d, line) in panel.chunks_exact_mut(row).enumerate() {
            let source = |d: usize| {
                let (gate, unit) = (d / lanes % all, d / (lanes * all) * lanes + d % lanes);
                (gate < gates && unit < hidden)
                    .then(|| &weight[(gate * hidden + unit) * columns + first..][..real])
            };
            line.fill(0.0);
            if panels.pairs {
                // Neighbours in depth are units of one gate; the second may lie past the last.
                if let Some(low) = source(2 * d) {
                    let high = source(2 * d + 1);
                    for (k, w) in line[..real].iter_mut().enumerate() {
                        *w = pair(low[k], high.map_or(0.0, |high| high[k]));
                    }
                }
            } else if let Some(source) = source(d) {
                line[..real].copy_from_slice(source);
            }
        }
        (p, data) = (p + 1, rest);
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
