//! Errors as RFC 9457 problem details.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::hub::access::Denied;
use crate::hub::catalog::CatalogError;
use crate::hub::clips::UploadError;
use crate::hub::command::CommandError;
use crate::hub::replay::ReplayError;
use crate::hub::search::SearchError;

/// The body of every error (`application/problem+json`).
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Problem {
    #[serde(rename = "type")]
    kind: &'static str,
    /// The status in words.
    title: String,
    status: u16,
    /// What went wrong here, and what to do.
    detail: String,
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = match status.as_u16() {
            460 => "Checksum Mismatch",
            _ => status.canonical_reason().unwrap_or("Error"),
        };
        Self { kind: "about:blank", title: title.to_owned(), status: status.as_u16(), detail: detail.into() }
    }

    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// For the hub's own failures: the details are for the log, not for who asked.
    pub fn internal(status: StatusCode, error: &dyn std::error::Error) -> Self {
        let mut causes = String::new();
        let mut source = error.source();
        while let Some(cause) = source {
            causes += &format!(": {cause}");
            source = cause.source();
        }
        tracing::error!(error = %error, causes, "request failed");
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).expect("a problem has only text keys");
        let kind = HeaderValue::from_static("application/problem+json");
        (status, [(header::CONTENT_TYPE, kind)], body).into_response()
    }
}

impl From<Denied> for Problem {
    fn from(error: Denied) -> Self {
        match error {
            Denied::NotAllowed { .. } => Self::new(StatusCode::FORBIDDEN, error.to_string()),
            Denied::NotRecorded(_) => Self::internal(StatusCode::SERVICE_UNAVAILABLE, &error),
        }
    }
}

impl From<SearchError> for Problem {
    fn from(error: SearchError) -> Self {
        match error {
            SearchError::Catalog(error) => error.into(),
            other => Self::bad_request(other.to_string()),
        }
    }
}

impl From<CatalogError> for Problem {
    fn from(error: CatalogError) -> Self {
        Self::internal(StatusCode::INTERNAL_SERVER_ERROR, &error)
    }
}

impl From<ReplayError> for Problem {
    fn from(error: ReplayError) -> Self {
        Self::internal(StatusCode::SERVICE_UNAVAILABLE, &error)
    }
}

impl From<CommandError> for Problem {
    fn from(error: CommandError) -> Self {
        let status = match &error {
            CommandError::NoLink => StatusCode::SERVICE_UNAVAILABLE,
            CommandError::TooMany => StatusCode::TOO_MANY_REQUESTS,
            CommandError::NoAnswer { .. } => StatusCode::GATEWAY_TIMEOUT,
        };
        Self::new(status, error.to_string())
    }
}

impl From<UploadError> for Problem {
    fn from(error: UploadError) -> Self {
        let status = match &error {
            UploadError::NotFound => StatusCode::NOT_FOUND,
            UploadError::TooLarge { .. } | UploadError::TooMuch { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            UploadError::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
            UploadError::Offset { .. } => StatusCode::CONFLICT,
            UploadError::Busy => StatusCode::LOCKED,
            UploadError::WrongHash { .. } => StatusCode::from_u16(460).expect("a status has three digits"),
            UploadError::Cut { .. } => StatusCode::BAD_REQUEST,
            UploadError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                return Self::internal(StatusCode::INSUFFICIENT_STORAGE, &error);
            }
            UploadError::Io { .. } => return Self::internal(StatusCode::INTERNAL_SERVER_ERROR, &error),
            UploadError::NotDurable(_) => return Self::internal(StatusCode::SERVICE_UNAVAILABLE, &error),
        };
        Self::new(status, error.to_string())
    }
}
