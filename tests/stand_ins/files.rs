//! cuFile: files, registered memory, reads and batches of them.

use std::ffi::c_uint;
use std::fs::File;
use std::os::fd::{AsRawFd, IntoRawFd};

use crate::cufile::{self, FakeCufile, function};
use crate::{Program, STRAY};

#[repr(C)]
struct Answer {
    code: i32,
    cuda: i32,
}

#[repr(C)]
struct Description {
    kind: i32,
    fd: u64,
    operations: usize,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Entry {
    mode: i32,
    base: usize,
    file_offset: i64,
    base_offset: i64,
    bytes: usize,
    file: usize,
    opcode: i32,
    cookie: usize,
}

/// Calls a function of cuFile's; its answer's code, where it gives one.
macro_rules! call {
    ($name:literal($($type:ty = $value:expr),*) -> $answer:ty) => {
        // SAFETY: the types are those of cufile.h; what the stand-in is given is as long as it is told, or refused unread.
        unsafe { function::<unsafe extern "C" fn($($type),*) -> $answer>($name)($($value),*) }
    };
    ($name:literal($($type:ty = $value:expr),*)) => { call!($name($($type = $value),*) -> Answer).code };
}

fn reports(fake: &FakeCufile, what: &str, wrong: impl FnOnce()) {
    crate::reports(|| fake.misuse(), what, wrong);
}

fn register(file: i32) -> (i32, usize) {
    let (mut handle, mut description) = (0, Description { kind: 1, fd: file as u64, operations: 0 });
    let (handle_at, description) = (&raw mut handle, &raw mut description);
    let code = call!(c"cuFileHandleRegister"(*mut usize = handle_at, *mut Description = description));
    (code, handle)
}

fn take_back(file: usize) {
    call!(c"cuFileHandleDeregister"(usize = file) -> ());
}

fn register_memory(base: usize, bytes: usize) -> i32 {
    call!(c"cuFileBufRegister"(usize = base, usize = bytes, i32 = 0))
}

fn take_memory_back(base: usize) -> i32 {
    call!(c"cuFileBufDeregister"(usize = base))
}

fn set_up(entries: u32) -> (i32, usize) {
    let mut batch = 0;
    (call!(c"cuFileBatchIOSetUp"(*mut usize = &mut batch, c_uint = entries)), batch)
}

fn submit(batch: usize, entries: &[Entry]) -> i32 {
    let (mut entries, count) = (entries.to_vec(), entries.len() as u32);
    let entries = entries.as_mut_ptr();
    call!(c"cuFileBatchIOSubmit"(usize = batch, c_uint = count, *mut Entry = entries, c_uint = 0))
}

fn destroy(batch: usize) {
    call!(c"cuFileBatchIODestroy"(usize = batch) -> ());
}

/// Waits until so many entries have ended.
fn status(batch: usize, ended: u32) -> i32 {
    let (mut seen, mut events) = (0, [[0usize; 3]; 8]);
    while seen < ended.max(1) {
        let mut count = 8;
        let (count_at, events) = (&raw mut count, events.as_mut_ptr());
        let timeout = std::ptr::null_mut();
        let code = call!(c"cuFileBatchIOGetStatus"(
            usize = batch, c_uint = 0, *mut c_uint = count_at, *mut [usize; 3] = events, *mut libc::timespec = timeout
        ));
        if code != 0 {
            return code;
        }
        seen += count;
        std::thread::sleep(std::time::Duration::from_micros(50));
    }
    0
}

fn elsewhere<R: Send>(body: impl FnOnce() -> R + Send) -> R {
    std::thread::scope(|scope| scope.spawn(body).join().unwrap())
}

/// One test: the library is opened once.
#[test]
fn what_cufile_does_not_allow() {
    let program = Program::new();
    let (fake, _alone) = cufile::take();
    let file = tempfile::tempfile().unwrap();
    file.set_len(64 << 20).unwrap();
    let fd = file.as_raw_fd();
    reports(&fake, "before the driver was opened", || assert_eq!(register(fd).0, 5001));
    reports(&fake, "cuFileDriverOpen without a current context", || {
        assert_eq!(elsewhere(|| call!(c"cuFileDriverOpen"())), 5011);
    });
    assert_eq!(call!(c"cuFileDriverOpen"()), 0);
    files(&fake, &file);
    // The stand-in's memory is never freed.
    let memory = (vec![0u8; 40 << 20].leak().as_mut_ptr() as usize).next_multiple_of(4096);
    registrations(&fake, memory);
    batches(&fake, fd, memory);
    drop(program);
    assert_eq!((fake.misuse().as_str(), fake.live()[..3].to_vec()), ("", vec![0; 3]));
}

fn files(fake: &FakeCufile, file: &File) {
    let fd = file.as_raw_fd();
    reports(fake, "cuFileHandleRegister without a current context", || assert_eq!(elsewhere(|| register(fd)).0, 5011));
    let (code, handle) = register(fd);
    assert_eq!(code, 0);
    reports(fake, "a descriptor registered twice", || assert_eq!(register(fd).0, 5028));
    take_back(handle);
    reports(fake, "a file taken back twice", || take_back(handle));
    let copy = file.try_clone().unwrap().into_raw_fd();
    let (_, handle) = register(copy);
    // SAFETY: the copy is this test's.
    unsafe { libc::close(copy) };
    reports(fake, "a descriptor closed before it was taken back", || take_back(handle));
}

fn registrations(fake: &FakeCufile, memory: usize) {
    reports(fake, "cuFileBufRegister without a current context", || {
        assert_eq!(elsewhere(|| register_memory(memory, 4096)), 5011);
    });
    assert_eq!(register_memory(memory, 8192), 0);
    reports(fake, "memory registered twice", || assert_eq!(register_memory(memory + 4096, 8192), 5023));
    assert_eq!(take_memory_back(memory), 0);
    reports(fake, "memory taken back twice", || assert_eq!(take_memory_back(memory), 5024));
}

fn batches(fake: &FakeCufile, fd: i32, memory: usize) {
    let (_, file) = register(fd);
    let read = |file| call!(c"cuFileRead"(usize = file, usize = memory, usize = 4096, i64 = 0, i64 = 0) -> isize);
    reports(fake, "a read of a file that is not registered", || assert_eq!(read(STRAY as usize), -5027));
    reports(fake, "cuFileRead without a current context", || assert_eq!(elsewhere(|| read(file)), -5011));
    assert_eq!(read(file), 4096);
    reports(fake, "more entries than the driver takes", || assert_eq!(set_up(129).0, 5022));
    let (_, batch) = set_up(2);
    let entry =
        Entry { mode: 1, base: memory, file_offset: 0, base_offset: 0, bytes: 4096, file, opcode: 0, cookie: 1 };
    assert_eq!(register_memory(memory, 20 << 20), 0);
    for (what, entry) in [
        ("an entry with a file that is not registered", Entry { file: STRAY as usize, ..entry }),
        ("an entry of more than 16 MiB", Entry { bytes: (16 << 20) + 4096, ..entry }),
        ("an entry off 4 KiB", Entry { bytes: 512, ..entry }),
        ("an entry off 4 KiB", Entry { file_offset: 512, ..entry }),
        ("an entry off 4 KiB", Entry { base_offset: 512, ..entry }),
        ("by an address inside it", Entry { base: memory + 4096, ..entry }),
        ("past the end of registered memory", Entry { base_offset: (20 << 20) - 4096, bytes: 8192, ..entry }),
    ] {
        reports(fake, what, || assert_eq!(submit(batch, &[entry]), 5022));
    }
    reports(fake, "a batch submitted without a current context", || {
        assert_eq!(elsewhere(|| submit(batch, &[entry])), 5011);
    });
    reports(fake, "a batch that is none", || assert_eq!(submit(STRAY as usize, &[entry]), 5022));
    reports(fake, "a batch that is none", || assert_eq!(status(STRAY as usize, 1), 5022));
    reports(fake, "a batch used again", || assert_eq!(submit(batch, &[entry; 3]), 5037));
    in_flight(fake, file, memory, batch, entry);
    assert_eq!(take_memory_back(memory), 0);
    take_back(file);
    destroy(batch);
    reports(fake, "a batch destroyed twice", || destroy(batch));
}

/// While reads are late.
fn in_flight(fake: &FakeCufile, file: usize, memory: usize, batch: usize, entry: Entry) {
    fake.set("hold", 1);
    assert_eq!(submit(batch, &[entry]), 0);
    reports(fake, "a batch used again", || assert_eq!(submit(batch, &[Entry { cookie: 2, ..entry }]), 5037));
    reports(fake, "memory taken back while a read writes to it", || assert_eq!(take_memory_back(memory), 5022));
    reports(fake, "a file taken back while a read uses it", || take_back(file));
    let (_, another) = set_up(2);
    reports(fake, "a cookie used twice", || assert_eq!(submit(another, &[entry; 2]), 0));
    reports(fake, "a batch destroyed while entries of it are in flight", || destroy(another));
    fake.set("hold", 0);
    assert_eq!(status(batch, 1), 0);
}
