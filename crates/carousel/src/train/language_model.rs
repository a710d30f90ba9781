//! Trains a language model: truncated backpropagation through time with carried state.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::data::{Corpus, Coverage, Document, Limits, Tokenizer, Vocab, Window, Windows};
use crate::decode::sampling::{Sampling, write};
use crate::fused::with_slice;
use crate::models::language_model::LanguageModel;
use crate::parameters::{NamedParameters, NamedTensor};
use crate::recipe::Recipe;
use crate::run::{Keep, RunFolder};
use crate::saved::config;
use crate::state::State;
use crate::train::checkpoint::{Checkpoint, find_tensor};
use crate::train::diagnose::{BrokenBatch, Circumstances, diagnose, save};
use crate::train::evaluate::{carry, mean, measure, window_state};
use crate::train::{Control, Event, Optimizer, Sources, Start, Summary, TrainError};

/// How the samples during training are drawn: a little safer than the model's own probabilities.
const SAMPLE_TEMPERATURE: f64 = 0.8;

/// Trains the model of a recipe in a run's folder, and tells what happens through `on_event`.
///
/// The folder gets the vocabulary, metrics and checkpoints; the recipe is there already. A run that is
/// resumed continues to the bit as if it had never stopped: weights, running averages, carried state and
/// place in the data come from its latest checkpoint.
///
/// # Errors
/// [`TrainError`] when the data, the folder or a checkpoint does not do, or training diverges.
pub fn language_model(
    run: &RunFolder,
    recipe: &Recipe,
    sources: &Sources,
    start: Start,
    on_event: &mut dyn FnMut(&Event<'_>) -> Control,
) -> Result<Summary, TrainError> {
    let tokenizer = match start {
        Start::New => {
            let share = shares(recipe, sources)[0];
            let limits = Limits { min_count: recipe.data.min_count, size: recipe.data.vocab_size, share };
            let vocab = Vocab::build(recipe.data.tokens, &sources.train, limits)?;
            run.write_vocab(&vocab)?;
            Tokenizer::new(vocab)
        }
        Start::Resume => Tokenizer::new(run.read_vocab()?),
    };
    let parts = Parts::read(&tokenizer, recipe, sources)?;
    let windows = Windows::new(&parts.train, recipe.train.batch, recipe.train.bptt, Coverage::Equal)?;
    let mut model = config(recipe, tokenizer.vocab().len()).init(&Device::default().autodiff())?;
    let mut optimizer = Optimizer::new(&recipe.train, &model);
    let mut progress = Progress::default();
    let mut carried = None;
    let mut note = None;
    if start == Start::Resume {
        let loaded = run.load_latest()?;
        note = loaded.note;
        let checkpoint = loaded.checkpoint;
        model.load(&checkpoint.model)?;
        optimizer.load(checkpoint.step, &checkpoint.optimizer)?;
        progress = Progress::deserialize(&checkpoint.state)
            .map_err(|error| TrainError::State { reason: error.to_string() })?;
        carried = load_state(&checkpoint.carried, recipe, &Device::default().autodiff())?;
        if progress.window > windows.len() || progress.step != checkpoint.step {
            let reason = format!(
                "window {} of {} in step {} of {}",
                progress.window,
                windows.len(),
                progress.step,
                checkpoint.step
            );
            return Err(TrainError::State { reason });
        }
        run.truncate_metrics_after(progress.step)?;
    }
    let parameters = model.parameters().iter().map(|(_, p)| p.shape().iter().product::<usize>()).sum();
    let steps = match (recipe.train.steps, recipe.train.epochs) {
        (Some(steps), _) => steps as u64,
        (None, epochs) => (epochs.unwrap_or(1.0) * windows.len() as f64).round().max(1.0) as u64,
    };
    let first = Event::Started {
        parameters,
        vocabulary: tokenizer.vocab().len(),
        train_tokens: parts.train.tokens.len(),
        valid_tokens: parts.valid.as_ref().map_or(0, |part| part.tokens.len()),
        steps,
        resumed_at: (start == Start::Resume).then_some(progress.step),
        note,
    };
    let stop = Cell::new(false);
    let mut tell = |event: &Event<'_>| {
        if on_event(event) == Control::Stop {
            stop.set(true);
        }
    };
    tell(&first);
    let mut training = Training {
        run,
        recipe,
        tokenizer,
        windows,
        model,
        optimizer,
        progress,
        carried,
        steps,
        valid: parts.valid,
        saved: Instant::now(),
        saved_step: None,
        clock: Clock::new(),
    };
    if start == Start::Resume {
        training.saved_step = Some(training.progress.step);
    }
    while training.progress.step < steps && !stop.get() {
        training.step()?;
        training.follow_up(&mut tell)?;
    }
    training.finish(&mut tell)?;
    let stopped = training.progress.step < steps;
    let test_loss = match parts.test {
        Some(test) if !stopped => Some(training.test(&test)?),
        _ => None,
    };
    let progress = &training.progress;
    Ok(Summary {
        steps: progress.step,
        epochs: training.epochs(),
        train_loss: progress.epoch_nats / progress.epoch_tokens.max(1) as f64,
        valid_loss: progress.best,
        test_loss,
        tokens_per_second: training.clock.rate(),
        parameters,
        stopped,
    })
}

/// The corpora of a run; parts that have nothing to predict count as not there.
struct Parts {
    train: Corpus,
    valid: Option<Corpus>,
    test: Option<Corpus>,
}

impl Parts {
    fn read(tokenizer: &Tokenizer, recipe: &Recipe, sources: &Sources) -> Result<Parts, TrainError> {
        let all = tokenizer.corpus(&sources.train)?;
        let [train, valid, test] = all.split(shares(recipe, sources));
        let part = |documents: &[Document], held_out: Corpus| -> Result<Option<Corpus>, TrainError> {
            let part = if documents.is_empty() { held_out } else { tokenizer.corpus(documents)? };
            Ok(Some(part).filter(|part| Windows::new(part, 1, 1, Coverage::All).is_ok()))
        };
        Ok(Parts { train, valid: part(&sources.valid, valid)?, test: part(&sources.test, test)? })
    }
}

/// The shares of the training text for training, validation and test. Nothing is held out for what was
/// given separately.
fn shares(recipe: &Recipe, sources: &Sources) -> [f64; 3] {
    let [train, valid, test] = recipe.data.split;
    let held_out = |share: f64, given: &[Document]| if given.is_empty() { share } else { 0.0 };
    let (kept_valid, kept_test) = (held_out(valid, &sources.valid), held_out(test, &sources.test));
    [train + (valid - kept_valid) + (test - kept_test), kept_valid, kept_test]
}

/// Where a run is; `state.json` of a checkpoint.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Progress {
    step: u64,
    /// The next window of the pass.
    window: usize,
    /// Complete passes.
    passes: u64,
    /// The lowest validation loss.
    best: Option<f64>,
    /// The last validation: its step and loss.
    validated: Option<(u64, f64)>,
    /// Loss of the pass under way.
    epoch_nats: f64,
    epoch_tokens: usize,
    /// Since the last log.
    log_nats: f64,
    log_tokens: usize,
    log_steps: usize,
    log_clipped: usize,
    gradient_norm: f64,
}

/// Times the steps, without validation and saving.
struct Clock {
    tokens: usize,
    spent: Duration,
    log_tokens: usize,
    log_spent: Duration,
}

impl Clock {
    fn new() -> Clock {
        Clock { tokens: 0, spent: Duration::ZERO, log_tokens: 0, log_spent: Duration::ZERO }
    }

    fn rate(&self) -> f64 {
        self.tokens as f64 / self.spent.as_secs_f64().max(1e-9)
    }
}

/// Passes an event on; a wish to stop is noted where the loop looks.
type Tell<'a> = &'a mut dyn FnMut(&Event<'_>);

struct Training<'a> {
    run: &'a RunFolder,
    recipe: &'a Recipe,
    tokenizer: Tokenizer,
    windows: Windows<'a>,
    model: LanguageModel,
    optimizer: Optimizer,
    progress: Progress,
    /// The streams' state after the last window.
    carried: Option<State>,
    steps: u64,
    valid: Option<Corpus>,
    saved: Instant,
    saved_step: Option<u64>,
    clock: Clock,
}

impl Training<'_> {
    /// One window: forward, backward, update.
    fn step(&mut self) -> Result<(), TrainError> {
        let began = Instant::now();
        if self.progress.window == self.windows.len() {
            self.progress.window = 0;
            self.progress.passes += 1;
        }
        if self.progress.window == 0 {
            self.carried = None;
            (self.progress.epoch_nats, self.progress.epoch_tokens) = (0.0, 0);
        }
        let Window { inputs, targets, batch, segments } = self.windows.get(self.progress.window);
        let state = window_state(self.carried.as_ref(), &segments);
        let batch = Arc::new(batch);
        let began_from = state.clone();
        let (loss, state) = self.model.forward_loss(&inputs, &targets, &batch, state);
        let broken = |step| BrokenBatch {
            step,
            inputs: inputs.clone(),
            targets: targets.clone(),
            batch: (*batch).clone(),
            state: began_from.clone(),
        };
        self.carried = Some(carry(&state, &segments, self.windows.streams()));
        let step = self.progress.step + 1;
        let mean = f64::from(with_slice(&loss, |loss| loss[0]));
        if !mean.is_finite() {
            return Err(self.diverged("the loss", broken(step)));
        }
        let gradients = self.model.take_gradients(&mut loss.backward());
        let update = self.optimizer.update(&mut self.model, &gradients);
        if !update.norm.is_finite() {
            return Err(self.diverged("the gradient", broken(step)));
        }
        let p = &mut self.progress;
        p.step = step;
        p.window += 1;
        let nats = mean * targets.len() as f64;
        p.epoch_nats += nats;
        p.epoch_tokens += targets.len();
        p.log_nats += nats;
        p.log_tokens += targets.len();
        p.log_steps += 1;
        p.log_clipped += usize::from(update.clipped);
        p.gradient_norm = update.norm;
        let spent = began.elapsed();
        self.clock.tokens += targets.len();
        self.clock.log_tokens += targets.len();
        self.clock.spent += spent;
        self.clock.log_spent += spent;
        Ok(())
    }

    /// Finds out what broke, and saves the batch in the run.
    fn diverged(&self, what: &'static str, broken: BrokenBatch) -> TrainError {
        let told = Circumstances {
            recipe: self.recipe,
            gradient_norm: self.progress.gradient_norm,
            checkpoint: self.run.latest_path(),
        };
        let mut diagnosis = Box::new(diagnose(&self.model, &broken, told));
        let path = self.run.path().join(format!("diverged-{}.safetensors", broken.step));
        // A disk that is full must not hide what went wrong.
        diagnosis.replay = save(&path, &self.model, &broken).is_ok().then_some(path);
        TrainError::Diverged { step: broken.step, what, diagnosis }
    }

    /// Passes over the data so far.
    fn epochs(&self) -> f64 {
        self.progress.passes as f64 + self.progress.window as f64 / self.windows.len() as f64
    }

    /// Logs, validates and saves when their time has come.
    fn follow_up(&mut self, tell: Tell<'_>) -> Result<(), TrainError> {
        let step = self.progress.step;
        let last = step == self.steps;
        if self.progress.log_steps >= self.recipe.train.log_every || last {
            self.log(tell)?;
        }
        let due = match self.recipe.train.validate_every {
            Some(every) => step.is_multiple_of(every as u64),
            None => self.progress.window == self.windows.len(),
        };
        if due || last {
            self.validate(tell)?;
        }
        if self.saved.elapsed() >= Duration::from_secs(self.recipe.train.checkpoint_seconds) {
            self.save(Keep { best: false }, tell)?;
        }
        Ok(())
    }

    fn log(&mut self, tell: Tell<'_>) -> Result<(), TrainError> {
        let epoch = self.epochs();
        let p = &mut self.progress;
        let loss = p.log_nats / p.log_tokens.max(1) as f64;
        let clipped = p.log_clipped as f64 / p.log_steps.max(1) as f64;
        (p.log_nats, p.log_tokens, p.log_steps, p.log_clipped) = (0.0, 0, 0, 0);
        let tokens_per_second = self.clock.log_tokens as f64 / self.clock.log_spent.as_secs_f64().max(1e-9);
        (self.clock.log_tokens, self.clock.log_spent) = (0, Duration::ZERO);
        let tokens_left =
            (self.steps - p.step) as f64 * (self.recipe.train.batch * self.recipe.train.bptt) as f64;
        let event = Event::Step {
            step: p.step,
            steps: self.steps,
            epoch,
            loss,
            gradient_norm: p.gradient_norm,
            clipped,
            learning_rate: self.recipe.train.learning_rate,
            tokens_per_second,
            seconds_left: tokens_left / self.clock.rate(),
        };
        tell(&event);
        self.run.append_metrics(&json!({
            "kind": "train",
            "step": p.step,
            "epoch": epoch,
            "loss": loss,
            "gradient_norm": p.gradient_norm,
            "clipped": clipped,
            "learning_rate": self.recipe.train.learning_rate,
            "tokens_per_second": tokens_per_second.round(),
        }))?;
        Ok(())
    }

    /// Measures the model, lets it write, and saves it where it is the best so far.
    fn validate(&mut self, tell: Tell<'_>) -> Result<(), TrainError> {
        let (step, epoch) = (self.progress.step, self.epochs());
        let mut best = false;
        if let Some(valid) = &self.valid {
            let train = &self.recipe.train;
            let loss = mean(measure(&self.model, valid, train.batch, train.bptt)?);
            best = self.progress.best.is_none_or(|best| loss < best);
            if best {
                self.progress.best = Some(loss);
            }
            self.progress.validated = Some((step, loss));
            tell(&Event::Validated { step, epoch, loss, best });
            let line = json!({"kind": "valid", "step": step, "epoch": epoch, "loss": loss});
            self.run.append_metrics(&line)?;
        }
        if self.recipe.train.sample_length > 0 {
            let sampling = Sampling {
                temperature: SAMPLE_TEMPERATURE,
                top_k: None,
                top_p: None,
                // Drawn from the step, so that resuming needs no random state.
                seed: self.recipe.seed.wrapping_add(step),
            };
            let length = self.recipe.train.sample_length;
            let text = write(&self.model, &self.tokenizer, "", length, &sampling, &mut |_| {});
            tell(&Event::Sampled { step, text: &text });
            self.run.append_metrics(&json!({"kind": "sample", "step": step, "text": text}))?;
        }
        if best {
            self.save(Keep { best: true }, tell)?;
        }
        Ok(())
    }

    /// The last checkpoint, where the last step has none yet.
    fn finish(&mut self, tell: Tell<'_>) -> Result<(), TrainError> {
        if self.saved_step != Some(self.progress.step) {
            // Without validation the last one is what there is to use.
            self.save(Keep { best: self.valid.is_none() }, tell)?;
        }
        Ok(())
    }

    fn save(&mut self, keep: Keep, tell: Tell<'_>) -> Result<(), TrainError> {
        let step = self.progress.step;
        let state = serde_json::to_value(&self.progress)
            .map_err(|error| TrainError::State { reason: error.to_string() })?;
        let checkpoint = Checkpoint {
            step,
            model: self.model.named_tensors(),
            optimizer: self.optimizer.named_tensors(),
            carried: self.carried.as_ref().map(save_state).unwrap_or_default(),
            state,
        };
        let path = self.run.save(&checkpoint, keep)?;
        self.saved = Instant::now();
        self.saved_step = Some(step);
        tell(&Event::Saved { step, path: &path });
        Ok(())
    }

    /// The test loss of the best checkpoint.
    fn test(&mut self, test: &Corpus) -> Result<f64, TrainError> {
        let mut best = self.model.clone();
        if self.progress.validated.map(|(_, loss)| loss) != self.progress.best {
            best.load(&self.run.load_best()?.checkpoint.model)?;
        }
        let train = &self.recipe.train;
        Ok(mean(measure(&best.valid(), test, train.batch, train.bptt)?))
    }
}

/// The carried state as tensors `h` and `c`, `[layers · directions, B, H]`.
fn save_state(state: &State) -> Vec<NamedTensor> {
    let named = |name: &str, values: Tensor<3>| NamedTensor {
        name: name.to_owned(),
        shape: values.dims().to_vec(),
        values: with_slice(&values, <[f32]>::to_vec),
    };
    let mut all = vec![named("h", state.h())];
    all.extend(state.c().map(|c| named("c", c)));
    all
}

/// The opposite of [`save_state`]; `None` where nothing was carried.
fn load_state(
    tensors: &[NamedTensor],
    recipe: &Recipe,
    device: &Device,
) -> Result<Option<State>, TrainError> {
    if tensors.is_empty() {
        return Ok(None);
    }
    let shape = [recipe.model.layers, recipe.train.batch, recipe.model.hidden];
    let read = |name: &str| -> Result<Tensor<3>, TrainError> {
        let values = find_tensor(tensors, name, &shape)?.values.clone();
        Ok(Tensor::from_data(TensorData::new(values, shape), device))
    };
    let c = if recipe.model.recurrence().has_cell_state() { Some(read("c")?) } else { None };
    Ok(Some(State::new(read("h")?, c)))
}
