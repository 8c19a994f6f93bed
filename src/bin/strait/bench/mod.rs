//! `strait bench`: how fast samples reach the device, next to what the disk can do at all.

mod blocks;
pub(crate) mod fio;
mod limit;
mod limit_pread;
pub(crate) mod measure;
pub(crate) mod options;
mod oracle;
pub(crate) mod progress;
pub(crate) mod report;
pub(crate) mod request;
pub(crate) mod rounds;
pub(crate) mod run_strait;
mod sample;
pub(crate) mod summary;

use std::path::PathBuf;

use crate::Answer;
use crate::failure::{Failure, Result};
pub(crate) use options::Options;
use progress::Watch;
use request::Request;
use rounds::{Rounds, Stage};

pub(crate) fn run(options: &Options) -> Result<Answer> {
    options::check(options)?;
    let sample = if options.paths.is_empty() { Some(sample::make(options)?) } else { None };
    let paths: Vec<PathBuf> = sample.as_ref().map_or(options.paths.clone(), |sample| vec![sample.path.clone()]);
    let request = request(options, paths)?;
    if request.file_bytes == 0 {
        return Err(Failure::new("there is nothing to read", "the files are empty", "name files that hold samples"));
    }
    let fio = if options.no_fio { Err("turned off by --no-fio".into()) } else { fio::version() };
    let (stages, fio_reason) = stages(options, fio);
    let passes = stages.len() as u64 * u64::from(options.rounds) + u64::from(options.verify);
    let mut watch = Watch::new(passes);
    let verified_bytes = if options.verify { Some(verify(&request, &mut watch)?) } else { None };
    let all = rounds::run(&request, &stages, options.rounds, &mut watch, &mut run_strait::run)?;
    drop(watch);
    let all = Rounds { fio_reason: all.fio_reason.or(fio_reason), ..all };
    Ok(report::answer(&request, &all, verified_bytes, sample.is_some()))
}

/// What is read: the shards' files, and the mean size of a sample. Opening the dataset here finds bad input before
/// anything long begins.
fn request(options: &Options, named: Vec<PathBuf>) -> Result<Request> {
    if options.references_only {
        return Request::new(options, named.clone(), named, options.record_bytes());
    }
    let dataset = options.dataset().open(&named)?;
    let payload: u64 = dataset.shards().iter().map(|shard| shard.bytes).sum();
    let files = dataset.shards().iter().map(|shard| shard.path.to_path_buf()).collect();
    Request::new(options, named, files, (payload / dataset.len().max(1)).max(1))
}

fn stages(options: &Options, fio: std::result::Result<String, String>) -> (Vec<Stage>, Option<String>) {
    let mut stages = vec![Stage::Limit];
    if !options.references_only {
        stages.insert(0, Stage::Strait);
    }
    match fio {
        Ok(_version) => {
            stages.push(Stage::Fio);
            (stages, None)
        }
        Err(reason) => (stages, Some(reason)),
    }
}

fn verify(request: &Request, watch: &mut Watch) -> Result<u64> {
    watch.stage("comparing with the files", request.file_bytes, None);
    let bytes = run_strait::verify(request, watch)?;
    watch.end_stage();
    Ok(bytes)
}
