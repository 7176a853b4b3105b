//! Every bound of the system, named in one place. A queue, batch, body, retry, range or page that
//! has no line here has no business in the code.
//!
//! Units stand last in the name.

use std::time::Duration;

// --- wire ---
/// Largest MQTT packet that either side sends or takes. rumqttc's own default of 10 KiB wedges a
/// session for ever on a larger one.
pub const MQTT_PACKET_BYTES_MAX: u32 = 1 << 20;
/// Receive maximum of the hub and upper bound of messages in flight of a box.
pub const MQTT_INFLIGHT_MAX: u16 = 1000;
/// Messages in flight of a box: a small window costs 51 KB in rumqttc instead of 13.9 MB.
pub const MQTT_BOX_INFLIGHT_MAX: u16 = 100;
/// Messages that the embedded broker keeps for one receiver.
pub const BROKER_QUEUE_MAX: usize = 1_000_000;
/// Messages that the link holds for a receiver whose queue is full, before it stops reading.
pub const MQTT_HELD_MAX: usize = 1_000;
/// Bytes of messages that a receiver has and has not dropped yet, before the link stops reading.
pub const MQTT_WAITING_BYTES_MAX: usize = 64 << 20;
/// Publishes that wait for the link.
pub const MQTT_LINK_REQUESTS_MAX: usize = 4_096;
/// Requests that wait inside the MQTT client.
pub const MQTT_REQUESTS_MAX: usize = 256;
/// Events in one batch message.
pub const BATCH_EVENTS_MAX: usize = 200;
/// Bytes of one batch message; stays below [`MQTT_PACKET_BYTES_MAX`] with room for the header.
pub const BATCH_BYTES_MAX: usize = 512 << 10;
/// Bytes of one event as JSON.
pub const EVENT_BYTES_MAX: usize = 64 << 10;
/// Bytes of an event's type.
pub const EVENT_TYPE_BYTES_MAX: usize = 200;
/// Levels of nesting at which an event is refused; serde_json's own bound.
pub const JSON_NESTING_MAX: usize = 128;
/// Characters that say why an event was set aside.
pub const REFUSAL_DETAIL_CHARS_MAX: usize = 500;
/// Bytes of a body that is set aside: a whole batch when none of it can be told apart.
pub const REFUSED_BODY_BYTES_MAX: usize = BATCH_BYTES_MAX;
/// Bytes of bodies that are kept for one box in one hour; beyond it only place and reason are kept. A box
/// that sends rubbish for ever must not fill the hub's disk.
pub const REFUSED_BOX_BYTES_PER_HOUR: usize = 2 << 20;
/// Refusals of one box in one hour that are kept although nobody knows their place; beyond it they are counted only.
pub const REFUSED_BOX_UNPLACED_PER_HOUR: u64 = 1_000;
/// Refusals of one box in one hour that the log tells of one by one.
pub const REFUSED_BOX_LOGGED_PER_HOUR: u64 = 20;
/// Boxes with a label of their own in the count of refusals; the rest are counted together.
pub const METRIC_BOXES_MAX: usize = 40_000;
/// Ranges that a receipt names as missing; the rest follow in the next receipt.
pub const RECEIPT_MISSING_MAX: usize = 64;
/// Refused events that a receipt names.
pub const RECEIPT_REFUSED_MAX: usize = 64;
/// An epoch can't hold more events than this; the hub sets aside what claims more.
pub const SEQUENCE_MAX: u64 = 1 << 48;

// --- time ---
/// An event is resent when no receipt has covered it for this long.
pub const RESEND_AFTER: Duration = Duration::from_secs(30);
/// Receipted events stay in the outbox this long, disk permitting.
pub const OUTBOX_KEEP: Duration = Duration::from_secs(72 * 3600);
/// First and longest pause before a reconnect (MQTT, RTSP, Modbus, HTTP).
pub const BACKOFF_FIRST: Duration = Duration::from_millis(250);
pub const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// How long a part may take to drain at shutdown.
pub const DRAIN_MAX: Duration = Duration::from_secs(10);
/// Times before this or more than [`TIME_AHEAD_MAX`] after arrival are implausible.
pub const TIME_EARLIEST: &str = "2020-01-01T00:00:00Z";
pub const TIME_AHEAD_MAX: Duration = Duration::from_secs(24 * 3600);

// --- journal ---
/// A segment is closed when it reaches this size.
pub const JOURNAL_SEGMENT_BYTES_MAX: u64 = 64 << 20;
/// Largest record of a journal.
pub const JOURNAL_RECORD_BYTES_MAX: usize = 1 << 20;
/// Records that are packed and read back together; a larger record has a frame of its own.
pub const JOURNAL_FRAME_BYTES_MAX: usize = 256 << 10;
/// Less than this is not worth packing.
pub const JOURNAL_PACK_BYTES_MIN: usize = 1 << 10;
/// Unpacked frames that readers by number share, and segments that they keep open.
pub const JOURNAL_CACHE_FRAMES_MAX: usize = 8;
pub const JOURNAL_CACHE_SEGMENTS_MAX: usize = 8;
/// Requests of group commit that wait for the journal's thread; callers beyond it wait their turn.
pub const JOURNAL_REQUESTS_MAX: usize = 1024;
/// Requests that share one sync.
pub const JOURNAL_GROUP_MAX: usize = 512;
/// Pause before a journal that could not be written is opened anew.
pub const JOURNAL_REOPEN_PAUSE: Duration = Duration::from_millis(200);

// --- edge ---
/// Events accepted but not yet read by the uplink.
pub const OUTBOX_QUEUE_MAX: usize = 1024;
/// Size of an outbox segment: small, because a read begins at a segment's start.
pub const OUTBOX_SEGMENT_BYTES_MAX: u64 = 4 << 20;
/// Events of a box that are on their way to the hub without a receipt.
pub const UPLINK_WINDOW_EVENTS: usize = 2000;
/// Events of a box's backlog that may be on their way: at first, and at least. 10,000 boxes that come back at once
/// then put 200,000 old events before a fresh one, some seconds of the hub's work.
pub const BACKLOG_WINDOW_FIRST: usize = 20;
pub const BACKLOG_WINDOW_MIN: usize = 10;
/// Receipts of the backlog that take longer say that the hub is busy: the backlog's window is halved.
pub const BACKLOG_DELAY_MAX: Duration = Duration::from_secs(1);
/// A box tells its newest place on every connection and this often, so that a hub that lost something (restored from
/// a backup) asks for it even when nothing new happens.
pub const BOX_STATUS_REPEAT: Duration = Duration::from_secs(600);
/// A box that goes on with an epoch in which events conflict is asked again for a new one after this long.
pub const NEW_EPOCH_ASK_AGAIN: Duration = Duration::from_secs(10);
/// And until nothing was asked for this long; so many such epochs are remembered.
pub const NEW_EPOCH_FORGET: Duration = Duration::from_secs(3600);
pub const NEW_EPOCH_PLACES_MAX: usize = 10_000;
/// Epochs that a box names in its status; a chain of first events leads to those before.
pub const STATUS_EPOCHS_MAX: usize = 32;
/// Incomplete epochs of a box that one status is answered with.
pub const STATUS_RECEIPTS_MAX: usize = 32;
/// Bytes of the outbox on disk: its share, above which footage makes way.
pub const OUTBOX_BYTES_MAX: u64 = 1 << 30;
/// Free bytes below which footage makes way for events; a fiftieth of the disk where that is less.
pub const OUTBOX_DISK_RESERVE_BYTES: u64 = 256 << 20;
/// Room for the outbox is made in steps of at most this.
pub const OUTBOX_ROOM_STEP_BYTES_MAX: u64 = 16 << 20;
/// How often is looked whether there is room.
pub const ROOM_LOOK: Duration = Duration::from_secs(1);
/// Footage that was given up is told once; when none was for this long, that is over.
pub const ROOM_CALM: Duration = Duration::from_secs(600);
/// Zones and masks of a camera, corners of each, and bytes of a zone's name.
pub const MOTION_ZONES_MAX: usize = 32;
pub const MOTION_POLYGON_POINTS_MAX: usize = 64;
pub const MOTION_ZONE_NAME_BYTES_MAX: usize = 64;
/// Least time after which long motion may be closed, to go on as another event.
pub const MOTION_LONGEST_MIN: jiff::SignedDuration = jiff::SignedDuration::from_secs(10);
/// Pictures closer together than this are decoded but not looked at: 15 a second at most.
pub const MOTION_PICTURE_EVERY: Duration = Duration::from_millis(60);
/// Key frames may be so far apart for a camera whose motion is looked for in them alone while nothing moves: who
/// crosses in two seconds must be in one of them.
pub const MOTION_KEY_INTERVAL_MAX: Duration = Duration::from_millis(2_300);
/// Access units that are kept to look back to where motion began: bytes, and as many of a burst.
pub const MOTION_KEPT_BYTES_MAX: usize = 8 << 20;
pub const MOTION_KEPT_UNITS_MAX: usize = 1_024;
/// Access units that wait for the motion decoder before the oldest are skipped (counted).
pub const MOTION_QUEUE_MAX: usize = 64;
/// The decoder is stalled when this many access units went in since the last picture came out.
/// Above [`MOTION_QUEUE_MAX`] and the 16 pictures that H.264 may hold back to reorder them.
pub const DECODER_PENDING_FRAMES_MAX: u64 = 100;
/// It is also stalled when nothing came out for this long while more than
/// [`DECODER_SILENT_FRAMES_MIN`] access units went in.
pub const DECODER_SILENT_MAX: Duration = Duration::from_secs(10);
pub const DECODER_SILENT_FRAMES_MIN: u64 = 17;
/// Heaps of the C library that the threads of a box share. By default there are 8 for each core: what one thread frees,
/// the next one with another heap can't use.
pub const HEAP_ARENAS_MAX: i32 = 1;
/// Larger blocks (pictures, fragments, clips) are mapped by themselves and given back when they are freed. By default
/// this grows with what is freed, up to 32 MiB, and the heap with it.
pub const HEAP_BLOCK_BYTES_MAX: i32 = 128 << 10;
/// Longest that making one still may take.
pub const STILL_MAX: Duration = Duration::from_secs(20);
/// A working copy of a clip: its width, pixels, and its rate, kbit/s, at most.
pub const COPY_WIDTH_MAX: u32 = 640;
pub const COPY_KBIT_PER_S: u32 = 400;
/// Longest that making one may take in all, and without a picture.
pub const COPY_MAKE_MAX: Duration = Duration::from_secs(600);
pub const COPY_SILENT_MAX: Duration = Duration::from_secs(20);
/// Largest `moov` or `moof` of a clip.
pub const MP4_HEAD_BYTES_MAX: u64 = 16 << 20;
/// Longest that a lamp cabinet may take to accept a connection.
pub const MODBUS_CONNECT_MAX: Duration = Duration::from_secs(5);
/// Longest that a configuration may let a cabinet take for one answer.
pub const MODBUS_ANSWER_MAX: Duration = Duration::from_secs(30);
/// Registers, and coils or discrete inputs, of one request (Modbus Application Protocol V1.1b3, 6.1 to 6.4).
pub const MODBUS_REGISTERS_MAX: u16 = 125;
pub const MODBUS_BITS_MAX: u16 = 2000;
/// A cabinet that says it is busy is asked so many times in all, with this pause before the second time, twice as long
/// before the third.
pub const MODBUS_BUSY_TRIES: u32 = 3;
pub const MODBUS_BUSY_PAUSE: Duration = Duration::from_millis(200);
/// Circuits of one cabinet.
pub const LAMP_CIRCUITS_MAX: usize = 64;
/// Shortest and longest time between two readings of a cabinet, and longest rest of one that answers slowly.
pub const LAMP_POLL_MIN: Duration = Duration::from_millis(50);
pub const LAMP_POLL_MAX: Duration = Duration::from_secs(3600);
pub const LAMP_SLOW_PAUSE_MAX: Duration = Duration::from_secs(60);
/// Readings in a row with the same trouble before it is a fault, where one may be chance.
pub const LAMP_TROUBLE_READINGS: u32 = 3;
/// What no lighting circuit has: values beyond are the bus's or the map's mistake.
pub const LAMP_VOLTAGE_V_MAX: f64 = 1_000.0;
pub const LAMP_CURRENT_A_MAX: f64 = 1_000.0;
pub const LAMP_POWER_W_MAX: f64 = 1_000_000.0;
pub const LAMP_ENERGY_KWH_MAX: f64 = 1e9;
/// Lamp commands that wait for one cabinet, and those that it remembers by correlation id.
pub const LAMP_COMMANDS_WAITING_MAX: usize = 16;
pub const LAMP_COMMANDS_KNOWN_MAX: usize = LAMP_CIRCUITS_MAX * LAMP_COMMANDS_PER_HOUR_MAX;
/// A command may be valid for this long at most: lamps must not switch hours after somebody asked.
pub const LAMP_COMMAND_VALID_MAX: Duration = Duration::from_secs(300);
/// Pause between two commands to one circuit, and commands to it in one hour: relays and lamps wear.
pub const LAMP_COMMAND_PAUSE: Duration = Duration::from_secs(5);
pub const LAMP_COMMANDS_PER_HOUR_MAX: usize = 20;
/// How long a cabinet gets to show what it was told.
pub const LAMP_READ_BACK_MAX: Duration = Duration::from_secs(2);
/// Characters of a command's correlation id, and of who asked.
pub const COMMAND_ID_CHARS_MAX: usize = 64;
pub const COMMAND_ACTOR_CHARS_MAX: usize = 100;
/// Seconds of a still's clip, and how long a camera may take to record its next fragment before it is said to be away.
pub const STILL_SECONDS: i64 = 2;
pub const STILL_PATIENCE: Duration = Duration::from_secs(FRAGMENT_SECONDS_MAX + 5);
/// Stills that go to the hub before other clips.
pub const UPLOADS_FIRST_MAX: usize = 64;
/// Results of commands that wait for the uplink.
pub const COMMAND_RESULTS_MAX: usize = 64;
/// Largest access unit taken from a camera.
pub const ACCESS_UNIT_BYTES_MAX: usize = 8 << 20;
/// Longest fragment: a camera with very rare key frames is cut here all the same.
pub const FRAGMENT_SECONDS_MAX: u64 = 10;
/// Longest motion event and the clip of it, without what is before and after; what lasts longer goes on as another.
pub const CLIP_SECONDS_MAX: u64 = 120;
/// How often the folder of clips is looked at for new ones.
pub const UPLOAD_LOOK: Duration = Duration::from_millis(500);
/// A clip that the hub refuses is offered again after at most this long.
pub const UPLOAD_REFUSED_MAX: Duration = Duration::from_secs(600);
/// How long one upload request may take.
pub const UPLOAD_STEP_MAX: Duration = Duration::from_secs(120);
/// Times that one file is taken up again in one round before others get their turn.
pub const UPLOAD_ATTEMPTS_MAX: u32 = 4;
/// Bytes per upload request.
pub const UPLOAD_PART_BYTES_MAX: usize = 4 << 20;

/// Largest fragment; a camera that fills it between two key frames is cut there all the same.
pub const FRAGMENT_BYTES_MAX: usize = 64 << 20;
/// The ring is made durable at least this often while it records. A power cut can lose the pictures
/// since then and the fragment that was still being gathered; both are reported as a gap.
pub const RING_SYNC_INTERVAL: Duration = Duration::from_secs(5);
/// After the ring could not be written it is tried again this often.
pub const RING_RETRY: Duration = Duration::from_secs(5);
/// Bytes at the beginning of a segment that hold its init segment and head.
pub const RING_HEAD_BYTES_MAX: usize = 64 << 10;
/// Segments that one fragment may push out when the disk is full.
pub const RING_GIVE_UP_MAX: usize = 8;
/// Records of the ring's index that stay for the reports in them when no segment needs them.
pub const RING_INDEX_RECORDS_MIN: u64 = 1_000;
/// A file of the ring's journal; small, so that it can be dropped as the ring goes round.
pub const RING_JOURNAL_SEGMENT_BYTES_MAX: u64 = 1 << 20;
/// A recorded run ends after this long and the next goes on at once: bounds the drift of its clock
/// and the tree of its hashes.
pub const RUN_MAX: Duration = Duration::from_secs(3600);
/// A clock that is off by more than this from where it ran on its own was set.
pub const CLOCK_STEP_MIN: Duration = Duration::from_millis(500);
/// How far a box's oscillator may be off, millionths: what cheap crystals do over their range of temperature.
pub const CLOCK_DRIFT_PPM_MAX: u64 = 100;
/// Spans that one event of a clock's correction names; the rest follow in the next.
pub const CLOCK_EVENT_SPANS_MAX: usize = 500;
/// A start whose clock stands further behind the account than this had a wrong clock, then or now.
pub const CLOCK_BEHIND_ACCOUNT_MAX: Duration = Duration::from_secs(60);
/// Eras of the box's clock that may still be corrected, and spans of one camera in each: the newest.
pub const CLOCK_ERAS_MAX: usize = 16;
pub const CLOCK_ERA_SPANS_MAX: usize = 20_000;
/// Reports of one camera that wait for the outbox.
pub const EVENTS_QUEUE_MAX: usize = 256;
/// Access units that wait for the recorder; a full queue slows the camera's connection down.
pub const RECORD_QUEUE_MAX: usize = 512;
/// Between two pictures of one run; longer is a gap.
pub const FRAME_GAP_MAX: Duration = Duration::from_secs(5);
/// Audio of one camera that waits for its pictures: a minute at 20 ms a frame.
pub const AUDIO_FRAMES_WAITING_MAX: usize = 3000;
pub const AUDIO_BYTES_WAITING_MAX: usize = 4 << 20;
/// How long a complete fragment waits for its audio, which comes a little later than its pictures.
pub const AUDIO_WAIT: Duration = Duration::from_millis(500);
/// How long the first pictures of a connection wait for a sender report that gives their time.
pub const SENDER_REPORT_WAIT: Duration = Duration::from_secs(3);
/// A camera's clock that differs more from the box's is not used.
pub const CAMERA_CLOCK_OFFSET_MAX: Duration = Duration::from_secs(5);
/// A run whose clock turns out to be off by more than this ends, and the next begins with a new one.
pub const RUN_CLOCK_SHIFT_MAX: Duration = Duration::from_millis(500);
/// Two runs that touch within this differ only by the rounding of their clocks.
pub const COVERAGE_SEAM_MAX: Duration = Duration::from_secs(1);
/// An open span of coverage is reported this soon after it opened.
pub const COVERAGE_HEARTBEAT_FIRST: Duration = Duration::from_secs(5);
/// And then this often. Coverage goes by exception, so this is the price of silence: 33,000 cameras must
/// not cost 33,000 messages a minute. Until two of them are missed, a search shows the last word as
/// unconfirmed; a box that goes offline is known sooner, by its last will.
pub const COVERAGE_HEARTBEAT: Duration = Duration::from_secs(300);
/// Spans whose reports are sent again when the box starts, in case they never got into the outbox.
pub const COVERAGE_REPEAT_MAX: usize = 8;
/// How long one step of opening a camera's connection may take.
pub const CAMERA_CONNECT_MAX: Duration = Duration::from_secs(10);
/// How long a camera may send pictures before the first that can be recorded: parameter sets must have come, and a
/// key frame. Cameras that save bits put up to 16 s between two key frames.
pub const CAMERA_KEY_FRAME_WAIT: Duration = Duration::from_secs(60);
/// One message of a camera's ONVIF metadata stream: its bytes, XML nodes, objects of a picture, characters of a name.
pub const METADATA_BYTES_MAX: usize = 256 << 10;
pub const METADATA_NODES_MAX: u32 = 20_000;
pub const METADATA_OBJECTS_MAX: usize = 200;
pub const METADATA_TEXT_CHARS_MAX: usize = 200;
/// Rules of a camera that may say at once that something moves.
pub const METADATA_RULES_MAX: usize = 64;
/// A camera that said that something moves and then nothing at all for this long sees nothing more.
pub const METADATA_SILENT_MAX: Duration = Duration::from_secs(60);
/// Messages that wait to be told as motion; one more is dropped and counted.
pub const METADATA_QUEUE_MAX: usize = 64;
/// A stream that broke while metadata came with it is taken without them for this long.
pub const METADATA_PAUSE: Duration = Duration::from_secs(3600);
/// `camnet edge probe`: longest that it watches, how long it waits for a key frame that shows where parameter sets
/// come from, and addresses at which it looks for a smaller picture.
pub const PROBE_SECONDS_MAX: u64 = 600;
pub const PROBE_SETS_WAIT: Duration = Duration::from_secs(5);
pub const PROBE_PATHS_MAX: usize = 2;
/// Largest RTSP message (head and body) that the relay before a camera takes.
pub const RTSP_MESSAGE_BYTES_MAX: usize = 128 << 10;

// --- hub ---
/// Events in one durable commit of the hub.
pub const COMMIT_EVENTS_MAX: usize = 2000;
/// Messages that go from MQTT to ingest at once, and how often such wait.
pub const INGEST_MESSAGES_MAX: usize = 256;
pub const INGEST_QUEUE_MAX: usize = 16;
/// Event ids kept in memory to tell a duplicate from a conflict.
pub const INGEST_IDS_MAX: usize = 4_000_000;
/// Conflicting events kept for one epoch; a box that goes on beyond it is not worth the disk.
pub const CONFLICTS_PER_EPOCH_MAX: usize = 1000;
/// Bytes of one request body of the officers' API.
pub const API_BODY_BYTES_MAX: usize = 64 << 10;
/// Largest clip that a box may upload.
pub const CLIP_BYTES_MAX: u64 = 1 << 30;
/// Uploads that one box may have open at once.
pub const UPLOADS_PER_BOX_MAX: usize = 64;
/// Working copies that the hub keeps: bytes in all, and age since the last look; the oldest go first.
pub const COPIES_BYTES_MAX: u64 = 4 << 30;
pub const COPIES_AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// How often those are looked for whose time is over.
pub const COPIES_CLEAN_EVERY: Duration = Duration::from_secs(3600);
/// Working copies that are made at once, each by one or two threads; and those that wait for their turn.
pub const COPIES_AT_ONCE: usize = 2;
pub const COPIES_WAITING_MAX: usize = 16;
/// Longest that a request waits for a copy that is being made; then it is told to ask again after this, seconds.
pub const COPY_WAIT_MAX: Duration = Duration::from_secs(60);
pub const COPY_RETRY_AFTER_S: u32 = 5;
/// Clips per page: default and most.
pub const PAGE_CLIPS: usize = 50;
pub const PAGE_CLIPS_MAX: usize = 500;
/// Longest time range of one search.
pub const SEARCH_RANGE_MAX: Duration = Duration::from_secs(92 * 24 * 3600);
/// Largest radius of one search, metres.
pub const SEARCH_RADIUS_M_MAX: f64 = 50_000.0;
/// Cameras that one search may touch.
pub const SEARCH_CAMERAS_MAX: usize = 2_000;
/// Coverage spans per camera in one answer; beyond it the answer says `truncated`.
pub const SEARCH_SPANS_MAX: usize = 2_000;
/// Cameras × days whose accounts are read at once: what of them is in memory at a time.
pub const SEARCH_CAMERA_DAYS: usize = 500;
/// What a clock may leave open, at most, when clips are searched: one that is worse is found by what it says.
pub const SEARCH_UNCERTAINTY_MAX: Duration = Duration::from_secs(3600);
/// Buckets of a timeline: about so many where nobody asks for a length, and most.
pub const TIMELINE_BUCKETS: usize = 200;
pub const TIMELINE_BUCKETS_MAX: usize = 2_000;
/// Buckets of all cameras in one answer about coverage.
pub const COVERAGE_CELLS_MAX: usize = 100_000;
/// Clips of one download (CSV, GeoJSON); a larger one ends here and says so.
pub const EXPORT_CLIPS_MAX: usize = 100_000;
/// Clips that an answer which is told as it comes reads at once, and lines that wait for the reader.
pub const STREAM_CLIPS: usize = 16;
pub const STREAM_LINES_MAX: usize = 64;
/// Answers that are told at once, and how long one waits for a reader who takes nothing.
pub const STREAMS_MAX: usize = 64;
pub const STREAM_STALL_MAX: Duration = Duration::from_secs(60);
/// Longest line of such an answer that `camnet search` reads.
pub const SEARCH_LINE_BYTES_MAX: usize = 16 << 20;
/// Files of days that the index keeps open.
pub const INDEX_FILES_OPEN_MAX: usize = 256;
/// Memory of the embedded index's cache.
pub const INDEX_CACHE_BYTES: u64 = 128 << 20;
/// Entries that one query of the index may touch; a page that reaches it ends early and has a next one.
pub const INDEX_SCAN_MAX: usize = 100_000;
/// Records of one run of the index. The last, open run is in memory only: this many records at most are applied
/// again from the journal after a start.
pub const INDEX_RUN_RECORDS: u64 = 131_072;
/// A run also ends when the keys that it writes reach this.
pub const INDEX_RUN_BYTES_MAX: usize = 32 << 20;
/// Counts of epochs that the index keeps in memory; others are read when they are needed.
pub const INDEX_EPOCHS_MAX: usize = 65_536;
/// Records that wait between the two halves of a rebuild (reading the journal, applying).
pub const INDEX_REBUILD_RECORDS: usize = 4_096;
pub const INDEX_REBUILD_BATCHES_MAX: usize = 4;
/// A rebuild follows the running hub this often before it takes over with what is left.
pub const REINDEX_ROUNDS_MAX: usize = 20;
/// An index that was replaced is closed when nobody reads it any more, at the latest after this.
pub const INDEX_RETIRE_MAX: Duration = Duration::from_secs(10);
/// Clock corrections of one box that are applied: the newest.
pub const INDEX_CORRECTIONS_MAX: usize = 1_000;
/// How often an answer is read again because a run ended meanwhile; a run lasts many answers.
pub const INDEX_SETTLE_TRIES: usize = 3;
/// Events that a replay offers at once, so that what comes in meanwhile waits no longer than for these.
pub const REPLAY_EVENTS_MAX: usize = 500;
/// Commands that wait for a box's result at once.
pub const COMMANDS_WAITING_MAX: usize = 1_000;
/// How long a command of the API is valid unless it says otherwise, and how much longer its result is waited for.
pub const LAMP_COMMAND_VALID: Duration = Duration::from_secs(30);
pub const COMMAND_RESULT_GRACE: Duration = Duration::from_secs(5);
/// How long a box has to take a still, and how long its picture may take to the hub after that.
pub const STILL_VALID: Duration = Duration::from_secs(20);
pub const STILL_ARRIVES_MAX: Duration = Duration::from_secs(40);
/// How often the index is looked at for a still that is on its way.
pub const STILL_LOOKS_EVERY: Duration = Duration::from_millis(100);
/// Events per page: default and most.
pub const PAGE_EVENTS: usize = 100;
pub const PAGE_EVENTS_MAX: usize = 1_000;
/// Entries of the access log, and of what was set aside, in one answer: default and most.
pub const PAGE_LIST: usize = 100;
pub const PAGE_LIST_MAX: usize = 1_000;
/// Devices that one question may name.
pub const SEARCH_DEVICES_MAX: usize = 500;
/// Sites that one question may name.
pub const SEARCH_SITES_MAX: usize = 500;
/// Windows of time of one search: each night of [`SEARCH_RANGE_MAX`] twice.
pub const SEARCH_WINDOWS_MAX: usize = 200;
/// Positions of all rings of a search's polygon, and of its route.
pub const SEARCH_POLYGON_POINTS_MAX: usize = 2_000;
pub const SEARCH_ROUTE_POINTS_MAX: usize = 1_000;
/// Positions of a search's shapes that the access log keeps as they are; of longer ones it keeps bounds and a hash.
pub const ACCESS_POSITIONS_MAX: usize = 100;
/// Whole width of the corridor along a route, metres: usual and widest.
pub const SEARCH_WIDTH_M: f64 = 60.0;
pub const SEARCH_WIDTH_M_MAX: f64 = 2_000.0;
/// Radius around a place that is named or pasted without one, metres.
pub const SEARCH_NEAR_RADIUS_M: f64 = 200.0;
/// Characters of a text that names a place or a time.
pub const SEARCH_TEXT_CHARS_MAX: usize = 300;
/// Areas or places that an error names where a name fits several.
pub const SEARCH_CANDIDATES_MAX: usize = 8;
/// Suggestions of one answer: usual and most.
pub const SUGGESTIONS: usize = 8;
pub const SUGGESTIONS_MAX: usize = 50;
/// Metres from a camera within which a lamp circuit lights what it sees.
pub const LAMP_NEAR_M: f64 = 60.0;
/// A lamp circuit's last word holds for two heartbeats of a box as it is shipped (15 minutes each).
pub const LAMP_WORD_HOLDS: Duration = Duration::from_secs(2 * 900);
/// Lamp events that one answer reads, lamp circuits that it tells of one camera, and states of one circuit.
pub const SEARCH_LAMP_EVENTS_MAX: usize = 20_000;
pub const SEARCH_LAMPS_MAX: usize = 8;
pub const SEARCH_LAMP_SPANS_MAX: usize = 200;
/// Clips that one answer reads to tell what of the footage lies on the box only; beyond it the answer says so.
pub const SEARCH_STORED_CLIPS_MAX: usize = 5_000;
/// How far ahead a follow looks, minutes: usual and most; and how many cameras it names.
pub const FOLLOW_MINUTES: f64 = 15.0;
pub const FOLLOW_MINUTES_MAX: f64 = 120.0;
pub const FOLLOW_CAMERAS_MAX: usize = 100;
/// Slowest and fastest that somebody is followed, kilometres an hour.
pub const FOLLOW_KMH_MIN: f64 = 0.5;
pub const FOLLOW_KMH_MAX: f64 = 150.0;
/// Event types that one question may name, and events that it may read past to find those of a place.
pub const EVENT_KINDS_MAX: usize = 20;
pub const SEARCH_EVENTS_READ_MAX: usize = 20_000;
/// Points of an area's boundary, of a street or a circuit's route, and of a camera's view in the registry.
pub const REGISTRY_BOUNDARY_POINTS_MAX: usize = 8_000;
pub const REGISTRY_LINE_POINTS_MAX: usize = 4_000;
pub const REGISTRY_VIEW_POINTS_MAX: usize = 100;
/// Farthest that a view may reach, metres.
pub const REGISTRY_REACH_M_MAX: f64 = 5_000.0;
/// Characters of a purpose.
pub const PURPOSE_CHARS_MAX: usize = 500;
/// Bytes of a registry file.
pub const REGISTRY_BYTES_MAX: u64 = 32 << 20;
/// Connections of boxes for uploads at once.
pub const BOX_CONNECTIONS_MAX: usize = 4_096;
/// A box must finish its TLS handshake within this.
pub const TLS_HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// An upload's body may pause this long before what came is kept and the request ended.
pub const UPLOAD_IDLE_MAX: Duration = Duration::from_secs(30);
/// An unfinished upload that nobody touched for this long is removed.
pub const UPLOAD_STALE_AFTER: Duration = Duration::from_secs(48 * 3600);

// --- load ---
/// Boxes of one load run.
pub const LOAD_BOXES_MAX: u32 = 20_000;
/// New connections per second of a load run: a broker takes only so many handshakes at once.
pub const LOAD_CONNECTS_PER_S: u32 = 200;
/// How long the run's hub may take to get ready.
pub const LOAD_HUB_READY_MAX: Duration = Duration::from_secs(120);
/// How long receipts and index may take for the last events of a run: several resends.
pub const LOAD_SETTLE_MAX: Duration = Duration::from_secs(120);
/// How long a backlog may take.
pub const LOAD_DRAIN_MAX: Duration = Duration::from_secs(2 * 3600);
/// Events of a run that are read back one by one; beyond it the account by box must do.
pub const LOAD_ROWS_CHECKED_MAX: u64 = 50_000;

/// How long a device or box may be silent at most, whatever its rhythm; see `hub/fleet/rhythm.rs`.
pub const SILENCE_MAX: jiff::SignedDuration = jiff::SignedDuration::from_hours(2);
/// How often a box says how it and its cameras are doing while nothing changes.
pub const STATUS_HEARTBEAT: jiff::SignedDuration = jiff::SignedDuration::from_mins(15);
/// Names of faults, and circuits, that the hub remembers of one device.
pub const FLEET_FAULTS_MAX: usize = 256;
/// Starts of a box that are remembered, and how many of them within which time are too many.
pub const FLEET_STARTS_KEPT: usize = 16;
pub const FLEET_RESTARTS: usize = 4;
pub const FLEET_RESTARTS_WITHIN: jiff::SignedDuration = jiff::SignedDuration::from_hours(1);
/// How long a trouble must be found before it counts, how long it may stay away meanwhile, and how long it must stay away
/// before it has ended.
pub const FLEET_HOLDS: jiff::SignedDuration = jiff::SignedDuration::from_secs(45);
pub const FLEET_FORGIVES: jiff::SignedDuration = jiff::SignedDuration::from_secs(20);
pub const FLEET_ENDS_AFTER: jiff::SignedDuration = jiff::SignedDuration::from_secs(90);
/// Sites of an area that must be silent before the area is likely to be why, and within which time they fell silent.
pub const FLEET_SHARED_MIN: usize = 3;
pub const FLEET_TOGETHER_WITHIN: jiff::SignedDuration = jiff::SignedDuration::from_mins(5);
/// A part of a box as hot as this is a trouble, degrees Celsius: small computers slow down at 80 to 85.
pub const FLEET_HOT_C: f64 = 80.0;
/// A camera is in trouble when it sends less than this share of its pictures, loses more packets than this of a million,
/// or its clock is off by more than this; a ring, when it holds less than this share of its promise.
pub const FEW_PICTURES_SHARE: f64 = 0.6;
pub const PACKETS_LOST_PPM: u64 = 10_000;
pub const CLOCK_OFF_MS: i64 = 2_000;
pub const RING_SHORT_SHARE: f64 = 0.8;
/// What a self-test found holds so long; there is one each day.
pub const SELF_TEST_HOLDS: jiff::SignedDuration = jiff::SignedDuration::from_hours(50);
/// Notes and parts of one work order, and characters of one of them.
pub const WORK_NOTES_MAX: usize = 500;
pub const WORK_TEXT_CHARS_MAX: usize = 4000;
/// Bytes of a photo of a work order.
pub const PHOTO_BYTES_MAX: usize = 8 << 20;
/// A site stands on the street that is nearest to it, within so many metres.
pub const FLEET_STREET_M: f64 = 60.0;
/// What a camera counts in the order of work whose view another working camera covers; one that stands alone counts 1.
pub const COVERED_CAMERA_WEIGHT: f64 = 0.5;
/// A message of a device that speaks MQTT itself.
pub const ADAPTER_PAYLOAD_BYTES_MAX: usize = 16 << 10;
/// How long an event waits that the outbox did not take, before it is offered again.
pub const OUTBOX_RETRY: Duration = Duration::from_secs(1);
/// Devices behind one gateway.
pub const GATEWAY_DEVICES_MAX: usize = 500;
/// How long a lamp that speaks for itself may say nothing, and a sensor: Zigbee2MQTT gives those with a battery 25 hours.
pub const LAMP_SILENCE_MAX: jiff::SignedDuration = jiff::SignedDuration::from_hours(1);
pub const SENSOR_SILENCE_MAX: jiff::SignedDuration = jiff::SignedDuration::from_hours(25);
/// Motion that a sensor does not end is over after this.
pub const SENSOR_MOTION_MAX: jiff::SignedDuration = jiff::SignedDuration::from_mins(10);
/// Below this share of its battery a sensor is in trouble, percent.
pub const BATTERY_LOW_PERCENT: f64 = 15.0;
/// How often a gateway's devices are looked after, and how long after an odd payload a device is well again.
pub const GATEWAY_LOOKS_EVERY: Duration = Duration::from_secs(5);
pub const ODD_PAYLOAD_FORGOTTEN: Duration = Duration::from_secs(3600);
/// How long a gateway's broker may be out of reach before its devices are.
pub const GATEWAY_AWAY_MAX: Duration = Duration::from_secs(60);
/// Messages of a gateway that are under way, and how long its broker keeps them while the box is off.
pub const GATEWAY_INFLIGHT_MAX: u16 = 100;
pub const GATEWAY_SESSION_KEEP: Duration = Duration::from_secs(3600);
/// How often it is written down how long lamps burnt.
pub const FLEET_BURNT_EVERY: jiff::SignedDuration = jiff::SignedDuration::from_hours(6);
/// Dark lamps that are no farther apart are one dark stretch of street, metres: two poles.
pub const STRETCH_GAP_M: f64 = 80.0;
/// Lamp circuits of one answer about lighting.
pub const LIGHTING_CIRCUITS_MAX: usize = 5000;
/// Lamp circuits, and devices of an incident, in one record of the fleet's journal.
pub const FLEET_BURNT_RECORD_MAX: usize = 1000;
pub const FLEET_INCIDENT_DEVICES_MAX: usize = 10_000;
/// How often the fleet is judged.
pub const FLEET_JUDGED_EVERY: Duration = Duration::from_secs(5);
/// How long a cause lasts before it opens a work order, and how long what was mended has to show it.
pub const WORK_OPENS_AFTER: jiff::SignedDuration = jiff::SignedDuration::from_mins(10);
/// Devices and work orders of a page, if nobody says otherwise, and at most.
pub const FLEET_PAGE: usize = 200;
pub const FLEET_PAGE_MAX: usize = 2000;
/// Records of the journal's end that are read at the start, to know what was last heard: some two hours of a large fleet.
pub const FLEET_CATCH_UP_RECORDS: u64 = 500_000;
/// Incidents with a series of their own in the hub's figures, the worst first; the rest are counted.
pub const INCIDENT_SERIES_MAX: usize = 200;
/// Devices up to which `/metrics/devices` is on by itself: some 15 series each.
pub const DEVICE_SERIES_DEVICES_MAX: usize = 2_000;
/// Webhooks of one hub, characters of a name, and bytes of the file with its secret.
pub const WEBHOOKS_MAX: usize = 16;
pub const WEBHOOK_NAME_CHARS_MAX: usize = 40;
pub const WEBHOOK_SECRET_BYTES_MIN: usize = 24;
pub const WEBHOOK_SECRET_BYTES_MAX: usize = 1024;
/// Devices that one message of a webhook names; `device_count` says how many there are.
pub const WEBHOOK_DEVICES_MAX: usize = 100;
/// How long a webhook's receiver may take to be reached, and to answer.
pub const WEBHOOK_CONNECT_MAX: Duration = Duration::from_secs(5);
pub const WEBHOOK_ANSWER_MAX: Duration = Duration::from_secs(10);
/// Longest pause before a message is sent again.
pub const WEBHOOK_PAUSE_MAX: Duration = Duration::from_secs(300);
/// How long one message is tried, and one that the receiver says is wrong; then it is passed by and counted.
pub const WEBHOOK_KEEP: Duration = Duration::from_secs(24 * 3600);
pub const WEBHOOK_REFUSED_KEEP: Duration = Duration::from_secs(600);
/// Records of the fleet's journal that a webhook reads at once, and after which it notes how far it is though there was
/// nothing to say.
pub const WEBHOOK_READ_RECORDS: usize = 1_000;
/// How long a webhook waits after its place could not be noted or the fleet's journal not read.
pub const WEBHOOK_RETRY: Duration = Duration::from_secs(5);
/// How often a box looks how its cameras and itself are doing.
pub const HEALTH_LOOKS_EVERY: Duration = Duration::from_secs(10);
/// What changed is said when it stayed so for this long, and no more often than this.
pub const STATUS_SETTLES: Duration = Duration::from_secs(10);
pub const STATUS_PAUSE_MIN: Duration = Duration::from_secs(30);
/// How often a box writes down what its cameras usually see.
pub const USUAL_SAVED_EVERY: Duration = Duration::from_secs(3600);
/// When a box first tries to read footage back, how often, and how much of it, seconds.
pub const SELF_TEST_FIRST_AFTER: Duration = Duration::from_secs(300);
pub const SELF_TEST_EVERY: Duration = Duration::from_secs(24 * 3600);
pub const SELF_TEST_SECONDS: i64 = 10;

// --- enrolment ---
/// How long a box's certificate is valid, unless the hub's configuration says otherwise. The box asks for the next after
/// two thirds of that, and up to a tenth later, so that boxes enrolled together do not all ask at once.
pub const BOX_CERTIFICATE_VALID: Duration = Duration::from_secs(400 * 24 * 3600);
pub const BOX_CERTIFICATE_VALID_MIN: Duration = Duration::from_secs(10);
/// Clocks of hub and broker may differ by this: a new certificate is valid from so long before.
pub const BOX_CERTIFICATE_BACKDATED: Duration = Duration::from_secs(3600);
/// A certificate that its box never used is revoked after this.
pub const ENROL_UNUSED_MAX: Duration = Duration::from_secs(14 * 24 * 3600);
/// How long the secret of an invitation (the QR code) holds; it works once.
pub const ENROL_INVITATION_VALID: Duration = Duration::from_secs(24 * 3600);
/// How often those whose time is over are looked for.
pub const ENROL_LOOKS_EVERY: Duration = Duration::from_secs(60);
/// Certificates that one box may get in a day: a box that asks and asks must not fill the journal.
pub const BOX_CERTIFICATES_PER_DAY_MAX: usize = 10;
/// Of what a box says it runs with, the newest is written down, no sooner than this after the one before: a box that says
/// something else again and again must not fill the journal.
pub const BOX_RUNS_NOTED_EVERY: Duration = Duration::from_secs(60);
/// Bytes of an enrolment (the file for a box), of a request about a box itself, and of an answer to it.
pub const ENROL_FILE_BYTES_MAX: u64 = 256 << 10;
pub const BOX_REQUEST_BYTES_MAX: usize = 16 << 10;
pub const BOX_ANSWER_BYTES_MAX: usize = 256 << 10;
/// Bytes of what the hub sets for a box: fits into a request of the API as JSON.
pub const BOX_CONFIG_BYTES_MAX: usize = 48 << 10;
/// Characters that say why a box's configuration failed, or why a box was revoked.
pub const BOX_WHY_CHARS_MAX: usize = 500;
/// Connections that the enrolment listener handles at once, and how long one may last.
pub const ENROL_CONNECTIONS_MAX: usize = 32;
pub const ENROL_CONNECTION_MAX: Duration = Duration::from_secs(30);
/// How often a box asks the hub about itself, though nobody told it to.
pub const BOX_HELLO_EVERY: Duration = Duration::from_secs(600);
/// How long one such request may take.
pub const BOX_REQUEST_MAX: Duration = Duration::from_secs(30);
/// How long a configuration that the hub set may take to reach the hub, unless the box's file says otherwise; and how
/// often it is begun with, for power cuts in between.
pub const CONFIG_TRIAL: jiff::SignedDuration = jiff::SignedDuration::from_secs(120);
pub const CONFIG_TRIES_MAX: u32 = 3;
/// Between two tries to close the broker's connection of a revoked box.
pub const BROKER_KICK_PAUSE: Duration = Duration::from_millis(50);
pub const BROKER_KICK_TRIES: u32 = 100;
