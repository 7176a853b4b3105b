//! The embedded catalog against a plain list, a rebuild, and harm done to its files.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use proptest::prelude::*;
use tempfile::TempDir;

use super::write::REFUSED_BODY_BYTES;
use super::*;
use crate::hub::truth::{Arrived, JournalTruth, StoredFile, Truth};
use crate::model::{
    BoxId, ClipCut, ClockCorrection, ClockQuality, ClockSource, Coverage, Epoch, Event, EventData, GapCause,
    Motion, MotionPhase, Source, SpanState, Status, Still, SyncState, Video,
};
use crate::wire;

fn at(second: i64) -> Time {
    Time::from_second(1_800_000_000 + second).unwrap()
}
fn box_id(n: u8) -> BoxId {
    BoxId::new(format!("box-{n:02}")).unwrap()
}
fn device(n: u8) -> DeviceId {
    DeviceId::new(format!("cam-{n:02}")).unwrap()
}
fn uuid(n: u64) -> Uuid {
    Uuid::from_u64_pair(7, n)
}

const ALL_TIME: TimeRange = TimeRange { from: Time::MIN, to: Time::MAX };

/// Of the last span the box had no clock.
fn span_start(n: u64) -> Time {
    if n == 8 { Time::from_second(400).unwrap() } else { at(n as i64 * 50) }
}

/// What a record is made from.
#[derive(Debug, Clone)]
struct Seed {
    what: u8,
    box_n: u8,
    device_n: u8,
    sequence: u64,
    second: i64,
    length: i64,
    id: u64,
}

fn seeds(most: usize) -> impl Strategy<Value = Vec<Seed>> {
    let seed = (0u8..12, 0u8..2, 0u8..3, 1u64..60, 0i64..500, 1i64..40, 0u64..60).prop_map(
        |(what, box_n, device_n, sequence, second, length, id)| Seed {
            what,
            box_n,
            device_n,
            sequence,
            second,
            length,
            id,
        },
    );
    prop::collection::vec(seed, 1..most)
}

/// Hash of a clip's thumbnail.
fn still(id: u64) -> Sha256Hash {
    Sha256Hash::of(&[id as u8, 1])
}

fn record(position: usize, seed: &Seed, with_corrections: bool) -> HubRecord {
    let start = match seed.what {
        10 => Time::from_second(seed.second).unwrap(),
        _ => at(seed.second),
    };
    let end = start + SignedDuration::from_secs(seed.length);
    let received = at(1000 + position as i64);
    let data = match seed.what {
        0..=3 | 10 => EventData::Clip(ClipCut {
            clip: uuid(seed.id),
            motion: None,
            start,
            end,
            motion_start: Some(start),
            motion_end: None,
            peak_score: 0.5,
            bytes: 10,
            sha256: Sha256Hash::of(&[seed.id as u8]),
            video: Video { codec: "avc1.4d401e".into(), width: 640, height: 360 },
            audio_codec: Some("mp4a.40.2".into()),
            thumbnail: seed.id.is_multiple_of(3).then(|| Still {
                sha256: still(seed.id),
                bytes: 7,
                time: end,
            }),
            run: uuid(9),
            first_fragment: 0,
            fragments: vec![Sha256Hash::of(b"f")],
        }),
        // All reports of a span begin at the same time.
        4 | 5 => EventData::Coverage(Coverage {
            span: uuid(seed.id % 9),
            state: match seed.id % 3 {
                0 => SpanState::Gap { cause: GapCause::BoxOff },
                _ => SpanState::Recorded,
            },
            start: span_start(seed.id % 9),
            upto: span_start(seed.id % 9) + SignedDuration::from_secs(seed.length),
            open: seed.length % 2 == 0,
            run: None,
            ring_from: (!seed.id.is_multiple_of(4)).then(|| at(seed.second - 300)),
            detail: None,
        }),
        // Spans that are named lie in the span of the clock that is meant.
        6 if with_corrections => EventData::Clock(ClockCorrection {
            from: if seed.length % 2 == 0 { at(0) } else { start },
            upto: if seed.length % 2 == 0 { at(600) } else { end },
            spans: (seed.length % 2 == 0).then(|| vec![uuid(seed.id % 9), uuid(9)]),
            correction_ms: (seed.id as i64 - 30) * 1000,
            uncertainty_ms: 5,
        }),
        7 => {
            return HubRecord::Stored(StoredFile {
                sha256: if seed.length > 20 { Sha256Hash::of(&[seed.id as u8]) } else { still(seed.id) },
                bytes: 10,
                box_id: box_id(seed.box_n),
                clip: uuid(seed.id),
                received,
            });
        }
        8 => {
            return HubRecord::Refused {
                box_id: box_id(seed.box_n),
                received,
                reason: "bad_data".into(),
                detail: "why".into(),
                epoch: Some(Epoch(1)),
                sequence: Some(seed.sequence),
                id: None,
                body: vec![b'x'; 9000],
            };
        }
        9 => {
            EventData::Unknown { kind: "vendor.thing.v1".into(), data: serde_json::json!("x".repeat(60_000)) }
        }
        _ => EventData::Motion(Motion::new(uuid(seed.id), MotionPhase::Start, start, 0.1)),
    };
    let event = Event {
        id: uuid(1000 + seed.id),
        source: Source::of_device(&box_id(seed.box_n), &device(seed.device_n)),
        epoch: Epoch(1 + seed.id % 2),
        sequence: seed.sequence,
        time: start,
        clock: ClockQuality {
            source: ClockSource::Box,
            sync: SyncState::Synced,
            offset_ms: None,
            uncertainty_ms: seed.id.is_multiple_of(2).then_some(seed.id * 500),
        },
        data,
    };
    HubRecord::Event(Arrived::of(event, received))
}

fn records(seeds: &[Seed], with_corrections: bool) -> Vec<HubRecord> {
    seeds.iter().enumerate().map(|(n, seed)| record(n, seed, with_corrections)).collect()
}

/// Runs so short that a few records make many of them.
const RUN: u64 = 16;
/// And so few rows for one page that many end early.
const SIZES: Sizes = Sizes { run_records: RUN, scan_rows: 40 };

/// A folder with a journal, which the indices in it belong to.
struct World {
    dir: TempDir,
    truth: JournalTruth,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (truth, _) = JournalTruth::open(&dir.path().join("journal")).unwrap();
        Self { dir, truth }
    }

    /// The records as the truth takes them: each event once, conflicts marked.
    fn write(&mut self, records: Vec<HubRecord>) -> Vec<HubRecord> {
        self.truth.append(records).unwrap().written
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn try_open(&self, name: &str, journal_next: u64) -> (Embedded, Opened) {
        Embedded::open_with(&self.path(name), &self.truth.records(), journal_next, SIZES).unwrap()
    }

    fn open(&self, name: &str) -> Embedded {
        self.try_open(name, u64::MAX).0
    }

    /// An index of these records.
    fn indexed(records: Vec<HubRecord>) -> (Self, Vec<HubRecord>, Embedded) {
        let mut world = Self::new();
        let written = world.write(records);
        let index = world.open("index");
        index.apply(0, &written).unwrap();
        (world, written, index)
    }
}

fn dump(index: &Embedded) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    index.dump(|key, value| all.push((key.to_vec(), value.to_vec()))).unwrap();
    all
}

const EVER: TimeRange = TimeRange { from: Time::MIN, to: Time::MAX };

fn all_events(index: &Embedded, mut query: EventQuery) -> Vec<EventRow> {
    let mut rows = Vec::new();
    for _ in 0..1000 {
        let page = index.events(&query).unwrap();
        rows.extend(page.events);
        match page.next {
            Some(next) => query.after = Some(next),
            None => return rows,
        }
    }
    panic!("paging does not end");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_rebuild_equals_what_random_batches_made(
        seeds in seeds(150), cuts in prop::collection::vec(1usize..40, 1..20)
    ) {
        let (world, records, at_once) = World::indexed(records(&seeds, true));
        let mut batched = world.open("batched");
        let mut cuts = cuts.iter().cycle();
        while batched.applied() < records.len() as u64 {
            let from = batched.applied() as usize;
            let to = (from + cuts.next().unwrap()).min(records.len());
            batched.apply(from as u64, &records[from..to]).unwrap();
            if to % 5 == 0 {
                // What is in memory only is applied again.
                drop(batched);
                batched = world.open("batched");
                let from = batched.applied();
                prop_assert!(to as u64 - from < RUN);
                batched.apply(from, &records[from as usize..to]).unwrap();
            }
        }
        prop_assert!(dump(&batched) == dump(&at_once));
        prop_assert!(dump(&at_once).iter().all(|(_, value)| value.len() < 64 << 10));
    }

    #[test]
    fn answers_agree_with_a_plain_list(
        seeds in seeds(200), from in 0i64..500, length in 0i64..300, limit in 1usize..7, newest in any::<bool>()
    ) {
        let (_world, records, index) = World::indexed(records(&seeds, false));
        let order = if newest { Order::Newest } else { Order::Oldest };
        let range = TimeRange { from: at(from), to: at(from + length) };
        check_clips(&index, &records, range, order, limit);
        check_events(&index, &records, range, order, limit);
    }

    /// Whatever arrives after a run was sealed must be as if it never was.
    #[test]
    fn closed_runs_answer_as_the_open_one_does(
        seeds in seeds(250), from in 0i64..500, length in 0i64..300, limit in 1usize..7, newest in any::<bool>()
    ) {
        let (world, records, sealed) = World::indexed(records(&seeds, true));
        let sizes = Sizes { run_records: 1_000_000, ..SIZES };
        let (open, _) = Embedded::open_with(&world.path("open"), &world.truth.records(), 0, sizes).unwrap();
        open.apply(0, &records).unwrap();
        drop(sealed);
        // From disk, but for what is applied again.
        let sealed = world.open("index");
        let applied = sealed.applied();
        sealed.apply(applied, &records[applied as usize..]).unwrap();
        let order = if newest { Order::Newest } else { Order::Oldest };
        let range = TimeRange { from: at(from), to: at(from + length) };
        let later = TimeRange { from: at(from + length + 10), to: at(from + length + 60) };
        let all = [device(0), device(1), device(2)];
        for devices in [&all[..], &all[1..2], &all[..2]] {
            let mut query = ClipQuery { devices: devices.to_vec(), ranges: vec![range, later], order, after: None, limit };
            loop {
                let page = sealed.clips(&query).unwrap();
                prop_assert_eq!(&page, &open.clips(&query).unwrap());
                query.after = page.last().map(ClipRow::key);
                if page.len() < limit {
                    break;
                }
            }
            // When records arrive, too: what had no clock stands there.
            for range in [range, TimeRange { from: at(900), to: at(2000) }] {
                let told = |index: &Embedded| index.coverage(devices, range).unwrap();
                prop_assert_eq!(told(&sealed), told(&open));
            }
            let buckets = Buckets { from: at(from), bucket_us: 7_000_000, count: 40 };
            let ranges = [range, later];
            let counts = |index: &Embedded| index.clip_counts(devices, &ranges, buckets).unwrap();
            prop_assert_eq!(counts(&sealed), counts(&open));
            prop_assert_eq!(counts(&open), counted(&open, devices, &ranges, buckets));
        }
        for device in &all {
            prop_assert_eq!(sealed.ring_from(device).unwrap(), open.ring_from(device).unwrap());
        }
        for id in 0..60 {
            prop_assert_eq!(sealed.clip(uuid(id)).unwrap(), open.clip(uuid(id)).unwrap());
            for sha256 in [still(id), Sha256Hash::of(&[id as u8])] {
                let has = |index: &Embedded| index.has_upload(uuid(id), &sha256).unwrap();
                prop_assert_eq!(has(&sealed), has(&open));
            }
        }
    }
}

/// The counts from the rows themselves.
fn counted(index: &Embedded, devices: &[DeviceId], ranges: &[TimeRange], buckets: Buckets) -> Vec<u64> {
    let (devices, order) = (devices.to_vec(), Order::Oldest);
    let query = ClipQuery { devices, ranges: vec![ALL_TIME], order, after: None, limit: 10_000 };
    let mut counts = vec![0; buckets.count];
    for row in index.clips(&query).unwrap() {
        let us = row.start.as_microsecond();
        let bucket = (us - buckets.from.as_microsecond()).div_euclid(buckets.bucket_us);
        if (0..buckets.count as i64).contains(&bucket)
            && ranges.iter().any(|r| r.overlaps(row.start, row.start))
        {
            counts[bucket as usize] += 1;
        }
    }
    counts
}

/// Events that are in the index, in the order of the journal.
fn accepted(records: &[HubRecord]) -> Vec<(usize, Event, Time)> {
    let mut events = Vec::new();
    for (n, record) in records.iter().enumerate() {
        if let HubRecord::Event(Arrived { received, event, .. }) = record {
            events.push((n, Event::clone(event), *received));
        }
    }
    events
}

fn clip_query(
    device: DeviceId,
    range: TimeRange,
    order: Order,
    after: Option<ClipKey>,
    limit: usize,
) -> ClipQuery {
    ClipQuery { devices: vec![device], ranges: vec![range], order, after, limit }
}

fn check_clips(index: &Embedded, records: &[HubRecord], range: TimeRange, order: Order, limit: usize) {
    let mut clips: BTreeMap<Uuid, (DeviceId, Time, Time, SignedDuration)> = BTreeMap::new();
    for (_, event, received) in accepted(records) {
        let EventData::Clip(cut) = event.data else { continue };
        let (start, end, _) = place_in_time(cut.start, cut.end, None, &[], received);
        let margin = SignedDuration::from_millis(event.clock.uncertainty_ms.unwrap_or(0) as i64);
        clips.entry(cut.clip).or_insert((event.source.device.unwrap(), start, end, margin));
    }
    for n in 0..3 {
        let mut expected: Vec<ClipKey> = clips
            .iter()
            .filter(|(_, (d, start, end, margin))| {
                *d == device(n) && range.overlaps(*start - *margin, *end + *margin)
            })
            .map(|(clip, (_, start, ..))| ClipKey { start_us: start.as_microsecond(), clip: *clip })
            .collect();
        expected.sort();
        if order == Order::Newest {
            expected.reverse();
        }
        let mut got: Vec<ClipKey> = Vec::new();
        loop {
            let query = clip_query(device(n), range, order, got.last().copied(), limit);
            let page = index.clips(&query).unwrap();
            got.extend(page.iter().map(ClipRow::key));
            if page.len() < limit {
                break;
            }
        }
        assert_eq!(got, expected);
    }
    for (clip, (d, ..)) in &clips {
        let row = index.clip(*clip).unwrap().unwrap();
        let is_file = |f: &StoredFile| f.clip == *clip && f.sha256 == row.sha256;
        let is_stored = records.iter().any(|r| matches!(r, HubRecord::Stored(f) if is_file(f)));
        assert_eq!((&row.device, row.stored), (d, is_stored));
    }
}

fn check_events(index: &Embedded, records: &[HubRecord], range: TimeRange, order: Order, limit: usize) {
    let filters = [
        (None, None, None),
        (Some("camnet.motion.v1"), None, None),
        (None, Some(1), None),
        (None, None, Some(1)),
        (Some("camnet.clip.v1"), Some(0), Some(0)),
    ];
    for (kind, device_n, box_n) in filters {
        let query = EventQuery {
            kind: kind.map(str::to_owned),
            device: device_n.map(device),
            box_id: box_n.map(box_id),
            range,
            order,
            after: None,
            limit,
        };
        let mut expected: Vec<(i64, usize, Uuid)> = accepted(records)
            .into_iter()
            .filter(|(_, e, _)| {
                query
                    .kind
                    .as_ref()
                    .is_none_or(|k| wire::encode(e).windows(k.len()).any(|w| w == k.as_bytes()))
                    && query.device.as_ref().is_none_or(|d| e.source.device.as_ref() == Some(d))
                    && query.box_id.as_ref().is_none_or(|b| e.source.box_id == *b)
            })
            .map(|(n, e, received)| (place_in_time(e.time, e.time, None, &[], received).0, n, e.id))
            .filter(|(time, ..)| range.overlaps(*time, *time))
            .map(|(time, n, id)| (time.as_microsecond(), n, id))
            .collect();
        expected.sort();
        if order == Order::Newest {
            expected.reverse();
        }
        let got: Vec<_> = all_events(index, query)
            .iter()
            .map(|row| (row.key.time_us, row.key.position as usize, row.id))
            .collect();
        assert_eq!(got, expected);
    }
}

fn one(seed: Seed, change: impl FnOnce(&mut Event)) -> HubRecord {
    let HubRecord::Event(mut arrived) = record(0, &seed, true) else { panic!() };
    change(&mut arrived.event);
    HubRecord::Event(Arrived::of(*arrived.event, arrived.received))
}

fn seed(what: u8, sequence: u64, id: u64) -> Seed {
    Seed { what, box_n: 0, device_n: 0, sequence, second: 100, length: 10, id }
}

#[test]
fn an_event_is_indexed_once_and_a_conflict_is_kept_beside_it() {
    let status = |id: u64| {
        one(seed(11, 3, 0), |e| {
            e.id = uuid(id);
            e.data = EventData::Status(Status::new(true, None));
        })
    };
    let refused = record(9, &seed(8, 1, 0), true);
    let (_world, written, index) = World::indexed(vec![status(1), status(1), status(2), status(2), refused]);
    assert_eq!(written.len(), 3);
    let query = EventQuery {
        kind: None,
        device: None,
        box_id: None,
        range: EVER,
        order: Order::Oldest,
        after: None,
        limit: 10,
    };
    let rows: Vec<_> = all_events(&index, query).iter().map(|r| (r.id, r.conflict)).collect();
    assert_eq!(rows, [(uuid(1), false), (uuid(2), true)]);
    let boxes = index.boxes().unwrap();
    let epoch = &boxes[0].epochs[0];
    assert_eq!((epoch.upto, epoch.missing, epoch.refused, epoch.conflicts), (3, 1, 1, 1));
    assert_eq!(index.refused_counts().unwrap()[0].count, 1);
    let every = RefusedQuery { box_id: None, reason: None, range: ALL_TIME, before: None, limit: 10 };
    let page = index.refused(&every).unwrap();
    let set_aside = &page.rows;
    let of_box = RefusedQuery { box_id: Some(box_id(0)), ..every.clone() };
    assert_eq!(page, index.refused(&of_box).unwrap());
    assert_eq!((set_aside[0].body_bytes, set_aside[0].body.len()), (9000, REFUSED_BODY_BYTES));
}

#[test]
fn a_clock_correction_moves_clips_that_are_there_and_those_that_come() {
    let clock = one(seed(6, 2, 0), |e| {
        e.source.device = None;
        e.data = EventData::Clock(ClockCorrection {
            from: at(0),
            upto: at(200),
            correction_ms: 30_000,
            uncertainty_ms: 5,
            spans: None,
        });
    });
    let mut records = vec![record(0, &seed(0, 1, 1), true), clock, record(2, &seed(0, 3, 3), true)];
    // One clip lies in a closed run when the correction comes.
    let fill = (0..RUN - 1).map(|n| record(0, &seed(11, 10 + n, 100 + n), true));
    records.splice(1..1, fill);
    let (_world, _, index) = World::indexed(records);
    for clip in [1, 3] {
        let row = index.clip(uuid(clip)).unwrap().unwrap();
        assert_eq!((row.start, row.recorded_start), (at(130), at(100)));
        assert_eq!(row.basis, Basis::Corrected { correction_ms: 30_000, uncertainty_ms: 5 });
        assert_eq!(row.motion_start, Some(at(130)));
    }
    let range = TimeRange { from: at(125), to: at(150) };
    assert_eq!(index.clips(&clip_query(device(0), range, Order::Newest, None, 10)).unwrap().len(), 2);
    let old = TimeRange { from: at(95), to: at(105) };
    assert_eq!(index.clips(&clip_query(device(0), old, Order::Newest, None, 10)).unwrap().len(), 0);
}

/// Two starts of a box without a clock show the same times.
#[test]
fn a_correction_that_names_its_spans_moves_those_and_no_other_of_the_same_times() {
    let span_of = |id: u64, sequence: u64| {
        one(seed(4, sequence, id), |e| {
            let EventData::Coverage(c) = &mut e.data else { panic!() };
            (c.span, c.state) = (uuid(id), SpanState::Recorded);
            (c.start, c.upto) = (at(100), at(110));
        })
    };
    let clip_of = |run: u64, sequence: u64, id: u64| {
        one(seed(0, sequence, id), |e| {
            let EventData::Clip(cut) = &mut e.data else { panic!() };
            cut.run = uuid(run);
        })
    };
    let clock = |named: &[u64], sequence: u64, seconds: i64| {
        one(seed(6, sequence, 0), |e| {
            e.data = EventData::Clock(ClockCorrection {
                from: at(90),
                upto: at(200),
                correction_ms: seconds * 1000,
                uncertainty_ms: 5,
                spans: Some(named.iter().map(|&n| uuid(n)).collect()),
            });
        })
    };
    let told = [
        span_of(20, 1),
        clip_of(20, 2, 1),
        span_of(21, 3),
        clip_of(21, 4, 2),
        clock(&[20], 5, 30),
        clock(&[21, 22], 6, 60),
        // These come behind the correction that names their run.
        clip_of(22, 7, 3),
        span_of(22, 8),
        clip_of(20, 9, 4),
    ];
    for is_split in [false, true] {
        let mut records = told.to_vec();
        if is_split {
            // What is there already lies in a closed run.
            records.splice(4..4, (0..RUN).map(|n| record(0, &seed(11, 100 + n, 100 + n), true)));
        }
        let (_world, _, index) = World::indexed(records);
        let spans = index.coverage(&[device(0)], EVER).unwrap().remove(0);
        let starts: Vec<_> = spans.iter().map(|s| (s.span, s.start, s.end)).collect();
        let first = (Some(uuid(20)), at(130), at(140));
        assert_eq!(starts[0], first);
        assert_eq!(
            (starts.len(), starts[1].1),
            (2, at(160)),
            "the other two stand at the same time: {starts:?}"
        );
        for (clip, start) in [(1, 130), (2, 160), (3, 160), (4, 130)] {
            let row = index.clip(uuid(clip)).unwrap().unwrap();
            assert_eq!((row.start, row.recorded_start), (at(start), at(100)), "clip {clip}");
        }
    }
}

#[test]
fn a_later_report_of_a_span_replaces_an_earlier_one_in_any_order() {
    let report = |sequence: u64, upto: i64| {
        one(seed(4, sequence, 1), |e| {
            let EventData::Coverage(c) = &mut e.data else { panic!() };
            (c.start, c.upto) = (at(100), at(upto));
            e.id = uuid(sequence);
        })
    };
    for order in [[1, 2, 3], [3, 1, 2], [2, 3, 1]] {
        let (_world, _, index) =
            World::indexed(order.iter().map(|&n| report(n, 100 + 100 * n as i64)).collect());
        let spans = index.coverage(&[device(0)], EVER).unwrap().remove(0);
        assert_eq!(spans.iter().map(|s| (s.start, s.end)).collect::<Vec<_>>(), [(at(100), at(400))]);
    }
}

#[test]
fn a_store_that_cannot_be_trusted_is_moved_aside() {
    let mut world = World::new();
    let path = world.path("index");
    let records = (0..RUN + 5).map(|n| record(n as usize, &seed(0, 1 + n, n), true)).collect();
    let records = world.write(records);
    let all = records.len() as u64;
    let apply_all = |world: &World| {
        let index = world.open("index");
        let applied = index.applied();
        index.apply(applied, &records[applied as usize..]).unwrap();
        assert_eq!(index.applied(), all);
    };
    apply_all(&world);
    let (index, opened) = world.try_open("index", all);
    assert_eq!((index.applied(), opened), (RUN, Opened::Continued), "the open run is applied again");
    assert!(matches!(index.apply(4, &[]), Err(CatalogError::Position { applied: RUN, from: 4 })));
    drop(index);
    let day_file = |world: &World| {
        let mut files = std::fs::read_dir(world.path("index").join("runs")).unwrap();
        files.next().unwrap().unwrap().path()
    };
    type Harm<'a> = &'a dyn Fn(&World);
    let harms: [(&str, u64, Harm); 7] = [
        ("a file of blocks is gone", all, &|world| std::fs::remove_file(day_file(world)).unwrap()),
        ("a directory of blocks is damaged", all, &|world| {
            let mut bytes = std::fs::read(day_file(world)).unwrap();
            let at = bytes.len() - 20;
            bytes[at] ^= 1;
            std::fs::write(day_file(world), bytes).unwrap();
        }),
        ("ahead of the journal", RUN - 1, &|_| {}),
        ("another version", all, &|world| {
            world.open("index").tree.insert(version_key(), &[99]).map(drop).unwrap();
        }),
        ("empty", all, &|world| world.open("index").tree.clear().unwrap()),
        ("a run is gone", all, &|world| {
            let tree = &world.open("index").tree;
            let key = tree.scan_prefix([kind::RUN]).keys().next().unwrap().unwrap();
            tree.remove(key).map(drop).unwrap();
        }),
        ("garbage", all, &|world| {
            let file = world.path("index").join("db");
            let bytes = std::fs::metadata(&file).unwrap().len();
            std::fs::write(file, vec![0x5a; bytes as usize]).unwrap();
        }),
    ];
    for (name, journal_next, harm) in harms {
        harm(&world);
        let (index, opened) =
            Embedded::open_with(&path, &world.truth.records(), journal_next, SIZES).unwrap();
        assert!(matches!(opened, Opened::Rebuild { .. }), "{name}: {opened:?}");
        assert_eq!(index.applied(), 0, "{name}");
        drop(index);
        apply_all(&world);
    }
}

/// A block that can't be read is an error of the question that needs it, never a wrong answer.
#[test]
fn a_damaged_block_is_told() {
    let records = (0..RUN).map(|n| record(n as usize, &seed(0, 1 + n, n), true)).collect();
    let (world, _, index) = World::indexed(records);
    let run = index.state().known.runs[0].clone();
    let clips = &run.blocks.clips.blocks[0];
    let path = world.path("index").join("runs").join(format!("{}.blocks", run.day));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[(run.offset + u64::from(clips.offset)) as usize + 30] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = index.clips(&clip_query(device(0), EVER, Order::Newest, None, 10)).unwrap_err();
    let causes = format!("{error}: {:?}", std::error::Error::source(&error));
    assert!(causes.contains("checksum"), "{causes}");
    assert!(index.coverage(&[device(0)], EVER).is_ok());
}

#[test]
fn pages_that_end_early_get_ahead_though_every_run_spans_the_whole_day() {
    let records: Vec<_> =
        (0..RUN * 20).map(|n| one(seed(11, 1 + n, n), |e| e.time = at((n as i64 * 77) % 500))).collect();
    let mut world = World::new();
    let written = world.write(records);
    let sizes = Sizes { scan_rows: 1, ..SIZES };
    let (index, _) = Embedded::open_with(&world.path("index"), &world.truth.records(), 0, sizes).unwrap();
    index.apply(0, &written).unwrap();
    for order in [Order::Newest, Order::Oldest] {
        let range = TimeRange { from: at(0), to: at(600) };
        check_events(&index, &written, range, order, 3);
    }
}

#[test]
fn what_was_set_aside_is_found_by_box_reason_and_time_page_by_page() {
    let world = World::new();
    let (index, _) = Embedded::open_with(&world.path("index"), &world.truth.records(), 0, SIZES).unwrap();
    let refused = |n: u64| HubRecord::Refused {
        box_id: box_id((n % 2) as u8),
        received: at(n as i64),
        reason: if n.is_multiple_of(3) { "bad_time" } else { "not_json" }.into(),
        detail: String::new(),
        epoch: None,
        sequence: None,
        id: None,
        body: vec![n as u8],
    };
    index.apply(0, &(0..60).map(refused).collect::<Vec<_>>()).unwrap();
    let range = TimeRange { from: at(10), to: at(49) };
    for (box_id, reason, range) in [
        (None, None, ALL_TIME),
        (Some(1), None, ALL_TIME),
        (None, Some("bad_time"), range),
        (Some(0), Some("not_json"), range),
        (Some(0), Some("no_such_reason"), range),
    ] {
        let expected: Vec<u64> = (0..60)
            .rev()
            .filter(|&n| match refused(n) {
                HubRecord::Refused { box_id: of, received, reason: why, .. } => {
                    box_id.is_none_or(|n| of == super::tests::box_id(n))
                        && reason.is_none_or(|reason| reason == why)
                        && range.overlaps(received, received)
                }
                _ => false,
            })
            .collect();
        let mut query = RefusedQuery {
            box_id: box_id.map(super::tests::box_id),
            reason: reason.map(str::to_owned),
            range,
            before: None,
            limit: 7,
        };
        let mut found = Vec::new();
        for _ in 0..20 {
            let page = index.refused(&query).unwrap();
            assert!(page.rows.len() <= 7);
            found.extend(page.rows.iter().map(|row| row.position));
            query.before = page.next;
            if page.next.is_none() {
                break;
            }
        }
        assert_eq!(found, expected, "{query:?}");
    }
}

/// A report of span `id` that tells of a ring from `ring_from` on, and arrived at `received`.
fn ring_report(sequence: u64, id: u64, ring_from: Time, received: Time) -> HubRecord {
    let mut record = one(seed(4, sequence, id), |e| {
        let EventData::Coverage(coverage) = &mut e.data else { unreachable!("4 is coverage") };
        coverage.ring_from = Some(ring_from);
    });
    if let HubRecord::Event(arrived) = &mut record {
        arrived.received = received;
    }
    record
}

/// Two reports of one message arrive at the same moment; then the first one's span is corrected by name.
#[test]
fn a_correction_of_a_span_does_not_bring_back_what_its_report_said_of_the_ring() {
    let correction = one(seed(6, 3, 30), |e| {
        let EventData::Clock(clock) = &mut e.data else { unreachable!("6 is a correction") };
        clock.spans = Some(vec![uuid(1)]);
    });
    let reports = [ring_report(1, 1, at(100), at(900)), ring_report(2, 2, at(200), at(900))];
    let (_world, _, index) = World::indexed(reports.into_iter().chain([correction]).collect());
    assert_eq!(index.ring_from(&device(0)).unwrap(), Some(at(200)));
}

#[test]
fn what_is_kept_of_sources_in_groups_is_known_after_a_restart() {
    let device_of = |n: u64| DeviceId::new(format!("cam-{n:04}")).unwrap();
    let count = 2 * u64::from(keys::SOURCES_OF_GROUP) + 10;
    let told: Vec<HubRecord> = (0..count)
        .map(|n| {
            let mut record = ring_report(1 + n, n, at(n as i64), at(2000));
            if let HubRecord::Event(arrived) = &mut record {
                arrived.event.source.device = Some(device_of(n));
            }
            record
        })
        .collect();
    let (world, records, index) = World::indexed(told);
    drop(index);
    let index = world.open("index");
    let stored = index.applied();
    assert!(stored >= 2 * u64::from(keys::SOURCES_OF_GROUP), "more than two groups are on disk: {stored}");
    for n in 0..stored {
        assert_eq!(index.ring_from(&device_of(n)).unwrap(), Some(at(n as i64)), "{n}");
    }
    // One of them says another thing: the others of its group are as they were.
    let changed = (0..RUN).map(|n| ring_report(5000 + n, 8, at(7), at(3000)));
    let mut world = world;
    index.apply(stored, &records[stored as usize..]).unwrap();
    let written = world.write(changed.collect());
    index.apply(records.len() as u64, &written).unwrap();
    drop(index);
    let index = world.open("index");
    for n in [0, 1, 255, 256, 300] {
        assert_eq!(index.ring_from(&device_of(n)).unwrap(), Some(at(n as i64)), "{n}");
    }
}
