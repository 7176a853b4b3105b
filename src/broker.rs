//! The embedded MQTT broker (rmqtt as a library), for a hub that has no external one.
//!
//! Owns the listener and who may publish and subscribe what. May not keep messages for anybody: what it
//! acknowledged proves nothing, only the hub's receipt does. The only module that names rmqtt.
//!
//! A client is known by its certificate: the common name is its client id, and nobody publishes under
//! another id. The hub's own common name is [`HUB_NAME`]; whose certificate may bear it is asked as for a box.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rmqtt::codec::v5::SubscribeAckReason;
use rmqtt::context::ServerContext;
use rmqtt::hook::{Handler, HookResult, Parameter, ReturnType, Type};
use rmqtt::net::Builder;
use rmqtt::retain::{DefaultRetainStorage, RetainStorage};
use rmqtt::server::MqttServer;
use rmqtt::types::{
    AuthResult, LastWill, PublishAclResult, Retain, SubscribeAclResult, TopicFilter, TopicName,
};
use tokio_util::sync::CancellationToken;

use crate::limits::{
    BROKER_KICK_PAUSE, BROKER_KICK_TRIES, BROKER_QUEUE_MAX, MQTT_INFLIGHT_MAX, MQTT_PACKET_BYTES_MAX,
};
use crate::model::BoxId;
use crate::mqtt::HUB_NAME;
use crate::tls::Identity;
use crate::wire::Topic;

/// Why the broker could not start.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    #[error("the embedded broker can't listen on {address}: {why}")]
    Listen { address: SocketAddr, why: String },
}

/// Answers whether a box, or the hub by its own name, may connect with the certificate of this serial number (hexadecimal
/// digits). It may block for a moment.
pub type Admits = Arc<dyn Fn(&BoxId, &str) -> bool + Send + Sync>;

/// A broker that listens. It serves from [`Broker::run`] on.
pub struct Broker {
    server: MqttServer,
    address: SocketAddr,
    clients: Clients,
}

/// Who is connected, by which certificate. Clones share it.
#[derive(Clone)]
pub struct Clients {
    context: ServerContext,
    serials: Arc<Mutex<HashMap<BoxId, String>>>,
}

impl Clients {
    /// The serial number that the box last connected with.
    pub fn serial(&self, box_id: &BoxId) -> Option<String> {
        self.serials().get(box_id).cloned()
    }

    /// Closes the box's connection and forgets its session; its last will is published.
    pub async fn close(&self, box_id: &BoxId) {
        for _ in 0..BROKER_KICK_TRIES {
            let status = self.context.extends.shared().await.session_status(box_id.as_str()).await;
            let Some(status) = status else { return };
            let entry = self.context.extends.shared().await.entry(status.id);
            // The lock is taken while the client connects: it is tried again, and then finds it.
            if let Ok(mut entry) = entry.try_lock().await {
                match entry.kick(true, true, true).await {
                    Ok(_) => return,
                    Err(error) => tracing::warn!(%box_id, %error, "a connection can't be closed yet"),
                }
            }
            tokio::time::sleep(BROKER_KICK_PAUSE).await;
        }
        tracing::error!(%box_id, "the connection of a revoked box can't be closed");
    }

    fn serials(&self) -> MutexGuard<'_, HashMap<BoxId, String>> {
        self.serials.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Broker {
    /// Binds `address` (port 0 takes any) with TLS and mandatory client certificates. Of those that the CA signed,
    /// `admits` may refuse some.
    pub async fn bind(address: SocketAddr, identity: &Identity, admits: Admits) -> Result<Self, BrokerError> {
        let bad = |error: rmqtt::net::Error| BrokerError::Listen { address, why: format!("{error:#}") };
        let context = ServerContext::new().build().await;
        let register = context.extends.hook_mgr().register();
        let clients = Clients { context: context.clone(), serials: Arc::default() };
        for hook in [Type::ClientAuthenticate, Type::ClientSubscribeCheckAcl, Type::MessagePublishCheckAcl] {
            let guard = Guard { clients: clients.clone(), admits: admits.clone() };
            register.add(hook, Box::new(guard)).await;
        }
        register.start().await;
        *context.extends.retain_mut().await = Box::new(Retained(DefaultRetainStorage::new()));
        let listener = Builder::new()
            .name("camnet")
            .laddr(address)
            .reuseaddr(Some(true))
            .nodelay(true)
            .allow_anonymous(false)
            .max_inflight(NonZeroU16::new(MQTT_INFLIGHT_MAX).expect("the limit is not zero"))
            .max_mqueue_len(BROKER_QUEUE_MAX)
            .max_packet_size(MQTT_PACKET_BYTES_MAX)
            .message_expiry_interval(Duration::from_secs(3600))
            .tls_cross_certificate(true)
            .tls_client_ca_certs(Some(identity.ca.to_string_lossy()))
            .tls_cert(Some(identity.certificate.to_string_lossy()))
            .tls_key(Some(identity.key.to_string_lossy()))
            .collect_cert_info(true)
            .bind()
            .and_then(|listener| listener.tls())
            .map_err(bad)?;
        let address = listener.local_addr().map_err(bad)?;
        let server = MqttServer::new(context).listener_by_id(listener, address.port()).build();
        Ok(Self { server, address, clients })
    }

    /// The address that was bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn clients(&self) -> Clients {
        self.clients.clone()
    }

    /// Serves until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            ended = self.server.run() => {
                tracing::error!(address = %self.address, ?ended, "the embedded broker ended");
            }
        }
    }
}

/// Retained messages in memory: one status per box, and boxes are bounded by their certificates. (rmqtt's own
/// default takes none and refuses clients whose last will is retained.)
struct Retained(DefaultRetainStorage);

#[async_trait::async_trait]
impl RetainStorage for Retained {
    fn enable(&self) -> bool {
        true
    }

    async fn set(
        &self,
        topic: &TopicName,
        retain: Retain,
        expiry: Option<Duration>,
    ) -> rmqtt::net::Result<()> {
        self.0.set_with_timeout(topic, retain, expiry).await
    }

    async fn get(&self, filter: &TopicFilter) -> rmqtt::net::Result<Vec<(TopicName, Retain)>> {
        self.0.get_message(filter).await
    }

    async fn count(&self) -> isize {
        self.0.count().await
    }

    async fn max(&self) -> isize {
        self.0.max().await
    }
}

/// Decides who may connect, publish and subscribe.
struct Guard {
    clients: Clients,
    admits: Admits,
}

impl Guard {
    /// Whether the certificate is good beside what the CA says. Noted before it is asked: a revocation in between finds
    /// the connection.
    async fn is_admitted(&self, name: &str, serial: Option<&str>) -> bool {
        let (Ok(box_id), Some(serial)) = (BoxId::new(name), serial) else { return false };
        if name != HUB_NAME {
            self.clients.serials().insert(box_id.clone(), serial.to_owned());
        }
        let (admits, serial) = (self.admits.clone(), serial.to_owned());
        let asked = tokio::task::spawn_blocking(move || admits(&box_id, &serial)).await;
        asked.unwrap_or(false)
    }
}

#[async_trait::async_trait]
impl Handler for Guard {
    async fn hook(&self, parameter: &Parameter, earlier: Option<HookResult>) -> ReturnType {
        match parameter {
            Parameter::ClientAuthenticate(connect) => {
                let name = connect.cert().and_then(|cert| cert.common_name.as_deref());
                let will = connect.last_will().map(|will| match will {
                    LastWill::V3(will) => will.topic.to_string(),
                    LastWill::V5(will) => will.topic.to_string(),
                });
                let is_known = name == Some(&*connect.id().client_id);
                let serial = connect.cert().and_then(|cert| cert.serial.as_deref());
                let is_known = is_known && self.is_admitted(name.unwrap_or_default(), serial).await;
                let is_allowed = is_known && will.is_none_or(|topic| may_publish(name.unwrap_or(""), &topic));
                if !is_allowed {
                    tracing::warn!(client = %connect.id().client_id, certificate = name, "mqtt client refused");
                }
                let result =
                    if is_allowed { AuthResult::Allow(false, None) } else { AuthResult::NotAuthorized };
                (false, Some(HookResult::AuthResult(result)))
            }
            Parameter::MessagePublishCheckAcl(session, publish) => {
                let client = &session.id.client_id;
                let result = if may_publish(client, &publish.topic) {
                    PublishAclResult::allow()
                } else {
                    tracing::warn!(%client, topic = %publish.topic, "mqtt publish refused");
                    PublishAclResult::rejected(false, None)
                };
                (false, Some(HookResult::PublishAclResult(result)))
            }
            Parameter::ClientSubscribeCheckAcl(session, subscribe) => {
                let client = &session.id.client_id;
                let result = if may_subscribe(client, &subscribe.topic_filter) {
                    SubscribeAclResult::new_success(subscribe.opts.qos(), None)
                } else {
                    tracing::warn!(%client, filter = %subscribe.topic_filter, "mqtt subscription refused");
                    SubscribeAclResult::new_failure(SubscribeAckReason::NotAuthorized)
                };
                (false, Some(HookResult::SubscribeAclResult(result)))
            }
            _ => (true, earlier),
        }
    }
}

/// A box may publish its own events, status and results; the hub receipts and commands.
fn may_publish(client: &str, topic: &str) -> bool {
    let Ok(topic) = topic.parse::<Topic>() else { return false };
    if client == HUB_NAME {
        !topic.kind.is_from_box()
    } else {
        topic.kind.is_from_box() && topic.box_id.as_str() == client
    }
}

/// A box may hear its own receipts and commands; the hub everything.
fn may_subscribe(client: &str, filter: &str) -> bool {
    if client == HUB_NAME {
        return filter.starts_with("camnet/");
    }
    let Ok(topic) = filter.parse::<Topic>() else { return false };
    !topic.kind.is_from_box() && topic.box_id.as_str() == client
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_hubs_name_is_asked_for_like_a_boxs() {
        let context = ServerContext::new().build().await;
        let clients = Clients { context, serials: Arc::default() };
        let admits: Admits = Arc::new(|box_id, serial| (box_id.as_str() == HUB_NAME) == (serial == "aa"));
        let guard = Guard { clients, admits };
        for (name, serial, is_admitted) in [
            (HUB_NAME, Some("aa"), true),
            (HUB_NAME, Some("bb"), false),
            (HUB_NAME, None, false),
            ("box-01", Some("bb"), true),
            ("box-01", Some("aa"), false),
        ] {
            assert_eq!(guard.is_admitted(name, serial).await, is_admitted, "{name} {serial:?}");
        }
    }

    #[test]
    fn a_box_speaks_and_hears_only_under_its_own_id() {
        for (client, topic, publish, subscribe) in [
            ("box-01", "camnet/1/box-01/event", true, false),
            ("box-01", "camnet/1/box-01/status", true, false),
            ("box-01", "camnet/1/box-01/receipt", false, true),
            ("box-01", "camnet/1/box-01/command", false, true),
            ("box-01", "camnet/1/box-02/event", false, false),
            ("box-01", "camnet/1/box-02/receipt", false, false),
            ("box-01", "camnet/1/+/receipt", false, false),
            ("box-01", "#", false, false),
            ("box-01", "other", false, false),
            (HUB_NAME, "camnet/1/box-01/receipt", true, true),
            (HUB_NAME, "camnet/1/box-01/event", false, true),
            (HUB_NAME, "camnet/1/+/event", false, true),
            (HUB_NAME, "$SYS/#", false, false),
        ] {
            assert_eq!(may_publish(client, topic), publish, "{client} publishes {topic}");
            assert_eq!(may_subscribe(client, topic), subscribe, "{client} subscribes {topic}");
        }
    }
}
