//! GRU, gates r z n:
//!
//! ```text
//! r, z = sigmoid(W x + b + U h + c)       h' = (1 - z) * n + z * h
//! reset after:   n = tanh(Wn x + bn + r * (Un h + cn))
//! reset before:  n = tanh(Wn x + bn + Un (r * h) + cn)
//! ```

use super::{Backward, Kernel, Panel, Traits, add_recurrent, gradient_of_h, input_sums};
use crate::chance::times;
use crate::disjoint::Tile;
use crate::simd::{Lanes, load_row, multiply, store_row};

/// Reset after the product (PyTorch, cuDNN). The extra value is `Un h + cn`.
#[derive(Clone, Copy)]
pub(crate) struct After;
/// Reset before the product (Cho et al. 2014). The extra value is `r * h`.
#[derive(Clone, Copy)]
pub(crate) struct Before;

/// `(1 - z) n + z h`
#[inline(always)]
fn mix<S: Lanes>(simd: S, z: S::V, n: S::V, h: S::V) -> S::V {
    simd.fma(z, simd.sub(h, n), n)
}

/// Gradients of the update gate and the candidate before their non-linearities.
#[inline(always)]
fn mix_back<S: Lanes, const M: usize>(
    simd: S,
    dh: S::V,
    [z, n, past]: [S::V; 3],
    update: &Tile<'_, M>,
    (row, at): (usize, usize),
) -> (S::V, S::V) {
    let one = simd.splat(1.0);
    let keep = simd.sub(one, z);
    let dz = simd.mul(simd.mul(dh, simd.sub(past, times(simd, n, update, row, at))), simd.mul(z, keep));
    let dn = simd.mul(times(simd, simd.mul(dh, keep), update, row, at), simd.fnma(n, n, one));
    (dz, dn)
}

/// `dh * z`, and what zoneout has left for the last `h`.
#[inline(always)]
fn carry<S: Lanes, const M: usize>(simd: S, t: &mut Backward<'_, M>, dh_z: S::V, row: usize, at: usize) {
    let to = &mut t.carry_h.row(row)[at..];
    let sum = if t.factors.hidden.width() > 0 { simd.add(dh_z, simd.load(to)) } else { dh_z };
    simd.store(to, sum);
}

impl Kernel for After {
    const TRAITS: Traits = Traits {
        gates: 3,
        panel: 3,
        phases: 1,
        cell_state: false,
        extra: true,
        carries: true,
        recurrent_gates: 3,
    };

    #[inline(always)]
    fn forward<S: Lanes, const M: usize, const NV: usize>(simd: S, _: usize, mut t: Panel<'_, '_, M>) {
        assert!(NV == 3);
        let mut acc = input_sums::<S, M, NV>(simd, &mut t);
        let bias = simd.load(&t.bias()[2 * S::N..]);
        let mut candidate = [bias; M];
        for i in 0..M {
            std::mem::swap(&mut candidate[i], &mut acc[i][2]);
        }
        add_recurrent(simd, &t, &mut acc);
        let taped = t.has_extra();
        // In two loops, as an LSTM's: a row's candidate waits for its reset gate.
        for i in 0..M {
            let r = simd.sigmoid(acc[i][0]);
            candidate[i] = simd.fma(r, acc[i][2], candidate[i]);
            acc[i][0] = r;
            acc[i][1] = simd.sigmoid(acc[i][1]);
        }
        for i in 0..M {
            let [r, z, hn] = [acc[i][0], acc[i][1], acc[i][2]];
            let n = simd.tanh(candidate[i]);
            let kept = t.updated(simd, n, i);
            let h = mix(simd, z, kept, simd.load(t.past_h(i)));
            simd.store(t.h(i), h);
            store_row(simd, t.y(i), &[h]);
            if taped {
                simd.store(t.extra(i), hn);
                store_row(simd, t.gates(i), &[r, z, n]);
            }
        }
    }

    #[inline(always)]
    fn backward<S: Lanes, const M: usize, const NV: usize>(simd: S, _: usize, t: &mut Backward<'_, M>) {
        let dh = gradient_of_h::<S, M, NV>(simd, t, true);
        let one = simd.splat(1.0);
        for i in 0..M {
            for j in 0..NV {
                let at = j * S::N;
                let mut gates = [one; 3];
                load_row(simd, &t.gates.row(i)[3 * at..], &mut gates);
                let [r, z, n] = gates;
                let hn = simd.load(&t.extra.row(i)[at..]);
                let past = simd.load(&t.past_h.row(i)[at..]);
                let (dz, dn) = mix_back(simd, dh[i][j], [z, n, past], &t.factors.update, (i, at));
                let dr = simd.mul(simd.mul(dn, hn), simd.mul(r, simd.sub(one, r)));
                carry(simd, t, simd.mul(dh[i][j], z), i, at);
                let span = 3 * at..3 * (at + S::N);
                store_row(simd, &mut t.gates.row(i)[span.clone()], &[dr, dz, dn]);
                store_row(simd, &mut t.recurrent.row(i)[span], &[dr, dz, simd.mul(dn, r)]);
            }
        }
    }
}

impl Kernel for Before {
    const TRAITS: Traits = Traits {
        gates: 3,
        panel: 2,
        phases: 2,
        cell_state: false,
        extra: true,
        carries: true,
        recurrent_gates: 1,
    };

    /// Phase 0 makes r, z and `r * h`; phase 1 multiplies that by `Un` and makes n and h.
    #[inline(always)]
    fn forward<S: Lanes, const M: usize, const NV: usize>(simd: S, phase: usize, mut t: Panel<'_, '_, M>) {
        let mut acc = [[simd.splat(0.0); NV]; M];
        if phase == 0 {
            assert!(NV == 2);
            acc = input_sums::<S, M, NV>(simd, &mut t);
            add_recurrent(simd, &t, &mut acc);
            for i in 0..M {
                let r = simd.sigmoid(acc[i][0]);
                let z = simd.sigmoid(acc[i][1]);
                let seen = times(simd, simd.load(t.past_h(i)), &t.tile.factors.recurrent, i, t.unit);
                simd.store(t.extra(i), simd.mul(r, seen));
                simd.store(t.gates(i), r);
                simd.store(&mut t.gates(i)[S::N..], z);
            }
        } else {
            assert!(NV == 1);
            for i in 0..M {
                acc[i][0] = simd.load(&t.gates(i)[2 * S::N..]);
            }
            add_recurrent(simd, &t, &mut acc);
            for i in 0..M {
                let n = simd.tanh(acc[i][0]);
                let z = simd.load(&t.gates(i)[S::N..]);
                let kept = t.updated(simd, n, i);
                let h = mix(simd, z, kept, simd.load(t.past_h(i)));
                simd.store(&mut t.gates(i)[2 * S::N..], n);
                simd.store(t.h(i), h);
                store_row(simd, t.y(i), &[h]);
            }
        }
    }

    /// Phase 0 makes the gradients of z and n and leaves n's for all units to see; phase 1 multiplies
    /// those by `Un`, which gives the gradient of `r * h`, and finishes r.
    ///
    /// In phase 0 `recurrent` takes n's gradient; in phase 1 `next` holds it.
    #[inline(always)]
    fn backward<S: Lanes, const M: usize, const NV: usize>(simd: S, phase: usize, t: &mut Backward<'_, M>) {
        let one = simd.splat(1.0);
        if phase == 0 {
            let dh = gradient_of_h::<S, M, NV>(simd, t, true);
            for i in 0..M {
                for j in 0..NV {
                    let at = j * S::N;
                    let mut gates = [one; 3];
                    load_row(simd, &t.gates.row(i)[3 * at..], &mut gates);
                    let [r, z, n] = gates;
                    let past = simd.load(&t.past_h.row(i)[at..]);
                    let (dz, dn) = mix_back(simd, dh[i][j], [z, n, past], &t.factors.update, (i, at));
                    carry(simd, t, simd.mul(dh[i][j], z), i, at);
                    simd.store(&mut t.recurrent.row(i)[at..], dn);
                    store_row(simd, &mut t.gates.row(i)[3 * at..3 * (at + S::N)], &[r, dz, dn]);
                }
            }
        } else {
            let mut d = [[simd.splat(0.0); NV]; M];
            if let Some(dn) = &t.next {
                multiply(simd, dn, t.depth, t.panel, &mut d);
            }
            for i in 0..M {
                for j in 0..NV {
                    let at = j * S::N;
                    let past = simd.load(&t.past_h.row(i)[at..]);
                    let r = simd.load(&t.gates.row(i)[3 * at..]);
                    // The product saw `r * h` with what dropped out of `h`.
                    let d = times(simd, d[i][j], &t.factors.recurrent, i, at);
                    let dr = simd.mul(simd.mul(d, past), simd.mul(r, simd.sub(one, r)));
                    let carry = simd.load(&t.carry_h.row(i)[at..]);
                    simd.store(&mut t.carry_h.row(i)[at..], simd.fma(d, r, carry));
                    simd.store(&mut t.gates.row(i)[3 * at..], dr);
                }
            }
        }
    }
}
