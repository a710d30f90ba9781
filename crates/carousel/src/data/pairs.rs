//! Pairs of texts to be translated: read from files, and turned into ids.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::side::{Side, TooLong, UNK, cut};
use super::table::{Quoting, read_table};
use super::{DataError, Document, at, fails, unpacked};

/// How pairs stand in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairFormat {
    /// What the names and the first lines say: `.dict` a pronouncing dictionary; `.csv`, `.jsonl`, `.ndjson` and `.json`,
    /// and whatever it is where a column is named, a table; tabs in the first line columns; otherwise files side by side.
    Auto,
    /// Columns with tabs between, no header.
    Columns,
    /// A table whose first line names its columns, or one JSON object a line; see [`read_table`].
    Table,
    /// Files of the same number of lines: source, target, source, target, …
    Files,
    /// As CMUdict: a word, a blank, its phones; `word(2)` is another way to say a word, `#` begins a comment.
    Dictionary,
}

/// Which pairs are read, and how.
#[derive(Clone, Copy, Debug)]
pub struct PairColumns<'a> {
    /// How they stand in files.
    pub format: PairFormat,
    /// The column of the source, counted from 1; of files side by side, which of the two.
    pub source: usize,
    /// That of the target.
    pub target: usize,
    /// Their names in a table; `source` and `target` where none are given.
    pub names: [Option<&'a str>; 2],
    /// Whether a field of a table may stand in quotes.
    pub quoting: Quoting,
    /// Whether the phones of a dictionary keep the digits of their stress.
    pub stress: bool,
}

/// Two texts that mean the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextPair {
    /// What is read.
    pub source: String,
    /// What is to be written.
    pub target: String,
    /// File and line.
    pub place: String,
}

/// Reads pairs. The second value is the number of lines left out because a side is empty.
///
/// # Errors
/// [`DataError`] with file and line: too few columns, files of different length, text that is not UTF-8, or not one
/// pair.
pub fn read_pairs(
    documents: &[Document],
    columns: PairColumns<'_>,
) -> Result<(Vec<TextPair>, usize), DataError> {
    let mut raw = Vec::new();
    match format_of(documents, columns) {
        PairFormat::Dictionary => {
            for document in documents {
                read_dictionary(document, columns, &mut raw)?;
            }
        }
        PairFormat::Files => read_files(documents, columns, &mut raw)?,
        PairFormat::Table => {
            for document in documents {
                read_named(document, columns, &mut raw)?;
            }
        }
        PairFormat::Auto | PairFormat::Columns => {
            for document in documents {
                read_columns(document, columns, &mut raw)?;
            }
        }
    }
    let all = raw.len();
    raw.retain(|pair| !pair.source.trim().is_empty() && !pair.target.trim().is_empty());
    if raw.is_empty() {
        let names: Vec<&str> = documents.iter().map(|document| document.name.as_str()).collect();
        let reason = "it has no pair with text on both sides, expected at least one".to_owned();
        return Err(DataError::File { name: names.join(", "), reason });
    }
    Ok((raw.clone(), all - raw.len()))
}

fn format_of(documents: &[Document], columns: PairColumns<'_>) -> PairFormat {
    if columns.format != PairFormat::Auto {
        return columns.format;
    }
    let ends = |endings: &[&str]| {
        let ends = |name: &str| endings.iter().any(|ending| name.to_ascii_lowercase().ends_with(ending));
        documents.iter().all(|document| ends(unpacked(&document.name)))
    };
    if columns.names != [None, None] || ends(&[".csv", ".jsonl", ".ndjson", ".json"]) {
        return PairFormat::Table;
    }
    let first = |document: &Document| -> Vec<u8> {
        document.bytes.split(|&byte| byte == b'\n').next().unwrap_or_default().to_vec()
    };
    if ends(&[".dict"]) {
        PairFormat::Dictionary
    } else if documents.len().is_multiple_of(2)
        && documents
            .iter()
            .all(|document| !first(document).contains(&b'\t') && !unpacked(&document.name).ends_with(".tsv"))
    {
        PairFormat::Files
    } else {
        PairFormat::Columns
    }
}

/// The lines of a file, without their ends.
fn lines(document: &Document) -> Result<Vec<&str>, DataError> {
    let text = document.text()?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    Ok(text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).collect())
}

fn read_columns(
    document: &Document,
    columns: PairColumns<'_>,
    pairs: &mut Vec<TextPair>,
) -> Result<(), DataError> {
    let lines = lines(document)?;
    refuse_numbers(document, &lines, columns)?;
    let named =
        |name: &str| lines.first().is_some_and(|line| line.split('\t').any(|field| field.trim() == name));
    if named("source") && named("target") {
        let reason = "its first line names its columns: set data.format=table";
        return Err(fails(document, reason));
    }
    for (number, line) in (1..).zip(lines) {
        let place = format!("{}:{number}", document.name);
        if line.trim().is_empty() {
            pairs.push(TextPair { source: String::new(), target: String::new(), place });
            continue;
        }
        let fields: Vec<&str> = line.split('\t').collect();
        let (source, target) = (fields.get(columns.source - 1), fields.get(columns.target - 1));
        let (Some(source), Some(target)) = (source, target) else {
            let (found, wanted) = (fields.len(), columns.source.max(columns.target));
            let reason = format!(
                "{found} {} between tabs, expected at least {wanted} (data.source = {}, data.target = {})",
                if found == 1 { "column" } else { "columns" },
                columns.source,
                columns.target
            );
            return Err(at(&document.name, number, reason));
        };
        pairs.push(TextPair { source: (*source).to_owned(), target: (*target).to_owned(), place });
    }
    Ok(())
}

fn read_named(
    document: &Document,
    columns: PairColumns<'_>,
    pairs: &mut Vec<TextPair>,
) -> Result<(), DataError> {
    let table = read_table(document, columns.quoting)?;
    // In JSON nothing has a number.
    let counts = !unpacked(&document.name).contains(".json") || columns.names != [None, None];
    if counts && (columns.source, columns.target) != (1, 2) {
        let reason = "it is a table, whose columns go by their names; set data.source_column and data.target_column, and \
                      leave data.source and data.target out";
        return Err(fails(document, reason));
    }
    let place = |side: usize, otherwise, key| table.column(columns.names[side].unwrap_or(otherwise), key);
    let places = [place(0, "source", "data.source_column")?, place(1, "target", "data.target_column")?];
    for row in &table.rows {
        let [source, target] = places.map(|place| table.field(row, place).map(str::to_owned));
        pairs.push(TextPair {
            source: source?,
            target: target?,
            place: format!("{}:{}", document.name, row.line),
        });
    }
    Ok(())
}

/// Collections number their sentences: `id text id text`. Who asks for the first two columns there, as recipes do that
/// say nothing, asks for numbers and their texts.
fn refuse_numbers(document: &Document, lines: &[&str], columns: PairColumns<'_>) -> Result<(), DataError> {
    if (columns.source, columns.target) != (1, 2) {
        return Ok(());
    }
    let is_number = |line: &&&str, place: usize| {
        line.split('\t').nth(place).is_some_and(|field| field.trim().parse::<u64>().is_ok())
    };
    let told = || lines.iter().filter(|line| !line.trim().is_empty());
    let is_numbered =
        |line: &&str| [0, 1, 2, 3].map(|place| is_number(&line, place)) == [true, false, true, false];
    let has_four = told().next().is_some_and(|line| line.split('\t').count() == 4);
    if has_four && told().all(is_numbered) {
        let reason = "columns 1 and 3 number the texts beside them; set data.source=2 and data.target=4, or the other way";
        return Err(fails(document, reason));
    }
    Ok(())
}

fn read_files(
    documents: &[Document],
    columns: PairColumns<'_>,
    pairs: &mut Vec<TextPair>,
) -> Result<(), DataError> {
    if !documents.len().is_multiple_of(2) {
        let name = documents.last().map(|document| document.name.clone()).unwrap_or_default();
        let reason = format!(
            "{} files without tabs, expected two side by side, source and target, or columns with tabs between",
            documents.len()
        );
        return Err(DataError::File { name, reason });
    }
    if let Some(column) = [columns.source, columns.target].into_iter().find(|&column| column > 2) {
        let reason = format!("column {column} of two files side by side, expected 1 or 2");
        return Err(DataError::Examples { reason });
    }
    for two in documents.chunks_exact(2) {
        let sides = [lines(&two[0])?, lines(&two[1])?];
        let (source, target) = (&sides[columns.source - 1], &sides[columns.target - 1]);
        if source.len() != target.len() {
            let shorter = usize::from(sides[1].len() < sides[0].len());
            let reason = format!(
                "no line {} beside that of {}: {} has {} lines, {} has {}; lines of the two belong together",
                sides[shorter].len() + 1,
                two[1 - shorter].name,
                two[0].name,
                sides[0].len(),
                two[1].name,
                sides[1].len()
            );
            return Err(at(&two[shorter].name, sides[shorter].len() + 1, reason));
        }
        for (number, (source, target)) in (1..).zip(source.iter().zip(target)) {
            let place = format!("{}:{number}", two[columns.source - 1].name);
            pairs.push(TextPair { source: (*source).to_owned(), target: (*target).to_owned(), place });
        }
    }
    Ok(())
}

fn read_dictionary(
    document: &Document,
    columns: PairColumns<'_>,
    pairs: &mut Vec<TextPair>,
) -> Result<(), DataError> {
    for (number, line) in (1..).zip(lines(document)?) {
        if line.starts_with(";;;") {
            continue;
        }
        let line = line.split(" #").next().unwrap_or_default().trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((word, phones)) = line.split_once(char::is_whitespace) else {
            return Err(at(
                &document.name,
                number,
                format!("{line:?} has no phones, expected a word, a blank, its phones"),
            ));
        };
        // `word(2)` is another way to say `word`.
        let word = match word.strip_suffix(')').and_then(|word| word.rsplit_once('(')) {
            Some((word, variant))
                if variant.bytes().all(|byte| byte.is_ascii_digit()) && !variant.is_empty() =>
            {
                word
            }
            _ => word,
        };
        let phone = |phone: &str| match columns.stress {
            true => phone.to_owned(),
            false => phone.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned(),
        };
        let phones: Vec<String> = phones.split_whitespace().map(phone).collect();
        let sides = [word.to_owned(), phones.join(" ")];
        let side = |column: usize| sides.get(column - 1).cloned();
        let (Some(source), Some(target)) = (side(columns.source), side(columns.target)) else {
            let reason = "a dictionary has two columns, expected data.source and data.target of 1 and 2";
            return Err(DataError::Examples { reason: reason.to_owned() });
        };
        pairs.push(TextPair { source, target, place: format!("{}:{number}", document.name) });
    }
    Ok(())
}

/// A pair that is ready to be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncodedPair {
    /// The texts.
    #[serde(flatten)]
    pub text: TextPair,
    /// The source between [`SOS`](super::SOS) and [`EOS`](super::EOS).
    #[serde(rename = "source_ids")]
    pub source: Vec<u32>,
    /// The target between [`SOS`](super::SOS) and [`EOS`](super::EOS).
    #[serde(rename = "target_ids")]
    pub target: Vec<u32>,
}

/// What became of a part's pairs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairCounts {
    /// Pairs kept.
    pub pairs: usize,
    /// Lines left out because a side is empty.
    pub empty: usize,
    /// Pairs left out because a side is too long.
    pub dropped: usize,
    /// Pairs of which a side was cut.
    pub cut: usize,
    /// Tokens of the sources, without the two at the ends.
    pub source_tokens: usize,
    /// Those among them that are not in the vocabulary.
    pub source_unknown: usize,
    /// Tokens of the targets, without the two at the ends.
    pub target_tokens: usize,
    /// Those among them that are not in the vocabulary.
    pub target_unknown: usize,
    /// How many sources take how many places.
    pub source_places: BTreeMap<usize, usize>,
}

/// Turns pairs into ids and keeps them within `max_len` places, those of the source first.
#[must_use]
pub fn encode_pairs(
    pairs: Vec<TextPair>,
    sides: [&Side; 2],
    max_len: [usize; 2],
    too_long: TooLong,
) -> (Vec<EncodedPair>, PairCounts) {
    let mut counts = PairCounts::default();
    let mut kept = Vec::with_capacity(pairs.len());
    for text in pairs {
        let (mut source, mut target) = (sides[0].encode(&text.source), sides[1].encode(&text.target));
        if too_long == TooLong::Drop && (source.len() > max_len[0] || target.len() > max_len[1]) {
            counts.dropped += 1;
            continue;
        }
        let both = [cut(&mut source, max_len[0]), cut(&mut target, max_len[1])];
        counts.cut += usize::from(both[0] || both[1]);
        let unknown = |ids: &[u32]| ids.iter().filter(|&&id| id == UNK).count();
        counts.source_tokens += source.len() - 2;
        counts.target_tokens += target.len() - 2;
        counts.source_unknown += unknown(&source);
        counts.target_unknown += unknown(&target);
        *counts.source_places.entry(source.len()).or_default() += 1;
        kept.push(EncodedPair { text, source, target });
    }
    counts.pairs = kept.len();
    (kept, counts)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::side::{EOS, NormalForm, Splitting, Uniform};
    use super::super::{Limits, Tokens};
    use super::*;

    fn document(name: &str, text: &str) -> Document {
        Document { name: name.to_owned(), bytes: text.as_bytes().to_vec() }
    }

    fn columns(source: usize, target: usize) -> PairColumns<'static> {
        let names = [None, None];
        PairColumns { format: PairFormat::Auto, source, target, names, quoting: Quoting::On, stress: false }
    }

    fn named(source: &'static str, target: &'static str) -> PairColumns<'static> {
        PairColumns { names: [Some(source), Some(target)], ..columns(1, 2) }
    }

    #[test]
    fn every_form_of_pairs_is_read() {
        let check = |files: &[(&str, &str)], columns, expected: &[(&str, &str, &str)], empty: usize| {
            let documents: Vec<Document> = files.iter().map(|(name, text)| document(name, text)).collect();
            let (pairs, left_out) = read_pairs(&documents, columns).unwrap();
            let found: Vec<(&str, &str, &str)> = pairs
                .iter()
                .map(|pair| (pair.source.as_str(), pair.target.as_str(), pair.place.as_str()))
                .collect();
            assert_eq!(found, expected);
            assert_eq!(left_out, empty);
        };
        let tsv = [("a.txt", "\u{feff}a\tb\tby\r\n\n c\t\nd\te\n")];
        check(&tsv, columns(1, 2), &[("a", "b", "a.txt:1"), ("d", "e", "a.txt:4")], 2);
        check(&tsv, columns(2, 1), &[("b", "a", "a.txt:1"), ("e", "d", "a.txt:4")], 2);
        let files = [("t.de", "eins\n\nzwei\n"), ("t.en", "one\nx\ntwo")];
        check(&files, columns(1, 2), &[("eins", "one", "t.de:1"), ("zwei", "two", "t.de:3")], 1);
        check(&files, columns(2, 1), &[("one", "eins", "t.en:1"), ("two", "zwei", "t.en:3")], 1);
        let dict = "# c\n;;; c\nread R EH1 D\nread(2) R IY1 D # present\nf(x) F\n";
        let said =
            [("read", "R EH D", "c.dict:3"), ("read", "R IY D", "c.dict:4"), ("f(x)", "F", "c.dict:5")];
        check(&[("c.dict", dict)], columns(1, 2), &said, 0);
        let stressed = PairColumns { stress: true, ..columns(1, 2) };
        assert_eq!(read_pairs(&[document("c.dict", dict)], stressed).unwrap().0[0].target, "R EH1 D");
        let csv = [("a.csv", "en,note,fr\n\"a, b\",x,c\n,y,d\ne,z,f\n")];
        check(&csv, named("fr", "en"), &[("c", "a, b", "a.csv:2"), ("f", "e", "a.csv:4")], 1);
        let tsv = [("a.tsv", "en\tfr\na\tb\n")];
        check(&tsv, named("en", "fr"), &[("a", "b", "a.tsv:2")], 0);
        let json = [("a.jsonl.gz", "{\"source\": \"a\", \"target\": \"b\", \"ids\": [1]}\n")];
        check(&json, columns(1, 2), &[("a", "b", "a.jsonl.gz:1")], 0);
        let inner = [("a.json", "{\"translation\": {\"en\": \"a\", \"fr\": \"b\"}}\n")];
        check(&inner, named("translation.fr", "translation.en"), &[("b", "a", "a.json:1")], 0);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let check = |files: &[(&str, &str)], columns, expected: &str| {
            let documents: Vec<Document> = files.iter().map(|(name, text)| document(name, text)).collect();
            let found = read_pairs(&documents, columns).unwrap_err().to_string();
            assert!(found.contains(expected), "{found}");
        };
        check(
            &[("a.tsv", "a\tb\nc\n")],
            columns(1, 2),
            "a.tsv:2: 1 column between tabs, expected at least 2",
        );
        check(&[("a.tsv", "a\tb\n")], columns(1, 3), "a.tsv:1: 2 columns between tabs, expected at least 3");
        check(
            &[("a", "x\ny\n"), ("b", "x\n")],
            columns(1, 2),
            "b:2: no line 2 beside that of a: a has 2 lines, b has 1",
        );
        check(&[("a", "x\n")], columns(1, 2), "a:1: 1 column between tabs");
        check(&[("a", "x\n"), ("b", "y\n")], columns(1, 3), "column 3 of two files");
        check(
            &[("a.csv", "id,source,target\n1,a,b\n")],
            columns(3, 2),
            "a.csv: it is a table, whose columns go by their names; set data.source_column",
        );
        check(&[("a.tsv", "a\tb\nc\td\n")], PairColumns { source: 2, ..named("a", "b") }, "a.tsv: it is");
        check(&[("a.tsv", "id\tsource\ttarget\n1\ta\tb\n")], columns(1, 2), "set data.format=table");
        check(&[("a.tsv", "\t\n")], columns(1, 2), "no pair with text on both sides");
        check(
            &[("a.csv", "en,fr\na,b\n")],
            columns(1, 2),
            "a.csv: no column is named \"source\", expected one of en, fr; set data.source_column",
        );
        check(
            &[("a.jsonl", "{\"source\": \"a\", \"target\": [1]}\n")],
            columns(1, 2),
            "a.jsonl:1: \"target\" is a list, expected text",
        );
        check(&[("c.dict", "word\n")], columns(1, 2), "c.dict:1: \"word\" has no phones");
        let broken = Document { name: "a.tsv".to_owned(), bytes: b"a\tb\nc\t\xff\n".to_vec() };
        let found = read_pairs(&[broken], columns(1, 2)).unwrap_err().to_string();
        assert!(found.starts_with("a.tsv:2: the line is not UTF-8"), "{found}");
    }

    /// A sentence of n tokens takes n + 2 places.
    #[test]
    fn the_longest_sentence_counts_both_ends() {
        let pair = |source: &str| TextPair {
            source: source.to_owned(),
            target: "a".to_owned(),
            place: String::new(),
        };
        let plain = Uniform { form: NormalForm::Nfc, lowercase: false };
        let words = Splitting { tokens: Tokens::Word, punctuation: true };
        let all = Limits { min_count: 1, size: None, share: 1.0 };
        let side = Side::learn(["a"], plain, words, all).unwrap();
        let pairs = vec![pair("a a a"), pair("a a a a"), pair("a")];
        let check = |max_len: usize, too_long, kept: &[usize], dropped: usize, cut: usize| {
            let (found, counts) = encode_pairs(pairs.clone(), [&side, &side], [max_len, 9], too_long);
            assert_eq!(found.iter().map(|pair| pair.source.len()).collect::<Vec<_>>(), kept, "{max_len}");
            assert!(found.iter().all(|pair| pair.source.last() == Some(&EOS)));
            assert_eq!((counts.pairs, counts.dropped, counts.cut), (kept.len(), dropped, cut), "{max_len}");
        };
        check(6, TooLong::Drop, &[5, 6, 3], 0, 0);
        check(5, TooLong::Drop, &[5, 3], 1, 0);
        check(5, TooLong::Cut, &[5, 5, 3], 0, 1);
        check(4, TooLong::Drop, &[3], 2, 0);
    }
}
