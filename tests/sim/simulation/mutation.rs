//! Ways to do it wrong. Each is made in the simulation's drivers, around the production code, which holds no wrong
//! path; a simulation that does not catch one of them is not worth its time.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use camnet::journal::disk::{Access, Disk, DiskFile, ReadAt};

macro_rules! mutations {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mutation { $($(#[$doc])* $name),* }
        impl Mutation {
            pub const ALL: &[Mutation] = &[$(Mutation::$name),*];
        }
    };
}

mutations! {
    /// The hub acknowledges a message when it comes.
    AckBeforeDurable,
    /// An acknowledgement left over from an earlier connection is sent on the present one.
    StaleAck,
    /// What could not be written is given up, and receipts tell what came all the same.
    ReceiptFromMemory,
    /// Receipts go out before the write.
    ReceiptBeforeSync,
    /// Receipts only for what is new: who missed one never hears again.
    NoReceiptForDuplicates,
    /// What came is told by its id, and only since the hub's start.
    DedupByIdOnly,
    /// A known place is a duplicate, whatever its id.
    DedupBySequenceOnly,
    /// Two events with one place are kept as if that were nothing.
    ConflictUnmarked,
    /// The hub starts without reading what has arrived.
    ArrivalsNotReplayed,
    /// What was set aside does not count as handed over.
    RefusedNotHandedOver,
    /// The box does not hear of the new connection: nothing is sent again.
    NoResendAfterReconnect,
    /// No resend after 30 s without a receipt.
    NoResendAfterTimeout,
    /// Neither the first event of an epoch nor the status names those before.
    EpochsBeforeNotNamed,
    /// A restarted box goes on under its old epoch.
    EpochReused,
    /// The box forgets what the broker took.
    ForgetOnPubAck,
    /// The box forgets what it owed when it restarts.
    OwedForgottenAtRestart,
    /// `upto` counts, `missing` does not.
    ReceiptIgnoresMissing,
    /// `missing` begins one later.
    MissingOffByOne,
    /// What was receipted once is not sent again.
    BringBackIgnored,
    /// What was receipted is dropped from the box's disk at once.
    ReceiptedNotKept,
    /// The command to begin a new epoch is ignored.
    NewEpochIgnored,
    /// The box's status does not say how far it got.
    StatusWithoutEpochs,
    /// The hub does not answer a status with what it lacks.
    StatusNotAnswered,
    /// The box says Ok to an event before it is on the disk.
    SyncSkippedOnBox,
    /// The hub says that it has an event before it is on the disk.
    SyncSkippedOnHub,
    /// A sync that failed counts as done, on the box.
    FailedSyncIsSuccessOnBox,
    /// A sync that failed counts as done, at the hub.
    FailedSyncIsSuccessOnHub,
    /// The box answers Ok although the write failed.
    FailedAcceptIsOk,
    /// The index saves its rows before its position.
    IndexPositionNotAtomic,
    /// The catch-up skips a record.
    CatchUpFromWrongPosition,
    /// Batches are applied wherever the index stands.
    IndexAppliesBlindly,
    /// An index that is ahead of its journal is kept.
    IndexAheadKept,
    /// The time in which the box was off is not told.
    CoverageWithoutBoxOff,
    /// A gap's end is not told.
    CoverageWithoutGapEnds,
}

/// What a lying disk does with a sync.
#[derive(Clone, Copy)]
pub enum Lie {
    /// Nothing, and says that it is done.
    Skips,
    /// Does it, and says that it is done when it is not.
    HidesFailure,
}

/// A disk that lies.
pub struct LyingDisk(pub Arc<dyn Disk>, pub Lie);

struct LyingFile(Arc<dyn DiskFile>, Lie);

impl LyingDisk {
    fn file(&self, file: io::Result<Arc<dyn DiskFile>>) -> io::Result<Arc<dyn DiskFile>> {
        file.map(|file| Arc::new(LyingFile(file, self.1)) as Arc<dyn DiskFile>)
    }
}

impl Disk for LyingDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.0.create_dir_all(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.0.list(dir)
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.file(self.0.create(path))
    }
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        self.file(self.0.open(path, access))
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        self.0.lock(path)
    }
    fn draw(&self) -> u32 {
        self.0.draw()
    }
}

impl ReadAt for LyingFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, into)
    }
}

impl DiskFile for LyingFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }
    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }
    fn sync(&self) -> io::Result<()> {
        match self.1 {
            Lie::Skips => Ok(()),
            Lie::HidesFailure => {
                let _ = self.0.sync();
                Ok(())
            }
        }
    }
    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }
    fn modified(&self) -> io::Result<SystemTime> {
        self.0.modified()
    }
}
