//! Linear recurrences `h[t] = keep[t] * h[t-1] + add[t]` whose factors are known beforehand.
//!
//! Two such steps one after the other are one such step:
//!
//! ```text
//! (k1, a1) then (k2, a2)  =  (k1 k2, k2 a1 + a2)
//! ```
//!
//! so all states follow in a number of rounds that grows with the logarithm of time (Hillis and Steele 1986); minGRU
//! and minLSTM are made for that (Feng et al. 2024). Their paper computes in logarithms, because it divides by
//! products of keeps. Here nothing is divided: keeps lie between 0 and 1, and so do all their products, which can
//! only vanish where what they stand before vanishes too.
//!
//! In CPU memory one pass over the frames costs less than the rounds: it reads each value once, and units lie beside
//! each other for the vector unit. Both ways are here, the pass with its own backward:
//!
//! ```text
//! g[t] = dh[t] + keep[t+1] * g[t+1]      d add[t] = g[t]      d keep[t] = g[t] * h[t-1]
//! ```

use std::sync::Arc;

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;
use carousel_kernels::Batch;

use crate::buffers::buffer;
use crate::operation::Operands;
use crate::path::Path;
use crate::slices::{dense, flex, primitive, slice};
use crate::state::{LayerState, index_tensor};
use crate::walk::{ranked, unranked};

/// `h` of all frames `[F, H]` and after each sequence's last step, from `initial` `[B, H]` in the caller's order.
/// There is at least one frame.
pub(crate) fn scan(
    keep: Tensor<2>,
    add: Tensor<2>,
    initial: Tensor<2>,
    batch: &Arc<Batch>,
    path: Path,
) -> (Tensor<2>, LayerState) {
    let [frames, width] = add.dims();
    let initial = ranked(initial, batch);
    // The initial state is one more thing that comes to the first step; then every sequence starts from zero.
    let first = batch.alive(0);
    let head = |all: &Tensor<2>| all.clone().slice([0..first, 0..width]);
    let mut start = head(&add) + head(&keep) * initial.clone().slice([0..first, 0..width]);
    if first < frames {
        start = Tensor::cat(vec![start, add.slice([first..frames, 0..width])], 0);
    }
    let h = if path.is_fused(&keep, &start) { pass(keep, start, batch) } else { rounds(keep, start, batch) };

    let rows = batch.order().iter().enumerate().map(|(rank, &sequence)| match batch.lengths()[sequence] {
        0 => (frames + rank) as i64,
        length => batch.frame(length - 1, rank) as i64,
    });
    let rows = index_tensor(rows.collect(), &h.device());
    let last = match first == batch.sequences() {
        true => h.clone(),
        false => Tensor::cat(vec![h.clone(), initial], 0),
    };
    (h, LayerState::of(unranked(last.select(0, rows), batch)))
}

/// In Burn's operations: after the round of stride `d`, each frame's pair stands for the last `2 d` steps.
fn rounds(mut keep: Tensor<2>, mut add: Tensor<2>, batch: &Batch) -> Tensor<2> {
    let [frames, width] = add.dims();
    let starts = batch.starts();
    let mut stride = 1;
    while stride < batch.steps() {
        let from = starts[stride];
        let earlier = (stride..batch.steps())
            .flat_map(|step| (0..batch.alive(step)).map(move |rank| batch.frame(step - stride, rank) as i64))
            .collect();
        let earlier = index_tensor(earlier, &add.device());
        let tail = |all: &Tensor<2>| all.clone().slice([from..frames, 0..width]);
        let head = |all: &Tensor<2>| all.clone().slice([0..from, 0..width]);
        let (later_keep, later_add) = (tail(&keep), tail(&add));
        let joined = later_keep.clone() * add.clone().select(0, earlier.clone()) + later_add;
        let kept = later_keep * keep.clone().select(0, earlier);
        add = Tensor::cat(vec![head(&add), joined], 0);
        keep = Tensor::cat(vec![head(&keep), kept], 0);
        stride *= 2;
    }
    add
}

#[derive(Debug)]
struct PassBackward;

/// What backward needs: the keeps, all `h`, and the way through the frames.
#[derive(Clone, Debug)]
struct Passed {
    keep: FlexTensor,
    h: FlexTensor,
    batch: Arc<Batch>,
}

impl Backward<Flex, 2> for PassBackward {
    type State = Passed;

    fn backward(self, ops: Ops<Passed, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let dh = dense(gradients.consume::<Flex>(&ops.node));
        let [keep_node, add_node] = ops.parents;
        let Passed { keep, h, batch } = ops.state;
        let (keep, h) = (slice(&keep), slice(&h));
        let width = keep.len() / batch.frames();
        let mut dadd = slice(&dh).to_vec();
        let mut dkeep = vec![0.0; keep.len()];
        for (before, now, rows) in links(&batch, width).into_iter().rev() {
            let (earlier, later) = dadd.split_at_mut(now);
            for at in 0..rows {
                let g = later[at];
                earlier[before + at] += keep[now + at] * g;
                dkeep[now + at] = g * h[before + at];
            }
        }
        let shape = [batch.frames(), width];
        for (node, gradient) in [(keep_node, dkeep), (add_node, dadd)] {
            if let Some(node) = node {
                gradients.register::<Flex>(node.id, flex(gradient, shape));
            }
        }
    }
}

/// For each step but the first: where its values begin, where those of the step before, and how many there are.
fn links(batch: &Batch, width: usize) -> Vec<(usize, usize, usize)> {
    let starts = batch.starts();
    (1..batch.steps())
        .map(|step| (starts[step - 1] * width, starts[step] * width, batch.alive(step) * width))
        .collect()
}

/// In CPU memory: one pass over the frames.
fn pass(keep: Tensor<2>, add: Tensor<2>, batch: &Arc<Batch>) -> Tensor<2> {
    let shape = add.dims();
    let kept = dense(primitive(keep.clone()));
    let added = dense(primitive(add.clone()));
    let mut h = buffer(shape[0] * shape[1]);
    h.copy_from_slice(slice(&added));
    for (before, now, rows) in links(batch, shape[1]) {
        let (earlier, later) = h.split_at_mut(now);
        let (past, keep) = (&earlier[before..][..rows], &slice(&kept)[now..][..rows]);
        later.iter_mut().zip(past).zip(keep).for_each(|((h, past), keep)| *h += keep * past);
    }
    let h = h.into_tensor(shape);
    let mut operands = Operands::default();
    let parents = [operands.add(keep), operands.add(add)];
    let state = || Passed { keep: kept, h: h.clone(), batch: batch.clone() };
    operands.finish(parents, PassBackward, state, h.clone())
}
