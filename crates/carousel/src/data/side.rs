//! One side of what is translated or written: text made uniform, split into tokens, turned into ids and back.

use unicode_normalization::UnicodeNormalization;

use super::{DataError, Document, Limits, Tokenizer, Tokens, Vocab};

/// Fills what a batch would have to be filled up with. Batches here are ragged, so it never occurs.
pub const PAD: u32 = 0;
/// Stands for what is not in the vocabulary.
pub const UNK: u32 = 1;
/// Begins every sentence.
pub const SOS: u32 = 2;
/// Ends every sentence.
pub const EOS: u32 = 3;
/// Their names, in order.
pub const SPECIAL: [&str; 4] = ["<pad>", "<unk>", "<sos>", "<eos>"];

/// Stands where a piece of a word was cut from its neighbour, so that text can be put together again.
pub const JOINER: char = '\u{ffed}';
/// What a joiner in the text itself becomes.
const JOINER_IN_TEXT: char = '\u{25a0}';

/// Unicode's normal forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormalForm {
    /// Text stays as it is.
    None,
    /// Composed.
    Nfc,
    /// Decomposed.
    Nfd,
    /// Composed, without differences of looks only.
    Nfkc,
    /// Decomposed, without differences of looks only.
    Nfkd,
}

impl NormalForm {
    fn apply(self, text: &str) -> String {
        match self {
            NormalForm::None => text.to_owned(),
            NormalForm::Nfc => text.nfc().collect(),
            NormalForm::Nfd => text.nfd().collect(),
            NormalForm::Nfkc => text.nfkc().collect(),
            NormalForm::Nfkd => text.nfkd().collect(),
        }
    }

    /// The form that keeps looks.
    fn canonical(self) -> NormalForm {
        match self {
            NormalForm::Nfkc => NormalForm::Nfc,
            NormalForm::Nfkd => NormalForm::Nfd,
            other => other,
        }
    }
}

/// How text is made uniform before it becomes tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uniform {
    /// Which code points are the same.
    pub form: NormalForm,
    /// Whether all letters become small.
    pub lowercase: bool,
}

impl Uniform {
    /// The uniform text.
    #[must_use]
    pub fn apply(self, text: &str) -> String {
        let text = self.form.apply(text.trim());
        if self.lowercase { text.to_lowercase() } else { text }
    }
}

/// Cuts words where letters and digits meet other characters. A joiner stands at the side of a piece that was cut,
/// so that [`join`] puts the text together again.
fn cut_words(text: &str) -> Vec<String> {
    let text = text.replace(JOINER, &JOINER_IN_TEXT.to_string());
    let mut pieces = Vec::new();
    for word in text.split_whitespace() {
        let mut current = String::new();
        let mut cut: Vec<(String, bool)> = Vec::new();
        for character in word.chars() {
            // Marks belong to the letter before them.
            let is_mark = unicode_normalization::char::is_combining_mark(character);
            if character.is_alphanumeric() || (is_mark && !current.is_empty()) {
                current.push(character);
                continue;
            }
            if !current.is_empty() {
                cut.push((std::mem::take(&mut current), true));
            }
            cut.push((character.to_string(), false));
        }
        if !current.is_empty() {
            cut.push((current, true));
        }
        let count = cut.len();
        for place in 0..count {
            let (piece, is_word) = &cut[place];
            if *is_word {
                pieces.push(piece.clone());
                continue;
            }
            // Of two pieces that meet, the first that is no word carries the joiner.
            let left = place > 0 && cut[place - 1].1;
            let right = place + 1 < count;
            let mark = |wanted: bool| if wanted { JOINER.to_string() } else { String::new() };
            pieces.push(format!("{}{piece}{}", mark(left), mark(right)));
        }
    }
    pieces
}

/// Words to text: a blank between two, but none where a joiner stands.
fn join<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let mut text = String::new();
    let mut joined = true;
    for word in words {
        let bare = word.trim_matches(JOINER);
        if !joined && !word.starts_with(JOINER) {
            text.push(' ');
        }
        text.push_str(bare);
        joined = word.ends_with(JOINER);
    }
    text
}

/// What one side's text is split into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Splitting {
    /// What a token is; not bytes.
    pub tokens: Tokens,
    /// Whether words are cut where letters and digits meet other characters.
    pub punctuation: bool,
}

impl Splitting {
    fn pieces(self, text: &str) -> Vec<String> {
        match self.tokens {
            Tokens::Word if self.punctuation => cut_words(text),
            Tokens::Word => text.split_whitespace().map(str::to_owned).collect(),
            Tokens::Byte | Tokens::Char | Tokens::Bpe => text.chars().map(String::from).collect(),
        }
    }
}

/// One side of a translation: its texts as ids and back. Ids begin with [`SPECIAL`].
#[derive(Clone, Debug)]
pub struct Side {
    tokenizer: Tokenizer,
    uniform: Uniform,
    splitting: Splitting,
}

impl Side {
    /// Learns a vocabulary from texts that are not uniform yet. `limits.size` counts [`SPECIAL`].
    ///
    /// # Errors
    /// [`DataError::Bpe`] where byte pairs cannot be learned.
    pub fn learn<'a>(
        texts: impl IntoIterator<Item = &'a str>,
        uniform: Uniform,
        splitting: Splitting,
        limits: Limits,
    ) -> Result<Side, DataError> {
        let texts = texts.into_iter().map(|text| uniform.apply(text));
        let vocab = if splitting.tokens == Tokens::Bpe {
            let bytes = texts.map(|text| text + "\n").collect::<String>().into_bytes();
            let size = limits.size.map(|size| size.saturating_sub(SPECIAL.len()));
            let document = Document { name: "pairs".to_owned(), bytes };
            Vocab::build(Tokens::Bpe, &[document], Limits { size, share: 1.0, ..limits })?
        } else {
            let pieces: Vec<Vec<String>> = texts.map(|text| splitting.pieces(&text)).collect();
            // The vocabulary counts specials of its own.
            let own = own_specials(splitting.tokens);
            let size = limits.size.map(|size| size.saturating_sub(SPECIAL.len() - own));
            Vocab::of_pieces(
                splitting.tokens,
                pieces.iter().flatten().map(String::as_str),
                Limits { size, ..limits },
            )
        };
        Ok(Side::new(vocab, uniform, splitting))
    }

    /// A side over a vocabulary that was learned.
    #[must_use]
    pub fn new(vocab: Vocab, uniform: Uniform, splitting: Splitting) -> Side {
        let splitting = Splitting { tokens: vocab.tokens(), ..splitting };
        Side { tokenizer: Tokenizer::new(vocab), uniform, splitting }
    }

    /// The vocabulary without [`SPECIAL`].
    #[must_use]
    pub fn vocab(&self) -> &Vocab {
        self.tokenizer.vocab()
    }

    /// `V`, [`SPECIAL`] included.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a vocabulary always has an entry")]
    pub fn len(&self) -> usize {
        self.vocab().len() + SPECIAL.len() - own_specials(self.splitting.tokens)
    }

    /// The tokens of a text as they are written, without [`SPECIAL`].
    #[must_use]
    pub fn pieces(&self, text: &str) -> Vec<String> {
        let text = self.uniform.apply(text);
        match self.splitting.tokens {
            Tokens::Bpe => {
                self.tokenizer.encode(&text).iter().map(|&id| self.tokenizer.decode(&[id])).collect()
            }
            _ => self.splitting.pieces(&text),
        }
    }

    /// The ids of a text, between [`SOS`] and [`EOS`]: a text of n tokens takes n + 2 places.
    #[must_use]
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = vec![SOS];
        ids.extend(self.encode_open(text));
        ids.push(EOS);
        ids
    }

    /// The ids of a text alone.
    #[must_use]
    pub fn encode_open(&self, text: &str) -> Vec<u32> {
        let text = self.uniform.apply(text);
        let own = own_specials(self.splitting.tokens) as u32;
        let outer = |id: u32| if id < own { UNK } else { id + SPECIAL.len() as u32 - own };
        match self.splitting.tokens {
            Tokens::Bpe => self.tokenizer.encode(&text).into_iter().map(outer).collect(),
            _ => {
                let pieces = self.splitting.pieces(&text);
                pieces.iter().map(|piece| outer(self.vocab().piece(piece))).collect()
            }
        }
    }

    /// The token of an id as it is shown.
    #[must_use]
    pub fn shown(&self, id: u32) -> String {
        match SPECIAL.get(id as usize) {
            Some(name) => (*name).to_owned(),
            None => self.tokenizer.decode(&[self.inner(id)]),
        }
    }

    fn inner(&self, id: u32) -> u32 {
        id + own_specials(self.splitting.tokens) as u32 - SPECIAL.len() as u32
    }

    /// The text of ids, as far as the first [`EOS`]; [`UNK`] as `replace` says, which is given the place.
    #[must_use]
    pub fn decode(&self, ids: &[u32], mut replace: impl FnMut(usize) -> String) -> String {
        let text =
            ids.iter().take_while(|&&id| id != EOS).enumerate().filter(|(_, id)| !matches!(**id, PAD | SOS));
        match self.splitting.tokens {
            Tokens::Word => {
                let words: Vec<String> = text
                    .map(|(place, &id)| if id == UNK { replace(place) } else { self.shown(id) })
                    .collect();
                join(words.iter().map(String::as_str))
            }
            Tokens::Bpe => {
                let ids: Vec<u32> =
                    text.filter(|(_, id)| **id != UNK).map(|(_, &id)| self.inner(id)).collect();
                self.tokenizer.decode(&ids)
            }
            _ => text.map(|(place, &id)| if id == UNK { replace(place) } else { self.shown(id) }).collect(),
        }
    }

    /// A text in the canonical Unicode form that its tokens come back in, the same text otherwise: what is spelled in
    /// another form is not another word.
    #[must_use]
    pub fn in_form(&self, text: &str) -> String {
        self.uniform.form.canonical().apply(text)
    }

    /// A text as it comes back from its tokens: uniform, known or not.
    #[must_use]
    pub fn normal(&self, text: &str) -> String {
        let text = self.uniform.apply(text);
        match self.splitting.tokens {
            Tokens::Word => join(self.splitting.pieces(&text).iter().map(String::as_str)),
            _ => text,
        }
    }
}

/// How many entries a vocabulary itself begins with that stand for no text.
fn own_specials(tokens: Tokens) -> usize {
    match tokens {
        Tokens::Byte | Tokens::Bpe => 0,
        Tokens::Char => 1,
        Tokens::Word => 2,
    }
}

/// How many places a sentence may take, [`SOS`] and [`EOS`] included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MaxLen {
    /// As many as the longest takes.
    Auto,
    /// As many as this share of the sentences takes at most.
    Quantile(f64),
    /// So many.
    Places(usize),
}

/// More places than this are a mistake in a file, not a sentence.
pub const MOST_PLACES: usize = 10_000;

impl MaxLen {
    /// The number of places, for sentences that take these.
    #[must_use]
    pub fn resolve(self, lengths: &[usize]) -> usize {
        let mut lengths = lengths.to_vec();
        lengths.sort_unstable();
        let longest = lengths.last().copied().unwrap_or(2);
        match self {
            MaxLen::Places(places) => places,
            MaxLen::Auto => longest,
            MaxLen::Quantile(share) => {
                let place = (share * lengths.len() as f64).ceil() as usize;
                lengths.get(place.max(1) - 1).copied().unwrap_or(longest)
            }
        }
    }
}

/// What becomes of a sentence that takes too many places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooLong {
    /// Its pair is left out.
    Drop,
    /// What is too much at its end is cut off; [`EOS`] stays.
    Cut,
}

/// Cuts ids to `most` places; true where something was cut.
pub fn cut(ids: &mut Vec<u32>, most: usize) -> bool {
    let long = ids.len() > most.max(2);
    if long {
        ids.truncate(most.max(2) - 1);
        ids.push(EOS);
    }
    long
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const PLAIN: Uniform = Uniform { form: NormalForm::Nfc, lowercase: false };
    const ALL: Limits = Limits { min_count: 1, size: None, share: 1.0 };

    fn side(tokens: Tokens, texts: &[&str]) -> Side {
        let splitting = Splitting { tokens, punctuation: true };
        Side::learn(texts.iter().copied(), PLAIN, splitting, ALL).unwrap()
    }

    #[test]
    fn text_comes_back_from_its_tokens() {
        let texts = [
            "Hello, world!",
            "l'été (c'est 3.5) -- «non»...",
            "don't e-mail",
            "a ' b \" c",
            "한국어 말을?!",
            "x",
        ];
        for tokens in [Tokens::Word, Tokens::Char, Tokens::Bpe] {
            let side = side(tokens, &texts);
            for text in texts {
                let ids = side.encode(text);
                assert_eq!((ids[0], ids[ids.len() - 1]), (SOS, EOS));
                assert!(ids[1..ids.len() - 1].iter().all(|&id| id > EOS && (id as usize) < side.len()));
                assert_eq!(side.decode(&ids, |_| unreachable!()), text, "{tokens}");
                assert_eq!(side.normal(text), text);
            }
        }
        let pieces = side(Tokens::Word, &texts).pieces("don't, ok");
        assert_eq!(pieces, ["don", "￭'￭", "t", "￭,", "ok"]);
    }

    #[test]
    fn text_never_becomes_a_special_token() {
        for tokens in [Tokens::Word, Tokens::Char] {
            let splitting = Splitting { tokens, punctuation: false };
            let side = Side::learn(["<eos> <unk> <sos> a"], PLAIN, splitting, ALL).unwrap();
            let ids = side.encode_open("<eos> <sos> <pad> <unk> a");
            assert!(ids.iter().all(|&id| id == UNK || id > EOS), "{tokens} {ids:?}");
        }
        let side = side(Tokens::Word, &["a b"]);
        assert_eq!(side.decode(&[SOS, 4, UNK, EOS, 5], |place| format!("?{place}")), "a ?2");
    }

    #[test]
    fn unicode_is_made_uniform() {
        let check = |form, lowercase, text: &str, expected: &str| {
            assert_eq!(Uniform { form, lowercase }.apply(text), expected);
        };
        check(NormalForm::Nfc, false, " e\u{301}A ", "éA");
        check(NormalForm::Nfd, false, "é", "e\u{301}");
        check(NormalForm::Nfkc, true, "ﬁÉ", "fié");
        check(NormalForm::Nfkd, false, "ﬁ", "fi");
        check(NormalForm::None, false, "e\u{301}", "e\u{301}");
    }

    #[test]
    fn places_follow_from_the_lengths_there_are() {
        let lengths = [5, 6, 3];
        assert_eq!(MaxLen::Auto.resolve(&lengths), 6);
        assert_eq!(MaxLen::Places(4).resolve(&lengths), 4);
        // Two of three sentences take at most 5 places.
        assert_eq!(MaxLen::Quantile(0.66).resolve(&lengths), 5);
        assert_eq!(MaxLen::Quantile(0.67).resolve(&lengths), 6);
        assert_eq!(MaxLen::Quantile(0.01).resolve(&lengths), 3);
    }
}
