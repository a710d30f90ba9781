//! The recipe: everything that decides what an experiment does, as typed values.
//!
//! A recipe comes from a TOML file and from `key=value` overrides. Both go through one register, `KEYS`
//! in `recipe/register.rs`: the parser, the range checks, the error messages, the file that is written
//! into a run and the table in `docs/recipe.md` all follow it. To add a key, add a field with its
//! default, a line in `KEYS` and a row in `docs/recipe.md`; a test compares the two. What several keys
//! must be together is a line in `RULES`.

mod register;

use std::fmt;

use carousel_kernels::{Activation, Cell, CellOptions, GateActivation, Precision, Reset};
use thiserror::Error;
use toml::Value;
use toml::de::{DeTable, DeValue};

use crate::data::{Base, Gaps, MaxLen, NormalForm, PairFormat, SeriesScaling, Tokens, TooLong, Truncation};
use crate::init::{Fan, GateBias, Init, WeightInit};
use crate::metrics::{BleuTokens, edits};
use crate::minimal::{MinGru, MinLstm};
use crate::models::attention::Score;
use crate::models::dense::{DenseActivation, Norm};
use crate::models::language_model::Regularize;
use crate::models::pool::Pooling;
use crate::models::translator::Bridge;
use crate::own_cell::AnyCell;
use crate::recurrent::Direction;
use crate::regularize::Dropout;
use register::{EXCLUSIVE, KEYS, OnlyWith, RULES, find, is_section, keys_of};

/// One whole experiment.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// What the model learns to do.
    pub task: Task,
    /// Where every random choice starts.
    pub seed: u64,
    /// What is read, and how it becomes tokens.
    pub data: DataRecipe,
    /// The network.
    pub model: ModelRecipe,
    /// How it is trained.
    pub train: TrainRecipe,
}

/// The `[data]` section.
#[derive(Clone, Debug, PartialEq)]
pub struct DataRecipe {
    /// Shares of `--data` for training, validation and test, where `--valid` and `--test` are not given.
    pub split: [f64; 3],
    /// Megabytes of text from which on files are not held, but read piece by piece. [`Task::Lm`] only.
    pub memory: usize,
    /// What an example is made of. [`Task::Classify`] and [`Task::Tag`].
    pub input: InputName,
    /// The column of the text. [`Task::Classify`] of text.
    pub text: String,
    /// The column of the class, or of the label of a step. [`Task::Classify`], [`Task::Tag`] of numbers.
    pub label: String,
    /// The column whose equal values stay in one part when data is split.
    pub group: Option<String>,
    /// The column that tells sequences of numbers in one table apart; unset: each file is one.
    pub id: Option<String>,
    /// The column that the steps of a sequence are ordered by; unset: as they stand. [`Task::Tag`] of numbers.
    pub step: Option<String>,
    /// What of a file's name is its class, a pattern with a group; unset: the folder's name.
    pub file_label: Option<String>,
    /// Height and width that images are scaled to. [`InputName::Images`].
    pub image_size: usize,
    /// Whether images have three channels and not one. [`InputName::Images`].
    pub color: bool,
    /// Whether a field of a table may stand in quotes.
    pub quoting: bool,
    /// Longer sequences are cut off after so many steps.
    pub max_length: Option<usize>,
    /// The columns to forecast; unset: all but those of time, series and `features`. [`Task::Forecast`].
    pub targets: Option<Vec<String>>,
    /// Columns that are read too, but not forecast. [`Task::Forecast`].
    pub features: Option<Vec<String>>,
    /// The column of the time; unset: rows are steps in their order. [`Task::Forecast`].
    pub time: Option<String>,
    /// What becomes of missing steps. [`Task::Forecast`].
    pub gaps: Gaps,
    /// Steps that a forecast looks back at. [`Task::Forecast`].
    pub window: usize,
    /// Steps that are forecast. [`Task::Forecast`].
    pub horizon: usize,
    /// Steps after which things come again; 1: none. [`Task::Forecast`].
    pub season: usize,
    /// Steps between two windows. [`Task::Forecast`].
    pub stride: usize,
    /// What values are scaled by. [`Task::Forecast`].
    pub scaling: SeriesScaling,
    /// How pairs stand in files. [`Task::Translate`].
    pub format: PairFormat,
    /// The column of the source, counted from 1. [`Task::Translate`].
    pub source: usize,
    /// The column of the target. [`Task::Translate`].
    pub target: usize,
    /// Whether the phones of a dictionary keep the digits of their stress. [`Task::Translate`].
    pub stress: bool,
    /// Which of Unicode's normal forms text is brought into. [`Task::Translate`].
    pub unicode: NormalForm,
    /// Whether all letters become small. [`Task::Translate`].
    pub lowercase: bool,
    /// What one token is.
    pub tokens: Tokens,
    /// The same for the source alone; unset: as `tokens`. [`Task::Translate`].
    pub source_tokens: Option<Tokens>,
    /// The same for the target alone; unset: as `tokens`. [`Task::Translate`].
    pub target_tokens: Option<Tokens>,
    /// Whether words are cut where letters meet punctuation. [`Task::Translate`].
    pub split_punctuation: bool,
    /// Whether both sides have one vocabulary. [`Task::Translate`].
    pub joint_vocab: bool,
    /// Places of a sentence, its two ends included. [`Task::Translate`].
    pub max_len: MaxLen,
    /// What becomes of longer ones. [`Task::Translate`].
    pub too_long: TooLong,
    /// Whether the source is read backwards. [`Task::Translate`].
    pub reverse_source: bool,
    /// A word seen less often than this in the training part becomes `<unk>`, a pair of tokens is not joined.
    /// Words and byte pairs only.
    pub min_count: usize,
    /// The largest vocabulary, `<unk>` and `<eos>` or the 256 bytes included. Words and byte pairs only.
    pub vocab_size: Option<usize>,
    /// `T`: steps of a sequence ([`Task::Adding`]), or between what is to be remembered and its recall
    /// ([`Task::Copy`]).
    pub length: usize,
    /// Different symbols. [`Task::Copy`] only.
    pub symbols: usize,
    /// Symbols to remember. [`Task::Copy`] only.
    pub memorize: usize,
}

impl DataRecipe {
    /// What a token of the source is, and of the target. [`Task::Translate`].
    #[must_use]
    pub fn side_tokens(&self) -> [Tokens; 2] {
        [self.source_tokens, self.target_tokens].map(|own| own.unwrap_or(self.tokens))
    }
}

/// The `[model]` section.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelRecipe {
    /// The recurrent cell.
    pub cell: CellName,
    /// The vanilla cell's non-linearity. `rnn` only.
    pub activation: Activation,
    /// The gates' non-linearity. `lstm` and `gru` only.
    pub gate_activation: GateActivation,
    /// Where the reset gate acts. `gru` only.
    pub reset: Reset,
    /// Whether i, f and o see `c`. `lstm` only.
    pub peephole: bool,
    /// Recurrent layers on top of each other.
    pub layers: usize,
    /// `H`, units of a layer.
    pub hidden: usize,
    /// Width of a token's embedding.
    pub embedding: usize,
    /// Channels that the first convolution makes. [`InputName::Images`].
    pub filters: usize,
    /// Convolutions. [`InputName::Images`].
    pub convolutions: usize,
    /// Which ways through time. [`Task::Classify`] and [`Task::Tag`].
    pub direction: Direction,
    /// Steps that a label may hang on behind its own. [`Task::Tag`] of numbers only.
    pub lookahead: usize,
    /// How steps become one vector; unset: the last step, the mean without a recurrence. [`Task::Classify`] only.
    pub pooling: Option<Pooling>,
    /// What the decoder looks at the source with. [`Task::Translate`] only.
    pub attention: AttentionName,
    /// Whether the decoder also reads where it looked at the step before. [`Task::Translate`] only.
    pub input_feeding: bool,
    /// How the decoder starts. [`Task::Translate`] only.
    pub bridge: Bridge,
    /// Whether source and target have one embedding. [`Task::Translate`] only.
    pub share_embeddings: bool,
    /// Units of each direction that reads a word letter by letter; unset: words are not read so. [`Task::Tag`] only.
    pub characters: Option<usize>,
    /// Whether tags are decided together. [`Task::Tag`] only.
    pub crf: bool,
    /// What a forecast is added to. [`Task::Forecast`] only.
    pub base: Base,
    /// Levels of the quantiles that are forecast, ascending; unset: one value. [`Task::Forecast`] only.
    pub quantiles: Option<Vec<f64>>,
    /// The non-linearity of feed-forward layers. [`CellName::None`] only.
    pub dense_activation: DenseActivation,
    /// What sums are normalised by, in feed-forward layers and in cells.
    pub norm: Norm,
    /// Whether each layer but the first adds what it reads to what it gives.
    pub residual: bool,
    /// Whether the embedding is the output layer's weight as well.
    pub tie_embeddings: bool,
    /// Probability to drop out between layers.
    pub dropout: f64,
    /// Probability to drop out of what the first layer reads.
    pub input_dropout: f64,
    /// Probability to drop out of what the output layer reads.
    pub output_dropout: f64,
    /// Whether the three above draw one mask for all steps of a sequence.
    pub locked_dropout: bool,
    /// Probability of a word's embedding to drop out.
    pub embedding_dropout: f64,
    /// Probability of a recurrent weight to drop out.
    pub weight_dropout: f64,
    /// Probability to drop out of what the recurrent weights read of `h`.
    pub recurrent_dropout: f64,
    /// Probability of a candidate to drop out of the state's update. [`CellName::Lstm`] and [`CellName::Gru`] only.
    pub update_dropout: f64,
    /// Probability of a unit of `h` to keep its last value.
    pub zoneout: f64,
    /// The same of `c`. [`CellName::Lstm`] only.
    pub zoneout_cell: f64,
    /// How the input weights are drawn, and with [`InitName::Uniform`] every other weight too.
    pub init: InitName,
    /// Half the width of the distribution. [`InitName::Uniform`] only.
    pub init_range: f64,
    /// Factor on the width; unset: see [`WeightInit`].
    pub init_gain: Option<f64>,
    /// What the width follows from. [`InitName::HeUniform`] and [`InitName::HeNormal`] only.
    pub init_fan: Fan,
    /// How the recurrent weights are drawn; unset: as the input weights.
    pub recurrent_init: Option<InitName>,
    /// As `init_gain`, for the recurrent weights. Where `recurrent_init` is set.
    pub recurrent_gain: Option<f64>,
    /// What the forget gate's bias starts from. `lstm` only; not beside `chrono`.
    pub forget_bias: Option<f64>,
    /// The longest time to remember, for chrono initialisation. `lstm` and `gru` only.
    pub chrono: Option<usize>,
}

impl ModelRecipe {
    /// The recurrence with its variant.
    ///
    /// # Panics
    /// When there is none; the tasks that need one refuse `model.cell = "none"`.
    #[must_use]
    pub fn recurrence(&self) -> AnyCell {
        self.recurrence_if_any().expect("a task that needs a recurrence refuses a recipe without one")
    }

    /// The recurrence with its variant, where there is one.
    #[must_use]
    pub fn recurrence_if_any(&self) -> Option<AnyCell> {
        match self.cell {
            CellName::Rnn => Some(Cell::Rnn(self.activation).into()),
            CellName::Lstm => Some(Cell::Lstm.into()),
            CellName::Gru => Some(Cell::Gru(self.reset).into()),
            CellName::MinGru => Some((&MinGru).into()),
            CellName::MinLstm => Some((&MinLstm).into()),
            CellName::None => None,
        }
    }

    /// What the cells have beside their equations.
    #[must_use]
    pub fn options(&self) -> CellOptions {
        let gate = match self.cell {
            CellName::Lstm | CellName::Gru => self.gate_activation,
            CellName::Rnn | CellName::MinGru | CellName::MinLstm | CellName::None => GateActivation::Sigmoid,
        };
        let peephole = self.peephole && self.cell == CellName::Lstm;
        CellOptions { norm: self.norm == Norm::Layer, peephole, gate }
    }

    /// How the recurrent stack's weights are drawn.
    #[must_use]
    pub fn init(&self) -> Init {
        let input = self.weight_init(self.init, self.init_gain);
        let recurrent = match self.recurrent_init {
            Some(name) => self.weight_init(name, self.recurrent_gain),
            None => input,
        };
        let gates = match (self.chrono, self.forget_bias) {
            (Some(longest), _) if matches!(self.cell, CellName::Lstm | CellName::Gru) => {
                GateBias::Chrono { longest }
            }
            (_, forget) => GateBias::Forget(forget.unwrap_or_default()),
        };
        Init { input, recurrent, gates }
    }

    fn weight_init(&self, name: InitName, gain: Option<f64>) -> WeightInit {
        let fan = self.init_fan;
        match name {
            InitName::PyTorch => WeightInit::PyTorch,
            InitName::Uniform => WeightInit::Uniform { range: self.init_range },
            InitName::XavierUniform => WeightInit::XavierUniform { gain },
            InitName::XavierNormal => WeightInit::XavierNormal { gain },
            InitName::HeUniform => WeightInit::HeUniform { fan, gain },
            InitName::HeNormal => WeightInit::HeNormal { fan, gain },
            InitName::Orthogonal => WeightInit::Orthogonal { gain },
            InitName::Identity => WeightInit::Identity { scale: gain },
        }
    }
}

/// The `[train]` section.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainRecipe {
    /// Passes over the training part. Exactly one of `epochs` and `steps` is set.
    pub epochs: Option<f64>,
    /// Updates of the weights. Exactly one of `epochs` and `steps` is set.
    pub steps: Option<usize>,
    /// Streams of text, or examples, trained side by side.
    pub batch: usize,
    /// Tokens of both sides of a batch, in place of `batch`. [`Task::Translate`] only.
    pub batch_tokens: Option<usize>,
    /// Tokens of every stream in one step; the gradient is cut there (truncated BPTT).
    pub bptt: usize,
    /// Steps between two updates; unset: `bptt`.
    pub k1: Option<usize>,
    /// Steps that the gradient goes back from the end of a window; unset: `bptt`.
    pub k2: Option<usize>,
    /// Steps of a window of longer sequences; unset: sequences are read whole. [`Task::Tag`] of numbers only.
    pub window: Option<usize>,
    /// Whether windows vary in length, and the learning rate with them.
    pub vary_bptt: bool,
    /// Batches whose gradients are added up before an update.
    pub accumulate: usize,
    /// What the products of the recurrent layers multiply.
    pub precision: Precision,
    /// The update rule.
    pub optimizer: Optimizer,
    /// Step size of the update rule.
    pub learning_rate: f64,
    /// Share of the last update that is kept. `momentum` only.
    pub momentum: f64,
    /// Decay of the mean of gradients. `adam` and `adamw` only.
    pub beta1: f64,
    /// Decay of the mean of squared gradients. `adam` and `adamw` only.
    pub beta2: f64,
    /// Decay of the mean of squared gradients. `rmsprop` only.
    pub alpha: f64,
    /// Keeps the divisor from zero. `adam`, `adamw` and `rmsprop` only.
    pub epsilon: f64,
    /// Validations that the loss may stay above its lowest before averaging begins. `nt-asgd` only.
    pub nonmono: usize,
    /// Added to the gradient, times the weight; with `adamw` taken off the weight, times the learning rate.
    pub weight_decay: f64,
    /// Price of large outputs of the last layer (AR).
    pub activation_penalty: f64,
    /// Price of outputs of the last layer that change from step to step (TAR).
    pub temporal_penalty: f64,
    /// The share of each target that is spread over the vocabulary.
    pub label_smoothing: f64,
    /// Probability that the decoder reads the right token and not its own, in the end. [`Task::Translate`] only.
    pub teacher_forcing: f64,
    /// How that probability falls from 1. [`Task::Translate`] only.
    pub sampling: SamplingName,
    /// How slowly. Where `sampling` is not [`SamplingName::Constant`].
    pub sampling_steps: usize,
    /// Sentences that are translated in a validation; 0: none. [`Task::Translate`] only.
    pub decode_sentences: usize,
    /// What BLEU counts. [`Task::Translate`] only.
    pub bleu_tokens: BleuTokens,
    /// What is to become small, without quantiles. [`Task::Forecast`] only.
    pub loss: LossName,
    /// How much the classes count in the loss. [`Task::Classify`] only.
    pub class_weights: ClassWeights,
    /// What the best checkpoint is chosen by; unset: what the task is measured by.
    pub metric: Option<MetricName>,
    /// How the learning rate changes.
    pub schedule: ScheduleName,
    /// Factor on the learning rate when its time has come. [`ScheduleName::Step`], [`ScheduleName::Epoch`] and
    /// [`ScheduleName::Plateau`] only.
    pub decay: f64,
    /// Steps between two decays. [`ScheduleName::Step`] only, which needs it.
    pub decay_every: Option<usize>,
    /// Passes before the first decay. [`ScheduleName::Epoch`] only, which needs it.
    pub decay_after: Option<usize>,
    /// Validations without a new lowest loss that are borne before a decay. [`ScheduleName::Plateau`] only.
    pub patience: usize,
    /// Where the learning rate ends. [`ScheduleName::Plateau`] and [`ScheduleName::Cosine`] only.
    pub min_learning_rate: f64,
    /// Steps over which the learning rate grows from zero.
    pub warmup_steps: usize,
    /// Validations without a new lowest loss after which a run ends.
    pub early_stop: Option<usize>,
    /// The mean of the weights that is validated and saved as the best.
    pub average: AverageName,
    /// Share of what was before that each step keeps. [`AverageName::Exponential`] only.
    pub average_decay: f64,
    /// Steps before averaging begins. Where `average` is not [`AverageName::None`].
    pub average_from: usize,
    /// Largest global norm of the gradient; 0 leaves it as it is. At most one of the three is set.
    pub clip_norm: Option<f64>,
    /// Largest norm of each parameter's gradient.
    pub clip_each_norm: Option<f64>,
    /// Largest absolute value of the gradient's elements.
    pub clip_value: Option<f64>,
    /// Steps between validations; unset: once an epoch.
    pub validate_every: Option<usize>,
    /// Seconds between checkpoints.
    pub checkpoint_seconds: u64,
    /// Tokens written after each validation; 0: none.
    pub sample_length: usize,
    /// Steps between two lines of progress.
    pub log_every: usize,
}

impl TrainRecipe {
    /// The probability that the decoder reads the right token at update `step`, counted from 0 (Bengio et al. 2015).
    #[must_use]
    pub fn right_token_probability(&self, step: u64) -> f64 {
        let (least, slow, step) = (self.teacher_forcing, self.sampling_steps as f64, step as f64);
        let falls = match self.sampling {
            SamplingName::Constant => return least,
            SamplingName::Linear => (1.0 - step / slow).max(0.0),
            SamplingName::Exponential => 0.5f64.powf(step / slow),
            SamplingName::InverseSigmoid => slow / (slow + (step / slow).exp()),
        };
        least + (1.0 - least) * falls
    }

    /// Steps that the gradient goes back from the end of a window.
    #[must_use]
    pub fn k2(&self) -> usize {
        self.k2.unwrap_or(self.bptt)
    }

    /// Where backpropagation through time is cut. Windows that vary follow from `seed`.
    #[must_use]
    pub fn truncation(&self, seed: u64) -> Truncation {
        let varied = self.vary_bptt.then_some(seed);
        Truncation { k1: self.k1.unwrap_or(self.bptt), k2: self.k2(), varied }
    }
}

/// A value that is one of a few names in a recipe.
pub trait Named: Copy + PartialEq + 'static {
    /// Every value, in the order of the documentation.
    const ALL: &'static [Self];

    /// The name in recipes and messages.
    fn name(self) -> &'static str;
}

/// What a model learns to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Language model: predict the next token.
    Lm,
    /// The adding problem (Hochreiter and Schmidhuber 1997).
    Adding,
    /// Copy memory (Arjovsky et al. 2016).
    Copy,
    /// One class a sequence.
    Classify,
    /// One label a step.
    Tag,
    /// From one sequence to another of a length of its own.
    Translate,
    /// From a window of a series to the steps behind it.
    Forecast,
}

impl Task {
    /// Whether data is read in passes, and not made as it is needed.
    #[must_use]
    pub fn has_epochs(self) -> bool {
        !matches!(self, Task::Adding | Task::Copy)
    }
}

impl Named for Task {
    const ALL: &'static [Task] =
        &[Task::Lm, Task::Adding, Task::Copy, Task::Classify, Task::Tag, Task::Translate, Task::Forecast];

    fn name(self) -> &'static str {
        match self {
            Task::Lm => "lm",
            Task::Adding => "adding",
            Task::Copy => "copy",
            Task::Classify => "classify",
            Task::Tag => "tag",
            Task::Translate => "translate",
            Task::Forecast => "forecast",
        }
    }
}

/// The recurrent cell, without its variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CellName {
    /// Vanilla recurrence.
    Rnn,
    /// Long short-term memory.
    Lstm,
    /// Gated recurrent unit.
    Gru,
    /// The minimal GRU; see [`MinGru`].
    MinGru,
    /// The minimal LSTM; see [`MinLstm`].
    MinLstm,
    /// No recurrence: feed-forward layers.
    None,
}

impl Named for CellName {
    const ALL: &'static [CellName] =
        &[CellName::Rnn, CellName::Lstm, CellName::Gru, CellName::MinGru, CellName::MinLstm, CellName::None];

    fn name(self) -> &'static str {
        match self {
            CellName::Rnn => "rnn",
            CellName::Lstm => "lstm",
            CellName::Gru => "gru",
            CellName::MinGru => "min-gru",
            CellName::MinLstm => "min-lstm",
            CellName::None => "none",
        }
    }
}

/// What an example is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputName {
    /// Text in tables, or words with tags.
    Text,
    /// Sequences of numbers.
    Numbers,
    /// Sound.
    Audio,
    /// Images.
    Images,
}

impl Named for InputName {
    const ALL: &'static [InputName] =
        &[InputName::Text, InputName::Numbers, InputName::Audio, InputName::Images];

    fn name(self) -> &'static str {
        match self {
            InputName::Text => "text",
            InputName::Numbers => "numbers",
            InputName::Audio => "audio",
            InputName::Images => "images",
        }
    }
}

/// How much a class counts in the loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClassWeights {
    /// Every example the same.
    None,
    /// Every class the same: an example counts the less, the more there are of its class.
    Balanced,
}

impl Named for ClassWeights {
    const ALL: &'static [ClassWeights] = &[ClassWeights::None, ClassWeights::Balanced];

    fn name(self) -> &'static str {
        match self {
            ClassWeights::None => "none",
            ClassWeights::Balanced => "balanced",
        }
    }
}

/// What a forecaster makes small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossName {
    /// The mean squared error.
    Mse,
    /// The mean absolute error.
    Mae,
    /// Squared errors below one deviation, absolute ones above (Huber 1964).
    Huber,
}

impl Named for LossName {
    const ALL: &'static [LossName] = &[LossName::Mse, LossName::Mae, LossName::Huber];

    fn name(self) -> &'static str {
        match self {
            LossName::Mse => "mse",
            LossName::Mae => "mae",
            LossName::Huber => "huber",
        }
    }
}

impl Named for Gaps {
    const ALL: &'static [Gaps] = &[Gaps::Refuse, Gaps::Ignore];

    fn name(self) -> &'static str {
        match self {
            Gaps::Refuse => "refuse",
            Gaps::Ignore => "ignore",
        }
    }
}

impl Named for SeriesScaling {
    const ALL: &'static [SeriesScaling] =
        &[SeriesScaling::Series, SeriesScaling::Global, SeriesScaling::Window, SeriesScaling::None];

    fn name(self) -> &'static str {
        match self {
            SeriesScaling::Series => "series",
            SeriesScaling::Global => "global",
            SeriesScaling::Window => "window",
            SeriesScaling::None => "none",
        }
    }
}

impl Named for Base {
    const ALL: &'static [Base] = &[Base::Last, Base::Season, Base::None];

    fn name(self) -> &'static str {
        match self {
            Base::Last => "last",
            Base::Season => "season",
            Base::None => "none",
        }
    }
}

/// What the best checkpoint is chosen by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricName {
    /// The validation loss.
    Loss,
    /// The share of right answers.
    Accuracy,
    /// The mean over the classes of F1.
    MacroF1,
    /// The mean over the classes of recall.
    BalancedAccuracy,
    /// F1 of whole spans.
    SpanF1,
    /// BLEU.
    Bleu,
    /// The share of translations that are one of their references.
    ExactMatch,
}

impl Named for MetricName {
    const ALL: &'static [MetricName] = &[
        MetricName::Loss,
        MetricName::Accuracy,
        MetricName::MacroF1,
        MetricName::BalancedAccuracy,
        MetricName::SpanF1,
        MetricName::Bleu,
        MetricName::ExactMatch,
    ];

    fn name(self) -> &'static str {
        match self {
            MetricName::Loss => "loss",
            MetricName::Accuracy => "accuracy",
            MetricName::MacroF1 => "macro_f1",
            MetricName::BalancedAccuracy => "balanced_accuracy",
            MetricName::SpanF1 => "span_f1",
            MetricName::Bleu => "bleu",
            MetricName::ExactMatch => "exact_match",
        }
    }
}

/// What a decoder looks at the source with; see [`Score`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionName {
    /// A bilinear form.
    General,
    /// A dot product.
    Dot,
    /// A dot product over √H.
    ScaledDot,
    /// A small net.
    Additive,
    /// Nothing: all that is known of the source is the first state.
    None,
}

impl Named for AttentionName {
    const ALL: &'static [AttentionName] = &[
        AttentionName::General,
        AttentionName::Dot,
        AttentionName::ScaledDot,
        AttentionName::Additive,
        AttentionName::None,
    ];

    fn name(self) -> &'static str {
        match self {
            AttentionName::General => "general",
            AttentionName::Dot => "dot",
            AttentionName::ScaledDot => "scaled-dot",
            AttentionName::Additive => "additive",
            AttentionName::None => "none",
        }
    }
}

impl AttentionName {
    /// The score; `None` without attention.
    #[must_use]
    pub fn score(self) -> Option<Score> {
        match self {
            AttentionName::General => Some(Score::General),
            AttentionName::Dot => Some(Score::Dot),
            AttentionName::ScaledDot => Some(Score::ScaledDot),
            AttentionName::Additive => Some(Score::Additive),
            AttentionName::None => None,
        }
    }
}

/// How the probability falls that a decoder in training reads the right token (Bengio et al. 2015).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SamplingName {
    /// It does not fall.
    Constant,
    /// In a straight line.
    Linear,
    /// By half every so many steps.
    Exponential,
    /// Slowly, then fast, then slowly.
    InverseSigmoid,
}

impl Named for SamplingName {
    const ALL: &'static [SamplingName] = &[
        SamplingName::Constant,
        SamplingName::Linear,
        SamplingName::Exponential,
        SamplingName::InverseSigmoid,
    ];

    fn name(self) -> &'static str {
        match self {
            SamplingName::Constant => "constant",
            SamplingName::Linear => "linear",
            SamplingName::Exponential => "exponential",
            SamplingName::InverseSigmoid => "inverse-sigmoid",
        }
    }
}

impl Named for Bridge {
    const ALL: &'static [Bridge] = &[Bridge::Dense, Bridge::Copy, Bridge::Zero];

    fn name(self) -> &'static str {
        match self {
            Bridge::Dense => "dense",
            Bridge::Copy => "copy",
            Bridge::Zero => "zero",
        }
    }
}

impl Named for PairFormat {
    const ALL: &'static [PairFormat] =
        &[PairFormat::Auto, PairFormat::Columns, PairFormat::Files, PairFormat::Dictionary];

    fn name(self) -> &'static str {
        match self {
            PairFormat::Auto => "auto",
            PairFormat::Columns => "columns",
            PairFormat::Files => "files",
            PairFormat::Dictionary => "dictionary",
        }
    }
}

impl Named for NormalForm {
    const ALL: &'static [NormalForm] =
        &[NormalForm::None, NormalForm::Nfc, NormalForm::Nfd, NormalForm::Nfkc, NormalForm::Nfkd];

    fn name(self) -> &'static str {
        match self {
            NormalForm::None => "none",
            NormalForm::Nfc => "nfc",
            NormalForm::Nfd => "nfd",
            NormalForm::Nfkc => "nfkc",
            NormalForm::Nfkd => "nfkd",
        }
    }
}

impl Named for TooLong {
    const ALL: &'static [TooLong] = &[TooLong::Drop, TooLong::Cut];

    fn name(self) -> &'static str {
        match self {
            TooLong::Drop => "drop",
            TooLong::Cut => "cut",
        }
    }
}

impl Named for BleuTokens {
    const ALL: &'static [BleuTokens] = &[BleuTokens::V13a, BleuTokens::Char, BleuTokens::None];

    fn name(self) -> &'static str {
        BleuTokens::name(self)
    }
}

impl Named for Direction {
    const ALL: &'static [Direction] = &[Direction::Both, Direction::Forward, Direction::Reverse];

    fn name(self) -> &'static str {
        match self {
            Direction::Both => "both",
            Direction::Forward => "forward",
            Direction::Reverse => "reverse",
        }
    }
}

impl Named for Pooling {
    const ALL: &'static [Pooling] = &[Pooling::Last, Pooling::Mean, Pooling::Max, Pooling::Attention];

    fn name(self) -> &'static str {
        match self {
            Pooling::Last => "last",
            Pooling::Mean => "mean",
            Pooling::Max => "max",
            Pooling::Attention => "attention",
        }
    }
}

impl Named for DenseActivation {
    const ALL: &'static [DenseActivation] = &DenseActivation::ALL;

    fn name(self) -> &'static str {
        DenseActivation::name(self)
    }
}

impl Named for Norm {
    const ALL: &'static [Norm] = &[Norm::None, Norm::Layer];

    fn name(self) -> &'static str {
        match self {
            Norm::None => "none",
            Norm::Layer => "layer",
        }
    }
}

/// How weights are drawn, without the numbers; see [`WeightInit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitName {
    /// PyTorch's default.
    PyTorch,
    /// One range for the whole model.
    Uniform,
    /// Glorot and Bengio 2010, uniform.
    XavierUniform,
    /// Glorot and Bengio 2010, normal.
    XavierNormal,
    /// He et al. 2015, uniform.
    HeUniform,
    /// He et al. 2015, normal.
    HeNormal,
    /// Saxe et al. 2014.
    Orthogonal,
    /// Le et al. 2015.
    Identity,
}

impl Named for InitName {
    const ALL: &'static [InitName] = &[
        InitName::PyTorch,
        InitName::Uniform,
        InitName::XavierUniform,
        InitName::XavierNormal,
        InitName::HeUniform,
        InitName::HeNormal,
        InitName::Orthogonal,
        InitName::Identity,
    ];

    fn name(self) -> &'static str {
        match self {
            InitName::PyTorch => "pytorch",
            InitName::Uniform => "uniform",
            InitName::XavierUniform => "xavier-uniform",
            InitName::XavierNormal => "xavier-normal",
            InitName::HeUniform => "he-uniform",
            InitName::HeNormal => "he-normal",
            InitName::Orthogonal => "orthogonal",
            InitName::Identity => "identity",
        }
    }
}

impl Named for Fan {
    const ALL: &'static [Fan] = &[Fan::In, Fan::Out];

    fn name(self) -> &'static str {
        match self {
            Fan::In => "in",
            Fan::Out => "out",
        }
    }
}

/// The update rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Optimizer {
    /// Plain stochastic gradient descent.
    Sgd,
    /// Gradient descent with momentum.
    Momentum,
    /// RMSprop (Tieleman and Hinton 2012).
    RmsProp,
    /// Adam (Kingma and Ba 2015).
    Adam,
    /// Adam with decoupled weight decay (Loshchilov and Hutter 2019).
    AdamW,
    /// Gradient descent whose weights are averaged once the validation loss no longer falls (Merity et al.
    /// 2017).
    NtAsgd,
}

impl Named for Optimizer {
    const ALL: &'static [Optimizer] = &[
        Optimizer::Sgd,
        Optimizer::Momentum,
        Optimizer::RmsProp,
        Optimizer::Adam,
        Optimizer::AdamW,
        Optimizer::NtAsgd,
    ];

    fn name(self) -> &'static str {
        match self {
            Optimizer::Sgd => "sgd",
            Optimizer::Momentum => "momentum",
            Optimizer::RmsProp => "rmsprop",
            Optimizer::Adam => "adam",
            Optimizer::AdamW => "adamw",
            Optimizer::NtAsgd => "nt-asgd",
        }
    }
}

impl Named for Precision {
    const ALL: &'static [Precision] = &[Precision::F32, Precision::Bf16];

    fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        }
    }
}

/// How the learning rate changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScheduleName {
    /// Not at all.
    Constant,
    /// Falls every so many steps.
    Step,
    /// Falls at every pass after some.
    Epoch,
    /// Falls when the validation loss stands still.
    Plateau,
    /// Falls along half a cosine over the whole run (Loshchilov and Hutter 2017).
    Cosine,
}

impl Named for ScheduleName {
    const ALL: &'static [ScheduleName] = &[
        ScheduleName::Constant,
        ScheduleName::Step,
        ScheduleName::Epoch,
        ScheduleName::Plateau,
        ScheduleName::Cosine,
    ];

    fn name(self) -> &'static str {
        match self {
            ScheduleName::Constant => "constant",
            ScheduleName::Step => "step",
            ScheduleName::Epoch => "epoch",
            ScheduleName::Plateau => "plateau",
            ScheduleName::Cosine => "cosine",
        }
    }
}

/// Which mean of the weights is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AverageName {
    /// None.
    None,
    /// That of all steps (Polyak and Juditsky 1992).
    Mean,
    /// One that forgets.
    Exponential,
}

impl Named for AverageName {
    const ALL: &'static [AverageName] = &[AverageName::None, AverageName::Mean, AverageName::Exponential];

    fn name(self) -> &'static str {
        match self {
            AverageName::None => "none",
            AverageName::Mean => "mean",
            AverageName::Exponential => "exponential",
        }
    }
}

impl Named for Tokens {
    const ALL: &'static [Tokens] = &Tokens::ALL;

    fn name(self) -> &'static str {
        Tokens::name(self)
    }
}

impl Named for Activation {
    const ALL: &'static [Activation] = &Activation::ALL;

    fn name(self) -> &'static str {
        match self {
            Activation::Tanh => "tanh",
            Activation::Relu => "relu",
            Activation::LeakyRelu => "leaky-relu",
            Activation::Elu => "elu",
            Activation::Silu => "silu",
            Activation::HardTanh => "hard-tanh",
        }
    }
}

impl Named for GateActivation {
    const ALL: &'static [GateActivation] = &[GateActivation::Sigmoid, GateActivation::HardSigmoid];

    fn name(self) -> &'static str {
        match self {
            GateActivation::Sigmoid => "sigmoid",
            GateActivation::HardSigmoid => "hard-sigmoid",
        }
    }
}

impl Named for Reset {
    const ALL: &'static [Reset] = &[Reset::After, Reset::Before];

    fn name(self) -> &'static str {
        match self {
            Reset::After => "after",
            Reset::Before => "before",
        }
    }
}

/// What is wrong with a recipe. Every message says where, what was found and what was wanted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecipeError {
    /// The text is not TOML, or an override is not `key=value`.
    #[error("{place}: {message}")]
    Syntax {
        /// Where it stands.
        place: Place,
        /// What the parser says.
        message: String,
    },
    /// No key has this name.
    #[error("{place}: {key} is not a known key; {hint}")]
    UnknownKey {
        /// Where it stands.
        place: Place,
        /// The name as given.
        key: String,
        /// The nearest known key, or the keys to choose from.
        hint: String,
    },
    /// A value of the wrong type, or out of range.
    #[error("{place}: {key} is {found}, expected {wanted}")]
    Value {
        /// Where it stands.
        place: Place,
        /// The key.
        key: &'static str,
        /// The value as given.
        found: String,
        /// What the key takes.
        wanted: String,
    },
    /// A key that changes nothing next to the value of another.
    #[error("{place}: {key} has no effect with {other} = {found}; it is read with {wanted} only")]
    NoEffect {
        /// Where it stands.
        place: Place,
        /// The key.
        key: &'static str,
        /// The key that decides.
        other: &'static str,
        /// Its value.
        found: String,
        /// The values that would make the key count.
        wanted: String,
    },
    /// Two keys that say the same thing in two ways.
    #[error("{place}: {key} and {other} are both set, expected one of them")]
    Both {
        /// Where the second one stands.
        place: Place,
        /// One key.
        key: &'static str,
        /// The other.
        other: &'static str,
    },
    /// Keys that cannot stand beside each other with these values.
    #[error("{place}: {message}")]
    Together {
        /// Where one of them stands.
        place: Place,
        /// Which keys, what they are, and what was wanted.
        message: String,
    },
    /// A key without a default is not there.
    #[error("{place}: {key} is missing, expected {wanted}")]
    Missing {
        /// Where it should stand.
        place: Place,
        /// The key.
        key: &'static str,
        /// What the key takes.
        wanted: String,
    },
}

/// Where a value of a recipe was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A line of a file, counted from 1.
    Line(String, usize),
    /// A file as a whole.
    File(String),
    /// An override, as given.
    Override(String),
    /// A recipe made in code.
    Code,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Line(file, line) => write!(f, "{file}:{line}"),
            Place::File(file) => f.write_str(file),
            Place::Override(text) => write!(f, "--set {text}"),
            Place::Code => f.write_str("recipe"),
        }
    }
}

impl Recipe {
    /// What keeps a language model from learning its text by heart.
    #[must_use]
    pub fn regularize(&self) -> Regularize {
        let model = &self.model;
        let locked = model.locked_dropout;
        Regularize {
            words: model.embedding_dropout,
            input: model.input_dropout,
            recurrent: Dropout {
                between: model.dropout,
                locked,
                weights: model.weight_dropout,
                recurrent: model.recurrent_dropout,
                update: model.update_dropout,
                zoneout: model.zoneout,
                zoneout_cell: model.zoneout_cell,
            },
            output: model.output_dropout,
            label_smoothing: self.train.label_smoothing,
        }
    }

    /// The recipe of a task where nothing is said otherwise.
    #[must_use]
    pub fn default_for(task: Task) -> Recipe {
        let mut recipe = Recipe {
            task,
            seed: 1,
            data: DataRecipe {
                split: [0.9, 0.05, 0.05],
                memory: 64,
                input: InputName::Text,
                text: "text".to_owned(),
                label: "label".to_owned(),
                group: None,
                id: None,
                step: None,
                file_label: None,
                image_size: 32,
                color: true,
                quoting: true,
                max_length: None,
                targets: None,
                features: None,
                time: None,
                gaps: Gaps::Refuse,
                window: 48,
                horizon: 12,
                season: 1,
                stride: 1,
                scaling: SeriesScaling::Series,
                format: PairFormat::Auto,
                source: 1,
                target: 2,
                stress: false,
                unicode: NormalForm::Nfc,
                lowercase: false,
                tokens: Tokens::Char,
                source_tokens: None,
                target_tokens: None,
                split_punctuation: true,
                joint_vocab: false,
                max_len: MaxLen::Places(102),
                too_long: TooLong::Drop,
                reverse_source: false,
                min_count: 1,
                vocab_size: None,
                length: 100,
                symbols: 8,
                memorize: 10,
            },
            model: ModelRecipe {
                cell: CellName::Lstm,
                activation: Activation::Tanh,
                gate_activation: GateActivation::Sigmoid,
                reset: Reset::After,
                peephole: false,
                layers: 2,
                hidden: 128,
                embedding: 128,
                filters: 16,
                convolutions: 3,
                direction: Direction::Both,
                lookahead: 0,
                pooling: None,
                attention: AttentionName::General,
                bridge: Bridge::Dense,
                input_feeding: false,
                share_embeddings: false,
                characters: None,
                crf: false,
                base: Base::Last,
                quantiles: None,
                dense_activation: DenseActivation::Relu,
                norm: Norm::None,
                residual: false,
                tie_embeddings: false,
                dropout: 0.0,
                input_dropout: 0.0,
                output_dropout: 0.0,
                locked_dropout: false,
                embedding_dropout: 0.0,
                weight_dropout: 0.0,
                recurrent_dropout: 0.0,
                update_dropout: 0.0,
                zoneout: 0.0,
                zoneout_cell: 0.0,
                init: InitName::PyTorch,
                init_range: 0.1,
                init_gain: None,
                init_fan: Fan::In,
                recurrent_init: None,
                recurrent_gain: None,
                forget_bias: Some(1.0),
                chrono: None,
            },
            train: TrainRecipe {
                epochs: Some(10.0),
                steps: None,
                batch: 50,
                batch_tokens: None,
                bptt: 50,
                k1: None,
                k2: None,
                window: None,
                vary_bptt: false,
                accumulate: 1,
                precision: Precision::F32,
                optimizer: Optimizer::Adam,
                learning_rate: 0.002,
                momentum: 0.9,
                beta1: 0.9,
                beta2: 0.999,
                alpha: 0.99,
                epsilon: 1e-8,
                nonmono: 5,
                weight_decay: 0.0,
                activation_penalty: 0.0,
                temporal_penalty: 0.0,
                label_smoothing: 0.0,
                teacher_forcing: 1.0,
                sampling: SamplingName::Constant,
                sampling_steps: 1000,
                decode_sentences: 500,
                bleu_tokens: BleuTokens::V13a,
                loss: LossName::Mse,
                class_weights: ClassWeights::None,
                metric: None,
                schedule: ScheduleName::Constant,
                decay: 0.5,
                decay_every: None,
                decay_after: None,
                patience: 3,
                min_learning_rate: 0.0,
                warmup_steps: 0,
                early_stop: None,
                average: AverageName::None,
                average_decay: 0.999,
                average_from: 0,
                clip_norm: Some(5.0),
                clip_each_norm: None,
                clip_value: None,
                validate_every: None,
                checkpoint_seconds: 120,
                sample_length: 200,
                log_every: 10,
            },
        };
        if matches!(task, Task::Classify | Task::Tag | Task::Translate | Task::Forecast) {
            recipe.model.layers = 1;
        }
        if task == Task::Forecast {
            recipe.data.split = [0.7, 0.15, 0.15];
            recipe.model.direction = Direction::Forward;
            recipe.model.hidden = 64;
        }
        if matches!(task, Task::Tag | Task::Translate) {
            recipe.data.tokens = Tokens::Word;
        }
        if !task.has_epochs() {
            // Made on the fly: there are no epochs to count.
            (recipe.train.epochs, recipe.train.steps) = (None, Some(5000));
        }
        recipe
    }

    /// Reads a recipe. `file` is the name used in messages.
    ///
    /// # Errors
    /// [`RecipeError`] for text that is not TOML, a missing `task`, an unknown key, a value of the wrong
    /// type or out of range, and a key that has no effect next to the file's other values.
    pub fn from_toml(text: &str, file: &str) -> Result<Recipe, RecipeError> {
        let line = |offset: usize| Place::Line(file.to_owned(), 1 + text[..offset].matches('\n').count());
        let table = DeTable::parse(text).map_err(|error| RecipeError::Syntax {
            place: line(error.span().map_or(0, |span| span.start)),
            message: error.message().to_owned(),
        })?;
        let mut given = Vec::new();
        flatten(text, "", table.get_ref(), &mut |name, offset, value| {
            given.push(Given { place: line(offset), name, value });
        });

        // The task comes first, because it decides the defaults of all other keys.
        let key = find("task").expect("task is in the register");
        let task = given.iter().find(|given| given.name == "task").ok_or_else(|| RecipeError::Missing {
            place: Place::File(file.to_owned()),
            key: "task",
            wanted: key.kind.to_string(),
        })?;
        let mut recipe = Recipe::default_for(Task::Lm);
        if !key.kind.accepts(&task.value) || (key.set)(&mut recipe, &task.value).is_none() {
            return Err(key.refuse(task.place.clone(), &task.value));
        }
        recipe = Recipe::default_for(recipe.task);
        recipe.apply(&given)?;
        Ok(recipe)
    }

    /// Applies one override, such as `model.hidden=200`. Text needs no quotes.
    ///
    /// # Errors
    /// As [`Recipe::set_all`].
    pub fn set(&mut self, assignment: &str) -> Result<(), RecipeError> {
        self.set_all(&[assignment])
    }

    /// Applies overrides together, so that their order does not matter; of two for one key the last
    /// counts. A key takes the place of others that say the same thing: `train.steps` of `train.epochs`,
    /// and the other way round.
    ///
    /// # Errors
    /// [`RecipeError`], and the recipe is left as it was: for an override that is not `key=value`, an
    /// unknown key, a bad value, an override that has no effect in the resulting recipe, or keys that
    /// cannot stand together.
    pub fn set_all<S: AsRef<str>>(&mut self, assignments: &[S]) -> Result<(), RecipeError> {
        let given = assignments.iter().map(|assignment| {
            let text = assignment.as_ref();
            let place = Place::Override(text.to_owned());
            match text.split_once('=') {
                Some((name, value)) => {
                    let value = value.trim();
                    // What is no TOML value is text without its quotes.
                    let value = value.parse().unwrap_or_else(|_| Value::String(value.to_owned()));
                    Ok(Given { place, name: name.trim().to_owned(), value })
                }
                None => Err(RecipeError::Syntax {
                    place,
                    message: "expected key=value, such as model.hidden=200".to_owned(),
                }),
            }
        });
        let given = given.collect::<Result<Vec<_>, _>>()?;
        let mut changed = self.clone();
        changed.apply(&given)?;
        *self = changed;
        Ok(())
    }

    /// Checks every value's range, and what several must be together. Recipes read from a file or changed
    /// by overrides have passed this.
    ///
    /// # Errors
    /// [`RecipeError`] for the first value out of range, for two keys that say the same thing, and for keys
    /// that cannot stand together.
    pub fn check(&self) -> Result<(), RecipeError> {
        for key in KEYS {
            if let Some(value) = (key.get)(self)
                && !key.kind.accepts(&value)
            {
                return Err(key.refuse(Place::Code, &value));
            }
        }
        for group in EXCLUSIVE {
            let mut set = group.iter().filter(|name| find(name).is_some_and(|key| (key.get)(self).is_some()));
            if let (Some(key), Some(other)) = (set.next(), set.next()) {
                return Err(RecipeError::Both { place: Place::Code, key, other });
            }
        }
        match RULES.iter().find_map(|rule| (rule.broken)(self)) {
            Some(message) => Err(RecipeError::Together { place: Place::Code, message }),
            None => Ok(()),
        }
    }

    /// The recipe as a file from which [`Recipe::from_toml`] reads the same experiment. Keys that have no
    /// effect next to the others are left out.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut section = "";
        for key in KEYS {
            let Some(value) = (key.get)(self) else { continue };
            if key.blocked(self).is_some() {
                continue;
            }
            let (now, name) = key.name.split_once('.').unwrap_or(("", key.name));
            if now != section {
                text.push_str(&format!("\n[{now}]\n"));
                section = now;
            }
            text.push_str(&format!("{name} = {value}\n"));
        }
        text
    }

    fn apply(&mut self, given: &[Given]) -> Result<(), RecipeError> {
        let mut keys = Vec::with_capacity(given.len());
        for Given { place, name, value } in given {
            let key = find(name).ok_or_else(|| unknown(place, name))?;
            if !key.kind.accepts(value) || (key.set)(self, value).is_none() {
                return Err(key.refuse(place.clone(), value));
            }
            for group in EXCLUSIVE.iter().filter(|group| group.contains(&key.name)) {
                let others = group.iter().filter(|other| **other != key.name);
                others.filter_map(|other| find(other)).for_each(|other| (other.unset)(self));
            }
            keys.push((key, place));
        }
        let place_of =
            |name: &str| keys.iter().rev().find(|(key, _)| key.name == name).map(|(_, place)| *place);
        for group in EXCLUSIVE {
            let mut set = group.iter().filter_map(|name| Some((*name, place_of(name)?)));
            if let (Some((key, place)), Some((other, _))) = (set.next(), set.next()) {
                return Err(RecipeError::Both { place: place.clone(), key, other });
            }
        }
        for (key, place) in &keys {
            if let Some((OnlyWith { key: other, values }, found)) = key.blocked(self) {
                let (place, key, wanted) = ((*place).clone(), key.name, values.join(" or "));
                return Err(RecipeError::NoEffect { place, key, other, found, wanted });
            }
        }
        for rule in RULES {
            // Before this the demand was met, so something given now breaks it.
            let place = rule.keys.iter().find_map(|name| place_of(name));
            let place = place.or(keys.first().map(|(_, place)| *place));
            if let (Some(place), Some(message)) = (place, (rule.broken)(self)) {
                return Err(RecipeError::Together { place: place.clone(), message });
            }
        }
        Ok(())
    }
}

/// A value with its place, as read.
struct Given {
    place: Place,
    name: String,
    value: Value,
}

/// Walks the sections of a table down to its values, with dotted names and the offset of each key.
/// An empty section of an unknown name is visited as if it were a value, or nobody would notice it.
fn flatten(text: &str, prefix: &str, table: &DeTable<'_>, visit: &mut impl FnMut(String, usize, Value)) {
    for (key, value) in table {
        let name = format!("{prefix}{}", key.get_ref());
        match value.get_ref() {
            DeValue::Table(inner) if find(&name).is_none() && (!inner.is_empty() || is_section(&name)) => {
                flatten(text, &format!("{name}."), inner, visit);
            }
            // The value has parsed once already; a section header's span is no value, its type is enough.
            _ => {
                let value = text[value.span()].parse().unwrap_or_else(|_| Value::Table(toml::Table::new()));
                visit(name, key.span().start, value);
            }
        }
    }
}

fn unknown(place: &Place, name: &str) -> RecipeError {
    let list = |names: Vec<&str>| format!("the known keys are {}", names.join(", "));
    let hint = if is_section(name) {
        list(keys_of(name).collect())
    } else if let Some(key) = nearest(name) {
        format!("did you mean {key}?")
    } else {
        match name.split_once('.') {
            Some((section, _)) if is_section(section) => list(keys_of(section).collect()),
            _ => list(KEYS.iter().map(|key| key.name).collect()),
        }
    };
    RecipeError::UnknownKey { place: place.clone(), key: name.to_owned(), hint }
}

/// The known key that takes the fewest edits, if they are few. A right name in the wrong section, or
/// without one, is one edit away.
fn nearest(name: &str) -> Option<&'static str> {
    let letters = |a: &str, b: &str| edits(&a.chars().collect::<Vec<_>>(), &b.chars().collect::<Vec<_>>());
    let last = |name: &'_ str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let distance = |key: &str| letters(name, key).min(1 + letters(&last(name), &last(key)));
    let (edits, key) = KEYS.iter().map(|key| (distance(key.name), key.name)).min()?;
    (edits <= 2.max(name.len() / 4)).then_some(key)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    fn repository(path: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
    }

    fn default() -> Recipe {
        Recipe::default_for(Task::Lm)
    }

    #[test]
    fn the_register_in_the_documentation_lists_these_keys_and_defaults() {
        let text = fs::read_to_string(repository("docs/recipe.md")).unwrap();
        let rows = text.lines().filter(|line| line.starts_with("| `"));
        let documented: Vec<String> = rows
            .map(|row| {
                let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
                assert_eq!(cells.len(), 4, "{row}");
                let known = KEYS.iter().find(|key| cells[0] == format!("`{}`", key.name));
                let listed = |OnlyWith { key, values }: OnlyWith| {
                    let quoted = |value: &&str| match *value {
                        "true" | "false" => value.to_string(),
                        name => format!("\"{name}\""),
                    };
                    let values: Vec<String> = values.iter().map(quoted).collect();
                    format!("with `{key} = {}`.", values.join("` or `"))
                };
                let only = known.and_then(|key| key.only_with).map(|only| format!("Only {}", listed(only)));
                let and = known.and_then(|key| key.and_with).map(|and| format!("And {}", listed(and)));
                let conditions: Vec<String> = only.into_iter().chain(and).collect();
                assert!(cells[3].ends_with(&conditions.join(" ")), "{row}\nshould end with {conditions:?}");
                assert_eq!(cells[3].contains("Only with"), !conditions.is_empty(), "{row}");
                cells[..3].join(" | ")
            })
            .collect();
        let known: Vec<String> = KEYS
            .iter()
            .map(|key| {
                let value = (key.get)(&default());
                let value = value.map_or("unset".to_owned(), |value| format!("`{value}`"));
                format!("`{}` | {} | {value}", key.name, key.kind)
            })
            .collect();
        assert_eq!(documented, known);
    }

    #[test]
    fn every_recipe_of_the_project_is_valid() {
        let mut names = Vec::new();
        for entry in fs::read_dir(repository("recipes")).unwrap() {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            assert!(text.starts_with("# "), "{name} needs a header that says what it is");
            if let Err(error) = Recipe::from_toml(&text, &name) {
                panic!("{error}");
            }
            names.push(name);
        }
        assert!(names.contains(&"char-rnn.toml".to_owned()), "{names:?}");
    }

    #[test]
    fn every_key_changes_the_recipe_and_survives_a_file() {
        let others = [
            ("task", "lm", ""),
            ("seed", "7", ""),
            ("data.split", "[0.5, 0.25, 0.25]", ""),
            ("data.memory", "0", ""),
            ("data.input", "numbers", "task=classify"),
            ("data.text", "review", "task=classify"),
            ("data.label", "stars", "task=classify"),
            ("data.group", "author", "task=classify"),
            ("data.id", "series", "task=classify data.input=numbers"),
            ("data.step", "time", "task=tag data.input=numbers"),
            ("data.file_label", "(.)_", "task=classify data.input=audio"),
            ("data.image_size", "64", "task=tag data.input=images"),
            ("data.color", "false", "task=tag data.input=images"),
            ("data.quoting", "false", "task=classify"),
            ("data.max_length", "200", "task=classify"),
            ("data.targets", "a, b", "task=forecast"),
            ("data.features", "[\"a,b\"]", "task=forecast"),
            ("data.time", "hour", "task=forecast"),
            ("data.gaps", "ignore", "task=forecast"),
            ("data.window", "24", "task=forecast"),
            ("data.horizon", "1", "task=forecast"),
            ("data.season", "7", "task=forecast"),
            ("data.stride", "5", "task=forecast"),
            ("data.scaling", "window", "task=forecast"),
            ("data.format", "files", "task=translate"),
            ("data.source", "2", "task=translate"),
            ("data.target", "1", "task=translate"),
            ("data.stress", "true", "task=translate"),
            ("data.unicode", "nfkc", "task=translate"),
            ("data.lowercase", "true", "task=translate"),
            ("data.tokens", "byte", ""),
            ("data.source_tokens", "char", "task=translate"),
            ("data.target_tokens", "bpe", "task=translate"),
            ("data.split_punctuation", "false", "task=translate"),
            ("data.joint_vocab", "true", "task=translate"),
            ("data.max_len", "auto", "task=translate"),
            ("data.too_long", "cut", "task=translate"),
            ("data.reverse_source", "true", "task=translate"),
            ("data.min_count", "3", "data.tokens=word"),
            ("data.vocab_size", "10000", "data.tokens=word"),
            ("data.length", "400", "task=adding train.steps=9"),
            ("data.symbols", "4", "task=copy train.steps=9"),
            ("data.memorize", "5", "task=copy train.steps=9"),
            ("model.cell", "rnn", ""),
            ("model.activation", "relu", "model.cell=rnn"),
            ("model.gate_activation", "hard-sigmoid", ""),
            ("model.reset", "before", "model.cell=gru"),
            ("model.peephole", "true", ""),
            ("model.layers", "3", ""),
            ("model.hidden", "200", ""),
            ("model.embedding", "64", ""),
            ("model.filters", "8", "task=tag data.input=images"),
            ("model.convolutions", "4", "task=tag data.input=images"),
            ("model.direction", "forward", "task=classify"),
            ("model.lookahead", "5", "task=tag data.input=numbers model.direction=forward"),
            ("model.pooling", "max", "task=classify"),
            ("model.attention", "additive", "task=translate"),
            ("model.input_feeding", "true", "task=translate"),
            ("model.bridge", "copy", "task=translate"),
            ("model.share_embeddings", "true", "task=translate data.joint_vocab=true"),
            ("model.characters", "25", "task=tag data.tokens=word"),
            ("model.crf", "true", "task=tag data.tokens=word"),
            ("model.base", "season", "task=forecast data.season=7"),
            ("model.quantiles", "[0.25, 0.5]", "task=forecast"),
            ("model.dense_activation", "gelu", "task=classify model.cell=none"),
            ("model.norm", "layer", ""),
            ("model.residual", "true", ""),
            ("model.tie_embeddings", "true", ""),
            ("model.dropout", "0.5", ""),
            ("model.input_dropout", "0.4", ""),
            ("model.output_dropout", "0.3", ""),
            ("model.locked_dropout", "true", "model.output_dropout=0.5"),
            ("model.embedding_dropout", "0.1", ""),
            ("model.weight_dropout", "0.5", ""),
            ("model.recurrent_dropout", "0.25", ""),
            ("model.update_dropout", "0.3", ""),
            ("model.zoneout", "0.15", ""),
            ("model.zoneout_cell", "0.5", ""),
            ("model.init", "xavier-normal", ""),
            ("model.init_range", "0.05", "model.init=uniform"),
            ("model.init_gain", "2", "model.init=orthogonal"),
            ("model.init_fan", "out", "model.init=he-normal"),
            ("model.recurrent_init", "identity", ""),
            ("model.recurrent_gain", "0.5", "model.recurrent_init=identity"),
            ("model.forget_bias", "0", ""),
            ("model.chrono", "200", ""),
            ("train.epochs", "2.5", ""),
            ("train.steps", "100", ""),
            ("train.batch", "20", ""),
            ("train.batch_tokens", "2000", "task=translate"),
            ("train.bptt", "35", ""),
            ("train.k1", "10", ""),
            ("train.k2", "90", ""),
            ("train.window", "100", "task=tag data.input=numbers model.direction=forward"),
            ("train.vary_bptt", "true", ""),
            ("train.accumulate", "4", ""),
            ("train.precision", "bf16", ""),
            ("train.optimizer", "rmsprop", ""),
            ("train.learning_rate", "1e-3", ""),
            ("train.momentum", "0.5", "train.optimizer=momentum"),
            ("train.beta1", "0.8", ""),
            ("train.beta2", "0.99", ""),
            ("train.alpha", "0.9", "train.optimizer=rmsprop"),
            ("train.epsilon", "1e-6", ""),
            ("train.nonmono", "2", "train.optimizer=nt-asgd"),
            ("train.weight_decay", "0.01", ""),
            ("train.activation_penalty", "2", ""),
            ("train.temporal_penalty", "1", ""),
            ("train.label_smoothing", "0.1", ""),
            ("train.teacher_forcing", "0.5", "task=translate"),
            ("train.sampling", "linear", "task=translate"),
            ("train.sampling_steps", "500", "task=translate train.sampling=linear"),
            ("train.decode_sentences", "50", "task=translate"),
            ("train.bleu_tokens", "char", "task=translate"),
            ("train.loss", "mae", "task=forecast"),
            ("train.class_weights", "balanced", "task=classify"),
            ("train.metric", "accuracy", "task=classify"),
            ("train.schedule", "cosine", ""),
            ("train.decay", "0.1", "train.schedule=plateau"),
            ("train.decay_every", "100", "train.schedule=step"),
            ("train.decay_after", "4", "train.schedule=epoch"),
            ("train.patience", "1", "train.schedule=plateau"),
            ("train.min_learning_rate", "1e-5", "train.schedule=cosine"),
            ("train.warmup_steps", "10", ""),
            ("train.early_stop", "4", ""),
            ("train.average", "mean", ""),
            ("train.average_decay", "0.9", "train.average=exponential"),
            ("train.average_from", "50", "train.average=mean"),
            ("train.clip_norm", "0", ""),
            ("train.clip_each_norm", "1", ""),
            ("train.clip_value", "0.5", ""),
            ("train.validate_every", "500", ""),
            ("train.checkpoint_seconds", "5", ""),
            ("train.sample_length", "0", ""),
            ("train.log_every", "1", ""),
        ];
        assert_eq!(
            others.map(|(name, ..)| name).to_vec(),
            KEYS.iter().map(|key| key.name).collect::<Vec<_>>()
        );
        for (name, value, needs) in others {
            let key = find(name).unwrap();
            let of = |task: &&Task| needs.split(' ').any(|need| need == format!("task={}", task.name()));
            let task = Task::ALL.iter().find(of).copied().unwrap_or(Task::Lm);
            let mut after = Recipe::default_for(task);
            let mut assignments: Vec<String> = needs.split_whitespace().map(str::to_owned).collect();
            assignments.push(format!("{name}={value}"));
            after.set_all(&assignments).unwrap();
            let mut before = after.clone();
            match (key.get)(&default()) {
                Some(value) => (key.set)(&mut before, &value).unwrap(),
                None => (key.unset)(&mut before),
            }
            assert_eq!(after == before, name == "task", "{name}");
            after.check().unwrap();
            assert_eq!(Recipe::from_toml(&after.to_toml(), "config.toml").unwrap(), after, "{name}");
        }
    }

    #[test]
    fn a_file_says_what_differs_from_the_defaults() {
        let text =
            "task = 'lm'\nmodel.hidden = 200\n[data]\nsplit = [\n  1, # all\n  0, 0]\n[train]\nsteps = 9\n";
        let recipe = Recipe::from_toml(text, "a.toml").unwrap();
        let mut expected = default();
        expected.model.hidden = 200;
        expected.data.split = [1.0, 0.0, 0.0];
        expected.train.steps = Some(9);
        expected.train.epochs = None;
        assert_eq!(recipe, expected);
        assert_eq!(Recipe::from_toml("task = \"lm\"", "a.toml").unwrap(), default());
    }

    #[test]
    fn a_wrong_file_is_refused_with_its_line() {
        let check = |text: &str, expected: &str| {
            let error = Recipe::from_toml(&format!("task = \"lm\"\n{text}\n"), "a.toml").unwrap_err();
            assert_eq!(error.to_string(), expected);
        };
        check("[model]\n\nhiden = 3", "a.toml:4: model.hiden is not a known key; did you mean model.hidden?");
        check("hidden = 3", "a.toml:2: hidden is not a known key; did you mean model.hidden?");
        check("[train]\nhidden = 3", "a.toml:3: train.hidden is not a known key; did you mean model.hidden?");
        check("[modle]\nlayers = 3", "a.toml:3: modle.layers is not a known key; did you mean model.layers?");
        check(
            "[data]\nwhatever = 3",
            "a.toml:3: data.whatever is not a known key; \
             the known keys are data.split, data.memory, data.input, data.text, data.label, data.group, data.id, data.step, \
             data.file_label, data.image_size, data.color, data.quoting, data.max_length, data.targets, data.features, data.time, data.gaps, \
             data.window, data.horizon, data.season, data.stride, data.scaling, data.format, data.source, \
             data.target, data.stress, data.unicode, data.lowercase, data.tokens, data.source_tokens, \
             data.target_tokens, data.split_punctuation, data.joint_vocab, data.max_len, data.too_long, data.reverse_source, \
             data.min_count, data.vocab_size, data.length, data.symbols, data.memorize",
        );
        check(
            "data = 3",
            "a.toml:2: data is not a known key; \
             the known keys are data.split, data.memory, data.input, data.text, data.label, data.group, data.id, data.step, \
             data.file_label, data.image_size, data.color, data.quoting, data.max_length, data.targets, data.features, data.time, data.gaps, \
             data.window, data.horizon, data.season, data.stride, data.scaling, data.format, data.source, \
             data.target, data.stress, data.unicode, data.lowercase, data.tokens, data.source_tokens, \
             data.target_tokens, data.split_punctuation, data.joint_vocab, data.max_len, data.too_long, data.reverse_source, \
             data.min_count, data.vocab_size, data.length, data.symbols, data.memorize",
        );
        check("[seeds]", "a.toml:2: seeds is not a known key; did you mean seed?");
        check(
            "[data.split]",
            "a.toml:2: data.split is {}, expected three shares that add up to 1, the first above 0",
        );
        check(
            "[model]\nhidden = -3",
            "a.toml:3: model.hidden is -3, expected a whole number from 1 to 65536",
        );
        check("model.hidden = 1.5", "a.toml:2: model.hidden is 1.5, expected a whole number from 1 to 65536");
        check("train.batch = 0", "a.toml:2: train.batch is 0, expected a whole number from 1 to 65536");
        check("train.batch = '5'", "a.toml:2: train.batch is \"5\", expected a whole number from 1 to 65536");
        check(
            "train.learning_rate = nan",
            "a.toml:2: train.learning_rate is nan, expected a number above 0, up to 1000",
        );
        check(
            "model.cell = 'tree'",
            "a.toml:2: model.cell is \"tree\", expected one of rnn, lstm, gru, min-gru, min-lstm, none",
        );
        check(
            "data.split = [0.9, 0.2, 0]",
            "a.toml:2: data.split is [0.9, 0.2, 0], expected three shares that add up to 1, the first above 0",
        );
        check(
            "[model]\ncell = 'lstm'\nreset = 'before'",
            "a.toml:4: model.reset has no effect with model.cell = \"lstm\"; it is read with gru only",
        );
        check(
            "[model]\nchrono = 200\ncell = 'rnn'",
            "a.toml:3: model.chrono has no effect with model.cell = \"rnn\"; it is read with lstm or gru only",
        );
        check(
            "[model]\nrecurrent_gain = 2",
            "a.toml:3: model.recurrent_gain has no effect with model.recurrent_init = unset; it is read with \
             xavier-uniform or xavier-normal or he-uniform or he-normal or orthogonal or identity only",
        );
        check(
            "[model]\nchrono = 200\nforget_bias = 1",
            "a.toml:3: model.chrono and model.forget_bias are both set, expected one of them",
        );
        check(
            "model.recurrent_init = 'uniform'",
            "a.toml:2: model.recurrent_init is \"uniform\", expected one of pytorch, xavier-uniform, \
             xavier-normal, he-uniform, he-normal, orthogonal, identity",
        );
        check(
            "[train]\nepochs = 3\nsteps = 4",
            "a.toml:4: train.steps and train.epochs are both set, expected one of them",
        );
        check(
            "[train]\nclip_value = 1\nclip_norm = 1",
            "a.toml:4: train.clip_norm and train.clip_value are both set, expected one of them",
        );
        check(
            "[train]\nschedule = 'step'",
            "a.toml:3: train.schedule = \"step\" needs train.decay_every, the steps between two decays",
        );
        check(
            "[train]\nschedule = 'epoch'",
            "a.toml:3: train.schedule = \"epoch\" needs train.decay_after, the epochs before the first decay",
        );
        check(
            "[train]\nschedule = 'cosine'\nsteps = 100\nwarmup_steps = 100",
            "a.toml:5: train.warmup_steps is 100, expected less than train.steps, which is 100: \
             the cosine has no step left",
        );
        check(
            "[train]\nschedule = 'plateau'\nmin_learning_rate = 1",
            "a.toml:4: train.min_learning_rate is 1, expected at most train.learning_rate, which is 0.002",
        );
        check(
            "[train]\noptimizer = 'nt-asgd'\naverage = 'mean'",
            "a.toml:4: train.optimizer = \"nt-asgd\" averages weights by itself, expected train.average = \"none\"",
        );
        check(
            "[train]\ndecay_every = 5",
            "a.toml:3: train.decay_every has no effect with train.schedule = \"constant\"; it is read with step only",
        );
        check(
            "[train]\nk2 = 20\nk1 = 30",
            "a.toml:4: train.k1 is 30, expected at most train.k2, which is 20",
        );
        check("[train]\nk2 = 20", "a.toml:3: train.k1 is 50, expected at most train.k2, which is 20");
        check(
            "[train]\nvary_bptt = true\nk1 = 20",
            "a.toml:3: train.vary_bptt needs train.k1 and train.k2 to be equal, found 20 and 50",
        );
        check(
            "[train]\naccumulate = 2\nk1 = 20",
            "a.toml:3: train.accumulate above 1 needs train.k1 and train.k2 to be equal, found 20 and 50",
        );
        check(
            "[model]\ncell = 'gru'\npeephole = true",
            "a.toml:4: model.peephole has no effect with model.cell = \"gru\"; it is read with lstm only",
        );
        check(
            "[model]\ncell = 'rnn'\ngate_activation = 'hard-sigmoid'",
            "a.toml:4: model.gate_activation has no effect with model.cell = \"rnn\"; it is read with lstm or gru only",
        );
        check(
            "[model]\nnorm = 'layer'\n[train]\nprecision = 'bf16'",
            "a.toml:5: train.precision = \"bf16\" needs a cell without options: model.norm, model.peephole, \
             model.gate_activation and model.activation (but relu) multiply 32-bit floats",
        );
        check(
            "[model]\ncell = 'gru'\nzoneout_cell = 0.5",
            "a.toml:4: model.zoneout_cell has no effect with model.cell = \"gru\"; it is read with lstm only",
        );
        check(
            "[model]\nupdate_dropout = 0.1\ncell = 'rnn'",
            "a.toml:3: model.update_dropout has no effect with model.cell = \"rnn\"; it is read with lstm or gru only",
        );
        check(
            "[model]\nlayers = 1\ndropout = 0.5",
            "a.toml:4: model.dropout drops out between layers, but model.layers is 1; \
             model.input_dropout and model.output_dropout are those around them",
        );
        check(
            "[model]\nresidual = true\nlayers = 1",
            "a.toml:3: model.residual adds a layer's input to its output from the second layer on, \
             but model.layers is 1",
        );
        check(
            "[model]\nlocked_dropout = true",
            "a.toml:3: model.locked_dropout needs model.dropout, model.input_dropout or model.output_dropout \
             above 0",
        );
        check(
            "[model]\nhidden = 200\ntie_embeddings = true",
            "a.toml:4: model.tie_embeddings needs model.embedding and model.hidden to be equal, found 128 and 200",
        );
        check("model.dropout = 1", "a.toml:2: model.dropout is 1, expected a number from 0 and below 1");
        check(
            "[data]\ntokens = 'bpe'\nvocab_size = 200",
            "a.toml:4: data.vocab_size is 200, expected more than the 256 bytes that data.tokens = \"bpe\" begins with",
        );
        check("seed = 1\nseed = 2", "a.toml:3: duplicate key");
        let check = |text: &str, expected: &str| {
            assert_eq!(Recipe::from_toml(text, "a.toml").unwrap_err().to_string(), expected);
        };
        check(
            "[model]\nhidden = 3",
            "a.toml: task is missing, expected one of lm, adding, copy, classify, tag, translate, forecast",
        );
        check(
            "task = 'lms'",
            "a.toml:1: task is \"lms\", expected one of lm, adding, copy, classify, tag, translate, forecast",
        );
        check(
            "task = 'adding'\ntrain.epochs = 3",
            "a.toml:2: train.epochs has no effect with task = \"adding\"; it is read with lm or classify or tag or translate or forecast only",
        );
        check(
            "task = 'tag'\n[model]\ncrf = true\n[train]\nlabel_smoothing = 0.1",
            "a.toml:5: train.label_smoothing has no effect with model.crf = true; it is read with false only",
        );
        for (key, value) in [
            ("text", "'review'"),
            ("group", "'author'"),
            ("quoting", "false"),
            ("tokens", "'word'"),
            ("min_count", "2"),
        ] {
            check(
                &format!("task = 'classify'\n[data]\ninput = 'numbers'\n{key} = {value}"),
                &format!(
                    "a.toml:4: data.{key} has no effect with data.input = \"numbers\"; it is read with text only"
                ),
            );
        }
        check(
            "task = 'classify'\ndata.input = 'audio'\ndata.label = 'class'",
            "a.toml:3: data.label has no effect with data.input = \"audio\"; it is read with text or numbers only",
        );
        check(
            "task = 'classify'\ndata.input = 'audio'\nmodel.embedding = 8",
            "a.toml:3: model.embedding has no effect with data.input = \"audio\"; it is read with text or images only",
        );
        check(
            "task = 'tag'\ndata.group = 'author'",
            "a.toml:2: data.group has no effect with task = \"tag\"; it is read with classify only",
        );
        check(
            "task = 'forecast'\nmodel.quantiles = [0.1, 0.9]",
            "a.toml:2: model.quantiles is [0.1, 0.9], expected ascending numbers above 0 and below 1 with 0.5 among them",
        );
        check(
            "task = 'forecast'\nmodel.quantiles = [0.5]\ntrain.loss = 'mae'",
            "a.toml:3: train.loss has no effect with model.quantiles = [0.5]; it is read with unset only",
        );
        check(
            "task = 'forecast'\nmodel.base = 'season'",
            "a.toml:2: model.base = \"season\" needs data.season above 1",
        );
        check(
            "task = 'adding'\ndata.symbols = 3",
            "a.toml:2: data.symbols has no effect with task = \"adding\"; it is read with copy only",
        );
        check(
            "task = 'copy'\n[train]\nschedule = 'epoch'\ndecay_after = 1",
            "a.toml:3: train.schedule = \"epoch\" needs a task with epochs, found task = \"copy\"",
        );
    }

    #[test]
    fn overrides_count_together() {
        let check = |assignments: &[&str], expected: Result<&str, &str>| {
            let mut recipe = default();
            let outcome = recipe.set_all(assignments).map_err(|error| error.to_string());
            match expected {
                Ok(line) => {
                    outcome.unwrap();
                    assert!(recipe.to_toml().lines().any(|found| found == line), "{}", recipe.to_toml());
                }
                Err(message) => {
                    assert_eq!(outcome.unwrap_err(), message);
                    assert_eq!(recipe, default(), "a refused override must change nothing");
                }
            }
        };
        check(&["model.reset=before", "model.cell=gru"], Ok("reset = \"before\""));
        check(&["model.hidden=5", "model.hidden=6"], Ok("hidden = 6"));
        check(&[" data.tokens = \"word\" "], Ok("tokens = \"word\""));
        check(&["train.steps=5"], Ok("steps = 5"));
        check(
            &["train.steps=5", "train.epochs=1"],
            Err("--set train.steps=5: train.steps and train.epochs are both set, expected one of them"),
        );
        check(
            &["model.layers=1", "model.reset=before"],
            Err("--set model.reset=before: model.reset has no effect with model.cell = \"lstm\"; \
                 it is read with gru only"),
        );
        check(
            &["model.hiden=3"],
            Err("--set model.hiden=3: model.hiden is not a known key; did you mean model.hidden?"),
        );
        check(
            &["model.hidden="],
            Err("--set model.hidden=: model.hidden is \"\", expected a whole number from 1 to 65536"),
        );
        check(&["model.hidden"], Err("--set model.hidden: expected key=value, such as model.hidden=200"));
    }

    #[test]
    fn an_override_may_take_the_effect_from_a_key_of_the_file() {
        let mut recipe =
            Recipe::from_toml("task = 'lm'\nmodel.forget_bias = 2\ntrain.epochs = 3", "a").unwrap();
        recipe.set_all(&["model.cell=gru", "train.steps=10"]).unwrap();
        let written = recipe.to_toml();
        assert!(!written.contains("forget_bias") && !written.contains("epochs"), "{written}");
        Recipe::from_toml(&written, "config.toml").unwrap();
    }

    #[test]
    fn a_recipe_made_in_code_is_checked() {
        let check = |change: fn(&mut Recipe), expected: &str| {
            let mut recipe = default();
            change(&mut recipe);
            let message = recipe.check().err().map(|error| error.to_string()).unwrap_or_default();
            assert_eq!(message, expected);
        };
        check(|_| {}, "");
        check(|r| r.train.batch = 0, "recipe: train.batch is 0, expected a whole number from 1 to 65536");
        check(
            |r| r.train.learning_rate = f64::INFINITY,
            "recipe: train.learning_rate is inf, expected a number above 0, up to 1000",
        );
        check(
            |r| r.seed = u64::MAX,
            "recipe: seed is \"18446744073709551615\", expected a whole number from 0",
        );
        check(
            |r| r.train.steps = Some(1),
            "recipe: train.steps and train.epochs are both set, expected one of them",
        );
        check(
            |r| r.train.epochs = None,
            "recipe: neither train.steps nor train.epochs is set, expected one of them",
        );
    }

    #[test]
    fn initial_weights_follow_their_keys() {
        let check = |assignments: &[&str], expected: Init| {
            let mut recipe = default();
            recipe.set_all(assignments).unwrap();
            assert_eq!(recipe.model.init(), expected, "{assignments:?}");
        };
        check(&[], Init::default());
        check(
            &["model.init=he-normal", "model.init_fan=out", "model.init_gain=3", "model.forget_bias=0"],
            Init {
                gates: GateBias::Forget(0.0),
                ..Init::both(WeightInit::HeNormal { fan: Fan::Out, gain: Some(3.0) })
            },
        );
        check(
            &["model.init=uniform", "model.init_range=0.05"],
            Init::both(WeightInit::Uniform { range: 0.05 }),
        );
        check(
            &["model.init=xavier-uniform", "model.recurrent_init=identity", "model.recurrent_gain=0.9"],
            Init {
                input: WeightInit::XavierUniform { gain: None },
                recurrent: WeightInit::Identity { scale: Some(0.9) },
                ..Init::default()
            },
        );
        check(&["model.chrono=200"], Init { gates: GateBias::Chrono { longest: 200 }, ..Init::default() });
    }

    #[test]
    fn the_recurrence_carries_its_variant() {
        let check = |assignments: &[&str], expected: Cell| {
            let mut recipe = default();
            recipe.set_all(assignments).unwrap();
            assert_eq!(recipe.model.recurrence(), expected);
        };
        check(&[], Cell::Lstm);
        check(&["model.cell=rnn", "model.activation=relu"], Cell::Rnn(Activation::Relu));
        check(&["model.cell=gru", "model.reset=before"], Cell::Gru(Reset::Before));
    }
}
