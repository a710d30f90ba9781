//! Where a translator or captioner looked: a picture for each sentence, alone or on a page, and translations with the
//! probability of every token.

use std::fmt::Write;

use unicode_width::UnicodeWidthStr;

use super::{CaptionedPicture, STYLE, escape};

/// Height and width of a cell, and of a letter, in pixels.
const CELL: f64 = 26.0;
const LETTER: f64 = 7.8;
/// Letters of a token that are shown.
const MOST_LETTERS: usize = 18;

/// A translation and where each of its tokens came from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AttendedSentence {
    /// The source.
    pub source: String,
    /// The translation.
    pub target: String,
    /// Tokens of the source: columns.
    pub source_tokens: Vec<String>,
    /// Tokens of the translation, and the probability of each: rows.
    pub target_tokens: Vec<(String, f32)>,
    /// For each row how much each column was looked at; a row adds up to 1. Empty without attention.
    pub weights: Vec<Vec<f32>>,
}

pub(super) fn label(token: &str) -> String {
    // Few fonts have the mark of a cut word.
    let token = token.replace(crate::data::JOINER, "·");
    let mut shown: String = token.chars().take(MOST_LETTERS).collect();
    if shown.len() < token.len() {
        shown.push('…');
    }
    if shown.trim().is_empty() { "␣".to_owned() } else { shown }
}

impl AttendedSentence {
    /// The matrix as a picture of its own (SVG): a row for a token written, a column for a token read, the darker the
    /// more it was looked at.
    #[must_use]
    pub fn to_svg(&self) -> String {
        let rows: Vec<String> = self.target_tokens.iter().map(|(token, _)| label(token)).collect();
        let heads: Vec<String> = self.source_tokens.iter().map(|token| label(token)).collect();
        let wide =
            |labels: &[String]| labels.iter().map(|text| text.width()).max().unwrap_or(0) as f64 * LETTER;
        let (left, top) = (wide(&rows) + 14.0, wide(&heads) + 14.0);
        let width = left + heads.len() as f64 * CELL + 8.0;
        let height = top + rows.len() as f64 * CELL + 8.0;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
             viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"ui-monospace, Menlo, Consolas, monospace\" \
             font-size=\"13\" role=\"img\" aria-label=\"attention\">\n\
             <rect class=\"paper\" width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
        );
        for (column, head) in heads.iter().enumerate() {
            let x = left + (column as f64 + 0.5) * CELL + 4.0;
            let y = top - 8.0;
            let _ = writeln!(
                svg,
                "<text transform=\"translate({x:.1} {y:.1}) rotate(-90)\" fill=\"#1d2433\">{}</text>",
                escape(head)
            );
        }
        for (row, (name, weights)) in rows.iter().zip(&self.weights).enumerate() {
            let y = top + row as f64 * CELL;
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#1d2433\">{}</text>",
                left - 8.0,
                y + CELL / 2.0 + 4.5,
                escape(name)
            );
            for (column, weight) in weights.iter().enumerate().take(heads.len()) {
                let x = left + column as f64 * CELL;
                let size = CELL - 2.0;
                let _ = writeln!(
                    svg,
                    "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{size}\" height=\"{size}\" rx=\"3\" fill=\"#e3e1da\" \
                     class=\"cell\"/><rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{size}\" height=\"{size}\" rx=\"3\" \
                     fill=\"#0072b2\" fill-opacity=\"{weight:.3}\" class=\"weight\"><title>{} from {}: {:.1} %</title>\
                     </rect>",
                    escape(name),
                    escape(&heads[column]),
                    weight * 100.0
                );
            }
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// The translation's tokens, each the paler the less probable it was.
    pub(super) fn write_tokens(&self, page: &mut String) {
        page.push_str("<p class=\"tokens\">");
        for (token, probability) in &self.target_tokens {
            let _ = write!(
                page,
                "<span style=\"--p:{probability:.3}\" title=\"{:.1} %\">{}<small>{:.0}</small></span> ",
                probability * 100.0,
                escape(&label(token)),
                probability * 100.0
            );
        }
        page.push_str("</p>\n");
    }
}

/// Everything on the page that `carousel inspect attention --html` writes.
#[derive(Clone, Debug, Default)]
pub struct AttentionPage {
    /// The page's heading: the run's name.
    pub title: String,
    /// One sentence under it.
    pub subtitle: String,
    /// Translations.
    pub sentences: Vec<AttendedSentence>,
    /// Sentences about images.
    pub pictures: Vec<CaptionedPicture>,
}

impl AttentionPage {
    /// The page. It refers to nothing outside itself, and every text in it is escaped.
    #[must_use]
    pub fn to_html(&self) -> String {
        let title = escape(&self.title);
        let mut page = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title} · Carousel</title>\n\
             <style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<header>\n<p class=\"kicker\">Carousel · attention</p>\n\
             <h1>{title}</h1>\n<p class=\"subtitle\">{}</p>\n</header>\n<section class=\"attention\">\n",
            escape(&self.subtitle)
        );
        for sentence in &self.sentences {
            let _ = writeln!(
                page,
                "<figure>\n<figcaption><h2>{}</h2> <span>{}</span></figcaption>",
                escape(&sentence.target),
                escape(&sentence.source)
            );
            sentence.write_tokens(&mut page);
            if !sentence.weights.is_empty() {
                let _ = writeln!(page, "<div class=\"scroll\">{}</div>", sentence.to_svg());
            }
            page.push_str("</figure>\n");
        }
        page.push_str("</section>\n");
        if !self.pictures.is_empty() {
            page.push_str("<section class=\"classes attention captions\">\n<ol class=\"wrong\">\n");
            self.pictures.iter().for_each(|picture| picture.write(&mut page));
            page.push_str("</ol>\n</section>\n");
        }
        page.push_str("</main>\n</body>\n</html>\n");
        page
    }
}

/// How a run does, with some of its translations.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TranslationsSection {
    /// The part of the data that was measured.
    pub part: &'static str,
    /// Names and values of what was measured.
    pub figures: Vec<(String, String)>,
    /// Translations: source, references, and the translation's tokens.
    pub examples: Vec<(AttendedSentence, Vec<String>)>,
}

impl TranslationsSection {
    pub(super) fn write(&self, page: &mut String) {
        let _ = writeln!(
            page,
            "<section class=\"classes attention\">\n<h2>What it translated</h2>\n<p>The best checkpoint on the {} part, \
             with a beam. The number at a token is its probability in percent.</p>\n<table>",
            escape(self.part)
        );
        for (name, value) in &self.figures {
            let _ =
                writeln!(page, "<tr><th>{}</th><td class=\"left\">{}</td></tr>", escape(name), escape(value));
        }
        page.push_str("</table>\n<ol class=\"wrong\">\n");
        for (sentence, references) in &self.examples {
            let references: Vec<String> = references.iter().map(|text| escape(text)).collect();
            let _ = writeln!(
                page,
                "<li><p><b>{}</b> <span>wanted: {}</span></p>",
                escape(&sentence.source),
                references.join(" · ")
            );
            sentence.write_tokens(page);
            page.push_str("</li>\n");
        }
        page.push_str("</ol>\n</section>\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentence(text: &str) -> AttendedSentence {
        AttendedSentence {
            source: text.to_owned(),
            target: text.to_owned(),
            source_tokens: vec![text.to_owned(), "b".to_owned()],
            target_tokens: vec![(text.to_owned(), 0.25), ("<eos>".to_owned(), 1.0)],
            weights: vec![vec![0.75, 0.25], vec![0.0, 1.0]],
        }
    }

    #[test]
    fn hostile_texts_stay_text() {
        let page =
            AttentionPage { sentences: vec![sentence("<b>&\"'")], ..AttentionPage::default() }.to_html();
        assert!(!page.contains("<b>"), "an element was let through");
        assert!(page.contains("&lt;b&gt;&amp;&quot;&#39;"));
        let mut section = String::new();
        let examples = vec![(sentence("<i>"), vec!["<i>".to_owned()])];
        TranslationsSection { part: "test", figures: Vec::new(), examples }.write(&mut section);
        assert!(!section.contains("<i>"), "{section}");
    }

    #[test]
    fn a_picture_has_a_cell_for_every_weight() {
        let svg = sentence("한국어").to_svg();
        assert_eq!(svg.matches("class=\"weight\"").count(), 4);
        assert!(svg.contains("fill-opacity=\"0.750\""), "{svg}");
        assert!(svg.contains("한국어 from b: 25.0 %"), "{svg}");
    }
}
