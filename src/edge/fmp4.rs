//! Fragmented MP4 (ISO/IEC 14496-12 and -15): init segments, fragments, and reading them back.
//!
//! Owns the byte format only. May not do I/O and may not change a picture: `mdat` holds the access
//! units as they came, byte for byte and in order; parameter sets stand in the sample entry.
//!
//! **Time.** A run has one timeline in ticks of [`TIMESCALE`]. Each fragment says its place on it, and
//! its wall-clock time, in `prft` (14496-12, 8.16.5). It has no `tfdt`: then a player counts on from the
//! fragment before (8.8.12), so whole fragments of a run, joined behind any init segment, begin at 0
//! and last as long as they last. With a `tfdt` deep in a run, FFmpeg and Chromium take the place on the
//! timeline for the duration of a clip, edit list or not; and without one they misread a `sidx`, so there
//! is none (measured with FFmpeg 5.1 and Chromium; they seek by the `moof`s). Media Source Extensions
//! want a `tfdt`: who feeds a fragment to them adds one to his working copy.
//!
//! RTP carries presentation times only: the decode times of a fragment are its presentation times in
//! order, and the offsets between the two are signed (`trun` version 1).
//!
//! **Open groups.** With H.265 a fragment may begin with a CRA picture, behind which come pictures that are shown
//! before it; some of these (RASL) are made from the group before as well. They are recorded like all others, bit for
//! bit, and the fragment begins with the first of them: who plays on from the fragment before shows them in their
//! place. Who begins here (a clip's first fragment) has a decoder that leaves the RASL pictures out, as it must (ITU-T
//! H.265, 8.1.3: NoRaslOutputFlag), and shows the CRA picture first, some pictures' time after the clip's beginning.
//! It is none of our business to cut them off or to renumber the CRA as BLA.
//!
//! **Audio** stands in a second track and in the same fragments: `prft`, `prft` of the audio, `moof` with two `traf`s,
//! `mdat` with the audio before the video. Its samples are the frames as they came over RTP: AAC access units, or the
//! bytes of a packet of G.711 (`alaw`, `ulaw`: the QuickTime entries that MP4RA lists; FFmpeg and GStreamer play them,
//! browsers play such a clip without sound). A fragment holds the frames that began before its end; without a `tfdt`
//! the audio of a clip begins with its video, so up to a frame beside its true time, which its `prft` tells. Known
//! flaws: FFmpeg adds the largest negative offset of a fragment's pictures to all of them, so that video with B-frames
//! comes some pictures' time behind its audio; audio that pauses for a whole fragment comes too early behind the pause.

use bytes::Bytes;

use crate::model::{Time, VideoCodec};

/// Ticks per second of a run's timeline; the clock rate of H.264 and H.265 over RTP (RFC 6184, 7798).
pub const TIMESCALE: u32 = 90_000;

/// Seconds from 1900 (NTP) to 1970 (Unix).
const NTP_UNIX_SECONDS: i64 = 2_208_988_800;
const TRACK: u32 = 1;
const AUDIO_TRACK: u32 = 2;
/// `trun` flags: data offset; per sample: duration, size, flags, composition offset.
const VIDEO_TRUN: u32 = 0x0f01;
/// `trun` flags: data offset; per sample: duration, size. All can be decoded alone, says `trex`.
const AUDIO_TRUN: u32 = 0x0301;
const SAMPLE_SYNC: u32 = 0x0200_0000;
const SAMPLE_NOT_SYNC: u32 = 0x0101_0000;
/// `prft` flags: the time was taken when the picture was captured, and consistently so.
const PRFT_CAPTURED: u32 = 24;
/// `prft` flags: an arbitrary moment (here: arrival at the box), but consistently so.
const PRFT_ARRIVED: u32 = 8;

/// One access unit, in decode order.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Presentation time on the run's timeline, ticks.
    pub pts: i64,
    /// A decoder can begin here.
    pub sync: bool,
    /// NAL units with lengths of four bytes before them.
    pub data: Bytes,
}

/// What an init segment says about the video, and the audio if there is any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Track {
    /// A `VisualSampleEntry` box with the parameter sets.
    pub sample_entry: Vec<u8>,
    pub width: u32,
    pub height: u32,
    pub audio: Option<AudioTrack>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AudioTrack {
    /// An `AudioSampleEntry` box.
    pub sample_entry: Vec<u8>,
    /// Ticks per second of its timeline: its clock rate over RTP.
    pub timescale: u32,
}

/// One frame of audio.
#[derive(Debug, Clone)]
pub struct AudioSample {
    /// How long until the next one, in ticks of the track's timescale.
    pub ticks: u32,
    pub data: Bytes,
}

/// The audio of a fragment.
#[derive(Debug, Clone)]
pub struct AudioPart {
    /// When the first frame began.
    pub wall: WallClock,
    /// Ticks of audio in the run before it.
    pub media_time: u64,
    /// At least one.
    pub samples: Vec<AudioSample>,
}

/// Where the first sample of a fragment stands in time, for `prft`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WallClock {
    pub time: Time,
    /// By the camera's clock; else by arrival at the box.
    pub camera: bool,
}

/// A fragment as bytes, and what it spans.
#[derive(Debug, Clone)]
pub struct Fragment {
    pub bytes: Vec<u8>,
    /// First presentation time and the end of the last picture, ticks.
    pub first_pts: i64,
    pub end_pts: i64,
    /// Where decoding goes on: the next fragment does not begin before this.
    pub end_dts: i64,
    /// It begins with a picture that can be decoded alone.
    pub sync: bool,
    pub samples: u32,
}

/// `ftyp` and `moov`; `duration` (ticks) is stated when it is known.
pub fn init_segment(track: &Track, duration: Option<u64>) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    put_box(&mut out, b"ftyp", |b| {
        b.extend_from_slice(b"iso6\0\0\0\0iso6isommp41");
        // It stands for AVC (14496-12, annex E); there is none for HEVC.
        if video_codec(&track.sample_entry) == Some(VideoCodec::H264) {
            b.extend_from_slice(b"avc1");
        }
    });
    put_box(&mut out, b"moov", |b| {
        let tracks: &[u32] = if track.audio.is_some() { &[TRACK, AUDIO_TRACK] } else { &[TRACK] };
        put_mvhd(b, duration, tracks.len() as u32 + 1);
        put_box(b, b"trak", |b| put_video_trak(b, track, duration));
        if let Some(audio) = &track.audio {
            put_box(b, b"trak", |b| put_audio_trak(b, audio, duration));
        }
        put_box(b, b"mvex", |b| {
            if let Some(duration) = duration {
                put_full(b, b"mehd", 1, 0, |b| u64_be(b, duration));
            }
            for &id in tracks {
                let flags = if id == AUDIO_TRACK { SAMPLE_SYNC } else { 0 };
                put_full(b, b"trex", 0, 0, |b| {
                    for value in [id, 1, 0, 0, flags] {
                        u32_be(b, value);
                    }
                });
            }
        });
    });
    out
}

/// An `AudioSampleEntry` without boxes of its own (14496-12, 12.2.3): all that `alaw` and `ulaw` need. They decode to
/// 16 bits.
pub fn plain_audio_entry(kind: &[u8; 4], channels: u16, rate: u16) -> Vec<u8> {
    let mut out = Vec::new();
    put_box(&mut out, kind, |b| {
        b.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 1]);
        b.extend_from_slice(&[0; 8]);
        u16_be(b, channels);
        u16_be(b, 16);
        u32_be(b, 0);
        u32_be(b, u32::from(rate) << 16);
    });
    out
}

/// `prft`, `moof` and `mdat` of `samples`. `end_pts` is the presentation time of what follows, if it
/// is known; `dts_from` is [`Fragment::end_dts`] of the fragment before; `wall` is the time of the
/// first presentation time.
///
/// # Panics
/// If `samples` is empty; callers never close an empty fragment.
pub fn fragment(
    sequence: u32,
    samples: &[Sample],
    end_pts: Option<i64>,
    dts_from: i64,
    wall: WallClock,
) -> Fragment {
    fragment_with_audio(sequence, samples, end_pts, dts_from, wall, None)
}

/// [`fragment`], with the audio that belongs to it.
///
/// # Panics
/// If `samples`, or those of `audio`, are empty.
pub fn fragment_with_audio(
    sequence: u32,
    samples: &[Sample],
    end_pts: Option<i64>,
    dts_from: i64,
    wall: WallClock,
    audio: Option<&AudioPart>,
) -> Fragment {
    let times = decode_times(samples, end_pts, dts_from);
    let first_pts = samples.iter().map(|s| s.pts).min().expect("a fragment has samples");
    let sound = audio.map_or(&[][..], |audio| &audio.samples);
    let audio_bytes: usize = sound.iter().map(|s| s.data.len()).sum();
    let video_bytes: usize = samples.iter().map(|s| s.data.len()).sum();
    let headers = 512 + 16 * samples.len() + 8 * sound.len();
    let mut bytes = Vec::with_capacity(headers + audio_bytes + video_bytes);
    put_prft(&mut bytes, TRACK, wall, first_pts.max(0) as u64);
    if let Some(audio) = audio {
        put_prft(&mut bytes, AUDIO_TRACK, audio.wall, audio.media_time);
    }
    let moof_at = bytes.len();
    let (mut video_offset_at, mut audio_offset_at) = (0, None);
    put_box(&mut bytes, b"moof", |b| {
        put_full(b, b"mfhd", 0, 0, |b| u32_be(b, sequence));
        put_traf(b, TRACK, |b| video_offset_at = put_trun(b, samples, &times));
        if audio.is_some() {
            put_traf(b, AUDIO_TRACK, |b| audio_offset_at = Some(put_audio_trun(b, sound)));
        }
    });
    // Offsets count from the moof and are known only once it is complete.
    let data_offset = (bytes.len() - moof_at + 8) as u32;
    patch(&mut bytes, video_offset_at, data_offset + audio_bytes as u32);
    if let Some(at) = audio_offset_at {
        patch(&mut bytes, at, data_offset);
    }
    put_box(&mut bytes, b"mdat", |b| {
        sound.iter().for_each(|s| b.extend_from_slice(&s.data));
        samples.iter().for_each(|s| b.extend_from_slice(&s.data));
    });
    Fragment {
        bytes,
        first_pts,
        end_pts: times.end_pts,
        end_dts: times.end_dts,
        sync: samples[0].sync,
        samples: samples.len() as u32,
    }
}

/// A fragment that stands in a file, found again by its structure.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    pub bytes: usize,
    pub wall: WallClock,
    pub first_pts: i64,
    /// Presentation time of what is decoded first: later than `first_pts` in an open group.
    pub first_decoded_pts: i64,
    pub end_pts: i64,
    pub end_dts: i64,
    pub sync: bool,
    pub samples: u32,
}

/// No timeline is longer (a million years); a torn header may say anything.
const MEDIA_TIME_MAX: i64 = 1 << 62;

/// A stretch of audio as long as a page of the disk that is nothing but zeros was never written.
const ZEROS_MAX: usize = 4096;

/// The whole fragment that `bytes` begin with, or why there is none. Beyond the boxes it checks that
/// the NAL units fill their samples exactly and that none holds a run of zeros, which no NAL unit may
/// (ITU-T H.264, 7.4.1, and H.265, 7.4.2.1): a stretch that the disk never got is seen. Audio may hold
/// some zeros, but not a page of them.
pub fn find_fragment(bytes: &[u8]) -> Result<Found, &'static str> {
    let (kind, body, end) = next_box(bytes, 0)?;
    if kind != *b"prft" {
        return Err("no prft where a fragment should begin");
    }
    let (wall, first_pts) = read_prft(body).ok_or("prft can't be read")?;
    let (mut kind, mut body, mut end) = next_box(bytes, end)?;
    if kind == *b"prft" {
        read_prft(body).ok_or("prft of the audio can't be read")?;
        (kind, body, end) = next_box(bytes, end)?;
    }
    if kind != *b"moof" {
        return Err("no moof behind the prft");
    }
    let (run, audio_sizes) = read_moof(body).ok_or("moof can't be read")?;
    let (kind, data, end) = next_box(bytes, end)?;
    if kind != *b"mdat" {
        return Err("no mdat behind the moof");
    }
    let audio_bytes = audio_sizes.iter().map(|&size| u64::from(size)).sum::<u64>();
    let audio_bytes = usize::try_from(audio_bytes).map_err(|_| "audio is too long")?;
    let (audio, video) = data.split_at_checked(audio_bytes).ok_or("mdat is too short for its audio")?;
    if has_zeros(audio, ZEROS_MAX) {
        return Err("the audio holds a page of zeros");
    }
    check_nal_units(video, &run.sizes)?;
    // Decode times begin anywhere at or behind the first presentation time; the offsets tell where.
    let (mut dts, mut least, mut most) = (0, i64::MAX, i64::MIN);
    for (duration, offset) in run.durations.iter().zip(&run.offsets) {
        least = least.min(dts + i64::from(*offset));
        most = most.max(dts + i64::from(*offset));
        dts += i64::from(*duration);
    }
    let first_decoded_pts = first_pts - least + i64::from(run.offsets[0]);
    let end_dts = first_pts - least + dts;
    let end_pts = end_dts.max(first_pts - least + most + 1);
    let samples = run.sizes.len() as u32;
    let sync = run.sync;
    Ok(Found { bytes: end, wall, first_pts, first_decoded_pts, end_pts, end_dts, sync, samples })
}

/// Length of the init segment (`ftyp`, `moov`) that `bytes` begin with, and its track.
pub fn read_init(bytes: &[u8]) -> Result<(usize, Track), &'static str> {
    let (kind, _, end) = next_box(bytes, 0)?;
    if kind != *b"ftyp" {
        return Err("it does not begin with ftyp");
    }
    let (kind, moov, end) = next_box(bytes, end)?;
    if kind != *b"moov" {
        return Err("no moov behind the ftyp");
    }
    let mut tracks = children(moov, b"trak");
    let video = tracks.next().and_then(sample_entry_of).filter(|e| e.len() > 36);
    let sample_entry = video.ok_or("no sample entry of the video")?.to_vec();
    let width = u32::from(u16::from_be_bytes([sample_entry[32], sample_entry[33]]));
    let height = u32::from(u16::from_be_bytes([sample_entry[34], sample_entry[35]]));
    let audio = match tracks.next() {
        None => None,
        Some(trak) => Some(read_audio_trak(trak).ok_or("the audio's track can't be read")?),
    };
    Ok((end, Track { sample_entry, width, height, audio }))
}

fn sample_entry_of(trak: &[u8]) -> Option<&[u8]> {
    descend(trak, &[b"mdia", b"minf", b"stbl", b"stsd"])?.get(8..)
}

fn read_audio_trak(trak: &[u8]) -> Option<AudioTrack> {
    let mdhd = descend(trak, &[b"mdia", b"mdhd"])?;
    let timescale = u32::from_be_bytes(mdhd.get(20..24)?.try_into().ok()?);
    let sample_entry = sample_entry_of(trak)?.to_vec();
    Some(AudioTrack { sample_entry, timescale })
}

/// The body of the `avcC` (or `hvcC`) box in a sample entry: what a decoder wants to know first.
pub fn codec_data(sample_entry: &[u8]) -> Option<&[u8]> {
    const BEHIND_FIELDS: usize = 8 + 78;
    let mut at = BEHIND_FIELDS;
    loop {
        let (kind, body, end) = next_box(sample_entry, at).ok()?;
        if kind == *b"avcC" || kind == *b"hvcC" {
            return Some(body);
        }
        at = end;
    }
}

/// How the video behind a sample entry is encoded.
pub fn video_codec(sample_entry: &[u8]) -> Option<VideoCodec> {
    match sample_entry.get(4..8)? {
        b"avc1" => Some(VideoCodec::H264),
        b"hvc1" => Some(VideoCodec::H265),
        _ => None,
    }
}

/// As in RFC 6381 and 14496-15, annex E: `avc1.64001f`, `hvc1.1.6.L93.B0`.
pub fn codec_name(sample_entry: &[u8]) -> Option<String> {
    let data = codec_data(sample_entry)?;
    match video_codec(sample_entry) {
        Some(VideoCodec::H264) => Some(format!("avc1.{}", hex::encode(data.get(1..4)?))),
        Some(VideoCodec::H265) => hevc_name(data.first_chunk()?),
        None => Some(std::str::from_utf8(sample_entry.get(4..8)?).ok()?.to_owned()),
    }
}

/// Profile, compatibility (its 32 flags in reverse order), tier and level, constraints without zeros behind them:
/// the first bytes of an `hvcC` (14496-15, 8.3.3.1).
fn hevc_name(hvcc: &[u8; 13]) -> Option<String> {
    let space = ["", "A", "B", "C"][usize::from(hvcc[1] >> 6)];
    let tier = if hvcc[1] & 0x20 == 0 { 'L' } else { 'H' };
    let profile = hvcc[1] & 0x1f;
    let compatibility = u32::from_be_bytes(hvcc[2..6].try_into().ok()?).reverse_bits();
    let level = hvcc[12];
    let mut name = format!("hvc1.{space}{profile}.{compatibility:X}.{tier}{level}");
    let constraints = &hvcc[6..12];
    let significant = constraints.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    for byte in &constraints[..significant] {
        name.push_str(&format!(".{byte:X}"));
    }
    Some(name)
}

/// As in RFC 6381: `mp4a.40.2`, `alaw`, `ulaw`.
pub fn audio_codec_name(sample_entry: &[u8]) -> Option<String> {
    /// Behind the fields of an `AudioSampleEntry`.
    const BOXES_AT: usize = 8 + 28;
    let kind = std::str::from_utf8(sample_entry.get(4..8)?).ok()?;
    if kind != "mp4a" {
        return Some(kind.to_owned());
    }
    let esds = children(sample_entry.get(BOXES_AT..)?, b"esds").next()?;
    // Version and flags; ES descriptor: id and flags; decoder configuration: its fields, then what is specific
    // (14496-1, 7.2.6).
    let es = descriptor(esds.get(4..)?, 3)?;
    let config = descriptor(es.get(3..)?, 4)?;
    let specific = descriptor(config.get(13..)?, 5)?;
    Some(format!("mp4a.{:x}.{}", config.first()?, specific.first()? >> 3))
}

/// The body of the descriptor that `bytes` begin with (14496-1, 8.3.3).
fn descriptor(bytes: &[u8], tag: u8) -> Option<&[u8]> {
    let (&found, mut rest) = bytes.split_first()?;
    let mut length = 0;
    for _ in 0..4 {
        let (&byte, behind) = rest.split_first()?;
        (length, rest) = (length << 7 | usize::from(byte & 0x7f), behind);
        if byte & 0x80 == 0 {
            break;
        }
    }
    (found == tag).then(|| rest.get(..length)).flatten()
}

struct Times {
    dts: Vec<i64>,
    durations: Vec<u32>,
    end_pts: i64,
    end_dts: i64,
}

/// Presentation times in order are the decode times. They never go back behind `dts_from`: where they would, they are
/// spread evenly over what is left until the end.
fn decode_times(samples: &[Sample], end_pts: Option<i64>, dts_from: i64) -> Times {
    let mut dts: Vec<i64> = samples.iter().map(|s| s.pts).collect();
    dts.sort_unstable();
    let last_pts = *dts.last().expect("a fragment has samples");
    let end_pts = end_pts.filter(|&end| end > last_pts).unwrap_or(last_pts + usual_duration(&dts));
    if dts[0] < dts_from {
        let count = dts.len() as i64;
        let span = (end_pts - dts_from).max(count);
        dts = (0..count).map(|n| dts_from + span * n / count).collect();
    }
    // Two pictures of one time are decoded one after the other.
    for n in 1..dts.len() {
        dts[n] = dts[n].max(dts[n - 1] + 1);
    }
    let end_dts = end_pts.max(dts[dts.len() - 1] + 1);
    let ends = dts[1..].iter().copied().chain([end_dts]);
    let durations = dts.iter().zip(ends).map(|(&from, to)| (to - from).clamp(1, u32::MAX.into()) as u32);
    Times { durations: durations.collect(), dts, end_pts, end_dts }
}

/// The median distance of pictures; a tenth of a second when there is only one.
fn usual_duration(sorted: &[i64]) -> i64 {
    let mut steps: Vec<i64> = sorted.windows(2).map(|w| w[1] - w[0]).filter(|&d| d > 0).collect();
    steps.sort_unstable();
    steps.get(steps.len() / 2).copied().unwrap_or(i64::from(TIMESCALE) / 10)
}

fn put_mvhd(out: &mut Vec<u8>, duration: Option<u64>, next_track: u32) {
    put_full(out, b"mvhd", 1, 0, |b| {
        u64_be(b, 0);
        u64_be(b, 0);
        u32_be(b, TIMESCALE);
        // A movie in fragments has no samples of its own; `mehd` says how long it is.
        u64_be(b, duration.unwrap_or(0));
        u32_be(b, 0x0001_0000);
        u16_be(b, 0x0100);
        b.extend_from_slice(&[0; 10]);
        put_matrix(b);
        b.extend_from_slice(&[0; 24]);
        u32_be(b, next_track);
    });
}

/// What differs between the tracks of a file.
struct Trak<'a> {
    id: u32,
    timescale: u32,
    /// Of `hdlr`.
    handler: &'a [u8; 4],
    /// `vmhd` or `smhd`, its flags and body.
    media_header: (&'a [u8; 4], u32, &'a [u8]),
    volume: u16,
    width: u32,
    height: u32,
    sample_entry: &'a [u8],
}

fn put_video_trak(out: &mut Vec<u8>, track: &Track, duration: Option<u64>) {
    let trak = Trak {
        id: TRACK,
        timescale: TIMESCALE,
        handler: b"vide",
        media_header: (b"vmhd", 1, &[0; 8]),
        volume: 0,
        width: track.width,
        height: track.height,
        sample_entry: &track.sample_entry,
    };
    put_trak(out, &trak, duration);
}

fn put_audio_trak(out: &mut Vec<u8>, track: &AudioTrack, duration: Option<u64>) {
    let trak = Trak {
        id: AUDIO_TRACK,
        timescale: track.timescale,
        handler: b"soun",
        media_header: (b"smhd", 0, &[0; 4]),
        volume: 0x0100,
        width: 0,
        height: 0,
        sample_entry: &track.sample_entry,
    };
    put_trak(out, &trak, duration);
}

fn put_trak(out: &mut Vec<u8>, trak: &Trak, duration: Option<u64>) {
    // Flags: enabled, in the movie, in the preview.
    put_full(out, b"tkhd", 1, 7, |b| {
        u64_be(b, 0);
        u64_be(b, 0);
        u32_be(b, trak.id);
        u32_be(b, 0);
        u64_be(b, duration.unwrap_or(0));
        b.extend_from_slice(&[0; 12]);
        u16_be(b, trak.volume);
        u16_be(b, 0);
        put_matrix(b);
        u32_be(b, trak.width << 16);
        u32_be(b, trak.height << 16);
    });
    put_box(out, b"mdia", |b| {
        put_full(b, b"mdhd", 1, 0, |b| {
            u64_be(b, 0);
            u64_be(b, 0);
            u32_be(b, trak.timescale);
            u64_be(b, 0);
            // Language "und".
            u32_be(b, 0x55c4_0000);
        });
        put_full(b, b"hdlr", 0, 0, |b| {
            u32_be(b, 0);
            b.extend_from_slice(trak.handler);
            b.extend_from_slice(&[0; 12]);
            b.extend_from_slice(b"camnet\0");
        });
        put_box(b, b"minf", |b| put_minf(b, trak));
    });
}

fn put_minf(out: &mut Vec<u8>, trak: &Trak) {
    let (kind, flags, body) = trak.media_header;
    put_full(out, kind, 0, flags, |b| b.extend_from_slice(body));
    put_box(out, b"dinf", |b| {
        put_full(b, b"dref", 0, 0, |b| {
            u32_be(b, 1);
            put_full(b, b"url ", 0, 1, |_| {});
        });
    });
    put_box(out, b"stbl", |b| {
        put_full(b, b"stsd", 0, 0, |b| {
            u32_be(b, 1);
            b.extend_from_slice(trak.sample_entry);
        });
        for kind in [b"stts", b"stsc", b"stco"] {
            put_full(b, kind, 0, 0, |b| u32_be(b, 0));
        }
        put_full(b, b"stsz", 0, 0, |b| u64_be(b, 0));
    });
}

fn put_prft(out: &mut Vec<u8>, track: u32, wall: WallClock, media_time: u64) {
    let flags = if wall.camera { PRFT_CAPTURED } else { PRFT_ARRIVED };
    put_full(out, b"prft", 1, flags, |b| {
        u32_be(b, track);
        u64_be(b, to_ntp(wall.time));
        u64_be(b, media_time);
    });
}

/// A `traf` whose data offset counts from the `moof`.
fn put_traf(out: &mut Vec<u8>, track: u32, trun: impl FnOnce(&mut Vec<u8>)) {
    put_box(out, b"traf", |b| {
        put_full(b, b"tfhd", 0, 0x02_0000, |b| u32_be(b, track));
        trun(b);
    });
}

/// Where its data offset stands, which is still zero.
fn put_trun(out: &mut Vec<u8>, samples: &[Sample], times: &Times) -> usize {
    let mut offset_at = 0;
    put_full(out, b"trun", 1, VIDEO_TRUN, |b| {
        u32_be(b, samples.len() as u32);
        offset_at = b.len();
        u32_be(b, 0);
        for (i, sample) in samples.iter().enumerate() {
            u32_be(b, times.durations[i]);
            u32_be(b, sample.data.len() as u32);
            u32_be(b, if sample.sync { SAMPLE_SYNC } else { SAMPLE_NOT_SYNC });
            u32_be(b, (sample.pts - times.dts[i]) as i32 as u32);
        }
    });
    offset_at
}

/// Where its data offset stands, which is still zero.
fn put_audio_trun(out: &mut Vec<u8>, samples: &[AudioSample]) -> usize {
    let mut offset_at = 0;
    put_full(out, b"trun", 0, AUDIO_TRUN, |b| {
        u32_be(b, samples.len() as u32);
        offset_at = b.len();
        u32_be(b, 0);
        for sample in samples {
            u32_be(b, sample.ticks);
            u32_be(b, sample.data.len() as u32);
        }
    });
    offset_at
}

fn patch(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

fn put_matrix(out: &mut Vec<u8>) {
    for value in [0x0001_0000, 0, 0, 0, 0x0001_0000, 0, 0, 0, 0x4000_0000] {
        u32_be(out, value);
    }
}

fn put_box(out: &mut Vec<u8>, kind: &[u8; 4], body: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    u32_be(out, 0);
    out.extend_from_slice(kind);
    body(out);
    let length = u32::try_from(out.len() - at).expect("limits keep a box far below 4 GiB");
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

fn put_full(out: &mut Vec<u8>, kind: &[u8; 4], version: u8, flags: u32, body: impl FnOnce(&mut Vec<u8>)) {
    put_box(out, kind, |b| {
        u32_be(b, u32::from(version) << 24 | flags);
        body(b);
    });
}

fn u16_be(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_be_bytes());
}
fn u32_be(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}
fn u64_be(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn to_ntp(time: Time) -> u64 {
    let ns = time.as_nanosecond() + i128::from(NTP_UNIX_SECONDS) * 1_000_000_000;
    let (seconds, rest) = (ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000));
    // Rounded up, so that reading it back (rounded down) gives the same nanosecond.
    let fraction = ((rest << 32) + 999_999_999) / 1_000_000_000;
    ((seconds as u64) << 32).wrapping_add(fraction as u64)
}

/// The moment of an NTP timestamp, taken as lying in the era of 1900 to 2036 or the one after it.
pub fn from_ntp(ntp: u64) -> Option<Time> {
    let era: i64 = if ntp >> 63 == 0 { 1 << 32 } else { 0 };
    let seconds = (ntp >> 32) as i64 + era - NTP_UNIX_SECONDS;
    let ns = ((ntp & 0xffff_ffff) * 1_000_000_000) >> 32;
    Time::new(seconds, ns as i32).ok()
}

type BoxFound<'a> = ([u8; 4], &'a [u8], usize);

/// Kind, body and end of the box at `at`.
fn next_box(bytes: &[u8], at: usize) -> Result<BoxFound<'_>, &'static str> {
    let header = bytes.get(at..at + 8).ok_or("the file ends in a box header")?;
    let length = u32::from_be_bytes(header[..4].try_into().expect("four bytes")) as usize;
    if length < 8 {
        return Err("a box has an impossible length");
    }
    let body = bytes.get(at + 8..at + length).ok_or("the file ends in a box")?;
    Ok((header[4..8].try_into().expect("four bytes"), body, at + length))
}

/// The bodies of the boxes of one kind; ends early at a torn one.
fn children<'a>(bytes: &'a [u8], wanted: &'a [u8; 4]) -> impl Iterator<Item = &'a [u8]> {
    let mut at = 0;
    let boxes = std::iter::from_fn(move || {
        let (kind, body, end) = next_box(bytes, at).ok()?;
        at = end;
        Some((kind, body))
    });
    boxes.filter(move |(kind, _)| kind == wanted).map(|(_, body)| body)
}

fn descend<'a>(bytes: &'a [u8], path: &[&'a [u8; 4]]) -> Option<&'a [u8]> {
    path.iter().try_fold(bytes, |bytes, wanted| children(bytes, wanted).next())
}

fn read_prft(body: &[u8]) -> Option<(WallClock, i64)> {
    let ntp = u64::from_be_bytes(body.get(8..16)?.try_into().ok()?);
    let media_time = u64::from_be_bytes(body.get(16..24)?.try_into().ok()?);
    let camera = u32::from(body[3]) == PRFT_CAPTURED;
    let media_time = i64::try_from(media_time).ok().filter(|&time| time <= MEDIA_TIME_MAX)?;
    Some((WallClock { time: from_ntp(ntp)?, camera }, media_time))
}

struct TrackRun {
    sync: bool,
    durations: Vec<u32>,
    sizes: Vec<u32>,
    offsets: Vec<i32>,
}

/// The video's samples and the sizes of the audio's. Reads what [`fragment`] writes, no other form.
fn read_moof(moof: &[u8]) -> Option<(TrackRun, Vec<u32>)> {
    let mut trafs = children(moof, b"traf");
    let video = read_trun(trafs.next()?)?;
    let audio = match trafs.next() {
        None => Vec::new(),
        Some(traf) => read_audio_trun(traf)?,
    };
    Some((video, audio))
}

fn read_trun(traf: &[u8]) -> Option<TrackRun> {
    let trun = descend(traf, &[b"trun"])?;
    let count = word(trun, 4)? as usize;
    if word(trun, 0)? != 1 << 24 | VIDEO_TRUN || count == 0 || trun.len() != 12 + 16 * count {
        return None;
    }
    let mut run = TrackRun { sync: false, durations: vec![], sizes: vec![], offsets: vec![] };
    for at in (12..trun.len()).step_by(16) {
        run.durations.push(word(trun, at)?);
        run.sizes.push(word(trun, at + 4)?);
        run.offsets.push(word(trun, at + 12)? as i32);
    }
    run.sync = word(trun, 20)? == SAMPLE_SYNC;
    Some(run)
}

fn read_audio_trun(traf: &[u8]) -> Option<Vec<u32>> {
    let trun = descend(traf, &[b"trun"])?;
    let count = word(trun, 4)? as usize;
    if word(trun, 0)? != AUDIO_TRUN || count == 0 || trun.len() != 12 + 8 * count {
        return None;
    }
    (12..trun.len()).step_by(8).map(|at| word(trun, at + 4)).collect()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn check_nal_units(mut data: &[u8], sizes: &[u32]) -> Result<(), &'static str> {
    for &size in sizes {
        let (mut sample, rest) = data.split_at_checked(size as usize).ok_or("mdat is too short")?;
        data = rest;
        while !sample.is_empty() {
            let (length, rest) = sample.split_at_checked(4).ok_or("a sample ends in a length")?;
            let length = u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
            let (nal, rest) = rest.split_at_checked(length).ok_or("a NAL unit ends behind its sample")?;
            if nal.is_empty() || has_three_zeros(nal) {
                return Err("a NAL unit holds zeros that no encoder writes");
            }
            sample = rest;
        }
    }
    if data.is_empty() { Ok(()) } else { Err("mdat is longer than its samples") }
}

/// True if `count` zeros stand behind one another.
fn has_zeros(bytes: &[u8], count: usize) -> bool {
    let mut zeros = 0;
    bytes.iter().any(|&byte| {
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        zeros >= count
    })
}

fn has_three_zeros(bytes: &[u8]) -> bool {
    // Any three neighbours hold one byte at an index divisible by three: look closer only there.
    (2..bytes.len()).step_by(3).any(|i| {
        bytes[i] == 0 && {
            let near = &bytes[i - 2..(i + 3).min(bytes.len())];
            near.windows(3).any(|w| w == [0, 0, 0])
        }
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub fn nal(first: u8, length: usize) -> Bytes {
        let mut bytes = (length as u32).to_be_bytes().to_vec();
        bytes.push(first);
        bytes.extend((1..length).map(|i| (i % 251) as u8 + 1));
        Bytes::from(bytes)
    }

    fn samples(pts: &[i64]) -> Vec<Sample> {
        let sample = |(i, &pts)| Sample { pts, sync: i == 0, data: nal(0x65, 20 + i) };
        pts.iter().enumerate().map(sample).collect()
    }

    #[test]
    fn a_fragment_is_found_again_with_its_times() {
        // Presentation times, what follows, where decoding was; the span and the next decode time.
        type Case<'a> = (&'a [i64], Option<i64>, i64, (i64, i64, i64));
        let cases: [Case; 7] = [
            (&[900, 1000, 1100], Some(1200), 0, (900, 1200, 1200)),
            (&[900, 1200, 1000, 1100], Some(1300), 900, (900, 1300, 1300)),
            (&[900, 1000, 1100], None, 0, (900, 1200, 1200)),
            (&[900], None, 0, (900, 9900, 9900)),
            // Cut between a picture and those shown before it: decode times go on, never back.
            (&[500, 600], Some(700), 800, (500, 700, 802)),
            // A CRA picture, two that are shown before it, two behind it; and if decoding was further already.
            (&[1200, 1000, 1100, 1300, 1400], Some(1500), 1000, (1000, 1500, 1500)),
            (&[1200, 1000, 1100, 1300, 1400], Some(1500), 1200, (1000, 1500, 1500)),
        ];
        for (pts, next, dts_from, (first, end, end_dts)) in cases {
            let time: Time = "2026-03-01T17:00:00.123456789Z".parse().unwrap();
            let wall = WallClock { time, camera: true };
            let made = fragment(7, &samples(pts), next, dts_from, wall);
            assert_eq!((made.first_pts, made.end_pts, made.end_dts), (first, end, end_dts), "{pts:?}");
            let mut file = made.bytes.clone();
            file.extend_from_slice(b"tail");
            let found = find_fragment(&file).unwrap();
            assert_eq!((found.bytes, found.samples), (made.bytes.len(), pts.len() as u32));
            assert_eq!((found.first_pts, found.end_dts, found.sync), (first, end_dts, true));
            assert_eq!(found.first_decoded_pts, pts[0]);
            assert_eq!(found.wall, wall);
        }
    }

    #[test]
    fn a_codec_has_its_name() {
        let entry = |kind: &[u8; 4], config: &[u8; 4], body: &[u8]| {
            let mut entry = vec![0; 86];
            entry[4..8].copy_from_slice(kind);
            put_box(&mut entry, config, |b| b.extend_from_slice(body));
            entry
        };
        let hvcc = |tail: &[u8; 12]| entry(b"hvc1", b"hvcC", &[&[1], &tail[..], &[0xf0, 0]].concat());
        for (entry, name) in [
            (entry(b"avc1", b"avcC", &[1, 0x64, 0, 0x1f, 0xff]), Some("avc1.64001f")),
            (hvcc(&[1, 0x60, 0, 0, 0, 0xb0, 0, 0, 0, 0, 0, 93]), Some("hvc1.1.6.L93.B0")),
            (hvcc(&[0x21, 0x60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 123]), Some("hvc1.1.6.H123")),
            (hvcc(&[0x42, 0x20, 0, 0, 0, 0x90, 0, 0x10, 0, 0, 0, 150]), Some("hvc1.A2.4.L150.90.0.10")),
            (entry(b"hvc1", b"hvcC", &[1, 1]), None),
            (entry(b"hvc1", b"xxxx", &[1, 1]), None),
        ] {
            assert_eq!(codec_name(&entry).as_deref(), name);
        }
    }

    fn with_audio(frames: usize, fill: u8) -> Fragment {
        let wall = WallClock { time: Time::UNIX_EPOCH, camera: true };
        let frame = AudioSample { ticks: 1024, data: Bytes::from(vec![fill; 300]) };
        let part = AudioPart { wall, media_time: 77, samples: vec![frame; frames] };
        fragment_with_audio(1, &samples(&[0, 10, 20]), None, 0, wall, Some(&part))
    }

    #[test]
    fn audio_stands_in_the_same_fragment_and_is_found_again() {
        let made = with_audio(5, 0xd5);
        let found = find_fragment(&made.bytes).unwrap();
        assert_eq!((found.bytes, found.samples), (made.bytes.len(), 3));
        assert_eq!((found.first_pts, found.end_pts), (made.first_pts, made.end_pts));
        for cut in 0..made.bytes.len() {
            assert!(find_fragment(&made.bytes[..cut]).is_err(), "{cut} bytes");
        }
        assert!(find_fragment(&with_audio(13, 0).bytes).is_ok(), "silence may be zeros");
        assert!(find_fragment(&with_audio(14, 0).bytes).is_err(), "but not for a whole page of the disk");
    }

    #[test]
    fn an_init_segment_is_read_back_with_its_audio() {
        let mut sample_entry = vec![0; 86];
        sample_entry[4..8].copy_from_slice(b"avc1");
        put_box(&mut sample_entry, b"avcC", |b| b.extend_from_slice(&[1, 0x64, 0, 0x1f]));
        let length = (sample_entry.len() as u32).to_be_bytes();
        sample_entry[..4].copy_from_slice(&length);
        let alaw = plain_audio_entry(b"alaw", 1, 8000);
        assert_eq!(audio_codec_name(&alaw).as_deref(), Some("alaw"));
        for audio in [None, Some(AudioTrack { sample_entry: alaw, timescale: 8000 })] {
            let track = Track { sample_entry: sample_entry.clone(), width: 0, height: 0, audio };
            let init = init_segment(&track, Some(90_000));
            assert_eq!(read_init(&init), Ok((init.len(), track)));
        }
    }

    #[test]
    fn a_torn_fragment_is_not_taken() {
        let whole =
            fragment(1, &samples(&[0, 10, 20]), None, 0, WallClock { time: Time::UNIX_EPOCH, camera: false })
                .bytes;
        for cut in 0..whole.len() {
            assert!(find_fragment(&whole[..cut]).is_err(), "{cut} bytes");
        }
        let mut zeros = whole.clone();
        let at = zeros.len() - 12;
        zeros[at..].fill(0);
        assert!(find_fragment(&zeros).is_err());
    }

    #[test]
    fn three_zeros_are_seen_wherever_they_stand() {
        for length in 0..12usize {
            for at in 0..=length {
                let mut bytes = vec![1u8; length + 3];
                bytes[at..at + 2].fill(0);
                assert!(!has_three_zeros(&bytes), "two at {at} of {length}");
                bytes[at + 2] = 0;
                assert!(has_three_zeros(&bytes), "three at {at} of {length}");
            }
        }
    }

    #[test]
    fn ntp_times_round_trip_to_the_nanosecond() {
        for text in
            ["1970-01-01T00:00:00Z", "2026-11-21T19:44:32.999999999Z", "2040-02-29T01:02:03.000000001Z"]
        {
            let time: Time = text.parse().unwrap();
            assert_eq!(from_ntp(to_ntp(time)), Some(time), "{text}");
        }
    }
}
