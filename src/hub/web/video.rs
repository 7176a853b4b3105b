//! Footage over HTTP: one byte range of a complete file (RFC 9110, 14), streamed from disk.

use std::io::SeekFrom;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::Problem;
use crate::hub::access::Pass;
use crate::hub::clips::ClipStore;
use crate::model::Sha256Hash;

/// What part of a file is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    All,
    /// First and last byte.
    Part(u64, u64),
    /// No byte of the range is in the file.
    None,
}

/// Reads `Range` and `If-Range`. What we do not understand asks for everything, as the RFC says.
pub fn wanted(headers: &HeaderMap, sha256: &Sha256Hash, bytes: u64) -> Wanted {
    let text = |name: header::HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    let Some(range) = text(header::RANGE) else { return Wanted::All };
    if text(header::IF_RANGE).is_some_and(|tag| tag != entity_tag(sha256)) {
        return Wanted::All;
    }
    parse(range, bytes).unwrap_or(Wanted::All)
}

fn parse(range: &str, bytes: u64) -> Option<Wanted> {
    let (first, last) = range.strip_prefix("bytes=")?.trim().split_once('-')?;
    let number = |text: &str| text.parse::<u64>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
    let (first, last) = match (first, last) {
        ("", last) => (
            bytes.saturating_sub(number(last)?),
            if number(last)? == 0 { return Some(Wanted::None) } else { bytes.checked_sub(1)? },
        ),
        (first, "") => (number(first)?, bytes.saturating_sub(1)),
        (first, last) => (number(first)?, number(last)?.min(bytes.saturating_sub(1))),
    };
    if first >= bytes {
        return Some(Wanted::None);
    }
    (first <= last).then_some(Wanted::Part(first, last))
}

fn entity_tag(sha256: &Sha256Hash) -> String {
    format!("\"{sha256}\"")
}

/// The answer with the part's bytes of an original.
pub async fn answer(
    pass: &Pass,
    clips: &ClipStore,
    sha256: &Sha256Hash,
    bytes: u64,
    kind: &'static str,
    wanted: Wanted,
) -> Result<Response, Problem> {
    let file = clips.read(pass, sha256, bytes).await?;
    part(file, sha256, bytes, kind, wanted).await
}

/// The answer with the part's bytes of an open file, which was opened with a pass.
pub async fn part(
    mut file: tokio::fs::File,
    sha256: &Sha256Hash,
    bytes: u64,
    kind: &'static str,
    wanted: Wanted,
) -> Result<Response, Problem> {
    let (status, first, length) = match wanted {
        Wanted::All => (StatusCode::OK, 0, bytes),
        Wanted::Part(first, last) => (StatusCode::PARTIAL_CONTENT, first, last - first + 1),
        Wanted::None => {
            let detail = format!("the file has {bytes} bytes");
            let mut response = Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, detail).into_response();
            response.headers_mut().insert(header::CONTENT_RANGE, value(&format!("bytes */{bytes}")));
            return Ok(response);
        }
    };
    let failed = |_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the file can't be read");
    file.seek(SeekFrom::Start(first)).await.map_err(failed)?;
    let body = Body::from_stream(ReaderStream::with_capacity(file.take(length), 64 << 10));
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(header::ETAG, value(&entity_tag(sha256)));
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {first}-{}/{bytes}", first + length - 1);
        headers.insert(header::CONTENT_RANGE, value(&range));
    }
    Ok(response)
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("numbers and hex make a header value")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        let table = [
            ("bytes=0-0", Wanted::Part(0, 0)),
            ("bytes=0-", Wanted::Part(0, 99)),
            ("bytes=10-19", Wanted::Part(10, 19)),
            ("bytes=90-500", Wanted::Part(90, 99)),
            ("bytes=-10", Wanted::Part(90, 99)),
            ("bytes=-500", Wanted::Part(0, 99)),
            ("bytes=-0", Wanted::None),
            ("bytes=100-", Wanted::None),
            ("bytes=100-200", Wanted::None),
            ("bytes=20-10", Wanted::All),
            ("bytes=0-1,5-6", Wanted::All),
            ("bytes=+1-5", Wanted::All),
            ("lines=1-2", Wanted::All),
            ("bytes=", Wanted::All),
        ];
        let sha256 = Sha256Hash::of(b"x");
        for (range, expected) in table {
            let headers = HeaderMap::from_iter([(header::RANGE, HeaderValue::from_static(range))]);
            assert_eq!(wanted(&headers, &sha256, 100), expected, "{range}");
        }
    }
}
