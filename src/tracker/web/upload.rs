//! The way in: a form for people, and one request for programs (`btfs publish`).
//!
//! A token is looked at before a file is read, so that strangers fill no memory; what they send all the same is read and
//! dropped, since a browser shows no answer before it has sent everything. The name of an uploaded file is not looked at.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use askama::Template;
use axum::body::Body;
use axum::extract::multipart::{Field, Multipart};
use axum::extract::{Extension, FromRequest, Request, State};
use axum::http::StatusCode;
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH};
use axum::response::{IntoResponse, Redirect, Response};
use bytes::{Bytes, BytesMut};
use hyper::body::Body as _;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, SemaphorePermit};

use super::error::{JsonError, PageError};
use super::guard::Authority;
use super::view;
use super::{PATIENCE, Shown, Site, SiteState};
use crate::base::size;
use crate::proto::metainfo::MAX_TORRENT_BYTES;
use crate::tracker::Requester;
use crate::tracker::index::Added;

#[derive(Template)]
#[template(path = "upload.html", config = "src/tracker/web/askama.toml")]
struct UploadPage<'p> {
    open: bool,
    error: &'p str,
    limit: String,
    example: String,
}

pub(super) async fn form(State(site): SiteState, Extension(authority): Extension<Authority>) -> Shown {
    Ok(view::html(&page(&site, &authority, "")))
}

fn page<'p>(site: &Site, authority: &Authority, error: &'p str) -> UploadPage<'p> {
    UploadPage {
        open: site.config().open_upload,
        error,
        limit: size::Bytes(MAX_TORRENT_BYTES as u64).to_string(),
        example: format!("btfs publish FILE.torrent --to {}", view::base(site.config(), authority)),
    }
}

/// Takes the form. What is wrong is said beside it.
pub(super) async fn submit(
    State(site): SiteState,
    Extension(authority): Extension<Authority>,
    request: Request,
) -> Response {
    let requester = request.extensions().get().copied();
    let taken = match Multipart::from_request(request, &()).await {
        Ok(mut multipart) => {
            let taken = take_form(&site, requester, &mut multipart).await;
            if taken.is_err() {
                // Bounded by the connection's life as well.
                let _ = tokio::time::timeout(LAST_BYTES, drain(&mut multipart)).await;
            }
            taken
        }
        Err(_) => Err(PageError::Bad("this is not what the form sends".to_owned())),
    };
    match taken {
        Ok(added) => {
            let what = if added.new { "new" } else { "known" };
            Redirect::to(&format!("/torrent/{}?uploaded={what}", added.hashes)).into_response()
        }
        Err(error) => {
            let (status, text) = (error.status(), error.to_string());
            (status, view::html(&page(&site, &authority, &text))).into_response()
        }
    }
}

async fn take_form(site: &Site, requester: Option<Requester>, form: &mut Multipart) -> Result<Added, PageError> {
    let broken = |_| PageError::Bad("the form did not come whole".to_owned());
    let mut uploader = None;
    while let Some(mut field) = form.next_field().await.map_err(broken)? {
        match field.name() {
            Some("token") => {
                let token = read(&mut field, MAX_TOKEN_BYTES).await.map_err(|error| match error {
                    PageError::TooLarge => PageError::Token,
                    error => error,
                })?;
                uploader = Some(judge(site, Some(String::from_utf8_lossy(&token).into_owned())).await?);
            }
            Some("file") => {
                let uploader = match uploader {
                    Some(uploader) => uploader,
                    None => judge(site, None).await?,
                };
                let _turn = turn(site, requester).await?;
                let file = read(&mut field, MAX_TORRENT_BYTES).await?;
                if file.is_empty() {
                    return Err(PageError::Bad("choose a .torrent file".to_owned()));
                }
                return add(site, file, uploader).await;
            }
            _ => while field.chunk().await.map_err(broken)?.is_some() {},
        }
    }
    Err(PageError::Bad("choose a .torrent file".to_owned()))
}

/// A field that is not longer than `limit`.
async fn read(field: &mut Field<'_>, limit: usize) -> Result<Bytes, PageError> {
    let mut bytes = BytesMut::new();
    loop {
        match field.chunk().await {
            Ok(Some(chunk)) if bytes.len() + chunk.len() > limit => return Err(PageError::TooLarge),
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) => return Ok(bytes.freeze()),
            Err(_) => return Err(PageError::Bad("the form did not come whole".to_owned())),
        }
    }
}

async fn drain(form: &mut Multipart) {
    let mut left = MAX_DRAINED_BYTES;
    while let Ok(Some(mut field)) = form.next_field().await {
        while let Ok(Some(chunk)) = field.chunk().await {
            match left.checked_sub(chunk.len()) {
                Some(less) => left = less,
                None => return,
            }
        }
    }
}

/// What a program is told of its upload; fields are only ever added.
#[derive(Debug, Serialize)]
struct Published {
    info_hash: Option<String>,
    info_hash_v2: Option<String>,
    new: bool,
    page: String,
    torrent: String,
    warnings: Vec<String>,
}

/// Takes a `.torrent` file as the body of a request, the token in `Authorization: Bearer …`.
pub(super) async fn api(
    State(site): SiteState,
    Extension(authority): Extension<Authority>,
    request: Request,
) -> Result<Response, JsonError> {
    let requester = request.extensions().get().copied();
    let (parts, body) = request.into_parts();
    let headers = parts.headers;
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > MAX_TORRENT_BYTES as u64) {
        return Err(PageError::TooLarge.into());
    }
    let token = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let uploader = judge(&site, token.map(str::to_owned)).await?;
    let added = {
        let _turn = turn(&site, requester).await?;
        add(&site, whole(body).await?, uploader).await?
    };
    let base = view::base(site.config(), &authority);
    let published = Published {
        info_hash: added.hashes.v1.map(|hash| hash.to_string()),
        info_hash_v2: added.hashes.v2.map(|hash| hash.to_string()),
        new: added.new,
        page: format!("{base}/torrent/{}", added.hashes),
        torrent: format!("{base}/torrent/{}.torrent", added.hashes),
        warnings: added.warnings,
    };
    let status = if added.new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, view::json(&published)).into_response())
}

async fn whole(mut body: Body) -> Result<Bytes, PageError> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let frame = frame.map_err(|_| PageError::Bad("the file did not come whole".to_owned()))?;
        if let Ok(data) = frame.into_data() {
            if bytes.len() + data.len() > MAX_TORRENT_BYTES {
                return Err(PageError::TooLarge);
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes.freeze())
}

/// Who uploads: the name that belongs to the token, nobody where no token is needed.
async fn judge(site: &Site, token: Option<String>) -> Result<Option<String>, PageError> {
    let known = match token.filter(|token| !token.trim().is_empty() && token.len() <= MAX_TOKEN_BYTES) {
        Some(token) => site.ask(move |site| site.index().uploader(&token)).await?,
        None => None,
    };
    if known.is_some() || site.config().open_upload { Ok(known) } else { Err(PageError::Token) }
}

/// Waits until few enough upload, of this address and of all.
async fn turn(site: &Site, requester: Option<Requester>) -> Result<Turn<'_>, PageError> {
    let turn = tokio::time::timeout(PATIENCE, async {
        let own = match requester {
            Some(Requester(ip)) => site.0.turns.wait(ip).await,
            None => None,
        };
        site.0.uploads.acquire().await.map(|turn| (own, turn))
    });
    turn.await.map_err(|_| PageError::Busy)?.map_err(|_| PageError::Busy)
}

type Turn<'s> = (Option<OwnedSemaphorePermit>, SemaphorePermit<'s>);

/// Adds it. Goes on to its end even when whoever has asked is gone: a turn of the database's threads of its own.
async fn add(site: &Site, file: Bytes, uploader: Option<String>) -> Result<Added, PageError> {
    if file.starts_with(b"magnet:") {
        return Err(PageError::Bad("magnet links are not taken yet: upload the .torrent file itself".to_owned()));
    }
    let owned = site.clone();
    let adding = move || owned.index().add(file, uploader.as_deref(), SystemTime::now());
    let added = tokio::task::spawn_blocking(adding).await.map_err(|_| PageError::Broken)??;
    site.list(&added.hashes);
    Ok(added)
}

const MAX_TOKEN_BYTES: usize = 256;
const MAX_DRAINED_BYTES: usize = 2 * MAX_TORRENT_BYTES;
const LAST_BYTES: Duration = Duration::from_secs(20);
