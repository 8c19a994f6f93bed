//! Device memory and pinned memory.

use super::*;

pub(super) fn allocated_aligned_and_freed(bed: &Bed) {
    for round in 0..20 {
        let regions = [1, 4096, 3 << 20].map(|bytes| Region::new(&bed.device, bytes));
        for region in &regions {
            assert_eq!(region.at(0) % 4096, 0, "round {round}");
        }
        let [a, b, c] = regions.each_ref().map(|region| region.at(0));
        assert!(a != b && b != c && a != c);
    }
}

pub(super) fn pinned_once(bed: &Bed) {
    let raw = bed.device.raw();
    let memory = vec![0u8; 1 << 20].into_boxed_slice();
    let base = NonNull::from(&*memory).cast();
    for _ in 0..3 {
        // SAFETY: `memory` outlives the pin, which is taken back before the end of the round.
        unsafe { raw.pin(base, memory.len()) }.unwrap();
        if bed.pins {
            // SAFETY: as above.
            let error = unsafe { raw.pin(base, memory.len()) }.unwrap_err();
            assert!(!error.to_string().is_empty());
        }
        // SAFETY: pinned above, nothing in flight.
        unsafe { raw.unpin(base) }.unwrap();
    }
}

pub(super) fn read_back(bed: &Bed) {
    let slabs = Slabs::new(&bed.device, 1, 8192);
    let region = Region::new(&bed.device, 8192);
    let mut queue = queue(bed, 1);
    let mut lease = slabs.lease(0);
    lease.fill(0x42);
    copy(&mut queue, lease, region.at(0)).unwrap();
    queue.drain(WAIT, drop).unwrap();
    assert!(all(&region.read(0, 8192), 0x42));
    assert!(all(&region.read(4095, 2), 0x42));
    assert!(region.read(1, 0).is_empty());
}
