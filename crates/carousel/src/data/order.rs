//! In which order examples are read, and which part of the data each belongs to. Everything follows from a seed.

use carousel_kernels::dropout::key;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Batches whose examples are sorted by length together: enough for lengths to be close within a batch, few enough
/// for batches to stay a fair sample.
const POOL: usize = 50;

/// Purposes of random orders, so that none is the other's.
const SPLIT: u64 = 1;
const EXAMPLES: u64 = 2;
const BATCHES: u64 = 3;

/// Puts items in a random order (Fisher and Yates).
fn shuffle<T>(items: &mut [T], numbers: &[u64]) {
    let mut random = ChaCha8Rng::seed_from_u64(key(numbers));
    for last in (1..items.len()).rev() {
        // The modulus favours small numbers by less than one in 2³² for any list that fits into memory.
        items.swap(last, (random.next_u64() % (last as u64 + 1)) as usize);
    }
}

/// How many of `count` examples each share takes; the first takes what rounding leaves.
pub(super) fn sizes(count: usize, shares: [f64; 3]) -> [usize; 3] {
    let part = |share: f64| (count as f64 * share).round() as usize;
    let valid = part(shares[1]).min(count);
    let test = part(shares[2]).min(count - valid);
    [count - valid - test, valid, test]
}

/// Deals `count` examples to training, validation and test at random, in ascending order within each.
#[must_use]
pub fn split(count: usize, shares: [f64; 3], seed: u64) -> [Vec<usize>; 3] {
    let mut order: Vec<usize> = (0..count).collect();
    shuffle(&mut order, &[seed, SPLIT]);
    let [train, valid, _] = sizes(count, shares);
    let mut parts =
        [order[..train].to_vec(), order[train..train + valid].to_vec(), order[train + valid..].to_vec()];
    parts.iter_mut().for_each(|part| part.sort_unstable());
    parts
}

/// The same where examples of one group stay together: groups are dealt in a random order, each to the part that is
/// the least full of those that have room for it. So large groups and small ones are in every part as they are in the
/// data, but for those larger than a whole part. A part that would have none gets the smallest of the largest part,
/// where two are left to that.
#[must_use]
pub fn split_groups(groups: &[usize], shares: [f64; 3], seed: u64) -> [Vec<usize>; 3] {
    let count = groups.iter().max().map_or(0, |most| most + 1);
    let mut members = vec![Vec::new(); count];
    for (example, &group) in groups.iter().enumerate() {
        members[group].push(example);
    }
    shuffle(&mut members, &[seed, SPLIT]);
    members.retain(|members| !members.is_empty());
    let wanted = sizes(groups.len(), shares);
    let mut parts: [Vec<Vec<usize>>; 3] = Default::default();
    let mut held = [0usize; 3];
    for members in members {
        let lack = |part: usize| wanted[part].saturating_sub(held[part]);
        let emptiness = |part: usize| lack(part) as f64 / wanted[part] as f64;
        let fits = |&part: &usize| lack(part) >= members.len();
        let roomy = (0..3).filter(fits).min_by(|&a, &b| emptiness(b).total_cmp(&emptiness(a)));
        // Where no part has room: where it overfills the least.
        let part = roomy.or_else(|| (0..3).filter(|&part| wanted[part] > 0).max_by_key(|&part| lack(part)));
        let part = part.unwrap_or(0);
        held[part] += members.len();
        parts[part].push(members);
    }
    for empty in 0..3 {
        let largest = (0..3).max_by_key(|&part| held[part]).unwrap_or(0);
        if wanted[empty] > 0 && parts[empty].is_empty() && parts[largest].len() > 2 {
            let smallest = (0..parts[largest].len()).min_by_key(|&group| parts[largest][group].len());
            let group = parts[largest].remove(smallest.unwrap_or(0));
            held[largest] -= group.len();
            parts[empty].push(group);
        }
    }
    parts.map(|part| {
        let mut part = part.concat();
        part.sort_unstable();
        part
    })
}

/// The batches of all passes over some examples: each pass in an order of its own, examples of about the same
/// length together, so that few steps of a batch have few sequences.
#[derive(Clone, Debug)]
pub struct Passes {
    lengths: Vec<usize>,
    fill: Fill,
    seed: u64,
}

/// When a batch is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// With so many examples.
    Examples(usize),
    /// When one more example would bring more steps than this; one example alone may.
    Steps(usize),
}

impl Passes {
    /// Batches of `batch` examples of these lengths.
    #[must_use]
    pub fn new(lengths: Vec<usize>, batch: usize, seed: u64) -> Passes {
        Passes { lengths, fill: Fill::Examples(batch.max(1)), seed }
    }

    /// Batches that are full when `fill` says so. Counted by steps, all examples are sorted by length, so that every
    /// pass has the same number of batches; which of equal length are together changes from pass to pass.
    #[must_use]
    pub fn filled(lengths: Vec<usize>, fill: Fill, seed: u64) -> Passes {
        match fill {
            Fill::Examples(batch) => Passes::new(lengths, batch, seed),
            Fill::Steps(_) => Passes { lengths, fill, seed },
        }
    }

    /// Batches of one pass.
    #[must_use]
    pub fn batches(&self) -> usize {
        match self.fill {
            Fill::Examples(batch) => self.lengths.len().div_ceil(batch),
            Fill::Steps(steps) => {
                let mut order: Vec<usize> = (0..self.lengths.len()).collect();
                order.sort_by_key(|&example| self.lengths[example]);
                self.cut(&order, steps).len()
            }
        }
    }

    /// Cuts examples into batches of at most so many steps.
    fn cut(&self, order: &[usize], steps: usize) -> Vec<Vec<usize>> {
        let mut batches: Vec<Vec<usize>> = Vec::new();
        let mut held = 0;
        for &example in order {
            held += self.lengths[example];
            match batches.last_mut() {
                Some(batch) if held <= steps => batch.push(example),
                _ => {
                    held = self.lengths[example];
                    batches.push(vec![example]);
                }
            }
        }
        batches
    }

    /// The examples of every batch of pass `pass`. Each example stands in one batch.
    #[must_use]
    pub fn pass(&self, pass: u64) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..self.lengths.len()).collect();
        shuffle(&mut order, &[self.seed, EXAMPLES, pass]);
        let mut batches: Vec<Vec<usize>> = match self.fill {
            Fill::Examples(batch) => {
                for pool in order.chunks_mut(batch * POOL) {
                    pool.sort_by_key(|&example| self.lengths[example]);
                }
                order.chunks(batch).map(<[usize]>::to_vec).collect()
            }
            Fill::Steps(steps) => {
                order.sort_by_key(|&example| self.lengths[example]);
                self.cut(&order, steps)
            }
        };
        shuffle(&mut batches, &[self.seed, BATCHES, pass]);
        batches
    }

    /// Batches for measuring: every example once, by length, the same every time.
    #[must_use]
    pub fn in_order(lengths: &[usize], batch: usize) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..lengths.len()).collect();
        order.sort_by_key(|&example| lengths[example]);
        order.chunks(batch.max(1)).map(<[usize]>::to_vec).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_is_in_one_part() {
        let check = |count, shares, expected: [usize; 3]| {
            let parts = split(count, shares, 1);
            assert_eq!([parts[0].len(), parts[1].len(), parts[2].len()], expected);
            let mut all = parts.concat();
            all.sort_unstable();
            assert_eq!(all, (0..count).collect::<Vec<_>>());
        };
        check(100, [0.8, 0.1, 0.1], [80, 10, 10]);
        check(3, [0.9, 0.05, 0.05], [3, 0, 0]);
        check(0, [0.8, 0.1, 0.1], [0, 0, 0]);
        assert_eq!(split(50, [0.5, 0.5, 0.0], 1), split(50, [0.5, 0.5, 0.0], 1));
        assert_ne!(split(50, [0.5, 0.5, 0.0], 1), split(50, [0.5, 0.5, 0.0], 2));
    }

    #[test]
    fn groups_stay_together() {
        let groups: Vec<usize> = (0..200).map(|example| example % 20).collect();
        let parts = split_groups(&groups, [0.7, 0.2, 0.1], 3);
        assert_eq!([parts[0].len(), parts[1].len(), parts[2].len()], [140, 40, 20]);
        for group in 0..20 {
            let holds = |part: &Vec<usize>| part.iter().any(|&example| groups[example] == group);
            assert_eq!(parts.iter().filter(|part| holds(part)).count(), 1, "group {group}");
        }
    }

    #[test]
    fn groups_of_every_size_are_in_every_part() {
        // A third of the groups has three examples, as words with several pronunciations do.
        let groups: Vec<usize> = (0..900usize)
            .flat_map(|group| vec![group; if group.is_multiple_of(3) { 3 } else { 1 }])
            .collect();
        let large = |part: &Vec<usize>| {
            part.iter().filter(|&&example| groups[example].is_multiple_of(3)).count() as f64
        };
        let parts = split_groups(&groups, [0.8, 0.1, 0.1], 7);
        assert_eq!([parts[0].len(), parts[1].len(), parts[2].len()], [1200, 150, 150]);
        for part in &parts {
            // Of all examples, 0.6 are in large groups.
            let share = large(part) / part.len() as f64;
            assert!((share - 0.6).abs() < 0.15, "{share} of {} examples are in large groups", part.len());
        }
    }

    #[test]
    fn a_group_larger_than_a_part_is_learned_from() {
        let sizes = [3, 60, 2, 4, 5, 6, 7, 3, 4, 6];
        let groups: Vec<usize> =
            sizes.iter().enumerate().flat_map(|(group, &size)| vec![group; size]).collect();
        for seed in 0..20 {
            let parts = split_groups(&groups, [0.8, 0.1, 0.1], seed);
            assert!(parts[0].iter().filter(|&&example| groups[example] == 1).count() == 60, "seed {seed}");
            assert!(parts[1].len() + parts[2].len() <= 28, "seed {seed}");
        }
        // Few groups, each larger than a small part: none is empty.
        let groups: Vec<usize> = (0..60).map(|example| example % 7).collect();
        for seed in 0..20 {
            let parts = split_groups(&groups, [0.9, 0.05, 0.05], seed);
            let sizes = parts.each_ref().map(Vec::len);
            assert!(sizes[0] > 40 && (8..10).contains(&sizes[1]) && (8..10).contains(&sizes[2]), "{sizes:?}");
        }
    }

    #[test]
    fn a_pass_reads_every_example_once_and_lengths_are_close() {
        let lengths: Vec<usize> = (0..997).map(|example| (example * 7919) % 200).collect();
        let passes = Passes::new(lengths.clone(), 10, 5);
        let pass = passes.pass(0);
        assert_eq!(pass.len(), passes.batches());
        let mut all = pass.concat();
        all.sort_unstable();
        assert_eq!(all, (0..997).collect::<Vec<_>>());
        assert_ne!(pass, passes.pass(1));
        assert_eq!(pass, passes.pass(0));
        let spread = |batch: &Vec<usize>| {
            let lengths = batch.iter().map(|&example| lengths[example]);
            lengths.clone().max().unwrap_or(0) - lengths.min().unwrap_or(0)
        };
        let mean = pass.iter().map(spread).sum::<usize>() / pass.len();
        assert!(mean < 10, "lengths within a batch differ by {mean} on average");
        assert!(pass.windows(2).any(|pair| lengths[pair[0][0]] > lengths[pair[1][0]]), "batches are mixed");
    }
    #[test]
    fn batches_of_steps_stay_within_them() {
        let mut lengths: Vec<usize> = (0..300).map(|example| 2 + (example * 31) % 17).collect();
        lengths.push(90);
        let passes = Passes::filled(lengths.clone(), Fill::Steps(60), 2);
        for number in 0..3 {
            let pass = passes.pass(number);
            assert_eq!(pass.len(), passes.batches());
            let mut all = pass.concat();
            all.sort_unstable();
            assert_eq!(all, (0..301).collect::<Vec<_>>());
            for batch in &pass {
                let steps: usize = batch.iter().map(|&example| lengths[example]).sum();
                assert!(steps <= 60 || batch.len() == 1, "{steps} steps");
            }
        }
        assert_ne!(passes.pass(0), passes.pass(1));
        assert_eq!(passes.pass(1), passes.pass(1));
    }
}
