//! Sentences with a tag a word in files that are too large to be held. One walk remembers of every sentence where it
//! begins and how long it is; it is read again each time it is needed.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::stored::{SAMPLE, changed};
use super::stored_files::{StoredFiles, sampled, unreadable};
use super::tagged::{LineForm, SentenceLines, no_sentence, refuse_json};
use super::{DataError, NO_TAG, NOT_UTF8, Sentence, TagColumns, at, unmarked};

/// Bytes that are read at once to find a sentence.
const PIECE: usize = 4096;

/// A tag in no more sentences than these is rare.
const RARE: usize = 64;

/// A sentence, as far as it is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredSentence {
    /// The first byte of its first line, counted through all files.
    place: u64,
    /// Its words.
    pub length: u32,
    /// Words that have a tag.
    pub counted: u32,
}

/// The files, and how their lines are read.
#[derive(Debug, Default)]
pub struct StoredSentences {
    files: StoredFiles,
    /// One a file.
    forms: Vec<LineForm>,
}

/// What a walk over files finds.
#[derive(Debug)]
pub struct IndexedSentences {
    /// The files.
    pub sentences: StoredSentences,
    /// Their sentences, in order.
    pub rows: Vec<StoredSentence>,
    /// Their tags.
    pub tags: FoundTags,
    /// For each file the number of sentences up to its end.
    pub ends: Vec<usize>,
}

/// The tags that a walk finds, by number in the order in which they came.
#[derive(Debug, Default)]
pub struct FoundTags {
    tags: Vec<FoundTag>,
    /// For each file the numbers of its tags.
    by_file: Vec<Vec<u32>>,
}

#[derive(Debug)]
struct FoundTag {
    name: String,
    /// The first sentence that has it.
    first: StoredSentence,
    /// The numbers of the first ones: all of a rare one's, and one more than that of others.
    rows: Vec<usize>,
}

impl FoundTags {
    /// Those of a file.
    #[must_use]
    pub fn of_file(&self, file: usize) -> &[u32] {
        &self.by_file[file]
    }

    /// The rare ones among the first so many sentences, of each sentence that has some.
    #[must_use]
    pub fn rare(&self, sentences: usize) -> HashMap<usize, Vec<u32>> {
        let mut rare: HashMap<usize, Vec<u32>> = HashMap::new();
        for (number, tag) in self.tags.iter().enumerate() {
            let among = &tag.rows[..tag.rows.partition_point(|&row| row < sentences)];
            if among.len() <= RARE {
                among.iter().for_each(|&row| rare.entry(row).or_default().push(number as u32));
            }
        }
        rare
    }

    /// The first one that is not known, and the first sentence that has it.
    #[must_use]
    pub fn unknown(&self, is_known: impl Fn(&str) -> bool) -> Option<(&str, StoredSentence)> {
        self.tags.iter().find(|tag| !is_known(&tag.name)).map(|tag| (tag.name.as_str(), tag.first))
    }
}

impl StoredSentences {
    /// Walks over files of columns or CoNLL-U. Of each sentence no more than `most` words are looked at.
    ///
    /// # Errors
    /// As [`read_sentences`](super::read_sentences), and [`DataError::Read`].
    pub fn index(
        files: &[PathBuf],
        columns: TagColumns,
        most: Option<usize>,
    ) -> Result<IndexedSentences, DataError> {
        let mut walk = Walk {
            columns,
            most,
            rows: Vec::new(),
            numbers: HashMap::new(),
            tags: Vec::new(),
            seen: Vec::new(),
        };
        let (mut sentences, mut ends, mut by_file) = (StoredSentences::default(), Vec::new(), Vec::new());
        for path in files {
            let first = sentences.files.add(path)?;
            sentences.forms.push(walk.file(path, first)?);
            ends.push(walk.rows.len());
            by_file.push(walk.seen());
        }
        let Walk { rows, tags, .. } = walk;
        if rows.is_empty() {
            return Err(no_sentence());
        }
        Ok(IndexedSentences { sentences, rows, tags: FoundTags { tags, by_file }, ends })
    }

    /// Reads a sentence. Its line is not known; see [`places`](StoredSentences::places).
    ///
    /// # Errors
    /// [`DataError`] when its file cannot be read or has changed.
    pub fn read(&self, row: &StoredSentence) -> Result<Sentence, DataError> {
        let (number, at) = self.files.within(row.place);
        self.next(number, row, &mut BufReader::with_capacity(PIECE, self.files.open(number, at)?))
            .map(|read| read.0)
    }

    /// Reads sentences of ascending places, one file after the other.
    pub fn read_in_order<'a>(
        &'a self,
        rows: impl IntoIterator<Item = &'a StoredSentence> + 'a,
    ) -> impl Iterator<Item = Result<Sentence, DataError>> + 'a {
        // The file that is open, and the place up to which it has been read.
        let mut open: Option<(usize, BufReader<File>, u64)> = None;
        rows.into_iter().map(move |row| {
            let (number, at) = self.files.within(row.place);
            let (mut bytes, here) = match open.take() {
                Some((same, bytes, here)) if same == number && here <= at => (bytes, here),
                _ => (BufReader::with_capacity(1 << 20, self.files.open(number, at)?), at),
            };
            let skipped = bytes.seek_relative((at - here) as i64);
            skipped.map_err(|source| unreadable(Path::new(self.files.name(number)), source))?;
            let (sentence, length) = self.next(number, row, &mut bytes)?;
            open = Some((number, bytes, at + length));
            Ok(sentence)
        })
    }

    /// The sentence that a file goes on with, and its bytes.
    fn next(
        &self,
        number: usize,
        row: &StoredSentence,
        bytes: &mut impl BufRead,
    ) -> Result<(Sentence, u64), DataError> {
        let name = self.files.name(number);
        let mut lines = SentenceLines::within(name, self.forms[number]);
        let (mut line, mut length) = (Vec::new(), 0);
        let sentence = loop {
            line.clear();
            let read = bytes.read_until(b'\n', &mut line);
            let read = read.map_err(|source| unreadable(Path::new(name), source))?;
            length += read as u64;
            if read == 0 {
                break lines.end();
            }
            let text = std::str::from_utf8(&line).map_err(|_| changed(name))?;
            let pushed = lines.push(text.trim_end_matches(['\r', '\n']), 1).map_err(|_| changed(name))?;
            if pushed.is_some() {
                break pushed;
            }
        };
        let sentence = sentence.filter(|sentence| sentence.words.len() >= row.length as usize);
        sentence.map(|sentence| (sentence, length)).ok_or_else(|| changed(name))
    }

    /// File and line of sentences. Lines are counted when they are asked for: the files are walked over again.
    ///
    /// # Errors
    /// [`DataError::Read`].
    pub fn places(&self, rows: &[StoredSentence]) -> Result<Vec<(String, usize)>, DataError> {
        self.files.lines(&rows.iter().map(|row| row.place).collect::<Vec<_>>())
    }

    /// Sentences to build a vocabulary from: all, or some that a seed draws, of about 100 MB.
    pub fn sample<'a>(
        &'a self,
        rows: &'a [StoredSentence],
        seed: u64,
    ) -> impl Iterator<Item = Result<Sentence, DataError>> + 'a {
        let chosen = sampled(rows.iter().map(|row| row.place), seed, SAMPLE);
        self.read_in_order(rows.iter().zip(chosen).filter(|(_, chosen)| *chosen).map(|(row, _)| row))
    }
}

/// A walk over files.
struct Walk {
    columns: TagColumns,
    most: Option<usize>,
    rows: Vec<StoredSentence>,
    numbers: HashMap<String, usize>,
    tags: Vec<FoundTag>,
    /// Which of the tags the file has.
    seen: Vec<bool>,
}

impl Walk {
    fn file(&mut self, path: &Path, first: u64) -> Result<LineForm, DataError> {
        let name = path.display().to_string();
        refuse_json(&name)?;
        let open = || File::open(path).map(|file| BufReader::with_capacity(1 << 20, file));
        let failed = |source| unreadable(path, source);
        let ahead = open().map_err(failed)?.split(b'\n').map_while(Result::ok);
        let ahead = ahead.enumerate().map(|(place, line)| {
            let text = String::from_utf8_lossy(&line).into_owned();
            if place == 0 { unmarked(&text).to_owned() } else { text }
        });
        let form = LineForm::of(&name, ahead, self.columns)?;
        let mut bytes = open().map_err(failed)?;
        let mut lines = SentenceLines::new(&name, form);
        let (mut place, mut begun, mut line) = (first, first, Vec::new());
        for number in 1.. {
            line.clear();
            let read = bytes.read_until(b'\n', &mut line).map_err(failed)?;
            if read == 0 {
                break;
            }
            let text = std::str::from_utf8(&line).map_err(|_| at(&name, number, NOT_UTF8))?;
            let text = if number == 1 { unmarked(text) } else { text };
            let was_open = lines.is_open();
            let ended = lines.push(text.trim_end_matches(['\r', '\n']), number)?;
            if !was_open && lines.is_open() {
                begun = place + (line.len() - text.len()) as u64;
            }
            self.row(ended, begun);
            place += read as u64;
        }
        self.row(lines.end(), begun);
        Ok(form)
    }

    fn row(&mut self, sentence: Option<Sentence>, place: u64) {
        let Some(Sentence { mut tags, .. }) = sentence else { return };
        tags.truncate(self.most.unwrap_or(usize::MAX));
        let row = self.rows.len();
        let counted = tags.iter().filter(|tag| *tag != NO_TAG).count() as u32;
        let sentence = StoredSentence { place, length: tags.len() as u32, counted };
        for name in tags.iter().filter(|tag| *tag != NO_TAG) {
            let number = self.numbers.get(name).copied().unwrap_or_else(|| {
                self.numbers.insert(name.clone(), self.tags.len());
                self.tags.push(FoundTag { name: name.clone(), first: sentence, rows: Vec::new() });
                self.seen.push(false);
                self.tags.len() - 1
            });
            self.seen[number] = true;
            let rows = &mut self.tags[number].rows;
            if rows.len() <= RARE && rows.last() != Some(&row) {
                rows.push(row);
            }
        }
        self.rows.push(sentence);
    }

    /// The tags of the file that has been read.
    fn seen(&mut self) -> Vec<u32> {
        let seen = self
            .seen
            .iter()
            .enumerate()
            .filter(|(_, seen)| **seen)
            .map(|(number, _)| number as u32)
            .collect();
        self.seen.fill(false);
        seen
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;
    use crate::data::{read_documents, read_sentences};

    #[test]
    fn what_is_stored_is_what_would_be_held() {
        let folder = tempfile::tempdir().unwrap();
        let conllu = "# text\n1-2\tdel\t_\t_\t_\t_\t_\t_\t_\t_\n1\tde\t_\tADP\t_\t_\t_\t_\t_\t_\n\n\n1\té\t_\tDET\t_\t_\t_\t_\t_\t_";
        let contents = [
            (
                "a.txt",
                "\u{feff}-DOCSTART- -X- O O\n\nEU NNP I B-ORG\r\nsaid VBD I O\n\n\nNo DT I _\n".to_owned(),
            ),
            ("b.tsv", "# id 1\nWord\tTag\n\nNew York\tB\n#\tO\n".to_owned()),
            ("c.conllu", conllu.to_owned()),
            (
                "ten.conll",
                "\u{feff}1-2\tdel\t_\t_\t_\t_\t_\t_\t_\t_\n1\tde\t_\tADP\t_\t_\t_\t_\t_\t_\n".to_owned(),
            ),
            (
                "d",
                "# a comment\n".to_owned() + &"한국 B-x\nmany I-x\nwords O\n\n".repeat(3000) + "one S-rare\n",
            ),
        ];
        let files: Vec<PathBuf> = contents.iter().map(|(name, _)| folder.path().join(name)).collect();
        files.iter().zip(&contents).for_each(|(path, (_, text))| fs::write(path, text).unwrap());
        let held = read_sentences(&read_documents(&files).unwrap(), TagColumns::default()).unwrap();
        let indexed = StoredSentences::index(&files, TagColumns::default(), None).unwrap();
        let IndexedSentences { sentences, rows, ends, tags } = indexed;
        let rare = tags.rare(usize::MAX);
        assert_eq!((rows.len(), ends), (held.len(), vec![2, 3, 5, 6, 3007]));
        let names: Vec<&str> =
            tags.of_file(2).iter().map(|&tag| tags.tags[tag as usize].name.as_str()).collect();
        assert_eq!(names, ["ADP", "DET"]);
        let places = sentences.places(&rows).unwrap();
        for (number, ((row, held), (file, line))) in rows.iter().zip(&held).zip(places).enumerate() {
            let found = Sentence { file, line, ..sentences.read(row).unwrap() };
            assert_eq!(&found, held, "sentence {number}");
            assert_eq!(row.length as usize, held.words.len());
            assert_eq!(row.counted as usize, held.tags.iter().filter(|tag| *tag != NO_TAG).count());
        }
        let mut named: Vec<usize> = rare.into_keys().collect();
        named.sort_unstable();
        assert_eq!(named, [0, 2, 3, 4, 5, 3006], "all but those of a common tag, or of none");
        let in_order: Vec<Sentence> = sentences.read_in_order(&rows).map(Result::unwrap).collect();
        assert!(in_order.iter().zip(&held).all(|(found, held)| found.words == held.words));
        assert_eq!(sentences.sample(&rows, 1).count(), rows.len());
        let cut = StoredSentences::index(&files, TagColumns::default(), Some(1)).unwrap().rows;
        assert!(cut.iter().all(|row| row.length == 1));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let check = |name: &str, text: &[u8], expected: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            let files = [path];
            let stored = StoredSentences::index(&files, TagColumns::default(), None).unwrap_err().to_string();
            let held = read_sentences(&read_documents(&files).unwrap(), TagColumns::default())
                .unwrap_err()
                .to_string();
            assert_eq!(stored, held);
            assert!(stored.contains(expected), "{stored}");
        };
        check("a.txt", b"a O\nb\n", "a.txt:2: one column, expected a word and its tag");
        check("b.txt", b"a O\nb X O\n", "b.txt:2: 3 columns, expected 2");
        check("c.conllu", b"1\ta\n", "c.conllu:1: 2 columns, expected the 10");
        check("d.jsonl", b"{}\n", "d.jsonl: it holds JSON");
        check("e.txt", b"\n\n", "the data has no sentence");
        check("f.txt", b"a O\nb\xff O\n", "f.txt:2: the line is not UTF-8");

        let path = folder.path().join("g.txt");
        fs::write(&path, "a O\nb O\n\nc O\n").unwrap();
        let IndexedSentences { sentences, rows, .. } =
            StoredSentences::index(std::slice::from_ref(&path), TagColumns::default(), None).unwrap();
        fs::write(&path, "a O\n\nb O\n").unwrap();
        let failure = sentences.read(&rows[0]).unwrap_err().to_string();
        assert!(failure.contains("g.txt: it changed while it was read"), "{failure}");
    }
}
