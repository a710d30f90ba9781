//! Text that is not held in memory, but read piece by piece: what is learned and measured is the same.

mod support;

use support::{Home, rhyme};

#[test]
fn what_is_read_piece_by_piece_is_learned_alike() {
    let home = Home::new();
    home.write("texts/a.txt", "\u{feff}".to_owned() + &rhyme(9000));
    home.write("texts/b.txt", "a document of its own\n".repeat(40) + "open");
    home.write("valid.txt", rhyme(500));
    for (tokens, more) in [
        ("char", ""),
        ("byte", "--set train.k1=4 --set train.accumulate=1"),
        // A share of the training text is counted in bytes there, and in words or whole lines here.
        ("word", "--valid valid.txt --set data.split=[1,0,0]"),
        ("bpe", "--set data.vocab_size=300 --valid valid.txt --set data.split=[1,0,0]"),
    ] {
        let train = |name: &str, memory: usize| {
            let set = format!("--set data.tokens={tokens} --set data.memory={memory} {more}");
            home.carousel(&format!("train tiny.toml --data texts --out {name} {set} --json"))
                .succeeds()
                .json()
        };
        let (held, stored) = (format!("held-{tokens}"), format!("stored-{tokens}"));
        let (mut one, mut two) = (train(&held, 64), train(&stored, 0));
        for told in [&mut one, &mut two] {
            told["run"] = serde_json::Value::Null;
            told["tokens_per_second"] = serde_json::Value::Null;
        }
        assert_eq!(one, two, "{tokens}");
        let model = |run: &str| home.bytes(&format!("{run}/model.safetensors"));
        assert!(model(&held) == model(&stored), "{tokens}: other weights");
        assert_eq!(home.read(&format!("{held}/vocab.json")), home.read(&format!("{stored}/vocab.json")));
        for more in ["", "--precision int8"] {
            let eval = |run: &str| {
                let mut told =
                    home.carousel(&format!("eval {run} --data texts {more} --json")).succeeds().json();
                told["run"] = serde_json::Value::Null;
                told
            };
            assert_eq!(eval(&held), eval(&stored), "{tokens} {more}");
        }
    }
    // What comes through a pipe is held, whatever there is beside it.
    let binary = env!("CARGO_BIN_EXE_carousel");
    let eval = |data: &str| {
        home.shell(&format!("{data} texts/b.txt --json")).succeeds().json()["loss"]
            .as_f64()
            .expect("a number")
    };
    let piped = eval(&format!("cat texts/a.txt | {binary} eval stored-char --data /dev/stdin"));
    assert_eq!(piped, eval(&format!("{binary} eval stored-char --data texts/a.txt")));
    // A run that was stopped goes on, and knows its text again.
    home.prolong("stored-char", 60, 70);
    let said = home.carousel("train --resume --out stored-char").succeeds();
    assert!(
        said.stderr.contains("resumed after step 60") && !said.stderr.contains("warning"),
        "{}",
        said.stderr
    );
    home.write("texts/b.txt", "another text\n".repeat(100));
    home.prolong("stored-char", 70, 80);
    let said = home.carousel("train --resume --out stored-char").succeeds();
    assert!(said.stderr.contains("changed since this run began"), "{}", said.stderr);
}

#[test]
fn what_is_wrong_with_a_large_text_is_named() {
    let home = Home::new();
    home.write("latin1.txt", [rhyme(1000).as_bytes(), b"caf\xe9 au lait"].concat());
    home.write("short.txt", "only a few words");
    let check = |data: &str, expected: &[&str]| {
        home.carousel(&format!("train tiny.toml --out run --set data.memory=0 --data {data}"))
            .fails(1, expected);
        assert!(!home.exists("run"), "{data}: a run was left behind");
    };
    check("latin1.txt", &["latin1.txt: byte 1003 is not UTF-8", "tokens = \"char\""]);
    check("text.txt --valid latin1.txt", &["latin1.txt: byte 1003 is not UTF-8"]);
    check("short.txt", &["the data has 14 tokens", "train.batch"]);
    check("nowhere.txt", &["nowhere.txt", "No such file"]);
}

const CLASSIFY: &str = "\
task = \"classify\"
[data]
split = [0.7, 0.2, 0.1]
[model]
hidden = 12
embedding = 8
[train]
steps = 40
batch = 8
learning_rate = 0.02
";

/// Lines about animals, which say what they do.
fn animals(rows: usize) -> String {
    let told = [("cat", "mews"), ("dog", "barks"), ("cow", "lows")];
    let row = |number: usize| {
        let (animal, sound) = told[number % 3];
        let filling = "and ".repeat(number * 7 % 5);
        format!("\"it {filling}{sound}\",{animal},{}\n", number % 11)
    };
    "text,label,author\n".to_owned() + &(0..rows).map(row).collect::<String>()
}

/// Held in memory and left in its files the same data teaches the same, and is measured alike.
fn learned_alike(home: &Home, train: &str, other: &str, (name, more): (&str, &str)) {
    let learn = |run: &str, memory: usize| {
        let set = format!("--set data.memory={memory} {more}");
        let mut told = home.carousel(&format!("{train} --out {run} --json {set}")).succeeds().json();
        told["run"] = serde_json::Value::Null;
        told["tokens_per_second"] = serde_json::Value::Null;
        told
    };
    let (held, stored) = (format!("held-{name}"), format!("stored-{name}"));
    assert_eq!(learn(&held, 64), learn(&stored, 0), "{name}");
    for file in ["vocab.json", "labels.json", "evaluation.json"] {
        let read = |run: &str| home.read(&format!("{run}/{file}"));
        assert_eq!(read(&held), read(&stored), "{name}: {file}");
    }
    assert!(home.weights(&held) == home.weights(&stored), "{name}: other weights");
    let eval = |run: &str| {
        let mut told = home.carousel(&format!("eval {run} --data {other} --json")).succeeds().json();
        told["run"] = serde_json::Value::Null;
        told
    };
    assert_eq!(eval(&held), eval(&stored), "{name}");
}

#[test]
fn tables_that_are_read_row_by_row_are_learned_alike() {
    let home = Home::new();
    home.write("classify.toml", CLASSIFY);
    home.write("tables/a.csv", animals(200));
    home.write("tables/b.csv", animals(61));
    home.write("more.csv", animals(40));
    for (name, more) in [
        ("char", ""),
        ("word", "--set data.tokens=word --set data.group=author --set data.max_length=3"),
        ("given", "--set data.tokens=byte --valid more.csv --set train.class_weights=balanced"),
    ] {
        learned_alike(&home, "train classify.toml --data tables", "more.csv", (name, more));
    }
    // Byte pairs are batched by their characters: another order, the same task.
    let bpe = "--set data.memory=0 --set data.tokens=bpe --set data.vocab_size=270";
    home.resumes_to_the_bit(&format!("train classify.toml --data tables {bpe}"), 17, 40);
    // When a run goes on, a path begins as it was given at first.
    home.write("tables/c.csv", animals(30));
    let by_path = "--set data.memory=0 --set data.file_group=^tables/(.)[.]csv$";
    home.resumes_to_the_bit(&format!("train classify.toml --data tables {by_path}"), 17, 40);
}

const TAG: &str = "\
task = \"tag\"

[data]
split = [0.6, 0.2, 0.2]

[model]
hidden = 8
embedding = 6

[train]
epochs = 2.0
batch = 8
learning_rate = 0.02
";

/// Sentences about animals, word by word.
fn tagged(sentences: usize) -> String {
    let sentence = |number: usize| {
        let animal = ["cat", "dog", "cow"][number % 3];
        let filling = "and O\n".repeat(number * 7 % 5);
        let rare = if number % 50 == 7 { "gnu S-RARE\n" } else { "" };
        format!("the O\n{filling}{animal} B-ANIMAL\n{rare}sleeps _\n\n")
    };
    (0..sentences).map(sentence).collect()
}

#[test]
fn sentences_that_are_read_one_by_one_are_learned_alike() {
    let home = Home::new();
    home.write("tag.toml", TAG);
    home.write("texts/a.txt", tagged(150));
    home.write("texts/b.txt", tagged(71));
    home.write("more.txt", tagged(40));
    for (name, more) in [
        ("words", ""),
        ("letters", "--set model.characters=4 --set data.max_length=3 --set train.metric=span_f1"),
        ("given", "--valid more.txt --set data.min_count=2 --set data.file_group=([ab])[.]txt$"),
    ] {
        learned_alike(&home, "train tag.toml --data texts", "more.txt", (name, more));
    }
    home.resumes_to_the_bit("train tag.toml --data texts --set data.memory=0", 7, 30);
    // Where whole files are dealt, one that alone has a tag is learned from, however often it has it.
    for file in 0..20 {
        home.write(&format!("domains/{file}.txt"), tagged(60));
    }
    home.write("domains/gene.txt", tagged(66).replace("ANIMAL", "GENE"));
    for seed in 1..=4 {
        let more = format!("--set data.file_group=(.*) --set train.epochs=0.2 --seed {seed}");
        let name = format!("domains-{seed}");
        learned_alike(&home, "train tag.toml --data domains", "more.txt", (&name, &more));
        assert!(home.read(&format!("stored-{name}/labels.json")).contains("B-GENE"));
    }
    // A tag that training did not have is named with its line, as of files that are held.
    home.write("odd.txt", "the O\ncat B-ANIMAL\n\nthe O\nsun B-STAR\n");
    for memory in [64, 0] {
        let set = format!("--valid odd.txt --out odd{memory} --set data.memory={memory}");
        home.carousel(&format!("train tag.toml --data texts {set}")).fails(1, &["odd.txt:4: ", "B-STAR"]);
    }
}

#[test]
fn what_is_wrong_with_a_large_table_is_named() {
    let home = Home::new();
    home.write("classify.toml", CLASSIFY);
    home.write("good.csv", animals(100));
    home.write("uneven.csv", animals(50) + "only text\n");
    home.write("other.csv", "text,label,author\n\nit roars,lion,1\n");
    home.write("one.csv", "text,label,author\nit roars,lion,1\nit purrs,lion,1\nit sleeps,lion,1\n");
    let check = |data: &str, expected: &[&str]| {
        home.carousel(&format!("train classify.toml --out run --set data.memory=0 --data {data}"))
            .fails(1, expected);
        assert!(!home.exists("run"), "{data}: a run was left behind");
    };
    check("uneven.csv", &["uneven.csv:52: 1 fields, expected 3 as in the header"]);
    check("good.csv --valid other.csv", &["other.csv:3: \"lion\" does not occur in the training part"]);
    check("good.csv --set data.text=words", &["good.csv: no column is named \"words\"", "set data.text"]);
    let open = "it purrs,lion,1\n".repeat(200);
    home.write("open.csv", format!("author,label,text\n1,lion,it roars\n1,lion,\"{open}"));
    check("open.csv", &["open.csv:3: a field of more than 100 lines; a quote mark may be open"]);
    check("one.csv", &["the training part has one class, \"lion\""]);
}
