//! BLEU and chrF against what sacreBLEU said about the same texts; `fixtures/scores.py` wrote it.
#![allow(clippy::unwrap_used)]

use carousel::metrics::{BleuCounts, BleuTokens, bleu, chrf};
use serde_json::Value;

fn fixture() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/scores.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn scores_are_those_of_sacrebleu_to_the_last_digit() {
    let fixture = fixture();
    let pairs: Vec<(String, Vec<String>)> = serde_json::from_value(fixture["pairs"].clone()).unwrap();
    assert_eq!(pairs.len(), 200);
    let mut seen = 0;
    for case in fixture["cases"].as_array().unwrap() {
        let number = |name: &str| case[name].as_u64().unwrap() as usize;
        let chosen = &pairs[number("first")..number("last")];
        let answers: Vec<String> = chosen.iter().map(|(answer, _)| answer.clone()).collect();
        let references: Vec<Vec<String>> =
            chosen.iter().map(|(_, all)| all[..number("references")].to_vec()).collect();
        let lowercase = case["lowercase"].as_bool().unwrap();
        let tokens = match case["tokens"].as_str().unwrap() {
            "13a" => BleuTokens::V13a,
            "char" => BleuTokens::Char,
            _ => BleuTokens::None,
        };
        let found = bleu(&answers, &references, tokens, lowercase);
        assert_eq!(found.to_string(), case["shown"].as_str().unwrap(), "{case}");
        assert!((found.score - case["bleu"].as_f64().unwrap()).abs() < 1e-9, "{case} {}", found.score);
        for (order, expected) in (1..).zip(case["shorter"].as_array().unwrap()) {
            let shorter = found.up_to(order);
            assert!((shorter - expected.as_f64().unwrap()).abs() < 1e-9, "{case} BLEU-{order} {shorter}");
        }
        assert_eq!(found.up_to(4), found.score);
        let found = chrf(&answers, &references, lowercase).score;
        assert!((found - case["chrf"].as_f64().unwrap()).abs() < 1e-9, "{case} {found}");
        seen += 1;
    }
    assert_eq!(seen, 42);
}

#[test]
fn signatures_say_how() {
    let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    let check = |references: &[Vec<String>], lowercase, expected: &str| {
        let found = bleu(&texts(&["a", "b"]), references, BleuTokens::Char, lowercase).signature;
        assert!(found.starts_with(expected), "{found}");
    };
    check(&[texts(&["a"]), texts(&["b"])], false, "nrefs:1|case:mixed|eff:no|tok:char|smooth:exp|version:");
    check(&[texts(&["a", "c"]), texts(&["b"])], true, "nrefs:var|case:lc|");
}

/// Resamples are drawn at random there and here: mean and width agree as far as a thousand of them tell.
#[test]
fn an_interval_is_as_wide_as_that_of_sacrebleu() {
    let fixture = fixture();
    let pairs: Vec<(String, Vec<String>)> = serde_json::from_value(fixture["pairs"].clone()).unwrap();
    let (answers, references): (Vec<String>, Vec<Vec<String>>) =
        pairs.into_iter().map(|(answer, mut all)| (answer, vec![all.swap_remove(0)])).unzip();
    let counts = BleuCounts::new(&answers, &references, BleuTokens::V13a, false);
    let found = counts.interval(1000, 1).unwrap();
    let expected = |name: &str| fixture["confidence"][name].as_f64().unwrap();
    let around = (found.high - found.low) / 2.0;
    assert!((found.mean - expected("mean")).abs() < 0.15 * expected("around"), "{found}");
    assert!((around / expected("around") - 1.0).abs() < 0.15, "{found}");
    assert!(found.low < counts.score().score && counts.score().score < found.high, "{found}");
    assert_eq!(counts.interval(1000, 1), Some(found));
    assert_ne!(counts.interval(1000, 2), Some(found));

    // Where all answers are alike there is nothing to be off by.
    let same = BleuCounts::new(&answers[..1], &references[..1], BleuTokens::V13a, false);
    let found = same.interval(1000, 1).unwrap();
    assert_eq!((found.low, found.high), (same.score().score, same.score().score));
    assert_eq!(BleuCounts::new(&[], &[], BleuTokens::V13a, false).interval(1000, 1), None);
}
