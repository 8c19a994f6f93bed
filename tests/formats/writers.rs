//! Writers of the formats, as small as they can be and independent of the readers: each gives the path to open.

#![allow(unreachable_pub, reason = "each test file is a crate")]

use std::fs;
use std::path::{Path, PathBuf};

/// A sample: its fields by name, some of which it may lack.
pub type Sample = Vec<(String, Option<Vec<u8>>)>;

pub fn sample(fields: &[(&str, &[u8])]) -> Sample {
    fields.iter().map(|(name, bytes)| (name.to_string(), Some(bytes.to_vec()))).collect()
}

fn put(path: PathBuf, bytes: &[u8]) -> PathBuf {
    fs::write(&path, bytes).unwrap();
    path
}

/// `descr` and the shape of a row are up to the caller; rows are given as bytes.
pub fn npy(path: PathBuf, version: u8, descr: &str, row_shape: &str, rows: &[Vec<u8>]) -> PathBuf {
    npy_padded(path, (version, 64, 0), descr, &format!("({},{row_shape})", rows.len()), &rows.concat())
}

/// The same of a whole shape and all bytes; the header ends at a multiple of some bytes, or so many spaces behind it.
pub fn npy_padded(
    path: PathBuf,
    (version, multiple, more): (u8, usize, usize),
    descr: &str,
    shape: &str,
    bytes: &[u8],
) -> PathBuf {
    let dictionary = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    let prefix = if version == 1 { 10 } else { 12 };
    let len = (prefix + dictionary.len() + 1).next_multiple_of(multiple) + more - prefix;
    let mut file = b"\x93NUMPY".to_vec();
    file.extend([version, 0]);
    file.extend(&(len as u32).to_le_bytes()[..prefix - 8]);
    file.extend(format!("{dictionary:<width$}\n", width = len - 1).bytes());
    file.extend(bytes);
    put(path, &file)
}

/// llm.c's, of u16 or u32.
pub fn llm_c(path: PathBuf, item_bytes: usize, tokens: &[u8]) -> PathBuf {
    let (magic, version) = if item_bytes == 2 { (20240520u32, 1u32) } else { (20240801, 7) };
    let count = (tokens.len() / item_bytes) as u32;
    let mut file = [magic, version, count].map(u32::to_le_bytes).concat();
    file.resize(1024, 0);
    file.extend(tokens);
    put(path, &file)
}

/// datatrove's `.ds` with its index.
pub fn ds(path: PathBuf, item_bytes: usize, documents: &[Vec<u8>]) -> PathBuf {
    let mut ends = Vec::new();
    let mut end = 0u64;
    for document in documents {
        end += (document.len() / item_bytes) as u64;
        ends.extend(end.to_le_bytes());
    }
    put(path.with_extension("ds.index"), &ends);
    put(path.with_extension("ds.metadata"), format!("gpt2|{item_bytes}\n{end}\n0 tokens").as_bytes());
    put(path, &documents.concat())
}

/// Megatron's pair; gives the `.idx`.
pub fn megatron(prefix: &Path, code: u8, item_bytes: usize, sequences: &[Vec<u8>], modes: Option<&[u8]>) -> PathBuf {
    let mut idx = b"MMIDIDX\0\0".to_vec();
    idx.extend(1u64.to_le_bytes());
    idx.push(code);
    idx.extend([sequences.len() as u64, sequences.len() as u64 + 1].map(u64::to_le_bytes).concat());
    sequences.iter().for_each(|sequence| idx.extend(((sequence.len() / item_bytes) as i32).to_le_bytes()));
    let mut at = 0u64;
    for sequence in sequences {
        idx.extend(at.to_le_bytes());
        at += sequence.len() as u64;
    }
    (0..=sequences.len() as u64).for_each(|bound| idx.extend(bound.to_le_bytes()));
    idx.extend(modes.unwrap_or_default());
    put(prefix.with_extension("bin"), &sequences.concat());
    put(prefix.with_extension("idx"), &idx)
}

/// Safetensors of the tensors (name, type, shape, bytes), in the order given.
pub fn safetensors(path: PathBuf, tensors: &[(&str, &str, Vec<u64>, Vec<u8>)]) -> PathBuf {
    safetensors_padded(path, 0, tensors)
}

/// The same with so many spaces behind the header.
pub fn safetensors_padded(path: PathBuf, spaces: usize, tensors: &[(&str, &str, Vec<u64>, Vec<u8>)]) -> PathBuf {
    let mut at = 0;
    let entries = tensors.iter().map(|(name, dtype, shape, bytes)| {
        let from = at;
        at += bytes.len();
        format!("\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[{from},{at}]}}")
    });
    let header = format!("{{{}}}{:spaces$}", entries.collect::<Vec<_>>().join(","), "");
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    tensors.iter().for_each(|tensor| file.extend(&tensor.3));
    put(path, &file)
}

fn masked_crc(bytes: &[u8]) -> [u8; 4] {
    let mut crc = !0u32;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    (!crc).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

pub fn tfrecord(path: PathBuf, records: &[Vec<u8>]) -> PathBuf {
    let mut file = Vec::new();
    for record in records {
        let len = (record.len() as u64).to_le_bytes();
        file.extend(len);
        file.extend(masked_crc(&len));
        file.extend(record);
        file.extend(masked_crc(record));
    }
    put(path, &file)
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn delimited(number: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    varint(body.len() as u64, &mut bytes);
    bytes.extend(body);
    bytes
}

/// A `tf.train.Example` of features whose list (1 bytes, 2 floats, 3 varints, packed) and bytes are given.
pub fn example(features: &[(String, u8, Vec<u8>)]) -> Vec<u8> {
    let entry = |(name, list, bytes): &(String, u8, Vec<u8>)| {
        let value = delimited(2, &delimited(*list, &delimited(1, bytes)));
        delimited(1, &[delimited(1, name.as_bytes()), value].concat())
    };
    delimited(1, &features.iter().flat_map(entry).collect::<Vec<u8>>())
}

/// A column of MDS: name, encoding, size where it is fixed.
pub type Column = (&'static str, &'static str, Option<usize>);

/// The bytes of one MDS shard.
pub fn mds_shard(columns: &[Column], samples: &[Sample]) -> Vec<u8> {
    let config = b"{\"format\": \"mds\", \"version\": 2}";
    let body = |sample: &Sample| {
        let value =
            |column: &Column| sample.iter().find(|(name, _)| name == column.0).and_then(|(_, bytes)| bytes.clone());
        let values: Vec<Vec<u8>> = columns.iter().map(|column| value(column).unwrap()).collect();
        let variable = columns.iter().zip(&values).filter(|(column, _)| column.2.is_none());
        let mut body: Vec<u8> = variable.flat_map(|(_, value)| (value.len() as u32).to_le_bytes()).collect();
        body.extend(values.concat());
        body
    };
    with_offsets(config, &samples.iter().map(body).collect::<Vec<_>>())
}

/// u32 count, u32 offsets, `between`, items: what MDS and LitData have in common.
fn with_offsets(between: &[u8], items: &[Vec<u8>]) -> Vec<u8> {
    let mut file = (items.len() as u32).to_le_bytes().to_vec();
    let mut at = 4 * (items.len() + 2) + between.len();
    file.extend((at as u32).to_le_bytes());
    for item in items {
        at += item.len();
        file.extend((at as u32).to_le_bytes());
    }
    file.extend(between);
    file.extend(items.concat());
    file
}

/// What `index.json` says of a shard whose bytes these are.
pub fn mds_entry(
    columns: &[Column],
    samples: usize,
    basename: &str,
    raw: &[u8],
    zip: Option<(&str, &str, usize)>,
) -> String {
    let list = |of: fn(&Column) -> String| columns.iter().map(of).collect::<Vec<_>>().join(",");
    let (compression, zip) = match zip {
        Some((compression, name, bytes)) => {
            (format!("\"{compression}\""), format!("{{\"basename\":\"{name}\",\"bytes\":{bytes},\"hashes\":{{}}}}"))
        }
        None => ("null".into(), "null".into()),
    };
    format!(
        "{{\"column_encodings\":[{}],\"column_names\":[{}],\"column_sizes\":[{}],\"compression\":{compression},\
         \"format\":\"mds\",\"hashes\":[],\"raw_data\":{{\"basename\":\"{basename}\",\"bytes\":{},\"hashes\":{{}}}},\
         \"samples\":{samples},\"size_limit\":67108864,\"version\":2,\"zip_data\":{zip}}}",
        list(|column| format!("\"{}\"", column.1)),
        list(|column| format!("\"{}\"", column.0)),
        list(|column| column.2.map_or("null".into(), |bytes| bytes.to_string())),
        raw.len()
    )
}

/// A directory of MDS shards, `samples` split after `first`; gives the directory.
pub fn mds(directory: &Path, columns: &[Column], samples: &[Sample], first: usize) -> PathBuf {
    let (one, two) = samples.split_at(first.min(samples.len()));
    let shards = [("shard.00000.mds", one), ("more/shard.00001.mds", two)];
    fs::create_dir_all(directory.join("more")).unwrap();
    let entries = shards.map(|(name, samples)| {
        let raw = mds_shard(columns, samples);
        put(directory.join(name), &raw);
        mds_entry(columns, samples.len(), name, &raw, None)
    });
    put(directory.join("index.json"), format!("{{\"version\":2,\"shards\":[{}]}}", entries.join(",")).as_bytes());
    directory.to_owned()
}

/// LitData: leaves in order, or tokens (`loader` "TokensLoader"), a file for each list of items; gives the directory.
pub fn litdata(directory: &Path, loader: &str, formats: &[&str], files: &[&[Vec<Vec<u8>>]]) -> PathBuf {
    let body = |leaves: &Vec<Vec<u8>>| {
        let sizes = leaves.iter().flat_map(|leaf| (leaf.len() as u32).to_le_bytes());
        let sizes: Vec<u8> = if loader == "TokensLoader" { vec![] } else { sizes.collect() };
        [sizes, leaves.concat()].concat()
    };
    let entry = |(i, items): (usize, &&[Vec<Vec<u8>>])| {
        let name = format!("chunk-0-{i}.bin");
        put(directory.join(&name), &with_offsets(b"", &items.iter().map(body).collect::<Vec<_>>()));
        format!("{{\"chunk_bytes\":1,\"chunk_size\":{},\"dim\":null,\"filename\":\"{name}\"}}", items.len())
    };
    let entries = files.iter().enumerate().map(entry).collect::<Vec<_>>().join(",");
    let formats = formats.iter().map(|format| format!("\"{format}\"")).collect::<Vec<_>>().join(",");
    let index = format!(
        "{{\"chunks\":[{entries}],\"config\":{{\"chunk_bytes\":1,\"chunk_size\":null,\"compression\":null,\
         \"data_format\":[{formats}],\"data_spec\":null,\"encryption\":null,\"item_loader\":\"{loader}\"}}}}"
    );
    put(directory.join("index.json"), index.as_bytes());
    directory.to_owned()
}
