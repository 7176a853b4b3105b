//! Every parser that reads what comes from the network or from a disk, as a function of bytes.
//!
//! The fuzz target and a test of `make test` share this file. A function panics when the parser does, or when what
//! it read breaks a promise: a bound, a round trip. Nothing else may matter to it.

use std::path::Path;
use std::sync::LazyLock;

use camnet::edge;
use camnet::edge::clip::ClipFile;
use camnet::edge::config::{EdgeConfig, LampConfig};
use camnet::edge::lamp::map::CabinetMap;
use camnet::edge::lamp::plan::Plan;
use camnet::hub;
use camnet::hub::catalog::{ClipKey, EventKey};
use camnet::hub::config::HubConfig;
use camnet::hub::registry::RegistryFile;
use camnet::hub::search::atlas::Atlas;
use camnet::hub::search::question::{Asked, Question};
use camnet::hub::search::token::Token;
use camnet::hub::truth::{self, HubRecord, JournalTruth, Truth};
use camnet::journal::{Item, Journal, segment};
use camnet::limits::{
    BATCH_EVENTS_MAX, EVENT_BYTES_MAX, JOURNAL_RECORD_BYTES_MAX, LAMP_POWER_W_MAX, MODBUS_BITS_MAX,
    MODBUS_REGISTERS_MAX, REFUSAL_DETAIL_CHARS_MAX, REFUSED_BODY_BYTES_MAX,
};
use camnet::model::{self, BoxId, ClockQuality, ClockSource, Sha256Hash, SyncState, Time};
use camnet::toml_file::ConfigFile;
use camnet::wire::enrol::{Enrolment, Invitation};
use camnet::wire::{self, BoxStatus, Command, CommandResult, Decoded, Receipt, Topic};
use http::{HeaderMap, HeaderValue, header};

/// Must take any bytes.
pub type Parser = fn(&[u8]);

/// Name and function; `tests/fuzz/corpus/<name>` has a few seeds for each.
pub const PARSERS: &[(&str, Parser)] = &[
    ("wire_events", wire_events),
    ("wire_receipt", wire_receipt),
    ("wire_command", wire_command),
    ("wire_result", wire_result),
    ("wire_topic", wire_topic),
    ("wire_status", wire_status),
    ("wire_places", wire_places),
    ("enrolment", enrolment),
    ("invitation", invitation),
    ("set_config", set_config),
    ("purpose_header", purpose_header),
    ("onvif_metadata", onvif_metadata),
    ("registry_toml", registry_toml),
    ("edge_toml", edge_toml),
    ("cabinet_toml", cabinet_toml),
    ("hub_toml", hub_toml),
    ("journal_segment", journal_segment),
    ("hub_record", hub_record),
    ("hub_journal", hub_journal),
    ("outbox_journal", outbox_journal),
    ("ring_files", ring_files),
    ("fmp4_fragment", fmp4_fragment),
    ("fmp4_init", fmp4_init),
    ("clip_file", clip_file),
    ("tus_headers", tus_headers),
    ("range_header", range_header),
    ("page_token", page_token),
    ("question", question),
];

fn sender() -> BoxId {
    BoxId::new("box-01").expect("a good id")
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

// --- from the network ---

fn wire_events(bytes: &[u8]) {
    let decoded = wire::decode(&sender(), bytes);
    assert!(
        (1..=BATCH_EVENTS_MAX).contains(&decoded.len()),
        "each message becomes something, within a bound"
    );
    for item in decoded {
        match item {
            Decoded::Event { event, json } => {
                assert!(json.len() <= EVENT_BYTES_MAX);
                assert_eq!(event.source.box_id, sender());
                let again = wire::decode(&sender(), &wire::encode(&event));
                let [Decoded::Event { event: again, .. }] = &again[..] else { panic!("{again:?}") };
                assert_eq!((again.id, again.epoch, again.sequence), (event.id, event.epoch, event.sequence));
                assert_eq!(wire::event_type(&again.data), wire::event_type(&event.data));
            }
            Decoded::Refused(refusal) => {
                assert!(refusal.body.len() <= REFUSED_BODY_BYTES_MAX);
                assert!(refusal.detail.chars().count() <= REFUSAL_DETAIL_CHARS_MAX);
            }
        }
    }
}

fn wire_receipt(bytes: &[u8]) {
    let Ok(receipt) = Receipt::from_json(bytes) else { return };
    assert_eq!(Receipt::from_json(&receipt.to_json()).expect("our own words"), receipt);
    for sequence in [0, 1, receipt.upto, receipt.upto.saturating_add(1), u64::MAX] {
        assert!(!receipt.covers(sequence) || sequence <= receipt.upto);
    }
}

fn wire_command(bytes: &[u8]) {
    let Ok(command) = serde_json::from_slice::<Command>(bytes) else { return };
    assert_eq!(serde_json::from_slice::<Command>(&command.to_json()).expect("our own words"), command);
}

fn wire_result(bytes: &[u8]) {
    let Ok(result) = CommandResult::from_json(bytes) else { return };
    let again = CommandResult::from_json(&result.to_json()).expect("our own words");
    // The last digit of a number may turn out another.
    assert_eq!(CommandResult { dim_percent: None, ..again }, CommandResult { dim_percent: None, ..result });
}

fn wire_topic(bytes: &[u8]) {
    let Some(Ok(topic)) = text(bytes).map(str::parse::<Topic>) else { return };
    assert_eq!(Some(topic.to_string().as_str()), text(bytes));
}

fn wire_status(bytes: &[u8]) {
    let Ok(status) = BoxStatus::from_json(bytes) else { return };
    assert_eq!(BoxStatus::from_json(&status.to_json()).expect("our own words"), status);
}

fn enrolment(bytes: &[u8]) {
    let Some(Ok(enrolment)) = text(bytes).map(Enrolment::from_toml) else { return };
    assert_eq!(Enrolment::from_toml(&enrolment.to_toml()).expect("our own words"), enrolment);
}

fn invitation(bytes: &[u8]) {
    let Some(Ok(invitation)) = text(bytes).map(str::parse::<Invitation>) else { return };
    assert_eq!(invitation.to_string().parse::<Invitation>().expect("our own words"), invitation);
}

/// Whatever the hub sets, the box keeps its identity and lets nobody in who was not let in before.
fn set_config(bytes: &[u8]) {
    static OWN: LazyLock<EdgeConfig> = LazyLock::new(|| {
        let toml = "box = \"box-01\"\ndata_dir = \"d\"\n[hub]\nmqtt = \"h:8883\"\nurl = \"https://h:8443\"\n\
            ca = \"ca\"\ncertificate = \"c\"\nkey = \"c\"\n";
        EdgeConfig::parse(Path::new("/etc/camnet/edge.toml"), toml).expect("a good file")
    });
    let path = Path::new("/etc/camnet/edge.toml");
    let Some(Ok(merged)) = text(bytes).map(|text| edge::set::merge(&OWN, path, text)) else { return };
    assert_eq!((&merged.box_id, &merged.data_dir), (&OWN.box_id, &OWN.data_dir));
    assert_eq!((&merged.hub.ca, &merged.hub.key), (&OWN.hub.ca, &OWN.hub.key));
    assert!(merged.cameras.iter().all(|camera| !camera.audio));
    assert!(merged.lamps.iter().all(|lamp| lamp.commands.is_empty()));
    let files = merged.cameras.iter().filter_map(|camera| camera.password_file.as_ref());
    for file in files.chain(merged.lamps.iter().map(|lamp| &lamp.map)) {
        assert!(file.starts_with("/etc/camnet") && !file.components().any(|part| part.as_os_str() == ".."));
    }
}

fn onvif_metadata(bytes: &[u8]) {
    let Ok(metadata) = edge::camera::onvif::parse(bytes) else { return };
    for object in metadata.frames.iter().flat_map(|frame| &frame.objects) {
        let Some(area) = object.area else { continue };
        assert!(0.0 <= area.left && area.left <= area.right && area.right <= 1.0);
        assert!(0.0 <= area.top && area.top <= area.bottom && area.bottom <= 1.0);
    }
}

fn wire_places(bytes: &[u8]) {
    let Some((epoch, sequences)) = text(bytes).and_then(|text| text.split_once('\n')) else { return };
    let properties = [(wire::PROPERTY_EPOCH, epoch), (wire::PROPERTY_SEQUENCES, sequences)]
        .map(|(k, v)| (k.into(), v.into()));
    if let Some((_, first, last)) = wire::read_places(&properties) {
        assert!(first >= 1 && last >= first && last - first < BATCH_EVENTS_MAX as u64);
    }
}

fn purpose_header(bytes: &[u8]) {
    let purpose = model::purpose_from_header(bytes);
    let header = model::purpose_to_header(&purpose);
    assert!(header.bytes().all(|b| (b' '..=b'~').contains(&b)));
    assert_eq!(model::purpose_from_header(header.as_bytes()), purpose.trim());
}

/// The first line is the length, the rest the metadata.
fn tus_headers(bytes: &[u8]) {
    let Some((length, metadata)) = text(bytes).and_then(|text| text.split_once('\n')) else { return };
    let Ok(metadata) = HeaderValue::from_str(metadata) else { return };
    let headers = HeaderMap::from_iter([("upload-metadata".parse().expect("a good name"), metadata)]);
    if let Ok(declared) = hub::web::tus::declared(&headers, length.parse().unwrap_or(0)) {
        assert!(["clip", "thumbnail"].contains(&declared.kind.as_str()));
    }
}

/// The first line is the file's length, the rest the range.
fn range_header(bytes: &[u8]) {
    let Some((length, range)) = text(bytes).and_then(|text| text.split_once('\n')) else { return };
    let (Ok(length), Ok(range)) = (length.parse::<u64>(), HeaderValue::from_str(range)) else { return };
    let headers = HeaderMap::from_iter([(header::RANGE, range)]);
    if let hub::web::video::Wanted::Part(first, last) =
        hub::web::video::wanted(&headers, &Sha256Hash::of(b"x"), length)
    {
        assert!(first <= last && last < length);
    }
}

fn page_token(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let digest = [7; 16];
    if let Ok(token) = Token::<ClipKey>::read(text, digest) {
        assert_eq!(Token::<ClipKey>::read(&token.write(), digest).expect("our own words").after, token.after);
    }
    let _ = Token::<EventKey>::read(text, digest);
    let _ = Token::<u64>::read(text, digest);
}

fn question(bytes: &[u8]) {
    let Ok(asked) = serde_json::from_slice::<Asked>(bytes) else { return };
    let now = Time::from_second(1_772_000_000).expect("a good time");
    let _ = Question::understand(&asked, &Atlas::default(), now);
}

// --- from a disk ---

fn registry_toml(bytes: &[u8]) {
    if let Some(text) = text(bytes) {
        let _ = RegistryFile::parse(Path::new("ward.toml"), text);
    }
}

fn edge_toml(bytes: &[u8]) {
    if let Some(text) = text(bytes) {
        let _ = EdgeConfig::parse(Path::new("edge.toml"), text);
    }
}

/// A register map that can be joined with a cabinet asks for no more than Modbus has, and whatever is answered makes a
/// reading of sane numbers or none.
fn cabinet_toml(bytes: &[u8]) {
    static EDGE: LazyLock<LampConfig> = LazyLock::new(|| {
        let text = include_str!("corpus/edge_toml/small");
        let mut config =
            EdgeConfig::parse(Path::new("edge.toml"), text).expect("a good file").lamps.remove(0);
        config.units.clear();
        config.circuits[0].units.clear();
        config
    });
    let Some(Ok(map)) = text(bytes).map(|text| CabinetMap::parse(Path::new("map.toml"), text)) else {
        return;
    };
    let Ok(plan) = Plan::new(&map, &EDGE) else { return };
    for request in &plan.requests {
        let most = if request.function.is_bits() { MODBUS_BITS_MAX } else { MODBUS_REGISTERS_MAX };
        assert!((1..=most).contains(&request.count), "{request}");
    }
    for word in [0, 1, 0x4366, 0x7fc0, 0xffff] {
        let answers: Vec<_> = plan.requests.iter().map(|r| Some(vec![word; r.count.into()])).collect();
        let Some(reading) = plan.circuit(0, &answers).reading else { continue };
        assert!(
            reading.power_w.is_some_and(|w| w.abs() <= LAMP_POWER_W_MAX)
                && reading.current_a.is_some_and(f64::is_finite),
            "{reading:?}"
        );
    }
}

fn hub_toml(bytes: &[u8]) {
    if let Some(text) = text(bytes) {
        let _ = HubConfig::parse(Path::new("hub.toml"), text);
    }
}

/// A journal whose only segment has these bytes. What opening keeps can be read, in order, and is taken up.
fn journal_segment(bytes: &[u8]) {
    let dir = Folder::new();
    std::fs::write(dir.path().join(segment::file_name(0)), bytes).expect("the folder takes it");
    let Ok((mut journal, _)) = Journal::open(dir.path()) else { return };
    let kept = records(&journal);
    journal.append(b"next").expect("it takes records");
    journal.sync().expect("it writes");
    let after = records(&journal);
    assert_eq!(after.len(), kept.len() + 1, "nothing is lost by going on");
    assert_eq!(after[..kept.len()], kept[..]);
}

fn records(journal: &Journal) -> Vec<(u64, Vec<u8>)> {
    let items = journal.read(0).map(|item| item.expect("the disk works"));
    let records: Vec<_> = items
        .filter_map(|item| match item {
            Item::Record(record) => Some((record.number, record.payload)),
            Item::Damage(_) => None,
        })
        .collect();
    assert!(records.windows(2).all(|pair| pair[0].0 < pair[1].0));
    assert!(records.iter().all(|(_, payload)| payload.len() <= JOURNAL_RECORD_BYTES_MAX));
    records
}

fn hub_record(bytes: &[u8]) {
    let Ok(record) = truth::decode_record(bytes) else { return };
    let again = truth::decode_record(&truth::encode_record(&record)).expect("our own words");
    match (&record, &again) {
        // A number in an event's data may change in its last digit; the bytes do not.
        (HubRecord::Event(a), HubRecord::Event(b)) => assert_eq!(a.json, b.json),
        (a, b) => assert_eq!(a, b),
    }
}

/// A hub's journal with these records: it opens, and its receipts make sense.
fn hub_journal(bytes: &[u8]) {
    let dir = journal_of(bytes);
    let Ok((truth, _)) = JournalTruth::open(dir.path()) else { return };
    for item in truth::read_from(dir.path(), 0).expect("the disk works") {
        if let truth::TruthItem::Record { record: HubRecord::Event(arrived), .. } = item.expect("it reads") {
            let receipt = truth.receipt(&arrived.box_id, arrived.event.epoch).expect("it is known");
            assert!(receipt.covers(arrived.event.sequence) || receipt.upto < arrived.event.sequence);
            for (from, to) in receipt.missing {
                assert!(from <= to && to <= receipt.upto.max(to));
            }
        }
    }
}

/// An outbox with these records: it opens, and what it owes can be read.
fn outbox_journal(bytes: &[u8]) {
    let dir = journal_of(bytes);
    let now = Time::from_second(1_772_000_000).expect("a good time");
    let Ok((store, _)) = edge::outbox::Store::open(dir.path(), &sender(), now, CLOCK) else { return };
    let owed: Vec<_> = store.owed().flat_map(|span| span.places().take(64)).take(64).collect();
    assert!(!owed.is_empty(), "its first event at least");
    for place in owed {
        store.read(place, 16).expect("the disk works");
    }
}

const CLOCK: ClockQuality = ClockQuality {
    source: ClockSource::Box,
    sync: SyncState::Unknown,
    offset_ms: None,
    uncertainty_ms: None,
};

/// A ring with these records and, behind them, the bytes of its segment file.
fn ring_files(bytes: &[u8]) {
    let (records, file) = split(bytes);
    let dir = Folder::new();
    write_journal(&dir.path().join("index"), records);
    std::fs::write(dir.path().join(RING_FILE), file).expect("the folder takes it");
    let Ok((ring, _)) = edge::ring::Ring::open(dir.path(), Default::default()) else { return };
    let Ok(fragments) = ring.fragments(Time::MIN, Time::MAX) else { return };
    for fragment in fragments {
        let _ = edge::ring::read_fragment(&fragment);
    }
}

/// What the seeds call their segment.
const RING_FILE: &str = "0000000000-20260225T061320.000Z-099a8058.mp4";

fn fmp4_fragment(bytes: &[u8]) {
    if let Ok(found) = edge::fmp4::find_fragment(bytes) {
        assert!(found.bytes <= bytes.len());
        assert!(found.end_pts > found.first_pts);
    }
}

fn fmp4_init(bytes: &[u8]) {
    if let Ok((length, track)) = edge::fmp4::read_init(bytes) {
        assert!(length <= bytes.len());
        let _ = edge::fmp4::codec_name(&track.sample_entry);
    }
}

fn clip_file(bytes: &[u8]) {
    let _ = serde_json::from_slice::<ClipFile>(bytes);
}

// --- folders ---

/// In memory where the system has such a place: a disk would be the slowest part.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        static ROOT: LazyLock<std::path::PathBuf> = LazyLock::new(|| {
            let memory = Path::new("/dev/shm");
            if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() }
        });
        Self(
            tempfile::Builder::new()
                .prefix("camnet-parser-")
                .tempdir_in(&*ROOT)
                .expect("a folder can be made"),
        )
    }
    fn path(&self) -> &Path {
        self.0.path()
    }
}

/// Two bytes of length before each record of the first part; a length of zero ends it.
fn split(bytes: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let (mut records, mut rest) = (Vec::new(), bytes);
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        rest = after;
        let length = u16::from_be_bytes(*length) as usize;
        if length == 0 {
            break;
        }
        let (record, after) = rest.split_at(length.min(rest.len()));
        if !record.is_empty() {
            records.push(record);
        }
        rest = after;
    }
    (records, rest)
}

fn journal_of(bytes: &[u8]) -> Folder {
    let dir = Folder::new();
    write_journal(dir.path(), split(bytes).0);
    dir
}

/// The records are what is tried; their frame is whole.
fn write_journal(dir: &Path, records: Vec<&[u8]>) {
    let (mut journal, _) = Journal::open(dir).expect("a journal can be made");
    for record in records {
        journal.append(record).expect("it takes records");
    }
    journal.sync().expect("it writes");
}
