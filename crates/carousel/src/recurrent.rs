//! A stack of recurrent layers as a Burn module.

use std::borrow::Cow;
use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
pub use carousel_kernels::Precision;
use carousel_kernels::{Batch, Layer, Layout, Zoneout};

use crate::calls::{Call, take_down};
use crate::cell::{Activation, Cell, CellOptions, GateActivation};
use crate::fused::{self, with_slice};
use crate::init::{FirstState, GateBias, Init, Initializer, LayerValues, draw_layer};
pub use crate::layer::RecurrentWeights;
use crate::layer::{LayerInput, LayerNoise, TapePool};
use crate::own_cell::{AnyCell, OwnLayer, OwnWeights, Recording, Sizes};
use crate::parameters::{Buffer, NamedParameters, Parameter, ParameterMut, parameter};
use crate::portable;
use crate::ragged::{Ragged, SharedRows};
use crate::record::{self, Keep, Record};
use crate::regularize::{Dropout, Noise, Purpose, Sharing, masked};
use crate::state::{LayerState, State};
use crate::stepper::{StepPrecision, Stepper};
use crate::walk;

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

/// Which implementation runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Path {
    /// The fused kernels for 32-bit floats in CPU memory, Burn's operations for everything else.
    #[default]
    Auto,
    /// Always Burn's operations.
    Portable,
}

impl Path {
    /// Whether the kernels run for this input and this parameter.
    pub(crate) fn is_fused(self, x: &Tensor<2>, weight: &Tensor<2>) -> bool {
        self == Path::Auto && fused::supports(x) && fused::supports(weight)
    }
}

/// Why a stack or a model could not be made.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ConfigError {
    /// A size is zero.
    #[error("{what} is 0, expected at least 1")]
    Zero {
        /// Which size.
        what: &'static str,
    },
    /// The forget bias is not a finite number.
    #[error("forget_bias is {found}, expected a finite number")]
    ForgetBias {
        /// What was given.
        found: f64,
    },
    /// What should drop out with a probability that is none.
    #[error("dropout {what} is {found}, expected a probability from 0 and below 1")]
    Drop {
        /// What drops out.
        what: &'static str,
        /// What was given.
        found: f64,
    },
    /// An option that the cell has nothing for.
    #[error("{what} needs a cell that has it, found {cell}")]
    NotOf {
        /// Which option.
        what: &'static str,
        /// The cell.
        cell: &'static str,
    },
    /// An embedding of another width than the hidden values cannot be the output layer's weight as well.
    #[error("a tied embedding has width {embedding}, expected that of the hidden values, {hidden}")]
    Tied {
        /// `E`.
        embedding: usize,
        /// `H`.
        hidden: usize,
    },
    /// Attention by a dot product compares vectors of one width.
    #[error(
        "attention by a dot product over places of {places} values, expected {hidden} as the hidden values have; \
             take general or additive attention"
    )]
    Attended {
        /// Values of a place.
        places: usize,
        /// `H`.
        hidden: usize,
    },
    /// Attention that multiplies states of the source with hidden values of another width.
    #[error(
        "the source's states have {states} values, expected those of the hidden values, {hidden}; add both directions"
    )]
    Wide {
        /// Values of a state.
        states: usize,
        /// `H`.
        hidden: usize,
    },
    /// A projection that makes nothing smaller.
    #[error("the projection has {values} values, expected less than the hidden ones, {hidden}")]
    Projection {
        /// `P`.
        values: usize,
        /// `H`.
        hidden: usize,
    },
    /// A range or gain that no weights can be drawn with.
    #[error("the size of the {what} weights' distribution is {found}, expected a finite number above 0")]
    InitSize {
        /// Input or recurrent.
        what: &'static str,
        /// What was given.
        found: f64,
    },
    /// Chrono initialisation that gives no unit a time.
    #[error(
        "chrono initialisation of an {cell} over {longest} steps; it takes an lstm or a gru and at least 2"
    )]
    Chrono {
        /// The steps given.
        longest: usize,
        /// The cell.
        cell: &'static str,
    },
}

/// Sizes and options of a [`Recurrent`].
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use carousel::cell::Cell;
/// use carousel::recurrent::{Direction, RecurrentConfig};
///
/// let device = Device::default();
/// let stack = RecurrentConfig::new(Cell::Lstm, 3, 8)
///     .with_layers(2)
///     .with_direction(Direction::Both)
///     .init(&device)?;
/// let x = Tensor::<3>::ones([4, 5, 3], &device); // 4 sequences of 5 steps
/// let (y, state) = stack.forward(x, None);
/// assert_eq!(y.dims(), [4, 5, 16]);
/// assert_eq!(state.h().dims(), [4, 4, 8]); // 2 layers, 2 directions
/// # Ok::<(), carousel::recurrent::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct RecurrentConfig {
    cell: AnyCell,
    input: usize,
    hidden: usize,
    layers: usize,
    direction: Direction,
    init: Init,
    dropout: Dropout,
    residual: bool,
    merge: Merge,
    options: CellOptions,
    seed: u64,
}

impl RecurrentConfig {
    /// One forward layer of `cell` from `input` to `hidden` values a step. The cell is one of [`Cell`]'s or
    /// [your own](crate::own_cell::RecurrentCell).
    pub fn new(cell: impl Into<AnyCell>, input: usize, hidden: usize) -> RecurrentConfig {
        RecurrentConfig {
            cell: cell.into(),
            input,
            hidden,
            layers: 1,
            direction: Direction::default(),
            init: Init::default(),
            dropout: Dropout::default(),
            residual: false,
            merge: Merge::default(),
            options: CellOptions::PLAIN,
            seed: 0,
        }
    }

    /// How many layers, each reading the outputs of the one below. Default 1.
    pub fn with_layers(self, layers: usize) -> RecurrentConfig {
        RecurrentConfig { layers, ..self }
    }

    /// Which ways through time. Default [`Direction::Forward`].
    pub fn with_direction(self, direction: Direction) -> RecurrentConfig {
        RecurrentConfig { direction, ..self }
    }

    /// How weights and biases are drawn. Default: as PyTorch does, and a forget bias of 1.
    pub fn with_init(self, init: Init) -> RecurrentConfig {
        RecurrentConfig { init, ..self }
    }

    /// What an LSTM's forget gate starts with (Jozefowicz et al. 2015): `bias_ih` holds this value there and
    /// `bias_hh` zero. Default 1. Other cells have no forget gate and ignore it. Part of [`Init`].
    pub fn with_forget_bias(mut self, forget_bias: f64) -> RecurrentConfig {
        self.init.gates = GateBias::Forget(forget_bias);
        self
    }

    /// What drops out in [`Recurrent::forward_noisy`]. Default: nothing.
    pub fn with_dropout(self, dropout: Dropout) -> RecurrentConfig {
        RecurrentConfig { dropout, ..self }
    }

    /// Adds what each layer but the first reads to what it gives. Default: no.
    pub fn with_residual(self, residual: bool) -> RecurrentConfig {
        RecurrentConfig { residual, ..self }
    }

    /// What becomes of the outputs of two directions. Default: [`Merge::Concat`].
    pub fn with_merge(self, merge: Merge) -> RecurrentConfig {
        RecurrentConfig { merge, ..self }
    }

    /// What the cells have beside their equations. Default: nothing.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use carousel::cell::{Cell, CellOptions};
    /// use carousel::recurrent::RecurrentConfig;
    ///
    /// let options = CellOptions { norm: true, ..CellOptions::PLAIN };
    /// let stack = RecurrentConfig::new(Cell::Lstm, 3, 8).with_options(options).init(&Device::default())?;
    /// assert_eq!(stack.weights()[0].norm.as_ref().expect("it normalises").dims(), [6, 8]);
    /// let (y, _) = stack.forward(Tensor::<3>::ones([4, 5, 3], &Device::default()), None);
    /// assert_eq!(y.dims(), [4, 5, 8]);
    /// # Ok::<(), carousel::recurrent::ConfigError>(())
    /// ```
    pub fn with_options(self, options: CellOptions) -> RecurrentConfig {
        RecurrentConfig { options, ..self }
    }

    /// Projects an LSTM's `h` to fewer values, at least 1 and less than `hidden`, with weights of its own (Sak et al.
    /// 2014; PyTorch's `proj_size`): the next step, the next layer and the output read those. Part of
    /// [`CellOptions`].
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use carousel::cell::Cell;
    /// use carousel::recurrent::RecurrentConfig;
    ///
    /// let stack = RecurrentConfig::new(Cell::Lstm, 3, 8).with_projection(5).init(&Device::default())?;
    /// let (y, state) = stack.forward(Tensor::<3>::ones([4, 6, 3], &Device::default()), None);
    /// assert_eq!(y.dims(), [4, 6, 5]);
    /// assert_eq!((state.h().dims(), state.c().expect("an LSTM has it").dims()), ([1, 4, 5], [1, 4, 8]));
    /// # Ok::<(), carousel::recurrent::ConfigError>(())
    /// ```
    pub fn with_projection(mut self, values: usize) -> RecurrentConfig {
        self.options.projection = Some(values);
        self
    }

    /// Learns what sequences begin from: an `h` and, where the cell has one, a `c` of each layer and direction, zero
    /// at first. They stand wherever a call gives no state, and in the rows of a state that [begin](crate::state::Row).
    /// Default: they begin from zero. Part of [`Init`].
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use carousel::cell::Cell;
    /// use carousel::parameters::NamedParameters;
    /// use carousel::recurrent::RecurrentConfig;
    ///
    /// let device = Device::default().autodiff();
    /// let stack = RecurrentConfig::new(Cell::Lstm, 3, 8).with_learned_state(true).init(&device)?;
    /// let names: Vec<String> = stack.parameters().into_iter().map(|(name, _)| name).collect();
    /// assert_eq!(names[4..], ["h0_l0", "c0_l0"]);
    /// # Ok::<(), carousel::recurrent::ConfigError>(())
    /// ```
    pub fn with_learned_state(mut self, learned_state: bool) -> RecurrentConfig {
        self.init.state = if learned_state { FirstState::Learned } else { FirstState::Zero };
        self
    }

    /// The seed the weights are drawn from. Default 0.
    pub fn with_seed(self, seed: u64) -> RecurrentConfig {
        RecurrentConfig { seed, ..self }
    }

    /// Makes the stack. On an [autodiff device](Device::autodiff) its parameters ask for gradients.
    ///
    /// # Errors
    /// [`ConfigError`] when a size is zero or the weights cannot be drawn so.
    pub fn init(&self, device: &Device) -> Result<Recurrent, ConfigError> {
        self.init_with(&mut Initializer::new(self.seed), device)
    }

    /// Makes the stack with the next values of an initializer, in place of the configuration's own seed.
    ///
    /// # Errors
    /// As [`init`](RecurrentConfig::init).
    pub fn init_with(&self, random: &mut Initializer, device: &Device) -> Result<Recurrent, ConfigError> {
        for (what, size) in [("input", self.input), ("hidden", self.hidden), ("layers", self.layers)] {
            if size == 0 {
                return Err(ConfigError::Zero { what });
            }
        }
        self.init.check(self.cell)?;
        self.dropout.check(self.cell)?;
        let fused = self.cell.fused();
        if self.options.peephole && fused != Some(Cell::Lstm) {
            return Err(ConfigError::NotOf { what: "a peephole", cell: self.cell.name() });
        }
        let gated = matches!(fused, Some(Cell::Lstm | Cell::Gru(_)));
        if self.options.gate != GateActivation::Sigmoid && !gated {
            return Err(ConfigError::NotOf { what: "a gate's non-linearity", cell: self.cell.name() });
        }
        if self.options.activation != Activation::Tanh && !gated {
            return Err(ConfigError::NotOf { what: "a candidate's non-linearity", cell: self.cell.name() });
        }
        if self.options.norm && fused.is_none() {
            return Err(ConfigError::NotOf { what: "layer normalisation", cell: self.cell.name() });
        }
        if let Some(values) = self.options.projection {
            if fused != Some(Cell::Lstm) {
                return Err(ConfigError::NotOf { what: "a projection", cell: self.cell.name() });
            }
            if values == 0 {
                return Err(ConfigError::Zero { what: "projection" });
            }
            if values >= self.hidden {
                return Err(ConfigError::Projection { values, hidden: self.hidden });
            }
        }
        let recurrent = |weights, own| Recurrent {
            weights,
            own,
            begin: Vec::new(),
            cell: self.cell,
            input: self.input,
            hidden: self.hidden,
            layers: self.layers,
            direction: self.direction,
            dropout: self.dropout,
            residual: self.residual,
            merge: self.merge,
            options: self.options,
            path: Path::Auto,
            precision: Precision::F32,
            read: 0,
        };
        let frame = recurrent(Vec::new(), Vec::new());
        let mut stack = match self.cell {
            AnyCell::Fused(cell) => {
                let layers = (0..self.layers).flat_map(|layer| frame.kernel_layers(cell, layer));
                recurrent(layers.map(|layer| self.draw(&layer, random, device)).collect(), Vec::new())
            }
            AnyCell::Own(cell) => {
                let layers = (0..frame.entries()).map(|entry| frame.sizes(entry / frame.directions()));
                let draw = |sizes| OwnWeights::draw(cell, sizes, &self.init, random, device);
                recurrent(Vec::new(), layers.map(draw).collect())
            }
        };
        if self.init.state == FirstState::Learned {
            let row = |width: usize| parameter(vec![0.0; width], [1, width], device);
            let begin = |entry: usize| {
                let (h, c) = stack.state_widths(entry / stack.directions());
                BeginState { h: row(h), c: c.map(row) }
            };
            stack.begin = (0..stack.entries()).map(begin).collect();
        }
        Ok(stack)
    }

    fn draw(&self, layer: &Layer, random: &mut Initializer, device: &Device) -> RecurrentWeights {
        let LayerValues { weight_ih, weight_hh, bias_ih, bias_hh, norm, peephole, weight_hr } =
            draw_layer(layer, &self.init, random);
        let rows = bias_ih.len();
        let by_unit = |values: Vec<f32>| {
            let shape = [values.len() / layer.hidden, layer.hidden];
            (!values.is_empty()).then(|| parameter(values, shape, device))
        };
        RecurrentWeights {
            weight_ih: parameter(weight_ih, [rows, layer.input], device),
            weight_hh: parameter(weight_hh, [rows, layer.output()], device),
            bias_ih: parameter(bias_ih, [rows], device),
            bias_hh: parameter(bias_hh, [rows], device),
            norm: by_unit(norm),
            peephole: by_unit(peephole),
            weight_hr: by_unit(weight_hr),
            tapes: TapePool::default(),
        }
    }
}

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

/// What the sequences of a layer in one direction begin from, a row each.
#[derive(Module, Debug)]
struct BeginState {
    h: Param<Tensor<2>>,
    c: Option<Param<Tensor<2>>>,
}

/// A stack of recurrent layers.
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

    /// [`forward`](Recurrent::forward) that also keeps what the cells had at every step. The rows of what is kept
    /// stand in the order of the input: frames of a [`Ragged`] batch, or batch first of a `Tensor<3>`.
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
        let cell = match self.cell {
            AnyCell::Fused(cell) => cell,
            AnyCell::Own(_) => {
                let mut record = Record::default();
                let recording = Recording { keep, record: &mut record, layout };
                let (rows, state) = (rows.without_autodiff(), state.map(|state| state.without_autodiff()));
                let (rows, state) =
                    self.valid().run(rows, None, &batch, layout, state, None, Some(recording));
                return (S::from_rows(rows, batch), state, record);
            }
        };
        let directions = self.directions();
        let layers: Vec<Vec<_>> = (0..self.layers)
            .map(|layer| self.kernel_layers(cell, layer).zip(&self.weights[layer * directions..]).collect())
            .collect();
        let device = rows.device().without_autodiff();
        // Where sequences begin is looked up off the autodiff layer, as all else here.
        let state = match self.learns_state() {
            true => self.valid().begun(state.map(State::without_autodiff), batch.sequences()),
            false => state,
        };
        let initial = state.as_ref().map(|state| &state.layers[..]);
        let wiring = record::Wiring { merge: self.merge, residual: self.residual };
        let (y, last, record) =
            record::run(&layers, wiring, with_slice(&rows, <[f32]>::to_vec), &batch, layout, initial, keep);
        let matrix = |values: Vec<f32>, width: usize| {
            let shape = [values.len() / width, width];
            Tensor::<2>::from_data(TensorData::new(values, shape), &device)
        };
        let layers = last
            .into_iter()
            .map(|(h, c)| LayerState { h: matrix(h, self.width()), c: c.map(|c| matrix(c, self.hidden)) });
        let state = State::of(layers.collect());
        (S::from_rows(matrix(y, self.output_width()), batch), state, record)
    }

    fn check_input(&self, x: &Tensor<2>) {
        let width = x.dims()[1];
        assert!(width == self.input, "the input has {width} values a step, expected {}", self.input);
    }

    #[allow(clippy::too_many_arguments)]
    fn run(
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
                let mask = noise.mask(Purpose::Between, layer, self.dropout.between);
                x = masked(x, mask, Sharing::of(self.dropout.locked, batch, names));
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
    fn kernel_layers(&self, cell: Cell, layer: usize) -> impl Iterator<Item = Layer> + use<> {
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

    /// For feeding `batch` sequences one step at a time; `None` unless the stack walks forward only.
    ///
    /// The stepper holds a copy of the weights as they are now.
    #[must_use]
    pub fn stepper(&self, batch: usize) -> Option<Stepper> {
        self.stepper_with(batch, StepPrecision::F32)
    }

    /// The same with the copy of the weights in `precision`. An own cell, and one that projects, has 32-bit floats
    /// only.
    ///
    /// # Panics
    /// In eight bits, when a layer has more than 133,144 inputs or units: 32 bits do not hold such a sum.
    #[must_use]
    pub fn stepper_with(&self, batch: usize, precision: StepPrecision) -> Option<Stepper> {
        (self.direction == Direction::Forward && batch > 0).then(|| match self.cell {
            AnyCell::Fused(cell) if self.options.projection.is_none() => {
                let layers = (0..self.layers).flat_map(|layer| self.kernel_layers(cell, layer));
                let begin = self.learns_state().then(|| self.valid().first_state(1));
                let layers: Vec<_> = layers.collect();
                Stepper::new(&layers, &self.weights, batch, self.residual, begin.as_ref(), precision)
            }
            _ => Stepper::of_own(self.valid(), batch),
        })
    }

    /// The parameters, layer 0 forward, layer 0 reverse, layer 1 forward, … None of an own cell; those have
    /// [names](NamedParameters).
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
        self.options.projection.unwrap_or(self.hidden)
    }

    /// `O`, the width of the outputs.
    #[must_use]
    pub fn output_width(&self) -> usize {
        match (self.direction, self.merge) {
            (Direction::Both, Merge::Concat) => 2 * self.width(),
            _ => self.width(),
        }
    }

    /// PyTorch's ending of the names of each entry: `_l0`, `_l0_reverse`, `_l1`, …
    fn endings(&self) -> Vec<String> {
        // PyTorch knows no stack that only walks backward; its single direction bears the plain name there.
        let ending = |entry: usize| {
            let reverse = if entry % self.directions() == 1 { "_reverse" } else { "" };
            format!("_l{}{reverse}", entry / self.directions())
        };
        (0..self.entries()).map(ending).collect()
    }
}

/// Widths of `c` for a message.
fn values(width: Option<usize>) -> String {
    width.map_or("none".to_owned(), |width| format!("{width} values"))
}

/// Under PyTorch's names: `weight_ih_l0`, `weight_hh_l0`, `bias_ih_l0`, `bias_hh_l0`, `weight_ih_l0_reverse`, …; those
/// of the cell's options follow as `norm_l0`, `peephole_l0` and PyTorch's `weight_hr_l0`. Those of an own cell are what
/// it calls them, with the same endings. What sequences begin from stands at the end: `h0_l0`, `c0_l0`, …. Running
/// statistics are buffers: `norm_ih_l0.running_mean`, ….
impl NamedParameters for Recurrent {
    fn parameters(&self) -> Vec<(String, Parameter<'_>)> {
        let endings = self.endings();
        let fused = endings.iter().zip(&self.weights).flat_map(|(ending, weights)| {
            let option = |name: &str, own| Some((format!("{name}{ending}"), Parameter::Matrix(own)));
            [
                Some((format!("weight_ih{ending}"), Parameter::Matrix(&weights.weight_ih))),
                Some((format!("weight_hh{ending}"), Parameter::Matrix(&weights.weight_hh))),
                Some((format!("bias_ih{ending}"), Parameter::Vector(&weights.bias_ih))),
                Some((format!("bias_hh{ending}"), Parameter::Vector(&weights.bias_hh))),
                weights.norm.as_ref().and_then(|own| option("norm", own)),
                weights.peephole.as_ref().and_then(|own| option("peephole", own)),
                weights.weight_hr.as_ref().and_then(|own| option("weight_hr", own)),
            ]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
        });
        let own = endings.iter().zip(&self.own).flat_map(|(ending, weights)| {
            weights.named().map(move |(name, value)| (format!("{name}{ending}"), Parameter::Matrix(value)))
        });
        let begin = endings.iter().zip(&self.begin).flat_map(|(ending, begin)| {
            let all = std::iter::once(("h0", &begin.h)).chain(begin.c.iter().map(|c| ("c0", c)));
            all.map(move |(name, value)| (format!("{name}{ending}"), Parameter::Matrix(value)))
        });
        fused.chain(own).chain(begin).collect()
    }

    fn parameters_mut(&mut self) -> Vec<(String, ParameterMut<'_>)> {
        let endings = self.endings();
        let fused = endings.iter().zip(&mut self.weights).flat_map(|(ending, weights)| {
            let option = |name: &str, own| Some((format!("{name}{ending}"), ParameterMut::Matrix(own)));
            [
                Some((format!("weight_ih{ending}"), ParameterMut::Matrix(&mut weights.weight_ih))),
                Some((format!("weight_hh{ending}"), ParameterMut::Matrix(&mut weights.weight_hh))),
                Some((format!("bias_ih{ending}"), ParameterMut::Vector(&mut weights.bias_ih))),
                Some((format!("bias_hh{ending}"), ParameterMut::Vector(&mut weights.bias_hh))),
                weights.norm.as_mut().and_then(|own| option("norm", own)),
                weights.peephole.as_mut().and_then(|own| option("peephole", own)),
                weights.weight_hr.as_mut().and_then(|own| option("weight_hr", own)),
            ]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
        });
        let own = endings.iter().zip(&mut self.own).flat_map(|(ending, weights)| {
            weights
                .named_mut()
                .map(move |(name, value)| (format!("{name}{ending}"), ParameterMut::Matrix(value)))
        });
        let begin = endings.iter().zip(&mut self.begin).flat_map(|(ending, begin)| {
            let all = std::iter::once(("h0", &mut begin.h)).chain(begin.c.iter_mut().map(|c| ("c0", c)));
            all.map(move |(name, value)| (format!("{name}{ending}"), ParameterMut::Matrix(value)))
        });
        fused.chain(own).chain(begin).collect()
    }

    fn buffers(&self) -> Vec<(String, &Buffer)> {
        let layers = self.endings().into_iter().zip(&self.own);
        let own = layers.flat_map(|(ending, weights)| {
            weights.statistics().iter().map(move |(name, running)| (format!("{name}{ending}"), running))
        });
        own.flat_map(|(name, running)| {
            running.named().map(|(ending, buffer)| (format!("{name}.{ending}"), buffer))
        })
        .collect()
    }
}
