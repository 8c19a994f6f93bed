//! Copies happen in order, and nothing is said to be reached before it is.

use super::*;

const SLAB: usize = 256 << 10;

pub(super) fn later_copies_win(bed: &Bed) {
    let slabs = Slabs::new(&bed.device, 8, SLAB);
    let region = Region::new(&bed.device, SLAB);
    let mut queue = queue(bed, 8);
    let mut last = Seq(0);
    for index in 0..8 {
        let mut lease = slabs.lease(index);
        lease.fill(index as u8 + 1);
        let seq = copy(&mut queue, lease, region.at(0)).unwrap();
        assert!(seq > last, "{seq:?} after {last:?}");
        last = seq;
    }
    let mut order = Vec::new();
    queue.drain(WAIT, |lease| order.push(lease.index)).unwrap();
    assert_eq!(order, (0..8).collect::<Vec<_>>());
    assert!(all(&region.read(0, SLAB), 8));
}

pub(super) fn several_copies_under_one_lease(bed: &Bed) {
    let slabs = Slabs::new(&bed.device, 1, SLAB);
    let region = Region::new(&bed.device, SLAB);
    let mut queue = queue(bed, 1);
    let mut lease = slabs.lease(0);
    lease.fill(9);
    let half = lease.to(region.at(0)).bytes / 2;
    let first = RawCopy { bytes: half, ..lease.to(region.at(half)) };
    let second = RawCopy { bytes: half, ..lease.to(region.at(0)) };
    // SAFETY: as for `copy`.
    unsafe { queue.copy_all(lease, [first, second]) }.unwrap();
    queue.drain(WAIT, drop).unwrap();
    assert_eq!(slabs.back(), 1);
    assert!(all(&region.read(0, SLAB), 9));
}

/// The rows of a part of a matrix, and the copy that stands behind them.
pub(super) fn rows_land_one_after_another(bed: &Bed) {
    const ROWS: usize = 300;
    let slabs = Slabs::new(&bed.device, 1, 64 << 10);
    let region = Region::new(&bed.device, 64 << 10);
    let mut queue = queue(bed, 1);
    let mut lease = slabs.lease(0);
    let bytes: Vec<u8> = (0..64 << 10).map(|i: u32| (i * i / 7) as u8).collect();
    lease.write(&bytes);
    let (stride, row_bytes) = (200, 33);
    let source = lease.to(region.at(0)).source;
    let rows = RawRows { source, source_stride: stride, target: region.at(64), row_bytes, rows: ROWS };
    let last = RawCopy { bytes: 7, ..lease.to(region.at(64 + ROWS * row_bytes)) };
    // SAFETY: as for `copy`; the last row ends inside the slab.
    unsafe { queue.copy_all(lease, [rows, last.into()]) }.unwrap();
    queue.drain(WAIT, drop).unwrap();
    let mut want: Vec<u8> = (0..ROWS).flat_map(|row| bytes[row * stride..][..row_bytes].iter().copied()).collect();
    want.extend(&bytes[..7]);
    assert!(region.read(64, want.len()) == want, "rows are not where they belong");
}

/// What the engine does: a slab is written again as soon as it comes back, and no sooner.
pub(super) fn slabs_are_reused_after_their_seq(bed: &Bed) {
    const COPIES: usize = 200;
    let slabs = Slabs::new(&bed.device, 4, 64 << 10);
    let region = Region::new(&bed.device, COPIES * slabs.slab_bytes);
    let mut queue = queue(bed, 4);
    let mut free: Vec<Lease> = (0..4).map(|index| slabs.lease(index)).collect();
    for n in 0..COPIES {
        while free.is_empty() {
            assert!(queue.wait_oldest(WAIT).unwrap(), "copy {n}: the oldest did not end");
            assert!(queue.reap(|lease| free.push(lease)).unwrap() > 0, "waited for, and not there");
        }
        let mut lease = free.pop().unwrap();
        lease.fill(n as u8);
        copy(&mut queue, lease, region.at(n * slabs.slab_bytes)).unwrap();
        assert_eq!(queue.in_flight() + free.len(), 4);
        // The bytes of what was reached are there, whatever is still in flight.
        if let Some(done) = n.checked_sub(4) {
            assert_eq!(region.read(done * slabs.slab_bytes, 1), [done as u8]);
        }
    }
    queue.drain(WAIT, |lease| free.push(lease)).unwrap();
    assert_eq!(free.len(), 4);
    for n in 0..COPIES {
        assert!(all(&region.read(n * slabs.slab_bytes, slabs.slab_bytes), n as u8), "copy {n}");
    }
}

/// Tests the bed: a source that changes while its copy is in flight delivers wrong bytes.
pub(super) fn a_slab_reused_too_early_shows(bed: &Bed) {
    if !bed.late {
        return;
    }
    let slabs = Slabs::new(&bed.device, 1, SLAB);
    let region = Region::new(&bed.device, SLAB);
    let mut stream = bed.device.raw().stream().unwrap();
    let mut lease = slabs.lease(0);
    lease.fill(1);
    let copy = lease.to(region.at(0));
    // SAFETY: broken on purpose: the source changes. It stays allocated and pinned, and the device treats it as bytes.
    unsafe { stream.copy(copy.source, copy.target, copy.bytes) }.unwrap();
    lease.fill(2);
    let seq = stream.mark().unwrap();
    assert!(stream.wait(seq, WAIT).unwrap() >= seq);
    assert!(region.read(0, SLAB).contains(&2), "the bed did not show a source that was reused too early");
    let objections = (bed.objections)();
    let said = objections.iter().filter(|text| text.contains("source changed while it was in flight")).count();
    assert_eq!((said, objections.len()), (usize::from(bed.compares), said), "{objections:?}");
}

pub(super) fn a_fence_holds_the_refill_back(bed: &Bed) {
    let Some(consumer) = &bed.consumer else { return };
    let slabs = Slabs::new(&bed.device, 2, SLAB);
    let region = Region::new(&bed.device, SLAB);
    let mut queue = queue(bed, 2);
    let fence = bed.device.raw().fence().unwrap();
    queue.wait_fence(fence).unwrap(); // not recorded yet: nothing to wait for

    let (mut old, mut new) = (slabs.lease(0), slabs.lease(1));
    old.fill(1);
    new.fill(2);
    let seq = copy(&mut queue, old, region.at(0)).unwrap();
    // SAFETY: the consumer's stream lives as long as the bed.
    unsafe { queue.timeline().wait_on(seq, consumer.stream()) }.unwrap();
    let read = consumer.read(region.at(0), SLAB, 16);
    // SAFETY: as above.
    unsafe { bed.device.raw().record(fence, consumer.stream()) }.unwrap();
    queue.wait_fence(fence).unwrap();
    copy(&mut queue, new, region.at(0)).unwrap();
    queue.drain(WAIT, drop).unwrap();
    assert!(all(&read(), 1), "the refill overtook the consumer");
    assert!(all(&region.read(0, SLAB), 2));
}

pub(super) fn a_consumer_waits_for_a_seq(bed: &Bed) {
    let Some(consumer) = &bed.consumer else { return };
    let slabs = Slabs::new(&bed.device, 8, SLAB);
    let region = Region::new(&bed.device, SLAB);
    let mut queue = queue(bed, 8);
    let mut last = Seq(0);
    for index in 0..8 {
        let mut lease = slabs.lease(index);
        lease.fill(index as u8 + 1);
        last = copy(&mut queue, lease, region.at(0)).unwrap();
    }
    let timeline = queue.timeline();
    // SAFETY: the consumer's stream lives as long as the bed.
    unsafe { timeline.wait_on(Seq(0), consumer.stream()) }.unwrap();
    // SAFETY: as above.
    unsafe { timeline.wait_on(last, consumer.stream()) }.unwrap();
    assert!(all(&consumer.read(region.at(0), SLAB, 1)(), 8), "the consumer's stream ran ahead");
    queue.drain(WAIT, drop).unwrap();
}

pub(super) fn another_thread_waits_for_a_seq(bed: &Bed) {
    let slabs = Slabs::new(&bed.device, 4, SLAB);
    let region = Region::new(&bed.device, SLAB);
    let mut queue = queue(bed, 4);
    for round in 0..50 {
        let mut lease = slabs.lease(0);
        lease.fill(round);
        let seq = copy(&mut queue, lease, region.at(0)).unwrap();
        let timeline = queue.timeline();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert!(timeline.wait(seq, WAIT).unwrap());
                assert!(all(&region.read(0, SLAB), round), "round {round}: reached before the bytes were there");
            });
        });
        assert_eq!(queue.reap(drop).unwrap(), 1, "a consumer saw it reached, so the queue does");
    }
}
