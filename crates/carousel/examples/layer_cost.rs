//! Median milliseconds of one training step (forward and backward) of an LSTM layer with each option, T 64, B 32,
//! H 256: what `bench/options_torch.py` puts beside loops over single steps in PyTorch. A line an option: its name, a
//! tab, the milliseconds.
//!
//!     cargo run --release --example layer_cost

use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};
use carousel::cell::{Cell, CellOptions};
use carousel::recurrent::{NoisySequences, RecurrentConfig};
use carousel::regularize::{Dropout, Noise};

const STEPS: usize = 64;
const SEQUENCES: usize = 32;
const HIDDEN: usize = 256;
const ROUNDS: u64 = 7;

fn main() {
    let plain = || RecurrentConfig::new(Cell::Lstm, HIDDEN, HIDDEN);
    let cells = |options| plain().with_options(options);
    let drops = |dropout| plain().with_dropout(dropout);
    let (none, off) = (CellOptions::PLAIN, Dropout::default());
    let all = [
        ("none", plain()),
        ("layer normalisation", cells(CellOptions { norm: true, ..none })),
        ("peepholes", cells(CellOptions { peephole: true, ..none })),
        ("zoneout of h and c", drops(Dropout { zoneout: 0.15, zoneout_cell: 0.5, ..off })),
        ("recurrent dropout", drops(Dropout { recurrent: 0.3, ..off })),
        ("dropout of the update", drops(Dropout { update: 0.3, ..off })),
        ("DropConnect", drops(Dropout { weights: 0.5, ..off })),
        ("projection to 128", plain().with_projection(HIDDEN / 2)),
    ];
    for (name, config) in all {
        println!("{name}\t{:.2}", median(&config));
    }
}

fn median(config: &RecurrentConfig) -> f64 {
    let device = Device::default().autodiff();
    let layer = config.init(&device).expect("the sizes fit the cell");
    let x = Tensor::<3>::random([SEQUENCES, STEPS, HIDDEN], Distribution::Normal(0.0, 1.0), &device);
    let x = x.require_grad();
    let names: Vec<u32> = (0..SEQUENCES as u32).collect();
    let step = |round: u64| {
        let began = Instant::now();
        let noisy = NoisySequences { noise: Noise::new(&[round]), names: &names };
        let (y, _) = layer.forward_noisy(x.clone(), None, Some(noisy));
        std::hint::black_box((y.clone() * y).sum().backward());
        began.elapsed().as_secs_f64() * 1e3
    };
    let mut times: Vec<f64> = (0..ROUNDS).map(step).collect();
    // The first round allocates.
    times.remove(0);
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
