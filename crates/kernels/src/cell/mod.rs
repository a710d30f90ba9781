//! One step of each cell, forward and backward, on a tile in registers. No time loop here.

pub(crate) mod gru;
pub(crate) mod lstm;
pub(crate) mod rnn;

use crate::disjoint::{Tile, TileMut};
use crate::simd::Lanes;

/// What a cell kernel needs from the buffers.
pub(crate) struct Traits {
    /// Gates side by side in a row of gate values.
    pub(crate) gates: usize,
    /// Vectors of a panel in phase 0 (a multiple of the gates computed there).
    pub(crate) panel: usize,
    /// Products a step: 2 where one gate needs another's result from all units.
    pub(crate) phases: usize,
    /// A cell value beside `h`.
    pub(crate) cell_state: bool,
    /// One more value per unit and frame for backward.
    pub(crate) extra: bool,
    /// Part of `dh` flows to the step before without a product.
    pub(crate) carries: bool,
    /// Gradients a unit that only the recurrent product sees, in a buffer of their own.
    pub(crate) recurrent_gates: usize,
}

/// A tile of the forward pass: `M` sequences, some unit groups.
pub(crate) struct Forward<'a, const M: usize> {
    /// Rows that the panel multiplies: the last step's `h`, all units (in phase 1 the cell's own choice).
    pub(crate) a: Tile<'a, M>,
    pub(crate) depth: usize,
    pub(crate) panel: &'a [f32],
    /// Recurrent bias of these columns, where it cannot be added to the input's.
    pub(crate) bias: &'a [f32],
    /// Last step's `h` of these units.
    pub(crate) past_h: Tile<'a, M>,
    /// Last step's `c` of these units.
    pub(crate) past_c: Tile<'a, M>,
    /// In: the input's projection. Out: the gates' values.
    pub(crate) gates: TileMut<'a, M>,
    pub(crate) h: TileMut<'a, M>,
    pub(crate) c: TileMut<'a, M>,
    pub(crate) extra: TileMut<'a, M>,
    /// The caller's output; as wide as there are real units.
    pub(crate) y: TileMut<'a, M>,
}

/// A tile of the backward pass: `M` sequences, `NV` unit groups.
pub(crate) struct Backward<'a, const M: usize> {
    /// Gate gradients of the next step, all units; `None` where a sequence ends here.
    pub(crate) next: Option<Tile<'a, M>>,
    pub(crate) depth: usize,
    pub(crate) panel: &'a [f32],
    /// Gradient of the output; `None` where it is zero.
    pub(crate) dy: Option<Tile<'a, M>>,
    pub(crate) h: Tile<'a, M>,
    pub(crate) past_h: Tile<'a, M>,
    pub(crate) past_c: Tile<'a, M>,
    pub(crate) extra: Tile<'a, M>,
    /// In: the gates' values. Out: the gradients of their sums before the non-linearity.
    pub(crate) gates: TileMut<'a, M>,
    /// The same as the recurrent product sees them, where it differs.
    pub(crate) recurrent: TileMut<'a, M>,
    /// What flows to `h` of the step before past the product; at a sequence's end the gradient of its
    /// final `h`.
    pub(crate) carry_h: TileMut<'a, M>,
    pub(crate) carry_c: TileMut<'a, M>,
}

/// A cell's maths, generic over the level.
pub(crate) trait Kernel: Copy + Send + Sync + 'static {
    const TRAITS: Traits;

    /// Phase 0 or 1 of a step. `NV` vectors are the panel's width.
    fn forward<S: Lanes, const M: usize, const NV: usize>(simd: S, phase: usize, t: Forward<'_, M>);

    /// Phase 0 or 1 of a step backward.
    fn backward<S: Lanes, const M: usize, const NV: usize>(simd: S, phase: usize, t: Backward<'_, M>);
}

/// The gradient of `h` of a tile: what comes from the output, past the product and through it.
#[inline(always)]
pub(crate) fn gradient_of_h<S: Lanes, const M: usize, const NV: usize>(
    simd: S,
    t: &mut Backward<'_, M>,
    always_carries: bool,
) -> [[S::V; NV]; M] {
    let mut dh = [[simd.splat(0.0); NV]; M];
    if let Some(dy) = &t.dy {
        for i in 0..M {
            crate::gemm::load_row(simd, dy.row(i), &mut dh[i]);
        }
    }
    if always_carries || t.next.is_none() {
        for i in 0..M {
            for j in 0..NV {
                dh[i][j] = simd.add(dh[i][j], simd.load(&t.carry_h.row(i)[j * S::N..]));
            }
        }
    }
    if let Some(next) = &t.next {
        crate::simd::multiply(simd, next, t.depth, t.panel, &mut dh);
    }
    dh
}
