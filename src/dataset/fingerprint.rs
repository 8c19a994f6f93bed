//! A number by which a resumed run notices another dataset.

use super::Dataset;

/// See [`Dataset::fingerprint`], which promises this layout.
pub(super) fn of(dataset: &Dataset) -> u64 {
    let mut hash = Fnv1a(0xcbf2_9ce4_8422_2325);
    hash.text(dataset.format.as_bytes());
    hash.number(dataset.fields.len() as u64);
    dataset.fields.iter().for_each(|field| hash.text(field.name.as_bytes()));
    hash.number(dataset.shards.len() as u64);
    for shard in &dataset.shards {
        hash.text(shard.path.file_name().unwrap_or_default().as_encoded_bytes());
        hash.number(shard.bytes);
        hash.number(shard.samples());
    }
    hash.0
}

/// FNV-1a, 64 bits, of <http://www.isthe.com/chongo/tech/comp/fnv/>: five lines, the same on every machine and for ever.
struct Fnv1a(u64);

impl Fnv1a {
    fn bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn number(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    fn text(&mut self, text: &[u8]) {
        self.number(text.len() as u64);
        self.bytes(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_fnv_1a() {
        // Test vectors of the hash's authors.
        for (text, want) in
            [("", 0xcbf2_9ce4_8422_2325), ("a", 0xaf63_dc4c_8601_ec8c), ("foobar", 0x8594_4171_f739_67e8_u64)]
        {
            let mut hash = Fnv1a(0xcbf2_9ce4_8422_2325);
            hash.bytes(text.as_bytes());
            assert_eq!(hash.0, want, "{text}");
        }
    }
}
