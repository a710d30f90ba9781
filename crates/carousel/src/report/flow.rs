//! The pages of `carousel inspect gradients`, `gates` and `errors`.

use std::fmt::Write;

use super::{Chart, Point, SCRIPT, STYLE, Scale, Series, escape, thousands};

const FLOW_STYLE: &str = include_str!("flow.css");

/// Colours that curves take in turn, as classes of the style.
const COLOURS: [&str; 7] = ["c0", "c1", "c2", "c3", "c4", "c5", "c6"];
/// Smaller norms are nothing: a curve ends before them, so that the others keep their height.
const SMALLEST: f64 = 1e-12;

/// Wraps the content of a page.
fn page(kind: &str, title: &str, subtitle: &str, content: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title} · {kind} · Carousel</title>\n\
         <style>\n{STYLE}{FLOW_STYLE}</style>\n</head>\n<body>\n<main>\n<header>\n<p class=\"kicker\">Carousel · {kind}</p>\n\
         <h1>{title}</h1>\n<p class=\"subtitle\">{}</p>\n</header>\n{content}</main>\n\
         <script>\n{SCRIPT}</script>\n</body>\n</html>\n",
        escape(subtitle)
    )
}

/// A table with a heading; the first column is text, the others numbers.
fn table(heading: &str, note: &str, heads: &[&str], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut text = format!("<section class=\"classes\">\n<h2>{heading}</h2>\n<p>{note}</p>\n");
    text.push_str("<div class=\"scroll\"><table class=\"pairs\">\n<thead><tr>");
    for (place, head) in heads.iter().enumerate() {
        let class = if place == 0 { " class=\"left\"" } else { "" };
        let _ = write!(text, "<th{class}>{}</th>", escape(head));
    }
    text.push_str("</tr></thead>\n<tbody>\n");
    for row in rows {
        text.push_str("<tr>");
        for (place, cell) in row.iter().enumerate() {
            let class = if place == 0 { "" } else { " class=\"number\"" };
            let _ = write!(text, "<td{class}>{}</td>", escape(cell));
        }
        text.push_str("</tr>\n");
    }
    text.push_str("</tbody>\n</table></div>\n</section>\n");
    text
}

/// How error flows back through some nets, on one page.
#[derive(Clone, Debug, Default)]
pub struct GradientsPage {
    /// The page's heading: the run's name.
    pub title: String,
    /// One sentence under it.
    pub subtitle: String,
    /// The nets, the run first.
    pub nets: Vec<NetFlow>,
    /// Gradient norm over the run's training.
    pub norms: Vec<Point>,
    /// Share of clipped steps over the run's training.
    pub clipped: Vec<Point>,
}

/// The flow through one net.
#[derive(Clone, Debug, Default)]
pub struct NetFlow {
    /// Its name.
    pub name: String,
    /// Layer after layer.
    pub layers: Vec<FlowLayer>,
}

/// The flow through one layer.
#[derive(Clone, Debug, Default)]
pub struct FlowLayer {
    /// Norm of the loss's gradient by `h`, by the steps back.
    pub h: Vec<f64>,
    /// The same of `c`; empty without one.
    pub c: Vec<f64>,
    /// Factor a step.
    pub rate: f64,
    /// Spectral radius of the step's Jacobian.
    pub radius: f64,
    /// Its leading singular values.
    pub singular: Vec<f64>,
}

impl GradientsPage {
    /// The page. It refers to nothing outside itself, and every text in it is escaped.
    #[must_use]
    pub fn to_html(&self) -> String {
        let layers = self.nets.iter().map(|net| net.layers.len()).max().unwrap_or_default();
        let mut content = String::from("<section class=\"charts wide\">\n");
        for layer in 0..layers {
            let curve = |norms: &[f64]| -> Vec<Point> {
                let norms = (0..).zip(norms).filter(|(_, norm)| **norm > SMALLEST);
                norms.map(|(step, &value)| Point { step, value }).collect()
            };
            let mut curves: Vec<(String, String, Vec<Point>)> = Vec::new();
            for (place, net) in self.nets.iter().enumerate() {
                let Some(flow) = net.layers.get(layer) else { continue };
                let (colour, name) = (COLOURS[place % COLOURS.len()], escape(&net.name));
                let second = if place < COLOURS.len() { "" } else { " thin" };
                let both = !flow.c.is_empty();
                let h = if both { format!("{name} h") } else { name.clone() };
                curves.push((h, format!("{colour}{second}"), curve(&flow.h)));
                if both {
                    curves.push((format!("{name} c"), format!("{colour}{second} dashed"), curve(&flow.c)));
                }
            }
            let series: Vec<Series<'_>> =
                curves.iter().map(|(name, class, points)| Series { name, class, points }).collect();
            Chart {
                title: &format!("Layer {layer}"),
                unit: "norm of the loss's gradient by the state so many tokens before",
                scale: Scale::Logarithmic,
                reading: None,
                series: &series,
                x: "tokens back",
            }
            .write(&mut content);
        }
        content.push_str("</section>\n");
        let rows: Vec<Vec<String>> = self
            .nets
            .iter()
            .flat_map(|net| net.layers.iter().enumerate().map(move |flow| (net, flow)))
            .map(|(net, (layer, flow))| {
                let mut row = vec![format!("{}, layer {layer}", net.name)];
                row.extend([flow.rate, flow.radius].map(|value| format!("{value:.3}")));
                row.extend((0..4).map(|place| {
                    flow.singular.get(place).map_or(String::new(), |value| format!("{value:.3}"))
                }));
                row
            })
            .collect();
        content.push_str(&table(
            "The step's Jacobian",
            "Rate is the factor of the gradient a token; below 1 it vanishes, above 1 it explodes. Radius is the \
             spectral radius of d(h, c)[t] / d(h, c)[t - 1], then come its leading singular values.",
            &["", "rate", "radius", "largest", "2nd", "3rd", "4th"],
            &rows,
        ));
        if !self.norms.is_empty() {
            content.push_str("<section class=\"charts pair\">\n");
            for (title, unit, scale, class, points) in [
                ("Gradient norm", "in training, before clipping", Scale::Logarithmic, "norm", &self.norms),
                ("Clipped steps", "share of steps", Scale::Share, "clip", &self.clipped),
            ] {
                let series = [Series { name: title, class, points }];
                Chart { title, unit, scale, reading: None, series: &series, x: "step" }.write(&mut content);
            }
            content.push_str("</section>\n");
        }
        page("gradients", &self.title, &self.subtitle, &content)
    }
}

/// How the gates of a run stand, on one page.
#[derive(Clone, Debug, Default)]
pub struct GatesPage {
    /// The page's heading: the run's name.
    pub title: String,
    /// One sentence under it.
    pub subtitle: String,
    /// The gates, layer after layer.
    pub gates: Vec<GatePicture>,
    /// Rows of a table: layer, share of `h` beyond ±0.9, units that do nothing.
    pub layers: Vec<[String; 3]>,
}

/// One gate of one layer, a value a unit.
#[derive(Clone, Debug, Default)]
pub struct GatePicture {
    /// The layer.
    pub layer: usize,
    /// The gate.
    pub name: String,
    /// Share of time below 0.1.
    pub left: Vec<f64>,
    /// Share of time above 0.9.
    pub right: Vec<f64>,
    /// Time constants in tokens; empty for gates that keep nothing.
    pub time: Vec<f64>,
}

impl GatesPage {
    /// The page. It refers to nothing outside itself, and every text in it is escaped.
    #[must_use]
    pub fn to_html(&self) -> String {
        let mut content = String::new();
        if !self.gates.is_empty() {
            content.push_str(
                "<section class=\"classes\">\n<h2>Saturated gates</h2>\n<p>A dot is a unit: to the right the longer \
                 its gate is shut (below 0.1), up the longer it is open (above 0.9). On the slope it is always one \
                 of both.</p>\n",
            );
            let layer = self.gates[0].layer;
            let columns = self.gates.iter().filter(|gate| gate.layer == layer).count();
            let _ = writeln!(content, "<div class=\"gates\" style=\"--columns:{columns}\">");
            for gate in &self.gates {
                gate.write(&mut content);
            }
            content.push_str("</div>\n</section>\n");
        }
        let times: Vec<(String, Vec<Point>)> = self
            .gates
            .iter()
            .filter(|gate| !gate.time.is_empty())
            .map(|gate| {
                let mut sorted = gate.time.clone();
                sorted.sort_by(f64::total_cmp);
                let points = (1..).zip(sorted).map(|(step, value)| Point { step, value });
                (format!("layer {}", gate.layer), points.collect())
            })
            .collect();
        if !times.is_empty() {
            let series: Vec<Series<'_>> = times
                .iter()
                .zip(COLOURS.iter().cycle())
                .map(|((name, points), &class)| Series { name, class, points })
                .collect();
            content.push_str("<section class=\"charts wide\">\n");
            Chart {
                title: "How long units remember",
                unit: "tokens until 1/e of the state is left, units in order",
                scale: Scale::Logarithmic,
                reading: None,
                series: &series,
                x: "unit",
            }
            .write(&mut content);
            content.push_str("</section>\n");
        }
        let rows: Vec<Vec<String>> = self.layers.iter().map(|row| row.to_vec()).collect();
        let heads = ["layer", "h beyond ±0.9", "units that do nothing"];
        content.push_str(&table("Layers", "A unit does nothing when its h hardly moves.", &heads, &rows));
        page("gates", &self.title, &self.subtitle, &content)
    }
}

impl GatePicture {
    fn write(&self, page: &mut String) {
        const SIDE: f64 = 200.0;
        let _ = write!(
            page,
            "<figure>\n<figcaption><h3>{} of layer {}</h3></figcaption>\n\
             <svg viewBox=\"-34 -8 246 246\" role=\"img\" aria-label=\"{} of layer {}, {} units\">\
             <path class=\"frame\" d=\"M0 0V{SIDE}H{SIDE}\"/><path class=\"grid\" d=\"M0 0L{SIDE} {SIDE}\"/>",
            escape(&self.name),
            self.layer,
            escape(&self.name),
            self.layer,
            self.left.len()
        );
        for (at, label) in [(0.0, "0"), (0.5, "50"), (1.0, "100")] {
            let (x, y) = (at * SIDE, SIDE - at * SIDE);
            let _ = write!(
                page,
                "<text x=\"-6\" y=\"{:.0}\" text-anchor=\"end\">{label}</text>\
                 <text x=\"{x:.0}\" y=\"{:.0}\" text-anchor=\"middle\">{label}</text>",
                y + 4.0,
                SIDE + 16.0
            );
        }
        let _ = write!(
            page,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\">% of time shut</text>\
             <text transform=\"translate(-26 {:.0}) rotate(-90)\" text-anchor=\"middle\">% of time open</text>",
            SIDE / 2.0,
            SIDE + 32.0,
            SIDE / 2.0
        );
        for (unit, (left, right)) in self.left.iter().zip(&self.right).enumerate() {
            let _ = write!(
                page,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"><title>unit {unit}: shut {:.0} %, open {:.0} %</title></circle>",
                left * SIDE,
                SIDE - right * SIDE,
                left * 100.0,
                right * 100.0
            );
        }
        page.push_str("</svg>\n</figure>\n");
    }
}

/// Where a language model errs, on one page.
#[derive(Clone, Debug, Default)]
pub struct ErrorsPage {
    /// The page's heading: the run's name.
    pub title: String,
    /// One sentence under it.
    pub subtitle: String,
    /// Groups of tokens: a heading, and its rows.
    pub groups: Vec<(String, Vec<ErrorBar>)>,
    /// What the net knew better than every n-gram.
    pub ahead: Vec<KnownAhead>,
}

/// Losses in nats a token over some tokens.
#[derive(Clone, Debug, Default)]
pub struct ErrorBar {
    /// What they have in common.
    pub name: String,
    /// How many they are.
    pub tokens: usize,
    /// Of the net.
    pub net: f64,
    /// Of the longest n-grams.
    pub ngrams: f64,
    /// Share of tokens that the net alone gives more than half of the probability, and that n-grams alone do.
    pub only: [f64; 2],
}

/// A token that the net foresaw and n-grams did not.
#[derive(Clone, Debug, Default)]
pub struct KnownAhead {
    /// What stands before it.
    pub before: String,
    /// It.
    pub token: String,
    /// Its probability by the net.
    pub net: f64,
    /// Its probability by the best n-gram.
    pub ngrams: f64,
}

impl ErrorsPage {
    /// The page. It refers to nothing outside itself, and every text in it is escaped.
    #[must_use]
    pub fn to_html(&self) -> String {
        let all = self.groups.iter().flat_map(|(_, rows)| rows);
        let most = all.map(|row| row.net.max(row.ngrams)).fold(1e-9, f64::max);
        let mut content = String::new();
        let filled = self.groups.iter().filter(|(_, rows)| !rows.is_empty());
        for (place, (heading, rows)) in filled.enumerate() {
            let _ = writeln!(content, "<section class=\"classes\">\n<h2>{}</h2>", escape(heading));
            if place == 0 {
                content.push_str(
                    "<p>Loss in nats a token: <b class=\"c0\">the net</b>, <b class=\"c1\">6-grams</b>; then the share \
                     of tokens that only one of them gives more than half of the probability.</p>\n",
                );
            }
            content.push_str(
                "<div class=\"scroll\"><table class=\"bars\">\n<thead><tr><th class=\"left\"></th><th>tokens</th>\
                 <th class=\"left\">loss</th><th>net</th><th>6-grams</th><th>only net</th><th>only n</th></tr></thead>\n\
                 <tbody>\n",
            );
            for row in rows {
                let width = |loss: f64| loss / most * 100.0;
                let _ = writeln!(
                    content,
                    "<tr><th class=\"left\">{}</th><td>{}</td><td class=\"bar\"><i class=\"c0\" style=\"width:{:.1}%\">\
                     </i><i class=\"c1\" style=\"width:{:.1}%\"></i></td><td>{:.3}</td><td>{:.3}</td><td>{:.1} %</td>\
                     <td>{:.1} %</td></tr>",
                    escape(&row.name),
                    thousands(row.tokens as u64),
                    width(row.net),
                    width(row.ngrams),
                    row.net,
                    row.ngrams,
                    row.only[0] * 100.0,
                    row.only[1] * 100.0
                );
            }
            content.push_str("</tbody>\n</table></div>\n</section>\n");
        }
        if !self.ahead.is_empty() {
            content.push_str(
                "<section class=\"classes\">\n<h2>What the net knew better</h2>\n<p>The token marked, and the probability \
                 that the net and the best n-gram gave it.</p>\n<ul class=\"ahead\">\n",
            );
            for known in &self.ahead {
                let _ = writeln!(
                    content,
                    "<li><code>{}<mark>{}</mark></code><span>{:.1} %</span><span>{:.2} %</span></li>",
                    escape(&known.before),
                    escape(&known.token),
                    known.net * 100.0,
                    known.ngrams * 100.0
                );
            }
            content.push_str("</ul>\n</section>\n");
        }
        page("errors", &self.title, &self.subtitle, &content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(html: &str) {
        assert!(html.starts_with("<!doctype html>"));
        assert!(!html.contains("<b>evil"), "a text was let through");
        for outside in ["http:", "https:", "src=", "href=", "@import"] {
            assert!(!html.contains(outside), "{outside} found");
        }
    }

    #[test]
    fn hostile_text_stays_text_and_nothing_outside_is_named() {
        let evil = || "'<b>evil".to_owned();
        let layer = FlowLayer { h: vec![1.0, 0.1, 0.0], c: vec![1.0, 0.9, 0.8], ..FlowLayer::default() };
        let html = GradientsPage {
            title: evil(),
            nets: vec![NetFlow { name: evil(), layers: vec![layer] }],
            norms: vec![Point { step: 1, value: 0.5 }],
            ..GradientsPage::default()
        }
        .to_html();
        check(&html);
        // A norm of nothing ends the curve of h; that of c goes on.
        assert!(html.contains("\"points\":[[0,1],[1,0.1]]") && html.contains("[2,0.8]"), "{html}");
        let gate =
            GatePicture { name: evil(), left: vec![0.25], right: vec![0.5], time: vec![3.0], layer: 1 };
        let html = GatesPage { subtitle: evil(), gates: vec![gate], ..GatesPage::default() }.to_html();
        check(&html);
        assert!(html.contains("cx=\"50.0\" cy=\"100.0\"") && html.contains("shut 25 %, open 50 %"));
        let bar = ErrorBar { name: evil(), net: 1.0, ngrams: 2.0, ..ErrorBar::default() };
        let known = KnownAhead { before: evil(), token: evil(), ..KnownAhead::default() };
        let html =
            ErrorsPage { groups: vec![(evil(), vec![bar])], ahead: vec![known], ..ErrorsPage::default() }
                .to_html();
        check(&html);
        assert!(html.contains("width:50.0%") && html.contains("width:100.0%"));
    }
}
