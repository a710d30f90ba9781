//! Tables with named columns: values apart by tabs, commas or semicolons, or one JSON object a line.

use std::io::{self, Read};

use serde_json::{Map, Value};

use super::{DataError, Document, at, unpacked};

/// Whether a field that begins with a quote mark ends with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quoting {
    /// As RFC 4180 says: separators and line ends may stand in quotes, a quote mark is doubled there.
    On,
    /// A quote mark is a character like any other.
    Off,
}

impl Quoting {
    /// Whether quote marks mean anything, as a recipe says it.
    #[must_use]
    pub fn of(quoting: bool) -> Quoting {
        if quoting { Quoting::On } else { Quoting::Off }
    }
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The file, as given.
    pub name: String,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Its rows.
    pub rows: Vec<Row>,
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The line of the file that it begins on, counted from 1.
    pub line: usize,
    /// One field a column.
    pub(super) fields: Fields,
}

/// The fields of a row. One that cannot be read matters only to those who read it: few tables are full in columns that
/// nobody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fields {
    values: Vec<String>,
    /// Columns without a value, and what was found.
    lacking: Vec<(usize, Lack)>,
}

/// What stands in place of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lack {
    /// Nothing, or null.
    Nothing,
    /// Many values, or named ones.
    Composite(&'static str),
}

impl Fields {
    pub(super) fn full(values: Vec<String>) -> Fields {
        Fields { values, lacking: Vec::new() }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.values.len()
    }

    /// A field, or what is wrong with it. `columns` are their names.
    pub(super) fn get(&self, place: usize, columns: &[String]) -> Result<&str, String> {
        let name = &columns[place];
        match self.lacking.iter().find(|lacking| lacking.0 == place) {
            None => Ok(&self.values[place]),
            Some((_, Lack::Nothing)) => Err(format!("{name:?} is missing, expected it as in the first line")),
            Some((_, Lack::Composite(kind))) => {
                Err(format!("{name:?} is {kind}, expected text, a number, true or false"))
            }
        }
    }
}

impl Table {
    /// The place of a column. `key` is the recipe's key that names it.
    ///
    /// # Errors
    /// [`DataError::File`] with the columns there are.
    pub fn column(&self, name: &str, key: &str) -> Result<usize, DataError> {
        column_of(&self.columns, name, key, &self.name)
    }

    /// The columns that have names.
    pub(super) fn named(&self) -> impl Iterator<Item = &String> {
        self.columns.iter().filter(|name| !name.is_empty())
    }

    /// The place of a column, where there is one.
    #[must_use]
    pub fn place(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column == name)
    }

    /// The field of a row in a column.
    ///
    /// # Errors
    /// [`DataError::Line`] where it has none.
    pub fn field<'a>(&self, row: &'a Row, column: usize) -> Result<&'a str, DataError> {
        row.fields.get(column, &self.columns).map_err(|reason| at(&self.name, row.line, reason))
    }
}

/// How rows stand in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One JSON object a line.
    Json,
    /// Fields with this between them.
    Separated(u8),
}

impl Form {
    /// What a file's name says, or else its first line.
    pub(super) fn of(name: &str, first: &[u8]) -> Form {
        let stem = unpacked(name);
        let extension = stem.rsplit_once('.').map_or("", |(_, extension)| extension).to_ascii_lowercase();
        // What stands in quotes separates nothing: every other part is within them.
        let parts = || first.split(|&byte| byte == b'"').step_by(2);
        let has = |separator: &u8| parts().any(|part| part.contains(separator));
        let one_of = |separators: [u8; 3]| separators.into_iter().find(has).unwrap_or(b',');
        match extension.as_str() {
            "jsonl" | "ndjson" | "json" => Form::Json,
            "tsv" | "tab" => Form::Separated(b'\t'),
            // Where a comma is what others write as a point, programs write semicolons.
            "csv" => Form::Separated(one_of([b',', b';', b'\t'])),
            _ => Form::Separated(one_of([b'\t', b',', b';'])),
        }
    }
}

/// Reads a table. Names that end in `.jsonl`, `.ndjson` or `.json` hold one JSON object a line, whose inner objects are
/// columns too: `a.b`. `.tsv` holds tabs, `.csv` what its first line has: commas, or else semicolons, or else tabs; of
/// others the first line tells too, tabs before commas and semicolons. Blanks around a column's name are no part of it.
/// `.gz` after that is ignored.
///
/// # Errors
/// [`DataError`] with file and line.
pub fn read_table(document: &Document, quoting: Quoting) -> Result<Table, DataError> {
    let first = document.bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let table = match Form::of(&document.name, first) {
        Form::Json => read_json(document)?,
        Form::Separated(separator) => read_separated(document, separator, quoting)?,
    };
    if table.rows.is_empty() {
        return Err(no_rows(&document.name));
    }
    Ok(table)
}

pub(super) fn no_rows(name: &str) -> DataError {
    let reason = "it has no row below its header, expected at least one".to_owned();
    DataError::File { name: name.to_owned(), reason }
}

pub(super) fn no_header(name: &str) -> DataError {
    DataError::File { name: name.to_owned(), reason: "it is empty, expected a header and rows".to_owned() }
}

/// The place of a column of a file. `key` is the recipe's key that names it.
pub(super) fn column_of(columns: &[String], wanted: &str, key: &str, name: &str) -> Result<usize, DataError> {
    columns.iter().position(|column| column == wanted).ok_or_else(|| {
        let mut listed: Vec<String> = columns.iter().take(LISTED).map(|column| shortened(column)).collect();
        listed.extend((columns.len() > LISTED).then(|| format!("{} more", columns.len() - LISTED)));
        // Names are short, and no numbers.
        let is_data = |column: &String| column.chars().count() > SHOWN || column.parse::<f64>().is_ok();
        let is_text = !name.rsplit('/').next().unwrap_or_default().contains('.') || name.ends_with(".txt");
        let hint = match (columns.iter().any(is_data), is_text) {
            (_, true) => "; files of one text each lie in folders that name their classes",
            (true, false) => "; if its first line holds data, put one with the names of the columns above it",
            (false, false) => "",
        };
        let reason =
            format!("no column is named {wanted:?}, expected one of {}; set {key}{hint}", listed.join(", "));
        DataError::File { name: name.to_owned(), reason }
    })
}

/// Columns that a message lists.
const LISTED: usize = 20;
/// Characters of a field that a message shows.
const SHOWN: usize = 40;

/// A field as a message shows it.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Watches over quote marks on the way to a reader of records, which would take whatever comes: once a field's quotes
/// are closed, only a separator or the end of a line may follow.
pub(super) struct QuoteGuard<R> {
    from: R,
    separator: u8,
    quoting: Quoting,
    at: QuotePlace,
    /// Bytes of a mark at the beginning that have come.
    marked: usize,
    line: usize,
    /// The line on which the last quotes were opened.
    opened: usize,
}

/// Where in a record a byte is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum QuotePlace {
    /// At the beginning of a field.
    Start,
    /// In a field without quotes.
    Plain,
    /// In quotes.
    Within,
    /// Behind a quote mark that was in quotes: it closes them, or the next one makes it a character.
    Behind,
    /// In blanks behind the quotes.
    Blank,
}

impl<R: Read> Read for QuoteGuard<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        use QuotePlace::{Behind, Blank, Plain, Start, Within};
        let read = self.from.read(to)?;
        if self.quoting == Quoting::Off {
            return Ok(read);
        }
        for &byte in &to[..read] {
            if BYTE_ORDER_MARK.get(self.marked) == Some(&byte) {
                self.marked += 1;
                continue;
            }
            self.marked = BYTE_ORDER_MARK.len();
            let ends = byte == self.separator || matches!(byte, b'\n' | b'\r');
            self.at = match (self.at, byte) {
                (Within, b'"') => Behind,
                (Within, _) | (Behind, b'"') => Within,
                _ if ends => Start,
                (Start, b'"') => {
                    self.opened = self.line;
                    Within
                }
                (Start | Plain, _) => Plain,
                (Behind | Blank, b' ' | b'\t') => Blank,
                (Behind | Blank, _) => return Err(io::Error::other(StrayQuote(self.opened))),
            };
            self.line += usize::from(byte == b'\n');
        }
        Ok(read)
    }
}

/// Text follows the end of quotes that were opened on this line.
#[derive(Debug)]
struct StrayQuote(usize);

impl std::error::Error for StrayQuote {}

impl std::fmt::Display for StrayQuote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(
            "text follows a quote mark that ends a field: in quotes a quote mark is doubled; set data.quoting=false for \
             texts whose quotes mean nothing",
        )
    }
}

/// What is wrong with records, and on which line where it is another than that on which the record begins.
pub(super) fn unread(error: &csv::Error) -> (Option<usize>, String) {
    let stray = match error.kind() {
        csv::ErrorKind::Io(error) => error.get_ref().and_then(|inner| inner.downcast_ref::<StrayQuote>()),
        _ => None,
    };
    (stray.map(|stray| stray.0), stray.map_or_else(|| error.to_string(), ToString::to_string))
}

/// Reads records of fields, the header among them.
pub(super) fn records<R: Read>(from: R, separator: u8, quoting: Quoting) -> csv::Reader<QuoteGuard<R>> {
    let from = QuoteGuard { from, separator, quoting, at: QuotePlace::Start, marked: 0, line: 1, opened: 1 };
    csv::ReaderBuilder::new()
        .delimiter(separator)
        .quoting(quoting == Quoting::On)
        .flexible(true)
        .has_headers(false)
        .from_reader(from)
}

/// The fields of a record as text, or what is wrong with them.
pub(super) fn fields_of(record: &csv::ByteRecord) -> Result<Vec<String>, String> {
    let text = |field| match std::str::from_utf8(field) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err("a field is not UTF-8; convert the file to UTF-8".to_owned()),
    };
    record.iter().map(text).collect()
}

/// Whether a line between rows holds nothing.
pub(super) fn is_blank(fields: &[String], columns: &[String]) -> bool {
    columns.len() > 1 && fields.len() == 1 && fields[0].trim().is_empty()
}

/// What is wrong with a row that has another number of fields than its header.
pub(super) fn uneven(fields: &[String], expected: usize, quoting: Quoting) -> String {
    let open = quoting == Quoting::On && fields.iter().any(|field| field.contains('\n'));
    let hint = match (quoting, open) {
        (_, true) => "; a quote mark may be open: set data.quoting=false if quotes mean nothing",
        (Quoting::Off, _) => "; a field may hold a separator: quote it and set data.quoting=true",
        _ => "",
    };
    format!("{} fields, expected {expected} as in the header{hint}", fields.len())
}

fn read_separated(document: &Document, separator: u8, quoting: Quoting) -> Result<Table, DataError> {
    let name = &document.name;
    let mut reader = records(document.bytes.as_slice(), separator, quoting);
    let mut columns: Option<Vec<String>> = None;
    let mut rows = Vec::new();
    let mut record = csv::ByteRecord::new();
    let mut lines = Lines { bytes: &document.bytes, offset: 0, line: 1 };
    loop {
        let line = lines.at(reader.position().byte() as usize);
        let more = reader.read_byte_record(&mut record).map_err(|error| {
            let (elsewhere, reason) = unread(&error);
            at(name, elsewhere.unwrap_or(line), reason)
        })?;
        if !more {
            break;
        }
        let fields = fields_of(&record).map_err(|reason| at(name, line, reason))?;
        let Some(known) = &columns else {
            columns = Some(header(fields).map_err(|reason| at(name, line, reason))?);
            continue;
        };
        if is_blank(&fields, known) {
            continue;
        }
        if fields.len() != known.len() {
            return Err(at(name, line, uneven(&fields, known.len(), quoting)));
        }
        rows.push(Row { line, fields: Fields::full(fields) });
    }
    let columns = columns.ok_or_else(|| no_header(name))?;
    if let Some(row) = rows.last() {
        refuse_open_quote(&row.fields, quoting).map_err(|reason| at(name, row.line, reason))?;
    }
    Ok(Table { name: name.clone(), columns, rows })
}

/// Finds out by the last row of a table whether a quote mark swallowed the rest of it.
pub(super) fn refuse_open_quote(last: &Fields, quoting: Quoting) -> Result<(), String> {
    let long = |field: &String| field.lines().nth(100).is_some();
    match quoting == Quoting::On && last.values.iter().any(long) {
        true => {
            Err("a field of more than 100 lines; a quote mark may be open: set data.quoting=false if quotes \
                     mean nothing"
                .to_owned())
        }
        false => Ok(()),
    }
}

/// Counts lines up to a byte, from the last one it was asked for.
struct Lines<'a> {
    bytes: &'a [u8],
    offset: usize,
    line: usize,
}

impl Lines<'_> {
    /// The line of the first byte from `offset` on that ends none.
    fn at(&mut self, offset: usize) -> usize {
        let rest = self.bytes.get(offset..).unwrap_or_default();
        let blank = rest.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let passed = self.bytes.get(self.offset..offset + blank).unwrap_or_default();
        self.line += passed.iter().filter(|&&byte| byte == b'\n').count();
        self.offset = offset + blank;
        self.line
    }
}

/// The names of columns, or what is wrong with them.
pub(super) fn header(fields: Vec<String>) -> Result<Vec<String>, String> {
    let columns: Vec<String> = fields.iter().map(|field| field.trim().to_owned()).collect();
    for (place, column) in columns.iter().enumerate() {
        // A comma at the end of each line is a column without a name, and so are numbers that some programs put in
        // front of the rows; nobody can ask for them, and who takes all columns leaves them out.
        if !column.is_empty() && columns[..place].contains(column) {
            return Err(format!("column {column:?} stands twice in the header"));
        }
    }
    // Whole numbers may count columns.
    let is_number = |column: &String| column.parse::<f64>().is_ok();
    if columns.iter().all(is_number) && columns.iter().any(|column| column.parse::<i64>().is_err()) {
        let found = columns.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(", ");
        return Err(format!(
            "the first line holds numbers ({found}), expected the names of the columns above them"
        ));
    }
    Ok(columns)
}

/// The fields of a JSON object in the order of the columns, which are the keys of the first object; numbers and truth
/// values are written as JSON.
pub(super) fn object_fields(text: &[u8], columns: &mut Vec<String>) -> Result<Fields, String> {
    if text.trim_ascii_start().starts_with(b"[") {
        let wanted = "expected a JSON object a line, such as {\"text\": \"…\", \"label\": \"…\"}";
        return Err(format!("{wanted}, found a list; `jq -c '.[]'` writes one so"));
    }
    let value: Value = serde_json::from_slice(text).map_err(|error| match error.is_eof() {
        true => format!("no JSON: {error}; expected a whole object on every line, as `jq -c .` writes them"),
        false => format!("no JSON: {error}"),
    })?;
    let Value::Object(object) = value else {
        return Err("expected a JSON object, such as {\"text\": \"…\", \"label\": \"…\"}".to_owned());
    };
    if columns.is_empty() {
        name_fields(&object, "", columns);
    }
    let mut fields = Fields::full(Vec::with_capacity(columns.len()));
    for (place, column) in columns.iter().enumerate() {
        let lack = match value_of(&object, column) {
            Some(Value::String(text)) => {
                fields.values.push(text.clone());
                continue;
            }
            Some(value @ (Value::Number(_) | Value::Bool(_))) => {
                fields.values.push(value.to_string());
                continue;
            }
            Some(Value::Null) | None => Lack::Nothing,
            Some(Value::Array(_)) => Lack::Composite("a list"),
            Some(Value::Object(_)) => Lack::Composite("an object"),
        };
        fields.values.push(String::new());
        fields.lacking.push((place, lack));
    }
    Ok(fields)
}

/// The keys of an object; those of an object in it follow its own behind a point.
fn name_fields(object: &Map<String, Value>, before: &str, columns: &mut Vec<String>) {
    for (key, value) in object {
        match value {
            Value::Object(inner) => name_fields(inner, &format!("{before}{key}."), columns),
            _ => columns.push(format!("{before}{key}")),
        }
    }
}

/// What an object, or one in it, has under a column's name.
fn value_of<'a>(object: &'a Map<String, Value>, column: &str) -> Option<&'a Value> {
    object.get(column).or_else(|| {
        column.match_indices('.').find_map(|(point, _)| match object.get(&column[..point]) {
            Some(Value::Object(inner)) => value_of(inner, &column[point + 1..]),
            _ => None,
        })
    })
}

/// What some programs write before the first character of a file.
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

fn read_json(document: &Document) -> Result<Table, DataError> {
    let bytes = document.bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&document.bytes);
    let mut columns: Vec<String> = Vec::new();
    let mut rows = Vec::new();
    for (index, text) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let line = index + 1;
        if !text.iter().all(u8::is_ascii_whitespace) {
            let fields =
                object_fields(text, &mut columns).map_err(|reason| at(&document.name, line, reason))?;
            rows.push(Row { line, fields });
        }
    }
    Ok(Table { name: document.name.clone(), columns, rows })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(name: &str, bytes: &[u8], quoting: Quoting) -> Result<Table, String> {
        let document = Document { name: name.to_owned(), bytes: bytes.to_vec() };
        read_table(&document, quoting).map_err(|error| error.to_string())
    }

    #[test]
    fn every_form_gives_the_same_table() {
        let check = |name: &str, text: &str, quoting, expected: &[(usize, &[&str])]| {
            let table = read(name, text.as_bytes(), quoting).unwrap();
            let places = ["text", "label"].map(|column| table.column(column, "").unwrap());
            let fields =
                |row: &'_ Row| places.map(|place| table.field(row, place).unwrap().to_owned()).to_vec();
            let rows: Vec<(usize, Vec<String>)> = table.rows.iter().map(|r| (r.line, fields(r))).collect();
            let owned = |fields: &[&str]| fields.iter().map(|&field| field.to_owned()).collect();
            let expected: Vec<(usize, Vec<String>)> =
                expected.iter().map(|(line, fields)| (*line, owned(fields))).collect();
            assert_eq!(rows, expected, "{name}");
        };
        let two: &[(usize, &[&str])] = &[(2, &["a b", "x"]), (3, &["", "y"])];
        check("a.tsv", "text\tlabel\na b\tx\n\ty\n", Quoting::On, two);
        check("a.txt.gz", "text\tlabel\r\na b\tx\r\n\ty\r\n", Quoting::Off, two);
        check("a.csv", "\u{feff}text,label\na b,x\n,y", Quoting::On, two);
        check("a", "text,label\na b,x\n,y\n", Quoting::On, two);
        check("a.csv", "text;label\na b;x\n;y\n", Quoting::On, two);
        check("a.csv", "\"text\";\"label\"\na b;x\n;y\n", Quoting::On, two);
        check("a.csv", "text\tlabel\na b\tx\n\ty\n", Quoting::On, two);
        check(
            "a.csv",
            "text,label,,\na b,x,,\n \n,y,,\n  \n",
            Quoting::On,
            &[(2, &["a b", "x"]), (4, &["", "y"])],
        );
        check("a.csv", "\"label;,\", text ,label\n1,a b,x\n2,,y\n", Quoting::On, two);
        check(
            "a.jsonl",
            "{\"text\": \"a b\", \"label\": \"x\"}\n\n{\"label\": 3, \"text\": \"\"}\n",
            Quoting::On,
            &[(1, &["a b", "x"]), (3, &["", "3"])],
        );
        check(
            "q.csv",
            "text,label\n\"a, \"\"b\"\"\nc\",x\nd,y\n",
            Quoting::On,
            &[(2, &["a, \"b\"\nc", "x"]), (4, &["d", "y"])],
        );
        check("q.csv", "\u{feff}\"text\",label\n\"1 \"\"\",2\n", Quoting::On, &[(2, &["1 \"", "2"])]);
        check("q.csv", "text,label\r\n\"a\" ,\"x\"\r\n", Quoting::On, &[(2, &["a ", "x"])]);
        check(
            "q.tsv",
            "text\tlabel\n\"open\tx\nd\ty\n",
            Quoting::Off,
            &[(2, &["\"open", "x"]), (3, &["d", "y"])],
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let check = |name: &str, text: &[u8], quoting, expected: &str| {
            assert_eq!(read(name, text, quoting).unwrap_err(), expected);
        };
        check("a.tsv", b"", Quoting::On, "a.tsv: it is empty, expected a header and rows");
        check(
            "a.tsv",
            b"text\tlabel\n",
            Quoting::On,
            "a.tsv: it has no row below its header, expected at least one",
        );
        check("a.csv", b"a,b,a\n", Quoting::On, "a.csv:1: column \"a\" stands twice in the header");
        check("a.csv", b"a,b\n1,2\n1\n", Quoting::On, "a.csv:3: 1 fields, expected 2 as in the header");
        check(
            "a.tsv",
            b"a\tb\n\"open\t2\n1\t2\n",
            Quoting::On,
            "a.tsv:2: 1 fields, expected 2 as in the header; a quote mark may be open: set data.quoting=false \
             if quotes mean nothing",
        );
        check(
            "a.tsv",
            b"a\tb\n1\t2\n\"open\t2\n1\t2\n\"x\" y\t3\n",
            Quoting::On,
            "a.tsv:3: text follows a quote mark that ends a field: in quotes a quote mark is doubled; set \
             data.quoting=false for texts whose quotes mean nothing",
        );
        check(
            "a.csv",
            b"a,b\n\"x,y\",2\n",
            Quoting::Off,
            "a.csv:2: 3 fields, expected 2 as in the header; a field may hold a separator: quote it and set \
             data.quoting=true",
        );
        check(
            "a.csv",
            b"a,b\n1,caf\xe9\n",
            Quoting::On,
            "a.csv:2: a field is not UTF-8; convert the file to UTF-8",
        );
        check(
            "a.csv",
            b"0.5,1\n0.25,2\n",
            Quoting::On,
            "a.csv:1: the first line holds numbers (0.5, 1), expected the names of the columns above them",
        );
        check(
            "a.json",
            b"[1]\n",
            Quoting::On,
            "a.json:1: expected a JSON object a line, such as {\"text\": \"…\", \"label\": \"…\"}, found a list; \
             `jq -c '.[]'` writes one so",
        );
        check(
            "a.jsonl",
            b"{\"a\": 1\n",
            Quoting::On,
            "a.jsonl:1: no JSON: EOF while parsing an object at line 1 column 7; expected a whole object on every \
             line, as `jq -c .` writes them",
        );
    }

    #[test]
    fn a_field_that_cannot_be_read_matters_to_its_readers_alone() {
        let text = "{\"a\": {\"b\": \"x\", \"c\": null}, \"d\": [1], \"e\": 1}\n{\"a\": {\"b\": true}}\n";
        let table = read("a.jsonl", text.as_bytes(), Quoting::On).unwrap();
        let check = |row: usize, column: &str, expected: Result<&str, &str>| {
            let place = table.column(column, "").unwrap();
            let found = table.field(&table.rows[row], place).map_err(|error| error.to_string());
            assert_eq!(found, expected.map_err(str::to_owned), "{column} of row {row}");
        };
        check(0, "a.b", Ok("x"));
        check(1, "a.b", Ok("true"));
        check(0, "a.c", Err("a.jsonl:1: \"a.c\" is missing, expected it as in the first line"));
        check(0, "d", Err("a.jsonl:1: \"d\" is a list, expected text, a number, true or false"));
        check(1, "e", Err("a.jsonl:2: \"e\" is missing, expected it as in the first line"));
    }
}
