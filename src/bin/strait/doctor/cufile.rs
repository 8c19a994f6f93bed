//! cuFile: what stands in its way here, and what its configuration says.

use std::path::PathBuf;

use serde_json::{Value, json};
use strait::storage::{Cufile, Surroundings};

use super::Finding;

const STAGED: &str = "bytes go through pinned slabs: at disk speed, the CPU touches none of them";
const PLACE: &str = "/etc/cufile.json";

/// What is said where there is a GPU; the facts are told anyway.
pub(super) fn examine() -> (Vec<Finding>, Value) {
    let surroundings = Surroundings::look();
    let obstacle = Cufile::obstacle(false);
    let (place, text) = configuration();
    let settings = text.as_deref().map(Settings::of);
    let mut findings = vec![match &obstacle {
        None => Finding::ok(
            "cuFile: nothing in its way that shows from outside",
            "a loader tries a real read of each file system (ext4 and XFS on NVMe drives only), and takes the direct path if it is right; a load of \
             weights does so for what lies in its files in stretches of a MiB and more, unless they are checked on the way or \
             go to several devices",
        ),
        Some(refusal) => Finding::note(format!("cuFile is not used: {}", refusal.reason), STAGED, refusal.remedy),
    }];
    if let Some(settings) = &settings {
        findings.extend(settings.findings(&place, &surroundings));
    }
    let facts = json!({
        "obstacle": obstacle.as_ref().map(|refusal| &refusal.reason),
        "proc_modules": surroundings.modules,
        "udev": surroundings.udev,
        "configuration": settings.as_ref().map(|settings| json!({
            "path": place,
            "readable": settings.readable,
            "allow_compat_mode": settings.allow_compat_mode,
            "use_pci_p2pdma": settings.use_pci_p2pdma,
        })),
    });
    (findings, facts)
}

/// As cuFile looks for it.
fn configuration() -> (PathBuf, Option<String>) {
    let place = std::env::var_os("CUFILE_ENV_PATH_JSON").map_or_else(|| PLACE.into(), PathBuf::from);
    let text = std::fs::read_to_string(&place).ok();
    (place, text)
}

/// What of cufile.json decides how files are read.
#[derive(Debug, PartialEq, Eq)]
struct Settings {
    readable: bool,
    allow_compat_mode: Option<bool>,
    use_pci_p2pdma: Option<bool>,
}

impl Settings {
    fn of(text: &str) -> Settings {
        let json: Option<Value> = serde_json::from_str(&without_comments(text)).ok();
        let setting = |name: &str| json.as_ref().and_then(|json| json["properties"][name].as_bool());
        Settings {
            readable: json.is_some(),
            allow_compat_mode: setting("allow_compat_mode"),
            use_pci_p2pdma: setting("use_pci_p2pdma"),
        }
    }

    fn findings(&self, place: &std::path::Path, surroundings: &Surroundings) -> Vec<Finding> {
        let mut findings = Vec::new();
        if !self.readable {
            let found = format!("{} is no JSON, comments aside", place.display());
            findings.push(Finding::note(found, "cuFile takes its defaults, or none at all", "mend it, or remove it"));
        }
        if self.use_pci_p2pdma == Some(false) && surroundings.peer_to_peer && !surroundings.nvidia_fs {
            let found = format!("{} forbids PCI peer-to-peer DMA, and there is no nvidia-fs", place.display());
            findings.push(Finding::note(found, STAGED, "set properties.use_pci_p2pdma to true, or load nvidia-fs"));
        }
        if self.allow_compat_mode == Some(true) {
            let found = format!("{} allows compatibility mode", place.display());
            let means = "cuFile reads files that it cannot read directly through host memory, and does not say so; strait keeps \
                         to file systems that are read directly, and other programs may not";
            findings.push(Finding::note(
                found,
                means,
                "set properties.allow_compat_mode to false to see such files fail",
            ));
        }
        findings
    }
}

/// cufile.json has comments to the end of the line, which JSON has not.
fn without_comments(text: &str) -> String {
    let (mut out, mut in_string, mut rest) = (String::with_capacity(text.len()), false, text);
    while let Some(next) = rest.chars().next() {
        let mut taken = next.len_utf8();
        match next {
            '"' => in_string = !in_string,
            '\\' if in_string => taken += rest[taken..].chars().next().map_or(0, char::len_utf8),
            '/' if !in_string && rest.starts_with("//") => {
                rest = rest.find('\n').map_or("", |end| &rest[end..]);
                continue;
            }
            _ => {}
        }
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_past_comments() {
        let text = r#"{
            // "allow_compat_mode": false,
            "logging": { "dir": "/var/log//cufile" }, // not a comment inside "
            "properties": { "allow_compat_mode": true, "note": "a \" // b", // really
                            "use_pci_p2pdma": false } }"#;
        let settings = Settings::of(text);
        let expected = Settings { readable: true, allow_compat_mode: Some(true), use_pci_p2pdma: Some(false) };
        assert_eq!(settings, expected);
        let there = Surroundings { modules: true, udev: true, nvidia_fs: false, peer_to_peer: true };
        let place = std::path::Path::new("/etc/cufile.json");
        assert_eq!(settings.findings(place, &there).len(), 2);
        assert_eq!(settings.findings(place, &Surroundings { nvidia_fs: true, ..there }).len(), 1);
        for broken in ["", "{", "nothing // \"", "\"\\", "{\"properties\": 3}"] {
            let settings = Settings::of(broken);
            assert_eq!(settings.allow_compat_mode, None, "{broken}");
        }
    }
}
