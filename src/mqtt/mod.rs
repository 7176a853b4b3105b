//! The MQTT connection. The only module that names rumqttc.
//!
//! Owns connecting, reconnecting, and matching what the broker acknowledged with what was sent. May not
//! decide when a message is acknowledged, nor keep a message for later: whoever sends keeps what it owes.
//!
//! rumqttc 0.25 has traps (design section 6); what is done about each:
//!
//! 1. A clean session drops its queue on reconnect; 2. colliding packet ids wedge it; 3. a resumed session
//!    replays slowly and out of order: **after any error client and event loop are thrown away**, and
//!    [`LinkEvent::Down`] tells the sender that everything unanswered must be sent again. A publish that the
//!    broker does not answer within [`RESEND_AFTER`] counts as an error.
//! 4. Acks left over from before a reconnect acknowledge new messages: an [`Ack`] knows its connection, and a
//!    stale one is dropped.
//! 5. Subscriptions are made on every CONNACK, whatever it says of the session.
//! 6. Its 10 KiB limit on incoming packets: set to [`MQTT_PACKET_BYTES_MAX`].
//! 7. Its 13.9 MB per connection: the inflight limit is always set.
//! 8. `publish` returns nothing to match a PubAck with: one writer per connection and a queue of tokens that is
//!    popped on `Outgoing::Publish`.
//!
//! **Who waits for whom.** Polling and writing are two futures of one task: neither waits for the other's channel.
//! Mosquitto 2.0.11 sends more than one message for each ack, whatever the receive maximum says: what the receiver has
//! no room for is held, and beyond [`MQTT_HELD_MAX`] messages, or [`MQTT_WAITING_BYTES_MAX`] that the receiver has not
//! dropped, the connection is neither read nor written until there is room. So whoever has to make room may never wait
//! for the link: an ack goes in without waiting (there are at most 65,535, the packet ids), and a receiver that also
//! publishes does it from elsewhere. rumqttc sends no ack while its window of publishes is full: publishes wait here,
//! so that it never is.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    Filter, LastWill, LastWillProperties, Packet, PubAckReason, Publish, PublishProperties,
};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use rumqttc::{Outgoing, TlsConfiguration, Transport};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::limits::{
    BACKOFF_FIRST, BACKOFF_MAX, MQTT_HELD_MAX, MQTT_LINK_REQUESTS_MAX, MQTT_PACKET_BYTES_MAX,
    MQTT_REQUESTS_MAX, MQTT_WAITING_BYTES_MAX, RESEND_AFTER,
};
use crate::outage::Outage;

/// The common name in the hub's own certificate, and its MQTT client id.
pub const HUB_NAME: &str = "camnet-hub";

/// How to reach the broker, and as whom.
#[derive(Clone)]
pub struct LinkConfig {
    /// `host:port`.
    pub address: String,
    pub client_id: String,
    /// None only for a broker on loopback without TLS.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Topic filters, QoS 1.
    pub subscriptions: Vec<String>,
    /// Published by the broker, retained, when this side vanishes: topic and payload.
    pub will: Option<(String, Vec<u8>)>,
    /// Unanswered messages, in each direction.
    pub inflight_max: u16,
    /// How long the broker keeps our session, for a receiver that comes back.
    pub session_keep: Option<Duration>,
    /// For brokers that know their clients by name and password: those of other makers' devices.
    pub login: Option<Login>,
}

/// Never shown or logged.
#[derive(Clone)]
pub struct Login {
    pub user: String,
    pub password: String,
}

/// What happens on the link.
#[derive(Debug)]
pub enum LinkEvent {
    /// Connected and subscribed. Connections count from 1.
    Up {
        connection: u64,
    },
    /// The connection is gone; nothing unanswered of it will be answered any more.
    Down {
        connection: u64,
        reason: String,
    },
    Message(Message),
    /// The broker's answer to a publish.
    Published {
        connection: u64,
        token: u64,
        outcome: PublishOutcome,
    },
}

/// A message that came in. It stays the broker's until acknowledged through [`LinkSender::ack`].
#[derive(Debug)]
pub struct Message {
    pub topic: String,
    pub payload: Bytes,
    /// Kept by the broker from before this connection.
    pub retained: bool,
    pub user_properties: Vec<(String, String)>,
    pub ack: Ack,
    /// Gives back the room when the message is dropped.
    pub held: Weight,
}

/// The right to acknowledge one message on the connection that it came by.
#[derive(Debug)]
pub struct Ack {
    connection: u64,
    packet_id: u16,
}

/// The bytes of a message that someone still has.
#[derive(Debug)]
pub struct Weight {
    bytes: usize,
    scales: Arc<Scales>,
}

/// Bytes of all messages of a link that were not dropped yet.
#[derive(Debug, Default)]
struct Scales {
    bytes: AtomicUsize,
    is_lighter: Notify,
}

/// The broker's answer to a publish. It proves nothing about the hub; only a receipt does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublishOutcome {
    Taken,
    /// MQTT 5 reason 0x10: nobody subscribed, so the message is gone.
    NoSubscriber,
    /// Any other reason code, for instance 0x87 not authorised.
    Refused(String),
}

/// A message to send.
#[derive(Debug, Clone)]
pub struct OutMessage {
    pub topic: String,
    pub payload: Vec<u8>,
    pub content_type: Option<&'static str>,
    pub user_properties: Vec<(String, String)>,
    pub retain: bool,
    /// Comes back in [`LinkEvent::Published`].
    pub token: u64,
    /// For a question or its answer; boxed, for few messages have one.
    pub correlation: Option<Box<Correlation>>,
}

/// MQTT 5 request and response (OASIS MQTT 5.0, 4.10): both stand in our bodies too, for brokers that speak 3.1.1 only.
#[derive(Debug, Clone)]
pub struct Correlation {
    pub data: Vec<u8>,
    /// Where the answer is expected; with a question only.
    pub response_topic: Option<String>,
}

/// The sending side. Clones share the link.
#[derive(Clone)]
pub struct LinkSender {
    publishes: mpsc::Sender<OutMessage>,
    acks: mpsc::UnboundedSender<Vec<Ack>>,
}

/// What senders want, as the link takes it.
struct Requests {
    publishes: mpsc::Receiver<OutMessage>,
    acks: mpsc::UnboundedReceiver<Vec<Ack>>,
}

enum Request {
    Publish(OutMessage),
    Acks(Vec<Ack>),
}

/// The link was shut down.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the MQTT link is shut down")]
pub struct LinkClosed;

impl LinkSender {
    /// Hands a message to the link. It is lost if the connection goes down before [`LinkEvent::Published`].
    pub async fn publish(&self, message: OutMessage) -> Result<(), LinkClosed> {
        self.publishes.send(message).await.map_err(|_| LinkClosed)
    }

    /// As [`LinkSender::publish`], but gives the message back when the queue is full.
    pub fn try_publish(&self, message: OutMessage) -> Result<(), Option<OutMessage>> {
        self.publishes.try_send(message).map_err(|error| match error {
            mpsc::error::TrySendError::Full(message) => Some(message),
            mpsc::error::TrySendError::Closed(_) => None,
        })
    }

    /// Acknowledges messages, without waiting; an ack of an earlier connection is dropped, the broker sends that
    /// message again.
    pub fn ack(&self, acks: Vec<Ack>) -> Result<(), LinkClosed> {
        self.acks.send(acks).map_err(|_| LinkClosed)
    }
}

impl Requests {
    /// The next one; a publish only when `window` has room for it. None when all senders are gone.
    async fn next(&mut self, window: &Semaphore) -> Option<Request> {
        let Self { publishes, acks } = self;
        let publish = async {
            let room = window.acquire().await.expect("nobody closes it");
            let message = publishes.recv().await;
            // The broker's answer gives it back.
            room.forget();
            message
        };
        tokio::select! {
            biased;
            acks = acks.recv() => acks.map(Request::Acks),
            message = publish => message.map(Request::Publish),
        }
    }

    /// Throws away what comes; returns when all senders are gone.
    async fn refuse(&mut self) {
        loop {
            let is_one = tokio::select! {
                publish = self.publishes.recv() => publish.is_some(),
                acks = self.acks.recv() => acks.is_some(),
            };
            if !is_one {
                return;
            }
        }
    }
}

impl Weight {
    fn new(bytes: usize, scales: &Arc<Scales>) -> Self {
        scales.bytes.fetch_add(bytes, Ordering::Relaxed);
        Self { bytes, scales: scales.clone() }
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        let before = self.scales.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        if before > MQTT_WAITING_BYTES_MAX && before - self.bytes <= MQTT_WAITING_BYTES_MAX {
            self.scales.is_lighter.notify_one();
        }
    }
}

impl Scales {
    fn is_full(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > MQTT_WAITING_BYTES_MAX
    }
}

/// A receiver that makes no room for this long has its connection closed; the broker keeps what it has not acked.
const RECEIVER_STUCK_MAX: Duration = Duration::from_secs(30);

/// Starts the link: it connects, and connects again, until `shutdown`.
///
/// The receiver must be drained; its queue holds every message that the broker may send before an ack.
pub fn start(
    config: LinkConfig,
    shutdown: CancellationToken,
) -> (LinkSender, mpsc::Receiver<LinkEvent>, tokio::task::JoinHandle<()>) {
    let (publishes, publish_queue) = mpsc::channel(MQTT_LINK_REQUESTS_MAX);
    let (acks, ack_queue) = mpsc::unbounded_channel();
    let requests = Requests { publishes: publish_queue, acks: ack_queue };
    let (events, event_queue) = mpsc::channel(4 * config.inflight_max as usize + 64);
    let task = tokio::spawn(run(config, requests, events, shutdown));
    (LinkSender { publishes, acks }, event_queue, task)
}

/// The retry loop: each round is one connection with a client of its own.
async fn run(
    config: LinkConfig,
    mut requests: Requests,
    events: mpsc::Sender<LinkEvent>,
    shutdown: CancellationToken,
) {
    let mut backoff = BACKOFF_FIRST;
    let mut outage = Outage::default();
    for connection in 1u64.. {
        let started = Instant::now();
        let (reason, was_up) = run_once(&config, connection, &events, &mut requests, &shutdown).await;
        if shutdown.is_cancelled() {
            return;
        }
        if was_up {
            outage.ended();
        }
        log_down(&config, connection, &reason, &mut outage);
        // The receiver may wait for us to take its acks before it takes this.
        let told = tokio::select! {
            told = events.send(LinkEvent::Down { connection, reason }) => told,
            () = requests.refuse() => return,
            () = shutdown.cancelled() => return,
        };
        if told.is_err() {
            return;
        }
        if started.elapsed() > BACKOFF_MAX {
            backoff = BACKOFF_FIRST;
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(backoff) => {}
            () = requests.refuse() => return,
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// At warn what is new, at debug each further try. That the link is up again, its owner says.
fn log_down(config: &LinkConfig, connection: u64, reason: &str, outage: &mut Outage) {
    let (is_news, failures) = (outage.failed(reason), outage.failures());
    let (broker, client) = (&config.address, &config.client_id);
    if is_news {
        tracing::warn!(broker, client, connection, failures, reason, "mqtt link is down");
    } else {
        tracing::debug!(broker, client, connection, failures, reason, "mqtt link is still down");
    }
}

/// Runs one connection from CONNECT to the first error; returns why it ended, and whether it had been up.
async fn run_once(
    config: &LinkConfig,
    connection: u64,
    events: &mpsc::Sender<LinkEvent>,
    requests: &mut Requests,
    shutdown: &CancellationToken,
) -> (String, bool) {
    let (client, event_loop) = AsyncClient::new(options(config), MQTT_REQUESTS_MAX);
    let broken = CancellationToken::new();
    let up = CancellationToken::new();
    let mut inbound = Inbound {
        connection,
        events: events.clone(),
        held: VecDeque::new(),
        queued: Arc::default(),
        window: Arc::new(Semaphore::new(0)),
        scales: Arc::default(),
        up: up.clone(),
    };
    let outbound = Outbound {
        connection,
        client: client.clone(),
        queued: inbound.queued.clone(),
        window: inbound.window.clone(),
    };
    let writer = outbound.write(requests, &up, &broken, shutdown);
    let poller = async {
        let reason = tokio::select! {
            reason = poll(event_loop, client, &mut inbound, config) => reason,
            () = goodbye_deadline(shutdown) => "shut down".to_owned(),
        };
        broken.cancel();
        reason
    };
    let (reason, ()) = tokio::join!(poller, writer);
    (reason, up.is_cancelled())
}

/// The DISCONNECT of a shutdown gets this long to reach the wire.
async fn goodbye_deadline(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
}

/// Where what comes in goes.
struct Inbound {
    connection: u64,
    events: mpsc::Sender<LinkEvent>,
    /// What the receiver has no room for at the moment, in order.
    held: VecDeque<LinkEvent>,
    /// Tokens of publishes that the client has taken but not yet put on the wire, in order.
    queued: Arc<Mutex<VecDeque<u64>>>,
    /// Room for publishes that the broker has not answered.
    window: Arc<Semaphore>,
    scales: Arc<Scales>,
    up: CancellationToken,
}

/// Where what goes out comes from.
struct Outbound {
    connection: u64,
    client: AsyncClient,
    queued: Arc<Mutex<VecDeque<u64>>>,
    window: Arc<Semaphore>,
}

impl Outbound {
    /// Takes requests to the client until the connection is broken. On shutdown it says goodbye, which lets
    /// the poller end.
    async fn write(
        &self,
        requests: &mut Requests,
        up: &CancellationToken,
        broken: &CancellationToken,
        shutdown: &CancellationToken,
    ) {
        loop {
            let request = tokio::select! {
                biased;
                () = broken.cancelled() => return,
                request = requests.next(&self.window) => request,
                () = shutdown.cancelled() => None,
            };
            let Some(request) = request else {
                if up.is_cancelled() {
                    let _ = self.client.try_disconnect();
                }
                return;
            };
            tokio::select! {
                biased;
                () = broken.cancelled() => return,
                () = self.hand_over(request) => {}
            }
        }
    }

    /// An error means that the connection is gone, which the poller says.
    async fn hand_over(&self, request: Request) {
        match request {
            Request::Publish(message) => {
                self.queued.lock().expect("no panic holds it").push_back(message.token);
                let (correlation, response_topic) = match message.correlation.map(|boxed| *boxed) {
                    Some(Correlation { data, response_topic }) => (Some(Bytes::from(data)), response_topic),
                    None => (None, None),
                };
                let properties = PublishProperties {
                    content_type: message.content_type.map(str::to_owned),
                    user_properties: message.user_properties,
                    correlation_data: correlation,
                    response_topic,
                    ..Default::default()
                };
                let (topic, retain) = (message.topic, message.retain);
                let _ = self
                    .client
                    .publish_with_properties(topic, QoS::AtLeastOnce, retain, message.payload, properties)
                    .await;
            }
            Request::Acks(acks) => {
                // Only the packet id counts.
                let mut publish = Publish::new("", QoS::AtLeastOnce, Bytes::new(), None);
                for ack in acks.iter().filter(|ack| ack.connection == self.connection) {
                    publish.pkid = ack.packet_id;
                    if self.client.ack(&publish).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// Polls until an error; returns it as text for the log.
async fn poll(
    mut event_loop: EventLoop,
    client: AsyncClient,
    link: &mut Inbound,
    config: &LinkConfig,
) -> String {
    let mut unanswered: HashMap<u16, (u64, Instant)> = HashMap::new();
    let mut watchdog = tokio::time::interval(Duration::from_secs(5));
    let mut polled_last = Instant::now();
    loop {
        let polled = {
            let next = event_loop.poll();
            tokio::pin!(next);
            loop {
                tokio::select! {
                    room = link.events.reserve(), if !link.held.is_empty() => match room {
                        Ok(room) => room.send(link.held.pop_front().expect("checked above")),
                        Err(_) => return LinkClosed.to_string(),
                    },
                    polled = &mut next, if link.has_room() => break polled,
                    () = link.scales.is_lighter.notified(), if link.scales.is_full() => {}
                    _ = watchdog.tick() => {
                        if unanswered.values().any(|(_, since)| since.elapsed() > RESEND_AFTER) {
                            return "the broker leaves publishes unanswered".to_owned();
                        }
                        if polled_last.elapsed() > RECEIVER_STUCK_MAX && !link.has_room() {
                            return "the receiver of the link is stuck".to_owned();
                        }
                    }
                }
            }
        };
        polled_last = Instant::now();
        let event = match polled {
            Ok(event) => event,
            Err(error) => return error_chain(&error),
        };
        match event {
            Event::Incoming(Packet::ConnAck(ack)) => {
                let theirs = ack.properties.and_then(|properties| properties.receive_max);
                let window = theirs.map_or(config.inflight_max, |theirs| theirs.min(config.inflight_max));
                link.window.add_permits(usize::from(window).saturating_sub(1).max(1));
                let filters = config.subscriptions.iter().map(|f| Filter::new(f, QoS::AtLeastOnce));
                if !config.subscriptions.is_empty() && client.try_subscribe_many(filters).is_err() {
                    return "the subscriptions did not fit into the client's queue".to_owned();
                }
                if config.subscriptions.is_empty() && link.tell_up().await.is_err() {
                    return LinkClosed.to_string();
                }
            }
            Event::Incoming(Packet::SubAck(ack)) => {
                let refused = ack.return_codes.iter().find(|c| !format!("{c:?}").starts_with("Success"));
                if let Some(code) = refused {
                    return format!("the broker refused a subscription: {code:?}");
                }
                if link.tell_up().await.is_err() {
                    return LinkClosed.to_string();
                }
            }
            Event::Incoming(Packet::Publish(publish)) => {
                if let Err(reason) = link.take_message(publish) {
                    return reason;
                }
            }
            Event::Outgoing(Outgoing::Publish(packet_id)) => {
                if let Some(token) = link.queued.lock().expect("no panic holds it").pop_front() {
                    unanswered.insert(packet_id, (token, Instant::now()));
                }
            }
            Event::Incoming(Packet::PubAck(ack)) => {
                link.window.add_permits(1);
                if let Some((token, _)) = unanswered.remove(&ack.pkid) {
                    let outcome = publish_outcome(ack.reason);
                    let answer = LinkEvent::Published { connection: link.connection, token, outcome };
                    if let Err(reason) = link.hand_on(answer) {
                        return reason;
                    }
                }
            }
            Event::Outgoing(Outgoing::Disconnect) => return "disconnected by us".to_owned(),
            _ => {}
        }
    }
}

impl Inbound {
    async fn tell_up(&self) -> Result<(), LinkClosed> {
        self.up.cancel();
        self.events.send(LinkEvent::Up { connection: self.connection }).await.map_err(|_| LinkClosed)
    }

    fn has_room(&self) -> bool {
        self.held.len() < MQTT_HELD_MAX && !self.scales.is_full()
    }

    /// Never waits: waiting would keep the receiver's own acks from the wire.
    fn hand_on(&mut self, event: LinkEvent) -> Result<(), String> {
        if !self.held.is_empty() {
            self.held.push_back(event);
            return Ok(());
        }
        match self.events.try_send(event) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Full(event)) => {
                self.held.push_back(event);
                Ok(())
            }
            Err(mpsc::error::TrySendError::Closed(_)) => Err(LinkClosed.to_string()),
        }
    }

    fn take_message(&mut self, publish: Publish) -> Result<(), String> {
        let topic = String::from_utf8_lossy(&publish.topic).into_owned();
        let user_properties =
            publish.properties.map(|properties| properties.user_properties).unwrap_or_default();
        let ack = Ack { connection: self.connection, packet_id: publish.pkid };
        let held = Weight::new(publish.payload.len(), &self.scales);
        let (payload, retained) = (publish.payload, publish.retain);
        self.hand_on(LinkEvent::Message(Message { topic, payload, retained, user_properties, ack, held }))
    }
}

fn options(config: &LinkConfig) -> MqttOptions {
    let (host, port) = config.address.rsplit_once(':').unwrap_or((&config.address, "8883"));
    let mut options = MqttOptions::new(&config.client_id, host, port.parse().unwrap_or(8883));
    options.set_keep_alive(Duration::from_secs(20));
    options.set_connection_timeout(10);
    options.set_manual_acks(true);
    options.set_outgoing_inflight_upper_limit(config.inflight_max);
    options.set_receive_maximum(Some(config.inflight_max));
    options.set_max_packet_size(Some(MQTT_PACKET_BYTES_MAX));
    options.set_clean_start(config.session_keep.is_none());
    options.set_session_expiry_interval(config.session_keep.map(|keep| keep.as_secs() as u32));
    if let Some(Login { user, password }) = &config.login {
        options.set_credentials(user, password);
    }
    if let Some(tls) = &config.tls {
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls.clone())));
    }
    if let Some((topic, payload)) = &config.will {
        let will = LastWill::new(
            topic.as_str(),
            payload.clone(),
            QoS::AtLeastOnce,
            true,
            None::<LastWillProperties>,
        );
        options.set_last_will(will);
    }
    options
}

fn publish_outcome(reason: PubAckReason) -> PublishOutcome {
    match reason {
        PubAckReason::Success => PublishOutcome::Taken,
        PubAckReason::NoMatchingSubscribers => PublishOutcome::NoSubscriber,
        other => PublishOutcome::Refused(format!("{other:?}")),
    }
}

fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
