//! A trained forecaster, ready to be used.

use std::path::Path;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::{LABELS, OpenError, body, expect_task, load_weights, read_json};
use crate::data::{
    DataError, Document, Framing, Origin, SeriesColumns, SeriesNames, SeriesSet, Spreads, read_series,
};
use crate::init::Initializer;
use crate::models::forecaster::{Forecaster, ForecasterConfig};
use crate::recipe::{Recipe, Task};
use crate::run::RunFolder;
use crate::slices::with_slice;

/// Windows that are read side by side in prediction.
const BATCH: usize = 256;

/// What `labels.json` holds of a forecaster.
#[derive(Serialize, Deserialize)]
pub(crate) struct SeriesLabels {
    /// The columns.
    pub(crate) names: SeriesNames,
    /// How much they vary in the training part.
    pub(crate) spreads: Spreads,
}

/// How a recipe finds series.
pub(crate) fn series_columns(recipe: &Recipe) -> SeriesColumns<'_> {
    let data = &recipe.data;
    SeriesColumns {
        targets: data.targets.as_deref(),
        features: data.features.as_deref(),
        id: data.id.as_deref(),
        time: data.time.as_deref(),
        gaps: data.gaps,
    }
}

/// How a recipe cuts windows.
pub(crate) fn framing(recipe: &Recipe, spreads: Spreads) -> Framing {
    let data = &recipe.data;
    Framing {
        window: data.window,
        horizon: data.horizon,
        season: data.season,
        scaling: data.scaling,
        base: recipe.model.base,
        spreads,
    }
}

/// The sizes that a recipe asks for.
pub(crate) fn forecaster_config(recipe: &Recipe, names: &SeriesNames) -> ForecasterConfig {
    ForecasterConfig {
        window: recipe.data.window,
        input: names.width(),
        outputs: recipe.data.horizon * names.targets.len(),
        levels: recipe.model.quantiles.as_ref().map_or(1, Vec::len),
        body: body(recipe),
        input_dropout: recipe.model.input_dropout,
        output_dropout: recipe.model.output_dropout,
        seed: recipe.seed,
    }
}

/// The forecasts from some places, `[H, targets, Q]` each, in the units of the data, in their order. Quantiles that
/// cross are put in order (Chernozhukov et al. 2010).
pub(crate) fn forecasts(
    model: &Forecaster,
    framing: &Framing,
    set: &SeriesSet,
    levels: usize,
    origins: &[Origin],
) -> Vec<Vec<f64>> {
    let mut all = Vec::with_capacity(origins.len());
    for batch in origins.chunks(BATCH) {
        let answers = model.forward(&framing.inputs(set, batch), batch.len(), None);
        let width = answers.dims()[1];
        with_slice(&answers, |answers| {
            for (&origin, answer) in batch.iter().zip(answers.chunks_exact(width)) {
                let mut values = framing.restore(set, origin, answer);
                values.chunks_exact_mut(levels).for_each(|levels| levels.sort_by(f64::total_cmp));
                all.push(values);
            }
        });
    }
    all
}

/// What is forecast behind the end of a series.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SeriesForecast {
    /// The series: a value of the column `data.id`, or its file.
    pub series: String,
    /// The time of its last step, as it was written, where the recipe names that column.
    pub after: Option<String>,
    /// The columns that are forecast.
    pub columns: Vec<ColumnForecast>,
}

/// What is forecast of a column.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ColumnForecast {
    /// Its name.
    pub column: String,
    /// The next steps; the medians, where there are quantiles.
    pub forecast: Vec<f64>,
    /// For each quantile its level and its value at every step; empty without.
    pub quantiles: Vec<(f64, Vec<f64>)>,
}

/// A trained forecaster with all that is needed to use it.
pub struct SavedForecaster {
    /// How it was trained.
    pub recipe: Recipe,
    /// The columns.
    pub names: SeriesNames,
    pub(crate) framing: Framing,
    pub(crate) model: Forecaster,
}

impl SavedForecaster {
    /// Opens the run in a folder, with the weights of its best checkpoint; see
    /// [`SavedLanguageModel::open`](super::SavedLanguageModel::open).
    ///
    /// # Errors
    /// [`OpenError`] when the folder holds no run of this task, or its files are missing, damaged or of another
    /// model.
    pub fn open(path: &Path) -> Result<SavedForecaster, OpenError> {
        let run = RunFolder::open(path)?;
        let recipe = run.read_recipe()?;
        expect_task(&recipe, Task::Forecast, path)?;
        let SeriesLabels { names, spreads } = read_json(&run, LABELS)?;
        let mut model =
            forecaster_config(&recipe, &names).init_with(&mut Initializer::blank(), &Device::default())?;
        load_weights(&run, &mut model)?;
        let framing = framing(&recipe, spreads);
        Ok(SavedForecaster { recipe, names, framing, model })
    }

    /// Quantiles that are forecast, in ascending order; empty where one value is.
    #[must_use]
    pub fn quantiles(&self) -> &[f64] {
        self.recipe.model.quantiles.as_deref().unwrap_or_default()
    }

    /// Reads series with this run's columns.
    pub(crate) fn read(&self, documents: &[Document]) -> Result<SeriesSet, DataError> {
        read_series(documents, &series_columns(&self.recipe), Some(&self.names))
    }

    /// What comes next in every series of some tables, and why some are left out: they are shorter than a window.
    ///
    /// # Errors
    /// [`DataError`] when the tables do not do, or no series is as long as a window.
    pub fn predict(
        &self,
        documents: &[Document],
    ) -> Result<(Vec<SeriesForecast>, Vec<DataError>), DataError> {
        let mut set = self.read(documents)?;
        let before = self.framing.before();
        let short = set.series.extract_if(.., |series| series.length < before);
        let short = short.map(|series| DataError::Line {
            name: series.file,
            line: series.line,
            reason: format!(
                "series {:?} has {} steps, expected at least {before} to look back at (data.window {}, data.season {})",
                series.name, series.length, self.framing.window, self.framing.season
            ),
        });
        let mut short: Vec<DataError> = short.collect();
        if set.series.is_empty() && !short.is_empty() {
            return Err(short.swap_remove(0));
        }
        let origins: Vec<Origin> =
            set.series.iter().enumerate().map(|(series, own)| Origin { series, at: own.length }).collect();
        let levels = self.quantiles().len().max(1);
        let all = forecasts(&self.model, &self.framing, &set, levels, &origins);
        let point = point(self.quantiles());
        let told = |(series, values): (&crate::data::Series, Vec<f64>)| {
            let columns = self.names.targets.iter().enumerate().map(|(column, name)| {
                let at = |level: usize| -> Vec<f64> {
                    let rows = values.chunks_exact(self.names.targets.len() * levels);
                    rows.map(|row| row[column * levels + level]).collect()
                };
                let quantiles =
                    self.quantiles().iter().enumerate().map(|(level, &q)| (q, at(level))).collect();
                ColumnForecast { column: name.clone(), forecast: at(point), quantiles }
            });
            SeriesForecast {
                series: series.name.clone(),
                after: series.last.clone(),
                columns: columns.collect(),
            }
        };
        Ok((set.series.iter().zip(all).map(told).collect(), short))
    }
}

/// Which of the answers to a value is the forecast of it: the median, where there are quantiles.
pub(crate) fn point(quantiles: &[f64]) -> usize {
    quantiles.iter().position(|&level| level == 0.5).unwrap_or(0)
}
