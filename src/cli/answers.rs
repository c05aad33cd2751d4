//! What a running process answers on its control socket.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::process::{End, explain};
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
        if !self.is_mounted() {
            return Response::refused(NOT_MOUNTED);
        }
        let changes = &self.source.changes;
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
}

fn done(path: String, hash: Option<InfoHash>) -> Response {
    Response { path: Some(path), info_hash: hash.map(|hash| hash.to_string()), ..Response::done() }
}

const NOT_MOUNTED: &str = "nothing is mounted there";
