//! Reports as self-contained HTML pages, built from plain structs.
//!
//! A page loads nothing from anywhere: the style and the script are part of it, and the charts are inline SVG.
//! The SVG is stretched to whatever width the page has, so axis labels are HTML placed by percentages and keep
//! their size on a phone. Without JavaScript everything but the hover values still works.

mod attention;
mod captions;
mod cells;
mod classes;
mod flow;
mod forecast;

use std::fmt::Write;

pub use attention::{AttendedSentence, AttentionPage, TranslationsSection};
pub use captions::{CaptionedPicture, CaptionsSection, Picture};
pub use cells::{CellsPage, PageUnit};
pub use classes::{ClassesSection, MistakenExample};
pub use flow::{ErrorBar, ErrorsPage, FlowLayer, GatePicture, GatesPage, GradientsPage, KnownAhead, NetFlow};
pub use forecast::{ErrorRow, ForecastChart, ForecastCurve, ForecastSection, step_label};

const STYLE: &str = include_str!("report/style.css");
const SCRIPT: &str = include_str!("report/hover.js");

/// Curves longer than this are averaged down to it: a screen shows no more.
const MOST_POINTS: usize = 500;
/// More samples than this are thinned out, denser at the start, where the text changes fastest.
const MOST_SAMPLES: usize = 10;
/// Width and height of a chart's own coordinates; the page stretches them.
const EXTENT: f64 = 1000.0;

/// One value of a curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Optimiser steps taken so far.
    pub step: u64,
    /// The value at this step. Values that are not finite leave a gap.
    pub value: f64,
}

/// Text that the model wrote during training.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Optimiser steps taken so far.
    pub step: u64,
    /// What it wrote.
    pub text: String,
}

/// The figure shown beside a loss in nats per token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Bits per character: the loss divided by ln 2.
    BitsPerCharacter,
    /// Bits per byte: the loss divided by ln 2.
    BitsPerByte,
    /// Perplexity: e to the power of the loss.
    Perplexity,
}

impl Reading {
    /// The figure for a loss in nats per token.
    pub fn of(self, loss: f64) -> f64 {
        match self {
            Reading::BitsPerCharacter | Reading::BitsPerByte => loss / std::f64::consts::LN_2,
            Reading::Perplexity => loss.exp(),
        }
    }

    /// Its unit, short: `bits/char`, `bits/byte` or `perplexity`.
    pub fn unit(self) -> &'static str {
        match self {
            Reading::BitsPerCharacter => "bits/char",
            Reading::BitsPerByte => "bits/byte",
            Reading::Perplexity => "perplexity",
        }
    }
}

/// Everything on the page that `carousel train` leaves in a run.
#[derive(Clone, Debug)]
pub struct TrainingReport {
    /// The page's heading: the run's name.
    pub title: String,
    /// One sentence under it: what was trained on what.
    pub subtitle: String,
    /// Headline figures as (name, value), most important first.
    pub summary: Vec<(String, String)>,
    /// What a loss is also given as.
    pub reading: Option<Reading>,
    /// The unit of the losses.
    pub loss_unit: &'static str,
    /// Loss on the training data.
    pub train_loss: Vec<Point>,
    /// Loss on the validation data.
    pub valid_loss: Vec<Point>,
    /// Global norm of the gradient before clipping.
    pub gradient_norm: Vec<Point>,
    /// Share of steps whose gradient was clipped, 0 to 1.
    pub clipped: Vec<Point>,
    /// The update rule's learning rate; shown where it changes.
    pub learning_rate: Vec<Point>,
    /// What the model wrote, in order of steps.
    pub samples: Vec<Sample>,
    /// What was taken for what, where a model gives classes.
    pub classes: Option<ClassesSection>,
    /// What was translated, where a model translates.
    pub translations: Option<TranslationsSection>,
    /// What was written about images, where a model writes captions.
    pub captions: Option<CaptionsSection>,
    /// What was forecast, where a model forecasts.
    pub forecasts: Option<ForecastSection>,
    /// The configuration as (dotted key, value).
    pub config: Vec<(String, String)>,
}

impl TrainingReport {
    /// The page. It refers to nothing outside itself, and every text in it is escaped.
    pub fn to_html(&self) -> String {
        let title = escape(&self.title);
        let mut page = String::with_capacity(64 * 1024);
        let _ = write!(
            page,
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <title>{title} · Carousel</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
             <header>\n<p class=\"kicker\">Carousel · training report</p>\n<h1>{title}</h1>\n\
             <p class=\"subtitle\">{}</p>\n</header>\n",
            escape(&self.subtitle)
        );
        self.write_summary(&mut page);
        self.write_charts(&mut page);
        self.write_samples(&mut page);
        if let Some(classes) = &self.classes {
            classes.write(&mut page);
        }
        if let Some(translations) = &self.translations {
            translations.write(&mut page);
        }
        if let Some(captions) = &self.captions {
            captions.write(&mut page);
        }
        if let Some(forecasts) = &self.forecasts {
            forecasts.write(&mut page);
        }
        self.write_config(&mut page);
        let _ = write!(page, "</main>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n");
        page
    }

    fn write_summary(&self, page: &mut String) {
        page.push_str("<dl class=\"summary\">\n");
        for (name, value) in &self.summary {
            // The number carries the weight, its unit does not.
            let (number, unit) = value.split_once(' ').unwrap_or((value, ""));
            let _ = writeln!(
                page,
                "<div><dt>{}</dt><dd>{}<small>{}</small></dd></div>",
                escape(name),
                escape(number),
                escape(unit)
            );
        }
        page.push_str("</dl>\n");
    }

    fn write_charts(&self, page: &mut String) {
        page.push_str("<section class=\"charts\">\n");
        Chart {
            title: "Loss",
            unit: self.loss_unit,
            scale: Scale::Logarithmic,
            reading: self.reading,
            series: &[
                Series { name: "training", class: "train", points: &self.train_loss },
                Series { name: "validation", class: "valid", points: &self.valid_loss },
            ],
            x: "step",
        }
        .write(page);
        Chart {
            title: "Gradient norm",
            unit: "global, before clipping",
            scale: Scale::Logarithmic,
            reading: None,
            series: &[Series { name: "norm", class: "norm", points: &self.gradient_norm }],
            x: "step",
        }
        .write(page);
        Chart {
            title: "Clipped steps",
            unit: "share of steps",
            scale: Scale::Share,
            reading: None,
            series: &[Series { name: "clipped", class: "clip", points: &self.clipped }],
            x: "step",
        }
        .write(page);
        if self.learning_rate.windows(2).any(|pair| pair[0].value != pair[1].value) {
            Chart {
                title: "Learning rate",
                unit: "of the update rule",
                scale: Scale::Logarithmic,
                reading: None,
                series: &[Series { name: "rate", class: "norm", points: &self.learning_rate }],
                x: "step",
            }
            .write(page);
        }
        page.push_str("</section>\n");
    }

    fn write_samples(&self, page: &mut String) {
        if self.samples.is_empty() {
            return;
        }
        page.push_str("<section class=\"samples\">\n<h2>What it wrote</h2>\n<ol>\n");
        for index in spread(self.samples.len(), MOST_SAMPLES) {
            let sample = &self.samples[index];
            let _ = write!(page, "<li><p>step <b>{}</b>", thousands(sample.step));
            if let Some(point) = self.valid_loss.iter().find(|point| point.step == sample.step) {
                let _ = write!(page, "<span>loss {:.3}</span>", point.value);
            }
            // A newline directly after <pre> is dropped by browsers, so one is given away.
            let _ = writeln!(page, "</p><pre>\n{}</pre></li>", escape(&sample.text));
        }
        page.push_str("</ol>\n</section>\n");
    }

    fn write_config(&self, page: &mut String) {
        page.push_str("<section class=\"config\">\n<h2>Configuration</h2>\n<div class=\"groups\">\n");
        let mut rest = self.config.as_slice();
        while let Some((first, _)) = rest.first() {
            let group = group_of(first);
            let length = rest.iter().take_while(|(key, _)| group_of(key) == group).count();
            let (members, after) = rest.split_at(length);
            let heading = if group.is_empty() { "run" } else { group };
            let _ = writeln!(page, "<div><h3>{}</h3>\n<dl>", escape(heading));
            for (key, value) in members {
                let name = key.rsplit('.').next().unwrap_or(key);
                let _ = writeln!(page, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(value));
            }
            page.push_str("</dl></div>\n");
            rest = after;
        }
        page.push_str("</div>\n</section>\n");
    }
}

fn group_of(key: &str) -> &str {
    key.split_once('.').map_or("", |(group, _)| group)
}

#[derive(Clone, Copy, PartialEq)]
enum Scale {
    /// Ratios are distances: a long tail stays readable beside a high start.
    Logarithmic,
    /// 0 to 100 %.
    Share,
}

struct Series<'a> {
    name: &'a str,
    class: &'a str,
    points: &'a [Point],
}

struct Chart<'a> {
    title: &'a str,
    unit: &'a str,
    scale: Scale,
    reading: Option<Reading>,
    series: &'a [Series<'a>],
    /// What is counted along the bottom.
    x: &'a str,
}

impl Chart<'_> {
    fn write(&self, page: &mut String) {
        let curves: Vec<Vec<Point>> = self.series.iter().map(|series| drawable(series.points)).collect();
        let last_step = curves.iter().flatten().map(|point| point.step).max();
        let _ = write!(page, "<figure>\n<figcaption><h2>{}</h2> <span>{}</span>", self.title, self.unit);
        if self.series.len() > 1 {
            page.push_str("<span class=\"legend\">");
            for series in self.series {
                let _ = write!(page, "<span><i class=\"{}\"></i>{}</span> ", series.class, series.name);
            }
            page.push_str("</span>");
        }
        page.push_str("</figcaption>\n");
        let Some(last_step) = last_step else {
            page.push_str("<p class=\"nothing\">Nothing was recorded.</p>\n</figure>\n");
            return;
        };
        let x = |step: u64| step as f64 / last_step.max(1) as f64 * EXTENT;
        let axis = Axis::covering(self.scale, curves.iter().flatten().map(|point| point.value));

        let _ = write!(page, "<div class=\"plot\" tabindex=\"0\" role=\"img\" aria-label=\"{}: ", self.title);
        for (series, curve) in self.series.iter().zip(&curves) {
            if let (Some(first), Some(last)) = (curve.first(), curve.last()) {
                let (from, to) = (self.show(first.value), self.show(last.value));
                let _ = write!(page, "{} from {from} to {to}. ", series.name);
            }
        }
        page.push('"');
        let _ = write!(page, " data-last=\"{last_step}\" data-x=\"{}\"", self.x);
        if self.scale == Scale::Share {
            page.push_str(" data-share=\"1\"");
        }
        if let Some(reading) = self.reading {
            let _ = write!(page, " data-reading=\"{}\"", reading.unit());
        }
        page.push_str(" data-curves='[");
        for (index, (series, curve)) in self.series.iter().zip(&curves).enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let points: Vec<String> =
                curve.iter().map(|point| format!("[{},{}]", point.step, short(point.value))).collect();
            let _ = write!(
                page,
                "{comma}{{\"name\":\"{}\",\"class\":\"{}\",\"points\":[{}]}}",
                series.name,
                series.class,
                points.join(",")
            );
        }
        page.push_str("]'>\n");

        let _ = write!(
            page,
            "<svg viewBox=\"0 0 {EXTENT} {EXTENT}\" preserveAspectRatio=\"none\" aria-hidden=\"true\">"
        );
        for tick in axis.ticks() {
            let _ = write!(page, "<path class=\"grid\" d=\"M0 {:.1}H{EXTENT}\"/>", axis.place(tick));
        }
        for (series, curve) in self.series.iter().zip(&curves) {
            let _ = write!(page, "<path class=\"curve {}\" d=\"", series.class);
            for (index, point) in curve.iter().enumerate() {
                let pen = if index == 0 { 'M' } else { 'L' };
                let _ = write!(page, "{pen}{:.1} {:.1}", x(point.step), axis.place(point.value));
            }
            page.push_str("\"/>");
        }
        page.push_str("</svg>\n");
        // Few points are measurements to be seen one by one; many are a line.
        for (series, curve) in self.series.iter().zip(&curves) {
            if curve.len() <= 40 {
                for point in curve {
                    let left = x(point.step) / EXTENT * 100.0;
                    let top = axis.place(point.value) / EXTENT * 100.0;
                    let class = series.class;
                    let _ =
                        write!(page, "<i class=\"dot {class}\" style=\"left:{left:.2}%;top:{top:.2}%\"></i>");
                }
            }
        }
        for tick in axis.ticks() {
            let top = axis.place(tick) / EXTENT * 100.0;
            let _ = write!(page, "<b class=\"y\" style=\"top:{top:.2}%\">{}</b>", self.label(tick));
        }
        for step in step_ticks(last_step) {
            let left = x(step) / EXTENT * 100.0;
            let _ = write!(page, "<b class=\"x\" style=\"left:{left:.2}%\">{}</b>", abbreviated(step));
        }
        let _ = write!(page, "\n</div>\n<p class=\"axis\">{}</p>\n</figure>\n", self.x);
    }

    fn show(&self, value: f64) -> String {
        match self.scale {
            Scale::Share => format!("{:.0} %", value * 100.0),
            Scale::Logarithmic => short(value),
        }
    }

    fn label(&self, tick: f64) -> String {
        match self.scale {
            Scale::Share => format!("{:.0} %", tick * 100.0),
            Scale::Logarithmic if tick != 0.0 && !(1e-4..1e5).contains(&tick.abs()) => scientific(tick),
            Scale::Logarithmic => short(tick),
        }
    }
}

/// A vertical axis from `low` at the bottom to `high` at the top.
struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Axis {
    fn covering(scale: Scale, values: impl Iterator<Item = f64> + Clone) -> Axis {
        if scale == Scale::Share {
            return Axis { low: 0.0, high: 1.0, logarithmic: false };
        }
        let low = values.clone().fold(f64::INFINITY, f64::min);
        let high = values.fold(f64::NEG_INFINITY, f64::max);
        if low > 0.0 {
            return Axis { low: low / 1.06, high: high * 1.06, logarithmic: true };
        }
        Axis { low, high: if high > low { high } else { low + 1.0 }, logarithmic: false }
    }

    /// Distance from the top, 0 to [`EXTENT`].
    fn place(&self, value: f64) -> f64 {
        let share = if self.logarithmic {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        (1.0 - share.clamp(0.0, 1.0)) * EXTENT
    }

    /// Round values to label: three to seven.
    fn ticks(&self) -> Vec<f64> {
        let ratio = self.high / self.low;
        if !self.logarithmic || ratio < 2.0 {
            let step = round_step((self.high - self.low) / 4.0);
            let first = (self.low / step).ceil() as i64;
            let last = (self.high / step + 1e-9).floor() as i64;
            return (first..=last).map(|index| index as f64 * step).collect();
        }
        let within: &[f64] = match ratio {
            ..10.0 => &[1.0, 1.5, 2.0, 3.0, 4.0, 6.0],
            10.0..100.0 => &[1.0, 2.0, 5.0],
            100.0..1e4 => &[1.0, 3.0],
            _ => &[1.0],
        };
        let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        // Of many decades only some are named.
        let apart = if ratio < 1e4 { 1 } else { (last - first).unsigned_abs().div_ceil(7).max(1) as i32 };
        (first..=last)
            .filter(|power| power % apart == 0)
            .flat_map(|power| within.iter().map(move |digit| digit * 10f64.powi(power)))
            .filter(|tick| (self.low..=self.high).contains(tick))
            .collect()
    }
}

/// `3.0000000000000004e-5` as `3e-5`.
fn scientific(value: f64) -> String {
    let text = format!("{value:.2e}");
    let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
    format!("{}e{power}", digits.trim_end_matches('0').trim_end_matches('.'))
}

/// The smallest of 1, 2, 2.5, 5 times a power of ten that is no smaller than `wanted`.
fn round_step(wanted: f64) -> f64 {
    let power = 10f64.powf(wanted.log10().floor());
    [1.0, 2.0, 2.5, 5.0, 10.0]
        .into_iter()
        .map(|digit| digit * power)
        .find(|step| *step >= wanted)
        .unwrap_or(wanted)
}

fn step_ticks(last_step: u64) -> Vec<u64> {
    let step = (round_step(last_step as f64 / 4.0) as u64).max(1);
    (0..=last_step / step).map(|index| index * step).collect()
}

/// Drops what is not finite, then averages neighbours until the curve has at most [`MOST_POINTS`].
fn drawable(points: &[Point]) -> Vec<Point> {
    let finite: Vec<Point> = points.iter().copied().filter(|point| point.value.is_finite()).collect();
    let group = finite.len().div_ceil(MOST_POINTS).max(1);
    finite
        .chunks(group)
        .map(|chunk| Point {
            step: chunk[chunk.len() - 1].step,
            value: chunk.iter().map(|point| point.value).sum::<f64>() / chunk.len() as f64,
        })
        .collect()
}

/// At most `most` of `0..length`: the first, the last, and between them ever wider gaps.
fn spread(length: usize, most: usize) -> Vec<usize> {
    if length <= most {
        return (0..length).collect();
    }
    let last = (length - 1) as f64;
    let mut chosen: Vec<usize> =
        (0..most).map(|index| (last.powf(index as f64 / (most - 1) as f64)).round() as usize).collect();
    chosen[0] = 0;
    chosen.dedup();
    chosen
}

/// Four significant digits, without trailing zeros.
fn short(value: f64) -> String {
    let digits = if value == 0.0 { 0 } else { (3 - value.abs().log10().floor() as i32).clamp(0, 8) };
    let text = format!("{value:.*}", digits as usize);
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// `1234567` as `1,234,567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `12500` as `12.5k`.
fn abbreviated(number: u64) -> String {
    match number {
        0..1_000 => number.to_string(),
        1_000..1_000_000 => format!("{}k", short(number as f64 / 1e3)),
        _ => format!("{}M", short(number as f64 / 1e6)),
    }
}

/// Text made safe for HTML, in elements and in quoted attributes. Control characters, which a model may well
/// write, become visible marks; line ends and tabs stay.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\n' | '\t' => safe.push(character),
            _ if character.is_control() => safe.push('\u{fffd}'),
            _ => safe.push(character),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> TrainingReport {
        let curve = |high: f64| -> Vec<Point> {
            (1..=50).map(|index| Point { step: index * 10, value: high / index as f64 + 1.0 }).collect()
        };
        TrainingReport {
            title: "lm-001".into(),
            subtitle: "a character model".into(),
            summary: vec![("validation".into(), "1.5 nats".into())],
            reading: Some(Reading::BitsPerCharacter),
            loss_unit: "nats per token",
            train_loss: curve(3.0),
            valid_loss: vec![Point { step: 250, value: 1.7 }, Point { step: 500, value: 1.5 }],
            gradient_norm: curve(1.0),
            clipped: Vec::new(),
            learning_rate: Vec::new(),
            samples: vec![Sample { step: 250, text: "fn main".into() }],
            classes: None,
            translations: None,
            captions: None,
            forecasts: None,
            config: vec![("seed".into(), "1".into()), ("model.hidden".into(), "128".into())],
        }
    }

    #[test]
    fn hostile_text_stays_text() {
        let hostile = "</script><b>&\"'\u{1b}";
        let mut report = report();
        report.title = hostile.into();
        report.subtitle = hostile.into();
        report.summary = vec![(hostile.into(), hostile.into())];
        report.samples = vec![Sample { step: 1, text: hostile.into() }];
        report.config = vec![(hostile.into(), hostile.into())];
        let page = report.to_html();
        assert!(!page.contains("<b>&"), "an element was let through");
        assert!(!page.contains('\u{1b}'), "a control character was let through");
        assert_eq!(page.matches("</script>").count(), 1, "only the page's own script ends");
        // Title and heading, subtitle, the figure's name and value, the sample, and the key and value.
        assert_eq!(page.matches("&lt;/script&gt;&lt;b&gt;&amp;&quot;&#39;\u{fffd}").count(), 8);
    }

    #[test]
    fn the_page_refers_to_nothing_outside_itself() {
        let page = report().to_html();
        for outside in ["http:", "https:", "src=", "href=", "url(", "@import"] {
            assert!(!page.contains(outside), "{outside} found");
        }
    }

    #[test]
    fn a_curve_is_drawn_where_its_values_say() {
        let mut report = report();
        report.clipped = vec![Point { step: 0, value: 0.0 }, Point { step: 100, value: 0.25 }];
        let page = report.to_html();
        assert!(page.contains("<path class=\"curve clip\" d=\"M0.0 1000.0L1000.0 750.0\"/>"));
    }

    #[test]
    fn gaps_and_empty_curves_are_legal() {
        let mut report = report();
        report.train_loss = vec![Point { step: 1, value: f64::NAN }, Point { step: 2, value: f64::INFINITY }];
        report.valid_loss = Vec::new();
        let page = report.to_html();
        assert!(page.contains("Nothing was recorded."));
        assert!(!page.contains("NaN") && !page.contains("inf\""));
    }

    #[test]
    fn long_curves_are_averaged() {
        let long: Vec<Point> = (0..10_000).map(|step| Point { step, value: (step % 2) as f64 }).collect();
        let drawn = drawable(&long);
        assert_eq!(drawn.len(), MOST_POINTS);
        assert_eq!(drawn.last(), Some(&Point { step: 9_999, value: 0.5 }));
    }

    #[test]
    fn samples_are_thinned_towards_the_end() {
        assert_eq!(spread(4, 10), [0, 1, 2, 3]);
        let chosen = spread(100, 5);
        assert_eq!((chosen.first(), chosen.last()), (Some(&0), Some(&99)));
        assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]), "{chosen:?}");
    }

    #[test]
    fn ticks_are_round() {
        let check = |low: f64, high: f64, expected: &[f64]| {
            let ticks = Axis { low, high, logarithmic: true }.ticks();
            assert_eq!(ticks.len(), expected.len(), "{low}..{high}: {ticks:?}");
            for (tick, wanted) in ticks.iter().zip(expected) {
                assert!((tick - wanted).abs() < 1e-9 * wanted, "{low}..{high}: {ticks:?}");
            }
        };
        check(1.1, 4.6, &[1.5, 2.0, 3.0, 4.0]);
        check(1.4, 1.9, &[1.4, 1.6, 1.8]);
        check(0.04, 12.0, &[0.1, 0.3, 1.0, 3.0, 10.0]);
        check(0.7, 9.0, &[1.0, 2.0, 5.0]);
    }

    #[test]
    fn numbers_read_well() {
        let check = |text: String, expected: &str| assert_eq!(text, expected);
        check(short(0.0), "0");
        check(short(1.5), "1.5");
        check(short(0.012_345), "0.01235");
        check(short(12_345.6), "12346");
        check(scientific(3.0 * 10f64.powi(-5)), "3e-5");
        check(scientific(1.5e6), "1.5e6");
        check(abbreviated(12_500), "12.5k");
        check(abbreviated(999), "999");
        check(thousands(1_115_394), "1,115,394");
        check(thousands(394), "394");
    }
}
