//! One scenario: its steps, carried out in order against an agent of its own.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use lictor_testkit::http::{self, Answer};
use rustix::process::Signal;
use serde_json::Value;

use crate::agent::Agent;
use crate::deviation::{Deviation, changed};
use crate::difference::Difference;
use crate::dns;
use crate::fit::Leniency;
use crate::handshake;
use crate::template::{Known, Within};

/// Headers that must not be there unless a step says so.
const UNASKED: [&str; 12] = [
    "X-Consul-Index",
    "X-Consul-Knownleader",
    "X-Consul-Lastcontact",
    "X-Consul-Effective-Consistency",
    "X-Consul-ContentHash",
    "X-Consul-Translate-Addresses",
    "X-Cache",
    "Age",
    "Allow",
    "Cache-Control",
    "Location",
    "Content-Encoding",
];

/// How long an answer may take on a busy machine.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);
/// How long a read that waits may take altogether.
const WAITED_WITHIN: Duration = Duration::from_secs(90);
/// A read that comes back more often without the change it waits for spins.
const SPINNING: u32 = 10;

/// A recorded conversation.
pub(crate) struct Scenario {
    agent: Value,
    steps: Vec<Value>,
}

/// A scenario while it runs.
struct Run<'d> {
    agent: Agent,
    deviations: &'d BTreeMap<usize, Deviation>,
    /// The index last seen of each path.
    indexes: BTreeMap<String, u64>,
}

impl Scenario {
    pub(crate) fn read(path: &Path) -> Scenario {
        let mut whole: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        let Value::Array(steps) = whole["steps"].take() else { panic!("{} has no steps", path.display()) };
        Scenario { agent: whole["agent"].take(), steps }
    }

    /// Carries out all steps; the first that is not as recorded is the error, with its number.
    pub(crate) fn hold(&self, deviations: &BTreeMap<usize, Deviation>) -> Result<(), String> {
        let agent = Agent::start(&self.agent)?;
        let mut run = Run { agent, deviations, indexes: BTreeMap::new() };
        for (step, number) in self.steps.iter().zip(1..) {
            run.step(step, number).map_err(|problem| {
                let what = step.get("http").or(step.get("dns")).unwrap_or(step).to_string();
                format!("step {number}: {}\n  {problem}", what.chars().take(300).collect::<String>())
            })?;
        }
        Ok(())
    }
}

impl Run<'_> {
    fn step(&mut self, step: &Value, number: usize) -> Result<(), String> {
        let Some(deviation) = self.deviations.get(&number) else { return self.carry_out(step) };
        // The better answer is held like any other; then the recorded one must not fit any more.
        let mut better = step.clone();
        better["expect"] = changed(&step["expect"], &deviation.expect);
        let before = self.agent.known.clone();
        self.carry_out(&better)?;
        let after = std::mem::replace(&mut self.agent.known, before);
        let recorded = self.look(step);
        self.agent.known = after;
        match recorded {
            Ok(()) => Err(format!("is as recorded again: take it out of the deviations ({deviation:?})")),
            Err(_) => Ok(()),
        }
    }

    fn carry_out(&mut self, step: &Value) -> Result<(), String> {
        if let Some(pause) = step["wait_ms"].as_u64() {
            // The recording waited so long, for times that are counted in seconds.
            thread::sleep(Duration::from_millis(pause));
            return Ok(());
        }
        let Some(patience) = step["eventually_ms"].as_u64().or(step["process"].is_object().then_some(15_000)) else {
            return self.look(step);
        };
        // The recording's machine was idle; ours need not be.
        let end = Instant::now() + Duration::from_millis(patience) * 3;
        loop {
            let problem = match self.look(step) {
                Ok(()) => return Ok(()),
                Err(problem) => problem,
            };
            if Instant::now() > end {
                return Err(problem);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Does a step once.
    fn look(&mut self, step: &Value) -> Result<(), String> {
        if let Some(request) = step.get("http") {
            let answer = self.request(request, ANSWERED_WITHIN)?;
            self.agent_fit(&step["expect"], &answer)?;
            return self.note_index(request, &answer, step["index_may_fall"].as_bool() == Some(true));
        }
        if let Some(question) = step.get("dns") {
            let question = self.agent.known.fill(question);
            let answer = dns::ask(self.agent.house.dns_port, &question).map_err(|error| error.to_string())?;
            let mut attempt = self.agent.known.clone();
            dns::fit(&mut attempt, &step["expect"], &answer).map_err(|difference| difference.to_string())?;
            self.agent.known = attempt;
            return Ok(());
        }
        if let Some(blocking) = step.get("blocking") {
            return self.blocking(blocking);
        }
        if let Some(timeout) = step.get("timeout") {
            return self.timeout(timeout);
        }
        if let Some(process) = step.get("process") {
            return self.process(process);
        }
        if let Some(restart) = step.get("restart") {
            return self.agent.restart(signal(restart["signal"].as_str().unwrap_or("INT")));
        }
        if let Some(kill) = step.get("kill") {
            let (argv, environment) = which(kill);
            for pid in self.agent.processes(&argv, &environment) {
                lictor_testkit::house::send(pid, signal(kill["signal"].as_str().unwrap_or("KILL")));
            }
            return Ok(());
        }
        if let Some(tls) = step.get("tls") {
            let part = |name: &str| self.agent.known.fill_text(tls[name].as_str().unwrap());
            return handshake::hold(&part("cert"), &part("key"), &part("ca"), &part("uri"));
        }
        Err("a step of an unknown kind".into())
    }

    fn request(&self, request: &Value, limit: Duration) -> Result<Answer, String> {
        send(&self.agent.known, self.agent.house.http_port, request, limit)
    }

    fn agent_fit(&mut self, expected: &Value, answer: &Answer) -> Result<(), String> {
        let mut attempt = self.agent.known.clone();
        fit(&mut attempt, expected, answer).map_err(|difference| difference.to_string())?;
        self.agent.known = attempt;
        Ok(())
    }

    /// The index of a path never falls.
    fn note_index(&mut self, request: &Value, answer: &Answer, may_fall: bool) -> Result<(), String> {
        if request["method"] != "GET" || answer.index() == 0 {
            return Ok(());
        }
        let path = self.agent.known.fill_text(request["path"].as_str().unwrap());
        let former = self.indexes.insert(path, answer.index()).unwrap_or_default();
        if answer.index() < former && !may_fall {
            return Err(format!("the index fell from {former} to {}", answer.index()));
        }
        Ok(())
    }

    /// A read hangs while something else changes what it asks for.
    fn blocking(&mut self, step: &Value) -> Result<(), String> {
        let millis = |name: &str| Duration::from_millis(step[name].as_u64().unwrap_or_default());
        let (known, port) = (self.agent.known.clone(), self.agent.house.http_port);
        let (get, expect) = (step["get"].clone(), step["expect"].clone());
        let (sender, answers) = mpsc::channel();
        thread::spawn(move || {
            // Who asked may have given up.
            let _ = sender.send(read_until_fits(known, port, get, &expect));
        });
        // So long the read must have been hanging already, as in the recording.
        thread::sleep(millis("after_ms"));
        for mutation in step["mutate"].as_array().into_iter().flatten() {
            self.carry_out(mutation)?;
        }
        let changed = Instant::now();
        let (captured, last) = answers.recv_timeout(WAITED_WITHIN).map_err(|_| "the read never came back")??;
        if last.duration_since(changed) > millis("max_ms") * 3 {
            return Err(format!("the read came back {:?} after the change", last.duration_since(changed)));
        }
        self.agent.known.captured.extend(captured.captured);
        Ok(())
    }

    /// A read hangs, and nothing changes.
    fn timeout(&mut self, step: &Value) -> Result<(), String> {
        let millis = |name: &str| Duration::from_millis(step[name].as_u64().unwrap_or_default());
        let started = Instant::now();
        let answer = self.request(&step["get"], WAITED_WITHIN)?;
        let took = started.elapsed();
        self.agent_fit(&step["expect"], &answer)?;
        if took < millis("min_ms") || took > millis("max_ms") * 3 {
            return Err(format!("the read took {took:?}"));
        }
        Ok(())
    }

    fn process(&self, step: &Value) -> Result<(), String> {
        let (argv, environment) = which(step);
        let wanted = step["count"].as_u64().unwrap_or(1);
        let found = self.agent.processes(&argv, &environment).len() as u64;
        if found == wanted { Ok(()) } else { Err(format!("{wanted} processes expected, {found} run")) }
    }
}

/// Asks again and again with the new index or hash, as a client does, until the answer fits.
fn read_until_fits(known: Known, port: u16, mut get: Value, expect: &Value) -> Result<(Known, Instant), String> {
    let mut problem = String::new();
    for _ in 0..SPINNING {
        let answer = send(&known, port, &get, WAITED_WITHIN)?;
        let mut attempt = known.clone();
        match fit(&mut attempt, expect, &answer) {
            Ok(()) => return Ok((attempt, Instant::now())),
            Err(difference) => problem = difference.to_string(),
        }
        let path = known.fill_text(get["path"].as_str().unwrap());
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        let parameters = query.split('&').map(|parameter| {
            let newer = |header: &str| answer.headers.get(header).cloned().unwrap_or_default();
            match parameter.split_once('=') {
                Some(("index", _)) => format!("index={}", newer("x-consul-index")),
                Some(("hash", _)) => format!("hash={}", newer("x-consul-contenthash")),
                _ => parameter.to_owned(),
            }
        });
        get["path"] = format!("{path}?{}", parameters.collect::<Vec<_>>().join("&")).into();
    }
    Err(format!("the read came back {SPINNING} times without the change\n  {problem}"))
}

fn send(known: &Known, port: u16, request: &Value, limit: Duration) -> Result<Answer, String> {
    let method = request["method"].as_str().unwrap_or("GET");
    let path = known.fill_text(request["path"].as_str().unwrap());
    let headers: Vec<(String, String)> = request["headers"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.clone(), known.fill_text(value.as_str().unwrap())))
        .collect();
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let body = match (request["raw"].as_str(), request.get("body")) {
        (Some(raw), _) => known.fill_text(raw),
        (None, Some(body)) => known.fill(body).to_string(),
        (None, None) => String::new(),
    };
    http::request(port, method, &path, &headers, body.as_bytes(), limit).map_err(|error| format!("no answer: {error}"))
}

/// Holds an answer against a recorded one.
fn fit(known: &mut Known, expected: &Value, answer: &Answer) -> Result<(), Difference> {
    let text = text(answer);
    if expected["status"] != answer.status {
        let actual = format!("{} {text}", answer.status);
        return Err(Difference::new("status", &expected["status"], actual));
    }
    let listed: BTreeMap<String, &str> = expected["headers"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.as_str().unwrap()))
        .collect();
    for (name, template) in &listed {
        let place = format!("header {name}");
        match answer.headers.get(name) {
            Some(actual) => known.fit(template, &actual.as_str().into(), &place, Within::Text)?,
            None if *template == "<absent-or-any>" => {}
            None => return Err(Difference::new(&place, template, "(absent)")),
        }
    }
    for name in UNASKED.map(str::to_ascii_lowercase) {
        if let Some(actual) = answer.headers.get(&name).filter(|_| !listed.contains_key(&name)) {
            return Err(Difference::new(&format!("header {name}"), "(absent)", actual));
        }
    }
    if let Some(template) = expected["text"].as_str() {
        known.fit(template, &text.as_str().into(), "text", Within::Text)?;
    }
    if let Some(body) = expected.get("body") {
        let Ok(actual) = serde_json::from_str::<Value>(&text) else {
            return Err(Difference::new("body", body, format!("no JSON: {text}")));
        };
        let paths = |name: &str| {
            let list = expected[name].as_array().into_iter().flatten();
            list.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Leniency { unordered: paths("unordered"), open: paths("open") }.fit(known, body, &actual)?;
    }
    Ok(())
}

/// The body of an answer, unpacked if need be.
fn text(answer: &Answer) -> String {
    if answer.headers.get("content-encoding").map(String::as_str) != Some("gzip") {
        return answer.text();
    }
    let mut text = String::new();
    match flate2::read::GzDecoder::new(answer.body.as_slice()).read_to_string(&mut text) {
        Ok(_) => text,
        Err(error) => format!("(no gzip: {error})"),
    }
}

fn which(step: &Value) -> (Vec<String>, BTreeMap<String, String>) {
    let argv = step["argv"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    let environment = step["environ"].as_object().into_iter().flatten();
    (argv, environment.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect())
}

fn signal(name: &str) -> Signal {
    match name {
        "INT" => Signal::INT,
        "TERM" => Signal::TERM,
        "KILL" => Signal::KILL,
        "HUP" => Signal::HUP,
        other => panic!("what is SIG{other}?"),
    }
}
