//! What each regulariser costs: a training step of a language model, T 64, B 32, H 256, with and without it.
//!
//!     cargo run --release --example option_cost
//!     cargo run --release --example option_cost normalisation     # rows with that in their name
//!
//! A step is forward, loss and backward of two layers over 1,000 words; the update is the same for all and left
//! out. Plain and regularised steps take turns, and the medians are compared.

use std::sync::Arc;
use std::time::Instant;

use burn::tensor::Device;
use carousel::cell::{Activation, Cell, CellOptions, GateActivation, Reset};
use carousel::init::{FirstState, Init, Initializer};
use carousel::models::language_model::{LanguageModel, LanguageModelConfig, NoisyOutputs, Regularize};
use carousel::parameters::NamedParameters;
use carousel::ragged::Batch;
use carousel::recurrent::NoisySequences;
use carousel::regularize::{Dropout, Noise, activation_penalty};

const STEPS: usize = 64;
const SEQUENCES: usize = 32;
const HIDDEN: usize = 256;
const VOCABULARY: usize = 1000;
const ROUNDS: u64 = 9;
/// Of an LSTM alone.
const OF_C: [&str; 3] = ["zoneout of h and c", "peepholes", "projection to 128"];

#[derive(Clone, Copy, Default)]
struct Choice {
    regularize: Regularize,
    penalty: (f64, f64),
    residual: bool,
    tied: bool,
    options: CellOptions,
    state: FirstState,
}

fn main() {
    let none = Choice::default();
    let with = |regularize| Choice { regularize, ..none };
    let recurrent = |recurrent| with(Regularize { recurrent, ..Regularize::default() });
    let (off, locked) = (Dropout::default(), Dropout { locked: true, ..Dropout::default() });
    let plain = Regularize::default();
    let cells = |options| Choice { options, ..none };
    let choices = [
        ("dropout between layers", recurrent(Dropout { between: 0.5, ..off })),
        ("the same, locked", recurrent(Dropout { between: 0.5, ..locked })),
        ("dropout on outputs", with(Regularize { output: 0.5, ..plain })),
        ("dropout on inputs", with(Regularize { input: 0.5, ..plain })),
        ("embedding dropout", with(Regularize { words: 0.1, ..plain })),
        ("DropConnect", recurrent(Dropout { weights: 0.5, ..off })),
        ("recurrent dropout", recurrent(Dropout { recurrent: 0.3, ..off })),
        ("dropout of the update", recurrent(Dropout { update: 0.3, ..off })),
        ("zoneout of h", recurrent(Dropout { zoneout: 0.15, ..off })),
        (OF_C[0], recurrent(Dropout { zoneout: 0.15, zoneout_cell: 0.5, ..off })),
        ("AR", Choice { penalty: (2.0, 0.0), ..none }),
        ("AR and TAR", Choice { penalty: (2.0, 1.0), ..none }),
        ("label smoothing", with(Regularize { label_smoothing: 0.1, ..plain })),
        ("residual layers", Choice { residual: true, ..none }),
        ("tied embedding", Choice { tied: true, ..none }),
        ("layer normalisation", cells(CellOptions { norm: true, ..CellOptions::PLAIN })),
        (OF_C[1], cells(CellOptions { peephole: true, ..CellOptions::PLAIN })),
        (
            "hard sigmoid gates",
            cells(CellOptions { gate: GateActivation::HardSigmoid, ..CellOptions::PLAIN }),
        ),
        ("SiLU candidate", cells(CellOptions { activation: Activation::Silu, ..CellOptions::PLAIN })),
        (OF_C[2], cells(CellOptions { projection: Some(HIDDEN / 2), ..CellOptions::PLAIN })),
        ("learned first state", Choice { state: FirstState::Learned, ..none }),
    ];
    println!("{:<26}{:>12}{:>12}{:>8}", "", "plain ms", "with ms", "ratio");
    let wanted = std::env::args().nth(1).unwrap_or_default();
    for (name, cell) in [("LSTM", Cell::Lstm), ("GRU", Cell::Gru(Reset::After))] {
        println!("{name}");
        for (option, choice) in choices {
            if !option.contains(&wanted) {
                continue;
            }
            if OF_C.contains(&option) && !cell.has_cell_state() {
                continue;
            }
            let (before, after) = compare(cell, choice);
            println!("  {option:<24}{before:>12.1}{after:>12.1}{:>8.3}", after / before);
        }
    }
}

/// Median milliseconds of a step without and with a choice.
fn compare(cell: Cell, choice: Choice) -> (f64, f64) {
    let choices = [Choice::default(), choice];
    let models = choices.map(|choice| model(cell, choice));
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        for (index, times) in times.iter_mut().enumerate() {
            let began = Instant::now();
            step(&models[index], choices[index], round);
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
    }
    let [plain, with] = times.map(|mut times| {
        // The first round allocates.
        times.remove(0);
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    });
    (plain, with)
}

fn model(cell: Cell, choice: Choice) -> LanguageModel {
    let config = LanguageModelConfig {
        cell: cell.into(),
        vocabulary: VOCABULARY,
        embedding: HIDDEN,
        hidden: HIDDEN,
        layers: 2,
        init: Init { state: choice.state, ..Init::default() },
        residual: choice.residual,
        tied: choice.tied,
        options: choice.options,
        regularize: choice.regularize,
        seed: 1,
    };
    config.init(&Device::default().autodiff()).expect("the sizes are not zero")
}

/// Forward, loss and backward.
fn step(model: &LanguageModel, choice: Choice, round: u64) {
    let batch = Arc::new(Batch::full(SEQUENCES, STEPS));
    let mut random = Initializer::new(round);
    let mut tokens = || -> Vec<u32> {
        let unit = random.uniform(SEQUENCES * STEPS, 0.5);
        unit.iter().map(|unit| ((unit + 0.5) * VOCABULARY as f32) as u32 % VOCABULARY as u32).collect()
    };
    let (inputs, targets) = (tokens(), tokens());
    let names: Vec<u32> = (0..SEQUENCES as u32).collect();
    let noisy = NoisySequences { noise: Noise::new(&[round]), names: &names };
    let NoisyOutputs { raw, dropped, .. } = model.hidden_noisy(&inputs, &batch, None, noisy);
    let (activation, temporal) = choice.penalty;
    let mut loss = model.loss(dropped.clone(), &targets);
    if activation > 0.0 {
        loss = loss + activation_penalty(dropped, &batch, activation, 0.0);
    }
    if temporal > 0.0 {
        loss = loss + activation_penalty(raw, &batch, 0.0, temporal);
    }
    std::hint::black_box(model.take_gradients(&mut loss.backward()));
}
