//! Classes for texts: training, measuring, answering, going on, and everything that files can have wrong.

mod support;

use serde_json::Value;
use support::{Array, Home, npz, parts};

const RECIPE: &str = "\
task = \"classify\"
[data]
tokens = \"word\"
split = [0.7, 0.2, 0.1]
[model]
hidden = 16
embedding = 8
[train]
epochs = 6
batch = 8
learning_rate = 0.02
log_every = 5
";

/// Texts whose class is told by one word somewhere in them.
fn reviews(count: usize) -> Vec<(String, &'static str)> {
    let fill = ["the", "film", "was", "rather", "long", "and", "set", "in", "town"];
    let telling = [("good", "pos"), ("fine", "pos"), ("bad", "neg"), ("dull", "neg"), ("so-so", "mixed")];
    (0..count)
        .map(|number| {
            let (word, class) = telling[number % telling.len()];
            let length = 1 + (number * 7) % 9;
            let mut words: Vec<&str> =
                (0..length).map(|step| fill[(number * 3 + step * 5) % fill.len()]).collect();
            words.insert((number * 11) % (length + 1), word);
            (words.join(" "), class)
        })
        .collect()
}

fn tsv(rows: &[(String, &str)]) -> String {
    let rows: String = rows.iter().map(|(text, class)| format!("{text}\t{class}\n")).collect();
    format!("text\tlabel\n{rows}")
}

fn home() -> Home {
    let home = Home::new();
    home.write("recipe.toml", RECIPE);
    home.write("reviews.tsv", tsv(&reviews(300)));
    home
}

fn trained() -> Home {
    let home = home();
    home.carousel("train recipe.toml --data reviews.tsv --out run").succeeds();
    home
}

#[test]
fn options_that_classes_have_no_use_for_are_refused() {
    let home = trained();
    home.carousel("eval run --data reviews.tsv --no-repeat 3")
        .fails(2, &["--no-repeat has no effect with a run of the task classify"]);
    home.carousel("predict run reviews.tsv --beam 3").fails(2, &["--beam has no effect"]);
}

/// Micro-batches of classes that weigh differently are one large batch.
#[test]
fn weighted_parts_of_a_batch_are_the_batch() {
    let home = home();
    let loss = |name: &str, keys: &str| {
        let classes = "--set train.class_weights=balanced --set train.log_every=1 --set train.steps=2";
        home.carousel(&format!("train recipe.toml --data reviews.tsv --out {name} {classes} {keys}"))
            .succeeds();
        let lines = home.read(&format!("{name}/metrics.jsonl"));
        let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
        let steps: Vec<Value> = lines.filter(|line| line["kind"] == "train").collect();
        ["loss", "gradient_norm"].map(|field| steps[0][field].as_f64().expect("a number"))
    };
    let whole = loss("whole", "--set train.batch=210");
    let parts = loss("parts", "--set train.batch=30 --set train.accumulate=7");
    for (whole, part) in whole.into_iter().zip(parts) {
        assert!((whole - part).abs() < 1e-4 * whole, "{whole} {part}");
    }
}

#[test]
fn classes_are_learned_measured_and_told() {
    let home = home();
    let said = home.carousel("train recipe.toml --data reviews.tsv --out run --json").succeeds();
    let summary = said.json();
    assert!(summary["accuracy"].as_f64() > Some(0.95), "{summary}");
    assert!(summary["macro_f1"].as_f64() > Some(0.95), "{summary}");
    assert!(summary["test_accuracy"].is_f64(), "{summary}");
    // Of those that answer most, the one with the lowest loss is kept.
    let metrics = home.read("run/metrics.jsonl");
    let lines = metrics.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let judged: Vec<(f64, f64)> = lines
        .filter(|line| line["kind"] == "valid")
        .map(|line| (line["accuracy"].as_f64().expect("a share"), line["loss"].as_f64().expect("nats")))
        .collect();
    let best = judged.iter().copied().reduce(|best, one| {
        match one.0 > best.0 || one.0 == best.0 && one.1 < best.1 {
            true => one,
            false => best,
        }
    });
    assert!(judged.iter().filter(|one| Some(one.0) == best.map(|best| best.0)).count() > 1, "{judged:?}");
    assert_eq!(summary["valid_loss"].as_f64(), best.map(|best| best.1), "{judged:?}");
    // What there is to learn from is told before it is learned from.
    assert!(said.stderr.contains("training         210 sequences of 2 to 10 steps"), "{}", said.stderr);
    for class in ["pos ", "neg ", "mixed "] {
        assert!(said.stderr.contains(class), "{}", said.stderr);
    }
    for line in said.stderr.lines().filter(|line| line.contains("validation")) {
        assert!(line.chars().count() <= 80, "{line}");
    }
    let report = home.read("run/report.html");
    assert!(report.contains("What was taken for what") && report.contains("test accuracy"));

    let measured = home.carousel("eval run --data reviews.tsv --json").succeeds().json();
    assert_eq!(measured["examples"], 300);
    assert!(measured["accuracy"].as_f64() > Some(0.95), "{measured}");
    let text = home.carousel("eval run --data reviews.tsv").succeeds().stdout;
    assert!(text.contains("balanced accuracy") && text.contains("is taken for"), "{text}");

    home.write("new.txt", "it was good\nit was bad\n\nso-so");
    let told = home.carousel("predict run new.txt").succeeds().stdout;
    let labels: Vec<&str> = told.lines().filter_map(|line| line.split('\t').next()).collect();
    assert_eq!(labels.len(), 4, "{told}");
    assert_eq!([labels[0], labels[1], labels[3]], ["pos", "neg", "mixed"], "{told}");
    // Tables are answered row by row, with classes or without; lines that only look like one as lines.
    home.write("new.csv", "text,stars\n\"it was\ngood\",1\nit was bad,2\n");
    home.write("new.jsonl", "{\"text\": \"it was good\"}\n\n{\"text\": \"it was bad\"}\n");
    home.write("lines.tsv", "it was good\nit was bad\n");
    home.write("table.txt", "id\ttext\n1\tit was good\n2\tit was bad\n");
    home.shell("gzip -k table.txt lines.tsv");
    for name in ["new.csv", "new.jsonl", "lines.tsv", "lines.tsv.gz", "table.txt", "table.txt.gz"] {
        let said = home.carousel(&format!("predict run {name}")).succeeds();
        let labels: Vec<&str> = said.stdout.lines().filter_map(|line| line.split('\t').next()).collect();
        assert_eq!(labels, ["pos", "neg"], "{name}");
        let is_told = said.stderr.contains("has no column \"text\"");
        assert_eq!(is_told, name.starts_with("lines.tsv"), "{}", said.stderr);
    }
    let told = home.carousel("predict run new.txt --json").succeeds().stdout;
    for line in told.lines() {
        let object: Value = serde_json::from_str(line).expect("a JSON object a line");
        let all = object["probabilities"].as_object().expect("one probability a class");
        let sum: f64 = all.values().filter_map(Value::as_f64).sum();
        assert!(all.len() == 3 && (sum - 1.0).abs() < 1e-4, "{object}");
    }
}

#[test]
fn files_that_hold_a_text_each_have_the_class_of_their_folder() {
    let home = home();
    for number in 0..60 {
        home.write(&format!("texts/good/{number}.txt"), format!("it was good,\nyes, {number} times"));
        home.write(&format!("texts/bad/{number}.txt"), format!("it was bad,\nno, {number} times"));
    }
    for memory in [64, 0] {
        let out = format!("--out folders-{memory} --set data.memory={memory}");
        let said = home.carousel(&format!("train recipe.toml --data texts --json {out}")).succeeds();
        assert!(said.json()["accuracy"].as_f64() > Some(0.95), "{}", said.stdout);
        assert!(said.stderr.contains("good "), "{}", said.stderr);
    }
    let measured = home.carousel("eval folders-64 --data texts --json").succeeds().json();
    assert_eq!(measured["examples"], 120);
    let told = home.carousel("predict folders-64 texts/good").succeeds().stdout;
    assert_eq!(told.lines().count(), 60);
    assert!(
        told.lines().all(|line| line.starts_with("texts/good/") && line.contains(".txt\tgood\t")),
        "{told}"
    );
    let told = home.carousel("predict folders-64 texts/good --json").succeeds().stdout;
    assert!(told.lines().all(|line| line.contains("\"place\":\"texts/good/")), "{told}");
    home.write("other/0.txt", b"caf\xe9");
    home.carousel("predict folders-64 other").fails(1, &["error: other/0.txt:1: the line is not UTF-8"]);
}

#[test]
fn every_form_of_table_and_kind_of_model_is_learned_from() {
    let home = home();
    let rows = reviews(300);
    let csv: String = rows.iter().map(|(text, class)| format!("{class},\"{text}\"\n")).collect();
    home.write("reviews.csv", format!("stars,review\n{csv}"));
    let json: String = rows
        .iter()
        .map(|(text, class)| format!("{}\n", serde_json::json!({"review": text, "stars": class})))
        .collect();
    home.write("reviews.jsonl", json);
    let check = |name: &str, arguments: &str| {
        let said = home.carousel(&format!("train recipe.toml --out {name} --json {arguments}")).succeeds();
        assert!(said.json()["accuracy"].as_f64() > Some(0.9), "{arguments}: {}", said.stdout);
        home.carousel(&format!("predict {name} text.txt")).succeeds();
    };
    let named = "--set data.text=review --set data.label=stars";
    check("csv", &format!("--data reviews.csv {named} --set model.cell=gru"));
    check("jsonl", &format!("--data reviews.jsonl {named} --set model.pooling=mean"));
    check("none", "--data reviews.tsv --set model.cell=none --set model.norm=layer --set train.epochs=20");
    let batch = "--set model.cell=none --set model.norm=batch --set model.dense_activation=randomized-relu";
    check("none-batch", &format!("--data reviews.tsv {batch} --set train.epochs=20"));
    check("batch-input", "--data reviews.tsv --set model.norm=batch-input");
    check("batch", "--data reviews.tsv --set model.cell=gru --set model.norm=batch-recurrent");
    check("minimal", "--data reviews.tsv --set model.cell=min-gru --set model.layers=2");
    check("minimal-causal", "--data reviews.tsv --set model.cell=min-lstm --set model.direction=forward");
    check("max", "--data reviews.tsv --set model.pooling=max --set train.class_weights=balanced");
    check("attention", "--data reviews.tsv --set model.pooling=attention --set train.label_smoothing=0.1");
    check("drop", "--data reviews.tsv --set model.input_dropout=0.1 --set model.output_dropout=0.1");
    check("causal", "--data reviews.tsv --set model.direction=forward --set train.metric=macro_f1");
    check("char", "--data reviews.tsv --set data.tokens=char --set model.cell=gru --set train.epochs=25");
}

#[test]
fn a_run_that_was_stopped_goes_on_to_the_bit() {
    let home = home();
    for given in [
        "--set model.input_dropout=0.2 --set train.accumulate=2",
        "--set model.cell=none --set model.norm=batch --set model.dense_activation=randomized-relu",
        "--set model.norm=batch-recurrent --set train.average=mean",
    ] {
        home.resumes_to_the_bit(&format!("train recipe.toml --data reviews.tsv {given}"), 17, 40);
    }
}

#[test]
fn a_live_pipe_is_answered_line_by_line() {
    let home = trained();
    let mut talk = home.talk("predict run");
    for (text, class) in [("it was good", "pos"), ("it was bad", "neg"), ("so-so", "mixed")] {
        talk.say(text);
        let answer = talk.hear();
        assert!(answer.starts_with(class), "{text}: {answer}");
    }
    assert_eq!(talk.ends(), [""; 0]);
}

#[test]
fn groups_stay_together_and_files_stay_apart() {
    let home = home();
    let rows: String = reviews(300)
        .iter()
        .enumerate()
        .map(|(number, (text, class))| format!("{text}\t{class}\tauthor {}\n", number / 100))
        .collect();
    home.write("grouped.tsv", format!("text\tlabel\tauthor\n{rows}"));
    let said = home
        .carousel(
            "train recipe.toml --data grouped.tsv --out grouped --set data.group=author --set train.epochs=1",
        )
        .succeeds();
    assert!(said.stderr.contains("validation       100 sequences"), "{}", said.stderr);
    home.write("other.tsv", tsv(&reviews(31)));
    let said = home
        .carousel("train recipe.toml --data reviews.tsv --valid other.tsv --out files --set train.epochs=1")
        .succeeds();
    assert!(said.stderr.contains("validation        31 sequences"), "{}", said.stderr);
}

#[test]
fn classes_of_one_example_are_learned_from() {
    let home = home();
    let rare: String = (0..6).map(|number| format!("an odd one\tlonely {number}\n")).collect();
    home.write("rare.tsv", tsv(&reviews(60)) + &rare);
    home.write("unlearned.tsv", "text\tlabel\na\tnever seen\n");
    for seed in [1, 2] {
        let train = format!("train recipe.toml --data rare.tsv --seed {seed} --set train.epochs=1");
        let said = home.carousel(&format!("{train} --out run{seed}")).succeeds();
        let [learned, valid, test] = parts(&said);
        assert!(learned >= 46 && valid <= 13 && test <= 7 && valid + test > 12, "{}", said.stderr);
        assert!((0..6).all(|number| {
            home.read(&format!("run{seed}/labels.json")).contains(&format!("lonely {number}"))
        }));
        // What is given apart says what it says.
        home.carousel(&format!("{train} --out no --test unlearned.tsv"))
            .fails(1, &["unlearned.tsv:2: \"never seen\" does not occur in the training part"]);
    }
}

#[test]
fn everything_wrong_with_a_file_is_named() {
    let home = home();
    let write = |name: &str, content: &[u8]| home.write(name, content);
    write("empty.tsv", b"");
    write("header.tsv", b"text\tlabel\n");
    write("short.tsv", b"text\tlabel\na\tx\nb\n");
    write("long.tsv", b"text\tlabel\na\tx\nb\ty\tz\n");
    write("quote.tsv", b"text\tlabel\n\"open\tx\nb\ty\n");
    write("comma.csv", b"text,label\na,x\n\"b, c\",y\n");
    write("latin1.tsv", b"text\tlabel\na\tx\ncaf\xe9\ty\n");
    write("twice.tsv", b"text\ttext\na\tx\n");
    write("unlabelled.tsv", b"text\tlabel\na\tx\nb\t\n");
    write("one.tsv", b"text\tlabel\na\tx\nb\tx\nc\tx\n");
    write("unknown.tsv", b"text\tlabel\na\tgreat\n");
    write("columns.tsv", b"document\tstars\na\tx\n");
    write("broken.jsonl", b"{\"text\": \"a\", \"label\": \"x\"}\n{\"text\": \n");
    write("array.jsonl", b"[1, 2]\n");
    write("missing.jsonl", b"{\"text\": \"a\", \"label\": \"x\"}\n{\"text\": \"b\"}\n");
    write("null.jsonl", b"{\"text\": \"a\", \"label\": null}\n");
    write("no.gz", b"not packed");
    std::fs::create_dir(home.path("folder")).expect("a folder");
    let check = |arguments: &str, expected: &[&str]| {
        home.carousel(&format!("train recipe.toml --out run {arguments}")).fails(1, expected);
        assert!(!home.exists("run"), "{arguments}: a run was left behind");
    };
    check("--data nowhere.tsv", &["could not read nowhere.tsv", "No such file"]);
    check("--data folder", &["folder is empty"]);
    check("--data no.gz", &["could not read no.gz"]);
    check("--data empty.tsv", &["empty.tsv is empty"]);
    check("--data header.tsv", &["header.tsv: it has no row below its header"]);
    check("--data short.tsv", &["short.tsv:3: 1 fields, expected 2"]);
    check("--data long.tsv", &["long.tsv:3: 3 fields, expected 2"]);
    check("--data quote.tsv", &["quote.tsv:2", "a quote mark may be open", "data.quoting=false"]);
    check("--data comma.csv --set data.quoting=false", &["comma.csv:3: 3 fields", "data.quoting=true"]);
    check("--data latin1.tsv", &["latin1.tsv:3", "not UTF-8"]);
    check("--data twice.tsv", &["twice.tsv:1", "\"text\" stands twice"]);
    check("--data unlabelled.tsv", &["unlabelled.tsv:3: the label is empty"]);
    check("--data one.tsv --set data.split=[1,0,0]", &["one class", "\"x\"", "expected at least two"]);
    check(
        "--data columns.tsv",
        &["columns.tsv: no column is named \"text\"", "document, stars", "data.text"],
    );
    check("--data columns.tsv --set data.text=document", &["no column is named \"label\"", "data.label"]);
    check("--data reviews.tsv --set data.group=author", &["no column is named \"author\"", "data.group"]);
    check(
        "--data reviews.tsv --valid unknown.tsv",
        &["unknown.tsv:2", "\"great\" does not occur", "mixed, neg, pos"],
    );
    check("--data reviews.tsv --test unknown.tsv", &["unknown.tsv:2", "\"great\" does not occur"]);
    check("--data broken.jsonl", &["broken.jsonl:2: no JSON"]);
    check("--data array.jsonl", &["array.jsonl:1: expected a JSON object"]);
    check("--data missing.jsonl", &["missing.jsonl:2: \"label\" is missing"]);
    check("--data null.jsonl", &["null.jsonl:1: \"label\" is missing"]);
    check(
        "--data reviews.tsv --set train.early_stop=2 --set data.split=[1,0,0]",
        &["train.early_stop", "--valid"],
    );
    check(
        "--data reviews.tsv --set train.metric=macro_f1 --set data.split=[1,0,0]",
        &["train.metric", "--valid"],
    );

    let check = |arguments: &str, expected: &[&str]| {
        home.carousel(&format!("train {arguments} --out run")).fails(2, expected);
    };
    check("classify", &["the task classify needs --data"]);
    check(
        "classify --data reviews.tsv --set model.hidden=65536 --set model.layers=1000",
        &["GiB", "choose smaller sizes"],
    );
    check("classify --data reviews.tsv --set data.label=", &["data.label is \"\", expected text"]);
    check(
        "classify --data reviews.tsv --set model.pooling=sum",
        &["expected one of last, mean, max, attention"],
    );
    check("lm --data text.txt --set model.cell=none", &["model.cell = \"none\" needs task = \"classify\""]);
    check("lm --data text.txt --set model.pooling=max", &["model.pooling has no effect"]);

    home.carousel("train recipe.toml --data reviews.tsv --out run --set train.epochs=1").succeeds();
    home.carousel("eval run --data unknown.tsv").fails(1, &["unknown.tsv:2", "\"great\""]);
    home.carousel("predict run nowhere.txt").fails(1, &["could not read nowhere.txt"]);
    home.carousel("predict nowhere text.txt").fails(1, &["nowhere is no run"]);
    home.carousel("sample run").fails(1, &["is a run of the task classify, expected lm"]);
    let said =
        home.shell(&format!("printf 'a\\nb\\377\\n' | {} predict run", env!("CARGO_BIN_EXE_carousel")));
    assert!(said.stderr.contains("stdin:2: the line is not UTF-8"), "{}", said.stderr);
    home.write("run/labels.json", "{\"classes\": [\"a\", \"a\"]}");
    home.carousel("predict run text.txt").fails(1, &["labels.json is damaged", "listed twice"]);
    std::fs::remove_file(home.path("run/labels.json")).expect("it is there");
    home.carousel("predict run text.txt").fails(1, &["labels.json is damaged or foreign", "No such file"]);
}

/// A WAV file: a tone of so many hertz.
fn tone(hertz: f64, seconds: f64) -> Vec<u8> {
    let samples: Vec<i16> = (0..(8000.0 * seconds) as usize)
        .map(|place| ((place as f64 * hertz * std::f64::consts::TAU / 8000.0).sin() * 8000.0) as i16)
        .collect();
    let size = samples.len() as u32 * 2;
    let mut bytes = Vec::new();
    bytes.extend(b"RIFF");
    bytes.extend((36 + size).to_le_bytes());
    bytes.extend(b"WAVEfmt ");
    bytes.extend(16_u32.to_le_bytes());
    for (value, wide) in [(1, false), (1, false), (8000, true), (16000, true), (2, false), (16, false)] {
        let value: u32 = value;
        bytes.extend(&value.to_le_bytes()[..if wide { 4 } else { 2 }]);
    }
    bytes.extend(b"data");
    bytes.extend(size.to_le_bytes());
    bytes.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
    bytes
}

/// A `.npy` file of float32 `[T, 2]`.
fn npy(values: &[[f32; 2]]) -> Vec<u8> {
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, 2), }}", values.len());
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(values.iter().flatten().flat_map(|value| value.to_le_bytes()));
    bytes
}

/// Two numbers a step that rise or fall.
fn series(number: usize, rising: bool) -> Vec<[f32; 2]> {
    (0..4 + number % 6)
        .map(|step| {
            let value = if rising { step as f32 } else { -(step as f32) };
            [1000.0 + value + (number % 3) as f32, 5.0]
        })
        .collect()
}

fn number_home() -> Home {
    let home = Home::new();
    home.write("recipe.toml", RECIPE.replace("tokens = \"word\"\n", "").replace("embedding = 8\n", ""));
    let mut long = "id,x,y,label\n".to_owned();
    let (mut x, mut y, mut lengths, mut who) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for number in 0..60 {
        for (rising, name) in [(true, "up"), (false, "down")] {
            let rows = series(number, rising);
            home.write(&format!("arrays/{name}/{number:02}.npy"), npy(&rows));
            x.extend(rows.iter().copied().chain([[0.0; 2]; 9]).take(9).flatten());
            y.push(i64::from(rising));
            lengths.push(rows.len() as i64);
            who.push(number as i64 / 20);
            let lines: String = rows.iter().map(|[x, y]| format!("{x},{y}\n")).collect();
            home.write(&format!("tables/{name}/{number:02}.csv"), format!("x,y\n{lines}"));
            rows.iter().for_each(|[x, y]| long.push_str(&format!("{number}{name},{x},{y},{name}\n")));
            let hertz = if rising { 500.0 } else { 1500.0 } + 3.0 * number as f64;
            home.write(
                &format!("sounds/{name}_{number:02}.wav"),
                tone(hertz, 0.1 + 0.01 * (number % 5) as f64),
            );
        }
    }
    home.write("long.csv", long);
    let (x, y) = (Array::Floats("x", &[120, 9, 2], x), Array::Whole("y", &[120], y));
    let (lengths, who) = (Array::Whole("lengths", &[120], lengths), Array::Whole("who", &[120], who));
    home.write("all.npz", npz(&[x, y, lengths, who]));
    home
}

#[test]
fn sequences_of_numbers_and_sound_are_learned_from() {
    let home = number_home();
    let check = |name: &str, arguments: &str, example: &str, class: &str| {
        let said = home.carousel(&format!("train recipe.toml --out {name} --json {arguments}")).succeeds();
        assert!(said.json()["accuracy"].as_f64() > Some(0.95), "{arguments}: {}", said.stdout);
        let told = home.carousel(&format!("predict {name} {example}")).succeeds().stdout;
        // A table begins with its header.
        let line = if example.ends_with(".csv") { 2 } else { 1 };
        assert!(told.starts_with(&format!("{example}:{line}\t{class}\t")), "{told}");
        home.carousel(&format!("predict {name}")).fails(2, &["name the files"]);
    };
    check("npy", "--data arrays --set data.input=numbers", "arrays/up/07.npy", "up");
    check("csv", "--data tables --set data.input=numbers", "tables/down/07.csv", "down");
    check(
        "wav",
        "--data sounds --set data.input=audio --set data.file_label=^([a-z]+)_",
        "sounds/up_07.wav",
        "up",
    );
    check(
        "mfcc",
        "--data sounds --set data.input=audio --set data.file_label=^([a-z]+)_ --set data.sound=mfcc",
        "sounds/down_07.wav",
        "down",
    );
    check("npz", "--data all.npz --set data.input=numbers", "all.npz", "1");
    // Two archives side by side are one set; what is answered needs no classes.
    let rising: Vec<f32> = series(3, true).into_iter().flatten().collect();
    home.write("new.npz", npz(&[Array::Floats("x", &[1, rising.len() as u64 / 2, 2], rising)]));
    let told = home.carousel("predict npz new.npz all.npz").succeeds().stdout;
    assert!(told.starts_with("new.npz:1\t1\t") && told.lines().count() == 121, "{told}");
    home.carousel("eval npz --data new.npz").fails(1, &["new.npz: it has no array \"y\"", "found x"]);
    let measured = home.carousel("eval npz --data all.npz --json").succeeds().json();
    assert_eq!(measured["examples"], 120, "{measured}");
    // What becomes of sound is told in the recipe, and a run keeps to it.
    let bands = |run: &str| home.read(&format!("{run}/labels.json")).matches(',').count();
    assert!(bands("mfcc") < bands("wav"), "13 coefficients in place of 40 bands");
    let refused = "train recipe.toml --data arrays --out no --set data.input=numbers --set data.tokens=word";
    home.carousel(refused).fails(2, &["data.tokens has no effect with data.input = \"numbers\""]);
    let long =
        "train recipe.toml --data long.csv --set data.input=numbers --set data.id=id --out long --json";
    let said = home.carousel(long).succeeds();
    assert!(said.json()["accuracy"].as_f64() > Some(0.95), "{}", said.stdout);
    let measured = home.carousel("eval long --data long.csv --json").succeeds().json();
    assert_eq!(measured["examples"], 120);
}

#[test]
fn steps_are_brought_into_order() {
    let home = number_home();
    let mut rows: Vec<String> = Vec::new();
    for (place, line) in home.read("long.csv").lines().skip(1).enumerate() {
        rows.push(format!("{line},{place}\n"));
    }
    home.write("ordered.csv", format!("id,x,y,label,t\n{}", rows.concat()));
    rows.reverse();
    home.write("backward.csv", format!("id,x,y,label,t\n{}", rows.concat()));
    let train = "train recipe.toml --data ordered.csv --set data.input=numbers --set data.id=id --out run \
                 --set data.step=t --set train.epochs=2";
    home.carousel(train).succeeds();
    let measured = |data: &str| home.carousel(&format!("eval run --data {data} --json")).succeeds().json();
    let [one, other] =
        ["ordered.csv", "backward.csv"].map(|data| measured(data)["loss"].as_f64().unwrap_or(f64::NAN));
    assert!((one - other).abs() < 1e-9, "{one} in order, {other} backward");
}

#[test]
fn groups_of_numbers_and_sound_stay_together() {
    let home = number_home();
    let long = home.read("long.csv");
    let with = |line: &str| {
        let number: String = line.chars().take_while(char::is_ascii_digit).collect();
        format!(
            "{line},{}\n",
            number.parse::<usize>().map_or("who".to_owned(), |number| format!("p{}", number / 20))
        )
    };
    home.write("who.csv", long.lines().map(with).collect::<String>());
    let train = |name: &str, more: &str| {
        home.carousel(&format!("train recipe.toml --out {name} --set train.epochs=1 {more}"))
    };
    // Three groups of 40, or six of 20 where the name says it by its first digit; 120 drawn one by one are 84, 24, 12.
    let check = |name: &str, more: &str, size: usize| {
        let found = parts(&train(name, more).succeeds());
        assert_eq!(found.iter().sum::<usize>(), 120, "{more}: {found:?}");
        assert!(found.iter().all(|count| count % size == 0), "{more}: {found:?}");
    };
    let numbers = "--set data.input=numbers";
    let sound = "--data sounds --set data.input=audio --set data.file_label=^([a-z]+)_";
    assert_eq!(parts(&train("alone", sound).succeeds()), [84, 24, 12]);
    check("by-column", &format!("--data who.csv {numbers} --set data.id=id --set data.group=who"), 40);
    check("by-archive", &format!("--data all.npz {numbers} --set data.group=who"), 40);
    check("by-name", &format!("{sound} --set data.file_group=_([0-9])"), 20);
    check("by-file", &format!("--data arrays {numbers} --set data.file_group=^([0-9])"), 20);
    // The group is no value of a step, and what is measured or answered need not have it.
    home.carousel("eval by-column --data long.csv").succeeds();
    home.carousel("predict by-column long.csv").succeeds();
    train("no", &format!("--data arrays {numbers} --set data.group=who"))
        .fails(1, &["arrays/down/00.npy: no column is named \"who\"", "data.file_group"]);
    train("no", &format!("{sound} --set data.group=who"))
        .fails(2, &["data.group has no effect with data.input = \"audio\""]);
    train("no", &format!("{sound} --set data.file_group=^([0-9])"))
        .fails(1, &["sounds/down_00.wav: data.file_group", "does not match its name"]);
}

#[test]
fn everything_wrong_with_numbers_is_named() {
    let home = number_home();
    home.write("a/words.csv", "x,y\n1,2\n3,four\n");
    home.write("a/hole.csv", "x,y\n1,2\n3,\n");
    home.write("a/nan.csv", "x,y\n1,2\nnan,1\n");
    home.write("a/text.npy", "no array");
    home.write("a/nan.npy", npy(&[[1.0, 2.0], [f32::NAN, 1.0]]));
    home.write("a/text.wav", "no sound");
    home.write("a/cut.wav", &tone(500.0, 0.1)[..500]);
    home.write("two.csv", "id,x,label\na,1,up\na,2,down\n");
    home.write("plain.csv", "x,y\n1,2\n");
    home.write("bare.csv", "id,label\na,up\nb,down\n");
    home.write("wide/up/a.csv", "x,y,z\n1,2,3\n");
    home.write("b/narrow.csv", "x,y\n1,2\n3\n");
    let check = |arguments: &str, expected: &[&str]| {
        home.carousel(&format!("train recipe.toml --out run {arguments}")).fails(1, expected);
        assert!(!home.exists("run"), "{arguments}: a run was left behind");
    };
    let numbers = "--set data.input=numbers";
    check(
        &format!("--data a/words.csv {numbers}"),
        &["a/words.csv:3: column \"y\" is \"four\", expected a number"],
    );
    check(
        &format!("--data a/hole.csv {numbers}"),
        &["a/hole.csv:3: column \"y\" is \"\", expected a number"],
    );
    check(
        &format!("--data a/nan.csv {numbers}"),
        &["a/nan.csv:3: column \"x\" is \"nan\", expected a finite number"],
    );
    check(&format!("--data b/narrow.csv {numbers}"), &["b/narrow.csv:3: 1 fields, expected 2"]);
    check(&format!("--data a/text.npy {numbers}"), &["a/text.npy: no .npy file that can be read"]);
    check(&format!("--data a/nan.npy {numbers}"), &["a/nan.npy: step 1 has a value that is not a number"]);
    check("--data a/text.wav --set data.input=audio", &["a/text.wav: no WAV file that can be read"]);
    check("--data a/cut.wav --set data.input=audio", &["a/cut.wav: "]);
    check(
        &format!("--data two.csv {numbers} --set data.id=id"),
        &["two.csv:3: sequence \"a\" has the class \"down\", but \"up\" on line 2"],
    );
    check(
        &format!("--data two.csv {numbers} --set data.id=series"),
        &["no column is named \"series\"", "data.id"],
    );
    check(&format!("--data bare.csv {numbers} --set data.id=id"), &["bare.csv: it has no column of values"]);
    check(
        &format!("--data arrays wide {numbers}"),
        &["expected 2 as in the training part", "3 values a step"],
    );
    check(&format!("--data two.csv {numbers}"), &["two.csv:2: column \"id\" is \"a\", expected a number"]);
    check(&format!("--data plain.csv {numbers}"), &["plain.csv: it lies in no folder", "data.file_label"]);
    check(
        "--data sounds --set data.input=audio --set data.file_label=^([0-9])_",
        &["does not match its name"],
    );
    check(
        "--data sounds --set data.input=audio --set data.file_label=up",
        &["it has no group in parentheses"],
    );
    check("--data sounds --set data.input=audio --set data.file_label=(", &["data.file_label is \"(\""]);
}
