//! The same clips and spans in PostgreSQL, asked the same questions.
//!
//! Owns the tables and the best queries found for them: primary key (device, start, id), the list of devices given, and
//! per device the newest first, so that a page of the newest reads no more than a page of each camera. GiST and BRIN
//! were slower (design, section 6).

use std::io::Write;

use postgres::{Client, NoTls, Statement};

use super::world::{self, CAMERAS, Question, SPAN_ROUNDS};

pub struct PostgresCatalog {
    client: Client,
    clips: Statement,
    spans: Statement,
}

const TABLES: &str = "
    CREATE TABLE clip (device int, start_us bigint, id uuid, end_us bigint, box int, received_us bigint,
        motion_start_us bigint, motion_end_us bigint, peak real, bytes bigint, sha256 bytea, video text, still bytea,
        still_bytes int, run uuid, first_fragment int, fragments int, clock smallint, offset_ms int,
        uncertainty_ms int, stored bool, still_stored bool);
    CREATE TABLE span (device int, start_us bigint, id uuid, end_us bigint, cause smallint, epoch bigint,
        sequence bigint, root bytea, ring_from_us bigint);";

const INDICES: &str = "
    ALTER TABLE clip ADD PRIMARY KEY (device, start_us, id);
    ALTER TABLE span ADD PRIMARY KEY (device, start_us, id);
    VACUUM ANALYZE clip; VACUUM ANALYZE span;";

const CLIPS: &str = "SELECT c.* FROM unnest($1::int[]) AS asked(device), LATERAL (
        SELECT * FROM clip WHERE clip.device = asked.device AND start_us <= $3::bigint + 40000
            AND start_us >= $2::bigint - 40040000
            AND end_us >= $2::bigint - 40000 ORDER BY start_us DESC, id DESC LIMIT $4) c
    ORDER BY c.start_us DESC, c.id DESC LIMIT $4";

const SPANS: &str = "SELECT s.* FROM unnest($1::int[]) AS asked(device), LATERAL (
        SELECT * FROM span WHERE span.device = asked.device AND start_us <= $3 AND start_us >= $2::bigint - 3456000000
            AND end_us >= $2) s ORDER BY s.device, s.start_us";

impl PostgresCatalog {
    /// Fills the tables with `rounds` rounds.
    pub fn filled(dsn: &str, rounds: u64) -> Self {
        let mut client = Client::connect(dsn, NoTls).expect("PostgreSQL answers");
        client
            .batch_execute("SET maintenance_work_mem = '512MB'; SET synchronous_commit = off")
            .expect("settings");
        client.batch_execute(TABLES).expect("tables");
        let mut copy = client.copy_in("COPY clip FROM STDIN").expect("copy");
        let mut text = String::new();
        for round in 0..rounds {
            text.clear();
            for camera in 0..CAMERAS {
                write_clip(&mut text, &world::clip(camera, round));
            }
            copy.write_all(text.as_bytes()).expect("copied");
        }
        copy.finish().expect("copied");
        let mut copy = client.copy_in("COPY span FROM STDIN").expect("copy");
        for round in (0..rounds).step_by(SPAN_ROUNDS as usize) {
            text.clear();
            for camera in 0..CAMERAS {
                for span in world::spans(camera, round) {
                    write_span(&mut text, &span);
                }
            }
            copy.write_all(text.as_bytes()).expect("copied");
        }
        copy.finish().expect("copied");
        for statement in INDICES.split_inclusive(';') {
            client.batch_execute(statement).expect("indices");
        }
        let clips = client.prepare(CLIPS).expect("a statement");
        let spans = client.prepare(SPANS).expect("a statement");
        Self { client, clips, spans }
    }

    /// How many clips and spans the answer has.
    pub fn ask(&mut self, question: &Question) -> (usize, usize) {
        let devices: Vec<i32> = question.cameras.iter().map(|&camera| camera as i32).collect();
        let limit = question.limit as i64;
        let (from, to) = (question.from_us, question.to_us);
        let clips = self.client.query(&self.clips, &[&devices, &from, &to, &limit]).expect("an answer");
        // As the index is asked: the account of the window, not of the whole archive.
        let from = from.max(to - 86_400_000_000);
        let spans = self.client.query(&self.spans, &[&devices, &from, &to]).expect("an answer");
        (clips.len(), spans.len())
    }

    pub fn bytes(&mut self) -> u64 {
        let row = self.client.query_one("SELECT pg_database_size(current_database())", &[]).expect("a size");
        row.get::<_, i64>(0) as u64
    }
}

fn write_clip(out: &mut String, clip: &world::Clip) {
    use std::fmt::Write;
    let (sha256, still) = (hex::encode(clip.sha256), hex::encode(clip.still));
    let world::Clip { camera, id, start_us, end_us, bytes, run, .. } = clip;
    let peak = (world::draw(*camera, clip.round, 11) % 1000) as f64 / 1e3;
    writeln!(
        out,
        "{camera}\t{start_us}\t{id}\t{end_us}\t{}\t{}\t{}\t{}\t{peak}\t{bytes}\t\\\\x{sha256}\tavc1.4d401f 1280x720\t\\\\x{still}\t9000\t{run}\t{}\t0\t1\t12\t40\t{}\tt",
        camera / 2,
        end_us + 5_000_000,
        start_us + 4_000_000,
        end_us - 3_000_000,
        (clip.round % SPAN_ROUNDS) * 432,
        if clip.is_stored { "t" } else { "f" },
    )
    .expect("text");
}

fn write_span(out: &mut String, span: &world::Span) {
    use std::fmt::Write;
    let world::Span { camera, id, start_us, end_us, cause, root } = span;
    let cause = cause.map_or("\\N".to_owned(), |cause| (cause as u8).to_string());
    let root = hex::encode(root);
    writeln!(
        out,
        "{camera}\t{start_us}\t{id}\t{end_us}\t{cause}\t{}\t{}\t\\\\x{root}\t{start_us}",
        1 + camera / 2,
        1
    )
    .expect("text");
}
