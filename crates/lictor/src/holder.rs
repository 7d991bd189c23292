//! Who listens on a port of this machine, for errors about one that is taken.

use std::fs;
use std::net::{IpAddr, SocketAddr};

/// The process that has bound the port of an address, `redis-server (pid 7)`: of those that this user may look at.
pub(crate) fn of(address: SocketAddr, transport: &str) -> Option<String> {
    let tables = [format!("/proc/net/{transport}"), format!("/proc/net/{transport}6")];
    let lines: String = tables.iter().filter_map(|table| fs::read_to_string(table).ok()).collect();
    let inodes: Vec<&str> = lines.lines().filter_map(|line| bound(line, address, transport)).collect();
    let links: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) else { continue };
        let Ok(files) = fs::read_dir(process.path().join("fd")) else { continue };
        let mut targets = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
        if targets.any(|target| links.iter().any(|link| target.as_os_str() == link.as_str())) {
            let comm = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", comm.trim()));
        }
    }
    None
}

/// The inode of a line of `/proc/net/tcp` that stands in the way of binding this address.
fn bound<'a>(line: &'a str, address: SocketAddr, transport: &str) -> Option<&'a str> {
    const LISTENING: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (ip, port) = fields.get(1)?.split_once(':')?;
    let is_it = u16::from_str_radix(port, 16).ok()? == address.port();
    let listens = transport != "tcp" || *fields.get(3)? == LISTENING;
    let overlaps = match address.ip() {
        // The bytes of each word stand in the order of the machine.
        IpAddr::V4(own) if ip.len() == 8 => {
            let other = u32::from_str_radix(ip, 16).ok()?;
            other == 0 || own.is_unspecified() || other == u32::from_ne_bytes(own.octets())
        }
        // One for all addresses of version 6 often takes those of version 4 as well.
        _ => ip.len() == 32 && (ip.bytes().all(|byte| byte == b'0') || address.is_ipv6()),
    };
    (is_it && listens && overlaps).then(|| fields.get(9).copied()).flatten()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn a_listener_of_this_process_is_found() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let own = format!("(pid {})", std::process::id());
        let holders = [of(tcp.local_addr().unwrap(), "tcp"), of(udp.local_addr().unwrap(), "udp")];
        assert!(holders.iter().all(|holder| holder.as_ref().is_some_and(|text| text.ends_with(&own))), "{holders:?}");
        let any = SocketAddr::from(([0, 0, 0, 0], tcp.local_addr().unwrap().port()));
        assert!(of(any, "tcp").is_some_and(|text| text.ends_with(&own)));
    }
}
