//! One message to one receiver, once: signed, bounded in time, not sent on to elsewhere.
//!
//! Owns the HTTP client and the secret. May not decide what is sent again.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode, Url, header};
use ring::hmac;

use super::WebhookConfig;
use super::config::is_loopback;
use crate::limits::{
    WEBHOOK_ANSWER_MAX, WEBHOOK_CONNECT_MAX, WEBHOOK_SECRET_BYTES_MAX, WEBHOOK_SECRET_BYTES_MIN,
};
use crate::model::Time;
use crate::tls::{TlsError, check_secret_file};

/// Before a secret in Base64, as Standard Webhooks writes it.
const SECRET_PREFIX: &str = "whsec_";

/// Why a webhook can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ReceiverError {
    #[error("{0}")]
    Address(String),
    #[error(transparent)]
    Secret(#[from] TlsError),
    #[error("{path} can't be read")]
    Read { path: PathBuf, source: std::io::Error },
    #[error(
        "{path} holds no usable secret: {WEBHOOK_SECRET_BYTES_MIN} to {WEBHOOK_SECRET_BYTES_MAX} bytes, or \
         {SECRET_PREFIX} and as many in Base64"
    )]
    Form { path: PathBuf },
    #[error("no HTTP client")]
    Client(#[source] reqwest::Error),
}

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    #[error("the receiver answered {0}")]
    Status(StatusCode),
    #[error("the receiver can't be reached: {0}")]
    Http(String),
}

impl PostError {
    /// The receiver says that this very message is wrong: it will say so again.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Status(
                StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY
            )
        )
    }
}

/// Who is told.
pub struct Receiver {
    client: Client,
    url: Url,
    secret: Option<hmac::Key>,
}

impl Receiver {
    /// Reads the secret. Blocking.
    pub fn open(config: &WebhookConfig) -> Result<Self, ReceiverError> {
        let url = config.address().map_err(ReceiverError::Address)?;
        let secret = config.secret_file.as_deref().map(read_secret).transpose()?;
        let mut client = Client::builder()
            .redirect(Policy::none())
            .connect_timeout(WEBHOOK_CONNECT_MAX)
            .timeout(WEBHOOK_ANSWER_MAX)
            .user_agent(concat!("camnet/", env!("CARGO_PKG_VERSION")));
        if is_loopback(&url) {
            client = client.no_proxy();
        }
        Ok(Self { client: client.build().map_err(ReceiverError::Client)?, url, secret })
    }

    /// Sends a message; it is taken when the receiver answers with 2xx.
    pub async fn post(&self, id: &str, body: &[u8], now: Time) -> Result<(), PostError> {
        let timestamp = now.as_second();
        let mut request = self
            .client
            .post(self.url.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp);
        if let Some(secret) = &self.secret {
            request = request.header("webhook-signature", signature(secret, id, timestamp, body));
        }
        let response =
            request.body(body.to_vec()).send().await.map_err(|error| PostError::Http(why(error)))?;
        if response.status().is_success() { Ok(()) } else { Err(PostError::Status(response.status())) }
    }
}

fn signature(secret: &hmac::Key, id: &str, timestamp: i64, body: &[u8]) -> String {
    let mut signed = hmac::Context::with_key(secret);
    signed.update(format!("{id}.{timestamp}.").as_bytes());
    signed.update(body);
    format!("v1,{}", STANDARD.encode(signed.sign()))
}

fn read_secret(path: &Path) -> Result<hmac::Key, ReceiverError> {
    check_secret_file(path)?;
    let text = std::fs::read_to_string(path)
        .map_err(|source| ReceiverError::Read { path: path.to_owned(), source })?;
    let text = text.trim();
    let form = || ReceiverError::Form { path: path.to_owned() };
    let secret = match text.strip_prefix(SECRET_PREFIX) {
        Some(encoded) => STANDARD.decode(encoded).map_err(|_| form())?,
        None => text.as_bytes().to_vec(),
    };
    let is_good = (WEBHOOK_SECRET_BYTES_MIN..=WEBHOOK_SECRET_BYTES_MAX).contains(&secret.len());
    if is_good { Ok(hmac::Key::new(hmac::HMAC_SHA256, &secret)) } else { Err(form()) }
}

/// The causes of an error without the address, which may be a secret.
fn why(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_the_one_of_the_standards_example() {
        // From the specification of Standard Webhooks and its reference libraries' tests.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        write(&path, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n");
        let secret = read_secret(&path).unwrap();
        let body = br#"{"test": 2432232314}"#;
        assert_eq!(
            signature(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[test]
    fn a_secret_that_is_open_short_or_no_base64_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        for (text, expected) in [("short", "24 to 1024 bytes"), ("whsec_%%", "Base64")] {
            write(&path, text);
            let error = read_secret(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        use std::os::unix::fs::PermissionsExt;
        write(&path, &"s".repeat(32));
        read_secret(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(read_secret(&path).unwrap_err().to_string().contains("chmod 600"));
    }

    fn write(path: &Path, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
}
