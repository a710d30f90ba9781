//! One to many: a square in an image in, words on where it is out (2 up, 3 down, then 4 left, 5 right).
use std::sync::Arc;

use burn::{module::Module, tensor::Device};
use carousel::cell::Cell;
use carousel::data::pack;
use carousel::models::captioner::{CaptionInput, CaptionerConfig};
use carousel::models::{attention::Score, convolution::ConvolutionConfig};
use carousel::parameters::NamedParameters;
use carousel::recipe::{Recipe, Task};
use carousel::train::Optimizer;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let near = |a: usize, b: usize| f32::from(u8::from((b..b + 3).contains(&a)));
    let pixels = |n: usize| (0..64).map(move |p| near(p / 8, n / 6) * near(p % 8, n % 6));
    let images: Vec<f32> = (0..36).flat_map(pixels).collect();
    let whole: Vec<[u32; 4]> = (0..36).map(|n| [0, 2 + n / 18, 4 + n % 6 / 3, 1]).collect();
    let (inputs, batch) = pack(&whole.iter().map(|one| &one[..3]).collect::<Vec<_>>(), 1);
    let (targets, _) = pack(&whole.iter().map(|one| &one[1..]).collect::<Vec<_>>(), 1);
    let input = CaptionInput::Image(ConvolutionConfig { image: [1, 8, 8], filters: 8, layers: 2 });
    let (cell, vocabulary, embedding, hidden, seed) = (Cell::Lstm, 6, 8, 24, 1);
    let (attention, batch) = (Some(Score::Additive), Arc::new(batch));
    let config = CaptionerConfig { input, vocabulary, embedding, cell, hidden, attention, seed };
    let mut model = config.init(&Device::default().autodiff())?;
    let mut adam = Optimizer::new(&Recipe::default_for(Task::Lm).train, &model);
    for _ in 0..300 {
        let loss = model.loss(&images, &inputs, &targets, &batch);
        let gradients = model.take_gradients(&mut loss.backward());
        adam.update(&mut model, &gradients, 0.01);
    }
    let wrote = model.valid().write(&images, 36, [0, 1], 5);
    assert!(wrote.iter().zip(&whole).all(|(wrote, whole)| *wrote == whole[1..3]), "{wrote:?}");
    Ok(())
}

#[test]
fn it_learns() {
    main().expect("it runs");
}
