//! Which names pass, and how they are written in full.

/// Rules for names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// First part of every name.
    pub prefix: String,
    /// The host, which gauges have as their second part; empty for none.
    pub host: String,
    /// Beginnings of full names that pass.
    pub allowed: Vec<String>,
    /// Beginnings of full names that do not.
    pub blocked: Vec<String>,
    /// Whether names pass that no rule speaks of.
    pub otherwise: bool,
}

impl Default for Filter {
    /// Every name passes as it is.
    fn default() -> Filter {
        Filter { prefix: String::new(), host: String::new(), allowed: Vec::new(), blocked: Vec::new(), otherwise: true }
    }
}

impl Filter {
    /// The full name of a counter or timer, if it passes.
    pub fn name(&self, name: &str) -> Option<String> {
        self.pass([self.prefix.as_str(), name])
    }

    /// The full name of a gauge, if it passes.
    pub fn gauge(&self, name: &str) -> Option<String> {
        self.pass([self.prefix.as_str(), self.host.as_str(), name])
    }

    /// The full name of a gauge where the host is told in another way.
    pub fn gauge_without_host(&self, name: &str) -> Option<String> {
        self.gauge(name)?;
        Some(joined([self.prefix.as_str(), name]))
    }

    fn pass<const N: usize>(&self, parts: [&str; N]) -> Option<String> {
        let full = joined(parts);
        let longest =
            |rules: &[String]| rules.iter().filter(|rule| full.starts_with(rule.as_str())).map(String::len).max();
        let passes = match (longest(&self.allowed), longest(&self.blocked)) {
            (None, None) => self.otherwise,
            // The longer rule wins; of two that are the same, the one that blocks.
            (allowed, blocked) => allowed > blocked,
        };
        passes.then_some(full)
    }
}

fn joined<const N: usize>(parts: [&str; N]) -> String {
    let present: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    present.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(allowed: &[&str], blocked: &[&str], otherwise: bool) -> Filter {
        let owned = |rules: &[&str]| rules.iter().map(|rule| (*rule).to_owned()).collect();
        Filter {
            prefix: "consul".into(),
            host: "h".into(),
            allowed: owned(allowed),
            blocked: owned(blocked),
            otherwise,
        }
    }

    #[test]
    fn only_gauges_have_the_host() {
        let filter = filter(&[], &[], true);
        assert_eq!(filter.name("http.GET"), Some("consul.http.GET".into()));
        assert_eq!(filter.gauge("runtime"), Some("consul.h.runtime".into()));
        assert_eq!(filter.gauge_without_host("runtime"), Some("consul.runtime".into()));
        let plain = Filter { host: String::new(), prefix: String::new(), ..filter };
        assert_eq!((plain.gauge("a"), plain.name("b")), (Some("a".into()), Some("b".into())));
    }

    #[test]
    fn the_longest_rule_decides() {
        let filter = filter(&["consul.http.GET"], &["consul.http"], true);
        assert!(filter.name("http.GET.v1").is_some() && filter.name("dns").is_some());
        assert_eq!(filter.name("http.PUT"), None);
        let strict = self::filter(&["consul.dns"], &[], false);
        assert!(strict.name("dns.ptr_query").is_some());
        assert_eq!(strict.name("http"), None);
    }
}
