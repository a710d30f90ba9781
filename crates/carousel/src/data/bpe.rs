//! Byte pair encoding (Sennrich et al. 2016) on bytes, by the `tokenizers` crate: pieces of words that are
//! frequent in the training data become tokens of their own. Every text can be written in it, for the 256 bytes
//! are tokens too.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, Model, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Trainer,
};

use super::DataError;

/// The size of a vocabulary where none is given.
const DEFAULT_SIZE: usize = 4096;

/// What training finds: tokens, in the byte alphabet of GPT-2 where every byte is a visible character, and the
/// pairs of them that are joined, most frequent first.
pub(super) struct Learned {
    pub(super) entries: Vec<String>,
    pub(super) merges: Vec<(String, String)>,
}

/// Learns tokens from lines of text. The same lines in the same order give the same tokens, whatever the number of
/// threads.
pub(super) fn learn<'a>(
    lines: impl Iterator<Item = &'a str> + Send,
    size: Option<usize>,
    min_count: usize,
) -> Result<Learned, DataError> {
    let failed = |error: tokenizers::Error| DataError::Bpe { reason: error.to_string() };
    let mut trainer = BpeTrainer::builder()
        .vocab_size(size.unwrap_or(DEFAULT_SIZE))
        .min_frequency(min_count as u64)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(Vec::<AddedToken>::new())
        .show_progress(false)
        .build();
    let splitter = splitter();
    trainer.feed(lines, |line| split(&splitter, line)).map_err(failed)?;
    let mut model = BPE::default();
    trainer.train(&mut model).map_err(failed)?;

    // The crate shows its merges only where it is written out.
    let written =
        serde_json::to_value(&model).map_err(|error| DataError::Bpe { reason: error.to_string() })?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let merges = written["merges"].as_array().into_iter().flatten();
    let merges = merges.map(|pair| (text(&pair[0]), text(&pair[1]))).collect();
    let mut entries: Vec<(String, u32)> = model.get_vocab().into_iter().collect();
    entries.sort_by_key(|(_, id)| *id);
    Ok(Learned { entries: entries.into_iter().map(|(entry, _)| entry).collect(), merges })
}

fn splitter() -> ByteLevel {
    ByteLevel::new(false, false, true)
}

/// A line as words in the byte alphabet, each with the space before it.
fn split(splitter: &ByteLevel, line: &str) -> tokenizers::Result<Vec<String>> {
    let mut text = PreTokenizedString::from(line);
    splitter.pre_tokenize(&mut text)?;
    let words = text.get_splits(OffsetReferential::Normalized, OffsetType::None);
    Ok(words.into_iter().map(|(word, ..)| word.to_owned()).collect())
}

/// Text to tokens with what was learned.
#[derive(Clone)]
pub(super) struct Bpe {
    model: Arc<BPE>,
    splitter: ByteLevel,
}

impl fmt::Debug for Bpe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bpe")
    }
}

impl Bpe {
    /// Fails when a merge joins what are no tokens, or makes none.
    pub(super) fn new(entries: &[String], merges: &[(String, String)]) -> Result<Bpe, String> {
        let ids: HashMap<String, u32> = entries.iter().cloned().zip(0..).collect();
        if let Some(byte) = ALPHABET.iter().find(|byte| !ids.contains_key(&byte.to_string())) {
            return Err(format!("the byte {byte:?} is no token"));
        }
        if let Some(entry) = entries.iter().find(|entry| entry.chars().any(|char| byte_of(char).is_none())) {
            return Err(format!("token {entry:?} is not written in the byte alphabet"));
        }
        let vocab: tokenizers::models::bpe::Vocab = ids.into_iter().collect();
        let model = BPE::builder().vocab_and_merges(vocab, merges.to_vec()).build();
        let model = model.map_err(|error| error.to_string())?;
        Ok(Bpe { model: Arc::new(model), splitter: splitter() })
    }

    /// The ids of a text. Lines are read one by one, so that a text is read as its lines were learned.
    pub(super) fn encode(&self, text: &str) -> Vec<u32> {
        let words = text
            .split_inclusive('\n')
            .flat_map(|line| split(&self.splitter, line).expect("any text can be split into words"));
        let tokens = words.flat_map(|word| self.model.tokenize(&word).expect("every byte is a token"));
        tokens.map(|token| token.id).collect()
    }
}

/// The bytes of a token.
pub(super) fn bytes_of(entry: &str) -> impl Iterator<Item = u8> + '_ {
    entry.chars().filter_map(byte_of)
}

/// GPT-2's alphabet: a byte that is a visible character of Latin-1 stands for itself, the others for the
/// characters from 256 on, in order.
static ALPHABET: LazyLock<Vec<char>> = LazyLock::new(|| {
    let visible = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 256;
    let character = |byte: u8| {
        if visible(byte) {
            return char::from(byte);
        }
        next += 1;
        char::from_u32(next - 1).unwrap_or_default()
    };
    (0..=u8::MAX).map(character).collect()
});

fn byte_of(character: char) -> Option<u8> {
    static BYTES: LazyLock<HashMap<char, u8>> =
        LazyLock::new(|| ALPHABET.iter().copied().zip(0..=u8::MAX).collect());
    BYTES.get(&character).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_alphabet_is_that_of_the_crate() {
        let theirs = ByteLevel::alphabet();
        assert_eq!(theirs.len(), 256);
        assert!(ALPHABET.iter().all(|character| theirs.contains(character)));
        for text in ["aé한 \n\t\0~\u{7f}\u{ad}", "\u{0}\u{1}\u{80}\u{a0}"] {
            let words = split(&splitter(), text).expect("it splits");
            let bytes: Vec<u8> = words.iter().flat_map(|word| bytes_of(word).collect::<Vec<_>>()).collect();
            assert_eq!(bytes, text.as_bytes(), "{text:?}");
        }
    }
}
