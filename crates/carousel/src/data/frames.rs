//! Sequences of numbers with a label a step: tables, arrays and sound with their labels beside them.

use std::collections::HashMap;

use super::arrays::Named;
use super::numbers::{NumberColumns, NumberExample, Told, read_sequences, without_notes};
use super::sound::frame_middle;
use super::tagged::{NO_TAG, lines};
use super::{DataError, Document, at, fails, unpacked};

/// How the name of a file with the labels of another ends.
pub(super) const LABELS: &str = ".labels";

/// A sequence of numbers with a label a step.
#[derive(Clone, Debug, PartialEq)]
pub struct FrameExample {
    /// The steps, and where they come from.
    pub numbers: NumberExample,
    /// One label a step; none where none were wanted.
    pub tags: Vec<String>,
}

/// Reads sequences with a label a step, in files as [`read_numbers`](super::read_numbers) takes them. A table has a row a
/// step, its label in a column of its own; an archive (`.npz`) has them in `y` `[N, T]`. An array and sound have their
/// labels in a file beside them, `a.labels` for `a.npy`: a line a step, or for sound stretches of seconds, `start`, `end`
/// and label apart by tabs, outside of which a step has none.
///
/// # Errors
/// [`DataError`] with file and line.
pub fn read_frames(
    documents: &[Document],
    columns: &NumberColumns<'_>,
    labelled: bool,
) -> Result<Vec<FrameExample>, DataError> {
    let beside: HashMap<&str, &Document> =
        documents.iter().filter_map(|one| Some((unpacked(&one.name).strip_suffix(LABELS)?, one))).collect();
    let named = if labelled { Named::Steps } else { Named::None };
    let mut used = 0;
    let mut examples = Vec::new();
    for document in
        without_notes(documents, columns).filter(|document| !unpacked(&document.name).ends_with(LABELS))
    {
        let name = unpacked(&document.name);
        let stem = name.rsplit_once('.').map_or(name, |parts| parts.0);
        let marks = beside.get(stem);
        used += usize::from(marks.is_some());
        for Told { numbers, names, .. } in read_sequences(document, columns, named)? {
            let tags = match (names, marks) {
                _ if !labelled => Vec::new(),
                (Some(names), _) => {
                    let tag = |(line, name): (usize, String)| label(document, line, &name);
                    names.into_iter().map(tag).collect::<Result<Vec<_>, _>>()?
                }
                (None, Some(marks)) => read_labels(marks, &numbers)?,
                (None, None) => {
                    let reason = format!("{stem}{LABELS} with a label a step is missing beside it");
                    return Err(fails(document, reason));
                }
            };
            examples.push(FrameExample { numbers, tags });
        }
    }
    if labelled && used < beside.len() {
        let owned = |stem: &str| documents.iter().any(|one| is_beside(unpacked(&one.name), stem));
        let alone = beside.iter().filter(|(stem, _)| !owned(stem)).map(|(_, document)| document.name.clone());
        if let Some(name) = alone.min() {
            let reason = "no sequence of this name lies beside it; give the folder, or both files".to_owned();
            return Err(DataError::File { name, reason });
        }
    }
    match examples.is_empty() {
        true => {
            Err(DataError::Examples { reason: "the data has no sequence, expected at least one".to_owned() })
        }
        false => Ok(examples),
    }
}

/// Whether a file is the one whose labels are called `stem`.
fn is_beside(name: &str, stem: &str) -> bool {
    !name.ends_with(LABELS) && name.rsplit_once('.').is_some_and(|(own, _)| own == stem)
}

/// The labels of a sequence from the file beside it.
fn read_labels(document: &Document, numbers: &NumberExample) -> Result<Vec<String>, DataError> {
    let lines = lines(document)?;
    let steps = numbers.values.len() / numbers.width.max(1);
    if numbers.rate > 0 && lines.first().is_some_and(|line| line.contains('\t')) {
        return read_stretches(document, &lines, numbers.rate, steps);
    }
    if lines.len() != steps {
        let reason = format!("{} labels, expected {steps}, one a step of {}", lines.len(), numbers.file);
        return Err(fails(document, reason));
    }
    lines.iter().enumerate().map(|(place, line)| label(document, place + 1, line)).collect()
}

/// The label on a line.
pub(super) fn label(document: &Document, line: usize, text: &str) -> Result<String, DataError> {
    match text.trim() {
        "" => Err(at(&document.name, line, "the label is empty; write _ for a step without one")),
        name => Ok(name.to_owned()),
    }
}

/// Labels of stretches of seconds: a step has that of the stretch in which its middle lies.
fn read_stretches(
    document: &Document,
    lines: &[&str],
    rate: u32,
    steps: usize,
) -> Result<Vec<String>, DataError> {
    let mut tags = vec![NO_TAG.to_owned(); steps];
    let mut last = 0.0;
    for (place, text) in lines.iter().enumerate() {
        let (line, columns) = (place + 1, text.split('\t').collect::<Vec<_>>());
        let [start, end, name] = columns[..] else {
            let reason = format!("{} columns, expected start, end and label apart by tabs", columns.len());
            return Err(at(&document.name, line, reason));
        };
        let seconds = |text: &str| {
            text.trim()
                .parse::<f64>()
                .ok()
                .filter(|seconds| seconds.is_finite() && *seconds >= 0.0)
                .ok_or_else(|| {
                    at(&document.name, line, format!("{text:?} is no time, expected seconds from 0 on"))
                })
        };
        let (start, end) = (seconds(start)?, seconds(end)?);
        if end < start {
            let reason = format!("the stretch from {start} to {end} ends before it begins");
            return Err(at(&document.name, line, reason));
        }
        if start < last {
            let reason =
                format!("the stretch from {start} to {end} begins before the last one ends, at {last}");
            return Err(at(&document.name, line, reason));
        }
        last = end;
        let name = label(document, line, name)?;
        for (step, tag) in tags.iter_mut().enumerate() {
            if (start..end).contains(&frame_middle(step, rate)) {
                tag.clone_from(&name);
            }
        }
    }
    Ok(tags)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data::SoundFeatures;

    fn document(name: &str, bytes: &[u8]) -> Document {
        Document { name: name.to_owned(), bytes: bytes.to_vec() }
    }

    fn columns<'a>(id: Option<&'a str>, step: Option<&'a str>) -> NumberColumns<'a> {
        NumberColumns { id, step, label: "label", ..NumberColumns::default() }
    }

    fn of_sound() -> NumberColumns<'static> {
        NumberColumns { sound: Some(SoundFeatures::LogMel), ..columns(None, None) }
    }

    /// `[3, 2]` in the format of NumPy.
    fn npy() -> Vec<u8> {
        let mut header = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }".to_owned();
        while !(header.len() + 11).is_multiple_of(64) {
            header.push(' ');
        }
        header.push('\n');
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        (0..6).for_each(|value| bytes.extend((value as f32).to_le_bytes()));
        bytes
    }

    /// A second of sound at 8 kHz.
    fn wav() -> Vec<u8> {
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: 8000,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let mut bytes = std::io::Cursor::new(Vec::new());
        let mut writer = hound::WavWriter::new(&mut bytes, spec).unwrap();
        (0..8000).for_each(|place| writer.write_sample((place % 100) as i16).unwrap());
        writer.finalize().unwrap();
        bytes.into_inner()
    }

    #[test]
    fn every_form_is_read() {
        let check = |files: &[Document], columns: NumberColumns<'_>, expected: &[(&[f32], &str, usize)]| {
            let found = read_frames(files, &columns, true).unwrap();
            let found: Vec<(Vec<f32>, String, usize)> = found
                .into_iter()
                .map(|one| (one.numbers.values, one.tags.join(" "), one.numbers.line))
                .collect();
            let owned =
                |&(values, tags, line): &(&[f32], &str, usize)| (values.to_vec(), tags.to_owned(), line);
            assert_eq!(found, expected.iter().map(owned).collect::<Vec<_>>());
        };
        let table = document("a.csv", b"x,label,y\n1,a,2\n3,_,4\n");
        check(&[table], columns(None, None), &[(&[1.0, 2.0, 3.0, 4.0], "a _", 2)]);
        let long = document("a.csv", b"id,t,x,label\nu,1,1,a\nv,7,2,b\nu,0,3,c\nv,8,4,d\n");
        check(
            std::slice::from_ref(&long),
            columns(Some("id"), Some("t")),
            &[(&[3.0, 1.0], "c a", 2), (&[2.0, 4.0], "b d", 3)],
        );
        let plain = read_frames(&[long], &columns(Some("id"), Some("t")), false).unwrap();
        assert!(plain.iter().all(|one| one.tags.is_empty() && one.numbers.width == 1));
        check(
            &[document("d/a.labels", b"p\nq\np\n"), document("d/a.npy", &npy())],
            columns(None, None),
            &[(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], "p q p", 1)],
        );
    }

    #[test]
    fn stretches_of_seconds_label_the_frames_within() {
        let files = [document("a.wav", &wav()), document("a.labels", b"0.1\t0.5\tone\n0.5\t0.7\ttwo\n")];
        let found = read_frames(&files, &of_sound(), true).unwrap();
        let tags = &found[0].tags;
        assert_eq!(tags.len(), 98);
        // The middle of frame 9 lies at 0.1025 seconds, that of frame 48 at 0.4925.
        for (range, expected) in [(0..9, "_"), (9..49, "one"), (49..69, "two"), (69..98, "_")] {
            assert!(tags[range.clone()].iter().all(|tag| tag == expected), "{range:?}: {tags:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |files: &[Document], columns: &NumberColumns<'_>, expected: &str| {
            assert_eq!(read_frames(files, columns, true).unwrap_err().to_string(), expected);
        };
        let (plain, long, sound) = (&columns(None, None), &columns(Some("id"), Some("t")), &of_sound());
        let one = |bytes: &[u8]| [document("a.csv", bytes)];
        check(
            &one(b"x,y\n1,2\n"),
            plain,
            "a.csv: no column is named \"label\", expected one of x, y; set data.label",
        );
        check(
            &one(b"label\na\n"),
            plain,
            "a.csv: it has no column of values beside those of the sequence, its steps, group and label",
        );
        check(&one(b"x,label\n1,\n"), plain, "a.csv:2: the label is empty; write _ for a step without one");
        check(&one(b"x,label\nzero,a\n"), plain, "a.csv:2: column \"x\" is \"zero\", expected a number");
        check(
            &one(b"x,label\nnan,a\n"),
            plain,
            "a.csv:2: column \"x\" is \"nan\", expected a finite number; fill the hole, or leave the step out",
        );
        check(
            &one(b"id,t,x,label\nu,one,1,a\n"),
            long,
            "a.csv:2: column \"t\" is \"one\", expected a number",
        );
        check(
            &one(b"id,t,x,label\nu,1,1,a\nu,1,2,a\n"),
            long,
            "a.csv:3: step 1 of its sequence stands on line 2 already",
        );
        check(
            &[document("a.npy", &npy())],
            plain,
            "a.npy: a.labels with a label a step is missing beside it",
        );
        check(
            &[document("a.labels", b"p\n"), document("b.csv", b"x,label\n1,a\n")],
            plain,
            "a.labels: no sequence of this name lies beside it; give the folder, or both files",
        );
        let with = |labels: &[u8]| [document("a.npy", &npy()), document("a.labels", labels)];
        check(&with(b"p\nq\n"), plain, "a.labels: 2 labels, expected 3, one a step of a.npy");
        check(&with(b"p\n\nq\n"), plain, "a.labels:2: the label is empty; write _ for a step without one");
        check(&with(b"p\n\xff\nq\n"), plain, "a.labels:2: the line is not UTF-8; convert the file to UTF-8");
        let with = |labels: &[u8]| [document("a.wav", &wav()), document("a.labels", labels)];
        check(&with(b"0\t1\n"), sound, "a.labels:1: 2 columns, expected start, end and label apart by tabs");
        check(&with(b"0\tx\ta\n"), sound, "a.labels:1: \"x\" is no time, expected seconds from 0 on");
        check(&with(b"1\t0.5\ta\n"), sound, "a.labels:1: the stretch from 1 to 0.5 ends before it begins");
        check(
            &with(b"0\t1\ta\n0.5\t2\tb\n"),
            sound,
            "a.labels:2: the stretch from 0.5 to 2 begins before the last one ends, at 1",
        );
        check(&[], plain, "the data has no sequence, expected at least one");
    }
}
