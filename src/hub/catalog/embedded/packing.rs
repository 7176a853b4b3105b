//! Compression of what blocks are made of.
//!
//! Owns the frames (zstd) and the contexts for them, one of each for a thread: making one costs more than a block.

use std::cell::RefCell;
use std::io;

use zstd::bulk::{Compressor, Decompressor};

use super::columns::{put, take};

const LEVEL: i32 = 3;

thread_local! {
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Appends the count of bytes before compression (varint) and the frame.
pub fn pack(plain: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    put(out, plain.len() as u64);
    COMPRESSOR.with_borrow_mut(|slot| {
        let compressor = match slot {
            Some(compressor) => compressor,
            None => slot.insert(Compressor::new(LEVEL)?),
        };
        out.extend_from_slice(&compressor.compress(plain)?);
        Ok(())
    })
}

/// What [`pack`] was given, at most `most` bytes.
pub fn unpack(mut packed: &[u8], most: usize) -> Result<Vec<u8>, String> {
    let bytes = take(&mut packed)? as usize;
    if bytes > most {
        return Err(format!("a block of {bytes} bytes"));
    }
    DECOMPRESSOR.with_borrow_mut(|slot| {
        let decompressor = match slot {
            Some(decompressor) => decompressor,
            None => slot.insert(Decompressor::new().map_err(|e| e.to_string())?),
        };
        decompressor.decompress(packed, bytes).map_err(|e| e.to_string())
    })
}
