//! Resumable uploads: tus 1.0.0 (<https://tus.io/protocols/resumable-upload>) with creation and termination,
//! below `/tus/v1/uploads`. An upload belongs to the box that created it.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::extract::{ConnectInfo, MatchedPath, Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt;
use uuid::Uuid;

use super::boxes::BoxPeer;
use super::{Problem, not_found, wrong_method};
use crate::hub::clips::{ClipStore, Declared, Progress};
use crate::hub::metrics::HubMetrics;
use crate::limits::{CLIP_BYTES_MAX, UPLOAD_IDLE_MAX, UPLOAD_PART_BYTES_MAX};

const UPLOADS: &str = "/tus/v1/uploads";
const TUS_VERSION: &str = "1.0.0";
const TUS_RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");
const UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");
const UPLOAD_METADATA: HeaderName = HeaderName::from_static("upload-metadata");

type Clips = State<Arc<ClipStore>>;
type Peer = ConnectInfo<BoxPeer>;

/// The routes of the boxes' listener.
pub fn router(clips: Arc<ClipStore>, metrics: HubMetrics) -> Router {
    Router::new()
        .route(UPLOADS, routing::post(create).options(options))
        .route(
            &format!("{UPLOADS}/{{id}}"),
            routing::head(progress).patch(append).delete(terminate).options(options),
        )
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(metrics, guard))
        .with_state(clips)
}

/// Both sides must speak the same version; every answer says which.
async fn guard(State(metrics): State<HubMetrics>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().cloned();
    let began = Instant::now();
    let speaks = request.headers().get(TUS_RESUMABLE).is_some_and(|v| v == TUS_VERSION);
    let mut response = if speaks || request.method() == Method::OPTIONS {
        next.run(request).await
    } else {
        let detail = format!("Tus-Resumable must be {TUS_VERSION}");
        let mut response = Problem::new(StatusCode::PRECONDITION_FAILED, detail).into_response();
        response.headers_mut().insert("tus-version", HeaderValue::from_static(TUS_VERSION));
        response
    };
    response.headers_mut().insert(TUS_RESUMABLE, HeaderValue::from_static(TUS_VERSION));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let route = path.as_ref().map_or("other", MatchedPath::as_str);
    metrics.request("boxes", route, response.status().as_u16(), began.elapsed());
    response
}

async fn options() -> Response {
    let head = [
        ("tus-version", TUS_VERSION.to_owned()),
        ("tus-extension", "creation,termination".to_owned()),
        ("tus-max-size", CLIP_BYTES_MAX.to_string()),
    ];
    (StatusCode::NO_CONTENT, head).into_response()
}

async fn create(
    State(clips): Clips,
    ConnectInfo(peer): Peer,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let length = number(&headers, &UPLOAD_LENGTH)?;
    let declared = declared(&headers, length)?;
    let (id, progress) = clips.create(&peer.box_id, declared).await?;
    let location = HeaderValue::from_str(&format!("{UPLOADS}/{id}")).expect("a UUID is a header value");
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], offsets(progress)).into_response())
}

async fn progress(
    State(clips): Clips,
    ConnectInfo(peer): Peer,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let progress = clips.progress(&peer.box_id, upload_id(&id)?).await?;
    Ok((StatusCode::OK, offsets(progress)).into_response())
}

async fn append(
    State(clips): Clips,
    ConnectInfo(peer): Peer,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let kind = headers.get(header::CONTENT_TYPE);
    if kind.is_none_or(|kind| kind != "application/offset+octet-stream") {
        let detail = "Content-Type must be application/offset+octet-stream";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    let offset = number(&headers, &UPLOAD_OFFSET)?;
    let mut body = body.into_data_stream();
    match clips.append(&peer.box_id, upload_id(&id)?, offset, &mut body).await {
        Ok(progress) => Ok((StatusCode::NO_CONTENT, offsets(progress)).into_response()),
        Err(error) => {
            swallow(&mut body).await;
            Err(error.into())
        }
    }
}

/// Reads what is still on its way, up to one part: a box that is still sending when the connection closes
/// would see a broken link instead of the answer.
async fn swallow(body: &mut BodyDataStream) {
    let mut left = UPLOAD_PART_BYTES_MAX;
    let rest = async {
        while let Some(Ok(chunk)) = body.next().await
            && left > chunk.len()
        {
            left -= chunk.len();
        }
    };
    // Nothing is lost if it takes too long: the part is refused anyway.
    let _ = tokio::time::timeout(UPLOAD_IDLE_MAX, rest).await;
}

async fn terminate(
    State(clips): Clips,
    ConnectInfo(peer): Peer,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    clips.terminate(&peer.box_id, upload_id(&id)?).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn offsets(progress: Progress) -> [(HeaderName, HeaderValue); 2] {
    [(UPLOAD_OFFSET, progress.offset.into()), (UPLOAD_LENGTH, progress.length.into())]
}

fn upload_id(text: &str) -> Result<Uuid, Problem> {
    Uuid::parse_str(text).map_err(|_| Problem::not_found("there is no such upload"))
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Result<u64, Problem> {
    let value = headers.get(name).and_then(|v| v.to_str().ok());
    let digits = value.filter(|v| v.bytes().all(|b| b.is_ascii_digit()));
    digits
        .and_then(|v| v.parse().ok())
        .ok_or_else(|| Problem::bad_request(format!("{name} must be a number")))
}

/// `Upload-Metadata: clip <base64>,sha256 <base64>,kind <base64>`.
pub fn declared(headers: &HeaderMap, bytes: u64) -> Result<Declared, Problem> {
    let text = headers.get(UPLOAD_METADATA).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let value = |key: &str| -> Result<String, Problem> {
        let pair = text.split(',').find_map(|pair| pair.trim().split_once(' ').filter(|(k, _)| *k == key));
        let bytes = pair.and_then(|(_, value)| STANDARD.decode(value.trim()).ok());
        bytes
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .ok_or_else(|| Problem::bad_request(format!("Upload-Metadata must carry {key}, as base64")))
    };
    let wrong = |key: &str, what: &str| Problem::bad_request(format!("Upload-Metadata: {key} {what}"));
    let clip = Uuid::parse_str(&value("clip")?).map_err(|_| wrong("clip", "must be a UUID"))?;
    let sha256 = value("sha256")?.parse().map_err(|_| wrong("sha256", "must have 64 hexadecimal digits"))?;
    let kind = value("kind")?;
    if kind != "clip" && kind != "thumbnail" {
        return Err(wrong("kind", "must be clip or thumbnail"));
    }
    Ok(Declared { clip, sha256, kind, bytes })
}
