//! Which files of a directory without an index make up its checkpoint.
//!
//! ```text
//!  model.safetensors                     there: it is the checkpoint; shards beside it are what a save left or leaves
//!  model-00001-of-00003.safetensors  --.
//!  model-00002-of-00003.safetensors    |--> a set: all of it, or nothing can be loaded
//!  model-00003-of-00003.safetensors  --'
//!  model-b-00001-of-00003.safetensors    of a save over that set, which is the checkpoint until there is an index
//! ```

use std::collections::{BTreeMap, BTreeSet};

/// What distinguishes the names of a save's shards from those of the one before.
pub(in crate::weights) const MARKS: [&str; 3] = ["", "-b", "-c"];
/// What files end with that hold tensors.
const END: &str = ".safetensors";

/// Stem, number and count of `STEM-NNNNN-of-NNNNN.safetensors`.
fn shard_name(name: &str) -> Option<(&str, u32, u32)> {
    let (rest, count) = name.strip_suffix(END)?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| match text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse::<u32>().ok(),
        false => None,
    };
    Some((stem, digits(number)?, digits(count)?))
}

/// Of all `*.safetensors` of a directory those that are to be read; fails, and says why, if a set is not whole.
pub(super) fn chosen(names: &[String]) -> Result<Vec<&str>, String> {
    let mut sets: BTreeMap<(&str, u32), BTreeSet<u32>> = BTreeMap::new();
    for (stem, number, count) in names.iter().filter_map(|name| shard_name(name)) {
        sets.entry((stem, count)).or_default().insert(number);
    }
    let single = |stem: &str| names.iter().any(|name| name.strip_suffix(END) == Some(stem));
    let whole = |count: u32, numbers: &BTreeSet<u32>| (1..=count).eq(numbers.iter().copied());
    let is_whole = |stem: &str| sets.iter().any(|((own, count), numbers)| *own == stem && whole(*count, numbers));
    let replaced_by_none = |stem: &str| {
        let base = MARKS[1..].iter().find_map(|mark| stem.strip_suffix(mark));
        !single(stem) && !base.is_some_and(|base| single(base) || is_whole(base))
    };
    for ((stem, count), numbers) in sets.iter().filter(|((stem, _), _)| replaced_by_none(stem)) {
        if !whole(*count, numbers) {
            let missing = (1..=*count).find(|number| !numbers.contains(number));
            let first =
                missing.map_or(String::new(), |number| format!(", {stem}-{number:05}-of-{count:05}{END} first"));
            let absent = (*count as usize).saturating_sub(numbers.len());
            return Err(format!(
                "{absent} of the {count} shards {stem}-*-of-{count:05}{END} are missing{first}, and there is no index: a \
                 download or a save was interrupted; fetch or save it again, or name the files to open"
            ));
        }
    }
    let wanted = |name: &&str| shard_name(name).is_none_or(|(stem, ..)| replaced_by_none(stem));
    Ok(names.iter().map(String::as_str).filter(wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(names: &str) -> Result<String, String> {
        let names: Vec<String> = names.split_whitespace().map(|name| format!("{name}{END}")).collect();
        let stems =
            |names: Vec<&str>| names.iter().map(|name| name.strip_suffix(END).unwrap()).collect::<Vec<_>>().join(" ");
        chosen(&names).map(stems)
    }

    #[test]
    fn a_set_is_read_whole_or_not_at_all_and_gives_way_to_the_file_itself() {
        let same = |names: &str| assert_eq!(choice(names).as_deref(), Ok(names));
        same("a b");
        same("m-00001-of-00002 m-00002-of-00002");
        same("m-1-of-2 m-00001-of-2");
        same("a-00001-of-00001 b-00001-of-00001 c");
        let chosen = |names: &str, wanted: &str| assert_eq!(choice(names).as_deref(), Ok(wanted), "{names}");
        chosen("m m-00001-of-00002", "m");
        chosen("m m-00001-of-00002 m-00002-of-00002 m-b-00001-of-00002 n", "m n");
        chosen("m-00001-of-00001 m-b-00001-of-00002", "m-00001-of-00001");
        chosen("m-00001-of-00001 m-c-00001-of-00001", "m-00001-of-00001");
        for (names, problem) in [
            ("m-00001-of-00003", "2 of the 3 shards m-*-of-00003.safetensors are missing, m-00002-of-00003"),
            ("m-00002-of-00002 n", "1 of the 2 shards m-*-of-00002.safetensors are missing, m-00001-of-00002"),
            ("m-00001-of-00002 m-00002-of-00003", "1 of the 2 shards"),
            ("m-00001-of-00002 m-b-00001-of-00001", "1 of the 2 shards"),
            ("m-00007-of-00001", "missing, m-00001-of-00001"),
            ("m-00000-of-00000", "0 of the 0 shards"),
        ] {
            let error = choice(names).unwrap_err();
            assert!(error.contains(problem), "{names}: {error}");
        }
    }
}
