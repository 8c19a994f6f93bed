//! The whole path on a file of the page cache's file system (/dev/shm), where the disk is no limit: what strait itself
//! costs. Every epoch's bytes are added up and compared.

use std::io::Write;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use strait::order::Shuffle;
use strait::{Dataset, Device, Loader, PathChoice};

const FILE_BYTES: u64 = 128 << 20;

fn pipeline(c: &mut Criterion) {
    let mut file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    let words: Vec<u8> = (0..FILE_BYTES / 8).flat_map(|i| (i as u32).to_le_bytes().repeat(2)).collect();
    file.write_all(&words).unwrap();
    let mut group = c.benchmark_group("an epoch of 128 MiB from tmpfs to the host");
    group.throughput(Throughput::Bytes(FILE_BYTES)).sample_size(10);
    for (name, record_bytes, batch_size) in [("1 MiB records", 1 << 20, 16), ("4 KiB records", 4096, 256)] {
        for path in [PathChoice::Auto, PathChoice::Staged] {
            let dataset = Dataset::records(&[file.path()], record_bytes).unwrap();
            let builder = Loader::builder(dataset).device(Device::host()).batch_size(batch_size);
            let mut loader = builder.shuffle(Shuffle::Full).path(path).build().unwrap();
            let mut epoch = 0;
            let name = format!("{name}, {}", loader.stats().path);
            group.bench_function(BenchmarkId::from_parameter(name), |b| {
                b.iter(|| {
                    epoch += 1;
                    let mut seen = 0;
                    for batch in loader.epoch(epoch) {
                        let batch = batch.unwrap();
                        let view = batch.field("record").unwrap();
                        for (i, &sample) in batch.samples().iter().enumerate() {
                            let first = view.host_bytes(i).unwrap().unwrap().first_chunk().unwrap();
                            assert_eq!(u64::from(u32::from_le_bytes(*first)), sample * record_bytes / 8);
                        }
                        seen += batch.bytes();
                    }
                    assert_eq!(seen, FILE_BYTES);
                });
            });
        }
    }
}

criterion_group!(benches, pipeline);
criterion_main!(benches);
