//! Whether a definition that reached us over HTTP makes sense; the texts and their order are the original's.

use lictor_model::health::CheckSpec;
use lictor_model::meta;
use lictor_model::service::{Definition, Kind, Service};

use crate::Error;

/// `N error(s) occurred:` with one line each, as clients know it.
pub fn several(problems: &[String]) -> String {
    let lines: String = problems.iter().map(|problem| format!("\n* {problem}")).collect();
    format!("{} error(s) occurred:\n{lines}", problems.len())
}

/// Checks a definition and the sidecar inside it.
pub fn definition(definition: &Definition) -> Result<(), Error> {
    let service = &definition.service;
    if service.name.is_empty() {
        return Err(Error::BadRequest("Missing service name".into()));
    }
    if is_any_address(&service.address) {
        return Err(Error::BadRequest("Invalid service address".into()));
    }
    service.weights.validate().map_err(|why| Error::BadRequest(format!("Invalid Weights: {why}")))?;
    if let Some(meta) = &service.meta {
        meta::validate(meta).map_err(|why| Error::BadRequest(format!("Invalid Service Meta: {why}")))?;
    }
    if let Some(proxy) = &definition.managed_proxy {
        if !proxy.run_as.is_empty() {
            // Whoever may register a proxy may choose its program; as whom that runs is not theirs to say.
            let text = "Invalid managed proxy: RunAs is allowed in configuration files only";
            return Err(Error::BadRequest(text.into()));
        }
        let spelled = |name| match name {
            "limit_open_files" => "LimitOpenFiles",
            "limit_memory" => "LimitMemory",
            _ => "CPUWeight",
        };
        let validated = proxy.limits.validate();
        validated
            .map_err(|(name, why)| Error::BadRequest(format!("Invalid managed proxy: {} {why}", spelled(name))))?;
    }
    let mut problems = structure(service);
    if let Some(sidecar) = &definition.sidecar {
        if !sidecar.service.id.is_empty() {
            problems.push("A SidecarService cannot specify an ID as this is managed by the agent".into());
        }
        if sidecar.sidecar.is_some() {
            problems.push("A SidecarService cannot have a nested SidecarService".into());
        }
        if sidecar.managed_proxy.is_some() {
            problems.push("A SidecarService cannot have a managed proxy".into());
        }
    }
    if !problems.is_empty() {
        return Err(Error::BadRequest(several(&problems)));
    }
    checks(definition).map_err(|why| Error::BadRequest(format!("Invalid check: {why}")))?;
    if let Some(sidecar) = &definition.sidecar {
        checks(sidecar)
            .map_err(|why| Error::Refused(format!("Bad request: Invalid check in sidecar_service: {why}")))?;
    }
    Ok(())
}

/// What is wrong with a service's own structure.
pub fn structure(service: &Service) -> Vec<String> {
    let mut problems = Vec::new();
    if service.kind == Kind::ConnectProxy {
        if service.proxy.as_ref().is_none_or(|proxy| proxy.destination_name.is_empty()) {
            problems.push("Proxy.DestinationServiceName must be non-empty for Connect proxy services".into());
        }
        if service.port == 0 {
            problems.push("Port must be set for a Connect proxy".into());
        }
        if service.native {
            problems.push("A Proxy cannot also be Connect Native, only typical services".into());
        }
    }
    problems
}

fn checks(definition: &Definition) -> Result<(), &'static str> {
    // A single empty `check` means "none"; an empty one in the list is a mistake.
    let single = definition.check.iter().filter(|check| !check.is_empty());
    single.chain(&definition.checks).try_for_each(CheckSpec::validate)
}

/// Whether an address means "all of them", which nobody can be reached at.
pub fn is_any_address(address: &str) -> bool {
    matches!(address, "0.0.0.0" | "::" | "[::]")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(change: impl FnOnce(&mut Definition)) -> String {
        let mut definition =
            Definition { service: Service { name: "x".into(), ..Service::default() }, ..Definition::default() };
        change(&mut definition);
        super::definition(&definition).unwrap_err().to_string()
    }

    #[test]
    fn what_makes_no_sense_has_the_text_clients_know() {
        assert_eq!(text(|d| d.service.name = "".into()), "Missing service name");
        assert_eq!(text(|d| d.service.address = "::".into()), "Invalid service address");
        assert_eq!(text(|d| d.service.weights.passing = 0), "Invalid Weights: Passing must be greater than 0");
        assert_eq!(
            text(|d| d.service.kind = Kind::ConnectProxy),
            "2 error(s) occurred:\n\n* Proxy.DestinationServiceName must be non-empty for Connect proxy services\n\
             * Port must be set for a Connect proxy"
        );
        assert_eq!(text(|d| d.checks.push(CheckSpec::default())), "Invalid check: TTL must be > 0 for TTL checks");
        assert_eq!(
            text(|d| {
                let mut sidecar = Definition::default();
                sidecar.service.id = "own".into();
                d.sidecar = Some(Box::new(sidecar));
            }),
            "1 error(s) occurred:\n\n* A SidecarService cannot specify an ID as this is managed by the agent"
        );
    }

    #[test]
    fn a_single_empty_check_means_none() {
        let definition = Definition {
            service: Service { name: "x".into(), ..Service::default() },
            check: Some(CheckSpec::default()),
            ..Definition::default()
        };
        assert!(super::definition(&definition).is_ok());
    }
}
