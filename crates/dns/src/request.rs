//! Reading a packet: the header, the first question and EDNS, and what to do with packets that are none of it.

use hickory_proto::op::{Edns, Header, Message, MessageType, Metadata, OpCode, Query};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsCode, EdnsOption};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

/// The least a client must be able to receive over UDP (RFC 1035 section 4.2.1).
pub(crate) const PLAIN_UDP_SIZE: u16 = 512;
/// The largest message there is: 12 bytes below what the length field of TCP can say, as the original keeps room for a
/// header.
pub(crate) const MAX_SIZE: u16 = 65_523;

/// How a packet came, and so how large an answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// One datagram each way.
    Udp,
    /// Messages with a length in front.
    Tcp,
}

/// A question we can try to answer.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Id and flags.
    pub(crate) metadata: Metadata,
    /// The first question; the others are not answered.
    pub(crate) query: Query,
    /// What the client can do beyond the original protocol.
    pub(crate) edns: Option<Edns>,
    /// How it came.
    pub(crate) transport: Transport,
}

impl Request {
    /// The largest message the client takes.
    pub(crate) fn max_size(&self) -> u16 {
        // A UDP datagram can carry 65,507 bytes.
        match (self.transport, &self.edns) {
            (Transport::Tcp, _) => MAX_SIZE,
            (Transport::Udp, None) => PLAIN_UDP_SIZE,
            (Transport::Udp, Some(edns)) => edns.max_payload().clamp(PLAIN_UDP_SIZE, 65_507),
        }
    }

    /// Whom the question is asked for, when a resolver in between says so (RFC 7871).
    pub(crate) fn client_subnet(&self) -> Option<ClientSubnet> {
        match self.edns.as_ref()?.option(EdnsCode::Subnet)? {
            EdnsOption::Subnet(subnet) => Some(*subnet),
            _ => None,
        }
    }
}

/// What a packet is.
#[derive(Clone, Debug)]
pub(crate) enum Packet {
    /// A question.
    Question(Box<Request>),
    /// A message that asks for something we do not do; the operation is in the metadata.
    OtherOperation(Metadata),
    /// A message that cannot be read; its id and flags could.
    Malformed(Metadata),
    /// Nothing to answer to: too short for a header, or an answer.
    Noise,
}

/// Reads a packet.
pub(crate) fn read(packet: &[u8], transport: Transport) -> Packet {
    let mut decoder = BinDecoder::new(packet);
    let Ok(header) = Header::read(&mut decoder) else { return Packet::Noise };
    let metadata = header.metadata;
    if metadata.message_type != MessageType::Query {
        return Packet::Noise;
    }
    if metadata.op_code != OpCode::Query {
        return Packet::OtherOperation(metadata);
    }
    match read_body(&mut decoder, header) {
        Some((query, edns)) => Packet::Question(Box::new(Request { metadata, query, edns, transport })),
        None => Packet::Malformed(metadata),
    }
}

fn read_body(decoder: &mut BinDecoder<'_>, header: Header) -> Option<(Query, Option<Edns>)> {
    let counts = header.counts;
    let others = usize::from(counts.queries).checked_sub(1)?;
    let query = Query::read(decoder).ok()?;
    Message::read_queries(decoder, others).ok()?;
    for section in [counts.answers, counts.authorities] {
        Message::read_records(decoder, section.into(), false, OpCode::Query).ok()?;
    }
    let (_, edns, _) = Message::read_records(decoder, counts.additionals.into(), true, OpCode::Query).ok()?;
    Some((query, edns))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::{Name, RecordType};

    fn message() -> Message {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii("db.service.consul.").unwrap(), RecordType::A));
        message
    }

    fn question(message: &Message, transport: Transport) -> Request {
        match read(&message.to_vec().unwrap(), transport) {
            Packet::Question(request) => *request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_answer_may_be_as_large_as_the_client_says() {
        assert_eq!(question(&message(), Transport::Udp).max_size(), 512);
        assert_eq!(question(&message(), Transport::Tcp).max_size(), 65_523);
        for (said, meant) in [(0, 512), (1232, 1232), (u16::MAX, 65_507)] {
            let mut message = message();
            message.set_edns(Edns::new());
            let mut bytes = message.to_vec().unwrap();
            let at = bytes.len() - 8;
            bytes[at..at + 2].copy_from_slice(&u16::to_be_bytes(said));
            let Packet::Question(request) = read(&bytes, Transport::Udp) else { panic!("unread") };
            assert_eq!(request.max_size(), meant);
        }
    }

    #[test]
    fn the_first_of_several_questions_counts() {
        let mut message = message();
        message.add_query(Query::query(Name::from_ascii("x.node.consul.").unwrap(), RecordType::AAAA));
        assert_eq!(question(&message, Transport::Udp).query.query_type, RecordType::A);
    }

    #[test]
    fn what_is_no_question_is_told_apart() {
        assert!(matches!(read(b"short", Transport::Udp), Packet::Noise));
        let mut answer = message();
        answer.metadata.message_type = MessageType::Response;
        assert!(matches!(read(&answer.to_vec().unwrap(), Transport::Udp), Packet::Noise));
        let mut notify = message();
        notify.metadata.op_code = OpCode::Notify;
        assert!(matches!(read(&notify.to_vec().unwrap(), Transport::Udp), Packet::OtherOperation(_)));
        let empty = Message::new(7, MessageType::Query, OpCode::Query);
        assert!(matches!(read(&empty.to_vec().unwrap(), Transport::Udp), Packet::Malformed(_)));
        let mut cut = message().to_vec().unwrap();
        cut.truncate(20);
        assert!(matches!(read(&cut, Transport::Udp), Packet::Malformed(data) if data.id == 7));
    }
}
