//! What padding costs: the same classifier learns the same texts twice, in ragged batches and in padded ones, as they
//! stand in the file and not sorted by length. A table of milliseconds a step, and how far the losses are apart.
//!
//!     cargo run --release --example ragged_speed                                  texts of made-up lengths
//!     cargo run --release --example ragged_speed -- ratings.tsv document label    a file, its columns of text and class
//!
//! The net is a GRU that walks forward over characters: what stands behind a text's end cannot change what it knows
//! there, so that padding costs time and nothing else. Both learn side by side and take turns being first.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use carousel::cell::{Cell, Reset};
use carousel::data::{Classes, Quoting, TextColumns, pack, read_documents, read_texts};
use carousel::embedding::Embedding;
use carousel::init::Initializer;
use carousel::output::Output;
use carousel::parameters::{NamedParameters, Parameter, ParameterMut};
use carousel::ragged::SharedRows;
use carousel::recipe::{Recipe, Task};
use carousel::recurrent::{Recurrent, RecurrentConfig};
use carousel::slices::with_slice;
use carousel::train::Optimizer;

/// Texts side by side.
const BATCH: usize = 64;
/// Stands behind the end of a padded text.
const PADDING: u32 = 0;

type Failure = Box<dyn std::error::Error>;

/// A text as token ids, and its class.
type Example = (Vec<u32>, u32);

#[derive(Module, Debug)]
struct Net {
    embedding: Embedding,
    recurrent: Recurrent,
    output: Output,
}

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Ragged,
    Padded,
}

impl Net {
    fn new(vocabulary: usize, classes: usize, hidden: usize) -> Result<Net, Failure> {
        let (random, device) = (&mut Initializer::new(1), &Device::default().autodiff());
        Ok(Net {
            embedding: Embedding::init(vocabulary, hidden, random, device)?,
            recurrent: RecurrentConfig::new(Cell::Gru(Reset::After), hidden, hidden)
                .with_seed(1)
                .init(device)?,
            output: Output::init(hidden, classes, random, device)?,
        })
    }

    /// The mean cross-entropy of what is known at the last character of each text.
    fn loss(&self, examples: &[Example], form: Form) -> Result<Tensor<1>, Failure> {
        let time = examples.iter().map(|(text, _)| text.len()).max().unwrap_or(0);
        let texts: Vec<Vec<u32>> = match form {
            Form::Ragged => examples.iter().map(|(text, _)| text.clone()).collect(),
            Form::Padded => {
                let padded =
                    |text: &[u32]| text.iter().copied().chain([PADDING].repeat(time)).take(time).collect();
                examples.iter().map(|(text, _)| padded(text)).collect()
            }
        };
        let (tokens, batch) = pack(&texts.iter().map(Vec::as_slice).collect::<Vec<_>>(), 1);
        let (rows, index) = self.embedding.distinct(&tokens);
        let (steps, _) = self.recurrent.forward_shared(SharedRows::new(rows, index, Arc::new(batch))?, None);
        let last = match form {
            Form::Ragged => steps.last(),
            Form::Padded => {
                let mask = |(text, _): &Example| (0..time).map(|step| step + 1 == text.len()).collect();
                steps.select(&examples.iter().map(mask).collect::<Vec<Vec<bool>>>())?
            }
        };
        let classes: Vec<u32> = examples.iter().map(|example| example.1).collect();
        Ok(self.output.cross_entropy(last, &classes))
    }
}

impl NamedParameters for Net {
    fn parameters(&self) -> Vec<(String, Parameter<'_>)> {
        let mut all = self.recurrent.parameters();
        all.push(("embedding.weight".to_owned(), Parameter::Matrix(&self.embedding.weight)));
        all.push(("output.weight".to_owned(), Parameter::Matrix(&self.output.weight)));
        all.push(("output.bias".to_owned(), Parameter::Vector(&self.output.bias)));
        all
    }

    fn parameters_mut(&mut self) -> Vec<(String, ParameterMut<'_>)> {
        let mut all = self.recurrent.parameters_mut();
        all.push(("embedding.weight".to_owned(), ParameterMut::Matrix(&mut self.embedding.weight)));
        all.push(("output.weight".to_owned(), ParameterMut::Matrix(&mut self.output.weight)));
        all.push(("output.bias".to_owned(), ParameterMut::Vector(&mut self.output.bias)));
        all
    }
}

/// One of the two, on its way.
struct Learner {
    form: Form,
    net: Net,
    optimizer: Optimizer,
    milliseconds: Vec<f64>,
    losses: Vec<f32>,
}

impl Learner {
    fn new(form: Form, net: Net) -> Result<Learner, Failure> {
        let mut recipe = Recipe::default_for(Task::Classify);
        recipe.set("train.optimizer=sgd")?;
        let optimizer = Optimizer::new(&recipe.train, &net);
        Ok(Learner { form, net, optimizer, milliseconds: Vec::new(), losses: Vec::new() })
    }

    fn step(&mut self, examples: &[Example]) -> Result<(), Failure> {
        let began = Instant::now();
        let loss = self.net.loss(examples, self.form)?;
        self.losses.push(with_slice(&loss, |loss| loss[0]));
        let gradients = self.net.take_gradients(&mut loss.backward());
        self.optimizer.update(&mut self.net, &gradients, 0.1);
        self.milliseconds.push(began.elapsed().as_secs_f64() * 1e3);
        Ok(())
    }

    /// The median; the first steps allocate.
    fn median(&self) -> f64 {
        let mut times = self.milliseconds[self.milliseconds.len().min(3) - 1..].to_vec();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    }
}

/// Both on the same batches, ragged first.
fn compare(examples: &[Example], hidden: usize, steps: usize) -> Result<[Learner; 2], Failure> {
    let vocabulary = examples.iter().flat_map(|(text, _)| text).max().map_or(1, |&token| token as usize + 1);
    let classes = examples.iter().map(|example| example.1).max().map_or(1, |class| class as usize + 1);
    let net = Net::new(vocabulary, classes, hidden)?;
    let mut both = [Learner::new(Form::Ragged, net.clone())?, Learner::new(Form::Padded, net)?];
    for (number, batch) in examples.chunks_exact(BATCH).cycle().take(steps).enumerate() {
        // Whoever comes second finds a warmer machine.
        let first = number % 2;
        both[first].step(batch)?;
        both[1 - first].step(batch)?;
    }
    Ok(both)
}

/// Texts whose first character is their class, of lengths as short reviews have: many short ones, few long ones.
fn made(count: usize, longest: usize) -> Vec<Example> {
    let number = |place: usize| (place as u32).wrapping_mul(2_654_435_761) >> 8;
    (0..count)
        .map(|example| {
            let share = f64::from(number(example)) / f64::from(u32::MAX >> 8);
            let length = 1 + (share.powi(3) * (longest - 1) as f64) as usize;
            let text: Vec<u32> = (0..length).map(|step| 1 + number(example * 977 + step) % 40).collect();
            let class = text[0] % 2;
            (text, class)
        })
        .collect()
}

fn read(path: &str, text: &str, label: &str) -> Result<Vec<Example>, Failure> {
    let columns = TextColumns { text, label: Some(label), group: None, quoting: Quoting::Off };
    let rows = read_texts(&read_documents(&[PathBuf::from(path)])?, columns)?;
    let rows: Vec<_> = rows.into_iter().filter(|row| !row.text.is_empty()).take(BATCH * 100).collect();
    let classes = Classes::collect(rows.iter().map(|row| row.label.as_str()));
    let mut letters: Vec<char> = rows.iter().flat_map(|row| row.text.chars()).collect();
    letters.sort_unstable();
    letters.dedup();
    let token = |letter: char| letters.binary_search(&letter).map_or(PADDING, |place| place as u32 + 1);
    let example = |row: &carousel::data::TextExample| {
        (row.text.chars().map(token).collect(), classes.id(&row.label).unwrap_or_default())
    };
    Ok(rows.iter().map(example).collect())
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let examples = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => made(BATCH * 100, 140),
        [path, text, label] => read(path, text, label)?,
        _ => return Err("expected no argument, or a file and its columns of text and class".into()),
    };
    if examples.len() < BATCH {
        return Err(format!("{} texts, expected at least {BATCH}", examples.len()).into());
    }
    let real: usize = examples.iter().map(|(text, _)| text.len()).sum();
    let padded: usize = examples
        .chunks_exact(BATCH)
        .map(|batch| BATCH * batch.iter().map(|(text, _)| text.len()).max().unwrap_or(0))
        .sum();
    let [ragged, plain] = compare(&examples, 128, 60)?;
    let apart = ragged.losses.iter().zip(&plain.losses).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!(
        "{BATCH} texts a batch, {:.1} % of the padded steps are real",
        real as f64 / padded as f64 * 100.0
    );
    for (name, one) in [("ragged", &ragged), ("padded", &plain)] {
        let (first, last) = (one.losses[0], one.losses[one.losses.len() - 1]);
        println!("{name}  {:>7.2} ms a step, loss {first:.6} at first, {last:.6} at last", one.median());
    }
    println!("ratio   {:>7.2}", plain.median() / ragged.median());
    println!("losses  {apart:>7.1e} apart at most in {} steps", ragged.losses.len());
    Ok(())
}

#[test]
fn padding_changes_no_loss() {
    let [ragged, padded] = compare(&made(BATCH * 3, 30), 12, 9).expect("it runs");
    assert_eq!(ragged.losses.len(), 9);
    for (step, (a, b)) in ragged.losses.iter().zip(&padded.losses).enumerate() {
        assert!((a - b).abs() < 1e-5, "step {step}: {a} ragged, {b} padded");
    }
    assert!(ragged.losses[8] != ragged.losses[0], "it learns");
}
