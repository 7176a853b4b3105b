//! What is wrong with a camera's pictures, told to who reports it, and remembered across restarts.
//!
//! Owns the file of what a view usually looks like. May not judge (`picture.rs` does).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tokio::sync::watch;

use super::picture::{PictureJudge, Usual};
use crate::limits::USUAL_SAVED_EVERY;
use crate::model::{DeviceId, PictureFault};

/// One camera's.
pub struct Eye {
    judge: PictureJudge,
    told: watch::Sender<Option<Vec<PictureFault>>>,
    /// Somebody says that what is seen now is meant: then it is learnt anew.
    is_meant: Arc<AtomicBool>,
    file: Option<PathBuf>,
    saved: Instant,
}

impl Eye {
    /// Takes up what was usual before, from a file in `data_dir`.
    pub fn open(
        data_dir: &Path,
        device: &DeviceId,
        told: watch::Sender<Option<Vec<PictureFault>>>,
        is_meant: Arc<AtomicBool>,
    ) -> Self {
        let file = data_dir.join("health").join(format!("{device}.json"));
        let usual: Option<Usual> =
            std::fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let judge = PictureJudge::new(usual.unwrap_or_default());
        Self { judge, told, is_meant, file: Some(file), saved: Instant::now() }
    }

    /// One that remembers nothing.
    pub fn forgetful(told: watch::Sender<Option<Vec<PictureFault>>>) -> Self {
        let is_meant = Arc::default();
        Self { judge: PictureJudge::default(), told, is_meant, file: None, saved: Instant::now() }
    }

    /// Looks at a picture of `width` columns.
    pub fn look(&mut self, at_ns: u64, width: usize, pixels: &[u8]) {
        if self.is_meant.swap(false, Ordering::AcqRel) {
            self.judge.accept_view();
            self.told.send_replace(Some(Vec::new()));
            self.save();
        }
        let is_news = self.judge.look(at_ns, width, pixels);
        let is_first = self.told.borrow().is_none();
        if is_news || is_first {
            self.told.send_replace(Some(self.judge.faults().to_vec()));
        }
        if self.saved.elapsed() >= USUAL_SAVED_EVERY {
            self.save();
        }
    }

    /// Pictures stopped.
    pub fn interrupted(&mut self) {
        self.judge.interrupted();
    }

    /// Writes what is usual, whole or not at all. What is lost with it is learnt again in a minute.
    pub fn save(&mut self) {
        self.saved = Instant::now();
        let Some(file) = &self.file else { return };
        let json = serde_json::to_vec(self.judge.usual()).expect("figures");
        let write = || {
            std::fs::create_dir_all(file.parent().unwrap_or(Path::new(".")))?;
            let part = file.with_extension("part");
            std::fs::write(&part, &json)?;
            std::fs::rename(&part, file)
        };
        if let Err(error) = write() {
            tracing::warn!(file = %file.display(), %error, "what the view usually looks like can't be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_view_is_known_again_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let device: DeviceId = "cam-01".parse().unwrap();
        let picture = |seed: usize| -> Vec<u8> {
            (0..64 * 36)
                .map(|i| (40 + (i % 64 / (5 + seed) * 37 + i / 64 / (4 + seed) * 53) % 150) as u8)
                .collect()
        };
        let look = |eye: &mut Eye, from_s: u64, seed: usize| {
            for n in 0..40 {
                let mut pixels = picture(seed);
                pixels[n] ^= 1;
                eye.look((from_s + 2 * n as u64) * 1_000_000_000, 64, &pixels);
            }
        };
        let (told, heard) = watch::channel(None);
        let mut eye = Eye::open(dir.path(), &device, told, Arc::default());
        look(&mut eye, 0, 0);
        assert_eq!(*heard.borrow(), Some(vec![]));
        eye.save();
        let ((told, heard), is_meant) = (watch::channel(None), Arc::new(AtomicBool::new(false)));
        let mut eye = Eye::open(dir.path(), &device, told, is_meant.clone());
        look(&mut eye, 0, 6);
        assert_eq!(*heard.borrow(), Some(vec![PictureFault::Moved]));
        // Somebody turned it on purpose, and says so.
        is_meant.store(true, Ordering::Release);
        look(&mut eye, 100, 6);
        assert_eq!(*heard.borrow(), Some(vec![]));
    }
}
