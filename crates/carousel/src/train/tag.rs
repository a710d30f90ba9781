//! Trains and measures taggers.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::data::{
    Classes, Counts, DataError, Document, FrameExample, Lengths, Limits, NO_TAG, NumberExample, Scaling,
    Sentence, Tokens, VideoExample, Vocab, pack, read_frames, read_sentences, read_videos,
};
use crate::metrics::{Confusion, SpanCounts, SpanScores, marks_spans};
use crate::models::tagger::Tagger;
use crate::output::{IGNORE, counted};
use crate::ragged::Batch;
use crate::recipe::{InputName, MetricName, Recipe, TrainRecipe};
use crate::regularize::Noise;
use crate::run::RunFolder;
use crate::saved::{
    Found, LABELS, SavedTagger, TagBatch, TagEncoder, TagLabels, TagSequence, highest, image_shape,
    number_columns, read_json, tag_all, tagger_config, within,
};
use crate::state::State;
use crate::train::classify::{EVALUATION, WrongExample};
use crate::train::examples::{ExampleJob, ExampleTask, Parts, deal, draw, groups};
use crate::train::job::{Facts, Measured, Objective};
use crate::train::trainer::train;
use crate::train::{Control, Event, PartStatistics, Score, Sources, Start, Summary, TrainError, write_json};

/// Sequences that an evaluation keeps.
const MOST_WRONG: usize = 20;

/// Trains a tagger in a run's folder: of words, with classes of whole sentences a second head on them, or of numbers.
///
/// The folder gets the vocabulary, the tags and classes, and in the end `evaluation.json`: how the best checkpoint
/// does on the test part, or on the validation part where there is no other.
///
/// # Errors
/// [`TrainError`] when the data, the folder or a checkpoint does not do, or training diverges.
pub fn tag(
    run: &RunFolder,
    recipe: &Recipe,
    sources: &Sources,
    start: Start,
    on_event: &mut dyn FnMut(&Event<'_>) -> Control,
) -> Result<Summary, TrainError> {
    let Parts { train: learned, valid, test } = read_parts(recipe, sources)?;
    let labels = match start {
        Start::New => {
            let labels = collect_labels(recipe, &learned)?;
            if recipe.data.input == InputName::Text {
                run.write_vocab(&build_vocab(recipe, &learned))?;
            }
            write_json(run, LABELS, serde_json::to_string_pretty(&labels))?;
            labels
        }
        Start::Resume => read_json(run, LABELS)?,
    };
    let encoder = TagEncoder::of(recipe, &labels, || Ok(run.read_vocab()?))?;
    let encode = |part: Vec<Raw>| -> Result<Vec<Encoded>, DataError> {
        part.into_iter().map(|raw| Encoded::new(raw, &labels, &encoder)).collect()
    };
    let parts = Parts { train: encode(learned)?, valid: encode(valid)?, test: encode(test)? };
    let statistics: Vec<PartStatistics> =
        parts.named().map(|(name, part)| statistics(name, part, &labels)).collect();
    on_event(&Event::Examples { parts: &statistics });
    if parts.train.iter().all(|encoded| encoded.counted() == 0) {
        let reason = format!("no step of the training part has a tag other than {NO_TAG}, expected some");
        return Err(DataError::Examples { reason }.into());
    }

    let model = tagger_config(recipe, &encoder, &labels).init(&Device::default().autodiff())?;
    let steps = |part: &[Encoded]| part.iter().map(|encoded| encoded.tags.len()).sum();
    let facts = Facts {
        vocabulary: match &encoder {
            TagEncoder::Words(words) => Some(words.vocab.len()),
            TagEncoder::Numbers { .. } | TagEncoder::Images { .. } => None,
        },
        train_tokens: Some(steps(&parts.train)),
        valid_tokens: Some(steps(&parts.valid)),
    };
    let judged = if parts.test.is_empty() { parts.valid.clone() } else { parts.test.clone() };
    // A batch in which no step has a tag teaches nothing, and its mean has no number.
    let train_part = parts.train.into_iter().filter(|encoded| encoded.counted() > 0).collect();
    let parts = Parts { train: train_part, ..parts };
    let names = || labels.tags.names().iter().map(String::as_str);
    if recipe.train.metric == Some(MetricName::SpanF1) && !marks_spans(names()) {
        let odd = names().find(|tag| *tag != "O" && !marks_spans([*tag])).unwrap_or("O alone");
        let reason = format!(
            "train.metric is \"span_f1\", but the tags mark no spans: found {odd}, expected O, or B-, I-, E-, S-, L- or \
             U- and a type; choose accuracy or macro_f1"
        );
        return Err(DataError::Examples { reason }.into());
    }
    let (metric, window, train_recipe) = (recipe.train.metric, recipe.train.window, recipe.train.clone());
    let task = Tagging { labels, encoder, metric, window, train: train_recipe };
    let summary = train(run, recipe, ExampleJob::new(task, recipe, model, parts), facts, start, on_event)?;
    if !judged.is_empty() && !summary.stopped {
        let evaluation = judge_saved(&SavedTagger::open(run.path())?, &judged);
        write_json(run, EVALUATION, serde_json::to_string_pretty(&evaluation))?;
    }
    Ok(summary)
}

/// Measures the best checkpoint of a run on sequences.
///
/// # Errors
/// [`TrainError`] when the run cannot be opened or the sequences do not do.
pub fn evaluate_tagger(run: &Path, documents: &[Document]) -> Result<TagEvaluation, TrainError> {
    let saved = SavedTagger::open(run)?;
    let encoded = read_cut(&saved.recipe, documents)?
        .into_iter()
        .map(|raw| Encoded::new(raw, &saved.labels, &saved.encoder))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(judge_saved(&saved, &encoded))
}

/// How well a tagger does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TagEvaluation {
    /// Sequences measured.
    pub sentences: usize,
    /// Steps that have a tag.
    pub words: usize,
    /// Mean loss of the tags in nats.
    pub loss: f64,
    /// The share of right tags.
    pub accuracy: f64,
    /// How many spans are right, where the tags mark some.
    pub spans: Option<SpanScores>,
    /// The share of sequences given the right class, where there are some.
    pub intent_accuracy: Option<f64>,
    /// Which tag was taken for which.
    pub confusion: Confusion,
    /// The most wrong sequences, worst first: those in which some right tag had the lowest probability.
    pub wrong: Vec<WrongExample>,
}

/// A sequence as it was read.
struct Raw {
    content: Content,
    tags: Vec<String>,
    intent: Option<String>,
    group: Option<String>,
    file: String,
    line: usize,
}

enum Content {
    Words(Vec<String>),
    Numbers(NumberExample),
    /// Images of so many values each.
    Images(Vec<u8>, usize),
}

impl Raw {
    fn truncate(&mut self, most: usize) {
        self.tags.truncate(most);
        match &mut self.content {
            Content::Words(words) => words.truncate(most),
            Content::Numbers(numbers) => numbers.values.truncate(most * numbers.width),
            Content::Images(pixels, width) => pixels.truncate(most * *width),
        }
    }
}

fn read(recipe: &Recipe, documents: &[Document]) -> Result<Vec<Raw>, DataError> {
    if recipe.data.input == InputName::Text {
        let raw = |Sentence { words, tags, intent, file, line }| Raw {
            content: Content::Words(words),
            tags,
            intent,
            group: None,
            file,
            line,
        };
        return Ok(read_sentences(documents)?.into_iter().map(raw).collect());
    }
    if recipe.data.input == InputName::Images {
        let shape = image_shape(recipe);
        let raw = |VideoExample { frames, tags, file }| Raw {
            content: Content::Images(frames, shape.values()),
            tags,
            intent: None,
            group: None,
            file,
            line: 1,
        };
        return Ok(read_videos(documents, shape, true)?.into_iter().map(raw).collect());
    }
    let raw = |FrameExample { numbers, tags }| Raw {
        tags,
        intent: None,
        group: numbers.group.clone(),
        file: numbers.file.clone(),
        line: numbers.line,
        content: Content::Numbers(numbers),
    };
    Ok(read_frames(documents, &number_columns(recipe)?, true)?.into_iter().map(raw).collect())
}

/// A sequence that is ready to be read.
#[derive(Clone)]
struct Encoded {
    sequence: TagSequence,
    tags: Vec<u32>,
    /// The tags that the model is to give, one for every step that it makes.
    wanted: Vec<u32>,
    intent: u32,
    place: String,
}

impl Encoded {
    fn new(raw: Raw, labels: &TagLabels, encoder: &TagEncoder) -> Result<Encoded, DataError> {
        let Raw { content, tags, intent, file, line, .. } = raw;
        let tag = |tag: &String| match tag.as_str() {
            NO_TAG => Ok(IGNORE),
            tag => labels.tags.find(tag, &file, line),
        };
        let tags = tags.iter().map(tag).collect::<Result<Vec<_>, _>>()?;
        let intent = match (&labels.intents, &intent) {
            (Some(intents), Some(intent)) => intents.find(intent, &file, line)?,
            (None, _) => 0,
            (Some(_), None) => {
                let reason = "its sentences have no class, expected a label file beside it as in training";
                return Err(DataError::File { name: file, reason: reason.to_owned() });
            }
        };
        let sequence = match (content, encoder) {
            (Content::Words(words), TagEncoder::Words(_)) => TagSequence::Words(words),
            (Content::Numbers(numbers), TagEncoder::Numbers { scaling, .. }) => {
                TagSequence::Numbers { values: scaling.apply(&numbers)?, width: numbers.width }
            }
            (Content::Images(values, width), TagEncoder::Images { .. }) => {
                TagSequence::Images { values, width }
            }
            _ => unreachable!("data.input says what is read and with what"),
        };
        let place = format!("{file}:{line}");
        Ok(Encoded { wanted: encoder.delayed(&tags), tags, intent, sequence, place })
    }

    /// Steps whose tag counts.
    fn counted(&self) -> usize {
        counted(&self.tags)
    }
}

/// Sequences, cut where the recipe says so.
fn read_cut(recipe: &Recipe, documents: &[Document]) -> Result<Vec<Raw>, TrainError> {
    let mut all = read(recipe, documents)?;
    if let Some(most) = recipe.data.max_length {
        all.iter_mut().for_each(|raw| raw.truncate(most));
    }
    Ok(all)
}

fn read_parts(recipe: &Recipe, sources: &Sources) -> Result<Parts<Raw>, TrainError> {
    let read = |documents: &[Document]| -> Result<Vec<Raw>, TrainError> {
        if documents.is_empty() { Ok(Vec::new()) } else { read_cut(recipe, documents) }
    };
    let (all, valid, test) = (read(&sources.train)?, read(&sources.valid)?, read(&sources.test)?);
    let of = |place: usize| (all[place].file.as_str(), all[place].group.as_deref());
    let groups = groups(recipe, sources, all.len(), of)?;
    // A tag and an intent may have the same name.
    let labels = |place: usize| {
        let Raw { tags, intent, .. } = &all[place];
        let tags = tags.iter().filter(|tag| *tag != NO_TAG).map(|tag| (0, tag));
        tags.chain(intent.iter().map(|intent| (1, intent)))
    };
    let places = draw(all.len(), groups.as_deref(), labels, recipe, sources);
    Ok(deal(all, places, valid, test)?)
}

fn build_vocab(recipe: &Recipe, learned: &[Raw]) -> Vocab {
    let words = learned.iter().filter_map(|raw| match &raw.content {
        Content::Words(words) => Some(words.iter().map(String::as_str)),
        Content::Numbers(_) | Content::Images(..) => None,
    });
    let limits = Limits { min_count: recipe.data.min_count, size: recipe.data.vocab_size, share: 1.0 };
    Vocab::of_pieces(Tokens::Word, words.flatten(), limits)
}

fn collect_labels(recipe: &Recipe, learned: &[Raw]) -> Result<TagLabels, DataError> {
    let tags = learned.iter().flat_map(|raw| &raw.tags).map(String::as_str);
    let tags = Classes::collect(tags.filter(|tag| *tag != NO_TAG));
    if tags.len() < 2 {
        let found = tags.names().join(", ");
        let reason = format!("the training part has the tags [{found}], expected at least two");
        return Err(DataError::Examples { reason });
    }
    let with = learned.iter().filter(|raw| raw.intent.is_some()).count();
    if with > 0 && with < learned.len() {
        let without = learned.iter().find(|raw| raw.intent.is_none());
        let reason =
            "its sentences have no class, but those of other files have; give all or none a label file";
        let name = without.map(|raw| raw.file.clone()).unwrap_or_default();
        return Err(DataError::File { name, reason: reason.to_owned() });
    }
    let intents =
        (with > 0).then(|| Classes::collect(learned.iter().filter_map(|raw| raw.intent.as_deref())));
    let mut numbers = Vec::new();
    let mut letters: BTreeSet<String> = BTreeSet::new();
    for raw in learned {
        match &raw.content {
            Content::Words(words) if recipe.model.characters.is_some() => {
                letters.extend(words.iter().flat_map(|word| word.chars().map(String::from)));
            }
            Content::Words(_) | Content::Images(..) => {}
            Content::Numbers(example) => numbers.push(example),
        }
    }
    let letters = recipe.model.characters.map(|_| Classes::collect(letters.iter().map(String::as_str)));
    let scaling = match recipe.data.input {
        InputName::Text | InputName::Images => None,
        InputName::Numbers | InputName::Audio => Some(Scaling::fit(numbers.into_iter())?),
    };
    Ok(TagLabels { tags, intents, letters, scaling })
}

fn statistics(name: &'static str, part: &[Encoded], labels: &TagLabels) -> PartStatistics {
    let known = |tag: &u32| labels.tags.names().get(*tag as usize).map_or(NO_TAG, String::as_str);
    let tags = part.iter().flat_map(|encoded| encoded.tags.iter().map(known));
    PartStatistics {
        part: name,
        lengths: Lengths::of(part.iter().map(|encoded| encoded.tags.len()).collect()),
        classes: Counts::collect(tags),
    }
}

struct Tagging {
    labels: TagLabels,
    encoder: TagEncoder,
    metric: Option<MetricName>,
    window: Option<usize>,
    train: TrainRecipe,
}

impl Tagging {
    /// What lies in a window of a batch.
    fn pack(&self, batch: &[&Encoded], steps: &Range<usize>) -> (TagBatch, Arc<Batch>, Vec<u32>) {
        let sequences: Vec<&TagSequence> = batch.iter().map(|encoded| &encoded.sequence).collect();
        let tags: Vec<&[u32]> = batch.iter().map(|encoded| within(&encoded.wanted, 1, steps)).collect();
        let (read, ragged) = self.encoder.pack(&sequences, steps);
        (read, Arc::new(ragged), pack(&tags, 1).0)
    }
}

impl ExampleTask for Tagging {
    type Model = Tagger;
    type Example = Encoded;

    fn length(&self, example: &Encoded) -> usize {
        example.wanted.len()
    }

    fn targets(&self, example: &Encoded) -> usize {
        example.counted()
    }

    fn objective(&self, model: &Tagger, batch: &[&Encoded], noise: Noise, _: u64) -> Objective {
        let (read, ragged, tags) = self.pack(batch, &(0..usize::MAX));
        let intents: Vec<u32> = batch.iter().map(|encoded| encoded.intent).collect();
        let learned = model.learn(read.steps(), &ragged, &tags, &intents, Some(noise));
        Objective::priced(learned, &self.train, &ragged)
    }

    fn window(&self) -> Option<usize> {
        self.window
    }

    fn targets_within(&self, example: &Encoded, steps: Range<usize>) -> usize {
        counted(within(&example.wanted, 1, &steps))
    }

    fn windowed(
        &self,
        model: &Tagger,
        batch: &[&Encoded],
        steps: Range<usize>,
        state: Option<State>,
        noise: Noise,
        _: u64,
    ) -> (Objective, Option<State>) {
        let (read, ragged, tags) = self.pack(batch, &steps);
        let (learned, state) = model.learn_window(read.steps(), &ragged, &tags, state, Some(noise));
        (Objective::priced(learned, &self.train, &ragged), state)
    }

    fn measure(&self, model: &Tagger, examples: &[Encoded]) -> Measured {
        let evaluation = judge(&model.valid(), &self.encoder, &self.labels, examples);
        let mut scores = Vec::new();
        scores.extend(evaluation.spans.map(|spans| Score::new("span_f1", spans.f1)));
        scores.push(Score::new("accuracy", evaluation.accuracy));
        scores.extend(evaluation.intent_accuracy.map(|share| Score::new("intent_accuracy", share)));
        let spans = evaluation.spans.map(|spans| spans.f1);
        let (macro_f1, balanced) =
            (evaluation.confusion.macro_f1(), evaluation.confusion.balanced_accuracy());
        match self.metric {
            Some(MetricName::MacroF1) => scores.push(Score::new("macro_f1", macro_f1)),
            Some(MetricName::BalancedAccuracy) => scores.push(Score::new("balanced_accuracy", balanced)),
            _ => {}
        }
        Measured {
            loss: evaluation.loss * evaluation.words as f64,
            targets: evaluation.words,
            answers: Some((evaluation.confusion.right() as usize, evaluation.words)),
            criterion: match self.metric {
                Some(MetricName::Loss) => None,
                Some(MetricName::Accuracy) => Some(evaluation.accuracy),
                Some(MetricName::MacroF1) => Some(macro_f1),
                Some(MetricName::BalancedAccuracy) => Some(balanced),
                Some(MetricName::SpanF1 | MetricName::Bleu | MetricName::ExactMatch) | None => {
                    Some(spans.unwrap_or(evaluation.accuracy))
                }
            },
            scores,
        }
    }
}

fn judge_saved(saved: &SavedTagger, examples: &[Encoded]) -> TagEvaluation {
    judge(&saved.model, &saved.encoder, &saved.labels, examples)
}

fn judge(model: &Tagger, encoder: &TagEncoder, labels: &TagLabels, examples: &[Encoded]) -> TagEvaluation {
    let sequences: Vec<&TagSequence> = examples.iter().map(|encoded| &encoded.sequence).collect();
    let all = tag_all(model, encoder, labels, &sequences);
    let names = labels.tags.names();
    let has_spans = marks_spans(names.iter().map(String::as_str));
    let mut confusion = Confusion::new(names);
    let mut spans = SpanCounts::default();
    let (mut loss, mut words, mut right_intents) = (0.0, 0, 0);
    let mut wrong: Vec<(f32, usize)> = Vec::new();
    for (place, (encoded, found)) in examples.iter().zip(&all).enumerate() {
        let rows = found.probabilities.chunks_exact(names.len());
        let mut lowest = f32::INFINITY;
        for ((&tag, &given), row) in encoded.tags.iter().zip(&found.tags).zip(rows) {
            if tag != IGNORE {
                confusion.add(tag, given);
                words += 1;
                loss -= f64::from(row[tag as usize].max(f32::MIN_POSITIVE)).ln();
                if tag != given {
                    lowest = lowest.min(row[tag as usize]);
                }
            }
        }
        if lowest.is_finite() {
            wrong.push((lowest, place));
        }
        // A step without a tag belongs to no span on either side.
        let name = |tag: u32| if tag == IGNORE { "O" } else { names[tag as usize].as_str() };
        let expected: Vec<&str> = encoded.tags.iter().map(|&tag| name(tag)).collect();
        let given = encoded.tags.iter().zip(&found.tags);
        let given: Vec<&str> =
            given.map(|(&tag, &given)| if tag == IGNORE { "O" } else { name(given) }).collect();
        spans.add(&expected, &given);
        if labels.intents.is_some() {
            right_intents += usize::from(highest(&found.intents) == encoded.intent as usize);
        }
    }
    wrong.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    wrong.truncate(MOST_WRONG);
    TagEvaluation {
        sentences: examples.len(),
        words,
        loss: loss / words.max(1) as f64,
        accuracy: confusion.accuracy(),
        spans: has_spans.then(|| spans.scores()),
        intent_accuracy: labels.intents.as_ref().map(|_| right_intents as f64 / examples.len().max(1) as f64),
        wrong: wrong
            .into_iter()
            .map(|(probability, place)| wrong_example(&examples[place], &all[place], names, probability))
            .collect(),
        confusion,
    }
}

/// A sentence with its mistakes, `word[right tag, not found tag]`, or how many steps of a sequence are wrong.
fn wrong_example(encoded: &Encoded, found: &Found, names: &[String], probability: f32) -> WrongExample {
    let mistaken: Vec<(u32, u32)> = encoded
        .tags
        .iter()
        .zip(&found.tags)
        .map(|(&tag, &given)| (tag, given))
        .filter(|&(tag, given)| tag != IGNORE && tag != given)
        .collect();
    let shown = match &encoded.sequence {
        TagSequence::Words(words) => {
            let pairs = words.iter().zip(encoded.tags.iter().zip(&found.tags));
            let marked = pairs.map(|(word, (&tag, &given))| {
                if tag == IGNORE || tag == given {
                    return word.clone();
                }
                format!("{word}[{}, not {}]", names[tag as usize], names[given as usize])
            });
            marked.collect::<Vec<_>>().join(" ")
        }
        TagSequence::Numbers { .. } | TagSequence::Images { .. } => {
            format!("{} of {} steps wrong", mistaken.len(), encoded.counted())
        }
    };
    let name = |tag: Option<u32>| tag.map_or(String::new(), |tag| names[tag as usize].clone());
    WrongExample {
        place: encoded.place.clone(),
        shown,
        expected: name(mistaken.first().map(|pair| pair.0)),
        found: name(mistaken.first().map(|pair| pair.1)),
        probability,
    }
}
