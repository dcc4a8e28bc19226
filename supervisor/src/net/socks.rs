//! SOCKS 5: RFC 1928, and RFC 1929 for user and password. The proxy looks the name up.

use super::http_connect::Login;
use std::io;
use std::net::IpAddr;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Why the stream leads nowhere.
#[derive(Debug)]
pub(super) enum Refused {
    /// The proxy says no, in these words.
    Word(String),
    /// It does not answer as a proxy does.
    Failed(String),
}

// === impl Refused ===

impl Refused {
    fn word(what: &str) -> Self {
        Self::Word(what.to_owned())
    }
    fn no_proxy() -> Self {
        Self::Failed("it does not answer as a SOCKS 5 proxy does".to_owned())
    }
}

impl From<io::Error> for Refused {
    fn from(e: io::Error) -> Self {
        Self::Failed(match e.kind() {
            io::ErrorKind::UnexpectedEof => "it closed the connection before it had answered".to_owned(),
            _ => e.to_string(),
        })
    }
}

/// Asks the proxy for a connection.
///
/// # Errors
/// What it refuses, or what is wrong with its answer.
pub(super) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    host: &str,
    port: u16,
    login: Option<&Login>,
) -> Result<(), Refused> {
    let method: u8 = if login.is_some() { 2 } else { 0 };
    stream.write_all(&[5, 1, method]).await?;
    let mut chosen = [0; 2];
    stream.read_exact(&mut chosen).await?;
    if chosen[0] != 5 {
        return Err(Refused::no_proxy());
    }
    if chosen[1] != method {
        return Err(Refused::word("it does not take this way of logging in"));
    }
    if let Some(login) = login {
        let too_long = |_| Refused::word("user or password is longer than its protocol allows");
        let (user, password) = (login.user(), login.password().expose());
        let lengths = (u8::try_from(user.len()).map_err(too_long)?, u8::try_from(password.len()).map_err(too_long)?);
        // in pieces: no copy of the password
        stream.write_all(&[1, lengths.0]).await?;
        stream.write_all(user.as_bytes()).await?;
        stream.write_all(&[lengths.1]).await?;
        stream.write_all(password.as_bytes()).await?;
        let mut verdict = [0; 2];
        stream.read_exact(&mut verdict).await?;
        if verdict[1] != 0 {
            return Err(Refused::word("it refused user and password"));
        }
    }
    let mut message = vec![5, 1, 0];
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => {
            message.push(1);
            message.extend_from_slice(&ip.octets());
        }
        Ok(IpAddr::V6(ip)) => {
            message.push(4);
            message.extend_from_slice(&ip.octets());
        }
        Err(_) => {
            let length =
                u8::try_from(host.len()).map_err(|_| Refused::word("the name is longer than it can be asked"))?;
            message.extend_from_slice(&[3, length]);
            message.extend_from_slice(host.as_bytes());
        }
    }
    message.extend_from_slice(&port.to_be_bytes());
    stream.write_all(&message).await?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    let bound = match answer {
        [5, 0, _, 1] => 4,
        [5, 0, _, 4] => 16,
        [5, 0, _, 3] => usize::from(stream.read_u8().await?),
        [5, reply, ..] if reply != 0 => {
            return Err(Refused::Word(format!("it refused the connection (SOCKS reply {reply})")));
        }
        _ => return Err(Refused::no_proxy()),
    };
    stream.read_exact(&mut vec![0; bound + 2]).await?;
    Ok(())
}
