//! Tests in processes of their own: where others ask for CUDA, they see the machine as it is.

use std::any::type_name_of_val;
use std::ops::Range;
use std::process::Command;

use super::{Cuda, cufile, stand_in};
use crate::sim::Rng;
use crate::sims::machine::Over;
use crate::sims::{for_seeds, seeds};

/// Runs a check for some seeds over the stand-in for the driver.
pub(crate) fn over_cuda(count: u64, check: impl Fn(u64, &mut Rng, &dyn Over)) {
    alone(count, &check, || run(count, false, &check));
}

/// The same with reads into a device's memory by the stand-in for cuFile.
pub(crate) fn over_cufile(count: u64, check: impl Fn(u64, &mut Rng, &dyn Over)) {
    alone(count, &check, || {
        let (_storage, _alone) = cufile::take();
        run(count, true, &check);
    });
}

fn run(count: u64, by_cufile: bool, check: &impl Fn(u64, &mut Rng, &dyn Over)) {
    let (fake, _alone) = stand_in::take();
    let cuda = Cuda::new(by_cufile);
    for_seeds(count, |seed, rng| {
        fake.heal();
        check(seed, rng, &cuda);
    });
    drop(cuda);
    assert_eq!(fake.misuse(), "");
}

/// Seeds that one process runs: what broken devices leave behind slows down those after them.
const TOGETHER: u64 = 100;

/// `named` is a closure in the body of the test, which so has its name.
fn alone<T>(count: u64, named: &T, body: impl FnOnce()) {
    const CHILD: &str = "STRAIT_SIM_CHILD";
    if std::env::var_os(CHILD).is_some() {
        return body();
    }
    let name = type_name_of_val(named).trim_end_matches("::{{closure}}").split_once("::").unwrap().1;
    // Copies take their time here: where others run a thousand seeds, twice the count.
    let Range { start, end } = seeds(count, 2 * count);
    for first in (start..end).step_by(TOGETHER as usize) {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", name]).env(CHILD, "1").env_remove("STRAIT_SIM_SEED");
        child.env("STRAIT_SIM_FIRST", first.to_string());
        let child = child.env("STRAIT_SIM_SEEDS", TOGETHER.min(end - first).to_string()).output().unwrap();
        let text = [child.stdout, child.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert!(child.status.success() && text.contains("1 passed"), "{text}");
    }
}
