//! A recurrent layer in plain Burn operations: runs on every device, and is the oracle of `fused`.

use burn::tensor::Tensor;
use carousel_kernels::{Batch, Direction, Layer, Layout, StepMask, StepNoise};

use crate::cell::{self, Cell, Factors, Options, Recurrence, Reset};
use crate::layer::{LayerInput, LayerOutput, RecurrentWeights};
use crate::regularize::{Sharing, factors_like};
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
            let noise = input.noise.as_ref().map(|noise| noise.of(index));
            direction(layer, weights, batch, x.clone(), initial.map(|all| all[index].clone()), noise)
        })
        .unzip();
    let y = Tensor::cat(ys, 1);
    let y = match input.y_layout {
        Layout::Packed => y,
        Layout::Padded => swap_axes(y, batch.time(), batch.sequences()),
    };
    LayerOutput { y, last }
}

/// The factors of a mask of all frames; `None` where there is none.
fn factors(
    layer: &Layer,
    noise: Option<&StepNoise<'_>>,
    which: StepMask,
    shape: [usize; 2],
    like: &Tensor<2>,
) -> Option<Tensor<2>> {
    let mask = noise?.mask(layer, which)?;
    Some(factors_like(like, mask, &Sharing::None, shape))
}

/// The drawn share of the new value, or the mean one, and the rest of the last value.
fn zone_out(new: Tensor<2>, past: Tensor<2>, share: Option<Tensor<2>>, mean: Option<f64>) -> Tensor<2> {
    match (share, mean) {
        (Some(share), _) => past.clone() + share * (new - past),
        (None, Some(mean)) => new * mean + past * (1.0 - mean),
        (None, None) => new,
    }
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
    noise: Option<StepNoise<'_>>,
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

    let frames = batch.frames();
    let factors = |which: StepMask| factors(layer, noise.as_ref(), which, [frames, hidden], &x);
    let share = |which| factors(which).map(|factors| turn(factors.sign()));
    let mean = |rate: f32| (noise.is_none() && rate > 0.0).then_some(1.0 - f64::from(rate));
    let means = [mean(layer.zoneout.hidden), mean(layer.zoneout.cell)];
    let shares = [share(StepMask::Hidden), share(StepMask::Cell)];
    let update = factors(StepMask::Update).map(turn);
    let dropped = noise.as_ref().and_then(|noise| {
        let mask = noise.mask(layer, StepMask::Recurrent)?;
        let names = batch.order().iter().map(|&sequence| noise.names[sequence]).collect();
        Some(factors_like(&x, mask, &Sharing::Rows(names), [sequences, hidden]))
    });

    let [bias_ih, bias_hh] =
        [&weights.bias_ih, &weights.bias_hh].map(|bias| bias.val().unsqueeze_dim::<2>(0));
    let projected = turn(x).matmul(weights.weight_ih.val().transpose());
    // Where sums are normalised biases come after, but for one inside the reset gate's reach.
    let inside = if layer.cell == Cell::Gru(Reset::After) { hidden } else { 0 };
    let (projected, bias, after) = if layer.options.norm {
        let width = bias_hh.dims()[1];
        let (outside, inside) = (0..width - inside, width - inside..width);
        let zeros = |columns: &std::ops::Range<usize>| Tensor::zeros([1, columns.len()], &device);
        let columns = |bias: &Tensor<2>, columns| bias.clone().slice([0..1, columns]);
        let after = bias_ih + Tensor::cat(vec![columns(&bias_hh, outside.clone()), zeros(&inside)], 1);
        (projected, Tensor::cat(vec![zeros(&outside), columns(&bias_hh, inside)], 1), Some(after))
    } else {
        (projected + bias_ih, bias_hh, None)
    };
    let recurrence = Recurrence { weight: weights.weight_hh.val().transpose(), bias };
    let options = Options { own: layer.options, weights: weights.options(), bias: after };
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
        let rows = |all: &Option<Tensor<2>>| {
            all.as_ref().map(|all| all.clone().slice([frames[0]..frames[1], 0..hidden]))
        };
        let factors = Factors {
            recurrent: dropped.as_ref().map(|all| all.clone().slice([0..alive, 0..hidden])),
            update: rows(&update),
        };
        let past = (h.clone(), c.clone());
        (h, c) = cell::step(layer.cell, projected, &recurrence, h, c, &factors, &options);
        h = zone_out(h, past.0, rows(&shares[0]), means[0]);
        c = c.zip(past.1).map(|(c, past)| zone_out(c, past, rows(&shares[1]), means[1]));
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
