//! What `carousel bench` prints and what it refuses. How fast anything is stands in no test.

mod support;

use serde_json::Value;
use support::Home;

/// Runs a bench as briefly as it can be, and checks what every bench says.
#[track_caller]
fn json(arguments: &str) -> Value {
    let said = Home::new().carousel(&format!("bench {arguments} --seconds 0 --json")).succeeds();
    assert_eq!(said.stdout.lines().count(), 1, "{arguments}: {}", said.stdout);
    let line = said.json();
    for field in [
        "milliseconds",
        "min_milliseconds",
        "max_milliseconds",
        "repetitions",
        "gflops",
        "peak_gflops",
        "share_of_peak",
        "threads",
    ] {
        assert!(line[field].as_f64().is_some_and(|value| value > 0.0), "{arguments}: {field} in {line}");
    }
    for field in ["bench", "cell", "precision", "level", "processor", "version"] {
        assert!(line[field].as_str().is_some_and(|text| !text.is_empty()), "{arguments}: {field} in {line}");
    }
    let (gflops, peak) = (number(&line, "gflops"), number(&line, "peak_gflops"));
    assert!((number(&line, "share_of_peak") - gflops / peak).abs() < 1e-9, "{line}");
    line
}

#[track_caller]
fn number(line: &Value, field: &str) -> f64 {
    line[field].as_f64().unwrap_or_else(|| panic!("no {field} in {line}"))
}

/// Floating point operations of one repetition.
fn operations(line: &Value) -> f64 {
    number(line, "gflops") * number(line, "milliseconds") * 1e6
}

#[track_caller]
fn about(found: f64, expected: f64) {
    assert!((found / expected - 1.0).abs() < 1e-9, "found {found}, expected {expected}");
}

#[test]
fn a_layer_counts_the_products_with_its_weights() {
    for (cell, gates) in [("lstm", 4.0), ("gru", 3.0), ("gru-before", 3.0), ("rnn", 1.0), ("rnn-relu", 1.0)] {
        for path in ["", "--kernel"] {
            let line = json(&format!(
                "layer --cell {cell} --shape 6,5,24 --input 10 --layers 3 --mode infer {path}"
            ));
            assert_eq!(line["shape"], serde_json::json!([6, 5, 24]));
            assert_eq!(
                (&line["bench"], &line["cell"], &line["frames"]),
                (&"layer".into(), &cell.into(), &30.into())
            );
            assert_eq!(line["path"], if path.is_empty() { "layer" } else { "kernel" });
            about(operations(&line), 2.0 * 30.0 * gates * 24.0 * ((10.0 + 24.0) + 2.0 * 48.0));
            about(number(&line, "frames_per_second"), 30.0 / number(&line, "milliseconds") * 1e3);
        }
    }
}

#[test]
fn training_counts_three_passes_and_both_directions_twice() {
    let one = json("layer --shape 4,3,16 --layers 1 --mode infer");
    let all = json("layer --shape 4,3,16 --layers 1 --mode train --direction both");
    about(operations(&all), 6.0 * operations(&one));
    assert_eq!((&all["mode"], &all["direction"]), (&"train".into(), &"both".into()));
    json("layer --shape 4,3,16 --direction reverse");
}

#[test]
fn ragged_batches_count_real_frames() {
    for path in ["", "--kernel"] {
        let line = json(&format!("layer --shape 20,7,16 --lengths uniform {path}"));
        let lengths: Vec<u64> =
            line["lengths"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
        assert_eq!(lengths.len(), 7);
        assert!(lengths.iter().all(|length| (4..=20).contains(length)), "{lengths:?}");
        let frames: u64 = lengths.iter().sum();
        assert!(frames < 140, "some are shorter: {lengths:?}");
        assert_eq!(line["frames"], frames);
        about(number(&line, "real_share"), frames as f64 / 140.0);
        about(operations(&line), 6.0 * frames as f64 * 2.0 * 4.0 * 16.0 * 32.0);
        let other = json("layer --shape 20,7,16 --lengths uniform --seed 2");
        assert_ne!(other["lengths"], line["lengths"], "the seed draws them");
    }
}

#[test]
fn a_step_counts_its_weights_once_a_sequence() {
    let line = json("step --cell gru --hidden 24 --input 10 --layers 2 --batch 3");
    assert_eq!((&line["bench"], &line["batch"]), (&"step".into(), &3.into()));
    let weights = 3.0 * 24.0 * (34.0 + 48.0);
    about(number(&line, "weight_bytes"), 4.0 * weights);
    about(operations(&line), 2.0 * 3.0 * weights);
    about(number(&line, "steps_per_second"), 1e3 / number(&line, "milliseconds"));
}

#[test]
fn a_model_takes_its_sizes_from_a_recipe() {
    let home = Home::new();
    let tiny = "bench model tiny.toml --vocabulary 11 --seconds 0 --json";
    let line = home.carousel(tiny).succeeds().json();
    // tiny.toml: one layer of 16 over embeddings of 8, 4 streams of 8 tokens.
    assert_eq!(
        (&line["hidden"], &line["embedding"], &line["vocabulary"]),
        (&16.into(), &8.into(), &11.into())
    );
    about(operations(&line), 6.0 * 32.0 * (4.0 * 16.0 * 24.0 + 16.0 * 11.0));
    about(number(&line, "tokens_per_second"), 32.0 / number(&line, "milliseconds") * 1e3);
    assert!(line["outside_share"].is_null(), "it was not asked for: {line}");
    let parts = home.carousel(&format!("{tiny} --parts")).succeeds().json();
    about(
        number(&parts, "outside_share"),
        number(&parts, "outside_milliseconds") / number(&parts, "milliseconds"),
    );
    let parameters = 11 * 8 + 4 * 16 * (24 + 2) + 11 * 16 + 11;
    assert_eq!(line["parameters"], parameters);
    let wider =
        home.carousel(&format!("{tiny} --set model.hidden=32 --set train.optimizer=sgd")).succeeds().json();
    assert_eq!((&wider["hidden"], &wider["optimizer"]), (&32.into(), &"sgd".into()));
    let words =
        home.carousel(&format!("{tiny} --set data.tokens=word --set data.vocab_size=20")).succeeds().json();
    assert_eq!(words["vocabulary"], 11, "what is said last counts");
    let words = json(
        "model --set data.tokens=word --set data.vocab_size=20 --set model.hidden=8 --set train.batch=2",
    );
    assert_eq!(words["vocabulary"], 20);
}

#[test]
fn threads_and_level_are_as_asked() {
    let line = json("layer --shape 4,3,16 --threads 3 --level scalar");
    assert_eq!((&line["threads"], &line["level"]), (&3.into(), &"scalar".into()));
}

#[test]
fn a_table_says_what_ran_and_how_fast() {
    let home = Home::new();
    for (arguments, parts) in [
        (
            "layer --shape 4,3,16",
            ["LSTM, forward and backward, f32", "T 4, B 3, I 16, H 16", "12 real frames"],
        ),
        ("step --hidden 16 --cell rnn", ["RNN, f32", "B 1, I 16, H 16, 2 layers", "GB/s of weights"]),
        ("model tiny.toml", ["LSTM, training step", "B 4, T 8, adam", "tokens/s"]),
        (
            "translate --vocabulary 9,8 --lengths 2,4 --sentences 3 --set model.hidden=8",
            [
                "translate: LSTM, training step",
                "V 9 and 8, E 128, 1 layer of 8",
                "3 sentences of 2 to 4 tokens",
            ],
        ),
    ] {
        let shown = home.carousel(&format!("bench {arguments} --seconds 0")).succeeds().stdout;
        for part in
            parts.iter().chain(&["threads of", " ms, the median of 3 repetitions", "% of the FMA peak of"])
        {
            assert!(shown.contains(part), "{arguments}: no {part} in\n{shown}");
        }
        let long: Vec<&str> = shown.lines().filter(|line| line.chars().count() > 80).collect();
        assert_eq!(long, [""; 0], "{arguments}: wider than a terminal");
    }
}

#[test]
fn a_translator_counts_the_products_with_its_weights() {
    let sizes = "--vocabulary 9,8 --lengths 2,4 --sentences 3 --set model.cell=gru --set model.hidden=8 \
                 --set model.embedding=6";
    // Gates of both directions and of the decoder; combine reads two directions and the step; 8 tokens.
    let (encoder, decoder) = (2.0 * 24.0 * (6.0 + 8.0), 24.0 * (6.0 + 8.0) + 8.0 * 24.0 + 8.0 * 8.0);
    let line = json(&format!("translate {sizes}"));
    // Sentences of 2, 3 and 4 tokens: both ends beside the source, one beside the target.
    about(operations(&line), 6.0 * (encoder * 15.0 + decoder * 12.0));
    let line = json(&format!("translate {sizes} --mode decode --beam 2"));
    about(operations(&line), 2.0 * (encoder * 15.0 + decoder * 21.0));
    assert!(number(&line, "sentences_per_second") > 0.0);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let home = Home::new();
    let check = |arguments: &str, message: &[&str]| {
        home.carousel(&format!("bench {arguments}")).fails(2, message);
    };
    check("", &["Usage"]);
    check("layr", &["layer"]);
    for shape in ["64", "64,32", "64,32,256,1", "0,32,256", "64,-1,256", "64,32,x", "64,32,65537"] {
        check(&format!("layer --shape {shape}"), &["--shape", shape, "three whole numbers T,B,H"]);
    }
    check("layer --cell lstn", &["lstn", "lstm"]);
    check("layer --input 0", &["--input", "whole number from 1"]);
    check("layer --layers 0", &["--layers", "whole number from 1"]);
    check("layer --mode both", &["--mode"]);
    check("layer --seconds -1", &["--seconds"]);
    check("layer --seconds nan", &["--seconds", "from 0 to 3600"]);
    check("layer --level sse", &["--level"]);
    check("layer --threads 0", &["--threads", "1 to 64"]);
    check("layer --threads 65", &["--threads", "1 to 64"]);
    check("layer --shape 65536,65536,65536 --layers 9", &["GiB", "choose smaller sizes"]);
    check("step --hidden 65536 --layers 65536", &["GiB", "choose smaller sizes"]);
    check("model --set model.hidden=65536 --set model.layers=1000", &["GiB", "choose smaller sizes"]);
    check("model --set model.hiden=4", &["did you mean model.hidden?"]);
    check("model --vocabulary 0", &["--vocabulary", "whole number from 1"]);
    check("model --vocabulary 99999999999", &["--vocabulary", "10000000"]);
    check("translate lm", &["times translators", "lm"]);
    check("translate --vocabulary 5", &["--vocabulary", "two whole numbers"]);
    check("translate --vocabulary 4,9", &["--vocabulary from 5 on"]);
    check("translate --lengths 9,4", &["--lengths A,B with A from 1 to B"]);
    check("translate --beam 0", &["--beam", "1 to 1000"]);
    check(
        "translate --set model.hidden=65536 --vocabulary 1000000,1000000",
        &["GiB", "choose smaller sizes"],
    );
    check("model paint", &["paint is no task", "recipe file"]);
    check("model classify", &["times language models", "classify"]);
    home.carousel("bench model missing.toml").fails(1, &["could not read missing.toml"]);
}

#[test]
fn precisions_that_are_not_there_say_so() {
    let home = Home::new();
    home.carousel("bench layer --cell gru-before --precision bf16").fails(2, &["bf16", "f32"]);
    home.carousel("bench step --precision int4").fails(2, &["int4", "int8"]);
    home.carousel("bench layer --precision f64").fails(2, &["f64", "bf16"]);
}
