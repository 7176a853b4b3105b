//! The eight traps of rumqttc 0.25 (the list at the top of src/mqtt/mod.rs), each sprung through `camnet::mqtt` on
//! real brokers, to show that it harms nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use camnet::broker::Broker;
use camnet::limits::{MQTT_PACKET_BYTES_MAX, MQTT_WAITING_BYTES_MAX, RESEND_AFTER};
use camnet::load::world::usage_of;
use camnet::mqtt::{self, Ack, HUB_NAME, LinkConfig, LinkEvent, LinkSender, OutMessage, PublishOutcome};
use camnet::tls::{self, Identity};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::proxy::{Mode, Proxy};
use crate::world::{HubWorld, Process, free_port};

const BOTH: [Kind; 2] = [Kind::Mosquitto, Kind::Embedded];
const WITHIN: Duration = Duration::from_secs(60);
const EVENTS: &str = "camnet/1/box-01/event";

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Mosquitto,
    Embedded,
}

/// A broker with certificates for the hub, box-01 and box-02.
struct Bench {
    kind: Kind,
    world: HubWorld,
    mosquitto: Option<Process>,
    stop: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Bench {
    async fn start(kind: Kind) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let world = HubWorld::new(dir.path(), &["box-01", "box-02"]);
        let mut bench = Self { kind, world, mosquitto: None, stop: CancellationToken::new(), _dir: dir };
        bench.start_broker().await;
        bench
    }

    async fn start_broker(&mut self) {
        match self.kind {
            Kind::Mosquitto => self.mosquitto = Some(self.world.start_mosquitto(false)),
            Kind::Embedded => {
                let address = ([127, 0, 0, 1], self.world.mqtt).into();
                let broker = Broker::bind(address, &self.identity("hub"), std::sync::Arc::new(|_, _| true))
                    .await
                    .unwrap();
                tokio::spawn(broker.run(self.stop.clone()));
            }
        }
    }

    fn identity(&self, name: &str) -> Identity {
        let file = |kind: &str| self.world.dir.join(format!("{name}.{kind}"));
        Identity { ca: self.world.dir.join("ca.pem"), certificate: file("pem"), key: file("key") }
    }

    fn config(&self, name: &str, port: u16) -> LinkConfig {
        let is_hub = name == HUB_NAME;
        LinkConfig {
            address: format!("127.0.0.1:{port}"),
            client_id: name.to_owned(),
            tls: Some(tls::client_config(&self.identity(name)).unwrap()),
            subscriptions: if is_hub { vec!["camnet/1/+/event".into()] } else { Vec::new() },
            will: None,
            inflight_max: 100,
            session_keep: is_hub.then_some(Duration::from_secs(3600)),
            login: None,
        }
    }

    fn link(&self, config: LinkConfig) -> Link {
        let (sender, events, _task) = mqtt::start(config, self.stop.clone());
        Link { sender, events }
    }

    /// The hub's link, subscribed.
    async fn hub(&self, port: u16) -> Link {
        let mut link = self.link(self.config(HUB_NAME, port));
        link.up().await;
        link
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Link {
    sender: LinkSender,
    events: mpsc::Receiver<LinkEvent>,
}

impl Link {
    async fn next(&mut self) -> LinkEvent {
        tokio::time::timeout(WITHIN, self.events.recv()).await.expect("the link says something").unwrap()
    }

    async fn up(&mut self) -> u64 {
        loop {
            if let LinkEvent::Up { connection } = self.next().await {
                return connection;
            }
        }
    }

    async fn down(&mut self) {
        while !matches!(self.next().await, LinkEvent::Down { .. }) {}
    }

    async fn message(&mut self) -> (String, Ack) {
        loop {
            if let LinkEvent::Message(message) = self.next().await {
                return (String::from_utf8(message.payload.to_vec()).unwrap(), message.ack);
            }
        }
    }

    /// Messages that come within a moment.
    async fn messages_soon(&mut self) -> Vec<(String, Ack)> {
        let mut messages = Vec::new();
        while let Ok(Some(event)) =
            tokio::time::timeout(Duration::from_millis(1500), self.events.recv()).await
        {
            if let LinkEvent::Message(message) = event {
                messages.push((String::from_utf8(message.payload.to_vec()).unwrap(), message.ack));
            }
        }
        messages
    }

    async fn outcome(&mut self) -> (u64, PublishOutcome) {
        loop {
            if let LinkEvent::Published { token, outcome, .. } = self.next().await {
                return (token, outcome);
            }
        }
    }
}

fn message(topic: &str, token: u64) -> OutMessage {
    OutMessage {
        topic: topic.into(),
        payload: token.to_string().into_bytes(),
        content_type: None,
        user_properties: Vec::new(),
        retain: false,
        token,
        correlation: None,
    }
}

/// Sends tokens 1 to `count` as the uplink does: whatever is unanswered when the link goes down is sent again,
/// lowest first. Cuts its own way when so many are still unanswered as `cuts` says. Returns how often the link went
/// down, when every token was taken.
async fn send_all(mut link: Link, count: u64, proxy: Option<Proxy>, mut cuts: Vec<usize>) -> u64 {
    let mut owed: BTreeSet<u64> = (1..=count).collect();
    let mut unsent: BTreeSet<u64> = BTreeSet::new();
    let mut downs = 0;
    while !owed.is_empty() {
        while let Some(token) = unsent.first().copied() {
            if link.sender.try_publish(message(EVENTS, token)).is_err() {
                break;
            }
            unsent.remove(&token);
        }
        if let Some(proxy) = &proxy
            && cuts.last().is_some_and(|&at| owed.len() <= at)
        {
            proxy.set(Mode::Cut);
            cuts.pop();
        }
        match tokio::time::timeout(Duration::from_millis(20), link.events.recv()).await {
            Ok(Some(LinkEvent::Up { .. })) => unsent = owed.clone(),
            Ok(Some(LinkEvent::Down { .. })) => {
                downs += 1;
                unsent.clear();
                if let Some(proxy) = &proxy {
                    proxy.set(Mode::Pass);
                }
            }
            Ok(Some(LinkEvent::Published { token, outcome: PublishOutcome::Taken, .. })) => {
                owed.remove(&token);
            }
            Ok(Some(_)) | Err(_) => {}
            Ok(None) => panic!("the link ended"),
        }
    }
    downs
}

/// Receives and acknowledges until all of 1 to `count` were there; in the order of their coming.
async fn receive_all(hub: &mut Link, count: u64) -> Vec<u64> {
    let (mut order, mut seen) = (Vec::new(), BTreeSet::new());
    while seen.len() < count as usize {
        let (text, ack) = hub.message().await;
        hub.sender.ack(vec![ack]).unwrap();
        let token = text.parse().unwrap();
        seen.insert(token);
        order.push(token);
    }
    order
}

/// Traps 1 and 3. A clean session drops what the client had queued, and a resumed one replays slowly and out of
/// order: here nothing is left to the client, so all arrives, in one ascending run for each connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_link_drops_its_queue_and_nothing_is_lost_or_replayed() {
    const COUNT: u64 = 3000;
    for kind in BOTH {
        let bench = Bench::start(kind).await;
        let mut hub = bench.hub(bench.world.mqtt).await;
        let proxy = Proxy::start(bench.world.mqtt).await;
        let link = bench.link(bench.config("box-01", proxy.port));
        let sending = tokio::spawn(send_all(link, COUNT, Some(proxy), vec![700, 1500, 2500]));
        let began = Instant::now();
        let order = receive_all(&mut hub, COUNT).await;
        let downs = tokio::time::timeout(WITHIN, sending).await.unwrap().unwrap();
        assert!(downs >= 3, "{kind:?}: the link went down {downs} times");
        let runs = 1 + order.windows(2).filter(|pair| pair[1] < pair[0]).count() as u64;
        if kind == Kind::Mosquitto {
            // The embedded broker may reorder around a reconnect by itself.
            assert!(runs <= downs + 1, "{runs} ascending runs over {downs} reconnects");
        }
        println!(
            "{kind:?}: {} came for {COUNT}, {runs} runs, {downs} downs, {:?}",
            order.len(),
            began.elapsed()
        );
    }
}

/// Trap 2. A broker that leaves one publish unanswered while it answers later ones makes rumqttc reuse a packet id
/// that is still taken, and wait for ever. Here the link gives up after [`RESEND_AFTER`] and starts anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_publish_that_is_never_answered_does_not_wedge_the_link() {
    const COUNT: u64 = 300;
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let _broker = plain_mosquitto(dir.path(), port);
    let withheld = withhold_first_puback(port).await;
    let stop = CancellationToken::new();
    let config = |client: &str, port: u16, subscriptions: &[&str]| LinkConfig {
        address: format!("127.0.0.1:{port}"),
        client_id: client.into(),
        tls: None,
        subscriptions: subscriptions.iter().map(|&filter| filter.to_owned()).collect(),
        will: None,
        inflight_max: 10,
        session_keep: None,
        login: None,
    };
    let (sender, events, _) = mqtt::start(config("hub", port, &["camnet/1/+/event"]), stop.clone());
    let mut hub = Link { sender, events };
    hub.up().await;
    let (sender, events, _) = mqtt::start(config("box", withheld, &[]), stop.clone());
    let began = Instant::now();
    let sending = tokio::spawn(send_all(Link { sender, events }, COUNT, None, Vec::new()));
    receive_all(&mut hub, COUNT).await;
    let downs = tokio::time::timeout(WITHIN, sending).await.unwrap().unwrap();
    assert_eq!(downs, 1, "the link noticed and started anew");
    assert!(began.elapsed() >= RESEND_AFTER, "the answer was withheld");
    stop.cancel();
}

fn plain_mosquitto(dir: &Path, port: u16) -> Process {
    let config = dir.join("plain.conf");
    std::fs::write(&config, format!("listener {port} 127.0.0.1\nallow_anonymous true\nuser root\n")).unwrap();
    let debian = "/usr/sbin/mosquitto";
    let mosquitto = if Path::new(debian).exists() { debian } else { "mosquitto" };
    Process::start(dir, "plain-mosquitto", Command::new(mosquitto).arg("-c").arg(config))
}

/// A proxy to a broker without TLS that swallows the first PUBACK of its first connection.
async fn withhold_first_puback(to: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut is_first = true;
        while let Ok((near, _)) = listener.accept().await {
            let Ok(far) = TcpStream::connect(("127.0.0.1", to)).await else { continue };
            let mut withhold = std::mem::take(&mut is_first);
            let ((mut near_read, mut near_write), (mut far_read, mut far_write)) =
                (near.into_split(), far.into_split());
            tokio::spawn(async move {
                let _ = tokio::io::copy(&mut near_read, &mut far_write).await;
            });
            tokio::spawn(async move {
                while let Ok(packet) = read_packet(&mut far_read).await {
                    let is_puback = packet[0] >> 4 == 4;
                    if is_puback && std::mem::take(&mut withhold) {
                        continue;
                    }
                    if near_write.write_all(&packet).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

/// One MQTT packet: type, remaining length, the rest.
async fn read_packet(from: &mut (impl AsyncReadExt + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut packet = vec![from.read_u8().await?];
    let mut length = 0;
    for shift in [0, 7, 14, 21] {
        let byte = from.read_u8().await?;
        packet.push(byte);
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let at = packet.len();
    packet.resize(at + length, 0);
    from.read_exact(&mut packet[at..]).await?;
    Ok(packet)
}

/// Trap 4. Acknowledgements left over from before a reconnect must not acknowledge what came after it.
#[tokio::test(flavor = "multi_thread")]
async fn acks_of_an_old_connection_acknowledge_nothing() {
    const COUNT: u64 = 50;
    // The embedded broker may lose around a reconnect what receipts then repair; Mosquitto keeps its word here.
    let bench = Bench::start(Kind::Mosquitto).await;
    let proxy = Proxy::start(bench.world.mqtt).await;
    let mut hub = bench.hub(proxy.port).await;
    let link = bench.link(bench.config("box-01", bench.world.mqtt));
    let sending = tokio::spawn(send_all(link, COUNT, None, Vec::new()));
    let mut held = Vec::new();
    while held.len() < COUNT as usize {
        held.push(hub.message().await.1);
    }
    sending.await.unwrap();
    let again = cut(&proxy, &mut hub).await;
    assert_eq!(again.len(), COUNT as usize, "nothing was acknowledged, all of it comes again");
    for stale in held {
        hub.sender.ack(vec![stale]).unwrap();
    }
    let third = cut(&proxy, &mut hub).await;
    assert_eq!(third.len(), COUNT as usize, "the stale acks acknowledged nothing");
    for (_, ack) in third {
        hub.sender.ack(vec![ack]).unwrap();
    }
    let nothing = hub.messages_soon().await;
    assert!(nothing.is_empty());
    assert_eq!(cut(&proxy, &mut hub).await.len(), 0, "the right acks acknowledged all");
}

/// Cuts and heals; what comes on the new connection. The broker may send it before it answers the subscription.
async fn cut(proxy: &Proxy, link: &mut Link) -> Vec<(String, Ack)> {
    proxy.set(Mode::Cut);
    link.down().await;
    proxy.set(Mode::Pass);
    let mut messages = Vec::new();
    loop {
        match link.next().await {
            LinkEvent::Up { .. } => break,
            LinkEvent::Message(message) => {
                messages.push((String::from_utf8(message.payload.to_vec()).unwrap(), message.ack));
            }
            _ => {}
        }
    }
    messages.extend(link.messages_soon().await);
    messages
}

/// Trap 5. The broker comes back without the session: the subscription is made again, whatever CONNACK says. (The
/// embedded broker comes back with its hub: `chaos.rs`.)
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_without_memory_gets_the_subscriptions_again() {
    let mut bench = Bench::start(Kind::Mosquitto).await;
    let mut hub = bench.hub(bench.world.mqtt).await;
    bench.mosquitto.take().unwrap().kill9();
    bench.start_broker().await;
    hub.down().await;
    hub.up().await;
    let mut link = bench.link(bench.config("box-01", bench.world.mqtt));
    link.up().await;
    link.sender.publish(message(EVENTS, 7)).await.unwrap();
    assert_eq!(hub.message().await.0, "7");
    assert_eq!(link.outcome().await, (7, PublishOutcome::Taken));
}

/// Trap 6. rumqttc's own limit of 10 KiB wedges a session on a larger packet, for ever.
#[tokio::test(flavor = "multi_thread")]
async fn packets_far_above_ten_kilobytes_pass_both_ways() {
    for kind in BOTH {
        let bench = Bench::start(kind).await;
        let mut hub = bench.hub(bench.world.mqtt).await;
        let mut config = bench.config("box-01", bench.world.mqtt);
        config.subscriptions = vec!["camnet/1/box-01/command".into()];
        let mut link = bench.link(config);
        link.up().await;
        let large = "x".repeat(500 << 10);
        let large_message = |topic| OutMessage { payload: large.clone().into_bytes(), ..message(topic, 1) };
        link.sender.publish(large_message(EVENTS)).await.unwrap();
        let (text, ack) = hub.message().await;
        assert_eq!(text.len(), large.len(), "{kind:?}");
        hub.sender.ack(vec![ack]).unwrap();
        hub.sender.publish(large_message("camnet/1/box-01/command")).await.unwrap();
        assert_eq!(link.message().await.0.len(), large.len(), "{kind:?}");
    }
}

/// Trap 7. 13.9 MB for each idle v5 event loop, unless its window is bounded.
#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_idle_links_take_little_memory() {
    const LINKS: usize = 200;
    const MB_PER_LINK_MAX: f64 = 2.0;
    let bench = Bench::start(Kind::Mosquitto).await;
    let template = bench.config("box-01", bench.world.mqtt);
    let rss_mb = || usage_of(std::process::id()).unwrap().rss_mb;
    let before = rss_mb();
    let mut links = Vec::new();
    for n in 0..LINKS {
        // Mosquitto knows a client by its certificate; the id may differ.
        let mut link = bench.link(LinkConfig { client_id: format!("idle-{n}"), ..template.clone() });
        link.up().await;
        links.push(link);
    }
    let per_link = (rss_mb() - before) / LINKS as f64;
    println!("{per_link:.3} MB for each of {LINKS} idle links");
    assert!(per_link < MB_PER_LINK_MAX, "{per_link} MB for each idle link");
}

/// Trap 8. `publish` returns nothing to match its PubAck with: every answer comes back with the right token, and
/// with the broker's reason: taken, not authorised (0x87), nobody subscribed (0x10).
#[tokio::test(flavor = "multi_thread")]
async fn every_answer_finds_its_publish_and_says_why() {
    const COUNT: u64 = 300;
    for kind in BOTH {
        let bench = Bench::start(kind).await;
        let mut link = bench.link(bench.config("box-01", bench.world.mqtt));
        link.up().await;
        link.sender.publish(message(EVENTS, 1)).await.unwrap();
        // The embedded broker does not know 0x10: what nobody heard is sent again when no receipt comes.
        let unheard = match kind {
            Kind::Mosquitto => PublishOutcome::NoSubscriber,
            Kind::Embedded => PublishOutcome::Taken,
        };
        assert_eq!(link.outcome().await, (1, unheard), "{kind:?}");
        let mut hub = bench.hub(bench.world.mqtt).await;
        let is_foreign = |token: u64| token.is_multiple_of(3);
        let sender = link.sender.clone();
        tokio::spawn(async move {
            for token in 1..=COUNT {
                let topic = if is_foreign(token) { "camnet/1/box-02/event" } else { EVENTS };
                sender.publish(message(topic, token)).await.unwrap();
            }
        });
        let mut outcomes = BTreeMap::new();
        while outcomes.len() < COUNT as usize {
            let (token, outcome) = link.outcome().await;
            assert_eq!(outcomes.insert(token, outcome), None, "{kind:?}: {token} answered twice");
        }
        for (token, outcome) in outcomes {
            let expected = match is_foreign(token) {
                true => PublishOutcome::Refused("NotAuthorized".into()),
                false => PublishOutcome::Taken,
            };
            assert_eq!(outcome, expected, "{kind:?}: {token}");
        }
        let heard: BTreeSet<u64> =
            hub.messages_soon().await.into_iter().map(|(text, _)| text.parse().unwrap()).collect();
        assert!(heard.iter().all(|token| !is_foreign(*token)), "{kind:?}");
    }
}

/// Not rumqttc's but Mosquitto 2.0.11's: it sends more than one message for each ack, whatever the receive maximum says.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_slower_than_the_broker_keeps_its_connection() {
    const COUNT: usize = 6000;
    for kind in BOTH {
        let bench = Bench::start(kind).await;
        let mut hub = bench.hub(bench.world.mqtt).await;
        let publisher = bench.link(bench.config("box-01", bench.world.mqtt));
        let sending = tokio::spawn(send_all(publisher, COUNT as u64, None, Vec::new()));
        let (mut seen, mut group) = (BTreeSet::new(), Vec::new());
        while seen.len() < COUNT {
            match hub.next().await {
                LinkEvent::Message(message) => {
                    seen.insert(message.payload);
                    group.push(message.ack);
                }
                LinkEvent::Down { reason, .. } => panic!("{kind:?}: {reason}"),
                _ => {}
            }
            // As ingest does: a group is committed, which takes its time, and then acknowledged.
            if group.len() == 50 || seen.len() == COUNT {
                tokio::time::sleep(Duration::from_millis(20)).await;
                for ack in group.drain(..) {
                    hub.sender.ack(vec![ack]).unwrap();
                }
            }
        }
        sending.await.unwrap();
    }
}

/// What a receiver has taken and not dropped is bounded in bytes, whatever the broker sends.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_keeps_large_messages_is_sent_no_more_until_it_drops_them() {
    const COUNT: usize = 100;
    for kind in BOTH {
        let bench = Bench::start(kind).await;
        let mut hub = bench.hub(bench.world.mqtt).await;
        let mut publisher = bench.link(bench.config("box-01", bench.world.mqtt));
        publisher.up().await;
        for token in 0..COUNT as u64 {
            let large = OutMessage { payload: vec![b'x'; 1_000_000], ..message(EVENTS, token) };
            publisher.sender.publish(large).await.unwrap();
        }
        let mut kept = Vec::new();
        while let Ok(Some(event)) = tokio::time::timeout(Duration::from_secs(3), hub.events.recv()).await {
            match event {
                LinkEvent::Message(message) => kept.push(message),
                LinkEvent::Down { reason, .. } => panic!("{kind:?}: {reason}"),
                _ => {}
            }
        }
        let bytes: usize = kept.iter().map(|message| message.payload.len()).sum();
        let packet = MQTT_PACKET_BYTES_MAX as usize;
        // One message more than the limit, and what the client had read at once.
        assert!(
            bytes > MQTT_WAITING_BYTES_MAX && bytes < MQTT_WAITING_BYTES_MAX + 12 * packet,
            "{kind:?}: {bytes}"
        );
        let mut count = kept.len();
        hub.sender.ack(kept.into_iter().map(|message| message.ack).collect()).unwrap();
        while count < COUNT {
            match hub.next().await {
                LinkEvent::Message(message) => {
                    count += 1;
                    hub.sender.ack(vec![message.ack]).unwrap();
                }
                LinkEvent::Down { reason, .. } => panic!("{kind:?}: {reason}"),
                _ => {}
            }
        }
    }
}
