//! Images, or features of them, and sentences about them: a table of paths and texts.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use super::arrays::array;
use super::images::{ImageShape, is_image, read_image};
use super::numbers::NumberExample;
use super::{DataError, Document, Quoting, fails, read_table};

/// Which columns hold what.
#[derive(Clone, Copy, Debug)]
pub struct CaptionColumns<'a> {
    /// The path of the image or array, relative to the table's folder or to one of the folders in it.
    pub path: &'a str,
    /// The sentence.
    pub text: &'a str,
    /// What keeps subjects together when parts are drawn.
    pub group: Option<&'a str>,
    /// Whether fields may stand in quotes.
    pub quoting: Quoting,
}

/// What paths lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubjectKind {
    /// Images, scaled to a shape.
    Images(ImageShape),
    /// Arrays `[S, E]` of places, or `[E]` of one.
    Features,
}

/// What is written about.
#[derive(Clone, Debug, PartialEq)]
pub enum Subject {
    /// `[channels, height, width]`, from 0 to 255.
    Image(Vec<u8>),
    /// A row a place.
    Features(NumberExample),
}

/// A subject and what is written about it.
#[derive(Clone, Debug, PartialEq)]
pub struct CaptionExample {
    /// What is written about.
    pub subject: Subject,
    /// The file it lies in.
    pub path: PathBuf,
    /// The sentences, in the order of the table.
    pub texts: Vec<String>,
    /// What it stays together with when parts are drawn, where its table says that.
    pub group: Option<String>,
    /// File and line of the first sentence.
    pub place: String,
}

/// Reads tables of paths and sentences, and what the paths lead to. Rows of one path are sentences about one subject.
/// Among the documents, as of a folder that holds both, images and arrays are passed over.
///
/// # Errors
/// [`DataError`] with file and line: a column that is not there, a sentence that is empty, a path that leads to nothing
/// that can be read.
pub fn read_captions(
    documents: &[Document],
    columns: CaptionColumns<'_>,
    kind: SubjectKind,
) -> Result<Vec<CaptionExample>, DataError> {
    let mut known: HashMap<PathBuf, usize> = HashMap::new();
    let mut found: Vec<CaptionExample> = Vec::new();
    let mut lines: Vec<(&str, usize)> = Vec::new();
    for document in documents.iter().filter(|document| !is_subject(&document.name)) {
        let table = read_table(document, columns.quoting)?;
        let path = table.column(columns.path, "data.path")?;
        let text = table.column(columns.text, "data.text")?;
        let group = columns.group.and_then(|group| table.place(group));
        let folder = Path::new(&document.name).parent().unwrap_or(Path::new(""));
        let mut beside = Beside { folder, inner: None, found: HashMap::new() };
        for row in &table.rows {
            let wrong = |reason: &str| DataError::Line {
                name: table.name.clone(),
                line: row.line,
                reason: reason.to_owned(),
            };
            let (name, text) = (table.field(row, path)?.trim(), table.field(row, text)?.trim());
            if name.is_empty() {
                return Err(wrong("the path is empty, expected that of an image or array"));
            }
            if text.is_empty() {
                return Err(wrong("the caption is empty, expected a text; leave the row out"));
            }
            let name = beside.find(name).map_err(|reason| wrong(&reason))?;
            let group = group.map(|group| table.field(row, group).map(str::to_owned)).transpose()?;
            let place = *known.entry(name.clone()).or_insert_with(|| {
                let subject = Subject::Image(Vec::new());
                let place = format!("{}:{}", table.name, row.line);
                found.push(CaptionExample {
                    subject,
                    path: name,
                    texts: Vec::new(),
                    group: group.clone(),
                    place,
                });
                lines.push((&document.name, row.line));
                found.len() - 1
            });
            let first = &found[place];
            if let (Some(group), Some(known)) = (group, &first.group)
                && group != *known
            {
                let path = first.path.display();
                return Err(wrong(&format!(
                    "{path} is of group {group:?}, but {known:?} at {}; a subject has one group",
                    first.place
                )));
            }
            found[place].texts.push(text.to_owned());
        }
    }
    if found.is_empty() {
        let reason = "the data has no table of paths and captions, expected a .tsv, .csv or .jsonl file";
        return Err(DataError::Examples { reason: reason.to_owned() });
    }
    let read: Vec<Result<Subject, DataError>> = on_all_cores(&found, |one| read_subject(&one.path, kind));
    for ((example, subject), (name, line)) in found.iter_mut().zip(read).zip(lines) {
        example.subject = subject.map_err(|error| DataError::Line {
            name: name.to_owned(),
            line,
            reason: format!("{error}{}", hint(&error)),
        })?;
    }
    Ok(found)
}

/// Where what a table names lies: beside it, or in one of the folders there, as collections come.
struct Beside<'a> {
    folder: &'a Path,
    /// The folders in it, once a name is not beside the table.
    inner: Option<Vec<PathBuf>>,
    /// What has been looked for: an image has several rows.
    found: HashMap<String, PathBuf>,
}

impl Beside<'_> {
    fn find(&mut self, name: &str) -> Result<PathBuf, String> {
        if let Some(path) = self.found.get(name) {
            return Ok(path.clone());
        }
        let path = self.look_for(name)?;
        self.found.insert(name.to_owned(), path.clone());
        Ok(path)
    }

    fn look_for(&mut self, name: &str) -> Result<PathBuf, String> {
        let path = self.folder.join(name);
        if path.exists() {
            return Ok(path);
        }
        let inner = self.inner.get_or_insert_with(|| folders_in(self.folder));
        let mut found = inner.iter().map(|inner| inner.join(name)).filter(|path| path.exists());
        match (found.next(), found.next()) {
            (None, _) => Ok(path),
            (Some(one), None) => Ok(one),
            (Some(one), Some(other)) => Err(format!(
                "{name} lies in several folders, {} and {}, expected one; write the folder into the path",
                one.display(),
                other.display()
            )),
        }
    }
}

fn folders_in(folder: &Path) -> Vec<PathBuf> {
    let here = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let entries = fs::read_dir(here).into_iter().flatten().flatten();
    let mut inner: Vec<PathBuf> = entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir() || kind.is_symlink()))
        .map(|entry| folder.join(entry.file_name()))
        .filter(|path| path.is_dir())
        .collect();
    inner.sort();
    inner
}

fn hint(error: &DataError) -> &'static str {
    match error {
        DataError::Read { .. } => "; paths are relative to the table's folder, or to one in it",
        _ => "",
    }
}

/// Whether a name is that of an image or array.
#[must_use]
pub fn is_subject(name: &str) -> bool {
    is_image(name) || name.to_ascii_lowercase().ends_with(".npy")
}

/// Reads an image or an array.
///
/// # Errors
/// [`DataError`] for a file that is not there or is no such thing.
pub fn read_subject(path: &Path, kind: SubjectKind) -> Result<Subject, DataError> {
    let bytes = std::fs::read(path).map_err(|source| DataError::Read { path: path.to_owned(), source })?;
    let document = Document { name: path.display().to_string(), bytes };
    match kind {
        SubjectKind::Images(shape) => Ok(Subject::Image(read_image(&document, shape)?)),
        SubjectKind::Features => {
            let (shape, values) = array(&document)?;
            let width = match shape[..] {
                [width] | [_, width] => width,
                _ => {
                    let reason = format!("its shape is {shape:?}, expected [values] or [places, values]");
                    return Err(fails(&document, reason));
                }
            };
            if values.is_empty() {
                return Err(fails(&document, "it has no value, expected at least one"));
            }
            let file = document.name;
            Ok(Subject::Features(NumberExample { values, width, file, line: 1, ..NumberExample::default() }))
        }
    }
}

/// Calls `f` with all items on as many threads as there are cores; decoding images takes longer than reading them.
fn on_all_cores<T: Sync, R: Send>(items: &[T], f: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let share = items.len().div_ceil(cores).max(1);
    thread::scope(|scope| {
        let parts: Vec<_> =
            items.chunks(share).map(|part| scope.spawn(|| part.iter().map(&f).collect::<Vec<R>>())).collect();
        parts.into_iter().flat_map(|part| part.join().expect("a part is read without a panic")).collect()
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    const COLUMNS: CaptionColumns<'static> =
        CaptionColumns { path: "image", text: "caption", group: None, quoting: Quoting::On };
    const SHAPE: ImageShape = ImageShape { channels: 1, height: 2, width: 2 };

    fn home() -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("p")).unwrap();
        for (name, shade) in [("a.png", 7), ("b.png", 9)] {
            let image = image::GrayImage::from_pixel(2, 2, image::Luma([shade]));
            image.save(home.path().join("p").join(name)).unwrap();
        }
        fs::write(home.path().join("p/broken.png"), "no image").unwrap();
        home
    }

    fn table(home: &tempfile::TempDir, text: &str) -> Document {
        Document { name: home.path().join("t.tsv").display().to_string(), bytes: text.as_bytes().to_vec() }
    }

    #[test]
    fn rows_of_one_path_are_about_one_subject() {
        let home = home();
        let text = "image\tcaption\tby\np/a.png\tone\tx\np/b.png\ttwo\ty\np/a.png\t three \tx\n";
        let found = read_captions(&[table(&home, text)], COLUMNS, SubjectKind::Images(SHAPE)).unwrap();
        let told: Vec<(Vec<&str>, &Subject)> =
            found.iter().map(|one| (one.texts.iter().map(String::as_str).collect(), &one.subject)).collect();
        let image = |shade| Subject::Image(vec![shade; 4]);
        assert_eq!(told, [(vec!["one", "three"], &image(7)), (vec!["two"], &image(9))]);
        assert!(found[0].place.ends_with("t.tsv:2") && found[0].path.ends_with("p/a.png"));
        assert_eq!((&found[0].group, &found[1].group), (&None, &None));
        // Images may lie in a folder of their own.
        let inner = "image\tcaption\na.png\tone\n";
        let found = read_captions(&[table(&home, inner)], COLUMNS, SubjectKind::Images(SHAPE)).unwrap();
        assert!(found[0].path.ends_with("p/a.png") && found[0].subject == image(7));
        std::fs::create_dir(home.path().join("q")).unwrap();
        std::fs::copy(home.path().join("p/a.png"), home.path().join("q/a.png")).unwrap();
        let twice = read_captions(&[table(&home, inner)], COLUMNS, SubjectKind::Images(SHAPE)).unwrap_err();
        assert!(twice.to_string().contains("t.tsv:2: a.png lies in several folders"), "{twice}");
        let by = CaptionColumns { group: Some("by"), ..COLUMNS };
        let found = read_captions(&[table(&home, text)], by, SubjectKind::Images(SHAPE)).unwrap();
        assert_eq!((found[0].group.as_deref(), found[1].group.as_deref()), (Some("x"), Some("y")));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let home = home();
        let check = |text: &str, columns, expected: &str| {
            let found = read_captions(&[table(&home, text)], columns, SubjectKind::Images(SHAPE));
            let message = found.unwrap_err().to_string();
            assert!(message.contains("t.tsv:") && message.contains(expected), "{message}");
        };
        check("image\ttext\np/a.png\tx\n", COLUMNS, "no column is named \"caption\"");
        check("image\tcaption\np/a.png\t\n", COLUMNS, "t.tsv:2: the caption is empty");
        check("image\tcaption\n\tx\n", COLUMNS, "t.tsv:2: the path is empty");
        check("image\tcaption\np/a.png\tx\np/c.png\tx\n", COLUMNS, "t.tsv:3: could not read ");
        check("image\tcaption\np/c.png\tx\n", COLUMNS, "paths are relative to the table's folder");
        check("image\tcaption\np/broken.png\tx\n", COLUMNS, "p/broken.png: no PNG or JPEG image");
        let by = CaptionColumns { group: Some("by"), ..COLUMNS };
        let text = "image\tcaption\tby\np/a.png\tone\tx\np/a.png\tthree\ty\n";
        check(text, by, "t.tsv:3: ");
        let nothing = read_captions(&[], COLUMNS, SubjectKind::Features).unwrap_err().to_string();
        assert!(nothing.contains("no table"), "{nothing}");
    }
}
