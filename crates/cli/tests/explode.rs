//! Training that breaks, for every task: it stops, names a place, keeps the step, and looks at it again.

mod support;

use std::fmt::Write;

use support::Home;

const SETTINGS: &str = "--set train.optimizer=sgd --set train.learning_rate=1000 --set train.clip_norm=0";
/// A net whose values grow a hundredfold from step to step.
const GROWING: &str = "--set model.cell=rnn --set model.activation=relu --set model.init=identity \
                       --set model.init_gain=100";

fn home() -> Home {
    let home = Home::new();
    let (mut reviews, mut pairs, mut tags) = ("text\tlabel\n".to_owned(), String::new(), String::new());
    let mut numbers = "series,x,label\n".to_owned();
    for number in 0..40 {
        let word = ["good", "bad", "old"][number % 3];
        let _ = writeln!(reviews, "a {word} film\t{}", number % 2);
        let _ = writeln!(pairs, "{}\tthe {word}", format!("le {word} ").repeat(15).trim());
        let _ = writeln!(tags, "a O\n{word} B-x\n");
        for step in 0..30 {
            let _ = writeln!(numbers, "{number},{},{}", (number * 7 + step) % 11, number % 2);
        }
    }
    for (name, content) in
        [("reviews.tsv", reviews), ("pairs.tsv", pairs), ("tags.conll", tags), ("series.csv", numbers)]
    {
        home.write(name, content);
    }
    home
}

#[test]
fn every_task_names_the_place_and_looks_again() {
    let home = home();
    let check = |task: &str, options: &str| {
        let run = format!("run-{task}-{}", options.len());
        let command = format!(
            "train {task} {options} --out {run} {SETTINGS} --set model.hidden=8 --set train.batch=8 \
             --set train.epochs=9"
        );
        let command = if options.contains("model.cell") { command } else { format!("{command} {GROWING}") };
        let command = match task {
            "adding" | "copy" => command.replace("train.epochs", "train.steps"),
            _ => command,
        };
        let said = home.carousel(&command).fails(1, &["is not finite", "try:", "checkpoint", "--replay"]);
        let files = home.files(&run);
        let file = files.iter().find(|name| name.contains("diverged-")).expect("the step was saved");
        let line = home.carousel(&format!("train --replay {file} --json")).succeeds().json();
        let origin = line["origin"].as_str().expect("text");
        assert!(said.stderr.contains(origin), "{task}: {origin} in\n{}", said.stderr);
        origin.to_owned()
    };
    check("classify", "--data reviews.tsv");
    check("classify", "--data series.csv --set data.input=numbers --set data.id=series");
    check("tag", "--data tags.conll --set model.characters=4");
    check("translate", "--data pairs.tsv --set model.attention=dot");
    check("adding", "--set data.length=10");
    check("copy", "--set data.length=10");
    check("lm", "--data text.txt");
    // Its windows begin with steps that have no target.
    check("lm", "--data text.txt --set train.k1=5 --set train.k2=15");
    // Cells that the kernels do not know.
    let decay = "--set train.weight_decay=1000";
    check("lm", &format!("--data text.txt --set model.cell=min-gru {decay}"));
    check("lm", &format!("--data text.txt --set model.cell=lstm --set model.norm=batch-recurrent {decay}"));
    check("classify", &format!("--data reviews.tsv --set model.cell=min-lstm {decay}"));
    // Without recurrent layers there is no step of time to name.
    let origin = check("classify", "--data reviews.tsv --set model.cell=none --set model.layers=9");
    assert!(!origin.contains("time step"), "{origin}");
}
