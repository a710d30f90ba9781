//! What forecasters answer, and how they do, for people, for programs and in reports.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;
use carousel::data::{Document, read_documents};
use carousel::metrics::ForecastErrors;
use carousel::report::{ErrorRow, ForecastChart, ForecastCurve, ForecastSection, step_label, thousands};
use carousel::run::RunFolder;
use carousel::saved::{ColumnForecast, SavedForecaster, SeriesForecast};
use carousel::train::{Contest, DrawnForecast, FORECASTS, ForecastEvaluation, Summary};
use serde_json::{Map, Value, json};

use crate::output;
use crate::wording::digits;

/// Answers what comes behind the end of every series in some tables, or in the one on stdin.
pub(crate) fn predict(saved: &SavedForecaster, files: &[PathBuf], as_json: bool) -> anyhow::Result<()> {
    let documents = if files.is_empty() {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).context("could not read stdin")?;
        vec![Document { name: "stdin".to_owned(), bytes }]
    } else {
        read_documents(files)?
    };
    let (forecasts, short) = saved.predict(&documents)?;
    for reason in &short {
        output::message(format_args!("left out: {reason}"));
    }
    if as_json {
        return forecasts.iter().try_for_each(|forecast| output::json(&object(forecast)));
    }
    let levels: String = saved.quantiles().iter().map(|level| format!(",q{level}")).collect();
    output::result(&format!("series,column,step,forecast{levels}\n"))?;
    for forecast in &forecasts {
        for column in &forecast.columns {
            let mut text = String::new();
            let decimals = decimals(column);
            for (step, value) in column.forecast.iter().enumerate() {
                let levels: String = column
                    .quantiles
                    .iter()
                    .map(|(_, values)| format!(",{}", plain(values[step], decimals)))
                    .collect();
                let (series, name) = (field(&forecast.series), field(&column.column));
                text.push_str(&format!("{series},{name},{},{}{levels}\n", step + 1, plain(*value, decimals)));
            }
            output::result(&text)?;
        }
    }
    Ok(())
}

/// A field of a table with commas, in quotes where it needs them.
fn field(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

/// Decimals of a column's forecasts: seven digits of how far apart they are, for a model's 32 bits hold that much of
/// what is added to the last value.
fn decimals(column: &ColumnForecast) -> usize {
    let all = || column.forecast.iter().chain(column.quantiles.iter().flat_map(|(_, values)| values));
    let finite = all().copied().filter(|value| value.is_finite());
    let (low, high) =
        finite.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
    match high > low {
        true => (6.0 - (high - low).log10().floor()).clamp(0.0, 15.0) as usize,
        // Of one value alone nothing says how exact it is.
        false => (7.0 - high.abs().log10().floor()).clamp(2.0, 15.0) as usize,
    }
}

/// Without zeros at the end.
fn plain(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

fn object(forecast: &SeriesForecast) -> Value {
    let columns: Map<String, Value> = forecast
        .columns
        .iter()
        .map(|column| {
            let mut told = json!({"forecast": column.forecast});
            if !column.quantiles.is_empty() {
                let quantiles: Map<String, Value> = column
                    .quantiles
                    .iter()
                    .map(|(level, values)| (level.to_string(), json!(values)))
                    .collect();
                told["quantiles"] = quantiles.into();
            }
            (column.column.clone(), told)
        })
        .collect();
    json!({"series": forecast.series, "after": forecast.after, "columns": columns})
}

/// Tells a back-test.
pub(crate) fn tell(run: &Path, measured: &ForecastEvaluation, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        let mut line = serde_json::to_value(measured)?;
        line["run"] = json!(run);
        for (name, value) in [("mae", measured.errors.model.mae), ("rmse", measured.errors.model.rmse)] {
            line[name] = json!(value);
        }
        if let Some(object) = line.as_object_mut() {
            object.remove("drawn");
        }
        return output::json(&line);
    }
    let windows = thousands(measured.windows as u64);
    let mut text = format!("forecasts  {windows} of {} steps\n\n{}", measured.horizon, table(measured));
    if let Some(pinball) = measured.pinball {
        text.push_str(&format!("\npinball loss  {}\n", digits(pinball)));
        let told = measured.coverage.iter().map(|(level, share)| format!("{level}: {:.1} %", share * 100.0));
        text.push_str(&format!("at or below   {}\n", told.collect::<Vec<_>>().join("  ")));
    }
    output::result(&text)
}

/// The table of a back-test, for people.
fn table(measured: &ForecastEvaluation) -> String {
    let mut text = format!("{:<22}", "");
    COLUMNS.iter().for_each(|name| text.push_str(&format!("{name:>13}")));
    text.push('\n');
    let rows = rows(measured);
    for (name, values) in rows.iter().take(MOST_ROWS) {
        text.push_str(&output::padded(&output::shortened(name, 21), 22));
        values.iter().for_each(|value| text.push_str(&format!("{value:>13}")));
        text.push('\n');
    }
    if rows.len() > MOST_ROWS {
        text.push_str(&format!("and {} rows more; --json and the report have all\n", rows.len() - MOST_ROWS));
    }
    text
}

/// Rows of a table that are shown on a terminal.
const MOST_ROWS: usize = 60;

const COLUMNS: [&str; 4] = ["MAE", "RMSE", "sMAPE", "MASE"];

/// The rows of a back-test's table. Errors of several columns have no unit in common, so only those without one are
/// told of all together.
fn rows(measured: &ForecastEvaluation) -> Vec<(String, Vec<String>)> {
    let mut rows = Vec::new();
    let mut add = |of: &str, contest: &Contest| {
        let mut row = |name: &str, errors: &ForecastErrors| {
            let name = if of.is_empty() { name.to_owned() } else { format!("{of}: {name}") };
            let mut values = values(errors);
            if of.is_empty() && measured.columns.len() > 1 {
                values[..2].fill("-".to_owned());
            }
            rows.push((name, values));
        };
        row("model", &contest.model);
        row("naive", &contest.naive);
        if let Some(seasonal) = &contest.seasonal {
            row("seasonal naive", seasonal);
        }
    };
    add("", &measured.errors);
    measured.columns.iter().for_each(|(name, contest)| add(name, contest));
    rows
}

fn values(errors: &ForecastErrors) -> Vec<String> {
    vec![
        digits(errors.mae),
        digits(errors.rmse),
        format!("{:.2} %", errors.smape * 100.0),
        errors.mase.map_or("-".to_owned(), |mase| format!("{mase:.4}")),
    ]
}

/// The table of a run's back-test, as `train` tells it in the end; empty where there is none.
pub(crate) fn beside(run: &Path) -> anyhow::Result<String> {
    Ok(read(run)?.map(|measured| table(&measured)).unwrap_or_default())
}

fn read(run: &Path) -> anyhow::Result<Option<ForecastEvaluation>> {
    let path = run.join(FORECASTS);
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    let measured =
        serde_json::from_str(&text).with_context(|| format!("{} is not what a run wrote", path.display()))?;
    Ok(Some(measured))
}

/// The section of a report, where the run has told.
pub(crate) fn section(run: &RunFolder, summary: &Summary) -> anyhow::Result<Option<ForecastSection>> {
    let Some(measured) = read(run.path())? else { return Ok(None) };
    let mut note = format!(
        "{} forecasts of {} steps each, one from every place that has enough before it.",
        thousands(measured.windows as u64),
        measured.horizon
    );
    if let Some(pinball) = measured.pinball {
        let told = measured.coverage.iter().map(|(level, share)| format!("{level}: {:.1} %", share * 100.0));
        let told = told.collect::<Vec<_>>().join(", ");
        note.push_str(&format!(
            " Pinball loss {}; values at or below each quantile {told}.",
            digits(pinball)
        ));
    }
    let mut charts = vec![by_step(&measured)];
    let simple = if measured.errors.seasonal.is_some() { "seasonal naive" } else { "naive" };
    charts.extend(measured.drawn.iter().map(|forecast| drawn(forecast, simple)));
    Ok(Some(ForecastSection {
        part: if summary.test_loss.is_some() { "test" } else { "validation" },
        note,
        columns: COLUMNS.map(str::to_owned).to_vec(),
        rows: rows(&measured).into_iter().map(|(name, values)| ErrorRow { name, values }).collect(),
        charts,
    }))
}

fn by_step(measured: &ForecastEvaluation) -> ForecastChart {
    let curve = |name, class, of: &dyn Fn(&Contest) -> Option<f64>| ForecastCurve {
        name,
        class,
        from: 0,
        values: measured.steps.iter().filter_map(of).collect(),
    };
    let mut curves = vec![
        curve("model", "train", &|contest| Some(contest.model.mae)),
        curve("naive", "norm", &|contest| Some(contest.naive.mae)),
    ];
    if measured.errors.seasonal.is_some() {
        curves.push(curve("seasonal naive", "valid", &|contest| contest.seasonal.map(|errors| errors.mae)));
    }
    let last = measured.horizon.saturating_sub(1);
    ForecastChart {
        title: "Error by step".to_owned(),
        unit: "mean absolute error".to_owned(),
        curves,
        band: None,
        ticks: vec![(0, "1".to_owned()), (last, measured.horizon.to_string())],
        axis: "steps ahead",
    }
}

fn drawn(forecast: &DrawnForecast, simple: &'static str) -> ForecastChart {
    let at = forecast.history.len();
    let curve = |name, class, from: usize, values: &[f64]| ForecastCurve {
        name,
        class,
        from,
        values: values.to_vec(),
    };
    let came = [forecast.history.as_slice(), &forecast.wanted].concat();
    let band =
        forecast.between.as_ref().map(|(low, high)| (curve("low", "", at, low), curve("high", "", at, high)));
    ForecastChart {
        title: forecast.column.clone(),
        unit: forecast.series.clone(),
        curves: vec![
            curve("what came", "train", 0, &came),
            curve(simple, "norm", at, &forecast.naive),
            curve("forecast", "valid", at, &forecast.forecast),
        ],
        band,
        ticks: vec![(at, step_label(forecast.at))],
        axis: "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forecasts_are_told_as_exactly_as_they_are_known() {
        let check = |values: &[f64], expected: &[&str]| {
            let column =
                ColumnForecast { column: "x".to_owned(), forecast: values.to_vec(), quantiles: Vec::new() };
            let decimals = decimals(&column);
            let told: Vec<String> = values.iter().map(|&value| plain(value, decimals)).collect();
            assert_eq!(told, expected);
        };
        check(
            &[1_700_000_000.0, 1_700_000_001.0, 1_700_000_012.5],
            &["1700000000", "1700000001", "1700000012.5"],
        );
        check(&[3512.123456, 4800.0], &["3512.123", "4800"]);
        check(&[0.1, 0.1], &["0.1", "0.1"]);
        check(&[0.0], &["0"]);
        check(&[1_700_000_012.5], &["1700000012.5"]);
        check(&[123_456.78], &["123456.78"]);
        check(&[f64::INFINITY, 0.25, 0.5], &["inf", "0.25", "0.5"]);
        check(&[-0.00001, 500.0], &["0", "500"]);
        check(&[-20.0, 100.0], &["-20", "100"]);
    }

    #[test]
    fn fields_survive_commas() {
        assert_eq!(field("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(field("a b"), "a b");
    }
}
