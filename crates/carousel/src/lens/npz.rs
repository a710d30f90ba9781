//! Recordings as NumPy archives: `np.load("states.npz")["c_l0"]` is an array `[tokens, H]`.
//!
//! An archive is a ZIP file of `.npy` files, one after the other, while a reading gives a bit of every array at
//! a time and not in order. So each array first grows in a file of its own beside the archive; memory does not
//! grow with the text.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use flate2::Crc;

use super::read::{Reading, read};
use super::text::Text;
use crate::models::language_model::LanguageModel;
use crate::record::Series;

/// Why a recording could not be written.
#[derive(Debug, thiserror::Error)]
#[error("could not write {path}: {source}")]
pub struct NpzError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// An array of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Array {
    /// Its name: `c_l0`; the text's token ids are `tokens`.
    pub name: String,
    /// `[tokens, H]`, or `[tokens]`.
    pub shape: Vec<usize>,
}

/// Reads a text and writes what `how` keeps as `.npz`: arrays `h_l0`, `c_l0`, … of 32-bit floats `[tokens, H]`, and
/// `tokens` with the ids that were read. The file appears whole or not at all. `progress` is told the share that
/// is done.
///
/// ```
/// use burn::tensor::Device;
/// use carousel::cell::{Cell, Reset};
/// use carousel::lens::{Reading, Text, write_npz};
/// use carousel::models::language_model::LanguageModelConfig;
///
/// let model = LanguageModelConfig {
///     cell: Cell::Gru(Reset::After).into(), vocabulary: 128, embedding: 4, hidden: 8, layers: 1,
///     init: Default::default(), residual: false, tied: false, options: Default::default(), regularize: Default::default(),
///     seed: 0,
/// }
/// .init(&Device::default())?;
/// let folder = tempfile::tempdir()?;
/// let text = Text::of_characters("hello");
/// let arrays = write_npz(&model, &text, &Reading::default(), &folder.path().join("states.npz"), |_| {})?;
/// let names: Vec<&str> = arrays.iter().map(|array| array.name.as_str()).collect();
/// assert_eq!(names, ["h_l0", "r_l0", "z_l0", "n_l0", "tokens"]);
/// assert_eq!(arrays[0].shape, [5, 8]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`NpzError`] when a file cannot be written; nothing is left behind then.
pub fn write_npz(
    model: &LanguageModel,
    text: &Text,
    how: &Reading,
    path: &Path,
    mut progress: impl FnMut(f64),
) -> Result<Vec<Array>, NpzError> {
    let folder = Spill::new(path);
    let mut write = || -> io::Result<Vec<Array>> {
        fs::create_dir(&folder.path)?;
        let mut columns: Vec<Column> = Vec::new();
        let mut failed = None;
        let mut done = 0;
        read(model, text, how, |glimpse| {
            if failed.is_some() {
                return;
            }
            let mut step = || -> io::Result<()> {
                if columns.is_empty() {
                    for series in &glimpse.record.series {
                        columns.push(Column::new(&folder.path, series)?);
                    }
                }
                for (column, series) in columns.iter_mut().zip(&glimpse.record.series) {
                    for run in &glimpse.runs {
                        let rows = (0..run.tokens.len()).map(|index| glimpse.row(run, index));
                        column.write(run.tokens.start, rows, series)?;
                    }
                }
                Ok(())
            };
            failed = step().err();
            done += glimpse.runs.iter().map(|run| run.tokens.len()).sum::<usize>();
            progress(done as f64 / text.len().max(1) as f64);
        });
        if let Some(error) = failed {
            return Err(error);
        }
        let archive = folder.path.join("archive");
        let mut arrays = Vec::new();
        let mut zip = Archive { file: BufWriter::new(File::create(&archive)?), at: 0, entries: Vec::new() };
        for column in columns {
            let shape = vec![text.len(), column.units];
            let header = npy_header("<f4", &shape);
            let bytes = (text.len() * column.units * 4) as u64;
            zip.add(&column.name, &header, File::open(&column.path)?, bytes)?;
            fs::remove_file(&column.path)?;
            arrays.push(Array { name: column.name, shape });
        }
        let ids: Vec<u8> = text.tokens().iter().flat_map(|id| id.to_le_bytes()).collect();
        let shape = vec![text.len()];
        zip.add("tokens", &npy_header("<u4", &shape), &ids[..], ids.len() as u64)?;
        arrays.push(Array { name: "tokens".to_owned(), shape });
        zip.finish()?;
        fs::rename(&archive, path)?;
        Ok(arrays)
    };
    write().map_err(|source| NpzError { path: path.to_owned(), source })
}

/// The folder of arrays that are not complete yet; it goes with its owner.
struct Spill {
    path: PathBuf,
}

impl Spill {
    fn new(beside: &Path) -> Spill {
        let name = beside.file_name().unwrap_or_default().to_string_lossy();
        Spill { path: beside.with_file_name(format!(".{name}.{}", std::process::id())) }
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        // What cannot be removed any more is no reason to fail.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// An array that grows in a file.
struct Column {
    name: String,
    path: PathBuf,
    file: File,
    units: usize,
    buffer: Vec<u8>,
}

impl Column {
    fn new(folder: &Path, series: &Series) -> io::Result<Column> {
        let reverse = match series.direction {
            carousel_kernels::Direction::Forward => "",
            carousel_kernels::Direction::Reverse => "_reverse",
        };
        let name = format!("{}_l{}{reverse}", series.name, series.layer);
        let path = folder.join(&name);
        Ok(Column { file: File::create(&path)?, name, path, units: series.units, buffer: Vec::new() })
    }

    /// Rows of a window as the rows from `first` on.
    fn write(&mut self, first: usize, rows: impl Iterator<Item = usize>, series: &Series) -> io::Result<()> {
        self.buffer.clear();
        for row in rows {
            let values = &series.values[row * self.units..][..self.units];
            self.buffer.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        self.file.seek(SeekFrom::Start((first * self.units * 4) as u64))?;
        self.file.write_all(&self.buffer)
    }
}

/// The start of a `.npy` file, format 1.0.
fn npy_header(kind: &str, shape: &[usize]) -> Vec<u8> {
    let sizes: Vec<String> = shape.iter().map(|size| format!("{size},")).collect();
    let mut text = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({}), }}", sizes.join(" "));
    // Magic, version and length are 10 bytes; the whole is a multiple of 64 and ends with a line break.
    let padded = (10 + text.len() + 1).next_multiple_of(64) - 10;
    text.push_str(&" ".repeat(padded - 1 - text.len()));
    text.push('\n');
    let length = u16::try_from(text.len()).expect("a shape of two sizes is short");
    [b"\x93NUMPY\x01\x00", &length.to_le_bytes()[..], text.as_bytes()].concat()
}

/// A ZIP archive of stored files, each with 64-bit sizes.
struct Archive<W> {
    file: W,
    at: u64,
    entries: Vec<Entry>,
}

struct Entry {
    name: String,
    offset: u64,
    size: u64,
    checksum: u32,
}

/// Version 4.5, which has 64-bit sizes.
const VERSION: u16 = 45;
/// 1 January 1980, the earliest date there is: the same recording gives the same bytes.
const DATE: u16 = 0x21;

impl<W: Write + Seek> Archive<W> {
    /// Adds `NAME.npy`: its header, then `bytes` bytes of content.
    fn add(&mut self, name: &str, header: &[u8], mut content: impl Read, bytes: u64) -> io::Result<()> {
        let offset = self.at;
        let name = format!("{name}.npy");
        let size = header.len() as u64 + bytes;
        let local = |checksum: u32| -> Vec<u8> {
            let mut local = Vec::new();
            local.extend(0x0403_4b50_u32.to_le_bytes());
            fields(&mut local, &[VERSION, 0, 0, 0, DATE]);
            local.extend(checksum.to_le_bytes());
            local.extend([0xff; 8]);
            fields(&mut local, &[name.len() as u16, 20]);
            local.extend(name.as_bytes());
            fields(&mut local, &[1, 16]);
            local.extend(size.to_le_bytes());
            local.extend(size.to_le_bytes());
            local
        };
        let head = local(0);
        self.file.write_all(&head)?;
        self.file.write_all(header)?;
        let mut crc = Crc::new();
        crc.update(header);
        let mut buffer = vec![0; 1 << 16];
        let mut left = bytes;
        while left > 0 {
            let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = content.read(&mut buffer[..most])?;
            if count == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "an array is shorter than its text",
                ));
            }
            crc.update(&buffer[..count]);
            self.file.write_all(&buffer[..count])?;
            left -= count as u64;
        }
        let checksum = crc.sum();
        self.at += head.len() as u64 + size;
        // The checksum is only known now.
        self.file.seek(SeekFrom::Start(offset))?;
        self.file.write_all(&local(checksum))?;
        self.file.seek(SeekFrom::Start(self.at))?;
        self.entries.push(Entry { name, offset, size, checksum });
        Ok(())
    }

    /// Writes the directory.
    fn finish(mut self) -> io::Result<()> {
        let mut directory = Vec::new();
        for entry in &self.entries {
            directory.extend(0x0201_4b50_u32.to_le_bytes());
            fields(&mut directory, &[VERSION, VERSION, 0, 0, 0, DATE]);
            directory.extend(entry.checksum.to_le_bytes());
            directory.extend([0xff; 8]);
            fields(&mut directory, &[entry.name.len() as u16, 28, 0, 0, 0, 0, 0]);
            directory.extend([0xff; 4]);
            directory.extend(entry.name.as_bytes());
            fields(&mut directory, &[1, 24]);
            for value in [entry.size, entry.size, entry.offset] {
                directory.extend(value.to_le_bytes());
            }
        }
        let (start, count) = (self.at, self.entries.len() as u64);
        let length = directory.len() as u64;
        // The end with 64-bit numbers, the pointer to it, and the classical end that says "look there".
        directory.extend(0x0606_4b50_u32.to_le_bytes());
        directory.extend(44u64.to_le_bytes());
        fields(&mut directory, &[VERSION, VERSION, 0, 0, 0, 0]);
        for value in [count, count, length, start] {
            directory.extend(value.to_le_bytes());
        }
        directory.extend(0x0706_4b50_u32.to_le_bytes());
        directory.extend(0u32.to_le_bytes());
        directory.extend((start + length).to_le_bytes());
        directory.extend(1u32.to_le_bytes());
        directory.extend(0x0605_4b50_u32.to_le_bytes());
        fields(&mut directory, &[0, 0]);
        directory.extend([0xff; 12]);
        fields(&mut directory, &[0]);
        self.file.write_all(&directory)?;
        self.file.flush()
    }
}

fn fields(to: &mut Vec<u8>, values: &[u16]) {
    to.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}
