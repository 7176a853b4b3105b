//! Photos of work orders, named by their SHA-256.
//!
//! ```text
//! <data>/photos/ab/<sha256>
//! ```
//!
//! Owns the folder. A photo is on disk, its folder too, before a work order names it. May not hand one out without the
//! gate's [`Pass`]: it may show people.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::access::Pass;
use crate::limits::PHOTO_BYTES_MAX;
use crate::model::Sha256Hash;

/// The folder of all photos.
pub struct Photos {
    dir: PathBuf,
}

/// Why a photo can't be kept or shown.
#[derive(Debug, thiserror::Error)]
pub enum PhotoError {
    #[error("a photo is a JPEG or PNG file")]
    Kind,
    #[error("a photo has at most {PHOTO_BYTES_MAX} bytes")]
    TooLarge,
    #[error("photo {path}: can't be {what}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

impl Photos {
    /// Opens the folder in `data_dir`. Blocking.
    pub fn open(data_dir: &Path) -> Result<Self, PhotoError> {
        let dir = data_dir.join("photos");
        std::fs::create_dir_all(&dir).map_err(|e| io_error("created", &dir, e))?;
        sync(data_dir)?;
        Ok(Self { dir })
    }

    /// Writes a photo, durable on return. Blocking. The same photo again is the same file.
    pub fn put(&self, bytes: &[u8]) -> Result<Sha256Hash, PhotoError> {
        check(bytes)?;
        let sha256 = Sha256Hash::of(bytes);
        let path = self.path_of(&sha256);
        let folder = path.parent().unwrap_or(&self.dir);
        std::fs::create_dir_all(folder).map_err(|e| io_error("created", folder, e))?;
        sync(&self.dir)?;
        let part = folder.join(format!("{}.part", Uuid::now_v7()));
        let written = File::create(&part).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()?;
            std::fs::rename(&part, &path)
        });
        if let Err(error) = written {
            let _ = std::fs::remove_file(&part);
            return Err(io_error("written", &path, error));
        }
        sync(folder)?;
        Ok(sha256)
    }

    /// A photo and its media type, checked to be what was kept. Blocking.
    pub fn read(&self, _pass: &Pass, sha256: &Sha256Hash) -> Result<(Vec<u8>, &'static str), PhotoError> {
        let path = self.path_of(sha256);
        let bytes = std::fs::read(&path).map_err(|e| io_error("read", &path, e))?;
        match kind_of(&bytes) {
            Some(kind) if Sha256Hash::of(&bytes) == *sha256 => Ok((bytes, kind)),
            _ => {
                let error = io::Error::new(io::ErrorKind::InvalidData, "it is not what was kept");
                Err(io_error("trusted", &path, error))
            }
        }
    }

    fn path_of(&self, sha256: &Sha256Hash) -> PathBuf {
        let name = sha256.to_string();
        self.dir.join(&name[..2]).join(name)
    }
}

/// What can be kept, whatever the sender calls it.
pub fn check(bytes: &[u8]) -> Result<(), PhotoError> {
    if bytes.len() > PHOTO_BYTES_MAX {
        return Err(PhotoError::TooLarge);
    }
    kind_of(bytes).map(drop).ok_or(PhotoError::Kind)
}

/// The media type, by how the file begins.
fn kind_of(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, ..] => Some("image/png"),
        _ => None,
    }
}

fn sync(folder: &Path) -> Result<(), PhotoError> {
    File::open(folder).and_then(|file| file.sync_all()).map_err(|e| io_error("made durable", folder, e))
}

fn io_error(what: &'static str, path: &Path, source: io::Error) -> PhotoError {
    PhotoError::Io { what, path: path.to_owned(), source }
}
