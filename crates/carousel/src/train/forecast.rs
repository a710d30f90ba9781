//! Trains and measures forecasters.

use std::ops::Range;
use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::data::{
    Counts, DataError, Document, Framing, Lengths, Origin, Series, SeriesSet, Spreads, naive, read_series,
    seasonal_naive, split_steps,
};
use crate::metrics::{ErrorSums, ForecastErrors};
use crate::models::forecaster::{Criterion, Forecaster};
use crate::ragged::Batch;
use crate::recipe::{LossName, Recipe, TrainRecipe};
use crate::regularize::Noise;
use crate::run::RunFolder;
use crate::saved::{
    LABELS, SavedForecaster, SeriesLabels, forecaster_config, forecasts, framing, point, read_json,
    series_columns,
};
use crate::slices::with_slice;
use crate::train::examples::{ExampleJob, ExampleTask, Parts};
use crate::train::job::{Facts, Measured, Objective};
use crate::train::trainer::train;
use crate::train::{Control, Event, PartStatistics, Score, Sources, Start, Summary, TrainError, write_json};

/// Windows that are measured at once.
const BATCH: usize = 256;
/// Forecasts that an evaluation keeps, to be drawn.
const MOST_DRAWN: usize = 6;
/// Windows of history that are drawn before a forecast, where there are as many.
const DRAWN_HISTORY: usize = 2;

/// The file of a run with the back-test of its best checkpoint.
pub const FORECASTS: &str = "forecasts.json";

/// Trains a forecaster in a run's folder: from windows of series to the steps behind them.
///
/// Each series is split in time; what values are scaled by comes from the training part alone. The folder gets the
/// columns and their scales too, and in the end `forecasts.json`: the back-test of the best checkpoint on the test
/// part, or on the validation part where there is no other.
///
/// # Errors
/// [`TrainError`] when the data, the folder or a checkpoint does not do, or training diverges.
pub fn forecast(
    run: &RunFolder,
    recipe: &Recipe,
    sources: &Sources,
    start: Start,
    on_event: &mut dyn FnMut(&Event<'_>) -> Control,
) -> Result<Summary, TrainError> {
    let known: Option<SeriesLabels> = match start {
        Start::New => None,
        Start::Resume => Some(read_json(run, LABELS)?),
    };
    let read = Split::read(recipe, sources, known.as_ref())?;
    let Split { set, parts: [train_steps, valid_steps, test_steps] } = &read;
    let labels = match known {
        Some(labels) => labels,
        None => {
            let names = set.names.clone();
            let labels = SeriesLabels { names, spreads: Spreads::fit(set, train_steps, recipe.data.season) };
            write_json(run, LABELS, serde_json::to_string_pretty(&labels))?;
            labels
        }
    };
    let framing = framing(recipe, labels.spreads);
    let origins = |steps: &[Range<usize>]| -> Vec<Origin> {
        let stride = recipe.data.stride;
        steps.iter().enumerate().flat_map(|(at, steps)| framing.origins(at, steps.clone(), stride)).collect()
    };
    let parts = Parts { train: origins(train_steps), valid: origins(valid_steps), test: origins(test_steps) };
    let named = [
        ("training", train_steps, &parts.train, 0),
        ("validation", valid_steps, &parts.valid, 1),
        ("test", test_steps, &parts.test, 2),
    ];
    for (name, steps, origins, place) in &named {
        let wanted = *place == 0 || steps.iter().any(|steps| !steps.is_empty());
        if wanted && origins.is_empty() {
            return Err(too_short(name, steps, &framing).into());
        }
    }
    let statistics: Vec<PartStatistics> = named
        .iter()
        .filter(|(_, _, origins, _)| !origins.is_empty())
        .map(|(name, steps, ..)| PartStatistics {
            part: name,
            lengths: Lengths::of(steps.iter().map(Range::len).filter(|&length| length > 0).collect()),
            classes: Counts::default(),
        })
        .collect();
    on_event(&Event::Examples { parts: &statistics });

    let model = forecaster_config(recipe, &labels.names).init(&Device::default().autodiff())?;
    let facts = Facts { vocabulary: None, train_tokens: None, valid_tokens: None };
    let judged = if parts.test.is_empty() { parts.valid.clone() } else { parts.test.clone() };
    let quantiles = recipe.model.quantiles.clone().unwrap_or_default();
    let (criterion, train_recipe) = (criterion(recipe), recipe.train.clone());
    let task = Forecasting { set: set.clone(), framing, criterion, quantiles, train: train_recipe };
    let summary = train(run, recipe, ExampleJob::new(task, recipe, model, parts), facts, start, on_event)?;
    if !judged.is_empty() && !summary.stopped {
        let saved = SavedForecaster::open(run.path())?;
        let evaluation = judge(&saved.model, &saved.framing, set, saved.quantiles(), &judged);
        write_json(run, FORECASTS, serde_json::to_string(&evaluation))?;
    }
    Ok(summary)
}

/// Measures the best checkpoint of a run by a rolling back-test: a forecast from every step of some series (or every
/// `data.stride` steps) that has enough before and behind it.
///
/// # Errors
/// [`TrainError`] when the run cannot be opened or the series do not do.
pub fn evaluate_forecaster(run: &Path, documents: &[Document]) -> Result<ForecastEvaluation, TrainError> {
    let saved = SavedForecaster::open(run)?;
    let set = saved.read(documents)?;
    let stride = saved.recipe.data.stride;
    let all: Vec<Range<usize>> = set.series.iter().map(|series| 0..series.length).collect();
    let from = |(place, steps): (usize, &Range<usize>)| saved.framing.origins(place, steps.clone(), stride);
    let origins: Vec<Origin> = all.iter().enumerate().flat_map(from).collect();
    if origins.is_empty() {
        return Err(too_short("data", &all, &saved.framing).into());
    }
    Ok(judge(&saved.model, &saved.framing, &set, saved.quantiles(), &origins))
}

/// How a forecaster does, beside forecasts that need no model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ForecastEvaluation {
    /// Forecasts made, of a whole horizon each.
    pub windows: usize,
    /// Steps of each.
    pub horizon: usize,
    /// Errors over all steps and columns.
    pub errors: Contest,
    /// Errors of each column, where there are several.
    pub columns: Vec<(String, Contest)>,
    /// Errors of each step ahead.
    pub steps: Vec<Contest>,
    /// The mean pinball loss over the quantiles, in the units of the data.
    pub pinball: Option<f64>,
    /// For each quantile its level, and the share of values at or below it: equal where it is calibrated.
    pub coverage: Vec<(f64, f64)>,
    /// Some forecasts, spread over the back-test.
    pub drawn: Vec<DrawnForecast>,
}

/// Errors of a model, and of the forecasts that it is to be better than.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Contest {
    /// The model.
    pub model: ForecastErrors,
    /// The last value, again and again.
    pub naive: ForecastErrors,
    /// The last season once more; `None` without a season.
    pub seasonal: Option<ForecastErrors>,
}

/// A forecast, and what came.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrawnForecast {
    /// The series.
    pub series: String,
    /// The column.
    pub column: String,
    /// The step of the series that the forecast begins at, counted from 0.
    pub at: usize,
    /// What was before.
    pub history: Vec<f64>,
    /// What came.
    pub wanted: Vec<f64>,
    /// What was forecast.
    pub forecast: Vec<f64>,
    /// The lowest and the highest quantile, where there are several.
    pub between: Option<(Vec<f64>, Vec<f64>)>,
    /// The seasonal naive forecast, or the naive one.
    pub naive: Vec<f64>,
}

fn too_short(part: &str, steps: &[Range<usize>], framing: &Framing) -> DataError {
    let longest = steps.iter().map(Range::len).max().unwrap_or(0);
    let looked_back = if steps.iter().all(|steps| steps.start == 0) {
        format!("{} to look back at (data.window, data.season) and ", framing.before())
    } else {
        String::new()
    };
    let reason = format!(
        "no series has enough steps in its {part} part: the longest has {longest}, expected {looked_back}{} to \
         forecast (data.horizon); give longer series, or change data.split",
        framing.horizon
    );
    DataError::Examples { reason }
}

fn criterion(recipe: &Recipe) -> Criterion {
    match (&recipe.model.quantiles, recipe.train.loss) {
        (Some(levels), _) => Criterion::Quantiles(levels.iter().map(|&level| level as f32).collect()),
        (None, LossName::Mse) => Criterion::Squared,
        (None, LossName::Mae) => Criterion::Absolute,
        (None, LossName::Huber) => Criterion::Huber,
    }
}

/// The series of all parts, and which steps of each belong to training, validation and test.
struct Split {
    set: SeriesSet,
    parts: [Vec<Range<usize>>; 3],
}

impl Split {
    /// Series for training are split in time; those given apart are of one part alone.
    fn read(recipe: &Recipe, sources: &Sources, known: Option<&SeriesLabels>) -> Result<Split, TrainError> {
        let columns = series_columns(recipe);
        let mut set = read_series(&sources.train, &columns, known.map(|known| &known.names))?;
        let shares = super::shares(recipe, sources);
        let mut parts = [Vec::new(), Vec::new(), Vec::new()];
        for series in &set.series {
            for (part, steps) in parts.iter_mut().zip(split_steps(series.length, shares)) {
                part.push(steps);
            }
        }
        for (own, given) in [(1, &sources.valid), (2, &sources.test)] {
            if given.is_empty() {
                continue;
            }
            let more: Vec<Series> = read_series(given, &columns, Some(&set.names))?.series;
            for series in more {
                for (place, part) in parts.iter_mut().enumerate() {
                    part.push(if place == own { 0..series.length } else { 0..0 });
                }
                set.series.push(series);
            }
        }
        Ok(Split { set, parts })
    }
}

struct Forecasting {
    set: SeriesSet,
    framing: Framing,
    criterion: Criterion,
    quantiles: Vec<f64>,
    train: TrainRecipe,
}

impl ExampleTask for Forecasting {
    type Model = Forecaster;
    type Example = Origin;

    fn length(&self, _: &Origin) -> usize {
        self.framing.window
    }

    fn targets(&self, _: &Origin) -> usize {
        self.framing.horizon * self.set.names.targets.len()
    }

    fn objective(&self, model: &Forecaster, batch: &[&Origin], noise: Noise, _: u64) -> Objective {
        let origins: Vec<Origin> = batch.iter().copied().copied().collect();
        let inputs = self.framing.inputs(&self.set, &origins);
        let wanted = self.framing.wanted(&self.set, &origins);
        let learned = model.learn(&inputs, &wanted, origins.len(), &self.criterion, Some(noise));
        Objective::priced(learned, &self.train, &Batch::full(origins.len(), self.framing.window))
    }

    fn measure(&self, model: &Forecaster, origins: &[Origin]) -> Measured {
        let model = model.valid();
        let mut loss = 0.0;
        let mut targets = 0;
        for batch in origins.chunks(BATCH) {
            let inputs = self.framing.inputs(&self.set, batch);
            let wanted = self.framing.wanted(&self.set, batch);
            let mean = model.loss(&inputs, &wanted, batch.len(), &self.criterion, None);
            loss += with_slice(&mean, |mean| f64::from(mean[0])) * wanted.len() as f64;
            targets += wanted.len();
        }
        let ForecastEvaluation { errors, pinball, .. } =
            judge(&model, &self.framing, &self.set, &self.quantiles, origins);
        let ForecastErrors { mae, rmse, smape, mase } = errors.model;
        let mut scores = vec![Score::new("mae", mae), Score::new("rmse", rmse), Score::new("smape", smape)];
        scores.extend(mase.map(|mase| Score::new("mase", mase)));
        // Of several columns, which have no unit in common, those without one come first.
        if self.set.names.targets.len() > 1 {
            scores.rotate_left(2);
        }
        scores.extend(pinball.map(|pinball| Score::new("pinball", pinball)));
        Measured { loss, targets, scores, ..Measured::default() }
    }
}

/// Sums of errors of the three forecasts.
#[derive(Clone, Copy, Default)]
struct Sums([ErrorSums; 3]);

impl Sums {
    fn add(&mut self, wanted: f64, found: [f64; 3], divisor: f64) {
        self.0.iter_mut().zip(found).for_each(|(sums, found)| sums.add(wanted, found, divisor));
    }

    fn contest(&self, season: usize) -> Contest {
        let [model, naive, seasonal] = self.0.map(|sums| sums.means());
        Contest { model, naive, seasonal: (season > 1).then_some(seasonal) }
    }
}

/// A rolling back-test.
fn judge(
    model: &Forecaster,
    framing: &Framing,
    set: &SeriesSet,
    quantiles: &[f64],
    origins: &[Origin],
) -> ForecastEvaluation {
    let (targets, season) = (set.names.targets.len(), framing.season);
    let (levels, point) = (quantiles.len().max(1), point(quantiles));
    let mut all = Sums::default();
    let mut columns = vec![Sums::default(); targets];
    let mut steps = vec![Sums::default(); framing.horizon];
    let mut pinball = 0.0;
    let mut below = vec![0_usize; quantiles.len()];
    let mut drawn = Vec::new();
    // A few, far apart.
    let between_drawn = origins.len().div_ceil(MOST_DRAWN).max(1);
    for (number, batch) in origins.chunks(BATCH).enumerate() {
        let found = forecasts(model, framing, set, levels, batch);
        for (place, (&origin, values)) in batch.iter().zip(&found).enumerate() {
            let spread = framing.spreads.of(&set.series[origin.series].name);
            for (place, levels) in values.chunks_exact(levels).enumerate() {
                let (ahead, column) = (place / targets, place % targets);
                let wanted = set.step(origin.series, origin.at + ahead)[column];
                let simple = [naive(set, origin, column), seasonal_naive(set, origin, season, ahead, column)];
                for sums in [&mut all, &mut columns[column], &mut steps[ahead]] {
                    sums.add(wanted, [levels[point], simple[0], simple[1]], spread.naive[column]);
                }
                for ((&level, &value), below) in quantiles.iter().zip(levels).zip(&mut below) {
                    let error = wanted - value;
                    pinball += (level * error).max((level - 1.0) * error);
                    *below += usize::from(wanted <= value);
                }
            }
            if (number * BATCH + place).is_multiple_of(between_drawn) {
                drawn.push(draw(framing, set, origin, values, levels, point, drawn.len() % targets));
            }
        }
    }
    let answers = (origins.len() * framing.horizon * targets).max(1) as f64;
    let contests = |sums: &[Sums]| -> Vec<Contest> { sums.iter().map(|sums| sums.contest(season)).collect() };
    let named = set.names.targets.iter().cloned().zip(contests(&columns));
    ForecastEvaluation {
        windows: origins.len(),
        horizon: framing.horizon,
        errors: all.contest(season),
        columns: if targets > 1 { named.collect() } else { Vec::new() },
        steps: contests(&steps),
        pinball: (!quantiles.is_empty()).then(|| pinball / answers / quantiles.len() as f64),
        coverage: quantiles
            .iter()
            .zip(&below)
            .map(|(&level, &below)| (level, below as f64 / answers))
            .collect(),
        drawn,
    }
}

/// Keeps what is needed to draw a column of a forecast.
fn draw(
    framing: &Framing,
    set: &SeriesSet,
    origin: Origin,
    values: &[f64],
    levels: usize,
    point: usize,
    column: usize,
) -> DrawnForecast {
    let targets = set.names.targets.len();
    let series = &set.series[origin.series];
    let level = |level: usize| -> Vec<f64> {
        values.chunks_exact(targets * levels).map(|row| row[column * levels + level]).collect()
    };
    let from = origin.at.saturating_sub(framing.window * DRAWN_HISTORY);
    let at = |steps: Range<usize>| steps.map(|step| set.step(origin.series, step)[column]).collect();
    let simple = |ahead: usize| match framing.season {
        1 => naive(set, origin, column),
        season => seasonal_naive(set, origin, season, ahead, column),
    };
    DrawnForecast {
        series: series.name.clone(),
        column: set.names.targets[column].clone(),
        at: origin.at,
        history: at(from..origin.at),
        wanted: at(origin.at..origin.at + framing.horizon),
        forecast: level(point),
        between: (levels > 1).then(|| (level(0), level(levels - 1))),
        naive: (0..framing.horizon).map(simple).collect(),
    }
}
