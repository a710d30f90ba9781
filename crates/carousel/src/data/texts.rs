//! Texts with classes, from tables.

use super::{DataError, Document, Quoting, read_table};

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

/// What is wrong with a row whose class has no name.
pub(super) const NO_LABEL: &str = "the label is empty, expected the name of a class";

/// Reads the texts of tables.
///
/// # Errors
/// [`DataError`] for a table that does not do, a column that is missing, and a label that is empty.
pub fn read_texts(documents: &[Document], columns: TextColumns<'_>) -> Result<Vec<TextExample>, DataError> {
    let mut examples = Vec::new();
    for document in documents {
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
