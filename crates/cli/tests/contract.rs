//! What the command line promises: where results go, the JSON line, what a run folder holds.

mod support;

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::{Home, rhyme};

#[test]
fn training_leaves_a_complete_run() {
    let home = Home::new();
    let said = home.carousel("train tiny.toml --data text.txt --out run").succeeds();
    for file in
        ["config.toml", "vocab.json", "metrics.jsonl", "report.html", "model.safetensors", "latest", "best"]
    {
        assert!(home.exists(&format!("run/{file}")), "run/{file} is missing");
    }
    assert!(said.stdout.chars().count() > 100, "a sample was expected, found {:?}", said.stdout);
    for part in ["step 1/60", "loss", "bits/char", "gradient norm", "tokens/s", "left", "run/report.html"] {
        assert!(said.stderr.contains(part), "no {part} in\n{}", said.stderr);
    }
    let leftover: Vec<String> = home.files("run").into_iter().filter(|name| name.contains("tmp")).collect();
    assert_eq!(leftover, [""; 0]);
}

#[test]
fn the_json_line_of_train_is_complete() {
    let home = Home::new();
    let said = home.carousel("train tiny.toml --data text.txt --out run --json").succeeds();
    assert_eq!(said.stdout.lines().count(), 1);
    let summary = said.json();
    assert_eq!(
        (&summary["run"], &summary["steps"], &summary["stopped"]),
        (&"run".into(), &60.into(), &false.into())
    );
    for field in ["epochs", "train_loss", "valid_loss", "test_loss", "tokens_per_second", "parameters"] {
        assert!(summary[field].as_f64().is_some_and(|value| value > 0.0), "{field} in {summary}");
    }
    let loss = summary["valid_loss"].as_f64().expect("checked above");
    let close = |field: &str, expected: f64| {
        let found = summary[field].as_f64().unwrap_or(f64::NAN);
        assert!((found - expected).abs() < 1e-9 * expected, "{field}: {found}, expected {expected}");
    };
    close("perplexity", loss.exp());
    close("bits_per_char", loss / std::f64::consts::LN_2);
}

#[test]
fn words_have_perplexity_and_no_bits() {
    let home = Home::new();
    let said = home
        .carousel(
            "train tiny.toml --data text.txt --out run --json --set data.tokens=word --set train.batch=2",
        )
        .succeeds();
    assert!(said.stderr.contains("perplexity"), "{}", said.stderr);
    assert!(said.json()["bits_per_char"].is_null());
}

#[test]
fn what_is_learned_is_measured() {
    let home = Home::with_run();
    home.write("noise.txt", rhyme(600).chars().rev().collect::<String>());
    let measure = |data: &str| home.carousel(&format!("eval run --data {data} --json")).succeeds().json();
    let (text, noise) = (measure("text.txt"), measure("noise.txt"));
    assert_eq!(text["tokens"], 3999, "every token but the first is predicted");
    let loss = |measured: &serde_json::Value| measured["loss"].as_f64().expect("a number");
    assert!(loss(&text) < loss(&noise), "{text} against {noise}");
    for field in ["perplexity", "bits_per_char", "accuracy"] {
        assert!(text[field].as_f64().is_some_and(|value| value > 0.0), "{field} in {text}");
    }
    let shown = home.carousel("eval run --data text.txt").succeeds().stdout;
    for part in ["loss", "perplexity", "bits/char", "accuracy"] {
        assert!(shown.contains(part), "no {part} in\n{shown}");
    }
}

#[test]
fn bytes_predict_nearly_what_floats_predict() {
    let home = Home::with_run();
    let measure = |options: &str| {
        let line = home.carousel(&format!("eval run --data text.txt --json {options}")).succeeds().json();
        (line["precision"].clone(), line["tokens"].clone(), line["loss"].as_f64().expect("a number"))
    };
    let (floats, bytes) = (measure(""), measure("--precision int8"));
    assert_eq!((&floats.0, &bytes.0), (&"f32".into(), &"int8".into()));
    assert_eq!(floats.1, bytes.1);
    assert!(floats.2 != bytes.2 && (bytes.2 / floats.2 - 1.0).abs() < 0.01, "{floats:?} {bytes:?}");
    assert_eq!(measure("--precision int8 --threads 1"), bytes);

    let sample = |options: &str| {
        home.carousel(&format!("sample run --length 200 --seed 3 {options}")).succeeds().stdout
    };
    let text = sample("--precision int8");
    assert_eq!(text.trim_end().chars().count(), sample("").trim_end().chars().count());
    assert_eq!(sample("--precision int8 --threads 1"), text);
}

#[test]
fn every_sampling_option_changes_the_text_and_the_seed_repeats_it() {
    let home = Home::with_run();
    let sample =
        |options: &str| home.carousel(&format!("sample run --length 80 {options}")).succeeds().stdout;
    let plain = sample("--seed 3");
    assert_eq!(sample("--seed 3"), plain);
    for other in ["--seed 4", "--seed 3 --temperature 0.2", "--seed 3 --top-k 2", "--seed 3 --top-p 0.3"] {
        assert_ne!(sample(other), plain, "{other}");
    }
    assert_eq!(sample("--seed 3 --threads 1"), plain);
    assert_eq!(sample("--top-k 1 --seed 3"), sample("--temperature 0 --seed 4"), "both take the likeliest");
}

#[test]
fn a_sample_continues_its_prompt() {
    let home = Home::with_run();
    let text = home.carousel("sample run --prompt wheel --length 40").succeeds().stdout;
    assert!(text.starts_with("wheel"), "{text}");
    let line = home.carousel("sample run --prompt wheel --length 40 --json").succeeds().json();
    assert_eq!(line["prompt"], "wheel");
    let continued = line["text"].as_str().expect("text");
    assert_eq!(continued.chars().count(), 40);
    assert_eq!(text.trim_end(), format!("wheel{continued}").trim_end());
}

#[test]
fn a_word_that_is_written_stands_apart_from_the_prompts_last_one() {
    let home = Home::new();
    home.carousel("train tiny.toml --data text.txt --out run --set data.tokens=word").succeeds();
    let sample = |prompt: &str| {
        let binary = env!("CARGO_BIN_EXE_carousel");
        let line = format!("{binary} sample run --length 1 --temperature 0 --prompt '{prompt}'");
        home.shell(&line).succeeds().stdout
    };
    assert_eq!(sample("the wheel"), "the wheel goes\n");
    assert_eq!(sample("the wheel "), "the wheel goes\n");
}

#[test]
fn what_the_run_does_not_know_is_counted() {
    let home = Home::with_run();
    home.write("foreign.txt", "\u{feff}the wheel 바퀴 고\n");
    let measured = home.carousel("eval run --data foreign.txt --json").succeeds().json();
    // The mark of the encoding is no character, and the first character is not predicted.
    assert_eq!((&measured["tokens"], &measured["unknown"]), (&14.into(), &3.into()));
    let shown = home.carousel("eval run --data foreign.txt").succeeds().stdout;
    assert!(shown.contains("unknown     3 (21.43 %)"), "{shown}");
    assert!(!home.carousel("eval run --data text.txt").succeeds().stdout.contains("unknown"));
    let said = home.carousel("train tiny.toml --data text.txt --valid foreign.txt --out told").succeeds();
    let line = "validation         3 tokens are not in the vocabulary, 21.43 %\n";
    assert!(said.stderr.contains(line), "{}", said.stderr);
    assert_eq!(said.stderr.matches("are not in the vocabulary").count(), 1, "{}", said.stderr);
}

#[test]
fn data_may_come_from_a_pipe() {
    let home = Home::with_run();
    let binary = env!("CARGO_BIN_EXE_carousel");
    let piped =
        home.shell(&format!("cat text.txt | {binary} eval run --data /dev/stdin --json")).succeeds().json();
    let read = home.carousel("eval run --data text.txt --json").succeeds().json();
    assert_eq!(piped, read);
    home.shell(&format!(": | {binary} eval run --data /dev/stdin")).fails(1, &["/dev/stdin is empty"]);
}

#[test]
fn a_reader_may_go_away() {
    let home = Home::with_run();
    let mut child = Command::new(env!("CARGO_BIN_EXE_carousel"))
        .args(["sample", "run", "--length", "200000"])
        .current_dir(home.path("."))
        .stdout(Stdio::piped())
        .stderr(File::create(home.path("stderr")).expect("a file"))
        .spawn()
        .expect("the binary runs");
    let mut first = [0; 10];
    child.stdout.take().expect("piped").read_exact(&mut first).expect("it writes at once");
    let status = child.wait().expect("it ends");
    assert!(status.success(), "{status}: {}", home.read("stderr"));
}

#[test]
fn runs_are_numbered() {
    let home = Home::new();
    for number in ["001", "002"] {
        let said = home.carousel("train tiny.toml --data text.txt --json").succeeds();
        assert_eq!(said.json()["run"], format!("runs/lm-{number}"));
    }
}

#[test]
fn without_data_it_learns_its_own_sources() {
    let home = Home::new();
    let said = home.carousel("train tiny.toml").succeeds();
    assert!(said.stderr.contains("this project's own sources"), "{}", said.stderr);
    let vocabulary = home.read("runs/lm-001/vocab.json");
    assert!(vocabulary.contains('§') || vocabulary.contains('{'), "{vocabulary}");
}

#[test]
fn the_default_recipe_takes_overrides() {
    let home = Home::new();
    let said = home
        .carousel(
            "train --data text.txt --out run --json --seed 5 --set model.cell=gru --set model.hidden=8 \
             --set train.steps=5 --set train.batch=4 --set train.bptt=8",
        )
        .succeeds();
    assert_eq!(said.json()["steps"], 5);
    let config = home.read("run/config.toml");
    for line in ["seed = 5", "cell = \"gru\"", "hidden = 8", "steps = 5"] {
        assert!(config.lines().any(|found| found == line), "no `{line}` in\n{config}");
    }
}

#[test]
fn the_seed_decides_the_result() {
    let home = Home::new();
    let loss = |out: &str, seed: &str| {
        let said =
            home.carousel(&format!("train tiny.toml --data text.txt --out {out} --seed {seed} --json"));
        said.succeeds().json()["valid_loss"].as_f64().expect("a number")
    };
    let first = loss("first", "1");
    assert_eq!(loss("again", "1"), first);
    assert_ne!(loss("other", "2"), first);
}

#[test]
fn the_report_shows_this_run() {
    let home = Home::with_run();
    let report = home.read("run/report.html");
    for part in
        ["<title>run · Carousel", "Loss", "Gradient norm", "What it wrote", "learning_rate", "text.txt"]
    {
        assert!(report.contains(part), "no {part}");
    }
    for outside in ["http:", "https:", "src=", "href="] {
        assert!(!report.contains(outside), "{outside} reaches outside");
    }
}

/// Wherever a recipe, an example or a document of this project is named, it is there.
#[test]
fn what_is_named_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files: Vec<PathBuf> = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "bench/README.md"]
        .map(|name| root.join(name))
        .to_vec();
    let mut folders = ["docs", "recipes", "crates"].map(|name| root.join(name)).to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            let known =
                ["md", "toml", "rs"].iter().any(|own| path.extension().is_some_and(|ext| ext == *own));
            if path.is_dir() {
                folders.push(path);
            } else if known {
                files.push(path);
            }
        }
    }
    let mut named = 0;
    for file in files {
        let text = fs::read_to_string(&file).expect("text");
        for (begin, folder, end) in
            [("recipes/", "recipes", ".toml"), ("--example ", "crates/carousel/examples", ".rs")]
        {
            for (at, _) in text.match_indices(begin) {
                let rest = &text[at + begin.len()..];
                let is_own = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(*c);
                let name: String = rest.chars().take_while(is_own).collect();
                if name.is_empty() || (end == ".toml" && !rest[name.len()..].starts_with(end)) {
                    continue;
                }
                let wanted = root.join(folder).join(format!("{name}{end}"));
                assert!(wanted.exists(), "{}: {begin}{name} is not there", file.display());
                named += 1;
            }
        }
    }
    assert!(named > 60, "{named} names were found");
}

#[test]
fn help_names_every_verb_and_nothing_else() {
    let home = Home::new();
    let help = home.carousel("--help").succeeds().stdout;
    let verbs: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(
        verbs,
        ["train", "eval", "sample", "predict", "translate", "prepare", "inspect", "bench", "help"]
    );
    for verb in [
        "",
        "train ",
        "eval ",
        "sample ",
        "predict ",
        "translate ",
        "prepare ",
        "inspect cells ",
        "inspect gates ",
        "inspect gradients ",
        "inspect errors ",
        "inspect record ",
        "inspect attention ",
        "bench ",
        "bench layer ",
        "bench step ",
        "bench model ",
    ] {
        let help = home.carousel(&format!("{verb}--help")).succeeds().stdout;
        assert!(help.contains("Examples:"), "{verb}");
        let long: Vec<&str> = help.lines().filter(|line| line.chars().count() > 80).collect();
        assert_eq!(long, [""; 0], "{verb}: wider than a terminal");
    }
}

#[test]
fn every_number_of_threads_gives_the_same_bits() {
    let home = Home::new();
    for cell in ["lstm", "gru", "rnn"] {
        // Large enough for a team to share the work.
        let train = |threads: usize| {
            let run = format!("{cell}-{threads}");
            home.carousel(&format!(
                "train tiny.toml --data text.txt --out {run} --threads {threads} --set model.cell={cell} \
                 --set model.layers=2 --set model.hidden=96 --set train.batch=16 --set train.steps=12"
            ))
            .succeeds();
            home.bytes(&format!("{run}/model.safetensors"))
        };
        let one = train(1);
        for threads in [2, 3, 8] {
            assert!(train(threads) == one, "{cell}: {threads} threads");
        }
    }
}
