//! Edit distance and what is counted with it.

/// Levenshtein distance: the fewest insertions, deletions and replacements that turn one sequence into the other.
#[must_use]
pub fn edits<T: PartialEq>(from: &[T], to: &[T]) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

/// Edits of tokens between answers and references: word error rate where tokens are words, phone error rate where
/// they are phones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenErrors {
    /// Edits that turn the answers into the nearest references.
    pub edits: usize,
    /// Tokens of those references.
    pub tokens: usize,
}

impl TokenErrors {
    /// Edits a token of the references; 0 where there is none.
    #[must_use]
    pub fn rate(self) -> f64 {
        self.edits as f64 / self.tokens.max(1) as f64
    }
}

/// Counts edits of tokens apart by blanks. Of several references the one with the lowest rate counts.
///
/// # Panics
/// When there are not as many lists of references as answers, or a list is empty.
#[must_use]
pub fn token_errors(answers: &[String], references: &[Vec<String>]) -> TokenErrors {
    assert_eq!(answers.len(), references.len(), "a list of references an answer");
    let mut sum = TokenErrors::default();
    for (answer, references) in answers.iter().zip(references) {
        let answer: Vec<&str> = answer.split_whitespace().collect();
        let counted = references.iter().map(|reference| {
            let reference: Vec<&str> = reference.split_whitespace().collect();
            TokenErrors { edits: edits(&answer, &reference), tokens: reference.len() }
        });
        let best = counted.min_by(|a, b| a.rate().total_cmp(&b.rate()).then(a.edits.cmp(&b.edits)));
        let best = best.expect("an answer has a reference");
        sum = TokenErrors { edits: sum.edits + best.edits, tokens: sum.tokens + best.tokens };
    }
    sum
}

/// How many answers are one of their references, blanks between tokens apart.
#[must_use]
pub fn exact_matches(answers: &[String], references: &[Vec<String>]) -> usize {
    let same = |a: &str, b: &str| a.split_whitespace().eq(b.split_whitespace());
    let pairs = answers.iter().zip(references);
    pairs.filter(|(answer, all)| all.iter().any(|reference| same(answer, reference))).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_the_fewest() {
        let check = |from: &str, to: &str, expected: usize| {
            let letters = |text: &str| text.chars().collect::<Vec<_>>();
            assert_eq!(edits(&letters(from), &letters(to)), expected, "{from} {to}");
            assert_eq!(edits(&letters(to), &letters(from)), expected, "{to} {from}");
        };
        check("", "", 0);
        check("", "abc", 3);
        check("kitten", "sitting", 3);
        check("abc", "bcd", 2);
    }

    #[test]
    fn the_nearest_reference_counts() {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        let answers = owned(&["a b  c", "x"]);
        let references = [owned(&["a q c d", "a b d"]), owned(&["x y"])];
        assert_eq!(token_errors(&answers, &references), TokenErrors { edits: 2, tokens: 5 });
        assert_eq!(exact_matches(&answers, &references), 0);
        assert_eq!(exact_matches(&answers, &[owned(&["z", "a b c"]), owned(&["x"])]), 2);
    }
}
