//! The server: binds its addresses, runs a loop for each socket, and takes a packet through its steps.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use hickory_proto::rr::Name;
use lictor_meter::Timer;
use lictor_state::Reader;
use lictor_task::{DrainWatch, Scope};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{Mutex, Semaphore, watch};

use crate::answer::{self, Outcome, Reply};
use crate::config::Settings;
use crate::datagram::Datagrams;
use crate::error::Error;
use crate::lookup::Lookups;
use crate::prepared::Queries;
use crate::question::{self, Scope as NameScope};
use crate::remote::{self, Elsewhere};
use crate::request::{self, Packet, Request, Transport};
use crate::{forward, reverse, tcp, udp};

/// Questions that wait for a recursor or a server at the same time; each holds a socket and a buffer of 64 KiB.
const MAX_WAITING: usize = 512;
/// How long a server may take to say what it knows. Stub resolvers give up after 5 seconds, and an alias may still have to be
/// followed.
const SERVER_LIMIT: Duration = Duration::from_secs(3);
/// Tasks that share one UDP socket. More than this only contend for it.
const MAX_UDP_WORKERS: usize = 4;
/// How long answers under way may take once the server is told to stop.
const STOP_LIMIT: Duration = Duration::from_secs(3);
/// A burst of this size waits in the kernel without loss while the workers are busy.
const UDP_RECEIVE_BUFFER: usize = 1 << 20;
/// Connections that wait to be accepted.
const TCP_BACKLOG: i32 = 256;
/// How often a port that is free for UDP is looked for until it is free for TCP as well.
const PORT_ATTEMPTS: usize = 32;

/// Where answers come from.
#[derive(Clone)]
pub enum Source {
    /// The state is here.
    Here(Backend),
    /// Servers have it.
    Elsewhere(Arc<dyn Elsewhere>),
}

/// What answers are made of where the state is.
#[derive(Clone)]
pub struct Backend {
    /// A reader with the rights of the token that DNS uses; asked anew for each packet, since the token may change.
    pub reader: Arc<dyn Fn() -> Reader + Send + Sync>,
    /// Executes prepared queries.
    pub queries: Arc<dyn Queries>,
}

impl From<Backend> for Source {
    fn from(backend: Backend) -> Source {
        Source::Here(backend)
    }
}

/// A server whose sockets are open.
pub struct Bound {
    sockets: Vec<(Datagrams, TcpListener)>,
    addresses: Vec<SocketAddr>,
    core: Arc<Core>,
    reload: Reload,
}

/// Changes the settings of a running server.
#[derive(Clone, Debug)]
pub struct Reload(Arc<watch::Sender<Arc<Settings>>>);

impl Reload {
    /// Every packet from now on is answered by these settings.
    pub fn replace(&self, settings: Settings) {
        self.0.send_replace(Arc::new(settings));
    }
}

/// Opens a UDP and a TCP socket at each address. With port 0 both get the same free port.
pub fn bind(addresses: &[SocketAddr], settings: Settings, source: impl Into<Source>) -> Result<Bound, Error> {
    let mut sockets = Vec::with_capacity(addresses.len());
    let mut bound = Vec::with_capacity(addresses.len());
    for address in addresses {
        // Where both families listen on every address, each has its own socket.
        let has_v4 = addresses.iter().any(|other| other.ip() == IpAddr::from([0, 0, 0, 0]));
        let (udp, tcp, address) = open_pair(*address, has_v4)?;
        sockets.push((udp, tcp));
        bound.push(address);
    }
    let (sender, receiver) = watch::channel(Arc::new(settings));
    let core = Core::new(receiver, source.into());
    Ok(Bound { sockets, addresses: bound, core: Arc::new(core), reload: Reload(Arc::new(sender)) })
}

impl Bound {
    /// Where it listens, in the order of the addresses given.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The handle that changes the settings.
    pub fn reload(&self) -> Reload {
        self.reload.clone()
    }

    /// Answers until draining is asked for; answers under way are then finished within a limit.
    pub async fn run(self, mut drain: DrainWatch) {
        let scope = Scope::new("dns");
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_UDP_WORKERS);
        for (udp, tcp) in self.sockets {
            let udp = Arc::new(udp);
            for _ in 0..workers {
                scope.spawn("keep a UDP worker", keep_udp_worker(scope.clone(), Arc::clone(&udp), self.core.clone()));
            }
            scope.spawn("accept TCP", tcp::accept(tcp, Arc::clone(&self.core), scope.clone()));
        }
        drain.requested().await;
        scope.join(STOP_LIMIT).await;
    }
}

/// Runs a UDP worker and starts it again should a packet make it panic: one packet must not end the service, nor take those
/// with it that came at the same time.
async fn keep_udp_worker(scope: Scope, socket: Arc<Datagrams>, core: Arc<Core>) {
    let desk = Arc::new(Mutex::new(udp::Desk::new()));
    while !scope.stop_signal().is_requested() {
        let (socket, core, inner, desk) = (Arc::clone(&socket), Arc::clone(&core), scope.clone(), Arc::clone(&desk));
        let work = async move { udp::work(socket, core, inner, &mut *desk.lock().await).await };
        if let Ok(Some(())) = scope.spawn("answer UDP", work).await {
            return;
        }
    }
}

fn open_pair(address: SocketAddr, has_v4: bool) -> Result<(Datagrams, TcpListener, SocketAddr), Error> {
    let mut attempts = if address.port() == 0 { PORT_ATTEMPTS } else { 1 };
    loop {
        attempts -= 1;
        let at = |transport| move |source| Error::Bind { address, transport, source };
        let (udp, chosen) = open_udp(address, has_v4).map_err(at("UDP"))?;
        match open_tcp(chosen, has_v4) {
            Ok(tcp) => return Ok((udp, tcp, chosen)),
            Err(problem) if problem.kind() == io::ErrorKind::AddrInUse && attempts > 0 => {}
            Err(problem) => return Err(at("TCP")(problem)),
        }
    }
}

fn open_udp(address: SocketAddr, has_v4: bool) -> io::Result<(Datagrams, SocketAddr)> {
    let socket = open(address, has_v4, Type::DGRAM, Protocol::UDP)?;
    // A wish: the system may grant less.
    let _ = socket.set_recv_buffer_size(UDP_RECEIVE_BUFFER);
    socket.bind(&address.into())?;
    let socket = UdpSocket::from_std(socket.into())?;
    let chosen = socket.local_addr()?;
    Ok((Datagrams::new(socket)?, chosen))
}

fn open_tcp(address: SocketAddr, has_v4: bool) -> io::Result<TcpListener> {
    let socket = open(address, has_v4, Type::STREAM, Protocol::TCP)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(TCP_BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn open(address: SocketAddr, has_v4: bool, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(has_v4)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// What all loops share.
pub(crate) struct Core {
    settings: watch::Receiver<Arc<Settings>>,
    source: Source,
    waiting: Arc<Semaphore>,
    /// How long answers about the zone and reverse questions take.
    domain_timer: Timer,
    reverse_timer: Timer,
}

/// What to do about a packet.
pub(crate) enum Step {
    /// Nothing: it deserves no answer.
    Ignore,
    /// Send what was written.
    Send,
    /// Others have to be asked first.
    Wait(Box<Waiting>),
}

/// An answer that others have to contribute to.
pub(crate) struct Waiting {
    settings: Arc<Settings>,
    request: Request,
    work: Work,
}

enum Work {
    /// Ask a server what there is to say, and then do that.
    Ask(Ask),
    /// Hand the packet on.
    Forward(Vec<u8>),
    /// Follow the aliases of a reply.
    Chase(Reply),
}

/// A question for a server.
struct Ask {
    servers: Arc<dyn Elsewhere>,
    question: Vec<u8>,
    about: About,
    start: Instant,
    /// For the recursors, should it come to that.
    packet: Vec<u8>,
}

/// What only the state can tell.
#[derive(Clone, Copy)]
enum About {
    Zone,
    /// A name below `arpa.`, with the address it spells, if it does.
    Address(Option<IpAddr>),
}

/// What a look-up came to.
enum Found<'a> {
    /// What there is to say, or `None` when the recursors have to be asked.
    Known(Option<Reply>),
    /// A server has to be asked.
    Servers(&'a Arc<dyn Elsewhere>, About),
}

impl Core {
    pub(crate) fn new(settings: watch::Receiver<Arc<Settings>>, source: Source) -> Core {
        // The node is the same as long as the process lives, whatever else changes.
        let node = settings.borrow().config.node_name.clone();
        let timer = |name| lictor_meter::process().timer(name, &[("node", &node)]);
        let (domain_timer, reverse_timer) = (timer("dns.domain_query"), timer("dns.ptr_query"));
        let waiting = Arc::new(Semaphore::new(MAX_WAITING));
        Core { settings, source, waiting, domain_timer, reverse_timer }
    }

    /// Takes a packet as far as it goes without waiting; what is to be sent is then in `out`.
    pub(crate) fn answer(&self, packet: &[u8], from: IpAddr, transport: Transport, out: &mut Vec<u8>) -> Step {
        let settings = Arc::clone(&self.settings.borrow());
        let request = match request::read(packet, transport) {
            Packet::Noise => return Step::Ignore,
            Packet::Malformed(metadata) => {
                answer::write_bare(metadata, Outcome::Malformed, &settings, out);
                return Step::Send;
            }
            Packet::OtherOperation(metadata) => {
                answer::write_bare(metadata, Outcome::OtherOperation, &settings, out);
                return Step::Send;
            }
            Packet::Question(request) => *request,
        };
        let start = Instant::now();
        let work = match self.look_up(&request, from, &settings, start) {
            Found::Known(Some(reply)) if reply.chases.is_empty() || !settings.has_recursors() => {
                answer::write(&request, &reply, &settings, out);
                return Step::Send;
            }
            Found::Known(Some(reply)) => Work::Chase(reply),
            Found::Known(None) => Work::Forward(packet.to_vec()),
            Found::Servers(servers, about) => Work::Ask(Ask {
                servers: Arc::clone(servers),
                question: remote::ask(&request, source(&request, from), &settings),
                about,
                start,
                packet: packet.to_vec(),
            }),
        };
        Step::Wait(Box::new(Waiting { settings, request, work }))
    }

    /// What there is to say, or who has to be asked.
    fn look_up(&self, request: &Request, from: IpAddr, settings: &Settings, start: Instant) -> Found<'_> {
        if request.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
            return Found::Known(Some(Reply::new(Outcome::UnknownEdns)));
        }
        let (name, asked) = (&request.query.name, request.query.query_type);
        match (question::read(name, asked, &settings.zone), &self.source) {
            (NameScope::Zone(target), Source::Here(backend)) => {
                let lookups = Lookups {
                    settings,
                    reader: &(backend.reader)(),
                    queries: backend.queries.as_ref(),
                    source: source(request, from),
                    edns: request.edns.is_some(),
                    enough: answer::enough(request, settings),
                };
                let reply = lookups.zone(name, asked, target);
                self.domain_timer.since(start);
                Found::Known(Some(reply))
            }
            (NameScope::Reverse(ip), Source::Here(backend)) => {
                let known = reverse::lookup(settings, &(backend.reader)(), name, asked, ip);
                self.reverse_timer.since(start);
                Found::Known(address(known, ip, settings))
            }
            (NameScope::Zone(_), Source::Elsewhere(servers)) => Found::Servers(servers, About::Zone),
            (NameScope::Reverse(ip), Source::Elsewhere(servers)) => Found::Servers(servers, About::Address(ip)),
            (NameScope::Outside, _) => {
                Found::Known((!settings.has_recursors()).then(|| Reply::new(Outcome::NobodyToAsk)))
            }
        }
    }

    /// Finishes an answer that has to wait for others; it is then in `out`. When too many wait already, the answer is
    /// what can be said without them. Cancel safe.
    pub(crate) async fn finish(&self, waiting: Waiting, out: &mut Vec<u8>) {
        let Waiting { settings, request, work } = waiting;
        let permit = self.waiting.try_acquire();
        let (known, packet) = match work {
            Work::Ask(ask) if permit.is_ok() => self.ask(ask, &request, &settings).await,
            Work::Ask(ask) => (Some(Reply::new(Outcome::NoServer)), ask.packet),
            Work::Chase(reply) => (Some(reply), Vec::new()),
            Work::Forward(packet) => (None, packet),
        };
        if let Some(mut reply) = known {
            if permit.is_ok() && settings.has_recursors() {
                forward::chase(&settings, &mut reply).await;
            }
            return answer::write(&request, &reply, &settings, out);
        }
        let answered = match permit {
            Ok(_held) => forward::forward(&settings, &packet, request.transport).await,
            Err(_) => None,
        };
        match answered {
            Some(answer) if answer.len() <= usize::from(request.max_size()) => *out = answer,
            Some(_) => answer::write_truncated(&request, &settings, out),
            None => answer::write(&request, &Reply::new(Outcome::NobodyAnswered), &settings, out),
        }
    }

    /// What a server says there is to say, or `None` when the recursors have to be asked, with the packet for them.
    async fn ask(&self, ask: Ask, request: &Request, settings: &Settings) -> (Option<Reply>, Vec<u8>) {
        let Ask { servers, question, about, start, packet } = ask;
        let name = &request.query.name;
        let answered = tokio::time::timeout(SERVER_LIMIT, servers.look_up(question)).await;
        let answered = answered.unwrap_or_else(|_| Err(format!("no answer within {SERVER_LIMIT:?}")));
        let known = match (answered.and_then(|answer| remote::read(&answer, name)), about) {
            (Ok(known), About::Address(ip)) => {
                self.reverse_timer.since(start);
                address(known, ip, settings)
            }
            (Ok(Some(reply)), About::Zone) => {
                self.domain_timer.since(start);
                Some(reply)
            }
            (Ok(None), About::Zone) => unanswered(name, "the server takes it for an address"),
            // Others may know the address, and what they say is better than nothing.
            (Err(why), About::Address(_)) => unanswered(name, &why).filter(|_| !settings.has_recursors()),
            (Err(why), About::Zone) => unanswered(name, &why),
        };
        (known, packet)
    }
}

fn unanswered(name: &Name, why: &str) -> Option<Reply> {
    tracing::warn!("dns: no server says what {name} means: {why}");
    Some(Reply::new(Outcome::NoServer))
}

/// Whom a question is asked for.
fn source(request: &Request, from: IpAddr) -> IpAddr {
    request.client_subnet().map_or(from, |subnet| subnet.addr())
}

/// What there is to say about an address, or `None` when the recursors have to be asked.
fn address(known: Option<Reply>, ip: Option<IpAddr>, settings: &Settings) -> Option<Reply> {
    known.or_else(|| (!settings.has_recursors()).then(|| reverse::unknown(ip)))
}

#[cfg(test)]
mod weigh;
