//! Every key of the agent's configuration, declared once: type, default, what becomes of it, and what it is for.
//!
//! Reading, merging, defaults, notices, hints and the generated reference all come from this table. A key that does
//! nothing here is still declared, so that configuration written for the original loads, and says so.

pub(crate) mod definitions;
pub(crate) mod later;
mod table;

pub(crate) use table::KEYS;

/// One key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    /// Dotted path from the top of a file.
    pub(crate) path: &'static str,
    /// What its value must be.
    pub(crate) kind: Kind,
    /// The value when nobody sets it, as it would be written; empty when there is none.
    pub(crate) default: &'static str,
    /// The default under `-dev`, when it differs.
    pub(crate) dev_default: Option<&'static str>,
    /// What becomes of it.
    pub(crate) disposition: Disposition,
    /// Whether a reload applies it.
    pub(crate) reload: Reload,
    /// What it is for, in one sentence.
    pub(crate) doc: &'static str,
}

/// What the value of a key must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `true` or `false`.
    Flag,
    /// An integer.
    Int,
    /// An integer from 0 to 2³²-1.
    Unsigned,
    /// A number.
    Float,
    /// A text.
    Text,
    /// A text that is never shown.
    Secret,
    /// A text such as `1m30s`.
    Duration,
    /// A list of texts.
    Texts,
    /// A map of texts.
    TextMap,
    /// A map of durations.
    DurationMap,
    /// A map whose shape is somebody else's.
    Opaque,
    /// `true`, `false`, `"enabled"` or `"disabled"`.
    Switch,
    /// A list of objects whose shape nobody here knows.
    Objects,
    /// One service definition.
    Service,
    /// A list of them.
    Services,
    /// One check definition.
    Check,
    /// A list of them.
    Checks,
    /// A list of watches.
    Watches,
}

impl Kind {
    /// The type as the reference shows it.
    #[cfg(test)]
    fn name(self) -> &'static str {
        match self {
            Kind::Flag => "bool",
            Kind::Int => "int",
            Kind::Unsigned => "int (not negative)",
            Kind::Float => "number",
            Kind::Text | Kind::Secret => "string",
            Kind::Duration => "duration",
            Kind::Texts => "list of strings",
            Kind::TextMap => "map of strings",
            Kind::DurationMap => "map of durations",
            Kind::Opaque => "object",
            Kind::Switch => "bool, \"enabled\" or \"disabled\"",
            Kind::Objects => "list of objects",
            Kind::Service => "service definition",
            Kind::Services => "list of service definitions",
            Kind::Check => "check definition",
            Kind::Checks => "list of check definitions",
            Kind::Watches => "list of watches",
        }
    }

    /// How such a value is written, for remedies.
    pub(crate) fn example(self) -> &'static str {
        match self {
            Kind::Flag => "write true or false, without quotes",
            Kind::Int | Kind::Unsigned => "write a whole number, without quotes",
            Kind::Float => "write a number, without quotes",
            Kind::Text | Kind::Secret => "write a text in quotes",
            Kind::Duration => "write a duration such as \"10s\", \"1m30s\" or \"72h\"",
            Kind::Texts => "write a list of texts: [\"a\", \"b\"]",
            Kind::TextMap => "write a block of texts: { a = \"b\" }",
            Kind::DurationMap => "write a block of durations: { a = \"10s\" }",
            Kind::Switch => "write true or false",
            Kind::Opaque | Kind::Service | Kind::Check => "write one block",
            Kind::Objects | Kind::Services | Kind::Checks | Kind::Watches => "write a list of objects",
        }
    }
}

/// What becomes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// It does what it says.
    Honoured,
    /// It is checked and then has no effect.
    NoEffect(Reason),
    /// It has an effect on clients; on a server it has none.
    NoEffectOnServers(Reason),
    /// An old name of another key.
    Alias(&'static str),
    /// Another name of another key, as good as that.
    SameAs(&'static str),
}

/// Why a key has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// Servers that share a store find each other there, and liveness is a lease.
    Gossip,
    /// The store decides what happened in which order.
    Raft,
    /// Nothing is ever sent home.
    Home,
    /// One datacenter per deployment.
    OneDatacenter,
    /// Not a part of the open product.
    Enterprise,
    /// A constant in the original too.
    Constant,
    /// No such sink for metrics.
    Sink,
    /// Commands from afar are not offered.
    RemoteExec,
    /// What others must ask for is at hand.
    AtHand,
    /// Reads are answered from this server's own copy.
    OwnCopy,
    /// A server asks no other.
    AsksNobody,
    /// There is no page to serve.
    NoPage,
    /// There is nothing to debug a runtime by.
    NoProfiler,
    /// Nothing listens for gRPC.
    NoGrpc,
}

impl Reason {
    /// The words in the notice.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Reason::Gossip => "there is no gossip: servers find each other in the store they share",
            Reason::Raft => "consensus is the store's work",
            Reason::Home => "lictor never calls home",
            Reason::OneDatacenter => "one datacenter per deployment",
            Reason::Enterprise => "without effect in the open edition",
            Reason::Constant => "a constant that cannot be changed",
            Reason::Sink => "there is no such metrics sink",
            Reason::AtHand => "a server has tokens and policies itself: it never waits for them or remembers them",
            Reason::OwnCopy => {
                "a server answers from its own copy of the state, which follows every write within moments"
            }
            Reason::AsksNobody => "a server asks no other server: what they share is the store",
            Reason::NoProfiler => "there are no debug endpoints: the original's show the insides of Go's runtime",
            Reason::NoPage => "this version has no web page of its own; ui_dir serves one",
            Reason::NoGrpc => "nothing listens for gRPC: there is no xDS for Envoy",
            Reason::RemoteExec => "remote commands are not offered",
        }
    }
}

/// Whether a reload applies a changed value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reload {
    /// At once.
    Applied,
    /// Only a restart does.
    NeedsRestart,
}

/// The row of a key.
pub(crate) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_key_is_declared_once_and_explained() {
        let mut paths = BTreeSet::new();
        for key in KEYS {
            assert!(paths.insert(key.path), "{} twice", key.path);
            assert!(key.doc.ends_with('.') && key.doc.len() > 10, "{}: {:?}", key.path, key.doc);
            assert!(!key.doc.contains('|'), "{}", key.path);
        }
        // The reader of files relies on the keys of a group standing together.
        let mut groups = BTreeSet::new();
        let mut last = "";
        for group in KEYS.iter().filter_map(|key| key.path.rsplit_once('.')).map(|(group, _)| group) {
            let inside = last.starts_with(&format!("{group}.")) || group.starts_with(&format!("{last}."));
            assert!(group == last || inside || groups.insert(group), "{group} is scattered");
            last = group;
        }
        // A path is either a key or a group of keys.
        for path in &paths {
            assert!(!paths.iter().any(|other| other.starts_with(&format!("{path}."))), "{path} is both");
        }
    }

    #[test]
    fn the_top_level_has_all_keys_of_the_original_and_our_own() {
        let top: BTreeSet<&str> = KEYS.iter().map(|key| key.path.split('.').next().unwrap_or_default()).collect();
        let own = BTreeSet::from(["store"]);
        assert_eq!(top.difference(&own).count(), 122, "{top:?}");
    }

    #[test]
    fn the_page_on_compatibility_says_why_of_every_key_without_effect() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/compatibility.md");
        let page = std::fs::read_to_string(&file).unwrap();
        let named: Vec<&str> =
            page.lines().filter(|line| line.starts_with("| `")).flat_map(|line| line.split('`')).collect();
        let is_named = |path: &str| {
            named.iter().any(|name| match name.split_once('*') {
                Some((before, after)) => {
                    path.len() >= before.len() + after.len() && path.starts_with(before) && path.ends_with(after)
                }
                None => *name == path,
            })
        };
        let without: Vec<&Key> = KEYS
            .iter()
            .filter(|key| matches!(key.disposition, Disposition::NoEffect(_) | Disposition::NoEffectOnServers(_)))
            .collect();
        assert!(without.len() > 50);
        for key in without {
            assert!(is_named(key.path), "docs/compatibility.md says nothing of {}", key.path);
        }
    }

    #[test]
    fn other_names_lead_to_keys_of_a_fitting_type() {
        for key in KEYS {
            if let Disposition::Alias(of) | Disposition::SameAs(of) = key.disposition {
                let target = find(of).unwrap_or_else(|| panic!("{} leads to {of}", key.path));
                let fits = key.kind == target.kind || (key.kind == Kind::Switch && target.kind == Kind::Flag);
                assert!(fits, "{} is {:?}, {of} is {:?}", key.path, key.kind, target.kind);
            }
        }
    }

    const INTRODUCTION: &str = "\
# Configuration keys

Every key that a configuration file of the agent may contain. This page is made from the table that the agent reads
its files by; to make it again, run `LICTOR_WRITE_DOCS=1 cargo test -p lictor configuration_page`.

A key without effect here loads and is named in one line at the start. A deprecated name works and is named in one
warning. A key that is not on this page is refused, with the place where it stands and what to write instead.
";

    /// The table as a reference page: one row for each key.
    fn reference() -> String {
        let mut page = String::from(INTRODUCTION);
        page.push_str("\n| Key | Type | Default | Reload | Effect | Meaning |\n|---|---|---|---|---|---|\n");
        for key in KEYS {
            let default = match (key.default, key.dev_default) {
                ("", None) => String::new(),
                (default, None) => format!("`{default}`"),
                (default, Some(dev)) => format!("`{default}` (`{dev}` with `-dev`)"),
            };
            let effect = match key.disposition {
                Disposition::Honoured => "honoured".to_owned(),
                Disposition::NoEffect(reason) => format!("none: {}", reason.text()),
                Disposition::NoEffectOnServers(reason) => {
                    format!("honoured on clients; none on servers: {}", reason.text())
                }
                Disposition::Alias(of) => format!("deprecated name of `{of}`"),
                Disposition::SameAs(of) => format!("another name of `{of}`"),
            };
            let reload = match key.reload {
                Reload::Applied => "yes",
                Reload::NeedsRestart => "restart",
            };
            page.push_str(&format!(
                "| `{}` | {} | {default} | {reload} | {effect} | {} |\n",
                key.path,
                key.kind.name(),
                key.doc
            ));
        }
        page
    }

    #[test]
    fn the_configuration_page_is_made_from_the_table() {
        let page = reference();
        assert_eq!(page.lines().filter(|line| line.starts_with("| `")).count(), KEYS.len());
        assert!(page.contains("| `ports.http` | int | `8500` | restart | honoured |"), "{page}");
        assert!(page.contains("| `ports.grpc` | int | `-1` (`8502` with `-dev`) | restart | none: "), "{page}");
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
        if std::env::var_os("LICTOR_WRITE_DOCS").is_some() {
            std::fs::write(&file, &page).unwrap();
        }
        let written = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(written == page, "docs/configuration.md is out of date: LICTOR_WRITE_DOCS=1 makes it again");
    }
}
