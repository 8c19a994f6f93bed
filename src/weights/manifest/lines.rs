//! The forms that are lines of text: `sha256sum` and git-lfs pointers.

use super::{FileDigests, Problem, sha256};

/// Lines with the byte each begins at, its number from 1, and no end of line.
fn lines(text: &[u8]) -> impl Iterator<Item = (usize, usize, &[u8])> {
    let mut offset = 0;
    text.split_inclusive(|byte| *byte == b'\n').enumerate().map(move |(number, line)| {
        let begin = offset;
        offset += line.len();
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        (begin, number + 1, line.strip_suffix(b"\r").unwrap_or(line))
    })
}

/// `sha256sum`, also with `--binary`, `--text`, `--tag`; empty lines and comments are passed over, as it does.
pub(super) fn sums(text: &[u8]) -> Result<Vec<FileDigests>, Problem> {
    let mut files = Vec::new();
    for (begin, number, line) in lines(text) {
        if line.trim_ascii().is_empty() || line.starts_with(b"#") {
            continue;
        }
        let bad = |what: &str| Problem::at(begin, format!("line {number}: {what}"));
        let line = std::str::from_utf8(line).map_err(|_| bad("not UTF-8"))?;
        let (escaped, line) = line.strip_prefix('\\').map_or((false, line), |rest| (true, rest));
        let Some((hex, name)) = tagged(line).or_else(|| untagged(line)) else {
            return Err(bad(
                "neither a manifest of a known form nor a line of sha256sum (64 digits, two spaces, a name)",
            ));
        };
        let digest = sha256(hex).ok_or_else(|| bad("a SHA-256 has 64 hexadecimal digits"))?;
        let name = if escaped { unescaped(name).ok_or_else(|| bad("a bad escape in the name"))? } else { name.into() };
        if name.is_empty() {
            return Err(bad("no name"));
        }
        files.push(FileDigests { name: Some(name), digest: Some(digest), ..FileDigests::default() });
    }
    if files.is_empty() {
        return Err(Problem::at(0, "no digest in it"));
    }
    Ok(files)
}

/// `HEX  NAME`, `HEX *NAME`.
fn untagged(line: &str) -> Option<(&str, &str)> {
    let (hex, name) = line.split_once(' ')?;
    Some((hex, name.strip_prefix([' ', '*'])?))
}

/// `SHA256 (NAME) = HEX`. A name may hold `) = ` itself.
fn tagged(line: &str) -> Option<(&str, &str)> {
    let (name, hex) = line.strip_prefix("SHA256 (")?.rsplit_once(") = ")?;
    Some((hex, name))
}

fn unescaped(name: &str) -> Option<String> {
    let mut out = String::with_capacity(name.len());
    let mut chars = name.chars();
    while let Some(char) = chars.next() {
        out.push(match char {
            '\\' => match chars.next()? {
                '\\' => '\\',
                'n' => '\n',
                'r' => '\r',
                _ => return None,
            },
            char => char,
        });
    }
    Some(out)
}

/// The small file that git keeps in place of a large one.
pub(super) fn pointer(text: &[u8]) -> Result<FileDigests, Problem> {
    let mut file = FileDigests::default();
    for (begin, number, line) in lines(text) {
        let bad = |what: &str| Problem::at(begin, format!("line {number}: {what}"));
        let line = std::str::from_utf8(line).map_err(|_| bad("not UTF-8"))?;
        match line.split_once(' ') {
            Some(("oid", oid)) => {
                let digest = oid.strip_prefix("sha256:").and_then(sha256);
                file.digest = Some(digest.ok_or_else(|| bad("no `oid sha256:` with 64 hexadecimal digits"))?);
            }
            Some(("size", size)) => {
                file.bytes = Some(size.parse().map_err(|_| bad("the size is no number"))?);
            }
            // Keys of extensions, of which the specification allows any.
            _ => {}
        }
    }
    match file.digest {
        Some(_) => Ok(file),
        None => Err(Problem::at(0, "a git-lfs pointer without `oid`")),
    }
}
