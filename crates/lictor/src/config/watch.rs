//! A watch of the configuration: what it looks at and what it calls.

use std::collections::BTreeMap;
use std::time::Duration;

use lictor_notation::Tree;
use lictor_notation::decode::Fields;
use lictor_notation::duration::GoDuration;
use serde_json::{Map, Value, json};

/// A watch as written.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Watch {
    /// What is watched: `key`, `service`, and so on.
    pub(crate) kind: String,
    /// Where to look; empty means here.
    pub(crate) datacenter: String,
    /// Token for looking; empty means the default.
    pub(crate) token: String,
    /// Whether any server may answer.
    pub(crate) stale: bool,
    /// What to call.
    pub(crate) handler: Handler,
    /// The other parameters by name, texts and flags.
    pub(crate) parameters: BTreeMap<&'static str, String>,
    /// What is wrong with it: the key that is missing or wrong, and the words of the original.
    problem: Option<(&'static str, String)>,
}

/// What a watch calls.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Handler {
    /// Nothing, which is a mistake.
    #[default]
    None,
    /// A command line for the shell.
    Shell(String),
    /// A program and its arguments.
    Program(Vec<String>),
    /// A URL.
    Http(HttpHandler),
}

/// A URL to call.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HttpHandler {
    /// The URL.
    pub(crate) path: String,
    /// The method.
    pub(crate) method: String,
    /// Limit of a call.
    pub(crate) timeout: Duration,
    /// Request headers.
    pub(crate) header: BTreeMap<String, Vec<String>>,
    /// Whether certificates are accepted unseen.
    pub(crate) tls_skip_verify: bool,
}

/// The parameters of each kind, apart from `stale`.
const PARAMETERS: &[(&str, &[&str])] = &[
    ("key", &["key"]),
    ("keyprefix", &["prefix"]),
    ("services", &[]),
    ("nodes", &[]),
    ("service", &["service", "tag", "passingonly"]),
    ("checks", &["service", "state"]),
    ("event", &["name"]),
    ("agent_service", &["service_id"]),
];

impl Watch {
    /// The watch as it may be shown to people.
    pub(crate) fn shown(&self) -> Value {
        let mut shown = Map::new();
        shown.insert("type".into(), self.kind.as_str().into());
        shown.insert("datacenter".into(), self.datacenter.as_str().into());
        shown.insert("token".into(), "hidden".into());
        shown.insert("stale".into(), self.stale.into());
        shown.extend(self.parameters.iter().map(|(name, value)| ((*name).to_owned(), value.as_str().into())));
        match &self.handler {
            Handler::None => {}
            Handler::Shell(line) => drop(shown.insert("handler".into(), line.as_str().into())),
            Handler::Program(words) => drop(shown.insert("args".into(), words.clone().into())),
            // Its headers may hold secrets.
            Handler::Http(handler) => {
                let method_and_path = json!({"method": handler.method, "path": handler.path});
                shown.insert("http_handler_config".into(), method_and_path);
            }
        }
        Value::Object(shown)
    }

    /// Reads the fields of a watch; mistakes in its sense are kept for [`Watch::problem`].
    pub(crate) fn read(fields: &mut Fields<'_, '_>) -> Watch {
        let mut watch = Watch {
            kind: fields.text("type").unwrap_or_default(),
            datacenter: fields.text("datacenter").unwrap_or_default(),
            token: fields.text("token").unwrap_or_default(),
            stale: false,
            handler: Handler::None,
            parameters: BTreeMap::new(),
            problem: None,
        };
        let kind_problem = watch.read_parameters(fields);
        if kind_problem.is_some() {
            // One problem is enough: its parameters are not unknown keys on top of it.
            for name in PARAMETERS.iter().flat_map(|(_, names)| *names).chain(&["stale"]) {
                let _ = fields.any(name);
            }
        }
        let handler = read_handler(fields);
        match (kind_problem, handler) {
            (Some(problem), _) | (None, Err(problem)) => watch.problem = Some(problem),
            (None, Ok(handler)) => watch.handler = handler,
        }
        watch
    }

    /// Why it cannot work.
    pub(crate) fn problem(&self) -> Option<&str> {
        self.problem.as_ref().map(|(_, text)| text.as_str())
    }

    /// The key that this is about.
    pub(crate) fn problem_key(&self) -> &'static str {
        self.problem.as_ref().map_or("type", |(key, _)| key)
    }

    fn read_parameters(&mut self, fields: &mut Fields<'_, '_>) -> Option<(&'static str, String)> {
        if self.kind.is_empty() {
            return Some(("type", "Watch type must be specified".into()));
        }
        if self.kind.starts_with("connect_") {
            return Some(("type", format!("Watch type {} is not allowed in agent config", self.kind)));
        }
        let Some((_, names)) = PARAMETERS.iter().find(|(kind, _)| *kind == self.kind) else {
            return Some(("type", format!("Failed to parse watch: Unsupported watch type: {}", self.kind)));
        };
        if self.kind != "event" {
            self.stale = fields.flag("stale").unwrap_or_default();
        }
        for name in *names {
            let value =
                if *name == "passingonly" { fields.flag(name).map(|flag| flag.to_string()) } else { fields.text(name) };
            if let Some(value) = value {
                self.parameters.insert(name, value);
            }
        }
        let needs = match self.kind.as_str() {
            "key" => Some("key"),
            "keyprefix" => Some("prefix"),
            "service" => Some("service"),
            "agent_service" => Some("service_id"),
            _ => None,
        };
        match needs.filter(|name| self.parameters.get(name).is_none_or(String::is_empty)) {
            Some(name) => Some((name, format!("Failed to parse watch: Must specify a single {name} to watch"))),
            None if self.parameters.contains_key("service") && self.parameters.contains_key("state") => {
                Some(("state", "Failed to parse watch: Cannot specify service and state".into()))
            }
            None => None,
        }
    }
}

fn read_handler(fields: &mut Fields<'_, '_>) -> Result<Handler, (&'static str, String)> {
    let shell = match fields.any("handler").map(|member| member.last()) {
        None => None,
        Some(Tree::Text(text)) => Some(text.clone()),
        Some(_) => return Err(("handler", "Watch handler must be a string".into())),
    };
    let program = match fields.any("args") {
        None => None,
        Some(member) => {
            let texts = member.elements().into_iter().map(|element| match element {
                Tree::Text(text) => Some(text.clone()),
                _ => None,
            });
            let is_list = member.values.iter().all(|value| matches!(value, Tree::List(_)));
            match texts.collect::<Option<Vec<String>>>().filter(|_| is_list) {
                Some(texts) => Some(texts),
                None => return Err(("args", "Watch args must be a list of strings".into())),
            }
        }
    };
    let kind = fields.text("handler_type").unwrap_or_default();
    let http = fields.object("http_handler_config", read_http);
    match (kind.as_str(), shell, program, http) {
        ("" | "script", Some(_), Some(_), _) => Err(("handler", "Only one watch handler allowed".into())),
        ("" | "script", Some(shell), None, _) => Ok(Handler::Shell(shell)),
        ("" | "script", None, Some(program), _) if !program.is_empty() => Ok(Handler::Program(program)),
        ("" | "script", None, _, _) => Err(("args", "Must define a watch handler".into())),
        ("http", _, _, None) => {
            Err(("http_handler_config", "Handler type 'http' requires 'http_handler_config' to be set".into()))
        }
        ("http", _, _, Some(http)) if http.path.is_empty() => {
            Err(("http_handler_config.path", "Requires 'path' to be set".into()))
        }
        ("http", None, None, Some(http)) => Ok(Handler::Http(http)),
        ("http", _, _, Some(_)) => Err(("args", "Only one watch handler allowed".into())),
        (other, ..) => Err(("handler_type", format!("Handler type '{other}' not recognized"))),
    }
}

fn read_http(fields: &mut Fields<'_, '_>) -> HttpHandler {
    HttpHandler {
        path: fields.text("path").unwrap_or_default(),
        method: fields.text("method").filter(|method| !method.is_empty()).unwrap_or_else(|| "POST".to_owned()),
        timeout: fields.duration("timeout").map_or(Duration::from_secs(10), GoDuration::or_zero),
        header: fields.texts_map("header").unwrap_or_default(),
        tls_skip_verify: fields.flag("tls_skip_verify").unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use lictor_notation::decode::{self, Problems, Rules};
    use lictor_notation::hcl;

    use super::*;

    fn read(source: &str) -> (Watch, Vec<String>) {
        let mut problems = Problems::new();
        let watch = decode::object(&hcl::parse(source).unwrap(), "watches[0]", Rules::HCL, &mut problems, Watch::read);
        (watch, problems.into_iter().map(|problem| problem.text).collect())
    }

    fn problem(source: &str) -> String {
        read(source).0.problem().unwrap_or_default().to_owned()
    }

    #[test]
    fn a_watch_names_what_it_watches_and_calls() {
        let (watch, problems) = read("type = \"key\" key = \"a/b\" args = [\"/bin/x\", \"y\"] stale = true");
        assert_eq!((watch.problem(), problems.len(), watch.stale), (None, 0, true));
        assert_eq!(watch.handler, Handler::Program(vec!["/bin/x".into(), "y".into()]));
        assert_eq!(watch.parameters["key"], "a/b");
        let (watch, _) = read(
            "type = \"nodes\" handler_type = \"http\" http_handler_config { path = \"http://x\" header { A = [\"b\"] } }",
        );
        let Handler::Http(http) = watch.handler else { panic!("{watch:?}") };
        assert_eq!((http.method.as_str(), http.timeout), ("POST", Duration::from_secs(10)));
        assert_eq!(http.header["A"], ["b"]);
    }

    #[test]
    fn each_mistake_has_the_text_of_the_original() {
        assert_eq!(problem("handler = \"x\""), "Watch type must be specified");
        assert_eq!(problem("type = \"nodes\""), "Must define a watch handler");
        assert_eq!(problem("type = \"nodes\" handler = \"x\" args = [\"y\"]"), "Only one watch handler allowed");
        assert_eq!(problem("type = \"nodes\" args = \"y\""), "Watch args must be a list of strings");
        assert_eq!(problem("type = \"nodes\" handler = 1"), "Watch handler must be a string");
        assert_eq!(problem("type = \"nodes\" handler_type = \"x\""), "Handler type 'x' not recognized");
        assert_eq!(
            problem("type = \"nodes\" handler_type = \"http\""),
            "Handler type 'http' requires 'http_handler_config' to be set"
        );
        assert_eq!(
            problem("type = \"nodes\" handler_type = \"http\" http_handler_config {}"),
            "Requires 'path' to be set"
        );
        assert_eq!(
            problem("type = \"connect_roots\" handler = \"x\""),
            "Watch type connect_roots is not allowed in agent config"
        );
        assert_eq!(problem("type = \"bogus\" handler = \"x\""), "Failed to parse watch: Unsupported watch type: bogus");
        assert!(problem("type = \"key\" handler = \"x\"").ends_with("Must specify a single key to watch"));
        let (_, problems) = read("type = \"nodes\" handler = \"x\" bogus = 1");
        assert_eq!(problems, ["invalid config key watches[0].bogus"]);
    }
}
