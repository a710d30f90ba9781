//! Weights of eight bits for inference.
//!
//! ```text
//! W[r, k] ~ s[r] · Wq[r, k]    s[r] = max over k of |W[r, k]| / 127     once, at packing
//! x[k]    ~ t · xq[k]          t    = max over k of |x[k]| / 127        anew for every vector
//! (W x)[r] ~ s[r] t · sum over k of Wq[r, k] xq[k]
//! ```
//!
//! The sum is exact, in 32-bit integers; biases, gates and states stay floats. A scale for each row is what
//! Wu et al. 2020 (arXiv 2004.09602) find weights need, and scales of inputs made as they come are how
//! Alvarez, Prabhavalkar and Bakhtin 2016 (arXiv 1607.04683) run LSTMs of eight bits. The naive version is
//! [`crate::reference::quantized_step`].
//!
//! A row or vector with a value that is not finite gets NaN as its scale, so that the value shows in all that
//! is computed from it, as it would in floats.

use crate::disjoint::TileMut;
use crate::gemm::{Start, is_part, with_rows};
use crate::memory::Buffer;
use crate::pack::Panels;
use crate::packed::Weight;
use crate::shape::ShapeError;
use crate::simd::{ByteJob, Bytes, Job, Lanes, Quad};
use crate::team::share;

/// Products of two bytes, at most 127 · 127, that a 32-bit sum can take.
const MOST: usize = i32::MAX as usize / (127 * 127);

/// Fails when sums of `depth` products might not fit 32 bits.
pub(crate) fn check_depth(depth: usize) -> Result<(), ShapeError> {
    if depth > MOST { Err(ShapeError::TooLarge { what: "a row of 8-bit weights" }) } else { Ok(()) }
}

/// The scale of a vector, and what to multiply its values with.
#[inline(always)]
fn scale(values: &[f32]) -> (f32, f32) {
    // Without their signs floats order like their bits, infinity and NaN on top.
    let largest = values.iter().fold(0, |largest, value| (value.to_bits() & 0x7fff_ffff).max(largest));
    let largest = f32::from_bits(largest);
    let inverse = 127.0 / largest;
    if !largest.is_finite() {
        (f32::NAN, 0.0)
    } else if inverse.is_finite() {
        (largest / 127.0, inverse)
    } else {
        // Zero, or so small that nothing is left of it in any sum.
        (0.0, 0.0)
    }
}

/// `value · inverse` to the nearest integer, for results within ±127.
#[inline(always)]
fn round(value: f32, inverse: f32) -> i8 {
    // Adding 1.5 · 2^23 leaves the integer in the lowest bits, ties to even.
    (value * inverse + 12_582_912.0).to_bits() as i8
}

/// Rounds a vector to eight bits and gives its scale; what is left of the last quad is zero.
pub(crate) struct Quantize<'a> {
    pub(crate) from: &'a [f32],
    pub(crate) to: &'a mut [Quad],
}

impl<S: Lanes> Job<S> for Quantize<'_> {
    type Output = f32;
    #[inline(always)]
    fn run(self, _: S) -> f32 {
        let (scale, inverse) = scale(self.from);
        let to = self.to.as_flattened_mut();
        let (to, rest) = to.split_at_mut(self.from.len());
        for (to, &value) in to.iter_mut().zip(self.from) {
            *to = round(value, inverse);
        }
        rest.fill(0);
        scale
    }
}

/// A weight matrix of eight bits, packed like its floats, with quads in place of floats and a quarter of the
/// depth.
pub(crate) struct QuantizedWeight {
    pub(crate) panels: Panels,
    quads: Buffer,
    /// One a column.
    scales: Buffer,
    /// -128 times the sum of each column's weights; see [`Bytes::start`].
    offsets: Vec<i32>,
}

impl QuantizedWeight {
    pub(crate) fn pack(weight: Weight<'_>) -> QuantizedWeight {
        let Weight { panels: floats, weight, gates, units } = weight;
        let panels = Panels { depth: floats.depth.div_ceil(4), ..floats };
        let columns = panels.vectors * panels.lanes;
        let mut packed = QuantizedWeight {
            panels,
            quads: Buffer::default(),
            scales: Buffer::default(),
            offsets: vec![0; columns],
        };
        packed.quads.ensure(panels.floats()).fill(0.0);
        let (quads, scales) = (packed.quads.as_quads_mut(), packed.scales.ensure(columns));
        scales.fill(0.0);
        for column in 0..columns {
            let (vector, lane) = (column / panels.lanes, column % panels.lanes);
            let unit = vector / gates * panels.lanes + lane;
            if unit >= units {
                continue;
            }
            let row = &weight[(vector % gates * units + unit) * floats.depth..][..floats.depth];
            let inverse;
            (scales[column], inverse) = scale(row);
            let panel = vector / panels.width;
            let width = panels.vectors_of(panel) * panels.lanes;
            let first =
                panel * panels.width * panels.lanes * panels.depth + column % (panels.width * panels.lanes);
            for (k, values) in row.chunks(4).enumerate() {
                let quad = &mut quads[first + k * width];
                for (to, &value) in quad.iter_mut().zip(values) {
                    *to = round(value, inverse);
                }
                let sum: i32 = quad.iter().map(|&byte| i32::from(byte)).sum();
                // It may wrap around, and the sum that it is the start of back.
                packed.offsets[column] = packed.offsets[column].wrapping_sub(128 * sum);
            }
        }
        packed
    }

    /// Panel `p`, as a product takes it.
    pub(crate) fn panel(&self, p: usize) -> QuantizedPanel<'_> {
        let first = p * self.panels.width * self.panels.lanes;
        let columns = first..first + self.panels.vectors_of(p) * self.panels.lanes;
        QuantizedPanel {
            quads: self.panels.panel(self.quads.as_quads(), p),
            scales: &self.scales.as_ref()[columns.clone()],
            offsets: &self.offsets[columns],
        }
    }
}

/// A few columns of a [`QuantizedWeight`].
#[derive(Clone, Copy)]
pub(crate) struct QuantizedPanel<'a> {
    quads: &'a [Quad],
    scales: &'a [f32],
    offsets: &'a [i32],
}

/// Vectors of eight bits, one a row.
#[derive(Clone, Copy)]
pub(crate) struct QuantizedRows<'a> {
    pub(crate) quads: &'a [Quad],
    pub(crate) scales: &'a [f32],
    /// Quads of a row.
    pub(crate) depth: usize,
}

/// `out = start + a · panel`; [`crate::gemm::Product`] in bytes.
pub(crate) struct ByteProduct<'a, const M: usize, const NV: usize> {
    /// The first `M` rows are meant.
    pub(crate) a: QuantizedRows<'a>,
    pub(crate) panel: QuantizedPanel<'a>,
    pub(crate) start: Start<'a>,
    pub(crate) out: TileMut<'a, M>,
}

impl<B: Bytes, const M: usize, const NV: usize> ByteJob<B> for ByteProduct<'_, M, NV> {
    #[inline(always)]
    fn run(mut self, bytes: B) {
        let parts = M.div_ceil(B::HELD[NV - 1]);
        for part in (0..parts).map(|part| share(M, part, parts)) {
            with_rows!(part.len(), R => if const { is_part(R, M, B::HELD[NV - 1]) } {
                self.part::<B, R>(bytes, part.start);
            });
        }
    }
}

impl<const M: usize, const NV: usize> ByteProduct<'_, M, NV> {
    /// As many rows as the registers hold, from `first` on.
    #[inline(always)]
    fn part<B: Bytes, const R: usize>(&mut self, bytes: B, first: usize) {
        let width = NV * B::N;
        let QuantizedPanel { quads, scales, offsets } = self.panel;
        let depth = self.a.depth;
        assert!(scales.len() == width && offsets.len() == width && quads.len() == depth * width);
        let mut start = [bytes.start(offsets); NV];
        for (j, start) in start.iter_mut().enumerate() {
            *start = bytes.start(&offsets[j * B::N..]);
        }
        let mut sums = [start; R];
        let rows: [&[Quad]; R] = std::array::from_fn(|i| &self.a.quads[(first + i) * depth..][..depth]);
        for (k, line) in quads.chunks_exact(width).enumerate() {
            let mut weights = [bytes.weights(line); NV];
            for j in 1..NV {
                weights[j] = bytes.weights(&line[j * B::N..]);
            }
            for i in 0..R {
                let input = bytes.input(rows[i][k]);
                for j in 0..NV {
                    sums[i][j] = bytes.dot(sums[i][j], input, weights[j]);
                }
            }
        }
        for i in 0..R {
            let mut integers = [0; WIDEST];
            for j in 0..NV {
                bytes.store(&mut integers[j * B::N..], sums[i][j]);
            }
            let scale = self.a.scales[first + i];
            let out = &mut self.out.row(first + i)[..width];
            let value = |column: usize| scale * scales[column] * integers[column] as f32;
            match self.start {
                Start::Zero => (0..width).for_each(|column| out[column] = value(column)),
                Start::Bias(bias) => {
                    let bias = &bias[..width];
                    (0..width).for_each(|column| out[column] = bias[column] + value(column));
                }
                Start::Output => (0..width).for_each(|column| out[column] += value(column)),
            }
        }
    }
}

/// Columns of the widest panel: four vectors of sixteen lanes.
pub(crate) const WIDEST: usize = 64;
