//! The options of the machine, which verbs share: threads, device, what recurrent weights are kept in.

use std::num::NonZeroUsize;

use carousel::stepper::StepPrecision;
use carousel_kernels::MAX_THREADS;
use clap::{Args, ValueEnum};

/// Where and how a verb computes.
#[derive(Args)]
pub(crate) struct MachineArgs {
    /// Threads to compute with [default: all cores]
    #[arg(long, value_name = "N", value_parser = threads, allow_negative_numbers = true, help_heading = "Machine")]
    pub(crate) threads: Option<usize>,

    /// Device to compute on; only cpu so far
    #[arg(
        long,
        value_name = "DEVICE",
        default_value = "cpu",
        hide_possible_values = true,
        help_heading = "Machine"
    )]
    device: Device,
}

impl MachineArgs {
    /// Sets the threads of the process, and what becomes of its memory.
    pub(crate) fn apply(&self) {
        carousel_kernels::memory::keep_freed();
        let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(MAX_THREADS);
        match self.device {
            Device::Cpu => carousel_kernels::set_threads(self.threads.unwrap_or_else(cores)),
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Device {
    Cpu,
}

fn threads(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|threads| (1..=MAX_THREADS).contains(threads))
        .ok_or_else(|| format!("expected a whole number from 1 to {MAX_THREADS}"))
}

/// What a verb that runs a model keeps the recurrent weights in.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Precision {
    /// 32-bit floats, as they were trained
    F32,
    /// 8-bit integers with a scale a row: a quarter of the memory, nearly the same loss
    Int8,
}

impl Precision {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Int8 => "int8",
        }
    }

    pub(crate) fn step(self) -> StepPrecision {
        match self {
            Precision::F32 => StepPrecision::F32,
            Precision::Int8 => StepPrecision::Int8,
        }
    }
}
