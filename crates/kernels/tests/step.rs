//! The stepper against the sequence call, over a thousand steps, and without allocating.

#![allow(clippy::unwrap_used)]

mod common;

use carousel_kernels::*;
use common::{CELLS, Numbers, Problem, cells_with_options, everywhere};
use std::alloc::{GlobalAlloc, Layout as Memory, System};
use std::cell::Cell as Counter;

/// Counts this thread's allocations.
struct Counting;

thread_local! {
    static ALLOCATIONS: Counter<usize> = const { Counter::new(0) };
}

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, memory: Memory) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(memory) }
    }
    unsafe fn dealloc(&self, data: *mut u8, memory: Memory) {
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.dealloc(data, memory) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// A thousand steps of a stack of cells and their sizes, `B` streams: sequence call and stepper. Gives the
/// last output.
fn check(stack: &[(Cell, usize)], level: Level, batch: usize) -> Vec<f32> {
    let (time, input) = (1000, 5);
    let mut width = input;
    let problems: Vec<Problem> = stack
        .iter()
        .map(|&(cell, hidden)| {
            let layer = Layer {
                cell,
                direction: Direction::Forward,
                input: width,
                hidden,
                precision: Precision::F32,
                zoneout: Zoneout::NONE,
                options: CellOptions::PLAIN,
            };
            width = hidden;
            let mut problem = Problem::random(layer, Batch::full(batch, time), 11);
            if cell == Cell::Rnn(Activation::Relu) {
                // Half of the usual size, so that a thousand steps neither die nor explode.
                problem.weights.recurrent.iter_mut().for_each(|w| *w *= 0.5);
            }
            problem
        })
        .collect();
    let shape = Batch::full(batch, time);
    let mut x = problems[0].x.clone();
    for problem in &problems {
        let Layer { input, hidden, .. } = problem.layer;
        let mut y = vec![0.0; batch * time * hidden];
        forward(
            &problem.layer,
            &shape,
            problem.weights(),
            Frames { data: &x, layout: Layout::Padded, stride: input, offset: 0 },
            State::default(),
            FramesMut { data: &mut y, layout: Layout::Padded, stride: hidden, offset: 0 },
            StateMut::default(),
            None,
        )
        .unwrap();
        x = y;
    }
    let layers: Vec<_> = problems.iter().map(|p| (p.layer, p.weights())).collect();
    let mut stepper = Stepper::new(&layers, batch).unwrap();
    let mut largest = 0.0f32;
    let mut input_row = vec![0.0; batch * input];
    let mut last = Vec::new();
    for t in 0..time {
        for b in 0..batch {
            let row = &problems[0].x[(b * time + t) * input..][..input];
            input_row[b * input..][..input].copy_from_slice(row);
        }
        let before = ALLOCATIONS.with(Counter::get);
        let y = stepper.step(&input_row).unwrap();
        assert!(ALLOCATIONS.with(Counter::get) == before || t == 0, "a step allocates");
        for b in 0..batch {
            for (a, e) in y[b * width..][..width].iter().zip(&x[(b * time + t) * width..]) {
                largest = largest.max((a - e).abs());
            }
        }
        last = y.to_vec();
    }
    assert!(largest <= 1e-5, "{stack:?} {level:?} B {batch}: off by {largest}");
    last
}

#[test]
fn a_thousand_steps_agree_with_the_sequence_call_and_allocate_nothing() {
    let mut first = std::collections::HashMap::new();
    everywhere(|level, threads| {
        let mut check = |stack: &[(Cell, usize)], batch| {
            let last: Vec<u32> = check(stack, level, batch).into_iter().map(f32::to_bits).collect();
            let expected = first.entry((level, stack.to_vec(), batch)).or_insert(last.clone());
            assert_eq!(*expected, last, "{stack:?} {level:?} B {batch} {threads} threads");
        };
        for cell in CELLS {
            check(&[(cell, 33), (cell, 33)], 1);
            check(&[(cell, 20), (cell, 20)], 3);
            if threads != 8 {
                // Enough work for a team, once dealt by units and once by streams.
                check(&[(cell, 130), (cell, 130)], 1);
                check(&[(cell, 20), (cell, 20)], 40);
            }
        }
        let [tanh, _, lstm, after, before] = CELLS;
        check(&[(lstm, 40), (tanh, 70), (before, 33), (after, 50)], 7);
    });
}

#[test]
fn a_state_can_be_taken_out_and_put_back() {
    let mut numbers = Numbers::new(2);
    for cell in CELLS {
        let layer = Layer {
            cell,
            direction: Direction::Forward,
            input: 2,
            hidden: 5,
            precision: Precision::F32,
            zoneout: Zoneout::NONE,
            options: CellOptions::PLAIN,
        };
        let problem = Problem::random(layer, Batch::full(1, 1), 3);
        let mut stepper = Stepper::new(&[(layer, problem.weights())], 2).unwrap();
        let xs: Vec<_> = (0..4).map(|_| numbers.floats(4, 1.0)).collect();
        stepper.step(&xs[0]).unwrap();
        let saved = stepper.state(0);
        let (h, c) = (saved.h.unwrap().to_vec(), saved.c.map(<[f32]>::to_vec));
        assert_eq!(c.is_some(), cell.has_cell_state());
        let first = stepper.step(&xs[1]).unwrap().to_vec();
        stepper.step(&xs[2]).unwrap();
        stepper.set_state(0, State { h: Some(&h), c: c.as_deref() }).unwrap();
        assert_eq!(stepper.step(&xs[1]).unwrap(), first);
        let error = stepper.set_state(0, State { h: Some(&h[1..]), c: None }).unwrap_err();
        assert_eq!(error.to_string(), "h of a step's state has 9 elements, expected 10");
        let error = stepper.step(&[0.0; 3]).unwrap_err();
        assert_eq!(error.to_string(), "input of a step has 3 elements, expected 4");
    }
}

/// Streams that go on, turned round, doubled and left out, are what they would have been alone.
#[test]
fn streams_are_chosen_and_go_on() {
    let (input, hidden) = (3, 20);
    for cell in CELLS {
        for precision in [StepPrecision::F32, StepPrecision::Int8] {
            let layers: Vec<Layer> = [input, hidden]
                .map(|input| Layer {
                    cell,
                    direction: Direction::Forward,
                    input,
                    hidden,
                    precision: Precision::F32,
                    zoneout: Zoneout::NONE,
                    options: CellOptions::PLAIN,
                })
                .to_vec();
            let problems: Vec<Problem> =
                layers.iter().map(|&layer| Problem::random(layer, Batch::full(1, 1), 3)).collect();
            let stack: Vec<_> = problems.iter().map(|problem| (problem.layer, problem.weights())).collect();
            let stepper = |batch| Stepper::with_precision(&stack, batch, precision).unwrap();
            everywhere(|level, threads| {
                let mut numbers = Numbers::new(5);
                let mut together = stepper(3);
                let mut alone: Vec<Vec<Vec<f32>>> = vec![Vec::new(); 3];
                for chosen in [&[0, 1, 2][..], &[2, 2, 0, 1, 0], &[4, 3], &[1, 0, 1, 0, 1, 1], &[5]] {
                    if alone[0].is_empty() {
                        assert_eq!(chosen.len(), 3);
                    } else {
                        together.select(chosen).unwrap();
                        alone = chosen.iter().map(|&stream| alone[stream].clone()).collect();
                    }
                    let x = numbers.floats(chosen.len() * input, 1.0);
                    alone.iter_mut().zip(x.chunks(input)).for_each(|(read, x)| read.push(x.to_vec()));
                    let y = together.step(&x).unwrap().to_vec();
                    for (y, read) in y.chunks(hidden).zip(&alone) {
                        let mut single = stepper(1);
                        let mut last = Vec::new();
                        read.iter().for_each(|x| last = single.step(x).unwrap().to_vec());
                        assert!(y == last, "{cell:?} {precision:?} {level:?} {threads} threads");
                    }
                    let state = together.state(1).h.unwrap();
                    assert_eq!(state, y);
                }
                let error = together.select(&[1]).unwrap_err();
                assert_eq!(error.to_string(), "a stream is 1, expected less than 1");
                assert!(together.select(&[]).is_err());
            });
        }
    }
}

/// Streams that branch and read rows of a table are what they are alone, and what plain steps give but for rounding.
#[test]
fn what_streams_share_changes_nothing() {
    let (input, hidden, vocabulary) = (3, 20, 7);
    let plain = CELLS.into_iter().map(|cell| (cell, CellOptions::PLAIN));
    for (cell, options) in plain.chain(cells_with_options().into_iter().step_by(3)) {
        let zoneout = Zoneout { hidden: 0.2, ..Zoneout::NONE };
        let layers = [(input, Zoneout::NONE), (hidden, zoneout)].map(|(input, zoneout)| Layer {
            cell,
            direction: Direction::Forward,
            input,
            hidden,
            precision: Precision::F32,
            zoneout,
            options,
        });
        let problems = layers.map(|layer| Problem::random(layer, Batch::full(1, 1), 3));
        let stack: Vec<_> = problems.iter().map(|problem| (problem.layer, problem.weights())).collect();
        let table = Numbers::new(9).floats(vocabulary * input, 1.0);
        everywhere(|level, threads| {
            let what = format!("{cell:?} {options:?} {level:?} {threads} threads");
            let mut numbers = Numbers::new(5);
            let mut together = Stepper::branching(&stack, 3).unwrap();
            let mut alone: Vec<Vec<u32>> = vec![Vec::new(); 3];
            let all = [&[0, 1, 2][..], &[2, 2, 0, 1, 0], &[4, 3], &[1, 0, 1, 0, 1, 1], &[5], &[0; 40]];
            for chosen in all {
                if !alone[0].is_empty() {
                    // Of streams that are chosen twice the second choice is among those of the first.
                    let twice: Vec<usize> = (0..alone.len()).rev().chain(0..alone.len()).collect();
                    together.select(&twice).unwrap();
                    let streams: Vec<usize> = chosen.iter().map(|stream| alone.len() + stream).collect();
                    together.select(&streams).unwrap();
                    alone = chosen.iter().map(|&stream| alone[stream].clone()).collect();
                }
                let tokens: Vec<u32> = chosen.iter().map(|_| numbers.integer(vocabulary) as u32).collect();
                alone.iter_mut().zip(&tokens).for_each(|(read, &token)| read.push(token));
                let y = together.read(&table, &tokens).unwrap().to_vec();
                for (y, read) in y.chunks(hidden).zip(&alone) {
                    let mut single = Stepper::branching(&stack, 1).unwrap();
                    let mut stepper = Stepper::new(&stack, 1).unwrap();
                    let (mut last, mut vectors) = (Vec::new(), Vec::new());
                    for &token in read {
                        let x = &table[token as usize * input..][..input];
                        last = single.read(&table, &[token]).unwrap().to_vec();
                        vectors = stepper.step(x).unwrap().to_vec();
                    }
                    assert!(y == last, "{what}");
                    common::close(&what, &last, &common::wide(&vectors), 1e-5);
                }
            }
            // What is put in a stream's place is no longer what others follow.
            together.select(&[0, 0]).unwrap();
            let mut single = Stepper::branching(&stack, 2).unwrap();
            together.reset_stream(1);
            let begun = together.read(&table, &[1, 1]).unwrap()[hidden..].to_vec();
            assert_eq!(begun, single.read(&table, &[1, 1]).unwrap()[hidden..], "{what}");
            let refused = |found: Result<&[f32], ShapeError>, expected: &str| {
                assert_eq!(found.unwrap_err().to_string(), expected, "{what}");
            };
            refused(together.read(&table, &[1]), "tokens of a step has 1 elements, expected 2");
            refused(together.read(&table, &[1, 7]), "a token is 7, expected less than 7");
            let mut plain = Stepper::new(&stack, 1).unwrap();
            refused(plain.read(&table, &[1]), "tokens are read by a stepper whose streams branch");
        });
    }
}

#[test]
fn what_cannot_be_stepped_is_refused() {
    let layer = Layer {
        cell: Cell::Lstm,
        direction: Direction::Reverse,
        input: 2,
        hidden: 5,
        precision: Precision::F32,
        zoneout: Zoneout::NONE,
        options: CellOptions::PLAIN,
    };
    let problem = Problem::random(layer, Batch::full(1, 1), 3);
    let check = |layers: &[(Layer, Weights<'_>)], batch, expected: &str| {
        let error = Stepper::new(layers, batch).err().unwrap();
        assert_eq!(error.to_string(), expected);
    };
    let forward = Layer { direction: Direction::Forward, ..layer };
    check(&[], 1, "number of layers is 0, expected at least 1");
    check(&[(layer, problem.weights())], 1, "a reversed layer cannot run step by step");
    check(&[(forward, problem.weights())], 0, "number of streams is 0, expected at least 1");
    let twice = [(forward, problem.weights()), (forward, problem.weights())];
    check(&twice, 1, "input of a layer in the stack has 2 elements, expected 5");
}
