//! Logs and metrics.

use std::path::PathBuf;
use std::time::Duration;

use super::Check;
use crate::config::Purpose;
use crate::config::report::Stage;

/// Logs.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    /// The lowest level that is shown.
    pub(crate) level: Level,
    /// The level as written, which managed proxies are started with.
    pub(crate) level_text: String,
    /// A file that gets the log as well, or a directory ending in `/`.
    pub(crate) file: Option<PathBuf>,
    /// Start a new file after so many bytes.
    pub(crate) rotate_bytes: Option<u64>,
    /// Start a new file after that time.
    pub(crate) rotate_after: Duration,
    /// Facility of syslog, when it gets the log as well.
    pub(crate) syslog_facility: Option<String>,
}

/// How much a log line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Err,
}

impl Level {
    /// Reads a level in any case.
    pub(crate) fn parse(text: &str) -> Option<Level> {
        match text.to_ascii_uppercase().as_str() {
            "TRACE" => Some(Level::Trace),
            "DEBUG" => Some(Level::Debug),
            "INFO" => Some(Level::Info),
            "WARN" => Some(Level::Warn),
            "ERR" => Some(Level::Err),
            _ => None,
        }
    }

    /// What is said about a text that is no level.
    pub(crate) fn refusal(text: &str) -> String {
        format!("Invalid log level: {text}. Valid log levels are: [TRACE DEBUG INFO WARN ERR]")
    }
}

/// Metrics.
#[derive(Clone, Debug)]
pub(crate) struct Telemetry {
    /// First part of every name.
    pub(crate) metrics_prefix: String,
    /// No host name in gauges.
    pub(crate) disable_hostname: bool,
    /// Whether metrics pass that no filter names.
    pub(crate) filter_default: bool,
    /// Prefixes that pass.
    pub(crate) allowed_prefixes: Vec<String>,
    /// Prefixes that do not.
    pub(crate) blocked_prefixes: Vec<String>,
    /// How long metrics are kept for Prometheus; zero is off.
    pub(crate) prometheus_retention: Duration,
    /// UDP sink, or empty.
    pub(crate) statsd_address: String,
    /// TCP sink, or empty.
    pub(crate) statsite_address: String,
    /// UDP sink with tags, or empty.
    pub(crate) dogstatsd_addr: String,
    /// Those tags.
    pub(crate) dogstatsd_tags: Vec<String>,
}

/// Reads and judges.
pub(crate) fn log(check: &mut Check<'_>) -> Log {
    let settings = check.settings;
    let level_text = settings.text("log_level").to_owned();
    let level = Level::parse(&level_text).unwrap_or_else(|| {
        check.refuse(Stage::Start, "log_level", Level::refusal(&level_text), "write one of these words");
        Level::Info
    });
    let rotate_bytes = settings.int("log_rotate_bytes");
    if rotate_bytes < 0 {
        let text = format!("log_rotate_bytes cannot be {rotate_bytes}. Must be greater than or equal to zero");
        check.refuse(Stage::Rules, "log_rotate_bytes", text, "write 0 for never, or a number of bytes");
    }
    let facility = settings.text("syslog_facility").to_owned();
    let syslog = settings.flag("enable_syslog");
    if syslog && !is_facility(&facility) {
        let text = format!("Syslog setup error: invalid syslog facility: {facility}");
        check.refuse(Stage::Start, "syslog_facility", text, "write a facility such as \"LOCAL0\" or \"DAEMON\"");
    }
    Log {
        level,
        level_text,
        file: file(check),
        rotate_bytes: u64::try_from(rotate_bytes).ok().filter(|bytes| *bytes > 0),
        rotate_after: settings.duration("log_rotate_duration").or_zero(),
        syslog_facility: syslog.then_some(facility),
    }
}

fn file(check: &mut Check<'_>) -> Option<PathBuf> {
    let text = check.settings.text("log_file");
    if text.is_empty() {
        return None;
    }
    let path = PathBuf::from(text);
    let directory = if text.ends_with('/') { Some(path.as_path()) } else { path.parent() };
    let directory = directory.filter(|directory| !directory.as_os_str().is_empty());
    let missing = directory.filter(|directory| !directory.is_dir()).map(|directory| directory.display().to_string());
    if let Some(missing) = missing {
        // The original would lose the log without a word.
        let text = format!("log_file: directory {missing} does not exist");
        let remedy = "make the directory, or name another";
        match check.purpose {
            Purpose::Run => check.refuse(Stage::Start, "log_file", text, remedy),
            // Files may be looked at on another machine than they are for.
            Purpose::Validate => check.warn(format!("config: {text}: {remedy}, or the agent does not start")),
        }
    }
    Some(path)
}

fn is_facility(text: &str) -> bool {
    const KNOWN: &[&str] = &[
        "KERN", "USER", "MAIL", "DAEMON", "AUTH", "SYSLOG", "LPR", "NEWS", "UUCP", "CRON", "AUTHPRIV", "FTP", "LOCAL0",
        "LOCAL1", "LOCAL2", "LOCAL3", "LOCAL4", "LOCAL5", "LOCAL6", "LOCAL7",
    ];
    KNOWN.contains(&text.to_ascii_uppercase().as_str())
}

/// Reads and judges.
pub(crate) fn telemetry(check: &mut Check<'_>) -> Telemetry {
    let settings = check.settings;
    let (mut allowed_prefixes, mut blocked_prefixes) = (Vec::new(), Vec::new());
    for rule in settings.texts("telemetry.prefix_filter") {
        match (rule.strip_prefix('+'), rule.strip_prefix('-')) {
            _ if rule.is_empty() => check.warn("Cannot have empty filter rule in prefix_filter"),
            (Some(prefix), _) => allowed_prefixes.push(prefix.to_owned()),
            (_, Some(prefix)) => blocked_prefixes.push(prefix.to_owned()),
            _ => check.warn(format!("Filter rule must begin with either '+' or '-': {rule:?}")),
        }
    }
    let dogstatsd_addr = settings.text("telemetry.dogstatsd_addr").to_owned();
    if !dogstatsd_addr.is_empty() && !dogstatsd_addr.contains(':') {
        let text = format!("address {dogstatsd_addr}: missing port in address");
        check.refuse(Stage::Start, "telemetry.dogstatsd_addr", text, "write host:port, usually :8125");
    }
    Telemetry {
        metrics_prefix: settings.text("telemetry.metrics_prefix").to_owned(),
        disable_hostname: settings.flag("telemetry.disable_hostname"),
        filter_default: settings.flag("telemetry.filter_default"),
        allowed_prefixes,
        blocked_prefixes,
        prometheus_retention: settings.duration("telemetry.prometheus_retention_time").or_zero(),
        statsd_address: settings.text("telemetry.statsd_address").to_owned(),
        statsite_address: settings.text("telemetry.statsite_address").to_owned(),
        dogstatsd_addr,
        dogstatsd_tags: settings.texts("telemetry.dogstatsd_tags"),
    }
}
