//! Reads the files in `crates/kernels/tests/fixtures`; its README describes the format and the names.
//!
//! Only the standard library is used, and any crate of the workspace may include this file by `#[path]`.

// Every test crate that includes this file uses another part of it.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// One file.
pub(crate) struct Fixture {
    pub(crate) name: String,
    attributes: BTreeMap<String, String>,
    tensors: BTreeMap<String, Tensor>,
}

/// A tensor of any stored type; float64 holds every f32 and u32 exactly.
#[derive(Debug)]
pub(crate) struct Tensor {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f64>,
}

/// Where the files lie, seen from any crate in `crates/`.
pub(crate) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels/tests/fixtures")
}

/// Every fixture of a kind, ordered by name. Panics when there is none, so that no loop over them is empty.
pub(crate) fn load(kind: &str) -> Vec<Fixture> {
    let mut all = load_all();
    all.retain(|fixture| fixture.text("kind") == kind);
    assert!(!all.is_empty(), "no fixture of kind {kind} in {}", directory().display());
    all
}

/// Every fixture, ordered by name.
pub(crate) fn load_all() -> Vec<Fixture> {
    let entries = fs::read_dir(directory()).expect("the fixtures' folder is part of the repository");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a readable folder entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "bin"))
        .collect();
    paths.sort();
    paths.iter().map(|path| Fixture::read(path)).collect()
}

impl Fixture {
    /// Reads a file; panics with its name and what is wrong.
    pub(crate) fn read(path: &Path) -> Fixture {
        let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let stem = path.file_stem().expect("a file has a name").to_string_lossy();
        Fixture::parse(&stem, &bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    fn parse(name: &str, bytes: &[u8]) -> Result<Fixture, String> {
        let end = bytes.windows(2).position(|pair| pair == b"\n\n").ok_or("no empty line ends the header")?;
        let header = std::str::from_utf8(&bytes[..end]).map_err(|error| error.to_string())?;
        let mut body = &bytes[end + 2..];
        let mut lines = header.lines();
        if lines.next() != Some("carousel-fixture 1") {
            return Err("the first line is not `carousel-fixture 1`".into());
        }
        let mut fixture =
            Fixture { name: name.into(), attributes: BTreeMap::new(), tensors: BTreeMap::new() };
        for line in lines {
            if let Some((key, value)) = line.split_once(" = ") {
                fixture.attributes.insert(key.into(), value.into());
                continue;
            }
            let mut words = line.split(' ');
            let (Some(tensor), Some(kind)) = (words.next(), words.next()) else {
                return Err(format!("`{line}` is neither an attribute nor a tensor"));
            };
            let shape: Vec<usize> = words
                .map(str::parse)
                .collect::<Result<_, _>>()
                .map_err(|error| format!("`{line}`: {error}"))?;
            let size = if kind == "f64" { 8 } else { 4 };
            let length = shape.iter().product::<usize>() * size;
            let (raw, rest) =
                body.split_at_checked(length).ok_or(format!("`{line}`: the file is too short"))?;
            body = rest;
            let values = raw.chunks_exact(size);
            let values = match kind {
                "f32" => values.map(|raw| f64::from(f32::from_le_bytes(array(raw)))).collect(),
                "f64" => values.map(|raw| f64::from_le_bytes(array(raw))).collect(),
                "u32" => values.map(|raw| f64::from(u32::from_le_bytes(array(raw)))).collect(),
                _ => return Err(format!("`{line}`: unknown type {kind}")),
            };
            fixture.tensors.insert(tensor.into(), Tensor { shape, values });
        }
        if body.is_empty() { Ok(fixture) } else { Err(format!("{} bytes too many", body.len())) }
    }

    /// An attribute.
    pub(crate) fn text(&self, key: &str) -> &str {
        self.attributes.get(key).unwrap_or_else(|| panic!("{}: no attribute {key}", self.name))
    }

    /// An attribute that is a size.
    pub(crate) fn size(&self, key: &str) -> usize {
        self.text(key).parse().unwrap_or_else(|error| panic!("{}: {key}: {error}", self.name))
    }

    /// An attribute that is a setting of an optimiser or a factor.
    pub(crate) fn number(&self, key: &str) -> f32 {
        self.text(key).parse().unwrap_or_else(|error| panic!("{}: {key}: {error}", self.name))
    }

    /// An attribute that is a list of sizes.
    pub(crate) fn sizes(&self, key: &str) -> Vec<usize> {
        let words = self.text(key).split(' ').map(str::parse);
        words.collect::<Result<_, _>>().unwrap_or_else(|error| panic!("{}: {key}: {error}", self.name))
    }

    /// Whether there is a tensor of that name.
    pub(crate) fn has(&self, tensor: &str) -> bool {
        self.tensors.contains_key(tensor)
    }

    /// A tensor with its shape.
    pub(crate) fn tensor(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("{}: no tensor {name}", self.name))
    }

    /// Something a kernel reads.
    pub(crate) fn f32s(&self, name: &str) -> Vec<f32> {
        self.tensor(name).values.iter().map(|&value| value as f32).collect()
    }

    /// Something a kernel must produce.
    pub(crate) fn f64s(&self, name: &str) -> &[f64] {
        &self.tensor(name).values
    }

    /// Token ids.
    pub(crate) fn u32s(&self, name: &str) -> Vec<u32> {
        self.tensor(name).values.iter().map(|&value| value as u32).collect()
    }

    /// `Err` with names and numbers unless a tensor agrees with what PyTorch computed; see [`close`].
    pub(crate) fn agrees<F: Into<f64> + Copy>(
        &self,
        tensor: &str,
        found: &[F],
        tolerance: f64,
    ) -> Result<(), String> {
        close(found, self.f64s(tensor), tolerance).map_err(|why| format!("{}: {tensor}: {why}", self.name))
    }
}

/// What a float32 kernel may be off by. Float32 has a unit roundoff of 6e-8; this leaves room for the some
/// hundred roundings on the longest path through a fixture.
pub(crate) const SINGLE: f64 = 1e-5;

/// What a float64 computation may be off by.
pub(crate) const DOUBLE: f64 = 1e-12;

/// `Err` with the numbers unless `max|a-b| <= tolerance * max|b|`.
pub(crate) fn close<F: Into<f64> + Copy>(
    found: &[F],
    expected: &[f64],
    tolerance: f64,
) -> Result<(), String> {
    if found.len() != expected.len() {
        return Err(format!("{} elements, expected {}", found.len(), expected.len()));
    }
    let limit = tolerance * expected.iter().fold(0.0, |most, value| value.abs().max(most));
    let worst = found
        .iter()
        .zip(expected)
        .map(|(&a, &b)| (a.into(), b, (a.into() - b).abs()))
        .enumerate()
        // A NaN sorts above everything.
        .max_by(|a, b| a.1.2.total_cmp(&b.1.2));
    match worst {
        Some((place, (a, b, error))) if error.is_nan() || error > limit => {
            Err(format!("element {place} is {a}, expected {b}: off by {error:.1e}, allowed {limit:.1e}"))
        }
        _ => Ok(()),
    }
}

fn array<const N: usize>(raw: &[u8]) -> [u8; N] {
    raw.try_into().expect("chunks_exact gives chunks of that size")
}
