//! The lens: what the units of a trained net have learned to follow, how their gates stand, how error flows
//! through them.
//!
//! Everything here reads a model and returns plain structs; models know nothing of it.

mod properties;
mod read;
mod text;

pub use properties::{Kind, Property, PropertyError};
pub use read::{Glimpse, Reading, Run, read};
pub use text::Text;
