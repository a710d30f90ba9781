//! What a captioner wrote about images, and where it looked for each word.

use std::fmt::Write;
use std::io::Cursor;

use image::{ImageFormat, Rgba, RgbaImage};
use unicode_width::UnicodeWidthStr;

use super::attention::{AttendedSentence, label};
use super::escape;

/// Width of a tile, and height of a line of text, in pixels.
const TILE: f64 = 96.0;
const LINE: f64 = 20.0;
/// Tiles in a row.
const TILES: usize = 8;
/// Opacity of the veil over what was not looked at.
const VEIL: f32 = 0.85;
/// Pictures narrower than this, in pixels, show theirs.
const TINY: u32 = 100;

/// A picture as it stands in a page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    /// What its bytes are, such as `image/png`.
    pub mime: &'static str,
    /// The file.
    pub bytes: Vec<u8>,
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
}

impl Picture {
    fn uri(&self) -> String {
        format!("data:{};base64,{}", self.mime, base64(&self.bytes))
    }
}

/// A sentence about an image.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CaptionedPicture {
    /// The image's file.
    pub path: String,
    /// The image; `None` where features were read, or it is gone.
    pub picture: Option<Picture>,
    /// What was written.
    pub text: String,
    /// Its tokens, and the probability of each.
    pub tokens: Vec<(String, f32)>,
    /// What could have been written.
    pub references: Vec<String>,
    /// Rows and columns of the grid that was looked at; `None` where none was.
    pub grid: Option<[usize; 2]>,
    /// For each token how much each place of the grid was looked at, row after row.
    pub weights: Vec<Vec<f32>>,
}

/// How a run does, with some of its captions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CaptionsSection {
    /// The part of the data that was measured.
    pub part: &'static str,
    /// Names and values of what was measured.
    pub figures: Vec<(String, String)>,
    /// Captions.
    pub examples: Vec<CaptionedPicture>,
}

impl CaptionsSection {
    pub(super) fn write(&self, page: &mut String) {
        let looked = self.examples.iter().any(|one| one.grid.is_some() && one.picture.is_some());
        let _ = writeln!(
            page,
            "<section class=\"classes attention captions\">\n<h2>Its captions</h2>\n<p>The best checkpoint on the {} \
             part, with a beam. The number at a token is its probability in percent.{}</p>\n<table>",
            escape(self.part),
            if looked { " An image is bright where the model looked for that token." } else { "" }
        );
        for (name, value) in &self.figures {
            let _ =
                writeln!(page, "<tr><th>{}</th><td class=\"left\">{}</td></tr>", escape(name), escape(value));
        }
        page.push_str("</table>\n<ol class=\"wrong\">\n");
        for example in &self.examples {
            example.write(page);
        }
        page.push_str("</ol>\n</section>\n");
    }
}

impl CaptionedPicture {
    /// Where it was looked at, as a picture of its own (SVG): the image, and a tile for each token, bright where the
    /// model looked. `None` without an image, or a grid that was looked at.
    #[must_use]
    pub fn to_svg(&self) -> Option<String> {
        let (picture, grid) = (self.picture.as_ref()?, self.grid?);
        let height = TILE * f64::from(picture.height) / f64::from(picture.width.max(1));
        let count = 1 + self.weights.len();
        let place = |tile: usize| {
            let (column, row) = (tile % TILES, tile / TILES);
            (8.0 + column as f64 * (TILE + 8.0), 8.0 + LINE + row as f64 * (height + LINE + 8.0))
        };
        let (right, bottom) =
            (place(count.min(TILES) - 1).0 + TILE + 8.0, place(count - 1).1 + height + LINE + 8.0);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{right:.0}\" height=\"{bottom:.0}\" \
             viewBox=\"0 0 {right:.0} {bottom:.0}\" font-family=\"ui-monospace, Menlo, Consolas, monospace\" \
             font-size=\"12\" role=\"img\" aria-label=\"attention\">\n\
             <rect class=\"paper\" width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
             <text x=\"8\" y=\"18\" fill=\"#1d2433\">{}</text>\n\
             <defs><image id=\"picture\" width=\"{TILE}\" height=\"{height:.1}\" preserveAspectRatio=\"none\" \
             style=\"image-rendering:{}\" href=\"{}\"/></defs>\n",
            escape(&self.text),
            if picture.width < TINY { "pixelated" } else { "auto" },
            picture.uri()
        );
        let (x, y) = place(0);
        let _ = writeln!(svg, "<use href=\"#picture\" x=\"{x:.1}\" y=\"{y:.1}\"/>");
        for (tile, ((token, _), weights)) in (1..).zip(self.tokens.iter().zip(&self.weights)) {
            let (x, y) = place(tile);
            let name = label(token);
            // A long token is set narrower.
            let narrow = if name.width() as f64 * 7.2 > TILE {
                format!(" textLength=\"{TILE}\" lengthAdjust=\"spacingAndGlyphs\"")
            } else {
                String::new()
            };
            let _ = writeln!(
                svg,
                "<use href=\"#picture\" x=\"{x:.1}\" y=\"{y:.1}\"/><image x=\"{x:.1}\" y=\"{y:.1}\" width=\"{TILE}\" \
                 height=\"{height:.1}\" preserveAspectRatio=\"none\" href=\"{}\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" fill=\"#1d2433\"{narrow}>{}</text>",
                veil(weights, grid).uri(),
                y + height + 14.0,
                escape(&name)
            );
        }
        svg.push_str("</svg>\n");
        Some(svg)
    }

    pub(super) fn write(&self, page: &mut String) {
        let references: Vec<String> = self.references.iter().map(|text| escape(text)).collect();
        let wanted = match references.is_empty() {
            true => String::new(),
            false => format!(" <span>wanted: {}</span>", references.join(" · ")),
        };
        let told =
            format!("<p><b>{}</b>{wanted} <span>{}</span></p>", escape(&self.text), escape(&self.path));
        let Some(picture) = &self.picture else {
            let _ = writeln!(page, "<li>{told}");
            self.write_tokens(page);
            page.push_str("</li>\n");
            return;
        };
        // The picture stands in the page once, whatever tiles show it.
        let _ = writeln!(
            page,
            "<li{} style=\"--picture:url({});--shape:{}/{}\">{told}\n<div class=\"looks\">\n<figure class=\"look\"><div></div></figure>",
            if picture.width < TINY { " class=\"tiny\"" } else { "" },
            picture.uri(),
            picture.width,
            picture.height
        );
        match self.grid {
            Some(grid) => {
                for ((token, probability), weights) in self.tokens.iter().zip(&self.weights) {
                    let _ = writeln!(
                        page,
                        "<figure class=\"look\"><div><img alt=\"\" src=\"{}\"></div><figcaption>{}<small>{:.0}</small>\
                         </figcaption></figure>",
                        veil(weights, grid).uri(),
                        escape(&label(token)),
                        probability * 100.0
                    );
                }
                page.push_str("</div></li>\n");
            }
            None => {
                page.push_str("</div>\n");
                self.write_tokens(page);
                page.push_str("</li>\n");
            }
        }
    }

    fn write_tokens(&self, page: &mut String) {
        let target_tokens = self.tokens.clone();
        AttendedSentence { target_tokens, ..AttendedSentence::default() }.write_tokens(page);
    }
}

/// A dark picture with a pixel a place, the clearer the more it was looked at.
fn veil(weights: &[f32], [rows, columns]: [usize; 2]) -> Picture {
    let (width, height) = (columns as u32, rows as u32);
    let most = weights.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
    let image = RgbaImage::from_fn(width, height, |x, y| {
        let weight = weights.get(y as usize * columns + x as usize).copied().unwrap_or_default();
        Rgba([0, 0, 0, (255.0 * VEIL * (1.0 - weight / most)).round() as u8])
    });
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png).expect("memory takes every byte");
    Picture { mime: "image/png", bytes: bytes.into_inner(), width, height }
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let all = three.iter().fold(0u32, |all, &byte| all << 8 | u32::from(byte)) << (8 * (3 - three.len()));
        for place in 0..4 {
            match place <= three.len() {
                true => text.push(char::from(LETTERS[(all >> (18 - 6 * place) & 63) as usize])),
                false => text.push('='),
            }
        }
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_the_letters_of_the_rfc() {
        let check = |bytes: &str, expected: &str| assert_eq!(base64(bytes.as_bytes()), expected);
        check("", "");
        check("f", "Zg==");
        check("fo", "Zm8=");
        check("foo", "Zm9v");
        check("foob", "Zm9vYg==");
        check("foobar", "Zm9vYmFy");
    }

    #[test]
    fn the_most_looked_at_place_is_clear() {
        let picture = veil(&[0.0, 0.25, 0.5, 0.25, 0.0, 0.0], [2, 3]);
        let image = image::load_from_memory(&picture.bytes).unwrap().into_rgba8();
        assert_eq!(image.dimensions(), (3, 2));
        let veils: Vec<u8> = image.pixels().map(|pixel| pixel.0[3]).collect();
        assert_eq!(veils, [217, 108, 0, 108, 217, 217]);
    }

    #[test]
    fn hostile_texts_stay_text_and_a_picture_stands_once() {
        let example = CaptionedPicture {
            path: "<i>".to_owned(),
            picture: Some(Picture { mime: "image/png", bytes: vec![1, 2, 3], width: 30, height: 20 }),
            text: "<b>".to_owned(),
            tokens: vec![("<u>".to_owned(), 0.5), ("<eos>".to_owned(), 1.0)],
            references: vec!["<s>".to_owned()],
            grid: Some([1, 2]),
            weights: vec![vec![0.5, 0.5]; 2],
        };
        let mut page = String::new();
        let examples = vec![example.clone(), CaptionedPicture { picture: None, ..example.clone() }];
        CaptionsSection { part: "test", figures: Vec::new(), examples }.write(&mut page);
        for mark in ["<i>", "<u>", "<s>"] {
            assert!(!page.contains(mark), "{page}");
        }
        assert_eq!(page.matches("AQID").count(), 1, "{page}");
        assert_eq!(page.matches("<img").count(), 2, "{page}");
        let svg = example.to_svg().unwrap();
        assert!(!svg.contains("<u>") && !svg.contains("<b>"), "{svg}");
        assert_eq!((svg.matches("AQID").count(), svg.matches("<use").count()), (1, 3), "{svg}");
        assert_eq!(CaptionedPicture { grid: None, ..example }.to_svg(), None);
    }
}
