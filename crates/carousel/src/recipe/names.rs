//! Values that a recipe gives by name.

use carousel_kernels::{Activation, GateActivation, Precision, Reset};

use crate::data::{
    Base, Documents, Gaps, NormalForm, PairFormat, SeriesScaling, SoundFeatures, Tokens, TooLong,
};
use crate::init::Fan;
use crate::metrics::BleuTokens;
use crate::models::attention::Score;
use crate::models::captioner::Told;
use crate::models::dense::{DenseActivation, Norm};
use crate::models::pool::Pooling;
use crate::models::translator::Bridge;
use crate::recurrent::{Direction, Merge};

/// A value that is one of a few names in a recipe.
pub trait Named: Copy + PartialEq + 'static {
    /// Every value, in the order of the documentation.
    const ALL: &'static [Self];

    /// The name in recipes and messages.
    fn name(self) -> &'static str;
}

/// `named!(Type { Value: "name", .. });`: the names of all values, in the order of the documentation.
macro_rules! named {
    ($type:ident { $($value:ident: $name:literal),+ $(,)? }) => {
        impl Named for $type {
            const ALL: &'static [$type] = &[$($type::$value),+];

            fn name(self) -> &'static str {
                match self {
                    $($type::$value => $name),+
                }
            }
        }
    };
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
    /// From an image, or features of one, to a sentence about it.
    Caption,
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

named!(Task {
    Lm: "lm",
    Adding: "adding",
    Copy: "copy",
    Classify: "classify",
    Tag: "tag",
    Caption: "caption",
    Translate: "translate",
    Forecast: "forecast",
});

/// The recurrent cell, without its variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CellName {
    /// Vanilla recurrence.
    Rnn,
    /// Long short-term memory.
    Lstm,
    /// Gated recurrent unit.
    Gru,
    /// The minimal GRU; see [`MinGru`](crate::minimal::MinGru).
    MinGru,
    /// The minimal LSTM; see [`MinLstm`](crate::minimal::MinLstm).
    MinLstm,
    /// No recurrence: feed-forward layers.
    None,
}

named!(CellName {
    Rnn: "rnn",
    Lstm: "lstm",
    Gru: "gru",
    MinGru: "min-gru",
    MinLstm: "min-lstm",
    None: "none",
});

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

named!(InputName { Text: "text", Numbers: "numbers", Audio: "audio", Images: "images" });

/// How much a class counts in the loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClassWeights {
    /// Every example the same.
    None,
    /// Every class the same: an example counts the less, the more there are of its class.
    Balanced,
}

named!(ClassWeights { None: "none", Balanced: "balanced" });

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

named!(LossName { Mse: "mse", Mae: "mae", Huber: "huber" });

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

named!(MetricName {
    Loss: "loss",
    Accuracy: "accuracy",
    MacroF1: "macro_f1",
    BalancedAccuracy: "balanced_accuracy",
    SpanF1: "span_f1",
    Bleu: "bleu",
    ExactMatch: "exact_match",
});

/// What a decoder looks at the source with; see [`Score`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionName {
    /// A bilinear form.
    General,
    /// A bilinear form over √H.
    ScaledGeneral,
    /// A dot product.
    Dot,
    /// A dot product over √H.
    ScaledDot,
    /// A small net.
    Additive,
    /// Nothing: all that is known of the source is the first state.
    None,
}

named!(AttentionName {
    General: "general",
    ScaledGeneral: "scaled-general",
    Dot: "dot",
    ScaledDot: "scaled-dot",
    Additive: "additive",
    None: "none",
});

impl AttentionName {
    /// The score; `None` without attention.
    #[must_use]
    pub fn score(self) -> Option<Score> {
        match self {
            AttentionName::General => Some(Score::General),
            AttentionName::ScaledGeneral => Some(Score::ScaledGeneral),
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

named!(SamplingName {
    Constant: "constant",
    Linear: "linear",
    Exponential: "exponential",
    InverseSigmoid: "inverse-sigmoid",
});

/// How weights are drawn, without the numbers; see [`WeightInit`](crate::init::WeightInit).
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

named!(InitName {
    PyTorch: "pytorch",
    Uniform: "uniform",
    XavierUniform: "xavier-uniform",
    XavierNormal: "xavier-normal",
    HeUniform: "he-uniform",
    HeNormal: "he-normal",
    Orthogonal: "orthogonal",
    Identity: "identity",
});

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

named!(Optimizer {
    Sgd: "sgd",
    Momentum: "momentum",
    RmsProp: "rmsprop",
    Adam: "adam",
    AdamW: "adamw",
    NtAsgd: "nt-asgd",
});

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

named!(ScheduleName {
    Constant: "constant",
    Step: "step",
    Epoch: "epoch",
    Plateau: "plateau",
    Cosine: "cosine",
});

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

named!(AverageName { None: "none", Mean: "mean", Exponential: "exponential" });

// Values of other rooms that a recipe names.
named!(Gaps { Refuse: "refuse", Ignore: "ignore" });
named!(SeriesScaling { Series: "series", Global: "global", Window: "window", None: "none" });
named!(Base { Last: "last", Season: "season", None: "none" });
named!(Told { State: "state", Input: "input" });
named!(Bridge { Dense: "dense", Copy: "copy", Zero: "zero" });
named!(PairFormat {
    Auto: "auto",
    Columns: "columns",
    Table: "table",
    Files: "files",
    Dictionary: "dictionary"
});
named!(NormalForm { None: "none", Nfc: "nfc", Nfd: "nfd", Nfkc: "nfkc", Nfkd: "nfkd" });
named!(SoundFeatures { LogMel: "log-mel", Mfcc: "mfcc" });
named!(Documents { Files: "files", Lines: "lines" });
named!(TooLong { Drop: "drop", Cut: "cut" });
named!(Direction { Both: "both", Forward: "forward", Reverse: "reverse" });
named!(Merge { Concat: "concat", Sum: "sum" });
named!(Pooling { Last: "last", Mean: "mean", Max: "max", Attention: "attention" });
/// What sums are normalised by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormName {
    /// Nothing.
    None,
    /// The units of each example.
    Layer,
    /// Feed-forward layers: each unit over a batch.
    Batch,
    /// Cells: what they read, over the frames of a batch; see [`BatchNorm::Input`](crate::batch_norm::BatchNorm).
    BatchInput,
    /// Cells: all their sums, over a batch at each step; see
    /// [`BatchNorm::Recurrent`](crate::batch_norm::BatchNorm).
    BatchRecurrent,
}

named!(NormName {
    None: "none",
    Layer: "layer",
    Batch: "batch",
    BatchInput: "batch-input",
    BatchRecurrent: "batch-recurrent",
});

impl NormName {
    /// That of feed-forward layers.
    #[must_use]
    pub fn dense(self) -> Norm {
        match self {
            NormName::Layer => Norm::Layer,
            NormName::Batch => Norm::Batch,
            NormName::None | NormName::BatchInput | NormName::BatchRecurrent => Norm::None,
        }
    }
}
named!(Fan { In: "in", Out: "out" });
named!(Precision { F32: "f32", Bf16: "bf16" });
named!(GateActivation { Sigmoid: "sigmoid", HardSigmoid: "hard-sigmoid" });
named!(Activation {
    Tanh: "tanh",
    Relu: "relu",
    LeakyRelu: "leaky-relu",
    Elu: "elu",
    Silu: "silu",
    HardTanh: "hard-tanh",
});
named!(Reset { After: "after", Before: "before" });

impl Named for BleuTokens {
    const ALL: &'static [BleuTokens] = &[BleuTokens::V13a, BleuTokens::Char, BleuTokens::None];

    fn name(self) -> &'static str {
        BleuTokens::name(self)
    }
}

impl Named for DenseActivation {
    const ALL: &'static [DenseActivation] = &DenseActivation::ALL;

    fn name(self) -> &'static str {
        DenseActivation::name(self)
    }
}

impl Named for Tokens {
    const ALL: &'static [Tokens] = &Tokens::ALL;

    fn name(self) -> &'static str {
        Tokens::name(self)
    }
}
