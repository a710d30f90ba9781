//! A trained tagger, ready to be used.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::classifier::{highest, number_columns};
use super::images::{GREY, convolution, image_shape, scaled_pixels};
use super::{LABELS, OpenError, body, expect_task, load_weights, read_json};
use crate::data::{
    Classes, DataError, Document, ImageShape, NumberExample, Passes, Scaling, TagColumns, Vocab, pack,
    read_frames, read_image, read_videos,
};
use crate::init::Initializer;
use crate::models::tagger::{TagInput, TagStepper, TagSteps, Tagged, Tagger, TaggerConfig, Words};
use crate::output::IGNORE;
use crate::ragged::Batch;
use crate::recipe::{InputName, Recipe, Task};
use crate::run::RunFolder;

/// Sequences that are read side by side in prediction.
const BATCH: usize = 64;
/// The same of videos, whose steps are large.
const IMAGES: usize = 4;

/// What `labels.json` of a tagger holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TagLabels {
    /// The tags, in the order of the model's outputs.
    pub(crate) tags: Classes,
    /// The classes of whole sentences, where there are any.
    pub(crate) intents: Option<Classes>,
    /// The letters that words are read by, where they are.
    pub(crate) letters: Option<Classes>,
    /// How numbers are scaled, where they are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scaling: Option<Scaling>,
}

/// What a tagger says about a sequence.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaggedSentence {
    /// One tag a step.
    pub tags: Vec<String>,
    /// The probability of each.
    pub probabilities: Vec<f32>,
    /// The class of the whole sequence and its probability, where the tagger has learned some.
    pub intent: Option<(String, f32)>,
}

/// A sequence as it is given to a tagger.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum TagSequence {
    /// Words.
    Words(Vec<String>),
    /// Scaled numbers, `width` a step.
    Numbers { values: Vec<f32>, width: usize },
    /// Images, from 0 to 255, of so many values each.
    Images { values: Vec<u8>, width: usize },
}

impl TagSequence {
    /// Steps.
    pub(crate) fn length(&self) -> usize {
        match self {
            TagSequence::Words(words) => words.len(),
            TagSequence::Numbers { values, width } => values.len() / width.max(&1),
            TagSequence::Images { values, width } => values.len() / width.max(&1),
        }
    }
}

/// Sequences side by side as a tagger reads them.
pub(crate) enum TagBatch {
    Words(Words),
    Numbers(Vec<f32>),
}

impl TagBatch {
    pub(crate) fn steps(&self) -> TagSteps<'_> {
        match self {
            TagBatch::Words(words) => TagSteps::Words(words),
            TagBatch::Numbers(values) => TagSteps::Numbers(values),
        }
    }
}

/// Turns sequences into what a tagger reads.
#[derive(Clone, Debug)]
pub(crate) enum TagEncoder {
    Words(WordEncoder),
    Numbers {
        scaling: Scaling,
        /// Steps that an answer comes after its own.
        lookahead: usize,
    },
    Images {
        shape: ImageShape,
        lookahead: usize,
    },
}

impl TagEncoder {
    /// What a tagger of a run reads with.
    pub(crate) fn of(
        recipe: &Recipe,
        labels: &TagLabels,
        vocab: impl FnOnce() -> Result<Vocab, OpenError>,
    ) -> Result<TagEncoder, OpenError> {
        let lookahead = recipe.model.lookahead;
        Ok(match (&labels.scaling, recipe.data.input) {
            (Some(scaling), _) => TagEncoder::Numbers { scaling: scaling.clone(), lookahead },
            (None, InputName::Images) => TagEncoder::Images { shape: image_shape(recipe), lookahead },
            (None, _) => TagEncoder::Words(WordEncoder { vocab: vocab()?, letters: labels.letters.clone() }),
        })
    }

    /// Steps that an answer comes after its own.
    pub(crate) fn lookahead(&self) -> usize {
        match self {
            TagEncoder::Words(_) => 0,
            TagEncoder::Numbers { lookahead, .. } | TagEncoder::Images { lookahead, .. } => *lookahead,
        }
    }

    /// Steps that the model makes of a sequence: with a look-ahead it reads on where nothing follows.
    pub(crate) fn steps(&self, sequence: &TagSequence) -> usize {
        match sequence.length() {
            0 => 0,
            length => length + self.lookahead(),
        }
    }

    /// The tags of those steps: the first ones answer for no step.
    pub(crate) fn delayed(&self, tags: &[u32]) -> Vec<u32> {
        match tags.len() {
            0 => Vec::new(),
            _ => [&vec![IGNORE; self.lookahead()], tags].concat(),
        }
    }

    /// Packs a window of sequences, which are all of the encoder's kind, into a batch.
    pub(crate) fn pack(
        &self,
        sequences: &[&TagSequence],
        steps: &std::ops::Range<usize>,
    ) -> (TagBatch, Batch) {
        match self {
            TagEncoder::Words(encoder) => {
                let words = |sequence: &&TagSequence| match sequence {
                    TagSequence::Words(words) => within(words, 1, steps).to_vec(),
                    _ => panic!("a tagger of words reads words"),
                };
                let all: Vec<Vec<String>> = sequences.iter().map(words).collect();
                let (words, batch) = encoder.pack(&all.iter().map(Vec::as_slice).collect::<Vec<_>>());
                (TagBatch::Words(words), batch)
            }
            TagEncoder::Numbers { scaling, .. } => {
                let width = scaling.mean.len();
                let numbers = |sequence: &&TagSequence| match sequence {
                    // What follows the end is the mean of everything.
                    TagSequence::Numbers { values, .. } => {
                        filled_within(values, width, self.steps(sequence), steps, 0.0)
                    }
                    _ => panic!("a tagger of numbers reads numbers"),
                };
                let all: Vec<Vec<f32>> = sequences.iter().map(numbers).collect();
                let (values, batch) = pack(&all.iter().map(Vec::as_slice).collect::<Vec<_>>(), width);
                (TagBatch::Numbers(values), batch)
            }
            TagEncoder::Images { shape, .. } => {
                let width = shape.values();
                let pixels = |sequence: &&TagSequence| match sequence {
                    TagSequence::Images { values, .. } => {
                        filled_within(values, width, self.steps(sequence), steps, GREY)
                    }
                    _ => panic!("a tagger of images reads images"),
                };
                let all: Vec<Vec<u8>> = sequences.iter().map(pixels).collect();
                let (values, batch) = pack(&all.iter().map(Vec::as_slice).collect::<Vec<_>>(), width);
                (TagBatch::Numbers(scaled_pixels(&values).collect()), batch)
            }
        }
    }
}

/// The steps of a sequence that lie in a window.
pub(crate) fn within<'a, T>(values: &'a [T], width: usize, steps: &std::ops::Range<usize>) -> &'a [T] {
    let at = |step: usize| step.saturating_mul(width).min(values.len());
    &values[at(steps.start)..at(steps.end)]
}

/// The same of a sequence of `length` steps, of which the last ones hold nothing but `rest`.
fn filled_within<T: Copy>(
    values: &[T],
    width: usize,
    length: usize,
    steps: &std::ops::Range<usize>,
    rest: T,
) -> Vec<T> {
    let mut part = within(values, width, steps).to_vec();
    part.resize((steps.end.min(length) - steps.start.min(length)) * width, rest);
    part
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

/// How a recipe finds words and tags.
pub(crate) fn tag_columns(recipe: &Recipe) -> TagColumns {
    TagColumns { word: recipe.data.word_column, tag: recipe.data.tag_column, untagged: false }
}

/// The sizes that a recipe asks for.
pub(crate) fn tagger_config(recipe: &Recipe, encoder: &TagEncoder, labels: &TagLabels) -> TaggerConfig {
    let letters = recipe.model.characters.zip(labels.letters.as_ref());
    TaggerConfig {
        input: match encoder {
            TagEncoder::Words(encoder) => TagInput::Words {
                vocabulary: encoder.vocab.len(),
                embedding: recipe.model.embedding,
                letters: letters.map(|(hidden, letters)| (letters.len() + 1, hidden)),
            },
            TagEncoder::Numbers { scaling, .. } => TagInput::Numbers(scaling.mean.len()),
            TagEncoder::Images { .. } => {
                TagInput::Images { convolution: convolution(recipe), embedding: recipe.model.embedding }
            }
        },
        body: body(recipe),
        tags: labels.tags.len(),
        intents: labels.intents.as_ref().map(Classes::len),
        crf: recipe.model.crf,
        word_dropout: recipe.model.embedding_dropout,
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
    pub(crate) encoder: TagEncoder,
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
        let scales = matches!(recipe.data.input, InputName::Numbers | InputName::Audio);
        if labels.scaling.is_some() != scales {
            let reason = "its scaling and the data.input of config.toml do not belong together".to_owned();
            return Err(OpenError::File { path: path.join(LABELS), reason });
        }
        let encoder = TagEncoder::of(&recipe, &labels, || Ok(run.read_vocab()?))?;
        let mut model = tagger_config(&recipe, &encoder, &labels)
            .init_with(&mut Initializer::blank(), &Device::default())?;
        load_weights(&run, &mut model)?;
        Ok(SavedTagger { recipe, labels, encoder, model })
    }

    /// Where files of words and tags have them.
    #[must_use]
    pub fn columns(&self) -> TagColumns {
        tag_columns(&self.recipe)
    }

    /// The tags, in the order of the model's outputs.
    #[must_use]
    pub fn tags(&self) -> &Classes {
        &self.labels.tags
    }

    /// Tags sentences.
    ///
    /// # Panics
    /// When the tagger reads numbers.
    #[must_use]
    pub fn predict(&self, sentences: &[&[String]]) -> Vec<TaggedSentence> {
        self.tag(&sentences.iter().map(|words| TagSequence::Words(words.to_vec())).collect::<Vec<_>>())
    }

    /// Tags sequences of numbers, sound or images in files, with the file and line that each begins on, in their
    /// order.
    ///
    /// # Errors
    /// [`DataError`] when the files do not do.
    pub fn predict_files(&self, documents: &[Document]) -> Result<Vec<(String, TaggedSentence)>, DataError> {
        let mut places = Vec::new();
        let mut sequences = Vec::new();
        if let TagEncoder::Images { shape, .. } = self.encoder {
            for video in read_videos(documents, shape, false)? {
                places.push(video.file);
                sequences.push(TagSequence::Images { values: video.frames, width: shape.values() });
            }
            return Ok(places.into_iter().zip(self.tag(&sequences)).collect());
        }
        for example in read_frames(documents, &number_columns(&self.recipe)?, false)? {
            places.push(format!("{}:{}", example.numbers.file, example.numbers.line));
            sequences.push(self.scaled(&example.numbers)?);
        }
        Ok(places.into_iter().zip(self.tag(&sequences)).collect())
    }

    /// Answers step by step as numbers come; `None` where an answer needs all that follows, and of words.
    #[must_use]
    pub fn stream(&self) -> Option<TagStream<'_>> {
        let lookahead = self.encoder.lookahead();
        Some(TagStream { saved: self, stepper: self.model.stepper()?, lookahead, read: 0 })
    }

    /// Tags one sequence of numbers, `[T, I]` as they stand in files; errors name the place as given.
    ///
    /// # Errors
    /// [`DataError`] when a step has another number of values than the tagger reads.
    ///
    /// # Panics
    /// When the tagger reads words.
    pub fn predict_numbers(&self, example: &NumberExample) -> Result<TaggedSentence, DataError> {
        let sequence = self.scaled(example)?;
        Ok(self.tag(&[sequence]).remove(0))
    }

    /// Tags one video.
    ///
    /// # Errors
    /// [`DataError`] for what is no image.
    ///
    /// # Panics
    /// When the tagger reads no images.
    pub fn predict_images(&self, frames: &[Document]) -> Result<TaggedSentence, DataError> {
        let TagEncoder::Images { shape, .. } = self.encoder else { panic!("a tagger of images is wanted") };
        let images = frames.iter().map(|frame| read_image(frame, shape)).collect::<Result<Vec<_>, _>>()?;
        let sequence = TagSequence::Images { values: images.concat(), width: shape.values() };
        Ok(self.tag(&[sequence]).remove(0))
    }

    fn scaled(&self, example: &NumberExample) -> Result<TagSequence, DataError> {
        match &self.encoder {
            TagEncoder::Numbers { scaling, .. } => {
                Ok(TagSequence::Numbers { values: scaling.apply(example)?, width: example.width })
            }
            _ => panic!("a tagger of words or images reads no numbers"),
        }
    }

    fn tag(&self, sequences: &[TagSequence]) -> Vec<TaggedSentence> {
        let sequences: Vec<&TagSequence> = sequences.iter().collect();
        let found = tag_all(&self.model, &self.encoder, &self.labels, &sequences);
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

/// What a tagger says about a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaggedStep {
    /// The likeliest tag.
    pub tag: String,
    /// Its probability.
    pub probability: f32,
}

/// Answers the steps of a sequence as they come.
pub struct TagStream<'a> {
    saved: &'a SavedTagger,
    stepper: TagStepper,
    lookahead: usize,
    /// Steps read of the sequence.
    read: usize,
}

impl TagStream<'_> {
    /// Reads a step, and answers for the one that lies `model.lookahead` steps back, where there is one.
    ///
    /// # Errors
    /// [`DataError`] when the step, which is an example of one step, has another number of values than the tagger
    /// reads.
    pub fn push(&mut self, step: &NumberExample) -> Result<Option<TaggedStep>, DataError> {
        let TagEncoder::Numbers { scaling, .. } = &self.saved.encoder else { return Ok(None) };
        let values = scaling.apply(step)?;
        Ok(self.advance(&values))
    }

    /// The same of an image, `[channels, height, width]`.
    ///
    /// # Errors
    /// [`DataError`] for what is no image.
    pub fn push_image(&mut self, image: &Document) -> Result<Option<TaggedStep>, DataError> {
        let TagEncoder::Images { shape, .. } = &self.saved.encoder else { return Ok(None) };
        let values: Vec<f32> = scaled_pixels(&read_image(image, *shape)?).collect();
        Ok(self.advance(&values))
    }

    /// The sequence is over: answers for its last steps, and begins with another one.
    pub fn finish(&mut self) -> Vec<TaggedStep> {
        let nothing = match &self.saved.encoder {
            TagEncoder::Words(_) => return Vec::new(),
            TagEncoder::Numbers { scaling, .. } => vec![0.0; scaling.mean.len()],
            TagEncoder::Images { shape, .. } => vec![0.0; shape.values()],
        };
        let more = if self.read == 0 { 0 } else { self.lookahead };
        let rest = (0..more).filter_map(|_| self.advance(&nothing)).collect();
        self.stepper.reset();
        self.read = 0;
        rest
    }

    fn advance(&mut self, values: &[f32]) -> Option<TaggedStep> {
        let row = self.stepper.step(values).expect("what is pushed has the number of values");
        self.read += 1;
        let best = highest(&row);
        (self.read > self.lookahead)
            .then(|| TaggedStep { tag: self.saved.labels.tags.names()[best].clone(), probability: row[best] })
    }
}

/// What a tagger found for one sequence, as numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    pub(crate) tags: Vec<u32>,
    /// `[T, K]`.
    pub(crate) probabilities: Vec<f32>,
    pub(crate) intents: Vec<f32>,
}

/// Tags sequences, in their order.
pub(crate) fn tag_all(
    model: &Tagger,
    encoder: &TagEncoder,
    labels: &TagLabels,
    sequences: &[&TagSequence],
) -> Vec<Found> {
    let lengths: Vec<usize> = sequences.iter().map(|sequence| sequence.length()).collect();
    let mut all = vec![Found::default(); sequences.len()];
    let count = labels.tags.len();
    let together = if matches!(encoder, TagEncoder::Images { .. }) { IMAGES } else { BATCH };
    for chosen in Passes::in_order(&lengths, together) {
        let rows: Vec<&TagSequence> = chosen.iter().map(|&place| sequences[place]).collect();
        let (read, batch) = encoder.pack(&rows, &(0..usize::MAX));
        let batch = Arc::new(batch);
        let Tagged { tags, probabilities, intents } = model.tag(read.steps(), &batch);
        for (frame, (sequence, step)) in batch.places().enumerate() {
            if step < encoder.lookahead() {
                continue;
            }
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
