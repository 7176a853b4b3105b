//! A disk in memory that fails as real ones do: for tests and the simulation, not for production.
//!
//! Owns what of a write survives which failure. Everything random comes from the seed, so a run can be repeated.
//! It is as unkind as POSIX allows: contents are durable only by [`DiskFile::sync`], names only by
//! [`Disk::sync_dir`]; what was not synced survives a power cut in blocks of 512 bytes, in any choice of them.
//! Two kindnesses are those of every journaling file system: changes of names survive in their order, and a folder
//! that was made is there.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use super::disk::{Access, Disk, DiskFile, ReadAt};

/// What a sector of a real disk holds; smaller parts are written whole or not at all.
const BLOCK_BYTES: usize = 512;

/// What goes wrong with one operation. Only those that change the disk are counted; reading works until
/// [`Fault::Dead`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails and changes nothing.
    Error,
    /// A write is done in part, then fails; anything else fails as by [`Fault::Error`].
    Short,
    /// A sync fails; anything else fails as by [`Fault::Error`].
    Sync(AfterFailedSync),
    /// The process dies in the middle of it: this and all later operations fail, until [`SimDisk::power_cut`] or
    /// [`SimDisk::process_crash`] brings the machine back.
    Dead,
}

/// What the kernel does with pages that it could not write. A part of them may have reached the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterFailedSync {
    /// Another sync tries them again.
    Retries,
    /// It shows them, holds them for clean, and never tries again (Linux).
    Forgets,
    /// It shows what is on the disk.
    Drops,
}

/// See the module. Clones are handles to one disk; [`SimDisk::image`] is a copy.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Clone)]
struct State {
    random: u64,
    files: BTreeMap<u64, Inode>,
    next_file: u64,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    /// Changes of names that no sync has made durable, oldest first.
    unsynced_names: Vec<NameChange>,
    locks: BTreeSet<PathBuf>,
    /// Counts lives: what was opened in an earlier one is no good any more.
    life: u64,
    is_dead: bool,
    operations: u64,
    syncs: u64,
    faults: BTreeMap<u64, Fault>,
    sync_faults: BTreeMap<u64, AfterFailedSync>,
    capacity_bytes: Option<u64>,
    is_read_only: bool,
    now: SystemTime,
}

#[derive(Clone)]
struct Inode {
    /// What the kernel shows.
    shown: Vec<u8>,
    /// What is on the disk for sure.
    durable: Vec<u8>,
    /// Bytes that the next sync writes.
    dirty: Option<Range<usize>>,
    modified: SystemTime,
}

#[derive(Clone)]
struct NameChange {
    dir: PathBuf,
    path: PathBuf,
    /// None: the name was taken away.
    file: Option<u64>,
}

impl SimDisk {
    pub fn new(seed: u64) -> Self {
        let state = State {
            random: seed,
            files: BTreeMap::new(),
            next_file: 0,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            unsynced_names: Vec::new(),
            locks: BTreeSet::new(),
            life: 0,
            is_dead: false,
            operations: 0,
            syncs: 0,
            faults: BTreeMap::new(),
            sync_faults: BTreeMap::new(),
            capacity_bytes: None,
            is_read_only: false,
            now: SystemTime::UNIX_EPOCH,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// This disk as the trait.
    pub fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }

    /// Operations that changed the disk so far.
    pub fn operations(&self) -> u64 {
        self.lock_state().operations
    }

    /// Lets the operation fail that comes after `after` others; 0 is the next one.
    pub fn fail(&self, after: u64, fault: Fault) {
        let mut state = self.lock_state();
        let at = state.operations + after;
        state.faults.insert(at, fault);
    }

    /// Lets the sync fail that comes after `after` others; 0 is the next one.
    pub fn fail_sync(&self, after: u64, then: AfterFailedSync) {
        let mut state = self.lock_state();
        let at = state.syncs + after;
        state.sync_faults.insert(at, then);
    }

    /// Forgets all faults that have not happened yet; room is not bounded any more.
    pub fn heal(&self) {
        let mut state = self.lock_state();
        state.faults.clear();
        state.sync_faults.clear();
        state.capacity_bytes = None;
        state.is_read_only = false;
    }

    /// From now on nothing can be changed, as when a kernel has seen a card fail. What was not synced stays shown.
    pub fn set_read_only(&self, is_read_only: bool) {
        self.lock_state().is_read_only = is_read_only;
    }

    /// The disk is full when all files have so many bytes.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock_state().capacity_bytes = bytes;
    }

    /// Bytes of all files, as the kernel shows them.
    pub fn used_bytes(&self) -> u64 {
        self.lock_state().used_bytes()
    }

    /// What files get as their time of change from now on.
    pub fn set_now(&self, now: SystemTime) {
        self.lock_state().now = now;
    }

    /// True after [`Fault::Dead`], until the machine is brought back.
    pub fn is_dead(&self) -> bool {
        self.lock_state().is_dead
    }

    /// The process is gone, the machine is not: what was written is shown, locks and open files are gone.
    pub fn process_crash(&self) {
        self.lock_state().revive();
    }

    /// The machine lost its power: of what was not synced any part survives. Locks and open files are gone.
    pub fn power_cut(&self) {
        let mut state = self.lock_state();
        let state = &mut *state;
        state.revive();
        let survive = state.below(state.unsynced_names.len() + 1);
        for change in state.unsynced_names.drain(..).take(survive) {
            change.apply(&mut state.durable_names);
        }
        state.names = state.durable_names.clone();
        let named: BTreeSet<u64> = state.names.values().copied().collect();
        state.files.retain(|file, _| named.contains(file));
        for file in named {
            let mut inode = state.files.remove(&file).expect("a name has a file");
            inode.shown = state.survivors(&inode);
            inode.durable = inode.shown.clone();
            inode.dirty = None;
            state.files.insert(file, inode);
        }
    }

    /// A copy of the disk as it is shown now, with nobody at work on it and no faults planned.
    pub fn image(&self) -> Self {
        let mut state = self.lock_state().clone();
        state.revive();
        state.faults.clear();
        state.sync_faults.clear();
        state.capacity_bytes = None;
        state.is_read_only = false;
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Puts an image back, as if everything of it had been synced. Whoever works on the disk is thrown off.
    pub fn restore(&self, image: &SimDisk) {
        let mut other = image.lock_state().clone();
        for inode in other.files.values_mut() {
            inode.durable = inode.shown.clone();
            inode.dirty = None;
        }
        let mut state = self.lock_state();
        state.files = other.files;
        state.next_file = other.next_file;
        state.durable_names = other.names.clone();
        state.names = other.names;
        state.unsynced_names.clear();
        state.revive();
    }

    /// Names of all files.
    pub fn files(&self) -> Vec<PathBuf> {
        self.lock_state().names.keys().cloned().collect()
    }

    /// A file's bytes as they are shown.
    pub fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let state = self.lock_state();
        let file = state.names.get(path).ok_or_else(|| not_found(path))?;
        Ok(state.files[file].shown.clone())
    }

    /// Changes bytes behind everybody's back, durably: a bad sector, a bit that fell over.
    pub fn corrupt(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut state = self.lock_state();
        let file = *state.names.get(path).ok_or_else(|| not_found(path))?;
        let inode = state.files.get_mut(&file).expect("a name has a file");
        change(&mut inode.shown);
        inode.durable = inode.shown.clone();
        inode.dirty = None;
        Ok(())
    }

    fn lock_state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl State {
    /// SplitMix64.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.draw() % bound.max(1) as u64) as usize
    }

    fn revive(&mut self) {
        self.life += 1;
        self.is_dead = false;
        self.locks.clear();
    }

    fn used_bytes(&self) -> u64 {
        self.files.values().map(|inode| inode.shown.len() as u64).sum()
    }

    fn check_alive(&self, life: u64) -> io::Result<()> {
        if self.is_dead || life != self.life {
            return Err(io::Error::other("the process is dead"));
        }
        Ok(())
    }

    /// Counts an operation and says what goes wrong with it.
    fn begin(&mut self, life: u64) -> io::Result<Option<Fault>> {
        self.check_alive(life)?;
        if self.is_read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        let fault = self.faults.remove(&self.operations);
        self.operations += 1;
        if fault == Some(Fault::Dead) {
            self.is_dead = true;
        }
        Ok(fault)
    }

    /// As [`State::begin`], for what is done at once or not at all.
    fn begin_whole(&mut self, life: u64) -> io::Result<()> {
        match self.begin(life)? {
            Some(_) => Err(injected()),
            None => Ok(()),
        }
    }

    fn change_name(&mut self, path: &Path, file: Option<u64>) {
        let dir = path.parent().unwrap_or(Path::new("")).to_owned();
        let change = NameChange { dir, path: path.to_owned(), file };
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }

    fn inode(&mut self, file: u64) -> io::Result<&mut Inode> {
        self.files.get_mut(&file).ok_or_else(|| io::Error::other("the file is gone"))
    }

    /// What of a file is on the disk when it was not asked to be: any choice of blocks.
    fn survivors(&mut self, inode: &Inode) -> Vec<u8> {
        let Some(dirty) = inode.dirty.clone() else { return inode.durable.clone() };
        let (shown, durable) = (&inode.shown, &inode.durable);
        match self.below(4) {
            0 => durable.clone(),
            1 => inode.after_sync(),
            2 => {
                let end = dirty.start + self.below(dirty.len() + 1);
                let end = end.min(shown.len());
                let mut left = durable.clone();
                if left.len() < end {
                    left.resize(end, 0);
                }
                let start = dirty.start.min(end);
                left[start..end].copy_from_slice(&shown[start..end]);
                left
            }
            _ => {
                let mut left = durable.clone();
                left.resize(shown.len(), 0);
                let mut start = dirty.start;
                while start < dirty.end.min(shown.len()) {
                    let end = ((start / BLOCK_BYTES + 1) * BLOCK_BYTES).min(dirty.end).min(shown.len());
                    if self.below(2) == 0 {
                        left[start..end].copy_from_slice(&shown[start..end]);
                    }
                    start = end;
                }
                left
            }
        }
    }
}

impl Inode {
    fn mark_dirty(&mut self, changed: Range<usize>) {
        self.dirty = Some(match self.dirty.take() {
            Some(dirty) => dirty.start.min(changed.start)..dirty.end.max(changed.end),
            None => changed,
        });
    }

    fn after_sync(&self) -> Vec<u8> {
        let mut synced = self.durable.clone();
        self.sync_into(&mut synced);
        synced
    }

    fn sync_into(&self, durable: &mut Vec<u8>) {
        let Some(dirty) = &self.dirty else { return };
        durable.resize(self.shown.len(), 0);
        let (start, end) = (dirty.start.min(self.shown.len()), dirty.end.min(self.shown.len()));
        durable[start..end].copy_from_slice(&self.shown[start..end]);
    }

    fn sync(&mut self) {
        let mut durable = std::mem::take(&mut self.durable);
        self.sync_into(&mut durable);
        self.durable = durable;
        self.dirty = None;
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        let changed = offset.min(self.shown.len())..end;
        if self.shown.len() < end {
            self.shown.resize(end, 0);
        }
        self.shown[offset..end].copy_from_slice(bytes);
        self.mark_dirty(changed);
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self.file {
            Some(file) => names.insert(self.path.clone(), file),
            None => names.remove(&self.path),
        };
    }
}

impl Disk for SimDisk {
    fn create_dir_all(&self, _dir: &Path) -> io::Result<()> {
        let state = self.lock_state();
        state.check_alive(state.life)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.lock_state();
        state.check_alive(state.life)?;
        let inside = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock_state();
        let life = state.life;
        state.begin_whole(life)?;
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = state.next_file;
        state.next_file += 1;
        let modified = state.now;
        state.files.insert(file, Inode { shown: vec![], durable: vec![], dirty: None, modified });
        state.change_name(path, Some(file));
        Ok(Arc::new(SimFile { state: self.state.clone(), life, file, access: Access::Write }))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.lock_state();
        state.check_alive(state.life)?;
        if state.is_read_only && access == Access::Write {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        let file = *state.names.get(path).ok_or_else(|| not_found(path))?;
        Ok(Arc::new(SimFile { state: self.state.clone(), life: state.life, file, access }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock_state();
        let life = state.life;
        state.begin_whole(life)?;
        if !state.names.contains_key(path) {
            return Err(not_found(path));
        }
        state.change_name(path, None);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock_state();
        let life = state.life;
        state.begin_whole(life)?;
        let file = *state.names.get(from).ok_or_else(|| not_found(from))?;
        state.change_name(to, Some(file));
        state.change_name(from, None);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.lock_state();
        let state = &mut *state;
        state.begin_whole(state.life)?;
        let mut left = Vec::new();
        for change in state.unsynced_names.drain(..) {
            if change.dir == dir {
                change.apply(&mut state.durable_names);
            } else {
                left.push(change);
            }
        }
        state.unsynced_names = left;
        let named: BTreeSet<u64> =
            state.names.values().chain(state.durable_names.values()).copied().collect();
        let coming: BTreeSet<u64> = state.unsynced_names.iter().filter_map(|change| change.file).collect();
        state.files.retain(|file, _| named.contains(file) || coming.contains(file));
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        let mut state = self.lock_state();
        state.check_alive(state.life)?;
        if !state.locks.insert(path.to_owned()) {
            return Ok(None);
        }
        Ok(Some(Box::new(SimLock { state: self.state.clone(), life: state.life, path: path.to_owned() })))
    }

    fn draw(&self) -> u32 {
        self.lock_state().draw() as u32
    }
}

struct SimFile {
    state: Arc<Mutex<State>>,
    life: u64,
    file: u64,
    access: Access,
}

impl SimFile {
    fn lock_state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn begin(&self, state: &mut State) -> io::Result<Option<Fault>> {
        if self.access == Access::Read {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        state.begin(self.life)
    }
}

impl ReadAt for SimFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut state = self.lock_state();
        state.check_alive(self.life)?;
        state.inode(self.file)?.shown.read_at(offset, into)
    }
}

impl DiskFile for SimFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.lock_state();
        let fault = self.begin(&mut state)?;
        let (offset, mut count) = (offset as usize, bytes.len());
        let mut error = None;
        if let Some(fault) = fault {
            let is_whole = matches!(fault, Fault::Error | Fault::Sync(_));
            count = if is_whole { 0 } else { state.below(count + 1) };
            error = Some(injected());
        }
        if let Some(capacity) = state.capacity_bytes {
            let used = state.used_bytes();
            let shown_bytes = state.inode(self.file)?.shown.len();
            let room = shown_bytes.saturating_sub(offset) + capacity.saturating_sub(used) as usize;
            if room < count {
                count = room;
                error = Some(io::ErrorKind::StorageFull.into());
            }
        }
        let now = state.now;
        let inode = state.inode(self.file)?;
        if count > 0 {
            inode.write(offset, &bytes[..count]);
            inode.modified = now;
        }
        error.map_or(Ok(()), Err)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.lock_state();
        if self.begin(&mut state)?.is_some() {
            return Err(injected());
        }
        let inode = state.inode(self.file)?;
        let (before, after) = (inode.shown.len(), bytes as usize);
        inode.shown.resize(after, 0);
        if before != after {
            inode.mark_dirty(before.min(after)..before.max(after));
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.lock_state();
        let fault = self.begin(&mut state)?;
        let then = state.syncs;
        let then = state.sync_faults.remove(&then);
        state.syncs += 1;
        let then = match (fault, then) {
            (None, None) => {
                state.inode(self.file)?.sync();
                return Ok(());
            }
            (Some(Fault::Sync(then)), _) | (None, Some(then)) => then,
            (Some(_), _) => AfterFailedSync::Retries,
        };
        let inode = state.inode(self.file)?.clone();
        let reached = state.survivors(&inode);
        let inode = state.inode(self.file)?;
        inode.durable = reached;
        match then {
            AfterFailedSync::Retries => {}
            AfterFailedSync::Forgets => inode.dirty = None,
            AfterFailedSync::Drops => {
                inode.shown = inode.durable.clone();
                inode.dirty = None;
            }
        }
        Err(injected())
    }

    fn size(&self) -> io::Result<u64> {
        let mut state = self.lock_state();
        state.check_alive(self.life)?;
        Ok(state.inode(self.file)?.shown.len() as u64)
    }

    fn modified(&self) -> io::Result<SystemTime> {
        let mut state = self.lock_state();
        state.check_alive(self.life)?;
        Ok(state.inode(self.file)?.modified)
    }
}

struct SimLock {
    state: Arc<Mutex<State>>,
    life: u64,
    path: PathBuf,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if state.life == self.life {
            state.locks.remove(&self.path);
        }
    }
}

fn injected() -> io::Error {
    io::Error::other("an injected fault")
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} is not there", path.display()))
}
