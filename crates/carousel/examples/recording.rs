//! What recording costs: a plain forward pass of a stack beside one that keeps `h` and `c`, and one that keeps
//! every gate, in turns on the same input. Prints the median of each and its ratio to the plain pass.
//!
//! ```sh
//! cargo run --release --example recording            # T 64, B 64, H 512, two layers
//! cargo run --release --example recording 64,32,256
//! ```

use std::hint::black_box;
use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};
use carousel::cell::{Activation, Cell, Reset};
use carousel::ragged::Ragged;
use carousel::record::Keep;
use carousel::recurrent::RecurrentConfig;

/// Passes of each kind.
const PASSES: usize = 15;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let shape = std::env::args().nth(1).unwrap_or_else(|| "64,64,512".to_owned());
    let sizes: Result<Vec<usize>, _> = shape.split(',').map(str::parse).collect();
    let [time, batch, hidden] = sizes?[..] else { return Err("expected a shape T,B,H".into()) };
    println!("T {time}, B {batch}, H {hidden}, two layers; medians of {PASSES} passes, milliseconds\n");
    println!("{:<6}{:>8}{:>14}{:>9}{:>14}{:>9}", "cell", "plain", "h and c", "ratio", "everything", "ratio");
    let device = Device::default();
    for (name, cell) in
        [("lstm", Cell::Lstm), ("gru", Cell::Gru(Reset::After)), ("rnn", Cell::Rnn(Activation::Tanh))]
    {
        let stack = RecurrentConfig::new(cell, hidden, hidden).with_layers(2).init(&device)?;
        let x = Tensor::<3>::random([batch, time, hidden], Distribution::Default, &device);
        let x = Ragged::from_padded(x, &vec![time; batch])?;
        let keeps = [None, Some(Keep::signals(["h", "c"])), Some(Keep::all())];
        let mut times: [Vec<f64>; 3] = Default::default();
        // The first round warms up.
        for _ in 0..=PASSES {
            for (keep, times) in keeps.iter().zip(&mut times) {
                let began = Instant::now();
                match keep {
                    None => drop(black_box(stack.forward(x.clone(), None))),
                    Some(keep) => drop(black_box(stack.forward_recorded(x.clone(), None, keep))),
                }
                times.push(began.elapsed().as_secs_f64() * 1e3);
            }
        }
        let [plain, states, all] = times.map(|mut times| {
            times.remove(0);
            times.sort_unstable_by(f64::total_cmp);
            times[PASSES / 2]
        });
        println!("{name:<6}{plain:>8.1}{states:>14.1}{:>9.2}{all:>14.1}{:>9.2}", states / plain, all / plain);
    }
    Ok(())
}
