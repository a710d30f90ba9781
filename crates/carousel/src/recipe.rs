//! The recipe: everything that decides what an experiment does, as typed values.
//!
//! A recipe comes from a TOML file and from `key=value` overrides. Both go through one register, `KEYS`
//! in `recipe/register.rs`: the parser, the range checks, the error messages, the file that is written
//! into a run and the table in `docs/recipe.md` all follow it. To add a key, add a field with its
//! default, a line in `KEYS` and a row in `docs/recipe.md`; a test compares the two. What several keys
//! must be together is a line in `RULES`.

mod names;
mod read;
mod register;
mod rules;
mod values;

use carousel_kernels::{Activation, Cell, CellOptions, GateActivation, Precision, Reset};

use crate::batch_norm::BatchNorm;
use crate::data::{
    Base, Documents, Gaps, MaxLen, NormalForm, PairFormat, SeriesScaling, SoundFeatures, Tokens, TooLong,
    Truncation,
};
use crate::init::{Fan, FirstState, GateBias, Init, WeightInit};
use crate::metrics::BleuTokens;
use crate::minimal::{MinGru, MinLstm};
use crate::models::captioner::Told;
use crate::models::dense::DenseActivation;
use crate::models::language_model::Regularize;
use crate::models::pool::Pooling;
use crate::models::translator::Bridge;
use crate::own_cell::AnyCell;
use crate::recurrent::{Direction, Merge};
use crate::regularize::Dropout;
pub use names::{
    AttentionName, AverageName, CellName, ClassWeights, InitName, InputName, LossName, MetricName, Named,
    NormName, Optimizer, SamplingName, ScheduleName, Task,
};
pub use read::{Place, RecipeError};

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
    /// What a document is. [`Task::Lm`] only.
    pub documents: Documents,
    /// Megabytes of text from which on files are not held, but read piece by piece. [`Task::Lm`],
    /// [`Task::Classify`] of text.
    pub memory: usize,
    /// What an example is made of. [`Task::Classify`] and [`Task::Tag`].
    pub input: InputName,
    /// The column of the path of an image or array. [`Task::Caption`].
    pub path: String,
    /// The column of the text. [`Task::Classify`] of text, [`Task::Caption`].
    pub text: String,
    /// The column of the class, or of the label of a step. [`Task::Classify`], [`Task::Tag`] of numbers.
    pub label: String,
    /// The column whose equal values stay in one part when data is split.
    pub group: Option<String>,
    /// What of a file's name stays in one part when data is split, a pattern with a group.
    pub file_group: Option<String>,
    /// The column that tells sequences of numbers in one table apart; unset: each file is one.
    pub id: Option<String>,
    /// The column that the steps of a sequence are ordered by; unset: as they stand.
    pub step: Option<String>,
    /// What of a file's name is its class, a pattern with a group; unset: the folder's name.
    pub file_label: Option<String>,
    /// Columns of words and of their tags, counted from 1.
    pub word_column: Option<usize>,
    /// See there.
    pub tag_column: Option<usize>,
    /// What becomes of sound. [`InputName::Audio`].
    pub sound: SoundFeatures,
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
    /// The name of the source's column in a table. [`Task::Translate`].
    pub source_column: Option<String>,
    /// That of the target's. [`Task::Translate`].
    pub target_column: Option<String>,
    /// Whether the phones of a dictionary keep the digits of their stress. [`Task::Translate`].
    pub stress: bool,
    /// Which of Unicode's normal forms text is brought into. [`Task::Translate`], [`Task::Caption`].
    pub unicode: NormalForm,
    /// Whether all letters become small. [`Task::Translate`], [`Task::Caption`].
    pub lowercase: bool,
    /// What one token is.
    pub tokens: Tokens,
    /// The same for the source alone; unset: as `tokens`. [`Task::Translate`].
    pub source_tokens: Option<Tokens>,
    /// The same for the target alone; unset: as `tokens`. [`Task::Translate`].
    pub target_tokens: Option<Tokens>,
    /// Whether words are cut where letters meet punctuation. [`Task::Translate`], [`Task::Caption`].
    pub split_punctuation: bool,
    /// Whether both sides have one vocabulary. [`Task::Translate`].
    pub joint_vocab: bool,
    /// Places of a sentence, its two ends included. [`Task::Translate`], [`Task::Caption`].
    pub max_len: MaxLen,
    /// What becomes of longer ones. [`Task::Translate`], [`Task::Caption`].
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
    /// The non-linearity of the vanilla cell; of an LSTM's candidate and `c`, of a GRU's candidate.
    pub activation: Activation,
    /// The gates' non-linearity. `lstm` and `gru` only.
    pub gate_activation: GateActivation,
    /// Where the reset gate acts. `gru` only.
    pub reset: Reset,
    /// Whether i, f and o see `c`. `lstm` only.
    pub peephole: bool,
    /// `P`, values that `h` is projected to; unset: it is not. `lstm` only.
    pub projection: Option<usize>,
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
    /// What becomes of the outputs of two directions; unset: they stand beside each other, and are added where
    /// attention needs equal widths. [`Task::Classify`], [`Task::Tag`], [`Task::Translate`] and [`Task::Forecast`].
    pub merge: Option<Merge>,
    /// Steps that a label may hang on behind its own. [`Task::Tag`] of numbers only.
    pub lookahead: usize,
    /// How steps become one vector; unset: the last step, the mean without a recurrence. [`Task::Classify`] only.
    pub pooling: Option<Pooling>,
    /// How the decoder is told of its subject. [`Task::Caption`] only.
    pub told: Told,
    /// What the decoder looks at the source or subject with. [`Task::Translate`] and [`Task::Caption`] only.
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
    pub norm: NormName,
    /// Steps with statistics of their own. [`NormName::BatchRecurrent`] only.
    pub norm_steps: usize,
    /// Whether each layer but the first adds what it reads to what it gives.
    pub residual: bool,
    /// Whether what sequences begin from is learned.
    pub learned_state: bool,
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
        let norm = match self.norm {
            NormName::BatchInput => Some(BatchNorm::Input),
            NormName::BatchRecurrent => Some(BatchNorm::Recurrent { steps: self.norm_steps }),
            NormName::None | NormName::Layer | NormName::Batch => None,
        };
        let normalised = |cell: Cell| Some(norm.map_or(cell.into(), |norm| norm.of(cell)));
        match self.cell {
            CellName::Rnn => normalised(Cell::Rnn(self.activation)),
            CellName::Lstm => normalised(Cell::Lstm),
            CellName::Gru => normalised(Cell::Gru(self.reset)),
            CellName::MinGru => Some((&MinGru).into()),
            CellName::MinLstm => Some((&MinLstm).into()),
            CellName::None => None,
        }
    }

    /// What the cells have beside their equations.
    #[must_use]
    pub fn options(&self) -> CellOptions {
        let (gate, activation) = match self.cell {
            CellName::Lstm | CellName::Gru => (self.gate_activation, self.activation),
            CellName::Rnn | CellName::MinGru | CellName::MinLstm | CellName::None => Default::default(),
        };
        let peephole = self.peephole && self.cell == CellName::Lstm;
        let norm = self.norm == NormName::Layer;
        CellOptions { norm, peephole, gate, activation, projection: self.projected() }
    }

    /// Values that `h` is projected to, where it is.
    fn projected(&self) -> Option<usize> {
        self.projection.filter(|_| self.cell == CellName::Lstm)
    }

    /// `P`, values of `h` in one direction.
    #[must_use]
    pub fn values(&self) -> usize {
        self.projected().unwrap_or(self.hidden)
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
        let state = if self.learned_state { FirstState::Learned } else { FirstState::Zero };
        Init { input, recurrent, gates, state }
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
    /// Sentences that are translated in a validation; 0: none. [`Task::Translate`], [`Task::Caption`].
    pub decode_sentences: usize,
    /// What BLEU counts. [`Task::Translate`], [`Task::Caption`].
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
    /// Validations without a better [`metric`](TrainRecipe::metric) after which a run ends.
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

impl Recipe {
    /// What keeps a model from learning its data by heart.
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
                documents: Documents::Files,
                memory: 64,
                input: InputName::Text,
                path: "image".to_owned(),
                text: "text".to_owned(),
                label: "label".to_owned(),
                group: None,
                file_group: None,
                id: None,
                step: None,
                file_label: None,
                word_column: None,
                tag_column: None,
                sound: SoundFeatures::LogMel,
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
                source_column: None,
                target_column: None,
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
                projection: None,
                layers: 2,
                hidden: 128,
                embedding: 128,
                filters: 16,
                convolutions: 3,
                direction: Direction::Both,
                merge: None,
                lookahead: 0,
                pooling: None,
                told: Told::State,
                attention: AttentionName::ScaledGeneral,
                bridge: Bridge::Dense,
                input_feeding: false,
                share_embeddings: false,
                characters: None,
                crf: false,
                base: Base::Last,
                quantiles: None,
                dense_activation: DenseActivation::Relu,
                norm: NormName::None,
                norm_steps: 100,
                residual: false,
                learned_state: false,
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
        if !matches!(task, Task::Lm | Task::Adding | Task::Copy) {
            recipe.model.layers = 1;
        }
        if task == Task::Forecast {
            recipe.data.split = [0.7, 0.15, 0.15];
            recipe.model.direction = Direction::Forward;
            recipe.model.hidden = 64;
        }
        if task == Task::Caption {
            recipe.data.input = InputName::Images;
            recipe.data.text = "caption".to_owned();
            recipe.model.attention = AttentionName::Additive;
        }
        if matches!(task, Task::Tag | Task::Caption | Task::Translate) {
            recipe.data.tokens = Tokens::Word;
        }
        if !task.has_epochs() {
            // Made on the fly: there are no epochs to count.
            (recipe.train.epochs, recipe.train.steps) = (None, Some(5000));
        }
        recipe
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
