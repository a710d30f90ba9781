//! `carousel inspect` on a tiny run: every view, its options, and what it refuses.

mod support;

use serde_json::Value;
use support::Home;

/// A run on text with quotations and brackets.
fn home() -> Home {
    let home = Home::new();
    let line = "she said \"wait (a bit) for me\" and went {home (at 12) by train}.\n";
    home.write("quotes.txt", line.repeat(60));
    home.carousel("train tiny.toml --data quotes.txt --out run").succeeds();
    home
}

/// Words of every length up to eleven.
fn words() -> String {
    (1..900).map(|n| "a".repeat(1 + n * n * 7919 % 11) + " ").collect()
}

fn names(line: &Value) -> Vec<String> {
    let findings = line["findings"].as_array().expect("a list");
    findings.iter().map(|finding| finding["property"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn cells_are_found_with_all_that_belongs_to_them() {
    let home = home();
    let line = home.carousel("inspect cells run --data quotes.txt --shifts 9 --json").succeeds().json();
    let found = names(&line);
    for name in ["double-quotes", "parentheses", "line-position"] {
        assert!(found.contains(&name.to_owned()), "{name} in {found:?}");
    }
    assert!(line["absent"].as_array().is_some_and(|absent| absent.iter().any(|name| name == "comment")));
    assert_eq!(line["searched"], 32, "h and c of one layer of 16 units");
    assert_eq!(line["level"], 0.1);
    for finding in line["findings"].as_array().expect("a list") {
        let score = finding["units"][0]["held_out"].as_f64().expect("a number");
        assert!((-1.0..=1.0).contains(&score), "{finding}");
        assert_eq!(finding["probes"].as_array().map(Vec::len), Some(4), "{finding}");
    }
    for passage in line["passages"].as_array().expect("a list") {
        let most = passage["most_active"].as_array().expect("a list");
        assert!((1..=5).contains(&most.len()), "{passage}");
        assert!(
            most.iter().all(|one| one["text"].as_str().is_some_and(|text| text.len() == 76)),
            "{passage}"
        );
    }
    let shown = home.carousel("inspect cells run --data quotes.txt --shifts 9").succeeds().stdout;
    for part in ["double-quotes", "line-position", "chance", "last 3", "units that stand out"] {
        assert!(shown.contains(part), "no {part} in\n{shown}");
    }
    for line in shown.lines() {
        assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
    }
}

#[test]
fn every_way_to_name_a_property_is_searched() {
    let home = home();
    home.write("labels.txt", "0 1 2 ".repeat(60 * 70));
    let line = home
        .carousel(
            "inspect cells run --data quotes.txt --shifts 4 --find braces --regex word=(\\w+) \
             --words motion=went,train --labels third=labels.txt --signals o --json",
        )
        .succeeds()
        .json();
    assert_eq!(names(&line), ["braces", "word", "motion", "third"]);
    assert_eq!(line["searched"], 16);
    assert_eq!(line["findings"][3]["number"], true);
    assert_eq!(line["findings"][0]["units"][0]["unit"]["signal"], "o");
    let all = "inspect cells run --data quotes.txt --find newline --shifts 4 --json --signals";
    assert_eq!(home.carousel(&format!("{all} all")).succeeds().json()["searched"], 6 * 16, "h c i f g o");
    // A gate is operated on by the h of its unit.
    home.write("words.txt", words());
    let gates = "inspect cells run --data words.txt --find word-start --shifts 4 --json --signals i f";
    let line = home.carousel(gates).succeeds().json();
    assert_eq!((&line["searched"], &line["findings"][0]["found"]), (&32.into(), &true.into()), "{line}");
    assert_eq!(line["surgery"][0]["effect"]["unit"], line["findings"][0]["units"][0]["unit"]["unit"]);
}

/// Columns of a terminal: here every Korean character takes two.
fn columns(line: &str) -> usize {
    line.chars()
        .map(|c| {
            if ('\u{1100}'..='\u{d7a3}').contains(&c) && !"…⏎▁▂▃▄▅▆▇█".contains(c) {
                2
            } else {
                1
            }
        })
        .sum()
}

#[test]
fn wide_characters_have_wide_bars() {
    let home = Home::new();
    let text: String = words().split(' ').map(|word| format!("{} ", word.replace('a', "말"))).collect();
    home.write("korean.txt", text.repeat(2));
    home.carousel("train tiny.toml --data korean.txt --out run").succeeds();
    let shown = home.carousel("inspect cells run --data korean.txt --find word-start").succeeds().stdout;
    let lines: Vec<&str> = shown.lines().collect();
    let pictures = lines.windows(2).filter(|pair| pair[0].contains("말 말"));
    let mut count = 0;
    for pair in pictures {
        assert!(columns(pair[0]) <= 80 && columns(pair[1]) <= columns(pair[0]), "{}\n{}", pair[0], pair[1]);
        assert!(columns(pair[1]) > 60, "{}", pair[1]);
        count += 1;
    }
    assert!(count > 0, "{shown}");
    let shown = home.carousel("inspect errors run --data korean.txt").succeeds().stdout;
    assert!(shown.lines().all(|line| columns(line) <= 80), "{shown}");
}

#[test]
fn documents_that_are_lines_are_read_so() {
    let home = Home::new();
    let names: String =
        (1..120).map(|n| format!("{}{}\n", ["ka", "lo", "mi"][n % 3], n * n * 31 % 97)).collect();
    home.write("names.txt", &names);
    home.carousel("train lm --data names.txt --out run --set data.documents=lines --set model.hidden=16 --set train.epochs=4")
        .succeeds();
    let measured = home.carousel("eval run --data names.txt --json").succeeds().json();
    let line = home.carousel("inspect errors run --data names.txt --json").succeeds().json();
    let loss = |value: &Value| value.as_f64().expect("a number");
    assert_eq!(line["all"]["tokens"], measured["tokens"]);
    assert!((loss(&line["all"]["loss"]) - loss(&measured["loss"])).abs() < 1e-4, "{line} {measured}");
    assert_eq!(
        line["counted"].as_u64().map(|counted| counted < names.len() as u64 + 119),
        Some(true),
        "{line}"
    );
    // All else reads lines as well.
    home.carousel("inspect gates run --data names.txt").succeeds();
    home.carousel("inspect cells run --data names.txt --shifts 4 --html units.html").succeeds();
}

#[test]
fn a_unit_that_cannot_be_held_alone_is_not_operated_on() {
    let home = Home::new();
    home.write("words.txt", words());
    let residual = "--set model.residual=true --set model.layers=2";
    home.carousel(&format!("train tiny.toml --data words.txt --out run {residual}")).succeeds();
    let said =
        home.carousel("inspect cells run --data words.txt --find word-start --shifts 4 --json").succeeds();
    assert_eq!(said.json()["findings"][0]["found"], true);
    assert_eq!(said.json()["surgery"], serde_json::json!([]));
    assert!(said.stderr.contains("no surgery"), "{}", said.stderr);
}

#[test]
fn the_page_holds_text_and_units() {
    let home = home();
    home.carousel("inspect cells run --data quotes.txt --shifts 4 --html units.html").succeeds();
    let page = home.read("units.html");
    assert!(page.starts_with("<!doctype html>") && page.len() < 20_000_000);
    let data = page.split("id=\"data\">").nth(1).and_then(|rest| rest.split("</script>").next());
    let data: Value = serde_json::from_str(data.expect("the page's data")).expect("JSON");
    assert_eq!(data["units"].as_array().map(Vec::len), Some(16), "all there are");
    let signals = data["units"][0]["signals"].as_array().expect("a list");
    let names: Vec<&str> = signals.iter().filter_map(|signal| signal["name"].as_str()).collect();
    assert_eq!(names, ["h", "c", "i", "f", "g", "o"]);
    assert!(data["tokens"].as_array().is_some_and(|tokens| tokens.len() > 3000));
}

#[test]
fn gates_gradients_and_errors_are_shown_and_told() {
    let home = home();
    let gates = home.carousel("inspect gates run --data quotes.txt --json").succeeds().json();
    assert_eq!(gates["gates"].as_array().map(Vec::len), Some(3), "i, f and o of one layer");
    let shown = home.carousel("inspect gates run --data quotes.txt").succeeds().stdout;
    assert!(shown.contains("time constants"), "{shown}");

    let command = "inspect gradients run --data quotes.txt --lags 20 --places 4 --compare rnn,gru \
                   --init xavier,identity --activation tanh,relu";
    let line = home.carousel(&format!("{command} --json")).succeeds().json();
    let flows = line["flows"].as_array().expect("a list");
    let names: Vec<&str> = flows.iter().filter_map(|flow| flow["name"].as_str()).collect();
    let expected = [
        "trained",
        "rnn tanh xavier",
        "rnn tanh identity",
        "rnn relu xavier",
        "rnn relu identity",
        "gru xavier",
        "gru identity",
    ];
    assert_eq!(names, expected);
    assert_eq!(flows[0]["layers"][0]["h"].as_array().map(Vec::len), Some(21));
    assert_eq!(flows[0]["layers"][0]["c"].as_array().map(Vec::len), Some(21), "an LSTM");
    assert!(line["training"].as_array().is_some_and(|lines| lines.len() == 60));
    let shown = home.carousel(command).succeeds().stdout;
    for part in ["rnn relu identity", "radius", "last tenth"] {
        assert!(shown.contains(part), "no {part} in\n{shown}");
    }

    let errors = home.carousel("inspect errors run --data quotes.txt --json").succeeds().json();
    let all = &errors["all"];
    assert!(all["ngrams"][5].as_f64() < all["ngrams"][0].as_f64(), "{all}");
    let own = home.carousel("inspect errors run --data quotes.txt --train text.txt --json").succeeds().json();
    assert!(own["all"]["ngrams"][5].as_f64() > all["ngrams"][5].as_f64(), "another text tells less");
    let shown = home.carousel("inspect errors run --data quotes.txt").succeeds().stdout;
    for part in ["closing bracket", "6-gram", "the net is nowhere ahead of the best n-gram"] {
        assert!(shown.contains(part), "no {part} in\n{shown}");
    }
    // N-grams of another text know less, and no place is listed twice.
    let ahead = home.carousel("inspect errors run --data quotes.txt --train text.txt").succeeds().stdout;
    let (_, listed) = ahead.split_once("what the net knew better").expect("a heading");
    let mut lines: Vec<&str> = listed.lines().skip(1).collect();
    let count = lines.len();
    lines.sort_unstable();
    lines.dedup();
    assert!(count > 3 && lines.len() == count, "{ahead}");
    for table in [&shown, &ahead, &home.carousel("inspect gates run --data quotes.txt").succeeds().stdout] {
        for line in table.lines() {
            assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
        }
    }
}

/// A cell that the kernels do not know is looked into the same way, as far as that needs no kernel.
#[test]
fn minimal_cells_are_looked_into() {
    let home = home();
    home.carousel("train tiny.toml --data quotes.txt --out min --set model.cell=min-gru").succeeds();
    let gates = home.carousel("inspect gates min --data quotes.txt --json").succeeds().json();
    let names: Vec<&str> =
        gates["gates"].as_array().expect("a list").iter().filter_map(|gate| gate["name"].as_str()).collect();
    assert_eq!(names, ["z", "k"]);
    home.carousel("inspect cells min --data quotes.txt --shifts 4 --html units.html").succeeds();
    home.carousel("inspect cells min --data quotes.txt --signals f").fails(2, &["min-gru has h, z, k, n"]);
    home.carousel("inspect errors min --data quotes.txt").succeeds();
    home.carousel("sample min --length 20").succeeds();
    home.carousel("inspect gradients min --data quotes.txt").fails(1, &["rnn, lstm and gru", "min-gru"]);
}

#[test]
fn every_view_has_a_page() {
    let home = home();
    let check = |view: &str, parts: &[&str]| {
        home.carousel(&format!("inspect {view} --html page.html")).succeeds();
        let page = home.read("page.html");
        assert!(page.starts_with("<!doctype html>"), "{view}");
        for part in parts {
            assert!(page.contains(part), "{view}: no {part}");
        }
    };
    check(
        "gates run --data quotes.txt",
        &["f of layer 0", "<title>unit 15: shut", "How long units remember"],
    );
    check(
        "gradients run --data quotes.txt --lags 20 --places 4 --compare rnn,gru --activation tanh,relu",
        &["Layer 0", "trained c", "rnn relu orthogonal", "Clipped steps", "tokens back"],
    );
    check(
        "errors run --data quotes.txt --train text.txt",
        &["closing bracket", "6-grams", "What the net knew better", "<mark>"],
    );
    let said = home.carousel("inspect gates run --data quotes.txt --html no/page.html");
    said.fails(1, &["could not write no/page.html"]);
}

#[test]
fn a_recording_is_an_archive_of_arrays() {
    let home = home();
    let command = "inspect record run --data quotes.txt --tokens 100 --signals c f --out states.npz";
    let line = home.carousel(&format!("{command} --json")).succeeds().json();
    let arrays = line["arrays"].as_array().expect("a list");
    assert_eq!(arrays[0]["name"], "c_l0");
    assert_eq!(arrays[0]["shape"], serde_json::json!([100, 16]));
    let bytes = home.bytes("states.npz");
    assert_eq!(&bytes[..4], b"PK\x03\x04");
    let text = String::from_utf8_lossy(&bytes);
    for part in ["c_l0.npy", "f_l0.npy", "tokens.npy", "'shape': (100, 16,)"] {
        assert!(text.contains(part), "no {part}");
    }
    assert!(home.files(".").iter().all(|name| !name.contains(".states.npz")), "nothing else is left");
    home.carousel(command).fails(2, &["states.npz exists"]);
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let home = home();
    let check = |options: &str, code: i32, message: &[&str]| {
        home.carousel(&format!("inspect {options}")).fails(code, message);
    };
    check("cells run", 2, &["--data"]);
    check("cells nowhere --data quotes.txt", 1, &["nowhere is no run"]);
    check("cells run --data quotes.txt --find cats", 2, &["--find cats", "double-quotes"]);
    check("cells run --data quotes.txt --regex x", 2, &["--regex x", "NAME=PATTERN"]);
    check("cells run --data quotes.txt --regex x=(", 2, &["\"(\" is not a regular expression"]);
    check("cells run --data quotes.txt --labels x=tiny.toml", 1, &["tiny.toml", "label 1"]);
    check("cells run --data quotes.txt --signals z", 2, &["--signals z", "lstm has h, c, i, f, g, o"]);
    check("cells run --data quotes.txt --hold up", 2, &["mean, zero or a number"]);
    check("gates run --data quotes.txt --streams 0", 2, &["whole number from 1"]);
    check("cells run --data quotes.txt --tokens 0", 2, &["whole number from 1"]);
    check("cells run --data quotes.txt --tokens 50", 1, &["50 tokens", "at least 200"]);
    check("record run --data quotes.txt --out x.npz --layers 1", 2, &["layers 0 to 0"]);
    check("record run --data quotes.txt --out no/x.npz", 1, &["could not write no/x.npz"]);
    for view in ["cells", "gates", "gradients", "errors"] {
        let said = format!("{view} run --data quotes.txt --html");
        check(&format!("{said} no/x.html"), 1, &["could not write no/x.html"]);
        check(&format!("{said} run"), 1, &["could not write run"]);
    }
    check("gradients run --data quotes.txt --lags 9000", 1, &["--lags 9000"]);
    check("gradients run --data quotes.txt --init xavier", 2, &["--compare"]);
}

#[test]
fn a_run_that_breaks_says_where_and_can_be_looked_at_again() {
    let home = Home::new();
    let command = "train tiny.toml --data text.txt --out broken --set model.cell=rnn --set model.activation=relu \
                   --set train.optimizer=sgd --set train.learning_rate=1000 --set train.clip_norm=0";
    let said =
        home.carousel(command).fails(1, &["is not finite", "layer 0", "at time step", "try:", "--replay"]);
    assert!(said.stderr.contains("no checkpoint was saved before"), "{}", said.stderr);
    let files = home.files("broken");
    let file = files.iter().find(|name| name.contains("diverged-")).expect("the batch was saved");
    let line = home.carousel(&format!("train --replay {file} --json")).succeeds().json();
    let origin = line["origin"].as_str().expect("text");
    assert!(said.stderr.contains(origin), "{origin} in\n{}", said.stderr);
    // As it was told when it broke.
    let norm = format!("last gradient norm {:.3e}", line["gradient_norm"].as_f64().expect("a number"));
    assert!(line["gradient_norm"].as_f64() > Some(0.0) && said.stderr.contains(&norm), "{}", said.stderr);
    let shown = home.carousel(&format!("train --replay {file}")).succeeds().stdout;
    assert!(shown.contains(origin) && shown.contains("try:"), "{shown}");
    home.carousel("train --replay text.txt").fails(1, &["error: text.txt is damaged or foreign"]);
    home.carousel("train --replay nowhere").fails(1, &["error: could not read nowhere: No such file"]);
    home.carousel(&format!("train --replay {file} --data text.txt")).fails(2, &["--data"]);
}
