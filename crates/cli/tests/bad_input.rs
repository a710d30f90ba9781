//! Every kind of bad input: its message, its exit status, and that nothing is left behind.

mod support;

use std::process::Command;

use support::{Home, TINY, rhyme};

#[test]
fn bad_data_is_refused_by_name() {
    let home = Home::new();
    home.write("empty.txt", "");
    home.write("short.txt", "only a few words");
    home.write("latin1.txt", [rhyme(1000).as_bytes(), b"caf\xe9"].concat());
    let check = |arguments: &str, message: &[&str]| {
        home.carousel(&format!("train tiny.toml --out run {arguments}")).fails(1, message);
        assert!(!home.exists("run"), "{arguments}: a run was left behind");
    };
    check("--data nowhere.txt", &["nowhere.txt", "No such file"]);
    check("--data text.txt --valid nowhere.txt", &["nowhere.txt", "No such file"]);
    check("--data empty.txt", &["empty.txt", "empty"]);
    check("--data short.txt", &["tokens", "train.batch", "train.bptt"]);
    check("--data latin1.txt", &["latin1.txt", "byte 1003", "UTF-8", "char", "byte"]);
    check("--data latin1.txt --set data.tokens=word", &["latin1.txt", "byte 1003", "UTF-8", "word"]);
}

#[test]
fn any_bytes_are_fine_as_bytes() {
    let home = Home::new();
    home.write("binary", [rhyme(3000).as_bytes(), b"\xff\x00\xfe"].concat());
    home.carousel("train tiny.toml --out run --data binary --set data.tokens=byte").succeeds();
}

#[test]
fn bad_recipes_are_bad_usage() {
    let home = Home::new();
    home.write("unknown.toml", format!("{TINY}learning_rat = 0.1\n"));
    home.write("negative.toml", TINY.replace("hidden = 16", "hidden = -16"));
    home.write("broken.toml", "task = \"lm\"\n[model\n");
    home.write("taskless.toml", "[model]\nhidden = 3\n");
    let check = |arguments: &str, message: &[&str]| {
        home.carousel(&format!("train {arguments} --out run --data text.txt")).fails(2, message);
        assert!(!home.exists("run"), "{arguments}: a run was left behind");
    };
    check(
        "unknown.toml",
        &["unknown.toml:13", "train.learning_rat is not a known key", "did you mean train.learning_rate?"],
    );
    check("negative.toml", &["negative.toml:4", "model.hidden", "-16", "expected a whole number from 1"]);
    check("broken.toml", &["broken.toml:2"]);
    check("taskless.toml", &["taskless.toml", "task is missing", "lm"]);
    check("--set model.hiden=4", &["--set model.hiden=4", "did you mean model.hidden?"]);
    check("--set train.batch=0", &["train.batch is 0", "expected a whole number from 1"]);
    check("--set model.hidden", &["--set model.hidden", "key=value"]);
    check("--set model.cell=lstn", &["model.cell", "rnn, lstm, gru"]);
    check("--set model.reset=before", &["model.reset has no effect", "gru"]);
    check("--set model.cell=min-gru --set model.reset=before", &["model.reset has no effect"]);
    check(
        "lm --set model.cell=min-gru --set model.weight_dropout=0.1",
        &["model.weight_dropout has no effect"],
    );
    check("translate --set model.cell=min-gru", &["model.cell = \"min-gru\" beside task = \"translate\""]);
    check(
        "translat",
        &[
            "translat is no task",
            "expected lm, adding, copy, classify, tag, caption, translate, forecast or a recipe",
        ],
    );
    check("adding", &["--data has no effect", "adding makes its own data"]);
    check("tiny.toml --set train.k1=9", &["--set train.k1=9", "train.k1 is 9, expected at most train.k2"]);
}

#[test]
fn a_missing_file_is_named() {
    let said = Home::new().carousel("train missing.toml").fails(1, &["could not read missing.toml"]);
    assert_eq!(said.stderr.matches("No such file").count(), 1, "the cause is said once: {}", said.stderr);
    let said = Home::new().carousel("train --data missing.txt").fails(1, &["could not read missing.txt"]);
    assert_eq!(said.stderr.matches("No such file").count(), 1, "the cause is said once: {}", said.stderr);
}

#[test]
fn usage_that_makes_no_sense_is_refused() {
    let home = Home::new();
    let check = |arguments: &str, message: &str| {
        home.carousel(arguments).fails(2, &[message]);
    };
    check("", "Usage");
    check("trian", "train");
    check("train --device cuda", "cpu");
    check("train --threads 0", "--threads");
    check("train --data text.txt tiny.toml", "write a recipe before --data");
    check("train --resume", "--out");
    check("train --resume --out run --data text.txt", "--data");
    check("train --resume --out run --set model.hidden=4", "--set");
    check("eval run", "--data");
    check("sample", "<RUN>");
    check("sample run --temperature -1", "number from 0");
    check("sample run --top-k 0", "whole number from 1");
    check("sample run --top-p 1.5", "up to 1");
    check("sample run --precision int4", "int8");
    check("eval run --data text.txt --precision f16", "int8");
}

#[test]
fn an_existing_folder_is_not_touched() {
    let home = Home::new();
    home.write("run/precious.txt", "mine");
    home.carousel("train tiny.toml --data text.txt --out run").fails(2, &["run exists", "--resume"]);
    assert_eq!(home.files("run"), ["run/precious.txt"]);
}

#[test]
fn what_is_no_run_is_refused() {
    let home = Home::new();
    let check = |arguments: &str| {
        home.carousel(arguments).fails(1, &["nowhere", "no run"]);
    };
    check("sample nowhere");
    check("eval nowhere --data text.txt");
    check("train --resume --out nowhere");
}

#[test]
fn damaged_checkpoints_are_named() {
    let home = Home::with_run();
    let models: Vec<String> =
        home.files("run").into_iter().filter(|name| name.ends_with("model.safetensors")).collect();
    let whole = home.bytes(&models[0]);
    let damages: [(&str, Vec<u8>); 4] = [
        ("truncated", whole[..whole.len() / 2].to_vec()),
        ("empty", Vec::new()),
        ("foreign", b"PK\x03\x04 this is an archive of something else altogether".to_vec()),
        ("a header of absurd length", [&u64::MAX.to_le_bytes()[..], b"{}"].concat()),
    ];
    for (name, bytes) in &damages {
        for model in &models {
            home.write(model, bytes);
        }
        for arguments in ["sample run", "eval run --data text.txt", "train --resume --out run"] {
            let said = home.carousel(arguments).fails(1, &["model.safetensors"]);
            assert!(said.stderr.contains("damaged or foreign"), "{name}, {arguments}:\n{}", said.stderr);
        }
    }
}

/// A file system of its own, small enough to fill.
struct SmallDisk<'a> {
    home: &'a Home,
}

impl<'a> SmallDisk<'a> {
    /// `None` where this user may not mount one.
    fn mount(home: &'a Home) -> Option<SmallDisk<'a>> {
        std::fs::create_dir(home.path("disk")).expect("a place for it");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(home.path("disk"));
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        mounted.then_some(SmallDisk { home })
    }

    /// Leaves no room.
    fn fill(&self) {
        let mut size = 1 << 20;
        let mut content = Vec::new();
        while size >= 512 {
            content.resize(content.len() + size, b'x');
            if std::fs::write(self.home.path("disk/filler"), &content).is_err() {
                content.truncate(content.len() - size);
                size /= 2;
            }
        }
        // Writing in vain left what fitted: the disk is full now.
    }

    fn make_room(&self) {
        std::fs::remove_file(self.home.path("disk/filler")).expect("the filler is there");
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.home.path("disk")).status();
    }
}

#[test]
fn a_full_disk_leaves_the_last_checkpoint() {
    let home = Home::new();
    let Some(disk) = SmallDisk::mount(&home) else {
        println!("skipped: mounting a small file system takes root");
        return;
    };
    home.carousel("train tiny.toml --data text.txt --out disk/run").succeeds();
    let before = home.carousel("sample disk/run --length 50").succeeds().stdout;

    home.write("disk/run/config.toml", home.read("disk/run/config.toml").replace("steps = 60", "steps = 90"));
    disk.fill();
    home.carousel("train --resume --out disk/run")
        .fails(1, &["could not write", "disk/run", "No space left"]);
    home.carousel("train tiny.toml --data text.txt --out disk/other")
        .fails(1, &["could not write", "disk/other"]);
    assert!(!home.exists("disk/other"), "a partial run was left behind");
    assert_eq!(home.carousel("sample disk/run --length 50").succeeds().stdout, before);

    disk.make_room();
    let resumed = home.carousel("train --resume --out disk/run --json").succeeds();
    assert_eq!(resumed.json()["steps"], 90);
}
