//! The name server of a job's own network namespace: passes questions on to this machine's name servers, and answers back. Where only some
//! hosts may be reached it passes on no question for others, and remembers what the answers for these name.
//!
//! It trusts neither end: a question is anything a job sends, an answer anything a name server sends. What it cannot read it drops.

use super::policy::Policy;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// Questions on their way at once; beyond it the oldest is given up.
pub(super) const PENDING_MAX: usize = 128;
/// How long one name server has before the next is asked.
const NEXT_AFTER: Duration = Duration::from_millis(1500);
/// The longest message, bytes: what one UDP datagram holds with room for every extension that resolvers ask for.
const MESSAGE_MAX: usize = 8192;
/// The longest name, bytes, as RFC 1035 has it.
const NAME_MAX: usize = 255;
/// Pointers that one name may consist of.
const POINTERS_MAX: usize = 16;
const HEADER: usize = 12;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const REFUSED: u8 = 5;
/// Questions taken, and answers given back, for one look: others have their turn.
const AT_ONCE: usize = 32;

/// The name server.
#[derive(Debug)]
pub(super) struct Names {
    stub: UdpSocket,
    servers: Vec<SocketAddr>,
    pending: VecDeque<Pending>,
}

#[derive(Debug)]
struct Pending {
    socket: UdpSocket,
    asker: SocketAddr,
    question: Vec<u8>,
    server: usize,
    due: Instant,
}

// === impl Names ===

impl Names {
    /// Serves on that socket.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn new(stub: UdpSocket, servers: Vec<SocketAddr>) -> io::Result<Self> {
        stub.set_nonblocking(true)?;
        Ok(Self { stub, servers, pending: VecDeque::new() })
    }

    /// What is to be waited for.
    pub(super) fn sockets(&self) -> impl Iterator<Item = &UdpSocket> {
        std::iter::once(&self.stub).chain(self.pending.iter().map(|p| &p.socket))
    }

    /// When something is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.pending.iter().map(|p| p.due).min()
    }

    /// Does what can be done without waiting.
    pub(super) fn serve(&mut self, policy: &mut Policy) {
        let mut buffer = [0; MESSAGE_MAX];
        for _ in 0..AT_ONCE {
            let Ok((length, asker)) = self.stub.recv_from(&mut buffer) else { break };
            self.ask(&buffer[..length], asker, policy);
        }
        let now = Instant::now();
        let mut kept = VecDeque::with_capacity(self.pending.len());
        for mut pending in std::mem::take(&mut self.pending) {
            match pending.socket.recv(&mut buffer) {
                Ok(length) => {
                    let answer = &buffer[..length];
                    // the same question by its number; a stranger could not have sent it, the socket is connected
                    if length >= HEADER && answer[..2] == pending.question[..2] {
                        if policy.learns() {
                            addresses(answer, |address| policy.learn(address));
                        }
                        let _ = self.stub.send_to(answer, pending.asker);
                        continue;
                    }
                    kept.push_back(pending);
                }
                // nothing yet, or nobody is there: the next one at its time
                Err(_) if pending.due <= now => {
                    let next = pending.server + 1;
                    if let Some(server) = self.servers.get(next)
                        && let Ok(socket) = send(*server, &pending.question)
                    {
                        pending = Pending { socket, server: next, due: now + NEXT_AFTER, ..pending };
                        kept.push_back(pending);
                    }
                }
                Err(_) => kept.push_back(pending),
            }
        }
        self.pending = kept;
    }

    fn ask(&mut self, question: &[u8], asker: SocketAddr, policy: &Policy) {
        let Some(name) = asked(question) else { return };
        if !policy.allows_name(&name) {
            let _ = self.stub.send_to(&refusal(question), asker);
            return;
        }
        let Some(server) = self.servers.first() else {
            let _ = self.stub.send_to(&refusal(question), asker);
            return;
        };
        if let Ok(socket) = send(*server, question) {
            if self.pending.len() >= PENDING_MAX {
                self.pending.pop_front();
            }
            let due = Instant::now() + NEXT_AFTER;
            self.pending.push_back(Pending { socket, asker, question: question.to_vec(), server: 0, due });
        }
    }
}

fn send(server: SocketAddr, question: &[u8]) -> io::Result<UdpSocket> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(server)?;
    socket.send(question)?;
    Ok(socket)
}

/// The name of the one question; `None`: it is no question, or asks for more than one thing.
fn asked(message: &[u8]) -> Option<String> {
    let header = message.get(..HEADER)?;
    let (is_answer, questions) = (header[2] & 0x80 != 0, u16::from_be_bytes([header[4], header[5]]));
    if is_answer || questions != 1 {
        return None;
    }
    let (name, end) = name_at(message, HEADER)?;
    // its type and class are there too
    message.get(end..end + 4)?;
    Some(name)
}

/// The name that starts there, without its final dot, and where it ends.
fn name_at(message: &[u8], start: usize) -> Option<(String, usize)> {
    let (mut at, mut end, mut pointers, mut name) = (start, None, 0, Vec::new());
    loop {
        let length = usize::from(*message.get(at)?);
        match length {
            0 => break,
            1..=63 => {
                if !name.is_empty() {
                    name.push(b'.');
                }
                name.extend(message.get(at + 1..at + 1 + length)?);
                if name.len() > NAME_MAX {
                    return None;
                }
                at += 1 + length;
            }
            0xc0.. => {
                pointers += 1;
                if pointers > POINTERS_MAX {
                    return None;
                }
                end.get_or_insert(at + 2);
                at = (length & 0x3f) << 8 | usize::from(*message.get(at + 1)?);
            }
            _ => return None,
        }
    }
    // what is no text is nobody's host
    Some((String::from_utf8(name).ok()?, end.unwrap_or(at + 1)))
}

/// Every address that an answer names, as far as it can be read.
fn addresses(message: &[u8], mut found: impl FnMut(IpAddr)) -> Option<()> {
    let header = message.get(..HEADER)?;
    let (questions, answers) = (u16::from_be_bytes([header[4], header[5]]), u16::from_be_bytes([header[6], header[7]]));
    let mut at = HEADER;
    for _ in 0..questions {
        at = name_at(message, at)?.1 + 4;
    }
    for _ in 0..answers {
        at = skip_name(message, at)?;
        let fixed = message.get(at..at + 10)?;
        let (kind, length) = (u16::from_be_bytes([fixed[0], fixed[1]]), u16::from_be_bytes([fixed[8], fixed[9]]));
        let data = message.get(at + 10..at + 10 + usize::from(length))?;
        if kind == TYPE_A {
            found(<[u8; 4]>::try_from(data).ok()?.into());
        } else if kind == TYPE_AAAA {
            found(<[u8; 16]>::try_from(data).ok()?.into());
        }
        at += 10 + usize::from(length);
    }
    Some(())
}

/// Where the name that starts there ends, whatever it is.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match usize::from(*message.get(at)?) {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + length,
            0xc0.. => return Some(at + 2),
            _ => return None,
        }
    }
}

/// The same question back, as refused.
fn refusal(question: &[u8]) -> Vec<u8> {
    let mut answer = question.to_vec();
    answer[2] = (answer[2] & 0x79) | 0x80;
    answer[3] = REFUSED;
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use shared_proto::v1::JobFirst;
    use std::os::fd::AsFd as _;

    fn question(id: u16, name: &str) -> Vec<u8> {
        let mut message = id.to_be_bytes().to_vec();
        message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        for label in name.split('.') {
            message.push(u8::try_from(label.len()).expect("short"));
            message.extend(label.as_bytes());
        }
        message.extend([0, 0, 1, 0, 1]);
        message
    }

    fn answer(question: &[u8], records: &[(u16, &[u8])]) -> Vec<u8> {
        let mut message = question.to_vec();
        message[2] |= 0x80;
        message[7] = u8::try_from(records.len()).expect("few");
        for (kind, data) in records {
            message.extend([0xc0, 12]);
            message.extend(kind.to_be_bytes());
            message.extend([0, 1, 0, 0, 0, 60]);
            message.extend(u16::try_from(data.len()).expect("short").to_be_bytes());
            message.extend(*data);
        }
        message
    }

    #[test]
    fn messages_are_read_and_nothing_else_is() {
        let good = question(7, "a.example");
        assert_eq!(asked(&good).as_deref(), Some("a.example"));
        for cut in 0..good.len() {
            assert_eq!(asked(&good[..cut]), None, "{cut}");
        }
        let mut two = good.clone();
        two[5] = 2;
        let reply = answer(&good, &[(5, b"\x01x\0"), (TYPE_A, &[192, 0, 2, 1]), (TYPE_AAAA, &[0xfd; 16])]);
        assert_eq!((asked(&two), asked(&reply)), (None, None));
        // a name that points at itself
        let mut circle = good[..HEADER].to_vec();
        circle.extend([0xc0, 12, 0, 1, 0, 1]);
        assert_eq!(asked(&circle), None);
        let found = |message: &[u8]| {
            let mut all = Vec::new();
            let whole = addresses(message, |a| all.push(a.to_string())).is_some();
            (whole, all)
        };
        let both = vec!["192.0.2.1".to_owned(), Ipv6Addr::from([0xfd; 16]).to_string()];
        assert_eq!(found(&reply), (true, both));
        for cut in 0..reply.len() {
            assert!(!found(&reply[..cut]).0, "{cut}");
        }
    }

    /// Lets it serve until the asker has an answer.
    fn served(names: &mut Names, policy: &mut Policy, asker: &UdpSocket) -> Vec<u8> {
        let mut buffer = [0; 512];
        asker.set_nonblocking(true).expect("sets");
        loop {
            {
                let mut all: Vec<_> = names.sockets().map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)).collect();
                all.push(PollFd::new(asker.as_fd(), PollFlags::POLLIN));
                let wait = names.due().map_or(5000, |d| d.saturating_duration_since(Instant::now()).as_millis() + 1);
                poll(&mut all, PollTimeout::try_from(wait).expect("short")).expect("polls");
            }
            names.serve(policy);
            if let Ok(length) = asker.recv(&mut buffer) {
                return buffer[..length].to_vec();
            }
        }
    }

    #[test]
    fn questions_go_to_a_server_that_answers_and_only_for_names_that_are_allowed() {
        let bind = || UdpSocket::bind("127.0.0.1:0").expect("binds");
        let (stub, silent, server, asker) = (bind(), bind(), bind(), bind());
        let (at, servers) =
            (stub.local_addr().expect("an address"), [&silent, &server].map(|s| s.local_addr().expect("an address")));
        let serving = std::thread::spawn(move || {
            let mut buffer = [0; 512];
            let (length, from) = server.recv_from(&mut buffer).expect("is asked");
            server.send_to(&answer(&buffer[..length], &[(TYPE_A, &[192, 0, 2, 9])]), from).expect("answers");
        });
        let hosts = vec!["*.good.example".to_owned()];
        let mut policy = Policy::new(&JobFirst { hosts, ..Default::default() }, true);
        let mut names = Names::new(stub, servers.to_vec()).expect("serves");
        asker.connect(at).expect("connects");

        asker.send(&question(1, "secret.evil.example")).expect("asks");
        let refused = served(&mut names, &mut policy, &asker);
        assert_eq!((refused[1], refused[3] & 0xf), (1, REFUSED));
        asker.send(b"rubbish").expect("asks");
        asker.send(&question(2, "a.good.example")).expect("asks");
        let answered = served(&mut names, &mut policy, &asker);
        assert_eq!((answered[1], answered[7]), (2, 1));
        serving.join().expect("served");
        let to = "192.0.2.9:443".parse().expect("an address");
        assert_eq!(policy.verdict(to), super::super::policy::Verdict::Outside);
    }

    #[test]
    fn a_flood_of_questions_is_bounded() {
        let bind = || UdpSocket::bind("127.0.0.1:0").expect("binds");
        let (stub, silent, asker) = (bind(), bind(), bind());
        asker.connect(stub.local_addr().expect("an address")).expect("connects");
        let mut policy = Policy::new(&JobFirst::default(), true);
        let mut names = Names::new(stub, vec![silent.local_addr().expect("an address")]).expect("serves");
        for n in 0..u16::try_from(PENDING_MAX + 50).expect("few") {
            asker.send(&question(n, "a.example")).expect("asks");
            names.serve(&mut policy);
        }
        assert_eq!(names.sockets().count(), 1 + PENDING_MAX);
    }
}
