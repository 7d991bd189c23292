//! VictoriaMetrics, which has `consul_sd_configs` where Debian's Prometheus leaves it out: what it discovers and scrapes.

use std::fs;
use std::process::Command;
use std::time::Duration;

use lictor_testkit::program::find;
use lictor_testkit::{House, Program, http, ports, until};
use serde_json::{Value, json};

use crate::{LICTOR, web};

/// What `/targets` says of one target: its job, where it is, and whether it is up.
type Target = (String, String, String);

#[test]
fn victoriametrics_discovers_services_and_scrapes_them_through_their_managed_proxies() {
    let Some(program) = find("victoria-metrics") else { return };
    let (shop, depot) = (web("shop_orders_total 7\n").port(), web("depot_parcels 3\n").port());
    let house = House::start(
        LICTOR,
        json!({
            "log_level": "debug",
            "telemetry": {"prometheus_retention_time": "1h", "disable_hostname": true},
            "services": [
                {"name": "shop", "port": shop, "tags": ["eu", "blue"], "meta": {"team": "sales"}, "connect": {"proxy": {}}},
                {"name": "depot", "port": depot, "tags": ["us"], "connect": {"proxy": {}}},
            ],
        }),
    );
    house.wait_healthy("shop");
    house.wait_healthy("depot");
    let (path, port) = (settings(&house), ports::one());
    let _victoria = Program::start(
        Command::new(program)
            .arg(format!("-promscrape.config={path}"))
            .arg("-promscrape.consulSDCheckInterval=1s")
            // What was scraped can be asked for at once.
            .arg("-search.latencyOffset=1s")
            .arg(format!("-storageDataPath={}", house.folder().join("metrics").display()))
            .arg(format!("-httpListenAddr=127.0.0.1:{port}")),
    );
    let targets = || targets(port).unwrap_or_default();
    let is = |job: &str, name: &str, health: &str| {
        targets().iter().any(|(of, called, state)| of == job && called == name && state == health)
    };
    let names = |job: &str| -> Vec<String> {
        let mut names: Vec<String> =
            targets().into_iter().filter(|(of, ..)| of == job).map(|(_, name, _)| name).collect();
        names.sort();
        names
    };
    until("both proxies are scraped", || is("mesh", "shop-proxy", "up") && is("mesh", "depot-proxy", "up"));
    assert_eq!(names("mesh"), ["depot-proxy", "shop-proxy"]);
    // A list of services, one of which does not exist; a list of tags, all of which must be there; no stale reads.
    until("a named proxy is scraped", || is("named", "shop-proxy", "up"));
    assert_eq!(names("named"), ["shop-proxy"]);
    until("a tagged service is scraped", || is("tagged", "shop/sales", "up"));
    assert_eq!(names("tagged"), ["shop/sales"]);
    until("the figures of an application are there", || {
        value(port, "shop_orders_total{job='mesh',service='shop-proxy'}").as_deref() == Some("7")
    });
    until("the agent's are too", || value(port, "consul_autopilot_healthy").as_deref() == Some("1"));
    // An intention decides about it as about anybody.
    house.intend("metrics", "depot", "deny");
    until("the second proxy refuses", || is("mesh", "depot-proxy", "down"));
    // What goes is no target any longer, and what comes is one.
    assert_eq!(house.put("/v1/agent/service/deregister/depot", json!(null)).status, 200);
    until("only one proxy is left", || names("mesh") == ["shop-proxy"]);
    let store = json!({"Name": "store", "Port": depot, "Tags": ["blue", "eu"], "Meta": {"team": "stock"}});
    assert_eq!(house.put("/v1/agent/service/register", store).status, 200);
    until("a new service is scraped", || is("tagged", "store/stock", "up"));
    // It waits by index rather than asking again and again.
    let log = house.log();
    let reads: Vec<&str> = log.lines().filter(|line| line.contains("GET /v1/catalog/services?")).collect();
    let waits = |line: &&&str| line.contains("&index=") && !line.contains("&index=0&") && line.contains("&wait=");
    assert!(reads.iter().any(|line| waits(&line) && line.contains("stale")), "{reads:#?}");
    assert!(reads.iter().any(|line| waits(&line) && !line.contains("stale")), "{reads:#?}");
    assert!(reads.len() < 60, "{} reads: {reads:#?}", reads.len());
}

/// Writes what it shall scrape, beside the leaf that it shows; where the file is.
fn settings(house: &House) -> String {
    let leaf = house.get("/v1/agent/connect/ca/leaf/metrics").json();
    let file = |name: &str, text: &str| {
        let path = house.folder().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let certificate = file("scrape.pem", leaf["CertPEM"].as_str().unwrap());
    let key = file("scrape.key", leaf["PrivateKeyPEM"].as_str().unwrap());
    let agent = format!("127.0.0.1:{}", house.http_port);
    let tls = format!("{{cert_file: {certificate}, key_file: {key}, insecure_skip_verify: true}}");
    let service = "{source_labels: [__meta_consul_service], target_label: service}";
    file(
        "scrape.yml",
        &format!(
            "global: {{scrape_interval: 1s}}\n\
             scrape_configs:\n\
             - {{job_name: agent, metrics_path: /v1/agent/metrics, params: {{format: [prometheus]}},\n\
             \x20  static_configs: [{{targets: ['{agent}']}}]}}\n\
             - job_name: mesh\n\
             \x20 scheme: https\n\
             \x20 tls_config: {tls}\n\
             \x20 consul_sd_configs: [{{server: '{agent}'}}]\n\
             \x20 relabel_configs:\n\
             \x20 - {{source_labels: [__meta_consul_service], regex: '.*-proxy', action: keep}}\n\
             \x20 - {service}\n\
             - job_name: named\n\
             \x20 scheme: https\n\
             \x20 tls_config: {tls}\n\
             \x20 consul_sd_configs: [{{server: '{agent}', services: [shop-proxy, absent]}}]\n\
             \x20 relabel_configs: [{service}]\n\
             - job_name: tagged\n\
             \x20 consul_sd_configs: [{{server: '{agent}', tags: [eu, blue], allow_stale: false}}]\n\
             \x20 relabel_configs:\n\
             \x20 - {{source_labels: [__meta_consul_service, __meta_consul_service_metadata_team], separator: /,\n\
             \x20    target_label: service}}\n"
        ),
    )
}

fn ask(port: u16, path: &str) -> Option<Value> {
    let answer = http::request(port, "GET", path, &[], b"", Duration::from_secs(10)).ok()?;
    (answer.status == 200).then(|| answer.json())
}

fn targets(port: u16) -> Option<Vec<Target>> {
    let all = ask(port, "/api/v1/targets?state=active")?;
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let target =
        |target: &Value| (word(&target["labels"]["job"]), word(&target["labels"]["service"]), word(&target["health"]));
    Some(all["data"]["activeTargets"].as_array()?.iter().map(target).collect())
}

/// The latest value of one series.
fn value(port: u16, query: &str) -> Option<String> {
    let found = ask(port, &format!("/api/v1/query?query={query}"))?;
    Some(found["data"]["result"][0]["value"][1].as_str()?.to_owned())
}
