//! Fused recurrent kernels on the CPU: slices in, slices out.
//!
//! A whole sequence is one call. The vanilla RNN, the LSTM and the GRU are here, forward and backward
//! (backpropagation through time), over ragged batches, at the instruction level the processor has.
//!
//! Gate order and weight layout are PyTorch's: i f g o for the LSTM, r z n for the GRU; `weight_ih` is
//! `[G·H, I]`, `weight_hh` is `[G·H, H]`. Equations stand above the code in `cell/`; the specification in
//! plain loops is [`mod@reference`].
//!
//! What is deliberately absent: this crate names no tensor library, reads no file, looks at no
//! environment variable, and prints nothing. `unsafe` lives in `simd/`, `team.rs`, `disjoint.rs` and
//! `memory.rs`.
//!
//! # Bits and threads
//! At one [`Level`], results are equal to the bit for every number of threads: each output element is one
//! chain of multiply-adds in a fixed order, whoever computes it.

#![deny(unsafe_code)]
// Tiles are walked by row and vector, over several arrays at once.
#![allow(clippy::needless_range_loop)]

pub mod attention;
mod cell;
mod chance;
#[allow(unsafe_code)]
mod disjoint;
pub mod dropout;
pub mod embedding;
mod gemm;
mod grid;
mod layer;
mod linear;
pub mod loss;
#[allow(unsafe_code)]
pub mod memory;
mod operands;
pub mod optim;
mod pack;
mod packed;
mod peak;
pub mod penalty;
mod quant;
mod record;
pub mod reference;
mod rowwise;
mod shape;
#[allow(unsafe_code)]
mod simd;
mod sizes;
mod step;
mod tape;
#[allow(unsafe_code)]
mod team;

pub use chance::{StepMask, StepNoise};
pub use layer::{backward, forward, forward_noisy, forward_packed};
pub use linear::Linear;
pub use operands::{Frames, FramesMut, InputGradients, Inputs, State, StateMut, WeightGradients, Weights};
pub use packed::PackedWeights;
pub use peak::fma_peak;
pub use record::Signal;
pub use shape::{
    Activation, Batch, Cell, CellOptions, Direction, GateActivation, Layer, Layout, Reset, ShapeError,
    Zoneout,
};
pub use simd::{Level, Precision};
pub use step::{StepPrecision, Stepper};
pub use tape::Tape;
pub use team::{MAX_THREADS, set_threads, threads};
