//! Text that is not held in memory, but read piece by piece: what is learned and measured is the same.

mod support;

use support::{Home, rhyme};

#[test]
fn what_is_read_piece_by_piece_is_learned_alike() {
    let home = Home::new();
    home.write("texts/a.txt", rhyme(9000));
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
    // A run that was stopped goes on, and knows its text again.
    let config = home.read("stored-char/config.toml").replace("steps = 60", "steps = 70");
    home.write("stored-char/config.toml", config);
    let said = home.carousel("train --resume --out stored-char").succeeds();
    assert!(
        said.stderr.contains("resumed after step 60") && !said.stderr.contains("warning"),
        "{}",
        said.stderr
    );
    home.write("texts/b.txt", "another text\n".repeat(100));
    let config = home.read("stored-char/config.toml").replace("steps = 70", "steps = 80");
    home.write("stored-char/config.toml", config);
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
