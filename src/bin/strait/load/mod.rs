//! `strait load`: how fast a checkpoint reaches the device, next to what the disk can do at all.

mod options;
mod report;
mod run;

use std::path::PathBuf;

use strait::weights::{Checkpoint, Manifest};

use crate::Answer;
use crate::bench::fio;
use crate::bench::progress::Watch;
use crate::bench::request::Request;
use crate::bench::rounds::{self, Rounds, Stage};
use crate::failure::{Failure, Result};
pub(crate) use options::Options;
use run::Loaded;

pub(crate) fn run(options: &Options) -> Result<Answer> {
    options::check(options)?;
    // Here, where bad input is found before anything long begins.
    let checkpoint = open(&options.paths)?;
    if checkpoint.bytes() == 0 {
        let remedy = "name a checkpoint that holds something";
        return Err(Failure::new("there is nothing to load", "no tensor has a byte", remedy));
    }
    let manifest = options.verify.as_ref().map(Manifest::open).transpose()?;
    let request = request(options, &checkpoint);
    let (stages, fio_reason) = stages(options);
    let mut watch = Watch::new(stages.len() as u64 * u64::from(options.rounds));
    let mut loads: Vec<Loaded> = Vec::new();
    let mut load = |request: &Request, watch: &mut Watch| {
        let (result, loaded) = run::run(options, manifest.as_ref(), request, watch)?;
        loads.push(loaded);
        Ok(result)
    };
    let all = rounds::run(&request, &stages, options.rounds, &mut watch, &mut load)?;
    drop(watch);
    let all = Rounds { fio_reason: all.fio_reason.or(fio_reason), ..all };
    Ok(report::answer(options, &checkpoint, &request, &all, &loads))
}

/// One path as the library takes it; several are files of one checkpoint.
fn open(paths: &[PathBuf]) -> Result<Checkpoint> {
    Ok(match paths {
        [path] => Checkpoint::open(path)?,
        paths => Checkpoint::open_files(paths)?,
    })
}

fn request(options: &Options, checkpoint: &Checkpoint) -> Request {
    Request {
        named: options.paths.clone(),
        paths: checkpoint.files().iter().map(|file| file.path.to_path_buf()).collect(),
        file_bytes: checkpoint.files().iter().map(|file| file.bytes).sum(),
        block_bytes: options.block_bytes,
        depth: options.depth as usize,
        batch: 1,
        record_bytes: options.block_bytes,
        dataset: strait::dataset::Options::default(),
        shuffle: false,
        ring: options.ring,
        device: options.device,
        rank: strait::order::Rank::SINGLE,
        seconds: None,
        seed: 0,
    }
}

fn stages(options: &Options) -> (Vec<Stage>, Option<String>) {
    if options.no_references {
        return (vec![Stage::Strait], Some("turned off by --no-references".into()));
    }
    let mut stages = vec![Stage::Strait, Stage::Limit];
    let fio = if options.no_fio { Err("turned off by --no-fio".into()) } else { fio::version() };
    match fio {
        Ok(_version) => {
            stages.push(Stage::Fio);
            (stages, None)
        }
        Err(reason) => (stages, Some(reason)),
    }
}
