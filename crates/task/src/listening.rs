//! Who has bound a port of this machine, as the kernel's tables of sockets tell: for errors about one that is taken, and to know
//! whether a process listens.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// The process that has bound the port of an address for `tcp` or `udp`, `redis-server (pid 7)`: of those that this user may
/// look at.
pub fn holder(address: SocketAddr, transport: &str) -> Option<String> {
    let tables = tables(Path::new("/proc"), transport);
    let is_in_the_way =
        |socket: &Bound<'_>| (transport != "tcp" || socket.listens) && socket.keeps_others_from(address);
    let inodes: HashSet<u64> =
        tables.iter().flat_map(|table| bound(table)).filter(is_in_the_way).map(|socket| socket.inode).collect();
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) else { continue };
        let Some(mut sockets) = sockets_of(&process.path()) else { continue };
        if sockets.any(|inode| inodes.contains(&inode)) {
            let comm = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", comm.trim()));
        }
    }
    None
}

/// Whether a process listens for TCP connections; `None` when that cannot be known.
pub fn listens(pid: i32) -> Option<bool> {
    let process = Path::new("/proc").join(pid.to_string());
    let sockets: HashSet<u64> = sockets_of(&process)?.collect();
    // It has a network namespace, which need not be ours.
    let tables = tables(&process, "tcp");
    if tables.is_empty() {
        return None;
    }
    Some(tables.iter().flat_map(|table| bound(table)).any(|socket| socket.listens && sockets.contains(&socket.inode)))
}

/// The inodes of the sockets that a process has, by its folder in `/proc`; `None` when this user may not look.
fn sockets_of(process: &Path) -> Option<impl Iterator<Item = u64> + use<>> {
    let files = fs::read_dir(process.join("fd")).ok()?;
    Some(files.flatten().filter_map(|file| inode_of(fs::read_link(file.path()).ok()?.as_os_str())))
}

/// The inode in `socket:[7]`.
fn inode_of(target: &OsStr) -> Option<u64> {
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The tables of a transport, of both versions of IP, as seen by whom the folder belongs to; those that can be read.
fn tables(process: &Path, transport: &str) -> Vec<String> {
    let names = [transport.to_owned(), format!("{transport}6")];
    names.iter().filter_map(|name| fs::read_to_string(process.join("net").join(name)).ok()).collect()
}

/// A line of such a table.
struct Bound<'a> {
    /// The bytes of each word of four stand in the order of the machine.
    ip: &'a str,
    port: u16,
    listens: bool,
    inode: u64,
}

fn bound(table: &str) -> impl Iterator<Item = Bound<'_>> {
    const LISTENING: &str = "0A";
    table.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (ip, port) = fields.next()?.split_once(':')?;
        let state = fields.nth(1)?;
        let inode = fields.nth(5)?.parse().ok()?;
        Some(Bound { ip, port: u16::from_str_radix(port, 16).ok()?, listens: state == LISTENING, inode })
    })
}

impl Bound<'_> {
    /// Whether it stands in the way of binding this address.
    fn keeps_others_from(&self, address: SocketAddr) -> bool {
        let overlaps = match address.ip() {
            IpAddr::V4(own) if self.ip.len() == 8 => u32::from_str_radix(self.ip, 16)
                .is_ok_and(|other| other == 0 || own.is_unspecified() || other == u32::from_ne_bytes(own.octets())),
            // One for all addresses of version 6 often takes those of version 4 as well.
            _ => self.ip.len() == 32 && (self.ip.bytes().all(|byte| byte == b'0') || address.is_ipv6()),
        };
        self.port == address.port() && overlaps
    }
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
        let holders = [holder(tcp.local_addr().unwrap(), "tcp"), holder(udp.local_addr().unwrap(), "udp")];
        assert!(holders.iter().all(|holder| holder.as_ref().is_some_and(|text| text.ends_with(&own))), "{holders:?}");
        let any = SocketAddr::from(([0, 0, 0, 0], tcp.local_addr().unwrap().port()));
        assert!(holder(any, "tcp").is_some_and(|text| text.ends_with(&own)));
    }

    #[test]
    fn who_listens_is_known_by_the_tables_of_the_kernel() {
        let line =
            "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100";
        let socket = bound(line).next().unwrap();
        assert_eq!((socket.port, socket.listens, socket.inode), (8080, true, 4711));
        assert!(!bound(&line.replace(" 0A ", " 01 ")).next().unwrap().listens);
        assert!(bound("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when").next().is_none());
        let _listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(listens(i32::try_from(std::process::id()).unwrap()), Some(true));
        let mut other = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        assert_eq!(listens(i32::try_from(other.id()).unwrap()), Some(false));
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
