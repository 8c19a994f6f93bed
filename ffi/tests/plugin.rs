//! The device in C (`examples/sample_device`) under the conformance suite of strait's devices.

#[allow(dead_code, reason = "other binaries use the rest")]
#[path = "../../tests/device_suite/mod.rs"]
mod device_suite;

use std::ffi::{CString, c_char, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr;
use std::sync::OnceLock;

use device_suite::{Bed, Consumer, Fault};
use strait::device::{DevicePtr, RawStream};
use strait_ffi::{strait_device_custom, strait_device_free, strait_device_vtable, strait_status};

/// The functions of `sample_device.h`.
struct Sample {
    new: extern "C" fn(*mut strait_device_vtable) -> *mut c_void,
    inject: extern "C" fn(*mut c_void, i32),
    violations: extern "C" fn(*mut c_void) -> u32,
    left: extern "C" fn(u32) -> u32,
    consumer_new: extern "C" fn(*mut c_void) -> *mut c_void,
    consumer_free: extern "C" fn(*mut c_void),
    consumer_read: extern "C" fn(*mut c_void, u64, *mut u8, usize),
    consumer_wait: extern "C" fn(*mut c_void),
}

/// Compiled and loaded once; `None`, said aloud, where there is no C compiler.
fn sample() -> Option<&'static Sample> {
    static SAMPLE: OnceLock<Option<Sample>> = OnceLock::new();
    SAMPLE.get_or_init(|| compile().map(|library| load(&library))).as_ref()
}

fn compile() -> Option<PathBuf> {
    let ffi = Path::new(env!("CARGO_MANIFEST_DIR"));
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("libsample_device.so");
    let mut compiler = Command::new("cc");
    compiler
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-g", "-shared", "-fPIC", "-pthread", "-o"])
        .arg(&library);
    compiler.arg("-I").arg(ffi.join("include")).arg(ffi.join("examples/sample_device/sample_device.c"));
    match compiler.output() {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Some(library)
        }
        Err(error) => {
            eprintln!("SKIPPED the device in C: cc: {error}");
            None
        }
    }
}

#[allow(clippy::missing_transmute_annotations, reason = "the fields say the types")]
fn load(library: &Path) -> Sample {
    let path = CString::new(library.to_str().unwrap()).unwrap();
    // SAFETY: a library without initialisers, compiled just now.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
    assert!(!handle.is_null());
    let symbol = |name: &str| {
        let name = CString::new(name).unwrap();
        // SAFETY: an open library and a C string.
        let address = unsafe { libc::dlsym(handle, name.as_ptr() as *const c_char) };
        assert!(!address.is_null(), "{name:?}");
        address
    };
    macro_rules! function {
        ($name:literal) => {
            // SAFETY: declared so in sample_device.h; the library is never closed.
            unsafe { std::mem::transmute::<*mut c_void, _>(symbol($name)) }
        };
    }
    Sample {
        new: function!("sample_device_new"),
        inject: function!("sample_device_inject"),
        violations: function!("sample_device_violations"),
        left: function!("sample_devices_left"),
        consumer_new: function!("sample_consumer_new"),
        consumer_free: function!("sample_consumer_free"),
        consumer_read: function!("sample_consumer_read"),
        consumer_wait: function!("sample_consumer_wait"),
    }
}

struct SampleConsumer(&'static Sample, *mut c_void);

impl Consumer for SampleConsumer {
    fn stream(&self) -> RawStream {
        RawStream(self.1)
    }

    fn read(&self, source: DevicePtr, bytes: usize, times: usize) -> Box<dyn FnOnce() -> Vec<u8> + '_> {
        let mut target = vec![0; bytes];
        for _ in 0..times {
            (self.0.consumer_read)(self.1, source, target.as_mut_ptr(), bytes);
        }
        Box::new(move || {
            (self.0.consumer_wait)(self.1);
            target
        })
    }
}

impl Drop for SampleConsumer {
    fn drop(&mut self) {
        (self.0.consumer_free)(self.1);
    }
}

fn bed(sample: &'static Sample) -> Bed {
    // SAFETY: NULL pointers, NULL functions and zeros are a table.
    let mut table: strait_device_vtable = unsafe { std::mem::zeroed() };
    let own = (sample.new)(&mut table);
    let mut custom = ptr::null_mut();
    // SAFETY: a whole table, and the device that it is for.
    let status = unsafe { strait_device_custom(&table, own, Some(&mut custom), None) };
    assert_eq!(status, strait_status::Ok);
    let device = strait_ffi::device_of(custom).expect("made above");
    assert_eq!(strait_device_free(custom), strait_status::Ok);
    let consumer = SampleConsumer(sample, (sample.consumer_new)(own));
    let inject = move |fault| {
        let number = match fault {
            Fault::None => 0,
            Fault::CopyFails => 1,
            Fault::GatherFails => 2,
            Fault::CopyOutFails => 3,
            Fault::MarkFails => 4,
            Fault::Stalls => 5,
            Fault::Lost => 6,
        };
        (sample.inject)(own, number);
    };
    Bed {
        device,
        consumer: Some(Box::new(consumer)),
        late: true,
        pins: true,
        inject: Some(Box::new(inject)),
        objections: Box::new(move || vec!["a broken contract".into(); (sample.violations)(own) as usize]),
        compares: false,
    }
}

/// Mutants that this catches, in the adapter: failures that are not seen; `wait_on` left out; a wait that always says reached.
#[test]
fn the_device_in_c_conforms() {
    let Some(sample) = sample() else { return };
    device_suite::run(&|| bed(sample));
    // Streams end on their own threads. The lost device's test leaks what a lost device may still use; every other device was destroyed.
    let left = (sample.left)(1);
    assert!(left <= 1, "{left} devices were never destroyed");
}
