//! One to many: an image, or a vector, and a decoder that writes a sentence about it (Vinyals et al. 2015), with soft
//! attention over the image's grid where wanted (Xu et al. 2015).
//!
//! Shapes: B images, F frames of all sentences, V tokens, H units, S places of the grid.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};

use crate::cell::Cell;
use crate::embedding::Embedding;
use crate::fused::with_slice;
use crate::init::{Init, Initializer};
use crate::models::attention::{Attention, Memory, Score};
use crate::models::convolution::{Convolution, ConvolutionConfig};
use crate::models::dense::{Dense, DenseActivation, DenseConfig, Norm};
use crate::models::reader::Reader;
use crate::output::Output;
use crate::parameters::{NamedParameters, Parameter, ParameterMut, prefixed};
use crate::ragged::{Batch, Ragged};
use crate::recurrent::{ConfigError, RecurrentConfig};
use crate::state::{LayerState, State};

/// What is written about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaptionInput {
    /// So many numbers.
    Vector(usize),
    /// An image, and what reads it.
    Image(ConvolutionConfig),
}

/// Sizes of a [`Captioner`].
#[derive(Clone, Copy, Debug)]
pub struct CaptionerConfig {
    /// What is written about.
    pub input: CaptionInput,
    /// `V`.
    pub vocabulary: usize,
    /// Values of a token's vector.
    pub embedding: usize,
    /// The decoder's recurrence.
    pub cell: Cell,
    /// `H`.
    pub hidden: usize,
    /// How the decoder looks at the grid; `None`: all that it knows of the image is its first state. A vector has no
    /// grid, and is not looked at.
    pub attention: Option<Score>,
    /// The seed all weights are drawn from.
    pub seed: u64,
}

impl CaptionerConfig {
    /// Makes the model. On an [autodiff device](Device::autodiff) its parameters ask for gradients.
    ///
    /// # Errors
    /// [`ConfigError`] when a size is zero.
    pub fn init(&self, device: &Device) -> Result<Captioner, ConfigError> {
        let random = &mut Initializer::new(self.seed);
        let (convolution, values) = match self.input {
            CaptionInput::Vector(width) => (None, width),
            CaptionInput::Image(config) => (Some(config.init(random, device)?), config.output()[0]),
        };
        let hidden = self.hidden;
        let dense = |input: usize, random: &mut Initializer| {
            let (layers, activation, norm) = (1, DenseActivation::Tanh, Norm::None);
            DenseConfig { input, hidden, layers, activation, norm }.init(random, device)
        };
        let parts = 1 + usize::from(self.cell.has_cell_state());
        let start = (0..parts).map(|_| dense(values, random)).collect::<Result<Vec<_>, _>>()?;
        let target = Embedding::init(self.vocabulary, self.embedding, random, device)?;
        let decoder = RecurrentConfig::new(self.cell, self.embedding, hidden)
            .with_init(Init::default())
            .init_with(random, device)?;
        // With equal widths a dot product needs no map; here the grid's is whatever the convolutions give.
        let score = self.attention.filter(|_| convolution.is_some());
        let attention = score.map(|score| Attention::init(score, hidden, values, random, device));
        let combine = attention.as_ref().map(|_| dense(values + hidden, random)).transpose()?;
        Ok(Captioner {
            convolution,
            start,
            target,
            decoder: Reader::around(decoder, self.embedding, 1, 0.0, false),
            attention,
            combine,
            output: Output::init(hidden, self.vocabulary, random, device)?,
            hidden,
        })
    }
}

/// An encoder of images or vectors, and a decoder.
#[derive(Module, Debug)]
pub struct Captioner {
    convolution: Option<Convolution>,
    /// The decoder's first hidden values and, for an LSTM, cells.
    start: Vec<Dense>,
    target: Embedding,
    decoder: Reader,
    attention: Option<Attention>,
    combine: Option<Dense>,
    output: Output,
    #[module(skip)]
    hidden: usize,
}

/// What the decoder is given of the images of a batch.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The grid that it attends to; `None` without attention.
    pub memory: Option<Memory>,
    /// What it starts from.
    pub state: State,
}

/// What one step of the decoder gives.
#[derive(Debug)]
pub struct Described {
    /// Scores of the next token, `[N, V]`.
    pub logits: Tensor<2>,
    /// The state to go on from.
    pub state: State,
    /// How much each place of the grid was looked at, `[N, S]`; `None` without attention.
    pub attention: Option<Tensor<2>>,
}

impl Captioner {
    /// What the decoder is given of `count` images (or vectors) one after the other.
    ///
    /// # Panics
    /// When there is none, or they have another size.
    #[must_use]
    pub fn encode(&self, values: &[f32], count: usize) -> Seen {
        let x = TensorData::new(values.to_vec(), [count, values.len() / count]);
        let x = Tensor::<2>::from_data(x, &self.target.weight.device());
        let (mean, memory) = match &self.convolution {
            None => (x, None),
            Some(convolution) => {
                // [B, C, height, width] to [B, S, C].
                let grid = convolution.forward(x).flatten::<3>(2, 3).swap_dims(1, 2);
                let [_, places, _] = grid.dims();
                let lengths = vec![places; count];
                let memory = self.attention.as_ref().map(|attention| {
                    let states = Ragged::from_padded(grid.clone(), &lengths).expect("every place is there");
                    attention.memory(&states)
                });
                (grid.mean_dim(1).flatten::<2>(1, 2), memory)
            }
        };
        let mut parts = self.start.iter().map(|part| part.forward(mean.clone()));
        let h = parts.next().expect("a recurrence has hidden values");
        Seen { memory, state: State::of(vec![LayerState { h, c: parts.next() }]) }
    }

    /// The mean cross-entropy of the sentences' tokens in nats, `[1]`: of each image the decoder reads `inputs` and is
    /// to say `targets`, which belong to the same frames of `batch` (teacher forcing).
    ///
    /// # Panics
    /// When there is not one image a sentence, not one input and target a frame, or a token is not known.
    #[must_use]
    pub fn loss(&self, images: &[f32], inputs: &[u32], targets: &[u32], batch: &Arc<Batch>) -> Tensor<1> {
        let Seen { memory, state } = self.encode(images, batch.sequences());
        let (rows, index) = self.target.distinct(inputs);
        let y = self.decoder.forward_rows(rows, index, batch, Some(state), None).frames;
        let y = match (&self.attention, &self.combine, &memory) {
            (Some(attention), Some(combine), Some(memory)) => {
                let steps = Ragged::new(y.clone(), batch.clone()).expect("one row a frame").to_padded(0.0);
                let (context, _) = attention.forward(steps, memory);
                let context = Ragged::from_padded(context, batch.lengths()).expect("their own lengths");
                combine.forward(Tensor::cat(vec![context.frames(), y], 1))
            }
            _ => y,
        };
        self.output.cross_entropy(y, targets)
    }

    /// One step for all images: reads a token of each sentence.
    ///
    /// # Panics
    /// When there is not one token an image, one is not known, or the state has another size.
    #[must_use]
    pub fn step(&self, tokens: &[u32], memory: Option<&Memory>, state: State) -> Described {
        let count = tokens.len();
        let batch = Arc::new(Batch::full(count, 1));
        let (rows, index) = self.target.distinct(tokens);
        let reading = self.decoder.forward_rows(rows, index, &batch, Some(state), None);
        let state = reading.state.expect("a decoder has a recurrence");
        let y = reading.frames;
        let (y, attention) = match (&self.attention, &self.combine, memory) {
            (Some(attention), Some(combine), Some(memory)) => {
                let (context, weights) =
                    attention.forward(y.clone().reshape([count, 1, self.hidden]), memory);
                let context = context.flatten::<2>(1, 2);
                (combine.forward(Tensor::cat(vec![context, y], 1)), Some(weights.flatten::<2>(1, 2)))
            }
            _ => (y, None),
        };
        Described { logits: self.output.logits(y), state, attention }
    }

    /// The likeliest token after each other for `count` images, between the tokens that begin and end a sentence, at
    /// most `most` of them.
    ///
    /// # Panics
    /// As [`encode`](Captioner::encode).
    #[must_use]
    pub fn write(&self, images: &[f32], count: usize, [begin, end]: [u32; 2], most: usize) -> Vec<Vec<u32>> {
        let Seen { memory, mut state } = self.encode(images, count);
        let mut written = vec![Vec::new(); count];
        let (mut tokens, mut ended) = (vec![begin; count], vec![false; count]);
        for _ in 0..most {
            let decoded = self.step(&tokens, memory.as_ref(), state);
            state = decoded.state;
            let vocabulary = decoded.logits.dims()[1];
            with_slice(&decoded.logits, |logits| {
                for (place, row) in logits.chunks_exact(vocabulary).enumerate() {
                    let best = |best, token| if row[token] > row[best] { token } else { best };
                    tokens[place] = (0..vocabulary).fold(0, best) as u32;
                    ended[place] |= tokens[place] == end;
                    if !ended[place] {
                        written[place].push(tokens[place]);
                    }
                }
            });
            if ended.iter().all(|ended| *ended) {
                break;
            }
        }
        written
    }
}

macro_rules! listed {
    ($self:ident, $parameters:ident, $kind:ident, $($borrow:tt)+) => {{
        let mut all = Vec::new();
        if let Some(convolution) = $($borrow)+ $self.convolution {
            all.extend(prefixed("convolution", convolution.$parameters()));
        }
        for (index, start) in ($($borrow)+ $self.start).into_iter().enumerate() {
            all.extend(prefixed(&format!("start.{index}"), start.$parameters()));
        }
        all.push(("target.weight".to_owned(), $kind::Matrix($($borrow)+ $self.target.weight)));
        all.extend(prefixed("decoder", $self.decoder.$parameters()));
        if let Some(attention) = $($borrow)+ $self.attention {
            all.extend(prefixed("attention", attention.$parameters()));
        }
        if let Some(combine) = $($borrow)+ $self.combine {
            all.extend(prefixed("combine", combine.$parameters()));
        }
        all.push(("output.weight".to_owned(), $kind::Matrix($($borrow)+ $self.output.weight)));
        all.push(("output.bias".to_owned(), $kind::Vector($($borrow)+ $self.output.bias)));
        all
    }};
}

/// `convolution.…`, `start.0.…`, `target.weight`, `decoder.recurrent.…`, `attention.…`, `combine.…`, `output.…`.
impl NamedParameters for Captioner {
    fn parameters(&self) -> Vec<(String, Parameter<'_>)> {
        listed!(self, parameters, Parameter, &)
    }

    fn parameters_mut(&mut self) -> Vec<(String, ParameterMut<'_>)> {
        listed!(self, parameters_mut, ParameterMut, &mut)
    }
}
