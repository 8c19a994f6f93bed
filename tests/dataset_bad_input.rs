//! Bad shards: each is a clear error that names the file and the byte, and no input makes the index panic or point
//! outside a shard.

mod dataset_tar;

use std::fs::File;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use dataset_tar::{GNU, POSIX, STYLES, Style, Tar, base256, header, octal, record, seal, write};
use proptest::prelude::*;
use strait::{Dataset, Error};

/// The byte and the text of the error that indexing `bytes` as a tar file gives, which must name the file.
fn refused(bytes: &[u8]) -> (u64, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "shard-7.tar", bytes);
    let error = Dataset::webdataset(&[&path]).expect_err("taken for a good shard");
    assert!(matches!(error, Error::Format { .. }), "{error:?}");
    assert_eq!(error.path(), Some(&*path));
    let text = error.to_string();
    let place = format!("{}: at byte {}: ", path.display(), error.offset().unwrap());
    assert!(text.starts_with(&place), "{text}");
    (error.offset().unwrap(), text)
}

/// Two samples, the second with a PAX header; the end mark is left to the caller.
fn two_samples() -> Tar {
    let mut tar = Tar::default();
    tar.member(Style::Ustar, "0.jpg", &[1; 700]);
    tar.member(Style::PaxPath, "1.jpg", &[2; 300]);
    tar
}

fn refused_tar(build: impl FnOnce(&mut Tar) -> u64) -> String {
    let mut tar = two_samples();
    let at = build(&mut tar);
    let (byte, text) = refused(&tar.finished());
    assert_eq!(byte, at, "{text}");
    text
}

#[track_caller]
fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

/// Every extent lies inside its shard; reading them would deliver nothing else.
fn assert_inside(dataset: &Dataset) {
    for id in 0..dataset.len() {
        for extent in (0..dataset.fields().len()).filter_map(|field| dataset.extent(id, field)) {
            let bytes = dataset.shards()[extent.shard as usize].bytes;
            assert!(extent.offset.checked_add(extent.len).is_some_and(|end| end <= bytes), "{extent:?} of {bytes}");
        }
    }
}

#[test]
fn a_truncated_tar_is_refused_but_for_a_cut_between_members() {
    let whole = two_samples().finished();
    // Byte 1536 ends the first member; 1536 is an extension header, 2048 its body, 2560 the member's own header, 3072
    // its data, 3584 the end mark.
    let dir = tempfile::tempdir().unwrap();
    let cuts = (0..=4096).filter(|cut| cut % 64 == 0 || [1, 511, 513, 1211, 1212, 3371, 3372].contains(cut));
    for cut in cuts {
        if [1536, 3584].contains(&cut) || cut >= 4096 {
            let dataset = Dataset::webdataset(&[write(dir.path(), "a.tar", &whole[..cut])]).unwrap();
            assert_eq!(dataset.len(), if cut == 1536 { 1 } else { 2 }, "{cut}");
            assert_inside(&dataset);
        } else if cut > 3584 {
            // Part of an end mark cannot be told from part of a header.
            assert_eq!(refused(&whole[..cut]).0, 3584, "{cut}");
        } else {
            let (byte, text) = refused(&whole[..cut]);
            let at = [0, 1536, 2560].into_iter().rfind(|&at| at < cut.max(1)).unwrap();
            // Without its own header an extension header is one too many, and itself what the error names.
            let want = if cut == 2560 { 1536 } else { at };
            assert_eq!(byte, want as u64, "cut at {cut}: {text}");
            assert_says(
                &text,
                &[match cut {
                    0 => "empty",
                    2560 => "ends before its member",
                    _ => "truncated",
                }],
            );
        }
    }
}

#[test]
fn a_wrong_checksum_is_refused_at_its_header() {
    let mut whole = two_samples().finished();
    whole[2560 + 5] ^= 1;
    let (byte, text) = refused(&whole);
    assert_eq!(byte, 2560);
    assert_says(&text, &["checksum", "damaged"]);
    let (byte, text) = refused(&[b'x'; 2000]);
    assert_eq!(byte, 0);
    assert_says(&text, &["no tar file"]);
}

#[test]
fn a_size_past_the_end_is_refused() {
    for size in [octal(1 << 30), base256(1 << 40), base256(u64::MAX), base256(u64::MAX - 511), octal(6657)] {
        let text = refused_tar(|tar| tar.entry(header(b"2.jpg", b'0', size, GNU), b""));
        assert_says(&text, &["bytes", "truncated"]);
    }
    for (key, value) in [("size", "99999999"), ("size", "18446744073709551615")] {
        let text = refused_tar(|tar| {
            tar.pax(b'x', &record(key, value));
            tar.entry(header(b"2.jpg", b'0', octal(0), POSIX), b"")
        });
        assert_says(&text, &[value, "truncated"]);
    }
    for size in [[0xff; 12], *b"0000000009x\0"] {
        assert_says(&refused_tar(|tar| tar.entry(header(b"2.jpg", b'0', size, GNU), b"")), &["size"]);
    }
}

#[test]
fn names_that_lead_out_are_refused() {
    for name in ["../2.jpg", "a/../../2.jpg", "a/..", ".."] {
        for style in [Style::Ustar, Style::GnuLong, Style::PaxPath] {
            let text = refused_tar(|tar| tar.member(style, name, b""));
            assert_says(&text, &[name, "\"..\""]);
        }
    }
    assert_says(&refused_tar(|tar| tar.member(Style::Ustar, "/etc/2.jpg", b"")), &["/etc/2.jpg", "absolute"]);
    assert_says(&refused_tar(|tar| tar.member(Style::Prefix, "/etc/2.jpg", b"")), &["/etc/2.jpg", "absolute"]);
    let mut fine = two_samples();
    fine.member(Style::Ustar, "a../..b.jpg", b"");
    let dir = tempfile::tempdir().unwrap();
    Dataset::webdataset(&[write(dir.path(), "a.tar", &fine.finished())]).unwrap();
}

#[test]
fn a_field_twice_in_a_sample_is_refused() {
    for name in ["2.JPG", "2.jpg"] {
        let text = refused_tar(|tar| {
            tar.member(Style::Ustar, "2.jpg", b"");
            tar.member(Style::Ustar, "2.cls", b"");
            tar.member(Style::Ustar, name, b"")
        });
        assert_says(&text, &[name, "already has a field \"jpg\""]);
    }
    assert_says(&refused_tar(|tar| tar.member(Style::Ustar, "2.__key__", b"")), &["__key__"]);
    assert_says(&refused_tar(|tar| tar.entry(header(b"2.\xff", b'0', octal(0), POSIX), b"")), &["UTF-8", "\\xff"]);
}

#[test]
fn sparse_files_are_refused_in_each_of_their_forms() {
    assert_says(&refused_tar(|tar| tar.entry(header(b"2.bin", b'S', octal(0), GNU), b"")), &["sparse"]);
    for key in ["GNU.sparse.map", "GNU.sparse.major", "GNU.sparse.size"] {
        let text = refused_tar(|tar| {
            tar.pax(b'x', &record(key, "1"));
            tar.member(Style::Ustar, "2.bin", b"x")
        });
        assert_says(&text, &["sparse"]);
    }
}

#[test]
fn extension_headers_are_bounded_and_checked() {
    let too_long = vec![b'n'; (1 << 20) + 1];
    for kind in *b"xL" {
        let text = refused_tar(|tar| tar.entry(header(b"e", kind, octal(too_long.len() as u64), GNU), &too_long));
        assert_says(&text, &["1048577 bytes"]);
    }
    let bad = refused_tar(|tar| tar.pax(b'x', b"9 path=a\n7 path=b\n") + 512 + 9);
    assert_says(&bad, &["PAX record"]);
    assert_says(&refused_tar(|tar| tar.pax(b'g', &record("path", "a"))), &["global"]);
    let twice = refused_tar(|tar| {
        tar.pax(b'x', &record("path", "a"));
        tar.pax(b'x', &record("path", "b"))
    });
    assert_says(&twice, &["second extension header"]);
    assert_says(&refused_tar(|tar| tar.pax(b'x', &record("path", "a"))), &["ends before its member"]);
}

#[test]
fn data_behind_the_end_mark_is_not_lost_without_a_word() {
    let joined = [two_samples().finished(), two_samples().finished()].concat();
    let (byte, text) = refused(&joined);
    assert_eq!(byte, 10240);
    assert_says(&text, &["end mark at byte 3584", "--ignore-zeros"]);
    let mut hole = two_samples().finished();
    hole[1536..2048].fill(0);
    assert_eq!(refused(&hole).0, 2048);
}

#[test]
fn too_many_fields_are_refused_before_they_fill_the_memory() {
    let mut tar = Tar::default();
    let mut last = 0;
    (0..=1024).for_each(|i| last = tar.member(Style::Ustar, &format!("n01.{i}.jpg"), b""));
    let (byte, text) = refused(&tar.finished());
    assert_eq!(byte, last);
    assert_says(&text, &["1024.jpg", "first dot"]);
    // 4,000 samples with one of 500 fields each would take 16 MB of index for 2 MB of headers.
    let mut tar = Tar::default();
    (0..4000).for_each(|i| {
        tar.member(Style::Ustar, &format!("{i}.f{}", i % 500), b"");
    });
    assert_says(&refused(&tar.finished()).1, &["f499", "first dot"]);
    // Over all shards, too.
    let dir = tempfile::tempdir().unwrap();
    let shard = |n: usize| {
        let mut tar = Tar::default();
        (0..600).for_each(|i| {
            tar.member(Style::Ustar, &format!("a.{n}-{i}"), b"");
        });
        write(dir.path(), &format!("{n}.tar"), &tar.finished())
    };
    let paths = [shard(0), shard(1)];
    let error = Dataset::webdataset(&paths).unwrap_err();
    assert_eq!((error.path(), error.offset()), (Some(&*paths[1]), Some(424 * 512)), "{error}");
}

#[test]
fn compressed_tars_are_refused_with_the_way_out() {
    let starts: [(&[u8], &str); 3] = [
        (b"\x1f\x8b\x08\0\0\0\0\0\0\x03", "`gunzip`"),
        (b"\x28\xb5\x2f\xfd\x04\0", "`unzstd`"),
        (b"\xfd7zXZ\0\0\x04", "`unxz`"),
    ];
    for (start, remedy) in starts {
        for len in [start.len(), 511, 512, 5000] {
            let mut bytes = start.to_vec();
            bytes.resize(len, 0xa5);
            let (byte, text) = refused(&bytes);
            assert_eq!(byte, 0);
            assert_says(&text, &["compressed", "decompress", remedy]);
        }
    }
}

#[test]
fn what_cannot_be_opened_says_why() {
    let dir = tempfile::tempdir().unwrap();
    type Open = fn(&Path) -> strait::Result<Dataset>;
    let opens: [(&str, Open); 2] =
        [("webdataset", |path| Dataset::webdataset(&[path])), ("records", |path| Dataset::records(&[path], 4))];
    for (format, open) in opens {
        let error = open(dir.path()).unwrap_err();
        assert_eq!((error.errno(), error.path()), (Some(libc::EISDIR), Some(dir.path())), "{format}");
        assert_says(&error.to_string(), &["directory"]);
        let missing = dir.path().join("missing.tar");
        let error = open(&missing).unwrap_err();
        assert_eq!((error.errno(), error.path()), (Some(libc::ENOENT), Some(&*missing)), "{format}");
        assert_says(
            &open(Path::new("/dev/null")).unwrap_err().to_string(),
            &["/dev/null: a pipe, socket or device", "no regular file"],
        );
        let locked = write(dir.path(), &format!("locked-{format}"), b"1234");
        std::fs::set_permissions(&locked, PermissionsExt::from_mode(0o000)).unwrap();
        if File::open(&locked).is_ok() {
            eprintln!("skipped: this user may read files of mode 000, so nothing is unreadable");
            continue;
        }
        let error = open(&locked).unwrap_err();
        assert_eq!((error.errno(), error.path()), (Some(libc::EACCES), Some(&*locked)), "{format}");
        assert_says(&error.to_string(), &["permissions"]);
    }
}

#[test]
fn records_come_in_whole_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, empty) = (write(dir.path(), "whole", &[0; 12]), write(dir.path(), "empty", b""));
    let dataset = Dataset::records(&[&empty, &whole, &empty], 4).unwrap();
    assert_eq!(dataset.shards().iter().map(|shard| shard.samples()).collect::<Vec<_>>(), [0, 3, 0]);
    assert_eq!(dataset.extent(2, 0), Some(strait::dataset::Extent { shard: 1, offset: 8, len: 4 }));
    assert_inside(&dataset);
    let error = Dataset::records(&[&whole], 5).unwrap_err();
    assert_eq!((error.path(), error.offset()), (Some(&*whole), Some(10)));
    assert_says(&error.to_string(), &["2 of 5 bytes", "record size"]);
    assert_says(&Dataset::records(&[&whole], 0).unwrap_err().to_string(), &["record_bytes", "at least 1"]);
    assert_says(&Dataset::records::<&Path>(&[], 4).unwrap_err().to_string(), &["no file was named"]);
    assert_says(&Dataset::webdataset::<&Path>(&[]).unwrap_err().to_string(), &["no file was named"]);
    Dataset::records(&[&whole], u64::MAX).unwrap_err();
}

/// A tar in all dialects, and what to do to it: overwrite bytes, perhaps put checksums right again, cut.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let writes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12);
    (writes, any::<bool>(), any::<prop::sample::Index>(), any::<bool>()).prop_map(|(writes, reseal, cut, keep)| {
        let mut tar = Tar::default();
        for (i, style) in STYLES.into_iter().enumerate() {
            tar.member(style, &format!("d/{}.{}", i / 2, ["jpg", "cls"][i % 2]), &[i as u8; 600]);
        }
        let mut bytes = tar.finished();
        for (at, byte) in writes {
            // Into the bytes of headers that mean something, for the most part.
            let at = at.index(bytes.len());
            let spot = [at, at / 512 * 512 + 124 + at % 12, at / 512 * 512 + 156][at % 3];
            bytes[spot] = if at % 2 == 0 { byte } else { b"0123456789xgLSK5\0/."[usize::from(byte) % 19] };
        }
        for block in bytes.chunks_exact_mut(512).filter(|block| reseal && block.iter().any(|&b| b != 0)) {
            seal(block.try_into().unwrap());
        }
        bytes.truncate(if keep { bytes.len() } else { cut.index(bytes.len()) });
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn any_bytes_give_extents_inside_the_file_or_an_error(
        bytes in prop_oneof![4 => mutated(), 1 => prop::collection::vec(any::<u8>(), 0..3000)],
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), "a.tar", &bytes);
        match Dataset::webdataset(&[&path]) {
            Ok(dataset) => assert_inside(&dataset),
            Err(e) => prop_assert!(e.offset().is_some_and(|at| at <= bytes.len() as u64), "{}", e),
        }
    }
}

#[test]
fn a_header_in_a_hole_far_out_costs_no_memory() {
    // A sparse file that claims a PAX body of 64 GiB and has it.
    let dir = tempfile::tempdir().unwrap();
    let mut tar = Tar::default();
    tar.entry(header(b"e", b'x', base256(64 << 30), GNU), b"");
    let path = write(dir.path(), "a.tar", &tar.0);
    let file = File::options().write(true).open(&path).unwrap();
    if let Err(e) = file.write_all_at(b"!", (64 << 30) + 1024) {
        eprintln!("skipped: no file of 64 GiB here: {e}");
        return;
    }
    assert_says(&Dataset::webdataset(&[&path]).unwrap_err().to_string(), &["at most 1048576"]);
}
