//! From access units to motion events and clips.
//!
//! Owns the decoder and the detector of one camera, in a task of its own. A decoder that fails or
//! gives nothing is a fault with its own event; another one is started, and the fault is cleared when
//! pictures come again. May slow nothing down but itself.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::accept;
use super::metrics::CameraMetrics;
use super::motion::{MotionInput, MotionUnit, Stream};
use crate::edge::clip::ClipJob;
use crate::edge::clock;
use crate::edge::config::MotionConfig;
use crate::edge::motion::{MotionChange, MotionDetector};
use crate::edge::outbox::{NewEvent, Outbox};
use crate::limits::{BACKOFF_FIRST, BACKOFF_MAX, CLIP_SECONDS_MAX};
use crate::media::MediaError;
use crate::media::decode::{DecoderOutput, GreyDecoder, GreyFrame};
use crate::model::{ClockQuality, DeviceId, EventData, Fault, FaultPhase, Motion, MotionPhase, Time};

const FAULT: &str = "motion_pipeline_stalled";
const GREY_WIDTH: u32 = 160;
const GREY_HEIGHT: u32 = 90;
/// No picture for this long ends what moves.
const SILENCE: Duration = Duration::from_secs(5);
/// Changes between the two timelines that are remembered.
const ANCHORS_MAX: usize = 64;

pub struct MotionWorker {
    device: DeviceId,
    config: MotionConfig,
    outbox: Outbox,
    clips: mpsc::Sender<ClipJob>,
    metrics: CameraMetrics,
    shutdown: CancellationToken,
    detector: MotionDetector,
    decoder: Option<Decoder>,
    faulty: bool,
    backoff: Duration,
    retry_at: Option<Instant>,
    /// Where the worker's timeline stands in wall-clock time, from a point on.
    anchors: VecDeque<Anchor>,
    event: Option<Event>,
}

struct Decoder {
    stream: Arc<Stream>,
    decoder: GreyDecoder,
    outputs: mpsc::Receiver<DecoderOutput>,
}

#[derive(Clone, Copy)]
struct Anchor {
    pts_ns: u64,
    time: Time,
    clock: ClockQuality,
}

/// Motion that goes on.
#[derive(Clone, Copy)]
struct Event {
    motion: Uuid,
    start: Time,
    /// Footage up to here is in clips already.
    clips_from: Time,
}

impl MotionWorker {
    pub fn new(
        device: DeviceId,
        config: MotionConfig,
        outbox: Outbox,
        clips: mpsc::Sender<ClipJob>,
        metrics: CameraMetrics,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            detector: MotionDetector::new(GREY_WIDTH as usize, GREY_HEIGHT as usize, &config),
            device,
            config,
            outbox,
            clips,
            metrics,
            shutdown,
            decoder: None,
            faulty: false,
            backoff: BACKOFF_FIRST,
            retry_at: None,
            anchors: VecDeque::new(),
            event: None,
        }
    }

    /// Serves until `inputs` closes.
    pub async fn run(mut self, mut inputs: mpsc::Receiver<MotionInput>) {
        loop {
            tokio::select! {
                input = inputs.recv() => match input {
                    Some(MotionInput::Unit(unit)) => self.take(unit).await,
                    Some(MotionInput::Ended) => self.end_event().await,
                    None => break,
                },
                output = next_output(&mut self.decoder) => self.take_output(output).await,
                () = tokio::time::sleep(SILENCE) => self.end_event().await,
            }
        }
        self.end_event().await;
        self.stop_decoder().await;
    }

    async fn take(&mut self, unit: MotionUnit) {
        self.remember(&unit);
        let fits = self.decoder.as_ref().is_some_and(|d| Arc::ptr_eq(&d.stream, &unit.stream));
        if !fits && !self.start_decoder(&unit).await {
            return;
        }
        let decoder = self.decoder.as_mut().expect("started above");
        if let Err(error) = decoder.decoder.push(unit.data, unit.pts_ns) {
            self.fault(error.to_string()).await;
        }
    }

    /// Starts a decoder at a key frame, unless the last one failed a moment ago.
    async fn start_decoder(&mut self, unit: &MotionUnit) -> bool {
        if !unit.sync || self.retry_at.is_some_and(|at| Instant::now() < at) {
            return false;
        }
        self.end_event().await;
        self.stop_decoder().await;
        let stream = unit.stream.clone();
        let started = tokio::task::spawn_blocking(move || {
            let made = GreyDecoder::start(stream.codec, &stream.codec_data, GREY_WIDTH, GREY_HEIGHT)?;
            Ok::<_, MediaError>((stream, made))
        });
        match started.await.expect("starting a decoder does not panic") {
            Ok((stream, (decoder, outputs))) => {
                self.decoder = Some(Decoder { stream, decoder, outputs });
                true
            }
            Err(error) => {
                self.fault(error.to_string()).await;
                false
            }
        }
    }

    async fn stop_decoder(&mut self) {
        if let Some(decoder) = self.decoder.take() {
            // Stopping a pipeline takes some milliseconds.
            let stopped = tokio::task::spawn_blocking(move || drop(decoder)).await;
            stopped.expect("stopping a decoder does not panic");
        }
    }

    async fn take_output(&mut self, output: Option<DecoderOutput>) {
        match output {
            Some(DecoderOutput::Frame(frame)) => self.look(frame).await,
            Some(DecoderOutput::Fault { detail }) => self.fault(detail).await,
            None => self.fault("the decoder ended".into()).await,
        }
    }

    async fn look(&mut self, frame: GreyFrame) {
        self.metrics.motion_frames.inc();
        if std::mem::take(&mut self.faulty) {
            (self.backoff, self.retry_at) = (BACKOFF_FIRST, None);
            self.say_fault(FaultPhase::Cleared, "pictures are decoded again".into()).await;
        }
        if frame.pixels.len() != (GREY_WIDTH * GREY_HEIGHT) as usize {
            self.fault(format!("a picture of {} x {}", frame.width, frame.height)).await;
            return;
        }
        if let Some(change) = self.detector.observe(frame.pts_ns, &frame.pixels) {
            self.change(change).await;
        }
        self.cut_long_motion(frame.pts_ns).await;
    }

    async fn change(&mut self, change: MotionChange) {
        match change {
            MotionChange::Start { at_ns, score } => {
                let (start, clock) = self.time(at_ns);
                let motion = Uuid::now_v7();
                let clips_from = start.saturating_sub(self.config.pre_roll).unwrap_or(start);
                self.event = Some(Event { motion, start, clips_from });
                let data = Motion { motion, phase: MotionPhase::Start, start, end: None, peak_score: score };
                self.say(start, clock, EventData::Motion(data)).await;
            }
            MotionChange::End { at_ns, peak_at_ns, peak_score } => {
                let Some(Event { motion, start, clips_from }) = self.event.take() else { return };
                let (end, clock) = self.time(at_ns);
                let end = end.max(start);
                let phase = MotionPhase::End;
                let data = Motion { motion, phase, start, end: Some(end), peak_score };
                self.say(end, clock, EventData::Motion(data)).await;
                let job = ClipJob {
                    motion: Some(motion),
                    from: clips_from,
                    to: end.saturating_add(self.config.post_roll).unwrap_or(end),
                    motion_start: Some(start),
                    motion_end: Some(end),
                    peak: Some(self.time(peak_at_ns).0),
                    peak_score,
                };
                self.cut(job).await;
            }
        }
    }

    /// Motion without end is cut into clips on the way.
    async fn cut_long_motion(&mut self, now_ns: u64) {
        let Some(event) = self.event else { return };
        let (now, _) = self.time(now_ns);
        let longest = jiff::SignedDuration::from_secs(CLIP_SECONDS_MAX as i64);
        if now.duration_since(event.clips_from) < longest {
            return;
        }
        let peak = self.detector.peak();
        let job = ClipJob {
            motion: Some(event.motion),
            from: event.clips_from,
            to: now,
            motion_start: Some(event.start),
            motion_end: None,
            peak: peak.map(|p| self.time(p.at_ns).0),
            peak_score: peak.map_or(0.0, |p| p.score),
        };
        self.event = Some(Event { clips_from: now, ..event });
        self.cut(job).await;
    }

    async fn cut(&self, job: ClipJob) {
        if self.clips.send(job).await.is_err() {
            tracing::error!(device = %self.device, "clips are not cut any more");
        }
    }

    async fn end_event(&mut self) {
        if let Some(change) = self.detector.finish() {
            self.change(change).await;
        }
    }

    async fn fault(&mut self, detail: String) {
        self.metrics.motion_faults.inc();
        self.stop_decoder().await;
        self.end_event().await;
        self.retry_at = Some(Instant::now() + self.backoff);
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        if !std::mem::replace(&mut self.faulty, true) {
            tracing::error!(device = %self.device, detail, "motion decoder failed");
            self.say_fault(FaultPhase::Raised, detail).await;
        }
    }

    async fn say_fault(&self, phase: FaultPhase, detail: String) {
        let data = EventData::Fault(Fault { fault: FAULT.into(), phase, detail });
        self.say(Time::now(), clock::quality(), data).await;
    }

    async fn say(&self, time: Time, clock: ClockQuality, data: EventData) {
        let event = NewEvent { device: Some(self.device.clone()), time, clock, data };
        accept(&self.outbox, event, &self.shutdown).await;
    }

    fn remember(&mut self, unit: &MotionUnit) {
        let same = self.anchors.back().is_some_and(|last| {
            // Rounding of ticks to nanoseconds is no change.
            let expected = last.at(unit.pts_ns).as_nanosecond();
            last.clock == unit.clock && (expected - unit.time.as_nanosecond()).abs() < 1_000_000
        });
        if same {
            return;
        }
        if self.anchors.len() == ANCHORS_MAX {
            self.anchors.pop_front();
        }
        self.anchors.push_back(Anchor { pts_ns: unit.pts_ns, time: unit.time, clock: unit.clock });
    }

    /// Wall-clock time of a point on the worker's timeline. The last anchor before it is the best
    /// known, but none of the first seconds' guesses: a connection has its clock only after them.
    fn time(&self, pts_ns: u64) -> (Time, ClockQuality) {
        let anchor = self.anchors.iter().rev().find(|a| a.pts_ns <= pts_ns).or(self.anchors.front());
        match anchor {
            Some(anchor) => (anchor.at(pts_ns), anchor.clock),
            None => (Time::now(), clock::quality()),
        }
    }
}

impl Anchor {
    fn at(&self, pts_ns: u64) -> Time {
        let ns = self.time.as_nanosecond() + i128::from(pts_ns) - i128::from(self.pts_ns);
        Time::from_nanosecond(ns).unwrap_or(self.time)
    }
}

async fn next_output(decoder: &mut Option<Decoder>) -> Option<DecoderOutput> {
    match decoder {
        Some(decoder) => decoder.outputs.recv().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::edge::camera::CamerasMetrics;
    use crate::media::testing::avc_stream;
    use crate::model::VideoCodec;

    const SECOND_NS: u64 = 1_000_000_000;

    /// A worker, the events it says, and the clips it asks for.
    fn worker() -> (MotionWorker, mpsc::UnboundedReceiver<EventData>, mpsc::Receiver<ClipJob>) {
        let (outbox, mut accepts) = Outbox::new();
        let (events, said) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(accept) = accepts.recv().await {
                let _ = events.send(accept.event.data);
                let _ = accept.done.send(Ok(()));
            }
        });
        let (clips, jobs) = mpsc::channel(16);
        let device: DeviceId = "cam-01".parse().unwrap();
        let metrics = CamerasMetrics::register(&prometheus::Registry::new()).unwrap().of(&device);
        let shutdown = CancellationToken::new();
        let made = MotionWorker::new(device, MotionConfig::default(), outbox, clips, metrics, shutdown);
        (made, said, jobs)
    }

    fn unit(stream: &Arc<Stream>, data: Bytes, sync: bool, pts_ns: u64) -> MotionUnit {
        let start: Time = "2026-03-01T17:00:00Z".parse().unwrap();
        let time = start + Duration::from_nanos(pts_ns);
        MotionUnit { stream: stream.clone(), data, sync, pts_ns, time, clock: clock::quality() }
    }

    #[tokio::test]
    async fn motion_without_end_becomes_spans_that_touch() {
        let (mut worker, _said, mut jobs) = worker();
        let stream = Arc::new(Stream { codec: VideoCodec::H264, codec_data: Vec::new() });
        worker.remember(&unit(&stream, Bytes::new(), true, 0));
        worker.change(MotionChange::Start { at_ns: 10 * SECOND_NS, score: 0.1 }).await;
        for second in 10..300 {
            worker.cut_long_motion(second * SECOND_NS).await;
        }
        let end = MotionChange::End { at_ns: 299 * SECOND_NS, peak_at_ns: 20 * SECOND_NS, peak_score: 0.2 };
        worker.change(end).await;
        drop(worker);
        let mut spans = Vec::new();
        while let Some(job) = jobs.recv().await {
            spans.push((job.from, job.to));
        }
        let at = |second: u64| unit(&stream, Bytes::new(), true, second * SECOND_NS).time;
        assert_eq!(spans, [(at(8), at(128)), (at(128), at(248)), (at(248), at(301))]);
    }

    /// Garbage until the decoder was started anew and failed again, then video.
    #[tokio::test]
    async fn a_broken_decoder_is_a_fault_once_and_is_cleared_by_pictures() {
        let (worker, mut said, _jobs) = worker();
        let faults = worker.metrics.motion_faults.clone();
        let (inputs, queue) = mpsc::channel(crate::limits::MOTION_QUEUE_MAX);
        let task = tokio::spawn(worker.run(queue));
        let video = avc_stream(320, 180, 10, 20);
        let broken = Arc::new(Stream { codec: video.codec, codec_data: video.codec_data.clone() });
        let whole = Arc::new(Stream { codec: video.codec, codec_data: video.codec_data });
        let mut phases = Vec::new();
        // A camera of 50 pictures a second, for a minute at most.
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        for n in 0..3000u64 {
            pace.tick().await;
            let pts_ns = n * SECOND_NS / 10;
            let picture = &video.access_units[n as usize % 20].0;
            let unit = match faults.get() {
                0 | 1 => unit(&broken, Bytes::from(vec![0xa5; 500]), true, pts_ns),
                _ => unit(&whole, picture.clone(), n % 20 == 0, pts_ns),
            };
            inputs.send(MotionInput::Unit(unit)).await.unwrap();
            while let Ok(event) = said.try_recv() {
                if let EventData::Fault(fault) = event {
                    phases.push(fault.phase);
                }
            }
            if phases.contains(&FaultPhase::Cleared) {
                break;
            }
        }
        drop(inputs);
        task.await.unwrap();
        assert!(faults.get() >= 2, "the decoder was started anew");
        assert_eq!(phases, [FaultPhase::Raised, FaultPhase::Cleared]);
    }
}
