//! A label for every word: training, measuring, answering, going on, and everything that files can have wrong.

mod support;

use serde_json::Value;
use support::{Home, parts};

const RECIPE: &str = "\
task = \"tag\"
[data]
split = [0.7, 0.2, 0.1]
[model]
hidden = 16
embedding = 12
[train]
epochs = 12
batch = 8
learning_rate = 0.02
log_every = 20
";

/// Requests: words, tags, and what is wanted.
fn requests(count: usize) -> Vec<(String, String, &'static str)> {
    let (first, second) = (["blue", "red", "old", "new"], ["moon", "river", "town"]);
    (0..count)
        .map(|number| {
            let (a, b) = (first[number % 4], second[(number / 4) % 3]);
            match number % 3 {
                0 => (format!("play {a} {b} now"), "O B-song I-song O".to_owned(), "play"),
                1 => (format!("go to {b}"), "O O B-place".to_owned(), "go"),
                _ => (format!("i want {a} {b} please"), "O O B-song I-song O".to_owned(), "play"),
            }
        })
        .collect()
}

fn write_folder(home: &Home, folder: &str, rows: &[(String, String, &str)]) {
    let lines = |of: &dyn Fn(&(String, String, &str)) -> String| -> String {
        rows.iter().map(|row| of(row) + "\n").collect()
    };
    home.write(&format!("{folder}/seq.in"), lines(&|row| row.0.clone()));
    home.write(&format!("{folder}/seq.out"), lines(&|row| row.1.clone()));
    home.write(&format!("{folder}/label"), lines(&|row| row.2.to_owned()));
}

fn columns(rows: &[(String, String, &str)]) -> String {
    let sentence = |(words, tags, _): &(String, String, &str)| -> String {
        let pairs = words.split(' ').zip(tags.split(' '));
        pairs.map(|(word, tag)| format!("{word} {tag}\n")).collect::<String>() + "\n"
    };
    rows.iter().map(sentence).collect()
}

fn home() -> Home {
    let home = Home::new();
    home.write("recipe.toml", RECIPE);
    write_folder(&home, "all", &requests(240));
    home.write("train.conll", columns(&requests(240)));
    home
}

#[test]
fn tags_and_intents_are_learned_measured_and_told() {
    let home = home();
    let said = home.carousel("train recipe.toml --data all --out run --json").succeeds();
    let summary = said.json();
    for score in ["span_f1", "accuracy", "intent_accuracy", "test_span_f1"] {
        assert!(summary[score].as_f64() > Some(0.95), "{score}: {summary}");
    }
    assert!(said.stderr.contains("training         168 sequences of 3 to 5 steps"), "{}", said.stderr);
    assert!(said.stderr.contains(" words/s"), "{}", said.stderr);
    assert!(home.read("run/report.html").contains("What was taken for what"));

    let measured = home.carousel("eval run --data all --json").succeeds().json();
    assert_eq!(measured["sentences"], 240);
    assert!(measured["span_f1"].as_f64() > Some(0.95), "{measured}");
    let text = home.carousel("eval run --data all").succeeds().stdout;
    assert!(text.contains("span F1") && text.contains("intent accuracy"), "{text}");

    home.write("new.txt", "play blue moon now\ngo to town\n\n");
    let told = home.carousel("predict run new.txt").succeeds().stdout;
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines[..2], ["play\tO B-song I-song O", "go\tO O B-place"], "{told}");
    assert_eq!(lines.len(), 3, "{told}");
    home.write("new.conll", "play _\nblue _\nmoon _\nnow _\n\ngo _\nto _\ntown _\n");
    let columns = home.carousel("predict run new.conll").succeeds().stdout;
    assert_eq!(columns.lines().collect::<Vec<_>>(), lines[..2]);
    let told = home.carousel("predict run new.txt --json").succeeds().stdout;
    let object: Value = serde_json::from_str(told.lines().next().unwrap_or_default()).expect("JSON");
    assert_eq!(object["tags"], serde_json::json!(["O", "B-song", "I-song", "O"]));
    assert_eq!(object["intent"], "play");
}

#[test]
fn smoothed_intents_are_less_sure_and_as_right() {
    let home = home();
    // Of two intents each takes half of what is spread: the likeliest cannot be surer than 1 - 0.4 / 2.
    let sure = |name: &str, more: &str| {
        let said =
            home.carousel(&format!("train recipe.toml --data all --out {name} --json {more}")).succeeds();
        assert!(said.json()["intent_accuracy"].as_f64() > Some(0.95), "{more}: {}", said.stdout);
        home.write("new.txt", "play blue moon now\n");
        let told = home.carousel(&format!("predict {name} new.txt --json")).succeeds().json();
        assert_eq!(told["intent"], "play", "{told}");
        told["intent_probability"].as_f64().unwrap_or_default()
    };
    let (plain, smooth) = (sure("plain", ""), sure("smooth", "--set train.label_smoothing=0.4"));
    assert!(plain > 0.97 && (0.7..0.9).contains(&smooth), "{plain} without, {smooth} with");
}

#[test]
fn sentences_of_a_file_stay_together() {
    let home = home();
    let rows = requests(240);
    for (name, part) in [("one", 0..100), ("two", 100..180), ("three", 180..240)] {
        home.write(&format!("news/{name}.conll"), columns(&rows[part]));
    }
    let train = |more: &str| {
        let out = home.path("news-run");
        let _ = std::fs::remove_dir_all(out);
        home.carousel(&format!("train recipe.toml --data news --out news-run --set train.epochs=1 {more}"))
    };
    assert_eq!(parts(&train("").succeeds()), [168, 48, 24]);
    let mut found = parts(&train("--set data.file_group=(.*)").succeeds());
    assert!(found[0] >= 100, "{found:?}");
    found.sort_unstable();
    assert!([[60, 80, 100], [0, 60, 180], [0, 80, 160], [0, 100, 140]].contains(&found), "{found:?}");
    train("--set data.group=file").fails(2, &["data.group has no effect on words", "data.file_group"]);
}

#[test]
fn every_form_and_kind_of_model_is_learned_from() {
    let home = home();
    let conllu: String = requests(240)
        .iter()
        .map(|(words, tags, _)| {
            let rows = words.split(' ').zip(tags.split(' ')).enumerate();
            let row = |(place, (word, tag)): (usize, (&str, &str))| {
                format!("{}\t{word}\t_\t{tag}\t_\t_\t_\t_\t_\t_\n", place + 1)
            };
            rows.map(row).collect::<String>() + "\n"
        })
        .collect();
    home.write("train.conllu", format!("# a comment\n{conllu}"));
    let check = |name: &str, arguments: &str| {
        let said = home.carousel(&format!("train recipe.toml --out {name} --json {arguments}")).succeeds();
        assert!(said.json()["span_f1"].as_f64() > Some(0.9), "{arguments}: {}", said.stdout);
        home.carousel(&format!("predict {name} text.txt")).succeeds();
    };
    check("conll", "--data train.conll --set model.cell=gru");
    check("conllu", "--data train.conllu --set model.output_dropout=0.1");
    check("crf", "--data train.conll --set model.crf=true");
    check("letters", "--data all --set model.characters=8 --set data.min_count=1000");
    check("causal", "--data train.conll --set model.direction=forward --set train.metric=accuracy");
    // A town is a place to go to, or the end of a song's name: who sees one word at a time cannot tell.
    let said = home
        .carousel("train recipe.toml --data train.conll --out none --json --set model.cell=none")
        .succeeds();
    let (accuracy, f1) = (said.json()["accuracy"].as_f64(), said.json()["span_f1"].as_f64());
    assert!(accuracy > Some(0.8) && f1 < Some(0.9), "{}", said.stdout);
}

#[test]
fn a_word_without_a_tag_counts_for_nothing() {
    let home = home();
    // Every tag of one word is wrong in training, but none of them counts.
    let blind = columns(&requests(240)).replace("now O", "now _");
    home.write("blind.conll", &blind);
    home.carousel("train recipe.toml --data blind.conll --out run").succeeds();
    let measured = home.carousel("eval run --data blind.conll --json").succeeds().json();
    let words = blind.lines().filter(|line| !line.is_empty() && !line.ends_with('_')).count();
    assert_eq!(measured["words"], words);
    assert!(!home.read("run/labels.json").contains("\"_\""));
}

#[test]
fn a_run_that_was_stopped_goes_on_to_the_bit() {
    let home = home();
    let more = "--set model.crf=true --set model.characters=4 --set model.input_dropout=0.2";
    home.resumes_to_the_bit(&format!("train recipe.toml --data all {more}"), 17, 40);
}

#[test]
fn a_live_pipe_is_answered_line_by_line() {
    let home = home();
    home.carousel("train recipe.toml --data train.conll --out run").succeeds();
    let mut talk = home.talk("predict run");
    for (text, tags) in [("go to river", "O O B-place"), ("play red town now", "O B-song I-song O")] {
        talk.say(text);
        assert_eq!(talk.hear(), tags, "{text}");
    }
    assert_eq!(talk.ends(), [""; 0]);
}

#[test]
fn everything_wrong_with_a_file_is_named() {
    let home = home();
    let write = |name: &str, content: &[u8]| home.write(name, content);
    write("alone/seq.in", b"a b\n");
    write("tags/seq.out", b"O O\n");
    write("lines/seq.in", b"a\nb\n");
    write("lines/seq.out", b"O\n");
    write("words/seq.in", b"a b\nc\n");
    write("words/seq.out", b"O O\nO O\n");
    write("labels/seq.in", b"a\nb\n");
    write("labels/seq.out", b"O\nB-x\n");
    write("labels/label", b"x\n");
    write("blank/seq.in", b"a\n\n");
    write("blank/seq.out", b"O\n\n");
    write("nameless/seq.in", b"a\nb\n");
    write("nameless/seq.out", b"O\nB-x\n");
    write("nameless/label", b"x\n \n");
    write("one.conll", b"word\n");
    write("ragged.conll", b"a O\nb X O\n");
    write("hole.conll", b"a\tO\nb\t\n");
    write("latin1.conll", b"a O\ncaf\xe9 O\n");
    write("same.conll", b"a O\nb O\n");
    write("none.conll", b"a _\nb _\n");
    write("blank.conll", b"\n\n\n");
    write("nine.conllu", b"1\ta\t_\tX\t_\t_\t_\t_\t_\n");
    write("unseen.conll", b"a B-planet\n");
    let check = |arguments: &str, expected: &[&str]| {
        home.carousel(&format!("train recipe.toml --out run --set data.split=[1,0,0] {arguments}"))
            .fails(1, expected);
        assert!(!home.exists("run"), "{arguments}: a run was left behind");
    };
    check("--data nowhere", &["could not read nowhere"]);
    check("--data alone", &["alone/seq.in: alone/seq.out is missing"]);
    check("--data tags", &["tags/seq.out: tags/seq.in is missing"]);
    check("--data lines", &["lines/seq.out: 1 lines, expected 2 as in lines/seq.in"]);
    check("--data words", &["words/seq.out:2: 2 tags for 1 words of words/seq.in:2"]);
    check("--data labels", &["labels/label: 1 lines, expected 2"]);
    check("--data blank", &["blank/seq.in:2: the line has no word"]);
    check("--data nameless", &["nameless/label:2: the line is empty"]);
    check("--data one.conll", &["one.conll:1: one column"]);
    check("--data ragged.conll", &["ragged.conll:2: 3 columns, expected 2"]);
    check("--data hole.conll", &["hole.conll:2: one column"]);
    check("--data latin1.conll", &["latin1.conll:2: the line is not UTF-8"]);
    check("--data same.conll", &["tags [O], expected at least two"]);
    check("--data none.conll", &["tags [], expected at least two"]);
    check("--data blank.conll", &["the data has no sentence"]);
    check("--data nine.conllu", &["nine.conllu:1: 9 columns, expected the 10 of CoNLL-U"]);
    check(
        "--data train.conll --valid unseen.conll",
        &["unseen.conll:1", "\"B-planet\" does not occur", "B-place"],
    );
    check("--data all train.conll", &["train.conll: its sentences have no class", "label file"]);
    check(
        "--data all --valid train.conll",
        &["train.conll: its sentences have no class, expected a label file"],
    );

    let check = |arguments: &str, expected: &[&str]| {
        home.carousel(&format!("train {arguments} --out run")).fails(2, expected);
    };
    check("tag", &["the task tag needs --data"]);
    check("tag --data all --set data.tokens=char", &["task = \"tag\" needs data.tokens = \"word\""]);
    check("tag --data all --set model.pooling=max", &["model.pooling has no effect"]);
    check("classify --data all --set model.crf=true", &["model.crf has no effect"]);
    home.carousel("train recipe.toml --data train.conll --out run --set train.epochs=1").succeeds();
    home.carousel("eval run --data unseen.conll").fails(1, &["unseen.conll:1", "\"B-planet\""]);
    home.write("run/labels.json", "{}");
    home.carousel("predict run text.txt")
        .fails(1, &["labels.json is damaged or foreign", "missing field `tags`"]);
}
