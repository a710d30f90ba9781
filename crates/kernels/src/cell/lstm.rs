//! LSTM, gates i f g o:
//!
//! ```text
//! i, f, o = sigmoid(W x + b + U h + c)    g = tanh(W x + b + U h + c)
//! c' = f * c + i * g                      h' = o * tanh(c')
//! ```

use super::{Backward, Kernel, Panel, Traits, add_recurrent, gradient_of_h, input_sums, zoned};
use crate::chance::times;
use crate::simd::{Lanes, load_row, store_row};

#[derive(Clone, Copy)]
pub(crate) struct Lstm;

impl Kernel for Lstm {
    const TRAITS: Traits = Traits {
        gates: 4,
        panel: 4,
        phases: 1,
        cell_state: true,
        extra: true,
        carries: false,
        recurrent_gates: 0,
    };

    #[inline(always)]
    fn forward<S: Lanes, const M: usize, const NV: usize>(simd: S, _: usize, mut t: Panel<'_, '_, M>) {
        assert!(NV == 4);
        let mut acc = input_sums::<S, M, NV>(simd, &mut t);
        add_recurrent(simd, &t, &mut acc);
        let taped = t.has_extra();
        // All rows of a tile stand beside each other in both loops: a row's gates and its tanh of `c`, one after the
        // other, would have the processor wait.
        for r in 0..M {
            let i = simd.sigmoid(acc[r][0]);
            let f = simd.sigmoid(acc[r][1]);
            let g = simd.tanh(acc[r][2]);
            let o = simd.sigmoid(acc[r][3]);
            let c = simd.fma(f, simd.load(t.past_c(r)), simd.mul(i, t.updated(simd, g, r)));
            simd.store(t.c(r), c);
            if taped {
                store_row(simd, t.gates(r), &[i, f, g, o]);
            }
            (acc[r][0], acc[r][3]) = (c, o);
        }
        for r in 0..M {
            let tanh_c = simd.tanh(acc[r][0]);
            let h = simd.mul(acc[r][3], tanh_c);
            simd.store(t.h(r), h);
            store_row(simd, t.y(r), &[h]);
            if taped {
                simd.store(t.extra(r), tanh_c);
            }
        }
    }

    #[inline(always)]
    fn backward<S: Lanes, const M: usize, const NV: usize>(simd: S, _: usize, t: &mut Backward<'_, M>) {
        let dh = gradient_of_h::<S, M, NV>(simd, t, false);
        let one = simd.splat(1.0);
        for r in 0..M {
            for j in 0..NV {
                let at = j * S::N;
                let mut gates = [one; 4];
                load_row(simd, &t.gates.row(r)[4 * at..], &mut gates);
                let [i, f, g, o] = gates;
                let tanh_c = simd.load(&t.extra.row(r)[at..]);
                let past_c = simd.load(&t.past_c.row(r)[at..]);
                let dh = dh[r][j];
                let dh_o = simd.mul(dh, o);
                let (dc, past_dc) = match t.factors.cell.width() > 0 {
                    true => zoned(simd, simd.load(&t.carry_c.row(r)[at..]), &t.factors.cell, r, at),
                    false => (simd.load(&t.carry_c.row(r)[at..]), simd.splat(0.0)),
                };
                let dc = simd.fma(dh_o, simd.fnma(tanh_c, tanh_c, one), dc);
                // The share of `i * g` in the update.
                let di = simd.mul(times(simd, dc, &t.factors.update, r, at), i);
                let df = simd.mul(dc, f);
                simd.store(&mut t.carry_c.row(r)[at..], simd.add(df, past_dc));
                let before = [
                    simd.mul(simd.mul(di, g), simd.sub(one, i)),
                    simd.mul(simd.mul(df, past_c), simd.sub(one, f)),
                    simd.mul(di, simd.fnma(g, g, one)),
                    simd.mul(simd.mul(dh_o, tanh_c), simd.sub(one, o)),
                ];
                store_row(simd, &mut t.gates.row(r)[4 * at..4 * (at + S::N)], &before);
            }
        }
    }
}
