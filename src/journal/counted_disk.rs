//! A disk that counts what is asked of it: for tests and benches, not for production.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use super::disk::{Access, Disk, DiskFile, ReadAt};

/// What was done so far.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    pub writes: u64,
    pub written_bytes: u64,
    pub file_syncs: u64,
    pub folder_syncs: u64,
    pub read_bytes: u64,
    /// In their order, each as often as it was opened.
    pub opened: Vec<PathBuf>,
}

/// Passes everything on to another disk. Clones share the counts.
#[derive(Clone)]
pub struct CountedDisk {
    disk: Arc<dyn Disk>,
    counts: Arc<Mutex<Counts>>,
}

impl CountedDisk {
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, counts: Arc::default() }
    }

    /// The counts since the last time.
    pub fn take(&self) -> Counts {
        std::mem::take(&mut *lock(&self.counts))
    }

    fn counted(&self, path: &Path, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        lock(&self.counts).opened.push(path.to_owned());
        Arc::new(CountedFile { file, counts: self.counts.clone() })
    }
}

fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Disk for CountedDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.counted(path, self.disk.create(path)?))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.counted(path, self.disk.open(path, access)?))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        lock(&self.counts).folder_syncs += 1;
        self.disk.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        self.disk.lock(path)
    }

    fn draw(&self) -> u32 {
        self.disk.draw()
    }
}

struct CountedFile {
    file: Arc<dyn DiskFile>,
    counts: Arc<Mutex<Counts>>,
}

impl ReadAt for CountedFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let got = self.file.read_at(offset, into)?;
        lock(&self.counts).read_bytes += got as u64;
        Ok(got)
    }
}

impl DiskFile for CountedFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut counts = lock(&self.counts);
        counts.writes += 1;
        counts.written_bytes += bytes.len() as u64;
        drop(counts);
        self.file.write_at(offset, bytes)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        lock(&self.counts).file_syncs += 1;
        self.file.sync()
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn modified(&self) -> io::Result<SystemTime> {
        self.file.modified()
    }
}
