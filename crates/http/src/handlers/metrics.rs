//! `/v1/agent/metrics`: what was counted and timed, as JSON or for Prometheus.

use std::collections::BTreeMap;

use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use lictor_api::metrics::{Gauge, Metrics, Sampled};
use lictor_meter::register::{Interval, Key};
use lictor_meter::{Summary, prometheus};
use lictor_model::acl::Access;

use crate::call::{Answered, Call};
use crate::respond;

pub(crate) fn show(call: &Call<'_>) -> Answered {
    call.needs_agent(Access::Read)?;
    if call.query.get("format") == "prometheus" {
        return Ok(for_prometheus());
    }
    let register = lictor_meter::process();
    let view = register.view();
    let Interval { start, gauges, counters, timers } = register.interval();
    let started = jiff::Timestamp::try_from(start).unwrap_or_default();
    let sampled = |all: Vec<(Key, Summary)>| {
        let shown = all.into_iter().filter_map(|(key, summary)| {
            let name = view.filter.name(&key.name)?;
            Some(Sampled {
                name: name.into(),
                count: summary.count,
                rate: summary.rate(),
                sum: summary.sum,
                min: summary.min,
                max: summary.max,
                mean: summary.mean(),
                stddev: summary.deviation(),
                labels: labels(key),
            })
        });
        shown.collect()
    };
    call.json(&Metrics {
        timestamp: started.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string().into(),
        gauges: gauges
            .into_iter()
            .filter_map(|(key, value)| {
                let name = view.filter.gauge(&key.name)?;
                Some(Gauge { name: name.into(), value, labels: labels(key) })
            })
            .collect(),
        points: Vec::new(),
        counters: sampled(counters),
        samples: sampled(timers),
    })
}

fn labels(key: Key) -> BTreeMap<std::borrow::Cow<'static, str>, std::borrow::Cow<'static, str>> {
    key.labels.into_iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn for_prometheus() -> respond::Response {
    let register = lictor_meter::process();
    let view = register.view();
    if view.retention.is_zero() {
        let text = "Prometheus is not enabled since its retention time is not positive";
        return respond::text(StatusCode::UNSUPPORTED_MEDIA_TYPE, text);
    }
    let mut response = respond::text(StatusCode::OK, prometheus::write(register, &view.filter, view.retention));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(prometheus::CONTENT_TYPE));
    response
}
