//! Photos of work orders: taken at the pole, kept with the note, shown only through the gate.

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;
use utoipa::IntoParams;
use uuid::Uuid;

use super::{act_of, order_id};
use crate::hub::access::Action;
use crate::hub::fleet::keeper::ActError;
use crate::hub::fleet::work::{Order, What, WorkError};
use crate::hub::photos::{self, PhotoError};
use crate::hub::web::api::{Answered, App, InPath, Looker, PurposeQuery, query};
use crate::hub::web::{Problem, blocking};
use crate::limits::PHOTO_BYTES_MAX;
use crate::model::Sha256Hash;

/// What goes with a photo.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PhotoAsked {
    /// What is to be seen; may be absent.
    text: Option<String>,
}

/// Takes a photo (`image/jpeg` or `image/png`) as a note of the work order. Durable when it is answered.
#[utoipa::path(post, path = "/api/v1/work-orders/{id}/photos", params(("id" = String, Path), PhotoAsked),
    request_body(content = String, content_type = "image/jpeg"),
    responses((status = 200, body = Object), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 413, body = Problem), (status = 415, body = Problem),
        (status = 503, body = Problem)))]
pub async fn take(
    State(web): App,
    looker: Looker,
    InPath(id): InPath<String>,
    headers: HeaderMap,
    uri: Uri,
    body: Body,
) -> Answered<Order> {
    let PhotoAsked { text } = query(&uri)?;
    let order = order_id(&id)?;
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !matches!(kind, "image/jpeg" | "image/png") {
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send image/jpeg or image/png"));
    }
    let bytes = to_bytes(body, PHOTO_BYTES_MAX).await.map_err(|_| Problem::from(PhotoError::TooLarge))?;
    photos::check(&bytes)?;
    let sha256 = Sha256Hash::of(&bytes);
    let act = act_of(&web, order, What::Note { text: text.unwrap_or_default(), photo: Some(sha256) });
    // What the order can't take is not kept either.
    let known = web.fleet.look(|inner| inner.book.known.orders.get(order).cloned());
    let tried = known.ok_or(WorkError::Unknown(order)).and_then(|mut known| known.take(&act));
    tried.map_err(|error| Problem::from(ActError::from(error)))?;
    looker.pass(&web, Action::Work, None, json!({ "order": order, "photo": sha256 })).await?;
    let taken = blocking(move || {
        web.photos.put(&bytes)?;
        web.fleet.act(act).map_err(Problem::from)
    });
    Ok(Json(taken.await?))
}

/// A photo of the work order.
#[utoipa::path(get, path = "/api/v1/work-orders/{id}/photos/{sha256}",
    params(("id" = String, Path), ("sha256" = String, Path), PurposeQuery),
    responses((status = 200, content_type = "image/jpeg"), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 503, body = Problem)))]
pub async fn show(
    State(web): App,
    looker: Looker,
    InPath((id, sha256)): InPath<(String, String)>,
    uri: Uri,
) -> Result<Response, Problem> {
    let purpose = query::<PurposeQuery>(&uri)?.purpose;
    let order = order_id(&id)?;
    let not_found = || Problem::not_found("the work order has no such photo");
    let sha256: Sha256Hash = sha256.parse().map_err(|_| not_found())?;
    let pass = looker.pass(&web, Action::Photo, purpose, json!({ "order": order, "photo": sha256 })).await?;
    if !has_photo(&web, order, sha256) {
        return Err(not_found());
    }
    let (bytes, kind) = blocking(move || web.photos.read(&pass, &sha256)).await?;
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(kind))], bytes).into_response())
}

fn has_photo(web: &crate::hub::web::Web, order: Uuid, sha256: Sha256Hash) -> bool {
    web.fleet.look(|inner| {
        let order = inner.book.known.orders.get(order);
        order.is_some_and(|order| order.notes.iter().any(|note| note.photo == Some(sha256)))
    })
}

impl From<PhotoError> for Problem {
    fn from(error: PhotoError) -> Self {
        match &error {
            PhotoError::Kind => Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, error.to_string()),
            PhotoError::TooLarge => Self::new(StatusCode::PAYLOAD_TOO_LARGE, error.to_string()),
            PhotoError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                Self::internal(StatusCode::INSUFFICIENT_STORAGE, &error)
            }
            PhotoError::Io { .. } => Self::internal(StatusCode::INTERNAL_SERVER_ERROR, &error),
        }
    }
}
