//! The way in: a form for people, and one request for programs (`btfs publish`).
//!
//! A token is looked at before a file is read, so that strangers fill no memory; what they send all the same is read and
//! dropped, since a browser shows no answer before it has sent everything. Of a form only so much is kept as stands
//! between two fields ([`Metered`]). The name of an uploaded file is not looked at.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use askama::Template;
use axum::body::Body;
use axum::extract::multipart::{Field, Multipart};
use axum::extract::{Extension, FromRequest, Request, State};
use axum::http::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use bytes::{Bytes, BytesMut};
use hyper::body::Body as _;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use super::error::{JsonError, PageError};
use super::guard::Authority;
use super::metered::Metered;
use super::view;
use super::{PATIENCE, Shown, Site, SiteState};
use crate::base::size;
use crate::proto::metainfo::MAX_TORRENT_BYTES;
use crate::tracker::index::Added;
use crate::tracker::{BETRAYS_A_PASSKEY, Requester, admit_added};

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
    let claimed = claimed_bytes(request.headers());
    let (parts, body) = request.into_parts();
    let body = Metered::new(body, MAX_FORM_BYTES);
    let taken = if claimed.is_some_and(|bytes| bytes > MAX_FORM_BYTES as u64) {
        Err(PageError::TooLarge)
    } else {
        let request = Request::from_parts(parts, Body::new(body.clone()));
        match Multipart::from_request(request, &()).await {
            Ok(mut multipart) => take_form(&site, requester, &mut multipart, &body).await,
            Err(_) => Err(PageError::Bad("this is not what the form sends".to_owned())),
        }
    };
    // Who says that he sends much more is not waited for; the others are bounded by their connection's life as well.
    let drained = claimed.is_none_or(|bytes| bytes <= MAX_DRAINED_BYTES as u64);
    if taken.is_err() && drained {
        let _ = tokio::time::timeout(LAST_BYTES, body.drain(MAX_DRAINED_BYTES)).await;
    }
    match taken {
        Ok(added) => {
            let what = if added.new { "new" } else { "known" };
            Redirect::to(&format!("/torrent/{}?uploaded={what}", added.hashes)).into_response()
        }
        Err(error) => {
            let (status, text) = (error.status(), error.to_string());
            let mut response = (status, view::html(&page(&site, &authority, &text))).into_response();
            if !drained {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
    }
}

async fn take_form(
    site: &Site,
    requester: Option<Requester>,
    form: &mut Multipart,
    body: &Metered,
) -> Result<Added, PageError> {
    let broken = |_| broken(body);
    let mut uploader = None;
    while let Some(mut field) = form.next_field().await.map_err(broken)? {
        body.went_on();
        match field.name() {
            Some("token") => {
                let token = read(&mut field, MAX_TOKEN_BYTES, body).await.map_err(|error| match error {
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
                let turn = turn(site, requester).await?;
                let file = read(&mut field, MAX_TORRENT_BYTES, body).await?;
                if file.is_empty() {
                    return Err(PageError::Bad("choose a .torrent file".to_owned()));
                }
                return add(site, file, uploader, turn).await;
            }
            _ => {
                while field.chunk().await.map_err(broken)?.is_some() {
                    body.went_on();
                }
            }
        }
    }
    Err(PageError::Bad("choose a .torrent file".to_owned()))
}

/// A field that is not longer than `limit`.
async fn read(field: &mut Field<'_>, limit: usize, body: &Metered) -> Result<Bytes, PageError> {
    let mut bytes = BytesMut::new();
    loop {
        match field.chunk().await {
            Ok(Some(chunk)) if bytes.len() + chunk.len() > limit => return Err(PageError::TooLarge),
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) => return Ok(bytes.freeze()),
            Err(_) => return Err(broken(body)),
        }
        body.went_on();
    }
}

fn broken(body: &Metered) -> PageError {
    if body.is_too_large() {
        PageError::TooLarge
    } else {
        PageError::Bad("the form did not come whole, or is none".to_owned())
    }
}

/// How long the body is, as its sender says.
fn claimed_bytes(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok())
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
    if claimed_bytes(&headers).is_some_and(|bytes| bytes > MAX_TORRENT_BYTES as u64) {
        return Err(PageError::TooLarge.into());
    }
    let token = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let uploader = judge(&site, token.map(str::to_owned)).await?;
    let added = {
        let turn = turn(&site, requester).await?;
        add(&site, whole(body).await?, uploader, turn).await?
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
async fn turn(site: &Site, requester: Option<Requester>) -> Result<Turn, PageError> {
    let turn = tokio::time::timeout(PATIENCE, async {
        let own = match requester {
            Some(Requester(ip)) => site.0.turns.wait(ip).await,
            None => None,
        };
        site.0.uploads.clone().acquire_owned().await.map(|turn| (own, turn))
    });
    turn.await.map_err(|_| PageError::Busy)?.map_err(|_| PageError::Busy)
}

type Turn = (Option<OwnedSemaphorePermit>, OwnedSemaphorePermit);

/// Adds it. Goes on to its end, and keeps its turn till then, even when whoever has asked is gone.
async fn add(site: &Site, file: Bytes, uploader: Option<String>, turn: Turn) -> Result<Added, PageError> {
    if file.starts_with(b"magnet:") {
        return Err(PageError::Bad("magnet links are not taken yet: upload the .torrent file itself".to_owned()));
    }
    let site = site.clone();
    let adding = move || {
        let _turn = turn;
        if site.tracker().access.betrays_a_passkey(&file) {
            return Err(PageError::Bad(BETRAYS_A_PASSKEY.to_owned()));
        }
        let added = site.index().add(file, uploader.as_deref(), SystemTime::now())?;
        admit_added(site.index(), site.tracker(), &added);
        Ok(added)
    };
    tokio::task::spawn_blocking(adding).await.map_err(|_| PageError::Broken)?
}

const MAX_TOKEN_BYTES: usize = 256;
/// A torrent, a token, and what is around them.
pub(super) const MAX_FORM_BYTES: usize = MAX_TORRENT_BYTES + (64 << 10);
const MAX_DRAINED_BYTES: usize = 2 * MAX_TORRENT_BYTES;
const LAST_BYTES: Duration = Duration::from_secs(20);
