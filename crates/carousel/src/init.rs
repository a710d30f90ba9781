//! Initial weights, from a random number generator of their own: the same seed gives the same bits, whatever
//! else draws random numbers.

use carousel_kernels::{Activation, Cell, Layer};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::config_error::ConfigError;
use crate::own_cell::{AnyCell, Draw, Weight};
use crate::parameters::NamedParameters;

/// How one matrix of weights is drawn. A stack draws the matrix of each gate by itself: `[H, I]` from the
/// input, `[H, H]` from the last state.
///
/// A gain that is not given is 1 for Xavier, orthogonal and identity. For He it is that of the non-linearity
/// behind the gate: `√2` for ReLU, `5/3` for tanh, 1 for a sigmoid.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum WeightInit {
    /// Uniform in `±1/√H`, whatever the fan; biases too.
    #[default]
    PyTorch,
    /// Uniform in `±range`; biases too.
    Uniform {
        /// Half the width.
        range: f64,
    },
    /// Uniform, of variance `gain² · 2 / (fan in + fan out)` (Glorot and Bengio 2010).
    XavierUniform {
        /// Factor on the width.
        gain: Option<f64>,
    },
    /// Normal, of variance `gain² · 2 / (fan in + fan out)` (Glorot and Bengio 2010).
    XavierNormal {
        /// Factor on the width.
        gain: Option<f64>,
    },
    /// Uniform, of variance `gain² / fan` (He et al. 2015).
    HeUniform {
        /// Which side the variance follows from.
        fan: Fan,
        /// Factor on the width.
        gain: Option<f64>,
    },
    /// Normal, of variance `gain² / fan` (He et al. 2015).
    HeNormal {
        /// Which side the variance follows from.
        fan: Fan,
        /// Factor on the width.
        gain: Option<f64>,
    },
    /// Rows, or columns where there are fewer of them, of length `gain` and perpendicular to each other
    /// (Saxe et al. 2014).
    Orthogonal {
        /// Their length.
        gain: Option<f64>,
    },
    /// `scale` on the diagonal, zero elsewhere: with ReLU the IRNN of Le et al. 2015.
    Identity {
        /// The diagonal.
        scale: Option<f64>,
    },
}

/// Which side of a matrix a width follows from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fan {
    /// What a unit reads: keeps the variance of what flows forward.
    #[default]
    In,
    /// The units that read a value: keeps the variance of gradients.
    Out,
}

/// What the biases of the gates that keep the state start from. Both write `bias_ih` and leave zero in
/// `bias_hh`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum GateBias {
    /// One value for an LSTM's forget gate (Gers et al. 2000; Jozefowicz et al. 2015). Other cells have none.
    Forget(f64),
    /// Chrono initialisation (Tallec and Ollivier 2018): each unit is given a time `t` to remember, uniform in
    /// `[1, longest - 1]`. An LSTM's forget gate starts from `ln t` and its input gate from `-ln t`; a GRU's
    /// update gate, which keeps the state where it is open, from `ln t`.
    Chrono {
        /// The longest dependence that is expected, in steps.
        longest: usize,
    },
}

impl Default for GateBias {
    fn default() -> GateBias {
        GateBias::Forget(1.0)
    }
}

/// How the weights of a recurrent stack are drawn. Biases are drawn as the input weights are where those are
/// [`WeightInit::PyTorch`] or [`WeightInit::Uniform`], otherwise they are zero; then `gates` is written over
/// them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Init {
    /// `weight_ih`.
    pub input: WeightInit,
    /// `weight_hh`, and `weight_hr` of a projection.
    pub recurrent: WeightInit,
    /// Biases of the gates that keep the state.
    pub gates: GateBias,
    /// What sequences begin from.
    pub state: FirstState,
}

/// What the sequences of a stack begin from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FirstState {
    /// Zero.
    #[default]
    Zero,
    /// Parameters, an `h` and a `c` of each layer and direction, which are zero at first.
    Learned,
}

impl Init {
    /// Whether a stack of `cell` can be drawn so.
    ///
    /// # Errors
    /// [`ConfigError`] for a bias, range or gain that is no number or not above zero, and for chrono
    /// initialisation of a cell without gates or of less than two steps.
    pub(crate) fn check(&self, cell: AnyCell) -> Result<(), ConfigError> {
        for (what, how) in [("input", self.input), ("recurrent", self.recurrent)] {
            let size = match how {
                WeightInit::PyTorch => None,
                WeightInit::Uniform { range } => Some(range),
                WeightInit::XavierUniform { gain }
                | WeightInit::XavierNormal { gain }
                | WeightInit::HeUniform { gain, .. }
                | WeightInit::HeNormal { gain, .. }
                | WeightInit::Orthogonal { gain }
                | WeightInit::Identity { scale: gain } => gain,
            };
            if let Some(found) = size.filter(|size| !(size.is_finite() && *size > 0.0)) {
                return Err(ConfigError::InitSize { what, found });
            }
        }
        match self.gates {
            GateBias::Forget(found) if !found.is_finite() => Err(ConfigError::ForgetBias { found }),
            GateBias::Chrono { longest }
                if longest < 2 || !matches!(cell.gated(), Some(Cell::Lstm | Cell::Gru(_))) =>
            {
                Err(ConfigError::Chrono { longest, cell: cell.name() })
            }
            _ => Ok(()),
        }
    }

    /// Draws the parameters around a model's recurrent stacks, which have drawn their own, from the range of the input
    /// weights where that is [given](WeightInit::Uniform); otherwise they stay as they are. Scales and shifts of what is
    /// normalised and slopes of activations keep what they start with.
    pub(crate) fn redraw(&self, model: &mut impl NamedParameters, random: &mut Initializer) {
        let WeightInit::Uniform { range } = self.input else { return };
        let stays = |part: &str| ["recurrent", "scale", "shift", "slope"].contains(&part);
        for (name, mut parameter) in model.parameters_mut() {
            if !name.split('.').any(stays) {
                parameter
                    .with_slice_mut(|values| values.copy_from_slice(&random.uniform(values.len(), range)));
            }
        }
    }

    /// The same for input and recurrent weights.
    #[must_use]
    pub fn both(weights: WeightInit) -> Init {
        Init { input: weights, recurrent: weights, ..Init::default() }
    }
}

/// What follows a gate's sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nonlinearity {
    Sigmoid,
    Tanh,
    Relu,
}

impl Nonlinearity {
    /// The factor that makes up for what the non-linearity takes from the variance, as PyTorch gives it.
    fn gain(self) -> f64 {
        match self {
            Nonlinearity::Sigmoid => 1.0,
            Nonlinearity::Tanh => 5.0 / 3.0,
            Nonlinearity::Relu => std::f64::consts::SQRT_2,
        }
    }
}

/// What follows each gate of a layer's cell, in the order of the gates.
fn nonlinearities(layer: &Layer) -> Vec<Nonlinearity> {
    use Nonlinearity::{Relu, Sigmoid, Tanh};
    let own = |activation: Activation| match activation {
        Activation::Tanh | Activation::HardTanh => Tanh,
        // Those that are the identity above zero are taken for rectifiers.
        _ => Relu,
    };
    let candidate = own(layer.options.activation);
    match layer.cell {
        Cell::Rnn(activation) => vec![own(activation)],
        Cell::Lstm => vec![Sigmoid, Sigmoid, candidate, Sigmoid],
        Cell::Gru(_) => vec![Sigmoid, Sigmoid, candidate],
    }
}

/// Values of a layer's parameters, in PyTorch's layout.
pub(crate) struct LayerValues {
    pub(crate) weight_ih: Vec<f32>,
    pub(crate) weight_hh: Vec<f32>,
    pub(crate) bias_ih: Vec<f32>,
    pub(crate) bias_hh: Vec<f32>,
    /// Those of the cell's options; empty where it has none.
    pub(crate) norm: Vec<f32>,
    pub(crate) peephole: Vec<f32>,
    pub(crate) weight_hr: Vec<f32>,
}

/// Draws the parameters of one layer in one direction.
pub(crate) fn draw_layer(layer: &Layer, init: &Init, random: &mut Initializer) -> LayerValues {
    let (input, hidden) = (layer.input, layer.hidden);
    let gates = nonlinearities(layer);
    let mut matrix = |how: WeightInit, columns: usize| -> Vec<f32> {
        gates.iter().flat_map(|gate| random.matrix(how, hidden, columns, *gate)).collect()
    };
    let (weight_ih, weight_hh) = (matrix(init.input, input), matrix(init.recurrent, layer.output()));
    let rows = gates.len() * hidden;
    let mut bias = || random.bias(init.input, rows, hidden);
    let (mut bias_ih, mut bias_hh) = (bias(), bias());
    for (gate, values) in keeping(init.gates, layer.cell, hidden, random) {
        bias_ih[gate * hidden..][..hidden].copy_from_slice(&values);
        bias_hh[gate * hidden..][..hidden].fill(0.0);
    }
    // Gains of one, a bias of zero; peepholes as a recurrent weight is drawn by default.
    let (mut norm, mut peephole) = (Vec::new(), Vec::new());
    if layer.options.norm {
        norm = vec![1.0; rows];
        if layer.cell.has_cell_state() {
            norm.extend((0..2 * hidden).map(|k| if k < hidden { 1.0 } else { 0.0 }));
        }
    }
    if layer.options.peephole {
        peephole = random.uniform(3 * hidden, 1.0 / (hidden as f64).sqrt());
    }
    // What is projected goes on without a non-linearity.
    let weight_hr = match (layer.options.projection, init.recurrent) {
        (None, _) => Vec::new(),
        (Some(values), WeightInit::PyTorch) => random.uniform(values * hidden, 1.0 / (hidden as f64).sqrt()),
        (Some(values), how) => random.matrix(how, values, hidden, Nonlinearity::Sigmoid),
    };
    LayerValues { weight_ih, weight_hh, bias_ih, bias_hh, norm, peephole, weight_hr }
}

/// Gates whose bias starts from something of its own, and from what.
fn keeping(gates: GateBias, cell: Cell, hidden: usize, random: &mut Initializer) -> Vec<(usize, Vec<f32>)> {
    match (gates, cell) {
        (GateBias::Forget(value), Cell::Lstm) => vec![(1, vec![value as f32; hidden])],
        (GateBias::Chrono { longest }, Cell::Lstm) => {
            let forget = random.log_times(hidden, longest);
            vec![(0, forget.iter().map(|value| -value).collect()), (1, forget)]
        }
        (GateBias::Chrono { longest }, Cell::Gru(_)) => vec![(1, random.log_times(hidden, longest))],
        (_, Cell::Rnn(_)) | (GateBias::Forget(_), Cell::Gru(_)) => Vec::new(),
    }
}

/// Draws a weight of an own cell of `hidden` units; gates of `hidden` rows each by itself.
pub(crate) fn draw_own(weight: &Weight, hidden: usize, init: &Init, random: &mut Initializer) -> Vec<f32> {
    let [rows, columns] = weight.shape;
    let mut matrix = |how| -> Vec<f32> {
        let height = if rows % hidden == 0 { hidden } else { rows };
        (0..rows / height).flat_map(|_| random.matrix(how, height, columns, Nonlinearity::Sigmoid)).collect()
    };
    match weight.draw {
        Draw::Input => matrix(init.input),
        Draw::Recurrent => matrix(init.recurrent),
        Draw::Bias => random.bias(init.input, rows * columns, hidden),
        Draw::Gates(cell) => {
            let mut bias = random.bias(init.input, rows * columns, hidden);
            for (gate, values) in keeping(init.gates, cell, hidden, random) {
                bias[gate * hidden..][..hidden].copy_from_slice(&values);
            }
            bias
        }
        Draw::Filled(value) => vec![value; rows * columns],
    }
}

/// Draws initial values from a seed.
#[derive(Clone, Debug)]
pub struct Initializer {
    /// None draws zeros.
    random: Option<ChaCha8Rng>,
}

impl Initializer {
    /// Starts from a seed.
    #[must_use]
    pub fn new(seed: u64) -> Initializer {
        Initializer { random: Some(ChaCha8Rng::seed_from_u64(seed)) }
    }

    /// Draws nothing: all values are zero. For models whose weights are read from a file, which to draw at random first
    /// would take longer than to read.
    #[must_use]
    pub fn blank() -> Initializer {
        Initializer { random: None }
    }

    /// A whole number below `limit`, which is above 0.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.unit() * limit as f64) as usize
    }

    /// `[0, 1)`, in steps of 2⁻⁵³.
    pub(crate) fn unit(&mut self) -> f64 {
        self.random.as_mut().map_or(0.0, |random| (random.next_u64() >> 11) as f64 * (-53f64).exp2())
    }

    /// `count` values uniform in `[-bound, bound)`.
    pub fn uniform(&mut self, count: usize, bound: f64) -> Vec<f32> {
        match self.random {
            Some(_) => (0..count).map(|_| ((2.0 * self.unit() - 1.0) * bound) as f32).collect(),
            None => vec![0.0; count],
        }
    }

    /// `count` values of the standard normal distribution (Box and Muller 1958).
    pub fn normal(&mut self, count: usize) -> Vec<f32> {
        match self.random {
            Some(_) => (0..count).map(|_| self.gauss() as f32).collect(),
            None => vec![0.0; count],
        }
    }

    fn gauss(&mut self) -> f64 {
        // 1 - u lies in (0, 1], so the logarithm is finite.
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// A matrix `[rows, columns]` with orthogonal rows of length 1, every rotation equally likely; orthogonal
    /// columns where there are more rows than columns.
    pub fn orthogonal(&mut self, rows: usize, columns: usize) -> Vec<f32> {
        if self.random.is_none() {
            return vec![0.0; rows * columns];
        }
        let (count, width) = (rows.min(columns), rows.max(columns));
        let mut vectors: Vec<Vec<f64>> = Vec::with_capacity(count);
        while vectors.len() < count {
            let mut vector: Vec<f64> = (0..width).map(|_| self.gauss()).collect();
            let drawn = dot(&vector, &vector).sqrt();
            let mut length = remove(&mut vector, &vectors);
            // Where little is left, rounding left something of the others as well (Parlett 1980, "twice is enough").
            if length < drawn / 2.0 {
                length = remove(&mut vector, &vectors);
            }
            // A vector that nearly lay in the space of the others has no direction left; draw another.
            if length > 1e-6 {
                vector.iter_mut().for_each(|value| *value /= length);
                vectors.push(vector);
            }
        }
        let at = |row: usize, column: usize| {
            if rows <= columns { vectors[row][column] } else { vectors[column][row] }
        };
        (0..rows)
            .flat_map(|row| (0..columns).map(move |column| (row, column)))
            .map(|(r, c)| at(r, c) as f32)
            .collect()
    }

    /// The matrix `[H, columns]` of one gate.
    fn matrix(&mut self, how: WeightInit, hidden: usize, columns: usize, gate: Nonlinearity) -> Vec<f32> {
        let count = hidden * columns;
        let scaled = |mut values: Vec<f32>, factor: f64| {
            values.iter_mut().for_each(|value| *value = (f64::from(*value) * factor) as f32);
            values
        };
        let xavier = |gain: Option<f64>| gain.unwrap_or(1.0) * (2.0 / (hidden + columns) as f64).sqrt();
        let he = |fan: Fan, gain: Option<f64>| {
            let fan = if fan == Fan::In { columns } else { hidden };
            gain.unwrap_or(gate.gain()) / (fan as f64).sqrt()
        };
        // A uniform distribution in ±b has the standard deviation b / √3.
        let bound = |deviation: f64| deviation * 3f64.sqrt();
        match how {
            WeightInit::PyTorch => self.uniform(count, 1.0 / (hidden as f64).sqrt()),
            WeightInit::Uniform { range } => self.uniform(count, range),
            WeightInit::XavierUniform { gain } => self.uniform(count, bound(xavier(gain))),
            WeightInit::XavierNormal { gain } => scaled(self.normal(count), xavier(gain)),
            WeightInit::HeUniform { fan, gain } => self.uniform(count, bound(he(fan, gain))),
            WeightInit::HeNormal { fan, gain } => scaled(self.normal(count), he(fan, gain)),
            WeightInit::Orthogonal { gain } => scaled(self.orthogonal(hidden, columns), gain.unwrap_or(1.0)),
            WeightInit::Identity { scale } => {
                let mut values = vec![0.0; count];
                let scale = scale.unwrap_or(1.0) as f32;
                (0..hidden.min(columns)).for_each(|place| values[place * columns + place] = scale);
                values
            }
        }
    }

    /// The biases of a layer of `hidden` units whose input weights are drawn in a way.
    fn bias(&mut self, input: WeightInit, count: usize, hidden: usize) -> Vec<f32> {
        match input {
            WeightInit::PyTorch => self.uniform(count, 1.0 / (hidden as f64).sqrt()),
            WeightInit::Uniform { range } => self.uniform(count, range),
            _ => vec![0.0; count],
        }
    }

    /// `ln t` for `count` times `t`, uniform in `[1, longest - 1]`.
    fn log_times(&mut self, count: usize, longest: usize) -> Vec<f32> {
        let width = longest.saturating_sub(2) as f64;
        (0..count).map(|_| (1.0 + width * self.unit()).ln() as f32).collect()
    }
}

/// Removes from a vector what lies along others, of length 1 and perpendicular to each other (Gram-Schmidt). Returns the
/// length of what is left.
fn remove(vector: &mut [f64], others: &[Vec<f64>]) -> f64 {
    for other in others {
        let along = dot(vector, other);
        vector.iter_mut().zip(other).for_each(|(value, other)| *value -= along * other);
    }
    dot(vector, vector).sqrt()
}

/// In several sums, which need not wait for each other.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 16];
    for (a, b) in a.chunks(16).zip(b.chunks(16)) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use carousel_kernels::{Direction, Precision, Reset};

    use super::*;

    fn layer(cell: Cell, input: usize, hidden: usize) -> Layer {
        Layer {
            cell,
            direction: Direction::Forward,
            input,
            hidden,
            precision: Precision::F32,
            zoneout: carousel_kernels::Zoneout::NONE,
            options: carousel_kernels::CellOptions::PLAIN,
        }
    }

    fn mean_and_variance(values: &[f32]) -> (f64, f64) {
        let count = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
        (mean, values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / count)
    }

    /// Mean 0 and this variance, within five standard errors of a normal distribution; a uniform one's are
    /// smaller.
    fn check_moments(what: &str, values: &[f32], variance: f64) {
        let count = values.len() as f64;
        let (mean, found) = mean_and_variance(values);
        assert!(mean.abs() < 5.0 * (variance / count).sqrt(), "{what}: mean {mean}");
        assert!(
            (found / variance - 1.0).abs() < 5.0 * (2.0 / count).sqrt(),
            "{what}: variance {found}, not {variance}"
        );
    }

    #[test]
    fn seed_decides_the_values() {
        let draw = |seed| Initializer::new(seed).uniform(8, 0.5);
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
        assert!(draw(3).iter().all(|value| value.abs() <= 0.5));
    }

    #[test]
    fn a_blank_initializer_draws_zeros() {
        let mut blank = Initializer::blank();
        assert_eq!(blank.uniform(3, 0.5), [0.0; 3]);
        assert_eq!(blank.normal(3), [0.0; 3]);
        assert_eq!(blank.orthogonal(2, 3), [0.0; 6]);
        let init = Init {
            gates: GateBias::Chrono { longest: 9 },
            ..Init::both(WeightInit::HeNormal { fan: Fan::In, gain: None })
        };
        let values = draw_layer(&layer(Cell::Lstm, 2, 3), &init, &mut blank);
        assert_eq!((values.weight_ih, values.weight_hh), (vec![0.0; 24], vec![0.0; 36]));
        assert_eq!(values.bias_ih, [0.0; 12]);
    }

    #[test]
    fn normal_values_have_mean_zero_and_variance_one() {
        check_moments("normal", &Initializer::new(1).normal(20_000), 1.0);
    }

    /// `a · bᵀ` over rows is the unit matrix.
    fn check_orthogonal(rows: usize, columns: usize) {
        let matrix = Initializer::new(5).orthogonal(rows, columns);
        let (count, width) = (rows.min(columns), rows.max(columns));
        let vector = |i: usize, k: usize| {
            if rows <= columns { matrix[i * columns + k] } else { matrix[k * columns + i] }
        };
        for i in 0..count {
            for j in 0..count {
                let product: f32 = (0..width).map(|k| vector(i, k) * vector(j, k)).sum();
                let expected = if i == j { 1.0 } else { 0.0 };
                assert!((product - expected).abs() < 1e-6, "{rows}x{columns}, {i} and {j}: {product}");
            }
        }
    }

    #[test]
    fn orthogonal_vectors_are_of_length_one_and_perpendicular() {
        // The larger ones leave little of their last vectors.
        for (rows, columns) in [(33, 33), (1, 1), (7, 20), (20, 7), (200, 200), (90, 91)] {
            check_orthogonal(rows, columns);
        }
    }

    /// Every way of drawing has the variance that its paper asks for, gate by gate, and keeps its bound.
    #[test]
    fn each_way_of_drawing_has_its_variance() {
        const RELU: Cell = Cell::Rnn(Activation::Relu);
        const TANH: Cell = Cell::Rnn(Activation::Tanh);
        let (input, hidden) = (150, 100);
        let check = |cell, how, input_variance: &[f64], recurrent_variance: &[f64], bound: Option<f64>| {
            let values = draw_layer(&layer(cell, input, hidden), &Init::both(how), &mut Initializer::new(7));
            for (gate, variance) in input_variance.iter().enumerate() {
                let count = hidden * input;
                check_moments(
                    &format!("{cell:?} {how:?} ih {gate}"),
                    &values.weight_ih[gate * count..][..count],
                    *variance,
                );
            }
            for (gate, variance) in recurrent_variance.iter().enumerate() {
                let count = hidden * hidden;
                check_moments(
                    &format!("{cell:?} {how:?} hh {gate}"),
                    &values.weight_hh[gate * count..][..count],
                    *variance,
                );
            }
            assert_eq!(values.weight_ih.len(), input_variance.len() * hidden * input);
            if let Some(bound) = bound {
                let largest = values.weight_ih.iter().fold(0f32, |largest, value| largest.max(value.abs()));
                assert!((0.99 * bound..=bound).contains(&f64::from(largest)), "{how:?}: largest {largest}");
            }
        };
        let gain = None;
        let (i, h) = (input as f64, hidden as f64);
        check(RELU, WeightInit::PyTorch, &[1.0 / (3.0 * h)], &[1.0 / (3.0 * h)], Some(0.1));
        let range = 0.2;
        check(TANH, WeightInit::Uniform { range }, &[0.04 / 3.0], &[0.04 / 3.0], Some(0.2));
        let (xavier, square) = (2.0 / (i + h), 1.0 / h);
        check(TANH, WeightInit::XavierNormal { gain }, &[xavier], &[square], None);
        check(TANH, WeightInit::XavierUniform { gain }, &[xavier], &[square], Some((3.0 * xavier).sqrt()));
        check(TANH, WeightInit::XavierNormal { gain: Some(2.0) }, &[4.0 * xavier], &[4.0 * square], None);
        let (fan_in, fan_out) = (Fan::In, Fan::Out);
        check(RELU, WeightInit::HeNormal { fan: fan_in, gain }, &[2.0 / i], &[2.0 / h], None);
        check(RELU, WeightInit::HeNormal { fan: fan_out, gain }, &[2.0 / h], &[2.0 / h], None);
        check(
            RELU,
            WeightInit::HeUniform { fan: fan_in, gain },
            &[2.0 / i],
            &[2.0 / h],
            Some((6.0 / i).sqrt()),
        );
        // The gain is that of what follows each gate.
        let (sigmoid, tanh) = (1.0, 25.0 / 9.0);
        let gates = |gains: &[f64], fan: f64| gains.iter().map(|gain| gain / fan).collect::<Vec<_>>();
        let how = WeightInit::HeNormal { fan: fan_in, gain };
        let lstm = [sigmoid, sigmoid, tanh, sigmoid];
        check(Cell::Lstm, how, &gates(&lstm, i), &gates(&lstm, h), None);
        let gru = [sigmoid, sigmoid, tanh];
        check(Cell::Gru(Reset::After), how, &gates(&gru, i), &gates(&gru, h), None);
        check(TANH, WeightInit::Orthogonal { gain }, &[1.0 / i], &[1.0 / h], None);
        check(TANH, WeightInit::Orthogonal { gain: Some(0.5) }, &[0.25 / i], &[0.25 / h], None);
    }

    #[test]
    fn identity_passes_a_state_on_as_it_is() {
        let init = Init { recurrent: WeightInit::Identity { scale: None }, ..Init::default() };
        let values = draw_layer(&layer(Cell::Rnn(Activation::Relu), 2, 3), &init, &mut Initializer::new(1));
        assert_eq!(values.weight_hh, [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
        let both = Init::both(WeightInit::Identity { scale: Some(0.5) });
        let values = draw_layer(&layer(Cell::Rnn(Activation::Relu), 2, 3), &both, &mut Initializer::new(1));
        assert_eq!(values.weight_ih, [0.5, 0.0, 0.0, 0.5, 0.0, 0.0]);
        assert_eq!((values.bias_ih, values.bias_hh), (vec![0.0; 3], vec![0.0; 3]));
    }

    #[test]
    fn chrono_biases_are_logarithms_of_times() {
        let (hidden, longest) = (2000, 400);
        let draw = |cell| {
            let init = Init { gates: GateBias::Chrono { longest }, ..Init::default() };
            draw_layer(&layer(cell, 1, hidden), &init, &mut Initializer::new(3))
        };
        let check = |values: &[f32]| {
            let times: Vec<f64> = values.iter().map(|&v| f64::from(v).exp()).collect();
            assert!(times.iter().all(|time| (0.999..=399.001).contains(time)));
            // Uniform in [1, 399]: mean 200, standard deviation 398 / √12; five standard errors.
            let mean = times.iter().sum::<f64>() / hidden as f64;
            assert!((mean - 200.0).abs() < 5.0 * 398.0 / (12.0 * hidden as f64).sqrt(), "mean {mean}");
        };
        let lstm = draw(Cell::Lstm);
        let gate = |bias: &[f32], gate: usize| bias[gate * hidden..][..hidden].to_vec();
        check(&gate(&lstm.bias_ih, 1));
        let negative: Vec<f32> = gate(&lstm.bias_ih, 1).iter().map(|value| -value).collect();
        assert_eq!(gate(&lstm.bias_ih, 0), negative);
        assert_eq!([gate(&lstm.bias_hh, 0), gate(&lstm.bias_hh, 1)], [vec![0.0; hidden], vec![0.0; hidden]]);
        // The other gates are drawn as ever.
        assert_ne!(gate(&lstm.bias_hh, 3), vec![0.0; hidden]);
        let gru = draw(Cell::Gru(Reset::After));
        check(&gate(&gru.bias_ih, 1));
        assert_eq!(gate(&gru.bias_hh, 1), vec![0.0; hidden]);
        assert_ne!(gate(&gru.bias_hh, 0), vec![0.0; hidden]);
    }
}
