//! What a job asks of an HTTP proxy: the head of its request, read strictly and written anew. What is passed on has one reading only, so that
//! the proxy asks for no other host than the one that was judged.

/// The longest head that is read, bytes: of a request, and of a proxy's answer.
pub(super) const HEAD_MAX: usize = 8 * 1024;
/// The end of a head.
const END: &[u8] = b"\r\n\r\n";
/// Of a request that is no CONNECT: they are about the connection to this process, or would change what follows.
const DROPPED: [&str; 6] = ["host", "connection", "proxy-connection", "keep-alive", "upgrade", "te"];

/// A request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// The name or address, in lower case, without brackets and without a final dot.
    pub(super) host: String,
    pub(super) port: u16,
    /// The head as it is passed on.
    pub(super) head: Vec<u8>,
    /// The bytes that follow and belong to it; `None`: it asks for a tunnel, and all that follows a success is in it.
    pub(super) body: Option<u64>,
    /// Bytes of the head as it came.
    pub(super) length: usize,
}

/// Why there is no request to pass on: a status, and why.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) u16, pub(super) &'static str);

/// What a proxy answered to a CONNECT.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// More comes before the answer itself.
    Interim,
    /// The tunnel is there.
    Success,
    /// It is not.
    Failure,
}

/// The request that these bytes begin with; `None`: its head is not whole yet.
///
/// # Errors
/// It is none that is passed on.
pub(super) fn request(bytes: &[u8]) -> Result<Option<Request>, Malformed> {
    let Some(end) = position(bytes, END).filter(|end| end + END.len() <= HEAD_MAX) else {
        return if bytes.len() < HEAD_MAX { Ok(None) } else { Err(Malformed(431, "its head is too long")) };
    };
    let bad = |why| Malformed(400, why);
    // a line's end in one reading only, and no character that some leave out
    let text = std::str::from_utf8(&bytes[..end]).ok().filter(|text| text.is_ascii());
    let text = text.ok_or(bad("its head is no text"))?;
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let plain = |line: &str| !line.bytes().any(|b| b.is_ascii_control() && b != b'\t');
    let mut words = first.split(' ');
    let (Some(method), Some(target), Some("HTTP/1.1" | "HTTP/1.0"), None, true) =
        (words.next(), words.next(), words.next(), words.next(), plain(first))
    else {
        return Err(bad("its first line is none of HTTP/1.1"));
    };
    if method.is_empty() || !method.bytes().all(is_token) {
        return Err(bad("its method is none"));
    }
    let mut headers = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').filter(|_| plain(line)).ok_or(bad("a header is none"))?;
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(bad("a header's name is none"));
        }
        headers.push((name, value.trim_matches([' ', '\t'])));
    }
    let given = |name: &str| headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| *v).collect();
    let lengths: Vec<&str> = given("content-length");
    let encodings: Vec<&str> = given("transfer-encoding");
    if !encodings.is_empty() {
        return Err(Malformed(411, "its content has no length"));
    }
    let connect = method == "CONNECT";
    let (authority, path, port) = if connect {
        (target, "", None)
    } else {
        let rest = target.get(..7).filter(|s| s.eq_ignore_ascii_case("http://")).map(|_| &target[7..]);
        let rest = rest.ok_or(bad("what it asks for is no http:// URL"))?;
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        (authority, path, Some(80))
    };
    let (host, port) = host_and_port(authority, port).ok_or(bad("its host is none"))?;
    let body = match (connect, lengths.as_slice()) {
        (true, []) => None,
        (true, _) => return Err(bad("a CONNECT has no content")),
        (false, []) => Some(0),
        (false, [one]) if one.bytes().all(|b| b.is_ascii_digit()) => {
            Some(one.parse().map_err(|_| bad("its content's length is none"))?)
        }
        (false, _) => return Err(bad("its content's length is none")),
    };
    let shown = shared_proto::address::host_port(&host, port);
    let target = if connect { shown.clone() } else { format!("http://{shown}{path}") };
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {shown}\r\n");
    for (name, value) in headers {
        let dropped = |d: &&str| name.eq_ignore_ascii_case(d) && (!connect || **d == *"host");
        if !DROPPED.iter().any(dropped) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    if !connect {
        // each request over a connection of its own: what follows this one is none
        head.push_str("Connection: close\r\n");
    }
    head.push_str("\r\n");
    Ok(Some(Request { host, port, head: head.into_bytes(), body, length: end + END.len() }))
}

/// The answer that these bytes begin with, with the length of its head and that of its first line; `None`: it is not whole yet.
///
/// # Errors
/// It is none.
pub(super) fn answer(bytes: &[u8]) -> Result<Option<(Answer, usize, usize)>, Malformed> {
    let bad = Malformed(502, "the proxy did not answer as a proxy does");
    // whose lines end in another way is a proxy still: it is the runner's own
    let ends = [END, b"\n\n"].into_iter().filter_map(|end| Some(position(bytes, end)? + end.len()));
    let Some(end) = ends.min() else { return if bytes.len() < HEAD_MAX { Ok(None) } else { Err(bad) } };
    let line = position(bytes, b"\n").map_or(end, |at| at + 1);
    let status = bytes.get(..12).filter(|b| b.starts_with(b"HTTP/1.") && b[8] == b' ').map(|b| &b[9..12]);
    let answer = match status {
        Some([b'1', rest @ ..]) if rest.iter().all(u8::is_ascii_digit) => Answer::Interim,
        Some([b'2', rest @ ..]) if rest.iter().all(u8::is_ascii_digit) => Answer::Success,
        Some(digits) if digits.iter().all(u8::is_ascii_digit) => Answer::Failure,
        _ => return Err(bad),
    };
    Ok(Some((answer, end, line)))
}

/// Host and port: a name of letters, digits, dashes, dots and underscores, or an address, an IPv6 one in brackets.
fn host_and_port(authority: &str, default: Option<u16>) -> Option<(String, u16)> {
    let number = |port: &str| {
        port.bytes().all(|b| b.is_ascii_digit()).then(|| port.parse::<u16>().ok()).flatten().filter(|p| *p > 0)
    };
    let (host, rest) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, rest) = rest.split_once(']')?;
            (address.parse::<std::net::Ipv6Addr>().ok()?.to_string(), rest)
        }
        None => {
            let (host, rest) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
            let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
            let host = host.strip_suffix('.').unwrap_or(host);
            if host.is_empty() || host.len() > 253 || !host.bytes().all(fits) || host.split('.').any(str::is_empty) {
                return None;
            }
            (host.to_ascii_lowercase(), rest)
        }
    };
    let port = match rest.strip_prefix(':') {
        Some(port) => number(port)?,
        None if rest.is_empty() => default?,
        None => return None,
    };
    Some((host, port))
}

fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

fn position(bytes: &[u8], of: &[u8]) -> Option<usize> {
    bytes.windows(of.len()).position(|window| window == of)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Request {
        request(text.as_bytes()).expect(text).expect("whole")
    }
    fn refused(text: &str) -> u16 {
        request(text.as_bytes()).expect_err(text).0
    }

    #[test]
    fn a_request_is_passed_on_in_one_reading() {
        let text = "CONNECT Registry.Example.:443 HTTP/1.1\r\nHost: evil.example\r\nProxy-Authorization: Basic eA==\r\nConnection: keep-alive\r\n\r\nearly";
        let r = read(text);
        assert_eq!((r.host.as_str(), r.port, r.body), ("registry.example", 443, None));
        assert_eq!(
            String::from_utf8(r.head).expect("text"),
            "CONNECT registry.example:443 HTTP/1.1\r\nHost: registry.example:443\r\nProxy-Authorization: Basic eA==\r\nConnection: keep-alive\r\n\r\n"
        );
        assert_eq!(&text[r.length..], "early");
        let r = read(
            "POST HTTP://a.example/x?y=http://b.example/ HTTP/1.0\r\nHost: b.example\r\nContent-Length: 3\r\nConnection: keep-alive\r\nUpgrade: websocket\r\nX-One:  two\t\r\n\r\nabc",
        );
        assert_eq!((r.host.as_str(), r.port, r.body), ("a.example", 80, Some(3)));
        assert_eq!(
            String::from_utf8(r.head).expect("text"),
            "POST http://a.example:80/x?y=http://b.example/ HTTP/1.1\r\nHost: a.example:80\r\nContent-Length: 3\r\nX-One: two\r\nConnection: close\r\n\r\n"
        );
        let r = read("CONNECT [FD00::1]:6443 HTTP/1.1\r\n\r\n");
        assert_eq!((r.host.as_str(), r.port), ("fd00::1", 6443));
        assert!(r.head.starts_with(b"CONNECT [fd00::1]:6443 HTTP/1.1\r\nHost: [fd00::1]:6443\r\n"));
        let whole = "CONNECT a.example:443 HTTP/1.1\r\nA: b\r\n\r\n";
        for cut in 0..whole.len() {
            assert_eq!(request(&whole.as_bytes()[..cut]), Ok(None), "{cut}");
        }
    }

    #[test]
    fn what_could_be_read_in_another_way_is_refused() {
        for bad in [
            "CONNECT a.example:443 HTTP/1.1\nHost: x\r\n\r\n",
            "CONNECT a.example:443 HTTP/1.1\r\nHost: x\n\nCONNECT b.example:443 HTTP/1.1\r\n\r\n",
            "CONNECT a.example:443 HTTP/1.1\r\nHost: x\r\r\n\r\n",
            "CONNECT a.example:443 HTTP/1.1\r\n folded: x\r\n\r\n",
            "CONNECT a.example:443 HTTP/1.1\r\nName : x\r\n\r\n",
            "CONNECT a.example:443 HTTP/1.1\r\nnothing\r\n\r\n",
            "CONNECT a.example:443 HTTP/1.1\r\nX: \0\r\n\r\n",
            "CONNECT a.example:443 HTTP/1.1\r\nX: \u{e4}\r\n\r\n",
            "CONNECT a.example:443 HTTP/1.1\r\nContent-Length: 5\r\n\r\n",
            "CONNECT  a.example:443 HTTP/1.1\r\n\r\n",
            "CONNECT a.example:443 b.example:443 HTTP/1.1\r\n\r\n",
            "CONNECT\ta.example:443 HTTP/1.1\r\n\r\n",
            "CONNECT a.example:443 HTTP/2\r\n\r\n",
            "CONNECT a.example:443\r\n\r\n",
            "connect a.example:443 HTTP/1.1\r\n\r\n",
            "CONNECT a.example HTTP/1.1\r\n\r\n",
            "CONNECT a.example: HTTP/1.1\r\n\r\n",
            "CONNECT a.example:0 HTTP/1.1\r\n\r\n",
            "CONNECT a.example:+443 HTTP/1.1\r\n\r\n",
            "CONNECT a.example:65536 HTTP/1.1\r\n\r\n",
            "CONNECT a.example:443:443 HTTP/1.1\r\n\r\n",
            "CONNECT u@a.example:443 HTTP/1.1\r\n\r\n",
            "CONNECT a%2eexample:443 HTTP/1.1\r\n\r\n",
            "CONNECT a..example:443 HTTP/1.1\r\n\r\n",
            "CONNECT .:443 HTTP/1.1\r\n\r\n",
            "CONNECT :443 HTTP/1.1\r\n\r\n",
            "CONNECT [fe80::1%25eth0]:443 HTTP/1.1\r\n\r\n",
            "CONNECT [127.0.0.1]:443 HTTP/1.1\r\n\r\n",
            "CONNECT [::1]443 HTTP/1.1\r\n\r\n",
            "CONNECT ::1:443 HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "GET https://a.example/ HTTP/1.1\r\n\r\n",
            "GET http:///x HTTP/1.1\r\n\r\n",
            "GET http://a.example@b.example/ HTTP/1.1\r\n\r\n",
            "GET http://a.example\\@b.example/ HTTP/1.1\r\n\r\n",
            "POST http://a.example/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "POST http://a.example/ HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
            "\r\n\r\n",
        ] {
            assert_eq!(refused(bad), 400, "{bad:?}");
        }
        assert_eq!(refused("POST http://a.example/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), 411);
    }

    #[test]
    fn a_head_is_bounded() {
        let head = |length: usize| {
            let frame = "CONNECT a.example:443 HTTP/1.1\r\nX: \r\n\r\n".len();
            format!("CONNECT a.example:443 HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(length - frame))
        };
        assert!(request(head(HEAD_MAX).as_bytes()).expect("fits").is_some());
        assert_eq!(refused(&head(HEAD_MAX + 1)), 431);
        assert_eq!(request(&[b'x'; HEAD_MAX - 1]), Ok(None));
        assert_eq!(request(&[b'x'; HEAD_MAX]), Err(Malformed(431, "its head is too long")));
        let name = |length: usize| format!("CONNECT {}:443 HTTP/1.1\r\n\r\n", "a".repeat(length));
        assert_eq!(read(&name(253)).host.len(), 253);
        assert_eq!(refused(&name(254)), 400);
    }

    #[test]
    fn answers_of_proxies() {
        for (text, expected) in [
            ("HTTP/1.1 200 Connection established\r\n\r\n", Answer::Success),
            ("HTTP/1.0 299\r\nA: b\r\n\r\n", Answer::Success),
            ("HTTP/1.1 200 OK\n\n", Answer::Success),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", Answer::Interim),
            ("HTTP/1.1 407 Login\r\nContent-Length: 1\r\n\r\nx", Answer::Failure),
        ] {
            let (answer, end, line) = answer(text.as_bytes()).expect(text).expect("whole");
            assert_eq!(answer, expected, "{text}");
            assert!(text[..end].ends_with("\n") && text[..line].ends_with("\n") && line <= end, "{text}");
        }
        assert_eq!(answer(b"HTTP/1.1 200 OK\r\n"), Ok(None));
        for bad in [&b"SSH-2.0-x\r\n\r\n"[..], b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1\r\n\r\n", &[b'x'; HEAD_MAX]] {
            assert!(answer(bad).is_err(), "{bad:?}");
        }
        assert_eq!(answer(&[b'x'; HEAD_MAX - 1]), Ok(None));
    }
}
