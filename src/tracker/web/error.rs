//! What went wrong, as a page. Nothing that a stranger sends is an error of ours.

use askama::Template;
use axum::http::StatusCode;
use axum::http::header::{CONNECTION, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::response::{IntoResponse, Response};

use super::view;
use crate::tracker::Refusal;
use crate::tracker::index::IndexError;

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub(super) enum PageError {
    #[error("there is nothing at this address")]
    NotFound,
    #[error("this page cannot be asked in that way")]
    Method,
    #[error("{0}")]
    Bad(String),
    #[error("a torrent file has at most {} bytes", crate::proto::metainfo::MAX_TORRENT_BYTES)]
    TooLarge,
    #[error("uploading needs a token that is valid here")]
    Token,
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("this server does not answer to that name; its operator can add it with --public-name")]
    Host,
    #[error("this was sent by another site")]
    Origin,
    #[error("this takes too long; try fewer or longer words")]
    TooLong,
    #[error("too many ask at once; try again in a moment")]
    Busy,
    #[error("there is no room for it: the disk of this server is full, and nothing of this was kept; try again later")]
    Full,
    #[error("the index cannot be used at the moment; its operator finds the reason in the log")]
    Broken,
}

/// The same for programs.
pub(super) struct JsonError(pub(super) PageError);

#[derive(Template)]
#[template(path = "error.html", config = "src/tracker/web/askama.toml")]
struct ErrorPage<'e> {
    status: u16,
    heading: &'static str,
    text: &'e str,
}

impl PageError {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Bad(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Token => StatusCode::UNAUTHORIZED,
            Self::Host => StatusCode::MISDIRECTED_REQUEST,
            Self::Origin | Self::Refused(_) => StatusCode::FORBIDDEN,
            Self::Full => StatusCode::INSUFFICIENT_STORAGE,
            Self::TooLong | Self::Busy | Self::Broken => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn heading(&self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Method | Self::Bad(_) => "That does not work",
            Self::TooLarge => "Too large",
            Self::Token => "Not allowed",
            Self::Host | Self::Origin | Self::Refused(_) => "Refused",
            Self::TooLong | Self::Busy => "Busy",
            Self::Full | Self::Broken => "Out of order",
        }
    }

    fn dress(&self, mut response: Response) -> Response {
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        match self {
            Self::Token => _ = headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
            Self::TooLong | Self::Busy | Self::Broken => _ = headers.insert(RETRY_AFTER, HeaderValue::from_static("5")),
            // Its body may not have been read.
            Self::TooLarge | Self::Origin => _ = headers.insert(CONNECTION, HeaderValue::from_static("close")),
            _ => {}
        }
        response
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        let page = ErrorPage { status: self.status().as_u16(), heading: self.heading(), text: &self.to_string() };
        self.dress(view::html(&page))
    }
}

impl IntoResponse for JsonError {
    fn into_response(self) -> Response {
        self.0.dress(view::json(&serde_json::json!({ "error": self.0.to_string() })))
    }
}

impl From<IndexError> for PageError {
    fn from(error: IndexError) -> Self {
        match error {
            IndexError::Torrent(error) => Self::Bad(format!("this is no usable torrent: {error}")),
            IndexError::Refused(refusal) => Self::Refused(refusal),
            IndexError::TooLong => Self::TooLong,
            IndexError::Full => Self::Full,
            error => {
                // The index itself warns, once.
                tracing::debug!(%error, "a page cannot be made");
                Self::Broken
            }
        }
    }
}

impl From<PageError> for JsonError {
    fn from(error: PageError) -> Self {
        Self(error)
    }
}
