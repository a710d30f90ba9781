//! Captions of drawn scenes: two to four objects, each of one of four shapes and six colours, and how the last one
//! stands to the first. Pairs of objects that stand together in the test scenes never do in training. Every caption
//! is judged by a checker that knows the scene: after 1,100 steps 83.0 % of 500 test scenes have a caption that is true
//! throughout (ROUGE-L 0.988).
//!
//! ```sh
//! cargo run --release --example scenes                                 # learns from scenes as they are drawn
//! cargo run --release --example scenes -- write scenes 20000 500 500   # draws a dataset for `carousel train caption`
//! carousel predict RUN scenes/test | cargo run --release --example scenes -- check scenes/test.tsv
//! ```
use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use burn::{module::Module, tensor::Device};
use carousel::cell::Cell;
use carousel::data::{EOS, SOS, SPECIAL, pack};
use carousel::decode::beam::greedy_from;
use carousel::metrics::rouge_l;
use carousel::models::captioner::{CaptionInput, Captioner, CaptionerConfig, Subjects};
use carousel::models::convolution::ConvolutionConfig;
use carousel::parameters::NamedParameters;
use carousel::recipe::{Recipe, Task};
use carousel::train::Optimizer;

/// Height and width of an image, and of one of its 3×3 cells.
const SIZE: usize = 30;
const CELL: usize = 10;
const SHAPES: [&str; 4] = ["square", "disc", "cross", "triangle"];
const COLOURS: [(&str, [f32; 3]); 6] = [
    ("red", [2.0, -1.0, -1.0]),
    ("green", [-1.0, 2.0, -1.0]),
    ("blue", [-1.0, -1.0, 2.0]),
    ("yellow", [2.0, 2.0, -1.0]),
    ("purple", [2.0, -1.0, 2.0]),
    ("white", [2.0, 2.0, 2.0]),
];
const OTHERS: [&str; 8] = ["a", "and", ";", "the", "is", "left-of", "right-of", "below"];
/// Words of the longest caption, and some more.
const MOST: usize = 26;
const STEPS: usize = 1100;
const BATCH: usize = 48;

/// Numbers that look random and follow from a seed (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }
}

/// Something in a cell, counted row after row.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Object {
    cell: usize,
    shape: usize,
    colour: usize,
}

impl Object {
    fn kind(self) -> usize {
        self.shape * COLOURS.len() + self.colour
    }

    fn name(self) -> [&'static str; 2] {
        [COLOURS[self.colour].0, SHAPES[self.shape]]
    }

    fn covers(self, x: usize, y: usize) -> bool {
        let (x, y) = (x as i32, y as i32);
        match self.shape {
            0 => (1..8).contains(&x) && (1..8).contains(&y),
            1 => (x - 4).pow(2) + (y - 4).pow(2) <= 12,
            2 => (1..8).contains(&x) && (1..8).contains(&y) && (x == y || x + y == 8 || (x - y).abs() == 1),
            _ => (1..8).contains(&y) && (x - 4).abs() * 2 < y,
        }
    }
}

/// Whether two objects are kept apart in training.
fn held_out(a: Object, b: Object) -> bool {
    let pair = a.kind().min(b.kind()) * 64 + a.kind().max(b.kind());
    Random(pair as u64).below(5) == 0
}

/// Objects in the order of their cells, no two alike; of the test set or of the training set.
fn scene(random: &mut Random, test: bool) -> Vec<Object> {
    loop {
        let count = 2 + random.below(3);
        let mut objects: Vec<Object> = Vec::new();
        while objects.len() < count {
            let (cell, shape, colour) = (random.below(9), random.below(4), random.below(6));
            let new = Object { cell, shape, colour };
            if objects.iter().all(|one| one.cell != cell && one.kind() != new.kind()) {
                objects.push(new);
            }
        }
        objects.sort_by_key(|object| object.cell);
        let any = (0..count).any(|b| (0..b).any(|a| held_out(objects[a], objects[b])));
        if any == test {
            return objects;
        }
    }
}

/// `[3, SIZE, SIZE]`, a little noise behind everything.
fn draw(objects: &[Object], random: &mut Random) -> Vec<f32> {
    let mut image: Vec<f32> = (0..3 * SIZE * SIZE).map(|_| random.below(100) as f32 / 250.0 - 1.0).collect();
    for object in objects {
        for (x, y) in (0..CELL * CELL).map(|place| (place % CELL, place / CELL)) {
            let (row, column) = (object.cell / 3 * CELL + y, object.cell % 3 * CELL + x);
            for channel in (0..3).filter(|_| object.covers(x, y)) {
                image[(channel * SIZE + row) * SIZE + column] = COLOURS[object.colour].1[channel];
            }
        }
    }
    image
}

/// Whether `a` stands so to `b`.
fn stands(a: Object, relation: &str, b: Object) -> bool {
    match relation {
        "left-of" => a.cell % 3 < b.cell % 3,
        "right-of" => a.cell % 3 > b.cell % 3,
        "below" => a.cell / 3 > b.cell / 3,
        _ => false,
    }
}

/// `a red disc and a blue cross ; the blue cross is below the red disc`
fn caption(objects: &[Object]) -> Vec<&'static str> {
    let (first, last) = (objects[0], objects[objects.len() - 1]);
    let relation = ["left-of", "right-of", "below"].into_iter().find(|one| stands(last, one, first));
    let named = objects.iter().enumerate().flat_map(|(place, object)| {
        let [colour, shape] = object.name();
        if place == 0 { vec!["a", colour, shape] } else { vec!["and", "a", colour, shape] }
    });
    let ([a, b], [c, d]) = (last.name(), first.name());
    let relation =
        relation.expect("the last one lies in a later cell: below, or in the same row to the right");
    named.chain([";", "the", a, b, "is", relation, "the", c, d]).collect()
}

/// Whether a caption names every object of a scene, each once and nothing else, and one relation that is true.
fn is_true(words: &[&str], objects: &[Object]) -> bool {
    let Some(end) = words.iter().position(|&word| word == ";") else { return false };
    let find = |name: &[&str]| objects.iter().find(|object| object.name() == name);
    let named: Vec<_> = words[..end].split(|&word| word == "and").collect();
    let each_once = objects.iter().all(|object| {
        let name = object.name();
        named.iter().filter(|part| **part == ["a", name[0], name[1]]).count() == 1
    });
    let ["the", a, b, "is", relation, "the", c, d] = words[end + 1..] else { return false };
    let true_relation = match (find(&[a, b]), find(&[c, d])) {
        (Some(&one), Some(&other)) => stands(one, relation, other),
        _ => false,
    };
    named.len() == objects.len() && each_once && true_relation
}

fn vocabulary() -> Vec<&'static str> {
    SPECIAL.into_iter().chain(OTHERS).chain(SHAPES).chain(COLOURS.map(|(name, _)| name)).collect()
}

/// Trains on scenes as they are drawn.
fn train(steps: usize) -> Result<Captioner, Box<dyn Error>> {
    let vocabulary = vocabulary();
    let id = |word: &str| vocabulary.iter().position(|known| *known == word).unwrap_or_default() as u32;
    let convolution = ConvolutionConfig { image: [3, SIZE, SIZE], filters: 16, layers: 3 };
    let input = CaptionInput::Image(convolution);
    let config =
        CaptionerConfig { seed: 1, ..CaptionerConfig::new(input, vocabulary.len(), Cell::Lstm, 32, 128) };
    let mut model = config.init(&Device::default().autodiff())?;
    let mut adam = Optimizer::new(&Recipe::default_for(Task::Lm).train, &model);
    let mut random = Random(1);
    for step in 0..steps {
        let scenes: Vec<Vec<Object>> = (0..BATCH).map(|_| scene(&mut random, false)).collect();
        let images: Vec<f32> = scenes.iter().flat_map(|scene| draw(scene, &mut random)).collect();
        let ids = |scene: &Vec<Object>| -> Vec<u32> {
            let words = caption(scene);
            [SOS].into_iter().chain(words.into_iter().map(id)).chain([EOS]).collect()
        };
        let rows: Vec<Vec<u32>> = scenes.iter().map(ids).collect();
        let (inputs, batch) = pack(&rows.iter().map(|row| &row[..row.len() - 1]).collect::<Vec<_>>(), 1);
        let (targets, _) = pack(&rows.iter().map(|row| &row[1..]).collect::<Vec<_>>(), 1);
        let loss = model.loss(Subjects::Images(&images, BATCH), &inputs, &targets, &Arc::new(batch), None);
        if step % 500 == 0 {
            eprintln!("step {step}  loss {:.4}", loss.clone().into_scalar::<f32>());
        }
        let gradients = model.take_gradients(&mut loss.backward());
        let done = step as f64 / steps as f64;
        adam.update(&mut model, &gradients, 0.003 * (1.0 + (std::f64::consts::PI * done).cos()) / 2.0);
    }
    Ok(model.valid())
}

/// Draws a dataset: a table for each part, and a folder of its images.
fn write(folder: &Path, counts: [usize; 3]) -> Result<(), Box<dyn Error>> {
    for ((part, count), seed) in ["train", "valid", "test"].into_iter().zip(counts).zip(1..) {
        let mut random = Random(seed);
        let mut table = "image\tcaption\tobjects\n".to_owned();
        fs::create_dir_all(folder.join(part))?;
        for number in 0..count {
            let objects = scene(&mut random, part == "test");
            let path = format!("{part}/{number:05}.png");
            let pixels = draw(&objects, &mut random);
            let image = image::RgbImage::from_fn(SIZE as u32, SIZE as u32, |x, y| {
                let place = y as usize * SIZE + x as usize;
                // What makes these values of them again when they are read.
                let shade = |channel: usize| {
                    (pixels[channel * SIZE * SIZE + place] * 64.0 + 128.0).clamp(0.0, 255.0) as u8
                };
                image::Rgb([0, 1, 2].map(shade))
            });
            image.save(folder.join(&path))?;
            let places: Vec<String> =
                objects.iter().map(|one| format!("{} {}", one.cell, one.name().join(" "))).collect();
            writeln!(table, "{path}\t{}\t{}", caption(&objects).join(" "), places.join(", "))?;
        }
        fs::write(folder.join(format!("{part}.tsv")), table)?;
    }
    Ok(())
}

/// The scenes of a table that [`write`] wrote, by the names of their images.
fn read(table: &str) -> Option<Vec<(&str, Vec<Object>)>> {
    let object = |text: &str| {
        let mut words = text.split(' ');
        let cell = words.next()?.parse().ok()?;
        let (colour, shape) = (words.next()?, words.next()?);
        let shape = SHAPES.iter().position(|known| *known == shape)?;
        let colour = COLOURS.iter().position(|known| known.0 == colour)?;
        Some(Object { cell, shape, colour })
    };
    let row =
        |line: &'_ str| -> Option<Vec<Object>> { line.split('\t').nth(2)?.split(", ").map(object).collect() };
    table.lines().skip(1).map(|line| Some((line.split('\t').next()?, row(line)?))).collect()
}

/// How many of the lines `path, tab, caption` tell the truth about the scenes of a table.
fn check(table: &str, lines: &str) -> Result<(usize, usize), Box<dyn Error>> {
    let scenes = read(table).ok_or("no table of scenes")?;
    let (mut right, mut all) = (0, 0);
    for line in lines.lines() {
        let (path, caption) = line.split_once('\t').ok_or_else(|| format!("no tab in {line:?}"))?;
        let scene = scenes.iter().find(|(name, _)| path.ends_with(name));
        let (_, objects) = scene.ok_or_else(|| format!("{path} is not in the table"))?;
        right += usize::from(is_true(&caption.split(' ').collect::<Vec<_>>(), objects));
        all += 1;
    }
    Ok((right, all))
}

fn show(right: usize, all: usize) {
    println!("all true: {:.1} % of {all}", right as f64 * 100.0 / all as f64);
}

fn main() -> Result<(), Box<dyn Error>> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    match given.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => learn(),
        ["write", folder, train, valid, test] => {
            write(Path::new(folder), [train.parse()?, valid.parse()?, test.parse()?])
        }
        ["check", table] => {
            let mut lines = String::new();
            std::io::stdin().read_to_string(&mut lines)?;
            let (right, all) = check(&fs::read_to_string(table)?, &lines)?;
            show(right, all);
            Ok(())
        }
        _ => Err("expected nothing, or write FOLDER TRAIN VALID TEST, or check TABLE".into()),
    }
}

fn learn() -> Result<(), Box<dyn Error>> {
    let model = train(STEPS)?;
    let (vocabulary, mut random) = (vocabulary(), Random(2));
    let scenes: Vec<Vec<Object>> = (0..500).map(|_| scene(&mut random, true)).collect();
    let images: Vec<f32> = scenes.iter().flat_map(|scene| draw(scene, &mut random)).collect();
    let seen = model.encode(Subjects::Images(&images, scenes.len()));
    let written = greedy_from(model.writer(&seen), &vec![MOST; scenes.len()]);
    let words: Vec<Vec<&str>> =
        written.iter().map(|ids| ids.iter().map(|&id| vocabulary[id as usize]).collect()).collect();
    let right = words.iter().zip(&scenes).filter(|(words, scene)| is_true(words, scene)).count();
    let rouge: f64 = words.iter().zip(&scenes).map(|(words, scene)| rouge_l(words, &[caption(scene)])).sum();
    for (words, scene) in words.iter().zip(&scenes).take(4) {
        println!("{:<5} {}", is_true(words, scene), words.join(" "));
    }
    show(right, scenes.len());
    println!("ROUGE-L:  {:.3}", rouge / scenes.len() as f64);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checker_knows_false_captions() {
        let mut random = Random(7);
        for _ in 0..200 {
            let objects = scene(&mut random, true);
            let right = caption(&objects);
            assert!(is_true(&right, &objects), "{right:?}");
            let check = |words: &[&str]| assert!(!is_true(words, &objects), "{words:?} of {objects:?}");
            let replaced = |place: usize, word: &'static str| {
                let mut words = right.clone();
                words[place] = word;
                words
            };
            let other = COLOURS.map(|(name, _)| name).into_iter().find(|name| *name != right[1]);
            check(&replaced(1, other.unwrap_or_default()));
            check(&replaced(2, if right[2] == "disc" { "cross" } else { "disc" }));
            check(&right[4..]);
            check(&[&["a", "red", "disc", "and"], right.as_slice()].concat());
            check(&[&right[..3], &["and"], right.as_slice()].concat());
            check(&right[..right.len() - 1]);
            check(&[]);
            let end = right.len();
            let mut reversed = right.clone();
            (reversed[end - 7], reversed[end - 6]) = (right[end - 2], right[end - 1]);
            (reversed[end - 2], reversed[end - 1]) = (right[end - 7], right[end - 6]);
            check(&reversed);
        }
    }

    #[test]
    fn training_never_sees_the_pairs_of_the_test() {
        let mut random = Random(3);
        for _ in 0..500 {
            let objects = scene(&mut random, false);
            assert!((2..=4).contains(&objects.len()));
            assert!(objects.iter().all(|&a| objects.iter().all(|&b| a == b || !held_out(a, b))));
        }
    }

    /// A dataset holds the scenes that were drawn, and the checker knows them again.
    #[test]
    fn a_dataset_is_written_and_checked() {
        let home = tempfile::tempdir().expect("a folder");
        write(home.path(), [3, 0, 2]).expect("it is written");
        let table = fs::read_to_string(home.path().join("test.tsv")).expect("a table");
        let scenes = read(&table).expect("scenes");
        assert_eq!(scenes.len(), 2);
        assert!(home.path().join(scenes[1].0).exists());
        let right = caption(&scenes[0].1).join(" ");
        let lines = format!("a/{}\t{right}\nb/{}\t{right}\n", scenes[0].0, scenes[1].0);
        assert_eq!(check(&table, &lines).expect("known scenes"), (1, 2));
    }

    #[test]
    fn it_trains() {
        train(2).expect("it runs");
    }
}
