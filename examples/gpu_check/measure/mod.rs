//! Measurements: what the bus can do, what the storage can do, and what strait makes of them, in interleaved rounds. Rows
//! are said after each round. Over a stand-in for the driver the figures mean nothing: the report keeps none.

mod bus;
mod device;
mod disk;
pub(crate) mod files;
mod loaders;

use std::rc::Rc;
use std::time::Instant;

use serde_json::json;
use strait::Device;

use crate::check::Outcome;
use crate::check::cuda::Gpu;
use crate::lines;
use crate::options::Options;
use files::Files;
use loaders::Case;

/// All of it, in about as many seconds as there are.
pub(crate) fn all(options: &Options, device: &Device, gpu: &Rc<Gpu>) -> Outcome {
    let start = Instant::now();
    let bus = bus::Bus::new(gpu)?;
    // What a process pays once: the driver's start of its copy engine.
    bus.gb_per_s(1 << 20)?;
    for row in bus::register(gpu)? {
        lines::row("registering host memory", row);
    }
    match device::rows(device, gpu) {
        Ok(rows) => rows.into_iter().for_each(|row| lines::row("small pieces on the device", row)),
        Err(error) => lines::check("small pieces on the device", Err(error)),
    }
    let disk = Files::open(&options.dir);
    let memory = options.tmpfs.as_ref().map(|directory| Files::open(directory));
    let mut cases = Vec::new();
    match &disk {
        Ok(files) => cases.extend(Case::of_disk(device, files)?),
        Err(error) => lines::skipped("from disk", &error.to_string()),
    }
    match &memory {
        Some(Ok(files)) => cases.extend(Case::of_tmpfs(device, files)?),
        Some(Err(error)) => lines::skipped("from tmpfs", &error.to_string()),
        None => {}
    }
    for case in &cases {
        case.verify()?;
    }
    let (mut copies, mut rounds) = (vec![Vec::new(); bus::PIECES.len()], 0);
    for round in 0..options.rounds {
        let began = Instant::now();
        for (series, piece) in copies.iter_mut().zip(bus::PIECES) {
            series.push(bus.gb_per_s(piece)?);
            let row = json!({ "piece_KiB": piece >> 10, "GB_per_s": median(series), "all_GB_per_s": series });
            lines::row("host to device, from pinned memory", row);
        }
        let ceiling = copies.iter().filter_map(|series| series.last().copied()).fold(0.0, f64::max);
        // Another case first each time: what one leaves behind is not always the same one's.
        for place in 0..cases.len() {
            let place = (place + round) % cases.len();
            cases[place].run(ceiling)?;
            lines::row("strait, end to end", cases[place].row());
        }
        println!("round {} of {} took {:.1} s", round + 1, options.rounds, began.elapsed().as_secs_f64());
        rounds = round + 1;
        if start.elapsed().as_secs_f64() + began.elapsed().as_secs_f64() > options.seconds {
            break;
        }
    }
    if rounds < options.rounds {
        lines::note("fewer rounds", &format!("{rounds} of {}: there was no time for more", options.rounds));
    }
    Ok(())
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
