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
    check("sample run --length -1", "expected a whole number from 0");
    check("sample run --seed 1.5", "expected a whole number from 0");
    check("train --seed -1", "expected a whole number from 0");
    check("inspect cells run --data text.txt --shifts -1", "expected a whole number from 0");
    check("translate run --beam -1", "expected a whole number from 1 to 1000");
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

/// `[steps, 2]` in the format of NumPy.
fn npy(steps: usize) -> Vec<u8> {
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({steps}, 2), }}");
    while !(header.len() + 11).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    (0..steps * 2).for_each(|value| bytes.extend((value as f32).to_le_bytes()));
    bytes
}

/// A broken file of examples: how it is read, the file that is wrong with the line where there is one, what was found,
/// and what was wanted.
type Broken<'a> = (&'a str, &'a str, &'a [u8], [&'a str; 3]);

#[test]
fn every_broken_file_is_named_with_what_was_found_and_wanted() {
    let home = Home::new();
    let small = "--set train.steps=1 --set model.hidden=4";
    let sequences = "--set data.input=numbers";
    let long = "--set data.input=numbers --set data.id=id";
    let cases: &[Broken<'_>] = &[
        // Texts with classes.
        (
            "classify",
            "a.tsv",
            b"text\tlabel\n\"open\t1\nb\t2\n\"c\" d\t1\n",
            ["a.tsv:2:", "text follows a quote mark that ends a field", "set data.quoting=false"],
        ),
        (
            "classify",
            "a.tsv",
            b"ham\tGo until jurong point, crazy.. Available only in bugis\nspam\tFree\n",
            ["a.tsv:", "no column is named \"text\"", "put one with the names of the columns above it"],
        ),
        (
            "tag",
            "a.tsv",
            b"1\tAn\tO\n2\tAnn\tB-PER\n",
            ["a.tsv:", "its first column counts the words", "data.word_column says"],
        ),
        (
            "forecast",
            "a.csv",
            b"day,y\n20240530,5\n20240531,4\n20240601,7\n",
            ["a.csv:", "column \"day\" only tells the row", "set data.time=day"],
        ),
        (
            "forecast",
            "a.csv",
            b"n,y\n1,5\n2,4\n3,7\n4,1\n",
            ["a.csv:", "column \"n\" only tells the row", "set data.time=n"],
        ),
        ("classify", "a.tsv", b"", ["a.tsv", "empty", "expected"]),
        (
            "classify",
            "a.tsv",
            b"text\tlabel\n",
            ["a.tsv:", "no row below its header", "expected at least one"],
        ),
        (
            "classify",
            "a.tsv",
            b"text\tstars\nx\t1\n",
            ["a.tsv:", "no column is named \"label\"", "expected one of text, stars; set data.label"],
        ),
        (
            "classify",
            "a.csv",
            b"text,label,text\nx,1,y\n",
            ["a.csv:1:", "column \"text\" stands twice", "header"],
        ),
        (
            "classify",
            "a.csv",
            b"text,label\nx,1\ny\n",
            ["a.csv:3:", "1 fields", "expected 2 as in the header"],
        ),
        (
            "classify",
            "a.tsv",
            b"text\tlabel\n\"x\t1\ny\t2\n",
            ["a.tsv:2:", "1 fields", "set data.quoting=false"],
        ),
        (
            "classify",
            "a.csv",
            b"text,label\nx,1\ncaf\xe9,2\n",
            ["a.csv:3:", "not UTF-8", "convert the file to UTF-8"],
        ),
        (
            "classify",
            "a.tsv",
            b"text\tlabel\nx\t1\ny\t \n",
            ["a.tsv:3:", "the label is empty", "expected the name of a class"],
        ),
        ("classify", "a.tsv", b"text\tlabel\nx\t1\ny\t1\n", ["one class", "\"1\"", "expected at least two"]),
        (
            "classify",
            "a.jsonl",
            b"{\"text\": \"x\", \"label\": \"1\"}\n{\"text\": \"y\n",
            ["a.jsonl:2:", "no JSON", "EOF"],
        ),
        ("classify", "a.jsonl", b"[\"x\"]\n", ["a.jsonl:1:", "expected a JSON object", "{\"text\": "]),
        (
            "classify",
            "a.jsonl",
            b"{\"text\": \"x\", \"label\": \"1\"}\n{\"text\": \"y\"}\n",
            ["a.jsonl:2:", "\"label\" is missing", "expected it as in the first line"],
        ),
        // Sequences of numbers with classes.
        (
            long,
            "a.csv",
            b"id,v,label\nu,1,a\nu,two,a\n",
            ["a.csv:3:", "column \"v\" is \"two\"", "expected a number"],
        ),
        (
            long,
            "a.csv",
            b"id,v,label\nu,1,a\nw,inf,b\n",
            ["a.csv:3:", "is \"inf\"", "expected a finite number; fill the hole"],
        ),
        (long, "a.csv", b"id,v,label\nu,1,a\nu,2,b\n", ["a.csv:3:", "the class \"b\"", "\"a\" on line 2"]),
        (
            long,
            "a.csv",
            b"id,label\nu,a\n",
            ["a.csv:", "no column of values", "beside those of the sequence"],
        ),
        (sequences, "c/a.npy", b"no array", ["c/a.npy:", "no .npy file that can be read", ""]),
        (sequences, "c/a.npy", &npy(3)[..130], ["c/a.npy:", "cannot be read", ""]),
        (sequences, "a.npz", b"no archive", ["a.npz:", "no .npz file that can be read", ""]),
        ("--set data.input=audio", "c/a.wav", b"no sound", ["c/a.wav:", "no WAV file that can be read", ""]),
        ("--set data.input=audio --set data.file_label=^([0-9])_", "c/a.wav", b"x", ["a.wav:", "no WAV", ""]),
        // Words with labels.
        (
            "tag",
            "a.conll",
            b"one X A\ntwo B\n",
            ["a.conll:2:", "2 columns", "expected 3 as in the lines before"],
        ),
        ("tag", "a.conll", b"one\n", ["a.conll:1:", "one column", "expected a word and its tag"]),
        ("tag", "a.conll", b"one A\n\xff B\n", ["a.conll:2:", "not UTF-8", "convert the file to UTF-8"]),
        (
            "tag",
            "d/seq.in",
            b"one two\n",
            ["d/seq.in:", "seq.out is missing beside it", "give the folder, or both files"],
        ),
        // Steps with labels.
        (
            "tag --set data.input=numbers",
            "a.csv",
            b"v,label\n1,x\n2,\n",
            ["a.csv:3:", "the label is empty", "write _ for a step without one"],
        ),
        (
            "tag --set data.input=numbers --set data.id=id --set data.step=t",
            "a.csv",
            b"id,t,v,label\nu,1,1,x\nu,1,2,y\n",
            ["a.csv:3:", "step 1 of its sequence", "line 2 already"],
        ),
        (
            "tag --set data.input=numbers --set data.step=t",
            "a.csv",
            b"t,v,label\nsoon,1,x\n",
            ["a.csv:2:", "\"soon\"", "expected a number"],
        ),
        (
            "tag --set data.input=numbers",
            "c/a.npy",
            &npy(3),
            ["c/a.npy:", "a.labels", "is missing beside it"],
        ),
        (
            "tag --set data.input=images",
            "v/1.gif",
            b"x",
            ["v/1.gif:", "no name of an image", "expected .png or .jpg"],
        ),
        ("tag --set data.input=images", "v/1.png", b"x", ["v/1.png:", "no PNG or JPEG image", ""]),
        // Captions.
        (
            "caption",
            "a.tsv",
            b"image\ttext\n1.png\tx\n",
            ["a.tsv:", "no column is named \"caption\"", "set data.text"],
        ),
        (
            "caption",
            "a.tsv",
            b"file\tcaption\n1.png\tx\n",
            ["a.tsv:", "no column is named \"image\"", "set data.path"],
        ),
        (
            "caption",
            "a.tsv",
            b"image\tcaption\n1.png\t\n",
            ["a.tsv:2:", "the caption is empty", "expected a text"],
        ),
        (
            "caption",
            "a.tsv",
            b"image\tcaption\n\tx\n",
            ["a.tsv:2:", "the path is empty", "expected that of an image"],
        ),
        (
            "caption",
            "a.tsv",
            b"image\tcaption\n\nnowhere.png\tx\n",
            ["a.tsv:3:", "could not read data/nowhere.png", "paths are relative to the table's folder"],
        ),
        (
            "caption",
            "a.tsv",
            b"image\tcaption\ntext.txt\tx\n",
            ["a.tsv:2:", "data/text.txt: no PNG or JPEG image", ""],
        ),
        // Series.
        (
            "forecast",
            "a.csv",
            b"v\n1\nNaN\n",
            ["a.csv:3:", "column \"v\" is \"NaN\"", "expected a finite number; fill the hole"],
        ),
        (
            "forecast --set data.time=t",
            "a.csv",
            b"t,v\n2,1\n1,1\n",
            ["a.csv:3:", "\"1\" does not come after \"2\" on line 2", "sort the rows by time"],
        ),
        (
            "forecast --set data.time=t",
            "a.csv",
            b"t,v\nsoon,1\n",
            ["a.csv:2:", "the time is \"soon\"", "expected a number or a date"],
        ),
        (
            "forecast --set data.time=t",
            "a.csv",
            b"t,v\n1,1\n2,1\n3,1\n9,1\n",
            ["a.csv:5:", "6.000 times the usual one", "set data.gaps=ignore"],
        ),
        (
            "forecast --set data.time=t",
            "a.csv",
            b"t\n1\n",
            ["a.csv:", "no column to forecast", "set data.targets"],
        ),
        (
            "forecast --set data.targets=w",
            "a.csv",
            b"v\n1\n",
            ["a.csv:", "no column is named \"w\"", "set data.targets"],
        ),
        (
            "forecast",
            "a.csv",
            b"v\n1\n2\n",
            ["no series has enough steps", "the longest has", "give longer series"],
        ),
        // Text.
        ("lm", "a.txt", b"caf\xe9", ["a.txt:", "byte 3 is not UTF-8", "set data.tokens=byte"]),
        ("lm", "a.txt", b"few", ["2 tokens", "expected at least", "give more data"]),
        (
            "lm --set data.documents=lines",
            "a.txt",
            b"Ann\nB\xffb\n",
            ["a.txt:2:", "the line is not UTF-8", "set data.tokens=byte"],
        ),
        (
            "lm --set data.documents=lines",
            "a.txt",
            b"\n \n",
            ["the training part is empty", "give more data", ""],
        ),
        // Pairs of texts.
        (
            "translate",
            "a.tsv",
            b"1\tHi.\t2\tSalut.\n3\tRun!\t4\tCours !\n",
            ["a.tsv:", "columns 1 and 3 number the texts beside them", "set data.source=2 and data.target=4"],
        ),
        ("translate", "a.tsv", b"a\tb\nc\n", ["a.tsv:2:", "1 column between tabs", "expected at least 2"]),
    ];
    let mut seen = std::collections::HashSet::new();
    for (how, name, bytes, message) in cases {
        let command = if how.starts_with("--") { format!("classify {how}") } else { (*how).to_owned() };
        let _ = std::fs::remove_dir_all(home.path("data"));
        home.write(&format!("data/{name}"), bytes);
        home.write("data/text.txt", "");
        let steps = if command.starts_with("forecast") { "" } else { small };
        let line = format!("train {command} --data data/{name} --out run {steps}");
        let said = home.carousel(&line).fails(1, message);
        assert!(!home.exists("run"), "{line}: a run was left behind");
        let told = said.stderr.lines().find(|line| line.starts_with("error: "));
        let told = told.unwrap_or_else(|| panic!("{line}: no error in {}", said.stderr));
        seen.insert(told.to_owned());
    }
    assert!(seen.len() >= 25 && seen.len() + 2 >= cases.len(), "{} different messages", seen.len());
}
