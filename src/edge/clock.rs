//! How good the box's own clock is, as its kernel knows.
//!
//! Owns the question to the kernel. May not set or correct a clock.

use crate::model::{ClockQuality, ClockSource, SyncState};

/// The quality of the box's clock now.
pub fn quality() -> ClockQuality {
    let mut answer = libc::timex { modes: 0, ..zeroed() };
    // SAFETY: `answer` is a valid, exclusively borrowed timex; with `modes` 0 the call only reads the
    // kernel's clock state and writes it there.
    let state = unsafe { libc::adjtimex(&mut answer) };
    from_kernel(state, answer.status, answer.maxerror)
}

fn zeroed() -> libc::timex {
    // SAFETY: timex is a plain C struct of integers; all zeros is a valid value of it.
    unsafe { std::mem::zeroed() }
}

/// `maxerror_us` grows by 500 us a second since the clock was last set right, up to 16 s.
fn from_kernel(state: i32, status: i32, maxerror_us: i64) -> ClockQuality {
    let synced = state != libc::TIME_ERROR && status & libc::STA_UNSYNC == 0;
    let sync = match state {
        ..0 => SyncState::Unknown,
        _ if synced => SyncState::Synced,
        _ => SyncState::Unsynced,
    };
    let uncertainty_ms =
        (sync == SyncState::Synced).then(|| maxerror_us.max(0).unsigned_abs().div_ceil(1000));
    ClockQuality { source: ClockSource::Box, sync, offset_ms: None, uncertainty_ms }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_understood() {
        let cases = [
            (libc::TIME_OK, 0, 1500, SyncState::Synced, Some(2)),
            (libc::TIME_OK, libc::STA_UNSYNC, 1500, SyncState::Unsynced, None),
            (libc::TIME_ERROR, libc::STA_UNSYNC, 16_000_000, SyncState::Unsynced, None),
            (-1, 0, 0, SyncState::Unknown, None),
        ];
        for (state, status, maxerror, sync, uncertainty_ms) in cases {
            let quality = from_kernel(state, status, maxerror);
            assert_eq!((quality.sync, quality.uncertainty_ms), (sync, uncertainty_ms), "{state} {status}");
        }
        assert_eq!(quality().source, ClockSource::Box);
    }
}
