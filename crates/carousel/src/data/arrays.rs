//! Arrays in the formats of NumPy: one of them (`.npy`), or an archive of sequences side by side (`.npz`).

use std::io::{Cursor, Read};

use npyz::NpyFile;
use npyz::npz::NpzArchive;

use super::{DataError, Document};

fn fails(document: &Document, reason: impl Into<String>) -> DataError {
    DataError::File { name: document.name.clone(), reason: reason.into() }
}

/// The shape of a `.npy` file and its numbers, all of them finite, row after row.
pub(super) fn array(document: &Document) -> Result<(Vec<usize>, Vec<f32>), DataError> {
    let file = NpyFile::new(Cursor::new(&document.bytes))
        .map_err(|error| fails(document, format!("no .npy file that can be read: {error}")))?;
    let (shape, values) = numbers(document, "it", file)?;
    if let Some(place) = values.iter().position(|value| !value.is_finite()) {
        let width: usize = shape.iter().skip(1).product();
        return Err(fails(
            document,
            format!("step {} has a value that is not a number", place / width.max(1)),
        ));
    }
    Ok((shape, values))
}

/// The shape of an array that messages call `what`, and its numbers, row after row.
fn numbers<R: Read>(
    document: &Document,
    what: &str,
    file: NpyFile<R>,
) -> Result<(Vec<usize>, Vec<f32>), DataError> {
    let shape: Vec<usize> = file.shape().iter().map(|&size| size as usize).collect();
    if file.order() != npyz::Order::C && shape.len() > 1 {
        return Err(fails(document, format!("{what} stands column after column, expected row after row")));
    }
    let values: Result<Vec<f32>, _> = match file.try_data::<f32>() {
        Ok(data) => data.collect(),
        Err(file) => match file.try_data::<f64>() {
            Ok(data) => data.map(|value| value.map(|value| value as f32)).collect(),
            Err(file) => {
                let kind = file.dtype().descr();
                let reason = format!("{what} has numbers of kind {kind}, expected float32 or float64");
                return Err(fails(document, reason));
            }
        },
    };
    let values = values.map_err(|error| fails(document, format!("{what} cannot be read: {error}")))?;
    Ok((shape, values))
}

/// The names in an array of whole numbers or of text.
fn names<R: Read>(document: &Document, what: &str, file: NpyFile<R>) -> Result<Vec<String>, DataError> {
    let unread = |error: std::io::Error| fails(document, format!("{what} cannot be read: {error}"));
    let text = |value: Result<i64, std::io::Error>| value.map(|value| value.to_string()).map_err(unread);
    let file = match file.try_data::<String>() {
        Ok(data) => return data.map(|name| name.map_err(unread)).collect(),
        Err(file) => file,
    };
    macro_rules! whole {
        ($file:expr, $($kind:ty),+) => {{
            let file = $file;
            $(let file = match file.try_data::<$kind>() {
                Ok(data) => return data.map(|value| text(value.map(|value| value as i64))).collect(),
                Err(file) => file,
            };)+
            file
        }};
    }
    let file = whole!(file, i64, i32, u8, i16, u16, u32, i8, u64);
    let kind = file.dtype().descr();
    Err(fails(document, format!("{what} has values of kind {kind}, expected whole numbers or text")))
}

/// What `y` of an archive names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// Nothing that is wanted.
    None,
    /// Each sequence: `[N]`.
    Sequences,
    /// Each step: `[N, T]`.
    Steps,
}

/// A sequence of an archive.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Archived {
    /// `[T, I]`.
    pub(super) values: Vec<f32>,
    /// `I`.
    pub(super) width: usize,
    /// Its name, or one a step.
    pub(super) names: Vec<String>,
}

/// Reads an archive of N sequences: `x` `[N, T, I]`, or `[N, T]` of one value a step; `y`, what they are, whole numbers
/// or text; and, where they differ in length, `lengths` `[N]`, the steps behind which a row of `x` counts no more.
///
/// # Errors
/// [`DataError::File`] that names the array, what was found and what was wanted.
pub(super) fn read_npz(document: &Document, named: Named) -> Result<Vec<Archived>, DataError> {
    let unread = |error: std::io::Error| fails(document, format!("no .npz file that can be read: {error}"));
    let mut archive = NpzArchive::new(Cursor::new(&document.bytes)).map_err(unread)?;
    let mut found: Vec<String> = archive.array_names().map(str::to_owned).collect();
    found.sort();
    let missing = |name: &str, wanted: &str| {
        fails(document, format!("it has no array {name:?}, expected {wanted}; found {}", found.join(", ")))
    };
    let (shape, values) = match archive.by_name("x").map_err(unread)? {
        Some(file) => numbers(document, "x", file)?,
        None => return Err(missing("x", "sequences [N, T] or [N, T, values]")),
    };
    let (count, time, width) = match shape[..] {
        [count, time] => (count, time, 1),
        [count, time, width] if width > 0 => (count, time, width),
        _ => {
            return Err(fails(
                document,
                format!("x has the shape {shape:?}, expected [N, T] or [N, T, values]"),
            ));
        }
    };
    let lengths = match archive.by_name("lengths").map_err(unread)? {
        None => vec![time; count],
        Some(file) => {
            let lengths = names(document, "lengths", file)?;
            if lengths.len() != count {
                let reason =
                    format!("lengths has {} numbers, expected {count}, one a sequence of x", lengths.len());
                return Err(fails(document, reason));
            }
            let length = |(place, text): (usize, &String)| {
                text.parse().ok().filter(|length: &usize| *length <= time).ok_or_else(|| {
                    let reason = format!("lengths[{place}] is {text}, expected 0 to {time}, the steps of x");
                    fails(document, reason)
                })
            };
            lengths.iter().enumerate().map(length).collect::<Result<Vec<usize>, _>>()?
        }
    };
    let per_sequence = match named {
        Named::None => 0,
        Named::Sequences => 1,
        Named::Steps => time,
    };
    let all = match (named, archive.by_name("y").map_err(unread)?) {
        (Named::None, _) => Vec::new(),
        (_, Some(file)) => names(document, "y", file)?,
        (Named::Sequences, None) => return Err(missing("y", "the class of each sequence")),
        (Named::Steps, None) => return Err(missing("y", "the label of each step")),
    };
    if all.len() != count * per_sequence {
        let reason = format!(
            "y has {} names, expected {}, as x has {count} sequences of {time} steps",
            all.len(),
            count * per_sequence
        );
        return Err(fails(document, reason));
    }
    let mut sequences = Vec::with_capacity(count);
    for (place, length) in lengths.into_iter().enumerate() {
        let values = values[place * time * width..][..length * width].to_vec();
        if let Some(wrong) = values.iter().position(|value| !value.is_finite()) {
            let reason = format!("x[{place}, {}] has a value that is not a number", wrong / width);
            return Err(fails(document, reason));
        }
        let kept = if named == Named::Steps { length } else { per_sequence };
        let names = all[place * per_sequence..][..kept].to_vec();
        sequences.push(Archived { values, width, names });
    }
    Ok(sequences)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use npyz::WriterBuilder;
    use npyz::npz::NpzWriter;
    use npyz::zip::write::FileOptions;

    use super::*;

    /// `x` `[2, 3, 2]` from 0 on, the last value no number; `y` and `lengths` where they are given.
    fn archive(y: Option<&[i64]>, lengths: Option<&[i32]>) -> Document {
        let mut writer = NpzWriter::new(Cursor::new(Vec::new()));
        let x = writer.array::<f32>("x", FileOptions::default()).unwrap();
        let mut x = x.default_dtype().shape(&[2, 3, 2]).begin_nd().unwrap();
        x.extend((0..12).map(|value| if value == 11 { f32::NAN } else { value as f32 })).unwrap();
        x.finish().unwrap();
        if let Some(y) = y {
            let file = writer.array::<i64>("y", FileOptions::default()).unwrap();
            let mut file = file.default_dtype().shape(&[y.len() as u64]).begin_nd().unwrap();
            file.extend(y.iter().copied()).unwrap();
            file.finish().unwrap();
        }
        if let Some(lengths) = lengths {
            let file = writer.array::<i32>("lengths", FileOptions::default()).unwrap();
            let mut file = file.default_dtype().shape(&[lengths.len() as u64]).begin_nd().unwrap();
            file.extend(lengths.iter().copied()).unwrap();
            file.finish().unwrap();
        }
        Document { name: "a.npz".to_owned(), bytes: writer.zip_writer().finish().unwrap().into_inner() }
    }

    #[test]
    fn rows_are_sequences() {
        let found = read_npz(&archive(Some(&[7, 8]), Some(&[1, 2])), Named::Sequences).unwrap();
        let told: Vec<(&[f32], String)> =
            found.iter().map(|one| (one.values.as_slice(), one.names.join(" "))).collect();
        assert_eq!(told, [(&[0.0, 1.0][..], "7".to_owned()), (&[6.0, 7.0, 8.0, 9.0], "8".to_owned())]);
        let found = read_npz(&archive(Some(&[1, 2, 3, 4, 5, 6]), Some(&[1, 2])), Named::Steps).unwrap();
        assert_eq!((found[0].names.join(" "), found[1].names.join(" ")), ("1".to_owned(), "4 5".to_owned()));
        assert!(read_npz(&archive(None, Some(&[3, 2])), Named::None).unwrap()[0].names.is_empty());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |document: Document, expected: &str| {
            let message = read_npz(&document, Named::Sequences).unwrap_err().to_string();
            assert!(message.starts_with("a.npz: ") && message.contains(expected), "{message}");
        };
        check(Document { name: "a.npz".to_owned(), bytes: b"no".to_vec() }, "no .npz file that can be read");
        check(archive(None, None), "it has no array \"y\", expected the class of each sequence; found x");
        check(archive(Some(&[1]), None), "y has 1 names, expected 2");
        check(archive(Some(&[1, 2]), None), "x[1, 2] has a value that is not a number");
        check(archive(Some(&[1, 2]), Some(&[1])), "lengths has 1 numbers, expected 2");
        check(archive(Some(&[1, 2]), Some(&[1, 4])), "lengths[1] is 4, expected 0 to 3");
    }
}
