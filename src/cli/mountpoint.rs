//! Which mount a path means, found in the kernel's list: a dead or stuck mount is never touched.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::fs::MountInfo;

/// A mount of btfs, ours or another process's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mounted {
    /// Where.
    pub(crate) path: PathBuf,
    /// What somebody else has mounted over it or inside it since.
    pub(crate) over: Option<Over>,
}

/// Somebody else's mount, in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Over {
    /// Where.
    pub(crate) path: PathBuf,
    /// Type of the file system.
    pub(crate) kind: String,
}

/// The mount in our mount namespace that `path` means, if there is one.
pub(crate) fn find(path: &Path) -> Option<Mounted> {
    let table = MountInfo::all();
    names(path).find_map(|name| pick(&table, &name))
}

/// The absolute paths that `path` may mean: as it is written, or after resolving links *above* the mount.
pub(crate) fn names(path: &Path) -> impl Iterator<Item = PathBuf> {
    let mut next = std::path::absolute(path).ok();
    let mut links = 0;
    std::iter::from_fn(move || {
        let path = next.take()?;
        links += 1;
        // Only the parent is looked at; the last component may be a mount that does not answer.
        let (parent, name) = (path.parent()?.to_path_buf(), path.file_name()?.to_owned());
        let resolved = parent.canonicalize().ok().map(|parent| parent.join(name));
        if let Some(resolved) = &resolved
            && links < MAX_LINKS
        {
            let target = std::fs::read_link(resolved).ok();
            next = target.and_then(|target| std::path::absolute(resolved.parent()?.join(target)).ok());
        }
        Some([Some(path.clone()), resolved.filter(|resolved| *resolved != path)])
    })
    .flatten()
    .flatten()
}

/// Whether there is a mount of btfs in our mount namespace at the path that a process says, see [`text`].
pub(crate) fn is_here(path: &str) -> bool {
    MountInfo::all().iter().any(|mount| mount.kind == "fuse.btfs" && text(&mount.path) == path)
}

/// As text for a comparison with what a process says of itself.
pub(crate) fn text(path: &Path) -> String {
    String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned()
}

/// The last mount of btfs at a path, and the first one since then that lies on it. `table` is in the order of mounting.
fn pick(table: &[MountInfo], path: &Path) -> Option<Mounted> {
    let at = table.iter().rposition(|mount| mount.path == path && mount.kind == "fuse.btfs")?;
    let over = table[at + 1..].iter().find(|later| later.path.starts_with(path));
    let over = over.map(|over| Over { path: over.path.clone(), kind: over.kind.clone() });
    Some(Mounted { path: path.to_path_buf(), over })
}

const MAX_LINKS: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_of_btfs_are_meant_and_what_lies_on_them_is_told() {
        let mount = |path: &str, kind: &str| MountInfo { device: "0:1".into(), path: path.into(), kind: kind.into() };
        let mut table = vec![
            mount("/mnt/x/before", "tmpfs"),
            mount("/mnt/x", "fuse.btfs"),
            mount("/mnt/xy", "tmpfs"),
            mount("/mnt/other", "fuse.sshfs"),
        ];
        let found = |table: &[MountInfo]| pick(table, Path::new("/mnt/x"));
        let path = PathBuf::from("/mnt/x");
        assert_eq!(found(&table), Some(Mounted { path: path.clone(), over: None }));
        assert_eq!(pick(&table, Path::new("/mnt/other")), None);
        for over in ["/mnt/x", "/mnt/x/inside"] {
            table.push(mount(over, "ext4"));
            let over = Some(Over { path: over.into(), kind: "ext4".into() });
            assert_eq!(found(&table), Some(Mounted { path: path.clone(), over }));
            table.pop();
        }
        table.extend([mount("/mnt/x", "tmpfs"), mount("/mnt/x", "fuse.btfs")]);
        assert_eq!(found(&table), Some(Mounted { path, over: None }), "the one on top");
    }

    #[test]
    fn a_path_means_itself_and_what_its_links_lead_to() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().canonicalize().unwrap();
        std::fs::create_dir(top.join("real")).unwrap();
        std::os::unix::fs::symlink("real", top.join("link")).unwrap();
        std::os::unix::fs::symlink("../link/mnt", top.join("real/to")).unwrap();
        std::os::unix::fs::symlink("loop", top.join("loop")).unwrap();
        let names = |path: &str| names(&top.join(path)).collect::<Vec<_>>();
        let wanted = ["link/to", "real/to", "real/../link/mnt", "real/mnt"].map(|path| top.join(path));
        assert_eq!(names("link/to"), wanted);
        assert!(names("loop").len() <= 2 * MAX_LINKS);
        assert_eq!(super::names(Path::new("/")).count(), 0);
    }
}
