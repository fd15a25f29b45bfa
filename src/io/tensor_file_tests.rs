use super::*;
use proptest::prelude::*;
use serde_json::json;

fn parse(bytes: &[u8]) -> Result<TensorFile, FileError> {
    read_from(Path::new("model.safetensors"), bytes.len() as u64, &mut &bytes[..])
}

/// A file with this header and this many bytes of data.
fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

fn one(name: &str, dtype: &str, shape: serde_json::Value, end: u64, data: &[u8]) -> Vec<u8> {
    let header = json!({name: {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}});
    with_header(&header.to_string(), data)
}

fn sample() -> TensorFile {
    let tensor = |shape: &[usize], data: &[f32]| Tensor { shape: shape.to_vec(), data: data.to_vec() };
    TensorFile {
        tensors: [
            ("stem.weight".into(), tensor(&[2, 3], &[1.0, -2.0, 0.5, 1e-40, f32::MAX, -0.0])),
            ("empty".into(), tensor(&[0, 7], &[])),
            ("scalar".into(), tensor(&[], &[42.0])),
        ]
        .into(),
        metadata: [("step".into(), "100".into()), ("note".into(), "ink\n\"wash\"".into())].into(),
    }
}

fn bytes_of(file: &TensorFile) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write(&path, file).unwrap();
    std::fs::read(path).unwrap()
}

/// The message must name the file and hold every one of these.
#[track_caller]
fn refuses(bytes: &[u8], expected: &[&str]) {
    let message = parse(bytes).unwrap_err().to_string();
    assert!(message.contains("model.safetensors"), "{message}");
    assert!(message.len() < 1000 && !message.contains('\n'), "{message}");
    for part in expected {
        assert!(message.contains(part), "no {part:?} in: {message}");
    }
}

#[test]
fn what_is_written_comes_back_and_the_crate_agrees() {
    let file = sample();
    let bytes = bytes_of(&file);
    assert_eq!(parse(&bytes).unwrap(), file);
    assert_eq!(bytes, bytes_of(&file), "the same content gives the same bytes");
    assert_eq!(parse(&bytes_of(&TensorFile::default())).unwrap(), TensorFile::default());

    let (header_len, header) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header_len % LENGTH_BYTES, 0);
    assert_eq!(header.metadata().as_ref().unwrap()["step"], "100");
}

#[test]
fn other_dtypes_are_widened() {
    let values = |dtype, data: &[u8]| {
        let count = 2;
        let bytes = one("w", dtype, json!([count]), data.len() as u64, data);
        parse(&bytes).map(|mut file| file.tensors.remove("w").unwrap().data)
    };
    let halves = [f16::from_f32(1.5), f16::from_f32(-2.0)].map(f16::to_le_bytes).concat();
    let brains = [bf16::from_f32(1.5), bf16::from_f32(-2.0)].map(bf16::to_le_bytes).concat();
    assert_eq!(values("F16", &halves).unwrap(), [1.5, -2.0]);
    assert_eq!(values("BF16", &brains).unwrap(), [1.5, -2.0]);
    assert_eq!(values("F64", &[0.1_f64, 1e-300].map(f64::to_le_bytes).concat()).unwrap(), [0.1, 0.0]);
    assert_eq!(values("I32", &[7_i32, -9].map(i32::to_le_bytes).concat()).unwrap(), [7.0, -9.0]);
    assert_eq!(
        values("I64", &[1_i64 << 40, -9].map(i64::to_le_bytes).concat()).unwrap(),
        [2f32.powi(40), -9.0]
    );

    let too_fine = values("I64", &[0_i64, (1 << 24) + 1].map(i64::to_le_bytes).concat()).unwrap_err();
    assert!(too_fine.to_string().contains("16777217 at index 1"), "{too_fine}");
    assert!(values("I64", &[0_i64, i64::MAX].map(i64::to_le_bytes).concat()).is_err());
    assert!(values("F64", &[0.0_f64, 1e300].map(f64::to_le_bytes).concat()).is_err());
}

#[test]
fn broken_files_are_refused() {
    refuses(b"", &["0 bytes", "at least the 8 bytes"]);
    refuses(b"1234567", &["7 bytes"]);
    refuses(&[100_u64.to_le_bytes(), [0; 8]].concat(), &["100 bytes long", "at most the 8 bytes"]);
    refuses(&u64::MAX.to_le_bytes(), &["18446744073709551615 bytes long", "at most 100000000"]);
    refuses(&with_header("", b""), &["does not parse", "JSON object"]);
    refuses(&with_header("{\"w\":", b""), &["does not parse"]);
    refuses(&with_header("[1, 2]", b""), &["does not parse"]);
    refuses(&with_header("{\"\u{e9}\": 1}", b"").into_iter().filter(|b| *b != 0xc3).collect::<Vec<_>>(), &[]);
    refuses(&with_header(&"[".repeat(5000), b""), &["does not parse"]);
    refuses(&with_header(&format!("{{\"w\": {}}}", "[".repeat(5000)), b""), &["does not parse"]);
    refuses(&with_header("{}", b"stray"), &["5 bytes after the last tensor"]);
    refuses(
        &bytes_of(&sample())[..bytes_of(&sample()).len() - 4],
        &["a range within", "Save the file again"],
    );
}

#[test]
fn broken_tensors_are_named() {
    let entry = |start: u64, end: u64| {
        format!("{{\"dtype\":\"F32\",\"shape\":[{}],\"data_offsets\":[{start},{end}]}}", (end - start) / 4)
    };
    let two = |a: String, b: String| with_header(&format!("{{\"a\":{a},\"b\":{b}}}"), &[0; 16]);
    refuses(&two(entry(0, 8), entry(4, 16)), &["\"b\"", "overlap", "byte 4", "byte 8"]);
    refuses(&two(entry(0, 4), entry(8, 16)), &["\"b\"", "gap", "byte 4", "byte 8"]);
    refuses(&two(entry(0, 8), entry(8, 20)), &["\"b\"", "[8, 20]", "16 bytes"]);
    refuses(&two(entry(0, 8), entry(8, 12)), &["4 bytes after the last tensor"]);
    let repeated = format!("{{\"a\":{0},\"a\":{0}}}", entry(0, 16));
    refuses(&with_header(&repeated, &[0; 16]), &["\"a\"", "twice"]);
    refuses(&with_header("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", b""), &["\"k\" twice"]);
    refuses(&with_header("{\"__metadata__\":{\"k\":1}}", b""), &["\"k\"", "does not parse"]);
    let backwards = "{\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[4,0]}}";
    refuses(&with_header(backwards, &[0; 4]), &["\"a\"", "[4, 0]"]);
    let negative = "{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}";
    refuses(&with_header(negative, &[0; 4]), &["\"a\"", "-1"]);

    refuses(&one("w", "F32", json!([3]), 8, &[0; 8]), &["\"w\"", "8 bytes of data", "12 bytes", "[3]"]);
    refuses(&one("w", "F32", json!([u64::MAX, 2]), 8, &[0; 8]), &["\"w\"", "more bytes than can be counted"]);
    refuses(&one("w", "F32", json!([1_u64 << 62]), 8, &[0; 8]), &["\"w\"", "more bytes than can be counted"]);
    refuses(&one("w", "U8", json!([8]), 8, &[0; 8]), &["\"w\"", "\"U8\"", "F32, F16, BF16, F64, I64, I32"]);
    refuses(&one("w", "F128\u{1b}", json!([8]), 8, &[0; 8]), &["\"F128\\u{1b}\""]);
    for name in ["../../etc/evil", "a..b", "a\\b", "/root", "", "a\0b", "line\nbreak", &"x/".repeat(9999)] {
        refuses(&one(name, "F32", json!([1]), 4, &[0; 4]), &["a name without '/'"]);
    }
    let nan = [1.0, f32::NAN].map(f32::to_le_bytes).concat();
    refuses(&one("w", "F32", json!([2]), 8, &nan), &["\"w\"", "NaN at index 1 of shape [2]"]);
    let inf = [f16::NEG_INFINITY, f16::ONE].map(f16::to_le_bytes).concat();
    refuses(&one("w", "F16", json!([2]), 4, &inf), &["\"w\"", "-inf at index 0"]);
}

#[test]
fn paths_that_are_no_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = read(&folder.path().join("none")).unwrap_err();
    assert!(missing.to_string().contains("none") && std::error::Error::source(&missing).is_some());
    assert!(read(folder.path()).unwrap_err().to_string().contains("ordinary file"));
}

#[test]
fn what_could_not_be_read_back_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write(&path, &sample()).unwrap();
    let faulty = [
        ("diverged", vec![1], vec![f32::INFINITY], "inf at index 0"),
        ("short", vec![2, 2], vec![1.0], "shape [2, 2]"),
        ("endless", vec![usize::MAX, 2], vec![1.0], "1 values"),
        ("../evil", vec![1], vec![1.0], "a name without"),
        ("__metadata__", vec![1], vec![1.0], "a name without"),
    ];
    for (name, shape, data, expected) in faulty {
        let tensors = [(name.to_owned(), Tensor { shape, data })].into();
        let error = write(&path, &TensorFile { tensors, ..Default::default() }).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(expected), "{error}");
        assert_eq!(read(&path).unwrap(), sample(), "the old file is as it was");
    }
}

#[test]
fn what_torch_save_writes_is_named() {
    for (bytes, words) in
        [(&b"PK\x03\x04\0\0\x08\x08"[..], "zip archive"), (b"\x80\x02\x8a\nl\xfc\x9cF", "pickle")]
    {
        let error = super::parse("a.safetensors", bytes).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("safetensors.torch.save_file"), "{error}");
    }
}

fn any_file() -> impl Strategy<Value = TensorFile> {
    let tensor = prop::collection::vec(0_usize..4, 0..4).prop_flat_map(|shape| {
        let count = shape.iter().product::<usize>();
        let values = prop::collection::vec(prop::num::f32::NORMAL | prop::num::f32::ZERO, count);
        values.prop_map(move |data| Tensor { shape: shape.clone(), data })
    });
    let tensors = prop::collection::btree_map("[a-z]([.]?[a-z0-9_]){0,3}", tensor, 0..5);
    let metadata = prop::collection::btree_map(".*", ".*", 0..3);
    (tensors, metadata).prop_map(|(tensors, metadata)| TensorFile { tensors, metadata })
}

/// Damage at a place given as a fraction of the file, mostly in its header.
#[derive(Debug, Clone)]
enum Damage {
    Replace(f64, u8),
    Insert(f64, u8),
    Remove(f64),
    CutAt(f64),
    Repeat(f64, f64),
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let place = |fraction: f64| (bytes.len() as f64 * fraction) as usize;
        match *self {
            _ if bytes.is_empty() => {}
            Damage::Replace(at, byte) => {
                let at = place(at);
                bytes[at] = byte;
            }
            Damage::Insert(at, byte) => bytes.insert(place(at), byte),
            Damage::Remove(at) => drop(bytes.remove(place(at))),
            Damage::CutAt(at) => bytes.truncate(place(at)),
            Damage::Repeat(from, to) => {
                let (from, to) = (place(from.min(to)), place(from.max(to)));
                let piece = bytes[from..to].to_vec();
                bytes.splice(to..to, piece);
            }
        }
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = || 0.0..1.0_f64;
    let byte = || prop_oneof![any::<u8>(), prop::sample::select(&b"0123456789{}[]\",:-.eE \\"[..])];
    prop_oneof![
        4 => (at(), byte()).prop_map(|(at, byte)| Damage::Replace(at, byte)),
        2 => (at(), byte()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        2 => at().prop_map(Damage::Remove),
        1 => at().prop_map(Damage::CutAt),
        1 => (at(), at()).prop_map(|(from, to)| Damage::Repeat(from, to)),
    ]
}

fn any_number() -> impl Strategy<Value = u64> {
    prop_oneof![0_u64..20, Just(1 << 31), Just(1 << 32), Just(1 << 62), Just(u64::MAX), any::<u64>()]
}

/// What was accepted must hold what it promises.
fn sound(bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(file) = parse(bytes) {
        for (name, tensor) in &file.tensors {
            prop_assert!(header::check_name(name).is_ok());
            prop_assert_eq!(header::element_count(&tensor.shape), Some(tensor.data.len()));
            prop_assert!(tensor.data.iter().all(|value| value.is_finite()));
        }
        prop_assert!(SafeTensors::deserialize(bytes).is_ok());
    }
    Ok(())
}

// 256 cases each; the environment's PROPTEST_CASES raises the count.
proptest! {
    #[test]
    fn any_file_comes_back(file in any_file()) {
        prop_assert_eq!(parse(&bytes_of(&file)).unwrap(), file);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), short in any::<bool>()) {
        let mut bytes = bytes;
        if short {
            // A small length gets past the first check.
            bytes.splice(0..bytes.len().min(8), (bytes.len() as u64 / 2).to_le_bytes());
        }
        sound(&bytes)?;
    }

    #[test]
    fn damaged_files_never_panic(file in any_file(), damages in prop::collection::vec(damage(), 1..4)) {
        let bytes = bytes_of(&file);
        let mut all = bytes.clone();
        damages.iter().for_each(|damage| damage.apply(&mut all));
        sound(&all)?;

        // Once more with a true length in front, so that the header is what is read.
        let header_len = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        let mut header = bytes[8..8 + header_len].to_vec();
        damages.iter().for_each(|damage| damage.apply(&mut header));
        let framed = [&(header.len() as u64).to_le_bytes(), &header[..], &bytes[8 + header_len..]].concat();
        sound(&framed)?;
    }

    #[test]
    fn hostile_headers_never_panic(
        entries in prop::collection::vec(
            ("[ab./]{0,3}", "F32|F16|I64|U8|F4|X", prop::collection::vec(any_number(), 0..4), any_number(), any_number()),
            0..4,
        ),
        data in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let entries: Vec<String> = entries
            .into_iter()
            .map(|(name, dtype, shape, start, end)| {
                format!("{name:?}:{}", json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]}))
            })
            .collect();
        sound(&with_header(&format!("{{{}}}", entries.join(",")), &data))?;
    }
}

#[test]
fn a_sealed_file_tells_any_flipped_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let file = sample();
    write_sealed(&path, &file).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(parse(&bytes).unwrap(), file);

    let header_len = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let mut found_by_checksum = 0;
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        match parse(&damaged) {
            Err(e) => found_by_checksum += usize::from(e.to_string().contains("content with the checksum")),
            // A flip in the name of the checksum makes a file without one, whose content is whole.
            Ok(read) => {
                assert!(bit / 8 < LENGTH_BYTES + header_len, "a flip at byte {} passed", bit / 8);
                assert_eq!(read.tensors, file.tensors);
                let mut metadata = read.metadata;
                metadata.retain(|key, _| !key.starts_with("inkwash") && !key.ends_with("crc32"));
                assert_eq!(metadata, file.metadata);
            }
        }
    }
    assert!(found_by_checksum > 7 * 32 / 2, "{found_by_checksum}");

    // Without a checksum, as older files are.
    let other = bytes_of(&file);
    assert_eq!(parse(&other).unwrap(), file);
}

#[test]
fn a_checksum_tells_tensors_apart_by_name_shape_and_order() {
    let of = |tensors: &[(&str, &[usize], &[u8])]| {
        let mut checksum = Checksum::new(&BTreeMap::new());
        tensors.iter().for_each(|(name, shape, data)| checksum.tensor(name, "F32", shape, data));
        checksum.text()
    };
    let plain = of(&[("a", &[1, 2], &[1, 2]), ("b", &[1], &[3])]);
    assert_eq!(plain, of(&[("a", &[1, 2], &[1, 2]), ("b", &[1], &[3])]));
    for other in [
        of(&[("b", &[1, 2], &[1, 2]), ("a", &[1], &[3])]),
        of(&[("a", &[2, 1], &[1, 2]), ("b", &[1], &[3])]),
        of(&[("a", &[1, 2], &[1]), ("b", &[1], &[2, 3])]),
        of(&[("a", &[1, 2], &[1, 2])]),
    ] {
        assert_ne!(plain, other);
    }
}
