//! The documents: the field's terms, one each, as docs/glossary.md has them; links that lead somewhere; the pictures of
//! the experiments; every setting of a training run in docs/files.md. Reads files; runs nothing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

/// Files below `folder` with this extension, in the order of their names.
fn files_below(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path, extension));
        } else if path.extension().is_some_and(|e| e == extension) {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The pages: those at the root, in docs and in shaders.
fn pages() -> Vec<PathBuf> {
    let at_root = ["README.md", "README.zh-CN.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "shaders/README.md"];
    let mut pages: Vec<PathBuf> = at_root.iter().map(|name| root().join(name)).collect();
    pages.extend(files_below(&root().join("docs"), "md"));
    pages
}

/// The columns of a row of a table.
fn cells(line: &str) -> Vec<&str> {
    line.trim().trim_matches('|').split('|').map(str::trim).collect()
}

/// (words not to use, the term in their place): the last column of a glossary's table, and its first.
fn refusals(glossary: &str) -> Vec<(String, String)> {
    let rows = glossary.lines().filter(|line| line.starts_with('|')).skip(2).map(cells);
    rows.flat_map(|row| {
        let term = row[0].to_string();
        let refused = row[row.len() - 1].split([',', '、']).map(|word| word.trim().to_lowercase());
        refused.filter(|word| !word.is_empty()).map(move |word| (word, term.clone())).collect::<Vec<_>>()
    })
    .collect()
}

/// A text in lower case without its line breaks, and for each of its bytes the line that it is from. Where words are
/// parted by spaces a break becomes one.
fn unwrapped<'a>(lines: impl Iterator<Item = &'a str>) -> (String, Vec<usize>) {
    let (mut text, mut origins) = (String::new(), Vec::new());
    for (number, line) in lines.enumerate() {
        let line = line.trim().to_lowercase();
        if text.chars().next_back().is_some_and(|c| c.is_ascii() && c != ' ') {
            text.push(' ');
        }
        text.push_str(&line);
        origins.resize(text.len(), number + 1);
    }
    (text, origins)
}

/// Every use of a refused word, as "line 3: `found`, write `term`".
fn uses<'a>(lines: impl Iterator<Item = &'a str>, refusals: &[(String, String)]) -> Vec<String> {
    let (text, origins) = unwrapped(lines);
    let mut found = Vec::new();
    for (word, term) in refusals {
        let within = |c: Option<char>| word.is_ascii() && c.is_some_and(|c| c.is_ascii_alphanumeric());
        for (at, _) in text.match_indices(word.as_str()) {
            let (before, after) = (text[..at].chars().next_back(), text[at + word.len()..].chars().next());
            if !within(before) && !within(after) {
                found.push(format!("line {}: `{word}`, write `{term}`", origins[at]));
            }
        }
    }
    found
}

#[test]
fn the_terms_are_those_of_the_glossary() {
    let glossaries = ["docs/glossary.md", "docs/glossary.zh.md"].map(|name| root().join(name));
    let refusals: Vec<_> = glossaries.iter().flat_map(|glossary| refusals(&read(glossary))).collect();
    assert!(refusals.len() > 20, "the glossaries refuse only {refusals:?}");
    let mut wrong = Vec::new();
    let mut look = |file: &Path, found: Vec<String>| {
        let name = file.strip_prefix(root()).unwrap().display().to_string();
        wrong.extend(found.into_iter().map(|found| format!("{name}, {found}")));
    };
    for page in pages().iter().filter(|page| !glossaries.contains(page)) {
        look(page, uses(read(page).lines(), &refusals));
    }
    for shader in files_below(&root().join("shaders"), "wgsl") {
        let comment = |line| str::split_once(line, "//").map_or("", |(_, comment)| comment);
        look(&shader, uses(read(&shader).lines().map(comment), &refusals));
    }
    assert!(wrong.is_empty(), "words that docs/glossary.md has terms for:\n{}", wrong.join("\n"));
}

#[test]
fn a_refused_word_is_seen() {
    let glossary = "| term | means | not |\n|---|---|---|\n| noise level | how much | noise strength, strength of noise |\n\
                    | score | ∇log p | |\n";
    let chinese = "| 术语 | 意思 | 不用 |\n|---|---|---|\n| 得分 | ∇log p | 分数、评分 |\n";
    let refusals = [refusals(glossary), refusals(chinese)].concat();
    assert_eq!(refusals.len(), 4);
    let found = |text: &str| uses(text.lines(), &refusals).len();
    assert_eq!(found("The noise level, and the score. 得分。"), 0);
    assert_eq!(found("Noise strengths are another word."), 0);
    assert_eq!(
        uses("One.\nThe Noise\nstrength".lines(), &refusals),
        ["line 2: `noise strength`, write `noise level`"]
    );
    assert_eq!(uses("一行。\n让分\n数弱一成".lines(), &refusals), ["line 2: `分数`, write `得分`"]);
}

/// The name that GitHub gives a heading in links.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    heading
        .trim_start_matches('#')
        .trim()
        .to_lowercase()
        .chars()
        .filter(kept)
        .collect::<String>()
        .replace(' ', "-")
}

/// The targets of the links of a page, those in code left out.
fn links(page: &str) -> Vec<String> {
    let mut targets = Vec::new();
    let mut in_block = false;
    for line in page.lines() {
        in_block ^= line.trim_start().starts_with("```");
        if in_block || line.starts_with("    ") {
            continue;
        }
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("x");
        targets
            .extend(prose.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_string())));
    }
    targets
}

#[test]
fn links_lead_somewhere() {
    let (mut count, mut broken) = (0, Vec::new());
    for page in pages() {
        for link in links(&read(&page)) {
            if link.contains("://") {
                continue;
            }
            count += 1;
            let (file, place) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            let headings =
                || read(&target).lines().filter(|l| l.starts_with('#')).map(anchor).collect::<BTreeSet<_>>();
            if !target.exists() || !(place.is_empty() || headings().contains(place)) {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(count > 100, "{count} links were found");
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
    assert_eq!(links("[a](b.md), `[c](d)`, ![](e.png)\n```\n[f](g)\n```\n"), ["b.md", "e.png"]);
    assert_eq!(anchor("## Cost, before `running`"), "cost-before-running");
}

/// Every experiment has a page in both languages, which shows the same pictures; those are the ones that are kept, and small.
#[test]
fn every_experiment_shows_its_pictures() {
    let docs = root().join("docs");
    let mut shown = BTreeSet::new();
    for experiment in inkwash::lab::EXPERIMENTS {
        let [english, chinese] = ["md", "zh.md"].map(|extension| {
            let page = read(&docs.join(format!("lab/{}.{extension}", experiment.name)));
            let pictures = links(&page).into_iter().filter(|link| link.ends_with(".png"));
            pictures.map(|link| docs.join("lab").join(link)).collect::<Vec<_>>()
        });
        assert!(!english.is_empty(), "docs/lab/{}.md shows no picture", experiment.name);
        assert_eq!(english, chinese, "the pages on {} show other pictures", experiment.name);
        let folder = docs.join(format!("lab/../images/lab/{}", experiment.name));
        assert!(english.iter().all(|picture| picture.parent() == Some(&folder)), "{english:?}");
        shown.extend(english.iter().map(|picture| picture.canonicalize().unwrap()));
    }
    let kept = files_below(&docs.join("images/lab").canonicalize().unwrap(), "png");
    assert_eq!(kept, shown.into_iter().collect::<Vec<_>>(), "kept in docs/images/lab, and shown");
    let sizes = kept.iter().map(|picture| {
        let bytes = std::fs::read(picture).unwrap();
        // After its signature and the head of the first chunk a PNG has width, height, bits and the kind: 3 is a palette.
        assert!(bytes.starts_with(b"\x89PNG") && bytes[25] == 3, "{} has no palette", picture.display());
        assert!(bytes.len() < 80_000, "{} has {} bytes", picture.display(), bytes.len());
        bytes.len()
    });
    let total: usize = sizes.sum();
    assert!(total < 1_500_000, "docs/images/lab has {total} bytes");
}

/// Every field that a configuration may have, with the values of those that name a schedule or a prediction.
#[test]
fn every_setting_of_a_run_is_documented() {
    use clap::ValueEnum;
    use inkwash::diffusion::{Prediction, ScheduleKind};
    use inkwash::train::TrainConfig;
    let page = read(&root().join("docs/files.md"));
    let (_, section) = page.split_once("\n## config.toml\n").unwrap();
    let (section, _) = section.split_once("\n### ").unwrap();
    let rows: Vec<Vec<&str>> = section.lines().filter(|l| l.starts_with("| `")).map(cells).collect();
    let documented: BTreeSet<&str> =
        rows.iter().flat_map(|row| row[0].split(", ").map(|f| f.trim_matches('`'))).collect();
    let command = <TrainConfig as clap::Args>::augment_args(clap::Command::new("train"));
    let mut fields: BTreeSet<String> =
        command.get_arguments().map(|argument| argument.get_id().as_str().replace('-', "_")).collect();
    fields.extend(["fusion", "class_names"].map(String::from));
    let missing: Vec<&String> = fields.iter().filter(|field| !documented.contains(field.as_str())).collect();
    let unknown: Vec<&&str> = documented.iter().filter(|field| !fields.contains(**field)).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "not in docs/files.md: {missing:?}; no field: {unknown:?}"
    );
    let named = |field: &str, names: Vec<String>| {
        let row = rows.iter().find(|row| row[0].contains(&format!("`{field}`"))).unwrap();
        for name in names {
            assert!(row[2].contains(&format!("`{name}`")), "docs/files.md, {field}: {name} is missing");
        }
    };
    named("noise_schedule", ScheduleKind::value_variants().iter().map(|kind| kind.name()).collect());
    named("prediction", Prediction::value_variants().iter().map(|p| p.name()).collect());
}
