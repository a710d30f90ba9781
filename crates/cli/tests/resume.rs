//! Stopping, crashing and going on: the result is the one of a run that was never disturbed.

#![cfg(unix)]

mod support;

use std::time::Duration;

use support::{Home, TINY};

/// Long enough to be caught in the middle.
fn long_recipe() -> String {
    TINY.replace("steps = 60", "steps = 6000\ncheckpoint_seconds = 1")
        .replace("log_every = 1", "log_every = 10")
}

/// Both runs ended with the same weights, optimiser and carried state, and recorded each step once.
#[track_caller]
fn assert_same_end(home: &Home, one: &str, other: &str) {
    assert_eq!(home.read(&format!("{one}/latest")), home.read(&format!("{other}/latest")));
    let latest = home.read(&format!("{one}/latest")).trim().to_owned();
    for file in ["model", "optimizer", "carried"] {
        let bytes = |run: &str| home.bytes(&format!("{run}/{latest}/{file}.safetensors"));
        assert!(bytes(one) == bytes(other), "{file}.safetensors differs");
    }
    let steps = |run: &str| -> Vec<u64> {
        let metrics = home.read(&format!("{run}/metrics.jsonl"));
        let lines =
            metrics.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
        lines
            .filter(|line| line["kind"] == "train")
            .map(|line| line["step"].as_u64().expect("a step"))
            .collect()
    };
    assert_eq!(steps(one), steps(other), "the metrics differ");
}

#[test]
fn a_longer_config_continues_a_finished_run() {
    let home = Home::new();
    home.carousel("train tiny.toml --data text.txt --out parts --set train.steps=30").succeeds();
    home.prolong("parts", 30, 60);
    let said = home.carousel("train --resume --out parts").succeeds();
    assert!(said.stderr.contains("resumed after step 30"), "{}", said.stderr);
    home.carousel("train tiny.toml --data text.txt --out whole").succeeds();
    assert_same_end(&home, "parts", "whole");
}

#[test]
fn ctrl_c_saves_and_prints_the_command_that_continues() {
    let home = Home::new();
    home.write("long.toml", long_recipe());
    let running = home.start("train long.toml --data text.txt --out parts --json");
    home.wait_for("parts/metrics.jsonl");
    running.signal("INT");
    let said = running.ends().succeeds();
    assert_eq!(said.json()["stopped"], true);
    assert!(home.exists("parts/report.html"));
    let command = said.stderr.lines().last().unwrap_or_default().trim();
    assert!(command.ends_with("train --resume --out parts"), "{}", said.stderr);

    let resumed = home.shell(&format!("{command} --json")).succeeds();
    assert_eq!((&resumed.json()["stopped"], &resumed.json()["steps"]), (&false.into(), &6000.into()));
    home.carousel("train long.toml --data text.txt --out whole").succeeds();
    assert_same_end(&home, "parts", "whole");
}

#[test]
fn a_second_ctrl_c_kills() {
    let home = Home::new();
    // One step takes longer than the test: only the second signal can end it in time.
    let running = home.start(
        "train tiny.toml --data text.txt --out run --set model.hidden=512 --set model.layers=4 \
         --set train.bptt=800",
    );
    home.wait_for("run/config.toml");
    running.signal("INT");
    std::thread::sleep(Duration::from_millis(30));
    running.signal("INT");
    running.ends().fails(1, &["Ctrl-C again stops at once"]);
}

#[test]
fn two_do_not_train_in_one_run() {
    let home = Home::new();
    home.write("long.toml", long_recipe());
    let running = home.start("train long.toml --data text.txt --out run");
    home.wait_for("run/latest");
    home.carousel("train --resume --out run")
        .fails(1, &["another process is training in run", "stop it first"]);
    running.signal("INT");
    running.ends().succeeds();
    home.carousel("train --resume --out run").succeeds();
}

#[test]
fn a_killed_run_goes_on_from_its_last_checkpoint() {
    let home = Home::new();
    home.write("long.toml", long_recipe());
    home.carousel("train long.toml --data text.txt --out whole").succeeds();
    // Each round dies somewhere else, some in the middle of a checkpoint.
    let mut command = "train long.toml --data text.txt --out parts".to_owned();
    for delay in [0, 37, 74] {
        let running = home.start(&command);
        home.wait_for("parts/latest");
        std::thread::sleep(Duration::from_millis(delay));
        running.signal("KILL");
        running.ends();
        assert!(home.exists("parts/latest"));
        command = "train --resume --out parts".to_owned();
    }
    home.carousel(&command).succeeds();
    assert_same_end(&home, "parts", "whole");
}

#[test]
fn a_half_written_checkpoint_is_ignored() {
    let home = Home::with_run();
    home.write("run/checkpoints/.tmp-90/model.safetensors", "half of");
    home.prolong("run", 60, 90);
    home.carousel("train --resume --out run").succeeds();
    assert!(!home.exists("run/checkpoints/.tmp-90"), "it was not cleared away");
    assert_eq!(home.read("run/latest").trim(), "checkpoints/90");
}

#[test]
fn changed_data_is_pointed_out() {
    let home = Home::with_run();
    home.prolong("run", 60, 90);
    assert!(!home.carousel("train --resume --out run").succeeds().stderr.contains("warning"));
    home.write("text.txt", support::rhyme(3000));
    home.prolong("run", 90, 120);
    let said = home.carousel("train --resume --out run");
    assert!(said.stderr.contains("text.txt changed since this run began"), "{}", said.stderr);
}
