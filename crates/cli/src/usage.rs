//! What a command line may say: the error of one that cannot be meant, and whole numbers.

use std::str::FromStr;

/// What was asked for cannot be meant: exit status 2 instead of 1.
#[derive(Debug)]
pub(crate) struct BadUsage(pub(crate) String);

impl std::fmt::Display for BadUsage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadUsage {}

impl BadUsage {
    pub(crate) fn from(error: impl std::fmt::Display) -> BadUsage {
        BadUsage(error.to_string())
    }
}

/// A whole number from 0.
pub(crate) fn whole<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "expected a whole number from 0".to_owned())
}
