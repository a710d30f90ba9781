//! How the variance of activations travels through 20 layers and 100 steps under each way to draw weights.
//!
//!     cargo run --release --example init_study
//!
//! Every step's input is white noise of variance 1; nothing is trained. What a layer gives is what the next
//! one reads. A variance that falls from layer to layer means that deep layers see nothing of the input, one
//! that grows means that they saturate (tanh and gates) or overflow (ReLU).

use burn::tensor::{Device, Tensor, TensorData};
use carousel::cell::{Activation, Cell, Reset};
use carousel::init::{Fan, GateBias, Init, Initializer, WeightInit};
use carousel::recurrent::RecurrentConfig;
use carousel::slices::with_slice;

const LAYERS: usize = 20;
const STEPS: usize = 100;
const HIDDEN: usize = 128;
const SEQUENCES: usize = 32;

const SHOWN_LAYERS: [usize; 5] = [1, 2, 5, 10, 20];
const SHOWN_STEPS: [usize; 3] = [1, 10, 100];

fn main() {
    println!("{LAYERS} layers of {HIDDEN} units over {STEPS} steps of noise: variance of the outputs");
    for (title, cell) in [
        ("tanh RNN", Cell::Rnn(Activation::Tanh)),
        ("ReLU RNN", Cell::Rnn(Activation::Relu)),
        ("LSTM", Cell::Lstm),
        ("GRU", Cell::Gru(Reset::After)),
    ] {
        println!("\n{title:<27}{:^35}in layer 20, step", "after step 100, layer");
        let heads = SHOWN_LAYERS.iter().chain(&SHOWN_STEPS).map(|head| format!("{head:>7}"));
        println!("{:<27}{}", "", heads.collect::<String>());
        for (name, init) in choices(cell) {
            let spread = spread(cell, init);
            let layers = SHOWN_LAYERS.map(|layer| spread[layer - 1][STEPS - 1]);
            let steps = SHOWN_STEPS.map(|step| spread[LAYERS - 1][step - 1]);
            let cells = layers.iter().chain(&steps).map(|variance| format!("{:>7}", short(*variance)));
            println!("  {name:<25}{}", cells.collect::<String>());
        }
    }
}

/// The ways to draw a cell's weights that are compared.
fn choices(cell: Cell) -> Vec<(&'static str, Init)> {
    let gain = None;
    let fan = Fan::In;
    let recurrent = |input, recurrent| Init { input, recurrent, ..Init::default() };
    let xavier = WeightInit::XavierUniform { gain };
    let mut choices = vec![
        ("pytorch", Init::default()),
        ("uniform 0.05", Init::both(WeightInit::Uniform { range: 0.05 })),
        ("xavier-uniform", Init::both(xavier)),
        ("xavier-normal", Init::both(WeightInit::XavierNormal { gain })),
        ("he-uniform", Init::both(WeightInit::HeUniform { fan, gain })),
        ("he-normal", Init::both(WeightInit::HeNormal { fan, gain })),
        ("orthogonal", Init::both(WeightInit::Orthogonal { gain })),
        ("xavier, orthogonal", recurrent(xavier, WeightInit::Orthogonal { gain })),
        ("xavier, identity", recurrent(xavier, WeightInit::Identity { scale: None })),
    ];
    if cell == Cell::Lstm {
        choices.push(("pytorch, forget bias 0", Init { gates: GateBias::Forget(0.0), ..Init::default() }));
    }
    if !matches!(cell, Cell::Rnn(_)) {
        choices.push((
            "pytorch, chrono 100",
            Init { gates: GateBias::Chrono { longest: 100 }, ..Init::default() },
        ));
    }
    choices
}

/// The variance of the outputs over sequences and units: `[layer][step]`.
fn spread(cell: Cell, init: Init) -> Vec<Vec<f64>> {
    let device = Device::default();
    let random = &mut Initializer::new(1);
    let noise = TensorData::new(random.normal(SEQUENCES * STEPS * HIDDEN), [SEQUENCES, STEPS, HIDDEN]);
    let mut x = Tensor::<3>::from_data(noise, &device);
    (0..LAYERS)
        .map(|_| {
            let layer = RecurrentConfig::new(cell, HIDDEN, HIDDEN).with_init(init);
            let layer = layer.init_with(random, &device).expect("the sizes are not zero");
            x = layer.forward(x.clone(), None).0;
            with_slice(&x, variances)
        })
        .collect()
}

/// One variance a step, of values `[SEQUENCES, STEPS, HIDDEN]`.
fn variances(values: &[f32]) -> Vec<f64> {
    let of_step = |step: usize| {
        let rows = values.chunks_exact(STEPS * HIDDEN);
        let values = rows.flat_map(move |row| &row[step * HIDDEN..][..HIDDEN]).map(|&value| f64::from(value));
        let count = (SEQUENCES * HIDDEN) as f64;
        let mean = values.clone().sum::<f64>() / count;
        values.map(|value| (value - mean).powi(2)).sum::<f64>() / count
    };
    (0..STEPS).map(of_step).collect()
}

/// Three figures at most.
fn short(value: f64) -> String {
    match value {
        _ if !value.is_finite() => "inf".to_owned(),
        0.001..1000.0 => format!("{value:.3}"),
        _ => format!("{value:.0e}"),
    }
}

/// What the tables are there to show.
#[test]
fn depth_keeps_the_variance_only_under_the_right_draw() {
    let deep = |cell, how| {
        let spread = spread(
            cell,
            Init { input: how, recurrent: WeightInit::Uniform { range: 1e-9 }, ..Init::default() },
        );
        spread[LAYERS - 1][STEPS - 1] / spread[0][STEPS - 1]
    };
    let (fan, gain) = (Fan::In, None);
    let relu = Cell::Rnn(Activation::Relu);
    assert!(deep(relu, WeightInit::HeNormal { fan, gain }) > 0.2, "He's draw is made for ReLU");
    assert!(deep(relu, WeightInit::XavierNormal { gain }) < 0.01, "Xavier's loses half in each layer");
    let tanh = Cell::Rnn(Activation::Tanh);
    assert!(deep(tanh, WeightInit::HeNormal { fan, gain }) > 0.5, "5/3 makes up for what tanh takes");
    assert!(deep(tanh, WeightInit::XavierNormal { gain }) < 0.2, "a gain of 1 does not");
}

/// The IRNN's state adds up what comes in; a small uniform draw forgets it.
#[test]
fn time_keeps_the_state_under_identity() {
    let growth = |recurrent| {
        let input = WeightInit::XavierUniform { gain: None };
        let spread = spread(Cell::Rnn(Activation::Relu), Init { input, recurrent, ..Init::default() });
        spread[0][STEPS - 1] / spread[0][0]
    };
    assert!(growth(WeightInit::Identity { scale: None }) > 20.0);
    assert!(growth(WeightInit::Uniform { range: 0.05 }) < 2.0);
}
