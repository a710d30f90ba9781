//! Which class was taken for which.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

/// How often each class was given which.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confusion {
    /// Names of the classes.
    pub classes: Vec<String>,
    /// A row a class: how many of its examples were given each class.
    pub counts: Vec<Vec<u64>>,
}

/// How one class fared.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ClassScores {
    /// Of what was given this class, the share that is of it.
    pub precision: f64,
    /// Of what is of this class, the share that was given it.
    pub recall: f64,
    /// Their harmonic mean.
    pub f1: f64,
    /// Examples of this class.
    pub support: u64,
    /// Examples that were given this class.
    pub given: u64,
}

/// Columns of a terminal.
const WIDTH: usize = 80;

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

impl Confusion {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(classes: &[String]) -> Confusion {
        Confusion { classes: classes.to_vec(), counts: vec![vec![0; classes.len()]; classes.len()] }
    }

    /// Counts an answer.
    ///
    /// # Panics
    /// When a class is none.
    pub fn add(&mut self, expected: u32, found: u32) {
        self.counts[expected as usize][found as usize] += 1;
    }

    /// Examples.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().flatten().sum()
    }

    /// Examples that were given their own class.
    #[must_use]
    pub fn right(&self) -> u64 {
        (0..self.counts.len()).map(|class| self.counts[class][class]).sum()
    }

    /// The share of right answers.
    #[must_use]
    pub fn accuracy(&self) -> f64 {
        share(self.right(), self.total())
    }

    /// How each class fared.
    #[must_use]
    pub fn by_class(&self) -> Vec<ClassScores> {
        (0..self.classes.len())
            .map(|class| {
                let right = self.counts[class][class];
                let support = self.counts[class].iter().sum();
                let given = self.counts.iter().map(|row| row[class]).sum();
                ClassScores {
                    precision: share(right, given),
                    recall: share(right, support),
                    f1: share(2 * right, support + given),
                    support,
                    given,
                }
            })
            .collect()
    }

    /// The mean of F1 over the classes that occur or were given, as scikit-learn's macro average.
    #[must_use]
    pub fn macro_f1(&self) -> f64 {
        mean(self.by_class().iter().filter(|class| class.support + class.given > 0).map(|class| class.f1))
    }

    /// The mean of recall over the classes that occur.
    #[must_use]
    pub fn balanced_accuracy(&self) -> f64 {
        mean(self.by_class().iter().filter(|class| class.support > 0).map(|class| class.recall))
    }

    /// A table for a terminal of 80 columns: the matrix where it fits, otherwise each class with what it was taken
    /// for most often.
    #[must_use]
    pub fn to_text(&self) -> String {
        let digits = self.counts.iter().flatten().max().map_or(1, |most| most.to_string().len());
        let cell = digits.max(3) + 1;
        let names: Vec<String> = self.classes.iter().map(|name| shortened(name, 16)).collect();
        let label = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        if label + 2 + 8 + self.classes.len() * cell <= WIDTH {
            self.matrix(&names, label, cell)
        } else {
            self.list(&names, label)
        }
    }

    fn matrix(&self, names: &[String], label: usize, cell: usize) -> String {
        let mut text = format!("{:label$}  is taken for\n{:label$}", "", "");
        for place in 0..names.len() {
            let _ = write!(text, "{:>cell$}", letter(place));
        }
        text.push_str("   recall\n");
        for ((place, row), scores) in self.counts.iter().enumerate().zip(self.by_class()) {
            let _ = write!(text, "{}", padded(&names[place], label));
            for count in row {
                let shown = if *count == 0 { ".".to_owned() } else { count.to_string() };
                let _ = write!(text, "{shown:>cell$}");
            }
            let _ = writeln!(text, " {} {:5.1} %", letter(place), scores.recall * 100.0);
        }
        text
    }

    fn list(&self, names: &[String], label: usize) -> String {
        let mut text = format!("{:label$}  number  recall  precision  taken for\n", "class");
        for ((place, row), scores) in self.counts.iter().enumerate().zip(self.by_class()) {
            let mut wrong: Vec<(u64, usize)> = row
                .iter()
                .enumerate()
                .filter(|&(found, &n)| found != place && n > 0)
                .map(|(f, &n)| (n, f))
                .collect();
            wrong.sort_by_key(|&(count, class)| (std::cmp::Reverse(count), class));
            let mut line = format!(
                "{}  {:>6}  {:>4.0} %  {:>7.0} %  ",
                padded(&names[place], label),
                scores.support,
                scores.recall * 100.0,
                scores.precision * 100.0
            );
            for (count, class) in wrong {
                let next = format!("{} {count}  ", names[class]);
                if line.chars().count() + next.chars().count() > WIDTH {
                    break;
                }
                line.push_str(&next);
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.collect();
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// `a` to `z`, then numbers.
fn letter(place: usize) -> String {
    match u8::try_from(place) {
        Ok(place) if place < 26 => char::from(b'a' + place).to_string(),
        _ => (place + 1).to_string(),
    }
}

fn shortened(name: &str, most: usize) -> String {
    match name.chars().count() > most {
        true => name.chars().take(most - 1).chain(['…']).collect(),
        false => name.to_owned(),
    }
}

fn padded(name: &str, width: usize) -> String {
    let blanks = width.saturating_sub(name.chars().count());
    format!("{name}{}", " ".repeat(blanks))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn confusion(counts: &[&[u64]]) -> Confusion {
        let classes = (0..counts.len()).map(|class| format!("class {class}")).collect();
        Confusion { classes, counts: counts.iter().map(|row| row.to_vec()).collect() }
    }

    #[test]
    fn scores_are_those_of_the_definitions() {
        // The truth is 0 0 0 1 1 2, the answers are 0 0 1 1 1 0.
        let c = confusion(&[&[2, 1, 0], &[0, 2, 0], &[1, 0, 0]]);
        assert!((c.accuracy() - 4.0 / 6.0).abs() < 1e-12);
        assert!((c.macro_f1() - (2.0 / 3.0 + 0.8 + 0.0) / 3.0).abs() < 1e-12);
        assert!((c.balanced_accuracy() - (2.0 / 3.0 + 1.0 + 0.0) / 3.0).abs() < 1e-12);
        // A class that neither occurs nor was given counts for nothing.
        let c = confusion(&[&[3, 1, 0], &[0, 4, 0], &[0, 0, 0]]);
        assert!((c.macro_f1() - (6.0 / 7.0 + 8.0 / 9.0) / 2.0).abs() < 1e-12);
        assert!((c.balanced_accuracy() - 0.875).abs() < 1e-12);
        assert_eq!(confusion(&[]).accuracy(), 0.0);
    }

    #[test]
    fn every_table_fits_a_terminal() {
        for classes in [1, 2, 7, 12, 30, 100] {
            let mut c = Confusion::new(
                &(0..classes).map(|c| format!("Class {c} of 한국 things")).collect::<Vec<_>>(),
            );
            for class in 0..classes {
                c.counts[class as usize] = vec![12_345; classes as usize];
            }
            let text = c.to_text();
            for line in text.lines() {
                assert!(line.chars().count() <= 80, "{classes}: {line}");
            }
            assert_eq!(text.lines().filter(|line| line.starts_with("Class ")).count(), classes as usize);
        }
    }
}
