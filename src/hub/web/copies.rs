//! Working copies of clips over HTTP: for browsers that can't play the original, and for slow links.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use jiff::tz::{TimeZone, offset};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::api::{App, Looker, PurposeQuery, clip_id, query};
use super::{Problem, blocking, video};
use crate::hub::access::Action;
use crate::hub::catalog::ClipRow;
use crate::hub::copies::{AVAILABLE, Copies, CopyError, Original};
use crate::limits::{COPIES_AGE_MAX, COPIES_BYTES_MAX, COPIES_CLEAN_EVERY, COPY_RETRY_AFTER_S};
use crate::model::{Sha256Hash, VideoCodec};

/// Says that what comes is no original, and of which one it is.
const COPY_HEADER: HeaderName = HeaderName::from_static("camnet-copy");

/// A small H.264 copy of the clip's footage, made when it is first asked for: to look at, never evidence. The header
/// `Camnet-Copy` names the original by its SHA-256. Takes one byte range.
#[utoipa::path(get, path = "/api/v1/clips/{id}/copy.mp4", params(("id" = uuid::Uuid, Path), PurposeQuery),
    responses((status = 200, content_type = "video/mp4"), (status = 206, content_type = "video/mp4"),
        (status = 400, body = Problem), (status = 404, body = Problem), (status = 416, body = Problem), (status = 422, body = Problem),
        (status = 501, body = Problem), (status = 503, body = Problem)))]
pub async fn clip_copy(
    State(web): App,
    looker: Looker,
    Path(id): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    let (id, purpose) = (clip_id(&id)?, query::<PurposeQuery>(&uri)?.purpose);
    let catalog = web.catalog.clone();
    let found = blocking(move || catalog.clip(id)).await?;
    let pass = looker.pass(&web, Action::View, purpose, json!({ "clip": id, "copy": true })).await?;
    let Some(row) = found else { return Err(Problem::not_found("there is no such clip")) };
    if !row.stored {
        return Err(Problem::not_found("the hub does not have this file; it is on the box"));
    }
    if !AVAILABLE {
        return Err(problem(&CopyError::Unavailable));
    }
    let Some(codec) = codec_of(&row.video.codec) else {
        return Err(problem(&CopyError::NotMade(format!("its codec {} is not known", row.video.codec))));
    };
    let original = Original { sha256: row.sha256, bytes: row.bytes, codec };
    let copy = match web.copies.copy(&pass, original).await {
        Ok(copy) => copy,
        Err(error) => return Ok(refused(&error)),
    };
    let wanted = video::wanted(&headers, &copy.sha256, copy.bytes);
    let mut response = video::part(copy.file, &copy.sha256, copy.bytes, "video/mp4", wanted).await?;
    mark(&mut response, &row.sha256, &name_of(&row));
    Ok(response)
}

/// Whatever leaves says what it is.
fn mark(response: &mut Response, original: &Sha256Hash, name: &str) {
    let value =
        |text: String| HeaderValue::from_str(&text).expect("ids, numbers and hex make a header value");
    let headers = response.headers_mut();
    headers.insert(COPY_HEADER, value(format!("working-copy; of={original}")));
    headers.insert(header::CONTENT_DISPOSITION, value(format!("inline; filename=\"{name}\"")));
}

/// For instance `cam-01-20261120-221507-ban-lam-viec.mp4`: the camera, and when the clip begins in the wards' time.
fn name_of(row: &ClipRow) -> String {
    let zone = TimeZone::get("Asia/Ho_Chi_Minh").unwrap_or_else(|_| TimeZone::fixed(offset(7)));
    let start = row.start.to_zoned(zone).strftime("%Y%m%d-%H%M%S").to_string();
    format!("{}-{start}-ban-lam-viec.mp4", row.device)
}

fn codec_of(rfc6381: &str) -> Option<VideoCodec> {
    match rfc6381.split('.').next()? {
        "avc1" | "avc3" => Some(VideoCodec::H264),
        "hvc1" | "hev1" => Some(VideoCodec::H265),
        _ => None,
    }
}

fn refused(error: &CopyError) -> Response {
    let mut response = problem(error).into_response();
    if response.status() == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(COPY_RETRY_AFTER_S));
    }
    response
}

fn problem(error: &CopyError) -> Problem {
    match error {
        CopyError::Unavailable => Problem::new(
            StatusCode::NOT_IMPLEMENTED,
            "Máy chủ này không tạo được bản làm việc: hãy tải bản gốc (video.mp4) và xem bằng trình phát có H.265, \
             hoặc chạy máy chủ được dựng với `media`. / This hub makes no working copies: download the original \
             (video.mp4) and play it with a player that knows H.265, or run a hub that is built with `media`.",
        ),
        CopyError::TooMany | CopyError::NotYet => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!(
                "Bản làm việc đang được tạo, hãy hỏi lại sau {COPY_RETRY_AFTER_S} giây; bản gốc (video.mp4) xem được \
                 ngay. / {error}: ask again in {COPY_RETRY_AFTER_S} seconds; the original (video.mp4) can be had now."
            ),
        ),
        CopyError::NotMade(_) => Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!(
                "Không tạo được bản làm việc của đoạn hình này; bản gốc (video.mp4) vẫn nguyên vẹn, hãy tải về. / \
                 {error}. The original (video.mp4) is as it was recorded: download that."
            ),
        ),
        CopyError::Original(error) => Problem::internal(StatusCode::INTERNAL_SERVER_ERROR, error),
        CopyError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            Problem::internal(StatusCode::INSUFFICIENT_STORAGE, error)
        }
        CopyError::Io { .. } => Problem::internal(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

/// Removes copies whose time is over, until `shutdown`.
pub async fn clean(copies: Arc<Copies>, shutdown: CancellationToken) {
    loop {
        let copies = copies.clone();
        let removed = blocking(move || copies.clean(COPIES_BYTES_MAX, COPIES_AGE_MAX)).await;
        if removed > 0 {
            tracing::info!(removed, "working copies removed");
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(COPIES_CLEAN_EVERY) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_says_what_to_do_in_both_languages() {
        let table = [
            (CopyError::Unavailable, 501, false),
            (CopyError::TooMany, 503, true),
            (CopyError::NotYet, 503, true),
            (CopyError::NotMade("no picture in the clip".into()), 422, false),
        ];
        for (error, status, again) in table {
            let detail = serde_json::to_value(problem(&error)).unwrap()["detail"].to_string();
            assert!(detail.contains("bản gốc") && detail.contains("original"), "{detail}");
            let response = refused(&error);
            assert_eq!(response.status(), status);
            assert_eq!(response.headers().contains_key(header::RETRY_AFTER), again);
        }
    }

    #[test]
    fn codecs_are_read_as_clips_say_them() {
        let table = [
            ("avc1.64001f", Some(VideoCodec::H264)),
            ("hvc1.1.6.L93.B0", Some(VideoCodec::H265)),
            ("hev1.1.6.L93.B0", Some(VideoCodec::H265)),
            ("av01.0.04M.08", None),
            ("", None),
        ];
        for (text, codec) in table {
            assert_eq!(codec_of(text), codec, "{text}");
        }
    }
}
