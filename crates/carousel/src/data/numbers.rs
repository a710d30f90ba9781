//! Sequences of numbers, with a class each or a label a step: arrays, tables, sound.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::arrays::{Archived, Named, array, read_npz};
use super::classes::NO_LABEL;
use super::sound::{SoundFeatures, read_wav};
use super::table::shortened;
use super::{DataError, Document, NamePattern, Quoting, Table, at, fails, read_table, unpacked};

/// How sequences of numbers are found in files.
#[derive(Clone, Debug, Default)]
pub struct NumberColumns<'a> {
    /// The column that tells the sequences of a table apart; `None`: each file is one sequence.
    pub id: Option<&'a str>,
    /// The column that steps are ordered by; `None`: as they stand.
    pub step: Option<&'a str>,
    /// The column of the class, or of a step's label.
    pub label: &'a str,
    /// The column, or the array of an archive, of what keeps sequences together when parts are drawn.
    pub group: Option<&'a str>,
    /// What of a file's name is its class; `None`: the folder it lies in.
    pub pattern: Option<NamePattern>,
    /// What becomes of sound, where files hold sound; `None`: they hold numbers.
    pub sound: Option<SoundFeatures>,
}

/// A sequence of numbers, and where it comes from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NumberExample {
    /// `[T, I]`.
    pub values: Vec<f32>,
    /// `I`.
    pub width: usize,
    /// What a table calls the values of a step; empty where nothing names them.
    pub columns: Arc<[String]>,
    /// The name of its class; empty where none was wanted.
    pub label: String,
    /// What it stays together with when parts are drawn, where its file says that.
    pub group: Option<String>,
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
    /// What tables there call the values of a step, in this order; empty where nothing names them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// Samples a second of sound; 0 for other numbers.
    pub rate: u32,
}

impl Scaling {
    /// Fits means and deviations over all steps.
    ///
    /// # Errors
    /// [`DataError::Line`] where an example has other values a step, or another rate, than the first.
    pub fn fit<'a>(examples: impl Iterator<Item = &'a NumberExample> + Clone) -> Result<Scaling, DataError> {
        let first = examples.clone().next();
        let (width, rate) = first.map_or((0, 0), |first| (first.width, first.rate));
        let columns = first.map_or_else(Vec::new, |first| first.columns.to_vec());
        let empty = Scaling { mean: vec![0.0; width], deviation: vec![1.0; width], columns, rate };
        let places = examples.clone().map(|example| empty.places(example)).collect::<Result<Vec<_>, _>>()?;
        let (mut sum, mut count) = (vec![0.0_f64; width], 0_usize);
        let rows = || {
            examples.clone().zip(&places).flat_map(|(example, places)| {
                let rows = example.values.chunks_exact(width.max(1));
                rows.map(move |row| (0..width).map(move |value| f64::from(row[placed(places, value)])))
            })
        };
        for row in rows() {
            sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            count += 1;
        }
        let mean: Vec<f64> = sum.iter().map(|sum| sum / count.max(1) as f64).collect();
        // The second walk keeps the digits that a difference of large sums would lose.
        let mut squares = vec![0.0_f64; width];
        for row in rows() {
            for ((square, value), mean) in squares.iter_mut().zip(row).zip(&mean) {
                *square += (value - mean).powi(2);
            }
        }
        let deviation = squares.iter().map(|square| (square / count.max(1) as f64).sqrt() as f32);
        Ok(Scaling {
            mean: mean.iter().map(|&mean| mean as f32).collect(),
            deviation: deviation.map(|value| if value > 0.0 { value } else { 1.0 }).collect(),
            ..empty
        })
    }

    /// Scales the steps of a sequence; values that have names come in the order of the training part.
    ///
    /// # Errors
    /// [`DataError::Line`] where it has other values a step, or another rate, than the training part.
    pub fn apply(&self, example: &NumberExample) -> Result<Vec<f32>, DataError> {
        let places = &self.places(example)?;
        let scaled = example.values.chunks_exact(example.width.max(1)).flat_map(|row| {
            let fitted = self.mean.iter().zip(&self.deviation).enumerate();
            fitted.map(|(value, (mean, scale))| (row[placed(places, value)] - mean) / scale)
        });
        Ok(scaled.collect())
    }

    /// Where in a step of a sequence each value stands; `None`: in order.
    fn places(&self, example: &NumberExample) -> Result<Option<Vec<usize>>, DataError> {
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
        let NumberExample { columns, .. } = example;
        // One value is the same by any name.
        if columns.is_empty() || self.columns.is_empty() || expected == 1 || columns[..] == self.columns[..] {
            return Ok(None);
        }
        let place = |name: &String| {
            columns.iter().position(|column| column == name).ok_or_else(|| {
                let strange = columns.iter().find(|column| !self.columns.contains(column));
                let found =
                    strange.map(|found| format!("; {found:?} is none of its columns")).unwrap_or_default();
                wrong(format!("column {name:?} of the training part is missing{found}"))
            })
        };
        self.columns.iter().map(place).collect::<Result<_, _>>().map(Some)
    }
}

fn placed(places: &Option<Vec<usize>>, value: usize) -> usize {
    places.as_ref().map_or(value, |places| places[value])
}

/// Reads sequences of numbers. Where `columns.sound` says what becomes of it, files are WAV files of sound. Otherwise
/// names that end in `.npy` hold an array `[T, I]` or `[T]`; `.npz` an archive of sequences: `x` `[N, T, I]` or `[N, T]`,
/// their classes `y` `[N]`, and `lengths` `[N]` where they differ; others a table whose columns are the values of a
/// step, one sequence a file, or many where `columns.id` names the column that tells them apart. The class of a file is
/// that of its column, where it has one, or what its name says, or else its folder's.
///
/// # Errors
/// [`DataError`] with file and line.
pub fn read_numbers(
    documents: &[Document],
    columns: &NumberColumns<'_>,
    labelled: bool,
) -> Result<Vec<NumberExample>, DataError> {
    let named = if labelled { Named::Sequences } else { Named::None };
    let mut examples = Vec::new();
    for document in without_notes(documents, columns) {
        for mut found in read_sequences(document, columns, named)? {
            if labelled {
                found.numbers.label = class_of(document, columns, &found)?;
            }
            examples.push(found.numbers);
        }
    }
    Ok(examples)
}

/// What is wrong with sound where something else is read.
pub(super) const HOLDS_SOUND: &str = "it holds sound; set data.input=audio";

/// The files without the lists and licences that collections of sounds have beside them.
pub(super) fn without_notes<'a>(
    documents: &'a [Document],
    columns: &NumberColumns<'_>,
) -> impl Iterator<Item = &'a Document> {
    let ends = |document: &Document, ending| unpacked(&document.name).to_ascii_lowercase().ends_with(ending);
    let has_sound = columns.sound.is_some() && documents.iter().any(|document| ends(document, ".wav"));
    documents.iter().filter(move |document| {
        let name = document.name.rsplit('/').next().unwrap_or_default();
        let is_note = !name.contains('.') || ends(document, ".md") || ends(document, ".txt");
        !(has_sound && is_note)
    })
}

/// A sequence as its file tells it.
pub(super) struct Told {
    /// The steps.
    pub(super) numbers: NumberExample,
    /// What tells it from others of its file, where a column does.
    id: Option<String>,
    /// What the file says of its classes or labels, and on which lines: of a table one a step, of an archive its one or
    /// one a step. `None`: nothing, for the file holds nothing but numbers.
    pub(super) names: Option<Vec<(usize, String)>>,
}

/// The sequences of a file, in the order in which they begin, with the names that are wanted.
pub(super) fn read_sequences(
    document: &Document,
    columns: &NumberColumns<'_>,
    named: Named,
) -> Result<Vec<Told>, DataError> {
    let name = unpacked(&document.name).to_ascii_lowercase();
    let one = |values: Vec<f32>, width: usize, rate: u32| {
        let file = document.name.clone();
        let numbers = NumberExample { values, width, file, line: 1, rate, ..NumberExample::default() };
        Ok(vec![Told { numbers, id: None, names: None }])
    };
    match (columns.sound, name.ends_with(".wav")) {
        (Some(sound), true) => {
            let (samples, rate) = read_wav(document)?;
            one(sound.of(&samples, rate), sound.width(), rate)
        }
        (Some(_), false) => Err(fails(document, "no name of a sound file, expected .wav")),
        (None, true) => Err(fails(document, HOLDS_SOUND)),
        (None, false) if name.ends_with(".npy") => {
            let (values, width) = read_npy(document)?;
            one(values, width, 0)
        }
        (None, false) if is_archive(&document.name) => {
            let told = |(place, Archived { values, width, names, group }): (usize, Archived)| {
                let (line, file) = (place + 1, document.name.clone());
                let numbers = NumberExample { values, width, group, file, line, ..NumberExample::default() };
                let names = names.into_iter().map(|name| (line, name)).collect();
                Told { numbers, id: None, names: Some(names) }
            };
            Ok(read_npz(document, named, columns.group)?.into_iter().enumerate().map(told).collect())
        }
        (None, false) => read_rows(document, columns, named),
    }
}

/// A row a step. Of the columns those are values that say nothing else.
fn read_rows(document: &Document, columns: &NumberColumns<'_>, named: Named) -> Result<Vec<Told>, DataError> {
    let table = read_table(document, Quoting::On)?;
    let id = columns.id.map(|id| table.column(id, "data.id")).transpose()?;
    let step = columns.step.map(|step| table.column(step, "data.step")).transpose()?;
    let group = columns.group.and_then(|group| table.place(group));
    let label = match (named, id) {
        // What names a file of its own may be its name, or its folder.
        (Named::None, _) | (Named::Sequences, None) => {
            let place = table.place(columns.label);
            let alike = |name: &&String| name.eq_ignore_ascii_case(columns.label);
            if let (None, None, Some(alike)) = (place, &columns.pattern, table.named().find(alike)) {
                let reason = format!(
                    "no column is named {:?}, but one is {alike:?}; set data.label={alike}, or rename it if it is no \
                     class",
                    columns.label
                );
                return Err(fails(document, reason));
            }
            place
        }
        (Named::Sequences, Some(_)) | (Named::Steps, _) => Some(table.column(columns.label, "data.label")?),
    };
    let apart = [id, step, group, label];
    let own: Vec<usize> = (0..table.columns.len())
        .filter(|&place| !apart.contains(&Some(place)) && !table.columns[place].is_empty())
        .collect();
    if own.is_empty() {
        let reason = "it has no column of values beside those of the sequence, its steps, group and label";
        return Err(fails(document, reason));
    }
    let names: Arc<[String]> = own.iter().map(|&column| table.columns[column].clone()).collect();
    // Of each sequence its rows, each with what orders it.
    let mut sequences: Vec<Vec<(f64, usize)>> = Vec::new();
    let mut known: HashMap<&str, usize> = HashMap::new();
    for (place, row) in table.rows.iter().enumerate() {
        let name = id.map_or(Ok(""), |id| table.field(row, id))?;
        let sequence = *known.entry(name).or_insert_with(|| {
            sequences.push(Vec::new());
            sequences.len() - 1
        });
        let rank = match step {
            Some(step) => {
                let text = table.field(row, step)?;
                text.trim().parse::<f64>().ok().filter(|rank| rank.is_finite()).ok_or_else(|| {
                    let reason = format!("column {:?} is {text:?}, expected a number", table.columns[step]);
                    at(&table.name, row.line, reason)
                })?
            }
            None => place as f64,
        };
        sequences[sequence].push((rank, place));
    }
    let told = |mut rows: Vec<(f64, usize)>| {
        rows.sort_by(|a, b| a.0.total_cmp(&b.0));
        if let Some(pair) = rows.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let [first, second] = [pair[0].1, pair[1].1].map(|place| table.rows[place].line);
            let reason = format!("step {} of its sequence stands on line {first} already", pair[0].0);
            return Err(at(&table.name, second, reason));
        }
        let first = rows.iter().map(|&(_, place)| place).min().unwrap_or_default();
        let id = id.map(|id| table.field(&table.rows[first], id).map(str::to_owned)).transpose()?;
        let mut numbers = NumberExample {
            values: Vec::with_capacity(rows.len() * own.len()),
            width: own.len(),
            columns: names.clone(),
            file: table.name.clone(),
            line: table.rows[first].line,
            group: group.map(|group| one_group(&table, group, &rows)).transpose()?,
            ..NumberExample::default()
        };
        let mut marks = Vec::new();
        for (_, place) in rows {
            let row = &table.rows[place];
            for &column in &own {
                let value = number(table.field(row, column)?, &table.name, row.line, &table.columns[column])?;
                numbers.values.push(value as f32);
            }
            if let (Some(label), Named::Sequences | Named::Steps) = (label, named) {
                marks.push((row.line, table.field(row, label)?.trim().to_owned()));
            }
        }
        Ok(Told { numbers, id, names: label.map(|_| marks) })
    };
    sequences.into_iter().map(told).collect()
}

/// The group of a sequence, the same in all its rows.
fn one_group(table: &Table, group: usize, rows: &[(f64, usize)]) -> Result<String, DataError> {
    let mut known: Option<(&str, usize)> = None;
    for &(_, place) in rows {
        let row = &table.rows[place];
        let found = table.field(row, group)?;
        let (first, line) = *known.get_or_insert((found, row.line));
        if found != first {
            let reason = format!(
                "its sequence is of group {found:?}, but {first:?} on line {line}; a sequence has one group"
            );
            return Err(at(&table.name, row.line, reason));
        }
    }
    Ok(known.map_or_else(String::new, |(group, _)| group.to_owned()))
}

/// The class of a sequence: what its file says of it, or its name, or its folder.
fn class_of(document: &Document, columns: &NumberColumns<'_>, told: &Told) -> Result<String, DataError> {
    if let Some(pattern) = &columns.pattern
        && columns.id.is_none()
        && !is_archive(&document.name)
    {
        return pattern.find(&document.name).map(str::to_owned);
    }
    if let Some(names) = &told.names {
        let Some((line, class)) = names.first() else { return Ok(String::new()) };
        for (other, found) in names {
            if found.is_empty() {
                return Err(at(&document.name, *other, NO_LABEL));
            }
            if found != class {
                let reason = match &told.id {
                    Some(id) => {
                        format!("sequence {id:?} has the class {found:?}, but {class:?} on line {line}")
                    }
                    None => format!(
                        "the class is {found:?}, but {class:?} on line {line} of the same sequence; data.id names the \
                         column that tells sequences apart"
                    ),
                };
                return Err(at(&document.name, *other, reason));
            }
        }
        return Ok(class.clone());
    }
    let folder = document.name.rsplit('/').nth(1).filter(|folder| !matches!(*folder, "" | "." | ".."));
    folder.map(str::to_owned).ok_or_else(|| {
        let reason =
            "it lies in no folder that names its class; set data.file_label to take it from its name";
        fails(document, reason)
    })
}

fn is_archive(name: &str) -> bool {
    unpacked(name).to_ascii_lowercase().ends_with(".npz")
}

fn read_npy(document: &Document) -> Result<(Vec<f32>, usize), DataError> {
    let (shape, values) = array(document)?;
    let width = match shape[..] {
        [_] => 1,
        [_, width] if width > 0 => width,
        _ => {
            let reason = format!(
                "its shape is {shape:?}, expected [steps, values]; many sequences stand in an .npz archive, as x of \
                 [N, T, C] and y"
            );
            return Err(fails(document, reason));
        }
    };
    Ok((values, width))
}

/// A number of a table, which a model's precision can hold.
pub(super) fn number(text: &str, name: &str, line: usize, column: &str) -> Result<f64, DataError> {
    const HOLE: &str = "; fill the hole, or leave the step out";
    let text = text.trim();
    let wrong = |what: &str, hint: &str| {
        let (column, text) = (shortened(column), shortened(text));
        Err(at(name, line, format!("column {column:?} is {text:?}, expected a {what}{hint}")))
    };
    match text.parse::<f64>() {
        Ok(value) if (value as f32).is_finite() => Ok(value),
        Ok(_) => wrong("finite number", HOLE),
        Err(_)
            if ["", "na", "n/a", "null", "none", "-", "?"].contains(&text.to_ascii_lowercase().as_str()) =>
        {
            wrong("number", HOLE)
        }
        Err(_) if text.replace(',', "").parse::<f64>().is_ok() => {
            wrong("number", "; write a point before decimals, and nothing between thousands")
        }
        Err(_) if text.split([' ', ';', '\t', '|']).all(|part| part.trim().parse::<f64>().is_ok()) => {
            wrong("number", "; columns stand apart by commas, semicolons or tabs")
        }
        Err(_) => wrong("number", ""),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn document(name: &str, text: &str) -> Document {
        Document { name: name.to_owned(), bytes: text.as_bytes().to_vec() }
    }

    fn columns<'a>(id: Option<&'a str>, step: Option<&'a str>) -> NumberColumns<'a> {
        NumberColumns { id, step, label: "label", group: Some("who"), ..NumberColumns::default() }
    }

    #[test]
    fn columns_that_say_something_else_are_no_values() {
        let check =
            |name: &str, text: &str, columns: &NumberColumns<'_>, expected: &[(&str, &str, &[f32])]| {
                let found = read_numbers(&[document(name, text)], columns, true).unwrap();
                let found: Vec<(&str, &str, &[f32])> = found
                    .iter()
                    .map(|one| {
                        (one.label.as_str(), one.group.as_deref().unwrap_or("none"), one.values.as_slice())
                    })
                    .collect();
                assert_eq!(found, expected, "{name}: {text}");
            };
        let one = &columns(None, None);
        check("up/a.csv", "x,y\n1,2\n3,4\n", one, &[("up", "none", &[1.0, 2.0, 3.0, 4.0])]);
        check("up/a.csv", ",x,label\n0,1,down\n1,3,down \n", one, &[("down", "none", &[1.0, 3.0])]);
        check("up/a.csv", "x,label\n1,down\n3,down \n", one, &[("down", "none", &[1.0, 3.0])]);
        check("a.csv", "x;label;who\n1;2;ann\n3;2;ann\n", one, &[("2", "ann", &[1.0, 3.0])]);
        let pattern = Some(NamePattern::new("data.file_label", "^(.)").unwrap());
        check("a.csv", "x,label\n1,2\n", &NumberColumns { pattern, ..one.clone() }, &[("a", "none", &[1.0])]);
        let long = "id,t,x,label,who\nu,2,1,up,ann\nv,1,5, down,bob\nu,1,3,up ,ann\n";
        let (ann, bob): (&[f32], &[f32]) = (&[3.0, 1.0], &[5.0]);
        let ordered = &columns(Some("id"), Some("t"));
        check("a.csv", long, ordered, &[("up", "ann", ann), ("down", "bob", bob)]);
        let alone = read_numbers(&[document("a.csv", "t,id,x\n2,u,1\n1,u,3\n")], ordered, false).unwrap();
        assert_eq!((alone[0].values.as_slice(), alone[0].group.as_deref()), (ann, None));
    }

    #[test]
    fn columns_go_by_their_names() {
        let read =
            |text: &str| read_numbers(&[document("a/b.csv", text)], &columns(None, None), true).unwrap();
        let (one, other) = (read("x,y\n1,10\n3,50\n"), read("y,label,x\n30,a,5\n"));
        let scaling = Scaling::fit(one.iter().chain(&other)).unwrap();
        assert_eq!(
            (&scaling.mean[..], &scaling.columns[..]),
            (&[3.0, 30.0][..], &["x".into(), "y".into()][..])
        );
        let scaled = |example: &NumberExample| {
            let values = scaling.apply(example).unwrap();
            [0, 1].map(|place| values[place] * scaling.deviation[place] + scaling.mean[place])
        };
        assert_eq!((scaled(&one[0]), scaled(&other[0])), ([1.0, 10.0], [5.0, 30.0]));
        // What has no names goes by place.
        let unnamed = NumberExample { columns: Arc::default(), ..other[0].clone() };
        assert_eq!(scaled(&unnamed), [30.0, 5.0]);
        let renamed = read("x,z\n1,2\n");
        let error = scaling.apply(&renamed[0]).unwrap_err().to_string();
        let expected =
            "a/b.csv:2: column \"y\" of the training part is missing; \"z\" is none of its columns";
        assert_eq!(error, expected);
        assert_eq!(Scaling::fit(one.iter().chain(&renamed)).unwrap_err().to_string(), expected);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |name: &str, text: &str, columns: &NumberColumns<'_>, expected: &str| {
            let error = read_numbers(&[document(name, text)], columns, true).unwrap_err().to_string();
            assert_eq!(error, expected);
        };
        let (one, long) = (&columns(None, None), &columns(Some("id"), None));
        check(
            "a.csv",
            "x\n1\n",
            one,
            "a.csv: it lies in no folder that names its class; set data.file_label to take it from its name",
        );
        check(
            "a.csv",
            "id,x,label\nu,1, \n",
            long,
            "a.csv:2: the label is empty, expected the name of a class",
        );
        check(
            "a.csv",
            "id,x,label\nu,1,a\nu,1,b\n",
            long,
            "a.csv:3: sequence \"u\" has the class \"b\", but \"a\" on line 2",
        );
        check(
            "a.csv",
            "x,label\n1,a\n2,b\n",
            one,
            "a.csv:3: the class is \"b\", but \"a\" on line 2 of the same sequence; data.id names the column that tells \
             sequences apart",
        );
        check(
            "a.csv",
            "id,x,label,who\nu,1,a,ann\nu,1,a,bob\n",
            long,
            "a.csv:3: its sequence is of group \"bob\", but \"ann\" on line 2; a sequence has one group",
        );
        check(
            "a/b.csv",
            "x y\n1 2\n",
            one,
            "a/b.csv:2: column \"x y\" is \"1 2\", expected a number; columns stand apart by commas, semicolons or tabs",
        );
        check("a/b.wav", "RIFF", one, "a/b.wav: it holds sound; set data.input=audio");
        let sound = &NumberColumns { sound: Some(SoundFeatures::LogMel), ..one.clone() };
        let noted = [("a/b.wav", "RIFF"), ("a/LICENSE", "")]
            .map(|(name, text)| Document { name: name.to_owned(), bytes: text.as_bytes().to_vec() });
        let error = read_numbers(&noted, sound, true).unwrap_err().to_string();
        assert!(error.starts_with("a/b.wav: "), "{error}");
        check("a/README.txt", "notes", sound, "a/README.txt: no name of a sound file, expected .wav");
    }
}
