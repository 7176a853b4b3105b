//! Rebuilds against the index that was built as the events came, also while they keep coming.

use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::hub::catalog::embedded::{Embedded, Opened};
use crate::hub::truth::{Arrived, HubRecord, JournalTruth, StoredFile, Truth};
use crate::model::{
    BoxId, ClockQuality, ClockSource, DeviceId, Epoch, Event, EventData, Motion, MotionPhase, Sha256Hash,
    Source, Status, SyncState, Time,
};

/// Runs so short that a rebuild writes many.
const SIZES: Sizes = Sizes { run_records: 64, scan_rows: 10_000 };

struct World {
    dir: TempDir,
    truth: JournalTruth,
    live: Arc<Live>,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (truth, _) = JournalTruth::open(&dir.path().join("journal")).unwrap();
        let live = open_live(dir.path(), &truth);
        Self { dir, truth, live }
    }

    /// Makes the next `count` events durable and indexes them as ingest does.
    fn arrive(&mut self, count: u64) {
        let first = self.truth.next();
        let records = (first..first + count).map(record).collect();
        let appended = self.truth.append(records).unwrap();
        self.live.apply(appended.first, &appended.written).unwrap();
    }

    fn rebuilder(&self) -> Rebuilder {
        Rebuilder::new(self.live.clone(), self.truth.dir())
    }

    /// What an index says that reads the whole journal at once.
    fn expected(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let path = self.dir.path().join("at-once");
        let (index, _) = Embedded::open_with(&path, &self.truth.records(), u64::MAX, SIZES).unwrap();
        let index = Arc::new(index);
        Indexer::new(self.truth.dir(), index.clone()).catch_up(self.truth.next(), |_, _| Ok(())).unwrap();
        dump(&index)
    }

    /// Names in the folder of indices.
    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path().join("index")).unwrap();
        let mut names: Vec<String> =
            entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

fn open_live(dir: &Path, truth: &JournalTruth) -> Arc<Live> {
    let (live, _) = Live::open_with(&dir.join("index"), &truth.records(), truth.next(), SIZES).unwrap();
    Arc::new(live)
}

fn dump(index: &Embedded) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    index.dump(|key, value| all.push((key.to_vec(), value.to_vec()))).unwrap();
    all
}

fn record(n: u64) -> HubRecord {
    let time = Time::from_millisecond(1_800_000_000_000 + 100 * n as i64).unwrap();
    let box_id = BoxId::new(format!("box-{:02}", n % 7)).unwrap();
    if n % 50 == 49 {
        let (sha256, clip) = (Sha256Hash::of(&n.to_le_bytes()), Uuid::from_u128(n.into()));
        return HubRecord::Stored(StoredFile { sha256, bytes: n, box_id, clip, received: time });
    }
    let data = match n % 3 {
        0 => EventData::Status(Status::new(true, None)),
        _ => EventData::Motion(Motion::new(Uuid::from_u128(n.into()), MotionPhase::Start, time, 0.5)),
    };
    let device = DeviceId::new(format!("cam-{:02}", n % 14)).unwrap();
    let event = Event {
        id: Uuid::from_u128(n.into()),
        source: Source::of_device(&box_id, &device),
        epoch: Epoch(1),
        sequence: n / 7 + 1,
        time,
        clock: ClockQuality {
            source: ClockSource::Box,
            sync: SyncState::Synced,
            offset_ms: None,
            uncertainty_ms: None,
        },
        data,
    };
    HubRecord::Event(Arrived::of(event, time))
}

fn wait_until_done(rebuilder: &Rebuilder) -> IndexReport {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let report = rebuilder.report();
        if report.state != IndexState::Rebuilding {
            return report;
        }
        assert!(Instant::now() < deadline, "{report:?}");
        std::thread::yield_now();
    }
}

#[test]
fn a_rebuild_beside_arriving_events_equals_the_index_that_took_them_as_they_came() {
    let mut world = World::new();
    world.arrive(3000);
    let rebuilder = world.rebuilder();
    rebuilder.start().unwrap();
    assert!(matches!(rebuilder.start(), Err(RebuildError::Running)));
    let is_done = AtomicBool::new(false);
    let live = world.live.clone();
    let report = std::thread::scope(|scope| {
        let watched = scope.spawn(|| {
            let mut applied = 0;
            while !is_done.load(Ordering::Relaxed) {
                let now = live.applied();
                assert!(now >= applied, "search never goes back: {now} after {applied}");
                applied = now;
            }
        });
        while rebuilder.report().state == IndexState::Rebuilding {
            world.arrive(37);
        }
        let report = wait_until_done(&rebuilder);
        is_done.store(true, Ordering::Relaxed);
        watched.join().unwrap();
        report
    });
    assert_eq!((report.state, report.error), (IndexState::Rebuilt, None));
    assert!(report.done > 3000, "events came meanwhile: {}", report.done);
    world.arrive(100);
    assert_eq!(world.live.applied(), world.truth.next());
    assert!(dump(&world.live.index()) == world.expected());
    assert_eq!(world.names(), ["2", "current"], "the old index is gone");
}

#[test]
fn a_rebuild_that_ends_early_leaves_the_old_index_in_use() {
    let mut world = World::new();
    world.arrive(300);
    let before = dump(&world.live.index());
    let journal_dir = world.truth.dir();
    let failed = rebuild_live(&world.live, &journal_dir, |_, _| anyhow::bail!("the hub is stopping"));
    assert!(format!("{:#}", failed.unwrap_err()).contains("stopping"));
    assert_eq!(world.names(), ["1", "current"]);
    assert!(dump(&world.live.index()) == before);

    // Killed in between: the next start goes on with the old one and clears away the new.
    drop(world.live.begin().unwrap());
    assert_eq!(world.names(), ["1", "2", "current"]);
    world.live = open_live(world.dir.path().join("elsewhere").as_path(), &world.truth);
    let (live, opened) =
        Live::open_with(&world.dir.path().join("index"), &world.truth.records(), world.truth.next(), SIZES)
            .unwrap();
    assert_eq!((opened, world.names()), (Opened::Continued, vec!["1".to_owned(), "current".to_owned()]));
    let live = Arc::new(live);
    Indexer::new(journal_dir, live.clone()).catch_up(world.truth.next(), |_, _| Ok(())).unwrap();
    assert!(dump(&live.index()) == before);
}

#[test]
fn the_index_of_a_stopped_hub_is_rebuilt_and_the_journal_stays_locked_meanwhile() {
    let mut world = World::new();
    world.arrive(500);
    let (data_dir, next) = (world.dir.path().to_owned(), world.truth.next());
    let running = rebuild_offline(&data_dir, SIZES, |_, _| Ok(()));
    assert!(matches!(running, Err(OfflineError::Journal(JournalError::Locked { .. }))), "{running:?}");
    let World { dir, truth, live } = world;
    drop((truth, live));
    // Whatever lies there: an index of an older version stood directly in the folder.
    std::fs::write(dir.path().join("index/db"), b"old").unwrap();
    let mut heard = 0;
    let records = rebuild_offline(&data_dir, SIZES, |done, all| {
        assert_eq!(all, next);
        assert!(matches!(JournalTruth::open(&data_dir.join("journal")), Err(JournalError::Locked { .. })));
        heard = done;
        Ok(())
    });
    assert_eq!((records.unwrap(), heard), (next, next));
    let (truth, _) = JournalTruth::open(&data_dir.join("journal")).unwrap();
    let live = open_live(dir.path(), &truth);
    assert_eq!(live.applied(), next / SIZES.run_records * SIZES.run_records, "closed runs are on disk");
    Indexer::new(truth.dir(), live.clone()).catch_up(next, |_, _| Ok(())).unwrap();
    let world = World { dir, truth, live };
    assert!(dump(&world.live.index()) == world.expected());
    assert_eq!(world.names(), ["2", "current"]);
}
