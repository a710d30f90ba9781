//! AVX2 and AVX-512 lanes. A token of these types exists only on a processor that has the instructions.

use super::{Job, Lanes, Level};
use std::arch::x86_64::*;

/// Writes lane methods whose body is one intrinsic expression.
macro_rules! lane_methods {
    ($v:ty; $($name:ident($($arg:ident),*) = $body:expr;)*) => {
        $(#[inline(always)]
        fn $name(self, $($arg: $v),*) -> $v {
            // SAFETY: a token proves that the processor has the instructions; see `new`.
            unsafe { $body }
        })*
    };
}

#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    pub(crate) fn new() -> Self {
        assert!(Level::available().contains(&Level::Avx512), "this processor has no AVX-512");
        Avx512(())
    }
}

#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
fn call_avx512<J: Job<Avx512>>(simd: Avx512, job: J) -> J::Output {
    job.run(simd)
}

/// The lowest `n` of sixteen lanes, `n <= 16`.
#[inline(always)]
fn mask16(n: usize) -> __mmask16 {
    ((1u32 << n.min(16)) - 1) as __mmask16
}

impl Lanes for Avx512 {
    type V = __m512;
    const N: usize = 16;
    const ROWS: [usize; 4] = [6, 6, 6, 6];

    fn level(self) -> Level {
        Level::Avx512
    }

    #[inline(always)]
    fn call<J: Job<Self>>(self, job: J) -> J::Output {
        // SAFETY: a token proves that the processor has the instructions; see `new`.
        unsafe { call_avx512(self, job) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: the token proves the instructions.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn load(self, from: &[f32]) -> __m512 {
        assert!(from.len() >= 16);
        // SAFETY: the token proves the instructions, the assertion sixteen readable floats.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }
    #[inline(always)]
    fn load_part(self, from: &[f32]) -> __m512 {
        // SAFETY: the token proves the instructions; masked lanes are not touched.
        unsafe { _mm512_maskz_loadu_ps(mask16(from.len()), from.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, to: &mut [f32], v: __m512) {
        assert!(to.len() >= 16);
        // SAFETY: the token proves the instructions, the assertion sixteen writable floats.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn store_part(self, to: &mut [f32], v: __m512) {
        // SAFETY: the token proves the instructions; masked lanes are not touched.
        unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), mask16(to.len()), v) }
    }
    #[inline(always)]
    fn recip(self, a: __m512) -> __m512 {
        // SAFETY: the token proves the instructions.
        unsafe {
            // 14 good bits, doubled by one step of Newton's method.
            let r = _mm512_rcp14_ps(a);
            _mm512_mul_ps(r, _mm512_fnmadd_ps(a, r, _mm512_set1_ps(2.0)))
        }
    }
    lane_methods! { __m512;
        add(a, b) = _mm512_add_ps(a, b);
        sub(a, b) = _mm512_sub_ps(a, b);
        mul(a, b) = _mm512_mul_ps(a, b);
        div(a, b) = _mm512_div_ps(a, b);
        sqrt(a) = _mm512_sqrt_ps(a);
        fma(a, b, c) = _mm512_fmadd_ps(a, b, c);
        fnma(a, b, c) = _mm512_fnmadd_ps(a, b, c);
        min(a, b) = _mm512_min_ps(b, a);
        max(a, b) = _mm512_max_ps(b, a);
        round(a) = _mm512_roundscale_ps::<0x08>(a);
        exp2_int(n) = _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_add_epi32(
            _mm512_cvtps_epi32(n),
            _mm512_set1_epi32(127),
        )));
        scale(v, n) = _mm512_scalef_ps(v, n);
        where_positive(gate, v) = _mm512_maskz_mov_ps(
            _mm512_cmp_ps_mask::<_CMP_GT_OQ>(gate, _mm512_setzero_ps()),
            v,
        );
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    pub(crate) fn new() -> Self {
        assert!(Level::available().contains(&Level::Avx2), "this processor has no AVX2");
        Avx2(())
    }
}

#[target_feature(enable = "avx2,fma")]
fn call_avx2<J: Job<Avx2>>(simd: Avx2, job: J) -> J::Output {
    job.run(simd)
}

impl Lanes for Avx2 {
    type V = __m256;
    const N: usize = 8;
    const ROWS: [usize; 4] = [6, 6, 4, 3];

    fn level(self) -> Level {
        Level::Avx2
    }

    #[inline(always)]
    fn call<J: Job<Self>>(self, job: J) -> J::Output {
        // SAFETY: a token proves that the processor has the instructions; see `new`.
        unsafe { call_avx2(self, job) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        // SAFETY: the token proves the instructions.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    fn load(self, from: &[f32]) -> __m256 {
        assert!(from.len() >= 8);
        // SAFETY: the token proves the instructions, the assertion eight readable floats.
        unsafe { _mm256_loadu_ps(from.as_ptr()) }
    }
    #[inline(always)]
    fn load_part(self, from: &[f32]) -> __m256 {
        let mut all = [0.0; 8];
        all[..from.len()].copy_from_slice(from);
        self.load(&all)
    }
    #[inline(always)]
    fn store(self, to: &mut [f32], v: __m256) {
        assert!(to.len() >= 8);
        // SAFETY: the token proves the instructions, the assertion eight writable floats.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn store_part(self, to: &mut [f32], v: __m256) {
        let mut all = [0.0; 8];
        self.store(&mut all, v);
        let n = to.len().min(8);
        to[..n].copy_from_slice(&all[..n]);
    }
    #[inline(always)]
    fn recip(self, a: __m256) -> __m256 {
        self.div(self.splat(1.0), a)
    }
    lane_methods! { __m256;
        add(a, b) = _mm256_add_ps(a, b);
        sub(a, b) = _mm256_sub_ps(a, b);
        mul(a, b) = _mm256_mul_ps(a, b);
        div(a, b) = _mm256_div_ps(a, b);
        sqrt(a) = _mm256_sqrt_ps(a);
        fma(a, b, c) = _mm256_fmadd_ps(a, b, c);
        fnma(a, b, c) = _mm256_fnmadd_ps(a, b, c);
        min(a, b) = _mm256_min_ps(b, a);
        max(a, b) = _mm256_max_ps(b, a);
        round(a) = _mm256_round_ps::<0x08>(a);
        exp2_int(n) = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(
            _mm256_cvtps_epi32(n),
            _mm256_set1_epi32(127),
        )));
        where_positive(gate, v) = _mm256_and_ps(
            _mm256_cmp_ps::<_CMP_GT_OQ>(gate, _mm256_setzero_ps()),
            v,
        );
    }
}
