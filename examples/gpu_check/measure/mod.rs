//! Measurements: what the bus can do, what the storage can do, and what strait makes of them, in interleaved rounds.

mod bus;
mod files;
mod loaders;

use std::rc::Rc;

use serde_json::{Value, json};
use strait::Device;

use crate::check::Outcome;
use crate::check::cuda::{Gpu, is_stand_in};
use crate::options::Options;
use files::Files;
use loaders::{Case, Run};

/// Everything. Refuses where the driver is not a real one.
pub(crate) fn all(options: &Options, device: &Device, gpu: &Rc<Gpu>) -> Outcome<Value> {
    if is_stand_in() {
        return Err("the driver is a stand-in: what it takes its time for is no measurement".into());
    }
    let bus = bus::Bus::new(gpu)?;
    println!("       writing {} GiB of shards twice", options.gib);
    let (disk, memory) = (Files::write(&options.dir, options.gib)?, Files::write(&options.tmpfs, options.gib)?);
    let cases = Case::all(device, &disk, &memory);
    cases.iter().try_for_each(Case::verify)?;
    let mut copies = vec![Vec::new(); bus::PIECES.len()];
    let mut runs: Vec<Vec<Run>> = cases.iter().map(|_| Vec::new()).collect();
    for round in 0..options.rounds {
        println!("       round {} of {}", round + 1, options.rounds);
        for (series, piece) in copies.iter_mut().zip(bus::PIECES) {
            series.push(bus.gb_per_s(piece)?);
        }
        for (series, case) in runs.iter_mut().zip(&cases) {
            series.push(case.run()?);
        }
    }
    let bus_rows: Vec<Value> = bus::PIECES
        .iter()
        .zip(&copies)
        .map(|(piece, series)| json!({ "piece_KiB": piece >> 10, "gb_per_s": median(series), "all": series }))
        .collect();
    // What a slab's copy can do: the piece of strait's own size.
    let ceiling = &copies[bus::SLAB];
    Ok(json!({
        "host_to_device_from_pinned_memory": bus_rows,
        "registering_host_memory": bus::register(gpu, options.rounds)?,
        "loaders": loaders::rows(&cases, &runs, ceiling),
    }))
}

/// The middle of a series, or the mean of its two middles.
fn median(series: &[f64]) -> f64 {
    let mut sorted = series.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n => (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0,
    }
}
