//! The members of a tar file, found from its headers alone.
//!
//! This walk is our own and not the `tar` crate's, which (0.4) is made to unpack: with seeking it takes a body that
//! ends behind the end of the file as an ordinary end, reads an extension header of any size into memory, does not say
//! at which byte an error lies, drops the upper bytes of a base-256 size, refuses signed checksums, and passes over PAX
//! records it cannot parse. An index must answer each of these with an error or the right extent.

mod header;
mod pax;

use std::path::Path;

use super::window::Window;
use crate::error::{Error, Result};
use header::{BLOCK, Header, Kind};

/// The largest PAX header or GNU long name that is taken into memory. Real ones hold a path and perhaps some extended
/// attributes, which Linux limits to 64 KiB each.
const EXTENSION_BYTES_MAX: u64 = 1 << 20;

/// How far behind the end mark padding must be zeros: writers pad a file to a record of 20 blocks.
const RECORD_BYTES: u64 = 20 * BLOCK;

/// A regular file in a tar file.
pub(super) struct Member<'m> {
    /// Its name as stored, bytes of no promised encoding; relative, and without `..`.
    pub(super) name: &'m [u8],
    /// Where its own header is, in bytes from the start of the file.
    pub(super) header: u64,
    /// Where its data begins.
    pub(super) offset: u64,
    /// How long its data is, in bytes.
    pub(super) len: u64,
}

/// Walks over a tar file's headers.
pub(super) struct Members<'a> {
    path: &'a Path,
    window: Window<'a>,
    /// Where the next header is.
    next: u64,
    name: Vec<u8>,
    body: Vec<u8>,
}

/// What extension headers said about the member that follows them.
#[derive(Default)]
struct Ahead {
    /// Where the first of them is.
    from: Option<u64>,
    long_name: Option<Vec<u8>>,
    pax: Option<pax::Pax>,
}

impl Ahead {
    /// Whether it gives the member's name.
    fn named(&self) -> bool {
        self.long_name.is_some() || self.pax.as_ref().is_some_and(|pax| pax.path.is_some())
    }
}

impl<'a> Members<'a> {
    pub(super) fn open(path: &'a Path) -> Result<Members<'a>> {
        let window = Window::open(path)?;
        if window.bytes() == 0 {
            return Err(Error::format(
                path,
                0,
                "the file is empty: a tar file has at least an end mark; write it again",
            ));
        }
        Ok(Members { path, window, next: 0, name: Vec::new(), body: Vec::new() })
    }

    /// The file's size in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.window.bytes()
    }

    /// The next regular file, or `None` at the end of the archive.
    pub(super) fn next(&mut self) -> Result<Option<Member<'_>>> {
        let mut ahead = Ahead::default();
        loop {
            let at = self.next;
            let Some(header) = self.header(at)? else {
                return match ahead.from {
                    Some(from) => Err(self.bad(from, "an extension header, but the archive ends before its member")),
                    None => Ok(None),
                };
            };
            let kind = header.kind(ahead.named());
            match kind {
                Kind::File => {
                    self.window.expect_extensions(ahead.from.is_some());
                    return self.file(at, &header, ahead).map(Some);
                }
                Kind::Pax | Kind::PaxGlobal | Kind::LongName => self.extension(at, &header, kind, &mut ahead)?,
                Kind::LongLink => drop(self.pass(at, header.size())?),
                Kind::Sparse => return Err(self.sparse(at)),
                Kind::Bodiless => {
                    self.next = at + BLOCK;
                    ahead = Ahead::default();
                }
                Kind::Other => {
                    let size = ahead.pax.and_then(|pax| pax.size);
                    self.pass(at, size.map_or_else(|| header.size(), Ok))?;
                    ahead = Ahead::default();
                }
            }
        }
    }

    /// The header at `at`, or `None` at the end of the archive: a block of zeros, or, as in Python, no block at all.
    fn header(&mut self, at: u64) -> Result<Option<Header>> {
        let left = self.bytes() - at;
        if left == 0 {
            return Ok(None);
        }
        if left < BLOCK {
            return Err(self.no_header(at, format!("the file ends {left} bytes into a tar header: it was truncated")));
        }
        match Header::new(&self.window.block(at)?) {
            Ok(Some(header)) => Ok(Some(header)),
            Ok(None) => self.end(at).map(|()| None),
            Err(problem) if at == 0 => Err(self.no_header(at, problem + "; this is no tar file")),
            Err(problem) => Err(self.no_header(at, problem + "; the file is damaged from here on: write it again")),
        }
    }

    /// The error for bytes that are no header, which at the start of a file are often a compressed one's.
    fn no_header(&mut self, at: u64, problem: String) -> Error {
        let start = self.window.read(0, self.bytes().min(8), &mut self.body);
        match (start, compression(&self.body)) {
            (Err(e), _) => e,
            (Ok(()), Some((kind, remedy))) if at == 0 => self.bad(
                0,
                format!(
                    "compressed with {kind}: samples are read at their own offsets, which a compressed tar does not have; \
                     decompress it first (`{remedy}`)"
                ),
            ),
            _ => self.bad(at, problem),
        }
    }

    /// Checks that the end mark at `at` ends the file: samples behind it would be lost without a word.
    fn end(&mut self, at: u64) -> Result<()> {
        let len = (self.bytes() - at).min(RECORD_BYTES);
        self.window.read(at, len, &mut self.body)?;
        let Some(after) = self.body.iter().position(|&b| b != 0) else { return Ok(()) };
        Err(self.bad(
            at + after as u64,
            format!(
                "data behind the end mark at byte {at}, where tar readers stop: archives written one after another, or \
                 blocks lost to zeros; unpack it with `tar --ignore-zeros` and write it again"
            ),
        ))
    }

    fn file(&mut self, at: u64, header: &Header, ahead: Ahead) -> Result<Member<'_>> {
        let (path, size) = match ahead.pax {
            Some(pax) if pax.sparse => return Err(self.sparse(at)),
            Some(pax) => (pax.path, pax.size),
            None => (None, None),
        };
        match path.or(ahead.long_name) {
            Some(name) => self.name = name,
            None => header.name(&mut self.name),
        }
        let len = self.pass(at, size.map_or_else(|| header.size(), Ok))?;
        self.check_name(at)?;
        Ok(Member { name: &self.name, header: at, offset: at + BLOCK, len })
    }

    /// Takes in an extension header and its body.
    fn extension(&mut self, at: u64, header: &Header, kind: Kind, ahead: &mut Ahead) -> Result<()> {
        let len = self.pass(at, header.size())?;
        if len > EXTENSION_BYTES_MAX {
            let problem = format!("an extension header of {len} bytes; at most {EXTENSION_BYTES_MAX} are read");
            return Err(self.bad(at, problem));
        }
        self.window.read(at + BLOCK, len, &mut self.body)?;
        let twice = match kind {
            Kind::LongName => {
                let end = self.body.iter().position(|&b| b == 0).unwrap_or(self.body.len());
                ahead.long_name.replace(self.body[..end].to_vec()).is_some()
            }
            _ => {
                let pax = pax::parse(&self.body).map_err(|(byte, problem)| self.bad(at + BLOCK + byte, problem))?;
                if kind == Kind::PaxGlobal {
                    return match pax == pax::Pax::default() {
                        true => Ok(()),
                        false => Err(self.bad(at, "a global PAX header that gives all members one path or size")),
                    };
                }
                ahead.pax.replace(pax).is_some()
            }
        };
        ahead.from.get_or_insert(at);
        match twice {
            true => Err(self.bad(at, "a second extension header of its kind for the same member: they may disagree")),
            false => Ok(()),
        }
    }

    /// Moves on behind the body of the header at `at`; the body's length, which lies inside the file, padding included.
    fn pass(&mut self, at: u64, size: Result<u64, String>) -> Result<u64> {
        let size = size.map_err(|problem| self.bad(at, problem))?;
        let room = self.bytes() - at - BLOCK;
        // Both fit: a file has fewer than 2^63 bytes, and `size` is checked before it is rounded up.
        if size > room || size.next_multiple_of(BLOCK) > room {
            return Err(self.bad(
                at,
                format!(
                    "a member of {size} bytes, with padding to a multiple of {BLOCK}, of which the file has {room}: it \
                     was truncated, or the size is wrong"
                ),
            ));
        }
        self.next = at + BLOCK + size.next_multiple_of(BLOCK);
        Ok(size)
    }

    fn check_name(&self, at: u64) -> Result<()> {
        let name = &self.name;
        if name.starts_with(b"/") {
            return Err(self.bad(at, format!("the name {} is absolute: members must be named relatively", shown(name))));
        }
        if name.split(|&b| b == b'/').any(|part| part == b"..") {
            return Err(self.bad(at, format!("the name {} contains \"..\": it leads out of the dataset", shown(name))));
        }
        Ok(())
    }

    fn sparse(&self, at: u64) -> Error {
        self.bad(at, "a GNU sparse file, whose bytes are not stored as they are; write it again without `tar --sparse`")
    }

    fn bad(&self, at: u64, problem: impl Into<String>) -> Error {
        Error::format(self.path, at, problem)
    }
}

/// What compressed a file that starts so, and the command that takes it off.
pub(super) fn compression(start: &[u8]) -> Option<(&'static str, &'static str)> {
    let known: [(&[u8], _, _); 5] = [
        (b"\x1f\x8b", "gzip", "gunzip"),
        (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
        (b"\xfd7zXZ\0", "xz", "unxz"),
        (b"BZh", "bzip2", "bunzip2"),
        (b"\x04\x22\x4d\x18", "lz4", "unlz4"),
    ];
    known.into_iter().find(|(magic, ..)| start.starts_with(magic)).map(|(_, kind, remedy)| (kind, remedy))
}

/// A name from a file, fit for a message: quoted, with what is not ASCII escaped, at most 200 of its bytes.
pub(super) fn shown(name: &[u8]) -> String {
    let (part, rest) = name.split_at(name.len().min(200));
    format!("\"{}\"{}", part.escape_ascii(), if rest.is_empty() { "" } else { ".." })
}
