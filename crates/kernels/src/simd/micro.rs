//! The micro-kernel: a tile of `M` rows and `NV` vectors, held in registers over the whole depth.
//!
//! Where a level multiplies pairs of bfloat16, a pair stands in the place of a float and the loop is the same.
//!
//! Every output element is one chain of multiply-adds in order of depth, whatever the tile's size and
//! whichever worker runs it: this is what makes results equal to the bit for every number of threads.

use super::{Job, Lanes};
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
    assert!(panel.len() >= depth * NV * S::N);
    assert!(a.width() >= depth);
    let mut rows = [std::ptr::null(); M];
    for i in 0..M {
        rows[i] = a.row(i).as_ptr();
    }
    simd.apart(Chains { rows, stride: 1, depth, panel: panel.as_ptr(), acc });
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
    assert!(panel.len() >= depth * NV * S::N && M <= S::N);
    assert!(depth == 0 || a.len() >= (depth - 1) * S::N + M);
    let mut rows = [std::ptr::null(); M];
    if depth > 0 {
        for i in 0..M {
            rows[i] = a[i..].as_ptr();
        }
    }
    simd.apart(Chains { rows, stride: S::N, depth, panel: panel.as_ptr(), acc });
}

/// `acc[i][j] += sum over k of rows[i][k · stride] · panel[k][j]`. Who makes one has seen to it that `depth` values
/// can be read of every row, and `depth` times the tile's width of the panel.
struct Chains<'a, S: Lanes, const M: usize, const NV: usize> {
    rows: [*const f32; M],
    stride: usize,
    depth: usize,
    panel: *const f32,
    acc: &'a mut [[S::V; NV]; M],
}

impl<S: Lanes, const M: usize, const NV: usize> Job<S> for Chains<'_, S, M, NV> {
    type Output = ();

    #[inline(always)]
    fn run(self, simd: S) {
        let width = NV * S::N;
        let mut c = *self.acc;
        for k in 0..self.depth {
            // SAFETY: the panel has `width` floats for each of `depth` values of `k`.
            let line = unsafe { std::slice::from_raw_parts(self.panel.add(k * width), width) };
            // SAFETY: and every row one float.
            outer(simd, |i| unsafe { *self.rows[i].add(k * self.stride) }, line, &mut c);
        }
        *self.acc = c;
    }
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
