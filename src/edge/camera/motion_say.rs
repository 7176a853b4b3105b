//! Motion as events and clips: what the box says of what moves, whoever saw it.
//!
//! Owns the event that goes on: its name, where it began, what of it is in clips. May not look for motion.

use jiff::SignedDuration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::accept;
use crate::edge::clip::ClipJob;
use crate::edge::config::MotionConfig;
use crate::edge::outbox::{NewEvent, Outbox};
use crate::model::{ClockQuality, DeviceId, EventData, Motion, MotionPhase, SeenBy, Time};

/// A moment, and how good the clock is that says so.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    pub time: Time,
    pub clock: ClockQuality,
}

/// What moved when most did.
#[derive(Debug, Clone, PartialEq)]
pub struct Peak {
    pub time: Time,
    /// Share of the picture, 0 to 1; 0 if it is not known.
    pub score: f64,
    pub region: Option<[f64; 4]>,
    pub zone: Option<String>,
}

/// The motion of one camera, as one of those who look for it tells it.
pub struct MotionSay {
    pub device: DeviceId,
    pub config: MotionConfig,
    pub outbox: Outbox,
    pub clips: mpsc::Sender<ClipJob>,
    pub shutdown: CancellationToken,
    pub seen_by: SeenBy,
    pub event: Option<Event>,
}

/// Motion that goes on.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    motion: Uuid,
    /// The one that was closed because it was long.
    continues: Option<Uuid>,
    start: Time,
    /// Footage up to here is in clips already.
    clips_from: Time,
}

impl MotionSay {
    pub async fn start(&mut self, at: Moment, peak: &Peak) {
        let clips_from = at.time.saturating_sub(self.config.pre_roll).unwrap_or(at.time);
        self.open(at, clips_from, None, peak).await;
    }

    /// Ends what goes on, if something does.
    pub async fn end(&mut self, at: Moment, peak: &Peak) {
        let Some(event) = self.event.take() else { return };
        let at = Moment { time: at.time.max(event.start), ..at };
        let clips_to = at.time.saturating_add(self.config.post_roll).unwrap_or(at.time);
        self.close(event, at, clips_to, peak).await;
    }

    /// What goes on has gone on for so long that it is time to close it.
    pub fn is_long(&self, now: Time) -> bool {
        let lasts = |event: Event| now.duration_since(event.start);
        self.event.is_some_and(|event| lasts(event) >= self.config.longest.max(SignedDuration::from_secs(1)))
    }

    /// Closes what goes on; it goes on as another.
    pub async fn go_on(&mut self, now: Moment, peak: &Peak) {
        let Some(event) = self.event.take() else { return };
        self.close(event, now, now.time, peak).await;
        self.open(now, now.time, Some(event.motion), peak).await;
    }

    /// Says something of the camera.
    pub async fn say(&self, at: Moment, data: EventData) {
        let event = NewEvent { device: Some(self.device.clone()), time: at.time, clock: at.clock, data };
        accept(&self.outbox, event, &self.shutdown).await;
    }

    async fn open(&mut self, at: Moment, clips_from: Time, continues: Option<Uuid>, peak: &Peak) {
        let event = Event { motion: Uuid::now_v7(), continues, start: at.time, clips_from };
        self.event = Some(event);
        let data = self.motion(event, MotionPhase::Start, None, peak);
        self.say(at, EventData::Motion(data)).await;
    }

    async fn close(&self, event: Event, at: Moment, clips_to: Time, peak: &Peak) {
        let data = self.motion(event, MotionPhase::End, Some(at.time), peak);
        let job = ClipJob {
            motion: Some(event.motion),
            from: event.clips_from,
            to: clips_to,
            motion_start: Some(event.start),
            motion_end: Some(at.time),
            peak: data.peak,
            peak_score: data.peak_score,
        };
        self.say(at, EventData::Motion(data)).await;
        if self.clips.send(job).await.is_err() {
            tracing::error!(device = %self.device, "clips are not cut any more");
        }
    }

    fn motion(&self, event: Event, phase: MotionPhase, end: Option<Time>, peak: &Peak) -> Motion {
        Motion {
            motion: event.motion,
            phase,
            start: event.start,
            end,
            seen_by: Some(self.seen_by),
            peak: Some(peak.time.max(event.start)),
            peak_score: peak.score,
            region: peak.region,
            zone: peak.zone.clone(),
            continues: event.continues,
        }
    }
}
