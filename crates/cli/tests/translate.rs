//! From text to text: preparing, training, translating, measuring, going on, and everything that files can have wrong.

mod support;

use serde_json::Value;
use support::Home;

const RECIPE: &str = "\
task = \"translate\"
[data]
split = [0.8, 0.1, 0.1]
[model]
hidden = 24
embedding = 12
[train]
epochs = 25
batch = 16
learning_rate = 0.02
log_every = 20
";

/// Sentences and their translations: every word has one, the order turns round, some words become two.
fn pairs(count: usize) -> Vec<(String, String)> {
    let words = [("le", "the"), ("chat", "cat"), ("noir", "dark black"), ("dort", "sleeps"), ("ici", "here")];
    (0..count)
        .map(|number| {
            let length = 1 + number % 4;
            let chosen: Vec<_> =
                (0..length).map(|place| words[(number / 4 + place * (1 + number / 20)) % 5]).collect();
            let source: Vec<&str> = chosen.iter().map(|word| word.0).collect();
            let target: Vec<&str> = chosen.iter().rev().map(|word| word.1).collect();
            (format!("{}.", source.join(" ")), format!("{}!", target.join(" ")))
        })
        .collect()
}

fn columns(pairs: &[(String, String)]) -> String {
    pairs.iter().map(|(source, target)| format!("{source}\t{target}\n")).collect()
}

fn home() -> Home {
    let home = Home::new();
    home.write("recipe.toml", RECIPE);
    home.write("pairs.tsv", columns(&pairs(300)));
    home
}

#[test]
fn a_language_is_learned_measured_and_spoken() {
    let home = home();
    let said = home.carousel("train recipe.toml --data pairs.tsv --out run --json").succeeds();
    let summary = said.json();
    assert!(summary["exact_match"].as_f64() > Some(0.8), "{summary}");
    assert!(summary["bleu"].as_f64() > Some(80.0), "{summary}");
    assert!(summary["test_bleu"].as_f64() > Some(80.0), "{summary}");
    assert!(said.stderr.contains("places"), "{}", said.stderr);

    let measured = home.carousel("eval run --data pairs.tsv --json").succeeds().json();
    assert!(measured["bleu"].as_f64() > Some(90.0), "{measured}");
    assert!(measured["perplexity"].as_f64() <= measured["free_perplexity"].as_f64(), "{measured}");
    let text = home.carousel("eval run --data pairs.tsv --beam 1").succeeds().stdout;
    for part in [
        "teacher-forced perplexity",
        "free-running perplexity",
        "BLEU = ",
        "BLEU μ = ",
        "95 % of 1000 resamples from ",
        "nrefs:",
        "tok:13a",
        "chrF2",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }

    // In order, an empty line for an empty line; predict says the same.
    home.write("in.txt", "chat noir.\n\nici.\nchat noir.\n");
    let told = home.carousel("translate run in.txt").succeeds().stdout;
    assert_eq!(told, "dark black cat!\n\nhere!\ndark black cat!\n");
    assert_eq!(home.carousel("predict run in.txt").succeeds().stdout, told);
    home.write("marked.txt", "\u{feff}chat noir.\r\n\nici.\nchat noir.");
    assert_eq!(home.carousel("translate run marked.txt").succeeds().stdout, told);
    assert_eq!(home.carousel("translate run in.txt --beam 1").succeeds().stdout, told);
    let best = home.carousel("translate run in.txt --best 2").succeeds().stdout;
    assert!(best.lines().next().is_some_and(|line| line.ends_with("\tdark black cat!")), "{best}");
    home.carousel("translate run in.txt --best 2 --beam 1").fails(2, &["--best 2", "--beam 1"]);
    let forced = home.carousel("translate run in.txt --prefix here").succeeds().stdout;
    assert!(forced.lines().filter(|line| !line.is_empty()).all(|line| line.starts_with("here")), "{forced}");
    // A word of the prefix that the run does not know stands there all the same.
    let forced = home.carousel("translate run in.txt --prefix Quux --keep-unknown").succeeds().stdout;
    assert!(forced.lines().filter(|line| !line.is_empty()).all(|line| line.starts_with("Quux")), "{forced}");
    let json = home.carousel("translate run in.txt --json").succeeds().stdout;
    let first: Value = serde_json::from_str(json.lines().next().unwrap_or_default()).expect("JSON");
    assert_eq!(first["text"], "dark black cat!");
    assert_eq!(first["best"][0]["tokens"].as_array().map(Vec::len), Some(5));
    assert!((0.0..=1.0).contains(&first["probability"].as_f64().expect("a number")), "{first}");
    assert_eq!(home.carousel("predict run in.txt --json").succeeds().stdout, json);
}

#[test]
fn what_was_looked_at_is_shown() {
    let home = home();
    home.carousel("train recipe.toml --data pairs.tsv --out run").succeeds();
    home.write("in.txt", "\nchat noir.\nici le <b>.\n");
    let said =
        home.carousel("inspect attention run --data in.txt --html page.html --pictures pictures").succeeds();
    assert!(said.stdout.contains("from noir"), "{}", said.stdout);
    assert!(said.stdout.lines().all(|line| line.chars().count() <= 80), "{}", said.stdout);
    let page = home.read("page.html");
    assert_eq!(page.matches("<svg").count(), 2);
    assert!(!page.contains("<b>") && !page.contains("http://localhost"));
    assert_eq!(home.files("pictures"), ["pictures/1.svg", "pictures/2.svg"]);
    let told = home.carousel("inspect attention run --data in.txt --json").succeeds().json();
    let first = &told["sentences"][0];
    let row: Vec<f64> = serde_json::from_value(first["attention"][0].clone()).expect("numbers");
    assert_eq!(Some(row.len()), first["source_tokens"].as_array().map(Vec::len));
    assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-4);
    let report = home.read("run/report.html");
    assert!(report.contains("What it translated") && report.contains("class=\"tokens\""));

    home.carousel(
        "train recipe.toml --data pairs.tsv --out blind --set model.attention=none --set train.epochs=1",
    )
    .succeeds();
    home.carousel("inspect attention blind --data in.txt").fails(1, &["has no attention"]);
    home.write("blank.txt", "\n\n");
    home.carousel("inspect attention run --data blank.txt").fails(1, &["no line with text"]);
}

#[test]
fn every_form_and_kind_of_model_is_learned_from() {
    let home = home();
    let sides = pairs(300);
    home.write("all.fr", sides.iter().map(|pair| pair.0.clone() + "\n").collect::<String>());
    home.write("all.en", sides.iter().map(|pair| pair.1.clone() + "\n").collect::<String>());
    let check = |name: &str, arguments: &str, least: f64| {
        let said = home.carousel(&format!("train recipe.toml --out {name} --json {arguments}")).succeeds();
        let found = said.json()["exact_match"].as_f64();
        assert!(found > Some(least), "{arguments}: {}", said.stdout);
        assert!(!home.carousel(&format!("translate {name} all.fr")).succeeds().stdout.is_empty());
    };
    check("files", "--data all.fr all.en", 0.7);
    check("gru", "--data pairs.tsv --set model.cell=gru --set model.attention=additive", 0.7);
    check("dot", "--data pairs.tsv --set model.attention=dot --set train.batch_tokens=200", 0.7);
    check("scaled", "--data pairs.tsv --set model.attention=scaled-dot --set model.bridge=zero", 0.3);
    let plain = "--set model.attention=none --set data.reverse_source=true --set model.direction=forward";
    check("plain", &format!("--data pairs.tsv {plain}"), 0.3);
    let tied = "--set model.tie_embeddings=true --set model.embedding=24 --set data.joint_vocab=true \
                --set model.share_embeddings=true";
    check("tied", &format!("--data pairs.tsv {tied}"), 0.5);
    check(
        "bpe",
        "--data pairs.tsv --set data.tokens=bpe --set data.vocab_size=280 --set data.min_count=3 \
         --set model.hidden=48 --set train.learning_rate=0.005 --set train.epochs=60",
        0.3,
    );
    let deep = "--set model.layers=2 --set model.residual=true --set model.dropout=0.1 \
                --set model.output_dropout=0.1 --set model.bridge=copy --set train.metric=bleu";
    check("deep", &format!("--data pairs.tsv {deep}"), 0.3);
    let sampled = "--set train.sampling=linear --set train.sampling_steps=200 --set train.teacher_forcing=0.5 \
                   --set train.label_smoothing=0.1 --set train.average=exponential --set train.average_decay=0.9";
    check("sampled", &format!("--data pairs.tsv {sampled}"), 0.5);
    let dropped = "--set model.recurrent_dropout=0.05 --set model.update_dropout=0.05 --set model.zoneout=0.05 \
                   --set model.zoneout_cell=0.05 --set train.activation_penalty=0.01 \
                   --set train.temporal_penalty=0.01 --set model.hidden=48 --set train.epochs=50";
    check("dropped", &format!("--data pairs.tsv {dropped}"), 0.3);
    check("fed", "--data pairs.tsv --set model.input_feeding=true", 0.5);
    check(
        "chars",
        "--data pairs.tsv --set data.source_tokens=char --set data.lowercase=true --set train.epochs=50",
        0.3,
    );
}

#[test]
fn a_run_that_was_stopped_goes_on_to_the_bit() {
    let home = home();
    let more = "--set model.output_dropout=0.2 --set train.sampling=exponential --set train.sampling_steps=20 \
                --set train.batch_tokens=150";
    home.resumes_to_the_bit(&format!("train recipe.toml --data pairs.tsv {more}"), 23, 60);
}

#[test]
fn a_prepared_set_is_shown_and_learned_from() {
    let home = home();
    home.write("some.tsv", format!("{}\t\nle\t\n{}\n", columns(&pairs(40)), "le ".repeat(30) + "\tthe"));
    let prepare = "prepare recipe.toml --data some.tsv --set data.max_len=8 --set data.split=[1.0,0.0,0.0]";
    let said = home.carousel(&format!("{prepare} --out set --json")).succeeds().json();
    assert_eq!(
        said["train"]["pairs"].as_u64().zip(said["train"]["empty"].as_u64()),
        Some((said["train"]["pairs"].as_u64().unwrap_or(0), 2))
    );
    let (kept, dropped) = (said["train"]["pairs"].as_u64(), said["train"]["dropped"].as_u64());
    assert_eq!(kept.zip(dropped).map(|(kept, dropped)| kept + dropped), Some(41), "{said}");
    assert!(dropped >= Some(1), "{said}");
    let shown = home.carousel("prepare --show 2 set").succeeds().stdout;
    for part in [
        "<sos> le ￭. <eos>",
        "ids     2 ",
        "2 tokens, 4 places",
        "the first batch",
        "padding",
        "2 empty",
        "■ ■",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
    home.carousel(&format!("{prepare} --out set")).fails(2, &["set exists"]);

    // What is learned from the set is what is learned from its files.
    let keys = "--set data.max_len=8 --set data.split=[1.0,0.0,0.0] --set train.epochs=2";
    home.carousel(&format!("train recipe.toml --data set --out a {keys}")).succeeds();
    home.carousel(&format!("train recipe.toml --data some.tsv --out b {keys}")).succeeds();
    assert!(home.weights("a") == home.weights("b"));
    home.carousel("train recipe.toml --data set --out c").fails(
        1,
        &[
            "set/prepared.json: data.",
            " is ",
            ", the set was prepared with ",
            "or train with its recipe.toml",
        ],
    );
    // Where only the task is named, the set brings its keys along.
    home.carousel("train translate --data set --out brought --set train.epochs=1").succeeds();
    home.carousel(&format!("train recipe.toml --data set --valid some.tsv --out c {keys}"))
        .fails(1, &["holds its own validation and test parts"]);
    home.carousel("eval a --data set").fails(1, &["set/prepared.json", "a prepared set, expected pairs"]);
    let first = home.read("set/train.jsonl").lines().next().unwrap_or_default().replace("[2,", "[99999,");
    home.write("set/train.jsonl", first);
    home.carousel("prepare --show 1 set")
        .fails(1, &["train.jsonl:1", "ids that the vocabulary does not have"]);
    home.write("set/prepared.json", "{");
    home.carousel("prepare --show 1 set").fails(1, &["prepared.json", "EOF"]);
    assert!(!home.exists("c"));
}

#[test]
fn everything_wrong_with_input_is_named() {
    let home = home();
    home.write("tabs.tsv", "a\tb\nno tab\n");
    home.write("a.txt", "x\ny\n");
    home.write("b.txt", "x\n");
    home.write("blank.tsv", "\t\n \t \n");
    home.write("bytes.tsv", b"a\tb\n\xff\tb\n");
    home.write("long.tsv", format!("{}{}\tx\n", columns(&pairs(40)), "le ".repeat(100_000)));
    let fails = |data: &str, more: &str, message: &[&str]| {
        home.carousel(&format!("train recipe.toml --data {data} --out bad {more}")).fails(1, message);
        assert!(!home.exists("bad"), "{data}");
    };
    fails("tabs.tsv", "", &["tabs.tsv:2: 1 column between tabs, expected at least 2"]);
    fails("a.txt b.txt", "", &["b.txt:2: no line 2 beside that of a.txt", "a.txt has 2 lines, b.txt has 1"]);
    fails("blank.tsv", "", &["blank.tsv: it has no pair with text on both sides"]);
    fails("bytes.tsv", "", &["bytes.tsv:2: the line is not UTF-8"]);
    fails("pairs.tsv", "--set data.target=3", &["pairs.tsv:1: 2 columns between tabs, expected at least 3"]);
    fails(
        "long.tsv",
        "--set data.max_len=auto",
        &["long.tsv:41: a sentence of 100000 tokens", "data.max_len"],
    );
    fails("pairs.tsv", "--set data.max_len=3", &["no pair of the training part is left"]);
    let said = home.carousel("train recipe.toml --data long.tsv --out long --set train.epochs=1").succeeds();
    assert!(
        said.stderr.contains("1 too long, left out") || said.stderr.contains("too long, cut"),
        "{}",
        said.stderr
    );

    let usage = |set: &str, message: &[&str]| {
        home.carousel(&format!("train recipe.toml --data pairs.tsv --out bad {set}")).fails(2, message);
    };
    usage("--set data.tokens=byte", &["tokens of text"]);
    usage("--set data.max_len=2", &["data.max_len is 2, expected auto, a whole number from 3"]);
    usage("--set model.share_embeddings=true", &["data.joint_vocab"]);
    usage("--set model.attention=none --set model.bridge=zero", &["tells the decoder nothing"]);
    let fed = "--set model.input_feeding=true";
    usage(&format!("{fed} --set model.attention=none"), &["model.input_feeding has no effect"]);
    usage(&format!("{fed} --set model.weight_dropout=0.1"), &["whose masks last"]);
    usage("--set train.metric=span_f1", &["expected loss, bleu or exact_match"]);
    home.carousel("train translate").fails(2, &["needs --data"]);
    home.carousel("prepare --data pairs.tsv").fails(2, &["prepare needs --out"]);
    home.carousel("prepare").fails(2, &["prepare needs --data"]);

    home.carousel("train recipe.toml --data pairs.tsv --out run --set train.epochs=3").succeeds();
    home.write("foreign.txt", "건너편 마을\n");
    let said = home.carousel("translate run foreign.txt").succeeds();
    assert_eq!(said.stdout.lines().count(), 1);
    assert!(said.stderr.contains("is this the language it reads?"), "{}", said.stderr);
    home.write("huge.txt", "le ".repeat(100_000));
    let said = home.carousel("translate run huge.txt").succeeds();
    assert!(said.stderr.contains("1 lines were longer than the run reads"), "{}", said.stderr);
    home.write("other.tsv", "마을\tvillage\n");
    home.carousel("eval run --data other.tsv")
        .fails(1, &["not one token of the sources is in the run's vocabulary"]);
    home.carousel("translate run in.txt --penalty mean").fails(2, &["expected average, none, wu"]);
    home.carousel("translate run nowhere.txt").fails(1, &["could not read nowhere.txt"]);
    home.write("run/source.vocab.json", "{}");
    home.carousel("translate run foreign.txt").fails(1, &["damaged"]);
    home.carousel("train tiny.toml --data text.txt --out lm").succeeds();
    home.carousel("translate lm foreign.txt").fails(1, &["is a run of the task lm, expected translate"]);
}
