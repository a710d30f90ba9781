//! Builds the default corpus into the program: this workspace's Rust and Markdown files, one document each.
//!
//! The order is by a hash of the path. It is the same everywhere, and it mixes code and prose, so that the
//! last part, which is held out for validation, resembles the rest.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Folders of the workspace that are read; beside them, the Markdown files at its top.
const FOLDERS: [&str; 2] = ["crates", "docs"];
/// A file above this is data or made by a machine; nobody writes one.
const LARGEST_FILE: usize = 256 * 1024;
/// The whole corpus: enough for minutes of training, little beside the program itself.
const LARGEST_CORPUS: usize = 2 * 1024 * 1024;

fn main() {
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let root = package.ancestors().find(|folder| is_workspace(folder)).unwrap_or(&package);

    let mut files = Vec::new();
    for path in sorted_entries(root) {
        if wanted(&path) {
            println!("cargo::rerun-if-changed={}", path.display());
            files.push(path);
        }
    }
    for folder in FOLDERS.iter().map(|name| root.join(name)).filter(|folder| folder.is_dir()) {
        // Cargo looks into the whole folder, so that a new file counts as a change too.
        println!("cargo::rerun-if-changed={}", folder.display());
        collect(&folder, &mut files);
    }

    let mut documents: Vec<(String, &PathBuf)> = files
        .iter()
        .map(|path| {
            let name = path.strip_prefix(root).unwrap_or(path).components();
            let parts: Vec<_> = name.map(|part| part.as_os_str().to_string_lossy()).collect();
            (parts.join("/"), path)
        })
        .collect();
    documents.sort_by_key(|(name, _)| (hash(name), name.clone()));

    let mut source = String::from(
        "/// Path and text of every document of the default corpus.\nconst EMBEDDED: &[(&str, &str)] = &[\n",
    );
    let mut room = LARGEST_CORPUS;
    for (name, path) in documents {
        let text = fs::read_to_string(path).unwrap_or_default();
        if text.is_empty() || text.len() > LARGEST_FILE || text.len() > room {
            continue;
        }
        room -= text.len();
        let _ = writeln!(source, "    ({name:?}, {text:?}),");
    }
    source.push_str("];\n");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    fs::write(out.join("embedded.rs"), source).expect("the build folder can be written");
}

fn is_workspace(folder: &Path) -> bool {
    fs::read_to_string(folder.join("Cargo.toml")).is_ok_and(|text| text.contains("[workspace]"))
}

fn wanted(path: &Path) -> bool {
    path.is_file() && path.extension().is_some_and(|extension| extension == "rs" || extension == "md")
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for path in sorted_entries(folder) {
        let name = path.file_name().unwrap_or_default();
        // Hidden folders and build output hold no sources.
        if path.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
            collect(&path, files);
        } else if wanted(&path) {
            files.push(path);
        }
    }
}

fn sorted_entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// FNV-1a: a hash that is the same on every machine and in every version of Rust.
fn hash(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}
