//! A trained classifier, ready to be used.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::{OpenError, expect_task, load_weights};
use crate::data::{Classes, Packed, Passes, Sequence, Tokenizer, pack_sequences};
use crate::fused::with_slice;
use crate::models::classifier::{Body, Classifier, ClassifierConfig};
use crate::models::dense::DenseConfig;
use crate::models::pool::Pooling;
use crate::models::reader::{RecurrenceConfig, StepKind, Steps};
use crate::recipe::{Recipe, Task};
use crate::run::RunFolder;

/// The file of a run that names its classes.
pub(crate) const LABELS: &str = "labels.json";

/// Sequences that are read side by side in prediction.
const BATCH: usize = 64;

/// A class and its probability.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// The likeliest class.
    pub label: String,
    /// The probability of every class, in the order of the classes.
    pub probabilities: Vec<f32>,
}

/// Turns what a user gives into what a model reads.
#[derive(Clone, Debug)]
pub(crate) enum Encoder {
    /// Text.
    Text {
        /// Text to tokens.
        tokenizer: Tokenizer,
        /// Tokens behind these are cut off.
        most: Option<usize>,
    },
}

impl Encoder {
    /// What a step is.
    pub(crate) fn steps(&self, recipe: &Recipe) -> StepKind {
        match self {
            Encoder::Text { tokenizer, .. } => {
                StepKind::Token { vocabulary: tokenizer.vocab().len(), embedding: recipe.model.embedding }
            }
        }
    }

    /// `V`, where steps are tokens.
    pub(crate) fn vocabulary(&self) -> Option<usize> {
        match self {
            Encoder::Text { tokenizer, .. } => Some(tokenizer.vocab().len()),
        }
    }

    pub(crate) fn text(&self, text: &str) -> Sequence {
        match self {
            Encoder::Text { tokenizer, most } => {
                let mut sequence = Sequence::Tokens(tokenizer.encode(text));
                most.iter().for_each(|&most| sequence.truncate(most));
                sequence
            }
        }
    }
}

/// The sizes that a recipe asks for.
pub(crate) fn classifier_config(recipe: &Recipe, steps: StepKind, classes: usize) -> ClassifierConfig {
    let body = body(recipe);
    let unset = match body {
        Body::Recurrent(_) => Pooling::Last,
        Body::Dense(_) => Pooling::Mean,
    };
    ClassifierConfig {
        steps,
        body,
        pooling: recipe.model.pooling.unwrap_or(unset),
        classes,
        input_dropout: recipe.model.input_dropout,
        output_dropout: recipe.model.output_dropout,
        label_smoothing: recipe.train.label_smoothing,
        seed: recipe.seed,
    }
}

/// What stands between input and output layer.
pub(crate) fn body(recipe: &Recipe) -> Body {
    let model = &recipe.model;
    match model.recurrence_if_any() {
        Some(cell) => Body::Recurrent(RecurrenceConfig {
            cell,
            hidden: model.hidden,
            layers: model.layers,
            direction: model.direction,
            init: model.init(),
            dropout: recipe.regularize().recurrent,
        }),
        None => Body::Dense(DenseConfig {
            // Follows from what the layers read.
            input: 1,
            hidden: model.hidden,
            layers: model.layers,
            activation: model.dense_activation,
            norm: model.norm,
        }),
    }
}

/// The steps of a batch as a model takes them.
pub(crate) fn steps(packed: &Packed) -> Steps<'_> {
    match packed {
        Packed::Tokens(ids) => Steps::Tokens(ids),
        Packed::Numbers(values) => Steps::Numbers(values),
    }
}

/// What `labels.json` holds.
#[derive(Serialize, Deserialize)]
pub(crate) struct Labels {
    /// The classes, in the order of the model's outputs.
    pub(crate) classes: Classes,
}

/// Reads a JSON file at the top of a run.
pub(crate) fn read_json<T: for<'de> Deserialize<'de>>(run: &RunFolder, name: &str) -> Result<T, OpenError> {
    let path = run.path().join(name);
    let damaged = |reason: String| OpenError::File { path: path.clone(), reason };
    let text = std::fs::read_to_string(&path).map_err(|error| damaged(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))
}

/// A trained classifier with all that is needed to use it.
pub struct SavedClassifier {
    /// How it was trained.
    pub recipe: Recipe,
    /// The classes.
    pub classes: Classes,
    pub(crate) encoder: Encoder,
    pub(crate) model: Classifier,
}

impl SavedClassifier {
    /// Opens the run in a folder, with the weights of its best checkpoint; see
    /// [`SavedLanguageModel::open`](super::SavedLanguageModel::open).
    ///
    /// # Errors
    /// [`OpenError`] when the folder holds no run of this task, or its files are missing, damaged or of another
    /// model.
    pub fn open(path: &Path) -> Result<SavedClassifier, OpenError> {
        let run = RunFolder::open(path)?;
        let recipe = run.read_recipe()?;
        expect_task(&recipe, Task::Classify, path)?;
        let Labels { classes } = read_json(&run, LABELS)?;
        let tokenizer = Tokenizer::new(run.read_vocab()?);
        let encoder = Encoder::Text { tokenizer, most: recipe.data.max_length };
        let config = classifier_config(&recipe, encoder.steps(&recipe), classes.len());
        let mut model = config.init(&Device::default())?;
        load_weights(&run, &mut model)?;
        Ok(SavedClassifier { recipe, classes, encoder, model })
    }

    /// The classes of texts, in their order.
    #[must_use]
    pub fn predict(&self, texts: &[&str]) -> Vec<Prediction> {
        let sequences: Vec<Sequence> = texts.iter().map(|text| self.encoder.text(text)).collect();
        let sequences: Vec<&Sequence> = sequences.iter().collect();
        let rows = probabilities(&self.model, &sequences);
        rows.into_iter().map(|probabilities| self.prediction(probabilities)).collect()
    }

    fn prediction(&self, probabilities: Vec<f32>) -> Prediction {
        Prediction { label: self.classes.names()[highest(&probabilities)].clone(), probabilities }
    }
}

/// The place of the highest value; the first of several.
pub(crate) fn highest(values: &[f32]) -> usize {
    let mut best = 0;
    for (place, &value) in values.iter().enumerate() {
        if value > values[best] {
            best = place;
        }
    }
    best
}

/// The probability of every class for every sequence, in their order.
pub(crate) fn probabilities(model: &Classifier, sequences: &[&Sequence]) -> Vec<Vec<f32>> {
    let lengths: Vec<usize> = sequences.iter().map(|sequence| sequence.length()).collect();
    let mut rows = vec![Vec::new(); sequences.len()];
    for batch in Passes::in_order(&lengths, BATCH) {
        let chosen: Vec<&Sequence> = batch.iter().map(|&example| sequences[example]).collect();
        let (packed, ragged) = pack_sequences(&chosen);
        let found = model.probabilities(steps(&packed), &Arc::new(ragged));
        let classes = found.dims()[1];
        with_slice(&found, |found| {
            for (&example, row) in batch.iter().zip(found.chunks_exact(classes)) {
                rows[example] = row.to_vec();
            }
        });
    }
    rows
}
