//! Random masks from a counter: which elements drop out follows from a key and the element's place alone, so a
//! mask is never stored, is the same for every number of threads and at every level, and comes back when a run
//! is resumed. The backward pass of a mask is the same call on the gradient.

use crate::disjoint::Pieces;
use crate::shape::{ShapeError, expect};
use crate::simd::{Dispatch, Job, Lanes, Level};
use crate::team;

/// Elements that a worker takes at a time, about.
const CHUNK: usize = 4096;
/// Random bits a decision is made from.
const BITS: u32 = 24;

/// A random mask: each element is 0 with probability `drop`, else `1 / (1 - drop)`, so that the expected value
/// stays (inverted dropout, Srivastava et al. 2014).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mask {
    /// Which mask it is: masks of different keys have nothing to do with each other.
    pub key: u64,
    /// The probability that an element drops out, from 0 and below 1.
    pub drop: f32,
}

/// Which element of a mask multiplies an element of a matrix `[rows, width]`.
#[derive(Clone, Copy, Debug)]
pub enum Pattern<'a> {
    /// The one in its own place.
    Elements,
    /// That of its column in row `rows[row]` of the mask: rows of one name share one mask, as the steps of a
    /// sequence do in locked dropout (Gal and Ghahramani 2016).
    Rows(&'a [u32]),
    /// One for the whole row, at `rows[row]`: whole rows drop out, as words do in embedding dropout.
    Whole(&'a [u32]),
}

/// A key for the mask of a purpose: any two lists of numbers that differ give keys that have nothing to do with
/// each other.
#[must_use]
pub fn key(numbers: &[u64]) -> u64 {
    numbers.iter().fold(0x9e37_79b9_7f4a_7c15, |key: u64, &number| {
        // SplitMix64's finaliser (Steele et al. 2014).
        let mut z =
            key.wrapping_mul(0xd129_0a6b_a7cd_4b6d).wrapping_add(number).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

/// `out = x * mask`, both `[rows, width]`.
///
/// # Errors
/// [`ShapeError`] when a buffer does not fit, there is not one row name a row, or `drop` is not in `[0, 1)`.
pub fn apply(
    mask: Mask,
    pattern: Pattern<'_>,
    width: usize,
    x: &[f32],
    out: &mut [f32],
) -> Result<(), ShapeError> {
    if width == 0 {
        return Err(ShapeError::Zero { what: "the width of a mask" });
    }
    if !(0.0..1.0).contains(&mask.drop) {
        return Err(ShapeError::State { what: "the probability to drop out must be from 0 and below 1" });
    }
    let rows = x.len() / width;
    expect("values under a mask", x.len(), rows * width)?;
    expect("masked values", out.len(), x.len())?;
    if let Pattern::Rows(names) | Pattern::Whole(names) = pattern {
        expect("names of rows", names.len(), rows)?;
    }
    let piece = CHUNK.div_ceil(width) * width;
    let workers = team::threads().min(x.len().div_ceil(16 * CHUNK)).max(1);
    let pieces = Pieces::new(out, piece, workers);
    let level = Level::current();
    team::run_on(workers, |worker| {
        let (first, out) = pieces.take(worker);
        let from = first * piece;
        for (k, out) in out.chunks_mut(width).enumerate() {
            let row = from / width + k;
            let x = &x[row * width..][..width];
            let place = |row: u32| row.wrapping_mul(width as u32);
            match pattern {
                Pattern::Elements => level.dispatch(Row { mask, place: place(row as u32), x, out }),
                Pattern::Rows(names) => level.dispatch(Row { mask, place: place(names[row]), x, out }),
                Pattern::Whole(names) => {
                    let factor = mask.factor(names[row]);
                    out.iter_mut().zip(x).for_each(|(out, x)| *out = factor * x);
                }
            }
        }
    });
    Ok(())
}

impl Mask {
    /// The factor at a place.
    #[must_use]
    pub fn factor(self, place: u32) -> f32 {
        if self.keeps(place) { self.kept() } else { 0.0 }
    }

    fn kept(self) -> f32 {
        1.0 / (1.0 - self.drop)
    }

    /// Two rounds of a 32-bit mixer with low bias (Wellons 2018), the two halves of the key between them.
    #[inline(always)]
    pub(crate) fn keeps(self, place: u32) -> bool {
        let mix = |mut z: u32| {
            z = (z ^ (z >> 16)).wrapping_mul(0x7feb_352d);
            z = (z ^ (z >> 15)).wrapping_mul(0x846c_a68b);
            z ^ (z >> 16)
        };
        let z = mix(mix(place.wrapping_add(self.key as u32)) ^ (self.key >> 32) as u32);
        z >> (32 - BITS) >= (self.drop * (1u32 << BITS) as f32) as u32
    }
}

/// One row, its mask from `place` on.
struct Row<'a> {
    mask: Mask,
    place: u32,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Dispatch for Row<'_> {
    type Output = ();
    fn run<S: Lanes>(self, simd: S) {
        simd.call(self);
    }
}

impl<S: Lanes> Job<S> for Row<'_> {
    type Output = ();
    /// Integer arithmetic that the compiler turns into this level's vectors.
    #[inline(always)]
    fn run(self, _: S) {
        let kept = self.mask.kept();
        for (k, (out, x)) in self.out.iter_mut().zip(self.x).enumerate() {
            let factor = if self.mask.keeps(self.place.wrapping_add(k as u32)) { kept } else { 0.0 };
            *out = factor * x;
        }
    }
}
