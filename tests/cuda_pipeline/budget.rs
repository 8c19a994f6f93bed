//! What a loader asks of the driver: each call takes the context's lock, which the consumer's thread wants for its kernels.

use std::time::{Duration, Instant};

use strait::order::Shuffle;
use strait::{Device, Loader};

use super::Bed;
use crate::stand_in::{Fake, take};

/// Calls of some functions, together.
fn calls(fake: &Fake, symbols: &[&str]) -> u64 {
    symbols.iter().map(|symbol| fake.calls(symbol)).sum()
}

const CONTEXT: [&str; 3] = ["cuCtxPushCurrent_v2", "cuCtxPopCurrent_v2", "cuThreadExchangeStreamCaptureMode"];
/// All else that an epoch may call, but for looks, `cuEventCreate`, with the first marks, and `cuCtxGetCurrent`, which reads a
/// variable of the thread's.
const OTHERS: [&str; 12] = [
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyBatchAsync",
    "cuMemcpy2DAsync_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuEventRecord",
    "cuStreamWaitEvent",
    "cuStreamIsCapturing",
    "cuStreamSynchronize",
    "cuLaunchKernel",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
];

/// Reads an epoch in order, and gives each batch back as it comes; the number of its slabs.
fn epoch(loader: &mut Loader, number: u64) -> u64 {
    loader.epoch(number).map(|batch| batch.unwrap().region_bytes().div_ceil(16 << 10)).sum()
}

/// A slab is a copy, a mark, and a look or two whether that is reached; what is current on the engine's thread stays so.
///
/// Mutants that this catches: a context that is pushed for each call; a stream that is marked twice for each slab.
#[test]
fn a_slab_takes_a_copy_a_mark_and_a_look() {
    let (fake, _alone) = take();
    let bed = Bed::new(&fake);
    {
        let mut loader = bed.builder(&Device::cuda(0).unwrap()).shuffle(Shuffle::Sequential).build().unwrap();
        epoch(&mut loader, 0);
        let (context, others) = (calls(&fake, &CONTEXT), calls(&fake, &OTHERS));
        let mut looks = Vec::new();
        let slabs: u64 = (1..9)
            .map(|number| {
                let (before, slabs) = (fake.calls("cuEventQuery"), epoch(&mut loader, number));
                looks.push((fake.calls("cuEventQuery") - before).div_ceil(slabs));
                slabs
            })
            .sum();
        assert_eq!(calls(&fake, &CONTEXT) - context, 0, "{slabs} slabs");
        assert_eq!(calls(&fake, &OTHERS) - others, 2 * slabs, "{slabs} slabs");
        // One that is reached, and, in each turn that has something under way, one that is not; more where the stand-in is slow.
        assert!(looks.iter().any(|&looks| looks <= 6), "{looks:?} looks for a slab, in each epoch");
    }
    bed.nothing_is_left(&fake);
}

/// Copies behind a consumer's fence wait for as long as its kernels take, which is most of a training step; they are looked at
/// a thousand times a second at most.
///
/// Mutant that this catches: looks that are as close together after a second as at first.
#[test]
fn copies_that_do_not_end_are_looked_at_seldom() {
    const WINDOW: Duration = Duration::from_millis(600);
    let (fake, _alone) = take();
    let bed = Bed::new(&fake);
    {
        let mut loader = bed.builder(&Device::cuda(0).unwrap()).build().unwrap();
        fake.stall();
        let mut epoch = loader.epoch(0);
        let batch = epoch.next().unwrap().unwrap();
        let looks = || fake.calls("cuEventQuery");
        // Until nothing is left to read into: the engine has copies to wait for, and nothing else.
        let mut copies = u64::MAX;
        while std::mem::replace(&mut copies, fake.calls("cuMemcpyHtoDAsync_v2")) != copies {
            std::thread::sleep(WINDOW / 6);
        }
        let (before, start) = (looks(), Instant::now());
        std::thread::sleep(WINDOW);
        let most = start.elapsed().as_millis() as u64 * 3 / 2;
        assert!((1..most).contains(&(looks() - before)), "{} looks of the engine's", looks() - before);
        // A consumer's own wait is no other.
        let waiter = std::thread::spawn(move || batch.wait());
        let (before, start) = (looks(), Instant::now());
        std::thread::sleep(WINDOW);
        let most = start.elapsed().as_millis() as u64 * 3 / 2;
        assert!(looks() - before < 2 * most, "{} looks of the consumer's and the engine's", looks() - before);
        fake.heal();
        waiter.join().unwrap().unwrap();
    }
    bed.nothing_is_left(&fake);
}
