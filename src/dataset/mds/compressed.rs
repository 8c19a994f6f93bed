//! Compressed shards: made into raw ones, once.
//!
//! ```text
//! shard.00000.mds.zstd  --->  shard.00000.mds       beside it, where StreamingDataset puts it too,
//!                             or INDEX_DIR/<hash of the path>-shard.00000.mds
//! ```
//! The raw shard appears whole, by a rename, or not at all. Its size is what the index says and is reserved before
//! anything is written, so that a full disk shows at once; a hash that the index gives, of a kind that is known here, is
//! compared while the bytes are at hand.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags, fallocate, linkat, open};

use super::index::Stored;
use crate::dataset::files::open_file;
use crate::dataset::options::Options;
use crate::error::{Error, Result};
use crate::stats::Fallback;
use crate::weights::{Algorithm, Digest, Hasher};

/// Offsets in a shard have 32 bits.
const RAW_BYTES_MAX: u64 = u32::MAX as u64;

/// What is decompressed at a time, in bytes.
const PIECE_BYTES: usize = 1 << 18;

/// The raw shard that a compressed one becomes, made if it is not there.
pub(super) fn decompress(
    zip: &Path,
    compression: &str,
    raw: &Stored,
    options: &Options,
) -> Result<(PathBuf, Fallback)> {
    let target = place(zip, raw, options)?;
    let there = fs::metadata(&target).is_ok_and(|meta| meta.is_file() && meta.len() == raw.bytes);
    if !there {
        write(zip, compression, raw, &target)?;
    }
    let fallback = Fallback {
        instead: format!("shards compressed with {compression} are decompressed by the processor"),
        reason: "a compressed shard has no place for a sample, so neither ring nor device can read one".into(),
        errno: None,
        remedy: "keep the raw shards that this made, or write the dataset with compression=None",
    };
    Ok((target, fallback))
}

fn place(zip: &Path, raw: &Stored, options: &Options) -> Result<PathBuf> {
    let name = Path::new(&raw.basename).file_name().ok_or_else(|| {
        Error::format(zip, 0, format!("its index calls what is in it {:?}, which is no name", raw.basename))
    })?;
    let Some(directory) = &options.index_dir else { return Ok(zip.with_file_name(name)) };
    // Shards of all datasets are called alike.
    let full = fs::canonicalize(zip).map_err(|e| Error::open(zip, &e))?;
    let hash = xxhash_rust::xxh3::xxh3_64(full.as_os_str().as_bytes());
    Ok(directory.join(format!("{hash:016x}-{}", name.display())))
}

fn write(zip: &Path, compression: &str, raw: &Stored, target: &Path) -> Result<()> {
    let (file, zip_bytes) = open_file(zip)?;
    let refuse = |what: String| Error::format(zip, 0, what);
    if raw.bytes > RAW_BYTES_MAX || zip_bytes > RAW_BYTES_MAX {
        return Err(refuse(format!("{} bytes when decompressed; a shard has at most {RAW_BYTES_MAX}", raw.bytes)));
    }
    let mut reader = decoder(file, compression, raw.bytes).map_err(refuse)?;
    let directory = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = |e: io::Error| Error::open(target, &e);
    fs::create_dir_all(directory).map_err(failed)?;
    let new = new_name(target, directory);
    // Without a name until it is whole, where the file system can do that, a killed process leaves nothing behind.
    let nameless = open(directory, OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::from_raw_mode(0o666));
    let (mut out, named) = match nameless {
        Ok(out) => (File::from(out), false),
        Err(_) => (File::create_new(&new).map_err(failed)?, true),
    };
    let made = reserve(&out, raw.bytes).map_err(failed).and_then(|()| copy(&mut *reader, &mut out, zip, raw, target));
    let named = made.and_then(|()| if named { Ok(()) } else { name(&out, &new).map_err(failed) });
    let renamed = named.and_then(|()| fs::rename(&new, target).map_err(failed));
    renamed.inspect_err(|_| drop(fs::remove_file(&new)))
}

/// A name that no one else has: several processes, and several threads of one, may decompress the same shard.
fn new_name(target: &Path, directory: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let (name, count) = (target.file_name().unwrap_or_default().display(), COUNT.fetch_add(1, Ordering::Relaxed));
    directory.join(format!(".{name}.{}-{count}.strait", std::process::id()))
}

fn name(file: &File, path: &Path) -> io::Result<()> {
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(CWD, own, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes.max(1)) {
        // Not every file system can; then a full disk shows later.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS | rustix::io::Errno::INTR) | Ok(()) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn copy(reader: &mut dyn Read, out: &mut File, zip: &Path, raw: &Stored, target: &Path) -> Result<()> {
    let known = |(name, digits): &(String, String)| {
        let algorithm = Algorithm::from_name(&name.replace('_', "-"))?;
        Some((Hasher::new(algorithm), Digest::from_hex(algorithm, digits)?))
    };
    let mut sum = raw.hashes.iter().find_map(known);
    let mut piece = vec![0; PIECE_BYTES];
    let mut bytes = 0;
    loop {
        let got = match reader.read(&mut piece) {
            Ok(got) => got,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => {
                let problem = format!("it does not decompress, after {bytes} bytes: {e}; copy the shard again");
                return Err(Error::format(zip, 0, problem));
            }
        };
        bytes += got as u64;
        if got == 0 || bytes > raw.bytes {
            break;
        }
        out.write_all(&piece[..got]).map_err(|e| Error::open(target, &e))?;
        if let Some((hasher, _)) = &mut sum {
            hasher.update(&piece[..got]);
        }
    }
    if bytes != raw.bytes {
        let more = if bytes > raw.bytes { "more" } else { "fewer" };
        let problem = format!("it decompresses to {more} than the {} bytes that its index tells of", raw.bytes);
        return Err(Error::format(zip, 0, problem));
    }
    match sum.map(|(hasher, want)| (hasher.finish(), want)) {
        Some((found, want)) if found != want => Err(Error::Corrupt {
            path: zip.into(),
            offset: 0,
            bytes,
            problem: format!("decompressed, its {} is {} and not {}", want.algorithm(), found.hex(), want.hex()),
        }),
        _ => Ok(()),
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
