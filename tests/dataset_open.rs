//! Dataset::open finds out what it is given; fingerprints tell datasets apart.

mod dataset_tar;

use std::path::{Path, PathBuf};

use dataset_tar::{Style, Tar, write};
use strait::dataset::{Format, Options};
use strait::{DType, Dataset};

fn tar(names: &[&str]) -> Vec<u8> {
    let mut tar = Tar::default();
    names.iter().for_each(|name| {
        tar.member(Style::Ustar, name, b"data");
    });
    tar.finished()
}

fn file_names(dataset: &Dataset) -> Vec<&str> {
    dataset.shards().iter().map(|shard| shard.path.file_name().unwrap().to_str().unwrap()).collect()
}

fn open<P: AsRef<Path>>(paths: &[P], record_bytes: Option<u64>) -> strait::Result<Dataset> {
    record_bytes.map_or_else(Dataset::options, |bytes| Dataset::options().record_bytes(bytes)).open(paths)
}

fn problem(paths: &[&Path], record_bytes: Option<u64>) -> String {
    open(paths, record_bytes).unwrap_err().to_string()
}

#[test]
fn a_directory_stands_for_its_files_by_name() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["10", "2", "1", ".hidden"] {
        write(dir.path(), name, &[0; 8]);
    }
    std::fs::create_dir(dir.path().join("below")).unwrap();
    write(&dir.path().join("below"), "0", &[0; 8]);
    std::os::unix::fs::symlink(dir.path().join("1"), dir.path().join("3")).unwrap();
    let dataset = open(&[dir.path()], Some(4)).unwrap();
    assert_eq!((dataset.format(), dataset.len()), ("records", 8));
    assert_eq!(file_names(&dataset), ["1", "10", "2", "3"]);
    let empty = tempfile::tempdir().unwrap();
    let text = problem(&[empty.path()], Some(4));
    assert!(text.contains("without files") && text.contains(empty.path().to_str().unwrap()), "{text}");
}

#[test]
fn tar_files_are_told_by_content_or_name_and_from_what_lies_beside_them() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "b.tar", &tar(&["0.jpg"]));
    write(dir.path(), "a", &tar(&["1.jpg", "2.jpg"]));
    for beside in ["a.parquet", "b.tar.idx", "b_stats.json"] {
        write(dir.path(), beside, b"{}");
    }
    for record_bytes in [None, Some(2)] {
        let dataset = open(&[dir.path()], record_bytes).unwrap();
        assert_eq!((dataset.format(), dataset.len()), ("webdataset", 3));
        assert_eq!(file_names(&dataset), ["a", "b.tar"]);
    }
    let a = dir.path().join("a");
    assert_eq!(Dataset::records(&[&a], 512).unwrap().len(), 20, "forced");
    let no_tar = write(dir.path(), "c.tar", b"by name alone");
    assert!(problem(&[&no_tar], Some(1)).contains("tar header"));
    let text = problem(&[&a, &dir.path().join("b_stats.json")], Some(2));
    assert!(text.contains("one format") && text.contains("b_stats.json"), "{text}");
}

#[test]
fn what_has_no_format_says_what_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let plain = write(dir.path(), "tokens.bin", &[7; 600]);
    let text = problem(&[&plain], None);
    for word in ["tokens.bin", "WebDataset tar", "record size", "record_bytes"] {
        assert!(text.contains(word), "{text}");
    }
    assert_eq!(open(&[&plain], Some(100)).unwrap().len(), 6);
    let zipped = write(dir.path(), "shards.gz", b"\x1f\x8b\x08\0 and so on");
    assert!(problem(&[&zipped], None).contains("decompress"));
    assert_eq!(open(&[&zipped], Some(1)).unwrap().format(), "records");
    assert!(problem(&[&write(dir.path(), "a.TGZ", b"\x1f\x8b\x08\0 and so on")], Some(1)).contains("decompress"));
    assert!(problem(&[], None).contains("no file was named"));
    assert!(problem(&[Path::new("/nowhere/at/all")], None).contains("/nowhere/at/all"));
}

/// A tar whose size and number of samples do not depend on the order of the lengths.
fn one_tar(dir: &Path, lens: [usize; 3]) -> PathBuf {
    let mut tar = tar::Builder::new(Vec::new());
    for (sample, len) in lens.into_iter().enumerate() {
        let mut header = tar::Header::new_ustar();
        header.set_size(len as u64);
        tar.append_data(&mut header, format!("{sample}.jpg"), &[0; 3][..len]).unwrap();
    }
    write(dir, "lens.tar", &tar.into_inner().unwrap())
}

/// What is looked at of a dataset is bounded, and spread over all of it.
#[test]
fn a_fingerprint_sees_samples_change_places() {
    let dir = tempfile::tempdir().unwrap();
    let of = |middle: usize| {
        let mut tar = tar::Builder::new(Vec::new());
        for sample in 0..3000 {
            let len = 512
                * if sample == middle {
                    2
                } else if sample == 2999 - middle {
                    0
                } else {
                    1
                };
            let mut header = tar::Header::new_ustar();
            header.set_size(len as u64);
            tar.append_data(&mut header, format!("{sample:04}.jpg"), &vec![0; len][..]).unwrap();
        }
        Dataset::webdataset(&[write(dir.path(), "a.tar", &tar.into_inner().unwrap())]).unwrap().fingerprint()
    };
    let [a, b, c] = [100, 200, 2800].map(of);
    assert!(a == of(100) && (a.bytes, a.layout) == (b.bytes, b.layout));
    for (was, is) in [(&a, &b), (&a, &c), (&b, &c)] {
        let error = was.check(is).unwrap_err().to_string();
        assert!(error.contains("the dataset changed: places"), "{error}");
    }
}

#[test]
fn a_fingerprint_tells_datasets_apart_and_stays() {
    let make = |dir: &Path, name: &str, bytes: &[u8]| -> PathBuf { write(dir, name, bytes) };
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let fingerprint = |paths: &[PathBuf]| open(paths, Some(4)).unwrap().fingerprint();
    let base = [make(one.path(), "a.tar", &tar(&["0.jpg"])), make(one.path(), "b.tar", &tar(&["1.jpg"]))];
    let moved = [make(two.path(), "a.tar", &tar(&["0.jpg"])), make(two.path(), "b.tar", &tar(&["1.jpg"]))];
    // Golden: saved cursors hold them.
    assert_eq!(fingerprint(&base).places, Some(0xdca7_5683_4aa1_7ec1), "{:#x?}", fingerprint(&base).places);
    assert_eq!(fingerprint(&base).layout, 0x918e_f34f_ff22_2036, "{:#x}", fingerprint(&base).layout);
    assert_eq!(fingerprint(&base), fingerprint(&moved));
    let swapped = [base[1].clone(), base[0].clone()];
    let others = [
        fingerprint(&swapped),
        fingerprint(&base[..1]),
        fingerprint(&[base[0].clone(), make(two.path(), "c.tar", &tar(&["1.jpg"]))]),
        fingerprint(&[base[0].clone(), make(two.path(), "b.tar", &tar(&["1.jpg", "2.jpg"]))]),
        fingerprint(&[base[0].clone(), make(two.path(), "b.tar", &tar(&["1.png"]))]),
        fingerprint(&[base[0].clone(), make(two.path(), "b.tar", &[tar(&["1.jpg"]), vec![0; 512]].concat())]),
        fingerprint(&[one_tar(one.path(), [1, 2, 3]), base[1].clone()]),
        fingerprint(&[one_tar(one.path(), [3, 2, 1]), base[1].clone()]),
        Dataset::records(&base, 512).unwrap().fingerprint(),
        Dataset::records(&base, 1024).unwrap().fingerprint(),
    ];
    let all: Vec<_> = others.into_iter().chain([fingerprint(&base)]).collect();
    for (i, one) in all.iter().enumerate() {
        assert!(!all[..i].contains(one), "{i}: {one:?}");
    }
}

#[test]
fn what_is_known_and_not_read_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let cases: [(&str, &[u8], &[&str]); 14] = [
        ("a", b"PAR1....", &["Parquet", "Megatron"]),
        ("a.parquet", b"", &["Parquet"]),
        ("b", b"ARROW1\0\0", &["Arrow", "numpy.save"]),
        ("c.lance", b"", &["Lance"]),
        ("d.beton", b"\x02\0", &["FFCV"]),
        ("e", b"\x83\xaf\x70\xd1\x0d\x88\x4a\x3f", &["ArrayRecord", "TFRecord"]),
        ("f", b"\x89HDF\r\n\x1a\n", &["HDF5"]),
        ("g.npz", b"PK\x03\x04", &["zip", ".npy"]),
        ("h.pt", b"PK\x03\x04", &["PyTorch", "pickle", "never", "safetensors"]),
        ("i.bin", b"PK\x03\x04", &["PyTorch"]),
        ("j", b"\x80\x04\x95\0", &["pickle", "program", "never"]),
        ("k.pkl", b"", &["pickle"]),
        ("l", b"\x28\xb5\x2f\xfd", &["zstd", "`unzstd`"]),
        ("m.ckpt", b"\x80\x02\x8a\x0a", &["PyTorch", "safetensors"]),
    ];
    for (name, start, words) in cases {
        let path = write(dir.path(), name, start);
        let text = problem(&[&path], None);
        assert!(
            words.iter().all(|word| text.contains(word)) && text.contains(path.to_str().unwrap()),
            "{name}: {text}"
        );
        if !start.is_empty() {
            assert_eq!(
                open(&[&path], Some(1)).unwrap().format(),
                "records",
                "{name}: raw bytes, if that is what is asked"
            );
        }
    }
}

/// A directory with these files.
fn directory(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    files.iter().for_each(|(name, bytes)| drop(write(dir.path(), name, bytes)));
    dir
}

/// The error names `file`, and says each of the words.
fn refused(dir: &tempfile::TempDir, options: &Options, file: &str, words: &[&str]) {
    let text = options.open(&[dir.path()]).unwrap_err().to_string();
    assert!(text.contains(file) && words.iter().all(|word| text.contains(word)), "{text}");
}

#[test]
fn files_whose_index_is_missing_say_which_one() {
    let plain = Dataset::options();
    for (name, index) in [("shard.00000.mds", "index.json"), ("chunk-0-0.bin", "index.json"), ("x.ds.index", "x.ds")] {
        let dir = directory(&[(name, &[0; 8]), ("README.md", b"# notes")]);
        refused(&dir, &plain, name, &["belongs to", index, "copy"]);
        refused(&dir, &plain.clone().record_bytes(4), name, &["belongs to", index]);
    }
    for name in ["shard.00000.mds", "chunk-0-0.bin"] {
        let dir = directory(&[(name, &[0; 8])]);
        let text = problem(&[&dir.path().join(name)], None);
        assert!(text.contains("belongs to an index.json") && text.contains("name that"), "{text}");
    }
}

#[test]
fn what_is_not_read_is_what_a_directory_is_refused_for() {
    let plain = Dataset::options();
    let dir =
        directory(&[("LICENSE", b"free"), ("README.md", b"# x"), ("a.bin", b"a"), ("train.parquet", b"PAR1....")]);
    refused(&dir, &plain, "train.parquet", &["Parquet", "Megatron"]);
    let dir = tempfile::tempdir().unwrap();
    for name in ["x.lance", "of_another_name"] {
        let lance = dir.path().join(name);
        std::fs::create_dir_all(lance.join("_versions")).unwrap();
        std::fs::create_dir_all(lance.join("data")).unwrap();
        write(&lance.join("data"), "0.lance", b"x");
        let text = problem(&[&lance], None);
        assert!(text.contains("Lance") && text.contains("MDS"), "{text}");
    }
}

#[test]
fn notes_are_no_data_and_a_mix_is_no_dataset() {
    let plain = Dataset::options();
    let raw = [plain.clone().record_bytes(2), plain.clone().dtype(DType::U16)];
    let npy =
        b"\x93NUMPY\x01\0\x47\0{'descr': '<u2', 'fortran_order': False, 'shape': (2,), }             \n\x01\0\x02\0";
    for options in &raw {
        let dir = directory(&[("shard-0.bin", &[0; 8]), ("shard-1.bin", &[0; 8]), ("stats.npy", npy)]);
        refused(&dir, options, "stats.npy", &["shard-0.bin", "name the files", "format"]);
        let npy = options.clone().format(Format::Npy).open(&[dir.path()]).unwrap();
        assert_eq!(file_names(&npy), ["stats.npy"], "what is asked for");
        let notes: [(&str, &[u8]); 5] = [
            ("train.bin", &[7; 8]),
            ("val.bin", &[7; 8]),
            ("prepare.py", b"import os"),
            ("readme.md", b"#"),
            ("input.txt", b"abc"),
        ];
        let dataset = options.open(&[directory(&notes).path()]).unwrap();
        assert_eq!(file_names(&dataset), ["train.bin", "val.bin"]);
        let dir = directory(&[("train.bin", &[7; 8]), ("meta.pkl", b"\x80\x04\x95\0")]);
        refused(&dir, options, "meta.pkl", &["pickle", "name the files"]);
        let dir = directory(&[("README.md", b"# x")]);
        refused(&dir, options, "README.md", &["name it"]);
        assert_eq!(
            options.open(&[dir.path().join("README.md")]).map(|dataset| dataset.shards().len()).ok(),
            None,
            "3 bytes"
        );
        let text = write(dir.path(), "a.txt", b"text");
        assert_eq!(file_names(&options.open(&[text]).unwrap()), ["a.txt"], "named outright");
    }
}

#[test]
fn a_link_to_nothing_and_an_index_of_another_kind_say_what_to_do() {
    let dir = directory(&[("a.tar", &tar(&["0.jpg"]))]);
    std::os::unix::fs::symlink("/nowhere/at/all", dir.path().join("b.tar")).unwrap();
    refused(&dir, &Dataset::options(), "b.tar", &["link", "name the files"]);
    // Of a name that stands for the directory, and a tar.
    let dir = directory(&[("a.tar", &tar(&["0.jpg"])), ("index.json", &tar(&["1.jpg"]))]);
    assert_eq!(file_names(&open(&[dir.path()], None).unwrap()), ["a.tar", "index.json"]);
}

#[test]
fn safetensors_are_told_by_content() {
    let header = br#"{"x":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#;
    let file = [&(header.len() as u64).to_le_bytes()[..], header, b"abcd"].concat();
    let dir = directory(&[("weights", &file), ("cut", &file[..40])]);
    assert_eq!(open(&[dir.path()], None).unwrap().format(), "safetensors");
    assert_eq!(open(&[dir.path().join("cut")], Some(4)).unwrap().format(), "records");
}
