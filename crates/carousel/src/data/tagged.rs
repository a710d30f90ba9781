//! Sentences with a tag a word: files of columns, CoNLL-U, or lines side by side.

use super::{DataError, Document, at, fails, text_of};

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
/// and a `label` with one class a line may. Names that end in `.conllu` hold CoNLL-U, of which the words and the
/// universal part-of-speech tags are taken. Other files have a word in the first column and its tag in the last,
/// columns apart by tabs or blanks, and an empty line between sentences; a first line that names them (`word`, `tag`) is
/// passed over, and so is a line that begins with `#` ahead of a sentence and has not its columns.
///
/// # Errors
/// [`DataError`] with file and line.
pub fn read_sentences(documents: &[Document]) -> Result<Vec<Sentence>, DataError> {
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
            _ if name.ends_with(".conllu") => read_conllu(document, &mut sentences)?,
            _ if [".json", ".jsonl", ".ndjson"].iter().any(|ending| name.ends_with(ending)) => {
                let reason =
                    "it holds JSON, expected a word and its tag a line, CoNLL-U, or seq.in and seq.out";
                return Err(fails(document, reason));
            }
            _ => read_columns(document, &mut sentences)?,
        }
    }
    match sentences.is_empty() {
        true => {
            Err(DataError::Examples { reason: "the data has no sentence, expected at least one".to_owned() })
        }
        false => Ok(sentences),
    }
}

/// Folder with its slash, and name without `.gz`.
fn split_name(path: &str) -> (&str, &str) {
    let at = path.rfind('/').map_or(0, |slash| slash + 1);
    let (folder, name) = path.split_at(at);
    (folder, name.strip_suffix(".gz").unwrap_or(name))
}

pub(super) fn lines(document: &Document) -> Result<Vec<&str>, DataError> {
    Ok(text_of(document)?.lines().collect())
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

/// Collects words until a sentence ends.
struct Open<'a> {
    document: &'a Document,
    words: Vec<String>,
    tags: Vec<String>,
    line: usize,
}

impl<'a> Open<'a> {
    fn new(document: &'a Document) -> Open<'a> {
        Open { document, words: Vec::new(), tags: Vec::new(), line: 1 }
    }

    fn push(&mut self, word: &str, tag: &str, line: usize) {
        if self.words.is_empty() {
            self.line = line;
        }
        self.words.push(word.to_owned());
        self.tags.push(tag.to_owned());
    }

    fn close(&mut self, sentences: &mut Vec<Sentence>) {
        if !self.words.is_empty() {
            let (words, tags) = (std::mem::take(&mut self.words), std::mem::take(&mut self.tags));
            let file = self.document.name.clone();
            sentences.push(Sentence { words, tags, intent: None, file, line: self.line });
        }
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

fn read_columns(document: &Document, sentences: &mut Vec<Sentence>) -> Result<(), DataError> {
    let mut open = Open::new(document);
    let lines = lines(document)?;
    let told = || lines.iter().filter(|text| !text.trim().is_empty() && !text.starts_with("-DOCSTART-"));
    let first = told().find(|text| !text.starts_with('#')).or_else(|| told().next());
    let wanted = first.map_or(0, |text| columns_of(text).len());
    let mut is_first = true;
    for (place, text) in lines.iter().enumerate() {
        let line = place + 1;
        if text.trim().is_empty() {
            open.close(sentences);
            continue;
        }
        let columns = columns_of(text);
        let is_comment = text.starts_with('#') && open.words.is_empty() && columns.len() != wanted;
        if columns[0] == "-DOCSTART-" || is_comment {
            continue;
        }
        if columns.len() < 2 {
            return Err(at(
                &document.name,
                line,
                "one column, expected a word and its tag, apart by a tab or blanks",
            ));
        }
        if columns.len() != wanted {
            let reason = format!("{} columns, expected {wanted} as in the lines before", columns.len());
            return Err(at(&document.name, line, reason));
        }
        let (word, tag) = (columns[0], columns[columns.len() - 1]);
        if std::mem::take(&mut is_first) && is_header(word, tag) {
            continue;
        }
        if word.is_empty() || tag.is_empty() {
            return Err(at(
                &document.name,
                line,
                "a word or its tag is empty; write _ for a word without a tag",
            ));
        }
        open.push(word, tag, line);
    }
    open.close(sentences);
    Ok(())
}

fn read_conllu(document: &Document, sentences: &mut Vec<Sentence>) -> Result<(), DataError> {
    let mut open = Open::new(document);
    for (place, text) in lines(document)?.into_iter().enumerate() {
        let line = place + 1;
        if text.trim().is_empty() {
            open.close(sentences);
            continue;
        }
        if text.starts_with('#') {
            continue;
        }
        let columns: Vec<&str> = text.split('\t').collect();
        if columns.len() != 10 {
            let reason = format!("{} columns, expected the 10 of CoNLL-U, apart by tabs", columns.len());
            return Err(at(&document.name, line, reason));
        }
        // Words of several tokens and words that are not there have a range or a fraction for a number.
        if columns[0].contains(['-', '.']) {
            continue;
        }
        open.push(columns[1], columns[3], line);
    }
    open.close(sentences);
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
            let found = read_sentences(&documents(files)).unwrap();
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
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |files: &[(&str, &str)], expected: &str| {
            assert_eq!(read_sentences(&documents(files)).unwrap_err().to_string(), expected);
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
        let message = read_sentences(&[bad]).unwrap_err().to_string();
        assert_eq!(message, "a.txt:2: the line is not UTF-8; convert the file to UTF-8");
    }
}
