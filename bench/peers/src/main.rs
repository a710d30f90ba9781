//! Rust's side of the bench: one case a line (JSON) on stdin, one line of times out.
//!
//! `peers burn`, `peers rust-lstm` or `peers tract`. The first line printed names the peer and its version.

use std::error::Error;
use std::hint::black_box;
use std::io::{BufRead, Write};
use std::time::Instant;

use burn::module::Module;
use burn::nn::gru::{Gru, GruConfig};
use burn::nn::{Lstm, LstmConfig, Rnn, RnnConfig};
use burn::tensor::{Device, Distribution, Tensor};
use ndarray::Array2;
use rust_lstm::LSTMNetwork;
use rust_lstm::models::gru_network::GRUNetwork;
use serde_json::{Value, json};
use tract_onnx::prelude::{
    Framework, InferenceModelExt, IntoRunnable, IntoTValue, TValue, TVec, Tensor as TractTensor,
};

type Fallible<T> = Result<T, Box<dyn Error>>;
type Work = Box<dyn FnMut()>;

fn main() -> Fallible<()> {
    let name = std::env::args().nth(1).unwrap_or_default();
    let (peer, version, build): (&str, &str, fn(&Value) -> Fallible<Work>) = match name.as_str() {
        "burn" => ("Burn", "0.22.1", burn_layer),
        "rust-lstm" => ("rust-lstm", "0.10.0", rust_lstm_layer),
        "tract" => ("tract", "0.23.9", tract_step),
        _ => return Err("usage: peers burn|rust-lstm|tract".into()),
    };
    println!("{}", json!({"peer": peer, "version": version}));
    for line in std::io::stdin().lock().lines() {
        let case: Value = serde_json::from_str(&line?)?;
        println!("{}", timed(&case, build(&case)?));
        std::io::stdout().flush()?;
    }
    Ok(())
}

/// As `carousel bench` keeps the time: warm up, repeat, take the median.
fn timed(case: &Value, mut work: Work) -> Value {
    let seconds = case["seconds"].as_f64().unwrap_or(2.0);
    let fewest = case["fewest"].as_u64().unwrap_or(3) as usize;
    let mut repeat = |seconds: f64, fewest: usize| {
        let began = Instant::now();
        let mut times = Vec::new();
        while times.len() < fewest || began.elapsed().as_secs_f64() < seconds {
            let started = Instant::now();
            work();
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
        times
    };
    repeat(seconds / 10.0, 1);
    let mut times = repeat(seconds, fewest);
    times.sort_unstable_by(f64::total_cmp);
    let middle = times.len() / 2;
    let median = if times.len() % 2 == 1 { times[middle] } else { (times[middle - 1] + times[middle]) / 2.0 };
    json!({
        "milliseconds": median,
        "min_milliseconds": times[0],
        "max_milliseconds": times[times.len() - 1],
        "repetitions": times.len(),
    })
}

/// Sizes of a stack over whole sequences.
struct Sizes {
    time: usize,
    batch: usize,
    hidden: usize,
    input: usize,
    layers: usize,
    training: bool,
}

impl Sizes {
    fn of(case: &Value) -> Fallible<Sizes> {
        let shape: Vec<usize> = serde_json::from_value(case["shape"].clone())?;
        let [time, batch, hidden] = shape[..] else { return Err("shape is not T, B, H".into()) };
        let number = |name: &str, default| case[name].as_u64().map_or(default, |number| number as usize);
        Ok(Sizes {
            time,
            batch,
            hidden,
            input: number("input", hidden),
            layers: number("layers", 2),
            training: case["mode"] == "train",
        })
    }

    fn widths(&self) -> impl Iterator<Item = usize> {
        let (input, hidden) = (self.input, self.hidden);
        (0..self.layers).map(move |layer| if layer == 0 { input } else { hidden })
    }
}

/// One of Burn's own recurrent modules.
#[derive(Module, Debug)]
enum BurnLayer {
    Lstm(Lstm),
    Gru(Gru),
    Rnn(Rnn),
}

impl BurnLayer {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        match self {
            BurnLayer::Lstm(lstm) => lstm.forward(x, None).0,
            BurnLayer::Gru(gru) => gru.forward(x, None),
            BurnLayer::Rnn(rnn) => rnn.forward(x, None).0,
        }
    }
}

fn burn_layer(case: &Value) -> Fallible<Work> {
    let sizes = Sizes::of(case)?;
    let device = if sizes.training { Device::default().autodiff() } else { Device::default() };
    let cell = case["cell"].as_str().unwrap_or_default().to_owned();
    let layer = |width: usize| match cell.as_str() {
        "lstm" => Ok(BurnLayer::Lstm(LstmConfig::new(width, sizes.hidden, true).init(&device))),
        "gru" => Ok(BurnLayer::Gru(GruConfig::new(width, sizes.hidden, true).init(&device))),
        "rnn" => Ok(BurnLayer::Rnn(RnnConfig::new(width, sizes.hidden, true).init(&device))),
        other => Err(format!("Burn has no {other}")),
    };
    let stack = sizes.widths().map(layer).collect::<Result<Vec<_>, _>>()?;
    let x = Tensor::<3>::random([sizes.batch, sizes.time, sizes.input], Distribution::Default, &device);
    let x = if sizes.training { x.require_grad() } else { x };
    Ok(Box::new(move || {
        let y = stack.iter().fold(x.clone(), |x, layer| layer.forward(x));
        if sizes.training {
            black_box(y.sum().backward());
        } else {
            black_box(y);
        }
    }))
}

/// Numbers in double precision on one thread: the crate has no others.
fn rust_lstm_layer(case: &Value) -> Fallible<Work> {
    let sizes = Sizes::of(case)?;
    let x: Vec<Array2<f64>> = (0..sizes.time)
        .map(|t| {
            Array2::from_shape_fn((sizes.input, sizes.batch), |(i, b)| ((t * 31 + i * 7 + b) as f64).sin())
        })
        .collect();
    let dy = vec![Array2::ones((sizes.hidden, sizes.batch)); sizes.time];
    let training = sizes.training;
    // The two networks have the same methods and no trait in common.
    macro_rules! work {
        ($network:expr) => {{
            let mut network = $network;
            Ok(Box::new(move || {
                let (y, caches) = network.forward_sequence_with_cache(&x);
                if training {
                    black_box(network.backward_sequence(&dy, &caches));
                }
                black_box(y);
            }))
        }};
    }
    match case["cell"].as_str() {
        Some("lstm") => work!(LSTMNetwork::new(sizes.input, sizes.hidden, sizes.layers)),
        Some("gru") => work!(GRUNetwork::new(sizes.input, sizes.hidden, sizes.layers)),
        other => Err(format!("rust-lstm has no {other:?}").into()),
    }
}

/// One step of the model in an ONNX file, the state fed back.
fn tract_step(case: &Value) -> Fallible<Work> {
    let path = case["onnx"].as_str().ok_or("the case names no model")?;
    let model = tract_onnx::onnx().model_for_path(path)?.into_optimized()?;
    let mut values: TVec<TValue> = TVec::new();
    for input in 0..model.input_outlets()?.len() {
        let fact = model.input_fact(input)?;
        let shape = fact.shape.as_concrete().ok_or("the model has sizes that are not fixed")?;
        let fill: f32 = if input == 0 { 0.5 } else { 0.0 };
        values.push(TractTensor::from_shape(shape, &vec![fill; shape.iter().product()])?.into_tvalue());
    }
    // Kept from step to step: it holds the plan's buffers.
    let mut state = model.into_runnable()?.spawn()?;
    Ok(Box::new(move || {
        let outputs = state.run(values.clone()).expect("the model ran when it was built");
        // Outputs are y and the states, in the order of the inputs behind x.
        values.truncate(1);
        values.extend(outputs.into_iter().skip(1));
    }))
}
