//! Every kernel on a team of several workers, on problems small enough for an interpreter that sees data races:
//! `cargo +nightly miri test -p carousel-kernels --test threads`. Elsewhere so little work is for one worker alone.

#![allow(clippy::unwrap_used)]

mod common;

use carousel_kernels::*;
use common::training::Training;
use common::{CELLS, Problem};

/// `(cell, bits of all results)` with so many threads.
fn everything(threads: usize) -> Vec<(Cell, Vec<u64>)> {
    set_threads(threads);
    let direction = [Direction::Forward, Direction::Reverse];
    let both = CELLS.into_iter().zip(direction.into_iter().cycle());
    both.map(|(cell, direction)| {
        // Wide enough for several unit groups at every level, so that workers share columns and ranks.
        let layer = Layer {
            cell,
            direction,
            input: 3,
            hidden: 20,
            precision: Precision::F32,
            zoneout: Zoneout::NONE,
            options: CellOptions::PLAIN,
        };
        let mut training = Training::new(layer, Batch::ragged(&[1, 3, 2], 3).unwrap());
        // An interpreter may vary the last bits of a logarithm.
        let mut loss = || (training.step() * 1e4).round() as u64;
        let mut bits = vec![loss(), loss()];

        let layer = Layer { direction: Direction::Forward, ..layer };
        let problem = Problem::random(layer, Batch::full(2, 1), 1);
        let mut stepper = Stepper::new(&[(layer, problem.weights())], 2).unwrap();
        for _ in 0..2 {
            let y = stepper.step(&problem.x).unwrap();
            bits.extend(y.iter().map(|value| u64::from(value.to_bits())));
        }
        (cell, bits)
    })
    .collect()
}

#[test]
fn results_do_not_depend_on_the_team() {
    let one = everything(1);
    assert_eq!(one.len(), CELLS.len());
    for threads in [2, 3] {
        assert_eq!(everything(threads), one, "{threads} threads");
    }
}
