//! Whole models.

pub mod language_model;
pub mod regressor;
