//! Arrays, written here as NumPy writes them.

use super::*;
use zip::write::SimpleFileOptions;

/// A `.npy` file of format version 1.
fn npy(descr: &str, fortran: bool, shape: &[usize], body: &[u8]) -> Vec<u8> {
    let sizes: String = shape.iter().map(|size| format!("{size}, ")).collect();
    let order = if fortran { "True" } else { "False" };
    with_header(&format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': ({sizes}), }}"), body)
}

fn with_header(dictionary: &str, body: &[u8]) -> Vec<u8> {
    let length = (dictionary.len() + 11).next_multiple_of(64) - 10;
    let header = format!("{dictionary:<0$}\n", length - 1);
    [&b"\x93NUMPY\x01\0"[..], &u16::try_from(length).unwrap().to_le_bytes(), header.as_bytes(), body].concat()
}

fn npz(arrays: &[(&str, Vec<u8>)], method: zip::CompressionMethod) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in arrays {
        let options = SimpleFileOptions::default().compression_method(method);
        archive.start_file(format!("{name}.npy"), options).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

fn stored(arrays: &[(&str, Vec<u8>)]) -> Vec<u8> {
    npz(arrays, zip::CompressionMethod::Stored)
}

/// Opens a single array at its own size.
fn open_array(bytes: &[u8], size: (usize, usize), channels: usize) -> Dataset {
    let folder = folder(&[("x.npy", bytes)]);
    open(&folder.path().join("x.npy"), &Options { size, ..options(8, channels) }).unwrap()
}

#[track_caller]
fn refused_array(bytes: &[u8], words: &[&str]) {
    let folder = folder(&[("x.npy", bytes)]);
    refused(&folder.path().join("x.npy"), words);
}

fn labels_i64(labels: &[i64]) -> Vec<u8> {
    npy("<i8", false, &[labels.len()], &labels.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>())
}

/// The file that `sample --format npz` and evaluation tools write.
#[test]
fn arr_0_and_arr_1_are_pictures_and_labels() {
    let body: Vec<u8> = (0..2 * 4 * 5 * 3).collect();
    let arrays = [("arr_0", npy("|u1", false, &[2, 4, 5, 3], &body)), ("arr_1", labels_i64(&[4, 0]))];
    for method in [zip::CompressionMethod::Stored, zip::CompressionMethod::Deflated] {
        let folder = folder(&[("samples.npz", &npz(&arrays, method))]);
        let options = Options { size: (4, 5), ..options(8, 3) };
        for path in [folder.path(), &folder.path().join("samples.npz")] {
            let (data, report) = open_reported(path, &options);
            assert_eq!([data.image(0), data.image(1)].concat(), body);
            assert_eq!(
                (data.class_names.clone(), data.label(0), data.label(1)),
                (vec!["0".into(), "4".into()], 1, 0)
            );
            assert!(report.layout.contains("2 pictures of 4 x 5, RGB"), "{}", report.layout);
            assert_eq!(report.other, OtherFiles::default());
        }
    }
}

#[test]
fn a_folder_of_samples_is_its_archive() {
    let grid = encode(textured(8, 8), ImageFormat::Png);
    let samples = stored(&[("arr_0", npy("|u1", false, &[3, 2, 2, 1], &[9; 12]))]);
    let folder = folder(&[("grid.png", &grid), ("samples.json", b"{}"), ("samples.npz", &samples)]);
    let (data, report) = open_reported(folder.path(), &options(2, 1));
    assert_eq!((data.len(), data.image(2)), (3, &[9; 4][..]));
    assert!(report.passed_over[0].path.ends_with("grid.png"));
}

#[test]
fn axes_are_told_by_their_sizes() {
    let body: Vec<u8> = (0..2 * 4 * 5 * 3).collect();
    // Channels first: planes become neighbours.
    let first = open_array(&npy("|u1", false, &[2, 3, 4, 5], &body), (4, 5), 3);
    assert_eq!(first.image(0)[..6], [0, 20, 40, 1, 21, 41]);
    assert_eq!(first.image(1)[..3], [60, 80, 100]);
    for shape in [&[6, 4, 5][..], &[6, 4, 5, 1], &[6, 1, 4, 5]] {
        let grey = open_array(&npy("|u1", false, shape, &body), (4, 5), 1);
        assert_eq!((grey.len(), grey.image(5)), (6, &body[100..]), "{shape:?}");
    }
    // The same array with its first index fastest.
    let shape = [2, 4, 5, 3];
    let mut fortran = Vec::new();
    for (c, w, h, n) in (0..3)
        .flat_map(|c| (0..5).flat_map(move |w| (0..4).flat_map(move |h| (0..2).map(move |n| (c, w, h, n)))))
    {
        fortran.push(body[((n * 4 + h) * 5 + w) * 3 + c]);
    }
    let data = open_array(&npy("|u1", true, &shape, &fortran), (4, 5), 3);
    assert_eq!([data.image(0), data.image(1)].concat(), body);

    let array = |shape: &[usize]| npy("|u1", false, shape, &vec![0; shape.iter().product()]);
    refused_array(&array(&[2, 3, 3, 3]), &["[2, 3, 3, 3]", "second size or the last"]);
    refused_array(&array(&[16, 16, 3]), &["one picture", "x[None]"]);
    refused_array(&array(&[2, 64]), &["reshape"]);
    refused_array(&array(&[2, 8, 8, 4]), &["four channels"]);
    refused_array(&array(&[2, 8, 8, 2]), &["C = 1 or 3"]);
    refused_array(&array(&[0, 8, 8]), &["[0, 8, 8]", "at least one"]);
    refused_array(&array(&[8]), &["[8]"]);
    refused_array(&npy("|u1", false, &[], &[0]), &["[]"]);
}

#[test]
fn values_mean_what_their_type_and_range_say() {
    /// Four values as one picture.
    fn bytes_of(descr: &str, values: [f64; 4]) -> Vec<u8> {
        let encode = |value: f64| match descr {
            "<f2" => half::f16::from_f64(value).to_le_bytes().to_vec(),
            "<f4" => (value as f32).to_le_bytes().to_vec(),
            ">f4" => (value as f32).to_be_bytes().to_vec(),
            "<f8" => value.to_le_bytes().to_vec(),
            ">u2" => (value as u16).to_be_bytes().to_vec(),
            "<i4" => (value as i32).to_le_bytes().to_vec(),
            "|i1" => (value as i8).to_le_bytes().to_vec(),
            _ => vec![value as u8],
        };
        npy(descr, false, &[1, 2, 2], &values.into_iter().flat_map(encode).collect::<Vec<_>>())
    }
    for (descr, values, expected, rule) in [
        ("<f4", [0.0, 0.2, 0.5, 1.0], [0, 51, 128, 255], "multiplied by 255"),
        (">f4", [0.0, 0.2, 0.5, 1.0], [0, 51, 128, 255], "multiplied by 255"),
        ("<f2", [-1.0, 0.0, 0.5, 1.0], [0, 128, 191, 255], "-1 black to 1 white"),
        ("<f8", [0.0, 1.4, 2.6, 255.0], [0, 1, 3, 255], "as they are"),
        (">u2", [0.0, 257.0, 514.0, 65535.0], [0, 1, 2, 255], "divided by 257"),
        (">u2", [0.0, 1.0, 2.0, 255.0], [0, 1, 2, 255], "as they are"),
        ("<i4", [0.0, 1.0, 2.0, 255.0], [0, 1, 2, 255], "as they are"),
        ("|b1", [0.0, 1.0, 1.0, 0.0], [0, 255, 255, 0], "multiplied by 255"),
        ("|u1", [0.0, 1.0, 1.0, 0.0], [0, 1, 1, 0], "above 1 of 255, so every picture is black"),
    ] {
        let folder = folder(&[("x.npy", &bytes_of(descr, values))]);
        let (data, report) = open_reported(folder.path(), &options(2, 1));
        assert_eq!(data.image(0), expected, "{descr} {values:?}");
        assert!(report.notes.iter().any(|note| note.contains(rule)), "{descr}: {:?}", report.notes);
    }
    for (descr, values, words) in [
        ("<f4", [0.0, 0.2, 0.5, 1.2], ["0 to 1.2", "0 to 1, -1 to 1"]),
        ("<f4", [-2.1, 0.2, 0.5, 2.6], ["-2.1", "to 2.6"]),
        ("<f8", [0.0, 0.2, 0.5, 256.0], ["0 to 256", "float64"]),
        ("<f4", [0.0, f64::NAN, 0.5, 1.0], ["picture 0", "not finite"]),
        ("<f4", [0.0, f64::INFINITY, 0.5, 1.0], ["picture 0", "not finite"]),
        (">u2", [0.0, 1.0, 2.0, 4095.0], ["0 to 4095", "depth cannot be told"]),
        ("<i4", [0.0, 1.0, 2.0, 256.0], ["0 to 256", "int32"]),
        ("|i1", [0.0, 1.0, 2.0, -1.0], ["-1 to 2", "int8"]),
    ] {
        refused_array(&bytes_of(descr, values), &words);
    }
}

#[test]
fn parts_and_labels_are_told_by_name() {
    let one = |value: u8| npy("|u1", false, &[1, 2, 2], &[value; 4]);
    let label = |value: i64| labels_i64(&[value]);
    let column = npy("|u1", false, &[1, 1], &[7]);
    let keras = [("x_train", one(10)), ("y_train", label(1)), ("x_test", one(20)), ("y_test", label(2))];
    let medmnist = [
        ("train_images", one(10)),
        ("train_labels", column),
        ("val_images", one(30)),
        ("test_images", one(20)),
    ];
    let in_npz = |arrays: &[(&str, Vec<u8>)]| folder(&[("a.npz", &stored(arrays))]);
    let in_files = |arrays: &[(&str, Vec<u8>)]| {
        let names: Vec<String> = arrays.iter().map(|(name, _)| format!("{name}.npy")).collect();
        folder(
            &names
                .iter()
                .zip(arrays)
                .map(|(name, (_, bytes))| (name.as_str(), &bytes[..]))
                .collect::<Vec<_>>(),
        )
    };
    let split = |name: &str| Options { split: Some(name.into()), ..options(2, 1) };
    for place in [in_npz(&keras), in_files(&keras)] {
        let (data, report) = open_reported(place.path(), &options(2, 1));
        assert_eq!((data.image(0)[0], data.class_names.concat().as_str()), (10, "1"));
        assert!(report.passed_over[0].path.to_str().unwrap().contains("x_test"), "{:?}", report.passed_over);
        let data = open(place.path(), &split("test")).unwrap();
        assert_eq!((data.image(0)[0], data.class_names.concat().as_str()), (20, "2"));
        let message = open(place.path(), &split("val")).unwrap_err().to_string();
        assert!(message.contains("no split `val`") && message.contains("test, train"), "{message}");
    }
    let place = in_npz(&medmnist);
    assert_eq!(open(place.path(), &options(2, 1)).unwrap().class_names, ["7"]);
    assert_eq!(open(place.path(), &split("val")).unwrap().image(0)[0], 30);

    for (pictures, classes) in
        [("images", "labels"), ("X", "y"), ("data", "label"), ("cats", "cats_labels"), ("cats", "labels")]
    {
        let place = in_files(&[(pictures, one(10)), (classes, label(3))]);
        for path in [place.path().to_path_buf(), place.path().join(format!("{pictures}.npy"))] {
            assert_eq!(open(&path, &options(2, 1)).unwrap().class_names, ["3"], "{pictures}, {classes}");
        }
    }

    refused(
        in_npz(&[("mu", one(1)), ("sigma", one(1))]).path(),
        &["no array of a name for pictures: mu, sigma"],
    );
    refused(in_npz(&[("images", one(1)), ("data", one(1))]).path(), &["several arrays of pictures"]);
    refused(
        in_npz(&[("x", one(1)), ("y", label(1)), ("labels", label(1))]).path(),
        &["several arrays of labels: labels, y"],
    );
    refused(in_files(&[("0001", one(1)), ("0002", one(1))]).path(), &["0001, 0002", "numpy.stack"]);
    let two = folder(&[("a.npz", &stored(&keras)), ("b.npz", &stored(&keras))]);
    refused(two.path(), &["more than one", "a.npz", "b.npz"]);

    let with = |labels: Vec<u8>| in_files(&[("x", one(1)), ("y", labels)]);
    refused(with(labels_i64(&[1, 2])).path(), &["2 labels for the 1 pictures"]);
    refused(with(label(-1)).path(), &["label 0 is -1"]);
    refused(with(npy("<f4", false, &[1], &[0; 4])).path(), &["float32", "astype"]);
    refused(with(npy("|u1", false, &[1, 10], &[0; 10])).path(), &["argmax"]);
    refused(with(npy("<U5", false, &[1], &[0; 20])).path(), &["`<U5`"]);
}

#[test]
fn hostile_arrays_are_refused() {
    let body = [0; 8];
    let good = npy("|u1", false, &[2, 2, 2], &body);
    refused_array(b"", &["no .npy data", "within the header"]);
    refused_array(b"\x93NUMPZ\x01\0", &["no .npy data"]);
    refused_array(&good[..40], &["within the header"]);
    refused_array(&good[..good.len() - 1], &["135 bytes", "announces 136"]);
    refused_array(&[&good[..], &[0]].concat(), &["137 bytes", "announces 136"]);
    refused_array(&[b"\x93NUMPY\x02\0", &u32::MAX.to_le_bytes()[..]].concat(), &["4294967295 bytes long"]);
    refused_array(&[b"\x93NUMPY\x09\0", &[0; 8][..]].concat(), &["version 9"]);
    refused_array(&npy("|O", false, &[2, 2, 2], b"\x80\x02"), &["object array", "pickle"]);
    refused_array(&npy("<c8", false, &[2, 2, 2], &body), &["`<c8`"]);
    refused_array(&npy("|u1", false, &[usize::MAX, 8, 8], &body), &["announces"]);
    let structured = with_header("{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (2,), }", &body);
    refused_array(&structured, &["structured array"]);
    for dictionary in [
        "",
        "{}",
        "{'descr': '|u1'",
        "{'descr': '|u1', 'fortran_order': 0, 'shape': (2, 2, 2)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (2, -2, 2)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 99999999999999999999999, 2)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': ((2, 2, 2)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2, 2), 'other': 1}",
        "((((((((((((((((((((((((((((((((",
    ] {
        refused_array(&with_header(dictionary, &body), &["not the dictionary"]);
    }
    refused_array(
        &with_header("{'descr': '', 'fortran_order': False, 'shape': (2, 2, 2)}", &body),
        &["type"],
    );
    refused_array(
        &with_header("{'descr': '<é', 'fortran_order': False, 'shape': (2, 2, 2)}", &body),
        &["type"],
    );

    let archive = |bytes: &[u8]| {
        let folder = folder(&[("a.npz", bytes)]);
        let path = folder.path().join("a.npz");
        (folder, path)
    };
    let (_keep, path) = archive(b"no zip at all");
    refused(&path, &["a.npz", "no .npz file"]);
    // An archive has no length to compare with; what it announces is neither allocated nor believed.
    for shape in [&[2, 2, 3][..], &[40_000_000, 8192, 8192], &[1, 8192, 8192, 3], &[usize::MAX, 8192, 8192]] {
        for fortran in [false, true] {
            let (_keep, path) = archive(&stored(&[("arr_0", npy("<f8", fortran, shape, &body))]));
            refused(&path, &["a.npz"]);
        }
    }
    let mut damaged = stored(&[("arr_0", good)]);
    let at = damaged.windows(6).position(|bytes| bytes == b"\x93NUMPY").unwrap();
    damaged[at + 130] ^= 1;
    let (_keep, path) = archive(&damaged);
    refused(&path, &["arr_0", "damaged"]);
    let (_keep, path) = archive(&damaged[..damaged.len() - 10]);
    refused(&path, &["a.npz"]);
    // A file without its ending is named.
    let other = folder(&[("array", &npy("|u1", false, &[2, 2, 2], &body))]);
    refused(&other.path().join("array"), &["ends in .npy"]);
}
