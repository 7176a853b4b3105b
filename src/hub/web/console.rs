//! The console's files, embedded in the binary. May not fetch anything from elsewhere.

use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use rust_embed::RustEmbed;

use super::Problem;

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
