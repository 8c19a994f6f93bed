//! Hashes of whole files, as manifests give them.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::hash::Hasher;
use std::path::Path;

use sha2::Digest;

use super::format::Source;
use super::reading::Reading;
use crate::error::{Error, Result};

const PIECE_BYTES: u64 = 4 << 20;
const UNIT_MAX: u64 = 4096;

/// One hash under way.
enum State {
    Sha1(sha1::Sha1),
    Sha224(sha2::Sha224),
    Sha256(sha2::Sha256),
    Sha384(sha2::Sha384),
    Sha512(sha2::Sha512),
    Md5(md5::Md5),
    Xxh32(xxhash_rust::xxh32::Xxh32),
    Xxh64(xxhash_rust::xxh64::Xxh64),
    Xxh3(Box<xxhash_rust::xxh3::Xxh3>, bool),
}

impl State {
    /// By the name that Python's `hashlib` and `xxhash` have for it.
    fn new(name: &str) -> Option<State> {
        Some(match name.to_ascii_lowercase().as_str() {
            "sha1" => State::Sha1(Default::default()),
            "sha224" => State::Sha224(Default::default()),
            "sha256" => State::Sha256(Default::default()),
            "sha384" => State::Sha384(Default::default()),
            "sha512" => State::Sha512(Default::default()),
            "md5" => State::Md5(Default::default()),
            "xxh32" => State::Xxh32(xxhash_rust::xxh32::Xxh32::new(0)),
            "xxh64" => State::Xxh64(xxhash_rust::xxh64::Xxh64::new(0)),
            "xxh3_64" => State::Xxh3(Default::default(), false),
            "xxh3_128" | "xxh128" => State::Xxh3(Default::default(), true),
            _ => return None,
        })
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            State::Sha1(state) => state.update(bytes),
            State::Sha224(state) => state.update(bytes),
            State::Sha256(state) => state.update(bytes),
            State::Sha384(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
            State::Md5(state) => state.update(bytes),
            State::Xxh32(state) => state.update(bytes),
            State::Xxh64(state) => state.write(bytes),
            State::Xxh3(state, _) => state.update(bytes),
        }
    }

    fn digits(self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            State::Sha1(state) => hex(&state.finalize()),
            State::Sha224(state) => hex(&state.finalize()),
            State::Sha256(state) => hex(&state.finalize()),
            State::Sha384(state) => hex(&state.finalize()),
            State::Sha512(state) => hex(&state.finalize()),
            State::Md5(state) => hex(&state.finalize()),
            State::Xxh32(state) => format!("{:08x}", state.digest()),
            State::Xxh64(state) => format!("{:016x}", state.digest()),
            State::Xxh3(state, false) => format!("{:016x}", state.digest()),
            State::Xxh3(state, true) => format!("{:032x}", state.digest128()),
        }
    }
}

/// The hashes of a file that goes by, beside what a manifest says they are. Those of unknown names are passed over.
pub(super) struct Hashes<'a>(Vec<(&'a str, &'a str, State)>);

impl<'a> Hashes<'a> {
    pub(super) fn new(wanted: &'a [(String, String)]) -> Hashes<'a> {
        Hashes(wanted.iter().filter_map(|(name, want)| Some((&**name, &**want, State::new(name)?))).collect())
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.iter_mut().for_each(|(.., state)| state.update(bytes));
    }

    /// # Errors
    /// [`Error::Corrupt`] for the first hash that differs.
    pub(super) fn check(self, path: &Path, bytes: u64) -> Result<()> {
        for (name, want, state) in self.0 {
            let got = state.digits();
            if !got.eq_ignore_ascii_case(want) {
                let problem = format!("the manifest's {name} of the file is {want}, that of its bytes is {got}");
                return Err(Error::Corrupt { path: path.into(), offset: 0, bytes, problem });
            }
        }
        Ok(())
    }
}

/// Compares a shard with the hashes that its manifest has, if it has some.
///
/// # Errors
/// [`Error::Corrupt`] for a hash that differs; those of reading.
pub(super) fn check(source: &Source, read: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
    let mut hashes = Hashes::new(&source.hashes);
    if hashes.0.is_empty() {
        return Ok(());
    }
    let mut file = Reading::open(&source.path, UNIT_MAX)?;
    let (mut offset, bytes) = (0, file.bytes());
    while offset < bytes {
        let piece = file.piece(offset, PIECE_BYTES.min(bytes - offset))?;
        hashes.update(piece);
        let len = piece.len() as u64;
        offset += len;
        read(len)?;
    }
    hashes.check(&source.path, bytes)
}

/// Gives each shard its hash from a list: lines of digits, a space, a space or `*`, and a path, whose last part is the
/// shard's name. Of several lines for one name, that whose path ends the shard's own.
///
/// # Errors
/// [`Error::Format`] for a line that is none, or a shard that has none; those of reading the list.
pub(super) fn add_sums(list: &Path, sources: &mut [Source]) -> Result<()> {
    let text = std::fs::read_to_string(list).map_err(|e| Error::open(list, &e))?;
    let mut known: HashMap<&OsStr, Vec<(&Path, &str, &str)>> = HashMap::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        let parts = line.split_once(' ').and_then(|(digits, name)| {
            let name = Path::new(name.strip_prefix([' ', '*'])?);
            Some((name, algorithm(digits)?, digits))
        });
        let Some(parts) = parts else {
            let problem = format!("line {number} is not a hash and a name as sha256sum writes them");
            return Err(Error::format(list, None, problem));
        };
        known.entry(parts.0.file_name().unwrap_or_default()).or_default().push(parts);
    }
    for source in sources {
        let own = known.get(source.path.file_name().unwrap_or_default()).map_or(&[][..], Vec::as_slice);
        let line = match own {
            [one] => Some(one),
            several => several.iter().find(|(name, ..)| source.path.ends_with(name)),
        };
        let Some((_, algorithm, digits)) = line else {
            return Err(Error::format(list, None, format!("{} is not in this list", source.path.display())));
        };
        source.hashes.push(((*algorithm).into(), (*digits).into()));
    }
    Ok(())
}

/// What makes so many digits.
fn algorithm(digits: &str) -> Option<&'static str> {
    digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then_some(())?;
    let known = [(32, "md5"), (40, "sha1"), (56, "sha224"), (64, "sha256"), (96, "sha384"), (128, "sha512")];
    known.into_iter().find(|(len, _)| *len == digits.len()).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::options::Options;

    #[test]
    fn hashes_are_those_of_their_names() {
        // `printf abc | sha1sum` and so on; xxHash's by its own `xxhsum`.
        let known = [
            ("sha1", "a9993e364706816aba3e25717850c26c9cd0d89d"),
            ("sha256", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            ("md5", "900150983cd24fb0d6963f7d28e17f72"),
            ("xxh32", "32d153ff"),
            ("xxh64", "44bc2cf5ad770999"),
            ("xxh3_64", "78af5f94892f3950"),
            ("xxh128", "06b05ab6733a618578af5f94892f3950"),
        ];
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"abc").unwrap();
        let index = |_: &std::path::Path, _: &Options| unreachable!("only hashed");
        let mut source = Source::file(file.path(), index);
        for (name, digits) in known {
            source.hashes = vec![("crc99".into(), "?".into()), (name.into(), digits.to_uppercase())];
            check(&source, &mut |_| Ok(())).unwrap_or_else(|e| panic!("{name}: {e}"));
            source.hashes[1].1.replace_range(..1, "f");
            let error = check(&source, &mut |_| Ok(())).unwrap_err();
            assert!(error.code() == 15 && error.to_string().contains(name), "{error}");
        }
    }
}
