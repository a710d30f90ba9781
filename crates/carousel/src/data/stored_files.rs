//! Files that stay where they are. A place in them is a byte, counted through all of them.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use carousel_kernels::dropout::key;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::DataError;

/// A file.
#[derive(Debug)]
struct StoredFile {
    name: String,
    path: PathBuf,
    /// Bytes of the files before it.
    first: u64,
}

/// Some files, one behind the other.
#[derive(Debug, Default)]
pub(super) struct StoredFiles {
    files: Vec<StoredFile>,
    /// Bytes of them all.
    bytes: u64,
}

impl StoredFiles {
    /// Adds a file at the end, and gives the place of its first byte.
    pub(super) fn add(&mut self, path: &Path) -> Result<u64, DataError> {
        let first = self.bytes;
        self.bytes += path.metadata().map_err(|source| unreadable(path, source))?.len();
        self.files.push(StoredFile { name: path.display().to_string(), path: path.to_owned(), first });
        Ok(first)
    }

    /// The number of the file in which a place is, and the place within it.
    pub(super) fn within(&self, place: u64) -> (usize, u64) {
        let number = self.files.partition_point(|file| file.first <= place) - 1;
        (number, place - self.files[number].first)
    }

    /// A file's name.
    pub(super) fn name(&self, number: usize) -> &str {
        &self.files[number].name
    }

    /// A file that goes on from a place within it. It is opened each time: there may be more than a system keeps open.
    pub(super) fn open(&self, number: usize, at: u64) -> Result<File, DataError> {
        let StoredFile { path, .. } = &self.files[number];
        let opened = File::open(path).and_then(|mut file| file.seek(SeekFrom::Start(at)).map(|_| file));
        opened.map_err(|source| unreadable(path, source))
    }

    /// File and line of places. Lines are counted when they are asked for: the files are walked over again.
    pub(super) fn lines(&self, places: &[u64]) -> Result<Vec<(String, usize)>, DataError> {
        let mut order: Vec<usize> = (0..places.len()).collect();
        order.sort_unstable_by_key(|&index| places[index]);
        let mut found = vec![(String::new(), 0); places.len()];
        let mut order = order.into_iter().peekable();
        for (number, StoredFile { name, first, .. }) in self.files.iter().enumerate() {
            let end = self.files.get(number + 1).map_or(u64::MAX, |next| next.first);
            if order.peek().is_none_or(|&index| places[index] >= end) {
                continue;
            }
            let mut lines = LineCounter::new(self.open(number, 0)?);
            while let Some(index) = order.next_if(|&index| places[index] < end) {
                let failed = |source| unreadable(Path::new(name), source);
                found[index] = (name.clone(), lines.at(places[index] - first).map_err(failed)?);
            }
        }
        Ok(found)
    }
}

/// What is wrong where a file cannot be read.
pub(super) fn unreadable(path: &Path, source: io::Error) -> DataError {
    DataError::Read { path: PathBuf::from(path), source }
}

/// Which of what begins at some places belongs to a sample of about `most` bytes that a seed draws; all, where there is
/// no more.
pub(super) fn sampled<I>(places: I, seed: u64, most: u64) -> impl Iterator<Item = bool>
where
    I: Iterator<Item = u64> + Clone,
{
    /// Tells the sample's random numbers from others of the same seed.
    const SAMPLING: u64 = 5;
    let (first, last) = (places.clone().min().unwrap_or(0), places.clone().max().unwrap_or(0));
    let share = most as f64 / (last - first).max(1) as f64;
    let mut random = ChaCha8Rng::seed_from_u64(key(&[seed, SAMPLING]));
    places.map(move |_| share >= 1.0 || f64::from(random.next_u32()) < share * f64::from(u32::MAX))
}

/// Counts lines up to bytes that come one after the other.
pub(super) struct LineCounter<R> {
    bytes: BufReader<R>,
    offset: u64,
    line: usize,
}

impl<R: Read> LineCounter<R> {
    pub(super) fn new(file: R) -> LineCounter<R> {
        LineCounter { bytes: BufReader::with_capacity(1 << 20, file), offset: 0, line: 1 }
    }

    /// The line of the first byte from `offset` on that ends none.
    pub(super) fn at(&mut self, offset: u64) -> io::Result<usize> {
        loop {
            let bytes = self.bytes.fill_buf()?;
            let ahead = (offset.saturating_sub(self.offset) as usize).min(bytes.len());
            let blank = bytes[ahead..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            let (passed, is_end) = (ahead + blank, bytes.is_empty());
            let is_there = passed < bytes.len();
            self.line += bytes[..passed].iter().filter(|&&byte| byte == b'\n').count();
            self.offset += passed as u64;
            self.bytes.consume(passed);
            if is_there || is_end {
                return Ok(self.line);
            }
        }
    }
}
