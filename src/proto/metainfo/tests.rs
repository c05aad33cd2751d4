//! What the corpus in `tests/corpus` does not have.

use sha2::{Digest, Sha256};

use super::*;
use crate::proto::bencode::{DictWriter, Writer};

type Fill<'f> = &'f dyn Fn(&mut DictWriter);

/// A v1 torrent with one piece whose `files` are made by `files`, each a dictionary.
fn v1(files: &[Fill<'_>]) -> Result<Metainfo, MetainfoError> {
    Metainfo::parse(&Writer::dict_to_vec(|root| {
        root.key("info").dict(|info| {
            info.key("files").list(|list| files.iter().for_each(|fill| list.dict(|file| fill(file))));
            info.key("name").bytes("n");
            info.key("piece length").int(1 << 20);
            info.key("pieces").bytes([0; 20]);
        });
    }))
}

fn list(file: &mut DictWriter, key: &str, names: &[&str]) {
    file.key(key).list(|path| names.iter().for_each(|name| path.bytes(name)));
}

fn plain(name: &'static str) -> impl Fn(&mut DictWriter) {
    move |file| {
        file.key("length").int(5);
        list(file, "path", &name.split('/').collect::<Vec<_>>());
    }
}

fn link(name: &'static str, target: &'static str) -> impl Fn(&mut DictWriter) {
    move |file| {
        file.key("attr").bytes("l");
        list(file, "path", &[name]);
        list(file, "symlink path", &target.split('/').collect::<Vec<_>>());
    }
}

fn paths(metainfo: &Metainfo) -> Vec<&str> {
    metainfo.entries.iter().map(|entry| std::str::from_utf8(&entry.path).unwrap()).collect()
}

#[test]
fn useless_utf8_paths_are_warned_of_and_unsafe_ones_refused() {
    let with_utf8 = |utf8: Fill<'_>| {
        v1(&[&|file| {
            file.key("length").int(5);
            list(file, "path", &["plain"]);
            utf8(file);
        }])
    };
    let odd: [Fill<'_>; 3] = [
        &|file| file.key("path.utf-8").int(1),
        &|file| file.key("path.utf-8").list(|path| path.bytes(b"\xff")),
        &|file| file.key("path.utf-8").list(|_| {}),
    ];
    for fill in odd {
        let metainfo = with_utf8(fill).unwrap();
        assert_eq!((paths(&metainfo), metainfo.warnings.len()), (vec!["plain"], 1));
    }
    assert_eq!(paths(&with_utf8(&|file| list(file, "path.utf-8", &["better"])).unwrap()), ["better"]);
    assert_eq!(with_utf8(&|file| list(file, "path.utf-8", &["a", ".."])).unwrap_err().rule, "P12");
}

#[test]
fn symlinks_follow_names_that_changed_and_links_on_their_way() {
    let metainfo =
        v1(&[&plain("a"), &plain("a"), &plain("d/x"), &link("to-a", "a"), &link("to-d", "d"), &link("deep", "to-d/x")]);
    let metainfo = metainfo.unwrap();
    assert_eq!(paths(&metainfo), ["a", "a (2)", "d/x", "to-a", "to-d", "deep"]);
    assert_eq!(metainfo.warnings.len(), 1, "{:?}", metainfo.warnings);
    let target = |at: usize| match &metainfo.entries[at].kind {
        EntryKind::Symlink { target } => std::str::from_utf8(target).unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!((target(3), target(4), target(5)), ("a", "d", "to-d/x"));
    let lost = v1(&[&plain("a"), &link("one", "two/a"), &link("two", "one")]).unwrap();
    assert_eq!(lost.warnings, ["a symlink leads nowhere: one, and 1 more"]);
}

#[test]
fn links_to_a_name_that_a_directory_has_mean_the_directory() {
    let metainfo = v1(&[&plain("f"), &plain("f/x"), &link("l", "f")]).unwrap();
    assert_eq!(paths(&metainfo), ["f (2)", "f/x", "l"]);
    assert_eq!(metainfo.entries[2].kind, EntryKind::Symlink { target: (*b"f").into() });
}

#[test]
fn an_unsafe_path_of_padding_is_refused_too() {
    let padding = |file: &mut DictWriter| {
        file.key("attr").bytes("p");
        file.key("length").int(1);
        list(file, "path", &[".."]);
    };
    assert_eq!(v1(&[&plain("a"), &padding]).unwrap_err().rule, "P12");
}

/// A v2 or hybrid torrent of two small files, `a` (executable) and `b`, with pieces of 16 KiB.
fn v2(v1_files: Option<&[(&str, u64, bool)]>) -> Result<Metainfo, MetainfoError> {
    let root_of = |length: usize| -> [u8; 32] { Sha256::digest(vec![0; length]).into() };
    Metainfo::parse(&Writer::dict_to_vec(|root| {
        root.key("info").dict(|info| {
            info.key("file tree").dict(|tree| {
                for (name, length, attr) in [("a", 100, Some("x")), ("b", 200, None)] {
                    tree.key(name).dict(|node| {
                        node.key("").dict(|file| {
                            if let Some(attr) = attr {
                                file.key("attr").bytes(attr);
                            }
                            file.key("length").int(length as u64);
                            file.key("pieces root").bytes(root_of(length));
                        });
                    });
                }
            });
            if let Some(files) = v1_files {
                info.key("files").list(|all| {
                    for &(name, length, padding) in files {
                        all.dict(|file| {
                            if padding {
                                file.key("attr").bytes("p");
                            }
                            file.key("length").int(length);
                            list(file, "path", &[name]);
                        });
                    }
                });
            }
            info.key("meta version").int(2);
            info.key("name").bytes("n");
            info.key("piece length").int(16_384);
            if let Some(files) = v1_files {
                let total: u64 = files.iter().map(|file| file.1).sum();
                info.key("pieces").bytes(vec![0; total.div_ceil(16_384) as usize * 20]);
            }
        });
        root.key("piece layers").dict(|_| {});
    }))
}

#[test]
fn files_of_a_v2_torrent_begin_with_a_piece() {
    let metainfo = v2(None).unwrap();
    assert!(metainfo.is_v2_only() && metainfo.piece_hashes.is_empty() && !metainfo.single_file);
    assert_eq!(paths(&metainfo), ["a", "", "b"]);
    assert_eq!(metainfo.entries[0].kind, EntryKind::File { executable: true });
    let last = metainfo.layout.file(2).unwrap();
    assert_eq!((metainfo.layout.file_start(last), metainfo.layout.total_bytes()), (16_384, 16_584));
}

#[test]
fn the_parts_of_a_hybrid_list_the_same_files_at_the_same_places() {
    let right = [("a", 100, false), ("pad", 16_284, true), ("b", 200, false)];
    assert!(v2(Some(&right)).unwrap().entries[2].pieces_root.is_some());
    let with_tail = [&right[..], &[("tail", 16_184, true)]].concat();
    assert!(v2(Some(&with_tail)).is_ok(), "padding after the last file does no harm");
    for wrong in [
        &[("a", 100, false), ("b", 200, false)][..],
        &[("b", 200, false), ("pad", 16_184, true), ("a", 100, false)],
        &[("a", 100, false), ("pad", 16_284, true), ("b", 201, false)],
        &[("a", 100, false), ("pad", 16_284, true), ("c", 200, false)],
        &[("a", 100, false)],
        &[("a", 100, false), ("pad", 16_284, true), ("b", 200, false), ("c", 0, false)],
    ] {
        assert_eq!(v2(Some(wrong)).unwrap_err().rule, "P20", "{wrong:?}");
    }
}
