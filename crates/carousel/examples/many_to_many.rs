//! Many to many, aligned: a causal net that labels every step with what it read one step before.
use std::sync::Arc;

use burn::tensor::Device;
use carousel::cell::Cell;
use carousel::data::pack;
use carousel::models::reader::RecurrenceConfig;
use carousel::models::tagger::{TagInput, TagSteps, TaggerConfig};
use carousel::output::IGNORE;
use carousel::parameters::NamedParameters;
use carousel::recipe::{Recipe, Task};
use carousel::train::Optimizer;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let read = |n: u32| (0..2 + n % 7).map(|t| ((n >> t) & 1) as f32).collect();
    let sequences: Vec<Vec<f32>> = (0..64).map(read).collect();
    let before = |row: &Vec<f32>| row.iter().map(|&value| value as u32).collect::<Vec<u32>>();
    let label = |row: &Vec<f32>| [&[IGNORE], &before(row)[..row.len() - 1]].concat();
    let tags: Vec<Vec<u32>> = sequences.iter().map(label).collect();
    let (values, batch) = pack(&sequences.iter().map(Vec::as_slice).collect::<Vec<_>>(), 1);
    let (tags, _) = pack(&tags.iter().map(Vec::as_slice).collect::<Vec<_>>(), 1);
    let (steps, batch) = (TagSteps::Numbers(&values), Arc::new(batch));

    let config = TaggerConfig::new(TagInput::Numbers(1), RecurrenceConfig::new(Cell::Lstm, 12), 2);
    let mut model = config.init(&Device::default().autodiff())?;
    let mut adam = Optimizer::new(&Recipe::default_for(Task::Tag).train, &model);
    for _ in 0..150 {
        let loss = model.loss(steps, &batch, &tags, &[], None);
        let gradients = model.take_gradients(&mut loss.backward());
        adam.update(&mut model, &gradients, 0.03);
    }
    assert!(model.measure(steps, &batch, &tags).nats < 5.0, "it remembers one step");
    Ok(())
}

#[test]
fn it_learns() {
    main().expect("it runs");
}
