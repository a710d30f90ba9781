//! A language model of many short documents: names, a line each.

mod support;

use support::Home;

const RECIPE: &str = "\
task = \"lm\"
[data]
documents = \"lines\"
[model]
layers = 1
hidden = 48
embedding = 16
[train]
epochs = 25
batch = 16
learning_rate = 0.02
validate_every = 60
log_every = 30
";

/// Names of two or three syllables.
fn names() -> Vec<String> {
    let syllables = ["ka", "lo", "mi", "ne", "ru", "ta"];
    let name = |number: usize| {
        let count = 2 + number % 2;
        let picked: String =
            (0..count).map(|place| syllables[(number / 2 + place * (1 + number / 12)) % 6]).collect();
        picked[..1].to_uppercase() + &picked[1..]
    };
    (0..200).map(name).collect()
}

fn home() -> Home {
    let home = Home::new();
    home.write("names.toml", RECIPE);
    home.write("names.txt", names().join("\r\n") + "\n\n");
    home
}

fn weights(home: &Home, run: &str) -> Vec<u8> {
    let latest = home.read(&format!("{run}/latest"));
    home.bytes(&format!("{run}/{}/model.safetensors", latest.trim()))
}

#[test]
fn whole_names_are_learned_measured_and_written() {
    let home = home();
    let said = home.carousel("train names.toml --data names.txt --out run").succeeds();
    assert!(said.stderr.contains("180 sequences of 4 to 6 steps"), "{}", said.stderr);
    assert_eq!(said.stdout.lines().count(), 10, "{}", said.stdout);
    // Each name is a document: its end is predicted, and its beginning is not hung on the name before.
    let measured = home.carousel("eval run --data names.txt --json").succeeds().json();
    let letters: usize = names().iter().map(|name| name.len() + 1).sum();
    assert_eq!(measured["tokens"], letters);
    assert!(measured["bits_per_char"].as_f64() < Some(1.2), "{measured}");
    let mut backwards = names();
    backwards.reverse();
    home.write("backwards.txt", backwards.join("\n"));
    let again = home.carousel("eval run --data backwards.txt --json").succeeds().json();
    let difference = measured["loss"].as_f64().zip(again["loss"].as_f64()).map(|(a, b)| (a - b).abs());
    assert!(difference < Some(1e-6), "{measured} {again}");
    let small = home.carousel("eval run --data names.txt --precision int8 --json").succeeds().json();
    assert_eq!(small["tokens"], letters);

    let written = home.carousel("sample run --count 20").succeeds().stdout;
    let lines: Vec<&str> = written.lines().collect();
    assert_eq!(lines.len(), 20, "{written}");
    let whole = lines.iter().filter(|line| (4..=6).contains(&line.len())).count();
    assert!(whole >= 16, "{written}");
    let begun = home.carousel("sample run --prompt Mi --count 5 --seed 3").succeeds().stdout;
    assert!(begun.lines().count() == 5 && begun.lines().all(|line| line.starts_with("Mi")), "{begun}");
    let told = home.carousel("sample run --prompt Mi --count 5 --seed 3 --json").succeeds().json();
    let texts: Vec<String> = serde_json::from_value(told["texts"].clone()).expect("texts");
    assert_eq!(
        texts.iter().map(|text| format!("Mi{text}")).collect::<Vec<_>>(),
        begun.lines().collect::<Vec<_>>()
    );
    assert_eq!(home.carousel("sample run --length 2").succeeds().stdout.trim_end().len(), 2);
}

#[test]
fn every_kind_of_token_is_learned_from_and_resumes_to_the_bit() {
    let home = home();
    let check = |tokens: &str| {
        let more = format!(
            "--set data.tokens={tokens} --set model.output_dropout=0.1 --set train.temporal_penalty=0.1"
        );
        let train = |out: &str, steps: usize| {
            let line = format!("train names.toml --data names.txt --out {tokens}-{out} {more}");
            home.carousel(&format!("{line} --set train.steps={steps}")).succeeds();
        };
        train("whole", 30);
        train("half", 13);
        let config = format!("{tokens}-half/config.toml");
        home.write(&config, home.read(&config).replace("steps = 13", "steps = 30"));
        home.carousel(&format!("train --resume --out {tokens}-half")).succeeds();
        assert!(
            weights(&home, &format!("{tokens}-whole")) == weights(&home, &format!("{tokens}-half")),
            "{tokens}"
        );
        let written =
            home.carousel(&format!("sample {tokens}-whole --count 3 --length 30")).succeeds().stdout;
        assert_eq!(written.lines().count(), 3, "{tokens}: {written}");
    };
    ["char", "byte", "word", "bpe"].into_iter().for_each(check);
}

#[test]
fn what_has_no_effect_on_lines_is_refused() {
    let home = home();
    let check = |key: &str| {
        home.carousel(&format!("train names.toml --data names.txt --out run --set {key}"))
            .fails(2, &["has no effect with data.documents = \"lines\""]);
    };
    ["train.bptt=9", "train.k1=3", "train.vary_bptt=true", "data.memory=0"].into_iter().for_each(check);
}
