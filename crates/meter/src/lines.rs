//! The line forms of statsd, statsite and dogstatsd, and how lines are packed into datagrams.

use crate::filter::Filter;
use crate::register::{Delivery, Key};

/// A datagram that every network carries whole.
pub const DATAGRAM: usize = 1400;

/// What stands in a line beside name and value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// Label values are parts of the name: statsd and statsite.
    Plain,
    /// Labels are tags, after these; the host is known by the sender: dogstatsd.
    Tagged(Vec<String>),
}

/// The lines of a delivery, without line ends.
pub fn write(delivery: &Delivery, filter: &Filter, form: &Form) -> Vec<String> {
    let Delivery { gauges, counters, timers } = delivery;
    let mut lines = Vec::new();
    for (key, value) in gauges {
        let full = match form {
            Form::Plain => filter.gauge(&key.name),
            Form::Tagged(_) => filter.gauge_without_host(&key.name),
        };
        lines.extend(full.map(|full| line(&full, key, *value, "g", form)));
    }
    for (key, sum) in counters {
        lines.extend(filter.name(&key.name).map(|full| line(&full, key, *sum, "c", form)));
    }
    for (key, values) in timers {
        if let Some(full) = filter.name(&key.name) {
            lines.extend(values.iter().map(|value| line(&full, key, *value, "ms", form)));
        }
    }
    lines
}

fn line(full: &str, key: &Key, value: f64, kind: &str, form: &Form) -> String {
    let mut name = clean(full);
    let mut tags = String::new();
    match form {
        Form::Plain => {
            for (_, value) in &key.labels {
                name.push('.');
                name.push_str(&clean(value));
            }
        }
        Form::Tagged(always) => {
            let own = key.labels.iter().map(|(name, value)| format!("{name}:{}", value.replace([',', '|', '\n'], "_")));
            let all: Vec<String> = always.iter().cloned().chain(own).collect();
            if !all.is_empty() {
                tags = format!("|#{}", all.join(","));
            }
        }
    }
    format!("{name}:{value}|{kind}{tags}")
}

/// A colon ends a name.
fn clean(name: &str) -> String {
    name.replace([':', ' ', '|', '\n'], "_")
}

/// Lines in as few datagrams as possible, each line whole. One that is longer than a datagram is sent alone.
pub fn pack(lines: &[String]) -> Vec<Vec<u8>> {
    let mut datagrams: Vec<Vec<u8>> = Vec::new();
    for line in lines {
        match datagrams.last_mut() {
            Some(last) if last.len() + 1 + line.len() <= DATAGRAM => {
                last.push(b'\n');
                last.extend_from_slice(line.as_bytes());
            }
            _ => datagrams.push(line.as_bytes().to_vec()),
        }
    }
    datagrams
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::register::Register;

    #[test]
    fn labels_are_parts_of_names_or_tags() {
        let register = Register::default();
        register.keep_deliveries();
        register.gauge("inbound.conns", &[("dst", "srv")]).set(1.0);
        register.counter("inbound.tx_bytes", &[("dst", "s:v")]).add(10);
        register.timer("http.GET", &[]).took(Duration::from_micros(1500));
        let filter = Filter {
            prefix: "consul.proxy.srv".into(),
            host: "vm".into(),
            allowed: vec![],
            blocked: vec![],
            otherwise: true,
        };
        let delivery = register.deliver();
        assert_eq!(
            write(&delivery, &filter, &Form::Plain),
            [
                "consul.proxy.srv.vm.inbound.conns.srv:1|g",
                "consul.proxy.srv.inbound.tx_bytes.s_v:10|c",
                "consul.proxy.srv.http.GET:1.5|ms",
            ]
        );
        assert_eq!(
            write(&delivery, &filter, &Form::Tagged(vec!["env:test".into()])),
            [
                "consul.proxy.srv.inbound.conns:1|g|#env:test,dst:srv",
                "consul.proxy.srv.inbound.tx_bytes:10|c|#env:test,dst:s:v",
                "consul.proxy.srv.http.GET:1.5|ms|#env:test",
            ]
        );
    }

    #[test]
    fn what_clients_ask_for_makes_no_line_of_its_own() {
        let register = Register::default();
        register.keep_deliveries();
        register.counter("catalog.service.query", &[("service", "a\nb:1|c,d")]).add(1);
        let delivery = register.deliver();
        let line = |form: &Form| write(&delivery, &Filter::default(), form);
        assert_eq!(line(&Form::Tagged(vec![])), ["catalog.service.query:1|c|#service:a_b:1_c_d"]);
        assert_eq!(line(&Form::Plain), ["catalog.service.query.a_b_1_c,d:1|c"]);
    }

    #[test]
    fn datagrams_are_filled_and_lines_stay_whole() {
        let lines: Vec<String> = (0..100).map(|number| format!("{number:->49}")).collect();
        let datagrams = pack(&lines);
        assert_eq!(datagrams.len(), 4);
        assert!(datagrams.iter().all(|datagram| datagram.len() <= DATAGRAM));
        let back = datagrams.join(&b'\n');
        assert_eq!(back, lines.join("\n").into_bytes());
        assert_eq!(pack(&["x".repeat(3000)]).len(), 1);
    }
}
