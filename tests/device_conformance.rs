//! The conformance suite over the devices of this machine, and over the simulated one.

mod device_suite;

use std::cell::Cell;
#[cfg(feature = "cuda")]
use std::io::Write;
use std::sync::Arc;

use device_suite::{Bed, Consumer, Fault};
use strait::Device;
use strait::device::{DevicePtr, RawStream, SimDevice, SimFaults, SimRead};
use strait::sim::Clock;

#[test]
fn host() {
    device_suite::run(&|| Bed {
        device: Device::host(),
        consumer: None,
        late: false,
        pins: false,
        inject: None,
        objections: Box::new(Vec::new),
        compares: false,
    });
}

#[test]
fn sim() {
    for seed in 0..50 {
        println!("seed {seed}");
        device_suite::run(&|| sim_bed(seed));
    }
}

/// A real CUDA device, where there is one.
#[test]
#[cfg(feature = "cuda")]
fn cuda() {
    if let Err(reason) = Device::cuda(0) {
        // Past the harness's capture: what was not tested is said aloud.
        let _ = writeln!(std::io::stderr(), "device_conformance: SKIPPED the suite over a real CUDA device: {reason}");
        return;
    }
    device_suite::run(&|| Bed {
        device: Device::cuda(0).unwrap(),
        consumer: Some(Box::new(device_suite::cuda::CudaConsumer::new())),
        late: false,
        pins: true,
        inject: None,
        objections: Box::new(Vec::new),
        compares: false,
    });
}

fn sim_bed(seed: u64) -> Bed {
    let sim = Arc::new(SimDevice::new(seed, Clock::simulated()));
    Bed {
        device: Device::new(sim.clone()),
        consumer: Some(Box::new(SimConsumer { sim: sim.clone(), stream: sim.consumer_stream() })),
        late: true,
        pins: true,
        inject: Some(Box::new({
            let sim = sim.clone();
            move |fault| sim.set_faults(faults(fault, &sim))
        })),
        objections: Box::new({
            let told = Cell::new(0);
            move || {
                sim.settle();
                let all = sim.violations();
                all[told.replace(all.len())..].to_vec()
            }
        }),
        compares: true,
    }
}

fn faults(fault: Fault, sim: &SimDevice) -> SimFaults {
    let next = sim.copies_started() + 1;
    match fault {
        Fault::None => SimFaults::default(),
        Fault::CopyFails | Fault::CopyOutFails | Fault::GatherFails => {
            SimFaults { copy_fails: Some(next), ..SimFaults::default() }
        }
        Fault::MarkFails => SimFaults { mark_fails: Some(next), ..SimFaults::default() },
        Fault::Stalls => SimFaults { stalls: Some(next), ..SimFaults::default() },
        Fault::Lost => SimFaults { lost: Some(next), ..SimFaults::default() },
    }
}

/// Tests the bed: memory that a copy out still writes to is not to be touched.
#[test]
fn a_target_touched_in_flight_shows() {
    for seed in 0..20 {
        let sim = Arc::new(SimDevice::new(seed, Clock::simulated()));
        let device = Device::new(sim.clone());
        let slabs = device_suite::Slabs::new(&device, 1, 8192);
        let region = device_suite::Region::new(&device, 8192);
        let mut stream = device.raw().stream().unwrap();
        let mut lease = slabs.lease(0);
        let copy = lease.from(region.at(0), 0, 8192);
        // SAFETY: broken on purpose: the target is written to. It stays allocated and pinned.
        unsafe { stream.copy_out(copy.source, copy.target, copy.bytes) }.unwrap();
        lease.fill(9);
        sim.settle();
        let violations = sim.violations();
        assert!(violations.iter().any(|text| text.contains("target was written")), "seed {seed}: {violations:?}");
    }
}

struct SimConsumer {
    sim: Arc<SimDevice>,
    stream: RawStream,
}

impl Consumer for SimConsumer {
    fn stream(&self) -> RawStream {
        self.stream
    }

    fn read(&self, source: DevicePtr, bytes: usize, times: usize) -> Box<dyn FnOnce() -> Vec<u8> + '_> {
        let reads: Vec<_> = (0..times).map(|_| self.sim.consumer_read(self.stream, source, bytes).unwrap()).collect();
        Box::new(move || {
            self.sim.settle();
            reads.last().and_then(SimRead::bytes).expect("the consumer's read never happened")
        })
    }
}
