//! A step of training as a program makes it, every kernel in turn, with buffers made beforehand.

use super::{Numbers, Problem};
use carousel_kernels::*;

/// Tokens of the embedding and of the output layer.
const VOCABULARY: usize = 11;

pub struct Training {
    problem: Problem,
    tape: Tape,
    ids: Vec<u32>,
    /// Rows of the embedding, of its gradient and its moments.
    table: Vec<f32>,
    dtable: Vec<f32>,
    moments: [Vec<f32>; 2],
    x: Vec<f32>,
    dx: Vec<f32>,
    y: Vec<f32>,
    dy: Vec<f32>,
    weights: [Vec<f32>; 4],
    output: Vec<f32>,
    doutput: Vec<f32>,
    steps: u64,
}

impl Training {
    pub fn new(layer: Layer, batch: Batch) -> Training {
        let mut numbers = Numbers::new(5);
        let frames = batch.frames();
        let (input, recurrent, bias) = layer.weight_lengths();
        let zeros = |length: usize| vec![0.0; length];
        let (table, output) = (VOCABULARY * layer.input, VOCABULARY * layer.hidden);
        Training {
            tape: Tape::default(),
            ids: (0..frames).map(|_| numbers.integer(VOCABULARY) as u32).collect(),
            table: numbers.floats(table, 1.0),
            dtable: zeros(table),
            moments: [zeros(table), zeros(table)],
            x: zeros(frames * layer.input),
            dx: zeros(frames * layer.input),
            y: zeros(frames * layer.hidden),
            dy: zeros(frames * layer.hidden),
            weights: [input, recurrent, bias, bias].map(zeros),
            output: numbers.floats(output, 0.1),
            doutput: zeros(output),
            problem: Problem::random(layer, batch, 3),
            steps: 0,
        }
    }

    /// One step; the loss in nats.
    pub fn step(&mut self) -> f64 {
        let Problem { layer, batch, .. } = &self.problem;
        let (input, hidden) = (layer.input, layer.hidden);
        let packed = Layout::Packed;
        embedding::gather(&self.table, input, &self.ids, &mut self.x).unwrap();
        let x = Frames { data: &self.x, layout: packed, stride: input, offset: 0 };
        forward(
            layer,
            batch,
            self.problem.weights(),
            x,
            State::default(),
            FramesMut { data: &mut self.y, layout: packed, stride: hidden, offset: 0 },
            StateMut { h: None, c: None },
            Some(&mut self.tape),
        )
        .unwrap();
        let loss = loss::cross_entropy_backward(
            loss::Output { weight: &self.output, bias: None },
            hidden,
            &self.y,
            &self.ids,
            loss::Objective { scale: 0.1, smoothing: 0.1 },
            loss::OutputGradients { x: &mut self.dy, weight: &mut self.doutput, bias: None },
        )
        .unwrap();
        let [d_input, d_recurrent, d_bias_input, d_bias_recurrent] = &mut self.weights;
        backward(
            layer,
            batch,
            self.problem.weights(),
            &mut self.tape,
            x,
            Some(Frames { data: &self.dy, layout: packed, stride: hidden, offset: 0 }),
            State::default(),
            InputGradients::Write(FramesMut { data: &mut self.dx, layout: packed, stride: input, offset: 0 }),
            StateMut { h: None, c: None },
            WeightGradients {
                input: d_input,
                recurrent: d_recurrent,
                bias_input: d_bias_input,
                bias_recurrent: d_bias_recurrent,
                options: &mut [],
            },
        )
        .unwrap();
        embedding::scatter(input, &self.ids, &self.dx, &mut self.dtable).unwrap();
        assert!(optim::sum_of_squares(&self.dtable).is_finite());
        assert!(optim::largest(&self.doutput).is_finite());
        self.steps += 1;
        let [first, second] = &mut self.moments;
        let adam = optim::Adam { learning_rate: 0.01, ..optim::Adam::default() };
        adam.step(self.steps, optim::Clip::NONE, &mut self.table, &self.dtable, first, second).unwrap();
        let sgd = optim::Sgd { learning_rate: 0.01, momentum: 0.0, weight_decay: 0.0 };
        sgd.step(optim::Clip::NONE, &mut self.output, &self.doutput, None).unwrap();
        loss.nats
    }
}
