//! Series of numbers in time: tables with a row a step, one series or several, cut into windows.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::numbers::number;
use super::order::sizes;
use super::{DataError, Document, Quoting, Table, at, read_table};

/// A step of time this many times as long as the usual one is a gap; months differ by less.
const GAP: f64 = 1.5;

/// How series are found in tables.
#[derive(Clone, Debug, Default)]
pub struct SeriesColumns<'a> {
    /// The columns to forecast; `None`: all but those named below.
    pub targets: Option<&'a [String]>,
    /// Columns that are read too, but not forecast.
    pub features: Option<&'a [String]>,
    /// The column that tells the series of a table apart; `None`: each file is one.
    pub id: Option<&'a str>,
    /// The column of the time, by which rows must be in order.
    pub time: Option<&'a str>,
    /// What becomes of a series in which steps are missing.
    pub gaps: Gaps,
}

/// What becomes of a series in which the time between two rows is not the usual one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gaps {
    /// It is an error.
    #[default]
    Refuse,
    /// The rows are neighbours all the same, as Friday and Monday may be.
    Ignore,
}

/// The columns of a value, in the order in which they stand in a step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeriesNames {
    /// What is forecast.
    pub targets: Vec<String>,
    /// What is read beside it.
    pub features: Vec<String>,
}

impl SeriesNames {
    /// Values of a step.
    #[must_use]
    pub fn width(&self) -> usize {
        self.targets.len() + self.features.len()
    }

    /// The columns that the recipe asks for, in a table.
    fn resolve(table: &Table, columns: &SeriesColumns<'_>) -> Result<SeriesNames, DataError> {
        let features = columns.features.unwrap_or_default().to_vec();
        let told = |name: &String| {
            features.contains(name) || [columns.id, columns.time].contains(&Some(name.as_str()))
        };
        let targets = match columns.targets {
            Some(named) => named.to_vec(),
            None => table.named().filter(|name| !told(name)).cloned().collect(),
        };
        let id = columns.id.and_then(|id| table.place(id));
        // A number that only says which row it is, or when, is nothing to forecast beside others.
        if columns.targets.is_none() {
            let (rows, values): (Vec<&String>, Vec<&String>) =
                targets.iter().partition(|name| tells_rows(table, name, id));
            if let (Some(name), Some(_)) = (rows.first(), values.first()) {
                let time = match columns.time {
                    None => format!("set data.time={name} if it is the time, or "),
                    Some(_) => String::new(),
                };
                let reason = format!(
                    "column {name:?} only tells the row or its day, expected values to forecast; {time}name the columns \
                     in data.targets"
                );
                return Err(DataError::File { name: table.name.clone(), reason });
            }
        }
        let wrong = |reason: String| DataError::File { name: table.name.clone(), reason };
        if targets.is_empty() {
            return Err(wrong("it has no column to forecast, expected one; set data.targets".to_owned()));
        }
        for (place, name) in targets.iter().chain(&features).enumerate() {
            if targets.iter().chain(&features).take(place).any(|other| other == name) {
                let reason = format!("column {name:?} is named twice in data.targets and data.features");
                return Err(wrong(reason));
            }
        }
        Ok(SeriesNames { targets, features })
    }

    /// Where they stand in a table.
    fn places(&self, table: &Table) -> Result<Vec<usize>, DataError> {
        let targets = self.targets.iter().map(|name| table.column(name, "data.targets"));
        targets.chain(self.features.iter().map(|name| table.column(name, "data.features"))).collect()
    }
}

/// Whether a column counts the rows of each series one by one, or holds their days as numbers such as 20240531.
fn tells_rows(table: &Table, column: &str, id: Option<usize>) -> bool {
    let Some(place) = table.place(column) else { return false };
    let mut last: HashMap<&str, f64> = HashMap::new();
    let (mut steps, mut counts, mut are_days) = (0, true, true);
    for row in &table.rows {
        let name = id.map_or(Ok(""), |id| table.field(row, id)).unwrap_or_default();
        let text = table.field(row, place).unwrap_or_default().trim();
        let Ok(value) = text.parse::<f64>() else { return false };
        are_days &= moment(text).is_some_and(|moment| moment != value);
        if let Some(before) = last.insert(name, value) {
            steps += 1;
            counts &= value == before + 1.0;
        }
        if !counts && !are_days {
            return false;
        }
    }
    steps > 1 && (counts || are_days)
}

/// One series.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// What tells it from others: a value of the id column, or the file.
    pub name: String,
    /// `[T, C]`: what is forecast first, then what is only read.
    pub values: Vec<f64>,
    /// `T`.
    pub length: usize,
    /// The time of its last step, as it was written.
    pub last: Option<String>,
    /// The file.
    pub file: String,
    /// The line that it begins on, counted from 1.
    pub line: usize,
}

/// Series with the same columns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SeriesSet {
    /// The columns.
    pub names: SeriesNames,
    /// The series, in the order in which they begin.
    pub series: Vec<Series>,
}

impl SeriesSet {
    /// The values of a step of a series.
    #[must_use]
    pub fn step(&self, series: usize, step: usize) -> &[f64] {
        let width = self.names.width();
        &self.series[series].values[step * width..][..width]
    }
}

/// The times of a series, while it is read.
#[derive(Default)]
struct Times {
    at: Vec<f64>,
    /// The file of each, and the line.
    places: Vec<(Rc<str>, usize)>,
}

/// Reads series. Of each table the columns are those of `known`, or those that the recipe asks for in the first one;
/// other columns are left alone. A series may go on in a further file.
///
/// # Errors
/// [`DataError`] with file and line: a value that is no finite number, a row out of order, a missing step.
pub fn read_series(
    documents: &[Document],
    columns: &SeriesColumns<'_>,
    known: Option<&SeriesNames>,
) -> Result<SeriesSet, DataError> {
    let mut set = SeriesSet { names: known.cloned().unwrap_or_default(), series: Vec::new() };
    let mut times: Vec<Times> = Vec::new();
    let mut by_name: HashMap<String, usize> = HashMap::new();
    for document in documents {
        let table = read_table(document, Quoting::On)?;
        let file: Rc<str> = table.name.as_str().into();
        if set.names.targets.is_empty() {
            set.names = SeriesNames::resolve(&table, columns)?;
        }
        let places = set.names.places(&table)?;
        let id = columns.id.map(|id| table.column(id, "data.id")).transpose()?;
        let time = columns.time.map(|time| table.column(time, "data.time")).transpose()?;
        for row in &table.rows {
            let name = id.map_or(Ok(table.name.as_str()), |id| table.field(row, id))?;
            let place = by_name.get(name).copied().unwrap_or_else(|| {
                by_name.insert(name.to_owned(), set.series.len());
                let (name, file, line) = (name.to_owned(), table.name.clone(), row.line);
                set.series.push(Series { name, file, line, ..Series::default() });
                times.push(Times::default());
                set.series.len() - 1
            });
            let series = &mut set.series[place];
            if let Some(time) = time {
                let text = table.field(row, time)?;
                advance(&mut times[place], series, text, &file, row.line)?;
                series.last = Some(text.to_owned());
            }
            for &column in &places {
                let name = &table.columns[column];
                let value = table
                    .field(row, column)
                    .and_then(|text| number(text, &table.name, row.line, name))
                    .map_err(|error| {
                        let unsaid = columns.targets.is_none();
                        let is_time = table
                            .field(row, column)
                            .is_ok_and(|text| moment(text).is_some_and(f64::is_finite));
                        let hint = match columns.time {
                            None if unsaid && is_time => format!("; if it is the time, set data.time={name}"),
                            _ if unsaid && series.length == 0 => {
                                "; data.targets names the columns to forecast".to_owned()
                            }
                            _ => String::new(),
                        };
                        with_hint(error, &hint)
                    })?;
                series.values.push(value);
            }
            series.length += 1;
        }
    }
    if columns.gaps == Gaps::Refuse {
        for (series, times) in set.series.iter().zip(&times) {
            refuse_gaps(series, times)?;
        }
    }
    Ok(set)
}

/// What to do about a field, where the error does not say that yet.
fn with_hint(error: DataError, hint: &str) -> DataError {
    match error {
        DataError::Line { name, line, reason } if !reason.contains("; ") => {
            DataError::Line { name, line, reason: format!("{reason}{hint}") }
        }
        other => other,
    }
}

/// Takes the time of the next row.
fn advance(
    times: &mut Times,
    series: &Series,
    text: &str,
    file: &Rc<str>,
    line: usize,
) -> Result<(), DataError> {
    let wrong = |reason: String| at(file, line, reason);
    let now = moment(text).ok_or_else(|| {
        wrong(format!(
            "the time is {text:?}, expected a number or a date such as 2024-05-31, 2024-05-31 13:00 or 31.05.2024"
        ))
    })?;
    if times.at.last().is_some_and(|&before| now <= before) {
        let before = series.last.as_deref().unwrap_or_default();
        return Err(wrong(format!(
            "series {:?}: {text:?} does not come after {before:?} on line {}; sort the rows by time, and name \
             the column that tells series apart in data.id",
            series.name,
            times.place(times.at.len() - 1, file)
        )));
    }
    times.at.push(now);
    times.places.push((file.clone(), line));
    Ok(())
}

fn refuse_gaps(series: &Series, times: &Times) -> Result<(), DataError> {
    let mut steps: Vec<f64> = times.at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let all = steps.clone();
    steps.sort_by(f64::total_cmp);
    let Some(&usual) = steps.get(steps.len() / 2) else { return Ok(()) };
    match all.iter().position(|&step| step > GAP * usual) {
        None => Ok(()),
        Some(place) => {
            let (file, line) = &times.places[place + 1];
            let reason = format!(
                "series {:?}: the step from line {} to here is {:.3} times the usual one; fill the hole, or set \
                 data.gaps=ignore",
                series.name,
                times.place(place, file),
                all[place] / usual
            );
            Err(at(file, *line, reason))
        }
    }
}

impl Times {
    /// The line of a step, and its file where that is another one.
    fn place(&self, step: usize, here: &str) -> String {
        let (file, line) = &self.places[step];
        if **file == *here { line.to_string() } else { format!("{line} of {file}") }
    }
}

/// A time as a number: a number itself, or the seconds since 1970 of `2024-05`, `2024-05-31`, `20240531`, `31.05.2024`,
/// `2024/05/31 13:00`, `2024-05-31T13:00:00.5Z` or `2024-05-31 13:00:00+02:00`.
fn moment(text: &str) -> Option<f64> {
    let text = text.trim();
    if text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_digit()) && matches!(&text[..2], "19" | "20")
    {
        let (year, month, day) = (&text[..4], &text[4..6], &text[6..]);
        // What is no date is a number.
        if let Some(seconds) = moment(&format!("{year}-{month}-{day}")) {
            return Some(seconds);
        }
    }
    if let Ok(number) = text.parse::<f64>() {
        return number.is_finite().then_some(number);
    }
    let (date, clock) = match text.split_once(['T', ' ']) {
        Some((date, clock)) => (date, clock.trim().trim_end_matches('Z')),
        None => (text, ""),
    };
    let has_points = date.contains('.');
    let apart = |letter: char| if has_points { letter == '.' } else { matches!(letter, '-' | '/') };
    let mut parts: Vec<u32> = date.split(apart).map(|part| part.parse().ok()).collect::<Option<_>>()?;
    // Where points stand between them, the day comes first.
    if has_points {
        parts.reverse();
    }
    let (year, month, day) = match parts[..] {
        [year, month] => (year, month, 1),
        [year, month, day] => (year, month, day),
        _ => return None,
    };
    if !(1000..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let (clock, east) = match clock.find(['+', '-']) {
        Some(at) => (&clock[..at], seconds_east(&clock[at..])?),
        None => (clock, 0.0),
    };
    let mut seconds = days_before(i64::from(year), i64::from(month), i64::from(day)) as f64 * 86_400.0 - east;
    if !clock.is_empty() {
        let limits = [(3600.0, 24.0), (60.0, 60.0), (1.0, 61.0)];
        let parts: Vec<f64> = clock.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
        if !(2..=3).contains(&parts.len()) {
            return None;
        }
        for (part, (unit, below)) in parts.into_iter().zip(limits) {
            if !(0.0..below).contains(&part) {
                return None;
            }
            seconds += part * unit;
        }
    }
    Some(seconds)
}

/// How far east of Greenwich a clock is, by what stands behind it: `+02:00`, `-0530` or `+02`.
fn seconds_east(text: &str) -> Option<f64> {
    let (sign, digits) = match text.split_at_checked(1)? {
        ("+", digits) => (1.0, digits.replace(':', "")),
        (_, digits) => (-1.0, digits.replace(':', "")),
    };
    let (hours, minutes) = match digits.len() {
        2 => (digits.parse::<u32>().ok()?, 0),
        4 => (digits.get(..2)?.parse().ok()?, digits.get(2..)?.parse::<u32>().ok()?),
        _ => return None,
    };
    (hours < 24 && minutes < 60).then(|| sign * f64::from(hours * 3600 + minutes * 60))
}

/// Days from 1970-01-01 to a date of the Gregorian calendar. Years begin in March here, so that the leap day is the
/// last of one.
fn days_before(year: i64, month: i64, day: i64) -> i64 {
    let shifted = (month + 9) % 12;
    let year = if month <= 2 { year - 1 } else { year };
    let leaps = year / 4 - year / 100 + year / 400;
    // 306 days from March to the end of the year; 719,468 from the year 0 to 1970.
    year * 365 + leaps + (shifted * 306 + 5) / 10 + day - 1 - 719_468
}

/// The steps of training, validation and test in a series of `length` steps: one after the other.
#[must_use]
pub fn split_steps(length: usize, shares: [f64; 3]) -> [Range<usize>; 3] {
    let [train, valid, _] = sizes(length, shares);
    [0..train, train..train + valid, train + valid..length]
}

/// How much values vary: what they are scaled by, and what errors are measured against.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Means of the columns in the training part.
    pub mean: Vec<f64>,
    /// Standard deviations there; 1 where a value never changes.
    pub deviation: Vec<f64>,
    /// The mean absolute error of the (seasonal) naive forecast one season ahead there, of each column; 0 where that
    /// is never wrong, or the part is no longer than a season. The divisor of MASE.
    pub naive: Vec<f64>,
}

impl Spread {
    fn fit(set: &SeriesSet, parts: &[(usize, Range<usize>)], season: usize) -> Spread {
        let width = set.names.width();
        let rows =
            || parts.iter().flat_map(|(series, steps)| steps.clone().map(|step| set.step(*series, step)));
        let moments = (0..width).map(|column| moments(rows().map(|row| row[column])));
        let (mean, deviation) = moments.map(|(mean, deviation)| (mean, deviation.unwrap_or(1.0))).unzip();
        let naive = (0..width).map(|column| {
            let (mut sum, mut pairs) = (0.0, 0);
            for (series, steps) in parts {
                for step in steps.start + season.min(steps.len())..steps.end {
                    sum += (set.step(*series, step)[column] - set.step(*series, step - season)[column]).abs();
                    pairs += 1;
                }
            }
            sum / f64::from(pairs.max(1))
        });
        Spread { naive: naive.collect(), mean, deviation }
    }
}

/// Mean and standard deviation of values; `None` where they are all the same, for rounding gives those one all the same.
fn moments(values: impl Iterator<Item = f64> + Clone) -> (f64, Option<f64>) {
    let first = values.clone().next().unwrap_or_default();
    if values.clone().all(|value| value == first) {
        return (first, None);
    }
    let count = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / count;
    // A second walk keeps the digits that a difference of large sums would lose.
    let variance = values.map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    (mean, Some(variance.sqrt()).filter(|deviation| *deviation > 0.0))
}

/// The spread of each series in the training part, and of all together, for series that were not there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spreads {
    /// By the name of the series.
    pub by_series: BTreeMap<String, Spread>,
    /// Of all together.
    pub all: Spread,
}

impl Spreads {
    /// Measures the training part of every series.
    #[must_use]
    pub fn fit(set: &SeriesSet, train: &[Range<usize>], season: usize) -> Spreads {
        let parts: Vec<(usize, Range<usize>)> = train.iter().cloned().enumerate().collect();
        let one = |part: &(usize, Range<usize>)| {
            (set.series[part.0].name.clone(), Spread::fit(set, std::slice::from_ref(part), season))
        };
        let by_series = parts.iter().filter(|(_, steps)| !steps.is_empty()).map(one).collect();
        Spreads { by_series, all: Spread::fit(set, &parts, season) }
    }

    /// That of a series.
    #[must_use]
    pub fn of(&self, name: &str) -> &Spread {
        self.by_series.get(name).unwrap_or(&self.all)
    }
}

/// What values are scaled by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeriesScaling {
    /// Mean and deviation of the series in the training part.
    Series,
    /// Mean and deviation of all series in the training part.
    Global,
    /// Mean and deviation of the window that is read (Kim et al. 2022).
    Window,
    /// Nothing.
    None,
}

/// What a forecast is added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// Nothing.
    None,
    /// The last value.
    Last,
    /// The value one season before.
    Season,
}

/// Where a forecast begins: at step `at` of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Which series.
    pub series: usize,
    /// The first step that is forecast.
    pub at: usize,
}

/// How windows are cut and scaled.
#[derive(Clone, Debug, PartialEq)]
pub struct Framing {
    /// Steps that are read.
    pub window: usize,
    /// Steps that are forecast.
    pub horizon: usize,
    /// Steps after which things come again; 1: none.
    pub season: usize,
    /// What values are scaled by.
    pub scaling: SeriesScaling,
    /// What a forecast is added to.
    pub base: Base,
    /// How much values vary.
    pub spreads: Spreads,
}

impl Framing {
    /// Steps that must stand before a forecast: a window, and a season for the forecasts it is compared with.
    #[must_use]
    pub fn before(&self) -> usize {
        self.window.max(self.season)
    }

    /// The places in some steps of a series from which a whole horizon of them can be forecast, every `stride` steps.
    #[must_use]
    pub fn origins(&self, series: usize, steps: Range<usize>, stride: usize) -> Vec<Origin> {
        let Some(last) = steps.end.checked_sub(self.horizon) else { return Vec::new() };
        (steps.start.max(self.before())..=last)
            .step_by(stride.max(1))
            .map(|at| Origin { series, at })
            .collect()
    }

    /// What the columns of a window are scaled by.
    fn scale(&self, set: &SeriesSet, origin: Origin) -> (Vec<f64>, Vec<f64>) {
        let width = set.names.width();
        let of = |spread: &Spread| (spread.mean.clone(), spread.deviation.clone());
        let own = self.spreads.of(&set.series[origin.series].name);
        match self.scaling {
            SeriesScaling::None => (vec![0.0; width], vec![1.0; width]),
            SeriesScaling::Global => of(&self.spreads.all),
            SeriesScaling::Series => of(own),
            SeriesScaling::Window => {
                let part = (origin.series, origin.at - self.window..origin.at);
                let rows = || part.1.clone().map(|step| set.step(part.0, step));
                let moments = (0..width).map(|column| {
                    let (mean, deviation) = moments(rows().map(|row| row[column]));
                    // A window in which nothing moves says nothing about how far it might.
                    (mean, deviation.unwrap_or(own.deviation[column]))
                });
                moments.unzip()
            }
        }
    }

    /// What a model reads of each window, scaled, `[T, B, C]`: all first steps, then all second steps.
    #[must_use]
    pub fn inputs(&self, set: &SeriesSet, origins: &[Origin]) -> Vec<f32> {
        let scales: Vec<_> = origins.iter().map(|&origin| self.scale(set, origin)).collect();
        let mut values = Vec::with_capacity(self.window * origins.len() * set.names.width());
        for step in 0..self.window {
            for (origin, (mean, deviation)) in origins.iter().zip(&scales) {
                let row = set.step(origin.series, origin.at - self.window + step);
                let scaled = row.iter().zip(mean.iter().zip(deviation));
                values.extend(scaled.map(|(value, (mean, deviation))| ((value - mean) / deviation) as f32));
            }
        }
        values
    }

    /// What a forecast of a step ahead is added to, in the units of the data.
    fn base(&self, set: &SeriesSet, origin: Origin, ahead: usize, column: usize) -> Option<f64> {
        match self.base {
            Base::None => None,
            Base::Last => Some(naive(set, origin, column)),
            Base::Season => Some(seasonal_naive(set, origin, self.season, ahead, column)),
        }
    }

    /// What a model is to answer, scaled, `[B, H, targets]`.
    #[must_use]
    pub fn wanted(&self, set: &SeriesSet, origins: &[Origin]) -> Vec<f32> {
        let mut values = Vec::with_capacity(origins.len() * self.horizon * set.names.targets.len());
        for &origin in origins {
            let (mean, deviation) = self.scale(set, origin);
            for ahead in 0..self.horizon {
                let row = set.step(origin.series, origin.at + ahead);
                for column in 0..set.names.targets.len() {
                    let from = self.base(set, origin, ahead, column).unwrap_or(mean[column]);
                    values.push(((row[column] - from) / deviation[column]) as f32);
                }
            }
        }
        values
    }

    /// What a model answered to one window, `[H, targets, Q]`, in the units of the data.
    #[must_use]
    pub fn restore(&self, set: &SeriesSet, origin: Origin, answer: &[f32]) -> Vec<f64> {
        let (mean, deviation) = self.scale(set, origin);
        let targets = set.names.targets.len();
        let levels = answer.len() / (self.horizon * targets).max(1);
        let mut values = Vec::with_capacity(answer.len());
        for (place, answers) in answer.chunks_exact(levels.max(1)).enumerate() {
            let (ahead, column) = (place / targets, place % targets);
            let from = self.base(set, origin, ahead, column).unwrap_or(mean[column]);
            values.extend(answers.iter().map(|&answer| from + f64::from(answer) * deviation[column]));
        }
        values
    }
}

/// The naive forecast: what was last.
#[must_use]
pub fn naive(set: &SeriesSet, origin: Origin, column: usize) -> f64 {
    set.step(origin.series, origin.at - 1)[column]
}

/// The seasonal naive forecast: what was at the same place of the last whole season. `ahead` counts from 0.
#[must_use]
pub fn seasonal_naive(set: &SeriesSet, origin: Origin, season: usize, ahead: usize, column: usize) -> f64 {
    set.step(origin.series, origin.at - season + ahead % season)[column]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn document(name: &str, text: &str) -> Document {
        Document { name: name.to_owned(), bytes: text.as_bytes().to_vec() }
    }

    fn named(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn series_are_told_apart_and_go_on_in_further_files() {
        let a = document("a.csv", "day,shop,sold,price\n1,x,10,1\n1,y,20,2\n2,x,11,3\n");
        let b = document("b.csv", "shop,price,day,sold\nx,4,3,12\n");
        let (targets, features) = (named(&["sold"]), named(&["price"]));
        let columns = SeriesColumns {
            targets: Some(&targets),
            features: Some(&features),
            id: Some("shop"),
            time: Some("day"),
            gaps: Gaps::Refuse,
        };
        let set = read_series(&[a, b], &columns, None).unwrap();
        let found: Vec<(&str, &[f64])> =
            set.series.iter().map(|series| (series.name.as_str(), series.values.as_slice())).collect();
        let expected: &[(&str, &[f64])] = &[("x", &[10.0, 1.0, 11.0, 3.0, 12.0, 4.0]), ("y", &[20.0, 2.0])];
        assert_eq!(found, expected);
        assert_eq!(set.series[0].last.as_deref(), Some("3"));
    }

    #[test]
    fn dates_are_moments() {
        let check = |text: &str, expected: Option<f64>| assert_eq!(moment(text), expected, "{text}");
        check("1970-01-01", Some(0.0));
        check("2000-03-01", Some(951_868_800.0));
        check("29.02.2024 12:30:00", Some(1_709_209_800.0));
        check("2024.02.29", None);
        check("2024/02/29 12:30", Some(1_709_209_800.0));
        check("2024-02-29T12:30:01.5Z", Some(1_709_209_801.5));
        check("2024-02-29 12:30:00+02:00", Some(1_709_209_800.0 - 7200.0));
        check("2024-02-29T12:30-0530", Some(1_709_209_800.0 + 19_800.0));
        check("2024-02-29 12:30+25:00", None);
        check("2024-02-29 12:30+2", None);
        check("1969-12", Some(-31.0 * 86_400.0));
        check("19700102", Some(86_400.0));
        check("20241301", Some(20_241_301.0));
        check("17.5", Some(17.5));
        check("nan", None);
        check("2024-13-01", None);
        check("2024-01-01 25:00", None);
        check("tomorrow", None);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let check = |text: &str, time: bool, expected: &str| {
            let columns = SeriesColumns { time: time.then_some("t"), ..SeriesColumns::default() };
            let error = read_series(&[document("a.csv", text)], &columns, None).unwrap_err().to_string();
            assert_eq!(error, expected);
        };
        check(
            "t,x\n1,5\n1,6\n",
            true,
            "a.csv:3: series \"a.csv\": \"1\" does not come after \"1\" on line 2; sort the rows by time, and name the column that tells series apart in data.id",
        );
        check(
            "t,x\n1,5\n2,6\n3,6\n6,6\n",
            true,
            "a.csv:5: series \"a.csv\": the step from line 4 to here is 3.000 times the usual one; fill the hole, or set data.gaps=ignore",
        );
        check(
            "t,x\nsoon,5\n",
            true,
            "a.csv:2: the time is \"soon\", expected a number or a date such as 2024-05-31, 2024-05-31 13:00 or 31.05.2024",
        );
        let two = [document("a.csv", "t,s,x\n1,u,1\n2,u,1\n3,u,1\n"), document("b.csv", "t,s,x\n9,u,1\n")];
        let columns = SeriesColumns { time: Some("t"), id: Some("s"), ..SeriesColumns::default() };
        assert_eq!(
            read_series(&two, &columns, None).unwrap_err().to_string(),
            "b.csv:2: series \"u\": the step from line 4 of a.csv to here is 6.000 times the usual one; fill the hole, \
             or set data.gaps=ignore"
        );
        check("t\n1\n", true, "a.csv: it has no column to forecast, expected one; set data.targets");
        check(
            "x\n1\nNaN\n",
            false,
            "a.csv:3: column \"x\" is \"NaN\", expected a finite number; fill the hole, or leave the step out",
        );
        check(
            "day,x\n2024-05-31,5\n",
            false,
            "a.csv:2: column \"day\" is \"2024-05-31\", expected a number; if it is the time, set data.time=day",
        );
        check(
            "t,x,sky\n1,5,clear\n",
            true,
            "a.csv:2: column \"sky\" is \"clear\", expected a number; data.targets names the columns to forecast",
        );
        check(
            "x\n1\n\"1,5\"\n",
            false,
            "a.csv:3: column \"x\" is \"1,5\", expected a number; write a point before decimals, and nothing between \
             thousands",
        );
    }

    fn ramp() -> SeriesSet {
        let values: Vec<f64> = (0..20).map(|step| f64::from(step * 10)).collect();
        let series = Series { name: "a".to_owned(), length: values.len(), values, ..Series::default() };
        let names = SeriesNames { targets: named(&["x"]), features: Vec::new() };
        SeriesSet { names, series: vec![series] }
    }

    #[test]
    fn a_spread_is_that_of_the_training_part() {
        let spreads = Spreads::fit(&ramp(), std::slice::from_ref(&(0..5)), 2);
        let Spread { mean, deviation, naive } = spreads.of("a");
        assert_eq!((mean[0], naive[0]), (20.0, 20.0));
        assert!((deviation[0] - 200.0_f64.sqrt()).abs() < 1e-12);
        assert_eq!(spreads.of("another"), &spreads.all);
    }

    /// The mean of equal numbers is another one by some last digits; that is no deviation.
    #[test]
    fn what_never_changes_has_no_spread() {
        let mut set = ramp();
        set.series[0].values[..16].fill(20.1);
        let spreads = Spreads::fit(&set, std::slice::from_ref(&(0..10)), 1);
        assert_eq!((spreads.all.mean[0], spreads.all.deviation[0]), (20.1, 1.0));
        let (scaling, base) = (SeriesScaling::Window, Base::Last);
        let framing = Framing { window: 7, horizon: 1, season: 1, scaling, base, spreads };
        assert_eq!(framing.wanted(&set, &[Origin { series: 0, at: 16 }]), [160.0 - 20.1]);
    }

    #[test]
    fn columns_without_a_name_are_left_out() {
        let set = read_series(&[document("a.csv", ",x,\n0,5,\n1,6,\n")], &SeriesColumns::default(), None);
        let set = set.unwrap();
        assert_eq!((set.names.targets, &set.series[0].values), (named(&["x"]), &vec![5.0, 6.0]));
    }

    #[test]
    fn windows_are_restored_whatever_they_are_scaled_by() {
        let set = ramp();
        let scalings =
            [SeriesScaling::Series, SeriesScaling::Global, SeriesScaling::Window, SeriesScaling::None];
        for scaling in scalings {
            for base in [Base::None, Base::Last, Base::Season] {
                let spreads = Spreads::fit(&set, std::slice::from_ref(&(0..10)), 3);
                let framing = Framing { window: 4, horizon: 2, season: 3, scaling, base, spreads };
                let origins = framing.origins(0, 10..20, 3);
                let at: Vec<usize> = origins.iter().map(|origin| origin.at).collect();
                assert_eq!(at, [10, 13, 16]);
                let wanted = framing.wanted(&set, &origins);
                for (origin, wanted) in origins.iter().zip(wanted.chunks_exact(2)) {
                    let found = framing.restore(&set, *origin, wanted);
                    let expected = [origin.at as f64 * 10.0, origin.at as f64 * 10.0 + 10.0];
                    for (found, expected) in found.iter().zip(expected) {
                        assert!((found - expected).abs() < 1e-4, "{scaling:?} {base:?}: {found} {expected}");
                    }
                }
                let inputs = framing.inputs(&set, &origins);
                assert_eq!(inputs.len(), 4 * 3);
                assert!(inputs[0] < inputs[3] && (inputs[1] > inputs[0] || scaling == SeriesScaling::Window));
            }
        }
    }

    #[test]
    fn the_seasonal_naive_forecast_repeats_the_last_season() {
        let (set, origin) = (ramp(), Origin { series: 0, at: 10 });
        let found: Vec<f64> = (0..5).map(|ahead| seasonal_naive(&set, origin, 3, ahead, 0)).collect();
        assert_eq!(found, [70.0, 80.0, 90.0, 70.0, 80.0]);
        assert_eq!(naive(&set, origin, 0), 90.0);
    }

    #[test]
    fn parts_follow_each_other_in_time() {
        assert_eq!(split_steps(100, [0.7, 0.2, 0.1]), [0..70, 70..90, 90..100]);
    }
}
