//! From files to windows of tokens: no tensors here, and nothing of the models or of training.
//!
//! [`read_documents`] reads files, [`Vocab::build`] collects what tokens there are, a [`Tokenizer`] turns
//! text into a [`Corpus`] of token ids and back, and [`Windows`] cuts a corpus into the ragged batches of
//! truncated backpropagation through time.

mod arrays;
mod bpe;
mod captions;
mod classes;
mod corpus;
mod failure;
mod frames;
mod images;
mod name_pattern;
mod numbers;
mod order;
mod pack;
mod pairs;
mod series;
mod side;
mod sound;
mod stored;
mod stored_files;
mod stored_sentences;
mod stored_texts;
mod table;
mod tagged;
mod texts;
mod tokenizer;
mod vocab;
mod windows;

use std::path::PathBuf;

pub use captions::{
    CaptionColumns, CaptionExample, Subject, SubjectKind, is_subject, read_captions, read_subject,
};
pub use classes::{Classes, Counts, Lengths};
pub use corpus::{Corpus, Document, GivenPaths, is_packed, open, read_documents};
pub(crate) use failure::FirstFailure;
pub use frames::{FrameExample, read_frames};
pub use images::{ImageShape, VideoExample, read_image, read_videos, thumbnail};
pub use name_pattern::NamePattern;
pub use numbers::{NumberColumns, NumberExample, Scaling, read_numbers};
pub use order::{Fill, Passes, split, split_groups};
pub use pack::{Packed, Sequence, pack, pack_sequences};
pub use pairs::{EncodedPair, PairColumns, PairCounts, PairFormat, TextPair, encode_pairs, read_pairs};
pub use series::{
    Base, Framing, Gaps, Origin, Series, SeriesColumns, SeriesNames, SeriesScaling, SeriesSet, Spread,
    Spreads, naive, read_series, seasonal_naive, split_steps,
};
pub use side::{
    EOS, JOINER, MOST_PLACES, MaxLen, NormalForm, PAD, SOS, SPECIAL, Side, Splitting, TooLong, UNK, Uniform,
    cut,
};
pub use sound::{BANDS, COEFFICIENTS, SoundFeatures, log_mel, mfcc, read_wav};
pub use stored::{StoredCorpus, TokenRow, list_files, sampled_vocab};
pub use stored_sentences::{FoundTags, IndexedSentences, StoredSentence, StoredSentences};
pub use stored_texts::{IndexedTexts, StoredRow, StoredTexts};
pub use table::{Quoting, Row, Table, read_table};
pub use tagged::{NO_TAG, Sentence, TagColumns, lies_beside_others, read_sentences};
pub use texts::{TextColumns, TextExample, are_single_texts, names_column, read_texts};
pub use tokenizer::{Decoder, Documents, Tokenizer, Tokens, read_lines, unmarked};
pub use vocab::{Limits, Vocab};
pub use windows::{Coverage, Segment, Stretch, Truncation, Window, Windows};

/// What is wrong with data.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file or folder that is missing or cannot be read.
    #[error("could not read {path}: {source}")]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file without a byte, or a folder without a file that has one.
    #[error("{path} is empty, expected data")]
    Empty {
        /// Which one.
        path: PathBuf,
    },
    /// No document at all.
    #[error("no data given, expected at least one file")]
    NoDocuments,
    /// A place in a file that cannot be meant.
    #[error("{name}:{line}: {reason}")]
    Line {
        /// The file.
        name: String,
        /// The line, counted from 1.
        line: usize,
        /// What was found, and what was wanted.
        reason: String,
    },
    /// A file that cannot be meant as a whole.
    #[error("{name}: {reason}")]
    File {
        /// The file.
        name: String,
        /// What was found, and what was wanted.
        reason: String,
    },
    /// Examples that do not make a task.
    #[error("{reason}")]
    Examples {
        /// What was found, what was wanted, and what to do.
        reason: String,
    },
    /// Text was wanted, but these bytes are none.
    #[error(
        "{name}: byte {offset} is not UTF-8, expected text for tokens = \"{tokens}\"; \
         convert the file, or set data.tokens=byte to read bytes as they are"
    )]
    InvalidUtf8 {
        /// The document.
        name: String,
        /// The first bad byte, counted from 0.
        offset: usize,
        /// What tokens were wanted.
        tokens: Tokens,
    },
    /// Less text than one window holds.
    #[error(
        "the data has {found} tokens, expected at least {needed} \
         (train.batch {streams} x train.bptt {bptt} + 1); give more data, or lower train.batch or train.bptt"
    )]
    TooShort {
        /// Tokens there are.
        found: usize,
        /// Tokens one window takes.
        needed: usize,
        /// Streams side by side.
        streams: usize,
        /// Steps of a window.
        bptt: usize,
    },
    /// No token is followed by another of its document, so there is nothing to predict.
    #[error(
        "the data has {found} tokens in {documents} documents, expected a document of at least two tokens"
    )]
    NothingToPredict {
        /// Tokens there are.
        found: usize,
        /// Documents there are.
        documents: usize,
    },
    /// Byte pairs could not be learned.
    #[error("byte pair encoding could not be learned: {reason}")]
    Bpe {
        /// What the learner said.
        reason: String,
    },
    /// A vocabulary file that is damaged or foreign.
    #[error("the vocabulary is damaged: {reason}")]
    Vocab {
        /// What was found, and what was wanted.
        reason: String,
    },
}

/// What is wrong with a line of a file, counted from 1.
fn at(name: &str, line: usize, reason: impl Into<String>) -> DataError {
    DataError::Line { name: name.to_owned(), line, reason: reason.into() }
}

const NOT_UTF8: &str = "the line is not UTF-8; convert the file to UTF-8";

/// A file's name without the ending of what is compressed.
#[must_use]
pub fn unpacked(name: &str) -> &str {
    name.strip_suffix(".gz").unwrap_or(name)
}

/// What is wrong with a file.
fn fails(document: &Document, reason: impl Into<String>) -> DataError {
    DataError::File { name: document.name.clone(), reason: reason.into() }
}
