//! The lens: what the units of a trained net have learned to follow, how their gates stand, how error flows
//! through them.
//!
//! Everything here reads a model and returns plain structs; models know nothing of it.

mod activations;
mod cells;
mod errors;
mod film;
mod gates;
mod gradients;
mod jacobian;
mod ngram;
mod npz;
mod properties;
mod rankings;
mod read;
mod score;
mod surgery;
mod text;

pub use activations::{Activations, Unit};
pub use cells::{CellSearch, Finding, Probe, Scored, Search, search};
pub use errors::{Ahead, ErrorReport, Row, compare_errors};
pub use film::{Film, FilmSignal, FilmUnit, LIKELY, film};
pub use gates::{Gate, GateReport, SATURATED, watch_gates};
pub use gradients::{Flow, GradientFlow, Jacobian, LayerFlow, Start, follow_gradients};
pub use ngram::Ngrams;
pub use npz::{Array, NpzError, write_npz};
pub use properties::{Kind, Property, PropertyError};
pub use rankings::{Ranked, Rankings, passages, rank};
pub use read::{Glimpse, Reading, Run, read};
pub use surgery::{Control, Effect, Hold, Operation, Surgery, can_hold, hold, losses, operate};
pub use text::Text;
