//! Sound as a row of feature vectors: the logarithm of the energy in bands of equal width on the mel scale.

use std::io::Cursor;

use hound::{SampleFormat, WavReader};
use realfft::RealFftPlanner;

use super::{DataError, Document, fails};

/// Bands, the values of a frame of [`log_mel`].
pub const BANDS: usize = 40;
/// Coefficients, the values of a frame of [`mfcc`].
pub const COEFFICIENTS: usize = 13;
/// Seconds that a frame looks at, and from one frame to the next.
const WINDOW: f64 = 0.025;
const HOP: f64 = 0.010;
/// What of all that WAV files may hold is read.
const WANTED: &str = "expected PCM of 8 to 32 bits, or floats of 32 bits";
/// Energy below this counts as silence.
const FLOOR: f32 = 1e-6;

/// Samples of a WAV file from -1 to 1, its channels as one, and how many there are a second.
///
/// # Errors
/// [`DataError::File`] for what is no WAV file, or has no sample.
pub fn read_wav(document: &Document) -> Result<(Vec<f32>, u32), DataError> {
    let mut reader = WavReader::new(Cursor::new(&document.bytes))
        .map_err(|error| fails(document, format!("no WAV file that can be read: {error}; {WANTED}")))?;
    let spec = reader.spec();
    let values: Result<Vec<f32>, hound::Error> = match spec.sample_format {
        SampleFormat::Float => reader.samples::<f32>().collect(),
        SampleFormat::Int => {
            let scale = 1.0 / (1_i64 << (spec.bits_per_sample - 1)) as f32;
            reader.samples::<i32>().map(|sample| sample.map(|sample| sample as f32 * scale)).collect()
        }
    };
    let values = values.map_err(|error| fails(document, format!("its samples cannot be read: {error}")))?;
    let channels = usize::from(spec.channels.max(1));
    let samples: Vec<f32> =
        values.chunks_exact(channels).map(|all| all.iter().sum::<f32>() / channels as f32).collect();
    if samples.is_empty() {
        return Err(fails(document, "it has no sample, expected sound"));
    }
    if let Some(place) = samples.iter().position(|sample| !sample.is_finite()) {
        return Err(fails(document, format!("sample {place} is not a number")));
    }
    Ok((samples, spec.sample_rate))
}

/// Log-mel features `[T, BANDS]`, a frame every 10 ms over 25 ms. Sound that is shorter than a frame is one frame.
#[must_use]
pub fn log_mel(samples: &[f32], rate: u32) -> Vec<f32> {
    let window = ((WINDOW * f64::from(rate)) as usize).max(2);
    let hop = ((HOP * f64::from(rate)) as usize).max(1);
    let size = window.next_power_of_two();
    let fft = RealFftPlanner::<f32>::new().plan_fft_forward(size);
    let shape: Vec<f32> = (0..window)
        .map(|place| {
            let angle = std::f64::consts::TAU * place as f64 / window as f64;
            (0.5 - 0.5 * angle.cos()) as f32
        })
        .collect();
    let filters = filters(size, rate);
    let frames = 1 + samples.len().saturating_sub(window) / hop;
    let mut features = Vec::with_capacity(frames * BANDS);
    let (mut input, mut spectrum) = (fft.make_input_vec(), fft.make_output_vec());
    for frame in 0..frames {
        input.fill(0.0);
        let chosen = &samples[(frame * hop).min(samples.len())..];
        for ((input, &sample), &shape) in input.iter_mut().zip(chosen).zip(&shape) {
            *input = sample * shape;
        }
        fft.process(&mut input, &mut spectrum).expect("both have the lengths that were asked for");
        let power: Vec<f32> = spectrum.iter().map(|bin| bin.norm_sqr()).collect();
        for filter in &filters {
            let energy: f32 = filter.iter().map(|&(bin, weight)| power[bin] * weight).sum();
            features.push(energy.max(FLOOR).ln());
        }
    }
    features
}

/// What sound becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoundFeatures {
    /// [`log_mel`].
    LogMel,
    /// [`mfcc`].
    Mfcc,
}

impl SoundFeatures {
    /// Values of a frame.
    #[must_use]
    pub fn width(self) -> usize {
        match self {
            SoundFeatures::LogMel => BANDS,
            SoundFeatures::Mfcc => COEFFICIENTS,
        }
    }

    /// The frames of some sound, `[T, width]`.
    #[must_use]
    pub fn of(self, samples: &[f32], rate: u32) -> Vec<f32> {
        match self {
            SoundFeatures::LogMel => log_mel(samples, rate),
            SoundFeatures::Mfcc => mfcc(samples, rate),
        }
    }
}

/// Mel-frequency cepstral coefficients `[T, COEFFICIENTS]` (Davis and Mermelstein 1980): the first ones of the discrete
/// cosine transform of each frame of [`log_mel`], the one of the mean energy included.
#[must_use]
pub fn mfcc(samples: &[f32], rate: u32) -> Vec<f32> {
    log_mel(samples, rate).chunks_exact(BANDS).flat_map(cosines).collect()
}

/// The orthonormal DCT-II, as SciPy's `dct(x, norm="ortho")`: `c[k] = √(2 / N) Σ x[n] cos(π k (n + ½) / N)`, and `c[0]`
/// over √2.
fn cosines(bands: &[f32]) -> [f32; COEFFICIENTS] {
    let count = bands.len() as f64;
    std::array::from_fn(|k| {
        let angle = |n: usize| std::f64::consts::PI * k as f64 * (n as f64 + 0.5) / count;
        let sum: f64 = bands.iter().enumerate().map(|(n, &x)| f64::from(x) * angle(n).cos()).sum();
        let scale = if k == 0 { 1.0 / count } else { 2.0 / count };
        (sum * scale.sqrt()) as f32
    })
}

/// The seconds at which a frame of [`log_mel`] has its middle.
pub(super) fn frame_middle(frame: usize, rate: u32) -> f64 {
    let hop = ((HOP * f64::from(rate)) as usize).max(1);
    (frame * hop) as f64 / f64::from(rate) + WINDOW / 2.0
}

/// Triangles between neighbouring bands, as bins and their weights. A band narrower than a bin takes the nearest.
fn filters(size: usize, rate: u32) -> Vec<Vec<(usize, f32)>> {
    let mel = |hertz: f64| 2595.0 * (1.0 + hertz / 700.0).log10();
    let hertz = |mel: f64| 700.0 * (10f64.powf(mel / 2595.0) - 1.0);
    let top = mel(f64::from(rate) / 2.0);
    let edge = |band: usize| hertz(top * band as f64 / (BANDS + 1) as f64);
    let width = f64::from(rate) / size as f64;
    (0..BANDS)
        .map(|band| {
            let (low, middle, high) = (edge(band), edge(band + 1), edge(band + 2));
            let weight = |bin: usize| {
                let at = bin as f64 * width;
                ((at - low) / (middle - low)).min((high - at) / (high - middle)).max(0.0) as f32
            };
            let all: Vec<(usize, f32)> =
                (0..=size / 2).map(|bin| (bin, weight(bin))).filter(|&(_, weight)| weight > 0.0).collect();
            if all.is_empty() { vec![((middle / width).round() as usize, 1.0)] } else { all }
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const RAMP: [f64; 4] = [123.3288, -72.4809, -0.0000, -8.0368];

    fn tone(hertz: f64, rate: u32, count: usize) -> Vec<f32> {
        let step = std::f64::consts::TAU * hertz / f64::from(rate);
        (0..count).map(|place| (0.5 * (place as f64 * step).sin()) as f32).collect()
    }

    #[test]
    fn a_tone_is_loudest_in_its_own_band() {
        let mel = |hertz: f64| 2595.0 * (1.0 + hertz / 700.0).log10();
        for (hertz, rate) in [(440.0, 8000), (1000.0, 16000), (3000.0, 8000)] {
            let features = log_mel(&tone(hertz, rate, rate as usize), rate);
            assert_eq!(features.len() % BANDS, 0);
            assert_eq!(features.len() / BANDS, 98, "a second has 98 whole frames");
            let expected = mel(hertz) / mel(f64::from(rate) / 2.0) * (BANDS + 1) as f64 - 1.0;
            let frame = &features[10 * BANDS..11 * BANDS];
            let loudest = (0..BANDS).max_by(|&a, &b| frame[a].total_cmp(&frame[b])).unwrap();
            assert!((loudest as f64 - expected).abs() <= 1.0, "{hertz}: band {loudest}, expected {expected}");
        }
        assert_eq!(log_mel(&[0.1], 8000).len(), BANDS, "the shortest sound is one frame");
    }

    /// A wave of the transform's own is one coefficient, and what it keeps of a frame is its energy.
    #[test]
    fn a_wave_is_one_coefficient() {
        let wave = |k: usize| -> Vec<f32> {
            let angle = |n: usize| std::f64::consts::PI * k as f64 * (n as f64 + 0.5) / BANDS as f64;
            (0..BANDS).map(|n| angle(n).cos() as f32).collect()
        };
        for k in 0..COEFFICIENTS {
            let expected = if k == 0 { (BANDS as f32).sqrt() } else { (BANDS as f32 / 2.0).sqrt() };
            for (place, found) in cosines(&wave(k)).into_iter().enumerate() {
                let expected = if place == k { expected } else { 0.0 };
                assert!((found - expected).abs() < 1e-4, "{k}: {place} is {found}");
            }
        }
        // scipy.fft.dct([0, 1, ..., 39], norm="ortho") begins so.
        let ramp: Vec<f32> = (0..BANDS).map(|n| n as f32).collect();
        for (found, expected) in cosines(&ramp).into_iter().zip(RAMP) {
            assert!((f64::from(found) - expected).abs() < 1e-3, "{found}, expected {expected}");
        }
        let sound = tone(440.0, 8000, 800);
        assert_eq!(mfcc(&sound, 8000).len(), log_mel(&sound, 8000).len() / BANDS * COEFFICIENTS);
        assert_eq!(mfcc(&sound, 8000), SoundFeatures::Mfcc.of(&sound, 8000));
    }

    #[test]
    fn every_kind_of_wav_is_read() {
        let write = |bits, format, channels| {
            let spec =
                hound::WavSpec { channels, sample_rate: 8000, bits_per_sample: bits, sample_format: format };
            let mut bytes = Cursor::new(Vec::new());
            let mut writer = hound::WavWriter::new(&mut bytes, spec).unwrap();
            for place in 0..100 * usize::from(channels) {
                let value = if place / usize::from(channels) % 2 == 0 { 0.5_f32 } else { -0.25 };
                match format {
                    SampleFormat::Float => writer.write_sample(value).unwrap(),
                    SampleFormat::Int => {
                        writer.write_sample((value * (1_i64 << (bits - 1)) as f32) as i32).unwrap()
                    }
                }
            }
            writer.finalize().unwrap();
            Document { name: "a.wav".to_owned(), bytes: bytes.into_inner() }
        };
        for (bits, format, channels) in [
            (16, SampleFormat::Int, 1),
            (24, SampleFormat::Int, 2),
            (8, SampleFormat::Int, 1),
            (32, SampleFormat::Float, 2),
        ] {
            let (samples, rate) = read_wav(&write(bits, format, channels)).unwrap();
            assert_eq!((samples.len(), rate), (100, 8000), "{bits} bits");
            assert!(
                (samples[0] - 0.5).abs() < 0.01 && (samples[1] + 0.25).abs() < 0.01,
                "{bits} bits: {samples:?}"
            );
        }
        let check = |bytes: &[u8], expected: &str| {
            let document = Document { name: "a.wav".to_owned(), bytes: bytes.to_vec() };
            let message = read_wav(&document).unwrap_err().to_string();
            assert!(message.starts_with("a.wav: ") && message.contains(expected), "{message}");
        };
        check(b"no sound", "no WAV file that can be read");
        let whole = write(16, SampleFormat::Int, 1).bytes;
        check(&whole[..whole.len() - 3], "cannot be read");
        check(&whole[..20], "no WAV file that can be read");
    }
}
