//! Traefik as an edge that speaks to the mesh itself: it finds services in the catalog, shows a leaf of its own and
//! checks what it is shown.

use std::fs;
use std::process::Command;
use std::time::Duration;

use lictor_testkit::program::{client, find};
use lictor_testkit::{House, Program, http, ports, until};
use serde_json::json;

use super::common::{LICTOR, root_key, rotate};

/// An application that speaks HTTP/2 without TLS: a proxy agrees to HTTP/2 with whoever offers it, and Traefik does.
fn shop(house: &House) -> Option<(Program, u16)> {
    let nginx = find("nginx")?;
    let port = ports::one();
    let folder = house.folder().join("nginx");
    fs::create_dir(&folder).unwrap();
    let place = |name: &str| folder.join(name).display().to_string();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {};\n", place(name)))
        .concat();
    let config = format!(
        "daemon off;\nmaster_process off;\npid {};\nerror_log {};\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}\
         server {{ listen 127.0.0.1:{port} http2; location / {{ return 200 'goods'; }} }}\n}}\n",
        place("pid"),
        place("error.log"),
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, config).unwrap();
    let program = Program::start(Command::new(nginx).arg("-p").arg(&folder).arg("-c").arg(&file));
    Some((program, port))
}

#[test]
fn traefik_reaches_a_service_behind_its_proxy_as_a_member_of_the_mesh() {
    let Some(traefik) = client("traefik").map(|place| place.join("bin/traefik")) else { return };
    let Some(key) = root_key() else { return };
    let house = House::start(LICTOR, json!({"connect": {"proxy": {"allow_managed_api_registration": true}}}));
    let Some((_shop, shop_port)) = shop(&house) else { return };
    let entry = ports::one();
    let log = house.folder().join("traefik.log");
    let _traefik = Program::start(Command::new(traefik).current_dir(house.folder()).args([
        "--global.checknewversion=false".to_owned(),
        "--global.sendanonymoususage=false".to_owned(),
        format!("--entrypoints.web.address=127.0.0.1:{entry}"),
        format!("--providers.consulcatalog.endpoint.address=127.0.0.1:{}", house.http_port),
        "--providers.consulcatalog.connectaware=true".to_owned(),
        "--providers.consulcatalog.connectbydefault=true".to_owned(),
        "--providers.consulcatalog.servicename=edge".to_owned(),
        "--providers.consulcatalog.refreshinterval=1s".to_owned(),
        "--providers.consulcatalog.defaultrule=PathPrefix(`/{{ normalize .Name }}`)".to_owned(),
        format!("--log.filepath={}", log.display()),
        "--log.level=DEBUG".to_owned(),
    ]));
    let ask = |path: &str| -> Option<(u16, String)> {
        let answer = http::request(entry, "GET", path, &[], b"", Duration::from_secs(10)).ok()?;
        Some((answer.status, answer.text()))
    };
    let answers = |status: u16, text: &str| {
        ask("/shop/").is_some_and(|(seen, body)| seen == status && (text.is_empty() || body == text))
    };
    // It starts before the service is there, and follows the catalog.
    until("Traefik knows no such service", || answers(404, ""));
    house.put("/v1/agent/service/register", json!({"Name": "shop", "Port": shop_port, "Connect": {"Proxy": {}}}));
    house.wait_healthy("shop");
    until(&format!("the goods come through the proxy\n{}", read(&log)), || answers(200, "goods"));
    // The proxy saw who asked: its decisions are about Traefik's own name.
    let id = house.intend("edge", "shop", "deny");
    until("the proxy lets Traefik no longer in", || answers(502, "") || answers(500, ""));
    assert_eq!(house.request("DELETE", &format!("/v1/connect/intentions/{id}"), b"").status, 200);
    until("the goods come again", || answers(200, "goods"));
    // New roots and a new leaf are used as soon as they are there.
    rotate(&house, &key);
    until("the goods come with new certificates", || answers(200, "goods"));
    assert_eq!(house.put("/v1/agent/service/deregister/shop", json!(null)).status, 200);
    until("Traefik knows no such service any more", || answers(404, ""));
}

fn read(path: &std::path::Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
