//! What tasks over a set of separate examples have in common: passes in random order, batches of about equal
//! length, and where in them a run is.

use std::collections::HashSet;
use std::hash::Hash;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::data::{Classes, DataError, Fill, NamePattern, Passes, pack, split, split_groups};
use crate::own_cell::Sizes;
use crate::parameters::{NamedParameters, NamedTensor};
use crate::ragged::Batch;
use crate::recipe::Recipe;
use crate::regularize::Noise;
use crate::state::State;
use crate::train::job::{Job, Measured, Objective, Pass, Work};
use crate::train::tbptt::{StateShape, load_state, state_tensors};
use crate::train::{Sources, TrainError, shares};

/// What a task does with its examples.
pub(super) trait ExampleTask {
    type Model: NamedParameters + Clone;
    type Example;

    /// Steps of an example.
    fn length(&self, example: &Self::Example) -> usize;

    /// What of an example counts in the loss.
    fn targets(&self, example: &Self::Example) -> usize;

    /// The mean loss over a batch's targets `[1]`, and its value, at an update counted from 0.
    fn objective(
        &self,
        model: &Self::Model,
        batch: &[&Self::Example],
        noise: Noise,
        update: u64,
    ) -> Objective;

    /// Steps of a window, where batches of long examples are read window by window, the state going on from one to
    /// the next; `None`: whole.
    fn window(&self) -> Option<usize> {
        None
    }

    /// What of an example's steps counts in the loss.
    fn targets_within(&self, example: &Self::Example, _steps: Range<usize>) -> usize {
        self.targets(example)
    }

    /// How much each of an example's targets weighs in the mean.
    fn weight(&self, _example: &Self::Example) -> f64 {
        1.0
    }

    /// [`objective`](ExampleTask::objective) over a window of a batch that begins with `state`, and the state, cut
    /// from the graph, that the next one begins with.
    fn windowed(
        &self,
        model: &Self::Model,
        batch: &[&Self::Example],
        _steps: Range<usize>,
        _state: Option<State>,
        noise: Noise,
        update: u64,
    ) -> (Objective, Option<State>) {
        (self.objective(model, batch, noise, update), None)
    }

    /// Why an example could not be read, once, where it could not.
    fn failure(&self) -> Option<DataError> {
        None
    }

    /// How good a model is.
    fn measure(&self, model: &Self::Model, examples: &[Self::Example]) -> Measured;

    /// How good the best model is on what was kept for the end, where that is measured more closely.
    fn test(&self, model: &Self::Model, examples: &[Self::Example]) -> Measured {
        self.measure(model, examples)
    }

    /// What a model makes of some examples, for people to see how it does.
    fn sample(&self, _model: &Self::Model, _examples: &[Self::Example]) -> Option<String> {
        None
    }
}

/// Sequences of tokens side by side, the ends of each included: what is read, and what is to be said after it.
pub(super) fn shifted<'a>(
    sequences: impl Iterator<Item = &'a [u32]> + Clone,
) -> (Vec<u32>, Vec<u32>, Arc<Batch>) {
    let (inputs, batch) = pack(&sequences.clone().map(|ids| &ids[..ids.len() - 1]).collect::<Vec<_>>(), 1);
    let (wanted, _) = pack(&sequences.map(|ids| &ids[1..]).collect::<Vec<_>>(), 1);
    (inputs, wanted, Arc::new(batch))
}

/// The examples of a run.
pub(super) struct Parts<E> {
    pub(super) train: Vec<E>,
    pub(super) valid: Vec<E>,
    pub(super) test: Vec<E>,
}

/// What keeps `count` examples together when parts are drawn, by number, as a recipe says it: a column, or a part of a
/// file's name. `of` gives the file of an example, and its group where a column says it. `None`: nothing does.
pub(super) fn groups<'a>(
    recipe: &Recipe,
    sources: &Sources,
    count: usize,
    of: impl Fn(usize) -> (&'a str, Option<&'a str>),
) -> Result<Option<Vec<usize>>, DataError> {
    let data = &recipe.data;
    let names = match (&data.file_group, &data.group) {
        (Some(pattern), _) => {
            let pattern = NamePattern::new("data.file_group", pattern)?;
            (0..count).map(|example| pattern.find(of(example).0)).collect::<Result<Vec<_>, _>>()?
        }
        (None, Some(column)) => {
            let name = |example| {
                let (file, group) = of(example);
                group.ok_or_else(|| DataError::File {
                    name: file.to_owned(),
                    reason: format!(
                        "no column is named {column:?}, expected what keeps its examples together; set data.group, or \
                         data.file_group where its name says it"
                    ),
                })
            };
            (0..count).map(name).collect::<Result<Vec<_>, _>>()?
        }
        (None, None) => return Ok(None),
    };
    let [_, valid, test] = shares(recipe, sources);
    if valid + test > 0.0
        && let Some(first) = names.first()
        && names.iter().all(|name| name == first)
    {
        let reason = format!(
            "all {count} examples are of one group, {first:?}, expected at least two to hold out a part; give --valid and \
             --test, or another data.group or data.file_group"
        );
        return Err(DataError::Examples { reason });
    }
    Ok(Some(numbered(&names)))
}

/// Names by number: equal names have equal numbers.
pub(super) fn numbered(names: &[&str]) -> Vec<usize> {
    let known = Classes::collect(names.iter().copied());
    names.iter().map(|name| known.id(name).unwrap_or_default() as usize).collect()
}

/// So many rare examples go to the training part whatever is left of the others.
const FEW: usize = 10;

/// Which part each of `count` examples belongs to: drawn at random, or group by group where there are some. What holds
/// a label that the training part lacks, as `labels` gives them, goes there with its group: nobody could learn it.
pub(super) fn draw<L: Eq + Hash, I: IntoIterator<Item = L>>(
    count: usize,
    groups: Option<&[usize]>,
    labels: impl Fn(usize) -> I,
    recipe: &Recipe,
    sources: &Sources,
) -> [Vec<usize>; 3] {
    let shares = shares(recipe, sources);
    let [mut train, mut valid, mut test] = match groups {
        Some(groups) => split_groups(groups, shares, recipe.seed),
        None => split(count, shares, recipe.seed),
    };
    let mut known: HashSet<L> = train.iter().flat_map(|&example| labels(example)).collect();
    for held in [&mut valid, &mut test] {
        let group_of = |example: usize| groups.map_or(example, |groups| groups[example]);
        let mut going = HashSet::new();
        for &example in held.iter() {
            let group = group_of(example);
            if going.contains(&group) || labels(example).into_iter().any(|label| !known.contains(&label)) {
                going.insert(group);
                known.extend(labels(example));
            }
        }
        let goes = |example: &usize| going.contains(&group_of(*example));
        let count = held.iter().filter(|example| goes(example)).count();
        // Where nearly every example has a label of its own those are no classes, and what follows says so.
        if count <= FEW || count * 2 <= held.len() {
            train.extend(held.extract_if(.., |example| goes(example)));
        }
    }
    train.sort_unstable();
    [train, valid, test]
}

/// Deals the examples that were read for training to the parts, as `places` says; what was given apart takes the place
/// of what would be held out.
pub(super) fn deal<E>(
    all: Vec<E>,
    places: [Vec<usize>; 3],
    valid: Vec<E>,
    test: Vec<E>,
) -> Result<Parts<E>, DataError> {
    let mut all: Vec<Option<E>> = all.into_iter().map(Some).collect();
    let [train, held_valid, held_test] =
        places.map(|places| places.into_iter().filter_map(|place| all[place].take()).collect::<Vec<E>>());
    let given = |given: Vec<E>, held: Vec<E>| if given.is_empty() { held } else { given };
    let parts = Parts { train, valid: given(valid, held_valid), test: given(test, held_test) };
    if parts.train.is_empty() {
        let reason = "the training part is empty; give more data, or a data.split with more for training";
        return Err(DataError::Examples { reason: reason.to_owned() });
    }
    Ok(parts)
}

impl<E> Parts<E> {
    /// The parts that are not empty, each with its name.
    pub(super) fn named(&self) -> impl Iterator<Item = (&'static str, &[E])> {
        [("training", &self.train), ("validation", &self.valid), ("test", &self.test)]
            .into_iter()
            .filter(|(_, part)| !part.is_empty())
            .map(|(name, part)| (name, part.as_slice()))
    }
}

/// Trains a task on its examples.
pub(super) struct ExampleJob<'a, T: ExampleTask> {
    task: T,
    recipe: &'a Recipe,
    model: T::Model,
    parts: Parts<T::Example>,
    passes: Passes,
    place: Place,
    /// The batches of the pass under way.
    order: Vec<Vec<usize>>,
    /// Updates of a pass over whole examples.
    updates: usize,
    /// What the next window of the batch under way begins with.
    carried: Option<State>,
}

/// Where in the data a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    /// Complete passes.
    passes: u64,
    /// Batches read of the pass under way.
    batch: usize,
    /// The first batch of the update under way.
    first: usize,
    /// The window of that batch.
    #[serde(default)]
    window: usize,
}

/// The places of `most` of `count` examples, spread over all: neighbours in a file are alike, and a file may begin with
/// its shortest.
pub(super) fn spread_over(count: usize, most: usize) -> impl Iterator<Item = usize> {
    let kept = count.min(most);
    (0..kept).map(move |place| place * count / kept)
}

/// The examples of a batch.
pub(super) struct Chosen {
    examples: Vec<usize>,
    /// The batch's number in its pass.
    number: usize,
    /// What is read of each example.
    steps: Range<usize>,
    targets: usize,
    weight: f64,
    frames: usize,
}

impl Work for Chosen {
    fn targets(&self) -> usize {
        self.targets.max(1)
    }

    fn weight(&self) -> f64 {
        if self.weight > 0.0 { self.weight } else { 1.0 }
    }

    fn frames(&self) -> usize {
        self.frames
    }
}

impl<'a, T: ExampleTask> ExampleJob<'a, T> {
    pub(super) fn new(task: T, recipe: &'a Recipe, model: T::Model, parts: Parts<T::Example>) -> Self {
        let lengths = parts.train.iter().map(|example| task.length(example)).collect();
        let fill = match recipe.train.batch_tokens {
            Some(tokens) => Fill::Steps(tokens),
            None => Fill::Examples(recipe.train.batch),
        };
        let passes = Passes::filled(lengths, fill, recipe.seed);
        let order = passes.pass(0);
        let updates = passes.batches().div_ceil(recipe.train.accumulate);
        let place = Place::default();
        ExampleJob { task, recipe, model, parts, passes, place, order, updates, carried: None }
    }

    /// Windows of a batch.
    fn windows(&self, batch: &[usize]) -> usize {
        let longest =
            batch.iter().map(|&example| self.task.length(&self.parts.train[example])).max().unwrap_or(0);
        self.task.window().map_or(1, |window| longest.div_ceil(window).max(1))
    }

    /// Updates of so many passes.
    fn updates_in(&self, epochs: f64) -> f64 {
        if self.task.window().is_none() {
            return epochs * self.updates as f64;
        }
        // Which examples are together, and so how many windows there are, changes from pass to pass.
        let count =
            |pass: u64| self.passes.pass(pass).iter().map(|batch| self.windows(batch)).sum::<usize>() as f64;
        let whole = epochs.floor();
        let rest = if epochs > whole { (epochs - whole) * count(whole as u64) } else { 0.0 };
        (0..whole as u64).map(count).sum::<f64>() + rest
    }

    /// Windows that are still to be read of the batch under way.
    fn windows_left(&self) -> usize {
        match self.place.batch > self.place.first {
            true => self.windows(&self.order[self.place.first]) - self.place.window - 1,
            false => 0,
        }
    }
}

impl<T: ExampleTask> Job for ExampleJob<'_, T> {
    type Model = T::Model;
    type Batch = Chosen;

    fn model(&self) -> &T::Model {
        &self.model
    }

    fn model_mut(&mut self) -> &mut T::Model {
        &mut self.model
    }

    fn steps(&self) -> u64 {
        let train = &self.recipe.train;
        match (train.steps, train.epochs) {
            (Some(steps), _) => steps as u64,
            (None, epochs) => self.updates_in(epochs.unwrap_or(1.0)).ceil() as u64,
        }
    }

    fn next(&mut self) -> Vec<Chosen> {
        if self.windows_left() > 0 {
            self.place.window += 1;
        } else {
            if self.place.batch == self.order.len() {
                self.place = Place { passes: self.place.passes + 1, ..Place::default() };
                self.order = self.passes.pass(self.place.passes);
            }
            let first = self.place.batch;
            let end = (first + self.recipe.train.accumulate).min(self.order.len());
            self.place = Place { first, batch: end, window: 0, ..self.place };
            self.carried = None;
        }
        let window = self.task.window().unwrap_or(usize::MAX);
        let steps = self.place.window * window..(self.place.window + 1).saturating_mul(window);
        (self.place.first..self.place.batch)
            .map(|number| {
                let examples = self.order[number].clone();
                let (mut targets, mut weight, mut frames) = (0, 0.0, 0);
                for example in examples.iter().map(|&example| &self.parts.train[example]) {
                    let own = self.task.targets_within(example, steps.clone());
                    targets += own;
                    weight += self.task.weight(example) * own as f64;
                    let length = self.task.length(example);
                    frames += length.min(steps.end) - length.min(steps.start);
                }
                Chosen { examples, number, steps: steps.clone(), targets, weight, frames }
            })
            .collect()
    }

    fn failure(&self) -> Option<TrainError> {
        self.task.failure().map(TrainError::from)
    }

    fn objective(&mut self, batch: &Chosen) -> Objective {
        let Place { passes, first, window, .. } = self.place;
        let noise = match self.task.window() {
            None => Noise::new(&[self.recipe.seed, passes, batch.number as u64]),
            Some(_) => Noise::new(&[self.recipe.seed, passes, batch.number as u64, window as u64]),
        };
        let examples: Vec<&T::Example> =
            batch.examples.iter().map(|&example| &self.parts.train[example]).collect();
        let update = passes * self.updates as u64 + (first / self.recipe.train.accumulate) as u64;
        if self.task.window().is_none() {
            return self.task.objective(&self.model, &examples, noise, update);
        }
        let state = self.carried.take();
        let (objective, state) =
            self.task.windowed(&self.model, &examples, batch.steps.clone(), state, noise, update);
        self.carried = state;
        objective
    }

    fn pass(&self) -> Option<Pass> {
        let Place { passes, batch, first, window } = self.place;
        let (count, left) = (self.order.len(), self.windows_left());
        let open = left as f64 / (window + 1 + left) as f64;
        let epochs = passes as f64 + (batch as f64 - open) / count.max(1) as f64;
        Some(Pass { epochs, passes, began: first == 0 && window == 0, ended: batch == count && left == 0 })
    }

    fn validates(&self) -> bool {
        !self.parts.valid.is_empty()
    }

    fn validate(&self, model: &T::Model) -> Result<Option<Measured>, TrainError> {
        let valid = &self.parts.valid;
        Ok((!valid.is_empty()).then(|| self.task.measure(model, valid)))
    }

    fn test(&self, model: &T::Model) -> Result<Option<Measured>, TrainError> {
        let test = &self.parts.test;
        Ok((!test.is_empty()).then(|| self.task.test(model, test)))
    }

    fn sample(&self, model: &T::Model, _: u64) -> Option<String> {
        let part = if self.parts.valid.is_empty() { &self.parts.train } else { &self.parts.valid };
        self.task.sample(model, part)
    }

    fn place(&self) -> Result<Value, serde_json::Error> {
        serde_json::to_value(self.place)
    }

    fn carried(&self) -> Vec<NamedTensor> {
        state_tensors(self.carried.as_ref(), "")
    }

    fn restore(&mut self, place: &Value, carried: &[NamedTensor]) -> Result<(), TrainError> {
        let state = |reason: String| TrainError::State { reason };
        let place = Place::deserialize(place).map_err(|error| state(error.to_string()))?;
        if place.batch > self.order.len() || place.first > place.batch {
            return Err(state(format!("batch {} of {}", place.batch, self.order.len())));
        }
        self.place = place;
        self.order = self.passes.pass(place.passes);
        let count = self.order.get(place.first).map_or(0, Vec::len);
        let model = &self.recipe.model;
        let sizes = Sizes { input: model.hidden, hidden: model.hidden };
        let memory = model.recurrence_if_any().and_then(|cell| cell.memory(sizes));
        let shape = StateShape { layers: model.layers, hidden: model.values(), memory };
        self.carried = load_state(carried, "", count, shape)?;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::recipe::Task;

    fn recipe(task: Task, keys: &[&str]) -> Recipe {
        let mut recipe = Recipe::default_for(task);
        recipe.set_all(&[&["data.split=[0.6, 0.2, 0.2]"], keys].concat()).unwrap();
        recipe
    }

    /// Files of three speakers, with the value of a column that two sessions have.
    fn of(example: usize) -> (&'static str, Option<&'static str>) {
        let files =
            ["d/ann_1.wav", "d/bob_1.wav", "e/ann_2.wav", "e/cyd_1.wav", "e/bob_2.wav", "d/cyd_2.wav"];
        (files[example % files.len()], Some(["first", "second"][example / 3 % 2]))
    }

    #[test]
    fn no_group_is_in_two_parts() {
        let check = |task, keys: &[&str], name: &dyn Fn(usize) -> String, expected: usize| {
            let recipe = recipe(task, keys);
            let count = 60;
            let groups = groups(&recipe, &Sources::default(), count, of).unwrap().unwrap();
            let parts = draw(count, Some(&groups), |_| [0], &recipe, &Sources::default());
            assert_eq!(parts.iter().map(Vec::len).sum::<usize>(), count, "every example is in one part");
            let mut known: Vec<(String, usize)> = Vec::new();
            for (part, examples) in parts.iter().enumerate() {
                known.extend(examples.iter().map(|&example| (name(example), part)));
            }
            known.sort();
            known.dedup();
            assert_eq!(known.len(), expected, "{keys:?}: each group in one part: {known:?}");
        };
        let column = |example: usize| of(example).1.unwrap().to_owned();
        let speaker = |example: usize| of(example).0[2..5].to_owned();
        let folder = |example: usize| of(example).0[..1].to_owned();
        let file = |example: usize| of(example).0.to_owned();
        check(Task::Classify, &["data.group=session"], &column, 2);
        check(Task::Tag, &["data.input=numbers", "data.group=session"], &column, 2);
        check(Task::Caption, &["data.group=session"], &column, 2);
        for task in [Task::Classify, Task::Tag, Task::Caption] {
            check(task, &["data.file_group=^([a-z]+)_"], &speaker, 3);
            check(task, &["data.file_group=([^/]+)/[^/]+$"], &folder, 2);
            check(task, &["data.file_group=(.*)"], &file, 6);
        }
    }

    #[test]
    fn what_is_rare_is_learned_from() {
        let check = |groups: Option<&[usize]>, rare: &[usize], expected: [usize; 3]| {
            let labels = |example: usize| [if rare.contains(&example) { example } else { 1000 }];
            let recipe = recipe(Task::Classify, &[]);
            let parts = draw(30, groups, labels, &recipe, &Sources::default());
            assert!(rare.iter().all(|example| parts[0].contains(example)), "{rare:?} in {parts:?}");
            assert_eq!(parts.each_ref().map(Vec::len), expected, "{rare:?}");
            assert!(parts.iter().all(|part| part.is_sorted()));
        };
        let drawn = draw(30, None, |_| [0], &recipe(Task::Classify, &[]), &Sources::default());
        check(None, &[], [18, 6, 6]);
        check(None, &[drawn[0][0]], [18, 6, 6]);
        check(None, &[drawn[1][0], drawn[1][3], drawn[2][5]], [21, 4, 5]);
        let own = |example: usize| [example];
        let parts = draw(300, None, own, &recipe(Task::Classify, &[]), &Sources::default());
        assert_eq!(parts.each_ref().map(Vec::len), [180, 60, 60], "an identity is no class");
        let groups: Vec<usize> = (0..30).map(|example| example / 3).collect();
        let by_group = split_groups(&groups, [0.6, 0.2, 0.2], 1);
        check(Some(&groups), &[by_group[2][1]], [21, 6, 3]);
    }

    #[test]
    fn few_stand_for_all() {
        let check = |count, most, expected: &[usize]| {
            assert_eq!(spread_over(count, most).collect::<Vec<_>>(), expected, "{most} of {count}");
        };
        check(7, 3, &[0, 2, 4]);
        check(3, 7, &[0, 1, 2]);
        check(3, usize::MAX, &[0, 1, 2]);
        check(0, 3, &[]);
        check(5, 0, &[]);
    }

    #[test]
    fn without_a_key_nothing_stays_together() {
        assert_eq!(groups(&recipe(Task::Tag, &[]), &Sources::default(), 60, of).unwrap(), None);
    }

    #[test]
    fn a_group_that_is_not_there_is_missed() {
        let check = |key: &str, of: fn(usize) -> (&'static str, Option<&'static str>), expected: &str| {
            let error =
                groups(&recipe(Task::Classify, &[key]), &Sources::default(), 2, of).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        };
        check(
            "data.group=who",
            |_| ("a.npy", None),
            "a.npy: no column is named \"who\", expected what keeps",
        );
        check(
            "data.file_group=^([0-9])",
            |_| ("a/b.npy", None),
            "a/b.npy: data.file_group \"^([0-9])\" does not match its name",
        );
        check(
            "data.file_group=([a-z])",
            |_| ("a.npy", None),
            "all 2 examples are of one group, \"a\", expected",
        );
        check("data.file_group=a", of, "data.file_group is \"a\": it has no group in parentheses");
    }
}
