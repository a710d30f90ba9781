//! A trained tagger, ready to be used.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::classifier::{LABELS, body, highest, read_json};
use super::{OpenError, expect_task, load_weights};
use crate::data::{Classes, Passes, Vocab, pack};
use crate::models::tagger::{TagInput, TagSteps, Tagged, Tagger, TaggerConfig, Words};
use crate::ragged::Batch;
use crate::recipe::{Recipe, Task};
use crate::run::RunFolder;

/// Sentences that are read side by side in prediction.
const BATCH: usize = 64;

/// What `labels.json` of a tagger holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TagLabels {
    /// The tags, in the order of the model's outputs.
    pub(crate) tags: Classes,
    /// The classes of whole sentences, where there are any.
    pub(crate) intents: Option<Classes>,
    /// The letters that words are read by, where they are.
    pub(crate) letters: Option<Classes>,
}

/// What a tagger says about a sentence.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaggedSentence {
    /// One tag a word.
    pub tags: Vec<String>,
    /// The probability of each.
    pub probabilities: Vec<f32>,
    /// The class of the whole sentence and its probability, where the tagger has learned some.
    pub intent: Option<(String, f32)>,
}

/// Turns words into what a tagger reads.
#[derive(Clone, Debug)]
pub(crate) struct WordEncoder {
    pub(crate) vocab: Vocab,
    pub(crate) letters: Option<Classes>,
}

impl WordEncoder {
    /// Packs sentences into a batch.
    pub(crate) fn pack(&self, sentences: &[&[String]]) -> (Words, Batch) {
        let mut words = Words::default();
        let mut known: HashMap<&str, u32> = HashMap::new();
        let spelled: Vec<Vec<u32>> = sentences
            .iter()
            .map(|sentence| {
                sentence
                    .iter()
                    .map(|word| {
                        *known.entry(word).or_insert_with(|| {
                            words.ids.push(self.vocab.piece(word));
                            if let Some(letters) = &self.letters {
                                // 0 is a letter that was not seen in training.
                                let id = |letter: char| {
                                    let mut bytes = [0; 4];
                                    letters.id(letter.encode_utf8(&mut bytes)).map_or(0, |id| id + 1)
                                };
                                words.letters.push(word.chars().map(id).collect());
                            }
                            words.ids.len() as u32 - 1
                        })
                    })
                    .collect()
            })
            .collect();
        let rows: Vec<&[u32]> = spelled.iter().map(Vec::as_slice).collect();
        let (index, batch) = pack(&rows, 1);
        words.index = index;
        (words, batch)
    }
}

/// The sizes that a recipe asks for.
pub(crate) fn tagger_config(recipe: &Recipe, vocabulary: usize, labels: &TagLabels) -> TaggerConfig {
    let letters = recipe.model.characters.zip(labels.letters.as_ref());
    TaggerConfig {
        input: TagInput::Words {
            vocabulary,
            embedding: recipe.model.embedding,
            letters: letters.map(|(hidden, letters)| (letters.len() + 1, hidden)),
        },
        body: body(recipe),
        tags: labels.tags.len(),
        intents: labels.intents.as_ref().map(Classes::len),
        crf: recipe.model.crf,
        input_dropout: recipe.model.input_dropout,
        output_dropout: recipe.model.output_dropout,
        label_smoothing: recipe.train.label_smoothing,
        seed: recipe.seed,
    }
}

/// A trained tagger with all that is needed to use it.
pub struct SavedTagger {
    /// How it was trained.
    pub recipe: Recipe,
    pub(crate) labels: TagLabels,
    pub(crate) encoder: WordEncoder,
    pub(crate) model: Tagger,
}

impl SavedTagger {
    /// Opens the run in a folder, with the weights of its best checkpoint; see
    /// [`SavedLanguageModel::open`](super::SavedLanguageModel::open).
    ///
    /// # Errors
    /// [`OpenError`] when the folder holds no run of this task, or its files are missing, damaged or of another
    /// model.
    pub fn open(path: &Path) -> Result<SavedTagger, OpenError> {
        let run = RunFolder::open(path)?;
        let recipe = run.read_recipe()?;
        expect_task(&recipe, Task::Tag, path)?;
        let labels: TagLabels = read_json(&run, LABELS)?;
        let encoder = WordEncoder { vocab: run.read_vocab()?, letters: labels.letters.clone() };
        let mut model = tagger_config(&recipe, encoder.vocab.len(), &labels).init(&Device::default())?;
        load_weights(&run, &mut model)?;
        Ok(SavedTagger { recipe, labels, encoder, model })
    }

    /// The tags, in the order of the model's outputs.
    #[must_use]
    pub fn tags(&self) -> &Classes {
        &self.labels.tags
    }

    /// Tags sentences.
    #[must_use]
    pub fn predict(&self, sentences: &[&[String]]) -> Vec<TaggedSentence> {
        let found = tag_all(&self.model, &self.encoder, &self.labels, sentences);
        let count = self.labels.tags.len();
        let told = |found: Found| TaggedSentence {
            probabilities: (found.tags.iter().zip(found.probabilities.chunks_exact(count)))
                .map(|(&tag, row)| row[tag as usize])
                .collect(),
            tags: found.tags.iter().map(|&tag| self.labels.tags.names()[tag as usize].clone()).collect(),
            intent: self.labels.intents.as_ref().map(|intents| {
                let best = highest(&found.intents);
                (intents.names()[best].clone(), found.intents[best])
            }),
        };
        found.into_iter().map(told).collect()
    }
}

/// What a tagger found for one sentence, as numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    pub(crate) tags: Vec<u32>,
    /// `[T, K]`.
    pub(crate) probabilities: Vec<f32>,
    pub(crate) intents: Vec<f32>,
}

/// Tags sentences, in their order.
pub(crate) fn tag_all(
    model: &Tagger,
    encoder: &WordEncoder,
    labels: &TagLabels,
    sentences: &[&[String]],
) -> Vec<Found> {
    let lengths: Vec<usize> = sentences.iter().map(|sentence| sentence.len()).collect();
    let mut all = vec![Found::default(); sentences.len()];
    let count = labels.tags.len();
    for chosen in Passes::in_order(&lengths, BATCH) {
        let rows: Vec<&[String]> = chosen.iter().map(|&place| sentences[place]).collect();
        let (words, batch) = encoder.pack(&rows);
        let batch = Arc::new(batch);
        let Tagged { tags, probabilities, intents } = model.tag(TagSteps::Words(&words), &batch);
        for (frame, (sequence, _)) in batch.places().enumerate() {
            let found = &mut all[chosen[sequence]];
            found.tags.push(tags[frame]);
            found.probabilities.extend_from_slice(&probabilities[frame * count..][..count]);
        }
        let classes = labels.intents.as_ref().map_or(1, Classes::len);
        for (&place, row) in chosen.iter().zip(intents.chunks_exact(classes)) {
            all[place].intents = row.to_vec();
        }
    }
    all
}
