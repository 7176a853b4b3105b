//! The catalog: the index that ingest writes and search reads.
//!
//! Owns the trait, and the rules that every engine shares: where in time a clip stands, and how coverage
//! is laid out without overlap. No type of an engine or a file system may leak through it: the embedded
//! engine is [`embedded`] (sled), a PostgreSQL one comes later and answers the same.

pub mod embedded;
pub mod live;

use std::sync::LazyLock;

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::truth::HubRecord;
use crate::limits;
use crate::model::{
    BoxId, ClockQuality, CoverageSpan, DeviceId, Epoch, Sha256Hash, SpanState, Still, SyncState, Time, Video,
};

/// What ingest writes and search reads. Every call may block: callers are on a thread that may wait.
pub trait Catalog: Send + Sync {
    /// Number of the next record of the hub's journal to apply.
    fn applied(&self) -> u64;

    /// Applies the records `from`, `from + 1`, … in order, each with its position at once or not at all. After an
    /// error `applied` says how far it came.
    fn apply(&self, from: u64, records: &[HubRecord]) -> Result<(), CatalogError>;

    /// The clips that a question asks for, in its order: at most `limit`, fewer only where there are no more.
    fn clips(&self, query: &ClipQuery) -> Result<Vec<ClipRow>, CatalogError>;

    /// How many clips of the devices begin in each bucket, of those that begin in one of `ranges` (by time).
    fn clip_counts(
        &self,
        devices: &[DeviceId],
        ranges: &[TimeRange],
        buckets: Buckets,
    ) -> Result<Vec<u64>, CatalogError>;

    fn clip(&self, clip: Uuid) -> Result<Option<ClipRow>, CatalogError>;

    /// The account of each device that overlaps `range`, by time, without overlap and not cut to `range`.
    fn coverage(
        &self,
        devices: &[DeviceId],
        range: TimeRange,
    ) -> Result<Vec<Vec<CoverageSpan>>, CatalogError>;

    /// The oldest moment of a device that a box still had, by the last word of each that told of it.
    fn ring_from(&self, device: &DeviceId) -> Result<Option<Time>, CatalogError>;

    fn events(&self, query: &EventQuery) -> Result<EventPage, CatalogError>;

    /// What was set aside, newest first.
    fn refused(&self, query: &RefusedQuery) -> Result<RefusedPage, CatalogError>;

    /// How much was set aside, per box and reason.
    fn refused_counts(&self) -> Result<Vec<RefusedCount>, CatalogError>;

    fn boxes(&self) -> Result<Vec<BoxRow>, CatalogError>;

    /// The hub has this file of a clip, whether it knows the clip or not.
    fn has_upload(&self, clip: Uuid, sha256: &Sha256Hash) -> Result<bool, CatalogError>;
}

/// Why the index could not answer.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("the index stands at record {applied}; records from {from} on can't be applied")]
    Position { applied: u64, from: u64 },
    #[error("the index can't be {what}")]
    Engine { what: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("an entry of the index can't be read ({key}): {why}")]
    Corrupt { key: String, why: String },
}

/// Both ends belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeRange {
    pub from: Time,
    pub to: Time,
}

impl TimeRange {
    pub fn overlaps(&self, start: Time, end: Time) -> bool {
        start <= self.to && end >= self.from
    }
}

/// Spans of equal length, one behind the other; a moment on a border belongs to the later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buckets {
    pub from: Time,
    /// Length of one, microseconds, at least 1.
    pub bucket_us: i64,
    pub count: usize,
}

impl Buckets {
    /// End of the last one, microseconds since 1970.
    pub fn to_us(self) -> i64 {
        self.from.as_microsecond().saturating_add(self.bucket_us.saturating_mul(self.count as i64))
    }

    /// The bucket of a moment.
    pub fn of(self, us: i64) -> Option<usize> {
        let behind = us.checked_sub(self.from.as_microsecond()).filter(|behind| *behind >= 0)?;
        let n = usize::try_from(behind / self.bucket_us).ok()?;
        (n < self.count).then_some(n)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    #[default]
    Newest,
    Oldest,
}

/// A clip's place in the order of clips.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClipKey {
    pub start_us: i64,
    pub clip: Uuid,
}

/// A clip as the index knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipRow {
    pub clip: Uuid,
    pub device: DeviceId,
    pub box_id: BoxId,
    pub received: Time,
    /// Best known times; they differ from the recorded ones as `basis` says.
    pub start: Time,
    pub end: Time,
    pub motion_start: Option<Time>,
    pub motion_end: Option<Time>,
    pub basis: Basis,
    pub recorded_start: Time,
    pub recorded_end: Time,
    pub peak_score: f64,
    pub clock: ClockQuality,
    pub bytes: u64,
    pub sha256: Sha256Hash,
    pub video: Video,
    pub audio_codec: Option<String>,
    pub thumbnail: Option<Still>,
    pub run: Uuid,
    pub first_fragment: u64,
    pub fragments: u64,
    /// The hub has the clip's file (else it is on the box).
    pub stored: bool,
    pub thumbnail_stored: bool,
}

impl ClipRow {
    pub fn key(&self) -> ClipKey {
        ClipKey { start_us: self.start.as_microsecond(), clip: self.clip }
    }
}

/// Where the times of a row come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Basis {
    Recorded,
    /// Recorded, plus what a clock correction says.
    Corrected {
        correction_ms: i64,
        uncertainty_ms: u64,
    },
    /// The recorded time is implausible: placed by arrival.
    Arrival,
}

/// What of the clips is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipQuery {
    pub devices: Vec<DeviceId>,
    /// Windows, by time and without overlap; a clip belongs to the answer if it overlaps one, or may: its clock leaves
    /// open where exactly it lies ([`uncertain_us`]).
    pub ranges: Vec<TimeRange>,
    pub order: Order,
    /// Only what stands behind this place of the order.
    pub after: Option<ClipKey>,
    pub limit: usize,
}

/// What of the events is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct EventQuery {
    pub kind: Option<String>,
    pub device: Option<DeviceId>,
    pub box_id: Option<BoxId>,
    pub range: TimeRange,
    pub order: Order,
    pub after: Option<EventKey>,
    pub limit: usize,
}

/// An event's place in the order of events: its time, then its number in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EventKey {
    pub time_us: i64,
    pub position: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct EventPage {
    pub events: Vec<EventRow>,
    /// Where to go on; None when there is nothing more. A page can be short and still have a next one.
    pub next: Option<EventKey>,
}

/// An event as the index knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct EventRow {
    pub key: EventKey,
    pub id: Uuid,
    pub box_id: BoxId,
    pub device: Option<DeviceId>,
    pub epoch: Epoch,
    pub sequence: u64,
    pub kind: String,
    /// As recorded.
    pub time: Time,
    pub received: Time,
    /// The recorded time is implausible: the event stands in the order by its arrival.
    pub by_arrival: bool,
    /// Another event has the same box, epoch and sequence, and came first.
    pub conflict: bool,
    /// The CloudEvent as it came.
    pub json: Vec<u8>,
}

/// What of that which was set aside is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct RefusedQuery {
    pub box_id: Option<BoxId>,
    pub reason: Option<String>,
    /// By arrival.
    pub range: TimeRange,
    /// Only what stands before this position.
    pub before: Option<u64>,
    pub limit: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub struct RefusedPage {
    /// Newest first.
    pub rows: Vec<RefusedRow>,
    /// Where to go on; None when there is nothing more. A page can be short and still have a next one.
    pub next: Option<u64>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct RefusedRow {
    pub position: u64,
    pub box_id: BoxId,
    pub received: Time,
    pub reason: String,
    pub detail: String,
    pub epoch: Option<Epoch>,
    pub sequence: Option<u64>,
    /// Its first bytes; the journal has the rest.
    pub body: Vec<u8>,
    pub body_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedCount {
    pub box_id: BoxId,
    pub reason: String,
    pub count: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct BoxRow {
    pub box_id: BoxId,
    /// When the hub last took something from it.
    pub last_seen: Time,
    /// Newest first.
    pub epochs: Vec<EpochRow>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct EpochRow {
    pub epoch: Epoch,
    pub last_seen: Time,
    /// Highest sequence that came.
    pub upto: u64,
    /// How many sequences below it did not come.
    pub missing: u64,
    pub refused: u64,
    pub conflicts: u64,
}

/// A clock correction, as far as placing needs it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Correction {
    /// None: all devices of the box.
    pub device: Option<DeviceId>,
    pub from: Time,
    pub upto: Time,
    pub correction_ms: i64,
    pub uncertainty_ms: u64,
}

/// Where something recorded at `start` to `end` stands in time. `corrections` are those of its box,
/// oldest first; the newest that fits wins.
pub fn place_in_time(
    start: Time,
    end: Time,
    device: Option<&DeviceId>,
    corrections: &[Correction],
    received: Time,
) -> (Time, Time, Basis) {
    let fits = |c: &&Correction| {
        (c.from..=c.upto).contains(&start) && c.device.as_ref().is_none_or(|d| Some(d) == device)
    };
    if let Some(c) = corrections.iter().rev().find(fits) {
        let shift = SignedDuration::from_millis(c.correction_ms);
        if let (Ok(start), Ok(end)) = (start.checked_add(shift), end.checked_add(shift))
            && is_plausible_span(start, end, received)
        {
            let (correction_ms, uncertainty_ms) = (c.correction_ms, c.uncertainty_ms);
            return (start, end, Basis::Corrected { correction_ms, uncertainty_ms });
        }
    }
    if is_plausible_span(start, end, received) {
        return (start, end, Basis::Recorded);
    }
    let length = end.duration_since(start);
    let length = if (SignedDuration::ZERO..=ARRIVAL_SPAN_MAX).contains(&length) {
        length
    } else {
        SignedDuration::ZERO
    };
    (received.checked_sub(length).unwrap_or(received), received, Basis::Arrival)
}

/// What stands by its arrival reaches back at most this long.
const ARRIVAL_SPAN_MAX: SignedDuration = SignedDuration::from_hours(24);

/// Whether something may have happened then, as it arrived at `received`.
pub fn is_plausible(time: Time, received: Time) -> bool {
    is_plausible_span(time, time, received)
}

fn is_plausible_span(start: Time, end: Time, received: Time) -> bool {
    static EARLIEST: LazyLock<Time> =
        LazyLock::new(|| limits::TIME_EARLIEST.parse().expect("the limit is a time"));
    let ahead = SignedDuration::try_from(limits::TIME_AHEAD_MAX).expect("a day fits");
    let latest = received.checked_add(ahead).unwrap_or(received);
    start >= *EARLIEST && start <= end && end <= latest
}

/// How far before and behind its times something may lie, microseconds: what its clock leaves open, within a limit.
pub fn uncertain_us(uncertainty_ms: Option<u64>) -> i64 {
    let most = limits::SEARCH_UNCERTAINTY_MAX.as_millis() as u64;
    uncertainty_ms.unwrap_or(0).min(most) as i64 * 1000
}

/// The quality of a clock, once the hub knows how the row was placed.
pub fn clock_as_placed(clock: ClockQuality, basis: Basis) -> ClockQuality {
    match basis {
        Basis::Recorded => clock,
        Basis::Arrival => ClockQuality { sync: SyncState::Unsynced, ..clock },
        Basis::Corrected { uncertainty_ms, .. } => {
            ClockQuality { uncertainty_ms: Some(uncertainty_ms), ..clock }
        }
    }
}

/// Lays spans out in time so that none overlaps another. Where a box's reports contradict each other,
/// recorded stands before a gap (there is footage to look at), and what began first stands before what
/// began later.
pub fn lay_out(spans: Vec<CoverageSpan>) -> Vec<CoverageSpan> {
    let (mut recorded, mut gaps): (Vec<_>, Vec<_>) =
        spans.into_iter().partition(|span| span.state == SpanState::Recorded);
    let by_time = |span: &CoverageSpan| (span.start, span.end, span.span);
    recorded.sort_by_key(by_time);
    gaps.sort_by_key(by_time);
    let recorded = clip_in_order(recorded);
    let mut all = clip_in_order(subtract(gaps, &recorded));
    all.extend(recorded);
    all.sort_by_key(by_time);
    all
}

/// Cuts from each span what an earlier one already covers.
fn clip_in_order(spans: Vec<CoverageSpan>) -> Vec<CoverageSpan> {
    let mut clipped: Vec<CoverageSpan> = Vec::with_capacity(spans.len());
    for mut span in spans {
        if let Some(last) = clipped.last() {
            span.start = span.start.max(last.end);
        }
        if span.start < span.end {
            clipped.push(span);
        }
    }
    clipped
}

/// `spans` without the times of `taken`; both are by time, `taken` without overlap.
fn subtract(spans: Vec<CoverageSpan>, taken: &[CoverageSpan]) -> Vec<CoverageSpan> {
    let mut rest = Vec::new();
    for span in spans {
        let first = taken.partition_point(|t| t.end <= span.start);
        let mut start = span.start;
        for t in taken[first..].iter().take_while(|t| t.start < span.end) {
            if start < t.start {
                rest.push(CoverageSpan { start, end: t.start, open: false, ..span.clone() });
            }
            start = start.max(t.end);
        }
        if start < span.end {
            rest.push(CoverageSpan { start, ..span });
        }
    }
    rest.sort_by_key(|span| (span.start, span.end, span.span));
    rest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::GapCause;

    fn at(second: i64) -> Time {
        Time::from_second(1_700_000_000 + second).unwrap()
    }

    proptest! {
        #[test]
        fn laid_out_spans_never_overlap_and_lose_no_second(
            spans in prop::collection::vec((0i64..100, 1i64..30, any::<bool>()), 0..20)
        ) {
            let spans: Vec<CoverageSpan> = spans.iter().map(|&(start, length, is_recorded)| CoverageSpan {
                span: Some(Uuid::new_v4()),
                state: if is_recorded { SpanState::Recorded } else { SpanState::Gap { cause: GapCause::BoxOff } },
                start: at(start),
                end: at(start + length),
                open: false,
                merkle_root: None,
            }).collect();
            let laid = lay_out(spans.clone());
            for pair in laid.windows(2) {
                prop_assert!(pair[0].end <= pair[1].start);
            }
            for second in 0..130 {
                let inside = |s: &&CoverageSpan| s.start <= at(second) && at(second) < s.end;
                let told: Vec<SpanState> = laid.iter().filter(inside).map(|s| s.state).collect();
                let claims: Vec<SpanState> = spans.iter().filter(inside).map(|s| s.state).collect();
                prop_assert_eq!(told.is_empty(), claims.is_empty());
                if claims.contains(&SpanState::Recorded) {
                    prop_assert_eq!(told[0], SpanState::Recorded);
                }
            }
        }
    }

    #[test]
    fn times_are_placed_by_recording_correction_or_arrival() {
        let received = at(0);
        let secs = SignedDuration::from_secs;
        let camera = DeviceId::new("cam-01").unwrap();
        let other = DeviceId::new("cam-02").unwrap();
        let old = Time::from_second(100).unwrap();
        let correction = |device: Option<&DeviceId>, from: Time, ms: i64| Correction {
            device: device.cloned(),
            from,
            upto: from + secs(1000),
            correction_ms: ms,
            uncertainty_ms: 7,
        };
        let corrected = |correction_ms| Basis::Corrected { correction_ms, uncertainty_ms: 7 };
        let table: Vec<(Time, Vec<Correction>, Time, Basis)> = vec![
            (at(-60), vec![], at(-60), Basis::Recorded),
            (old, vec![], at(-10), Basis::Arrival),
            (at(200_000), vec![], at(-10), Basis::Arrival),
            (at(-60), vec![correction(None, at(-100), 5000)], at(-55), corrected(5000)),
            (at(-60), vec![correction(Some(&camera), at(-100), 5000)], at(-55), corrected(5000)),
            (at(-60), vec![correction(Some(&other), at(-100), 5000)], at(-60), Basis::Recorded),
            (
                at(-60),
                vec![correction(None, at(-100), 1), correction(None, at(-100), -1000)],
                at(-61),
                corrected(-1000),
            ),
            (
                old,
                vec![correction(None, Time::UNIX_EPOCH, 1_699_999_000_000)],
                at(-900),
                corrected(1_699_999_000_000),
            ),
        ];
        for (start, corrections, expected, basis) in table {
            let end = start + secs(10);
            let placed = place_in_time(start, end, Some(&camera), &corrections, received);
            assert_eq!(placed, (expected, expected + secs(10), basis), "{start} {corrections:?}");
        }
    }
}
