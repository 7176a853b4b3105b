//! The console's files, embedded in the binary, and the base map that the configuration names. May not fetch anything
//! from elsewhere.

use std::io::{self, Read as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use rust_embed::RustEmbed;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

use super::video::{Wanted, part_of};
use super::{Problem, Web};

#[derive(RustEmbed)]
#[folder = "src/hub/console/dist"]
#[allow_missing = true]
struct Dist;

const INDEX: &str = "index.html";
const NOT_BUILT: &str = "<!doctype html><meta charset=\"utf-8\"><title>camnet</title>\
    <p>Giao diện chưa được dựng: chạy <code>make console</code> rồi dựng lại hub.</p>\
    <p lang=\"en\">The console is not built: run <code>make console</code>, then build the hub again. \
    The API is at <a href=\"/openapi.json\">/openapi.json</a>.</p>";

/// A file of the console; every other path is a page of it, and the page's script shows which.
pub async fn serve(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    if method != Method::GET && method != Method::HEAD {
        return Problem::new(StatusCode::METHOD_NOT_ALLOWED, "the console is only read").into_response();
    }
    let path = uri.path().trim_start_matches('/');
    let looks_like_file = path.rsplit('/').next().is_some_and(|name| name.contains('.'));
    match Dist::get(path).map(|file| (path, file)) {
        Some((path, file)) if path != INDEX => answer(path, file, &headers),
        None if looks_like_file && path != INDEX => {
            Problem::not_found("there is no such file").into_response()
        }
        _ => match Dist::get(INDEX) {
            Some(file) => answer(INDEX, file, &headers),
            None => axum::response::Html(NOT_BUILT).into_response(),
        },
    }
}

fn answer(path: &str, file: rust_embed::EmbeddedFile, headers: &HeaderMap) -> Response {
    let tag = format!("\"{}\"", hex::encode(file.metadata.sha256_hash()));
    let tag = HeaderValue::from_str(&tag).expect("hex is a header value");
    // Vite puts a hash into the names below assets/, so those never change.
    let caching =
        if path.starts_with("assets/") { "public, max-age=31536000, immutable" } else { "no-cache" };
    let kind = mime_guess::from_path(path).first_or_octet_stream();
    let kind = HeaderValue::from_str(kind.as_ref()).expect("a media type is a header value");
    let caching = HeaderValue::from_static(caching);
    let head = [(header::ETAG, tag.clone()), (header::CACHE_CONTROL, caching), (header::CONTENT_TYPE, kind)];
    if headers.get(header::IF_NONE_MATCH) == Some(&tag) {
        return (StatusCode::NOT_MODIFIED, head).into_response();
    }
    (head, file.data).into_response()
}

/// Where the console finds the base map; null without one.
pub async fn base_map_place(State(web): State<Arc<Web>>) -> Json<Value> {
    Json(json!({ "pmtiles": web.base_map.as_ref().map(|_| "/basemap.pmtiles") }))
}

/// One byte range of the base map, or all of it. No footage: passes no gate.
pub async fn base_map(State(web): State<Arc<Web>>, headers: HeaderMap) -> Result<Response, Problem> {
    let map = web.base_map.as_ref().ok_or_else(|| Problem::not_found("this hub has no base map"))?;
    map.answer(&headers).await.map_err(|error| {
        tracing::warn!(path = %map.0.display(), %error, "base map can't be read");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the base map can't be read")
    })
}

/// A PMTiles file that was there when the hub started.
#[derive(Debug, Clone)]
pub struct BaseMap(PathBuf);

/// Name and version at the beginning of the file (PMTiles specification 3, section 3).
const PMTILES: &[u8; 8] = b"PMTiles\x03";

impl BaseMap {
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut start = [0; PMTILES.len()];
        std::fs::File::open(path)?.read_exact(&mut start)?;
        if start == *PMTILES {
            return Ok(Self(path.to_owned()));
        }
        let why = "is no PMTiles file of version 3; make one with `pmtiles convert` or `pmtiles extract`";
        Err(io::Error::new(io::ErrorKind::InvalidData, why))
    }

    /// The file may be replaced while the hub runs; its tag tells the console.
    async fn answer(&self, headers: &HeaderMap) -> io::Result<Response> {
        let mut file = tokio::fs::File::open(&self.0).await?;
        let metadata = file.metadata().await?;
        let (bytes, changed) = (metadata.len(), metadata.modified()?);
        let changed = changed.duration_since(UNIX_EPOCH).unwrap_or_default();
        let tag = format!("\"{bytes:x}-{:x}\"", changed.as_nanos());
        let text = |name: header::HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
        let range = text(header::RANGE).filter(|_| text(header::IF_RANGE).is_none_or(|asked| asked == tag));
        let (status, first, length) = match range.and_then(|range| part_of(range, bytes)) {
            Some(Wanted::Part(first, last)) => (StatusCode::PARTIAL_CONTENT, first, last - first + 1),
            Some(Wanted::None) => (StatusCode::RANGE_NOT_SATISFIABLE, 0, 0),
            Some(Wanted::All) | None => (StatusCode::OK, 0, bytes),
        };
        file.seek(SeekFrom::Start(first)).await?;
        let body = Body::from_stream(ReaderStream::with_capacity(file.take(length), 64 << 10));
        let mut response = (status, body).into_response();
        let mut set = |name, text: &str| {
            let value = HeaderValue::from_str(text).expect("numbers and names make a header value");
            response.headers_mut().insert(name, value);
        };
        set(header::CONTENT_TYPE, "application/vnd.pmtiles");
        set(header::ACCEPT_RANGES, "bytes");
        set(header::CACHE_CONTROL, "no-cache");
        set(header::CONTENT_LENGTH, &length.to_string());
        set(header::ETAG, &tag);
        if status == StatusCode::PARTIAL_CONTENT {
            set(header::CONTENT_RANGE, &format!("bytes {first}-{}/{bytes}", first + length - 1));
        } else if status == StatusCode::RANGE_NOT_SATISFIABLE {
            set(header::CONTENT_RANGE, &format!("bytes */{bytes}"));
        }
        Ok(response)
    }
}
