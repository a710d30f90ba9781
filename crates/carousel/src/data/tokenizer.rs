//! Text to token ids and back.

use std::fmt;

use super::bpe::{Bpe, bytes_of};
use super::{Corpus, DataError, Document, Vocab};

/// Stands for every character or word that is not in the vocabulary.
pub(super) const UNKNOWN: &str = "<unk>";
/// Ends every line of words, as in the Penn Treebank's files for language models.
pub(super) const END_OF_LINE: &str = "<eos>";

/// What one token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tokens {
    /// One byte; any file will do.
    Byte,
    /// One Unicode scalar value of UTF-8 text.
    Char,
    /// One word of UTF-8 text, between white space; every line ends with `<eos>`.
    Word,
    /// A frequent piece of UTF-8 text, learned from the training data (byte pair encoding).
    Bpe,
}

impl Tokens {
    /// Every kind of token.
    pub const ALL: [Tokens; 4] = [Tokens::Byte, Tokens::Char, Tokens::Word, Tokens::Bpe];

    /// The name in recipes, vocabularies and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Tokens::Byte => "byte",
            Tokens::Char => "char",
            Tokens::Word => "word",
            Tokens::Bpe => "bpe",
        }
    }

    /// The characters or words of a text, in order.
    pub(super) fn pieces(self, text: &str) -> Box<dyn Iterator<Item = &str> + '_> {
        match self {
            Tokens::Byte | Tokens::Char | Tokens::Bpe => {
                Box::new(text.char_indices().map(|(at, char)| &text[at..at + char.len_utf8()]))
            }
            Tokens::Word => {
                Box::new(text.split_inclusive('\n').flat_map(|line| {
                    line.split_whitespace().chain(line.ends_with('\n').then_some(END_OF_LINE))
                }))
            }
        }
    }

    /// The characters or words of a document. Its last line ends, with or without a line break.
    pub(super) fn document_pieces(
        self,
        document: &Document,
    ) -> Result<impl Iterator<Item = &str> + '_, DataError> {
        let text = self.text(document)?;
        let open = self == Tokens::Word && !text.is_empty() && !text.ends_with('\n');
        Ok(self.pieces(text).chain(open.then_some(END_OF_LINE)))
    }

    /// A document as text, without the mark of its encoding.
    pub(crate) fn text(self, document: &Document) -> Result<&str, DataError> {
        let text = std::str::from_utf8(&document.bytes).map_err(|error| DataError::InvalidUtf8 {
            name: document.name.clone(),
            offset: error.valid_up_to(),
            tokens: self,
        })?;
        Ok(unmarked(text))
    }
}

impl fmt::Display for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A file's text without the byte order mark that some editors put in front of it.
#[must_use]
pub fn unmarked(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// What a document is, behind which a model starts anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Documents {
    /// A file.
    Files,
    /// A line, as of a list of names: it begins after the token that ends a line, and ends with it.
    Lines,
}

/// The lines of documents that hold more than blanks, without their ends.
///
/// # Errors
/// [`DataError::Line`] where text is wanted and a line is none.
pub fn read_lines(tokens: Tokens, documents: &[Document]) -> Result<Vec<Vec<u8>>, DataError> {
    let mut lines = Vec::new();
    for document in documents {
        let bytes = document.bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&document.bytes);
        for (number, line) in (1..).zip(bytes.split(|&byte| byte == b'\n')) {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if tokens != Tokens::Byte && std::str::from_utf8(line).is_err() {
                let reason = format!(
                    "the line is not UTF-8, expected text for tokens = \"{tokens}\"; convert the file to UTF-8, or set \
                     data.tokens=byte"
                );
                return Err(DataError::Line { name: document.name.clone(), line: number, reason });
            }
            if !line.iter().all(u8::is_ascii_whitespace) {
                lines.push(line.to_vec());
            }
        }
    }
    Ok(lines)
}

/// Turns text into ids of a vocabulary, and ids into text.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    vocab: Vocab,
    /// For [`Tokens::Bpe`].
    bpe: Option<Bpe>,
}

impl Tokenizer {
    /// A tokenizer for a model's vocabulary.
    #[must_use]
    pub fn new(vocab: Vocab) -> Tokenizer {
        let bpe = (vocab.tokens() == Tokens::Bpe)
            .then(|| vocab.bpe().expect("a vocabulary is checked when it is made"));
        Tokenizer { vocab, bpe }
    }

    /// The vocabulary.
    #[must_use]
    pub fn vocab(&self) -> &Vocab {
        &self.vocab
    }

    /// The ids of a piece of text, such as a prompt. Words: `<eos>` stands where a line breaks, so an
    /// open last line stays open.
    #[must_use]
    pub fn encode(&self, text: &str) -> Vec<u32> {
        if let Some(bpe) = &self.bpe {
            return bpe.encode(text);
        }
        match self.vocab.tokens() {
            Tokens::Byte => text.bytes().map(u32::from).collect(),
            tokens => tokens.pieces(text).map(|piece| self.vocab.id(piece)).collect(),
        }
    }

    /// How many tokens a line has.
    pub(super) fn count(&self, line: &str) -> usize {
        match self.vocab.tokens() {
            Tokens::Word => Tokens::Word.pieces(line).count(),
            _ => self.encode(line).len(),
        }
    }

    /// The id that ends a line of words.
    pub(super) fn end_of_line(&self) -> u32 {
        self.vocab.id(END_OF_LINE)
    }

    /// The ids of whole documents. Words: every line ends with `<eos>`, the last one too.
    ///
    /// # Errors
    /// [`DataError::InvalidUtf8`] for characters and words.
    pub fn corpus(&self, documents: &[Document]) -> Result<Corpus, DataError> {
        let mut corpus = Corpus::default();
        for document in documents {
            let ids: Vec<u32> = match self.vocab.tokens() {
                Tokens::Byte => document.bytes.iter().copied().map(u32::from).collect(),
                Tokens::Bpe => self.encode(Tokens::Bpe.text(document)?),
                tokens => tokens.document_pieces(document)?.map(|piece| self.vocab.id(piece)).collect(),
            };
            corpus.push(&ids);
        }
        Ok(corpus)
    }

    /// The ids of a line that is a document of its own, between two ends of lines.
    #[must_use]
    pub fn line(&self, line: &[u8]) -> Vec<u32> {
        let inner = match self.vocab.tokens() {
            Tokens::Byte => line.iter().copied().map(u32::from).collect(),
            _ => self.encode(&String::from_utf8_lossy(line)),
        };
        [vec![self.line_end()], inner, vec![self.line_end()]].concat()
    }

    /// The token that ends a line.
    #[must_use]
    pub fn line_end(&self) -> u32 {
        self.encode("\n").first().copied().unwrap_or_default()
    }

    /// The lines of documents, each a document of its own.
    ///
    /// # Errors
    /// As [`read_lines`].
    pub fn line_corpus(&self, documents: &[Document]) -> Result<Corpus, DataError> {
        let mut corpus = Corpus::default();
        read_lines(self.vocab.tokens(), documents)?.iter().for_each(|line| corpus.push(&self.line(line)));
        Ok(corpus)
    }

    /// The text of ids. Bytes that are not UTF-8 and unknown characters become U+FFFD; words stand apart
    /// by a space, and `<eos>` is a line break.
    #[must_use]
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut decoder = self.decoder();
        let mut text: String = ids.iter().map(|&id| decoder.push(id)).collect();
        text.push_str(&decoder.finish());
        text
    }

    /// Decodes ids one by one, as a model writes them.
    #[must_use]
    pub fn decoder(&self) -> Decoder<'_> {
        Decoder { vocab: &self.vocab, pending: Vec::new(), line: Line::Start }
    }
}

/// Text from ids that come one by one; the texts put together are those of [`Tokenizer::decode`].
#[derive(Clone, Debug)]
pub struct Decoder<'a> {
    vocab: &'a Vocab,
    /// Bytes of a character that is not complete yet.
    pending: Vec<u8>,
    line: Line,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Start,
    Inside,
}

impl Decoder<'_> {
    /// The text that this id adds; empty inside a character of several bytes.
    pub fn push(&mut self, id: u32) -> String {
        match self.vocab.tokens() {
            Tokens::Byte => match u8::try_from(id) {
                Ok(byte) => self.push_bytes(std::iter::once(byte)),
                Err(_) => self.replace(),
            },
            Tokens::Bpe => match self.vocab.entry(id) {
                Some(entry) => self.push_bytes(bytes_of(entry)),
                None => self.replace(),
            },
            Tokens::Char => match self.vocab.entry(id) {
                Some(entry) if entry != UNKNOWN => entry.to_owned(),
                _ => char::REPLACEMENT_CHARACTER.to_string(),
            },
            Tokens::Word => match self.vocab.entry(id).unwrap_or(UNKNOWN) {
                END_OF_LINE => {
                    self.line = Line::Start;
                    "\n".to_owned()
                }
                word if self.line == Line::Start => {
                    self.line = Line::Inside;
                    word.to_owned()
                }
                word => format!(" {word}"),
            },
        }
    }

    /// What an incomplete character at the end becomes.
    #[must_use]
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }

    /// What stands for a token that is none.
    fn replace(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text + "\u{fffd}"
    }

    fn push_bytes(&mut self, bytes: impl Iterator<Item = u8>) -> String {
        self.pending.extend(bytes);
        let mut text = String::new();
        let mut complete = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            complete += chunk.valid().len();
            let rest = &self.pending[complete..];
            // Bytes that may still become a character wait for the next one.
            if !chunk.invalid().is_empty()
                && std::str::from_utf8(rest).is_err_and(|e| e.error_len().is_some())
            {
                text.push(char::REPLACEMENT_CHARACTER);
                complete += chunk.invalid().len();
            }
        }
        self.pending.drain(..complete);
        text
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::Limits;
    use super::*;

    fn document(bytes: &[u8]) -> Document {
        Document { name: "play.txt".to_owned(), bytes: bytes.to_vec() }
    }

    fn tokenizer(tokens: Tokens, text: &str) -> Tokenizer {
        let limits = Limits { min_count: 1, size: None, share: 1.0 };
        Tokenizer::new(Vocab::build(tokens, &[document(text.as_bytes())], limits).unwrap())
    }

    #[test]
    fn text_becomes_ids_and_text_again() {
        let check = |tokens, known: &str, text: &str, ids: &[u32], expected: &str| {
            let tokenizer = tokenizer(tokens, known);
            assert_eq!(tokenizer.encode(text), ids, "{tokens} {text:?}");
            assert_eq!(tokenizer.decode(ids), expected, "{tokens} {ids:?}");
        };
        check(Tokens::Byte, "", "aé", &[97, 0xc3, 0xa9], "aé");
        check(Tokens::Char, "ab\n한", "b한\nx", &[3, 4, 1, 0], "b한\n\u{fffd}");
        // <unk> <eos> the(2) a(3) cat(4): the is the most frequent word, the others follow by name.
        let known = "the cat the a\n";
        check(Tokens::Word, known, "the  cat\n\na dog\n", &[2, 4, 1, 1, 3, 0, 1], "the cat\n\na <unk>\n");
        check(Tokens::Word, known, "the cat", &[2, 4], "the cat");
        check(Tokens::Word, known, "a\r\nthe\u{a0}cat", &[3, 1, 2, 4], "a\nthe cat");
    }

    #[test]
    fn every_document_ends_its_last_line_and_starts_on_its_own() {
        let tokenizer = tokenizer(Tokens::Word, "b b a\n");
        let documents = [document(b"a b\nb"), document(b""), document(b"a\n")];
        let corpus = tokenizer.corpus(&documents).unwrap();
        assert_eq!(corpus.tokens, [3, 2, 1, 2, 1, 3, 1]);
        assert_eq!(corpus.document_starts, [0, 5]);
    }

    #[test]
    fn the_mark_of_an_encoding_is_no_text() {
        let marked = document("\u{feff}ab \u{feff}a".as_bytes());
        let check = |tokens, expected: &str| {
            let limits = Limits { min_count: 1, size: None, share: 1.0 };
            let tokenizer =
                Tokenizer::new(Vocab::build(tokens, std::slice::from_ref(&marked), limits).unwrap());
            let corpus = tokenizer.corpus(std::slice::from_ref(&marked)).unwrap();
            assert_eq!(tokenizer.decode(&corpus.tokens), expected, "{tokens}");
        };
        check(Tokens::Char, "ab \u{feff}a");
        check(Tokens::Word, "ab \u{feff}a\n");
        check(Tokens::Bpe, "ab \u{feff}a");
        check(Tokens::Byte, "\u{feff}ab \u{feff}a");
    }

    #[test]
    fn byte_pairs_write_every_text_and_repeat() {
        let known = "the cat sat on the mat, the other cat sat there\n".repeat(20);
        let limits = Limits { min_count: 2, size: Some(300), share: 1.0 };
        let learn = || Vocab::build(Tokens::Bpe, &[document(known.as_bytes())], limits).unwrap();
        let vocab = learn();
        assert!((257..=300).contains(&vocab.len()), "{}", vocab.len());
        for _ in 0..3 {
            assert_eq!(learn(), vocab, "learning repeats");
        }
        let tokenizer = Tokenizer::new(vocab);
        for text in [&known[..], "", "\n\n  the\tdog\r\n", "한국 é €, \u{0}plain", "the cat\nthe"] {
            let ids = tokenizer.encode(text);
            assert_eq!(tokenizer.decode(&ids), text);
            assert!(ids.len() <= text.len());
        }
        let ids = tokenizer.encode(&known);
        assert!(ids.len() * 3 < known.len(), "{} tokens for {} bytes", ids.len(), known.len());
        let corpus = tokenizer.corpus(&[document(b"the cat"), document(b"the")]).unwrap();
        assert_eq!(corpus.document_starts.len(), 2);
        // Half a character waits for the rest.
        let mut decoder = tokenizer.decoder();
        let pushed: Vec<String> = tokenizer.encode("€").into_iter().map(|id| decoder.push(id)).collect();
        assert_eq!(pushed, ["", "", "€"]);
    }

    #[test]
    fn byte_pairs_keep_to_their_limits() {
        let known = "aaab aaab aaab xyz\n".repeat(5);
        let size = |min_count, size, share| {
            let limits = Limits { min_count, size, share };
            Vocab::build(Tokens::Bpe, &[document(known.as_bytes())], limits).unwrap().len()
        };
        let all = size(1, None, 1.0);
        assert!(all > 258);
        assert_eq!(size(1, Some(258), 1.0), 258);
        assert_eq!(size(1000, None, 1.0), 256, "no pair is so frequent");
        assert!(size(1, None, 0.1) < all, "what is held out is not learned from");
    }

    #[test]
    fn ids_that_no_vocabulary_has_do_not_panic() {
        let check = |tokens, expected: &str| {
            assert_eq!(tokenizer(tokens, "a\n").decode(&[1000]), expected, "{tokens}");
        };
        check(Tokens::Byte, "\u{fffd}");
        check(Tokens::Char, "\u{fffd}");
        check(Tokens::Word, "<unk>");
        check(Tokens::Bpe, "\u{fffd}");
    }

    #[test]
    fn bytes_decode_one_by_one_as_all_at_once() {
        let tokenizer = tokenizer(Tokens::Byte, "");
        let cases: [&[u8]; 7] = [
            "한국 é €, plain".as_bytes(),
            b"\xff\xfe",
            b"\xe2\x82",
            b"\xe2\x82a\xe2",
            b"\xf0\x9f\x98\x80\xf0\x9f\x98",
            b"\xc3\xc3\xa9",
            b"\xed\xa0\x80",
        ];
        for bytes in cases {
            let ids: Vec<u32> = bytes.iter().copied().map(u32::from).collect();
            assert_eq!(tokenizer.decode(&ids), String::from_utf8_lossy(bytes), "{bytes:?}");
        }
        let mut decoder = tokenizer.decoder();
        let pushed: Vec<String> = [0xe2, 0x82, 0xac, 0x61].map(|byte| decoder.push(byte)).to_vec();
        assert_eq!(pushed, ["", "", "€", "a"]);
    }

    #[test]
    fn bytes_that_are_no_text_are_named_with_their_place() {
        for tokens in [Tokens::Char, Tokens::Word, Tokens::Bpe] {
            let error = tokenizer(tokens, "a").corpus(&[document(b"good"), document(b"bad \xff")]);
            let message = error.unwrap_err().to_string();
            let expected = format!(
                "play.txt: byte 4 is not UTF-8, expected text for tokens = \"{tokens}\"; \
                 convert the file, or set data.tokens=byte to read bytes as they are"
            );
            assert_eq!(message, expected);
        }
    }
}
