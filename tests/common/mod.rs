//! What several test binaries share: shards whose every byte is known.
#![allow(dead_code, unreachable_pub)]

pub mod damaged;
pub mod mount;
pub mod process;

use std::fs;
use std::path::{Path, PathBuf};

use strait::sim::Rng;

/// The byte at `offset` of shard `seed`: the oracle.
pub fn byte_at(seed: u64, offset: u64) -> u8 {
    word_at(seed, offset / 8).to_le_bytes()[(offset % 8) as usize]
}

fn word_at(seed: u64, word: u64) -> u64 {
    Rng::new(seed ^ word.wrapping_mul(0x9E37_79B9)).next_u64()
}

/// Bytes `from..from + len` of shard `seed`.
pub fn bytes_of(seed: u64, from: u64, len: u64) -> Vec<u8> {
    let words = from / 8..(from + len).div_ceil(8);
    let bytes: Vec<u8> = words.flat_map(|word| word_at(seed, word).to_le_bytes()).collect();
    let skip = (from % 8) as usize;
    bytes[skip..skip + len as usize].to_vec()
}

/// Writes shard `seed` of `len` bytes.
pub fn write_shard(directory: &Path, seed: u64, len: u64) -> PathBuf {
    let path = directory.join(format!("shard-{seed}.bin"));
    fs::write(&path, bytes_of(seed, 0, len)).unwrap();
    path
}

/// A temporary directory in `STRAIT_TEST_DIR`, or else on the file system of the build, which takes O_DIRECT where /tmp may not.
pub fn disk_directory() -> tempfile::TempDir {
    let directory = std::env::var_os("STRAIT_TEST_DIR");
    tempfile::tempdir_in(directory.unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into())).unwrap()
}

/// The names in a directory, sorted.
pub fn names(directory: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<String> = fs::read_dir(directory).unwrap().map(name).collect();
    names.sort();
    names
}

/// Writes a tar shard of these members.
pub fn write_tar(path: &Path, members: impl IntoIterator<Item = (String, Vec<u8>)>) {
    let mut tar = tar::Builder::new(fs::File::create(path).unwrap());
    for (name, bytes) in members {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    tar.finish().unwrap();
}
