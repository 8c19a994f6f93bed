//! The cuFile ring over NVIDIA's own library, into host memory, which it reads in compatibility mode without a GPU: layouts,
//! results, and the logic of batches as they really are. `tests/nvidia_cufile/run` makes the surroundings and runs it.

mod common;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{bytes_of, disk_directory, write_shard};
use strait::memory::Arena;
use strait::storage::{Cufile, RawRead, Registered, Ring};

const DEADLINE: Duration = Duration::from_secs(30);
const FILE_BYTES: u64 = (18 << 20) + 1000;
const SEED: u64 = 21;

fn collect(ring: &mut Cufile, count: usize) -> BTreeMap<u64, i32> {
    let (mut out, end) = (Vec::new(), Instant::now() + DEADLINE);
    while out.len() < count {
        ring.poll(1, Duration::from_millis(100), &mut out).unwrap();
        assert!(Instant::now() < end, "{} of {count} reads ended", out.len());
    }
    out.iter().map(|completion| (completion.token, completion.result)).collect()
}

#[test]
fn the_real_library_keeps_what_the_stand_in_promises() {
    if std::env::var_os("STRAIT_NVIDIA_CUFILE").is_none() {
        return eprintln!("SKIPPED: tests/nvidia_cufile/run runs this, with NVIDIA's library at hand");
    }
    let root = std::path::Path::new(concat!(env!("CARGO_TARGET_TMPDIR"), "/machine-with-nvidia-fs"));
    for file in ["proc/modules", "proc/driver/nvidia-fs/version", "run/udev/data/b8:1"].map(|file| root.join(file)) {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, "").unwrap();
    }
    strait::machine::pretend(root);
    let no_device: strait::storage::Enter = Arc::new(|| Ok(()));
    let refusal = Cufile::new(4, false, &no_device, DEADLINE).map(drop).unwrap_err();
    assert!(refusal.to_string().contains("compatibility mode"), "{refusal}");

    let directory = disk_directory();
    let path = write_shard(directory.path(), SEED, FILE_BYTES);
    let file = File::open(&path).unwrap();
    let arena = Arena::map(32 << 20).unwrap();
    // SAFETY: every offset below is inside the arena.
    let at = |offset: usize| unsafe { arena.base().add(offset) };
    let read = |offset: usize, len: u32| RawRead {
        fd: file.as_raw_fd(),
        file_slot: None,
        offset: offset as u64,
        len,
        target: at(offset),
        rw_flags: 0,
        token: offset as u64,
    };
    let holds = |offset: usize, bytes: usize| {
        // SAFETY: inside the arena, and no read into it is in flight.
        let found = unsafe { std::slice::from_raw_parts(at(offset).as_ptr(), bytes) };
        assert!(found == bytes_of(SEED, offset as u64, bytes as u64), "{bytes} bytes at {offset}");
    };
    let submit = |ring: &mut Cufile, read: RawRead| {
        // SAFETY: the arena outlives the ring, and the reads do not overlap.
        unsafe { ring.submit(read) }.unwrap();
    };

    for registered in [false, true] {
        // SAFETY: nothing is in flight.
        unsafe { arena.base().write_bytes(0xEE, arena.bytes()) };
        let mut ring = Cufile::new(40, true, &no_device, DEADLINE).unwrap();
        if registered {
            // SAFETY: the arena outlives the ring.
            assert_eq!(unsafe { ring.register_memory(arena.base(), arena.bytes()) }, Registered::Yes);
            assert_eq!(ring.register_file(2, file.as_raw_fd()), Registered::Yes);
        }
        // Many batches, used again and again.
        let (mut ended, mut next, mut in_flight) = (BTreeMap::new(), 0, 0);
        while ended.len() < 288 {
            while in_flight < 40 && next < 288 {
                let whole = read(next << 16, 1 << 16);
                submit(&mut ring, RawRead { file_slot: registered.then_some(2), ..whole });
                (next, in_flight) = (next + 1, in_flight + 1);
            }
            let ends = collect(&mut ring, 1);
            in_flight -= ends.len();
            ended.extend(ends);
        }
        assert!(ended.values().all(|&result| result == 1 << 16), "{ended:?}");
        holds(0, 18 << 20);
        // The tail, past the end, a read that is cut, and files that are none.
        submit(&mut ring, read(18 << 20, 8192));
        submit(&mut ring, read(24 << 20, 4096));
        let ends = collect(&mut ring, 2);
        assert_eq!((ends[&(18 << 20)], ends[&(24 << 20)]), (1000, 0));
        holds(18 << 20, 1000);
        submit(&mut ring, read(0, 17 << 20));
        assert_eq!(collect(&mut ring, 1)[&0], 16 << 20);
        let folder = File::open(directory.path()).unwrap();
        let pipe = std::io::pipe().unwrap();
        submit(&mut ring, RawRead { fd: 1_000_000, token: 1, ..read(0, 4096) });
        submit(&mut ring, RawRead { fd: folder.as_raw_fd(), token: 2, ..read(4096, 4096) });
        submit(&mut ring, RawRead { fd: pipe.0.as_raw_fd(), token: 3, ..read(8192, 4096) });
        let ends = collect(&mut ring, 3);
        assert_eq!((ends[&1], ends[&2]), (-libc::EBADF, -libc::EISDIR));
        assert!(ends[&3] < -5000, "a pipe is no file of cuFile's: {}", ends[&3]);
    }

    let target = NonNull::new(at(0).as_ptr()).unwrap();
    // SAFETY: inside the arena, which nobody else uses.
    let mut read_back = |found: &mut [u8]| unsafe {
        found.copy_from_slice(std::slice::from_raw_parts(target.as_ptr(), found.len()));
        Ok(())
    };
    // SAFETY: as above.
    unsafe { Cufile::trial(&path, target, &mut read_back, true, &no_device, DEADLINE) }.unwrap();
    println!("NVIDIA's cuFile: as promised");
}
