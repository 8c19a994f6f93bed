//! Compressed shards: made into raw ones, once.
//!
//! The raw shard lies under a name of strait's own, see [`made`](super::made). Its size is what the index says and is
//! reserved before anything is written, so that a full disk shows at once; the hashes that the index gives are compared
//! while the bytes are at hand.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::index::Stored;
use super::made::{New, Place, is_denied, made_of, places};
use crate::dataset::options::Options;
use crate::dataset::whole::Hashes;
use crate::error::{Error, Result};
use crate::file::open_file;
use crate::stats::Fallback;

/// Offsets in a shard have 32 bits.
const RAW_BYTES_MAX: u64 = u32::MAX as u64;

/// What is decompressed at a time, in bytes.
const PIECE_BYTES: usize = 1 << 18;

/// A compressed shard, and what it is to become.
pub(super) struct Zip<'a> {
    pub(super) path: &'a Path,
    pub(super) compression: &'a str,
    pub(super) stored: &'a Stored,
    pub(super) raw: &'a Stored,
}

impl Zip<'_> {
    /// The raw shard that it becomes, made if it is not there.
    pub(super) fn decompress(&self, options: &Options) -> Result<(PathBuf, Fallback)> {
        let (file, bytes) = open_file(self.path)?;
        if self.raw.bytes > RAW_BYTES_MAX || bytes > RAW_BYTES_MAX {
            let problem = format!("{} bytes when decompressed; a shard has at most {RAW_BYTES_MAX}", self.raw.bytes);
            return Err(Error::format(self.path, None, problem));
        }
        let made_of = made_of(&file, self)?;
        let places = places(self, options)?;
        for place in &places {
            if let Some(there) = place.there(made_of, self.raw.bytes)? {
                return Ok((there, self.fallback()));
            }
        }
        self.make(file, made_of, &places).map(|made| (made, self.fallback()))
    }

    fn make(&self, file: File, made_of: u64, places: &[Place]) -> Result<PathBuf> {
        let begin = |place: &Place| place.begin(made_of, self.raw.bytes);
        let last = places.len().saturating_sub(1);
        let begun = places.iter().enumerate().find_map(|(i, place)| match begin(place) {
            Err(e) if is_denied(&e) && i < last => None,
            begun => Some(begun.map(|new| (place, new))),
        });
        let (place, mut new) =
            begun.ok_or_else(|| Error::format(self.path, None, "there is no place for its raw shard"))??;
        self.copy(file, &mut new)?;
        // What was written to meanwhile is something else than it is called.
        if self::made_of(&open_file(self.path)?.0, self)? != made_of {
            let what = "it was written to while it was decompressed".into();
            return Err(Error::Changed { path: self.path.into(), what });
        }
        let made = new.finish(self.raw.bytes)?;
        place.remove_others(made_of);
        Ok(made)
    }

    fn fallback(&self) -> Fallback {
        Fallback {
            instead: format!("shards compressed with {} are decompressed by the processor", self.compression),
            reason: "a compressed shard has no place for a sample, so neither ring nor device can read one".into(),
            errno: None,
            remedy: "decompress the dataset once and for all, or write it with compression=None",
        }
    }

    fn copy(&self, file: File, new: &mut New) -> Result<()> {
        let (zip, raw) = (self.path, self.raw);
        let refuse = |what: String| Error::format(zip, None, what);
        let mut reader = decoder(file, self.compression, raw.bytes).map_err(refuse)?;
        let mut hashes = Hashes::new(&raw.hashes);
        let mut piece = vec![0; PIECE_BYTES];
        let mut bytes = 0;
        loop {
            let got = match reader.read(&mut piece) {
                Ok(got) => got,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    let problem = format!("it does not decompress, after {bytes} bytes: {e}; copy the shard again");
                    return Err(refuse(problem));
                }
            };
            bytes += got as u64;
            if got == 0 || bytes > raw.bytes {
                break;
            }
            new.file.write_all(&piece[..got]).map_err(|e| new.failed(&e))?;
            hashes.update(&piece[..got]);
        }
        if bytes != raw.bytes {
            let more = if bytes > raw.bytes { "more" } else { "fewer" };
            return Err(refuse(format!(
                "it decompresses to {more} than the {} bytes that its index tells of",
                raw.bytes
            )));
        }
        hashes.check(zip, bytes)
    }
}

#[cfg(feature = "compressed")]
fn decoder(mut file: File, compression: &str, raw_bytes: u64) -> Result<Box<dyn Read>, String> {
    let buffered = |file| io::BufReader::with_capacity(PIECE_BYTES, file);
    Ok(match compression {
        "zstd" => {
            Box::new(ruzstd::decoding::StreamingDecoder::new(buffered(file)).map_err(|e| format!("no zstd: {e}"))?)
        }
        "gz" => Box::new(flate2::bufread::MultiGzDecoder::new(buffered(file))),
        "bz2" => Box::new(bzip2::bufread::MultiBzDecoder::new(buffered(file))),
        "br" => Box::new(brotli_decompressor::Decompressor::new(file, PIECE_BYTES)),
        // One block without frames, so all of it at once; the size in front is believed where it is the index's.
        "snappy" => {
            let mut zip = Vec::new();
            file.read_to_end(&mut zip).map_err(|e| e.to_string())?;
            match snap::raw::decompress_len(&zip) {
                Ok(len) if len as u64 == raw_bytes => {}
                _ => return Err(format!("no snappy block of {raw_bytes} bytes; copy the shard again")),
            }
            let raw =
                snap::raw::Decoder::new().decompress_vec(&zip).map_err(|e| format!("{e}; copy the shard again"))?;
            Box::new(io::Cursor::new(raw))
        }
        other => return Err(format!("compressed with {other:?}; zstd, gz, bz2, br and snappy are known")),
    })
}

#[cfg(not(feature = "compressed"))]
fn decoder(_: File, compression: &str, _: u64) -> Result<Box<dyn Read>, String> {
    Err(format!("compressed with {compression}, and strait was built without its feature `compressed`"))
}
