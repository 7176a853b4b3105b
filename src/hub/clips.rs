//! Clip files: uploads that can be resumed, and the finished files, named by their SHA-256.
//!
//! ```text
//! <data>/uploads/<id>.json  what the box declared     <data>/clips/ab/<sha256>  complete and checked
//! <data>/uploads/<id>.part  what came so far
//! ```
//!
//! Owns both folders. A file is complete when its hash was checked, it and its folder are on disk, and
//! the truth has a durable record of it; only then does the box hear so. May not hand out a file without
//! the gate's [`Pass`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

use super::access::Pass;
use super::metrics::HubMetrics;
use super::truth::StoredFile;
use crate::limits::{CLIP_BYTES_MAX, UPLOAD_IDLE_MAX, UPLOADS_PER_BOX_MAX};
use crate::model::{BoxId, Sha256Hash, Time};

/// Where the word goes that a file is complete: the hub's truth.
pub trait StoredSink: Send + Sync + 'static {
    /// Returns when the record is durable.
    fn append_stored(
        &self,
        file: StoredFile,
    ) -> BoxFuture<'_, Result<u64, Box<dyn std::error::Error + Send + Sync>>>;
}

/// Why an upload, or a part of it, was not taken.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error("there is no such upload of this box")]
    NotFound,
    #[error("{bytes} bytes; at most {CLIP_BYTES_MAX} are taken")]
    TooLarge { bytes: u64 },
    #[error("{open} uploads are open; at most {UPLOADS_PER_BOX_MAX} per box: finish or wait")]
    TooMany { open: usize },
    #[error("the upload stands at {offset}, not at {told}")]
    Offset { offset: u64, told: u64 },
    #[error("more came than the {length} bytes that were declared")]
    TooMuch { length: u64 },
    #[error("another request writes this upload")]
    Busy,
    #[error("the file's SHA-256 is {is}, {declared} was declared; the upload is removed")]
    WrongHash { is: Sha256Hash, declared: Sha256Hash },
    #[error("the link broke after {offset} bytes; they are kept")]
    Cut { offset: u64 },
    #[error("upload {path}: can't be {what}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("the hub's journal can't take the file now")]
    NotDurable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What a box declares when it creates an upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declared {
    pub clip: Uuid,
    pub sha256: Sha256Hash,
    /// `clip` or `thumbnail`: for the technician, nothing depends on it.
    pub kind: String,
    pub bytes: u64,
}

/// The file beside a part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct State {
    version: u32,
    box_id: BoxId,
    created: Time,
    declared: Declared,
}

const STATE_VERSION: u32 = 1;

/// Where an upload stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub offset: u64,
    pub length: u64,
}

/// Both folders, and the uploads that are open.
pub struct ClipStore {
    uploads: PathBuf,
    clips: PathBuf,
    sink: Arc<dyn StoredSink>,
    metrics: HubMetrics,
    open: Mutex<BTreeMap<Uuid, State>>,
    busy: Mutex<BTreeSet<Uuid>>,
}

/// Held by the one request that writes an upload.
struct Busy<'a> {
    store: &'a ClipStore,
    id: Uuid,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        lock(&self.store.busy).remove(&self.id);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl ClipStore {
    /// Opens the folders in `data_dir` and takes up the uploads that were open. Blocking.
    pub fn open(
        data_dir: &Path,
        sink: Arc<dyn StoredSink>,
        metrics: HubMetrics,
    ) -> Result<Self, UploadError> {
        let (uploads, clips) = (data_dir.join("uploads"), data_dir.join("clips"));
        for folder in [&uploads, &clips] {
            std::fs::create_dir_all(folder).map_err(|e| io_error("created", folder, e))?;
        }
        let mut open = BTreeMap::new();
        for entry in std::fs::read_dir(&uploads).map_err(|e| io_error("listed", &uploads, e))? {
            let path = entry.map_err(|e| io_error("listed", &uploads, e))?.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            let id = path.file_stem().and_then(|s| s.to_str()).and_then(|s| Uuid::parse_str(s).ok());
            let state = std::fs::read(&path).ok().and_then(|b| serde_json::from_slice::<State>(&b).ok());
            match (id, state) {
                (Some(id), Some(state)) if state.version == STATE_VERSION => drop(open.insert(id, state)),
                _ => tracing::warn!(path = %path.display(), "upload state unreadable, left for cleaning"),
            }
        }
        metrics.uploads_open.set(open.len() as i64);
        Ok(Self { uploads, clips, sink, metrics, open: Mutex::new(open), busy: Mutex::default() })
    }

    /// The path of a complete file.
    pub fn path_of(&self, sha256: &Sha256Hash) -> PathBuf {
        let name = sha256.to_string();
        self.clips.join(&name[..2]).join(name)
    }

    /// Opens a complete file of a known size for reading.
    pub async fn read(
        &self,
        _pass: &Pass,
        sha256: &Sha256Hash,
        bytes: u64,
    ) -> Result<tokio::fs::File, UploadError> {
        let path = self.path_of(sha256);
        let file = tokio::fs::File::open(&path).await.map_err(|e| io_error("opened", &path, e))?;
        let length = file.metadata().await.map_err(|e| io_error("read", &path, e))?.len();
        if length != bytes {
            let why = format!("{length} bytes on disk, {bytes} in the index");
            return Err(io_error("trusted", &path, io::Error::new(io::ErrorKind::InvalidData, why)));
        }
        Ok(file)
    }

    /// Begins an upload, or finds the one that the box already began, or says that the hub has the file.
    pub async fn create(&self, box_id: &BoxId, declared: Declared) -> Result<(Uuid, Progress), UploadError> {
        let length = declared.bytes;
        if length > CLIP_BYTES_MAX {
            return Err(UploadError::TooLarge { bytes: length });
        }
        let path = self.path_of(&declared.sha256);
        if tokio::fs::metadata(&path).await.is_ok_and(|m| m.len() == length) {
            self.tell_truth(box_id, &declared).await?;
            self.metrics.uploads.with_label_values(&["known"]).inc();
            return Ok((Uuid::now_v7(), Progress { offset: length, length }));
        }
        let state = State { version: STATE_VERSION, box_id: box_id.clone(), created: Time::now(), declared };
        let id = match self.admit(&state)? {
            (id, true) => return self.progress(box_id, id).await.map(|progress| (id, progress)),
            (id, false) => id,
        };
        if let Err(error) = self.write_new(id, &state).await {
            self.forget(id).await;
            return Err(error);
        }
        Ok((id, Progress { offset: 0, length }))
    }

    /// Where the upload stands. One whose last answer got lost is completed here.
    pub async fn progress(&self, box_id: &BoxId, id: Uuid) -> Result<Progress, UploadError> {
        let state = self.find(box_id, id)?;
        let length = state.declared.bytes;
        let offset = self.offset(id, &state).await?;
        if offset == length {
            let _busy = self.busy(id)?;
            self.finish(id, &state).await?;
        }
        Ok(Progress { offset, length })
    }

    /// Appends `body` at `offset`. What came before the link broke is kept. When the last byte has come,
    /// the file is checked and made durable before this returns.
    pub async fn append<S, E>(
        &self,
        box_id: &BoxId,
        id: Uuid,
        offset: u64,
        mut body: S,
    ) -> Result<Progress, UploadError>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: std::fmt::Display,
    {
        let state = self.find(box_id, id)?;
        let length = state.declared.bytes;
        let _busy = self.busy(id)?;
        let mut at = self.offset(id, &state).await?;
        if at != offset {
            return Err(UploadError::Offset { offset: at, told: offset });
        }
        if at < length {
            let path = self.part(id);
            let opened = tokio::fs::OpenOptions::new().append(true).open(&path).await;
            let mut file = opened.map_err(|e| io_error("opened", &path, e))?;
            let ended = loop {
                let chunk = match next_chunk(&mut body).await {
                    Chunk::Bytes(chunk) => chunk,
                    Chunk::End => break Ok(()),
                    Chunk::Cut => break Err(UploadError::Cut { offset: at }),
                };
                if at + chunk.len() as u64 > length {
                    break Err(UploadError::TooMuch { length });
                }
                file.write_all(&chunk).await.map_err(|e| io_error("written", &path, e))?;
                at += chunk.len() as u64;
                self.metrics.upload_bytes.inc_by(chunk.len() as u64);
            };
            file.flush().await.map_err(|e| io_error("written", &path, e))?;
            // A link that broke behind the last byte did no harm.
            match ended {
                Err(UploadError::Cut { .. }) if at == length => {}
                ended => ended?,
            }
        }
        if at == length {
            self.finish(id, &state).await?;
        }
        Ok(Progress { offset: at, length })
    }

    /// Throws an upload away.
    pub async fn terminate(&self, box_id: &BoxId, id: Uuid) -> Result<(), UploadError> {
        self.find(box_id, id)?;
        let _busy = self.busy(id)?;
        self.forget(id).await;
        Ok(())
    }

    /// Removes uploads that nobody touched for `age`. Returns how many.
    pub async fn clean(&self, age: Duration) -> usize {
        let ids: Vec<Uuid> = lock(&self.open).keys().copied().collect();
        let mut removed = 0;
        for id in ids {
            let Ok(_busy) = self.busy(id) else { continue };
            let touched = tokio::fs::metadata(self.part(id)).await.and_then(|m| m.modified());
            let is_stale = touched.is_ok_and(|t| t.elapsed().is_ok_and(|elapsed| elapsed >= age));
            if is_stale {
                self.forget(id).await;
                self.metrics.uploads.with_label_values(&["stale"]).inc();
                removed += 1;
            }
        }
        removed
    }

    fn part(&self, id: Uuid) -> PathBuf {
        self.uploads.join(format!("{id}.part"))
    }
    fn state_path(&self, id: Uuid) -> PathBuf {
        self.uploads.join(format!("{id}.json"))
    }

    fn find(&self, box_id: &BoxId, id: Uuid) -> Result<State, UploadError> {
        let open = lock(&self.open);
        open.get(&id).filter(|state| state.box_id == *box_id).cloned().ok_or(UploadError::NotFound)
    }

    fn busy(&self, id: Uuid) -> Result<Busy<'_>, UploadError> {
        if lock(&self.busy).insert(id) { Ok(Busy { store: self, id }) } else { Err(UploadError::Busy) }
    }

    /// Enters a new upload, or finds the box's own of the same file (then true).
    fn admit(&self, state: &State) -> Result<(Uuid, bool), UploadError> {
        let mut open = lock(&self.open);
        let of_box = || open.iter().filter(|(_, s)| s.box_id == state.box_id);
        if let Some((id, _)) = of_box().find(|(_, s)| s.declared == state.declared) {
            return Ok((*id, true));
        }
        let count = of_box().count();
        if count >= UPLOADS_PER_BOX_MAX {
            return Err(UploadError::TooMany { open: count });
        }
        let id = Uuid::now_v7();
        open.insert(id, state.clone());
        self.metrics.uploads_open.set(open.len() as i64);
        Ok((id, false))
    }

    async fn write_new(&self, id: Uuid, state: &State) -> Result<(), UploadError> {
        let (part, path) = (self.part(id), self.state_path(id));
        let json = serde_json::to_vec(state).expect("a state has only text keys");
        let folder = self.uploads.clone();
        blocking(move || {
            File::create_new(&part).map_err(|e| io_error("created", &part, e))?;
            let mut file = File::create_new(&path).map_err(|e| io_error("created", &path, e))?;
            file.write_all(&json)
                .and_then(|()| file.sync_all())
                .map_err(|e| io_error("written", &path, e))?;
            sync_folder(&folder)
        })
        .await
    }

    async fn offset(&self, id: Uuid, state: &State) -> Result<u64, UploadError> {
        let part = self.part(id);
        match tokio::fs::metadata(&part).await {
            Ok(metadata) => Ok(metadata.len()),
            // Renamed already, but the truth did not take the record.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let path = self.path_of(&state.declared.sha256);
                let length = tokio::fs::metadata(&path).await.map_err(|_| UploadError::NotFound)?.len();
                if length == state.declared.bytes { Ok(length) } else { Err(UploadError::NotFound) }
            }
            Err(error) => Err(io_error("read", &part, error)),
        }
    }

    async fn finish(&self, id: Uuid, state: &State) -> Result<(), UploadError> {
        let (part, path) = (self.part(id), self.path_of(&state.declared.sha256));
        let (declared, clips) = (state.declared.sha256, self.clips.clone());
        let settled = blocking(move || settle(&part, &path, &clips, declared)).await;
        if let Err(error) = settled {
            if matches!(error, UploadError::WrongHash { .. }) {
                self.metrics.uploads.with_label_values(&["wrong_hash"]).inc();
                self.forget(id).await;
            }
            return Err(error);
        }
        self.tell_truth(&state.box_id, &state.declared).await?;
        self.metrics.uploads.with_label_values(&["stored"]).inc();
        self.forget(id).await;
        Ok(())
    }

    async fn tell_truth(&self, box_id: &BoxId, declared: &Declared) -> Result<(), UploadError> {
        let file = StoredFile {
            sha256: declared.sha256,
            bytes: declared.bytes,
            box_id: box_id.clone(),
            clip: declared.clip,
            received: Time::now(),
        };
        self.sink.append_stored(file).await.map(drop).map_err(UploadError::NotDurable)
    }

    async fn forget(&self, id: Uuid) {
        for path in [self.part(id), self.state_path(id)] {
            match tokio::fs::remove_file(&path).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "upload file not removed");
                }
                _ => {}
            }
        }
        let mut open = lock(&self.open);
        open.remove(&id);
        self.metrics.uploads_open.set(open.len() as i64);
    }
}

enum Chunk {
    Bytes(Bytes),
    End,
    Cut,
}

async fn next_chunk<S, E>(body: &mut S) -> Chunk
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: std::fmt::Display,
{
    match tokio::time::timeout(UPLOAD_IDLE_MAX, body.next()).await {
        Ok(Some(Ok(bytes))) => Chunk::Bytes(bytes),
        Ok(None) => Chunk::End,
        Ok(Some(Err(error))) => {
            tracing::debug!(%error, "upload cut");
            Chunk::Cut
        }
        Err(_) => Chunk::Cut,
    }
}

/// Checks the part's hash and puts it in its place, durably. Does nothing if it is there already.
fn settle(part: &Path, path: &Path, clips: &Path, declared: Sha256Hash) -> Result<(), UploadError> {
    let mut file = match File::open(part) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.exists() => return Ok(()),
        opened => opened.map_err(|e| io_error("opened", part, e))?,
    };
    file.sync_all().map_err(|e| io_error("synced", part, e))?;
    let is = hash_of(&mut file).map_err(|e| io_error("read", part, e))?;
    if is != declared {
        return Err(UploadError::WrongHash { is, declared });
    }
    let folder = path.parent().unwrap_or(clips);
    if !folder.exists() {
        std::fs::create_dir_all(folder).map_err(|e| io_error("created", folder, e))?;
        sync_folder(clips)?;
    }
    std::fs::rename(part, path).map_err(|e| io_error("renamed", part, e))?;
    sync_folder(folder)
}

fn hash_of(file: &mut File) -> io::Result<Sha256Hash> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Sha256Hash(hasher.finalize().into())),
            n => hasher.update(&buffer[..n]),
        }
    }
}

fn sync_folder(folder: &Path) -> Result<(), UploadError> {
    File::open(folder).and_then(|f| f.sync_all()).map_err(|e| io_error("synced", folder, e))
}

fn io_error(what: &'static str, path: &Path, source: io::Error) -> UploadError {
    UploadError::Io { what, path: path.to_owned(), source }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, UploadError> + Send + 'static,
) -> Result<T, UploadError> {
    tokio::task::spawn_blocking(work).await.expect("the work does not panic")
}
