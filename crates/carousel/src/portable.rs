//! A recurrent layer in plain Burn operations: runs on every device, and is the oracle of `fused`.

use burn::tensor::Tensor;
use carousel_kernels::{Batch, Direction, Layer, Layout};

use crate::cell::{self, Recurrence};
use crate::layer::{LayerInput, LayerOutput, RecurrentWeights};
use crate::state::{LayerState, index_tensor};

/// One layer in all its directions.
pub(crate) fn layer(
    input: LayerInput<'_>,
    directions: &[(Layer, &RecurrentWeights)],
    initial: Option<&[LayerState]>,
) -> LayerOutput {
    let batch = input.batch;
    let x = match (input.index, input.x_layout) {
        (Some(index), _) => {
            let index = index.iter().map(|&row| i64::from(row)).collect();
            let device = input.x.device();
            input.x.select(0, index_tensor(index, &device))
        }
        (None, Layout::Packed) => input.x,
        (None, Layout::Padded) => swap_axes(input.x, batch.sequences(), batch.time()),
    };
    let (ys, last): (Vec<_>, Vec<_>) = directions
        .iter()
        .enumerate()
        .map(|(index, (layer, weights))| {
            direction(layer, weights, batch, x.clone(), initial.map(|all| all[index].clone()))
        })
        .unzip();
    let y = Tensor::cat(ys, 1);
    let y = match input.y_layout {
        Layout::Packed => y,
        Layout::Padded => swap_axes(y, batch.time(), batch.sequences()),
    };
    LayerOutput { y, last }
}

/// Rows `[a·b, W]` to rows `[b·a, W]`: between batch first and time first, for equal lengths.
pub(crate) fn swap_axes(rows: Tensor<2>, a: usize, b: usize) -> Tensor<2> {
    if a * b == 0 {
        return rows;
    }
    let width = rows.dims()[1];
    rows.reshape([a, b, width]).swap_dims(0, 1).reshape([a * b, width])
}

/// One direction over packed frames `[F, I]`: outputs `[F, H]` and the state after each sequence's last step.
fn direction(
    layer: &Layer,
    weights: &RecurrentWeights,
    batch: &Batch,
    x: Tensor<2>,
    initial: Option<LayerState>,
) -> (Tensor<2>, LayerState) {
    let device = x.device();
    let (sequences, hidden) = (batch.sequences(), layer.hidden);
    let initial = initial.unwrap_or_else(|| {
        let zeros = Tensor::zeros([sequences, hidden], &device);
        LayerState { c: layer.cell.has_cell_state().then(|| zeros.clone()), h: zeros }
    });
    if batch.frames() == 0 {
        return (Tensor::zeros([0, hidden], &device), initial);
    }

    // Reversing each sequence over its own length is its own inverse, so the same rows bring y back.
    let reversed = (layer.direction == Direction::Reverse).then(|| {
        let rows = (0..batch.steps())
            .flat_map(|s| (0..batch.alive(s)).map(move |rank| (s, rank)))
            .map(|(s, rank)| batch.row(Layout::Packed, Direction::Reverse, s, rank) as i64)
            .collect();
        index_tensor(rows, &device)
    });
    let turn = |frames: Tensor<2>| match &reversed {
        Some(rows) => frames.select(0, rows.clone()),
        None => frames,
    };

    let projected =
        turn(x).matmul(weights.weight_ih.val().transpose()) + weights.bias_ih.val().unsqueeze_dim::<2>(0);
    let recurrence = Recurrence {
        weight: weights.weight_hh.val().transpose(),
        bias: weights.bias_hh.val().unsqueeze_dim(0),
    };
    let ranked = |values: Tensor<2>| {
        let order = batch.order().iter().map(|&sequence| sequence as i64).collect();
        values.select(0, index_tensor(order, &device))
    };
    let width = projected.dims()[1];
    let (mut h, mut c) = (ranked(initial.h), initial.c.map(ranked));
    // Sequences end from the last rank up; what is cut off here is put back in the order of the ranks below.
    let (mut ended_h, mut ended_c) = (Vec::new(), Vec::new());
    let mut outputs = Vec::with_capacity(batch.steps());
    let split = |values: Tensor<2>, alive: usize, ended: &mut Vec<Tensor<2>>| {
        let rows = values.dims()[0];
        if rows == alive {
            return values;
        }
        ended.push(values.clone().slice([alive..rows, 0..hidden]));
        values.slice([0..alive, 0..hidden])
    };
    for (step, frames) in batch.starts().windows(2).enumerate() {
        let alive = batch.alive(step);
        h = split(h, alive, &mut ended_h);
        c = c.map(|c| split(c, alive, &mut ended_c));
        let projected = projected.clone().slice([frames[0]..frames[1], 0..width]);
        (h, c) = cell::step(layer.cell, projected, &recurrence, h, c);
        outputs.push(h.clone());
    }

    let places = {
        let mut places = vec![0; sequences];
        for (rank, &sequence) in batch.order().iter().enumerate() {
            places[sequence] = rank as i64;
        }
        index_tensor(places, &device)
    };
    let restore = |last: Tensor<2>, mut ended: Vec<Tensor<2>>| {
        ended.push(last);
        ended.reverse();
        Tensor::cat(ended, 0).select(0, places.clone())
    };
    let last = LayerState { h: restore(h, ended_h), c: c.map(|c| restore(c, ended_c)) };
    (turn(Tensor::cat(outputs, 0)), last)
}
