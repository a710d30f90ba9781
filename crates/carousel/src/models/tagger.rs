//! Gives every step a label: a reader, an output layer on each frame; for sentences a second head on the whole.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData, activation};
use carousel_kernels::ShapeError;

use crate::cell::Cell;
use crate::config_error::ConfigError;
use crate::embedding::Embedding;
use crate::init::{Init, Initializer};
use crate::models::convolution::{Convolution, ConvolutionConfig};
use crate::models::crf::Crf;
use crate::models::dense::{Dense, DenseActivation, DenseConfig};
use crate::models::pool::{Pool, Pooling};
use crate::models::reader::{Body, Learned, Reader, Reading, Steps};
use crate::output::{IGNORE, Loss, Output};
use crate::parameters::parts;
use crate::ragged::{Batch, SharedRows};
use crate::recurrent::{Direction, Recurrent, RecurrentConfig};
use crate::regularize::{Noise, Purpose, Sharing, check_drop, masked};
use crate::slices::with_slice;
use crate::state::State;
use crate::stepper::Stepper;

/// Width of a letter's vector.
const LETTER: usize = 32;

/// What a tagger reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagInput {
    /// Words.
    Words {
        /// `V`.
        vocabulary: usize,
        /// `E`.
        embedding: usize,
        /// With letters: how many there are, and the units of each direction that reads them.
        letters: Option<(usize, usize)>,
    },
    /// So many numbers a step.
    Numbers(usize),
    /// An image a step.
    Images {
        /// What reads the images.
        convolution: ConvolutionConfig,
        /// `E`, values that an image becomes before the recurrence reads it.
        embedding: usize,
    },
}

/// Sizes of a [`Tagger`].
#[derive(Clone, Debug)]
pub struct TaggerConfig {
    /// What is read.
    pub input: TagInput,
    /// What reads it. Feed-forward layers read each step alone.
    pub body: Body,
    /// `K`.
    pub tags: usize,
    /// Classes of whole sequences; `None` without a second head.
    pub intents: Option<usize>,
    /// Whether tags are decided together, by a conditional random field.
    pub crf: bool,
    /// Probability of a word's whole vector to drop out.
    pub word_dropout: f64,
    /// Probability to drop out of what is read first.
    pub input_dropout: f64,
    /// Probability to drop out of what the output layers read.
    pub output_dropout: f64,
    /// The share of each target that is spread over the tags; without a conditional random field.
    pub label_smoothing: f64,
    /// The seed all weights are drawn from.
    pub seed: u64,
}

/// Words of a batch. Each different spelling stands once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// A word's number in the vocabulary, one a spelling.
    pub ids: Vec<u32>,
    /// Its letters.
    pub letters: Vec<Vec<u32>>,
    /// The spelling of each frame, in packed order.
    pub index: Vec<u32>,
}

/// What a [`Tagger`] reads, in packed order.
#[derive(Clone, Copy, Debug)]
pub enum TagSteps<'a> {
    /// Words.
    Words(&'a Words),
    /// Numbers `[F, I]`, or images `[F, channels · height · width]`.
    Numbers(&'a [f32]),
}

impl TaggerConfig {
    /// A tagger without a second head and without a conditional random field; nothing drops out.
    #[must_use]
    pub fn new(input: TagInput, body: impl Into<Body>, tags: usize) -> TaggerConfig {
        TaggerConfig {
            input,
            body: body.into(),
            tags,
            intents: None,
            crf: false,
            word_dropout: 0.0,
            input_dropout: 0.0,
            output_dropout: 0.0,
            label_smoothing: 0.0,
            seed: 0,
        }
    }

    /// Makes the model. On an [autodiff device](Device::autodiff) its parameters ask for gradients.
    ///
    /// # Errors
    /// [`ConfigError`] when a size is zero or the weights cannot be drawn so.
    pub fn init(&self, device: &Device) -> Result<Tagger, ConfigError> {
        self.init_with(&mut Initializer::new(self.seed), device)
    }

    /// Makes the model with the next values of an initializer, in place of the configuration's own seed.
    ///
    /// # Errors
    /// As [`init`](TaggerConfig::init).
    pub fn init_with(&self, random: &mut Initializer, device: &Device) -> Result<Tagger, ConfigError> {
        check_drop("of words", self.word_dropout)?;
        let (mut words, mut letters, mut images) = (None, None, None);
        let width = match self.input {
            TagInput::Numbers(width) => width,
            TagInput::Images { convolution, embedding } => {
                images = Some(Images::init(convolution, embedding, random, device)?);
                embedding
            }
            TagInput::Words { vocabulary, embedding, letters: read } => {
                words = Some(Embedding::init(vocabulary, embedding, random, device)?);
                let read = read.map(|(count, hidden)| Letters::init(count, hidden, random, device));
                letters = read.transpose()?;
                embedding + letters.as_ref().map_or(0, |letters| letters.recurrent.output_width())
            }
        };
        let reader = Reader::over(None, width, self.body.recurrence(), self.input_dropout, random, device)?;
        let (dense, hidden) = match self.body {
            Body::Dense(config) => {
                (Some(DenseConfig { input: width, ..config }.init(random, device)?), config.hidden)
            }
            Body::Recurrent(_) => (None, reader.output_width()),
        };
        let intent = self
            .intents
            .map(|intents| Output::init(hidden, intents, random, device))
            .transpose()?
            .map(|intent| intent.with_label_smoothing(self.label_smoothing));
        let mut model = Tagger {
            words,
            letters,
            images,
            reader,
            dense,
            output: Output::init(hidden, self.tags, random, device)?
                .with_label_smoothing(self.label_smoothing),
            crf: self.crf.then(|| Crf::init(self.tags, random, device)),
            pool: Pool::init(Pooling::Max, hidden, random, device),
            intent,
            drop: self.output_dropout,
            drop_words: self.word_dropout,
            width: match self.input {
                TagInput::Images { convolution, .. } => convolution.image.iter().product(),
                TagInput::Numbers(_) | TagInput::Words { .. } => width,
            },
        };
        self.body.redraw(&mut model, random);
        Ok(model)
    }
}

/// Reads words letter by letter, both ways.
#[derive(Module, Debug)]
struct Letters {
    embedding: Embedding,
    recurrent: Recurrent,
}

impl Letters {
    fn init(
        count: usize,
        hidden: usize,
        random: &mut Initializer,
        device: &Device,
    ) -> Result<Letters, ConfigError> {
        Ok(Letters {
            embedding: Embedding::init(count, LETTER, random, device)?,
            recurrent: RecurrentConfig::new(Cell::Lstm, LETTER, hidden)
                .with_direction(Direction::Both)
                .with_init(Init::default())
                .init_with(random, device)?,
        })
    }

    /// A vector a word, `[words, 2 H]`: what both directions end with.
    fn forward(&self, words: &[Vec<u32>]) -> Tensor<2> {
        let lengths: Vec<usize> = words.iter().map(Vec::len).collect();
        let time = lengths.iter().copied().max().unwrap_or(0);
        let batch = Batch::ragged(&lengths, time).expect("no word is longer than the longest");
        let ids: Vec<u32> = batch.places().map(|(word, letter)| words[word][letter]).collect();
        let (rows, index) = self.embedding.distinct(&ids);
        let shared = SharedRows::new(rows, index, Arc::new(batch)).expect("one letter a frame");
        let (_, state) = self.recurrent.forward_shared(shared, None);
        Tensor::cat(state.layers.into_iter().map(|layer| layer.h).collect(), 1)
    }
}

/// Turns an image into a vector.
#[derive(Module, Debug)]
struct Images {
    convolution: Convolution,
    dense: Dense,
}

impl Images {
    fn init(
        config: ConvolutionConfig,
        embedding: usize,
        random: &mut Initializer,
        device: &Device,
    ) -> Result<Images, ConfigError> {
        let dense = DenseConfig::single(config.output().iter().product(), embedding, DenseActivation::Relu);
        Ok(Images { convolution: config.init(random, device)?, dense: dense.init(random, device)? })
    }

    /// `[N, C · height · width]` to `[N, E]`.
    fn forward(&self, images: Tensor<2>) -> Tensor<2> {
        self.dense.forward(self.convolution.forward(images).flatten(1, 3), None)
    }
}

/// A net that labels every step.
#[derive(Module, Debug)]
pub struct Tagger {
    words: Option<Embedding>,
    letters: Option<Letters>,
    images: Option<Images>,
    reader: Reader,
    dense: Option<Dense>,
    output: Output,
    crf: Option<Crf>,
    pool: Pool,
    intent: Option<Output>,
    #[module(skip)]
    drop: f64,
    #[module(skip)]
    drop_words: f64,
    /// Values of a step of numbers, or of an image.
    #[module(skip)]
    width: usize,
}

/// What a tagger makes of the frames of a batch, `[F, H]`.
struct Hidden {
    raw: Tensor<2>,
    /// After dropout.
    read: Tensor<2>,
    state: Option<State>,
}

/// What a tagger says about a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Tagged {
    /// The likeliest tag of every frame, in packed order; with a conditional random field those of the likeliest
    /// sequence.
    pub tags: Vec<u32>,
    /// The probability of every tag at every frame, `[F, K]`.
    pub probabilities: Vec<f32>,
    /// The probability of every class of every sequence, `[B, C]`; empty without a second head.
    pub intents: Vec<f32>,
}

impl Tagger {
    /// What every frame has before dropout and after it, as the output layers read it, and the state that the
    /// recurrence leaves.
    fn hidden(
        &self,
        steps: TagSteps<'_>,
        batch: &Arc<Batch>,
        state: Option<State>,
        noise: Option<Noise>,
    ) -> Hidden {
        let device = self.output.weight.device();
        let Reading { frames, state, .. } = match (steps, &self.words) {
            (TagSteps::Numbers(values), None) if let Some(images) = &self.images => {
                let frames = batch.frames();
                let x = TensorData::new(values.to_vec(), [frames, values.len() / frames.max(1)]);
                let x = images.forward(Tensor::from_data(x, &device));
                self.reader.forward_frames(x, batch, state, noise)
            }
            (TagSteps::Numbers(values), None) => {
                self.reader.forward(Steps::Numbers(values), batch, state, noise, &device)
            }
            (TagSteps::Words(words), Some(embedding)) => {
                assert_eq!(words.index.len(), batch.frames(), "one word a frame");
                let mask = noise.and_then(|noise| noise.mask(Purpose::Words, 0, self.drop_words));
                let rows = masked(embedding.forward(&words.ids), mask, Sharing::Whole(words.ids.clone()));
                let rows = match &self.letters {
                    Some(letters) if !words.ids.is_empty() => {
                        Tensor::cat(vec![rows, letters.forward(&words.letters)], 1)
                    }
                    _ => rows,
                };
                self.reader.forward_rows(rows, words.index.clone(), batch, state, noise)
            }
            _ => panic!("a tagger of words reads words, a tagger of numbers reads numbers"),
        };
        let raw = self.dense.as_ref().map_or(frames.clone(), |dense| dense.forward(frames, noise));
        let mask = noise.and_then(|noise| noise.mask(Purpose::Output, 0, self.drop));
        let read = masked(raw.clone(), mask, self.reader.sharing(batch));
        Hidden { raw, read, state }
    }

    /// The mean cross-entropy (or negative log-likelihood) a tag in nats, and with a second head that of the
    /// classes added to it, `[1]`. [`IGNORE`] stands for a step that does not count. With `noise` the model learns.
    ///
    /// # Panics
    /// When there is not one tag a frame, none counts, or the classes are not as many as the sequences.
    #[must_use]
    pub fn loss(
        &self,
        steps: TagSteps<'_>,
        batch: &Arc<Batch>,
        tags: &[u32],
        intents: &[u32],
        noise: Option<Noise>,
    ) -> Tensor<1> {
        self.learn(steps, batch, tags, intents, noise).loss
    }

    /// [`loss`](Tagger::loss) with what can have a price beside it: what the output layers read.
    ///
    /// # Panics
    /// As [`loss`](Tagger::loss).
    #[must_use]
    pub fn learn(
        &self,
        steps: TagSteps<'_>,
        batch: &Arc<Batch>,
        tags: &[u32],
        intents: &[u32],
        noise: Option<Noise>,
    ) -> Learned {
        let Hidden { raw, read, .. } = self.hidden(steps, batch, None, noise);
        let mut loss = match &self.crf {
            Some(crf) => crf.loss(self.output.logits(read.clone()), batch, tags),
            None => self.output.cross_entropy(read.clone(), tags),
        };
        if let Some(intent) = &self.intent {
            loss = loss + intent.cross_entropy(self.pool.forward(read.clone(), batch, || None), intents);
        }
        Learned { loss, raw, dropped: read }
    }

    /// [`learn`](Tagger::learn) for one window of longer sequences, without a second head, and the state to begin
    /// the next window with: its values go on, the gradient does not (truncated backpropagation through time). A
    /// window in which no tag counts has loss 0.
    ///
    /// # Panics
    /// When there is not one tag a frame, no frame at all, or the tagger has a conditional random field, which sees
    /// whole sequences.
    #[must_use]
    pub fn learn_window(
        &self,
        steps: TagSteps<'_>,
        batch: &Arc<Batch>,
        tags: &[u32],
        state: Option<State>,
        noise: Option<Noise>,
    ) -> (Learned, Option<State>) {
        assert!(self.crf.is_none(), "a conditional random field sees whole sequences");
        let Hidden { raw, read, state } = self.hidden(steps, batch, state, noise);
        let loss = match tags.iter().any(|&tag| tag != IGNORE) {
            true => self.output.cross_entropy(read.clone(), tags),
            false => read.clone().sum() * 0.0,
        };
        (Learned { loss, raw, dropped: read }, state.map(|state| state.detach()))
    }

    /// For answering step by step as numbers come; `None` where an answer needs what follows: in a net that walks
    /// backward, or with a conditional random field.
    #[must_use]
    pub fn stepper(&self) -> Option<TagStepper> {
        let recurrent = match self.reader.directions() {
            0 => None,
            _ => Some(self.reader.stepper(1)?),
        };
        let reads_alone = self.words.is_none() && self.crf.is_none();
        reads_alone.then(|| TagStepper { model: self.clone(), recurrent })
    }

    /// Tags a batch.
    ///
    /// # Panics
    /// When there is not one step a frame.
    #[must_use]
    pub fn tag(&self, steps: TagSteps<'_>, batch: &Arc<Batch>) -> Tagged {
        if batch.frames() == 0 && self.intent.is_none() {
            return Tagged { tags: Vec::new(), probabilities: Vec::new(), intents: Vec::new() };
        }
        let Hidden { read: hidden, .. } = self.hidden(steps, batch, None, None);
        let logits = self.output.logits(hidden.clone());
        let count = logits.dims()[1];
        let (tags, probabilities) = match &self.crf {
            Some(crf) => {
                let own = crf.scores();
                with_slice(&logits, |scores| (own.decode(scores, batch), own.marginals(scores, batch)))
            }
            None => {
                let probabilities = with_slice(&activation::softmax(logits, 1), <[f32]>::to_vec);
                let best = |row: &[f32]| {
                    (0..count).fold(0, |best, tag| if row[tag] > row[best] { tag } else { best })
                };
                (probabilities.chunks_exact(count).map(|row| best(row) as u32).collect(), probabilities)
            }
        };
        let intents = self.intent.as_ref().map(|intent| {
            let logits = intent.logits(self.pool.forward(hidden, batch, || None));
            with_slice(&activation::softmax(logits, 1), <[f32]>::to_vec)
        });
        Tagged { tags, probabilities, intents: intents.unwrap_or_default() }
    }

    /// The loss of the tags alone, summed, and how many of them are right.
    ///
    /// # Panics
    /// As [`loss`](Tagger::loss), but no tag need count.
    #[must_use]
    pub fn measure(&self, steps: TagSteps<'_>, batch: &Arc<Batch>, tags: &[u32]) -> Loss {
        let Hidden { read: hidden, .. } = self.hidden(steps, batch, None, None);
        let Some(crf) = &self.crf else { return self.output.evaluate(&hidden, tags) };
        let own = crf.scores();
        with_slice(&self.output.logits(hidden), |scores| {
            let found = own.decode(scores, batch);
            let counted = found.iter().zip(tags).filter(|(_, wanted)| **wanted != IGNORE);
            Loss {
                nats: own.nats(scores, batch, tags),
                count: counted.clone().count(),
                correct: counted.filter(|(found, wanted)| found == wanted).count(),
            }
        })
    }

    /// What reads the steps.
    #[must_use]
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// The output layer of the tags.
    #[must_use]
    pub fn output(&self) -> &Output {
        &self.output
    }
}

/// Reads one sequence step by step.
pub struct TagStepper {
    model: Tagger,
    /// `None` where every step is read alone.
    recurrent: Option<Stepper>,
}

impl TagStepper {
    /// The probability of every tag after one more step, `[K]`.
    ///
    /// # Errors
    /// [`ShapeError`] when the step has another number of values than the model reads.
    pub fn step(&mut self, step: &[f32]) -> Result<Vec<f32>, ShapeError> {
        let device = self.model.output.weight.device();
        let (found, expected) = (step.len(), self.model.width);
        if found != expected {
            return Err(ShapeError::Elements { what: "the step", found, expected });
        }
        let mut step = step.to_vec();
        if let Some(images) = &self.model.images {
            let image = Tensor::from_data(TensorData::new(step, [1, expected]), &device);
            step = with_slice(&images.forward(image), <[f32]>::to_vec);
        }
        let hidden = match &mut self.recurrent {
            Some(stepper) => stepper.step(&step)?.to_vec(),
            None => step,
        };
        let width = hidden.len();
        let hidden = Tensor::<2>::from_data(TensorData::new(hidden, [1, width]), &device);
        let hidden = self.model.dense.as_ref().map_or(hidden.clone(), |dense| dense.forward(hidden, None));
        let scores = self.model.output.logits(hidden);
        Ok(with_slice(&activation::softmax(scores, 1), <[f32]>::to_vec))
    }

    /// Begins with another sequence.
    pub fn reset(&mut self) {
        self.recurrent.iter_mut().for_each(Stepper::reset);
    }
}

parts! {
    /// `words.weight`, `letters.…`, `images.…`, `recurrent.…`, `dense.…`, `output.…`, `crf.…`, `intent.…`, as far as there
    /// are.
    Tagger { "words": words, "letters": letters, "images": images, "": reader, "dense": dense, "output": output, "crf": crf, "intent": intent }
}

parts! { Letters { "embedding": embedding, "recurrent": recurrent } }

parts! { Images { "": convolution, "dense": dense } }
