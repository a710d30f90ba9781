//! ROUGE-L (Lin 2004): how long a row of tokens two texts have in common, gaps allowed.

/// ROUGE-L of one candidate against its references, from 0 to 1: the F-measure of the longest common subsequence's
/// share of the candidate (precision) and of a reference (recall), each weighing the same; the best reference counts.
#[must_use]
pub fn rouge_l<T: PartialEq>(candidate: &[T], references: &[Vec<T>]) -> f64 {
    let score = |reference: &Vec<T>| {
        let common = longest_common(candidate, reference) as f64;
        let lengths = (candidate.len() + reference.len()) as f64;
        if lengths == 0.0 { 1.0 } else { 2.0 * common / lengths }
    };
    references.iter().map(score).fold(0.0, f64::max)
}

/// Tokens of the longest common subsequence.
fn longest_common<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    let mut row = vec![0; b.len() + 1];
    for x in a {
        let mut corner = 0;
        for (place, y) in b.iter().enumerate() {
            let above = row[place + 1];
            row[place + 1] = if x == y { corner + 1 } else { above.max(row[place]) };
            corner = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sentences of Lin 2004, section 3.1, where both scores are 3 of 4 and 2 of 4.
    #[test]
    fn scores_are_those_of_the_paper() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let check = |candidate: &str, references: &[&str], expected: f64| {
            let references: Vec<Vec<String>> = references.iter().map(|text| words(text)).collect();
            let found = rouge_l(&words(candidate), &references);
            assert!((found - expected).abs() < 1e-12, "{candidate}: {found}");
        };
        let reference = "police killed the gunman";
        check("police kill the gunman", &[reference], 0.75);
        check("the gunman kill police", &[reference], 0.5);
        check("the gunman police killed", &[reference], 0.5);
        check("the gunman", &[reference], 2.0 / 3.0);
        check("a cat", &[reference, "a dog"], 0.5);
        check("nothing", &[reference], 0.0);
    }

    #[test]
    fn nothing_is_like_nothing_alone() {
        assert_eq!(rouge_l::<u32>(&[], &[vec![]]), 1.0);
        assert_eq!(rouge_l(&[], &[vec![1]]), 0.0);
        assert_eq!(rouge_l(&[1], &[]), 0.0);
    }
}
