//! From access units to the ring, and to the account of the camera's time.
//!
//! Owns the ring of one camera while the process runs. One task, fed through a bounded queue; disk
//! work goes to blocking threads. May not wait for the hub: what is to be said goes to a queue of its
//! own, and motion is offered each access unit but never waited for.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use jiff::SignedDuration;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use super::audio::Audio;
use super::metrics::CameraMetrics;
use super::motion::MotionFeed;
use super::motion_told::ToldInput;
use super::session::{AccessUnit, AudioFrame, MetadataMessage, SenderReport, SessionItem};
use super::timing::{Mapping, Timing};
use crate::edge::clock::{self, Era, Reading, Watch};
use crate::edge::coverage::{Recorded, Tracker};
use crate::edge::fmp4::{self, Sample, TIMESCALE, Track, WallClock};
use crate::edge::health::camera::CameraClock;
use crate::edge::outbox::NewEvent;
use crate::edge::ring::{Durable, Report, Ring, RingError, RingRecovery, Run};
use crate::limits::{
    AUDIO_WAIT, CLOCK_EVENT_SPANS_MAX, FRAGMENT_BYTES_MAX, FRAGMENT_SECONDS_MAX, FRAME_GAP_MAX, RING_RETRY,
    RUN_MAX, SENDER_REPORT_WAIT,
};
use crate::model::{ClockSource, Coverage, DeviceId, EventData, Fault, FaultPhase, GapCause, Time};

/// What the recorder is told.
#[derive(Debug)]
pub enum Input {
    /// A connection begins; its timeline has nothing to do with the one before.
    Connected,
    Item(SessionItem),
    /// The connection ended, or none could be made.
    Lost {
        cause: GapCause,
        detail: String,
    },
}

/// The recorder of one camera.
pub struct Recorder {
    pub device: DeviceId,
    pub ring: Arc<Mutex<Ring>>,
    pub tracker: Tracker,
    pub metrics: CameraMetrics,
    /// Reports on their way to the outbox.
    pub events: mpsc::Sender<NewEvent>,
    /// End of the newest fragment in the ring.
    pub progress: watch::Sender<Time>,
    pub motion: MotionFeed,
    /// Who tells what the camera says it sees, if that is wanted.
    pub told: Option<mpsc::Sender<ToldInput>>,
    pub connection: Connection,
    /// The technician was told that the ring can't be opened or written.
    pub is_ring_faulty: bool,
    pub clock: Watch,
    /// The era of the clock that was seen last.
    pub era: Option<Era>,
    /// What is known of the camera's clock, for who tells how the camera is doing.
    pub clock_told: watch::Sender<CameraClock>,
}

/// What belongs to one connection.
#[derive(Default)]
pub struct Connection {
    began: Option<Instant>,
    timing: Timing,
    track: Option<Track>,
    /// The fragment that is being gathered; none while a key frame is awaited.
    gathering: Option<Gathering>,
    /// Complete fragments that wait for the first sender report, which gives their time, or for their audio.
    waiting: VecDeque<Closed>,
    audio: Audio,
    run: Option<OpenRun>,
    last_pts: Option<i64>,
    /// The ring can't be written; tried again then.
    paused_until: Option<Instant>,
}

#[derive(Default)]
struct Gathering {
    samples: Vec<Sample>,
    bytes: usize,
}

/// A complete fragment.
struct Closed {
    samples: Vec<Sample>,
    /// What is shown next; until the first of the next fragment is known ([`Connection::is_settled`]) it may still go
    /// down. None if nothing comes.
    end_pts: Option<i64>,
    at: Instant,
}

struct OpenRun {
    mapping: Mapping,
    /// Run timeline = connection's timeline minus this.
    base: i64,
    fragments: u32,
    end_dts: i64,
    /// Length of the audio so far, in its own ticks.
    audio_ticks: u64,
    began: Instant,
}

/// Room below the first picture on a run's timeline, for decode times and pictures shown before it.
const HEADROOM_TICKS: i64 = TIMESCALE as i64;

impl Recorder {
    /// Tells what happened before this start. `failed`: why the ring could not be opened at first.
    pub async fn boot(&mut self, recovery: RingRecovery, began: Time, failed: Option<(GapCause, String)>) {
        if recovery.torn_bytes > 0 || !recovery.lost.is_empty() {
            let torn_bytes = recovery.torn_bytes;
            let lost = recovery.lost.join("; ");
            tracing::warn!(device = %self.device, torn_bytes, lost, "ring recovered");
        }
        let last_run = recovery.last_run.map(Recorded::from);
        let reading = self.clock.read();
        self.era = Some(reading.era);
        self.tracker.clock(unsure(reading.era), recovery.eras);
        self.tracker.ring_from(self.ring.lock().expect("no panic holds it").from());
        let reports: Vec<Coverage> = recovery.reports.into_iter().map(|report| report.coverage).collect();
        let mut reports = self.tracker.boot(&reports, last_run, began, failed);
        reports.extend(self.tracker.not_yet_connected(reading.time));
        self.say(reports).await;
    }

    /// Serves until `inputs` closes, then makes everything durable.
    pub async fn serve(&mut self, mut inputs: mpsc::Receiver<Input>) {
        let mut ticks = tokio::time::interval(std::time::Duration::from_secs(1));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                input = inputs.recv() => match input {
                    Some(input) => self.take(input).await,
                    None => break,
                },
                _ = ticks.tick() => self.tick().await,
            }
        }
        self.close_fragment(None);
        self.write_waiting(true).await;
        self.end_run().await;
        self.motion.ended();
    }

    async fn take(&mut self, input: Input) {
        self.look_at_clock().await;
        match input {
            Input::Connected => {
                let (began, paused_until) = (Some(Instant::now()), self.connection.paused_until);
                self.connection = Connection { began, paused_until, ..Connection::default() };
                self.motion.connected();
            }
            Input::Item(SessionItem::Track(track)) => self.take_track(track).await,
            Input::Item(SessionItem::Unit(unit)) => self.take_unit(unit).await,
            Input::Item(SessionItem::SenderReport(report)) => self.take_report(report),
            Input::Item(SessionItem::Metadata(message)) => self.pass_on(message),
            Input::Item(SessionItem::Audio(frame)) => self.take_audio(frame),
            Input::Item(SessionItem::AudioReport(report)) => self.connection.audio.report(report),
            Input::Lost { cause, detail } => self.lost(cause, detail).await,
        }
    }

    /// What the camera says it sees is told by another.
    fn pass_on(&self, MetadataMessage { arrived, content }: MetadataMessage) {
        let content = match content {
            Ok(content) => content,
            Err(error) => {
                self.metrics.metadata_refused.inc();
                tracing::debug!(device = %self.device, %error, "metadata not taken");
                return;
            }
        };
        self.metrics.metadata_messages.inc();
        let told = self.told.as_ref().map(|told| told.try_send(ToldInput::Metadata { arrived, content }));
        if told.is_some_and(|sent| sent.is_err()) {
            self.metrics.metadata_refused.inc();
        }
    }

    async fn tick(&mut self) {
        self.look_at_clock().await;
        self.tell_corrections().await;
        self.write_waiting(false).await;
        let from = self.ring.lock().expect("no panic holds it").from();
        self.tracker.ring_from(from);
        let reports = self.tracker.tick(self.clock.read().time);
        self.say(reports).await;
    }

    /// When the box's clock was set, the run ends: it has one clock.
    async fn look_at_clock(&mut self) {
        let reading = self.clock.read();
        let before = self.era.replace(reading.era).unwrap_or(reading.era);
        if reading.era.id == before.id {
            if reading.era.is_sure && !before.is_sure {
                self.tracker.clock_is_sure();
            }
            return;
        }
        let step = SignedDuration::from_nanos(reading.era.offset_ns.saturating_sub(before.offset_ns));
        tracing::warn!(device = %self.device, %step, "the box's clock was set");
        self.break_off().await;
        let reports = self.tracker.clock_was_set(step, unsure(reading.era), reading.time);
        self.say(reports).await;
    }

    /// Says of which spans the time was wrong, and by how much, once that is known.
    async fn tell_corrections(&mut self) {
        for correction in self.clock.corrections() {
            let by = SignedDuration::from_millis(correction.correction_ms);
            let Some((reports, spans)) = self.tracker.corrected(correction.era, by) else { continue };
            self.say(reports).await;
            for spans in spans.chunks(CLOCK_EVENT_SPANS_MAX) {
                let Reading { time, quality, .. } = self.clock.read();
                let data = EventData::Clock(correction.event(spans.to_vec()));
                self.send(NewEvent { device: Some(self.device.clone()), time, clock: quality, data }).await;
            }
        }
    }

    async fn take_track(&mut self, track: Track) {
        self.close_fragment(None);
        self.write_waiting(true).await;
        self.end_run().await;
        self.motion.track(&track);
        self.connection.audio = Audio::new(track.audio.clone());
        self.connection.track = Some(track);
    }

    fn take_audio(&mut self, frame: AudioFrame) {
        self.metrics.audio_frames.inc();
        self.metrics.bytes.inc_by(frame.data.len() as u64);
        self.metrics.lost_packets.inc_by(frame.lost_packets.into());
        self.metrics.audio_frames_skipped.inc_by(self.connection.audio.push(frame));
    }

    fn take_report(&mut self, report: SenderReport) {
        self.metrics.sender_reports.inc();
        let off_ms = report.time.as_millisecond() - report.arrived.as_millisecond();
        self.clock_told.send_modify(|told| told.off_ms = Some(off_ms));
        self.connection.timing.report(report);
    }

    async fn take_unit(&mut self, unit: AccessUnit) {
        self.metrics.access_units.inc();
        self.metrics.key_frames.inc_by(unit.sync.into());
        self.metrics.bytes.inc_by(unit.data.len() as u64);
        self.metrics.lost_packets.inc_by(unit.lost_packets.into());
        self.check_jump(unit.pts).await;
        self.connection.timing.unit(unit.pts, unit.arrived);
        self.connection.last_pts = Some(unit.pts);
        if let Some(mapping) = self.mapping_so_far() {
            self.motion.unit(&unit, mapping);
        }
        let full = self.connection.gathering.as_ref().is_some_and(|g| g.is_full(unit.pts));
        if unit.sync || full {
            self.close_fragment(Some(unit.pts));
            if unit.sync {
                self.perhaps_end_run().await;
            }
            let begins = !unit.sync || self.may_write();
            self.connection.gathering = begins.then(Gathering::default);
        }
        // Shown before the random access point that it comes behind: there the fragment before has its end.
        if let Some(end_pts) = self.connection.waiting.back_mut().and_then(|closed| closed.end_pts.as_mut()) {
            *end_pts = unit.pts.min(*end_pts);
        }
        match &mut self.connection.gathering {
            Some(gathering) => gathering.push(unit),
            None => self.metrics.access_units_skipped.inc(),
        }
        self.write_waiting(false).await;
    }

    /// Ends the run when the timeline jumps: nothing is known of the time between.
    async fn check_jump(&mut self, pts: i64) {
        let gap_ticks = i64::from(TIMESCALE) * FRAME_GAP_MAX.as_secs() as i64;
        let Some(last) = self.connection.last_pts else { return };
        if (pts - last).abs() <= gap_ticks {
            return;
        }
        let seconds = (pts - last) as f64 / f64::from(TIMESCALE);
        tracing::warn!(device = %self.device, seconds, "timeline of the pictures jumped");
        self.break_off().await;
        let detail = format!("pictures jumped by {seconds:.1} s");
        self.gap(GapCause::StreamBroken, detail).await;
    }

    /// Ends the run within a connection; what is known of its time is forgotten.
    async fn break_off(&mut self) {
        self.close_fragment(None);
        self.write_waiting(true).await;
        self.end_run().await;
        self.connection.timing = Timing::default();
        if self.connection.began.is_some() {
            self.connection.began = Some(Instant::now());
            self.motion.connected();
        }
        if let Some(track) = &self.connection.track {
            self.motion.track(track);
        }
    }

    async fn perhaps_end_run(&mut self) {
        let Some(run) = &self.connection.run else { return };
        let shifted = self.connection.timing.has_shifted(&run.mapping);
        if shifted || run.began.elapsed() >= RUN_MAX {
            self.write_waiting(true).await;
            self.end_run().await;
            if shifted {
                self.metrics.clock_shifts.inc();
                tracing::info!(device = %self.device, "clock of the pictures shifted, a new run begins");
            }
        }
    }

    fn may_write(&mut self) -> bool {
        let paused = self.connection.paused_until.is_some_and(|until| Instant::now() < until);
        !paused && self.connection.track.is_some()
    }

    /// Closes what was gathered; it is written once its time, its end and its audio are known.
    fn close_fragment(&mut self, end_pts: Option<i64>) {
        if let Some(Gathering { samples, .. }) = self.connection.gathering.take()
            && !samples.is_empty()
        {
            self.connection.waiting.push_back(Closed { samples, end_pts, at: Instant::now() });
        }
    }

    /// Writes the complete fragments, unless a sender report may still come that gives their time, or a picture or
    /// audio that belongs to them.
    async fn write_waiting(&mut self, at_once: bool) {
        let waited = self.connection.began.is_none_or(|began| began.elapsed() >= SENDER_REPORT_WAIT);
        let known = self.connection.run.is_some() || self.connection.timing.has_report();
        while at_once || ((waited || known) && self.connection.front_is_ready()) {
            let Some(closed) = self.connection.waiting.pop_front() else { return };
            if let Err(error) = self.write(closed).await {
                return self.ring_failed(error).await;
            }
        }
    }

    async fn write(&mut self, closed: Closed) -> Result<(), RingError> {
        let begins = self.begin_run_if_none(&closed);
        let Some(run) = self.connection.run.as_mut() else { return Ok(()) };
        let base = run.base;
        let first = closed.first_pts();
        let mut samples = closed.samples;
        samples.iter_mut().for_each(|s| s.pts -= base);
        let camera = run.mapping.clock.source == ClockSource::Camera;
        let wall = WallClock { time: run.mapping.time(first), camera };
        let audio = &mut self.connection.audio;
        if begins.is_some() {
            self.metrics.audio_frames_skipped.inc_by(audio.drop_before(&run.mapping, wall.time));
        }
        let end = closed.end_pts.map_or(Time::MAX, |end| run.mapping.time(end));
        let audio = audio.take_until(&run.mapping, end, run.audio_ticks);
        let audio_samples = audio.iter().flat_map(|part| &part.samples);
        run.audio_ticks += audio_samples.map(|sample| u64::from(sample.ticks)).sum::<u64>();
        let end_pts = closed.end_pts.map(|end| end - base);
        let (number, from) = (run.fragments + 1, run.end_dts);
        let fragment = fmp4::fragment_with_audio(number, &samples, end_pts, from, wall, audio.as_ref());
        let end = run.mapping.time(fragment.end_pts + base);
        (run.fragments, run.end_dts) = (run.fragments + 1, fragment.end_dts);
        let bytes = fragment.bytes.len() as u64;
        let durable = self
            .with_ring(move |ring| {
                if let Some(begins) = begins {
                    ring.begin_run(begins);
                }
                ring.append(&fragment, wall.time, end)?;
                ring.sync_if_due(Instant::now())
            })
            .await?;
        self.metrics.fragments.inc();
        self.metrics.ring_bytes.inc_by(bytes);
        self.connection.paused_until = None;
        if std::mem::take(&mut self.is_ring_faulty) {
            let detail = "the ring is written again".to_owned();
            self.send(fault_event(&self.device, FaultPhase::Cleared, detail)).await;
        }
        self.progress.send_replace(end);
        if let Some(durable) = durable {
            let reports = self.tracker.recorded(durable.into(), self.clock.read().time);
            self.say(reports).await;
        }
        Ok(())
    }

    fn begin_run_if_none(&mut self, closed: &Closed) -> Option<Run> {
        if self.connection.run.is_some() {
            return None;
        }
        let mapping = self.connection.timing.choose(self.clock.read().quality)?;
        self.tracker.run_begins(mapping.clock.source == ClockSource::Box);
        let track = self.connection.track.clone()?;
        let first = closed.first_pts();
        self.connection.run = Some(OpenRun {
            mapping,
            base: first - HEADROOM_TICKS,
            fragments: 0,
            end_dts: 0,
            audio_ticks: 0,
            began: Instant::now(),
        });
        self.clock_told.send_modify(|told| told.stamped = Some(mapping.clock));
        let (run, start) = (Uuid::now_v7(), mapping.time(first));
        tracing::info!(device = %self.device, %run, %start, clock = ?mapping.clock, "recording");
        Some(Run { run, start, clock: mapping.clock, track })
    }

    async fn end_run(&mut self) {
        if self.connection.run.take().is_none() {
            return;
        }
        let (durable, ended) = self.with_ring(Ring::end_run).await;
        if let Err(error) = ended {
            self.metrics.ring_errors.inc();
            tracing::error!(device = %self.device, error = %chain(&error), "ring can't be made durable");
        }
        // A run may end before its first report.
        let mut reports = Vec::new();
        if let Some(durable) = durable {
            reports = self.tracker.recorded(durable.into(), self.clock.read().time);
        }
        reports.extend(self.tracker.run_ended(durable.map(Recorded::from)));
        self.say(reports).await;
    }

    async fn lost(&mut self, cause: GapCause, detail: String) {
        self.close_fragment(None);
        self.write_waiting(true).await;
        self.end_run().await;
        self.motion.ended();
        if let Some(told) = &self.told {
            // If it is full, the end is seen by the silence.
            let _ = told.try_send(ToldInput::Lost);
        }
        let paused_until = self.connection.paused_until;
        self.connection = Connection { paused_until, ..Connection::default() };
        self.gap(cause, detail).await;
    }

    /// The ring could not be written: the run ends, and a key frame some seconds later tries again.
    async fn ring_failed(&mut self, error: RingError) {
        self.metrics.ring_errors.inc();
        if self.connection.paused_until.is_none() {
            tracing::error!(device = %self.device, error = %chain(&error), "ring can't be written");
        }
        self.connection.paused_until = Some(Instant::now() + RING_RETRY);
        self.connection.waiting.clear();
        self.connection.gathering = None;
        self.connection.run = None;
        let (ended, _) = self.with_ring(Ring::end_run).await;
        let mut reports = Vec::new();
        if let Some(durable) = ended {
            reports = self.tracker.recorded(durable.into(), self.clock.read().time);
        }
        reports.extend(self.tracker.run_ended(ended.map(Recorded::from)));
        self.say(reports).await;
        let (cause, detail) = (cause_of(&error), chain(&error));
        self.gap(cause, detail.clone()).await;
        if !std::mem::replace(&mut self.is_ring_faulty, true) {
            self.send(fault_event(&self.device, FaultPhase::Raised, detail)).await;
        }
    }

    async fn gap(&mut self, cause: GapCause, detail: String) {
        let reports = self.tracker.gap(cause, Some(detail), self.clock.read().time);
        self.say(reports).await;
    }

    /// Makes reports durable in the ring, then sends them on their way.
    async fn say(&mut self, reports: Vec<Coverage>) {
        if reports.is_empty() {
            return;
        }
        let kept = |coverage: &Coverage| Report {
            coverage: coverage.clone(),
            era: self.tracker.era_of(coverage.span),
        };
        let kept = reports.iter().map(kept).collect();
        if let Err(error) = self.with_ring(move |ring| ring.report(kept)).await {
            self.metrics.ring_errors.inc();
            tracing::warn!(device = %self.device, error = %chain(&error), "ring can't keep a report");
        }
        for report in reports {
            let Reading { time, quality, .. } = self.clock.read();
            let data = EventData::Coverage(report);
            self.send(NewEvent { device: Some(self.device.clone()), time, clock: quality, data }).await;
        }
    }

    /// To the outbox. Nobody takes it when the process ends in a hurry.
    async fn send(&self, event: NewEvent) {
        let _ = self.events.send(event).await;
    }

    fn mapping_so_far(&self) -> Option<Mapping> {
        match &self.connection.run {
            Some(run) => Some(run.mapping),
            None => self.connection.timing.choose(self.clock.read().quality),
        }
    }

    async fn with_ring<T: Send + 'static>(&self, work: impl FnOnce(&mut Ring) -> T + Send + 'static) -> T {
        let ring = self.ring.clone();
        let done = tokio::task::spawn_blocking(move || work(&mut ring.lock().expect("no panic holds it")));
        done.await.expect("ring work does not panic and is not cancelled")
    }
}

/// The era, if a correction may come for it.
fn unsure(era: Era) -> Option<Uuid> {
    (!era.is_sure).then_some(era.id)
}

/// The cause of the gap that a ring leaves which can't be opened or written.
pub fn cause_of(error: &RingError) -> GapCause {
    if error.is_full() { GapCause::DiskFull } else { GapCause::DiskFailed }
}

/// What the technician is told of it.
pub fn fault_event(device: &DeviceId, phase: FaultPhase, detail: String) -> NewEvent {
    NewEvent {
        device: Some(device.clone()),
        time: Time::now(),
        clock: clock::quality(),
        data: EventData::Fault(Fault { fault: RING_FAULT.into(), phase, detail }),
    }
}

const RING_FAULT: &str = "ring_unwritable";
impl Closed {
    fn first_pts(&self) -> i64 {
        self.samples.iter().map(|s| s.pts).min().expect("a closed fragment has samples")
    }
}

impl Connection {
    fn front_is_ready(&self) -> bool {
        let is_settled = self.waiting.len() > 1 || self.is_settled();
        is_settled && self.waiting.front().is_some_and(|closed| self.has_audio_of(closed))
    }

    /// All pictures that are shown before the first of the fragment that is being gathered have come: pictures shown
    /// after it never come before them (ITU-T H.265, 7.4.2.2).
    fn is_settled(&self) -> bool {
        self.gathering.as_ref().is_none_or(|gathering| {
            let first = gathering.samples.first().map_or(i64::MIN, |first| first.pts);
            gathering.samples.last().is_some_and(|last| last.pts > first)
        })
    }

    /// The audio of a fragment has come, or it has waited long enough.
    fn has_audio_of(&self, closed: &Closed) -> bool {
        let Some(end_pts) = closed.end_pts else { return true };
        let mapping = self.run.as_ref().map(|run| run.mapping);
        let mapping = mapping.or_else(|| self.timing.choose(clock::quality()));
        closed.at.elapsed() >= AUDIO_WAIT || mapping.is_none_or(|m| self.audio.reaches(&m, m.time(end_pts)))
    }
}

impl Gathering {
    fn push(&mut self, unit: AccessUnit) {
        self.bytes += unit.data.len();
        self.samples.push(Sample { pts: unit.pts, sync: unit.sync, data: unit.data });
    }

    fn is_full(&self, pts: i64) -> bool {
        let ticks_max = i64::from(TIMESCALE) * FRAGMENT_SECONDS_MAX as i64;
        let long = self.samples.first().is_some_and(|first| pts - first.pts >= ticks_max);
        long || self.bytes >= FRAGMENT_BYTES_MAX
    }
}

impl From<Durable> for Recorded {
    fn from(durable: Durable) -> Self {
        let Durable { run, start, end, commitment } = durable;
        Self { run, start, end, commitment }
    }
}

/// An error and its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
