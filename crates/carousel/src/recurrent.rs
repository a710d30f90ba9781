//! A stack of recurrent layers as a Burn module: [`RecurrentConfig`] makes a [`Recurrent`].

mod config;
mod forward;
mod names;
mod recorded;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
pub use carousel_kernels::Precision;
use carousel_kernels::{Layer, Zoneout};

use crate::cell::{Cell, CellOptions};
pub use crate::layer::RecurrentWeights;
use crate::own_cell::{AnyCell, Sizes};
use crate::own_layer::OwnWeights;
use crate::path::Path;
use crate::regularize::{Dropout, Noise};
use crate::state::{LayerState, State};

pub use config::RecurrentConfig;
pub use forward::Sequence;

/// Which ways the layers of a stack walk through time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// From the first step to the last.
    #[default]
    Forward,
    /// From each sequence's last real step to its first.
    Reverse,
    /// Both; the outputs stand beside each other, forward first, and feed the next layer together.
    Both,
}

impl Direction {
    fn kernels(self) -> &'static [carousel_kernels::Direction] {
        use carousel_kernels::Direction::{Forward, Reverse};
        match self {
            Direction::Forward => &[Forward],
            Direction::Reverse => &[Reverse],
            Direction::Both => &[Forward, Reverse],
        }
    }
}

/// What becomes of the outputs of two directions, before the next layer and after the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Merge {
    /// They stand beside each other, forward first.
    #[default]
    Concat,
    /// They are added.
    Sum,
}

/// The random choices of a pass, and the names under which its sequences draw them: sequences of one name share
/// the masks that are locked over time.
#[derive(Clone, Copy, Debug)]
pub struct NoisySequences<'a> {
    /// The choices.
    pub noise: Noise,
    /// One name a sequence.
    pub names: &'a [u32],
}

/// What the sequences of a layer in one direction begin from, a row each.
#[derive(Module, Debug)]
struct BeginState {
    h: Param<Tensor<2>>,
    c: Option<Param<Tensor<2>>>,
}

/// A stack of recurrent layers.
///
/// On the fused path the first pass without gradients leaves each layer's weights packed for the passes that follow,
/// which takes about as much memory as the weights; clones share it. It goes when a pass with gradients comes.
#[derive(Module, Debug)]
pub struct Recurrent {
    /// Of a fused cell: layer 0 forward, layer 0 reverse, layer 1 forward, …
    weights: Vec<RecurrentWeights>,
    /// Of an own cell, in the same order.
    own: Vec<OwnWeights>,
    /// In the same order; empty where sequences begin from zero.
    begin: Vec<BeginState>,
    #[module(skip)]
    cell: AnyCell,
    #[module(skip)]
    input: usize,
    #[module(skip)]
    hidden: usize,
    #[module(skip)]
    layers: usize,
    #[module(skip)]
    direction: Direction,
    #[module(skip)]
    dropout: Dropout,
    #[module(skip)]
    residual: bool,
    #[module(skip)]
    merge: Merge,
    #[module(skip)]
    options: CellOptions,
    #[module(skip)]
    path: Path,
    #[module(skip)]
    precision: Precision,
    /// Steps that sequences have read before a call, as statistics of steps count them.
    #[module(skip)]
    read: usize,
}

impl Recurrent {
    /// # Panics
    /// When rows of the input have another width than the stack.
    fn check_input(&self, x: &Tensor<2>) {
        let width = x.dims()[1];
        assert!(width == self.input, "the input has {width} values a step, expected {}", self.input);
    }

    /// The state with what was learned where sequences begin; `None`: from zero.
    fn begun(&self, state: Option<State>, sequences: usize) -> Option<State> {
        if self.begin.is_empty() {
            return state;
        }
        let begins = match &state {
            None => Some(vec![true; sequences]),
            Some(state) => state.begins().map(<[bool]>::to_vec),
        };
        let Some(begins) = begins else { return state };
        let like = self.begin[0].h.val();
        let marks: Vec<f32> = begins.iter().map(|&begins| f32::from(u8::from(begins))).collect();
        let marks = TensorData::new(marks, [sequences, 1]).convert_dtype(like.dtype());
        let marks = Tensor::<2>::from_data(marks, (&like.device(), like.dtype()));
        // Rows that begin hold zeros.
        let put = |learned: &Param<Tensor<2>>, there: Option<&Tensor<2>>| {
            let rows = marks.clone().matmul(learned.val());
            there.map_or(rows.clone(), |there| there.clone() + rows)
        };
        let entries = self.begin.iter().enumerate().map(|(entry, begin)| {
            let there = state.as_ref().map(|state| &state.layers[entry]);
            LayerState {
                h: put(&begin.h, there.map(|there| &there.h)),
                c: begin.c.as_ref().map(|c| put(c, there.and_then(|there| there.c.as_ref()))),
            }
        });
        Some(State::of(entries.collect()))
    }

    /// # Panics
    /// When the state has other sizes than the stack, or other than so many sequences.
    fn check_state(&self, state: &State, sequences: usize) {
        let expected = self.entries();
        let found = state.layers.len();
        assert!(
            found == expected,
            "the state has {found} entries (layers · directions), expected {expected}"
        );
        let directions = self.directions();
        for (index, entry) in state.layers.iter().enumerate() {
            let layer = index / directions;
            let [found_sequences, found_hidden] = entry.h.dims();
            assert!(
                found_sequences == sequences,
                "layer {layer}: state has {found_sequences} sequences, expected {sequences}"
            );
            assert!(
                found_hidden == self.width(),
                "layer {layer}: state has {found_hidden} units, expected {}",
                self.width()
            );
            let (found, expected) =
                (entry.c.as_ref().map(|c| c.dims()[1]), self.cell.memory(self.sizes(layer)));
            assert!(
                found == expected,
                "layer {layer}: the state has {} of c, expected {}; the cell is {}",
                values(found),
                values(expected),
                self.cell.name()
            );
        }
    }

    /// Whether what sequences begin from is learned.
    #[must_use]
    pub fn learns_state(&self) -> bool {
        !self.begin.is_empty()
    }

    /// The state of sequences that have read nothing.
    pub(crate) fn first_state(&self, sequences: usize) -> State {
        self.begun(None, sequences).unwrap_or_else(|| self.zero_state(sequences))
    }

    /// A state with what was learned in the rows that begin.
    pub(crate) fn begin_in(&self, state: State) -> State {
        let sequences = state.sequences();
        self.begun(Some(state), sequences).expect("a state was given")
    }

    fn zero_state(&self, sequences: usize) -> State {
        let device = match (self.weights.first(), self.own.first().and_then(|own| own.named().next())) {
            (Some(weights), _) => weights.weight_ih.device(),
            (None, Some((_, weight))) => weight.device(),
            (None, None) => Device::default(),
        };
        let zeros = |width: usize| Tensor::zeros([sequences, width], &device);
        let entry = |entry: usize| {
            let (h, c) = self.state_widths(entry / self.directions());
            LayerState { h: zeros(h), c: c.map(zeros) }
        };
        State::of((0..self.entries()).map(entry).collect())
    }

    /// Values of `h` and of `c` in a layer.
    pub(crate) fn state_widths(&self, layer: usize) -> (usize, Option<usize>) {
        (self.width(), self.cell.memory(self.sizes(layer)))
    }

    /// `I`, the width of what the first layer reads.
    #[must_use]
    pub fn input_width(&self) -> usize {
        self.input
    }

    /// Layers.
    pub(crate) fn layers(&self) -> usize {
        self.layers
    }

    /// Ways through time.
    fn directions(&self) -> usize {
        self.direction.kernels().len()
    }

    /// Layers, times directions.
    pub(crate) fn entries(&self) -> usize {
        self.layers * self.directions()
    }

    /// The sizes of a layer.
    fn sizes(&self, layer: usize) -> Sizes {
        let input = if layer == 0 { self.input } else { self.output_width() };
        Sizes { input, hidden: self.hidden }
    }

    /// The layer of a fused cell as the kernels know it, one entry a direction.
    pub(crate) fn kernel_layers(&self, cell: Cell, layer: usize) -> impl Iterator<Item = Layer> + use<> {
        let directions = self.direction.kernels();
        let (precision, zoneout, options) = (self.precision, self.zoneout(), self.options);
        let Sizes { input, hidden } = self.sizes(layer);
        directions.iter().map(move |&direction| Layer {
            cell,
            direction,
            input,
            hidden,
            precision,
            zoneout,
            options,
        })
    }

    /// Chooses the implementation.
    #[must_use]
    pub fn with_path(mut self, path: Path) -> Recurrent {
        self.path = path;
        self
    }

    /// Chooses what products of the fused path multiply. Where the machine cannot multiply in that precision
    /// ([`Precision::is_available`]), 32-bit floats are multiplied.
    #[must_use]
    pub fn with_precision(mut self, precision: Precision) -> Recurrent {
        self.precision = precision;
        self
    }

    /// The parameters, layer 0 forward, layer 0 reverse, layer 1 forward, … None of an own cell; those have
    /// [names](crate::parameters::NamedParameters).
    #[must_use]
    pub fn weights(&self) -> &[RecurrentWeights] {
        &self.weights
    }

    /// How often its units keep their last value.
    #[must_use]
    pub fn zoneout(&self) -> Zoneout {
        self.dropout.zones()
    }

    /// What the cells have beside their equations.
    #[must_use]
    pub fn options(&self) -> CellOptions {
        self.options
    }

    /// Whether each layer but the first adds what it reads to what it gives.
    #[must_use]
    pub fn is_residual(&self) -> bool {
        self.residual
    }

    /// Which ways it walks.
    pub(crate) fn direction(&self) -> Direction {
        self.direction
    }

    /// What becomes of two directions' outputs.
    pub(crate) fn merge(&self) -> Merge {
        self.merge
    }

    /// Whether it normalises by the statistics of batches, and so learns with [noise](Recurrent::forward_noisy) only.
    #[must_use]
    pub fn has_statistics(&self) -> bool {
        self.own.iter().any(|own| !own.statistics().is_empty())
    }

    /// Counts the steps of the next calls from here on.
    pub(crate) fn set_read(&mut self, read: usize) {
        self.read = read;
    }

    /// The cell.
    #[must_use]
    pub fn cell(&self) -> AnyCell {
        self.cell
    }

    /// Whether the kernels take it one step at a time, forward and backward, unit by unit: a cell that they know and
    /// that does not project.
    #[must_use]
    pub fn walks_by_units(&self) -> bool {
        self.cell.fused().is_some() && self.options.projection.is_none()
    }

    /// `P`, values of `h` in one direction.
    fn width(&self) -> usize {
        self.options.values(self.hidden)
    }

    /// `O`, the width of the outputs.
    #[must_use]
    pub fn output_width(&self) -> usize {
        match (self.direction, self.merge) {
            (Direction::Both, Merge::Concat) => 2 * self.width(),
            _ => self.width(),
        }
    }
}

/// Widths of `c` for a message.
fn values(width: Option<usize>) -> String {
    width.map_or("none".to_owned(), |width| format!("{width} values"))
}
