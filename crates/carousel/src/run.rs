//! The folder of a run: recipe, vocabulary, metrics and checkpoints.
//!
//! ```text
//! config.toml        the recipe, complete
//! vocab.json         the vocabulary
//! metrics.jsonl      one JSON object a line
//! report.html        curves and samples
//! model.safetensors  the best weights
//! checkpoints/STEP/  what training goes on from
//! latest, best       which checkpoint that is: "checkpoints/STEP"
//! ```
//!
//! Whatever moment a process is killed at, or a disk is full, the last complete checkpoint stays usable:
//! a new one is written under a temporary name and synced, then renamed, then named in `latest`, and only
//! then are older ones removed.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::data::{DataError, Vocab};
use crate::recipe::{Recipe, RecipeError};
use crate::train::checkpoint::{Checkpoint, CheckpointError, MODEL, replace_file, sync_folder};

const CONFIG: &str = "config.toml";
const VOCAB: &str = "vocab.json";
const METRICS: &str = "metrics.jsonl";
const CHECKPOINTS: &str = "checkpoints";
const LATEST: &str = "latest";
const BEST: &str = "best";
const TEMPORARY: &str = ".tmp-";
/// Among the checkpoints: locked by the process that trains.
const LOCK: &str = ".lock";

/// A run's folder.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
}

/// Which of a run's names a new checkpoint takes; `latest` it always is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// It is the best so far: kept until a better one comes, its weights copied to the top of the run.
    pub best: bool,
}

/// A checkpoint that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// Its content.
    pub checkpoint: Checkpoint,
    /// What a user should hear: that another checkpoint was taken than the wanted one, and why.
    pub note: Option<String>,
}

/// Nobody else trains in the run while this lives.
#[derive(Debug)]
pub struct Claim {
    _lock: Option<File>,
}

/// What went wrong with a run's folder.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A new run must not overwrite anything.
    #[error("{path} exists; continue it with --resume, or choose another folder")]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// There is no run in this folder.
    #[error("{path} is no run: it has no config.toml")]
    NoRun {
        /// The folder.
        path: PathBuf,
    },
    /// Two that train in one run would take each other's checkpoints away.
    #[error("another process is training in {path}; wait until it ends, or stop it first")]
    Busy {
        /// The folder.
        path: PathBuf,
    },
    /// No checkpoint was ever completed, or none is intact.
    #[error("{path} has no usable checkpoint: {reason}")]
    NoCheckpoint {
        /// The folder.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A file or folder could not be written or read.
    #[error(transparent)]
    File(#[from] CheckpointError),
    /// The recipe of the run is not valid any more.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// The vocabulary of the run is not valid.
    #[error("{path}: {source}")]
    Vocab {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: DataError,
    },
}

impl RunFolder {
    /// Makes the folder of a new run, and folders above it where they are missing.
    ///
    /// # Errors
    /// [`RunError::Exists`] when anything has this path, [`RunError::File`] when it cannot be made.
    pub fn create(path: &Path) -> Result<RunFolder, RunError> {
        let write = |source| CheckpointError::Write { path: path.to_owned(), source };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(write)?;
        }
        match fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(RunError::Exists { path: path.to_owned() });
            }
            made => made.map_err(write)?,
        }
        fs::create_dir(path.join(CHECKPOINTS)).map_err(write)?;
        Ok(RunFolder { path: path.to_owned() })
    }

    /// Opens the folder of a run that was made before.
    ///
    /// # Errors
    /// [`RunError::NoRun`] when it has no recipe.
    pub fn open(path: &Path) -> Result<RunFolder, RunError> {
        if !path.join(CONFIG).is_file() {
            return Err(RunError::NoRun { path: path.to_owned() });
        }
        Ok(RunFolder { path: path.to_owned() })
    }

    /// Keeps others from training in the run, until the claim is dropped or the process ends. Where files cannot be
    /// locked there is no such protection.
    ///
    /// # Errors
    /// [`RunError::Busy`] when another claim lives.
    pub fn claim(&self) -> Result<Claim, RunError> {
        let path = self.path.join(CHECKPOINTS).join(LOCK);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).ok();
        let lock = match file.map(|file| file.try_lock().map(|()| file)) {
            Some(Err(TryLockError::WouldBlock)) => return Err(RunError::Busy { path: self.path.clone() }),
            Some(Ok(file)) => Some(file),
            Some(Err(TryLockError::Error(_))) | None => None,
        };
        Ok(Claim { _lock: lock })
    }

    /// Where the run lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file at the top of the run, or puts it in the place of the one there, at once.
    ///
    /// # Errors
    /// [`RunError::File`]; what was there before is then still there.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<(), RunError> {
        Ok(replace_file(&self.path.join(name), content.as_ref())?)
    }

    /// Writes `config.toml`.
    ///
    /// # Errors
    /// [`RunError::File`].
    pub fn write_recipe(&self, recipe: &Recipe) -> Result<(), RunError> {
        self.write(CONFIG, recipe.to_toml())
    }

    /// Reads `config.toml`.
    ///
    /// # Errors
    /// [`RunError::File`] or [`RunError::Recipe`].
    pub fn read_recipe(&self) -> Result<Recipe, RunError> {
        let path = self.path.join(CONFIG);
        Ok(Recipe::from_toml(&read_text(&path)?, &path.display().to_string())?)
    }

    /// Writes `vocab.json`.
    ///
    /// # Errors
    /// [`RunError::File`].
    pub fn write_vocab(&self, vocab: &Vocab) -> Result<(), RunError> {
        self.write(VOCAB, format!("{:#}\n", vocab.to_json()))
    }

    /// Reads `vocab.json`.
    ///
    /// # Errors
    /// [`RunError::File`] or [`RunError::Vocab`].
    pub fn read_vocab(&self) -> Result<Vocab, RunError> {
        let path = self.path.join(VOCAB);
        let value = serde_json::from_str(&read_text(&path)?)
            .map_err(|error| DataError::Vocab { reason: error.to_string() });
        value
            .and_then(|value: Value| Vocab::from_json(&value))
            .map_err(|source| RunError::Vocab { path, source })
    }

    /// Saves a checkpoint and returns its folder. It becomes `latest`, and `best` where asked; all others
    /// but those two are removed.
    ///
    /// # Errors
    /// [`RunError::File`]; the checkpoints saved before are then still there, and no part of the new one
    /// is left.
    pub fn save(&self, checkpoint: &Checkpoint, keep: Keep) -> Result<PathBuf, RunError> {
        let folder = self.path.join(CHECKPOINTS);
        self.remove_temporary()?;
        let temporary = folder.join(format!("{TEMPORARY}{}", checkpoint.step));
        if let Err(error) = checkpoint.write(&temporary) {
            // Gives back the space of what was written; the error that matters is the first one.
            let _ = fs::remove_dir_all(&temporary);
            return Err(error.into());
        }
        let name = self.free_name(checkpoint.step);
        let path = folder.join(name.to_string());
        rename(&temporary, &path)?;
        sync_folder(&folder)?;

        let announced = self.announce(name, keep);
        let kept = [self.pointed(LATEST), self.pointed(BEST)];
        if announced.is_err() && !kept.contains(&Some(name)) {
            // As above.
            let _ = fs::remove_dir_all(&path);
        }
        announced?;
        for old in self.names()?.into_iter().filter(|name| !kept.contains(&Some(*name))) {
            // Renamed first, so that a half removed folder is never taken for a checkpoint.
            rename(&folder.join(old.to_string()), &folder.join(format!("{TEMPORARY}{old}")))?;
        }
        self.remove_temporary()?;
        Ok(path)
    }

    /// Puts a complete checkpoint in the place of the best and the latest one.
    fn announce(&self, name: Name, keep: Keep) -> Result<(), RunError> {
        if keep.best {
            let model = Checkpoint::weights_file(&self.path.join(CHECKPOINTS).join(name.to_string()));
            let bytes = fs::read(&model).map_err(|source| CheckpointError::Read { path: model, source })?;
            self.write(MODEL, bytes)?;
            self.write(BEST, name.pointer())?;
        }
        self.write(LATEST, name.pointer())
    }

    /// Reads the latest checkpoint. Where it is damaged the newest intact one is read, and the note says
    /// so.
    ///
    /// # Errors
    /// [`RunError::NoCheckpoint`] when none is intact, [`RunError::File`] when they cannot be listed.
    pub fn load_latest(&self) -> Result<Loaded, RunError> {
        self.load(&[LATEST])
    }

    /// Where the latest checkpoint lies; `None` before the first.
    #[must_use]
    pub fn latest_path(&self) -> Option<PathBuf> {
        let name = self.pointed(LATEST)?;
        Some(self.path.join(CHECKPOINTS).join(name.to_string()))
    }

    /// Reads the best checkpoint; the latest where none was ever called the best. Where it is damaged
    /// another one is read, and the note says so.
    ///
    /// # Errors
    /// As [`RunFolder::load_latest`].
    pub fn load_best(&self) -> Result<Loaded, RunError> {
        self.load(&[BEST, LATEST])
    }

    fn load(&self, pointers: &[&str]) -> Result<Loaded, RunError> {
        let wanted = pointers.iter().filter_map(|pointer| self.pointed(pointer));
        let mut names: Vec<Name> = Vec::new();
        let mut newest = self.names()?;
        newest.sort();
        for name in wanted.chain(newest.into_iter().rev()) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let mut problems = Vec::new();
        for name in names {
            let folder = self.path.join(CHECKPOINTS).join(name.to_string());
            match Checkpoint::read(&folder) {
                Ok(checkpoint) if checkpoint.step == name.step => {
                    let note = (!problems.is_empty())
                        .then(|| format!("{}; using {} instead", problems.join("; "), name.pointer().trim()));
                    return Ok(Loaded { checkpoint, note });
                }
                Ok(checkpoint) => {
                    problems.push(format!("{} holds step {}", folder.display(), checkpoint.step));
                }
                Err(error) => problems.push(error.to_string()),
            }
        }
        let none = "none was saved; if nothing trains it any more, remove the folder and train anew";
        let reason = if problems.is_empty() { none.to_owned() } else { problems.join("; ") };
        Err(RunError::NoCheckpoint { path: self.path.clone(), reason })
    }

    /// Adds a line to `metrics.jsonl`.
    ///
    /// # Errors
    /// [`RunError::File`]; no part of the line is then left in the file.
    pub fn append_metrics(&self, value: &Value) -> Result<(), RunError> {
        let path = self.path.join(METRICS);
        let append = || -> io::Result<()> {
            let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
            let length = file.metadata()?.len();
            let written = file.write_all(format!("{value}\n").as_bytes());
            if written.is_err() {
                file.set_len(length)?;
            }
            written
        };
        Ok(append().map_err(|source| CheckpointError::Write { path: path.clone(), source })?)
    }

    /// The lines of `metrics.jsonl`; none where there is no such file. A last line without its line break
    /// was cut off by a crash and is left out.
    ///
    /// # Errors
    /// [`RunError::File`].
    pub fn read_metrics(&self) -> Result<Vec<Value>, RunError> {
        let path = self.path.join(METRICS);
        if !path.exists() {
            return Ok(Vec::new());
        }
        let text = read_text(&path)?;
        let complete = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let parsed = complete.enumerate().map(|(index, line)| {
            serde_json::from_str(line).map_err(|error| CheckpointError::Damaged {
                path: path.clone(),
                reason: format!("line {}: {error}", index + 1),
            })
        });
        Ok(parsed.collect::<Result<_, _>>()?)
    }

    /// Forgets metrics of later steps than `step`, which a resumed run will write again.
    ///
    /// # Errors
    /// [`RunError::File`]; the file is then as it was.
    pub fn truncate_metrics_after(&self, step: u64) -> Result<(), RunError> {
        let later = |value: &Value| value["step"].as_u64().is_some_and(|found| found > step);
        let kept = self.read_metrics()?.into_iter().filter(|value| !later(value));
        let text: String = kept.map(|value| format!("{value}\n")).collect();
        self.write(METRICS, text)
    }

    /// The checkpoint that `latest` or `best` names.
    fn pointed(&self, pointer: &str) -> Option<Name> {
        let text = fs::read_to_string(self.path.join(pointer)).ok()?;
        Name::parse(text.trim().strip_prefix(CHECKPOINTS)?.strip_prefix('/')?)
    }

    /// The complete checkpoints, in no order.
    fn names(&self) -> Result<Vec<Name>, RunError> {
        Ok(self.entries()?.iter().filter_map(|entry| Name::parse(entry)).collect())
    }

    fn entries(&self) -> Result<Vec<String>, CheckpointError> {
        let path = self.path.join(CHECKPOINTS);
        let list = || -> io::Result<Vec<String>> {
            fs::read_dir(&path)?
                .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
                .collect()
        };
        list().map_err(|source| CheckpointError::Read { path: path.clone(), source })
    }

    /// A step may be saved again, by a run that was resumed from before it or because it turned out to be
    /// the best; the old folder must stay until the new one is named.
    fn free_name(&self, step: u64) -> Name {
        let exists = |name: &Name| self.path.join(CHECKPOINTS).join(name.to_string()).exists();
        let mut name = Name { step, edition: 1 };
        while exists(&name) {
            name.edition += 1;
        }
        name
    }

    /// Removes what a process left that was killed while it saved.
    fn remove_temporary(&self) -> Result<(), CheckpointError> {
        for entry in self.entries()?.iter().filter(|entry| entry.starts_with(TEMPORARY)) {
            let path = self.path.join(CHECKPOINTS).join(entry);
            fs::remove_dir_all(&path).map_err(|source| CheckpointError::Write { path, source })?;
        }
        Ok(())
    }
}

/// A checkpoint folder's name: `STEP`, or `STEP-EDITION` for a step that was saved again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    step: u64,
    edition: u64,
}

impl Name {
    fn parse(text: &str) -> Option<Name> {
        let (step, edition) = text.split_once('-').unwrap_or((text, "1"));
        let name = Name { step: step.parse().ok()?, edition: edition.parse().ok()? };
        (name.to_string() == text).then_some(name)
    }

    fn pointer(self) -> String {
        format!("{CHECKPOINTS}/{self}\n")
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.edition {
            1 => write!(f, "{}", self.step),
            edition => write!(f, "{}-{edition}", self.step),
        }
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), CheckpointError> {
    fs::rename(from, to).map_err(|source| CheckpointError::Write { path: to.to_owned(), source })
}

fn read_text(path: &Path) -> Result<String, CheckpointError> {
    fs::read_to_string(path).map_err(|source| CheckpointError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::data::{Limits, Tokens};
    use crate::recipe::Task;
    use crate::train::checkpoint::{NamedTensor, read_tensors};

    fn run() -> (tempfile::TempDir, RunFolder) {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::create(&folder.path().join("runs/first")).unwrap();
        (folder, run)
    }

    fn checkpoint(step: u64) -> Checkpoint {
        let values = vec![step as f32; 4];
        let model = vec![NamedTensor { name: "w".to_owned(), shape: vec![4], values }];
        let none = Vec::new;
        Checkpoint { step, model, average: none(), optimizer: none(), carried: none(), state: json!({}) }
    }

    fn save(run: &RunFolder, step: u64, best: bool) {
        run.save(&checkpoint(step), Keep { best }).unwrap();
    }

    fn folders(run: &RunFolder) -> Vec<String> {
        let mut entries = run.entries().unwrap();
        entries.sort();
        entries
    }

    #[test]
    fn one_claim_at_a_time() {
        let (_folder, run) = run();
        let claim = run.claim().unwrap();
        assert!(matches!(run.claim(), Err(RunError::Busy { path }) if path == run.path()));
        drop(claim);
        run.claim().unwrap();
        // It is none of the checkpoints.
        save(&run, 1, true);
        assert_eq!(run.names().unwrap(), [Name { step: 1, edition: 1 }]);
    }

    #[test]
    fn latest_and_best_stay_and_all_others_go() {
        let (_folder, run) = run();
        let check = |step, best, expected: &[&str], best_step: f32| {
            save(&run, step, best);
            assert_eq!(folders(&run), expected, "after {step}");
            assert_eq!(run.load_latest().unwrap(), Loaded { checkpoint: checkpoint(step), note: None });
            assert_eq!(run.load_best().unwrap().checkpoint.step as f32, best_step);
            assert_eq!(read_tensors(&run.path().join(MODEL)).unwrap()[0].values[0], best_step);
        };
        check(10, true, &["10"], 10.0);
        check(20, false, &["10", "20"], 10.0);
        check(30, false, &["10", "30"], 10.0);
        check(40, true, &["40"], 40.0);
        // A step may be saved again: at the end of a run, or after resuming from before it.
        check(50, false, &["40", "50"], 40.0);
        check(50, true, &["50-2"], 50.0);
        check(50, true, &["50"], 50.0);
        check(45, false, &["45", "50"], 50.0);
    }

    #[test]
    fn without_a_best_the_latest_is_used() {
        let (_folder, run) = run();
        let message = run.load_latest().unwrap_err().to_string();
        assert!(
            message.contains("runs/first has no usable checkpoint: none was saved; if nothing trains it"),
            "{message}"
        );
        save(&run, 5, false);
        assert_eq!(run.load_best().unwrap(), Loaded { checkpoint: checkpoint(5), note: None });
        assert!(!run.path().join(MODEL).exists());
    }

    #[test]
    fn a_damaged_checkpoint_gives_way_to_another_and_a_note() {
        let check = |damage: fn(&Path), expected: &str, note: &[&str]| {
            let (_folder, run) = run();
            save(&run, 10, true);
            save(&run, 20, false);
            damage(run.path());
            let loaded = run.load_latest().map_or_else(
                |error| (None, error.to_string()),
                |loaded| (Some(loaded.checkpoint.step), loaded.note.unwrap_or_default()),
            );
            assert_eq!(loaded.0.map_or("none".to_owned(), |step| step.to_string()), expected);
            for part in note {
                assert!(loaded.1.contains(part), "{:?} does not say {part:?}", loaded.1);
            }
            assert_eq!(loaded.1.is_empty(), note.is_empty(), "{:?}", loaded.1);
        };
        let cut: fn(&Path) = |run| fs::write(run.join("checkpoints/20/model.safetensors"), "cut").unwrap();
        check(|_| {}, "20", &[]);
        check(
            cut,
            "10",
            &["20/model.safetensors is damaged", "it has 3 bytes", "; using checkpoints/10 instead"],
        );
        check(
            |run| fs::remove_dir_all(run.join("checkpoints/20")).unwrap(),
            "10",
            &["could not read", "checkpoints/20/state.json", "using checkpoints/10"],
        );
        // Whatever the pointer has become, the checkpoints are still there.
        check(|run| fs::write(run.join(LATEST), "../../elsewhere").unwrap(), "20", &[]);
        check(|run| fs::remove_file(run.join(LATEST)).unwrap(), "20", &[]);
        check(
            |run| fs::rename(run.join("checkpoints/20"), run.join("checkpoints/21")).unwrap(),
            "10",
            &["checkpoints/21 holds step 20"],
        );
        check(
            |run| {
                fs::remove_file(run.join("checkpoints/20/state.json")).unwrap();
                fs::write(run.join("checkpoints/10/state.json"), "").unwrap();
            },
            "none",
            &["has no usable checkpoint", "20/state.json", "10/state.json is damaged"],
        );
    }

    #[test]
    fn what_a_killed_process_left_is_ignored_and_removed() {
        let (_folder, run) = run();
        save(&run, 10, true);
        let left = run.path().join("checkpoints/.tmp-20");
        fs::create_dir(&left).unwrap();
        fs::write(left.join(MODEL), "half").unwrap();
        fs::write(run.path().join("latest.tmp"), "check").unwrap();
        assert_eq!(run.load_latest().unwrap(), Loaded { checkpoint: checkpoint(10), note: None });
        save(&run, 20, false);
        assert_eq!(folders(&run), ["10", "20"]);
        assert_eq!(run.load_latest().unwrap().checkpoint.step, 20);
    }

    #[test]
    fn metrics_are_lines_that_a_resumed_run_cuts_back() {
        let (_folder, run) = run();
        assert_eq!(run.read_metrics().unwrap(), Vec::<Value>::new());
        let line = |step: u64| json!({"kind": "train", "step": step, "loss": 0.1 * step as f64});
        let start = json!({"kind": "start"});
        run.append_metrics(&start).unwrap();
        for step in [10, 20, 30] {
            run.append_metrics(&line(step)).unwrap();
        }
        let path = run.path().join(METRICS);
        let whole = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{whole}{{\"kind\":\"tr")).unwrap();
        assert_eq!(run.read_metrics().unwrap(), [start.clone(), line(10), line(20), line(30)]);
        run.truncate_metrics_after(20).unwrap();
        run.append_metrics(&line(25)).unwrap();
        assert_eq!(run.read_metrics().unwrap(), [start, line(10), line(20), line(25)]);

        fs::write(&path, "{}\nno json\n{}\n").unwrap();
        let message = run.read_metrics().unwrap_err().to_string();
        assert!(message.contains("metrics.jsonl is damaged or foreign: line 2: expected"), "{message}");
    }

    #[test]
    fn a_run_keeps_its_recipe_and_its_vocabulary() {
        let (_folder, run) = run();
        let mut recipe = Recipe::default_for(Task::Lm);
        recipe.set_all(&["train.learning_rate=0.1", "data.tokens=word"]).unwrap();
        let text = crate::data::Document { name: "text".to_owned(), bytes: "a \"b\" 한\n".into() };
        let limits = Limits { min_count: 1, size: None, share: 1.0 };
        let vocab = Vocab::build(Tokens::Word, &[text], limits).unwrap();
        run.write_vocab(&vocab).unwrap();
        let no_run = RunFolder::open(run.path()).unwrap_err().to_string();
        assert!(no_run.ends_with("runs/first is no run: it has no config.toml"), "{no_run}");
        run.write_recipe(&recipe).unwrap();
        let opened = RunFolder::open(run.path()).unwrap();
        assert_eq!(opened.read_recipe().unwrap(), recipe);
        assert_eq!(opened.read_vocab().unwrap(), vocab);

        fs::write(run.path().join(VOCAB), "{").unwrap();
        fs::write(run.path().join(CONFIG), "task = \"lm\"\nmodel.hiden = 3").unwrap();
        let vocab = run.read_vocab().unwrap_err().to_string();
        assert!(vocab.contains("vocab.json: the vocabulary is damaged: EOF"), "{vocab}");
        let recipe = run.read_recipe().unwrap_err().to_string();
        assert!(recipe.contains("runs/first/config.toml:2: model.hiden is not a known key"), "{recipe}");
    }

    #[test]
    fn an_existing_folder_is_not_taken() {
        let (_folder, run) = run();
        let message = RunFolder::create(run.path()).unwrap_err().to_string();
        assert!(message.ends_with("runs/first exists; continue it with --resume, or choose another folder"));
        let file = run.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(RunFolder::create(&file), Err(RunError::Exists { .. })));
        let below = RunFolder::create(&file.join("run")).unwrap_err().to_string();
        assert!(below.starts_with("could not write"), "{below}");
    }
}
