//! Where the sequences of a tagger come from: held in memory, or in files too large for it.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use crate::data::{
    Classes, DataError, Document, FirstFailure, FoundTags, FrameExample, IndexedSentences, Limits, NO_TAG,
    NumberExample, Scaling, Sentence, StoredSentence, StoredSentences, Tokens, VideoExample, Vocab,
    list_files, read_frames, read_sentences, read_videos,
};
use crate::output::{IGNORE, counted};
use crate::recipe::{InputName, Recipe};
use crate::saved::{TagEncoder, TagLabels, TagSequence, image_shape, number_columns, tag_columns};
use crate::train::examples::{Parts, deal, draw, groups};
use crate::train::{LargeSources, Sources, TrainError, by_part};

/// Where sequences are, and how one is read.
pub(super) trait Shelf {
    type Example: Clone;

    /// Steps of a sequence that the model makes.
    fn length(&self, example: &Self::Example) -> usize;

    /// Steps whose tag counts.
    fn counted(&self, example: &Self::Example) -> usize;

    fn sequence<'a>(&'a self, example: &'a Self::Example) -> Cow<'a, Encoded>;

    /// Hands on sequences in the order of their files.
    fn each(&self, examples: &[Self::Example], take: &mut dyn FnMut(&Encoded)) -> Result<(), DataError>;

    /// File and line of some sequences.
    fn places(&self, examples: &[&Self::Example]) -> Result<Vec<String>, DataError>;

    /// Why a sequence could not be read, once.
    fn failure(&self) -> Option<DataError> {
        None
    }
}

/// Sequences that are held in memory.
pub(super) struct Held;

impl Shelf for Held {
    type Example = Encoded;

    fn length(&self, example: &Encoded) -> usize {
        example.wanted.len()
    }

    fn counted(&self, example: &Encoded) -> usize {
        counted(&example.tags)
    }

    fn sequence<'a>(&'a self, example: &'a Encoded) -> Cow<'a, Encoded> {
        Cow::Borrowed(example)
    }

    fn each(&self, examples: &[Encoded], take: &mut dyn FnMut(&Encoded)) -> Result<(), DataError> {
        examples.iter().for_each(take);
        Ok(())
    }

    fn places(&self, examples: &[&Encoded]) -> Result<Vec<String>, DataError> {
        Ok(examples.iter().map(|example| example.place.clone()).collect())
    }
}

/// Sentences that stay in their files.
pub(super) struct Stored {
    sentences: StoredSentences,
    most: Option<usize>,
    labels: TagLabels,
    encoder: TagEncoder,
    failure: FirstFailure,
}

impl Stored {
    fn encode(&self, sentence: Sentence) -> Result<Encoded, DataError> {
        Encoded::new(Raw::of(sentence, self.most), &self.labels, &self.encoder)
    }
}

impl Shelf for Stored {
    type Example = StoredSentence;

    fn length(&self, row: &StoredSentence) -> usize {
        row.length as usize
    }

    fn counted(&self, row: &StoredSentence) -> usize {
        row.counted as usize
    }

    fn sequence<'a>(&'a self, row: &'a StoredSentence) -> Cow<'a, Encoded> {
        // What is said once is not looked for again.
        if self.failure.is_kept() {
            return Cow::Owned(Encoded::unread());
        }
        let read = self.sentences.read(row).and_then(|sentence| self.encode(sentence));
        Cow::Owned(read.unwrap_or_else(|error| {
            self.failure.keep(error);
            Encoded::unread()
        }))
    }

    fn each(&self, rows: &[StoredSentence], take: &mut dyn FnMut(&Encoded)) -> Result<(), DataError> {
        self.sentences.read_in_order(rows).try_for_each(|sentence| {
            take(&self.encode(sentence?)?);
            Ok(())
        })
    }

    fn places(&self, rows: &[&StoredSentence]) -> Result<Vec<String>, DataError> {
        let rows: Vec<StoredSentence> = rows.iter().copied().copied().collect();
        Ok(self.sentences.places(&rows)?.into_iter().map(|(file, line)| format!("{file}:{line}")).collect())
    }

    fn failure(&self) -> Option<DataError> {
        self.failure.take()
    }
}

/// The sentences of files that are too large to be held, dealt to the parts.
pub(super) struct StoredParts {
    sentences: StoredSentences,
    tags: FoundTags,
    most: Option<usize>,
    pub(super) parts: Parts<StoredSentence>,
}

impl StoredParts {
    /// Walks over the files of all parts; what is not given apart is drawn from those for training.
    pub(super) fn read(
        recipe: &Recipe,
        sources: &Sources,
        large: &LargeSources,
    ) -> Result<StoredParts, TrainError> {
        let files = large.files()?;
        let most = recipe.data.max_length;
        let IndexedSentences { sentences, rows, tags, ends } =
            StoredSentences::index(&files.concat(), tag_columns(recipe), most)?;
        let [train, valid, test] = by_part(rows, &ends, &files);
        let names: Vec<String> = files[0].iter().map(|path| large.given.name(path)).collect();
        let file_of = |row: usize| ends.partition_point(|&end| end <= row);
        let groups = groups(recipe, sources, train.len(), |row| (names[file_of(row)].as_str(), None))?;
        // A tag of many sentences is in all parts, unless whole files are dealt: then their first sentences stand for
        // all tags of theirs.
        let rare = if groups.is_some() { HashMap::new() } else { tags.rare(train.len()) };
        let labels = |row: usize| {
            let file = file_of(row);
            let is_first = file.checked_sub(1).map_or(0, |before| ends[before]) == row;
            let of_file = (groups.is_some() && is_first).then(|| tags.of_file(file));
            of_file.or_else(|| rare.get(&row).map(Vec::as_slice)).into_iter().flatten().copied()
        };
        let places = draw(train.len(), groups.as_deref(), labels, recipe, sources);
        let parts = deal(train, places, valid, test)?;
        Ok(StoredParts { sentences, tags, most, parts })
    }

    /// The sentences of files that are measured.
    pub(super) fn measured(recipe: &Recipe, paths: &[PathBuf]) -> Result<StoredParts, DataError> {
        let most = recipe.data.max_length;
        let IndexedSentences { sentences, rows, tags, .. } =
            StoredSentences::index(&list_files(paths)?.0, tag_columns(recipe), most)?;
        let parts = Parts { train: Vec::new(), valid: Vec::new(), test: rows };
        Ok(StoredParts { sentences, tags, most, parts })
    }

    /// Tags and letters of the training part.
    pub(super) fn labels(&self, recipe: &Recipe) -> Result<TagLabels, DataError> {
        let mut found = FoundLabels::default();
        for sentence in self.sentences.read_in_order(&self.parts.train) {
            found.add(&Raw::of(sentence?, self.most), recipe);
        }
        found.labels(None, None)
    }

    /// The vocabulary, from a sample of the training part.
    pub(super) fn vocab(&self, recipe: &Recipe) -> Result<Vocab, DataError> {
        // No word has a line's end in it, so they need not be kept one by one.
        let mut words = String::new();
        for sentence in self.sentences.sample(&self.parts.train, recipe.seed) {
            let most = self.most.unwrap_or(usize::MAX);
            for word in sentence?.words.iter().take(most) {
                words.push_str(word);
                words.push('\n');
            }
        }
        Ok(vocab_of(recipe, words.lines()))
    }

    /// Sentences as a tagger reads them, whose tags it must know.
    pub(super) fn shelved(
        self,
        labels: &TagLabels,
        encoder: &TagEncoder,
    ) -> Result<(Stored, Parts<StoredSentence>), DataError> {
        let StoredParts { sentences, tags, most, parts } = self;
        if let Some((tag, first)) = tags.unknown(|tag| labels.tags.id(tag).is_some()) {
            let (file, line) = sentences.places(&[first])?.swap_remove(0);
            labels.tags.find(tag, &file, line)?;
        }
        let (labels, encoder) = (labels.clone(), encoder.clone());
        Ok((Stored { sentences, most, labels, encoder, failure: FirstFailure::default() }, parts))
    }
}

/// A sequence as it was read.
pub(super) struct Raw {
    content: Content,
    tags: Vec<String>,
    intent: Option<String>,
    group: Option<String>,
    file: String,
    line: usize,
}

enum Content {
    Words(Vec<String>),
    Numbers(NumberExample),
    /// Images of so many values each.
    Images(Vec<u8>, usize),
}

impl Raw {
    /// A sentence, of which no more than `most` words are read.
    fn of(sentence: Sentence, most: Option<usize>) -> Raw {
        let Sentence { words, tags, intent, file, line } = sentence;
        let mut raw = Raw { content: Content::Words(words), tags, intent, group: None, file, line };
        raw.truncate(most.unwrap_or(usize::MAX));
        raw
    }

    fn truncate(&mut self, most: usize) {
        self.tags.truncate(most);
        match &mut self.content {
            Content::Words(words) => words.truncate(most),
            Content::Numbers(numbers) => numbers.values.truncate(most.saturating_mul(numbers.width)),
            Content::Images(pixels, width) => pixels.truncate(most.saturating_mul(*width)),
        }
    }
}

fn read(recipe: &Recipe, documents: &[Document]) -> Result<Vec<Raw>, DataError> {
    if recipe.data.input == InputName::Text {
        return Ok(read_sentences(documents, tag_columns(recipe))?
            .into_iter()
            .map(|sentence| Raw::of(sentence, None))
            .collect());
    }
    if recipe.data.input == InputName::Images {
        let shape = image_shape(recipe);
        let raw = |VideoExample { frames, tags, file }| Raw {
            content: Content::Images(frames, shape.values()),
            tags,
            intent: None,
            group: None,
            file,
            line: 1,
        };
        return Ok(read_videos(documents, shape, true)?.into_iter().map(raw).collect());
    }
    let raw = |FrameExample { numbers, tags }| Raw {
        tags,
        intent: None,
        group: numbers.group.clone(),
        file: numbers.file.clone(),
        line: numbers.line,
        content: Content::Numbers(numbers),
    };
    Ok(read_frames(documents, &number_columns(recipe)?, true)?.into_iter().map(raw).collect())
}

/// A sequence that is ready to be read.
#[derive(Clone)]
pub(super) struct Encoded {
    pub(super) sequence: TagSequence,
    pub(super) tags: Vec<u32>,
    /// The tags that the model is to give, one for every step that it makes.
    pub(super) wanted: Vec<u32>,
    pub(super) intent: u32,
    place: String,
}

impl Encoded {
    pub(super) fn new(raw: Raw, labels: &TagLabels, encoder: &TagEncoder) -> Result<Encoded, DataError> {
        let Raw { content, tags, intent, file, line, .. } = raw;
        let tag = |tag: &String| match tag.as_str() {
            NO_TAG => Ok(IGNORE),
            tag => labels.tags.find(tag, &file, line),
        };
        let tags = tags.iter().map(tag).collect::<Result<Vec<_>, _>>()?;
        let intent = match (&labels.intents, &intent) {
            (Some(intents), Some(intent)) => intents.find(intent, &file, line)?,
            (None, _) => 0,
            (Some(_), None) => {
                let reason = "its sentences have no class, expected a label file beside it as in training";
                return Err(DataError::File { name: file, reason: reason.to_owned() });
            }
        };
        let sequence = match (content, encoder) {
            (Content::Words(words), TagEncoder::Words(_)) => TagSequence::Words(words),
            (Content::Numbers(numbers), TagEncoder::Numbers { scaling, .. }) => {
                TagSequence::Numbers { values: scaling.apply(&numbers)?, width: numbers.width }
            }
            (Content::Images(values, width), TagEncoder::Images { .. }) => {
                TagSequence::Images { values, width }
            }
            _ => unreachable!("data.input says what is read and with what"),
        };
        let place = format!("{file}:{line}");
        Ok(Encoded { wanted: encoder.delayed(&tags), tags, intent, sequence, place })
    }

    /// Stands for a sentence that could not be read.
    fn unread() -> Encoded {
        let (sequence, tags) = (TagSequence::Words(vec![String::from('?')]), vec![0]);
        Encoded { sequence, wanted: tags.clone(), tags, intent: 0, place: String::new() }
    }

    /// Steps whose tag counts.
    pub(super) fn counted(&self) -> usize {
        counted(&self.tags)
    }
}

/// Sequences, cut where the recipe says so.
pub(super) fn read_cut(recipe: &Recipe, documents: &[Document]) -> Result<Vec<Raw>, TrainError> {
    let mut all = read(recipe, documents)?;
    if let Some(most) = recipe.data.max_length {
        all.iter_mut().for_each(|raw| raw.truncate(most));
    }
    Ok(all)
}

pub(super) fn read_parts(recipe: &Recipe, sources: &Sources) -> Result<Parts<Raw>, TrainError> {
    let read = |documents: &[Document]| -> Result<Vec<Raw>, TrainError> {
        if documents.is_empty() { Ok(Vec::new()) } else { read_cut(recipe, documents) }
    };
    let (all, valid, test) = (read(&sources.train)?, read(&sources.valid)?, read(&sources.test)?);
    let of = |place: usize| (all[place].file.as_str(), all[place].group.as_deref());
    let groups = groups(recipe, sources, all.len(), of)?;
    // A tag and an intent may have the same name.
    let labels = |place: usize| {
        let Raw { tags, intent, .. } = &all[place];
        let tags = tags.iter().filter(|tag| *tag != NO_TAG).map(|tag| (0, tag));
        tags.chain(intent.iter().map(|intent| (1, intent)))
    };
    let places = draw(all.len(), groups.as_deref(), labels, recipe, sources);
    Ok(deal(all, places, valid, test)?)
}

pub(super) fn build_vocab(recipe: &Recipe, learned: &[Raw]) -> Vocab {
    let words = learned.iter().filter_map(|raw| match &raw.content {
        Content::Words(words) => Some(words.iter().map(String::as_str)),
        Content::Numbers(_) | Content::Images(..) => None,
    });
    vocab_of(recipe, words.flatten())
}

fn vocab_of<'a>(recipe: &Recipe, words: impl Iterator<Item = &'a str>) -> Vocab {
    let limits = Limits { min_count: recipe.data.min_count, size: recipe.data.vocab_size, share: 1.0 };
    Vocab::of_pieces(Tokens::Word, words, limits)
}

/// The labels of sequences that were read.
pub(super) fn collect_labels(recipe: &Recipe, learned: &[Raw]) -> Result<TagLabels, DataError> {
    let mut found = FoundLabels::default();
    learned.iter().for_each(|raw| found.add(raw, recipe));
    let with = learned.iter().filter(|raw| raw.intent.is_some()).count();
    if with > 0 && with < learned.len() {
        let without = learned.iter().find(|raw| raw.intent.is_none());
        let reason =
            "its sentences have no class, but those of other files have; give all or none a label file";
        let name = without.map(|raw| raw.file.clone()).unwrap_or_default();
        return Err(DataError::File { name, reason: reason.to_owned() });
    }
    let intents =
        (with > 0).then(|| Classes::collect(learned.iter().filter_map(|raw| raw.intent.as_deref())));
    let numbers = learned.iter().filter_map(|raw| match &raw.content {
        Content::Numbers(example) => Some(example),
        Content::Words(_) | Content::Images(..) => None,
    });
    let scaling = match recipe.data.input {
        InputName::Text | InputName::Images => None,
        InputName::Numbers | InputName::Audio => Some(Scaling::fit(numbers)?),
    };
    found.labels(intents, scaling)
}

/// Tags, and letters where a model spells words.
#[derive(Default)]
struct FoundLabels {
    tags: BTreeSet<String>,
    letters: Option<BTreeSet<char>>,
}

impl FoundLabels {
    fn add(&mut self, raw: &Raw, recipe: &Recipe) {
        for tag in raw.tags.iter().filter(|tag| *tag != NO_TAG) {
            if !self.tags.contains(tag) {
                self.tags.insert(tag.clone());
            }
        }
        if recipe.model.characters.is_some() {
            let letters = self.letters.get_or_insert_default();
            if let Content::Words(words) = &raw.content {
                letters.extend(words.iter().flat_map(|word| word.chars()));
            }
        }
    }

    fn labels(self, intents: Option<Classes>, scaling: Option<Scaling>) -> Result<TagLabels, DataError> {
        let tags = Classes::collect(self.tags.iter().map(String::as_str));
        if tags.len() < 2 {
            let found = tags.names().join(", ");
            let reason = format!("the training part has the tags [{found}], expected at least two");
            return Err(DataError::Examples { reason });
        }
        let letters = self.letters.map(|letters| {
            let letters: Vec<String> = letters.into_iter().map(String::from).collect();
            Classes::collect(letters.iter().map(String::as_str))
        });
        Ok(TagLabels { tags, intents, letters, scaling })
    }
}
