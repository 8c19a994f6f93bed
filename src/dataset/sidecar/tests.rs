use proptest::prelude::*;

use super::*;
use crate::dataset::builder::Builder;
use crate::dataset::table::{Entry, numbering};
use crate::dataset::{Dataset, Field};

fn names(count: usize) -> Vec<Field> {
    (0..count).map(|i| Field::of_bytes(format!("field {i}"), None)).collect()
}

/// A shard of `bytes` whose samples have these entries by column.
fn indexed(shard: &Path, bytes: u64, samples: &[Vec<Option<Entry>>], columns: usize) -> Indexed {
    let mut builder = Builder::with_columns(columns);
    for sample in samples {
        builder.begin_sample();
        for (column, entry) in sample.iter().enumerate() {
            entry.iter().for_each(|&entry| builder.push(column as u16, entry));
        }
    }
    Indexed { path: shard.into(), bytes, fields: names(columns), met_at: Vec::new(), table: builder.build() }
}

proptest! {
    #[test]
    fn any_table_is_read_back(
        samples in prop::collection::vec(prop::collection::vec((0u64..90, 0u64..40, 0u8..4), 3), 0..300),
        scale in prop::sample::select(vec![1u64, 512, 1 << 30, 1 << 42]),
        regular: bool, with_crcs: bool, bytes in Just(1u64 << 60),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let (shard, sidecar) = (directory.path().join("a"), directory.path().join("a.strait"));
        let entry = |row: usize, &(offset, len, there): &(u64, u64, u8)| match regular {
            true => Some(Entry { offset: row as u64 * scale * 100, len: len.min(3) }),
            false => (there > 0).then_some(Entry { offset: offset * scale, len: len * (scale >> 9) }),
        };
        let sample = |(row, sample): (usize, &Vec<_>)| sample.iter().map(|cell| entry(row, cell)).collect();
        let samples: Vec<Vec<Option<Entry>>> = samples.iter().enumerate().map(sample).collect();
        let columns = if regular { 1 } else { 3 };
        let samples: Vec<Vec<_>> = samples.into_iter().map(|sample| sample[..columns].to_vec()).collect();
        let made = indexed(&shard, bytes, &samples, columns);
        let crcs: Vec<u32> = (0..samples.len() * columns).map(|cell| (cell as u32).wrapping_mul(0x9e37_79b9)).collect();
        let stamp = Stamp { bytes, mtime_ns: -5, made_of: 7 };
        let file = encode(&made, Format::TfRecord, stamp, 99, with_crcs.then_some(&crcs)).unwrap();
        std::fs::write(&sidecar, &file).unwrap();
        let Found::Index(found) = find(&sidecar, &shard, Format::TfRecord, &stamp) else { panic!("not found") };
        prop_assert_eq!((found.fingerprint, found.checksums), (99, with_crcs));
        let Indexed { fields, mut table, .. } = found.indexed;
        prop_assert_eq!(&fields, &names(columns));
        table.number_fields(numbering(&(0..columns as u16).collect::<Vec<_>>(), columns));
        table.check_body().unwrap();
        prop_assert_eq!(table.rows(), samples.len() as u64);
        for (row, sample) in samples.iter().enumerate() {
            for (column, want) in sample.iter().enumerate() {
                prop_assert_eq!(table.cell(row as u64, column, bytes).unwrap(), *want);
                let crc = want.filter(|_| with_crcs).map(|_| crcs[row * columns + column]);
                prop_assert_eq!(table.crc(row as u64, column).unwrap(), crc);
            }
        }
        let row = |sample: &Vec<Option<Entry>>| sample.iter().flatten().map(|entry| entry.len).sum::<u64>();
        let all: Vec<usize> = (0..columns).collect();
        prop_assert_eq!(table.largest_of(&all, bytes), samples.iter().map(row).max().unwrap_or(0));
    }
}

#[test]
fn a_fingerprint_sees_every_byte_of_a_small_shard_and_both_ends_of_a_large_one() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let of = |content: &[u8]| {
        std::fs::write(file.path(), content).unwrap();
        fingerprint(file.path()).unwrap()
    };
    for bytes in [1usize, 4096, 65_536, 65_537, 1 << 20] {
        let mut content = vec![3u8; bytes];
        let whole = of(&content);
        assert_eq!(of(&content), whole);
        assert_ne!(of(&content[1..]), whole, "{bytes} bytes, or one less");
        let looked_at = |at: &usize| bytes <= 65_536 || *at < 4096 || *at >= bytes - 4096;
        for at in [0, bytes / 3, bytes / 2, bytes.saturating_sub(4096), bytes - 1].into_iter().filter(looked_at) {
            content[at] ^= 1;
            assert_ne!(of(&content), whole, "byte {at} of {bytes}");
            content[at] ^= 1;
        }
    }
}

#[test]
fn what_a_head_has_no_room_for_is_an_error() {
    let stamp = Stamp { bytes: 0, mtime_ns: 0, made_of: 0 };
    let encode = |fields: Vec<Field>| {
        let table = crate::dataset::table::Table::even(0, &[]);
        let indexed = Indexed { path: Path::new("a").into(), bytes: 0, fields, met_at: Vec::new(), table };
        encode(&indexed, Format::Mds, stamp, 0, None)
    };
    encode(names(1024)).unwrap();
    assert!(encode(names(1025)).unwrap_err().to_string().contains("1025 fields"));
    assert!(encode(vec![Field::of_bytes("x".repeat(65_536), None)]).is_err());
    encode(vec![Field::of_bytes("x".repeat(65_535), None)]).unwrap();
    let deep = Field { shape: Some(vec![1; 65].into()), ..Field::of_bytes("x", None) };
    assert!(encode(vec![deep]).is_err());
}

#[test]
fn an_empty_dataset_has_an_index_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.bin");
    std::fs::write(&path, b"").unwrap();
    let options = Dataset::options().record_bytes(4);
    let how = crate::dataset::Indexing { checksums: true, ..Default::default() };
    options.index(&[&path], &how, &|_| true).unwrap();
    let dataset = options.open(&[&path]).unwrap();
    assert_eq!((dataset.len(), dataset.index_state().checksums), (0, 1));
}
