use std::io::Read;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::UnixStream;

use super::*;

fn directory() -> (tempfile::TempDir, File) {
    let temp = tempfile::tempdir().unwrap();
    let dir = File::open(temp.path()).unwrap();
    (temp, dir)
}

fn name(text: &str) -> &OsStr {
    OsStr::new(text)
}

#[test]
fn files_are_made_for_us_alone_and_symlinks_are_refused() {
    let (temp, dir) = directory();
    open_at(&dir, name("file"), Open::Create).unwrap();
    make_dir_at(&dir, name("sub")).unwrap();
    let mode = |name: &str| temp.path().join(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("file") & 0o177, mode("sub") & 0o077), (0, 0));
    std::os::unix::fs::symlink("file", temp.path().join("link")).unwrap();
    for how in [Open::Read, Open::Write, Open::Create, Open::Truncate, Open::Append] {
        assert_eq!(open_at(&dir, name("link"), how).unwrap_err().raw_os_error(), Some(libc::ELOOP), "{how:?}");
    }
    assert!(!status_at(&dir, name("link")).unwrap().unwrap().regular);
    assert!(open_at(&dir, name("file"), Open::Directory).is_err());
    assert!(open_at(&dir, OsStr::from_bytes(b"a\0b"), Open::Read).is_err());
}

#[test]
fn names_and_states_are_told_renamed_and_removed() {
    let (_temp, dir) = directory();
    open_at(&dir, name("a"), Open::Create).unwrap().set_len(5).unwrap();
    rename_at(&dir, name("a"), name("b")).unwrap();
    assert_eq!(names_in(&dir).unwrap(), [c"b".to_owned()]);
    assert_eq!(names_in(&dir).unwrap().len(), 1, "a second look starts at the beginning");
    assert_eq!(status_at(&dir, name("a")).unwrap(), None);
    let status = status_at(&dir, name("b")).unwrap().unwrap();
    assert_eq!(status, status_of(open_at(&dir, name("b"), Open::Read).unwrap()).unwrap());
    assert!(status.regular && status.size == 5 && status.ctime > 0);
    unlink_at(&dir, name("b")).unwrap();
    unlink_at(&dir, name("b")).unwrap();
}

#[test]
fn more_slices_than_one_call_takes_are_all_written() {
    let (_temp, dir) = directory();
    let file = open_at(&dir, name("file"), Open::Create).unwrap();
    let bytes: Vec<u8> = (0..5000_u32).map(|at| (at % 251) as u8).collect();
    let mut slices: Vec<_> = bytes.chunks(2).map(IoSlice::new).collect();
    slices.insert(7, IoSlice::new(&[]));
    write_all_at(&file, &mut slices, 100).unwrap();
    let mut read = vec![0; 5000];
    file.read_exact_at(&mut read, 100).unwrap();
    assert_eq!(read, bytes);
    write_all_at(&file, &mut [IoSlice::new(&[])], 0).unwrap();
    assert!(write_all_at(&file, &mut [IoSlice::new(b"x")], u64::MAX).is_err());
}

#[test]
fn a_read_of_warm_pages_answers_now_or_says_that_it_cannot() {
    let (_temp, dir) = directory();
    let file = open_at(&dir, name("file"), Open::Create).unwrap();
    file.write_all_at(b"0123456789", 0).unwrap();
    let mut buffer = [0; 4];
    if let Some(read) = read_now(&file, &mut buffer, 3).unwrap() {
        assert_eq!((read, &buffer), (4, b"3456"));
        assert_eq!(read_now(&file, &mut buffer, 10).unwrap(), Some(0), "at the end");
    }
    let unreadable = open_at(&dir, name("file"), Open::Append).unwrap();
    assert!(read_now(&unreadable, &mut buffer, 0).is_err());
}

#[test]
fn bytes_and_pages_go_out_in_order_as_far_as_the_socket_takes_them() {
    let (_temp, dir) = directory();
    let file = Arc::new(open_at(&dir, name("file"), Open::Create).unwrap());
    let content: Vec<u8> = (0..100_000_u32).map(|at| (at % 251) as u8).collect();
    file.write_all_at(&content, 0).unwrap();
    let mapping = Mapping::new(Arc::clone(&file), 5000, 90_000).unwrap();
    assert!(
        mapping.covers(&file, 5000, 90_000) && !mapping.covers(&file, 4000, 10) && mapping.is_resident(5000, 90_000)
    );
    assert!(!mapping.covers(&Arc::new(file.try_clone().unwrap()), 5000, 1), "another descriptor, another file");
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let expected = [&b"head"[..], &content[5001..95_000], b"tail"].concat();
    let (mut sent, mut received, mut calls) = (0_usize, Vec::new(), 0);
    while received.len() < expected.len() {
        let (skip, pages) = (sent.min(4), (sent.max(4) - 4).min(89_999));
        let tail = sent.saturating_sub(4 + 89_999);
        let parts = [
            Part::Bytes(&b"head"[skip..]),
            Part::Mapped { mapping: &mapping, offset: 5001 + pages as u64, length: 89_999 - pages },
            Part::Bytes(&b"tail"[tail..]),
        ];
        match send(&ours, &parts) {
            Ok(count) => sent += count,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        calls += 1;
        let mut buffer = [0; 3000];
        if let Ok(read) = theirs.read(&mut buffer) {
            received.extend_from_slice(&buffer[..read]);
        }
    }
    assert!(received == expected && calls > 1);
    let beyond = Part::Mapped { mapping: &mapping, offset: 4000, length: 1 };
    assert_eq!(send(&ours, &[beyond]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn a_page_that_was_cut_off_is_an_error_and_no_signal() {
    let (_temp, dir) = directory();
    let file = Arc::new(open_at(&dir, name("file"), Open::Create).unwrap());
    file.write_all_at(&[1; 50_000], 0).unwrap();
    let mapping = Mapping::new(Arc::clone(&file), 0, 50_000).unwrap();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    file.set_len(100).unwrap();
    assert_eq!(mapping.file_bytes().unwrap(), 100);
    let gone = Part::Mapped { mapping: &mapping, offset: 30_000, length: 10 };
    assert_eq!(send(&ours, &[gone]).unwrap_err().raw_os_error(), Some(libc::EFAULT));
}

#[test]
fn pages_that_were_dropped_are_not_resident_and_a_mapping_lets_them_go() {
    let (_temp, dir) = directory();
    let file = Arc::new(open_at(&dir, name("file"), Open::Create).unwrap());
    file.write_all_at(&[1; 50_000], 0).unwrap();
    file.sync_all().unwrap();
    let mapping = Mapping::new(Arc::clone(&file), 0, 50_000).unwrap();
    drop_cached(&file);
    if mapping.is_resident(0, 50_000) {
        eprintln!("SKIPPED: this filesystem keeps its pages");
        return;
    }
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let all = Part::Mapped { mapping: &mapping, offset: 0, length: 50_000 };
    assert!(send(&ours, &[all]).unwrap() > 0);
    assert!(mapping.is_resident(0, 10), "the call has read it");
    mapping.let_go();
    drop_cached(&file);
    assert!(!mapping.is_resident(0, 10));
    // Of a file that may be somebody else's the kernel is asked page by page.
    let mut foreign = Mapping::new(Arc::clone(&file), 0, 50_000).unwrap();
    foreign.ours = false;
    assert!(!foreign.is_resident(0, 10));
    let mut bytes = [0; 50_000];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(foreign.is_resident(0, 50_000));
}

#[test]
fn a_punched_range_is_a_hole() {
    let (_temp, dir) = directory();
    let file = open_at(&dir, name("file"), Open::Create).unwrap();
    file.write_all_at(&vec![1; 1 << 20], 0).unwrap();
    file.set_len(2 << 20).unwrap();
    assert_eq!(next_data(&file, 0).unwrap(), Some((0, 1 << 20)));
    punch(&file, 0, 512 << 10).unwrap();
    assert_eq!(next_data(&file, 0).unwrap(), Some((512 << 10, 1 << 20)));
    assert_eq!(next_data(&file, 1 << 20).unwrap(), None);
    assert_eq!(next_data(&file, 4 << 20).unwrap(), None, "past the end");
}

#[test]
fn whoever_has_a_file_open_is_noticed() {
    let (_temp, dir) = directory();
    let file = open_at(&dir, name("file"), Open::Create).unwrap();
    if is_held(&file).is_none() {
        return; // no leases here
    }
    assert_eq!(is_held(&file), Some(false));
    let reader = open_at(&dir, name("file"), Open::Read).unwrap();
    assert_eq!(is_held(&file), Some(true));
    drop(reader);
    assert_eq!(is_held(&file), Some(false));
}

#[test]
fn there_is_a_descriptor_limit() {
    assert!(descriptor_limit() > 8);
}
