//! Moves within device memory happen in the order of the stream, all of them, and to the byte.

use strait::plan::Move;
use strait::sim::Rng;

use super::*;

const SLAB: usize = 64 << 10;

/// The region: what a slab brings, and behind it what a gather makes of that.
struct Gathering {
    slabs: Arc<Slabs>,
    region: Region,
    queue: CopyQueue<Lease>,
}

impl Gathering {
    fn new(bed: &Bed, slabs: usize) -> Gathering {
        let (slabs, region) = (Slabs::new(&bed.device, slabs, SLAB), Region::new(&bed.device, 2 * SLAB));
        let mut queue = queue(bed, 8);
        assert_eq!(queue.ready_to_gather(), None);
        Gathering { slabs, region, queue }
    }

    /// Copies slab `index`, whose bytes are `value`, and counted on every 64 bytes.
    fn bring(&mut self, index: usize, value: u8) -> Vec<u8> {
        let mut lease = self.slabs.lease(index);
        let bytes: Vec<u8> = (0..SLAB).map(|i| value.wrapping_add((i / 64) as u8)).collect();
        lease.write(&bytes);
        copy(&mut self.queue, lease, self.region.at(0)).unwrap();
        bytes
    }

    fn gather(&mut self, index: usize, moves: &[Move]) -> strait::Result<Seq> {
        // SAFETY: tests keep the region until the queue is empty, or leak it; the moves lie in it, apart from each other.
        unsafe { self.queue.gather(self.slabs.lease(index), self.region.at(0), moves) }
    }
}

/// Pieces of the first half of the region, of any size and in any order, to the second half, one behind the other.
fn pieces(rng: &mut Rng) -> Vec<Move> {
    let mut target = SLAB as u64 + rng.below(100);
    let mut moves = Vec::new();
    loop {
        let bytes = 1 + rng.below(3000);
        if target + bytes > 2 * SLAB as u64 {
            return moves;
        }
        moves.push(Move { source: rng.below(SLAB as u64 - bytes), target, bytes });
        target += bytes;
    }
}

fn check(region: &Region, moves: &[Move], bytes: &[u8], what: &str) {
    for Move { source, target, bytes: len } in moves {
        let want = &bytes[*source as usize..(source + len) as usize];
        assert!(region.read(*target as usize, *len as usize) == want, "{what}: {len} bytes at {source}");
    }
}

/// Mutants that this catches: a gather that does not wait for the copies before it; a wrong offset in one row.
pub(super) fn between_the_copies_before_and_behind_it(bed: &Bed) {
    let mut rng = Rng::new(5);
    for round in 0..10 {
        let mut one = Gathering::new(bed, 4);
        let moves = pieces(&mut rng);
        one.bring(0, 1);
        let bytes = one.bring(1, 2 + round);
        one.gather(2, &moves).unwrap();
        let later = one.bring(3, 77);
        one.queue.drain(WAIT, drop).unwrap();
        assert_eq!(one.slabs.back(), 4, "leases come back");
        check(&one.region, &moves, &bytes, "before the next copy");
        assert!(one.region.read(0, SLAB) == later);
    }
}

/// Mutant that this catches: a seq from before the gather.
pub(super) fn a_consumer_waits_for_its_seq(bed: &Bed) {
    let mut rng = Rng::new(6);
    let mut one = Gathering::new(bed, 2);
    let moves = pieces(&mut rng);
    let bytes = one.bring(0, 9);
    let seq = one.gather(1, &moves).unwrap();
    let last = moves.last().unwrap();
    let want = &bytes[last.source as usize..(last.source + last.bytes) as usize];
    match &bed.consumer {
        Some(consumer) => {
            // SAFETY: the consumer's stream lives as long as the bed.
            unsafe { one.queue.timeline().wait_on(seq, consumer.stream()) }.unwrap();
            let read = consumer.read(one.region.at(last.target as usize), last.bytes as usize, 1);
            assert!(read() == want, "the consumer's stream ran ahead");
        }
        None => assert!(one.queue.timeline().wait(seq, WAIT).unwrap()),
    }
    check(&one.region, &moves, &bytes, "at the seq");
    one.queue.drain(WAIT, drop).unwrap();
}

pub(super) fn one_that_fails_gives_its_lease_back(bed: &Bed) {
    let Some(inject) = &bed.inject else { return };
    let mut rng = Rng::new(7);
    for fault in [Fault::GatherFails, Fault::MarkFails] {
        let mut one = Gathering::new(bed, 4);
        let moves = pieces(&mut rng);
        one.bring(0, 1);
        inject(fault);
        assert!(one.gather(1, &moves).is_err(), "{fault:?}");
        inject(Fault::None);
        assert_eq!(one.queue.in_flight() + one.slabs.back(), 2, "it may have begun");
        let bytes = one.bring(2, 3);
        one.gather(3, &moves).unwrap();
        one.queue.drain(WAIT, drop).unwrap();
        assert_eq!(one.slabs.back(), 4);
        check(&one.region, &moves, &bytes, "after a failure");
    }
}
