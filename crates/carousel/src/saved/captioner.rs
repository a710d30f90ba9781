//! A trained captioner, ready to be used.

use std::path::Path;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::images::{convolution, image_shape, scaled_pixels};
use super::{OpenError, expect_task, load_weights, read_json};
use crate::data::{
    CaptionColumns, DataError, Quoting, Scaling, Side, Splitting, Subject, SubjectKind, Uniform, Vocab,
    read_subject,
};
use crate::decode::beam::{Hypothesis, Search, search_from};
use crate::init::Initializer;
use crate::models::captioner::{CaptionInput, Captioner, CaptionerConfig, Subjects};
use crate::recipe::{InputName, Recipe, Task};
use crate::run::RunFolder;
use crate::saved::sentence;

/// What a run says of its captions, in its folder.
pub(crate) const CAPTIONER: &str = "captioner.json";

/// Subjects that are written about side by side.
const BATCH: usize = 64;

/// What [`CAPTIONER`] holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct KnownCaptions {
    /// Places of a caption, both ends included.
    pub(crate) max_len: usize,
    /// How features are scaled, where they are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scaling: Option<Scaling>,
}

impl KnownCaptions {
    /// The most tokens that are written.
    pub(crate) fn most_tokens(&self) -> usize {
        self.max_len.saturating_sub(2).max(1)
    }

    /// A subject as the model reads it.
    pub(crate) fn scaled(&self, subject: Subject) -> Result<Subject, DataError> {
        match (subject, &self.scaling) {
            (Subject::Features(mut features), Some(scaling)) => {
                features.values = scaling.apply(&features)?;
                Ok(Subject::Features(features))
            }
            (subject, _) => Ok(subject),
        }
    }
}

/// Subjects side by side as a captioner reads them.
pub(crate) struct SubjectBatch {
    values: Vec<f32>,
    /// Of features how many places each has.
    places: Vec<usize>,
    images: bool,
}

impl SubjectBatch {
    pub(crate) fn new<'a>(subjects: impl Iterator<Item = &'a Subject>) -> SubjectBatch {
        let mut batch = SubjectBatch { values: Vec::new(), places: Vec::new(), images: false };
        for subject in subjects {
            match subject {
                Subject::Image(pixels) => {
                    batch.images = true;
                    batch.values.extend(scaled_pixels(pixels));
                    batch.places.push(1);
                }
                Subject::Features(features) => {
                    batch.values.extend_from_slice(&features.values);
                    batch.places.push(features.values.len() / features.width);
                }
            }
        }
        batch
    }

    pub(crate) fn read(&self) -> Subjects<'_> {
        match self.images {
            true => Subjects::Images(&self.values, self.places.len()),
            false => Subjects::Features(&self.values, &self.places),
        }
    }
}

/// How a recipe finds captions.
pub(crate) fn caption_columns(recipe: &Recipe) -> CaptionColumns<'_> {
    CaptionColumns {
        path: &recipe.data.path,
        text: &recipe.data.text,
        group: recipe.data.group.as_deref(),
        quoting: Quoting::of(recipe.data.quoting),
    }
}

/// What a recipe's paths lead to.
pub(crate) fn subject_kind(recipe: &Recipe) -> SubjectKind {
    match recipe.data.input {
        InputName::Images => SubjectKind::Images(image_shape(recipe)),
        _ => SubjectKind::Features,
    }
}

/// How a recipe makes text uniform, and what it splits it into.
pub(crate) fn caption_text(recipe: &Recipe) -> (Uniform, Splitting) {
    let data = &recipe.data;
    (
        Uniform { form: data.unicode, lowercase: data.lowercase },
        Splitting { tokens: data.tokens, punctuation: data.split_punctuation },
    )
}

/// The side of a vocabulary that was learned.
pub(crate) fn caption_side(recipe: &Recipe, vocab: Vocab) -> Side {
    let (uniform, splitting) = caption_text(recipe);
    Side::new(vocab, uniform, splitting)
}

/// The sizes that a recipe asks for, with so many tokens.
pub(crate) fn captioner_config(recipe: &Recipe, known: &KnownCaptions, vocabulary: usize) -> CaptionerConfig {
    let model = &recipe.model;
    CaptionerConfig {
        input: match &known.scaling {
            Some(scaling) => CaptionInput::Features(scaling.mean.len()),
            None => CaptionInput::Image(convolution(recipe)),
        },
        vocabulary,
        embedding: model.embedding,
        cell: model.recurrence().fused().expect("a recipe of captions has a cell that the kernels know"),
        options: model.options(),
        hidden: model.hidden,
        layers: model.layers,
        told: model.told,
        attention: model.attention.score(),
        residual: model.residual,
        tied: model.tie_embeddings,
        init: model.init(),
        regularize: recipe.regularize(),
        seed: recipe.seed,
    }
}

/// A sentence about a subject.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Caption {
    /// The sentence.
    pub text: String,
    /// Its tokens, the last one `<eos>`.
    pub tokens: Vec<String>,
    /// The log-probability of each token.
    pub log_probabilities: Vec<f32>,
    /// What captions are compared by: the sum of those over the length penalty.
    pub score: f64,
    /// For each token how much each place of the subject was looked at, row after row of an image's grid; empty without
    /// attention.
    pub attention: Vec<Vec<f32>>,
}

impl Caption {
    pub(crate) fn of(found: &Hypothesis, side: &Side) -> Caption {
        Caption {
            text: sentence(side, &found.tokens),
            tokens: found.tokens.iter().map(|&id| side.shown(id)).collect(),
            log_probabilities: found.log_probabilities.clone(),
            score: found.score,
            attention: found.attention.iter().map(|weights| weights.to_vec()).collect(),
        }
    }
}

/// A trained captioner with all that is needed to use it.
pub struct SavedCaptioner {
    /// How it was trained.
    pub recipe: Recipe,
    /// The sentences' tokens.
    pub side: Side,
    pub(crate) known: KnownCaptions,
    pub(crate) model: Captioner,
}

impl SavedCaptioner {
    /// Opens the run in a folder, with the weights of its best checkpoint; see
    /// [`SavedLanguageModel::open`](super::SavedLanguageModel::open).
    ///
    /// # Errors
    /// [`OpenError`] when the folder holds no run of this task, or its files are missing, damaged or of another
    /// model.
    pub fn open(path: &Path) -> Result<SavedCaptioner, OpenError> {
        let run = RunFolder::open(path)?;
        let recipe = run.read_recipe()?;
        expect_task(&recipe, Task::Caption, path)?;
        let known: KnownCaptions = read_json(&run, CAPTIONER)?;
        if known.scaling.is_some() != (recipe.data.input == InputName::Numbers) {
            let reason = "its scaling and the data.input of config.toml do not belong together".to_owned();
            return Err(OpenError::File { path: path.join(CAPTIONER), reason });
        }
        let side = caption_side(&recipe, run.read_vocab()?);
        let mut model = captioner_config(&recipe, &known, side.len())
            .init_with(&mut Initializer::blank(), &Device::default())?;
        load_weights(&run, &mut model)?;
        Ok(SavedCaptioner { recipe, side, known, model })
    }

    /// Writes about images, or arrays of features, in their order: of each the best sentences, best first, at most
    /// `search.best`.
    ///
    /// # Errors
    /// [`DataError`] for a file that does not do.
    pub fn caption(&self, paths: &[&Path], search: &Search) -> Result<Vec<Vec<Caption>>, DataError> {
        let kind = subject_kind(&self.recipe);
        let read = |path: &&Path| self.known.scaled(read_subject(path, kind)?);
        let subjects = paths.iter().map(read).collect::<Result<Vec<Subject>, DataError>>()?;
        let found = write_all(&self.model, &subjects.iter().collect::<Vec<_>>(), &self.known, search);
        Ok(found.iter().map(|all| all.iter().map(|one| Caption::of(one, &self.side)).collect()).collect())
    }

    /// Rows and columns of the grid that the model looks at; `None` where it reads features or does not look.
    #[must_use]
    pub fn grid(&self) -> Option<[usize; 2]> {
        let looks = self.recipe.model.attention.score().is_some() && self.known.scaling.is_none();
        looks.then(|| {
            let [_, height, width] = convolution(&self.recipe).output();
            [height, width]
        })
    }
}

/// The best sentences about all subjects.
pub(crate) fn write_all(
    model: &Captioner,
    subjects: &[&Subject],
    known: &KnownCaptions,
    search: &Search,
) -> Vec<Vec<Hypothesis>> {
    let one = |part: &[&Subject]| {
        let batch = SubjectBatch::new(part.iter().copied());
        let writer = model.writer(&model.encode(batch.read()));
        search_from(writer, &vec![known.most_tokens(); part.len()], &[], search)
    };
    subjects.chunks(BATCH).flat_map(one).collect()
}
