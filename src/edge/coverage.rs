//! The account of one camera's time (độ phủ): recorded or gap, without hole or overlap.
//!
//! Owns the decision what is reported and when. May not do I/O or read a clock: times come in, reports
//! go out, and the caller makes them durable and sends them.
//!
//! **The rule.** Each span begins where the one before it ended, to the nanosecond; time that is
//! accounted for is never accounted for again. An open gap may have been reported as reaching to now;
//! the report that ends it says where it truly ended, and replaces the earlier ones.

use jiff::SignedDuration;
use uuid::Uuid;

use crate::limits::{COVERAGE_HEARTBEAT, COVERAGE_HEARTBEAT_FIRST, COVERAGE_SEAM_MAX};
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
    /// in which the box was off, then the camera is unreachable until its first picture.
    pub fn boot(&mut self, reports: &[Coverage], last_run: Option<Recorded>, now: Time) -> Vec<Coverage> {
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
            out.push(ended_gap(from, now, GapCause::BoxOff, Some(detail)));
            self.accounted = Some(now);
        }
        let detail = "no picture since the start".to_owned();
        out.extend(self.gap(GapCause::CameraUnreachable, Some(detail), now));
        out
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
        out.push(coverage.clone());
        self.open = Some(Span { coverage, due: after(now, COVERAGE_HEARTBEAT_FIRST), heartbeats: 0 });
        out
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
        let mut out = t.boot(&[], None, at(0));
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
        let mut out = t.boot(&[], None, at(0));
        out.extend(t.recorded(run(1, 1_000, 3_000), at(3_000)));
        let known = account(&out);
        let again = Tracker::default().boot(&known, Some(run(1, 1_000, 9_000)), at(60_000));
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
        t.boot(&[], None, at(0));
        let beats: Vec<i64> =
            (0..1_000_000).step_by(1_000).filter(|&ms| !t.tick(at(ms)).is_empty()).collect();
        assert_eq!(beats, [5_000, 305_000, 605_000, 905_000]);
    }

    #[test]
    fn a_gap_that_goes_on_tells_its_newest_reason() {
        let mut t = Tracker::default();
        t.boot(&[], None, at(0));
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
            let mut out = t.boot(&[], None, at(0));
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
                        out.extend(t.boot(&tail, ring, at(now)));
                        last = None;
                    }
                }
                check_whole(&out);
            }
        }
    }
}
