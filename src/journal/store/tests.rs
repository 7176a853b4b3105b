//! What a journal promises, against a model: power cuts, failed writes and flipped bytes at random places.

use proptest::prelude::*;

use super::*;

const SEGMENT_BYTES: u64 = 500;

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<u8>),
    Sync,
    Roll,
    /// Drops what lies before this share of all records.
    Drop(f64),
    /// A power cut, and what it leaves of a write that was under way.
    Cut(Tail),
    /// A write that fails after this share of its bytes.
    FailedWrite(f64),
    /// A roll that leaves a segment that it could not make whole.
    FailedRoll,
}

#[derive(Debug, Clone)]
enum Tail {
    /// This share of the bytes that were on their way, then so many zeros.
    Torn(f64, usize),
    /// A new segment with so many bytes of its header, the rest up to this length zeros.
    TornHeader(usize, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let tail = prop_oneof![
        (0.0..=1.0, 0usize..40).prop_map(|(share, zeros)| Tail::Torn(share, zeros)),
        (0usize..20, 0usize..60).prop_map(|(bytes, length)| Tail::TornHeader(bytes, length)),
    ];
    let step = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 1..200).prop_map(Step::Append),
        3 => Just(Step::Sync),
        1 => Just(Step::Roll),
        1 => (0.0..1.0).prop_map(Step::Drop),
        2 => tail.prop_map(Step::Cut),
        1 => (0.0..=1.0).prop_map(Step::FailedWrite),
        1 => Just(Step::FailedRoll),
    ];
    prop::collection::vec(step, 1..60)
}

struct Model {
    journal: Journal,
    dir: PathBuf,
    /// What was synced, by number.
    synced: Vec<Vec<u8>>,
    /// What was appended since.
    pending: Vec<Vec<u8>>,
}

impl Model {
    fn new(dir: &Path) -> Self {
        let (journal, _) = Journal::open_with(dir, SEGMENT_BYTES).unwrap();
        Self { journal, dir: dir.to_owned(), synced: Vec::new(), pending: Vec::new() }
    }

    fn take(mut self, step: Step) -> Self {
        match step {
            Step::Append(payload) => {
                let segments = self.journal.segments.len();
                self.journal.append(&payload).unwrap();
                if self.journal.segments.len() > segments {
                    self.synced.append(&mut self.pending);
                }
                self.pending.push(payload);
            }
            Step::Sync => {
                self.journal.sync().unwrap();
                self.synced.append(&mut self.pending);
            }
            Step::Roll => {
                self.journal.roll().unwrap();
                self.synced.append(&mut self.pending);
            }
            Step::Drop(share) => {
                let before = ((share * self.synced.len() as f64) as u64).max(self.journal.first());
                self.journal.drop_before(before).unwrap();
                assert!(self.journal.first() <= before, "more was dropped than was asked for");
            }
            Step::Cut(tail) => return self.cut(&tail),
            Step::FailedWrite(share) => self.failed_write(share),
            Step::FailedRoll => self.failed_roll(),
        }
        self
    }

    fn open_path(&self) -> PathBuf {
        self.journal.segments().last().expect("always one").1
    }

    fn cut(mut self, tail: &Tail) -> Self {
        let path = self.open_path();
        let pending = std::mem::take(&mut self.journal.buffer);
        drop(self.journal);
        match *tail {
            Tail::Torn(share, zeros) => {
                let mut left = pending[..(share * pending.len() as f64) as usize].to_vec();
                left.resize(left.len() + zeros, 0);
                append_to(&path, &left);
            }
            Tail::TornHeader(bytes, length) => {
                append_to(&path, &pending);
                self.synced.append(&mut self.pending);
                let first = self.synced.len() as u64;
                let mut header = segment::encode_header(first)[..bytes].to_vec();
                header.resize(length.max(bytes), 0);
                let next = self.dir.join(segment::file_name(first));
                if next != path {
                    std::fs::write(next, header).unwrap();
                }
            }
        }
        let (journal, recovery) = Journal::open_with(&self.dir, SEGMENT_BYTES).unwrap();
        assert_eq!(recovery.damage, [], "a power cut is no damage");
        // Whole records of the write under way may be there: they were appended, and are durable now.
        let more = journal.next() as usize - self.synced.len();
        assert!(more <= self.pending.len(), "{more} records are invented");
        self.synced.extend(self.pending.drain(..).take(more));
        Self { journal, dir: self.dir, synced: self.synced, pending: Vec::new() }
    }

    fn failed_write(&mut self, share: f64) {
        if self.pending.is_empty() {
            return;
        }
        let path = self.open_path();
        append_to(&path, &self.journal.buffer[..(share * self.journal.buffer.len() as f64) as usize]);
        self.journal.file = File::open(&path).unwrap();
        assert!(matches!(self.journal.sync(), Err(JournalError::Io { .. })));
        self.recover();
    }

    fn failed_roll(&mut self) {
        self.journal.sync().unwrap();
        self.synced.append(&mut self.pending);
        let next = self.journal.next();
        if *self.journal.segments.last().unwrap() < next {
            std::fs::write(self.dir.join(segment::file_name(next)), segment::encode_header(next)).unwrap();
            assert!(self.journal.roll().is_err());
            self.recover();
        }
    }

    fn recover(&mut self) {
        assert!(matches!(self.journal.append(b"x"), Err(JournalError::Poisoned { .. })));
        self.journal.reopen().unwrap();
        self.pending.clear();
    }

    fn check(&self) {
        let first = self.journal.first();
        assert_eq!(self.journal.next(), (self.synced.len() + self.pending.len()) as u64);
        let read: Vec<Item> = self.journal.read(first).map(Result::unwrap).collect();
        assert_eq!(read, records(first, &self.synced[first as usize..]));
    }
}

fn records(first: u64, payloads: &[Vec<u8>]) -> Vec<Item> {
    let numbered = payloads.iter().zip(first..);
    numbered.map(|(payload, number)| Item::Record(Record { number, payload: payload.clone() })).collect()
}

fn append_to(path: &Path, bytes: &[u8]) {
    OpenOptions::new().append(true).open(path).unwrap().write_all(bytes).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_synced_is_read_back_and_nothing_else(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let mut model = Model::new(dir.path());
        for step in steps {
            model = model.take(step);
            model.check();
        }
        model.cut(&Tail::Torn(0.0, 0)).check();
    }

    #[test]
    fn a_last_segment_that_is_cut_anywhere_keeps_its_whole_records(
        lengths in prop::collection::vec(1usize..200, 1..30),
        share in 0.0..1.0,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut model = Model::new(dir.path());
        for length in lengths {
            model = model.take(Step::Append(vec![7; length]));
        }
        let mut model = model.take(Step::Sync);
        let path = model.open_path();
        let first = *model.journal.segments.last().unwrap();
        let keep = (share * std::fs::metadata(&path).unwrap().len() as f64) as u64;
        cut_back(&path, keep).unwrap();
        let mut end = HEADER_BYTES;
        let whole = model.synced[first as usize..].iter().take_while(|payload| {
            end += RECORD_HEADER_BYTES + payload.len() as u64;
            end <= keep
        });
        let whole = whole.count();
        model.synced.truncate(first as usize + whole);
        model.cut(&Tail::Torn(0.0, 0)).check();
    }

    #[test]
    fn a_flipped_byte_in_an_older_segment_is_damage_by_name_and_the_rest_is_read(
        lengths in prop::collection::vec(1usize..200, 20..40),
        segment_share in 0.0..1.0,
        byte_share in 0.0..1.0,
        flip in 1u8..,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut model = Model::new(dir.path());
        for length in lengths {
            model = model.take(Step::Append(vec![length as u8; length]));
        }
        let model = model.take(Step::Sync);
        let older: Vec<_> = model.journal.segments().collect();
        let older = &older[..older.len() - 1];
        let (_, path) = &older[(segment_share * older.len() as f64) as usize];
        let mut bytes = std::fs::read(path).unwrap();
        let at = (byte_share * bytes.len() as f64) as usize;
        bytes[at] ^= flip;
        std::fs::write(path, bytes).unwrap();

        let Model { journal, synced, .. } = model;
        drop(journal);
        let (journal, recovery) = Journal::open_with(dir.path(), SEGMENT_BYTES).unwrap();
        prop_assert_eq!(recovery.damage.len(), 1);
        let damage = recovery.damage[0].clone();
        prop_assert_eq!(&damage.path, path);
        prop_assert!(damage.offset <= at as u64);
        let mut expected = records(0, &synced);
        expected.splice(damage.first_lost as usize..=damage.last_lost as usize, [Item::Damage(damage)]);
        let read: Vec<Item> = journal.read(0).map(Result::unwrap).collect();
        prop_assert_eq!(read, expected);
        prop_assert_eq!(journal.next(), synced.len() as u64);
    }
}
