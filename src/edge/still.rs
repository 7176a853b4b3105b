//! What a camera sees now, because somebody at the hub asks (ảnh tức thời).
//!
//! Owns the way from the uplink to the cameras ([`Stills`]), and whether a command is carried out: in time, and one at a
//! time for each camera. What goes to the hub is a clip like any other, cut from the ring: nothing is shown that was not
//! recorded, so a camera that its owner paused shows nothing. May not open a camera itself.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::clip::Cutter;
use super::clock;
use super::lamp::command::{check_words, clip};
use super::upload::First;
use crate::limits::STILL_PATIENCE;
use crate::model::{ClockQuality, DeviceId, PictureFault, SyncState, Time};
use crate::wire::{CommandResult, StillCommand};

/// Where the uplink hands commands over. Clones share it.
#[derive(Clone, Default)]
pub struct Stills(Arc<Mutex<HashMap<DeviceId, mpsc::Sender<Order>>>>);

/// What is asked of a camera.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Its newest seconds.
    Still,
    /// To take what it sees now for what it is meant to see.
    View,
}

/// A command, and where its result goes.
pub struct Order {
    asked: Asked,
    command: StillCommand,
    results: mpsc::Sender<CommandResult>,
}

impl Stills {
    /// The queue of one camera: a second command is refused while the first one waits.
    pub fn open(&self, device: &DeviceId) -> mpsc::Receiver<Order> {
        let (orders, queue) = mpsc::channel(1);
        self.cameras().insert(device.clone(), orders);
        queue
    }

    /// Never waits; the result, if the command gets no further.
    pub fn hand_over(
        &self,
        asked: Asked,
        command: StillCommand,
        results: &mpsc::Sender<CommandResult>,
    ) -> Result<(), CommandResult> {
        let refused =
            |command: &StillCommand, why: String| CommandResult::refused(clip(&command.correlation), why);
        if let Err(why) = check(&command, clock::quality(), Time::now()) {
            return Err(refused(&command, why));
        }
        let Some(camera) = self.cameras().get(&command.device).cloned() else {
            let why = format!("this box has no camera {}", command.device);
            return Err(refused(&command, why));
        };
        camera.try_send(Order { asked, command, results: results.clone() }).map_err(|error| {
            let why = "a still of this camera is being taken already, or the camera is stopping";
            refused(&error.into_inner().command, why.to_owned())
        })
    }

    fn cameras(&self) -> MutexGuard<'_, HashMap<DeviceId, mpsc::Sender<Order>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A box whose clock is off can't tell what came late; it is asked when its clock is looked into.
fn check(command: &StillCommand, clock: ClockQuality, now: Time) -> Result<(), String> {
    check_words(&command.correlation, &command.actor, command.purpose.as_deref())?;
    let valid_until = command.valid_until;
    if clock.sync == SyncState::Synced && now > valid_until {
        return Err(format!("expired: it was valid until {valid_until}, by the box's clock it is {now}"));
    }
    Ok(())
}

/// Who looks at a camera's pictures, as far as it is told what it is meant to see.
#[derive(Clone)]
pub struct View {
    pub is_meant: Arc<AtomicBool>,
    /// None while nobody looks.
    pub picture: watch::Receiver<Option<Vec<PictureFault>>>,
}

impl View {
    fn accept(&self, correlation: String) -> CommandResult {
        if self.picture.borrow().is_none() {
            return CommandResult::refused(correlation, "nobody looks at this camera's pictures now");
        }
        self.is_meant.store(true, Ordering::Release);
        CommandResult::done(correlation)
    }
}

/// Carries out the commands to one camera until `shutdown`.
pub async fn run(
    cutter: Cutter,
    mut orders: mpsc::Receiver<Order>,
    mut progress: watch::Receiver<Time>,
    first: First,
    view: View,
    shutdown: CancellationToken,
) {
    loop {
        let Order { asked, command, results } = tokio::select! {
            () = shutdown.cancelled() => return,
            order = orders.recv() => match order {
                Some(order) => order,
                None => return,
            },
        };
        if asked == Asked::View {
            tracing::info!(device = %cutter.device, actor = command.actor, purpose = command.purpose, "view accepted");
            let _ = results.send(view.accept(command.correlation)).await;
            continue;
        }
        tracing::info!(device = %cutter.device, actor = command.actor, purpose = command.purpose, "still asked for");
        let taken = tokio::select! {
            () = shutdown.cancelled() => return,
            taken = take(&cutter, &mut progress, STILL_PATIENCE, &shutdown) => taken,
        };
        let result = match taken {
            Ok(clip) => {
                first.put(clip);
                CommandResult::still(command.correlation, clip)
            }
            Err(why) => CommandResult::failed(command.correlation, why),
        };
        // The uplink may be stopping: then nobody waits either.
        let _ = results.send(result).await;
    }
}

/// The clip of what is recorded from now on: its last picture is younger than the command.
async fn take(
    cutter: &Cutter,
    progress: &mut watch::Receiver<Time>,
    patience: Duration,
    shutdown: &CancellationToken,
) -> Result<uuid::Uuid, String> {
    progress.mark_unchanged();
    match tokio::time::timeout(patience, progress.changed()).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) => return Err("the camera is stopping".into()),
        Err(_) => {
            let waited = patience.as_secs();
            return Err(format!("the camera recorded nothing for {waited} s: it is away, broken, or paused"));
        }
    }
    let upto = *progress.borrow_and_update();
    cutter.cut_still(upto, shutdown).await.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ClockSource;
    use crate::wire::CommandOutcome;

    fn command(device: &str) -> StillCommand {
        StillCommand {
            correlation: "c1".into(),
            device: device.parse().unwrap(),
            actor: "demo".into(),
            purpose: Some("kiểm tra".into()),
            issued: Time::now(),
            valid_until: Time::now() + jiff::SignedDuration::from_secs(30),
        }
    }

    #[tokio::test]
    async fn one_at_a_time_and_of_this_box_only() {
        let stills = Stills::default();
        let (results, _queue) = mpsc::channel(1);
        let _orders = stills.open(&"cam-01".parse().unwrap());
        let why = |given: Result<(), CommandResult>| given.err().and_then(|result| result.why);
        assert_eq!(why(stills.hand_over(Asked::Still, command("cam-01"), &results)), None);
        let second = why(stills.hand_over(Asked::Still, command("cam-01"), &results)).unwrap();
        assert!(second.contains("already"), "{second}");
        let other = why(stills.hand_over(Asked::Still, command("cam-02"), &results)).unwrap();
        assert!(other.contains("no camera cam-02"), "{other}");
        let nameless = StillCommand { actor: String::new(), ..command("cam-01") };
        assert!(why(stills.hand_over(Asked::Still, nameless, &results)).unwrap().contains("actor"));
    }

    #[tokio::test]
    async fn the_picture_is_younger_than_the_command_and_a_view_can_be_meant() {
        let dir = tempfile::tempdir().unwrap();
        let (cutter, _clips) = crate::edge::clip::tests::cutter(dir.path(), 20, true);
        let upto = cutter.ring.lock().unwrap().upto().unwrap();
        let (stills, first, stop) = (Stills::default(), First::default(), CancellationToken::new());
        let (results, mut told) = mpsc::channel(1);
        let orders = stills.open(&cutter.device);
        let (progress, progressed) = watch::channel(upto);
        let (looks, picture) = watch::channel(None);
        let view = View { is_meant: Arc::default(), picture };
        let is_meant = view.is_meant.clone();
        let task = tokio::spawn(run(cutter, orders, progressed, first.clone(), view, stop.clone()));
        // A view is taken for meant only where somebody looks at it.
        for (told_of, outcome) in [(None, CommandOutcome::Refused), (Some(Vec::new()), CommandOutcome::Ok)] {
            looks.send_replace(told_of);
            stills.hand_over(Asked::View, command("cam-01"), &results).unwrap();
            assert_eq!(told.recv().await.unwrap().outcome, outcome);
            assert_eq!(is_meant.load(Ordering::Acquire), outcome == CommandOutcome::Ok);
        }
        stills.hand_over(Asked::Still, command("cam-01"), &results).unwrap();
        // What was recorded before shows nothing of now.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(told.try_recv().is_err(), "nothing was recorded since");
        progress.send(upto).unwrap();
        let result = told.recv().await.unwrap();
        assert_eq!((result.outcome, first.take()), (CommandOutcome::Ok, result.clip), "{result:?}");
        stop.cancel();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_camera_that_records_nothing_shows_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (cutter, _clips) = crate::edge::clip::tests::cutter(dir.path(), 20, true);
        let (_progress, mut progressed) = watch::channel(Time::MIN);
        let (patience, stop) = (Duration::from_millis(1), CancellationToken::new());
        let why = take(&cutter, &mut progressed, patience, &stop).await.unwrap_err();
        assert!(why.contains("recorded nothing"), "{why}");
    }

    #[test]
    fn what_comes_late_is_refused_where_the_clock_is_right() {
        let quality =
            |sync| ClockQuality { source: ClockSource::Box, sync, offset_ms: None, uncertainty_ms: None };
        let late = Time::now() + jiff::SignedDuration::from_secs(60);
        for (sync, now, is_taken) in [
            (SyncState::Synced, Time::now(), true),
            (SyncState::Synced, late, false),
            (SyncState::Unsynced, late, true),
        ] {
            assert_eq!(check(&command("cam-01"), quality(sync), now).is_ok(), is_taken, "{sync:?} {now}");
        }
    }
}
