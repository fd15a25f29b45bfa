//! Excerpts of sources in the pages of `docs/lab` and `docs/kernels` are the sources as they are. An excerpt is a fenced block after
//!
//!     <!-- excerpt: FILE FIRST .. LAST -->
//!
//! It shows FILE (from the root of the repository) from the one line that begins with FIRST, spaces aside, to the next
//! that begins with LAST. `INKWASH_UPDATE_EXCERPTS=1 cargo test --test excerpts` writes them anew.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fmt::Write;
use std::path::PathBuf;

const MARK: &str = "<!-- excerpt: ";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The lines of `source` from the one that begins with `first` to the next that begins with `last`.
fn lines_between(source: &str, first: &str, last: &str) -> Result<String, String> {
    let begins = |line: &str, with: &str| line.trim_start().starts_with(with);
    let lines: Vec<&str> = source.lines().collect();
    let starts: Vec<usize> = (0..lines.len()).filter(|&i| begins(lines[i], first)).collect();
    let [start] = starts[..] else {
        return Err(format!("{} lines begin with `{first}`; expected one", starts.len()));
    };
    let Some(length) = lines[start..].iter().position(|line| begins(line, last)) else {
        return Err(format!("no line from `{first}` on begins with `{last}`"));
    };
    Ok(lines[start..=start + length].iter().map(|line| format!("{line}\n")).collect())
}

/// The page with every excerpt as its source has it, and how many there are.
fn refreshed(page: &str, read: &dyn Fn(&str) -> Result<String, String>) -> Result<(String, usize), String> {
    let mut text = String::new();
    let mut count = 0;
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        writeln!(text, "{line}").unwrap();
        let Some(mark) = line.strip_prefix(MARK) else { continue };
        let wrong = |what: &str| format!("`{line}`: {what}");
        let (file, rest) = mark
            .strip_suffix(" -->")
            .and_then(|m| m.split_once(' '))
            .ok_or_else(|| wrong("expected FILE FIRST .. LAST -->"))?;
        let (first, last) =
            rest.split_once(" .. ").ok_or_else(|| wrong("expected FIRST .. LAST after the file"))?;
        let fence = lines.next().filter(|l| l.starts_with("```")).ok_or_else(|| wrong("no block follows"))?;
        if !lines.by_ref().any(|l| l == "```") {
            return Err(wrong("the block has no end"));
        }
        let excerpt = lines_between(&read(file)?, first, last).map_err(|e| wrong(&format!("{file}: {e}")))?;
        writeln!(text, "{fence}\n{excerpt}```").unwrap();
        count += 1;
    }
    Ok((text, count))
}

#[test]
fn excerpts_are_the_sources() {
    let update = std::env::var_os("INKWASH_UPDATE_EXCERPTS").is_some();
    let read = |file: &str| std::fs::read_to_string(root().join(file)).map_err(|e| format!("{file}: {e}"));
    let (mut count, mut stale) = (0, Vec::new());
    let pages = ["docs/lab", "docs/kernels"].map(|folder| std::fs::read_dir(root().join(folder)).unwrap());
    for entry in pages.into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "md") {
            continue;
        }
        let page = std::fs::read_to_string(&path).unwrap();
        let (text, found) = refreshed(&page, &read).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        count += found;
        if text != page {
            stale.push(path.display().to_string());
            if update {
                std::fs::write(&path, text).unwrap();
            }
        }
    }
    assert!(count > 0, "no excerpt was found");
    assert!(
        update || stale.is_empty(),
        "excerpts differ from the sources in {}; `INKWASH_UPDATE_EXCERPTS=1 cargo test --test excerpts` writes them \
         anew",
        stale.join(", ")
    );
}

#[test]
fn an_excerpt_that_is_not_the_source_is_seen() {
    let source = "// a\n    let x = 1;\n    let y = 2;\n}\nlet x_2 = 0;\n";
    let read = |_: &str| Ok(source.to_string());
    let page =
        |mark: &str, block: &str| format!("Text.\n\n{MARK}f.wgsl {mark} -->\n```wgsl\n{block}```\nMore.\n");
    let right = page("let x = .. let y", "    let x = 1;\n    let y = 2;\n");
    assert_eq!(refreshed(&right, &read).unwrap(), (right.clone(), 1));
    let wrong = page("let x = .. let y", "    let x = 3;\n");
    assert_eq!(refreshed(&wrong, &read).unwrap(), (right, 1));
    let one_line = page("let y .. let y", "    let y = 2;\n");
    assert_eq!(refreshed(&one_line, &read).unwrap(), (one_line.clone(), 1));
    for (mark, expected) in [
        ("let x .. let y", "2 lines begin with `let x`"),
        ("let z .. let y", "0 lines"),
        ("let x = .. let z", "no line from"),
        ("let x", "expected FIRST .. LAST"),
    ] {
        let message = refreshed(&page(mark, ""), &read).unwrap_err();
        assert!(message.contains(expected), "{message}");
    }
    let open = format!("{MARK}f.wgsl let y .. let y -->\n```wgsl\nlet y");
    assert!(refreshed(&open, &read).unwrap_err().contains("no end"));
    assert!(refreshed(&format!("{MARK}f.wgsl a .. b -->\ntext\n"), &read).unwrap_err().contains("no block"));
}
