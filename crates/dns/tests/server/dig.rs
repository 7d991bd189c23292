//! The same through `dig`, which reads answers more strictly than we write tests.

use std::process::Stdio;

use lictor_model::health::Status;
use tokio::process::Command;

use crate::world::{World, config, service};

/// Runs dig; `None`, said loudly, where it is not installed.
async fn dig(world: &World, arguments: &str) -> Option<String> {
    let output = Command::new("dig")
        .args([&format!("@{}", world.address.ip()), "-p", &world.address.port().to_string()])
        .args(["+noall", "+comments", "+answer", "+authority", "+additional", "+tries=1", "+time=5", "+norecurse"])
        .args(arguments.split(' '))
        .stdin(Stdio::null())
        .output()
        .await;
    match output {
        Ok(output) => Some(String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(problem) => {
            eprintln!("SKIPPED: dig cannot be run: {problem}");
            None
        }
    }
}

#[tokio::test]
async fn dig_reads_our_answers_without_complaint() {
    let world = World::with(config(|config| config.enable_truncate = true)).await;
    world.databases(12).await;
    world.instance("consul-server", "127.0.0.1", service("consul", 8300), Status::Passing).await;
    world.node("n1", "10.0.0.1", &[("k", "v"), ("odd", "a\"b\\c")]).await;
    for arguments in [
        "db.service.consul SRV",
        "db.service.consul SRV +noedns",
        "db.service.consul A +tcp",
        "db.service.consul A +subnet=198.51.100.0/24",
        "n1.node.consul ANY",
        "consul NS",
        "consul SOA",
        "nosuch.service.consul A",
        "-x 10.0.0.1",
    ] {
        let Some(text) = dig(&world, arguments).await else { return };
        assert!(text.contains("status: "), "{arguments}: {text}");
        for complaint in
            ["WARNING", "malformed", "extra bytes", "mismatch", "no servers could be reached", "communications error"]
        {
            assert!(!text.to_lowercase().contains(&complaint.to_lowercase()), "{arguments}: {text}");
        }
    }
    let Some(text) = dig(&world, "db.service.consul A +noedns +notcp +ignore").await else { return };
    assert!(text.contains(" tc") && text.contains("ANSWER: 3"), "{text}");
    let Some(text) = dig(&world, "db.service.consul A +noedns").await else { return };
    assert!(text.contains("retrying in TCP mode") && text.contains("ANSWER: 12"), "{text}");
    let Some(text) = dig(&world, "-x 10.0.0.1 +short").await else { return };
    assert!(text.contains("n1.node.dc1.consul."), "{text}");
    world.stop().await;
}
