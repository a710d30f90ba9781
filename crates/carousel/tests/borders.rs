//! The borders between the rooms of this crate, as ARCHITECTURE.md draws them.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// The code of a file without its tests and comments, where other rooms may be named.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// No file of a room has any of these in its code.
fn check(room: &str, forbidden: &[&str]) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    files(&source.join(room), &mut all);
    assert!(!all.is_empty(), "{room} is empty");
    for path in all {
        let code = code(&path);
        for word in forbidden {
            assert!(!code.contains(word), "{} may not name {word}", path.display());
        }
    }
}

#[test]
fn rooms_know_only_whom_they_may() {
    check("models", &["crate::data", "crate::train", "crate::run", "crate::recipe", "crate::lens"]);
    check("data", &["crate::models", "crate::train", "crate::lens", "burn::"]);
    check("train", &["crate::report", "crate::lens"]);
    check("lens", &["crate::train", "crate::run", "crate::recipe", "crate::report"]);
    check("report", &["crate::lens"]);
    check("", &["println!", "eprintln!", "print!(", "dbg!", "clap", "unsafe "]);
}
