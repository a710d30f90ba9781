//! The text that a run learns from: files of the user, or this project's own sources built into the program.

use std::fs;
use std::path::{PathBuf, absolute};

use anyhow::Context;
use carousel::data::{Document, read_documents};
use carousel::run::RunFolder;
use carousel::train::Sources;
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
    /// Over all bytes of all documents: tells that a file has changed, not who changed it.
    fingerprint: String,
}

impl Part {
    fn new(paths: &[PathBuf], documents: &[Document]) -> anyhow::Result<Part> {
        let paths = paths
            .iter()
            .map(|path| absolute(path).with_context(|| format!("could not resolve {}", path.display())))
            .collect::<anyhow::Result<_>>()?;
        Ok(Part { paths, fingerprint: fingerprint(documents) })
    }

    fn warn_if_changed(&self, documents: &[Document]) {
        if fingerprint(documents) != self.fingerprint {
            let names: Vec<String> = self.paths.iter().map(|path| path.display().to_string()).collect();
            let text = if names.is_empty() { "the built-in text".to_owned() } else { names.join(", ") };
            output::message(format_args!(
                "warning: {text} changed since this run began; it continues on the new text"
            ));
        }
    }
}

impl SourceList {
    /// Reads the text from where the user said.
    pub(crate) fn read(
        train: &[PathBuf],
        valid: &[PathBuf],
        test: &[PathBuf],
    ) -> anyhow::Result<(SourceList, Sources)> {
        let sources = read_all(train, valid, test)?;
        let list = SourceList {
            train: Part::new(train, &sources.train)?,
            valid: Part::new(valid, &sources.valid)?,
            test: Part::new(test, &sources.test)?,
        };
        Ok((list, sources))
    }

    /// Reads the text of a run again, and warns where it is no longer the same.
    pub(crate) fn reread(run: &RunFolder) -> anyhow::Result<(SourceList, Sources)> {
        let path = run.path().join(FILE);
        let text = fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
        let list: SourceList = serde_json::from_str(&text).with_context(|| {
            format!("{} is not a list of sources that `carousel train` wrote", path.display())
        })?;
        let sources = read_all(&list.train.paths, &list.valid.paths, &list.test.paths)?;
        list.train.warn_if_changed(&sources.train);
        list.valid.warn_if_changed(&sources.valid);
        list.test.warn_if_changed(&sources.test);
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

fn read_all(train: &[PathBuf], valid: &[PathBuf], test: &[PathBuf]) -> anyhow::Result<Sources> {
    let read = |paths: &[PathBuf]| if paths.is_empty() { Ok(Vec::new()) } else { read_documents(paths) };
    let train = if train.is_empty() { embedded() } else { read_documents(train)? };
    Ok(Sources { train, valid: read(valid)?, test: read(test)? })
}

/// The built-in text: the Rust and Markdown files of this project, as they were when it was built.
fn embedded() -> Vec<Document> {
    EMBEDDED
        .iter()
        .map(|(name, text)| Document { name: (*name).to_owned(), bytes: text.as_bytes().to_vec() })
        .collect()
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo), over lengths and bytes.
fn fingerprint(documents: &[Document]) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for document in documents {
        let length = (document.bytes.len() as u64).to_le_bytes();
        for &byte in length.iter().chain(&document.bytes) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    format!("{hash:016x}")
}
