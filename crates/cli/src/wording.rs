//! Numbers in the words that several verbs share.

use carousel::data::PairCounts;
use carousel::report::thousands;

/// `41234.5` as `41.2k`.
pub(crate) fn rounded(number: f64) -> String {
    match number {
        n if n >= 1e6 => format!("{:.1}M", n / 1e6),
        n if n >= 1e4 => format!("{:.1}k", n / 1e3),
        n => format!("{n:.0}"),
    }
}

/// `112.3` seconds as `1m52s`.
pub(crate) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "unknown".to_owned();
    }
    let seconds = seconds.max(0.0).round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (hours, minutes, _) => format!("{hours}h{minutes:02}m"),
    }
}

/// What became of one part's pairs, in a line.
pub(crate) fn told(counts: &PairCounts) -> String {
    let number = |count: usize| thousands(count as u64);
    let mut line = format!("{} pairs", number(counts.pairs));
    for (count, what) in
        [(counts.empty, "empty"), (counts.dropped, "too long, left out"), (counts.cut, "too long, cut")]
    {
        if count > 0 {
            line.push_str(&format!(", {} {what}", number(count)));
        }
    }
    let share = |unknown: usize, tokens: usize| unknown as f64 * 100.0 / tokens.max(1) as f64;
    let unknown = counts.source_unknown + counts.target_unknown;
    if unknown > 0 {
        let all = counts.source_tokens + counts.target_tokens;
        line.push_str(&format!(", {:.2} % unknown tokens", share(unknown, all)));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        let check = |seconds: f64, expected: &str| assert_eq!(duration(seconds), expected);
        check(0.4, "0s");
        check(59.6, "1m00s");
        check(112.3, "1m52s");
        check(3600.0 * 12.0 + 300.0, "12h05m");
        check(f64::INFINITY, "unknown");
    }

    #[test]
    fn speeds_read_well() {
        let check = |number: f64, expected: &str| assert_eq!(rounded(number), expected);
        check(950.4, "950");
        check(41_234.5, "41.2k");
        check(2_500_000.0, "2.5M");
    }
}
