//! Zoneout and dropout inside a step: the fused kernels against the reference, at every level, for every number of
//! threads.

#![allow(clippy::unwrap_used)]

mod common;

use carousel_kernels::*;
use common::{CELLS, Problem, compare, everywhere, settings};

/// Probabilities to zone out `h` and `c` and to drop out of `h` and the update, and whether they are drawn.
const CHANCES: [([f32; 4], bool); 7] = [
    ([0.3, 0.0, 0.0, 0.0], true),
    ([0.0, 0.4, 0.0, 0.0], true),
    ([0.0, 0.0, 0.3, 0.0], true),
    ([0.0, 0.0, 0.0, 0.3], true),
    ([0.2, 0.3, 0.4, 0.3], true),
    ([0.2, 0.4, 0.0, 0.0], false),
    ([0.2, 0.0, 0.0, 0.0], false),
];

fn problem(
    cell: Cell,
    direction: Direction,
    precision: Precision,
    hidden: usize,
    lengths: &[usize],
) -> Problem {
    let layer = Layer {
        cell,
        direction,
        input: 6,
        hidden,
        precision,
        zoneout: Zoneout::NONE,
        options: CellOptions::PLAIN,
    };
    let batch = Batch::ragged(lengths, *lengths.iter().max().unwrap()).unwrap();
    Problem::random(layer, batch, hidden as u64)
}

#[test]
fn agrees_with_the_reference() {
    let long: Vec<usize> = (0..19).map(|b| (b * 7) % 6).collect();
    let mut problems = Vec::new();
    for cell in CELLS {
        for direction in [Direction::Forward, Direction::Reverse] {
            for (hidden, lengths) in [(5, &[4, 0, 6, 1][..]), (40, &long), (72, &[5, 3])] {
                for (chance, draws) in CHANCES {
                    let problem = problem(cell, direction, Precision::F32, hidden, lengths);
                    let problem = problem.with_chance(chance, draws);
                    problems.push((problem.reference(), problem));
                }
            }
        }
    }
    let mut bits: Vec<Option<_>> = Vec::new();
    let mut tape = Tape::default();
    everywhere(|level, threads| {
        if threads == 1 {
            bits = vec![None; problems.len()];
        }
        for ((expected, problem), bits) in problems.iter().zip(&mut bits) {
            let Layer { cell, hidden, direction, zoneout, .. } = problem.layer;
            let what = format!("{cell:?} H {hidden} {direction:?} {zoneout:?} {level:?} {threads} threads");
            let found = problem.fused(&mut tape);
            compare(&what, &found, expected, 2e-5);
            let (y, last) = problem.infer();
            assert_eq!((&y, &last.h, &last.c), (&found.0, &found.1.h, &found.1.c), "{what}: without a tape");
            // Equal to the bit for every number of threads.
            match bits {
                None => *bits = Some(found),
                Some(first) => assert_eq!(first, &found, "{what}"),
            }
        }
    });
}

#[test]
fn pairs_of_bfloat16_see_the_same_chance() {
    if !Precision::Bf16.is_available() {
        return;
    }
    let _turn = settings();
    Level::available().last().unwrap().force();
    for cell in CELLS.into_iter().filter(|&cell| cell != Cell::Gru(Reset::Before)) {
        for (chance, draws) in CHANCES {
            let problem = problem(cell, Direction::Reverse, Precision::Bf16, 40, &[5, 0, 6, 2]);
            let problem = problem.with_chance(chance, draws);
            // Rounding to eight bits of mantissa moves values by 0.4 %; a wrong mask would move them by all.
            compare(&format!("{cell:?}"), &problem.fused(&mut Tape::default()), &problem.reference(), 0.06);
        }
    }
}

/// A unit that zones out keeps its value to the bit, and as many do as should; the others take their new one.
#[test]
fn zoneout_keeps_a_share_of_the_units() {
    let _turn = settings();
    for cell in CELLS {
        let plain = problem(cell, Direction::Forward, Precision::F32, 64, &[1; 40]);
        let (new, _) = plain.infer();
        let zoned = plain.clone().with_chance([0.25, 0.5, 0.0, 0.0], true);
        let (y, last) = zoned.infer();
        let kept = y.iter().zip(&plain.initial.h).filter(|(y, past)| y == past).count();
        let taken = y.iter().zip(&new).filter(|(y, new)| y == new).count();
        let share = kept as f64 / y.len() as f64;
        assert!((share - 0.25).abs() < 0.03, "{cell:?}: {share} of h kept");
        // A rectified unit may be zero either way.
        assert!(kept + taken >= y.len(), "{cell:?}: {kept} kept and {taken} new of {}", y.len());
        if cell.has_cell_state() {
            let kept = last.c.iter().zip(&plain.initial.c).filter(|(c, past)| c == past).count();
            let share = kept as f64 / y.len() as f64;
            assert!((share - 0.5).abs() < 0.03, "{cell:?}: {share} of c kept");
        }
    }
}

/// A new key draws anew; the same one repeats to the bit; and sequences of one name share what is locked.
#[test]
fn names_and_keys_decide() {
    let _turn = settings();
    let mut problem = problem(Cell::Lstm, Direction::Forward, Precision::F32, 24, &[5, 5])
        .with_chance([0.0, 0.0, 0.5, 0.0], true);
    let (half_x, half_h) = (problem.x.len() / 2, problem.initial.h.len() / 2);
    problem.x.copy_within(..half_x, half_x);
    problem.initial.h.copy_within(..half_h, half_h);
    problem.initial.c.copy_within(..half_h, half_h);
    let (y, _) = problem.infer();
    let half = y.len() / 2;
    assert_ne!(y[..half], y[half..], "other names");
    assert_eq!(problem.infer().0, y);
    problem.noise.as_mut().unwrap().key += 1;
    assert_ne!(problem.infer().0, y, "another key");
    problem.noise.as_mut().unwrap().names = vec![3, 3];
    let (y, _) = problem.infer();
    assert_eq!(y[..half], y[half..], "one name");
}

/// One step at a time, zoneout takes its mean as the sequence call does.
#[test]
fn steppers_take_the_mean() {
    let _turn = settings();
    for cell in CELLS {
        let problem = problem(cell, Direction::Forward, Precision::F32, 21, &[4; 3]);
        let problem = problem.with_chance([0.3, 0.2, 0.0, 0.0], false);
        let (y, last) = problem.infer();
        let mut stepper = Stepper::new(&[(problem.layer, problem.weights())], 3).unwrap();
        let c = cell.has_cell_state().then_some(&problem.initial.c[..]);
        stepper.set_state(0, State { h: Some(&problem.initial.h), c }).unwrap();
        for t in 0..4 {
            let x: Vec<f32> = (0..3).flat_map(|b| problem.x[(b * 4 + t) * 6..][..6].to_vec()).collect();
            let found = stepper.step(&x).unwrap();
            for b in 0..3 {
                for (found, expected) in found[b * 21..][..21].iter().zip(&y[(b * 4 + t) * 21..]) {
                    assert!(
                        (found - expected).abs() < 1e-6,
                        "{cell:?} step {t}: {found}, expected {expected}"
                    );
                }
            }
        }
        if let Some(c) = stepper.state(0).c {
            assert!(c.iter().zip(&last.c).all(|(a, b)| (a - b).abs() < 1e-6), "{cell:?}: c");
        }
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let refused = |problem: Problem, wanted: &str| {
        let Problem { layer, batch, x, .. } = &problem;
        let noise = problem.noise.as_ref().unwrap();
        let mut y = vec![0.0; batch.frames() * layer.hidden];
        let error = forward_noisy(
            layer,
            batch,
            problem.weights(),
            noise.lend(),
            Frames { data: x, layout: Layout::Padded, stride: layer.input, offset: 0 },
            State::default(),
            FramesMut { data: &mut y, layout: Layout::Padded, stride: layer.hidden, offset: 0 },
            StateMut::default(),
            None,
        );
        assert!(error.as_ref().is_err_and(|error| error.to_string().contains(wanted)), "{wanted}: {error:?}");
    };
    let noisy = |cell| {
        problem(cell, Direction::Forward, Precision::F32, 4, &[2, 2]).with_chance([0.1, 0.1, 0.1, 0.1], true)
    };
    let mut problem = noisy(Cell::Lstm);
    problem.layer.zoneout.hidden = 1.0;
    refused(problem, "the probability to zone out must be from 0 and below 1");
    let mut problem = noisy(Cell::Gru(Reset::After));
    problem.layer.zoneout.cell = 0.1;
    refused(problem, "only an LSTM has one");
    let mut problem = noisy(Cell::Rnn(Activation::Tanh));
    problem.noise.as_mut().unwrap().update = 0.1;
    refused(problem, "needs a cell with a candidate");
    let mut problem = noisy(Cell::Lstm);
    problem.noise.as_mut().unwrap().recurrent = f32::NAN;
    refused(problem, "the probability to drop out must be from 0 and below 1");
    let mut problem = noisy(Cell::Lstm);
    problem.noise.as_mut().unwrap().names.pop();
    refused(problem, "names of sequences has 1 elements, expected 2");
}
