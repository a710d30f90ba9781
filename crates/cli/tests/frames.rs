//! A label for every step of numbers: training, measuring, answering as steps come, windows of long sequences.

mod support;

use serde_json::Value;
use support::{Array, Home, npz, parts};

const RECIPE: &str = "\
task = \"tag\"
[data]
input = \"numbers\"
split = [0.7, 0.2, 0.1]
[model]
cell = \"gru\"
hidden = 16
direction = \"forward\"
[train]
steps = 150
batch = 16
learning_rate = 0.02
log_every = 20
";

/// Numbers that look random and are the same every time.
fn noise(place: usize) -> f32 {
    let mixed = (place as u32).wrapping_mul(2_654_435_761) ^ 0x9e37_79b9;
    (mixed.wrapping_mul(0x85eb_ca6b) >> 8) as f32 / (1 << 24) as f32
}

/// Steps `(a, b)` and their labels: whether `a` was last above a half at the step before, this one, or the next one,
/// as `shift` says.
fn sequence(number: usize, length: usize, shift: isize) -> Vec<(f32, f32, &'static str)> {
    let a = |step: isize| noise(number * 1000 + step as usize * 2);
    (0..length as isize)
        .map(|step| {
            let from = step + shift;
            let label = match (0..length as isize).contains(&from) {
                true if a(from) > 0.5 => "high",
                true => "low",
                false => "_",
            };
            (a(step), noise(number * 1000 + step as usize * 2 + 1), label)
        })
        .collect()
}

fn long_table(sequences: usize, length: usize, shift: isize) -> String {
    let mut text = "id,t,a,b,label\n".to_owned();
    for number in 0..sequences {
        // The last step first: the column of steps brings them into order.
        for (step, (a, b, label)) in sequence(number, length + number % 3, shift).iter().enumerate().rev() {
            text.push_str(&format!("s{number},{step},{a},{b},{label}\n"));
        }
    }
    text
}

fn home() -> Home {
    let home = Home::new();
    home.write("recipe.toml", RECIPE);
    home.write("before.csv", long_table(120, 12, -1));
    home.write("next.csv", long_table(120, 12, 1));
    home
}

const LONG: &str = "--set data.id=id --set data.step=t";

#[test]
fn labels_that_hang_on_other_steps_are_learned() {
    let home = home();
    let said =
        home.carousel(&format!("train recipe.toml --data before.csv {LONG} --out run --json")).succeeds();
    assert!(said.json()["accuracy"].as_f64() > Some(0.97), "{}", said.stdout);
    assert!(said.stderr.contains(" steps/s"), "{}", said.stderr);
    assert!(!home.read("run/labels.json").contains("\"_\""));
    assert!(home.read("run/report.html").contains("What was taken for what"));
    let measured = home.carousel("eval run --data before.csv --json").succeeds().json();
    // The first step of each sequence has no label.
    let steps: usize = (0..120).map(|number| 11 + number % 3).sum();
    assert_eq!((&measured["sequences"], &measured["steps"]), (&120.into(), &steps.into()), "{measured}");
    assert!(measured["macro_f1"].as_f64() > Some(0.97), "{measured}");
    // A net that walks forward cannot know the next step unless it may wait for it.
    let check = |name: &str, more: &str, least: f64, most: f64| {
        let said = home
            .carousel(&format!("train recipe.toml --data next.csv {LONG} --out {name} --json {more}"))
            .succeeds();
        let accuracy = said.json()["accuracy"].as_f64().unwrap_or_default();
        assert!((least..=most).contains(&accuracy), "{more}: {accuracy}");
    };
    check("blind", "", 0.0, 0.75);
    check("late", "--set model.lookahead=2", 0.95, 1.0);
    check("both", "--set model.direction=both --set model.crf=true", 0.95, 1.0);
    check("alone", "--set model.cell=none", 0.0, 0.75);
}

#[test]
fn archives_have_labels_a_step_and_groups_stay_together() {
    let home = home();
    let (mut x, mut y, mut lengths, mut who) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut table = "id,t,a,b,label,who\n".to_owned();
    for number in 0..120 {
        let steps = sequence(number, 12 + number % 3, -1);
        lengths.push(steps.len() as i64);
        who.push(number as i64 / 40);
        for step in 0..14 {
            let (a, b, label) = steps.get(step).copied().unwrap_or((0.0, 0.0, "low"));
            x.extend([a, b]);
            y.push(i64::from(label == "high"));
        }
        for (step, (a, b, label)) in steps.iter().enumerate() {
            table.push_str(&format!("s{number},{step},{a},{b},{label},p{}\n", number / 40));
        }
    }
    home.write("who.csv", table);
    let (x, y) = (Array::Floats("x", &[120, 14, 2], x), Array::Whole("y", &[120, 14], y));
    home.write(
        "all.npz",
        npz(&[x, y, Array::Whole("lengths", &[120], lengths), Array::Whole("who", &[120], who)]),
    );
    let said = home.carousel("train recipe.toml --data all.npz --out run --json").succeeds();
    assert!(said.json()["accuracy"].as_f64() > Some(0.97), "{}", said.stdout);
    let measured = home.carousel("eval run --data all.npz --json").succeeds().json();
    // What stands behind the end of a sequence is no step.
    let steps: usize = (0..120).map(|number| 12 + number % 3).sum();
    assert_eq!((&measured["sequences"], &measured["steps"]), (&120.into(), &steps.into()), "{measured}");
    let told = home.carousel("predict run all.npz").succeeds().stdout;
    let first = told.lines().next().unwrap_or_default();
    assert!(first.starts_with("all.npz:1\t") && first.split_whitespace().count() == 13, "{first}");

    let check = |name: &str, more: &str, expected: [usize; 3]| {
        let said = home.carousel(&format!("train recipe.toml --out {name} --set train.steps=2 {more}"));
        assert_eq!(parts(&said.succeeds()), expected, "{more}");
    };
    check("each", "--data all.npz", [84, 24, 12]);
    check("archive", "--data all.npz --set data.group=who", [80, 40, 0]);
    check("column", &format!("--data who.csv {LONG} --set data.group=who"), [80, 40, 0]);
    check("file", &format!("--data next.csv before.csv {LONG} --set data.file_group=(.*)"), [120, 120, 0]);
    home.carousel("eval column --data before.csv").succeeds();
    home.carousel(&format!("train recipe.toml --out no --data before.csv {LONG} --set data.group=who"))
        .fails(1, &["before.csv: no column is named \"who\""]);
}

#[test]
fn steps_from_a_pipe_are_answered_as_in_a_file() {
    let home = home();
    for (name, more) in [
        ("now", "--set model.layers=2"),
        ("late", "--set model.lookahead=3 --set model.cell=lstm"),
        ("both", "--set model.direction=both"),
        ("alone", "--set model.cell=none"),
    ] {
        home.carousel(&format!("train recipe.toml --data next.csv {LONG} --out {name} {more}")).succeeds();
        let mut piped = String::new();
        let mut plain = "id,t,a,b\n".to_owned();
        for number in [300, 301] {
            for (step, (a, b, _)) in sequence(number, 15, 1).iter().enumerate() {
                piped.push_str(&format!("{a}\t{b}\n"));
                plain.push_str(&format!("{number},{step},{a},{b}\n"));
            }
            piped.push('\n');
        }
        home.write("piped.txt", &piped);
        home.write("plain.csv", &plain);
        let told = home.carousel(&format!("predict {name} plain.csv --json")).succeeds().stdout;
        let mut expected = Vec::new();
        for line in told.lines() {
            let object: Value = serde_json::from_str(line).expect("JSON");
            let pairs = object["tags"].as_array().into_iter().flatten();
            let probabilities = object["probabilities"].as_array().into_iter().flatten();
            expected.extend(pairs.cloned().zip(probabilities.filter_map(Value::as_f64)));
        }
        assert_eq!(expected.len(), 30, "{told}");
        let told =
            home.shell(&format!("{} predict {name} --json < piped.txt", env!("CARGO_BIN_EXE_carousel")));
        let told = told.succeeds().stdout;
        let found: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(found.len(), expected.len(), "{name}: {told}");
        for (step, (tag, probability)) in found.iter().zip(&expected) {
            let own = step["probability"].as_f64().unwrap_or_default();
            assert!(
                step["tag"] == *tag && (own - probability).abs() < 1e-5,
                "{name}: {step}, in a file {tag} {probability}"
            );
        }
    }
}

#[test]
fn a_live_pipe_is_answered_step_by_step() {
    let home = home();
    let train = |name: &str, more: &str| {
        home.carousel(&format!("train recipe.toml --data before.csv {LONG} --out {name} {more}")).succeeds();
    };
    train("run", "");
    train("late", "--set model.lookahead=1");
    for (name, late) in [("run", 0), ("late", 1)] {
        let mut talk = home.talk(&format!("predict {name}"));
        let steps = sequence(500, 10, -1);
        let mut told = Vec::new();
        for (step, (a, b, _)) in steps.iter().enumerate() {
            talk.say(&format!("{a}, {b}"));
            if step >= late {
                told.push(talk.hear());
            }
        }
        told.extend(talk.ends());
        let expected: Vec<&str> = steps.iter().map(|step| step.2).collect();
        let right = expected.iter().zip(&told).filter(|(label, told)| **label == told.as_str()).count();
        assert!(told.len() == steps.len() && right >= 8, "{name}: {told:?}, expected {expected:?}");
    }
}

/// The first step says which label all steps of the sequence have.
fn remembered(sequences: usize, length: usize) -> String {
    let mut text = "id,a,label\n".to_owned();
    for number in 0..sequences {
        let label = if noise(number) > 0.5 { "up" } else { "down" };
        for step in 0..length {
            let value = if step > 0 {
                0.0
            } else if label == "up" {
                1.0
            } else {
                -1.0
            };
            text.push_str(&format!("s{number},{value},{label}\n"));
        }
    }
    text
}

#[test]
fn windows_of_long_sequences_carry_the_state() {
    let home = home();
    home.write("long.csv", remembered(40, 50));
    let more = "--set data.id=id --set train.window=8";
    let said = home
        .carousel(&format!("train recipe.toml --data long.csv --out run --json {more} --set train.steps=280"))
        .succeeds();
    // 28 sequences are two batches of seven windows each.
    assert_eq!(said.json()["epochs"].as_f64(), Some(20.0), "{}", said.stdout);
    assert!(said.json()["accuracy"].as_f64() > Some(0.97), "{}", said.stdout);
    let said = home
        .carousel(&format!("train recipe.toml --data long.csv --out two --json {more} --set train.epochs=2"))
        .succeeds();
    assert_eq!(said.json()["steps"], 28);
    // Stopped inside a batch: the state that its windows have reached is in the checkpoint.
    home.resumes_to_the_bit(&format!("train recipe.toml --data long.csv {more}"), 17, 40);
}

#[test]
fn everything_wrong_with_a_file_is_named() {
    let home = home();
    home.write("nowhere.csv", "a,b\n1,2\n");
    home.write("one.csv", "a,label\n1,x\n2,x\n");
    home.write("hole.csv", "a,label\n1,x\nnan,y\n");
    home.write("wide.csv", "id,t,a,b,c,label\nu,0,1,2,3,high\n");
    home.write("unseen.csv", "id,t,a,b,label\nu,0,1,2,medium\n");
    home.write("twice.csv", "id,t,a,b,label\nu,0,1,2,high\nu,0,1,2,low\n");
    home.write("time.csv", "id,t,a,b,label\nu,noon,1,2,high\n");
    home.write("lonely/a.npy", "no array");
    home.write("labels/a.labels", "x\n");
    home.write("none.csv", "a,label\n1,_\n2,_\n");
    let check = |arguments: &str, expected: &[&str]| {
        home.carousel(&format!("train recipe.toml --out run --set data.split=[1,0,0] {arguments}"))
            .fails(1, expected);
        assert!(!home.exists("run"), "{arguments}: a run was left behind");
    };
    check("--data nowhere.csv", &["nowhere.csv: no column is named \"label\"", "data.label"]);
    check("--data one.csv", &["tags [x], expected at least two"]);
    check("--data hole.csv", &["hole.csv:3: column \"a\" is \"nan\""]);
    check(&format!("--data twice.csv {LONG}"), &["twice.csv:3: step 0 of its sequence stands on line 2"]);
    check(&format!("--data time.csv {LONG}"), &["time.csv:2: column \"t\" is \"noon\""]);
    check("--data lonely", &["lonely/a.npy: no .npy file"]);
    check("--data labels", &["labels/a.labels: no sequence of this name lies beside it"]);
    check("--data none.csv", &["tags [], expected at least two"]);
    check(
        &format!("--data before.csv --valid wide.csv {LONG}"),
        &["wide.csv:2: 3 values a step, expected 2"],
    );
    check(
        &format!("--data before.csv --valid unseen.csv {LONG}"),
        &["unseen.csv:2", "\"medium\" does not occur"],
    );
    let check = |arguments: &str, expected: &[&str]| {
        home.carousel(&format!("train {arguments} --out run")).fails(2, expected);
    };
    check(
        "recipe.toml --data before.csv --set model.direction=both --set model.lookahead=2",
        &["model.lookahead above 0 needs model.direction = \"forward\""],
    );
    check(
        "recipe.toml --data before.csv --set model.cell=none --set model.lookahead=2",
        &["model.lookahead above 0 needs", "a model.cell other than"],
    );
    for other in ["model.crf=true", "model.direction=both", "train.accumulate=2"] {
        check(
            &format!("recipe.toml --data before.csv --set train.window=2 --set {other}"),
            &["train.window needs model.direction = \"forward\", model.crf = false"],
        );
    }
    check("tag --data before.csv --set data.label=x", &["data.label has no effect on words"]);
    check(
        "tag --data before.csv --set train.window=4",
        &["train.window has no effect with data.input = \"text\""],
    );
    home.carousel(&format!("train recipe.toml --data before.csv {LONG} --out run --set train.steps=5"))
        .succeeds();
    let piped =
        |text: &str| home.shell(&format!("printf '{text}' | {} predict run", env!("CARGO_BIN_EXE_carousel")));
    piped("1 2 3\\n").fails(1, &["stdin:1: 3 values a step, expected 2"]);
    piped("1 x\\n").fails(1, &["stdin:1: \"x\" is no finite number"]);
    home.write("run/labels.json", home.read("run/labels.json").replace("scaling", "scale"));
    home.carousel("predict run before.csv").fails(1, &["labels.json is damaged or foreign"]);
}
