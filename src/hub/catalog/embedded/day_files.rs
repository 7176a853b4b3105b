//! The files of blocks: one for each day, only appended to.
//!
//! Owns `runs/` beside the index's store. Each piece of bytes ends with its CRC-32, so that a damaged one is an error
//! and no answer. Where a piece lies is known to the index (`directory.rs`); what lies behind the last known piece is
//! of a run that a crash cut off, and is written over. May not know what the bytes mean.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::unlocked;
use crate::limits::INDEX_FILES_OPEN_MAX;

/// Bytes of the checksum behind each piece.
const CRC_BYTES: usize = 4;

pub struct DayFiles {
    folder: PathBuf,
    open: Mutex<HashMap<u32, Arc<File>>>,
}

impl DayFiles {
    pub fn open(index: &Path) -> io::Result<Self> {
        let folder = index.join("runs");
        std::fs::create_dir_all(&folder)?;
        Ok(Self { folder, open: Mutex::new(HashMap::new()) })
    }

    /// The piece of `bytes` bytes at `offset`, without its checksum.
    pub fn read(&self, day: u32, offset: u64, bytes: u32) -> io::Result<Vec<u8>> {
        let mut piece = vec![0; bytes as usize];
        self.file(day)?.read_exact_at(&mut piece, offset)?;
        let content = piece.len().checked_sub(CRC_BYTES).ok_or_else(|| damaged("it is too short"))?;
        let told = piece[content..].try_into().map(u32::from_le_bytes).expect("four bytes");
        if crc32fast::hash(&piece[..content]) != told {
            return Err(damaged("its checksum is wrong"));
        }
        piece.truncate(content);
        Ok(piece)
    }

    /// Writes a run's bytes at `offset`, the end of what is known of the day, and makes them durable.
    pub fn write(&self, day: u32, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(day);
        let is_new = !path.exists();
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
        file.set_len(offset)?;
        file.write_all_at(bytes, offset)?;
        file.sync_data()?;
        if is_new {
            File::open(&self.folder)?.sync_all()?;
        }
        Ok(())
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return 0 };
        entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
    }

    fn path(&self, day: u32) -> PathBuf {
        self.folder.join(format!("{day}.blocks"))
    }

    fn file(&self, day: u32) -> io::Result<Arc<File>> {
        let mut open = unlocked(self.open.lock());
        if let Some(file) = open.get(&day) {
            return Ok(file.clone());
        }
        if open.len() >= INDEX_FILES_OPEN_MAX {
            open.clear();
        }
        let file = Arc::new(File::open(self.path(day))?);
        open.insert(day, file.clone());
        Ok(file)
    }
}

/// Appends a piece with its checksum. Returns how many bytes it takes.
pub fn append_piece(out: &mut Vec<u8>, piece: &[u8]) -> u32 {
    out.extend_from_slice(piece);
    out.extend_from_slice(&crc32fast::hash(piece).to_le_bytes());
    (piece.len() + CRC_BYTES) as u32
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
