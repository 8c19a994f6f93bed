//! One header block of a tar file: where its fields are, and what they say.
//!
//! ```text
//! name 0,100 | mode 100,8 | uid 108,8 | gid 116,8 | size 124,12 | mtime 136,12 | chksum 148,8 | typeflag 156,1
//! linkname 157,100 | magic 257,6 | version 263,2 | uname 265,32 | gname 297,32 | devmajor 329,8 | devminor 337,8
//! prefix 345,155 (POSIX only: GNU keeps other things there)
//! ```

/// The unit of a tar file, in bytes: headers are one, bodies are padded to a multiple.
pub(super) const BLOCK: u64 = 512;

/// What a header announces, as far as an index cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A regular file.
    File,
    /// A link, device or directory. Its size field may be set, but no body follows, as Python's `tarfile` has it.
    Bodiless,
    /// A PAX header for the next member.
    Pax,
    /// A PAX header for all members that follow.
    PaxGlobal,
    /// A GNU long name for the next member.
    LongName,
    /// A GNU long link target for the next member.
    LongLink,
    /// A GNU sparse file: its body is not the file's bytes.
    Sparse,
    /// Anything else; its body is skipped.
    Other,
}

/// A header block whose checksum is right.
pub(super) struct Header([u8; BLOCK as usize]);

impl Header {
    /// Takes a block as a header; `None` for the block of zeros that ends an archive.
    pub(super) fn new(block: &[u8; BLOCK as usize]) -> Result<Option<Header>, String> {
        if block.iter().all(|&b| b == 0) {
            return Ok(None);
        }
        let stored = number(&block[148..156]);
        let (unsigned, signed) = checksums(block);
        // Some old writers summed signed characters, so both sums count as right, as in every tar program.
        if stored.is_none_or(|stored| stored != unsigned && i64::try_from(stored) != Ok(signed)) {
            return Err(format!(
                "not a tar header: its checksum field says {}, its bytes sum to {unsigned:#o}",
                super::shown(&block[148..156])
            ));
        }
        Ok(Some(Header(*block)))
    }

    /// What follows; `named` says that an extension header gave the member's name.
    pub(super) fn kind(&self, named: bool) -> Kind {
        match self.0[156] {
            // Before POSIX a directory was a file whose name ends in a slash. A long name that is cut to fit here may
            // end in one by chance.
            0 if !named && text(&self.0[..100]).ends_with(b"/") => Kind::Bodiless,
            b'0' | 0 | b'7' => Kind::File,
            b'1'..=b'6' => Kind::Bodiless,
            b'x' | b'X' => Kind::Pax,
            b'g' => Kind::PaxGlobal,
            b'L' => Kind::LongName,
            b'K' => Kind::LongLink,
            b'S' => Kind::Sparse,
            _ => Kind::Other,
        }
    }

    /// The size field, in bytes: octal text, or base 256 if the top bit of its first byte is set.
    pub(super) fn size(&self) -> Result<u64, String> {
        let field = &self.0[124..136];
        number(field).ok_or_else(|| format!("the size field {} is not a size", super::shown(field)))
    }

    /// Puts the member's name into `name`, prefix included.
    pub(super) fn name(&self, name: &mut Vec<u8>) {
        name.clear();
        let prefix = text(&self.0[345..500]);
        if &self.0[257..263] == b"ustar\0" && !prefix.is_empty() {
            name.extend_from_slice(prefix);
            name.push(b'/');
        }
        name.extend_from_slice(text(&self.0[..100]));
    }
}

/// The sums over a block with its checksum field read as spaces: of unsigned and of signed bytes.
fn checksums(block: &[u8; BLOCK as usize]) -> (u64, i64) {
    let sum = |bytes: &[u8]| bytes.iter().map(|&b| u32::from(b)).sum::<u32>();
    let negative = |bytes: &[u8]| bytes.iter().map(|&b| u32::from(b >> 7)).sum::<u32>();
    let (before, after) = (&block[..148], &block[156..]);
    let unsigned = sum(before) + sum(after) + 8 * u32::from(b' ');
    let signed = i64::from(unsigned) - 256 * i64::from(negative(before) + negative(after));
    (u64::from(unsigned), signed)
}

/// The bytes of a field up to its first NUL.
fn text(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|&b| b == 0).unwrap_or(field.len())]
}

/// A numeric field; an empty one is 0. `None` if it is no number, is negative, or does not fit 64 bits.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let first = u64::from(field[0] & 0x3f);
        let value =
            field[1..].iter().try_fold(first, |value, &b| value.checked_mul(256).map(|value| value + u64::from(b)));
        return value.filter(|_| !negative);
    }
    text(field).trim_ascii().iter().try_fold(0u64, |value, &b| {
        let digit = u64::from(b.wrapping_sub(b'0'));
        (digit < 8).then_some(())?;
        value.checked_mul(8)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_text_or_base_256() {
        assert_eq!(number(b"00000001750\0"), Some(0o1750));
        assert_eq!(number(b"      1750 \0"), Some(0o1750));
        assert_eq!(number(b"777777777777"), Some((1 << 36) - 1));
        assert_eq!(number(&[0; 12]), Some(0));
        assert_eq!(number(b"00000000019\0"), None);
        assert_eq!(number(b"-0000000001\0"), None);
        assert_eq!(number(b"1 1         "), None);
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1]), Some((2 << 32) + 1));
        assert_eq!(number(&[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), Some(u64::MAX));
        assert_eq!(number(&[0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]), None, "65 bits");
        assert_eq!(number(&[0xff; 12]), None, "negative");
    }

    #[test]
    fn a_checksum_may_be_the_signed_or_the_unsigned_sum() {
        let mut block = [0; 512];
        block[..3].copy_from_slice(b"\xc3\xa4x");
        let (unsigned, signed) = checksums(&block);
        assert_eq!(i64::try_from(unsigned).unwrap() - signed, 2 * 256);
        for sum in [unsigned, signed as u64] {
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            assert!(Header::new(&block).unwrap().is_some());
        }
        block[148..156].copy_from_slice(format!("{:06o}\0 ", unsigned + 1).as_bytes());
        let problem = Header::new(&block).err().unwrap();
        assert!(problem.contains("checksum"), "{problem}");
        assert!(Header::new(&[0; 512]).unwrap().is_none());
    }

    #[test]
    fn the_prefix_belongs_to_the_name_in_posix_headers_alone() {
        let mut block = [0; 512];
        block[..5].copy_from_slice(b"a.txt");
        block[345..348].copy_from_slice(b"dir");
        let name = |block: &[u8; 512]| {
            let mut name = vec![1];
            Header(*block).name(&mut name);
            name
        };
        block[257..265].copy_from_slice(b"ustar\x0000");
        assert_eq!(name(&block), b"dir/a.txt");
        block[257..265].copy_from_slice(b"ustar  \0");
        assert_eq!(name(&block), b"a.txt");
    }
}
