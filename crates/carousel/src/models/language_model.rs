//! Predicts the next token: embedding, recurrent stack, output layer.

use std::sync::Arc;

use burn::backend::flex::FlexTensor;
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use carousel_kernels::{Batch, Linear, ShapeError, loss as kernels};

use crate::cell::CellOptions;
use crate::config_error::ConfigError;
use crate::embedding::Embedding;
use crate::init::{Init, Initializer};
use crate::output::{Loss, Output};
use crate::own_cell::AnyCell;
use crate::parameters::{parameter, parts};
use crate::path::Path;
use crate::ragged::{Ragged, SharedRows};
use crate::record::{Keep, Record};
use crate::recurrent::{NoisySequences, Precision, Recurrent, RecurrentConfig};
use crate::regularize::{Dropout, Purpose, Sharing, check_drop, masked};
use crate::slices::{plain, slice, with_slice};
use crate::state::State;
use crate::stepper::{StepPrecision, Stepper};

/// Sizes of a [`LanguageModel`].
#[derive(Clone, Debug)]
pub struct LanguageModelConfig {
    /// The recurrence.
    pub cell: AnyCell,
    /// What the cells have beside their equations.
    pub options: CellOptions,
    /// `V`.
    pub vocabulary: usize,
    /// `E`, values a token's vector has.
    pub embedding: usize,
    /// `H`.
    pub hidden: usize,
    /// Recurrent layers.
    pub layers: usize,
    /// How weights are drawn. With [`WeightInit::Uniform`](crate::init::WeightInit::Uniform) input weights, embedding
    /// and output layer are drawn so too.
    pub init: Init,
    /// Whether each layer but the first adds what it reads to what it gives.
    pub residual: bool,
    /// Whether the embedding is the output layer's weight as well (Press and Wolf 2017).
    pub tied: bool,
    /// What drops out while the model learns.
    pub regularize: Regularize,
    /// The seed all weights are drawn from.
    pub seed: u64,
}

/// What keeps a [`LanguageModel`] from learning its text by heart. All zero by default.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Regularize {
    /// Probability of a word's whole embedding to drop out, wherever the word stands in a window.
    pub words: f64,
    /// Probability to drop out of what the first layer reads.
    pub input: f64,
    /// In and between the recurrent layers. Its `locked` counts for input and output too.
    pub recurrent: Dropout,
    /// Probability to drop out of what the output layer reads.
    pub output: f64,
    /// The share of each target that is spread over the vocabulary.
    pub label_smoothing: f64,
}

impl Regularize {
    /// Whether all that does not concern the recurrent layers are probabilities.
    ///
    /// # Errors
    /// [`ConfigError::Drop`].
    pub(super) fn check(self) -> Result<(), ConfigError> {
        check_drop("of words", self.words)?;
        check_drop("of inputs", self.input)?;
        check_drop("of outputs", self.output)
    }
}

impl LanguageModelConfig {
    /// Makes the model. On an [autodiff device](Device::autodiff) its parameters ask for gradients.
    ///
    /// # Errors
    /// [`ConfigError`] when a size is zero or the weights cannot be drawn so.
    pub fn init(&self, device: &Device) -> Result<LanguageModel, ConfigError> {
        self.init_with(&mut Initializer::new(self.seed), device)
    }

    /// Makes the model with the next values of an initializer, in place of the configuration's own seed.
    ///
    /// # Errors
    /// As [`init`](LanguageModelConfig::init).
    pub fn init_with(&self, random: &mut Initializer, device: &Device) -> Result<LanguageModel, ConfigError> {
        let (regularize, tied) = (self.regularize, self.tied);
        regularize.check()?;
        // What the output layer reads.
        let values = self.options.values(self.hidden);
        if tied && self.embedding != values {
            return Err(ConfigError::Tied { embedding: self.embedding, hidden: values });
        }
        let mut model = LanguageModel {
            embedding: Embedding::init(self.vocabulary, self.embedding, random, device)?,
            recurrent: RecurrentConfig::new(self.cell, self.embedding, self.hidden)
                .with_layers(self.layers)
                .with_init(self.init)
                .with_dropout(regularize.recurrent)
                .with_residual(self.residual)
                .with_options(self.options)
                .init_with(random, device)?,
            output: Output::init(values, self.vocabulary, random, device)?
                .with_label_smoothing(regularize.label_smoothing),
            tied,
            regularize,
        };
        if tied {
            model.output.tie(&mut model.embedding.weight, random);
        }
        self.init.redraw(&mut model, random);
        Ok(model)
    }
}

/// A recurrent language model.
///
/// Tokens and targets come in the batch's [packed order](carousel_kernels::Layout::Packed).
///
/// ```
/// use std::sync::Arc;
/// use burn::tensor::Device;
/// use carousel::cell::Cell;
/// use carousel::init::Init;
/// use carousel::models::language_model::{LanguageModelConfig, Regularize};
/// use carousel::ragged::Batch;
///
/// let config = LanguageModelConfig {
///     cell: Cell::Lstm.into(), vocabulary: 5, embedding: 4, hidden: 8, layers: 1, init: Init::default(), residual: false,
///     tied: false, options: Default::default(), regularize: Regularize::default(), seed: 0,
/// };
/// let model = config.init(&Device::default().autodiff())?;
/// let batch = Arc::new(Batch::full(2, 3)); // 2 sequences, 3 steps
/// let (inputs, targets) = ([0, 1, 2, 3, 4, 0], [2, 3, 4, 0, 1, 2]);
/// let (loss, state) = model.forward_loss(&inputs, &targets, &batch, None);
/// let gradients = loss.backward();
/// let (next_loss, _) = model.forward_loss(&inputs, &targets, &batch, Some(state));
/// # Ok::<(), carousel::config_error::ConfigError>(())
/// ```
#[derive(Module, Debug)]
pub struct LanguageModel {
    embedding: Embedding,
    recurrent: Recurrent,
    output: Output,
    #[module(skip)]
    tied: bool,
    #[module(skip)]
    regularize: Regularize,
}

/// What a [`LanguageModel`] computes on a window while it learns.
#[derive(Debug)]
pub struct NoisyOutputs {
    /// The last layer's outputs `[F, H]`.
    pub raw: Tensor<2>,
    /// The same after dropout, for [`LanguageModel::loss`].
    pub dropped: Tensor<2>,
    /// The state, with its graph.
    pub state: State,
}

impl LanguageModel {
    /// The mean cross-entropy in nats `[1]`, and the state to carry on from, cut off from this window's graph.
    ///
    /// # Panics
    /// When `inputs` or `targets` are not as many as the batch's frames, a token is not below `V`, no target
    /// counts, or the state does not fit.
    #[must_use]
    pub fn forward_loss(
        &self,
        inputs: &[u32],
        targets: &[u32],
        batch: &Arc<Batch>,
        state: Option<State>,
    ) -> (Tensor<1>, State) {
        let (y, state) = self.hidden(inputs, batch, state);
        (self.loss(y, targets), state.detach())
    }

    /// The mean cross-entropy in nats `[1]` of the last layer's outputs `[F, H]`.
    ///
    /// # Panics
    /// When there is not one target a row, none counts, or one is not below `V`.
    #[must_use]
    pub fn loss(&self, y: Tensor<2>, targets: &[u32]) -> Tensor<1> {
        self.output().cross_entropy(y, targets)
    }

    /// The outputs on a window while learning, with all that drops out. The sequences' `names` decide which share
    /// locked masks.
    ///
    /// # Panics
    /// As [`hidden`](LanguageModel::hidden), and when there is not one name a sequence.
    #[must_use]
    pub fn hidden_noisy(
        &self,
        inputs: &[u32],
        batch: &Arc<Batch>,
        state: Option<State>,
        noisy: NoisySequences<'_>,
    ) -> NoisyOutputs {
        let NoisySequences { noise, names } = noisy;
        let Regularize { words, input, recurrent, output, .. } = self.regularize;
        let sharing = || Sharing::of(recurrent.locked, batch, names);
        let over_steps = noise.over_steps(recurrent.locked);
        let words = noise.mask(Purpose::Words, 0, words);
        let fits = "the inputs are as many as the batch's frames";
        let (y, state) = if input > 0.0 {
            let x = masked(self.embedding.forward(inputs), words, Sharing::Whole(inputs.to_vec()));
            let x = masked(x, over_steps.mask(Purpose::Input, 0, input), sharing());
            let x = Ragged::new(x, batch.clone()).expect(fits);
            self.recurrent.forward_noisy(x, state, Some(noisy))
        } else {
            // What drops out is the same for all frames of a word, so they still share its row.
            let (rows, index) = self.embedding.distinct_noisy(inputs, words);
            let x = SharedRows::new(rows, index, batch.clone()).expect(fits);
            self.recurrent.forward_shared_noisy(x, state, Some(noisy))
        };
        let raw = y.frames();
        let dropped = masked(raw.clone(), over_steps.mask(Purpose::Output, 0, output), sharing());
        NoisyOutputs { raw, dropped, state }
    }

    /// Whether anything drops out while it learns, or is normalised by the statistics of a batch.
    #[must_use]
    pub fn is_noisy(&self) -> bool {
        let Regularize { words, input, recurrent, output, .. } = self.regularize;
        words + input + output > 0.0 || recurrent.is_noisy() || self.recurrent.has_statistics()
    }

    /// Measures the model on a window, without a gradient.
    ///
    /// # Panics
    /// As [`forward_loss`](LanguageModel::forward_loss), but no target need count.
    #[must_use]
    pub fn evaluate(
        &self,
        inputs: &[u32],
        targets: &[u32],
        batch: &Arc<Batch>,
        state: Option<State>,
    ) -> (Loss, State) {
        let model = self.valid();
        let (y, state) = model.hidden(inputs, batch, state);
        (model.output().evaluate(&y, targets), state.detach())
    }

    /// The scores `[F, V]` of the token after each input, and the state.
    ///
    /// # Panics
    /// As [`forward_loss`](LanguageModel::forward_loss).
    #[must_use]
    pub fn logits(&self, inputs: &[u32], batch: &Arc<Batch>, state: Option<State>) -> (Tensor<2>, State) {
        let (y, state) = self.hidden(inputs, batch, state);
        (self.output().logits(y), state)
    }

    /// The top layer's output `[F, H]`, the state, and what the cells had at every step; see
    /// [`Recurrent::forward_recorded`]. Without gradients. [`output`](LanguageModel::output) makes scores of the
    /// first.
    ///
    /// # Panics
    /// As [`forward_loss`](LanguageModel::forward_loss).
    #[must_use]
    pub fn forward_recorded(
        &self,
        inputs: &[u32],
        batch: &Arc<Batch>,
        state: Option<State>,
        keep: &Keep,
    ) -> (Tensor<2>, State, Record) {
        let x = Ragged::new(self.embedding.forward(inputs), batch.clone())
            .unwrap_or_else(|error| panic!("the inputs do not fit the batch: {error}"));
        let (y, state, record) = self.recurrent.forward_recorded(x, state, keep);
        (y.frames(), state, record)
    }

    /// The outputs of the last layer `[F, H]`, and the state, both with their graph.
    ///
    /// # Panics
    /// When `inputs` are not as many as the batch's frames, a token is not below `V`, or the state does not fit.
    #[must_use]
    pub fn hidden(&self, inputs: &[u32], batch: &Arc<Batch>, state: Option<State>) -> (Tensor<2>, State) {
        let (rows, index) = self.embedding.distinct(inputs);
        let x = SharedRows::new(rows, index, batch.clone())
            .unwrap_or_else(|error| panic!("the inputs do not fit the batch: {error}"));
        let (y, state) = self.recurrent.forward_shared(x, state);
        (y.frames(), state)
    }

    /// For reading and making text one token at a time, `batch` texts side by side; `None` when `batch` is 0.
    #[must_use]
    pub fn stepper(&self, batch: usize) -> Option<LanguageModelStepper> {
        self.stepper_with(batch, StepPrecision::F32)
    }

    /// The same with the recurrent weights in `precision`; embedding and output layer stay floats.
    #[must_use]
    pub fn stepper_with(&self, batch: usize, precision: StepPrecision) -> Option<LanguageModelStepper> {
        let [vocabulary, width] = self.embedding.weight.dims();
        Some(LanguageModelStepper {
            recurrent: self.recurrent.stepper_with(batch, precision)?,
            x: vec![0.0; batch * width],
            logits: vec![0.0; batch * vocabulary],
            table: plain(self.embedding.weight.val()),
            width,
            hidden: self.recurrent.output_width(),
            weight: plain(self.output().weight.val()),
            bias: plain(self.output.bias.val()),
            output: None,
        })
    }

    /// The recurrent stack.
    #[must_use]
    pub fn recurrent(&self) -> &Recurrent {
        &self.recurrent
    }

    /// Chooses what the recurrent layers multiply; see [`Recurrent::with_precision`].
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> LanguageModel {
        LanguageModel { recurrent: self.recurrent.with_precision(precision), ..self }
    }

    /// The table of token vectors.
    #[must_use]
    pub fn embedding(&self) -> &Embedding {
        &self.embedding
    }

    /// The output layer, with the embedding's weight where that is tied.
    #[must_use]
    pub fn output(&self) -> Output {
        if self.tied { self.output.sharing(&self.embedding.weight) } else { self.output.clone() }
    }

    /// The same model with a weight of its own in the output layer where that was tied to the embedding.
    #[must_use]
    pub fn untied(&self) -> LanguageModel {
        let mut model = self.clone();
        if model.tied {
            let weight = &self.embedding.weight;
            let [vocabulary, width] = weight.dims();
            let values = with_slice(&weight.val(), <[f32]>::to_vec);
            model.output.weight = parameter(values, [vocabulary, width], &weight.device());
            model.tied = false;
        }
        model
    }

    /// Chooses the implementation of all parts.
    #[must_use]
    pub fn with_path(self, path: Path) -> LanguageModel {
        LanguageModel {
            embedding: self.embedding.with_path(path),
            recurrent: self.recurrent.with_path(path),
            output: self.output.with_path(path),
            ..self
        }
    }
}

parts! {
    /// `embedding.weight`, `recurrent.weight_ih_l0`, …, `output.weight` unless it is tied, `output.bias`.
    LanguageModel { "embedding": embedding, "recurrent": recurrent, "output": output }
}

/// Runs a language model on the CPU one token at a time and keeps its state.
#[derive(Debug)]
pub struct LanguageModelStepper {
    recurrent: Stepper,
    table: FlexTensor,
    width: usize,
    hidden: usize,
    weight: FlexTensor,
    bias: FlexTensor,
    /// The output layer, packed at the first step that asks for scores.
    output: Option<Linear>,
    x: Vec<f32>,
    logits: Vec<f32>,
}

impl LanguageModelStepper {
    /// Reads one token of each text and returns the scores `[B, V]` of the next.
    ///
    /// # Errors
    /// [`ShapeError`] when there is not one token a text, or one is not below `V`.
    pub fn step(&mut self, tokens: &[u32]) -> Result<&[f32], ShapeError> {
        self.read(tokens)?;
        let LanguageModelStepper { weight, bias, hidden, .. } = self;
        let output = self.output.get_or_insert_with(|| {
            Linear::new(slice(weight), Some(slice(bias)), *hidden).expect("the layer's own sizes")
        });
        output.apply(self.recurrent.output(), &mut self.logits)?;
        Ok(&self.logits)
    }

    /// Reads one token of each text and returns what the stack makes of it, `[B, H]`, without the scores.
    ///
    /// # Errors
    /// As [`step`](LanguageModelStepper::step).
    pub fn read(&mut self, tokens: &[u32]) -> Result<&[f32], ShapeError> {
        let expected = self.x.len() / self.width;
        if tokens.len() != expected {
            return Err(ShapeError::Elements { what: "tokens", found: tokens.len(), expected });
        }
        carousel_kernels::embedding::gather(slice(&self.table), self.width, tokens, &mut self.x)?;
        self.recurrent.step(&self.x)
    }

    /// How well rows `h`, `[N, H]`, that [`read`](LanguageModelStepper::read) gave, predict `N` targets. Many
    /// rows at once take less time.
    ///
    /// # Errors
    /// [`ShapeError`] when the rows are not as many as the targets, or a target is not below `V`.
    pub fn loss(&self, h: &[f32], targets: &[u32]) -> Result<Loss, ShapeError> {
        let output = kernels::Output { weight: slice(&self.weight), bias: Some(slice(&self.bias)) };
        kernels::cross_entropy(output, self.hidden, h, targets)
    }

    /// Continues from `state` instead.
    ///
    /// # Errors
    /// [`ShapeError`] when the state's sizes are not the model's.
    pub fn set_state(&mut self, state: &State) -> Result<(), ShapeError> {
        self.recurrent.set_state(state)
    }

    /// Starts one text again from zero.
    ///
    /// # Panics
    /// When there is no such text.
    pub fn reset_text(&mut self, text: usize) {
        self.recurrent.reset_sequence(text);
    }

    /// Starts again from zero.
    pub fn reset(&mut self) {
        self.recurrent.reset();
    }
}
