//! The names of classes and tags, and what there is of each.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::DataError;

/// What is wrong with a row whose class has no name.
pub(super) const NO_LABEL: &str = "the label is empty, expected the name of a class";

/// Names that stand for numbers from 0 on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Classes {
    names: Vec<String>,
    ids: HashMap<String, u32>,
}

impl TryFrom<Vec<String>> for Classes {
    type Error = String;

    fn try_from(names: Vec<String>) -> Result<Classes, String> {
        let ids: HashMap<String, u32> =
            names.iter().enumerate().map(|(id, name)| (name.clone(), id as u32)).collect();
        match ids.len() == names.len() {
            true => Ok(Classes { names, ids }),
            false => Err("a name is listed twice".to_owned()),
        }
    }
}

impl From<Classes> for Vec<String> {
    fn from(classes: Classes) -> Vec<String> {
        classes.names
    }
}

impl Classes {
    /// The names that occur, in alphabetical order; numbers by their value.
    pub fn collect<'a>(names: impl IntoIterator<Item = &'a str>) -> Classes {
        let mut names: Vec<String> = names
            .into_iter()
            .collect::<std::collections::BTreeSet<&str>>()
            .into_iter()
            .map(str::to_owned)
            .collect();
        if names.iter().all(|name| name.parse::<f64>().is_ok_and(f64::is_finite)) {
            let value = |name: &String| name.parse::<f64>().unwrap_or_default();
            names.sort_by(|a, b| value(a).total_cmp(&value(b)));
        }
        Classes::try_from(names).expect("a set has every name once")
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The number of a name.
    #[must_use]
    pub fn id(&self, name: &str) -> Option<u32> {
        self.ids.get(name).copied()
    }

    /// All names, in order.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The number of a name that stands in a file.
    ///
    /// # Errors
    /// [`DataError::Line`] with the known names where it is none of them.
    pub fn find(&self, name: &str, file: &str, line: usize) -> Result<u32, DataError> {
        self.id(name).ok_or_else(|| {
            let known: Vec<&str> = self.names.iter().take(12).map(String::as_str).collect();
            let more = if self.names.len() > known.len() { ", …" } else { "" };
            DataError::Line {
                name: file.to_owned(),
                line,
                reason: format!(
                    "{name:?} does not occur in the training part, expected one of {}{more}",
                    known.join(", ")
                ),
            }
        })
    }
}

/// How many examples there are of each class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Names and numbers of examples, the most frequent first.
    pub by_class: Vec<(String, usize)>,
}

impl Counts {
    /// Counts names.
    pub fn collect<'a>(names: impl IntoIterator<Item = &'a str>) -> Counts {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        names.into_iter().for_each(|name| *counts.entry(name).or_default() += 1);
        Counts::of(counts)
    }

    /// Takes names that were counted; of those as frequent as each other the first comes first.
    pub fn of<'a>(counts: impl IntoIterator<Item = (&'a str, usize)>) -> Counts {
        let counts = counts.into_iter().filter(|(_, count)| *count > 0);
        let mut by_class: Vec<(String, usize)> =
            counts.map(|(name, count)| (name.to_owned(), count)).collect();
        by_class.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        Counts { by_class }
    }
}

/// How long sequences are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lengths {
    /// Sequences.
    pub count: usize,
    /// Sequences without a step.
    pub empty: usize,
    /// The shortest.
    pub shortest: usize,
    /// Half are no longer than this.
    pub median: usize,
    /// 95 of 100 are no longer than this.
    pub most: usize,
    /// The longest.
    pub longest: usize,
    /// All steps together.
    pub total: usize,
}

impl Lengths {
    /// Looks at lengths.
    #[must_use]
    pub fn of(mut lengths: Vec<usize>) -> Lengths {
        lengths.sort_unstable();
        let at = |share: f64| {
            let place = (lengths.len().saturating_sub(1)) as f64 * share;
            lengths.get(place as usize).copied().unwrap_or_default()
        };
        Lengths {
            count: lengths.len(),
            empty: lengths.iter().take_while(|&&length| length == 0).count(),
            shortest: at(0.0),
            median: at(0.5),
            most: at(0.95),
            longest: at(1.0),
            total: lengths.iter().sum(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_numbers_by_value() {
        let check = |names: &[&str], expected: &[&str]| {
            let classes = Classes::collect(names.iter().copied());
            assert_eq!(classes.names(), expected);
            let json = serde_json::to_string(&classes).unwrap();
            assert_eq!(serde_json::from_str::<Classes>(&json).unwrap(), classes);
        };
        check(&["pos", "neg", "pos"], &["neg", "pos"]);
        check(&["10", "9", "-1", "9"], &["-1", "9", "10"]);
        check(&["10", "9", "x"], &["10", "9", "x"]);
        assert!(serde_json::from_str::<Classes>(r#"["a","a"]"#).is_err());
    }

    #[test]
    fn lengths_are_summed_up() {
        let expected = Lengths { count: 5, empty: 1, shortest: 0, median: 2, most: 3, longest: 9, total: 15 };
        assert_eq!(Lengths::of(vec![9, 1, 0, 3, 2]), expected);
        assert_eq!(Lengths::of(Vec::new()), Lengths::default());
    }
}
