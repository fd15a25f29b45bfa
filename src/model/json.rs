//! JSON as Python writes it: with bare `NaN` and `Infinity`, and with numbers in Python's form.

use crate::io::{FileError, read_text, shortened};
use serde_json::Value;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};
use std::io::{self, Write};
use std::path::Path;

const KIND: &str = "JSON file";
const REMEDY: &str = "The file is cut short, damaged or of another kind: copy or save it again.";

/// The value in the file at `path`, which may have 16 MiB. `NaN`, `Infinity` and `-Infinity`, which Python writes
/// and JSON does not have, become text. Of a key that stands twice in an object, the last counts, as in Python.
pub fn read(path: &Path) -> Result<Value, FileError> {
    let text = read_text(path, KIND)?;
    serde_json::from_slice(&with_quoted_constants(text.as_bytes())).map_err(|error| FileError::Malformed {
        path: path.to_path_buf(),
        kind: KIND,
        found: shortened(&error.to_string()).into_owned(),
        expected: "JSON".into(),
        remedy: REMEDY,
        source: Some(error.into()),
    })
}

/// The text with Python's constants in quotes, wherever they do not stand in a string already.
fn with_quoted_constants(text: &[u8]) -> Vec<u8> {
    const CONSTANTS: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];
    let mut quoted = Vec::with_capacity(text.len());
    let (mut rest, mut in_string, mut escaped) = (text, false, false);
    while let Some((&byte, after)) = rest.split_first() {
        match CONSTANTS.iter().find(|constant| !in_string && rest.starts_with(constant)) {
            Some(constant) => {
                quoted.extend([b"\"", *constant, b"\""].concat());
                rest = &rest[constant.len()..];
            }
            None => {
                in_string ^= byte == b'"' && !escaped;
                escaped = in_string && byte == b'\\' && !escaped;
                quoted.push(byte);
                rest = after;
            }
        }
    }
    quoted
}

/// The text that Python's `json.dumps(value, indent=2, sort_keys=True)` makes of a value in ASCII; text that names
/// one of Python's constants becomes that constant.
pub fn to_text(value: &Value) -> serde_json::Result<String> {
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, Python(PrettyFormatter::new()));
    serde::Serialize::serialize(value, &mut serializer)?;
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    for constant in ["-Infinity", "Infinity", "NaN"] {
        text = text.replace(&format!("\"{constant}\""), constant);
    }
    Ok(text)
}

/// [`PrettyFormatter`], but for numbers.
struct Python(PrettyFormatter<'static>);

impl Formatter for Python {
    /// As Python's `repr`: the shortest digits that give the number back, with an exponent of at least two digits
    /// below 1e-4 and from 1e16 on, else with a point.
    fn write_f64<W: Write + ?Sized>(&mut self, to: &mut W, x: f64) -> io::Result<()> {
        let scientific = format!("{x:e}");
        match scientific.split_once('e').map(|(digits, exponent)| (digits, exponent.parse::<i32>())) {
            Some((digits, Ok(exponent))) if !(-4..16).contains(&exponent) => {
                let sign = if exponent < 0 { '-' } else { '+' };
                write!(to, "{digits}e{sign}{:02}", exponent.abs())
            }
            // With a point even where nothing follows it.
            _ => write!(to, "{x:?}"),
        }
    }

    fn begin_array<W: Write + ?Sized>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.begin_array(to)
    }

    fn end_array<W: Write + ?Sized>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.end_array(to)
    }

    fn begin_array_value<W: Write + ?Sized>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(to, first)
    }

    fn end_array_value<W: Write + ?Sized>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.end_array_value(to)
    }

    fn begin_object<W: Write + ?Sized>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.begin_object(to)
    }

    fn end_object<W: Write + ?Sized>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.end_object(to)
    }

    fn begin_object_key<W: Write + ?Sized>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(to, first)
    }

    fn begin_object_value<W: Write + ?Sized>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.begin_object_value(to)
    }

    fn end_object_value<W: Write + ?Sized>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.end_object_value(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Each from `python3 -c 'print(repr(float("…")))'`.
    #[test]
    fn numbers_look_as_in_python() {
        for (text, python) in [
            ("1e-5", "1e-05"),
            ("0.0001", "0.0001"),
            ("9.999e-5", "9.999e-05"),
            ("1", "1.0"),
            ("-0.0", "-0.0"),
            ("0.00085", "0.00085"),
            ("0.1234567890123456789", "0.12345678901234568"),
            ("123456789012345678", "1.2345678901234568e+17"),
            ("1e16", "1e+16"),
            ("9999999999999998", "9999999999999998.0"),
            ("5e-324", "5e-324"),
            ("1.7976931348623157e308", "1.7976931348623157e+308"),
        ] {
            let x: f64 = text.parse().unwrap();
            assert_eq!(to_text(&json!(x)).unwrap(), python);
            let value: Value = serde_json::from_str(python).unwrap();
            assert_eq!(value.as_f64().unwrap().to_bits(), x.to_bits(), "{text} is read back exactly");
        }
    }

    #[test]
    fn layout_is_pythons() {
        let value = json!({"b": [1, 2.0, []], "_a": null, "c": {"d": true, "e": {}}, "f": "-Infinity"});
        let python = "{\n  \"_a\": null,\n  \"b\": [\n    1,\n    2.0,\n    []\n  ],\n  \"c\": {\n    \"d\": true,\n    \
                      \"e\": {}\n  },\n  \"f\": -Infinity\n}";
        assert_eq!(to_text(&value).unwrap(), python);
    }

    #[test]
    fn constants_are_quoted_outside_strings_alone() {
        for (text, quoted) in [
            (r#"[NaN, -Infinity,Infinity]"#, r#"["NaN", "-Infinity","Infinity"]"#),
            (r#"{"NaN \" NaN": "NaN\\", "b": NaN}"#, r#"{"NaN \" NaN": "NaN\\", "b": "NaN"}"#),
            (r#""\\\"" NaN"#, r#""\\\"" "NaN""#),
            (r#""unfinished NaN \"#, r#""unfinished NaN \"#),
        ] {
            assert_eq!(String::from_utf8(with_quoted_constants(text.as_bytes())).unwrap(), quoted);
        }
    }

    #[test]
    fn files_that_are_no_json_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        for (bytes, words) in [
            (b"{\"a\": 1,}".to_vec(), "line 1 column 9"),
            ([b"[".repeat(200_000), b"]".repeat(200_000)].concat(), "recursion limit"),
            (b"{\"a\":\n\"\xff\"}".to_vec(), "0xFF in line 2"),
            (b"--Infinity".to_vec(), "invalid number"),
            (b"1e999".to_vec(), "number out of range"),
            (vec![b' '; (16 << 20) + 1], "16777217 bytes"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("config.json") && error.contains(words), "{error}");
        }
        assert!(read(folder.path()).unwrap_err().to_string().contains("ordinary file"));
    }
}
