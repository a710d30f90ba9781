"""Keeping the time exactly as `carousel bench` does: warm up, repeat, take the median."""

import statistics
import time

FEWEST = 3


def repeat(seconds, fewest, work):
    began, times = time.perf_counter(), []
    while len(times) < fewest or time.perf_counter() - began < seconds:
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return times


def timed(seconds, work):
    """Milliseconds of `work`, after a tenth of the time, but one repetition at least, of warming up."""
    repeat(seconds / 10, 1, work)
    times = repeat(seconds, FEWEST, work)
    return {
        "milliseconds": statistics.median(times) * 1e3,
        "min_milliseconds": min(times) * 1e3,
        "max_milliseconds": max(times) * 1e3,
        "repetitions": len(times),
    }
