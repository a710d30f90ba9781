//! Which keys go together, and which do not.

use super::{
    AttentionName, AverageName, CellName, InputName, MetricName, Named, NormName, Optimizer, Recipe,
    ScheduleName, Task,
};
use crate::data::{Base, Tokens, Truncation};
use crate::models::attention::Score;
use crate::models::translator::Bridge;
use crate::own_cell::AnyCell;
use crate::recurrent::{Direction, Merge};
use carousel_kernels::{Activation, Cell, CellOptions, Precision};

/// Keys that say the same thing in different ways: where one is given, the others are unset.
pub(super) const EXCLUSIVE: &[&[&str]] = &[
    &["train.steps", "train.epochs"],
    &["data.group", "data.file_group"],
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
        keys: &["data.group", "task", "data.input"],
        broken: |recipe| {
            let of_words = recipe.task == Task::Tag && recipe.data.input == InputName::Text;
            (of_words && recipe.data.group.is_some()).then(|| {
                "data.group has no effect on words, whose columns have no names; data.file_group keeps those of a \
                 file together"
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
            if metric == MetricName::SpanF1 && recipe.task == Task::Classify {
                return Some(needs(&given, "task = \"tag\""));
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
            let splits = recipe.data.side_tokens().contains(&Tokens::Bpe);
            // What writes sentences has <pad>, <unk>, <sos> and <eos> beside.
            let writes = matches!(recipe.task, Task::Translate | Task::Caption);
            let (begins, what) = if writes { (260, "256 bytes and 4 marks") } else { (256, "256 bytes") };
            (splits && size <= begins).then(|| {
                format!("data.vocab_size is {size}, expected more than the {what} that data.tokens = \"bpe\" begins with")
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
