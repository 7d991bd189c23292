//! What managed proxies print: kept small, shown and followed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lictor_model::acl::Caller;
use lictor_model::name::ServiceId;
use tokio::sync::mpsc;

use crate::Error;
use crate::agent::{Agent, Inner};

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often a follower looks for more.
const FOLLOW: Duration = Duration::from_millis(250);
/// How often files of proxies that are no more are looked for.
const SWEEP: Duration = Duration::from_secs(3600);
/// Lines that may wait for a slow reader.
const WAITING_LINES: usize = 1024;

/// Which of its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output alone.
    Stdout,
    /// Standard error alone.
    Stderr,
    /// Both, the former first.
    Both,
}

/// A line that is longer is told in pieces: what never ends must not be collected for ever.
const LONGEST_LINE: usize = 1 << 20;

impl Agent {
    /// The last lines that a managed proxy printed and, when asked for, all that follow. The channel ends with them, or
    /// when the agent stops.
    pub fn proxy_output(
        &self,
        caller: &Caller,
        id: &str,
        stream: Stream,
        lines: usize,
        follow: bool,
    ) -> Result<mpsc::Receiver<Bytes>, Error> {
        let process = self.managed_process(caller, id)?;
        let inner = Arc::clone(&self.inner);
        let [stdout, stderr] = inner.log_files(&process.id);
        let files = match stream {
            Stream::Stdout => vec![stdout],
            Stream::Stderr => vec![stderr],
            Stream::Both => vec![stdout, stderr],
        };
        let (sender, receiver) = mpsc::channel(WAITING_LINES);
        tokio::spawn(async move {
            let stop = inner.stop.clone();
            // A reader that goes away ends it by closing the channel.
            stop.or_stopped(inner.send_lines(files, lines, follow, sender)).await;
        });
        Ok(receiver)
    }
}

impl Inner {
    /// Where standard output and standard error of a managed proxy go.
    pub(crate) fn log_files(&self, id: &ServiceId) -> [PathBuf; 2] {
        let folder = self.proxy_dir().join("logs");
        let file = lictor_supervisor::file_name(id.as_str());
        [folder.join(format!("{file}-stdout.log")), folder.join(format!("{file}-stderr.log"))]
    }

    async fn send_lines(&self, files: Vec<PathBuf>, lines: usize, follow: bool, sender: mpsc::Sender<Bytes>) {
        let logs = self.logs.clone();
        let first = tokio::task::spawn_blocking(move || {
            // First the end is noted, then what is before it is read: a line may come twice but is never missed.
            let mut all = Vec::new();
            for path in files {
                let reader = logs.follow(&path);
                all.push((logs.last_lines(&path, lines, 0), reader));
            }
            all
        });
        let Ok(first) = first.await else { return };
        let mut readers = Vec::new();
        for (last, reader) in first {
            for line in last.unwrap_or_else(|error| vec![format!("cannot read it: {error}")]) {
                if sender.send(line.into()).await.is_err() {
                    return;
                }
            }
            readers.push((reader, Vec::new()));
        }
        while follow && !sender.is_closed() {
            let read = tokio::task::spawn_blocking(move || {
                for (reader, rest) in &mut readers {
                    match reader.read() {
                        Ok(mut more) => rest.append(&mut more),
                        Err(error) => tracing::debug!("agent/proxy: cannot follow a log file: {error}"),
                    }
                }
                readers
            });
            let Ok(back) = read.await else { return };
            readers = back;
            for (_, rest) in &mut readers {
                for line in whole_lines(rest) {
                    if sender.send(line).await.is_err() {
                        return;
                    }
                }
            }
            tokio::time::sleep(FOLLOW).await;
        }
    }

    /// Rotates log files, and removes those of proxies that are no more, until told to stop.
    pub(crate) async fn keep_logs(self: Arc<Self>) {
        let mut told: BTreeMap<PathBuf, String> = BTreeMap::new();
        let mut swept: Option<Instant> = None;
        while self.stop.or_stopped(tokio::time::sleep(LOOK)).await.is_some() {
            let ids: Vec<ServiceId> = self.registry.lock().proxies.keys().cloned().collect();
            let files: BTreeSet<PathBuf> = ids.iter().flat_map(|id| self.log_files(id)).collect();
            let sweep = swept.is_none_or(|last| last.elapsed() >= SWEEP);
            if sweep {
                swept = Some(Instant::now());
            }
            let (logs, folder) = (self.logs.clone(), self.proxy_dir().join("logs"));
            let retention = self.config.connect.log_retention;
            let work = tokio::task::spawn_blocking(move || {
                if sweep && let Ok(removed @ 1..) = logs.forget(&folder, &files, retention) {
                    tracing::info!("agent/proxy: removed {removed} log files of proxies that are no more");
                }
                let rotated = files.into_iter().map(|path| (logs.rotate(&path), path));
                rotated.map(|(outcome, path)| (path, outcome.err())).collect::<Vec<_>>()
            });
            for (path, problem) in work.await.unwrap_or_default() {
                match problem.map(|error| error.to_string()) {
                    None => {
                        told.remove(&path);
                    }
                    Some(text) if told.get(&path) == Some(&text) => {}
                    Some(text) => {
                        tracing::warn!("agent/proxy: cannot rotate {path:?}, it grows: {text}");
                        told.insert(path, text);
                    }
                }
            }
        }
    }
}

/// Takes the lines that have ended off a text.
fn whole_lines(text: &mut Vec<u8>) -> Vec<Bytes> {
    let end = match text.iter().rposition(|byte| *byte == b'\n') {
        Some(last) => last + 1,
        None if text.len() >= LONGEST_LINE => text.len(),
        None => return Vec::new(),
    };
    let rest = text.split_off(end);
    let whole = std::mem::replace(text, rest);
    let whole = whole.strip_suffix(b"\n").unwrap_or(&whole);
    whole.split(|byte| *byte == b'\n').map(Bytes::copy_from_slice).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_when_they_have_ended_and_one_that_does_not_end_in_pieces() {
        let mut text = b"one\n\nth".to_vec();
        assert_eq!(whole_lines(&mut text), ["one", ""]);
        assert!(whole_lines(&mut text).is_empty());
        text.extend_from_slice(b"ree\n");
        assert_eq!(whole_lines(&mut text), ["three"]);
        assert!(text.is_empty());
        text.resize(LONGEST_LINE - 1, b'x');
        assert!(whole_lines(&mut text).is_empty());
        text.push(b'x');
        assert_eq!(whole_lines(&mut text).iter().map(Bytes::len).collect::<Vec<_>>(), [LONGEST_LINE]);
        assert!(text.is_empty());
    }
}
