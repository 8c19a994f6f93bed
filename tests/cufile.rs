//! The cuFile ring over a stand-in for NVIDIA's library: what it refuses, what it takes from the library, what it never
//! believes. `tests/rings.rs` has what it shares with other rings.

mod common;
#[path = "stand_in/cufile.rs"]
mod cufile;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use common::{bytes_of, disk_directory, write_shard};
use cufile::{FakeCufile, no_device, ring, take};
use strait::memory::Arena;
use strait::storage::{Cufile, RawRead, Registered, Ring, Surroundings};

const DEADLINE: Duration = Duration::from_secs(20);
const FILE_BYTES: u64 = (1 << 20) + 1000;
const SEED: u64 = 9;

/// Memory and a file for reads. Dropped after the ring: tests declare it first.
struct Bed {
    arena: Arena,
    file: File,
    directory: tempfile::TempDir,
}

impl Bed {
    fn new() -> Bed {
        let directory = disk_directory();
        let file = File::open(write_shard(directory.path(), SEED, FILE_BYTES)).unwrap();
        Bed { arena: Arena::map(32 << 20).unwrap(), file, directory }
    }

    fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset < self.arena.bytes());
        // SAFETY: inside the arena.
        unsafe { self.arena.base().add(offset) }
    }

    /// The read of the file's bytes at `offset` to the same place of the arena.
    fn read(&self, offset: usize, len: u32) -> RawRead {
        let (fd, target, token) = (self.file.as_raw_fd(), self.at(offset), offset as u64);
        RawRead { fd, file_slot: None, offset: offset as u64, len, target, rw_flags: 0, token }
    }

    fn holds(&self, offset: usize, bytes: usize) {
        // SAFETY: inside the arena, and no read into it is in flight.
        let found = unsafe { std::slice::from_raw_parts(self.at(offset).as_ptr(), bytes) };
        assert_eq!(found, bytes_of(SEED, offset as u64, bytes as u64), "{bytes} bytes at {offset}");
    }
}

fn submit(ring: &mut Cufile, read: RawRead) {
    // SAFETY: the bed outlives the ring, and reads of a test do not overlap.
    unsafe { ring.submit(read) }.unwrap();
}

/// Polls until `count` reads have ended, or the ring breaks.
fn collect(ring: &mut Cufile, count: usize) -> strait::Result<BTreeMap<u64, i32>> {
    let (mut out, end) = (Vec::new(), Instant::now() + DEADLINE);
    while out.len() < count {
        ring.poll(1, Duration::from_millis(100), &mut out)?;
        assert!(Instant::now() < end, "{} of {count} reads ended", out.len());
    }
    Ok(out.iter().map(|completion| (completion.token, completion.result)).collect())
}

fn nothing_is_left(fake: &FakeCufile, before: [u64; 4]) {
    assert_eq!((fake.live()[..3].to_vec(), fake.misuse()), (before[..3].to_vec(), String::new()));
}

#[test]
fn late_reads_in_many_batches_are_exact() {
    let (fake, _alone) = take();
    let (before, bed) = (fake.live(), Bed::new());
    fake.set("late_us_max", 3000);
    for registered in [false, true] {
        let mut ring = ring(40).unwrap();
        if registered {
            // SAFETY: the bed outlives the ring.
            assert_eq!(unsafe { ring.register_memory(bed.arena.base(), 1 << 20) }, Registered::Yes);
            assert_eq!(ring.register_file(3, bed.file.as_raw_fd()), Registered::Yes);
        }
        let mut ended = BTreeMap::new();
        let (mut next, mut in_flight) = (0, 0);
        while ended.len() < 128 {
            while in_flight < 40 && next < 128 {
                let mut read = bed.read(next * 8192, 8192);
                read.file_slot = registered.then_some(3);
                submit(&mut ring, read);
                (next, in_flight) = (next + 1, in_flight + 1);
            }
            let ends = collect(&mut ring, 1).unwrap();
            in_flight -= ends.len();
            ended.extend(ends);
        }
        assert!(ended.values().all(|&result| result == 8192));
        bed.holds(0, 128 * 8192);
        drop(ring);
        nothing_is_left(&fake, before);
    }
}

#[test]
fn reads_are_cut_at_16_mib_and_end_where_the_file_does() {
    let (fake, _alone) = take();
    let (before, bed) = (fake.live(), Bed::new());
    let long = tempfile::tempfile_in(bed.directory.path()).unwrap();
    long.set_len(20 << 20).unwrap();
    let mut ring = ring(4).unwrap();
    submit(&mut ring, RawRead { fd: long.as_raw_fd(), ..bed.read(2 << 20, 17 << 20) });
    submit(&mut ring, bed.read(1 << 20, 4096));
    submit(&mut ring, bed.read(24 << 20, 4096));
    let ends = collect(&mut ring, 3).unwrap();
    assert_eq!(ends.values().copied().collect::<Vec<_>>(), [1000, 16 << 20, 0]);
    bed.holds(1 << 20, 1000);
    drop(ring);
    nothing_is_left(&fake, before);
}

#[test]
fn what_is_off_4_kib_never_reaches_the_library() {
    let (fake, _alone) = take();
    let (before, bed) = (fake.live(), Bed::new());
    let mut ring = ring(8).unwrap();
    let aligned = bed.read(4096, 4096);
    for read in [
        RawRead { offset: 512, token: 1, ..aligned },
        RawRead { len: 512, token: 2, ..aligned },
        RawRead { target: bed.at(512), token: 3, ..aligned },
    ] {
        submit(&mut ring, read);
    }
    let ends = collect(&mut ring, 3).unwrap();
    assert!(ends.values().all(|&result| result == -libc::EINVAL), "{ends:?}");
    drop(ring);
    nothing_is_left(&fake, before);
}

#[test]
fn a_result_may_be_an_errno_or_a_code_of_its_own() {
    let (fake, _alone) = take();
    let (before, bed) = (fake.live(), Bed::new());
    let mut ring = ring(2).unwrap();
    for (said, expected) in
        [(-5, -libc::EIO), (-5008, -5008), (-5030, -5030), (8192, -libc::EIO), (i64::MIN, -libc::EIO)]
    {
        fake.set("read_error", said);
        submit(&mut ring, bed.read(0, 4096));
        assert_eq!(collect(&mut ring, 1).unwrap()[&0], expected, "{said}");
    }
    // Failed, and yet a count: the bytes are not believed.
    fake.set("event_status", 0x40);
    submit(&mut ring, bed.read(0, 4096));
    assert_eq!(collect(&mut ring, 1).unwrap()[&0], -libc::EIO);
    drop(ring);
    nothing_is_left(&fake, before);
}

#[test]
fn files_that_are_not_taken_fail_by_name() {
    let (fake, _alone) = take();
    let (before, bed) = (fake.live(), Bed::new());
    let mut ring = ring(2).unwrap();
    fake.set("register_error", 5008);
    assert_eq!(ring.register_file(0, bed.file.as_raw_fd()), Registered::No(5008));
    submit(&mut ring, RawRead { file_slot: Some(0), ..bed.read(0, 4096) });
    submit(&mut ring, bed.read(4096, 4096));
    assert_eq!(collect(&mut ring, 2).unwrap().into_values().collect::<Vec<_>>(), [-5008, -5008]);
    fake.set("register_error", 0);
    // A slot takes another file, and the number of a closed descriptor means that one again.
    for _ in 0..3 {
        let file = File::open(bed.directory.path().join("shard.bin")).or_else(|_| bed.file.try_clone()).unwrap();
        assert_eq!(ring.register_file(0, file.as_raw_fd()), Registered::Yes);
        drop(file);
        submit(&mut ring, RawRead { file_slot: Some(0), ..bed.read(0, 4096) });
        assert_eq!(collect(&mut ring, 1).unwrap()[&0], 4096);
    }
    drop(ring);
    nothing_is_left(&fake, before);
}

/// A read that cuFile gave up may still land; so may one that was in a batch whose submission failed. The ring breaks, and
/// takes nothing back.
#[test]
fn what_may_still_land_is_never_reported_nor_let_go() {
    let (fake, _alone) = take();
    let bed = Bed::new();
    for (knob, value) in
        [("event_status", 0x20), ("event_status", 0x08), ("status_error", 5030), ("submit_error", 5035)]
    {
        let before = fake.live();
        let mut ring = ring(2).unwrap();
        // SAFETY: the arena is leaked below.
        assert_eq!(unsafe { ring.register_memory(bed.arena.base(), 4096) }, Registered::Yes, "{}", fake.misuse());
        fake.set(knob, value);
        submit(&mut ring, bed.read(0, 4096));
        let error = collect(&mut ring, 1).unwrap_err();
        assert!(matches!(error, strait::Error::Ring { ring: "cufile", .. }), "{error}");
        let again = collect(&mut ring, 1).unwrap_err();
        assert_eq!(again.to_string(), error.to_string(), "a broken ring works again");
        drop(ring);
        let left = fake.live();
        assert_eq!(
            [left[0], left[1], left[2]],
            [before[0] + 1, before[1] + 1, before[2] + 2],
            "{knob}: file, buffer, batches"
        );
        assert_eq!(fake.misuse(), "");
        // For the next round: the memory is as good as another's.
        assert!(fake.forget(bed.arena.base()));
    }
    std::mem::forget(bed); // they land in it
}

/// Mutant that this catches: a ring that does not look at the descriptor.
#[test]
fn a_wait_ends_when_somebody_wakes_it() {
    let (fake, _alone) = take();
    let bed = Bed::new();
    fake.set("late_us_max", i64::MAX / 2);
    let mut ring = ring(8).unwrap();
    let (wakes, mut wake) = std::io::pipe().unwrap();
    ring.wake_by(wakes.as_raw_fd());
    submit(&mut ring, bed.read(0, 4096));
    let later = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(30));
        std::io::Write::write_all(&mut wake, b"x").unwrap();
    });
    let (start, mut out) = (Instant::now(), Vec::new());
    ring.poll(1, 3 * DEADLINE, &mut out).unwrap();
    assert!(out.is_empty() && start.elapsed() < DEADLINE, "it sleeps on");
    later.join().unwrap();
    std::mem::forget(bed); // the read lands in it, some day
}

#[test]
fn a_drop_in_flight_leaves_all_to_the_library() {
    let (fake, _alone) = take();
    let (before, bed) = (fake.live(), Bed::new());
    fake.set("late_us_max", 100_000);
    let mut ring = ring(8).unwrap();
    for place in 0..8 {
        submit(&mut ring, bed.read(place << 16, 1 << 16));
    }
    ring.poll(0, Duration::ZERO, &mut Vec::new()).unwrap();
    drop(ring);
    assert_eq!(fake.misuse(), "", "something was taken back under a read");
    let reads = fake.live()[3];
    assert!(reads >= before[3] + 8);
    std::mem::forget(bed); // they land in it
}

#[test]
fn refusals_say_why_and_what_to_do() {
    let all = Surroundings { modules: true, udev: true, nvidia_fs: true, peer_to_peer: false };
    assert_eq!(all.obstacle(false), None);
    assert_eq!(Surroundings { nvidia_fs: false, peer_to_peer: true, ..all }.obstacle(false), None);
    assert_eq!(Surroundings { nvidia_fs: false, ..all }.obstacle(true), None);
    let refusal = |surroundings: Surroundings| surroundings.obstacle(false).unwrap().to_string();
    for (surroundings, words) in [
        (Surroundings { modules: false, ..all }, ["/proc/modules", "CONFIG_MODULES"]),
        (Surroundings { udev: false, ..all }, ["/run/udev/data", "-v /run/udev"]),
        (Surroundings { nvidia_fs: false, ..all }, ["compatibility mode", "Linux 6.2"]),
    ] {
        let text = refusal(surroundings);
        assert!(words.iter().all(|&word| text.contains(word)), "{text}");
    }

    let (fake, _alone) = take();
    let open = |compat| Cufile::new(4, compat, &no_device(), DEADLINE).map(drop);
    fake.set("batch_error", 5030);
    let text = open(true).unwrap_err().to_string();
    assert!(text.contains("cuFileBatchIOSetUp") && text.contains("CU_FILE_INTERNAL_ERROR"), "{text}");
    assert_eq!(fake.misuse(), "");
}

fn trial(bed: &Bed, compat: bool) -> Result<(), strait::stats::Fallback> {
    let path = std::fs::read_link(format!("/proc/self/fd/{}", bed.file.as_raw_fd())).unwrap();
    // SAFETY: inside the arena, which nobody else uses.
    let mut read_back = |found: &mut [u8]| unsafe {
        found.copy_from_slice(std::slice::from_raw_parts(bed.at(0).as_ptr(), found.len()));
        Ok(())
    };
    // SAFETY: the arena is larger, and outlives the call.
    unsafe { Cufile::trial(&path, bed.at(0), &mut read_back, compat, &no_device(), DEADLINE) }
}

/// Mutants that this catches: no read of 4 KiB, no look at the count.
#[test]
fn a_trial_believes_bytes_only() {
    let (fake, _alone) = take();
    let (before, bed) = (fake.live(), Bed::new());
    trial(&bed, true).unwrap();
    for wrong in [1, 4095, 4096, (1 << 20) - 1] {
        fake.set("wrong_byte", wrong);
        let text = trial(&bed, true).unwrap_err().to_string();
        assert!(text.contains("other bytes than pread"), "{wrong}: {text}");
    }
    // Each of its reads counts.
    fake.set("wrong_byte", 1);
    fake.set("wrong_bytes_max", 4096);
    assert!(trial(&bed, true).unwrap_err().to_string().contains("other bytes than pread"));
    fake.set("wrong_byte", 0);
    // All bytes are there, and it does not know.
    fake.set("told_less", 1);
    let text = trial(&bed, true).unwrap_err().to_string();
    assert!(text.contains("a trial read gave 4095 in place of 4096"), "{text}");
    fake.set("told_less", 0);
    fake.set("register_error", 5008);
    let text = trial(&bed, true).unwrap_err().to_string();
    assert!(text.contains("CU_FILE_IO_NOT_SUPPORTED"), "{text}");
    nothing_is_left(&fake, before);
}
