//! Whether footage of the ring can be read back: yesterday's two in the morning, each day.
//!
//! Owns which moment is tried, and the trying. A disk that takes what is written and gives nothing back looks well until
//! somebody needs it; this asks before.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, ToSpan};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::edge::ring::{self, FragmentEntry, Ring};
#[cfg(feature = "media")]
use crate::edge::{clip, fmp4};
use crate::limits::{SELF_TEST_EVERY, SELF_TEST_FIRST_AFTER, SELF_TEST_SECONDS};
use crate::model::{SelfTest, SelfTestResult, Time};

/// Where people of the wards read a clock: seven hours ahead of UTC, all year.
const AHEAD: SignedDuration = SignedDuration::from_hours(7);
const NIGHT: SignedDuration = SignedDuration::from_hours(2);

/// The moment that is tried at `now`: yesterday's 02:00, or, where the ring begins later, what was recorded a minute ago.
pub fn moment(now: Time, ring_from: Option<Time>) -> Time {
    let local = now + AHEAD;
    let day = SignedDuration::from_hours(24);
    let midnight = local.as_second().div_euclid(86_400) * 86_400;
    let midnight = Time::from_second(midnight).unwrap_or(local) - AHEAD;
    let night = midnight - day + NIGHT;
    match ring_from {
        Some(from) if from <= night => night,
        _ => now - 1.minute(),
    }
}

/// Reads back what was recorded at a moment. Blocking: it reads a few megabytes, and decodes one picture.
pub fn try_moment(ring: &Mutex<Ring>, of: Time, now: Time) -> SelfTest {
    let to = of + SignedDuration::from_secs(SELF_TEST_SECONDS);
    let found = ring.lock().unwrap_or_else(PoisonError::into_inner).fragments(of, to);
    let (result, detail) = match found {
        Ok(fragments) if fragments.is_empty() => (SelfTestResult::NotRecorded, None),
        Ok(fragments) => match read_back(&fragments) {
            Ok(result) => (result, None),
            Err(why) => (SelfTestResult::Broken, Some(why)),
        },
        Err(error) => (SelfTestResult::Broken, Some(error.to_string())),
    };
    SelfTest { at: now, of, result, detail }
}

fn read_back(fragments: &[FragmentEntry]) -> Result<SelfTestResult, String> {
    for fragment in fragments {
        // With its hash checked.
        ring::read_fragment(fragment).map_err(|error| error.to_string())?;
    }
    let Some(key) = fragments.iter().position(|fragment| fragment.sync) else {
        return Ok(SelfTestResult::Read);
    };
    show(&fragments[key..=key])
}

/// Decodes a picture of it, where this box can.
#[cfg(feature = "media")]
fn show(scene: &[FragmentEntry]) -> Result<SelfTestResult, String> {
    let codec =
        fmp4::video_codec(&scene[0].run.track.sample_entry).ok_or("its video is of an unknown kind")?;
    let mp4 = clip::whole_clip(scene).map_err(|error| error.to_string())?;
    crate::media::still::still_jpeg(codec, mp4.into(), 0, 160)
        .map_err(|error| format!("it can't be decoded: {error}"))?;
    Ok(SelfTestResult::Played)
}

#[cfg(not(feature = "media"))]
fn show(_scene: &[FragmentEntry]) -> Result<SelfTestResult, String> {
    Ok(SelfTestResult::Read)
}

/// Tries again and again until `stop`; what came of it goes to who reports it.
pub async fn run(
    ring: std::sync::Arc<Mutex<Ring>>,
    told: watch::Sender<Option<SelfTest>>,
    stop: CancellationToken,
) {
    let mut wait: Duration = SELF_TEST_FIRST_AFTER;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => wait = SELF_TEST_EVERY,
        }
        let ring = ring.clone();
        let test = tokio::task::spawn_blocking(move || {
            let now = Time::now();
            let from = ring.lock().unwrap_or_else(PoisonError::into_inner).from();
            try_moment(&ring, moment(now, from), now)
        });
        let test = test.await.expect("reading the ring does not panic");
        if test.result == SelfTestResult::Broken {
            tracing::error!(of = %test.of, detail = test.detail, "footage can't be read back");
        }
        told.send_replace(Some(test));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_moment_is_yesterdays_two_in_the_morning_of_the_ward() {
        let time = |text: &str| text.parse::<Time>().unwrap();
        let old = Some(time("2026-01-01T00:00:00Z"));
        for (now, expected) in [
            // 03:00 on the 22nd in the ward.
            ("2026-11-21T20:00:00Z", "2026-11-20T19:00:00Z"),
            ("2026-11-22T16:59:59Z", "2026-11-20T19:00:00Z"),
            ("2026-11-22T17:00:00Z", "2026-11-21T19:00:00Z"),
        ] {
            assert_eq!(moment(time(now), old), time(expected), "{now}");
        }
        let now = time("2026-11-21T20:00:00Z");
        for young in [None, Some(time("2026-11-21T10:00:00Z"))] {
            assert_eq!(moment(now, young), time("2026-11-21T19:59:00Z"));
        }
    }
}
