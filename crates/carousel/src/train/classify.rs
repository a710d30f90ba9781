//! Trains and measures classifiers.

mod examples;

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::data::{Classes, Counts, DataError, Document, Lengths, Sequence, pack_sequences};
use crate::metrics::Confusion;
use crate::models::classifier::Classifier;
use crate::recipe::{ClassWeights, InputName, MetricName, Recipe, TrainRecipe};
use crate::regularize::Noise;
use crate::run::RunFolder;
use crate::saved::{
    Encoder, LABELS, Labels, SavedClassifier, classifier_config, highest, probabilities, read_json, steps,
};
use crate::train::examples::{ExampleJob, ExampleTask, Parts};
use crate::train::job::{Facts, Measured, Objective};
use crate::train::trainer::train;
use crate::train::{
    Control, Event, LargeSources, PartStatistics, Score, Sources, Start, Summary, TrainError, write_json,
};
use examples::{Held, Labelled, Shelf, StoredParts, fit, read_examples, read_parts, text_encoder};

/// Wrong examples that an evaluation keeps.
const MOST_WRONG: usize = 20;
/// Examples that are measured at once.
pub(super) const MEASURED: usize = 4096;

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
    if let Some(large) = &sources.large {
        return classify_stored(run, recipe, sources, large, start, on_event);
    }
    let parts = read_parts(recipe, sources)?;
    let (classes, encoder) = match start {
        Start::New => {
            let classes = Classes::collect(parts.train.iter().map(|example| example.label.as_str()));
            let classes = several(recipe, classes)?;
            let encoder = fit(run, recipe, &parts.train)?;
            write_labels(run, &classes, &encoder)?;
            (classes, encoder)
        }
        Start::Resume => reread(run, recipe)?,
    };
    let encode = |part: Vec<_>| -> Result<Vec<Labelled>, TrainError> {
        part.into_iter().map(|example| Ok(Labelled::new(example, &encoder, &classes)?)).collect()
    };
    let parts = Parts { train: encode(parts.train)?, valid: encode(parts.valid)?, test: encode(parts.test)? };
    learn(Known { run, recipe, classes, encoder }, Held, parts, start, on_event)
}

/// The same where the tables are too large to be held.
fn classify_stored(
    run: &RunFolder,
    recipe: &Recipe,
    sources: &Sources,
    large: &LargeSources,
    start: Start,
    on_event: &mut dyn FnMut(&Event<'_>) -> Control,
) -> Result<Summary, TrainError> {
    let stored = StoredParts::read(recipe, sources, large)?;
    let (classes, encoder) = match start {
        Start::New => {
            let classes = several(recipe, stored.classes())?;
            let encoder = stored.fit(run, recipe)?;
            write_labels(run, &classes, &encoder)?;
            (classes, encoder)
        }
        Start::Resume => reread(run, recipe)?,
    };
    let (shelf, parts) = stored.shelved(recipe, &classes, encoder.clone())?;
    learn(Known { run, recipe, classes, encoder }, shelf, parts, start, on_event)
}

/// What a run knows before its first step.
struct Known<'a> {
    run: &'a RunFolder,
    recipe: &'a Recipe,
    classes: Classes,
    encoder: Encoder,
}

fn several(recipe: &Recipe, classes: Classes) -> Result<Classes, DataError> {
    if classes.len() < 2 {
        let found = classes.names().join(", ");
        let check = match recipe.data.input {
            InputName::Text => "data.label",
            InputName::Audio => "data.file_label, or the folders that the files lie in",
            _ => "data.label, data.file_label, or the folders that the files lie in",
        };
        return Err(DataError::Examples {
            reason: format!(
                "the training part has one class, {found:?}, expected at least two; check {check}"
            ),
        });
    }
    Ok(classes)
}

fn write_labels(run: &RunFolder, classes: &Classes, encoder: &Encoder) -> Result<(), TrainError> {
    let scaling = match encoder {
        Encoder::Numbers { scaling, .. } => Some(scaling.clone()),
        Encoder::Text { .. } => None,
    };
    write_json(run, LABELS, serde_json::to_string_pretty(&Labels { classes: classes.clone(), scaling }))
}

/// What a run that goes on wrote when it began.
fn reread(run: &RunFolder, recipe: &Recipe) -> Result<(Classes, Encoder), TrainError> {
    let Labels { classes, scaling } = read_json(run, LABELS)?;
    let encoder = match scaling {
        Some(scaling) => Encoder::Numbers { scaling, most: recipe.data.max_length },
        None => text_encoder(recipe, run.read_vocab()?),
    };
    Ok((classes, encoder))
}

fn learn<S: Shelf>(
    known: Known<'_>,
    shelf: S,
    parts: Parts<S::Example>,
    start: Start,
    on_event: &mut dyn FnMut(&Event<'_>) -> Control,
) -> Result<Summary, TrainError> {
    let Known { run, recipe, classes, encoder } = known;
    let statistics: Vec<PartStatistics> =
        parts.named().map(|(name, part)| statistics(name, &shelf, part, &classes)).collect();
    on_event(&Event::Examples { parts: &statistics });

    let config = classifier_config(recipe, encoder.steps(recipe), classes.len());
    let model = config.init(&Device::default().autodiff())?;
    let weights = (recipe.train.class_weights == ClassWeights::Balanced)
        .then(|| balanced(&shelf, &parts.train, classes.len()));
    let frames = |part: &[S::Example]| part.iter().map(|example| shelf.length(example)).sum();
    let facts = Facts {
        vocabulary: encoder.vocabulary(),
        train_tokens: Some(frames(&parts.train)),
        valid_tokens: Some(frames(&parts.valid)),
    };
    let judged = if parts.test.is_empty() { parts.valid.clone() } else { parts.test.clone() };
    let metric = recipe.train.metric.unwrap_or(MetricName::Accuracy);
    let shelf = Arc::new(shelf);
    let task = Classification { shelf: shelf.clone(), classes, weights, metric, train: recipe.train.clone() };
    let job = ExampleJob::new(task, recipe, model, parts);
    let summary = train(run, recipe, job, facts, start, on_event)?;
    if !judged.is_empty() && !summary.stopped {
        let saved = SavedClassifier::open(run.path())?;
        let evaluation = evaluate(&saved.model, &saved.classes, &*shelf, &judged)?;
        write_json(run, EVALUATION, serde_json::to_string_pretty(&evaluation))?;
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
    evaluate(&saved.model, &saved.classes, &Held, &examples)
}

/// The same on tables of texts that are too large to be held.
///
/// # Errors
/// As [`evaluate_classifier`].
pub fn evaluate_large_classifier(run: &Path, paths: &[PathBuf]) -> Result<ClassEvaluation, TrainError> {
    let SavedClassifier { recipe, model, classes, encoder } = SavedClassifier::open(run)?;
    let (shelf, parts) = StoredParts::measured(&recipe, paths)?.shelved(&recipe, &classes, encoder)?;
    evaluate(&model, &classes, &shelf, &parts.test)
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

fn statistics<S: Shelf>(
    name: &'static str,
    shelf: &S,
    part: &[S::Example],
    classes: &Classes,
) -> PartStatistics {
    let class = |example| classes.names()[shelf.class(example) as usize].as_str();
    PartStatistics {
        part: name,
        lengths: Lengths::of(part.iter().map(|example| shelf.length(example)).collect()),
        classes: Counts::collect(part.iter().map(class)),
    }
}

/// Weights in inverse proportion to how frequent a class is; their mean over the examples is 1.
fn balanced<S: Shelf>(shelf: &S, examples: &[S::Example], classes: usize) -> Vec<f32> {
    let mut counts = vec![0usize; classes];
    examples.iter().for_each(|example| counts[shelf.class(example) as usize] += 1);
    counts.iter().map(|&count| examples.len() as f32 / (classes * count.max(1)) as f32).collect()
}

struct Classification<S> {
    shelf: Arc<S>,
    classes: Classes,
    weights: Option<Vec<f32>>,
    metric: MetricName,
    train: TrainRecipe,
}

impl<S: Shelf> ExampleTask for Classification<S> {
    type Model = Classifier;
    type Example = S::Example;

    fn length(&self, example: &S::Example) -> usize {
        self.shelf.length(example)
    }

    fn targets(&self, _: &S::Example) -> usize {
        1
    }

    fn weight(&self, example: &S::Example) -> f64 {
        self.weights.as_ref().map_or(1.0, |weights| f64::from(weights[self.shelf.class(example) as usize]))
    }

    fn objective(&self, model: &Classifier, batch: &[&S::Example], noise: Noise, _: u64) -> Objective {
        let sequences: Vec<Cow<'_, Sequence>> =
            batch.iter().map(|example| self.shelf.sequence(example)).collect();
        let classes: Vec<u32> = batch.iter().map(|example| self.shelf.class(example)).collect();
        let (packed, ragged) = pack_sequences(&sequences.iter().map(AsRef::as_ref).collect::<Vec<_>>());
        let weights = self.weights.as_deref();
        let ragged = Arc::new(ragged);
        let learned = model.learn(steps(&packed), &ragged, &classes, weights, Some(noise));
        Objective::priced(learned, &self.train, &ragged)
    }

    fn failure(&self) -> Option<DataError> {
        self.shelf.failure()
    }

    fn measure(&self, model: &Classifier, examples: &[S::Example]) -> Measured {
        let Judged { loss, confusion, .. } = judge(&model.valid(), &self.classes, &*self.shelf, examples);
        let (accuracy, macro_f1) = (confusion.accuracy(), confusion.macro_f1());
        let balanced_accuracy = confusion.balanced_accuracy();
        let scores = vec![
            Score::new("accuracy", accuracy),
            Score::new("macro_f1", macro_f1),
            Score::new("balanced_accuracy", balanced_accuracy),
        ];
        Measured {
            loss,
            targets: examples.len(),
            answers: Some((confusion.right() as usize, examples.len())),
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

/// How a model does on some examples.
struct Judged {
    /// Summed.
    loss: f64,
    confusion: Confusion,
    /// The most wrong examples, worst first: probability of the right class, place, class found.
    wrong: Vec<(f32, usize, usize)>,
}

fn judge<S: Shelf>(model: &Classifier, classes: &Classes, shelf: &S, examples: &[S::Example]) -> Judged {
    let mut judged = Judged { loss: 0.0, confusion: Confusion::new(classes.names()), wrong: Vec::new() };
    for (number, chunk) in examples.chunks(MEASURED).enumerate() {
        let sequences: Vec<Cow<'_, Sequence>> = chunk.iter().map(|example| shelf.sequence(example)).collect();
        let rows = probabilities(model, &sequences.iter().map(AsRef::as_ref).collect::<Vec<_>>());
        for (place, (example, row)) in chunk.iter().zip(&rows).enumerate() {
            let (class, found) = (shelf.class(example), highest(row));
            let own = row[class as usize];
            judged.confusion.add(class, found as u32);
            judged.loss -= f64::from(own.max(f32::MIN_POSITIVE)).ln();
            if found != class as usize {
                judged.wrong.push((own, number * MEASURED + place, found));
            }
        }
        judged.wrong.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        judged.wrong.truncate(MOST_WRONG);
    }
    judged
}

/// All that is told of a model.
fn evaluate<S: Shelf>(
    model: &Classifier,
    classes: &Classes,
    shelf: &S,
    examples: &[S::Example],
) -> Result<ClassEvaluation, TrainError> {
    let Judged { loss, confusion, wrong } = judge(model, classes, shelf, examples);
    let shown = shelf.shown(&wrong.iter().map(|(_, place, _)| &examples[*place]).collect::<Vec<_>>())?;
    if let Some(failure) = shelf.failure() {
        return Err(failure.into());
    }
    let name = |class: usize| classes.names()[class].clone();
    let wrong = wrong.iter().zip(shown).map(|(&(probability, at, found), (place, shown))| WrongExample {
        place,
        shown,
        expected: name(shelf.class(&examples[at]) as usize),
        found: name(found),
        probability,
    });
    Ok(ClassEvaluation {
        examples: examples.len(),
        loss: loss / examples.len().max(1) as f64,
        accuracy: confusion.accuracy(),
        macro_f1: confusion.macro_f1(),
        balanced_accuracy: confusion.balanced_accuracy(),
        wrong: wrong.collect(),
        confusion,
    })
}
