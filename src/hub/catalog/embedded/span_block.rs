//! Closed spans of coverage as blocks.
//!
//! Owns their bytes. Only what its box ended and did not correct by name is here; what may still change is a key
//! (`write.rs`). Pure: the bytes depend on the spans alone.
//!
//! A block is one byte version and a zstd frame of the count of spans, then columns of varints (source, start, length,
//! arrival, cause, epoch's number in a palette, sequence, oldest moment of the ring), the palette, the flags of the
//! roots, and ids and roots as they are.

use uuid::Uuid;

use super::VERSION;
use super::columns::{put, take, unzigzag, zigzag};
use super::directory::BlockBounds;
use super::packing::{pack, unpack};
use super::sources::Sources;
use super::values::SpanValue;
use crate::model::{Epoch, GapCause, Time};

/// Spans of one block.
pub const BLOCK_SPANS: usize = 64;
const COLUMNS: usize = 9;
const PLAIN_BYTES_MAX: usize = 64 << 10;

/// A span in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct SpanEntry {
    pub source: u32,
    pub span: Uuid,
    pub value: SpanValue,
}

/// Causes by their code, which is the place here, from 1; 0 is recorded.
const CAUSES: [GapCause; 8] = [
    GapCause::BoxOff,
    GapCause::CameraUnreachable,
    GapCause::StreamBroken,
    GapCause::DiskFull,
    GapCause::ClockUnsure,
    GapCause::PausedByOwner,
    GapCause::NotYetReported,
    GapCause::DiskFailed,
];

/// The bytes of some spans, which are by source, start and id.
pub fn write(spans: &[SpanEntry]) -> std::io::Result<(BlockBounds, Vec<u8>)> {
    let us = |time: Time| time.as_microsecond();
    let mut epochs: Vec<Epoch> = spans.iter().map(|s| s.value.epoch).collect();
    epochs.sort_unstable();
    epochs.dedup();
    let mut out = Vec::new();
    put(&mut out, spans.len() as u64);
    let (mut source, mut start) = (0, 0i64);
    for span in spans {
        put(&mut out, u64::from(span.source - source));
        source = span.source;
    }
    for span in spans {
        put(&mut out, zigzag(us(span.value.start).wrapping_sub(start)));
        start = us(span.value.start);
    }
    let mut column = |number: &dyn Fn(&SpanValue) -> u64| {
        for span in spans {
            put(&mut out, number(&span.value));
        }
    };
    column(&|v| zigzag(us(v.upto).wrapping_sub(us(v.start))));
    column(&|v| zigzag(us(v.received).wrapping_sub(us(v.upto))));
    column(&|v| v.cause.map_or(0, cause_code));
    column(&|v| epochs.binary_search(&v.epoch).expect("it was put there") as u64);
    column(&|v| v.sequence);
    column(&|v| v.ring_from.map_or(0, |t| zigzag(us(t).wrapping_sub(us(v.upto))).wrapping_add(1)));
    column(&|v| v.merkle_root.is_some().into());
    put(&mut out, epochs.len() as u64);
    for epoch in &epochs {
        out.extend_from_slice(&epoch.0.to_le_bytes());
    }
    for span in spans {
        out.extend_from_slice(span.span.as_bytes());
        out.extend_from_slice(span.value.merkle_root.as_ref().map_or(&[][..], |root| root));
    }
    let mut bytes = vec![VERSION];
    pack(&out, &mut bytes)?;
    Ok((bounds(spans), bytes))
}

fn bounds(spans: &[SpanEntry]) -> BlockBounds {
    let starts = || spans.iter().map(|s| s.value.start.as_microsecond());
    BlockBounds {
        source_min: spans.first().map_or(0, |span| span.source),
        source_max: spans.last().map_or(0, |span| span.source),
        start_min_us: starts().min().unwrap_or(0),
        start_max_us: starts().max().unwrap_or(0),
        reach_max_us: spans.iter().map(|s| s.value.upto.as_microsecond()).max().unwrap_or(0),
        ..BlockBounds::default()
    }
}

fn cause_code(cause: GapCause) -> u64 {
    CAUSES.iter().position(|&known| known == cause).map_or(0, |at| at as u64 + 1)
}

/// The spans of a block that some sources told of (smallest first), or what is wrong with it.
pub fn read(bytes: &[u8], of: &[u32], sources: &Sources) -> Result<Vec<SpanEntry>, String> {
    let (&version, rest) = bytes.split_first().ok_or("no bytes")?;
    if version != VERSION {
        return Err(format!("block version {version}"));
    }
    let plain = unpack(rest, PLAIN_BYTES_MAX)?;
    let mut from = plain.as_slice();
    let from = &mut from;
    let count = take(from)? as usize;
    if count > BLOCK_SPANS {
        return Err(format!("{count} spans"));
    }
    let mut columns = Vec::with_capacity(count * COLUMNS);
    for _ in 0..count * COLUMNS {
        columns.push(take(from)?);
    }
    let column = |number: usize| &columns[number * count..][..count];
    let [of_sources, starts, lengths, received, causes, epoch_numbers, sequences, rings, roots] =
        std::array::from_fn(column);
    let epochs = take(from)? as usize;
    let epochs = from.split_off(..epochs.saturating_mul(8)).ok_or("it ends early")?;
    let time = |us: i64| Time::from_microsecond(us).map_err(|e| e.to_string());
    let (mut source, mut start) = (0u32, 0i64);
    let mut spans = Vec::new();
    for n in 0..count {
        source = source.wrapping_add(of_sources[n] as u32);
        start = start.wrapping_add(unzigzag(starts[n]));
        let upto = start.wrapping_add(unzigzag(lengths[n]));
        let span = from.split_off(..16).ok_or("it ends early")?;
        let root = if roots[n] == 0 { None } else { Some(from.split_off(..32).ok_or("it ends early")?) };
        if of.binary_search(&source).is_err() {
            continue;
        }
        let (box_id, _) = sources.who(source).ok_or_else(|| format!("source {source}"))?;
        let epoch =
            epochs.chunks_exact(8).nth(epoch_numbers[n] as usize).ok_or("an epoch that is not there")?;
        let cause = match causes[n].checked_sub(1) {
            None => None,
            Some(code) => Some(*CAUSES.get(code as usize).ok_or_else(|| format!("cause {code}"))?),
        };
        spans.push(SpanEntry {
            source,
            span: Uuid::from_slice(span).map_err(|e| e.to_string())?,
            value: SpanValue {
                box_id: box_id.clone(),
                received: time(upto.wrapping_add(unzigzag(received[n])))?,
                epoch: Epoch(u64::from_le_bytes(epoch.try_into().expect("eight bytes"))),
                sequence: sequences[n],
                cause,
                start: time(start)?,
                upto: time(upto)?,
                open: false,
                merkle_root: root.map(|root| root.try_into().expect("32 bytes")),
                ring_from: match rings[n].checked_sub(1) {
                    None => None,
                    Some(code) => Some(time(upto.wrapping_add(unzigzag(code)))?),
                },
                correction: None,
            },
        });
    }
    Ok(spans)
}
