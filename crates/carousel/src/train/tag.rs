//! Trains and measures taggers of words.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::data::{
    Classes, Counts, DataError, Document, Lengths, Limits, NO_TAG, Sentence, Tokens, Vocab, pack,
    read_sentences, split,
};
use crate::metrics::{Confusion, SpanCounts, SpanScores, marks_spans};
use crate::models::tagger::{TagSteps, Tagger};
use crate::output::IGNORE;
use crate::recipe::{MetricName, Recipe};
use crate::regularize::Noise;
use crate::run::RunFolder;
use crate::saved::{
    Found, LABELS, SavedTagger, TagLabels, WordEncoder, highest, read_json, tag_all, tagger_config,
};
use crate::train::classify::{EVALUATION, WrongExample};
use crate::train::examples::{ExampleJob, ExampleTask, Parts};
use crate::train::trainer::{Facts, Measured, Objective, train};
use crate::train::{Control, Event, PartStatistics, Score, Sources, Start, Summary, TrainError};

/// Sentences that an evaluation keeps.
const MOST_WRONG: usize = 20;

/// Trains a tagger of words in a run's folder, and with classes of whole sentences a second head on them.
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
    let (labels, vocab) = match start {
        Start::New => {
            let labels = collect_labels(recipe, &learned)?;
            let words = learned.iter().flat_map(|sentence| sentence.words.iter().map(String::as_str));
            let limits =
                Limits { min_count: recipe.data.min_count, size: recipe.data.vocab_size, share: 1.0 };
            let vocab = Vocab::of_pieces(Tokens::Word, words, limits);
            run.write_vocab(&vocab)?;
            let text = serde_json::to_string_pretty(&labels)
                .map_err(|error| TrainError::State { reason: error.to_string() })?;
            run.write(LABELS, text + "\n")?;
            (labels, vocab)
        }
        Start::Resume => (read_json(run, LABELS)?, run.read_vocab()?),
    };
    let encode = |part: Vec<Sentence>| -> Result<Vec<Encoded>, DataError> {
        part.into_iter().map(|sentence| Encoded::new(sentence, &labels)).collect()
    };
    let parts = Parts { train: encode(learned)?, valid: encode(valid)?, test: encode(test)? };
    let statistics: Vec<PartStatistics> =
        [("training", &parts.train), ("validation", &parts.valid), ("test", &parts.test)]
            .into_iter()
            .filter(|(_, part)| !part.is_empty())
            .map(|(name, part)| statistics(name, part))
            .collect();
    on_event(&Event::Examples { parts: &statistics });
    if parts.train.iter().all(|sentence| sentence.counted() == 0) {
        let reason = format!("no word of the training part has a tag other than {NO_TAG}, expected some");
        return Err(DataError::Examples { reason }.into());
    }

    let model = tagger_config(recipe, vocab.len(), &labels).init(&Device::default().autodiff())?;
    let words = |part: &[Encoded]| part.iter().map(|sentence| sentence.tags.len()).sum();
    let facts = Facts {
        vocabulary: Some(vocab.len()),
        train_tokens: Some(words(&parts.train)),
        valid_tokens: Some(words(&parts.valid)),
    };
    let judged = if parts.test.is_empty() { parts.valid.clone() } else { parts.test.clone() };
    // A batch in which no word has a tag teaches nothing, and its mean has no number.
    let train_part = parts.train.into_iter().filter(|sentence| sentence.counted() > 0).collect();
    let parts = Parts { train: train_part, ..parts };
    let encoder = WordEncoder { vocab, letters: labels.letters.clone() };
    let task = Tagging { labels, encoder, metric: recipe.train.metric };
    let summary = train(run, recipe, ExampleJob::new(task, recipe, model, parts), facts, start, on_event)?;
    if !judged.is_empty() && !summary.stopped {
        let evaluation = judge_saved(&SavedTagger::open(run.path())?, &judged);
        let text = serde_json::to_string_pretty(&evaluation)
            .map_err(|error| TrainError::State { reason: error.to_string() })?;
        run.write(EVALUATION, text + "\n")?;
    }
    Ok(summary)
}

/// Measures the best checkpoint of a run on sentences.
///
/// # Errors
/// [`TrainError`] when the run cannot be opened or the sentences do not do.
pub fn evaluate_tagger(run: &Path, documents: &[Document]) -> Result<TagEvaluation, TrainError> {
    let saved = SavedTagger::open(run)?;
    let sentences = read_sentences(documents)?;
    let encoded = sentences
        .into_iter()
        .map(|sentence| Encoded::new(sentence, &saved.labels))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(judge_saved(&saved, &encoded))
}

/// How well a tagger does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TagEvaluation {
    /// Sentences measured.
    pub sentences: usize,
    /// Words that have a tag.
    pub words: usize,
    /// Mean loss of the tags in nats.
    pub loss: f64,
    /// The share of right tags.
    pub accuracy: f64,
    /// How many spans are right, where the tags mark some.
    pub spans: Option<SpanScores>,
    /// The share of sentences given the right class, where there are some.
    pub intent_accuracy: Option<f64>,
    /// Which tag was taken for which.
    pub confusion: Confusion,
    /// The most wrong sentences, worst first: those in which some right tag had the lowest probability.
    pub wrong: Vec<WrongExample>,
}

/// A sentence that is ready to be read.
#[derive(Clone)]
struct Encoded {
    sentence: Sentence,
    tags: Vec<u32>,
    intent: u32,
}

impl Encoded {
    fn new(sentence: Sentence, labels: &TagLabels) -> Result<Encoded, DataError> {
        let Sentence { file, line, .. } = &sentence;
        let tag = |tag: &String| match tag.as_str() {
            NO_TAG => Ok(IGNORE),
            tag => labels.tags.find(tag, file, *line),
        };
        let tags = sentence.tags.iter().map(tag).collect::<Result<_, _>>()?;
        let intent = match (&labels.intents, &sentence.intent) {
            (Some(intents), Some(intent)) => intents.find(intent, file, *line)?,
            (None, _) => 0,
            (Some(_), None) => {
                let reason = "its sentences have no class, expected a label file beside it as in training";
                return Err(DataError::File { name: file.clone(), reason: reason.to_owned() });
            }
        };
        Ok(Encoded { tags, intent, sentence })
    }

    /// Words whose tag counts.
    fn counted(&self) -> usize {
        self.tags.iter().filter(|&&tag| tag != IGNORE).count()
    }
}

fn read_parts(recipe: &Recipe, sources: &Sources) -> Result<Parts<Sentence>, TrainError> {
    let read = |documents: &[Document]| -> Result<Vec<Sentence>, TrainError> {
        let mut sentences = if documents.is_empty() { Vec::new() } else { read_sentences(documents)? };
        if let Some(most) = recipe.data.max_length {
            for sentence in &mut sentences {
                sentence.words.truncate(most);
                sentence.tags.truncate(most);
            }
        }
        Ok(sentences)
    };
    let (all, valid, test) = (read(&sources.train)?, read(&sources.valid)?, read(&sources.test)?);
    let places = split(all.len(), super::shares(recipe, sources), recipe.seed);
    let mut all: Vec<Option<Sentence>> = all.into_iter().map(Some).collect();
    let mut take =
        |places: &[usize]| places.iter().filter_map(|&place| all[place].take()).collect::<Vec<_>>();
    let [train, held_valid, held_test] = places.each_ref().map(|places| take(places));
    let given = |given: Vec<Sentence>, held: Vec<Sentence>| if given.is_empty() { held } else { given };
    Ok(Parts { train, valid: given(valid, held_valid), test: given(test, held_test) })
}

fn collect_labels(recipe: &Recipe, sentences: &[Sentence]) -> Result<TagLabels, DataError> {
    let tags = sentences.iter().flat_map(|sentence| &sentence.tags).map(String::as_str);
    let tags = Classes::collect(tags.filter(|tag| *tag != NO_TAG));
    if tags.len() < 2 {
        let found = tags.names().join(", ");
        let reason = format!("the training part has the tags [{found}], expected at least two");
        return Err(DataError::Examples { reason });
    }
    let with = sentences.iter().filter(|sentence| sentence.intent.is_some()).count();
    if with > 0 && with < sentences.len() {
        let without = sentences.iter().find(|sentence| sentence.intent.is_none());
        let reason =
            "its sentences have no class, but those of other files have; give all or none a label file";
        let name = without.map(|sentence| sentence.file.clone()).unwrap_or_default();
        return Err(DataError::File { name, reason: reason.to_owned() });
    }
    let intents = (with > 0)
        .then(|| Classes::collect(sentences.iter().filter_map(|sentence| sentence.intent.as_deref())));
    let letters = recipe.model.characters.map(|_| {
        let words = sentences.iter().flat_map(|sentence| &sentence.words);
        let letters: BTreeSet<String> = words.flat_map(|word| word.chars().map(String::from)).collect();
        Classes::collect(letters.iter().map(String::as_str))
    });
    Ok(TagLabels { tags, intents, letters })
}

fn statistics(name: &'static str, part: &[Encoded]) -> PartStatistics {
    let tags = part.iter().flat_map(|encoded| encoded.sentence.tags.iter().map(String::as_str));
    PartStatistics {
        part: name,
        lengths: Lengths::of(part.iter().map(|encoded| encoded.tags.len()).collect()),
        classes: Counts::collect(tags),
    }
}

struct Tagging {
    labels: TagLabels,
    encoder: WordEncoder,
    metric: Option<MetricName>,
}

impl ExampleTask for Tagging {
    type Model = Tagger;
    type Example = Encoded;

    fn length(&self, example: &Encoded) -> usize {
        example.tags.len()
    }

    fn targets(&self, example: &Encoded) -> usize {
        example.counted()
    }

    fn objective(&self, model: &Tagger, batch: &[&Encoded], noise: Noise, _: u64) -> Objective {
        let words: Vec<&[String]> = batch.iter().map(|encoded| encoded.sentence.words.as_slice()).collect();
        let tags: Vec<&[u32]> = batch.iter().map(|encoded| encoded.tags.as_slice()).collect();
        let intents: Vec<u32> = batch.iter().map(|encoded| encoded.intent).collect();
        let (words, ragged) = self.encoder.pack(&words);
        let (tags, _) = pack(&tags, 1);
        let steps = TagSteps::Words(&words);
        Objective::plain(model.loss(steps, &Arc::new(ragged), &tags, &intents, Some(noise)))
    }

    fn measure(&self, model: &Tagger, examples: &[Encoded]) -> Measured {
        let evaluation = judge(&model.valid(), &self.encoder, &self.labels, examples);
        let mut scores = Vec::new();
        scores.extend(evaluation.spans.map(|spans| Score::new("span_f1", spans.f1)));
        scores.push(Score::new("accuracy", evaluation.accuracy));
        scores.extend(evaluation.intent_accuracy.map(|share| Score::new("intent_accuracy", share)));
        let spans = evaluation.spans.map(|spans| spans.f1);
        Measured {
            loss: evaluation.loss * evaluation.words as f64,
            targets: evaluation.words,
            answers: Some((evaluation.confusion.right() as usize, evaluation.words)),
            criterion: match self.metric {
                Some(MetricName::Loss) => None,
                Some(MetricName::Accuracy) => Some(evaluation.accuracy),
                Some(MetricName::MacroF1) => Some(evaluation.confusion.macro_f1()),
                Some(MetricName::BalancedAccuracy) => Some(evaluation.confusion.balanced_accuracy()),
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

fn judge(model: &Tagger, encoder: &WordEncoder, labels: &TagLabels, examples: &[Encoded]) -> TagEvaluation {
    let sentences: Vec<&[String]> =
        examples.iter().map(|encoded| encoded.sentence.words.as_slice()).collect();
    let all = tag_all(model, encoder, labels, &sentences);
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

/// A sentence with its mistakes: `word[right tag, not found tag]`.
fn wrong_example(encoded: &Encoded, found: &Found, names: &[String], probability: f32) -> WrongExample {
    let Sentence { words, file, line, .. } = &encoded.sentence;
    let mistaken: Vec<(u32, u32)> = encoded
        .tags
        .iter()
        .zip(&found.tags)
        .map(|(&tag, &given)| (tag, given))
        .filter(|&(tag, given)| tag != IGNORE && tag != given)
        .collect();
    let shown = words.iter().zip(encoded.tags.iter().zip(&found.tags)).map(|(word, (&tag, &given))| {
        if tag == IGNORE || tag == given {
            return word.clone();
        }
        format!("{word}[{}, not {}]", names[tag as usize], names[given as usize])
    });
    let name = |tag: Option<u32>| tag.map_or(String::new(), |tag| names[tag as usize].clone());
    WrongExample {
        place: format!("{file}:{line}"),
        shown: shown.collect::<Vec<_>>().join(" "),
        expected: name(mistaken.first().map(|pair| pair.0)),
        found: name(mistaken.first().map(|pair| pair.1)),
        probability,
    }
}
