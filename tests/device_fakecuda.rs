//! The CUDA device over a stand-in for the driver. A test binary of its own: where others ask for CUDA, they see the
//! machine as it is.
#![cfg(feature = "cuda")]

mod device_suite;
mod stand_in;

use std::time::Duration;

use device_suite::cuda::{CudaConsumer, current_context, symbol, within};
use device_suite::{Bed, Fault, Region, Slabs, WAIT, copy, queue};
use strait::device::{CopyQueue, DeviceKind, RawStream, Seq};
use strait::order::Rank;
use strait::plan::Move;
use strait::weights::{Save, SaveTensor};
use strait::{DType, Device, Error};

use stand_in::{Fake, take};

#[test]
fn conformance() {
    let (fake, _alone) = take();
    for seed in 0..4 {
        let works = seed % 2 == 0;
        let make = || {
            fake.heal();
            fake.pace(seed, 300, 1 << 20);
            let device = Device::cuda(0).unwrap();
            assert_eq!(device.name(), "cuda:0 (stand-in 0)", "a real driver was found in place of the stand-in");
            bed(device, seed, works)
        };
        device_suite::run(&make);
    }
}

fn bed(device: Device, seed: u64, works: bool) -> Bed {
    Bed {
        device,
        consumer: Some(Box::new(CudaConsumer::new())),
        late: true,
        pins: true,
        inject: Some(Box::new(move |fault| {
            let fake = Fake;
            match fault {
                Fault::None => {
                    fake.heal();
                    fake.pace(seed, 300, 1 << 20);
                }
                Fault::CopyFails => fake.fail("cuMemcpyHtoDAsync_v2", 1, 1, works),
                Fault::GatherFails => fake.fail("cuLaunchKernel", 1, 1, works),
                Fault::CopyOutFails => fake.fail("cuMemcpyDtoHAsync_v2", 1, 1, works),
                Fault::MarkFails => fake.fail("cuEventRecord", 1, 2, works),
                Fault::Stalls => fake.stall(),
                Fault::Lost => fake.lose(719),
            }
        })),
        objections: Box::new(|| Fake.misuse().lines().map(String::from).collect()),
        compares: true,
    }
}

#[test]
fn everything_is_given_back() {
    let (fake, _alone) = take();
    let before = fake.live();
    let device = Device::cuda(1).unwrap();
    assert_eq!(device.kind(), DeviceKind::Cuda(1));
    let slabs = Slabs::new(&device, 2, 65536);
    let regions = [1, 4096, 70_000].map(|bytes| Region::new(&device, bytes));
    let fence = device.raw().fence().unwrap();
    let mut queue: CopyQueue<device_suite::Lease> = CopyQueue::new(device.raw().stream().unwrap(), 2);
    // SAFETY: null is the legacy stream of the device's context.
    unsafe { device.raw().record(fence, RawStream(std::ptr::null_mut())) }.unwrap();
    queue.wait_fence(fence).unwrap();
    // Some go before the device does.
    let events = fake.live()[3];
    (0..3).map(|_| device.raw().fence().unwrap()).for_each(|fence| device.raw().free_fence(fence));
    assert_eq!(fake.live()[3], events, "a fence that was given back is still there");
    copy(&mut queue, slabs.lease(0), regions[2].at(0)).unwrap();
    copy(&mut queue, slabs.lease(1), regions[2].at(0)).unwrap();
    drop(queue);
    assert_eq!(slabs.back(), 2);
    drop((slabs, regions, device));
    assert_eq!(fake.live(), before);
    assert_eq!(fake.misuse(), "");
}

/// Tensors are still on their way to the device, on a stream that is late, when they are saved.
#[test]
fn a_save_reads_behind_the_stream_that_it_is_given() {
    let (fake, _alone) = take();
    let before = fake.live();
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("m.safetensors");
    let device = Device::cuda(0).unwrap();
    let consumer = CudaConsumer::new();
    let region = Region::new(&device, 300_000);
    let shape = [200_001];
    for (value, block_bytes) in [(7, 4096), (8, 65536), (9, 4 << 20)] {
        fake.pace(u64::from(value), 300, 1 << 20);
        fake.late(device_suite::Consumer::stream(&consumer), 20_000);
        consumer.write(region.at(0), value, 300_000);
        // SAFETY: the region outlives the save, and what still writes to it is on the consumer's stream.
        let tensor = unsafe { SaveTensor::on_device("t", DType::U8, &shape, region.at(99)) };
        // SAFETY: the consumer outlives the save.
        let save = unsafe { Save::new(&device).after(device_suite::Consumer::stream(&consumer)) };
        save.block_bytes(block_bytes).save(&path, &[tensor]).unwrap();
        let file = std::fs::read(&path).unwrap();
        assert!(device_suite::all(&file[file.len() - 200_001..], value), "the save overtook the stream");
    }
    drop((consumer, region, device));
    assert_eq!(fake.live(), before);
    assert_eq!(fake.misuse(), "");
}

/// Mutant that this catches: somebody beside the slabs still has a share in their memory, which then is unmapped while pinned.
#[test]
fn a_save_that_cannot_come_behind_its_stream_unpins_its_slabs() {
    let (fake, _alone) = take();
    let before = fake.live();
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("m.safetensors");
    let device = Device::cuda(0).unwrap();
    let consumer = CudaConsumer::new();
    let (region, during) = (Region::new(&device, 4096), fake.live());
    for (symbol, nth) in [("cuEventCreate", 1), ("cuEventRecord", 1), ("cuStreamWaitEvent", 1), ("cuEventRecord", 2)] {
        fake.fail(symbol, nth, 1, false);
        // SAFETY: the region outlives the save, and nothing writes to it.
        let tensor = unsafe { SaveTensor::on_device("t", DType::U8, &[4096], region.at(0)) };
        // SAFETY: the consumer outlives the save.
        let save = unsafe { Save::new(&device).after(device_suite::Consumer::stream(&consumer)) };
        let error = save.save(&path, &[tensor]).unwrap_err();
        assert!(error.to_string().contains(symbol), "{symbol} {nth}: {error}");
        assert_eq!(fake.live()[..3], during[..3], "{symbol} {nth}: allocations, registrations, streams");
        fake.heal();
    }
    drop((consumer, region, device));
    assert_eq!((fake.live(), fake.misuse().as_str()), (before, ""));
}

/// Mutants that this catches: what a save's copies wait for on a consumer's stream is given the device's deadline only; or a
/// device that does not answer is given longer.
#[test]
fn a_save_gives_the_stream_before_it_longer_than_the_device() {
    let (fake, _alone) = take();
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("m.safetensors");
    let device = Device::cuda(0).unwrap();
    let consumer = CudaConsumer::new();
    let (region, deadline) = (Region::new(&device, 4096), Duration::from_secs(1));
    let save = |after: bool| {
        // SAFETY: the region outlives the save, and what still writes to it is on the consumer's stream.
        let tensor = unsafe { SaveTensor::on_device("t", DType::U8, &[4096], region.at(0)) };
        let save = Save::new(&device).deadline(deadline);
        // SAFETY: the consumer outlives the save.
        let save = if after { unsafe { save.after(device_suite::Consumer::stream(&consumer)) } } else { save };
        save.save(&path, &[tensor])
    };
    fake.late(device_suite::Consumer::stream(&consumer), 3_000_000);
    consumer.write(region.at(0), 7, 4096);
    save(true).unwrap();
    let file = std::fs::read(&path).unwrap();
    assert!(device_suite::all(&file[file.len() - 4096..], 7), "the save overtook the stream");
    fake.stall();
    let error = save(false).unwrap_err();
    fake.heal();
    assert!(matches!(error, Error::Timeout { waited, .. } if waited < 3 * deadline), "{error}");
    let text = error.to_string();
    assert!(text.contains("cuda:0") && text.contains("m.safetensors") && text.contains("answer"), "{text}");
}

/// The driver goes before whoever holds memory at the end of a process, and what it held goes with it.
///
/// Mutant that this catches: that is an error.
#[test]
fn memory_is_unpinned_by_a_driver_that_is_gone() {
    let (fake, _alone) = take();
    let device = Device::cuda(0).unwrap();
    let source = std::ptr::NonNull::from(Box::leak(Box::new([1u8; 4096]))).cast();
    for (code, well) in [(4, true), (999, false), (0, true)] {
        // SAFETY: never freed; no copy reads it.
        unsafe { device.raw().pin(source, 4096) }.unwrap();
        fake.fail("cuMemHostUnregister", 1, code, true);
        // SAFETY: pinned above.
        assert_eq!(unsafe { device.raw().unpin(source) }.is_ok(), well, "{code}");
    }
    assert_eq!(fake.misuse(), "");
}

/// The driver's small allocations begin at any multiple of 512 bytes, strait's of 4096.
///
/// Mutants that this catches: memory that is handed over as it comes, and freed by the address that was handed over.
#[test]
fn memory_is_aligned_where_the_drivers_is_not() {
    let (fake, _alone) = take();
    let before = fake.live();
    let device = Device::cuda(0).unwrap();
    let (calls, mut regions) = (fake.calls("cuMemAlloc_v2"), Vec::new());
    for _ in 0..32 {
        regions.push(Region::new(&device, 5000));
        assert_eq!(regions.last().unwrap().at(0) % 4096, 0);
    }
    assert!(fake.calls("cuMemAlloc_v2") - calls > 40, "the stand-in's allocations are aligned");
    let slabs = Slabs::new(&device, 1, 4096);
    let mut queue = CopyQueue::new(device.raw().stream().unwrap(), 1);
    for region in &regions {
        let bytes = fill(&mut queue, slabs.lease(0), region);
        assert_eq!(region.read(0, 4096), bytes);
        assert_eq!(region.read(4096, 904).len(), 904, "the end of what was asked for is inside");
    }
    drop((queue, slabs, regions, device));
    assert_eq!((fake.live(), fake.misuse().as_str()), (before, ""));
}

#[test]
fn no_threads_context_changes() {
    let (_fake, _alone) = take();
    let device = Device::cuda(0).unwrap();
    assert!(current_context().is_null());
    let consumer = CudaConsumer::new();
    let other = Device::cuda(1).unwrap();
    let slabs = Slabs::new(&device, 1, 4096);
    for device in [&device, &other] {
        drop(Region::new(device, 4096));
        assert!(current_context().is_null());
    }
    drop((slabs, consumer));
    assert!(current_context().is_null());
}

#[test]
fn more_marks_than_events() {
    let (fake, _alone) = take();
    let device = Device::cuda(0).unwrap();
    let events = fake.calls("cuEventCreate");
    let mut stream = device.raw().stream().unwrap();
    let timeline = stream.timeline();
    let first = stream.mark().unwrap();
    assert_eq!(
        fake.calls("cuEventCreate") - events,
        1,
        "a batch given back behind two streams has a stream made for it"
    );
    let mut last = first;
    for _ in 0..3000 {
        let seq = stream.mark().unwrap();
        assert!(seq > last);
        last = seq;
    }
    assert!(timeline.wait(first, WAIT).unwrap() && timeline.wait(last, WAIT).unwrap());
    assert!(!timeline.wait(Seq(last.0 + 1), Duration::from_millis(20)).unwrap(), "a mark that was never set");
    // SAFETY: null is the legacy stream of the device's context.
    assert!(unsafe { timeline.wait_on(Seq(last.0 + 1), RawStream(std::ptr::null_mut())) }.is_err());
    assert_eq!(stream.wait(last, WAIT).unwrap(), last);
    assert_eq!(fake.misuse(), "");
}

#[test]
fn every_call_may_fail() {
    let (fake, _alone) = take();
    let before = fake.live();
    let symbols = [
        "cuInit cuDriverGetVersion cuDeviceGetCount cuDeviceGet cuDeviceGetName cuDevicePrimaryCtxRetain cuCtxPushCurrent_v2",
        "cuMemAlloc_v2 cuMemHostRegister_v2 cuMemcpyHtoDAsync_v2 cuMemcpyDtoHAsync_v2 cuStreamCreateWithPriority",
        "cuStreamSynchronize cuStreamWaitEvent cuEventCreate cuEventRecord cuEventQuery",
        "cuThreadExchangeStreamCaptureMode cuStreamIsCapturing",
    ];
    for symbol in symbols.iter().flat_map(|line| line.split(' ')) {
        for nth in [1, 2, 3, 7] {
            fake.fail(symbol, nth, 1, false);
            let result = use_everything();
            if let Err(error) = result {
                assert!(error.to_string().contains(symbol), "{symbol} {nth}: {error}");
            }
            fake.heal();
        }
    }
    let after = fake.live();
    assert_eq!(after[2..], before[2..], "streams, events, contexts");
    let misuse = fake.misuse();
    assert!(misuse.is_empty(), "{misuse}");
}

/// Every call of the driver, once or more. What an error leaves behind is given back.
fn use_everything() -> strait::Result<()> {
    let device = Device::cuda(0)?;
    let raw = device.raw();
    let mut stream = raw.stream()?;
    let fence = raw.fence()?;
    // SAFETY: null is the legacy stream of the device's context.
    unsafe { raw.record(fence, RawStream(std::ptr::null_mut())) }?;
    stream.wait_fence(fence)?;
    let region = RegionGuard(&device, Some(raw.allocate(4096)?));
    let source = vec![7u8; 4096].leak();
    // SAFETY: `source` is never freed, so whatever fails below, it stays valid.
    unsafe { raw.pin(std::ptr::NonNull::from(&mut *source).cast(), source.len()) }?;
    let base = region.1.as_ref().unwrap().base;
    let at = std::ptr::NonNull::from(&mut *source).cast();
    // SAFETY: pinned above; the region is freed behind the wait below, or leaked.
    let copied = unsafe { stream.copy(at, base, 4096) };
    let marked = stream.mark().or_else(|_| stream.mark());
    let waited = marked.clone().and_then(|seq| stream.wait(seq, WAIT).or_else(|_| stream.wait(seq, WAIT)));
    let mut target = vec![0; 4096];
    // SAFETY: the region is live and the copy into it has ended.
    let read = unsafe { raw.read_back(base, &mut target) };
    // SAFETY: the copy has ended: the waits above were retried.
    let unpinned = unsafe { raw.unpin(at) };
    copied?;
    marked?;
    waited?;
    read?;
    unpinned?;
    assert!(target.iter().all(|&byte| byte == 7));
    Ok(())
}

struct RegionGuard<'a>(&'a Device, Option<strait::device::RawMemory>);

impl Drop for RegionGuard<'_> {
    fn drop(&mut self) {
        if let Some(memory) = self.1.take() {
            // SAFETY: `use_everything` waits for its copy.
            unsafe { self.0.raw().free(memory) };
        }
    }
}

#[test]
fn absence_says_what_to_do() {
    let (fake, _alone) = take();
    for (symbol, code, says) in [
        ("cuInit", 100, "nvidia-smi"),
        ("cuInit", 34, "stubs"),
        ("cuInit", 803, "kernel module"),
        ("cuInit", 35, "update the driver"),
        ("cuInit", 3, "fork"),
        ("cuInit", 805, "nvidia-cuda-mps-control"),
        ("cuDeviceGet", 4242, "4242"),
    ] {
        fake.fail(symbol, 1, code, false);
        let error = Device::cuda(0).unwrap_err();
        assert!(matches!(error, Error::NoDevice { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(says) && text.contains(symbol) && text.contains(&code.to_string()), "{text}");
    }
    // A device that is there and does not work is not absent: a rank does not go on with another's.
    for (code, says) in [(2, "free memory of other users"), (46, "nvidia-smi -c DEFAULT")] {
        for make in [|_| Device::cuda(1), |rank| Device::for_rank(rank)] {
            fake.fail("cuDevicePrimaryCtxRetain", 1, code, false);
            let variables = |name: &str| match name {
                "RANK" | "LOCAL_RANK" => Some("1".to_string()),
                "WORLD_SIZE" => Some("2".to_string()),
                _ => None,
            };
            let error = make(Rank::from_env(variables).unwrap().unwrap()).unwrap_err();
            assert!(matches!(error, Error::Device { .. }) && error.to_string().contains(says), "{error}");
        }
    }
    let text = Device::cuda(7).unwrap_err().to_string();
    assert!(text.contains("there are 2 CUDA devices"), "{text}");
    assert_eq!(Device::auto().kind(), DeviceKind::Cuda(0));
    fake.fail("cuInit", 1, 100, false);
    assert_eq!(Device::auto().kind(), DeviceKind::Host);
}

/// Another library of the driver's name is what the system's loader would find; the program has its driver already.
#[test]
fn the_driver_that_is_loaded_is_the_one() {
    const CHILD: &str = "STRAIT_TEST_LOADED_DRIVER";
    if std::env::var_os(CHILD).is_some() {
        let (fake, _alone) = take();
        drop(Device::cuda(0).unwrap());
        assert!(fake.calls("cuInit") > 0, "another driver was taken");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let library = std::env::current_exe().unwrap().with_file_name("libfakecuda.so");
    std::fs::copy(library, directory.path().join("libcuda.so.1")).unwrap();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "the_driver_that_is_loaded_is_the_one"]);
    let answer = child.env("LD_LIBRARY_PATH", directory.path()).env(CHILD, "1").output().unwrap();
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stdout));
}

#[test]
fn errors_name_call_code_and_remedy() {
    let (fake, _alone) = take();
    let device = Device::cuda(0).unwrap();
    let text = device.raw().allocate(1 << 50).unwrap_err().to_string();
    assert!(text.contains("cuda:0: cuMemAlloc_v2 failed: CUDA_ERROR_OUT_OF_MEMORY (2); device memory"), "{text}");
    assert!(text.contains("empty_cache"), "{text}");
    fake.fail("cuMemHostRegister_v2", 1, 2, false);
    // SAFETY: nothing is pinned.
    let text = unsafe { device.raw().pin(std::ptr::NonNull::dangling(), 4096) }.unwrap_err().to_string();
    assert!(text.contains("CUDA_ERROR_OUT_OF_MEMORY (2); the driver cannot pin"), "{text}");
    fake.lose(719);
    let text = device.raw().allocate(1).unwrap_err().to_string();
    assert!(text.contains("(719)") && text.contains("restart the process"), "{text}");
    fake.heal();
}

/// The driver is unusable in a forked child: the device says so and touches nothing there.
#[test]
fn a_forked_child_is_refused() {
    let (fake, _alone) = take();
    let device = Device::cuda(0).unwrap();
    let mut stream = device.raw().stream().unwrap();
    // SAFETY: the child does nothing but what follows, and ends without running destructors or exit handlers.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let refused = |error: Error| error.to_string().contains("forked");
        let told = device.raw().allocate(1).is_err_and(refused)
            && stream.mark().is_err_and(refused)
            && Device::cuda(0).is_err_and(refused);
        drop((stream, device));
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(i32::from(!told)) };
    }
    let mut status = 0;
    // SAFETY: our own child; `status` is writable.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "status {status:#x}");
    drop((stream, device));
    assert_eq!(fake.misuse(), "");
}

/// Each process of a machine has its own device; more processes than devices are an error.
#[test]
fn the_local_rank_chooses_the_device() {
    let (_fake, _alone) = take();
    let rank = |local: &'static str| {
        let variables = [("RANK", "6"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", local)];
        let of = move |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
        Rank::from_env(of).unwrap().unwrap()
    };
    let name = |rank| Device::for_rank(rank).unwrap().kind();
    assert_eq!((name(rank("0")), name(rank("1"))), (DeviceKind::Cuda(0), DeviceKind::Cuda(1)));
    assert_eq!(name(Rank::new(3, 8).unwrap()), DeviceKind::Cuda(0));
    let error = Device::for_rank(rank("2")).err().unwrap().to_string();
    assert!(error.contains("cuda:2") && error.contains("there are 2 CUDA devices"), "{error}");
}

/// Tests the bed: what a correct program never does is refused, and noted.
#[test]
fn misuse_is_caught() {
    let (fake, _alone) = take();
    let device = Device::cuda(0).unwrap();
    let region = Region::new(&device, 4096);
    let mut stream = device.raw().stream().unwrap();
    let source = std::ptr::NonNull::from(Box::leak(Box::new([1u8; 4096]))).cast();
    // SAFETY: the source lives for ever; that it is not pinned is what is tested.
    unsafe { stream.copy(source, region.at(0), 4096) }.unwrap();
    assert!(fake.misuse().contains("not registered"));

    // SAFETY: the source lives for ever.
    unsafe { device.raw().pin(source, 4096) }.unwrap();
    fake.stall();
    // SAFETY: the source lives for ever; that the target is freed early is what is tested, and the stand-in refuses.
    unsafe { stream.copy(source, region.at(0), 4096) }.unwrap();
    // SAFETY: broken on purpose: the copy is in flight. The stand-in refuses.
    assert!(unsafe { device.raw().unpin(source) }.is_err());
    drop(region);
    let misuse = fake.misuse();
    assert!(misuse.contains("unregistered while") && misuse.contains("freed while"), "{misuse}");
    fake.heal();
    let seq = stream.mark().unwrap();
    assert_eq!(stream.wait(seq, WAIT).unwrap(), seq);
    assert_eq!(fake.misuse(), "", "the copy found its memory");

    let mut address = 0;
    // SAFETY: the type is that of cuda.h; `address` is writable. No context is current here.
    let code = unsafe { symbol::<unsafe extern "C" fn(*mut u64, usize) -> i32>("cuMemAlloc_v2")(&mut address, 1) };
    assert_eq!(code, 201);
    assert!(fake.misuse().contains("cuMemAlloc_v2 without"));

    type Handle = *mut std::ffi::c_void;
    type Retain = unsafe extern "C" fn(*mut Handle, i32) -> i32;
    type Create = unsafe extern "C" fn(*mut Handle, u32) -> i32;
    type Record = unsafe extern "C" fn(Handle, Handle) -> i32;
    let none = std::ptr::null_mut();
    let [first, second] = [0, 1].map(|ordinal| {
        let mut context = none;
        // SAFETY: the type is that of cuda.h; the place is writable.
        assert_eq!(unsafe { symbol::<Retain>("cuDevicePrimaryCtxRetain")(&mut context, ordinal) }, 0);
        context
    });
    let mut event = none;
    // SAFETY: as above; null is a context's legacy stream.
    let code = unsafe {
        within(first, || assert_eq!(symbol::<Create>("cuEventCreate")(&mut event, 2), 0));
        within(second, || symbol::<Record>("cuEventRecord")(event, none))
    };
    assert_eq!((code, fake.misuse().as_str()), (400, "a record of an event of another context"));
    // SAFETY: as above; both contexts were retained here, and the event is not used any more.
    unsafe {
        type Destroy = unsafe extern "C" fn(Handle) -> i32;
        within(first, || symbol::<Destroy>("cuEventDestroy_v2")(event));
        for ordinal in [0, 1] {
            symbol::<unsafe extern "C" fn(i32) -> i32>("cuDevicePrimaryCtxRelease_v2")(ordinal);
        }
    }
}

#[test]
fn a_queue_that_is_lost_leaks_its_leases() {
    let (fake, _alone) = take();
    let device = Device::cuda(0).unwrap();
    let bed = bed(device.clone(), 0, true);
    let slabs = Slabs::new(&device, 2, 65536);
    let region = Region::new(&device, 65536);
    let mut queue = queue(&bed, 2);
    fake.stall();
    copy(&mut queue, slabs.lease(0), region.at(0)).unwrap();
    fake.lose(700);
    assert!(copy(&mut queue, slabs.lease(1), region.at(0)).is_err());
    drop(queue);
    assert_eq!(slabs.back(), 0);
    region.leak();
    fake.heal();
    // The copy goes on, as on hardware; nothing that it uses was given back.
    let mut stream = device.raw().stream().unwrap();
    let seq = stream.mark().unwrap();
    assert_eq!(stream.wait(seq, WAIT).unwrap(), seq);
    assert_eq!(fake.misuse(), "");
}

/// The moves of one gather, and what they leave of a region whose first half is counted.
fn gather_once(
    device: &Device,
    queue: &mut CopyQueue<device_suite::Lease>,
    slabs: &std::sync::Arc<Slabs>,
    moves: &[Move],
) {
    let region = Region::new(device, 1 << 20);
    let mut lease = slabs.lease(0);
    let bytes: Vec<u8> = (0..512 << 10).map(|i: u32| (i / 251) as u8).collect();
    lease.write(&bytes);
    copy(queue, lease, region.at(0)).unwrap();
    // SAFETY: the region lives until the queue is empty; the moves lie in it, apart from each other.
    unsafe { queue.gather(slabs.lease(1), region.at(0), moves) }.unwrap();
    queue.drain(WAIT, drop).unwrap();
    for &Move { source, target, bytes: len } in moves {
        let want = &bytes[source as usize..(source + len) as usize];
        assert!(region.read(target as usize, len as usize) == want, "{len} bytes at {source}");
    }
}

#[test]
fn a_gather_is_a_launch_and_where_it_cannot_be_plain_copies() {
    let (fake, _alone) = take();
    let before = fake.live();
    let long = Move { source: 5, target: 512 << 10, bytes: 300_001 };
    // More rows than a table has.
    let many: Vec<Move> =
        (0..10_000).map(|i| Move { source: 3 * i, target: (512 << 10) + 40 * i, bytes: 39 }).collect();
    let (device, slabs);
    device = Device::cuda(0).unwrap();
    slabs = Slabs::new(&device, 2, 512 << 10);
    let calls = || (fake.calls("cuLaunchKernel"), fake.calls("cuMemcpyDtoDAsync_v2"));
    let queue = |kernel: bool| {
        let mut queue = CopyQueue::new(device.raw().stream().unwrap(), 2);
        let slower = queue.ready_to_gather();
        assert_eq!(slower.is_none(), kernel, "{slower:?}");
        (queue, slower)
    };
    {
        let (mut with, _) = queue(true);
        let (launches, copies) = calls();
        gather_once(&device, &mut with, &slabs, &[long]);
        gather_once(&device, &mut with, &slabs, &many);
        assert_eq!(calls(), (launches + 1 + 3, copies), "a launch for each table, and no copies");
        for _ in 0..40 {
            gather_once(&device, &mut with, &slabs, &[long]); // tables come round
        }
        assert_eq!(calls(), (launches + 44, copies));
    }
    drop((slabs, device));
    assert_eq!((fake.live(), fake.misuse().as_str()), (before, ""));

    // A device whose driver cannot compile the kernel; and one that has no memory for tables.
    for (symbol, code) in
        [("cuModuleLoadData", 222), ("cuModuleGetFunction", 500), ("cuMemAlloc_v2", 2), ("cuEventCreate", 2)]
    {
        let device = Device::cuda(1).unwrap();
        let slabs = Slabs::new(&device, 2, 512 << 10);
        let mut queue = CopyQueue::new(device.raw().stream().unwrap(), 2);
        fake.fail(symbol, 1, code, false);
        let slower = queue.ready_to_gather().unwrap().to_string();
        assert!(slower.contains(symbol) && slower.contains("driver"), "{slower}");
        let (launches, copies) = calls();
        gather_once(&device, &mut queue, &slabs, &[long]);
        assert_eq!(calls(), (launches, copies + 1), "one copy for the move");
        drop((queue, slabs, device));
        assert_eq!((fake.live(), fake.misuse().as_str()), (before, ""), "{symbol}");
    }
}

/// Bytes at the start of a region that are unlike any that were there.
fn fill(queue: &mut CopyQueue<device_suite::Lease>, mut lease: device_suite::Lease, region: &Region) -> Vec<u8> {
    let bytes: Vec<u8> = (0..4096u32).map(|i| (i * i / 11 + 3) as u8).collect();
    lease.write(&bytes);
    copy(queue, lease, region.at(0)).unwrap();
    queue.drain(WAIT, drop).unwrap();
    bytes
}

/// A stream that is held up by a consumer's has every table in use: the next gathers are plain copies, not waits.
///
/// Mutants that this catches: no copies in their place; copies from the target to the source.
#[test]
fn gathers_beyond_the_tables_do_not_wait() {
    let (fake, _alone) = take();
    let before = fake.live();
    {
        let device = Device::cuda(0).unwrap();
        let (slabs, region) = (Slabs::new(&device, 41, 4096), Region::new(&device, 1 << 20));
        let mut queue = CopyQueue::new(device.raw().stream().unwrap(), 41);
        assert_eq!(queue.ready_to_gather(), None);
        let source = fill(&mut queue, slabs.lease(40), &region);
        let launches = fake.calls("cuLaunchKernel");
        fake.pace(3, 1000, 0);
        for index in 0..40 {
            let one = Move { source: 0, target: 4096 * (1 + index as u64), bytes: 4096 };
            // SAFETY: the region lives until the queue is empty; targets differ.
            unsafe { queue.gather(slabs.lease(index), region.at(0), &[one]) }.unwrap();
        }
        let launched = fake.calls("cuLaunchKernel") - launches;
        assert!((16..40).contains(&launched), "{launched} launches");
        queue.drain(WAIT, drop).unwrap();
        assert_eq!(slabs.back(), 41);
        assert!((0..=40).all(|index| region.read(4096 * index, 4096) == source));
    }
    assert_eq!((fake.live(), fake.misuse().as_str()), (before, ""));
}

/// A stream goes while a kernel is still to run: the kernel's table stays.
///
/// Mutant that this catches: tables that are freed at once.
#[test]
fn a_streams_tables_outlive_its_kernels() {
    let (fake, _alone) = take();
    let device = Device::cuda(0).unwrap();
    let region = Region::new(&device, 8192);
    let mut stream = device.raw().stream().unwrap();
    assert_eq!(stream.ready_to_gather(), None);
    let [memory, registered, ..] = fake.live();
    fake.stall();
    // SAFETY: the region is leaked.
    unsafe { stream.gather(region.at(0), &[Move { source: 0, target: 4096, bytes: 4096 }]) }.unwrap();
    drop(stream);
    assert_eq!((fake.misuse().as_str(), fake.live()[..2].to_vec()), ("", vec![memory, registered]));
    region.leak();
    fake.heal();
}

/// No event says until when the first table is read, once recording it has failed: it must not be filled before that is known.
///
/// Mutant that this catches: a table that passes for free where its event was not recorded.
#[test]
fn a_table_without_an_event_is_not_filled_too_early() {
    let (fake, _alone) = take();
    let before = fake.live();
    {
        let device = Device::cuda(0).unwrap();
        let (slabs, region) = (Slabs::new(&device, 1, 4096), Region::new(&device, 1 << 20));
        let source = fill(&mut CopyQueue::new(device.raw().stream().unwrap(), 1), slabs.lease(0), &region);
        let mut stream = device.raw().stream().unwrap();
        assert_eq!(stream.ready_to_gather(), None);
        fake.stall();
        fake.fail("cuEventRecord", 1, 999, false);
        let mut failures = 0;
        for place in 1..=40 {
            let one = Move { source: 0, target: 4096 * place, bytes: 4096 };
            // SAFETY: the region lives until the stream is waited for; targets differ.
            failures += usize::from(unsafe { stream.gather(region.at(0), &[one]) }.is_err());
        }
        assert_eq!(failures, 1);
        fake.heal();
        let seq = stream.mark().unwrap();
        assert_eq!(stream.wait(seq, WAIT).unwrap(), seq);
        assert!((0..=40).all(|place| region.read(4096 * place, 4096) == source));
        drop(stream);
    }
    assert_eq!((fake.live(), fake.misuse().as_str()), (before, ""));
}

/// 150 small copies of one lease: in a few calls where the driver has such a call, whichever signature; one by one else.
#[test]
fn small_copies_are_started_together_where_the_driver_can() {
    let (fake, _alone) = take();
    let before = fake.live();
    for (version, refused) in
        [(13_010, false), (13_000, false), (12_090, false), (12_080, false), (0, false), (13_000, true), (12_090, true)]
    {
        fake.version(version);
        fake.pace(9, 200, 0);
        let device = Device::cuda(0).unwrap();
        let (slabs, region) = (Slabs::new(&device, 1, 150 * 300), Region::new(&device, 1 << 20));
        let mut queue = CopyQueue::new(device.raw().stream().unwrap(), 2);
        let mut lease = slabs.lease(0);
        let bytes: Vec<u8> = (0..150 * 300u32).map(|i| (i / 7) as u8).collect();
        lease.write(&bytes);
        let whole = lease.to(region.at(0));
        let piece = |place: usize| strait::device::RawCopy {
            // SAFETY: inside the slab.
            source: unsafe { whole.source.add(300 * place) },
            target: region.at(4000 * place),
            bytes: 300,
        };
        let calls = || (fake.calls("cuMemcpyBatchAsync"), fake.calls("cuMemcpyHtoDAsync_v2"));
        let (together, alone) = calls();
        if refused {
            fake.fail("cuMemcpyBatchAsync", 2, 801, true);
        }
        // SAFETY: the slabs stay pinned, and the region allocated, until the queue is empty; targets do not overlap.
        unsafe { queue.copy_all(lease, (0..150).map(piece)) }.unwrap();
        queue.drain(WAIT, drop).unwrap();
        // Said once, by each stream that would have started some together.
        let said = queue.fallback().map(|fallback| fallback.to_string());
        assert_eq!(said.is_some(), refused, "version {version}: {said:?}");
        assert!(said.is_none_or(|said| said.contains("one by one") && said.contains("cuMemcpyBatchAsync")));
        assert_eq!(queue.fallback(), None);
        let mut other = CopyQueue::<()>::new(device.raw().stream().unwrap(), 1);
        assert_eq!(other.fallback().is_some(), refused);
        drop(other);
        let expected = match (version, refused) {
            (0, _) => (0, 150),
            (_, true) => (2, 86), // 64 in the first call; what the second refused, and the rest, one by one
            _ => (3, 0),
        };
        let (now, plain) = calls();
        assert_eq!((now - together, plain - alone), expected, "version {version}");
        for place in 0..150 {
            assert!(region.read(4000 * place, 300) == bytes[300 * place..][..300], "version {version}: piece {place}");
        }
        drop((queue, slabs, region, device));
        assert_eq!((fake.live(), fake.misuse().as_str()), (before, ""), "version {version}");
    }
}
