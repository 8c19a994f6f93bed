//! Tables and wrapped lines for people.

/// Columns that line up; the first row is the heading.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell: &String| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| pad(cell, *width, column > 0)).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// `"1 shard"`, `"2 shards"`.
pub(crate) fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Numbers are read from their right end, names from their left.
fn pad(cell: &str, width: usize, right: bool) -> String {
    if right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
}

/// `first` followed by `text`, wrapped at 110 columns, later lines indented as far as `first` is long.
pub(crate) fn wrapped(first: &str, text: &str) -> String {
    let indent = first.chars().count();
    let (mut out, mut column) = (first.to_owned(), indent);
    for (i, word) in text.split_whitespace().enumerate() {
        let long = word.chars().count();
        if i > 0 && column + 1 + long > 110 {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            column = indent;
        } else if i > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += long;
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["", "GB/s"], ["strait", "1.5"], ["fio", "10.25"]].map(|row| row.map(String::from).to_vec());
        assert_eq!(table(&rows), "         GB/s\nstrait    1.5\nfio     10.25\n");
    }

    #[test]
    fn long_text_wraps_under_its_own_start() {
        let out = wrapped("  ok  ", &"word ".repeat(40));
        assert!(out.lines().all(|line| line.len() <= 110 && line.starts_with("  ")));
        assert!(out.lines().nth(1).unwrap().starts_with("      word"));
    }
}
