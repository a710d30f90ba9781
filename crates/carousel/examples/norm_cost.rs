//! Median milliseconds of one training step of an LSTM layer that normalises, T 64, B 32, H 256: what
//! `bench/options_torch.py` puts beside a loop in PyTorch.
//!
//!     cargo run --release --example norm_cost

use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};
use carousel::cell::{Cell, CellOptions};
use carousel::recurrent::RecurrentConfig;

const ROUNDS: usize = 15;

fn main() {
    let device = Device::default().autodiff();
    let options = CellOptions { norm: true, ..CellOptions::PLAIN };
    let layer = RecurrentConfig::new(Cell::Lstm, 256, 256).with_options(options).init(&device);
    let layer = layer.expect("the sizes are not zero");
    let x = Tensor::<3>::random([32, 64, 256], Distribution::Normal(0.0, 1.0), &device).require_grad();
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let began = Instant::now();
            let (y, _) = layer.forward(x.clone(), None);
            std::hint::black_box((y.clone() * y).sum().backward());
            began.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    // The first round allocates.
    times.remove(0);
    times.sort_by(f64::total_cmp);
    println!("{:.2}", times[times.len() / 2]);
}
