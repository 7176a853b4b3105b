//! Motion as the camera tells it in its metadata stream: no picture is decoded.
//!
//! Owns what the camera said last: which of its rules see something, and whether it sees objects. A camera that says
//! nothing more, or is lost, sees nothing more. May not judge what the camera sees.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;

use super::motion_say::{Moment, MotionSay, Peak};
use super::onvif::{Metadata, MotionTopic, Object};
use crate::edge::clock::Watch;
use crate::limits::{CAMERA_CLOCK_OFFSET_MAX, METADATA_RULES_MAX, METADATA_SILENT_MAX};
use crate::model::Time;

/// What the recorder passes on.
#[derive(Debug)]
pub enum ToldInput {
    Metadata {
        arrived: Time,
        content: Metadata,
    },
    /// The connection ended.
    Lost,
}

pub struct MotionTold {
    pub say: MotionSay,
    pub clock: Watch,
    /// Set once the camera has told of motion: then nobody else needs to look for it.
    pub tells: Arc<AtomicBool>,
    pub seen: Seen,
}

/// What the camera sees now.
#[derive(Debug, Default)]
pub struct Seen {
    rules: BTreeSet<(MotionTopic, String)>,
    has_objects: bool,
    /// When it saw something last, and when it said anything last.
    last_on: Option<Time>,
    last_heard: Option<Time>,
    peak: Option<Peak>,
}

impl MotionTold {
    /// Serves until `inputs` closes.
    pub async fn run(mut self, mut inputs: mpsc::Receiver<ToldInput>) {
        let mut ticks = tokio::time::interval(Duration::from_millis(500));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                input = inputs.recv() => match input {
                    Some(ToldInput::Metadata { arrived, content }) => self.take(arrived, content).await,
                    Some(ToldInput::Lost) => self.seen.nothing(),
                    None => break,
                },
                _ = ticks.tick() => self.tick(self.clock.read().time).await,
            }
        }
        self.seen.nothing();
        self.end().await;
    }

    async fn take(&mut self, arrived: Time, content: Metadata) {
        // The camera's own time where its clock is near, as the recorder does it.
        let time = |utc: Option<Time>| {
            let is_near = |utc: &Time| arrived.duration_since(*utc).unsigned_abs() <= CAMERA_CLOCK_OFFSET_MAX;
            utc.filter(is_near).unwrap_or(arrived)
        };
        for notice in content.notices {
            let at = time(notice.utc);
            self.seen.notice((notice.topic, notice.source), notice.is_on, at);
            self.update(at).await;
        }
        for frame in content.frames {
            let at = time(frame.utc);
            self.seen.objects(&frame.objects, at);
            self.update(at).await;
        }
        self.seen.last_heard = Some(arrived);
    }

    async fn update(&mut self, at: Time) {
        if !self.seen.is_on() {
            return;
        }
        self.tells.store(true, Ordering::Relaxed);
        self.seen.last_on = Some(at.max(self.seen.last_on.unwrap_or(at)));
        if self.say.event.is_none() {
            let peak = self.seen.peak.clone().filter(|peak| peak.time >= at).unwrap_or_else(|| unknown(at));
            self.seen.peak = Some(peak.clone());
            self.say.start(self.moment(at), &peak).await;
        }
    }

    async fn tick(&mut self, now: Time) {
        let silent = self.seen.last_heard.map(|heard| now.duration_since(heard).unsigned_abs());
        if silent.is_some_and(|silent| silent > METADATA_SILENT_MAX) {
            self.seen.nothing();
        }
        if self.say.event.is_none() {
            return;
        }
        if self.seen.is_on() {
            self.seen.last_on = Some(now);
            if self.say.is_long(now) {
                let peak = self.seen.peak.take().unwrap_or_else(|| unknown(now));
                self.say.go_on(self.moment(now), &peak).await;
            }
        } else if self.seen.last_on.is_none_or(|last| now.duration_since(last) >= self.say.config.quiet) {
            self.end().await;
        }
    }

    async fn end(&mut self) {
        let at = self.seen.last_on.unwrap_or_else(|| self.clock.read().time);
        let peak = self.seen.peak.take().unwrap_or_else(|| unknown(at));
        self.say.end(self.moment(at), &peak).await;
    }

    fn moment(&self, time: Time) -> Moment {
        Moment { time, clock: self.clock.read().quality }
    }
}

impl Seen {
    fn is_on(&self) -> bool {
        !self.rules.is_empty() || self.has_objects
    }

    fn nothing(&mut self) {
        self.rules.clear();
        self.has_objects = false;
    }

    fn notice(&mut self, rule: (MotionTopic, String), is_on: bool, at: Time) {
        if !is_on {
            if self.rules.remove(&rule) {
                self.last_on = Some(at);
            }
        } else if self.rules.len() < METADATA_RULES_MAX {
            self.rules.insert(rule);
        }
    }

    fn objects(&mut self, objects: &[Object], at: Time) {
        self.has_objects = !objects.is_empty();
        for area in objects.iter().filter_map(|object| object.area) {
            let (width, height) = (area.right - area.left, area.bottom - area.top);
            let score = (width * height).clamp(0.0, 1.0);
            if self.peak.as_ref().is_none_or(|peak| score > peak.score) {
                let region = Some([area.left, area.top, width, height]);
                self.peak = Some(Peak { time: at, score, region, zone: None });
            }
        }
    }
}

/// The camera said that something moves, not where.
fn unknown(at: Time) -> Peak {
    Peak { time: at, score: 0.0, region: None, zone: None }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::edge::camera::onvif::{Area, MotionNotice, ObjectFrame};
    use crate::edge::clip::ClipJob;
    use crate::edge::config::MotionConfig;
    use crate::edge::outbox::Outbox;
    use crate::model::{EventData, Motion, MotionPhase, SeenBy};

    fn at(ms: i64) -> Time {
        Time::from_millisecond(1_790_000_000_000 + ms).unwrap()
    }

    fn told(
        dir: &std::path::Path,
    ) -> (MotionTold, mpsc::UnboundedReceiver<EventData>, mpsc::Receiver<ClipJob>) {
        let (outbox, mut accepts) = Outbox::new();
        let (events, said) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(accept) = accepts.recv().await {
                let _ = events.send(accept.event.data);
                let _ = accept.done.send(Ok(()));
            }
        });
        let (clips, jobs) = mpsc::channel(16);
        let say = MotionSay {
            device: "cam-01".parse().unwrap(),
            config: MotionConfig::default(),
            outbox,
            clips,
            shutdown: CancellationToken::new(),
            seen_by: SeenBy::Camera,
            event: None,
        };
        let clock = Watch::of_machine(dir);
        (MotionTold { say, clock, tells: Arc::default(), seen: Seen::default() }, said, jobs)
    }

    fn notice(source: &str, is_on: bool, utc_ms: i64) -> Metadata {
        let source = source.to_owned();
        let notice = MotionNotice { utc: Some(at(utc_ms)), topic: MotionTopic::CellMotion, source, is_on };
        Metadata { notices: vec![notice], frames: Vec::new() }
    }

    fn object(utc_ms: i64, left: f64, size: f64) -> Metadata {
        let area = Area { left, top: 0.5, right: left + size, bottom: 0.5 + size };
        let object = Object { id: None, class: Some("Human".into()), likelihood: None, area: Some(area) };
        Metadata {
            notices: Vec::new(),
            frames: vec![ObjectFrame { utc: Some(at(utc_ms)), objects: vec![object] }],
        }
    }

    fn motions(said: &mut mpsc::UnboundedReceiver<EventData>) -> Vec<Motion> {
        let motion = |data| match data {
            EventData::Motion(motion) => Some(motion),
            _ => None,
        };
        std::iter::from_fn(|| said.try_recv().ok()).filter_map(motion).collect()
    }

    #[tokio::test]
    async fn what_any_rule_sees_is_one_event_with_the_largest_object_as_its_peak() {
        let dir = tempfile::tempdir().unwrap();
        let (mut told, mut said, mut jobs) = told(dir.path());
        // The camera's clock is near; what comes is a little late.
        told.take(at(10_200), notice("a", true, 10_000)).await;
        told.take(at(11_200), notice("b", true, 11_000)).await;
        told.take(at(12_200), object(12_000, 0.1, 0.1)).await;
        told.take(at(13_200), object(13_000, 0.3, 0.2)).await;
        told.take(at(14_200), notice("a", false, 14_000)).await;
        told.tick(at(15_000)).await;
        let nothing = Metadata {
            frames: vec![ObjectFrame { utc: Some(at(16_000)), objects: vec![] }],
            ..Metadata::default()
        };
        told.take(at(16_100), nothing).await;
        told.take(at(16_200), notice("b", false, 16_000)).await;
        told.tick(at(17_900)).await;
        assert!(told.say.event.is_some(), "it may go on");
        told.tick(at(18_100)).await;
        let motions = motions(&mut said);
        let [start, end] = &motions[..] else { panic!("{motions:?}") };
        assert_eq!(
            (start.phase, start.start, start.seen_by),
            (MotionPhase::Start, at(10_000), Some(SeenBy::Camera))
        );
        assert_eq!((end.phase, end.end, end.peak), (MotionPhase::End, Some(at(16_000)), Some(at(13_000))));
        let region = end.region.unwrap();
        assert!((region[0] - 0.3).abs() < 1e-9 && (region[2] - 0.2).abs() < 1e-9, "{region:?}");
        let job = jobs.try_recv().unwrap();
        assert_eq!((job.from, job.to), (at(8_000), at(18_000)));
        assert!(told.tells.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn a_camera_that_falls_silent_or_is_lost_sees_nothing_more() {
        let dir = tempfile::tempdir().unwrap();
        for lost in [false, true] {
            let (mut told, mut said, _jobs) = told(dir.path());
            // Its clock is hours off: the box's counts.
            told.take(at(10_000), notice("a", true, -9_000_000)).await;
            if lost {
                told.seen.nothing();
            }
            let mut now_ms = 10_000;
            while told.say.event.is_some() && now_ms < 200_000 {
                now_ms += 500;
                told.tick(at(now_ms)).await;
            }
            let motions = motions(&mut said);
            assert_eq!(motions[0].start, at(10_000));
            let end = motions.last().unwrap().end.unwrap();
            let most_ms = if lost { 10_000 } else { 10_000 + METADATA_SILENT_MAX.as_millis() as i64 + 1_000 };
            assert!(motions.len() == 2 && end <= at(most_ms), "lost {lost}: {motions:?}");
        }
    }
}
