//! A recurrent layer in plain Burn operations: runs on every device, and is the oracle of `fused`.

use burn::tensor::Tensor;
use carousel_kernels::{Batch, Layer, Layout, StepMask, StepNoise};

use crate::cell::{self, Cell, Factors, Options, Recurrence, Reset};
use crate::layer::{LayerInput, LayerOutput, RecurrentWeights};
use crate::regularize::{Sharing, factors_like};
use crate::state::{LayerState, index_tensor};
use crate::walk;

/// One layer in all its directions.
pub(crate) fn layer(
    input: LayerInput<'_>,
    directions: &[(Layer, &RecurrentWeights)],
    initial: Option<&[LayerState]>,
) -> LayerOutput {
    let batch = input.batch;
    let x = packed(input.x, input.index.as_deref(), input.x_layout, batch);
    let (ys, last): (Vec<_>, Vec<_>) = directions
        .iter()
        .enumerate()
        .map(|(index, (layer, weights))| {
            let noise = input.noise.as_ref().map(|noise| noise.of(index));
            direction(layer, weights, batch, x.clone(), initial.map(|all| all[index].clone()), noise)
        })
        .unzip();
    LayerOutput { y: laid_out(Tensor::cat(ys, 1), input.y_layout, batch), last }
}

/// What a layer reads, a row a frame in packed order.
pub(crate) fn packed(x: Tensor<2>, index: Option<&Vec<u32>>, layout: Layout, batch: &Batch) -> Tensor<2> {
    match (index, layout) {
        (Some(index), _) => {
            let index = index.iter().map(|&row| i64::from(row)).collect();
            let device = x.device();
            x.select(0, index_tensor(index, &device))
        }
        (None, Layout::Packed) => x,
        (None, Layout::Padded) => swap_axes(x, batch.sequences(), batch.time()),
    }
}

/// Rows in packed order as a layout has them.
pub(crate) fn laid_out(y: Tensor<2>, layout: Layout, batch: &Batch) -> Tensor<2> {
    match layout {
        Layout::Packed => y,
        Layout::Padded => swap_axes(y, batch.time(), batch.sequences()),
    }
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
pub(crate) fn zone_out(
    new: Tensor<2>,
    past: Tensor<2>,
    share: Option<Tensor<2>>,
    mean: Option<f64>,
) -> Tensor<2> {
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

/// One direction over packed frames `[F, I]`: outputs `[F, P]` and the state after each sequence's last step.
fn direction(
    layer: &Layer,
    weights: &RecurrentWeights,
    batch: &Batch,
    x: Tensor<2>,
    initial: Option<LayerState>,
    noise: Option<StepNoise<'_>>,
) -> (Tensor<2>, LayerState) {
    let device = x.device();
    let (sequences, hidden, values) = (batch.sequences(), layer.hidden, layer.output());
    let initial = initial.unwrap_or_else(|| {
        let zeros = |width| Tensor::zeros([sequences, width], &device);
        LayerState { c: layer.cell.has_cell_state().then(|| zeros(hidden)), h: zeros(values) }
    });
    if batch.frames() == 0 {
        return (Tensor::zeros([0, values], &device), initial);
    }
    let reversal = walk::reversal(batch, layer.direction, &device);
    let turn = |frames: Tensor<2>| walk::turn(frames, &reversal);

    let frames = batch.frames();
    let factors = |which: StepMask| factors(layer, noise.as_ref(), which, [frames, hidden], &x);
    let share = |which| factors(which).map(|factors| turn(factors.sign()));
    let mean = |rate: f32| (noise.is_none() && rate > 0.0).then_some(1.0 - f64::from(rate));
    let means = [mean(layer.zoneout.hidden), mean(layer.zoneout.cell)];
    // A mask has a place for each unit; values of a projected `h` take the first ones.
    let first = |factors: Tensor<2>| {
        let rows = factors.dims()[0];
        factors.slice([0..rows, 0..values])
    };
    let shares = [share(StepMask::Hidden).map(first), share(StepMask::Cell)];
    let update = factors(StepMask::Update).map(turn);
    let dropped = noise.as_ref().and_then(|noise| {
        let mask = noise.mask(layer, StepMask::Recurrent)?;
        let names = batch.order().iter().map(|&sequence| noise.names[sequence]).collect();
        Some(first(factors_like(&x, mask, &Sharing::Rows(names), [sequences, hidden])))
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
    let (y, last) = walk::walk(batch, initial, |moment, past| {
        let rows = |all: &Option<Tensor<2>>| all.as_ref().map(|all| moment.rows(all));
        let factors = Factors {
            recurrent: dropped.as_ref().map(|all| all.clone().slice([0..moment.alive, 0..values])),
            update: rows(&update),
        };
        let (h, c) = (past.h.clone(), past.c.clone());
        let (h, c) = cell::step(layer.cell, moment.rows(&projected), &recurrence, h, c, &factors, &options);
        let h = zone_out(h, past.h, rows(&shares[0]), means[0]);
        let c = c.zip(past.c).map(|(c, past)| zone_out(c, past, rows(&shares[1]), means[1]));
        LayerState { h, c }
    });
    (turn(y), last)
}
