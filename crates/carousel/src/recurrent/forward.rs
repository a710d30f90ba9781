//! A pass of a stack over sequences: layer after layer, in the kernels or in Burn's operations.

use std::borrow::Cow;
use std::sync::Arc;

use burn::module::Param;
use burn::tensor::Tensor;
use carousel_kernels::{Batch, Layout};

use super::{Direction, Merge, NoisySequences, Recurrent};
use crate::calls::{Call, take_down};
use crate::layer::{LayerInput, LayerNoise, RecurrentWeights};
use crate::own_cell::AnyCell;
use crate::own_layer::{OwnLayer, Recording};
use crate::ragged::{Ragged, SharedRows};
use crate::regularize::{Dropout, Purpose, Sharing, masked};
use crate::state::State;
use crate::{fused, portable, walk};

/// What a stack reads and writes: a [`Ragged`] batch, or a `Tensor<3>` `[B, T, I]` of equally long sequences.
pub trait Sequence: sealed::Sealed {}

impl Sequence for Ragged {}
impl Sequence for Tensor<3> {}

mod sealed {
    use super::{Arc, Batch, Layout, Ragged, Tensor};

    pub trait Sealed: Sized {
        /// Rows, the sequences they belong to, and how they stand.
        fn into_rows(self) -> (Tensor<2>, Arc<Batch>, Layout);
        fn from_rows(rows: Tensor<2>, batch: Arc<Batch>) -> Self;
    }

    impl Sealed for Ragged {
        fn into_rows(self) -> (Tensor<2>, Arc<Batch>, Layout) {
            (self.frames(), self.batch().clone(), Layout::Packed)
        }

        fn from_rows(rows: Tensor<2>, batch: Arc<Batch>) -> Ragged {
            Ragged::new(rows, batch).expect("a layer writes as many rows as it reads")
        }
    }

    impl Sealed for Tensor<3> {
        fn into_rows(self) -> (Tensor<2>, Arc<Batch>, Layout) {
            let [sequences, time, width] = self.dims();
            let batch = Arc::new(Batch::full(sequences, time));
            // Burn's reshape reads a zero as "this dimension as it was".
            let rows = match sequences * time {
                0 => Tensor::zeros([0, width], &self.device()),
                rows => self.reshape([rows, width]),
            };
            (rows, batch, Layout::Padded)
        }

        fn from_rows(rows: Tensor<2>, batch: Arc<Batch>) -> Tensor<3> {
            let shape = [batch.sequences(), batch.time(), rows.dims()[1]];
            if batch.frames() == 0 { Tensor::zeros(shape, &rows.device()) } else { rows.reshape(shape) }
        }
    }
}

impl Recurrent {
    /// Runs the stack over sequences, from `state` or from where they begin. Returns the last layer's output at every step,
    /// in the form the input had (`O` is `P`, or `2·P` in both directions side by side), and the state after each sequence's
    /// last real step.
    ///
    /// # Panics
    /// When the input has another width than the stack, or the state other sizes.
    #[must_use]
    pub fn forward<S: Sequence>(&self, x: S, state: Option<State>) -> (S, State) {
        self.forward_noisy(x, state, None)
    }

    /// The same while learning: values and weights drop out as the configuration says, and cells that
    /// [normalise by batches](crate::batch_norm) go by this one's statistics, which their running ones follow. The
    /// noise decides what drops out; equal noise gives equal bits. `None` drops and learns nothing.
    ///
    /// # Panics
    /// As [`forward`](Recurrent::forward), and when there is not one name a sequence.
    #[must_use]
    pub fn forward_noisy<S: Sequence>(
        &self,
        x: S,
        state: Option<State>,
        noise: Option<NoisySequences<'_>>,
    ) -> (S, State) {
        let (rows, batch, layout) = x.into_rows();
        let (rows, state) = self.run(rows, None, &batch, layout, state, noise, None);
        (S::from_rows(rows, batch), state)
    }

    /// The same over frames that share input rows.
    ///
    /// # Panics
    /// As [`forward`](Recurrent::forward).
    #[must_use]
    pub fn forward_shared(&self, x: SharedRows, state: Option<State>) -> (Ragged, State) {
        self.forward_shared_noisy(x, state, None)
    }

    /// [`forward_noisy`](Recurrent::forward_noisy) over frames that share input rows.
    ///
    /// # Panics
    /// As [`forward_noisy`](Recurrent::forward_noisy).
    #[must_use]
    pub fn forward_shared_noisy(
        &self,
        x: SharedRows,
        state: Option<State>,
        noise: Option<NoisySequences<'_>>,
    ) -> (Ragged, State) {
        let SharedRows { rows, index, batch } = x;
        let (rows, state) = self.run(rows, Some(index), &batch, Layout::Packed, state, noise, None);
        (sealed::Sealed::from_rows(rows, batch), state)
    }

    /// The way through the layers: from rows, which frames may share by their `index`, to the last layer's outputs and
    /// the last state. `layout` is that of the input and of the output.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn run(
        &self,
        mut x: Tensor<2>,
        mut index: Option<Arc<Vec<u32>>>,
        batch: &Arc<Batch>,
        layout: Layout,
        state: Option<State>,
        noise: Option<NoisySequences<'_>>,
        mut recording: Option<Recording<'_>>,
    ) -> (Tensor<2>, State) {
        self.check_input(&x);
        if let Some(state) = &state {
            self.check_state(state, batch.sequences());
        }
        let rows = index.as_ref().map(|index| &index[..]);
        take_down(|| Call::new(self, &x, rows, batch, layout, state.as_ref()));
        let state = self.begun(state, batch.sequences());
        let directions = self.directions();
        let mut last = Vec::with_capacity(self.entries());
        for layer in 0..self.layers {
            let first = layer * directions;
            let skipped = (self.residual && layer > 0).then(|| x.clone());
            if let (Some(NoisySequences { noise, names }), 1..) = (noise, layer) {
                let Dropout { between, locked, .. } = self.dropout;
                let mask = noise.over_steps(locked).mask(Purpose::Between, layer, between);
                x = masked(x, mask, Sharing::of(locked, batch, names));
            }
            let initial = state.as_ref().map(|state| &state.layers[first..first + directions]);
            // Between the layers rows stand step after step, the order in which the kernels walk.
            let x_layout = if layer == 0 { layout } else { Layout::Packed };
            let is_last = layer + 1 == self.layers;
            let y_layout = if is_last && skipped.is_none() { layout } else { Layout::Packed };
            let in_steps =
                noise.filter(|_| self.dropout.is_in_steps()).map(|NoisySequences { noise, names }| {
                    let keys = (first..first + directions).map(|index| noise.steps(index)).collect();
                    LayerNoise { keys, dropout: self.dropout, names }
                });
            let input = LayerInput { batch, x, index: index.take(), x_layout, y_layout, noise: in_steps };
            let output = match self.cell {
                AnyCell::Fused(cell) => {
                    let dropped: Vec<Cow<'_, RecurrentWeights>> =
                        (first..first + directions).map(|index| self.noisy_weights(index, noise)).collect();
                    let layers = self.kernel_layers(cell, layer).zip(dropped.iter().map(AsRef::as_ref));
                    let is_fused = self.path.is_fused(&input.x, &self.weights[first].weight_ih);
                    let implementation = if is_fused { fused::layer } else { portable::layer };
                    implementation(input, &layers.collect::<Vec<_>>(), initial)
                }
                AnyCell::Own(cell) => {
                    let own = OwnLayer {
                        cell,
                        layer,
                        sizes: self.sizes(layer),
                        directions: self.direction.kernels(),
                        weights: &self.own[first..first + directions],
                        dropout: self.dropout,
                        path: self.path,
                        read: self.read,
                    };
                    let recording = recording.as_mut().map(Recording::reborrow);
                    own.run(input, initial, noise.map(|noisy| noisy.noise), recording)
                }
            };
            x = self.merged(output.y);
            last.extend(output.last);
            if let Some(skipped) = skipped {
                x = x + skipped;
                if is_last && layout == Layout::Padded {
                    x = portable::swap_axes(x, batch.time(), batch.sequences());
                }
            }
        }
        (x, State::of(last))
    }

    /// The weights of one layer in one direction, some recurrent ones dropped where there is noise.
    fn noisy_weights(&self, index: usize, noise: Option<NoisySequences<'_>>) -> Cow<'_, RecurrentWeights> {
        let own = &self.weights[index];
        let mask = noise.and_then(|n| n.noise.mask(Purpose::Recurrent, index, self.dropout.weights));
        if mask.is_none() {
            return Cow::Borrowed(own);
        }
        let dropped = masked(own.weight_hh.val(), mask, Sharing::None);
        // Not a leaf: its gradient goes through the mask to the parameter itself.
        let weight_hh = Param::initialized(own.weight_hh.id, dropped);
        Cow::Owned(RecurrentWeights { weight_hh, ..own.clone() })
    }

    /// What the stack gives at the last step of each direction, `[B, O]`, from its outputs `y` and last state.
    pub(crate) fn ends(&self, y: &Tensor<2>, batch: &Batch, state: &State) -> Tensor<2> {
        let directions = self.direction.kernels();
        let top = &state.layers[state.layers.len() - directions.len()..];
        let mut ends: Vec<Tensor<2>> = top.iter().map(|layer| layer.h.clone()).collect();
        if self.residual && self.layers > 1 {
            // What the top layer gives is not its state alone.
            let at = |&direction| walk::ends(y.clone(), batch, direction);
            ends = directions.iter().map(at).collect();
            if self.merge == Merge::Concat && ends.len() > 1 {
                let (sequences, width) = (state.sequences(), self.width());
                let own = ends.into_iter().enumerate();
                ends = own
                    .map(|(place, all)| all.slice([0..sequences, place * width..(place + 1) * width]))
                    .collect();
            }
        }
        match self.merge {
            Merge::Concat => Tensor::cat(ends, 1),
            Merge::Sum => ends.into_iter().reduce(|sum, end| sum + end).expect("a stack has a direction"),
        }
    }

    /// The outputs of all directions as one.
    fn merged(&self, y: Tensor<2>) -> Tensor<2> {
        let [rows, width] = y.dims();
        if self.direction != Direction::Both || self.merge == Merge::Concat {
            return y;
        }
        y.clone().slice([0..rows, 0..width / 2]) + y.slice([0..rows, width / 2..width])
    }
}
