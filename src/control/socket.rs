//! The answering side: `btfs-<pid>.sock`, mode 0600, in a directory of mode 0700 that is ours.
//!
//! Lines and what follows them are bounded, a line that is garbage gets an error line and the connection lives; a silent connection is closed.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::client::is_answered;
use super::{NewLimits, Request, Response, Status};
use crate::proto::metainfo::MAX_TORRENT_BYTES;

/// A listening control socket; dropping it removes the file and ends the connections.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

/// Who answers. All but [`end`](Self::end) may block: they are called on blocking threads.
pub trait Responder: Send + Sync + 'static {
    /// The state, with at most so many files of each torrent.
    fn status(&self, files: usize) -> Status;
    /// The mount is to end where sharing goes on without it; it has ended, then. False: the process ends with it.
    fn end_mount(&self) -> bool;
    /// Why a process that is to end sharing does not.
    fn refuses_stop(&self) -> Option<String>;
    /// The process is to end.
    fn end(&self);
    /// A torrent is to come, whose file is `file`.
    fn add(&self, file: Vec<u8>, peers: Vec<SocketAddr>, trackers: Vec<String>) -> Response;
    /// Limits are to be others: of one torrent, of `each` for itself, or of all together.
    fn set(&self, torrent: Option<&str>, each: bool, new: NewLimits) -> Response;
    /// A torrent is to go.
    fn remove(&self, torrent: &str) -> Response;
    /// Whoever asked for that has heard that it is done. Must not block.
    fn removed(&self);
}

impl Control {
    /// Listens in `directory` (see [`prepare_directory`]).
    ///
    /// # Errors
    /// The system's, when the socket cannot be made.
    pub fn start(
        directory: &Path,
        runtime: &tokio::runtime::Handle,
        responder: Arc<dyn Responder>,
    ) -> io::Result<Self> {
        let path = free_path(directory);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // The directory lets nobody else in meanwhile.
        let listener = std::os::unix::net::UnixListener::bind(short_path(&path)?)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        let _guard = runtime.enter();
        let listener = UnixListener::from_std(listener)?;
        let task = runtime.spawn(accept(listener, responder));
        Ok(Self { path, task })
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// `btfs-<pid>.sock`, or with a further number: a process of another pid namespace may have our number.
fn free_path(directory: &Path) -> PathBuf {
    let pid = std::process::id();
    let first = directory.join(format!("btfs-{pid}.sock"));
    let others = (2..MAX_NAMESAKES).map(|number| directory.join(format!("btfs-{pid}-{number}.sock")));
    std::iter::once(first.clone()).chain(others).find(|path| !is_answered(path)).unwrap_or(first)
}

/// Makes `directory` and its missing parents, mode 0700; fails unless it is a real directory of `uid`'s, and lets nobody
/// else enter it.
///
/// # Errors
/// The system's, or [`io::ErrorKind::PermissionDenied`].
pub fn prepare_directory(directory: &Path, uid: u32) -> io::Result<()> {
    match std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let meta = std::fs::symlink_metadata(directory)?;
    if !meta.is_dir() || meta.uid() != uid {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to somebody else"));
    }
    if meta.mode() & 0o077 != 0 {
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// A path to the same socket that fits into the 108 bytes of a socket address: through a descriptor of its directory,
/// which stays open as long as the process.
pub(super) fn short_path(path: &Path) -> io::Result<PathBuf> {
    if path.as_os_str().len() < MAX_PATH_BYTES {
        return Ok(path.to_path_buf());
    }
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let directory = std::fs::File::open(directory)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
    // Bounded: one for the listener of a process, one for each socket that a short-lived command asks.
    std::mem::forget(directory);
    Ok(short)
}

async fn accept(listener: UnixListener, responder: Arc<dyn Responder>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let responder = responder.clone();
                connections.spawn(async move {
                    if let Err(error) = serve(stream, &responder).await {
                        tracing::debug!(%error, "control connection ended");
                    }
                    drop(slot);
                });
            }
            // Out of descriptors: later.
            Err(error) => {
                tracing::debug!(%error, "control socket cannot accept");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn serve(stream: UnixStream, responder: &Arc<dyn Responder>) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let mut line = Vec::new();
    let mut ending = false;
    loop {
        line.clear();
        let mut limited = (&mut read).take(MAX_LINE_BYTES);
        let next = limited.read_until(b'\n', &mut line);
        // Who has asked us to end waits for our end: that connection is kept.
        let idle = if ending { Duration::from_secs(3600) } else { IDLE };
        if timeout(idle, next).await? == 0 {
            return Ok(());
        }
        let mut complete = line.last() == Some(&b'\n');
        let mut removed = false;
        let request = if complete {
            serde_json::from_slice::<Request>(&line).map_err(|error| error.to_string())
        } else {
            Err(format!("no complete line of at most {MAX_LINE_BYTES} bytes"))
        };
        let response = match request {
            Ok(Request::Ping) => Response { pid: Some(std::process::id()), ..Response::done() },
            Ok(Request::Status { files }) => {
                blocking(responder, move |responder| Response {
                    status: Some(responder.status(files)),
                    ..Response::done()
                })
                .await
            }
            Ok(Request::Umount) => {
                let answer = blocking(responder, |responder| Response {
                    seeding: responder.end_mount(),
                    pid: Some(std::process::id()),
                    ..Response::done()
                });
                let answer = answer.await;
                ending = answer.ok && !answer.seeding;
                answer
            }
            Ok(Request::Stop) => {
                let refused = responder.refuses_stop();
                ending = refused.is_none();
                refused.map_or_else(Response::done, Response::refused)
            }
            Ok(Request::Add { bytes, .. }) if bytes > MAX_TORRENT_BYTES as u64 => {
                // The rest is not worth reading.
                complete = false;
                Response::refused(format!("no torrent file has more than {MAX_TORRENT_BYTES} bytes"))
            }
            Ok(Request::Add { bytes, peers, trackers }) => {
                let mut file = vec![0; bytes as usize];
                timeout(IDLE, read.read_exact(&mut file)).await?;
                blocking(responder, move |responder| responder.add(file, peers, trackers)).await
            }
            Ok(Request::Set { torrent, each, new }) => {
                blocking(responder, move |responder| responder.set(torrent.as_deref(), each, new)).await
            }
            Ok(Request::Remove { torrent }) => {
                removed = true;
                blocking(responder, move |responder| responder.remove(&torrent)).await
            }
            Err(error) => Response::refused(error),
        };
        let mut text = serde_json::to_vec(&response)?;
        text.push(b'\n');
        timeout(IDLE, write.write_all(&text)).await?;
        if ending {
            responder.end();
        }
        if removed {
            responder.removed();
        }
        if !complete {
            // The rest of an endless line is not worth reading.
            return Ok(());
        }
    }
}

async fn timeout<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Has a question answered where it may block.
async fn blocking(
    responder: &Arc<dyn Responder>,
    answer: impl FnOnce(&dyn Responder) -> Response + Send + 'static,
) -> Response {
    let responder = responder.clone();
    let answered = tokio::task::spawn_blocking(move || answer(&*responder)).await;
    answered.unwrap_or_else(|error| Response::refused(error.to_string()))
}

/// A request at most.
const MAX_LINE_BYTES: u64 = 64 << 10;
/// `sun_path` with its final NUL.
const MAX_PATH_BYTES: usize = 108;
/// Who asks nothing for this long is sent away.
const IDLE: Duration = Duration::from_secs(30);
const MAX_CONNECTIONS: usize = 32;
const MAX_NAMESAKES: u32 = 1000;

#[cfg(test)]
mod tests {
    use std::io::{BufRead, Write};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Echo {
        ends: AtomicUsize,
    }

    impl Responder for Echo {
        fn status(&self, files: usize) -> Status {
            Status {
                version: String::new(),
                pid: files as u32,
                command: "mount".into(),
                mountpoint: None,
                mounted: true,
                uptime_seconds: 0,
                port: 1,
                bind: None,
                watching: None,
                waiting_reads: 0,
                limits: Default::default(),
                seeding: None,
                cache: None,
                torrents: Vec::new(),
                warnings: Vec::new(),
                log: None,
            }
        }

        fn end_mount(&self) -> bool {
            self.ends.load(Ordering::SeqCst) > 0
        }

        fn refuses_stop(&self) -> Option<String> {
            Some("mounted".to_owned())
        }

        fn end(&self) {
            self.ends.fetch_add(1, Ordering::SeqCst);
        }

        fn add(&self, file: Vec<u8>, peers: Vec<SocketAddr>, trackers: Vec<String>) -> Response {
            let path = format!("{} {peers:?} {trackers:?}", String::from_utf8(file).unwrap());
            Response { path: Some(path), ..Response::done() }
        }

        fn set(&self, torrent: Option<&str>, each: bool, new: NewLimits) -> Response {
            Response { path: Some(format!("{torrent:?} {each} {new:?}")), ..Response::done() }
        }

        fn remove(&self, torrent: &str) -> Response {
            Response::refused(torrent)
        }

        fn removed(&self) {}
    }

    fn answers(stream: &std::os::unix::net::UnixStream) -> Vec<Response> {
        let lines = std::io::BufReader::new(stream).lines();
        lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect()
    }

    #[test]
    fn nobody_else_gets_in() {
        use std::os::unix::process::CommandExt;
        let parent = tempfile::tempdir().unwrap();
        let uid = std::fs::metadata(parent.path()).unwrap().uid();
        if uid != 0 {
            eprintln!("SKIPPED: needs root, to be somebody else");
            return;
        }
        let open_to_all = |path: &Path| std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
        open_to_all(parent.path());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let directory = parent.path().join("btfs");
        prepare_directory(&directory, uid).unwrap();
        let control = Control::start(&directory, runtime.handle(), Arc::new(Echo::default())).unwrap();
        let connect = |uid| {
            let script = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])";
            let mut python = std::process::Command::new("python3");
            python.args(["-c", script]).arg(control.path()).uid(uid).gid(uid).current_dir("/");
            let output = python.output().unwrap();
            (output.status.success(), String::from_utf8_lossy(&output.stderr).contains("PermissionError"))
        };
        assert_eq!((connect(uid), connect(65534)), ((true, false), (false, true)));
        // Each of the two modes is enough.
        open_to_all(&directory);
        assert_eq!(connect(65534), (false, true));
    }

    #[test]
    fn garbage_gets_an_error_line_and_the_socket_lives() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let parent = tempfile::tempdir().unwrap();
        // Long on purpose: past what a socket address can hold.
        let directory = parent.path().join("d".repeat(120)).join("btfs");
        let uid = std::fs::metadata(parent.path()).unwrap().uid();
        prepare_directory(&directory, uid).unwrap();
        assert_eq!(std::fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
        assert!(prepare_directory(&directory, uid + 1).is_err(), "somebody else's");

        let echo = Arc::new(Echo::default());
        let control = Control::start(&directory, runtime.handle(), echo.clone()).unwrap();
        assert_eq!(std::fs::metadata(control.path()).unwrap().mode() & 0o777, 0o600);
        assert_eq!(super::super::sockets(std::slice::from_ref(&directory)), [control.path()]);

        let connect = || std::os::unix::net::UnixStream::connect(short_path(control.path()).unwrap()).unwrap();
        let stream = connect();
        (&stream).write_all(b"garbage\n\n{\"cmd\":\"dance\"}\n\xff\xfe\n{\"cmd\":\"ping\"}\n").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let said = answers(&stream);
        assert_eq!(said.iter().map(|answer| answer.ok).collect::<Vec<_>>(), [false, false, false, false, true]);
        assert!(said[..4].iter().all(|answer| answer.error.is_some()));

        let stream = connect();
        (&stream).write_all(&vec![b'x'; MAX_LINE_BYTES as usize]).unwrap();
        let said = answers(&stream);
        assert_eq!((said.len(), said[0].ok), (1, false), "one answer, then the end");

        let ask = |request| super::super::ask(control.path(), &request, Duration::from_secs(5)).unwrap();
        assert_eq!(ask(Request::Status { files: 5 }).0.status.unwrap().pid, 5);
        let add =
            |bytes| Request::Add { bytes, peers: vec!["127.0.0.1:1".parse().unwrap()], trackers: vec!["t".into()] };
        let (answer, _) = super::super::ask_with(control.path(), &add(3), b"abc", Duration::from_secs(5)).unwrap();
        assert_eq!(answer.path.as_deref(), Some("abc [127.0.0.1:1] [\"t\"]"));
        let stream = connect();
        (&stream).write_all(&[&serde_json::to_vec(&add(1 << 30)).unwrap()[..], b"\n", &[b'x'; 1000]].concat()).unwrap();
        let mut said = String::new();
        std::io::BufReader::new(&stream).read_line(&mut said).unwrap();
        assert!(said.contains("no torrent file has more than"), "{said}");
        let stream = connect();
        (&stream).write_all(b"{\"cmd\":\"set\",\"max_upload\":0,\"each\":true}\n").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let new = NewLimits { upload: Some(0), ..NewLimits::default() };
        assert_eq!(answers(&stream)[0].path, Some(format!("None true {new:?}")));
        let (answer, _) = ask(Request::Remove { torrent: "x y".into() });
        assert_eq!((answer.ok, answer.error.as_deref()), (false, Some("x y")));
        assert_eq!(ask(Request::Stop).0.error.as_deref(), Some("mounted"));
        echo.end();
        assert!(ask(Request::Umount).0.seeding, "it goes on");
        echo.ends.store(0, Ordering::SeqCst);
        let (_, stream) = ask(Request::Umount);
        let path = control.path().to_path_buf();
        drop(control);
        assert_eq!(answers(&stream).len(), 0, "the end of the process is the end of the connection");
        assert_eq!((echo.ends.load(Ordering::SeqCst), path.exists()), (1, false));
    }

    #[test]
    fn the_sockets_of_the_dead_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("btfs-1.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        assert!(super::super::sockets(&[directory.path().to_path_buf()]).is_empty());
        assert!(!path.exists());
    }
}
