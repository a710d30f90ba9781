//! What one layer of a stack reads and gives, shared by the two implementations ([`fused`](crate::fused) and
//! `portable`).

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use carousel_kernels::{Batch, Layout, StepNoise, Weights};

use crate::packed::PackedOnce;
use crate::regularize::{Dropout, StepKeys};
use crate::slices::with_slice;
use crate::state::LayerState;
use crate::tapes::TapePool;

/// The parameters of one layer in one direction, in PyTorch's layout: gates i f g o of an LSTM, r z n of a GRU.
#[derive(Module, Debug)]
pub struct RecurrentWeights {
    /// `[G·H, I]`.
    pub weight_ih: Param<Tensor<2>>,
    /// `[G·H, P]`; `P` is `H` where `h` is not projected.
    pub weight_hh: Param<Tensor<2>>,
    /// `[G·H]`.
    pub bias_ih: Param<Tensor<1>>,
    /// `[G·H]`.
    pub bias_hh: Param<Tensor<1>>,
    /// `[N, H]` of a cell that normalises: the gain of each gate, then gain and bias of an LSTM's `c`.
    pub norm: Option<Param<Tensor<2>>>,
    /// `[3, H]` of an LSTM with peepholes: those of i, f and o.
    pub peephole: Option<Param<Tensor<2>>>,
    /// `[P, H]` of an LSTM that projects.
    pub weight_hr: Option<Param<Tensor<2>>>,
    #[module(skip)]
    pub(crate) tapes: TapePool,
    #[module(skip)]
    pub(crate) packed: PackedOnce,
}

impl RecurrentWeights {
    /// Those of the cell's options, in the order of the kernels; `None` where it has none.
    pub(crate) fn options(&self) -> Option<Tensor<2>> {
        let all = [&self.norm, &self.peephole, &self.weight_hr];
        let all: Vec<_> = all.into_iter().flatten().map(Param::val).collect();
        (!all.is_empty()).then(|| Tensor::cat(all, 0))
    }

    /// Copies of them.
    fn option_values(&self) -> Vec<f32> {
        self.options().map_or_else(Vec::new, |options| with_slice(&options, <[f32]>::to_vec))
    }

    /// Copies of all of them.
    pub(crate) fn plain(&self) -> PlainWeights {
        PlainWeights {
            input: with_slice(&self.weight_ih.val(), <[f32]>::to_vec),
            recurrent: with_slice(&self.weight_hh.val(), <[f32]>::to_vec),
            bias_input: with_slice(&self.bias_ih.val(), <[f32]>::to_vec),
            bias_recurrent: with_slice(&self.bias_hh.val(), <[f32]>::to_vec),
            options: self.option_values(),
        }
    }

    /// Lends them to the kernels.
    pub(crate) fn lend<R>(&self, f: impl FnOnce(Weights<'_>) -> R) -> R {
        with_slice(&self.weight_ih.val(), |input| {
            with_slice(&self.weight_hh.val(), |recurrent| {
                with_slice(&self.bias_ih.val(), |bias_input| {
                    with_slice(&self.bias_hh.val(), |bias_recurrent| {
                        let options = &self.option_values();
                        f(Weights { input, recurrent, bias_input, bias_recurrent, options })
                    })
                })
            })
        })
    }
}

/// A copy of [`RecurrentWeights`] on plain numbers.
#[derive(Clone, Debug)]
pub(crate) struct PlainWeights {
    pub(crate) input: Vec<f32>,
    pub(crate) recurrent: Vec<f32>,
    pub(crate) bias_input: Vec<f32>,
    pub(crate) bias_recurrent: Vec<f32>,
    pub(crate) options: Vec<f32>,
}

impl PlainWeights {
    /// As the kernels read them.
    pub(crate) fn lend(&self) -> Weights<'_> {
        Weights {
            input: &self.input,
            recurrent: &self.recurrent,
            bias_input: &self.bias_input,
            bias_recurrent: &self.bias_recurrent,
            options: &self.options,
        }
    }
}

/// What a layer computes on.
pub(crate) struct LayerInput<'a> {
    pub(crate) batch: &'a Arc<Batch>,
    /// Rows in the order of `x_layout`, `I` values each.
    pub(crate) x: Tensor<2>,
    /// Where frames share rows of `x`: the row of each, in packed order.
    pub(crate) index: Option<Arc<Vec<u32>>>,
    /// [`Layout::Padded`] only where all sequences are equally long.
    pub(crate) x_layout: Layout,
    pub(crate) y_layout: Layout,
    /// What is left to chance inside the steps.
    pub(crate) noise: Option<LayerNoise<'a>>,
}

/// The random choices inside a layer's steps.
#[derive(Clone)]
pub(crate) struct LayerNoise<'a> {
    /// One a direction.
    pub(crate) keys: Vec<StepKeys>,
    pub(crate) dropout: Dropout,
    /// One a sequence.
    pub(crate) names: &'a [u32],
}

impl LayerNoise<'_> {
    /// As the kernels read it.
    pub(crate) fn of(&self, direction: usize) -> StepNoise<'_> {
        let Dropout { recurrent, update, .. } = self.dropout;
        let StepKeys { locked: key, free } = self.keys[direction];
        StepNoise { key, free, recurrent: recurrent as f32, update: update as f32, names: self.names }
    }
}

/// What a layer computes: the outputs of all its directions side by side, and each direction's last state.
pub(crate) struct LayerOutput {
    pub(crate) y: Tensor<2>,
    pub(crate) last: Vec<LayerState>,
}
