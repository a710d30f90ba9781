//! The register of keys: their names, what values they take, when they count, and which go together.

use std::fmt;

use crate::own_cell::AnyCell;
use carousel_kernels::{Activation, Cell, CellOptions, GateActivation, Precision, Reset};
use toml::Value;

use super::{
    AttentionName, AverageName, CellName, ClassWeights, InitName, InputName, LossName, MetricName, Named,
    NormName, Optimizer, Place, Recipe, RecipeError, SamplingName, ScheduleName, Task,
};
use crate::data::{
    Base, Documents, Gaps, MaxLen, NormalForm, PairFormat, SeriesScaling, SoundFeatures, Tokens, TooLong,
    Truncation,
};
use crate::init::Fan;
use crate::metrics::BleuTokens;
use crate::models::attention::Score;
use crate::models::captioner::Told;
use crate::models::dense::DenseActivation;
use crate::models::pool::Pooling;
use crate::models::translator::Bridge;
use crate::recurrent::{Direction, Merge};

/// One line of the register.
pub(super) struct Key {
    /// Dotted, as in `--set`.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// The key counts only where this holds.
    pub(super) only_with: Option<OnlyWith>,
    /// And only where this holds too, as far as its key counts.
    pub(super) and_with: Option<OnlyWith>,
    /// Where this holds, that need not.
    pub(super) free_with: Option<OnlyWith>,
    pub(super) get: fn(&Recipe) -> Option<Value>,
    pub(super) set: fn(&mut Recipe, &Value) -> Option<()>,
    /// Takes the value away where the key can be unset.
    pub(super) unset: fn(&mut Recipe),
}

/// "The key counts only where `key` is one of `values`."
#[derive(Clone, Copy)]
pub(super) struct OnlyWith {
    pub(super) key: &'static str,
    pub(super) values: &'static [&'static str],
}

impl OnlyWith {
    /// The condition and the value found instead, where the recipe does not meet it.
    fn unmet(self, recipe: &Recipe) -> Option<(OnlyWith, String)> {
        let found = (find(self.key)?.get)(recipe);
        let name = found.as_ref().map_or("unset".to_owned(), |value| match value {
            Value::String(name) => name.clone(),
            other => other.to_string(),
        });
        let meets = self.values.contains(&name.as_str());
        (!meets).then(|| (self, found.map_or(name, |value| value.to_string())))
    }
}

impl Key {
    const fn only_with(mut self, key: &'static str, values: &'static [&'static str]) -> Key {
        self.only_with = Some(OnlyWith { key, values });
        self
    }

    const fn and_with(mut self, key: &'static str, values: &'static [&'static str]) -> Key {
        self.and_with = Some(OnlyWith { key, values });
        self
    }

    const fn free_with(mut self, key: &'static str, values: &'static [&'static str]) -> Key {
        self.free_with = Some(OnlyWith { key, values });
        self
    }

    /// The condition that the recipe does not meet, and the value found instead. A key that hangs on one
    /// that itself does not count does not count either.
    pub(super) fn blocked(&self, recipe: &Recipe) -> Option<(OnlyWith, String)> {
        let hangs =
            self.only_with.and_then(|only| find(only.key)?.blocked(recipe).or_else(|| only.unmet(recipe)));
        hangs.or_else(|| {
            let and = self.and_with?;
            if self.free_with.is_some_and(|free| free.unmet(recipe).is_none()) {
                return None;
            }
            if find(and.key)?.blocked(recipe).is_some() { None } else { and.unmet(recipe) }
        })
    }

    pub(super) fn refuse(&self, place: Place, value: &Value) -> RecipeError {
        RecipeError::Value { place, key: self.name, found: value.to_string(), wanted: self.kind.to_string() }
    }
}

macro_rules! key {
    (@line $name:expr, $kind:expr, $($field:ident).+) => {
        Key {
            name: $name,
            kind: $kind,
            only_with: None,
            and_with: None,
            free_with: None,
            get: |recipe| Setting::write(&recipe.$($field).+),
            set: |recipe, value| Setting::read(value).map(|read| recipe.$($field).+ = read),
            unset: |recipe| Setting::unset(&mut recipe.$($field).+),
        }
    };
    ($field:ident, $kind:expr) => { key!(@line stringify!($field), $kind, $field) };
    ($section:ident.$field:ident, $kind:expr) => {
        key!(@line concat!(stringify!($section), ".", stringify!($field)), $kind, $section.$field)
    };
}

/// The tasks that read data, in passes.
const READS: &[&str] = &["lm", "classify", "tag", "caption", "translate", "forecast"];
/// The tasks whose data can be text.
const TEXTS: &[&str] = &["lm", "classify", "tag", "caption", "translate"];
/// The tasks that read a sequence before they answer.
const READERS: &[&str] = &["classify", "tag", "translate", "forecast"];
/// The values of `data.documents` that are read as streams.
const STREAMS: &[&str] = &["files"];
const FORECAST: &[&str] = &["forecast"];
/// The tasks that read labelled examples.
const LABELLED: &[&str] = &["classify", "tag"];
/// The tasks that read separate examples.
const EXAMPLES: &[&str] = &["classify", "tag", "caption", "translate"];
/// The tasks whose models read and write tokens.
const WRITES: &[&str] = &["lm", "caption", "translate"];
const TRANSLATE: &[&str] = &["translate"];
const CAPTION: &[&str] = &["caption"];
/// The tasks that write sentences about what they read.
const SENTENCES: &[&str] = &["caption", "translate"];
/// The values of `model.attention` that look at the source.
const ATTENTION: &[&str] = &["general", "dot", "scaled-dot", "additive"];
/// The cells that the kernels know, whose steps read `h` through weights.
const FUSED: &[&str] = &["rnn", "lstm", "gru"];
/// All cells of a recurrence.
const RECURRENT: &[&str] = &["rnn", "lstm", "gru", "min-gru", "min-lstm"];

const COUNT: u64 = u32::MAX as u64;
const SIZE: u64 = 1 << 16;

/// The values of `model.init` whose width `model.init_gain` scales.
const SCALED: &[&str] =
    &["xavier-uniform", "xavier-normal", "he-uniform", "he-normal", "orthogonal", "identity"];

/// The register of keys, in the order of `docs/recipe.md` and of written recipes.
pub(super) const KEYS: &[Key] = &[
    key!(task, Kind::OneOf(names::<Task>)),
    key!(seed, Kind::Whole(0, i64::MAX as u64)),
    key!(data.split, Kind::Shares).only_with("task", READS),
    key!(data.documents, Kind::OneOf(names::<Documents>)).only_with("task", &["lm"]),
    key!(data.memory, Kind::Whole(0, COUNT))
        .only_with("task", &["lm", "classify"])
        .and_with("data.documents", STREAMS),
    key!(data.input, Kind::OneOf(names::<InputName>)).only_with("task", &["classify", "tag", "caption"]),
    key!(data.path, Kind::Text).only_with("task", CAPTION),
    key!(data.text, Kind::Text)
        .only_with("task", &["classify", "caption"])
        .and_with("data.input", &["text"])
        .free_with("task", CAPTION),
    key!(data.label, Kind::Text).only_with("task", LABELLED).and_with("data.input", &["text", "numbers"]),
    key!(data.group, Kind::Text)
        .only_with("task", &["classify", "caption"])
        .and_with("data.input", &["text"])
        .free_with("task", CAPTION),
    key!(data.id, Kind::Text)
        .only_with("task", &["classify", "tag", "forecast"])
        .and_with("data.input", &["numbers"]),
    key!(data.step, Kind::Text).only_with("task", &["tag"]).and_with("data.input", &["numbers"]),
    key!(data.file_label, Kind::Text)
        .only_with("task", &["classify"])
        .and_with("data.input", &["numbers", "audio"]),
    key!(data.sound, Kind::OneOf(names::<SoundFeatures>)).only_with("data.input", &["audio"]),
    key!(data.image_size, Kind::Whole(1, 4096)).only_with("data.input", &["images"]),
    key!(data.color, Kind::Flag).only_with("data.input", &["images"]),
    key!(data.quoting, Kind::Flag)
        .only_with("task", &["classify", "caption"])
        .and_with("data.input", &["text"])
        .free_with("task", CAPTION),
    key!(data.max_length, Kind::Whole(1, COUNT)).only_with("task", LABELLED),
    key!(data.targets, Kind::Names).only_with("task", FORECAST),
    key!(data.features, Kind::Names).only_with("task", FORECAST),
    key!(data.time, Kind::Text).only_with("task", FORECAST),
    key!(data.gaps, Kind::OneOf(names::<Gaps>)).only_with("task", FORECAST),
    key!(data.window, Kind::Whole(1, SIZE)).only_with("task", FORECAST),
    key!(data.horizon, Kind::Whole(1, SIZE)).only_with("task", FORECAST),
    key!(data.season, Kind::Whole(1, SIZE)).only_with("task", FORECAST),
    key!(data.stride, Kind::Whole(1, SIZE)).only_with("task", FORECAST),
    key!(data.scaling, Kind::OneOf(names::<SeriesScaling>)).only_with("task", FORECAST),
    key!(data.format, Kind::OneOf(names::<PairFormat>)).only_with("task", TRANSLATE),
    key!(data.source, Kind::Whole(1, SIZE)).only_with("task", TRANSLATE),
    key!(data.target, Kind::Whole(1, SIZE)).only_with("task", TRANSLATE),
    key!(data.stress, Kind::Flag).only_with("task", TRANSLATE),
    key!(data.unicode, Kind::OneOf(names::<NormalForm>)).only_with("task", SENTENCES),
    key!(data.lowercase, Kind::Flag).only_with("task", SENTENCES),
    key!(data.tokens, Kind::OneOf(names::<Tokens>))
        .only_with("task", TEXTS)
        .and_with("data.input", &["text"])
        .free_with("task", CAPTION),
    key!(data.source_tokens, Kind::OneOf(names::<Tokens>)).only_with("task", TRANSLATE),
    key!(data.target_tokens, Kind::OneOf(names::<Tokens>)).only_with("task", TRANSLATE),
    key!(data.split_punctuation, Kind::Flag).only_with("task", SENTENCES),
    key!(data.joint_vocab, Kind::Flag).only_with("task", TRANSLATE),
    key!(data.max_len, Kind::MaxLen).only_with("task", SENTENCES),
    key!(data.too_long, Kind::OneOf(names::<TooLong>)).only_with("task", SENTENCES),
    key!(data.reverse_source, Kind::Flag).only_with("task", TRANSLATE),
    key!(data.min_count, Kind::Whole(1, COUNT)).only_with("data.tokens", &["word", "bpe"]),
    key!(data.vocab_size, Kind::Whole(3, COUNT)).only_with("data.tokens", &["word", "bpe"]),
    key!(data.length, Kind::Whole(2, SIZE)).only_with("task", &["adding", "copy"]),
    key!(data.symbols, Kind::Whole(2, SIZE)).only_with("task", &["copy"]),
    key!(data.memorize, Kind::Whole(1, SIZE)).only_with("task", &["copy"]),
    key!(model.cell, Kind::OneOf(names::<CellName>)),
    key!(model.activation, Kind::OneOf(names::<Activation>)).only_with("model.cell", FUSED),
    key!(model.gate_activation, Kind::OneOf(names::<GateActivation>))
        .only_with("model.cell", &["lstm", "gru"]),
    key!(model.reset, Kind::OneOf(names::<Reset>)).only_with("model.cell", &["gru"]),
    key!(model.peephole, Kind::Flag).only_with("model.cell", &["lstm"]),
    key!(model.projection, Kind::Whole(1, SIZE)).only_with("model.cell", &["lstm"]),
    key!(model.layers, Kind::Whole(1, 1000)),
    key!(model.hidden, Kind::Whole(1, SIZE)),
    key!(model.embedding, Kind::Whole(1, SIZE))
        .only_with("task", &["lm", "copy", "classify", "tag", "caption", "translate"])
        .and_with("data.input", &["text", "images"])
        .free_with("task", CAPTION),
    key!(model.filters, Kind::Whole(1, 1024)).only_with("data.input", &["images"]),
    key!(model.convolutions, Kind::Whole(1, 8)).only_with("data.input", &["images"]),
    key!(model.direction, Kind::OneOf(names::<Direction>)).only_with("task", READERS),
    key!(model.merge, Kind::OneOf(names::<Merge>))
        .only_with("task", READERS)
        .and_with("model.direction", &["both"]),
    key!(model.lookahead, Kind::Whole(0, SIZE))
        .only_with("task", &["tag"])
        .and_with("data.input", &["numbers", "audio", "images"]),
    key!(model.pooling, Kind::OneOf(names::<Pooling>)).only_with("task", &["classify"]),
    key!(model.told, Kind::OneOf(names::<Told>)).only_with("task", CAPTION),
    key!(model.attention, Kind::OneOf(names::<AttentionName>)).only_with("task", SENTENCES),
    key!(model.input_feeding, Kind::Flag).only_with("task", TRANSLATE).and_with("model.attention", ATTENTION),
    key!(model.bridge, Kind::OneOf(names::<Bridge>)).only_with("task", TRANSLATE),
    key!(model.share_embeddings, Kind::Flag).only_with("task", TRANSLATE),
    key!(model.characters, Kind::Whole(1, SIZE))
        .only_with("task", &["tag"])
        .and_with("data.input", &["text"]),
    key!(model.crf, Kind::Flag).only_with("task", &["tag"]),
    key!(model.base, Kind::OneOf(names::<Base>)).only_with("task", FORECAST),
    key!(model.quantiles, Kind::Quantiles).only_with("task", FORECAST),
    key!(model.dense_activation, Kind::OneOf(names::<DenseActivation>)).only_with("model.cell", &["none"]),
    key!(model.norm, Kind::OneOf(names::<NormName>)).only_with("model.cell", &["rnn", "lstm", "gru", "none"]),
    key!(model.norm_steps, Kind::Whole(1, SIZE)).only_with("model.norm", &["batch-recurrent"]),
    key!(model.residual, Kind::Flag).only_with("task", READS).and_with("model.cell", RECURRENT),
    key!(model.learned_state, Kind::Flag)
        .only_with("task", &["lm", "classify", "tag", "translate", "forecast"])
        .and_with("model.cell", RECURRENT),
    key!(model.tie_embeddings, Kind::Flag).only_with("task", WRITES),
    key!(model.dropout, Kind::Below(0.0, 1.0)).only_with("task", READS),
    key!(model.input_dropout, Kind::Below(0.0, 1.0)).only_with("task", READS),
    key!(model.output_dropout, Kind::Below(0.0, 1.0)).only_with("task", READS),
    key!(model.locked_dropout, Kind::Flag).only_with("task", READS),
    key!(model.embedding_dropout, Kind::Below(0.0, 1.0))
        .only_with("task", TEXTS)
        .and_with("data.input", &["text"])
        .free_with("task", CAPTION),
    key!(model.weight_dropout, Kind::Below(0.0, 1.0)).only_with("task", READS).and_with("model.cell", FUSED),
    key!(model.recurrent_dropout, Kind::Below(0.0, 1.0))
        .only_with("task", READS)
        .and_with("model.cell", FUSED),
    key!(model.update_dropout, Kind::Below(0.0, 1.0))
        .only_with("task", READS)
        .and_with("model.cell", &["lstm", "gru"]),
    key!(model.zoneout, Kind::Below(0.0, 1.0)).only_with("task", READS).and_with("model.cell", RECURRENT),
    key!(model.zoneout_cell, Kind::Below(0.0, 1.0))
        .only_with("task", READS)
        .and_with("model.cell", &["lstm"]),
    key!(model.init, Kind::OneOf(names::<InitName>)),
    key!(model.init_range, Kind::Above(0.0, 100.0)).only_with("model.init", &["uniform"]),
    key!(model.init_gain, Kind::Above(0.0, 100.0)).only_with("model.init", SCALED),
    key!(model.init_fan, Kind::OneOf(names::<Fan>)).only_with("model.init", &["he-uniform", "he-normal"]),
    key!(model.recurrent_init, Kind::OneOf(recurrent_inits)).only_with("model.cell", FUSED),
    key!(model.recurrent_gain, Kind::Above(0.0, 100.0)).only_with("model.recurrent_init", SCALED),
    key!(model.forget_bias, Kind::Number(-100.0, 100.0)).only_with("model.cell", &["lstm"]),
    key!(model.chrono, Kind::Whole(2, COUNT)).only_with("model.cell", &["lstm", "gru"]),
    key!(train.epochs, Kind::Above(0.0, 1e6)).only_with("task", READS),
    key!(train.steps, Kind::Whole(1, COUNT)),
    key!(train.batch, Kind::Whole(1, SIZE)),
    key!(train.batch_tokens, Kind::Whole(1, COUNT)).only_with("task", TRANSLATE),
    key!(train.bptt, Kind::Whole(1, SIZE)).only_with("task", &["lm"]).and_with("data.documents", STREAMS),
    key!(train.k1, Kind::Whole(1, SIZE)).only_with("task", &["lm"]).and_with("data.documents", STREAMS),
    key!(train.k2, Kind::Whole(1, SIZE)).only_with("task", &["lm"]).and_with("data.documents", STREAMS),
    key!(train.window, Kind::Whole(1, COUNT))
        .only_with("task", &["tag"])
        .and_with("data.input", &["numbers", "audio", "images"]),
    key!(train.vary_bptt, Kind::Flag).only_with("task", &["lm"]).and_with("data.documents", STREAMS),
    key!(train.accumulate, Kind::Whole(1, SIZE)),
    key!(train.precision, Kind::OneOf(names::<Precision>))
        .only_with("task", WRITES)
        .and_with("model.cell", FUSED),
    key!(train.optimizer, Kind::OneOf(names::<Optimizer>)),
    key!(train.learning_rate, Kind::Above(0.0, 1000.0)),
    key!(train.momentum, Kind::Number(0.0, 1.0)).only_with("train.optimizer", &["momentum"]),
    key!(train.beta1, Kind::Below(0.0, 1.0)).only_with("train.optimizer", &["adam", "adamw"]),
    key!(train.beta2, Kind::Below(0.0, 1.0)).only_with("train.optimizer", &["adam", "adamw"]),
    key!(train.alpha, Kind::Below(0.0, 1.0)).only_with("train.optimizer", &["rmsprop"]),
    key!(train.epsilon, Kind::Above(0.0, 1.0)).only_with("train.optimizer", &["adam", "adamw", "rmsprop"]),
    key!(train.nonmono, Kind::Whole(1, COUNT)).only_with("train.optimizer", &["nt-asgd"]),
    key!(train.weight_decay, Kind::Number(0.0, 1000.0)),
    key!(train.activation_penalty, Kind::Number(0.0, 1000.0))
        .only_with("task", READS)
        .and_with("model.cell", RECURRENT),
    key!(train.temporal_penalty, Kind::Number(0.0, 1000.0))
        .only_with("task", READS)
        .and_with("model.cell", RECURRENT),
    key!(train.label_smoothing, Kind::Below(0.0, 1.0))
        .only_with("task", TEXTS)
        .and_with("model.crf", &["false"]),
    key!(train.teacher_forcing, Kind::Number(0.0, 1.0)).only_with("task", TRANSLATE),
    key!(train.sampling, Kind::OneOf(names::<SamplingName>)).only_with("task", TRANSLATE),
    key!(train.sampling_steps, Kind::Whole(1, COUNT))
        .only_with("train.sampling", &["linear", "exponential", "inverse-sigmoid"]),
    key!(train.decode_sentences, Kind::Whole(0, COUNT)).only_with("task", SENTENCES),
    key!(train.bleu_tokens, Kind::OneOf(names::<BleuTokens>)).only_with("task", SENTENCES),
    key!(train.loss, Kind::OneOf(names::<LossName>))
        .only_with("task", FORECAST)
        .and_with("model.quantiles", &["unset"]),
    key!(train.class_weights, Kind::OneOf(names::<ClassWeights>)).only_with("task", &["classify"]),
    key!(train.metric, Kind::OneOf(names::<MetricName>)).only_with("task", EXAMPLES),
    key!(train.schedule, Kind::OneOf(names::<ScheduleName>)),
    key!(train.decay, Kind::Above(0.0, 1.0)).only_with("train.schedule", &["step", "epoch", "plateau"]),
    key!(train.decay_every, Kind::Whole(1, COUNT)).only_with("train.schedule", &["step"]),
    key!(train.decay_after, Kind::Whole(0, COUNT)).only_with("train.schedule", &["epoch"]),
    key!(train.patience, Kind::Whole(0, COUNT)).only_with("train.schedule", &["plateau"]),
    key!(train.min_learning_rate, Kind::Number(0.0, 1000.0))
        .only_with("train.schedule", &["plateau", "cosine"]),
    key!(train.warmup_steps, Kind::Whole(0, COUNT)),
    key!(train.early_stop, Kind::Whole(1, COUNT)),
    key!(train.average, Kind::OneOf(names::<AverageName>)),
    key!(train.average_decay, Kind::Below(0.0, 1.0)).only_with("train.average", &["exponential"]),
    key!(train.average_from, Kind::Whole(0, COUNT)).only_with("train.average", &["mean", "exponential"]),
    key!(train.clip_norm, Kind::Number(0.0, 1e9)),
    key!(train.clip_each_norm, Kind::Above(0.0, 1e9)),
    key!(train.clip_value, Kind::Above(0.0, 1e9)),
    key!(train.validate_every, Kind::Whole(1, COUNT)),
    key!(train.checkpoint_seconds, Kind::Whole(1, COUNT)),
    key!(train.sample_length, Kind::Whole(0, COUNT)).only_with("task", &["lm"]),
    key!(train.log_every, Kind::Whole(1, COUNT)),
];

/// Keys that say the same thing in different ways: where one is given, the others are unset.
pub(super) const EXCLUSIVE: &[&[&str]] = &[
    &["train.steps", "train.epochs"],
    &["model.chrono", "model.forget_bias"],
    &["train.clip_norm", "train.clip_each_norm", "train.clip_value"],
];

/// A demand on several keys together.
pub(super) struct Rule {
    pub(super) keys: &'static [&'static str],
    /// What is wrong, in the words of the message; `None` where the demand is met.
    pub(super) broken: fn(&Recipe) -> Option<String>,
}

/// The demands that no single key can break.
pub(super) const RULES: &[Rule] = &[
    Rule {
        keys: &["train.steps", "train.epochs"],
        broken: |recipe| {
            let unset = recipe.train.steps.is_none() && recipe.train.epochs.is_none();
            unset.then(|| "neither train.steps nor train.epochs is set, expected one of them".to_owned())
        },
    },
    Rule {
        keys: &["task", "train.steps"],
        broken: |recipe| {
            let broken = !recipe.task.has_epochs() && recipe.train.steps.is_none();
            broken.then(|| {
                needs(&format!("task = \"{}\"", recipe.task.name()), "train.steps, for it has no epochs")
            })
        },
    },
    Rule {
        keys: &[
            "train.precision",
            "model.norm",
            "model.peephole",
            "model.gate_activation",
            "model.projection",
            "model.activation",
        ],
        broken: |recipe| {
            let model = &recipe.model;
            let cell = model.recurrence_if_any().and_then(AnyCell::fused);
            let plain = matches!(
                cell,
                Some(Cell::Rnn(Activation::Tanh | Activation::Relu) | Cell::Lstm | Cell::Gru(_)) | None
            );
            let broken = recipe.train.precision == Precision::Bf16
                && (!plain || model.options() != CellOptions::PLAIN);
            broken.then(|| {
                needs(
                    "train.precision = \"bf16\"",
                    "a cell without options: model.norm, model.peephole, model.gate_activation, \
                     model.projection and model.activation (but relu of an rnn) multiply 32-bit floats",
                )
            })
        },
    },
    Rule {
        keys: &["model.norm", "model.cell"],
        broken: |recipe| {
            let model = &recipe.model;
            let wanted = match (model.norm, model.cell) {
                (NormName::Batch, cell) if cell != CellName::None => {
                    "model.cell = \"none\"; cells take \"batch-input\" or \"batch-recurrent\""
                }
                (NormName::BatchInput | NormName::BatchRecurrent, CellName::None) => {
                    "a recurrence; with model.cell = \"none\" take \"batch\""
                }
                _ => return None,
            };
            Some(needs(&format!("model.norm = \"{}\"", model.norm.name()), wanted))
        },
    },
    Rule {
        keys: &["model.norm", "task"],
        broken: |recipe| {
            let by_batch = matches!(recipe.model.norm, NormName::BatchInput | NormName::BatchRecurrent);
            let can = matches!(recipe.task, Task::Lm | Task::Classify | Task::Tag | Task::Forecast);
            (by_batch && !can).then(|| {
                let given = format!("model.norm = \"{}\"", recipe.model.norm.name());
                let found = recipe.task.name();
                let wanted = "task = \"lm\", \"classify\", \"tag\" or \"forecast\"";
                needs(&given, &format!("{wanted}, found \"{found}\""))
            })
        },
    },
    Rule {
        keys: &[
            "model.peephole",
            "model.gate_activation",
            "model.activation",
            "model.recurrent_dropout",
            "model.update_dropout",
            "train.precision",
            "model.norm",
        ],
        broken: |recipe| {
            let Recipe { model, train, .. } = recipe;
            let by_batch = matches!(model.norm, NormName::BatchInput | NormName::BatchRecurrent);
            let plain = model.options() == CellOptions::PLAIN
                && model.recurrent_dropout + model.update_dropout == 0.0
                && train.precision == Precision::F32;
            (by_batch && !plain).then(|| {
                needs(
                    &format!("model.norm = \"{}\"", model.norm.name()),
                    "a cell without model.peephole, model.gate_activation, model.recurrent_dropout, \
                     model.update_dropout, train.precision = \"bf16\" and, of an lstm or gru, model.activation",
                )
            })
        },
    },
    Rule {
        keys: &["train.schedule", "task"],
        broken: |recipe| {
            let broken = !recipe.task.has_epochs() && recipe.train.schedule == ScheduleName::Epoch;
            let found = recipe.task.name();
            broken.then(|| {
                needs("train.schedule = \"epoch\"", &format!("a task with epochs, found task = \"{found}\""))
            })
        },
    },
    Rule {
        keys: &["model.cell", "task"],
        broken: |recipe| {
            let can = matches!(recipe.task, Task::Classify | Task::Tag | Task::Forecast);
            (recipe.model.cell == CellName::None && !can).then(|| {
                let found = recipe.task.name();
                let wanted = format!("task = \"classify\", \"tag\" or \"forecast\", found \"{found}\"");
                needs("model.cell = \"none\"", &wanted)
            })
        },
    },
    Rule {
        keys: &["model.cell", "task"],
        broken: |recipe| {
            let minimal = matches!(recipe.model.cell, CellName::MinGru | CellName::MinLstm);
            (minimal && matches!(recipe.task, Task::Translate | Task::Caption)).then(|| {
                let (cell, task) = (recipe.model.cell.name(), recipe.task.name());
                format!("model.cell = \"{cell}\" beside task = \"{task}\", expected rnn, lstm or gru")
            })
        },
    },
    Rule {
        keys: &["data.input", "task"],
        broken: |recipe| {
            let broken = recipe.task == Task::Classify && recipe.data.input == InputName::Images;
            broken.then(|| {
                needs("data.input = \"images\"", "task = \"tag\": a label for every frame of a video")
            })
        },
    },
    Rule {
        keys: &["data.input", "task"],
        broken: |recipe| {
            let fits = matches!(recipe.data.input, InputName::Images | InputName::Numbers);
            (recipe.task == Task::Caption && !fits).then(|| {
                let found = recipe.data.input.name();
                format!("data.input = \"{found}\" beside task = \"caption\", expected images or numbers")
            })
        },
    },
    Rule {
        keys: &["data.label", "task", "data.input"],
        broken: |recipe| {
            let of_words = recipe.task == Task::Tag && recipe.data.input == InputName::Text;
            (of_words && recipe.data.label != Recipe::default_for(Task::Tag).data.label).then(|| {
                "data.label has no effect on words, whose tags stand in the last column; \
                 it is read with data.input = \"numbers\" only"
                    .to_owned()
            })
        },
    },
    Rule {
        keys: &["model.lookahead", "model.direction", "model.cell"],
        broken: |recipe| {
            let model = &recipe.model;
            let forward = model.direction == Direction::Forward && model.cell != CellName::None;
            (recipe.task == Task::Tag && model.lookahead > 0 && !forward).then(|| {
                needs(
                    "model.lookahead above 0",
                    "model.direction = \"forward\" and a model.cell other than \"none\"",
                )
            })
        },
    },
    Rule {
        keys: &["train.window", "model.direction", "model.crf", "train.accumulate"],
        broken: |recipe| {
            recipe.train.window?;
            let model = &recipe.model;
            let fits = model.direction == Direction::Forward && !model.crf && recipe.train.accumulate == 1;
            (recipe.task == Task::Tag && !fits).then(|| {
                needs(
                    "train.window",
                    "model.direction = \"forward\", model.crf = false and train.accumulate = 1",
                )
            })
        },
    },
    Rule {
        keys: &["data.tokens", "task"],
        broken: |recipe| {
            let of_words = recipe.task == Task::Tag && recipe.data.input == InputName::Text;
            let broken = of_words && recipe.data.tokens != Tokens::Word;
            broken.then(|| needs("task = \"tag\"", "data.tokens = \"word\": a tag belongs to a word"))
        },
    },
    Rule {
        keys: &["data.tokens", "data.source_tokens", "data.target_tokens", "task"],
        broken: |recipe| {
            let sides = recipe.data.side_tokens();
            let writes = matches!(recipe.task, Task::Translate | Task::Caption);
            let given = format!("task = \"{}\"", recipe.task.name());
            (writes && sides.contains(&Tokens::Byte))
                .then(|| needs(&given, "tokens of text: word, char or bpe, found byte"))
        },
    },
    Rule {
        keys: &["data.joint_vocab", "data.tokens", "data.source_tokens", "data.target_tokens"],
        broken: |recipe| {
            let [source, target] = recipe.data.side_tokens();
            (recipe.data.joint_vocab && source != target).then(|| {
                needs("data.joint_vocab", &format!("equal tokens on both sides, found {source} and {target}"))
            })
        },
    },
    Rule {
        keys: &["model.share_embeddings", "data.joint_vocab"],
        broken: |recipe| {
            let broken = recipe.model.share_embeddings && !recipe.data.joint_vocab;
            broken.then(|| needs("model.share_embeddings", "data.joint_vocab = true"))
        },
    },
    Rule {
        keys: &["model.merge", "model.cell"],
        broken: |recipe| {
            let without = recipe.model.cell == CellName::None && recipe.model.merge.is_some();
            without.then(|| needs("model.merge", "a model.cell other than \"none\""))
        },
    },
    Rule {
        keys: &["model.merge", "model.attention"],
        broken: |recipe| {
            let model = &recipe.model;
            let equal = model.attention.score().is_some_and(Score::needs_equal_widths);
            let beside = model.direction == Direction::Both && model.merge == Some(Merge::Concat);
            (recipe.task == Task::Translate && equal && beside).then(|| {
                format!(
                    "model.attention = \"{}\" multiplies states with hidden values of the same width, expected \
                     model.merge = \"sum\" or none",
                    model.attention.name()
                )
            })
        },
    },
    Rule {
        keys: &["model.bridge", "model.attention"],
        broken: |recipe| {
            let model = &recipe.model;
            let broken = model.bridge == Bridge::Zero && model.attention == AttentionName::None;
            broken.then(|| {
                "model.bridge = \"zero\" beside model.attention = \"none\" tells the decoder nothing of the \
                 source, expected one of them to be another"
                    .to_owned()
            })
        },
    },
    Rule {
        keys: &[
            "model.input_feeding",
            "model.locked_dropout",
            "model.weight_dropout",
            "model.recurrent_dropout",
        ],
        broken: |recipe| {
            let model = &recipe.model;
            let lasts = model.locked_dropout || model.weight_dropout + model.recurrent_dropout > 0.0;
            (model.input_feeding && lasts).then(|| {
                "model.input_feeding goes step by step and draws masks for each: model.locked_dropout, \
                 model.weight_dropout and model.recurrent_dropout, whose masks last, cannot stand beside it"
                    .to_owned()
            })
        },
    },
    Rule {
        keys: &["train.metric", "train.decode_sentences", "task"],
        broken: |recipe| {
            let metric = recipe.train.metric?;
            let translates = matches!(metric, MetricName::Bleu | MetricName::ExactMatch);
            let given = format!("train.metric = \"{}\"", metric.name());
            if matches!(recipe.task, Task::Translate | Task::Caption) {
                let task = recipe.task.name();
                let other = !translates && metric != MetricName::Loss;
                let none = translates && recipe.train.decode_sentences == 0;
                return match (other, none) {
                    (true, _) => {
                        Some(format!("{given} beside task = \"{task}\", expected loss, bleu or exact_match"))
                    }
                    (_, true) => Some(needs(&given, "train.decode_sentences above 0")),
                    _ => None,
                };
            }
            translates.then(|| needs(&given, "task = \"translate\" or \"caption\""))
        },
    },
    Rule {
        keys: &["model.base", "data.season", "task"],
        broken: |recipe| {
            let seasonal = recipe.task == Task::Forecast && recipe.model.base == Base::Season;
            let broken = seasonal && recipe.data.season == 1;
            broken.then(|| needs("model.base = \"season\"", "data.season above 1"))
        },
    },
    Rule {
        keys: &["data.vocab_size", "data.tokens"],
        broken: |recipe| {
            let size = recipe.data.vocab_size?;
            let broken = recipe.task == Task::Lm && recipe.data.tokens == Tokens::Bpe && size <= 256;
            broken.then(|| {
                format!("data.vocab_size is {size}, expected more than the 256 bytes that data.tokens = \"bpe\" begins with")
            })
        },
    },
    Rule {
        keys: &["model.dropout", "model.layers"],
        broken: |recipe| {
            let broken = recipe.model.dropout > 0.0 && recipe.model.layers == 1;
            broken.then(|| {
                "model.dropout drops out between layers, but model.layers is 1; \
                 model.input_dropout and model.output_dropout are those around them"
                    .to_owned()
            })
        },
    },
    Rule {
        keys: &["model.residual", "model.layers"],
        broken: |recipe| {
            let broken = recipe.model.residual && recipe.model.layers == 1;
            broken.then(|| {
                "model.residual adds a layer's input to its output from the second layer on, \
                 but model.layers is 1"
                    .to_owned()
            })
        },
    },
    Rule {
        keys: &["model.locked_dropout", "model.dropout", "model.input_dropout", "model.output_dropout"],
        broken: |recipe| {
            let model = &recipe.model;
            let none = model.dropout + model.input_dropout + model.output_dropout == 0.0;
            (model.locked_dropout && none).then(|| {
                let wanted = "model.dropout, model.input_dropout or model.output_dropout above 0";
                needs("model.locked_dropout", wanted)
            })
        },
    },
    Rule {
        keys: &["model.tie_embeddings", "model.embedding", "model.hidden", "model.projection"],
        broken: |recipe| {
            let (model, values) = (&recipe.model, recipe.model.values());
            let read = if values == model.hidden { "model.hidden" } else { "model.projection" };
            (model.tie_embeddings && model.embedding != values).then(|| {
                format!(
                    "model.tie_embeddings needs model.embedding and {read} to be equal, found {} and {values}",
                    model.embedding
                )
            })
        },
    },
    Rule {
        keys: &["model.projection", "model.hidden"],
        broken: |recipe| {
            let (values, hidden) = (recipe.model.projection?, recipe.model.hidden);
            let broken = recipe.model.cell == CellName::Lstm && values >= hidden;
            broken.then(|| {
                format!("model.projection is {values}, expected less than model.hidden, which is {hidden}")
            })
        },
    },
    Rule {
        keys: &["model.projection", "task"],
        broken: |recipe| {
            let writes = matches!(recipe.task, Task::Translate | Task::Caption);
            let broken = writes && recipe.model.values() != recipe.model.hidden;
            broken.then(|| {
                let task = recipe.task.name();
                format!(
                    "model.projection beside task = {task:?}, whose decoder cannot project, expected none"
                )
            })
        },
    },
    Rule {
        keys: &["train.k1", "train.k2", "train.bptt"],
        broken: |recipe| {
            let Truncation { k1, k2, .. } = recipe.train.truncation(0);
            (recipe.task == Task::Lm && k1 > k2)
                .then(|| format!("train.k1 is {k1}, expected at most train.k2, which is {k2}"))
        },
    },
    Rule {
        keys: &["train.vary_bptt", "train.k1", "train.k2"],
        broken: |recipe| recipe.train.vary_bptt.then(|| equal_windows(recipe, "train.vary_bptt"))?,
    },
    Rule {
        keys: &["train.accumulate", "train.k1", "train.k2"],
        broken: |recipe| {
            (recipe.train.accumulate > 1).then(|| equal_windows(recipe, "train.accumulate above 1"))?
        },
    },
    Rule {
        keys: &["train.schedule", "train.decay_every"],
        broken: |recipe| {
            let broken = recipe.train.schedule == ScheduleName::Step && recipe.train.decay_every.is_none();
            broken.then(|| {
                needs("train.schedule = \"step\"", "train.decay_every, the steps between two decays")
            })
        },
    },
    Rule {
        keys: &["train.schedule", "train.decay_after"],
        broken: |recipe| {
            let broken = recipe.train.schedule == ScheduleName::Epoch && recipe.train.decay_after.is_none();
            broken.then(|| {
                needs("train.schedule = \"epoch\"", "train.decay_after, the epochs before the first decay")
            })
        },
    },
    Rule {
        keys: &["train.warmup_steps", "train.schedule", "train.steps"],
        broken: |recipe| {
            let (warmup, steps) = (recipe.train.warmup_steps, recipe.train.steps?);
            let broken = recipe.train.schedule == ScheduleName::Cosine && warmup >= steps;
            broken.then(|| {
                format!(
                    "train.warmup_steps is {warmup}, expected less than train.steps, which is {steps}: \
                         the cosine has no step left"
                )
            })
        },
    },
    Rule {
        keys: &["train.min_learning_rate", "train.learning_rate"],
        broken: |recipe| {
            let train = &recipe.train;
            let counts = matches!(train.schedule, ScheduleName::Plateau | ScheduleName::Cosine);
            (counts && train.min_learning_rate > train.learning_rate).then(|| {
                format!(
                    "train.min_learning_rate is {}, expected at most train.learning_rate, which is {}",
                    train.min_learning_rate, train.learning_rate
                )
            })
        },
    },
    Rule {
        keys: &["train.average", "train.optimizer"],
        broken: |recipe| {
            let train = &recipe.train;
            let broken = train.optimizer == Optimizer::NtAsgd && train.average != AverageName::None;
            broken.then(|| {
                "train.optimizer = \"nt-asgd\" averages weights by itself, expected train.average = \"none\"".to_owned()
            })
        },
    },
];

/// The message where a value needs windows that lie side by side, and they do not.
fn equal_windows(recipe: &Recipe, given: &str) -> Option<String> {
    let Truncation { k1, k2, .. } = recipe.train.truncation(0);
    (k1 != k2).then(|| format!("{given} needs train.k1 and train.k2 to be equal, found {k1} and {k2}"))
}

/// The message where a value needs another key.
fn needs(given: &str, wanted: &str) -> String {
    format!("{given} needs {wanted}")
}

pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// Names of the keys of a section.
pub(super) fn keys_of(section: &str) -> impl Iterator<Item = &'static str> {
    KEYS.iter()
        .map(|key| key.name)
        .filter(move |name| name.split_once('.').is_some_and(|(found, _)| found == section))
}

pub(super) fn is_section(name: &str) -> bool {
    keys_of(name).next().is_some()
}

/// What values a key takes; its text is the type column of `docs/recipe.md`.
pub(super) enum Kind {
    /// A whole number, both ends included.
    Whole(u64, u64),
    /// A number, both ends included.
    Number(f64, f64),
    /// A number above the first and up to the second.
    Above(f64, f64),
    /// A number from the first on and below the second.
    Below(f64, f64),
    /// Yes or no.
    Flag,
    /// One of these names.
    OneOf(fn() -> Vec<&'static str>),
    /// Shares of the data: training, validation, test.
    Shares,
    /// A name that is not empty.
    Text,
    /// Names, none of them empty.
    Names,
    /// Levels of quantiles.
    Quantiles,
    /// Places of a sentence.
    MaxLen,
}

impl Kind {
    pub(super) fn accepts(&self, value: &Value) -> bool {
        match *self {
            Kind::Whole(from, to) => {
                value.as_integer().and_then(|n| u64::try_from(n).ok()).is_some_and(|n| from <= n && n <= to)
            }
            Kind::Number(from, to) => number(value).is_some_and(|n| from <= n && n <= to),
            Kind::Above(from, to) => number(value).is_some_and(|n| from < n && n <= to),
            Kind::Below(from, to) => number(value).is_some_and(|n| from <= n && n < to),
            Kind::Flag => value.is_bool(),
            Kind::OneOf(names) => value.as_str().is_some_and(|name| names().contains(&name)),
            Kind::Text => value.as_str().is_some_and(|text| !text.is_empty()),
            Kind::Names => Vec::<String>::read(value)
                .is_some_and(|names| !names.is_empty() && names.iter().all(|name| !name.is_empty())),
            Kind::Quantiles => Vec::<f64>::read(value).is_some_and(|levels| {
                let inside = levels.iter().all(|&level| level > 0.0 && level < 1.0);
                inside && levels.windows(2).all(|pair| pair[0] < pair[1]) && levels.contains(&0.5)
            }),
            Kind::MaxLen => MaxLen::read(value).is_some(),
            Kind::Shares => <[f64; 3]>::read(value).is_some_and(|shares| {
                let in_range = shares.iter().all(|share| (0.0..=1.0).contains(share)) && shares[0] > 0.0;
                in_range && (shares.iter().sum::<f64>() - 1.0).abs() < 1e-6
            }),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Whole(from, to) if *to >= COUNT => write!(f, "a whole number from {from}"),
            Kind::Whole(from, to) => write!(f, "a whole number from {from} to {to}"),
            Kind::Number(from, to) => write!(f, "a number from {from} to {to}"),
            Kind::Above(from, to) => write!(f, "a number above {from}, up to {to}"),
            Kind::Below(from, to) => write!(f, "a number from {from} and below {to}"),
            Kind::Flag => f.write_str("true or false"),
            Kind::OneOf(names) => write!(f, "one of {}", names().join(", ")),
            Kind::Text => f.write_str("text"),
            Kind::Names => f.write_str("text, or a list of texts"),
            Kind::Quantiles => f.write_str("ascending numbers above 0 and below 1 with 0.5 among them"),
            Kind::MaxLen => f.write_str("auto, a whole number from 3, or a share above 0 and below 1"),
            Kind::Shares => f.write_str("three shares that add up to 1, the first above 0"),
        }
    }
}

/// A type that a field of the recipe may have.
trait Setting: Sized {
    /// `None`: the value has another type.
    fn read(value: &Value) -> Option<Self>;
    /// `None`: the field is unset.
    fn write(&self) -> Option<Value>;
    /// Leaves a field as it is that always has a value.
    fn unset(&mut self) {}
}

impl Setting for usize {
    fn read(value: &Value) -> Option<usize> {
        value.as_integer().and_then(|number| usize::try_from(number).ok())
    }

    fn write(&self) -> Option<Value> {
        (*self as u64).write()
    }
}

impl Setting for u64 {
    fn read(value: &Value) -> Option<u64> {
        value.as_integer().and_then(|number| u64::try_from(number).ok())
    }

    /// TOML's whole numbers end at `i64::MAX`; one above becomes text, which every range refuses.
    fn write(&self) -> Option<Value> {
        Some(i64::try_from(*self).map_or_else(|_| Value::String(self.to_string()), Value::Integer))
    }
}

impl Setting for MaxLen {
    fn read(value: &Value) -> Option<MaxLen> {
        match value {
            Value::String(text) => (text == "auto").then_some(MaxLen::Auto),
            Value::Integer(places) => {
                usize::try_from(*places).ok().filter(|&places| places >= 3).map(MaxLen::Places)
            }
            Value::Float(share) => (*share > 0.0 && *share < 1.0).then_some(MaxLen::Quantile(*share)),
            _ => None,
        }
    }

    fn write(&self) -> Option<Value> {
        match self {
            MaxLen::Auto => Some(Value::String("auto".to_owned())),
            MaxLen::Quantile(share) => share.write(),
            MaxLen::Places(places) => places.write(),
        }
    }
}

impl Setting for String {
    fn read(value: &Value) -> Option<String> {
        value.as_str().map(str::to_owned)
    }

    fn write(&self) -> Option<Value> {
        Some(Value::String(self.clone()))
    }
}

impl Setting for bool {
    fn read(value: &Value) -> Option<bool> {
        value.as_bool()
    }

    fn write(&self) -> Option<Value> {
        Some(Value::Boolean(*self))
    }
}

impl Setting for f64 {
    fn read(value: &Value) -> Option<f64> {
        number(value)
    }

    fn write(&self) -> Option<Value> {
        Some(Value::Float(*self))
    }
}

impl Setting for [f64; 3] {
    fn read(value: &Value) -> Option<[f64; 3]> {
        let numbers: Vec<f64> = value.as_array()?.iter().map(number).collect::<Option<_>>()?;
        numbers.try_into().ok()
    }

    fn write(&self) -> Option<Value> {
        Some(Value::Array(self.iter().copied().map(Value::Float).collect()))
    }
}

impl Setting for Vec<f64> {
    fn read(value: &Value) -> Option<Vec<f64>> {
        value.as_array()?.iter().map(number).collect()
    }

    fn write(&self) -> Option<Value> {
        Some(Value::Array(self.iter().copied().map(Value::Float).collect()))
    }
}

/// A text is a list with commas between.
impl Setting for Vec<String> {
    fn read(value: &Value) -> Option<Vec<String>> {
        match value {
            Value::String(text) => Some(text.split(',').map(|name| name.trim().to_owned()).collect()),
            other => other.as_array()?.iter().map(String::read).collect(),
        }
    }

    fn write(&self) -> Option<Value> {
        Some(Value::Array(self.iter().cloned().map(Value::String).collect()))
    }
}

impl<T: Setting> Setting for Option<T> {
    fn read(value: &Value) -> Option<Option<T>> {
        T::read(value).map(Some)
    }

    fn write(&self) -> Option<Value> {
        self.as_ref().and_then(T::write)
    }

    fn unset(&mut self) {
        *self = None;
    }
}

impl<T: Named> Setting for T {
    fn read(value: &Value) -> Option<T> {
        let name = value.as_str()?;
        T::ALL.iter().copied().find(|named| named.name() == name)
    }

    fn write(&self) -> Option<Value> {
        Some(Value::String(self.name().to_owned()))
    }
}

fn names<T: Named>() -> Vec<&'static str> {
    T::ALL.iter().map(|named| named.name()).collect()
}

/// What `model.recurrent_init` can be: all but `uniform`, whose range is that of the whole model.
fn recurrent_inits() -> Vec<&'static str> {
    names::<InitName>().into_iter().filter(|&name| name != InitName::Uniform.name()).collect()
}

/// A number, written with or without a decimal point.
fn number(value: &Value) -> Option<f64> {
    value.as_float().or_else(|| value.as_integer().map(|number| number as f64))
}
