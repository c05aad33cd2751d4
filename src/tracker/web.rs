//! The index as people see it: pages, a feed, JSON, and the way in for uploads.
//!
//! Rendered here, whole, without a script: what there is of one makes some things quicker and nothing possible. Nothing is
//! loaded from elsewhere, and nothing from a torrent is ever anything but text: templates escape, and the content security
//! policy allows no inline script or style. No page sets a cookie, so no foreign page can act in somebody's name; whoever
//! uploads shows a token.

mod answers;
mod assets;
mod chart;
mod error;
mod feed;
mod guard;
mod list;
mod metered;
mod statistics;
mod torrent;
mod upload;
mod view;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::routing::get;
use axum::{Router, extract::State};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use self::error::PageError;
use super::crowd::Turns;
use super::index::{Index, IndexError, SAMPLE_EVERY};
use super::{Bounds, Tracker};

/// How the pages behave.
#[derive(Debug, Clone, Default)]
pub struct PagesConfig {
    /// Where the pages are, as others see it, without a slash at its end: `https://tracker.example`. `None`: as each
    /// request's `Host` says, over http.
    pub public_url: Option<String>,
    /// Names by which this server may be asked, beside `localhost`, IP addresses and that of `public_url`. Any other name
    /// may be one that somebody else has pointed at us.
    pub names: Vec<String>,
    /// Whether anybody may upload, without a token.
    pub open_upload: bool,
    /// How many uploads of one address are read at a time.
    pub bounds: Bounds,
}

/// What all requests share.
#[derive(Debug, Clone)]
struct Site(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    index: Index,
    tracker: Arc<Tracker>,
    config: PagesConfig,
    /// Questions to the database at a time: more would only wait for the same cores.
    questions: Arc<Semaphore>,
    /// Uploads at a time: each may take as much memory as three times the longest torrent.
    uploads: Arc<Semaphore>,
    /// And of one address.
    turns: Turns,
    /// Pages of long torrents at a time, likewise.
    long: Arc<Semaphore>,
    /// Of long answers that are under way.
    room: answers::Room,
}

/// The pages of an index, for the tracker's HTTP server.
pub fn pages(index: Index, tracker: Arc<Tracker>, config: PagesConfig) -> Router {
    Site::new(index, tracker, config).router()
}

/// Writes down the swarms' figures from time to time, for charts, until `shutdown` becomes true or its sender is gone.
pub async fn keep_history(index: Index, tracker: Arc<Tracker>, mut shutdown: watch::Receiver<bool>) {
    let mut tick = tokio::time::interval(SAMPLE_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // Cancel-safe: both lose nothing.
        tokio::select! {
            () = async { _ = shutdown.wait_for(|&end| end).await } => return,
            _ = tick.tick() => {}
        }
        let (index, tracker) = (index.clone(), tracker.clone());
        let sampled = tokio::task::spawn_blocking(move || index.sample(&tracker.store, std::time::SystemTime::now()));
        match sampled.await {
            Ok(Ok(())) => {}
            // The index itself warns, once.
            Ok(Err(error)) => tracing::debug!(%error, "the history of the index cannot be written"),
            // Its panic is logged already.
            Err(_) => {}
        }
    }
}

impl Site {
    fn new(index: Index, tracker: Arc<Tracker>, config: PagesConfig) -> Self {
        let shared = Shared {
            index,
            tracker,
            turns: Turns::at_uploads(config.bounds.clone()),
            room: answers::Room::new(config.bounds.clone()),
            config,
            questions: Arc::new(Semaphore::new(MAX_QUESTIONS)),
            uploads: Arc::new(Semaphore::new(MAX_UPLOADS)),
            long: Arc::new(Semaphore::new(1)),
        };
        Self(Arc::new(shared))
    }

    fn router(self) -> Router {
        Router::new()
            .route("/", get(list::page))
            .route("/api/torrents", get(list::json).post(upload::api))
            .route("/feed.atom", get(feed::feed))
            .route("/torrent/{name}", get(torrent::any))
            .route("/upload", get(upload::form).post(upload::submit))
            .route("/statistics", get(statistics::page))
            .route("/assets/{name}", get(assets::any))
            .route("/favicon.ico", get(assets::icon))
            .route("/robots.txt", get(assets::robots))
            .fallback(async || PageError::NotFound)
            .method_not_allowed_fallback(async || PageError::Method)
            // Handlers that read bodies bound them themselves, and further.
            .layer(DefaultBodyLimit::max(upload::MAX_FORM_BYTES))
            .layer(middleware::from_fn_with_state(self.clone(), guard::guard))
            .with_state(self)
    }

    fn index(&self) -> &Index {
        &self.0.index
    }

    fn tracker(&self) -> &Tracker {
        &self.0.tracker
    }

    fn config(&self) -> &PagesConfig {
        &self.0.config
    }

    /// Asks the database on a thread where that may take its time, a few at once. A question goes on to its end, and keeps
    /// its turn till then, even when whoever has asked is gone: what else it needs a turn for it takes along.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Self) -> Result<T, IndexError> + Send + 'static,
    ) -> Result<T, PageError> {
        let turn = turn(&self.0.questions).await?;
        let site = self.clone();
        let asking = move || {
            let _turn = turn;
            question(&site)
        };
        match tokio::task::spawn_blocking(asking).await {
            Ok(answer) => answer.map_err(PageError::from),
            Err(_) => Err(PageError::Broken),
        }
    }
}

/// Waits for one of a few places.
async fn turn(places: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, PageError> {
    let turn = tokio::time::timeout(PATIENCE, places.clone().acquire_owned()).await;
    turn.map_err(|_| PageError::Busy)?.map_err(|_| PageError::Busy)
}

type Shown = Result<axum::response::Response, PageError>;
type SiteState = State<Site>;

const MAX_QUESTIONS: usize = 8;
const MAX_UPLOADS: usize = 3;
/// Whoever waits longer for his turn is told to come again.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

    use axum::body::Body;
    use axum::http::Request;

    use super::*;
    use crate::proto::metainfo::{NewEntry, NewTorrent};
    use crate::tracker::StoreConfig;

    fn site(room: &std::path::Path) -> Site {
        let index = Index::open(&room.join("index.sqlite")).unwrap();
        let tracker = Arc::new(Tracker::new(StoreConfig::default(), Instant::now(), 1));
        Site::new(index, tracker, PagesConfig { open_upload: true, ..PagesConfig::default() })
    }

    async fn until(condition: impl Fn() -> bool) {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn a_question_keeps_its_turn_when_whoever_asked_hangs_up() {
        let room = tempfile::tempdir().unwrap();
        let site = site(room.path());
        let (begun, begins) = mpsc::channel();
        let (end, ends) = mpsc::channel::<()>();
        let asker = site.clone();
        let asked = tokio::spawn(async move {
            let question = move |_: &Site| {
                begun.send(()).unwrap();
                let _ = ends.recv();
                Ok(())
            };
            asker.ask(question).await
        });
        until(|| begins.try_recv().is_ok()).await;
        asked.abort();
        assert!(asked.await.is_err_and(|error| error.is_cancelled()));
        assert_eq!(site.0.questions.available_permits(), MAX_QUESTIONS - 1);
        drop(end);
        until(|| site.0.questions.available_permits() == MAX_QUESTIONS).await;
    }

    #[tokio::test]
    async fn an_upload_keeps_its_turn_when_whoever_sent_it_hangs_up() {
        let room = tempfile::tempdir().unwrap();
        let site = site(room.path());
        let other = rusqlite::Connection::open(room.path().join("index.sqlite")).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let entry = NewEntry { path: vec![b"a".to_vec()], length: 1, executable: false, target: None };
        let torrent = NewTorrent {
            name: b"a".to_vec(),
            single_file: true,
            entries: vec![entry],
            piece_length: 1 << 16,
            pieces: vec![7; 20],
            ..NewTorrent::default()
        };
        let (file, _) = torrent.write().unwrap();
        let request = Request::post("/api/torrents").header("host", "127.0.0.1").body(Body::from(file)).unwrap();
        let sent = tokio::spawn(tower::ServiceExt::oneshot(site.clone().router(), request));
        until(|| site.0.uploads.available_permits() < MAX_UPLOADS).await;
        sent.abort();
        assert!(sent.await.is_err());
        assert_eq!(site.0.uploads.available_permits(), MAX_UPLOADS - 1);
        other.execute_batch("ROLLBACK").unwrap();
        until(|| site.0.uploads.available_permits() == MAX_UPLOADS).await;
        assert_eq!(site.index().len(), 1, "it was taken all the same");
    }
}
