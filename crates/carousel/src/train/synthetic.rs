//! Two classic tests of long memory, on sequences that are made as they are needed: the adding problem
//! (Hochreiter and Schmidhuber 1997; sizes as in Le et al. 2015) and copy memory (Arjovsky et al. 2016).

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use carousel_kernels::dropout::key;
use serde_json::Value;

use crate::init::Initializer;
use crate::models::language_model::LanguageModel;
use crate::models::regressor::{Regressor, RegressorConfig};
use crate::parameters::{NamedParameters, NamedTensor};
use crate::ragged::Batch;
use crate::recipe::{Recipe, Task};
use crate::run::RunFolder;
use crate::saved;
use crate::slices::with_slice;
use crate::train::job::{Facts, Job, Measured, Objective, Pass, Work};
use crate::train::trainer::train;
use crate::train::{Control, Event, Start, Summary, TrainError};

/// Sequences that a model is validated and tested on.
const HELD_OUT: usize = 1000;

/// Which sequences: those of training count up from here, so that none is among the held-out ones.
const VALID: u64 = 0;
const TEST: u64 = 1;
const TRAIN: u64 = 2;

/// Trains on the adding problem: of `T` numbers between 0 and 1 two are marked, one in each half; the answer is
/// their sum. Whoever always says 1 has a mean squared error of 1/6.
///
/// # Errors
/// [`TrainError`] when the folder or a checkpoint does not do, or training diverges.
pub fn adding(
    run: &RunFolder,
    recipe: &Recipe,
    start: Start,
    on_event: &mut dyn FnMut(&Event<'_>) -> Control,
) -> Result<Summary, TrainError> {
    debug_assert_eq!(recipe.task, Task::Adding);
    let model = RegressorConfig {
        cell: recipe.model.recurrence(),
        options: recipe.model.options(),
        input: 2,
        hidden: recipe.model.hidden,
        layers: recipe.model.layers,
        outputs: 1,
        init: recipe.model.init(),
        seed: recipe.seed,
    };
    let model = model.init(&Device::default().autodiff())?;
    let puzzle = Adding { length: recipe.data.length };
    let facts = Facts { vocabulary: None, train_tokens: None, valid_tokens: None };
    train(run, recipe, PuzzleJob { puzzle, recipe, model, drawn: 0 }, facts, start, on_event)
}

/// Trains on copy memory: a few symbols, then `T` blanks of which the last is a sign, then the symbols are to be
/// said again in order. Whoever says blanks and guesses has a loss of `K ln S / (T + 2 K)` nats a step for `K` of
/// `S` symbols.
///
/// # Errors
/// [`TrainError`] when the folder or a checkpoint does not do, or training diverges.
pub fn copy(
    run: &RunFolder,
    recipe: &Recipe,
    start: Start,
    on_event: &mut dyn FnMut(&Event<'_>) -> Control,
) -> Result<Summary, TrainError> {
    debug_assert_eq!(recipe.task, Task::Copy);
    let data = &recipe.data;
    let puzzle = Copy { length: data.length, symbols: data.symbols, memorize: data.memorize };
    let vocabulary = puzzle.symbols + 2;
    let model = saved::language_model_config(recipe, vocabulary).init(&Device::default().autodiff())?;
    let facts = Facts { vocabulary: Some(vocabulary), train_tokens: None, valid_tokens: None };
    train(run, recipe, PuzzleJob { puzzle, recipe, model, drawn: 0 }, facts, start, on_event)
}

/// A task whose sequences are made.
trait Puzzle {
    type Model: NamedParameters + Clone;
    type Data;

    /// `count` sequences.
    fn draw(&self, count: usize, random: &mut Initializer) -> Self::Data;

    fn loss(&self, model: &Self::Model, data: &Self::Data) -> Tensor<1>;

    fn measure(&self, model: &Self::Model, data: &Self::Data) -> Measured;

    /// Targets and steps of one sequence.
    fn sizes(&self) -> (usize, usize);
}

struct Drawn<D> {
    data: D,
    targets: usize,
    frames: usize,
}

impl<D> Work for Drawn<D> {
    fn targets(&self) -> usize {
        self.targets
    }

    fn frames(&self) -> usize {
        self.frames
    }
}

struct PuzzleJob<'a, P: Puzzle> {
    puzzle: P,
    recipe: &'a Recipe,
    model: P::Model,
    /// Batches of training so far.
    drawn: u64,
}

impl<P: Puzzle> PuzzleJob<'_, P> {
    /// Batch `number` of a part: the same whenever it is asked for.
    fn draw(&self, part: u64, number: u64, count: usize) -> Drawn<P::Data> {
        let mut random = Initializer::new(key(&[self.recipe.seed, part, number]));
        let (targets, frames) = self.puzzle.sizes();
        let data = self.puzzle.draw(count, &mut random);
        Drawn { data, targets: targets * count, frames: frames * count }
    }

    fn measure(&self, model: &P::Model, part: u64) -> Measured {
        let batch = self.recipe.train.batch.min(HELD_OUT);
        let measured = (0..).zip((0..HELD_OUT).step_by(batch)).map(|(number, from)| {
            let drawn = self.draw(part, number, batch.min(HELD_OUT - from));
            self.puzzle.measure(model, &drawn.data)
        });
        measured.fold(Measured::default(), Measured::plus)
    }
}

impl<P: Puzzle> Job for PuzzleJob<'_, P> {
    type Model = P::Model;
    type Batch = Drawn<P::Data>;

    fn model(&self) -> &P::Model {
        &self.model
    }

    fn model_mut(&mut self) -> &mut P::Model {
        &mut self.model
    }

    fn steps(&self) -> u64 {
        self.recipe.train.steps.unwrap_or(1) as u64
    }

    fn next(&mut self) -> Vec<Self::Batch> {
        let train = &self.recipe.train;
        let parts = (0..train.accumulate as u64).map(|part| self.draw(TRAIN, self.drawn + part, train.batch));
        let parts = parts.collect();
        self.drawn += train.accumulate as u64;
        parts
    }

    fn objective(&mut self, batch: &Self::Batch) -> Objective {
        Objective::plain(self.puzzle.loss(&self.model, &batch.data))
    }

    fn pass(&self) -> Option<Pass> {
        None
    }

    fn validates(&self) -> bool {
        true
    }

    fn validate(&self, model: &P::Model) -> Result<Option<Measured>, TrainError> {
        Ok(Some(self.measure(model, VALID)))
    }

    fn test(&self, model: &P::Model) -> Result<Option<Measured>, TrainError> {
        Ok(Some(self.measure(model, TEST)))
    }

    fn sample(&self, _: &P::Model, _: u64) -> Option<String> {
        None
    }

    fn place(&self) -> Result<Value, serde_json::Error> {
        Ok(Value::from(self.drawn))
    }

    fn carried(&self) -> Vec<NamedTensor> {
        Vec::new()
    }

    fn restore(&mut self, place: &Value, _: &[NamedTensor]) -> Result<(), TrainError> {
        let reason = || format!("its place is {place}, expected the number of batches drawn");
        self.drawn = place.as_u64().ok_or_else(|| TrainError::State { reason: reason() })?;
        Ok(())
    }
}

struct Adding {
    length: usize,
}

/// Sequences `[B, T, 2]` of numbers and marks, and the sums.
struct Sums {
    x: Vec<f32>,
    sums: Vec<f32>,
}

impl Adding {
    fn tensors(&self, data: &Sums, device: &Device) -> (Tensor<3>, Tensor<2>) {
        let count = data.sums.len();
        let x = TensorData::new(data.x.clone(), [count, self.length, 2]);
        let sums = TensorData::new(data.sums.clone(), [count, 1]);
        (Tensor::from_data(x, device), Tensor::from_data(sums, device))
    }
}

impl Puzzle for Adding {
    type Model = Regressor;
    type Data = Sums;

    fn draw(&self, count: usize, random: &mut Initializer) -> Sums {
        let half = self.length / 2;
        let mut x = Vec::with_capacity(count * self.length * 2);
        let mut sums = Vec::with_capacity(count);
        for _ in 0..count {
            let marks = [random.below(half), half + random.below(self.length - half)];
            let mut sum = 0.0;
            for t in 0..self.length {
                let value = random.unit() as f32;
                let marked = marks.contains(&t);
                sum += if marked { value } else { 0.0 };
                x.extend([value, f32::from(u8::from(marked))]);
            }
            sums.push(sum);
        }
        Sums { x, sums }
    }

    fn loss(&self, model: &Regressor, data: &Sums) -> Tensor<1> {
        let (x, sums) = self.tensors(data, &Device::default().autodiff());
        (model.forward(x) - sums).powi_scalar(2).mean()
    }

    fn measure(&self, model: &Regressor, data: &Sums) -> Measured {
        let (x, sums) = self.tensors(data, &Device::default());
        let errors = model.valid().forward(x) - sums;
        let loss = with_slice(&errors, |errors| errors.iter().map(|&error| f64::from(error).powi(2)).sum());
        Measured { loss, targets: data.sums.len(), ..Measured::default() }
    }

    fn sizes(&self) -> (usize, usize) {
        (1, self.length)
    }
}

struct Copy {
    length: usize,
    symbols: usize,
    memorize: usize,
}

/// Tokens and targets in packed order, which for equal lengths is step after step.
struct Tokens {
    batch: Arc<Batch>,
    inputs: Vec<u32>,
    targets: Vec<u32>,
}

impl Puzzle for Copy {
    type Model = LanguageModel;
    type Data = Tokens;

    fn draw(&self, count: usize, random: &mut Initializer) -> Tokens {
        let (_, steps) = self.sizes();
        let (blank, sign) = (self.symbols as u32, self.symbols as u32 + 1);
        let mut inputs = vec![blank; steps * count];
        let mut targets = inputs.clone();
        for sequence in 0..count {
            let at = |step: usize| step * count + sequence;
            for place in 0..self.memorize {
                let symbol = random.below(self.symbols) as u32;
                inputs[at(place)] = symbol;
                targets[at(steps - self.memorize + place)] = symbol;
            }
            inputs[at(self.memorize + self.length - 1)] = sign;
        }
        Tokens { batch: Arc::new(Batch::full(count, steps)), inputs, targets }
    }

    fn loss(&self, model: &LanguageModel, data: &Tokens) -> Tensor<1> {
        model.forward_loss(&data.inputs, &data.targets, &data.batch, None).0
    }

    fn measure(&self, model: &LanguageModel, data: &Tokens) -> Measured {
        let (loss, _) = model.evaluate(&data.inputs, &data.targets, &data.batch, None);
        // The symbols alone tell who remembers; blanks are said by everybody.
        let blanks = self.symbols as u32;
        let only_symbols = |&target: &u32| if target == blanks { crate::output::IGNORE } else { target };
        let wanted: Vec<u32> = data.targets.iter().map(only_symbols).collect();
        let (recalled, _) = model.evaluate(&data.inputs, &wanted, &data.batch, None);
        let answers = Some((recalled.correct, recalled.count));
        Measured { loss: loss.nats, targets: loss.count, answers, ..Measured::default() }
    }

    fn sizes(&self) -> (usize, usize) {
        let steps = self.length + 2 * self.memorize;
        (steps, steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marked_numbers_add_up() {
        let puzzle = Adding { length: 9 };
        let Sums { x, sums } = puzzle.draw(50, &mut Initializer::new(1));
        for (x, sum) in x.chunks_exact(18).zip(sums) {
            let marked: Vec<usize> = (0..9).filter(|t| x[2 * t + 1] == 1.0).collect();
            assert!(marked.len() == 2 && marked[0] < 4 && marked[1] >= 4, "{marked:?}");
            let expected: f32 = marked.iter().map(|t| x[2 * t]).sum();
            assert!((sum - expected).abs() < 1e-6);
        }
    }

    #[test]
    fn symbols_are_asked_for_after_the_sign() {
        let puzzle = Copy { length: 5, symbols: 8, memorize: 3 };
        let (count, steps) = (4, 11);
        let Tokens { batch, inputs, targets } = puzzle.draw(count, &mut Initializer::new(1));
        assert_eq!((batch.sequences(), batch.time(), inputs.len()), (count, steps, count * steps));
        for sequence in 0..count {
            let row = |all: &[u32]| (0..steps).map(|step| all[step * count + sequence]).collect::<Vec<_>>();
            let (input, target) = (row(&inputs), row(&targets));
            assert!(input[..3].iter().all(|&symbol| symbol < 8));
            assert_eq!(input[3..], [8, 8, 8, 8, 9, 8, 8, 8]);
            assert_eq!(target[..8], [8; 8]);
            assert_eq!(target[8..], input[..3]);
        }
    }
}
