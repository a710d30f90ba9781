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
    fn pairs(self, _: Self::V, _: Self::V) -> Self::V {
        unreachable!("this level multiplies floats")
    }
    #[inline(always)]
    fn store_pairs(self, _: &mut [f32], _: Self::V) {
        unreachable!("this level multiplies floats")
    }
    #[inline(always)]
    fn prefetch(self, from: &[f32]) {
        prefetch(from);
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
    #[inline(always)]
    fn interleave(self, a: __m512, b: __m512) -> [__m512; 2] {
        // SAFETY: the token proves the instructions.
        unsafe {
            // Lane 16 is the first one of `b`.
            let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            let high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
            [_mm512_permutex2var_ps(a, low, b), _mm512_permutex2var_ps(a, high, b)]
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

/// The compiler notes at the call that `alone` is never to be inlined, and only where the caller has the same
/// instructions: so `alone` needs this one around it.
#[target_feature(enable = "avx2,fma")]
fn apart_avx2<J: Job<Avx2>>(simd: Avx2, job: J) -> J::Output {
    #[inline(never)]
    #[target_feature(enable = "avx2,fma")]
    fn alone<J: Job<Avx2>>(simd: Avx2, job: J) -> J::Output {
        job.run(simd)
    }
    alone(simd, job)
}

impl Lanes for Avx2 {
    type V = __m256;
    const N: usize = 8;
    const ROWS: [usize; 4] = [6, 6, 6, 6];
    const HELD: [usize; 4] = [6, 6, 3, 3];
    const UNROLLED: usize = 4;

    fn level(self) -> Level {
        Level::Avx2
    }

    #[inline(always)]
    fn call<J: Job<Self>>(self, job: J) -> J::Output {
        // SAFETY: a token proves that the processor has the instructions; see `new`.
        unsafe { call_avx2(self, job) }
    }

    #[inline(always)]
    fn apart<J: Job<Self>>(self, job: J) -> J::Output {
        // SAFETY: a token proves that the processor has the instructions; see `new`.
        unsafe { apart_avx2(self, job) }
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
    fn prefetch(self, from: &[f32]) {
        prefetch(from);
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
    #[inline(always)]
    fn interleave(self, a: __m256, b: __m256) -> [__m256; 2] {
        // SAFETY: the token proves the instructions.
        unsafe {
            // Both take half of what they give from the lower four lanes, half from the upper four.
            let (even, odd) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            [_mm256_permute2f128_ps::<0x20>(even, odd), _mm256_permute2f128_ps::<0x31>(even, odd)]
        }
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

/// AVX-512 whose products take pairs of bfloat16.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Bf16(Avx512);

impl Avx512Bf16 {
    pub(crate) fn new() -> Self {
        assert!(super::has_bf16(), "this processor has no AVX-512 BF16");
        Avx512Bf16(Avx512::new())
    }
}

#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512bf16,avx2,fma")]
fn call_avx512_bf16<J: Job<Avx512Bf16>>(simd: Avx512Bf16, job: J) -> J::Output {
    job.run(simd)
}

/// Asks for every cache line of `from`.
#[inline(always)]
fn prefetch(from: &[f32]) {
    for line in from.chunks(16) {
        // SAFETY: every x86-64 processor has the instruction, and it reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
}

/// Writes lane methods that do what plain AVX-512 does.
macro_rules! as_avx512 {
    ($($name:ident($($arg:ident: $t:ty),*) -> $out:ty;)*) => {
        $(#[inline(always)]
        fn $name(self, $($arg: $t),*) -> $out {
            self.0.$name($($arg),*)
        })*
    };
}

impl Lanes for Avx512Bf16 {
    type V = __m512;
    const N: usize = 16;
    const ROWS: [usize; 4] = Avx512::ROWS;
    const PAIRS: bool = true;

    #[inline(always)]
    fn call<J: Job<Self>>(self, job: J) -> J::Output {
        // SAFETY: a token proves that the processor has the instructions; see `new`.
        unsafe { call_avx512_bf16(self, job) }
    }

    #[inline(always)]
    fn product(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the token proves the instructions; the three vector types are the same 64 bytes.
        unsafe {
            let (a, b) = std::mem::transmute::<(__m512, __m512), (__m512bh, __m512bh)>((a, b));
            _mm512_dpbf16_ps(c, a, b)
        }
    }

    #[inline(always)]
    fn pairs(self, low: __m512, high: __m512) -> __m512 {
        const fn interleaved() -> [u16; 32] {
            let mut order = [0; 32];
            let mut lane = 0;
            while lane < 16 {
                order[2 * lane] = lane as u16;
                order[2 * lane + 1] = 16 + lane as u16;
                lane += 1;
            }
            order
        }
        const ORDER: [u16; 32] = interleaved();
        // SAFETY: the token proves the instructions; `ORDER` and the vectors are 64 bytes each.
        unsafe {
            let both = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
            let order = _mm512_loadu_si512(ORDER.as_ptr().cast());
            _mm512_castsi512_ps(_mm512_permutexvar_epi16(order, both))
        }
    }

    #[inline(always)]
    fn store_pairs(self, to: &mut [f32], v: __m512) {
        assert!(to.len() >= 8);
        // SAFETY: the token proves the instructions, the assertion 32 writable bytes.
        unsafe {
            let narrow = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v));
            _mm256_storeu_si256(to.as_mut_ptr().cast(), narrow);
        }
    }

    as_avx512! {
        level() -> Level;
        prefetch(from: &[f32]) -> ();
        splat(x: f32) -> __m512;
        load(from: &[f32]) -> __m512;
        load_part(from: &[f32]) -> __m512;
        store(to: &mut [f32], v: __m512) -> ();
        store_part(to: &mut [f32], v: __m512) -> ();
        recip(a: __m512) -> __m512;
        add(a: __m512, b: __m512) -> __m512;
        sub(a: __m512, b: __m512) -> __m512;
        mul(a: __m512, b: __m512) -> __m512;
        div(a: __m512, b: __m512) -> __m512;
        sqrt(a: __m512) -> __m512;
        fma(a: __m512, b: __m512, c: __m512) -> __m512;
        fnma(a: __m512, b: __m512, c: __m512) -> __m512;
        min(a: __m512, b: __m512) -> __m512;
        max(a: __m512, b: __m512) -> __m512;
        round(a: __m512) -> __m512;
        exp2_int(n: __m512) -> __m512;
        scale(v: __m512, n: __m512) -> __m512;
        where_positive(gate: __m512, v: __m512) -> __m512;
        interleave(a: __m512, b: __m512) -> [__m512; 2];
    }
}
