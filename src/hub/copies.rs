//! Working copies of clips: small H.264, made when somebody first asks, kept while they are asked for.
//!
//! ```text
//! <data>/copies/<sha256 of the original>.<sha256 of the copy>.mp4     <data>/copies/<sha256 of the original>.part
//! ```
//!
//! Owns that folder: it may be thrown away at any time. Each copy is made once, however many ask for it at once, and
//! appears complete or not at all; it goes with its original. May not hand out a copy without the gate's [`Pass`], and
//! may not touch an original. How a copy is made is the business of `media`; a hub without it has none.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use prometheus::{IntCounterVec, IntGauge, Registry};
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, watch};

use super::access::Pass;
use super::clips::{ClipStore, UploadError};
use crate::limits::{COPIES_AT_ONCE, COPIES_WAITING_MAX, COPY_WAIT_MAX};
use crate::metrics::Part;
use crate::model::{Sha256Hash, VideoCodec};

/// The hub can make copies: it was built with `media`.
pub const AVAILABLE: bool = cfg!(feature = "media");

/// The original of which a copy is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Original {
    pub sha256: Sha256Hash,
    pub bytes: u64,
    pub codec: VideoCodec,
}

/// A copy that is complete, open for reading.
#[derive(Debug)]
pub struct OpenCopy {
    pub file: tokio::fs::File,
    /// Of the copy itself.
    pub sha256: Sha256Hash,
    pub bytes: u64,
}

/// Why there is no copy.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CopyError {
    #[error("this hub was built without `media` and makes no working copies")]
    Unavailable,
    #[error("{COPIES_WAITING_MAX} working copies wait to be made already")]
    TooMany,
    #[error("the working copy is being made")]
    NotYet,
    /// The pictures of the original can't be decoded, or GStreamer lacks something.
    #[error("no working copy can be made of this clip: {0}")]
    NotMade(String),
    #[error(transparent)]
    Original(Arc<UploadError>),
    #[error("working copy {path}: can't be {what}")]
    Io { what: &'static str, path: PathBuf, source: Arc<io::Error> },
}

#[derive(Debug, Clone, Copy)]
struct Kept {
    sha256: Sha256Hash,
    bytes: u64,
    used: SystemTime,
}

type Told = Option<Result<(), CopyError>>;

/// The folder, what is in it, and what is being made.
pub struct Copies {
    dir: PathBuf,
    clips: Arc<ClipStore>,
    state: Mutex<State>,
    slots: Semaphore,
    stop: AtomicBool,
    /// Requests by what became of them: `kept`, `made`, `not_made`, `busy`.
    results: IntCounterVec,
    bytes: IntGauge,
}

#[derive(Default)]
struct State {
    kept: BTreeMap<Sha256Hash, Kept>,
    making: BTreeMap<Sha256Hash, Arc<watch::Sender<Told>>>,
}

impl Copies {
    /// Opens the folder in `data_dir`, and removes what was not finished. Blocking.
    pub fn open(data_dir: &Path, clips: Arc<ClipStore>, metrics: &Registry) -> Result<Self, CopyError> {
        let dir = data_dir.join("copies");
        std::fs::create_dir_all(&dir).map_err(|e| io_error("created", &dir, e))?;
        let mut state = State::default();
        for entry in std::fs::read_dir(&dir).map_err(|e| io_error("listed", &dir, e))? {
            let path = entry.map_err(|e| io_error("listed", &dir, e))?.path();
            match kept_from(&path) {
                Some((original, kept)) => drop(state.kept.insert(original, kept)),
                None => remove(&path),
            }
        }
        let part = Part::new(metrics, "camnet_hub_copies_");
        let registered = "each figure is registered once";
        let results = part.counters("total", "Working copies asked for, by what became of it", &["result"]);
        let copies = Self {
            dir,
            clips,
            state: Mutex::new(state),
            slots: Semaphore::new(COPIES_AT_ONCE),
            stop: AtomicBool::new(false),
            results: results.expect(registered),
            bytes: part.gauge("bytes", "Bytes of the working copies that are kept").expect(registered),
        };
        copies.count_bytes();
        Ok(copies)
    }

    /// The working copy, made now if there is none.
    pub async fn copy(self: &Arc<Self>, pass: &Pass, original: Original) -> Result<OpenCopy, CopyError> {
        if let Some(copy) = self.open_kept(&original.sha256).await {
            self.results.with_label_values(&["kept"]).inc();
            return Ok(copy);
        }
        // Opening it also says that it is there, whole.
        let opened = self.clips.read(pass, &original.sha256, original.bytes).await;
        let file = opened.map_err(|error| CopyError::Original(Arc::new(error)))?.into_std().await;
        if !AVAILABLE {
            return Err(CopyError::Unavailable);
        }
        let mut told = self.begin(original, file)?;
        let done = tokio::time::timeout(COPY_WAIT_MAX, told.wait_for(Option::is_some)).await;
        let done = done.map_err(|_| CopyError::NotYet)?;
        // Whoever made it is gone without a word: it panicked, and the next one who asks begins again.
        let done = done.map_err(|_| CopyError::NotMade("the maker ended".into()))?.clone();
        done.unwrap_or(Err(CopyError::NotYet))?;
        self.open_kept(&original.sha256).await.ok_or(CopyError::NotYet)
    }

    /// Ends what is being made; nothing new is begun.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Begins to make a copy, or joins those who wait for it.
    fn begin(
        self: &Arc<Self>,
        original: Original,
        file: std::fs::File,
    ) -> Result<watch::Receiver<Told>, CopyError> {
        let mut state = lock(&self.state);
        if let Some(teller) = state.making.get(&original.sha256) {
            return Ok(teller.subscribe());
        }
        if state.making.len() >= COPIES_AT_ONCE + COPIES_WAITING_MAX {
            self.results.with_label_values(&["busy"]).inc();
            return Err(CopyError::TooMany);
        }
        let (teller, told) = watch::channel(None);
        let teller = Arc::new(teller);
        state.making.insert(original.sha256, teller.clone());
        let copies = self.clone();
        let making = Making { copies: self.clone(), original: original.sha256 };
        tokio::spawn(async move {
            let _making = making;
            let _slot = tokio::select! {
                slot = copies.slots.acquire() => slot.expect("the slots are never closed"),
                // Nobody waits any more, and it was not begun.
                () = teller.closed() => return,
            };
            let work = copies.clone();
            let made = tokio::task::spawn_blocking(move || work.make(original, file)).await;
            let made = made.unwrap_or_else(|_| Err(CopyError::NotMade("the maker panicked".into())));
            let result = if made.is_ok() { "made" } else { "not_made" };
            copies.results.with_label_values(&[result]).inc();
            if let Err(error) = &made {
                tracing::warn!(original = %original.sha256, %error, "no working copy");
            }
            teller.send_replace(Some(made));
        });
        Ok(told)
    }

    /// Makes the copy, unless it was made while this one waited. Blocking, for as long as it takes.
    fn make(&self, original: Original, file: std::fs::File) -> Result<(), CopyError> {
        if lock(&self.state).kept.contains_key(&original.sha256) {
            return Ok(());
        }
        let part = self.dir.join(format!("{}.part", original.sha256));
        let made =
            encode(original.codec, file, &part, &self.stop).and_then(|()| self.keep(&original.sha256, &part));
        remove(&part);
        made
    }

    /// A finished part becomes a copy, and the oldest ones make room.
    fn keep(&self, original: &Sha256Hash, part: &Path) -> Result<(), CopyError> {
        let (sha256, bytes) = digest(part).map_err(|e| io_error("read", part, e))?;
        let to = self.path_of(original, &sha256);
        std::fs::rename(part, &to).map_err(|e| io_error("named", &to, e))?;
        lock(&self.state).kept.insert(*original, Kept { sha256, bytes, used: SystemTime::now() });
        self.clean(crate::limits::COPIES_BYTES_MAX, crate::limits::COPIES_AGE_MAX);
        Ok(())
    }

    /// Removes copies that nobody looked at for `age`, those whose original is gone, and the oldest beyond `bytes` in
    /// all, but never the newest. Returns how many. Blocking.
    pub fn clean(&self, bytes: u64, age: Duration) -> usize {
        let mut by_use: Vec<(Sha256Hash, Kept)> =
            lock(&self.state).kept.iter().map(|(original, kept)| (*original, *kept)).collect();
        by_use.sort_by_key(|(_, kept)| std::cmp::Reverse(kept.used));
        let (mut sum, mut removed) = (0u64, 0);
        for (n, (original, kept)) in by_use.iter().enumerate() {
            sum = sum.saturating_add(kept.bytes);
            let is_old = kept.used.elapsed().is_ok_and(|elapsed| elapsed >= age);
            let is_orphan = !self.clips.path_of(original).exists();
            if is_orphan || is_old || (n > 0 && sum > bytes) {
                self.forget(original, kept);
                sum -= kept.bytes;
                removed += 1;
            }
        }
        self.count_bytes();
        removed
    }

    fn forget(&self, original: &Sha256Hash, kept: &Kept) {
        let mut state = lock(&self.state);
        // Another copy of it may have been made since.
        if state.kept.get(original).is_some_and(|now| now.sha256 == kept.sha256) {
            state.kept.remove(original);
        }
        remove(&self.path_of(original, &kept.sha256));
    }

    /// None if there is no such copy, or not as it was kept.
    async fn open_kept(&self, original: &Sha256Hash) -> Option<OpenCopy> {
        let kept = {
            let mut state = lock(&self.state);
            let kept = state.kept.get_mut(original)?;
            kept.used = SystemTime::now();
            *kept
        };
        let path = self.path_of(original, &kept.sha256);
        let file = tokio::fs::File::open(&path).await.ok();
        let length = match &file {
            Some(file) => file.metadata().await.map(|m| m.len()).ok(),
            None => None,
        };
        let Some(file) = file.filter(|_| length == Some(kept.bytes)) else {
            self.forget(original, &kept);
            return None;
        };
        // Only for the order after a start; a disk that refuses it does no harm.
        let file = file.into_std().await;
        let _ = file.set_modified(kept.used);
        Some(OpenCopy { file: file.into(), sha256: kept.sha256, bytes: kept.bytes })
    }

    fn path_of(&self, original: &Sha256Hash, copy: &Sha256Hash) -> PathBuf {
        self.dir.join(format!("{original}.{copy}.mp4"))
    }

    fn count_bytes(&self) {
        let bytes: u64 = lock(&self.state).kept.values().map(|kept| kept.bytes).sum();
        self.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

/// Held by the one task that makes a copy: whatever becomes of it, the next who asks may begin.
struct Making {
    copies: Arc<Copies>,
    original: Sha256Hash,
}

impl Drop for Making {
    fn drop(&mut self) {
        lock(&self.copies.state).making.remove(&self.original);
    }
}

#[cfg(feature = "media")]
fn encode(codec: VideoCodec, original: std::fs::File, to: &Path, stop: &AtomicBool) -> Result<(), CopyError> {
    use crate::media::copy::{beside, working_copy};
    let made = working_copy(codec, original, to, stop);
    remove(&beside(to));
    made.map_err(|error| {
        remove(to);
        CopyError::NotMade(error.to_string())
    })
}

#[cfg(not(feature = "media"))]
fn encode(
    _codec: VideoCodec,
    _original: std::fs::File,
    _to: &Path,
    _stop: &AtomicBool,
) -> Result<(), CopyError> {
    Err(CopyError::Unavailable)
}

fn kept_from(path: &Path) -> Option<(Sha256Hash, Kept)> {
    let (original, copy) = path.file_name()?.to_str()?.strip_suffix(".mp4")?.split_once('.')?;
    let metadata = std::fs::metadata(path).ok()?;
    let used = metadata.modified().ok()?;
    Some((original.parse().ok()?, Kept { sha256: copy.parse().ok()?, bytes: metadata.len(), used }))
}

fn digest(path: &Path) -> io::Result<(Sha256Hash, u64)> {
    let mut hasher = Sha256::new();
    let bytes = io::copy(&mut std::fs::File::open(path)?, &mut hasher)?;
    Ok((Sha256Hash(hasher.finalize().into()), bytes))
}

fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "a working copy can't be removed");
        }
        _ => {}
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn io_error(what: &'static str, path: &Path, source: io::Error) -> CopyError {
    CopyError::Io { what, path: path.to_owned(), source: Arc::new(source) }
}
