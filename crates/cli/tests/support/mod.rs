//! A folder to try the real binary in, and what it says there.

#![allow(dead_code, reason = "every test file uses its own part of this")]

use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use npyz::npz::NpzWriter;
use npyz::zip::write::FileOptions;
use npyz::{AutoSerialize, WriterBuilder};
use serde_json::Value;
use tempfile::TempDir;

/// Some hundred steps of a model so small that they take a moment.
pub(crate) const TINY: &str = "\
task = \"lm\"
[model]
layers = 1
hidden = 16
embedding = 8
[train]
steps = 60
batch = 4
bptt = 8
validate_every = 30
sample_length = 20
log_every = 1
";

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(120);

/// A fresh folder with `text.txt`, `tiny.toml` and nothing else.
pub(crate) struct Home {
    folder: TempDir,
}

impl Home {
    pub(crate) fn new() -> Home {
        let home = Home { folder: tempfile::tempdir().expect("a temporary folder") };
        home.write("text.txt", rhyme(4000));
        home.write("tiny.toml", TINY);
        home
    }

    /// A home with a finished run in `run`.
    pub(crate) fn with_run() -> Home {
        let home = Home::new();
        home.carousel("train tiny.toml --data text.txt --out run").succeeds();
        home
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("a folder for it");
        fs::write(&path, content).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub(crate) fn exists(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// Every file under a folder, sorted.
    pub(crate) fn files(&self, name: &str) -> Vec<String> {
        let mut found = Vec::new();
        collect(&self.path(name), &mut found);
        let mut names: Vec<String> = found
            .iter()
            .map(|path| {
                path.strip_prefix(self.folder.path()).expect("it lies in the home").display().to_string()
            })
            .collect();
        names.sort();
        names
    }

    /// Runs the command to its end; the arguments are separated by blanks.
    pub(crate) fn carousel(&self, arguments: &str) -> Said {
        let output = self.command(arguments).output().expect("the binary runs");
        Said::new(arguments, output)
    }

    /// Starts the command and lets it run.
    pub(crate) fn start(&self, arguments: &str) -> Running {
        let child = self
            .command(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        Running { child: Some(child), command: arguments.to_owned() }
    }

    /// Starts a command that answers lines.
    pub(crate) fn talk(&self, arguments: &str) -> Talk {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let lines = child.stdin.take().expect("it reads");
        let answers = BufReader::new(child.stdout.take().expect("it writes")).lines();
        Talk { child, lines, answers }
    }

    /// The last weights of a run.
    pub(crate) fn weights(&self, run: &str) -> Vec<u8> {
        let latest = self.read(&format!("{run}/latest"));
        self.bytes(&format!("{run}/{}/model.safetensors", latest.trim()))
    }

    /// Gives a run that has ended more steps to go.
    pub(crate) fn prolong(&self, run: &str, from: usize, to: usize) {
        let config = format!("{run}/config.toml");
        self.write(&config, self.read(&config).replace(&format!("steps = {from}"), &format!("steps = {to}")));
    }

    /// Trains twice, once stopped after `stop` of `steps` steps and resumed, in the runs `whole` and `half`: the
    /// weights are the same.
    #[track_caller]
    pub(crate) fn resumes_to_the_bit(&self, train: &str, stop: usize, steps: usize) {
        for run in ["whole", "half"] {
            let _ = fs::remove_dir_all(self.path(run));
        }
        for (run, steps) in [("whole", steps), ("half", stop)] {
            self.carousel(&format!("{train} --out {run} --set train.steps={steps}")).succeeds();
        }
        self.prolong("half", stop, steps);
        self.carousel("train --resume --out half").succeeds();
        assert!(self.weights("whole") == self.weights("half"), "a resumed run differs: {train}");
    }

    /// Runs a line in a shell, as a user would.
    pub(crate) fn shell(&self, line: &str) -> Said {
        let output =
            Command::new("sh").args(["-c", line]).current_dir(&self.folder).output().expect("sh runs");
        Said::new(line, output)
    }

    /// Waits until a file exists.
    pub(crate) fn wait_for(&self, name: &str) {
        let began = Instant::now();
        while !self.exists(name) {
            assert!(began.elapsed() < PATIENCE, "{name} did not appear");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_carousel"));
        command.args(arguments.split_whitespace()).current_dir(&self.folder);
        command
    }
}

/// A command that has not ended yet; it is killed when the test is over.
pub(crate) struct Running {
    child: Option<Child>,
    command: String,
}

impl Running {
    /// Sends a signal by name, such as `INT`.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.as_ref().expect("it runs").id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().expect("kill runs");
        assert!(sent.success(), "kill -s {name} {id} failed");
    }

    /// Waits for the end.
    pub(crate) fn ends(mut self) -> Said {
        let output = self.child.take().expect("it runs").wait_with_output().expect("it ends");
        Said::new(&self.command, output)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A command that is sent lines and answers them.
pub(crate) struct Talk {
    child: Child,
    lines: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Talk {
    pub(crate) fn say(&mut self, line: &str) {
        writeln!(self.lines, "{line}").expect("it takes a line");
    }

    /// The next answer. Nothing more is said before it comes, so nothing may be kept back.
    pub(crate) fn hear(&mut self) -> String {
        self.answers.next().expect("it answers").expect("text")
    }

    /// Says no more, and takes the answers that are left.
    pub(crate) fn ends(mut self) -> Vec<String> {
        drop(self.lines);
        let rest = self.answers.map(|line| line.expect("text")).collect();
        assert!(self.child.wait().expect("it ends").success());
        rest
    }
}

/// What a command said, and how it ended.
pub(crate) struct Said {
    command: String,
    code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Said {
    fn new(command: &str, output: Output) -> Said {
        Said {
            command: command.to_owned(),
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    #[track_caller]
    fn ends_with(self, code: Option<i32>) -> Said {
        let Said { command, stdout, stderr, .. } = &self;
        assert_eq!(self.code, code, "{command}\n--- stdout\n{stdout}\n--- stderr\n{stderr}");
        assert!(!stderr.contains("panicked"), "{command}\n{stderr}");
        self
    }

    /// It did what was asked.
    #[track_caller]
    pub(crate) fn succeeds(self) -> Said {
        self.ends_with(Some(0))
    }

    /// It failed, with an exit status and a message in which all of these stand.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, message: &[&str]) -> Said {
        let said = self.ends_with(Some(code));
        for part in message {
            assert!(said.stderr.contains(part), "{}: no `{part}` in\n{}", said.command, said.stderr);
        }
        assert_eq!(said.stdout, "", "{}: a failure has no result", said.command);
        said
    }

    /// A signal ended it.
    #[track_caller]
    pub(crate) fn was_killed(self) -> Said {
        self.ends_with(None)
    }

    /// The last line of stdout as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        let last = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(last)
            .unwrap_or_else(|error| panic!("{}: {error} in\n{}", self.command, self.stdout))
    }
}

/// An array of an archive: its name, its shape and its values.
pub(crate) enum Array<'a> {
    Floats(&'a str, &'a [u64], Vec<f32>),
    Whole(&'a str, &'a [u64], Vec<i64>),
}

/// An `.npz` archive.
pub(crate) fn npz(arrays: &[Array<'_>]) -> Vec<u8> {
    let mut writer = NpzWriter::new(std::io::Cursor::new(Vec::new()));
    for array in arrays {
        match array {
            Array::Floats(name, shape, values) => add(&mut writer, name, shape, values),
            Array::Whole(name, shape, values) => add(&mut writer, name, shape, values),
        }
    }
    writer.zip_writer().finish().expect("an archive").into_inner()
}

fn add<T: AutoSerialize + Copy>(
    to: &mut NpzWriter<std::io::Cursor<Vec<u8>>>,
    name: &str,
    shape: &[u64],
    values: &[T],
) {
    let file = to.array::<T>(name, FileOptions::default()).expect("room for an array");
    let mut file = file.default_dtype().shape(shape).begin_nd().expect("its header");
    file.extend(values.iter().copied()).expect("its values");
    file.finish().expect("its end");
}

/// How many sequences the parts of a run have, as `train` tells them: training, validation, test.
pub(crate) fn parts(said: &Said) -> [usize; 3] {
    ["training ", "validation ", "test "].map(|part| {
        let line = said.stderr.lines().find(|line| line.starts_with(part) && line.contains(" sequences of "));
        line.map_or(0, |line| {
            let count = line.split_whitespace().nth(1).and_then(|count| count.parse().ok());
            count.unwrap_or_else(|| panic!("no count in {line}"))
        })
    })
}

/// Text with something to learn in it, the same every time.
pub(crate) fn rhyme(length: usize) -> String {
    "the wheel goes round and round, the horses go up and down;\n".chars().cycle().take(length).collect()
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => collect(&path, found),
            path => found.push(path),
        }
    }
}
