//! Arrays in the formats of NumPy: one of them (`.npy`), or an archive of sequences side by side (`.npz`).

use std::io::{Cursor, Read};

use npyz::NpyFile;
use npyz::npz::NpzArchive;

use super::{DataError, Document, fails};

const NOT_FINITE: &str = "a value that is not a number, or too large for 32 bits";

/// Gives back the values of an array, made by `$made`, if they are of one of some kinds; otherwise the file. `$made`
/// stands in the code once a kind, so that one closure serves them all.
macro_rules! of_kinds {
    ($file:expr, $made:expr, $($kind:ty),+) => {{
        let file = $file;
        $(let file = match file.try_data::<$kind>() {
            Ok(data) => return data.map($made).collect(),
            Err(file) => file,
        };)+
        file
    }};
}

/// The shape of a `.npy` file and its numbers, all of them finite, row after row.
pub(super) fn array(document: &Document) -> Result<(Vec<usize>, Vec<f32>), DataError> {
    let file = NpyFile::new(Cursor::new(&document.bytes))
        .map_err(|error| fails(document, format!("no .npy file that can be read: {error}")))?;
    let (shape, values) = numbers(document, "it", file)?;
    if let Some(place) = values.iter().position(|value| !value.is_finite()) {
        let width: usize = shape.iter().skip(1).product();
        return Err(fails(document, format!("step {} has {}", place / width.max(1), NOT_FINITE)));
    }
    Ok((shape, values))
}

/// The shape of an array that messages call `what`, and its numbers, row after row.
fn numbers<R: Read>(
    document: &Document,
    what: &str,
    file: NpyFile<R>,
) -> Result<(Vec<usize>, Vec<f32>), DataError> {
    row_after_row(file, |file| floats(document, what, file))
}

/// The shape of an array and what is read of it, row after row.
fn row_after_row<R: Read, T: Clone>(
    file: NpyFile<R>,
    read: impl FnOnce(NpyFile<R>) -> Result<Vec<T>, DataError>,
) -> Result<(Vec<usize>, Vec<T>), DataError> {
    let shape: Vec<usize> = file.shape().iter().map(|&size| size as usize).collect();
    let by_column = file.order() != npyz::Order::C && shape.len() > 1;
    let values = read(file)?;
    let values = if by_column { by_rows(&shape, &values) } else { values };
    Ok((shape, values))
}

/// The numbers of an array, in the order of the file.
fn floats<R: Read>(document: &Document, what: &str, file: NpyFile<R>) -> Result<Vec<f32>, DataError> {
    let unread = |error: std::io::Error| fails(document, format!("{what} cannot be read: {error}"));
    let file = of_kinds!(file, |value| value.map_err(unread), f32);
    // A whole number of many digits is rounded.
    let file = of_kinds!(
        file,
        |value| value.map(|value| value as f32).map_err(unread),
        f64,
        i64,
        i32,
        i16,
        i8,
        u8,
        u16,
        u32,
        u64
    );
    let file = of_kinds!(file, |value| value.map(|value| f32::from(u8::from(value))).map_err(unread), bool);
    let kind = file.dtype().descr();
    let wanted = "expected float32, float64, whole numbers or bool";
    Err(fails(document, format!("{what} has numbers of kind {kind}, {wanted}")))
}

/// Values that stand column after column, as Fortran has them, row after row: in both the first place changes slowest.
fn by_rows<T: Clone>(shape: &[usize], values: &[T]) -> Vec<T> {
    // How far apart two values are in the file whose place differs by one along each axis.
    let mut strides = Vec::with_capacity(shape.len());
    let mut stride = 1;
    for size in shape {
        strides.push(stride);
        stride *= size;
    }
    let from = |place: usize| {
        let mut rest = place;
        let axes = shape.iter().zip(&strides).rev();
        axes.map(|(size, stride)| {
            let along = rest % size;
            rest /= size;
            along * stride
        })
        .sum::<usize>()
    };
    (0..values.len()).map(|place| values[from(place)].clone()).collect()
}

/// The names in an array of whole numbers, truth values or text, in the order of the file.
fn names<R: Read>(document: &Document, what: &str, file: NpyFile<R>) -> Result<Vec<String>, DataError> {
    let unread = |error: std::io::Error| fails(document, format!("{what} cannot be read: {error}"));
    let file = of_kinds!(
        file,
        |value| value.map(|value| value.to_string()).map_err(unread),
        String,
        i64,
        i32,
        u8,
        i16,
        u16,
        u32,
        i8,
        u64,
        bool
    );
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
    /// What it stays together with when parts are drawn.
    pub(super) group: Option<String>,
}

/// Reads an archive of N sequences: `x` `[N, T, I]`, or `[N, T]` of one value a step; `y`, what they are, whole numbers
/// or text; where they differ in length, `lengths` `[N]`, the steps behind which a row of `x` counts no more; and the
/// array of their groups `[N]`, where it is named and there.
///
/// # Errors
/// [`DataError::File`] that names the array, what was found and what was wanted.
pub(super) fn read_npz(
    document: &Document,
    named: Named,
    group: Option<&str>,
) -> Result<Vec<Archived>, DataError> {
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
    let (per_sequence, wanted) = match named {
        Named::None => (0, vec![0]),
        Named::Sequences => (1, vec![count]),
        Named::Steps => (time, vec![count, time]),
    };
    let (found, all) = match (named, archive.by_name("y").map_err(unread)?) {
        (Named::None, _) => (vec![0], Vec::new()),
        (_, Some(file)) => row_after_row(file, |file| names(document, "y", file))?,
        (Named::Sequences, None) => return Err(missing("y", "the class of each sequence")),
        (Named::Steps, None) => return Err(missing("y", "the label of each step")),
    };
    // A last axis of one value changes nothing.
    if found != wanted && found != [&wanted[..], &[1]].concat() {
        let reason = format!(
            "y has the shape {found:?}, expected {wanted:?}, as x has {count} sequences of {time} steps"
        );
        return Err(fails(document, reason));
    }
    let groups = match group {
        Some(name) => archive.by_name(name).map_err(unread)?.map(|file| names(document, name, file)),
        None => None,
    }
    .transpose()?;
    if let (Some(groups), Some(name)) = (&groups, group)
        && groups.len() != count
    {
        let reason = format!("{name} has {} names, expected {count}, one a sequence of x", groups.len());
        return Err(fails(document, reason));
    }
    let mut sequences = Vec::with_capacity(count);
    for (place, length) in lengths.into_iter().enumerate() {
        let values = values[place * time * width..][..length * width].to_vec();
        if let Some(wrong) = values.iter().position(|value| !value.is_finite()) {
            let reason = format!("x[{place}, {}] has {NOT_FINITE}", wrong / width);
            return Err(fails(document, reason));
        }
        let kept = if named == Named::Steps { length } else { per_sequence };
        let names = all[place * per_sequence..][..kept].to_vec();
        let group = groups.as_ref().map(|groups| groups[place].clone());
        sequences.push(Archived { values, width, names, group });
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
        archive_of(y.map(|y| (y, vec![y.len() as u64], npyz::Order::C)), lengths)
    }

    fn archive_of(y: Option<(&[i64], Vec<u64>, npyz::Order)>, lengths: Option<&[i32]>) -> Document {
        let mut writer = NpzWriter::new(Cursor::new(Vec::new()));
        let x = writer.array::<f32>("x", FileOptions::default()).unwrap();
        let mut x = x.default_dtype().shape(&[2, 3, 2]).begin_nd().unwrap();
        x.extend((0..12).map(|value| if value == 11 { f32::NAN } else { value as f32 })).unwrap();
        x.finish().unwrap();
        if let Some((y, shape, order)) = y {
            let file = writer.array::<i64>("y", FileOptions::default()).unwrap();
            let mut file = file.default_dtype().order(order).shape(&shape).begin_nd().unwrap();
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
    fn whole_numbers_and_columns_first_are_read_too() {
        fn check<T: npyz::AutoSerialize + Copy>(values: &[T], order: npyz::Order, expected: &[f32]) {
            let mut bytes = Vec::new();
            let writer = npyz::WriteOptions::new().default_dtype().order(order).shape(&[2, 3]);
            let mut writer = writer.writer(&mut bytes).begin_nd().unwrap();
            writer.extend(values.iter().copied()).unwrap();
            writer.finish().unwrap();
            let found = array(&Document { name: "a.npy".to_owned(), bytes }).unwrap();
            assert_eq!(found, (vec![2, 3], expected.to_vec()));
        }
        let rows = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0];
        check(&[0_i16, 1, 2, 3, 4, 5], npyz::Order::C, &rows);
        check(&[0_u8, 3, 1, 4, 2, 5], npyz::Order::Fortran, &rows);
        check(&[0.0_f64, 3.0, 1.0, 4.0, 2.0, 5.0], npyz::Order::Fortran, &rows);
        check(&[true, false, true, true, false, false], npyz::Order::C, &[1.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
        // Of three axes, as x of an archive has.
        let columns: Vec<f32> =
            (0..24).map(|place| (place % 2 * 12 + place / 2 % 3 * 4 + place / 6) as f32).collect();
        assert_eq!(by_rows(&[2, 3, 4], &columns), (0..24).map(|value| value as f32).collect::<Vec<f32>>());
    }

    #[test]
    fn groups_stand_in_an_array_of_their_own() {
        // The classes serve as groups here.
        let found = read_npz(&archive(Some(&[7, 8]), Some(&[1, 2])), Named::None, Some("y")).unwrap();
        assert_eq!(found.iter().map(|one| one.group.as_deref()).collect::<Vec<_>>(), [Some("7"), Some("8")]);
        let found = read_npz(&archive(None, Some(&[1, 2])), Named::None, Some("y")).unwrap();
        assert!(found.iter().all(|one| one.group.is_none()));
        let message =
            read_npz(&archive(Some(&[7]), Some(&[1, 2])), Named::None, Some("y")).unwrap_err().to_string();
        assert_eq!(message, "a.npz: y has 1 names, expected 2, one a sequence of x");
    }

    #[test]
    fn rows_are_sequences() {
        let found = read_npz(&archive(Some(&[7, 8]), Some(&[1, 2])), Named::Sequences, None).unwrap();
        let told: Vec<(&[f32], String)> =
            found.iter().map(|one| (one.values.as_slice(), one.names.join(" "))).collect();
        assert_eq!(told, [(&[0.0, 1.0][..], "7".to_owned()), (&[6.0, 7.0, 8.0, 9.0], "8".to_owned())]);
        for (y, order) in [([1, 2, 3, 4, 5, 6], npyz::Order::C), ([1, 4, 2, 5, 3, 6], npyz::Order::Fortran)] {
            let document = archive_of(Some((&y, vec![2, 3], order)), Some(&[1, 2]));
            let found = read_npz(&document, Named::Steps, None).unwrap();
            let names = (found[0].names.join(" "), found[1].names.join(" "));
            assert_eq!(names, ("1".to_owned(), "4 5".to_owned()));
        }
        let turned = archive_of(Some((&[1, 4, 2, 5, 3, 6], vec![3, 2], npyz::Order::C)), Some(&[1, 2]));
        let message = read_npz(&turned, Named::Steps, None).unwrap_err().to_string();
        assert_eq!(
            message,
            "a.npz: y has the shape [3, 2], expected [2, 3], as x has 2 sequences of 3 steps"
        );
        assert!(read_npz(&archive(None, Some(&[3, 2])), Named::None, None).unwrap()[0].names.is_empty());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |document: Document, expected: &str| {
            let message = read_npz(&document, Named::Sequences, None).unwrap_err().to_string();
            assert!(message.starts_with("a.npz: ") && message.contains(expected), "{message}");
        };
        check(Document { name: "a.npz".to_owned(), bytes: b"no".to_vec() }, "no .npz file that can be read");
        check(archive(None, None), "it has no array \"y\", expected the class of each sequence; found x");
        check(
            archive(Some(&[1]), None),
            "y has the shape [1], expected [2], as x has 2 sequences of 3 steps",
        );
        check(archive(Some(&[1, 2]), None), "x[1, 2] has a value that is not a number");
        check(archive(Some(&[1, 2]), Some(&[1])), "lengths has 1 numbers, expected 2");
        check(archive(Some(&[1, 2]), Some(&[1, 4])), "lengths[1] is 4, expected 0 to 3");
    }
}
