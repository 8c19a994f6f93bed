//! The machine, as a report describes it.

use std::ffi::c_char;
use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use serde_json::{Value, json};
use strait::Device;

use crate::check::Outcome;
use crate::check::cuda::{ConsumerStream, Gpu, Pinned, Scratch, cuda, is_stand_in};
use crate::options::Options;

pub(crate) fn describe(device: &Device, gpu: &Rc<Gpu>, options: &Options) -> Value {
    let bus_id = bus_id(gpu).unwrap_or_default();
    let kernels = kernels(device);
    // An idle link may have been slowed down.
    let _ = busy(gpu);
    let pci = |name: &str| line(format!("/sys/bus/pci/devices/{}/{name}", bus_id.to_lowercase()));
    json!({
        "gpu": device.name(),
        "gpu_memory_bytes": memory(gpu).ok(),
        "cuda_driver": driver_version().ok(),
        "nvidia_module": line("/proc/driver/nvidia/version"),
        "pci": bus_id,
        "pcie_link_speed": pci("current_link_speed"),
        "pcie_link_width": pci("current_link_width"),
        "gpu_numa_node": pci("numa_node"),
        "pcie_link_max": [pci("max_link_speed"), pci("max_link_width")],
        "ms_to_compile_kernels": kernels,
        "cpu": entry("/proc/cpuinfo", "model name"),
        "cpus": std::thread::available_parallelism().map(usize::from).ok(),
        "memory": entry("/proc/meminfo", "MemTotal"),
        "huge_pages": line("/sys/kernel/mm/transparent_hugepage/enabled"),
        "kernel": line("/proc/sys/kernel/osrelease"),
        "dir": mount(&options.dir),
        "tmpfs": options.tmpfs.as_deref().and_then(mount),
    })
}

/// How long the driver takes to compile strait's kernels: this is the first process, and its cache is empty.
fn kernels(device: &Device) -> Option<f64> {
    let mut stream = device.raw().stream().ok()?;
    let start = Instant::now();
    let slower = stream.ready_to_gather();
    slower.is_none().then(|| start.elapsed().as_secs_f64() * 1e3)
}

/// Copies to the device until a link that sleeps has woken up.
fn busy(gpu: &Rc<Gpu>) -> Outcome {
    let bytes = if is_stand_in() { 1 << 20 } else { 64 << 20 };
    let (source, target) = (Pinned::new(gpu, bytes)?, Scratch::new(gpu, bytes)?);
    let stream = ConsumerStream::new(gpu)?;
    for _ in 0..16 {
        stream.to_device(&source, 0, &target, bytes)?;
    }
    stream.synchronize()
}

fn driver_version() -> Outcome<String> {
    let mut version = 0;
    // SAFETY: the type is that of cuda.h; the place is writable.
    unsafe { cuda!(cuDriverGetVersion(*mut i32 = &mut version)) }?;
    Ok(format!("{}.{}", version / 1000, version % 1000 / 10))
}

fn memory(gpu: &Gpu) -> Outcome<usize> {
    let mut bytes = 0;
    // SAFETY: the types are those of cuda.h; the place is writable.
    unsafe { cuda!(cuDeviceTotalMem_v2(*mut usize = &mut bytes, i32 = gpu.ordinal)) }?;
    Ok(bytes)
}

fn bus_id(gpu: &Gpu) -> Outcome<String> {
    let mut text = [0u8; 32];
    let (place, room) = (text.as_mut_ptr().cast(), text.len() as i32);
    // SAFETY: the types are those of cuda.h; the place has the room that is said.
    unsafe { cuda!(cuDeviceGetPCIBusId(*mut c_char = place, i32 = room, i32 = gpu.ordinal)) }?;
    Ok(text.iter().take_while(|&&byte| byte != 0).map(|&byte| char::from(byte)).collect())
}

/// The first line of a file.
fn line(path: impl AsRef<Path>) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.lines().next()?.trim().into())
}

/// The first value of a key in a file of `key: value` lines.
pub(crate) fn entry(path: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().into())
}

/// The mount that a directory is on: its device and file system.
fn mount(directory: &Path) -> Option<String> {
    let directory = directory.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let fields = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        Some((fields.next()?, fields.next()?, fields.next()?))
    });
    let (device, _, kind) = fields.filter(|(_, at, _)| directory.starts_with(at)).max_by_key(|(_, at, _)| at.len())?;
    Some(format!("{kind} on {device}"))
}
