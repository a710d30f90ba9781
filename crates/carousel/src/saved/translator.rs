//! A trained translator, ready to be used.

use std::path::Path;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::{OpenError, expect_task, load_weights, read_json};
use crate::data::{EOS, Fill, Passes, SPECIAL, Side, UNK, cut};
use crate::decode::beam::{Hypothesis, Search, search};
use crate::init::Initializer;
use crate::models::translator::{Translator, TranslatorConfig};
use crate::recipe::{Recipe, Task};
use crate::run::RunFolder;
use crate::train::{read_sides, reverse};

/// What a run says of its translations, in its folder.
pub(crate) const TRANSLATOR: &str = "translator.json";

/// Places of all hypotheses that are followed side by side.
const PLACES: usize = 8192;

/// What [`TRANSLATOR`] holds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Known {
    /// Places of a source and of a target, both ends included.
    pub(crate) max_len: [usize; 2],
}

/// The sizes that a recipe asks for, with so many tokens of source and target.
#[must_use]
pub fn translator_config(recipe: &Recipe, vocabularies: [usize; 2]) -> TranslatorConfig {
    let model = &recipe.model;
    TranslatorConfig {
        source_vocabulary: vocabularies[0],
        target_vocabulary: vocabularies[1],
        embedding: model.embedding,
        cell: model.recurrence().fused().expect("a recipe of translation has a cell that the kernels know"),
        options: model.options(),
        hidden: model.hidden,
        layers: model.layers,
        direction: model.direction,
        merge: model.merge,
        residual: model.residual,
        attention: model.attention.score(),
        feeds: model.input_feeding,
        bridge: model.bridge,
        tied: model.tie_embeddings,
        shared: model.share_embeddings,
        init: model.init(),
        regularize: recipe.regularize(),
        seed: recipe.seed,
    }
}

/// A translation of one text.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Translation {
    /// The text.
    pub text: String,
    /// Its tokens, the last one `<eos>`.
    pub tokens: Vec<String>,
    /// The log-probability of each token.
    pub log_probabilities: Vec<f32>,
    /// What translations are compared by: the sum of those over the length penalty.
    pub score: f64,
    /// For each token how much each token of the source was looked at; empty without attention.
    pub attention: Vec<Vec<f32>>,
}

/// The translations of one text, best first.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Translated {
    /// The source's tokens in the order in which they were read.
    pub source: Vec<String>,
    /// How many of them the vocabulary does not have.
    pub unknown: usize,
    /// Whether the source was longer than the model reads, and cut.
    pub cut: bool,
    /// The translations.
    pub best: Vec<Translation>,
}

/// How translations are found and written.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The search.
    pub search: Search,
    /// What every translation begins with.
    pub prefix: String,
    /// Leaves `<unk>` where the model wrote it, in place of the source's token that it looked at.
    pub keep_unknown: bool,
}

/// A trained translator with all that is needed to use it.
pub struct SavedTranslator {
    /// How it was trained.
    pub recipe: Recipe,
    /// Source and target.
    pub sides: [Side; 2],
    pub(crate) max_len: [usize; 2],
    pub(crate) model: Translator,
}

impl SavedTranslator {
    /// Opens the run in a folder, with the weights of its best checkpoint; see
    /// [`SavedLanguageModel::open`](super::SavedLanguageModel::open).
    ///
    /// # Errors
    /// [`OpenError`] when the folder holds no run of this task, or its files are missing, damaged or of another
    /// model.
    pub fn open(path: &Path) -> Result<SavedTranslator, OpenError> {
        let run = RunFolder::open(path)?;
        let recipe = run.read_recipe()?;
        expect_task(&recipe, Task::Translate, path)?;
        let Known { max_len } = read_json(&run, TRANSLATOR)?;
        let sides = read_sides(path, &recipe)
            .map_err(|error| OpenError::File { path: path.to_owned(), reason: error.to_string() })?;
        let mut model = translator_config(&recipe, sides.each_ref().map(Side::len))
            .init_with(&mut Initializer::blank(), &Device::default())?;
        load_weights(&run, &mut model)?;
        Ok(SavedTranslator { recipe, sides, max_len, model })
    }

    /// Translates texts, in their order. An empty text has an empty translation.
    #[must_use]
    pub fn translate(&self, texts: &[&str], wanted: &Wanted) -> Vec<Translated> {
        let prefix = self.sides[1].encode_open(&wanted.prefix);
        let forced = self.sides[1].pieces(&wanted.prefix);
        let mut all = vec![Translated::default(); texts.len()];
        let mut sources: Vec<Vec<u32>> = Vec::new();
        let mut places: Vec<usize> = Vec::new();
        for (place, text) in texts.iter().enumerate() {
            let mut ids = self.sides[0].encode(text);
            if ids.len() == 2 {
                all[place].best = vec![Translation::default()];
                continue;
            }
            let told = &mut all[place];
            told.cut = cut(&mut ids, self.max_len[0]);
            told.unknown = ids.iter().filter(|&&id| id == UNK).count();
            told.source = self.source_tokens(text, &ids);
            if self.recipe.data.reverse_source {
                reverse(&mut ids);
                let end = told.source.len() - 1;
                told.source[1..end].reverse();
            }
            sources.push(ids);
            places.push(place);
        }
        let rows: Vec<&[u32]> = sources.iter().map(Vec::as_slice).collect();
        let found = search_all(&self.model, &rows, &prefix, &wanted.search);
        for (place, hypotheses) in places.into_iter().zip(found) {
            let source = std::mem::take(&mut all[place].source);
            all[place].best = hypotheses
                .into_iter()
                .map(|one| self.told(one, &source, &forced, wanted.keep_unknown))
                .collect();
            all[place].source = source;
        }
        all
    }

    /// The tokens of a source as they are written, known or not, as far as it is read.
    fn source_tokens(&self, text: &str, ids: &[u32]) -> Vec<String> {
        let pieces = self.sides[0].pieces(text);
        let mut tokens = vec!["<sos>".to_owned()];
        tokens.extend(pieces.into_iter().take(ids.len() - 2));
        tokens.push("<eos>".to_owned());
        tokens
    }

    /// `forced` are the tokens of what it had to begin with, known or not.
    fn told(
        &self,
        found: Hypothesis,
        source: &[String],
        forced: &[String],
        keep_unknown: bool,
    ) -> Translation {
        let Hypothesis { tokens, log_probabilities, score, attention } = found;
        let replace = |place: usize| match attention.get(place) {
            _ if place < forced.len() => forced[place].clone(),
            Some(weights) if !keep_unknown => {
                // The ends of the source are no words.
                let inner = 1..source.len().saturating_sub(1).max(1);
                let most = inner.max_by(|&a, &b| weights[a].total_cmp(&weights[b]));
                most.and_then(|place| source.get(place)).cloned().unwrap_or_default()
            }
            _ => "<unk>".to_owned(),
        };
        Translation {
            text: one_line(&self.sides[1].decode(&tokens, replace)),
            tokens: tokens.iter().map(|&id| self.sides[1].shown(id)).collect(),
            log_probabilities,
            score,
            attention: attention.iter().map(|weights| weights.to_vec()).collect(),
        }
    }
}

/// The sentence of some tokens, on one line; what is not known stays `<unk>`.
pub(crate) fn sentence(side: &Side, ids: &[u32]) -> String {
    one_line(&side.decode(ids, |_| SPECIAL[UNK as usize].to_owned()))
}

/// A translation stands on a line of its own, whatever a model of characters writes.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r', '\t'], " ")
}

/// Looks for the translations of all sources, those of about equal length side by side.
pub(crate) fn search_all(
    model: &Translator,
    sources: &[&[u32]],
    prefix: &[u32],
    wanted: &Search,
) -> Vec<Vec<Hypothesis>> {
    debug_assert!(sources.iter().all(|source| source.last() == Some(&EOS)));
    let mut all = vec![Vec::new(); sources.len()];
    for batch in side_by_side(sources, wanted.beam) {
        let rows: Vec<&[u32]> = batch.iter().map(|&place| sources[place]).collect();
        let prefixes = if prefix.is_empty() { Vec::new() } else { vec![prefix; rows.len()] };
        for (&place, found) in batch.iter().zip(search(model, &rows, &prefixes, wanted)) {
            all[place] = found;
        }
    }
    all
}

/// Batches of sources of about equal length.
pub(crate) fn side_by_side(sources: &[&[u32]], beam: usize) -> Vec<Vec<usize>> {
    let lengths = sources.iter().map(|source| source.len()).collect();
    Passes::filled(lengths, Fill::Steps(PLACES / beam.max(1)), 0).pass(0)
}
