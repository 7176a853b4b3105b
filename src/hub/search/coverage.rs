//! The account of one camera for the windows of a question.
//!
//! Owns what is told of it beside its clips. Every second of the windows, while the camera stood there, is recorded or a
//! gap with its cause.

use std::collections::HashMap;

use jiff::SignedDuration;

use super::account::fill;
use super::answer::{
    BoxSpanView, CameraCoverage, FetchView, NameView, SeesView, SpanView, point_view, site_view, span_view,
    view_view,
};
use super::cameras::Found;
use super::lamps::{LampWords, Lamps};
use super::{Search, SearchError, devices_of, round};
use crate::hub::access::Pass;
use crate::hub::catalog::{ClipQuery, ClipRow, Order, TimeRange};
use crate::hub::registry::Placement;
use crate::limits::{COVERAGE_HEARTBEAT, PAGE_CLIPS_MAX, SEARCH_SPANS_MAX, SEARCH_STORED_CLIPS_MAX};
use crate::model::{CoverageSpan, DeviceId, Time};

impl Search {
    /// Fills every second of the camera's time in the windows: where its box was the last to speak and may
    /// still be heard, its last word holds unconfirmed; what else no report covers is not yet reported.
    pub(super) fn coverage(
        &self,
        found: &Found,
        beside: &Beside,
        windows: &[TimeRange],
        now: Time,
    ) -> Result<CameraCoverage, SearchError> {
        let placement = &found.stand.placement;
        let windows = windows_there(placement, windows, now);
        let spans = self.spans_there(placement, &windows, now)?;
        let sum = |wanted: &dyn Fn(&SpanView) -> bool| {
            let seconds = |s: &SpanView| s.end.duration_since(s.start).as_secs_f64();
            // The sum of nothing would be -0.
            round(spans.iter().filter(|s| wanted(s)).map(seconds).fold(0.0, |a, b| a + b), 3)
        };
        let (at_box, at_box_truncated) = beside.stored.at_box(&placement.device.id, &spans);
        Ok(CameraCoverage {
            device: NameView { id: placement.device.id.to_string(), name: placement.device.name.clone() },
            site: site_view(placement),
            point: point_view(placement),
            distance_m: found.shown_distance_m(),
            bearing_deg: found.shown_bearing_deg(),
            view: view_view(placement),
            sees: found.sight.map(SeesView::from),
            recorded_s: sum(&|s| s.confirmed && s.cause.is_none()),
            gap_s: sum(&|s| s.confirmed && s.cause.is_some()),
            unconfirmed_s: sum(&|s| !s.confirmed),
            truncated: spans.len() > SEARCH_SPANS_MAX,
            spans: spans.into_iter().take(SEARCH_SPANS_MAX).collect(),
            at_box,
            at_box_truncated,
            fetch: FetchView::not_yet(),
            lamps: beside.words.near(placement.site.point, beside.lamps, &windows),
        })
    }

    /// The account of one camera for the windows, as far as it stood where it was found.
    pub(super) fn spans(
        &self,
        _pass: &Pass,
        found: &Found,
        windows: &[TimeRange],
        now: Time,
    ) -> Result<Vec<SpanView>, SearchError> {
        let placement = &found.stand.placement;
        self.spans_there(placement, &windows_there(placement, windows, now), now)
    }

    fn spans_there(
        &self,
        placement: &Placement,
        windows: &[TimeRange],
        now: Time,
    ) -> Result<Vec<SpanView>, SearchError> {
        let (spans, tail_from) = self.account(placement, windows, now)?;
        let is_confirmed = |span: &CoverageSpan| tail_from.is_none_or(|tail_from| span.start < tail_from);
        Ok(spans.iter().map(|span| span_view(span, is_confirmed(span))).collect())
    }

    /// Reads what the account tells beside the spans, for all cameras at once.
    pub(super) fn beside<'a>(
        &self,
        found: &[Found],
        lamps: &'a Lamps,
        windows: &[TimeRange],
    ) -> Result<Beside<'a>, SearchError> {
        let (Some(first), Some(last)) = (windows.first(), windows.last()) else {
            return Ok(Beside { stored: Stored::default(), words: LampWords::default(), lamps });
        };
        let range = TimeRange { from: first.from, to: last.to };
        let (stored, words) = (self.stored(found, windows)?, self.lamp_words(found, lamps, range)?);
        Ok(Beside { stored, words, lamps })
    }

    /// What of the windows the hub has as clips, oldest first, as many as one answer may read.
    fn stored(&self, found: &[Found], windows: &[TimeRange]) -> Result<Stored, SearchError> {
        let mut stored = Stored::default();
        let mut query = ClipQuery {
            devices: devices_of(found).into_iter().cloned().collect(),
            ranges: windows.to_vec(),
            order: Order::Oldest,
            after: None,
            limit: PAGE_CLIPS_MAX,
        };
        let mut left = SEARCH_STORED_CLIPS_MAX;
        loop {
            let rows = self.catalog.clips(&query)?;
            let is_last = rows.len() < query.limit;
            query.after = rows.last().map(ClipRow::key);
            left = left.saturating_sub(rows.len());
            if left == 0 && !is_last {
                stored.known_to = rows.last().map(|row| row.start);
            }
            for row in rows.into_iter().filter(|row| row.stored) {
                stored.spans.entry(row.device).or_default().push((row.start, row.end));
            }
            if is_last || left == 0 {
                return Ok(stored);
            }
        }
    }

    /// The account of the windows without a hole, and from where on it is the box's last word only.
    fn account(
        &self,
        placement: &Placement,
        windows: &[TimeRange],
        now: Time,
    ) -> Result<(Vec<CoverageSpan>, Option<Time>), SearchError> {
        let (Some(first), Some(last)) = (windows.first(), windows.last()) else {
            return Ok((Vec::new(), None));
        };
        let window = TimeRange { from: first.from, to: last.to };
        let trusted_for = SignedDuration::try_from(COVERAGE_HEARTBEAT * 2).expect("minutes fit");
        let trusted_from = now.checked_sub(trusted_for).unwrap_or(Time::MIN);
        // A window in the present asks for more than itself: an open span may go on within it, though its
        // last word lies before it; or may have ended, which a word behind the window says.
        let asked = match window.to > trusted_from {
            true => TimeRange { from: window.from.min(trusted_from), to: now },
            false => window,
        };
        let devices = std::slice::from_ref(&placement.device.id);
        let mut known = self.catalog.coverage(devices, asked)?.pop().unwrap_or_default();
        let tail = known
            .last()
            .filter(|last| last.open && last.end > trusted_from && last.end < window.to)
            .filter(|_| !(self.is_offline)(&placement.device.box_id))
            .map(|last| CoverageSpan { start: last.end, end: window.to, merkle_root: None, ..last.clone() });
        let tail_from = tail.as_ref().map(|tail| tail.start);
        known.extend(tail);
        let mut spans = Vec::new();
        for window in windows {
            let begin = known.partition_point(|span| span.end <= window.from);
            let those = known[begin..].iter().take_while(|span| span.start < window.to);
            spans.extend(fill(those.cloned().collect(), window.from, window.to));
        }
        Ok((spans, tail_from))
    }
}

/// What the account tells beside the spans.
pub struct Beside<'a> {
    stored: Stored,
    words: LampWords,
    lamps: &'a Lamps,
}

/// What the hub has of each camera, by start.
#[derive(Default)]
struct Stored {
    spans: HashMap<DeviceId, Vec<(Time, Time)>>,
    /// Clips that begin later were not read.
    known_to: Option<Time>,
}

/// Less than this beside a clip is its seam, nothing to fetch.
const SEAM: SignedDuration = SignedDuration::from_secs(1);

impl Stored {
    /// The recorded spans without what the hub has; and whether that is not all of them.
    fn at_box(&self, device: &DeviceId, spans: &[SpanView]) -> (Vec<BoxSpanView>, bool) {
        let none = Vec::new();
        let stored = self.spans.get(device).unwrap_or(&none);
        let known_to = self.known_to.unwrap_or(Time::MAX);
        let mut at_box: Vec<BoxSpanView> = Vec::new();
        let mut put = |start: Time, end: Time| match at_box.last_mut() {
            // Runs follow each other at once; between them is nothing.
            Some(last) if last.end == start => last.end = end,
            _ => at_box.push(BoxSpanView { start, end }),
        };
        let mut rest = stored.as_slice();
        for span in spans.iter().filter(|span| span.cause.is_none()) {
            let mut at = span.start;
            let end = span.end.min(known_to);
            while rest.first().is_some_and(|(_, clip_end)| *clip_end <= span.start) {
                rest = &rest[1..];
            }
            for &(start, clip_end) in rest.iter().take_while(|(start, _)| *start < end) {
                if start > at {
                    put(at, start);
                }
                at = at.max(clip_end);
            }
            if at < end {
                put(at, end);
            }
        }
        at_box.retain(|span| span.end.duration_since(span.start) >= SEAM);
        let is_cut = at_box.len() > SEARCH_SPANS_MAX || spans.iter().any(|span| span.end > known_to);
        at_box.truncate(SEARCH_SPANS_MAX);
        (at_box, is_cut)
    }
}

/// What of the windows is past and within the time that the camera stood there.
pub fn windows_there(placement: &Placement, windows: &[TimeRange], now: Time) -> Vec<TimeRange> {
    let until = now.min(placement.until.unwrap_or(Time::MAX));
    super::when::cut(windows, TimeRange { from: placement.from, to: until })
}
