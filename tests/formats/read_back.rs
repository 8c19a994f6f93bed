//! Arrays, leaves and records of random types, shapes and sizes: bytes, type and shape are what was written.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use strait::dataset::Format;
use strait::{DType, Dataset};

use crate::common::bytes_of;
use crate::writers::{self, Sample, sample};
use crate::{check_all, check_sidecars, one_field, open};

/// NumPy's names of types.
const NUMPY: [(&str, DType); 14] = [
    ("|b1", DType::Bool),
    ("|u1", DType::U8),
    ("|i1", DType::I8),
    ("<u2", DType::U16),
    ("<i2", DType::I16),
    ("<u4", DType::U32),
    ("<i4", DType::I32),
    ("<u8", DType::U64),
    ("<i8", DType::I64),
    ("<f2", DType::F16),
    ("<f4", DType::F32),
    ("<f8", DType::F64),
    ("<c8", DType::C64),
    ("<c16", DType::C128),
];

/// Kinds of LitData's leaves: the type where there is one, and whether a leaf is one number of it.
const LEAVES: [(&str, Option<DType>, bool); 10] = [
    ("jpeg", None, false),
    ("str", None, false),
    ("tensor", None, false),
    ("int", Some(DType::I64), true),
    ("float", Some(DType::F64), true),
    ("bool", Some(DType::Bool), true),
    ("no_header_numpy:5", Some(DType::U16), false),
    ("no_header_numpy:13", Some(DType::Bool), false),
    ("no_header_tensor:10", Some(DType::BF16), false),
    ("no_header_tensor:17", Some(DType::I64), false),
];

/// Dimensions of a row: small ones, since every byte goes through a loader.
fn dimensions() -> impl Strategy<Value = Vec<u64>> {
    vec(1..14u64, 0..4)
}

/// Lengths of the items of a few files, not all of them empty.
fn files() -> impl Strategy<Value = Vec<Vec<u64>>> {
    let length = prop_oneof![Just(7), 0..40u64, 500..530u64];
    let files = vec(vec(length, 0..8), 1..4);
    files.prop_filter("no items", |files| files.iter().any(|items| !items.is_empty()))
}

fn rows_of(bytes: &[u8], rows: u64) -> Vec<Vec<u8>> {
    bytes.chunks((bytes.len() as u64 / rows.max(1)).max(1) as usize).map(<[u8]>::to_vec).collect()
}

/// What the dataset says of a field, besides its name.
#[track_caller]
fn check_field(dataset: &Dataset, field: usize, dtype: Option<DType>, shape: Option<&[u64]>, fixed_bytes: Option<u64>) {
    let field = &dataset.fields()[field];
    assert_eq!((field.dtype, field.shape.as_deref(), field.fixed_bytes), (dtype, shape, fixed_bytes), "{field:?}");
}

/// The same of rows of any length, of which all may be as long.
#[track_caller]
fn check_rows(dataset: &Dataset, field: usize, dtype: Option<DType>, values: &[Vec<u8>]) {
    let fixed_bytes = Some(values[0].len() as u64).filter(|_| values.iter().all(|v| v.len() == values[0].len()));
    let shape = fixed_bytes.zip(dtype).map(|(bytes, dtype)| [bytes / dtype.bytes().unwrap()]);
    check_field(dataset, field, dtype, shape.as_ref().map(|shape| &shape[..]), fixed_bytes);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(32) })]

    /// Mutants that this catches: rows a byte too early; the prefix of version 3 as short as that of 1.
    #[test]
    fn arrays_of_numpy_read_back(
        (descr, dtype) in select(&NUMPY[..]),
        rows in 0..14u64,
        row in dimensions(),
        padding in (1..=3u8, select(vec![1usize, 16, 64]), select(vec![0usize, 1, 64])),
        nothing in any::<prop::sample::Index>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let row_bytes = dtype.array_bytes(&row).unwrap();
        let bytes = bytes_of(rows, 0, rows * row_bytes);
        let tuple = |row: &[u64]| format!("({rows}, {})", row.iter().map(|len| format!("{len}, ")).collect::<String>());
        let write = |name: &str, shape: &str, bytes: &[u8]| {
            writers::npy_padded(dir.path().join(name), padding, descr, shape, bytes)
        };
        let dataset = open(&write("a.npy", &tuple(&row), &bytes));
        check_field(&dataset, 0, Some(dtype), Some(&row), Some(row_bytes));
        check_all(&dataset, "npy", &one_field("array", &rows_of(&bytes, rows)));
        // One element without a dimension.
        let element = bytes_of(1, 0, dtype.bytes().unwrap());
        let dataset = open(&write("b.npy", "()", &element));
        check_field(&dataset, 0, Some(dtype), Some(&[]), dtype.bytes());
        check_all(&dataset, "npy", &one_field("array", &[element]));
        // Rows without a byte are no samples.
        if let (1.., 1..) = (rows, row.len()) {
            let mut none = row.clone();
            none[nothing.index(row.len())] = 0;
            let error = Dataset::open(&[write("c.npy", &tuple(&none), b"")]).unwrap_err();
            prop_assert!(error.to_string().contains("without a byte"), "{error}");
        }
    }

    /// Mutants that this catches: tensors that start at a multiple of 8; every field of the first tensor's type.
    #[test]
    fn rows_of_safetensors_read_back(
        rows in 0..14u64,
        tensors in vec((select(DType::all().filter(|&dtype| dtype != DType::C128).collect::<Vec<_>>()), dimensions()), 1..6),
        spaces in 0..9usize,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let names = ["e", "a", "d", "b", "c"];
        let tensor = |(name, (dtype, mut row)): (&'static str, (DType, Vec<u64>))| {
            // Four of whatever shares bytes are whole ones.
            row.extend(dtype.bytes().is_none().then_some(4));
            let bytes = bytes_of(rows + row.len() as u64, 0, rows * dtype.array_bytes(&row).unwrap());
            (name, dtype, row, bytes)
        };
        let tensors: Vec<_> = names.into_iter().zip(tensors).map(tensor).collect();
        let types: Vec<String> = tensors.iter().map(|tensor| tensor.1.name().to_uppercase()).collect();
        let stored = tensors.iter().zip(&types).map(|((name, _, row, bytes), dtype)| {
            (*name, dtype.as_str(), [&[rows], &row[..]].concat(), bytes.clone())
        });
        // One without rows, of an odd size and before all others, is no field.
        let stored: Vec<_> = [("scale", "U8", vec![], vec![1])].into_iter().chain(stored).collect();
        let dataset = open(&writers::safetensors_padded(dir.path().join("x.safetensors"), spaces, &stored));
        prop_assert_eq!(dataset.fields().len(), tensors.len());
        for (field, (_, dtype, row, _)) in tensors.iter().enumerate() {
            check_field(&dataset, field, Some(*dtype), Some(row), dtype.array_bytes(row));
        }
        let columns: Vec<_> = tensors.iter().map(|(name, .., bytes)| (*name, rows_of(bytes, rows))).collect();
        let row = |i: usize| sample(&columns.iter().map(|(name, rows)| (*name, &rows[i][..])).collect::<Vec<_>>());
        check_all(&dataset, "safetensors", &(0..rows as usize).map(row).collect::<Vec<_>>());
    }

    /// Mutants that this catches: leaves a byte too early; a size fixed in one file fixed in all.
    #[test]
    fn leaves_of_litdata_read_back(kinds in vec(select(&LEAVES[..]), 1..5), files in files()) {
        let dir = tempfile::tempdir().unwrap();
        let leaf = |len: u64, i: usize, (_, dtype, one): (&str, Option<DType>, bool)| {
            let len = if one { 1 } else { len * (i as u64 + 1) };
            bytes_of(len + i as u64, 0, len * dtype.map_or(1, |dtype| dtype.bytes().unwrap()))
        };
        let item = |&len: &u64| kinds.iter().enumerate().map(|(i, &kind)| leaf(len, i, kind)).collect::<Vec<_>>();
        let files: Vec<Vec<_>> = files.iter().map(|items| items.iter().map(item).collect()).collect();
        let formats: Vec<&str> = kinds.iter().map(|kind| kind.0).collect();
        let parts: Vec<&[_]> = files.iter().map(Vec::as_slice).collect();
        let dataset = open(&writers::litdata(dir.path(), "PyTreeLoader", &formats, &parts));
        let items = files.concat();
        for (field, &(_, dtype, one)) in kinds.iter().enumerate() {
            match one {
                true => check_field(&dataset, field, dtype, Some(&[]), dtype.and_then(DType::bytes)),
                false => {
                    let values: Vec<_> = items.iter().map(|item| item[field].clone()).collect();
                    check_rows(&dataset, field, dtype, &values);
                }
            }
        }
        let want = |item: &Vec<Vec<u8>>| -> Sample {
            item.iter().enumerate().map(|(i, leaf)| (i.to_string(), Some(leaf.clone()))).collect()
        };
        check_all(&dataset, "litdata", &items.iter().map(want).collect::<Vec<_>>());
    }

    /// Mutants that this catches: a size read in front of tokens; bfloat16 taken for float16.
    #[test]
    fn tokens_of_litdata_read_back(kind in select(&LEAVES[6..]), files in files()) {
        let dir = tempfile::tempdir().unwrap();
        let (format, dtype, _) = kind;
        let item = |&len: &u64| vec![bytes_of(len, 0, len * dtype.unwrap().bytes().unwrap())];
        let files: Vec<Vec<_>> = files.iter().map(|items| items.iter().map(item).collect()).collect();
        let parts: Vec<&[_]> = files.iter().map(Vec::as_slice).collect();
        let dataset = open(&writers::litdata(dir.path(), "TokensLoader", &[format], &parts));
        let documents = files.concat().concat();
        check_rows(&dataset, 0, dtype, &documents);
        check_all(&dataset, "litdata", &one_field("tokens", &documents));
    }

    /// Mutants that this catches: records that overlap by a byte; a byte behind the last one ignored.
    #[test]
    fn records_read_back(record_bytes in prop_oneof![1..20u64, 500..530u64, 4090..4100u64], counts in vec(0..14u64, 1..4)) {
        let dir = tempfile::tempdir().unwrap();
        let shards: Vec<_> = (0..).zip(&counts).map(|(seed, count)| bytes_of(seed, 0, count * record_bytes)).collect();
        let write = |(i, bytes): (usize, &Vec<u8>)| {
            let path = dir.path().join(format!("{i}.bin"));
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let paths: Vec<_> = shards.iter().enumerate().map(write).collect();
        let dataset = Dataset::records(&paths, record_bytes).unwrap();
        check_field(&dataset, 0, None, None, Some(record_bytes));
        let records: Vec<_> = shards.concat().chunks(record_bytes as usize).map(<[u8]>::to_vec).collect();
        check_all(&dataset, "records", &one_field("record", &records));
        let options = Dataset::options().format(Format::Records).record_bytes(record_bytes);
        check_sidecars(&Dataset::records(&paths[..1], record_bytes).unwrap(), &paths[0], &options);
        // A byte more is no record.
        if record_bytes > 1 {
            let whole = shards[0].len() as u64;
            std::fs::write(&paths[0], [&shards[0][..], &[0]].concat()).unwrap();
            let error = Dataset::records(&paths, record_bytes).unwrap_err();
            prop_assert!(matches!(error, strait::Error::Format { offset, .. } if offset == Some(whole)), "{error}");
        }
    }
}
