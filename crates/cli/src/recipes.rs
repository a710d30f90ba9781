//! The recipe that a command line means: of a file, of a task, or the default one.

use std::fs;
use std::path::Path;

use anyhow::Context;
use carousel::recipe::{Named, Recipe, Task};

use crate::usage::BadUsage;

/// What `train` does when it is told nothing: about three minutes on two cores.
const DEFAULT_RECIPE: &str = include_str!("../../../recipes/default.toml");

/// Whether a path names a recipe.
pub(crate) fn is_toml(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "toml")
}

/// The recipe in a file, or that of a task, or the default one; with `--set` applied.
pub(crate) fn read_recipe(named: Option<&Path>, assignments: &[impl AsRef<str>]) -> anyhow::Result<Recipe> {
    let default = || (DEFAULT_RECIPE.to_owned(), "recipes/default.toml".to_owned());
    let (text, name) = match named {
        Some(path) if is_toml(path) => {
            let name = path.display().to_string();
            (fs::read_to_string(path).with_context(|| format!("could not read {name}"))?, name)
        }
        None => default(),
        Some(task) if task == Path::new("lm") => default(),
        Some(other) => match Task::ALL.iter().find(|task| Path::new(task.name()) == other) {
            Some(task) => (format!("task = \"{}\"", task.name()), "the task's defaults".to_owned()),
            None => {
                let tasks: Vec<&str> = Task::ALL.iter().map(|task| task.name()).collect();
                let tasks = tasks.join(", ");
                let message =
                    format!("{} is no task, expected {tasks} or a recipe file (.toml)", other.display());
                return Err(BadUsage(message).into());
            }
        },
    };
    let mut recipe = Recipe::from_toml(&text, &name).map_err(BadUsage::from)?;
    recipe.set_all(assignments).map_err(BadUsage::from)?;
    Ok(recipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_recipe_is_valid() {
        Recipe::from_toml(DEFAULT_RECIPE, "recipes/default.toml").expect("it must be");
    }
}
