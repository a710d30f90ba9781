//! What the kernels' tests share: seeded numbers, random problems, comparison.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use carousel_kernels::reference;
use carousel_kernels::*;
use std::sync::{Mutex, MutexGuard};

pub mod fixtures;
pub mod training;

/// A small seeded generator (xorshift64*), so that failures repeat.
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Numbers {
        Numbers(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn integer(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize) % below
    }

    /// Uniform in [-1, 1).
    pub fn float(&mut self) -> f32 {
        (self.integer(1 << 24) as f32 / (1 << 23) as f32) - 1.0
    }

    pub fn floats(&mut self, count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|_| self.float() * scale).collect()
    }
}

pub const CELLS: [Cell; 5] = [
    Cell::Rnn(Activation::Tanh),
    Cell::Rnn(Activation::Relu),
    Cell::Lstm,
    Cell::Gru(Reset::After),
    Cell::Gru(Reset::Before),
];

/// Every cell with every option that it can have.
pub fn cells_with_options() -> Vec<(Cell, CellOptions)> {
    let mut all = Vec::new();
    let vanilla = Activation::ALL.map(Cell::Rnn);
    for cell in vanilla.into_iter().chain([Cell::Lstm, Cell::Gru(Reset::After), Cell::Gru(Reset::Before)]) {
        for norm in [false, true] {
            for peephole in [false, true] {
                for gate in [GateActivation::Sigmoid, GateActivation::HardSigmoid] {
                    let options = CellOptions { norm, peephole, gate, ..CellOptions::PLAIN };
                    let fits = match cell {
                        Cell::Rnn(_) => !peephole && gate == GateActivation::Sigmoid,
                        Cell::Gru(_) => !peephole,
                        Cell::Lstm => true,
                    };
                    if fits && !(CELLS.contains(&cell) && options == CellOptions::PLAIN) {
                        all.push((cell, options));
                    }
                }
            }
        }
    }
    all.extend(candidates());
    all
}

/// Gated cells whose candidate has every other non-linearity, alone and beside other options.
pub fn candidates() -> Vec<(Cell, CellOptions)> {
    let mut all = Vec::new();
    for cell in [Cell::Lstm, Cell::Gru(Reset::After), Cell::Gru(Reset::Before)] {
        for (index, activation) in Activation::ALL.into_iter().skip(1).enumerate() {
            let plain = CellOptions { activation, ..CellOptions::PLAIN };
            all.push((cell, plain));
            // Two of the others beside it, in turns.
            let peephole = cell == Cell::Lstm && index % 2 == 0;
            let gate = if index % 3 == 0 { GateActivation::HardSigmoid } else { GateActivation::Sigmoid };
            all.push((cell, CellOptions { norm: index % 2 == 1, peephole, gate, ..plain }));
        }
    }
    all
}

/// The options of an LSTM of `hidden` units that projects them to fewer, beside all others; none where there are not
/// fewer.
pub fn projections(hidden: usize) -> Vec<CellOptions> {
    let others = cells_with_options().into_iter().filter(|(cell, _)| *cell == Cell::Lstm);
    let all = [CellOptions::PLAIN].into_iter().chain(others.map(|(_, options)| options));
    let fewer = hidden * 3 / 5;
    all.filter(|_| fewer > 0).map(|options| CellOptions { projection: Some(fewer), ..options }).collect()
}

/// One layer with everything that goes in, as f32.
#[derive(Clone)]
pub struct Problem {
    pub layer: Layer,
    pub batch: Batch,
    pub weights: reference::Weights<f32>,
    pub x: Vec<f32>,
    pub initial: reference::State<f32>,
    pub dy: Vec<f32>,
    pub dlast: reference::State<f32>,
    /// What is left to chance.
    pub noise: Option<Noise>,
}

/// An owned [`StepNoise`].
#[derive(Clone)]
pub struct Noise {
    pub key: u64,
    pub recurrent: f32,
    pub update: f32,
    pub names: Vec<u32>,
}

impl Noise {
    pub fn lend(&self) -> StepNoise<'_> {
        let Noise { key, recurrent, update, names } = self;
        StepNoise { key: *key, free: *key, recurrent: *recurrent, update: *update, names }
    }
}

impl Problem {
    pub fn random(layer: Layer, batch: Batch, seed: u64) -> Problem {
        let mut numbers = Numbers::new(seed);
        let mut options = Numbers::new(seed + 1);
        let (w, u, bias) = layer.weight_lengths();
        let scale = 1.0 / (layer.hidden as f32).sqrt();
        let frames = batch.sequences() * batch.time();
        let states = batch.sequences() * layer.hidden;
        let values = batch.sequences() * layer.output();
        let c = if layer.cell.has_cell_state() { 1.0 } else { 0.0 };
        let projection = layer.options.projection.unwrap_or(0) * layer.hidden;
        let terms = layer.option_length() - projection;
        Problem {
            weights: reference::Weights {
                input: numbers.floats(w, scale),
                recurrent: numbers.floats(u, scale),
                bias_input: numbers.floats(bias, 0.5),
                bias_recurrent: numbers.floats(bias, 0.5),
                // Gains and peepholes around one, so that each counts; a projection as other weights.
                options: {
                    let mut all: Vec<f32> = options.floats(terms, 0.5).iter().map(|v| 1.0 + v).collect();
                    all.extend(options.floats(projection, 2.0 * scale));
                    all
                },
            },
            x: numbers.floats(frames * layer.input, 1.0),
            initial: reference::State { h: numbers.floats(values, 1.0), c: numbers.floats(states, c) },
            dy: numbers.floats(frames * layer.output(), 1.0),
            dlast: reference::State { h: numbers.floats(values, 1.0), c: numbers.floats(states, c) },
            layer,
            batch,
            noise: None,
        }
    }

    /// The same with probabilities to zone out `h` and `c` and to drop out of `h` and the update. Without `draws`
    /// zoneout takes its mean. What the cell has not is left out.
    pub fn with_chance(mut self, [hidden, cell, recurrent, update]: [f32; 4], draws: bool) -> Problem {
        let has_c = self.layer.cell.has_cell_state();
        self.layer.zoneout = Zoneout { hidden, cell: if has_c { cell } else { 0.0 } };
        let update = if matches!(self.layer.cell, Cell::Rnn(_)) { 0.0 } else { update };
        let names = (0..self.batch.sequences() as u32).map(|b| 40 - b).collect();
        self.noise = draws.then_some(Noise { key: 5, recurrent, update, names });
        self
    }

    pub fn weights(&self) -> Weights<'_> {
        Weights {
            input: &self.weights.input,
            recurrent: &self.weights.recurrent,
            bias_input: &self.weights.bias_input,
            bias_recurrent: &self.weights.bias_recurrent,
            options: &self.weights.options,
        }
    }

    fn c<'a>(&self, c: &'a [f32]) -> Option<&'a [f32]> {
        self.layer.cell.has_cell_state().then_some(c)
    }

    /// Padded rows of `x`, `dy` (`width` floats a row) that belong to no sequence get this value.
    pub fn poison(&mut self, value: f32) {
        for (b, &length) in self.batch.lengths().iter().enumerate() {
            let (from, to) = (b * self.batch.time() + length, (b + 1) * self.batch.time());
            self.x[from * self.layer.input..to * self.layer.input].fill(value);
            self.dy[from * self.layer.output()..to * self.layer.output()].fill(value);
        }
    }

    /// The fused kernels' answer: outputs, final state, all gradients.
    pub fn fused(&self, tape: &mut Tape) -> (Vec<f32>, reference::State<f32>, reference::Gradients<f32>) {
        let stride = self.layer.input;
        self.fused_on(
            Inputs::Frames(Frames { data: &self.x, layout: Layout::Padded, stride, offset: 0 }),
            tape,
        )
    }

    /// The same on other inputs.
    pub fn fused_on(
        &self,
        x: Inputs<'_>,
        tape: &mut Tape,
    ) -> (Vec<f32>, reference::State<f32>, reference::Gradients<f32>) {
        let Problem { layer, batch, .. } = self;
        let floats = match x {
            Inputs::Frames(x) => x.data.len(),
            Inputs::Rows { data, .. } => data.len(),
        };
        let (w, u, bias) = layer.weight_lengths();
        let states = batch.sequences() * layer.hidden;
        let nan = f32::NAN;
        let mut y = vec![nan; self.dy.len()];
        let mut last = reference::State { h: vec![nan; self.initial.h.len()], c: vec![0.0; states] };
        let mut d = reference::Gradients {
            x: vec![nan; floats],
            initial: last.clone(),
            weights: reference::Weights {
                input: vec![nan; w],
                recurrent: vec![nan; u],
                bias_input: vec![nan; bias],
                bias_recurrent: vec![nan; bias],
                options: vec![nan; layer.option_length()],
            },
        };
        let rows = |data| Frames { data, layout: Layout::Padded, stride: layer.output(), offset: 0 };
        let has_c = layer.cell.has_cell_state();
        let state = State { h: Some(&self.initial.h), c: self.c(&self.initial.c) };
        let to = FramesMut { data: &mut y, layout: Layout::Padded, stride: layer.output(), offset: 0 };
        let end = StateMut { h: Some(&mut last.h), c: has_c.then_some(&mut last.c[..]) };
        match &self.noise {
            None => forward(layer, batch, self.weights(), x, state, to, end, Some(tape)),
            Some(noise) => {
                forward_noisy(layer, batch, self.weights(), noise.lend(), x, state, to, end, Some(tape))
            }
        }
        .unwrap();
        let dx = FramesMut { data: &mut d.x, layout: Layout::Padded, stride: layer.input, offset: 0 };
        backward(
            layer,
            batch,
            self.weights(),
            tape,
            x,
            Some(rows(&self.dy)),
            State { h: Some(&self.dlast.h), c: self.c(&self.dlast.c) },
            InputGradients::Write(dx),
            StateMut { h: Some(&mut d.initial.h), c: has_c.then_some(&mut d.initial.c[..]) },
            WeightGradients {
                input: &mut d.weights.input,
                recurrent: &mut d.weights.recurrent,
                bias_input: &mut d.weights.bias_input,
                bias_recurrent: &mut d.weights.bias_recurrent,
                options: &mut d.weights.options,
            },
        )
        .unwrap();
        (y, last, d)
    }

    /// Outputs and final state of a pass that no backward pass follows.
    pub fn infer(&self) -> (Vec<f32>, reference::State<f32>) {
        self.infer_with(None)
    }

    /// The same with weights that were packed before; without chance.
    pub fn infer_packed(&self, packed: &PackedWeights) -> (Vec<f32>, reference::State<f32>) {
        self.infer_with(Some(packed))
    }

    fn infer_with(&self, packed: Option<&PackedWeights>) -> (Vec<f32>, reference::State<f32>) {
        let Problem { layer, batch, .. } = self;
        let states = batch.sequences() * layer.hidden;
        let mut y = vec![f32::NAN; self.dy.len()];
        let mut last = reference::State { h: vec![f32::NAN; self.initial.h.len()], c: vec![0.0; states] };
        let x = Frames { data: &self.x, layout: Layout::Padded, stride: layer.input, offset: 0 };
        let state = State { h: Some(&self.initial.h), c: self.c(&self.initial.c) };
        let to = FramesMut { data: &mut y, layout: Layout::Padded, stride: layer.output(), offset: 0 };
        let c = layer.cell.has_cell_state().then_some(&mut last.c[..]);
        let end = StateMut { h: Some(&mut last.h), c };
        match (&self.noise, packed) {
            (_, Some(packed)) => forward_packed(packed, batch, x, state, to, end),
            (None, None) => forward(layer, batch, self.weights(), x, state, to, end, None),
            (Some(noise), None) => {
                forward_noisy(layer, batch, self.weights(), noise.lend(), x, state, to, end, None)
            }
        }
        .unwrap();
        (y, last)
    }

    /// The reference's answer in f64.
    pub fn reference(&self) -> (Vec<f64>, reference::State<f64>, reference::Gradients<f64>) {
        let weights = reference::Weights {
            input: wide(&self.weights.input),
            recurrent: wide(&self.weights.recurrent),
            bias_input: wide(&self.weights.bias_input),
            bias_recurrent: wide(&self.weights.bias_recurrent),
            options: wide(&self.weights.options),
        };
        let state = |s: &reference::State<f32>| reference::State { h: wide(&s.h), c: wide(&s.c) };
        let (x, initial) = (wide(&self.x), state(&self.initial));
        let noise = self.noise.as_ref().map(Noise::lend);
        let noise = noise.as_ref();
        let (y, last) = reference::forward(&self.layer, &self.batch, &weights, &x, &initial, noise);
        let d = reference::backward(
            &self.layer,
            &self.batch,
            &weights,
            &x,
            &initial,
            &wide(&self.dy),
            &state(&self.dlast),
            noise,
        );
        (y, last, d)
    }
}

pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

/// `max|a - b| <= tolerance · max|b|`, and nothing is NaN.
pub fn close(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}: lengths");
    let largest = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    for (i, (&a, &b)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(a) - b).abs();
        assert!(
            error <= tolerance * largest.max(1e-6),
            "{what}[{i}]: found {a}, expected {b}, largest {largest}"
        );
    }
}

/// Compares everything a pass gives.
pub fn compare(
    what: &str,
    found: &(Vec<f32>, reference::State<f32>, reference::Gradients<f32>),
    expected: &(Vec<f64>, reference::State<f64>, reference::Gradients<f64>),
    tolerance: f64,
) {
    let (y, last, d) = found;
    let (ey, elast, ed) = expected;
    let pairs: [(&str, &[f32], &[f64]); 11] = [
        ("y", y, ey),
        ("final h", &last.h, &elast.h),
        ("final c", &last.c, &elast.c),
        ("dx", &d.x, &ed.x),
        ("dh0", &d.initial.h, &ed.initial.h),
        ("dc0", &d.initial.c, &ed.initial.c),
        ("d input weight", &d.weights.input, &ed.weights.input),
        ("d recurrent weight", &d.weights.recurrent, &ed.weights.recurrent),
        ("d input bias", &d.weights.bias_input, &ed.weights.bias_input),
        ("d recurrent bias", &d.weights.bias_recurrent, &ed.weights.bias_recurrent),
        ("d options", &d.weights.options, &ed.weights.options),
    ];
    for (name, found, expected) in pairs {
        close(&format!("{what}: {name}"), found, expected, tolerance);
    }
}

/// Level and threads belong to the process, so tests that set them take turns.
static SETTINGS: Mutex<()> = Mutex::new(());

pub fn settings() -> MutexGuard<'static, ()> {
    SETTINGS.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Runs `check` at every level with every number of threads.
pub fn everywhere(mut check: impl FnMut(Level, usize)) {
    let _turn = settings();
    for &level in Level::available() {
        assert!(level.force());
        for threads in [1, 2, 3, 8] {
            set_threads(threads);
            check(level, threads);
        }
        println!("checked at {level:?}");
    }
}
