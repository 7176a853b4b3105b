//! The archive: ten thousand cameras, a hundred clips a day each, drawn by arithmetic, straight into the index.
//!
//! Owns the recipe. Cameras stand on a grid of 100 × 100, 60 m apart, in a mixed order; two share a box. Every 864 s
//! each camera has a clip of 8 to 40 s at a moment of its own, with a thumbnail; the hub has all thumbnails and four
//! of five clips. Each camera's account is a recorded span of four such rounds; of one in fifty, the third round is a gap.
//! So a clip is 3.3 records of the journal, and a day a million clips.

use camnet::hub::truth::{Arrived, HubRecord, StoredFile};
use camnet::model::{
    BoxId, ClipCut, ClockQuality, ClockSource, Coverage, DeviceId, Epoch, Event, EventData, GapCause,
    RunCommitment, Sha256Hash, Source, SpanState, Still, SyncState, Time, Video,
};
use uuid::Uuid;

pub const CAMERAS: u64 = 10_000;
/// Cameras of one row of the grid.
pub const ROW: u64 = 100;
/// Between two clips of a camera, seconds.
pub const ROUND_S: i64 = 864;
/// The archive begins here.
pub const BASE_S: i64 = 1_800_000_000;
/// Rounds of one span of coverage.
pub const SPAN_ROUNDS: u64 = 4;

/// A drawn number for a camera, a round and a purpose.
pub fn draw(camera: u64, round: u64, what: u64) -> u64 {
    let mut x =
        camera.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ round.wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ (what << 56);
    for _ in 0..2 {
        x = (x ^ (x >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb);
    }
    x ^ (x >> 29)
}

/// The camera at a place of the grid.
pub fn camera_at(place: u64) -> u64 {
    (place * 7919) % CAMERAS
}

pub fn device(camera: u64) -> DeviceId {
    DeviceId::new(format!("cam-{camera:05}")).expect("an id")
}

fn box_of(camera: u64) -> BoxId {
    BoxId::new(format!("box-{:05}", camera / 2)).expect("an id")
}

/// A clip in numbers; the index and PostgreSQL get the same.
pub struct Clip {
    pub camera: u64,
    pub round: u64,
    pub id: Uuid,
    pub start_us: i64,
    pub end_us: i64,
    pub sha256: [u8; 32],
    pub still: [u8; 32],
    pub bytes: u64,
    pub run: Uuid,
    pub is_stored: bool,
}

fn bits(camera: u64, round: u64, what: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (n, part) in bytes.chunks_exact_mut(8).enumerate() {
        part.copy_from_slice(&draw(camera, round, what + n as u64).to_le_bytes());
    }
    bytes
}

pub fn clip(camera: u64, round: u64) -> Clip {
    let start_us =
        (BASE_S + round as i64 * ROUND_S) * 1_000_000 + (draw(camera, round, 1) % 800_000_000) as i64;
    let end_us = start_us + 8_000_000 + (draw(camera, round, 2) % 32_000_000) as i64;
    let random = draw(camera, round, 3).to_le_bytes();
    let mut tail = [0; 10];
    tail[..8].copy_from_slice(&random);
    tail[8..].copy_from_slice(&draw(camera, round, 4).to_le_bytes()[..2]);
    let id = uuid::Builder::from_unix_timestamp_millis(end_us as u64 / 1000 + 3000, &tail).into_uuid();
    Clip {
        camera,
        round,
        id,
        start_us,
        end_us,
        sha256: bits(camera, round, 10),
        still: bits(camera, round, 20),
        bytes: 400_000 + draw(camera, round, 5) % 4_000_000,
        run: span_id(camera, round - round % SPAN_ROUNDS),
        is_stored: !draw(camera, round, 6).is_multiple_of(5),
    }
}

fn span_id(camera: u64, round: u64) -> Uuid {
    Uuid::from_u64_pair(draw(camera, round, 7), draw(camera, round, 8))
}

/// A span of a camera's account.
pub struct Span {
    pub camera: u64,
    pub id: Uuid,
    pub start_us: i64,
    pub end_us: i64,
    pub cause: Option<GapCause>,
    pub root: [u8; 32],
}

/// The spans that a camera's account of the four rounds from `round` on is made of.
pub fn spans(camera: u64, round: u64) -> Vec<Span> {
    let us = |round: u64| (BASE_S + round as i64 * ROUND_S) * 1_000_000;
    let span = |from: u64, to: u64, cause| Span {
        camera,
        id: span_id(camera, from),
        start_us: us(from),
        end_us: us(to),
        cause,
        root: bits(camera, from, 30),
    };
    if draw(camera, round, 9).is_multiple_of(50) {
        let gap = Some(GapCause::CameraUnreachable);
        return vec![
            span(round, round + 2, None),
            span(round + 2, round + 3, gap),
            span(round + 3, round + 4, None),
        ];
    }
    vec![span(round, round + SPAN_ROUNDS, None)]
}

/// What a round brings, as the hub's journal has it: clips, uploads, and the reports of spans that end and begin.
pub fn records(round: u64) -> Vec<HubRecord> {
    let mut records = Vec::with_capacity(CAMERAS as usize * 4);
    for camera in 0..CAMERAS {
        let clip = clip(camera, round);
        let received = time(clip.end_us + 5_000_000);
        records.push(event(camera, &clip, received));
        let file = |sha256: [u8; 32], bytes| StoredFile {
            sha256: Sha256Hash(sha256),
            bytes,
            box_id: box_of(camera),
            clip: clip.id,
            received,
        };
        records.push(HubRecord::Stored(file(clip.still, 9_000)));
        if clip.is_stored {
            records.push(HubRecord::Stored(file(clip.sha256, clip.bytes)));
        }
        if (round + 1).is_multiple_of(SPAN_ROUNDS) {
            let ended = spans(camera, round + 1 - SPAN_ROUNDS);
            records
                .extend(ended.iter().enumerate().map(|(n, span)| report(span, false, round * 8 + n as u64)));
            records.extend(spans(camera, round + 1).first().map(|span| report(span, true, round * 8 + 7)));
        }
    }
    records
}

fn event(camera: u64, clip: &Clip, received: Time) -> HubRecord {
    let (start, end) = (time(clip.start_us), time(clip.end_us));
    let data = EventData::Clip(ClipCut {
        clip: clip.id,
        motion: None,
        start,
        end,
        motion_start: Some(time(clip.start_us + 4_000_000)),
        motion_end: Some(time(clip.end_us - 3_000_000)),
        peak_score: (draw(camera, clip.round, 11) % 1000) as f64 / 1e3,
        bytes: clip.bytes,
        sha256: Sha256Hash(clip.sha256),
        video: Video { codec: "avc1.4d401f".into(), width: 1280, height: 720 },
        audio_codec: None,
        thumbnail: Some(Still {
            sha256: Sha256Hash(clip.still),
            bytes: 9_000,
            time: time(clip.start_us + 5_000_000),
        }),
        run: clip.run,
        first_fragment: (clip.round % SPAN_ROUNDS) * 432,
        fragments: Vec::new(),
    });
    arrived(camera, clip.round * 8 + 6, start, received, data)
}

fn report(span: &Span, is_open: bool, sequence: u64) -> HubRecord {
    let (start, end) = (time(span.start_us), time(span.end_us));
    let upto = if is_open { time(span.start_us + 5_000_000) } else { end };
    let data = EventData::Coverage(Coverage {
        span: span.id,
        state: span.cause.map_or(SpanState::Recorded, |cause| SpanState::Gap { cause }),
        start,
        upto,
        open: is_open,
        run: span.cause.is_none().then(|| RunCommitment { fragments: 1, merkle_root: Sha256Hash(span.root) }),
        ring_from: Some(start),
        detail: None,
    });
    arrived(span.camera, sequence, upto, upto, data)
}

/// The index does not read an event's JSON, so it is left empty.
fn arrived(camera: u64, sequence: u64, at: Time, received: Time, data: EventData) -> HubRecord {
    let clock = ClockQuality {
        source: ClockSource::Camera,
        sync: SyncState::Synced,
        offset_ms: Some(12),
        uncertainty_ms: Some(40),
    };
    let event = Event {
        id: Uuid::from_u64_pair(camera, sequence),
        source: Source::of_device(&box_of(camera), &device(camera)),
        epoch: Epoch(1 + camera / 2),
        sequence,
        time: at,
        clock,
        data,
    };
    HubRecord::Event(Arrived {
        box_id: box_of(camera),
        received,
        conflict: false,
        event: Box::new(event),
        json: Vec::new(),
    })
}

pub fn time(us: i64) -> Time {
    Time::from_microsecond(us).expect("a time of the archive")
}

/// A question at the catalog: these cameras, this window, newest first.
#[derive(Debug, Clone)]
pub struct Question {
    pub cameras: Vec<u64>,
    pub from_us: i64,
    pub to_us: i64,
    pub limit: usize,
}

/// Name, cameras in the answer, seconds of its window (None: the whole archive).
pub const QUESTIONS: [(&str, usize, Option<i64>); 6] = [
    ("radius_20_cameras_1h", 20, Some(3600)),
    ("polygon_500_cameras_1h", 500, Some(3600)),
    ("camera_24h", 1, Some(86_400)),
    ("newest_100_of_area", 500, None),
    ("route_30_cameras_30min", 30, Some(1800)),
    ("who_could_see_6_cameras_15min", 6, Some(900)),
];

/// The `n`th question of a kind in an archive of so many rounds.
pub fn question(kind: usize, n: u64, rounds: u64) -> Question {
    let (_, count, seconds) = QUESTIONS[kind];
    let drawn = draw(kind as u64, n, 40);
    let length_us = rounds as i64 * ROUND_S * 1_000_000;
    let (from_us, to_us) = match seconds {
        Some(seconds) => {
            let spare = (length_us - seconds * 1_000_000).max(1);
            let from_us = BASE_S * 1_000_000 + (drawn % spare as u64) as i64;
            (from_us, from_us + seconds * 1_000_000)
        }
        // What begins at its end is no more of it.
        None => (BASE_S * 1_000_000, BASE_S * 1_000_000 + length_us - 1),
    };
    let place = draw(kind as u64, n, 41) % CAMERAS;
    Question { cameras: around(place, count as u64), from_us, to_us, limit: 100 }
}

/// The cameras of a block of the grid around a place; of a row for a route's thirty.
fn around(place: u64, count: u64) -> Vec<u64> {
    let side = if count == 30 { 30 } else { (count as f64).sqrt().ceil() as u64 };
    let (x, y) = (place % ROW, place / ROW);
    let mut cameras = Vec::with_capacity(count as usize);
    for n in 0..count {
        let (x, y) = ((x + n % side) % ROW, (y + n / side) % (CAMERAS / ROW));
        cameras.push(camera_at(y * ROW + x));
    }
    cameras
}
