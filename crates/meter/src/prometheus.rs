//! The text form that Prometheus reads.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::filter::Filter;
use crate::register::{Key, Register};

/// The type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Shares of values that summaries tell the bound of.
const SHARES: [f64; 3] = [0.5, 0.9, 0.99];

/// Everything that was written to within the retention.
pub fn write(register: &Register, filter: &Filter, retention: Duration) -> String {
    let mut families = BTreeMap::new();
    for (key, value) in register.gauges(|at| at.elapsed() <= retention) {
        if let Some(name) = filter.gauge(&key.name) {
            family(&mut families, &name, "gauge", |name, text| line(text, name, &labels(&key, None), value));
        }
    }
    let fresh = |series: &crate::series::Series| series.touched.is_some_and(|at| at.elapsed() <= retention);
    register.each_counter(|key, series| {
        if let (true, Some(name)) = (fresh(series), filter.name(&key.name)) {
            let total = series.total.sum;
            family(&mut families, &name, "counter", |name, text| line(text, name, &labels(key, None), total));
        }
    });
    register.each_timer(|key, series| {
        let (true, Some(name)) = (fresh(series), filter.name(&key.name)) else { return };
        family(&mut families, &name, "summary", |name, text| {
            let bounds = series.quantiles(SHARES).unwrap_or([f64::NAN; 3]);
            for (share, bound) in SHARES.into_iter().zip(bounds) {
                line(text, name, &labels(key, Some(share)), bound);
            }
            line(text, &format!("{name}_sum"), &labels(key, None), series.total.sum);
            line(text, &format!("{name}_count"), &labels(key, None), series.total.count as f64);
        });
    });
    families.into_values().collect()
}

fn family(families: &mut BTreeMap<String, String>, full: &str, kind: &str, write: impl FnOnce(&str, &mut String)) {
    let name = safe(full);
    let text = families.entry(name.clone()).or_insert_with(|| format!("# HELP {name} {name}\n# TYPE {name} {kind}\n"));
    write(&name, text);
}

fn line(text: &mut String, name: &str, labels: &str, value: f64) {
    let value = if value.is_nan() { "NaN".to_owned() } else { value.to_string() };
    // A String takes every write.
    let _ = writeln!(text, "{name}{labels} {value}");
}

fn labels(key: &Key, quantile: Option<f64>) -> String {
    let mut pairs: Vec<String> =
        key.labels.iter().map(|(name, value)| format!("{}=\"{}\"", safe(name), escaped(value))).collect();
    pairs.extend(quantile.map(|share| format!("quantile=\"{share}\"")));
    if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) }
}

fn safe(name: &str) -> String {
    let keep = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | ':') { c } else { '_' };
    let name: String = name.chars().map(keep).collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) { format!("_{name}") } else { name }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_form() {
        let register = Register::default();
        register.keep_quantiles();
        register.gauge("runtime.alloc_bytes", &[]).set(5.5);
        register.counter("catalog.service.query", &[("service", "d\"b")]).add(2);
        register.counter("catalog.service.query", &[("service", "web")]).add(1);
        register.timer("http.GET.v1.kv._", &[]).took(Duration::from_millis(3));
        let filter = Filter {
            prefix: "consul".into(),
            host: "my-host".into(),
            allowed: vec![],
            blocked: vec![],
            otherwise: true,
        };
        assert_eq!(
            write(&register, &filter, Duration::from_secs(60)),
            "# HELP consul_catalog_service_query consul_catalog_service_query\n\
             # TYPE consul_catalog_service_query counter\n\
             consul_catalog_service_query{service=\"d\\\"b\"} 2\n\
             consul_catalog_service_query{service=\"web\"} 1\n\
             # HELP consul_http_GET_v1_kv__ consul_http_GET_v1_kv__\n\
             # TYPE consul_http_GET_v1_kv__ summary\n\
             consul_http_GET_v1_kv__{quantile=\"0.5\"} 3\n\
             consul_http_GET_v1_kv__{quantile=\"0.9\"} 3\n\
             consul_http_GET_v1_kv__{quantile=\"0.99\"} 3\n\
             consul_http_GET_v1_kv___sum 3\n\
             consul_http_GET_v1_kv___count 1\n\
             # HELP consul_my_host_runtime_alloc_bytes consul_my_host_runtime_alloc_bytes\n\
             # TYPE consul_my_host_runtime_alloc_bytes gauge\n\
             consul_my_host_runtime_alloc_bytes 5.5\n"
        );
        assert_eq!(write(&register, &filter, Duration::ZERO), "");
    }
}
