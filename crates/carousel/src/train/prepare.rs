//! From files of pairs to what a translator learns from: parts, vocabularies, ids, and how they are packed.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::data::{
    DataError, Document, EncodedPair, Fill, Limits, MOST_PLACES, MaxLen, PairColumns, PairCounts, Passes,
    Quoting, Side, Splitting, TextPair, TooLong, Uniform, Vocab, encode_pairs, read_pairs, split_groups,
};
use crate::recipe::Recipe;
use crate::run::RunFolder;
use crate::train::{Sources, TrainError};

/// The vocabulary of the source in a run's folder.
pub(crate) const SOURCE_VOCAB: &str = "source.vocab.json";
/// That of the target.
pub(crate) const TARGET_VOCAB: &str = "target.vocab.json";
/// What else a prepared set says of itself, and by what it is known.
pub(crate) const PREPARED: &str = "prepared.json";
/// The recipe of a set, in its folder.
const RECIPE: &str = "recipe.toml";

/// The parts of a set, in order.
const PARTS: [&str; 3] = ["train", "valid", "test"];

/// Pairs that are ready to be learned from.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Source and target.
    pub sides: [Side; 2],
    /// Places that a source and a target may take, `<sos>` and `<eos>` included.
    pub max_len: [usize; 2],
    /// Training, validation and test.
    pub parts: [Vec<EncodedPair>; 3],
    /// What became of each part's pairs.
    pub counts: [PairCounts; 3],
}

/// What `prepared.json` holds.
#[derive(Serialize, Deserialize)]
struct About {
    recipe: String,
    max_len: [usize; 2],
    counts: [PairCounts; 3],
}

/// Reads pairs, holds parts out by source, learns vocabularies from the training part, and turns all into ids. The
/// same recipe and files give the same set. Sources may also be a prepared set, which is then taken as it is.
///
/// # Errors
/// [`TrainError`] when the files do not do, or no pair is left to learn from.
pub fn prepare(recipe: &Recipe, sources: &Sources) -> Result<Prepared, TrainError> {
    prepare_with(recipe, sources, None)
}

/// The same with vocabularies that were learned before, and the places they were learned for.
pub(super) fn prepare_with(
    recipe: &Recipe,
    sources: &Sources,
    known: Option<([Side; 2], [usize; 2])>,
) -> Result<Prepared, TrainError> {
    if let Some(prepared) = from_documents(recipe, &sources.train)? {
        if !sources.valid.is_empty() || !sources.test.is_empty() {
            let reason =
                "a prepared set holds its own validation and test parts; leave --valid and --test out";
            return Err(DataError::Examples { reason: reason.to_owned() }.into());
        }
        return Ok(prepared);
    }
    let data = &recipe.data;
    let columns = PairColumns {
        format: data.format,
        source: data.source,
        target: data.target,
        names: [data.source_column.as_deref(), data.target_column.as_deref()],
        quoting: Quoting::of(data.quoting),
        stress: data.stress,
    };
    let read = |documents: &[Document]| -> Result<(Vec<TextPair>, usize), DataError> {
        if documents.is_empty() { Ok((Vec::new(), 0)) } else { read_pairs(documents, columns) }
    };
    let (all, empty) = read(&sources.train)?;
    let (valid, valid_empty) = read(&sources.valid)?;
    let (test, test_empty) = read(&sources.test)?;
    let uniform = Uniform { form: data.unicode, lowercase: data.lowercase };

    // A source that is held out is in no other part, with any of its translations.
    let mut groups = HashMap::new();
    let numbers: Vec<usize> = all
        .iter()
        .map(|pair| {
            let next = groups.len();
            *groups.entry(uniform.apply(&pair.source)).or_insert(next)
        })
        .collect();
    let places = split_groups(&numbers, super::shares(recipe, sources), recipe.seed);
    let mut all: Vec<Option<TextPair>> = all.into_iter().map(Some).collect();
    let mut take =
        |places: &[usize]| places.iter().filter_map(|&place| all[place].take()).collect::<Vec<_>>();
    let [train, held_valid, held_test] = places.each_ref().map(|places| take(places));
    let given = |given: Vec<TextPair>, held: Vec<TextPair>| if given.is_empty() { held } else { given };
    let texts = [train, given(valid, held_valid), given(test, held_test)];

    let (sides, max_len) = match known {
        Some(known) => known,
        None => {
            let sides = learn_sides(recipe, &texts[0], uniform)?;
            let max_len = resolve_lengths(data.max_len, &texts[0], &sides)?;
            (sides, max_len)
        }
    };
    let encode = |pairs: Vec<TextPair>, too_long| {
        let (mut pairs, counts) = encode_pairs(pairs, [&sides[0], &sides[1]], max_len, too_long);
        if data.reverse_source {
            pairs.iter_mut().for_each(|pair| reverse(&mut pair.source));
        }
        (pairs, counts)
    };
    let mut texts = texts.into_iter();
    let mut next = |too_long| encode(texts.next().unwrap_or_default(), too_long);
    let (train, mut train_counts) = next(data.too_long);
    // What is measured stays the same whatever the model can read.
    let (valid, mut valid_counts) = next(TooLong::Cut);
    let (test, mut test_counts) = next(TooLong::Cut);
    (train_counts.empty, valid_counts.empty, test_counts.empty) = (empty, valid_empty, test_empty);
    if train.is_empty() {
        let reason = format!(
            "no pair of the training part is left: {} are longer than data.max_len allows, {} and {} places with both \
             ends; raise data.max_len, or set data.too_long=cut",
            train_counts.dropped, max_len[0], max_len[1]
        );
        return Err(DataError::Examples { reason }.into());
    }
    Ok(Prepared {
        sides,
        max_len,
        parts: [train, valid, test],
        counts: [train_counts, valid_counts, test_counts],
    })
}

/// Turns what stands between the two ends round.
pub(crate) fn reverse(ids: &mut [u32]) {
    let end = ids.len().saturating_sub(1).max(1);
    if let Some(inner) = ids.get_mut(1..end) {
        inner.reverse();
    }
}

fn uniform(recipe: &Recipe) -> Uniform {
    Uniform { form: recipe.data.unicode, lowercase: recipe.data.lowercase }
}

fn learn_sides(recipe: &Recipe, pairs: &[TextPair], uniform: Uniform) -> Result<[Side; 2], DataError> {
    let data = &recipe.data;
    let limits = Limits { min_count: data.min_count, size: data.vocab_size, share: 1.0 };
    let tokens = data.side_tokens();
    let splitting = |side: usize| Splitting { tokens: tokens[side], punctuation: data.split_punctuation };
    let sources = || pairs.iter().map(|pair| pair.source.as_str());
    let targets = || pairs.iter().map(|pair| pair.target.as_str());
    if data.joint_vocab {
        let side = Side::learn(sources().chain(targets()), uniform, splitting(0), limits)?;
        return Ok([side.clone(), side]);
    }
    Ok([
        Side::learn(sources(), uniform, splitting(0), limits)?,
        Side::learn(targets(), uniform, splitting(1), limits)?,
    ])
}

fn resolve_lengths(wanted: MaxLen, pairs: &[TextPair], sides: &[Side; 2]) -> Result<[usize; 2], DataError> {
    if let MaxLen::Places(places) = wanted {
        return Ok([places; 2]);
    }
    let mut found = [0; 2];
    for (number, side) in sides.iter().enumerate() {
        let text = |pair: &'_ TextPair| if number == 0 { pair.source.clone() } else { pair.target.clone() };
        let lengths: Vec<usize> = pairs.iter().map(|pair| side.encode(&text(pair)).len()).collect();
        found[number] = wanted.resolve(&lengths);
        if found[number] > MOST_PLACES {
            let longest = (0..pairs.len()).max_by_key(|&place| lengths[place]).unwrap_or_default();
            let reason = format!(
                "{}: a sentence of {} tokens, expected at most {}; give data.max_len as a number, such as 102, or as \
                 a share, such as 0.99",
                pairs[longest].place,
                lengths[longest] - 2,
                MOST_PLACES - 2
            );
            return Err(DataError::Examples { reason });
        }
    }
    Ok(found)
}

/// The sides that a run's folder holds.
pub(crate) fn read_sides(folder: &Path, recipe: &Recipe) -> Result<[Side; 2], DataError> {
    let read = |name: &str| -> Result<Value, DataError> {
        let path = folder.join(name);
        let text = fs::read_to_string(&path).map_err(|source| DataError::Read { path, source })?;
        serde_json::from_str(&text).map_err(|error| DataError::Vocab { reason: format!("{name}: {error}") })
    };
    Ok([side_of(&read(SOURCE_VOCAB)?, recipe)?, side_of(&read(TARGET_VOCAB)?, recipe)?])
}

fn side_of(value: &Value, recipe: &Recipe) -> Result<Side, DataError> {
    let vocab = Vocab::from_json(value)?;
    let splitting = Splitting { tokens: vocab.tokens(), punctuation: recipe.data.split_punctuation };
    Ok(Side::new(vocab, uniform(recipe), splitting))
}

/// The file that tells of a set, where documents are those of a prepared folder.
pub(super) fn prepared_among(documents: &[Document]) -> Option<&str> {
    let is_set = |name: &&str| Path::new(name).file_name().is_some_and(|file| file == PREPARED);
    documents.iter().map(|document| document.name.as_str()).find(is_set)
}

/// The set among documents, where they are those of a prepared folder.
fn from_documents(recipe: &Recipe, documents: &[Document]) -> Result<Option<Prepared>, TrainError> {
    let named = |name: &str| {
        documents
            .iter()
            .find(|document| Path::new(&document.name).file_name().is_some_and(|file| file == name))
    };
    let Some(about) = named(PREPARED) else { return Ok(None) };
    let folder_of = |name: &str| {
        let folder = Path::new(name).parent().unwrap_or(Path::new(""));
        folder.strip_prefix(".").unwrap_or(folder).to_owned()
    };
    let folder = folder_of(&about.name);
    // A run may lie in the set's folder.
    if let Some(other) = documents.iter().find(|other| !folder_of(&other.name).starts_with(&folder)) {
        let reason = format!(
            "{} is of a prepared set, expected nothing beside it; prepare one set of all files together",
            about.name
        );
        return Err(DataError::File { name: other.name.clone(), reason }.into());
    }
    let damaged = |name: &str, reason: String| {
        TrainError::Data(DataError::File {
            name: name.to_owned(),
            reason: format!("{reason}; prepare the set again"),
        })
    };
    let told: About =
        serde_json::from_slice(&about.bytes).map_err(|error| damaged(&about.name, error.to_string()))?;
    let fits = Recipe::from_toml(&told.recipe, &about.name)
        .map_err(|error| damaged(&about.name, error.to_string()))?;
    if fits.data != recipe.data {
        let told = |value: Option<String>| value.unwrap_or_else(|| "unset".to_owned());
        let differ = fits.differences(recipe).into_iter().filter(|(key, ..)| key.starts_with("data."));
        let differ = differ.map(|(key, its, ours)| {
            format!("{key} is {}, the set was prepared with {}", told(ours), told(its))
        });
        let reason = format!(
            "{}; prepare it again, or train with its recipe.toml",
            differ.collect::<Vec<_>>().join("; ")
        );
        return Err(DataError::File { name: about.name.clone(), reason }.into());
    }
    let side = |name: &str| -> Result<Side, TrainError> {
        let document = named(name).ok_or_else(|| damaged(name, "it is missing".to_owned()))?;
        let value =
            serde_json::from_slice(&document.bytes).map_err(|error| damaged(name, error.to_string()))?;
        Ok(side_of(&value, recipe)?)
    };
    let sides = [side(SOURCE_VOCAB)?, side(TARGET_VOCAB)?];
    let mut parts = [Vec::new(), Vec::new(), Vec::new()];
    for (part, name) in parts.iter_mut().zip(PARTS) {
        let file = format!("{name}.jsonl");
        let Some(document) = named(&file) else { continue };
        for (number, line) in (1..).zip(document.bytes.split(|&byte| byte == b'\n')) {
            if line.is_empty() {
                continue;
            }
            let pair: EncodedPair = serde_json::from_slice(line)
                .map_err(|error| damaged(&format!("{file}:{number}"), error.to_string()))?;
            let known = |ids: &[u32], side: &Side| {
                ids.len() >= 2 && ids.len() <= MOST_PLACES && ids.iter().all(|&id| (id as usize) < side.len())
            };
            if !known(&pair.source, &sides[0]) || !known(&pair.target, &sides[1]) {
                return Err(damaged(
                    &format!("{file}:{number}"),
                    "ids that the vocabulary does not have".to_owned(),
                ));
            }
            part.push(pair);
        }
    }
    if parts[0].is_empty() {
        return Err(damaged("train.jsonl", "it holds no pair".to_owned()));
    }
    Ok(Some(Prepared { sides, max_len: told.max_len, parts, counts: told.counts }))
}

impl Prepared {
    /// Writes the set into a new folder: the recipe, vocabularies, a pair a line and what was counted.
    ///
    /// # Errors
    /// [`TrainError::Run`] when the folder exists, or cannot be written; nothing is then left of it.
    pub fn save(&self, path: &Path, recipe: &Recipe) -> Result<(), TrainError> {
        let folder = RunFolder::create(path)?;
        let written = self.write(&folder, recipe);
        if written.is_err() {
            let _ = fs::remove_dir_all(path);
        }
        written
    }

    fn write(&self, folder: &RunFolder, recipe: &Recipe) -> Result<(), TrainError> {
        let failed = |error: serde_json::Error| TrainError::State { reason: error.to_string() };
        folder.write(RECIPE, recipe.to_toml())?;
        self.write_sides(folder)?;
        for (part, name) in self.parts.iter().zip(PARTS) {
            let mut lines = String::new();
            for pair in part {
                lines.push_str(&serde_json::to_string(pair).map_err(failed)?);
                lines.push('\n');
            }
            folder.write(&format!("{name}.jsonl"), lines)?;
        }
        let about = About { recipe: recipe.to_toml(), max_len: self.max_len, counts: self.counts.clone() };
        folder.write(PREPARED, serde_json::to_string_pretty(&about).map_err(failed)? + "\n")?;
        // A prepared set is no run: it has no checkpoints.
        let _ = fs::remove_dir(folder.path().join("checkpoints"));
        Ok(())
    }

    /// Writes the vocabularies alone, as a run has them.
    pub(super) fn write_sides(&self, folder: &RunFolder) -> Result<(), TrainError> {
        for (side, name) in self.sides.iter().zip([SOURCE_VOCAB, TARGET_VOCAB]) {
            let text = serde_json::to_string(&side.vocab().to_json())
                .map_err(|error| TrainError::State { reason: error.to_string() })?;
            folder.write(name, text + "\n")?;
        }
        Ok(())
    }

    /// The path of the recipe that a set was prepared with, where a folder holds a set.
    #[must_use]
    pub fn recipe_in(folder: &Path) -> Option<PathBuf> {
        let recipe = folder.join(RECIPE);
        (folder.join(PREPARED).is_file() && recipe.is_file()).then_some(recipe)
    }

    /// Reads a set that was saved, with the recipe it was prepared with.
    ///
    /// # Errors
    /// [`TrainError`] when the folder holds none, or its files are damaged.
    pub fn open(path: &Path) -> Result<(Recipe, Prepared), TrainError> {
        let about = path.join(PREPARED);
        let read = |path: PathBuf| {
            fs::read_to_string(&path).map_err(|source| DataError::Read { path: path.clone(), source })
        };
        let told: About = serde_json::from_str(&read(about.clone())?).map_err(|error| DataError::File {
            name: about.display().to_string(),
            reason: error.to_string(),
        })?;
        let recipe = Recipe::from_toml(&told.recipe, &about.display().to_string()).map_err(|error| {
            DataError::File { name: about.display().to_string(), reason: error.to_string() }
        })?;
        let documents = crate::data::read_documents(&[path.to_owned()])?;
        let prepared = from_documents(&recipe, &documents)?.ok_or_else(|| DataError::File {
            name: path.display().to_string(),
            reason: "it holds no prepared set".to_owned(),
        })?;
        Ok((recipe, prepared))
    }

    /// The first batch of training, as places of its pairs, and how many of its places a filled-up batch would need
    /// on each side against how many are real.
    #[must_use]
    pub fn first_batch(&self, recipe: &Recipe) -> (Vec<usize>, [[usize; 2]; 2]) {
        let train = &self.parts[0];
        let lengths = train.iter().map(places).collect();
        let fill = match recipe.train.batch_tokens {
            Some(tokens) => Fill::Steps(tokens),
            None => Fill::Examples(recipe.train.batch),
        };
        let batch = Passes::filled(lengths, fill, recipe.seed).pass(0).into_iter().next().unwrap_or_default();
        let count = |of: &dyn Fn(&EncodedPair) -> usize| {
            let lengths: Vec<usize> = batch.iter().map(|&place| of(&train[place])).collect();
            [lengths.iter().copied().max().unwrap_or(0) * lengths.len(), lengths.iter().sum()]
        };
        let sides = [count(&|pair| pair.source.len()), count(&|pair| pair.target.len())];
        (batch, sides)
    }
}

/// Tokens of a pair that a model reads, on both sides together.
pub(super) fn places(pair: &EncodedPair) -> usize {
    pair.source.len() + pair.target.len() - 1
}
