//! The body of a PAX header: records `"LEN key=value\n"`, where LEN counts the whole record, itself included.

/// What a PAX header says that an index must know.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pax {
    /// The member's name, in place of the header's.
    pub(super) path: Option<Vec<u8>>,
    /// The member's size in bytes, in place of the header's.
    pub(super) size: Option<u64>,
    /// Whether the member is a GNU sparse file: its body is then not the file's bytes.
    pub(super) sparse: bool,
}

/// Reads a body; an error says at which of its bytes the bad record begins.
pub(super) fn parse(body: &[u8]) -> Result<Pax, (u64, String)> {
    let mut pax = Pax::default();
    let mut at = 0;
    // Some writers pad the body with NULs inside its stated size.
    while body.get(at).is_some_and(|&b| b != 0) {
        let bad = |problem: &str| Err((at as u64, problem.to_owned()));
        let Some((key, value, len)) = record(&body[at..]) else {
            return bad("not a PAX record: expected \"LENGTH key=value\" and a newline, LENGTH bytes in all");
        };
        // An empty value takes back what was said before.
        match key {
            b"path" => pax.path = (!value.is_empty()).then(|| value.to_vec()),
            b"size" => match decimal(value) {
                Some(size) => pax.size = Some(size),
                None if value.is_empty() => pax.size = None,
                None => return bad("the PAX record \"size\" is not a decimal number of bytes"),
            },
            _ => pax.sparse |= key.starts_with(b"GNU.sparse."),
        }
        at += len;
    }
    Ok(pax)
}

/// The record at the start of `rest`: key, value, and length of the whole.
fn record(rest: &[u8]) -> Option<(&[u8], &[u8], usize)> {
    let space = rest.iter().position(|&b| b == b' ')?;
    let len = usize::try_from(decimal(&rest[..space])?).ok()?;
    let pair = rest.get(space + 1..len)?.strip_suffix(b"\n")?;
    let equals = pair.iter().position(|&b| b == b'=')?;
    Some((&pair[..equals], &pair[equals + 1..], len))
}

fn decimal(digits: &[u8]) -> Option<u64> {
    (!digits.is_empty()).then_some(())?;
    digits.iter().try_fold(0u64, |value, &b| {
        let digit = u64::from(b.wrapping_sub(b'0'));
        (digit < 10).then_some(())?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_cut_by_their_lengths() {
        // The first body is what Python's tarfile writes for WebDataset's float mtime.
        assert_eq!(parse(b"13 mtime=1.5\n"), Ok(Pax::default()));
        let pax = parse(b"13 mtime=1.5\n13 path=a\n=b\n14 size=12345\n").unwrap();
        assert_eq!(pax, Pax { path: Some(b"a\n=b".to_vec()), size: Some(12345), sparse: false });
        assert_eq!(parse(b"9 path=a\n9 path=b\n").unwrap().path, Some(b"b".to_vec()));
        assert_eq!(parse(b"9 path=a\n8 path=\n").unwrap().path, None);
        assert!(parse(b"22 GNU.sparse.major=1\n").unwrap().sparse);
        assert_eq!(parse(b"9 path=a\n\0\0\0\0").unwrap().path, Some(b"a".to_vec()));
    }

    #[test]
    fn a_bad_record_is_named_by_its_byte() {
        for bad in [
            &b"9 path=a\n99 path=b\n"[..],
            b"9 path=a\n8 path=b\n",
            b"9 path=a\n0 path=b\n",
            b"9 path=a\n path=b\n",
            b"9 path=a\n99999999999999999999999 path=b\n",
            b"9 path=a\n9 size=x\n",
            b"9 path=a\n9 pathba\n",
            b"9 path=a\n12",
            b"9 path=a\n28 size=99999999999999999999\n",
        ] {
            assert_eq!(parse(bad).map_err(|(at, _)| at), Err(9), "{}", bad.escape_ascii());
        }
    }
}
