//! Which devices there are where `CUDA_VISIBLE_DEVICES` says so. Each case is a process: the driver reads it once.
#![cfg(feature = "cuda")]

mod stand_in;

use std::process::Command;

use strait::Device;
use strait::order::Rank;

const CHILD: &str = "STRAIT_TEST_VISIBLE_DEVICES";

/// The devices by number, until there is none, and those of local ranks; errors as they are said.
fn told() -> String {
    let say = |device: strait::Result<Device>| device.map_or_else(|error| error.to_string(), |device| device.name());
    let of = |local: u32| {
        let variables = move |name: &str| match name {
            "RANK" | "LOCAL_RANK" => Some(local.to_string()),
            "WORLD_SIZE" => Some("8".to_string()),
            _ => None,
        };
        say(Device::for_rank(Rank::from_env(variables).unwrap().unwrap()))
    };
    let numbers = (0..8).map(|ordinal| format!("number {ordinal}: {}\n", say(Device::cuda(ordinal))));
    numbers.chain((0..4).map(|local| format!("rank {local}: {}\n", of(local)))).collect()
}

/// What a process is told on a machine of so many devices.
fn process(devices: u32, visible: Option<&str>) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "a_process_has_the_devices_that_it_sees", "--nocapture"]);
    child.env(CHILD, "1").env("FAKECUDA_DEVICES", devices.to_string()).env_remove("CUDA_VISIBLE_DEVICES");
    let answer = child.envs(visible.map(|visible| ("CUDA_VISIBLE_DEVICES", visible))).output().unwrap();
    let text = String::from_utf8(answer.stdout).unwrap();
    assert!(answer.status.success(), "{text}");
    text.lines().filter(|line| line.starts_with("number ") || line.starts_with("rank ")).map(String::from).collect()
}

/// Mutants that this catches: a rank that does not go back to the one device that its process was given; one that takes the first
/// of several.
#[test]
fn a_process_has_the_devices_that_it_sees() {
    if std::env::var_os(CHILD).is_some() {
        let (fake, _alone) = stand_in::take();
        println!("\n{}", told());
        return assert_eq!(fake.misuse(), "");
    }
    // Of how many devices which are seen: as places on the machine, in order.
    for (devices, visible, seen) in [
        (2, None, &[0, 1][..]),
        (1, None, &[0]),
        (0, None, &[]),
        (2, Some(""), &[]),
        (2, Some("-1"), &[]),
        (2, Some("0"), &[0]),
        (2, Some("1"), &[1]),
        (2, Some("1,0"), &[1, 0]),
        (2, Some("0,7,1"), &[0]),
        (4, Some("3, 1"), &[3, 1]),
        (2, Some("GPU-5a010000-0000-4000-8000-000000000000"), &[1]),
        (2, Some("GPU-5a01,GPU-5a00"), &[1, 0]),
        (2, Some("GPU-5a"), &[]), // more than one
    ] {
        let lines = process(devices, visible);
        let case = format!("{devices} devices, {visible:?}: {lines:#?}");
        assert_eq!(lines.len(), 8 + 4, "{case}");
        let name = |ordinal: usize| format!("cuda:{ordinal} (stand-in {})", seen[ordinal]);
        for (ordinal, line) in lines[..8].iter().enumerate() {
            match (seen.get(ordinal), seen.len()) {
                (Some(_), _) => assert_eq!(*line, format!("number {ordinal}: {}", name(ordinal)), "{case}"),
                (None, 0) => assert!(line.contains("(100)") && line.contains("CUDA_VISIBLE_DEVICES"), "{case}"),
                (None, count) => assert!(line.contains(&format!("there are {count} CUDA devices")), "{case}"),
            }
        }
        for (local, line) in lines[8..].iter().enumerate() {
            match seen.len() {
                0 => assert_eq!(*line, format!("rank {local}: host"), "{case}"),
                // A launcher that shows each process its own.
                1 => assert_eq!(*line, format!("rank {local}: {}", name(0)), "{case}"),
                count if local < count => assert_eq!(*line, format!("rank {local}: {}", name(local)), "{case}"),
                count => assert!(line.contains(&format!("there are {count} CUDA devices")), "{case}"),
            }
        }
    }
}
