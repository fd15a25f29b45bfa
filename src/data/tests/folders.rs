//! Folders and zip files: what is found, what it means, and what is told of it.

use super::*;

fn grey(value: u8) -> Vec<u8> {
    encode(GrayImage::from_pixel(16, 16, Luma([value])), ImageFormat::Png)
}

/// A zip file of these entries, deflated; a name that ends in `/` is a folder.
fn zip_file(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    for (name, bytes) in entries {
        writer.start_file(*name, options).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn reported(path: &Path, options: &Options) -> (Result<Dataset, DataError>, Report) {
    let mut report = Report::default();
    let data = Dataset::open_reporting(path.to_str().unwrap(), options, &mut report, &|_, _| ());
    (data, report)
}

/// The first pixel and the label of each picture.
fn pictures(data: &Dataset) -> Vec<(u8, u32)> {
    (0..data.len()).map(|i| (data.image(i)[0], data.label(i))).collect()
}

/// Opens the same files as a folder and as two zip files, one of which holds them in a folder.
fn each_way(files: &[(&str, &[u8])], check: impl Fn(&Path)) {
    check(folder(files).path());
    let nested: Vec<(String, &[u8])> =
        files.iter().map(|(name, bytes)| (format!("top/{name}"), *bytes)).collect();
    let nested: Vec<(&str, &[u8])> = nested.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect();
    let zipped = folder(&[("pictures.zip", &zip_file(files)), ("unnamed", &zip_file(&nested))]);
    check(&zipped.path().join("pictures.zip"));
    check(&zipped.path().join("unnamed"));
}

#[test]
fn classes_are_sorted_as_people_count_in_folders_and_zip_files() {
    let names = ["10", "2", "1", "b", "A", "c", "02"];
    let png = grey(5);
    let files: Vec<(String, &[u8])> = names.iter().map(|name| (format!("{name}/x.png"), &png[..])).collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect();
    each_way(&files, |path| {
        let data = open(path, &options(16, 1)).unwrap();
        assert_eq!(data.class_names, ["1", "2", "02", "10", "A", "b", "c"]);
        // Row by row in the order of paths: 02, 1, 10, 2, A, b, c.
        assert_eq!((0..7).map(|i| data.label(i)).collect::<Vec<_>>(), [2, 0, 3, 1, 4, 5, 6]);
    });
}

#[test]
fn a_class_without_pictures_keeps_its_place() {
    let files: [(&str, &[u8]); 3] =
        [("a/x.png", &grey(1)), ("b/notes.txt", b"none yet"), ("c/x.png", &grey(3))];
    each_way(&files, |path| {
        let (data, report) = reported(path, &options(16, 1));
        assert_eq!(pictures(&data.unwrap()), [(1, 0), (3, 2)]);
        assert_eq!(report.classes.iter().map(|class| class.pictures).collect::<Vec<_>>(), [1, 0, 1]);
        assert!(report.notes.iter().any(|note| note.contains("1 of 3 classes") && note.ends_with(": b")));
        assert_eq!((report.other.files, &report.other.first[..]), (1, &["b/notes.txt".to_owned()][..]));
    });
    let empty = folder(&[("a/x.png", &grey(1))]);
    fs::create_dir(empty.path().join("0")).unwrap();
    assert_eq!(open(empty.path(), &options(16, 1)).unwrap().class_names, ["0", "a"]);
}

#[test]
fn splits_are_no_classes() {
    let files: [(&str, &[u8]); 6] = [
        ("Train/cat/a.png", &grey(10)),
        ("Train/dog/a.png", &grey(20)),
        ("Train/eel/note.txt", b"none"),
        ("valid/cat/a.png", &grey(30)),
        ("test/a.png", &grey(40)),
        ("labels.csv", b"a,b"),
    ];
    each_way(&files, |path| {
        let (data, report) = reported(path, &options(16, 1));
        let data = data.unwrap();
        assert_eq!((pictures(&data), data.class_names.len()), (vec![(10, 0), (20, 1)], 3));
        let note = report.notes.iter().find(|note| note.contains("--split")).unwrap();
        assert!(note.contains("Train (2 pictures)") && note.contains("`Train` is taken"), "{note}");
        let over: Vec<_> = report.passed_over.iter().map(|over| over.path.file_name().unwrap()).collect();
        assert_eq!(over, ["test", "valid"]);
        for (split, expected) in [("val", 30), ("VALID", 30), ("test", 40)] {
            let chosen = Options { split: Some(split.into()), ..options(16, 1) };
            assert_eq!(pictures(&open(path, &chosen).unwrap()), [(expected, 0)]);
        }
        let message =
            open(path, &Options { split: Some("dev".into()), ..options(16, 1) }).unwrap_err().to_string();
        assert!(message.contains("no split `dev`") && message.contains("valid (1 picture)"), "{message}");
    });
    let png = grey(1);
    let none = folder(&[("val/a.png", &png), ("test/a.png", &png)]);
    refused(none.path(), &["val (1 picture)", "--split NAME"]);
    // With any other folder that holds pictures, or pictures beside them, these are classes, or a mistake.
    let vehicles = folder(&[("train/a.png", &png), ("test/a.png", &png), ("car/a.png", &png)]);
    assert_eq!(open(vehicles.path(), &options(16, 1)).unwrap().class_names, ["car", "test", "train"]);
    let split = Options { split: Some("train".into()), ..options(16, 1) };
    let message = open(vehicles.path(), &split).unwrap_err().to_string();
    assert!(message.contains("--split train: there are no splits"), "{message}");
    let message = Dataset::open("builtin:glyphs", &split).unwrap_err().to_string();
    assert!(message.contains("--split train"), "{message}");
    let alone = folder(&[("train/cat/a.png", &png), ("train/dog/a.png", &png)]);
    assert_eq!(open(alone.path(), &split).unwrap().class_names, ["cat", "dog"]);
}

#[test]
fn what_inkwash_wrote_is_passed_over() {
    let png = grey(1);
    let files: [(&str, &[u8]); 8] = [
        ("a.png", &png),
        ("b.png", &png),
        ("run/config.toml", b""),
        ("run/checkpoints/step-000001.safetensors", b""),
        ("run/samples/step-000001.png", &png),
        ("deep/er/drawn/samples.json", b"{}"),
        ("deep/er/drawn/00000.png", &png),
        ("samples.json", b"the root may be learned from"),
    ];
    each_way(&files, |path| {
        let (data, report) = reported(path, &options(16, 1));
        let data = data.unwrap();
        assert_eq!((data.len(), data.class_names.len()), (2, 0));
        let over: Vec<_> =
            report.passed_over.iter().map(|over| (over.path.clone(), over.reason.clone())).collect();
        assert_eq!(over[0], (path.join("deep/er/drawn"), "pictures of `inkwash sample`".into()));
        assert_eq!(over[1], (path.join("run"), "a run folder of `inkwash train`".into()));
    });
    // Nor is a run folder a class.
    let classes = folder(&[files[2], files[3], files[4], ("cat/a.png", &png)]);
    assert_eq!(open(classes.path(), &options(16, 1)).unwrap().class_names, ["cat"]);
    refused(&classes.path().join("run"), &["a run folder of `inkwash train`"]);
}

#[test]
fn strays_are_counted_and_the_first_is_named() {
    let png = grey(1);
    let files: [(&str, &[u8]); 4] = [("b.png", &png), ("a.png", &png), ("z/x.png", &png), ("c.png", &png)];
    each_way(&files, |path| {
        let error = refused(path, &[]).to_string();
        assert!(error.starts_with(&format!("{}: ", path.display())), "{error}");
        refused(path, &["in subfolders (1, first z/x.png)", "beside them (3, first a.png)"]);
    });
}

#[test]
fn what_looks_like_a_picture_and_is_not_read_is_reported() {
    let heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic";
    let files: [(&str, &[u8]); 4] =
        [("a.png", &grey(1)), ("b.heic", heic), ("c.heic", heic), ("notes.txt", b"hello")];
    each_way(&files, |path| {
        let (data, report) = reported(path, &options(16, 1));
        assert_eq!(data.unwrap().len(), 1);
        assert_eq!(report.formats.values().sum::<usize>(), 1);
        let unused: Vec<_> = report.unused.iter().map(|unused| unused.path.clone()).collect();
        assert_eq!(unused, [path.join("b.heic"), path.join("c.heic")]);
        assert_eq!(report.other, OtherFiles { files: 1, first: vec!["notes.txt".into()] });
    });
    refused(folder(&[("b.heic", heic)]).path(), &["none of the 1 files", "found 1", "b.heic", "convert"]);
}

#[test]
fn hidden_files_are_not_counted() {
    let png = grey(1);
    let hidden = folder(&[(".a.png", &png), (".thumbnails/b.png", &png), ("__MACOSX/._a.png", &png)]);
    refused(hidden.path(), &["it holds no file", "3 hidden ones"]);
    let files: [(&str, &[u8]); 3] =
        [("a.png", &png), ("__MACOSX/._a.png", b"x"), ("@eaDir/a.png/t.jpg", &png)];
    each_way(&files, |path| {
        let (data, report) = reported(path, &options(16, 1));
        assert_eq!((data.unwrap().len(), report.other.files, report.classes.len()), (1, 0, 0));
    });
}

#[test]
fn all_damaged_pictures_are_named_at_once_or_left_out() {
    let png = grey(0);
    let mut files: Vec<(String, Vec<u8>)> =
        (0..12).map(|i| (format!("c/{i:02}.png"), png[..40].to_vec())).collect();
    files.extend((1..40u8).map(|i| (format!("{}/x{i:02}.png", ["a", "b"][usize::from(i % 2)]), grey(i))));
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
    each_way(&files, |path| {
        let error = refused(
            path,
            &["12 of 51 pictures cannot be used: c/00.png (", "c/09.png (", "and 2 more", "--damaged skip"],
        );
        assert!(!error.to_string().contains("c/10.png"), "{error}");
        let (data, report) = reported(path, &Options { damaged: Damaged::Skip, ..options(16, 1) });
        let data = data.unwrap();
        let expected: Vec<(u8, u32)> =
            (2..40).step_by(2).map(|i| (i, 0)).chain((1..40).step_by(2).map(|i| (i, 1))).collect();
        assert_eq!(pictures(&data), expected);
        assert_eq!((report.damaged.len(), report.files.len(), report.classes[2].pictures), (12, 39, 0));
        assert_eq!(report.damaged[11].path, path.join("c/11.png"));
        assert!(report.files.iter().zip(&expected).all(|(file, (i, _))| {
            file.path.to_str().unwrap().ends_with(&format!("x{i:02}.png")) && file.size == Some((16, 16))
        }));
    });
    let all = folder(&files[..12]);
    let error =
        open(all.path(), &Options { damaged: Damaged::Skip, ..options(16, 1) }).unwrap_err().to_string();
    assert!(error.contains("12 of 12 pictures") && !error.contains("--damaged skip"), "{error}");
}

#[test]
fn one_class_with_folders_in_it_is_told_of() {
    let files: [(&str, &[u8]); 3] =
        [("photos/cat/a.png", &grey(1)), ("photos/dog/a.png", &grey(2)), ("texts/a.txt", b"")];
    let (data, report) = reported(folder(&files[..2]).path(), &options(16, 1));
    assert_eq!(data.unwrap().class_names, ["photos"]);
    assert!(report.notes.iter().any(|note| note.contains("`photos` is the one class")), "{:?}", report.notes);
    let (_, report) = reported(folder(&files).path(), &options(16, 1));
    assert!(!report.notes.iter().any(|note| note.contains("the one class")));
}

#[cfg(unix)]
#[test]
fn a_link_back_is_no_class() {
    let folder = folder(&[("cat/a.png", &grey(1))]);
    std::os::unix::fs::symlink(folder.path(), folder.path().join("back")).unwrap();
    assert_eq!(open(folder.path(), &options(16, 1)).unwrap().class_names, ["cat"]);
}

#[cfg(unix)]
#[test]
fn a_link_to_nothing_is_a_damaged_picture() {
    let folder = folder(&[("a.png", &grey(1))]);
    std::os::unix::fs::symlink("/nowhere/b.png", folder.path().join("b.png")).unwrap();
    refused(folder.path(), &["b.png", "cannot be read", "--damaged skip"]);
}

#[test]
fn pictures_smaller_than_the_networks_are_told_of() {
    let large = encode(textured(40, 20), ImageFormat::Png);
    let (_, report) = reported(folder(&[("a.png", &large), ("b.png", &grey(1))]).path(), &options(18, 1));
    let sizes = &report.sizes;
    assert_eq!((sizes.smallest, sizes.largest, sizes.enlarged), (Some((16, 16)), Some((40, 20)), 1));
    assert!(report.notes.iter().any(|note| note.contains("1 of 2 pictures are smaller than 18 x 18")));
}

#[test]
fn labels_of_edm_are_read() {
    let (a, b, c) = (grey(1), grey(2), grey(3));
    let json =
        br#"{"labels": [["00000/b.png", 0], ["00000/a.png", 3], ["00001\\c.png", 1], ["gone.png", 4]]}"#;
    let labelled = |json: &'static [u8]| -> [(&'static str, Vec<u8>); 4] {
        [
            ("00000/a.png", a.clone()),
            ("00000/b.png", b.clone()),
            ("00001/c.png", c.clone()),
            ("dataset.json", json.to_vec()),
        ]
    };
    let each = |json: &'static [u8], check: &dyn Fn(&Path)| {
        let files = labelled(json);
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (*name, &bytes[..])).collect();
        each_way(&files, check);
    };
    each(json, &|path| {
        let (data, report) = reported(path, &options(16, 1));
        let data = data.unwrap();
        assert_eq!(
            (pictures(&data), data.class_names.join(" ")),
            (vec![(1, 3), (2, 0), (3, 1)], "0 1 2 3 4".into())
        );
        assert!(
            report.notes.iter().any(|note| note.contains("labels for 1 more files")),
            "{:?}",
            report.notes
        );
        assert_eq!(report.other.files, 0);
    });
    each(br#"{"labels": null}"#, &|path| {
        let data = open(path, &options(16, 1)).unwrap();
        assert_eq!((data.len(), data.class_names.len()), (3, 0));
    });
    each(br#"{"images": []}"#, &|path| {
        let (data, report) = reported(path, &options(16, 1));
        assert_eq!(data.unwrap().class_names, ["00000", "00001"]);
        assert!(report.notes.iter().any(|note| note.contains("has no `labels`")));
    });
    for (json, word) in [
        (&br#"{"labels": [["00000/a.png", 1]]}"#[..], "2 of 3 pictures have no label (first 00000/b.png)"),
        (br#"{"labels": [["00000/a.png", "cat"]]}"#, "`00000/a.png` has the label \"cat\""),
        (br#"{"labels": [["00000/a.png", 1.5]]}"#, "the label 1.5"),
        (br#"{"labels": [["00000/a.png", -1]]}"#, "the label -1"),
        (br#"{"labels": [["00000/a.png", 4294967296]]}"#, "the label 4294967296"),
        (br#"{"labels": [["00000/a.png", [0, 1]]]}"#, "the label [0,1]"),
        (br#"{"labels": [["00000/a.png", 1], ["00000/a.png", 2]]}"#, "two labels"),
        (br#"{"labels": {"00000/a.png": 1}}"#, "invalid type"),
        (br#"{"labels": [["#, "EOF"),
        (b"\xFF\xFE", "dataset.json"),
    ] {
        each(json, &|path| {
            let message = open(path, &options(16, 1)).unwrap_err().to_string();
            assert!(message.contains("dataset.json: ") && message.contains(word), "{message}");
        });
    }
}

#[test]
fn names_in_a_zip_file_lead_nowhere() {
    let png = grey(7);
    let bytes =
        zip_file(&[("../../up.png", &png), ("/etc/top.png", &png), ("etc\\back.png", &png), ("..", b"x")]);
    let zipped = folder(&[("a.zip", &bytes)]);
    // The first lies at the root, the others in `etc`.
    refused(
        &zipped.path().join("a.zip"),
        &["in subfolders (2, first etc/back.png)", "beside them (1, first up.png)"],
    );
}

#[test]
fn hostile_zip_files_are_refused() {
    let png = encode(textured(64, 64), ImageFormat::Png);
    let good = zip_file(&[("a/x.png", &png), ("b/y.png", &png)]);
    let check = |bytes: &[u8], words: &[&str]| {
        let zipped = folder(&[("a.zip", bytes)]);
        refused(&zipped.path().join("a.zip"), words)
    };
    check(b"", &["zip file is damaged"]);
    check(&good[..good.len() / 2], &["zip file is damaged"]);
    check(&zip_file(&[]), &["holds no file"]);
    check(&zip_file(&[("a.txt", b"hello")]), &["none of the 1 files"]);
    // Ten bits of the first picture's deflated bytes are changed: it does not inflate, or its checksum is wrong.
    let mut flipped = good.clone();
    flipped[200] ^= 0xFF;
    check(&flipped, &["x.png", "zip file", "again"]);
    // What the flags of both headers say is encrypted is not taken for noise.
    let mut encrypted = good.clone();
    let central = good.windows(4).position(|bytes| bytes == b"PK\x01\x02").unwrap();
    encrypted[6] |= 1;
    encrypted[central + 8] |= 1;
    check(&encrypted, &["x.png", "is encrypted", "password"]);
    let mut method = good.clone();
    method[8] = 12;
    method[central + 10] = 12;
    check(&method, &["x.png", "not stored or deflated", "unpack"]);
    // An entry that inflates to more than a picture may have, whatever its header says.
    let zeros = vec![0; 1 << 20];
    let mut bomb = zip_file(&[("a.png", &[&png[..], &zeros[..]].concat())]);
    let limited = Options { max_picture_bytes: 100_000, ..options(16, 1) };
    for (announced, word) in [(None, "above the limit"), (Some(100u32), "larger than its declared")] {
        if let Some(size) = announced {
            let central = bomb.windows(4).position(|bytes| bytes == b"PK\x01\x02").unwrap();
            bomb[22..26].copy_from_slice(&size.to_le_bytes());
            bomb[central + 24..central + 28].copy_from_slice(&size.to_le_bytes());
        }
        let zipped = folder(&[("a.zip", &bomb)]);
        let message = open(&zipped.path().join("a.zip"), &limited).unwrap_err().to_string();
        assert!(message.contains("a.png") && message.contains(word), "{message}");
    }
}

#[test]
fn damaged_zip_files_never_panic() {
    let good =
        zip_file(&[("a/x.png", &grey(1)), ("b/y.png", &grey(2)), ("dataset.json", b"{\"labels\": null}")]);
    let mut rng = Philox::new(1, Stream::Cases, 77);
    let folder = tempdir().unwrap();
    let path = folder.path().join("a.zip");
    for _ in 0..300 {
        let mut bytes = good.clone();
        for _ in 0..=rng.below(4) {
            let at = rng.below(bytes.len());
            bytes[at] = rng.bits().to_le_bytes()[0];
        }
        bytes.truncate(bytes.len() - rng.below(2) * rng.below(40));
        fs::write(&path, bytes).unwrap();
        let _ = open(&path, &options(8, 3));
    }
}
