//! Dot products of bytes: four of them a lane, summed up in 32 bits.
//!
//! All levels give the same integers. Both factors lie in ±127, so that a pair of products fits the 16 bits
//! that processors without a four-byte dot product sum pairs in.

#[cfg(all(target_arch = "x86_64", not(carousel_portable)))]
use super::x86;
use super::{Lanes, Level, scalar};

/// Four bytes that follow each other in depth.
pub(crate) type Quad = [i8; 4];

/// A piece of code over bytes; see [`super::Job`].
pub(crate) trait ByteJob<B: Bytes> {
    fn run(self, bytes: B);
}

/// How an instruction level multiplies bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ByteLevel {
    Scalar,
    #[cfg(all(target_arch = "x86_64", not(carousel_portable)))]
    Avx2,
    #[cfg(all(target_arch = "x86_64", not(carousel_portable)))]
    Avx512,
    /// AVX-512 with the dot product of four bytes in one instruction (VNNI).
    #[cfg(all(target_arch = "x86_64", not(carousel_portable)))]
    Vnni,
}

impl ByteLevel {
    /// Those of a level that this machine has, the fastest last.
    pub(crate) fn available(level: Level) -> &'static [ByteLevel] {
        match level {
            Level::Scalar => &[ByteLevel::Scalar],
            #[cfg(all(target_arch = "x86_64", not(carousel_portable)))]
            Level::Avx2 => &[ByteLevel::Avx2],
            #[cfg(all(target_arch = "x86_64", not(carousel_portable)))]
            Level::Avx512 if is_x86_feature_detected!("avx512vnni") => &[ByteLevel::Avx512, ByteLevel::Vnni],
            #[cfg(all(target_arch = "x86_64", not(carousel_portable)))]
            Level::Avx512 => &[ByteLevel::Avx512],
            #[cfg(not(all(target_arch = "x86_64", not(carousel_portable))))]
            _ => &[ByteLevel::Scalar],
        }
    }

    /// The fastest of a level.
    pub(crate) fn best(level: Level) -> ByteLevel {
        let all = ByteLevel::available(level);
        all[all.len() - 1]
    }
}

/// Runs a job that is one value for all byte levels with the token of one of them.
macro_rules! with_bytes {
    ($level:expr, $job:expr) => {
        match $level {
            ByteLevel::Scalar => scalar::Scalar.call_bytes($job),
            #[cfg(all(target_arch = "x86_64", not(carousel_portable)))]
            ByteLevel::Avx2 => x86::Avx2::new().call_bytes($job),
            #[cfg(all(target_arch = "x86_64", not(carousel_portable)))]
            ByteLevel::Avx512 => x86::Avx512::new().call_bytes($job),
            #[cfg(all(target_arch = "x86_64", not(carousel_portable)))]
            ByteLevel::Vnni => x86_bytes::Vnni::new().call_bytes($job),
        }
    };
}

impl ByteLevel {
    /// Compiles and runs `job` with this level's instructions.
    #[cfg(all(target_arch = "x86_64", not(carousel_portable)))]
    pub(crate) fn call<J>(self, job: J)
    where
        J: ByteJob<scalar::Scalar> + ByteJob<x86::Avx2> + ByteJob<x86::Avx512> + ByteJob<x86_bytes::Vnni>,
    {
        with_bytes!(self, job);
    }

    /// Compiles and runs `job` with this level's instructions.
    #[cfg(not(all(target_arch = "x86_64", not(carousel_portable))))]
    pub(crate) fn call<J: ByteJob<scalar::Scalar>>(self, job: J) {
        with_bytes!(self, job);
    }
}

/// One instruction set's maths of bytes. All methods but `call_bytes` are `#[inline(always)]`: they become
/// instructions only inside it.
pub(crate) trait Bytes: Copy {
    /// `N` sums of 32 bits.
    type Sums: Copy;
    /// `N` quads of weights.
    type Weights: Copy;
    /// One quad of inputs in every lane, prepared for [`dot`](Bytes::dot).
    type Input: Copy;
    const N: usize;

    /// Rows of sums, one, two, three or four vectors wide, that the registers hold at once, beside the operands.
    const HELD: [usize; 4];

    fn call_bytes<J: ByteJob<Self>>(self, job: J);

    /// What sums start from. `offsets` holds the sum of the weights of each lane, times -128: the part that
    /// is too much where inputs are multiplied as `input + 128`.
    fn start(self, offsets: &[i32]) -> Self::Sums;
    fn input(self, quad: Quad) -> Self::Input;
    /// The first `N` quads of `from`.
    fn weights(self, from: &[Quad]) -> Self::Weights;
    /// `sums + input · weights`, lane by lane. No byte is -128.
    fn dot(self, sums: Self::Sums, input: Self::Input, weights: Self::Weights) -> Self::Sums;
    fn store(self, to: &mut [i32], sums: Self::Sums);
}

impl Bytes for scalar::Scalar {
    type Sums = [i32; 4];
    type Weights = [Quad; 4];
    type Input = Quad;
    const N: usize = 4;
    const HELD: [usize; 4] = scalar::Scalar::ROWS;

    fn call_bytes<J: ByteJob<Self>>(self, job: J) {
        job.run(self);
    }

    #[inline(always)]
    fn start(self, _: &[i32]) -> [i32; 4] {
        [0; 4]
    }
    #[inline(always)]
    fn input(self, quad: Quad) -> Quad {
        quad
    }
    #[inline(always)]
    fn weights(self, from: &[Quad]) -> [Quad; 4] {
        [from[0], from[1], from[2], from[3]]
    }
    #[inline(always)]
    fn dot(self, sums: [i32; 4], input: Quad, weights: [Quad; 4]) -> [i32; 4] {
        std::array::from_fn(|lane| {
            (0..4).fold(sums[lane], |sum, k| sum + i32::from(input[k]) * i32::from(weights[lane][k]))
        })
    }
    #[inline(always)]
    fn store(self, to: &mut [i32], sums: [i32; 4]) {
        to[..4].copy_from_slice(&sums);
    }
}

#[cfg(all(target_arch = "x86_64", not(carousel_portable)))]
mod x86_bytes {
    use super::{ByteJob, Bytes, Lanes, Level, Quad};
    use crate::simd::x86::{Avx2, Avx512};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx2,fma")]
    fn call_avx2<J: ByteJob<Avx2>>(bytes: Avx2, job: J) {
        job.run(bytes);
    }

    impl Bytes for Avx2 {
        type Sums = __m256i;
        type Weights = __m256i;
        /// Signs, and absolute values.
        type Input = (__m256i, __m256i);
        const N: usize = 8;
        const HELD: [usize; 4] = [6, 4, 3, 2];

        fn call_bytes<J: ByteJob<Self>>(self, job: J) {
            // SAFETY: a token proves that the processor has the instructions; see `Avx2::new`.
            unsafe { call_avx2(self, job) }
        }

        #[inline(always)]
        fn start(self, _: &[i32]) -> __m256i {
            // SAFETY: the token proves the instructions.
            unsafe { _mm256_setzero_si256() }
        }
        #[inline(always)]
        fn input(self, quad: Quad) -> (__m256i, __m256i) {
            // SAFETY: the token proves the instructions.
            unsafe {
                let all = _mm256_set1_epi32(i32::from_le_bytes(quad.map(|byte| byte as u8)));
                (all, _mm256_abs_epi8(all))
            }
        }
        #[inline(always)]
        fn weights(self, from: &[Quad]) -> __m256i {
            assert!(from.len() >= 8);
            // SAFETY: the token proves the instructions, the assertion 32 readable bytes.
            unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
        }
        #[inline(always)]
        fn dot(self, sums: __m256i, (signs, input): (__m256i, __m256i), weights: __m256i) -> __m256i {
            // SAFETY: the token proves the instructions.
            unsafe {
                // One factor has no sign in the instruction; two products of 127 by 127 fit 16 bits.
                let pairs = _mm256_maddubs_epi16(input, _mm256_sign_epi8(weights, signs));
                _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
            }
        }
        #[inline(always)]
        fn store(self, to: &mut [i32], sums: __m256i) {
            assert!(to.len() >= 8);
            // SAFETY: the token proves the instructions, the assertion room for eight integers.
            unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), sums) }
        }
    }

    #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
    fn call_avx512<J: ByteJob<Avx512>>(bytes: Avx512, job: J) {
        job.run(bytes);
    }

    impl Bytes for Avx512 {
        type Sums = __m512i;
        type Weights = __m512i;
        /// Which bytes are negative, and absolute values.
        type Input = (__mmask64, __m512i);
        const N: usize = 16;
        const HELD: [usize; 4] = Avx512::ROWS;

        fn call_bytes<J: ByteJob<Self>>(self, job: J) {
            // SAFETY: a token proves that the processor has the instructions; see `Avx512::new`.
            unsafe { call_avx512(self, job) }
        }

        #[inline(always)]
        fn start(self, _: &[i32]) -> __m512i {
            // SAFETY: the token proves the instructions.
            unsafe { _mm512_setzero_si512() }
        }
        #[inline(always)]
        fn input(self, quad: Quad) -> (__mmask64, __m512i) {
            // SAFETY: the token proves the instructions.
            unsafe {
                let all = _mm512_set1_epi32(i32::from_le_bytes(quad.map(|byte| byte as u8)));
                (_mm512_movepi8_mask(all), _mm512_abs_epi8(all))
            }
        }
        #[inline(always)]
        fn weights(self, from: &[Quad]) -> __m512i {
            load(from)
        }
        #[inline(always)]
        fn dot(self, sums: __m512i, (negative, input): (__mmask64, __m512i), weights: __m512i) -> __m512i {
            // SAFETY: the token proves the instructions.
            unsafe {
                // As above, with the sign moved over by hand.
                let signed = _mm512_mask_sub_epi8(weights, negative, _mm512_setzero_si512(), weights);
                let pairs = _mm512_maddubs_epi16(input, signed);
                _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
            }
        }
        #[inline(always)]
        fn store(self, to: &mut [i32], sums: __m512i) {
            store(to, sums);
        }
    }

    /// Sixteen quads.
    #[inline(always)]
    fn load(from: &[Quad]) -> __m512i {
        assert!(from.len() >= 16);
        // SAFETY: only called with a token that proves AVX-512; the assertion proves 64 readable bytes.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store(to: &mut [i32], sums: __m512i) {
        assert!(to.len() >= 16);
        // SAFETY: only called with a token that proves AVX-512; the assertion proves the room.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), sums) }
    }

    /// AVX-512 with VNNI.
    #[derive(Clone, Copy)]
    pub(crate) struct Vnni(());

    impl Vnni {
        pub(crate) fn new() -> Vnni {
            let has = Level::available().contains(&Level::Avx512) && is_x86_feature_detected!("avx512vnni");
            assert!(has, "this processor has no AVX-512 VNNI");
            Vnni(())
        }
    }

    #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512vnni,avx2,fma")]
    fn call_vnni<J: ByteJob<Vnni>>(bytes: Vnni, job: J) {
        job.run(bytes);
    }

    impl Bytes for Vnni {
        type Sums = __m512i;
        type Weights = __m512i;
        /// The inputs plus 128, which have no sign.
        type Input = __m512i;
        const N: usize = 16;
        const HELD: [usize; 4] = Avx512::ROWS;

        fn call_bytes<J: ByteJob<Self>>(self, job: J) {
            // SAFETY: a token proves that the processor has the instructions; see `new`.
            unsafe { call_vnni(self, job) }
        }

        #[inline(always)]
        fn start(self, offsets: &[i32]) -> __m512i {
            assert!(offsets.len() >= 16);
            // SAFETY: the token proves the instructions, the assertion sixteen readable integers.
            unsafe { _mm512_loadu_si512(offsets.as_ptr().cast()) }
        }
        #[inline(always)]
        fn input(self, quad: Quad) -> __m512i {
            // SAFETY: the token proves the instructions.
            unsafe {
                _mm512_set1_epi32(i32::from_le_bytes(quad.map(|byte| byte as u8)) ^ 0x8080_8080_u32 as i32)
            }
        }
        #[inline(always)]
        fn weights(self, from: &[Quad]) -> __m512i {
            load(from)
        }
        #[inline(always)]
        fn dot(self, sums: __m512i, input: __m512i, weights: __m512i) -> __m512i {
            // SAFETY: the token proves the instructions.
            unsafe { _mm512_dpbusd_epi32(sums, input, weights) }
        }
        #[inline(always)]
        fn store(self, to: &mut [i32], sums: __m512i) {
            store(to, sums);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One product a lane.
    struct Dots<'a> {
        input: &'a [Quad],
        /// `[depth][N]`
        weights: &'a [Quad],
        found: &'a mut Vec<i32>,
    }

    impl<B: Bytes> ByteJob<B> for Dots<'_> {
        #[inline(always)]
        fn run(self, bytes: B) {
            let mut offsets = [0; 16];
            for (at, quad) in self.weights.iter().enumerate() {
                offsets[at % B::N] -= 128 * quad.iter().map(|&byte| i32::from(byte)).sum::<i32>();
            }
            let mut sums = bytes.start(&offsets);
            for (quad, line) in self.input.iter().zip(self.weights.chunks_exact(B::N)) {
                sums = bytes.dot(sums, bytes.input(*quad), bytes.weights(line));
            }
            self.found.resize(B::N, 0);
            bytes.store(self.found, sums);
        }
    }

    #[test]
    fn every_level_gives_the_same_integers() {
        let mut state = 9u64;
        let mut byte = |most: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let value = (state >> 33) % (2 * most + 1);
            (value as i64 - most as i64) as i8
        };
        for &level in Level::available() {
            for &byte_level in ByteLevel::available(level) {
                for depth in [0, 1, 5, 300] {
                    let lanes = level.lanes();
                    // The extremes: products of 127 by 127 with either sign.
                    let check = |value: &mut dyn FnMut(usize) -> i8| {
                        let mut quads = |count: usize| -> Vec<Quad> {
                            (0..count).map(|at| std::array::from_fn(|k| value(4 * at + k))).collect()
                        };
                        let (input, weights) = (quads(depth), quads(depth * lanes));
                        let expected: Vec<i32> = (0..lanes)
                            .map(|lane| {
                                (0..4 * depth)
                                    .map(|k| {
                                        let weight = weights[k / 4 * lanes + lane][k % 4];
                                        i32::from(input[k / 4][k % 4]) * i32::from(weight)
                                    })
                                    .sum()
                            })
                            .collect();
                        let mut found = Vec::new();
                        byte_level.call(Dots { input: &input, weights: &weights, found: &mut found });
                        assert_eq!(found, expected, "{byte_level:?} depth {depth}");
                    };
                    check(&mut |_| byte(127));
                    check(&mut |_| byte(2));
                    check(&mut |_| 127);
                    check(&mut |_| -127);
                    check(&mut |at| if at % 3 == 0 { -127 } else { 127 });
                }
                println!("checked at {byte_level:?}");
            }
        }
    }
}
