//! Vanilla RNN: `h = act(W x + b + U h + c)`.

use super::{Backward, Kernel, Panel, Traits, add_recurrent, gradient_of_h, input_sums};
use crate::simd::{Lanes, store_row};

const TRAITS: Traits = Traits {
    gates: 1,
    panel: 4,
    phases: 1,
    cell_state: false,
    extra: false,
    carries: false,
    recurrent_gates: 0,
};

#[derive(Clone, Copy)]
pub(crate) struct Tanh;
#[derive(Clone, Copy)]
pub(crate) struct Relu;

#[inline(always)]
fn forward<S: Lanes, const M: usize, const NV: usize>(
    simd: S,
    mut t: Panel<'_, '_, M>,
    act: impl Fn(S::V) -> S::V,
) {
    let mut acc = input_sums::<S, M, NV>(simd, &mut t);
    add_recurrent(simd, &t, &mut acc);
    for i in 0..M {
        for j in 0..NV {
            acc[i][j] = act(acc[i][j]);
        }
        store_row(simd, t.h(i), &acc[i]);
        // Zoneout will change `h`, whose new value the slope follows from.
        if t.tile.factors.hidden.width() > 0 && t.tile.gates.width() > 0 {
            store_row(simd, t.gates(i), &acc[i]);
        }
        store_row(simd, t.y(i), &acc[i]);
    }
}

/// `slope(h, dh)` is the gradient before the non-linearity.
#[inline(always)]
fn backward<S: Lanes, const M: usize, const NV: usize>(
    simd: S,
    t: &mut Backward<'_, M>,
    slope: impl Fn(S::V, S::V) -> S::V,
) {
    let mut dh = gradient_of_h::<S, M, NV>(simd, t, false);
    for i in 0..M {
        for j in 0..NV {
            let at = j * S::N;
            let zoned = t.factors.hidden.width() > 0;
            let new = if zoned { simd.load(&t.gates.row(i)[at..]) } else { simd.load(&t.h.row(i)[at..]) };
            dh[i][j] = slope(new, dh[i][j]);
        }
        store_row(simd, t.gates.row(i), &dh[i]);
    }
}

impl Kernel for Tanh {
    const TRAITS: Traits = TRAITS;

    #[inline(always)]
    fn forward<S: Lanes, const M: usize, const NV: usize>(simd: S, _: usize, t: Panel<'_, '_, M>) {
        forward::<S, M, NV>(simd, t, |a| simd.tanh(a));
    }

    #[inline(always)]
    fn backward<S: Lanes, const M: usize, const NV: usize>(simd: S, _: usize, t: &mut Backward<'_, M>) {
        backward::<S, M, NV>(simd, t, |h, dh| simd.fnma(simd.mul(h, h), dh, dh));
    }
}

impl Kernel for Relu {
    const TRAITS: Traits = TRAITS;

    #[inline(always)]
    fn forward<S: Lanes, const M: usize, const NV: usize>(simd: S, _: usize, t: Panel<'_, '_, M>) {
        forward::<S, M, NV>(simd, t, |a| simd.max(a, simd.splat(0.0)));
    }

    #[inline(always)]
    fn backward<S: Lanes, const M: usize, const NV: usize>(simd: S, _: usize, t: &mut Backward<'_, M>) {
        backward::<S, M, NV>(simd, t, |h, dh| simd.where_positive(h, dh));
    }
}
