//! Forecasts of series: training, the back-test beside simple forecasts, answering, going on, and everything that
//! tables can have wrong.

mod support;

use support::Home;

const RECIPE: &str = "\
task = \"forecast\"
[data]
id = \"shop\"
time = \"day\"
window = 14
horizon = 5
season = 7
[model]
hidden = 12
base = \"season\"
[train]
epochs = 15
batch = 16
learning_rate = 0.02
log_every = 50
";

/// What a shop sells on a day: weeks, and a trend.
fn sold(shop: usize, day: usize) -> f64 {
    let week = [3.0, 5.0, 4.0, 6.0, 9.0, 14.0, 1.0][(day + shop) % 7];
    (100 * shop + 50) as f64 + week * (1 + shop) as f64 + day as f64 * 0.2
}

fn table(days: std::ops::Range<usize>) -> String {
    let mut text = "day,shop,sold,price\n".to_owned();
    for day in days {
        for shop in 0..2 {
            text.push_str(&format!("{day},shop {shop},{:.3},{}\n", sold(shop, day), day % 7));
        }
    }
    text
}

fn home() -> Home {
    let home = Home::new();
    home.write("recipe.toml", RECIPE);
    home.write("shops.csv", table(0..200));
    home
}

#[test]
fn series_are_forecast_better_than_by_repetition() {
    let home = home();
    let said = home
        .carousel("train recipe.toml --data shops.csv --out run --json --set data.targets=sold")
        .succeeds();
    assert!(said.stderr.contains("seasonal naive"), "{}", said.stderr);
    let told = said.json();
    assert!(told["test_mase"].as_f64() < Some(0.8), "{told}");

    let eval = home.carousel("eval run --data shops.csv").succeeds().stdout;
    assert!(eval.lines().all(|line| line.chars().count() <= 80), "{eval}");
    let eval = home.carousel("eval run --data shops.csv --json").succeeds().json();
    // Two shops of 200 days; 14 days before a forecast, 5 in it.
    assert_eq!(eval["windows"], 2 * (200 - 14 - 5 + 1));
    assert_eq!(eval["steps"].as_array().map(Vec::len), Some(5));
    let mae = |who: &str| eval["errors"][who]["mae"].as_f64().expect("it is a number");
    assert!(mae("model") < mae("seasonal") && mae("seasonal") < mae("naive"), "{eval}");
    // A week later everything is 1.4 higher, whatever the shop.
    assert!((mae("seasonal") - 1.4).abs() < 1e-3, "{eval}");

    let page = home.read("run/report.html");
    for part in ["Back-test", "seasonal naive", "Error by step", "what came", "shop 1"] {
        assert!(page.contains(part), "no {part} in the report");
    }
}

#[test]
fn what_comes_next_is_answered_as_a_table() {
    let home = home();
    let more = "--set data.targets=sold --set model.quantiles=[0.1,0.5,0.9] --set data.features=price";
    home.carousel(&format!("train recipe.toml --data shops.csv --out run {more}")).succeeds();
    let said = home.carousel("predict run shops.csv").succeeds().stdout;
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "series,column,step,forecast,q0.1,q0.5,q0.9");
    assert_eq!(lines.len(), 1 + 2 * 5);
    for (place, line) in lines[1..].iter().enumerate() {
        let fields: Vec<&str> = line.split(',').collect();
        let (shop, ahead) = (place / 5, place % 5);
        assert_eq!(fields[..3], [format!("shop {shop}"), "sold".to_owned(), (ahead + 1).to_string()]);
        let values: Vec<f64> = fields[3..].iter().map(|field| field.parse().expect("a number")).collect();
        assert!(values[1] <= values[2] && values[2] <= values[3] && values[0] == values[2], "{line}");
        let error = (values[0] - sold(shop, 200 + ahead)).abs();
        assert!(error < 4.0 * (1 + shop) as f64, "{line}: {error}");
    }
    let piped = home.shell(&format!("{} predict run < shops.csv", env!("CARGO_BIN_EXE_carousel"))).succeeds();
    assert_eq!(piped.stdout, said);
    let objects = home.carousel("predict run shops.csv --json").succeeds().stdout;
    let first: serde_json::Value =
        serde_json::from_str(objects.lines().next().expect("a line")).expect("JSON");
    assert_eq!(first["after"], "199");
    assert_eq!(first["columns"]["sold"]["quantiles"]["0.9"].as_array().map(Vec::len), Some(5));
    assert_eq!(objects.lines().count(), 2);
    home.write("short.csv", table(0..13));
    home.carousel("predict run short.csv").fails(
        1,
        &["short.csv:2: series \"shop 0\" has 13 steps, expected at least 14 to look back at", "data.window"],
    );
    // Beside others a series that is too short is told, and left out.
    let short = table(0..13);
    let kiosk = short
        .lines()
        .filter(|line| line.contains("shop 0"))
        .map(|line| line.replace("shop 0", "kiosk") + "\n");
    home.write("both.csv", table(0..200) + &kiosk.collect::<String>());
    let answered = home.carousel("predict run both.csv").succeeds();
    assert_eq!(answered.stdout, said);
    assert!(
        answered.stderr.contains("left out: both.csv:402: series \"kiosk\" has 13 steps"),
        "{}",
        answered.stderr
    );
    home.carousel("predict run text.txt").fails(1, &["text.txt"]);
    let coverage = home.carousel("eval run --data shops.csv").succeeds().stdout;
    assert!(coverage.contains("pinball loss") && coverage.contains("at or below"), "{coverage}");
}

#[test]
fn several_columns_scales_and_models_are_learned() {
    let home = home();
    for (name, more) in [
        ("window", "--set data.scaling=window --set model.cell=gru"),
        ("global", "--set data.scaling=global --set data.targets=sold,price"),
        ("dense", "--set model.cell=none --set train.loss=huber"),
        ("both", "--set model.direction=both --set train.loss=mae --set data.stride=2"),
    ] {
        let run = format!("train recipe.toml --data shops.csv --out {name} --json {more}");
        let told = home.carousel(&run).succeeds().json();
        assert!(told["test_mase"].as_f64().is_some_and(|mase| mase < 1.5), "{name}: {told}");
    }
    let both = home.carousel("eval global --data shops.csv").succeeds().stdout;
    assert!(both.contains("price: model") && both.contains("sold: seasonal naive"), "{both}");
    // Each file is a series where no column tells them apart, and others may be given to validate and to test.
    home.write("bare.toml", "task = \"forecast\"\n[data]\nwindow = 4\nhorizon = 2\n[train]\nepochs = 1\n");
    let rows = |from: usize| -> String {
        "x\n".to_owned() + &(from..from + 40).map(|t| format!("{}\n", t % 5)).collect::<String>()
    };
    for (name, from) in [("a", 0), ("b", 2), ("c", 3), ("d", 4)] {
        home.write(&format!("{name}.csv"), rows(from));
    }
    let told =
        home.carousel("train bare.toml --data a.csv b.csv --valid c.csv --test d.csv --out bare").succeeds();
    assert!(told.stderr.contains("training           2 sequences of 40 steps"), "{}", told.stderr);
    assert!(told.stderr.contains("test               1 sequence of 40 steps"), "{}", told.stderr);
}

#[test]
fn the_training_part_alone_sets_the_scale() {
    let home = home();
    home.carousel("train recipe.toml --data shops.csv --out plain").succeeds();
    // Days of validation and test are ten times as large; what is learned from the days before is not to change.
    let changed: String = table(0..140)
        + table(140..200)
            .replace(",shop 0,", ",shop 0,9")
            .lines()
            .skip(1)
            .map(|line| format!("{line}\n"))
            .collect::<String>()
            .as_str();
    home.write("changed.csv", changed);
    home.carousel("train recipe.toml --data changed.csv --out changed").succeeds();
    assert_eq!(home.read("plain/labels.json"), home.read("changed/labels.json"));
}

#[test]
fn a_stopped_run_goes_on() {
    let home = home();
    let first = |name: &str, steps: usize| {
        home.carousel(&format!(
            "train recipe.toml --data shops.csv --out {name} --set train.steps={steps} --set train.validate_every=10"
        ))
        .succeeds();
    };
    first("whole", 30);
    first("parts", 20);
    let config = home.read("parts/config.toml").replace("steps = 20", "steps = 30");
    home.write("parts/config.toml", config);
    home.carousel("train --resume --out parts").succeeds();
    assert_eq!(home.bytes("whole/model.safetensors"), home.bytes("parts/model.safetensors"));
}

/// Series that have the names of their files have them still when a run goes on, and so the scales that it began with.
#[test]
fn a_stopped_run_of_files_goes_on() {
    let home = home();
    home.write("bare.toml", RECIPE.replace("id = \"shop\"\n", ""));
    for shop in 0..2 {
        let rows: String =
            (0..120).map(|day| format!("{day},{:.3},{}\n", sold(10 * shop, day), day % 7)).collect();
        home.write(&format!("{shop}.csv"), format!("day,sold,price\n{rows}"));
    }
    home.resumes_to_the_bit("train bare.toml --data 0.csv 1.csv --set train.validate_every=10", 20, 30);
    assert!(home.read("whole/labels.json").contains("\"0.csv\""));
    assert_eq!(home.read("whole/forecasts.json"), home.read("half/forecasts.json"));
}

#[test]
fn options_that_forecasts_have_no_use_for_are_refused() {
    let home = home();
    home.carousel("train recipe.toml --data shops.csv --out run --set train.epochs=1").succeeds();
    home.carousel("predict run shops.csv --beam 3")
        .fails(2, &["--beam has no effect with a run of the task forecast"]);
    home.carousel("predict run shops.csv --probabilities").fails(2, &["--probabilities has no effect"]);
    home.carousel("eval run --data shops.csv --max-ratio 3").fails(2, &["--max-ratio has no effect"]);
}

#[test]
fn everything_wrong_with_series_is_named() {
    let home = home();
    let check = |name: &str, text: &str, more: &str, expected: &[&str]| {
        home.write(name, text);
        home.carousel(&format!("train recipe.toml --out run --data {name} {more}")).fails(1, expected);
        assert!(!home.exists("run"), "{name}: a run was left behind");
    };
    let good = table(0..100);
    let with = |line: &str| {
        let mut lines: Vec<&str> = good.lines().collect();
        lines[7] = line;
        lines.join("\n")
    };
    check(
        "words.csv",
        &with("3,shop 0,many,1"),
        "",
        &["words.csv:8: column \"sold\" is \"many\", expected a number"],
    );
    check(
        "nan.csv",
        &with("3,shop 0,NaN,1"),
        "",
        &["nan.csv:8: column \"sold\" is \"NaN\"", "fill the hole"],
    );
    check("hole.csv", &with("3,shop 0,,1"), "", &["hole.csv:8: column \"sold\" is \"\", expected a number"]);
    check("uneven.csv", &with("3,shop 0,4"), "", &["uneven.csv:8: 3 fields, expected 4 as in the header"]);
    check(
        "back.csv",
        &with("1,shop 0,4,1"),
        "",
        &["back.csv:8: series \"shop 0\": \"1\" does not come after \"2\" on line 6"],
    );
    check("time.csv", &with("soon,shop 0,4,1"), "", &["time.csv:8: the time is \"soon\""]);
    let gap: String =
        good.lines().filter(|line| !line.starts_with("50,")).map(|line| format!("{line}\n")).collect();
    check(
        "gap.csv",
        &gap,
        "",
        &[
            "gap.csv:102: series \"shop 0\": the step from line 100 to here is 2.000 times",
            "data.gaps=ignore",
        ],
    );
    check(
        "columns.csv",
        &good,
        "--set data.targets=price,cost",
        &[
            "columns.csv: no column is named \"cost\", expected one of day, shop, sold, price; set data.targets",
        ],
    );
    check("twice.csv", &good, "--set data.targets=price --set data.features=price", &["named twice"]);
    check("id.csv", &good, "--set data.id=store", &["no column is named \"store\"", "set data.id"]);
    check(
        "short.csv",
        &table(0..20),
        "",
        &[
            "no series has enough steps in its training part: the longest has 14, expected 14 to look back at",
            "5 to forecast (data.horizon)",
        ],
    );
    check(
        "shares.csv",
        &table(0..60),
        "--set data.split=[0.95,0.05,0]",
        &["its validation part: the longest has 3, expected 5 to forecast"],
    );
    check(
        "bare.csv",
        "day,shop\n1,a\n",
        "",
        &["it has no column to forecast, expected one; set data.targets"],
    );
    home.carousel("train forecast").fails(2, &["the task forecast needs --data"]);
    home.carousel("train recipe.toml --data shops.csv --set data.tokens=word")
        .fails(2, &["data.tokens has no effect"]);
    home.carousel("train lm --data shops.csv --set data.window=3")
        .fails(2, &["data.window has no effect with task = \"lm\""]);
}
