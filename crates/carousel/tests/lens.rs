//! The lens on models whose units are known, and on noise.

#![allow(clippy::unwrap_used)]

mod support;

use burn::tensor::Device;
use carousel::cell::{Activation, Cell, CellOptions, Reset};
use carousel::init::Initializer;
use carousel::lens::{
    Activations, Flow, Hold, Kind, Ngrams, Operation, Property, Reading, Search, Start, Text, Unit, can_hold,
    compare_errors, follow_gradients, hold, losses, operate, rank, read, search, watch_gates,
};
use carousel::models::language_model::{LanguageModel, LanguageModelConfig};
use carousel::parameters::{NamedParameters, NamedTensor};
use support::CELLS;

const VOCABULARY: usize = 128;
const HIDDEN: usize = 16;
/// The units that were given a task.
const QUOTE: usize = 3;
const COUNTER: usize = 7;

fn config(cell: Cell, layers: usize) -> LanguageModelConfig {
    LanguageModelConfig {
        cell: cell.into(),
        vocabulary: VOCABULARY,
        embedding: 8,
        hidden: HIDDEN,
        layers,
        init: Default::default(),
        residual: false,
        tied: false,
        options: Default::default(),
        regularize: Default::default(),
        seed: 5,
    }
}

/// Text of words, nested braces, and quotations of every length whose letters are those outside.
fn text(length: usize) -> String {
    text_of(length, ["abcdefghijklmnopqrstuvwxyz"; 2])
}

/// The same with letters of their own outside and inside of quotations.
fn text_of(length: usize, letters: [&str; 2]) -> String {
    let mut random = Initializer::new(9);
    let mut draw = |below: usize| {
        let value = f64::from(random.uniform(1, 1.0)[0]) / 2.0 + 0.5;
        ((value * below as f64) as usize).min(below - 1)
    };
    let mut content = String::new();
    let (mut depth, mut quoted) = (0, false);
    while content.len() < length {
        match draw(60) {
            0 | 1 => {
                quoted = !quoted;
                content.push('"');
            }
            2..=4 if !quoted && depth < 6 => {
                depth += 1;
                content.push('{');
            }
            5..=7 if !quoted && depth > 0 => {
                depth -= 1;
                content.push('}');
            }
            8..=15 => content.push(' '),
            _ => {
                let letters = letters[usize::from(quoted)].as_bytes();
                content.push(char::from(letters[draw(letters.len())]));
            }
        }
    }
    content
}

/// An LSTM whose unit `QUOTE` turns round at every quotation mark, whose unit `COUNTER` adds up braces, and whose
/// other units echo the input at random. The output layer listens to `QUOTE` alone.
///
/// ```text
/// QUOTE    at a mark: i = 1, f = 0, g = tanh(5 - 20 h)   so c changes its sign, the first time to +1
///          else:      i = 0, f = 1                       so c stays
/// COUNTER  at { or }: i = 1, f = 1, g = ±tanh(0.1)       so c = 0.1 · depth
/// ```
fn known_model() -> LanguageModel {
    let mut model = config(Cell::Lstm, 1).init(&Device::default()).unwrap();
    let embedding = |token: usize| token * 8;
    for (name, mut parameter) in model.parameters_mut() {
        parameter.with_slice_mut(|values| match name.as_str() {
            "embedding.weight" => {
                // The first three values say "mark", "{" and "}"; the rest stays random.
                for token in 0..VOCABULARY {
                    for (at, own) in [b'"', b'{', b'}'].into_iter().enumerate() {
                        values[embedding(token) + at] = f32::from(usize::from(own) == token);
                    }
                }
            }
            "recurrent.weight_ih_l0" => {
                let mut set = |gate: usize, unit: usize, row: [f32; 3]| {
                    let at = (gate * HIDDEN + unit) * 8;
                    values[at..at + 8].fill(0.0);
                    values[at..at + 3].copy_from_slice(&row);
                };
                set(0, QUOTE, [40.0, 0.0, 0.0]);
                set(1, QUOTE, [-40.0, 0.0, 0.0]);
                set(2, QUOTE, [5.0, 0.0, 0.0]);
                set(3, QUOTE, [0.0; 3]);
                set(0, COUNTER, [0.0, 40.0, 40.0]);
                set(1, COUNTER, [0.0; 3]);
                set(2, COUNTER, [0.0, 0.1, -0.1]);
                set(3, COUNTER, [0.0; 3]);
            }
            "recurrent.weight_hh_l0" => {
                for gate in 0..4 {
                    for unit in [QUOTE, COUNTER] {
                        values[(gate * HIDDEN + unit) * HIDDEN..][..HIDDEN].fill(0.0);
                    }
                }
                values[(2 * HIDDEN + QUOTE) * HIDDEN + QUOTE] = -20.0;
            }
            "recurrent.bias_ih_l0" => {
                for (unit, biases) in [(QUOTE, [-20.0, 20.0, 0.0, 20.0]), (COUNTER, [-20.0, 20.0, 0.0, 20.0])]
                {
                    for (gate, bias) in biases.into_iter().enumerate() {
                        values[gate * HIDDEN + unit] = bias;
                    }
                }
            }
            "recurrent.bias_hh_l0" => {
                for gate in 0..4 {
                    for unit in [QUOTE, COUNTER] {
                        values[gate * HIDDEN + unit] = 0.0;
                    }
                }
            }
            "output.weight" => {
                values.fill(0.0);
                for token in b'a'..=b'z' {
                    let side = if token >= b'n' { 3.0 } else { -3.0 };
                    values[usize::from(token) * HIDDEN + QUOTE] = side;
                }
            }
            "output.bias" => values.fill(0.0),
            other => panic!("{other} is new"),
        });
    }
    model
}

fn built_in(names: &[&str], text: &Text) -> Vec<Property> {
    names.iter().map(|name| Property::built_in(name, text).unwrap()).collect()
}

#[test]
fn units_that_were_built_to_follow_something_are_found() {
    let (model, text) = (known_model(), Text::of_characters(&text(8_000)));
    let activations = Activations::record(&model, &text, &Reading::of(["h", "c"]), |_| {});
    let properties = built_in(&["double-quotes", "brace-depth"], &text);
    let result = search(&activations, &text, &properties, &Search::default(), |_| {});
    assert_eq!((result.searched, result.findings.len()), (2 * HIDDEN, 2));
    for (finding, unit) in result.findings.iter().zip([QUOTE, COUNTER]) {
        let best = &finding.units[0];
        assert!(finding.found, "{finding:?}");
        assert_eq!((best.unit.unit, best.sign), (unit, 1.0), "{finding:?}");
        assert!(best.held_out > 0.999, "{finding:?}");
        // h and c of the same unit, then the rest.
        assert_eq!(finding.units[1].unit.unit, unit, "{finding:?}");
        assert!(best.held_out > finding.last_three + 0.05, "{finding:?}");
        assert!(best.held_out > finding.chance[1] + 0.2, "{finding:?}");
        assert!(finding.information[0] > 0.9 * finding.information[1], "{finding:?}");
        assert_eq!(finding.probes[0].units[0].unit, unit, "{finding:?}");
    }
}

/// Forty shuffles of a text: the scores of the best units lie around chance, and no more of them are called a find
/// than the level says. One shuffle alone proves little: the depth of shuffled braces is a random walk, as the
/// counter is, and two of those meet by accident, which the shifts have to know.
#[test]
fn on_shuffled_texts_everything_stays_at_chance() {
    const SHUFFLES: usize = 40;
    let content = text(4_000);
    let text = Text::of_characters(&content);
    let activations = Activations::record(&known_model(), &text, &Reading::of(["h", "c"]), |_| {});
    let names = ["double-quotes", "brace-depth", "word-start"];
    let how = Search { shifts: 19, ..Search::default() };
    let mut random = Initializer::new(4);
    let (mut scores, mut finds) = ([0.0; 3], 0);
    for _ in 0..SHUFFLES {
        // The same characters in another order.
        let draws = random.uniform(content.len(), 1.0);
        let mut keys: Vec<(f32, char)> = draws.into_iter().zip(content.chars()).collect();
        keys.sort_by(|a, b| a.0.total_cmp(&b.0));
        let shuffled: String = keys.into_iter().map(|(_, character)| character).collect();
        let properties = built_in(&names, &Text::of_characters(&shuffled));
        let result = search(&activations, &text, &properties, &how, |_| {});
        for (sum, finding) in scores.iter_mut().zip(&result.findings) {
            *sum += finding.units[0].held_out / SHUFFLES as f64;
            finds += usize::from(finding.found);
        }
    }
    for (name, (mean, chance)) in names.iter().zip(scores.into_iter().zip([0.5, 0.0, 0.5])) {
        assert!((mean - chance).abs() < 0.05, "{name}: {mean}");
    }
    assert!(finds <= 3 * SHUFFLES / 20, "{finds} finds in {}", 3 * SHUFFLES);
}

/// Noise of every pace, from white to slow, against properties with a rhythm of their own.
#[test]
fn among_ten_thousand_random_units_nothing_is_found() {
    let tokens = 3000;
    let text = Text::of_characters(&text(tokens));
    let tokens = text.len();
    let mut random = Initializer::new(2);
    let rows: Vec<Vec<f32>> = (0..10_000)
        .map(|unit| {
            let keep = 1.0 - 0.5f32.powi(unit % 8);
            let mut value = 0.0;
            random
                .uniform(tokens, 1.0)
                .into_iter()
                .map(|noise| {
                    value = keep * value + noise;
                    value
                })
                .collect()
        })
        .collect();
    let activations = Activations::from_rows(0, "h", &rows);
    let names = ["double-quotes", "brace-depth", "braces", "word-start", "line-position"];
    let result = search(&activations, &text, &built_in(&names, &text), &Search::default(), |_| {});
    assert_eq!((result.searched, result.level), (10_000, 0.01));
    // Something may not vary in both halves of a text of one line; then nothing is said of it.
    assert_eq!(result.findings.len() + result.absent.len(), 5);
    assert!(result.findings.len() >= 4);
    for finding in &result.findings {
        assert!(!finding.found, "{finding:?}");
    }
}

#[test]
fn surgery_shows_what_a_unit_does() {
    // Only where letters differ does it help the prediction to know of the quotation.
    let content = text_of(6_000, ["abcdefghijklm", "nopqrstuvwxyz"]);
    let (model, text) = (known_model(), Text::of_characters(&content));
    let activations = Activations::record(&model, &text, &Reading::of(["h"]), |_| {});
    let property = Property::built_in("double-quotes", &text).unwrap();
    let before = losses(&model, &text, &Reading::default());
    let cut = |unit: usize, how: Hold| {
        let how = Operation { hold: how, others: 3, ..Operation::default() };
        operate(&model, &text, &activations, &property, (0, unit), &how, &before)
    };
    let quote = cut(QUOTE, Hold::Mean);
    // The output listens to nobody else: the net then knows no more than the letters' shares.
    assert!(quote.inside.rise() > 0.2 && quote.outside.rise() > 0.2, "{quote:?}");
    assert!(quote.others.iter().all(|other| other.inside.abs() < 1e-5 && other.unit != QUOTE), "{quote:?}");
    assert_eq!(quote.others.len(), 3);
    // Held as inside a quotation, it is right there and wrong elsewhere.
    let on = cut(QUOTE, Hold::At(0.76));
    assert!(on.inside.rise() < 0.01 && on.outside.rise() > 1.0, "{on:?}");
    let idle = cut(COUNTER, Hold::At(0.0));
    assert!(idle.inside.rise().abs() < 1e-5 && idle.outside.rise().abs() < 1e-5, "{idle:?}");
}

/// A held unit against the definition: the kernels step by step, `h` of the unit overwritten after every step.
#[test]
fn holding_a_unit_is_overwriting_its_output() {
    let text = Text::of_characters("hold {the} \"unit\" now");
    for cell in CELLS {
        let value = if cell == Cell::Rnn(Activation::Relu) { 0.6 } else { -0.4 };
        for layer in [0, 1] {
            let model = config(cell, 2).init(&Device::default()).unwrap();
            let mut held = Vec::new();
            let keep = Reading::of(["h"]);
            read(&hold(&model, layer, 2, value), &text, &keep, |glimpse| {
                for run in &glimpse.runs {
                    for index in 0..run.tokens.len() {
                        let row = glimpse.row(run, index) * HIDDEN;
                        held.push(glimpse.record.get(1, "h").unwrap().values[row..row + HIDDEN].to_vec());
                    }
                }
            });
            let expected = overwritten(&model, &text, layer, 2, value);
            assert!(can_hold(&model));
            for (token, (found, expected)) in held.iter().zip(&expected).enumerate().skip(1) {
                for unit in (0..HIDDEN).filter(|&unit| (layer, unit) != (1, 2)) {
                    let apart = (found[unit] - expected[unit]).abs();
                    assert!(apart < 2e-5, "{cell:?} layer {layer} token {token} unit {unit}: {apart}");
                }
            }
        }
    }
}

#[test]
fn units_that_no_weights_hold_are_known() {
    let check = |cell: Cell, options: CellOptions, residual: bool, expected: bool| {
        let mut own = config(cell, 2);
        (own.options, own.residual) = (options, residual);
        assert_eq!(can_hold(&own.init(&Device::default()).unwrap()), expected, "{cell:?} {options:?}");
    };
    let silu = CellOptions { activation: Activation::Silu, ..CellOptions::PLAIN };
    check(Cell::Lstm, CellOptions::PLAIN, false, true);
    check(Cell::Lstm, CellOptions::PLAIN, true, false);
    check(Cell::Lstm, CellOptions { norm: true, ..CellOptions::PLAIN }, false, false);
    check(Cell::Lstm, silu, false, true);
    check(Cell::Gru(Reset::After), silu, false, true);
    check(Cell::Gru(Reset::Before), silu, false, false);
}

/// The layers of a model of two, each to be stepped by hand.
fn steppers(model: &LanguageModel) -> Vec<carousel_kernels::Stepper> {
    use carousel_kernels::{Direction, Layer, Precision, Stepper, Weights};
    let tensors = model.named_tensors();
    let of = |name: &str| &tensors.iter().find(|tensor| tensor.name == name).unwrap().values;
    let cell = model.recurrent().cell().fused().unwrap();
    (0..2)
        .map(|index| {
            let input = if index == 0 { 8 } else { HIDDEN };
            let sizes = Layer {
                cell,
                direction: Direction::Forward,
                input,
                hidden: HIDDEN,
                precision: Precision::F32,
                zoneout: carousel_kernels::Zoneout::NONE,
                options: carousel_kernels::CellOptions::PLAIN,
            };
            let weights = Weights {
                input: of(&format!("recurrent.weight_ih_l{index}")),
                recurrent: of(&format!("recurrent.weight_hh_l{index}")),
                bias_input: of(&format!("recurrent.bias_ih_l{index}")),
                bias_recurrent: of(&format!("recurrent.bias_hh_l{index}")),
                options: &[],
            };
            Stepper::new(&[(sizes, weights)], 1).unwrap()
        })
        .collect()
}

/// The top layer's `h` at every token, one layer's unit overwritten after every step and before the first.
fn overwritten(model: &LanguageModel, text: &Text, layer: usize, unit: usize, value: f32) -> Vec<Vec<f32>> {
    use carousel_kernels::{State, Stepper};
    let tensors = model.named_tensors();
    let of = |name: &str| &tensors.iter().find(|tensor| tensor.name == name).unwrap().values;
    let cell = model.recurrent().cell();
    let mut steppers = steppers(model);
    let overwrite = |stepper: &mut Stepper| {
        let mut h = stepper.state(0).h.unwrap().to_vec();
        let c = stepper.state(0).c.map(<[f32]>::to_vec);
        h[unit] = value;
        stepper.set_state(0, State { h: Some(&h), c: c.as_deref() }).unwrap();
    };
    // The held model has the value from the start where it is moved to a bias; the original GRU from the first
    // step on. Both agree from the second on when the state before the first is overwritten only there.
    if cell != Cell::Gru(Reset::Before) {
        overwrite(&mut steppers[layer]);
    }
    text.tokens()
        .iter()
        .map(|&token| {
            let mut x = of("embedding.weight")[token as usize * 8..][..8].to_vec();
            for (index, stepper) in steppers.iter_mut().enumerate() {
                stepper.step(&x).unwrap();
                if index == layer {
                    overwrite(stepper);
                }
                x = stepper.state(0).h.unwrap().to_vec();
            }
            x
        })
        .collect()
}

#[test]
fn a_text_read_in_streams_is_the_text_read_in_one() {
    let text = Text::of_characters(&text(3000));
    let model = config(Cell::Lstm, 2).init(&Device::default()).unwrap();
    let whole = |how: &Reading| {
        let mut rows = vec![Vec::new(); text.len()];
        read(&model, &text, how, |glimpse| {
            for run in &glimpse.runs {
                for (index, token) in run.tokens.clone().enumerate() {
                    let row = glimpse.row(run, index) * HIDDEN;
                    assert!(rows[token].is_empty(), "token {token} comes once");
                    rows[token] = glimpse.record.get(1, "c").unwrap().values[row..row + HIDDEN].to_vec();
                }
            }
        });
        rows
    };
    let one = whole(&Reading { streams: 1, ..Reading::default() });
    let many = whole(&Reading { streams: 7, window: 50, shortest: 300, ..Reading::default() });
    for (token, (one, many)) in one.iter().zip(&many).enumerate() {
        for (a, b) in one.iter().zip(many) {
            assert!((a - b).abs() < 1e-4, "token {token}: {a} {b}");
        }
    }
}

#[test]
fn one_stream_forgets_nothing() {
    // A brace that stays open, further back than a part reads ahead of itself.
    let text = Text::of_characters(&format!("{{{}", "a".repeat(9_000)));
    let counted = |how: Reading| {
        let activations = Activations::record(&known_model(), &text, &how, |_| {});
        let counter = Unit { layer: 0, signal: "c".to_owned(), unit: COUNTER };
        activations.values(activations.index_of(&counter).unwrap(), 8_999..9_000)[0]
    };
    assert!((counted(Reading::of(["c"]).with_streams(1)) - 0.1).abs() < 0.01);
    assert!(counted(Reading::of(["c"])).abs() < 0.01, "two parts: the second has not seen the brace");
}

#[test]
fn rankings_name_the_switch() {
    let text = Text::of_characters(&text(6_000));
    let activations = Activations::record(&known_model(), &text, &Reading::of(["h"]), |_| {});
    let rankings = rank(&activations, &text, 2);
    assert_eq!(rankings.bimodal[0].unit, Unit { layer: 0, signal: "h".to_owned(), unit: QUOTE });
    let slow: Vec<usize> = rankings.slowest.iter().map(|ranked| ranked.unit.unit).collect();
    assert!(slow.contains(&COUNTER), "{slow:?}");
}

#[test]
fn gates_of_the_known_units_stand_where_they_were_put() {
    let text = Text::of_characters(&text(3_000));
    let report = watch_gates(&known_model(), &text, &Reading::default(), |_| {});
    let gate = |name: &str| report.gates.iter().find(|gate| gate.name == name).unwrap();
    let marks = text.characters().iter().filter(|&&c| c == '"').count() as f64 / text.len() as f64;
    assert!((gate("i").right[QUOTE] - marks).abs() < 1e-9);
    assert!((gate("f").left[QUOTE] - marks).abs() < 1e-9);
    assert_eq!((gate("o").right[QUOTE], gate("o").left[QUOTE]), (1.0, 0.0));
    assert!(gate("f").time[COUNTER] > 1e6, "it never forgets");
    assert_eq!(report.dead, [Vec::<usize>::new()]);
    // A unit whose output gate is shut does nothing.
    let mut model = known_model();
    for (name, mut parameter) in model.parameters_mut() {
        if name == "recurrent.bias_ih_l0" {
            parameter.with_slice_mut(|values| values[3 * HIDDEN + 1] = -50.0);
        }
    }
    assert_eq!(watch_gates(&model, &text, &Reading::default(), |_| {}).dead, [vec![1]]);
}

#[test]
fn properties_of_code_and_prose() {
    let check = |name: &str, text: &str, expected: &str| {
        let property = Property::built_in(name, &Text::of_characters(text)).unwrap();
        let digit = |value: &f32| char::from_digit(*value as u32, 36).unwrap();
        let found: String = property.values.iter().map(digit).collect();
        assert_eq!(found, expected, "{name} of {text:?}");
    };
    check("double-quotes", "a \"b\" c", "0011000");
    check("single-quotes", "don't 'a b' c", "0000001111000");
    check("parentheses", "f(a(b)) c", "011111000");
    check("parenthesis-depth", "f(a(b)) c", "011221000");
    check("braces", "{\"}\"}", "11110");
    check("brace-depth", "{{}'{'}", "1211110");
    check("if-condition", "if (a(b)) c(d)", "00011111000000");
    check("if-condition", "diff (a) if x", "0000000000000");
    check("comment", "a //b\nc/*d*/e/", "00011000111000");
    check("hash-comment", "a # b\nc", "0011100");
    check("string", "a \"b\\\"\" '\"' c", "0011110000000");
    check("indentation", "\ta\n  b", "440122");
    check("line-position", "ab\nc", "1201");
    check("line-remaining", "ab\nc", "2101");
    check("line-start", "ab\nc", "1001");
    check("word-start", "ab 3c d", "1000001");
    check("upper-case", "aB C", "0101");
    check("number", "a1 12 0x1f 3.5 7.", "00011011110111010");
    check("newline", "a\nb", "010");
    check("sentence-position", "A b. C d", "11222112");
    check("quotation", "``a'' b", "0111000");
}

#[test]
fn words_patterns_and_labels_of_the_user() {
    let text = Text::of_characters("the cat, other cat");
    let values = |property: Property| -> Vec<usize> {
        property.values.iter().enumerate().filter(|(_, value)| **value == 1.0).map(|(at, _)| at).collect()
    };
    let words = |all: &[&str]| {
        let all: Vec<String> = all.iter().map(|word| (*word).to_owned()).collect();
        values(Property::from_words("w", &all, &text).unwrap())
    };
    assert_eq!(words(&["the"]), [0, 1, 2], "the one in other does not count");
    assert_eq!(words(&["cat", "the"]), [0, 1, 2, 4, 5, 6, 15, 16, 17]);
    assert_eq!(values(Property::from_pattern("p", "c(a)t", &text).unwrap()), [5, 16]);
    assert_eq!(values(Property::from_pattern("p", "cat,", &text).unwrap()), [4, 5, 6, 7]);
    let labels = "0 1 0.5 ".repeat(6);
    let property = Property::from_labels("l", &labels, &text).unwrap();
    assert_eq!((property.kind, property.values[2]), (Kind::Number, 0.5));
    let fails = |labels: &str, expected: &str| {
        let message = Property::from_labels("l", labels, &text).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    };
    fails("0 1 x", "label 3 is \"x\"");
    fails("0 1 nan", "label 3 is \"nan\"");
    fails("0 1", "2 labels for a text of 18 tokens");
    let message = Property::from_pattern("p", "c(", &text).unwrap_err().to_string();
    assert!(message.contains("\"c(\" is not a regular expression"), "{message}");
}

#[test]
fn the_gradient_at_every_lag_is_pytorchs() {
    let content: serde_json::Value =
        serde_json::from_str(include_str!("fixtures/gradient_flow.json")).unwrap();
    let size = |name: &str| content["sizes"][name].as_u64().unwrap() as usize;
    let cases = content["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 3);
    for case in cases {
        let numbers = |value: &serde_json::Value| -> Vec<f64> {
            value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
        };
        let cell = match case["cell"].as_str().unwrap() {
            "rnn" => Cell::Rnn(Activation::Tanh),
            "lstm" => Cell::Lstm,
            "gru" => Cell::Gru(Reset::After),
            other => panic!("unknown cell {other}"),
        };
        let mut model = LanguageModelConfig {
            cell: cell.into(),
            vocabulary: size("vocabulary"),
            embedding: size("embedding"),
            hidden: size("hidden"),
            layers: size("layers"),
            init: Default::default(),
            residual: false,
            tied: false,
            options: Default::default(),
            regularize: Default::default(),
            seed: 0,
        }
        .init(&Device::default())
        .unwrap();
        let weights: Vec<NamedTensor> = case["weights"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, tensor)| NamedTensor {
                name: name.clone(),
                shape: numbers(&tensor["shape"]).into_iter().map(|size| size as usize).collect(),
                values: numbers(&tensor["values"]).into_iter().map(|value| value as f32).collect(),
            })
            .collect();
        model.load(&weights).unwrap();
        let tokens = numbers(&case["tokens"]);
        let text: String = tokens.iter().map(|&token| char::from(token as u8)).collect();
        let how = Flow { lags: tokens.len() - 2, places: 1, warm_up: 0, seed: 0 };
        let flow = follow_gradients(&model, &Text::of_characters(&text), &how, |_| {});
        for (layer, found) in flow.layers.iter().enumerate() {
            for (signal, found) in [("h", &found.h), ("c", &found.c)] {
                let expected = numbers(&case[signal][layer]);
                assert_eq!(found.len(), expected.len(), "{cell:?} {signal}");
                for (lag, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    // Float32 against float64 over a dozen steps.
                    let apart = (found - expected).abs();
                    assert!(apart < 2e-5 * expected, "{cell:?} {signal} {layer} {lag}: {found} {expected}");
                }
            }
        }
    }
}

/// The norms against their definition: a state value moved a little either way, and the loss after it.
#[test]
fn the_gradient_at_every_lag_is_a_finite_difference() {
    const LAGS: usize = 6;
    const BY: f32 = 4e-3;
    let text = Text::of_characters("{to be}!");
    for cell in [Cell::Rnn(Activation::Tanh), Cell::Lstm, Cell::Gru(Reset::After), Cell::Gru(Reset::Before)] {
        let model = config(cell, 2).init(&Device::default()).unwrap();
        let how = Flow { lags: LAGS, places: 1, warm_up: 0, seed: 0 };
        let flow = follow_gradients(&model, &text, &how, |_| {});
        for (layer, found) in flow.layers.iter().enumerate() {
            for (is_c, norms) in [(false, &found.h), (true, &found.c)] {
                for (lag, norm) in norms.iter().enumerate() {
                    let squares = (0..HIDDEN).map(|unit| {
                        let loss = |by| moved_loss(&model, &text, (layer, is_c, LAGS - lag, unit), by);
                        ((loss(BY) - loss(-BY)) / (2.0 * f64::from(BY))).powi(2)
                    });
                    let expected = squares.sum::<f64>().sqrt();
                    let apart = (norm - expected).abs();
                    let what = format!("{cell:?} layer {layer} c {is_c} lag {lag}: {norm} {expected}");
                    assert!(apart < 0.005 * expected + 2e-4, "{what}");
                }
            }
        }
    }
}

/// The loss of the last token, with one value of a layer's `h` or `c` moved after a step.
fn moved_loss(
    model: &LanguageModel,
    text: &Text,
    (layer, is_c, step, unit): (usize, bool, usize, usize),
    by: f32,
) -> f64 {
    use carousel_kernels::State;
    let tensors = model.named_tensors();
    let of = |name: &str| &tensors.iter().find(|tensor| tensor.name == name).unwrap().values;
    let mut steppers = steppers(model);
    let (last, read) = text.tokens().split_last().unwrap();
    let mut x = Vec::new();
    for (at, &token) in read.iter().enumerate() {
        x = of("embedding.weight")[token as usize * 8..][..8].to_vec();
        for (index, stepper) in steppers.iter_mut().enumerate() {
            stepper.step(&x).unwrap();
            let mut h = stepper.state(0).h.unwrap().to_vec();
            if (index, at) == (layer, step) {
                let mut c = stepper.state(0).c.map(<[f32]>::to_vec);
                match (&mut c, is_c) {
                    // h = o tanh c hears of it at once.
                    (Some(c), true) => {
                        h[unit] *= (c[unit] + by).tanh() / c[unit].tanh();
                        c[unit] += by;
                    }
                    _ => h[unit] += by,
                }
                stepper.set_state(0, State { h: Some(&h), c: c.as_deref() }).unwrap();
            }
            x = h;
        }
    }
    let scores: Vec<f64> = of("output.weight")
        .chunks_exact(HIDDEN)
        .zip(of("output.bias"))
        .map(|(row, &bias)| row.iter().zip(&x).fold(f64::from(bias), |sum, (&w, &x)| sum + f64::from(w * x)))
        .collect();
    scores.iter().map(|score| score.exp()).sum::<f64>().ln() - scores[*last as usize]
}

/// What the recurrent weights of an untrained net are, gate by gate: rows of length one that are orthogonal, the
/// identity, numbers below Glorot's bound that fill it.
#[test]
fn every_gate_starts_as_it_is_named() {
    for cell in [Cell::Rnn(Activation::Tanh), Cell::Lstm, Cell::Gru(Reset::After)] {
        let weights = |start: Start| -> Vec<f32> {
            let tensors = start.untrained(&config(cell, 1)).unwrap().named_tensors();
            tensors.into_iter().find(|tensor| tensor.name == "recurrent.weight_hh_l0").unwrap().values
        };
        let is_one = |row: usize, column: usize| f32::from(row == column);
        for gate in weights(Start::Orthogonal).chunks_exact(HIDDEN * HIDDEN) {
            for (row, a) in gate.chunks_exact(HIDDEN).enumerate() {
                for (column, b) in gate.chunks_exact(HIDDEN).enumerate() {
                    let product: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                    assert!((product - is_one(row, column)).abs() < 1e-5, "{cell:?}: {product}");
                }
            }
        }
        for gate in weights(Start::Identity).chunks_exact(HIDDEN * HIDDEN) {
            assert!((0..gate.len()).all(|at| gate[at] == is_one(at / HIDDEN, at % HIDDEN)), "{cell:?}");
        }
        let largest = weights(Start::Xavier).iter().fold(0f32, |largest, value| largest.max(value.abs()));
        let bound = (3.0 / HIDDEN as f32).sqrt();
        assert!(largest <= bound && largest > 0.9 * bound, "{cell:?}: {largest} of {bound}");
    }
}

/// An untrained tanh net near zero is linear, so its lag curve falls as the spectral radius of its step says.
#[test]
fn an_untrained_rnn_forgets_at_the_pace_of_its_spectral_radius() {
    let text = Text::of_characters(&text(2_000));
    for (gain, start) in [(1.0, Start::Orthogonal), (0.8, Start::Orthogonal), (0.9, Start::Xavier)] {
        let mut config = config(Cell::Rnn(Activation::Tanh), 1);
        config.hidden = 64;
        let mut model = start.untrained(&config).unwrap();
        for (name, mut parameter) in model.parameters_mut() {
            parameter.with_slice_mut(|values| {
                let factor = match name.as_str() {
                    "recurrent.weight_hh_l0" => gain,
                    // Small inputs: where tanh is straight.
                    "recurrent.weight_ih_l0" | "recurrent.bias_ih_l0" | "recurrent.bias_hh_l0" => 0.05,
                    _ => 1.0,
                };
                values.iter_mut().for_each(|value| *value *= factor);
            });
        }
        let how = Flow { lags: 80, places: 16, ..Flow::default() };
        let flow = follow_gradients(&model, &text, &how, |_| {});
        let layer = &flow.layers[0];
        let (rate, radius) = (layer.rate, layer.jacobian.radius);
        assert!((rate / radius - 1.0).abs() < 0.03, "{start:?} {gain}: rate {rate}, radius {radius}");
        // A rotation's singular values are all its gain.
        if start == Start::Orthogonal {
            assert!((layer.jacobian.singular[0] - f64::from(gain)).abs() < 0.03, "{:?}", layer.jacobian);
            assert!((radius - f64::from(gain)).abs() < 0.03, "{:?}", layer.jacobian);
        }
    }
}

#[test]
fn errors_are_told_by_class_place_and_bracket() {
    let text = Text::of_characters("f(a)\ng(bb)");
    let ngrams = Ngrams::count(text.tokens(), text.document_starts(), VOCABULARY);
    let mut losses = vec![1.0; text.len()];
    losses[2] = 0.1; // of the first closing bracket
    *losses.last_mut().unwrap() = f32::NAN;
    let report = compare_errors(&text, &losses, &ngrams, 1);
    let row =
        |rows: &[carousel::lens::Row], name: &str| rows.iter().find(|row| row.name == name).unwrap().clone();
    let closing = row(&report.classes, "closing bracket");
    assert_eq!((closing.tokens, report.all.tokens), (2, 9));
    assert!((closing.loss - 0.55).abs() < 1e-6);
    assert_eq!(row(&report.brackets, "0 to 3").tokens, 2);
    assert_eq!(row(&report.classes, "line end").tokens, 1);
    let literal = Text::of_characters("f('(', a)");
    let ngrams = Ngrams::count(literal.tokens(), literal.document_starts(), VOCABULARY);
    let report_of = compare_errors(&literal, &vec![1.0; literal.len()], &ngrams, 1);
    assert_eq!(row(&report_of.brackets, "4 to 7").tokens, 1, "one in a literal hides none around it");
    assert_eq!(row(&report.positions, "4 to 7").tokens, 2, "the line end and the last bracket");
    assert_eq!(report.ahead[0].token, 3);
    assert!(report.all.ngrams[0] > report.all.ngrams[5], "{:?}", report.all.ngrams);
}
