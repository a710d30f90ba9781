//! `carousel bench step`: one step at a time, as text is generated.

use std::hint::black_box;

use burn::tensor::Device;
use carousel::init::Initializer;
use carousel::recurrent::RecurrentConfig;
use carousel::stepper::StepPrecision;
use clap::{Args, ValueEnum};
use serde_json::json;

use super::{CellName, MeasureArgs, Measured, counted, figures, multiply_adds, size, timed};
use crate::system::check_memory;

const EXAMPLES: &str = "\
Examples:
  carousel bench step --hidden 512
  carousel bench step --cell gru --hidden 1024 --batch 4 --json

Every repetition is one step of all layers, on from the state of the last, with
the weights as warm as a running model has them. With large weights and a small
batch, reading the weights is the work: GB/s say how fast.";

/// Time single steps of a stack
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct StepArgs {
    /// lstm, gru, rnn, gru-before, rnn-relu
    #[arg(long, value_enum, default_value_t = CellName::Lstm, hide_possible_values = true)]
    #[arg(value_name = "CELL")]
    cell: CellName,

    /// Units of a layer
    #[arg(long, value_name = "H", default_value_t = 512, value_parser = size, allow_negative_numbers = true)]
    hidden: usize,

    /// Values of the input [default: H]
    #[arg(long, value_name = "I", value_parser = size, allow_negative_numbers = true)]
    input: Option<usize>,

    /// Layers on top of each other
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = size, allow_negative_numbers = true)]
    layers: usize,

    /// Sequences side by side
    #[arg(long, value_name = "B", default_value_t = 1, value_parser = size, allow_negative_numbers = true)]
    batch: usize,

    /// Numbers of the weights: f32 or int8
    #[arg(long, value_enum, default_value_t = Precision::F32, hide_possible_values = true)]
    #[arg(value_name = "P")]
    precision: Precision,

    #[command(flatten)]
    measure: MeasureArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum Precision {
    F32,
    Int8,
}

impl Precision {
    /// Its name, the bytes of one weight, and the stepper's precision.
    fn of(self) -> (&'static str, f64, StepPrecision) {
        match self {
            Precision::F32 => ("f32", 4.0, StepPrecision::F32),
            Precision::Int8 => ("int8", 1.0, StepPrecision::Int8),
        }
    }
}

pub(super) fn run(args: &StepArgs) -> anyhow::Result<()> {
    let (precision, bytes, weights_as) = args.precision.of();
    args.measure.apply()?;
    let (cell, hidden, layers, batch) = (args.cell.cell(), args.hidden, args.layers, args.batch);
    let input = args.input.unwrap_or(hidden);
    let weights = multiply_adds(cell, input, hidden, layers, 1);
    check_memory(3.0 * weights + (batch * layers * (cell.gates() + 6) * hidden) as f64)?;

    let stack = RecurrentConfig::new(cell, input, hidden)
        .with_layers(layers)
        .with_seed(args.measure.seed())
        .init(&Device::default())?;
    let mut stepper =
        stack.stepper_with(batch, weights_as).ok_or_else(|| anyhow::anyhow!("the stack cannot step"))?;
    let x = Initializer::new(args.measure.seed()).normal(batch * input);
    let (peak, timing) = timed(args.measure.seconds, || {
        black_box(stepper.step(&x).expect("x was made for this stepper"));
    });

    let name = args.cell.name();
    let measured = Measured {
        args: &args.measure,
        title: format!("step: {}, {precision}", name.to_uppercase()),
        facts: vec![
            ("shape", format!("B {batch}, I {input}, H {hidden}, {}", counted(layers, "layer"))),
            ("weights", format!("{} MB", figures(weights * bytes / 1e6))),
        ],
        fields: json!({
            "bench": "step",
            "cell": name,
            "hidden": hidden,
            "input": input,
            "layers": layers,
            "batch": batch,
            "precision": precision,
            "weight_bytes": weights * bytes,
        }),
        operations: 2.0 * weights * batch as f64,
        rates: vec![
            ("steps", "steps/s", 1.0),
            ("weight_gigabytes", "GB/s of weights", weights * bytes / 1e9),
        ],
        timing,
        part: None,
    };
    measured.print(peak)
}
