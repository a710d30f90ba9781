//! A text as a model reads it, and as a person does: tokens, and the characters they stand for.

use std::ops::Range;

use crate::data::{DataError, Document, Documents, Tokenizer, Tokens, read_lines};

/// Tokens with the characters each of them stands for.
///
/// Characters: one a token. Bytes: the character a byte belongs to; of documents that are not UTF-8 every byte
/// is a character of its own. Words: the word and the space before it. Where documents are lines the token that
/// begins one stands for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    characters: Vec<char>,
    tokens: Vec<u32>,
    /// Characters of each token.
    spans: Vec<Range<usize>>,
    /// First token of each document.
    document_starts: Vec<usize>,
}

impl Text {
    /// Reads files as the tokenizer's model does, whose documents they or their lines are, up to `limit` tokens.
    ///
    /// # Errors
    /// [`DataError::InvalidUtf8`] for characters and words, or [`DataError::Line`] where documents are lines.
    pub fn new(
        tokenizer: &Tokenizer,
        files: &[Document],
        documents: Documents,
        limit: usize,
    ) -> Result<Text, DataError> {
        let mut text = Text::default();
        if documents == Documents::Lines {
            for line in read_lines(tokenizer.vocab().tokens(), files)? {
                text.push_line(tokenizer, line, limit);
            }
            return Ok(text);
        }
        for document in files {
            let room = limit - text.tokens.len();
            if room == 0 {
                break;
            }
            let corpus = tokenizer.corpus(std::slice::from_ref(document))?;
            let ids = &corpus.tokens[..corpus.tokens.len().min(room)];
            if ids.is_empty() {
                continue;
            }
            text.document_starts.push(text.tokens.len());
            match tokenizer.vocab().tokens() {
                Tokens::Char => text.push_characters(ids, Tokens::Char.text(document)?),
                Tokens::Byte => text.push_bytes(ids, &document.bytes),
                Tokens::Word | Tokens::Bpe => text.push_decoded(tokenizer, ids),
            }
        }
        Ok(text)
    }

    /// Adds a line as far as there is room for it.
    fn push_line(&mut self, tokenizer: &Tokenizer, mut line: Vec<u8>, limit: usize) {
        let ids = tokenizer.line(&line);
        let Some((&begin, ids)) = ids[..ids.len().min(limit - self.tokens.len())].split_first() else {
            return;
        };
        self.document_starts.push(self.tokens.len());
        self.push(begin, []);
        line.push(b'\n');
        match tokenizer.vocab().tokens() {
            Tokens::Char => self.push_characters(ids, &String::from_utf8_lossy(&line)),
            Tokens::Byte => self.push_bytes(ids, &line),
            Tokens::Word | Tokens::Bpe => self.push_decoded(tokenizer, ids),
        }
    }

    /// A text of one character a token, the token's id being the character's own number. For texts without a
    /// model, as in tests.
    ///
    /// ```
    /// let text = carousel::lens::Text::of_characters("a\nb");
    /// assert_eq!((text.len(), text.characters()[1]), (3, '\n'));
    /// ```
    #[must_use]
    pub fn of_characters(content: &str) -> Text {
        let mut text = Text::default();
        for character in content.chars() {
            text.push(u32::from(character), [character]);
        }
        text.document_starts = if text.is_empty() { Vec::new() } else { vec![0] };
        text
    }

    fn push(&mut self, id: u32, characters: impl IntoIterator<Item = char>) {
        let from = self.characters.len();
        self.characters.extend(characters);
        self.tokens.push(id);
        self.spans.push(from..self.characters.len());
    }

    fn push_characters(&mut self, ids: &[u32], content: &str) {
        for (&id, character) in ids.iter().zip(content.chars()) {
            self.push(id, [character]);
        }
    }

    fn push_decoded(&mut self, tokenizer: &Tokenizer, ids: &[u32]) {
        let mut decoder = tokenizer.decoder();
        for &id in ids {
            self.push(id, decoder.push(id).chars());
        }
    }

    fn push_bytes(&mut self, ids: &[u32], bytes: &[u8]) {
        let Ok(valid) = std::str::from_utf8(bytes) else {
            for (&id, &byte) in ids.iter().zip(bytes) {
                self.push(id, [char::from(byte)]);
            }
            return;
        };
        let mut ids = ids.iter();
        for character in valid.chars() {
            let from = self.characters.len();
            self.characters.push(character);
            for &id in ids.by_ref().take(character.len_utf8()) {
                self.tokens.push(id);
                self.spans.push(from..from + 1);
            }
        }
        self.characters.truncate(self.spans.last().map_or(0, |span| span.end));
    }

    /// How many tokens there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is no token.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Token ids.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// All characters.
    #[must_use]
    pub fn characters(&self) -> &[char] {
        &self.characters
    }

    /// The characters that a token stands for.
    #[must_use]
    pub fn span(&self, token: usize) -> Range<usize> {
        self.spans[token].clone()
    }

    /// What tokens stand for, as text.
    #[must_use]
    pub fn shown(&self, tokens: Range<usize>) -> String {
        let from = self.spans.get(tokens.start).map_or(self.characters.len(), |span| span.start);
        let to = tokens.end.checked_sub(1).map_or(from, |last| self.spans[last].end);
        self.characters[from..to.max(from)].iter().collect()
    }

    /// Some of the tokens as a text of their own; a document that is cut goes on as a document.
    ///
    /// # Panics
    /// When the tokens are not all there.
    #[must_use]
    pub fn part(&self, tokens: Range<usize>) -> Text {
        let spans = &self.spans[tokens.clone()];
        let from = spans.first().map_or(0, |span| span.start);
        let to = spans.last().map_or(from, |span| span.end);
        let inside = self.document_starts.iter().filter(|start| tokens.contains(start));
        let mut document_starts: Vec<usize> = inside.map(|start| start - tokens.start).collect();
        if !tokens.is_empty() && document_starts.first() != Some(&0) {
            document_starts.insert(0, 0);
        }
        Text {
            characters: self.characters[from..to].to_vec(),
            tokens: self.tokens[tokens.clone()].to_vec(),
            spans: spans.iter().map(|span| span.start - from..span.end - from).collect(),
            document_starts,
        }
    }

    /// First token of each document.
    #[must_use]
    pub fn document_starts(&self) -> &[usize] {
        &self.document_starts
    }

    /// Whether a document begins with this token.
    #[must_use]
    pub fn starts_document(&self, token: usize) -> bool {
        self.document_starts.binary_search(&token).is_ok()
    }

    /// First character of each document.
    pub(crate) fn document_characters(&self) -> impl Iterator<Item = usize> + '_ {
        self.document_starts.iter().map(|&token| self.spans[token].start)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data::{Limits, Vocab};

    fn text(tokens: Tokens, contents: &[&[u8]], limit: usize) -> Text {
        let documents: Vec<Document> =
            contents.iter().map(|bytes| Document { name: "a".to_owned(), bytes: bytes.to_vec() }).collect();
        let limits = Limits { min_count: 1, size: None, share: 1.0 };
        let vocab = Vocab::build(tokens, &documents, limits).unwrap();
        Text::new(&Tokenizer::new(vocab), &documents, Documents::Files, limit).unwrap()
    }

    #[test]
    fn every_token_stands_for_its_characters() {
        let check = |tokens, content: &[u8], expected: &[&str]| {
            let text = text(tokens, &[content], usize::MAX);
            let shown: Vec<String> = (0..text.len()).map(|t| text.shown(t..t + 1)).collect();
            assert_eq!(shown, expected, "{tokens}");
        };
        check(Tokens::Char, "aé\n".as_bytes(), &["a", "é", "\n"]);
        check(Tokens::Char, "\u{feff}aé".as_bytes(), &["a", "é"]);
        check(Tokens::Byte, "aé\n".as_bytes(), &["a", "é", "é", "\n"]);
        check(Tokens::Byte, b"a\xff", &["a", "\u{ff}"]);
        check(Tokens::Word, b"the cat\nsat", &["the", " cat", "\n", "sat", "\n"]);
    }

    #[test]
    fn lines_are_documents_that_begin_with_a_token_of_no_character() {
        let files = [Document { name: "a".to_owned(), bytes: "ab é\r\n\n b\n".into() }];
        for tokens in Tokens::ALL {
            let limits = Limits { min_count: 1, size: None, share: 1.0 };
            let tokenizer = Tokenizer::new(Vocab::build(tokens, &files, limits).unwrap());
            let read = |limit| Text::new(&tokenizer, &files, Documents::Lines, limit).unwrap();
            let text = read(usize::MAX);
            let corpus = tokenizer.line_corpus(&files).unwrap();
            assert_eq!(
                (text.tokens(), text.document_starts()),
                (&corpus.tokens[..], &corpus.document_starts[..])
            );
            let blank = if tokens == Tokens::Word { "" } else { " " };
            let shown: String = text.characters().iter().collect();
            assert_eq!(shown, format!("ab é\n{blank}b\n"), "{tokens}");
            assert!(text.document_starts().iter().all(|&start| text.span(start).is_empty()), "{tokens}");
            assert_eq!(
                (read(3).tokens(), read(1).document_starts()),
                (&corpus.tokens[..3], &[0][..]),
                "{tokens}"
            );
        }
    }

    #[test]
    fn documents_start_where_they_do_and_the_limit_holds() {
        let read = text(Tokens::Char, &[b"abc", b"", b"de"], usize::MAX);
        assert_eq!(read.document_starts(), [0, 3]);
        assert!(read.starts_document(3) && !read.starts_document(4));
        let read = text(Tokens::Byte, &["é".as_bytes(), b"de"], 3);
        assert_eq!((read.len(), read.shown(0..3).as_str(), read.document_starts()), (3, "éd", &[0, 2][..]));
        assert_eq!(text(Tokens::Char, &[b"abc", b"de"], 3).document_starts(), [0]);
        let part = text(Tokens::Char, &[b"abc", b"de"], 5).part(1..4);
        assert_eq!((part.shown(0..3).as_str(), part.document_starts()), ("bcd", &[0, 2][..]));
    }
}
