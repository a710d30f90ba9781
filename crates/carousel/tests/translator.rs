//! The translator against plain differences and plain search: its gradients, its masks, and what its beam finds.
#![allow(clippy::unwrap_used)]

use burn::tensor::Device;
use carousel::cell::{Cell, CellOptions, Reset};
use carousel::data::{EOS, SOS, UNK};
use carousel::decode::beam::{LengthPenalty, Search, greedy, search};
use carousel::init::{FirstState, GateBias, Init, WeightInit};
use carousel::models::attention::Score;
use carousel::models::language_model::Regularize;
use carousel::models::translator::{Bridge, Sentences, Translator, TranslatorConfig};
use carousel::parameters::NamedParameters;
use carousel::recurrent::{Direction, Merge};
use carousel::regularize::{Dropout, Noise};
use carousel::slices::with_slice;

const SOURCES: [&[u32]; 4] = [&[2, 4, 5, 3], &[2, 3], &[2, 6, 6, 4, 5, 3], &[2, 5, 3]];
const TARGETS: [&[u32]; 4] = [&[2, 5, 4, 3], &[2, 4, 3], &[2, 5, 3], &[2, 4, 4, 4, 5, 3]];

fn config(attention: Option<Score>, cell: Cell) -> TranslatorConfig {
    TranslatorConfig { attention, seed: 5, ..TranslatorConfig::new(cell, [7, 6], 4, 5) }
}

/// Inputs and targets of the decoder.
fn shifted(targets: &[&[u32]]) -> (Sentences, Vec<u32>) {
    let inputs: Vec<&[u32]> = targets.iter().map(|target| &target[..target.len() - 1]).collect();
    let wanted: Vec<&[u32]> = targets.iter().map(|target| &target[1..]).collect();
    (Sentences::pack(&inputs), Sentences::pack(&wanted).ids)
}

fn loss(model: &Translator, sources: &[&[u32]], targets: &[&[u32]]) -> f64 {
    let (inputs, wanted) = shifted(targets);
    let loss = model.loss(&Sentences::pack(sources), &inputs.ids, &wanted, &inputs.batch, None);
    f64::from(with_slice(&loss, |loss| loss[0]))
}

fn kinds() -> Vec<TranslatorConfig> {
    let lstm = Cell::Lstm;
    let mut all: Vec<TranslatorConfig> = [
        None,
        Some(Score::Dot),
        Some(Score::General),
        Some(Score::ScaledGeneral),
        Some(Score::ScaledDot),
        Some(Score::Additive),
    ]
    .map(|score| config(score, lstm))
    .to_vec();
    all.push(TranslatorConfig {
        layers: 2,
        residual: true,
        ..config(Some(Score::General), Cell::Gru(Reset::After))
    });
    all.push(TranslatorConfig { bridge: Bridge::Copy, direction: Direction::Forward, ..config(None, lstm) });
    all.push(TranslatorConfig { bridge: Bridge::Zero, ..config(Some(Score::Additive), lstm) });
    all.push(TranslatorConfig { embedding: 5, tied: true, ..config(Some(Score::Dot), lstm) });
    all.push(TranslatorConfig { feeds: true, ..config(Some(Score::General), lstm) });
    let gru = Cell::Gru(Reset::Before);
    all.push(TranslatorConfig {
        feeds: true,
        layers: 2,
        residual: true,
        ..config(Some(Score::Additive), gru)
    });
    // Directions added, and an encoder that has learned what to begin from.
    all.push(TranslatorConfig {
        merge: Some(Merge::Sum),
        layers: 2,
        init: Init { state: FirstState::Learned, ..Init::default() },
        ..config(Some(Score::General), lstm)
    });
    // What projects: `h` and `c` have widths of their own.
    let options = CellOptions { projection: Some(3), ..CellOptions::PLAIN };
    all.push(TranslatorConfig { options, layers: 2, ..config(Some(Score::General), lstm) });
    all.push(TranslatorConfig {
        options,
        feeds: true,
        bridge: Bridge::Zero,
        ..config(Some(Score::Dot), lstm)
    });
    all.push(TranslatorConfig { options, bridge: Bridge::Copy, ..config(None, lstm) });
    let shared = config(Some(Score::General), lstm);
    all.push(TranslatorConfig { source_vocabulary: 7, target_vocabulary: 7, shared: true, ..shared });
    all
}

#[test]
fn how_directions_meet_changes_the_answer_and_has_to_fit() {
    let merged = |score, merge| TranslatorConfig { merge, ..config(Some(score), Cell::Lstm) };
    let value =
        |config: TranslatorConfig| loss(&config.init(&Device::default()).unwrap(), &SOURCES, &TARGETS);
    let beside = value(merged(Score::General, Some(Merge::Concat)));
    assert_eq!(value(merged(Score::General, None)), beside);
    assert_ne!(value(merged(Score::General, Some(Merge::Sum))), beside);
    assert_eq!(value(merged(Score::Dot, None)), value(merged(Score::Dot, Some(Merge::Sum))));
    let refused = |config: TranslatorConfig| config.init(&Device::default()).err().unwrap().to_string();
    assert_eq!(
        refused(merged(Score::Dot, Some(Merge::Concat))),
        "attention by a dot product over places of 10 values, expected 5 as the hidden values have; take general or \
         additive attention, or add both directions of an encoder"
    );
    let options = CellOptions { projection: Some(3), ..CellOptions::PLAIN };
    assert_eq!(
        refused(TranslatorConfig { options, embedding: 5, tied: true, ..config(None, Cell::Lstm) }),
        "a tied embedding has width 5, expected that of the hidden values, 3"
    );
}

/// Every gradient by central differences: through attention, the bridge and the encoder's last state.
#[test]
fn gradients_are_those_of_the_loss() {
    for config in kinds() {
        let mut model = config.init(&Device::default().autodiff()).unwrap();
        let (inputs, wanted) = shifted(&TARGETS);
        let whole = model.loss(&Sentences::pack(&SOURCES), &inputs.ids, &wanted, &inputs.batch, None);
        let found = model.take_gradients(&mut whole.backward());
        for (place, gradient) in found.iter().enumerate() {
            let gradient = with_slice(gradient, <[f32]>::to_vec);
            let name = model.parameters()[place].0.clone();
            let any = gradient.iter().any(|&value| value != 0.0);
            assert!(any, "{config:?} {name}: no gradient at all");
            for element in (0..gradient.len()).step_by(gradient.len().div_ceil(6)) {
                let mut moved = |by: f32| {
                    model.parameters_mut()[place].1.with_slice_mut(|values| values[element] += by);
                    let loss = loss(&model, &SOURCES, &TARGETS);
                    model.parameters_mut()[place].1.with_slice_mut(|values| values[element] -= by);
                    loss
                };
                let step = 4e-3;
                let expected = (moved(step) - moved(-step)) / f64::from(2.0 * step);
                let error = (f64::from(gradient[element]) - expected).abs();
                assert!(error < 1e-3, "{config:?} {name}[{element}]: {} {expected}", gradient[element]);
            }
        }
    }
}

/// With all that drops out: the same noise gives the same loss, other noise another, and gradients are right.
#[test]
fn every_regulariser_changes_the_loss_and_keeps_the_gradients() {
    let plain = config(Some(Score::General), Cell::Lstm);
    let dropout = Dropout::default();
    let recurrent = |recurrent| Regularize { recurrent, ..Regularize::default() };
    let cases = [
        ("words", Regularize { words: 0.4, ..Regularize::default() }),
        ("input", Regularize { input: 0.4, ..Regularize::default() }),
        ("output", Regularize { output: 0.4, ..Regularize::default() }),
        ("weights", recurrent(Dropout { weights: 0.4, ..dropout })),
        ("between", recurrent(Dropout { between: 0.4, ..dropout })),
        ("recurrent", recurrent(Dropout { recurrent: 0.4, ..dropout })),
        ("update", recurrent(Dropout { update: 0.4, ..dropout })),
        ("zoneout", recurrent(Dropout { zoneout: 0.4, ..dropout })),
        ("zoneout of c", recurrent(Dropout { zoneout_cell: 0.4, ..dropout })),
        ("locked", Regularize { output: 0.4, ..recurrent(Dropout { locked: true, ..dropout }) }),
        ("smoothing", Regularize { label_smoothing: 0.2, ..Regularize::default() }),
    ];
    let (inputs, wanted) = shifted(&TARGETS);
    for (name, regularize) in cases {
        let config = TranslatorConfig { layers: 2, regularize, ..plain.clone() };
        let mut model = config.init(&Device::default().autodiff()).unwrap();
        let still =
            TranslatorConfig { layers: 2, ..plain.clone() }.init(&Device::default().autodiff()).unwrap();
        let loss = |model: &Translator, noise| {
            model.loss(&Sentences::pack(&SOURCES), &inputs.ids, &wanted, &inputs.batch, noise)
        };
        let value = |model: &Translator, seed| {
            f64::from(with_slice(&loss(model, Some(Noise::new(&[seed]))), |loss| loss[0]))
        };
        assert_eq!(value(&model, 1), value(&model, 1), "{name}");
        assert_ne!(value(&model, 1), value(&still, 1), "{name} changes nothing");
        if name != "smoothing" {
            assert_ne!(value(&model, 1), value(&model, 2), "{name} is left to chance");
        }
        let found = model.take_gradients(&mut loss(&model, Some(Noise::new(&[1]))).backward());
        for (place, gradient) in found.iter().enumerate() {
            let gradient = with_slice(gradient, <[f32]>::to_vec);
            for element in (0..gradient.len()).step_by(gradient.len().div_ceil(3)) {
                let mut moved = |by: f32| {
                    model.parameters_mut()[place].1.with_slice_mut(|values| values[element] += by);
                    let loss = value(&model, 1);
                    model.parameters_mut()[place].1.with_slice_mut(|values| values[element] -= by);
                    loss
                };
                let step = 4e-3;
                let expected = (moved(step) - moved(-step)) / f64::from(2.0 * step);
                let error = (f64::from(gradient[element]) - expected).abs();
                assert!(error < 1e-3, "{name} {place}[{element}]: {} {expected}", gradient[element]);
            }
        }
    }
}

/// A pair alone loses what it loses beside others: no padding is attended to, no state is another's.
#[test]
fn a_batch_changes_nothing() {
    for config in kinds() {
        let model = config.init(&Device::default()).unwrap();
        let frames: usize = TARGETS.iter().map(|target| target.len() - 1).sum();
        let together = loss(&model, &SOURCES, &TARGETS) * frames as f64;
        let alone: f64 = SOURCES
            .iter()
            .zip(TARGETS)
            .map(|(&source, target)| loss(&model, &[source], &[target]) * (target.len() - 1) as f64)
            .sum();
        assert!((together - alone).abs() < 1e-4, "{config:?} {together} {alone}");
    }
}

/// The log-probability of a target, teacher-forced.
fn log_probability(model: &Translator, source: &[u32], tokens: &[u32]) -> f64 {
    let target = [&[SOS], tokens].concat();
    -loss(model, &[source], &[&target]) * tokens.len() as f64
}

/// All targets of at most `most` tokens and `<eos>`.
fn all_targets(vocabulary: u32, most: usize) -> Vec<Vec<u32>> {
    let mut open: Vec<Vec<u32>> = vec![Vec::new()];
    let mut ended = Vec::new();
    for length in 0..=most {
        ended.extend(open.iter().map(|tokens| [tokens.as_slice(), &[EOS]].concat()));
        if length < most {
            let more = |tokens: &Vec<u32>| -> Vec<Vec<u32>> {
                let token = |token: u32| [tokens.as_slice(), &[token]].concat();
                (0..vocabulary).filter(|&id| id == UNK || id > EOS).map(token).collect()
            };
            open = open.iter().flat_map(more).collect();
        }
    }
    ended
}

/// A model with opinions: weights as they are drawn make nearly equal scores.
fn opinionated(score: Option<Score>, seed: u64) -> Translator {
    opinionated_with(config(score, Cell::Lstm), seed)
}

fn opinionated_with(config: TranslatorConfig, seed: u64) -> Translator {
    let mut model = TranslatorConfig { seed, ..config }.init(&Device::default()).unwrap();
    for (_, mut parameter) in model.parameters_mut() {
        parameter.with_slice_mut(|values| values.iter_mut().for_each(|value| *value *= 3.0));
    }
    model
}

#[test]
fn a_beam_as_wide_as_the_space_finds_the_best() {
    for seed in 0..4 {
        let model = opinionated(Some(Score::General), seed);
        for penalty in [LengthPenalty::None, LengthPenalty::Average, LengthPenalty::Wu(0.7)] {
            // At most three tokens; three kinds of them and the end: 40 targets.
            let wide = Search { beam: 40, best: 40, penalty, no_repeat: 0, ratio: 0.0, extra: 3 };
            let found = search(&model, &SOURCES, &[], &wide);
            for (source, found) in SOURCES.iter().zip(&found) {
                let mut expected: Vec<(f64, Vec<u32>)> = all_targets(6, 3)
                    .into_iter()
                    .map(|tokens| {
                        let by = match penalty {
                            LengthPenalty::None => 1.0,
                            LengthPenalty::Average => tokens.len() as f64,
                            LengthPenalty::Wu(alpha) => ((5.0 + tokens.len() as f64) / 6.0).powf(alpha),
                        };
                        (log_probability(&model, source, &tokens) / by, tokens)
                    })
                    .collect();
                expected.sort_by(|a, b| b.0.total_cmp(&a.0));
                assert_eq!(found.len(), 40);
                assert_eq!(found[0].tokens, expected[0].1, "{penalty:?}");
                for (found, (score, _)) in found.iter().zip(&expected) {
                    assert!((found.score - score).abs() < 1e-4, "{penalty:?} {} {score}", found.score);
                }
            }
        }
    }
}

#[test]
fn a_beam_of_one_is_greedy_and_order_changes_nothing() {
    let sources: Vec<Vec<u32>> = (0..20u32)
        .map(|number| {
            let word = |place: u32| 4 + (number * 7 + place * place * 3) % 3;
            [&[SOS], (0..number % 6).map(word).collect::<Vec<_>>().as_slice(), &[EOS]].concat()
        })
        .collect();
    let rows: Vec<&[u32]> = sources.iter().map(Vec::as_slice).collect();
    let mut differ = 0;
    for seed in 0..6 {
        for score in [None, Some(Score::Dot), Some(Score::General), Some(Score::Additive)] {
            let model =
                opinionated_with(TranslatorConfig { feeds: seed == 5, ..config(score, Cell::Lstm) }, seed);
            let one = Search { beam: 1, ..Search::default() };
            let open = |all: &[u32]| all[..all.len() - 1].to_vec();
            let alone = search(&model, &rows, &[], &one);
            let narrow: Vec<Vec<u32>> = alone.iter().map(|found| open(&found[0].tokens)).collect();
            assert_eq!(narrow, greedy(&model, &rows, &one), "{score:?} {seed}");

            let wide = search(&model, &rows, &[], &Search::default());
            differ += wide.iter().zip(&alone).filter(|(a, b)| a[0].tokens != b[0].tokens).count();
            let reversed: Vec<&[u32]> = rows.iter().rev().copied().collect();
            let mut again = search(&model, &reversed, &[], &Search::default());
            again.reverse();
            for (source, (a, b)) in rows.iter().zip(wide.iter().zip(&again)) {
                assert_eq!(a[0].tokens, b[0].tokens, "{score:?} {seed}");
                let single = search(&model, &[source], &[], &Search::default());
                assert_eq!(a[0].tokens, single[0][0].tokens, "{score:?} {seed}");
            }
        }
    }
    assert!(differ > 0, "a wider beam finds other translations somewhere");
}

#[test]
fn what_a_search_forbids_and_demands_is_so() {
    let model = opinionated(Some(Score::General), 1);
    let plain = Search { best: 5, ..Search::default() };
    let repeats = |tokens: &[u32]| (1..tokens.len()).any(|at| tokens[..at].contains(&tokens[at]));
    let free = search(&model, &SOURCES, &[], &plain);
    assert!(free.iter().flatten().any(|found| repeats(&found.tokens)), "without a ban something repeats");
    let banned = search(&model, &SOURCES, &[], &Search { no_repeat: 1, ..plain });
    assert!(banned.iter().flatten().all(|found| !repeats(&found.tokens)));
    let banned = search(&model, &SOURCES, &[], &Search { no_repeat: 2, ..plain });
    for found in banned.iter().flatten() {
        let pairs: Vec<&[u32]> = found.tokens.windows(2).collect();
        assert!((1..pairs.len()).all(|at| !pairs[..at].contains(&pairs[at])), "{:?}", found.tokens);
    }

    let prefixes: [&[u32]; 4] = [&[5, 5, 4], &[], &[4], &[5, 4, 5, 4]];
    let forced = search(&model, &SOURCES, &prefixes, &plain);
    for (prefix, found) in prefixes.iter().zip(forced.iter()) {
        assert!(found.iter().all(|found| found.tokens.starts_with(prefix)), "{prefix:?}");
    }
    assert_eq!(forced[1][0].tokens, free[1][0].tokens);

    for found in search(&model, &SOURCES, &[], &Search { ratio: 1.0, extra: 1, ..plain }).iter().zip(SOURCES)
    {
        let (found, source) = found;
        assert!(found.iter().all(|found| found.tokens.len() <= source.len() - 2 + 1 + 1));
        for hypothesis in found {
            assert_eq!(hypothesis.tokens.last(), Some(&EOS));
            assert_eq!(hypothesis.attention.len(), hypothesis.tokens.len());
            for weights in &hypothesis.attention {
                assert_eq!(weights.len(), source.len());
                assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            }
            let sum: f32 = hypothesis.log_probabilities.iter().sum();
            let again = log_probability(&model, source, &hypothesis.tokens);
            assert!((f64::from(sum) - again).abs() < 1e-4, "{sum} {again}");
        }
        assert!(found.windows(2).all(|pair| pair[0].score >= pair[1].score));
    }
}

/// A writer gives what a teacher-forced pass gives, for every kind of model.
#[test]
fn writing_is_what_learning_saw() {
    for config in kinds() {
        let model = opinionated_with(config.clone(), 3);
        let found = search(&model, &SOURCES, &[], &Search { best: 3, beam: 3, ..Search::default() });
        for (source, found) in SOURCES.iter().zip(found) {
            assert_eq!(found.len(), 3);
            for hypothesis in found {
                let sum: f32 = hypothesis.log_probabilities.iter().sum();
                let again = log_probability(&model, source, &hypothesis.tokens);
                assert!((f64::from(sum) - again).abs() < 1e-4, "{config:?} {sum} {again}");
            }
        }
    }
}

/// What is read is right where it is kept, and otherwise what was picked from the step before.
#[test]
fn own_tokens_are_read_where_they_are_wanted() {
    let model = opinionated(Some(Score::General), 2);
    let sources = Sentences::pack(&SOURCES);
    let (inputs, _) = shifted(&TARGETS);
    let read = |keeps: bool| {
        model.read_own(&sources, &inputs.ids, &inputs.batch, &mut || keeps, &mut |scores| {
            carousel::decode::beam::likeliest(scores)
        })
    };
    assert_eq!(read(true), inputs.ids);
    let own = read(false);
    let search = Search { beam: 1, ..Search::default() };
    let written = greedy(&model, &SOURCES, &search);
    let mut compared = 0;
    for (frame, (sentence, step)) in inputs.batch.places().enumerate() {
        match step {
            0 => assert_eq!(own[frame], SOS),
            _ => {
                // Behind the end it wrote, greedy search has no more to compare with.
                if let Some(&token) = written[sentence].get(step - 1) {
                    assert_eq!(own[frame], token);
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 3);
}

/// Gradients are added up, and weights drawn again, in this order; names are those of saved runs.
#[test]
fn parameters_stand_in_the_order_of_saved_runs() {
    let check = |config: TranslatorConfig, expected: &[&str]| {
        let model = config.init(&Device::default()).unwrap();
        let mut parts: Vec<String> = model
            .named_tensors()
            .iter()
            .map(|tensor| tensor.name.split('.').next().unwrap_or_default().to_owned())
            .collect();
        parts.dedup();
        assert_eq!(parts, expected);
    };
    let whole = config(Some(Score::Additive), Cell::Lstm);
    let all = ["source", "target", "encoder", "decoder", "bridge", "attention", "combine", "output"];
    check(whole.clone(), &all);
    let shared = TranslatorConfig { source_vocabulary: 6, shared: true, ..whole.clone() };
    check(shared, &all[1..]);
    let plain = TranslatorConfig { attention: None, bridge: Bridge::Copy, ..whole.clone() };
    check(plain, &["source", "target", "encoder", "decoder", "output"]);
    let named = |tied| {
        let config = TranslatorConfig { embedding: 5, tied, ..whole.clone() };
        config.init(&Device::default()).unwrap().named_tensors().into_iter().map(|tensor| tensor.name)
    };
    assert_eq!(
        named(false).filter(|name| !named(true).any(|own| own == *name)).collect::<Vec<_>>(),
        ["output.weight"]
    );
}

/// But not for what has a start of its own: gains of what is normalised, gates that keep the state.
#[test]
fn a_uniform_range_holds_for_the_whole_model() {
    let init = Init::both(WeightInit::Uniform { range: 0.01 });
    let init = Init { gates: GateBias::Forget(5.0), ..init };
    let plain = TranslatorConfig { init, ..config(Some(Score::Additive), Cell::Lstm) };
    let options = CellOptions { norm: true, ..CellOptions::PLAIN };
    let normalised = TranslatorConfig { options, ..plain.clone() };
    for config in [plain.clone(), TranslatorConfig { embedding: 5, tied: true, ..plain }, normalised] {
        for tensor in config.init(&Device::default()).unwrap().named_tensors() {
            let largest = tensor.values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
            let expected = match tensor.name.rsplit('.').next().unwrap() {
                name if name.starts_with("norm_l") => 1.0..=1.0,
                name if name.starts_with("bias_ih_l") => 5.0..=5.0,
                _ => 0.004..=0.01,
            };
            assert!(expected.contains(&largest), "{}: {largest}", tensor.name);
        }
    }
}
