//! Walks through one segment, frame by frame, and finds its way behind what is bad.
//!
//! Owns reading a file's bytes as frames. Decides nothing: whether a bad frame is damage or a torn tail is for the
//! caller, who knows whether the segment is the last one.

use std::io;
use std::sync::Arc;

use super::disk::ReadAt;
use super::segment::{
    self, FRAME_HEADER_BYTES, FRAME_MAGIC, Frame, HEADER_BYTES, Header, HeaderError, Unpacked, Unpacker,
};

/// Bytes that are read at once by who reads everything, and by who looks only at headers.
const READ_BYTES: usize = 256 << 10;
const WALK_BYTES: usize = 4 << 10;

/// A way through a segment.
pub struct Scan {
    file: Arc<dyn ReadAt>,
    salt: u32,
    /// No frame of this segment reaches beyond this number: the next segment begins there.
    below: u64,
    offset: u64,
    expected: u64,
    /// Bytes from `buffer_at` on, as many as `filled` says.
    buffer: Vec<u8>,
    buffer_at: u64,
    filled: usize,
    read_bytes: usize,
    unpacker: Unpacker,
    /// The frame that [`Step::Frame`] told of last, if it was wanted.
    pub unpacked: Unpacked,
    /// Highest `durable_upto` behind the first bad frame.
    durable_behind: Option<u64>,
    is_done: bool,
}

/// One step of a [`Scan`].
#[derive(Debug)]
pub enum Step {
    /// A good frame and where it stands.
    Frame {
        offset: u64,
        frame: Frame,
    },
    /// Nothing more.
    End,
    Bad(Bad),
}

/// A stretch that can't be read.
#[derive(Debug, Clone)]
pub struct Bad {
    pub offset: u64,
    pub why: String,
    /// Number of the first record that should stand here.
    pub first_lost: u64,
    /// Where the next good frame stands, and its first record. May be `first_lost`: then no record is lost.
    pub next: Option<(u64, u64)>,
    /// All records below this were synced, as a frame behind this place says.
    pub durable_upto: u64,
}

impl Bad {
    /// True if a frame behind it says that what stood here was synced: then it is damage, not a torn write.
    pub fn was_durable(&self) -> bool {
        self.durable_upto > self.first_lost
    }
}

/// How much of a frame the caller wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// The header is enough.
    Header,
    /// The payload's checksum too.
    Checked,
    /// The records, in [`Scan::unpacked`].
    Records,
}

/// Why a segment can't be walked through at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("it can't be read")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Header(#[from] HeaderError),
}

impl Scan {
    /// Begins at the first frame of the segment that its name says begins with `first`. A damaged header is made
    /// good by the first frame, which says the same; then the second value says what is wrong with it.
    pub fn begin(
        file: Arc<dyn ReadAt>,
        first: u64,
        below: u64,
    ) -> Result<(Self, Option<HeaderError>), OpenError> {
        let mut bytes = [0; HEADER_BYTES as usize];
        let got = file.read_at(0, &mut bytes)?;
        let header = match Header::decode(&bytes[..got]) {
            Ok(header) if header.first == first => Ok(header),
            Ok(header) => Err(HeaderError::Bad(format!(
                "its name says record {first}, its header record {}",
                header.first
            ))),
            Err(error) => Err(error),
        };
        let mut scan = Self {
            file,
            salt: 0,
            below,
            offset: HEADER_BYTES,
            expected: first,
            buffer: Vec::new(),
            buffer_at: 0,
            filled: 0,
            read_bytes: WALK_BYTES,
            unpacker: Unpacker::default(),
            unpacked: Unpacked::default(),
            durable_behind: None,
            is_done: false,
        };
        match header {
            Ok(header) => {
                scan.salt = header.salt;
                Ok((scan, None))
            }
            Err(error @ HeaderError::Version(_)) => Err(error.into()),
            Err(error) => match scan.salt_of_first_frame()? {
                Some(salt) => {
                    scan.salt = salt;
                    Ok((scan, Some(error)))
                }
                None => Err(error.into()),
            },
        }
    }

    /// Goes on at a frame that is known to begin at `offset` with record `number`.
    pub fn go_to(&mut self, offset: u64, number: u64) {
        (self.offset, self.expected) = (offset, number);
    }

    /// Reads the place of `bad` once more, past what is in memory: somebody may have been writing it.
    pub fn try_again(&mut self, bad: &Bad) {
        self.filled = 0;
        self.is_done = false;
        self.go_to(bad.offset, bad.first_lost);
    }

    /// Where the next frame begins, and its first record.
    pub fn place(&self) -> (u64, u64) {
        (self.offset, self.expected)
    }

    pub fn salt(&self) -> u32 {
        self.salt
    }

    /// The next frame. Of those that end at or below `skip_below` only the header is looked at.
    pub fn step(&mut self, skip_below: u64, want: Want) -> io::Result<Step> {
        let offset = self.offset;
        self.read_bytes = if want == Want::Header { WALK_BYTES } else { READ_BYTES };
        if self.is_done || self.load(offset, FRAME_HEADER_BYTES)? == 0 {
            return Ok(Step::End);
        }
        let tried = self.try_frame(offset, skip_below, want)?;
        let frame = match tried {
            Ok(frame) if frame.first == self.expected => frame,
            Ok(frame) if frame.first > self.expected => {
                let why = format!("record {} should stand here", self.expected);
                return self.bad(offset, why, Some((offset, frame.first))).map(Step::Bad);
            }
            Ok(frame) => {
                let why = format!("record {} stands where {} should", frame.first, self.expected);
                let next = self.find(offset + 1)?;
                return self.bad(offset, why, next).map(Step::Bad);
            }
            Err(why) => {
                let next = self.find(offset + 1)?;
                return self.bad(offset, why, next).map(Step::Bad);
            }
        };
        self.go_to(offset + frame.bytes(), frame.end());
        Ok(Step::Frame { offset, frame })
    }

    /// The stored bytes of a frame, header and payload.
    pub fn frame_bytes(&mut self, offset: u64, frame: &Frame) -> io::Result<&[u8]> {
        let got = self.load(offset, frame.bytes() as usize)?;
        let start = (offset - self.buffer_at) as usize;
        Ok(&self.buffer[start..start + got])
    }

    fn bad(&mut self, offset: u64, why: String, next: Option<(u64, u64)>) -> io::Result<Bad> {
        let first_lost = self.expected;
        let durable_upto = match self.durable_behind {
            Some(known) => known,
            None => {
                let found = self.find_durable(next)?;
                *self.durable_behind.insert(found)
            }
        };
        match next {
            Some((offset, number)) => self.go_to(offset, number),
            None => self.is_done = true,
        }
        Ok(Bad { offset, why, first_lost, next, durable_upto })
    }

    /// The highest `durable_upto` from `next` on.
    fn find_durable(&mut self, mut next: Option<(u64, u64)>) -> io::Result<u64> {
        let mut durable_upto = 0;
        while let Some((offset, _)) = next {
            next = match self.try_frame(offset, 0, Want::Header)? {
                Ok(frame) => {
                    durable_upto = durable_upto.max(frame.durable_upto);
                    let behind = offset + frame.bytes();
                    if self.load(behind, 1)? == 0 { None } else { Some((behind, frame.end())) }
                }
                Err(_) => self.find(offset + 1)?,
            };
        }
        Ok(durable_upto)
    }

    /// The first place from `from` on where a good frame begins that does not repeat a record.
    fn find(&mut self, from: u64) -> io::Result<Option<(u64, u64)>> {
        self.read_bytes = READ_BYTES;
        let mut at = from;
        while self.load(at, FRAME_MAGIC.len())? == FRAME_MAGIC.len() {
            let window = &self.buffer[(at - self.buffer_at) as usize..self.filled];
            let Some(found) = window.windows(FRAME_MAGIC.len()).position(|bytes| bytes == FRAME_MAGIC) else {
                at += (window.len() - FRAME_MAGIC.len() + 1) as u64;
                continue;
            };
            at += found as u64;
            if let Ok(frame) = self.try_frame(at, 0, Want::Checked)?
                && frame.first >= self.expected
            {
                return Ok(Some((at, frame.first)));
            }
            at += 1;
        }
        Ok(None)
    }

    fn try_frame(&mut self, offset: u64, skip_below: u64, want: Want) -> io::Result<Result<Frame, String>> {
        let got = self.load(offset, FRAME_HEADER_BYTES)?;
        let start = (offset - self.buffer_at) as usize;
        let frame = match Frame::decode(&self.buffer[start..start + got]) {
            Ok(frame) => frame,
            Err(why) => return Ok(Err(why)),
        };
        if frame.salt != self.salt {
            return Ok(Err("a frame of another file stands here".into()));
        }
        if frame.end() > self.below {
            return Ok(Err("a frame reaches into the next file".into()));
        }
        if want == Want::Header || frame.end() <= skip_below {
            return Ok(Ok(frame));
        }
        let got = self.load(offset, frame.bytes() as usize)?;
        let start = (offset - self.buffer_at) as usize;
        let stored = &self.buffer[(start + FRAME_HEADER_BYTES).min(start + got)..start + got];
        let checked = match want {
            Want::Records => self.unpacked.fill(&frame, stored, &mut self.unpacker),
            _ => segment::check_payload(&frame, stored),
        };
        Ok(checked.map(|()| frame))
    }

    fn salt_of_first_frame(&mut self) -> io::Result<Option<u32>> {
        let got = self.load(HEADER_BYTES, FRAME_HEADER_BYTES)?;
        let start = (HEADER_BYTES - self.buffer_at) as usize;
        let Ok(frame) = Frame::decode(&self.buffer[start..start + got]) else { return Ok(None) };
        if frame.first != self.expected {
            return Ok(None);
        }
        self.salt = frame.salt;
        Ok(self.try_frame(HEADER_BYTES, 0, Want::Checked)?.ok().map(|frame| frame.salt))
    }

    /// Has up to `count` bytes from `offset` on in the buffer; returns how many there are.
    fn load(&mut self, offset: u64, count: usize) -> io::Result<usize> {
        let has = (self.buffer_at + self.filled as u64).saturating_sub(offset);
        if offset >= self.buffer_at && has >= count as u64 {
            return Ok(count);
        }
        let wanted = count.max(self.read_bytes);
        if self.buffer.len() < wanted {
            self.buffer = vec![0; wanted];
        }
        // Nothing old may stay in it when reading fails.
        self.filled = 0;
        self.buffer_at = offset;
        self.filled = self.file.read_at(offset, &mut self.buffer[..wanted])?;
        Ok(self.filled.min(count))
    }
}
