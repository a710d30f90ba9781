//! One to one: a feed-forward net on single vectors, without a recurrence. It learns exclusive or.
use std::sync::Arc;

use burn::tensor::Device;
use carousel::models::classifier::ClassifierConfig;
use carousel::models::dense::{DenseActivation, DenseConfig, Norm};
use carousel::models::reader::{Body, StepKind, Steps};
use carousel::parameters::NamedParameters;
use carousel::ragged::Batch;
use carousel::recipe::{Recipe, Task};
use carousel::slices::with_slice;
use carousel::train::Optimizer;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let values = [0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0];
    let (steps, classes) = (Steps::Numbers(&values), [0, 1, 1, 0]);
    let batch = Arc::new(Batch::full(4, 1));

    let (activation, norm) = (DenseActivation::Tanh, Norm::None);
    let dense = DenseConfig { input: 2, hidden: 8, layers: 1, activation, norm };
    let config = ClassifierConfig::new(StepKind::Numbers(2), Body::Dense(dense), 2);
    let mut model = config.init(&Device::default().autodiff())?;
    let mut adam = Optimizer::new(&Recipe::default_for(Task::Classify).train, &model);
    for _ in 0..300 {
        let loss = model.loss(steps, &batch, &classes, None, None);
        let gradients = model.take_gradients(&mut loss.backward());
        adam.update(&mut model, &gradients, 0.05);
    }
    let loss = with_slice(&model.loss(steps, &batch, &classes, None, None), |loss| loss[0]);
    println!("loss {loss:.4} nats");
    assert!(loss < 0.1, "it learns exclusive or");
    Ok(())
}

#[test]
fn it_learns() {
    main().expect("it runs");
}
