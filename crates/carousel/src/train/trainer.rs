//! The loop that all tasks share: update, log, validate, save, stop, go on.

use std::cell::Cell;
use std::time::{Duration, Instant};

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::parameters::NamedParameters;
use crate::recipe::{Optimizer, Recipe, ScheduleName, TrainRecipe};
use crate::run::{Keep, RunFolder};
use crate::train::average::{Average, Averaging};
use crate::train::checkpoint::Checkpoint;
use crate::train::divergence::diagnosis::Circumstances;
use crate::train::divergence::stacks::look_into;
use crate::train::job::{Facts, Job, Measured, Objective, Work};
use crate::train::optimizer as update;
use crate::train::schedule::{Moment, Schedule};
use crate::train::{Control, Event, Notice, Score, Start, Summary, TrainError};

/// Steps between validations where nothing is said and data has no end.
const VALIDATE_EVERY: u64 = 250;

/// Trains a job in a run's folder, from the start or from the latest checkpoint.
pub(super) fn train<J: Job>(
    run: &RunFolder,
    recipe: &Recipe,
    mut job: J,
    facts: Facts,
    start: Start,
    on_event: &mut dyn FnMut(&Event<'_>) -> Control,
) -> Result<Summary, TrainError> {
    let _claim = run.claim()?;
    let mut optimizer = update::Optimizer::new(&recipe.train, job.model());
    let mut progress = Progress::default();
    let mut note = None;
    let mut average = None;
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
        if let Some((how, _)) = averaging(recipe).filter(|_| progress.averaged > 0) {
            average = Some(Average::resume(how, progress.averaged, job.model(), &checkpoint.average)?);
        }
        job.restore(&place, &checkpoint.carried)?;
        run.truncate_metrics_after(progress.step)?;
    }
    let parameters = job.model().parameters().iter().map(|(_, p)| p.shape().iter().product::<usize>()).sum();
    let steps = job.steps();
    check(&recipe.train, &job, steps)?;
    let schedule = Schedule::new(&recipe.train, steps);
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
    let saved = Instant::now();
    let mut trainer =
        Trainer { run, recipe, job, optimizer, schedule, average, progress, steps, saved, saved_step, clock };
    while trainer.progress.step < steps && !trainer.progress.ended_early && !stop.get() {
        trainer.step()?;
        tell(&Event::Stepped { step: trainer.progress.step });
        trainer.follow_up(&mut tell)?;
    }
    trainer.finish(&mut tell)?;
    let stopped_early = trainer.progress.ended_early;
    let stopped = trainer.progress.step < steps && !stopped_early;
    let tested = if stopped { None } else { trainer.test()? };
    let progress = &trainer.progress;
    Ok(Summary {
        steps: progress.step,
        epochs: trainer.epochs(),
        train_loss: progress.epoch_loss / progress.epoch_targets.max(1) as f64,
        valid_loss: progress.best,
        valid_accuracy: progress.best_accuracy,
        valid_scores: progress.best_scores.clone(),
        test_loss: tested.as_ref().map(Measured::mean),
        test_scores: tested.map(|tested| tested.scores).unwrap_or_default(),
        tokens_per_second: trainer.clock.rate(),
        parameters,
        stopped,
        stopped_early,
    })
}

/// How weights are averaged, and after which step; NT-ASGD waits for a sign instead.
fn averaging(recipe: &Recipe) -> Option<(Averaging, u64)> {
    match recipe.train.optimizer {
        Optimizer::NtAsgd => Some((Averaging::Mean, u64::MAX)),
        _ => recipe.train.averaging(),
    }
}

/// What the recipe alone cannot tell.
fn check(recipe: &TrainRecipe, job: &impl Job, steps: u64) -> Result<(), TrainError> {
    let warmup = recipe.warmup_steps as u64;
    if recipe.schedule == ScheduleName::Cosine && warmup >= steps {
        return Err(TrainError::Warmup { warmup, steps });
    }
    let needs_validation = [
        (recipe.schedule == ScheduleName::Plateau, "train.schedule = \"plateau\""),
        (recipe.optimizer == Optimizer::NtAsgd, "train.optimizer = \"nt-asgd\""),
        (recipe.early_stop.is_some(), "train.early_stop"),
        (recipe.metric.is_some(), "train.metric"),
    ];
    match needs_validation.into_iter().find(|(wanted, _)| *wanted && !job.validates()) {
        Some((_, key)) => Err(TrainError::NoValidation { key }),
        None => Ok(()),
    }
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
    /// The validation loss of the best model, the lowest where that is what it is chosen by.
    best: Option<f64>,
    /// The share of right answers at that time.
    best_accuracy: Option<f64>,
    /// What else was measured at that time.
    #[serde(default)]
    best_scores: Vec<Score>,
    /// What it was chosen by, where that is not the loss.
    #[serde(default)]
    best_criterion: Option<f64>,
    /// The last validation: its step and loss, if that is a number.
    validated: Option<(u64, Option<f64>)>,
    /// The lowest validation loss.
    #[serde(default)]
    lowest: Option<f64>,
    /// Loss of the pass under way.
    epoch_loss: f64,
    epoch_targets: usize,
    /// Since the last log.
    log_loss: f64,
    log_targets: usize,
    log_steps: usize,
    log_clipped: usize,
    /// Of the last step.
    gradient_norm: f64,
    learning_rate: f64,
    /// Validations since the best one.
    since_best: usize,
    /// Validations since the lowest loss or the last plateau.
    waited: usize,
    plateaus: u32,
    /// The losses of all validations, where NT-ASGD waits for its sign.
    losses: Vec<f64>,
    /// NT-ASGD has seen its sign.
    averages: bool,
    /// Steps in the average of the weights.
    averaged: u64,
    ended_early: bool,
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
    optimizer: update::Optimizer,
    schedule: Schedule,
    average: Option<Average>,
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
        let batches = self.job.next();
        self.check_data()?;
        let step = self.progress.step + 1;
        let targets: usize = batches.iter().map(Work::targets).sum();
        let weight: f64 = batches.iter().map(Work::weight).sum();
        let mut mean_of_all = 0.0;
        let mut gradients: Option<Vec<Tensor<1>>> = None;
        for batch in &batches {
            let Objective { whole, mean } = self.job.objective(batch);
            self.check_data()?;
            if !mean.is_finite() {
                return Err(self.diverged(step, "the loss", &batches));
            }
            // A part counts as much as its targets weigh, so that the sum is the gradient of the whole mean.
            let share = batch.weight() / weight;
            mean_of_all += mean * share;
            let whole = if batches.len() > 1 { whole * share } else { whole };
            let part = self.job.model().take_gradients(&mut whole.backward());
            gradients = Some(match gradients {
                None => part,
                Some(sum) => sum.into_iter().zip(part).map(|(sum, part)| sum + part).collect(),
            });
        }
        let rate = self.learning_rate() * self.job.rate();
        let update = self.optimizer.update(self.job.model_mut(), &gradients.unwrap_or_default(), rate);
        if !update.norm.is_finite() {
            return Err(self.diverged(step, "the gradient", &batches));
        }
        let summed = mean_of_all * targets as f64;
        let p = &mut self.progress;
        p.step = step;
        if self.job.pass().is_some_and(|pass| pass.began) {
            (p.epoch_loss, p.epoch_targets) = (0.0, 0);
        }
        p.epoch_loss += summed;
        p.epoch_targets += targets;
        p.log_loss += summed;
        p.log_targets += targets;
        p.log_steps += 1;
        p.log_clipped += usize::from(update.clipped);
        p.gradient_norm = update.norm;
        p.learning_rate = rate;
        self.take_average();
        self.clock.add(batches.iter().map(Work::frames).sum(), began.elapsed());
        Ok(())
    }

    /// Nothing is learned or judged from what could not be read.
    fn check_data(&self) -> Result<(), TrainError> {
        self.job.failure().map_or(Ok(()), Err)
    }

    fn diverged(&mut self, step: u64, what: &'static str, batches: &[J::Batch]) -> TrainError {
        let path = self.run.path().join(format!("diverged-{step}.safetensors"));
        let gradient_norm = self.progress.gradient_norm;
        // For who looks at the saved batch later. A disk that is full must not hide what went wrong.
        let _ = self
            .run
            .append_metrics(&json!({"kind": "diverged", "step": step, "gradient_norm": gradient_norm}));
        let told = Circumstances { recipe: self.recipe, gradient_norm, checkpoint: self.run.latest_path() };
        let closer = self.job.diagnose(batches, &path, step, &told);
        let diagnosis = closer.unwrap_or_else(|| look_into(&mut self.job, batches, &path, step, &told));
        TrainError::Diverged { step, what, diagnosis: Box::new(diagnosis) }
    }

    /// The scheduled learning rate of the update that comes next; the job has moved on to its batch.
    fn learning_rate(&self) -> f64 {
        let passes = self.job.pass().map_or(0, |pass| pass.passes);
        self.schedule.at(Moment { step: self.progress.step, passes, plateaus: self.progress.plateaus })
    }

    /// Takes the weights into their average where one is taken.
    fn take_average(&mut self) {
        let Some((how, from)) = averaging(self.recipe) else { return };
        match &mut self.average {
            Some(average) => average.add(self.job.model()),
            None if self.progress.step > from || self.progress.averages => {
                self.average = Some(Average::new(how, self.job.model()));
            }
            None => {}
        }
        self.progress.averaged = self.average.as_ref().map_or(0, Average::steps);
    }

    /// The model to be measured and used: with averaged weights where there are any.
    fn judged(&self) -> Result<J::Model, TrainError> {
        let mut model = self.job.model().clone();
        if let Some(average) = &self.average {
            model.load(average.values())?;
        }
        Ok(model)
    }

    fn epochs(&self) -> Option<f64> {
        self.job.pass().map(|pass| pass.epochs)
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
            None => self.job.pass().map_or(step.is_multiple_of(VALIDATE_EVERY), |pass| pass.ended),
        };
        if due || last {
            self.validate(tell)?;
        }
        if self.saved.elapsed() >= Duration::from_secs(self.recipe.train.checkpoint_seconds) {
            self.save(self.keep_last(), tell)?;
        }
        Ok(())
    }

    /// Without validation the last checkpoint is what there is to use.
    fn keep_last(&self) -> Keep {
        Keep { best: !self.job.validates() }
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
            learning_rate: p.learning_rate,
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
            "learning_rate": p.learning_rate,
            "tokens_per_second": tokens_per_second.round(),
        }))?;
        Ok(())
    }

    /// Measures the model, lets it write, and saves it where it is the best so far.
    fn validate(&mut self, tell: Tell<'_>) -> Result<(), TrainError> {
        let (step, epoch) = (self.progress.step, self.epochs());
        let mut best = false;
        let judged = self.judged()?;
        let measured = self.job.validate(&judged)?;
        self.check_data()?;
        if let Some(measured) = measured {
            let (loss, accuracy) = (measured.mean(), measured.accuracy());
            // Nothing is worse than what is no number.
            let lower = self.progress.best.is_none_or(|best| loss < best || !best.is_finite());
            best = match (measured.criterion, self.progress.best_criterion) {
                // Few examples are often answered equally well.
                (Some(found), Some(best)) => found > best || found == best && lower,
                _ => lower,
            };
            if best {
                (self.progress.best, self.progress.best_accuracy) = (Some(loss), accuracy);
                self.progress.best_criterion = measured.criterion;
                self.progress.best_scores.clone_from(&measured.scores);
            }
            self.progress.validated = Some((step, Some(loss).filter(|loss| loss.is_finite())));
            let scores = &measured.scores;
            tell(&Event::Validated { step, epoch, loss, accuracy, scores, best });
            let mut line =
                json!({"kind": "valid", "step": step, "epoch": epoch, "loss": loss, "accuracy": accuracy});
            scores.iter().for_each(|score| line[&score.name] = score.value.into());
            self.run.append_metrics(&line)?;
            self.react(loss, best, tell);
        }
        // Drawn from the step, so that resuming needs no random state.
        let seed = self.recipe.seed.wrapping_add(step);
        if let Some(text) = self.job.sample(&judged, seed) {
            tell(&Event::Sampled { step, text: &text });
            self.run.append_metrics(&json!({"kind": "sample", "step": step, "text": text}))?;
        }
        if best {
            self.save(Keep { best: true }, tell)?;
        }
        Ok(())
    }

    /// What follows from a validation loss: a lower learning rate, averaging, an end.
    fn react(&mut self, loss: f64, best: bool, tell: Tell<'_>) {
        let train = &self.recipe.train;
        let p = &mut self.progress;
        let step = p.step;
        p.since_best = if best { 0 } else { p.since_best + 1 };
        let lower = loss.is_finite() && p.lowest.is_none_or(|lowest| loss < lowest);
        p.lowest = if lower { Some(loss) } else { p.lowest };
        p.waited = if lower { 0 } else { p.waited + 1 };
        if train.optimizer == Optimizer::NtAsgd && !p.averages && loss.is_finite() {
            // Above the lowest of all but the last `nonmono` losses (Merity et al. 2017, algorithm 1).
            let earlier = &p.losses[..p.losses.len().saturating_sub(train.nonmono)];
            p.averages = earlier.iter().any(|&earlier| loss > earlier);
            p.losses.push(loss);
            if p.averages {
                tell(&Event::Noticed { step, what: Notice::Averaging });
            }
        }
        if train.schedule == ScheduleName::Plateau && p.waited > train.patience {
            (p.waited, p.plateaus) = (0, p.plateaus + 1);
            let passes = self.job.pass().map_or(0, |pass| pass.passes);
            let learning_rate = self.schedule.at(Moment { step, passes, plateaus: p.plateaus });
            tell(&Event::Noticed { step, what: Notice::Plateau { learning_rate } });
        }
        if train.early_stop.is_some_and(|most| p.since_best >= most) && step < self.steps {
            p.ended_early = true;
            tell(&Event::Noticed { step, what: Notice::EarlyStop { validations: p.since_best } });
        }
    }

    /// The last checkpoint, where the last step has none yet.
    fn finish(&mut self, tell: Tell<'_>) -> Result<(), TrainError> {
        if self.saved_step != Some(self.progress.step) {
            self.save(self.keep_last(), tell)?;
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
            average: self.average.as_ref().map(|average| average.values().to_vec()).unwrap_or_default(),
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

    /// Measures the best checkpoint on what is kept for the end.
    fn test(&self) -> Result<Option<Measured>, TrainError> {
        let mut best = self.judged()?;
        if self.progress.validated.and_then(|(_, loss)| loss) != self.progress.best {
            best.load(self.run.load_best()?.checkpoint.weights())?;
        }
        let measured = self.job.test(&best)?;
        self.check_data()?;
        Ok(measured)
    }
}
