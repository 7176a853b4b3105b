//! The ring on a real disk, and on one that fails by plan.

use std::fs;
use std::time::Duration;

use super::*;
use crate::edge::fmp4::{Sample, WallClock};
use crate::journal::counted_disk::CountedDisk;
use crate::journal::sim_disk::{AfterFailedSync, Fault, SimDisk};
use crate::model::{ClockSource, Coverage, SpanState};

const SECOND: i64 = TIMESCALE as i64;

fn at(seconds: i64) -> Time {
    Time::from_second(1_772_000_000 + seconds).unwrap()
}

fn run_at(start: Time, sync: SyncState) -> Run {
    let clock =
        ClockQuality { source: ClockSource::Camera, sync, offset_ms: Some(3), uncertainty_ms: Some(8) };
    let mut sample_entry = vec![0; 120];
    sample_entry[..4].copy_from_slice(&120u32.to_be_bytes());
    sample_entry[4..8].copy_from_slice(b"avc1");
    let track = Track { sample_entry, width: 0, height: 0, audio: None };
    Run { run: Uuid::now_v7(), start, clock, track }
}

fn run_from(seconds: i64) -> Run {
    run_at(at(seconds), SyncState::Synced)
}

/// Two pictures in one second, at `seconds` on the timeline of a run that began at 0.
fn second(seconds: i64) -> fmp4::Fragment {
    let sample = |half: i64| Sample {
        pts: seconds * SECOND + half * SECOND / 2,
        sync: half == 0,
        data: fmp4::tests::nal(0x65, 500 + (seconds % 7) as usize),
    };
    let wall = WallClock { time: at(seconds), camera: true };
    fmp4::fragment(1, &[sample(0), sample(1)], Some((seconds + 1) * SECOND), seconds * SECOND, wall)
}

fn config(bytes_per_camera: u64) -> RingConfig {
    RingConfig { days: 1, bytes_per_camera, segment: SignedDuration::from_secs(4) }
}

fn record(ring: &mut Ring, seconds: std::ops::Range<i64>) -> Vec<Sha256Hash> {
    let mut append = |s| ring.append(&second(s), at(s), at(s + 1)).unwrap().sha256;
    seconds.map(&mut append).collect()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let mut found: Vec<PathBuf> = all.filter(|p| p.extension().is_some_and(|e| e == "mp4")).collect();
    found.sort();
    found
}

#[test]
fn what_was_recorded_is_found_by_time_and_proved_by_hash() {
    let dir = tempfile::tempdir().unwrap();
    let (mut ring, _) = Ring::open(dir.path(), config(1 << 20)).unwrap();
    ring.begin_run(run_from(0));
    let hashes = record(&mut ring, 0..10);
    let (durable, ended) = ring.end_run();
    ended.unwrap();
    let durable = durable.unwrap();
    assert_eq!(durable.commitment.fragments, 10);
    assert_eq!(durable.commitment.merkle_root, MerkleTree::from_leaves(&hashes).root());
    assert_eq!((durable.start, durable.end), (at(0), at(10)));
    assert_eq!(files(dir.path()).len(), 3, "segments of four seconds");
    drop(ring);
    let (ring, recovery) = Ring::open(dir.path(), config(1 << 20)).unwrap();
    assert_eq!(recovery.last_run, Some(durable));
    assert_eq!((recovery.torn_bytes, recovery.lost.len()), (0, 0));
    for (from, to, numbers) in [(0, 10, 0..10), (3, 5, 3..5), (9, 99, 9..10), (10, 99, 0..0)] {
        let found = ring.fragments(at(from), at(to)).unwrap();
        let got: Vec<u64> = found.iter().map(|f| f.number).collect();
        assert_eq!(got, numbers.collect::<Vec<u64>>(), "{from} to {to}");
        for fragment in found {
            assert_eq!(Sha256Hash::of(&read_fragment(&fragment).unwrap()), hashes[fragment.number as usize]);
        }
    }
}

#[test]
fn a_changed_byte_is_never_handed_out() {
    let dir = tempfile::tempdir().unwrap();
    let (mut ring, _) = Ring::open(dir.path(), config(1 << 20)).unwrap();
    ring.begin_run(run_from(0));
    record(&mut ring, 0..1);
    let fragment = ring.fragments(at(0), at(1)).unwrap().remove(0);
    harm_file(&fragment.path, |bytes| *bytes.last_mut().unwrap() ^= 1);
    assert!(matches!(read_fragment(&fragment), Err(RingError::Changed { number: 0, .. })));
}

/// Ends of the file that a crash can leave, and what is made of them. Four fragments were synced, one was not.
#[test]
fn after_a_crash_the_ring_plays_to_its_last_whole_fragment() {
    type Harm = fn(&mut Vec<u8>);
    let cases: [(&str, Harm, u64, bool); 6] = [
        ("nothing", |_| {}, 5, true),
        ("half a fragment", |b| b.truncate(b.len() - 100), 4, true),
        ("half an entry behind", |b| b.extend_from_slice(&[0, 0, 0, 104, b'f', b'r']), 5, true),
        ("zeros", |b| zeros_at_end(b, 300), 4, true),
        ("the file is shorter than what was synced", |b| b.truncate(b.len() - 2_000), 3, true),
        ("a bit of a synced fragment has flipped", |b| flip_behind(b, 2_000), 5, false),
    ];
    for (name, harm, fragments, is_readable) in cases {
        let dir = tempfile::tempdir().unwrap();
        let (mut ring, _) = Ring::open(dir.path(), config(1 << 20)).unwrap();
        ring.begin_run(run_from(0));
        record(&mut ring, 0..4);
        let durable = ring.sync().unwrap().unwrap();
        let said = coverage(durable.run, durable.commitment);
        ring.report(vec![Report { coverage: said, era: None }]).unwrap();
        ring.append(&second(4), at(3), at(5)).unwrap();
        // Killed.
        drop(ring);
        harm_file(&files(dir.path()).pop().unwrap(), harm);
        let (mut ring, recovery) = Ring::open(dir.path(), config(1 << 20)).unwrap();
        let last_run = recovery.last_run.unwrap();
        assert_eq!(last_run.commitment.fragments, fragments, "{name}: {recovery:?}");
        assert_eq!(recovery.lost.len(), usize::from(fragments < 4), "{name}: {:?}", recovery.lost);
        let found = ring.fragments(at(0), at(99)).unwrap();
        assert_eq!(found.iter().all(|f| read_fragment(f).is_ok()), is_readable, "{name}");
        let hashes: Vec<_> = found.iter().map(|f| f.sha256).collect();
        assert_eq!(MerkleTree::from_leaves(&hashes).root(), last_run.commitment.merkle_root, "{name}");
        ring.begin_run(run_from(20));
        record(&mut ring, 20..22);
        ring.end_run().1.unwrap();
        drop(ring);
        let (ring, recovery) = Ring::open(dir.path(), config(1 << 20)).unwrap();
        assert_eq!(ring.fragments(at(0), at(99)).unwrap().len() as u64, fragments + 2, "{name}");
        assert_eq!(recovery.last_run.unwrap().commitment.fragments, 2, "{name}");
    }
}

fn harm_file(path: &Path, harm: impl Fn(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    harm(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn zeros_at_end(bytes: &mut [u8], count: usize) {
    let at = bytes.len() - count;
    bytes[at..].fill(0);
}

fn flip_behind(bytes: &mut [u8], count: usize) {
    let at = bytes.len() - count;
    bytes[at] ^= 1;
}

fn coverage(span: Uuid, commitment: RunCommitment) -> Coverage {
    Coverage {
        span,
        state: SpanState::Recorded,
        start: at(0),
        upto: at(1),
        open: true,
        run: Some(commitment),
        ring_from: None,
        detail: None,
    }
}

#[test]
fn the_oldest_go_first_and_the_journal_follows() {
    let dir = tempfile::tempdir().unwrap();
    let bytes_max = 60_000;
    let (mut ring, _) = Ring::open(dir.path(), config(bytes_max)).unwrap();
    for run in 0..40 {
        ring.begin_run(run_from(run * 100));
        let mut append = |s| ring.append(&second(s), at(run * 100 + s), at(run * 100 + s + 1)).unwrap();
        (0..10).for_each(|s| drop(append(s)));
        ring.end_run().1.unwrap();
        assert!(ring.bytes() <= bytes_max + 10_000, "{}", ring.bytes());
    }
    let on_disk: u64 = files(dir.path()).iter().map(|p| fs::metadata(p).unwrap().len()).sum();
    assert_eq!(on_disk, ring.bytes());
    let from = ring.from().unwrap();
    assert!(from > at(3_000) && ring.upto() == Some(at(3_910)), "{from}");
    let before = ring.fragments(at(0), at(9_999)).unwrap();
    assert_eq!(before[0].start, from);
    drop(ring);
    let (ring, recovery) = Ring::open(dir.path(), config(bytes_max)).unwrap();
    assert!(recovery.lost.is_empty(), "{:?}", recovery.lost);
    assert_eq!(ring.from(), Some(from));
    assert_eq!(ring.fragments(at(0), at(9_999)).unwrap().len(), before.len());
}

#[test]
fn days_bound_the_ring_too() {
    let dir = tempfile::tempdir().unwrap();
    let (mut ring, _) = Ring::open(dir.path(), config(1 << 30)).unwrap();
    ring.begin_run(run_from(0));
    record(&mut ring, 0..8);
    ring.end_run().1.unwrap();
    let next_day = 86_400 + 6;
    ring.begin_run(run_from(next_day));
    record(&mut ring, next_day..next_day + 1);
    assert_eq!(ring.from(), Some(at(4)), "the segment that ended at 4 is more than a day old");
}

#[test]
fn reports_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (mut ring, _) = Ring::open(dir.path(), config(1 << 20)).unwrap();
    let commitment = RunCommitment { fragments: 1, merkle_root: Sha256Hash::of(b"") };
    let report = |span, upto, era| {
        let coverage = Coverage { upto: at(upto), ..coverage(span, commitment) };
        Report { coverage, era }
    };
    let (first, second, era) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
    ring.report(vec![report(first, 1, None)]).unwrap();
    ring.report(vec![report(first, 2, None), report(second, 3, Some(era))]).unwrap();
    ring.report(vec![report(second, 4, Some(era))]).unwrap();
    drop(ring);
    let (_, recovery) = Ring::open(dir.path(), config(1 << 20)).unwrap();
    assert_eq!(recovery.reports, [report(first, 2, None), report(second, 4, Some(era))]);
    let mut expected = EraSpans::new(era, Some(report(first, 2, None).coverage));
    (expected.from, _) = (Some(at(0)), expected.add(second));
    assert_eq!(recovery.eras, [expected]);
}

/// So many segments, 60 to a run; all but the last was synced.
fn long_ring(disk: Arc<dyn Disk>, segments: i64) -> Ring {
    let (mut ring, _) = Ring::open_on(disk, Path::new("/ring"), config(1 << 40)).unwrap();
    for n in 0..segments {
        if n % 60 == 0 {
            ring.end_run().1.unwrap();
            ring.begin_run(run_from(n * 4));
        }
        ring.append(&second(n * 4), at(n * 4), at(n * 4 + 4)).unwrap();
        if n + 1 < segments {
            ring.sync().unwrap();
        }
    }
    ring
}

#[test]
fn a_start_after_a_power_cut_opens_the_last_segments_only() {
    const SEGMENTS: i64 = 2_000;
    let sim = SimDisk::new(1);
    let ring = long_ring(sim.disk(), SEGMENTS);
    drop(ring);
    sim.power_cut();
    let counted = CountedDisk::new(sim.disk());
    let (ring, recovery) =
        Ring::open_on(Arc::new(counted.clone()), Path::new("/ring"), config(1 << 40)).unwrap();
    let counts = counted.take();
    let mut segments: Vec<_> =
        counts.opened.iter().filter(|path| path.extension().is_some_and(|e| e == "mp4")).collect();
    segments.dedup();
    assert!(segments.len() <= 2, "{segments:?}");
    // The journal twice (its last file when it is opened, and all of it), the beginning of two files and their entries.
    let index: usize = sim
        .files()
        .iter()
        .filter(|path| path.starts_with("/ring/index"))
        .map(|path| sim.read(path).unwrap().len())
        .sum();
    assert!(counts.read_bytes < 2 * index as u64 + 100_000, "{} with an index of {index}", counts.read_bytes);
    assert!(index < 200 * SEGMENTS as usize, "{index}");
    assert!(recovery.lost.is_empty(), "{:?}", recovery.lost);
    let found = ring.fragments(at(0), at(SEGMENTS * 4)).unwrap().len() as i64;
    assert!(found >= SEGMENTS - 1, "{found}");
}

#[test]
fn a_ring_whose_index_is_gone_is_read_from_its_files() {
    let sim = SimDisk::new(2);
    let mut ring = long_ring(sim.disk(), 100);
    let durable = ring.end_run().0;
    let all = ring.fragments(at(0), at(1_000)).unwrap();
    drop(ring);
    for path in sim.files().iter().filter(|path| path.starts_with("/ring/index")) {
        sim.disk().remove(path).unwrap();
    }
    let (ring, recovery) = Ring::open_on(sim.disk(), Path::new("/ring"), config(1 << 40)).unwrap();
    assert_eq!(ring.fragments(at(0), at(1_000)).unwrap(), all);
    assert_eq!(recovery.last_run, durable);
}

/// What the ring said is durable, of whichever run.
#[derive(Default)]
struct Claims(BTreeMap<Uuid, Durable>);

impl Claims {
    fn add(&mut self, durable: Option<Durable>) {
        if let Some(durable) = durable {
            self.0.insert(durable.run, durable);
        }
    }

    fn check(&self, disk: &SimDisk, what: &str) {
        let (ring, _) = Ring::open_on(disk.disk(), Path::new("/ring"), config(1 << 40)).unwrap();
        let found = ring.fragments(Time::MIN, Time::MAX).unwrap_or_default();
        for (run, durable) in &self.0 {
            let of_run: Vec<_> = found.iter().filter(|f| f.run.run == *run).collect();
            let count = durable.commitment.fragments as usize;
            assert!(of_run.len() >= count, "{what}: {} of {count} fragments", of_run.len());
            let leaves: Vec<_> = of_run[..count].iter().map(|f| f.sha256).collect();
            assert_eq!(MerkleTree::from_leaves(&leaves).root(), durable.commitment.merkle_root, "{what}");
        }
        for fragment in &found {
            read_fragment_on(&*disk.disk(), fragment).unwrap_or_else(|e| panic!("{what}: {e}"));
        }
        assert_eq!(ring.bytes(), ring.segments.iter().map(|s| s.known.bytes).sum::<u64>(), "{what}");
    }
}

/// As the recorder does it: after an error the run ends, and another begins.
fn record_on(disk: &SimDisk, claims: &mut Claims, seconds: i64) {
    let Ok((mut ring, _)) = Ring::open_on(disk.disk(), Path::new("/ring"), config(1 << 40)) else { return };
    let now = Instant::now();
    ring.begin_run(run_from(0));
    for s in 0..seconds {
        let appended = ring.append(&second(s), at(s), at(s + 1));
        let synced = appended.and_then(|_| ring.sync_if_due(now + Duration::from_secs(s as u64)));
        match synced {
            Ok(durable) => claims.add(durable),
            Err(_) => {
                claims.add(ring.end_run().0);
                ring.begin_run(run_from(s));
            }
        }
    }
    claims.add(ring.end_run().0);
}

#[test]
fn what_was_said_to_be_durable_survives_power_cuts() {
    for seed in 0..80 {
        let disk = SimDisk::new(seed);
        let mut claims = Claims::default();
        for cut in 0..4 {
            disk.fail(1 + (seed * 7 + cut * 13) % 41, Fault::Dead);
            record_on(&disk, &mut claims, 25);
            disk.heal();
            disk.power_cut();
        }
        claims.check(&disk, &format!("seed {seed}"));
    }
}

#[test]
fn whatever_operation_fails_nothing_that_was_durable_is_lost_and_recording_goes_on() {
    let forgets = Fault::Sync(AfterFailedSync::Forgets);
    let faults = [Fault::Error, Fault::Short, forgets, Fault::Sync(AfterFailedSync::Drops)];
    for after in 0..60 {
        for fault in faults {
            let disk = SimDisk::new(after);
            let mut claims = Claims::default();
            disk.fail(after, fault);
            record_on(&disk, &mut claims, 20);
            let what = format!("{fault:?} after {after}");
            let durable: u64 = claims.0.values().map(|d| d.commitment.fragments).sum();
            assert!(after < 5 || durable >= 10, "{what}: {durable} of 20 seconds");
            disk.heal();
            disk.power_cut();
            claims.check(&disk, &what);
        }
    }
}

#[test]
fn a_card_that_turns_read_only_costs_what_was_not_durable_and_is_used_again_when_it_can_be() {
    let disk = SimDisk::new(3);
    let (mut ring, _) = Ring::open_on(disk.disk(), Path::new("/ring"), config(1 << 40)).unwrap();
    ring.begin_run(run_from(0));
    record(&mut ring, 0..6);
    let durable = ring.sync().unwrap();
    record(&mut ring, 6..7);
    disk.set_read_only(true);
    for s in 7..30 {
        let error = ring.append(&second(s), at(s), at(s + 1)).unwrap_err();
        assert!(!error.is_full(), "{error}");
        assert_eq!(ring.end_run().0, durable.filter(|_| s == 7));
        let report = Report { coverage: coverage(Uuid::now_v7(), durable.unwrap().commitment), era: None };
        ring.report(vec![report]).unwrap_err();
        ring.begin_run(run_from(s));
    }
    assert_eq!(ring.fragments(at(0), at(99)).unwrap().len(), 6, "what is there can be looked at");
    assert!(Ring::open_on(disk.image().disk(), Path::new("/ring"), config(1 << 40)).is_ok());
    disk.set_read_only(false);
    record(&mut ring, 30..33);
    let again = ring.end_run();
    again.1.unwrap();
    drop(ring);
    let (ring, recovery) = Ring::open_on(disk.disk(), Path::new("/ring"), config(1 << 40)).unwrap();
    assert_eq!(recovery.last_run, again.0);
    assert_eq!(
        recovery.reports.len(),
        crate::limits::COVERAGE_REPEAT_MAX,
        "the last ones were kept for the next try"
    );
    assert_eq!(ring.fragments(at(0), at(99)).unwrap().len(), 9);
}

#[test]
fn on_a_full_disk_the_oldest_footage_makes_way_and_then_recording_waits() {
    let disk = SimDisk::new(4);
    let (mut ring, _) = Ring::open_on(disk.disk(), Path::new("/ring"), config(1 << 40)).unwrap();
    ring.begin_run(run_from(0));
    record(&mut ring, 0..40);
    ring.sync().unwrap();
    // Another program takes what is free.
    disk.set_capacity(Some(disk.used_bytes() + 500));
    record(&mut ring, 40..60);
    assert_eq!(ring.upto(), Some(at(60)));
    assert!(ring.from() > Some(at(15)), "{:?}", ring.from());
    // It takes all of it.
    disk.set_capacity(Some(0));
    let mut s = 60;
    let error = loop {
        match ring.append(&second(s), at(s), at(s + 1)) {
            Ok(_) => s += 1,
            Err(error) => break error,
        }
        assert!(s < 70);
    };
    assert!(error.is_full(), "{error}");
    assert!(ring.can_give_up() || ring.segments.len() == 1);
    let (durable, _) = ring.end_run();
    disk.set_capacity(None);
    ring.begin_run(run_from(80));
    record(&mut ring, 80..90);
    ring.end_run().1.unwrap();
    drop(ring);
    let (ring, recovery) = Ring::open_on(disk.disk(), Path::new("/ring"), config(1 << 40)).unwrap();
    assert!(recovery.lost.is_empty(), "{:?}", recovery.lost);
    assert!(durable.is_none_or(|d| d.end <= at(s)));
    let found = ring.fragments(at(0), at(99)).unwrap();
    assert!(found.iter().filter(|f| f.start >= at(80)).count() == 10);
    found.iter().for_each(|f| drop(read_fragment_on(&*disk.disk(), f).unwrap()));
}

/// One segment at a moment, by a clock that is held by something better or not.
fn segment_at(ring: &mut Ring, start: Time, sync: SyncState) {
    ring.begin_run(run_at(start, sync));
    ring.append(&second(0), start, start + SignedDuration::from_secs(60)).unwrap();
    ring.end_run().1.unwrap();
}

#[test]
fn what_is_overwritten_and_when_does_not_depend_on_a_clock_that_was_wrong() {
    use SyncState::{Synced, Unsynced};
    let dir = tempfile::tempdir().unwrap();
    let (mut ring, _) = Ring::open(dir.path(), config(1 << 30)).unwrap();
    let year_1970 = Time::from_second(30).unwrap();
    segment_at(&mut ring, at(0), Synced);
    // Two boots without a clock, with the same times; then the right time comes.
    segment_at(&mut ring, year_1970, Unsynced);
    segment_at(&mut ring, year_1970, Unsynced);
    segment_at(&mut ring, at(600), Synced);
    // A boot whose clock was a year ahead.
    segment_at(&mut ring, at(365 * 86_400), Unsynced);
    segment_at(&mut ring, at(1_200), Synced);
    let starts = |ring: &Ring| ring.segments.iter().map(|s| s.known.start).collect::<Vec<_>>();
    assert_eq!(starts(&ring).len(), 6, "nothing of this is a day old: {:?}", starts(&ring));
    assert_eq!(ring.oldest_age(), SignedDuration::from_secs(1_260));
    assert_eq!(ring.oldest_start(), Some(at(0)));
    // A day later the first goes; with those whose time nobody knew the one behind them.
    segment_at(&mut ring, at(86_400 + 200), Synced);
    assert_eq!(starts(&ring)[0], year_1970);
    segment_at(&mut ring, at(86_400 + 700), Synced);
    assert_eq!(starts(&ring)[0], at(365 * 86_400), "{:?}", starts(&ring));
    segment_at(&mut ring, at(86_400 + 1_300), Synced);
    assert_eq!(starts(&ring).len(), 3, "{:?}", starts(&ring));
    drop(ring);
    // A restart finds them in the order of their writing.
    let (mut ring, _) = Ring::open(dir.path(), config(1 << 30)).unwrap();
    assert_eq!(starts(&ring), [86_600, 87_100, 87_700].map(at));
    // A box that never learns the time: its own clock counts while it goes on.
    for hour in 0..30 {
        segment_at(&mut ring, year_1970 + SignedDuration::from_hours(hour), Unsynced);
    }
    assert_eq!(starts(&ring)[0], year_1970 + SignedDuration::from_hours(5), "{:?}", starts(&ring));
}
