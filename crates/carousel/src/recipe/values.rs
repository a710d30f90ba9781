//! What values keys take, and how a value becomes a field of the recipe and a field a value.

use super::{InitName, Named};
use crate::data::{MOST_PLACES, MaxLen};
use std::fmt;
use toml::Value;

/// No bound in practice.
pub(super) const COUNT: u64 = u32::MAX as u64;
/// Beyond any size of a layer.
pub(super) const SIZE: u64 = 1 << 16;

/// What values a key takes; its text is the type column of `docs/recipe.md`.
pub(super) enum Kind {
    /// A whole number, both ends included.
    Whole(u64, u64),
    /// A number, both ends included.
    Number(f64, f64),
    /// A number above the first and up to the second.
    Above(f64, f64),
    /// A number from the first on and below the second.
    Below(f64, f64),
    /// Yes or no.
    Flag,
    /// One of these names.
    OneOf(fn() -> Vec<&'static str>),
    /// Shares of the data: training, validation, test.
    Shares,
    /// A name that is not empty.
    Text,
    /// Names, none of them empty.
    Names,
    /// Levels of quantiles.
    Quantiles,
    /// Places of a sentence.
    MaxLen,
}

impl Kind {
    pub(super) fn accepts(&self, value: &Value) -> bool {
        match *self {
            Kind::Whole(from, to) => {
                value.as_integer().and_then(|n| u64::try_from(n).ok()).is_some_and(|n| from <= n && n <= to)
            }
            Kind::Number(from, to) => number(value).is_some_and(|n| from <= n && n <= to),
            Kind::Above(from, to) => number(value).is_some_and(|n| from < n && n <= to),
            Kind::Below(from, to) => number(value).is_some_and(|n| from <= n && n < to),
            Kind::Flag => value.is_bool(),
            Kind::OneOf(names) => value.as_str().is_some_and(|name| names().contains(&name)),
            Kind::Text => value.as_str().is_some_and(|text| !text.is_empty()),
            Kind::Names => Vec::<String>::read(value)
                .is_some_and(|names| !names.is_empty() && names.iter().all(|name| !name.is_empty())),
            Kind::Quantiles => Vec::<f64>::read(value).is_some_and(|levels| {
                let inside = levels.iter().all(|&level| level > 0.0 && level < 1.0);
                inside && levels.windows(2).all(|pair| pair[0] < pair[1]) && levels.contains(&0.5)
            }),
            Kind::MaxLen => MaxLen::read(value).is_some(),
            Kind::Shares => <[f64; 3]>::read(value).is_some_and(|shares| {
                let in_range = shares.iter().all(|share| (0.0..=1.0).contains(share)) && shares[0] > 0.0;
                in_range && (shares.iter().sum::<f64>() - 1.0).abs() < 1e-6
            }),
        }
    }

    /// What is wanted in place of a value: the end of a range that has none in practice, where it lies beyond.
    pub(super) fn wanted(&self, value: &Value) -> String {
        let whole = value.as_integer().map(i128::from).or_else(|| value.as_str()?.parse().ok());
        match *self {
            Kind::Whole(from, to) if whole.is_some_and(|whole| whole > i128::from(to)) => {
                format!("a whole number from {from} to {to}")
            }
            _ => self.to_string(),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Whole(from, to) if *to >= COUNT => write!(f, "a whole number from {from}"),
            Kind::Whole(from, to) => write!(f, "a whole number from {from} to {to}"),
            Kind::Number(from, to) => write!(f, "a number from {from} to {to}"),
            Kind::Above(from, to) => write!(f, "a number above {from}, up to {to}"),
            Kind::Below(from, to) => write!(f, "a number from {from} and below {to}"),
            Kind::Flag => f.write_str("true or false"),
            Kind::OneOf(names) => write!(f, "one of {}", names().join(", ")),
            Kind::Text => f.write_str("text"),
            Kind::Names => f.write_str("text, or a list of texts"),
            Kind::Quantiles => f.write_str("ascending numbers above 0 and below 1 with 0.5 among them"),
            Kind::MaxLen => {
                write!(f, "auto, a whole number from 3 to {MOST_PLACES}, or a share above 0 and below 1")
            }
            Kind::Shares => f.write_str("three shares that add up to 1, the first above 0"),
        }
    }
}

/// A type that a field of the recipe may have.
pub(super) trait Setting: Sized {
    /// `None`: the value has another type.
    fn read(value: &Value) -> Option<Self>;
    /// `None`: the field is unset.
    fn write(&self) -> Option<Value>;
    /// Leaves a field as it is that always has a value.
    fn unset(&mut self) {}
}

impl Setting for usize {
    fn read(value: &Value) -> Option<usize> {
        value.as_integer().and_then(|number| usize::try_from(number).ok())
    }

    fn write(&self) -> Option<Value> {
        (*self as u64).write()
    }
}

impl Setting for u64 {
    fn read(value: &Value) -> Option<u64> {
        value.as_integer().and_then(|number| u64::try_from(number).ok())
    }

    /// TOML's whole numbers end at `i64::MAX`; one above becomes text, which every range refuses.
    fn write(&self) -> Option<Value> {
        Some(i64::try_from(*self).map_or_else(|_| Value::String(self.to_string()), Value::Integer))
    }
}

impl Setting for MaxLen {
    fn read(value: &Value) -> Option<MaxLen> {
        match value {
            Value::String(text) => (text == "auto").then_some(MaxLen::Auto),
            Value::Integer(places) => {
                let places = usize::try_from(*places).ok();
                places.filter(|places| (3..=MOST_PLACES).contains(places)).map(MaxLen::Places)
            }
            Value::Float(share) => (*share > 0.0 && *share < 1.0).then_some(MaxLen::Quantile(*share)),
            _ => None,
        }
    }

    fn write(&self) -> Option<Value> {
        match self {
            MaxLen::Auto => Some(Value::String("auto".to_owned())),
            MaxLen::Quantile(share) => share.write(),
            MaxLen::Places(places) => places.write(),
        }
    }
}

impl Setting for String {
    fn read(value: &Value) -> Option<String> {
        value.as_str().map(str::to_owned)
    }

    fn write(&self) -> Option<Value> {
        Some(Value::String(self.clone()))
    }
}

impl Setting for bool {
    fn read(value: &Value) -> Option<bool> {
        value.as_bool()
    }

    fn write(&self) -> Option<Value> {
        Some(Value::Boolean(*self))
    }
}

impl Setting for f64 {
    fn read(value: &Value) -> Option<f64> {
        number(value)
    }

    fn write(&self) -> Option<Value> {
        Some(Value::Float(*self))
    }
}

impl Setting for [f64; 3] {
    fn read(value: &Value) -> Option<[f64; 3]> {
        let numbers: Vec<f64> = value.as_array()?.iter().map(number).collect::<Option<_>>()?;
        numbers.try_into().ok()
    }

    fn write(&self) -> Option<Value> {
        Some(Value::Array(self.iter().copied().map(Value::Float).collect()))
    }
}

impl Setting for Vec<f64> {
    fn read(value: &Value) -> Option<Vec<f64>> {
        value.as_array()?.iter().map(number).collect()
    }

    fn write(&self) -> Option<Value> {
        Some(Value::Array(self.iter().copied().map(Value::Float).collect()))
    }
}

/// A text is a list with commas between.
impl Setting for Vec<String> {
    fn read(value: &Value) -> Option<Vec<String>> {
        match value {
            Value::String(text) => Some(text.split(',').map(|name| name.trim().to_owned()).collect()),
            other => other.as_array()?.iter().map(String::read).collect(),
        }
    }

    fn write(&self) -> Option<Value> {
        Some(Value::Array(self.iter().cloned().map(Value::String).collect()))
    }
}

impl<T: Setting> Setting for Option<T> {
    fn read(value: &Value) -> Option<Option<T>> {
        T::read(value).map(Some)
    }

    fn write(&self) -> Option<Value> {
        self.as_ref().and_then(T::write)
    }

    fn unset(&mut self) {
        *self = None;
    }
}

impl<T: Named> Setting for T {
    fn read(value: &Value) -> Option<T> {
        let name = value.as_str()?;
        T::ALL.iter().copied().find(|named| named.name() == name)
    }

    fn write(&self) -> Option<Value> {
        Some(Value::String(self.name().to_owned()))
    }
}

pub(super) fn names<T: Named>() -> Vec<&'static str> {
    T::ALL.iter().map(|named| named.name()).collect()
}

/// What `model.recurrent_init` can be: all but `uniform`, whose range is that of the whole model.
pub(super) fn recurrent_inits() -> Vec<&'static str> {
    names::<InitName>().into_iter().filter(|&name| name != InitName::Uniform.name()).collect()
}

/// A number, written with or without a decimal point.
fn number(value: &Value) -> Option<f64> {
    value.as_float().or_else(|| value.as_integer().map(|number| number as f64))
}
