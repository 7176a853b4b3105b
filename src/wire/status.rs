//! A box's word about itself: `camnet/1/<box>/status`, retained; the last will says offline.

use serde::Deserialize;

/// Whether the box says that it is online; None if it says nothing that can be understood.
pub fn read_status(body: &[u8]) -> Option<bool> {
    #[derive(Deserialize)]
    struct Status {
        online: bool,
    }
    serde_json::from_slice::<Status>(body).ok().map(|status| status.online)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_understood_or_nothing_is_assumed() {
        assert_eq!(read_status(br#"{"online":true,"since":"2026-11-20T15:15:00Z"}"#), Some(true));
        assert_eq!(read_status(br#"{"online":false}"#), Some(false));
        for bad in ["", "online", "{}", r#"{"online":1}"#, r#"{"online":true"#, "[true]x"] {
            assert_eq!(read_status(bad.as_bytes()), None, "{bad}");
        }
    }
}
