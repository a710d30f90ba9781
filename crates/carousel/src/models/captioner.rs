//! One to many: an image, or features of one, and a decoder that writes a sentence about it (Vinyals et al. 2015), with
//! soft attention over the grid of places where wanted (Xu et al. 2015).
//!
//! Shapes: B subjects, S places of a subject, E values of a place, F frames of all sentences, V tokens, H units.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};

use crate::cell::{Cell, CellOptions};
use crate::config_error::ConfigError;
use crate::embedding::Embedding;
use crate::init::{Init, Initializer};
use crate::models::attention::Score;
use crate::models::convolution::{Convolution, ConvolutionConfig};
use crate::models::decoder::{Decoder, DecoderConfig, Encoded, Hidden, state_widths};
use crate::models::dense::{Dense, DenseActivation, DenseConfig};
use crate::models::language_model::Regularize;
use crate::models::pool::{Pool, Pooling};
use crate::models::reader::Reader;
use crate::models::writer::Writer;
use crate::output::{Loss, Output};
use crate::parameters::parts;
use crate::ragged::{Batch, Ragged};
use crate::recurrent::{Precision, RecurrentConfig};
use crate::regularize::Noise;
use crate::state::{LayerState, State};

/// What is written about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaptionInput {
    /// Places of so many numbers each; a vector is one place.
    Features(usize),
    /// An image, and what reads it: each place of its grid is what the last convolution makes of it.
    Image(ConvolutionConfig),
}

/// How the decoder is told of its subject: of `v`, the mean over the places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Its first state is `tanh(W v + b)`, hidden values and cells of each layer with weights of their own.
    State,
    /// It reads `tanh(W v + b)` before the first token (Vinyals et al. 2015).
    Input,
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
    /// What the cells have beside their equations.
    pub options: CellOptions,
    /// `H`.
    pub hidden: usize,
    /// Layers of the decoder.
    pub layers: usize,
    /// How the decoder is told of its subject.
    pub told: Told,
    /// How the decoder looks at the places; `None`: it knows what it was told alone.
    pub attention: Option<Score>,
    /// Whether each layer but the first adds what it reads to what it gives.
    pub residual: bool,
    /// Whether the embedding is the output layer's weight as well.
    pub tied: bool,
    /// How weights are drawn.
    pub init: Init,
    /// What drops out while the model learns.
    pub regularize: Regularize,
    /// The seed all weights are drawn from.
    pub seed: u64,
}

impl CaptionerConfig {
    /// One layer that is told in its first state and looks with additive attention; nothing drops out.
    #[must_use]
    pub fn new(input: CaptionInput, vocabulary: usize, cell: Cell, embedding: usize, hidden: usize) -> Self {
        CaptionerConfig {
            input,
            vocabulary,
            embedding,
            cell,
            options: CellOptions::PLAIN,
            hidden,
            layers: 1,
            told: Told::State,
            attention: Some(Score::Additive),
            residual: false,
            tied: false,
            init: Init::default(),
            regularize: Regularize::default(),
            seed: 0,
        }
    }

    /// Makes the model. On an [autodiff device](Device::autodiff) its parameters ask for gradients.
    ///
    /// # Errors
    /// [`ConfigError`] when a size is zero, the weights cannot be drawn so, or two widths that must be equal are not.
    pub fn init(&self, device: &Device) -> Result<Captioner, ConfigError> {
        self.init_with(&mut Initializer::new(self.seed), device)
    }

    /// Makes the model with the next values of an initializer, in place of the configuration's own seed.
    ///
    /// # Errors
    /// As [`init`](CaptionerConfig::init).
    pub fn init_with(&self, random: &mut Initializer, device: &Device) -> Result<Captioner, ConfigError> {
        let CaptionerConfig { hidden, embedding, layers, regularize, .. } = *self;
        regularize.check()?;
        let (convolution, values) = match self.input {
            CaptionInput::Features(width) => (None, width),
            CaptionInput::Image(config) => (Some(config.init(random, device)?), config.output()[0]),
        };
        let widths = match self.told {
            Told::State => state_widths(self.cell, self.options, hidden, layers),
            Told::Input => vec![embedding],
        };
        let start = |width| DenseConfig::single(values, width, DenseActivation::Tanh).init(random, device);
        let start = widths.into_iter().map(start).collect::<Result<Vec<_>, _>>()?;
        let target = Embedding::init(self.vocabulary, embedding, random, device)?;
        let recurrent = RecurrentConfig::new(self.cell, embedding, hidden)
            .with_layers(layers)
            .with_init(self.init)
            .with_dropout(regularize.recurrent)
            .with_residual(self.residual)
            .with_options(self.options)
            .init_with(random, device)?;
        let config = DecoderConfig {
            attention: self.attention,
            states: values,
            feeds: false,
            tied: self.tied,
            regularize,
        };
        let locked = regularize.recurrent.locked;
        let recurrent = Reader::around(recurrent, embedding, 1, regularize.input, locked);
        let mut model = Captioner {
            convolution,
            pool: Pool::init(Pooling::Mean, values, random, device),
            start,
            decoder: Decoder::around(target, recurrent, &config, random, device)?,
            told: self.told,
            layers,
            width: values,
        };
        self.init.redraw(&mut model, random);
        Ok(model)
    }
}

/// What sentences are written about, one after the other.
#[derive(Clone, Copy, Debug)]
pub enum Subjects<'a> {
    /// Images `[channels, height, width]`, so many of them.
    Images(&'a [f32], usize),
    /// Features `[S, E]` of so many places each.
    Features(&'a [f32], &'a [usize]),
}

impl Subjects<'_> {
    /// `B`.
    #[must_use]
    pub fn count(&self) -> usize {
        match self {
            Subjects::Images(_, count) => *count,
            Subjects::Features(_, places) => places.len(),
        }
    }
}

/// An encoder of images or features, and a decoder.
#[derive(Module, Debug)]
pub struct Captioner {
    convolution: Option<Convolution>,
    pool: Pool,
    /// Hidden values and, for an LSTM, cells of layer 0, then of layer 1, …; or what is read before the first token.
    start: Vec<Dense>,
    decoder: Decoder,
    #[module(skip)]
    told: Told,
    #[module(skip)]
    layers: usize,
    /// Values of a place.
    #[module(skip)]
    width: usize,
}

impl Captioner {
    /// What the decoder is given of its subjects.
    ///
    /// # Panics
    /// When there is none, or they are of another kind or size than the model's.
    #[must_use]
    pub fn encode(&self, subjects: Subjects<'_>) -> Encoded {
        self.encode_noisy(subjects, None)
    }

    fn encode_noisy(&self, subjects: Subjects<'_>, noise: Option<Noise>) -> Encoded {
        let device = self.decoder.target.weight.device();
        let count = subjects.count();
        let states = match (subjects, &self.convolution) {
            (Subjects::Images(pixels, count), Some(convolution)) => {
                let x = TensorData::new(pixels.to_vec(), [count, pixels.len() / count]);
                // [B, C, height, width] to [B, S, C].
                let grid = convolution.forward(Tensor::from_data(x, &device));
                let grid = grid.flatten::<3>(2, 3).swap_dims(1, 2);
                let places = grid.dims()[1];
                Ragged::from_padded(grid, &vec![places; count]).expect("every place is there")
            }
            (Subjects::Features(values, places), None) => {
                let time = places.iter().copied().max().unwrap_or(0);
                let batch = Batch::ragged(places, time).expect("no length is above the longest");
                let firsts = places.iter().scan(0, |next, places| {
                    let first = *next;
                    *next += places;
                    Some(first)
                });
                let (firsts, width): (Vec<usize>, usize) = (firsts.collect(), self.width);
                let packed: Vec<f32> = batch
                    .places()
                    .flat_map(|(subject, place)| &values[(firsts[subject] + place) * width..][..width])
                    .copied()
                    .collect();
                let frames = Tensor::from_data(TensorData::new(packed, [batch.frames(), width]), &device);
                Ragged::new(frames, Arc::new(batch)).expect("one row a place")
            }
            _ => panic!("a captioner of images reads images, one of features reads features"),
        };
        let mean = self.pool.forward(states.frames(), states.batch(), || None);
        let state = match self.told {
            Told::State => {
                let mut parts = self.start.chunks_exact(self.start.len() / self.layers);
                let mut layer = || {
                    let mut parts =
                        parts.next().into_iter().flatten().map(|part| part.forward(mean.clone(), None));
                    let h = parts.next().expect("a recurrence has hidden values");
                    LayerState { h, c: parts.next() }
                };
                State::of((0..self.layers).map(|_| layer()).collect())
            }
            Told::Input => {
                let (read, batch) = (self.start[0].forward(mean, None), Arc::new(Batch::full(count, 1)));
                let reading = self.decoder.recurrent.forward_frames(read, &batch, None, noise);
                reading.state.expect("a decoder has a recurrence, and there is a subject")
            }
        };
        Encoded { states, state }
    }

    /// The mean cross-entropy of the sentences' tokens in nats, `[1]`: of each subject the decoder reads `inputs` and
    /// is to say `targets`, which belong to the same frames of `batch` (teacher forcing). With `noise` the model
    /// learns, and values drop out.
    ///
    /// # Panics
    /// When there is not one subject a sentence, not one input and target a frame, or a token is not known.
    #[must_use]
    pub fn loss(
        &self,
        subjects: Subjects<'_>,
        inputs: &[u32],
        targets: &[u32],
        batch: &Arc<Batch>,
        noise: Option<Noise>,
    ) -> Tensor<1> {
        self.output().cross_entropy(self.hidden(subjects, inputs, batch, noise).read, targets)
    }

    /// The loss summed over the targets, and how many of them have the highest score, without a gradient.
    ///
    /// # Panics
    /// As [`loss`](Captioner::loss).
    #[must_use]
    pub fn measure(
        &self,
        subjects: Subjects<'_>,
        inputs: &[u32],
        targets: &[u32],
        batch: &Arc<Batch>,
    ) -> Loss {
        let model = self.valid();
        model.output().evaluate(&model.hidden(subjects, inputs, batch, None).read, targets)
    }

    /// What the decoder makes of every step of the sentences. [`output`](Captioner::output) makes scores and the loss
    /// of it.
    ///
    /// # Panics
    /// As [`loss`](Captioner::loss).
    #[must_use]
    pub fn hidden(
        &self,
        subjects: Subjects<'_>,
        inputs: &[u32],
        batch: &Arc<Batch>,
        noise: Option<Noise>,
    ) -> Hidden {
        assert_eq!(subjects.count(), batch.sequences(), "a subject for every sentence");
        let encoded = self.encode_noisy(subjects, noise.map(|noise| noise.part(0)));
        self.decoder.forward(inputs, batch, encoded, noise.map(|noise| noise.part(1)))
    }

    /// For writing one token at a time about what was seen, a row for every subject. The model is one without
    /// gradients.
    #[must_use]
    pub fn writer(&self, encoded: &Encoded) -> Writer<'_> {
        Writer::new(&self.decoder, encoded)
    }

    /// Chooses what the recurrent layers multiply; see
    /// [`Recurrent::with_precision`](crate::recurrent::Recurrent::with_precision).
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Captioner {
        Captioner { decoder: self.decoder.with_precision(precision), ..self }
    }

    /// The output layer, with the embedding's weight where that is tied.
    #[must_use]
    pub fn output(&self) -> Output {
        self.decoder.output()
    }
}

parts! {
    /// `convolution.…`, `start.0.…`, `target.weight`, `decoder.recurrent.…`, `attention.…`, `combine.…`, `output.…`, as
    /// far as there are.
    Captioner { "convolution": convolution, "start": start, "": decoder }
}
