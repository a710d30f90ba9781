//! A pass of a stack that keeps what its cells had at every step.

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use carousel_kernels::{Batch, Frames, FramesMut, Layer, Layout, State as KernelState, StateMut, forward};

use super::{Merge, Recurrent, Sequence};
use crate::layer::RecurrentWeights;
use crate::own_cell::AnyCell;
use crate::own_layer::Recording;
use crate::record::{Keep, Record, Series};
use crate::slices::with_slice;
use crate::state::{LayerState, State};

impl Recurrent {
    /// [`forward`](Recurrent::forward) that also keeps what the cells had at every step. The rows of what is kept
    /// stand in the order of the input: frames of a [`Ragged`](crate::ragged::Ragged) batch, or batch first of a `Tensor<3>`.
    ///
    /// It runs without gradients, and a fused cell on the CPU, whatever device the stack is on.
    ///
    /// # Panics
    /// As [`forward`](Recurrent::forward).
    #[must_use]
    pub fn forward_recorded<S: Sequence>(
        &self,
        x: S,
        state: Option<State>,
        keep: &Keep,
    ) -> (S, State, Record) {
        let (rows, batch, layout) = x.into_rows();
        self.check_input(&rows);
        if let Some(state) = &state {
            self.check_state(state, batch.sequences());
        }
        let mut record = Record::default();
        let AnyCell::Fused(cell) = self.cell else {
            let recording = Recording { keep, record: &mut record, layout };
            let (rows, state) = (rows.without_autodiff(), state.map(State::without_autodiff));
            let (rows, state) = self.valid().run(rows, None, &batch, layout, state, None, Some(recording));
            return (S::from_rows(rows, batch), state, record);
        };
        let device = rows.device().without_autodiff();
        // Where sequences begin is looked up off the autodiff layer, as all else here.
        let state = match self.learns_state() {
            true => self.valid().begun(state.map(State::without_autodiff), batch.sequences()),
            false => state,
        };
        let mut x = with_slice(&rows, <[f32]>::to_vec);
        let (mut last, directions) = (Vec::new(), self.directions());
        for layer in 0..self.layers {
            let entries = layer * directions..(layer + 1) * directions;
            let initial = state.as_ref().map(|state| &state.layers[entries.clone()]);
            let weights: Vec<_> = self.kernel_layers(cell, layer).zip(&self.weights[entries]).collect();
            let y = run_layer(layer, &weights, &x, &batch, layout, initial, keep, &mut record, &mut last);
            let mut y = match (self.merge, directions) {
                (Merge::Sum, 2..) => {
                    let (rows, width) = (y.chunks_exact(2 * self.width()), self.width());
                    rows.flat_map(|row| (0..width).map(move |at| row[at] + row[width + at])).collect()
                }
                _ => y,
            };
            if self.residual && layer > 0 {
                y.iter_mut().zip(&x).for_each(|(y, x)| *y += x);
            }
            x = y;
        }
        let matrix = |values: Vec<f32>, width: usize| {
            let shape = [values.len() / width, width];
            Tensor::<2>::from_data(TensorData::new(values, shape), &device)
        };
        let layers = last
            .into_iter()
            .map(|(h, c)| LayerState { h: matrix(h, self.width()), c: c.map(|c| matrix(c, self.hidden)) });
        let state = State::of(layers.collect());
        (S::from_rows(matrix(x, self.output_width()), batch), state, record)
    }
}

/// A direction's last `h`, `[B, P]`, and `c`, `[B, H]`.
type Last = (Vec<f32>, Option<Vec<f32>>);

/// One layer in all its directions, which are given with their weights: from rows `x` `[rows, I]` to its outputs
/// `[rows, O]`. Adds what is to be kept to `record`, and a last state a direction to `last`.
#[allow(clippy::too_many_arguments)]
fn run_layer(
    layer: usize,
    directions: &[(Layer, &RecurrentWeights)],
    x: &[f32],
    batch: &Batch,
    layout: Layout,
    initial: Option<&[LayerState]>,
    keep: &Keep,
    record: &mut Record,
    last: &mut Vec<Last>,
) -> Vec<f32> {
    let width: usize = directions.iter().map(|(sizes, _)| sizes.output()).sum();
    let rows = batch.rows(layout);
    let mut y = vec![0.0; rows * width];
    let mut offset = 0;
    for (index, (sizes, weights)) in directions.iter().enumerate() {
        let mut h = vec![0.0; batch.sequences() * sizes.output()];
        let mut c = sizes.cell.has_cell_state().then(|| vec![0.0; batch.sequences() * sizes.hidden]);
        let mut tape = weights.tapes.take();
        let state = initial.map(|all| &all[index]);
        let initial_h = state.map(|state| with_slice(&state.h, <[f32]>::to_vec));
        let initial_c = state.and_then(|state| state.c.as_ref()).map(|c| with_slice(c, <[f32]>::to_vec));
        weights.lend(|weights| {
            forward(
                sizes,
                batch,
                weights,
                Frames { data: x, layout, stride: sizes.input, offset: 0 },
                KernelState { h: initial_h.as_deref(), c: initial_c.as_deref() },
                FramesMut { data: &mut y, layout, stride: width, offset },
                StateMut { h: Some(&mut h), c: c.as_deref_mut() },
                Some(&mut tape.tape),
            )
            .expect("the stack was made with sizes that fit");
        });
        for &(name, signal) in sizes.cell.signals() {
            if keep.wants(layer, name) {
                let units = sizes.width_of(signal);
                let mut values = vec![0.0; rows * units];
                tape.tape.copy_signal(signal, layout, &mut values).expect("the tape was just filled");
                record.series.push(Series {
                    layer,
                    direction: sizes.direction,
                    name: name.to_owned(),
                    units,
                    values,
                });
            }
        }
        offset += sizes.output();
        last.push((h, c));
    }
    y
}
