//! Recipes from files and overrides and back into files, and what is said of those that are none.

use std::fmt;

use thiserror::Error;
use toml::Value;
use toml::de::{DeTable, DeValue};

use super::register::{KEYS, Key, OnlyWith, find, is_section, keys_of};
use super::rules::{EXCLUSIVE, RULES};
use super::{Recipe, Task};
use crate::metrics::edits;

/// What is wrong with a recipe. Every message says where, what was found and what was wanted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecipeError {
    /// The text is not TOML, or an override is not `key=value`.
    #[error("{place}: {message}")]
    Syntax {
        /// Where it stands.
        place: Place,
        /// What the parser says.
        message: String,
    },
    /// No key has this name.
    #[error("{place}: {key} is not a known key; {hint}")]
    UnknownKey {
        /// Where it stands.
        place: Place,
        /// The name as given.
        key: String,
        /// The nearest known key, or the keys to choose from.
        hint: String,
    },
    /// A value of the wrong type, or out of range.
    #[error("{place}: {key} is {found}, expected {wanted}")]
    Value {
        /// Where it stands.
        place: Place,
        /// The key.
        key: &'static str,
        /// The value as given.
        found: String,
        /// What the key takes.
        wanted: String,
    },
    /// A key that changes nothing next to the value of another.
    #[error("{place}: {key} has no effect with {other} = {found}; it is read with {wanted} only")]
    NoEffect {
        /// Where it stands.
        place: Place,
        /// The key.
        key: &'static str,
        /// The key that decides.
        other: &'static str,
        /// Its value.
        found: String,
        /// The values that would make the key count.
        wanted: String,
    },
    /// Two keys that say the same thing in two ways.
    #[error("{place}: {key} and {other} are both set, expected one of them")]
    Both {
        /// Where the second one stands.
        place: Place,
        /// One key.
        key: &'static str,
        /// The other.
        other: &'static str,
    },
    /// Keys that cannot stand beside each other with these values.
    #[error("{place}: {message}")]
    Together {
        /// Where one of them stands.
        place: Place,
        /// Which keys, what they are, and what was wanted.
        message: String,
    },
    /// A key without a default is not there.
    #[error("{place}: {key} is missing, expected {wanted}")]
    Missing {
        /// Where it should stand.
        place: Place,
        /// The key.
        key: &'static str,
        /// What the key takes.
        wanted: String,
    },
}

/// Where a value of a recipe was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A line of a file, counted from 1.
    Line(String, usize),
    /// A file as a whole.
    File(String),
    /// An override, as given.
    Override(String),
    /// A recipe made in code.
    Code,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Line(file, line) => write!(f, "{file}:{line}"),
            Place::File(file) => f.write_str(file),
            Place::Override(text) => write!(f, "--set {text}"),
            Place::Code => f.write_str("recipe"),
        }
    }
}
impl Recipe {
    /// Reads a recipe. `file` is the name used in messages.
    ///
    /// # Errors
    /// [`RecipeError`] for text that is not TOML, a missing `task`, an unknown key, a value of the wrong
    /// type or out of range, and a key that has no effect next to the file's other values.
    pub fn from_toml(text: &str, file: &str) -> Result<Recipe, RecipeError> {
        let line = |offset: usize| Place::Line(file.to_owned(), 1 + text[..offset].matches('\n').count());
        let table = DeTable::parse(text).map_err(|error| RecipeError::Syntax {
            place: line(error.span().map_or(0, |span| span.start)),
            message: error.message().to_owned(),
        })?;
        let mut given = Vec::new();
        flatten(text, "", table.get_ref(), &mut |name, offset, value| {
            given.push(Given { place: line(offset), name, value });
        });

        // The task comes first, because it decides the defaults of all other keys.
        let key = find("task").expect("task is in the register");
        let task = given.iter().find(|given| given.name == "task").ok_or_else(|| RecipeError::Missing {
            place: Place::File(file.to_owned()),
            key: "task",
            wanted: key.kind.to_string(),
        })?;
        let mut recipe = Recipe::default_for(Task::Lm);
        if !key.kind.accepts(&task.value) || (key.set)(&mut recipe, &task.value).is_none() {
            return Err(key.refuse(task.place.clone(), &task.value));
        }
        recipe = Recipe::default_for(recipe.task);
        recipe.apply(&given)?;
        Ok(recipe)
    }

    /// Applies one override, such as `model.hidden=200`. Text needs no quotes.
    ///
    /// # Errors
    /// As [`Recipe::set_all`].
    pub fn set(&mut self, assignment: &str) -> Result<(), RecipeError> {
        self.set_all(&[assignment])
    }

    /// Applies overrides together, so that their order does not matter; of two for one key the last
    /// counts. A key takes the place of others that say the same thing: `train.steps` of `train.epochs`,
    /// and the other way round.
    ///
    /// # Errors
    /// [`RecipeError`], and the recipe is left as it was: for an override that is not `key=value`, an
    /// unknown key, a bad value, an override that has no effect in the resulting recipe, or keys that
    /// cannot stand together.
    pub fn set_all<S: AsRef<str>>(&mut self, assignments: &[S]) -> Result<(), RecipeError> {
        let given = assignments.iter().map(|assignment| {
            let text = assignment.as_ref();
            let place = Place::Override(text.to_owned());
            match text.split_once('=') {
                Some((name, value)) => {
                    let value = value.trim();
                    let value = value.parse().unwrap_or_else(|_| bare(value));
                    Ok(Given { place, name: name.trim().to_owned(), value })
                }
                None => Err(RecipeError::Syntax {
                    place,
                    message: "expected key=value, such as model.hidden=200".to_owned(),
                }),
            }
        });
        let given = given.collect::<Result<Vec<_>, _>>()?;
        let mut changed = self.clone();
        changed.apply(&given)?;
        *self = changed;
        Ok(())
    }

    /// Checks every value's range, and what several must be together. Recipes read from a file or changed
    /// by overrides have passed this.
    ///
    /// # Errors
    /// [`RecipeError`] for the first value out of range, for two keys that say the same thing, and for keys
    /// that cannot stand together.
    pub fn check(&self) -> Result<(), RecipeError> {
        for key in KEYS {
            if let Some(value) = (key.get)(self)
                && !key.kind.accepts(&value)
            {
                return Err(key.refuse(Place::Code, &value));
            }
        }
        for group in EXCLUSIVE {
            let mut set = group.iter().filter(|name| find(name).is_some_and(|key| (key.get)(self).is_some()));
            if let (Some(key), Some(other)) = (set.next(), set.next()) {
                return Err(RecipeError::Both { place: Place::Code, key, other });
            }
        }
        match RULES.iter().find_map(|rule| (rule.broken)(self)) {
            Some(message) => Err(RecipeError::Together { place: Place::Code, message }),
            None => Ok(()),
        }
    }

    /// The keys in which another recipe differs, with the value here and there; `None` is unset.
    #[must_use]
    pub fn differences(&self, other: &Recipe) -> Vec<(&'static str, Option<String>, Option<String>)> {
        let told = |recipe: &Recipe, key: &Key| (key.get)(recipe).map(|value| value.to_string());
        let both = KEYS.iter().map(|key| (key.name, told(self, key), told(other, key)));
        both.filter(|(_, here, there)| here != there).collect()
    }

    /// The recipe as a file from which [`Recipe::from_toml`] reads the same experiment. Keys that have no
    /// effect next to the others are left out.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut section = "";
        for key in KEYS {
            let Some(value) = (key.get)(self) else { continue };
            if key.blocked(self).is_some() {
                continue;
            }
            let (now, name) = key.name.split_once('.').unwrap_or(("", key.name));
            if now != section {
                text.push_str(&format!("\n[{now}]\n"));
                section = now;
            }
            text.push_str(&format!("{name} = {value}\n"));
        }
        text
    }

    fn apply(&mut self, given: &[Given]) -> Result<(), RecipeError> {
        let mut keys = Vec::with_capacity(given.len());
        for Given { place, name, value } in given {
            let key = find(name).ok_or_else(|| unknown(place, name))?;
            if !key.kind.accepts(value) || (key.set)(self, value).is_none() {
                return Err(key.refuse(place.clone(), value));
            }
            for group in EXCLUSIVE.iter().filter(|group| group.contains(&key.name)) {
                let others = group.iter().filter(|other| **other != key.name);
                others.filter_map(|other| find(other)).for_each(|other| (other.unset)(self));
            }
            keys.push((key, place));
        }
        let place_of =
            |name: &str| keys.iter().rev().find(|(key, _)| key.name == name).map(|(_, place)| *place);
        for group in EXCLUSIVE {
            let mut set = group.iter().filter_map(|name| Some((*name, place_of(name)?)));
            if let (Some((key, place)), Some((other, _))) = (set.next(), set.next()) {
                return Err(RecipeError::Both { place: place.clone(), key, other });
            }
        }
        for (key, place) in &keys {
            if let Some((OnlyWith { key: other, values }, found)) = key.blocked(self) {
                let (place, key, wanted) = ((*place).clone(), key.name, values.join(" or "));
                return Err(RecipeError::NoEffect { place, key, other, found, wanted });
            }
        }
        for rule in RULES {
            // Before this the demand was met, so something given now breaks it.
            let place = rule.keys.iter().find_map(|name| place_of(name));
            let place = place.or(keys.first().map(|(_, place)| *place));
            if let (Some(place), Some(message)) = (place, (rule.broken)(self)) {
                return Err(RecipeError::Together { place: place.clone(), message });
            }
        }
        Ok(())
    }
}

/// What is no TOML value: a number whose point has digits on one side only, or else text without its quotes.
fn bare(value: &str) -> Value {
    match value.parse::<f64>() {
        Ok(number) if value.contains('.') => Value::Float(number),
        _ => Value::String(value.to_owned()),
    }
}

/// A value with its place, as read.
struct Given {
    place: Place,
    name: String,
    value: Value,
}

/// Walks the sections of a table down to its values, with dotted names and the offset of each key.
/// An empty section of an unknown name is visited as if it were a value, or nobody would notice it.
fn flatten(text: &str, prefix: &str, table: &DeTable<'_>, visit: &mut impl FnMut(String, usize, Value)) {
    for (key, value) in table {
        let name = format!("{prefix}{}", key.get_ref());
        match value.get_ref() {
            DeValue::Table(inner) if find(&name).is_none() && (!inner.is_empty() || is_section(&name)) => {
                flatten(text, &format!("{name}."), inner, visit);
            }
            // The value has parsed once already; a section header's span is no value, its type is enough.
            _ => {
                let value = text[value.span()].parse().unwrap_or_else(|_| Value::Table(toml::Table::new()));
                visit(name, key.span().start, value);
            }
        }
    }
}

fn unknown(place: &Place, name: &str) -> RecipeError {
    let list = |names: Vec<&str>| format!("the known keys are {}", names.join(", "));
    let hint = if is_section(name) {
        list(keys_of(name).collect())
    } else if let Some(key) = nearest(name) {
        format!("did you mean {key}?")
    } else {
        match name.split_once('.') {
            Some((section, _)) if is_section(section) => list(keys_of(section).collect()),
            _ => list(KEYS.iter().map(|key| key.name).collect()),
        }
    };
    RecipeError::UnknownKey { place: place.clone(), key: name.to_owned(), hint }
}

/// The known key that takes the fewest edits, if they are few. A right name in the wrong section, or
/// without one, is one edit away.
fn nearest(name: &str) -> Option<&'static str> {
    let letters = |a: &str, b: &str| edits(&a.chars().collect::<Vec<_>>(), &b.chars().collect::<Vec<_>>());
    let last = |name: &'_ str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let distance = |key: &str| letters(name, key).min(1 + letters(&last(name), &last(key)));
    let (edits, key) = KEYS.iter().map(|key| (distance(key.name), key.name)).min()?;
    (edits <= 2.max(name.len() / 4)).then_some(key)
}
