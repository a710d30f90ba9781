//! Trains and measures taggers.

use std::borrow::Cow;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::data::{Counts, DataError, Document, Lengths, NO_TAG, pack};
use crate::metrics::{Confusion, SpanCounts, SpanScores, marks_spans};
use crate::models::tagger::Tagger;
use crate::output::{IGNORE, counted};
use crate::ragged::Batch;
use crate::recipe::{InputName, MetricName, Recipe, TrainRecipe};
use crate::regularize::Noise;
use crate::run::RunFolder;
use crate::saved::{
    Found, LABELS, SavedTagger, TagBatch, TagEncoder, TagLabels, TagSequence, highest, read_json, tag_all,
    tagger_config, within,
};
use crate::state::State;
use crate::train::classify::{EVALUATION, MEASURED, WrongExample};
use crate::train::examples::{ExampleJob, ExampleTask, Parts};
use crate::train::job::{Facts, Measured, Objective};
use crate::train::trainer::train;
use crate::train::{
    Control, Event, LargeSources, PartStatistics, Score, Sources, Start, Summary, TrainError, write_json,
};

use self::sequences::{Encoded, Held, Shelf, StoredParts, build_vocab, collect_labels, read_cut, read_parts};

mod sequences;

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
    if let Some(large) = &sources.large {
        return tag_stored(run, recipe, sources, large, start, on_event);
    }
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
    let encode = |part: Vec<_>| -> Result<Vec<Encoded>, DataError> {
        part.into_iter().map(|raw| Encoded::new(raw, &labels, &encoder)).collect()
    };
    let parts = Parts { train: encode(learned)?, valid: encode(valid)?, test: encode(test)? };
    learn(Known { run, recipe, labels, encoder }, Held, parts, start, on_event)
}

/// The same where the files of words and tags are too large to be held.
fn tag_stored(
    run: &RunFolder,
    recipe: &Recipe,
    sources: &Sources,
    large: &LargeSources,
    start: Start,
    on_event: &mut dyn FnMut(&Event<'_>) -> Control,
) -> Result<Summary, TrainError> {
    let stored = StoredParts::read(recipe, sources, large)?;
    let labels = match start {
        Start::New => {
            let labels = stored.labels(recipe)?;
            run.write_vocab(&stored.vocab(recipe)?)?;
            write_json(run, LABELS, serde_json::to_string_pretty(&labels))?;
            labels
        }
        Start::Resume => read_json(run, LABELS)?,
    };
    let encoder = TagEncoder::of(recipe, &labels, || Ok(run.read_vocab()?))?;
    let (shelf, parts) = stored.shelved(&labels, &encoder)?;
    learn(Known { run, recipe, labels, encoder }, shelf, parts, start, on_event)
}

/// What a run knows before its first step.
struct Known<'a> {
    run: &'a RunFolder,
    recipe: &'a Recipe,
    labels: TagLabels,
    encoder: TagEncoder,
}

fn learn<S: Shelf>(
    known: Known<'_>,
    shelf: S,
    parts: Parts<S::Example>,
    start: Start,
    on_event: &mut dyn FnMut(&Event<'_>) -> Control,
) -> Result<Summary, TrainError> {
    let Known { run, recipe, labels, encoder } = known;
    let statistics: Vec<PartStatistics> = parts
        .named()
        .map(|(name, part)| statistics(name, &shelf, part, &labels))
        .collect::<Result<_, DataError>>()?;
    on_event(&Event::Examples { parts: &statistics });
    if parts.train.iter().all(|example| shelf.counted(example) == 0) {
        let reason = format!("no step of the training part has a tag other than {NO_TAG}, expected some");
        return Err(DataError::Examples { reason }.into());
    }

    let model = tagger_config(recipe, &encoder, &labels).init(&Device::default().autodiff())?;
    let steps =
        |name: &str| statistics.iter().find(|part| part.part == name).map_or(0, |part| part.lengths.total);
    let facts = Facts {
        vocabulary: match &encoder {
            TagEncoder::Words(words) => Some(words.vocab.len()),
            TagEncoder::Numbers { .. } | TagEncoder::Images { .. } => None,
        },
        train_tokens: Some(steps("training")),
        valid_tokens: Some(steps("validation")),
    };
    let judged = if parts.test.is_empty() { parts.valid.clone() } else { parts.test.clone() };
    // A batch in which no step has a tag teaches nothing, and its mean has no number.
    let train_part = parts.train.into_iter().filter(|example| shelf.counted(example) > 0).collect();
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
    let shelf = Arc::new(shelf);
    let task = Tagging { shelf: shelf.clone(), labels, encoder, metric, window, train: train_recipe };
    let summary = train(run, recipe, ExampleJob::new(task, recipe, model, parts), facts, start, on_event)?;
    if !judged.is_empty() && !summary.stopped {
        let evaluation = judge_saved(&SavedTagger::open(run.path())?, &*shelf, &judged)?;
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
    judge_saved(&saved, &Held, &encoded)
}

/// The same on files of words and tags that are too large to be held.
///
/// # Errors
/// As [`evaluate_tagger`].
pub fn evaluate_large_tagger(run: &Path, paths: &[PathBuf]) -> Result<TagEvaluation, TrainError> {
    let saved = SavedTagger::open(run)?;
    let stored = StoredParts::measured(&saved.recipe, paths)?;
    let (shelf, parts) = stored.shelved(&saved.labels, &saved.encoder)?;
    judge_saved(&saved, &shelf, &parts.test)
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

fn statistics<S: Shelf>(
    name: &'static str,
    shelf: &S,
    part: &[S::Example],
    labels: &TagLabels,
) -> Result<PartStatistics, DataError> {
    let mut lengths = Vec::with_capacity(part.len());
    let mut counts = vec![0; labels.tags.len()];
    shelf.each(part, &mut |sequence| {
        lengths.push(sequence.tags.len());
        sequence.tags.iter().filter(|&&tag| tag != IGNORE).for_each(|&tag| counts[tag as usize] += 1);
    })?;
    let named = labels.tags.names().iter().map(String::as_str).zip(counts);
    Ok(PartStatistics { part: name, lengths: Lengths::of(lengths), classes: Counts::of(named) })
}

struct Tagging<S> {
    shelf: Arc<S>,
    labels: TagLabels,
    encoder: TagEncoder,
    metric: Option<MetricName>,
    window: Option<usize>,
    train: TrainRecipe,
}

impl<S: Shelf> Tagging<S> {
    /// What lies in a window of a batch, and the classes of its sequences.
    fn pack(
        &self,
        batch: &[&S::Example],
        steps: &Range<usize>,
    ) -> (TagBatch, Arc<Batch>, Vec<u32>, Vec<u32>) {
        let batch: Vec<Cow<'_, Encoded>> = batch.iter().map(|example| self.shelf.sequence(example)).collect();
        let sequences: Vec<&TagSequence> = batch.iter().map(|encoded| &encoded.sequence).collect();
        let tags: Vec<&[u32]> = batch.iter().map(|encoded| within(&encoded.wanted, 1, steps)).collect();
        let intents = batch.iter().map(|encoded| encoded.intent).collect();
        let (read, ragged) = self.encoder.pack(&sequences, steps);
        (read, Arc::new(ragged), pack(&tags, 1).0, intents)
    }
}

impl<S: Shelf> ExampleTask for Tagging<S> {
    type Model = Tagger;
    type Example = S::Example;

    fn length(&self, example: &S::Example) -> usize {
        self.shelf.length(example)
    }

    fn targets(&self, example: &S::Example) -> usize {
        self.shelf.counted(example)
    }

    fn objective(&self, model: &Tagger, batch: &[&S::Example], noise: Noise, _: u64) -> Objective {
        let (read, ragged, tags, intents) = self.pack(batch, &(0..usize::MAX));
        let learned = model.learn(read.steps(), &ragged, &tags, &intents, Some(noise));
        Objective::priced(learned, &self.train, &ragged)
    }

    fn window(&self) -> Option<usize> {
        self.window
    }

    fn targets_within(&self, example: &S::Example, steps: Range<usize>) -> usize {
        match self.window {
            None => self.targets(example),
            Some(_) => counted(within(&self.shelf.sequence(example).wanted, 1, &steps)),
        }
    }

    fn windowed(
        &self,
        model: &Tagger,
        batch: &[&S::Example],
        steps: Range<usize>,
        state: Option<State>,
        noise: Noise,
        _: u64,
    ) -> (Objective, Option<State>) {
        let (read, ragged, tags, _) = self.pack(batch, &steps);
        let (learned, state) = model.learn_window(read.steps(), &ragged, &tags, state, Some(noise));
        (Objective::priced(learned, &self.train, &ragged), state)
    }

    fn failure(&self) -> Option<DataError> {
        self.shelf.failure()
    }

    fn measure(&self, model: &Tagger, examples: &[S::Example]) -> Measured {
        let evaluation = judge(&model.valid(), &self.encoder, &self.labels, &*self.shelf, examples).0;
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

fn judge_saved<S: Shelf>(
    saved: &SavedTagger,
    shelf: &S,
    examples: &[S::Example],
) -> Result<TagEvaluation, TrainError> {
    let (mut evaluation, wrong) = judge(&saved.model, &saved.encoder, &saved.labels, shelf, examples);
    let places = shelf.places(&wrong.iter().map(|&place| &examples[place]).collect::<Vec<_>>())?;
    if let Some(failure) = shelf.failure() {
        return Err(failure.into());
    }
    evaluation.wrong.iter_mut().zip(places).for_each(|(wrong, place)| wrong.place = place);
    Ok(evaluation)
}

/// How a model does, and which examples it is most wrong about; where those lie is left open.
fn judge<S: Shelf>(
    model: &Tagger,
    encoder: &TagEncoder,
    labels: &TagLabels,
    shelf: &S,
    examples: &[S::Example],
) -> (TagEvaluation, Vec<usize>) {
    let names = labels.tags.names();
    let has_spans = marks_spans(names.iter().map(String::as_str));
    let mut confusion = Confusion::new(names);
    let mut spans = SpanCounts::default();
    let (mut loss, mut words, mut right_intents) = (0.0, 0, 0);
    let mut wrong: Vec<(usize, WrongExample)> = Vec::new();
    for (number, chunk) in examples.chunks(MEASURED).enumerate() {
        let chunk: Vec<Cow<'_, Encoded>> = chunk.iter().map(|example| shelf.sequence(example)).collect();
        let sequences: Vec<&TagSequence> = chunk.iter().map(|encoded| &encoded.sequence).collect();
        let all = tag_all(model, encoder, labels, &sequences);
        let mut mistaken: Vec<(f32, usize)> = Vec::new();
        for (place, (encoded, found)) in chunk.iter().zip(&all).enumerate() {
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
                mistaken.push((lowest, place));
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
        mistaken.sort_by(|a, b| a.0.total_cmp(&b.0));
        wrong.extend(mistaken.into_iter().take(MOST_WRONG).map(|(probability, place)| {
            let example = wrong_example(&chunk[place], &all[place], names, probability);
            (number * MEASURED + place, example)
        }));
        wrong.sort_by(|a, b| a.1.probability.total_cmp(&b.1.probability).then(a.0.cmp(&b.0)));
        wrong.truncate(MOST_WRONG);
    }
    let (places, wrong) = wrong.into_iter().unzip();
    let evaluation = TagEvaluation {
        sentences: examples.len(),
        words,
        loss: loss / words.max(1) as f64,
        accuracy: confusion.accuracy(),
        spans: has_spans.then(|| spans.scores()),
        intent_accuracy: labels.intents.as_ref().map(|_| right_intents as f64 / examples.len().max(1) as f64),
        wrong,
        confusion,
    };
    (evaluation, places)
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
        place: String::new(),
        shown,
        expected: name(mistaken.first().map(|pair| pair.0)),
        found: name(mistaken.first().map(|pair| pair.1)),
        probability,
    }
}
