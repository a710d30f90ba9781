//! The micro-kernel: a tile of `M` rows and `NV` vectors, held in registers over the whole depth.
//!
//! Where a level multiplies pairs of bfloat16, a pair stands in the place of a float and the loop is the same.
//!
//! Every output element is one chain of multiply-adds in order of depth, whatever the tile's size and
//! whichever worker runs it: this is what makes results equal to the bit for every number of threads.

use super::{Job, Lanes};
use crate::disjoint::Tile;
use crate::gemm::{is_part, with_rows};
use crate::team::share;

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
    chains(simd, rows, 1, depth, panel, acc);
}

/// The same with columns of `a` in place of rows, `M` of them from `first` on. They are packed in pieces
/// `[depth][N]` of `N` columns.
#[inline(always)]
pub(crate) fn multiply_columns<S: Lanes, const M: usize, const NV: usize>(
    simd: S,
    (a, first): (&[f32], usize),
    depth: usize,
    panel: &[f32],
    acc: &mut [[S::V; NV]; M],
) {
    assert!(panel.len() >= depth * NV * S::N);
    let mut rows = [std::ptr::null(); M];
    for i in 0..M {
        let (piece, column) = ((first + i) / S::N, (first + i) % S::N);
        let piece = &a[piece * depth * S::N..][..depth * S::N];
        rows[i] = piece[column.min(piece.len())..].as_ptr();
    }
    chains(simd, rows, S::N, depth, panel, acc);
}

/// How deep a part of a tile goes before the next one follows: what the parts read of a panel then comes from the
/// first-level cache for all but the first. Four vectors of eight lanes make 16 KiB.
const SHORT: usize = 128;

/// The same from pointers, of which the callers have seen to what [`Chains`] asks for: as much of the tile at a time as
/// the registers hold.
#[inline(always)]
fn chains<S: Lanes, const M: usize, const NV: usize>(
    simd: S,
    rows: [*const f32; M],
    stride: usize,
    depth: usize,
    panel: &[f32],
    acc: &mut [[S::V; NV]; M],
) {
    if const { M <= S::HELD[NV - 1] } {
        return simd.apart(Chains { rows, stride, depth, panel: panel.as_ptr(), acc });
    }
    for from in (0..depth).step_by(SHORT) {
        let depth = SHORT.min(depth - from);
        let panel = panel[from * NV * S::N..].as_ptr();
        // The larger part comes first: it has more to do while the panel arrives. Written out: through a function that
        // gives the parts, as other loops could use it too, the compiler halves the speed of AVX2.
        let parts = M.div_ceil(S::HELD[NV - 1]);
        for part in (0..parts).map(|part| share(M, part, parts)) {
            with_rows!(part.len(), R => if const { is_part(R, M, S::HELD[NV - 1]) } {
                // Inside the row: `from` is less than its depth.
                let rows = std::array::from_fn(|i| rows[part.start + i].wrapping_add(from * stride));
                let acc = acc[part.start..].first_chunk_mut::<R>().expect("a part of the tile");
                simd.apart(Chains { rows, stride, depth, panel, acc });
            });
        }
    }
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

impl<S: Lanes, const M: usize, const NV: usize> Chains<'_, S, M, NV> {
    #[inline(always)]
    fn step(&self, simd: S, k: usize, c: &mut [[S::V; NV]; M]) {
        let width = NV * S::N;
        // SAFETY: the panel has `width` floats for each of `depth` values of `k`.
        let line = unsafe { std::slice::from_raw_parts(self.panel.add(k * width), width) };
        // SAFETY: and every row one float.
        outer(simd, |i| unsafe { *self.rows[i].add(k * self.stride) }, line, c);
    }
}

impl<S: Lanes, const M: usize, const NV: usize> Job<S> for Chains<'_, S, M, NV> {
    type Output = ();

    #[inline(always)]
    fn run(self, simd: S) {
        let mut c = *self.acc;
        let whole = self.depth - self.depth % S::UNROLLED;
        let mut k = 0;
        while k < whole {
            for more in 0..S::UNROLLED {
                self.step(simd, k + more, &mut c);
            }
            k += S::UNROLLED;
        }
        while k < self.depth {
            self.step(simd, k, &mut c);
            k += 1;
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

#[cfg(test)]
mod tests {
    use super::super::{Dispatch, Level};
    use super::*;
    use crate::gemm::{is_tile, tiles, with_vectors};

    /// Numbers that are not alike.
    fn some(count: usize, factor: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * factor) % 1009) as f32 / 1009.0 - 0.5).collect()
    }

    /// A tile's product, the sums row by row.
    struct Tiled<'a, const M: usize, const NV: usize> {
        a: &'a [f32],
        panel: &'a [f32],
        depth: usize,
        /// Whether `a` is packed by columns, the tile's first being the last of a piece.
        columns: bool,
    }

    impl<S: Lanes, const M: usize, const NV: usize> Job<S> for Tiled<'_, M, NV> {
        type Output = Vec<f32>;
        #[inline(always)]
        fn run(self, simd: S) -> Vec<f32> {
            if !const { is_tile::<S>(M, NV) } {
                unreachable!("only tiles of the level are asked for");
            }
            let mut acc = [[simd.splat(1.0); NV]; M];
            if self.columns {
                multiply_columns(simd, (self.a, S::N - 1), self.depth, self.panel, &mut acc);
            } else {
                let starts = std::array::from_fn(|i| i * self.depth);
                let rows = Tile::<M>::of(self.a, &starts, self.depth);
                multiply(simd, &rows, self.depth, self.panel, &mut acc);
            }
            let mut out = vec![0.0; M * NV * S::N];
            for (v, to) in acc.iter().flatten().zip(out.chunks_exact_mut(S::N)) {
                simd.store(to, *v);
            }
            out
        }
    }

    /// Compares one tile of a level with a loop.
    fn check<S: Lanes>(simd: S, rows: usize, vectors: usize, depth: usize, columns: bool) {
        // As far as the last piece of its columns.
        let (a, width) = (some((rows + S::N - 1).next_multiple_of(S::N) * depth, 7), vectors * S::N);
        let panel = some(depth * width, 11);
        let found = with_rows!(rows, M => with_vectors!(vectors, NV => {
            simd.call(Tiled::<M, NV> { a: &a, panel: &panel, depth, columns })
        }));
        // Once by hand, in the same order; four lanes of plain Rust round twice where that is quicker.
        let step = |a: f32, b: f32, c: f32| match simd.level() {
            Level::Scalar if !cfg!(target_arch = "aarch64") => a * b + c,
            _ => a.mul_add(b, c),
        };
        for (at, found) in found.iter().enumerate() {
            let (row, column) = (at / width, at % width);
            let wanted = (0..depth).fold(1.0, |sum, k| {
                let of = if columns {
                    let packed = row + S::N - 1;
                    (packed / S::N * depth + k) * S::N + packed % S::N
                } else {
                    row * depth + k
                };
                step(a[of], panel[k * width + column], sum)
            });
            assert_eq!(found.to_bits(), wanted.to_bits(), "{:?} {rows}x{vectors}, {at}", simd.level());
        }
    }

    /// All tiles of a level.
    struct All;

    impl Dispatch for All {
        type Output = ();
        fn run<S: Lanes>(self, simd: S) {
            for (vectors, most) in (1..).zip(S::ROWS) {
                for rows in 1..=most {
                    for (depth, columns) in [(0, false), (1, true), (7, false), (301, false), (301, true)] {
                        check(simd, rows, vectors, depth, columns);
                    }
                }
            }
        }
    }

    /// All tiles of all levels, deep enough for several parts, are the same chain of multiply-adds to the bit.
    #[test]
    fn tiles_are_chains_in_order_of_depth() {
        for &level in Level::available() {
            level.dispatch(All);
        }
    }

    /// Tiles of a level cover all rows once, in order, none with more rows than it has.
    struct Covers(usize);

    impl Dispatch for Covers {
        type Output = ();
        fn run<S: Lanes>(self, _: S) {
            for vectors in 1..=4 {
                let mut next = 0;
                for (first, rows) in tiles::<S>(self.0, vectors) {
                    assert_eq!(first, next);
                    assert!((1..=S::ROWS[vectors - 1]).contains(&rows), "{rows} rows of {}", self.0);
                    next += rows;
                    // Only the last may leave registers empty where registers hold a part.
                    let held = S::HELD[vectors - 1];
                    assert!(held == S::ROWS[vectors - 1] || rows % held == 0 || next == self.0);
                }
                assert_eq!(next, self.0);
            }
        }
    }

    #[test]
    fn tiles_cover_all_rows() {
        for &level in Level::available() {
            for rows in 0..40 {
                level.dispatch(Covers(rows));
            }
        }
    }
}
