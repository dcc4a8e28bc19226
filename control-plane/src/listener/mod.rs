//! The port that runners dial: TLS, then tunnel or execution service by ALPN.
