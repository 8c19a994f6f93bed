//! Arrays whose elements change on the way: what is in them, what that costs, and what is refused.

mod common;
#[path = "common/nearest.rs"]
mod nearest;

use std::path::{Path, PathBuf};

use common::disk_directory;
use strait::order::Shuffle;
use strait::{Builder, DType, Dataset, Device, Error, Loader, PathChoice};

const WAYS: [PathChoice; 2] = [PathChoice::Auto, PathChoice::Staged];

/// Every `u16`, in an order that is not theirs.
fn words() -> Vec<u8> {
    (0..1u32 << 16).flat_map(|i| ((i * 40_503) as u16).to_le_bytes()).collect()
}

fn file(directory: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn builder(dataset: &Dataset) -> Builder {
    Loader::builder(dataset.clone()).device(Device::host()).batch_size(7).block_bytes(64 << 10)
}

/// The array of each batch, with the numbers of its rows.
fn arrays(loader: &mut Loader, field: &str) -> Vec<(Vec<u64>, DType, Vec<u8>)> {
    let array = |batch: strait::Result<strait::Batch>| {
        let batch = batch.unwrap();
        let tensor = batch.tensor(field).unwrap();
        assert_eq!(tensor.dtype().array_bytes(tensor.shape()), Some(tensor.bytes()));
        assert_eq!(tensor.device_ptr() % tensor.dtype().bytes().unwrap(), 0);
        (batch.samples().to_vec(), tensor.dtype(), tensor.host_bytes().unwrap().to_vec())
    };
    loader.epoch(0).map(array).collect()
}

/// The most common of all: tokens of 16 bits for an embedding that takes 64.
#[test]
fn windows_of_u16_come_out_as_i64() {
    let directory = disk_directory();
    let words = words();
    let path = file(directory.path(), "words.bin", &words);
    let dataset = Dataset::records(&[path], 2).unwrap();
    for way in WAYS {
        for to in [DType::I32, DType::I64] {
            let tokens = builder(&dataset).tokens("record", 2).path(way).shuffle(Shuffle::Full).widen("record", to);
            let mut loader = tokens.windows(513, 512).build().unwrap();
            let (mut bytes, mut tokens) = (0, 0);
            for (windows, dtype, array) in arrays(&mut loader, "record") {
                let row = |window: &u64| &words[*window as usize * 1024..*window as usize * 1024 + 1026];
                let stored: Vec<u8> = windows.iter().flat_map(row).copied().collect();
                assert!(dtype == to && array == nearest::cast(DType::U16, to, None, &stored), "{way:?} {to}");
                (bytes, tokens) = (bytes + array.len() as u64, tokens + windows.len() * 513);
            }
            assert_eq!(tokens, 127 * 513);
            let stats = loader.stats();
            assert_eq!((stats.bytes_cast, stats.bytes_gathered), (bytes, 0));
        }
    }
    let mut packed = builder(&dataset).tokens("record", 2).pack(512).widen("record", DType::I64).build().unwrap();
    assert!(arrays(&mut packed, "record").iter().all(|(windows, _, array)| array.len() == windows.len() * 4096));
}

/// Mutant that this catches: views that are taken for what the array holds.
#[test]
fn views_stay_as_they_are_stored() {
    let directory = disk_directory();
    let words = words();
    let dataset = Dataset::records(&[file(directory.path(), "words.bin", &words)], 64).unwrap();
    for way in WAYS {
        let wide = builder(&dataset).array("record", DType::U16, &[4, 8]).widen("record", DType::I64).path(way);
        let mut loader = wide.shuffle(Shuffle::Full).build().unwrap();
        for batch in loader.epoch(0) {
            let batch = batch.unwrap();
            let (tensor, view) = (batch.tensor("record").unwrap(), batch.field("record").unwrap());
            assert_eq!((tensor.dtype(), tensor.shape()), (DType::I64, &[batch.len() as u64, 4, 8][..]));
            assert_eq!(batch.fields()[0].dtype, Some(DType::U16));
            for (i, &sample) in batch.samples().iter().enumerate() {
                let stored = &words[sample as usize * 64..][..64];
                assert!(view.host_bytes(i).unwrap().unwrap() == stored && view.lengths()[i] == 64);
                let row = &tensor.host_bytes().unwrap()[256 * i..][..256];
                assert!(row == nearest::cast(DType::U16, DType::I64, None, stored));
            }
        }
    }
}

/// All bytes, by every type and on both ways; rows large enough to be placed by copies if they were not changed.
#[test]
fn bytes_become_numbers_and_numbers_stay_numbers() {
    let directory = disk_directory();
    let words = words();
    let path = file(directory.path(), "words.bin", &words);
    for (record, way) in [(64, WAYS[0]), (64, WAYS[1]), (65536, WAYS[0]), (65536, WAYS[1])] {
        let dataset = Dataset::records(&[&path], record).unwrap();
        for to in [DType::F16, DType::BF16, DType::F32] {
            for scale in [None, Some((1.0 / 255.0, 0.0)), Some((-0.017, 2.1))] {
                let typed = builder(&dataset).array("record", DType::U8, &[record]).path(way).shuffle(Shuffle::Full);
                let changed = match scale {
                    None => typed.widen("record", to),
                    Some((factor, bias)) => typed.scale("record", to, factor, bias),
                };
                for (samples, dtype, array) in arrays(&mut changed.build().unwrap(), "record") {
                    let row = |sample: &u64| &words[(sample * record) as usize..][..record as usize];
                    let stored: Vec<u8> = samples.iter().flat_map(row).copied().collect();
                    assert!(dtype == to && array == nearest::cast(DType::U8, to, scale, &stored), "{to} {scale:?}");
                }
            }
        }
    }
    let dataset = Dataset::records(&[&path], 64).unwrap();
    for from in [DType::U32, DType::I32] {
        let typed = builder(&dataset).array("record", from, &[16]).widen("record", DType::I64);
        for (samples, _, array) in arrays(&mut typed.build().unwrap(), "record") {
            let stored: Vec<u8> = samples.iter().flat_map(|s| &words[*s as usize * 64..][..64]).copied().collect();
            assert!(array == nearest::cast(from, DType::I64, None, &stored));
        }
    }
}

/// What is of the type already is not touched.
#[test]
fn what_is_as_wide_already_stays() {
    let directory = disk_directory();
    let dataset = Dataset::records(&[file(directory.path(), "words.bin", &words())], 64).unwrap();
    let typed = || builder(&dataset).array("record", DType::I64, &[8]).widen("record", DType::I64);
    let mut loader = typed().widen("record", DType::I64).build().unwrap();
    assert_eq!(arrays(&mut loader, "record")[0].1, DType::I64);
    assert_eq!(loader.stats().bytes_cast, 0);
}

/// Mutant that this catches: room counted for arrays as they are stored.
#[test]
fn the_room_is_that_of_the_wide_array() {
    let directory = disk_directory();
    let dataset = Dataset::records(&[file(directory.path(), "words.bin", &words().repeat(8))], 4096).unwrap();
    let typed = || builder(&dataset).array("record", DType::U8, &[4096]).batch_size(16).prefetch(2).hold(1);
    let narrow = typed().batch_size(64).build().unwrap().stats().region_bytes;
    let wide = typed().batch_size(64).widen("record", DType::F32).build().unwrap().stats().region_bytes;
    assert!(wide >= narrow + 3 * 64 * 3 * 4096 - (2 << 20), "{wide} and {narrow}");
    let one_batch = |builder: Builder| builder.batch_size(256).region_bytes(4 << 20).build();
    one_batch(typed()).unwrap();
    let error = one_batch(typed().widen("record", DType::F32)).err().unwrap();
    assert!(matches!(error, Error::BatchTooLarge { batch_bytes, .. } if batch_bytes >= 256 * 5 * 4096), "{error}");
}

#[test]
fn what_cannot_be_is_said_at_once() {
    let directory = disk_directory();
    let dataset = Dataset::records(&[file(directory.path(), "words.bin", &words())], 64).unwrap();
    let typed = |dtype: DType| builder(&dataset).array("record", dtype, &[64 / dtype.bytes().unwrap()]);
    let error = |builder: Builder| {
        let error = builder.build().err().unwrap();
        assert!(matches!(error, Error::Config { .. }), "{error}");
        error.to_string()
    };
    let text = error(typed(DType::I64).widen("record", DType::I32));
    assert!(
        text.contains("widen: no i32 is made of record, which is i64") && text.contains("i32 and i64 of u16"),
        "{text}"
    );
    assert!(error(typed(DType::U16).widen("record", DType::F32)).contains("no f32 is made of record, which is u16"));
    assert!(error(typed(DType::U16).scale("record", DType::F32, 1.0, 0.0)).contains("scale: no f32 is made of record"));
    assert!(error(typed(DType::U8).widen("image", DType::F32)).contains("the fields are record"));
    assert!(error(builder(&dataset).widen("record", DType::I64)).contains("say what it is with `array`"));
    assert!(error(typed(DType::U16).tensors(&[]).widen("record", DType::I64)).contains("name it in `tensors`"));
    let twice = typed(DType::U16).widen("record", DType::I64).widen("record", DType::I32);
    assert!(error(twice).contains("record is to be i64 and i32"));
    for (to, factor, bias) in [(DType::F16, 300.0, 0.0), (DType::F32, f32::NAN, 0.0), (DType::BF16, 1.0, f32::INFINITY)]
    {
        let text = error(typed(DType::U8).scale("record", to, factor, bias));
        assert!(text.contains("scale: record: 0 to 255 times") && text.contains("not always a finite"), "{text}");
    }
}
