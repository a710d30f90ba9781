//! Texts with classes in tables that are too large to be held. One walk remembers of every row where it begins, its
//! class and its length; the text itself is read again each time it is needed.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::classes::NO_LABEL;
use super::stored::{SAMPLE, changed};
use super::stored_files::{LineCounter, StoredFiles, sampled, unreadable};
use super::table::{
    BYTE_ORDER_MARK, Fields, Form, column_of, fields_of, header, is_blank, no_header, no_rows, object_fields,
    records, refuse_open_quote, uneven, unread,
};
use super::{DataError, Document, FirstFailure, Quoting, TextColumns, Tokens};

/// A row, as far as it is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredRow {
    /// Its first byte, counted through all tables.
    place: u64,
    /// Tokens of its text; of byte pairs the characters.
    pub length: u32,
    /// Its class: an index into the labels that [`StoredTexts::index`] found, until it is given another.
    pub class: u32,
}

/// How the table in a file is read.
#[derive(Debug)]
struct StoredTable {
    form: Form,
    columns: Vec<String>,
    text: usize,
}

/// The tables, and how their rows are read.
#[derive(Debug)]
pub struct StoredTexts {
    files: StoredFiles,
    /// One a file.
    tables: Vec<StoredTable>,
    quoting: Quoting,
    failure: FirstFailure,
}

/// What a walk over tables finds.
#[derive(Debug)]
pub struct IndexedTexts {
    /// The tables.
    pub texts: StoredTexts,
    /// Their rows, in order.
    pub rows: Vec<StoredRow>,
    /// The labels that occur, by number.
    pub labels: Vec<String>,
    /// The group of each row, a place in the names, where its table has the column; empty where none was named.
    pub groups: Vec<Option<u32>>,
    /// Names of groups.
    pub group_names: Vec<String>,
    /// For each file the number of rows up to its end.
    pub ends: Vec<usize>,
}

/// Names in the order in which they came.
#[derive(Default)]
struct Names(HashMap<String, u32>);

impl Names {
    fn number(&mut self, name: &str) -> u32 {
        if let Some(&number) = self.0.get(name) {
            return number;
        }
        let number = self.0.len() as u32;
        self.0.insert(name.to_owned(), number);
        number
    }

    fn into_list(self) -> Vec<String> {
        let mut names: Vec<(String, u32)> = self.0.into_iter().collect();
        names.sort_unstable_by_key(|name| name.1);
        names.into_iter().map(|(name, _)| name).collect()
    }
}

impl StoredTexts {
    /// Walks over tables. `tokens` is what lengths are counted in.
    ///
    /// # Errors
    /// As [`read_texts`](super::read_texts), and [`DataError::Read`].
    pub fn index(
        files: &[PathBuf],
        columns: TextColumns<'_>,
        tokens: Tokens,
    ) -> Result<IndexedTexts, DataError> {
        let mut walk = Walk {
            columns,
            tokens,
            rows: Vec::new(),
            labels: Names::default(),
            groups: Names::default(),
            members: Vec::new(),
        };
        let (mut stored, mut tables, mut ends) = (StoredFiles::default(), Vec::new(), Vec::new());
        for path in files {
            tables.push(walk.table(path, stored.add(path)?)?);
            ends.push(walk.rows.len());
        }
        let Walk { rows, labels, members, groups, .. } = walk;
        let texts =
            StoredTexts { files: stored, tables, quoting: columns.quoting, failure: FirstFailure::default() };
        let (labels, group_names) = (labels.into_list(), groups.into_list());
        Ok(IndexedTexts { texts, rows, labels, groups: members, group_names, ends })
    }

    /// The text of a row. Where it cannot be read it is empty, and [`failure`](StoredTexts::failure) says why.
    #[must_use]
    pub fn text(&self, row: &StoredRow) -> String {
        self.read(row).unwrap_or_else(|error| {
            self.failure.keep(error);
            String::new()
        })
    }

    /// Why a text could not be read, once.
    #[must_use]
    pub fn failure(&self) -> Option<DataError> {
        self.failure.take()
    }

    /// File and line of rows. Lines are counted when they are asked for: the files are walked over again.
    ///
    /// # Errors
    /// [`DataError::Read`].
    pub fn places(&self, rows: &[StoredRow]) -> Result<Vec<(String, usize)>, DataError> {
        self.files.lines(&rows.iter().map(|row| row.place).collect::<Vec<_>>())
    }

    /// Texts to build a vocabulary from: those of all rows, or of some that a seed draws, about 100 MB.
    #[must_use]
    pub fn sample(&self, rows: &[StoredRow], seed: u64) -> Vec<Document> {
        self.sample_of(rows, seed, SAMPLE)
    }

    fn sample_of(&self, rows: &[StoredRow], seed: u64, most: u64) -> Vec<Document> {
        let chosen = sampled(rows.iter().map(|row| row.place), seed, most);
        rows.iter()
            .zip(chosen)
            .filter(|(_, chosen)| *chosen)
            .map(|(row, _)| Document { name: String::new(), bytes: self.text(row).into_bytes() })
            .collect()
    }

    fn read(&self, row: &StoredRow) -> Result<String, DataError> {
        let (number, at) = self.files.within(row.place);
        let (table, name) = (&self.tables[number], self.files.name(number));
        let file = self.files.open(number, at)?;
        let fields = match table.form {
            Form::Separated(separator) => {
                let mut record = csv::ByteRecord::new();
                let read = records(file, separator, self.quoting).read_byte_record(&mut record);
                read.ok().and_then(|_| fields_of(&record).ok()).map(Fields::full)
            }
            Form::Json => {
                let mut line = Vec::new();
                BufReader::new(file)
                    .read_until(b'\n', &mut line)
                    .map_err(|source| unreadable(Path::new(name), source))?;
                object_fields(&line, &mut table.columns.clone()).ok()
            }
        };
        match fields {
            Some(fields) if fields.count() == table.columns.len() => {
                fields.get(table.text, &table.columns).map(str::to_owned).map_err(|_| changed(name))
            }
            _ => Err(changed(name)),
        }
    }
}

/// A walk over tables.
struct Walk<'a> {
    columns: TextColumns<'a>,
    tokens: Tokens,
    rows: Vec<StoredRow>,
    labels: Names,
    groups: Names,
    members: Vec<Option<u32>>,
}

/// Where the columns of a table are.
#[derive(Clone, Copy)]
struct Columns {
    text: usize,
    label: Option<usize>,
    group: Option<usize>,
}

impl Walk<'_> {
    fn table(&mut self, path: &Path, first: u64) -> Result<StoredTable, DataError> {
        let name = path.display().to_string();
        let failed = |source| unreadable(path, source);
        let mut lines = BufReader::with_capacity(1 << 20, File::open(path).map_err(failed)?);
        let buffered = lines.fill_buf().map_err(failed)?;
        let line = buffered.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let form = Form::of(&name, line);
        let before = self.rows.len();
        let columns = match form {
            Form::Separated(separator) => self.separated(lines, separator, &name, first)?,
            Form::Json => self.objects(lines, &name, first)?,
        };
        if self.rows.len() == before {
            return Err(no_rows(&name));
        }
        let text = self.places(&columns, &name)?.text;
        Ok(StoredTable { form, columns, text })
    }

    fn separated(
        &mut self,
        lines: impl BufRead,
        separator: u8,
        name: &str,
        first: u64,
    ) -> Result<Vec<String>, DataError> {
        let mut reader = records(lines, separator, self.columns.quoting);
        let mut record = csv::ByteRecord::new();
        let mut known: Option<(Vec<String>, Columns)> = None;
        let wrong = |byte: u64, reason: String| {
            let line = File::open(name).and_then(|file| LineCounter::new(file).at(byte));
            DataError::Line { name: name.to_owned(), line: line.unwrap_or_default(), reason }
        };
        let mut last = None;
        loop {
            let place = reader.position().clone();
            let at = |reason: String| wrong(place.byte(), reason);
            let more = reader.read_byte_record(&mut record).map_err(|error| match unread(&error) {
                (Some(line), reason) => super::at(name, line, reason),
                (None, reason) => at(reason),
            })?;
            if !more {
                break;
            }
            let fields = fields_of(&record).map_err(at)?;
            match &known {
                None => {
                    let columns = header(fields).map_err(at)?;
                    let places = self.places(&columns, name)?;
                    known = Some((columns, places));
                }
                Some((columns, _)) if is_blank(&fields, columns) => {}
                Some((columns, _)) if fields.len() != columns.len() => {
                    return Err(at(uneven(&fields, columns.len(), self.columns.quoting)));
                }
                Some((columns, places)) => {
                    let fields = Fields::full(fields);
                    self.row(first + place.byte(), (&fields, columns.as_slice()), *places).map_err(at)?;
                    last = Some((place.byte(), fields));
                }
            }
        }
        if let Some((byte, fields)) = last {
            refuse_open_quote(&fields, self.columns.quoting).map_err(|reason| wrong(byte, reason))?;
        }
        known.map(|(columns, _)| columns).ok_or_else(|| no_header(name))
    }

    fn objects(&mut self, mut lines: impl BufRead, name: &str, first: u64) -> Result<Vec<String>, DataError> {
        let mut columns = Vec::new();
        let mut places: Option<Columns> = None;
        let (mut place, mut bytes) = (first, Vec::new());
        for line in 1.. {
            bytes.clear();
            let read =
                lines.read_until(b'\n', &mut bytes).map_err(|source| unreadable(Path::new(name), source))?;
            if read == 0 {
                break;
            }
            let marked =
                if line == 1 && bytes.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
            let text = &bytes[marked..];
            if !text.iter().all(u8::is_ascii_whitespace) {
                let at = |reason: String| DataError::Line { name: name.to_owned(), line, reason };
                let fields = object_fields(text, &mut columns).map_err(at)?;
                let found = match places {
                    Some(places) => places,
                    None => *places.insert(self.places(&columns, name)?),
                };
                self.row(place + marked as u64, (&fields, columns.as_slice()), found).map_err(at)?;
            }
            place += read as u64;
        }
        Ok(columns)
    }

    fn places(&self, columns: &[String], name: &str) -> Result<Columns, DataError> {
        let wanted = &self.columns;
        Ok(Columns {
            text: column_of(columns, wanted.text, "data.text", name)?,
            label: wanted.label.map(|label| column_of(columns, label, "data.label", name)).transpose()?,
            group: wanted.group.and_then(|group| columns.iter().position(|column| column == group)),
        })
    }

    fn row(
        &mut self,
        place: u64,
        (fields, names): (&Fields, &[String]),
        columns: Columns,
    ) -> Result<(), String> {
        let label = columns.label.map_or(Ok(""), |label| fields.get(label, names))?.trim();
        if columns.label.is_some() && label.is_empty() {
            return Err(NO_LABEL.to_owned());
        }
        let text = fields.get(columns.text, names)?;
        let length = match self.tokens {
            Tokens::Byte => text.len(),
            Tokens::Word => Tokens::Word.pieces(text).count(),
            Tokens::Char | Tokens::Bpe => text.chars().count(),
        };
        self.rows.push(StoredRow { place, length: length as u32, class: self.labels.number(label) });
        if self.columns.group.is_some() {
            let name = columns.group.map(|group| fields.get(group, names)).transpose()?;
            self.members.push(name.map(|name| self.groups.number(name)));
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;
    use crate::data::{read_documents, read_texts};

    fn columns(quoting: Quoting) -> TextColumns<'static> {
        TextColumns { text: "text", label: Some("label"), group: Some("author"), quoting }
    }

    #[test]
    fn what_is_stored_is_what_would_be_held() {
        let folder = tempfile::tempdir().unwrap();
        let contents = [
            ("a.csv", "\u{feff}label,author,text\nx,u,\"a, \"\"b\"\"\nc\"\n\n\ny,v,한국 é\nx,u,\n".to_owned()),
            ("b.tsv", "text\tlabel\tauthor\r\nsome words\tz\tv\r\n \r\nmore\tx\tw".to_owned()),
            ("c.jsonl", "\u{feff}{\"label\": 1, \"author\": \"u\", \"text\": \"é a\"}\n\n{\"author\": \"w\", \"text\": \"b\", \"label\": \"x\"}".to_owned()),
            ("d", "text\tlabel\tby\n".to_owned() + &"a row of words\tx\tu\n".repeat(9000)),
        ];
        let files: Vec<PathBuf> = contents.iter().map(|(name, _)| folder.path().join(name)).collect();
        files.iter().zip(&contents).for_each(|(path, (_, text))| fs::write(path, text).unwrap());
        let held = read_texts(&read_documents(&files).unwrap(), columns(Quoting::On)).unwrap();
        let IndexedTexts { texts, rows, labels, groups, group_names, ends } =
            StoredTexts::index(&files, columns(Quoting::On), Tokens::Char).unwrap();
        assert_eq!(labels, ["x", "y", "z", "1"]);
        assert_eq!(rows.len(), held.len());
        assert_eq!(ends, [3, 5, 7, 9007]);
        let places = texts.places(&rows).unwrap();
        for (((row, held), (file, line)), group) in rows.iter().zip(&held).zip(places).zip(groups) {
            assert_eq!(texts.text(row), held.text);
            assert_eq!(row.length as usize, held.text.chars().count());
            assert_eq!(labels[row.class as usize], held.label);
            assert_eq!((file, line), (held.file.clone(), held.line));
            let group = group.map(|group| group_names[group as usize].as_str());
            assert_eq!((group, group.is_some()), (held.group.as_deref(), !held.file.ends_with("d")));
        }
        assert!(texts.failure().is_none());
        // A sample keeps the order, and few rows when little is wanted.
        let all = texts.sample(&rows, 1);
        assert_eq!(all.len(), rows.len());
        let (one, two) = (texts.sample_of(&rows, 1, 9000), texts.sample_of(&rows, 2, 9000));
        assert!((300..600).contains(&one.len()) && one != two, "{} rows", one.len());
        assert_eq!(one, texts.sample_of(&rows, 1, 9000));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let check = |name: &str, text: &str, expected: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            let wanted = columns(Quoting::On);
            let files = [path];
            let stored = StoredTexts::index(&files, wanted, Tokens::Char).unwrap_err().to_string();
            let held = read_texts(&read_documents(&files).unwrap(), wanted).unwrap_err().to_string();
            assert_eq!(stored, held);
            assert!(stored.contains(expected), "{stored}");
        };
        check("a.csv", "text,label,author\na,x,u\nb\n", "a.csv:3: 1 fields, expected 3");
        check("b.csv", "text,label,author\na, ,u\n", "b.csv:2: the label is empty");
        check("c.csv", "text,label,author\n", "no row below its header");
        check("g.csv", "text,label,author\n\"a,x,u\n\"b\" c,x,u\n", "g.csv:2: text follows a quote mark");
        check("d.csv", "text,class\na,x\n", "no column is named \"label\"");
        check(
            "e.jsonl",
            "{\"text\": \"a\", \"label\": \"x\", \"author\": \"u\"}\n[]\n",
            "e.jsonl:2: expected a JSON object",
        );

        let path = folder.path().join("f.csv");
        fs::write(&path, "text,label,author\na,x,u\nb,y,v\n").unwrap();
        let files = [path];
        let indexed = StoredTexts::index(&files, columns(Quoting::On), Tokens::Char).unwrap();
        fs::write(&files[0], "text,label,author\na,x\n").unwrap();
        assert_eq!(indexed.texts.text(&indexed.rows[0]), "");
        let failure = indexed.texts.failure().unwrap().to_string();
        assert!(failure.contains("f.csv: it changed while it was read"), "{failure}");
        assert!(indexed.texts.failure().is_none(), "it is said once");
    }
}
