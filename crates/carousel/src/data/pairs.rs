//! Pairs of texts to be translated: read from files, made uniform, split into tokens, and turned into ids.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;

use super::table::{Quoting, read_table};
use super::{DataError, Document, Limits, Tokenizer, Tokens, Vocab, at, fails, unpacked};

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

/// How pairs stand in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairFormat {
    /// What the names and the first lines say: `.dict` a pronouncing dictionary; `.csv`, `.jsonl`, `.ndjson` and `.json`,
    /// and whatever it is where a column is named, a table; tabs in the first line columns; otherwise files side by side.
    Auto,
    /// Columns with tabs between, no header.
    Columns,
    /// A table whose first line names its columns, or one JSON object a line; see [`read_table`].
    Table,
    /// Files of the same number of lines: source, target, source, target, …
    Files,
    /// As CMUdict: a word, a blank, its phones; `word(2)` is another way to say a word, `#` begins a comment.
    Dictionary,
}

/// Which pairs are read, and how.
#[derive(Clone, Copy, Debug)]
pub struct PairColumns<'a> {
    /// How they stand in files.
    pub format: PairFormat,
    /// The column of the source, counted from 1; of files side by side, which of the two.
    pub source: usize,
    /// That of the target.
    pub target: usize,
    /// Their names in a table; `source` and `target` where none are given.
    pub names: [Option<&'a str>; 2],
    /// Whether a field of a table may stand in quotes.
    pub quoting: Quoting,
    /// Whether the phones of a dictionary keep the digits of their stress.
    pub stress: bool,
}

/// Two texts that mean the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextPair {
    /// What is read.
    pub source: String,
    /// What is to be written.
    pub target: String,
    /// File and line.
    pub place: String,
}

/// Reads pairs. The second value is the number of lines left out because a side is empty.
///
/// # Errors
/// [`DataError`] with file and line: too few columns, files of different length, text that is not UTF-8, or not one
/// pair.
pub fn read_pairs(
    documents: &[Document],
    columns: PairColumns<'_>,
) -> Result<(Vec<TextPair>, usize), DataError> {
    let mut raw = Vec::new();
    match format_of(documents, columns) {
        PairFormat::Dictionary => {
            for document in documents {
                read_dictionary(document, columns, &mut raw)?;
            }
        }
        PairFormat::Files => read_files(documents, columns, &mut raw)?,
        PairFormat::Table => {
            for document in documents {
                read_named(document, columns, &mut raw)?;
            }
        }
        PairFormat::Auto | PairFormat::Columns => {
            for document in documents {
                read_columns(document, columns, &mut raw)?;
            }
        }
    }
    let all = raw.len();
    raw.retain(|pair| !pair.source.trim().is_empty() && !pair.target.trim().is_empty());
    if raw.is_empty() {
        let names: Vec<&str> = documents.iter().map(|document| document.name.as_str()).collect();
        let reason = "it has no pair with text on both sides, expected at least one".to_owned();
        return Err(DataError::File { name: names.join(", "), reason });
    }
    Ok((raw.clone(), all - raw.len()))
}

fn format_of(documents: &[Document], columns: PairColumns<'_>) -> PairFormat {
    if columns.format != PairFormat::Auto {
        return columns.format;
    }
    let ends = |endings: &[&str]| {
        let ends = |name: &str| endings.iter().any(|ending| name.to_ascii_lowercase().ends_with(ending));
        documents.iter().all(|document| ends(unpacked(&document.name)))
    };
    if columns.names != [None, None] || ends(&[".csv", ".jsonl", ".ndjson", ".json"]) {
        return PairFormat::Table;
    }
    let first = |document: &Document| -> Vec<u8> {
        document.bytes.split(|&byte| byte == b'\n').next().unwrap_or_default().to_vec()
    };
    if ends(&[".dict"]) {
        PairFormat::Dictionary
    } else if documents.len().is_multiple_of(2)
        && documents
            .iter()
            .all(|document| !first(document).contains(&b'\t') && !unpacked(&document.name).ends_with(".tsv"))
    {
        PairFormat::Files
    } else {
        PairFormat::Columns
    }
}

/// The lines of a file, without their ends.
fn lines(document: &Document) -> Result<Vec<&str>, DataError> {
    let text = document.text()?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    Ok(text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).collect())
}

fn read_columns(
    document: &Document,
    columns: PairColumns<'_>,
    pairs: &mut Vec<TextPair>,
) -> Result<(), DataError> {
    let lines = lines(document)?;
    refuse_numbers(document, &lines, columns)?;
    for (number, line) in (1..).zip(lines) {
        let place = format!("{}:{number}", document.name);
        if line.trim().is_empty() {
            pairs.push(TextPair { source: String::new(), target: String::new(), place });
            continue;
        }
        let fields: Vec<&str> = line.split('\t').collect();
        let (source, target) = (fields.get(columns.source - 1), fields.get(columns.target - 1));
        let (Some(source), Some(target)) = (source, target) else {
            let (found, wanted) = (fields.len(), columns.source.max(columns.target));
            let reason = format!(
                "{found} {} between tabs, expected at least {wanted} (data.source = {}, data.target = {})",
                if found == 1 { "column" } else { "columns" },
                columns.source,
                columns.target
            );
            return Err(at(&document.name, number, reason));
        };
        pairs.push(TextPair { source: (*source).to_owned(), target: (*target).to_owned(), place });
    }
    Ok(())
}

fn read_named(
    document: &Document,
    columns: PairColumns<'_>,
    pairs: &mut Vec<TextPair>,
) -> Result<(), DataError> {
    let table = read_table(document, columns.quoting)?;
    let place = |side: usize, otherwise, key| table.column(columns.names[side].unwrap_or(otherwise), key);
    let places = [place(0, "source", "data.source_column")?, place(1, "target", "data.target_column")?];
    for row in &table.rows {
        let [source, target] = places.map(|place| table.field(row, place).map(str::to_owned));
        pairs.push(TextPair {
            source: source?,
            target: target?,
            place: format!("{}:{}", document.name, row.line),
        });
    }
    Ok(())
}

/// Collections number their sentences: `id text id text`. Who asks for the first two columns there, as recipes do that
/// say nothing, asks for numbers and their texts.
fn refuse_numbers(document: &Document, lines: &[&str], columns: PairColumns<'_>) -> Result<(), DataError> {
    if (columns.source, columns.target) != (1, 2) {
        return Ok(());
    }
    let is_number = |line: &&&str, place: usize| {
        line.split('\t').nth(place).is_some_and(|field| field.trim().parse::<u64>().is_ok())
    };
    let told = || lines.iter().filter(|line| !line.trim().is_empty());
    let is_numbered =
        |line: &&str| [0, 1, 2, 3].map(|place| is_number(&line, place)) == [true, false, true, false];
    let has_four = told().next().is_some_and(|line| line.split('\t').count() == 4);
    if has_four && told().all(is_numbered) {
        let reason = "columns 1 and 3 number the texts beside them; set data.source=2 and data.target=4, or the other way";
        return Err(fails(document, reason));
    }
    Ok(())
}

fn read_files(
    documents: &[Document],
    columns: PairColumns<'_>,
    pairs: &mut Vec<TextPair>,
) -> Result<(), DataError> {
    if !documents.len().is_multiple_of(2) {
        let name = documents.last().map(|document| document.name.clone()).unwrap_or_default();
        let reason = format!(
            "{} files without tabs, expected two side by side, source and target, or columns with tabs between",
            documents.len()
        );
        return Err(DataError::File { name, reason });
    }
    if let Some(column) = [columns.source, columns.target].into_iter().find(|&column| column > 2) {
        let reason = format!("column {column} of two files side by side, expected 1 or 2");
        return Err(DataError::Examples { reason });
    }
    for two in documents.chunks_exact(2) {
        let sides = [lines(&two[0])?, lines(&two[1])?];
        let (source, target) = (&sides[columns.source - 1], &sides[columns.target - 1]);
        if source.len() != target.len() {
            let shorter = usize::from(sides[1].len() < sides[0].len());
            let reason = format!(
                "no line {} beside that of {}: {} has {} lines, {} has {}; lines of the two belong together",
                sides[shorter].len() + 1,
                two[1 - shorter].name,
                two[0].name,
                sides[0].len(),
                two[1].name,
                sides[1].len()
            );
            return Err(at(&two[shorter].name, sides[shorter].len() + 1, reason));
        }
        for (number, (source, target)) in (1..).zip(source.iter().zip(target)) {
            let place = format!("{}:{number}", two[columns.source - 1].name);
            pairs.push(TextPair { source: (*source).to_owned(), target: (*target).to_owned(), place });
        }
    }
    Ok(())
}

fn read_dictionary(
    document: &Document,
    columns: PairColumns<'_>,
    pairs: &mut Vec<TextPair>,
) -> Result<(), DataError> {
    for (number, line) in (1..).zip(lines(document)?) {
        if line.starts_with(";;;") {
            continue;
        }
        let line = line.split(" #").next().unwrap_or_default().trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((word, phones)) = line.split_once(char::is_whitespace) else {
            return Err(at(
                &document.name,
                number,
                format!("{line:?} has no phones, expected a word, a blank, its phones"),
            ));
        };
        // `word(2)` is another way to say `word`.
        let word = match word.strip_suffix(')').and_then(|word| word.rsplit_once('(')) {
            Some((word, variant))
                if variant.bytes().all(|byte| byte.is_ascii_digit()) && !variant.is_empty() =>
            {
                word
            }
            _ => word,
        };
        let phone = |phone: &str| match columns.stress {
            true => phone.to_owned(),
            false => phone.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned(),
        };
        let phones: Vec<String> = phones.split_whitespace().map(phone).collect();
        let sides = [word.to_owned(), phones.join(" ")];
        let side = |column: usize| sides.get(column - 1).cloned();
        let (Some(source), Some(target)) = (side(columns.source), side(columns.target)) else {
            let reason = "a dictionary has two columns, expected data.source and data.target of 1 and 2";
            return Err(DataError::Examples { reason: reason.to_owned() });
        };
        pairs.push(TextPair { source, target, place: format!("{}:{number}", document.name) });
    }
    Ok(())
}

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

/// A pair that is ready to be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncodedPair {
    /// The texts.
    #[serde(flatten)]
    pub text: TextPair,
    /// The source between [`SOS`] and [`EOS`].
    #[serde(rename = "source_ids")]
    pub source: Vec<u32>,
    /// The target between [`SOS`] and [`EOS`].
    #[serde(rename = "target_ids")]
    pub target: Vec<u32>,
}

/// What became of a part's pairs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairCounts {
    /// Pairs kept.
    pub pairs: usize,
    /// Lines left out because a side is empty.
    pub empty: usize,
    /// Pairs left out because a side is too long.
    pub dropped: usize,
    /// Pairs of which a side was cut.
    pub cut: usize,
    /// Tokens of the sources, without the two at the ends.
    pub source_tokens: usize,
    /// Those among them that are not in the vocabulary.
    pub source_unknown: usize,
    /// Tokens of the targets, without the two at the ends.
    pub target_tokens: usize,
    /// Those among them that are not in the vocabulary.
    pub target_unknown: usize,
    /// How many sources take how many places.
    pub source_places: BTreeMap<usize, usize>,
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

/// Turns pairs into ids and keeps them within `max_len` places, those of the source first.
#[must_use]
pub fn encode_pairs(
    pairs: Vec<TextPair>,
    sides: [&Side; 2],
    max_len: [usize; 2],
    too_long: TooLong,
) -> (Vec<EncodedPair>, PairCounts) {
    let mut counts = PairCounts::default();
    let mut kept = Vec::with_capacity(pairs.len());
    for text in pairs {
        let (mut source, mut target) = (sides[0].encode(&text.source), sides[1].encode(&text.target));
        if too_long == TooLong::Drop && (source.len() > max_len[0] || target.len() > max_len[1]) {
            counts.dropped += 1;
            continue;
        }
        let both = [cut(&mut source, max_len[0]), cut(&mut target, max_len[1])];
        counts.cut += usize::from(both[0] || both[1]);
        let unknown = |ids: &[u32]| ids.iter().filter(|&&id| id == UNK).count();
        counts.source_tokens += source.len() - 2;
        counts.target_tokens += target.len() - 2;
        counts.source_unknown += unknown(&source);
        counts.target_unknown += unknown(&target);
        *counts.source_places.entry(source.len()).or_default() += 1;
        kept.push(EncodedPair { text, source, target });
    }
    counts.pairs = kept.len();
    (kept, counts)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const PLAIN: Uniform = Uniform { form: NormalForm::Nfc, lowercase: false };
    const ALL: Limits = Limits { min_count: 1, size: None, share: 1.0 };

    fn document(name: &str, text: &str) -> Document {
        Document { name: name.to_owned(), bytes: text.as_bytes().to_vec() }
    }

    fn columns(source: usize, target: usize) -> PairColumns<'static> {
        let names = [None, None];
        PairColumns { format: PairFormat::Auto, source, target, names, quoting: Quoting::On, stress: false }
    }

    fn named(source: &'static str, target: &'static str) -> PairColumns<'static> {
        PairColumns { names: [Some(source), Some(target)], ..columns(1, 2) }
    }

    fn side(tokens: Tokens, texts: &[&str]) -> Side {
        let splitting = Splitting { tokens, punctuation: true };
        Side::learn(texts.iter().copied(), PLAIN, splitting, ALL).unwrap()
    }

    #[test]
    fn every_form_of_pairs_is_read() {
        let check = |files: &[(&str, &str)], columns, expected: &[(&str, &str, &str)], empty: usize| {
            let documents: Vec<Document> = files.iter().map(|(name, text)| document(name, text)).collect();
            let (pairs, left_out) = read_pairs(&documents, columns).unwrap();
            let found: Vec<(&str, &str, &str)> = pairs
                .iter()
                .map(|pair| (pair.source.as_str(), pair.target.as_str(), pair.place.as_str()))
                .collect();
            assert_eq!(found, expected);
            assert_eq!(left_out, empty);
        };
        let tsv = [("a.txt", "\u{feff}a\tb\tby\r\n\n c\t\nd\te\n")];
        check(&tsv, columns(1, 2), &[("a", "b", "a.txt:1"), ("d", "e", "a.txt:4")], 2);
        check(&tsv, columns(2, 1), &[("b", "a", "a.txt:1"), ("e", "d", "a.txt:4")], 2);
        let files = [("t.de", "eins\n\nzwei\n"), ("t.en", "one\nx\ntwo")];
        check(&files, columns(1, 2), &[("eins", "one", "t.de:1"), ("zwei", "two", "t.de:3")], 1);
        check(&files, columns(2, 1), &[("one", "eins", "t.en:1"), ("two", "zwei", "t.en:3")], 1);
        let dict = "# c\n;;; c\nread R EH1 D\nread(2) R IY1 D # present\nf(x) F\n";
        let said =
            [("read", "R EH D", "c.dict:3"), ("read", "R IY D", "c.dict:4"), ("f(x)", "F", "c.dict:5")];
        check(&[("c.dict", dict)], columns(1, 2), &said, 0);
        let stressed = PairColumns { stress: true, ..columns(1, 2) };
        assert_eq!(read_pairs(&[document("c.dict", dict)], stressed).unwrap().0[0].target, "R EH1 D");
        let csv = [("a.csv", "en,note,fr\n\"a, b\",x,c\n,y,d\ne,z,f\n")];
        check(&csv, named("fr", "en"), &[("c", "a, b", "a.csv:2"), ("f", "e", "a.csv:4")], 1);
        let tsv = [("a.tsv", "en\tfr\na\tb\n")];
        check(&tsv, named("en", "fr"), &[("a", "b", "a.tsv:2")], 0);
        let json = [("a.jsonl.gz", "{\"source\": \"a\", \"target\": \"b\", \"ids\": [1]}\n")];
        check(&json, columns(1, 2), &[("a", "b", "a.jsonl.gz:1")], 0);
        let inner = [("a.json", "{\"translation\": {\"en\": \"a\", \"fr\": \"b\"}}\n")];
        check(&inner, named("translation.fr", "translation.en"), &[("b", "a", "a.json:1")], 0);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let check = |files: &[(&str, &str)], columns, expected: &str| {
            let documents: Vec<Document> = files.iter().map(|(name, text)| document(name, text)).collect();
            let found = read_pairs(&documents, columns).unwrap_err().to_string();
            assert!(found.contains(expected), "{found}");
        };
        check(
            &[("a.tsv", "a\tb\nc\n")],
            columns(1, 2),
            "a.tsv:2: 1 column between tabs, expected at least 2",
        );
        check(&[("a.tsv", "a\tb\n")], columns(1, 3), "a.tsv:1: 2 columns between tabs, expected at least 3");
        check(
            &[("a", "x\ny\n"), ("b", "x\n")],
            columns(1, 2),
            "b:2: no line 2 beside that of a: a has 2 lines, b has 1",
        );
        check(&[("a", "x\n")], columns(1, 2), "a:1: 1 column between tabs");
        check(&[("a", "x\n"), ("b", "y\n")], columns(1, 3), "column 3 of two files");
        check(&[("a.tsv", "\t\n")], columns(1, 2), "no pair with text on both sides");
        check(
            &[("a.csv", "en,fr\na,b\n")],
            columns(1, 2),
            "a.csv: no column is named \"source\", expected one of en, fr; set data.source_column",
        );
        check(
            &[("a.jsonl", "{\"source\": \"a\", \"target\": [1]}\n")],
            columns(1, 2),
            "a.jsonl:1: \"target\" is a list, expected text",
        );
        check(&[("c.dict", "word\n")], columns(1, 2), "c.dict:1: \"word\" has no phones");
        let broken = Document { name: "a.tsv".to_owned(), bytes: b"a\tb\nc\t\xff\n".to_vec() };
        let found = read_pairs(&[broken], columns(1, 2)).unwrap_err().to_string();
        assert!(found.starts_with("a.tsv:2: the line is not UTF-8"), "{found}");
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

    /// A sentence of n tokens takes n + 2 places.
    #[test]
    fn the_longest_sentence_counts_both_ends() {
        let pair = |source: &str| TextPair {
            source: source.to_owned(),
            target: "a".to_owned(),
            place: String::new(),
        };
        let side = side(Tokens::Word, &["a"]);
        let pairs = vec![pair("a a a"), pair("a a a a"), pair("a")];
        let lengths: Vec<usize> = pairs.iter().map(|pair| side.encode(&pair.source).len()).collect();
        assert_eq!(lengths, [5, 6, 3]);
        let check = |max_len: usize, too_long, kept: &[usize], dropped: usize, cut: usize| {
            let (found, counts) = encode_pairs(pairs.clone(), [&side, &side], [max_len, 9], too_long);
            assert_eq!(found.iter().map(|pair| pair.source.len()).collect::<Vec<_>>(), kept, "{max_len}");
            assert!(found.iter().all(|pair| pair.source.last() == Some(&EOS)));
            assert_eq!((counts.pairs, counts.dropped, counts.cut), (kept.len(), dropped, cut), "{max_len}");
        };
        check(6, TooLong::Drop, &[5, 6, 3], 0, 0);
        check(5, TooLong::Drop, &[5, 3], 1, 0);
        check(5, TooLong::Cut, &[5, 5, 3], 0, 1);
        check(4, TooLong::Drop, &[3], 2, 0);
        assert_eq!(MaxLen::Auto.resolve(&lengths), 6);
        assert_eq!(MaxLen::Places(4).resolve(&lengths), 4);
        // Two of three sentences take at most 5 places.
        assert_eq!(MaxLen::Quantile(0.66).resolve(&lengths), 5);
        assert_eq!(MaxLen::Quantile(0.67).resolve(&lengths), 6);
        assert_eq!(MaxLen::Quantile(0.01).resolve(&lengths), 3);
    }
}
