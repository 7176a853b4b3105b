//! Brings clips to the hub: a tus 1.0 client (creation, HEAD, PATCH) over HTTPS.
//!
//! ```text
//! <clips>/<clip>.json ─► thumbnail <clip>.jpg, then video <clip>.mp4 ─► hub; then all are deleted
//! ```
//!
//! The folder is the queue: a restart loses nothing. Oldest first: the hub has every clip's event long
//! before its video, and one order for all means that each clip's turn comes, however much is new. Only what somebody
//! waits for right now ([`First`]) goes before that.
//! What is deleted here still stands in the ring. Owns the clips from the moment they are announced;
//! may not cut or announce.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{HeaderMap, HeaderValue, LOCATION};
use reqwest::{Client, Method, Response, StatusCode, Url};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::clip::{ClipFile, clip_ids, clips_dir, read_clip_file, write_durably};
use crate::limits::{
    BACKOFF_FIRST, BACKOFF_MAX, UPLOAD_ATTEMPTS_MAX, UPLOAD_LOOK, UPLOAD_PART_BYTES_MAX, UPLOAD_REFUSED_MAX,
    UPLOAD_STEP_MAX, UPLOADS_FIRST_MAX,
};
use crate::model::Sha256Hash;

/// Where the hub takes uploads, below its base URL.
const UPLOADS: &str = "tus/v1/uploads";
/// The hub computed another hash than was promised (an extension of tus).
const CHECKSUM_MISMATCH: u16 = 460;

/// Why an upload did not get on.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error("hub can't be reached")]
    Http(#[from] reqwest::Error),
    #[error("hub answers {status} to {step}: {detail}")]
    Status { step: &'static str, status: StatusCode, detail: String },
    #[error("hub's answer to {step} lacks a usable {header}")]
    Header { step: &'static str, header: &'static str },
    #[error("clip {path}: cannot {what}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("hub got other bytes than were sent, {attempts} times")]
    Checksum { attempts: u32 },
    #[error("upload does not get on after {attempts} attempts")]
    Stuck { attempts: u32 },
}

/// Clips that somebody waits for. A restart forgets them; then their turn comes as that of any other. Clones share it.
#[derive(Clone, Default)]
pub struct First(Arc<Mutex<VecDeque<Uuid>>>);

impl First {
    pub fn put(&self, clip: Uuid) {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        first.push_back(clip);
        first.truncate(UPLOADS_FIRST_MAX);
    }

    pub fn take(&self) -> Option<Uuid> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

/// Uploads what lies in the folder of clips, and what will, until `shutdown`.
pub async fn run(
    data_dir: PathBuf,
    client: Client,
    base_url: Url,
    first: First,
    shutdown: CancellationToken,
) {
    let dir = clips_dir(&data_dir);
    let mut uploader = Uploader { dir, client, base_url, first, refused: HashMap::new() };
    let mut backoff = BACKOFF_FIRST;
    loop {
        let round = tokio::select! {
            () = shutdown.cancelled() => return,
            round = uploader.upload_all() => round,
        };
        let pause = match round {
            Ok(()) => {
                backoff = BACKOFF_FIRST;
                UPLOAD_LOOK
            }
            Err((clip, error)) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::warn!(%clip, %error, cause, "clip can't be uploaded yet");
                let pause = backoff;
                backoff = (backoff * 2).min(BACKOFF_MAX);
                pause
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

struct Uploader {
    dir: PathBuf,
    client: Client,
    base_url: Url,
    first: First,
    /// Clips that the hub refused, when they are tried again, and the pause before that.
    refused: HashMap<Uuid, (Instant, Duration)>,
}

/// What is remembered of uploads that have begun, beside the clip.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct Progress {
    thumbnail: Option<String>,
    #[serde(default)]
    thumbnail_done: bool,
    clip: Option<String>,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Thumbnail,
    Clip,
}

/// One file on its way.
struct Upload<'a> {
    clip: Uuid,
    kind: Kind,
    path: &'a Path,
    bytes: u64,
    sha256: Sha256Hash,
}

/// True if the hub has the clip's thumbnail.
pub(super) fn is_thumbnail_done(dir: &Path, clip: Uuid) -> bool {
    read_progress(dir, clip).thumbnail_done
}

/// A file that can't be read costs an upload from the start, no more.
fn read_progress(dir: &Path, clip: Uuid) -> Progress {
    let read = std::fs::read(dir.join(format!("{clip}.upload.json")));
    read.ok().and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default()
}

/// What the hub says about an upload that was begun.
enum Known {
    Offset(u64),
    Gone,
}

enum Sent {
    Upto(u64),
    /// The hub has another offset: ask it.
    Conflict,
    Gone,
    Mismatch,
}

impl Uploader {
    /// One pass over the folder. Stops at the first that fails because the hub is not there; a clip
    /// that the hub itself refuses is passed over, and holds up no other.
    async fn upload_all(&mut self) -> Result<(), (Uuid, UploadError)> {
        let dir = self.dir.clone();
        let found = tokio::task::spawn_blocking(move || clip_ids(&dir, ".json")).await;
        let ids = match found.expect("reading does not panic") {
            Ok(ids) => ids,
            Err(error) => {
                tracing::error!(%error, "folder of clips can't be read");
                return Ok(());
            }
        };
        self.refused.retain(|id, _| ids.binary_search(id).is_ok());
        for id in ids {
            while let Some(first) = self.first.take() {
                self.upload_one(first).await?;
            }
            if self.refused.get(&id).is_none_or(|(again, _)| Instant::now() >= *again) {
                self.upload_one(id).await?;
            }
        }
        Ok(())
    }

    /// One that was uploaded meanwhile, or given up, is not there any more.
    async fn upload_one(&mut self, id: Uuid) -> Result<(), (Uuid, UploadError)> {
        let dir = self.dir.clone();
        let read = tokio::task::spawn_blocking(move || read_clip_file(&dir, id, ".json")).await;
        let Some(clip) = read.expect("reading does not panic") else { return Ok(()) };
        match self.upload(&clip).await {
            Ok(()) => drop(self.refused.remove(&id)),
            Err(error @ UploadError::Http(_)) => return Err((id, error)),
            Err(error) => self.pass_over(id, &error),
        }
        Ok(())
    }

    /// The hub may not know the clip's event yet, or never take it: it waits, and holds up no other.
    fn pass_over(&mut self, clip: Uuid, error: &UploadError) {
        let (_, pause) = self.refused.get(&clip).copied().unwrap_or((Instant::now(), BACKOFF_FIRST));
        tracing::warn!(%clip, %error, pause_ms = pause.as_millis() as u64, "clip is refused, tried again later");
        self.refused.insert(clip, (Instant::now() + pause, (pause * 2).min(UPLOAD_REFUSED_MAX)));
    }

    async fn upload(&self, clip: &ClipFile) -> Result<(), UploadError> {
        let id = clip.cut.clip;
        let mut progress = read_progress(&self.dir, id);
        let (jpg, mp4) = (self.path(id, ".jpg"), self.path(id, ".mp4"));
        // A thumbnail that is not there was given up, to make room for events.
        let is_owed = !progress.thumbnail_done && jpg.exists();
        if let Some(still) = clip.cut.thumbnail.as_ref().filter(|_| is_owed) {
            let kind = Kind::Thumbnail;
            let upload = Upload { clip: id, kind, path: &jpg, bytes: still.bytes, sha256: still.sha256 };
            self.upload_file(&upload, &mut progress).await?;
            progress.thumbnail_done = true;
            self.write_progress(id, &progress)?;
        }
        let (bytes, sha256) = (clip.cut.bytes, clip.cut.sha256);
        let upload = Upload { clip: id, kind: Kind::Clip, path: &mp4, bytes, sha256 };
        self.upload_file(&upload, &mut progress).await?;
        tracing::debug!(clip = %id, bytes, "clip uploaded");
        self.forget(id)
    }

    /// Begins or takes up the upload, and sends until the hub has all of it.
    async fn upload_file(&self, upload: &Upload<'_>, progress: &mut Progress) -> Result<(), UploadError> {
        let mut mismatches = 0;
        for _ in 0..UPLOAD_ATTEMPTS_MAX {
            let known = progress.location(upload.kind).as_deref().and_then(|l| self.base_url.join(l).ok());
            let (location, mut offset) = match known {
                Some(location) => match self.head(&location).await? {
                    Known::Offset(offset) => (location, offset),
                    Known::Gone => self.create(upload, progress).await?,
                },
                None => self.create(upload, progress).await?,
            };
            loop {
                if offset >= upload.bytes {
                    return Ok(());
                }
                match self.send_part(upload, &location, offset).await? {
                    Sent::Upto(upto) => offset = upto,
                    Sent::Conflict => break,
                    Sent::Gone => {
                        *progress.location(upload.kind) = None;
                        break;
                    }
                    Sent::Mismatch => {
                        mismatches += 1;
                        *progress.location(upload.kind) = None;
                        self.write_progress(upload.clip, progress)?;
                        if mismatches > 1 {
                            return Err(UploadError::Checksum { attempts: mismatches });
                        }
                        break;
                    }
                }
            }
        }
        Err(UploadError::Stuck { attempts: UPLOAD_ATTEMPTS_MAX })
    }

    async fn create(&self, upload: &Upload<'_>, progress: &mut Progress) -> Result<(Url, u64), UploadError> {
        const STEP: &str = "creation";
        let url =
            self.base_url.join(UPLOADS).map_err(|_| UploadError::Header { step: STEP, header: "URL" })?;
        let request = self
            .request(Method::POST, url.clone())
            .header("Upload-Length", upload.bytes)
            .header("Upload-Metadata", metadata(upload))
            .header("Content-Length", 0);
        let response = request.send().await?;
        if response.status() != StatusCode::CREATED {
            return Err(refused(STEP, response).await);
        }
        let location = response.headers().get(LOCATION).and_then(|l| l.to_str().ok());
        let location = location.and_then(|l| url.join(l).ok());
        let location = location.ok_or(UploadError::Header { step: STEP, header: "Location" })?;
        // A hub that has this very file already may say so at once.
        let offset = number(response.headers(), "upload-offset").unwrap_or(0);
        *progress.location(upload.kind) = Some(location.to_string());
        self.write_progress(upload.clip, progress)?;
        Ok((location, offset))
    }

    async fn head(&self, location: &Url) -> Result<Known, UploadError> {
        const STEP: &str = "HEAD";
        let response = self.request(Method::HEAD, location.clone()).send().await?;
        match response.status() {
            status if status.is_success() => number(response.headers(), "upload-offset")
                .map(Known::Offset)
                .ok_or(UploadError::Header { step: STEP, header: "Upload-Offset" }),
            StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::FORBIDDEN => Ok(Known::Gone),
            _ => Err(refused(STEP, response).await),
        }
    }

    async fn send_part(&self, upload: &Upload<'_>, location: &Url, offset: u64) -> Result<Sent, UploadError> {
        const STEP: &str = "PATCH";
        let path = upload.path.to_owned();
        let read = tokio::task::spawn_blocking(move || read_part(&path, offset)).await;
        let part = read.expect("reading does not panic").map_err(io_error("read", upload.path))?;
        if part.is_empty() {
            let source = io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than announced");
            return Err(io_error("read", upload.path)(source));
        }
        let response = self
            .request(Method::PATCH, location.clone())
            .header("Upload-Offset", offset)
            .header("Content-Type", "application/offset+octet-stream")
            .body(part)
            .send()
            .await?;
        match response.status() {
            status if status.is_success() => number(response.headers(), "upload-offset")
                .filter(|&upto| upto > offset)
                .map(Sent::Upto)
                .ok_or(UploadError::Header { step: STEP, header: "Upload-Offset" }),
            StatusCode::CONFLICT => Ok(Sent::Conflict),
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(Sent::Gone),
            status if status.as_u16() == CHECKSUM_MISMATCH => Ok(Sent::Mismatch),
            _ => Err(refused(STEP, response).await),
        }
    }

    fn request(&self, method: Method, url: Url) -> reqwest::RequestBuilder {
        let mut headers = HeaderMap::new();
        headers.insert("tus-resumable", HeaderValue::from_static("1.0.0"));
        self.client.request(method, url).headers(headers).timeout(UPLOAD_STEP_MAX)
    }

    /// The event first, so that a crash on the way leaves no announced clip without its video.
    fn forget(&self, clip: Uuid) -> Result<(), UploadError> {
        for suffix in [".json", ".upload.json", ".jpg", ".mp4"] {
            let path = self.path(clip, suffix);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("remove", &path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn write_progress(&self, clip: Uuid, progress: &Progress) -> Result<(), UploadError> {
        let path = self.path(clip, ".upload.json");
        let json = serde_json::to_vec(progress).expect("progress has only plain fields");
        write_durably(&path, &json).map_err(|error| io_error("write", &path)(io::Error::other(error)))
    }

    fn path(&self, clip: Uuid, suffix: &str) -> PathBuf {
        self.dir.join(format!("{clip}{suffix}"))
    }
}

impl Progress {
    fn location(&mut self, kind: Kind) -> &mut Option<String> {
        match kind {
            Kind::Thumbnail => &mut self.thumbnail,
            Kind::Clip => &mut self.clip,
        }
    }
}

fn metadata(upload: &Upload<'_>) -> String {
    let kind = match upload.kind {
        Kind::Thumbnail => "thumbnail",
        Kind::Clip => "clip",
    };
    let pair = |key: &str, value: &str| format!("{key} {}", STANDARD.encode(value));
    let (clip, sha256) = (upload.clip.to_string(), upload.sha256.to_string());
    [pair("clip", &clip), pair("sha256", &sha256), pair("kind", kind)].join(",")
}

fn read_part(path: &Path, offset: u64) -> io::Result<Vec<u8>> {
    let mut file = std::fs::File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut part = Vec::new();
    file.take(UPLOAD_PART_BYTES_MAX as u64).read_to_end(&mut part)?;
    Ok(part)
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

async fn refused(step: &'static str, mut response: Response) -> UploadError {
    const DETAIL_BYTES_MAX: usize = 300;
    let status = response.status();
    let body = tokio::time::timeout(Duration::from_secs(2), response.chunk()).await;
    let body = body.ok().and_then(Result::ok).flatten().unwrap_or_default();
    let detail = String::from_utf8_lossy(&body).chars().take(DETAIL_BYTES_MAX).collect();
    UploadError::Status { step, status, detail }
}

fn io_error(what: &'static str, path: &Path) -> impl Fn(io::Error) -> UploadError {
    let path = path.to_owned();
    move |source| UploadError::Io { what, path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_base64_pair_by_pair() {
        let clip = Uuid::from_u128(7);
        let sha256 = Sha256Hash::of(b"");
        let upload = Upload { clip, kind: Kind::Thumbnail, path: Path::new("x"), bytes: 1, sha256 };
        let decode = |pair: &str| {
            let (key, value) = pair.split_once(' ').unwrap();
            format!("{key}={}", String::from_utf8(STANDARD.decode(value).unwrap()).unwrap())
        };
        let pairs: Vec<String> = metadata(&upload).split(',').map(decode).collect();
        let expected = [format!("clip={clip}"), format!("sha256={sha256}"), "kind=thumbnail".into()];
        assert_eq!(pairs, expected);
    }
}
