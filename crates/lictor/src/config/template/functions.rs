//! The functions that templates may call.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use regex::Regex;

use crate::config::interfaces::{InterfaceAddress, Network, in_rfc, mask_v4, mask_v6};

/// What functions take and give.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Nothing,
    Text(String),
    Number(i64),
    Bool(bool),
    Address(InterfaceAddress),
    Addresses(Vec<InterfaceAddress>),
}

impl Value {
    pub(super) fn is_true(&self) -> bool {
        match self {
            Value::Nothing => false,
            Value::Text(text) => !text.is_empty(),
            Value::Number(number) => *number != 0,
            Value::Bool(flag) => *flag,
            Value::Address(_) => true,
            Value::Addresses(all) => !all.is_empty(),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Nothing => Ok(()),
            Value::Text(text) => f.write_str(text),
            Value::Number(number) => write!(f, "{number}"),
            Value::Bool(flag) => write!(f, "{flag}"),
            Value::Address(address) => write!(f, "{}", address.ip),
            Value::Addresses(all) => {
                for (position, address) in all.iter().enumerate() {
                    write!(f, "{}{}", if position > 0 { " " } else { "" }, address.ip)?;
                }
                Ok(())
            }
        }
    }
}

const SUPPORTED: &str = "GetPrivateIP GetPrivateIPs GetPublicIP GetPublicIPs GetInterfaceIP GetInterfaceIPs \
     GetAllInterfaces GetDefaultInterfaces GetPrivateInterfaces GetPublicInterfaces include exclude sort limit offset \
     unique math attr join printf print index len eq ne and or not";

type Result<T> = std::result::Result<T, String>;

/// Calls a function; a piped value comes last.
pub(super) fn call(name: &str, arguments: Vec<Value>, interfaces: &[InterfaceAddress]) -> Result<Value> {
    let mut arguments = Arguments { function: name, rest: arguments.into_iter() };
    let value = match name {
        "GetAllInterfaces" => Value::Addresses(interfaces.to_vec()),
        "GetDefaultInterfaces" => Value::Addresses(keep(interfaces, |address| address.default_route)),
        "GetPrivateInterfaces" => Value::Addresses(usable(interfaces, InterfaceAddress::is_private)),
        "GetPublicInterfaces" => Value::Addresses(usable(interfaces, |address| !address.is_private())),
        "GetPrivateIP" => first_ip(&usable(interfaces, InterfaceAddress::is_private)),
        "GetPrivateIPs" => all_ips(&usable(interfaces, InterfaceAddress::is_private)),
        "GetPublicIP" => first_ip(&usable(interfaces, |address| !address.is_private())),
        "GetPublicIPs" => all_ips(&usable(interfaces, |address| !address.is_private())),
        "GetInterfaceIP" => {
            let wanted = arguments.text()?;
            let mut own = keep(interfaces, |address| address.name == wanted && address.is_forwardable());
            own.sort_by(|a, b| by("type", a, b).then_with(|| by("size", a, b)));
            first_ip(&own)
        }
        "GetInterfaceIPs" => {
            let wanted = arguments.text()?;
            all_ips(&keep(interfaces, |address| address.name == wanted))
        }
        "include" | "exclude" => {
            let (selector, wanted) = (arguments.text()?, arguments.text()?);
            let matches = selector_of(&selector, &wanted)?;
            let included = name == "include";
            Value::Addresses(keep(&arguments.addresses()?, |address| matches(address) == included))
        }
        "sort" => sort(&arguments.text()?, arguments.addresses()?)?,
        "limit" => {
            let count = usize::try_from(arguments.number()?).map_err(|_| "limit must not be negative")?;
            let mut all = arguments.addresses()?;
            all.truncate(count);
            Value::Addresses(all)
        }
        "offset" => {
            let count = arguments.number()?;
            let all = arguments.addresses()?;
            let skipped = match usize::try_from(count) {
                Ok(count) => count,
                Err(_) => all.len().saturating_sub(usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX)),
            };
            Value::Addresses(all.into_iter().skip(skipped).collect())
        }
        "unique" => unique(&arguments.text()?, arguments.addresses()?)?,
        "math" => {
            let (operation, value) = (arguments.text()?, arguments.text()?);
            let all = arguments.addresses()?;
            Value::Addresses(all.into_iter().map(|address| math(&operation, &value, address)).collect::<Result<_>>()?)
        }
        "attr" => {
            let attribute = arguments.text()?;
            let all = arguments.addresses()?;
            Value::Text(all.first().map(|address| attr(&attribute, address)).unwrap_or_default())
        }
        "join" => {
            let (attribute, separator) = (arguments.text()?, arguments.text()?);
            let texts: Vec<String> = arguments.addresses()?.iter().map(|address| attr(&attribute, address)).collect();
            Value::Text(texts.join(&separator))
        }
        "print" => Value::Text(arguments.by_ref().map(|value| value.to_string()).collect()),
        "printf" => printf(&arguments.text()?, &mut arguments)?,
        "len" => Value::Number(match arguments.one()? {
            Value::Text(text) => text.len() as i64,
            Value::Addresses(all) => all.len() as i64,
            other => return Err(format!("len of {other}")),
        }),
        "index" => {
            let all = arguments.addresses()?;
            let position = arguments.number()?;
            let found = usize::try_from(position).ok().and_then(|position| all.into_iter().nth(position));
            Value::Address(found.ok_or_else(|| format!("index out of range: {position}"))?)
        }
        "eq" => {
            let first = arguments.one()?;
            Value::Bool(arguments.by_ref().any(|other| other == first))
        }
        "ne" => Value::Bool(arguments.one()? != arguments.one()?),
        "not" => Value::Bool(!arguments.one()?.is_true()),
        "and" => {
            let mut value = arguments.one()?;
            while value.is_true() {
                match arguments.next() {
                    Some(next) => value = next,
                    None => break,
                }
            }
            return Ok(value);
        }
        "or" => {
            let mut value = arguments.one()?;
            while !value.is_true() {
                match arguments.next() {
                    Some(next) => value = next,
                    None => break,
                }
            }
            return Ok(value);
        }
        _ => return Err(format!("function {name:?} is not supported; there are: {SUPPORTED}")),
    };
    match arguments.next() {
        None => Ok(value),
        Some(_) => Err(format!("too many arguments for {name}")),
    }
}

struct Arguments<'a> {
    function: &'a str,
    rest: std::vec::IntoIter<Value>,
}

impl Iterator for Arguments<'_> {
    type Item = Value;

    fn next(&mut self) -> Option<Value> {
        self.rest.next()
    }
}

impl Arguments<'_> {
    fn one(&mut self) -> Result<Value> {
        self.next().ok_or_else(|| format!("not enough arguments for {}", self.function))
    }

    fn text(&mut self) -> Result<String> {
        match self.one()? {
            Value::Text(text) => Ok(text),
            other => Err(format!("{} wants a text, got {other}", self.function)),
        }
    }

    fn number(&mut self) -> Result<i64> {
        match self.one()? {
            Value::Number(number) => Ok(number),
            other => Err(format!("{} wants a number, got {other}", self.function)),
        }
    }

    fn addresses(&mut self) -> Result<Vec<InterfaceAddress>> {
        match self.one()? {
            Value::Addresses(all) => Ok(all),
            Value::Address(address) => Ok(vec![address]),
            other => Err(format!("{} wants interfaces, got {other:?}", self.function)),
        }
    }
}

fn keep(all: &[InterfaceAddress], wanted: impl Fn(&InterfaceAddress) -> bool) -> Vec<InterfaceAddress> {
    all.iter().filter(|address| wanted(address)).cloned().collect()
}

/// Those that are up and forwarded, best first: default route, type, size.
fn usable(all: &[InterfaceAddress], wanted: impl Fn(&InterfaceAddress) -> bool) -> Vec<InterfaceAddress> {
    let mut usable = keep(all, |address| address.has_flag("up") && address.is_forwardable() && wanted(address));
    usable.sort_by(|a, b| by("default", a, b).then_with(|| by("type", a, b)).then_with(|| by("size", a, b)));
    usable
}

fn first_ip(all: &[InterfaceAddress]) -> Value {
    Value::Text(all.first().map(|address| address.ip.to_string()).unwrap_or_default())
}

fn all_ips(all: &[InterfaceAddress]) -> Value {
    Value::Text(all.iter().map(|address| address.ip.to_string()).collect::<Vec<_>>().join(" "))
}

type Selector = Box<dyn Fn(&InterfaceAddress) -> bool>;

fn selector_of(selector: &str, wanted: &str) -> Result<Selector> {
    let regex = |pattern: &str| Regex::new(pattern).map_err(|_| format!("invalid regular expression {pattern:?}"));
    let owned = wanted.to_owned();
    Ok(match selector.to_ascii_lowercase().as_str() {
        "address" => {
            let regex = regex(wanted)?;
            Box::new(move |address| regex.is_match(&address.ip.to_string()))
        }
        "name" => {
            let regex = regex(wanted)?;
            Box::new(move |address| regex.is_match(&address.name))
        }
        "flag" | "flags" => {
            const KNOWN: &[&str] = &[
                "up",
                "loopback",
                "broadcast",
                "multicast",
                "point-to-point",
                "forwardable",
                "global unicast",
                "link-local unicast",
                "link_local",
                "unspecified",
            ];
            let flags: Vec<String> = owned.split('|').map(|flag| flag.trim().to_ascii_lowercase()).collect();
            if let Some(unknown) = flags.iter().find(|flag| !KNOWN.contains(&flag.as_str())) {
                return Err(format!("unknown flag {unknown:?}"));
            }
            Box::new(move |address| flags.iter().all(|flag| address.has_flag(flag)))
        }
        "type" => match wanted.to_ascii_lowercase().as_str() {
            "ip" => Box::new(|_| true),
            "ipv4" => Box::new(|address| address.ip.is_ipv4()),
            "ipv6" => Box::new(|address| address.ip.is_ipv6()),
            "unix" => Box::new(|_| false),
            other => return Err(format!("unknown type {other:?}")),
        },
        "network" => {
            let network = Network::parse(wanted).ok_or_else(|| format!("invalid network {wanted:?}"))?;
            Box::new(move |address| network.contains(address.ip))
        }
        "rfc" | "rfcs" => {
            let numbers: Vec<u32> = owned
                .split([',', '|'])
                .map(|number| number.trim().parse().map_err(|_| format!("invalid RFC {number:?}")))
                .collect::<Result<_>>()?;
            let probe = IpAddr::from([127, 0, 0, 1]);
            if let Some(unknown) = numbers.iter().find(|number| in_rfc(probe, **number).is_none()) {
                return Err(format!("no address ranges known for RFC {unknown}"));
            }
            Box::new(move |address| numbers.iter().any(|number| in_rfc(address.ip, *number) == Some(true)))
        }
        "port" => {
            let wanted: i64 = wanted.parse().map_err(|_| format!("invalid port {owned:?}"))?;
            Box::new(move |_| wanted == 0) // addresses of interfaces have no port
        }
        "size" => {
            let wanted: u8 = wanted.trim_start_matches('/').parse().map_err(|_| format!("invalid size {owned:?}"))?;
            Box::new(move |address| address.prefix == wanted)
        }
        other => return Err(format!("unknown selector {other:?}")),
    })
}

fn by(key: &str, a: &InterfaceAddress, b: &InterfaceAddress) -> Ordering {
    match key {
        "address" => a.ip.cmp(&b.ip),
        "default" => b.default_route.cmp(&a.default_route),
        "name" => a.name.cmp(&b.name),
        "private" => b.is_private().cmp(&a.is_private()),
        // The smaller network, so the longer prefix, first.
        "size" => b.prefix.cmp(&a.prefix),
        "type" => a.ip.is_ipv6().cmp(&b.ip.is_ipv6()),
        _ => Ordering::Equal, // "port": all are equal
    }
}

fn sort(keys: &str, mut all: Vec<InterfaceAddress>) -> Result<Value> {
    let mut parsed = Vec::new();
    for key in keys.split(',').map(str::trim) {
        let (descending, key) = match key.strip_prefix('-') {
            Some(key) => (true, key),
            None => (false, key.strip_prefix('+').unwrap_or(key)),
        };
        if !["address", "default", "name", "port", "private", "size", "type"].contains(&key) {
            return Err(format!("unknown sort key {key:?}"));
        }
        parsed.push((descending, key));
    }
    all.sort_by(|a, b| {
        parsed.iter().fold(Ordering::Equal, |order, (descending, key)| {
            order.then_with(|| if *descending { by(key, b, a) } else { by(key, a, b) })
        })
    });
    Ok(Value::Addresses(all))
}

fn unique(attribute: &str, all: Vec<InterfaceAddress>) -> Result<Value> {
    if !["address", "name"].contains(&attribute) {
        return Err(format!("unique knows address and name, not {attribute:?}"));
    }
    let mut seen = BTreeSet::new();
    Ok(Value::Addresses(all.into_iter().filter(|address| seen.insert(attr(attribute, address))).collect()))
}

/// Adds to an address, or to the base of its network (counting from the end when negative), or sets its mask.
fn math(operation: &str, value: &str, address: InterfaceAddress) -> Result<InterfaceAddress> {
    if operation == "mask" {
        let longest = if address.ip.is_ipv4() { 32 } else { 128 };
        let prefix = value.trim_start_matches('/').parse().ok().filter(|prefix| *prefix <= longest);
        let prefix = prefix.ok_or_else(|| format!("invalid mask {value:?}"))?;
        return Ok(InterfaceAddress { prefix, ..address });
    }
    let amount: i128 = value.parse().map_err(|_| format!("math wants a number with its sign, got {value:?}"))?;
    let from = match (operation, amount < 0) {
        ("address", _) => address.ip,
        ("network", false) => address.network().base(),
        ("network", true) => last(&address),
        (other, _) => return Err(format!("unknown math operation {other:?}")),
    };
    let ip = match from {
        IpAddr::V4(ip) => {
            let sum = i128::from(u32::from(ip)).wrapping_add(amount).rem_euclid(1 << 32);
            IpAddr::V4(u32::try_from(sum).unwrap_or_default().into())
        }
        #[expect(clippy::cast_sign_loss, reason = "two's complement wraps around as it should")]
        IpAddr::V6(ip) => IpAddr::V6(u128::from(ip).wrapping_add(amount as u128).into()),
    };
    Ok(InterfaceAddress { ip, ..address })
}

fn last(address: &InterfaceAddress) -> IpAddr {
    match address.ip {
        IpAddr::V4(ip) => IpAddr::V4((u32::from(ip) | !mask_v4(address.prefix)).into()),
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) | !mask_v6(address.prefix)).into()),
    }
}

/// An attribute as text; empty for one that nobody knows.
fn attr(attribute: &str, address: &InterfaceAddress) -> String {
    let ip = address.ip;
    let network = address.network();
    match attribute.to_ascii_lowercase().as_str() {
        "address" | "host" => ip.to_string(),
        "name" => address.name.clone(),
        "flags" => address.flags.join("|"),
        "type" => if ip.is_ipv4() { "IPv4" } else { "IPv6" }.to_owned(),
        "size" => {
            let host_bits = if ip.is_ipv4() { 32 } else { 128 } - u32::from(address.prefix);
            1_u128
                .checked_shl(host_bits)
                .map_or_else(|| "340282366920938463463374607431768211456".into(), |n| n.to_string())
        }
        "network" => format!("{}/{}", network.base(), network.prefix()),
        "netmask" => match ip {
            IpAddr::V4(_) => IpAddr::V4(mask_v4(address.prefix).into()).to_string(),
            IpAddr::V6(_) => IpAddr::V6(mask_v6(address.prefix).into()).to_string(),
        },
        "mask" => match ip {
            IpAddr::V4(_) => format!("{:08x}", mask_v4(address.prefix)),
            IpAddr::V6(_) => format!("{:032x}", mask_v6(address.prefix)),
        },
        "mask_bits" => address.prefix.to_string(),
        "first_usable" => match network.base() {
            IpAddr::V4(base) if address.prefix < 31 => IpAddr::V4((u32::from(base) + 1).into()).to_string(),
            base => base.to_string(),
        },
        "last_usable" => match last(address) {
            IpAddr::V4(end) if address.prefix < 31 => IpAddr::V4((u32::from(end) - 1).into()).to_string(),
            end => end.to_string(),
        },
        "broadcast" if ip.is_ipv4() => last(address).to_string(),
        "port" => "0".to_owned(),
        "string" => format!("{ip}/{}", address.prefix),
        "octets" => octets(ip).iter().map(u8::to_string).collect::<Vec<_>>().join(" "),
        "hex" => octets(ip).iter().map(|octet| format!("{octet:02x}")).collect(),
        "binary" => octets(ip).iter().map(|octet| format!("{octet:08b}")).collect(),
        "uint32" => match ip {
            IpAddr::V4(ip) => u32::from(ip).to_string(),
            IpAddr::V6(_) => String::new(),
        },
        "uint128" => match ip {
            IpAddr::V6(ip) => u128::from(ip).to_string(),
            IpAddr::V4(_) => String::new(),
        },
        _ => String::new(),
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// `.Name` and the like inside `range` and `with`.
pub(super) fn field(value: &Value, name: &str) -> Result<Value> {
    match value {
        Value::Address(address) => match name {
            "Name" => Ok(Value::Text(address.name.clone())),
            "SockAddr" | "IP" => Ok(Value::Text(address.ip.to_string())),
            _ => Err(format!("can't evaluate field {name}; use attr")),
        },
        _ => Err(format!("can't evaluate field {name}")),
    }
}

fn printf(format: &str, arguments: &mut Arguments<'_>) -> Result<Value> {
    let mut text = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        match characters.next() {
            Some('%') => text.push('%'),
            Some('s' | 'v' | 'd') => text.push_str(&arguments.one()?.to_string()),
            Some('q') => text.push_str(&format!("{:?}", arguments.one()?.to_string())),
            other => return Err(format!("printf knows %s %v %d %q, not %{}", other.unwrap_or(' '))),
        }
    }
    Ok(Value::Text(text))
}
