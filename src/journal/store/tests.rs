//! What a journal promises, against a model: on a disk that fails in every way, and with bytes that were flipped.

use proptest::prelude::*;

use super::*;
use crate::journal::sim_disk::{AfterFailedSync, Fault, SimDisk};
use crate::journal::{Item, Record, Writer, check};

const SEGMENT_BYTES: u64 = 2_000;
const OPTIONS: Options = Options { segment_bytes_max: SEGMENT_BYTES };

fn dir() -> &'static Path {
    Path::new("/data/journal")
}

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<u8>),
    Sync,
    Roll,
    /// Drops what lies before this share of all records.
    Drop(f64),
    PowerCut,
    ProcessCrash,
    /// Closed in good order and opened again.
    Reopen,
    /// The operation after so many others fails.
    Fail(u64, Fault),
    FailSync(u64, AfterFailedSync),
    /// The disk has room for so many bytes more.
    Full(u64),
    Heal,
    /// The next error ends the process: it is started anew without having gone back.
    GiveUp,
}

/// One to some 600 bytes, some of which can be packed.
fn payloads() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 1..200),
        (any::<u8>(), 1usize..600).prop_map(|(byte, length)| vec![byte; length]),
    ]
}

fn failed_syncs() -> impl Strategy<Value = AfterFailedSync> {
    use AfterFailedSync::*;
    prop_oneof![Just(Retries), Just(Forgets), Just(Drops)]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let fault = prop_oneof![
        Just(Fault::Error),
        Just(Fault::Short),
        Just(Fault::Dead),
        failed_syncs().prop_map(Fault::Sync)
    ];
    let step = prop_oneof![
        10 => payloads().prop_map(Step::Append),
        5 => Just(Step::Sync),
        1 => Just(Step::Roll),
        1 => (0.0..1.0).prop_map(Step::Drop),
        1 => Just(Step::PowerCut),
        1 => Just(Step::ProcessCrash),
        1 => Just(Step::Reopen),
        1 => (0u64..8, fault).prop_map(|(after, fault)| Step::Fail(after, fault)),
        1 => (0u64..3, failed_syncs()).prop_map(|(after, then)| Step::FailSync(after, then)),
        1 => (0u64..3000).prop_map(Step::Full),
        1 => Just(Step::Heal),
        1 => Just(Step::GiveUp),
    ];
    prop::collection::vec(step, 1..80)
}

struct Model {
    disk: SimDisk,
    journal: Journal,
    /// What was acknowledged, by number.
    synced: Vec<Vec<u8>>,
    /// What was appended since; after a crash any number of the first ones may be there.
    pending: Vec<Vec<u8>>,
    gives_up: bool,
}

impl Model {
    fn new(seed: u64) -> Self {
        let disk = SimDisk::new(seed);
        let (journal, _) = Journal::open_on(disk.disk(), dir(), OPTIONS).unwrap();
        Self { disk, journal, synced: Vec::new(), pending: Vec::new(), gives_up: false }
    }

    fn take(mut self, step: Step) -> Self {
        match step {
            Step::Append(payload) => {
                let appended = self.journal.append(&payload);
                self.note_durable();
                match appended {
                    Ok(number) => {
                        assert_eq!(number, (self.synced.len() + self.pending.len()) as u64);
                        self.pending.push(payload);
                    }
                    Err(error) => return self.recover(error),
                }
            }
            Step::Sync => {
                if let Err(error) = self.journal.sync() {
                    return self.recover(error);
                }
                self.note_durable();
                assert_eq!(self.pending.len(), 0);
            }
            Step::Roll => {
                let rolled = self.journal.roll();
                self.note_durable();
                if let Err(error) = rolled {
                    return self.recover(error);
                }
            }
            Step::Drop(share) => {
                let before = ((share * self.synced.len() as f64) as u64).max(self.journal.first());
                // Where it fails, some segments are left that will be dropped the next time.
                let _ = self.journal.drop_before(before);
                assert!(self.journal.first() <= before, "more was dropped than was asked for");
                if self.disk.is_dead() {
                    return self.crash(false);
                }
            }
            Step::PowerCut => return self.crash(true),
            Step::ProcessCrash => return self.crash(false),
            Step::Reopen => {
                let Self { disk, journal, synced, pending, .. } = self;
                drop(journal);
                let model = |journal| Self { disk: disk.clone(), journal, synced, pending, gives_up: false };
                disk.heal();
                if disk.is_dead() {
                    disk.process_crash();
                }
                return model(open(&disk)).opened();
            }
            Step::Fail(after, fault) => self.disk.fail(after, fault),
            Step::FailSync(after, then) => self.disk.fail_sync(after, then),
            Step::Full(bytes) => self.disk.set_capacity(Some(self.disk.used_bytes() + bytes)),
            Step::Heal => self.disk.heal(),
            Step::GiveUp => self.gives_up = true,
        }
        self
    }

    /// What the journal says is durable is acknowledged: a segment that was closed on the way, too.
    fn note_durable(&mut self) {
        let more = self.journal.durable() as usize - self.synced.len();
        self.synced.extend(self.pending.drain(..more));
    }

    /// After an error: goes back to what is durable, or, where that fails too, starts the process anew.
    fn recover(mut self, error: JournalError) -> Self {
        let is_expected = matches!(error, JournalError::Io { .. } | JournalError::Poisoned { .. });
        assert!(is_expected, "{error}");
        if self.gives_up || self.journal.reopen().is_err() {
            return self.crash(false);
        }
        assert_eq!(self.journal.next(), self.synced.len() as u64, "what was not acknowledged is gone");
        self.pending.clear();
        self
    }

    fn crash(self, is_power_cut: bool) -> Self {
        let Self { disk, journal, synced, pending, .. } = self;
        // Nobody closes anything in a crash.
        disk.fail(0, Fault::Dead);
        drop(journal);
        if is_power_cut {
            disk.power_cut();
        } else {
            disk.process_crash();
        }
        disk.heal();
        let journal = open(&disk);
        Self { disk, journal, synced, pending, gives_up: false }.opened()
    }

    /// Whole records of a write under way may be there: they were appended, and are durable now.
    fn opened(mut self) -> Self {
        let next = self.journal.next() as usize;
        assert!(next >= self.synced.len(), "{} of {} acknowledged records are lost", next, self.synced.len());
        let more = next - self.synced.len();
        assert!(more <= self.pending.len(), "{more} records are invented");
        self.synced.extend(self.pending.drain(..more));
        self.pending.clear();
        self
    }

    fn check(&self) {
        if self.disk.is_dead() {
            return;
        }
        let first = self.journal.first();
        assert_eq!(self.journal.next(), (self.synced.len() + self.pending.len()) as u64);
        let expected = records(first, &self.synced[first as usize..]);
        let read: Vec<Item> = self.journal.read(first).map(Result::unwrap).collect();
        assert_eq!(read, expected);
        for number in [0, first, self.synced.len() as u64 / 2, self.synced.len() as u64] {
            let record = self.journal.read_record(number).unwrap().map(|record| record.payload);
            let is_here = (first..self.synced.len() as u64).contains(&number);
            assert_eq!(
                record.as_ref(),
                self.synced.get(number as usize).filter(|_| is_here),
                "record {number}"
            );
        }
        let from = first + (self.synced.len() as u64 - first) / 2;
        assert!(
            self.journal
                .read(from)
                .map(Result::unwrap)
                .eq(expected[(from - first) as usize..].iter().cloned())
        );
        // Another process may see what is not synced yet, but nothing else.
        let elsewhere = Records::of_dir_on(self.disk.disk(), dir()).unwrap();
        let seen: Vec<Item> = elsewhere.read(first).map(Result::unwrap).collect();
        assert_eq!(seen, expected);
    }
}

fn open(disk: &SimDisk) -> Journal {
    let (journal, recovery) = Journal::open_on(disk.disk(), dir(), OPTIONS).unwrap();
    assert_eq!(recovery.damage, [], "nobody flipped a byte");
    journal
}

fn records(first: u64, payloads: &[Vec<u8>]) -> Vec<Item> {
    let numbered = payloads.iter().zip(first..);
    numbered.map(|(payload, number)| Item::Record(Record { number, payload: payload.clone() })).collect()
}

/// Groups of records, a sync behind each, in segments of [`SEGMENT_BYTES`].
fn written(groups: &[Vec<Vec<u8>>], is_closed: bool) -> (SimDisk, Vec<Vec<u8>>) {
    let disk = SimDisk::new(groups.len() as u64);
    let (mut journal, _) = Journal::open_on(disk.disk(), dir(), OPTIONS).unwrap();
    for group in groups {
        for payload in group {
            journal.append(payload).unwrap();
        }
        journal.sync().unwrap();
    }
    if !is_closed {
        disk.fail(0, Fault::Dead);
    }
    drop(journal);
    disk.process_crash();
    (disk, groups.concat())
}

/// Reads everything: each number once, as a record that was written or as lost. Returns what is lost.
fn account(
    items: impl Iterator<Item = Result<Item, JournalError>>,
    payloads: &[Vec<u8>],
    next: u64,
) -> Vec<Damage> {
    let mut expected = 0;
    let mut lost = Vec::new();
    for item in items {
        match item.unwrap() {
            Item::Record(record) => {
                assert_eq!(record.number, expected);
                assert_eq!(record.payload, payloads[expected as usize], "record {expected} is invented");
                expected += 1;
            }
            Item::Damage(damage) => {
                assert_eq!(damage.first_lost, expected);
                assert!(damage.last_lost >= expected);
                expected = damage.last_lost + 1;
                lost.push(damage);
            }
        }
    }
    assert_eq!(expected, next, "every number has its word");
    lost
}

fn flip(disk: &SimDisk, share: f64, mask: u8) -> (PathBuf, usize) {
    let files: Vec<PathBuf> = disk.files();
    let sizes: Vec<usize> = files.iter().map(|path| disk.read(path).unwrap().len()).collect();
    let mut at = (share * sizes.iter().sum::<usize>() as f64) as usize;
    let mut file = 0;
    while at >= sizes[file] {
        at -= sizes[file];
        file += 1;
    }
    disk.corrupt(&files[file], |bytes| bytes[at] ^= mask).unwrap();
    (files[file].clone(), at)
}

fn ranges(damage: &[Damage]) -> Vec<(u64, u64)> {
    damage.iter().map(|damage| (damage.first_lost, damage.last_lost)).collect()
}

/// How often each property is tried: `CAMNET_JOURNAL_CASES`, or so many.
fn config(cases: u32) -> ProptestConfig {
    let cases = std::env::var("CAMNET_JOURNAL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(cases);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn groups() -> impl Strategy<Value = Vec<Vec<Vec<u8>>>> {
    prop::collection::vec(prop::collection::vec(payloads(), 1..8), 2..16)
}

proptest! {
    #![proptest_config(config(400))]

    #[test]
    fn what_was_acknowledged_is_read_back_and_nothing_else(seed: u64, steps in steps()) {
        let mut model = Model::new(seed);
        for step in steps {
            model = model.take(step);
            model.check();
        }
        let model = model.crash(true);
        model.check();
        for report in check::check(&model.disk, dir()).unwrap() {
            prop_assert!(report.is_good(), "{:?}", report);
        }
    }

    #[test]
    fn a_flipped_byte_is_found_named_and_costs_no_other_record(
        groups in groups(),
        is_closed: bool,
        share in 0.0..1.0,
        mask in 1u8..,
    ) {
        let (disk, payloads) = written(&groups, is_closed);
        let (path, at) = flip(&disk, share, mask);
        let reports = check::check(&disk, dir()).unwrap();
        prop_assert!(reports.iter().any(|report| !report.is_good() || report.torn_bytes > 0));

        let (journal, recovery) = Journal::open_on(disk.disk(), dir(), OPTIONS).unwrap();
        let tail = groups.last().unwrap().len() as u64;
        let all = payloads.len() as u64;
        // Without the mark of a good end, a flip in the last write looks like a torn one.
        let is_cut = !is_closed && recovery.torn_bytes > 0;
        prop_assert!(journal.next() == all || is_cut && journal.next() >= all - tail);
        let lost = account(journal.read(0), &payloads, journal.next());
        prop_assert!(lost.len() <= 1);
        if let Some(damage) = lost.first() {
            prop_assert_eq!(&damage.path, &path);
            prop_assert!(damage.offset <= at as u64);
            let named = journal.read_record(damage.first_lost);
            prop_assert!(matches!(named, Err(JournalError::Damaged(named)) if named == *damage));
        }
        drop(journal);

        check::repair(&disk, dir()).unwrap();
        let (mut journal, _) = Journal::open_on(disk.disk(), dir(), OPTIONS).unwrap();
        let marked = account(journal.read(0), &payloads, journal.next());
        prop_assert_eq!(ranges(&marked), ranges(&lost), "a repair neither finds nor hides records");
        let number = journal.append(b"on").unwrap();
        journal.sync().unwrap();
        prop_assert_eq!(journal.read_record(number).unwrap().unwrap().payload, b"on");
        drop(journal);
        for report in check::check(&disk, dir()).unwrap() {
            prop_assert!(report.blemishes.is_empty() && report.torn_bytes == 0, "{:?}", report);
            prop_assert!(report.damage.iter().all(|damage| damage.why == MARKED_LOST), "{:?}", report);
        }
    }

    #[test]
    fn whatever_is_flipped_nothing_is_invented(
        groups in groups(),
        flips in prop::collection::vec((0.0..1.0, 1u8..), 2..12),
    ) {
        let (disk, payloads) = written(&groups, true);
        for (share, mask) in flips {
            flip(&disk, share, mask);
        }
        let before = Records::of_dir_on(disk.disk(), dir()).unwrap();
        for item in before.read(0) {
            if let Item::Record(record) = item.unwrap() {
                prop_assert_eq!(&record.payload, &payloads[record.number as usize]);
            }
        }
        if let Ok((journal, _)) = Journal::open_on(disk.disk(), dir(), OPTIONS) {
            account(journal.read(0), &payloads, journal.next());
        }
    }

    #[test]
    fn a_segment_of_any_bytes_is_read_without_harm(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        at in 0usize..3000,
        groups in groups(),
    ) {
        check::read_bytes(bytes.clone(), |_, _| {});
        let (disk, payloads) = written(&groups, true);
        let mut segment = disk.read(&disk.files()[0]).unwrap();
        let at = at.min(segment.len());
        let end = (at + bytes.len()).min(segment.len());
        segment.splice(at..end, bytes);
        check::read_bytes(segment, |number, payload| assert_eq!(payload, payloads[number as usize]));
    }
}

#[test]
fn large_records_and_full_frames_are_read_back() {
    let disk = SimDisk::new(1);
    let (mut journal, _) = Journal::open_on(disk.disk(), dir(), Options::default()).unwrap();
    let payload = |n: usize| -> Vec<u8> { (0..n).map(|i| (i * i / 7 % 251) as u8).collect() };
    let lengths = [1, 200 << 10, 100 << 10, JOURNAL_RECORD_BYTES_MAX, 127, 128, 16_383, 16_384, 300 << 10];
    for length in lengths {
        journal.append(&payload(length)).unwrap();
    }
    assert!(matches!(journal.append(&[]), Err(JournalError::RecordSize { bytes: 0 })));
    let too_large = vec![0; JOURNAL_RECORD_BYTES_MAX + 1];
    assert!(matches!(journal.append(&too_large), Err(JournalError::RecordSize { .. })));
    journal.sync().unwrap();
    for (number, length) in lengths.into_iter().enumerate() {
        assert_eq!(journal.read_record(number as u64).unwrap().unwrap().payload, payload(length));
    }
    drop(journal);
    let reports = check::check(&disk, dir()).unwrap();
    assert_eq!(
        (reports[0].records, reports[0].frames),
        (lengths.len() as u64, 6),
        "five of records and the mark"
    );
    assert!(reports[0].bytes < reports[0].raw_bytes, "it was packed");
}

#[test]
fn events_are_packed_small() {
    let disk = SimDisk::new(1);
    let (mut journal, _) = Journal::open_on(disk.disk(), dir(), Options::default()).unwrap();
    let mut bytes = 0;
    for n in 0..2000u64 {
        let id = uuid::Uuid::from_u128(u128::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
        let json = format!(
            r#"{{"specversion":"1.0","id":"{id}","source":"/box-{:03}/cam-{}","type":"camnet.motion.v1","time":"2026-03-01T10:{:02}:{:02}.{:03}Z","sequence":"{n:020}","epoch":"00c0ffee00c0ffee","data":{{"state":"start","score":0.{:04}}}}}"#,
            n % 100,
            n % 4,
            n / 60 % 60,
            n % 60,
            n * 7 % 1000,
            n * 31 % 10_000
        );
        bytes += json.len() as u64;
        journal.append(json.as_bytes()).unwrap();
    }
    journal.sync().unwrap();
    assert!(journal.bytes() * 3 < bytes, "{} bytes for {bytes}", journal.bytes());
}

#[test]
fn a_record_that_looks_like_a_frame_is_not_taken_for_one() {
    let forged = |salt: u32| {
        let mut raw = Vec::new();
        segment::push_record(b"invented", &mut raw);
        let mut frame = Vec::new();
        Packer::default().add_frame(salt, 1, 1, 1, &raw, &mut frame);
        frame
    };
    for knows_the_salt in [false, true] {
        let disk = SimDisk::new(5);
        let (mut journal, _) = Journal::open_on(disk.disk(), dir(), Options::default()).unwrap();
        let salt = if knows_the_salt { journal.open.salt } else { journal.open.salt ^ 1 };
        journal.append(&forged(salt)).unwrap();
        journal.sync().unwrap();
        for payload in [b"a", b"b"] {
            journal.append(payload).unwrap();
            journal.sync().unwrap();
        }
        let path = journal.open_path();
        disk.corrupt(&path, |bytes| bytes[HEADER_BYTES as usize] ^= 1).unwrap();
        let items: Vec<Item> = journal.read(0).map(Result::unwrap).collect();
        let is_invented =
            items.iter().any(|item| matches!(item, Item::Record(r) if r.payload == b"invented"));
        assert_eq!(is_invented, knows_the_salt, "{items:?}");
    }
}

#[test]
fn bytes_between_frames_lose_no_record() {
    let payloads: Vec<Vec<u8>> = [b"a", b"b", b"c"].map(|payload| payload.to_vec()).to_vec();
    for frames_before in 0..payloads.len() {
        let disk = SimDisk::new(9);
        let (mut journal, _) = Journal::open_on(disk.disk(), dir(), Options::default()).unwrap();
        let mut offset = HEADER_BYTES as usize;
        for (at, payload) in payloads.iter().enumerate() {
            if at == frames_before {
                offset = journal.bytes() as usize;
            }
            journal.append(payload).unwrap();
            journal.sync().unwrap();
        }
        let path = journal.open_path();
        drop(journal);
        disk.corrupt(&path, |bytes| bytes.insert(offset, 0)).unwrap();
        let (journal, recovery) = Journal::open_on(disk.disk(), dir(), Options::default()).unwrap();
        assert_eq!(recovery, Recovery::default());
        assert_eq!(account(journal.read(0), &payloads, 3), []);
    }
}

#[test]
fn a_journal_of_another_version_is_refused_and_left_alone() {
    let mut of_version_1 = b"CAMNETJ1".to_vec();
    of_version_1.extend_from_slice(&0u64.to_le_bytes());
    let crc = crc32fast::hash(&of_version_1);
    of_version_1.extend_from_slice(&crc.to_le_bytes());
    let mut of_version_3 = Header { first: 0, salt: 7 }.encode();
    of_version_3[7] = b'3';
    let crc = crc32fast::hash(&of_version_3[..28]);
    of_version_3[28..].copy_from_slice(&crc.to_le_bytes());
    for header in [of_version_1, of_version_3.to_vec()] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(segment::file_name(0));
        std::fs::write(&path, &header).unwrap();
        let refused = Journal::open(folder.path()).map(|_| ());
        assert!(matches!(refused, Err(JournalError::Version { .. })), "{refused:?}");
        assert_eq!(std::fs::read(&path).unwrap(), header);
    }
}

#[test]
fn a_segment_that_can_not_be_removed_keeps_those_behind_it() {
    let disk = SimDisk::new(3);
    let (mut journal, _) = Journal::open_on(disk.disk(), dir(), OPTIONS).unwrap();
    for n in 0..4u8 {
        journal.append(&[n]).unwrap();
        journal.roll().unwrap();
    }
    disk.fail(0, Fault::Error);
    assert!(journal.drop_before(3).is_err());
    assert_eq!(journal.first(), 0);
    assert_eq!(journal.drop_before(2).unwrap(), 2);
    drop(journal);
    let journal = open(&disk);
    let left: Vec<Item> = journal.read(0).map(Result::unwrap).collect();
    assert_eq!(left, records(2, &[vec![2], vec![3]]));
}

#[test]
fn one_process_has_a_journal_open() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(folder.path()).unwrap();
    assert!(matches!(Journal::open(folder.path()), Err(JournalError::Locked { .. })));
    assert!(matches!(check::repair(&RealDisk, folder.path()), Err(JournalError::Locked { .. })));
    drop(journal);
    Journal::open(folder.path()).unwrap();
}

#[test]
fn records_are_read_by_others_while_they_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open_with(folder.path(), 20_000).unwrap();
    let payload = |n: u64| vec![n as u8; 1 + n as usize % 700];
    let records = journal.records();
    let of_dir = Records::of_dir(folder.path()).unwrap();
    let reading = std::thread::spawn(move || {
        let mut seen = 0;
        while seen < 2000 {
            for item in records.read(seen) {
                assert_eq!(item.unwrap(), Item::Record(Record { number: seen, payload: payload(seen) }));
                let again = records.read_record(seen / 2).unwrap().unwrap();
                assert_eq!(again.payload, payload(seen / 2));
                assert_eq!(of_dir.read_record(seen).unwrap().unwrap().payload, payload(seen));
                seen += 1;
            }
            std::thread::yield_now();
        }
    });
    for n in 0..2000 {
        journal.append(&payload(n)).unwrap();
        if n % 7 == 0 {
            journal.sync().unwrap();
        }
    }
    journal.sync().unwrap();
    reading.join().unwrap();
    let of_dir = Records::of_dir(folder.path()).unwrap();
    journal.drop_before(1000).unwrap();
    assert!(journal.first() > 0);
    assert_eq!(of_dir.read_record(0).unwrap(), None, "dropped since");
    assert_eq!(of_dir.read_record(1999).unwrap().unwrap().payload, payload(1999));
    assert_eq!(of_dir.read_record(2000).unwrap(), None);
}

#[tokio::test]
async fn group_commit_says_yes_only_to_what_is_durable() {
    let disk = SimDisk::new(9);
    let (journal, _) = Journal::open_on(disk.disk(), dir(), OPTIONS).unwrap();
    let (writer, thread) = Writer::start(journal, "journal").unwrap();
    let mut durable = Vec::new();
    let mut failed = 0;
    for round in 0..6u64 {
        match round {
            1 => disk.fail_sync(0, AfterFailedSync::Forgets),
            3 => disk.fail(0, Fault::Short),
            4 => disk.set_capacity(Some(disk.used_bytes() + 100)),
            _ => disk.heal(),
        }
        for n in 0..3 {
            let payload = vec![(10 * round + n) as u8; 90];
            match writer.commit(vec![payload.clone(), payload.clone()]).await {
                Ok(numbers) => durable.extend(numbers.map(|number| (number, payload.clone()))),
                Err(error) => {
                    assert!(
                        matches!(*error, JournalError::Io { .. } | JournalError::Poisoned { .. }),
                        "{error}"
                    );
                    failed += 1;
                }
            }
        }
    }
    assert!(failed >= 3 && durable.len() >= 2 * 9, "{failed} failed, {} are durable", durable.len());
    drop(writer);
    thread.join().unwrap();
    disk.power_cut();
    let journal = open(&disk);
    let read: Vec<Item> = journal.read(0).map(Result::unwrap).collect();
    let expected = durable.into_iter().map(|(number, payload)| Item::Record(Record { number, payload }));
    assert_eq!(read, expected.collect::<Vec<_>>());
}
