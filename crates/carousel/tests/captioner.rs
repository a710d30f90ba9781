//! A decoder that writes about an image: each part of it counts, a pass over whole sentences is the steps one by one,
//! and it is told of its subject in either way.

use std::sync::Arc;

use burn::tensor::Device;
use carousel::cell::{Cell, CellOptions, Reset};
use carousel::config_error::ConfigError;
use carousel::data::{EOS, SOS, pack};
use carousel::decode::beam::{Search, greedy_from, search_from};
use carousel::models::attention::Score;
use carousel::models::captioner::{CaptionInput, Captioner, CaptionerConfig, Subjects, Told};
use carousel::models::convolution::ConvolutionConfig;
use carousel::parameters::NamedParameters;
use carousel::ragged::Batch;
use carousel::slices::with_slice;

/// Its grid has four places of eight values.
const CONVOLUTION: ConvolutionConfig = ConvolutionConfig { image: [3, 8, 8], filters: 4, layers: 2 };
const IMAGE: CaptionInput = CaptionInput::Image(CONVOLUTION);
const V: usize = 8;

fn config(cell: Cell, input: CaptionInput, attention: Option<Score>, told: Told) -> CaptionerConfig {
    CaptionerConfig { attention, told, seed: 3, ..CaptionerConfig::new(input, V, cell, 5, 6) }
}

fn values(count: usize) -> Vec<f32> {
    (0..count).map(|place| ((place * 37) % 19) as f32 / 9.0 - 1.0).collect()
}

/// Sentences of different lengths: what is read, what is to be said.
fn sentences() -> (Vec<u32>, Vec<u32>, Arc<Batch>) {
    let (inputs, batch) = pack(&[&[SOS, 5, 6][..], &[SOS, 7]], 1);
    let (targets, _) = pack(&[&[5, 6, EOS][..], &[7, EOS]], 1);
    (inputs, targets, Arc::new(batch))
}

/// Images, or features of three places and of one.
fn subjects(input: CaptionInput, values: &[f32]) -> Subjects<'_> {
    match input {
        CaptionInput::Image(_) => Subjects::Images(&values[..2 * 192], 2),
        CaptionInput::Features(width) => Subjects::Features(&values[..4 * width], &[3, 1]),
    }
}

#[test]
fn a_pass_over_sentences_is_its_steps() {
    let values = values(2 * 192);
    let (plain, projects) = (CellOptions::PLAIN, CellOptions { projection: Some(4), ..CellOptions::PLAIN });
    for (cell, options, input, score, told, layers) in [
        (Cell::Lstm, plain, IMAGE, Some(Score::Additive), Told::State, 1),
        (Cell::Gru(Reset::After), plain, IMAGE, Some(Score::General), Told::Input, 2),
        (Cell::Lstm, plain, CaptionInput::Features(9), Some(Score::Additive), Told::Input, 1),
        (Cell::Lstm, plain, CaptionInput::Features(6), Some(Score::Dot), Told::State, 2),
        (Cell::Lstm, plain, IMAGE, None, Told::State, 1),
        (Cell::Lstm, plain, IMAGE, None, Told::Input, 1),
        (Cell::Lstm, projects, IMAGE, Some(Score::General), Told::State, 2),
        (Cell::Lstm, projects, CaptionInput::Features(4), Some(Score::Dot), Told::Input, 1),
    ] {
        let config = CaptionerConfig { layers, options, ..config(cell, input, score, told) };
        let model = config.init(&Device::default()).expect("no size is zero");
        let subjects = subjects(input, &values);
        let (inputs, targets, batch) = sentences();
        let loss = with_slice(&model.loss(subjects, &inputs, &targets, &batch, None), |loss| loss[0]);
        let measured = model.measure(subjects, &inputs, &targets, &batch);
        assert!((measured.nats / 5.0 - f64::from(loss)).abs() < 1e-6 && measured.count == 5);
        let mut writer = model.writer(&model.encode(subjects));
        let mut sum = 0.0;
        let rows = [[(SOS, 5), (SOS, 7)], [(5, 6), (7, EOS)], [(6, EOS), (SOS, u32::MAX)]];
        for step in rows {
            writer.step(&step.map(|(read, _)| read));
            for (row, (_, wanted)) in step.into_iter().enumerate() {
                let all: f32 = writer.scores(row).iter().map(|score| score.exp()).sum();
                let own = writer.scores(row).get(wanted as usize);
                sum -= own.map_or(0.0, |score| (score.exp() / all).ln());
                assert_eq!(writer.looked(row).is_some(), score.is_some());
                if let Some(weights) = writer.looked(row) {
                    let places = match input {
                        CaptionInput::Image(_) => 4,
                        CaptionInput::Features(_) => [3, 1][row],
                    };
                    assert_eq!(weights.len(), places);
                    assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-5);
                }
            }
        }
        assert!(
            (loss - sum / 5.0).abs() < 1e-5,
            "{cell:?} {score:?} {told:?}: {loss}, by steps {}",
            sum / 5.0
        );
    }
}

#[test]
fn every_parameter_learns() {
    let values = values(2 * 192);
    for (input, score, told) in [
        (IMAGE, Some(Score::Additive), Told::State),
        (IMAGE, Some(Score::General), Told::Input),
        (CaptionInput::Features(9), None, Told::State),
        (CaptionInput::Features(9), Some(Score::Additive), Told::Input),
    ] {
        let model = config(Cell::Lstm, input, score, told).init(&Device::default().autodiff());
        let model: Captioner = model.expect("no size is zero");
        let (inputs, targets, batch) = sentences();
        let loss = model.loss(subjects(input, &values), &inputs, &targets, &batch, None);
        let gradients = model.take_gradients(&mut loss.backward());
        for ((name, _), gradient) in model.parameters().iter().zip(&gradients) {
            with_slice(gradient, |values| assert!(values.iter().any(|&value| value != 0.0), "{name}"));
        }
    }
}

/// What is told of a subject decides what is written, and a beam of one is greedy.
#[test]
fn what_is_seen_is_what_is_written_about() {
    let values = values(2 * 192);
    let mut losses = Vec::new();
    for (score, told) in [(None, Told::State), (None, Told::Input), (Some(Score::Additive), Told::State)] {
        let model = config(Cell::Lstm, IMAGE, score, told).init(&Device::default()).expect("no size is zero");
        let (inputs, targets, batch) = sentences();
        let loss = |pixels: &[f32]| {
            let loss = model.loss(Subjects::Images(pixels, 2), &inputs, &targets, &batch, None);
            with_slice(&loss, |loss| loss[0])
        };
        assert_ne!(loss(&values), loss(&vec![0.5; 2 * 192]), "{score:?} {told:?}");
        losses.push(loss(&values));
        let seen = model.encode(Subjects::Images(&values, 2));
        let one = Search { beam: 1, ..Search::default() };
        let found = search_from(model.writer(&seen), &[4, 2], &[], &one);
        let tokens: Vec<Vec<u32>> = found
            .iter()
            .map(|all| all[0].tokens.iter().copied().filter(|&token| token != EOS).collect())
            .collect();
        assert_eq!(greedy_from(model.writer(&seen), &[4, 2]), tokens);
        assert!(tokens[0].len() <= 4 && tokens[1].len() <= 2);
    }
    assert!(losses[0] != losses[1] && losses[0] != losses[2]);
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let refuses = |config: CaptionerConfig, expected: ConfigError| {
        assert_eq!(config.init(&Device::default()).expect_err("it is refused"), expected);
    };
    let dot = config(Cell::Lstm, IMAGE, Some(Score::Dot), Told::State);
    refuses(dot, ConfigError::Attended { places: 8, hidden: 6 });
    let plain = config(Cell::Lstm, IMAGE, None, Told::State);
    refuses(CaptionerConfig { tied: true, ..plain }, ConfigError::Tied { embedding: 5, hidden: 6 });
    refuses(CaptionerConfig { vocabulary: 0, ..plain }, ConfigError::Zero { what: "vocabulary" });
}

/// Names are those of saved runs, and the order is that in which gradients are added up.
#[test]
fn parameters_stand_in_the_order_of_saved_runs() {
    let model = config(Cell::Lstm, IMAGE, Some(Score::Additive), Told::State).init(&Device::default());
    let tensors = model.expect("no size is zero").named_tensors();
    let part = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    let mut parts: Vec<String> = tensors.iter().map(|tensor| part(&tensor.name)).collect();
    parts.dedup();
    assert_eq!(parts, ["convolution", "start", "target", "decoder", "attention", "combine", "output"]);
    assert!(tensors.iter().any(|tensor| tensor.name == "start.1.0.weight"), "one a state and layer");
}
