//! DNS as the corpus writes it down: a question, and an answer taken apart by a decoder of its own.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpStream, UdpSocket};
use std::time::Duration;

use serde_json::{Value, json};

use crate::difference::Difference;
use crate::template::{Known, Within};

const LIMIT: Duration = Duration::from_secs(10);

const TYPES: [(&str, u16); 9] =
    [("A", 1), ("NS", 2), ("CNAME", 5), ("SOA", 6), ("PTR", 12), ("TXT", 16), ("AAAA", 28), ("SRV", 33), ("ANY", 255)];
const OPT: u16 = 41;
const CODES: [&str; 6] = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"];

/// An answer: the fields that the corpus names, and how many bytes it had.
pub(crate) struct Answer {
    fields: Value,
    size: usize,
}

/// Asks what a step says.
pub(crate) fn ask(port: u16, step: &Value) -> io::Result<Answer> {
    let qtype = step["qtype"].as_str().unwrap_or("A");
    let kind = TYPES.iter().find(|(name, _)| *name == qtype).map(|(_, kind)| *kind).unwrap();
    let edns = step["edns"].as_u64().map(|size| u16::try_from(size).unwrap());
    let mut query = vec![0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())];
    for label in step["qname"].as_str().unwrap().split('.').filter(|label| !label.is_empty()) {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend_from_slice(label.as_bytes());
    }
    query.push(0);
    query.extend_from_slice(&kind.to_be_bytes());
    query.extend_from_slice(&[0, 1]);
    if let Some(size) = edns {
        query.push(0);
        query.extend_from_slice(&OPT.to_be_bytes());
        query.extend_from_slice(&size.to_be_bytes());
        query.extend_from_slice(&[0; 6]);
    }
    let answer = if step["tcp"].as_bool() == Some(true) { over_tcp(port, &query)? } else { over_udp(port, &query)? };
    decode(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is no DNS message"))
}

fn over_udp(port: u16, query: &[u8]) -> io::Result<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(LIMIT))?;
    socket.connect(("127.0.0.1", port))?;
    socket.send(query)?;
    let mut answer = vec![0; 65_535];
    let size = socket.recv(&mut answer)?;
    answer.truncate(size);
    Ok(answer)
}

fn over_tcp(port: u16, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut connection = TcpStream::connect(("127.0.0.1", port))?;
    connection.set_read_timeout(Some(LIMIT))?;
    connection.write_all(&u16::try_from(query.len()).unwrap().to_be_bytes())?;
    connection.write_all(query)?;
    let mut size = [0; 2];
    connection.read_exact(&mut size)?;
    let mut answer = vec![0; u16::from_be_bytes(size).into()];
    connection.read_exact(&mut answer)?;
    Ok(answer)
}

/// Reads a message from its beginning; every step is `None` past its end.
struct Reader<'m> {
    message: &'m [u8],
    at: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.message.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn short(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes([self.byte()?, self.byte()?]))
    }

    fn long(&mut self) -> Option<u32> {
        Some(u32::from(self.short()?) << 16 | u32::from(self.short()?))
    }

    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let bytes = self.message.get(self.at..self.at + N)?.try_into().ok()?;
        self.at += N;
        Some(bytes)
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::from(self.byte()?);
        let text = self.message.get(self.at..self.at + length)?;
        self.at += length;
        Some(String::from_utf8_lossy(text).into_owned())
    }

    fn name(&mut self) -> Option<String> {
        let mut name = String::new();
        let mut behind_pointer = None;
        // A message that points in circles is longer than any name.
        for _ in 0..256 {
            let length = self.byte()?;
            if length & 0xc0 == 0xc0 {
                let target = usize::from(u16::from_be_bytes([length & 0x3f, self.byte()?]));
                behind_pointer = behind_pointer.or(Some(self.at));
                self.at = target;
            } else if length == 0 {
                self.at = behind_pointer.unwrap_or(self.at);
                return Some(if name.is_empty() { ".".into() } else { name });
            } else {
                self.at -= 1;
                name.push_str(&self.text()?);
                name.push('.');
            }
        }
        None
    }
}

fn decode(message: &[u8]) -> Option<Answer> {
    let mut reader = Reader { message, at: 2 };
    let (high, low) = (reader.byte()?, reader.byte()?);
    let counts = [reader.short()?, reader.short()?, reader.short()?, reader.short()?];
    for _ in 0..counts[0] {
        reader.name()?;
        reader.long()?;
    }
    let mut edns = false;
    let mut sections = [Vec::new(), Vec::new(), Vec::new()];
    for (section, count) in sections.iter_mut().zip(&counts[1..]) {
        for _ in 0..*count {
            let (name, kind, _class, ttl) = (reader.name()?, reader.short()?, reader.short()?, reader.long()?);
            let end = usize::from(reader.short()?) + reader.at;
            if kind == OPT {
                edns = true;
            } else {
                let known = TYPES.iter().find(|(_, number)| *number == kind).map(|(name, _)| *name);
                let data = record_data(&mut reader, kind, end)?;
                section.push(json!([name, known.map_or(kind.to_string(), str::to_owned), ttl, data]));
            }
            reader.at = end;
        }
    }
    let [answers, authority, additional] = sections;
    let fields = json!({
        "rcode": CODES.get(usize::from(low & 0x0f)), "aa": high & 0x04 != 0, "tc": high & 0x02 != 0,
        "ra": low & 0x80 != 0, "edns": edns, "answers": answers, "authority": authority, "additional": additional,
    });
    Some(Answer { fields, size: message.len() })
}

fn record_data(reader: &mut Reader<'_>, kind: u16, end: usize) -> Option<String> {
    Some(match kind {
        1 => Ipv4Addr::from(reader.bytes::<4>()?).to_string(),
        28 => Ipv6Addr::from(reader.bytes::<16>()?).to_string(),
        2 | 5 | 12 => reader.name()?,
        16 => {
            let mut texts = Vec::new();
            while reader.at < end {
                texts.push(format!("\"{}\"", reader.text()?));
            }
            texts.join(" ")
        }
        33 => {
            let numbers = [reader.short()?, reader.short()?, reader.short()?];
            format!("{} {} {} {}", numbers[0], numbers[1], numbers[2], reader.name()?)
        }
        6 => {
            let mut data = format!("{} {}", reader.name()?, reader.name()?);
            for _ in 0..5 {
                data.push_str(&format!(" {}", reader.long()?));
            }
            data
        }
        _ => String::new(),
    })
}

/// Holds an answer against a recorded one.
pub(crate) fn fit(known: &mut Known, expected: &Value, answer: &Answer) -> Result<(), Difference> {
    let fields = &answer.fields;
    for name in ["rcode", "aa", "tc", "ra", "edns"] {
        if let Some(expected) = expected.get(name).filter(|expected| **expected != fields[name]) {
            return Err(Difference::new(name, expected, &fields[name]));
        }
    }
    if let Some(limit) = expected["max_size"].as_u64()
        && answer.size as u64 > limit
    {
        return Err(Difference::new("size", limit, answer.size));
    }
    for section in ["answers", "authority", "additional"] {
        let Some(wanted) = expected[section].as_array() else { continue };
        let given = fields[section].as_array().unwrap();
        let ordered = expected["ordered"].as_bool() == Some(true);
        if wanted.len() != given.len() || !pair_up(known, wanted, given, ordered) {
            return Err(Difference::new(section, &expected[section], &fields[section]));
        }
    }
    if let Some(count) = expected["answers_count"].as_u64() {
        let given = fields["answers"].as_array().unwrap();
        let choice = expected["answers_subset_of"].as_array().unwrap();
        let all_known =
            given.iter().all(|record| choice.iter().any(|wanted| fits_record(&mut known.clone(), wanted, record)));
        let distinct = given.iter().enumerate().all(|(at, record)| !given[..at].contains(record));
        if given.len() as u64 != count || !all_known || !distinct {
            let expected = format!("{count} of {}", expected["answers_subset_of"]);
            return Err(Difference::new("answers", expected, &fields["answers"]));
        }
    }
    Ok(())
}

fn pair_up(known: &mut Known, wanted: &[Value], given: &[Value], ordered: bool) -> bool {
    let mut left: Vec<&Value> = given.iter().collect();
    wanted.iter().all(|wanted| {
        let candidates = if ordered { 0..left.len().min(1) } else { 0..left.len() };
        let found = candidates.into_iter().find(|at| fits_record(known, wanted, left[*at]));
        found.map(|at| left.remove(at)).is_some()
    })
}

/// Names have no case; in data only names have letters that a client compares.
fn fits_record(known: &mut Known, wanted: &Value, given: &Value) -> bool {
    let folded = |value: &Value| value.as_str().map_or_else(|| value.clone(), |text| text.to_ascii_lowercase().into());
    (0..4).all(|at| match wanted[at].as_str() {
        Some(template) => {
            let actual = if at == 1 { given[at].clone() } else { folded(&given[at]) };
            let template = if at == 1 { template.to_owned() } else { template.to_ascii_lowercase() };
            known.fit(&template, &actual, "record", Within::Text).is_ok()
        }
        None => wanted[at] == given[at],
    })
}
