//! Small fields are on the host, whatever device batches live on.

mod common;
#[path = "formats/writers.rs"]
#[allow(dead_code, reason = "shared")]
mod writers;

use std::sync::Arc;

use common::{bytes_of, disk_directory};
use strait::device::SimDevice;
use strait::order::Shuffle;
use strait::sim::Clock;
use strait::{Batch, Builder, DType, Dataset, Device, Loader};

const SAMPLES: u64 = 50;

/// A picture each, its class, and for some a text.
fn write_tar(directory: &std::path::Path) -> std::path::PathBuf {
    let path = directory.join("small.tar");
    let members = (0..SAMPLES).flat_map(|sample| {
        let text = (sample % 2 == 0).then(|| ("txt", format!("picture {sample}, größer").into_bytes()));
        let fields = [("jpg", bytes_of(sample, 0, 5000 + sample)), ("cls", (sample * 7).to_string().into_bytes())];
        fields.into_iter().chain(text).map(move |(field, bytes)| (format!("{sample:04}.{field}"), bytes))
    });
    common::write_tar(&path, members);
    path
}

/// A device whose memory the host cannot address. Nothing is waited for here but what the loader waits for itself.
fn on_device(path: &std::path::Path) -> Builder {
    let device = Device::new(Arc::new(SimDevice::new(3, Clock::real())));
    let builder = Loader::builder(Dataset::webdataset(&[path]).unwrap()).device(device);
    builder.batch_size(8).shuffle(Shuffle::Full).block_bytes(8192)
}

fn check(batch: &Batch) {
    let (cls, txt) = (batch.field("cls").unwrap(), batch.field("txt").unwrap());
    for (i, &sample) in batch.samples().iter().enumerate() {
        assert_eq!(cls.integer(i).unwrap(), Some(sample as i64 * 7));
        assert_eq!(cls.text(i).unwrap(), Some(&*(sample * 7).to_string()));
        let text = (sample % 2 == 0).then(|| format!("picture {sample}, größer"));
        assert_eq!(txt.text(i).unwrap(), text.as_deref());
    }
}

#[test]
fn labels_and_texts_are_on_the_host_by_default() {
    let directory = disk_directory();
    let path = write_tar(directory.path());
    let mut loader = on_device(&path).build().unwrap();
    for batch in loader.epoch(0) {
        let batch = batch.unwrap();
        check(&batch);
        let error = batch.field("jpg").unwrap().host_bytes(0).unwrap_err().to_string();
        assert!(error.contains("the memory of sim is not the host's"), "{error}");
        assert!(
            batch.field("txt").unwrap().integer(0).is_err_and(|e| e.to_string().contains("no whole number"))
                || batch.samples()[0] % 2 == 1
        );
    }
    let small: u64 = (0..SAMPLES).map(|s| (s * 7).to_string().len() as u64).sum();
    let texts: u64 = (0..SAMPLES).step_by(2).map(|s| format!("picture {s}, größer").len() as u64).sum();
    assert_eq!(loader.stats().bytes_kept, small + texts);
    // The host needs no copy of its own memory.
    let mut direct = on_device(&path).device(Device::host()).build().unwrap();
    direct.epoch(0).for_each(|batch| check(&batch.unwrap()));
    assert_eq!(direct.stats().bytes_kept, 0);
}

#[test]
fn which_fields_can_be_said() {
    let directory = disk_directory();
    let path = write_tar(directory.path());
    let mut loader = on_device(&path).on_host(&["jpg"]).build().unwrap();
    for batch in loader.epoch(0) {
        let batch = batch.unwrap();
        let jpg = batch.field("jpg").unwrap();
        for (i, &sample) in batch.samples().iter().enumerate() {
            assert!(jpg.host_bytes(i).unwrap().unwrap() == bytes_of(sample, 0, 5000 + sample));
        }
        assert!(batch.field("cls").unwrap().text(0).is_err());
    }
    let mut none = on_device(&path).on_host(&[]).build().unwrap();
    none.epoch(0).for_each(|batch| assert!(batch.unwrap().field("cls").unwrap().text(0).is_err()));
    assert_eq!(none.stats().bytes_kept, 0);
    let error = on_device(&path).on_host(&["png"]).build().err().unwrap().to_string();
    assert!(error.starts_with("on_host: there is no field \"png\""), "{error}");
}

/// Under any name, from shards and from their indexes.
#[test]
fn what_a_format_calls_text_is_on_the_host_by_default() {
    let (mds, litdata) = (disk_directory(), disk_directory());
    let sample = writers::sample(&[("story", "größer als acht".as_bytes()), ("image", b"\xff\xd8 and more of it")]);
    writers::mds(mds.path(), &[("story", "str", None), ("image", "jpeg", None)], &vec![sample; 8], 8);
    let item = vec!["größer als acht".as_bytes().to_vec(), b"\xff\xd8 and more of it".to_vec()];
    writers::litdata(litdata.path(), "PyTreeLoader", &["str", "jpeg"], &[&vec![item; 8]]);
    for ((path, text, image), indexed) in [(mds.path(), "story", "image"), (litdata.path(), "0", "1")]
        .into_iter()
        .flat_map(|case| [(case, false), (case, true)])
    {
        if indexed {
            Dataset::options().index(&[path], &Default::default(), &|_| true).unwrap();
        }
        let dataset = Dataset::open(&[path]).unwrap();
        assert_eq!(dataset.index_state().sidecars > 0, indexed);
        let device = Device::new(Arc::new(SimDevice::new(3, Clock::real())));
        let mut loader = Loader::builder(dataset).device(device).batch_size(8).build().unwrap();
        let batch = loader.epoch(0).next().unwrap().unwrap();
        assert_eq!(batch.field(text).unwrap().text(7).unwrap(), Some("größer als acht"));
        assert!(batch.field(image).unwrap().host_bytes(7).is_err(), "a picture is for the device");
    }
}

/// What is far larger than usual is on the device alone, and that is said.
#[test]
fn what_finds_no_room_is_an_error_that_says_so() {
    let directory = disk_directory();
    let path = directory.path().join("skewed.tar");
    let mut tar = tar::Builder::new(std::fs::File::create(&path).unwrap());
    let large = vec![b'x'; 300_000];
    for sample in 0..200 {
        let bytes = if sample == 77 { &large[..] } else { b"small" };
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, format!("{sample:04}.txt"), bytes).unwrap();
    }
    tar.finish().unwrap();
    let mut loader = on_device(&path).shuffle(Shuffle::Sequential).build().unwrap();
    let mut lacking = Vec::new();
    for batch in loader.epoch(0) {
        let batch = batch.unwrap();
        let txt = batch.field("txt").unwrap();
        for (i, &sample) in batch.samples().iter().enumerate() {
            match txt.text(i) {
                Ok(text) => assert_eq!(text, Some("small")),
                Err(error) => {
                    assert!(error.to_string().contains("300000 bytes found no room on the host"), "{error}");
                    let mut bytes = Vec::new();
                    assert!(txt.read_back(i, &mut bytes).unwrap() && bytes == large);
                    lacking.push(sample);
                }
            }
        }
    }
    assert_eq!(lacking, [77]);
    // A machine may have a ring to do without besides.
    let said = loader.stats().fallbacks;
    let of_fields: Vec<_> = said.iter().filter(|fallback| fallback.instead.contains("small fields")).collect();
    assert!(of_fields.len() == 1 && of_fields[0].to_string().contains("300000 bytes of a batch"), "{said:?}");
}

#[test]
fn numbers_are_of_the_fields_type() {
    let directory = disk_directory();
    let path = directory.path().join("numbers.bin");
    let numbers = [-3i32, 0, 7, i32::MAX, i32::MIN];
    std::fs::write(&path, numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
    let device = Device::new(Arc::new(SimDevice::new(4, Clock::real())));
    let builder = Loader::builder(Dataset::records(&[path], 4).unwrap()).device(device).batch_size(5);
    let batch = builder.array("record", DType::I32, &[]).build().unwrap().epoch(0).next().unwrap().unwrap();
    let view = batch.field("record").unwrap();
    assert!((0..5).all(|i| view.integer(i).unwrap() == Some(numbers[i].into())));
    assert_eq!(batch.tensor("record").unwrap().shape(), [5]);
}
