//! Published data sets as people have them: torchvision's folders, Kaggle's, EMNIST, CIFAR.

use super::*;

const TEST_IMAGES: &str = "t10k-images-idx3-ubyte";
const TEST_LABELS: &str = "t10k-labels-idx1-ubyte";

fn of_split(split: &str) -> Options {
    Options { split: Some(split.into()), ..options(8, 1) }
}

/// Pictures of 8 x 8 with a value each.
fn images(values: &[u8]) -> Vec<u8> {
    let body: Vec<u8> = values.iter().flat_map(|value| [*value; 64]).collect();
    idx(0x803, &[u32::try_from(values.len()).unwrap(), 8, 8], &body)
}

fn labels(values: &[u8]) -> Vec<u8> {
    idx(0x801, &[u32::try_from(values.len()).unwrap()], values)
}

fn values(data: &Dataset) -> Vec<(u8, &str)> {
    (0..data.len()).map(|i| (data.image(i)[0], data.class_names[data.label(i) as usize].as_str())).collect()
}

#[test]
fn idx_files_are_found_below_the_folder_given() {
    let (pictures, classes) = (images(&[10, 20]), labels(&[0, 1]));
    let raw = [("MNIST/raw", IMAGES), ("MNIST/raw", LABELS)].map(|(folder, name)| format!("{folder}/{name}"));
    let zipped = format!("{}.gz", raw[0]);
    let torchvision = folder(&[(&raw[0], &pictures), (&raw[1], &classes), (&zipped, &gzip(&pictures))]);
    for path in ["", "MNIST", "MNIST/raw"] {
        let (data, report) = open_reported(&torchvision.path().join(path), &options(8, 1));
        assert_eq!(values(&data), [(10, "0"), (20, "1")]);
        assert!(report.layout.contains("MNIST/raw"), "{}", report.layout);
    }
    for sibling in ["FashionMNIST/raw/train-images-idx3-ubyte", "mine/a.png"] {
        let png = encode(GrayImage::new(4, 4), ImageFormat::Png);
        let two = folder(&[(&raw[0], &pictures), (&raw[1], &classes), (sibling, &png)]);
        refused(
            two.path(),
            &["more than one", "IDX files in", "MNIST/raw", sibling.split('/').next().unwrap()],
        );
        assert_eq!(open(&two.path().join("MNIST"), &options(8, 1)).unwrap().len(), 2);
    }
    // A picture in the very folder does not make it a folder of pictures, but is named.
    let png = encode(GrayImage::new(4, 4), ImageFormat::Png);
    let preview = folder(&[(IMAGES, &pictures), (LABELS, &classes), ("preview.png", &png)]);
    let (data, report) = open_reported(preview.path(), &options(8, 1));
    assert_eq!(data.len(), 2);
    assert!(report.passed_over[0].path.ends_with("preview.png"));
}

#[test]
fn kaggles_folders_of_one_file_belong_together() {
    let (pictures, classes) = (images(&[10, 20]), labels(&[0, 1]));
    let own = |name: &str| format!("{name}/{name}");
    let dotted = |name: &str| name.replace("-idx", ".idx");
    let nested = folder(&[(&own(IMAGES), &pictures), (&own(LABELS), &classes)]);
    let both = folder(&[
        (&own(IMAGES), &images(&[1])),
        (&own(LABELS), &labels(&[5])),
        (&dotted(IMAGES), &pictures),
        (&dotted(LABELS), &classes),
        (&dotted(TEST_IMAGES), &images(&[30])),
        (&own(TEST_LABELS), &labels(&[4])),
    ]);
    for path in [nested.path(), &nested.path().join(own(IMAGES)), &nested.path().join(IMAGES), both.path()] {
        assert_eq!(values(&open(path, &options(8, 1)).unwrap()), [(10, "0"), (20, "1")], "{path:?}");
    }
    assert_eq!(values(&open(both.path(), &of_split("test")).unwrap()), [(30, "4")]);
}

#[test]
fn a_split_chooses_the_part() {
    let whole = folder(&[
        (IMAGES, &images(&[10])),
        (LABELS, &labels(&[1])),
        (TEST_IMAGES, &images(&[20])),
        (TEST_LABELS, &labels(&[2])),
    ]);
    let (data, report) = open_reported(whole.path(), &options(8, 1));
    assert_eq!(values(&data), [(10, "1")]);
    assert!(report.passed_over[0].path.ends_with(TEST_IMAGES));
    assert!(report.passed_over[0].reason.contains("--split test"), "{:?}", report.passed_over);
    for split in ["test", "t10k", "Test"] {
        assert_eq!(values(&open(whole.path(), &of_split(split)).unwrap()), [(20, "2")]);
    }
    let message = open(whole.path(), &of_split("val")).unwrap_err().to_string();
    assert!(message.contains("no split `val`") && message.contains("found test, train"), "{message}");
    let message = open(&whole.path().join(IMAGES), &of_split("test")).unwrap_err().to_string();
    assert!(message.contains(IMAGES) && message.contains("found train"), "{message}");

    let only = folder(&[(TEST_IMAGES, &images(&[20])), (TEST_LABELS, &labels(&[2]))]);
    let (data, report) = open_reported(only.path(), &options(8, 1));
    assert_eq!(values(&data), [(20, "2")]);
    assert!(report.notes.iter().any(|note| note.contains("only the test part")), "{:?}", report.notes);
}

#[test]
fn classes_are_the_labels_that_occur() {
    let sparse = folder(&[(IMAGES, &images(&[10, 20, 30])), (LABELS, &labels(&[7, 3, 7]))]);
    let (data, report) = open_reported(sparse.path(), &options(8, 1));
    assert_eq!(values(&data), [(10, "7"), (20, "3"), (30, "7")]);
    assert_eq!(data.class_names, ["3", "7"]);
    assert!(report.notes.iter().any(|note| note.contains("without a gap") && note.contains("3, 7")));
    // QMNIST's labels are rows of eight integers, of which the first is the class.
    let wide: Vec<u8> =
        [4u32, 0, 0, 0, 0, 0, 0, 0, 1, 9, 9, 9, 9, 9, 9, 9].iter().flat_map(|n| n.to_be_bytes()).collect();
    let qmnist = folder(&[
        ("qmnist-train-images-idx3-ubyte", &images(&[10, 20])),
        ("qmnist-train-labels-idx2-int", &idx(0xC02, &[2, 8], &wide)),
    ]);
    assert_eq!(values(&open(qmnist.path(), &options(8, 1)).unwrap()), [(10, "4"), (20, "1")]);
    let bare = folder(&[(IMAGES, &images(&[1]))]);
    let (_, report) = open_reported(bare.path(), &options(8, 1));
    assert!(report.notes.iter().any(|note| note.contains("no labels")), "{:?}", report.notes);
}

#[test]
fn emnist_is_turned_and_its_classes_are_characters() {
    let name = |set: &str, part: &str, kind: &str| format!("emnist-{set}-{part}-{kind}-ubyte.gz");
    // A line along the top is stored along the left: 3 rows of 2 become 2 rows of 3.
    let stored = idx(0x803, &[1, 3, 2], &[1, 2, 3, 4, 5, 6]);
    let turned = folder(&[(&name("digits", "train", "images-idx3"), &gzip(&stored))]);
    let options = Options { size: (2, 3), ..options(8, 1) };
    for path in [turned.path(), &turned.path().join(name("digits", "train", "images-idx3"))] {
        let (data, report) = open_reported(path, &options);
        assert_eq!(data.image(0), [1, 3, 5, 2, 4, 6]);
        assert!(report.notes.iter().any(|note| note.contains("transposed")), "{:?}", report.notes);
    }

    let pair = |set: &str, part: &str, label: u8| {
        [
            (name(set, part, "images-idx3"), gzip(&images(&[label]))),
            (name(set, part, "labels-idx1"), gzip(&labels(&[label]))),
        ]
    };
    let files: Vec<_> = [
        pair("letters", "train", 26),
        pair("letters", "test", 1),
        pair("balanced", "train", 36),
        pair("byclass", "train", 61),
    ]
    .concat();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
    let emnist = folder(&files);
    refused(emnist.path(), &["several parts", "balanced, byclass, letters/test, letters", "--split"]);
    for (split, classes, class) in [
        ("letters", 26, (26, "Z")),
        ("letters/train", 26, (26, "Z")),
        ("letters/test", 26, (1, "A")),
        ("balanced", 47, (36, "a")),
        ("byclass", 62, (61, "z")),
    ] {
        let (data, report) = open_reported(emnist.path(), &of_split(split));
        assert_eq!((data.class_names.len(), values(&data)), (classes, vec![class]), "{split}");
        let empty = format!("{} of {classes} classes have no pictures", classes - 1);
        assert!(report.notes.iter().any(|note| note.contains(&empty)), "{:?}", report.notes);
    }
    assert!(open(emnist.path(), &of_split("train")).is_err());

    let mapped = folder(&[files[0], files[1], ("emnist-letters-mapping.txt", b"26 38\n1 65 97\n")]);
    assert_eq!(open(mapped.path(), &of_split("train")).unwrap().class_names, ["A", "&"]);
    for (mapping, words) in [
        (&b"1 65\n1 66\n"[..], ["mapping.txt", "`1 66`"]),
        (b"1 65\n26\n", ["mapping.txt", "`26`"]),
        (b"1 65\n2 66\n", ["label 26", "1 to 2"]),
    ] {
        refused(folder(&[files[0], files[1], ("emnist-letters-mapping.txt", mapping)]).path(), &words);
    }
    let zero = [pair("letters", "train", 0)].concat();
    refused(folder(&[(&zero[0].0, &zero[0].1), (&zero[1].0, &zero[1].1)]).path(), &["label 0", "1 to 26"]);
}

fn record(labels: &[u8]) -> Vec<u8> {
    [labels, &[1; 1024], &[2; 1024], &[3; 1024]].concat()
}

#[test]
fn cifar_10_takes_the_part_and_the_names_that_fit() {
    let (train, test) = (record(&[3]), record(&[9]));
    let whole = folder(&[("data_batch_1.bin", &train), ("test_batch.bin", &test)]);
    let (data, report) = open_reported(whole.path(), &options(32, 3));
    assert_eq!(data.class_names[data.label(0) as usize], "cat");
    assert!(report.passed_over[0].path.ends_with("test_batch.bin"));
    assert!(
        report.notes.iter().any(|note| note.contains("data_batch_2.bin") && note.contains("is not here"))
    );
    let data = open(whole.path(), &of_split("test")).unwrap();
    assert_eq!(data.class_names[data.label(0) as usize], "truck");

    let named = folder(&[("data_batch_1.bin", &train), ("batches.meta.txt", b"a\nb\nc\nd\n\n")]);
    assert_eq!(open(named.path(), &options(8, 1)).unwrap().class_names, ["a", "b", "c", "d"]);
    let few = folder(&[("data_batch_1.bin", &train), ("batches.meta.txt", b"cat\ndog\n")]);
    let (data, report) = open_reported(few.path(), &options(8, 1));
    assert_eq!(data.class_names[3], "cat");
    assert!(report.notes.iter().any(|note| note.contains("class names (2) than the labels ask for (4)")));
}

#[test]
fn cifar_100_has_fine_and_coarse_classes() {
    let train = [record(&[19, 99]), record(&[4, 0])].concat();
    let whole =
        folder(&[("train.bin", &train), ("test.bin", &record(&[0, 1])), ("fine_label_names.txt", b"x\n")]);
    let class = |data: &Dataset, i| data.class_names[data.label(i) as usize].clone();
    for path in [whole.path(), &whole.path().join("train.bin")] {
        let (data, report) = open_reported(path, &options(32, 3));
        assert_eq!((data.len(), data.class_names.len()), (2, 100));
        assert_eq!((class(&data, 0), class(&data, 1)), ("worm".into(), "apple".into()));
        assert!(data.image(1).chunks(3).all(|pixel| pixel == [1, 2, 3]));
        assert!(report.notes.iter().any(|note| note.contains("fewer class names (1)")), "{:?}", report.notes);
        let coarse = Options { class_labels: ClassLabels::Coarse, ..options(8, 1) };
        let data = open(path, &coarse).unwrap();
        assert_eq!((data.class_names.len(), class(&data, 0)), (20, "vehicles_2".into()));
        assert_eq!(class(&data, 1), "fruit_and_vegetables");
    }
    let coarse = |data: &Path| {
        let (_, report) =
            open_reported(data, &Options { class_labels: ClassLabels::Coarse, ..options(8, 1) });
        report.notes.iter().any(|note| note.contains("only CIFAR-100"))
    };
    let ten = folder(&[("data_batch_1.bin", &record(&[9]))]);
    assert!(!coarse(whole.path()) && coarse(ten.path()));
    assert_eq!(class(&open(whole.path(), &of_split("test")).unwrap(), 0), "aquarium_fish");

    let bad = folder(&[("train.bin", &record(&[20, 0])), ("coarse_label_names.txt", b"")]);
    refused(bad.path(), &["train.bin", "label 20", "0 to 19", "CIFAR-100"]);
    refused(folder(&[("test.bin", &record(&[0, 100]))]).path(), &["label 100", "0 to 99"]);
    let short = folder(&[("train.bin", &train[..5000]), ("fine_label_names.txt", b"")]);
    refused(short.path(), &["5000 bytes", "3073", "3074"]);
}

#[test]
fn a_file_whose_length_fits_both_is_told_by_its_labels() {
    // 3074 records of one layout are as long as 3073 of the other.
    let ten = record(&[9]).repeat(3074);
    let hundred = record(&[19, 99]).repeat(3073);
    let files = folder(&[("a.bin", &ten), ("b.bin", &hundred)]);
    let names = |file: &str| open(&files.path().join(file), &options(32, 3)).unwrap().class_names.len();
    assert_eq!((names("a.bin"), names("b.bin")), (10, 100));
}

#[test]
fn data_of_other_programs_is_named_with_what_converts_it() {
    let batches = folder(&[
        ("cifar-10-batches-py/data_batch_1", b"\x80\x02"),
        ("cifar-10-batches-py/batches.meta", b""),
    ]);
    refused(batches.path(), &["cifar-10-batches-py", "CIFAR-10 as Python pickles", "cifar-10-binary.tar.gz"]);
    let hundred = folder(&[("train", b"\x80\x02"), ("test", b"\x80\x02"), ("meta", b"\x80\x02")]);
    refused(hundred.path(), &["CIFAR-100 as Python pickles", "cifar-100-binary.tar.gz"]);
    let mixed = folder(&[("a/data_batch_1", b"\x80\x02"), (&format!("b/{IMAGES}"), &images(&[1]))]);
    refused(mixed.path(), &["more than one", "CIFAR-10 as Python pickles in", "IDX files in"]);

    let mut tar = vec![0; 512];
    tar[257..262].copy_from_slice(b"ustar");
    let cases: &[(&str, &[u8], &str, &str)] = &[
        ("a.pkl", b"?", "Python pickle", "numpy.savez"),
        ("no_ending", b"\x80\x04\x95", "Python pickle", "numpy.savez"),
        ("training.pt", b"PK\x03\x04", "PyTorch", "numpy.savez"),
        ("a.PTH", b"", "PyTorch", "numpy.savez"),
        ("train_32x32.mat", b"MATLAB 5.0", "MATLAB", "scipy.io.loadmat"),
        ("a.h5", b"", "HDF5", "numpy.savez"),
        ("a", b"\x89HDF\r\n\x1a\n", "HDF5", "numpy.savez"),
        ("a.parquet", b"", "Parquet", "datasets"),
        ("a.tfrecord", b"", "TensorFlow", "tensorflow_datasets"),
        ("data.mdb", b"", "LMDB", "lmdb"),
        ("cifar-10-binary.tar.gz", b"\x1f\x8b", "tar archive", "unpack"),
        ("a.tar", b"", "tar archive", "unpack"),
        ("renamed", &tar, "tar archive", "unpack"),
        ("train.csv", b"label,pixel0", "table of text", "numpy.loadtxt"),
        ("train_X.bin", b"", "STL-10", "numpy.fromfile"),
    ];
    for (name, bytes, what, remedy) in cases {
        let only = folder(&[(&format!("data/{name}"), bytes), ("README.md", b"about")]);
        refused(only.path(), &[name, what, remedy]);
        refused(&only.path().join("data").join(name), &[what, remedy]);
    }
    // Beside pictures they are what they are: something else.
    let png = encode(GrayImage::new(4, 4), ImageFormat::Png);
    let beside = folder(&[("a.png", &png), ("labels.csv", b"a,1"), ("features.npy", b"")]);
    let (data, report) = open_reported(beside.path(), &options(8, 1));
    assert_eq!(data.len(), 1);
    assert!(report.passed_over.iter().any(|other| other.path.ends_with("features.npy")));
}
