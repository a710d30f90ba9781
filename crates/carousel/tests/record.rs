//! Recording a stack: the same outputs as without, and everything the cells expose.

#![allow(clippy::unwrap_used)]

mod support;

use burn::tensor::Device;
use carousel::ragged::Ragged;
use carousel::record::Keep;
use carousel::recurrent::{Direction, RecurrentConfig};
use support::{CELLS, close, random, values};

const LENGTHS: [usize; 3] = [4, 0, 6];

#[test]
fn a_recorded_pass_gives_what_a_plain_one_gives() {
    let device = Device::default();
    for cell in CELLS {
        for direction in [Direction::Forward, Direction::Both] {
            let stack = RecurrentConfig::new(cell, 3, 5)
                .with_layers(2)
                .with_direction(direction)
                .init(&device)
                .unwrap();
            let what = format!("{cell:?} {direction:?}");
            let x = Ragged::from_padded(random(1, [3, 6, 3], &device), &LENGTHS).unwrap();
            let (_, first) = stack.forward(x.clone(), None);
            let (y, state) = stack.forward(x.clone(), Some(first.clone()));
            let (found, found_state, record) = stack.forward_recorded(x, Some(first), &Keep::all());
            close(&what, &values(&found.frames()), &values(&y.frames()), 1e-6);
            close(&what, &values(&found_state.h()), &values(&state.h()), 1e-6);
            assert_eq!(found_state.c().is_some(), state.c().is_some(), "{what}");

            let ways = if direction == Direction::Both { 2 } else { 1 };
            assert_eq!(record.series.len(), 2 * ways * cell.signals().len(), "{what}");
            // The top layer's outputs are its directions' h side by side.
            let tops: Vec<_> =
                record.series.iter().filter(|series| series.layer == 1 && series.name == "h").collect();
            let joined: Vec<f32> = (0..10)
                .flat_map(|row| tops.iter().flat_map(move |top| top.values[row * 5..][..5].to_vec()))
                .collect();
            close(&what, &joined, &values(&y.frames()), 1e-6);
        }
    }
}

#[test]
fn only_what_is_asked_for_is_kept() {
    let device = Device::default();
    let stack = RecurrentConfig::new(CELLS[2], 3, 5).with_layers(3).init(&device).unwrap();
    let record = |keep: Keep| {
        let (_, _, record) = stack.forward_recorded(random::<3>(1, [2, 4, 3], &device), None, &keep);
        record.series.into_iter().map(|series| (series.layer, series.name)).collect::<Vec<_>>()
    };
    let named = |all: &[(usize, &str)]| -> Vec<(usize, String)> {
        all.iter().map(|&(layer, name)| (layer, name.to_owned())).collect()
    };
    assert_eq!(record(Keep::signals(["c", "z"])), named(&[(0, "c"), (1, "c"), (2, "c")]));
    assert_eq!(record(Keep::signals(["f", "h"]).with_layers([1])), named(&[(1, "h"), (1, "f")]));
    assert_eq!(record(Keep::all().with_layers([])), []);
}
