//! Text that is too large to be held: it stays in its files, and what is needed of it is read from there.
//!
//! One walk over the files remembers where every few thousandth token begins. From then on tokens are read from the
//! nearest of these places before them, and the blocks that were read last are kept.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::fmt::Debug;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use carousel_kernels::dropout::key;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::corpus::share_of;
use super::tokenizer::unmarked;
use super::{Corpus, DataError, Document, FirstFailure, Limits, Tokenizer, Tokens, Vocab};

/// Tokens of a block, at least.
const BLOCK: usize = 4096;
/// Blocks that are kept.
const KEPT: usize = 2048;
/// Bytes that are read at once while a file is walked over.
const CHUNK: usize = 1 << 20;
/// Bytes of a sample.
pub(super) const SAMPLE: u64 = 100 << 20;
/// Bytes of each of its pieces.
const PIECE: u64 = 1 << 20;
/// Tells the sample's random numbers from others of the same seed.
const SAMPLING: u64 = 4;

/// All documents as one row of tokens, wherever they are.
pub trait TokenRow: Debug {
    /// Tokens.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where documents start: ascending, the first is 0. Empty when there are no tokens.
    fn document_starts(&self) -> &[usize];

    /// Some tokens. Where they cannot be read they are zeros, and [`failure`](TokenRow::failure) says why.
    ///
    /// # Panics
    /// When the range goes beyond the last token.
    fn read(&self, range: Range<usize>) -> Cow<'_, [u32]>;

    /// Why tokens could not be read, once.
    fn failure(&self) -> Option<DataError> {
        None
    }

    /// Whether a token is followed by another of its document.
    fn predicts(&self) -> bool {
        let starts = self.document_starts();
        let ends = starts.iter().skip(1).copied().chain([self.len()]);
        starts.iter().zip(ends).any(|(start, end)| end - start > 1)
    }
}

impl TokenRow for Corpus {
    fn len(&self) -> usize {
        self.tokens.len()
    }

    fn document_starts(&self) -> &[usize] {
        &self.document_starts
    }

    fn read(&self, range: Range<usize>) -> Cow<'_, [u32]> {
        Cow::Borrowed(&self.tokens[range])
    }
}

/// A place in a file where a token begins.
#[derive(Clone, Copy, Debug)]
struct Block {
    file: usize,
    offset: u64,
    /// How many tokens stand before it, in all files.
    first: usize,
}

#[derive(Debug)]
struct Source {
    name: String,
    file: Mutex<File>,
    size: u64,
}

/// What the parts of one text share.
#[derive(Debug)]
struct Shared {
    sources: Vec<Source>,
    blocks: Vec<Block>,
    tokens: usize,
    tokenizer: Tokenizer,
    kept: Mutex<Kept>,
    failure: FirstFailure,
}

/// The blocks that were read last, by number; the oldest goes first.
#[derive(Debug, Default)]
struct Kept {
    blocks: HashMap<usize, Arc<Vec<u32>>>,
    order: VecDeque<usize>,
}

/// A text in files as one row of tokens, or a part of one.
#[derive(Clone, Debug)]
pub struct StoredCorpus {
    shared: Arc<Shared>,
    range: Range<usize>,
    document_starts: Vec<usize>,
}

/// The files that paths stand for, in the order of [`read_documents`](super::read_documents), and their bytes in all,
/// of which a pipe has none.
///
/// # Errors
/// As [`read_documents`](super::read_documents).
pub fn list_files(paths: &[PathBuf]) -> Result<(Vec<PathBuf>, u64), DataError> {
    let mut files = Vec::new();
    let mut total = 0;
    for path in paths {
        let inside = if path.is_dir() { super::corpus::files_below(path)? } else { vec![path.clone()] };
        let before = files.len();
        for file in inside {
            let told = file.metadata().map_err(|source| DataError::Read { path: file.clone(), source })?;
            // What a pipe holds is known once it has been read.
            if told.len() > 0 || !told.is_file() {
                total += told.len();
                files.push(file);
            }
        }
        if files.len() == before {
            return Err(DataError::Empty { path: path.clone() });
        }
    }
    Ok((files, total))
}

impl StoredCorpus {
    /// Walks over files and remembers where blocks of tokens begin. Each file is a document.
    ///
    /// # Errors
    /// [`DataError::Read`], or [`DataError::InvalidUtf8`] for all tokens but bytes.
    pub fn index(files: &[PathBuf], tokenizer: &Tokenizer) -> Result<StoredCorpus, DataError> {
        let mut shared = Shared {
            sources: Vec::new(),
            blocks: Vec::new(),
            tokens: 0,
            tokenizer: tokenizer.clone(),
            kept: Mutex::default(),
            failure: FirstFailure::default(),
        };
        let mut document_starts = Vec::new();
        for path in files {
            let failed = |source| DataError::Read { path: path.clone(), source };
            let mut file = File::open(path).map_err(failed)?;
            let size = file.metadata().map_err(failed)?.len();
            let name = path.display().to_string();
            let first = shared.tokens;
            let number = shared.sources.len();
            if tokenizer.vocab().tokens() == Tokens::Byte {
                // A byte's place is its number: nothing is to be read.
                let offsets = (0..size).step_by(BLOCK);
                let block = |offset| Block { file: number, offset, first: first + offset as usize };
                shared.blocks.extend(offsets.map(block));
                shared.tokens += size as usize;
            } else {
                let mut walk =
                    Walk { blocks: &mut shared.blocks, tokens: first, tokenizer, file: number, open: None };
                walk.file(&mut file, path, &name)?;
                shared.tokens = walk.tokens;
            }
            if shared.tokens > first {
                document_starts.push(first);
            }
            shared.sources.push(Source { name, file: Mutex::new(file), size });
        }
        let range = 0..shared.tokens;
        Ok(StoredCorpus { shared: Arc::new(shared), range, document_starts })
    }

    /// As [`Corpus::split`]; nothing is copied.
    #[must_use]
    pub fn split(&self, fractions: [f64; 3]) -> [StoredCorpus; 3] {
        let [first, second] = super::corpus::cuts(self.len(), fractions);
        [0..first, first..second, second..self.len()].map(|range| self.part(range))
    }

    fn part(&self, range: Range<usize>) -> StoredCorpus {
        let document_starts = super::corpus::starts_within(&self.document_starts, &range);
        let range = self.range.start + range.start..self.range.start + range.end;
        StoredCorpus { shared: self.shared.clone(), range, document_starts }
    }
}

impl TokenRow for StoredCorpus {
    fn len(&self) -> usize {
        self.range.len()
    }

    fn document_starts(&self) -> &[usize] {
        &self.document_starts
    }

    fn read(&self, range: Range<usize>) -> Cow<'_, [u32]> {
        let range = self.range.start + range.start..self.range.start + range.end;
        assert!(range.end <= self.range.end, "tokens {range:?} of {:?}", self.range);
        let mut tokens = Vec::with_capacity(range.len());
        let mut number = self.shared.blocks.partition_point(|block| block.first <= range.start) - 1;
        while tokens.len() < range.len() {
            let at = range.start + tokens.len() - self.shared.blocks[number].first;
            let wanted = range.len() - tokens.len();
            match self.shared.block(number) {
                Ok(block) => tokens.extend(block[at..].iter().take(wanted)),
                Err(error) => {
                    self.shared.failure.keep(error);
                    tokens.resize(range.len(), 0);
                }
            }
            number += 1;
        }
        Cow::Owned(tokens)
    }

    fn failure(&self) -> Option<DataError> {
        self.shared.failure.take()
    }
}

impl Shared {
    /// The tokens of a block.
    fn block(&self, number: usize) -> Result<Arc<Vec<u32>>, DataError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(block) = kept.blocks.get(&number) {
            return Ok(block.clone());
        }
        let tokens = Arc::new(self.read_block(number)?);
        if kept.order.len() == KEPT
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.blocks.remove(&oldest);
        }
        kept.order.push_back(number);
        kept.blocks.insert(number, tokens.clone());
        Ok(tokens)
    }

    fn read_block(&self, number: usize) -> Result<Vec<u32>, DataError> {
        let Block { file, offset, first } = self.blocks[number];
        let source = &self.sources[file];
        let next = self.blocks.get(number + 1);
        let end = next.filter(|next| next.file == file).map_or(source.size, |next| next.offset);
        let expected = next.map_or(self.tokens, |next| next.first) - first;
        let mut bytes = vec![0; (end - offset) as usize];
        {
            let mut file = source.file.lock().unwrap_or_else(PoisonError::into_inner);
            let read = file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(&mut bytes));
            read.map_err(|error| DataError::Read { path: PathBuf::from(&source.name), source: error })?;
        }
        let tokenizer = &self.tokenizer;
        let changed = || changed(&source.name);
        let tokens = match tokenizer.vocab().tokens() {
            Tokens::Byte => bytes.iter().copied().map(u32::from).collect(),
            kind => {
                let text = std::str::from_utf8(&bytes).map_err(|_| changed())?;
                let mut tokens = tokenizer.encode(text);
                if kind == Tokens::Word && end == source.size && !text.ends_with('\n') {
                    tokens.push(tokenizer.end_of_line());
                }
                tokens
            }
        };
        if tokens.len() == expected { Ok(tokens) } else { Err(changed()) }
    }
}

/// A walk over a file.
struct Walk<'a> {
    blocks: &'a mut Vec<Block>,
    /// Tokens so far, in all files.
    tokens: usize,
    tokenizer: &'a Tokenizer,
    file: usize,
    /// Tokens when the last block began; `None` before the first.
    open: Option<usize>,
}

impl Walk<'_> {
    fn file(&mut self, file: &mut File, path: &Path, name: &str) -> Result<(), DataError> {
        let kind = self.tokenizer.vocab().tokens();
        let mut last = None;
        in_pieces(file, path, kind, &mut |offset, bytes| {
            let text = std::str::from_utf8(bytes).map_err(|error| DataError::InvalidUtf8 {
                name: name.to_owned(),
                offset: offset as usize + error.valid_up_to(),
                tokens: kind,
            })?;
            let marked = if offset == 0 { text.len() - unmarked(text).len() } else { 0 };
            let text = &text[marked..];
            last = text.bytes().last().or(last);
            self.text(kind, offset + marked as u64, text);
            Ok(())
        })?;
        if kind == Tokens::Word && last.is_some_and(|last| last != b'\n') {
            self.tokens += 1;
        }
        Ok(())
    }

    /// Goes over a text that begins and ends where blocks may.
    fn text(&mut self, kind: Tokens, offset: u64, text: &str) {
        if kind == Tokens::Char {
            for (at, _) in text.char_indices() {
                self.may_begin(offset + at as u64);
                self.tokens += 1;
            }
            return;
        }
        let mut at = offset;
        for line in text.split_inclusive('\n') {
            self.may_begin(at);
            self.tokens += self.tokenizer.count(line);
            at += line.len() as u64;
        }
    }

    fn may_begin(&mut self, offset: u64) {
        if self.open.is_none_or(|open| self.tokens - open >= BLOCK) {
            self.blocks.push(Block { file: self.file, offset, first: self.tokens });
            self.open = Some(self.tokens);
        }
    }
}

/// What is wrong with a file that is not what it was when it was indexed.
pub(super) fn changed(name: &str) -> DataError {
    let reason = "it changed while it was read; leave it alone during a run, and resume".to_owned();
    DataError::File { name: name.to_owned(), reason }
}

/// What a piece of a file is handed to, with its place.
type Take<'a> = &'a mut dyn FnMut(u64, &[u8]) -> Result<(), DataError>;

/// Hands on a file in pieces with their places, each cut where characters, or lines, begin. The last one ends where
/// the file does.
fn in_pieces(file: &mut File, path: &Path, kind: Tokens, take: Take<'_>) -> Result<(), DataError> {
    let (mut held, mut offset) = (Vec::new(), 0);
    loop {
        let read = io::Read::by_ref(file).take(CHUNK as u64).read_to_end(&mut held);
        let read = read.map_err(|source| DataError::Read { path: path.to_owned(), source })?;
        let end = match kind {
            _ if read == 0 => held.len(),
            Tokens::Byte => held.len(),
            // The character that is cut off begins at most three bytes before the end.
            Tokens::Char => {
                let start = held.iter().rev().take(4).position(|byte| byte & 0xc0 != 0x80);
                start.map_or(held.len(), |back| held.len() - 1 - back)
            }
            Tokens::Word | Tokens::Bpe => held.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1),
        };
        if end > 0 {
            take(offset, &held[..end])?;
            offset += end as u64;
            held.drain(..end);
        }
        if read == 0 {
            return Ok(());
        }
    }
}

/// Builds a vocabulary from a sample of files: 100 MB of the first `limits.share` of their bytes, in pieces of a
/// megabyte that a seed draws, or all of that share where it is smaller.
///
/// # Errors
/// [`DataError::Read`], or [`DataError::InvalidUtf8`] for all tokens but bytes.
pub fn sampled_vocab(
    tokens: Tokens,
    files: &[PathBuf],
    limits: Limits,
    seed: u64,
) -> Result<Vocab, DataError> {
    let mut documents = Vec::new();
    if tokens != Tokens::Byte {
        let sizes = files.iter().map(|path| {
            path.metadata()
                .map(|metadata| metadata.len())
                .map_err(|source| DataError::Read { path: path.clone(), source })
        });
        let sizes = sizes.collect::<Result<Vec<u64>, DataError>>()?;
        let share = share_of(sizes.iter().sum::<u64>() as usize, limits.share) as u64;
        for (path, range) in sampled(files, &sizes, share, seed) {
            documents.push(piece(path, range)?);
        }
    }
    Vocab::build(tokens, &documents, Limits { share: 1.0, ..limits })
}

/// Which bytes of which files are looked at, in their order.
fn sampled<'a>(files: &'a [PathBuf], sizes: &[u64], share: u64, seed: u64) -> Vec<(&'a Path, Range<u64>)> {
    let mut left = share;
    let mut pieces: Vec<(usize, Range<u64>)> = Vec::new();
    let step = if share > SAMPLE { PIECE } else { SAMPLE };
    for (file, &size) in sizes.iter().enumerate() {
        let size = size.min(left);
        left -= size;
        pieces.extend((0..size).step_by(step as usize).map(|from| (file, from..(from + step).min(size))));
    }
    if share > SAMPLE {
        let wanted = (SAMPLE / PIECE) as usize;
        let mut random = ChaCha8Rng::seed_from_u64(key(&[seed, SAMPLING]));
        for place in 0..wanted {
            // The first places of a shuffle (Fisher and Yates).
            let other = place + (random.next_u64() % (pieces.len() - place) as u64) as usize;
            pieces.swap(place, other);
        }
        pieces.truncate(wanted);
        pieces.sort_by_key(|(file, range)| (*file, range.start));
    }
    pieces.into_iter().map(|(file, range)| (files[file].as_path(), range)).collect()
}

/// Some bytes of a file as text. At an edge inside the file the line that is cut off is left out; where there is no
/// other, the character.
fn piece(path: &Path, range: Range<u64>) -> Result<Document, DataError> {
    let failed = |source| DataError::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    file.seek(SeekFrom::Start(range.start)).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(range.end - range.start).read_to_end(&mut bytes).map_err(failed)?;
    let continues = |byte: &&u8| **byte & 0xc0 == 0x80;
    let is_break = |&byte: &u8| byte == b'\n';
    if range.start > 0 {
        let line = bytes.iter().position(is_break).map(|at| at + 1).filter(|&at| at < bytes.len());
        let character = || bytes.iter().take(3).take_while(continues).count();
        let start = line.unwrap_or_else(character);
        bytes.drain(..start);
    }
    if range.end < size {
        let line = bytes.iter().rposition(is_break).map(|at| at + 1);
        let character = || match std::str::from_utf8(&bytes) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => bytes.len(),
        };
        let end = line.unwrap_or_else(character);
        bytes.truncate(end);
    }
    Ok(Document { name: path.display().to_string(), bytes })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;
    use crate::data::read_documents;

    fn text(lines: usize) -> String {
        (0..lines).map(|n| format!("line {n} é 한국 the  cat {}\n", n % 7)).collect()
    }

    fn vocab(tokens: Tokens, documents: &[Document]) -> Vocab {
        Vocab::build(tokens, documents, Limits { min_count: 1, size: Some(400), share: 1.0 }).unwrap()
    }

    #[test]
    fn what_is_stored_is_what_would_be_held() {
        let folder = tempfile::tempdir().unwrap();
        // Longer than a chunk, in the last one an open line; a file of one line, one of a single character, and one
        // with a mark of its encoding in front.
        let contents =
            [text(60_000) + "open", "x".repeat(10_000), "é".to_owned(), "\u{feff}the cat\n".to_owned()];
        let files: Vec<PathBuf> =
            (0..contents.len()).map(|n| folder.path().join(format!("{n}.txt"))).collect();
        files.iter().zip(&contents).for_each(|(path, text)| fs::write(path, text).unwrap());
        let documents = read_documents(&files).unwrap();
        for tokens in Tokens::ALL {
            let tokenizer = Tokenizer::new(vocab(tokens, &documents));
            let held = tokenizer.corpus(&documents).unwrap();
            let stored = StoredCorpus::index(&files, &tokenizer).unwrap();
            assert_eq!(stored.document_starts(), held.document_starts, "{tokens}");
            assert_eq!(stored.len(), held.tokens.len(), "{tokens}");
            assert_eq!(stored.read(0..stored.len()), held.tokens, "{tokens}");
            assert!(stored.shared.blocks.len() > 20, "{tokens}: {} blocks", stored.shared.blocks.len());
            let shares = [0.7, 0.2, 0.1];
            for (stored, held) in stored.split(shares).iter().zip(held.split(shares)) {
                assert_eq!(stored.document_starts(), held.document_starts, "{tokens}");
                let end = held.tokens.len();
                for range in [0..end.min(3), end / 2..end / 2 + (end / 3), end - 1..end, end..end] {
                    if range.end <= end && !held.tokens.is_empty() {
                        assert_eq!(*stored.read(range.clone()), held.tokens[range], "{tokens}");
                    }
                }
            }
            assert!(stored.failure().is_none());
        }
    }

    #[test]
    fn what_changes_or_is_no_text_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        fs::write(&path, text(1000)).unwrap();
        let documents = read_documents(std::slice::from_ref(&path)).unwrap();
        let tokenizer = Tokenizer::new(vocab(Tokens::Char, &documents));
        let stored = StoredCorpus::index(std::slice::from_ref(&path), &tokenizer).unwrap();
        fs::write(&path, text(900)).unwrap();
        assert!(stored.read(stored.len() - 10..stored.len()).iter().all(|&token| token == 0));
        let failure = stored.failure().unwrap().to_string();
        assert!(failure.contains("a.txt: failed to fill whole buffer"), "{failure}");
        assert!(stored.failure().is_none(), "it is said once");
        fs::write(&path, text(1000).replace('é', "ee")).unwrap();
        stored.read(5000..5010);
        let failure = stored.failure().unwrap().to_string();
        assert!(failure.contains("it changed while it was read"), "{failure}");

        fs::write(&path, [text(60_000).as_bytes(), b"\xff"].concat()).unwrap();
        let error = StoredCorpus::index(&[path], &tokenizer).unwrap_err().to_string();
        assert!(error.contains(&format!("byte {} is not UTF-8", text(60_000).len())), "{error}");
    }

    #[test]
    fn a_piece_of_a_file_has_whole_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        let check = |text: &str, range: Range<u64>, expected: &str| {
            fs::write(&path, text).unwrap();
            let found = piece(&path, range.clone()).unwrap();
            assert_eq!(String::from_utf8(found.bytes).unwrap(), expected, "{text:?} {range:?}");
        };
        check("one\ntwo\nthree", 0..13, "one\ntwo\nthree");
        check("one\ntwo\nthree", 0..6, "one\n");
        check("one\ntwo\nthree", 1..10, "two\n");
        check("one\ntwo\nthree", 1..13, "two\nthree");
        // No line ends in it: characters are kept whole.
        check("한국한국", 1..8, "국");
    }

    #[test]
    fn a_sample_is_drawn_by_its_seed_from_the_training_share() {
        let files: Vec<PathBuf> = ["a", "b"].map(PathBuf::from).to_vec();
        let check = |share: u64, seed: u64| -> Vec<(String, Range<u64>)> {
            let drawn = sampled(&files, &[SAMPLE, SAMPLE * 2], share, seed);
            drawn.into_iter().map(|(path, range)| (path.display().to_string(), range)).collect()
        };
        let total = |pieces: &[(String, Range<u64>)]| {
            pieces.iter().map(|(_, range)| range.end - range.start).sum::<u64>()
        };
        assert_eq!(check(PIECE * 3 / 2, 1), [("a".to_owned(), 0..PIECE * 3 / 2)]);
        let (one, two) = (check(SAMPLE * 2, 1), check(SAMPLE * 2, 2));
        assert_eq!((total(&one), total(&two)), (SAMPLE, SAMPLE));
        assert_ne!(one, two);
        assert_eq!(one, check(SAMPLE * 2, 1));
        assert!(one.iter().any(|(name, _)| name == "b"));
        assert!(
            one.iter().all(|(name, range)| name == "a" || range.end <= SAMPLE),
            "only the training share"
        );
        let mut apart = one.clone();
        apart.dedup();
        assert_eq!(apart.len(), one.len(), "no piece is drawn twice");
    }
}
