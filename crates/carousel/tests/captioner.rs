//! A decoder that writes about an image: each part of it counts, and a pass over whole sentences is the steps one by
//! one.

use std::sync::Arc;

use burn::tensor::Device;
use carousel::cell::{Cell, Reset};
use carousel::data::pack;
use carousel::fused::with_slice;
use carousel::models::attention::Score;
use carousel::models::captioner::{CaptionInput, Captioner, CaptionerConfig};
use carousel::models::convolution::ConvolutionConfig;
use carousel::parameters::NamedParameters;
use carousel::ragged::Batch;

const CONVOLUTION: ConvolutionConfig = ConvolutionConfig { image: [3, 8, 8], filters: 4, layers: 2 };

fn captioner(cell: Cell, input: CaptionInput, attention: Option<Score>, device: &Device) -> Captioner {
    let config = CaptionerConfig { input, vocabulary: 7, embedding: 5, cell, hidden: 6, attention, seed: 3 };
    config.init(device).expect("no size is zero")
}

fn values(count: usize) -> Vec<f32> {
    (0..count).map(|place| ((place * 37) % 19) as f32 / 9.0 - 1.0).collect()
}

/// Sentences of different lengths: what is read, what is to be said.
fn sentences() -> (Vec<u32>, Vec<u32>, Arc<Batch>) {
    let (inputs, batch) = pack(&[&[0, 2, 3][..], &[0, 4]], 1);
    let (targets, _) = pack(&[&[2, 3, 1][..], &[4, 1]], 1);
    (inputs, targets, Arc::new(batch))
}

#[test]
fn a_pass_over_sentences_is_its_steps() {
    for (cell, score) in [
        (Cell::Lstm, Some(Score::Additive)),
        (Cell::Gru(Reset::After), Some(Score::General)),
        (Cell::Lstm, None),
    ] {
        let model = captioner(cell, CaptionInput::Image(CONVOLUTION), score, &Device::default());
        let images = values(2 * 192);
        let (inputs, targets, batch) = sentences();
        let loss = with_slice(&model.loss(&images, &inputs, &targets, &batch), |loss| loss[0]);
        let encoded = model.encode(&images, 2);
        let (mut state, mut sum) = (encoded.state, 0.0);
        let rows = [[(0, 2), (0, 4)], [(2, 3), (4, 1)], [(3, 1), (0, 7)]];
        for step in rows {
            let decoded = model.step(&step.map(|(read, _)| read), encoded.memory.as_ref(), state);
            state = decoded.state;
            with_slice(&decoded.logits, |logits| {
                for (row, (_, wanted)) in logits.chunks_exact(7).zip(step) {
                    let all: f32 = row.iter().map(|score| score.exp()).sum();
                    sum -= row.get(wanted as usize).map_or(0.0, |score| (score.exp() / all).ln());
                }
            });
            if let Some(weights) = decoded.attention {
                // Four places of the grid; how much they are looked at adds up to one.
                with_slice(&weights, |weights| {
                    assert_eq!(weights.len(), 8);
                    assert!(weights.chunks_exact(4).all(|row| (row.iter().sum::<f32>() - 1.0).abs() < 1e-5));
                });
            }
        }
        assert!((loss - sum / 5.0).abs() < 1e-5, "{cell:?} {score:?}: {loss}, step by step {}", sum / 5.0);
    }
}

#[test]
fn every_parameter_learns() {
    for (input, size, score) in
        [(CaptionInput::Image(CONVOLUTION), 192, Some(Score::Additive)), (CaptionInput::Vector(9), 9, None)]
    {
        let model = captioner(Cell::Lstm, input, score, &Device::default().autodiff());
        let (inputs, targets, batch) = sentences();
        let loss = model.loss(&values(2 * size), &inputs, &targets, &batch);
        let gradients = model.take_gradients(&mut loss.backward());
        for ((name, _), gradient) in model.parameters().iter().zip(&gradients) {
            with_slice(gradient, |values| assert!(values.iter().any(|&value| value != 0.0), "{name}"));
        }
    }
}
