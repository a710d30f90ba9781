//! Cells of your own: one step in Burn's operations, and all that a stack does with it.
//!
//! A [`RecurrentCell`] says which weights it has and what one step does. A
//! [`Recurrent`](crate::recurrent::Recurrent) stack makes the rest of it: layers, directions, ragged batches, a
//! state that is carried and cut, weights by name for checkpoints, gradients by Burn's autodiff, recordings for the
//! lens. It is not fused: each step is some operations of Burn's.

use std::fmt::Debug;

use burn::tensor::Tensor;
use carousel_kernels::Cell;

pub use crate::state::LayerState;
use crate::statistics::{By, Running};

/// A recurrent cell: its weights by name, and one step.
///
/// The cell itself holds no numbers. It is a description that lives as long as the program: a `static`, a constant
/// such as `&MyCell`, or what `Box::leak` gives. A stack owns the weights.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use carousel::own_cell::{Expose, LayerState, RecurrentCell, Sizes, Weight, Weights};
/// use carousel::recurrent::{Direction, RecurrentConfig};
///
/// /// `h' = tanh(W x + b + u * h)`: each unit hears only itself (IndRNN, Li et al. 2018).
/// #[derive(Debug)]
/// struct Independent;
///
/// impl RecurrentCell for Independent {
///     fn name(&self) -> &'static str {
///         "indrnn"
///     }
///
///     fn weights(&self, sizes: Sizes) -> Vec<Weight> {
///         vec![sizes.input("weight_ih", 1), sizes.bias("bias", 1), sizes.filled("own", 1, 1.0)]
///     }
///
///     fn read(&self, weights: &Weights<'_>, x: Tensor<2>) -> Tensor<2> {
///         weights.product(x, "weight_ih") + weights.get("bias")
///     }
///
///     fn step(&self, weights: &Weights<'_>, read: Tensor<2>, past: LayerState, _: &mut Expose) -> LayerState {
///         LayerState::of((read + past.h * weights.get("own")).tanh())
///     }
/// }
///
/// let stack = RecurrentConfig::new(&Independent, 3, 8).with_layers(2).with_direction(Direction::Both);
/// let stack = stack.init(&Device::default())?;
/// let (y, state) = stack.forward(Tensor::<3>::ones([4, 5, 3], &Device::default()), None);
/// assert_eq!(y.dims(), [4, 5, 16]);
/// # Ok::<(), carousel::config_error::ConfigError>(())
/// ```
pub trait RecurrentCell: Debug + Send + Sync {
    /// Its name in messages.
    fn name(&self) -> &'static str;

    /// The weights of one layer in one direction. Their names are unlike; those in a checkpoint are these with the
    /// layer's ending, such as `weight_ih_l0_reverse`.
    fn weights(&self, sizes: Sizes) -> Vec<Weight>;

    /// Values of a sequence's `c`, which a step keeps to itself and the next one reads; `None` where `h` is the
    /// whole state. The default.
    fn memory(&self, sizes: Sizes) -> Option<usize> {
        let _ = sizes;
        None
    }

    /// The built-in cell whose gates this one has, where it has a [gate bias](Sizes::gate_bias). Default: none.
    fn like(&self) -> Option<Cell> {
        None
    }

    /// What is [normalised](Weights::normalised) by the statistics of a batch. Their names are unlike. Default:
    /// nothing.
    fn statistics(&self, sizes: Sizes) -> Vec<Statistic> {
        let _ = sizes;
        Vec::new()
    }

    /// What [`step`](RecurrentCell::step) exposes to recordings besides `h` and `c`. Default: nothing.
    fn signals(&self) -> Vec<Signal> {
        Vec::new()
    }

    /// What of a step does not need the past, for all frames at once: of `x` `[F, I]` whatever the step wants,
    /// `[F, any]`. Default: `x`.
    fn read(&self, weights: &Weights<'_>, x: Tensor<2>) -> Tensor<2> {
        let _ = weights;
        x
    }

    /// One step of `B` sequences: from what [`read`](RecurrentCell::read) made of their inputs `[B, any]` and the
    /// state before the step to the state after it, `h` `[B, H]` and, where the cell has one, `c`. The layer's
    /// output is `h`.
    fn step(
        &self,
        weights: &Weights<'_>,
        read: Tensor<2>,
        past: LayerState,
        expose: &mut Expose,
    ) -> LayerState;

    /// For cells whose step is `h' = keep * h + add` with factors that do not need the past: both of all rows of
    /// `read`, `[rows, H]` each, the keep from 0 to 1. Such a cell is not walked step by step but scanned.
    /// Default: it is not such a cell.
    fn linear(&self, weights: &Weights<'_>, read: Tensor<2>, expose: &mut Expose) -> Option<Linear> {
        let _ = (weights, read, expose);
        None
    }
}

/// A step `h' = keep * h + add` that knows its factors beforehand.
#[derive(Clone, Debug)]
pub struct Linear {
    /// The share of the last `h` that stays, `[rows, H]`.
    pub keep: Tensor<2>,
    /// What comes to it, `[rows, H]`.
    pub add: Tensor<2>,
}

impl Linear {
    /// The step itself.
    #[must_use]
    pub fn step(self, past: LayerState) -> LayerState {
        LayerState::of(self.keep * past.h + self.add)
    }
}

/// The sizes of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// `I`, values that a step reads.
    pub input: usize,
    /// `H`, values that a step gives.
    pub hidden: usize,
}

impl Sizes {
    /// Weights of the input, `[gates · H, I]`, drawn as [`Init::input`](crate::init::Init::input) says, each gate by itself.
    #[must_use]
    pub fn input(self, name: &'static str, gates: usize) -> Weight {
        Weight { name, shape: [gates * self.hidden, self.input], draw: Draw::Input }
    }

    /// Weights of the last `h`, `[gates · H, H]`, drawn as [`Init::recurrent`](crate::init::Init::recurrent) says, each gate by itself. Dropout of
    /// recurrent weights is of these.
    #[must_use]
    pub fn recurrent(self, name: &'static str, gates: usize) -> Weight {
        Weight { name, shape: [gates * self.hidden, self.hidden], draw: Draw::Recurrent }
    }

    /// A bias, `[1, gates · H]`, drawn or zero as the biases of the built-in cells.
    #[must_use]
    pub fn bias(self, name: &'static str, gates: usize) -> Weight {
        Weight { name, shape: [1, gates * self.hidden], draw: Draw::Bias }
    }

    /// The bias `[1, G · H]` of a built-in cell's gates, drawn as that cell's and with [`Init::gates`](crate::init::Init::gates) written over
    /// it. A cell that has one says so in [`like`](RecurrentCell::like).
    #[must_use]
    pub fn gate_bias(self, name: &'static str, cell: Cell) -> Weight {
        Weight { name, shape: [1, cell.gates() * self.hidden], draw: Draw::Gates(cell) }
    }

    /// A row `[1, gates · H]` that starts from one value.
    #[must_use]
    pub fn filled(self, name: &'static str, gates: usize, value: f32) -> Weight {
        Weight { name, shape: [1, gates * self.hidden], draw: Draw::Filled(value) }
    }
}

/// A matrix that a layer learns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weight {
    /// Its name.
    pub name: &'static str,
    /// Rows and columns.
    pub shape: [usize; 2],
    /// What it starts from.
    pub draw: Draw,
}

/// What a matrix starts from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Draw {
    /// As the stack's input weights.
    Input,
    /// As the stack's recurrent weights.
    Recurrent,
    /// As the stack's biases.
    Bias,
    /// As the biases of that cell's gates.
    Gates(Cell),
    /// One value everywhere.
    Filled(f32),
}

/// Values that are normalised by the statistics of a batch, and by running means of those when the cell is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistic {
    /// Its name.
    pub name: &'static str,
    /// Values of a row.
    pub width: usize,
    /// Steps that have statistics of their own, later ones having the last's; 1: all steps are one.
    pub steps: usize,
}

/// A value that a step exposes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub role: Role,
}

/// What a signal is to those who look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A state or a candidate.
    Value,
    /// A share from 0 to 1.
    Gate,
    /// The gate that says which share of the last state stays.
    Keep,
}

impl Signal {
    /// A state or a candidate.
    #[must_use]
    pub const fn value(name: &'static str) -> Signal {
        Signal { name, role: Role::Value }
    }

    /// A share from 0 to 1.
    #[must_use]
    pub const fn gate(name: &'static str) -> Signal {
        Signal { name, role: Role::Gate }
    }

    /// The share of the last state that stays.
    #[must_use]
    pub const fn keep(name: &'static str) -> Signal {
        Signal { name, role: Role::Keep }
    }
}

/// The weights of one layer in one direction, as a step reads them.
#[derive(Debug)]
pub struct Weights<'a> {
    pub(crate) declared: &'a [Weight],
    pub(crate) values: Vec<Tensor<2>>,
    pub(crate) statistics: &'a [(&'static str, Running)],
    pub(crate) by: By,
    /// The step under way, counted from where the call began.
    pub(crate) step: std::cell::Cell<usize>,
}

impl Weights<'_> {
    /// The weight of that name.
    ///
    /// # Panics
    /// When the cell has declared none.
    #[must_use]
    pub fn get(&self, name: &str) -> Tensor<2> {
        let place = self.declared.iter().position(|weight| weight.name == name);
        let place = place.unwrap_or_else(|| {
            let names: Vec<&str> = self.declared.iter().map(|weight| weight.name).collect();
            panic!("the cell has no weight {name}, only {}", names.join(", "))
        });
        self.values[place].clone()
    }

    /// `x Wᵀ`, `[rows, columns of W]` to `[rows, rows of W]`.
    ///
    /// # Panics
    /// As [`get`](Weights::get), and when the sizes do not match.
    #[must_use]
    pub fn product(&self, x: Tensor<2>, name: &str) -> Tensor<2> {
        x.matmul(self.get(name).transpose())
    }

    /// Rows with mean 0 and variance 1 over the rows of the batch, the real frames or those of a step, while the
    /// stack learns ([with noise](crate::recurrent::Recurrent::forward_noisy)); by running means otherwise.
    ///
    /// # Panics
    /// When the cell has declared no such statistic, or of another width.
    #[must_use]
    pub fn normalised(&self, rows: Tensor<2>, name: &str) -> Tensor<2> {
        let found = self.statistics.iter().find(|(known, _)| *known == name);
        let (_, running) = found.unwrap_or_else(|| panic!("the cell has no statistic {name}"));
        running.normalise(rows, self.step.get(), self.by)
    }
}

/// Takes what a step exposes, where somebody records it.
#[derive(Debug, Default)]
pub struct Expose {
    /// The rows of each step, by name.
    pub(crate) kept: Vec<(&'static str, Vec<Tensor<2>>)>,
}

impl Expose {
    /// Tells the values of a signal at this step, `[rows, any]`.
    pub fn signal(&mut self, name: &str, values: &Tensor<2>) {
        if let Some((_, rows)) = self.kept.iter_mut().find(|(wanted, _)| *wanted == name) {
            rows.push(values.clone());
        }
    }
}

/// A cell of a stack: one that the kernels know, or one of your own.
#[derive(Clone, Copy, Debug)]
pub enum AnyCell {
    /// Fused.
    Fused(Cell),
    /// In Burn's operations.
    Own(&'static dyn RecurrentCell),
}

impl From<Cell> for AnyCell {
    fn from(cell: Cell) -> AnyCell {
        AnyCell::Fused(cell)
    }
}

impl<C: RecurrentCell> From<&'static C> for AnyCell {
    fn from(cell: &'static C) -> AnyCell {
        AnyCell::Own(cell)
    }
}

impl PartialEq<Cell> for AnyCell {
    fn eq(&self, other: &Cell) -> bool {
        self.fused() == Some(*other)
    }
}

impl AnyCell {
    /// The cell where the kernels know it.
    #[must_use]
    pub fn fused(self) -> Option<Cell> {
        match self {
            AnyCell::Fused(cell) => Some(cell),
            AnyCell::Own(_) => None,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            AnyCell::Fused(cell) => cell.name(),
            AnyCell::Own(cell) => cell.name(),
        }
    }

    /// The built-in cell whose gates it has.
    pub(crate) fn gated(self) -> Option<Cell> {
        match self {
            AnyCell::Fused(cell) => Some(cell),
            AnyCell::Own(cell) => cell.like(),
        }
    }

    /// Values of `c` in a layer; `None` where there is none.
    #[must_use]
    pub fn memory(self, sizes: Sizes) -> Option<usize> {
        match self {
            AnyCell::Fused(cell) => cell.has_cell_state().then_some(sizes.hidden),
            AnyCell::Own(cell) => cell.memory(sizes),
        }
    }

    /// Whether its state has a `c`.
    #[must_use]
    pub fn has_cell_state(self) -> bool {
        self.memory(Sizes { input: 1, hidden: 1 }).is_some()
    }

    /// All that can be recorded of it: `h`, `c` where there is one, and its own signals.
    #[must_use]
    pub fn signals(self) -> Vec<Signal> {
        match self {
            AnyCell::Fused(cell) => {
                let signal = |&(name, _): &(&'static str, _)| match (cell, name) {
                    (_, "h" | "c" | "g" | "n") => Signal::value(name),
                    (Cell::Lstm, "f") | (Cell::Gru(_), "z") => Signal::keep(name),
                    _ => Signal::gate(name),
                };
                cell.signals().iter().map(signal).collect()
            }
            AnyCell::Own(cell) => {
                let states = if self.has_cell_state() { &["h", "c"][..] } else { &["h"] };
                let states = states.iter().map(|name| Signal::value(name));
                states.chain(cell.signals()).collect()
            }
        }
    }
}
