//! Whole models. They know neither files nor training.

pub mod attention;
pub mod captioner;
pub mod classifier;
pub mod convolution;
pub mod crf;
pub mod decoder;
pub mod dense;
pub mod forecaster;
pub mod language_model;
pub mod pool;
pub mod reader;
pub mod regressor;
pub mod tagger;
pub mod translator;
pub mod writer;
