//! Connections over sockets that deliver as unkindly as somebody wants, who may be chance or a fuzzer: sessions between
//! two of our own ends ([`Ends`]), and a pump whose peer holds the right keys and may say anything ([`records`]).

use std::collections::VecDeque;
use std::sync::LazyLock;

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls_pki_types::ServerName;

use super::fake::{FLAVOURS, Fake, Flavour, We, forge, pattern};
use super::*;
use crate::bundle::Bundle;
use crate::credentials::{Credentials, Reuse};
use crate::handshake::{Incoming, Step as HandshakeStep, advance};
use crate::hello::Hello;
use crate::leaf::Leaf;
use crate::record::{Opener, Sealer, content, record_len};
use crate::suite::KeyExchange;
use crate::verify::Gate;

/// Both ends of one session, and the wire between them.
pub(super) struct Ends {
    pub(super) about: Arc<About>,
    pub(super) near: Option<Line<Fake>>,
    pub(super) far: Option<Line<Fake>>,
    pub(super) near_wire: Fake,
    pub(super) far_wire: Fake,
    to_far: VecDeque<u8>,
    pub(super) to_near: VecDeque<u8>,
}

/// What a handshake between two of ours leaves.
pub(crate) struct Shaken {
    pub(crate) about: Arc<About>,
    /// The dialler's keys, and what it has read behind the handshake.
    pub(crate) near: (Parts, Vec<u8>),
    /// The acceptor's keys, what it still has to send, and what it has read behind the handshake.
    pub(crate) far: (Parts, Vec<u8>, Vec<u8>),
}

pub(crate) fn shake() -> Shaken {
    let credentials = credentials();
    let peer = Arc::new(credentials.leaf().who().clone());
    let name = ServerName::try_from("peer").unwrap();
    let hello = Hello { offers_h2: true, offers_frames: true, offers_tls13: true, too_old: None };
    let reuse = Reuse::Connections;
    let mut client = UnbufferedClientConnection::new(Arc::clone(credentials.client(reuse)), name.clone()).unwrap();
    let mut server = UnbufferedServerConnection::new(Arc::clone(credentials.server(hello, reuse))).unwrap();
    let (to_client, to_server, tickets) = handshake(&mut client, &mut server);
    assert_eq!(client.alpn_protocol(), Some(frame::PROTOCOL));
    let remembered = credentials.remembered(reuse).map(|all| (Arc::clone(all), name));
    Shaken {
        about: Arc::new(About { peer, resumed: false, framing: Framing::Frames, credentials }),
        near: (Parts::of_client(client, remembered).unwrap(), to_client),
        far: (Parts::of_server(server).unwrap(), tickets, to_server),
    }
}

pub(super) fn meet() -> Ends {
    let Shaken { about, near: (near, near_rest), far: (far, tickets, far_rest) } = shake();
    let (near_wire, far_wire) = (Fake::default(), Fake::default());
    Ends {
        about,
        near: Some(Line::new(near_wire.clone(), near, Vec::new(), near_rest, Framing::Frames)),
        far: Some(Line::new(far_wire.clone(), far, tickets, far_rest, Framing::Frames)),
        near_wire,
        far_wire,
        to_far: VecDeque::new(),
        to_near: VecDeque::new(),
    }
}

/// What happens to a connection of a session.
#[derive(Clone, Debug)]
pub(super) enum Event {
    NearSends(usize),
    FarSends(usize),
    NearTakes(usize),
    FarTakes(usize),
    NearEnds,
    FarEnds,
    Wire(usize),
    Renew,
    Retire,
}

/// One poll by nobody who would have to be woken.
pub(super) fn poll(pump: &mut Pump<Fake>) -> Option<Result<(), Broken>> {
    loop {
        match pump.poll_turn(&mut Context::from_waker(std::task::Waker::noop())) {
            Poll::Ready(Turn::Over(outcome)) => return Some(outcome),
            Poll::Ready(Turn::Yield) => {}
            Poll::Pending => return None,
        }
    }
}

impl Ends {
    /// Moves what was written on the wire: at most so many bytes each way.
    pub(super) fn transfer(&mut self, most: usize) {
        self.to_far.extend(self.near_wire.take(most));
        self.to_near.extend(self.far_wire.take(most));
        for (waiting, to) in [(&mut self.to_far, &self.far_wire), (&mut self.to_near, &self.near_wire)] {
            let count = most.min(waiting.len());
            let bytes: Vec<u8> = waiting.drain(..count).collect();
            to.feed(&bytes);
        }
    }

    /// Carries one connection through the events and to its end; every byte must arrive and both directions must end
    /// on their own. Returns whether the session can carry another one.
    pub(super) fn carry(&mut self, events: &[Event]) -> bool {
        let (near_app, far_app) = (Fake::default(), Fake::default());
        let near = self.near.take().unwrap();
        let mut near = Pump::new(near_app.clone(), near, Some(Arc::clone(&self.about)), Arc::default());
        let mut far: Option<Pump<Fake>> = None;
        let (mut near_sent, mut far_sent, mut at_near, mut at_far) = (vec![], vec![], vec![], vec![]);
        let (mut near_ended, mut far_ended) = (false, false);
        let (mut near_over, mut far_over) = (false, false);
        let finale = [
            Event::NearEnds,
            Event::FarEnds,
            Event::Wire(1 << 20),
            Event::NearTakes(1 << 20),
            Event::FarTakes(1 << 20),
        ];
        for event in events.iter().chain(finale.iter().cycle().take(100)) {
            match event {
                Event::NearSends(len) if !near_ended => {
                    let bytes = pattern(*len, near_sent.len() as u8);
                    near_app.feed(&bytes);
                    near_sent.extend(bytes);
                }
                Event::FarSends(len) if !far_ended => {
                    let bytes = pattern(*len, far_sent.len() as u8);
                    far_app.feed(&bytes);
                    far_sent.extend(bytes);
                }
                Event::NearTakes(room) => at_near.extend(near_app.take(*room)),
                Event::FarTakes(room) => at_far.extend(far_app.take(*room)),
                Event::NearEnds if !near_ended => {
                    near_ended = true;
                    near_app.end_incoming();
                }
                Event::FarEnds if !far_ended => {
                    far_ended = true;
                    far_app.end_incoming();
                }
                Event::Wire(most) => self.transfer(*most),
                Event::Renew => near.line.outward.ask_for_new_keys(),
                Event::Retire => {
                    if let Some(far) = &mut far {
                        far.line.retire();
                    }
                }
                _ => {}
            }
            if !near_over && let Some(outcome) = poll(&mut near) {
                outcome.unwrap();
                near_over = true;
            }
            if let Some(line) = &mut self.far {
                let mut context = Context::from_waker(std::task::Waker::noop());
                match line.poll_open(&mut context) {
                    Poll::Ready(Ok(Opening::Opened)) => {
                        let line = self.far.take().unwrap();
                        far = Some(Pump::new(far_app.clone(), line, Some(Arc::clone(&self.about)), Arc::default()));
                    }
                    Poll::Ready(other) => panic!("no connection was opened: {other:?}"),
                    Poll::Pending => {}
                }
            }
            if !far_over && let Some(outcome) = far.as_mut().and_then(poll) {
                outcome.unwrap();
                far_over = true;
            }
        }
        at_near.extend(near_app.take(0));
        at_far.extend(far_app.take(0));
        let far = far.expect("the connection never arrived");
        assert!(near_over && far_over, "the connection does not end");
        assert!(at_far == near_sent, "{} of {} bytes went there", at_far.len(), near_sent.len());
        assert!(at_near == far_sent, "{} of {} bytes came back", at_near.len(), far_sent.len());
        assert!(near_app.has_ended() && far_app.has_ended(), "a FIN is missing");
        assert_eq!(near.moved(), (near_sent.len() as u64, far_sent.len() as u64));
        assert_eq!(far.moved(), (far_sent.len() as u64, near_sent.len() as u64));
        let parted = near.line.outward.parted() && near.line.inward.parted();
        assert!(far.line.outward.parted() && far.line.inward.parted());
        let done = near.line.poll_done(&mut Context::from_waker(std::task::Waker::noop()));
        assert!(near.line.is_done(), "nobody says that all has arrived: {done:?}");
        let again = parted && matches!(done, Poll::Ready(Ok(Opening::Opened)));
        (self.near, self.far) = (Some(near.line), Some(far.line));
        again
    }
}

/// Ends of sessions are carried through connections whose events are in the script: what to do, and how much of it.
pub fn frames(script: &[u8]) {
    let mut ends = meet();
    let mut script = Script(script);
    let mut events = Vec::new();
    while let Some(word) = script.byte() {
        let amount = script.amount();
        match word % 10 {
            0 => events.push(Event::NearSends(amount)),
            1 => events.push(Event::FarSends(amount)),
            2 => events.push(Event::NearTakes(amount)),
            3 => events.push(Event::FarTakes(amount)),
            4 | 5 => events.push(Event::Wire(amount)),
            6 => events.push(Event::NearEnds),
            7 => events.push(Event::FarEnds),
            8 if amount % 7 == 0 => events.push(Event::Retire),
            8 => events.push(Event::Renew),
            _ if ends.carry(&events) => events.clear(),
            _ => return,
        }
    }
    ends.carry(&events);
}

/// What a script says, byte for byte.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// A number of bytes: mostly few, sometimes as many as fill every buffer.
    fn amount(&mut self) -> usize {
        let byte = usize::from(self.byte().unwrap_or(1));
        match byte >> 6 {
            0 => byte + 1,
            1 | 2 => (byte & 63) * 300 + 1,
            _ => (byte & 63) * 5_000,
        }
    }

    fn bytes(&mut self) -> &'a [u8] {
        let len = usize::from(self.byte().unwrap_or_default()).min(self.0.len());
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken
    }
}

/// A pump of ours, and a peer that has the right keys.
struct Stranger {
    sealer: Sealer,
    opener: Opener,
    secrets: Secrets,
    app: Fake,
    wire: Fake,
    /// What the peer has read of the wire and not opened.
    unread: Vec<u8>,
    /// What the peer has opened: content of data records, one after another.
    opened: Vec<Vec<u8>>,
}

/// A pump whose peer says what the script wants: any record sealed rightly, changed records, bytes that are no records.
/// The application sees nothing but what was sealed as data, in its order, and the peer nothing but what the application
/// sent.
pub fn records(script: &[u8]) {
    let mut script = Script(script);
    let choice = script.byte().unwrap_or_default();
    let flavour = FLAVOURS[usize::from(choice >> 2) % FLAVOURS.len()];
    let we = if choice & 1 == 0 { We::Dial } else { We::Accept };
    let framing = if choice & 2 != 0 && flavour.is_tls13() { Framing::Frames } else { Framing::Bare };
    let (mut line, about, mut stranger) = stranger(we, flavour, framing);
    // Data that the peer sealed while everything it said was whole.
    let (mut meant, mut honest) = (Vec::new(), true);
    let (mut sent, mut arrived) = (Vec::new(), Vec::new());
    let app = stranger.app.clone();
    // An application sends nothing behind its end.
    let mut app_ended = false;
    let mut pump = None;
    let mut outcome = None;
    app.take(usize::from(script.byte().unwrap_or_default()));
    while let Some(word) = script.byte() {
        match word % 12 {
            0..=2 => {
                let kind = match word / 12 {
                    0..=9 => content::APPLICATION_DATA,
                    10..=14 => content::HANDSHAKE,
                    15..=19 => content::ALERT,
                    other => other,
                };
                let mut payload = script.bytes().to_vec();
                if word % 12 == 2 {
                    payload.resize(script.amount().min(crate::record::MAX_PAYLOAD + 40), word);
                }
                if kind == content::APPLICATION_DATA && honest {
                    meant.extend(payload.get(framing.overhead()..).unwrap_or_default());
                }
                stranger.say(kind, &payload);
            }
            3 => {
                stranger.say(content::HANDSHAKE, &[24, 0, 0, 1, word / 12 % 3]);
                if flavour.is_tls13() {
                    stranger.sealer = stranger.secrets.renew_sealer().unwrap();
                }
            }
            4 => {
                let bytes = script.bytes();
                honest &= bytes.is_empty();
                stranger.wire.feed(bytes);
            }
            5 => {
                // Sealed rightly, then changed by somebody on the way.
                honest = false;
                let mut record = stranger.seal(content::APPLICATION_DATA, script.bytes());
                let at = script.amount() % record.len().max(1);
                if let Some(byte) = record.get_mut(at) {
                    *byte ^= word / 12 + 1;
                }
                stranger.wire.feed(&record);
            }
            6 => {
                let bytes = pattern(script.amount(), sent.len() as u8);
                if !app_ended {
                    app.feed(&bytes);
                    sent.extend(bytes);
                }
            }
            7 => arrived.extend(app.take(script.amount())),
            8 => stranger.listen(script.amount()),
            9 => stranger.wire.end_incoming(),
            10 if word > 200 => app.fail(),
            10 if word > 150 => stranger.wire.fail(),
            _ => {
                app_ended = true;
                app.end_incoming();
            }
        }
        if let Some(waiting) = line.take() {
            match begin(waiting, &about, &app, we) {
                Begun::Carries(begun) => pump = Some(*begun),
                Begun::Waits(waiting) => line = Some(*waiting),
                Begun::Over => break,
            }
        }
        outcome = pump.as_mut().and_then(poll);
        if outcome.is_some() {
            break;
        }
    }
    arrived.extend(app.take(0));
    assert!(meant.starts_with(&arrived), "the application saw what nobody sent it");
    stranger.listen(1 << 20);
    stranger.listen(0);
    let heard: Vec<u8> = stranger
        .opened
        .iter()
        .flat_map(|content| content.get(framing.overhead()..).unwrap_or_default())
        .copied()
        .collect();
    assert!(sent.starts_with(&heard), "the peer saw what the application did not send");
    if let Some(Err(_)) = &outcome {
        assert!(app.resets(), "the application must not take a failure for an end");
    }
    if let (Some(Ok(())), Some(pump)) = (outcome, &pump) {
        assert_eq!(pump.moved(), (sent.len() as u64, arrived.len() as u64));
        assert_eq!(heard.len(), sent.len());
    }
}

enum Begun {
    Carries(Box<Pump<Fake>>),
    Waits(Box<Line<Fake>>),
    Over,
}

/// Joins the application as soon as there is a connection for it.
fn begin(mut line: Line<Fake>, about: &Arc<About>, app: &Fake, we: We) -> Begun {
    if we == We::Accept && about.framing == Framing::Frames {
        match line.poll_open(&mut Context::from_waker(std::task::Waker::noop())) {
            Poll::Ready(Ok(Opening::Opened)) => {}
            Poll::Ready(Ok(Opening::Closed) | Err(_)) => return Begun::Over,
            Poll::Pending => return Begun::Waits(Box::new(line)),
        }
    }
    Begun::Carries(Box::new(Pump::new(app.clone(), line, Some(Arc::clone(about)), Arc::default())))
}

impl Stranger {
    fn seal(&mut self, kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut record = Vec::new();
        self.sealer.append(kind, payload, &mut record).unwrap();
        record
    }

    fn say(&mut self, kind: u8, payload: &[u8]) {
        let record = self.seal(kind, payload);
        self.wire.feed(&record);
    }

    /// Reads what we wrote, which must be whole records under the right keys, and makes room for more.
    fn listen(&mut self, room: usize) {
        self.unread.extend(self.wire.take(room));
        while let Some(len) = record_len(&self.unread).filter(|len| *len <= self.unread.len()) {
            let mut record: Vec<u8> = self.unread.drain(..len).collect();
            let (kind, payload) = self.opener.open(&mut record).expect("we seal rightly");
            match (kind, &record[payload]) {
                (content::APPLICATION_DATA, content) => self.opened.push(content.to_vec()),
                (content::HANDSHAKE, [24, ..]) => self.opener = self.secrets.renew_opener().unwrap(),
                (content::HANDSHAKE | content::ALERT, _) => {}
                (other, _) => panic!("a record of kind {other}"),
            }
        }
    }
}

/// A handshake between one of ours and a peer of this flavour, whose keys the script gets.
fn stranger(we: We, flavour: Flavour, framing: Framing) -> (Option<Line<Fake>>, Arc<About>, Stranger) {
    let ours = credentials();
    let name = ServerName::try_from("peer").unwrap();
    let reuse = Reuse::None;
    let (line_parts, outgoing, rest, parts, theirs) = match we {
        We::Dial => {
            let mut client = UnbufferedClientConnection::new(Arc::clone(ours.client(reuse)), name).unwrap();
            let mut server = UnbufferedServerConnection::new(Arc::new(flavour.server(&ours))).unwrap();
            let (to_client, to_server, tickets) = handshake(&mut client, &mut server);
            assert!(to_server.is_empty());
            let behind = [to_client, tickets].concat();
            (Parts::of_client(client, None).unwrap(), Vec::new(), behind, Parts::of_server(server).unwrap(), Vec::new())
        }
        We::Accept => {
            let hello = Hello { offers_tls13: flavour.is_tls13(), ..Hello::default() };
            let mut client = UnbufferedClientConnection::new(Arc::new(flavour.client(&ours)), name).unwrap();
            let mut server = UnbufferedServerConnection::new(Arc::clone(ours.server(hello, reuse))).unwrap();
            let (to_client, to_server, tickets) = handshake(&mut client, &mut server);
            (Parts::of_server(server).unwrap(), tickets, to_server, Parts::of_client(client, None).unwrap(), to_client)
        }
    };
    let (app, wire) = (Fake::default(), Fake::default());
    let Parts { sealer, opener, secrets } = parts;
    let line = Line::new(wire.clone(), line_parts, outgoing, rest, framing);
    let peer = Arc::new(ours.leaf().who().clone());
    let about = Arc::new(About { peer, resumed: false, framing, credentials: ours });
    (Some(line), about, Stranger { sealer, opener, secrets, app, wire, unread: theirs, opened: Vec::new() })
}

/// Brings both halves to the end; what each has read beyond it, and what the server still has to send.
fn handshake(
    client: &mut UnbufferedClientConnection,
    server: &mut UnbufferedServerConnection,
) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let (mut to_client, mut to_server) = (Incoming::default(), Incoming::default());
    let (mut from_client, mut from_server) = (Vec::new(), Vec::new());
    let (mut client_done, mut server_done) = (false, false);
    for _ in 0..100 {
        if !client_done {
            client_done = advance(client, &mut to_client, &mut from_client).unwrap() == HandshakeStep::Done;
        }
        to_server.push(&std::mem::take(&mut from_client));
        to_server.show_record();
        if !server_done {
            server_done = advance(server, &mut to_server, &mut from_server).unwrap() == HandshakeStep::Done;
        }
        if client_done && server_done {
            return (to_client.into_rest(), to_server.into_rest(), from_server);
        }
        if !client_done {
            to_client.push(&std::mem::take(&mut from_server));
            to_client.show_record();
        }
    }
    panic!("the handshake does not end");
}

/// Credentials that trust themselves, as new as if nobody had ever used them: what they remember of sessions would make
/// one run differ from the next.
fn credentials() -> Arc<Credentials> {
    static ISSUED: LazyLock<(String, forge::Issued)> = LazyLock::new(|| {
        let authority = forge::Authority::new("root");
        (authority.pem.clone(), authority.leaf("web"))
    });
    let (root, issued) = &*ISSUED;
    let leaf = Leaf::from_pem(&issued.certificates, &issued.key).unwrap();
    let gate: Arc<dyn Gate> = Arc::new(|_: &crate::Peer| Ok(()));
    let bundle = Bundle::from_pem([root.as_str()]).unwrap();
    Arc::new(Credentials::new(leaf, bundle, KeyExchange::Classical, &gate).unwrap())
}
