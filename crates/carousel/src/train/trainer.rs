//! The loop that all tasks share: update, log, validate, save, stop, go on.

use std::cell::Cell;
use std::time::{Duration, Instant};

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::fused::with_slice;
use crate::parameters::{NamedParameters, NamedTensor};
use crate::recipe::Recipe;
use crate::run::{Keep, RunFolder};
use crate::train::checkpoint::Checkpoint;
use crate::train::{Control, Event, Optimizer, Start, Summary, TrainError};

/// What the loop asks of a task.
pub(super) trait Job {
    /// What is trained.
    type Model: NamedParameters + Clone;
    /// What one forward pass reads.
    type Batch: Work;

    fn model(&self) -> &Self::Model;

    fn model_mut(&mut self) -> &mut Self::Model;

    /// Updates that the recipe asks for.
    fn steps(&self) -> u64;

    /// Moves on, and returns what the next update learns from.
    fn next(&mut self) -> Self::Batch;

    /// The mean loss `[1]` over the targets of a batch, as a graph.
    fn loss(&mut self, batch: &Self::Batch) -> Tensor<1>;

    /// How far the data was read; `None` where it has no end.
    fn pass(&self) -> Option<Pass>;

    /// Whether there is something to validate on.
    fn validates(&self) -> bool;

    /// The loss of a model on what it is validated on.
    fn validate(&self, model: &Self::Model) -> Result<Option<f64>, TrainError>;

    /// The loss of a model on what is kept for the end.
    fn test(&self, model: &Self::Model) -> Result<Option<f64>, TrainError>;

    /// Something that a model writes, for people to see how it does.
    fn sample(&self, model: &Self::Model, seed: u64) -> Option<String>;

    /// Where in the data the job is.
    fn place(&self) -> Result<Value, serde_json::Error>;

    /// The state that is carried to the next batch.
    fn carried(&self) -> Vec<NamedTensor>;

    /// Goes to a place and takes over a state that were saved.
    fn restore(&mut self, place: &Value, carried: &[NamedTensor]) -> Result<(), TrainError>;
}

/// What a batch holds.
pub(super) trait Work {
    /// What the loss is a mean of, at least 1.
    fn targets(&self) -> usize;

    /// Steps of all sequences.
    fn frames(&self) -> usize;
}

/// How far the data was read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pass {
    /// Passes over the data so far, with the part of the one under way.
    pub(super) epochs: f64,
    /// The pass under way has just begun: nothing of it but the last batch was read.
    pub(super) began: bool,
    /// A pass has just ended.
    pub(super) ended: bool,
}

/// What a run learns from, in numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) vocabulary: usize,
    pub(super) train_tokens: usize,
    pub(super) valid_tokens: usize,
}

/// Trains a job in a run's folder, from the start or from the latest checkpoint.
pub(super) fn train<J: Job>(
    run: &RunFolder,
    recipe: &Recipe,
    mut job: J,
    facts: Facts,
    start: Start,
    on_event: &mut dyn FnMut(&Event<'_>) -> Control,
) -> Result<Summary, TrainError> {
    let mut optimizer = Optimizer::new(&recipe.train, job.model());
    let mut progress = Progress::default();
    let mut note = None;
    if start == Start::Resume {
        let loaded = run.load_latest()?;
        note = loaded.note;
        let checkpoint = loaded.checkpoint;
        job.model_mut().load(&checkpoint.model)?;
        optimizer.load(checkpoint.step, &checkpoint.optimizer)?;
        let SavedState { progress: saved, place } = SavedState::deserialize(&checkpoint.state)
            .map_err(|error| TrainError::State { reason: error.to_string() })?;
        progress = saved;
        if progress.step != checkpoint.step {
            let reason = format!("step {} in step {}", progress.step, checkpoint.step);
            return Err(TrainError::State { reason });
        }
        job.restore(&place, &checkpoint.carried)?;
        run.truncate_metrics_after(progress.step)?;
    }
    let parameters = job.model().parameters().iter().map(|(_, p)| p.shape().iter().product::<usize>()).sum();
    let steps = job.steps();
    let stop = Cell::new(false);
    let mut tell = |event: &Event<'_>| {
        if on_event(event) == Control::Stop {
            stop.set(true);
        }
    };
    tell(&Event::Started {
        parameters,
        vocabulary: facts.vocabulary,
        train_tokens: facts.train_tokens,
        valid_tokens: facts.valid_tokens,
        steps,
        resumed_at: (start == Start::Resume).then_some(progress.step),
        note,
    });
    let saved_step = (start == Start::Resume).then_some(progress.step);
    let clock = Clock::new();
    let mut trainer =
        Trainer { run, recipe, job, optimizer, progress, steps, saved: Instant::now(), saved_step, clock };
    while trainer.progress.step < steps && !stop.get() {
        trainer.step()?;
        trainer.follow_up(&mut tell)?;
    }
    trainer.finish(&mut tell)?;
    let stopped = trainer.progress.step < steps;
    let test_loss = if stopped { None } else { trainer.test()? };
    let progress = &trainer.progress;
    Ok(Summary {
        steps: progress.step,
        epochs: trainer.epochs(),
        train_loss: progress.epoch_loss / progress.epoch_targets.max(1) as f64,
        valid_loss: progress.best,
        test_loss,
        tokens_per_second: trainer.clock.rate(),
        parameters,
        stopped,
    })
}

/// What is no tensor of a run; `state.json` of a checkpoint.
#[derive(Serialize, Deserialize)]
struct SavedState {
    progress: Progress,
    place: Value,
}

/// How far a run is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Progress {
    step: u64,
    /// The lowest validation loss.
    best: Option<f64>,
    /// The last validation: its step and loss.
    validated: Option<(u64, f64)>,
    /// Loss of the pass under way.
    epoch_loss: f64,
    epoch_targets: usize,
    /// Since the last log.
    log_loss: f64,
    log_targets: usize,
    log_steps: usize,
    log_clipped: usize,
    gradient_norm: f64,
}

/// Times the steps, without validation and saving.
struct Clock {
    steps: u64,
    frames: usize,
    spent: Duration,
    log_frames: usize,
    log_spent: Duration,
}

impl Clock {
    fn new() -> Clock {
        Clock { steps: 0, frames: 0, spent: Duration::ZERO, log_frames: 0, log_spent: Duration::ZERO }
    }

    fn add(&mut self, frames: usize, spent: Duration) {
        self.steps += 1;
        self.frames += frames;
        self.log_frames += frames;
        self.spent += spent;
        self.log_spent += spent;
    }

    /// Frames a second.
    fn rate(&self) -> f64 {
        self.frames as f64 / self.spent.as_secs_f64().max(1e-9)
    }

    /// Frames a second since the last call.
    fn take_log_rate(&mut self) -> f64 {
        let rate = self.log_frames as f64 / self.log_spent.as_secs_f64().max(1e-9);
        (self.log_frames, self.log_spent) = (0, Duration::ZERO);
        rate
    }

    fn seconds_a_step(&self) -> f64 {
        self.spent.as_secs_f64() / self.steps as f64
    }
}

/// Passes an event on; a wish to stop is noted where the loop looks.
type Tell<'a> = &'a mut dyn FnMut(&Event<'_>);

struct Trainer<'a, J> {
    run: &'a RunFolder,
    recipe: &'a Recipe,
    job: J,
    optimizer: Optimizer,
    progress: Progress,
    steps: u64,
    saved: Instant,
    saved_step: Option<u64>,
    clock: Clock,
}

impl<J: Job> Trainer<'_, J> {
    /// One batch: forward, backward, update.
    fn step(&mut self) -> Result<(), TrainError> {
        let began = Instant::now();
        let batch = self.job.next();
        let loss = self.job.loss(&batch);
        let step = self.progress.step + 1;
        let mean = f64::from(with_slice(&loss, |loss| loss[0]));
        if !mean.is_finite() {
            return Err(TrainError::Diverged { step, what: "the loss" });
        }
        let gradients = self.job.model().take_gradients(&mut loss.backward());
        let update = self.optimizer.update(self.job.model_mut(), &gradients);
        if !update.norm.is_finite() {
            return Err(TrainError::Diverged { step, what: "the gradient" });
        }
        let p = &mut self.progress;
        p.step = step;
        if self.job.pass().is_some_and(|pass| pass.began) {
            (p.epoch_loss, p.epoch_targets) = (0.0, 0);
        }
        let targets = batch.targets();
        p.epoch_loss += mean * targets as f64;
        p.epoch_targets += targets;
        p.log_loss += mean * targets as f64;
        p.log_targets += targets;
        p.log_steps += 1;
        p.log_clipped += usize::from(update.clipped);
        p.gradient_norm = update.norm;
        self.clock.add(batch.frames(), began.elapsed());
        Ok(())
    }

    fn epochs(&self) -> f64 {
        self.job.pass().map_or(0.0, |pass| pass.epochs)
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
            None => self.job.pass().is_some_and(|pass| pass.ended),
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
        let loss = p.log_loss / p.log_targets.max(1) as f64;
        let clipped = p.log_clipped as f64 / p.log_steps.max(1) as f64;
        (p.log_loss, p.log_targets, p.log_steps, p.log_clipped) = (0.0, 0, 0, 0);
        let tokens_per_second = self.clock.take_log_rate();
        let event = Event::Step {
            step: p.step,
            steps: self.steps,
            epoch,
            loss,
            gradient_norm: p.gradient_norm,
            clipped,
            learning_rate: self.recipe.train.learning_rate,
            tokens_per_second,
            seconds_left: (self.steps - p.step) as f64 * self.clock.seconds_a_step(),
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
        if let Some(loss) = self.job.validate(self.job.model())? {
            best = self.progress.best.is_none_or(|best| loss < best);
            if best {
                self.progress.best = Some(loss);
            }
            self.progress.validated = Some((step, loss));
            tell(&Event::Validated { step, epoch, loss, best });
            let line = json!({"kind": "valid", "step": step, "epoch": epoch, "loss": loss});
            self.run.append_metrics(&line)?;
        }
        // Drawn from the step, so that resuming needs no random state.
        let seed = self.recipe.seed.wrapping_add(step);
        if let Some(text) = self.job.sample(self.job.model(), seed) {
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
            self.save(Keep { best: !self.job.validates() }, tell)?;
        }
        Ok(())
    }

    fn save(&mut self, keep: Keep, tell: Tell<'_>) -> Result<(), TrainError> {
        let step = self.progress.step;
        let state = self
            .job
            .place()
            .and_then(|place| serde_json::to_value(SavedState { progress: self.progress.clone(), place }))
            .map_err(|error| TrainError::State { reason: error.to_string() })?;
        let checkpoint = Checkpoint {
            step,
            model: self.job.model().named_tensors(),
            optimizer: self.optimizer.named_tensors(),
            carried: self.job.carried(),
            state,
        };
        let path = self.run.save(&checkpoint, keep)?;
        self.saved = Instant::now();
        self.saved_step = Some(step);
        tell(&Event::Saved { step, path: &path });
        Ok(())
    }

    /// The test loss of the best checkpoint.
    fn test(&self) -> Result<Option<f64>, TrainError> {
        let mut best = self.job.model().clone();
        if self.progress.validated.map(|(_, loss)| loss) != self.progress.best {
            best.load(&self.run.load_best()?.checkpoint.model)?;
        }
        self.job.test(&best)
    }
}
