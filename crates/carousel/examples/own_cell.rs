//! A cell of your own in under 40 lines: the minimal gated unit. A stack makes layers, directions, ragged batches
//! and weights by name of it; here a classifier learns with it.
use std::sync::Arc;

use burn::tensor::{Device, Tensor, activation};
use carousel::data::pack;
use carousel::models::classifier::ClassifierConfig;
use carousel::models::reader::{RecurrenceConfig, StepKind, Steps};
use carousel::own_cell::{Expose, LayerState, RecurrentCell, Signal, Sizes, Weight, Weights};
use carousel::parameters::NamedParameters;
use carousel::recipe::{Recipe, Task};
use carousel::recurrent::Direction;
use carousel::slices::with_slice;
use carousel::train::Optimizer;

/// MGU (Zhou et al. 2016):
/// `f = σ(Wf x + bf + Uf h)`, `n = tanh(Wn x + bn + Un (f * h))`, `h' = (1 - f) * h + f * n`.
#[derive(Debug)]
struct Mgu;

impl RecurrentCell for Mgu {
    fn name(&self) -> &'static str {
        "mgu"
    }

    fn weights(&self, sizes: Sizes) -> Vec<Weight> {
        let (forget, candidate) = (sizes.recurrent("weight_fh", 1), sizes.recurrent("weight_nh", 1));
        vec![sizes.input("weight_ih", 2), sizes.bias("bias", 2), forget, candidate]
    }

    fn signals(&self) -> Vec<Signal> {
        vec![Signal::gate("f"), Signal::value("n")]
    }

    fn read(&self, weights: &Weights<'_>, x: Tensor<2>) -> Tensor<2> {
        weights.product(x, "weight_ih") + weights.get("bias")
    }

    fn step(&self, w: &Weights<'_>, read: Tensor<2>, past: LayerState, expose: &mut Expose) -> LayerState {
        let h = past.h;
        let gates = read.chunk(2, 1);
        let f = activation::sigmoid(gates[0].clone() + w.product(h.clone(), "weight_fh"));
        let n = (gates[1].clone() + w.product(f.clone() * h.clone(), "weight_nh")).tanh();
        expose.signal("f", &f);
        expose.signal("n", &n);
        LayerState::of(h.clone() + f * (n - h))
    }
}

/// Learns how a sequence of bits began.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sequence = |n: u32| (0..2 + n % 7).map(|t| (n >> t) & 1).collect();
    let sequences: Vec<Vec<u32>> = (0..128).map(sequence).collect();
    let classes: Vec<u32> = sequences.iter().map(|sequence| sequence[0]).collect();
    let (tokens, batch) = pack(&sequences.iter().map(Vec::as_slice).collect::<Vec<_>>(), 1);
    let (steps, batch) = (Steps::Tokens(&tokens), Arc::new(batch));

    let kind = StepKind::Token { vocabulary: 2, embedding: 4 };
    let recurrence = RecurrenceConfig { direction: Direction::Both, ..RecurrenceConfig::new(&Mgu, 16) };
    let mut model = ClassifierConfig::new(kind, recurrence, 2).init(&Device::default().autodiff())?;
    for (name, parameter) in model.parameters() {
        println!("{name:<36}{:?}", parameter.shape());
    }
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

#[test]
fn the_cell_takes_less_than_40_lines() {
    let source = include_str!("own_cell.rs");
    let cell = source.split("#[derive(Debug)]").nth(1).and_then(|rest| rest.split("/// Learns").next());
    let lines = cell.expect("it is between them").lines().filter(|line| !line.trim().is_empty()).count();
    assert!(lines < 40, "{lines} lines");
}
