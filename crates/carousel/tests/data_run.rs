//! Runs that are killed while they save, and disks that are full.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use carousel::run::{Keep, RunFolder};
use carousel::train::checkpoint::{Checkpoint, NamedTensor, read_tensors};
use serde_json::json;

/// `size` values in each file, all of them the step.
fn checkpoint(step: u64, size: usize) -> Checkpoint {
    let tensor = |name: &str| {
        vec![NamedTensor { name: name.to_owned(), shape: vec![size], values: vec![step as f32; size] }]
    };
    let state = json!({ "step": step });
    Checkpoint {
        step,
        model: tensor("w"),
        average: Vec::new(),
        optimizer: tensor("first"),
        carried: tensor("h"),
        state,
    }
}

const SIZE: usize = 200_000;
const VICTIM: &str = "CAROUSEL_TEST_VICTIM_FOLDER";

/// Not a test of its own: the process that `kill_9_leaves_the_last_good_checkpoint` kills.
#[test]
fn victim() {
    let Some(folder) = env::var_os(VICTIM) else { return };
    let run = RunFolder::open(Path::new(&folder)).unwrap();
    let first = run.load_latest().unwrap().checkpoint.step + 1;
    for step in first.. {
        run.save(&checkpoint(step, SIZE), Keep { best: step % 3 == 0 }).unwrap();
    }
}

#[test]
fn kill_9_leaves_the_last_good_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let run = RunFolder::create(&path).unwrap();
    run.write("config.toml", "task = \"lm\"\n").unwrap();
    run.save(&checkpoint(1, SIZE), Keep { best: true }).unwrap();
    let (mut step, mut interrupted) = (1, 0);
    for round in 0..25 {
        let named = || fs::read_to_string(path.join("latest")).unwrap();
        let before = named();
        let mut victim = Command::new(env::current_exe().unwrap())
            .args(["--exact", "victim"])
            .env(VICTIM, &path)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // From its first checkpoint on it does nothing but save.
        let deadline = Instant::now() + Duration::from_secs(60);
        while named() == before && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(7 * (round % 11)));
        victim.kill().unwrap();
        assert!(!victim.wait().unwrap().success(), "the victim must not end by itself");

        let names = fs::read_dir(path.join("checkpoints")).unwrap();
        let left = names.filter(|name| {
            name.as_ref().is_ok_and(|name| name.file_name().to_string_lossy().starts_with('.'))
        });
        interrupted += usize::from(left.count() > 0);
        for loaded in [run.load_latest().unwrap(), run.load_best().unwrap()] {
            assert_eq!(loaded.note, None, "round {round}");
            let found = loaded.checkpoint;
            assert_eq!(found, checkpoint(found.step, SIZE), "round {round}");
        }
        let latest = run.load_latest().unwrap().checkpoint.step;
        assert!(latest > step, "round {round}: step {latest} after {step}");
        step = latest;
    }
    println!("{interrupted} of 25 kills hit a checkpoint half written; the last one is step {step}");
    assert!(interrupted > 0, "no kill hit a checkpoint half written: the test has tried nothing");
}

/// A file system of its own that is unmounted at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Result<SmallDisk, String> {
        let folder = tempfile::tempdir().unwrap();
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(folder.path())
            .output()
            .map_err(|error| error.to_string())?;
        if output.status.success() {
            Ok(SmallDisk(folder))
        } else {
            Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "could not unmount {:?}", self.0.path());
    }
}

#[test]
fn a_full_disk_is_an_error_and_earlier_checkpoints_stay() {
    let disk = match SmallDisk::mount("256k") {
        Ok(disk) => disk,
        Err(reason) => {
            println!("skipped: mounting a small disk takes root ({reason})");
            return;
        }
    };
    let path = disk.0.path().join("run");
    let run = RunFolder::create(&path).unwrap();
    run.save(&checkpoint(1, 5_000), Keep { best: true }).unwrap();
    let full = |error: carousel::run::RunError, what: &str| {
        let message = error.to_string();
        assert!(message.starts_with(&format!("could not write {}", path.display())), "{message}");
        assert!(message.contains(what) && message.contains("No space left"), "{message}");
    };
    // The first does not fit at all, the second only without the copy of its weights at the top.
    for (size, what) in [(30_000, "checkpoints/.tmp-2/"), (12_000, "run/model.safetensors")] {
        full(run.save(&checkpoint(2, size), Keep { best: true }).unwrap_err(), what);
        let left: Vec<String> = fs::read_dir(path.join("checkpoints"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        assert_eq!(left, ["1"], "the part that was written must give its space back");
        for loaded in [run.load_latest().unwrap(), run.load_best().unwrap()] {
            assert_eq!((loaded.checkpoint, loaded.note), (checkpoint(1, 5_000), None));
        }
        assert_eq!(read_tensors(&path.join("model.safetensors")).unwrap(), checkpoint(1, 5_000).model);
    }

    run.append_metrics(&json!({ "step": 1 })).unwrap();
    full(run.append_metrics(&json!({ "text": "x".repeat(400_000) })).unwrap_err(), "metrics.jsonl");
    assert_eq!(run.read_metrics().unwrap(), [json!({ "step": 1 })]);
    let length = fs::metadata(path.join("metrics.jsonl")).unwrap().len();
    assert_eq!(length, 11, "no part of the line stays");

    full(run.write("report.html", vec![b'x'; 400_000]).unwrap_err(), "report.html");
    assert!(!path.join("report.html").exists() && !path.join("report.html.tmp").exists());
    run.save(&checkpoint(3, 5_000), Keep { best: true }).unwrap();
    assert_eq!(run.load_latest().unwrap().checkpoint.step, 3);
}
