//! The log at the machine's syslog.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use lictor_http::config::LogLevel;

/// Where syslogs listen.
const SOCKETS: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];
/// What lines are filed under; rules of existing machines look for it.
const TAG: &str = "consul";
/// Facilities in the order of their numbers; 12 to 15 have no name here.
const FACILITIES: [&str; 24] = [
    "KERN", "USER", "MAIL", "DAEMON", "AUTH", "SYSLOG", "LPR", "NEWS", "UUCP", "CRON", "AUTHPRIV", "FTP", "", "", "",
    "", "LOCAL0", "LOCAL1", "LOCAL2", "LOCAL3", "LOCAL4", "LOCAL5", "LOCAL6", "LOCAL7",
];

/// A connection to the syslog.
pub(crate) struct Syslog {
    socket: UnixDatagram,
    sockets: Vec<PathBuf>,
    facility: usize,
}

impl Syslog {
    /// Connects.
    pub(crate) fn open(facility: &str) -> io::Result<Syslog> {
        Syslog::at(SOCKETS.map(PathBuf::from).to_vec(), facility)
    }

    fn at(sockets: Vec<PathBuf>, facility: &str) -> io::Result<Syslog> {
        let facility = FACILITIES.iter().position(|known| known.eq_ignore_ascii_case(facility));
        let facility = facility.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "unknown facility"))?;
        Ok(Syslog { socket: connect(&sockets)?, sockets, facility })
    }

    /// Sends a line; `text` is what follows the level.
    pub(crate) fn write(&mut self, level: LogLevel, text: &str) -> io::Result<()> {
        let (severity, word) = match level {
            LogLevel::Trace => (7, "TRACE"),
            LogLevel::Debug => (6, "DEBUG"),
            LogLevel::Info => (5, "INFO"),
            LogLevel::Warn => (4, "WARN"),
            LogLevel::Err => (3, "ERR"),
        };
        let now = super::local_time().strftime("%b %e %H:%M:%S").to_string();
        let line = format!("<{}>{now} {TAG}[{}]: [{word}] {text}\n", self.facility * 8 + severity, std::process::id());
        if self.socket.send(line.as_bytes()).is_ok() {
            return Ok(());
        }
        // A syslog that was restarted has another socket behind the same name.
        self.socket = connect(&self.sockets)?;
        self.socket.send(line.as_bytes()).map(drop)
    }
}

fn connect(sockets: &[PathBuf]) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    // A syslog that hangs must not hang us.
    socket.set_nonblocking(true)?;
    for path in sockets {
        if socket.connect(path).is_ok() {
            return Ok(socket);
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "Unix syslog delivery error"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_the_form_of_the_local_syslog_and_survive_its_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        assert!(Syslog::at(vec![path.clone()], "LOCAL0").is_err());
        let daemon = UnixDatagram::bind(&path).unwrap();
        let mut syslog = Syslog::at(vec![folder.path().join("other"), path.clone()], "local0").unwrap();
        let mut buffer = [0; 1024];
        syslog.write(LogLevel::Warn, "agent: what happened").unwrap();
        let length = daemon.recv(&mut buffer).unwrap();
        let line = String::from_utf8_lossy(&buffer[..length]).into_owned();
        assert!(line.starts_with("<132>"), "{line}");
        assert!(line.ends_with(&format!(" consul[{}]: [WARN] agent: what happened\n", std::process::id())), "{line}");
        drop(daemon);
        std::fs::remove_file(&path).unwrap();
        let again = UnixDatagram::bind(&path).unwrap();
        syslog.write(LogLevel::Err, "after").unwrap();
        let length = again.recv(&mut buffer).unwrap();
        assert!(buffer[..length].starts_with(b"<131>"));
        assert!(Syslog::at(vec![path], "LOCAL9").is_err());
    }
}
