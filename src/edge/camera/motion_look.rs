//! What one camera's stream shows: access units in, what is to be decoded out; small pictures in, motion out.
//!
//! Owns the detector and which access units it needs. Pure: decodes nothing, waits for nothing. May not know events on the
//! wire, clips, or faults. The worker drives it with a live camera, the benches with files.

use super::motion_watch::Watch;
use crate::edge::config::MotionConfig;
use crate::edge::motion::{MotionChange, MotionDetector, Sighting};
use crate::media::decode::GreyFrame;

pub use super::motion::{MotionUnit, Stream};
pub use super::motion_watch::Due;

/// One camera's.
pub struct MotionLook {
    config: MotionConfig,
    watch: Watch,
    /// Made for the size of the pictures that come.
    detector: Option<Sized>,
    /// The newest picture that was looked at, or was calm by itself: looking back does not go before it.
    seen_ns: Option<u64>,
}

struct Sized {
    width: usize,
    height: usize,
    detector: MotionDetector,
}

/// What a picture showed.
#[derive(Debug, Default)]
pub struct Seen {
    /// Its place on the stream's timeline; none if it has no place there.
    pub at_ns: Option<u64>,
    pub change: Option<MotionChange>,
}

impl MotionLook {
    pub fn new(config: MotionConfig) -> Self {
        Self { config, watch: Watch::default(), detector: None, seen_ns: None }
    }

    /// Another stream with another decoder comes.
    pub fn restart(&mut self) {
        self.watch.restart();
        self.seen_ns = None;
    }

    /// Takes the next unit of the stream.
    pub fn take(&mut self, unit: MotionUnit) {
        if !self.config.every_picture && self.watch.may_rest() {
            self.rest_if_calm(unit.pts_ns);
        }
        self.watch.take(unit);
    }

    /// The next unit for the decoder, if it has room; without, there is one only if too many wait.
    pub fn next(&mut self, has_room: bool) -> Option<Due> {
        self.watch.next(has_room)
    }

    /// Takes a picture of the decoder. What is due may be another unit afterwards.
    pub fn see(&mut self, frame: &GreyFrame) -> Seen {
        let ended = self.fit(frame);
        let (Some(place), Some(Sized { detector, .. })) =
            (self.watch.place(frame.pts_ns), &mut self.detector)
        else {
            return Seen { at_ns: None, change: ended };
        };
        let mut found = None;
        if place.alone {
            // One that was late: everything is looked at again already.
            if !self.watch.is_glancing() {
                return Seen { at_ns: Some(place.pts_ns), change: ended };
            }
            match detector.glance(place.pts_ns, &frame.pixels) {
                true => self.watch.wake(),
                false => {
                    self.watch.calm(place.pts_ns);
                    self.seen_ns = Some(place.pts_ns);
                }
            }
        } else if self.seen_ns.is_none_or(|seen_ns| place.pts_ns > seen_ns) {
            self.seen_ns = Some(place.pts_ns);
            found = detector.observe(place.pts_ns, &frame.pixels);
            // Pictures that were on their way when it seemed calm.
            if self.watch.is_glancing() && !detector.is_calm(place.pts_ns) {
                self.watch.wake();
            }
        }
        Seen { at_ns: Some(place.pts_ns), change: ended.or(found) }
    }

    /// Ends the motion that goes on, if there is any.
    pub fn finish(&mut self) -> Option<MotionChange> {
        self.detector.as_mut()?.detector.finish()
    }

    /// The peak of the motion that goes on; from here on another one is looked for.
    pub fn take_peak(&mut self) -> Option<Sighting> {
        let detector = &mut self.detector.as_mut()?.detector;
        let peak = detector.peak().cloned()?;
        detector.forget_peak();
        Some(peak)
    }

    fn rest_if_calm(&mut self, at_ns: u64) {
        if let Some(Sized { detector, .. }) = &mut self.detector
            && detector.is_calm(at_ns)
        {
            self.watch.rest();
            detector.rest();
        }
    }

    /// Another size is another picture: what was known of it is of no use, and what moved has ended. Nothing starts in
    /// the first picture of a new size.
    fn fit(&mut self, frame: &GreyFrame) -> Option<MotionChange> {
        let (width, height) = (frame.width, frame.height);
        if self.detector.as_ref().is_some_and(|sized| (sized.width, sized.height) == (width, height)) {
            return None;
        }
        let ended = self.finish();
        let detector = MotionDetector::new(width, height, &self.config);
        self.detector = Some(Sized { width, height, detector });
        self.seen_ns = None;
        ended
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::edge::clock;
    use crate::model::{Time, VideoCodec};

    const TENTH_NS: u64 = 100_000_000;

    /// Ten a second. Somebody crosses from second 18.5 to 21.5.
    fn picture(n: u64) -> Vec<u8> {
        let texture = |x: usize, y: usize| 60 + 20 * ((x / 9 + y / 7) % 2) as u8;
        let left = 20 + (n.saturating_sub(185) * 2) as usize;
        let is_there = (185..215).contains(&n);
        let inside = |x: usize, y: usize| is_there && (left..left + 8).contains(&x) && (50..70).contains(&y);
        let pixel = |(x, y)| if inside(x, y) { 150 } else { texture(x, y) };
        (0..160 * 90).map(|i| pixel((i % 160, i / 160))).collect()
    }

    fn frame(due: &Due) -> GreyFrame {
        let pixels = picture(due.unit.pts_ns / TENTH_NS);
        GreyFrame { pts_ns: due.decoder_ns, width: 160, height: 90, pixels }
    }

    /// The box is busy: the picture of the key frame in which somebody is seen comes when the next one, which is calm
    /// again, has been asked for already.
    #[test]
    fn a_calm_picture_that_comes_late_hides_nothing() {
        let mut look = MotionLook::new(MotionConfig::default());
        let stream = Arc::new(Stream { codec: VideoCodec::H264, codec_data: Vec::new() });
        let (mut held, mut changes, mut glances) = (Vec::new(), Vec::new(), 0);
        for n in 0..300u64 {
            look.take(MotionUnit {
                stream: stream.clone(),
                data: Bytes::new(),
                sync: n.is_multiple_of(20),
                pts_ns: n * TENTH_NS,
                time: Time::now(),
                clock: clock::quality(),
            });
            held.extend(look.next(true));
            if (200..220).contains(&n) {
                continue;
            }
            glances += held.iter().filter(|due| due.alone).count();
            while !held.is_empty() {
                for due in std::mem::take(&mut held) {
                    changes.extend(look.see(&frame(&due)).change);
                }
                held.extend(std::iter::from_fn(|| look.next(true)));
            }
        }
        let [MotionChange::Start { at_ns: from_ns, .. }, MotionChange::End { at_ns: to_ns, .. }] =
            changes[..]
        else {
            panic!("{changes:?}")
        };
        assert!(glances >= 3, "{glances} key frames by themselves");
        assert!((18_000_000_000..19_200_000_000).contains(&from_ns), "{from_ns}");
        assert!((20_800_000_000..22_200_000_000).contains(&to_ns), "{to_ns}");
    }
}
