//! Texts with classes, from tables, or a file each.

use std::collections::HashSet;
use std::path::Path;

use super::classes::NO_LABEL;
use super::numbers::HOLDS_SOUND;
use super::{DataError, Document, Quoting, fails, read_table, unmarked, unpacked};

/// Which columns hold what.
#[derive(Clone, Copy, Debug)]
pub struct TextColumns<'a> {
    /// The text.
    pub text: &'a str,
    /// The class; `None` where none is wanted.
    pub label: Option<&'a str>,
    /// What keeps examples together when parts are drawn.
    pub group: Option<&'a str>,
    /// Whether fields may stand in quotes.
    pub quoting: Quoting,
}

/// A text, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextExample {
    /// The text.
    pub text: String,
    /// The name of its class; empty where none was wanted.
    pub label: String,
    /// Its group, where the table has the column.
    pub group: Option<String>,
    /// The file.
    pub file: String,
    /// The line, counted from 1.
    pub line: usize,
}

/// Whether each of some files is one text, and the folder it lies in its class: there are several folders, names end in
/// `.txt` or have no ending, and the first file does not begin like a table, with tabs or the column of texts.
pub fn are_single_texts<'a>(
    names: impl IntoIterator<Item = &'a str>,
    beginning: &[u8],
    column: &str,
) -> bool {
    let first = String::from_utf8_lossy(beginning.split(|&byte| byte == b'\n').next().unwrap_or_default());
    if names_column(&first, column) || first.contains('\t') {
        return false;
    }
    let mut folders = HashSet::new();
    for name in names.into_iter().filter(|name| !is_notice(name)) {
        let path = Path::new(unpacked(name));
        if !path.extension().is_none_or(|ending| ending.eq_ignore_ascii_case("txt")) {
            return false;
        }
        folders.insert(path.parent().and_then(Path::file_name).map(ToOwned::to_owned));
    }
    folders.len() > 1 && !folders.contains(&None)
}

/// Whether the first line of a table names a column.
pub fn names_column(first: &str, column: &str) -> bool {
    unmarked(first).split(['\t', ',', ';']).any(|name| name.trim().trim_matches('"') == column)
}

/// Whether a file tells about others.
fn is_notice(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or_default().to_lowercase();
    ["readme", "license", "licence", "copying", "notice"].iter().any(|word| file.starts_with(word))
}

fn read_single_text(document: &Document) -> Result<TextExample, DataError> {
    let text = document.text()?.trim().to_owned();
    let folder = Path::new(&document.name).parent().and_then(Path::file_name).unwrap_or_default();
    let (label, file) = (folder.to_string_lossy().into_owned(), document.name.clone());
    Ok(TextExample { text, label, group: None, file, line: 1 })
}

/// Reads the texts of tables, or of files that hold one each.
///
/// # Errors
/// [`DataError`] for a table that does not do, a column that is missing, and a label that is empty.
pub fn read_texts(documents: &[Document], columns: TextColumns<'_>) -> Result<Vec<TextExample>, DataError> {
    let names = documents.iter().map(|document| document.name.as_str());
    let beginning = documents.first().map_or(&[][..], |document| &document.bytes);
    if columns.label.is_some() && are_single_texts(names, beginning, columns.text) {
        return documents.iter().filter(|one| !is_notice(&one.name)).map(read_single_text).collect();
    }
    let mut examples = Vec::new();
    for document in documents {
        let name = document.name.to_ascii_lowercase();
        let hint = match name.rsplit('.').next() {
            Some("npy" | "npz") => "it holds numbers; set data.input=numbers",
            Some("wav") => HOLDS_SOUND,
            _ => "",
        };
        if !hint.is_empty() {
            return Err(fails(document, hint));
        }
        let table = read_table(document, columns.quoting)?;
        let text = table.column(columns.text, "data.text")?;
        let label = columns.label.map(|label| table.column(label, "data.label")).transpose()?;
        let group = columns.group.and_then(|group| table.place(group));
        for row in &table.rows {
            let field = |place: Option<usize>| place.map_or(Ok(""), |place| table.field(row, place));
            let label_found = field(label)?.trim();
            if label.is_some() && label_found.is_empty() {
                let (name, reason) = (table.name, NO_LABEL.to_owned());
                return Err(DataError::Line { name, line: row.line, reason });
            }
            examples.push(TextExample {
                text: table.field(row, text)?.to_owned(),
                label: label_found.to_owned(),
                group: group.map(|group| table.field(row, group).map(str::to_owned)).transpose()?,
                file: document.name.clone(),
                line: row.line,
            });
        }
    }
    Ok(examples)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn folders_name_the_classes_of_files_with_a_text_each() {
        let document =
            |(name, text): (&str, &str)| Document { name: name.to_owned(), bytes: text.as_bytes().to_vec() };
        let columns = TextColumns { text: "text", label: Some("label"), group: None, quoting: Quoting::On };
        let check = |files: &[(&str, &str)], expected: Result<&[(&str, &str)], &str>| {
            let documents: Vec<Document> = files.iter().copied().map(document).collect();
            let found = read_texts(&documents, columns).map_err(|error| error.to_string());
            let told: Result<Vec<(&str, &str)>, &str> = match &found {
                Ok(examples) => {
                    Ok(examples.iter().map(|one| (one.text.as_str(), one.label.as_str())).collect())
                }
                Err(error) => Err(error),
            };
            assert_eq!(told, expected.map(<[_]>::to_vec));
        };
        check(
            &[
                ("d/README", ""),
                ("d/neg/1.txt", "bad,\nvery"),
                ("d/pos/1.txt", "\u{feff}good\n"),
                ("d/pos/4", "text"),
            ],
            Ok(&[("bad,\nvery", "neg"), ("good", "pos"), ("text", "pos")]),
        );
        let hint = "; set data.text; files of one text each lie in folders that name their classes";
        let alone = format!("d/neg/1.txt: no column is named \"text\", expected one of bad{hint}");
        check(&[("d/neg/1.txt", "bad\nvery\n"), ("d/neg/2.txt", "worse\n")], Err(&alone));
        let table = "text\tlabel\na\tx\n";
        check(&[("d/a/t.txt", table), ("d/b/t.txt", table)], Ok(&[("a", "x"), ("a", "x")]));
        check(&[("a.npz", "")], Err("a.npz: it holds numbers; set data.input=numbers"));
    }
}
