//! Which processes of this agent may hand connections to each other, and for which services they stand.
//!
//! A proxy that reaches another one of the same agent without TLS has the kernel's word about the process at the other
//! end, and this agent's about what that process is. Nothing here is a secret; what counts is that the answer is right.

use lictor_model::acl::Caller;
use lictor_model::name::{ServiceId, ServiceName};

use crate::config::SameNode;
use crate::{Agent, Error};

/// The field in which a built-in proxy names the socket where its neighbors hand connections over.
const SOCKET: &str = "X_LICTOR_DIRECT_SOCKET";

/// A managed proxy as its neighbors need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbor {
    /// The proxy's own service.
    pub proxy_id: ServiceId,
    /// The service it stands for.
    pub service: ServiceName,
    /// Its process, while there is one that takes connections.
    pub pid: Option<u32>,
    /// Where it takes them; empty when it does not.
    pub socket: String,
}

impl Agent {
    /// The managed proxy with this id. Managed proxies may ask about each other; anybody else needs the right to read
    /// the service it stands for.
    pub fn neighbor(&self, caller: &Caller, id: &ServiceId) -> Result<Neighbor, Error> {
        let inner = &self.inner;
        let unknown = || Error::NotFound(format!("there is no managed proxy {:?} on this agent", id.as_str()));
        let service = {
            let registry = inner.registry.lock();
            let entry = registry.proxies.get(id).ok_or_else(unknown)?;
            let target = registry.services.get(&entry.target).ok_or_else(unknown)?;
            target.view.service.name.clone()
        };
        if caller.as_proxy().is_none() && !caller.reads_service(service.as_str()) {
            return Err(Error::Denied);
        }
        let status = inner.supervisor_now().and_then(|all| all.statuses().borrow().get(id.as_str()).cloned());
        let status = status.filter(|_| inner.config.connect.same_node == SameNode::Direct).unwrap_or_default();
        let socket = status.fields.get(SOCKET).cloned().unwrap_or_default();
        Ok(Neighbor { proxy_id: id.clone(), service, pid: status.pid, socket })
    }

    /// The managed proxy that a process is; the pid must come from the kernel.
    pub async fn neighbor_of_process(&self, caller: &Caller, pid: u32) -> Result<Neighbor, Error> {
        let unknown = || Error::NotFound(format!("process {pid} is no managed proxy of this agent"));
        if self.inner.config.connect.same_node != SameNode::Direct {
            return Err(unknown());
        }
        let number = i32::try_from(pid).map_err(|_| unknown())?;
        let id = self.proxy_of_process(number).await.ok_or_else(unknown)?;
        Ok(Neighbor { pid: Some(pid), socket: String::new(), ..self.neighbor(caller, &id)? })
    }
}
