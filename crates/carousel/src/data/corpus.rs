//! Documents on disk, and the one long row of tokens that they become.

use std::fs;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::{DataError, NOT_UTF8, at, unmarked};

/// A file's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The name used in messages: its path, as given.
    pub name: String,
    /// What is in it, decompressed.
    pub bytes: Vec<u8>,
}

impl Document {
    /// The file as text, without the mark that some editors put in front of it.
    ///
    /// # Errors
    /// [`DataError::Line`] for the first line that is not UTF-8.
    pub fn text(&self) -> Result<&str, DataError> {
        std::str::from_utf8(&self.bytes).map(unmarked).map_err(|error| {
            let before = &self.bytes[..error.valid_up_to()];
            let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
            at(&self.name, line, NOT_UTF8)
        })
    }
}

/// What files are called: by the paths that were given for them, wherever they are found now. Series and groups have
/// their names from these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GivenPaths(Vec<(PathBuf, PathBuf)>);

impl GivenPaths {
    /// Of files and folders each where it is, and what was given for it.
    #[must_use]
    pub fn new(pairs: impl IntoIterator<Item = (PathBuf, PathBuf)>) -> GivenPaths {
        GivenPaths(pairs.into_iter().collect())
    }

    /// What a file, or one below a folder, is called; its own path where nothing else was given.
    #[must_use]
    pub fn name(&self, path: &Path) -> String {
        let given = self.0.iter().filter_map(|(place, given)| {
            let below = path.strip_prefix(place).ok()?;
            Some(if below.as_os_str().is_empty() { given.clone() } else { given.join(below) })
        });
        let name = given.min_by_key(|name| name.as_os_str().len());
        name.as_deref().unwrap_or(path).display().to_string()
    }
}

/// Reads files in the order given. A folder stands for the files in it and in its folders, sorted by
/// path; names that start with a dot and empty files are left out there. A name that ends in `.gz` is
/// decompressed.
///
/// # Errors
/// [`DataError::Read`] or [`DataError::Empty`] with the path, [`DataError::NoDocuments`] without any path.
pub fn read_documents(paths: &[PathBuf]) -> Result<Vec<Document>, DataError> {
    if paths.is_empty() {
        return Err(DataError::NoDocuments);
    }
    let mut documents = Vec::new();
    for path in paths {
        let before = documents.len();
        if path.is_dir() {
            for file in files_below(path)? {
                documents.push(read_document(&file)?);
            }
        } else {
            documents.push(read_document(path)?);
        }
        documents.retain(|document| !document.bytes.is_empty());
        if documents.len() == before {
            return Err(DataError::Empty { path: path.clone() });
        }
    }
    Ok(documents)
}

fn read_document(path: &Path) -> Result<Document, DataError> {
    let mut bytes = Vec::new();
    let read = open(path).and_then(|mut file| file.read_to_end(&mut bytes));
    read.map_err(|source| DataError::Read { path: path.to_owned(), source })?;
    Ok(Document { name: path.display().to_string(), bytes })
}

/// Opens a file, to be unpacked where its name ends in `.gz`.
///
/// # Errors
/// That of the system.
pub fn open(path: &Path) -> io::Result<Box<dyn Read>> {
    let file = fs::File::open(path)?;
    Ok(if is_packed(path) { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) })
}

/// Whether a file is [opened](open) through an unpacker.
#[must_use]
pub fn is_packed(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gz")
}

/// Links to folders are not followed, so a link to a folder above cannot lead round in a circle.
pub(super) fn files_below(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let list = |folder: &Path| -> io::Result<Vec<(PathBuf, fs::FileType)>> {
        fs::read_dir(folder)?
            .map(|entry| entry.and_then(|entry| Ok((entry.path(), entry.file_type()?))))
            .collect()
    };
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = list(&folder).map_err(|source| DataError::Read { path: folder, source })?;
        for (path, file_type) in entries {
            let name = path.file_name().unwrap_or_default().as_encoded_bytes();
            // Hidden, or what an editor kept of an earlier version.
            if name.starts_with(b".") || name.ends_with(b"~") {
                continue;
            }
            if file_type.is_dir() {
                folders.push(path);
            } else if path.is_file() {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// All documents as one row of tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Corpus {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Where documents start: ascending, the first is 0. Empty when there are no tokens.
    pub document_starts: Vec<usize>,
}

impl Corpus {
    /// Adds a document; one without tokens leaves no trace.
    pub fn push(&mut self, tokens: &[u32]) {
        if !tokens.is_empty() {
            self.document_starts.push(self.tokens.len());
            self.tokens.extend_from_slice(tokens);
        }
    }

    /// Cuts the corpus into training, validation and test: the first tokens, the next, the last. A
    /// document that is cut goes on as a document of the next part.
    ///
    /// `fractions` are the parts' shares of the tokens, adding up to 1. A cut falls on a whole token,
    /// rounded down; the last part with a share takes the rest.
    #[must_use]
    pub fn split(&self, fractions: [f64; 3]) -> [Corpus; 3] {
        let total = self.tokens.len();
        let [first, second] = cuts(total, fractions);
        [0..first, first..second, second..total].map(|range| Corpus {
            document_starts: starts_within(&self.document_starts, &range),
            tokens: self.tokens[range].to_vec(),
        })
    }
}

/// Where the second and the third part of so many tokens begin.
pub(super) fn cuts(total: usize, fractions: [f64; 3]) -> [usize; 2] {
    let first = share_of(total, fractions[0]);
    let second =
        if fractions[2] == 0.0 { total } else { share_of(total, fractions[0] + fractions[1]).max(first) };
    let first = if fractions[1] == 0.0 && fractions[2] == 0.0 { total } else { first };
    [first, second]
}

/// The starts of documents in a part, counted from its beginning, which is one too.
pub(super) fn starts_within(starts: &[usize], part: &Range<usize>) -> Vec<usize> {
    if part.is_empty() {
        return Vec::new();
    }
    let inside = starts.iter().filter(|&&start| part.start < start && start < part.end);
    std::iter::once(0).chain(inside.map(|start| start - part.start)).collect()
}

/// How many of `total` tokens a share is, rounded down. A share such as 0.7 + 0.2 is a hair below the
/// number that was meant, so a hair is added first.
pub(super) fn share_of(total: usize, share: f64) -> usize {
    ((total as f64 * share + 1e-6) as usize).min(total)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use std::io::Write;

    use super::*;

    /// Documents of these lengths. Every token is its own position, so that what is read tells where.
    pub(in crate::data) fn corpus(documents: &[usize]) -> Corpus {
        let mut corpus = Corpus::default();
        for &length in documents {
            let start = corpus.tokens.len() as u32;
            corpus.push(&(start..start + length as u32).collect::<Vec<_>>());
        }
        corpus
    }

    #[test]
    fn split_cuts_by_token_count_and_keeps_document_starts() {
        let check = |documents: &[usize], fractions, expected: [(std::ops::Range<u32>, &[usize]); 3]| {
            let parts = corpus(documents).split(fractions);
            for (part, (tokens, starts)) in parts.iter().zip(&expected) {
                assert_eq!(part.tokens, tokens.clone().collect::<Vec<_>>(), "{documents:?} {fractions:?}");
                assert_eq!(&part.document_starts, starts, "{documents:?} {fractions:?}");
            }
        };
        check(&[100], [0.9, 0.05, 0.05], [(0..90, &[0]), (90..95, &[0]), (95..100, &[0])]);
        check(&[10], [0.7, 0.2, 0.1], [(0..7, &[0]), (7..9, &[0]), (9..10, &[0])]);
        check(&[19], [0.9, 0.0, 0.1], [(0..17, &[0]), (17..17, &[]), (17..19, &[0])]);
        check(&[19], [0.9, 0.1, 0.0], [(0..17, &[0]), (17..19, &[0]), (19..19, &[])]);
        check(&[7, 3], [1.0, 0.0, 0.0], [(0..10, &[0, 7]), (10..10, &[]), (10..10, &[])]);
        // A document that starts exactly at a cut, one inside a part, one that is cut.
        check(&[5, 2, 3], [0.5, 0.3, 0.2], [(0..5, &[0]), (5..8, &[0, 2]), (8..10, &[0])]);
        // Where text is short, a part may be empty, and no token is lost.
        check(&[3], [0.4, 0.2, 0.4], [(0..1, &[0]), (1..1, &[]), (1..3, &[0])]);
    }

    #[test]
    fn an_empty_document_leaves_no_trace() {
        assert_eq!(corpus(&[2, 0, 3]).document_starts, [0, 2]);
    }

    #[test]
    fn folders_files_and_compressed_files_are_read_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("books/b")).unwrap();
        fs::write(at("books/z.txt"), "z").unwrap();
        fs::write(at("books/b/a.txt"), "a").unwrap();
        fs::write(at("books/empty.txt"), "").unwrap();
        fs::write(at("books/.hidden"), "hidden").unwrap();
        fs::write(at("books/z.txt~"), "earlier").unwrap();
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(b"packed").unwrap();
        let packed = gz.finish().unwrap();
        // Two members in one file: both belong to the text.
        fs::write(at("c.gz"), [packed.clone(), packed].concat()).unwrap();

        let documents = read_documents(&[at("c.gz"), at("books")]).unwrap();
        let texts: Vec<&[u8]> = documents.iter().map(|document| document.bytes.as_slice()).collect();
        assert_eq!(texts, [b"packedpacked".as_slice(), b"a", b"z"]);
        assert_eq!(documents[1].name, at("books/b/a.txt").display().to_string());
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("empty.txt"), "").unwrap();
        fs::create_dir(at("bare")).unwrap();
        fs::write(at("broken.gz"), "not packed").unwrap();
        fs::write(at("good.txt"), "good").unwrap();
        let check = |names: &[&str], expected: &str| {
            let paths: Vec<PathBuf> = names.iter().map(|name| at(name)).collect();
            let message = read_documents(&paths).unwrap_err().to_string();
            let message = message.replace(&format!("{}/", folder.path().display()), "");
            assert!(message.contains(expected), "{message}");
        };
        check(&["good.txt", "missing.txt"], "could not read missing.txt: No such file");
        check(&["good.txt", "empty.txt"], "empty.txt is empty, expected data");
        check(&["bare"], "bare is empty");
        check(&["broken.gz"], "could not read broken.gz: invalid gzip header");
        check(&[], "no data given");
    }
}
