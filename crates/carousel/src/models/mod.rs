//! Whole models.

pub mod language_model;
