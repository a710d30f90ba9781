//! Images, and folders of images that are the frames of a video.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;

use image::imageops::FilterType;
use image::{DynamicImage, ImageFormat, Rgba};

use super::frames::{LABELS, label};
use super::tagged::lines;
use super::{DataError, Document, fails, unpacked};

/// What images are brought to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageShape {
    /// 1 for shades of grey, 3 for red, green and blue.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl ImageShape {
    /// Values of an image.
    #[must_use]
    pub fn values(self) -> usize {
        self.channels * self.height * self.width
    }
}

/// A video with a label a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VideoExample {
    /// `[T, channels, height, width]`, from 0 to 255.
    pub frames: Vec<u8>,
    /// One label a frame; none where none were wanted.
    pub tags: Vec<String>,
    /// The folder.
    pub file: String,
}

/// Whether a name is that of an image.
pub(super) fn is_image(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    [".png", ".jpg", ".jpeg"].iter().any(|ending| name.ends_with(ending))
}

/// What is transparent of an image shows white paper: its own colour there is often black, and never seen.
fn on_paper(image: DynamicImage) -> DynamicImage {
    if !image.color().has_alpha() {
        return image;
    }
    let mut image = image.into_rgba8();
    for Rgba([colours @ .., alpha]) in image.pixels_mut() {
        let (seen, paper) = (u32::from(*alpha), 255 - u32::from(*alpha));
        colours.iter_mut().for_each(|colour| {
            *colour = ((u32::from(*colour) * seen + 255 * paper + 127) / 255) as u8;
        });
        *alpha = 255;
    }
    image.into()
}

/// Reads a PNG or JPEG image and scales it, `[channels, height, width]`.
///
/// # Errors
/// [`DataError::File`] for what is no image.
pub fn read_image(document: &Document, shape: ImageShape) -> Result<Vec<u8>, DataError> {
    let image = image::load_from_memory(&document.bytes)
        .map_err(|error| fails(document, format!("no PNG or JPEG image that can be read: {error}")))?;
    let image = on_paper(image);
    let (width, height) = (shape.width as u32, shape.height as u32);
    let image = match (image.width(), image.height()) == (width, height) {
        true => image,
        false => image.resize_exact(width, height, FilterType::Triangle),
    };
    if shape.channels == 1 {
        return Ok(image.into_luma8().into_raw());
    }
    let pixels = image.into_rgb8().into_raw();
    Ok((0..3).flat_map(|channel| pixels.iter().skip(channel).step_by(3).copied()).collect())
}

/// An image as a page shows it, at most so many pixels wide and high: its kind, its bytes, width and height.
///
/// # Errors
/// [`DataError`] for what cannot be read or is no image.
pub fn thumbnail(path: &Path, most: u32) -> Result<(&'static str, Vec<u8>, [u32; 2]), DataError> {
    let wrong = |reason: String| DataError::File { name: path.display().to_string(), reason };
    let bytes = std::fs::read(path).map_err(|source| DataError::Read { path: path.to_owned(), source })?;
    let image = image::load_from_memory(&bytes).map_err(|error| wrong(error.to_string()))?;
    let image = on_paper(image).into_rgb8();
    let large = image.width().max(image.height()) > most;
    let image = image::DynamicImage::from(image);
    let image = if large { image.thumbnail(most, most) } else { image };
    // Photographs are small as JPEG, drawings as PNG.
    let (kind, format) = match large {
        true => ("image/jpeg", ImageFormat::Jpeg),
        false => ("image/png", ImageFormat::Png),
    };
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).map_err(|error| wrong(error.to_string()))?;
    Ok((kind, bytes.into_inner(), [image.width(), image.height()]))
}

/// Reads videos: all images of a folder are the frames of one, in the order of the last number in their names. The
/// labels of folder `a` lie beside it in `a.labels`, a line a frame.
///
/// # Errors
/// [`DataError`] with file and line.
pub fn read_videos(
    documents: &[Document],
    shape: ImageShape,
    labelled: bool,
) -> Result<Vec<VideoExample>, DataError> {
    let mut folders: BTreeMap<&str, Vec<(u64, &Document)>> = BTreeMap::new();
    for document in documents.iter().filter(|document| !unpacked(&document.name).ends_with(LABELS)) {
        if !is_image(&document.name) {
            return Err(fails(
                document,
                "no name of an image, expected .png or .jpg, or .labels beside a folder",
            ));
        }
        let (folder, name) = document.name.rsplit_once('/').unwrap_or((".", &document.name));
        let number = last_number(name).ok_or_else(|| {
            fails(document, "its name has no number, expected one that says which frame it is")
        })?;
        folders.entry(folder).or_default().push((number, document));
    }
    let mut videos = Vec::new();
    for (folder, mut frames) in folders {
        frames.sort_by_key(|(number, _)| *number);
        if let Some(pair) = frames.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let reason = format!("{} is frame {} as well", pair[0].1.name, pair[0].0);
            return Err(fails(pair[1].1, reason));
        }
        let mut pixels = Vec::with_capacity(frames.len() * shape.values());
        for (_, document) in &frames {
            pixels.extend(read_image(document, shape)?);
        }
        let tags = if labelled { read_labels(documents, folder, frames.len())? } else { Vec::new() };
        videos.push(VideoExample { frames: pixels, tags, file: folder.to_owned() });
    }
    for document in documents.iter().filter(|_| labelled) {
        let stem = unpacked(&document.name).strip_suffix(LABELS);
        if stem.is_some_and(|stem| !videos.iter().any(|video| video.file == stem)) {
            let reason = "no folder of images of this name lies beside it; give the folder above";
            return Err(fails(document, reason));
        }
    }
    match videos.is_empty() {
        true => {
            Err(DataError::Examples { reason: "the data has no image, expected folders of them".to_owned() })
        }
        false => Ok(videos),
    }
}

fn read_labels(documents: &[Document], folder: &str, frames: usize) -> Result<Vec<String>, DataError> {
    let wanted = format!("{folder}{LABELS}");
    let document = documents.iter().find(|document| unpacked(&document.name) == wanted).ok_or_else(|| {
        let reason = format!("{wanted} with a label a frame is missing beside it; give the folder above");
        DataError::File { name: folder.to_owned(), reason }
    })?;
    let lines = lines(document)?;
    if lines.len() != frames {
        let reason = format!("{} labels, expected {frames}, one an image of {folder}", lines.len());
        return Err(fails(document, reason));
    }
    lines.iter().enumerate().map(|(place, line)| label(document, place + 1, line)).collect()
}

/// The last run of digits in a name, its ending left out.
fn last_number(name: &str) -> Option<u64> {
    let stem = name.rsplit_once('.').map_or(name, |parts| parts.0);
    let digits = stem.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let start = digits.trim_end_matches(|letter: char| letter.is_ascii_digit()).len();
    digits[start..].parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SHAPE: ImageShape = ImageShape { channels: 1, height: 2, width: 3 };

    fn document(name: &str, bytes: &[u8]) -> Document {
        Document { name: name.to_owned(), bytes: bytes.to_vec() }
    }

    fn encoded(image: &image::DynamicImage, format: image::ImageFormat) -> Vec<u8> {
        let mut bytes = std::io::Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    /// One shade all over.
    fn grey(shade: u8) -> Vec<u8> {
        let image = image::GrayImage::from_pixel(3, 2, image::Luma([shade]));
        encoded(&image.into(), image::ImageFormat::Png)
    }

    #[test]
    fn images_come_channel_after_channel_and_scaled() {
        let mut image = image::RgbImage::from_pixel(4, 2, image::Rgb([10, 20, 30]));
        image.put_pixel(1, 0, image::Rgb([200, 20, 30]));
        let shape = ImageShape { channels: 3, height: 2, width: 4 };
        let png = encoded(&image.clone().into(), image::ImageFormat::Png);
        let read = read_image(&document("a.png", &png), shape).unwrap();
        assert_eq!(read[..8], [10, 200, 10, 10, 10, 10, 10, 10]);
        assert_eq!((read[8], read[16]), (20, 30));
        let small = read_image(&document("a.png", &png), ImageShape { width: 2, ..shape }).unwrap();
        assert_eq!(small.len(), 12);
        assert!(small[0] > 60 && small[1] < 60, "{small:?}");
        let jpeg = encoded(&image.into(), image::ImageFormat::Jpeg);
        assert_eq!(read_image(&document("a.jpg", &jpeg), shape).unwrap().len(), 24);
    }

    #[test]
    fn every_kind_of_png_is_read_and_what_is_transparent_is_white() {
        let check = |image: image::DynamicImage, expected: [u8; 2]| {
            let shape = ImageShape { channels: 3, height: 1, width: 2 };
            let png = encoded(&image, image::ImageFormat::Png);
            let read = read_image(&document("a.png", &png), shape).unwrap();
            assert_eq!([read[0], read[1]], expected, "{:?}", image.color());
            let grey = read_image(&document("a.png", &png), ImageShape { channels: 1, ..shape }).unwrap();
            assert_eq!(grey, expected, "{:?} as shades of grey", image.color());
        };
        let black = |alpha| image::Rgba([0, 0, 0, alpha]);
        let mut clear = image::RgbaImage::from_pixel(2, 1, black(0));
        clear.put_pixel(1, 0, black(255));
        check(clear.clone().into(), [255, 0]);
        clear.put_pixel(1, 0, black(51));
        check(clear.into(), [255, 204]);
        let mut grey = image::GrayAlphaImage::from_pixel(2, 1, image::LumaA([0, 0]));
        grey.put_pixel(1, 0, image::LumaA([100, 255]));
        check(grey.into(), [255, 100]);
        let mut deep = image::ImageBuffer::from_pixel(2, 1, image::Luma([0_u16]));
        deep.put_pixel(1, 0, image::Luma([100 * 257]));
        check(image::DynamicImage::ImageLuma16(deep), [0, 100]);
    }

    #[test]
    fn frames_stand_in_the_order_of_their_numbers() {
        let files = [
            document("v/a.labels", b"x\ny\nx\n"),
            document("v/a/f10.png", &grey(3)),
            document("v/a/f2.png", &grey(2)),
            document("v/a/f1.png", &grey(1)),
        ];
        let found = read_videos(&files, SHAPE, true).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].file.as_str(), found[0].tags.join(" ")), ("v/a", "x y x".to_owned()));
        assert_eq!(found[0].frames, [[1; 6], [2; 6], [3; 6]].concat());
        assert!(read_videos(&files[1..], SHAPE, false).unwrap()[0].tags.is_empty());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |files: &[Document], expected: &str| {
            let message = read_videos(files, SHAPE, true).unwrap_err().to_string();
            assert!(message.starts_with(expected), "{message}");
        };
        let one = document("a/1.png", &grey(1));
        check(std::slice::from_ref(&one), "a: a.labels with a label a frame is missing beside it");
        check(
            &[document("a/1.png", b"no image"), document("a.labels", b"x\n")],
            "a/1.png: no PNG or JPEG image",
        );
        check(&[document("a/one.png", &grey(1))], "a/one.png: its name has no number");
        check(&[document("a/1.gif", b"x")], "a/1.gif: no name of an image, expected .png or .jpg");
        check(&[one.clone(), document("a/01.png", &grey(1))], "a/01.png: a/1.png is frame 1 as well");
        check(
            &[one.clone(), document("a.labels", b"x\ny\n")],
            "a.labels: 2 labels, expected 1, one an image of a",
        );
        check(&[one.clone(), document("a.labels", b" \n")], "a.labels:1: the label is empty");
        check(
            &[one, document("a.labels", b"x\n"), document("b.labels", b"x\n")],
            "b.labels: no folder of images of this name lies beside it",
        );
        check(&[], "the data has no image");
        let cut = &grey(1)[..30];
        check(&[document("a/1.png", cut), document("a.labels", b"x\n")], "a/1.png: no PNG or JPEG image");
    }
}
