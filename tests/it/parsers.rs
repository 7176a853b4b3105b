//! The parsers of `tests/fuzz`, tried with their seeds, with seeds that were changed a little, and with noise: what
//! `make fuzz` does for minutes, for a moment and without nightly.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

#[path = "../fuzz/parsers.rs"]
mod entries;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus")
}

fn seeds(name: &str) -> Vec<Vec<u8>> {
    let folder = corpus().join(name);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

#[test]
fn each_parser_has_seeds_and_nothing_else_has() {
    for (name, _) in entries::PARSERS {
        assert!(!seeds(name).is_empty(), "{name} has no seed");
    }
    for entry in std::fs::read_dir(corpus()).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(entries::PARSERS.iter().any(|(known, _)| name == *known), "{name:?} is no parser");
    }
}

/// A seed, cut, joined to another, with some bytes changed, or bytes out of nowhere.
fn bytes_like(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let seed = any::<prop::sample::Index>().prop_map(move |at| at.get(&seeds).clone());
    let change = (any::<prop::sample::Index>(), any::<u8>(), 0u8..4);
    let changed = (seed, prop::collection::vec(change, 0..6)).prop_map(|(mut bytes, changes)| {
        for (at, byte, how) in changes {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => drop(bytes.remove(at)),
                _ => bytes.truncate(at),
            }
        }
        bytes
    });
    prop_oneof![8 => changed, 1 => prop::collection::vec(any::<u8>(), 0..300)]
}

/// For each parser; `CAMNET_PARSER_CASES` says how many where there is no nightly for `make fuzz`.
fn cases() -> u32 {
    std::env::var("CAMNET_PARSER_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(300)
}

#[test]
fn no_parser_panics_or_breaks_its_promises() {
    for (name, parser) in entries::PARSERS {
        let seeds = seeds(name);
        for seed in &seeds {
            parser(seed);
        }
        let config = Config { cases: cases(), failure_persistence: None, ..Config::default() };
        let tried = TestRunner::new(config).run(&bytes_like(seeds), |bytes| {
            parser(&bytes);
            Ok(())
        });
        if let Err(error) = tried {
            panic!("{name}: {error}");
        }
    }
}

/// `CAMNET_WRITE_SEEDS=1 cargo test --test it seeds_are` writes the seeds that only our own writers can make.
#[test]
fn seeds_are_what_our_own_writers_make() {
    use camnet::edge::fmp4::{self, Sample, Track, WallClock};
    use camnet::hub::catalog::ClipKey;
    use camnet::hub::truth::{self, Arrived, HubRecord, StoredFile};
    use camnet::journal::{Journal, segment};
    use camnet::model::{BoxId, Epoch, Sha256Hash, Time};
    use camnet::wire::{Decoded, decode};
    use uuid::Uuid;

    let time = Time::from_second(1_772_000_000).unwrap();
    let box_id = BoxId::new("box-01").unwrap();
    let framed = |records: &[Vec<u8>]| {
        let length = |record: &Vec<u8>| (record.len() as u16).to_be_bytes();
        let parts = records.iter().flat_map(|record| [length(record).to_vec(), record.clone()]);
        parts.chain([vec![0, 0]]).collect::<Vec<_>>().concat()
    };
    let events = ["boot", "clip", "unknown"].map(|name| {
        let json = std::fs::read(corpus().join("wire_events").join(name)).unwrap();
        let Decoded::Event { event, json } = decode(&box_id, &json).remove(0) else { panic!("{name}") };
        HubRecord::Event(Arrived { box_id: box_id.clone(), received: time, conflict: false, event, json })
    });
    let refused = HubRecord::Refused {
        box_id: box_id.clone(),
        received: time,
        reason: "bad_time".into(),
        detail: "why".into(),
        epoch: Some(Epoch(0xab)),
        sequence: Some(5),
        id: Some(Uuid::from_u128(6)),
        body: b"{}".to_vec(),
    };
    let (sha256, clip) = (Sha256Hash::of(b"x"), Uuid::from_u128(5));
    let stored = HubRecord::Stored(StoredFile { sha256, bytes: 7, box_id, clip, received: time });
    let [boot, cut, unknown] = events.map(|event| truth::encode_record(&event));
    let (refused, stored) = (truth::encode_record(&refused), truth::encode_record(&stored));
    let records = [boot.clone(), refused.clone(), unknown, stored.clone(), cut];

    // A segment carries a number drawn at random, so this seed is written but not compared.
    let seed = corpus().join("journal_segment/whole");
    if std::env::var_os("CAMNET_WRITE_SEEDS").is_some() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(dir.path()).unwrap();
        for record in [&b"one"[..], b"two", b"three"] {
            journal.append(record).unwrap();
            journal.sync().unwrap();
        }
        let whole = std::fs::read(dir.path().join(segment::file_name(0))).unwrap();
        std::fs::write(seed.with_file_name("torn"), &whole[..whole.len() - 3]).unwrap();
        std::fs::write(seed, whole).unwrap();
    }

    let mut sample_entry = vec![0; 120];
    sample_entry[3] = 120;
    sample_entry[4..8].copy_from_slice(b"avc1");
    sample_entry[86..98].copy_from_slice(&[0, 0, 0, 34, b'a', b'v', b'c', b'C', 1, 0x4d, 0x40, 0x1e]);
    let track = Track { sample_entry, width: 0, height: 0, audio: None };
    let init = fmp4::init_segment(&track, Some(9000));
    let sample = |pts: i64, sync| Sample {
        pts,
        sync,
        data: vec![0, 0, 0, 3, if sync { 0x65 } else { 0x41 }, 1, 2].into(),
    };
    let wall = WallClock { time, camera: true };
    let fragment = fmp4::fragment(1, &[sample(0, true), sample(45_000, false)], Some(90_000), 0, wall);
    let (ring_records, ring_file) = ring_of(&track, &fragment, time);
    let fragment = fragment.bytes;
    let torn = [&ring_file[..], &ring_file[ring_file.len() - 200..][..150]].concat();
    let token = camnet::hub::search::token::Token::new([7; 16], time, ClipKey { start_us: 7, clip });
    let seeds: Vec<(&str, Vec<u8>)> = vec![
        ("hub_record/event", boot),
        ("hub_record/refused", refused),
        ("hub_record/stored", stored),
        ("hub_journal/all", framed(&records)),
        ("fmp4_init/avc", init),
        ("fmp4_fragment/two_pictures", fragment),
        ("ring_files/closed", [framed(&ring_records), ring_file].concat()),
        ("ring_files/torn", [framed(&ring_records[..1]), torn].concat()),
        ("page_token/clips", token.write().into_bytes()),
    ];
    for (name, bytes) in seeds {
        let path = corpus().join(name);
        if std::env::var_os("CAMNET_WRITE_SEEDS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &bytes).unwrap();
        }
        assert!(
            std::fs::read(&path).is_ok_and(|seed| seed == bytes),
            "{name}: CAMNET_WRITE_SEEDS=1 writes it anew"
        );
    }
}

/// The records of a ring's index (a report, a closed segment), and the bytes of its one segment.
fn ring_of(
    track: &camnet::edge::fmp4::Track,
    fragment: &camnet::edge::fmp4::Fragment,
    time: camnet::model::Time,
) -> (Vec<Vec<u8>>, Vec<u8>) {
    use camnet::edge::ring::{Report, Ring, Run};
    use camnet::journal::{Item, Reader};
    use camnet::model::{ClockQuality, ClockSource, Coverage, SpanState, SyncState};

    let dir = tempfile::tempdir().unwrap();
    let (mut ring, _) = Ring::open(dir.path(), Default::default()).unwrap();
    let run: uuid::Uuid = "01890a5d-ac96-774b-bcce-b302099a8058".parse().unwrap();
    let clock = ClockQuality {
        source: ClockSource::Camera,
        sync: SyncState::Synced,
        offset_ms: None,
        uncertainty_ms: Some(4),
    };
    let coverage = Coverage {
        span: run,
        state: SpanState::Recorded,
        start: time,
        upto: time,
        open: true,
        run: None,
        ring_from: None,
        detail: None,
    };
    ring.report(vec![Report { coverage, era: Some(run) }]).unwrap();
    ring.begin_run(Run { run, start: time, clock, track: track.clone() });
    let path = ring.append(fragment, time, time).unwrap().path;
    ring.append(fragment, time, time).unwrap();
    ring.end_run().1.unwrap();
    drop(ring);
    let records = Reader::of_dir(&dir.path().join("index"), 0).unwrap().map(|item| match item.unwrap() {
        Item::Record(record) => record.payload,
        Item::Damage(damage) => panic!("{damage}"),
    });
    (records.collect(), std::fs::read(&*path).unwrap())
}
