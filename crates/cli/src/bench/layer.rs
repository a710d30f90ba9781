//! `carousel bench layer`: a stack of recurrent layers over whole sequences.

use std::hint::black_box;
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use carousel::cell::Cell;
use carousel::init::Initializer;
use carousel::ragged::{Batch, Ragged};
use carousel::recurrent::{self, Precision, Recurrent, RecurrentConfig};
use carousel_kernels::{self as kernels, Layout};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::{CellName, MeasureArgs, Measured, counted, multiply_adds, size, timed};
use crate::system::check_memory;
use crate::usage::BadUsage;

const EXAMPLES: &str = "\
Examples:
  carousel bench layer
  carousel bench layer --cell gru --shape 50,100,128 --mode infer
  carousel bench layer --shape 500,32,64 --lengths uniform
  carousel bench layer --level avx2 --threads 1 --json
  carousel bench layer --kernel

Training is one pass forward and one backward, with the gradients of all weights
and of the input, through the Burn layer; no update. GFLOP/s count the products
with the weights, over real frames only: G x H x (I + H) multiply-adds a frame,
layer and direction, and three times that for training. --kernel calls the
kernels themselves: the difference is what the Burn layer costs.";

/// Time a stack of layers over whole sequences
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct LayerArgs {
    /// lstm, gru, rnn, gru-before, rnn-relu
    #[arg(long, value_enum, default_value_t = CellName::Lstm, hide_possible_values = true)]
    #[arg(value_name = "CELL")]
    cell: CellName,

    /// Time steps, batch, hidden units
    #[arg(long, value_name = "T,B,H", default_value = "64,32,256", value_parser = shape)]
    shape: Shape,

    /// Values a step of the input has [default: H]
    #[arg(long, value_name = "I", value_parser = size, allow_negative_numbers = true)]
    input: Option<usize>,

    /// Layers on top of each other
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = size, allow_negative_numbers = true)]
    layers: usize,

    /// forward, reverse or both
    #[arg(long, value_enum, default_value_t = Direction::Forward, hide_possible_values = true)]
    #[arg(value_name = "WAY")]
    direction: Direction,

    /// train (forward and backward) or infer
    #[arg(long, value_enum, default_value_t = Mode::Train, hide_possible_values = true)]
    #[arg(value_name = "MODE")]
    mode: Mode,

    /// full, or uniform between T/5 and T
    #[arg(long, value_enum, default_value_t = Lengths::Full, hide_possible_values = true)]
    #[arg(value_name = "L")]
    lengths: Lengths,

    /// Numbers of the products: f32 or bf16
    #[arg(long, value_enum, default_value_t = Numbers::F32, hide_possible_values = true)]
    #[arg(value_name = "P")]
    precision: Numbers,

    /// Call the kernels directly, without Burn
    #[arg(long)]
    kernel: bool,

    #[command(flatten)]
    measure: MeasureArgs,
}

/// `T`, `B` and `H`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Shape {
    time: usize,
    batch: usize,
    hidden: usize,
}

fn shape(text: &str) -> Result<Shape, String> {
    let sizes: Option<Vec<usize>> = text.split(',').map(|part| size(part.trim()).ok()).collect();
    match sizes.as_deref() {
        Some(&[time, batch, hidden]) => Ok(Shape { time, batch, hidden }),
        _ => Err("expected three whole numbers T,B,H from 1 to 65536, such as 64,32,256".into()),
    }
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Mode {
    Train,
    Infer,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Lengths {
    Full,
    Uniform,
}

#[derive(Clone, Copy, ValueEnum)]
enum Direction {
    Forward,
    Reverse,
    Both,
}

impl Direction {
    fn recurrent(self) -> recurrent::Direction {
        match self {
            Direction::Forward => recurrent::Direction::Forward,
            Direction::Reverse => recurrent::Direction::Reverse,
            Direction::Both => recurrent::Direction::Both,
        }
    }

    fn kernels(self) -> &'static [kernels::Direction] {
        use kernels::Direction::{Forward, Reverse};
        match self {
            Direction::Forward => &[Forward],
            Direction::Reverse => &[Reverse],
            Direction::Both => &[Forward, Reverse],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Direction::Forward => "forward",
            Direction::Reverse => "reverse",
            Direction::Both => "both",
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Numbers {
    F32,
    Bf16,
}

impl Numbers {
    fn name(self) -> &'static str {
        match self {
            Numbers::F32 => "f32",
            Numbers::Bf16 => "bf16",
        }
    }

    /// The precision, where this machine has it for such a layer.
    fn precision(self, cell: Cell) -> Result<Precision, BadUsage> {
        let precision = match self {
            Numbers::F32 => return Ok(Precision::F32),
            Numbers::Bf16 => Precision::Bf16,
        };
        if !precision.is_available() {
            let what =
                "--precision bf16: this processor has no AVX-512 BF16 instructions; use --precision f32";
            return Err(BadUsage(what.into()));
        }
        if cell == Cell::Gru(carousel::cell::Reset::Before) {
            let what = "--precision bf16: a GRU that resets before its product has no bf16 kernel; use f32";
            return Err(BadUsage(what.into()));
        }
        Ok(precision)
    }
}

/// What is timed, in numbers.
struct Case {
    cell: Cell,
    precision: Precision,
    shape: Shape,
    input: usize,
    layers: usize,
    direction: Direction,
    mode: Mode,
    lengths: Lengths,
    batch: Arc<Batch>,
    seed: u64,
}

impl Case {
    fn new(args: &LayerArgs) -> anyhow::Result<Case> {
        let Shape { time, batch, hidden } = args.shape;
        let input = args.input.unwrap_or(hidden);
        let (cell, directions) = (args.cell.cell(), args.direction.kernels().len());
        // Gates, states and outputs with their gradients, and weights with theirs and a packed copy.
        let passes = if args.mode == Mode::Train { 2.0 } else { 1.0 };
        let values = (directions * args.layers * (cell.gates() + 4) * hidden + input) as f64;
        let weights = multiply_adds(cell, input, hidden, args.layers, directions);
        check_memory(passes * ((time * batch) as f64 * values + 2.0 * weights))?;
        let seed = args.measure.seed();
        let batch = match args.lengths {
            Lengths::Full => Batch::full(batch, time),
            Lengths::Uniform => Batch::ragged(&uniform_lengths(batch, time, seed), time)?,
        };
        Ok(Case {
            cell,
            precision: args.precision.precision(cell)?,
            shape: args.shape,
            input,
            layers: args.layers,
            direction: args.direction,
            mode: args.mode,
            lengths: args.lengths,
            batch: Arc::new(batch),
            seed,
        })
    }

    fn operations(&self) -> f64 {
        let directions = self.direction.kernels().len();
        let one = multiply_adds(self.cell, self.input, self.shape.hidden, self.layers, directions);
        let passes = if self.mode == Mode::Train { 3.0 } else { 1.0 };
        2.0 * passes * one * self.batch.frames() as f64
    }

    /// Where the rows of the stack's input and output stand: as a `Tensor<3>`, or as a `Ragged`.
    fn layout(&self) -> Layout {
        if self.lengths == Lengths::Full { Layout::Padded } else { Layout::Packed }
    }

    fn x(&self) -> Vec<f32> {
        Initializer::new(self.seed).normal(self.batch.frames() * self.input)
    }

    fn stack(&self, device: &Device) -> anyhow::Result<Recurrent> {
        let config = RecurrentConfig::new(self.cell, self.input, self.shape.hidden)
            .with_layers(self.layers)
            .with_direction(self.direction.recurrent())
            .with_seed(self.seed);
        Ok(config.init(device)?.with_precision(self.precision))
    }

    /// Through the layer.
    fn layer(&self) -> anyhow::Result<Box<dyn FnMut()>> {
        let device = match self.mode {
            Mode::Train => Device::default().autodiff(),
            Mode::Infer => Device::default(),
        };
        let stack = self.stack(&device)?;
        let rows = TensorData::new(self.x(), [self.batch.frames(), self.input]);
        let mut x = Tensor::<2>::from_data(rows, &device);
        if self.mode == Mode::Train {
            x = x.require_grad();
        }
        let (batch, mode) = (self.batch.clone(), self.mode);
        let [time, sequences, width] = [self.shape.time, self.shape.batch, self.input];
        Ok(match self.lengths {
            Lengths::Full => Box::new(move || {
                let (y, _) = stack.forward(x.clone().reshape([sequences, time, width]), None);
                finish(y, mode);
            }),
            Lengths::Uniform => {
                let x = Ragged::new(x, batch)?;
                Box::new(move || {
                    let (y, _) = stack.forward(x.clone(), None);
                    finish(y.frames(), mode);
                })
            }
        })
    }

    /// Through the bare kernels.
    fn kernels(&self) -> anyhow::Result<Box<dyn FnMut()>> {
        let mut stack = BareStack::new(self)?;
        let mode = self.mode;
        Ok(Box::new(move || {
            stack.forward();
            if mode == Mode::Train {
                stack.backward();
            }
            black_box(&stack);
        }))
    }
}

/// What follows the forward pass: in training the backward pass of the outputs' sum.
fn finish<const D: usize>(y: Tensor<D>, mode: Mode) {
    match mode {
        Mode::Train => drop(black_box(y.sum().backward())),
        Mode::Infer => drop(black_box(y)),
    }
}

/// Lengths drawn evenly from `T/5` (rounded up) to `T`.
fn uniform_lengths(count: usize, time: usize, seed: u64) -> Vec<usize> {
    let shortest = time.div_ceil(5);
    let choices = (time - shortest + 1) as f32;
    let draw = |value: f32| shortest + ((value + 1.0) / 2.0 * choices) as usize;
    Initializer::new(seed).uniform(count, 1.0).into_iter().map(|value| draw(value).min(time)).collect()
}

pub(super) fn run(args: &LayerArgs) -> anyhow::Result<()> {
    let precision = args.precision.name();
    args.measure.apply()?;
    let case = Case::new(args)?;
    let work = if args.kernel { case.kernels()? } else { case.layer()? };
    let (peak, timing) = timed(args.measure.seconds, work);

    let Shape { time, batch, hidden } = case.shape;
    let (frames, padded) = (case.batch.frames(), time * batch);
    let (mode, what) = match case.mode {
        Mode::Train => ("train", "forward and backward"),
        Mode::Infer => ("infer", "forward"),
    };
    let path = if args.kernel { "kernel" } else { "layer" };
    let cell = args.cell.name();
    let measured = Measured {
        args: &args.measure,
        title: format!("{path}: {}, {what}, {precision}", cell.to_uppercase()),
        facts: vec![
            ("shape", format!("T {time}, B {batch}, I {}, H {hidden}", case.input)),
            ("stack", format!("{}, {}", counted(case.layers, "layer"), case.direction.name())),
            (
                "frames",
                format!(
                    "{}, {:.1} % of T x B",
                    counted(frames, "real frame"),
                    frames as f64 / padded as f64 * 100.0
                ),
            ),
        ],
        fields: json!({
            "bench": "layer",
            "cell": cell,
            "shape": [time, batch, hidden],
            "input": case.input,
            "layers": case.layers,
            "direction": case.direction.name(),
            "mode": mode,
            "lengths": case.batch.lengths(),
            "frames": frames,
            "real_share": frames as f64 / padded as f64,
            "precision": precision,
            "path": path,
        }),
        timing,
        operations: case.operations(),
        rates: vec![("frames", "frames/s", frames as f64)],
        part: None,
    };
    measured.print(peak)
}

/// One layer in one direction with all that its kernels read and write.
struct Bare {
    layer: kernels::Layer,
    /// `weight_ih`, `weight_hh`, `bias_ih`, `bias_hh`.
    weights: [Vec<f32>; 4],
    gradients: [Vec<f32>; 4],
    tape: kernels::Tape,
    /// Where no backward pass follows.
    packed: Option<kernels::PackedWeights>,
    /// Its columns of the output.
    offset: usize,
}

/// Weights as the kernels read them.
fn lent([input, recurrent, bias_input, bias_recurrent]: &[Vec<f32>; 4]) -> kernels::Weights<'_> {
    kernels::Weights { input, recurrent, bias_input, bias_recurrent, options: &[] }
}

/// A buffer of frames.
struct Rows {
    values: Vec<f32>,
    gradients: Vec<f32>,
    layout: Layout,
    width: usize,
}

impl Rows {
    fn new(batch: &Batch, layout: Layout, width: usize, gradient: f32) -> Rows {
        let floats = batch.rows(layout) * width;
        Rows { values: vec![0.0; floats], gradients: vec![gradient; floats], layout, width }
    }
}

fn frames<'a>(data: &'a [f32], layout: Layout, stride: usize, offset: usize) -> kernels::Frames<'a> {
    kernels::Frames { data, layout, stride, offset }
}

fn frames_mut<'a>(
    data: &'a mut [f32],
    layout: Layout,
    stride: usize,
    offset: usize,
) -> kernels::FramesMut<'a> {
    kernels::FramesMut { data, layout, stride, offset }
}

/// The stack as `Recurrent` would run it, but with every buffer made beforehand.
struct BareStack {
    batch: Arc<Batch>,
    layers: Vec<Vec<Bare>>,
    /// The input, then each layer's output.
    rows: Vec<Rows>,
}

impl BareStack {
    fn new(case: &Case) -> anyhow::Result<BareStack> {
        let stack = case.stack(&Device::default())?;
        let directions = case.direction.kernels();
        let (hidden, batch) = (case.shape.hidden, case.batch.clone());
        let mut rows = vec![Rows::new(&batch, case.layout(), case.input, 0.0)];
        rows[0].values = case.x();
        let mut weights = stack.weights().iter();
        let mut layers = Vec::new();
        for index in 0..case.layers {
            let input = rows[index].width;
            let last = index + 1 == case.layers;
            let layout = if last { case.layout() } else { Layout::Packed };
            let gradient = if last { 1.0 } else { 0.0 };
            rows.push(Rows::new(&batch, layout, hidden * directions.len(), gradient));
            let bare =
                directions.iter().zip(&mut weights).enumerate().map(|(place, (&direction, weights))| {
                    let weights = [
                        carousel::slices::with_slice(&weights.weight_ih.val(), <[f32]>::to_vec),
                        carousel::slices::with_slice(&weights.weight_hh.val(), <[f32]>::to_vec),
                        carousel::slices::with_slice(&weights.bias_ih.val(), <[f32]>::to_vec),
                        carousel::slices::with_slice(&weights.bias_hh.val(), <[f32]>::to_vec),
                    ];
                    let layer = kernels::Layer {
                        cell: case.cell,
                        direction,
                        input,
                        hidden,
                        precision: case.precision,
                        zoneout: kernels::Zoneout::NONE,
                        options: kernels::CellOptions::PLAIN,
                    };
                    let (packed, gradients) = match case.mode {
                        Mode::Infer => {
                            (Some(kernels::PackedWeights::new(&layer, lent(&weights))?), Default::default())
                        }
                        Mode::Train => (None, weights.clone()),
                    };
                    let (tape, offset) = (kernels::Tape::default(), place * hidden);
                    Ok(Bare { layer, weights, gradients, tape, packed, offset })
                });
            layers.push(bare.collect::<anyhow::Result<Vec<Bare>>>()?);
        }
        Ok(BareStack { batch, layers, rows })
    }

    fn forward(&mut self) {
        for (index, directions) in self.layers.iter_mut().enumerate() {
            let (below, above) = self.rows.split_at_mut(index + 1);
            let (x, y) = (&below[index], &mut above[0]);
            for bare in directions {
                let (from, to) = (kernels::State::default(), kernels::StateMut::default());
                let x = frames(&x.values, x.layout, x.width, 0);
                let y = frames_mut(&mut y.values, y.layout, y.width, bare.offset);
                let Bare { layer, weights, tape, packed, .. } = bare;
                match packed {
                    Some(packed) => kernels::forward_packed(packed, &self.batch, x, from, y, to),
                    None => {
                        let weights = lent(weights);
                        kernels::forward(layer, &self.batch, weights, x, from, y, to, Some(tape))
                    }
                }
                .expect("every buffer was made for this layer");
            }
        }
    }

    fn backward(&mut self) {
        for (index, directions) in self.layers.iter_mut().enumerate().rev() {
            let (below, above) = self.rows.split_at_mut(index + 1);
            let (x, y) = (&mut below[index], &above[0]);
            for bare in directions {
                let Bare { layer, weights, gradients, tape, offset, .. } = bare;
                let [d_input, d_recurrent, d_bias_input, d_bias_recurrent] = gradients;
                let dx = frames_mut(&mut x.gradients, x.layout, x.width, 0);
                kernels::backward(
                    layer,
                    &self.batch,
                    lent(weights),
                    tape,
                    frames(&x.values, x.layout, x.width, 0),
                    Some(frames(&y.gradients, y.layout, y.width, *offset)),
                    kernels::State::default(),
                    match *offset {
                        0 => kernels::InputGradients::Write(dx),
                        _ => kernels::InputGradients::Add(dx),
                    },
                    kernels::StateMut::default(),
                    kernels::WeightGradients {
                        input: d_input,
                        recurrent: d_recurrent,
                        bias_input: d_bias_input,
                        bias_recurrent: d_bias_recurrent,
                        options: &mut [],
                    },
                )
                .expect("every buffer was made for this layer");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_spread_from_a_fifth_to_the_whole() {
        let lengths = uniform_lengths(2000, 64, 1);
        let bounds = (lengths.iter().min().copied(), lengths.iter().max().copied());
        assert_eq!(bounds, (Some(13), Some(64)));
        let mean = lengths.iter().sum::<usize>() as f64 / 2000.0;
        // Five standard errors of a uniform choice among 52.
        assert!((mean - 38.5).abs() < 1.7, "{mean}");
        assert_ne!(lengths, uniform_lengths(2000, 64, 2));
        assert_eq!(uniform_lengths(3, 1, 1), [1, 1, 1]);
    }

    #[test]
    fn shapes_are_three_numbers() {
        assert_eq!(shape("64,32,256"), Ok(Shape { time: 64, batch: 32, hidden: 256 }));
        for bad in ["", "64", "64,32", "64,32,256,1", "0,1,1", "1,-1,1", "1,1,65537", "a,b,c"] {
            assert!(shape(bad).is_err(), "{bad}");
        }
    }

    /// The two paths that are timed compute the same.
    #[test]
    fn the_bare_kernels_do_what_the_layer_does() {
        for lengths in [Lengths::Full, Lengths::Uniform] {
            let batch = match lengths {
                Lengths::Full => Batch::full(3, 5),
                Lengths::Uniform => Batch::ragged(&[2, 5, 3], 5).expect("they fit"),
            };
            let case = Case {
                cell: Cell::Lstm,
                precision: Precision::F32,
                shape: Shape { time: 5, batch: 3, hidden: 7 },
                input: 4,
                layers: 2,
                direction: Direction::Both,
                mode: Mode::Train,
                lengths,
                batch: Arc::new(batch),
                seed: 3,
            };
            let mut bare = BareStack::new(&case).expect("sizes are fine");
            bare.forward();
            bare.backward();

            let device = Device::default().autodiff();
            let stack = case.stack(&device).expect("sizes are fine");
            let rows = TensorData::new(case.x(), [case.batch.frames(), case.input]);
            let x = Tensor::<2>::from_data(rows, &device).require_grad();
            let y: Tensor<2> = match lengths {
                Lengths::Full => stack.forward(x.clone().reshape([3, 5, 4]), None).0.reshape([15, 14]),
                Lengths::Uniform => {
                    let ragged = Ragged::new(x.clone(), case.batch.clone()).expect("rows are frames");
                    stack.forward(ragged, None).0.frames()
                }
            };
            let values = |tensor: &Tensor<2>| carousel::slices::with_slice(tensor, <[f32]>::to_vec);
            assert_eq!(values(&y), bare.rows[2].values);
            let gradients = y.sum().backward();
            let dx = x.grad(&gradients).expect("it was asked for");
            assert_eq!(values(&dx), bare.rows[0].gradients);
            for (weights, bare) in stack.weights().iter().zip(bare.layers.iter().flatten()) {
                let gradient = weights.weight_hh.val().grad(&gradients).expect("it was asked for");
                assert_eq!(values(&gradient), bare.gradients[1]);
            }
        }
    }
}
