//! Repeating a piece of work and keeping the time.

use std::time::{Duration, Instant};

use carousel_kernels::fma_peak;

/// Fewer repetitions have no median worth the name.
const FEWEST: usize = 3;
/// How long the machine's peak is measured.
const PEAK: Duration = Duration::from_millis(100);

/// Times of some repetitions, in seconds.
pub(super) struct Timing {
    pub(super) median: f64,
    pub(super) fastest: f64,
    pub(super) slowest: f64,
    pub(super) repetitions: usize,
}

/// The machine's peak in GFLOP/s, then the times of `work`: after a tenth of `seconds` of warming up, at
/// least one repetition, it is repeated until `seconds` have passed.
pub(super) fn timed(seconds: f64, mut work: impl FnMut()) -> (f64, Timing) {
    let peak = fma_peak(PEAK);
    repeat(seconds / 10.0, 1, &mut work);
    let mut times = repeat(seconds, FEWEST, &mut work);
    times.sort_unstable_by(f64::total_cmp);
    let middle = times.len() / 2;
    let median = if times.len() % 2 == 1 { times[middle] } else { (times[middle - 1] + times[middle]) / 2.0 };
    let (fastest, slowest) = (times[0], times[times.len() - 1]);
    (peak, Timing { median, fastest, slowest, repetitions: times.len() })
}

/// At least `fewest` repetitions, and as many as begin within `seconds`.
fn repeat(seconds: f64, fewest: usize, work: &mut impl FnMut()) -> Vec<f64> {
    let began = Instant::now();
    let mut times = Vec::new();
    while times.len() < fewest || began.elapsed().as_secs_f64() < seconds {
        let started = Instant::now();
        work();
        times.push(started.elapsed().as_secs_f64());
    }
    times
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_repetition_counts_but_the_first() {
        let mut runs = 0;
        let (peak, timing) = timed(0.0, || runs += 1);
        assert_eq!((timing.repetitions, runs), (FEWEST, FEWEST + 1));
        assert!(timing.fastest <= timing.median && timing.median <= timing.slowest);
        assert!(peak > 0.0);
    }
}
