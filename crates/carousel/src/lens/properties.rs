//! Properties of a text, one value a token: what a unit may have learned to follow.
//!
//! The value at a token is what is true once it has been read: an opening quote is inside the quotes, the
//! closing one is not any more.

use regex::Regex;

use super::text::Text;

/// What the values of a property mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Yes (1) or no (0).
    Binary,
    /// A number; only its order counts.
    Number,
}

/// A property of a text.
///
/// ```
/// use carousel::lens::{Kind, Property, Text};
///
/// let text = Text::of_characters("say \"hi\" now");
/// let quoted = Property::built_in("double-quotes", &text).expect("it is built in");
/// assert_eq!(quoted.values, [0., 0., 0., 0., 1., 1., 1., 0., 0., 0., 0., 0.]);
/// // Any closure will do: here, vowels.
/// let vowels = Property::from_fn("vowel", Kind::Binary, &text, |characters, at| {
///     f32::from("aeiou".contains(characters[at]))
/// });
/// assert_eq!(vowels.values[1], 1.0);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Property {
    /// Its name.
    pub name: String,
    /// What the values mean.
    pub kind: Kind,
    /// One for each token of the text.
    pub values: Vec<f32>,
}

/// Why a property of the user's own could not be made.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum PropertyError {
    /// Not a regular expression.
    #[error("{pattern:?} is not a regular expression: {reason}")]
    Pattern {
        /// What was given.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A label that is not a number.
    #[error("label {place} is {found:?}, expected a number")]
    Label {
        /// Which label, counted from 1.
        place: usize,
        /// What stands there.
        found: String,
    },
    /// Another number of labels than of tokens.
    #[error("{found} labels for a text of {expected} tokens; give one label for each, separated by blanks")]
    Count {
        /// Labels given.
        found: usize,
        /// Tokens of the text.
        expected: usize,
    },
}

/// Characters of a label that is none, in a message.
const LABEL: usize = 30;

/// Which of a token's characters decides.
#[derive(Clone, Copy)]
enum At {
    First,
    Last,
}

/// A built-in property: its name, what it says, and how it is found.
struct BuiltIn {
    name: &'static str,
    meaning: &'static str,
    kind: Kind,
    at: At,
    /// Of one document's characters.
    find: fn(&[char]) -> Vec<f32>,
}

const fn yes_no(name: &'static str, meaning: &'static str, find: fn(&[char]) -> Vec<f32>) -> BuiltIn {
    BuiltIn { name, meaning, kind: Kind::Binary, at: At::Last, find }
}

const fn number(name: &'static str, meaning: &'static str, find: fn(&[char]) -> Vec<f32>) -> BuiltIn {
    BuiltIn { name, meaning, kind: Kind::Number, at: At::Last, find }
}

const BUILT_IN: [BuiltIn; 22] = [
    yes_no("double-quotes", "inside \"...\" or typographic quotes of a paragraph", double_quotes),
    yes_no("single-quotes", "inside '...'; apostrophes do not count", single_quotes),
    yes_no("parentheses", "inside (...)", |text| inside(&depth(text, '(', ')'))),
    number("parenthesis-depth", "how many ( are open", |text| depth(text, '(', ')')),
    yes_no("brackets", "inside [...]", |text| inside(&depth(text, '[', ']'))),
    number("bracket-depth", "how many [ are open", |text| depth(text, '[', ']')),
    yes_no("braces", "inside {...}", |text| inside(&depth(text, '{', '}'))),
    number("brace-depth", "how many { are open", |text| depth(text, '{', '}')),
    yes_no("if-condition", "inside the (...) after an `if`", if_condition),
    yes_no("comment", "inside // or /* */", |text| code(text, Code::is_comment)),
    yes_no("hash-comment", "from a # outside strings to the line's end", hash_comment),
    yes_no("string", "inside a string literal of code", |text| code(text, |code| *code == Code::String)),
    number("indentation", "white space at the line's start, in columns", indentation),
    number("line-position", "characters since the line began", line_position),
    number("line-remaining", "characters until the line ends", line_remaining),
    BuiltIn { at: At::First, ..yes_no("line-start", "first character of a line", line_start) },
    BuiltIn { at: At::First, ..yes_no("word-start", "first letter of a word", word_start) },
    BuiltIn {
        at: At::First,
        ..yes_no("upper-case", "an upper case letter", |text| each(text, char::is_uppercase))
    },
    yes_no("number", "inside a number", numbers),
    yes_no("newline", "a newline was just read", |text| each(text, |c| c == '\n')),
    number("sentence-position", "words since the sentence began", sentence_position),
    yes_no("quotation", "inside ``...'' or \"...\" of tokenized words", quotation),
];

impl Property {
    /// Names and meanings of the built-in properties.
    pub fn built_in_names() -> impl Iterator<Item = (&'static str, &'static str)> {
        BUILT_IN.iter().map(|property| (property.name, property.meaning))
    }

    /// A built-in property; `None` when there is none of this name.
    #[must_use]
    pub fn built_in(name: &str, text: &Text) -> Option<Property> {
        let BuiltIn { name, kind, at, find, .. } = BUILT_IN.iter().find(|property| property.name == name)?;
        let mut all = Vec::with_capacity(text.characters().len());
        let starts: Vec<usize> = text.document_characters().collect();
        for (index, &from) in starts.iter().enumerate() {
            let to = starts.get(index + 1).copied().unwrap_or(text.characters().len());
            all.extend(find(&text.characters()[from..to]));
        }
        Some(Property::sampled(name, *kind, text, *at, |at| all[at]))
    }

    /// Any property: `value` is asked at the last character of each token, with all characters at hand.
    pub fn from_fn(
        name: impl Into<String>,
        kind: Kind,
        text: &Text,
        value: impl Fn(&[char], usize) -> f32,
    ) -> Property {
        Property::sampled(&name.into(), kind, text, At::Last, |at| value(text.characters(), at))
    }

    fn sampled(name: &str, kind: Kind, text: &Text, at: At, value: impl Fn(usize) -> f32) -> Property {
        let values = (0..text.len()).map(|token| {
            let span = text.span(token);
            match at {
                _ if span.is_empty() => 0.0,
                At::First => {
                    let blank = |&place: &usize| text.characters()[place].is_whitespace();
                    let first = span.clone().find(|place| !blank(place)).unwrap_or(span.start);
                    value(first)
                }
                At::Last => value(span.end - 1),
            }
        });
        Property { name: name.to_owned(), kind, values: values.collect() }
    }

    /// Yes inside every match of a regular expression's first group, or of the whole where it has none.
    ///
    /// ```
    /// use carousel::lens::{Property, Text};
    ///
    /// let text = Text::of_characters("let x = 3;");
    /// let names = Property::from_pattern("name", r"let (\w+)", &text)?;
    /// assert_eq!(names.values.iter().position(|&value| value == 1.0), Some(4));
    /// # Ok::<(), carousel::lens::PropertyError>(())
    /// ```
    ///
    /// # Errors
    /// [`PropertyError::Pattern`].
    pub fn from_pattern(name: &str, pattern: &str, text: &Text) -> Result<Property, PropertyError> {
        let bad = |error: regex::Error| PropertyError::Pattern {
            pattern: pattern.to_owned(),
            reason: error.to_string().lines().last().unwrap_or_default().trim().to_owned(),
        };
        let regex = Regex::new(pattern).map_err(bad)?;
        let group = usize::from(regex.captures_len() > 1);
        let content: String = text.characters().iter().collect();
        let mut inside = vec![false; content.len()];
        for found in regex.captures_iter(&content) {
            if let Some(found) = found.get(group) {
                inside[found.range()].fill(true);
            }
        }
        let mut places = content.char_indices().map(|(byte, _)| inside[byte]);
        let by_character: Vec<bool> = places.by_ref().collect();
        Ok(Property::sampled(name, Kind::Binary, text, At::Last, |at| f32::from(by_character[at])))
    }

    /// Yes inside every occurrence of these words: whole words, upper and lower case as given.
    ///
    /// # Errors
    /// [`PropertyError::Pattern`] when the words together are too large a pattern.
    pub fn from_words(name: &str, words: &[String], text: &Text) -> Result<Property, PropertyError> {
        let escaped: Vec<String> = words.iter().map(|word| regex::escape(word)).collect();
        let pattern = format!(r"(?:^|[^\w])({})(?:$|[^\w])", escaped.join("|"));
        let regex = |pattern: &str| Property::from_pattern(name, pattern, text);
        // Word borders only where the word has one: a list may hold `->` as well.
        let bordered = words.iter().all(|word| {
            let is_word = |character: char| character.is_alphanumeric() || character == '_';
            word.starts_with(is_word) && word.ends_with(is_word)
        });
        if bordered { regex(&format!(r"\b({})\b", escaped.join("|"))) } else { regex(&pattern) }
    }

    /// The labels of a file: numbers separated by blanks, one for each token. Where all are 0 or 1 they mean
    /// no and yes.
    ///
    /// # Errors
    /// [`PropertyError::Label`] or [`PropertyError::Count`].
    pub fn from_labels(name: &str, labels: &str, text: &Text) -> Result<Property, PropertyError> {
        let values = labels
            .split_whitespace()
            .enumerate()
            .map(|(place, label)| {
                let value = label.parse::<f32>().ok().filter(|value| value.is_finite());
                let found = || label.chars().take(LABEL).collect();
                value.ok_or_else(|| PropertyError::Label { place: place + 1, found: found() })
            })
            .collect::<Result<Vec<f32>, _>>()?;
        // The text may have been cut short; its labels are then the first ones.
        if values.len() < text.len() {
            return Err(PropertyError::Count { found: values.len(), expected: text.len() });
        }
        let binary = values.iter().all(|&value| value == 0.0 || value == 1.0);
        let kind = if binary { Kind::Binary } else { Kind::Number };
        Ok(Property { name: name.to_owned(), kind, values: values[..text.len()].to_vec() })
    }

    /// The property over some of the tokens.
    ///
    /// # Panics
    /// When the tokens are not all there.
    #[must_use]
    pub fn part(&self, tokens: std::ops::Range<usize>) -> Property {
        Property { name: self.name.clone(), kind: self.kind, values: self.values[tokens].to_vec() }
    }

    /// Whether all values are the same, so that there is nothing to find.
    #[must_use]
    pub fn is_constant(&self) -> bool {
        self.values.windows(2).all(|pair| pair[0] == pair[1])
    }
}

fn each(text: &[char], holds: fn(char) -> bool) -> Vec<f32> {
    text.iter().map(|&character| f32::from(holds(character))).collect()
}

fn inside(depth: &[f32]) -> Vec<f32> {
    depth.iter().map(|&depth| f32::from(depth > 0.0)).collect()
}

/// Follows a text with a state; `step` gives the value after each character.
fn follow<S>(text: &[char], mut state: S, mut step: impl FnMut(&mut S, usize, char) -> f32) -> Vec<f32> {
    text.iter().enumerate().map(|(at, &character)| step(&mut state, at, character)).collect()
}

/// What code a character belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Code {
    #[default]
    Plain,
    LineComment,
    BlockComment,
    String,
    Character,
}

impl Code {
    fn is_comment(&self) -> bool {
        matches!(self, Code::LineComment | Code::BlockComment)
    }
}

/// Comments and literals of a C-like language. A string or character that is not closed ends with its line.
pub(super) fn scan(text: &[char]) -> Vec<Code> {
    let mut state = Code::Plain;
    let mut escaped = false;
    // Where a block comment began: its `/*` cannot be half of its `*/`.
    let mut began = 0;
    let mut codes = Vec::with_capacity(text.len());
    for (at, &character) in text.iter().enumerate() {
        let before = at.checked_sub(1).map(|at| text[at]);
        state = match state {
            Code::Plain => match character {
                '"' => Code::String,
                // A quote after a letter or digit is an apostrophe or a separator, no literal.
                '\'' if before.is_none_or(|before| !before.is_alphanumeric()) && closes(&text[at + 1..]) => {
                    Code::Character
                }
                // The slash belongs to the comment once the second character is there.
                '/' if before == Some('/') && codes.last() == Some(&Code::Plain) => Code::LineComment,
                '*' if before == Some('/') && codes.last() == Some(&Code::Plain) => {
                    began = at;
                    Code::BlockComment
                }
                _ => Code::Plain,
            },
            Code::LineComment if character == '\n' => Code::Plain,
            Code::BlockComment if character == '/' && before == Some('*') && at > began + 1 => Code::Plain,
            Code::String | Code::Character if character == '\n' && !escaped => Code::Plain,
            Code::String if character == '"' && !escaped => Code::Plain,
            Code::Character if character == '\'' && !escaped => Code::Plain,
            same => same,
        };
        let literal = matches!(state, Code::String | Code::Character);
        escaped = literal && character == '\\' && !escaped;
        codes.push(state);
    }
    codes
}

/// Whether a character literal ends soon: `a'`, `\n'`, `\x7f'`.
fn closes(rest: &[char]) -> bool {
    match rest {
        ['\\', tail @ ..] => tail.iter().take(9).skip(1).any(|&character| character == '\''),
        [_, '\'', ..] => true,
        _ => false,
    }
}

fn code(text: &[char], holds: fn(&Code) -> bool) -> Vec<f32> {
    scan(text).iter().map(|code| f32::from(holds(code))).collect()
}

/// Open brackets of one kind, those in comments and literals apart. Closing ones without an opening one do not
/// count.
fn depth(text: &[char], open: char, close: char) -> Vec<f32> {
    let codes = scan(text);
    follow(text, 0u32, |depth, at, character| {
        if codes[at] == Code::Plain {
            if character == open {
                *depth += 1;
            } else if character == close {
                *depth = depth.saturating_sub(1);
            }
        }
        *depth as f32
    })
}

/// Inside the parentheses that follow the word `if`.
fn if_condition(text: &[char]) -> Vec<f32> {
    #[derive(Clone, Copy)]
    enum If {
        No,
        /// The word was read; a parenthesis may come.
        Word,
        Inside(u32),
    }
    let codes = scan(text);
    let is_word = |at: usize| text.get(at).is_some_and(|&c| c.is_alphanumeric() || c == '_');
    follow(text, If::No, |state, at, character| {
        if codes[at] == Code::Plain {
            *state = match (*state, character) {
                (If::Inside(depth), '(') => If::Inside(depth + 1),
                (If::Inside(1), ')') => If::No,
                (If::Inside(depth), ')') => If::Inside(depth - 1),
                (If::Inside(depth), _) => If::Inside(depth),
                (If::Word, '(') => If::Inside(1),
                (_, 'f')
                    if at > 0 && text[at - 1] == 'i' && !is_word(at + 1) && (at < 2 || !is_word(at - 2)) =>
                {
                    If::Word
                }
                (If::Word, ' ' | '\t') => If::Word,
                _ => If::No,
            };
        }
        f32::from(matches!(state, If::Inside(_)))
    })
}

/// A quotation may run over lines, but not over an empty one.
fn double_quotes(text: &[char]) -> Vec<f32> {
    follow(text, false, |inside, at, character| {
        match character {
            '"' => *inside = !*inside,
            '\u{201c}' => *inside = true,
            '\u{201d}' => *inside = false,
            '\n' if at > 0 && text[at - 1] == '\n' => *inside = false,
            _ => {}
        }
        f32::from(*inside)
    })
}

/// Opens where no letter stands before and something stands behind, closes where no letter follows; ends with
/// the line.
fn single_quotes(text: &[char]) -> Vec<f32> {
    let letter = |at: Option<usize>| at.and_then(|at| text.get(at)).is_some_and(|c| c.is_alphanumeric());
    let blank = |at: usize| text.get(at).is_none_or(|c| c.is_whitespace());
    follow(text, false, |inside, at, character| {
        match character {
            '\'' if *inside => *inside = letter(Some(at + 1)),
            '\'' => *inside = !letter(at.checked_sub(1)) && !blank(at + 1),
            '\u{2018}' => *inside = true,
            '\u{2019}' if !letter(Some(at + 1)) => *inside = false,
            '\n' => *inside = false,
            _ => {}
        }
        f32::from(*inside)
    })
}

fn hash_comment(text: &[char]) -> Vec<f32> {
    let codes = scan(text);
    follow(text, false, |inside, at, character| {
        match character {
            '\n' => *inside = false,
            '#' if codes[at] == Code::Plain => *inside = true,
            _ => {}
        }
        f32::from(*inside)
    })
}

/// Columns of white space at the start of the line, as far as it was read; a tab goes to the next multiple of 4.
fn indentation(text: &[char]) -> Vec<f32> {
    follow(text, (0u32, true), |(columns, leading), _, character| {
        match character {
            '\n' => (*columns, *leading) = (0, true),
            ' ' if *leading => *columns += 1,
            '\t' if *leading => *columns = (*columns / 4 + 1) * 4,
            _ => *leading = false,
        }
        *columns as f32
    })
}

fn line_position(text: &[char]) -> Vec<f32> {
    follow(text, 0u32, |position, _, character| {
        *position = if character == '\n' { 0 } else { *position + 1 };
        *position as f32
    })
}

fn line_remaining(text: &[char]) -> Vec<f32> {
    let backwards: Vec<char> = text.iter().rev().copied().collect();
    let mut remaining = line_position(&backwards);
    remaining.reverse();
    remaining
}

fn line_start(text: &[char]) -> Vec<f32> {
    follow(text, (), |(), at, _| f32::from(at == 0 || text[at - 1] == '\n'))
}

fn word_start(text: &[char]) -> Vec<f32> {
    follow(text, (), |(), at, character| {
        f32::from(character.is_alphabetic() && (at == 0 || !text[at - 1].is_alphanumeric()))
    })
}

/// Digits, and letters and points between them: 12, 0x1f, 3.5. A digit inside a name is none.
fn numbers(text: &[char]) -> Vec<f32> {
    follow(text, (false, false), |(number, word), at, character| {
        let digit_next = text.get(at + 1).is_some_and(char::is_ascii_digit);
        let continues = character.is_alphanumeric() || (character == '.' && digit_next);
        let is_word = character.is_alphanumeric() || character == '_';
        *number = match (*number, *word) {
            (true, _) => continues,
            (false, false) => character.is_ascii_digit(),
            (false, true) => false,
        };
        *word = is_word;
        f32::from(*number)
    })
}

/// Words since the last `.`, `!` or `?` that ends a sentence, or an empty line. The first word has number 1.
fn sentence_position(text: &[char]) -> Vec<f32> {
    follow(text, (0u32, false), |(words, ended), at, character| {
        let fresh = at == 0 || text[at - 1].is_whitespace();
        if matches!(character, '.' | '!' | '?') {
            *ended = true;
        } else if character == '\n' && at > 0 && text[at - 1] == '\n' {
            (*words, *ended) = (0, false);
        } else if !character.is_whitespace() && fresh {
            *words = if *ended { 1 } else { *words + 1 };
            *ended = false;
        }
        *words as f32
    })
}

/// Quotation marks as corpora of words have them: ``opened'' and closed, or one mark for both.
fn quotation(text: &[char]) -> Vec<f32> {
    follow(text, false, |inside, at, character| {
        let twice = at > 0 && text[at - 1] == character;
        match character {
            '`' if twice => *inside = true,
            '\'' if twice => *inside = false,
            '"' => *inside = !*inside,
            '\u{201c}' => *inside = true,
            '\u{201d}' => *inside = false,
            _ => {}
        }
        f32::from(*inside)
    })
}
