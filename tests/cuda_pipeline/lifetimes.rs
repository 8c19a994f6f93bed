//! Loaders, batches and streams that go away at bad moments.

use std::time::{Duration, Instant};

use strait::{Device, Error};

use super::Bed;
use crate::check::cuda::Gpu;
use crate::check::reader::{Reader, Release};
use crate::stand_in::take;

#[test]
fn a_loader_dropped_in_mid_epoch_gives_everything_back() {
    let (fake, _alone) = take();
    let bed = Bed::new(&fake);
    for batches in [0, 1, 2, 5, usize::MAX] {
        fake.pace(batches as u64, 2000, 512 << 10);
        let mut loader = bed.builder(&Device::cuda(0).unwrap()).build().unwrap();
        let held: Vec<_> = loader.epoch(0).take(batches.min(6)).take(2).map(Result::unwrap).collect();
        drop(held);
        loader.epoch(1).take(batches).for_each(|batch| drop(batch.unwrap()));
        let start = Instant::now();
        drop(loader);
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        bed.nothing_is_left(&fake);
    }
}

#[test]
fn a_panic_in_the_consumer_gives_everything_back() {
    let (fake, _alone) = take();
    let bed = Bed::new(&fake);
    fake.pace(1, 2000, 512 << 10);
    let consumer = std::panic::AssertUnwindSafe(|| {
        let mut loader = bed.builder(&Device::cuda(0).unwrap()).build().unwrap();
        let _held: Vec<_> = loader.epoch(0).take(2).collect();
        panic!("the consumer's own");
    });
    assert!(std::panic::catch_unwind(consumer).is_err());
    bed.nothing_is_left(&fake);
}

/// The last batches are given back behind a slow stream, and the loader goes at once.
#[test]
fn device_memory_is_freed_behind_the_streams_that_read_it() {
    let (fake, _alone) = take();
    let bed = Bed::new(&fake);
    for batch_last in [false, true] {
        let device = Device::cuda(0).unwrap();
        let gpu = Gpu::of(&device).unwrap();
        let mut reader = Reader::new(&gpu, 2 << 20, 0).unwrap();
        fake.late(reader.stream().raw(), 20_000);
        let mut loader = bed.builder(&device).build().unwrap();
        let mut batches: Vec<_> = loader.epoch(0).take(2).map(Result::unwrap).collect();
        let outlives = if batch_last { batches.pop() } else { None };
        batches.into_iter().for_each(|batch| reader.take(batch, Release::Fenced).unwrap());
        drop(loader);
        outlives.into_iter().for_each(|batch| reader.take(batch, Release::Fenced).unwrap());
        assert_eq!(fake.misuse(), "", "batch last: {batch_last}");
        assert_eq!(reader.check(&bed.shards()).unwrap(), 0);
        drop((reader, gpu, device));
        fake.heal();
        bed.nothing_is_left(&fake);
    }
}

/// A device that stops answering is named; its memory is kept as long as it may still write there.
#[test]
fn a_device_that_does_not_answer_keeps_its_memory() {
    let (fake, _alone) = take();
    let bed = Bed::new(&fake);
    let mut loader = bed.builder(&Device::cuda(0).unwrap()).deadline(Duration::from_millis(300)).build().unwrap();
    fake.stall();
    let start = Instant::now();
    let error = loader.epoch(0).find_map(|batch| batch.and_then(|batch| batch.wait()).err()).unwrap();
    let text = error.to_string();
    assert!(matches!(error, Error::Timeout { .. }) && text.contains("cuda:0"), "{text}");
    drop(loader);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    // The engine has given up too. What is left is the copies' two ends, and the device that the memory is of: its own
    // stream, four batches' fences, its context.
    let [memory, registered, streams, events, contexts, modules] = bed.before;
    let kept = [memory + 1, registered + 1, streams + 1, events + 4, contexts + 1, modules];
    assert_eq!(fake.live_at_rest(), kept);
    assert_eq!(fake.misuse(), "");
    fake.heal();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(fake.misuse(), "", "the copies found their memory");
}

/// What a consumer has put on a stream may take longer than any deadline: a collective waits for a rank that saves a checkpoint.
/// The copies behind that are late, and the device is not.
///
/// Mutants that this catches: copies behind a fence that count as copies that do not move; a consumer that gives up waiting for
/// what its own stream holds up; an engine whose turns are not counted, so that it seems to hang.
#[test]
fn a_consumers_slow_stream_is_no_failure_of_the_loaders() {
    let (fake, _alone) = take();
    let bed = Bed::new(&fake);
    {
        let device = Device::cuda(0).unwrap();
        let mut reader = Reader::new(&Gpu::of(&device).unwrap(), 2 << 20, 0).unwrap();
        fake.late(reader.stream().raw(), 7_000_000);
        let deadline = Duration::from_secs(2); // and a second more, for an engine that seems to hang
        let mut loader = bed.builder(&device).deadline(deadline).build().unwrap();
        let (shards, start) = (bed.shards(), Instant::now());
        let mut epoch = loader.epoch(0).map(Result::unwrap);
        let first = epoch.next().unwrap();
        let mut samples = first.len();
        reader.take(first, Release::Fenced).unwrap();
        for batch in epoch {
            batch.wait().unwrap();
            samples += batch.len();
        }
        assert_eq!(samples, shards.samples());
        assert!(start.elapsed() > 3 * deadline, "nothing was held up");
        assert_eq!(reader.check(&shards).unwrap(), 0);
    }
    bed.nothing_is_left(&fake);
}

/// After a sticky error every call fails: that is said once, nothing hangs, and nothing is freed under a copy.
#[test]
fn a_lost_device_is_named_and_nothing_hangs() {
    let (fake, _alone) = take();
    let bed = Bed::new(&fake);
    for (stalled, after) in [(false, 0), (true, 0), (false, 2), (true, 2)] {
        let device = Device::cuda(0).unwrap();
        let gpu = Gpu::of(&device).unwrap();
        let mut reader = Reader::new(&gpu, 2 << 20, 0).unwrap();
        let mut loader = bed.builder(&device).build().unwrap();
        let start = Instant::now();
        let mut epoch = loader.epoch(0);
        let mut batches = epoch.by_ref().take(after).map(Result::unwrap).collect::<Vec<_>>();
        if stalled {
            fake.stall();
        }
        batches.pop().into_iter().for_each(|batch| reader.take(batch, Release::Fenced).unwrap());
        fake.lose(719);
        let error = epoch.find_map(|batch| batch.and_then(|batch| batch.wait()).err()).unwrap();
        let text = error.to_string();
        assert!(matches!(error, Error::Device { code: 719, .. }) && text.contains("restart the process"), "{text}");
        let again = loader.epoch(1).next().unwrap().unwrap_err();
        assert!(matches!(again, Error::Device { code: 719, .. }), "{again}");
        batches.into_iter().for_each(|batch| assert!(reader.take(batch, Release::Fenced).is_err()));
        drop(loader);
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        // Work that was begun goes on, as on hardware, and finds its memory.
        fake.heal();
        reader.stream().synchronize().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(fake.misuse(), "", "stalled: {stalled}, after {after} batches");
    }
}
