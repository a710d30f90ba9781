//! What classifiers and taggers have in common: tokens or numbers in, a vector for every step out.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};

use crate::cell::CellOptions;
use crate::config_error::ConfigError;
use crate::embedding::Embedding;
use crate::init::{Init, Initializer};
use crate::models::dense::DenseConfig;
use crate::own_cell::AnyCell;
use crate::parameters::{NamedParameters, parts};
use crate::ragged::{Batch, Ragged, SharedRows};
use crate::recurrent::{Direction, Merge, NoisySequences, Precision, Recurrent, RecurrentConfig};
use crate::regularize::{Dropout, Noise, Purpose, Sharing, check_drop, masked};
use crate::state::State;
use crate::stepper::Stepper;

/// What a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepKind {
    /// One of `vocabulary` tokens, which becomes a vector of `embedding` values.
    Token {
        /// `V`.
        vocabulary: usize,
        /// `E`.
        embedding: usize,
    },
    /// So many numbers.
    Numbers(usize),
}

/// What stands between input and output layer.
#[derive(Clone, Copy, Debug)]
pub enum Body {
    /// A recurrent stack.
    Recurrent(RecurrenceConfig),
    /// Feed-forward layers; their input width follows from what they read.
    Dense(DenseConfig),
}

impl From<RecurrenceConfig> for Body {
    fn from(recurrence: RecurrenceConfig) -> Body {
        Body::Recurrent(recurrence)
    }
}

impl Body {
    /// The recurrent stack, where it is one.
    pub(super) fn recurrence(self) -> Option<RecurrenceConfig> {
        match self {
            Body::Recurrent(recurrence) => Some(recurrence),
            Body::Dense(_) => None,
        }
    }

    /// Draws what is around its stack as [`Init::redraw`] does.
    pub(super) fn redraw(self, model: &mut impl NamedParameters, random: &mut Initializer) {
        if let Body::Recurrent(recurrence) = self {
            recurrence.init.redraw(model, random);
        }
    }
}

/// The recurrent part of a model.
#[derive(Clone, Copy, Debug)]
pub struct RecurrenceConfig {
    /// The cell.
    pub cell: AnyCell,
    /// What the cells have beside their equations.
    pub options: CellOptions,
    /// `H`.
    pub hidden: usize,
    /// Recurrent layers.
    pub layers: usize,
    /// Which ways through time.
    pub direction: Direction,
    /// How weights are drawn.
    pub init: Init,
    /// What drops out in and between the layers.
    pub dropout: Dropout,
    /// Whether each layer but the first adds what it reads to what it gives.
    pub residual: bool,
    /// What becomes of the outputs of two directions.
    pub merge: Merge,
}

impl RecurrenceConfig {
    /// One forward layer of `hidden` units that drops nothing.
    #[must_use]
    pub fn new(cell: impl Into<AnyCell>, hidden: usize) -> RecurrenceConfig {
        RecurrenceConfig {
            cell: cell.into(),
            options: CellOptions::PLAIN,
            hidden,
            layers: 1,
            direction: Direction::Forward,
            init: Init::default(),
            dropout: Dropout::default(),
            residual: false,
            merge: Merge::default(),
        }
    }
}

/// Steps in packed order.
#[derive(Clone, Copy, Debug)]
pub enum Steps<'a> {
    /// Token ids, one a frame.
    Tokens(&'a [u32]),
    /// Numbers `[F, I]`, row after row.
    Numbers(&'a [f32]),
}

/// What a model makes of a batch while it learns: its loss, and what can have a price beside it
/// ([`activation_penalty`](crate::regularize::activation_penalty)).
#[derive(Debug)]
pub struct Learned {
    /// The mean loss, `[1]`.
    pub loss: Tensor<1>,
    /// What the last layer gives at every frame, `[F, O]`, in packed order.
    pub raw: Tensor<2>,
    /// The same as what follows reads it, after dropout.
    pub dropped: Tensor<2>,
}

/// What a [`Reader`] makes of a batch.
pub struct Reading {
    /// A vector for every frame, `[F, O]`, in packed order.
    pub frames: Tensor<2>,
    /// What the recurrence leaves; `None` without one.
    pub state: Option<State>,
}

/// Embeds tokens, or takes numbers as they are, and runs a recurrent stack over them where there is one.
#[derive(Module, Debug)]
pub struct Reader {
    embedding: Option<Embedding>,
    recurrent: Option<Recurrent>,
    #[module(skip)]
    width: usize,
    #[module(skip)]
    output: usize,
    #[module(skip)]
    directions: usize,
    #[module(skip)]
    drop: f64,
    #[module(skip)]
    words: f64,
    #[module(skip)]
    locked: bool,
}

impl Reader {
    /// A reader of `steps`; `input_dropout` is the probability of what the first layer reads to drop out while
    /// the model learns.
    ///
    /// # Errors
    /// [`ConfigError`] when a size is zero or the weights cannot be drawn so.
    pub fn init(
        steps: StepKind,
        recurrence: Option<RecurrenceConfig>,
        input_dropout: f64,
        random: &mut Initializer,
        device: &Device,
    ) -> Result<Reader, ConfigError> {
        let (embedding, width) = match steps {
            StepKind::Token { vocabulary, embedding } => {
                (Some(Embedding::init(vocabulary, embedding, random, device)?), embedding)
            }
            StepKind::Numbers(width) => (None, width),
        };
        Reader::over(embedding, width, recurrence, input_dropout, random, device)
    }

    /// A reader whose steps have `width` values, embedded or given.
    pub(crate) fn over(
        embedding: Option<Embedding>,
        width: usize,
        recurrence: Option<RecurrenceConfig>,
        input_dropout: f64,
        random: &mut Initializer,
        device: &Device,
    ) -> Result<Reader, ConfigError> {
        let recurrent = recurrence.map(|r| {
            RecurrentConfig::new(r.cell, width, r.hidden)
                .with_layers(r.layers)
                .with_direction(r.direction)
                .with_init(r.init)
                .with_options(r.options)
                .with_dropout(r.dropout)
                .with_residual(r.residual)
                .with_merge(r.merge)
                .init_with(random, device)
        });
        let recurrent = recurrent.transpose()?;
        let directions = match recurrence.map(|r| r.direction) {
            Some(Direction::Both) => 2,
            Some(_) => 1,
            None => 0,
        };
        let locked = recurrence.is_some_and(|r| r.dropout.locked);
        let output = recurrent.as_ref().map_or(width, Recurrent::output_width);
        Ok(Reader {
            output,
            embedding,
            recurrent,
            width,
            directions,
            drop: input_dropout,
            words: 0.0,
            locked,
        })
    }

    /// A reader of frames of `width` values around a stack of `directions` directions that there is already.
    pub(crate) fn around(
        recurrent: Recurrent,
        width: usize,
        directions: usize,
        drop: f64,
        locked: bool,
    ) -> Reader {
        let output = recurrent.output_width();
        let (embedding, recurrent, words) = (None, Some(recurrent), 0.0);
        Reader { embedding, recurrent, width, output, directions, drop, words, locked }
    }

    /// With a probability of a token's whole vector to drop out while the model learns.
    ///
    /// # Errors
    /// [`ConfigError::Drop`] when it is none.
    pub fn with_word_dropout(self, words: f64) -> Result<Reader, ConfigError> {
        check_drop("of words", words)?;
        Ok(Reader { words, ..self })
    }

    /// Chooses what the recurrence multiplies.
    pub(crate) fn with_precision(mut self, precision: Precision) -> Reader {
        self.recurrent = self.recurrent.map(|recurrent| recurrent.with_precision(precision));
        self
    }

    /// `O`, values a frame has.
    #[must_use]
    pub fn output_width(&self) -> usize {
        self.output
    }

    /// What the recurrence ends with, a vector for every sequence `[B, O]`: the last step of each direction. `None`
    /// without one.
    pub(crate) fn ends(&self, reading: &Reading, batch: &Batch) -> Option<Tensor<2>> {
        Some(self.recurrent.as_ref()?.ends(&reading.frames, batch, reading.state.as_ref()?))
    }

    /// Whether masks of what it gives are locked over a sequence.
    pub(crate) fn sharing(&self, batch: &Batch) -> Sharing {
        Sharing::of(self.locked, batch, &names(batch))
    }

    /// Directions of the recurrence; 0 without one.
    #[must_use]
    pub fn directions(&self) -> usize {
        self.directions
    }

    /// The table of token vectors, where steps are tokens.
    #[must_use]
    pub fn embedding(&self) -> Option<&Embedding> {
        self.embedding.as_ref()
    }

    /// For reading `sequences` one step at a time; `None` where the stack does not walk forward, or there is none.
    #[must_use]
    pub fn stepper(&self, sequences: usize) -> Option<Stepper> {
        self.recurrent.as_ref()?.stepper(sequences)
    }

    /// The same for hypotheses, which branch; see [`Recurrent::branching_stepper`].
    #[must_use]
    pub fn branching_stepper(&self, hypotheses: usize) -> Option<Stepper> {
        self.recurrent.as_ref()?.branching_stepper(hypotheses)
    }

    /// A vector for every frame. With `noise` the model learns, and values drop out. `device` is the one that the
    /// model is on.
    ///
    /// # Panics
    /// When there is not one step a frame, a token is not below `V`, or the steps are of another kind than the
    /// reader's.
    #[must_use]
    pub fn forward(
        &self,
        steps: Steps<'_>,
        batch: &Arc<Batch>,
        state: Option<State>,
        noise: Option<Noise>,
        device: &Device,
    ) -> Reading {
        match (steps, &self.embedding) {
            (Steps::Tokens(ids), Some(embedding)) => {
                assert_eq!(ids.len(), batch.frames(), "one token a frame");
                let words = noise.and_then(|noise| noise.mask(Purpose::Words, 0, self.words));
                let (rows, index) = embedding.distinct_noisy(ids, words);
                self.forward_rows(rows, index, batch, state, noise)
            }
            (Steps::Numbers(values), None) => {
                let x = TensorData::new(values.to_vec(), [batch.frames(), self.width]);
                self.forward_frames(Tensor::from_data(x, device), batch, state, noise)
            }
            _ => panic!("a reader of tokens reads tokens, a reader of numbers reads numbers"),
        }
    }

    /// Frames that share rows `[U, I]`.
    pub(crate) fn forward_rows(
        &self,
        rows: Tensor<2>,
        index: Vec<u32>,
        batch: &Arc<Batch>,
        state: Option<State>,
        noise: Option<Noise>,
    ) -> Reading {
        if let (Some(recurrent), true) = (&self.recurrent, batch.frames() > 0 && !self.drops(noise)) {
            let shared = SharedRows::new(rows, index, batch.clone()).expect("one index a frame");
            let names = names(batch);
            let noise = noise.map(|noise| NoisySequences { noise, names: &names });
            let (y, state) = recurrent.forward_shared_noisy(shared, state, noise);
            return Reading { frames: y.frames(), state: Some(state) };
        }
        let x = if batch.frames() == 0 {
            Tensor::zeros([0, self.width], &rows.device())
        } else {
            let device = rows.device();
            let index = index.into_iter().map(i64::from).collect();
            rows.select(0, crate::state::index_tensor(index, &device))
        };
        self.forward_frames(x, batch, state, noise)
    }

    fn drops(&self, noise: Option<Noise>) -> bool {
        noise.is_some() && self.drop > 0.0
    }

    /// Frames of numbers `[F, I]` in packed order.
    pub(crate) fn forward_frames(
        &self,
        x: Tensor<2>,
        batch: &Arc<Batch>,
        state: Option<State>,
        noise: Option<Noise>,
    ) -> Reading {
        if batch.frames() == 0 {
            return Reading { frames: Tensor::zeros([0, self.output], &x.device()), state: None };
        }
        let names = names(batch);
        let mask = noise.and_then(|noise| noise.mask(Purpose::Input, 0, self.drop));
        let x = masked(x, mask, Sharing::of(self.locked, batch, &names));
        match &self.recurrent {
            None => Reading { frames: x, state: None },
            Some(recurrent) => {
                let x = Ragged::new(x, batch.clone()).expect("one row a frame");
                let noise = noise.map(|noise| NoisySequences { noise, names: &names });
                let (y, state) = recurrent.forward_noisy(x, state, noise);
                Reading { frames: y.frames(), state: Some(state) }
            }
        }
    }
}

/// The places of a batch's sequences, which name their masks.
fn names(batch: &Batch) -> Vec<u32> {
    (0..batch.sequences() as u32).collect()
}

parts! {
    /// `embedding.weight`, `recurrent.…`, as far as there are.
    Reader { "embedding": embedding, "recurrent": recurrent }
}
