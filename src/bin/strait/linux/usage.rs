//! What this process has used: processor time and memory.

use super::entry_bytes;

/// User plus system time of all threads of this process so far, kernel workers of its rings included.
pub(crate) fn cpu_seconds() -> f64 {
    // SAFETY: rusage is plain data for which all-zero is a valid value, and it outlives the call that fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 * 1e-6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// Starts the high-water mark of the resident set anew; where the kernel refuses, it keeps counting from the start.
pub(crate) fn reset_peak_rss() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// The most memory that was resident since the last reset.
pub(crate) fn peak_rss_bytes() -> u64 {
    entry_bytes("/proc/self/status", "VmHWM").unwrap_or(0)
}
