//! Four lanes of plain Rust: the level every machine has.

use super::{Job, Lanes, Level};

#[derive(Clone, Copy)]
pub(crate) struct Scalar;

const N: usize = 4;

#[inline(always)]
fn each(f: impl Fn(usize) -> f32) -> [f32; N] {
    std::array::from_fn(f)
}

impl Lanes for Scalar {
    type V = [f32; N];
    const N: usize = N;
    const ROWS: [usize; 4] = [4, 4, 3, 2];

    fn level(self) -> Level {
        Level::Scalar
    }

    fn call<J: Job<Self>>(self, job: J) -> J::Output {
        job.run(self)
    }

    #[inline(always)]
    fn pairs(self, _: Self::V, _: Self::V) -> Self::V {
        unreachable!("this level multiplies floats")
    }
    #[inline(always)]
    fn store_pairs(self, _: &mut [f32], _: Self::V) {
        unreachable!("this level multiplies floats")
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; N]
    }
    #[inline(always)]
    fn load(self, from: &[f32]) -> Self::V {
        [from[0], from[1], from[2], from[3]]
    }
    #[inline(always)]
    fn load_part(self, from: &[f32]) -> Self::V {
        each(|i| from.get(i).copied().unwrap_or(0.0))
    }
    #[inline(always)]
    fn store(self, to: &mut [f32], v: Self::V) {
        to[..N].copy_from_slice(&v);
    }
    #[inline(always)]
    fn store_part(self, to: &mut [f32], v: Self::V) {
        let n = to.len().min(N);
        to[..n].copy_from_slice(&v[..n]);
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn sqrt(self, a: Self::V) -> Self::V {
        each(|i| a[i].sqrt())
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // A fused multiply-add without the instruction is a slow library call.
        if cfg!(target_arch = "aarch64") {
            each(|i| a[i].mul_add(b[i], c[i]))
        } else {
            each(|i| a[i] * b[i] + c[i])
        }
    }
    #[inline(always)]
    fn fnma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        self.fma(each(|i| -a[i]), b, c)
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| if b[i] < a[i] { b[i] } else { a[i] })
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| if b[i] > a[i] { b[i] } else { a[i] })
    }
    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        // Adding 1.5 * 2^23 pushes the fraction out of the mantissa; |a| stays far below 2^22 here.
        const MAGIC: f32 = 12_582_912.0;
        each(|i| (a[i] + MAGIC) - MAGIC)
    }
    #[inline(always)]
    fn exp2_int(self, n: Self::V) -> Self::V {
        // `as` turns NaN into 0, and the caller's remainder carries the NaN on.
        each(|i| f32::from_bits(((n[i] as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    fn recip(self, a: Self::V) -> Self::V {
        each(|i| 1.0 / a[i])
    }
    #[inline(always)]
    fn interleave(self, a: Self::V, b: Self::V) -> [Self::V; 2] {
        [[a[0], b[0], a[1], b[1]], [a[2], b[2], a[3], b[3]]]
    }
    #[inline(always)]
    fn where_positive(self, gate: Self::V, v: Self::V) -> Self::V {
        each(|i| if gate[i] > 0.0 { v[i] } else { 0.0 })
    }
}
