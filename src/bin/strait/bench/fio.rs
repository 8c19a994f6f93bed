//! fio as the second yardstick: the tool that storage people believe.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::measure::Measure;
use super::progress::Watch;
use super::request::Request;
use crate::failure::{Failure, Result};

/// `fio-3.36`, or why it cannot be used.
pub(crate) fn version() -> std::result::Result<String, String> {
    match Command::new("fio").arg("--version").output() {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        Ok(output) => Err(format!("fio --version ended with {}", output.status)),
        Err(_) => Err("not installed (apt-get install fio)".into()),
    }
}

/// The same reads as the limit's, as fio's options.
pub(crate) fn arguments(request: &Request) -> Vec<String> {
    let block = request.reference_bytes();
    // fio separates files by colons.
    let names: Vec<String> = request.paths.iter().map(|path| path.to_string_lossy().replace(':', "\\:")).collect();
    let mut arguments: Vec<String> = ["--name=reference", "--ioengine=io_uring", "--direct=1", "--fixedbufs=1"]
        .iter()
        .chain(&["--registerfiles=1", "--readonly", "--output-format=json"])
        .map(|argument| (*argument).to_owned())
        .collect();
    let (order, service) = if request.shuffle { ("randread", "random") } else { ("read", "sequential") };
    arguments.extend([
        format!("--rw={order}"),
        format!("--file_service_type={service}"),
        format!("--bs={block}"),
        format!("--iodepth={}", request.depth),
        format!("--filename={}", names.join(":")),
        format!("--randseed={}", request.seed + 1),
    ]);
    if names.len() == 1 {
        arguments.push(format!("--size={}", request.file_bytes - request.file_bytes % block));
    }
    if let Some(seconds) = request.seconds {
        arguments.push(format!("--runtime={}ms", (seconds * 1000.0).ceil()));
    }
    arguments
}

/// The outer `Result` is for interruption; the inner one says why fio has no number here.
pub(crate) fn run(request: &Request, watch: &mut Watch) -> Result<std::result::Result<Measure, String>> {
    let spawned = Command::new("fio")
        .args(arguments(request))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
            return Ok(Err(denied("no process for fio", &error)));
        }
        Err(error) => return Ok(Err(error.to_string())),
    };
    let readers = match (child.stdout.take().map(read_all).transpose(), child.stderr.take().map(read_all).transpose()) {
        (Ok(stdout), Ok(stderr)) => (stdout, stderr),
        (Err(error), _) | (_, Err(error)) => {
            let _ = child.kill();
            let _ = child.wait();
            return Ok(Err(denied("no thread to read what fio prints", &error)));
        }
    };
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => return Err(Failure::new("cannot wait for fio", error.to_string(), "")),
        }
        if let Err(interrupted) = watch.tick(0) {
            let _ = child.kill();
            let _ = child.wait();
            return Err(interrupted);
        }
    };
    let text = |reader: Option<std::thread::JoinHandle<String>>| {
        reader.map_or(String::new(), |r| r.join().unwrap_or_default())
    };
    let (stdout, stderr) = (text(readers.0), text(readers.1));
    if !status.success() {
        let line = stderr.lines().chain(stdout.lines()).find(|line| !line.trim().is_empty()).unwrap_or("no message");
        return Ok(Err(format!("fio ended with {status}: {}", line.trim())));
    }
    Ok(parse(&stdout))
}

fn denied(what: &str, error: &std::io::Error) -> String {
    format!("{what}: {error}; raise `ulimit -u`, or pids.max of the cgroup")
}

fn read_all(mut from: impl Read + Send + 'static) -> std::io::Result<std::thread::JoinHandle<String>> {
    std::thread::Builder::new().spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Bytes, run time and processor time of the one job; fio may print notes before its JSON.
fn parse(text: &str) -> std::result::Result<Measure, String> {
    let start = text.find('{').ok_or("fio printed no JSON")?;
    let json: Value = serde_json::from_str(&text[start..]).map_err(|e| format!("fio's JSON: {e}"))?;
    let job = &json["jobs"][0];
    if let Some(code) = job["error"].as_i64().filter(|code| *code != 0) {
        return Err(format!("fio's reads failed: {}", crate::linux::errno_name(code as i32)));
    }
    let read = &job["read"];
    let field = |value: &Value, name: &str| value[name].as_f64().ok_or(format!("fio's JSON has no {name}"));
    let (bytes, bytes_per_s) = (field(read, "io_bytes")?, field(read, "bw_bytes")?);
    if bytes <= 0.0 || bytes_per_s <= 0.0 {
        return Err("fio read nothing".into());
    }
    // usr_cpu and sys_cpu are per cent of job_runtime, which is in milliseconds.
    let cpu_seconds = (field(job, "usr_cpu")? + field(job, "sys_cpu")?) / 100.0 * field(job, "job_runtime")? / 1000.0;
    Ok(Measure { bytes: bytes as u64, seconds: bytes / bytes_per_s, cpu_seconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fio_json_is_read_with_a_note_before_it() {
        let text = r#"note: both iodepth >= 1 and synchronous I/O engine are selected
            {"fio version":"fio-3.33","jobs":[{"error":0,"job_runtime":2000,"usr_cpu":1.5,"sys_cpu":3.5,
             "read":{"io_bytes":2147483648,"bw_bytes":1073741824,"runtime":2000}}]}"#;
        let measure = parse(text).unwrap();
        assert_eq!((measure.bytes, measure.seconds), (2 << 30, 2.0));
        assert!((measure.cpu_seconds_per_gib() - 0.05).abs() < 1e-12);
    }

    #[test]
    fn what_fio_cannot_say_is_said() {
        assert!(parse("fio: engine io_uring not loadable").unwrap_err().contains("JSON"));
        assert!(parse(r#"{"jobs":[{"error":1,"read":{}}]}"#).unwrap_err().contains("EPERM"));
        assert!(parse(r#"{"jobs":[{"read":{"io_bytes":0,"bw_bytes":0}}]}"#).unwrap_err().contains("nothing"));
    }
}
