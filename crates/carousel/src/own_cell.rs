//! Cells of your own: one step in Burn's operations, and all that a stack does with it.
//!
//! A [`RecurrentCell`] says which weights it has and what one step does. A
//! [`Recurrent`](crate::recurrent::Recurrent) stack makes the rest of it: layers, directions, ragged batches, a
//! state that is carried and cut, weights by name for checkpoints, gradients by Burn's autodiff, recordings for the
//! lens. It is not fused: each step is some operations of Burn's.

use std::fmt::Debug;
use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use carousel_kernels::dropout::{Mask, key};
use carousel_kernels::{Batch, Cell, Direction, Layout};

use crate::batch_norm::{By, Running};
use crate::fused::with_slice;
use crate::init::{Init, Initializer, draw_own};
use crate::layer::{LayerInput, LayerOutput};
use crate::parameters::parameter;
use crate::portable::{laid_out, packed, zone_out};
use crate::record::{Keep, Record, Series};
use crate::recurrent::Path;
use crate::regularize::{Dropout, Noise, Purpose, Sharing, factors_like, masked};
use crate::scan::scan;
pub use crate::state::LayerState;
use crate::walk::{Moment, reversal, turn, walk};

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
/// # Ok::<(), carousel::recurrent::ConfigError>(())
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
    /// Weights of the input, `[gates · H, I]`, drawn as [`Init::input`] says, each gate by itself.
    #[must_use]
    pub fn input(self, name: &'static str, gates: usize) -> Weight {
        Weight { name, shape: [gates * self.hidden, self.input], draw: Draw::Input }
    }

    /// Weights of the last `h`, `[gates · H, H]`, drawn as [`Init::recurrent`] says, each gate by itself. Dropout of
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

    /// The bias `[1, G · H]` of a built-in cell's gates, drawn as that cell's and with [`Init::gates`] written over
    /// it. A cell that has one says so in [`like`](RecurrentCell::like).
    #[must_use]
    pub fn gate_bias(self, name: &'static str, cell: Cell) -> Weight {
        Weight { name, shape: [1, gates(cell) * self.hidden], draw: Draw::Gates(cell) }
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

/// `G`.
fn gates(cell: Cell) -> usize {
    match cell {
        Cell::Rnn(_) => 1,
        Cell::Gru(_) => 3,
        Cell::Lstm => 4,
    }
}

/// The weights of one layer in one direction, as a step reads them.
#[derive(Debug)]
pub struct Weights<'a> {
    declared: &'a [Weight],
    values: Vec<Tensor<2>>,
    statistics: &'a [(&'static str, Running)],
    by: By,
    /// The step under way, counted from where the call began.
    step: std::cell::Cell<usize>,
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
    kept: Vec<(&'static str, Vec<Tensor<2>>)>,
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

/// The weights of one layer in one direction.
#[derive(Module, Debug)]
pub(crate) struct OwnWeights {
    values: Vec<Param<Tensor<2>>>,
    #[module(skip)]
    declared: Vec<Weight>,
    #[module(skip)]
    statistics: Vec<(&'static str, Running)>,
}

impl OwnWeights {
    pub(crate) fn draw(
        cell: &dyn RecurrentCell,
        sizes: Sizes,
        init: &Init,
        random: &mut Initializer,
        device: &Device,
    ) -> OwnWeights {
        let declared = cell.weights(sizes);
        let draw =
            |weight: &Weight| parameter(draw_own(weight, sizes.hidden, init, random), weight.shape, device);
        let statistics = cell.statistics(sizes).into_iter();
        let statistics = statistics.map(|own| (own.name, Running::new(own.steps, own.width)));
        OwnWeights { values: declared.iter().map(draw).collect(), statistics: statistics.collect(), declared }
    }

    /// Each statistic with its name.
    pub(crate) fn statistics(&self) -> &[(&'static str, Running)] {
        &self.statistics
    }

    /// Each weight with its name.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&'static str, &Param<Tensor<2>>)> {
        self.declared.iter().map(|weight| weight.name).zip(&self.values)
    }

    /// The same, to change them.
    pub(crate) fn named_mut(&mut self) -> impl Iterator<Item = (&'static str, &mut Param<Tensor<2>>)> {
        self.declared.iter().map(|weight| weight.name).zip(&mut self.values)
    }

    /// As a step reads them; some recurrent ones dropped where there is noise.
    fn lend(&self, noise: Option<Noise>, index: usize, drop: f64) -> Weights<'_> {
        // Matrices of one layer have places of their own among the masks of all layers.
        let mask = |place: usize| noise?.mask(Purpose::Recurrent, index + (place << 16), drop);
        let values = self.values.iter().zip(&self.declared).enumerate().map(|(place, (value, weight))| {
            let mask = if weight.draw == Draw::Recurrent { mask(place) } else { None };
            masked(value.val(), mask, Sharing::None)
        });
        Weights {
            declared: &self.declared,
            values: values.collect(),
            statistics: &self.statistics,
            by: if noise.is_some() { By::Batch } else { By::Running },
            step: std::cell::Cell::new(0),
        }
    }
}

/// A layer of an own cell in all its directions.
pub(crate) struct OwnLayer<'a> {
    pub(crate) cell: &'static dyn RecurrentCell,
    /// Place of the layer in its stack.
    pub(crate) layer: usize,
    pub(crate) sizes: Sizes,
    /// One a direction.
    pub(crate) directions: &'a [Direction],
    /// One a direction.
    pub(crate) weights: &'a [OwnWeights],
    pub(crate) dropout: Dropout,
    pub(crate) path: Path,
    /// Steps that the sequences have read before this call.
    pub(crate) read: usize,
}

/// What is to be recorded, where to, and how its rows stand.
pub(crate) struct Recording<'a> {
    pub(crate) keep: &'a Keep,
    pub(crate) record: &'a mut Record,
    pub(crate) layout: Layout,
}

impl Recording<'_> {
    /// The same for another layer.
    pub(crate) fn reborrow(&mut self) -> Recording<'_> {
        Recording { keep: self.keep, record: self.record, layout: self.layout }
    }
}

/// What a direction gives, frames in packed order.
struct Walked {
    y: Tensor<2>,
    last: LayerState,
    /// `h`, `c` and what the steps exposed, as far as it is wanted.
    signals: Vec<(&'static str, Tensor<2>)>,
}

impl OwnLayer<'_> {
    /// Runs it, as [`portable::layer`](crate::portable::layer) does a built-in one; with `learning`, recurrent
    /// weights drop out.
    pub(crate) fn run(
        &self,
        input: LayerInput<'_>,
        initial: Option<&[LayerState]>,
        learning: Option<Noise>,
        mut recording: Option<Recording<'_>>,
    ) -> LayerOutput {
        let (batch, noise) = (input.batch, input.noise);
        let x = packed(input.x, input.index.as_deref(), input.x_layout, batch);
        let (mut ys, mut last) = (Vec::new(), Vec::new());
        for (place, &direction) in self.directions.iter().enumerate() {
            let keep = recording.as_ref().map(|recording| recording.keep);
            let initial = initial.map(|all| all[place].clone());
            let zones = noise.as_ref().map(|noise| noise.keys[place]);
            let walked = self.walk_one(x.clone(), batch, place, initial, learning, zones, keep);
            if let Some(Recording { record, layout, .. }) = &mut recording {
                record.series.extend(walked.signals.into_iter().map(|(name, rows)| Series {
                    layer: self.layer,
                    direction,
                    name: name.to_owned(),
                    units: rows.dims()[1],
                    values: with_slice(&laid_out(rows, *layout, batch), <[f32]>::to_vec),
                }));
            }
            ys.push(walked.y);
            last.push(walked.last);
        }
        LayerOutput { y: laid_out(Tensor::cat(ys, 1), input.y_layout, batch), last }
    }

    /// One direction over packed frames `[F, I]`. `zones` is the key of zoneout's masks while the stack learns.
    #[allow(clippy::too_many_arguments)]
    fn walk_one(
        &self,
        x: Tensor<2>,
        batch: &Arc<Batch>,
        place: usize,
        initial: Option<LayerState>,
        learning: Option<Noise>,
        zones: Option<u64>,
        keep: Option<&Keep>,
    ) -> Walked {
        let device = x.device();
        let Sizes { hidden, .. } = self.sizes;
        let zeros = |width: usize| Tensor::zeros([batch.sequences(), width], &device);
        let initial = initial
            .unwrap_or_else(|| LayerState { h: zeros(hidden), c: self.cell.memory(self.sizes).map(zeros) });
        let wanted = |name: &str| keep.is_some_and(|keep| keep.wants(self.layer, name));
        let signals = self.cell.signals().into_iter().filter(|signal| wanted(signal.name));
        let mut expose = Expose { kept: signals.map(|signal| (signal.name, Vec::new())).collect() };
        let mut memories = Vec::new();
        let index = self.layer * self.directions.len() + place;
        let weights = self.weights[place].lend(learning, index, self.dropout.weights);
        weights.step.set(self.read);
        let reversal = reversal(batch, self.directions[place], &device);

        let (y, last) = if batch.frames() == 0 {
            (Tensor::zeros([0, hidden], &device), initial)
        } else {
            let read = self.cell.read(&weights, turn(x, &reversal));
            let zoned = self.dropout.zoneout + self.dropout.zoneout_cell > 0.0;
            let linear = (!zoned).then(|| self.cell.linear(&weights, read.clone(), &mut expose)).flatten();
            match linear {
                Some(Linear { keep, add }) => scan(keep, add, initial.h, batch, self.path),
                None => {
                    let widths = [hidden, self.cell.memory(self.sizes).unwrap_or(0)];
                    let zoneout = Zoneout::of(self.dropout, zones, batch.frames(), widths, &read);
                    walk(batch, initial, |moment, past| {
                        let before = past.clone();
                        let next = self.cell.step(&weights, moment.rows(&read), past, &mut expose);
                        let next = zoneout.apply(moment, before, next);
                        weights.step.set(weights.step.get() + 1);
                        if let Some(c) = next.c.as_ref().filter(|_| wanted("c")) {
                            memories.push(c.clone());
                        }
                        next
                    })
                }
            }
        };
        let y = turn(y, &reversal);
        let mut signals = Vec::new();
        if wanted("h") {
            signals.push(("h", y.clone()));
        }
        let memories = (!memories.is_empty()).then_some(("c", memories));
        for (name, rows) in memories.into_iter().chain(expose.kept) {
            let found: usize = rows.iter().map(|rows| rows.dims()[0]).sum();
            let (cell, expected) = (self.cell.name(), batch.frames());
            assert!(
                found == expected,
                "{cell} exposed {found} rows of {name}, expected {expected}, one a step"
            );
            let rows = if rows.is_empty() { y.clone() } else { Tensor::cat(rows, 0) };
            signals.push((name, turn(rows, &reversal)));
        }
        Walked { y, last, signals }
    }
}

/// Units that keep their last value, of any cell.
struct Zoneout {
    /// Of `h` and `c`: what is drawn for all frames, or the mean.
    shares: [Option<Tensor<2>>; 2],
    means: [Option<f64>; 2],
}

impl Zoneout {
    /// Of frames whose `h` and `c` have so many values.
    fn of(
        dropout: Dropout,
        key_of_pass: Option<u64>,
        frames: usize,
        widths: [usize; 2],
        like: &Tensor<2>,
    ) -> Zoneout {
        let rates = [dropout.zoneout, dropout.zoneout_cell];
        let mut zoneout = Zoneout { shares: [None, None], means: [None, None] };
        for (which, rate) in rates.into_iter().enumerate().filter(|(_, rate)| *rate > 0.0) {
            match key_of_pass {
                Some(pass) => {
                    let mask = Mask { key: key(&[pass, which as u64]), drop: rate as f32 };
                    let shape = [frames, widths[which]];
                    zoneout.shares[which] = Some(factors_like(like, mask, &Sharing::None, shape).sign());
                }
                None => zoneout.means[which] = Some(1.0 - rate),
            }
        }
        zoneout
    }

    fn apply(&self, moment: &Moment, past: LayerState, next: LayerState) -> LayerState {
        let [h, c] = [0, 1].map(|which| {
            let share = self.shares[which].as_ref().map(|all| moment.rows(all));
            move |new, past| zone_out(new, past, share, self.means[which])
        });
        LayerState { h: h(next.h, past.h), c: next.c.zip(past.c).map(|(next, past)| c(next, past)) }
    }
}
