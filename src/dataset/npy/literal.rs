//! The header of a NumPy file: a Python dictionary of three entries, read without Python.
//!
//! ```text
//! {'descr': '<f4', 'fortran_order': False, 'shape': (3, 224, 224), }
//! ```
//! Strings, `True` and `False`, and tuples of numbers are all that occurs; a list (of a structured type) is told apart.

use crate::dataset::parse::Problem;

/// More dimensions than NumPy has.
const DIMENSIONS_MAX: usize = 64;

/// What the header says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) descr: Descr,
    pub(super) fortran_order: bool,
    pub(super) shape: Vec<u64>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Descr {
    /// `<f4`.
    Simple(String),
    /// A list of named parts.
    Structured,
}

/// Reads the header; places in a [`Problem`] count from its first byte.
pub(super) fn parse(text: &[u8]) -> Result<Header, Problem> {
    let mut at = Reader { text, at: 0 };
    let (mut descr, mut fortran_order, mut shape) = (None, None, None);
    at.expect(b'{')?;
    while !at.take(b'}') {
        let start = at.skip_spaces();
        let twice = match at.string()? {
            "descr" => {
                at.expect(b':')?;
                if at.take(b'[') {
                    // Its parts nest; what follows them is of no use to anyone.
                    return Ok(Header { descr: Descr::Structured, fortran_order: false, shape: Vec::new() });
                }
                descr.replace(Descr::Simple(at.string()?.to_owned())).is_some()
            }
            "fortran_order" => {
                at.expect(b':')?;
                fortran_order.replace(at.truth()?).is_some()
            }
            "shape" => {
                at.expect(b':')?;
                shape.replace(at.tuple()?).is_some()
            }
            other => return Err(bad(start, format!("an unknown entry {other:?}"))),
        };
        if twice {
            return Err(bad(start, "the same entry twice"));
        }
        if !at.take(b',') {
            at.expect(b'}')?;
            break;
        }
    }
    at.end()?;
    match (descr, fortran_order, shape) {
        (Some(descr), Some(fortran_order), Some(shape)) => Ok(Header { descr, fortran_order, shape }),
        _ => Err(bad(0, "not all of 'descr', 'fortran_order' and 'shape'")),
    }
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn skip_spaces(&mut self) -> usize {
        self.at += self.text[self.at..].iter().take_while(|b| b.is_ascii_whitespace()).count();
        self.at
    }

    /// Takes that byte, behind spaces, if it is the next.
    fn take(&mut self, byte: u8) -> bool {
        self.skip_spaces();
        let there = self.text.get(self.at) == Some(&byte);
        self.at += usize::from(there);
        there
    }

    fn expect(&mut self, byte: u8) -> Result<(), Problem> {
        if self.take(byte) {
            return Ok(());
        }
        let found = self.text.get(self.at).map_or("the end".into(), |b| format!("'{}'", b.escape_ascii()));
        Err(bad(self.at, format!("'{}' expected, {found} found", char::from(byte))))
    }

    fn string(&mut self) -> Result<&'a str, Problem> {
        let start = self.skip_spaces();
        let quote =
            self.text.get(start).filter(|b| [b'\'', b'"'].contains(b)).ok_or_else(|| bad(start, "no string"))?;
        let rest = &self.text[start + 1..];
        let len = rest.iter().position(|b| b == quote).ok_or_else(|| bad(start, "a string without an end"))?;
        let string = std::str::from_utf8(&rest[..len]).ok().filter(|string| !string.contains('\\'));
        self.at = start + len + 2;
        string.ok_or_else(|| bad(start, "a string with escapes or of no encoding"))
    }

    fn truth(&mut self) -> Result<bool, Problem> {
        let start = self.skip_spaces();
        for (word, value) in [("True", true), ("False", false)] {
            if self.text[start..].starts_with(word.as_bytes()) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(bad(start, "neither True nor False"))
    }

    fn tuple(&mut self) -> Result<Vec<u64>, Problem> {
        let start = self.skip_spaces();
        self.expect(b'(')?;
        let mut numbers = Vec::new();
        let mut comma = true;
        while !self.take(b')') {
            if !comma || numbers.len() == DIMENSIONS_MAX {
                return Err(bad(start, "no tuple of numbers"));
            }
            numbers.push(self.number()?);
            comma = self.take(b',');
        }
        // (3) is a number in Python, (3,) a tuple.
        if numbers.len() == 1 && !comma {
            return Err(bad(start, "a number where a tuple must be"));
        }
        Ok(numbers)
    }

    fn number(&mut self) -> Result<u64, Problem> {
        let start = self.skip_spaces();
        let len = self.text[start..].iter().take_while(|b| b.is_ascii_digit()).count();
        let digits = std::str::from_utf8(&self.text[start..start + len]).unwrap_or_default();
        self.at += len;
        // Python 2 wrote long numbers as 3L.
        self.at += usize::from(self.text.get(self.at) == Some(&b'L'));
        digits.parse().map_err(|_| bad(start, "no number of 64 bits"))
    }

    fn end(&mut self) -> Result<(), Problem> {
        match self.skip_spaces() == self.text.len() {
            true => Ok(()),
            false => Err(bad(self.at, "something behind the dictionary")),
        }
    }
}

fn bad(at: usize, what: impl Into<String>) -> Problem {
    Problem::new(at as u64, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Header, Problem> {
        parse(text.as_bytes())
    }

    #[test]
    fn what_numpy_writes_is_read() {
        let header = |descr: &str, fortran_order, shape: &[u64]| {
            Ok(Header { descr: Descr::Simple(descr.into()), fortran_order, shape: shape.into() })
        };
        let spaces = " ".repeat(40);
        assert_eq!(
            of(&format!("{{'descr': '<f4', 'fortran_order': False, 'shape': (3, 224), }}{spaces}\n")),
            header("<f4", false, &[3, 224])
        );
        assert_eq!(of("{\"shape\":(7,),'fortran_order':True,\"descr\":'|u1'}"), header("|u1", true, &[7]));
        assert_eq!(of("{'descr': '<i8', 'fortran_order': False, 'shape': ()}"), header("<i8", false, &[]));
        assert_eq!(of("{'descr': '<i8', 'fortran_order': False, 'shape': (10L, 2L)}"), header("<i8", false, &[10, 2]));
        let structured = of("{'descr': [('x', '<f4'), ('y', '<i4')], 'fortran_order': False, 'shape': (5,)}").unwrap();
        assert_eq!(structured.descr, Descr::Structured);
    }

    #[test]
    fn anything_else_is_refused_where_it_is() {
        for (text, at, what) in [
            ("", 0, "'{' expected, the end found"),
            ("{", 1, "no string"),
            ("{'descr'", 8, "':' expected"),
            ("{'descr': '<f4", 10, "without an end"),
            ("{'descr': __import__('os')}", 10, "no string"),
            ("{'descr': '\\x3cf4'}", 10, "escapes"),
            ("{'descr': '<f4', 'descr': '<f4'}", 17, "twice"),
            ("{'evil': '<f4'}", 1, "unknown entry \"evil\""),
            ("{'descr': '<f4'}", 0, "not all of"),
            ("{'shape': (3)}", 10, "a number"),
            ("{'shape': (3 4)}", 10, "no tuple"),
            ("{'shape': (-3,)}", 11, "no number"),
            ("{'shape': (18446744073709551616,)}", 11, "no number"),
            ("{'fortran_order': Falsch}", 18, "neither"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': ()} x", 54, "behind"),
        ] {
            let problem = of(text).unwrap_err();
            assert!(problem.at == at && problem.what.contains(what), "{text}: {problem:?}");
        }
        assert!(of(&format!("{{'shape': ({})}}", "1,".repeat(65))).unwrap_err().what.contains("no tuple"));
    }
}
