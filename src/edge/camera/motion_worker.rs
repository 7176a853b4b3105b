//! From access units to motion.
//!
//! Owns the decoder of one camera, in a task of its own; what is decoded and what moves is `MotionLook`'s. A decoder that
//! fails or gives nothing is a fault with its own event; another one is started, and the fault is cleared when pictures
//! come again. May slow nothing down but itself.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::metrics::CameraMetrics;
use super::motion::{MotionInput, MotionUnit, Stream};
use super::motion_look::MotionLook;
use super::motion_say::{Moment, MotionSay, Peak};
use crate::edge::clock;
use crate::edge::health::eye::Eye;
use crate::edge::motion::{MotionChange, Sighting};
use crate::limits::{BACKOFF_FIRST, BACKOFF_MAX};
use crate::media::MediaError;
use crate::media::decode::{DecoderOutput, GreyDecoder, GreyFrame};
use crate::model::{ClockQuality, EventData, Fault, FaultPhase, Time};

const FAULT: &str = "motion_pipeline_stalled";
/// No picture for this long ends what moves.
const SILENCE: Duration = Duration::from_secs(5);
/// Changes between the two timelines that are remembered.
const ANCHORS_MAX: usize = 64;

pub struct MotionWorker {
    say: MotionSay,
    metrics: CameraMetrics,
    look: MotionLook,
    eye: Eye,
    decoder: Option<Decoder>,
    faulty: bool,
    backoff: Duration,
    retry_at: Option<Instant>,
    /// Where the worker's timeline stands in wall-clock time, from a point on.
    anchors: VecDeque<Anchor>,
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

impl MotionWorker {
    pub fn new(say: MotionSay, eye: Eye, metrics: CameraMetrics) -> Self {
        Self {
            look: MotionLook::new(say.config.clone()),
            eye,
            say,
            metrics,
            decoder: None,
            faulty: false,
            backoff: BACKOFF_FIRST,
            retry_at: None,
            anchors: VecDeque::new(),
        }
    }

    /// Serves until `inputs` closes.
    pub async fn run(mut self, mut inputs: mpsc::Receiver<MotionInput>) {
        loop {
            tokio::select! {
                input = inputs.recv() => match input {
                    Some(MotionInput::Unit(unit)) => self.take(unit).await,
                    Some(MotionInput::Ended) => {
                        self.eye.interrupted();
                        self.end_event().await;
                    }
                    None => break,
                },
                output = next_output(&mut self.decoder) => self.take_output(output).await,
                () = tokio::time::sleep(SILENCE) => self.end_event().await,
            }
        }
        self.end_event().await;
        self.stop_decoder().await;
        self.eye.save();
    }

    async fn take(&mut self, unit: MotionUnit) {
        self.remember(&unit);
        let fits = self.decoder.as_ref().is_some_and(|d| Arc::ptr_eq(&d.stream, &unit.stream));
        if !fits && !self.start_decoder(&unit).await {
            return;
        }
        self.look.take(unit);
        self.decode().await;
    }

    /// Gives the decoder what is due and has room.
    async fn decode(&mut self) {
        while let Some(made) = &mut self.decoder
            && let Some(due) = self.look.next(made.decoder.has_room())
        {
            self.metrics.motion_units_decoded.inc();
            let pushed = match due.alone {
                true => made.decoder.push_alone(due.unit.data, due.decoder_ns),
                false => made.decoder.push(due.unit.data, due.decoder_ns),
            };
            if let Err(error) = pushed {
                self.fault(error.to_string()).await;
            }
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
            let made = GreyDecoder::start(stream.codec, &stream.codec_data)?;
            Ok::<_, MediaError>((stream, made))
        });
        match started.await.expect("starting a decoder does not panic") {
            Ok((stream, (decoder, outputs))) => {
                tracing::info!(device = %self.say.device, decoder = decoder.name(), "motion is looked for");
                self.metrics.motion_decoder(decoder.name());
                self.look.restart();
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
            Some(DecoderOutput::Frame(frame)) => self.see(frame).await,
            Some(DecoderOutput::Fault { detail }) => self.fault(detail).await,
            None => self.fault("the decoder ended".into()).await,
        }
    }

    async fn see(&mut self, frame: GreyFrame) {
        self.metrics.motion_frames.inc();
        if std::mem::take(&mut self.faulty) {
            (self.backoff, self.retry_at) = (BACKOFF_FIRST, None);
            self.say_fault(FaultPhase::Cleared, "pictures are decoded again".into()).await;
        }
        let seen = self.look.see(&frame);
        if let Some(at_ns) = seen.at_ns {
            self.eye.look(at_ns, frame.width, &frame.pixels);
        }
        if let Some(change) = seen.change {
            self.change(change).await;
        }
        if let Some(at_ns) = seen.at_ns {
            self.close_long_motion(at_ns).await;
        }
        self.decode().await;
    }

    async fn change(&mut self, change: MotionChange) {
        match change {
            MotionChange::Start { at_ns, peak } => {
                self.say.start(self.moment(at_ns), &self.peak(&peak)).await;
            }
            MotionChange::End { at_ns, peak } => {
                self.say.end(self.moment(at_ns), &self.peak(&peak)).await;
            }
        }
    }

    /// Motion without end is closed on the way, and goes on as another.
    async fn close_long_motion(&mut self, now_ns: u64) {
        let now = self.moment(now_ns);
        if !self.say.is_long(now.time) {
            return;
        }
        let Some(peak) = self.look.take_peak() else { return };
        self.say.go_on(now, &self.peak(&peak)).await;
    }

    fn peak(&self, seen: &Sighting) -> Peak {
        let time = self.moment(seen.at_ns).time;
        Peak { time, score: seen.score, region: Some(seen.region), zone: seen.zone.clone() }
    }

    async fn end_event(&mut self) {
        if let Some(change) = self.look.finish() {
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
            tracing::error!(device = %self.say.device, detail, "motion decoder failed");
            self.say_fault(FaultPhase::Raised, detail).await;
        }
    }

    async fn say_fault(&self, phase: FaultPhase, detail: String) {
        let data = EventData::Fault(Fault { fault: FAULT.into(), phase, detail });
        self.say.say(Moment { time: Time::now(), clock: clock::quality() }, data).await;
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
    fn moment(&self, pts_ns: u64) -> Moment {
        let anchor = self.anchors.iter().rev().find(|a| a.pts_ns <= pts_ns).or(self.anchors.front());
        match anchor {
            Some(anchor) => Moment { time: anchor.at(pts_ns), clock: anchor.clock },
            None => Moment { time: Time::now(), clock: clock::quality() },
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

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::edge::camera::CamerasMetrics;
    use crate::edge::clip::ClipJob;
    use crate::edge::config::MotionConfig;
    use crate::edge::outbox::Outbox;
    use crate::media::testing::avc_stream;
    use crate::model::{DeviceId, Motion, MotionPhase, SeenBy, VideoCodec};

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
        let say = MotionSay {
            device,
            config: MotionConfig::default(),
            outbox,
            clips,
            shutdown: CancellationToken::new(),
            seen_by: SeenBy::Pixels,
            event: None,
        };
        let eye = Eye::forgetful(tokio::sync::watch::channel(None).0);
        let made = MotionWorker::new(say, eye, metrics);
        (made, said, jobs)
    }

    fn unit(stream: &Arc<Stream>, data: Bytes, sync: bool, pts_ns: u64) -> MotionUnit {
        let start: Time = "2026-03-01T17:00:00Z".parse().unwrap();
        let time = start + Duration::from_nanos(pts_ns);
        MotionUnit { stream: stream.clone(), data, sync, pts_ns, time, clock: clock::quality() }
    }

    /// A picture in which a bar has been walking around for as long as anyone can tell, from second 10 on.
    fn restless(n: u64) -> Vec<u8> {
        let left = (n % 150) as usize;
        let texture = |x: usize, y: usize| 60 + 20 * ((x / 9 + y / 7) % 2) as u8;
        let inside = |x: usize, y: usize| n >= 100 && (left..left + 8).contains(&x) && (50..70).contains(&y);
        (0..160 * 90)
            .map(|i| (i % 160, i / 160))
            .map(|(x, y)| if inside(x, y) { 150 } else { texture(x, y) })
            .collect()
    }

    #[tokio::test]
    async fn motion_without_end_is_closed_and_goes_on_as_another() {
        let (mut worker, mut said, mut jobs) = worker();
        worker.say.config.longest = jiff::SignedDuration::from_secs(12);
        worker.say.config.every_picture = true;
        worker.look = MotionLook::new(worker.say.config.clone());
        let stream = Arc::new(Stream { codec: VideoCodec::H264, codec_data: Vec::new() });
        for n in 0..400u64 {
            let unit = unit(&stream, Bytes::new(), n.is_multiple_of(20), n * SECOND_NS / 10);
            worker.remember(&unit);
            worker.look.take(unit);
            let pts_ns = worker.look.next(true).expect("every picture").decoder_ns;
            worker.see(GreyFrame { pts_ns, width: 160, height: 90, pixels: restless(n) }).await;
        }
        worker.end_event().await;
        drop(worker);
        let mut events = Vec::new();
        while let Some(EventData::Motion(motion)) = said.recv().await {
            events.push(motion);
        }
        let at = |second: u64| unit(&stream, Bytes::new(), true, second * SECOND_NS).time;
        assert_eq!(events.len(), 6, "{events:?}");
        let mut before: Option<Motion> = None;
        for pair in events.chunks(2) {
            let [start, end] = pair else { panic!() };
            assert_eq!((start.phase, end.phase), (MotionPhase::Start, MotionPhase::End));
            assert_eq!((start.motion, start.start), (end.motion, end.start));
            assert_eq!(start.continues, before.as_ref().map(|before| before.motion));
            assert!(end.peak >= Some(start.start) && end.peak <= end.end, "{end:?}");
            match &before {
                None => assert!(start.start >= at(9) && start.start <= at(11), "{start:?}"),
                Some(before) => assert_eq!(Some(start.start), before.end, "they touch"),
            }
            before = Some(end.clone());
        }
        let mut spans = Vec::new();
        while let Some(job) = jobs.recv().await {
            assert_eq!(
                job.peak,
                events.iter().find(|e| e.end == job.motion_end && e.end.is_some()).unwrap().peak
            );
            spans.push((job.from, job.to));
        }
        let ends: Vec<Time> = events.iter().filter_map(|event| event.end).collect();
        let rolls = Duration::from_secs(2);
        assert_eq!(
            spans,
            [(events[0].start - rolls, ends[0]), (ends[0], ends[1]), (ends[1], ends[2] + rolls)]
        );
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
