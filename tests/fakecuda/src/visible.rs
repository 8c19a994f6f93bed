//! The devices that a process sees: those of the machine (`FAKECUDA_DEVICES` says how many, 2 if nothing does) that
//! `CUDA_VISIBLE_DEVICES` names, in its order. As the driver reads it: numbers, or what a UUID begins with; what is named behind
//! something that is none is not seen.

const DEVICES: usize = 2;

/// Theirs begin alike but for one digit.
fn uuid(device: usize) -> String {
    format!("GPU-5a{device:02x}0000-0000-4000-8000-000000000000")
}

pub(crate) fn devices() -> Vec<usize> {
    let count = std::env::var("FAKECUDA_DEVICES").ok().and_then(|count| count.parse().ok()).unwrap_or(DEVICES);
    match std::env::var("CUDA_VISIBLE_DEVICES") {
        Err(_) => (0..count).collect(),
        Ok(named) => seen(count, &named),
    }
}

fn seen(count: usize, named: &str) -> Vec<usize> {
    let place = |name: &str| match name.starts_with("GPU-") {
        true => {
            let mut found = (0..count).filter(|&device| uuid(device).starts_with(name));
            found.next().filter(|_| found.next().is_none()) // one alone
        }
        false => name.parse().ok().filter(|&device| device < count),
    };
    named.split(',').map_while(|name| place(name.trim())).collect()
}
