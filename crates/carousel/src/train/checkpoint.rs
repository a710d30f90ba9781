//! A checkpoint: everything a run needs to go on bit for bit as if it had never stopped.
//!
//! It is a folder of `model.safetensors`, `optimizer.safetensors`, `carried.safetensors`, where weights are
//! averaged `average.safetensors`, and `state.json`, which also holds the length and the CRC-32 of the
//! others, so that damage is found when a checkpoint is read and not later in its results. [`RunFolder`](crate::run::RunFolder) decides
//! where checkpoints lie and which of them stay.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

pub use crate::parameters::NamedTensor;

/// Name of the weights' file, in a checkpoint and at the top of a run.
pub const MODEL: &str = "model.safetensors";
/// Name of the averaged weights' file in a checkpoint.
const AVERAGE: &str = "average.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const CARRIED: &str = "carried.safetensors";
const STATE: &str = "state.json";
/// Of `state.json`; a reader refuses any other.
const FORMAT: u32 = 1;

/// The state of a training run after a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Updates done.
    pub step: u64,
    /// The weights that training goes on from.
    pub model: Vec<NamedTensor>,
    /// Their running average, to be used in their place; empty where none is taken.
    pub average: Vec<NamedTensor>,
    /// The optimiser's running averages.
    pub optimizer: Vec<NamedTensor>,
    /// The recurrent state that the next window starts from.
    pub carried: Vec<NamedTensor>,
    /// What is no tensor: random numbers, place in the data, best loss.
    pub state: serde_json::Value,
}

/// Why a checkpoint could not be written or read. Every message names the file.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file system refused to write.
    #[error("could not write {path}: {source}")]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file system refused to read.
    #[error("could not read {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The content is not what was written, or was written by something else.
    #[error("{path} is damaged or foreign: {reason}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What was found, and what was wanted.
        reason: String,
    },
    /// Tensors that no file can hold.
    #[error("cannot save {name}: {reason}")]
    Unsavable {
        /// The tensor, or the file.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor that the model has is not in the file.
    #[error("tensor {name} is missing, expected shape {expected:?}")]
    MissingTensor {
        /// Which tensor.
        name: String,
        /// The shape the model has.
        expected: Vec<usize>,
    },
    /// A tensor has another shape than the model's.
    #[error("tensor {name} has shape {found:?}, expected {expected:?}")]
    TensorShape {
        /// Which tensor.
        name: String,
        /// Its shape in the file.
        found: Vec<usize>,
        /// The shape the model has.
        expected: Vec<usize>,
    },
}

/// The content of `state.json`.
#[derive(Serialize, Deserialize)]
struct StateFile {
    format: u32,
    step: u64,
    files: BTreeMap<String, Seal>,
    state: serde_json::Value,
}

/// What a file must be like for its content to be trusted.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Seal {
    bytes: usize,
    crc32: u32,
}

impl Seal {
    fn of(bytes: &[u8]) -> Seal {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        Seal { bytes: bytes.len(), crc32: crc.sum() }
    }
}

impl Checkpoint {
    /// Writes the checkpoint into a new folder and waits until the disk has it.
    ///
    /// # Errors
    /// [`CheckpointError::Write`] when the file system refuses; the folder is then incomplete.
    /// [`CheckpointError::Unsavable`] for tensors whose values do not fill their shape, or of equal names.
    pub fn write(&self, folder: &Path) -> Result<(), CheckpointError> {
        fs::create_dir(folder)
            .map_err(|source| CheckpointError::Write { path: folder.to_owned(), source })?;
        let mut files = BTreeMap::new();
        let files_with_tensors = [
            (MODEL, &self.model),
            (AVERAGE, &self.average),
            (OPTIMIZER, &self.optimizer),
            (CARRIED, &self.carried),
        ];
        for (name, tensors) in files_with_tensors {
            if name == AVERAGE && tensors.is_empty() {
                continue;
            }
            let bytes = encode_tensors(name, tensors)?;
            write_synced(&folder.join(name), &bytes)?;
            files.insert(name.to_owned(), Seal::of(&bytes));
        }
        let state = StateFile { format: FORMAT, step: self.step, files, state: self.state.clone() };
        let text = serde_json::to_vec_pretty(&state).map_err(|error| CheckpointError::Unsavable {
            name: STATE.to_owned(),
            reason: error.to_string(),
        })?;
        write_synced(&folder.join(STATE), &text)?;
        sync_folder(folder)
    }

    /// Reads a checkpoint back. Tensors come sorted by name.
    ///
    /// # Errors
    /// [`CheckpointError::Read`] for a file that is missing, [`CheckpointError::Damaged`] for one that is
    /// truncated, changed, or of another kind.
    pub fn read(folder: &Path) -> Result<Checkpoint, CheckpointError> {
        let path = folder.join(STATE);
        let damaged = |reason: String| CheckpointError::Damaged { path: path.clone(), reason };
        let content: StateFile =
            serde_json::from_slice(&read(&path)?).map_err(|error| damaged(error.to_string()))?;
        if content.format != FORMAT {
            return Err(damaged(format!("its format is {}, expected {FORMAT}", content.format)));
        }
        let tensors = |name: &str| {
            let expected =
                content.files.get(name).ok_or_else(|| damaged(format!("it does not list {name}")))?;
            let path = folder.join(name);
            let bytes = read(&path)?;
            let found = Seal::of(&bytes);
            if found != *expected {
                let reason = if found.bytes == expected.bytes {
                    format!("its CRC-32 is {:08x}, expected {:08x}", found.crc32, expected.crc32)
                } else {
                    format!("it has {} bytes, expected {}", found.bytes, expected.bytes)
                };
                return Err(CheckpointError::Damaged { path, reason });
            }
            decode_tensors(&path, &bytes)
        };
        let averaged = content.files.contains_key(AVERAGE);
        Ok(Checkpoint {
            step: content.step,
            model: tensors(MODEL)?,
            average: if averaged { tensors(AVERAGE)? } else { Vec::new() },
            optimizer: tensors(OPTIMIZER)?,
            carried: tensors(CARRIED)?,
            state: content.state,
        })
    }

    /// The weights to use the model with: their average where one is taken.
    #[must_use]
    pub fn weights(&self) -> &[NamedTensor] {
        if self.average.is_empty() { &self.model } else { &self.average }
    }

    /// The file of [`weights`](Checkpoint::weights) in a checkpoint's folder.
    pub(crate) fn weights_file(folder: &Path) -> PathBuf {
        let average = folder.join(AVERAGE);
        if average.exists() { average } else { folder.join(MODEL) }
    }
}

/// Reads the F32 tensors of any safetensors file, sorted by name.
///
/// # Errors
/// [`CheckpointError::Read`], or [`CheckpointError::Damaged`] for a file that is truncated, no
/// safetensors file, or holds another type of number.
pub fn read_tensors(path: &Path) -> Result<Vec<NamedTensor>, CheckpointError> {
    decode_tensors(path, &read(path)?)
}

/// Writes tensors as a safetensors file, or puts them in the place of the one there.
pub(crate) fn write_tensors(path: &Path, tensors: &[NamedTensor]) -> Result<(), CheckpointError> {
    replace_file(path, &encode_tensors(&path.display().to_string(), tensors)?)
}

/// The tensor of a name, checked to have the shape that a model wants.
///
/// # Errors
/// [`CheckpointError::MissingTensor`] or [`CheckpointError::TensorShape`].
pub fn find_tensor<'a>(
    tensors: &'a [NamedTensor],
    name: &str,
    expected: &[usize],
) -> Result<&'a NamedTensor, CheckpointError> {
    let (name, expected) = (name.to_owned(), expected.to_vec());
    match tensors.iter().find(|tensor| tensor.name == name) {
        None => Err(CheckpointError::MissingTensor { name, expected }),
        Some(tensor) if tensor.shape != expected => {
            Err(CheckpointError::TensorShape { name, found: tensor.shape.clone(), expected })
        }
        Some(tensor) => Ok(tensor),
    }
}

fn encode_tensors(file: &str, tensors: &[NamedTensor]) -> Result<Vec<u8>, CheckpointError> {
    let unsavable = |name: &str, reason: String| CheckpointError::Unsavable { name: name.to_owned(), reason };
    let data: Vec<Vec<u8>> = tensors
        .iter()
        .map(|tensor| tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect())
        .collect();
    let mut views = BTreeMap::new();
    for (tensor, data) in tensors.iter().zip(&data) {
        let view = TensorView::new(Dtype::F32, tensor.shape.clone(), data)
            .map_err(|error| unsavable(&tensor.name, error.to_string()))?;
        if views.insert(tensor.name.as_str(), view).is_some() {
            return Err(unsavable(&tensor.name, format!("{file} has two tensors of this name")));
        }
    }
    safetensors::serialize(views, None).map_err(|error| unsavable(file, error.to_string()))
}

fn decode_tensors(path: &Path, bytes: &[u8]) -> Result<Vec<NamedTensor>, CheckpointError> {
    let damaged = |reason: String| CheckpointError::Damaged { path: path.to_owned(), reason };
    let file = SafeTensors::deserialize(bytes)
        .map_err(|error| damaged(format!("it is no complete safetensors file ({error})")))?;
    let mut tensors = Vec::with_capacity(file.len());
    for (name, view) in file.iter() {
        if view.dtype() != Dtype::F32 {
            return Err(damaged(format!("tensor {name} is {:?}, expected F32", view.dtype())));
        }
        let (values, _) = view.data().as_chunks::<4>();
        tensors.push(NamedTensor {
            name: name.to_owned(),
            shape: view.shape().to_vec(),
            values: values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        });
    }
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(tensors)
}

fn read(path: &Path) -> Result<Vec<u8>, CheckpointError> {
    fs::read(path).map_err(|source| CheckpointError::Read { path: path.to_owned(), source })
}

/// Writes a new file and waits until the disk has it.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    let write = || -> io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|source| CheckpointError::Write { path: path.to_owned(), source })
}

/// Puts a file in the place of another at once: a reader, or a start after a crash, finds the old
/// content or the new one, never a part.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let replaced = write_synced(&temporary, bytes).and_then(|()| {
        fs::rename(&temporary, path)
            .map_err(|source| CheckpointError::Write { path: path.to_owned(), source })
    });
    if replaced.is_err() {
        // The file may not exist; the error that matters is the first one.
        let _ = fs::remove_file(&temporary);
        return replaced;
    }
    path.parent().map_or(Ok(()), sync_folder)
}

/// Waits until the disk has a folder's list of names.
pub(crate) fn sync_folder(path: &Path) -> Result<(), CheckpointError> {
    // Other systems cannot open a folder as a file, and need no such call.
    if cfg!(unix) {
        let synced = File::open(path).and_then(|folder| folder.sync_all());
        synced.map_err(|source| CheckpointError::Write { path: path.to_owned(), source })?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tensor(name: &str, shape: &[usize], values: &[f32]) -> NamedTensor {
        NamedTensor { name: name.to_owned(), shape: shape.to_vec(), values: values.to_vec() }
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint {
            step: 7,
            model: vec![tensor("output.bias", &[2], &[1.0, -0.0]), tensor("rnn.w", &[1, 2], &[0.1, 1e-45])],
            average: vec![tensor("output.bias", &[2], &[0.5, 3.0]), tensor("rnn.w", &[1, 2], &[0.2, 0.3])],
            optimizer: vec![tensor("first", &[3], &[f32::MAX, f32::MIN_POSITIVE, 3.0])],
            carried: Vec::new(),
            state: json!({"loss": 0.1 + 0.2, "seed": u64::MAX, "place": [1, 2]}),
        }
    }

    fn bits(tensors: &[NamedTensor]) -> Vec<u32> {
        tensors.iter().flat_map(|tensor| &tensor.values).map(|value| value.to_bits()).collect()
    }

    #[test]
    fn what_is_read_is_what_was_written_to_the_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("7");
        let mut written = checkpoint();
        written.carried.push(tensor("h", &[2], &[f32::from_bits(0x7fc0_1234), f32::NEG_INFINITY]));
        written.write(&path).unwrap();
        let read = Checkpoint::read(&path).unwrap();
        assert_eq!((read.step, &read.state), (7, &written.state));
        for (read, written) in [
            (&read.model, &written.model),
            (&read.optimizer, &written.optimizer),
            (&read.carried, &written.carried),
        ] {
            assert_eq!(bits(read), bits(written));
            let layout = |list: &[NamedTensor]| -> Vec<(String, Vec<usize>)> {
                list.iter().map(|tensor| (tensor.name.clone(), tensor.shape.clone())).collect()
            };
            assert_eq!(layout(read), layout(written));
        }
    }

    /// A number that the JSON parser rounds in the last place unless it is told not to: a resumed run
    /// must not differ by it.
    #[test]
    fn numbers_of_the_state_survive_to_the_bit() {
        let folder = tempfile::tempdir().unwrap();
        let mut numbers = Vec::new();
        let mut bits = 0x3fd5_5555_5555_5555_u64;
        for _ in 0..2000 {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            numbers.push(f64::from_bits(bits >> 12 | 0x3ff0_0000_0000_0000) / 3.0);
        }
        let mut written = checkpoint();
        written.state = json!(numbers);
        written.write(&folder.path().join("7")).unwrap();
        assert_eq!(Checkpoint::read(&folder.path().join("7")).unwrap().state, json!(numbers));
    }

    #[test]
    fn every_kind_of_damage_is_named() {
        type Damage = fn(&Path);
        let check = |damage: Damage, expected: &[&str]| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("7");
            checkpoint().write(&path).unwrap();
            damage(&path);
            let message = Checkpoint::read(&path).unwrap_err().to_string();
            for part in expected {
                assert!(message.contains(part), "{message:?} does not say {part:?}");
            }
        };
        fn edit(path: PathBuf, change: impl Fn(&mut Vec<u8>)) {
            let mut bytes = fs::read(&path).unwrap();
            change(&mut bytes);
            fs::write(&path, bytes).unwrap();
        }
        check(|p| edit(p.join(MODEL), |b| b.truncate(b.len() - 1)), &[MODEL, "bytes, expected"]);
        check(|p| edit(p.join(OPTIMIZER), |b| b.clear()), &[OPTIMIZER, "it has 0 bytes"]);
        check(|p| edit(p.join(MODEL), |b| *b.last_mut().unwrap() ^= 1), &[MODEL, "its CRC-32 is"]);
        check(|p| fs::remove_file(p.join(CARRIED)).unwrap(), &["could not read", CARRIED]);
        check(|p| edit(p.join(STATE), |b| b.truncate(20)), &[STATE, "damaged or foreign: EOF"]);
        check(|p| edit(p.join(STATE), |b| *b = b"{}".to_vec()), &[STATE, "missing field `format`"]);
        check(
            |p| {
                let text = fs::read_to_string(p.join(STATE)).unwrap();
                fs::write(p.join(STATE), text.replace("\"format\": 1", "\"format\": 9")).unwrap();
            },
            &[STATE, "its format is 9, expected 1"],
        );
        check(
            |p| {
                let text = fs::read_to_string(p.join(STATE)).unwrap();
                fs::write(p.join(STATE), text.replace(MODEL, "other")).unwrap();
            },
            &[STATE, "does not list model.safetensors"],
        );
    }

    #[test]
    fn a_file_that_is_no_safetensors_file_of_ours_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        let check = |bytes: &[u8], expected: &str| {
            fs::write(&path, bytes).unwrap();
            let message = read_tensors(&path).unwrap_err().to_string();
            assert!(message.contains("weights is damaged or foreign"), "{message}");
            assert!(message.contains(expected), "{message:?} does not say {expected:?}");
        };
        let file = |header: &str, data: &[u8]| {
            [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
        };
        let header = |dtype: &str, shape: &str, end: &str| {
            format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{end}]}}}}"#)
        };
        let good = file(&header("F32", "[2]", "8"), &[0; 8]);
        fs::write(&path, &good).unwrap();
        assert_eq!(read_tensors(&path).unwrap(), [tensor("w", &[2], &[0.0, 0.0])]);

        let incomplete = "it is no complete safetensors file";
        check(b"", incomplete);
        check(b"a text file, not weights", incomplete);
        check(&u64::MAX.to_le_bytes(), incomplete);
        check(&f64::NAN.to_le_bytes(), incomplete);
        check(&good[..good.len() - 4], incomplete);
        check(&[good.as_slice(), &[0; 4]].concat(), incomplete);
        check(&file(&header("F32", "[3]", "8"), &[0; 8]), incomplete);
        check(&file(&header("F32", "[18446744073709551615,2]", "8"), &[0; 8]), incomplete);
        check(&file(&header("F64", "[1]", "8"), &[0; 8]), "tensor w is F64, expected F32");
    }

    #[test]
    fn a_tensor_must_have_the_wanted_name_and_shape() {
        let tensors = [tensor("w", &[2, 1], &[1.0, 2.0])];
        let check = |name: &str, shape: &[usize], expected: &str| {
            let found = find_tensor(&tensors, name, shape).map(|tensor| tensor.values.len());
            let text = found.map_or_else(|error| error.to_string(), |values| values.to_string());
            assert_eq!(text, expected);
        };
        check("w", &[2, 1], "2");
        check("w", &[1, 2], "tensor w has shape [2, 1], expected [1, 2]");
        check("u", &[1], "tensor u is missing, expected shape [1]");
    }

    #[test]
    fn tensors_that_cannot_be_saved_are_refused() {
        let check = |model: Vec<NamedTensor>, expected: &str| {
            let folder = tempfile::tempdir().unwrap();
            let error = Checkpoint { model, ..checkpoint() }.write(&folder.path().join("7")).unwrap_err();
            assert!(error.to_string().starts_with(expected), "{error}");
        };
        check(vec![tensor("w", &[3], &[1.0])], "cannot save w: ");
        let twice = vec![tensor("w", &[1], &[1.0]), tensor("w", &[1], &[2.0])];
        check(twice, "cannot save w: model.safetensors has two tensors of this name");
    }
}
