//! A tar writer for tests: small, and able to write what well-behaved writers do not.
#![allow(dead_code, unreachable_pub, reason = "each test file is a crate, and uses a part")]

use std::path::{Path, PathBuf};

pub const POSIX: &[u8; 8] = b"ustar\x0000";
pub const GNU: &[u8; 8] = b"ustar  \0";
pub const V7: &[u8; 8] = &[0; 8];

/// How a member's name and size are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    V7,
    Ustar,
    /// The directory in the prefix field.
    Prefix,
    /// A GNU long name before a header with another name.
    GnuLong,
    /// A PAX header that says nothing of use, as Python's `tarfile` writes for a float mtime.
    PaxMtime,
    /// A PAX path before a header with another name.
    PaxPath,
    /// A PAX size before a header of size 0.
    PaxSize,
    Base256,
}

pub const STYLES: [Style; 8] = [
    Style::V7,
    Style::Ustar,
    Style::Prefix,
    Style::GnuLong,
    Style::PaxMtime,
    Style::PaxPath,
    Style::PaxSize,
    Style::Base256,
];

#[derive(Default)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    /// Adds a regular file; the offset of its own header.
    pub fn member(&mut self, style: Style, name: &str, data: &[u8]) -> u64 {
        let (field, size) = (name.as_bytes(), octal(data.len() as u64));
        match style {
            Style::V7 => self.entry(header(field, b'\0', size, V7), data),
            Style::Ustar => self.entry(header(field, b'0', size, POSIX), data),
            Style::Prefix => {
                let (prefix, rest) = name.rsplit_once('/').unwrap_or(("", name));
                let mut block = header(rest.as_bytes(), b'0', size, POSIX);
                block[345..345 + prefix.len()].copy_from_slice(prefix.as_bytes());
                self.entry(block, data)
            }
            Style::GnuLong => {
                let long = [field, b"\0"].concat();
                self.entry(header(b"././@LongLink", b'L', octal(long.len() as u64), GNU), &long);
                self.entry(header(b"cut", b'0', size, GNU), data)
            }
            Style::PaxMtime => {
                self.pax(b'x', b"13 mtime=1.5\n");
                self.entry(header(field, b'0', size, POSIX), data)
            }
            Style::PaxPath => {
                self.pax(b'x', &record("path", name));
                self.entry(header(b"other.name", b'0', size, POSIX), data)
            }
            Style::PaxSize => {
                self.pax(b'x', &[record("mtime", "1.5"), record("size", &data.len().to_string())].concat());
                self.entry(header(field, b'0', octal(0), POSIX), data)
            }
            Style::Base256 => {
                let mut block = header(field, b'0', base256(data.len() as u64), GNU);
                // Where POSIX has the prefix GNU keeps times.
                block[345..356].copy_from_slice(b"14000000000");
                self.entry(block, data)
            }
        }
    }

    pub fn pax(&mut self, kind: u8, body: &[u8]) -> u64 {
        self.entry(header(b"././@PaxHeader", kind, octal(body.len() as u64), POSIX), body)
    }

    /// Adds a header, its checksum put right, and its padded data.
    pub fn entry(&mut self, mut header: [u8; 512], data: &[u8]) -> u64 {
        let at = self.0.len();
        seal(&mut header);
        self.0.extend_from_slice(&header);
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        at as u64
    }

    /// The file with its end mark, padded to a record as tar programs do.
    pub fn finished(mut self) -> Vec<u8> {
        self.0.resize((self.0.len() + 1024).next_multiple_of(10240), 0);
        self.0
    }
}

pub fn header(name: &[u8], kind: u8, size: [u8; 12], magic: &[u8; 8]) -> [u8; 512] {
    let mut block = [0; 512];
    block[..name.len()].copy_from_slice(name);
    block[100..108].copy_from_slice(b"0000644\0");
    block[124..136].copy_from_slice(&size);
    block[156] = kind;
    block[257..265].copy_from_slice(magic);
    block
}

pub fn seal(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

pub fn octal(size: u64) -> [u8; 12] {
    format!("{size:011o}\0").into_bytes().try_into().unwrap()
}

pub fn base256(size: u64) -> [u8; 12] {
    let mut field = [0; 12];
    field[0] = 0x80;
    field[4..].copy_from_slice(&size.to_be_bytes());
    field
}

/// A PAX record, with the length that counts itself.
pub fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = format!(" {key}={value}\n");
    let len = (1..).find(|len| len.to_string().len() + rest.len() == *len).unwrap();
    format!("{len}{rest}").into_bytes()
}

pub fn write(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}
