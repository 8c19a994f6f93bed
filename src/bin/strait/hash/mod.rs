//! `strait hash`: manifests, written and compared with.

mod options;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;
use strait::weights::{FileDigests, Hash, Manifest};

use crate::bench::progress::Watch;
use crate::failure::{Failure, Result};
use crate::{Answer, size};
pub(crate) use options::Options;

pub(crate) fn run(options: &Options) -> Result<Answer> {
    match &options.check {
        Some(manifest) => check(options, manifest),
        None => write(options),
    }
}

fn write(options: &Options) -> Result<Answer> {
    let paths = expanded(&options.paths)?;
    let bytes = paths.iter().map(|path| std::fs::metadata(path).map_or(0, |meta| meta.len())).sum();
    let began = Instant::now();
    let manifest = watched("hashing", bytes, hash(options), |hash| {
        hash.manifest(&paths, options.algorithm.into(), options.per.into())
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let Some(output) = &options.output else {
        let text = manifest.to_json();
        let json = serde_json::from_str(&text).expect("what is written is JSON");
        return Ok(Answer { text, json, exit_code: 0 });
    };
    let manifest = renamed(&manifest, output)?;
    store(output, &manifest.to_json())?;
    let tensors: usize = manifest.files().iter().map(|file| file.tensors.len()).sum();
    let json = json!({
        "output": output, "algorithm": strait::weights::Algorithm::from(options.algorithm).name(),
        "files": paths.len(), "tensors": tensors, "bytes": bytes, "seconds": seconds,
    });
    let tensors = if tensors > 0 { format!(", {tensors} tensors") } else { String::new() };
    let text = format!(
        "{} of {} file(s){tensors} in {seconds:.2} s ({:.2} GB/s); the manifest is {}\n",
        size::show(bytes),
        paths.len(),
        bytes as f64 * 1e-9 / seconds,
        output.display(),
    );
    Ok(Answer { text, json, exit_code: 0 })
}

fn check(options: &Options, path: &Path) -> Result<Answer> {
    let manifest = Manifest::open(path)?;
    let known = known(options, path, &manifest)?;
    if known.is_empty() {
        let remedy = "name files that the manifest names, or check where they are";
        return Err(Failure::new("there is nothing to compare", "no file of the manifest is here", remedy));
    }
    let pairs: Vec<(&Path, &FileDigests)> = known.iter().map(|(path, file)| (&**path, *file)).collect();
    let bytes = pairs.iter().map(|(path, _)| std::fs::metadata(path).map_or(0, |meta| meta.len())).sum();
    let differing = watched("comparing", bytes, hash(options), |hash| hash.check(&pairs))?;
    let tensors: usize = pairs.iter().map(|(_, file)| file.tensors.len()).sum();
    let failed: Vec<_> = differing
        .iter()
        .map(|error| json!({ "path": error.path(), "offset": error.offset(), "problem": error.to_string() }))
        .collect();
    let mut text: String = differing.iter().map(|error| format!("{error}\n")).collect();
    let verdict = match differing.len() {
        0 => "all as they should be".into(),
        count => format!("{count} digest(s) differ"),
    };
    text.push_str(&format!("{} file(s), {tensors} tensor(s), {}: {verdict}\n", pairs.len(), size::show(bytes)));
    let json = json!({ "files": pairs.len(), "tensors": tensors, "bytes": bytes, "failed": failed });
    Ok(Answer { text, json, exit_code: u8::from(!differing.is_empty()) })
}

/// Which file to compare with what.
fn known<'m>(options: &Options, path: &Path, manifest: &'m Manifest) -> Result<Vec<(PathBuf, &'m FileDigests)>> {
    if !options.paths.is_empty() {
        let entry = |path: PathBuf| match manifest.file(&path) {
            Some(file) => Ok((path, file)),
            None => Err(Failure::new(
                format!("{} is not in the manifest", path.display()),
                "none of its names is the end of that path",
                "name a file that is in it, or hash this one",
            )),
        };
        return expanded(&options.paths)?.into_iter().map(entry).collect();
    }
    let directory = path.parent().unwrap_or(Path::new(""));
    let mut known = Vec::new();
    for file in manifest.files() {
        let Some(name) = &file.name else {
            return Err(Failure::usage(
                "the manifest does not say which file it is about",
                "a git-lfs pointer has no name in it",
                format!("strait hash --check {} FILE", path.display()),
            ));
        };
        let path = directory.join(name);
        if options.ignore_missing && !path.exists() {
            continue;
        }
        known.push((path, file));
    }
    Ok(known)
}

fn hash(options: &Options) -> Hash {
    match options.threads {
        Some(threads) => Hash::new().threads(threads as usize),
        None => Hash::new(),
    }
}

/// Runs on a thread of its own, while this one draws and listens for signals.
fn watched<T: Send>(name: &str, bytes: u64, hash: Hash, work: impl Fn(&Hash) -> strait::Result<T> + Sync) -> Result<T> {
    let mut watch = Watch::new(1);
    watch.stage(name, bytes, None);
    let progress = hash.progress();
    std::thread::scope(|scope| {
        let work = || work(&hash);
        let Ok(worker) = std::thread::Builder::new().spawn_scoped(scope, work) else {
            return Ok(work()?); // no thread is to be had: nothing is drawn, and the second signal ends it
        };
        let mut interrupted = Ok(true);
        while !worker.is_finished() {
            std::thread::sleep(Duration::from_millis(5));
            if interrupted.is_ok() {
                interrupted = watch.tick(progress.bytes());
                if interrupted.is_err() {
                    progress.stop();
                }
            }
        }
        let result = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        interrupted?;
        Ok(result?)
    })
}

/// A directory stands for the safetensors files in it.
fn expanded(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let entries = std::fs::read_dir(path).map_err(|e| Failure::file("list", path, &e))?;
        let in_it = entries.flatten().map(|entry| entry.path());
        let mut found: Vec<PathBuf> =
            in_it.filter(|path| path.extension().is_some_and(|ending| ending == "safetensors")).collect();
        if found.is_empty() {
            let what = format!("{} has no safetensors files in it", path.display());
            return Err(Failure::new(what, "a directory stands for those", "name the files"));
        }
        found.sort();
        files.append(&mut found);
    }
    Ok(files)
}

/// Names files as they are seen from the manifest: below its directory relative to it, elsewhere from the root.
fn renamed(manifest: &Manifest, output: &Path) -> Result<Manifest> {
    let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = parent.canonicalize().map_err(|e| Failure::file("find the directory of", output, &e))?;
    let rename = |file: &FileDigests| {
        let given = Path::new(file.name.as_deref().unwrap_or_default());
        // The name is kept where it is a link: the file's own may be a digest.
        let parent = given.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let path = parent.canonicalize().map_err(|e| Failure::file("find", given, &e))?;
        let path = path.join(given.file_name().unwrap_or_default());
        let name = path.strip_prefix(&directory).unwrap_or(&path).to_string_lossy().into_owned();
        Ok(FileDigests { name: Some(name), ..file.clone() })
    };
    let files = manifest.files().iter().map(rename).collect::<Result<Vec<_>>>()?;
    Manifest::new(files).map_err(|problem| Failure::usage(problem, "each file has one entry", "name it once"))
}

/// Whole or not at all.
fn store(output: &Path, text: &str) -> Result<()> {
    let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = |e: &std::io::Error| Failure::file("write", output, e);
    let mut file = tempfile::Builder::new().prefix(".strait-hash-").tempfile_in(parent).map_err(|e| failed(&e))?;
    std::io::Write::write_all(&mut file, text.as_bytes()).map_err(|e| failed(&e))?;
    // Private as temporary files are: the manifest is as readable as any file that is made here.
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file().set_permissions(readable).map_err(|e| failed(&e))?;
    file.as_file().sync_all().map_err(|e| failed(&e))?;
    file.persist(output).map(drop).map_err(|e| failed(&e.error))
}
