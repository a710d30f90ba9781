//! The non-linearities of feed-forward layers, each with its derivative, as a table and as a picture.
//!
//!     cargo run --release --example activations                                # the table
//!     cargo run --release --example activations -- docs/activations.svg        # and the picture
//!
//! Derivatives come from the backward pass, not from formulas: what is drawn is what training sees.

use std::fmt::Write as _;

use burn::tensor::{Device, Tensor};
use carousel::models::dense::DenseActivation;
use carousel::slices::with_slice;

const SHOWN: [f32; 5] = [-3.0, -1.0, -0.1, 1.0, 3.0];
/// The axes' ends, both ways.
const RANGE: f32 = 4.0;
const POINTS: usize = 161;
/// A card of the picture, and how many stand in a row.
const CARD: (f32, f32) = (200.0, 190.0);
const COLUMNS: usize = 4;

fn main() -> std::io::Result<()> {
    println!("{:<16}{:^32}{:>32}", "", "value at", "derivative at");
    let heads: String = SHOWN.iter().chain(&SHOWN).map(|x| format!("{x:>6}")).collect();
    println!("{:<16}{heads}", "");
    for which in DenseActivation::ALL {
        let (values, slopes) = curves(which, &SHOWN);
        let cells: String = values.iter().chain(&slopes).map(|value| format!("{value:>6.2}")).collect();
        println!("{:<16}{cells}", which.name());
    }
    match std::env::args().nth(1) {
        Some(path) => std::fs::write(path, picture()),
        None => Ok(()),
    }
}

/// Values and derivatives at `points`.
fn curves(which: DenseActivation, points: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let x = Tensor::<1>::from_data(points, &Device::default().autodiff()).require_grad();
    let y = which.curve(x.clone());
    let values = with_slice(&y, <[f32]>::to_vec);
    let slopes = x.grad(&y.sum().backward()).expect("the values come from x");
    (values, with_slice(&slopes, <[f32]>::to_vec))
}

fn picture() -> String {
    let rows = DenseActivation::ALL.len().div_ceil(COLUMNS);
    let (width, height) = (CARD.0 * COLUMNS as f32, CARD.1 * rows as f32 + 28.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <g font-size=\"12\"><path d=\"M12 18h24\" stroke=\"#0072b2\" stroke-width=\"2.5\"/>\
         <text x=\"42\" y=\"22\">value</text>\
         <path d=\"M92 18h24\" stroke=\"#d55e00\" stroke-width=\"2\" stroke-dasharray=\"5 3\"/>\
         <text x=\"122\" y=\"22\">derivative; both axes from -{RANGE} to {RANGE}</text></g>\n"
    );
    let points: Vec<f32> =
        (0..POINTS).map(|k| RANGE * (2.0 * k as f32 / (POINTS - 1) as f32 - 1.0)).collect();
    for (place, which) in DenseActivation::ALL.into_iter().enumerate() {
        let (left, top) =
            ((place % COLUMNS) as f32 * CARD.0 + 16.0, (place / COLUMNS) as f32 * CARD.1 + 34.0);
        let side = 148.0;
        let at = |x: f32, y: f32| {
            let scale = side / (2.0 * RANGE);
            (left + (x + RANGE) * scale, top + 18.0 + (RANGE - y) * scale)
        };
        let (middle, end) = (at(0.0, 0.0), at(RANGE, -RANGE));
        let _ = write!(
            svg,
            "<text x=\"{left}\" y=\"{:.0}\" font-size=\"13\">{}</text>\n\
             <path d=\"M{left} {:.1}H{:.1}M{:.1} {:.1}V{:.1}\" stroke=\"#bbb\"/>\n",
            top + 10.0,
            which.name(),
            middle.1,
            end.0,
            middle.0,
            top + 18.0,
            end.1,
        );
        let (values, slopes) = curves(which, &points);
        for (line, style) in [
            (slopes, "stroke=\"#d55e00\" stroke-width=\"2\" stroke-dasharray=\"5 3\""),
            (values, "stroke=\"#0072b2\" stroke-width=\"2.5\""),
        ] {
            let mut path = String::new();
            let mut drawing = false;
            for (&x, y) in points.iter().zip(line) {
                // What leaves the card is not drawn.
                if y.abs() > RANGE {
                    drawing = false;
                    continue;
                }
                let (x, y) = at(x, y);
                let _ = write!(path, "{}{x:.1} {y:.1}", if drawing { 'L' } else { 'M' });
                drawing = true;
            }
            let _ = writeln!(svg, "<path d=\"{path}\" fill=\"none\" {style}/>");
        }
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_in_the_docs_is_what_this_draws() {
        let drawn = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/activations.svg");
        let drawn = std::fs::read_to_string(drawn).expect("the picture is there");
        assert_eq!(drawn.matches("<path").count(), picture().matches("<path").count());
        for which in DenseActivation::ALL {
            assert!(drawn.contains(&format!(">{}</text>", which.name())), "{}", which.name());
        }
    }
}
