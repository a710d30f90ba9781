//! Sequences of numbers with a class each: arrays, tables, sound.

use std::collections::HashMap;

use regex::Regex;
use serde::{Deserialize, Serialize};

use super::arrays::{Archived, Named, array, read_npz};
use super::sound::{SoundFeatures, read_wav};
use super::{DataError, Document, Quoting, read_table};

/// How sequences of numbers are found in files.
#[derive(Clone, Debug)]
pub struct NumberColumns<'a> {
    /// The column that tells the sequences of a table apart; `None`: each file is one sequence.
    pub id: Option<&'a str>,
    /// The column of the class, where a table holds many sequences.
    pub label: &'a str,
    /// What of a file's name is its class, by its first group; `None`: the folder it lies in.
    pub pattern: Option<Regex>,
    /// What becomes of sound.
    pub sound: SoundFeatures,
}

/// A sequence of numbers, and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct NumberExample {
    /// `[T, I]`.
    pub values: Vec<f32>,
    /// `I`.
    pub width: usize,
    /// The name of its class; empty where none was wanted.
    pub label: String,
    /// The file.
    pub file: String,
    /// The line, or the sequence of an archive, counted from 1; 1 for a file that has neither.
    pub line: usize,
    /// Samples a second of sound; 0 for other numbers. All sound of a model has one rate.
    pub rate: u32,
}

/// What is taken off each value of a step, and what the rest is divided by.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scaling {
    /// Means of the training part.
    pub mean: Vec<f32>,
    /// Standard deviations there; 1 where a value never changes.
    pub deviation: Vec<f32>,
    /// Samples a second of sound; 0 for other numbers.
    pub rate: u32,
}

impl Scaling {
    /// Fits means and deviations over all steps.
    ///
    /// # Errors
    /// [`DataError::Line`] where an example has other values a step, or another rate, than the first.
    pub fn fit<'a>(examples: impl Iterator<Item = &'a NumberExample> + Clone) -> Result<Scaling, DataError> {
        let (width, rate) = examples.clone().next().map_or((0, 0), |first| (first.width, first.rate));
        let empty = Scaling { mean: vec![0.0; width], deviation: vec![1.0; width], rate };
        examples.clone().try_for_each(|example| empty.check(example))?;
        let (mut sum, mut count) = (vec![0.0_f64; width], 0_usize);
        let rows = || examples.clone().flat_map(|example| example.values.chunks_exact(width.max(1)));
        for row in rows() {
            sum.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
            count += 1;
        }
        let mean: Vec<f64> = sum.iter().map(|sum| sum / count.max(1) as f64).collect();
        // The second walk keeps the digits that a difference of large sums would lose.
        let mut squares = vec![0.0_f64; width];
        for row in rows() {
            for ((square, &value), mean) in squares.iter_mut().zip(row).zip(&mean) {
                *square += (f64::from(value) - mean).powi(2);
            }
        }
        let deviation = squares.iter().map(|square| (square / count.max(1) as f64).sqrt() as f32);
        Ok(Scaling {
            mean: mean.iter().map(|&mean| mean as f32).collect(),
            deviation: deviation.map(|value| if value > 0.0 { value } else { 1.0 }).collect(),
            rate,
        })
    }

    /// Scales the steps of a sequence.
    ///
    /// # Errors
    /// [`DataError::Line`] where it has other values a step, or another rate, than the training part.
    pub fn apply(&self, example: &NumberExample) -> Result<Vec<f32>, DataError> {
        self.check(example)?;
        let scaled = example.values.chunks_exact(example.width.max(1)).flat_map(|row| {
            let fitted = self.mean.iter().zip(&self.deviation);
            row.iter().zip(fitted).map(|(&value, (mean, scale))| (value - mean) / scale)
        });
        Ok(scaled.collect())
    }

    fn check(&self, example: &NumberExample) -> Result<(), DataError> {
        let wrong =
            |reason: String| DataError::Line { name: example.file.clone(), line: example.line, reason };
        let expected = self.mean.len();
        if example.width != expected {
            let found = example.width;
            return Err(wrong(format!("{found} values a step, expected {expected} as in the training part")));
        }
        if example.rate != self.rate {
            let reason = format!(
                "{} samples a second, expected {} as in the training part; resample it",
                example.rate, self.rate
            );
            return Err(wrong(reason));
        }
        Ok(())
    }
}

/// Reads sequences of numbers. Names that end in `.wav` hold sound, of which features are made; `.npy` an array
/// `[T, I]` or `[T]`; `.npz` an archive of sequences: `x` `[N, T, I]` or `[N, T]`, their classes `y` `[N]`, and
/// `lengths` `[N]` where they differ; others a table whose columns are the values of a step, one sequence a file, or many
/// where `columns.id` names the column that tells them apart.
///
/// # Errors
/// [`DataError`] with file and line.
pub fn read_numbers(
    documents: &[Document],
    columns: &NumberColumns<'_>,
    labelled: bool,
) -> Result<Vec<NumberExample>, DataError> {
    let mut examples: Vec<NumberExample> = Vec::new();
    for document in documents {
        let name = document.name.strip_suffix(".gz").unwrap_or(&document.name).to_ascii_lowercase();
        let mut one = |values: Vec<f32>, width: usize, rate: u32| -> Result<(), DataError> {
            let label = if labelled { label_of(document, columns.pattern.as_ref())? } else { String::new() };
            let file = document.name.clone();
            examples.push(NumberExample { values, width, label, file, line: 1, rate });
            Ok(())
        };
        if name.ends_with(".wav") {
            let (samples, rate) = read_wav(document)?;
            one(columns.sound.of(&samples, rate), columns.sound.width(), rate)?;
        } else if name.ends_with(".npy") {
            let (values, width) = read_npy(document)?;
            one(values, width, 0)?;
        } else if name.ends_with(".npz") {
            let named = if labelled { Named::Sequences } else { Named::None };
            for (place, Archived { values, width, names }) in
                read_npz(document, named)?.into_iter().enumerate()
            {
                let (label, file) = (names.concat(), document.name.clone());
                examples.push(NumberExample { values, width, label, file, line: place + 1, rate: 0 });
            }
        } else if columns.id.is_none() {
            let (values, width) = read_steps(document)?;
            one(values, width, 0)?;
        } else {
            read_long(document, columns, labelled, &mut examples)?;
        }
    }
    Ok(examples)
}

fn fails(document: &Document, reason: impl Into<String>) -> DataError {
    DataError::File { name: document.name.clone(), reason: reason.into() }
}

fn label_of(document: &Document, pattern: Option<&Regex>) -> Result<String, DataError> {
    let parts: Vec<&str> = document.name.split('/').collect();
    let (name, folder) = (parts[parts.len() - 1], parts.iter().rev().nth(1).copied());
    match pattern {
        Some(pattern) => pattern
            .captures(name)
            .and_then(|found| found.get(1))
            .map(|group| group.as_str().to_owned())
            .ok_or_else(|| {
                fails(document, format!("data.file_label {:?} does not match its name", pattern.as_str()))
            }),
        None => {
            folder.filter(|folder| !matches!(*folder, "" | "." | "..")).map(str::to_owned).ok_or_else(|| {
                fails(
                    document,
                    "it lies in no folder that names its class; set data.file_label to take it from its name",
                )
            })
        }
    }
}

fn read_npy(document: &Document) -> Result<(Vec<f32>, usize), DataError> {
    let (shape, values) = array(document)?;
    let width = match shape[..] {
        [_] => 1,
        [_, width] if width > 0 => width,
        _ => return Err(fails(document, format!("its shape is {shape:?}, expected [steps, values]"))),
    };
    Ok((values, width))
}

/// A number of a table, which a model's precision can hold.
pub(super) fn number(text: &str, name: &str, line: usize, column: &str) -> Result<f64, DataError> {
    let wrong = |what: &str| DataError::Line {
        name: name.to_owned(),
        line,
        reason: format!("column {column:?} is {text:?}, {what}"),
    };
    match text.trim().parse::<f64>() {
        Ok(value) if (value as f32).is_finite() => Ok(value),
        Ok(_) => Err(wrong("expected a finite number; fill the hole, or leave the step out")),
        Err(_) => Err(wrong("expected a number")),
    }
}

fn read_steps(document: &Document) -> Result<(Vec<f32>, usize), DataError> {
    let table = read_table(document, Quoting::On)?;
    let mut values = Vec::with_capacity(table.rows.len() * table.columns.len());
    for row in &table.rows {
        for (text, column) in row.fields.iter().zip(&table.columns) {
            values.push(number(text, &table.name, row.line, column)? as f32);
        }
    }
    Ok((values, table.columns.len()))
}

/// A row a step, sequences told apart by a column. Steps are read in the order in which they stand.
fn read_long(
    document: &Document,
    columns: &NumberColumns<'_>,
    labelled: bool,
    examples: &mut Vec<NumberExample>,
) -> Result<(), DataError> {
    let table = read_table(document, Quoting::On)?;
    let id = table.column(columns.id.unwrap_or_default(), "data.id")?;
    let label = if labelled { Some(table.column(columns.label, "data.label")?) } else { None };
    let own: Vec<usize> = (0..table.columns.len())
        .filter(|&place| place != id && table.columns[place] != columns.label)
        .collect();
    if own.is_empty() {
        return Err(fails(document, "it has no column of values beside those of the sequence and its class"));
    }
    let mut known: HashMap<String, usize> = HashMap::new();
    for row in &table.rows {
        let place = *known.entry(row.fields[id].clone()).or_insert_with(|| {
            examples.push(NumberExample {
                values: Vec::new(),
                width: own.len(),
                label: label.map(|label| row.fields[label].clone()).unwrap_or_default(),
                file: table.name.clone(),
                line: row.line,
                rate: 0,
            });
            examples.len() - 1
        });
        if let Some(label) = label
            && examples[place].label != row.fields[label]
        {
            return Err(DataError::Line {
                name: table.name.clone(),
                line: row.line,
                reason: format!(
                    "sequence {:?} has the class {:?}, but {:?} on line {}",
                    row.fields[id], row.fields[label], examples[place].label, examples[place].line
                ),
            });
        }
        for &column in &own {
            let value = number(&row.fields[column], &table.name, row.line, &table.columns[column])?;
            examples[place].values.push(value as f32);
        }
    }
    Ok(())
}
