//! The account of one camera for the windows of a question.
//!
//! Owns what is told of it beside its clips. Every second of the windows, while the camera stood there, is recorded or a
//! gap with its cause.

use jiff::SignedDuration;

use super::account::fill;
use super::answer::{
    CameraCoverage, NameView, SeesView, SpanView, point_view, site_view, span_view, view_view,
};
use super::cameras::Found;
use super::{Search, SearchError, round};
use crate::hub::catalog::TimeRange;
use crate::hub::registry::Placement;
use crate::limits::{COVERAGE_HEARTBEAT, SEARCH_SPANS_MAX};
use crate::model::{CoverageSpan, Time};

impl Search {
    /// Fills every second of the camera's time in the windows: where its box was the last to speak and may
    /// still be heard, its last word holds unconfirmed; what else no report covers is not yet reported.
    pub(super) fn coverage(
        &self,
        found: &Found,
        windows: &[TimeRange],
        now: Time,
    ) -> Result<CameraCoverage, SearchError> {
        let placement = &found.stand.placement;
        let windows = windows_there(placement, windows, now);
        let (spans, tail_from) = self.account(placement, &windows, now)?;
        let spans: Vec<SpanView> = spans
            .iter()
            .map(|span| span_view(span, tail_from.is_none_or(|tail_from| span.start < tail_from)))
            .collect();
        let sum = |wanted: &dyn Fn(&SpanView) -> bool| {
            let seconds = |s: &SpanView| s.end.duration_since(s.start).as_secs_f64();
            // The sum of nothing would be -0.
            round(spans.iter().filter(|s| wanted(s)).map(seconds).fold(0.0, |a, b| a + b), 3)
        };
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
        })
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
        let mut known = self.catalog.coverage(&placement.device.id, asked)?;
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

/// What of the windows is past and within the time that the camera stood there.
pub fn windows_there(placement: &Placement, windows: &[TimeRange], now: Time) -> Vec<TimeRange> {
    let until = now.min(placement.until.unwrap_or(Time::MAX));
    super::when::cut(windows, TimeRange { from: placement.from, to: until })
}
