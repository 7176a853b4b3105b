//! The account of one camera's time (độ phủ): recorded or gap, without hole or overlap.
//!
//! Owns the decision what is reported and when. May not do I/O or read a clock: times come in, reports
//! go out, and the caller makes them durable and sends them.
//!
//! **The rule.** Each span begins where the one before it ended, to the nanosecond; time that is
//! accounted for is never accounted for again. An open gap may have been reported as reaching to now;
//! the report that ends it says where it truly ended, and replaces the earlier ones.
//!
//! **When the box's clock is set** the rule holds in true time. The span of the old clock ends by the old clock, the next
//! begins by the new one, and no time passed between: only a correction of the old clock (see [`super::clock`]) tells
//! where the first stands, so the account remembers which spans it would be about. Until then a clock that was set
//! forward leaves a gap of cause `clock_unsure`.

use std::collections::VecDeque;
use std::sync::LazyLock;

use jiff::SignedDuration;
use uuid::Uuid;

use super::ring::EraSpans;
use crate::limits::{
    CLOCK_BEHIND_ACCOUNT_MAX, CLOCK_ERAS_MAX, COVERAGE_HEARTBEAT, COVERAGE_HEARTBEAT_FIRST,
    COVERAGE_SEAM_MAX, TIME_EARLIEST,
};
use crate::model::{Coverage, GapCause, RunCommitment, SpanState, Time};

/// How far a run is recorded, durably.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recorded {
    pub run: Uuid,
    pub start: Time,
    pub end: Time,
    pub commitment: RunCommitment,
}

/// The tracker of one camera.
#[derive(Debug, Default)]
pub struct Tracker {
    open: Option<Span>,
    /// Where the next span begins if none is open.
    accounted: Option<Time>,
    ring_from: Option<Time>,
    /// The era of the box's clock, if that is not known to be right.
    era: Option<Uuid>,
    /// The open run's times are the box's, not the camera's.
    is_run_by_box: bool,
    /// What a correction would be about, oldest first.
    eras: VecDeque<EraSpans>,
    /// The gap that stands where the clock was set forward, by the era that ended there.
    leaps: VecDeque<(Uuid, Coverage)>,
}

#[derive(Debug, Clone)]
struct Span {
    coverage: Coverage,
    /// When the next heartbeat is due, by the caller's clock.
    due: Time,
    heartbeats: u32,
}

impl Tracker {
    /// Takes up the account after a start. `reports` are the last ones made before, oldest first, and
    /// `last_run` what the ring truly has of its last run. They are all reported again, then the time
    /// in which the box was off, then `failed`, if something kept it from beginning at `now`, and then
    /// [`Tracker::not_yet_connected`].
    pub fn boot(
        &mut self,
        reports: &[Coverage],
        last_run: Option<Recorded>,
        now: Time,
        failed: Option<(GapCause, String)>,
    ) -> Vec<Coverage> {
        let mut out = Vec::new();
        for report in reports {
            let mut report = report.clone();
            if report.open {
                close_after_restart(&mut report, last_run);
            }
            self.accounted = Some(report.upto);
            out.push(report);
        }
        if let Some(run) = last_run.filter(|run| reports.iter().all(|r| r.span != run.run)) {
            out.extend(self.run_never_reported(run));
        }
        if let Some(from) = self.accounted.filter(|&from| from < now) {
            let detail = "the process was not running".to_owned();
            let off = ended_gap(from, now, GapCause::BoxOff, Some(detail));
            // Only if the era began before this start: else the gap begins by another clock.
            self.mark(off.span, from);
            out.push(off);
            self.accounted = Some(now);
        }
        let behind = self.accounted.map_or(SignedDuration::ZERO, |upto| upto.duration_since(now));
        if behind > signed(CLOCK_BEHIND_ACCOUNT_MAX) {
            // One of the two clocks was wrong; where this one's time belongs, a correction must tell.
            self.accounted = Some(now);
        }
        if let Some(era) = self.era.filter(|_| self.of_era(self.era).is_none()) {
            self.begin_era(era, out.last().cloned());
        }
        if let Some((cause, detail)) = failed {
            out.extend(self.gap(cause, Some(detail), now));
        }
        out
    }

    /// The camera is unreachable until its first picture.
    pub fn not_yet_connected(&mut self, now: Time) -> Vec<Coverage> {
        self.gap(GapCause::CameraUnreachable, Some("no picture since the start".to_owned()), now)
    }

    /// A run reaches to `recorded.end`, durably.
    pub fn recorded(&mut self, recorded: Recorded, now: Time) -> Vec<Coverage> {
        if let Some(open) = self.open.as_mut().filter(|open| open.coverage.span == recorded.run) {
            open.coverage.upto = recorded.end.max(open.coverage.upto);
            open.coverage.run = Some(recorded.commitment);
            return Vec::new();
        }
        let mut out = Vec::new();
        let start = self.end_open_at(recorded.start, &mut out);
        if self.is_run_by_box {
            self.mark(recorded.run, start);
        }
        let coverage = Coverage {
            span: recorded.run,
            state: SpanState::Recorded,
            start,
            upto: recorded.end.max(start),
            open: true,
            run: Some(recorded.commitment),
            ring_from: self.ring_from,
            detail: None,
        };
        out.push(coverage.clone());
        self.open = Some(Span { coverage, due: after(now, COVERAGE_HEARTBEAT_FIRST), heartbeats: 0 });
        out
    }

    /// The open run has ended; what follows is not yet known. Without a follower the account stands
    /// still, so a run or a gap must come next.
    pub fn run_ended(&mut self, ended: Option<Recorded>) -> Vec<Coverage> {
        let is_run = |s: &mut Span| s.coverage.state == SpanState::Recorded;
        let Some(mut open) = self.open.take_if(is_run) else { return Vec::new() };
        if let Some(ended) = ended.filter(|e| e.run == open.coverage.span) {
            open.coverage.upto = ended.end.max(open.coverage.upto);
            open.coverage.run = Some(ended.commitment);
        }
        open.coverage.open = false;
        self.accounted = Some(open.coverage.upto);
        vec![open.coverage]
    }

    /// The camera does not record. A gap begins where the account ends, not when it is noticed.
    pub fn gap(&mut self, cause: GapCause, detail: Option<String>, now: Time) -> Vec<Coverage> {
        let mut out = Vec::new();
        if let Some(open) = &mut self.open {
            if open.coverage.state == (SpanState::Gap { cause }) {
                // What is known of it now; the next heartbeat tells it.
                open.coverage.detail = detail.or(open.coverage.detail.take());
                return out;
            }
            let end = match open.coverage.state {
                SpanState::Recorded => open.coverage.upto,
                SpanState::Gap { .. } => now.max(open.coverage.start),
            };
            let mut ended = self.open.take().expect("it is open").coverage;
            (ended.upto, ended.open) = (end, false);
            self.accounted = Some(end);
            out.push(ended);
        }
        let start = self.accounted.unwrap_or(now);
        let coverage = Coverage {
            span: Uuid::now_v7(),
            state: SpanState::Gap { cause },
            start,
            upto: now.max(start),
            open: true,
            run: None,
            ring_from: self.ring_from,
            detail,
        };
        self.mark(coverage.span, start);
        out.push(coverage.clone());
        self.open = Some(Span { coverage, due: after(now, COVERAGE_HEARTBEAT_FIRST), heartbeats: 0 });
        out
    }

    /// Before [`Tracker::boot`]: the era of the box's clock, unless that is known to be right, and what was remembered
    /// of eras before the start.
    pub fn clock(&mut self, era: Option<Uuid>, remembered: VecDeque<EraSpans>) {
        (self.era, self.eras) = (era, remembered);
    }

    /// The run that begins has the box's times, or the camera's.
    pub fn run_begins(&mut self, is_by_box: bool) {
        self.is_run_by_box = is_by_box;
    }

    /// Something better holds the clock now, and it was right.
    pub fn clock_is_sure(&mut self) {
        if let Some(era) = self.era.take() {
            self.eras.retain(|known| known.era != era);
        }
    }

    /// The era of the clock in which a span was opened, if a correction may come.
    pub fn era_of(&self, span: Uuid) -> Option<Uuid> {
        let has = |known: &&EraSpans| known.spans.iter().rev().any(|&marked| marked == span);
        self.eras.iter().rev().find(has).map(|known| known.era)
    }

    /// The clock was set: it shows `now`, which is `step` more than it would. No run may be open. `era`: as in
    /// [`Tracker::clock`].
    pub fn clock_was_set(&mut self, step: SignedDuration, era: Option<Uuid>, now: Time) -> Vec<Coverage> {
        let mut out = Vec::new();
        let mut goes_on = (GapCause::ClockUnsure, Some("the clock was set".to_owned()));
        if let Some(Span { mut coverage, .. }) = self.open.take() {
            let was = now.checked_sub(step).unwrap_or(now);
            if let SpanState::Gap { cause } = coverage.state {
                coverage.upto = was.max(coverage.start);
                goes_on = (cause, coverage.detail.clone());
            }
            coverage.open = false;
            self.accounted = Some(coverage.upto);
            out.push(coverage);
        }
        let left = self.era.take();
        if let Some(from) = self.accounted {
            let to = from.checked_add(step).unwrap_or(from);
            if step > SignedDuration::ZERO && from >= *EARLIEST {
                let detail = "the clock was set forward".to_owned();
                let leap = ended_gap(from, to, GapCause::ClockUnsure, Some(detail));
                if let Some(era) = left {
                    self.leaps.push_back((era, leap.clone()));
                    if self.leaps.len() > CLOCK_ERAS_MAX {
                        self.leaps.pop_front();
                    }
                }
                out.push(leap);
            }
            self.accounted = Some(to);
        }
        self.era = era;
        if let Some(era) = era {
            self.begin_era(era, None);
        }
        out.extend(self.gap(goes_on.0, goes_on.1, now));
        out
    }

    /// The clock was off by `correction` in `era`. What is to be reported beside it, and the spans that it is about; none
    /// if there are none of them.
    pub fn corrected(&mut self, era: Uuid, correction: SignedDuration) -> Option<(Vec<Coverage>, Vec<Uuid>)> {
        let at = self.eras.iter().position(|known| known.era == era)?;
        let EraSpans { before, from, spans, .. } = self.eras.remove(at)?;
        let mut out = Vec::new();
        // In true time nothing lies between that era and the next.
        if let Some(at) = self.leaps.iter().position(|(left, _)| *left == era) {
            let (_, leap) = self.leaps.remove(at)?;
            out.push(Coverage { upto: leap.start, ..leap });
        }
        let begun = from.and_then(|from| from.checked_add(correction).ok());
        if let (Some(before), Some(begun)) = (before, begun) {
            let is_off = before.cause() == Some(GapCause::BoxOff) && Some(before.upto) == from;
            if is_off {
                out.push(Coverage { upto: begun.max(before.start), ..before });
            } else if begun > before.upto {
                let detail = "the process was not running".to_owned();
                out.push(ended_gap(before.upto, begun, GapCause::BoxOff, Some(detail)));
            }
        }
        (!spans.is_empty()).then(|| (out, spans.into()))
    }

    fn of_era(&self, era: Option<Uuid>) -> Option<&EraSpans> {
        self.eras.iter().find(|known| Some(known.era) == era)
    }

    fn begin_era(&mut self, era: Uuid, before: Option<Coverage>) {
        self.eras.push_back(EraSpans::new(era, before));
        if self.eras.len() > CLOCK_ERAS_MAX {
            self.eras.pop_front();
        }
    }

    /// Remembers a span that opens now.
    fn mark(&mut self, span: Uuid, start: Time) {
        if let Some(known) = self.eras.iter_mut().find(|known| Some(known.era) == self.era) {
            known.from.get_or_insert(start);
            known.add(span);
        }
    }

    /// Reports the open span if its heartbeat is due.
    pub fn tick(&mut self, now: Time) -> Vec<Coverage> {
        let ring_from = self.ring_from;
        let Some(open) = &mut self.open else { return Vec::new() };
        // A clock that jumped back must not silence the heartbeat for long.
        let waits = open.due > now && open.due < after(now, COVERAGE_HEARTBEAT * 2);
        if waits {
            return Vec::new();
        }
        if open.coverage.state != SpanState::Recorded {
            open.coverage.upto = now.max(open.coverage.upto);
        }
        open.coverage.ring_from = ring_from;
        open.due = after(now, COVERAGE_HEARTBEAT);
        open.heartbeats += 1;
        vec![open.coverage.clone()]
    }

    /// The oldest moment that the ring still holds; goes with the next report.
    pub fn ring_from(&mut self, from: Option<Time>) {
        self.ring_from = from;
    }

    /// Ends what is open for a run that starts at `start`, fills what lies between, and returns where
    /// the run's span begins.
    fn end_open_at(&mut self, start: Time, out: &mut Vec<Coverage>) -> Time {
        if let Some(Span { mut coverage, .. }) = self.open.take() {
            if coverage.state != SpanState::Recorded {
                coverage.upto = start.max(coverage.start);
            }
            coverage.open = false;
            self.accounted = Some(coverage.upto);
            out.push(coverage);
        }
        let Some(accounted) = self.accounted else { return start };
        if start.duration_since(accounted) > signed(COVERAGE_SEAM_MAX) {
            let detail = "the clock of the pictures jumped".to_owned();
            out.push(ended_gap(accounted, start, GapCause::ClockUnsure, Some(detail)));
            return start;
        }
        accounted
    }

    /// The box died between the first pictures of a run and their report.
    fn run_never_reported(&mut self, run: Recorded) -> Vec<Coverage> {
        let mut out = Vec::new();
        if self.accounted.is_some_and(|upto| run.end <= upto) {
            return out;
        }
        // A gap that was open when the run began was taken to end at its last heartbeat.
        let start = self.end_open_at(run.start, &mut out);
        out.push(Coverage {
            span: run.run,
            state: SpanState::Recorded,
            start,
            upto: run.end.max(start),
            open: false,
            run: Some(run.commitment),
            ring_from: self.ring_from,
            detail: None,
        });
        self.accounted = Some(run.end.max(start));
        out
    }
}

fn close_after_restart(report: &mut Coverage, last_run: Option<Recorded>) {
    report.open = false;
    if let Some(run) = last_run.filter(|run| run.run == report.span) {
        report.upto = run.end.max(report.start);
        report.run = Some(run.commitment);
    }
}

static EARLIEST: LazyLock<Time> = LazyLock::new(|| TIME_EARLIEST.parse().expect("the limit is a time"));

fn ended_gap(start: Time, upto: Time, cause: GapCause, detail: Option<String>) -> Coverage {
    let (span, state) = (Uuid::now_v7(), SpanState::Gap { cause });
    Coverage { span, state, start, upto, open: false, run: None, ring_from: None, detail }
}

fn signed(duration: std::time::Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

fn after(time: Time, duration: std::time::Duration) -> Time {
    time.checked_add(signed(duration)).unwrap_or(Time::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Sha256Hash;

    fn at(ms: i64) -> Time {
        Time::from_millisecond(1_772_000_000_000 + ms).unwrap()
    }

    fn run(n: u128, start: i64, end: i64) -> Recorded {
        let commitment = RunCommitment { fragments: 1, merkle_root: Sha256Hash::of(b"") };
        Recorded { run: Uuid::from_u128(n), start: at(start), end: at(end), commitment }
    }

    /// A start whose ring opens at once.
    fn boot(t: &mut Tracker, reports: &[Coverage], last_run: Option<Recorded>, now: i64) -> Vec<Coverage> {
        let mut out = t.boot(reports, last_run, at(now), None);
        out.extend(t.not_yet_connected(at(now)));
        out
    }

    /// The account as a hub has it: the latest report of each span, in the order of their opening.
    fn account(reports: &[Coverage]) -> Vec<Coverage> {
        let mut spans: Vec<Coverage> = Vec::new();
        for report in reports {
            match spans.iter_mut().find(|s| s.span == report.span) {
                Some(span) => {
                    assert_eq!((span.start, span.state), (report.start, report.state), "a span changed");
                    *span = report.clone();
                }
                None => spans.push(report.clone()),
            }
        }
        spans
    }

    fn check_whole(reports: &[Coverage]) {
        let spans = account(reports);
        for pair in spans.windows(2) {
            assert_eq!(pair[0].upto, pair[1].start, "hole or overlap: {pair:#?}");
            assert!(!pair[0].open, "an open span has a follower: {pair:#?}");
        }
        assert!(spans.iter().all(|s| s.start <= s.upto));
    }

    fn causes(reports: &[Coverage]) -> Vec<(i64, i64, &'static str)> {
        let since = |t: Time| (t.as_millisecond()) - 1_772_000_000_000;
        let name = |s: &Coverage| match s.cause() {
            None => "recorded",
            Some(GapCause::BoxOff) => "box_off",
            Some(GapCause::CameraUnreachable) => "unreachable",
            Some(GapCause::StreamBroken) => "broken",
            Some(GapCause::ClockUnsure) => "clock",
            Some(_) => "other",
        };
        account(reports).iter().map(|s| (since(s.start), since(s.upto), name(s))).collect()
    }

    #[test]
    fn a_day_of_a_camera_is_told_in_order() {
        let mut t = Tracker::default();
        let mut out = boot(&mut t, &[], None, 0);
        out.extend(t.recorded(run(1, 1_500, 3_500), at(3_600)));
        out.extend(t.recorded(run(1, 1_500, 5_500), at(5_600)));
        out.extend(t.run_ended(Some(run(1, 1_500, 6_000))));
        out.extend(t.gap(GapCause::StreamBroken, None, at(16_000)));
        out.extend(t.gap(GapCause::CameraUnreachable, None, at(17_000)));
        out.extend(t.recorded(run(2, 20_000, 22_000), at(22_100)));
        check_whole(&out);
        let expected = [
            (0, 1_500, "unreachable"),
            (1_500, 6_000, "recorded"),
            (6_000, 17_000, "broken"),
            (17_000, 20_000, "unreachable"),
            (20_000, 22_000, "recorded"),
        ];
        assert_eq!(causes(&out), expected);
    }

    #[test]
    fn after_a_kill_the_run_ends_where_the_ring_ends() {
        let mut t = Tracker::default();
        let mut out = boot(&mut t, &[], None, 0);
        out.extend(t.recorded(run(1, 1_000, 3_000), at(3_000)));
        let known = account(&out);
        let again = boot(&mut Tracker::default(), &known, Some(run(1, 1_000, 9_000)), 60_000);
        out.extend(again);
        check_whole(&out);
        let expected = [
            (0, 1_000, "unreachable"),
            (1_000, 9_000, "recorded"),
            (9_000, 60_000, "box_off"),
            (60_000, 60_000, "unreachable"),
        ];
        assert_eq!(causes(&out), expected);
    }

    #[test]
    fn open_spans_are_reported_soon_and_then_slowly() {
        let mut t = Tracker::default();
        boot(&mut t, &[], None, 0);
        let beats: Vec<i64> =
            (0..1_000_000).step_by(1_000).filter(|&ms| !t.tick(at(ms)).is_empty()).collect();
        assert_eq!(beats, [5_000, 305_000, 605_000, 905_000]);
    }

    #[test]
    fn a_gap_that_goes_on_tells_its_newest_reason() {
        let mut t = Tracker::default();
        boot(&mut t, &[], None, 0);
        let unreachable = |why: Option<&str>| (GapCause::CameraUnreachable, why.map(str::to_owned));
        for (gap, told) in [(unreachable(Some("refused")), "refused"), (unreachable(None), "refused")] {
            assert_eq!(t.gap(gap.0, gap.1, at(1_000)), [], "the same gap");
            let beat = t.tick(t.open.as_ref().unwrap().due);
            assert_eq!(beat[0].detail.as_deref(), Some(told));
        }
    }

    #[derive(Debug, Clone)]
    enum Input {
        Recorded { new_run: bool, jump_ms: i64, length_ms: i64 },
        RunEnded,
        Gap(GapCause),
        Tick,
        Restart { lost_ms: i64 },
    }

    fn input() -> impl Strategy<Value = Input> {
        let cause = prop_oneof![Just(GapCause::StreamBroken), Just(GapCause::DiskFull)];
        prop_oneof![
            4 => (any::<bool>(), -8_000i64..8_000, 1i64..4_000)
                .prop_map(|(new_run, jump_ms, length_ms)| Input::Recorded { new_run, jump_ms, length_ms }),
            1 => Just(Input::RunEnded),
            2 => cause.prop_map(Input::Gap),
            2 => Just(Input::Tick),
            1 => (0i64..3_000).prop_map(|lost_ms| Input::Restart { lost_ms }),
        ]
    }

    proptest! {
        #[test]
        fn whatever_happens_the_account_has_no_hole_and_no_overlap(
            inputs in prop::collection::vec((input(), -2_000i64..20_000), 1..60),
        ) {
            let (mut now, mut clock, mut number) = (0, 0, 0u128);
            let mut last: Option<Recorded> = None;
            let mut t = Tracker::default();
            let mut out = boot(&mut t, &[], None, 0);
            for (input, later_ms) in inputs {
                now += later_ms;
                match input {
                    Input::Recorded { new_run, jump_ms, length_ms } => {
                        if new_run || last.is_none() {
                            number += 1;
                            clock = now + jump_ms;
                            last = Some(run(number, clock, clock));
                        }
                        clock += length_ms;
                        let recorded = Recorded { end: at(clock), ..last.expect("set above") };
                        last = Some(recorded);
                        out.extend(t.recorded(recorded, at(now)));
                    }
                    Input::RunEnded => {
                        out.extend(t.run_ended(last));
                        out.extend(t.gap(GapCause::StreamBroken, None, at(now)));
                        last = None;
                    }
                    Input::Gap(cause) => {
                        out.extend(t.gap(cause, None, at(now)));
                        last = None;
                    }
                    Input::Tick => out.extend(t.tick(at(now))),
                    Input::Restart { lost_ms } => {
                        let known = account(&out);
                        let tail = known[known.len().saturating_sub(8)..].to_vec();
                        let ring = last.map(|l| Recorded { end: at((clock - lost_ms).max(0)).max(l.start), ..l });
                        t = Tracker::default();
                        out.extend(boot(&mut t, &tail, ring, now));
                        last = None;
                    }
                }
                check_whole(&out);
            }
        }
    }

    /// A box and its true time, seconds: what it says, and what it says that its clock did.
    struct Box {
        tracker: Tracker,
        reports: Vec<Coverage>,
        now: i64,
        off: i64,
        era: u128,
        is_sure: bool,
        /// Eras of this start that may be corrected: which, and how far they are off.
        wrong: Vec<(u128, i64)>,
        /// By how many seconds which spans are corrected.
        corrected: Vec<(i64, Vec<Uuid>)>,
        runs: u128,
    }

    impl Box {
        fn starts(off: i64, reports: Vec<Coverage>, now: i64, era: u128) -> Self {
            let mut of_box = Self {
                tracker: Tracker::default(),
                reports,
                now,
                off,
                era,
                is_sure: false,
                wrong: vec![(era, off)],
                corrected: vec![],
                runs: era * 1000,
            };
            of_box.tracker.clock(Some(Uuid::from_u128(era)), VecDeque::new());
            let known = account(&of_box.reports);
            let last = &known[known.len().saturating_sub(8)..];
            let shown = of_box.shown();
            let booted = of_box.tracker.boot(last, None, shown, None);
            of_box.reports.extend(booted);
            let waits = of_box.tracker.not_yet_connected(shown);
            of_box.reports.extend(waits);
            of_box
        }

        fn shown(&self) -> Time {
            at((self.now + self.off) * 1000)
        }

        /// The camera sends pictures for so long, by the box's time; then it is lost.
        fn records(&mut self, seconds: i64) {
            self.runs += 1;
            let start = (self.now + self.off) * 1000;
            self.now += seconds;
            let recorded = run(self.runs, start, (self.now + self.off) * 1000);
            self.tracker.run_begins(true);
            let now = self.shown();
            self.reports.extend(self.tracker.recorded(recorded, now));
            self.reports.extend(self.tracker.run_ended(Some(recorded)));
            self.reports.extend(self.tracker.gap(GapCause::StreamBroken, None, now));
            self.now += 3;
        }

        fn is_set(&mut self, off: i64, is_sure: bool) {
            let step = SignedDuration::from_secs(off - self.off);
            self.off = off;
            (self.era, self.is_sure) = (self.era + 1, is_sure);
            let era = (!is_sure).then(|| Uuid::from_u128(self.era));
            let now = self.shown();
            self.reports.extend(self.tracker.clock_was_set(step, era, now));
            if is_sure {
                for (era, was_off) in std::mem::take(&mut self.wrong) {
                    let by = SignedDuration::from_secs(off - was_off);
                    let Some((reports, spans)) = self.tracker.corrected(Uuid::from_u128(era), by) else {
                        continue;
                    };
                    self.reports.extend(reports);
                    self.corrected.push((off - was_off, spans));
                }
            } else {
                self.wrong.push((self.era, off));
            }
        }

        /// The account in true time.
        fn true_account(&self) -> Vec<Coverage> {
            let mut spans = account(&self.reports);
            for span in &mut spans {
                let by: i64 =
                    self.corrected.iter().filter(|(_, of)| of.contains(&span.span)).map(|(by, _)| by).sum();
                let by = SignedDuration::from_secs(by);
                (span.start, span.upto) = (span.start + by, span.upto + by);
            }
            spans.retain(|span| span.start < span.upto);
            spans.sort_by_key(|span| span.start);
            spans
        }

        fn check(&self, from: i64) {
            let spans = self.true_account();
            for pair in spans.windows(2) {
                assert_eq!(pair[0].upto, pair[1].start, "hole or overlap: {spans:#?}");
            }
            let (first, last) = (spans.first().unwrap(), spans.last().unwrap());
            assert_eq!(first.start, at(from * 1000));
            assert!(last.upto >= at((self.now - 10) * 1000), "{last:?}");
        }
    }

    const FROM_1970: i64 = -1_772_000_000 + 20;

    #[test]
    fn whatever_the_clock_did_the_account_is_whole_in_true_time_once_it_is_right() {
        // Off at the start, then set to be off by so much after a recording, at last right.
        let cases: [(&str, i64, &[i64]); 7] = [
            ("began in 1970", FROM_1970, &[]),
            ("began where it had stopped", -4000, &[]),
            ("an hour ahead", 3600, &[]),
            ("three seconds behind", -3, &[]),
            ("1970, and then guessed twice", FROM_1970, &[-5000, 700]),
            ("ahead, behind, ahead", 500, &[-500, 900, -1]),
            ("right, then wrong", 0, &[7200]),
        ];
        for (name, off, then) in cases {
            // A good day before, then the power is gone for an hour.
            let mut before = Box::starts(0, vec![], 0, 1);
            before.tracker.clock_is_sure();
            before.records(600);
            let reports = before.reports;
            let mut of_box = Box::starts(off, reports, 4203, 10);
            of_box.records(60);
            for &off in then {
                of_box.is_set(off, false);
                of_box.records(60);
                of_box.records(30);
            }
            of_box.is_set(0, true);
            of_box.records(60);
            of_box.check(0);
            let off_s: i64 = of_box
                .true_account()
                .iter()
                .filter(|span| span.cause() == Some(GapCause::BoxOff))
                .map(|span| span.upto.duration_since(span.start).as_secs())
                .sum();
            // From the last word of the day before to the start, whatever the clock showed.
            assert_eq!(off_s, 3603, "{name}: {:?}", causes(&of_box.reports));
            let recorded = of_box.true_account().iter().filter(|span| span.cause().is_none()).count();
            assert_eq!(recorded, 3 + 2 * then.len(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn a_clock_that_is_set_again_and_again_leaves_no_hole(
            off in -9_000i64..9_000,
            sets in prop::collection::vec((-9_000i64..9_000, 1i64..100), 0..8),
        ) {
            let mut of_box = Box::starts(off, vec![], 0, 1);
            of_box.records(20);
            for (off, seconds) in sets {
                of_box.is_set(off, false);
                of_box.records(seconds);
            }
            of_box.is_set(0, true);
            of_box.records(20);
            of_box.check(0);
        }
    }
}
