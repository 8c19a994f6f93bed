//! A fault is never taken for the end of a copy.

use super::*;

const SLAB: usize = 64 << 10;

pub(super) fn a_wait_ends_at_its_timeout(bed: &Bed) {
    let Some(inject) = &bed.inject else { return };
    let slabs = Slabs::new(&bed.device, 1, SLAB);
    let region = Region::new(&bed.device, SLAB);
    let mut queue = queue(bed, 1);
    inject(Fault::Stalls);
    let seq = copy(&mut queue, slabs.lease(0), region.at(0)).unwrap();
    let start = std::time::Instant::now();
    assert!(!queue.wait_oldest(Duration::from_millis(50)).unwrap());
    assert!(!queue.timeline().wait(seq, Duration::from_millis(50)).unwrap());
    let error = queue.drain(Duration::from_millis(50), drop).unwrap_err();
    assert!(start.elapsed() < WAIT, "a wait took {:?} too long", start.elapsed());
    assert!(error.to_string().contains("1 of 1"), "{error}");
    assert_eq!((queue.reap(drop).unwrap(), queue.in_flight(), slabs.back()), (0, 1, 0));
    inject(Fault::None);
    queue.drain(WAIT, drop).unwrap();
    assert_eq!(slabs.back(), 1);
}

pub(super) fn a_copy_that_fails(bed: &Bed) {
    comes_back_after(bed, Fault::CopyFails);
}

pub(super) fn a_mark_that_fails(bed: &Bed) {
    comes_back_after(bed, Fault::MarkFails);
}

/// The lease stays inside, because its copy may have started; a later mark brings it back.
fn comes_back_after(bed: &Bed, fault: Fault) {
    let Some(inject) = &bed.inject else { return };
    for faulty in 0..3 {
        let slabs = Slabs::new(&bed.device, 3, SLAB);
        let region = Region::new(&bed.device, 3 * SLAB);
        let mut queue = queue(bed, 3);
        for index in 0..3 {
            let mut lease = slabs.lease(index);
            lease.fill(index as u8 + 1);
            inject(if index == faulty { fault } else { Fault::None });
            let result = copy(&mut queue, lease, region.at(index * SLAB));
            assert_eq!(result.is_err(), index == faulty, "{fault:?}: copy {index}: {result:?}");
            assert_eq!(queue.in_flight(), index + 1);
        }
        queue.drain(WAIT, drop).unwrap();
        assert_eq!(slabs.back(), 3);
        for index in (0..3).filter(|&index| index != faulty) {
            assert!(all(&region.read(index * SLAB, SLAB), index as u8 + 1), "{fault:?}: copy {index}");
        }
    }
}

pub(super) fn a_lost_device_gives_nothing_back(bed: &Bed) {
    let Some(inject) = &bed.inject else { return };
    let slabs = Slabs::new(&bed.device, 3, SLAB);
    let region = Region::new(&bed.device, SLAB);
    let mut queue = queue(bed, 3);
    let seq = copy(&mut queue, slabs.lease(0), region.at(0)).unwrap();
    inject(Fault::Lost);
    assert!(copy(&mut queue, slabs.lease(1), region.at(0)).is_err());
    assert!(queue.reap(drop).is_err());
    assert!(queue.wait_oldest(WAIT).is_err());
    assert!(queue.timeline().wait(seq, WAIT).is_err());
    assert!(queue.drain(WAIT, drop).is_err());
    assert_eq!((queue.in_flight(), slabs.back()), (2, 0), "an error was taken for the end of a copy");
    drop(queue);
    assert_eq!(slabs.back(), 0, "the leases of a lost device are leaked");
    region.leak();
    inject(Fault::None);
}

pub(super) fn drop_waits_for_the_copies(bed: &Bed) {
    let slabs = Slabs::new(&bed.device, 8, 1 << 20);
    let region = Region::new(&bed.device, 8 << 20);
    let mut queue = queue(bed, 8);
    for index in 0..8 {
        let mut lease = slabs.lease(index);
        lease.fill(index as u8 + 1);
        copy(&mut queue, lease, region.at(index << 20)).unwrap();
    }
    drop(queue);
    assert_eq!(slabs.back(), 8);
    for index in 0..8 {
        assert!(all(&region.read(index << 20, 1 << 20), index as u8 + 1));
    }
}
