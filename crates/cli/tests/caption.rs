//! From images, or features, to sentences about them: training, measuring, answering, going on, and the report.

mod support;

use serde_json::Value;
use support::Home;

const RECIPE: &str = "\
task = \"caption\"
[data]
image_size = 8
[model]
hidden = 24
embedding = 12
filters = 4
convolutions = 1
[train]
steps = 160
batch = 16
learning_rate = 0.02
log_every = 40
";

/// A small square, red or blue, left or right, in a dark picture; and two sentences about it.
fn picture(number: usize) -> (image::RgbImage, [String; 2]) {
    let (colour, side) = (["red", "blue"][number % 2], ["left", "right"][number / 2 % 2]);
    let (column, row) = (if side == "left" { 0 } else { 5 } + number / 4 % 2, number / 8 % 6);
    let image = image::RgbImage::from_fn(8, 8, |x, y| {
        let inside = (column..column + 2).contains(&(x as usize)) && (row..row + 2).contains(&(y as usize));
        let shade = 200 + (number * 7 % 50) as u8;
        image::Rgb(match (inside, colour) {
            (true, "red") => [shade, 0, 0],
            (true, _) => [0, 0, shade],
            _ => [(number % 9) as u8; 3],
        })
    });
    (image, [format!("A {colour} square is {side}."), format!("There's {colour}, {side}")])
}

/// `[places, 2]` in the format of NumPy.
fn npy(values: &[[f32; 2]]) -> Vec<u8> {
    let shape = format!("({}, 2)", values.len());
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
    while !(header.len() + 11).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    values.iter().flatten().for_each(|value| bytes.extend(value.to_le_bytes()));
    bytes
}

/// `data/pictures.tsv` with two captions a picture, apart from each other, and `data/p/`.
fn home() -> Home {
    let home = Home::new();
    home.write("recipe.toml", RECIPE);
    let mut table = "image\tcaption\n".to_owned();
    for caption in 0..2 {
        for number in 0..96 {
            let (image, texts) = picture(number);
            home.write(&format!("data/p/{number:02}.png"), "");
            image.save(home.path(&format!("data/p/{number:02}.png"))).expect("it is written");
            table.push_str(&format!("p/{number:02}.png\t{}\n", texts[caption]));
        }
    }
    home.write("data/pictures.tsv", table);
    home
}

fn weights(home: &Home, run: &str) -> Vec<u8> {
    let latest = home.read(&format!("{run}/latest"));
    home.bytes(&format!("{run}/{}/model.safetensors", latest.trim()))
}

#[test]
fn pictures_are_learned_from_measured_and_written_about() {
    let home = home();
    let said = home.carousel("train recipe.toml --data data/pictures.tsv --out run --json").succeeds();
    let summary = said.json();
    for (score, least) in [("bleu", 70.0), ("bleu_1", 80.0), ("rouge_l", 0.8), ("test_bleu", 70.0)] {
        assert!(summary[score].as_f64() > Some(least), "{score} in {summary}");
    }
    let measured = home.carousel("eval run --data data/pictures.tsv --json").succeeds().json();
    assert_eq!((&measured["subjects"], &measured["references"]), (&96.into(), &192.into()));
    assert!(measured["exact_match"].as_f64() > Some(0.8), "{measured}");
    let scores: Vec<f64> =
        ["bleu_1", "bleu_2", "bleu_3", "bleu"].iter().filter_map(|name| measured[name].as_f64()).collect();
    assert!(scores.len() == 4 && scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    let text = home.carousel("eval run --data data/pictures.tsv --beam 1").succeeds().stdout;
    for part in ["96 with 192 captions", "teacher-forced perplexity", "ROUGE-L", "BLEU-1, 2, 3, 4", "BLEU = "]
    {
        assert!(text.contains(part), "{part} in {text}");
    }

    let told = home.carousel("predict run data/p/00.png data/p/03.png").succeeds().stdout;
    let lines: Vec<&str> = told.lines().collect();
    assert!(lines[0].starts_with("data/p/00.png\t") && lines[0].contains("red"), "{told}");
    assert!(lines[1].contains("blue") && lines[1].contains("right"), "{told}");
    let piped = home.shell(&format!(
        "printf 'data/p/00.png\\ndata/p/03.png\\n' | {} predict run --beam 5",
        env!("CARGO_BIN_EXE_carousel")
    ));
    let alone: Vec<&str> = lines.iter().filter_map(|line| line.split('\t').nth(1)).collect();
    assert_eq!(piped.succeeds().stdout.lines().collect::<Vec<_>>(), alone);
    assert_eq!(home.carousel("predict run data/p").succeeds().stdout.lines().count(), 96);
    let json = home.carousel("predict run data/p/00.png --json --beam 1").succeeds().json();
    let tokens = json["tokens"].as_array().map(Vec::len);
    assert_eq!(
        (json["log_probabilities"].as_array().map(Vec::len), &json["grid"]),
        (tokens, &Value::from(vec![4, 4]))
    );
    let looked: Vec<Vec<f64>> = serde_json::from_value(json["attention"].clone()).expect("rows of numbers");
    assert_eq!(Some(looked.len()), tokens);
    assert!(looked.iter().all(|row| row.len() == 16 && (row.iter().sum::<f64>() - 1.0).abs() < 1e-4));

    let shown = "inspect attention run --data data/pictures.tsv data/p/00.png data/p/03.png";
    let said = home.carousel(&format!("{shown} --html page.html --pictures drawn")).succeeds();
    assert!(said.stdout.contains("data/p/00.png\n") && said.stdout.contains("██"), "{}", said.stdout);
    assert!(said.stdout.lines().all(|line| line.chars().count() <= 80), "{}", said.stdout);
    let page = home.read("page.html");
    // An image stands in the page once; its veils are one for each token.
    assert_eq!(page.matches("--picture:url(").count(), 2);
    assert!(page.matches("<img").count() >= 8 && !page.contains("wanted:") && !page.contains("src=\"http"));
    assert_eq!(home.files("drawn"), ["drawn/1.svg", "drawn/2.svg"]);
    let told = home.carousel(&format!("{shown} --sentences 1 --beam 1 --json")).succeeds().json();
    assert_eq!(
        (told["captions"].as_array().map(Vec::len), &told["captions"][0]["attention"]),
        (Some(1), &json["attention"])
    );
    home.carousel("inspect attention run --data data/pictures.tsv")
        .fails(1, &["no image or array", "expected .png"]);

    let report = home.read("run/report.html");
    assert!(report.contains("Its captions") && report.contains("An image is bright where"));
    assert!(report.matches("data:image/png").count() > 20 && !report.contains("src=\"http"));
    home.carousel("predict run data/p/00.png data/p/nothing.png").fails(1, &["nothing.png", "No such file"]);
    home.carousel("sample run").fails(1, &["task caption"]);
}

#[test]
fn every_kind_of_model_is_learned_from() {
    let home = home();
    let check = |name: &str, arguments: &str| {
        let line = format!("train recipe.toml --data data/pictures.tsv --out {name} --json {arguments}");
        let summary = home.carousel(&line).succeeds().json();
        assert!(summary["rouge_l"].as_f64() > Some(0.7), "{arguments}: {summary}");
        weights(&home, name)
    };
    let first = check("input", "--set model.told=input --set model.attention=none --set model.cell=gru");
    let state = check("state", "--set model.attention=none --set model.cell=gru");
    assert!(first != state);
    check("general", "--set model.attention=general --set model.told=input --set data.color=true");
    check(
        "letters",
        "--set data.tokens=char --set model.layers=2 --set train.steps=400 --set train.metric=bleu",
    );
    let more = "--set model.tie_embeddings=true --set model.embedding=24 --set model.output_dropout=0.1 \
                --set train.label_smoothing=0.05 --set data.lowercase=true --set data.max_len=auto";
    check("more", more);

    let mut table = "path,words,by\n".to_owned();
    for number in 0..60 {
        let places: Vec<[f32; 2]> =
            (0..1 + number % 3).map(|place| [(number % 2 * 9) as f32, place as f32 + 0.1]).collect();
        home.write(&format!("f/{number}.npy"), npy(&places));
        table.push_str(&format!(
            "{number}.npy,{} of {},{}\n",
            ["few", "many"][number % 2],
            1 + number % 3,
            number % 7
        ));
    }
    home.write("f/features.csv", table);
    let keys = "--set data.input=numbers --set data.path=path --set data.text=words --set data.group=by";
    let line = format!("train caption --data f/features.csv --out numbers --json {keys}");
    let more =
        "--set train.steps=200 --set train.batch=16 --set model.hidden=24 --set train.learning_rate=0.02";
    let summary = home.carousel(&format!("{line} {more}")).succeeds().json();
    assert!(summary["test_bleu_1"].as_f64() > Some(80.0), "{summary}");
    assert_eq!(home.carousel("predict numbers f/1.npy").succeeds().stdout, "f/1.npy\tmany of 2\n");
    assert!(home.read("numbers/report.html").contains("Its captions"));
    // Features have no grid: their places stand in a row.
    let told = home.carousel("inspect attention numbers --data f --sentences 2 --pictures none").succeeds();
    assert!(told.stdout.contains("f/0.npy\nfew of 1\n") && told.stdout.contains("██"), "{}", told.stdout);
    assert!(told.stderr.contains("0 pictures in none"), "{}", told.stderr);
    home.carousel("inspect attention input --data data/p").fails(1, &["input has no attention"]);
}

#[test]
fn a_run_that_was_stopped_goes_on_to_the_bit() {
    let home = home();
    let more = "--set model.output_dropout=0.2 --set train.validate_every=20";
    let train = |out: &str, steps: usize| {
        let line = format!("train recipe.toml --data data/pictures.tsv --out {out} {more}");
        home.carousel(&format!("{line} --set train.steps={steps}")).succeeds();
    };
    train("whole", 60);
    train("half", 23);
    home.write("half/config.toml", home.read("half/config.toml").replace("steps = 23", "steps = 60"));
    home.carousel("train --resume --out half").succeeds();
    assert!(weights(&home, "whole") == weights(&home, "half"), "a resumed run differs");
}

#[test]
fn recipes_that_cannot_be_meant_are_refused() {
    let home = home();
    let check = |arguments: &str, message: &[&str]| {
        home.carousel(&format!("train caption --data data/pictures.tsv --out run {arguments}"))
            .fails(2, message);
    };
    check("--set data.input=text", &["data.input = \"text\"", "expected images or numbers"]);
    check("--set model.cell=min-gru", &["model.cell = \"min-gru\" beside task = \"caption\""]);
    check("--set model.cell=none", &["model.cell = \"none\" needs"]);
    check("--set data.tokens=byte", &["task = \"caption\" needs tokens of text"]);
    check("--set train.metric=accuracy", &["beside task = \"caption\", expected loss, bleu or exact_match"]);
    check("--set model.bridge=copy", &["model.bridge has no effect", "translate"]);
    check("--set data.input=numbers --set model.filters=4", &["model.filters has no effect"]);
    home.carousel("train translate --set model.told=input --data text.txt")
        .fails(2, &["model.told has no effect"]);
    home.carousel("train caption --data data/pictures.tsv --out run --set model.attention=dot")
        .fails(1, &["places of 64 values, expected 128"]);
    assert!(!home.exists("run"));
}
