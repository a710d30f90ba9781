//! Spans against what seqeval said about the same tags; `fixtures/spans.py` wrote it.
#![allow(clippy::unwrap_used)]

use carousel::metrics::SpanCounts;
use serde_json::Value;

fn names(tags: &[String]) -> Vec<&str> {
    tags.iter().map(String::as_str).collect()
}

#[test]
fn scores_are_those_of_seqeval() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/spans.json");
    let fixture: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let cases = fixture["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 120);
    for case in cases {
        let tags = |name: &str| -> Vec<Vec<String>> { serde_json::from_value(case[name].clone()).unwrap() };
        let (expected, found) = (tags("expected"), tags("found"));
        let mut counts = SpanCounts::default();
        for (expected, found) in expected.iter().zip(&found) {
            counts.add(&names(expected), &names(found));
        }
        let scores = counts.scores();
        let wanted: [f64; 3] = serde_json::from_value(case["scores"].clone()).unwrap();
        for (found, wanted) in [scores.precision, scores.recall, scores.f1].into_iter().zip(wanted) {
            assert!((found - wanted).abs() < 1e-12, "{case}: {scores:?}");
        }
    }
}
