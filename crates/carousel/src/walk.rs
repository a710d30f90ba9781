//! The way through a ragged batch in plain Burn operations, step after step. No cell here.

use std::ops::Range;

use burn::tensor::{Device, Int, Tensor};
use carousel_kernels::{Batch, Direction, Layout};

use crate::state::{LayerState, index_tensor};

/// Where a walk is.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    /// The rows of this step among the frames.
    pub(crate) frames: Range<usize>,
    /// Sequences that have not ended: the first so many by rank.
    pub(crate) alive: usize,
}

impl Moment {
    /// This step's rows of all frames' values `[F, W]`.
    pub(crate) fn rows(&self, all: &Tensor<2>) -> Tensor<2> {
        let width = all.dims()[1];
        all.clone().slice([self.frames.clone(), 0..width])
    }
}

/// For each frame the row that takes its place when a direction walks: `None` where that is the order of time.
/// Reversing each sequence over its own length is its own inverse, so the same rows bring the outputs back.
pub(crate) fn reversal(batch: &Batch, direction: Direction, device: &Device) -> Option<Tensor<1, Int>> {
    (direction == Direction::Reverse && batch.frames() > 0).then(|| {
        let rows = (0..batch.steps())
            .flat_map(|s| (0..batch.alive(s)).map(move |rank| (s, rank)))
            .map(|(s, rank)| batch.row(Layout::Packed, Direction::Reverse, s, rank) as i64)
            .collect();
        index_tensor(rows, device)
    })
}

/// Frames in the order of [`reversal`], or back.
pub(crate) fn turn(frames: Tensor<2>, reversal: &Option<Tensor<1, Int>>) -> Tensor<2> {
    match reversal {
        Some(rows) => frames.select(0, rows.clone()),
        None => frames,
    }
}

/// One row a sequence, in the caller's order, to the order of ranks.
pub(crate) fn ranked(values: Tensor<2>, batch: &Batch) -> Tensor<2> {
    let order = batch.order().iter().map(|&sequence| sequence as i64).collect();
    let device = values.device();
    values.select(0, index_tensor(order, &device))
}

/// One row a sequence, in the order of ranks, to the caller's order.
pub(crate) fn unranked(values: Tensor<2>, batch: &Batch) -> Tensor<2> {
    let mut places = vec![0; batch.sequences()];
    for (rank, &sequence) in batch.order().iter().enumerate() {
        places[sequence] = rank as i64;
    }
    let device = values.device();
    values.select(0, index_tensor(places, &device))
}

/// The rows of each sequence's last step in the way of a direction, `[B, W]`; zeros where there is no step.
pub(crate) fn ends(y: Tensor<2>, batch: &Batch, direction: Direction) -> Tensor<2> {
    let [frames, width] = y.dims();
    let device = y.device();
    let mut rows = vec![frames as i64; batch.sequences()];
    for (frame, (sequence, step)) in batch.places().enumerate() {
        if direction == Direction::Forward || step == 0 {
            rows[sequence] = frame as i64;
        }
    }
    let all = Tensor::cat(vec![y, Tensor::zeros([1, width], &device)], 0);
    all.select(0, index_tensor(rows, &device))
}

/// Takes `step` from an initial state, in the caller's order, to the end of every sequence. Returns `h` of all
/// frames `[F, H]` in the order of the walk, and the state after each sequence's last step.
pub(crate) fn walk(
    batch: &Batch,
    initial: LayerState,
    mut step: impl FnMut(&Moment, LayerState) -> LayerState,
) -> (Tensor<2>, LayerState) {
    let mut h = ranked(initial.h, batch);
    let mut c = initial.c.map(|c| ranked(c, batch));
    if batch.frames() == 0 {
        let width = h.dims()[1];
        let y = Tensor::zeros([0, width], &h.device());
        return (y, LayerState { h: unranked(h, batch), c: c.map(|c| unranked(c, batch)) });
    }
    // Sequences end from the last rank up; what is cut off here is put back in the order of the ranks below.
    let (mut ended_h, mut ended_c) = (Vec::new(), Vec::new());
    let mut outputs = Vec::with_capacity(batch.steps());
    let split = |values: Tensor<2>, alive: usize, ended: &mut Vec<Tensor<2>>| {
        let [rows, width] = values.dims();
        if rows == alive {
            return values;
        }
        ended.push(values.clone().slice([alive..rows, 0..width]));
        values.slice([0..alive, 0..width])
    };
    for (index, frames) in batch.starts().windows(2).enumerate() {
        let alive = batch.alive(index);
        let past =
            LayerState { h: split(h, alive, &mut ended_h), c: c.map(|c| split(c, alive, &mut ended_c)) };
        LayerState { h, c } = step(&Moment { frames: frames[0]..frames[1], alive }, past);
        outputs.push(h.clone());
    }
    let restore = |last: Tensor<2>, mut ended: Vec<Tensor<2>>| {
        ended.push(last);
        ended.reverse();
        unranked(Tensor::cat(ended, 0), batch)
    };
    let last = LayerState { h: restore(h, ended_h), c: c.map(|c| restore(c, ended_c)) };
    (Tensor::cat(outputs, 0), last)
}
