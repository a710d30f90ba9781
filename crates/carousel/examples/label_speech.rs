//! Labels spoken words frame by frame: from the first loud stretch of a recording to the last it has the label that its
//! name begins with, the rest is silence. Writes `OUT/NAME.wav` and `OUT/NAME.labels`, which `train tag` reads:
//!
//! ```sh
//! cargo run --release --example label_speech -- labelled recordings/*.wav
//! carousel train recipes/spoken-frames.toml --data labelled
//! ```
use std::error::Error;
use std::path::Path;

use carousel::data::{read_documents, read_wav};

/// Seconds of a stretch whose loudness is measured.
const STRETCH: f64 = 0.010;
/// The share of the loudest stretch's amplitude that is loud.
const LOUD: f32 = 0.1;

/// Where the loud part begins and ends, in seconds.
fn loud_part(samples: &[f32], rate: u32) -> (f64, f64) {
    let length = ((STRETCH * f64::from(rate)) as usize).max(1);
    let loudness = |part: &[f32]| (part.iter().map(|x| x * x).sum::<f32>() / part.len() as f32).sqrt();
    let all: Vec<f32> = samples.chunks(length).map(loudness).collect();
    let least = all.iter().copied().fold(0.0, f32::max) * LOUD;
    let first = all.iter().position(|&x| x >= least).unwrap_or(0);
    let last = all.iter().rposition(|&x| x >= least).unwrap_or(0);
    (first as f64 * STRETCH, (last + 1) as f64 * STRETCH)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let out = arguments.next().ok_or("give a folder to write to, and WAV files")?;
    let out = Path::new(&out);
    std::fs::create_dir_all(out)?;
    for path in arguments.map(std::path::PathBuf::from) {
        let document = read_documents(std::slice::from_ref(&path))?.remove(0);
        let (samples, rate) = read_wav(&document)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let word = name.split('_').next().unwrap_or_default();
        let ((start, end), whole) = (loud_part(&samples, rate), samples.len() as f64 / f64::from(rate));
        let end = end.min(whole);
        let labels = format!("0\t{start}\tsilence\n{start}\t{end}\t{word}\n{end}\t{whole}\tsilence\n");
        std::fs::write(out.join(&*name), &document.bytes)?;
        std::fs::write(out.join(&*name).with_extension("labels"), labels)?;
    }
    Ok(())
}
