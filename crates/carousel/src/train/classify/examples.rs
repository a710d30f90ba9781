//! Where the examples of a classifier come from: held in memory, or in tables too large for it.

use std::borrow::Cow;
use std::path::PathBuf;

use crate::data::{
    Classes, DataError, Document, IndexedTexts, Limits, NumberExample, Scaling, Sequence, StoredRow,
    StoredTexts, TextExample, Tokenizer, Vocab, list_files, read_numbers, read_texts,
};
use crate::recipe::{InputName, Recipe};
use crate::run::RunFolder;
use crate::saved::{Encoder, number_columns, text_columns};
use crate::train::examples::{self, Parts};
use crate::train::{LargeSources, Sources, TrainError, by_part};

/// Characters of a text that an evaluation keeps.
const SHOWN: usize = 300;

/// Where examples are, and how one is read.
pub(super) trait Shelf {
    type Example: Clone;

    /// Steps of an example.
    fn length(&self, example: &Self::Example) -> usize;

    fn class(&self, example: &Self::Example) -> u32;

    fn sequence<'a>(&'a self, example: &'a Self::Example) -> Cow<'a, Sequence>;

    /// File and line of some examples, and what of each can be shown.
    fn shown(&self, examples: &[&Self::Example]) -> Result<Vec<(String, String)>, DataError>;

    /// Why an example could not be read, once.
    fn failure(&self) -> Option<DataError> {
        None
    }
}

/// Examples that are held in memory.
pub(super) struct Held;

impl Shelf for Held {
    type Example = Labelled;

    fn length(&self, example: &Labelled) -> usize {
        example.sequence.length()
    }

    fn class(&self, example: &Labelled) -> u32 {
        example.class
    }

    fn sequence<'a>(&'a self, example: &'a Labelled) -> Cow<'a, Sequence> {
        Cow::Borrowed(&example.sequence)
    }

    fn shown(&self, examples: &[&Labelled]) -> Result<Vec<(String, String)>, DataError> {
        Ok(examples.iter().map(|example| (example.place.clone(), example.shown.clone())).collect())
    }
}

/// Texts that stay in their files.
pub(super) struct Stored {
    texts: StoredTexts,
    encoder: Encoder,
}

impl Shelf for Stored {
    type Example = StoredRow;

    fn length(&self, row: &StoredRow) -> usize {
        row.length as usize
    }

    fn class(&self, row: &StoredRow) -> u32 {
        row.class
    }

    fn sequence<'a>(&'a self, row: &'a StoredRow) -> Cow<'a, Sequence> {
        Cow::Owned(self.encoder.text(&self.texts.text(row)))
    }

    fn shown(&self, rows: &[&StoredRow]) -> Result<Vec<(String, String)>, DataError> {
        let rows: Vec<StoredRow> = rows.iter().copied().copied().collect();
        let places = self.texts.places(&rows)?;
        let shown = |row: &StoredRow| self.texts.text(row).chars().take(SHOWN).collect();
        Ok(places
            .into_iter()
            .zip(&rows)
            .map(|((file, line), row)| (format!("{file}:{line}"), shown(row)))
            .collect())
    }

    fn failure(&self) -> Option<DataError> {
        self.texts.failure()
    }
}

/// The rows of tables that are too large to be held, dealt to the parts; classes are still numbered as they came.
pub(super) struct StoredParts {
    texts: StoredTexts,
    labels: Vec<String>,
    pub(super) parts: Parts<StoredRow>,
}

impl StoredParts {
    /// Walks over the tables of all parts; what is not given apart is drawn from those for training.
    pub(super) fn read(
        recipe: &Recipe,
        sources: &Sources,
        large: &LargeSources,
    ) -> Result<StoredParts, TrainError> {
        let files = large.files()?;
        let indexed = StoredTexts::index(&files.concat(), text_columns(recipe), recipe.data.tokens)?;
        let IndexedTexts { texts, rows, labels, groups, group_names, ends } = indexed;
        let [train, valid, test] = by_part(rows, &ends, &files);
        let names: Vec<String> = files[0].iter().map(|path| large.given.name(path)).collect();
        let of = |row: usize| {
            let group = groups.get(row).copied().flatten();
            let file = &names[ends.partition_point(|&end| end <= row)];
            (file.as_str(), group.map(|group| group_names[group as usize].as_str()))
        };
        let groups = examples::groups(recipe, sources, train.len(), of)?;
        let places =
            examples::draw(train.len(), groups.as_deref(), |row| [train[row].class], recipe, sources);
        let parts = examples::deal(train, places, valid, test)?;
        Ok(StoredParts { texts, labels, parts })
    }

    /// The rows of tables that are measured.
    pub(super) fn measured(recipe: &Recipe, paths: &[PathBuf]) -> Result<StoredParts, DataError> {
        let files = list_files(paths)?.0;
        let IndexedTexts { texts, rows, labels, .. } =
            StoredTexts::index(&files, text_columns(recipe), recipe.data.tokens)?;
        let parts = Parts { train: Vec::new(), valid: Vec::new(), test: rows };
        Ok(StoredParts { texts, labels, parts })
    }

    /// The classes of the training part.
    pub(super) fn classes(&self) -> Classes {
        let mut is_there = vec![false; self.labels.len()];
        self.parts.train.iter().for_each(|row| is_there[row.class as usize] = true);
        let there = self.labels.iter().zip(is_there).filter(|(_, is_there)| *is_there);
        Classes::collect(there.map(|(label, _)| label.as_str()))
    }

    /// Learns from the training part how texts are read.
    pub(super) fn fit(&self, run: &RunFolder, recipe: &Recipe) -> Result<Encoder, TrainError> {
        let vocab = build_vocab(recipe, &self.texts.sample(&self.parts.train, recipe.seed))?;
        run.write_vocab(&vocab)?;
        Ok(text_encoder(recipe, vocab))
    }

    /// Numbers the classes as they are known, and cuts lengths off where texts are.
    pub(super) fn shelved(
        self,
        recipe: &Recipe,
        classes: &Classes,
        encoder: Encoder,
    ) -> Result<(Stored, Parts<StoredRow>), DataError> {
        let StoredParts { texts, labels, mut parts } = self;
        let known: Vec<Option<u32>> = labels.iter().map(|label| classes.id(label)).collect();
        let most = recipe.data.max_length.unwrap_or(usize::MAX).min(u32::MAX as usize) as u32;
        for row in [&mut parts.train, &mut parts.valid, &mut parts.test].into_iter().flatten() {
            row.class = match known[row.class as usize] {
                Some(class) => class,
                None => {
                    let (file, line) = texts.places(&[*row])?.swap_remove(0);
                    classes.find(&labels[row.class as usize], &file, line)?
                }
            };
            row.length = row.length.min(most);
        }
        Ok((Stored { texts, encoder }, parts))
    }
}

/// An example that is ready to be read.
#[derive(Clone)]
pub(super) struct Labelled {
    sequence: Sequence,
    class: u32,
    place: String,
    shown: String,
}

impl Labelled {
    pub(super) fn new(example: Raw, encoder: &Encoder, classes: &Classes) -> Result<Labelled, DataError> {
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
pub(super) struct Raw {
    content: Content,
    pub(super) label: String,
    group: Option<String>,
    file: String,
    line: usize,
}

enum Content {
    Text(String),
    Numbers(NumberExample),
}

pub(super) fn read_examples(recipe: &Recipe, documents: &[Document]) -> Result<Vec<Raw>, DataError> {
    if recipe.data.input == InputName::Text {
        let texts = read_texts(documents, text_columns(recipe))?;
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
        group: example.group.clone(),
        file: example.file.clone(),
        line: example.line,
        content: Content::Numbers(example),
    };
    Ok(examples.into_iter().map(raw).collect())
}

/// Learns from the training part how examples are read.
pub(super) fn fit(run: &RunFolder, recipe: &Recipe, examples: &[Raw]) -> Result<Encoder, TrainError> {
    if recipe.data.input == InputName::Text {
        let document = |example: &Raw| match &example.content {
            Content::Text(text) => {
                Some(Document { name: example.file.clone(), bytes: text.clone().into_bytes() })
            }
            Content::Numbers(_) => None,
        };
        let texts: Vec<Document> = examples.iter().filter_map(document).collect();
        let vocab = build_vocab(recipe, &texts)?;
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

/// Reads the examples of all parts; what is not given apart is drawn from those for training.
pub(super) fn read_parts(recipe: &Recipe, sources: &Sources) -> Result<Parts<Raw>, TrainError> {
    let read = |documents: &[Document]| -> Result<Vec<Raw>, TrainError> {
        if documents.is_empty() { Ok(Vec::new()) } else { Ok(read_examples(recipe, documents)?) }
    };
    let (all, valid, test) = (read(&sources.train)?, read(&sources.valid)?, read(&sources.test)?);
    let of = |place: usize| (all[place].file.as_str(), all[place].group.as_deref());
    let groups = examples::groups(recipe, sources, all.len(), of)?;
    let labels = |place: usize| [all[place].label.as_str()];
    let places = examples::draw(all.len(), groups.as_deref(), labels, recipe, sources);
    Ok(examples::deal(all, places, valid, test)?)
}

fn build_vocab(recipe: &Recipe, texts: &[Document]) -> Result<Vocab, DataError> {
    let limits = Limits { min_count: recipe.data.min_count, size: recipe.data.vocab_size, share: 1.0 };
    Vocab::build(recipe.data.tokens, texts, limits)
}

pub(super) fn text_encoder(recipe: &Recipe, vocab: Vocab) -> Encoder {
    Encoder::Text { tokenizer: Tokenizer::new(vocab), most: recipe.data.max_length }
}
