//! The page on which units are looked at: hover one, and the text takes its colours.
//!
//! Activations are a byte each, stored as differences, gzipped and in base64; the page unpacks a signal when it
//! is first shown. What is on the screen is drawn on a canvas, so that a hundred thousand characters scroll as
//! one does.

use std::fmt::Write as _;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use super::{STYLE, escape};

const CELLS_STYLE: &str = include_str!("cells.css");
const CELLS_SCRIPT: &str = include_str!("cells.js");

/// The largest page.
const LARGEST: usize = 20_000_000;
/// The longest text on a page, in tokens.
const LONGEST: usize = 100_000;

/// Everything on the page that `carousel inspect cells --html` writes.
#[derive(Clone, Debug, Default)]
pub struct CellsPage {
    /// The page's heading: the run's name.
    pub title: String,
    /// One sentence under it.
    pub subtitle: String,
    /// What each token is, as text.
    pub tokens: Vec<String>,
    /// The units, most remarkable first.
    pub units: Vec<PageUnit>,
    /// For each token the likeliest next ones: index into `vocabulary`, and probability in 255ths.
    pub likely: Vec<Vec<(u32, u8)>>,
    /// Texts of the tokens named in `likely`.
    pub vocabulary: Vec<String>,
    /// Rows of a table of what was found: property, unit, score, chance, last three tokens.
    pub findings: Vec<[String; 5]>,
}

/// A unit on a page.
#[derive(Clone, Debug, Default)]
pub struct PageUnit {
    /// The layer.
    pub layer: usize,
    /// Its number.
    pub unit: usize,
    /// What it is remarkable for.
    pub note: String,
    /// The signal to show first.
    pub best: String,
    /// Signals: name, the values of codes 0 and 255, codes.
    pub signals: Vec<(String, [f32; 2], Vec<u8>)>,
}

impl CellsPage {
    /// The page, at most 20 MB of it, with 100,000 tokens at most. Where not all fits, signals that are not a unit's
    /// best end earlier than the text; where even the best do not, the text is shorter. The page refers to nothing
    /// outside itself, and every text in it is escaped.
    ///
    /// ```
    /// use carousel::report::{CellsPage, PageUnit};
    ///
    /// let signal = ("h".to_owned(), [-1.0, 1.0], vec![0, 128, 255]);
    /// let page = CellsPage {
    ///     title: "lm-001".to_owned(),
    ///     tokens: ["a", "<", "b"].map(str::to_owned).to_vec(),
    ///     units: vec![PageUnit { note: "word start".to_owned(), signals: vec![signal], ..PageUnit::default() }],
    ///     ..CellsPage::default()
    /// };
    /// let html = page.to_html();
    /// assert!(html.contains("word start") && html.len() < 20_000_000);
    /// ```
    #[must_use]
    pub fn to_html(&self) -> String {
        let tokens = self.tokens.len().min(LONGEST);
        let whole = self.render(tokens, tokens);
        if whole.len() <= LARGEST {
            return whole;
        }
        // A little less than what would fit, because less text packs a little worse.
        let fitting = |length: usize, room: usize, taken: usize| {
            (length as f64 * room as f64 / taken as f64 * 0.98) as usize
        };
        let mut least = self.render(tokens, 0);
        if least.len() < LARGEST {
            let mut others = tokens;
            let mut page = whole;
            while page.len() > LARGEST && others > 0 {
                others = fitting(others, LARGEST - least.len(), page.len() - least.len());
                page = self.render(tokens, others);
            }
            return page;
        }
        let mut tokens = tokens;
        while least.len() > LARGEST && tokens > 0 {
            tokens = fitting(tokens, LARGEST, least.len());
            least = self.render(tokens, 0);
        }
        least
    }

    /// The page with so many tokens, of which signals other than a unit's best keep the first `others`.
    fn render(&self, tokens: usize, others: usize) -> String {
        let title = escape(&self.title);
        let mut page = String::with_capacity(1 << 20);
        let _ = write!(
            page,
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <title>{title} · units · Carousel</title>\n<style>\n{STYLE}{CELLS_STYLE}</style>\n</head>\n<body>\n\
             <header>\n<p class=\"kicker\">Carousel · units</p>\n<h1>{title}</h1>\n\
             <p class=\"subtitle\">{}</p>\n</header>\n",
            escape(&self.subtitle)
        );
        page.push_str(
            "<noscript><p class=\"nothing\">Colouring the text needs JavaScript; the findings stand below.</p>\
             </noscript>\n<main id=\"viewer\" hidden>\n<aside>\n\
             <div class=\"choices\"><label>layer <select id=\"layer\"></select></label>\
             <label>signal <select id=\"signal\"></select></label></div>\n\
             <ol id=\"units\" tabindex=\"0\" aria-label=\"units\"></ol>\n</aside>\n\
             <section>\n<div class=\"bar\"><b id=\"shown\"></b><span class=\"key\"><i id=\"low\"></i>\
             <i class=\"ramp\"></i><i id=\"high\"></i></span>\
             <label><input type=\"checkbox\" id=\"expect\"> next characters</label>\
             <button id=\"save\">Save as SVG</button></div>\n\
             <canvas id=\"line\" tabindex=\"0\" role=\"slider\" aria-label=\"place in the text\"></canvas>\n\
             <div id=\"scroll\" tabindex=\"0\" aria-label=\"the text\"><div id=\"space\"><canvas id=\"text\"></canvas>\
             </div></div>\n<div id=\"here\"></div>\n</section>\n</main>\n",
        );
        self.write_findings(&mut page);
        let units: Vec<serde_json::Value> = self
            .units
            .iter()
            .map(|unit| {
                let signals: Vec<serde_json::Value> = unit
                    .signals
                    .iter()
                    .map(|(name, [low, high], codes)| {
                        let kept = if *name == unit.best { tokens } else { others }.min(codes.len());
                        json!({"name": name, "low": low, "high": high, "data": packed(&codes[..kept])})
                    })
                    .collect();
                json!({
                    "layer": unit.layer, "unit": unit.unit, "note": unit.note, "best": unit.best,
                    "signals": signals,
                })
            })
            .collect();
        let likely: Vec<u8> = self
            .likely
            .iter()
            .take(tokens)
            .flat_map(|likely| {
                likely.iter().flat_map(|&(token, share)| [token as u8, (token >> 8) as u8, share])
            })
            .collect();
        let data = json!({
            "tokens": self.tokens[..tokens],
            "units": units,
            "likely": if likely.is_empty() { String::new() } else { gzipped(&likely) },
            "each": self.likely.first().map_or(0, Vec::len),
            "vocabulary": self.vocabulary,
        });
        // In a script element only `<` can do harm.
        let data = data.to_string().replace('<', "\\u003c");
        let _ = write!(
            page,
            "<script type=\"application/json\" id=\"data\">{data}</script>\n<script>\n{CELLS_SCRIPT}</script>\n\
             </body>\n</html>\n"
        );
        page
    }

    fn write_findings(&self, page: &mut String) {
        if self.findings.is_empty() {
            return;
        }
        page.push_str(
            "<details class=\"found\"><summary>What was searched for</summary>\n<table>\n<thead><tr><th>property\
             <th>unit<th>score<th>chance<th>last 3 tokens</tr></thead>\n<tbody>\n",
        );
        for row in &self.findings {
            page.push_str("<tr>");
            for cell in row {
                let _ = write!(page, "<td>{}</td>", escape(cell));
            }
            page.push_str("</tr>\n");
        }
        page.push_str("</tbody>\n</table>\n</details>\n");
    }
}

/// Codes as differences, gzipped, in base64.
fn packed(codes: &[u8]) -> String {
    let mut before = 0u8;
    let differences: Vec<u8> = codes
        .iter()
        .map(|&code| {
            let difference = code.wrapping_sub(before);
            before = code;
            difference
        })
        .collect();
    gzipped(&differences)
}

fn gzipped(bytes: &[u8]) -> String {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    base64(&written.expect("memory takes what is written"))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits =
            group.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            match place <= group.len() {
                true => text.push(char::from(DIGITS[(bits >> (18 - 6 * place) & 63) as usize])),
                false => text.push('='),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(tokens: usize, units: usize) -> CellsPage {
        let mut state = 1u32;
        let mut noise = || -> Vec<u8> {
            (0..tokens)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                })
                .collect()
        };
        CellsPage {
            title: "</script><b>&".into(),
            subtitle: "<i>".into(),
            tokens: vec!["</script>".into(); tokens],
            units: (0..units)
                .map(|unit| PageUnit {
                    unit,
                    note: "<u>".into(),
                    best: "h".into(),
                    signals: vec![("h".into(), [-1.0, 1.0], noise())],
                    ..PageUnit::default()
                })
                .collect(),
            likely: vec![vec![(0, 200)]; tokens],
            vocabulary: vec!["</script>".into()],
            findings: vec![["<s>".into(), "h_l0[1]".into(), "1".into(), "0.5".into(), "0.6".into()]],
        }
    }

    #[test]
    fn hostile_text_stays_text_and_nothing_outside_is_named() {
        let html = page(10, 2).to_html();
        assert_eq!(html.matches("</script>").count(), 2, "only the page's own scripts end");
        for element in ["<i>", "<u>", "<s>", "<b>&"] {
            assert!(!html.contains(element), "{element} was let through");
        }
        for outside in ["http:", "https:", "src=", "href=", "@import"] {
            assert!(!html.contains(outside), "{outside} found");
        }
    }

    /// Codes that a page has of a unit's signals.
    fn lengths(html: &str, unit: usize) -> Vec<usize> {
        let start = html.find("id=\"data\">").expect("the page has data") + "id=\"data\">".len();
        let end = start + html[start..].find("</script>").expect("it ends");
        let data: serde_json::Value = serde_json::from_str(&html[start..end]).expect("it is JSON");
        let signals = data["units"][unit]["signals"].as_array().expect("signals").clone();
        signals.iter().map(|signal| unpacked(signal["data"].as_str().expect("base64"))).collect()
    }

    /// How many bytes were packed: what the last four of a gzip stream say.
    fn unpacked(base64: &str) -> usize {
        let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let tail = &base64.as_bytes()[base64.len() - 12..];
        let bits = |digit: &u8| digits.iter().position(|other| other == digit).unwrap_or(0) as u32;
        let bytes: Vec<u8> = tail
            .chunks(4)
            .flat_map(|group| {
                let word = group.iter().fold(0, |word, digit| word << 6 | bits(digit));
                let padding = group.iter().filter(|&&digit| digit == b'=').count();
                word.to_be_bytes()[1..4 - padding].to_vec()
            })
            .collect();
        u32::from_le_bytes(*bytes.last_chunk().expect("four bytes")) as usize
    }

    #[test]
    fn where_noise_cannot_be_packed_the_best_signal_is_kept_whole() {
        let mut page = page(LONGEST, 64);
        for unit in &mut page.units {
            let more: Vec<_> =
                ["c", "i", "f"].map(|name| (name.to_owned(), [0.0, 1.0], unit.signals[0].2.clone())).to_vec();
            unit.signals.extend(more);
        }
        let html = page.to_html();
        assert!((LARGEST / 10 * 9..=LARGEST).contains(&html.len()), "{}", html.len());
        let [best, others @ ..] = &lengths(&html, 63)[..] else { panic!("no signals") };
        assert_eq!(*best, LONGEST);
        assert!(
            others.iter().all(|&other| other == others[0] && (LONGEST / 5..LONGEST).contains(&other)),
            "{others:?}"
        );
    }

    #[test]
    fn where_not_even_the_best_signals_fit_the_text_is_shorter() {
        let html = page(LONGEST, 160).to_html();
        assert!((LARGEST / 10 * 9..=LARGEST).contains(&html.len()), "{}", html.len());
        assert!((LONGEST / 2..LONGEST).contains(&lengths(&html, 0)[0]));
    }

    #[test]
    fn base64_is_that_of_the_standard() {
        // RFC 4648, section 10.
        let cases = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (bytes, expected) in cases {
            assert_eq!(base64(bytes.as_bytes()), expected);
        }
    }
}
