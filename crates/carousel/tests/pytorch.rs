//! Agreement with PyTorch, on the fixtures of `carousel-kernels`: outputs, last states and every gradient, on
//! both paths, with the weights loaded by PyTorch's names.

#![allow(clippy::unwrap_used)]

#[path = "../../kernels/tests/common/fixtures.rs"]
mod fixtures;
mod support;

use burn::tensor::Tensor;
use carousel::cell::{Activation, Cell, Reset};
use carousel::parameters::{NamedParameters, NamedTensor};
use carousel::path::Path;
use carousel::ragged::Ragged;
use carousel::recurrent::{Direction, RecurrentConfig};
use carousel::state::State;
use fixtures::{Fixture, SINGLE};
use support::{autodiff, tensor, values};

fn cell(name: &str) -> Cell {
    match name {
        "rnn-tanh" => Cell::Rnn(Activation::Tanh),
        "rnn-relu" => Cell::Rnn(Activation::Relu),
        "lstm" => Cell::Lstm,
        "gru-after" => Cell::Gru(Reset::After),
        "gru-before" => Cell::Gru(Reset::Before),
        _ => panic!("unknown cell {name}"),
    }
}

fn given<const D: usize>(case: &Fixture, name: &str) -> Tensor<D> {
    let shape = case.tensor(name).shape.clone().try_into().expect("the fixture has that many dimensions");
    tensor(case.f32s(name), shape, &autodiff()).require_grad()
}

fn check(case: &Fixture, path: Path) -> Vec<Result<(), String>> {
    let direction = match case.text("direction") {
        "forward" => Direction::Forward,
        "both" => Direction::Both,
        other => panic!("unknown direction {other}"),
    };
    let mut config = RecurrentConfig::new(cell(case.text("cell")), case.size("input"), case.size("hidden"))
        .with_layers(case.size("layers"))
        .with_direction(direction);
    if case.text("kind") == "projection" {
        config = config.with_projection(case.size("projection"));
    }
    let mut stack = config.init(&autodiff()).unwrap().with_path(path);
    let names: Vec<String> = stack.parameters().into_iter().map(|(name, _)| name).collect();
    let weights: Vec<NamedTensor> = names
        .iter()
        .map(|name| NamedTensor {
            name: name.clone(),
            shape: case.tensor(name).shape.clone(),
            values: case.f32s(name),
        })
        .collect();
    stack.load(&weights).unwrap();

    let x = given::<3>(case, "x");
    let h0 = given::<3>(case, "h0");
    let c0 = case.has("c0").then(|| given::<3>(case, "c0"));
    let ragged = Ragged::from_padded(x.clone(), &case.sizes("lengths")).unwrap();
    let (y, last) = stack.forward(ragged, Some(State::new(h0.clone(), c0.clone())));
    let y = y.to_padded(0.0);

    let mut found = vec![("y".to_owned(), values(&y)), ("hn".to_owned(), values(&last.h()))];
    let mut loss = (y * given(case, "dy")).sum() + (last.h() * given(case, "dhn")).sum();
    if let Some(c) = last.c() {
        found.push(("cn".to_owned(), values(&c)));
        loss = loss + (c * given(case, "dcn")).sum();
    }
    let mut gradients = loss.backward();
    found.push(("dx".to_owned(), values(&x.grad(&gradients).unwrap())));
    found.push(("dh0".to_owned(), values(&h0.grad(&gradients).unwrap())));
    if let Some(c0) = c0 {
        found.push(("dc0".to_owned(), values(&c0.grad(&gradients).unwrap())));
    }
    let taken = stack.take_gradients(&mut gradients);
    found.extend(names.iter().zip(&taken).map(|(name, values_of)| (format!("d{name}"), values(values_of))));
    found.iter().map(|(name, values)| case.agrees(name, values, SINGLE)).collect()
}

fn check_all(path: Path) {
    let failures: Vec<String> = ["recurrent", "projection"]
        .into_iter()
        .flat_map(fixtures::load)
        .collect::<Vec<_>>()
        .iter()
        .flat_map(|case| check(case, path))
        .filter_map(Result::err)
        .collect();
    assert!(failures.is_empty(), "{} disagreements:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn fused_layers_agree_with_pytorch() {
    check_all(Path::Auto);
}

#[test]
fn portable_layers_agree_with_pytorch() {
    check_all(Path::Portable);
}
