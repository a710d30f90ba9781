//! Lane maths per instruction set, chosen once at run time.
//!
//! A token type (`Scalar`, `Avx2`, `Avx512`) stands for the proof that the processor has those
//! instructions: only [`Level::dispatch`] makes one, after asking the processor. Everything that computes
//! is written once, generic over [`Lanes`], and compiled once per level inside [`Lanes::call`].

mod bytes;
mod micro;
mod rows;
mod scalar;
#[cfg(all(target_arch = "x86_64", not(carousel_portable)))]
mod x86;

use std::sync::atomic::{AtomicU8, Ordering};

pub(crate) use bytes::{ByteJob, ByteLevel, Bytes, Quad};
pub(crate) use micro::{multiply, multiply_columns};
pub(crate) use rows::{load_row, narrow_row, store_row};

/// An instruction level. Higher levels are faster; results differ in the last bits between levels and
/// never within one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    /// Plain Rust on four lanes; what the compiler makes of it. On AArch64 this is NEON code.
    Scalar = 1,
    /// x86-64 with AVX2 and FMA, eight lanes.
    Avx2 = 2,
    /// x86-64 with AVX-512 F, VL, DQ and BW, sixteen lanes.
    Avx512 = 3,
}

/// 0 until the first question, then a level.
static CURRENT: AtomicU8 = AtomicU8::new(0);

impl Level {
    /// The levels this machine has, lowest first.
    #[must_use]
    pub fn available() -> &'static [Level] {
        #[cfg(all(target_arch = "x86_64", not(carousel_portable)))]
        {
            if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")) {
                return &[Level::Scalar];
            }
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512bw")
            {
                return &[Level::Scalar, Level::Avx2, Level::Avx512];
            }
            &[Level::Scalar, Level::Avx2]
        }
        #[cfg(not(all(target_arch = "x86_64", not(carousel_portable))))]
        &[Level::Scalar]
    }

    /// The level that the next call uses: the highest one this machine has, or the one that was forced.
    #[must_use]
    pub fn current() -> Level {
        match CURRENT.load(Ordering::Relaxed) {
            1 => Level::Scalar,
            2 => Level::Avx2,
            3 => Level::Avx512,
            _ => {
                let best = Level::available()[Level::available().len() - 1];
                CURRENT.store(best as u8, Ordering::Relaxed);
                best
            }
        }
    }

    /// Forces a level for the whole process; for tests and measurements. Returns false, and changes
    /// nothing, where this machine does not have it.
    pub fn force(self) -> bool {
        let available = Level::available().contains(&self);
        if available {
            CURRENT.store(self as u8, Ordering::Relaxed);
        }
        available
    }

    /// How many floats one vector holds.
    #[must_use]
    pub const fn lanes(self) -> usize {
        match self {
            Level::Scalar => 4,
            Level::Avx2 => 8,
            Level::Avx512 => 16,
        }
    }

    /// Runs `job` with this level's token for products of a precision; 32-bit floats where it is missing.
    pub(crate) fn dispatch_at<J: Dispatch>(self, precision: Precision, job: J) -> J::Output {
        #[cfg(all(target_arch = "x86_64", not(carousel_portable)))]
        if precision == Precision::Bf16 && self == Level::Avx512 && has_bf16() {
            return job.run(x86::Avx512Bf16::new());
        }
        let _ = precision;
        self.dispatch(job)
    }

    /// Runs `job` with this level's token.
    pub(crate) fn dispatch<J: Dispatch>(self, job: J) -> J::Output {
        match self {
            #[cfg(all(target_arch = "x86_64", not(carousel_portable)))]
            Level::Avx512 => job.run(x86::Avx512::new()),
            #[cfg(all(target_arch = "x86_64", not(carousel_portable)))]
            Level::Avx2 => job.run(x86::Avx2::new()),
            _ => job.run(scalar::Scalar),
        }
    }
}

/// How the operands of products are stored; everything is summed in 32-bit floats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// Weights, inputs, states and gate gradients are rounded to bfloat16 (8 bits of mantissa) where they are
    /// multiplied. Weights, sums, gates, states and gradients stay 32-bit floats.
    Bf16,
}

impl Precision {
    /// Whether this machine has instructions for it. Where it has not, kernels use 32-bit floats instead, and so
    /// they do for a GRU that resets before the product.
    #[must_use]
    pub fn is_available(self) -> bool {
        self == Precision::F32 || has_bf16()
    }
}

/// Whether the processor multiplies pairs of bfloat16.
fn has_bf16() -> bool {
    #[cfg(all(target_arch = "x86_64", not(carousel_portable)))]
    {
        Level::available().contains(&Level::Avx512) && is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(all(target_arch = "x86_64", not(carousel_portable))))]
    false
}

/// Two numbers rounded to bfloat16 (to nearest, ties to even), as the bits of one float: `low` in the lower half.
pub(crate) fn pair(low: f32, high: f32) -> f32 {
    let round = |x: f32| {
        let bits = x.to_bits();
        // A NaN must not be rounded to infinity.
        if x.is_nan() { bits >> 16 | 0x40 } else { (bits + 0x7fff + (bits >> 16 & 1)) >> 16 }
    };
    f32::from_bits(round(high) << 16 | round(low))
}

/// Code that is generic over the level, entered by [`Level::dispatch`].
pub(crate) trait Dispatch {
    type Output;
    fn run<S: Lanes>(self, simd: S) -> Self::Output;
}

/// A piece of lane code compiled with the level's instructions switched on. `run` must be
/// `#[inline(always)]`, and so must all it calls.
pub(crate) trait Job<S: Lanes> {
    type Output;
    fn run(self, simd: S) -> Self::Output;
}

/// No level has more lanes.
pub(crate) const MOST_LANES: usize = 16;

/// One instruction set's lane maths. All methods are `#[inline(always)]`: they become instructions only
/// inside [`Lanes::call`].
pub(crate) trait Lanes: Copy + Send + Sync + 'static {
    /// A vector of `N` floats.
    type V: Copy;
    const N: usize;

    fn level(self) -> Level;

    /// Compiles and runs `job` with this level's instructions.
    fn call<J: Job<Self>>(self, job: J) -> J::Output;

    /// Runs `job`, a loop that fills the registers. Where there are so few that what stands around the loop would
    /// drive the loop's own values out of them, it is compiled by itself.
    #[inline(always)]
    fn apart<J: Job<Self>>(self, job: J) -> J::Output {
        job.run(self)
    }

    /// Rows of a tile that is one, two, three or four vectors wide. More of them read a panel less often.
    const ROWS: [usize; 4];

    /// Rows of it that the registers hold at once, beside the operands.
    const HELD: [usize; 4] = Self::ROWS;

    /// Steps of a product's loop in one piece. With short vectors there is little work a step, and counting is no small
    /// part of what the processor has to do for it.
    const UNROLLED: usize = 1;

    /// Asks for the cache lines of `from`, so that they are near when they are read later. Nothing where a level has no
    /// such instruction.
    #[inline(always)]
    fn prefetch(self, from: &[f32]) {
        let _ = from;
    }

    fn splat(self, x: f32) -> Self::V;
    /// The first `N` floats of `from`.
    fn load(self, from: &[f32]) -> Self::V;
    /// All of `from`, at most `N` floats; the other lanes are zero.
    fn load_part(self, from: &[f32]) -> Self::V;
    fn store(self, to: &mut [f32], v: Self::V);
    /// As many lanes as `to` has room for.
    fn store_part(self, to: &mut [f32], v: Self::V);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    fn sqrt(self, a: Self::V) -> Self::V;
    /// `a * b + c`, rounded once where the level has it.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `c - a * b`
    fn fnma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// NaN where `a` is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// NaN where `a` is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// To the nearest integer.
    fn round(self, a: Self::V) -> Self::V;
    /// `2^n` for integers `-126 <= n <= 127`.
    fn exp2_int(self, n: Self::V) -> Self::V;
    /// `1 / a` to about one unit in the last place, for `1 <= a < 2^100`.
    fn recip(self, a: Self::V) -> Self::V;
    /// Whether products take pairs of bfloat16, each pair in the place of one float: twice the depth in the
    /// same loop.
    const PAIRS: bool = false;

    /// What a product adds up: `a * b + c`, or the sum over both numbers of a pair.
    #[inline(always)]
    fn product(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        self.fma(a, b, c)
    }

    /// `N` pairs of bfloat16, first the number from `low`.
    fn pairs(self, low: Self::V, high: Self::V) -> Self::V;

    /// Stores `N` floats as `N / 2` pairs of neighbours.
    fn store_pairs(self, to: &mut [f32], v: Self::V);

    /// The depth of a product over `count` numbers.
    fn depth(count: usize) -> usize {
        if Self::PAIRS { count.div_ceil(2) } else { count }
    }

    /// The lanes of both by turns, first one of `a`: in all `2 N`, the first half and the second.
    fn interleave(self, a: Self::V, b: Self::V) -> [Self::V; 2];

    /// `v` where `gate > 0`, else zero.
    fn where_positive(self, gate: Self::V, v: Self::V) -> Self::V;

    /// `(e^r - 1, 2^n)` with `y = n ln 2 + r`, `|r| <= ln 2 / 2`; Taylor series to the seventh power,
    /// relative error of `e^r` below 1e-7. For `|y| <= 87`.
    #[inline(always)]
    fn exp_parts(self, y: Self::V) -> (Self::V, Self::V) {
        let n = self.round(self.mul(y, self.splat(std::f32::consts::LOG2_E)));
        // ln 2 in two parts, so that the remainder keeps its bits (Cody and Waite).
        let r = self.fnma(n, self.splat(0.693_359_4), y);
        let r = self.fnma(n, self.splat(-2.121_944_4e-4), r);
        let mut q = self.splat(1.0 / 5040.0);
        q = self.fma(q, r, self.splat(1.0 / 720.0));
        q = self.fma(q, r, self.splat(1.0 / 120.0));
        q = self.fma(q, r, self.splat(1.0 / 24.0));
        q = self.fma(q, r, self.splat(1.0 / 6.0));
        q = self.fma(q, r, self.splat(0.5));
        (self.fma(self.mul(r, r), q, r), self.exp2_int(n))
    }

    /// `e^y` for `y <= 0`; zero below -87.
    #[inline(always)]
    fn exp_negative(self, y: Self::V) -> Self::V {
        let floor = self.splat(-87.0);
        let (p, s) = self.exp_parts(self.max(y, floor));
        let e = self.fma(s, p, s);
        // Taken away where y lies below, not kept where it lies above: so NaN stays NaN.
        self.sub(e, self.where_positive(self.sub(floor, y), e))
    }

    /// `v · 2^n` for integers `-126 <= n <= 127`.
    #[inline(always)]
    fn scale(self, v: Self::V, n: Self::V) -> Self::V {
        self.mul(v, self.exp2_int(n))
    }

    /// `y` in two parts for powers of two: the nearest integer, and a rest of at most a half. `y` is kept
    /// within `±limit`; a NaN goes on in the rest.
    #[inline(always)]
    fn exp2_parts(self, y: Self::V, limit: f32) -> (Self::V, Self::V) {
        let y = self.max(self.min(y, self.splat(limit)), self.splat(-limit));
        let n = self.round(y);
        (n, self.sub(y, n))
    }

    /// `1 / (1 + e^-x)`
    #[inline(always)]
    fn sigmoid(self, x: Self::V) -> Self::V {
        let (n, f) = self.exp2_parts(self.mul(x, self.splat(-std::f32::consts::LOG2_E)), 86.0);
        // 2^f = 1 + f q(f), minimax on [-1/2, 1/2], relative error below 1e-7.
        let mut q = self.splat(1.326_472_7e-3);
        q = self.fma(q, f, self.splat(9.671_513e-3));
        q = self.fma(q, f, self.splat(5.550_733_6e-2));
        q = self.fma(q, f, self.splat(0.240_222_42));
        q = self.fma(q, f, self.splat(std::f32::consts::LN_2));
        let e = self.scale(self.fma(q, f, self.splat(1.0)), n);
        self.recip(self.add(e, self.splat(1.0)))
    }

    /// `(e^2x - 1) / (e^2x + 1)`, from `e^2x - 1` so that small `x` keep their bits.
    #[inline(always)]
    fn tanh(self, x: Self::V) -> Self::V {
        let (n, f) = self.exp2_parts(self.mul(x, self.splat(2.0 * std::f32::consts::LOG2_E)), 29.0);
        // 2^f - 1 = f q(f), minimax on [-1/2, 1/2], relative error below 2e-8.
        let mut q = self.splat(1.546_973_5e-4);
        q = self.fma(q, f, self.splat(1.339_086_7e-3));
        q = self.fma(q, f, self.splat(9.618_031e-3));
        q = self.fma(q, f, self.splat(5.550_357e-2));
        q = self.fma(q, f, self.splat(0.240_226_5));
        q = self.fma(q, f, self.splat(std::f32::consts::LN_2));
        let s = self.scale(self.splat(1.0), n);
        let em1 = self.fma(self.mul(q, f), s, self.sub(s, self.splat(1.0)));
        // em1 + 2 lies between 1 and 6e8.
        self.mul(em1, self.recip(self.add(em1, self.splat(2.0))))
    }
}
