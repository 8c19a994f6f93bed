//! Correct programs: every byte is right, whatever is late, and the stand-in has nothing to object to.

use std::time::{Duration, Instant};

use strait::order::Shuffle;
use strait::sim::Rng;
use strait::{Device, Loader, RingChoice};

use super::Bed;
use crate::check::cuda::{Gpu, is_stand_in};
use crate::check::exact;
use crate::check::gather;
use crate::check::race::{self, Load};
use crate::check::reader::{Reader, Release};
use crate::check::shards::{Shards, Source};
use crate::check::weights;
use crate::stand_in::take;

#[test]
fn every_byte_of_every_shape_is_the_shards() {
    let (fake, _alone) = take();
    let bed = Bed::new(&fake);
    {
        let device = Device::cuda(0).unwrap();
        assert!(is_stand_in(), "a real driver was found in place of the stand-in");
        let gpu = Gpu::of(&device).unwrap();
        let mut bytes = 0;
        for seed in 0..40 {
            // At once, late, or as slow as a bus that cannot keep up with the storage.
            let (latency_us_max, bytes_per_ms) = [(0, 0), (300, 0), (50, 256 << 10)][seed as usize % 3];
            fake.pace(seed, latency_us_max, bytes_per_ms);
            let exact_bed =
                exact::Bed { device: &device, gpu: &gpu, source: &bed.source, directory: bed.path(), ring: None };
            bytes += exact::check(&exact_bed, seed).unwrap().bytes;
            assert_eq!(fake.misuse(), "", "seed {seed}");
        }
        assert!(bytes > 8 << 20, "{bytes} bytes are not much of a check");
    }
    bed.nothing_is_left(&fake);
}

#[test]
fn arrays_of_rows_at_odd_places() {
    let (fake, _alone) = take();
    let bed = Bed::new(&fake);
    let source = Source::new(8 << 20);
    fake.pace(3, 300, 0);
    let found = gather::check(&Device::cuda(0).unwrap(), &source, bed.path()).unwrap();
    assert!(found.contains("gathered by the kernel"), "{found}");
    bed.nothing_is_left(&fake);
}

#[test]
fn tensors_of_a_checkpoint() {
    let (fake, _alone) = take();
    let bed = Bed::new(&fake);
    fake.pace(4, 300, 0);
    let source = Source::new(16 << 20);
    weights::check(&Device::cuda(0).unwrap(), &source, bed.path(), RingChoice::Auto).unwrap();
    bed.nothing_is_left(&fake);
}

/// Two consumers' streams, much slower than the loader's.
fn race(release: Release, late_us: u64) -> (race::Tally, String) {
    let (fake, _alone) = take();
    let bed = Bed::new(&fake);
    let (tally, misuse);
    {
        let device = Device::cuda(0).unwrap();
        let gpu = Gpu::of(&device).unwrap();
        let mut readers = [(); 2].map(|()| Reader::new(&gpu, 1 << 20, 0).unwrap());
        readers.iter().for_each(|reader| fake.late(reader.stream().raw(), late_us));
        let load = Load { record: 4096, batch: 16, epochs: 3, ring: RingChoice::Auto };
        tally = race::turn_over(&device, &bed.source, bed.path(), &mut readers, load, release).unwrap();
        misuse = fake.misuse();
        fake.heal();
    }
    bed.nothing_is_left(&fake);
    (tally, misuse)
}

#[test]
fn memory_is_used_again_only_behind_the_streams_that_read_it() {
    for late_us in [0, 500, 10_000] {
        let (tally, misuse) = race(Release::Fenced, late_us);
        assert!(tally.wrong == 0 && tally.samples > 300, "{tally:?}");
        assert_eq!(misuse, "");
    }
    // Without the fence the same race is lost: the test can tell.
    let (tally, misuse) = race(Release::TooEarly, 20_000);
    assert!(tally.wrong > tally.samples / 2, "{tally:?}");
    assert!(misuse.contains("in no order"), "{misuse}");
}

/// A batch without a byte has no region for a stream to use. Its fence, if it were set, would be that of an earlier
/// batch, whose region a slower stream still uses.
#[test]
fn a_batch_without_bytes_leaves_fences_alone() {
    let (fake, _alone) = take();
    let bed = Bed::new(&fake);
    {
        let device = Device::cuda(0).unwrap();
        let gpu = Gpu::of(&device).unwrap();
        let mut readers = [(); 2].map(|()| Reader::new(&gpu, 1 << 20, 0).unwrap());
        fake.late(readers[0].stream().raw(), 5000);
        let samples = (0..60).map(|i| vec![("bin", if i % 3 == 0 { 6000 } else { 0 })]).collect();
        let shards = Shards::tars(&bed.source, bed.path(), &mut Rng::new(1), &[samples]).unwrap();
        let builder = Loader::builder(shards.dataset.clone()).device(device);
        let mut loader = builder.batch_size(1).prefetch(1).hold(1).region_bytes(16 << 10).build().unwrap();
        for batch in loader.epoch(0) {
            let batch = batch.unwrap();
            let empty = usize::from(batch.region_bytes() == 0);
            readers[empty].take(batch, Release::Fenced).unwrap();
        }
        let wrong: usize = readers.iter_mut().map(|reader| reader.check(&shards).unwrap()).sum();
        assert_eq!((wrong, fake.misuse().as_str()), (0, ""));
    }
    bed.nothing_is_left(&fake);
}

/// A batch has one fence for all its lives. Its second region lies elsewhere, and a quick stream uses that; then the fence
/// says nothing of the first region any more, which a slow stream still reads.
///
/// Mutant that this catches: a batch that does not wait for its own fence before it is filled anew.
#[test]
fn a_region_is_filled_behind_its_reader_though_the_fence_has_moved_on() {
    let (fake, _alone) = take();
    let bed = Bed::new(&fake);
    {
        let device = Device::cuda(0).unwrap();
        let gpu = Gpu::of(&device).unwrap();
        let [mut slow, mut quick] = [(); 2].map(|()| Reader::new(&gpu, 1 << 20, 0).unwrap());
        fake.late(slow.stream().raw(), 30_000);
        // The third does not fit where the first was, and the fourth does.
        let samples = [100_000, 100_000, 500_000, 60_000].map(|bytes| vec![("bin", bytes)]).to_vec();
        let shards = Shards::tars(&bed.source, bed.path(), &mut Rng::new(1), &[samples]).unwrap();
        let builder = Loader::builder(shards.dataset.clone()).device(device).shuffle(Shuffle::Sequential);
        let mut loader = builder.batch_size(1).prefetch(1).hold(1).region_bytes(1 << 20).build().unwrap();
        let mut epoch = loader.epoch(0).map(Result::unwrap);
        let (first, second) = (epoch.next().unwrap(), epoch.next().unwrap());
        let place = first.device_ptr();
        slow.take(first, Release::Fenced).unwrap();
        let third = epoch.next().unwrap();
        assert!(third.device_ptr() > second.device_ptr());
        quick.take(third, Release::Fenced).unwrap();
        let fourth = epoch.next().unwrap();
        assert_eq!(fourth.device_ptr(), place);
        quick.take(fourth, Release::Fenced).unwrap();
        let wrong = [slow, quick].map(|mut reader| reader.check(&shards).unwrap());
        assert_eq!((wrong, fake.misuse().as_str()), ([0, 0], ""));
        drop(second);
    }
    bed.nothing_is_left(&fake);
}

/// A consumer's stream that is quick meets copies that are not there yet.
#[test]
fn a_consumers_stream_waits_for_the_copies() {
    let (fake, _alone) = take();
    let bed = Bed::new(&fake);
    {
        let device = Device::cuda(0).unwrap();
        let gpu = Gpu::of(&device).unwrap();
        let mut reader = Reader::new(&gpu, 2 << 20, 0).unwrap();
        fake.pace(1, 8000, 64 << 10);
        fake.late(reader.stream().raw(), 1);
        let shards = bed.shards();
        let mut loader = bed.builder(&device).build().unwrap();
        let mut late = 0;
        for batch in loader.epoch(0) {
            let batch = batch.unwrap();
            assert!(batch.seq().0 > 0);
            if !reader.has_room(&batch) {
                assert_eq!(reader.check(&shards).unwrap(), 0);
            }
            let before = Instant::now();
            reader.take(batch, Release::Fenced).unwrap();
            // Not blocked: the copies of a batch take about 20 ms.
            late += usize::from(before.elapsed() < Duration::from_millis(5));
        }
        assert!(late > 0, "every batch was waited for on the host");
        assert_eq!(reader.check(&shards).unwrap(), 0);
    }
    bed.nothing_is_left(&fake);
}

#[test]
fn auto_takes_the_first_device_and_says_so() {
    let (fake, _alone) = take();
    let bed = Bed::new(&fake);
    {
        let shards = bed.shards();
        let mut loader = Loader::builder(shards.dataset.clone()).build().unwrap();
        let batches = loader.epoch(0).map(|batch| batch.unwrap().len()).sum::<usize>();
        assert_eq!(batches, shards.samples());
        let stats = loader.stats();
        assert_eq!(stats.device, "cuda:0 (stand-in 0)");
        assert_eq!((stats.path, Device::auto().name().as_str()), ("staged", "cuda:0 (stand-in 0)"));
        assert_eq!(stats.path_reason, "the ring cannot write into this device's memory (cuda:0 (stand-in 0))");
        assert!(stats.pinned_bytes_max > 0 && stats.pinned_bytes_max <= 256 << 20, "{}", stats.pinned_bytes_max);
        assert!(stats.bytes_copied >= stats.bytes_wanted);
    }
    bed.nothing_is_left(&fake);
}

#[test]
fn two_devices_at_once() {
    let (fake, _alone) = take();
    let bed = Bed::new(&fake);
    {
        fake.pace(5, 200, 0);
        let shards = bed.shards();
        let mut sides: Vec<_> = (0..2)
            .map(|ordinal| {
                let device = Device::cuda(ordinal).unwrap();
                let reader = Reader::new(&Gpu::of(&device).unwrap(), 2 << 20, 0).unwrap();
                let loader = bed.builder(&device).shuffle(Shuffle::Full).seed(ordinal.into()).build().unwrap();
                assert_eq!(loader.stats().device, format!("cuda:{ordinal} (stand-in {ordinal})"));
                (loader, reader)
            })
            .collect();
        let [(first, first_reader), (second, second_reader)] = &mut sides[..] else { unreachable!() };
        let mut samples = [0, 0];
        for (one, other) in first.epoch(0).zip(second.epoch(0)) {
            for (side, reader, batch) in [(0, &mut *first_reader, one), (1, &mut *second_reader, other)] {
                let batch = batch.unwrap();
                samples[side] += batch.len();
                if !reader.has_room(&batch) {
                    assert_eq!(reader.check(&shards).unwrap(), 0);
                }
                reader.take(batch, Release::Fenced).unwrap();
            }
        }
        assert_eq!(samples, [shards.samples(); 2]);
        assert_eq!(first_reader.check(&shards).unwrap() + second_reader.check(&shards).unwrap(), 0);
    }
    bed.nothing_is_left(&fake);
}

/// However many samples lie in a slab, it takes one call.
///
/// Mutant that this catches: slabs that are copied by halves.
#[test]
fn a_slab_is_one_copy() {
    let (fake, _alone) = take();
    let bed = Bed::new(&fake);
    {
        let mut loader = bed.builder(&Device::cuda(0).unwrap()).shuffle(Shuffle::Sequential).build().unwrap();
        let calls = || ["cuMemcpyHtoDAsync_v2", "cuMemcpyBatchAsync"].map(|symbol| fake.calls(symbol));
        let before = calls();
        let slabs: u64 = loader.epoch(0).map(|batch| batch.unwrap().region_bytes().div_ceil(16 << 10)).sum();
        let [alone, together] = calls();
        assert_eq!((alone - before[0], together - before[1]), (slabs, 0));
        assert!(slabs > 10);
    }
    bed.nothing_is_left(&fake);
}

/// Mutant that this catches: a refusal that is logged and not kept in the stats.
#[test]
fn copies_that_are_not_taken_together_are_a_fallback() {
    let (fake, _alone) = take();
    let bed = Bed::new(&fake);
    {
        let bytes = 64 << 10;
        let shards = Shards::records(&bed.source, bed.path(), &mut Rng::new(3), bytes, 40 * bytes).unwrap();
        for refused in [false, true] {
            if refused {
                fake.fail("cuMemcpyBatchAsync", 1, 801, false);
            }
            let builder = Loader::builder(shards.dataset.clone()).device(Device::cuda(0).unwrap()).batch_size(8);
            let builder = builder.array("record", strait::DType::U8, &[bytes as u64]).shuffle(Shuffle::Full);
            let mut loader = builder.ring(RingChoice::Pread).build().unwrap();
            assert!(loader.epoch(0).all(|batch| batch.is_ok()));
            let stats = loader.stats();
            assert!(stats.bytes_gathered == 0 && stats.bytes_copied > 0, "these are to be placed by their copies");
            let one_by_one = stats.fallbacks.iter().filter(|fallback| fallback.instead.contains("one by one"));
            assert_eq!(one_by_one.count(), usize::from(refused), "{:?}", stats.fallbacks);
        }
    }
    bed.nothing_is_left(&fake);
}
