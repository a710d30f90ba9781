//! What was forecast and what came: a table of errors beside forecasts that need no model, errors by step, and some
//! forecasts drawn.

use std::fmt::Write;

use super::{Axis, EXTENT, escape, short, thousands};

/// Errors of one way to forecast.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ErrorRow {
    /// Which way.
    pub name: String,
    /// One value a column of the table, as it is shown.
    pub values: Vec<String>,
}

/// A line of the drawing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ForecastCurve {
    /// What it is.
    pub name: &'static str,
    /// Its class in the style.
    pub class: &'static str,
    /// Its first place on the time axis.
    pub from: usize,
    /// Its values, one a place.
    pub values: Vec<f64>,
}

/// Curves over steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ForecastChart {
    /// What it shows.
    pub title: String,
    /// What its values are.
    pub unit: String,
    /// The curves.
    pub curves: Vec<ForecastCurve>,
    /// A band between two curves.
    pub band: Option<(ForecastCurve, ForecastCurve)>,
    /// Places of the time axis that are labelled.
    pub ticks: Vec<(usize, String)>,
    /// What the places are.
    pub axis: &'static str,
}

/// The section of a report on a back-test.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ForecastSection {
    /// The part of the data that was forecast.
    pub part: &'static str,
    /// One sentence on how it was done.
    pub note: String,
    /// Names of the table's columns.
    pub columns: Vec<String>,
    /// Its rows.
    pub rows: Vec<ErrorRow>,
    /// The charts.
    pub charts: Vec<ForecastChart>,
}

impl ForecastSection {
    pub(super) fn write(&self, page: &mut String) {
        let _ = write!(
            page,
            "<section class=\"classes forecasts\">\n<h2>Back-test</h2>\n<p>On the {} part: {}</p>\n\
             <div class=\"scroll\"><table>\n<tr><th></th>",
            self.part,
            escape(&self.note)
        );
        for name in &self.columns {
            let _ = write!(page, "<th>{}</th>", escape(name));
        }
        page.push_str("</tr>\n");
        for row in &self.rows {
            let _ = write!(page, "<tr><th>{}</th>", escape(&row.name));
            for value in &row.values {
                let _ = write!(page, "<td>{}</td>", escape(value));
            }
            page.push_str("</tr>\n");
        }
        page.push_str("</table></div>\n<div class=\"charts\">\n");
        for chart in &self.charts {
            chart.write(page);
        }
        page.push_str("</div>\n</section>\n");
    }
}

impl ForecastChart {
    fn write(&self, page: &mut String) {
        let band = self.band.iter().flat_map(|(low, high)| [low, high]);
        let all: Vec<&ForecastCurve> = self.curves.iter().chain(band).collect();
        let finite =
            |curve: &&ForecastCurve| curve.values.clone().into_iter().filter(|value| value.is_finite());
        let low = all.iter().flat_map(finite).fold(f64::INFINITY, f64::min);
        let high = all.iter().flat_map(finite).fold(f64::NEG_INFINITY, f64::max);
        if low > high {
            return;
        }
        let room = if high > low { (high - low) * 0.05 } else { 0.5 };
        let axis = Axis { low: low - room, high: high + room, logarithmic: false };
        let last = all.iter().map(|curve| curve.from + curve.values.len()).max().unwrap_or(1).max(2) - 1;
        let x = |place: usize| place as f64 / last as f64 * EXTENT;
        let line = |curve: &ForecastCurve, backwards: bool| -> Vec<String> {
            let points = curve.values.iter().enumerate().filter(|(_, value)| value.is_finite());
            let mut points: Vec<String> = points
                .map(|(place, &value)| format!("{:.1} {:.1}", x(curve.from + place), axis.place(value)))
                .collect();
            if backwards {
                points.reverse();
            }
            points
        };

        let _ = write!(
            page,
            "<figure>\n<figcaption><h2>{}</h2> <span>{}</span><span class=\"legend\">",
            escape(&self.title),
            escape(&self.unit)
        );
        for curve in &self.curves {
            let _ = write!(page, "<i class=\"{}\"></i>{} ", curve.class, curve.name);
        }
        page.push_str("</span></figcaption>\n<div class=\"plot\" tabindex=\"0\" role=\"img\" aria-label=\"");
        let _ = write!(page, "{}\" data-last=\"{last}\" data-curves='[", escape(&self.title));
        for (index, curve) in self.curves.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let points = curve.values.iter().enumerate().filter(|(_, value)| value.is_finite());
            let points: Vec<String> =
                points.map(|(place, &value)| format!("[{},{}]", curve.from + place, short(value))).collect();
            let (name, class, points) = (curve.name, curve.class, points.join(","));
            let _ =
                write!(page, "{comma}{{\"name\":\"{name}\",\"class\":\"{class}\",\"points\":[{points}]}}");
        }
        let _ = write!(
            page,
            "]'>\n<svg viewBox=\"0 0 {EXTENT} {EXTENT}\" preserveAspectRatio=\"none\" aria-hidden=\"true\">"
        );
        for tick in axis.ticks() {
            let _ = write!(page, "<path class=\"grid\" d=\"M0 {:.1}H{EXTENT}\"/>", axis.place(tick));
        }
        for (place, _) in &self.ticks {
            let _ = write!(page, "<path class=\"grid\" d=\"M{:.1} 0V{EXTENT}\"/>", x(*place));
        }
        if let Some((low, high)) = &self.band {
            let around = [line(low, false), line(high, true)].concat();
            let _ = write!(page, "<path class=\"band\" d=\"M{}Z\"/>", around.join("L"));
        }
        for curve in &self.curves {
            let _ = write!(
                page,
                "<path class=\"curve {}\" d=\"M{}\"/>",
                curve.class,
                line(curve, false).join("L")
            );
        }
        page.push_str("</svg>\n");
        for tick in axis.ticks() {
            let top = axis.place(tick) / EXTENT * 100.0;
            let _ = write!(page, "<b class=\"y\" style=\"top:{top:.2}%\">{}</b>", short(tick));
        }
        for (place, label) in &self.ticks {
            let left = x(*place) / EXTENT * 100.0;
            let _ = write!(page, "<b class=\"x\" style=\"left:{left:.2}%\">{}</b>", escape(label));
        }
        let _ = write!(page, "\n</div>\n<p class=\"axis\">{}</p>\n</figure>\n", self.axis);
    }
}

/// `1234` as `step 1,234`.
#[must_use]
pub fn step_label(step: usize) -> String {
    format!("step {}", thousands(step as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_stand_where_their_steps_are() {
        let curve = |from: usize, values: &[f64]| ForecastCurve {
            name: "forecast",
            class: "valid",
            from,
            values: values.to_vec(),
        };
        let chart = ForecastChart {
            title: "<b>".to_owned(),
            curves: vec![curve(0, &[0.0, 10.0]), curve(2, &[5.0, f64::NAN, 10.0])],
            band: Some((curve(2, &[0.0]), curve(2, &[10.0]))),
            ticks: vec![(2, step_label(1234))],
            ..ForecastChart::default()
        };
        let mut page = String::new();
        ForecastSection { part: "test", charts: vec![chart], ..ForecastSection::default() }.write(&mut page);
        assert!(page.contains("d=\"M0.0 954.5L250.0 45.5\""), "{page}");
        assert!(page.contains("d=\"M500.0 500.0L1000.0 45.5\""), "{page}");
        assert!(page.contains("class=\"band\" d=\"M500.0 954.5L500.0 45.5Z\""), "{page}");
        assert!(page.contains("step 1,234") && !page.contains("<b>\"") && page.contains("&lt;b&gt;"));
    }
}
