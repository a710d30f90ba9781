//! What translators and captioners write with: a decoder, what it is given of its sources, or subjects, and what it makes
//! of its steps.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use carousel_kernels::dropout::Mask;

use crate::cell::{Cell, CellOptions};
use crate::config_error::ConfigError;
use crate::embedding::Embedding;
use crate::init::Initializer;
use crate::models::attention::{Attention, Memory, Score};
use crate::models::dense::{Dense, DenseActivation, DenseConfig};
use crate::models::language_model::Regularize;
use crate::models::reader::Reader;
use crate::output::Output;
use crate::parameters::parts;
use crate::ragged::{Batch, Ragged};
use crate::recurrent::Precision;
use crate::regularize::{Noise, Purpose, Sharing, masked};
use crate::state::{State, index_tensor};
use crate::stepper::Stepper;

/// What a decoder is given of the sources, or subjects, of a batch.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// What it attends to: the encoder's states, or the places of a subject, `[S, E]` each.
    pub states: Ragged,
    /// What it starts from.
    pub state: State,
}

/// What a decoder makes of the steps of its targets.
#[derive(Clone, Debug)]
pub struct Hidden {
    /// The last recurrent layer's outputs, `[F, H]`; where that projects, `H` is what it projects to.
    pub recurrent: Tensor<2>,
    /// What the output layer reads, `[F, H]`: those after a look at the source and after dropout.
    pub read: Tensor<2>,
}

/// Sizes and options of a [`Decoder`] beside those of its recurrence.
pub(super) struct DecoderConfig {
    /// How it looks at what it attends to; `None`: all that is known of it is the first state.
    pub(super) attention: Option<Score>,
    /// `E`, values of what it attends to.
    pub(super) states: usize,
    /// Whether a step also reads what the output layer read at the one before.
    pub(super) feeds: bool,
    /// Whether the embedding is the output layer's weight as well.
    pub(super) tied: bool,
    /// What drops out while it learns.
    pub(super) regularize: Regularize,
}

/// The widths of what a decoder's first state is made of: `h` and, of an LSTM, `c` of layer 0, then of layer 1, …
pub(super) fn state_widths(cell: Cell, options: CellOptions, hidden: usize, layers: usize) -> Vec<usize> {
    let h = options.values(hidden);
    if cell.has_cell_state() { [h, hidden].repeat(layers) } else { vec![h; layers] }
}

/// Writes a text token by token: embedding, recurrence, attention, output layer.
#[derive(Module, Debug)]
pub(super) struct Decoder {
    /// Tokens to vectors.
    pub(super) target: Embedding,
    /// The recurrence.
    pub(super) recurrent: Reader,
    pub(super) attention: Option<Attention>,
    /// From what attention read and the step, `[E + H]`, to what the output layer reads, `[H]`.
    pub(super) combine: Option<Dense>,
    /// Vectors to scores.
    pub(super) output: Output,
    #[module(skip)]
    pub(super) hidden: usize,
    /// Whether a step also reads what the output layer read at the one before.
    #[module(skip)]
    pub(super) feeds: bool,
    #[module(skip)]
    tied: bool,
    #[module(skip)]
    regularize: Regularize,
}

impl Decoder {
    /// Around an embedding and a recurrence; draws what stands behind them.
    ///
    /// # Errors
    /// [`ConfigError`] when a size is zero, a tied embedding has another width than the hidden values, or attention
    /// needs states of another width.
    pub(super) fn around(
        target: Embedding,
        recurrent: Reader,
        config: &DecoderConfig,
        random: &mut Initializer,
        device: &Device,
    ) -> Result<Decoder, ConfigError> {
        let &DecoderConfig { attention, states, feeds, tied, regularize } = config;
        let hidden = recurrent.output_width();
        let [vocabulary, embedding] = target.weight.dims();
        if tied && embedding != hidden {
            return Err(ConfigError::Tied { embedding, hidden });
        }
        let attention = attention.map(|score| Attention::init(score, hidden, states, random, device));
        let attention = attention.transpose()?;
        let combine = attention.as_ref().map(|_| {
            DenseConfig::single(states + hidden, hidden, DenseActivation::Tanh).init(random, device)
        });
        let combine = combine.transpose()?;
        let output = Output::init(hidden, vocabulary, random, device)?
            .with_label_smoothing(regularize.label_smoothing);
        let mut decoder =
            Decoder { target, recurrent, attention, combine, output, hidden, feeds, tied, regularize };
        if tied {
            decoder.output.tie(&mut decoder.target.weight, random);
        }
        Ok(decoder)
    }

    /// What it makes of every step of its targets, which belong to the frames of `batch` and read `inputs`. With `noise`
    /// it learns, and values drop out.
    pub(super) fn forward(
        &self,
        inputs: &[u32],
        batch: &Arc<Batch>,
        encoded: Encoded,
        noise: Option<Noise>,
    ) -> Hidden {
        let Encoded { states, state } = encoded;
        let (rows, index) = self.target.distinct_noisy(inputs, self.word_mask(noise));
        let (recurrent, y) = if self.feeds {
            let memory = self.attention.as_ref().map(|attention| attention.memory(&states));
            self.walk(&rows, &index, batch, (state, memory), noise)
        } else {
            let y = self.recurrent.forward_rows(rows, index, batch, Some(state), noise).frames;
            let read = match (&self.attention, &self.combine) {
                (Some(attention), Some(combine)) => attention.join(combine, y.clone(), batch, &states),
                _ => y.clone(),
            };
            (y, read)
        };
        let locked = self.regularize.recurrent.locked;
        let names: Vec<u32> = (0..batch.sequences() as u32).collect();
        let mask = noise.and_then(|noise| noise.mask(Purpose::Output, 0, self.regularize.output));
        Hidden { recurrent, read: masked(y, mask, Sharing::of(locked, batch, &names)) }
    }

    /// Step by step, for a step reads what came of the one before: the decoder's outputs, and those after a look at
    /// the source, `[F, H]` each.
    fn walk(
        &self,
        rows: &Tensor<2>,
        index: &[u32],
        batch: &Batch,
        (state, memory): (State, Option<Memory>),
        noise: Option<Noise>,
    ) -> (Tensor<2>, Tensor<2>) {
        let device = rows.device();
        // Longest first: those that go on are the first ones.
        let mut state = state.select(batch.order());
        let mut memory = memory.map(|memory| memory.select(batch.order()));
        let mut read = Tensor::zeros([batch.sequences(), self.hidden], &device);
        let (mut outputs, mut reads) = (Vec::new(), Vec::new());
        for step in 0..batch.steps() {
            let (frames, alive) = (batch.starts()[step], batch.alive(step));
            if alive < state.sequences() {
                let first: Vec<usize> = (0..alive).collect();
                state = state.select(&first);
                memory = memory.map(|memory| memory.select(&first));
                read = read.slice([0..alive, 0..self.hidden]);
            }
            let words = index[frames..frames + alive].iter().map(|&row| i64::from(row)).collect();
            let words = rows.clone().select(0, index_tensor(words, &device));
            let now = Arc::new(Batch::full(alive, 1));
            let noise = noise.map(|noise| noise.part(step as u64));
            let reading =
                self.recurrent.forward_frames(Tensor::cat(vec![words, read], 1), &now, Some(state), noise);
            state = reading.state.expect("a decoder has a recurrence");
            let y = reading.frames.clone();
            read = match (&self.attention, &self.combine, &memory) {
                (Some(attention), Some(combine), Some(memory)) => {
                    attention.join_memory(combine, y, &now, memory)
                }
                _ => y,
            };
            outputs.push(reading.frames);
            reads.push(read.clone());
        }
        (Tensor::cat(outputs, 0), Tensor::cat(reads, 0))
    }

    /// Which tokens' vectors drop out.
    pub(super) fn word_mask(&self, noise: Option<Noise>) -> Option<Mask> {
        noise.and_then(|noise| noise.mask(Purpose::Words, 0, self.regularize.words))
    }

    /// What it attends to, for steps that look one by one; `None` where it has no attention.
    pub(super) fn kept(&self, states: &Ragged) -> Option<carousel_kernels::attention::Memory> {
        let (attention, combine) = self.attention.as_ref().zip(self.combine.as_ref())?;
        Some(attention.kept(combine, states))
    }

    /// For writing `rows` texts side by side.
    pub(super) fn stepper(&self, rows: usize) -> Stepper {
        self.recurrent.branching_stepper(rows).expect("a decoder walks forward")
    }

    /// The output layer, with the embedding's weight where that is tied.
    pub(super) fn output(&self) -> Output {
        if self.tied { self.output.sharing(&self.target.weight) } else { self.output.clone() }
    }

    /// Chooses what the recurrent layers multiply.
    pub(super) fn with_precision(self, precision: Precision) -> Decoder {
        Decoder { recurrent: self.recurrent.with_precision(precision), ..self }
    }
}

parts! {
    /// `target.weight`, `decoder.recurrent.…`, `attention.…`, `combine.…`, `output.…`, as far as there are.
    Decoder { "target": target, "decoder": recurrent, "attention": attention, "combine": combine, "output": output }
}
