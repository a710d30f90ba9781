//! Sequence to sequence: an encoder reads a sentence, a decoder writes another (Sutskever et al. 2014; Bahdanau et
//! al. 2015; Luong et al. 2015).
//!
//! Attention stands behind the recurrence, so that a teacher-forced pass is one call of the decoder's stack over all
//! targets.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::cell::{Cell, CellOptions};
use crate::config_error::ConfigError;
use crate::embedding::Embedding;
use crate::init::{Init, Initializer};
use crate::models::attention::Score;
use crate::models::decoder::{Decoder, DecoderConfig, Encoded, Hidden, state_widths};
use crate::models::dense::{Dense, DenseActivation, DenseConfig};
use crate::models::language_model::Regularize;
use crate::models::reader::Reader;
use crate::models::writer::Writer;
use crate::output::{Loss, Output};
use crate::parameters::parts;
use crate::ragged::{Batch, Ragged};
use crate::recurrent::{Direction, Merge, Precision, RecurrentConfig};
use crate::regularize::Noise;
use crate::state::{LayerState, State};

/// How the decoder's first state comes from the encoder's last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bridge {
    /// `tanh(W h + b)` of each layer, both directions side by side; the cells of an LSTM with weights of their own.
    Dense,
    /// As it is; of two directions the sum.
    Copy,
    /// The decoder starts from zero and has attention alone.
    Zero,
}

/// Sizes of a [`Translator`].
#[derive(Clone, Debug)]
pub struct TranslatorConfig {
    /// Tokens of the source.
    pub source_vocabulary: usize,
    /// `V`, tokens of the target.
    pub target_vocabulary: usize,
    /// Values of a token's vector.
    pub embedding: usize,
    /// The recurrence of both sides.
    pub cell: Cell,
    /// What the cells have beside their equations.
    pub options: CellOptions,
    /// `H`.
    pub hidden: usize,
    /// Layers of each side.
    pub layers: usize,
    /// Which ways the encoder walks.
    pub direction: Direction,
    /// What becomes of its outputs in two directions; `None`: they are added where attention needs equal widths, and
    /// stand beside each other elsewhere.
    pub merge: Option<Merge>,
    /// Whether each layer but the first adds what it reads to what it gives.
    pub residual: bool,
    /// `None`: all that the decoder knows of the source is its first state.
    pub attention: Option<Score>,
    /// Whether a step also reads what the output layer read at the one before, so that it knows where the model has
    /// looked (input feeding, Luong et al. 2015). Learning then walks step by step and is slower.
    pub feeds: bool,
    /// How the decoder starts.
    pub bridge: Bridge,
    /// Whether the target's embedding is the output layer's weight as well.
    pub tied: bool,
    /// Whether source and target have one embedding; then they have one vocabulary.
    pub shared: bool,
    /// How weights are drawn, and what the encoder begins from.
    pub init: Init,
    /// What drops out while the model learns.
    pub regularize: Regularize,
    /// The seed all weights are drawn from.
    pub seed: u64,
}

impl TranslatorConfig {
    /// One layer on each side, a bidirectional encoder, general attention with scaled scores; nothing drops out.
    #[must_use]
    pub fn new(cell: Cell, vocabularies: [usize; 2], embedding: usize, hidden: usize) -> TranslatorConfig {
        TranslatorConfig {
            source_vocabulary: vocabularies[0],
            target_vocabulary: vocabularies[1],
            embedding,
            cell,
            options: CellOptions::PLAIN,
            hidden,
            layers: 1,
            direction: Direction::Both,
            merge: None,
            residual: false,
            attention: Some(Score::ScaledGeneral),
            feeds: false,
            bridge: Bridge::Dense,
            tied: false,
            shared: false,
            init: Init::default(),
            regularize: Regularize::default(),
            seed: 0,
        }
    }

    /// Makes the model. On an [autodiff device](Device::autodiff) its parameters ask for gradients.
    ///
    /// # Errors
    /// [`ConfigError`] when a size is zero, the weights cannot be drawn so, a tied embedding has another width than
    /// the hidden values, or attention needs states of another width.
    pub fn init(&self, device: &Device) -> Result<Translator, ConfigError> {
        self.init_with(&mut Initializer::new(self.seed), device)
    }

    /// Makes the model with the next values of an initializer, in place of the configuration's own seed.
    ///
    /// # Errors
    /// As [`init`](TranslatorConfig::init).
    pub fn init_with(&self, random: &mut Initializer, device: &Device) -> Result<Translator, ConfigError> {
        let regularize = self.regularize;
        regularize.check()?;
        let equal = self.attention.is_some_and(Score::needs_equal_widths);
        let merge = self.merge.unwrap_or(if equal { Merge::Sum } else { Merge::Concat });
        let stack = |input| {
            RecurrentConfig::new(self.cell, input, self.hidden)
                .with_layers(self.layers)
                .with_init(self.init)
                .with_dropout(regularize.recurrent)
                .with_residual(self.residual)
                .with_options(self.options)
        };
        let directions = if self.direction == Direction::Both { 2 } else { 1 };
        let reader = |recurrent, input, directions| {
            Reader::around(recurrent, input, directions, regularize.input, regularize.recurrent.locked)
        };
        let source = (!self.shared)
            .then(|| Embedding::init(self.source_vocabulary, self.embedding, random, device))
            .transpose()?;
        let target = Embedding::init(self.target_vocabulary, self.embedding, random, device)?;
        let fed = if self.feeds { self.options.values(self.hidden) } else { 0 };
        let (words, reads) = (self.embedding, self.embedding + fed);
        let encoder = stack(words).with_direction(self.direction).with_merge(merge);
        let encoder = encoder.init_with(random, device)?;
        let encoder = reader(encoder, words, directions);
        // It begins from what the encoder ends with.
        let decoder = stack(reads).with_learned_state(false).init_with(random, device)?;
        let decoder = reader(decoder, reads, 1);
        let widths = match self.bridge {
            Bridge::Dense => state_widths(self.cell, self.options, self.hidden, self.layers),
            Bridge::Copy | Bridge::Zero => Vec::new(),
        };
        let bridge = |width| DenseConfig::single(directions * width, width, DenseActivation::Tanh);
        let bridges = widths.into_iter().map(|width| bridge(width).init(random, device));
        let bridges = bridges.collect::<Result<Vec<_>, _>>()?;
        let config = DecoderConfig {
            attention: self.attention,
            states: encoder.output_width(),
            feeds: self.feeds,
            tied: self.tied,
            regularize,
        };
        let mut model = Translator {
            source,
            encoder,
            bridges,
            decoder: Decoder::around(target, decoder, &config, random, device)?,
            bridge: self.bridge,
            has_cells: self.cell.has_cell_state(),
            layers: self.layers,
        };
        self.init.redraw(&mut model, random);
        Ok(model)
    }
}

/// Sentences of a batch in packed order.
#[derive(Clone, Debug)]
pub struct Sentences {
    /// Token ids, one a frame.
    pub ids: Vec<u32>,
    /// Lengths and order.
    pub batch: Arc<Batch>,
}

impl Sentences {
    /// Packs sentences.
    #[must_use]
    pub fn pack(sentences: &[&[u32]]) -> Sentences {
        let lengths: Vec<usize> = sentences.iter().map(|sentence| sentence.len()).collect();
        let time = lengths.iter().copied().max().unwrap_or(0);
        let batch = Batch::ragged(&lengths, time).expect("no length is above the longest");
        let ids = batch.places().map(|(sentence, step)| sentences[sentence][step]).collect();
        Sentences { ids, batch: Arc::new(batch) }
    }
}

/// An encoder and a decoder.
#[derive(Module, Debug)]
pub struct Translator {
    /// `None`: the target's serves both.
    source: Option<Embedding>,
    encoder: Reader,
    /// Hidden values and, for an LSTM, cells of layer 0, then of layer 1, …
    bridges: Vec<Dense>,
    decoder: Decoder,
    #[module(skip)]
    bridge: Bridge,
    #[module(skip)]
    has_cells: bool,
    #[module(skip)]
    layers: usize,
}

impl Translator {
    /// The mean cross-entropy of the targets' tokens in nats, `[1]`. The decoder reads `inputs` and is to say
    /// `targets`, which belong to the same frames of `batch`. With `noise` the model learns, and values drop out.
    ///
    /// # Panics
    /// When there are not as many sources as targets, not one input and target a frame, or a token is not known.
    #[must_use]
    pub fn loss(
        &self,
        sources: &Sentences,
        inputs: &[u32],
        targets: &[u32],
        batch: &Arc<Batch>,
        noise: Option<Noise>,
    ) -> Tensor<1> {
        self.output().cross_entropy(self.hidden(sources, inputs, batch, noise).read, targets)
    }

    /// The loss summed over the targets, and how many of them have the highest score, without a gradient.
    ///
    /// # Panics
    /// As [`loss`](Translator::loss).
    #[must_use]
    pub fn measure(&self, sources: &Sentences, inputs: &[u32], targets: &[u32], batch: &Arc<Batch>) -> Loss {
        let model = self.valid();
        model.output().evaluate(&model.hidden(sources, inputs, batch, None).read, targets)
    }

    /// What the decoder makes of every step of the targets. [`output`](Translator::output) makes scores and the loss
    /// of it.
    ///
    /// # Panics
    /// As [`loss`](Translator::loss).
    #[must_use]
    pub fn hidden(
        &self,
        sources: &Sentences,
        inputs: &[u32],
        batch: &Arc<Batch>,
        noise: Option<Noise>,
    ) -> Hidden {
        assert_eq!(sources.batch.sequences(), batch.sequences(), "a source for every target");
        let encoded = self.encode_noisy(sources, noise.map(|noise| noise.part(0)));
        self.decoder.forward(inputs, batch, encoded, noise.map(|noise| noise.part(1)))
    }

    /// Chooses what the recurrent layers of both sides multiply; see
    /// [`Recurrent::with_precision`](crate::recurrent::Recurrent::with_precision).
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Translator {
        let (encoder, decoder) =
            (self.encoder.with_precision(precision), self.decoder.with_precision(precision));
        Translator { encoder, decoder, ..self }
    }

    /// Reads sources.
    ///
    /// # Panics
    /// When a token is not known or there is no sentence.
    #[must_use]
    pub fn encode(&self, sources: &Sentences) -> Encoded {
        self.encode_noisy(sources, None)
    }

    fn encode_noisy(&self, sources: &Sentences, noise: Option<Noise>) -> Encoded {
        let Sentences { ids, batch } = sources;
        let table = self.source.as_ref().unwrap_or(&self.decoder.target);
        let (rows, index) = table.distinct_noisy(ids, self.decoder.word_mask(noise));
        let reading = self.encoder.forward_rows(rows, index, batch, None, noise);
        let state = reading.state.expect("an encoder has a recurrence, and sentences are not empty");
        let states = Ragged::new(reading.frames, batch.clone()).expect("one row a frame");
        Encoded { states, state: self.start(&state) }
    }

    /// The decoder's first state.
    fn start(&self, last: &State) -> State {
        let directions = self.encoder.directions();
        let mut bridges = self.bridges.iter();
        let mut cross = |of: &dyn Fn(&LayerState) -> Tensor<2>, layer: usize| {
            let mut entries = last.layers[layer * directions..][..directions].iter().map(of);
            match self.bridge {
                Bridge::Dense => {
                    let bridge = bridges.next().expect("a bridge for every part of the state");
                    bridge.forward(Tensor::cat(entries.collect(), 1), None)
                }
                Bridge::Copy => entries.reduce(|sum, entry| sum + entry).expect("a direction"),
                Bridge::Zero => entries.next().expect("a direction").zeros_like(),
            }
        };
        let layers = (0..self.layers).map(|layer| {
            let h = cross(&|entry| entry.h.clone(), layer);
            let cells = |entry: &LayerState| entry.c.clone().expect("an lstm has cells");
            let c = self.has_cells.then(|| cross(&cells, layer));
            LayerState { h, c }
        });
        State::of(layers.collect())
    }

    /// For writing one token at a time after what was read, a row for every source. The model is one without
    /// gradients.
    #[must_use]
    pub fn writer(&self, encoded: &Encoded) -> Writer<'_> {
        Writer::new(&self.decoder, encoded)
    }

    /// How the decoder goes when some of what it reads is its own: for every frame of `batch` the token that is read.
    /// The first step of a sentence reads `inputs`; later ones do where `keeps` says so, and otherwise what `pick`
    /// takes from the scores of the step before. No gradient flows through that choice, so that a pass over the
    /// tokens returned learns what a pass step by step would.
    ///
    /// # Panics
    /// As [`loss`](Translator::loss).
    #[must_use]
    pub fn read_own(
        &self,
        sources: &Sentences,
        inputs: &[u32],
        batch: &Arc<Batch>,
        keeps: &mut dyn FnMut() -> bool,
        pick: &mut dyn FnMut(&[f32]) -> u32,
    ) -> Vec<u32> {
        let model = self.valid();
        let encoded = model.encode(sources);
        let mut writer = model.writer(&encoded);
        writer.select(batch.order());
        let mut read = inputs.to_vec();
        // What was picked after the last step.
        let mut picked: Vec<u32> = Vec::new();
        for step in 0..batch.steps() {
            let (frames, alive) = (batch.starts()[step], batch.alive(step));
            for (rank, &token) in picked.iter().enumerate() {
                if !keeps() {
                    read[frames + rank] = token;
                }
            }
            if step + 1 == batch.steps() {
                break;
            }
            writer.step(&read[frames..frames + alive]);
            // The longest sentences come first.
            let next = batch.alive(step + 1);
            picked = (0..next).map(|rank| pick(writer.scores(rank))).collect();
            writer.select(&(0..next).collect::<Vec<_>>());
        }
        read
    }

    /// The output layer, with the embedding's weight where that is tied.
    #[must_use]
    pub fn output(&self) -> Output {
        self.decoder.output()
    }
}

parts! {
    /// `source.weight`, `target.weight`, `encoder.recurrent.…`, `decoder.recurrent.…`, `bridge.0.…`, `attention.…`,
    /// `combine.…`, `output.…`, as far as there are.
    Translator { "source": source, "target": decoder.target, "encoder": encoder, "decoder": decoder.recurrent, "bridge": bridges, "attention": decoder.attention, "combine": decoder.combine, "output": decoder.output }
}
