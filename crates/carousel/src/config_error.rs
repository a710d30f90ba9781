//! The error of configurations.

/// Why a stack or a model could not be made.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ConfigError {
    /// A size is zero.
    #[error("{what} is 0, expected at least 1")]
    Zero {
        /// Which size.
        what: &'static str,
    },
    /// The forget bias is not a finite number.
    #[error("forget_bias is {found}, expected a finite number")]
    ForgetBias {
        /// What was given.
        found: f64,
    },
    /// What should drop out with a probability that is none.
    #[error("dropout {what} is {found}, expected a probability from 0 and below 1")]
    Drop {
        /// What drops out.
        what: &'static str,
        /// What was given.
        found: f64,
    },
    /// An option that the cell has nothing for.
    #[error("{what} needs a cell that has it, found {cell}")]
    NotOf {
        /// Which option.
        what: &'static str,
        /// The cell.
        cell: &'static str,
    },
    /// An embedding of another width than the hidden values cannot be the output layer's weight as well.
    #[error("a tied embedding has width {embedding}, expected that of the hidden values, {hidden}")]
    Tied {
        /// `E`.
        embedding: usize,
        /// `H`.
        hidden: usize,
    },
    /// Attention by a dot product compares vectors of one width.
    #[error(
        "attention by a dot product over places of {places} values, expected {hidden} as the hidden values have; \
         take general or additive attention, or add both directions of an encoder"
    )]
    Attended {
        /// Values of a place: of an encoder's state, or of a part of an image.
        places: usize,
        /// `H`.
        hidden: usize,
    },
    /// A projection that makes nothing smaller.
    #[error("the projection has {values} values, expected less than the hidden ones, {hidden}")]
    Projection {
        /// `P`.
        values: usize,
        /// `H`.
        hidden: usize,
    },
    /// A range or gain that no weights can be drawn with.
    #[error("the size of the {what} weights' distribution is {found}, expected a finite number above 0")]
    InitSize {
        /// Input or recurrent.
        what: &'static str,
        /// What was given.
        found: f64,
    },
    /// Chrono initialisation that gives no unit a time.
    #[error(
        "chrono initialisation of an {cell} over {longest} steps; it takes an lstm or a gru and at least 2"
    )]
    Chrono {
        /// The steps given.
        longest: usize,
        /// The cell.
        cell: &'static str,
    },
}
