//! The box's own clock: how good it is, and when it was set.
//!
//! Owns the question to the kernel, and the account of *eras*: spans in which the clock ran on without being set. May
//! not set or correct a clock.
//!
//! Many boxes have no clock that goes on without power. They begin in 1970, or where they stopped, and minutes later the
//! network tells the time. What was stamped until then keeps its times and says that they are not sure. When the clock
//! is right at last, by the kernel's word, the clock that never jumps (since the machine's start) tells how far each
//! earlier era of this start was off: that is a [`Correction`], which every camera states of its own spans. An era of an
//! earlier start that ended before the time was known stays unsure for ever: nothing joins it to this one.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::outbox::{NewEvent, Outbox};
use crate::limits::{CLOCK_DRIFT_PPM_MAX, CLOCK_ERAS_MAX, CLOCK_STEP_MIN};
use crate::model::{ClockCorrection, ClockQuality, ClockSource, EventData, SyncState, Time};

/// The quality of the box's clock now.
pub fn quality() -> ClockQuality {
    let mut answer = libc::timex { modes: 0, ..zeroed() };
    // SAFETY: `answer` is a valid, exclusively borrowed timex; with `modes` 0 the call only reads the
    // kernel's clock state and writes it there.
    let state = unsafe { libc::adjtimex(&mut answer) };
    from_kernel(state, answer.status, answer.maxerror)
}

/// One look at the clock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    pub time: Time,
    pub quality: ClockQuality,
    pub era: Era,
}

/// A span in which the clock was not set.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Era {
    pub id: Uuid,
    /// The clock's time minus the time since the machine's start, nanoseconds.
    pub offset_ns: i64,
    /// The kernel says, or has said, that something better holds the clock.
    pub is_sure: bool,
}

/// How far the clock was off in an era.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Correction {
    pub era: Uuid,
    /// What the clock showed when the era was first and last seen.
    pub from: Time,
    pub upto: Time,
    /// Add this to get true time.
    pub correction_ms: i64,
    pub uncertainty_ms: u64,
}

/// Where the time comes from: the machine, or a test.
pub trait Machine: Send {
    /// Time since the machine's start, which nothing sets.
    fn since_start(&mut self) -> Duration;
    fn time(&mut self) -> Time;
    fn quality(&mut self) -> ClockQuality;
}

/// Watches the box's clock. Clones share what was seen.
#[derive(Clone)]
pub struct Watch(Arc<Mutex<Watched>>);

struct Watched {
    machine: Box<dyn Machine>,
    account: Account,
    /// Where the account outlives the process.
    file: Option<PathBuf>,
}

/// What is known of this start of the machine. Pure.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Account {
    /// Tells one start of the machine from another.
    start: String,
    /// Oldest first; the last one goes on.
    eras: VecDeque<Known>,
    corrections: VecDeque<Correction>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Known {
    era: Era,
    from: Time,
    since_start_ms: u64,
}

impl Watch {
    /// Watches this machine's clock; takes up what an earlier process saw, from a file in `data_dir`.
    pub fn of_machine(data_dir: &Path) -> Self {
        let file = data_dir.join("clock.json");
        let start = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let account = Account::take_up(std::fs::read(&file).ok().as_deref(), start.trim());
        let watched = Watched { machine: Box::new(ThisMachine), account, file: Some(file) };
        Self(Arc::new(Mutex::new(watched)))
    }

    /// Watches another clock, and remembers nothing.
    pub fn of(machine: Box<dyn Machine>) -> Self {
        Self(Arc::new(Mutex::new(Watched { machine, account: Account::default(), file: None })))
    }

    pub fn read(&self) -> Reading {
        let mut watched = self.lock();
        let Watched { machine, account, file } = &mut *watched;
        let (since_start, time, quality) = (machine.since_start(), machine.time(), machine.quality());
        let (reading, has_changed) = account.look(since_start, time, quality);
        if let Some(file) = file.as_ref().filter(|_| has_changed) {
            // Without the file a restart of the process before the time is known costs a correction, no more.
            if let Err(error) = write(file, account) {
                tracing::warn!(%error, file = %file.display(), "the account of the clock can't be kept");
            }
        }
        reading
    }

    /// The corrections that are known, oldest first.
    pub fn corrections(&self) -> Vec<Correction> {
        self.lock().account.corrections.iter().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.0.lock().expect("no panic holds it")
    }
}

/// Looks at the clock every second, and tells the hub of each correction; cameras tell what of theirs it is about.
pub async fn run(watch: Watch, outbox: Outbox, stop: CancellationToken) {
    let mut every = tokio::time::interval(Duration::from_secs(1));
    let mut told: Vec<Uuid> = watch.corrections().iter().map(|c| c.era).collect();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = every.tick() => {}
        }
        let reading = watch.read();
        for correction in watch.corrections() {
            if told.contains(&correction.era) {
                continue;
            }
            let (off_ms, from) = (correction.correction_ms, correction.from);
            tracing::info!(off_ms, %from, upto = %correction.upto, "the clock was wrong and is right now");
            let data = EventData::Clock(correction.event(Vec::new()));
            let event = NewEvent { device: None, time: reading.time, clock: reading.quality, data };
            if super::camera::accept(&outbox, event, &stop).await {
                told.push(correction.era);
            }
        }
    }
}

impl Correction {
    /// As it is told of these spans.
    pub fn event(&self, spans: Vec<Uuid>) -> ClockCorrection {
        ClockCorrection {
            from: self.from,
            upto: self.upto,
            correction_ms: self.correction_ms,
            uncertainty_ms: self.uncertainty_ms,
            spans: Some(spans),
        }
    }
}

impl Account {
    /// What an earlier process left. Of the start of the machine before this one only corrections matter, once more: the
    /// process may have ended before they were told.
    fn take_up(file: Option<&[u8]>, start: &str) -> Self {
        let known: Self = file.and_then(|json| serde_json::from_slice(json).ok()).unwrap_or_default();
        if known.start == start {
            return known;
        }
        let mut corrections = known.corrections;
        corrections.retain(|c| known.eras.iter().any(|known| known.era.id == c.era));
        Self { start: start.to_owned(), eras: VecDeque::new(), corrections }
    }

    /// Takes a look at the clock; true if there is something new to remember.
    fn look(&mut self, since_start: Duration, time: Time, quality: ClockQuality) -> (Reading, bool) {
        let since_start_ns = i64::try_from(since_start.as_nanos()).unwrap_or(i64::MAX);
        let time_ns = time.as_nanosecond().clamp(i64::MIN.into(), i64::MAX.into()) as i64;
        let offset_ns = time_ns.saturating_sub(since_start_ns);
        let is_sure = quality.sync == SyncState::Synced;
        let limit_ns = CLOCK_STEP_MIN.as_nanos() as u64;
        let mut has_changed = false;
        match self.eras.back_mut() {
            Some(last) if last.era.offset_ns.abs_diff(offset_ns) <= limit_ns => {
                has_changed = is_sure && !last.era.is_sure;
                last.era.is_sure |= is_sure;
            }
            // Held by something better before and after: it set the clock by what had gathered. No era was wrong.
            Some(last) if last.era.is_sure && is_sure => last.era.offset_ns = offset_ns,
            _ => {
                let era = Era { id: Uuid::now_v7(), offset_ns, is_sure };
                let since_start_ms = since_start.as_millis() as u64;
                self.eras.push_back(Known { era, from: time, since_start_ms });
                if self.eras.len() > CLOCK_ERAS_MAX {
                    self.eras.pop_front();
                }
                has_changed = true;
            }
        }
        if has_changed && is_sure {
            self.correct(since_start, offset_ns, quality);
        }
        let era = self.eras.back().expect("there is one now").era;
        (Reading { time, quality, era }, has_changed)
    }

    /// The clock is right: how far was it off in the eras before?
    fn correct(&mut self, since_start: Duration, offset_ns: i64, quality: ClockQuality) {
        let now_ms = since_start.as_millis() as u64;
        let last = self.eras.len() - 1;
        let ends: Vec<u64> = self.eras.iter().skip(1).map(|next| next.since_start_ms).collect();
        for (known, end_ms) in self.eras.range(..last).zip(ends) {
            let is_known = self.corrections.iter().any(|c| c.era == known.era.id);
            if known.era.is_sure || is_known {
                continue;
            }
            let lasted = SignedDuration::from_millis(end_ms.saturating_sub(known.since_start_ms) as i64);
            let drift_ms = now_ms.saturating_sub(known.since_start_ms) * CLOCK_DRIFT_PPM_MAX / 1_000_000;
            self.corrections.push_back(Correction {
                era: known.era.id,
                from: known.from,
                upto: known.from.checked_add(lasted).unwrap_or(known.from),
                correction_ms: (offset_ns.saturating_sub(known.era.offset_ns)) / 1_000_000,
                uncertainty_ms: quality.uncertainty_ms.unwrap_or(0) + drift_ms + 1,
            });
        }
        while self.corrections.len() > CLOCK_ERAS_MAX {
            self.corrections.pop_front();
        }
    }
}

/// Whole or not at all.
fn write(file: &Path, account: &Account) -> std::io::Result<()> {
    let part = file.with_extension("part");
    std::fs::write(&part, serde_json::to_vec(account)?)?;
    std::fs::File::open(&part)?.sync_all()?;
    std::fs::rename(&part, file)
}

struct ThisMachine;

impl Machine for ThisMachine {
    fn since_start(&mut self) -> Duration {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is a valid, exclusively borrowed timespec, and the clock exists since Linux 2.6.39.
        unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
        Duration::new(time.tv_sec.max(0) as u64, time.tv_nsec.clamp(0, 999_999_999) as u32)
    }

    fn time(&mut self) -> Time {
        Time::now()
    }

    fn quality(&mut self) -> ClockQuality {
        quality()
    }
}

fn zeroed() -> libc::timex {
    // SAFETY: timex is a plain C struct of integers; all zeros is a valid value of it.
    unsafe { std::mem::zeroed() }
}

/// `maxerror_us` grows by 500 us a second since the clock was last set right, up to 16 s.
fn from_kernel(state: i32, status: i32, maxerror_us: i64) -> ClockQuality {
    let synced = state != libc::TIME_ERROR && status & libc::STA_UNSYNC == 0;
    let sync = match state {
        ..0 => SyncState::Unknown,
        _ if synced => SyncState::Synced,
        _ => SyncState::Unsynced,
    };
    let uncertainty_ms =
        (sync == SyncState::Synced).then(|| maxerror_us.max(0).unsigned_abs().div_ceil(1000));
    ClockQuality { source: ClockSource::Box, sync, offset_ms: None, uncertainty_ms }
}

/// A clock that a test sets.
#[cfg(test)]
#[derive(Clone)]
pub struct SetClock(Arc<Mutex<(Duration, SignedDuration, SyncState)>>);

#[cfg(test)]
impl SetClock {
    /// The machine starts, and its clock shows this.
    pub fn at(time: Time) -> Self {
        let offset = time.duration_since(Time::UNIX_EPOCH);
        Self(Arc::new(Mutex::new((Duration::ZERO, offset, SyncState::Unsynced))))
    }

    pub fn pass(&self, seconds: f64) {
        self.0.lock().unwrap().0 += Duration::from_secs_f64(seconds);
    }

    /// Somebody sets the clock.
    pub fn step(&self, seconds: i64) {
        self.0.lock().unwrap().1 += SignedDuration::from_secs(seconds);
    }

    pub fn sync(&self, sync: SyncState) {
        self.0.lock().unwrap().2 = sync;
    }

    pub fn now(&self) -> Time {
        self.clone().time()
    }
}

#[cfg(test)]
impl Machine for SetClock {
    fn since_start(&mut self) -> Duration {
        self.0.lock().unwrap().0
    }

    fn time(&mut self) -> Time {
        let (since_start, offset, _) = *self.0.lock().unwrap();
        Time::UNIX_EPOCH + offset + since_start
    }

    fn quality(&mut self) -> ClockQuality {
        let sync = self.0.lock().unwrap().2;
        let uncertainty_ms = (sync == SyncState::Synced).then_some(10);
        ClockQuality { source: ClockSource::Box, sync, offset_ms: None, uncertainty_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_understood() {
        let cases = [
            (libc::TIME_OK, 0, 1500, SyncState::Synced, Some(2)),
            (libc::TIME_OK, libc::STA_UNSYNC, 1500, SyncState::Unsynced, None),
            (libc::TIME_ERROR, libc::STA_UNSYNC, 16_000_000, SyncState::Unsynced, None),
            (-1, 0, 0, SyncState::Unknown, None),
        ];
        for (state, status, maxerror, sync, uncertainty_ms) in cases {
            let quality = from_kernel(state, status, maxerror);
            assert_eq!((quality.sync, quality.uncertainty_ms), (sync, uncertainty_ms), "{state} {status}");
        }
        assert_eq!(quality().source, ClockSource::Box);
    }

    const TRUE_START: i64 = 1_772_000_000;

    fn at(seconds: i64) -> Time {
        Time::from_second(seconds).unwrap()
    }

    /// What a clock shows at its start, what happens then (after how many seconds: set by how many, in sync or not),
    /// and what is said of it: the era's beginning and end by its own clock, and the correction in seconds.
    #[test]
    fn a_clock_that_is_right_at_last_tells_how_far_it_was_off_before() {
        use SyncState::{Synced, Unsynced};
        type Said = (i64, i64, i64);
        type Case = (&'static str, i64, &'static [(f64, i64, SyncState)], &'static [Said]);
        const OFF: i64 = TRUE_START - 30;
        let cases: [Case; 8] = [
            ("no clock, then the network", 30, &[(300.0, OFF, Synced)], &[(30, 330, OFF)]),
            (
                "set first, known to be right later",
                30,
                &[(300.0, OFF, Unsynced), (9.0, 0, Synced)],
                &[(30, 330, OFF)],
            ),
            ("right all the time", TRUE_START, &[(20.0, 0, Synced)], &[]),
            (
                "ahead",
                TRUE_START + 3600,
                &[(60.0, -3600, Synced)],
                &[(TRUE_START + 3600, TRUE_START + 3660, -3600)],
            ),
            (
                "set by hand, wrongly",
                TRUE_START,
                &[(5.0, 0, Synced), (60.0, 7200, Unsynced), (60.0, -7200, Synced)],
                &[(TRUE_START + 65 + 7200, TRUE_START + 125 + 7200, -7200)],
            ),
            (
                "two guesses",
                30,
                &[(10.0, 1000, Unsynced), (10.0, OFF - 1000, Synced)],
                &[(30, 40, OFF), (1040, 1050, OFF - 1000)],
            ),
            ("never known", 30, &[(10.0, 1000, Unsynced)], &[]),
            ("a leap", TRUE_START, &[(5.0, 0, Synced), (60.0, -1, Synced)], &[]),
        ];
        for (name, start, happens, expected) in cases {
            let clock = SetClock::at(at(start));
            let watch = Watch::of(Box::new(clock.clone()));
            watch.read();
            for &(after, step, sync) in happens {
                clock.pass(after);
                watch.read();
                clock.step(step);
                clock.sync(sync);
                watch.read();
            }
            let said: Vec<Said> = watch
                .corrections()
                .iter()
                .map(|c| (c.from.as_second(), c.upto.as_second(), c.correction_ms / 1000))
                .collect();
            assert_eq!(said, expected, "{name}");
            assert!(watch.corrections().iter().all(|c| (11..200).contains(&c.uncertainty_ms)), "{name}");
        }
    }

    #[test]
    fn a_process_that_starts_again_goes_on_with_the_account_of_this_start_of_the_machine() {
        let clock = SetClock::at(at(30));
        let look = |account: &mut Account| {
            let mut clock = clock.clone();
            let (reading, _) = account.look(clock.since_start(), clock.time(), clock.quality());
            reading
        };
        let mut account = Account::take_up(None, "first");
        let before = look(&mut account);
        clock.pass(100.0);
        let json = serde_json::to_vec(&account).unwrap();
        let mut account = Account::take_up(Some(&json), "first");
        assert_eq!(look(&mut account).era, before.era, "the same era");
        clock.step(1_000_000);
        clock.sync(SyncState::Synced);
        assert_ne!(look(&mut account).era, before.era);
        assert_eq!(account.corrections[0].era, before.era.id);
        let corrected = serde_json::to_vec(&account).unwrap();
        let other = Account::take_up(Some(&json), "second");
        assert!(other.eras.is_empty() && other.corrections.is_empty(), "nothing joins it to this start");
        let mut next = Account::take_up(Some(&corrected), "second");
        assert_eq!(next.corrections, account.corrections, "it may not have been told");
        look(&mut next);
        let again = serde_json::to_vec(&next).unwrap();
        assert_eq!(Account::take_up(Some(b"\xff"), "third"), Account::take_up(None, "third"));
        assert!(Account::take_up(Some(&again), "third").corrections.is_empty(), "by now it was");
    }
}
