//! One to many: a square in an image in, words on where it is out (4 up, 5 down, then 6 left, 7 right).
use std::sync::Arc;

use burn::{module::Module, tensor::Device};
use carousel::cell::Cell;
use carousel::data::{EOS, SOS, pack};
use carousel::decode::beam::greedy_from;
use carousel::models::captioner::{CaptionInput, CaptionerConfig, Subjects};
use carousel::models::convolution::ConvolutionConfig;
use carousel::parameters::NamedParameters;
use carousel::recipe::{Recipe, Task};
use carousel::train::Optimizer;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let near = |a: usize, b: usize| f32::from(u8::from((b..b + 3).contains(&a)));
    let pixels = |n: usize| (0..64).map(move |p| near(p / 8, n / 6) * near(p % 8, n % 6));
    let images: Vec<f32> = (0..36).flat_map(pixels).collect();
    let squares = Subjects::Images(&images, 36);
    let whole: Vec<[u32; 4]> = (0..36).map(|n| [SOS, 4 + n / 18, 6 + n % 6 / 3, EOS]).collect();
    let (inputs, batch) = pack(&whole.iter().map(|one| &one[..3]).collect::<Vec<_>>(), 1);
    let (targets, _) = pack(&whole.iter().map(|one| &one[1..]).collect::<Vec<_>>(), 1);
    let (input, batch) = (ConvolutionConfig { image: [1, 8, 8], filters: 8, layers: 2 }, Arc::new(batch));
    let config = CaptionerConfig::new(CaptionInput::Image(input), 8, Cell::Lstm, 8, 24);
    let mut model = config.init(&Device::default().autodiff())?;
    let mut adam = Optimizer::new(&Recipe::default_for(Task::Lm).train, &model);
    for _ in 0..300 {
        let loss = model.loss(squares, &inputs, &targets, &batch, None);
        let gradients = model.take_gradients(&mut loss.backward());
        adam.update(&mut model, &gradients, 0.01);
    }
    let model = model.valid();
    let wrote = greedy_from(model.writer(&model.encode(squares)), &[5; 36]);
    assert!(wrote.iter().zip(&whole).all(|(wrote, whole)| *wrote == whole[1..3]), "{wrote:?}");
    Ok(())
}

#[test]
fn it_learns() {
    main().expect("it runs");
}
