//! A state over a store in memory, and short ways to fill it.

use std::time::Duration;

use lictor_model::acl::Caller;
use lictor_model::health::{Check, Status};
use lictor_model::node::Node;
use lictor_model::service::{Kind, ProxySpec, Service};
use lictor_state::reader::Filter;
use lictor_state::writer::Registration;
use lictor_state::{Config, Error, Reader, State, Writer};
use lictor_store::Store;
use lictor_task::Scope;

/// Long enough for anything that happens at all.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// One process's view of a store.
pub(crate) struct House {
    pub(crate) store: Store,
    pub(crate) state: State,
    pub(crate) writer: Writer,
    _scope: Scope,
}

impl House {
    pub(crate) async fn new() -> House {
        House::over(Store::memory()).await
    }

    pub(crate) async fn over(store: Store) -> House {
        House::configured(store, Config { datacenter: "dc1".into(), ..Config::default() }).await
    }

    pub(crate) async fn configured(store: Store, config: Config) -> House {
        let scope = Scope::new("test");
        let (state, writer) = State::open(store.clone(), config, &scope).await.unwrap();
        House { store, state, writer, _scope: scope }
    }

    pub(crate) fn reader(&self) -> Reader {
        self.state.reader(&Caller::acls_disabled())
    }

    pub(crate) async fn register(&self, registration: Registration) {
        self.writer.register(registration).await.unwrap();
    }
}

/// Who may do everything.
pub(crate) fn everyone() -> Caller {
    Caller::acls_disabled()
}

pub(crate) fn node(name: &str) -> Node {
    Node { name: name.into(), address: "10.0.0.1".into(), ..Node::default() }
}

pub(crate) fn service(id: &str, name: &str) -> Service {
    Service { id: id.into(), name: name.into(), port: 80, ..Service::default() }
}

pub(crate) fn proxy(id: &str, destination: &str) -> Service {
    let spec = ProxySpec { destination_name: destination.into(), ..ProxySpec::default() };
    Service { kind: Kind::ConnectProxy, proxy: Some(spec), ..service(id, &format!("{destination}-proxy")) }
}

pub(crate) fn check(id: &str, service: &str, status: Status) -> Check {
    Check { id: id.into(), name: id.into(), service_id: service.into(), status, ..Check::default() }
}

/// A node alone.
pub(crate) fn only(name: &str) -> Registration {
    Registration { node: node(name), ..Registration::default() }
}

impl With for Registration {}

/// Registrations put together.
pub(crate) trait With: Into<Registration> {
    fn with(self, service: Service) -> Registration {
        Registration { service: Some(service), ..self.into() }
    }

    fn and(self, check: Check) -> Registration {
        let mut registration = self.into();
        registration.checks.push(check);
        registration
    }
}

pub(crate) fn all() -> Filter {
    Filter::default()
}

/// The text of a refusal.
#[track_caller]
pub(crate) fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::Refused(text)) => text,
        other => panic!("not refused: {other:?}"),
    }
}

pub(crate) fn uuid(n: u32) -> String {
    format!("{n:08x}-0000-4000-8000-000000000000")
}
