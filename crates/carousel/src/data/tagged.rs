//! Sentences with a tag a word: files of columns, CoNLL-U, or lines side by side.

use std::path::Path;

use super::{DataError, Document, at, fails, unpacked};

/// The tag of a step that counts in neither loss nor metrics.
pub const NO_TAG: &str = "_";

/// A sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentence {
    /// Its words.
    pub words: Vec<String>,
    /// One tag a word.
    pub tags: Vec<String>,
    /// The class of the whole sentence, where the data has one.
    pub intent: Option<String>,
    /// The file of the words.
    pub file: String,
    /// The line it begins on, counted from 1.
    pub line: usize,
}

/// Reads sentences. Files named `seq.in` hold one sentence a line; beside each must lie a `seq.out` with its tags,
/// and a `label` with one class a line may. Names that end in `.conllu`, and files of ten columns that count the words, hold
/// CoNLL-U, of which the words and the universal part-of-speech tags are taken. Other files have a word in the first
/// column and its tag in the last, columns apart by tabs or blanks, and an empty line between sentences; a first line
/// that names them (`word`, `tag`) is passed over, and so is a line that begins with `#` ahead of a sentence and has not
/// its columns. `columns` says where words and tags are in either kind if not there.
///
/// # Errors
/// [`DataError`] with file and line.
pub fn read_sentences(documents: &[Document], columns: TagColumns) -> Result<Vec<Sentence>, DataError> {
    let mut sentences = Vec::new();
    for document in documents {
        let (folder, name) = split_name(&document.name);
        match name {
            "seq.out" | "label" => {
                let words = format!("{folder}seq.in");
                if !documents.iter().any(|other| split_name(&other.name) == (folder, "seq.in")) {
                    let reason = format!("{words} is missing beside it; give the folder, or both files");
                    return Err(fails(document, reason));
                }
            }
            "seq.in" => {
                let beside = |name| documents.iter().find(|other| split_name(&other.name) == (folder, name));
                let tags = beside("seq.out").ok_or_else(|| {
                    let reason =
                        format!("{folder}seq.out is missing beside it; give the folder, or both files");
                    fails(document, reason)
                })?;
                read_parallel(document, tags, beside("label"), &mut sentences)?;
            }
            _ => {
                refuse_json(&document.name)?;
                read_lines(document, columns, &mut sentences)?;
            }
        }
    }
    if sentences.is_empty() { Err(no_sentence()) } else { Ok(sentences) }
}

/// Files of JSON would be taken for words.
pub(super) fn refuse_json(name: &str) -> Result<(), DataError> {
    let bare = unpacked(name);
    if [".json", ".jsonl", ".ndjson"].iter().any(|ending| bare.ends_with(ending)) {
        let reason = "it holds JSON, expected a word and its tag a line, CoNLL-U, or seq.in and seq.out";
        return Err(DataError::File { name: name.to_owned(), reason: reason.to_owned() });
    }
    Ok(())
}

pub(super) fn no_sentence() -> DataError {
    DataError::Examples { reason: "the data has no sentence, expected at least one".to_owned() }
}

/// Whether a file is of those that belong together line by line; see [`read_sentences`].
#[must_use]
pub fn lies_beside_others(path: &Path) -> bool {
    matches!(split_name(&path.to_string_lossy()).1, "seq.in" | "seq.out" | "label")
}

/// Folder with its slash, and name without `.gz`.
fn split_name(path: &str) -> (&str, &str) {
    let at = path.rfind('/').map_or(0, |slash| slash + 1);
    let (folder, name) = path.split_at(at);
    (folder, unpacked(name))
}

pub(super) fn lines(document: &Document) -> Result<Vec<&str>, DataError> {
    Ok(document.text()?.lines().collect())
}

fn read_parallel(
    words: &Document,
    tags: &Document,
    labels: Option<&Document>,
    sentences: &mut Vec<Sentence>,
) -> Result<(), DataError> {
    let (word_lines, tag_lines) = (lines(words)?, lines(tags)?);
    let label_lines = labels.map(lines).transpose()?;
    let expected = word_lines.len();
    let others = [Some((tags, &tag_lines)), labels.zip(label_lines.as_ref())];
    for (document, found) in others.into_iter().flatten() {
        if found.len() != expected {
            let reason = format!("{} lines, expected {expected} as in {}", found.len(), words.name);
            return Err(fails(document, reason));
        }
    }
    for (place, (text, marks)) in word_lines.into_iter().zip(tag_lines).enumerate() {
        let line = place + 1;
        let split = |text: &str| -> Vec<String> { text.split_whitespace().map(str::to_owned).collect() };
        let (found_words, found_tags) = (split(text), split(marks));
        if found_words.len() != found_tags.len() {
            let reason =
                format!("{} tags for {} words of {}:{line}", found_tags.len(), found_words.len(), words.name);
            return Err(at(&tags.name, line, reason));
        }
        if found_words.is_empty() {
            return Err(at(&words.name, line, "the line has no word, expected a sentence"));
        }
        let intent = match (&label_lines, labels) {
            (Some(all), Some(document)) => {
                let intent = all[place].trim();
                if intent.is_empty() {
                    return Err(at(&document.name, line, "the line is empty, expected the name of a class"));
                }
                Some(intent.to_owned())
            }
            _ => None,
        };
        let file = words.name.clone();
        sentences.push(Sentence { words: found_words, tags: found_tags, intent, file, line });
    }
    Ok(())
}

/// Which columns hold words and tags, counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TagColumns {
    /// `None`: the first one, of CoNLL-U the second.
    pub word: Option<usize>,
    /// `None`: the last one, of CoNLL-U the fourth, universal parts of speech.
    pub tag: Option<usize>,
    /// Words alone are wanted: there need be no tags.
    pub untagged: bool,
}

/// How lines say words and their tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LineForm {
    /// Columns of a line.
    count: usize,
    /// Places of the word and of its tag, if that is wanted.
    word: usize,
    tag: Option<usize>,
    /// Whether it is CoNLL-U: the first column counts the words, and comments stand anywhere.
    is_conllu: bool,
}

impl LineForm {
    /// That of a file: its name tells, or its first lines of words.
    pub(super) fn of<T: AsRef<str>>(
        name: &str,
        lines: impl IntoIterator<Item = T>,
        columns: TagColumns,
    ) -> Result<LineForm, DataError> {
        // Where all lines begin like comments, the first one is of a word.
        let mut marked = None;
        let mut first: Option<LineForm> = None;
        // What the line before counts to in its first column.
        let mut counted: Option<u64> = None;
        for line in lines {
            let text = line.as_ref();
            if text.starts_with(DOCUMENT) {
                continue;
            }
            if text.trim().is_empty() {
                match first {
                    Some(_) => break,
                    None => continue,
                }
            }
            let found = columns_of(text);
            if first.is_none() {
                if text.starts_with('#') {
                    marked.get_or_insert(found.len());
                    continue;
                }
                let begins = found[0] == "1" || found[0].starts_with("1-") || found[0].starts_with("0.");
                let is_conllu =
                    unpacked(name).ends_with(".conllu") || text.split('\t').count() == CONLLU && begins;
                first = Some(LineForm::placed(name, found.len(), is_conllu, columns)?);
                if is_conllu || columns.word.is_some() || found.len() < 3 {
                    break;
                }
            }
            match (found[0].parse::<u64>(), counted) {
                (Ok(number @ (0 | 1)), None) => counted = Some(number),
                (Ok(number), Some(before)) if number == before + 1 => {
                    let reason = "its first column counts the words; data.word_column says which one holds them, and \
                                  data.tag_column that of the tags where it is not the last";
                    return Err(DataError::File { name: name.to_owned(), reason: reason.to_owned() });
                }
                // A line with the names of the columns may come first.
                (Err(_), None) if is_header_of_counts(&found) => {}
                _ => break,
            }
        }
        first.map_or_else(|| LineForm::placed(name, marked.unwrap_or(0), false, columns), Ok)
    }

    fn placed(name: &str, found: usize, is_conllu: bool, columns: TagColumns) -> Result<LineForm, DataError> {
        let count = if is_conllu { CONLLU } else { found };
        let [word, tag] = if is_conllu { [2, 4] } else { [1, count.max(1)] };
        let place = |key: &str, given: Option<usize>, usual: usize| match given {
            // Of a file without a line nothing is known.
            Some(column) if column > count && count > 0 => {
                let reason =
                    format!("{key} is {column}, but its lines have {count} columns, expected one of them");
                Err(DataError::File { name: name.to_owned(), reason })
            }
            given => Ok(given.unwrap_or(usual) - 1),
        };
        let word = place("data.word_column", columns.word, word)?;
        let tag = match columns.untagged {
            true => None,
            false => Some(place("data.tag_column", columns.tag, tag)?),
        };
        Ok(LineForm { count, word, tag, is_conllu })
    }
}

/// Whether a line names columns, of which the first counts words.
fn is_header_of_counts(columns: &[&str]) -> bool {
    ["id", "index", "no", "n", "num", "position"].contains(&columns[0].to_lowercase().as_str())
}

/// Columns of CoNLL-U.
const CONLLU: usize = 10;

/// What begins a document in the files of CoNLL 2003.
const DOCUMENT: &str = "-DOCSTART-";

/// Reads sentences line by line.
pub(super) struct SentenceLines<'a> {
    name: &'a str,
    form: LineForm,
    /// Whether the next line of columns may name them.
    is_first: bool,
    words: Vec<String>,
    tags: Vec<String>,
    line: usize,
}

impl<'a> SentenceLines<'a> {
    /// From the beginning of a file.
    pub(super) fn new(name: &'a str, form: LineForm) -> SentenceLines<'a> {
        SentenceLines { name, form, is_first: true, words: Vec::new(), tags: Vec::new(), line: 1 }
    }

    /// From the beginning of a sentence within a file.
    pub(super) fn within(name: &'a str, form: LineForm) -> SentenceLines<'a> {
        SentenceLines { is_first: false, ..SentenceLines::new(name, form) }
    }

    /// Whether a sentence has begun.
    pub(super) fn is_open(&self) -> bool {
        !self.words.is_empty()
    }

    /// Reads a line, and gives the sentence that it ends.
    pub(super) fn push(&mut self, text: &str, line: usize) -> Result<Option<Sentence>, DataError> {
        if text.trim().is_empty() {
            return Ok(self.end());
        }
        let pair = if self.form.is_conllu { self.conllu(text, line) } else { self.columns(text, line) }?;
        if let Some((word, tag)) = pair {
            if self.words.is_empty() {
                self.line = line;
            }
            self.words.push(word.to_owned());
            self.tags.push(tag.to_owned());
        }
        Ok(None)
    }

    /// The sentence that nothing has ended yet.
    pub(super) fn end(&mut self) -> Option<Sentence> {
        self.is_open().then(|| Sentence {
            words: std::mem::take(&mut self.words),
            tags: std::mem::take(&mut self.tags),
            intent: None,
            file: self.name.to_owned(),
            line: self.line,
        })
    }

    /// The word and the tag of a line, if it has some.
    fn columns<'t>(&mut self, text: &'t str, line: usize) -> Result<Option<(&'t str, &'t str)>, DataError> {
        let LineForm { count, word, tag, .. } = self.form;
        let columns = columns_of(text);
        let is_comment = text.starts_with('#') && !self.is_open() && columns.len() != count;
        if columns[0] == DOCUMENT || is_comment {
            return Ok(None);
        }
        if columns.len() < 2 && tag.is_some() {
            let reason = match text.contains(',') {
                true => {
                    "one column, expected a word and its tag, apart by a tab or blanks; tables of commas are not read"
                }
                false => "one column, expected a word and its tag, apart by a tab or blanks",
            };
            return Err(at(self.name, line, reason));
        }
        if columns.len() != count {
            let reason = format!("{} columns, expected {count} as in the lines before", columns.len());
            return Err(at(self.name, line, reason));
        }
        let (word, tag) = (columns[word], tag.map_or(NO_TAG, |tag| columns[tag]));
        if std::mem::take(&mut self.is_first) && is_header(word, tag) {
            return Ok(None);
        }
        if word.is_empty() || tag.is_empty() {
            let reason = "a word or its tag is empty; write _ for a word without a tag";
            return Err(at(self.name, line, reason));
        }
        Ok(Some((word, tag)))
    }

    fn conllu<'t>(&self, text: &'t str, line: usize) -> Result<Option<(&'t str, &'t str)>, DataError> {
        if text.starts_with('#') {
            return Ok(None);
        }
        let columns: Vec<&str> = text.split('\t').collect();
        if columns.len() != CONLLU {
            let reason =
                format!("{} columns, expected the {CONLLU} of CoNLL-U, apart by tabs", columns.len());
            return Err(at(self.name, line, reason));
        }
        // Words of several tokens and words that are not there have a range or a fraction for a number.
        let is_word = !columns[0].contains(['-', '.']);
        let LineForm { word, tag, .. } = self.form;
        Ok(is_word.then(|| (columns[word], tag.map_or(NO_TAG, |tag| columns[tag]))))
    }
}

fn columns_of(text: &str) -> Vec<&str> {
    match text.contains('\t') {
        true => text.trim_end().split('\t').map(str::trim).collect(),
        false => text.split_whitespace().collect(),
    }
}

/// Whether what stands for a word and its tag names the columns of a file.
fn is_header(word: &str, tag: &str) -> bool {
    const WORDS: [&str; 5] = ["word", "words", "token", "tokens", "form"];
    const TAGS: [&str; 8] = ["tag", "tags", "label", "labels", "ner", "ner_tag", "ner_tags", "pos"];
    WORDS.contains(&word.to_lowercase().as_str()) && TAGS.contains(&tag.to_lowercase().as_str())
}

fn read_lines(
    document: &Document,
    columns: TagColumns,
    sentences: &mut Vec<Sentence>,
) -> Result<(), DataError> {
    let lines = lines(document)?;
    let mut reader = SentenceLines::new(&document.name, LineForm::of(&document.name, &lines, columns)?);
    for (place, text) in lines.into_iter().enumerate() {
        sentences.extend(reader.push(text, place + 1)?);
    }
    sentences.extend(reader.end());
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn documents(files: &[(&str, &str)]) -> Vec<Document> {
        let document = |(name, text): &(&str, &str)| Document {
            name: (*name).to_owned(),
            bytes: text.as_bytes().to_vec(),
        };
        files.iter().map(document).collect()
    }

    #[test]
    fn every_form_is_read() {
        let check = |files: &[(&str, &str)], expected: &[(&str, &str, Option<&str>, usize)]| {
            let found = read_sentences(&documents(files), TagColumns::default()).unwrap();
            let found: Vec<(String, String, Option<String>, usize)> =
                found.into_iter().map(|s| (s.words.join(" "), s.tags.join(" "), s.intent, s.line)).collect();
            let owned = |&(words, tags, intent, line): &(&str, &str, Option<&str>, usize)| {
                (words.to_owned(), tags.to_owned(), intent.map(str::to_owned), line)
            };
            assert_eq!(found, expected.iter().map(owned).collect::<Vec<_>>());
        };
        check(
            &[("d/label", "play\nstop\n"), ("d/seq.in", "a song \nhalt\n"), ("d/seq.out", "O B-x\nO\n")],
            &[("a song", "O B-x", Some("play"), 1), ("halt", "O", Some("stop"), 2)],
        );
        check(
            &[("a.txt", "-DOCSTART- -X- O O\n\nEU NNP I B-ORG\nsaid VBD I O\n\n\nNo DT I _\n")],
            &[("EU said", "B-ORG O", None, 3), ("No", "_", None, 7)],
        );
        check(&[("a.tsv", "New York\tB\r\nx\tO\r\n")], &[("New York x", "B O", None, 1)]);
        check(&[("a.tsv", "Word\tTag\n\nword\ttag\n")], &[("word", "tag", None, 3)]);
        check(
            &[("a.txt", "# id 1 domain=en\na O\n# B\n\n#\n# two O\n# O\nb O\n")],
            &[("a #", "O B", None, 2), ("# b", "O O", None, 7)],
        );
        check(
            &[(
                "a.conllu",
                "# text\n1-2\tdel\t_\t_\t_\t_\t_\t_\t_\t_\n1\tde\t_\tADP\t_\t_\t_\t_\t_\t_\n2\tel\t_\tDET\t_\t_\t_\t_\t_\t_\n",
            )],
            &[("de el", "ADP DET", None, 3)],
        );
        let ten = "1\tde\tx\tADP\tIN\t_\t_\tcase\t_\t_\n";
        check(&[("a.conll", ten)], &[("de", "ADP", None, 1)]);
    }

    #[test]
    fn columns_are_chosen() {
        let check = |name: &str, text: &str, [word, tag]: [usize; 2], expected: Result<[&str; 2], &str>| {
            let columns = TagColumns {
                word: (word > 0).then_some(word),
                tag: (tag > 0).then_some(tag),
                untagged: false,
            };
            let found = read_sentences(&documents(&[(name, text)]), columns)
                .map(|found| [found[0].words.join(" "), found[0].tags.join(" ")])
                .map_err(|error| error.to_string());
            assert_eq!(found, expected.map(|pair| pair.map(str::to_owned)).map_err(str::to_owned));
        };
        let conll = "EU NNP B-NP B-ORG\nsaid VBD B-VP O\n";
        check("a.txt", conll, [0, 0], Ok(["EU said", "B-ORG O"]));
        check("a.txt", conll, [0, 2], Ok(["EU said", "NNP VBD"]));
        check(
            "a.txt",
            conll,
            [0, 5],
            Err("a.txt: data.tag_column is 5, but its lines have 4 columns, expected one of them"),
        );
        let counted = "# one\n1\tAn\tO\tx\n2\tAnn\tB-PER\tx\n";
        check("a.tsv", counted, [2, 3], Ok(["An Ann", "O B-PER"]));
        check(
            "a.tsv",
            counted,
            [0, 0],
            Err("a.tsv: its first column counts the words; data.word_column says which one holds them, and \
                 data.tag_column that of the tags where it is not the last"),
        );
        let named = format!("id\tword\ttag\tx\n{}", counted.split_once('\n').unwrap().1);
        assert!(read_sentences(&documents(&[("a.tsv", &named)]), TagColumns::default()).is_err());
        check("a.tsv", "1\tO\nman\tO\n", [0, 0], Ok(["1 man", "O O"]));
        check("a.tsv", "1\tO\n2\tO\n", [0, 0], Ok(["1 2", "O O"]));
        check("a.tsv", "1\tx\tO\n\n2\tx\tO\n", [0, 0], Ok(["1", "O"]));
        check("a.tsv", "1\tx\tO\nof\tx\tO\n", [0, 0], Ok(["1 of", "O O"]));
        let words = TagColumns { untagged: true, ..TagColumns::default() };
        let found = read_sentences(&documents(&[("a.conll", "play\nnow\n")]), words).unwrap();
        assert_eq!(found[0].words, ["play", "now"]);
        let ranged = "1-2\tdel\t_\t_\t_\t_\t_\t_\t_\t_\n1\tde\t_\tADP\t_\t_\t_\t_\t_\t_\n";
        check("a.conll", ranged, [0, 0], Ok(["de", "ADP"]));
        let ten = "1\tde\tx\tADP\tIN\t_\t_\tcase\t_\t_\n";
        check("a.conllu", ten, [3, 8], Ok(["x", "case"]));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |files: &[(&str, &str)], expected: &str| {
            let found = read_sentences(&documents(files), TagColumns::default()).unwrap_err().to_string();
            assert_eq!(found, expected);
        };
        check(
            &[("d/seq.in", "a\n")],
            "d/seq.in: d/seq.out is missing beside it; give the folder, or both files",
        );
        check(
            &[("d/seq.out", "O\n")],
            "d/seq.out: d/seq.in is missing beside it; give the folder, or both files",
        );
        check(&[("seq.in", "a\nb\n"), ("seq.out", "O\n")], "seq.out: 1 lines, expected 2 as in seq.in");
        check(&[("seq.in", "a b\n"), ("seq.out", "O\n")], "seq.out:1: 1 tags for 2 words of seq.in:1");
        check(&[("seq.in", "\n"), ("seq.out", "\n")], "seq.in:1: the line has no word, expected a sentence");
        check(
            &[("seq.in", "a\n"), ("seq.out", "O\n"), ("label", " \n")],
            "label:1: the line is empty, expected the name of a class",
        );
        check(
            &[("a.txt", "a O\nb\n")],
            "a.txt:2: one column, expected a word and its tag, apart by a tab or blanks",
        );
        check(&[("a.txt", "a O\nb X O\n")], "a.txt:2: 3 columns, expected 2 as in the lines before");
        check(
            &[("a.txt", "a\tO\n\tO\n")],
            "a.txt:2: a word or its tag is empty; write _ for a word without a tag",
        );
        check(&[("a.conllu", "1\ta\n")], "a.conllu:1: 2 columns, expected the 10 of CoNLL-U, apart by tabs");
        check(
            &[("a.jsonl", "{}\n")],
            "a.jsonl: it holds JSON, expected a word and its tag a line, CoNLL-U, or seq.in and seq.out",
        );
        check(&[("a.txt", "\n\n")], "the data has no sentence, expected at least one");
        let bad = Document { name: "a.txt".to_owned(), bytes: b"a O\nb\xff O\n".to_vec() };
        let message = read_sentences(&[bad], TagColumns::default()).unwrap_err().to_string();
        assert_eq!(message, "a.txt:2: the line is not UTF-8; convert the file to UTF-8");
    }
}
