//! Sizes, ragged batches and the errors that name what does not fit.
//!
//! Shape letters, used in the whole project: `B` batch (sequences), `T` time (steps of the longest
//! sequence a buffer has room for), `F` frames (the real steps of all sequences together), `I` input,
//! `H` hidden, `P` values of `h` (`H`, or fewer where it is projected), `G` gates of a cell, `O` output,
//! `V` vocabulary.

use crate::simd::Precision;
use std::fmt;

/// The non-linearity of a vanilla recurrent cell, or of another one's candidate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `h = tanh(a)`
    #[default]
    Tanh,
    /// `h = max(a, 0)`
    Relu,
    /// `h = a` above zero, `0.01 a` below (Maas et al. 2013).
    LeakyRelu,
    /// `h = a` above zero, `e^a - 1` below (Clevert et al. 2016).
    Elu,
    /// `h = a sigmoid(a)` (Elfwing et al. 2018), also called swish.
    Silu,
    /// `h = max(min(a, 1), -1)`
    HardTanh,
}

impl Activation {
    /// All of them.
    pub const ALL: [Activation; 6] = [
        Activation::Tanh,
        Activation::Relu,
        Activation::LeakyRelu,
        Activation::Elu,
        Activation::Silu,
        Activation::HardTanh,
    ];
}

/// Slope of [`Activation::LeakyRelu`] below zero.
pub(crate) const LEAK: f32 = 0.01;

/// The non-linearity of the gates of an LSTM (i, f, o) or a GRU (r, z).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum GateActivation {
    /// `1 / (1 + e^-a)`
    #[default]
    Sigmoid,
    /// `max(min(a / 6 + 1/2, 1), 0)`, as PyTorch and Keras define it.
    HardSigmoid,
}

/// What a cell may have beside its equations. Kernels have a path of its own for cells with an option, whose steps
/// are products followed by a pass over whole rows; plain cells do not pay for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CellOptions {
    /// Layer normalisation over the units of each gate's sum (Ba et al. 2016, equations 3 and 4), and of an LSTM's
    /// `c` where `h` reads it (equation 22):
    ///
    /// ```text
    /// N(a) = (a - mean(a)) / sqrt(var(a) + 1e-5)
    /// gate = act(gain * N(W x + U h) + b + c)          h = o * tanh(gain_c * N(c) + bias_c)
    /// n of a GRU that resets after its product:        n = tanh(gain * N(Wn x + r * (Un h + cn)) + bn)
    /// ```
    ///
    /// Biases are added to what is normalised, so that one set of them is enough and a forget bias means what it
    /// means without.
    pub norm: bool,
    /// Peephole connections of an LSTM (Gers and Schmidhuber 2000): `p_i * c` and `p_f * c` of the last step's `c`
    /// and `p_o * c'` of the new one join the sums of i, f and o.
    pub peephole: bool,
    /// Of the gates.
    pub gate: GateActivation,
    /// In place of tanh: of an LSTM's candidate g, and of `c` on its way to `h`; of a GRU's candidate n. A vanilla
    /// cell's stands in [`Cell::Rnn`].
    ///
    /// ```text
    /// g = act(a_g)    h = o * act(c)          n = act(a_n)
    /// ```
    pub activation: Activation,
    /// `P`, at least 1 and below `H`: an LSTM's `h` goes through weights `[P, H]` before anything reads it (Sak et
    /// al. 2014), while `c` and the gates stay `H` wide.
    ///
    /// ```text
    /// h = W_hr (o * tanh(c))
    /// ```
    pub projection: Option<usize>,
}

impl CellOptions {
    /// The cell as its equations have it.
    pub const PLAIN: CellOptions = CellOptions {
        norm: false,
        peephole: false,
        gate: GateActivation::Sigmoid,
        activation: Activation::Tanh,
        projection: None,
    };

    /// `P`, values of `h` of a cell of so many units: all of them where it is not projected.
    #[must_use]
    pub fn values(&self, hidden: usize) -> usize {
        self.projection.unwrap_or(hidden)
    }
}

/// Where a GRU applies its reset gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reset {
    /// `n = tanh(Wn x + bn + r * (Un h + cn))`: PyTorch's and cuDNN's variant.
    After,
    /// `n = tanh(Wn x + bn + Un (r * h) + cn)`: the original (Cho et al. 2014).
    Before,
}

/// Which recurrence a layer runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cell {
    /// Vanilla (Elman) cell: `h = act(W x + b + U h + c)`.
    Rnn(Activation),
    /// Long short-term memory (Hochreiter and Schmidhuber 1997; forget gate by Gers et al. 2000),
    /// gates in the order i f g o.
    Lstm,
    /// Gated recurrent unit (Cho et al. 2014), gates in the order r z n.
    Gru(Reset),
}

impl Cell {
    /// `G`: how many blocks of `H` rows the weights have (RNN 1, GRU 3, LSTM 4).
    #[must_use]
    pub const fn gates(self) -> usize {
        match self {
            Cell::Rnn(_) => 1,
            Cell::Gru(_) => 3,
            Cell::Lstm => 4,
        }
    }

    /// Whether the state holds a cell value `c` beside the hidden value `h`.
    #[must_use]
    pub const fn has_cell_state(self) -> bool {
        matches!(self, Cell::Lstm)
    }

    /// The name used in recipes and messages: `rnn`, `lstm` or `gru`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Cell::Rnn(_) => "rnn",
            Cell::Lstm => "lstm",
            Cell::Gru(_) => "gru",
        }
    }
}

/// Which way a layer walks through time. Each sequence is reversed over its own real length, so
/// padding never comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the first step to the last.
    Forward,
    /// From the last real step to the first.
    Reverse,
}

/// Probabilities that a unit keeps its last value instead of taking its new one (Krueger et al. 2017). A pass
/// without noise takes the mean of both instead. Zero by default.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Zoneout {
    /// Of `h`, from 0 and below 1.
    pub hidden: f32,
    /// Of an LSTM's `c`, from 0 and below 1.
    pub cell: f32,
}

impl Zoneout {
    /// Every unit takes its new value.
    pub const NONE: Zoneout = Zoneout { hidden: 0.0, cell: 0.0 };
}

/// One layer in one direction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Layer {
    /// The recurrence.
    pub cell: Cell,
    /// The way through time.
    pub direction: Direction,
    /// `I`, at least 1.
    pub input: usize,
    /// `H`, at least 1.
    pub hidden: usize,
    /// Of the products.
    pub precision: Precision,
    /// Of the states.
    pub zoneout: Zoneout,
    /// Beside the cell's equations.
    pub options: CellOptions,
}

impl Layer {
    /// `P`, values of `h`: `H` where it is not projected.
    #[must_use]
    pub fn output(&self) -> usize {
        self.options.values(self.hidden)
    }

    /// Elements of the recurrent weights, `G·H·P`, and so on: `(input, recurrent, bias)`.
    #[must_use]
    pub fn weight_lengths(&self) -> (usize, usize, usize) {
        let rows = self.cell.gates() * self.hidden;
        (rows * self.input, rows * self.output(), rows)
    }

    /// Elements of the weights that the options have, rows of `H`: with normalisation the gain of each gate, then
    /// gain and bias of an LSTM's `c`; then with peepholes those of i, f and o; then the `P` rows of a projection.
    #[must_use]
    pub fn option_length(&self) -> usize {
        self.term_length() + self.options.projection.unwrap_or(0) * self.hidden
    }

    /// Of these, those that meet the units one by one; a projection's follow.
    pub(crate) fn term_length(&self) -> usize {
        let CellOptions { norm, peephole, .. } = self.options;
        let of_cell = if self.cell.has_cell_state() { 2 } else { 0 };
        let norm = if norm { self.cell.gates() + of_cell } else { 0 };
        (norm + if peephole { 3 } else { 0 }) * self.hidden
    }

    /// Whether a step needs whole rows of sums; see [`CellOptions`].
    pub(crate) fn is_rowwise(&self) -> bool {
        self.options != CellOptions::PLAIN
            || matches!(self.cell, Cell::Rnn(activation) if !matches!(activation, Activation::Tanh | Activation::Relu))
    }

    /// What its products take: cells of two phases and cells with options have no kernels over pairs.
    pub(crate) fn product_precision(&self) -> Precision {
        match self.cell {
            Cell::Gru(Reset::Before) => Precision::F32,
            _ if self.is_rowwise() => Precision::F32,
            _ => self.precision,
        }
    }
}

/// How the rows of a buffer of frames are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Only real frames, `F` rows: all first steps, then all second steps, … Within a step the longest
    /// sequence comes first, equal lengths in the caller's order (the order of PyTorch's
    /// `PackedSequence.data`). With equal lengths this is plain time-major `[T, B]`.
    Packed,
    /// `B·T` rows, batch first; row `b·T + t`. Rows past a sequence's length are padding: never read,
    /// and written as zero.
    Padded,
}

/// What does not fit, what was found and what was wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShapeError {
    /// A buffer has the wrong number of elements.
    Elements {
        /// Which buffer.
        what: &'static str,
        /// How many elements it has.
        found: usize,
        /// How many it must have.
        expected: usize,
    },
    /// A size that must be at least one is zero.
    Zero {
        /// Which size.
        what: &'static str,
    },
    /// A sequence is longer than the batch has room for.
    Length {
        /// The sequence's place in the batch.
        sequence: usize,
        /// Its length.
        found: usize,
        /// `T`.
        time: usize,
    },
    /// A buffer was given that the cell does not use, or one it needs is missing.
    State {
        /// What is wrong, in words.
        what: &'static str,
    },
    /// An index is not below its limit.
    Index {
        /// Which index.
        what: &'static str,
        /// Its value.
        found: usize,
        /// The limit it must stay below.
        limit: usize,
    },
    /// A size whose buffers no memory could hold.
    TooLarge {
        /// Which size.
        what: &'static str,
    },
    /// A tape was made by a forward pass over something else.
    Tape,
}

impl fmt::Display for ShapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ShapeError::Elements { what, found, expected } => {
                write!(f, "{what} has {found} elements, expected {expected}")
            }
            ShapeError::Zero { what } => write!(f, "{what} is 0, expected at least 1"),
            ShapeError::Length { sequence, found, time } => {
                write!(f, "sequence {sequence} has {found} steps, but the batch has room for {time}")
            }
            ShapeError::State { what } => f.write_str(what),
            ShapeError::Index { what, found, limit } => {
                write!(f, "{what} is {found}, expected less than {limit}")
            }
            ShapeError::TooLarge { what } => write!(f, "{what} is too large for any memory"),
            ShapeError::Tape => {
                f.write_str("the tape belongs to another forward pass (layer or batch differ)")
            }
        }
    }
}

impl std::error::Error for ShapeError {}

/// Checks a buffer's length.
pub(crate) fn expect(what: &'static str, found: usize, expected: usize) -> Result<(), ShapeError> {
    if found == expected { Ok(()) } else { Err(ShapeError::Elements { what, found, expected }) }
}

/// A batch of sequences of different lengths, and the order in which the kernels walk it.
///
/// Sequences are ranked longest first (a stable sort), so that at step `t` the ones still alive are the
/// first [`alive`](Batch::alive)`(t)` ranks and nothing is ever computed for padding.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch {
    lengths: Vec<usize>,
    time: usize,
    /// rank -> the caller's place.
    order: Vec<usize>,
    /// step -> first frame of that step; one entry more than there are steps.
    starts: Vec<usize>,
}

/// No sequences.
impl Default for Batch {
    fn default() -> Batch {
        Batch { lengths: Vec::new(), time: 0, order: Vec::new(), starts: vec![0] }
    }
}

impl Clone for Batch {
    fn clone(&self) -> Batch {
        let mut copy = Batch::default();
        copy.clone_from(self);
        copy
    }

    /// Keeps the memory of `self`.
    fn clone_from(&mut self, from: &Batch) {
        let Batch { lengths, time, order, starts } = from;
        self.lengths.clone_from(lengths);
        self.time = *time;
        self.order.clone_from(order);
        self.starts.clone_from(starts);
    }
}

impl Batch {
    /// A ragged batch. Lengths are in the caller's order and may be zero; `time` is the `T` of padded
    /// buffers.
    ///
    /// # Errors
    /// [`ShapeError::Length`] when a length exceeds `time`, [`ShapeError::TooLarge`] when a padded buffer of
    /// that many rows cannot exist.
    pub fn ragged(lengths: &[usize], time: usize) -> Result<Batch, ShapeError> {
        if lengths.len().checked_mul(time).is_none() {
            return Err(ShapeError::TooLarge { what: "the padded batch" });
        }
        if let Some(sequence) = lengths.iter().position(|&length| length > time) {
            return Err(ShapeError::Length { sequence, found: lengths[sequence], time });
        }
        let mut order: Vec<usize> = (0..lengths.len()).collect();
        order.sort_by_key(|&b| std::cmp::Reverse(lengths[b]));
        let steps = order.first().map_or(0, |&b| lengths[b]);
        let mut starts = Vec::with_capacity(steps + 1);
        let mut first = 0;
        starts.push(0);
        let mut alive = lengths.len();
        for t in 0..steps {
            while lengths[order[alive - 1]] <= t {
                alive -= 1;
            }
            first += alive;
            starts.push(first);
        }
        Ok(Batch { lengths: lengths.to_vec(), time, order, starts })
    }

    /// `sequences` sequences of `time` steps each.
    ///
    /// # Panics
    /// When so many steps cannot exist.
    #[must_use]
    pub fn full(sequences: usize, time: usize) -> Batch {
        assert!(sequences.checked_mul(time).is_some(), "the batch is too large for any memory");
        let steps = if sequences == 0 { 0 } else { time };
        Batch {
            lengths: vec![time; sequences],
            time,
            order: (0..sequences).collect(),
            starts: (0..=steps).map(|t| t * sequences).collect(),
        }
    }

    /// `B`.
    #[must_use]
    pub fn sequences(&self) -> usize {
        self.lengths.len()
    }

    /// `T` of padded buffers.
    #[must_use]
    pub fn time(&self) -> usize {
        self.time
    }

    /// The length of the longest sequence.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.starts.len() - 1
    }

    /// `F`, the sum of the lengths.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.starts[self.steps()]
    }

    /// Lengths in the caller's order.
    #[must_use]
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Rank to the caller's place.
    #[must_use]
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// How many sequences are longer than `step`.
    #[must_use]
    pub fn alive(&self, step: usize) -> usize {
        self.starts.get(step + 1).map_or(0, |end| end - self.starts[step])
    }

    /// The packed row of a rank's `step`.
    #[must_use]
    pub fn frame(&self, step: usize, rank: usize) -> usize {
        self.starts[step] + rank
    }

    /// First frame of every step, and the end of the last.
    #[must_use]
    pub fn starts(&self) -> &[usize] {
        &self.starts
    }

    /// How many rows a buffer of this layout has.
    #[must_use]
    pub fn rows(&self, layout: Layout) -> usize {
        match layout {
            Layout::Packed => self.frames(),
            Layout::Padded => self.sequences() * self.time,
        }
    }

    /// For every frame in packed order `(sequence in the caller's order, time)`.
    pub fn places(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        (0..self.steps()).flat_map(move |t| (0..self.alive(t)).map(move |rank| (self.order[rank], t)))
    }

    /// The row, in a buffer of `layout`, that a layer walking in `direction` reads and writes at
    /// (`step`, `rank`).
    #[must_use]
    pub fn row(&self, layout: Layout, direction: Direction, step: usize, rank: usize) -> usize {
        let sequence = self.order[rank];
        let time = match direction {
            Direction::Forward => step,
            Direction::Reverse => self.lengths[sequence] - 1 - step,
        };
        match layout {
            Layout::Packed => self.frame(time, rank),
            Layout::Padded => sequence * self.time + time,
        }
    }
}
