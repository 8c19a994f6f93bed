//! Opening an indexed dataset takes memory by the shard, not by the sample. A file of its own: it watches the process.

mod common;

use std::fs;
use std::path::PathBuf;

use strait::Dataset;
use strait::dataset::Indexing;

fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[test]
fn an_indexed_dataset_takes_little_memory() {
    const SHARDS: u64 = 300;
    const DOCUMENTS: u64 = 50_000;
    let directory = common::disk_directory();
    let name = |shard: u64| directory.path().join(format!("{shard:04}.ds"));
    let ends: Vec<u64> = (0..DOCUMENTS)
        .scan(0, |end, i| {
            *end += 1 + i * i % 64;
            Some(*end)
        })
        .collect();
    let index: Vec<u8> = ends.iter().flat_map(|end| end.to_le_bytes()).collect();
    fs::File::create(name(0)).unwrap().set_len(2 * ends[ends.len() - 1]).unwrap();
    fs::write(directory.path().join("0000.ds.index"), index).unwrap();
    let options = Dataset::options().dtype(strait::DType::U16);
    let made = options.index(&[name(0)], &Indexing::default(), &|_| true).unwrap();
    let sidecar = made[0].sidecar.clone().unwrap();
    let sidecar_bytes = fs::metadata(&sidecar).unwrap().len();
    assert!(sidecar_bytes > 4 * DOCUMENTS);
    let paths: Vec<PathBuf> = (0..SHARDS).map(name).collect();
    for shard in 1..SHARDS {
        fs::hard_link(name(0), name(shard)).unwrap();
        fs::hard_link(directory.path().join("0000.ds.index"), format!("{}.index", name(shard).display())).unwrap();
        fs::hard_link(&sidecar, format!("{}.strait", name(shard).display())).unwrap();
    }
    let Some(before) = resident_bytes() else {
        eprintln!("skipped: no /proc/self/status on this machine");
        return;
    };
    let dataset = options.open(&paths).unwrap();
    let after = resident_bytes().unwrap();
    assert_eq!((dataset.len(), dataset.index_state().sidecars), (SHARDS * DOCUMENTS, SHARDS));
    let (grown, all) = (after.saturating_sub(before), SHARDS * sidecar_bytes);
    // 10 KiB a shard would be 100 MiB for 10,000; 16 threads' stacks and arenas come on top.
    assert!(grown < SHARDS * (10 << 10) + (4 << 20), "{grown} bytes more for {SHARDS} shards whose indexes have {all}");
    for sample in [0, DOCUMENTS - 1, DOCUMENTS, SHARDS * DOCUMENTS - 1] {
        let document = (sample % DOCUMENTS) as usize;
        let first = if document == 0 { 0 } else { ends[document - 1] };
        let extent = dataset.extent(sample, 0).unwrap();
        assert_eq!((extent.offset, extent.len), (2 * first, 2 * (ends[document] - first)));
    }
    dataset.check().unwrap();
}
