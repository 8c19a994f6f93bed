//! What is around the program: the pack that it came in, directories to write to, Python, libraries.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::memory;
use crate::options::Options;
use crate::parts;
use crate::process::{self, End};

pub(crate) struct Python {
    pub(crate) program: PathBuf,
    /// Where its packages are.
    packages: Vec<PathBuf>,
    has_torch: bool,
}

pub(crate) struct Surroundings {
    pack: PathBuf,
    pub(crate) python: Result<Python, String>,
    pub(crate) sanitizer: Option<PathBuf>,
    /// The directory of libcufile.so.0, where the linker would not look.
    cufile: Option<PathBuf>,
    /// The parts' own directory in --dir.
    pub(crate) dir: PathBuf,
    pub(crate) device: u32,
    // In this order they go: a mount after what is in it, and before where it is mounted.
    _directories: Vec<TempDir>,
    _own_memory: Option<memory::Own>,
    /// For caches and temporary files.
    scratch: TempDir,
}

/// What Python is asked: packages, and whether PyTorch is among them. Nothing is imported.
const ASK: &str = "import sys, importlib.util as u; \
    print('PATHS', *[p for p in sys.path if p.endswith('-packages')], sep='\\t'); \
    print('TORCH', bool(u.find_spec('torch')))";

impl Surroundings {
    /// Makes directories for the parts, and puts them into the options in place of those around them.
    pub(crate) fn new(options: &mut Options) -> Result<Surroundings, String> {
        let made = |directory: &Path| {
            let directory = tempfile::Builder::new().prefix("strait-gpu-check-").tempdir_in(directory);
            directory.map_err(|error| error.to_string())
        };
        let scratch = made(&std::env::temp_dir()).map_err(|error| format!("no temporary directory: {error}"))?;
        let dir = made(&options.dir).map_err(|error| format!("--dir {}: {error}", options.dir.display()))?;
        options.dir = absolute(dir.path());
        let mut directories = vec![dir];
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        options.tmpfs = options.tmpfs.take().or_else(|| memory::found(&mounts));
        let own_memory = options.tmpfs.is_none().then(|| memory::Own::mount(scratch.path()).ok()).flatten();
        options.tmpfs = options.tmpfs.take().or_else(|| own_memory.as_ref().map(|own| own.path().to_owned()));
        if let Some(tmpfs) = &options.tmpfs {
            let tmpfs = made(tmpfs).map_err(|error| format!("--tmpfs {}: {error}", tmpfs.display()))?;
            options.tmpfs = Some(absolute(tmpfs.path()));
            directories.push(tmpfs);
        }
        let program = std::env::current_exe().unwrap_or_default();
        let pack = options.pack.clone().or_else(|| Some(program.parent()?.parent()?.to_owned())).unwrap_or_default();
        let python = find_python(options.python.as_deref());
        let packages = python.as_ref().map(|python| python.packages.clone()).unwrap_or_default();
        Ok(Surroundings {
            sanitizer: sanitizer(&pack),
            cufile: cufile(&pack, &packages),
            pack,
            python,
            dir: options.dir.clone(),
            device: options.device,
            scratch,
            _directories: directories,
            _own_memory: own_memory,
        })
    }

    pub(crate) fn packed(&self, file: &str) -> Result<PathBuf, String> {
        parts::packed(&self.pack, file)
    }

    /// The environment of every part: caches and temporary files go to our own directory, libraries are found.
    pub(crate) fn set(&self, command: &mut Command) {
        let scratch = self.scratch.path();
        for name in ["TMPDIR", "CUDA_CACHE_PATH", "CUPY_CACHE_DIR", "TRITON_CACHE_DIR", "XDG_CACHE_HOME"] {
            command.env(name, scratch);
        }
        command.env("STRAIT_TEST_DIR", &self.dir).env("RUST_BACKTRACE", "1").current_dir(scratch);
        command.env("PYTHONUNBUFFERED", "1").env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONFAULTHANDLER", "1");
        command.env("PYTHONPATH", joined(&[self.pack.join("python")], "PYTHONPATH"));
        // Wheels that were packed come behind this machine's own packages: lines.py puts them there.
        command.env("GPU_CHECK_SITE", self.pack.join("site"));
        command.env("LD_LIBRARY_PATH", joined(self.cufile.as_slice(), "LD_LIBRARY_PATH"));
    }

    /// Whether cuFile's driver could open here at all, or why not: it spins for ever or takes no file otherwise.
    pub(crate) fn cufile_opens(&self) -> Result<(), String> {
        let has_some = |path: &str| fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
        if !Path::new("/proc/modules").exists() {
            return Err("there is no /proc/modules: cuFile's driver would spin for ever".into());
        }
        if !has_some("/run/udev/data") {
            return Err("there is no udev database (/run/udev/data): cuFile takes no file".into());
        }
        Ok(())
    }

    /// For the report.
    pub(crate) fn describe(&self) -> serde_json::Value {
        let path = |path: &PathBuf| path.display().to_string();
        serde_json::json!({
            "build": fs::read_to_string(self.pack.join("made")).ok().map(|text| text.trim().replace('\n', ", ")),
            "python": self.python.as_ref().map_or_else(Clone::clone, |python| path(&python.program)),
            "compute_sanitizer": self.sanitizer.as_ref().map(path),
            "libcufile": self.cufile.as_ref().map(path),
        })
    }
}

fn absolute(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// Paths of ours, before those that the variable has.
fn joined(ours: &[PathBuf], variable: &str) -> std::ffi::OsString {
    let theirs = std::env::var_os(variable).unwrap_or_default();
    let all = ours.iter().cloned().chain(std::env::split_paths(&theirs)).filter(|path| !path.as_os_str().is_empty());
    std::env::join_paths(all).unwrap_or(theirs)
}

/// The Python that was named; else one that has PyTorch; else any.
fn find_python(named: Option<&Path>) -> Result<Python, String> {
    let usual = [
        "python3",
        "/opt/venv/bin/python3",
        "/opt/torch/.venv/bin/python3",
        "/opt/conda/bin/python3",
        "/usr/local/bin/python3",
        "/usr/bin/python3",
        "python",
    ];
    let candidates = named.map_or_else(|| usual.iter().map(PathBuf::from).collect(), |named| vec![named.to_owned()]);
    let mut found: Vec<Python> = candidates.iter().filter_map(|program| ask(program)).collect();
    let best = found.iter().position(|python| python.has_torch).unwrap_or(0);
    match found.is_empty() {
        true => Err(format!(
            "there is no Python that works (tried {})",
            candidates.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
        )),
        false => Ok(found.swap_remove(best)),
    }
}

fn ask(program: &Path) -> Option<Python> {
    let mut command = Command::new(program);
    command.args(["-c", ASK]);
    let mut python = Python { program: program.into(), packages: Vec::new(), has_torch: false };
    let end = process::run(command, Duration::from_secs(30), |line| match line.split_once('\t') {
        Some(("PATHS", paths)) => python.packages = paths.split('\t').map(PathBuf::from).collect(),
        _ => python.has_torch |= line == "TORCH True",
    });
    (end == End::Exited(0)).then_some(python)
}

fn sanitizer(pack: &Path) -> Option<PathBuf> {
    let name = "compute-sanitizer";
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).map(|directory| directory.join(name)).collect();
    places.push(Path::new("/usr/local/cuda/bin").join(name));
    places.push(Path::new("/usr/local/cuda/compute-sanitizer").join(name));
    // This machine's own fits its driver; what was packed is newer than most.
    places.push(pack.join("sanitizer").join(name));
    let is_program =
        |path: &PathBuf| fs::metadata(path).is_ok_and(|found| found.is_file() && found.mode() & 0o111 != 0);
    places.into_iter().find(is_program)
}

/// PyTorch brings the library in a package of its own.
fn cufile(pack: &Path, packages: &[PathBuf]) -> Option<PathBuf> {
    let roots = [pack.join("site")].into_iter().chain(packages.iter().cloned()).map(|root| root.join("nvidia"));
    roots.flat_map(|root| files_named(&root, "libcufile.so.0", 3)).next()?.parent().map(Path::to_owned)
}

/// Files of a name at most so deep below a directory.
fn files_named(root: &Path, name: &str, depth: usize) -> Vec<PathBuf> {
    let entries = fs::read_dir(root).into_iter().flatten().filter_map(Result::ok);
    let mut found = Vec::new();
    for path in entries.map(|entry| entry.path()) {
        if path.is_dir() && depth > 0 {
            found.extend(files_named(&path, name, depth - 1));
        } else if path.file_name().is_some_and(|file| file == name) {
            found.push(path);
        }
    }
    found.sort();
    found
}
