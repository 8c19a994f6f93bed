//! The cursor: a few hundred bytes that any rank can write, that survive text, and that refuse another dataset.

use proptest::prelude::*;
use strait::order::{
    AtEnd, BadSamplePolicy, BadSamples, Bucketing, Cursor, Fingerprint, IfChanged, Order, PackerState, Part, Policy,
    Progress, Rank, SKIPPED_MAX, Schedule, Shuffle,
};

fn fingerprint() -> Fingerprint {
    Fingerprint::new("webdataset", [("a.tar", 1_000, 60), ("b.tar", 2_000, 40)])
}

fn cursor() -> Cursor {
    let order = Order::new(Shuffle::Full, 100, 7).unwrap();
    let skipped = vec![3, 99];
    Cursor { skipped, ..Cursor::new(&order, fingerprint(), Progress { epoch: 2, consumed: 64 }) }
}

fn cursors() -> impl Strategy<Value = Cursor> {
    let shuffle = prop_oneof![
        Just(Shuffle::Sequential),
        Just(Shuffle::Full),
        (1u64.., 1u64..).prop_map(|(block_samples, window)| Shuffle::Block { block_samples, window }),
    ];
    let at_end = prop_oneof![Just(AtEnd::Stop), any::<u64>().prop_map(|positions| AtEnd::Repeat { positions })];
    let mixture = prop::option::of((prop::collection::vec(1u32.., 1..9), at_end));
    let packer = prop::option::of(any::<(u64, u64)>().prop_map(|(document, token)| PackerState { document, token }));
    let bucketing = prop::option::of(
        (1u64..1 << 20, 1u64..100).prop_map(|(window, run)| Bucketing { window, run: run.min(window) }),
    );
    let tokens = prop::option::of(("\\PC{0,12}", any::<u64>()));
    let fields = prop::option::of(prop::collection::vec("\\PC{0,12}", 0..3));
    let cut = (bucketing, tokens, fields, prop::option::of(any::<(u64, Option<u64>)>()), packer);
    let skipped = prop::collection::btree_set(0u64..1 << 40, 0..20);
    (any::<(u64, u64, u64, (u64, Option<u64>), u32)>(), 0u64..1 << 53, "\\PC{0,12}", shuffle, mixture, cut, skipped)
        .prop_map(
            |(
                (seed, epoch, bytes, (layout, places), consecutive_bad),
                positions,
                format,
                shuffle,
                mixture,
                (bucketing, tokens, fields, windows, packer),
                skipped,
            )| Cursor {
                seed,
                shuffle,
                progress: Progress { epoch, consumed: positions / 2 },
                positions,
                fingerprint: Fingerprint { format, shards: bytes % 977, samples: 1 << 40, bytes, layout, places },
                mixture,
                bucketing,
                tokens,
                fields,
                windows,
                packer,
                skipped: skipped.into_iter().collect(),
                consecutive_bad,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn text_gives_the_cursor_back(cursor in cursors()) {
        prop_assert_eq!(Cursor::parse(cursor.to_json().as_bytes()).unwrap(), cursor);
    }

    #[test]
    fn any_bytes_give_a_cursor_or_an_error(cursor in cursors(), at: usize, byte: u8, cut: usize, noise: Vec<u8>) {
        let mut text = cursor.to_json().into_bytes();
        let (at, cut) = (at % text.len(), cut % text.len());
        prop_assert!(Cursor::parse(&text[..cut]).is_err());
        prop_assert!(Cursor::parse(&noise).is_err());
        text[at] = byte;
        if let Ok(other) = Cursor::parse(&text) {
            prop_assert_eq!(Cursor::parse(other.to_json().as_bytes()).unwrap(), other);
        }
        text.splice(at..at, noise);
        let _ = Cursor::parse(&text);
    }
}

/// Saved cursors are files of other people: this text must be read for as long as its versions stand.
#[test]
fn golden_text_of_version_1() {
    let text = concat!(
        r#"{"strait_cursor":1,"order_version":1,"seed":7,"shuffle":"full","epoch":2,"consumed":64,"positions":100,"#,
        r#""dataset":{"format":"webdataset","shards":2,"samples":100,"bytes":3000,"layout":"d95ff9976b3d8df6"},"#,
        r#""mixture":null,"bucketing":null,"packer":null,"skipped":[3,99],"consecutive_bad":0}"#,
    );
    assert_eq!(cursor().to_json(), text);
    assert_eq!(Cursor::parse(text.as_bytes()).unwrap(), cursor());
    let parts = [Part { samples: 60, weight: 7 }, Part { samples: 40, weight: 3 }];
    let order =
        Order::mixture(&parts, Shuffle::Block { block_samples: 8, window: 2 }, 7, AtEnd::Repeat { positions: 90 });
    let mut mixed = Cursor::new(&order.unwrap(), fingerprint(), Progress::default());
    mixed.packer = Some(PackerState { document: 5, token: 17 });
    let text = mixed.to_json();
    assert!(text.contains(r#""shuffle":"block:8x2""#), "{text}");
    assert!(text.contains(r#""mixture":{"weights":[7,3],"repeat_positions":90}"#), "{text}");
    assert!(text.contains(r#""packer":{"document":5,"token":17}"#), "{text}");
    assert!(text.len() < 400, "{} bytes", text.len());
}

/// What windows are cut of is in the text, in as little as it takes; texts from before it was are still read, and taken at
/// their word.
#[test]
fn golden_text_of_windows() {
    let packed = |cut: &str| {
        format!(
            concat!(
                r#"{{"strait_cursor":1,"order_version":1,"seed":7,"shuffle":"full","epoch":2,"consumed":64,"positions":100,"#,
                r#""dataset":{{"format":"webdataset","shards":2,"samples":100,"bytes":3000,"layout":"d95ff9976b3d8df6"}},"#,
                r#""mixture":null,"bucketing":null,{}"packer":{{"document":5,"token":17}},"skipped":[3,99],"consecutive_bad":0}}"#,
            ),
            cut
        )
    };
    let with = |bytes, window, stride| Cursor {
        tokens: Some(("txt".into(), bytes)),
        windows: Some((window, stride)),
        packer: Some(PackerState { document: 5, token: 17 }),
        ..cursor()
    };
    let text = packed(r#""tokens":{"field":"txt","bytes":4},"windows":{"tokens":2048,"stride":null},"#);
    assert_eq!(with(4, 2048, None).to_json(), text);
    assert!(text.len() < 450, "{} bytes", text.len());
    assert!(with(2, 64, Some(63)).to_json().contains(r#""windows":{"tokens":64,"stride":63}"#));
    let old = Cursor::parse(packed("").as_bytes()).unwrap();
    assert_eq!(old, Cursor { tokens: None, windows: None, ..with(4, 2048, None) });
    for start in [with(4, 2048, None), with(2, 64, None)] {
        assert_eq!(old.resume(&start, IfChanged::Refuse).unwrap(), old.progress);
    }
}

#[test]
fn values_out_of_range_are_refused() {
    let text = cursor().to_json();
    for (from, to, word) in [
        (r#""strait_cursor":1"#, r#""strait_cursor":2,"new":0"#, "cursor format 2"),
        (r#""order_version":1"#, r#""order_version":9"#, "order version 9"),
        (r#""epoch":2"#, r#""epoch":-2"#, "invalid value"),
        (r#""epoch":2"#, r#""epoch":2,"extra":1"#, "extra"),
        (r#""epoch":2"#, r#""epoch":2,"epoch":3"#, "duplicate"),
        (r#""consumed":64"#, r#""consumed":101"#, "101 of 100 positions"),
        (r#""positions":100"#, r#""positions":18446744073709551615"#, "out of range"),
        (r#""bucketing":null"#, r#""bucketing":{"window":8,"run":0}"#, "runs of 0"),
        (r#""shuffle":"full""#, r#""shuffle":"random""#, "random"),
        (r#""shuffle":"full""#, r#""shuffle":"block:0x4""#, "block:0x4"),
        ("[3,99]", "[99,3]", "ascending"),
        ("[3,99]", "[3,100]", "not below 100"),
        (r#""layout":""#, r#""layout":"+"#, "hexadecimal"),
        (r#""mixture":null"#, r#""mixture":{"weights":[],"repeat_positions":null}"#, "weights"),
    ] {
        assert!(text.contains(from), "{from}");
        let error = Cursor::parse(text.replace(from, to).as_bytes()).unwrap_err().to_string();
        assert!(error.contains(word), "{to}: {error}");
    }
    let long = vec![b' '; 1 << 20];
    assert!(Cursor::parse(&long).unwrap_err().to_string().contains("1048576 bytes"));
    let deep = "[".repeat(50_000);
    assert!(Cursor::parse(deep.as_bytes()).is_err());
}

#[test]
fn a_changed_dataset_is_named_and_only_allowed_on_demand() {
    let start = |fingerprint: Fingerprint| {
        let order = Order::new(Shuffle::Full, fingerprint.samples, 7).unwrap();
        Cursor::new(&order, fingerprint, Progress::default())
    };
    let cursor = cursor();
    assert_eq!(cursor.resume(&start(fingerprint()), IfChanged::Refuse).unwrap(), cursor.progress);
    let a = ("a.tar", 1_000, 60);
    for (other, word) in [
        (Fingerprint::new("records", [a, ("b.tar", 2_000, 40)]), "format was webdataset and is records"),
        (Fingerprint::new("webdataset", [a]), "shards was 2 and is 1"),
        (Fingerprint::new("webdataset", [a, ("b.tar", 2_000, 41)]), "samples was 100 and is 101"),
        (Fingerprint::new("webdataset", [a, ("b.tar", 2_048, 40)]), "bytes was 3000 and is 3048"),
        (Fingerprint::new("webdataset", [a, ("c.tar", 2_000, 40)]), "layout"),
        (Fingerprint::new("webdataset", [("b.tar", 2_000, 40), a]), "layout"),
        (Fingerprint::new("webdataset", [("a.tar", 1_000, 40), ("b.tar", 2_000, 60)]), "layout"),
    ] {
        let start = start(other);
        let error = cursor.resume(&start, IfChanged::Refuse).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
        assert_eq!(cursor.resume(&start, IfChanged::Allow).unwrap(), cursor.progress);
    }
    // Samples of other lengths, or in another order; a cursor that says nothing of them goes on.
    let placed = |len| fingerprint().with_places([(0, 512, len), (0, 2048, 30 - len)]);
    let of = |fingerprint| Cursor { fingerprint, ..cursor.clone() };
    let error = of(placed(10)).resume(&start(placed(20)), IfChanged::Refuse).unwrap_err().to_string();
    assert!(error.contains("the dataset changed: places"), "{error}");
    for (was, is) in [(placed(10), placed(10)), (fingerprint(), placed(10)), (placed(10), fingerprint())] {
        assert_eq!(of(was).resume(&start(is), IfChanged::Refuse).unwrap(), cursor.progress);
    }
    // The same shards cut into other windows.
    let other = Cursor { positions: 90, ..start(fingerprint()) };
    let error = cursor.resume(&other, IfChanged::Refuse).unwrap_err().to_string();
    assert!(error.contains("positions of an epoch was 100 and is 90"), "{error}");
    let shorter = Schedule::new(Order::new(Shuffle::Full, 63, 7).unwrap(), 1, Rank::SINGLE, Policy::Short).unwrap();
    assert!(shorter.steps(cursor.progress).unwrap_err().to_string().contains("64 samples"));
}

#[test]
fn another_order_is_never_continued() {
    let parts = [Part { samples: 100, weight: 1 }];
    for (order, word) in [
        (Order::new(Shuffle::Full, 100, 8), "seed was 7 and is 8"),
        (Order::new(Shuffle::Sequential, 100, 7), "shuffle was full and is sequential"),
        (Order::mixture(&parts, Shuffle::Full, 7, AtEnd::Stop), "mixture was None"),
    ] {
        let start = Cursor::new(&order.unwrap(), fingerprint(), Progress::default());
        let error = cursor().resume(&start, IfChanged::Allow).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
    let start = Cursor::new(&Order::new(Shuffle::Full, 100, 7).unwrap(), fingerprint(), Progress::default());
    for (start, word) in [
        (Cursor { bucketing: Some(Bucketing { window: 64, run: 8 }), ..start.clone() }, "bucketing was None"),
        (Cursor { packer: Some(PackerState::default()), ..start }, "packing was off and is on"),
    ] {
        let error = cursor().resume(&start, IfChanged::Allow).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

/// Mutant that this catches: a cursor that is taken for silent about its windows because it has a packer.
#[test]
fn windows_cut_otherwise_are_never_continued() {
    let cut = |field: &str, bytes, windows, packed: bool| Cursor {
        tokens: Some((field.into(), bytes)),
        windows,
        packer: packed.then(PackerState::default),
        ..cursor()
    };
    let (stored, packed) = (Some((64, Some(63))), Some((64, None)));
    for (was, is, word) in [
        (cut("txt", 4, packed, true), cut("text", 4, packed, true), "token field was txt and is text"),
        (cut("txt", 4, packed, true), cut("txt", 2, packed, true), "token bytes was 4 and is 2"),
        (cut("txt", 4, packed, true), cut("txt", 4, Some((65, None)), true), "window tokens was 64 and is 65"),
        (cut("txt", 4, stored, false), cut("txt", 4, Some((64, Some(64))), false), "stride tokens was 63 and is 64"),
        (cut("txt", 4, stored, false), cut("txt", 4, packed, true), "packing was off and is on"),
        (cut("txt", 4, stored, false), cursor(), "token field was txt and is none"),
        (cursor(), cut("txt", 4, stored, false), "token field was none and is txt"),
    ] {
        for if_changed in [IfChanged::Refuse, IfChanged::Allow] {
            let error = was.resume(&is, if_changed).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
            assert_eq!(was.resume(&was, if_changed).unwrap(), was.progress);
        }
    }
}

#[test]
fn what_ranks_skipped_is_put_together() {
    let mut one = cursor();
    let two = Cursor { skipped: vec![3, 50], consecutive_bad: 1, ..cursor() };
    one.merge(&two).unwrap();
    assert_eq!((&one.skipped, one.consecutive_bad), (&vec![3, 50, 99], 1));
    let later = Cursor { progress: Progress { epoch: 2, consumed: 65 }, ..cursor() };
    assert!(one.merge(&later).is_err());
}

/// A resumed run skips what was skipped, without reading it again and without paying for it again.
#[test]
fn skipped_samples_stay_skipped() {
    let policy = BadSamplePolicy::Skip { budget: 3, consecutive: 9 };
    let cursor = Cursor::parse(cursor().to_json().as_bytes()).unwrap();
    let mut bad = BadSamples::resume(policy, &cursor.skipped, cursor.consecutive_bad).unwrap();
    assert!(bad.contains(99) && !bad.contains(98));
    let _ = (bad.bad(99), bad.bad(3), bad.bad(98));
    assert_eq!(bad.skipped(), [3, 98, 99]);
}

#[test]
fn the_fullest_cursor_is_still_read() {
    let parts = vec![Part { samples: 1 << 40, weight: 64 }; 1_024];
    let order = Order::mixture(&parts, Shuffle::Full, u64::MAX, AtEnd::Stop).unwrap();
    let shard = ("a".repeat(200), u64::MAX, order.samples());
    let fingerprint = Fingerprint::new(&"format+".repeat(40), [(shard.0.as_str(), shard.1, shard.2)]);
    let mut cursor = Cursor::new(&order, fingerprint, Progress { epoch: u64::MAX, consumed: order.len() });
    cursor.skipped = (0..SKIPPED_MAX as u64).map(|i| (1 << 49) + i).collect();
    let text = cursor.to_json();
    assert_eq!(Cursor::parse(text.as_bytes()).unwrap(), cursor);
}

#[test]
fn mixtures_have_one_fingerprint() {
    let (a, b) = (fingerprint(), Fingerprint::new("records", [("c.bin", 512, 2)]));
    let both = Fingerprint::combine([&a, &b]);
    assert_eq!((both.format.as_str(), both.shards, both.samples, both.bytes), ("webdataset+records", 3, 102, 3_512));
    assert_ne!(both.layout, Fingerprint::combine([&b, &a]).layout);
}
