//! How the learning rate changes while a run goes on.

use crate::recipe::{ScheduleName, TrainRecipe};

/// The learning rate of each step, from the recipe.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    rate: f64,
    curve: Curve,
    warmup: u64,
    lowest: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Curve {
    Constant,
    /// Times `decay` after every `every` steps.
    Step {
        decay: f64,
        every: u64,
    },
    /// Times `decay` before each pass after the first `after` ones.
    Epoch {
        decay: f64,
        after: u64,
    },
    /// Times `decay` at every sign of a plateau.
    Plateau {
        decay: f64,
    },
    /// Half a cosine from the end of the warm-up to step `steps`.
    Cosine {
        steps: u64,
    },
}

/// Where a run is, as far as the learning rate depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moment {
    /// Updates done before this one.
    pub step: u64,
    /// Complete passes over the data before this one.
    pub passes: u64,
    /// How often the validation loss was found to stand still.
    pub plateaus: u32,
}

impl Schedule {
    /// The recipe's schedule for a run of `steps` updates.
    #[must_use]
    pub fn new(recipe: &TrainRecipe, steps: u64) -> Schedule {
        let decay = recipe.decay;
        let curve = match recipe.schedule {
            ScheduleName::Constant => Curve::Constant,
            ScheduleName::Step => Curve::Step { decay, every: recipe.decay_every.unwrap_or(1) as u64 },
            ScheduleName::Epoch => Curve::Epoch { decay, after: recipe.decay_after.unwrap_or(0) as u64 },
            ScheduleName::Plateau => Curve::Plateau { decay },
            ScheduleName::Cosine => Curve::Cosine { steps },
        };
        let (warmup, lowest) = (recipe.warmup_steps as u64, recipe.min_learning_rate);
        Schedule { rate: recipe.learning_rate, curve, warmup, lowest }
    }

    /// The learning rate of the update that comes next.
    #[must_use]
    pub fn at(&self, moment: Moment) -> f64 {
        let Moment { step, passes, plateaus } = moment;
        if step < self.warmup {
            return self.rate * (step + 1) as f64 / self.warmup as f64;
        }
        let times = |decay: f64, count: u64| self.rate * decay.powf(count as f64);
        match self.curve {
            Curve::Constant => self.rate,
            Curve::Step { decay, every } => times(decay, step / every),
            Curve::Epoch { decay, after } => times(decay, (passes + 1).saturating_sub(after)),
            Curve::Plateau { decay } => times(decay, u64::from(plateaus)).max(self.lowest.min(self.rate)),
            Curve::Cosine { steps } => {
                let length = steps.saturating_sub(self.warmup).max(1);
                let share = (step - self.warmup) as f64 / length as f64;
                let height = 0.5 * (1.0 + (std::f64::consts::PI * share.min(1.0)).cos());
                self.lowest + (self.rate - self.lowest) * height
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::recipe::{Recipe, Task};

    #[test]
    fn each_schedule_has_its_curve() {
        let check = |assignments: &[&str], rates: &[(u64, u64, u32, f64)]| {
            let mut recipe = Recipe::default_for(Task::Lm);
            recipe.set_all(&[assignments, &["train.learning_rate=0.8"]].concat()).unwrap();
            let schedule = Schedule::new(&recipe.train, 100);
            for &(step, passes, plateaus, expected) in rates {
                let found = schedule.at(Moment { step, passes, plateaus });
                assert!(
                    (found - expected).abs() < 1e-12,
                    "{assignments:?}, step {step}: {found}, not {expected}"
                );
            }
        };
        check(&[], &[(0, 0, 0, 0.8), (99, 9, 3, 0.8)]);
        let step = ["train.schedule=step", "train.decay_every=10", "train.decay=0.5"];
        check(&step, &[(0, 0, 0, 0.8), (9, 0, 0, 0.8), (10, 0, 0, 0.4), (20, 0, 0, 0.2)]);
        // "We train for 4 epochs with a learning rate of 1 and then decrease it by a factor of 2 after each."
        let epoch = ["train.schedule=epoch", "train.decay_after=4", "train.decay=0.5"];
        check(&epoch, &[(0, 0, 0, 0.8), (50, 3, 0, 0.8), (60, 4, 0, 0.4), (70, 5, 0, 0.2)]);
        let plateau = ["train.schedule=plateau", "train.decay=0.1", "train.min_learning_rate=0.01"];
        check(&plateau, &[(0, 0, 0, 0.8), (50, 0, 1, 0.08), (60, 0, 2, 0.01), (70, 0, 3, 0.01)]);
        let cosine = ["train.schedule=cosine", "train.warmup_steps=20", "train.min_learning_rate=0.2"];
        check(
            &cosine,
            &[(0, 0, 0, 0.04), (19, 0, 0, 0.8), (20, 0, 0, 0.8), (60, 0, 0, 0.5), (100, 0, 0, 0.2)],
        );
        check(&["train.warmup_steps=4"], &[(0, 0, 0, 0.2), (2, 0, 0, 0.6), (4, 0, 0, 0.8)]);
    }
}
