//! The text that a run learns from: files of the user, or this project's own sources built into the program.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf, absolute};

use anyhow::Context;
use carousel::data::{
    Document, Documents, GivenPaths, are_single_texts, is_packed, lies_beside_others, list_files,
    read_documents,
};
use carousel::recipe::{InputName, Recipe, Task};
use carousel::run::RunFolder;
use carousel::train::{LargeSources, Prepared, Sources};
use serde::{Deserialize, Serialize};

use crate::output;

include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

const FILE: &str = "sources.json";

/// Where a run's text lies, and what it looked like when the run began; kept in the run as `sources.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SourceList {
    train: Part,
    valid: Part,
    test: Part,
}

/// One part of the text. No path stands for the built-in text in training, and for "split it from the
/// training text" in the others.
#[derive(Debug, Serialize, Deserialize)]
struct Part {
    paths: Vec<PathBuf>,
    /// The same as they were given. Documents are called by these, for series and groups have their names.
    #[serde(default)]
    given: Vec<PathBuf>,
    /// Over all bytes of all documents: tells that a file has changed, not who changed it.
    fingerprint: String,
}

impl Part {
    fn new(given: &[PathBuf], text: Text<'_>) -> anyhow::Result<Part> {
        let paths = given
            .iter()
            .map(|path| absolute(path).with_context(|| format!("could not resolve {}", path.display())))
            .collect::<anyhow::Result<_>>()?;
        Ok(Part { paths, given: given.to_vec(), fingerprint: text.fingerprint()? })
    }

    fn given(&self) -> impl Iterator<Item = (PathBuf, PathBuf)> + '_ {
        self.paths.iter().cloned().zip(self.given.iter().cloned())
    }

    fn warn_if_changed(&self, text: Text<'_>) -> anyhow::Result<()> {
        if text.fingerprint()? != self.fingerprint {
            let names: Vec<String> = self.paths.iter().map(|path| path.display().to_string()).collect();
            let text = if names.is_empty() { "the built-in text".to_owned() } else { names.join(", ") };
            output::message(format_args!(
                "warning: {text} changed since this run began; it continues on the new text, and parts that are drawn are drawn anew"
            ));
        }
        Ok(())
    }
}

impl SourceList {
    /// Reads the text from where the user said.
    pub(crate) fn read(
        train: &[PathBuf],
        valid: &[PathBuf],
        test: &[PathBuf],
        held: Held,
    ) -> anyhow::Result<(SourceList, Sources)> {
        let sources = read_all(train, valid, test, held)?;
        let [a, b, c] = texts(&sources);
        let list = SourceList {
            train: Part::new(train, a)?,
            valid: Part::new(valid, b)?,
            test: Part::new(test, c)?,
        };
        Ok((list, sources))
    }

    /// Reads the text of a run again, and warns where it is no longer the same.
    pub(crate) fn reread(run: &RunFolder, held: Held) -> anyhow::Result<(SourceList, Sources)> {
        let path = run.path().join(FILE);
        let text = fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
        let list: SourceList = serde_json::from_str(&text).with_context(|| {
            format!("{} is not a list of sources that `carousel train` wrote", path.display())
        })?;
        let mut sources = read_all(&list.train.paths, &list.valid.paths, &list.test.paths, held)?;
        // The images of a table of captions lie beside it: it is called by where it is.
        if run.read_recipe()?.task != Task::Caption {
            let given =
                GivenPaths::new([&list.train, &list.valid, &list.test].into_iter().flat_map(Part::given));
            let Sources { train, valid, test, large } = &mut sources;
            for document in train.iter_mut().chain(valid).chain(test) {
                document.name = given.name(Path::new(&document.name));
            }
            if let Some(large) = large {
                large.given = given;
            }
        }
        for (part, text) in [&list.train, &list.valid, &list.test].into_iter().zip(texts(&sources)) {
            part.warn_if_changed(text)?;
        }
        Ok((list, sources))
    }

    /// Remembers the list in the run.
    pub(crate) fn save(&self, run: &RunFolder) -> anyhow::Result<()> {
        Ok(run.write(FILE, serde_json::to_string_pretty(self)? + "\n")?)
    }

    /// What the run learns from, in a few words.
    pub(crate) fn describe(&self) -> String {
        match self.train.paths.as_slice() {
            [] => "this project's own sources".to_owned(),
            [path] => path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
            [path, more @ ..] => {
                let first = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
                format!("{first} and {} more", more.len())
            }
        }
    }
}

/// How much text is held in memory.
#[derive(Clone, Copy)]
pub(crate) enum Held<'a> {
    /// All.
    All,
    /// No more than so many megabytes; what is more is read piece by piece.
    Megabytes(usize),
    /// The same of words and tags; files that belong together line by line are held.
    Sentences(usize),
    /// The same of tables with a column of texts; files that hold one text each are held.
    Rows(usize, &'a str),
}

impl Held<'_> {
    pub(crate) fn of(recipe: &Recipe) -> Held<'_> {
        // Lines are put into another order, so all of them are held.
        let streams = recipe.data.documents == Documents::Files;
        match (recipe.task, recipe.data.input) {
            (Task::Lm, _) if streams => Held::Megabytes(recipe.data.memory),
            (Task::Classify, InputName::Text) => Held::Rows(recipe.data.memory, &recipe.data.text),
            (Task::Tag, InputName::Text) => Held::Sentences(recipe.data.memory),
            _ => Held::All,
        }
    }

    /// The bytes of some files, where they are more than that. What is compressed or comes through a pipe has to be held.
    pub(crate) fn exceeded_by(self, paths: &[PathBuf]) -> anyhow::Result<Option<u64>> {
        let (Held::Megabytes(most) | Held::Sentences(most) | Held::Rows(most, _)) = self else {
            return Ok(None);
        };
        let (files, bytes) = list_files(paths)?;
        let together = |path: &PathBuf| matches!(self, Held::Sentences(_)) && lies_beside_others(path);
        let is_held = |path: &PathBuf| is_packed(path) || together(path) || !path.is_file();
        if bytes <= (most as u64) << 20 || files.iter().any(is_held) {
            return Ok(None);
        }
        let Held::Rows(_, column) = self else { return Ok(Some(bytes)) };
        // The first file's beginning tells a table; the names of all, that they hold one text each.
        let mut first = vec![0; 1 << 16];
        let read = fs::File::open(&files[0]).and_then(|mut file| file.read(&mut first));
        first.truncate(read.with_context(|| format!("could not read {}", files[0].display()))?);
        let names: Vec<String> = files.iter().map(|path| path.display().to_string()).collect();
        let are_single = are_single_texts(names.iter().map(String::as_str), &first, column);
        Ok((!are_single).then_some(bytes))
    }
}

/// The text of a part.
enum Text<'a> {
    Held(&'a [Document]),
    Stored(&'a [PathBuf]),
}

impl Text<'_> {
    fn fingerprint(&self) -> anyhow::Result<String> {
        let mut hash = Fingerprint::default();
        match self {
            Text::Held(documents) => documents.iter().for_each(|document| {
                hash.add(&(document.bytes.len() as u64).to_le_bytes());
                hash.add(&document.bytes);
            }),
            Text::Stored([]) => {}
            Text::Stored(paths) => {
                let mut bytes = vec![0; 1 << 20];
                for path in list_files(paths)?.0 {
                    let failed = || format!("could not read {}", path.display());
                    let mut file = fs::File::open(&path).with_context(failed)?;
                    hash.add(&file.metadata().with_context(failed)?.len().to_le_bytes());
                    loop {
                        match file.read(&mut bytes).with_context(failed)? {
                            0 => break,
                            read => hash.add(&bytes[..read]),
                        }
                    }
                }
            }
        }
        Ok(format!("{:016x}", hash.0))
    }
}

fn texts(sources: &Sources) -> [Text<'_>; 3] {
    match &sources.large {
        Some(large) => [&large.train, &large.valid, &large.test].map(|paths| Text::Stored(paths)),
        None => [&sources.train, &sources.valid, &sources.test].map(|documents| Text::Held(documents)),
    }
}

fn read_all(train: &[PathBuf], valid: &[PathBuf], test: &[PathBuf], held: Held) -> anyhow::Result<Sources> {
    let given = [train, valid, test].concat();
    let exceeding = if train.is_empty() { None } else { held.exceeded_by(&given)? };
    if let Some(bytes) = exceeding {
        let [train, valid, test] = [train, valid, test].map(<[PathBuf]>::to_vec);
        let megabytes = carousel::report::thousands((bytes >> 20).max(1));
        output::message(format_args!("indexing {megabytes} MB, which stay in their files (data.memory)"));
        let large = LargeSources { train, valid, test, ..LargeSources::default() };
        return Ok(Sources { large: Some(large), ..Sources::default() });
    }
    let read = |paths: &[PathBuf]| if paths.is_empty() { Ok(Vec::new()) } else { read_documents(paths) };
    let train = if train.is_empty() { embedded() } else { read_documents(train)? };
    Ok(Sources { train, valid: read(valid)?, test: read(test)?, large: None })
}

/// Tells that a folder's files are read as one where their paths say that they are parts.
pub(crate) fn note_parts(folder: &Path) -> anyhow::Result<()> {
    if !folder.is_dir() || Prepared::recipe_in(folder).is_some() {
        return Ok(());
    }
    let (files, _) = list_files(&[folder.to_owned()])?;
    let below = |file: &Path| file.strip_prefix(folder).unwrap_or(file).to_string_lossy().into_owned();
    let says = |wanted: &[&str]| {
        files.iter().map(|file| below(file)).find(|path| {
            let words = path.to_lowercase();
            words.split(|letter: char| !letter.is_alphanumeric()).any(|word| wanted.contains(&word))
        })
    };
    let others = says(&["test", "valid", "validation", "val", "dev"]);
    if let (Some(train), Some(other)) = (says(&["train", "training"]), others) {
        output::message(format_args!(
            "note: {train} and {other} are both learned from, for --data is the whole folder;\n      --valid and --test \
             keep parts apart"
        ));
    }
    Ok(())
}

/// The built-in text: the Rust and Markdown files of this project, as they were when it was built.
fn embedded() -> Vec<Document> {
    EMBEDDED
        .iter()
        .map(|(name, text)| Document { name: (*name).to_owned(), bytes: text.as_bytes().to_vec() })
        .collect()
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo), over lengths and bytes.
struct Fingerprint(u64);

impl Default for Fingerprint {
    fn default() -> Fingerprint {
        Fingerprint(0xcbf2_9ce4_8422_2325)
    }
}

impl Fingerprint {
    fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}
