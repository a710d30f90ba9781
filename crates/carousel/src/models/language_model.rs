//! Predicts the next token: embedding, recurrent stack, output layer.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use carousel_kernels::{Batch, ShapeError, loss as kernels};

use crate::cell::Cell;
use crate::embedding::Embedding;
use crate::fused::with_slice;
use crate::init::Initializer;
use crate::output::{Loss, Output};
use crate::parameters::{NamedParameters, Parameter, ParameterMut};
use crate::ragged::{Ragged, SharedRows};
use crate::record::{Keep, Record};
use crate::recurrent::{ConfigError, Path, Precision, Recurrent, RecurrentConfig};
use crate::state::State;
use crate::stepper::{StepPrecision, Stepper};

/// Sizes of a [`LanguageModel`].
#[derive(Clone, Debug)]
pub struct LanguageModelConfig {
    /// The recurrence.
    pub cell: Cell,
    /// `V`.
    pub vocabulary: usize,
    /// `E`, values a token's vector has.
    pub embedding: usize,
    /// `H`.
    pub hidden: usize,
    /// Recurrent layers.
    pub layers: usize,
    /// What an LSTM's forget gate starts with, see [`RecurrentConfig::with_forget_bias`].
    pub forget_bias: f64,
    /// The seed all weights are drawn from.
    pub seed: u64,
}

impl LanguageModelConfig {
    /// Makes the model. On an [autodiff device](Device::autodiff) its parameters ask for gradients.
    ///
    /// # Errors
    /// [`ConfigError`] when a size is zero or the forget bias is not finite.
    pub fn init(&self, device: &Device) -> Result<LanguageModel, ConfigError> {
        let random = &mut Initializer::new(self.seed);
        Ok(LanguageModel {
            embedding: Embedding::init(self.vocabulary, self.embedding, random, device)?,
            recurrent: RecurrentConfig::new(self.cell, self.embedding, self.hidden)
                .with_layers(self.layers)
                .with_forget_bias(self.forget_bias)
                .init_with(random, device)?,
            output: Output::init(self.hidden, self.vocabulary, random, device)?,
        })
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
/// use carousel::models::language_model::LanguageModelConfig;
/// use carousel::ragged::Batch;
///
/// let config = LanguageModelConfig {
///     cell: Cell::Lstm, vocabulary: 5, embedding: 4, hidden: 8, layers: 1, forget_bias: 1.0, seed: 0,
/// };
/// let model = config.init(&Device::default().autodiff())?;
/// let batch = Arc::new(Batch::full(2, 3)); // 2 sequences, 3 steps
/// let (inputs, targets) = ([0, 1, 2, 3, 4, 0], [2, 3, 4, 0, 1, 2]);
/// let (loss, state) = model.forward_loss(&inputs, &targets, &batch, None);
/// let gradients = loss.backward();
/// let (next_loss, _) = model.forward_loss(&inputs, &targets, &batch, Some(state));
/// # Ok::<(), carousel::recurrent::ConfigError>(())
/// ```
#[derive(Module, Debug)]
pub struct LanguageModel {
    embedding: Embedding,
    recurrent: Recurrent,
    output: Output,
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
        (self.output.cross_entropy(y, targets), state.detach())
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
        (model.output.evaluate(&y, targets), state.detach())
    }

    /// The scores `[F, V]` of the token after each input, and the state.
    ///
    /// # Panics
    /// As [`forward_loss`](LanguageModel::forward_loss).
    #[must_use]
    pub fn logits(&self, inputs: &[u32], batch: &Arc<Batch>, state: Option<State>) -> (Tensor<2>, State) {
        let (y, state) = self.hidden(inputs, batch, state);
        (self.output.logits(y), state)
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

    fn hidden(&self, inputs: &[u32], batch: &Arc<Batch>, state: Option<State>) -> (Tensor<2>, State) {
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
        let table = with_slice(&self.embedding.weight.val(), <[f32]>::to_vec);
        let [vocabulary, width] = self.embedding.weight.dims();
        Some(LanguageModelStepper {
            recurrent: self.recurrent.stepper_with(batch, precision)?,
            x: vec![0.0; batch * width],
            logits: vec![0.0; batch * vocabulary],
            table,
            width,
            hidden: self.recurrent.output_width(),
            weight: with_slice(&self.output.weight.val(), <[f32]>::to_vec),
            bias: with_slice(&self.output.bias.val(), <[f32]>::to_vec),
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

    /// The output layer.
    #[must_use]
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// Chooses the implementation of all parts.
    #[must_use]
    pub fn with_path(self, path: Path) -> LanguageModel {
        LanguageModel {
            embedding: self.embedding.with_path(path),
            recurrent: self.recurrent.with_path(path),
            output: self.output.with_path(path),
        }
    }
}

/// `embedding.weight`, `recurrent.weight_ih_l0`, …, `output.weight`, `output.bias`.
impl NamedParameters for LanguageModel {
    fn parameters(&self) -> Vec<(String, Parameter<'_>)> {
        let mut all = vec![("embedding.weight".to_owned(), Parameter::Matrix(&self.embedding.weight))];
        let recurrent = self.recurrent.parameters().into_iter();
        all.extend(recurrent.map(|(name, parameter)| (format!("recurrent.{name}"), parameter)));
        all.push(("output.weight".to_owned(), Parameter::Matrix(&self.output.weight)));
        all.push(("output.bias".to_owned(), Parameter::Vector(&self.output.bias)));
        all
    }

    fn parameters_mut(&mut self) -> Vec<(String, ParameterMut<'_>)> {
        let mut all = vec![("embedding.weight".to_owned(), ParameterMut::Matrix(&mut self.embedding.weight))];
        let recurrent = self.recurrent.parameters_mut().into_iter();
        all.extend(recurrent.map(|(name, parameter)| (format!("recurrent.{name}"), parameter)));
        all.push(("output.weight".to_owned(), ParameterMut::Matrix(&mut self.output.weight)));
        all.push(("output.bias".to_owned(), ParameterMut::Vector(&mut self.output.bias)));
        all
    }
}

/// Runs a language model on the CPU one token at a time and keeps its state.
#[derive(Debug)]
pub struct LanguageModelStepper {
    recurrent: Stepper,
    table: Vec<f32>,
    width: usize,
    hidden: usize,
    weight: Vec<f32>,
    bias: Vec<f32>,
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
        let output = kernels::Output { weight: &self.weight, bias: Some(&self.bias) };
        kernels::logits(output, self.hidden, self.recurrent.output(), &mut self.logits)?;
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
        carousel_kernels::embedding::gather(&self.table, self.width, tokens, &mut self.x)?;
        self.recurrent.step(&self.x)
    }

    /// How well rows `h`, `[N, H]`, that [`read`](LanguageModelStepper::read) gave, predict `N` targets. Many
    /// rows at once take less time.
    ///
    /// # Errors
    /// [`ShapeError`] when the rows are not as many as the targets, or a target is not below `V`.
    pub fn loss(&self, h: &[f32], targets: &[u32]) -> Result<Loss, ShapeError> {
        let output = kernels::Output { weight: &self.weight, bias: Some(&self.bias) };
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
