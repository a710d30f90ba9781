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
    /// Its group; empty where there is none.
    pub group: String,
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
        let group = columns.group.map(|group| table.column(group, "data.group")).transpose()?;
        for mut row in table.rows {
            let field = |fields: &[String], place: Option<usize>| {
                place.map(|place| fields[place].clone()).unwrap_or_default()
            };
            let (label_found, group) = (field(&row.fields, label), field(&row.fields, group));
            if label.is_some() && label_found.trim().is_empty() {
                return Err(DataError::Line {
                    name: table.name,
                    line: row.line,
                    reason: NO_LABEL.to_owned(),
                });
            }
            examples.push(TextExample {
                text: std::mem::take(&mut row.fields[text]),
                label: label_found.trim().to_owned(),
                group,
                file: document.name.clone(),
                line: row.line,
            });
        }
    }
    Ok(examples)
}
