//! One gateway: a broker to which devices of other makers speak, and who listens to them.
//!
//! Owns the connection and which topic is whose. A message is acknowledged when what it is worth stands in the outbox;
//! while the outbox takes nothing, the broker keeps what comes. May not publish anything.

use std::collections::HashMap;
use std::time::Instant;

use prometheus::{IntCounterVec, Registry};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::speaker::Speaker;
use super::{AdapterError, Heard, tasmota, zigbee2mqtt};
use crate::edge::clock;
use crate::edge::config::{Dialect, EdgeConfig, GatewayConfig};
use crate::edge::outbox::{NewEvent, Outbox, OutboxError};
use crate::limits::{
    GATEWAY_AWAY_MAX, GATEWAY_INFLIGHT_MAX, GATEWAY_LOOKS_EVERY, GATEWAY_SESSION_KEEP, OUTBOX_RETRY,
};
use crate::metrics::Part;
use crate::model::{BoxId, DeviceId, EventData, Time};
use crate::mqtt::{self, LinkConfig, LinkEvent, LinkSender, Login, Message};
use crate::tls;

/// Figures of all gateways. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    messages: IntCounterVec,
    odd: IntCounterVec,
}

impl Metrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let part = Part::new(registry, "camnet_edge_gateway_");
        Ok(Self {
            messages: part.counters("messages_total", "Messages of devices", &["device"])?,
            odd: part.counters(
                "odd_payloads_total",
                "Messages, or values in them, without a meaning",
                &["device", "kind"],
            )?,
        })
    }
}

/// Starts a task for each gateway of the configuration; it returns its name when it ends.
pub fn start(
    config: &EdgeConfig,
    outbox: &Outbox,
    metrics: &Registry,
    tasks: &mut JoinSet<String>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    if config.gateways.is_empty() {
        return Ok(());
    }
    let metrics = Metrics::register(metrics)?;
    for (number, gateway) in (1..).zip(config.gateways.clone()) {
        let login = match (&gateway.user, &gateway.password_file) {
            (Some(user), Some(file)) => Some(Login { user: user.clone(), password: tls::read_secret(file)? }),
            _ => None,
        };
        let link = link_config(&config.box_id, number, &gateway, login);
        let listener = Listener::new(gateway, outbox.clone(), metrics.clone());
        let stop = stop.clone();
        tasks.spawn(async move {
            let name = format!("gateway {}", listener.config.mqtt);
            listener.run(link, stop).await;
            name
        });
    }
    Ok(())
}

fn link_config(box_id: &BoxId, number: usize, config: &GatewayConfig, login: Option<Login>) -> LinkConfig {
    LinkConfig {
        address: config.mqtt.clone(),
        client_id: format!("camnet-{box_id}-{number}"),
        tls: None,
        subscriptions: config.devices.iter().flat_map(|device| topics(config, &device.name)).collect(),
        will: None,
        inflight_max: GATEWAY_INFLIGHT_MAX,
        session_keep: Some(GATEWAY_SESSION_KEEP),
        login,
    }
}

fn topics(config: &GatewayConfig, name: &str) -> [String; 2] {
    match config.dialect {
        Dialect::Zigbee2mqtt => zigbee2mqtt::topics(&config.base, name),
        Dialect::Tasmota => tasmota::topics(name),
    }
}

/// The box is stopping.
struct Stopped;

struct Listener {
    config: GatewayConfig,
    outbox: Outbox,
    metrics: Metrics,
    /// In the order of the configuration.
    speakers: Vec<Speaker>,
    /// By what stands in the topic.
    by_name: HashMap<String, usize>,
    /// Since when the broker is away, and why.
    away: Option<(Instant, String)>,
}

impl Listener {
    fn new(config: GatewayConfig, outbox: Outbox, metrics: Metrics) -> Self {
        let now = Instant::now();
        let speakers = config.devices.iter().map(|device| Speaker::new(device.clone(), now)).collect();
        let names = config.devices.iter().enumerate();
        let by_name = names.map(|(index, device)| (device.name.clone(), index)).collect();
        let away = Some((now, "not connected yet".to_owned()));
        Self { config, outbox, metrics, speakers, by_name, away }
    }

    async fn run(mut self, link: LinkConfig, stop: CancellationToken) {
        let (sender, events, link_task) = mqtt::start(link, stop.clone());
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            Stopped = self.listen(sender, events) => {}
        }
        if let Err(error) = link_task.await {
            tracing::error!(broker = self.config.mqtt, %error, "the link to a gateway failed");
        }
    }

    async fn listen(&mut self, sender: LinkSender, mut events: mpsc::Receiver<LinkEvent>) -> Stopped {
        let mut every = tokio::time::interval(GATEWAY_LOOKS_EVERY);
        loop {
            let done = tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.take(event, &sender).await,
                    None => Err(Stopped),
                },
                _ = every.tick() => self.tick().await,
            };
            if let Err(stopped) = done {
                return stopped;
            }
        }
    }

    async fn take(&mut self, event: LinkEvent, sender: &LinkSender) -> Result<(), Stopped> {
        match event {
            LinkEvent::Up { .. } => {
                tracing::info!(broker = self.config.mqtt, "gateway connected");
                self.away = None;
            }
            LinkEvent::Down { reason, .. } => {
                let since = self.away.as_ref().map_or_else(Instant::now, |(since, _)| *since);
                self.away = Some((since, reason));
            }
            LinkEvent::Published { .. } => {}
            LinkEvent::Message(message) => {
                self.hear(&message).await?;
                sender.ack(vec![message.ack]).map_err(|_| Stopped)?;
            }
        }
        Ok(())
    }

    async fn hear(&mut self, message: &Message) -> Result<(), Stopped> {
        let Some(index) = self.whose(&message.topic) else { return Ok(()) };
        let device = self.config.devices[index].id.clone();
        let said = match self.config.dialect {
            Dialect::Zigbee2mqtt => zigbee2mqtt::hear(&message.topic, &message.payload),
            Dialect::Tasmota => tasmota::hear(&message.topic, &message.payload),
        };
        self.count(&device, &said);
        let said = self.speakers[index].hear(said, message.retained, Time::now(), Instant::now());
        self.report(&device, said).await
    }

    fn whose(&self, topic: &str) -> Option<usize> {
        let name = match self.config.dialect {
            Dialect::Zigbee2mqtt => {
                let name = topic.strip_prefix(&self.config.base)?.strip_prefix('/')?;
                name.strip_suffix("/availability").unwrap_or(name)
            }
            Dialect::Tasmota => topic.split_once('/')?.1.rsplit_once('/')?.0,
        };
        self.by_name.get(name).copied()
    }

    fn count(&self, device: &DeviceId, said: &Result<Option<Heard>, AdapterError>) {
        self.metrics.messages.with_label_values(&[device.as_str()]).inc();
        let odd = match said {
            Ok(Some(heard)) => heard.odd.as_slice(),
            Ok(None) => &[],
            Err(error) => std::slice::from_ref(error),
        };
        for error in odd {
            tracing::debug!(%device, %error, "a gateway's message, or a value in it, has no meaning");
            self.metrics.odd.with_label_values(&[device.as_str(), error.kind()]).inc();
        }
    }

    async fn tick(&mut self) -> Result<(), Stopped> {
        let away = self.away.as_ref().filter(|(since, _)| since.elapsed() >= GATEWAY_AWAY_MAX);
        let away =
            away.map(|(_, why)| format!("the gateway's broker {} is out of reach: {why}", self.config.mqtt));
        for index in 0..self.speakers.len() {
            let said = self.speakers[index].tick(away.as_deref(), Time::now(), Instant::now());
            let device = self.config.devices[index].id.clone();
            self.report(&device, said).await?;
        }
        Ok(())
    }

    /// Hands over to the outbox, again and again until it takes it: a gate that opens says so once.
    async fn report(&self, device: &DeviceId, said: Vec<EventData>) -> Result<(), Stopped> {
        let mut outage = crate::outage::Outage::default();
        for data in said {
            let (time, clock) = (Time::now(), clock::quality());
            let event = NewEvent { device: Some(device.clone()), time, clock, data };
            loop {
                match self.outbox.accept(event.clone()).await {
                    Ok(()) => break,
                    Err(OutboxError::Closed) => return Err(Stopped),
                    Err(error) => {
                        let error = error.to_string();
                        if outage.failed(&error) {
                            tracing::error!(%device, error, "event of a gateway's device not accepted");
                        }
                        tokio::time::sleep(OUTBOX_RETRY).await;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_topic_is_its_devices() {
        let device = |name: &str, id: &str| format!("[[device]]\nid = '{id}'\nname = '{name}'\n");
        let check = |dialect: &str, topic: &str, expected: Option<usize>| {
            let devices = device("den-01", "lamp-01") + &device("ngõ 5/den-02", "lamp-02");
            let config = format!("mqtt = '127.0.0.1:1883'\ndialect = '{dialect}'\n{devices}");
            let (outbox, _accepts) = Outbox::new();
            let metrics = Metrics::register(&Registry::new()).unwrap();
            let listener = Listener::new(toml::from_str(&config).unwrap(), outbox, metrics);
            assert_eq!(listener.whose(topic), expected, "{topic}");
        };
        check("zigbee2mqtt", "zigbee2mqtt/den-01", Some(0));
        check("zigbee2mqtt", "zigbee2mqtt/den-01/availability", Some(0));
        check("zigbee2mqtt", "zigbee2mqtt/ngõ 5/den-02", Some(1));
        check("zigbee2mqtt", "zigbee2mqtt/den-03", None);
        check("zigbee2mqtt", "other/den-01", None);
        check("tasmota", "tele/den-01/LWT", Some(0));
        check("tasmota", "stat/ngõ 5/den-02/POWER", Some(1));
        check("tasmota", "tele", None);
    }
}
