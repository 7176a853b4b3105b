//! Which access units are decoded to look for motion: key frames only while nothing moves, every one while something may.
//!
//! Owns what is kept to look back, and the decoder's timeline: that never goes back, while looking does. Pure: decodes
//! nothing and knows no pictures. May not decide what moves.

use std::collections::VecDeque;

use super::motion::MotionUnit;
use crate::limits::{MOTION_KEPT_BYTES_MAX, MOTION_KEPT_UNITS_MAX, MOTION_KEY_INTERVAL_MAX};

/// A step on the decoder's timeline when looking goes back.
const STEP_NS: u64 = 1_000_000_000;
/// Spans of the decoder's timeline that may still have pictures on their way.
const SPANS_MAX: usize = 16;

/// What is to be decoded next.
pub struct Due {
    pub unit: MotionUnit,
    /// Its time for the decoder.
    pub decoder_ns: u64,
    /// It is a key frame whose picture is wanted by itself.
    pub alone: bool,
}

/// Where a picture from the decoder belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub pts_ns: u64,
    pub alone: bool,
}

/// The units of one camera.
#[derive(Default)]
pub struct Watch {
    /// Key frames only.
    glancing: bool,
    /// Everything from the last key frame on, or while glancing, from the last calm one on.
    kept: VecDeque<MotionUnit>,
    kept_bytes: usize,
    due: VecDeque<Due>,
    due_bytes: usize,
    spans: VecDeque<Span>,
    newest_decoder_ns: u64,
    last_key_ns: Option<u64>,
    key_interval_ns: Option<u64>,
}

#[derive(Clone, Copy)]
struct Span {
    from_decoder_ns: u64,
    /// The decoder's time less the unit's.
    later_ns: u64,
    alone: bool,
}

impl Watch {
    /// Another stream with another decoder: every picture, until it is calm.
    pub fn restart(&mut self) {
        *self = Self::default();
    }

    pub fn is_glancing(&self) -> bool {
        self.glancing
    }

    /// From the next unit on a glance now and then is enough. Only if key frames come often, and one is there to look
    /// back to.
    pub fn may_rest(&self) -> bool {
        let often = |interval: u64| u128::from(interval) <= MOTION_KEY_INTERVAL_MAX.as_nanos();
        let from_key = self.kept.front().is_some_and(|unit| unit.sync);
        !self.glancing && from_key && self.key_interval_ns.is_some_and(often)
    }

    pub fn rest(&mut self) {
        self.glancing = true;
    }

    /// Takes the next unit of the stream.
    pub fn take(&mut self, unit: MotionUnit) {
        if unit.sync {
            let before_ns = self.last_key_ns.replace(unit.pts_ns);
            self.key_interval_ns = before_ns.map(|before| unit.pts_ns.saturating_sub(before));
        }
        if unit.sync && !self.glancing {
            self.forget();
        }
        if unit.sync || !self.glancing {
            self.decode(unit.clone(), self.glancing);
        }
        self.kept_bytes += unit.data.len();
        self.kept.push_back(unit);
        if self.kept_bytes > MOTION_KEPT_BYTES_MAX || self.kept.len() > MOTION_KEPT_UNITS_MAX {
            match self.glancing {
                true => self.wake(),
                false => self.forget(),
            }
        }
    }

    fn forget(&mut self) {
        self.kept.clear();
        self.kept_bytes = 0;
    }

    /// Nothing moved in the key frame of `pts_ns`: what is before it is of no more use.
    pub fn calm(&mut self, pts_ns: u64) {
        while self.kept.front().is_some_and(|unit| unit.pts_ns < pts_ns) {
            let unit = self.kept.pop_front().expect("there is one");
            self.kept_bytes -= unit.data.len();
        }
    }

    /// Something may move: every picture from the last calm key frame on, some of them for the second time.
    pub fn wake(&mut self) {
        self.glancing = false;
        self.kept_bytes = 0;
        for unit in std::mem::take(&mut self.kept) {
            self.decode(unit, false);
        }
    }

    /// The next unit for the decoder. Without `has_room` there is one only if too many wait: the decoder then skips it.
    pub fn next(&mut self, has_room: bool) -> Option<Due> {
        let too_many = self.due.len() > MOTION_KEPT_UNITS_MAX || self.due_bytes > MOTION_KEPT_BYTES_MAX;
        if !has_room && !too_many {
            return None;
        }
        let due = self.due.pop_front()?;
        self.due_bytes -= due.unit.data.len();
        Some(due)
    }

    /// Where a picture of the decoder belongs; none if nothing was pushed.
    pub fn place(&self, decoder_ns: u64) -> Option<Place> {
        let span = self.spans.iter().rev().find(|span| span.from_decoder_ns <= decoder_ns);
        let span = span.or(self.spans.front())?;
        Some(Place { pts_ns: decoder_ns.saturating_sub(span.later_ns), alone: span.alone })
    }

    fn decode(&mut self, unit: MotionUnit, alone: bool) {
        let span = match self.spans.back() {
            Some(span) if span.alone == alone => *span,
            before => {
                // As late as before, or later if this goes back.
                let later_ns = before.map_or(0, |span| span.later_ns);
                let least_ns = (self.newest_decoder_ns + STEP_NS).saturating_sub(unit.pts_ns);
                let later_ns = later_ns.max(least_ns);
                let from_decoder_ns = unit.pts_ns + later_ns;
                let span = Span { from_decoder_ns, later_ns, alone };
                if self.spans.len() == SPANS_MAX {
                    self.spans.pop_front();
                }
                self.spans.push_back(span);
                span
            }
        };
        let decoder_ns = unit.pts_ns + span.later_ns;
        self.newest_decoder_ns = self.newest_decoder_ns.max(decoder_ns);
        self.due_bytes += unit.data.len();
        self.due.push_back(Due { unit, decoder_ns, alone });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::edge::camera::motion::Stream;
    use crate::edge::clock;
    use crate::model::{Time, VideoCodec};

    const FRAME_NS: u64 = 100_000_000;

    /// Unit `n` of a camera of ten pictures a second with a key frame every `key` of them.
    fn unit(n: u64, key: u64) -> MotionUnit {
        MotionUnit {
            stream: Arc::new(Stream { codec: VideoCodec::H264, codec_data: Vec::new() }),
            data: Bytes::from(vec![0; 10_000]),
            sync: n.is_multiple_of(key),
            pts_ns: n * FRAME_NS,
            time: Time::now(),
            clock: clock::quality(),
        }
    }

    /// What is decoded: number of the picture, and whether alone. Checks that each comes back where it belongs.
    fn decoded(watch: &mut Watch, newest_ns: &mut u64) -> Vec<(u64, bool)> {
        std::iter::from_fn(|| watch.next(true).map(|due| (due, watch.place(0))))
            .collect::<Vec<_>>()
            .into_iter()
            .map(|(due, _)| {
                assert!(due.decoder_ns > *newest_ns || *newest_ns == 0, "the decoder's time goes on");
                *newest_ns = due.decoder_ns;
                let place = Place { pts_ns: due.unit.pts_ns, alone: due.alone };
                assert_eq!(watch.place(due.decoder_ns), Some(place));
                (due.unit.pts_ns / FRAME_NS, due.alone)
            })
            .collect()
    }

    #[test]
    fn while_nothing_moves_key_frames_are_decoded_and_then_all_since_the_last_calm_one() {
        let (mut watch, mut newest_ns) = (Watch::default(), 0);
        (0..40).for_each(|n| watch.take(unit(n, 20)));
        let all = |from: u64, to: u64| (from..to).map(|n| (n, false)).collect::<Vec<_>>();
        assert_eq!(decoded(&mut watch, &mut newest_ns), all(0, 40));
        assert!(watch.may_rest());
        watch.rest();
        (40..81).for_each(|n| watch.take(unit(n, 20)));
        assert_eq!(decoded(&mut watch, &mut newest_ns), [(40, true), (60, true), (80, true)]);
        watch.calm(60 * FRAME_NS);
        // Something is in number 80.
        watch.wake();
        watch.take(unit(81, 20));
        assert_eq!(decoded(&mut watch, &mut newest_ns), all(60, 82));
        assert!(!watch.is_glancing());
        // And again, in the middle between two key frames.
        assert!(!watch.may_rest(), "no key frame to look back to");
        (100..105).for_each(|n| watch.take(unit(n, 20)));
        assert!(watch.may_rest());
        watch.rest();
        (105..121).for_each(|n| watch.take(unit(n, 20)));
        watch.wake();
        let mut expected = all(100, 105);
        expected.push((120, true));
        expected.extend(all(100, 121));
        assert_eq!(decoded(&mut watch, &mut newest_ns), expected);
    }

    #[test]
    fn a_camera_with_rare_key_frames_never_rests_and_what_is_kept_is_bounded() {
        let mut watch = Watch::default();
        (0..90).for_each(|n| watch.take(unit(n, 40)));
        assert!(!watch.may_rest());
        watch.rest();
        (90..4_000).for_each(|n| watch.take(unit(n, 4_000)));
        assert!(!watch.is_glancing(), "too much was kept");
        let waiting: usize = std::iter::from_fn(|| watch.next(false)).map(|due| due.unit.data.len()).sum();
        assert!(waiting > 0, "what waits too long is given to a decoder that has no room, to be skipped");
        assert!(watch.next(false).is_none() && watch.next(true).is_some());
        watch.restart();
        assert!(watch.next(true).is_none() && watch.place(5).is_none());
    }
}
