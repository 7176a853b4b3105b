//! A relay on loopback between the RTSP client and a camera that confuses the client.
//!
//! Some cameras answer a keep-alive with the number of another request, or not at all; retina 0.4.21 takes that for
//! the end of the session (its issues #133 and #136). From the answer to PLAY on, the relay answers requests itself,
//! still hands them to the camera, and keeps the camera's answers back. Everything else passes as it is: no byte of a
//! picture is touched.
//!
//! Owns one connection for as long as it lives; takes one client. May not know what the streams hold. Datagrams do not
//! pass through it: a camera that has UDP only and confuses keep-alives is reached anew each time.

use std::io::{Error, ErrorKind};
use std::net::Ipv4Addr;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use url::Url;

use crate::limits::{CAMERA_CONNECT_MAX, RTSP_MESSAGE_BYTES_MAX};

/// The port of RTSP where the address names none (RFC 2326, 3.2).
const RTSP_PORT: u16 = 554;

/// A relay that runs; dropping it ends both connections.
#[derive(Debug)]
pub struct Relay(JoinHandle<()>);

impl Relay {
    /// Starts a relay to the camera at `url`, which from then on names the relay.
    pub async fn before(url: &mut Url) -> Result<Self, Error> {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = url.port().unwrap_or(RTSP_PORT);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let own = listener.local_addr()?.port();
        let refused = |()| Error::new(ErrorKind::InvalidInput, "the url takes no other host");
        url.set_ip_host(Ipv4Addr::LOCALHOST.into()).map_err(refused)?;
        url.set_port(Some(own)).map_err(refused)?;
        Ok(Self(tokio::spawn(async move {
            let taken = tokio::time::timeout(CAMERA_CONNECT_MAX, listener.accept()).await;
            let Ok(Ok((client, _))) = taken else { return };
            drop(listener);
            let connected = tokio::time::timeout(CAMERA_CONNECT_MAX, TcpStream::connect((host, port))).await;
            let Ok(Ok(camera)) = connected else { return };
            // How it ended is seen by the client, whose connection ends with it.
            let ended = carry(client, camera).await;
            tracing::debug!(?ended, "relay ended");
        })))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How far the conversation is.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    SettingUp,
    /// The client has asked to play; the next answer is that of PLAY.
    PlayAsked,
    Playing,
}

async fn carry(mut client: TcpStream, mut camera: TcpStream) -> Result<(), Error> {
    let _ = (client.set_nodelay(true), camera.set_nodelay(true));
    let (mut asked, mut sent) = (BytesMut::new(), BytesMut::new());
    let mut stage = Stage::SettingUp;
    loop {
        tokio::select! {
            read = client.read_buf(&mut asked) => end_of(read)?,
            read = camera.read_buf(&mut sent) => end_of(read)?,
        }
        while let Some(length) = message_length(&asked)? {
            let request = asked.split_to(length);
            camera.write_all(&request).await?;
            match stage {
                Stage::Playing => client.write_all(&answer_to(&request)).await?,
                _ if request.starts_with(b"PLAY ") => stage = Stage::PlayAsked,
                _ => {}
            }
        }
        while let Some(length) = message_length(&sent)? {
            let is_data = sent[0] == b'$';
            if is_data || stage != Stage::Playing {
                client.write_all(&sent[..length]).await?;
            }
            if !is_data && stage == Stage::PlayAsked {
                stage = Stage::Playing;
            }
            sent.advance(length);
        }
    }
}

fn end_of(read: Result<usize, Error>) -> Result<(), Error> {
    match read? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// Length of the message that `bytes` begin with: interleaved data (RFC 2326, 10.12), or head and body. None while it
/// is not complete.
fn message_length(bytes: &[u8]) -> Result<Option<usize>, Error> {
    let [first, rest @ ..] = bytes else { return Ok(None) };
    if *first == b'$' {
        let [_, high, low, ..] = rest else { return Ok(None) };
        let length = 4 + usize::from(u16::from_be_bytes([*high, *low]));
        return Ok((bytes.len() >= length).then_some(length));
    }
    let too_large = || Error::new(ErrorKind::InvalidData, "an RTSP message is too large");
    let Some(head) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
        return if bytes.len() > RTSP_MESSAGE_BYTES_MAX { Err(too_large()) } else { Ok(None) };
    };
    let body = header(&bytes[..head], "content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    let length = (head + 4usize).checked_add(body).filter(|l| *l <= RTSP_MESSAGE_BYTES_MAX);
    let length = length.ok_or_else(too_large)?;
    Ok((bytes.len() >= length).then_some(length))
}

/// The value of a header, by its name in lower case.
fn header(head: &[u8], name: &str) -> Option<String> {
    String::from_utf8_lossy(head).lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

/// Only OPTIONS is offered, which every camera knows: so that is what the client keeps the session alive with.
fn answer_to(request: &[u8]) -> Vec<u8> {
    let number = header(request, "cseq").unwrap_or_default();
    format!("RTSP/1.0 200 OK\r\nCSeq: {number}\r\nPublic: OPTIONS\r\n\r\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart_however_they_are_cut() {
        let messages: [&[u8]; 4] = [
            b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: 3\r\n\r\nv=0",
            b"$\x00\x00\x04data",
            b"OPTIONS rtsp://a/b RTSP/1.0\r\ncseq: 7\r\n\r\n",
            b"$\x01\x00\x00",
        ];
        for message in messages {
            for cut in 0..message.len() {
                assert_eq!(message_length(&message[..cut]).unwrap(), None, "{cut} of {message:?}");
            }
            let more = [message, b"$\x00"].concat();
            assert_eq!(message_length(&more).unwrap(), Some(message.len()));
        }
        let answer = answer_to(messages[2]);
        assert!(answer.starts_with(b"RTSP/1.0 200 OK\r\nCSeq: 7\r\n"));
        assert_eq!(message_length(&answer).unwrap(), Some(answer.len()));
    }

    #[test]
    fn a_message_without_end_is_refused() {
        assert!(message_length(&vec![b'x'; RTSP_MESSAGE_BYTES_MAX + 1]).is_err());
        assert!(message_length(b"RTSP/1.0 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n").is_err());
        assert!(message_length(b"RTSP/1.0 200 OK\r\nContent-Length: 999999\r\n\r\n").is_err());
    }
}
