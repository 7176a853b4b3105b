//! `camnet journal`: looks after journals, those of the hub, of a box's outbox and of its ring alike.
//!
//! Owns only what is printed; `replay` has a file of its own. A journal that a running process has open may be checked and dumped.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::journal::check::{self, SegmentReport};
use crate::journal::disk::RealDisk;
use crate::journal::{ItemRef, Records};

#[derive(Debug, Args)]
pub struct JournalArgs {
    #[command(subcommand)]
    command: JournalCommand,
}

#[derive(Debug, Subcommand)]
enum JournalCommand {
    /// Read every byte of every segment and say what is damaged; exit status 1 if anything is.
    Check {
        /// The journal's folder, for instance data/journal of a hub.
        dir: PathBuf,
    },
    /// Print the records, one on a line: number, bytes, content (text where it is text, else hex).
    Dump {
        dir: PathBuf,
        /// First record to print.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Records to print at most.
        #[arg(long)]
        count: Option<u64>,
    },
    /// Write damaged segments anew: records that can be read keep their numbers, the lost ones are marked as lost.
    /// The damaged file is kept beside. Nobody may have the journal open.
    Repair { dir: PathBuf },
    /// Offer again what a hub set aside, after an update or a change of the registry; the hub may run.
    #[cfg(feature = "hub")]
    Replay(super::replay::ReplayArgs),
}

pub async fn run(args: JournalArgs) -> anyhow::Result<()> {
    match args.command {
        #[cfg(feature = "hub")]
        JournalCommand::Replay(args) => super::replay::run(args).await,
        command => tokio::task::spawn_blocking(|| look_after(command)).await?,
    }
}

fn look_after(command: JournalCommand) -> anyhow::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let done = match command {
        JournalCommand::Check { dir } => {
            let reports = check::check(&RealDisk, &dir)?;
            let bad = print_check(&reports, &mut out)?;
            out.flush()?;
            anyhow::ensure!(bad == 0, "{}: {bad} of {} segments are damaged", dir.display(), reports.len());
            Ok(())
        }
        JournalCommand::Dump { dir, from, count } => dump(&Records::of_dir(&dir)?, from, count, &mut out),
        JournalCommand::Repair { dir } => {
            let repaired = check::repair(&RealDisk, &dir)?;
            for done in &repaired {
                writeln!(out, "{}: {} records kept", done.path.display(), done.records_kept)?;
                for (first, last) in &done.lost {
                    writeln!(out, "  records {first} to {last} are lost and now marked as lost")?;
                }
                writeln!(out, "  the damaged file is kept as {}", done.kept_as.display())?;
            }
            if repaired.is_empty() {
                writeln!(out, "{}: nothing to repair", dir.display())?;
            }
            Ok(())
        }
        #[cfg(feature = "hub")]
        JournalCommand::Replay(_) => unreachable!("run has done it"),
    };
    match done.and_then(|()| Ok(out.flush()?)) {
        // Whoever reads us has read enough.
        Err(error) if is_broken_pipe(&error) => Ok(()),
        done => done,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Prints a line for each segment, and one for all. Returns how many are damaged.
fn print_check(reports: &[SegmentReport], out: &mut impl Write) -> io::Result<usize> {
    for report in reports {
        let name = report.path.file_name().unwrap_or_default().display();
        let SegmentReport { first, next, frames, records, bytes, raw_bytes, .. } = report;
        let state = if report.is_good() { "good" } else { "DAMAGED" };
        write!(out, "{name}  {state}  records {first}..{next}  {records} in {frames} frames  ")?;
        writeln!(out, "{bytes} bytes, {raw_bytes} unpacked")?;
        for damage in &report.damage {
            let lost = damage.last_lost - damage.first_lost + 1;
            writeln!(
                out,
                "  at byte {}: {}; records {} to {} cannot be read ({lost})",
                damage.offset, damage.why, damage.first_lost, damage.last_lost
            )?;
        }
        for blemish in &report.blemishes {
            writeln!(out, "  {blemish}")?;
        }
        if report.torn_bytes > 0 {
            let torn = report.torn_bytes;
            writeln!(
                out,
                "  the last {torn} bytes are being written, or torn: the next start cuts them off"
            )?;
        }
    }
    let sum = |of: fn(&SegmentReport) -> u64| reports.iter().map(of).sum::<u64>();
    let lost: u64 = reports.iter().flat_map(|r| &r.damage).map(|d| d.last_lost - d.first_lost + 1).sum();
    let (records, bytes, raw_bytes) = (sum(|r| r.records), sum(|r| r.bytes), sum(|r| r.raw_bytes));
    writeln!(
        out,
        "{} segments, {records} records, {bytes} bytes, {raw_bytes} unpacked, {lost} records lost",
        reports.len()
    )?;
    Ok(reports.iter().filter(|report| !report.is_good()).count())
}

fn dump(records: &Records, from: u64, count: Option<u64>, out: &mut impl Write) -> anyhow::Result<()> {
    let mut reader = records.read(from);
    let mut left = count.unwrap_or(u64::MAX);
    while left > 0 {
        match reader.next_ref()? {
            None => break,
            Some(ItemRef::Record { number, payload }) => {
                writeln!(out, "{number}\t{}\t{}", payload.len(), printable(payload))?;
            }
            Some(ItemRef::Damage(damage)) => writeln!(out, "# {damage}")?,
        }
        left -= 1;
    }
    Ok(())
}

/// Text as it is, but for what could move a terminal's cursor or hide something; else hex. A record often has a
/// few bytes of its own before the JSON: then it is those in hex, and the JSON as text.
fn printable(payload: &[u8]) -> String {
    let json_at = payload.iter().position(|&byte| byte == b'{').unwrap_or(0);
    for at in [0, json_at] {
        let Ok(text) = std::str::from_utf8(&payload[at..]) else { continue };
        if at == 0 && text.chars().any(|c| c.is_control() && !c.is_whitespace()) && json_at > 0 {
            continue;
        }
        let mut line = hex::encode(&payload[..at]);
        if at > 0 {
            line.push(' ');
        }
        escape(text, &mut line);
        return line;
    }
    format!("0x{}", hex::encode(payload))
}

fn escape(text: &str, line: &mut String) {
    for c in text.chars() {
        // Control characters, and those that change the direction of writing or have no width.
        let hurts = c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        if hurts {
            let _ = write!(line, "\\u{{{:x}}}", c as u32);
        } else {
            line.push(c);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::journal::Journal;
    use crate::journal::segment::{self, HEADER_BYTES};

    fn lines(print: impl FnOnce(&mut Vec<u8>)) -> Vec<String> {
        let mut out = Vec::new();
        print(&mut out);
        String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
    }

    /// Three groups of records in one segment.
    fn journal(dir: &Path) -> Journal {
        let (mut journal, _) = Journal::open(dir).unwrap();
        for group in [["{\"a\":1}", "\x1b[2Jtext\u{202e}"], ["b", "c"], ["d", "e"]] {
            for text in group {
                journal.append(text.as_bytes()).unwrap();
            }
            journal.sync().unwrap();
        }
        journal
    }

    #[test]
    fn a_dump_shows_text_and_hurts_no_terminal() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = journal(dir.path());
        journal.append(&[b'E', 0, 7, b'{', b'}']).unwrap();
        journal.append(&[0xff, 0x00]).unwrap();
        journal.sync().unwrap();
        let records = Records::of_dir(dir.path()).unwrap();
        let all = lines(|out| dump(&records, 0, None, out).unwrap());
        assert_eq!(all[0], "0\t7\t{\"a\":1}");
        assert_eq!(all[1], "1\t11\t\\u{1b}[2Jtext\\u{202e}");
        assert_eq!(all[6..], ["6\t5\t450007 {}", "7\t2\t0xff00"]);
        let some = lines(|out| dump(&records, 2, Some(2), out).unwrap());
        assert_eq!(some, ["2\t1\tb", "3\t1\tc"]);
    }

    #[test]
    fn a_check_names_what_is_lost_and_a_repair_marks_it() {
        let dir = tempfile::tempdir().unwrap();
        drop(journal(dir.path()));
        let path = dir.path().join(segment::file_name(0));
        let good = check::check(&RealDisk, dir.path()).unwrap();
        let printed = lines(|out| assert_eq!(print_check(&good, out).unwrap(), 0));
        assert!(
            printed[0].starts_with("00000000000000000000.journal  good  records 0..6  6 in 4 frames"),
            "{printed:?}"
        );

        // Into the records of the first frame.
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[HEADER_BYTES as usize + segment::FRAME_HEADER_BYTES + 3] ^= 0x40;
        std::fs::write(&path, &bytes).unwrap();
        let bad = check::check(&RealDisk, dir.path()).unwrap();
        let printed = lines(|out| assert_eq!(print_check(&bad, out).unwrap(), 1));
        assert!(
            printed[0].contains("DAMAGED") && printed[1].contains("records 0 to 1 cannot be read (2)"),
            "{printed:?}"
        );

        let repaired = check::repair(&RealDisk, dir.path()).unwrap();
        assert_eq!((repaired[0].records_kept, &repaired[0].lost), (4, &vec![(0, 1)]));
        assert_eq!(std::fs::read(&repaired[0].kept_as).unwrap(), bytes, "the damaged file is kept as it was");
        let marked = check::check(&RealDisk, dir.path()).unwrap();
        assert!(!marked[0].is_good(), "what is lost stays lost");
        assert!(check::repair(&RealDisk, dir.path()).unwrap().is_empty(), "there is nothing more to do");
        let records = Records::of_dir(dir.path()).unwrap();
        let all = lines(|out| dump(&records, 0, None, out).unwrap());
        assert!(
            all[0].contains("marked as lost") && all[1..] == ["2\t1\tb", "3\t1\tc", "4\t1\td", "5\t1\te"],
            "{all:?}"
        );
    }
}
