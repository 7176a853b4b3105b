//! The audio of one connection, until the fragment that it belongs to is written.
//!
//! Owns the queue and the choice of which frames a fragment takes: those that begin before its end, each once and in
//! order. Pure: times come in. May not change a frame.

use std::collections::VecDeque;

use super::session::{AudioFrame, SenderReport};
use super::timing::{Mapping, Timing};
use crate::edge::fmp4::{AudioPart, AudioSample, AudioTrack, TIMESCALE, WallClock};
use crate::limits::{AUDIO_BYTES_WAITING_MAX, AUDIO_FRAMES_WAITING_MAX, FRAME_GAP_MAX};
use crate::model::{ClockSource, Time};

/// Frames that wait, and what is known of their time.
#[derive(Debug, Default)]
pub struct Audio {
    /// None: there is no audio, and nothing comes in.
    track: Option<AudioTrack>,
    timing: Timing,
    frames: VecDeque<AudioFrame>,
    bytes: usize,
    /// Where the newest frame ended, in ticks of the audio.
    newest_end: Option<i64>,
}

impl Audio {
    pub fn new(track: Option<AudioTrack>) -> Self {
        Self { track, ..Self::default() }
    }

    /// Takes a frame; how many of the oldest had to go to make room.
    pub fn push(&mut self, frame: AudioFrame) -> u64 {
        let Some(track) = &self.track else { return 0 };
        self.timing.unit(video_ticks(track, frame.pts), frame.arrived);
        self.newest_end = Some(frame.pts + i64::from(frame.ticks));
        self.bytes += frame.data.len();
        self.frames.push_back(frame);
        let mut dropped = 0;
        while self.frames.len() > AUDIO_FRAMES_WAITING_MAX || self.bytes > AUDIO_BYTES_WAITING_MAX {
            self.pop();
            dropped += 1;
        }
        dropped
    }

    /// A sender report of the audio: its point on the timeline in ticks of the audio.
    pub fn report(&mut self, report: SenderReport) {
        if let Some(track) = &self.track {
            self.timing.report(SenderReport { pts: video_ticks(track, report.pts), ..report });
        }
    }

    /// Everything that was to be heard before `time` has come, or nothing will.
    pub fn reaches(&self, run: &Mapping, time: Time) -> bool {
        match (&self.track, self.newest_end) {
            (Some(track), Some(end)) => self.time(track, run, end).is_none_or(|heard| heard >= time),
            (Some(_), None) => false,
            (None, _) => true,
        }
    }

    /// Forgets what was heard before the first picture of a run; how many frames that is.
    pub fn drop_before(&mut self, run: &Mapping, start: Time) -> u64 {
        let mut dropped = 0;
        while self.first_time(run).is_some_and(|first| first < start) {
            self.pop();
            dropped += 1;
        }
        dropped
    }

    /// The frames that began before `end`, of which the first stands at `media_time` in the run; none if there are none.
    pub fn take_until(&mut self, run: &Mapping, end: Time, media_time: u64) -> Option<AudioPart> {
        let first = self.first_time(run)?;
        let mut samples = Vec::new();
        while self.first_time(run).is_some_and(|begins| begins < end)
            && let Some(frame) = self.pop()
        {
            let ticks = self.ticks_to_next(&frame);
            samples.push(AudioSample { ticks, data: frame.data });
        }
        let wall = WallClock { time: first, camera: run.clock.source == ClockSource::Camera };
        (!samples.is_empty()).then_some(AudioPart { wall, media_time, samples })
    }

    /// Until the next frame began, so that a frame that was lost leaves the others in their place; its own length
    /// where none waits behind it, or one that is too far off.
    fn ticks_to_next(&self, frame: &AudioFrame) -> u32 {
        let gap_max = self.track.as_ref().map_or(0, |t| u64::from(t.timescale) * FRAME_GAP_MAX.as_secs());
        let step = self.frames.front().and_then(|next| u64::try_from(next.pts - frame.pts).ok());
        let step = step.filter(|step| (1..=gap_max).contains(step));
        step.and_then(|step| u32::try_from(step).ok()).unwrap_or(frame.ticks)
    }

    fn first_time(&self, run: &Mapping) -> Option<Time> {
        self.time(self.track.as_ref()?, run, self.frames.front()?.pts)
    }

    fn time(&self, track: &AudioTrack, run: &Mapping, pts: i64) -> Option<Time> {
        Some(self.timing.beside(run)?.time(video_ticks(track, pts)))
    }

    fn pop(&mut self) -> Option<AudioFrame> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.data.len();
        Some(frame)
    }
}

/// A point on the audio's timeline in the ticks that [`Timing`] counts; 11 µs at most beside it.
fn video_ticks(track: &AudioTrack, pts: i64) -> i64 {
    let ticks = i128::from(pts) * i128::from(TIMESCALE) / i128::from(track.timescale.max(1));
    i64::try_from(ticks).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::edge::clock;

    const FRAME_TICKS: u32 = 1024;

    fn at(ms: i64) -> Time {
        Time::from_millisecond(1_772_000_000_000 + ms).unwrap()
    }

    /// The video: its timeline begins at 0 ms, by the camera's clock.
    fn run() -> Mapping {
        let mut timing = Timing::default();
        timing.unit(0, at(0));
        timing.report(SenderReport { pts: 0, time: at(0), arrived: at(0) });
        timing.choose(clock::quality()).unwrap()
    }

    /// Audio of 16 kHz, a frame each 64 ms, that begins `from_ms` after the video and comes 100 ms late.
    fn audio(from_ms: i64, frames: i64, lost: &[i64]) -> Audio {
        let track = AudioTrack { sample_entry: Vec::new(), timescale: 16_000 };
        let mut audio = Audio::new(Some(track));
        audio.report(SenderReport { pts: 0, time: at(from_ms), arrived: at(from_ms) });
        for n in (0..frames).filter(|n| !lost.contains(n)) {
            let (pts, data) = (n * i64::from(FRAME_TICKS), Bytes::from(vec![n as u8; 10]));
            let arrived = at(from_ms + n * 64 + 100);
            assert_eq!(audio.push(AudioFrame { pts, ticks: FRAME_TICKS, data, arrived, lost_packets: 0 }), 0);
        }
        audio
    }

    fn numbers(part: &AudioPart) -> Vec<u8> {
        part.samples.iter().map(|sample| sample.data[0]).collect()
    }

    #[test]
    fn a_fragment_takes_the_frames_that_begin_before_its_end() {
        let mut audio = audio(-100, 30, &[]);
        assert_eq!(audio.drop_before(&run(), at(0)), 2, "at -100 and -36 ms there was no picture yet");
        let mut media_time = 0;
        for (end_ms, first_ms, expected) in
            [(500, 28, 2..10), (501, 540, 10..10), (1000, 540, 10..18), (9000, 1052, 18..30)]
        {
            let part = audio.take_until(&run(), at(end_ms), media_time);
            let Some(part) = part else {
                assert!(expected.is_empty(), "until {end_ms} ms");
                continue;
            };
            assert_eq!(numbers(&part), expected.collect::<Vec<u8>>(), "until {end_ms} ms");
            assert_eq!((part.wall.time, part.media_time), (at(first_ms), media_time));
            media_time += part.samples.iter().map(|s| u64::from(s.ticks)).sum::<u64>();
        }
        assert_eq!(media_time, 28 * u64::from(FRAME_TICKS));
        assert!(audio.take_until(&run(), at(9000), media_time).is_none());
    }

    #[test]
    fn a_lost_frame_leaves_the_others_in_their_place() {
        let mut audio = audio(0, 6, &[2, 3]);
        let part = audio.take_until(&run(), at(9000), 0).unwrap();
        let ticks: Vec<u32> = part.samples.iter().map(|s| s.ticks / FRAME_TICKS).collect();
        assert_eq!((numbers(&part), ticks), (vec![0, 1, 4, 5], vec![1, 3, 1, 1]));
    }

    #[test]
    fn a_fragment_waits_for_audio_that_is_late_but_not_where_there_is_none() {
        let audio = audio(0, 10, &[]);
        assert!(audio.reaches(&run(), at(640)) && !audio.reaches(&run(), at(641)));
        assert!(Audio::new(None).reaches(&run(), at(641)));
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut audio = audio(0, 0, &[]);
        let mut dropped = 0;
        for n in 0..2 * AUDIO_FRAMES_WAITING_MAX as i64 {
            let data = Bytes::from(vec![1; 10]);
            dropped += audio.push(AudioFrame { pts: n, ticks: 1, data, arrived: at(n), lost_packets: 0 });
        }
        assert_eq!(dropped, AUDIO_FRAMES_WAITING_MAX as u64);
        let data = Bytes::from(vec![1; AUDIO_BYTES_WAITING_MAX - 20]);
        audio.push(AudioFrame { pts: 0, ticks: 1, data, arrived: at(0), lost_packets: 0 });
        assert!(audio.bytes <= AUDIO_BYTES_WAITING_MAX && audio.frames.len() < 4);
    }
}
