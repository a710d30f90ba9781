//! Clips of a square that moves over noise, a label for every frame: which way it has just moved. One frame alone does
//! not tell. Writes them as folders of PNG files with their labels beside them:
//!
//! ```sh
//! cargo run --release --example motion -- clips 60 100 && cargo run --release --example motion -- long 2 2000
//! carousel train recipes/motion.toml --data clips --out runs/motion
//! ```
use std::error::Error;
use std::fs;
use std::path::Path;

use image::{GrayImage, Luma};

/// Height and width of a frame, and of the square.
const SIZE: u64 = 16;
const SQUARE: u64 = 4;
/// One in so many frames begins another way.
const TURNS: u64 = 12;

/// Numbers that look random and follow from a seed (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// Frames and labels of one clip. The square leaves at one edge and comes back at the other; the first frame, before
/// which nothing moved, has no label.
fn clip(seed: u64, frames: usize) -> Vec<(GrayImage, &'static str)> {
    let random = &mut Random(seed);
    let mut place = [random.below(SIZE), random.below(SIZE)];
    let mut way = random.below(4);
    (0..frames)
        .map(|frame| {
            if random.below(TURNS) == 0 {
                way = random.below(4);
            }
            let (axis, step, label) = match way {
                0 => (0, 1, "right"),
                1 => (0, SIZE - 1, "left"),
                2 => (1, 1, "down"),
                _ => (1, SIZE - 1, "up"),
            };
            place[axis] = (place[axis] + step) % SIZE;
            let inside = |x: u32, y: u32| {
                let from = |at: u32, start: u64| (u64::from(at) + SIZE - start) % SIZE;
                from(x, place[0]) < SQUARE && from(y, place[1]) < SQUARE
            };
            let shade = |x, y| if inside(x, y) { 160 } else { 30 };
            let image = GrayImage::from_fn(SIZE as u32, SIZE as u32, |x, y| {
                Luma([shade(x, y) + random.below(60) as u8])
            });
            (image, if frame == 0 { "_" } else { label })
        })
        .collect()
}

/// Writes clips as `FOLDER/0/0.png`, …, and their labels as `FOLDER/0.labels`.
pub(crate) fn write_clips(folder: &Path, clips: usize, frames: usize) -> Result<(), Box<dyn Error>> {
    // Seeds far apart for sets of different lengths.
    let seed = |number: usize| (frames * 1_000_000 + number) as u64;
    for number in 0..clips {
        let inner = folder.join(number.to_string());
        fs::create_dir_all(&inner)?;
        let mut labels = String::new();
        for (frame, (image, label)) in clip(seed(number), frames).iter().enumerate() {
            image.save(inner.join(format!("{frame}.png")))?;
            labels.push_str(label);
            labels.push('\n');
        }
        fs::write(folder.join(format!("{number}.labels")), labels)?;
    }
    Ok(())
}

#[allow(dead_code, reason = "the test that includes this file calls `write_clips` alone")]
fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, clips, frames] = arguments.as_slice() else {
        return Err("give a folder, how many clips, and how many frames each".into());
    };
    write_clips(Path::new(folder), clips.parse()?, frames.parse()?)
}
