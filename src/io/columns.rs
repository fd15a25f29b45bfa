//! Tables for a terminal.

/// Rows of cells under their heads, each column as wide as its widest cell: numbers to the right, and the last `words` columns, of
/// words, to the left. Every row has as many cells as there are heads.
pub fn columns(heads: &[&str], rows: &[Vec<String>], words: usize) -> String {
    let heads: Vec<String> = heads.iter().map(|head| (*head).into()).collect();
    let lines = || std::iter::once(&heads).chain(rows);
    let width = |i: usize| lines().map(|line| line[i].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let padded = |(i, cell): (usize, &String)| match widths[i] {
        width if i + words < widths.len() => format!("{cell:>width$}"),
        width => format!("{cell:<width$}"),
    };
    let line = |cells: &Vec<String>| {
        let padded: Vec<String> = cells.iter().enumerate().map(padded).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    lines().map(line).collect()
}

/// A number with three digits or more.
pub fn short(x: f64) -> String {
    match x {
        0.0 => "0".into(),
        x if x < 1.0 => format!("{x:.3}"),
        x if x < 100.0 => format!("{x:.2}"),
        x => format!("{x:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let rows =
            [["1.5", "a", "long name"], ["12345", "bcd", "x"]].map(|row| row.map(String::from).to_vec());
        let text = columns(&["ms", "limit", "name"], &rows, 2);
        assert_eq!(text, "   ms  limit  name\n  1.5  a      long name\n12345  bcd    x\n");
        assert_eq!(columns(&["ms", "name"], &[], 1), "ms  name\n");
    }
}
