//! Page tokens: opaque to who asks, exact for us.
//!
//! Owns their form. A token belongs to one question and carries the moment at which it was asked, so that "the last
//! hour" of a page asked for later is that of the first. May not know what is asked.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::SearchError;
use crate::model::Time;

/// What a page token holds: the question it belongs to, when that was asked, and where to go on.
#[derive(Serialize, Deserialize)]
pub struct Token<K> {
    version: u8,
    digest: [u8; 16],
    pub at: Time,
    pub after: K,
}

const TOKEN_VERSION: u8 = 2;
const TOKEN_BYTES_MAX: usize = 400;

impl<K: Serialize + DeserializeOwned> Token<K> {
    pub fn new(digest: [u8; 16], at: Time, after: K) -> Self {
        Self { version: TOKEN_VERSION, digest, at, after }
    }

    pub fn write(&self) -> String {
        URL_SAFE_NO_PAD.encode(postcard::to_stdvec(self).expect("a token has only types that postcard knows"))
    }

    /// The token of `text`, if it belongs to the question with this digest.
    pub fn read(text: &str, digest: [u8; 16]) -> Result<Self, SearchError> {
        let unreadable = SearchError::Page("can't be read; use `next` of an answer as it is");
        if text.len() > TOKEN_BYTES_MAX {
            return Err(unreadable);
        }
        let Ok(bytes) = URL_SAFE_NO_PAD.decode(text) else { return Err(unreadable) };
        match postcard::from_bytes::<Self>(&bytes) {
            Ok(token) if token.version != TOKEN_VERSION => {
                Err(SearchError::Page("is of another version; ask again from the first page"))
            }
            Ok(token) if token.digest != digest => {
                Err(SearchError::Page("belongs to another question; repeat the question as it was"))
            }
            Ok(token) => Ok(token),
            Err(_) => Err(unreadable),
        }
    }
}

/// Tells one question from another.
pub fn digest_of(question: &impl Serialize) -> [u8; 16] {
    let json = serde_json::to_vec(question).expect("a question has only text keys");
    *Sha256::digest(json).first_chunk().expect("32 bytes have a first half")
}
