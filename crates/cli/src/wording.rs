//! Numbers, scores and cells in the words that several verbs share.

use carousel::data::PairCounts;
use carousel::recipe::{CellName, Named, Recipe};
use carousel::report::thousands;
use carousel::train::Score;

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

/// Five digits that count.
pub(crate) fn digits(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    let before = value.abs().log10().floor() as i32 + 1;
    if !(-3..=9).contains(&before) {
        return format!("{value:.4e}");
    }
    format!("{value:.*}", (5 - before).max(0) as usize)
}

/// What the layers are, for people.
pub(crate) fn cell_name(recipe: &Recipe) -> String {
    match recipe.model.cell {
        CellName::None => "feed-forward units".to_owned(),
        cell => cell.name().to_uppercase(),
    }
}

/// `macro_f1` as people write it.
pub(crate) fn score_name(score: &str) -> String {
    match score {
        "bleu" => "BLEU".to_owned(),
        "bleu_1" | "bleu_2" | "bleu_3" => score.replace("bleu_", "BLEU-"),
        "rouge_l" => "ROUGE-L".to_owned(),
        "chrf" => "chrF".to_owned(),
        "smape" => "sMAPE".to_owned(),
        "mae" | "rmse" | "mase" => score.to_uppercase(),
        other => other.replace('_', " ").replace("f1", "F1"),
    }
}

/// A score's value as people write it.
pub(crate) fn score_value(score: &Score) -> String {
    match score.name.as_str() {
        "bleu" | "bleu_1" | "bleu_2" | "bleu_3" | "chrf" => format!("{:.2}", score.value),
        "mae" | "rmse" | "mase" | "pinball" => digits(score.value),
        _ => percent(score.value),
    }
}

/// Name and value of a score.
pub(crate) fn score_line(score: &Score) -> String {
    format!("{} {}", score_name(&score.name), score_value(score))
}

/// A share of 1 in percent.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
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

    #[test]
    fn five_digits_count() {
        let check = |value: f64, expected: &str| assert_eq!(digits(value), expected);
        check(0.0, "0");
        check(1234.567, "1234.6");
        check(0.012_345_67, "0.012346");
        check(123_456_789.0, "123456789");
        check(1.5e-7, "1.5000e-7");
    }
}
