//! Trains and measures classifiers.

use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::data::{
    Classes, Counts, DataError, Document, Lengths, Limits, NumberExample, Quoting, Scaling, Sequence,
    TextColumns, TextExample, Tokenizer, Vocab, pack_sequences, read_numbers, read_texts, split,
    split_groups,
};
use crate::metrics::Confusion;
use crate::models::classifier::Classifier;
use crate::recipe::{ClassWeights, InputName, MetricName, Recipe};
use crate::regularize::Noise;
use crate::run::RunFolder;
use crate::saved::{
    Encoder, LABELS, Labels, SavedClassifier, classifier_config, highest, number_columns, probabilities,
    read_json, steps,
};
use crate::train::examples::{ExampleJob, ExampleTask, Parts, deal};
use crate::train::trainer::{Facts, Measured, Objective, train};
use crate::train::{Control, Event, PartStatistics, Score, Sources, Start, Summary, TrainError};

/// Wrong examples that an evaluation keeps.
const MOST_WRONG: usize = 20;
/// Characters of a text that an evaluation keeps.
const SHOWN: usize = 300;

/// The file of a run with the evaluation of its best checkpoint.
pub const EVALUATION: &str = "evaluation.json";

/// Trains a classifier in a run's folder: examples from tables, one class each.
///
/// The folder gets the vocabulary and the classes too, and in the end `evaluation.json`: how the best checkpoint
/// does on the test part, or on the validation part where there is no other.
///
/// # Errors
/// [`TrainError`] when the data, the folder or a checkpoint does not do, or training diverges.
pub fn classify(
    run: &RunFolder,
    recipe: &Recipe,
    sources: &Sources,
    start: Start,
    on_event: &mut dyn FnMut(&Event<'_>) -> Control,
) -> Result<Summary, TrainError> {
    let parts = read_parts(recipe, sources)?;
    let (classes, encoder) = match start {
        Start::New => {
            let classes = Classes::collect(parts.train.iter().map(|example| example.label.as_str()));
            if classes.len() < 2 {
                let found = classes.names().join(", ");
                let reason = format!(
                    "the training part has one class, {found:?}, expected at least two; check data.label"
                );
                return Err(DataError::Examples { reason }.into());
            }
            let encoder = fit(run, recipe, &parts.train)?;
            let scaling = match &encoder {
                Encoder::Numbers { scaling, .. } => Some(scaling.clone()),
                Encoder::Text { .. } => None,
            };
            let text = serde_json::to_string_pretty(&Labels { classes: classes.clone(), scaling })
                .map_err(|error| TrainError::State { reason: error.to_string() })?;
            run.write(LABELS, text + "\n")?;
            (classes, encoder)
        }
        Start::Resume => {
            let Labels { classes, scaling } = read_json(run, LABELS)?;
            let encoder = match scaling {
                Some(scaling) => Encoder::Numbers { scaling, most: recipe.data.max_length },
                None => text_encoder(recipe, run.read_vocab()?),
            };
            (classes, encoder)
        }
    };
    let encode = |part: Vec<Raw>| -> Result<Vec<Labelled>, TrainError> {
        part.into_iter().map(|example| Ok(Labelled::new(example, &encoder, &classes)?)).collect()
    };
    let parts = Parts { train: encode(parts.train)?, valid: encode(parts.valid)?, test: encode(parts.test)? };
    let statistics: Vec<PartStatistics> =
        [("training", &parts.train), ("validation", &parts.valid), ("test", &parts.test)]
            .into_iter()
            .filter(|(_, part)| !part.is_empty())
            .map(|(name, part)| statistics(name, part, &classes))
            .collect();
    on_event(&Event::Examples { parts: &statistics });

    let config = classifier_config(recipe, encoder.steps(recipe), classes.len());
    let model = config.init(&Device::default().autodiff())?;
    let weights =
        (recipe.train.class_weights == ClassWeights::Balanced).then(|| balanced(&parts.train, classes.len()));
    let frames = |part: &[Labelled]| part.iter().map(|example| example.sequence.length()).sum();
    let facts = Facts {
        vocabulary: encoder.vocabulary(),
        train_tokens: Some(frames(&parts.train)),
        valid_tokens: Some(frames(&parts.valid)),
    };
    let judged = if parts.test.is_empty() { parts.valid.clone() } else { parts.test.clone() };
    let metric = recipe.train.metric.unwrap_or(MetricName::Accuracy);
    let task = Classification { classes: classes.clone(), weights, metric };
    let job = ExampleJob::new(task, recipe, model, parts);
    let summary = train(run, recipe, job, facts, start, on_event)?;
    if !judged.is_empty() && !summary.stopped {
        let saved = SavedClassifier::open(run.path())?;
        let evaluation = judge(&saved.model, &saved.classes, &judged).1;
        let text = serde_json::to_string_pretty(&evaluation)
            .map_err(|error| TrainError::State { reason: error.to_string() })?;
        run.write(EVALUATION, text + "\n")?;
    }
    Ok(summary)
}

/// Measures the best checkpoint of a run on examples, and finds those it is most wrong about.
///
/// # Errors
/// [`TrainError`] when the run cannot be opened or the examples do not do.
pub fn evaluate_classifier(run: &Path, documents: &[Document]) -> Result<ClassEvaluation, TrainError> {
    let saved = SavedClassifier::open(run)?;
    let examples = read_examples(&saved.recipe, documents)?;
    let examples = examples
        .into_iter()
        .map(|example| Labelled::new(example, &saved.encoder, &saved.classes))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(judge(&saved.model, &saved.classes, &examples).1)
}

/// How well a classifier does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassEvaluation {
    /// Examples measured.
    pub examples: usize,
    /// Mean loss in nats per example.
    pub loss: f64,
    /// The share of right answers.
    pub accuracy: f64,
    /// The mean of F1 over the classes.
    pub macro_f1: f64,
    /// The mean of recall over the classes.
    pub balanced_accuracy: f64,
    /// Which class was taken for which.
    pub confusion: Confusion,
    /// The most wrong examples, worst first: those whose class had the lowest probability.
    pub wrong: Vec<WrongExample>,
}

/// An example that was given another class than its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WrongExample {
    /// File and line.
    pub place: String,
    /// The example, as far as it can be shown.
    pub shown: String,
    /// Its class.
    pub expected: String,
    /// What it was given.
    pub found: String,
    /// The probability of its class.
    pub probability: f32,
}

/// An example that is ready to be read.
#[derive(Clone)]
struct Labelled {
    sequence: Sequence,
    class: u32,
    place: String,
    shown: String,
}

impl Labelled {
    fn new(example: Raw, encoder: &Encoder, classes: &Classes) -> Result<Labelled, DataError> {
        Ok(Labelled {
            class: classes.find(&example.label, &example.file, example.line)?,
            place: format!("{}:{}", example.file, example.line),
            shown: match &example.content {
                Content::Text(text) => text.chars().take(SHOWN).collect(),
                Content::Numbers(numbers) => {
                    format!("{} steps of {} numbers", numbers.values.len() / numbers.width, numbers.width)
                }
            },
            sequence: match &example.content {
                Content::Text(text) => encoder.text(text),
                Content::Numbers(numbers) => encoder.numbers(numbers)?,
            },
        })
    }
}

/// An example as it was read.
struct Raw {
    content: Content,
    label: String,
    group: String,
    file: String,
    line: usize,
}

enum Content {
    Text(String),
    Numbers(NumberExample),
}

fn read_examples(recipe: &Recipe, documents: &[Document]) -> Result<Vec<Raw>, DataError> {
    if recipe.data.input == InputName::Text {
        let texts = read_texts(documents, columns(recipe))?;
        let raw = |TextExample { text, label, group, file, line }| Raw {
            content: Content::Text(text),
            label,
            group,
            file,
            line,
        };
        return Ok(texts.into_iter().map(raw).collect());
    }
    let examples = read_numbers(documents, &number_columns(recipe)?, true)?;
    let raw = |example: NumberExample| Raw {
        label: example.label.clone(),
        group: String::new(),
        file: example.file.clone(),
        line: example.line,
        content: Content::Numbers(example),
    };
    Ok(examples.into_iter().map(raw).collect())
}

/// Learns from the training part how examples are read.
fn fit(run: &RunFolder, recipe: &Recipe, examples: &[Raw]) -> Result<Encoder, TrainError> {
    if recipe.data.input == InputName::Text {
        let vocab = build_vocab(recipe, examples)?;
        run.write_vocab(&vocab)?;
        return Ok(text_encoder(recipe, vocab));
    }
    let numbers = examples.iter().filter_map(|example| match &example.content {
        Content::Numbers(numbers) => Some(numbers),
        Content::Text(_) => None,
    });
    let scaling = Scaling::fit(numbers)?;
    Ok(Encoder::Numbers { scaling, most: recipe.data.max_length })
}

fn columns(recipe: &Recipe) -> TextColumns<'_> {
    TextColumns {
        text: &recipe.data.text,
        label: Some(&recipe.data.label),
        group: recipe.data.group.as_deref(),
        quoting: if recipe.data.quoting { Quoting::On } else { Quoting::Off },
    }
}

/// Reads the examples of all parts; what is not given apart is drawn from those for training.
fn read_parts(recipe: &Recipe, sources: &Sources) -> Result<Parts<Raw>, TrainError> {
    let read = |documents: &[Document]| -> Result<Vec<Raw>, TrainError> {
        if documents.is_empty() { Ok(Vec::new()) } else { Ok(read_examples(recipe, documents)?) }
    };
    let (all, valid, test) = (read(&sources.train)?, read(&sources.valid)?, read(&sources.test)?);
    let shares = super::shares(recipe, sources);
    let places = match recipe.data.group {
        Some(_) => {
            let groups = Classes::collect(all.iter().map(|example| example.group.as_str()));
            let group = |example: &Raw| groups.id(&example.group).unwrap_or_default() as usize;
            split_groups(&all.iter().map(group).collect::<Vec<_>>(), shares, recipe.seed)
        }
        None => split(all.len(), shares, recipe.seed),
    };
    Ok(deal(all, places, valid, test)?)
}

fn build_vocab(recipe: &Recipe, examples: &[Raw]) -> Result<Vocab, DataError> {
    let document = |example: &Raw| match &example.content {
        Content::Text(text) => {
            Some(Document { name: example.file.clone(), bytes: text.clone().into_bytes() })
        }
        Content::Numbers(_) => None,
    };
    let documents: Vec<Document> = examples.iter().filter_map(document).collect();
    let limits = Limits { min_count: recipe.data.min_count, size: recipe.data.vocab_size, share: 1.0 };
    Vocab::build(recipe.data.tokens, &documents, limits)
}

fn text_encoder(recipe: &Recipe, vocab: Vocab) -> Encoder {
    Encoder::Text { tokenizer: Tokenizer::new(vocab), most: recipe.data.max_length }
}

fn statistics(name: &'static str, part: &[Labelled], classes: &Classes) -> PartStatistics {
    PartStatistics {
        part: name,
        lengths: Lengths::of(part.iter().map(|example| example.sequence.length()).collect()),
        classes: Counts::collect(part.iter().map(|example| classes.names()[example.class as usize].as_str())),
    }
}

/// Weights in inverse proportion to how frequent a class is; their mean over the examples is 1.
fn balanced(examples: &[Labelled], classes: usize) -> Vec<f32> {
    let mut counts = vec![0usize; classes];
    examples.iter().for_each(|example| counts[example.class as usize] += 1);
    counts.iter().map(|&count| examples.len() as f32 / (classes * count.max(1)) as f32).collect()
}

struct Classification {
    classes: Classes,
    weights: Option<Vec<f32>>,
    metric: MetricName,
}

impl ExampleTask for Classification {
    type Model = Classifier;
    type Example = Labelled;

    fn length(&self, example: &Labelled) -> usize {
        example.sequence.length()
    }

    fn targets(&self, _: &Labelled) -> usize {
        1
    }

    fn objective(&self, model: &Classifier, batch: &[&Labelled], noise: Noise, _: u64) -> Objective {
        let sequences: Vec<&Sequence> = batch.iter().map(|example| &example.sequence).collect();
        let classes: Vec<u32> = batch.iter().map(|example| example.class).collect();
        let (packed, ragged) = pack_sequences(&sequences);
        let weights = self.weights.as_deref();
        Objective::plain(model.loss(steps(&packed), &Arc::new(ragged), &classes, weights, Some(noise)))
    }

    fn measure(&self, model: &Classifier, examples: &[Labelled]) -> Measured {
        let (loss, evaluation) = judge(&model.valid(), &self.classes, examples);
        let ClassEvaluation { accuracy, macro_f1, balanced_accuracy, .. } = evaluation;
        let scores = vec![
            Score::new("accuracy", accuracy),
            Score::new("macro_f1", macro_f1),
            Score::new("balanced_accuracy", balanced_accuracy),
        ];
        Measured {
            loss,
            targets: examples.len(),
            answers: Some((evaluation.confusion.right() as usize, examples.len())),
            criterion: match self.metric {
                MetricName::MacroF1 => Some(macro_f1),
                MetricName::BalancedAccuracy => Some(balanced_accuracy),
                MetricName::Loss => None,
                MetricName::Accuracy | MetricName::SpanF1 | MetricName::Bleu | MetricName::ExactMatch => {
                    Some(accuracy)
                }
            },
            scores,
        }
    }
}

/// The summed loss, and all that is told.
fn judge(model: &Classifier, classes: &Classes, examples: &[Labelled]) -> (f64, ClassEvaluation) {
    let sequences: Vec<&Sequence> = examples.iter().map(|example| &example.sequence).collect();
    let rows = probabilities(model, &sequences);
    let mut confusion = Confusion::new(classes.names());
    let mut loss = 0.0;
    let mut wrong: Vec<(f32, usize, usize)> = Vec::new();
    for (place, (example, row)) in examples.iter().zip(&rows).enumerate() {
        let found = highest(row);
        let own = row[example.class as usize];
        confusion.add(example.class, found as u32);
        loss -= f64::from(own.max(f32::MIN_POSITIVE)).ln();
        if found != example.class as usize {
            wrong.push((own, place, found));
        }
    }
    wrong.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    wrong.truncate(MOST_WRONG);
    let wrong = wrong.into_iter().map(|(probability, place, found)| WrongExample {
        place: examples[place].place.clone(),
        shown: examples[place].shown.clone(),
        expected: classes.names()[examples[place].class as usize].clone(),
        found: classes.names()[found].clone(),
        probability,
    });
    let evaluation = ClassEvaluation {
        examples: examples.len(),
        loss: loss / examples.len().max(1) as f64,
        accuracy: confusion.accuracy(),
        macro_f1: confusion.macro_f1(),
        balanced_accuracy: confusion.balanced_accuracy(),
        wrong: wrong.collect(),
        confusion,
    };
    (loss, evaluation)
}
