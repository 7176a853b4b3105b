//! The journal's edge to the world: the few things that it asks of a disk.
//!
//! Owns the trait and the real one over `std::fs`. May not know what is in a file. The simulated one, for tests
//! and the simulation, is [`super::sim_disk`].

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// A disk. Names are paths; a file's contents survive a power cut only after [`DiskFile::sync`], its name only
/// after [`Disk::sync_dir`] on its folder.
pub trait Disk: Send + Sync {
    /// Makes the folder and those above it, durably.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Names in the folder, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Makes a file that must not be there yet.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>>;

    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Takes the place of what has the name `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes durable which names the folder has.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Holds the lock file until the guard is dropped or the process ends; None while someone else holds it.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>>;

    /// A number that nobody who hands in records can guess.
    fn draw(&self) -> u32;
}

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// Bytes that can be read from any place.
pub trait ReadAt: Send + Sync {
    /// Fills `into` from `offset` on; returns how much there was. Less than asked only at the end.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;
}

/// An open file.
pub trait DiskFile: ReadAt {
    /// Writes all of `bytes` or fails; then any part of them may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    fn set_len(&self, bytes: u64) -> io::Result<()>;

    /// Makes contents and length durable.
    fn sync(&self) -> io::Result<()>;

    fn size(&self) -> io::Result<u64>;

    fn modified(&self) -> io::Result<SystemTime>;
}

/// The disk of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let missing: Vec<&Path> = dir.ancestors().take_while(|above| !above.exists()).collect();
        std::fs::create_dir_all(dir)?;
        for made in missing {
            if let Some(above) = made.parent() {
                self.sync_dir(if above.as_os_str().is_empty() { Path::new(".") } else { above })?;
            }
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(Arc::new(file))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(access == Access::Write).open(path)?;
        Ok(Arc::new(file))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn draw(&self) -> u32 {
        uuid::Uuid::new_v4().as_u128() as u32
    }
}

#[cfg(unix)]
impl ReadAt for File {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut got = 0;
        while got < into.len() {
            match std::os::unix::fs::FileExt::read_at(self, &mut into[got..], offset + got as u64) {
                Ok(0) => break,
                Ok(n) => got += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(got)
    }
}

#[cfg(unix)]
impl DiskFile for File {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(self, bytes, offset)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        File::set_len(self, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        self.metadata().map(|meta| meta.len())
    }

    fn modified(&self) -> io::Result<SystemTime> {
        self.metadata()?.modified()
    }
}

impl ReadAt for Vec<u8> {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let behind = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or_default();
        let got = behind.len().min(into.len());
        into[..got].copy_from_slice(&behind[..got]);
        Ok(got)
    }
}
