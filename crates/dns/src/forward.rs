//! Asking the recursors: for names outside the zone, and for aliases that lead there.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Header, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::Instant;

use crate::answer::{Chase, Reply, Section};
use crate::config::Settings;
use crate::record::Record;
use crate::request::Transport;

/// Time for all aliases of one answer together. Stub resolvers give up after 5 seconds.
const CHASE_LIMIT: Duration = Duration::from_secs(4);
/// So many aliases of one answer are followed; the others stand alone.
const MAX_CHASES: usize = 16;

/// Hands a question to the recursors in order and gives the first answer that says something about the name, as it
/// came. `None` when none has one. Cancel safe.
pub(crate) async fn forward(settings: &Settings, packet: &[u8], transport: Transport) -> Option<Vec<u8>> {
    for recursor in &settings.config.recursors {
        match ask(*recursor, packet, transport, settings.config.recursor_timeout).await {
            Ok((ResponseCode::NoError | ResponseCode::NXDomain, answer)) => return Some(answer),
            Ok((code, _)) => tracing::debug!("recursor {recursor} answered {code}"),
            Err(problem) => tracing::warn!("recursor {recursor} did not answer: {problem}"),
        }
    }
    None
}

/// Follows the aliases of a reply that lead out of the zone. What cannot be followed stays an alias. Cancel safe, but
/// the reply may then be half done.
pub(crate) async fn chase(settings: &Settings, reply: &mut Reply) {
    let deadline = Instant::now() + CHASE_LIMIT;
    let mut chases = std::mem::take(&mut reply.chases);
    chases.truncate(MAX_CHASES);
    // From the end, so that what is put in does not move the places still to come.
    for Chase { section, at, target, room } in chases.into_iter().rev() {
        let Ok(found) = tokio::time::timeout_at(deadline, addresses(settings, &target)).await else { return };
        let records = match section {
            Section::Answer => &mut reply.answers,
            Section::Additional => &mut reply.additionals,
        };
        let at = at.min(records.len());
        records.splice(at..at, found.into_iter().take(room));
    }
}

/// What the first recursor that answers says about a name, whatever its response code.
async fn addresses(settings: &Settings, target: &Name) -> Vec<Record> {
    let mut question = Message::new(0, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(target.clone(), RecordType::A));
    let Ok(packet) = question.to_vec() else { return Vec::new() };
    for recursor in &settings.config.recursors {
        match ask(*recursor, &packet, Transport::Udp, settings.config.recursor_timeout).await {
            Ok((_, answer)) => {
                let answers = Message::from_vec(&answer).map(|message| message.answers).unwrap_or_default();
                return answers.into_iter().filter_map(Record::behind_alias).collect();
            }
            Err(problem) => tracing::warn!("recursor {recursor} did not answer: {problem}"),
        }
    }
    Vec::new()
}

/// One exchange with one recursor. The answer carries the id of `packet` again.
async fn ask(
    recursor: SocketAddr,
    packet: &[u8],
    transport: Transport,
    limit: Duration,
) -> io::Result<(ResponseCode, Vec<u8>)> {
    let Some((id, rest)) = packet.split_first_chunk::<2>() else { return Err(io::ErrorKind::InvalidInput.into()) };
    let Some((_, query)) = header_and_query(packet) else { return Err(io::ErrorKind::InvalidInput.into()) };
    // The client's id is the client's choice; towards the recursor the id must be hard to guess (RFC 5452).
    let own_id = unpredictable_id();
    let asked = [&own_id.to_be_bytes(), rest].concat();
    let exchange = async {
        match transport {
            Transport::Udp => over_udp(recursor, &asked, own_id, &query).await,
            Transport::Tcp => over_tcp(recursor, &asked, own_id, &query).await,
        }
    };
    let (code, mut answer) = tokio::time::timeout(limit, exchange).await.map_err(|_| io::ErrorKind::TimedOut)??;
    answer[..2].copy_from_slice(id);
    Ok((code, answer))
}

async fn over_udp(recursor: SocketAddr, asked: &[u8], id: u16, query: &Query) -> io::Result<(ResponseCode, Vec<u8>)> {
    let any: IpAddr = if recursor.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    // Connected, so that only the recursor's own datagrams arrive and "port unreachable" is an error at once.
    socket.connect(recursor).await?;
    socket.send(asked).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // What does not belong to this question may be a forgery or late: wait on, the real answer may still come.
        if let Some(code) = answers(&buffer[..length], id, query) {
            buffer.truncate(length);
            return Ok((code, buffer));
        }
    }
}

async fn over_tcp(recursor: SocketAddr, asked: &[u8], id: u16, query: &Query) -> io::Result<(ResponseCode, Vec<u8>)> {
    let length = u16::try_from(asked.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut stream = TcpStream::connect(recursor).await?;
    stream.write_all(&[&length.to_be_bytes(), asked].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    match answers(&answer, id, query) {
        Some(code) => Ok((code, answer)),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "the answer belongs to another question")),
    }
}

/// The response code, if a message is the answer to this question.
fn answers(packet: &[u8], id: u16, asked: &Query) -> Option<ResponseCode> {
    let (header, query) = header_and_query(packet)?;
    let metadata = header.metadata;
    let ours = metadata.id == id && metadata.message_type == MessageType::Response && query == *asked;
    ours.then_some(metadata.response_code)
}

fn header_and_query(packet: &[u8]) -> Option<(Header, Query)> {
    let mut decoder = BinDecoder::new(packet);
    let header = Header::read(&mut decoder).ok()?;
    let query = Query::read(&mut decoder).ok()?;
    Some((header, query))
}

/// Sixteen bits that somebody who sees earlier ones cannot guess: the keys behind a `RandomState` come from the
/// operating system and its hash does not give them away.
fn unpredictable_id() -> u16 {
    let [high, low, ..] = RandomState::new().build_hasher().finish().to_be_bytes();
    u16::from_be_bytes([high, low])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Data;

    fn query() -> Query {
        Query::query(Name::from_ascii("example.com.").unwrap(), RecordType::A)
    }

    fn reply(change: impl FnOnce(&mut Message)) -> Vec<u8> {
        let mut message = Message::new(7, MessageType::Response, OpCode::Query);
        message.add_query(query());
        change(&mut message);
        message.to_vec().unwrap()
    }

    #[test]
    fn only_the_answer_to_the_question_counts() {
        assert_eq!(answers(&reply(|_| ()), 7, &query()), Some(ResponseCode::NoError));
        assert_eq!(answers(&reply(|_| ()), 8, &query()), None);
        assert_eq!(answers(&reply(|message| message.metadata.message_type = MessageType::Query), 7, &query()), None);
        assert_eq!(answers(&reply(|message| message.queries.clear()), 7, &query()), None);
        let other = |message: &mut Message| message.queries[0].query_type = RecordType::AAAA;
        assert_eq!(answers(&reply(other), 7, &query()), None);
    }

    #[tokio::test]
    async fn answers_are_inserted_where_their_alias_stands() {
        let recursor = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let settings = Settings::new(crate::Config {
            recursors: vec![recursor.local_addr().unwrap()],
            ..crate::Config::default()
        })
        .unwrap();
        let serve = async {
            let mut buffer = [0; 512];
            loop {
                let (length, from) = recursor.recv_from(&mut buffer).await.unwrap();
                let mut message = Message::from_vec(&buffer[..length]).unwrap().into_response();
                let name = message.queries[0].name.clone();
                let last = name.iter().next().unwrap()[0];
                let data = hickory_proto::rr::RData::A(hickory_proto::rr::rdata::A::new(10, 0, 0, last));
                message.add_answer(hickory_proto::rr::Record::from_rdata(name, 9, data));
                recursor.send_to(&message.to_vec().unwrap(), from).await.unwrap();
            }
        };
        let owner = Name::from_ascii("db.service.consul.").unwrap();
        let mut reply = Reply::new(crate::answer::Outcome::Answered);
        for (at, name) in ["a.example.", "b.example."].into_iter().enumerate() {
            let target = Name::from_ascii(name).unwrap();
            reply.additionals.push(crate::record::alias(&owner, 0, &target));
            reply.chases.push(Chase { section: Section::Additional, at: at + 1, target, room: 5 });
        }
        tokio::select! {
            () = chase(&settings, &mut reply) => {}
            () = serve => {}
        }
        let order: Vec<Data> = reply.additionals.into_iter().map(|record| record.data).collect();
        let alias = |target| Data::Cname(Name::from_ascii(target).unwrap());
        let address = |last| Data::A([10, 0, 0, last].into());
        assert_eq!(order, [alias("a.example."), address(97), alias("b.example."), address(98)]);
    }
}
