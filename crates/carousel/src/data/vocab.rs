//! The list of tokens a model knows.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::bpe::{self, Bpe, Learned};
use super::corpus::share_of;
use super::tokenizer::{END_OF_LINE, UNKNOWN};
use super::{DataError, Document, Tokens};

/// The tokens of a model; a token's id is its place.
///
/// Bytes are the fixed 256. Characters: `<unk>`, then every character of the training data by code point.
/// Words: `<unk>`, `<eos>`, then the words, most frequent first, equally frequent ones by code point. Byte
/// pairs: the 256 bytes, then what is joined of them, in that order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocab {
    tokens: Tokens,
    /// Empty for bytes.
    entries: Vec<String>,
    ids: HashMap<String, u32>,
    /// Pairs of entries that are joined to others, for byte pairs.
    merges: Vec<(String, String)>,
}

/// What of the training data enters a vocabulary.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// A word, or a pair of tokens to be joined, seen less often is left out.
    pub min_count: usize,
    /// The largest number of entries, `<unk>` and `<eos>` of words and the 256 bytes of byte pairs included.
    pub size: Option<usize>,
    /// The first share of the tokens that is looked at: 1 where the documents are all training data, the
    /// training share where validation and test are cut from them by [`Corpus::split`](super::Corpus::split).
    pub share: f64,
}

#[derive(Serialize, Deserialize)]
struct File {
    tokens: String,
    entries: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    merges: Vec<(String, String)>,
}

impl Vocab {
    /// Collects the tokens of training data.
    ///
    /// # Errors
    /// [`DataError::InvalidUtf8`] for all but bytes.
    pub fn build(tokens: Tokens, documents: &[Document], limits: Limits) -> Result<Vocab, DataError> {
        match tokens {
            Tokens::Byte => return Ok(Vocab::new(tokens, Vec::new(), Vec::new())),
            Tokens::Bpe => return Vocab::build_pairs(documents, limits),
            Tokens::Char | Tokens::Word => {}
        }
        let mut total = 0;
        for document in documents {
            total += tokens.document_pieces(document)?.count();
        }
        let mut counts: HashMap<&str, usize> = HashMap::new();
        let mut left = share_of(total, limits.share);
        for document in documents {
            for piece in tokens.document_pieces(document)?.take(left) {
                *counts.entry(piece).or_default() += 1;
                left -= 1;
            }
        }
        Ok(Vocab::counted(tokens, counts, limits))
    }

    /// The vocabulary of words or characters that were counted elsewhere; `share` is not looked at.
    #[must_use]
    pub fn of_pieces<'a>(tokens: Tokens, pieces: impl IntoIterator<Item = &'a str>, limits: Limits) -> Vocab {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        pieces.into_iter().for_each(|piece| *counts.entry(piece).or_default() += 1);
        Vocab::counted(tokens, counts, limits)
    }

    fn counted(tokens: Tokens, mut counts: HashMap<&str, usize>, limits: Limits) -> Vocab {
        let special: &[&str] = if tokens == Tokens::Word { &[UNKNOWN, END_OF_LINE] } else { &[UNKNOWN] };
        for name in special {
            counts.remove(name);
        }
        let mut found: Vec<(&str, usize)> = counts.into_iter().collect();
        if tokens == Tokens::Word {
            found.retain(|(_, count)| *count >= limits.min_count);
            found.sort_by_key(|&(piece, count)| (std::cmp::Reverse(count), piece));
            found.truncate(limits.size.map_or(usize::MAX, |size| size.saturating_sub(special.len())));
        } else {
            found.sort_unstable();
        }
        let pieces = found.into_iter().map(|(piece, _)| piece);
        let entries = special.iter().copied().chain(pieces).map(str::to_owned).collect();
        Vocab::new(tokens, entries, Vec::new())
    }

    /// The id of a whole word or character; that of `<unk>` where it is not listed.
    #[must_use]
    pub fn piece(&self, piece: &str) -> u32 {
        self.id(piece)
    }

    /// Learns byte pairs from the first share of the documents' lines, counted in bytes.
    fn build_pairs(documents: &[Document], limits: Limits) -> Result<Vocab, DataError> {
        let mut lines = Vec::new();
        for document in documents {
            lines.extend(Tokens::Bpe.text(document)?.split_inclusive('\n'));
        }
        let mut left = share_of(lines.iter().map(|line| line.len()).sum(), limits.share);
        let known = lines.into_iter().map_while(|line| {
            let mut end = line.len().min(left);
            while !line.is_char_boundary(end) {
                end -= 1;
            }
            left -= end;
            (end > 0).then(|| &line[..end])
        });
        let known: Vec<&str> = known.collect();
        let Learned { entries, merges } = bpe::learn(known.into_iter(), limits.size, limits.min_count)?;
        Ok(Vocab::new(Tokens::Bpe, entries, merges))
    }

    /// Reads and writes these byte pairs.
    pub(super) fn bpe(&self) -> Result<Bpe, String> {
        Bpe::new(&self.entries, &self.merges)
    }

    fn new(tokens: Tokens, entries: Vec<String>, merges: Vec<(String, String)>) -> Vocab {
        let ids = entries.iter().enumerate().map(|(id, entry)| (entry.clone(), id as u32)).collect();
        Vocab { tokens, entries, ids, merges }
    }

    /// What one token is.
    #[must_use]
    pub fn tokens(&self) -> Tokens {
        self.tokens
    }

    /// `V`, the number of tokens.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a vocabulary always has an entry")]
    pub fn len(&self) -> usize {
        match self.tokens {
            Tokens::Byte => 256,
            Tokens::Char | Tokens::Word | Tokens::Bpe => self.entries.len(),
        }
    }

    /// The id that stands for what is not in the vocabulary; bytes and byte pairs have none.
    #[must_use]
    pub fn unknown(&self) -> Option<u32> {
        matches!(self.tokens, Tokens::Char | Tokens::Word).then_some(0)
    }

    /// The id of a character or word; one that is not listed has the id of `<unk>`, 0.
    pub(super) fn id(&self, piece: &str) -> u32 {
        self.ids.get(piece).copied().unwrap_or_default()
    }

    /// The character or word of an id.
    pub(super) fn entry(&self, id: u32) -> Option<&str> {
        self.entries.get(id as usize).map(String::as_str)
    }

    /// The content of `vocab.json`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!(File {
            tokens: self.tokens.name().to_owned(),
            entries: self.entries.clone(),
            merges: self.merges.clone(),
        })
    }

    /// Reads the content of `vocab.json`.
    ///
    /// # Errors
    /// [`DataError::Vocab`] for anything that [`Vocab::to_json`] would not write.
    pub fn from_json(value: &serde_json::Value) -> Result<Vocab, DataError> {
        let damaged = |reason: String| DataError::Vocab { reason };
        let File { tokens, entries, merges } =
            File::deserialize(value).map_err(|error| damaged(error.to_string()))?;
        let tokens = Tokens::ALL
            .into_iter()
            .find(|known| known.name() == tokens)
            .ok_or_else(|| damaged(format!("tokens is {tokens:?}, expected byte, char, word or bpe")))?;
        let special: &[&str] = match tokens {
            Tokens::Byte if entries.is_empty() => &[],
            Tokens::Byte => return Err(damaged("byte tokens have entries, expected none".to_owned())),
            Tokens::Bpe => &[],
            Tokens::Char => &[UNKNOWN],
            Tokens::Word => &[UNKNOWN, END_OF_LINE],
        };
        for (id, wanted) in special.iter().enumerate() {
            if entries.get(id).map(String::as_str) != Some(wanted) {
                return Err(damaged(format!("entry {id} is {:?}, expected {wanted:?}", entries.get(id))));
            }
        }
        for (id, entry) in entries.iter().enumerate().skip(special.len()) {
            let one_char = entry.chars().count() == 1;
            if entry.is_empty() || (tokens == Tokens::Char && !one_char) {
                return Err(damaged(format!("entry {id} is {entry:?}, expected one {tokens}")));
            }
        }
        let count = entries.len();
        if tokens != Tokens::Bpe && !merges.is_empty() {
            return Err(damaged(format!("{tokens} tokens have merges, expected none")));
        }
        let vocab = Vocab::new(tokens, entries, merges);
        if tokens == Tokens::Bpe {
            vocab.bpe().map_err(damaged)?;
        }
        if vocab.ids.len() < count {
            return Err(damaged(format!("{} entries are listed twice", count - vocab.ids.len())));
        }
        Ok(vocab)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    const ALL: Limits = Limits { min_count: 1, size: None, share: 1.0 };

    fn documents(texts: &[&str]) -> Vec<Document> {
        let document = |text: &&str| Document { name: "text".to_owned(), bytes: text.as_bytes().to_vec() };
        texts.iter().map(document).collect()
    }

    #[test]
    fn entries_follow_the_training_data() {
        let check = |tokens, texts: &[&str], limits, expected: &[&str]| {
            let vocab = Vocab::build(tokens, &documents(texts), limits).unwrap();
            assert_eq!(vocab.entries, expected, "{tokens} {texts:?} {limits:?}");
            assert_eq!(Vocab::from_json(&vocab.to_json()).unwrap(), vocab);
        };
        check(Tokens::Char, &["ba\nb", "한a"], ALL, &["<unk>", "\n", "a", "b", "한"]);
        check(Tokens::Byte, &["ba"], ALL, &[]);
        let pairs =
            Vocab::build(Tokens::Bpe, &documents(&["ab ab"]), Limits { size: Some(257), ..ALL }).unwrap();
        assert_eq!((pairs.len(), pairs.entries[256].as_str()), (257, "ab"));
        assert_eq!(Vocab::from_json(&pairs.to_json()).unwrap(), pairs);
        let text = ["b a b c", "a b <unk> d\n"];
        check(Tokens::Word, &text, ALL, &["<unk>", "<eos>", "b", "a", "c", "d"]);
        check(Tokens::Word, &text, Limits { min_count: 2, ..ALL }, &["<unk>", "<eos>", "b", "a"]);
        check(Tokens::Word, &text, Limits { size: Some(3), ..ALL }, &["<unk>", "<eos>", "b"]);
        // The last tenth is for validation and must not be seen: 11 pieces, of which d and <eos> are two.
        check(Tokens::Word, &text, Limits { share: 0.85, ..ALL }, &["<unk>", "<eos>", "b", "a", "c"]);
        check(Tokens::Char, &["abcdefghij"], Limits { share: 0.2, ..ALL }, &["<unk>", "a", "b"]);
    }

    #[test]
    fn bytes_are_256_whatever_the_data() {
        let documents = [Document { name: "noise".to_owned(), bytes: vec![0xff, 0x00] }];
        assert_eq!(Vocab::build(Tokens::Byte, &documents, ALL).unwrap().len(), 256);
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let check = |value, expected: &str| {
            let message = Vocab::from_json(&value).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        check(json!({"tokens": "char"}), "missing field `entries`");
        check(json!({"tokens": "tree", "entries": []}), "\"tree\", expected byte, char, word or bpe");
        check(json!({"tokens": "bpe", "entries": ["a"]}), "is no token");
        check(json!({"tokens": "char", "entries": ["<unk>"], "merges": [["a", "b"]]}), "expected none");
        let bytes =
            Vocab::build(Tokens::Bpe, &documents(&["ab ab"]), Limits { size: Some(257), ..ALL }).unwrap();
        let mut damaged = bytes.to_json();
        damaged["merges"][0][1] = json!("nowhere");
        check(damaged, "nowhere");
        let mut foreign = bytes.to_json();
        foreign["entries"][256] = json!("a b");
        check(foreign, "not written in the byte alphabet");
        check(json!({"tokens": "char", "entries": []}), "entry 0 is None, expected \"<unk>\"");
        check(
            json!({"tokens": "word", "entries": ["<unk>", "a"]}),
            "entry 1 is Some(\"a\"), expected \"<eos>\"",
        );
        check(json!({"tokens": "char", "entries": ["<unk>", "ab"]}), "entry 1 is \"ab\", expected one char");
        check(json!({"tokens": "char", "entries": ["<unk>", "a", "a"]}), "1 entries are listed twice");
        check(json!({"tokens": "byte", "entries": ["a"]}), "expected none");
    }
}
