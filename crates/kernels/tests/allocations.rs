//! A step of inference and the second step of training allocate nothing, on no thread. Alone in its process: every allocation of it is counted.

#![allow(clippy::unwrap_used)]

mod common;

use carousel_kernels::*;
use common::training::Training;
use common::{CELLS, Problem};
use std::alloc::{GlobalAlloc, Layout as Memory, System};
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, memory: Memory) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
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

/// One test, for a second one would allocate beside it.
#[test]
fn a_second_step_allocates_nothing() {
    set_threads(3);
    steps();
    training();
}

fn steps() {
    for &level in Level::available() {
        assert!(level.force());
        for precision in [StepPrecision::F32, StepPrecision::Int8] {
            for cell in CELLS {
                for (batch, hidden) in [(1, 20), (1, 400), (40, 20)] {
                    let layers = [(5, hidden), (hidden, hidden), (hidden, hidden)].map(|(input, hidden)| {
                        let layer = Layer {
                            cell,
                            direction: Direction::Forward,
                            input,
                            hidden,
                            precision: Precision::F32,
                            zoneout: Zoneout::NONE,
                            options: CellOptions::PLAIN,
                        };
                        Problem::random(layer, Batch::full(batch, 1), 1)
                    });
                    let stack: Vec<_> = layers.iter().map(|p| (p.layer, p.weights())).collect();
                    let mut stepper = Stepper::with_precision(&stack, batch, precision).unwrap();
                    // The first step of a process starts the team.
                    stepper.step(&layers[0].x).unwrap();
                    let before = ALLOCATIONS.load(Ordering::SeqCst);
                    for _ in 0..20 {
                        stepper.step(&layers[0].x).unwrap();
                    }
                    let count = ALLOCATIONS.load(Ordering::SeqCst) - before;
                    assert_eq!(count, 0, "{level:?} {precision:?} {cell:?} B {batch} H {hidden}");
                }
            }
        }
    }
}

fn training() {
    for &level in Level::available() {
        assert!(level.force());
        for cell in CELLS {
            for lengths in [&[7, 7, 7][..], &[2, 9, 5, 0, 9]] {
                let layer = Layer {
                    cell,
                    direction: Direction::Reverse,
                    input: 21,
                    hidden: 35,
                    precision: Precision::Bf16,
                    zoneout: Zoneout::NONE,
                    options: CellOptions::PLAIN,
                };
                let mut training = Training::new(layer, Batch::ragged(lengths, 9).unwrap());
                training.step();
                let before = ALLOCATIONS.load(Ordering::SeqCst);
                training.step();
                let count = ALLOCATIONS.load(Ordering::SeqCst) - before;
                assert_eq!(count, 0, "{level:?} {cell:?} {lengths:?}");
            }
        }
    }
}
