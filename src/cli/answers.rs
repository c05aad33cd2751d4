//! What a running process answers on its control socket.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;

use super::process::{End, explain};
use super::stop::Sharers;
use super::torrents;
use crate::base::InfoHash;
use crate::control::{NewLimits, Responder, Response, Status, StatusSource};
use crate::net::{AddTorrent, NewBounds, SessionError};

/// Answers for one process.
pub(crate) struct Answers {
    source: Arc<StatusSource>,
    end: mpsc::UnboundedSender<End>,
}

impl Answers {
    /// Answers from `source`; whoever asks for the end is passed on to `end`.
    pub(crate) fn new(source: Arc<StatusSource>, end: mpsc::UnboundedSender<End>) -> Self {
        Self { source, end }
    }

    fn is_mounted(&self) -> bool {
        self.source.changes.mount().is_some_and(|mount| mount.is_mounted())
    }
}

impl Responder for Answers {
    fn status(&self, files: usize) -> Status {
        self.source.collect(files)
    }

    fn end_mount(&self) -> bool {
        let (changes, seeding) = (&self.source.changes, &self.source.seeding);
        if !seeding.is_wanted() || changes.mount().is_none() {
            return false;
        }
        changes.end_view();
        seeding.begin(Instant::now());
        let _ = self.end.send(End::Unmounted);
        true
    }

    fn refuses_stop(&self) -> Option<String> {
        let place = self.source.mountpoint.as_deref().map(|path| path.display().to_string()).unwrap_or_default();
        self.is_mounted().then(|| format!("it is mounted at {place}: unmount it first"))
    }

    fn end(&self) {
        let _ = self.end.send(End::Asked);
    }

    fn add(&self, file: Vec<u8>, peers: Vec<SocketAddr>, trackers: Vec<String>) -> Response {
        if !self.is_mounted() {
            return Response::refused(NOT_MOUNTED);
        }
        // Whoever sent it has said what is odd about it.
        let metainfo = match torrents::judge("the torrent", &file) {
            Ok(metainfo) => Arc::new(metainfo),
            Err(error) => return Response::refused(error.to_string()),
        };
        let hash = metainfo.info_hash;
        if let Err(error) = self.source.changes.session().judge_room() {
            return Response::refused(error.to_string());
        }
        let cache = self.source.changes.session().cache_dir();
        Sharers::default().take_over(std::slice::from_ref(&metainfo), cache);
        match self.source.changes.add(AddTorrent { metainfo, data: None, peers, trackers }, Path::new("")) {
            Ok(path) => done(path.to_string_lossy().into_owned(), hash),
            Err(SessionError::Twice) => Response::refused("the torrent is in this mount already"),
            Err(error) => Response::refused(explain(error).to_string()),
        }
    }

    fn set(&self, torrent: Option<&str>, each: bool, new: NewLimits) -> Response {
        let bound = |rate: Option<u64>| rate.map(|rate| Some(rate).filter(|&rate| rate > 0));
        let new = NewBounds {
            upload: bound(new.upload),
            download: bound(new.download),
            upload_slots: new.upload_slots.map(|slots| Some(slots).filter(|&slots| slots > 0)),
        };
        let (changes, session) = (&self.source.changes, self.source.changes.session());
        match torrent.map(|name| changes.find(name)) {
            Some(Err(error)) => return Response::refused(error.to_string()),
            Some(Ok(hash)) if session.limit_one(&hash, new) => {}
            Some(Ok(_)) => return Response::refused("no such torrent is here"),
            None if each => session.limit_each(new),
            None => session.limit(new),
        }
        Response::done()
    }

    fn remove(&self, torrent: &str) -> Response {
        let (changes, is_seeding) = (&self.source.changes, self.source.seeding.has_begun());
        if !self.is_mounted() && !is_seeding {
            return Response::refused(NOT_MOUNTED);
        }
        let hash = match changes.find(torrent) {
            Ok(hash) => hash,
            Err(error) => return Response::refused(error.to_string()),
        };
        let path = changes.mount().and_then(|mount| mount.path_of(&hash)).unwrap_or_default();
        match changes.remove(&hash) {
            true => done(path.to_string_lossy().into_owned(), Some(hash)),
            // Somebody was faster.
            false => Response::refused("no such torrent is mounted here"),
        }
    }

    fn removed(&self) {
        if self.source.seeding.has_begun() && self.source.changes.session().torrents().is_empty() {
            let _ = self.end.send(End::Shared);
        }
    }
}

fn done(path: String, hash: Option<InfoHash>) -> Response {
    Response { path: Some(path), info_hash: hash.map(|hash| hash.to_string()), ..Response::done() }
}

const NOT_MOUNTED: &str = "nothing is mounted there";
