//! Which class was taken for which, and the examples a model is most wrong about.

use std::fmt::Write;

use super::{escape, thousands};
use crate::metrics::Confusion;

/// More classes than this make no picture; the list of their mistakes is shown alone.
const MOST_CLASSES: usize = 30;
/// Pairs of classes in the list of mistakes.
const MOST_PAIRS: usize = 15;

/// An example that was given another class than its own.
#[derive(Clone, Debug, PartialEq)]
pub struct MistakenExample {
    /// File and line.
    pub place: String,
    /// The example, as far as it can be shown.
    pub text: String,
    /// Its class.
    pub expected: String,
    /// What it was given.
    pub found: String,
    /// The probability of its class.
    pub probability: f32,
}

/// What a model took for what.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassesSection {
    /// The part of the data that was measured.
    pub part: &'static str,
    /// Which class was taken for which.
    pub confusion: Confusion,
    /// The most wrong examples, worst first.
    pub wrong: Vec<MistakenExample>,
}

impl ClassesSection {
    pub(super) fn write(&self, page: &mut String) {
        let _ = writeln!(
            page,
            "<section class=\"classes\">\n<h2>What was taken for what</h2>\n<p>The best checkpoint on the {} part, \
             {} answers. A row is a class, a column what it was given.</p>",
            escape(self.part),
            thousands(self.confusion.total())
        );
        if self.confusion.classes.len() <= MOST_CLASSES {
            self.write_matrix(page);
        }
        if self.confusion.classes.len() > 2 {
            self.write_pairs(page);
        }
        self.write_wrong(page);
        page.push_str("</section>\n");
    }

    fn write_matrix(&self, page: &mut String) {
        page.push_str("<div class=\"scroll\"><table class=\"confusion\">\n<tr><th></th>");
        for name in &self.confusion.classes {
            let _ = write!(page, "<th>{}</th>", escape(name));
        }
        page.push_str("<th>recall</th></tr>\n");
        let scores = self.confusion.by_class();
        for ((name, row), scores) in self.confusion.classes.iter().zip(&self.confusion.counts).zip(&scores) {
            let _ = write!(page, "<tr><th>{}</th>", escape(name));
            for &count in row {
                let share = count as f64 / scores.support.max(1) as f64;
                let shown = if count == 0 { String::new() } else { thousands(count) };
                let _ = write!(page, "<td style=\"--share:{share:.3}\">{shown}</td>");
            }
            let _ = writeln!(page, "<td class=\"plain\">{:.1} %</td></tr>", scores.recall * 100.0);
        }
        page.push_str("<tr><th>precision</th>");
        for scores in &scores {
            let _ = write!(page, "<td class=\"plain\">{:.1} %</td>", scores.precision * 100.0);
        }
        page.push_str("<td></td></tr>\n</table></div>\n");
    }

    fn write_pairs(&self, page: &mut String) {
        let names = &self.confusion.classes;
        let mut pairs: Vec<(u64, usize, usize)> = Vec::new();
        for (expected, row) in self.confusion.counts.iter().enumerate() {
            for (found, &count) in row.iter().enumerate() {
                if expected != found && count > 0 {
                    pairs.push((count, expected, found));
                }
            }
        }
        if pairs.is_empty() {
            return;
        }
        pairs.sort_by_key(|&(count, expected, found)| (std::cmp::Reverse(count), expected, found));
        page.push_str("<h3>Most frequent mistakes</h3>\n<table class=\"pairs\">\n");
        for (count, expected, found) in pairs.into_iter().take(MOST_PAIRS) {
            let _ = writeln!(
                page,
                "<tr><td class=\"number\">{}</td><td>{}</td><td>taken for {}</td></tr>",
                thousands(count),
                escape(&names[expected]),
                escape(&names[found])
            );
        }
        page.push_str("</table>\n");
    }

    fn write_wrong(&self, page: &mut String) {
        if self.wrong.is_empty() {
            return;
        }
        page.push_str("<h3>Most wrong examples</h3>\n<ol class=\"wrong\">\n");
        for wrong in &self.wrong {
            let _ = writeln!(
                page,
                "<li><p><b>{}</b> taken for <b>{}</b> <span>probability of the right one {:.4}</span> \
                 <span>{}</span></p><pre>\n{}</pre></li>",
                escape(&wrong.expected),
                escape(&wrong.found),
                wrong.probability,
                escape(&wrong.place),
                escape(&wrong.text)
            );
        }
        page.push_str("</ol>\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_and_texts_stay_text() {
        let hostile = "<b>&\"'".to_owned();
        let classes = vec![hostile.clone(), "b".to_owned(), "c".to_owned()];
        let confusion = Confusion { classes, counts: vec![vec![1, 2, 0], vec![0, 3, 0], vec![0, 0, 0]] };
        let wrong = MistakenExample {
            place: hostile.clone(),
            text: hostile.clone(),
            expected: hostile.clone(),
            found: "b".to_owned(),
            probability: 0.25,
        };
        let mut page = String::new();
        ClassesSection { part: "test", confusion, wrong: vec![wrong] }.write(&mut page);
        assert!(!page.contains("<b>&\""), "an element was let through");
        // Column, row, pair, and the example's class, place and text.
        assert_eq!(page.matches("&lt;b&gt;&amp;&quot;&#39;").count(), 6, "{page}");
        assert!(page.contains("--share:0.667"), "{page}");
    }
}
