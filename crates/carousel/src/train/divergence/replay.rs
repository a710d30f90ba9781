//! Looks again at a step that broke, from the file that it left.

use std::path::Path;

use crate::parameters::NamedTensor;
use crate::run::RunFolder;
use crate::train::TrainError;
use crate::train::checkpoint::read_tensors;
use crate::train::divergence::diagnosis::{Circumstances, Diagnosis};
use crate::train::divergence::file::Saved;
use crate::train::divergence::{language_model, stacks};

/// Reads a saved batch and its weights, and looks again for what broke the step. The run's folder is the one that
/// the file lies in.
///
/// # Errors
/// [`TrainError`] when the file or its run does not do.
pub fn replay(path: &Path) -> Result<(u64, Diagnosis), TrainError> {
    // The file first: where it is none, nothing is said of its folder.
    let read = read_tensors(path)?;
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let run = RunFolder::open(folder)?;
    let recipe = run.read_recipe()?;
    let (tensors, weights): (Vec<NamedTensor>, Vec<NamedTensor>) =
        read.into_iter().partition(|tensor| tensor.name.starts_with("batch."));
    let saved = Saved { path: path.to_owned(), tensors };
    let step = saved.numbers("step")?.first().copied().map_or(0, u64::from);
    let gradient_norm = last_norm(&run.read_metrics()?, step);
    let told = Circumstances { recipe: &recipe, gradient_norm, checkpoint: run.latest_path() };
    if saved.values(stacks::CALLS).is_ok() {
        return Ok((step, stacks::look_again(&saved, &weights, &told)?));
    }
    Ok((step, language_model::look_again(&saved, &weights, &run, step, &told)?))
}

/// The gradient norm that the run noted when this step broke.
fn last_norm(metrics: &[serde_json::Value], step: u64) -> f64 {
    let mut broken = metrics.iter().rev().filter(|line| line["kind"] == "diverged" && line["step"] == step);
    broken.find_map(|line| line["gradient_norm"].as_f64()).unwrap_or_default()
}
