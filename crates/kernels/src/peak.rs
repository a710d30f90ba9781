//! What the multiply-add units of this machine can do at most: the measure that every speed is a share of.

use crate::simd::{Dispatch, Job, Lanes, Level};
use crate::team;
use std::hint::black_box;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Multiply-adds under way at once. Units start two a cycle and take four or five, so ten would do; with their
/// two operands, twelve still fit the sixteen registers of the smaller levels.
const CHAINS: usize = 12;

/// A measurement in one piece: long against the clock's steps, short against an interruption by the system.
const BURST: Duration = Duration::from_millis(2);

/// Billions of floating point operations a second, a multiply-add counting as two, that [`threads`] workers
/// reach together at [`Level::current`] with nothing but independent multiply-adds in registers. Measures for
/// about as long as `budget` says, at least once, and returns the best of many short bursts: the others were
/// disturbed.
///
/// [`threads`]: crate::threads
#[must_use]
pub fn fma_peak(budget: Duration) -> f64 {
    let workers = team::threads();
    let began = Instant::now();
    // Finds how many rounds fill a burst; this wakes the processor up as well.
    let mut rounds = 1_000;
    while burst(workers, rounds).0 < BURST && began.elapsed() < budget {
        rounds *= 2;
    }
    let mut best = 0.0_f64;
    loop {
        let (spent, operations) = burst(workers, rounds);
        best = best.max(operations / spent.as_secs_f64().max(1e-9) / 1e9);
        if began.elapsed() >= budget {
            return best;
        }
    }
}

/// All workers at once: the time from the first one's start to the last one's end, and the operations done.
fn burst(workers: usize, rounds: usize) -> (Duration, f64) {
    let level = Level::current();
    let span = Mutex::new(None);
    team::run_on(workers, |worker| {
        worker.barrier();
        let began = Instant::now();
        level.dispatch(Rounds(rounds));
        let ended = Instant::now();
        let mut span = span.lock().unwrap_or_else(PoisonError::into_inner);
        let (first, last) = span.unwrap_or((began, ended));
        *span = Some((first.min(began), last.max(ended)));
    });
    let span = span.into_inner().unwrap_or_else(PoisonError::into_inner);
    let spent = span.map_or(Duration::ZERO, |(first, last)| last - first);
    (spent, (workers * rounds * CHAINS * level.lanes() * 2) as f64)
}

/// This many multiply-adds on every chain.
#[derive(Clone, Copy)]
struct Rounds(usize);

impl Dispatch for Rounds {
    type Output = ();

    fn run<S: Lanes>(self, simd: S) {
        simd.call(self);
    }
}

impl<S: Lanes> Job<S> for Rounds {
    type Output = ();

    #[inline(always)]
    fn run(self, simd: S) {
        let (factor, summand) = (simd.splat(black_box(0.5)), simd.splat(black_box(1.0)));
        let mut chains = [summand; CHAINS];
        for _ in 0..self.0 {
            // Every chain depends on itself, so nothing can be taken out of the loop; all tend to 2.
            for chain in &mut chains {
                *chain = simd.fma(*chain, factor, summand);
            }
        }
        black_box(chains);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_of_every_worker_is_counted() {
        let lanes = Level::current().lanes();
        for workers in [1, 3] {
            assert_eq!(burst(workers, 1_000).1, (workers * 1_000 * CHAINS * lanes * 2) as f64);
        }
        let peak = fma_peak(Duration::ZERO);
        assert!(peak.is_finite() && peak > 0.0, "{peak}");
    }
}
