//! Rows of vectors in memory and in registers.

use super::Lanes;

/// A row of `NV` vectors, cut short where `from` ends.
#[inline(always)]
pub(crate) fn load_row<S: Lanes, const NV: usize>(simd: S, from: &[f32], to: &mut [S::V; NV]) {
    if from.len() >= NV * S::N {
        for j in 0..NV {
            to[j] = simd.load(&from[j * S::N..]);
        }
    } else {
        for j in 0..NV {
            let part = &from[(j * S::N).min(from.len())..];
            to[j] = simd.load_part(&part[..part.len().min(S::N)]);
        }
    }
}

/// The opposite of [`load_row`].
#[inline(always)]
pub(crate) fn store_row<S: Lanes, const NV: usize>(simd: S, to: &mut [f32], from: &[S::V; NV]) {
    if to.len() >= NV * S::N {
        for j in 0..NV {
            simd.store(&mut to[j * S::N..], from[j]);
        }
    } else {
        for j in 0..NV {
            let start = (j * S::N).min(to.len());
            let end = (start + S::N).min(to.len());
            simd.store_part(&mut to[start..end], from[j]);
        }
    }
}

/// Stores a row as pairs of neighbours.
#[inline(always)]
pub(crate) fn narrow_row<S: Lanes>(simd: S, from: &[f32], to: &mut [f32]) {
    if S::PAIRS {
        for (from, to) in from.chunks(S::N).zip(to.chunks_exact_mut(S::N / 2)) {
            simd.store_pairs(to, simd.load_part(from));
        }
    }
}
