//! Sizes and options of a stack, and making one.

use burn::tensor::Device;
use carousel_kernels::{Layer, Precision};

use super::{BeginState, Direction, Merge, Recurrent};
use crate::cell::{Activation, Cell, CellOptions, GateActivation};
use crate::config_error::ConfigError;
use crate::init::{FirstState, GateBias, Init, Initializer, LayerValues, draw_layer};
use crate::layer::RecurrentWeights;
use crate::own_cell::AnyCell;
use crate::own_layer::OwnWeights;
use crate::packed::PackedOnce;
use crate::parameters::parameter;
use crate::path::Path;
use crate::regularize::Dropout;
use crate::tapes::TapePool;

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
/// # Ok::<(), carousel::config_error::ConfigError>(())
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
    /// # Ok::<(), carousel::config_error::ConfigError>(())
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
    /// # Ok::<(), carousel::config_error::ConfigError>(())
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
    /// # Ok::<(), carousel::config_error::ConfigError>(())
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
            packed: PackedOnce::default(),
        }
    }
}
