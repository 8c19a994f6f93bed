//! Copies from the device to the host.

use super::*;

const SLAB: usize = 96 << 10;

pub(super) fn behind_the_copies_in(bed: &Bed) {
    let slabs = Slabs::new(&bed.device, 4, SLAB);
    let region = Region::new(&bed.device, 2 * SLAB);
    let mut queue = queue(bed, 4);
    let (mut first, mut second) = (slabs.lease(0), slabs.lease(1));
    first.fill(1);
    second.fill(2);
    copy(&mut queue, first, region.at(0)).unwrap();
    let early = slabs.lease(2);
    let whole = early.from(region.at(0), 0, SLAB);
    copy_out(&mut queue, early, [whole]).unwrap();
    // Overwritten behind the copy out, which must not see it.
    copy(&mut queue, second, region.at(0)).unwrap();
    let late = slabs.lease(3);
    let pieces = [late.from(region.at(7), 0, 1000), late.from(region.at(SLAB - 5), SLAB - 5, 5)];
    copy_out(&mut queue, late, pieces).unwrap();
    let mut back = Vec::new();
    queue.drain(WAIT, |lease| back.push(lease)).unwrap();
    assert_eq!(back.iter().map(|lease| lease.index).collect::<Vec<_>>(), [0, 2, 1, 3]);
    assert!(all(back[1].bytes(), 1), "a copy out overtook, or was overtaken");
    let bytes = back[3].bytes();
    assert!(all(&bytes[..1000], 2) && all(&bytes[SLAB - 5..], 2) && all(&bytes[1000..SLAB - 5], 0));
}

pub(super) fn late_and_inside_until_then(bed: &Bed) {
    let Some(inject) = &bed.inject else { return };
    let slabs = Slabs::new(&bed.device, 2, SLAB);
    let region = Region::new(&bed.device, SLAB);
    let mut queue = queue(bed, 2);
    let mut lease = slabs.lease(0);
    lease.fill(3);
    copy(&mut queue, lease, region.at(0)).unwrap();
    queue.drain(WAIT, drop).unwrap();
    inject(Fault::Stalls);
    let lease = slabs.lease(1);
    let whole = lease.from(region.at(0), 0, SLAB);
    let seq = copy_out(&mut queue, lease, [whole]).unwrap();
    assert!(!queue.wait_oldest(Duration::from_millis(20)).unwrap());
    assert!(!queue.timeline().wait(seq, Duration::from_millis(20)).unwrap());
    assert_eq!((queue.reap(drop).unwrap(), queue.in_flight(), slabs.back()), (0, 1, 1));
    inject(Fault::None);
    assert!(queue.wait_oldest(WAIT).unwrap());
    assert_eq!(queue.reap(|lease| assert!(all(lease.bytes(), 3))).unwrap(), 1);
}

pub(super) fn a_copy_that_fails(bed: &Bed) {
    let Some(inject) = &bed.inject else { return };
    for faulty in 0..3 {
        let slabs = Slabs::new(&bed.device, 4, SLAB);
        let region = Region::new(&bed.device, SLAB);
        let mut queue = queue(bed, 4);
        let mut lease = slabs.lease(3);
        lease.fill(5);
        copy(&mut queue, lease, region.at(0)).unwrap();
        for index in 0..3 {
            let lease = slabs.lease(index);
            let whole = lease.from(region.at(0), 0, SLAB);
            inject(if index == faulty { Fault::CopyOutFails } else { Fault::None });
            let result = copy_out(&mut queue, lease, [whole]);
            assert_eq!(result.is_err(), index == faulty, "copy {index}: {result:?}");
        }
        assert!(queue.in_flight() >= 3, "the lease of a failed copy stays inside");
        let good = |lease: Lease| assert!(lease.index == faulty || all(lease.bytes(), 5), "copy {}", lease.index);
        queue.drain(WAIT, good).unwrap();
        assert_eq!(slabs.back(), 4);
    }
}
