//! `strait inspect`: what is in a dataset, and in one of its samples.

mod sample;
mod sizes;

use std::path::PathBuf;

use serde_json::{Value, json};
use strait::Dataset;

use crate::dataset::DatasetOptions;
use crate::failure::{Failure, Result};
use crate::{Answer, size, text};
use sizes::Sizes;

const HELP_END: &str = "\
Examples:
  # format, fields, sizes, alignment, index
  strait inspect /data/train
  # sample 7, all its fields
  strait inspect /data/train --sample 7
  # one field's bytes into a file
  strait inspect /data/train --sample 7 --field jpg --raw > 7.jpg
  # the same facts for a program
  strait inspect /data/train --json

Sizes are those of at most 100000 samples, spread evenly over the dataset.

Exit codes: 0 shown; 1 it cannot be opened or read; 2 bad command line.";

/// Show what is in a dataset: format, fields, sizes, alignment, index; or one sample
#[derive(clap::Args)]
#[command(after_help = HELP_END)]
pub(crate) struct Options {
    /// Shards, or directories of them
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    dataset: DatasetOptions,
    /// Show this sample, counted from 0
    #[arg(long, value_name = "N")]
    sample: Option<u64>,
    /// Only this field
    #[arg(long, value_name = "FIELD")]
    field: Option<String>,
    /// Write the sample's bytes to standard output, and nothing else
    #[arg(long, requires = "sample")]
    raw: bool,
}

pub(crate) fn run(options: &Options, as_json: bool) -> Result<Answer> {
    if options.raw && as_json {
        return Err(Failure::usage(
            "--raw and --json exclude each other",
            "standard output is either the bytes or one JSON object",
            "leave one out",
        ));
    }
    let dataset = options.dataset.options().open(&options.paths)?;
    let fields = chosen(&dataset, options.field.as_deref())?;
    if let Some(sample) = options.sample.filter(|&sample| sample >= dataset.len()) {
        return Err(Failure::usage(
            format!("there is no sample {sample}"),
            format!("the dataset has {} samples, counted from 0", dataset.len()),
            "give a smaller number",
        ));
    }
    if let Some(sample) = options.sample.filter(|_| options.raw) {
        for bytes in sample::raw(&dataset, sample, &fields)? {
            crate::write(&bytes).map_err(|error| Failure::unwritten(&error))?;
        }
        return Ok(Answer { text: String::new(), json: Value::Null, exit_code: 0 });
    }
    let sizes: Vec<Sizes> = fields.iter().map(|&field| Sizes::of(&dataset, field)).collect();
    let sample = options.sample.map(|sample| sample::Shown::new(&dataset, sample, &fields)).transpose()?;
    dataset.check()?;
    let mut text = match &sample {
        Some(sample) => sample.text(),
        None => overview(&dataset, &fields, &sizes),
    };
    if text.is_empty() {
        text.push_str("nothing to show\n");
    }
    let mut json = facts(&dataset, &fields, &sizes);
    if let (Some(sample), Some(object)) = (sample, json.as_object_mut()) {
        object.insert("sample".into(), sample.json());
    }
    Ok(Answer { text, json, exit_code: 0 })
}

/// The fields to show, by number.
fn chosen(dataset: &Dataset, name: Option<&str>) -> Result<Vec<usize>> {
    let all = 0..dataset.fields().len();
    let Some(name) = name else { return Ok(all.collect()) };
    match all.clone().find(|&field| &*dataset.fields()[field].name == name) {
        Some(field) => Ok(vec![field]),
        None => {
            let names: Vec<&str> = dataset.fields().iter().map(|field| &*field.name).collect();
            let why = format!("the fields are {}", names.join(", "));
            Err(Failure::usage(format!("there is no field {name}"), why, "name one of them"))
        }
    }
}

fn shard_bytes(dataset: &Dataset) -> u64 {
    dataset.shards().iter().map(|shard| shard.bytes).sum()
}

fn dtype(dataset: &Dataset, field: usize) -> Option<&'static str> {
    dataset.fields()[field].dtype.map(strait::DType::name)
}

fn facts(dataset: &Dataset, fields: &[usize], sizes: &[Sizes]) -> Value {
    let field = |(&field, sizes): (&usize, &Sizes)| {
        let own = &dataset.fields()[field];
        let mut json = json!({
            "name": &*own.name,
            "dtype": dtype(dataset, field),
            "shape": own.shape.as_deref(),
            "fixed_bytes": own.fixed_bytes,
        });
        if let Some(object) = json.as_object_mut() {
            object.extend(sizes.json().as_object().cloned().unwrap_or_default());
        }
        json
    };
    let state = dataset.index_state();
    json!({
        "format": dataset.format(),
        "shards": dataset.shards().len(),
        "samples": dataset.len(),
        "bytes": shard_bytes(dataset),
        "fields": fields.iter().zip(sizes).map(field).collect::<Vec<_>>(),
        "index": {
            "sidecars": state.sidecars,
            "checksums": state.checksums,
            "unusable": state.unusable,
            "why": state.why,
        },
    })
}

fn overview(dataset: &Dataset, fields: &[usize], sizes: &[Sizes]) -> String {
    let mut out = format!(
        "format   {}\nshards   {} of {} together\nsamples  {}\nindex    {}\n\n",
        dataset.format(),
        dataset.shards().len(),
        size::show(shard_bytes(dataset)),
        dataset.len(),
        index_line(dataset),
    );
    let mut rows = vec![["field", "dtype", "shape", "in", "smallest", "mean", "largest"].map(String::from).to_vec()];
    for (&field, sizes) in fields.iter().zip(sizes) {
        let own = &dataset.fields()[field];
        let shape = own.shape.as_ref().map_or("-".into(), |shape| format!("{shape:?}"));
        let mut row = vec![own.name.to_string(), dtype(dataset, field).unwrap_or("bytes").into(), shape];
        row.extend(sizes.row());
        rows.push(row);
    }
    out.push_str(&text::table(&rows));
    for (&field, sizes) in fields.iter().zip(sizes) {
        out.push_str(&sizes.histogram(&dataset.fields()[field].name));
    }
    out.push('\n');
    for (&field, sizes) in fields.iter().zip(sizes) {
        out.push_str(&text::wrapped(&format!("{}: ", dataset.fields()[field].name), &sizes.alignment()));
    }
    out
}

fn index_line(dataset: &Dataset) -> String {
    let (state, all) = (dataset.index_state(), dataset.shards().len() as u64);
    let mut line = match (state.sidecars, state.checksums) {
        (0, _) => "no sidecars: shards are indexed whenever the dataset is opened (`strait index` makes them)".into(),
        (sidecars, checksums) => {
            let with = if checksums == sidecars { "with" } else { "without" };
            format!("sidecars for {sidecars} of {all} shards, {with} checksums")
        }
    };
    if let Some(why) = &state.why {
        line += &format!("; {} cannot be used: {why}", state.unusable);
    }
    line
}
