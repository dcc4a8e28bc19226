//! Archives, good ones and hostile ones.

use super::super::{DEPTH_MAX, PATH_MAX};
use super::*;
use shared_proto::bounds::SOURCE_UNPACKED_MAX;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

/// One entry, as hostile as wanted: nothing is checked while packing.
struct Entry {
    kind: u8,
    path: Vec<u8>,
    link: Vec<u8>,
    mode: u32,
    content: Vec<u8>,
    /// What the header says, where that is not the content's length.
    size: Option<u64>,
}

fn entry(kind: u8, path: &str, link: &str, content: &[u8]) -> Entry {
    Entry { kind, path: path.into(), link: link.into(), mode: 0o644, content: content.into(), size: None }
}
fn file(path: &str, content: &str) -> Entry {
    entry(b'0', path, "", content.as_bytes())
}
fn link(path: &str, to: &str) -> Entry {
    entry(b'2', path, to, b"")
}
fn dir(path: &str) -> Entry {
    entry(b'5', path, "", b"")
}

fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        let mut path = entry.path.clone();
        if path.len() > 100 {
            let mut long = tar::Header::new_gnu();
            long.as_mut_bytes()[..13].copy_from_slice(b"././@LongLink");
            long.set_entry_type(EntryType::GNULongName);
            long.set_size(path.len() as u64);
            long.set_cksum();
            bytes.extend_from_slice(long.as_bytes());
            bytes.extend_from_slice(&path);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
            path.truncate(100);
        }
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..path.len()].copy_from_slice(&path);
        header.as_mut_bytes()[157..157 + entry.link.len()].copy_from_slice(&entry.link);
        header.set_entry_type(EntryType::new(entry.kind));
        header.set_mode(entry.mode);
        header.set_size(entry.size.unwrap_or(entry.content.len() as u64));
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(&entry.content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("packs");
    encoder.finish().expect("packs")
}

fn run(packed: &[u8], limits: Limits) -> (tempfile::TempDir, Result<(), Failure>) {
    let folder = tempfile::tempdir().expect("a folder");
    let target = folder.path().join("source");
    std::fs::create_dir(&target).expect("a folder");
    let result = unpack(packed, &target, limits, &AtomicBool::new(false));
    (folder, result)
}

#[test]
fn a_good_archive_is_unpacked() {
    let mut script = file("./bin/run.sh", "#!/bin/sh\n");
    script.mode = 0o6777;
    let long = format!("{}/deep.tf", ["folder-with-a-name"; 10].join("/"));
    let entries = [
        entry(b'g', "pax_global_header", "", b"52 comment=1234567890123456789012345678901234567890\n"),
        dir("./"),
        dir("bin/"),
        dir("bin"),
        script,
        file("main.tf", "old"),
        file("main.tf", "new"),
        link("bin/up", "../main.tf"),
        link("modules", "./bin"),
        file(&long, "deep"),
        file("empty", ""),
    ];
    let (folder, result) = run(&gz(&tar(&entries)), LIMITS);
    result.expect("unpacks");
    let at = |path: &str| folder.path().join("source").join(path);
    assert_eq!(std::fs::read_to_string(at("main.tf")).expect("is there"), "new");
    assert_eq!(std::fs::read_to_string(at("bin/up")).expect("is there"), "new");
    assert_eq!(std::fs::read_to_string(at(&long)).expect("is there"), "deep");
    let mode = |path| std::fs::metadata(at(path)).expect("is there").permissions().mode() & 0o7777;
    assert_eq!((mode("bin/run.sh"), mode("main.tf")), (0o700, 0o600));
}

#[test]
fn a_hostile_archive_is_refused_by_name_and_nothing_outside_changes() {
    let deep = "d/".repeat(DEPTH_MAX) + "x";
    let long = "a".repeat(300);
    let endless = "a/".repeat(PATH_MAX);
    let hostile: Vec<(&str, Vec<Entry>, &str)> = vec![
        ("absolute", vec![file("/tmp/x", "x")], "absolute"),
        ("dots", vec![file("../x", "x")], "`..`"),
        ("dots inside", vec![file("a/../../x", "x")], "`..`"),
        ("dots that stay", vec![file("a/../x", "x")], "`..`"),
        ("dots as folder", vec![dir("..")], "`..`"),
        ("absolute folder", vec![dir("/etc")], "absolute"),
        ("absolute link", vec![link("l", "/etc/passwd")], "leads out"),
        ("link up", vec![link("l", "../x")], "leads out"),
        ("link up from below", vec![link("a/b/l", "../../../x")], "leads out"),
        ("link up after a name", vec![link("l", "a/../../x")], "leads out"),
        ("chain of links", vec![dir("a/b"), link("a/b/l", "../.."), link("m", "a/b/l/../x")], "leads out"),
        ("through a link", vec![dir("a"), link("l", "a"), file("l/x", "x")], "no folder"),
        ("folder through a link", vec![dir("a"), link("l", "a"), dir("l/y")], "no folder"),
        ("link through a link", vec![dir("a"), link("l", "a"), link("l/m", "x")], "no folder"),
        ("file over a link", vec![link("l", "a"), file("l", "x")], "another kind"),
        ("link over a file", vec![file("l", "x"), link("l", "a")], "another kind"),
        ("folder over a link", vec![dir("a"), link("l", "a"), dir("l")], "no folder"),
        ("folder over a file", vec![file("x", "x"), dir("x")], "no folder"),
        ("file over a folder", vec![dir("x"), file("x", "x")], "another kind"),
        ("link over a folder", vec![dir("x"), link("x", "y")], "another kind"),
        ("file below a file", vec![file("x", "x"), file("x/y", "y")], "no folder"),
        ("hard link", vec![file("x", "x"), entry(b'1', "h", "x", b"")], "hard link"),
        ("hard link out", vec![entry(b'1', "h", "/etc/passwd", b"")], "hard link"),
        ("character device", vec![entry(b'3', "null", "", b"")], "device"),
        ("block device", vec![entry(b'4', "sda", "", b"")], "device"),
        ("FIFO", vec![entry(b'6', "pipe", "", b"")], "FIFO"),
        ("sparse file", vec![entry(b'S', "sparse", "", b"")], ""),
        ("unknown kind", vec![entry(b'Z', "z", "", b"")], "kind"),
        ("too deep", vec![file(&deep, "x")], "too deep"),
        ("name too long", vec![file(&long, "x")], "too long"),
        ("path too long", vec![file(&endless, "x")], "too long"),
        ("empty link", vec![link("l", "")], ""),
        ("no name", vec![file(".", "x")], "no name"),
        ("file with a slash", vec![file("x/", "x")], ""),
        ("size beyond the end", vec![Entry { size: Some(1 << 20), ..file("x", "x") }], "not whole"),
        ("size beyond everything", vec![Entry { size: Some(u64::MAX >> 1), ..file("x", "x") }], ""),
        ("huge long name", vec![entry(b'L', "././@LongLink", "", &vec![b'a'; 4 << 20])], "tar.gz"),
        ("huge extension", vec![entry(b'x', "pax", "", &vec![b'a'; 4 << 20])], "tar.gz"),
        ("name with NUL", vec![entry(b'x', "pax", "", b"12 path=a\0b\n"), file("x", "x")], ""),
        ("name out by extension", vec![entry(b'x', "pax", "", b"13 path=../x\n"), file("x", "x")], "`..`"),
        ("link out by extension", vec![entry(b'x', "pax", "", b"17 linkpath=/etc\n"), link("l", "a")], "leads out"),
    ];
    for (name, entries, says) in hostile {
        let (folder, result) = run(&gz(&tar(&entries)), LIMITS);
        let failure = result.expect_err(name);
        assert_eq!(failure.code, Code::SourceRefused, "{name}: {failure}");
        assert!(failure.message.contains(says), "{name}: {failure}");
        let names: Vec<_> = std::fs::read_dir(folder.path()).expect("reads").flatten().map(|e| e.file_name()).collect();
        assert_eq!(names, ["source"], "{name}");
    }
}

#[test]
fn what_is_no_archive_is_refused() {
    let good = gz(&tar(&[file("main.tf", &"x".repeat(5000))]));
    for (name, bytes) in [
        ("nothing", vec![]),
        ("text", b"not an archive at all".to_vec()),
        ("gzip of text", gz(&[b'x'; 2000])),
        ("plain tar", tar(&[file("x", "x")])),
        ("cut", good[..good.len() / 2].to_vec()),
    ] {
        let (_folder, result) = run(&bytes, LIMITS);
        assert_eq!(result.expect_err(name).code, Code::SourceRefused, "{name}");
    }
}

#[test]
fn both_sides_of_the_limits_and_a_bomb_stops_early() {
    let entries = [file("a", "12345"), file("b", "12345")];
    let packed = gz(&tar(&entries));
    assert!(run(&packed, Limits { bytes: 10, entries: 2 }).1.is_ok());
    assert!(run(&packed, Limits { bytes: 9, entries: 2 }).1.is_err());
    assert!(run(&packed, Limits { bytes: 10, entries: 1 }).1.is_err());
    // its content would be made on the way: the header alone is enough to refuse it
    let bomb = gz(&tar(&[Entry { size: Some(SOURCE_UNPACKED_MAX + 1), ..file("bomb", "x") }]));
    let (folder, result) = run(&bomb, LIMITS);
    assert!(result.expect_err("a bomb").message.contains("more than"));
    assert!(!folder.path().join("source/bomb").exists());
}

#[test]
fn size_and_hash_are_checked_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.tar.gz");
    let packed = gz(&tar(&[file("main.tf", "")]));
    std::fs::write(&path, &packed).expect("writes");
    let sha256 = shared_proto::hex::encode(Sha256::digest(&packed));
    let size = packed.len() as u64;
    let stop = AtomicBool::new(false);
    let good = ArchiveSource { sha256: sha256.clone(), size };
    assert!(checked(&path, &good, &stop).is_ok());
    let other = ArchiveSource { sha256: "0".repeat(64), size };
    assert_eq!(checked(&path, &other, &stop).expect_err("refused").code, Code::SourceRefused);
    let longer = ArchiveSource { sha256, size: size + 1 };
    assert_eq!(checked(&path, &longer, &stop).expect_err("refused").code, Code::SourceRefused);
    let missing = folder.path().join("missing");
    assert_eq!(checked(&missing, &good, &stop).expect_err("missing").code, Code::SourceUnavailable);
    std::os::unix::fs::symlink(&path, folder.path().join("link")).expect("links");
    assert!(checked(&folder.path().join("link"), &good, &stop).is_err());
}
