//! Workloads whose instructions can be counted (docs/performance.md): changes beside many who wait for something else, and
//! many who wait for what changes.

use std::future::Future;
use std::task::{Context, Waker};

use lictor_model::node::Node;
use lictor_model::service::Service;
use tokio::runtime::Runtime;

use super::*;
use crate::writer::Registration;

/// Only what happens in here is counted.
#[inline(never)]
fn measured<T>(work: impl FnOnce() -> T) -> T {
    std::hint::black_box(work())
}

fn registration(service: &str, port: i64) -> Registration {
    let node = Node { name: "n".into(), address: "10.0.0.1".into(), ..Node::default() };
    let service = Service { id: service.into(), name: service.into(), port, ..Service::default() };
    Registration { node, service: Some(service), ..Registration::default() }
}

/// A state in which one service is registered.
fn with_a_service() -> (Runtime, Scope, Writer, Reader) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let scope = Scope::new("weigh");
    let (state, writer) = runtime.block_on(State::open(Store::memory(), Config::default(), &scope)).unwrap();
    runtime.block_on(writer.register(registration("watched", 0))).unwrap();
    let reader = state.reader(&Caller::acls_disabled());
    runtime.block_on(reader.catch_up()).unwrap();
    (runtime, scope, writer, reader)
}

#[test]
#[ignore = "a workload for counting instructions, see docs/performance.md"]
fn weigh_two_hundred_registrations_beside_ten_thousand_watchers() {
    let (runtime, scope, writer, reader) = with_a_service();
    let (topics, seen) = ([Topic::Service("watched".into())], reader.current());
    let mut watchers: Vec<_> = (0..10_000).map(|_| Box::pin(reader.changed(&topics, seen))).collect();
    let mut context = Context::from_waker(Waker::noop());
    let mut waiting =
        || watchers.iter_mut().map(|one| usize::from(one.as_mut().poll(&mut context).is_pending())).sum::<usize>();
    assert_eq!(waiting(), 10_000);
    measured(|| {
        runtime.block_on(async {
            for port in 0..200 {
                writer.register(registration("other", port)).await.unwrap();
            }
            reader.catch_up().await.unwrap();
        });
    });
    assert_eq!(waiting(), 10_000);
    runtime.block_on(writer.register(registration("watched", 2))).unwrap();
    runtime.block_on(reader.catch_up()).unwrap();
    assert_eq!(waiting(), 0);
    runtime.block_on(scope.join(std::time::Duration::from_secs(1)));
}

#[test]
#[ignore = "a workload for counting instructions, see docs/performance.md"]
fn weigh_a_thousand_watchers_woken_ten_times() {
    let (runtime, scope, writer, reader) = with_a_service();
    let topics = [Topic::Service("watched".into())];
    let mut context = Context::from_waker(Waker::noop());
    let mut woken = 0;
    measured(|| {
        for port in 1..=10 {
            let seen = reader.current();
            let mut watchers: Vec<_> = (0..1000).map(|_| Box::pin(reader.changed(&topics, seen))).collect();
            assert!(watchers.iter_mut().all(|one| one.as_mut().poll(&mut context).is_pending()));
            runtime.block_on(writer.register(registration("watched", port))).unwrap();
            runtime.block_on(reader.catch_up()).unwrap();
            woken +=
                watchers.iter_mut().map(|one| usize::from(one.as_mut().poll(&mut context).is_ready())).sum::<usize>();
        }
    });
    assert_eq!(woken, 10_000);
    runtime.block_on(scope.join(std::time::Duration::from_secs(1)));
}
