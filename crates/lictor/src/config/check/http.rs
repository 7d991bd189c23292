//! The HTTP API and the web page.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::Check;
use crate::config::interfaces::Network;
use crate::config::report::Stage;

/// The HTTP API and the web page.
#[derive(Clone, Debug)]
pub(crate) struct Http {
    /// Path prefixes that are refused.
    pub(crate) block_endpoints: Vec<String>,
    /// Headers of every answer.
    pub(crate) response_headers: BTreeMap<String, String>,
    /// Who may write; empty means all.
    pub(crate) allow_write_from: Vec<Network>,
    /// Accept unprintable characters in paths.
    pub(crate) unprintable_paths: bool,
    /// Serve the built-in page.
    pub(crate) ui: bool,
    /// Serve the page in this directory.
    pub(crate) page: Option<PathBuf>,
    /// Debug endpoints without an operator token.
    pub(crate) enable_debug: bool,
    /// How stale reads of catalog and health may be.
    pub(crate) discovery_max_stale: Duration,
}

/// Reads and judges.
pub(crate) fn http(check: &mut Check<'_>) -> Http {
    const FROM: &str = "http_config.allow_write_http_from";
    let settings = check.settings;
    let mut allow_write_from = Vec::new();
    for text in settings.texts(FROM) {
        match Network::parse(&text) {
            Some(network) => allow_write_from.push(network),
            None => check.refuse(
                Stage::Rules,
                FROM,
                format!("allow_write_http_from: invalid cidr: {text}"),
                "write networks such as \"10.0.0.0/8\" or \"127.0.0.1/32\"",
            ),
        }
    }
    let has_ui_dir = !settings.text("ui_dir").is_empty();
    // With -dev the page is on by default, so that ui_dir alone is enough.
    if has_ui_dir && settings.flag("ui") && settings.is_given("ui") {
        let text = "Both the ui and ui-dir flags were specified, please provide only one. If trying to use your own \
                    web UI resources, use the ui-dir flag. If using Consul version 0.7.0 or later, the web UI is \
                    included in the binary so use ui to enable it";
        check.refuse(Stage::Rules, "ui_dir", text, "remove ui for your own page, or ui_dir for the built-in one");
    }
    for (name, value) in settings.text_map("http_config.response_headers") {
        // A header that cannot be written would spoil every answer.
        if !is_header(&name, &value) {
            check.refuse(
                Stage::Rules,
                "http_config.response_headers",
                format!("http_config.response_headers: {name:?} is not a header"),
                "use letters, digits and dashes in names, and no line ends in values",
            );
        }
    }
    Http {
        block_endpoints: settings.texts("http_config.block_endpoints"),
        response_headers: settings.text_map("http_config.response_headers"),
        allow_write_from,
        unprintable_paths: settings.flag("disable_http_unprintable_char_filter"),
        ui: settings.flag("ui") && !has_ui_dir,
        page: has_ui_dir.then(|| PathBuf::from(settings.text("ui_dir"))),
        enable_debug: settings.flag("enable_debug"),
        discovery_max_stale: settings.duration("discovery_max_stale").or_zero(),
    }
}

fn is_header(name: &str, value: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let visible = |byte: u8| byte == b'\t' || (byte >= 0x20 && byte != 0x7f);
    !name.is_empty() && name.bytes().all(token) && value.bytes().all(visible)
}
