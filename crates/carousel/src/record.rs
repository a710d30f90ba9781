//! Keeps what the cells of a stack had at every step: states and gates, under the names of their equations.
//!
//! [`Recurrent::forward_recorded`](crate::recurrent::Recurrent::forward_recorded) records whole sequences,
//! [`Stepper::record`](crate::stepper::Stepper::record) one step. The kernels leave all of this behind anyway:
//! recording costs a copy of what is kept.

use carousel_kernels::Direction;

/// What a recording keeps.
///
/// ```
/// use carousel::record::Keep;
///
/// let keep = Keep::signals(["h", "f"]).with_layers([1]);
/// assert!(keep.wants(1, "f"));
/// assert!(!keep.wants(0, "f") && !keep.wants(1, "c"));
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Keep {
    signals: Option<Vec<String>>,
    layers: Option<Vec<usize>>,
}

impl Keep {
    /// Every signal of every layer.
    pub fn all() -> Keep {
        Keep::default()
    }

    /// The signals of these names. A name that a cell does not expose keeps nothing of it.
    pub fn signals<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Keep {
        Keep { signals: Some(names.into_iter().map(Into::into).collect()), layers: None }
    }

    /// Of these layers only, counted from 0 at the input.
    pub fn with_layers(self, layers: impl IntoIterator<Item = usize>) -> Keep {
        Keep { layers: Some(layers.into_iter().collect()), ..self }
    }

    /// Whether a layer's signal is kept.
    #[must_use]
    pub fn wants(&self, layer: usize, signal: &str) -> bool {
        self.layers.as_ref().is_none_or(|layers| layers.contains(&layer))
            && self.signals.as_ref().is_none_or(|signals| signals.iter().any(|name| name == signal))
    }
}

/// One signal of one layer in one direction.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// The layer, 0 at the input.
    pub layer: usize,
    /// Which way the layer walks.
    pub direction: Direction,
    /// The signal: `h`; of an LSTM also `c i f g o`, of a GRU `r z n`.
    pub name: String,
    /// `H`, or `P` of a projected `h`.
    pub units: usize,
    /// So many a row, a row a frame, in the order of what was recorded.
    pub values: Vec<f32>,
}

/// All that a recording kept.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use carousel::cell::Cell;
/// use carousel::record::Keep;
/// use carousel::recurrent::RecurrentConfig;
///
/// let stack = RecurrentConfig::new(Cell::Lstm, 3, 8).with_layers(2).init(&Device::default())?;
/// let x = Tensor::<3>::ones([4, 5, 3], &Device::default());
/// let (y, _, record) = stack.forward_recorded(x, None, &Keep::all());
/// assert_eq!(record.series.len(), 12); // two layers of h c i f g o
/// let forget = record.get(0, "f").expect("an LSTM has a forget gate");
/// assert_eq!(forget.values.len(), 4 * 5 * 8); // batch, time, units
/// let (top, y) = (record.get(1, "h").expect("every cell has h"), y.into_data());
/// assert_eq!(top.values, y.try_into_vec::<f32>().expect("of 32-bit floats"));
/// # Ok::<(), carousel::config_error::ConfigError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// Layer after layer; within a layer by direction, then in the order of the cell's signals.
    pub series: Vec<Series>,
}

impl Record {
    /// A layer's signal; that of the forward direction where there are two.
    #[must_use]
    pub fn get(&self, layer: usize, name: &str) -> Option<&Series> {
        self.series.iter().find(|series| series.layer == layer && series.name == name)
    }
}
