//! What the names of files say, by a regular expression.

use regex::Regex;

use super::DataError;

/// A regular expression whose first group is looked for in a file's name, or in its whole path where the expression has
/// a slash.
#[derive(Clone, Debug)]
pub struct NamePattern {
    /// The recipe's key that gave it.
    key: &'static str,
    pattern: Regex,
}

impl NamePattern {
    /// Reads the expression that a recipe's key gives.
    ///
    /// # Errors
    /// [`DataError::Examples`] for what is no regular expression, or has no group.
    pub fn new(key: &'static str, text: &str) -> Result<NamePattern, DataError> {
        let wrong = |what: &str| DataError::Examples { reason: format!("{key} is {text:?}: {what}") };
        let pattern = Regex::new(text).map_err(|error| wrong(&error.to_string()))?;
        match pattern.captures_len() {
            0 | 1 => Err(wrong("it has no group in parentheses, expected one around what it is to find")),
            _ => Ok(NamePattern { key, pattern }),
        }
    }

    /// What it finds in the name of a file.
    ///
    /// # Errors
    /// [`DataError::File`] where it does not match.
    pub fn find<'a>(&self, path: &'a str) -> Result<&'a str, DataError> {
        let whole = self.pattern.as_str().contains('/');
        let name = if whole { path } else { path.rsplit('/').next().unwrap_or(path) };
        let found = self.pattern.captures(name).and_then(|found| found.get(1));
        found.map(|group| group.as_str()).ok_or_else(|| DataError::File {
            name: path.to_owned(),
            reason: format!(
                "{} {:?} does not match its {}",
                self.key,
                self.pattern.as_str(),
                if whole { "path" } else { "name" }
            ),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_makes_the_path_count() {
        let check = |pattern: &str, path: &str, expected: Result<&str, &str>| {
            let found = NamePattern::new("data.file_label", pattern).unwrap();
            let found = found.find(path).map_err(|error| error.to_string());
            assert_eq!(found, expected.map_err(str::to_owned), "{pattern} in {path}");
        };
        check("^([a-z]+)_", "a/b/up_1.wav", Ok("up"));
        check("^([a-z]+)_", "up_1.wav", Ok("up"));
        check("([^/]+)/[^/]+/[^/]+$", "a/b/up_1.wav", Ok("a"));
        check(
            "^([a-z]+)_",
            "a_b/1.wav",
            Err("a_b/1.wav: data.file_label \"^([a-z]+)_\" does not match its name"),
        );
        check("^(b)/", "a/b", Err("a/b: data.file_label \"^(b)/\" does not match its path"));
        for (pattern, expected) in [("up", "no group in parentheses"), ("(", "data.file_label is \"(\": ")] {
            let message = NamePattern::new("data.file_label", pattern).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
