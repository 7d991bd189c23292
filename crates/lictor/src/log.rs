//! The log: one line per event in the original's form, with a level that can be changed and readers that can follow.
//!
//! A subscriber of our own instead of a stack of layers: there are no spans in this program, a proxy must start in
//! milliseconds, and the form of a line is fixed by scripts that read it.

mod file;
mod syslog;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use file::{LogFile, Rotation};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};
use lictor_http::config::LogLevel;
use tokio::sync::mpsc;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::config::check::Log as Settings;
use syslog::Syslog;

/// Lines kept for readers that come later, and lines a reader may be behind before it loses some.
const KEPT_LINES: usize = 512;
/// What is kept whether it is printed or not. Below that there is a line for every request.
const ALWAYS_KEPT: LogLevel = LogLevel::Info;

static LOG: OnceLock<Log> = OnceLock::new();

/// The time of day here, for what people read.
///
/// The library would find out the name of the zone by going through all that the system knows, which takes a proxy as
/// long as the rest of its start; the rules themselves are in one file.
fn local_time() -> ZonedDateTime {
    static ZONE: OnceLock<TimeZone> = OnceLock::new();
    let zone = ZONE.get_or_init(|| {
        let rules = || TimeZone::tzif("Local", &std::fs::read("/etc/localtime").ok()?).ok();
        // A variable names a zone, for which the library has to look.
        if std::env::var_os("TZ").is_some() { None } else { rules() }.unwrap_or_else(TimeZone::system)
    });
    Timestamp::now().to_zoned_datetime(zone.clone())
}

/// The names a level goes by, from most to least.
pub(crate) const LEVELS: [&str; 5] = ["TRACE", "DEBUG", "INFO", "WARN", "ERR"];

/// How often the syslog is tried at the start, and the pause between two tries.
const SYSLOG_TRIES: u32 = 12;
const SYSLOG_PAUSE: Duration = Duration::from_secs(5);

/// The one log of the process.
pub(crate) struct Log {
    level: AtomicU8,
    copies: Mutex<Copies>,
    indent: &'static str,
    kept: Option<Mutex<Kept>>,
    /// The least that is kept: what nobody prints or follows costs nothing, and does not push out what is worth reading.
    kept_from: AtomicU8,
}

/// Where lines go beside standard output.
#[derive(Default)]
struct Copies {
    file: Option<LogFile>,
    syslog: Option<Syslog>,
    /// Whether a copy failed: said once, until it works again.
    failing: bool,
}

impl Copies {
    fn write(&mut self, level: LogLevel, line: &str, text: &str) {
        let filed = self.file.as_mut().map_or(Ok(()), |file| file.write(line.as_bytes()));
        let told = self.syslog.as_mut().map_or(Ok(()), |syslog| syslog.write(level, text));
        let failed = filed.and(told);
        if let (Err(error), false) = (&failed, self.failing) {
            crate::cli::complain(&format!("==> cannot write the log: {error}"));
        }
        self.failing = failed.is_err();
    }
}

#[derive(Default)]
struct Kept {
    lines: VecDeque<(LogLevel, Bytes)>,
    followers: Vec<(LogLevel, mpsc::Sender<Bytes>)>,
}

/// Whether lines are kept for followers (an agent) or only printed (a proxy, which must stay small).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// The last lines stay readable.
    Lines,
    /// Nothing is kept.
    Nothing,
}

/// Reads a level as users write it; the error is the text they know.
pub(crate) fn parse_level(text: &str) -> Result<LogLevel, String> {
    LogLevel::parse(text)
        .ok_or_else(|| format!("Invalid log level: {text}. Valid log levels are: [{}]", LEVELS.join(" ")))
}

/// Starts logging to standard output.
pub(crate) fn start(level: LogLevel, keep: Keep) -> &'static Log {
    let log = LOG.get_or_init(|| Log {
        level: AtomicU8::new(level as u8),
        copies: Mutex::default(),
        indent: "    ",
        kept: (keep == Keep::Lines).then(Mutex::default),
        kept_from: AtomicU8::new(ALWAYS_KEPT as u8),
    });
    // Fails only when a subscriber is there already, which is this one.
    let _ = tracing::subscriber::set_global_default(Printer { log });
    log
}

impl Log {
    /// Starts the copies that the settings ask for; the error is the text for the user. A syslog that is not there yet
    /// is waited for, for a minute.
    pub(crate) fn copy(&self, settings: &Settings) -> Result<(), String> {
        let Settings { level: _, level_text: _, file, rotate_bytes, rotate_after, syslog_facility } = settings;
        let file = file.as_deref().map(|path| {
            LogFile::open(Rotation::new(path, *rotate_bytes, *rotate_after))
                .map_err(|error| format!("cannot write log_file {}: {error}", path.display()))
        });
        let syslog = syslog_facility.as_deref().map(|facility| {
            let mut tries = 1;
            loop {
                match Syslog::open(facility) {
                    Ok(syslog) => return Ok(syslog),
                    Err(error) if tries == SYSLOG_TRIES => return Err(format!("Syslog setup error: {error}")),
                    Err(error) => {
                        let pause = SYSLOG_PAUSE.as_secs();
                        crate::cli::complain(&format!("Syslog setup error: {error}\nRetrying in {pause} seconds..."));
                    }
                }
                tries += 1;
                std::thread::sleep(SYSLOG_PAUSE);
            }
        });
        let (file, syslog) = (file.transpose()?, syslog.transpose()?);
        *self.copies.lock().unwrap_or_else(PoisonError::into_inner) = Copies { file, syslog, failing: false };
        Ok(())
    }

    /// Changes what is printed.
    pub(crate) fn set_level(&self, level: LogLevel) {
        self.level.store(level as u8, Ordering::Relaxed);
        tracing::callsite::rebuild_interest_cache();
    }

    /// The kept lines of a level and above, then each new one.
    pub(crate) fn follow(&self, level: LogLevel) -> mpsc::Receiver<Bytes> {
        let (sender, receiver) = mpsc::channel(KEPT_LINES);
        if let Some(kept) = &self.kept {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            for (of, line) in &kept.lines {
                if *of as u8 >= level as u8 {
                    // The channel holds as many lines as are kept.
                    let _ = sender.try_send(line.clone());
                }
            }
            kept.followers.push((level, sender));
            self.keep_from(&kept);
        }
        tracing::callsite::rebuild_interest_cache();
        receiver
    }

    /// With the lines locked, so that the followers are those that are there.
    fn keep_from(&self, kept: &Kept) {
        let least = kept.followers.iter().map(|(level, _)| *level as u8).chain([ALWAYS_KEPT as u8]).min();
        self.kept_from.store(least.unwrap_or(ALWAYS_KEPT as u8), Ordering::Relaxed);
    }

    /// Whether a line of a level goes anywhere.
    fn takes(&self, level: LogLevel) -> bool {
        self.wants(level) || self.kept.is_some() && level as u8 >= self.kept_from.load(Ordering::Relaxed)
    }

    fn wants(&self, level: LogLevel) -> bool {
        level as u8 >= self.level.load(Ordering::Relaxed)
    }

    fn put(&self, level: LogLevel, text: &str) {
        let text = &*one_line(text);
        let now = local_time();
        let mut line = String::with_capacity(text.len() + 48);
        let _ = write!(
            line,
            "{}{:04}/{:02}/{:02} {:02}:{:02}:{:02} [{}] {text}",
            self.indent,
            now.year(),
            now.month(),
            now.day(),
            now.hour(),
            now.minute(),
            now.second(),
            LEVELS[level as usize]
        );
        if self.wants(level) {
            // One write per line, so that lines of several writers do not mix. A closed output is nobody's fault.
            let mut out = std::io::stdout().lock();
            let _ = writeln!(out, "{line}");
            drop(out);
            let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
            copies.write(level, line.get(self.indent.len()..).unwrap_or_default(), text);
        }
        if let Some(kept) = &self.kept {
            let line = Bytes::from(line.split_off(self.indent.len()));
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            let before = kept.followers.len();
            kept.followers.retain(|(wanted, follower)| {
                if level as u8 >= *wanted as u8 {
                    // One that is too far behind loses the line.
                    let _ = follower.try_send(line.clone());
                }
                !follower.is_closed()
            });
            kept.lines.push_back((level, line));
            if kept.lines.len() > KEPT_LINES {
                kept.lines.pop_front();
            }
            if kept.followers.len() < before {
                self.keep_from(&kept);
                drop(kept);
                tracing::callsite::rebuild_interest_cache();
            }
        }
    }
}

/// A text that nobody can take for another line, and that does nothing to a terminal: names of services and what programs
/// say are in it. Further lines are set in, so that they begin like no line of their own.
fn one_line(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '\n' => plain.push_str("\n    "),
            '\t' => plain.push(character),
            _ if character.is_control() => plain.extend(character.escape_default()),
            _ => plain.push(character),
        }
    }
    Cow::Owned(plain)
}

struct Printer {
    log: &'static Log,
}

fn level_of(metadata: &Metadata<'_>) -> LogLevel {
    match *metadata.level() {
        Level::TRACE => LogLevel::Trace,
        Level::DEBUG => LogLevel::Debug,
        Level::INFO => LogLevel::Info,
        Level::WARN => LogLevel::Warn,
        Level::ERROR => LogLevel::Err,
    }
}

impl Subscriber for Printer {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Whoever asks whether a level is wanted (`enabled!`) is neither.
        if metadata.is_span() {
            return false;
        }
        let level = level_of(metadata);
        // Other crates speak of their own affairs: only what they warn about concerns our users.
        let ours = metadata.target().starts_with("lictor");
        let floor = if ours { LogLevel::Trace } else { LogLevel::Warn };
        level as u8 >= floor as u8 && self.log.takes(level)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        self.log.put(level_of(event.metadata()), &text.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // A String takes every write.
        let _ = if field.name() == "message" {
            write!(self.0, "{value:?}")
        } else {
            write!(self.0, " {}={value:?}", field.name())
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_in_any_case_and_others_are_named() {
        assert_eq!(parse_level("warn"), Ok(LogLevel::Warn));
        assert_eq!(
            parse_level("WHAT"),
            Err("Invalid log level: WHAT. Valid log levels are: [TRACE DEBUG INFO WARN ERR]".into())
        );
    }

    #[test]
    fn a_text_makes_no_line_that_looks_like_one_of_the_log() {
        assert!(matches!(one_line("wéb: started"), Cow::Borrowed("wéb: started")));
        assert_eq!(one_line("a\n2026/11/27 23:50:37 [INFO] b"), "a\n    2026/11/27 23:50:37 [INFO] b");
        assert_eq!(one_line("a\x1b[31m\rb\u{9b}c\td"), "a\\u{1b}[31m\\rb\\u{9b}c\td");
    }

    #[test]
    fn a_follower_gets_what_was_and_what_comes() {
        let log = Log {
            level: AtomicU8::new(LogLevel::Err as u8),
            copies: Mutex::default(),
            indent: "    ",
            kept: Some(Mutex::default()),
            kept_from: AtomicU8::new(ALWAYS_KEPT as u8),
        };
        log.put(LogLevel::Info, "before");
        log.put(LogLevel::Debug, "not wanted");
        let mut lines = log.follow(LogLevel::Info);
        log.put(LogLevel::Warn, "after");
        let text = |line: Bytes| String::from_utf8(line.to_vec()).unwrap();
        let taken = || [LogLevel::Trace, LogLevel::Debug, LogLevel::Info].map(|level| log.takes(level));
        assert_eq!(taken(), [false, false, true]);
        let more = log.follow(LogLevel::Debug);
        assert_eq!(taken(), [false, true, true]);
        drop(more);
        log.put(LogLevel::Debug, "for nobody");
        assert_eq!(taken(), [false, false, true], "whoever followed is gone");
        assert!(text(lines.try_recv().unwrap()).ends_with("[INFO] before"));
        assert!(text(lines.try_recv().unwrap()).ends_with("[WARN] after"));
        assert!(lines.try_recv().is_err());
        // Nothing is left of it with the next line, whether it would have wanted that or not.
        drop(lines);
        log.put(LogLevel::Debug, "later");
        assert!(log.kept.unwrap().into_inner().unwrap().followers.is_empty());
    }
}
