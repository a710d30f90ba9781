//! The register of keys: their names, what values they take, and when they count.

use super::values::{COUNT, Kind, SIZE, Setting, names, recurrent_inits};
use super::{
    AttentionName, AverageName, CellName, ClassWeights, InitName, InputName, LossName, MetricName, NormName,
    Optimizer, Place, Recipe, RecipeError, SamplingName, ScheduleName, Task,
};
use crate::data::{
    Base, Documents, Gaps, NormalForm, PairFormat, SeriesScaling, SoundFeatures, Tokens, TooLong,
};
use crate::init::Fan;
use crate::metrics::BleuTokens;
use crate::models::captioner::Told;
use crate::models::dense::DenseActivation;
use crate::models::pool::Pooling;
use crate::models::translator::Bridge;
use crate::recurrent::{Direction, Merge};
use carousel_kernels::{Activation, GateActivation, Precision, Reset};
use toml::Value;

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
        RecipeError::Value {
            place,
            key: self.name,
            found: value.to_string(),
            wanted: self.kind.wanted(value),
        }
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
/// The tasks whose examples may stay together in groups when parts are drawn.
const SPLIT_BY_GROUP: &[&str] = &["classify", "tag", "caption"];
/// The tasks that read separate examples.
const EXAMPLES: &[&str] = &["classify", "tag", "caption", "translate"];
/// The tasks whose models read and write tokens.
const WRITES: &[&str] = &["lm", "caption", "translate"];
const TRANSLATE: &[&str] = &["translate"];
/// The values of `data.format` whose columns are counted, and whose columns have names.
const COUNTED: &[&str] = &["auto", "columns", "files", "dictionary"];
const NAMED: &[&str] = &["auto", "table"];
const CAPTION: &[&str] = &["caption"];
const TAG: &[&str] = &["tag"];
/// The tasks that write sentences about what they read.
const SENTENCES: &[&str] = &["caption", "translate"];
/// The values of `model.attention` that look at the source.
const ATTENTION: &[&str] = &["general", "scaled-general", "dot", "scaled-dot", "additive"];
/// The cells that the kernels know, whose steps read `h` through weights.
const FUSED: &[&str] = &["rnn", "lstm", "gru"];
/// All cells of a recurrence.
const RECURRENT: &[&str] = &["rnn", "lstm", "gru", "min-gru", "min-lstm"];

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
        .only_with("task", &["lm", "classify", "tag"])
        .and_with("data.documents", STREAMS),
    key!(data.input, Kind::OneOf(names::<InputName>)).only_with("task", &["classify", "tag", "caption"]),
    key!(data.path, Kind::Text).only_with("task", CAPTION),
    key!(data.text, Kind::Text)
        .only_with("task", &["classify", "caption"])
        .and_with("data.input", &["text"])
        .free_with("task", CAPTION),
    key!(data.label, Kind::Text).only_with("task", LABELLED).and_with("data.input", &["text", "numbers"]),
    key!(data.group, Kind::Text)
        .only_with("task", SPLIT_BY_GROUP)
        .and_with("data.input", &["text", "numbers"])
        .free_with("task", CAPTION),
    key!(data.file_group, Kind::Text).only_with("task", SPLIT_BY_GROUP),
    key!(data.id, Kind::Text)
        .only_with("task", &["classify", "tag", "forecast"])
        .and_with("data.input", &["numbers"]),
    key!(data.step, Kind::Text).only_with("task", LABELLED).and_with("data.input", &["numbers"]),
    key!(data.file_label, Kind::Text)
        .only_with("task", &["classify"])
        .and_with("data.input", &["numbers", "audio"]),
    key!(data.word_column, Kind::Whole(1, SIZE)).only_with("task", TAG).and_with("data.input", &["text"]),
    key!(data.tag_column, Kind::Whole(1, SIZE)).only_with("task", TAG).and_with("data.input", &["text"]),
    key!(data.sound, Kind::OneOf(names::<SoundFeatures>)).only_with("data.input", &["audio"]),
    key!(data.image_size, Kind::Whole(1, 4096)).only_with("data.input", &["images"]),
    key!(data.color, Kind::Flag).only_with("data.input", &["images"]),
    key!(data.quoting, Kind::Flag)
        .only_with("task", &["classify", "caption", "translate"])
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
    key!(data.source, Kind::Whole(1, SIZE)).only_with("task", TRANSLATE).and_with("data.format", COUNTED),
    key!(data.target, Kind::Whole(1, SIZE)).only_with("task", TRANSLATE).and_with("data.format", COUNTED),
    key!(data.source_column, Kind::Text).only_with("task", TRANSLATE).and_with("data.format", NAMED),
    key!(data.target_column, Kind::Text).only_with("task", TRANSLATE).and_with("data.format", NAMED),
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
        .only_with("task", TAG)
        .and_with("data.input", &["numbers", "audio", "images"]),
    key!(model.pooling, Kind::OneOf(names::<Pooling>)).only_with("task", &["classify"]),
    key!(model.told, Kind::OneOf(names::<Told>)).only_with("task", CAPTION),
    key!(model.attention, Kind::OneOf(names::<AttentionName>)).only_with("task", SENTENCES),
    key!(model.input_feeding, Kind::Flag).only_with("task", TRANSLATE).and_with("model.attention", ATTENTION),
    key!(model.bridge, Kind::OneOf(names::<Bridge>)).only_with("task", TRANSLATE),
    key!(model.share_embeddings, Kind::Flag).only_with("task", TRANSLATE),
    key!(model.characters, Kind::Whole(1, SIZE)).only_with("task", TAG).and_with("data.input", &["text"]),
    key!(model.crf, Kind::Flag).only_with("task", TAG),
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
        .only_with("task", TAG)
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
