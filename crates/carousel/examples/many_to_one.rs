//! Many to one: a net that reads a sequence and says how it began.
use std::sync::Arc;

use burn::tensor::Device;
use carousel::cell::Cell;
use carousel::data::pack;
use carousel::models::classifier::ClassifierConfig;
use carousel::models::reader::{RecurrenceConfig, StepKind, Steps};
use carousel::parameters::NamedParameters;
use carousel::recipe::{Recipe, Task};
use carousel::slices::with_slice;
use carousel::train::Optimizer;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sequence = |n: u32| (0..2 + n % 7).map(|t| (n >> t) & 1).collect();
    let sequences: Vec<Vec<u32>> = (0..128).map(sequence).collect();
    let classes: Vec<u32> = sequences.iter().map(|sequence| sequence[0]).collect();
    let (tokens, batch) = pack(&sequences.iter().map(Vec::as_slice).collect::<Vec<_>>(), 1);
    let (steps, batch) = (Steps::Tokens(&tokens), Arc::new(batch));

    let kind = StepKind::Token { vocabulary: 2, embedding: 4 };
    let config = ClassifierConfig::new(kind, RecurrenceConfig::new(Cell::Lstm, 16), 2);
    let mut model = config.init(&Device::default().autodiff())?;
    let mut adam = Optimizer::new(&Recipe::default_for(Task::Classify).train, &model);
    for _ in 0..150 {
        let loss = model.loss(steps, &batch, &classes, None, None);
        let gradients = model.take_gradients(&mut loss.backward());
        adam.update(&mut model, &gradients, 0.02);
    }
    let loss = with_slice(&model.loss(steps, &batch, &classes, None, None), |loss| loss[0]);
    println!("loss {loss:.4} nats");
    assert!(loss < 0.1, "it remembers how a sequence began");
    Ok(())
}

#[test]
fn it_learns() {
    main().expect("it runs");
}
