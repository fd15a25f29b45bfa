use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;

use image::{DynamicImage, GrayImage, ImageFormat, Luma, Rgb, RgbImage, Rgba, RgbaImage};
use tempfile::{TempDir, tempdir};

use super::*;

mod folders;
mod layouts;
mod numpy;

fn options(side: usize, channels: usize) -> Options {
    Options { seed: 3, glyph_count: 40, ..Options::new((side, side), channels) }
}

fn open(path: &Path, options: &Options) -> Result<Dataset, DataError> {
    Dataset::open(path.to_str().unwrap(), options)
}

/// A data set that opens, and what was found.
fn open_reported(path: &Path, options: &Options) -> (Dataset, Report) {
    let mut report = Report::default();
    let data = Dataset::open_reporting(path.to_str().unwrap(), options, &mut report, &|_, _| ()).unwrap();
    (data, report)
}

/// Opens what must be refused; the message must name the place and hold each of `words`.
#[track_caller]
fn refused(path: &Path, words: &[&str]) -> DataError {
    let error = open(path, &options(16, 1)).expect_err("should be refused");
    let message = error.to_string();
    for word in words {
        assert!(message.contains(word), "{message:?} lacks {word:?}");
    }
    assert!(message.contains(path.to_str().unwrap()), "{message:?} does not name {path:?}");
    assert!(!message.contains('\n') && !message.contains("  "), "{message:?} is not one paragraph");
    error
}

fn encode(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// A picture with detail all over.
pub(super) fn textured(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(x * 7) as u8, (y * 5) as u8, (x * y % 251) as u8]))
}

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempdir().unwrap();
    for (name, bytes) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    folder
}

fn idx(magic: u32, sizes: &[u32], body: &[u8]) -> Vec<u8> {
    let mut bytes = magic.to_be_bytes().to_vec();
    bytes.extend(sizes.iter().flat_map(|size| size.to_be_bytes()));
    bytes.extend(body);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

const IMAGES: &str = "train-images-idx3-ubyte";
const LABELS: &str = "train-labels-idx1-ubyte";

#[test]
fn bytes_and_units_are_inverse() {
    assert_eq!((to_unit(0), to_unit(255)), (-1.0, 1.0));
    assert!((0..=255).all(|byte| from_unit(to_unit(byte)) == byte));
    assert_eq!([-9.0, 9.0, f32::NAN].map(from_unit), [0, 255, 0]);
}

#[test]
fn subfolders_are_classes_in_sorted_order() {
    let grey = |value| encode(GrayImage::from_pixel(16, 16, Luma([value])), ImageFormat::Png);
    let folder = folder(&[
        ("dog/deep/c.png", &grey(30)),
        ("cat/b.png", &grey(20)),
        ("cat/a", &grey(10)),
        ("empty/notes.txt", b"BMX is no bitmap"),
        (".hidden/d.png", b"never read"),
        ("read me", b"P3rhaps not a picture"),
    ]);
    let data = open(folder.path(), &options(16, 1)).unwrap();
    assert_eq!(data.class_names, ["cat", "dog", "empty"]);
    assert_eq!(
        (0..data.len()).map(|i| (data.image(i)[0], data.label(i))).collect::<Vec<_>>(),
        [(10, 0), (20, 0), (30, 1)]
    );
}

#[test]
fn a_flat_folder_is_unlabelled_and_order_survives_threads() {
    let folder = tempdir().unwrap();
    for i in 0..60u8 {
        let image = GrayImage::from_pixel(20 + u32::from(i % 5), 20, Luma([i * 4]));
        fs::write(folder.path().join(format!("{i:03}.bmp")), encode(image, ImageFormat::Bmp)).unwrap();
    }
    let data = open(folder.path(), &options(8, 1)).unwrap();
    assert!(data.class_names.is_empty());
    assert!((0..60).all(|i| data.image(i) == [i as u8 * 4; 64] && data.label(i) == 0));
}

#[test]
fn pictures_are_turned_cropped_and_laid_on_white() {
    // Left half black, right half white; EXIF orientation 6 turns it a quarter right: black on top.
    let image = GrayImage::from_fn(16, 16, |x, _| Luma([if x < 8 { 0 } else { 255 }]));
    let mut jpeg = encode(image, ImageFormat::Jpeg);
    let mut exif = b"\xFF\xE1\x00\x22Exif\0\0MM\0*\0\0\0\x08\0\x01".to_vec();
    exif.extend(b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0");
    jpeg.splice(2..2, exif);
    // Transparent ink of any colour shows the paper.
    let clear = encode(RgbaImage::from_pixel(16, 16, Rgba([9, 9, 9, 0])), ImageFormat::Png);
    // 48 x 16 with a grey middle: only the middle is left.
    let long = GrayImage::from_fn(48, 16, |x, _| Luma([if (16..32).contains(&x) { 99 } else { 0 }]));
    let long = encode(long, ImageFormat::Png);
    let thin = encode(GrayImage::from_pixel(8192, 1, Luma([77])), ImageFormat::Png);
    let folder = folder(&[("a.jpg", &jpeg), ("b.png", &clear), ("c.png", &long), ("d.png", &thin)]);
    let data = open(folder.path(), &options(16, 1)).unwrap();
    assert!(data.image(0)[..64].iter().all(|&p| p < 20) && data.image(0)[192..].iter().all(|&p| p > 235));
    assert_eq!(data.image(1), [255; 256]);
    assert_eq!(data.image(2), [99; 256]);
    assert_eq!(data.image(3), [77; 256]);
}

#[test]
fn useless_folders_are_refused() {
    refused(&tempdir().unwrap().path().join("absent"), &["nothing at this path", "builtin:glyphs"]);
    refused(tempdir().unwrap().path(), &["it holds no file"]);
    refused(folder(&[("a/notes.txt", b"hello")]).path(), &["none of the 1 files in it"]);
    let png = encode(GrayImage::new(4, 4), ImageFormat::Png);
    refused(folder(&[("a/x.png", &png), ("y.png", &png)]).path(), &["y.png", "subfolder of its class"]);
    refused(folder(&[("x.png", b""), ("y.png", &png)]).path(), &["x.png", "0 bytes"]);
    let text = folder(&[("x.txt", b"hello")]);
    refused(&text.path().join("x.txt"), &["neither an IDX"]);
}

#[cfg(unix)]
#[test]
fn links_in_a_circle_end() {
    let png = encode(GrayImage::new(4, 4), ImageFormat::Png);
    let folder = folder(&[("a/x.png", &png)]);
    std::os::unix::fs::symlink(folder.path(), folder.path().join("a/loop")).unwrap();
    assert_eq!(open(folder.path(), &options(8, 1)).unwrap().len(), 1);
}

#[test]
fn bad_options_are_refused() {
    for (spec, options, words) in [
        ("builtin:cats", options(16, 1), "builtin:cats"),
        ("builtin:glyphs", options(0, 1), "size 0 x 0"),
        ("builtin:glyphs", options(16, 2), "2 channels"),
        ("builtin:glyphs", options(7, 1), "8 to 64"),
        ("builtin:glyphs", options(65, 1), "8 to 64"),
        ("builtin:glyphs", Options { glyph_count: 0, ..options(16, 1) }, "glyph_count"),
        ("builtin:glyphs", Options { glyph_count: usize::MAX, ..options(64, 3) }, "limit"),
    ] {
        let message = Dataset::open(spec, &options).expect_err(spec).to_string();
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn idx_pairs_read_plain_and_gzip() {
    let body: Vec<u8> = (0..2 * 16 * 16).map(|i| (i % 251) as u8).collect();
    let images = idx(0x803, &[2, 16, 16], &body);
    let labels = idx(0x801, &[2], &[7, 2]);
    let test = idx(0x803, &[1, 16, 16], &body[..256]);
    let plain = folder(&[(IMAGES, &images), (LABELS, &labels), ("t10k-images-idx3-ubyte", &test)]);
    let (zipped_images, zipped_labels) = (format!("{IMAGES}.gz"), format!("{LABELS}.gz"));
    let zipped = folder(&[(&zipped_images, &gzip(&images)), (&zipped_labels, &gzip(&labels))]);
    for path in [plain.path(), &plain.path().join(IMAGES), zipped.path(), &zipped.path().join(zipped_images)]
    {
        let data = open(path, &options(16, 1)).unwrap();
        assert_eq!(data.class_names, ["2", "7"]);
        assert_eq!([data.image(0), data.image(1)].concat(), body);
        assert_eq!([data.label(0), data.label(1)], [1, 0]);
    }
    let bare = folder(&[(IMAGES, &images)]);
    let data = open(bare.path(), &options(8, 3)).unwrap();
    assert_eq!((data.image(1).len(), data.class_names.len(), data.label(1)), (192, 0, 0));
}

#[test]
fn hostile_idx_files_are_refused() {
    let check = |name: &str, bytes: &[u8], words: &[&str]| {
        let folder = folder(&[(name, bytes)]);
        refused(&folder.path().join(name), words)
    };
    let good = idx(0x803, &[2, 4, 4], &[0; 32]);
    check(IMAGES, &good[..40], &["40 bytes", "announces 48"]);
    check(IMAGES, &good[..9], &["9 bytes", "announces 16"]);
    check(IMAGES, &[&good[..], &[0]].concat(), &["49 bytes", "announces 48"]);
    check(IMAGES, &idx(0x801, &[2, 4, 4], &[0; 32]), &["0x00000801", "0x00000803"]);
    check(IMAGES, &idx(0x803, &[u32::MAX; 3], &[0; 32]), &["shape"]);
    check(IMAGES, &idx(0x803, &[0, 4, 4], &[]), &["shape [0, 4, 4]"]);
    check(IMAGES, &idx(0x803, &[u32::MAX, 8192, 8192], &[0; 32]), &["limit"]);
    check(IMAGES, &idx(0x803, &[1 << 20, 28, 28], &[0; 32]), &["48 bytes", "announces 822083600"]);
    check(IMAGES, b"", &["0 bytes", "announces 16"]);

    let gz = format!("{IMAGES}.gz");
    check(&gz, &gzip(&good[..40]), &["40 bytes", "announces 48"]);
    check(&gz, &gzip(&[&good[..], &[0; 1 << 20]].concat()), &["49 bytes", "announces 48"]);
    check(&gz, &gzip(&idx(0x803, &[1 << 20, 28, 28], &[0; 32])), &["gzip file of", "can hold"]);
    let whole = gzip(&good);
    let error = check(&gz, &whole[..whole.len() - 6], &["gzip stream is damaged"]);
    assert!(std::error::Error::source(&error).is_some());
    let mut flipped = whole.clone();
    let crc = flipped.len() - 8;
    flipped[crc] ^= 1;
    check(&gz, &flipped, &["gzip stream is damaged"]);

    let labels = folder(&[(IMAGES, &good), (LABELS, &idx(0x801, &[3], &[0; 3]))]);
    let message = open(labels.path(), &options(8, 1)).unwrap_err().to_string();
    assert!(message.contains("3 labels for the 2 pictures") && message.contains(LABELS), "{message}");
}

#[test]
fn cifar_files_read_and_bad_ones_are_refused() {
    let mut record = vec![3];
    record.extend([[1; 1024], [2; 1024], [3; 1024]].concat());
    let two = [&record[..], &record].concat();
    let whole =
        folder(&[("data_batch_2.bin", &record), ("data_batch_1.bin", &two), ("test_batch.bin", b"x")]);
    let data = open(whole.path(), &options(32, 3)).unwrap();
    assert_eq!((data.len(), data.label(2), data.class_names[3].as_str()), (3, 3, "cat"));
    assert!(data.image(2).chunks(3).all(|pixel| pixel == [1, 2, 3]));

    let check = |files: &[(&str, &[u8])], words: &[&str]| {
        let folder = folder(files);
        refused(&folder.path().join("data_batch_1.bin"), words);
    };
    check(&[("data_batch_1.bin", &two[..6000])], &["6000 bytes", "3073"]);
    check(&[("data_batch_1.bin", b"")], &["0 bytes"]);
    record[0] = 10;
    check(&[("data_batch_1.bin", &record)], &["record 0", "label 10"]);
}

#[test]
fn a_split_is_a_seeded_partition() {
    let data = Dataset::open("builtin:glyphs", &options(16, 1)).unwrap();
    let (training, held_out) = data.clone().split(0.25, 5);
    assert_eq!((training.len(), held_out.len()), (30, 10));
    let mut rows = [&training.rows[..], &held_out.rows].concat();
    rows.sort_unstable();
    assert_eq!(rows, data.rows);
    assert_eq!(data.clone().split(0.25, 5).1.rows, held_out.rows);
    assert_ne!(data.clone().split(0.25, 6).1.rows, held_out.rows);
    let row = held_out.rows[4];
    assert_eq!((held_out.image(4), held_out.label(4)), (data.image(row), data.label(row)));
    assert!(data.split(0.0, 5).1.is_empty());
}

#[test]
fn glyphs_depend_on_seed_and_index_only() {
    let data = Dataset::open("builtin:glyphs", &options(16, 1)).unwrap();
    let more = Dataset::open("builtin:glyphs", &Options { glyph_count: 50, ..options(16, 1) }).unwrap();
    let other = Dataset::open("builtin:glyphs", &Options { seed: 4, ..options(16, 1) }).unwrap();
    for i in 0..40 {
        assert_eq!(data.image(i), more.image(i));
        assert_ne!(data.image(i), other.image(i));
        assert_eq!(data.label(i) as usize, i % 10);
    }
    assert_ne!(data.image(0), data.image(10));
}

/// The nearest class mean tells the glyphs apart, at every size and in colour.
#[test]
fn glyph_classes_are_distinct() {
    for (size, channels) in [((8, 8), 1), ((16, 16), 1), ((16, 16), 3), ((24, 40), 1), ((64, 64), 3)] {
        let options = Options { seed: 1, glyph_count: 600, ..Options::new(size, channels) };
        let data = Dataset::open("builtin:glyphs", &options).unwrap();
        let mut means = vec![vec![0.0; options.stride()]; 10];
        for i in 0..300 {
            let mean = means[data.label(i) as usize].iter_mut();
            mean.zip(data.image(i)).for_each(|(m, &p)| *m += f64::from(p) / 30.0);
        }
        let nearest = |image: &[u8]| {
            let distance = |mean: &[f64]| -> f64 {
                mean.iter().zip(image).map(|(m, &p)| (m - f64::from(p)).powi(2)).sum()
            };
            (0..10u32).min_by(|&a, &b| distance(&means[a as usize]).total_cmp(&distance(&means[b as usize])))
        };
        let right = (300..600).filter(|&i| nearest(data.image(i)) == Some(data.label(i))).count();
        assert!(right >= 240, "{right} of 300 at {size:?} x {channels}");
        // Dark ink on light paper: a little of it, but enough.
        let mean = |i| data.image(i).iter().map(|&p| usize::from(p)).sum::<usize>() / options.stride();
        assert!((0..600).all(|i| (130..=248).contains(&mean(i))), "{size:?}");
    }
}

#[test]
fn pictures_that_others_decoded_are_whole_and_have_their_classes() {
    let options = Options::new((2, 3), 1);
    let names = || vec!["cat".to_string(), "dog".to_string()];
    let made = Dataset::from_pictures(&options, names(), (0..12).collect(), vec![1, 0]).unwrap();
    assert_eq!((made.len(), made.image(1), made.label(0)), (2, &[6, 7, 8, 9, 10, 11][..], 1));
    let plain = Dataset::from_pictures(&options, Vec::new(), vec![0; 6], vec![7]).unwrap();
    assert_eq!((plain.len(), plain.label(0)), (1, 0));
    let refused = |pixels: usize, labels: &[u32], words: &str| {
        let error = Dataset::from_pictures(&options, names(), vec![0; pixels], labels.to_vec()).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    };
    refused(0, &[], "0 pixels");
    refused(7, &[0], "7 pixels");
    refused(12, &[0], "1 labels");
    refused(6, &[2], "label 2");
}
