//! N-gram models with modified Kneser-Ney smoothing, interpolated (Kneser and Ney 1995; Chen and Goodman 1999):
//! what counting alone can do, to hold a recurrent net against.
//!
//! ```text
//! P(w | context) = (count(context w) - D) / count(context) + rest · P(w | shorter context)
//! ```
//!
//! The longest context counts how often a word followed it; the shorter ones in how many different contexts.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// The longest n-gram.
pub(crate) const LONGEST: usize = 6;

/// All n-gram models up to order 6 over one text.
///
/// ```
/// use carousel::lens::Ngrams;
///
/// let tokens = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1];
/// let ngrams = Ngrams::count(&tokens, &[0], 3);
/// let [unigram, bigram, ..] = ngrams.probabilities(&[0, 1], 2);
/// assert!((unigram - 3.0 / 11.0).abs() < 0.05); // how often 2 occurs
/// assert!(bigram > 2.0 * unigram); // after 1 always
/// let all: f64 = (0..3).map(|token| ngrams.probabilities(&[0, 1], token)[5]).sum();
/// assert!((all - 1.0).abs() < 1e-9);
/// ```
#[derive(Debug)]
pub struct Ngrams {
    vocabulary: usize,
    orders: [Order; LONGEST],
}

/// Keys are hashes already.
#[derive(Default)]
struct Plain(u64);

impl Hasher for Plain {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are 64-bit numbers")
    }
    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

type Table<T> = HashMap<u64, T, BuildHasherDefault<Plain>>;

/// The n-grams of one length.
#[derive(Debug, Default)]
struct Order {
    grams: Table<Gram>,
    contexts: Table<[Context; 2]>,
    /// What is taken off counts of 1, 2 and more.
    discounts: [[f64; 3]; 2],
}

#[derive(Clone, Copy, Debug)]
struct Gram {
    /// How often it occurs, and after how many different tokens.
    counts: [u32; 2],
    context: u64,
}

/// Everything that follows a context, by plain counts or by different contexts.
#[derive(Clone, Copy, Debug, Default)]
struct Context {
    total: u64,
    /// Followers counted once, twice and more often.
    kinds: [u32; 3],
}

/// The longest context's counts, and the shorter ones'.
const TIMES: usize = 0;
const WAYS: usize = 1;

fn extend(hash: u64, token: u32) -> u64 {
    // The finalizer of SplitMix64 (Steele, Lea and Flood 2014).
    let mut value = hash.wrapping_add(u64::from(token)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn hash(tokens: &[u32]) -> u64 {
    tokens.iter().fold(0, |hash, &token| extend(hash, token))
}

impl Ngrams {
    /// Counts a text of `vocabulary` different tokens. No n-gram crosses the start of a document.
    #[must_use]
    pub fn count(tokens: &[u32], document_starts: &[usize], vocabulary: usize) -> Ngrams {
        let mut orders: [Order; LONGEST] = std::array::from_fn(|_| Order::default());
        let mut starts = document_starts.iter().copied().peekable();
        let mut start = 0;
        for end in 0..tokens.len() {
            while let Some(next) = starts.next_if(|&next| next <= end) {
                start = next;
            }
            for length in 1..=LONGEST.min(end + 1 - start) {
                let context = hash(&tokens[end + 1 - length..end]);
                let key = extend(context, tokens[end]);
                let gram = orders[length - 1].grams.entry(key).or_insert(Gram { counts: [0, 0], context });
                gram.counts[TIMES] = gram.counts[TIMES].saturating_add(1);
                if gram.counts[TIMES] == 1 && length > 1 {
                    let shorter = hash(&tokens[end + 2 - length..=end]);
                    if let Some(shorter) = orders[length - 2].grams.get_mut(&shorter) {
                        shorter.counts[WAYS] += 1;
                    }
                }
            }
        }
        for order in &mut orders {
            order.close();
        }
        Ngrams { vocabulary, orders }
    }

    /// The probability of a token after a history, by the models of order 1 to 6.
    #[must_use]
    pub fn probabilities(&self, history: &[u32], token: u32) -> [f64; LONGEST] {
        let mut found = [0.0; LONGEST];
        // By the number of different contexts, of ever longer ones.
        let mut lower = 1.0 / self.vocabulary as f64;
        for (length, order) in self.orders.iter().enumerate() {
            let known = history.len().checked_sub(length).map(|from| hash(&history[from..]));
            let Some(context) = known else {
                found[length] = found[length - 1];
                continue;
            };
            found[length] = order.probability(context, token, TIMES, lower);
            lower = order.probability(context, token, WAYS, lower);
        }
        found
    }
}

impl Order {
    /// Sums over contexts and estimates the discounts.
    fn close(&mut self) {
        // How many n-grams were counted 1, 2, 3 and 4 times.
        let mut rare = [[0f64; 4]; 2];
        for gram in self.grams.values() {
            let contexts = self.contexts.entry(gram.context).or_default();
            for (which, context) in contexts.iter_mut().enumerate() {
                let count = gram.counts[which];
                if count > 0 {
                    context.total += u64::from(count);
                    context.kinds[(count as usize).min(3) - 1] += 1;
                    if count <= 4 {
                        rare[which][count as usize - 1] += 1.0;
                    }
                }
            }
        }
        for (discounts, [n1, n2, n3, n4]) in self.discounts.iter_mut().zip(rare) {
            // A text with too few rare n-grams tells nothing about them; half a count is the usual guess.
            let y = if n1 > 0.0 && n2 > 0.0 { n1 / (n1 + 2.0 * n2) } else { 0.5 };
            let discount = |kind: f64, here: f64, next: f64| {
                if here > 0.0 && next > 0.0 {
                    (kind - (kind + 1.0) * y * next / here).clamp(0.05, kind)
                } else {
                    0.5
                }
            };
            *discounts = [discount(1.0, n1, n2).min(0.95), discount(2.0, n2, n3), discount(3.0, n3, n4)];
        }
    }

    /// `lower` is the probability after the shorter context.
    fn probability(&self, context: u64, token: u32, which: usize, lower: f64) -> f64 {
        let Some(followers) = self.contexts.get(&context).map(|contexts| contexts[which]) else {
            return lower;
        };
        if followers.total == 0 {
            return lower;
        }
        let discounts = &self.discounts[which];
        let count = self.grams.get(&extend(context, token)).map_or(0, |gram| gram.counts[which]);
        let own = match count {
            0 => 0.0,
            count => f64::from(count) - discounts[(count as usize).min(3) - 1],
        };
        let taken: f64 =
            followers.kinds.iter().zip(discounts).map(|(&kinds, discount)| f64::from(kinds) * discount).sum();
        (own + taken * lower) / followers.total as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(count: usize) -> Vec<u32> {
        let mut state = 1u64;
        let mut before = 0;
        (0..count)
            .map(|_| {
                state = extend(state, 7);
                before = if state.is_multiple_of(3) { (state >> 8) as u32 % 5 } else { (before * 2 + 1) % 5 };
                before
            })
            .collect()
    }

    #[test]
    fn probabilities_of_all_tokens_add_up_to_one_at_every_order() {
        let tokens = text(500);
        let ngrams = Ngrams::count(&tokens, &[0, 200], 6);
        for history in [&[][..], &[3], &[5, 5], &tokens[40..50], &[0, 4, 5, 1, 2, 3, 3]] {
            let mut sums = [0.0; LONGEST];
            for token in 0..6 {
                for (sum, probability) in sums.iter_mut().zip(ngrams.probabilities(history, token)) {
                    assert!(probability > 0.0, "{history:?} {token}");
                    *sum += probability;
                }
            }
            assert!(sums.iter().all(|sum| (sum - 1.0).abs() < 1e-9), "{history:?}: {sums:?}");
        }
    }

    /// Worked by hand with the formula above. Text a b a b a c: after a come b, b, c.
    #[test]
    fn a_small_case_by_hand() {
        let [a, b, c] = [0, 1, 2];
        let ngrams = Ngrams::count(&[a, b, a, b, a, c], &[0], 3);
        let order = &ngrams.orders[1];
        let d = order.discounts[TIMES];
        // Different tokens before a: b; before b: a; before c: a. So 1/3 each, less the discount, spread evenly.
        let unigram = 1.0 / 3.0;
        let expected = (2.0 - d[1] + (d[0] + d[1]) * unigram) / 3.0;
        let [_, found, ..] = ngrams.probabilities(&[a], b);
        assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        let [_, unseen, ..] = ngrams.probabilities(&[a], a);
        assert!((unseen - (d[0] + d[1]) * unigram / 3.0).abs() < 1e-12, "{unseen}");
    }

    #[test]
    fn documents_are_apart() {
        let apart = Ngrams::count(&[0, 1, 0, 1], &[0, 2], 2);
        assert!(!apart.orders[1].grams.contains_key(&hash(&[1, 0])));
        assert!(apart.orders[1].grams.contains_key(&hash(&[0, 1])));
        assert!(apart.orders[2].grams.is_empty());
    }
}
