//! Who remembers: the adding problem and copy memory, cell by cell, as one table.
//!
//!     cargo run --release --example long_memory                all of it, half an hour
//!     cargo run --release --example long_memory -- adding      one task, two minutes
//!
//! A run ends when it has solved its task, a mean squared error below 0.01 or 99 % of the symbols recalled, or
//! at its last step. The settings are those of `recipes/adding-problem.toml` and `recipes/copy-memory.toml`
//! but for the keys in the table.

use std::path::Path;
use std::time::Instant;

use carousel::recipe::Recipe;
use carousel::run::RunFolder;
use carousel::train::{Control, Event, Sources, Start, train};

const ADDING: &str = include_str!("../../../recipes/adding-problem.toml");
const COPY: &str = include_str!("../../../recipes/copy-memory.toml");

/// A row of the table: task, its name there, and what differs from the task's recipe.
const ROWS: &[(&str, &str, &[&str])] = &[
    ("adding", "LSTM", &["model.forget_bias=1"]),
    ("adding", "LSTM, chrono 400", &[]),
    ("adding", "GRU, chrono 400", &["model.cell=gru"]),
    ("adding", "tanh RNN", &["model.cell=rnn"]),
    ("copy", "LSTM", &["model.cell=lstm", "model.forget_bias=1"]),
    ("copy", "LSTM, chrono 300", &["model.cell=lstm"]),
    ("copy", "GRU, chrono 300", &[]),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    println!(
        "{:<8}{:<20}{:>8}{:>12}{:>12}{:>10}  solved",
        "task", "model", "steps", "loss", "recalled", "seconds"
    );
    for (task, name, assignments) in ROWS {
        if !wanted.is_empty() && !wanted.iter().any(|wanted| wanted == task) {
            continue;
        }
        let folder = std::env::temp_dir().join(format!("carousel-long-memory-{}", std::process::id()));
        let outcome = run(task, assignments, &folder);
        let removed = std::fs::remove_dir_all(&folder);
        let Outcome { steps, loss, recalled, seconds, solved } = outcome?;
        removed?;
        let recalled = recalled.map_or(String::new(), |share| format!("{:.1} %", share * 100.0));
        let solved = if solved { "yes" } else { "no" };
        println!("{task:<8}{name:<20}{steps:>8}{loss:>12.4}{recalled:>12}{seconds:>10.0}  {solved}");
    }
    Ok(())
}

struct Outcome {
    steps: u64,
    loss: f64,
    recalled: Option<f64>,
    seconds: f64,
    solved: bool,
}

fn run(task: &str, assignments: &[&str], folder: &Path) -> Result<Outcome, Box<dyn std::error::Error>> {
    let mut recipe = match task {
        "adding" => Recipe::from_toml(ADDING, "recipes/adding-problem.toml")?,
        _ => Recipe::from_toml(COPY, "recipes/copy-memory.toml")?,
    };
    // Its gates would be those of an LSTM or a GRU.
    recipe.model.chrono = recipe.model.chrono.filter(|_| !assignments.contains(&"model.cell=rnn"));
    recipe.set_all(assignments)?;
    let run = RunFolder::create(folder)?;
    run.write_recipe(&recipe)?;
    let began = Instant::now();
    let mut outcome = Outcome { steps: 0, loss: f64::NAN, recalled: None, seconds: 0.0, solved: false };
    train(&run, &recipe, &Sources::default(), Start::New, &mut |event| {
        let Event::Validated { step, loss, accuracy, .. } = event else { return Control::Continue };
        let solved = accuracy.map_or(*loss < 0.01, |recalled| recalled > 0.99);
        let seconds = began.elapsed().as_secs_f64();
        outcome = Outcome { steps: *step, loss: *loss, recalled: *accuracy, seconds, solved };
        if solved { Control::Stop } else { Control::Continue }
    })?;
    Ok(outcome)
}
