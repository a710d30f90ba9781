//! A trained classifier, ready to be used.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::{LABELS, OpenError, body, expect_task, load_weights, read_json};
use crate::data::{
    Classes, DataError, Document, NamePattern, NumberColumns, NumberExample, Packed, Passes, Quoting,
    Scaling, Sequence, TextColumns, Tokenizer, pack_sequences, read_numbers,
};
use crate::init::Initializer;
use crate::models::classifier::{Classifier, ClassifierConfig};
use crate::models::pool::Pooling;
use crate::models::reader::{Body, StepKind, Steps};
use crate::recipe::{InputName, Recipe, Task};
use crate::run::RunFolder;
use crate::slices::with_slice;

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
    /// Sequences of numbers.
    Numbers {
        /// What is taken off them, and what they are divided by.
        scaling: Scaling,
        /// Steps behind these are cut off.
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
            Encoder::Numbers { scaling, .. } => StepKind::Numbers(scaling.mean.len()),
        }
    }

    /// `V`, where steps are tokens.
    pub(crate) fn vocabulary(&self) -> Option<usize> {
        match self {
            Encoder::Text { tokenizer, .. } => Some(tokenizer.vocab().len()),
            Encoder::Numbers { .. } => None,
        }
    }

    /// Encodes a text.
    ///
    /// # Panics
    /// When it is one of numbers.
    pub(crate) fn text(&self, text: &str) -> Sequence {
        match self {
            Encoder::Text { tokenizer, most } => {
                let mut sequence = Sequence::Tokens(tokenizer.encode(text));
                most.iter().for_each(|&most| sequence.truncate(most));
                sequence
            }
            Encoder::Numbers { .. } => panic!("a classifier of numbers reads no text"),
        }
    }

    /// Scales a sequence of numbers.
    ///
    /// # Errors
    /// [`DataError`] when it has another width.
    ///
    /// # Panics
    /// When it is one of text.
    pub(crate) fn numbers(&self, example: &NumberExample) -> Result<Sequence, DataError> {
        match self {
            Encoder::Numbers { scaling, most } => {
                let mut sequence =
                    Sequence::Numbers { values: scaling.apply(example)?, width: example.width };
                most.iter().for_each(|&most| sequence.truncate(most));
                Ok(sequence)
            }
            Encoder::Text { .. } => panic!("a classifier of text reads no numbers"),
        }
    }
}

/// How a recipe finds texts and their classes.
pub(crate) fn text_columns(recipe: &Recipe) -> TextColumns<'_> {
    TextColumns {
        text: &recipe.data.text,
        label: Some(&recipe.data.label),
        group: recipe.data.group.as_deref(),
        quoting: Quoting::of(recipe.data.quoting),
    }
}

/// How a recipe finds sequences of numbers.
pub(crate) fn number_columns(recipe: &Recipe) -> Result<NumberColumns<'_>, DataError> {
    let data = &recipe.data;
    let pattern = |text| NamePattern::new("data.file_label", text);
    Ok(NumberColumns {
        id: data.id.as_deref(),
        step: data.step.as_deref(),
        label: &data.label,
        group: data.group.as_deref(),
        pattern: data.file_label.as_deref().map(pattern).transpose()?,
        sound: (data.input == InputName::Audio).then_some(data.sound),
    })
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
        word_dropout: recipe.model.embedding_dropout,
        input_dropout: recipe.model.input_dropout,
        output_dropout: recipe.model.output_dropout,
        label_smoothing: recipe.train.label_smoothing,
        seed: recipe.seed,
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
    /// How numbers are scaled, where they are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scaling: Option<Scaling>,
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
        let Labels { classes, scaling } = read_json(&run, LABELS)?;
        let most = recipe.data.max_length;
        let encoder = match scaling {
            Some(scaling) => Encoder::Numbers { scaling, most },
            None => Encoder::Text { tokenizer: Tokenizer::new(run.read_vocab()?), most },
        };
        let config = classifier_config(&recipe, encoder.steps(&recipe), classes.len());
        let mut model = config.init_with(&mut Initializer::blank(), &Device::default())?;
        load_weights(&run, &mut model)?;
        Ok(SavedClassifier { recipe, classes, encoder, model })
    }

    /// Where tables have texts, for which no classes are wanted.
    #[must_use]
    pub fn columns(&self) -> TextColumns<'_> {
        TextColumns { label: None, group: None, ..text_columns(&self.recipe) }
    }

    /// The classes of texts, in their order.
    #[must_use]
    pub fn predict(&self, texts: &[&str]) -> Vec<Prediction> {
        let sequences: Vec<Sequence> = texts.iter().map(|text| self.encoder.text(text)).collect();
        let sequences: Vec<&Sequence> = sequences.iter().collect();
        let rows = probabilities(&self.model, &sequences);
        rows.into_iter().map(|probabilities| self.prediction(probabilities)).collect()
    }

    /// The classes of sequences of numbers in files, with the file and line that each begins on, in their order.
    ///
    /// # Errors
    /// [`DataError`] when the files do not do.
    pub fn predict_files(&self, documents: &[Document]) -> Result<Vec<(String, Prediction)>, DataError> {
        let examples = read_numbers(documents, &number_columns(&self.recipe)?, false)?;
        let sequences =
            examples.iter().map(|example| self.encoder.numbers(example)).collect::<Result<Vec<_>, _>>()?;
        let rows = probabilities(&self.model, &sequences.iter().collect::<Vec<_>>());
        let places = examples.into_iter().map(|example| format!("{}:{}", example.file, example.line));
        Ok(places.zip(rows.into_iter().map(|row| self.prediction(row))).collect())
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
