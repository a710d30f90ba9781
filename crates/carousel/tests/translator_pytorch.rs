//! A translator against PyTorch: the loss, every gradient and the translations found, from the same weights.
#![allow(clippy::unwrap_used)]

use burn::module::Module;
use burn::tensor::Device;
use carousel::cell::{Cell, Reset};
use carousel::decode::beam::{LengthPenalty, Search, search};
use carousel::init::{GateBias, Init};
use carousel::models::translator::{Sentences, TranslatorConfig};
use carousel::parameters::{NamedParameters, NamedTensor};
use carousel::slices::with_slice;
use serde_json::Value;

fn list<T: serde::de::DeserializeOwned>(value: &Value) -> Vec<T> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Equal weights in 32 bits against sums in 64: a few units of the last place of the largest value.
const SINGLE: f64 = 1e-5;

#[test]
fn losses_gradients_and_translations_are_pytorchs() {
    let text = include_str!("fixtures/translator.json");
    let given: Value = serde_json::from_str(text).unwrap();
    let (sources, targets): (Vec<Vec<u32>>, Vec<Vec<u32>>) =
        (list(&given["sources"]), list(&given["targets"]));
    let sources: Vec<&[u32]> = sources.iter().map(Vec::as_slice).collect();
    let inputs: Vec<&[u32]> = targets.iter().map(|target| &target[..target.len() - 1]).collect();
    let wanted: Vec<&[u32]> = targets.iter().map(|target| &target[1..]).collect();
    let (inputs, wanted) = (Sentences::pack(&inputs), Sentences::pack(&wanted).ids);
    let cases = given["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 2);
    for case in cases {
        let sizes = &case["sizes"];
        let size = |name: &str| sizes[name].as_u64().unwrap() as usize;
        let vocabularies: Vec<usize> = list(&sizes["vocabularies"]);
        let cell = match sizes["cell"].as_str().unwrap() {
            "lstm" => Cell::Lstm,
            _ => Cell::Gru(Reset::After),
        };
        let config = TranslatorConfig {
            layers: size("layers"),
            init: Init { gates: GateBias::Forget(0.0), ..Init::default() },
            ..TranslatorConfig::new(
                cell,
                [vocabularies[0], vocabularies[1]],
                size("embedding"),
                size("hidden"),
            )
        };
        let mut model = config.init(&Device::default().autodiff()).unwrap();
        let names: Vec<String> = model.parameters().into_iter().map(|(name, _)| name).collect();
        let all = case["weights"].as_object().unwrap();
        assert_eq!(names.len(), all.len(), "{names:?}");
        let weights: Vec<NamedTensor> = names
            .iter()
            .map(|name| NamedTensor {
                name: name.clone(),
                shape: list(&all[name]["shape"]),
                values: list(&all[name]["values"]),
            })
            .collect();
        model.load(&weights).unwrap();

        let loss = model.loss(&Sentences::pack(&sources), &inputs.ids, &wanted, &inputs.batch, None);
        let (found, expected) =
            (f64::from(with_slice(&loss, |loss| loss[0])), case["loss"].as_f64().unwrap());
        assert!((found / expected - 1.0).abs() < SINGLE, "{sizes}: {found} {expected}");
        let gradients = model.take_gradients(&mut loss.backward());
        for (name, gradient) in names.iter().zip(&gradients) {
            let expected: Vec<f64> = list(&case["gradients"][name]);
            let largest = expected.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
            assert!(largest > 0.0, "{name}");
            with_slice(gradient, |found| {
                assert_eq!(found.len(), expected.len(), "{name}");
                for (found, expected) in found.iter().zip(&expected) {
                    let error = (f64::from(*found) - expected).abs();
                    assert!(error <= SINGLE * largest, "{sizes} {name}: {found} {expected}");
                }
            });
        }

        let same =
            Search { beam: 3, penalty: LengthPenalty::Average, ratio: 0.0, extra: 6, ..Search::default() };
        let best: Vec<Vec<u32>> = list(&case["best"]);
        let translated = search(&model.valid(), &sources, &[], &same);
        let translated: Vec<Vec<u32>> = translated.into_iter().map(|mut all| all.remove(0).tokens).collect();
        assert_eq!(translated, best, "{sizes}");
    }
}
