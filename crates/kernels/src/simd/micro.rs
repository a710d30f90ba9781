//! The micro-kernel: a tile of `M` rows and `NV` vectors, held in registers over the whole depth.
//!
//! Where a level multiplies pairs of bfloat16, a pair stands in the place of a float and the loop is the same.
//!
//! Every output element is one chain of multiply-adds in order of depth, whatever the tile's size and
//! whichever worker runs it: this is what makes results equal to the bit for every number of threads.

use super::Lanes;
use crate::disjoint::Tile;

/// `acc[i][j] += sum over k of a.row(i)[k] · panel[k][j]`, for `depth` values of `k`.
///
/// `a` holds at least `depth` floats a row; `panel` is `[depth][NV · N]`.
#[inline(always)]
pub(crate) fn multiply<S: Lanes, const M: usize, const NV: usize>(
    simd: S,
    a: &Tile<'_, M>,
    depth: usize,
    panel: &[f32],
    acc: &mut [[S::V; NV]; M],
) {
    let width = NV * S::N;
    assert!(panel.len() >= depth * width);
    assert!(a.width() >= depth);
    let mut rows = [std::ptr::null(); M];
    for i in 0..M {
        rows[i] = a.row(i).as_ptr();
    }
    let mut c = *acc;
    for k in 0..depth {
        // SAFETY: depth * width floats of the panel were checked above.
        let line = unsafe { std::slice::from_raw_parts(panel.as_ptr().add(k * width), width) };
        // SAFETY: every row holds at least `depth` floats, checked above.
        outer(simd, |i| unsafe { *rows[i].add(k) }, line, &mut c);
    }
    *acc = c;
}

/// `c[i][j] += x(i) · line[j]`. What there is less of, rows or vectors, is held in registers beside the tile, and
/// the others come one by one: with sixteen registers there is room for no more.
#[inline(always)]
fn outer<S: Lanes, const M: usize, const NV: usize>(
    simd: S,
    x: impl Fn(usize) -> f32,
    line: &[f32],
    c: &mut [[S::V; NV]; M],
) {
    if M < NV {
        let mut rows = [simd.splat(0.0); M];
        for i in 0..M {
            rows[i] = simd.splat(x(i));
        }
        for j in 0..NV {
            let b = simd.load(&line[j * S::N..]);
            for i in 0..M {
                c[i][j] = simd.product(rows[i], b, c[i][j]);
            }
        }
    } else {
        let mut b = [simd.splat(0.0); NV];
        for j in 0..NV {
            b[j] = simd.load(&line[j * S::N..]);
        }
        for i in 0..M {
            let x = simd.splat(x(i));
            for j in 0..NV {
                c[i][j] = simd.product(x, b[j], c[i][j]);
            }
        }
    }
}

/// The same with `a` packed as `[depth][N]`, of which the first `M` columns are meant.
#[inline(always)]
pub(crate) fn multiply_columns<S: Lanes, const M: usize, const NV: usize>(
    simd: S,
    a: &[f32],
    depth: usize,
    panel: &[f32],
    acc: &mut [[S::V; NV]; M],
) {
    let width = NV * S::N;
    assert!(panel.len() >= depth * width && M <= S::N);
    assert!(depth == 0 || a.len() >= (depth - 1) * S::N + M);
    let mut c = *acc;
    for k in 0..depth {
        // SAFETY: depth * width floats of the panel, and `M` floats of each of the `depth` rows of `a`,
        // were checked above.
        let (line, x) = unsafe {
            (
                std::slice::from_raw_parts(panel.as_ptr().add(k * width), width),
                std::slice::from_raw_parts(a.as_ptr().add(k * S::N), M),
            )
        };
        outer(simd, |i| x[i], line, &mut c);
    }
    *acc = c;
}
