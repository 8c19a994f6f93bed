//! Every call that a loader makes fails once, at every point of its life.

use strait::order::Shuffle;
use strait::{DType, Device, Error, Result};

use super::{Bed, RECORD};
use crate::check::casts::Change;
use crate::check::cuda::Gpu;
use crate::check::reader::{Reader, Release};
use crate::stand_in::{take, wait_for_engines};

/// What a loader calls, from the device's first to its last.
const SYMBOLS: [&str; 26] = [
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRetain",
    "cuCtxGetStreamPriorityRange",
    "cuStreamCreateWithPriority",
    "cuCtxPushCurrent_v2",
    "cuThreadExchangeStreamCaptureMode",
    "cuMemAlloc_v2",
    "cuMemHostRegister_v2",
    "cuEventCreate",
    "cuMemcpyHtoDAsync_v2",
    "cuModuleLoadData",
    "cuModuleGetFunction",
    "cuLaunchKernel",
    "cuEventRecord",
    "cuEventQuery",
    "cuStreamWaitEvent",
    "cuMemcpyDtoHAsync_v2",
    "cuStreamSynchronize",
    "cuMemHostUnregister",
    "cuMemFree_v2",
    "cuEventDestroy_v2",
    "cuStreamDestroy_v2",
];

/// Calls that may have started something though they failed.
const STARTS_WORK: [&str; 5] =
    ["cuMemcpyHtoDAsync_v2", "cuLaunchKernel", "cuMemcpyDtoHAsync_v2", "cuEventRecord", "cuStreamWaitEvent"];

/// A loader's whole life, with a batch read on the host, one on a stream, and one simply dropped, again and again; of arrays
/// as they are stored, or changed so.
fn life(bed: &Bed, change: Option<&Change>, reader: Option<&mut Reader>) -> Result<()> {
    let device = Device::cuda(0)?;
    let shards = bed.shards();
    let typed = bed.builder(&device).array("record", DType::U8, &[RECORD as u64]).shuffle(Shuffle::Full);
    let mut loader = change.iter().fold(typed, |typed, change| change.ask(typed, "record")).build()?;
    let mut bytes = Vec::new();
    let mut reader = reader;
    for (step, batch) in loader.epoch(0).enumerate() {
        let batch = batch?;
        match (&mut reader, step % 3) {
            (Some(reader), 0) if reader.has_room(&batch) => {
                // The reader's own calls may be the ones that fail.
                let _ = reader.take(batch, Release::Fenced);
            }
            (_, 1) => {
                let sample = batch.samples()[0];
                batch.field("record").unwrap().read_back(0, &mut bytes)?;
                assert_eq!(Some(&bytes[..]), shards.field(sample, "record"), "sample {sample}");
                batch.tensor("record").unwrap().read_back(&mut bytes)?;
                let rows = batch.samples().iter().flat_map(|&sample| shards.field(sample, "record").unwrap());
                let rows: Vec<u8> = rows.copied().collect();
                assert!(bytes == change.map_or(rows.clone(), |change| change.of(&rows)), "an array has wrong bytes");
            }
            _ => batch.wait()?,
        }
    }
    Ok(())
}

/// Which call, which of its calls, and whether it does its work all the same.
#[test]
fn every_call_may_fail_once() {
    fails_once(None);
}

/// The same where no copy does what a kernel cannot.
#[test]
fn every_call_may_fail_once_where_elements_change() {
    fails_once(Some(&Change::new(DType::U8, DType::F32, Some((1.0 / 255.0, -0.5)))));
}

fn fails_once(change: Option<&Change>) {
    let (fake, _alone) = take();
    let bed = Bed::new(&fake);
    life(&bed, change, None).unwrap();
    bed.nothing_is_left(&fake);
    let count = |symbol: &str| {
        let before = fake.calls(symbol);
        life(&bed, change, None).unwrap();
        wait_for_engines();
        fake.calls(symbol) - before
    };
    for symbol in SYMBOLS {
        let calls = count(symbol);
        assert!(calls > 0 || symbol == "cuStreamWaitEvent", "a loader does not call {symbol}");
        let mut nths = vec![1, 2, 3, 4, calls / 2, calls - calls.min(1), calls];
        nths.retain(|&nth| nth > 0 && nth <= calls);
        nths.sort_unstable();
        nths.dedup();
        let both = if STARTS_WORK.contains(&symbol) { &[false, true][..] } else { &[false] };
        for (nth, works) in nths.into_iter().flat_map(|nth| both.iter().map(move |&works| (nth, works))) {
            let before = fake.live_at_rest();
            fake.fail(symbol, nth, 999, works);
            let result = life(&bed, change, None);
            check(symbol, nth, works, change.is_some(), result);
            fake.heal();
            // What cannot be taken back is kept, and every call begins with a push and an exchange, those that take back too.
            let leaks = ["Free", "Unregister", "Destroy", "Push", "Exchange"].iter().any(|part| symbol.contains(part));
            if !leaks {
                assert_eq!(fake.live_at_rest(), before, "{symbol} {nth} {works}");
            }
            wait_for_engines();
            assert_eq!(fake.misuse(), "", "{symbol} {nth} {works}");
        }
    }
    // Whatever was kept is in nobody's way.
    life(&bed, change, None).unwrap();
    assert_eq!(fake.misuse(), "");
}

/// `kernels`: there is no way without them, and `build` says so.
fn check(symbol: &str, nth: u64, works: bool, kernels: bool, result: Result<()>) {
    let Err(error) = result else { return };
    let text = error.to_string();
    let told = text.contains(symbol) && text.contains("999");
    let named = matches!(&error, Error::Device { call, code: 999, .. } if *call == symbol)
        || matches!(&error, Error::NoDevice { .. } if told)
        || matches!(&error, Error::Config { option: "scale", .. } if told && kernels);
    assert!(named, "{symbol} {nth} {works}: {text}");
}

/// The calls on a consumer's stream fail: the batch is not given back, and says so.
#[test]
fn a_fence_that_cannot_be_recorded_keeps_its_batch() {
    let (fake, _alone) = take();
    let bed = Bed::new(&fake);
    {
        let device = Device::cuda(0).unwrap();
        let gpu = Gpu::of(&device).unwrap();
        let mut reader = Reader::new(&gpu, 4 << 20, 0).unwrap();
        life(&bed, None, Some(&mut reader)).unwrap();
        assert_eq!(reader.check(&bed.shards()).unwrap(), 0);
        let mut loader = bed.builder(&device).build().unwrap();
        let batch = loader.epoch(0).next().unwrap().unwrap();
        batch.wait().unwrap();
        // The engine may set marks meanwhile: it is idle once it has nothing left to read.
        std::thread::sleep(std::time::Duration::from_millis(100));
        fake.fail("cuEventRecord", 1, 999, false);
        // SAFETY: a live stream of the loader's device, with nothing on it that uses the batch.
        let error = unsafe { batch.release_on(reader.stream().raw()) }.unwrap_err();
        assert!(matches!(error, Error::Device { call: "cuEventRecord", code: 999, .. }), "{error}");
        // The rest goes on with the batches that are left.
        let samples = loader.epoch(1).map(|batch| batch.unwrap().len()).sum::<usize>();
        assert_eq!(samples, bed.shards().samples());
    }
    // The batch's memory is kept, and the device that it is of: its own stream, four batches' fences, its context.
    let [memory, registered, streams, events, contexts, modules] = bed.before;
    let kept = [memory + 1, registered, streams + 1, events + 4, contexts + 1, modules];
    assert_eq!(fake.live_at_rest(), kept);
    assert_eq!(fake.misuse(), "");
}
