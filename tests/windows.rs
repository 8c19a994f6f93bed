//! Windows of tokens and packed documents, on real files: the bytes, the boundaries, and where a run goes on.

mod common;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use common::{bytes_of, disk_directory, write_shard};
use strait::order::{AtEnd, Bucketing, Budget, Cost, Order, Part};
use strait::order::{Cursor, IfChanged, Packer, PackerState, Piece, Policy, Progress, Rank, Shuffle, TokenWindows};
use strait::{Batch, Builder, Dataset, Device, Loader, PathChoice};

/// One window as it was delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Window {
    number: u64,
    pieces: Vec<Piece>,
    cu_seqlens: Vec<u32>,
    bytes: Vec<u8>,
}

fn windows_of(batch: &Batch) -> Vec<Window> {
    let window = |(i, &number): (usize, &u64)| {
        let view = batch.window(i).unwrap();
        let bytes = (0..view.pieces.len()).flat_map(|piece| view.bytes.host_bytes(piece).unwrap().unwrap()).copied();
        let (pieces, cu_seqlens) = (view.pieces.to_vec(), view.cu_seqlens.to_vec());
        Window { number, pieces, cu_seqlens, bytes: bytes.collect() }
    };
    assert!(batch.fields().iter().all(|field| batch.field(&field.name).is_none()));
    batch.samples().iter().enumerate().map(window).collect()
}

/// What is left of an epoch: each batch's windows without padding, and its cursor.
fn rest(loader: &mut Loader) -> Vec<(Vec<Window>, Cursor)> {
    let take = |batch: strait::Result<Batch>| {
        let batch = batch.unwrap();
        let mut windows = windows_of(&batch);
        let padding = windows.split_off(windows.len() - batch.padded() as usize);
        assert!(padding.iter().all(|one| windows.last().is_none_or(|last| one == last)));
        (windows, batch.cursor())
    };
    loader.rest_of_epoch().map(take).collect()
}

/// The ranks' windows of each step, one after the other.
fn steps(ranks: Vec<Vec<(Vec<Window>, Cursor)>>) -> Vec<Vec<Window>> {
    assert!(ranks.iter().all(|rank| rank.len() == ranks[0].len()));
    let cursors = |step: usize| ranks.iter().map(move |rank: &Vec<(Vec<Window>, Cursor)>| rank[step].1.clone());
    (0..ranks[0].len()).for_each(|step| assert!(cursors(step).all(|cursor| cursor == ranks[0][step].1)));
    (0..ranks[0].len()).map(|step| ranks.iter().flat_map(|rank| rank[step].0.clone()).collect()).collect()
}

fn builder(dataset: &Dataset) -> Builder {
    Loader::builder(dataset.clone()).device(Device::host()).block_bytes(64 << 10).seed(9)
}

/// A tar shard of documents in the field `txt`, some empty, some of many windows; every fifth sample has none. Gives what
/// each document holds.
fn write_documents(directory: &Path, count: u64) -> (PathBuf, Vec<Vec<u8>>) {
    let path = directory.join("documents.tar");
    let mut tar = tar::Builder::new(std::fs::File::create(&path).unwrap());
    let mut add = |name: String, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes).unwrap();
    };
    let mut documents = Vec::new();
    for number in 0..count {
        add(format!("{number:05}.cls"), b"x");
        let tokens = [number * number * 7 % 90, 0, 3, 400, 1][number as usize % 5];
        documents.push(if number % 5 == 2 { Vec::new() } else { bytes_of(number, 0, 4 * tokens) });
        if number % 5 != 2 {
            add(format!("{number:05}.txt"), &documents[number as usize]);
        }
    }
    tar.finish().unwrap();
    (path, documents)
}

#[test]
fn windows_are_those_of_the_stream_as_it_is_stored() {
    let directory = disk_directory();
    let lens = [(1, 3000), (2, 40), (3, 0), (4, 12_000), (5, 2)];
    let raw: Vec<_> = lens.iter().map(|&(seed, len)| write_shard(directory.path(), seed, len)).collect();
    let shards: Vec<Vec<u8>> = lens.iter().map(|&(seed, len)| bytes_of(seed, 0, len)).collect();
    let (tar, documents) = write_documents(directory.path(), 60);
    let raw = Dataset::records(&raw, 2).unwrap();
    let tar = Dataset::webdataset(&[tar]).unwrap();
    for (dataset, documents, field, item) in [(&raw, &shards, "record", 2), (&tar, &documents, "txt", 4)] {
        for (window_tokens, stride_tokens, path) in
            [(128, 128, PathChoice::Auto), (100, 99, PathChoice::Staged), (2000, 7, PathChoice::Auto)]
        {
            let stream: Vec<u8> = documents.concat();
            let starts: Vec<u64> = (0..documents.len())
                .map(|document| documents[..document].iter().map(Vec::len).sum::<usize>() as u64 / item)
                .collect();
            let tokens = stream.len() as u64 / item;
            let cut = TokenWindows::new(tokens, window_tokens, stride_tokens).unwrap();
            let build = || builder(dataset).tokens(field, item).windows(window_tokens, stride_tokens);
            let mut loader = build().batch_size(7).shuffle(Shuffle::Full).path(path).build().unwrap();
            let all = rest(&mut loader);
            for window in all.iter().flat_map(|(windows, _)| windows) {
                let range = cut.range(window.number);
                assert!(window.bytes == stream[(range.start * item) as usize..(range.end * item) as usize]);
                let mut boundaries = Vec::new();
                let first_token = |document: u64| starts[document as usize];
                cut.boundaries(window.number, starts.len() as u64, first_token, &mut boundaries);
                assert_eq!(window.cu_seqlens, boundaries);
                for (piece, ends) in window.pieces.iter().zip(window.cu_seqlens.windows(2)) {
                    assert_eq!(piece.tokens, u64::from(ends[1] - ends[0]));
                    assert_eq!(starts[piece.document as usize] + piece.start, range.start + u64::from(ends[0]));
                }
            }
            let mut numbers: Vec<u64> = all.iter().flat_map(|(windows, _)| windows).map(|one| one.number).collect();
            numbers.sort_unstable();
            assert!(numbers.into_iter().eq(0..cut.len()), "not every window once");
            // Three ranks go on behind the second batch.
            let rank = |rank| {
                let rank = Rank::new(rank, 3).unwrap();
                let mut one =
                    build().batch_size(4).shuffle(Shuffle::Full).rank(rank).policy(Policy::Pad).build().unwrap();
                one.resume(&all[1].1, IfChanged::Refuse).unwrap();
                rest(&mut one)
            };
            let resumed = steps((0..3).map(rank).collect()).concat();
            let left: Vec<Window> = all[2..].iter().flat_map(|(windows, _)| windows.clone()).collect();
            assert_eq!(resumed, left);
        }
    }
}

/// Token datasets by weight: windows of each, no window over the border between two, and a resume that goes on exactly.
#[test]
fn windows_are_mixed_by_weight() {
    let directory = disk_directory();
    let raw: Vec<_> = [(1, 30_000), (2, 500)].map(|(seed, len)| write_shard(directory.path(), seed, len)).into();
    let small = write_shard(directory.path(), 3, 4 * 1000);
    let datasets = vec![Dataset::records(&raw, 4).unwrap(), Dataset::records(&[small], 4).unwrap()];
    let streams = [[bytes_of(1, 0, 30_000), bytes_of(2, 0, 500)].concat(), bytes_of(3, 0, 4 * 1000)];
    let joined = Dataset::concat(datasets).unwrap();
    let (window_tokens, stride_tokens) = (64, 60);
    let weights = [3, 2];
    let build = |rank, world, batch_size| {
        let mixed = builder(&joined).tokens("record", 4).windows(window_tokens, stride_tokens).shuffle(Shuffle::Full);
        let mixed = mixed.mixture(&weights, AtEnd::Repeat { positions: 100 }).policy(Policy::Drop);
        mixed.rank(Rank::new(rank, world).unwrap()).batch_size(batch_size).build().unwrap()
    };
    let cuts = streams
        .each_ref()
        .map(|stream| TokenWindows::new(stream.len() as u64 / 4, window_tokens, stride_tokens).unwrap());
    let parts: Vec<Part> = cuts.iter().zip(weights).map(|(cut, weight)| Part { samples: cut.len(), weight }).collect();
    let order = Order::mixture(&parts, Shuffle::Full, 9, AtEnd::Repeat { positions: 100 }).unwrap();
    let mut loader = build(0, 1, 10);
    let mut all = Vec::new();
    for epoch in 0..2 {
        loader.epoch(epoch);
        all.extend(rest(&mut loader));
    }
    assert_eq!(all.len(), 20);
    for (number, window) in all.iter().flat_map(|(windows, _)| windows).enumerate() {
        assert_eq!(window.number, order.sample_at(number as u64 / 100, number as u64 % 100));
        let (dataset, local) = order.as_mixture().unwrap().locate(window.number);
        let range = cuts[dataset].range(local);
        assert!(window.bytes == streams[dataset][4 * range.start as usize..4 * range.end as usize], "window {number}");
    }
    let from_first: usize =
        all.iter().flat_map(|(windows, _)| windows).filter(|one| one.number < cuts[0].len()).count();
    assert_eq!(from_first, 120, "three of five");
    let cursor = Cursor::parse(all[12].1.to_json().as_bytes()).unwrap();
    let rank = |rank| {
        let mut one = build(rank, 2, 7);
        one.resume(&cursor, IfChanged::Refuse).unwrap();
        let batch = one.rest_of_epoch().next().unwrap().unwrap();
        let own = order.as_mixture().unwrap().progress(batch.cursor().progress);
        assert_eq!(batch.datasets(), own, "how far each dataset is");
        drop(batch);
        one.resume(&cursor, IfChanged::Refuse).unwrap();
        rest(&mut one)
    };
    let resumed = steps(vec![rank(0), rank(1)]).concat();
    let left: Vec<Window> = all[13..].iter().flat_map(|(windows, _)| windows.clone()).collect();
    assert_eq!(resumed, left[..70]);
}

/// What the packer itself says about the windows of an epoch, from its start.
fn packed(documents: &[Vec<u8>], window_tokens: u64, epoch: u64) -> Vec<(Vec<Piece>, Vec<u32>)> {
    let order = Order::new(Shuffle::Full, documents.len() as u64, 9).unwrap();
    let tokens_of = |document: u64| documents[document as usize].len() as u64 / 4;
    let tokens = (0..documents.len() as u64).map(tokens_of).sum();
    let packer = Packer::new(order, window_tokens, tokens).unwrap();
    let mut packing = packer.resume(Progress { epoch, consumed: 0 }, PackerState::default());
    let window = |number| {
        let (mut pieces, mut cu_seqlens) = (Vec::new(), Vec::new());
        packing.window(number, tokens_of, &mut pieces, &mut cu_seqlens).unwrap();
        (pieces, cu_seqlens)
    };
    (0..packer.windows()).map(window).collect()
}

#[test]
fn packed_windows_hold_every_token_once_and_go_on_exactly() {
    let directory = disk_directory();
    let (tar, documents) = write_documents(directory.path(), 200);
    let dataset = Dataset::webdataset(&[tar]).unwrap();
    let window_tokens = 150;
    let build = |rank, world, batch_size, policy| {
        let packed = builder(&dataset).tokens("txt", 4).pack(window_tokens).shuffle(Shuffle::Full);
        packed.batch_size(batch_size).rank(Rank::new(rank, world).unwrap()).policy(policy).build().unwrap()
    };
    for epoch in 0..2 {
        let want = packed(&documents, window_tokens, epoch);
        let mut loader = build(0, 1, 5, Policy::Short);
        assert_eq!(loader.steps(), Some(want.len().div_ceil(5) as u64));
        loader.epoch(epoch);
        let all = rest(&mut loader);
        // An epoch that is given up, and begun again.
        assert_eq!(loader.epoch(epoch).take(2).count(), 2);
        loader.epoch(epoch);
        assert!(rest(&mut loader) == all, "not the same again");
        let windows: Vec<Window> = all.iter().flat_map(|(windows, _)| windows.clone()).collect();
        let mut times: HashMap<(u64, u64), u32> = HashMap::new();
        for (number, (window, want)) in windows.iter().zip(&want).enumerate() {
            assert_eq!((window.number, &window.pieces, &window.cu_seqlens), (number as u64, &want.0, &want.1));
            let bytes = |piece: &Piece| {
                let start = 4 * piece.start as usize;
                &documents[piece.document as usize][start..start + 4 * piece.tokens as usize]
            };
            assert!(window.bytes == window.pieces.iter().map(bytes).collect::<Vec<_>>().concat());
            for piece in &window.pieces {
                (piece.start..piece.start + piece.tokens)
                    .for_each(|t| *times.entry((piece.document, t)).or_default() += 1);
            }
        }
        let tokens: usize = documents.iter().map(|document| document.len() / 4).sum();
        assert!(times.values().all(|&count| count == 1) && windows.len() == want.len());
        assert_eq!(tokens - times.len(), tokens % window_tokens as usize, "left out");

        // Other worlds and batches, under every policy, from the middle, and from the text of a cursor.
        for (policy, world, batch_size, after) in
            [(Policy::Drop, 2, 3, 1), (Policy::Pad, 3, 4, 3), (Policy::Wrap, 2, 4, 2), (Policy::Pad, 5, 9, 1)]
        {
            let cursor = Cursor::parse(all[after - 1].1.to_json().as_bytes()).unwrap();
            let rank = |rank| {
                let mut one = build(rank, world, batch_size, policy);
                one.resume(&cursor, IfChanged::Refuse).unwrap();
                rest(&mut one)
            };
            let resumed = steps((0..world).map(rank).collect()).concat();
            let left = &windows[after * 5..];
            let whole = resumed.len().min(left.len());
            assert_eq!(resumed[..whole], left[..whole], "{policy:?}");
            match policy {
                Policy::Drop => assert!(left.len() - whole < (world * 3) as usize),
                _ => assert_eq!(whole, left.len()),
            }
            if policy == Policy::Wrap {
                let again = &resumed[whole..];
                assert!(again.iter().zip(&windows).all(|(one, first)| one == first), "wrapped to the start");
            }
        }
    }
}

/// Going on over a changed dataset finds the place by a walk, as the cursor's own is another dataset's.
#[test]
fn a_changed_dataset_goes_on_at_the_same_window() {
    let directory = disk_directory();
    let (tar, _) = write_documents(directory.path(), 100);
    let moved = directory.path().join("other.tar");
    std::fs::copy(&tar, &moved).unwrap();
    let build = |path: &PathBuf| {
        let dataset = Dataset::webdataset(&[path]).unwrap();
        builder(&dataset).tokens("txt", 4).pack(64).batch_size(4).shuffle(Shuffle::Full).build().unwrap()
    };
    let mut loader = build(&tar);
    let all = rest(&mut loader);
    let mut other = build(&moved);
    assert!(other.resume(&all[2].1, IfChanged::Refuse).is_err());
    other.resume(&all[2].1, IfChanged::Allow).unwrap();
    assert_eq!((other.cursor().packer, other.cursor().progress), (all[2].1.packer, all[2].1.progress));
    assert!(rest(&mut other).iter().map(|(windows, _)| windows).eq(all[3..].iter().map(|(windows, _)| windows)));
}

/// The same windows are what a cursor counts: any other ones are refused by the field that differs.
#[test]
fn windows_cut_otherwise_are_refused_by_name() {
    let directory = disk_directory();
    let path = directory.path().join("two.tar");
    let mut tar = tar::Builder::new(std::fs::File::create(&path).unwrap());
    for name in ["0.txt", "0.ids", "1.txt", "1.ids"] {
        let mut header = tar::Header::new_ustar();
        header.set_size(4000);
        tar.append_data(&mut header, name, &[7; 4000][..]).unwrap();
    }
    tar.finish().unwrap();
    let dataset = Dataset::webdataset(&[path]).unwrap();
    let stored = |field, bytes, window, stride| builder(&dataset).tokens(field, bytes).windows(window, stride);
    let packed = |field, bytes, window| builder(&dataset).tokens(field, bytes).pack(window);
    let build = |builder: Builder| builder.batch_size(3).build().unwrap();
    let by_length = || {
        let budget = Budget { samples_max: 1, cost_max: 8000, cost: Cost::Sum };
        builder(&dataset).budget(budget, Bucketing { window: 2, run: 1 })
    };
    let bucketed = |field, bytes| by_length().tokens(field, bytes);
    // As many windows of either kind, so that nothing but what is said of them differs.
    for (was, others) in [
        (
            stored("txt", 4, 250, 250),
            vec![
                (stored("ids", 4, 250, 250), "token field was txt and is ids"),
                (stored("txt", 2, 500, 500), "token bytes was 4 and is 2"),
                (stored("txt", 4, 247, 247), "window tokens was 250 and is 247"),
                (stored("txt", 4, 250, 249), "stride tokens was 250 and is 249"),
                (packed("txt", 4, 250), "packing was off and is on"),
                (builder(&dataset), "token field was txt and is none"),
            ],
        ),
        (
            packed("txt", 4, 250),
            vec![
                (packed("ids", 4, 250), "token field was txt and is ids"),
                (packed("txt", 2, 500), "token bytes was 4 and is 2"),
                (packed("txt", 4, 248), "window tokens was 250 and is 248"),
                (stored("txt", 4, 250, 250), "packing was on and is off"),
            ],
        ),
        (by_length().fields(&["txt"]), vec![(by_length(), "fields of lengths was txt and is none")]),
        (
            bucketed("txt", 4),
            vec![(bucketed("ids", 4), "token field was txt"), (bucketed("txt", 2), "token bytes was 4")],
        ),
    ] {
        let mut loader = build(was);
        let text = loader.epoch(0).next().unwrap().unwrap().cursor().to_json();
        let saved = Cursor::parse(text.as_bytes()).unwrap();
        for (other, word) in others {
            let mut other = build(other);
            for if_changed in [IfChanged::Refuse, IfChanged::Allow] {
                let error = other.resume(&saved, if_changed).unwrap_err().to_string();
                assert!(error.contains(word), "{error}");
            }
        }
    }
}

#[test]
fn what_makes_no_windows_is_an_error() {
    let directory = disk_directory();
    let raw = Dataset::records(&[write_shard(directory.path(), 1, 1001)], 1).unwrap();
    let error = |builder: Builder| builder.build().err().unwrap().to_string();
    let pack = || builder(&raw).tokens("record", 1).pack(100);
    assert!(error(builder(&raw).pack(100)).contains("the option `tokens`"));
    assert!(error(builder(&raw).tokens("nope", 2)).contains("there is no field \"nope\""));
    assert!(error(builder(&raw).tokens("record", 2).pack(100)).contains("document 0 has 1001 bytes"));
    assert!(error(builder(&raw).tokens("record", 1).pack(2000)).contains("1001 tokens fill no window of 2000"));
    assert!(error(builder(&raw).tokens("record", 1).windows(10, 11)).contains("stride"));
    let budget = Budget { samples_max: 1, cost_max: 1, cost: Cost::Sum };
    assert!(error(pack().budget(budget, Bucketing::NONE)).contains("no budget"));
    assert!(error(pack().mixture(&[1], AtEnd::Stop)).contains("`windows` in place of `pack`"));
    let short = Dataset::records(&[write_shard(directory.path(), 2, 99)], 1).unwrap();
    let two = Dataset::concat(vec![raw.clone(), short]).unwrap();
    let mixed = |window, weights: &[u32]| {
        builder(&two).tokens("record", 1).windows(window, window).mixture(weights, AtEnd::Stop)
    };
    assert!(error(mixed(100, &[1, 1])).contains("99 tokens fill no window of 100"));
    assert!(error(mixed(50, &[1])).contains("1 weights for 2 datasets"));
}
