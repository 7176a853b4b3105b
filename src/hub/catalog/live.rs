//! The index in use, and its exchange for a rebuilt one while the hub runs.
//!
//! Owns the folder of indices: each *generation* is a folder of its own, named by a number, and the file `current`
//! names the one in use. It is replaced by a rename, so a crash leaves the old index or the new one in use, never
//! half of one. May not read the journal: who rebuilds does (`hub/reindex.rs`).

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LockResult, Mutex, RwLock};
use std::time::Duration;

use uuid::Uuid;

use super::embedded::{Embedded, Opened, Sizes};
use super::{
    BoxRow, Buckets, Catalog, CatalogError, ClipQuery, ClipRow, EventPage, EventQuery, RefusedCount,
    RefusedPage, RefusedQuery, TimeRange,
};
use crate::hub::truth::{HubRecord, TruthRecords};
use crate::limits::INDEX_RETIRE_MAX;
use crate::model::{CoverageSpan, DeviceId, Sha256Hash, Time};

const CURRENT: &str = "current";

/// One index of the folder.
#[derive(Clone)]
pub struct Generation {
    pub number: u64,
    pub index: Arc<Embedded>,
}

/// The index in use.
pub struct Live {
    folder: PathBuf,
    truth: TruthRecords,
    sizes: Sizes,
    current: RwLock<Generation>,
    /// Held while records are applied, and while another index takes over.
    applying: Mutex<()>,
}

impl Live {
    /// Opens the index of `truth`, whose next record will get the number `journal_next`.
    pub fn open(
        folder: &Path,
        truth: &TruthRecords,
        journal_next: u64,
    ) -> Result<(Self, Opened), CatalogError> {
        Self::open_with(folder, truth, journal_next, Sizes::default())
    }

    /// As [`Live::open`], with other sizes.
    pub fn open_with(
        folder: &Path,
        truth: &TruthRecords,
        journal_next: u64,
        sizes: Sizes,
    ) -> Result<(Self, Opened), CatalogError> {
        std::fs::create_dir_all(folder).map_err(failed("opened"))?;
        let number = current(folder).map_err(failed("opened"))?.unwrap_or(1);
        tidy(folder, number).map_err(failed("tidied"))?;
        let (index, opened) = Embedded::open_with(&path_of(folder, number), truth, journal_next, sizes)?;
        adopt(folder, number)?;
        let current = Generation { number, index: Arc::new(index) };
        let live = Self {
            folder: folder.to_owned(),
            truth: truth.clone(),
            sizes,
            current: RwLock::new(current),
            applying: Mutex::new(()),
        };
        Ok((live, opened))
    }

    /// The index in use now; it may be exchanged at any time.
    pub fn index(&self) -> Arc<Embedded> {
        unlocked(self.current.read()).index.clone()
    }

    /// An empty index beside the one in use.
    pub fn begin(&self) -> Result<Generation, CatalogError> {
        begin(&self.folder, &self.truth, self.sizes)
    }

    /// Puts `new` in the place of the index in use. `finish` brings it up to the position that it is given, while
    /// nothing is applied. The old one goes when nobody reads it any more. Returns the position.
    pub fn exchange<E: From<CatalogError>>(
        &self,
        new: Generation,
        finish: impl FnOnce(u64) -> Result<(), E>,
    ) -> Result<u64, E> {
        let applying = unlocked(self.applying.lock());
        let upto = self.applied();
        finish(upto)?;
        new.index.flush()?;
        adopt(&self.folder, new.number)?;
        let old = std::mem::replace(&mut *unlocked(self.current.write()), new);
        drop(applying);
        retire(&self.folder, old);
        Ok(upto)
    }

    /// Removes an index that was begun and will not be put in use.
    pub fn abandon(&self, new: Generation) {
        retire(&self.folder, new);
    }

    pub fn flush(&self) -> Result<(), CatalogError> {
        self.index().flush()
    }
}

/// An empty index in the next folder. Whoever calls this owns the folder of indices.
pub fn begin(folder: &Path, truth: &TruthRecords, sizes: Sizes) -> Result<Generation, CatalogError> {
    std::fs::create_dir_all(folder).map_err(failed("begun"))?;
    let number = current(folder).map_err(failed("begun"))?.unwrap_or(0) + 1;
    let path = path_of(folder, number);
    remove(&path).map_err(failed("begun"))?;
    let (index, _) = Embedded::open_with(&path, truth, u64::MAX, sizes)?;
    Ok(Generation { number, index: Arc::new(index) })
}

/// From here on this generation is the one in use.
pub fn adopt(folder: &Path, number: u64) -> Result<(), CatalogError> {
    let write = || {
        let new = folder.join("current.new");
        let mut file = std::fs::File::create(&new)?;
        writeln!(file, "{number}")?;
        file.sync_all()?;
        std::fs::rename(&new, folder.join(CURRENT))?;
        std::fs::File::open(folder)?.sync_all()
    };
    write().map_err(failed("put in use"))
}

/// Removes all that is not the generation in use, but what was moved aside from it.
pub fn tidy(folder: &Path, number: u64) -> io::Result<()> {
    let keep = [number.to_string(), format!("{number}.aside"), CURRENT.to_owned()];
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if keep.iter().any(|name| entry.file_name() == name.as_str()) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Closes an index that is not in use any more and removes it. One that somebody still reads after a while is left
/// to the next start.
fn retire(folder: &Path, old: Generation) {
    let step = Duration::from_millis(20);
    let mut waited = Duration::ZERO;
    while Arc::strong_count(&old.index) > 1 && waited < INDEX_RETIRE_MAX {
        std::thread::sleep(step);
        waited += step;
    }
    let Generation { number, index } = old;
    if Arc::into_inner(index).is_none() {
        tracing::warn!(generation = number, "the old index is still read; it is removed at the next start");
        return;
    }
    if let Err(error) = remove(&path_of(folder, number)) {
        tracing::warn!(%error, generation = number, "the old index is not removed");
    }
}

fn path_of(folder: &Path, number: u64) -> PathBuf {
    folder.join(number.to_string())
}

/// The generation in use, if there is one. A name that can't be read is none: the index is built anew.
fn current(folder: &Path) -> io::Result<Option<u64>> {
    match std::fs::read_to_string(folder.join(CURRENT)) {
        Ok(text) => Ok(text.trim().parse().ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> CatalogError {
    move |source| CatalogError::Engine { what, source: source.into() }
}

fn unlocked<T>(lock: LockResult<T>) -> T {
    lock.unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Catalog for Live {
    fn applied(&self) -> u64 {
        self.index().applied()
    }

    fn apply(&self, from: u64, records: &[HubRecord]) -> Result<(), CatalogError> {
        let _applying = unlocked(self.applying.lock());
        self.index().apply(from, records)
    }

    fn clips(&self, query: &ClipQuery) -> Result<Vec<ClipRow>, CatalogError> {
        self.index().clips(query)
    }

    fn clip(&self, clip: Uuid) -> Result<Option<ClipRow>, CatalogError> {
        self.index().clip(clip)
    }

    fn coverage(
        &self,
        devices: &[DeviceId],
        range: TimeRange,
    ) -> Result<Vec<Vec<CoverageSpan>>, CatalogError> {
        self.index().coverage(devices, range)
    }

    fn ring_from(&self, device: &DeviceId) -> Result<Option<Time>, CatalogError> {
        self.index().ring_from(device)
    }

    fn events(&self, query: &EventQuery) -> Result<EventPage, CatalogError> {
        self.index().events(query)
    }

    fn refused(&self, query: &RefusedQuery) -> Result<RefusedPage, CatalogError> {
        self.index().refused(query)
    }

    fn refused_counts(&self) -> Result<Vec<RefusedCount>, CatalogError> {
        self.index().refused_counts()
    }

    fn boxes(&self) -> Result<Vec<BoxRow>, CatalogError> {
        self.index().boxes()
    }

    fn has_upload(&self, clip: Uuid, sha256: &Sha256Hash) -> Result<bool, CatalogError> {
        self.index().has_upload(clip, sha256)
    }

    fn clip_counts(
        &self,
        devices: &[DeviceId],
        ranges: &[TimeRange],
        buckets: Buckets,
    ) -> Result<Vec<u64>, CatalogError> {
        self.index().clip_counts(devices, ranges, buckets)
    }
}
