//! Commands to boxes, and what became of them.
//!
//! Owns those that wait for a result: each by its correlation id, for a time. May not decide who may command (the gate
//! does) nor what a box does (its own configuration does).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use prometheus::{IntCounterVec, Registry as Metrics};
use tokio::sync::oneshot;

use crate::limits::COMMANDS_WAITING_MAX;
use crate::metrics::Part;
use crate::model::BoxId;
use crate::mqtt::{Correlation, LinkSender, OutMessage};
use crate::wire::{Command, CommandResult, LampCommand, StillCommand, Topic, TopicKind};

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("the hub has no link to its broker; nothing was sent")]
    NoLink,
    #[error("too many commands wait for their results; try again later")]
    TooMany,
    #[error("box {box_id} did not answer within {waited_s} s; if the command reaches it later it is refused")]
    NoAnswer { box_id: BoxId, waited_s: u64 },
}

/// Sends commands and hands their results to who waits. Clones share it.
#[derive(Clone)]
pub struct Commands {
    link: LinkSender,
    waiting: Arc<Mutex<HashMap<String, Waiting>>>,
    results: IntCounterVec,
}

struct Waiting {
    box_id: BoxId,
    done: oneshot::Sender<CommandResult>,
}

/// Takes back the place of one who no longer waits, however that came.
struct Place<'a> {
    commands: &'a Commands,
    correlation: &'a str,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.commands.waiting().remove(self.correlation);
    }
}

impl Commands {
    pub fn new(link: LinkSender, metrics: &Metrics) -> Result<Self, prometheus::Error> {
        let part = Part::new(metrics, "camnet_hub_");
        let help = "Results of commands to boxes; late: nobody waited any more; bad: it could not be read";
        let results = part.counters("command_results_total", help, &["outcome"])?;
        Ok(Self { link, waiting: Arc::default(), results })
    }

    /// Sends the command and waits for its result, at most `within`.
    pub async fn lamp(
        &self,
        box_id: &BoxId,
        command: LampCommand,
        within: Duration,
    ) -> Result<CommandResult, CommandError> {
        self.send(box_id, command.correlation.clone(), Command::Lamp(command), within).await
    }

    /// As [`Commands::lamp`].
    pub async fn still(
        &self,
        box_id: &BoxId,
        command: StillCommand,
        within: Duration,
    ) -> Result<CommandResult, CommandError> {
        self.send(box_id, command.correlation.clone(), Command::Still(command), within).await
    }

    /// As [`Commands::lamp`].
    pub async fn view(
        &self,
        box_id: &BoxId,
        command: StillCommand,
        within: Duration,
    ) -> Result<CommandResult, CommandError> {
        self.send(box_id, command.correlation.clone(), Command::View(command), within).await
    }

    async fn send(
        &self,
        box_id: &BoxId,
        correlation: String,
        command: Command,
        within: Duration,
    ) -> Result<CommandResult, CommandError> {
        let (done, result) = oneshot::channel();
        let _place = self.wait(box_id, &correlation, done)?;
        let topic = |kind| Topic::new(box_id, kind).to_string();
        let message = OutMessage {
            topic: topic(TopicKind::Command),
            payload: command.to_json(),
            content_type: Some("application/json"),
            user_properties: Vec::new(),
            retain: false,
            token: 0,
            correlation: Some(Box::new(Correlation {
                data: correlation.clone().into_bytes(),
                response_topic: Some(topic(TopicKind::Result)),
            })),
        };
        self.link.try_publish(message).map_err(|_| CommandError::NoLink)?;
        let no_answer = || CommandError::NoAnswer { box_id: box_id.clone(), waited_s: within.as_secs() };
        match tokio::time::timeout(within, result).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(_)) | Err(_) => Err(no_answer()),
        }
    }

    /// Sends a command that has no result. It may get lost: whoever sends it can live with that.
    pub fn tell(&self, box_id: &BoxId, command: &Command) {
        let message = OutMessage {
            topic: Topic::new(box_id, TopicKind::Command).to_string(),
            payload: command.to_json(),
            content_type: Some("application/json"),
            user_properties: Vec::new(),
            retain: false,
            token: 0,
            correlation: None,
        };
        if self.link.try_publish(message).is_err() {
            tracing::info!(%box_id, "no link to tell a box something; it asks by itself");
        }
    }

    fn wait<'a>(
        &'a self,
        box_id: &BoxId,
        correlation: &'a str,
        done: oneshot::Sender<CommandResult>,
    ) -> Result<Place<'a>, CommandError> {
        let mut waiting = self.waiting();
        if waiting.len() >= COMMANDS_WAITING_MAX || waiting.contains_key(correlation) {
            return Err(CommandError::TooMany);
        }
        waiting.insert(correlation.to_owned(), Waiting { box_id: box_id.clone(), done });
        Ok(Place { commands: self, correlation })
    }

    /// A message on a result topic. A box answers for itself only: its topic says who it is.
    pub fn take(&self, topic: &Topic, payload: &[u8]) {
        let box_id = &topic.box_id;
        let result = match CommandResult::from_json(payload) {
            Ok(result) => result,
            Err(error) => {
                tracing::warn!(%box_id, %error, "result of a command can't be read");
                self.results.with_label_values(&["bad"]).inc();
                return;
            }
        };
        let waiting = {
            let mut waiting = self.waiting();
            let is_its = waiting.get(&result.correlation).is_some_and(|waiting| waiting.box_id == *box_id);
            if is_its { waiting.remove(&result.correlation) } else { None }
        };
        let (outcome, why) = (result.outcome, result.why.as_deref().unwrap_or_default());
        tracing::info!(%box_id, ?outcome, why, is_late = waiting.is_none(), "result of a command");
        let label = if waiting.is_some() { outcome.as_str() } else { "late" };
        self.results.with_label_values(&[label]).inc();
        if let Some(waiting) = waiting {
            // Who stopped waiting just now changes nothing.
            let _ = waiting.done.send(result);
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<String, Waiting>> {
        self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::model::LampAct;
    use crate::mqtt::{self, LinkConfig};
    use crate::wire::CommandOutcome;

    /// On a link to a broker that does not exist: what is sent gets nowhere.
    fn commands(stop: &CancellationToken) -> Commands {
        let config = LinkConfig {
            address: "127.0.0.1:1".into(),
            client_id: "test".into(),
            tls: None,
            subscriptions: Vec::new(),
            will: None,
            inflight_max: 10,
            session_keep: None,
            login: None,
        };
        let (link, mut events, _) = mqtt::start(config, stop.clone());
        tokio::spawn(async move { while events.recv().await.is_some() {} });
        Commands::new(link, &Metrics::new()).unwrap()
    }

    fn command(correlation: &str) -> LampCommand {
        let now = crate::model::Time::now();
        LampCommand {
            correlation: correlation.into(),
            device: "lamp-01".parse().unwrap(),
            circuit: 1,
            act: LampAct::Switch { on: true },
            actor: "demo".into(),
            purpose: None,
            issued: now,
            valid_until: now,
        }
    }

    fn topic(box_id: &str) -> Topic {
        Topic::new(&box_id.parse().unwrap(), TopicKind::Result)
    }

    fn count(commands: &Commands, outcome: &str) -> u64 {
        commands.results.with_label_values(&[outcome]).get()
    }

    #[tokio::test]
    async fn only_the_box_that_was_asked_can_answer() {
        let stop = CancellationToken::new();
        let commands = commands(&stop);
        let box_id = "box-01".parse().unwrap();
        let asked = commands.lamp(&box_id, command("c1"), Duration::from_secs(20));
        let answers = async {
            while commands.waiting().is_empty() {
                tokio::task::yield_now().await;
            }
            let ok = CommandResult { outcome: CommandOutcome::Ok, ..CommandResult::failed("c1", "") };
            commands.take(&topic("box-02"), &ok.to_json());
            commands.take(&topic("box-01"), b"rubbish");
            commands.take(&topic("box-01"), &CommandResult::refused("c2", "another").to_json());
            assert_eq!(commands.waiting().len(), 1, "still waiting");
            commands.take(&topic("box-01"), &CommandResult::refused("c1", "not allowed").to_json());
        };
        let (result, ()) = tokio::join!(asked, answers);
        assert_eq!(result.unwrap(), CommandResult::refused("c1", "not allowed"));
        assert_eq!(
            [count(&commands, "late"), count(&commands, "bad"), count(&commands, "refused")],
            [2, 1, 1]
        );
        stop.cancel();
    }

    #[tokio::test]
    async fn who_gets_no_answer_gives_the_place_back() {
        let stop = CancellationToken::new();
        let commands = commands(&stop);
        let box_id = "box-01".parse().unwrap();
        let result = commands.lamp(&box_id, command("c1"), Duration::from_millis(10)).await;
        assert!(matches!(result, Err(CommandError::NoAnswer { .. })), "{result:?}");
        assert!(commands.waiting().is_empty());
        stop.cancel();
    }
}
