//! Runs that stop and go on: killed, on another world and batch size, over the end of an epoch, on a changed dataset.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{bytes_of, disk_directory, write_shard};
use strait::order::{BadSamplePolicy, Cursor, IfChanged, Policy, Progress, Rank, SKIPPED_MAX, Shuffle};
use strait::{Batch, Builder, Dataset, Device, Loader};

const RECORD: u64 = 1000;
/// Records of each shard; the shard's number is also the seed of its bytes.
const SHARDS: [u64; 3] = [150, 1, 106];
const SAMPLES: u64 = 257;

fn write_shards(directory: &Path) -> Vec<PathBuf> {
    (0..).zip(SHARDS).map(|(seed, records)| write_shard(directory, seed, records * RECORD)).collect()
}

fn builder(paths: &[PathBuf]) -> Builder {
    let dataset = Dataset::records(paths, RECORD).unwrap();
    Loader::builder(dataset).device(Device::host()).shuffle(Shuffle::Full).seed(5).block_bytes(64 << 10)
}

/// Compares every byte of a batch with its shard, and gives its samples without padding.
fn check(batch: &Batch) -> Vec<u64> {
    let view = batch.field("record").unwrap();
    for (i, &sample) in batch.samples().iter().enumerate() {
        let (mut local, mut shard) = (sample, 0);
        while local >= SHARDS[shard] {
            local -= SHARDS[shard];
            shard += 1;
        }
        let want = bytes_of(shard as u64, local * RECORD, RECORD);
        assert!(view.host_bytes(i).unwrap().unwrap() == want, "wrong bytes in sample {sample}");
    }
    batch.samples()[..batch.len() - batch.padded() as usize].to_vec()
}

fn sorted(mut samples: Vec<u64>) -> Vec<u64> {
    samples.sort_unstable();
    samples
}

fn at(epoch: u64, consumed: u64) -> Progress {
    Progress { epoch, consumed }
}

/// Mutant that this catches: a cursor that counts what was read ahead.
#[test]
fn a_cursor_counts_what_was_delivered() {
    let directory = disk_directory();
    let mut loader = builder(&write_shards(directory.path())).batch_size(10).prefetch(8).build().unwrap();
    assert_eq!(loader.cursor().progress, at(0, 0));
    for step in 0..3 {
        let batch = loader.rest_of_epoch().next().unwrap().unwrap();
        std::thread::sleep(Duration::from_millis(20)); // read-ahead runs on
        assert_eq!(batch.cursor().progress, at(0, 10 * (step + 1)));
        assert_eq!(loader.cursor(), batch.cursor());
    }
    assert_eq!(loader.rest_of_epoch().map(|batch| check(&batch.unwrap()).len()).sum::<usize>() as u64, SAMPLES - 30);
    assert_eq!(loader.cursor().progress, at(1, 0));
    let last = loader.rest_of_epoch().last().unwrap().unwrap();
    assert_eq!(last.cursor().progress, at(2, 0), "the last batch of an epoch leads to the next");
    drop(last);
    assert_eq!(loader.epoch(7).take(0).count(), 0);
    assert_eq!(loader.cursor().progress, at(7, 0));
}

#[test]
fn what_is_left_of_an_epoch_may_be_nothing() {
    let directory = disk_directory();
    let paths = write_shards(directory.path());
    let mut loader = builder(&paths).batch_size(250).policy(Policy::Drop).build().unwrap();
    let from = Cursor { progress: at(3, 250), ..loader.cursor() };
    loader.resume(&from, IfChanged::Refuse).unwrap();
    assert!(loader.rest_of_epoch().next().is_none());
    assert_eq!(loader.cursor().progress, at(4, 0));
    assert_eq!(loader.rest_of_epoch().next().unwrap().unwrap().cursor().progress, at(5, 0));
}

/// Runs `world` ranks from a cursor for `steps` steps; gives the samples and the cursor that all of them agree on.
fn stretch(paths: &[PathBuf], from: Option<&str>, world: u32, batch_size: usize, steps: usize) -> (Vec<u64>, String) {
    let mut all = Vec::new();
    let mut cursors = Vec::new();
    for rank in 0..world {
        let rank = Rank::new(rank, world).unwrap();
        let mut loader = builder(paths).batch_size(batch_size).rank(rank).policy(Policy::Pad).build().unwrap();
        if let Some(text) = from {
            loader.resume(&Cursor::parse(text.as_bytes()).unwrap(), IfChanged::Refuse).unwrap();
        }
        loader.rest_of_epoch().take(steps).for_each(|batch| all.extend(check(&batch.unwrap())));
        cursors.push(loader.cursor().to_json());
    }
    assert!(cursors.iter().all(|cursor| *cursor == cursors[0]), "{cursors:?}");
    (all, cursors.swap_remove(0))
}

#[test]
fn another_world_and_batch_size_deliver_the_rest_once() {
    let directory = disk_directory();
    let paths = write_shards(directory.path());
    let (mut all, cursor) = stretch(&paths, None, 3, 7, 4);
    assert_eq!(Cursor::parse(cursor.as_bytes()).unwrap().progress, at(0, 84));
    let (more, cursor) = stretch(&paths, Some(&cursor), 2, 16, 2);
    all.extend(more);
    assert_eq!(Cursor::parse(cursor.as_bytes()).unwrap().progress, at(0, 148));
    let (more, cursor) = stretch(&paths, Some(&cursor), 4, 3, usize::MAX);
    all.extend(more);
    assert_eq!(Cursor::parse(cursor.as_bytes()).unwrap().progress, at(1, 0));
    assert_eq!(sorted(all), (0..SAMPLES).collect::<Vec<_>>());
}

#[test]
fn a_changed_dataset_is_refused_by_name_and_allowed_on_demand() {
    let directory = disk_directory();
    let paths = write_shards(directory.path());
    let mut loader = builder(&paths).batch_size(10).build().unwrap();
    let saved = loader.epoch(2).nth(4).unwrap().unwrap().cursor();
    let moved = disk_directory();
    let changed = |name: &str, change: &dyn Fn(&mut Vec<PathBuf>)| {
        let place = moved.path().join(name);
        fs::create_dir(&place).unwrap();
        let mut paths = write_shards(&place);
        change(&mut paths);
        (builder(&paths).batch_size(20).build().unwrap(), place)
    };
    let added = |paths: &mut Vec<PathBuf>| paths.push(write_shard(paths[0].parent().unwrap(), 9, RECORD));
    let resized = |paths: &mut Vec<PathBuf>| fs::write(&paths[1], vec![0; 2 * RECORD as usize]).unwrap();
    let renamed = |paths: &mut Vec<PathBuf>| {
        let name = paths[1].with_file_name("other.bin");
        fs::rename(&paths[1], &name).unwrap();
        paths[1] = name;
    };
    for (name, change, word) in [
        ("added", &added as &dyn Fn(&mut Vec<PathBuf>), "shards was 3 and is 4"),
        ("resized", &resized, "samples was 257 and is 258"),
        ("renamed", &renamed, "layout (shard names"),
    ] {
        let (mut loader, _) = changed(name, change);
        let error = loader.resume(&saved, IfChanged::Refuse).unwrap_err().to_string();
        assert!(error.contains("the dataset changed") && error.contains(word), "{error}");
        assert_eq!(loader.cursor().progress, at(0, 0), "a refused cursor changes nothing");
        loader.resume(&saved, IfChanged::Allow).unwrap();
        assert_eq!(loader.rest_of_epoch().next().unwrap().unwrap().cursor().progress, at(2, 70));
    }
    let (mut same, _) = changed("moved", &|_| {});
    same.resume(&saved, IfChanged::Refuse).unwrap();
    let other_seed = Cursor { seed: 6, ..saved };
    let error = same.resume(&other_seed, IfChanged::Allow).unwrap_err().to_string();
    assert!(error.contains("seed was 6 and is 5"), "{error}");
}

#[test]
fn text_that_is_no_cursor_is_an_error() {
    let directory = disk_directory();
    let mut loader = builder(&write_shards(directory.path())).batch_size(10).build().unwrap();
    let text = loader.epoch(0).next().unwrap().unwrap().cursor().to_json();
    for end in 0..text.len() {
        assert!(Cursor::parse(&text.as_bytes()[..end]).is_err(), "the first {end} bytes");
    }
    assert!(Cursor::parse(&[text.as_bytes(), b"}"].concat()).is_err());
    assert!(Cursor::parse(&[0; 512]).is_err());
    // Well-formed, and not of this run.
    let beyond = Cursor { progress: at(0, SAMPLES + 1), ..loader.cursor() };
    assert!(loader.resume(&beyond, IfChanged::Refuse).unwrap_err().to_string().contains("258 samples consumed"));
}

/// Saves a cursor so that a crash leaves the old one or the new one, whole.
fn save(directory: &Path, cursor: &Cursor) {
    fs::write(directory.join("new"), cursor.to_json()).unwrap();
    fs::rename(directory.join("new"), directory.join("cursor")).unwrap();
}

/// What the consumer used, one line of sample ids for each batch. A line is whole if it ends in a newline.
fn used(path: &Path) -> Vec<Vec<u64>> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| line.split(' ').map(|id| id.parse().unwrap()).collect()).collect()
}

/// A process killed without warning in mid-epoch and resumed from its last saved cursor delivers the rest exactly once.
#[test]
fn a_killed_run_goes_on_where_its_last_cursor_was_saved() {
    use std::io::{Read, Write};
    /// Of 51 steps.
    const LAST: u64 = 48;
    const ROLE: &str = "STRAIT_TEST_KILLED_RUN";
    if let Some(directory) = std::env::var_os(ROLE).map(PathBuf::from) {
        let paths: Vec<_> = (0..3).map(|seed| directory.join(format!("shard-{seed}.bin"))).collect();
        let mut loader = builder(&paths).batch_size(5).build().unwrap();
        let mut log = fs::File::create(directory.join("log")).unwrap();
        for batch in loader.rest_of_epoch() {
            let batch = batch.unwrap();
            let line: Vec<String> = check(&batch).iter().map(u64::to_string).collect();
            writeln!(log, "{}", line.join(" ")).unwrap();
            save(&directory, &batch.cursor());
            std::thread::sleep(Duration::from_millis(5)); // a step of training
            if batch.step() == LAST {
                std::io::stdin().read_exact(&mut [0]).unwrap(); // who is late to kill finds it here
            }
        }
        return;
    }
    for kill_after in [1, 17, 40] {
        let directory = disk_directory();
        let paths = write_shards(directory.path());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_killed_run_goes_on_where_its_last_cursor_was_saved", "--nocapture"])
            .env(ROLE, directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let log = directory.path().join("log");
        let start = Instant::now();
        while used(&log).len() < kill_after {
            assert!(start.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none(), "it ended early");
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();

        let mut loader = builder(&paths).batch_size(12).build().unwrap();
        let cursor = match fs::read(directory.path().join("cursor")) {
            Ok(text) => Cursor::parse(&text).unwrap(),
            Err(_) => loader.cursor(), // killed between the first batch and its cursor: it starts anew
        };
        let done = used(&log);
        // A batch that was used and whose cursor was not saved comes again: at most the last one.
        let saved = (cursor.progress.consumed / 5) as usize;
        assert!(cursor.progress.epoch == 0 && (saved == done.len() || saved + 1 == done.len()), "{cursor:?}");
        let mut all: Vec<u64> = done[..saved].concat();
        assert!(all.len() as u64 == cursor.progress.consumed && (all.len() as u64) < SAMPLES);
        loader.resume(&cursor, IfChanged::Refuse).unwrap();
        loader.rest_of_epoch().for_each(|batch| all.extend(check(&batch.unwrap())));
        assert_eq!(sorted(all), (0..SAMPLES).collect::<Vec<_>>());
    }
}

/// Whatever has been consumed and skipped: a cursor is as small at the end of a long epoch as at its start, but for what it
/// lists. (What it costs is measured: `cargo bench --bench resume`.)
#[test]
fn cursors_stay_small() {
    let directory = disk_directory();
    let path = directory.path().join("many.bin");
    fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
    let builder = Loader::builder(Dataset::records(&[path], 1).unwrap()).device(Device::host()).batch_size(64);
    let mut loader = builder.bad_samples(BadSamplePolicy::Replace).build().unwrap();
    for (skipped, most) in [(0, 350), (SKIPPED_MAX as u64, 350 + 5 * SKIPPED_MAX)] {
        let from = Cursor { progress: at(3, 1 << 19), skipped: (0..skipped).collect(), ..loader.cursor() };
        loader.resume(&from, IfChanged::Refuse).unwrap();
        let cursor = loader.rest_of_epoch().next().unwrap().unwrap().cursor();
        assert_eq!((cursor.progress, cursor.skipped.len() as u64), (at(3, (1 << 19) + 64), skipped));
        assert!(cursor.to_json().len() < most, "{}", cursor.to_json());
    }
}

/// Nothing is replayed: the first batch at the end of a long epoch takes no more reads than at its start.
#[test]
fn a_late_start_reads_what_an_early_one_does() {
    let directory = disk_directory();
    let path = directory.path().join("many.bin");
    let records = 20_000_000;
    fs::File::create(&path).unwrap().set_len(records * 16).unwrap();
    let dataset = Dataset::records(&[path], 16).unwrap();
    for consumed in [0, records / 2 + 1, records - 1000] {
        let builder = Loader::builder(dataset.clone()).device(Device::host()).shuffle(Shuffle::Full);
        let mut loader = builder.batch_size(64).prefetch(1).hold(1).build().unwrap();
        let from = Cursor { progress: at(5, consumed), ..loader.cursor() };
        loader.resume(&from, IfChanged::Refuse).unwrap();
        let batch = loader.rest_of_epoch().next().unwrap().unwrap();
        assert_eq!(batch.cursor().progress.consumed, consumed + 64);
        // This one, and the one that is read ahead.
        assert!(loader.stats().reads <= 2 * 64, "{} reads", loader.stats().reads);
    }
}
