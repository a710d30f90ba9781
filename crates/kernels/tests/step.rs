//! The stepper against the sequence call, over a thousand steps, and without allocating.

#![allow(clippy::unwrap_used)]

mod common;

use carousel_kernels::*;
use common::{CELLS, Numbers, Problem};
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

/// A thousand steps of a two-layer stack, `B` streams: sequence call and stepper.
fn check(cell: Cell, level: Level, batch: usize, hidden: usize) {
    assert!(level.force());
    let (time, input) = (1000, 5);
    let layers = [
        Layer { cell, direction: Direction::Forward, input, hidden, precision: Precision::F32 },
        Layer { cell, direction: Direction::Forward, input: hidden, hidden, precision: Precision::F32 },
    ];
    let problems = layers.map(|layer| {
        let mut problem = Problem::random(layer, Batch::full(batch, time), 11);
        if cell == Cell::Rnn(Activation::Relu) {
            // Half of the usual size, so that a thousand steps neither die nor explode.
            problem.weights.recurrent.iter_mut().for_each(|w| *w *= 0.5);
        }
        problem
    });
    let shape = Batch::full(batch, time);
    let mut x = problems[0].x.clone();
    let mut width = input;
    for problem in &problems {
        let mut y = vec![0.0; batch * time * hidden];
        forward(
            &problem.layer,
            &shape,
            problem.weights(),
            Frames { data: &x, layout: Layout::Padded, stride: width, offset: 0 },
            State::default(),
            FramesMut { data: &mut y, layout: Layout::Padded, stride: hidden, offset: 0 },
            StateMut::default(),
            None,
        )
        .unwrap();
        (x, width) = (y, hidden);
    }
    let stack: Vec<_> = problems.iter().map(|p| (p.layer, p.weights())).collect();
    let mut stepper = Stepper::new(&stack, batch).unwrap();
    let mut largest = 0.0f32;
    let mut input_row = vec![0.0; batch * input];
    for t in 0..time {
        for b in 0..batch {
            let row = &problems[0].x[(b * time + t) * input..][..input];
            input_row[b * input..][..input].copy_from_slice(row);
        }
        let before = ALLOCATIONS.with(Counter::get);
        let y = stepper.step(&input_row).unwrap();
        assert_eq!(ALLOCATIONS.with(Counter::get), before, "a step allocates");
        for b in 0..batch {
            for (a, e) in y[b * hidden..][..hidden].iter().zip(&x[(b * time + t) * hidden..]) {
                largest = largest.max((a - e).abs());
            }
        }
    }
    assert!(largest <= 1e-5, "{cell:?} {level:?} B {batch} H {hidden}: off by {largest}");
}

#[test]
fn a_thousand_steps_agree_with_the_sequence_call_and_allocate_nothing() {
    for &level in Level::available() {
        for cell in CELLS {
            check(cell, level, 1, 33);
            check(cell, level, 3, 20);
        }
        println!("checked at {level:?}");
    }
}

#[test]
fn a_state_can_be_taken_out_and_put_back() {
    let mut numbers = Numbers::new(2);
    for cell in CELLS {
        let layer =
            Layer { cell, direction: Direction::Forward, input: 2, hidden: 5, precision: Precision::F32 };
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

#[test]
fn what_cannot_be_stepped_is_refused() {
    let layer = Layer {
        cell: Cell::Lstm,
        direction: Direction::Reverse,
        input: 2,
        hidden: 5,
        precision: Precision::F32,
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
