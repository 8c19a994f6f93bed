//! Consumers that capture a stream into a graph, beside a loader, or with its batches in hand.

use std::ffi::c_int;
use std::rc::Rc;

use strait::order::Shuffle;
use strait::{DType, Device, Error};

use super::{Bed, RECORD};
use crate::check::Outcome;
use crate::check::cuda::{ConsumerStream, Gpu, Handle, cuda};
use crate::stand_in::take;

/// `CU_STREAM_CAPTURE_MODE_GLOBAL`, which is PyTorch's, and `.._THREAD_LOCAL`.
const MODES: [c_int; 2] = [0, 1];

fn begin(gpu: &Rc<Gpu>, stream: &ConsumerStream, mode: c_int) -> Outcome {
    // SAFETY: the types are those of cuda.h; the stream is live.
    gpu.within(|| unsafe { cuda!(cuStreamBeginCapture_v2(Handle = stream.raw().0, c_int = mode)) })
}

/// An error if somebody has ended it before.
fn end(gpu: &Rc<Gpu>, stream: &ConsumerStream) -> Outcome {
    let mut graph = std::ptr::null_mut();
    // SAFETY: the types are those of cuda.h; the place is writable.
    gpu.within(|| unsafe { cuda!(cuStreamEndCapture(Handle = stream.raw().0, *mut Handle = &mut graph)) })
}

/// Opened, filled, read and dropped on the thread that captures, and on its engine's.
#[test]
fn a_loader_leaves_captures_of_other_streams_alone() {
    let (fake, _alone) = take();
    let bed = Bed::new(&fake);
    for mode in MODES {
        let device = Device::cuda(0).unwrap();
        let gpu = Gpu::of(&device).unwrap();
        let stream = ConsumerStream::new(&gpu).unwrap();
        begin(&gpu, &stream, mode).unwrap();
        fake.pace(mode as u64, 300, 1 << 20);
        let typed = bed.builder(&Device::cuda(0).unwrap()).array("record", DType::U8, &[RECORD as u64]);
        let mut loader = typed.shuffle(Shuffle::Full).build().unwrap();
        let mut bytes = Vec::new();
        for batch in loader.epoch(0).map(Result::unwrap) {
            batch.wait().unwrap();
            batch.field("record").unwrap().read_back(0, &mut bytes).unwrap();
        }
        drop((loader, device));
        assert_eq!(fake.misuse(), "", "mode {mode}");
        end(&gpu, &stream).unwrap();
        drop((stream, gpu));
        bed.nothing_is_left(&fake);
    }
}

/// A graph runs later, and again: it can neither wait for a batch nor say when it has done with one.
#[test]
fn batches_are_not_drawn_into_graphs() {
    let (fake, _alone) = take();
    let bed = Bed::new(&fake);
    let device = Device::cuda(0).unwrap();
    let gpu = Gpu::of(&device).unwrap();
    let stream = ConsumerStream::new(&gpu).unwrap();
    let mut loader = bed.builder(&device).build().unwrap();
    fake.pace(1, 20_000, 1 << 20);
    let mut epoch = loader.epoch(0);
    let [first, second] = [epoch.next().unwrap().unwrap(), epoch.next().unwrap().unwrap()];
    begin(&gpu, &stream, 0).unwrap();
    let refused = |result: Result<(), Error>| {
        let error = result.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::Device { code: 900, .. }) && text.contains("into a graph"), "{text}");
    };
    // SAFETY: the stream is live and of the loader's device; nothing on it uses the batch.
    refused(unsafe { second.wait_on(stream.raw()) });
    second.wait().unwrap();
    // SAFETY: as above.
    unsafe { second.wait_on(stream.raw()) }.expect("there is nothing left to wait for");
    // SAFETY: as above.
    refused(unsafe { first.release_on(stream.raw()) });
    end(&gpu, &stream).unwrap();
    // SAFETY: as above.
    unsafe { second.release_on(stream.raw()) }.unwrap();
    assert!(epoch.all(|batch| batch.unwrap().wait().is_ok()), "the loader goes on with the other regions");
    assert_eq!(fake.misuse(), "");
}
