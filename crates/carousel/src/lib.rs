//! Recurrent neural networks: train them, understand them, ship them.
//!
//! The recurrence is ours ([`carousel_kernels`], fused over whole sequences); everything around it is
//! [Burn](https://burn.dev). Start with [`recurrent::RecurrentConfig`] for a layer in your own model, or
//! with [`models::language_model`] for a whole one. ARCHITECTURE.md maps the rooms.

#![forbid(unsafe_code)]

#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
mod readme {}
#[cfg(doctest)]
#[doc = include_str!("../../../docs/course.md")]
mod course {}

pub mod batch_norm;
mod buffers;
mod calls;
pub mod cell;
pub mod config_error;
pub mod data;
pub mod decode;
pub mod embedding;
mod fused;
pub mod init;
mod layer;
pub mod lens;
mod lock;
pub mod metrics;
pub mod minimal;
pub mod models;
mod one_step;
mod operation;
pub mod output;
pub mod own_cell;
mod own_layer;
mod packed;
pub mod parameters;
pub mod path;
mod portable;
pub mod ragged;
pub mod recipe;
pub mod record;
pub mod recurrent;
pub mod regularize;
pub mod report;
pub mod run;
pub mod saved;
mod scan;
pub mod slices;
pub mod state;
mod statistics;
pub mod stepper;
mod tapes;
pub mod train;
mod walk;
