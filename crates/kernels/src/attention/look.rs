//! All steps of one sentence look at it, and the gradients of that.

use super::{Attention, Score};
use crate::linear::LANES;
use crate::simd::{Job, Lanes, load_row, store_row};

/// How steps and states are compared, rows filled up with zeros.
#[derive(Clone, Copy)]
pub(super) enum Fit<'a> {
    /// Their product times this.
    Product(f32),
    /// The vector's product with the hyperbolic tangents of their sum.
    Sum(&'a [f32]),
}

impl<'a> Fit<'a> {
    /// With the vector of additive attention.
    pub(super) fn of(attention: Attention, vector: &'a [f32]) -> Fit<'a> {
        match attention.score {
            Score::Dot | Score::General => Fit::Product(1.0),
            Score::ScaledDot | Score::ScaledGeneral => Fit::Product(1.0 / (attention.hidden as f32).sqrt()),
            Score::Additive => Fit::Sum(vector),
        }
    }
}

/// All steps of one sentence look at it.
pub(super) struct Look<'a> {
    pub(super) fit: Fit<'a>,
    pub(super) wide: usize,
    pub(super) keys: &'a [f32],
    pub(super) values: &'a [f32],
    pub(super) queries: &'a [f32],
    pub(super) shares: &'a mut [f32],
    /// The step's own part, to which what it reads is added.
    pub(super) out: &'a mut [f32],
}

impl<S: Lanes> Job<S> for Look<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self, simd: S) {
        let Look { fit, wide, keys, values, queries, shares, out } = self;
        let places = keys.len() / wide;
        if places == 0 {
            return;
        }
        let steps = queries.chunks_exact(wide).zip(shares.chunks_exact_mut(places));
        for ((query, shares), out) in steps.zip(out.chunks_exact_mut(wide)) {
            match fit {
                Fit::Product(scale) => {
                    dots(simd, query, keys, shares);
                    if scale != 1.0 {
                        shares.iter_mut().for_each(|share| *share *= scale);
                    }
                }
                Fit::Sum(vector) => {
                    for (share, key) in shares.iter_mut().zip(keys.chunks_exact(wide)) {
                        let mut sum = simd.splat(0.0);
                        for c in (0..wide).step_by(S::N) {
                            let t = simd.tanh(simd.add(simd.load(&query[c..]), simd.load(&key[c..])));
                            sum = simd.fma(simd.load(&vector[c..]), t, sum);
                        }
                        *share = sum_lanes(simd, sum);
                    }
                }
            }
            softmax(simd, shares);
            add_weighted(simd, |place| shares[place], values, out);
            for out in out.chunks_exact_mut(S::N) {
                let all = simd.tanh(simd.load(out));
                simd.store(out, all);
            }
        }
    }
}

/// The lanes' sum, by halves.
#[inline(always)]
fn sum_lanes<S: Lanes>(simd: S, v: S::V) -> f32 {
    let mut all = [0.0; LANES];
    simd.store(&mut all, v);
    let mut count = S::N;
    while count > 1 {
        count /= 2;
        for lane in 0..count {
            all[lane] += all[lane + count];
        }
    }
    all[0]
}

/// `out[i] = a · rows[i]`, rows as long as `a`.
#[inline(always)]
fn dots<S: Lanes>(simd: S, a: &[f32], rows: &[f32], out: &mut [f32]) {
    let wide = a.len();
    let whole = out.len() / 4 * 4;
    let (fours, rest) = out.split_at_mut(whole);
    for (out, rows) in fours.chunks_exact_mut(4).zip(rows.chunks_exact(4 * wide)) {
        let (r0, rows) = rows.split_at(wide);
        let (r1, rows) = rows.split_at(wide);
        let (r2, r3) = rows.split_at(wide);
        let mut sums = [simd.splat(0.0); 4];
        let columns = a.chunks_exact(S::N).zip(r0.chunks_exact(S::N).zip(r1.chunks_exact(S::N)));
        for ((a, (r0, r1)), (r2, r3)) in columns.zip(r2.chunks_exact(S::N).zip(r3.chunks_exact(S::N))) {
            let a = simd.load(a);
            sums[0] = simd.fma(a, simd.load(r0), sums[0]);
            sums[1] = simd.fma(a, simd.load(r1), sums[1]);
            sums[2] = simd.fma(a, simd.load(r2), sums[2]);
            sums[3] = simd.fma(a, simd.load(r3), sums[3]);
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = sum_lanes(simd, sum);
        }
    }
    for (out, row) in rest.iter_mut().zip(rows[whole * wide..].chunks_exact(wide)) {
        let mut sum = simd.splat(0.0);
        for (a, row) in a.chunks_exact(S::N).zip(row.chunks_exact(S::N)) {
            sum = simd.fma(simd.load(a), simd.load(row), sum);
        }
        *out = sum_lanes(simd, sum);
    }
}

/// `out += Σ weight(i) · rows[i]`, rows as long as `out`.
#[inline(always)]
fn add_weighted<S: Lanes>(simd: S, weight: impl Fn(usize) -> f32, rows: &[f32], out: &mut [f32]) {
    let wide = out.len();
    let mut column = 0;
    while column < wide {
        // Four vectors at a time, as far as there are.
        if column + 4 * S::N <= wide {
            add_columns::<S, 4>(simd, &weight, rows, out, column);
            column += 4 * S::N;
        } else {
            add_columns::<S, 1>(simd, &weight, rows, out, column);
            column += S::N;
        }
    }
}

#[inline(always)]
fn add_columns<S: Lanes, const NV: usize>(
    simd: S,
    weight: &impl Fn(usize) -> f32,
    rows: &[f32],
    out: &mut [f32],
    column: usize,
) {
    let wide = out.len();
    let mut sums = [simd.splat(0.0); NV];
    load_row(simd, &out[column..][..NV * S::N], &mut sums);
    for (i, row) in rows.chunks_exact(wide).enumerate() {
        let (weight, row) = (simd.splat(weight(i)), &row[column..][..NV * S::N]);
        for j in 0..NV {
            sums[j] = simd.fma(weight, simd.load(&row[j * S::N..]), sums[j]);
        }
    }
    store_row(simd, &mut out[column..][..NV * S::N], &sums);
}

/// Softmax in place.
#[inline(always)]
fn softmax<S: Lanes>(simd: S, values: &mut [f32]) {
    let top = simd.splat(values.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let mut total = 0.0;
    for values in values.chunks_mut(S::N) {
        let e = simd.exp_negative(simd.sub(simd.load_part(values), top));
        simd.store_part(values, e);
        total += values.iter().sum::<f32>();
    }
    values.iter_mut().for_each(|value| *value /= total);
}

/// The gradients of [`Look`], overwritten; `dout` is that of the sum before the hyperbolic tangent.
pub(super) struct LookBack<'a> {
    pub(super) fit: Fit<'a>,
    pub(super) wide: usize,
    pub(super) keys: &'a [f32],
    pub(super) values: &'a [f32],
    pub(super) queries: &'a [f32],
    pub(super) shares: &'a [f32],
    pub(super) dout: &'a [f32],
    pub(super) dshares: &'a mut [f32],
    pub(super) dqueries: &'a mut [f32],
    pub(super) dkeys: &'a mut [f32],
    pub(super) dvalues: &'a mut [f32],
    pub(super) dvector: &'a mut [f32],
}

impl<S: Lanes> Job<S> for LookBack<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self, simd: S) {
        let LookBack {
            fit,
            wide,
            keys,
            values,
            queries,
            shares,
            dout,
            dshares,
            dqueries,
            dkeys,
            dvalues,
            dvector,
        } = self;
        for rows in [&mut *dqueries, &mut *dkeys, &mut *dvalues, &mut *dvector] {
            rows.fill(0.0);
        }
        let places = keys.len() / wide;
        if places == 0 {
            return;
        }
        let steps = shares.chunks_exact(places).zip(dshares.chunks_exact_mut(places));
        for ((shares, dshares), dout) in steps.zip(dout.chunks_exact(wide)) {
            dots(simd, dout, values, dshares);
            let mean: f32 = shares.iter().zip(&*dshares).map(|(share, d)| share * d).sum();
            dshares.iter_mut().zip(shares).for_each(|(d, share)| *d = share * (*d - mean));
        }
        match fit {
            Fit::Product(scale) => {
                if scale != 1.0 {
                    dshares.iter_mut().for_each(|d| *d *= scale);
                }
                for (d, dquery) in dshares.chunks_exact(places).zip(dqueries.chunks_exact_mut(wide)) {
                    add_weighted(simd, |place| d[place], keys, dquery);
                }
                for (place, dkey) in dkeys.chunks_exact_mut(wide).enumerate() {
                    add_weighted(simd, |step| dshares[step * places + place], queries, dkey);
                }
            }
            Fit::Sum(vector) => {
                let steps = queries.chunks_exact(wide).zip(dqueries.chunks_exact_mut(wide));
                for ((query, dquery), d) in steps.zip(dshares.chunks_exact(places)) {
                    let rows = keys.chunks_exact(wide).zip(dkeys.chunks_exact_mut(wide));
                    for ((key, dkey), &d) in rows.zip(d) {
                        let d = simd.splat(d);
                        for c in (0..wide).step_by(S::N) {
                            let t = simd.tanh(simd.add(simd.load(&query[c..]), simd.load(&key[c..])));
                            let sum = simd.fma(d, t, simd.load(&dvector[c..]));
                            simd.store(&mut dvector[c..], sum);
                            // d · v · (1 - t²)
                            let slope = simd.fnma(t, t, simd.splat(1.0));
                            let g = simd.mul(simd.mul(d, simd.load(&vector[c..])), slope);
                            let sum = simd.add(simd.load(&dquery[c..]), g);
                            simd.store(&mut dquery[c..], sum);
                            let sum = simd.add(simd.load(&dkey[c..]), g);
                            simd.store(&mut dkey[c..], sum);
                        }
                    }
                }
            }
        }
        for (place, dvalue) in dvalues.chunks_exact_mut(wide).enumerate() {
            add_weighted(simd, |step| shares[step * places + place], dout, dvalue);
        }
    }
}
