//! The page on which units are looked at: hover one, and the text takes its colours.
//!
//! Activations are a byte each, stored as differences, deflated (RFC 1951) and in base64; the page unpacks a signal when it
//! is first shown. They are packed once, so that the stream can end at many places: how many tokens fit is then a
//! matter of sizes. What is on the screen is drawn on a canvas, so that a hundred thousand characters scroll as
//! one does.

use std::borrow::Cow;
use std::fmt::Write as _;

use flate2::{Compress, Compression, FlushCompress};
use serde_json::json;

use super::{STYLE, escape};

const CELLS_STYLE: &str = include_str!("cells.css");
const CELLS_SCRIPT: &str = include_str!("cells.js");

/// The largest page.
const LARGEST: usize = 20_000_000;
/// The longest text on a page, in tokens.
const LONGEST: usize = 100_000;
/// Tokens between two places at which a signal can end.
const STRIDE: usize = 4096;

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
        let packed = Packed::of(self, tokens);
        let places: Vec<usize> = (0..tokens).step_by(STRIDE).chain([tokens]).collect();
        let empty = self.render(&packed, 0, 0).len();
        let fits = |tokens: usize, others: usize| empty + packed.size(self, tokens, others) <= LARGEST;
        // Both grow with every place.
        let most = |fits: &dyn Fn(usize) -> bool| {
            places[places.partition_point(|&place| fits(place)).saturating_sub(1)]
        };
        match fits(tokens, 0) {
            true => self.render(&packed, tokens, most(&|others| fits(tokens, others))),
            false => self.render(&packed, most(&|tokens| fits(tokens, 0)), 0),
        }
    }

    /// The page with so many tokens, of which signals other than a unit's best keep the first `others`.
    fn render(&self, packed: &Packed, tokens: usize, others: usize) -> String {
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
             <div id=\"peaks\"></div>\n\
             <div id=\"scroll\" tabindex=\"0\" aria-label=\"the text\"><div id=\"space\"><canvas id=\"text\"></canvas>\
             </div></div>\n<div id=\"here\"></div>\n</section>\n</main>\n",
        );
        self.write_findings(&mut page);
        let units: Vec<serde_json::Value> = self
            .units
            .iter()
            .zip(&packed.signals)
            .map(|(unit, streams)| {
                let signals: Vec<serde_json::Value> = unit
                    .signals
                    .iter()
                    .zip(streams)
                    .map(|((name, [low, high], _), stream)| {
                        let kept = if *name == unit.best { tokens } else { others };
                        json!({"name": name, "low": low, "high": high, "data": stream.until(kept)})
                    })
                    .collect();
                json!({
                    "layer": unit.layer, "unit": unit.unit, "note": unit.note, "best": unit.best,
                    "signals": signals,
                })
            })
            .collect();
        let data = json!({
            "tokens": self.tokens[..tokens],
            "units": units,
            "likely": if self.likely.is_empty() { String::new() } else { packed.likely.until(tokens) },
            "each": self.likely_each(),
            "vocabulary": self.vocabulary,
        });
        let data = data.to_string();
        let _ = write!(
            page,
            "<script type=\"application/json\" id=\"data\">{}</script>\n<script>\n{CELLS_SCRIPT}</script>\n\
             </body>\n</html>\n",
            harmless(&data)
        );
        page
    }

    /// Likeliest next tokens of each token.
    fn likely_each(&self) -> usize {
        self.likely.first().map_or(0, Vec::len)
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

/// JSON that stays inside a script element, where only `<` can do harm.
fn harmless(json: &str) -> Cow<'_, str> {
    match json.contains('<') {
        true => json.replace('<', "\\u003c").into(),
        false => json.into(),
    }
}

/// All of a page that grows with its text, packed.
struct Packed {
    /// Of each unit.
    signals: Vec<Vec<Stream>>,
    likely: Stream,
    /// Bytes of the first tokens as JSON.
    texts: Vec<usize>,
}

impl Packed {
    fn of(page: &CellsPage, tokens: usize) -> Packed {
        let of_signal = |codes: &[u8]| {
            let codes = &codes[..codes.len().min(tokens)];
            let before = std::iter::once(&0).chain(codes);
            let differences: Vec<u8> = codes.iter().zip(before).map(|(a, b)| a.wrapping_sub(*b)).collect();
            Stream::of(&differences, 1)
        };
        let of_unit = |unit: &PageUnit| unit.signals.iter().map(|(.., codes)| of_signal(codes)).collect();
        let mut texts = vec![0];
        for token in &page.tokens[..tokens] {
            let json = serde_json::Value::from(token.as_str()).to_string();
            // With its comma.
            texts.push(texts[texts.len() - 1] + harmless(&json).len() + 1);
        }
        let likely = page.likely.iter().take(tokens);
        let likely: Vec<u8> = likely
            .flat_map(|likely| {
                likely.iter().flat_map(|&(token, share)| [token as u8, (token >> 8) as u8, share])
            })
            .collect();
        let likely = Stream::of(&likely, 3 * page.likely_each().max(1));
        Packed { signals: page.units.iter().map(of_unit).collect(), likely, texts }
    }

    /// Bytes that a page of so many tokens has beyond one of none, of which signals that are not a unit's best keep
    /// the first `others`.
    fn size(&self, page: &CellsPage, tokens: usize, others: usize) -> usize {
        let signals: usize = page
            .units
            .iter()
            .zip(&self.signals)
            .flat_map(|(unit, streams)| {
                unit.signals.iter().zip(streams).map(move |(own, stream)| (unit, own, stream))
            })
            .map(|(unit, (name, ..), stream)| stream.size(if *name == unit.best { tokens } else { others }))
            .sum();
        signals + self.likely.size(tokens) + self.texts[tokens]
    }
}

/// Bytes, deflated so that the stream can end behind every [`STRIDE`]th token.
struct Stream {
    deflated: Vec<u8>,
    ends: Vec<End>,
}

/// A place at which a stream can end.
struct End {
    /// Tokens before it.
    tokens: usize,
    /// Bytes of the stream.
    deflated: usize,
}

impl Stream {
    /// A last block that holds nothing.
    const LAST: [u8; 5] = [1, 0, 0, 0xff, 0xff];

    /// `bytes` has so many bytes a token.
    fn of(bytes: &[u8], each: usize) -> Stream {
        let mut compress = Compress::new(Compression::default(), false);
        let mut deflated = Vec::new();
        let mut ends = vec![End { tokens: 0, deflated: 0 }];
        for piece in bytes.chunks(STRIDE * each) {
            let from = compress.total_in();
            loop {
                let left = &piece[(compress.total_in() - from) as usize..];
                deflated.reserve(left.len() + 64);
                // Until it leaves room, there may be more to come.
                compress
                    .compress_vec(left, &mut deflated, FlushCompress::Sync)
                    .expect("memory takes what is deflated");
                if compress.total_in() - from == piece.len() as u64 && deflated.len() < deflated.capacity() {
                    break;
                }
            }
            let tokens = ends[ends.len() - 1].tokens + piece.len() / each;
            ends.push(End { tokens, deflated: deflated.len() });
        }
        Stream { deflated, ends }
    }

    /// Bytes up to the last end at or before a token.
    fn end(&self, tokens: usize) -> usize {
        self.ends[self.ends.partition_point(|end| end.tokens <= tokens) - 1].deflated
    }

    /// Bytes of [`until`](Stream::until), less those of one that holds nothing.
    fn size(&self, tokens: usize) -> usize {
        let coded = |bytes: usize| (bytes + Stream::LAST.len()).div_ceil(3) * 4;
        coded(self.end(tokens)) - coded(0)
    }

    /// The first tokens, in base64.
    fn until(&self, tokens: usize) -> String {
        base64(&[&self.deflated[..self.end(tokens)], &Stream::LAST].concat())
    }
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
        signals.iter().map(|signal| inflated(signal["data"].as_str().expect("base64")).len()).collect()
    }

    /// What base64 stands for.
    fn decoded(base64: &str) -> Vec<u8> {
        let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let bits = |digit: &u8| digits.iter().position(|other| other == digit).unwrap_or(0) as u32;
        base64
            .as_bytes()
            .chunks(4)
            .flat_map(|group| {
                let word = group.iter().fold(0, |word, digit| word << 6 | bits(digit));
                let padding = group.iter().filter(|&&digit| digit == b'=').count();
                word.to_be_bytes()[1..4 - padding].to_vec()
            })
            .collect()
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

    /// The bytes behind base64, unpacked.
    fn inflated(base64: &str) -> Vec<u8> {
        let packed = decoded(base64);
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::DeflateDecoder::new(&packed[..]), &mut bytes)
            .expect("a whole stream");
        bytes
    }

    #[test]
    fn what_is_packed_once_ends_where_it_is_cut() {
        // Little to say, and nothing but noise.
        let noise = page(2 * STRIDE + 100, 1).units[0].signals[0].2.clone();
        let waves: Vec<u8> = (0..noise.len()).map(|at| (at / 50 % 7) as u8).collect();
        for (bytes, each) in [(&noise, 1), (&waves, 1), (&waves, 3)] {
            let whole = bytes.len() / each * each;
            let stream = Stream::of(&bytes[..whole], each);
            let tokens = whole / each;
            for cut in [0, 1, STRIDE - 1, STRIDE, STRIDE + 1, 2 * STRIDE, tokens, tokens + 9] {
                let kept = if cut >= tokens { tokens } else { cut / STRIDE * STRIDE };
                let text = stream.until(cut);
                assert_eq!(inflated(&text), bytes[..kept * each], "{each} bytes a token, {cut} tokens");
                assert_eq!(text.len(), stream.until(0).len() + stream.size(cut), "{cut} tokens");
            }
        }
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
