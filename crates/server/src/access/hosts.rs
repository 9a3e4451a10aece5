//! The host names that requests may address. With DNS rebinding a web page points its own name at a server that only
//! its visitor can reach, and becomes of the same origin as that server. Its requests still carry the page's host name.

use std::net::IpAddr;
use std::str::FromStr;

use axum::http::uri::Authority;

/// A name or address that requests may address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedHost {
    /// `*`: every host.
    Any,
    /// `images.example.com`.
    Name(String),
    /// `*.example.com`: the names below it.
    Under(String),
    /// `10.0.0.7` or `::1`, with or without brackets.
    Address(IpAddr),
}

/// The names and addresses that requests may address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AllowedHosts {
    /// Every host.
    #[default]
    Any,
    /// These, and those of the machine itself: `localhost`, the names below it, and the loopback addresses.
    These(Vec<AllowedHost>),
}

/// The error for a text that is not a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a name, *.NAME, an address or *, without a scheme, a port or a path")]
pub struct InvalidAllowedHost;

impl FromStr for AllowedHost {
    type Err = InvalidAllowedHost;

    fn from_str(text: &str) -> Result<Self, InvalidAllowedHost> {
        if text == "*" {
            return Ok(AllowedHost::Any);
        }
        if let Ok(address) = text.trim_start_matches('[').trim_end_matches(']').parse() {
            return Ok(AllowedHost::Address(address));
        }
        let (is_under, name) = text.strip_prefix("*.").map_or((false, text), |name| (true, name));
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        match (is_under, is_name && !name.is_empty()) {
            (true, true) => Ok(AllowedHost::Under(name)),
            (false, true) => Ok(AllowedHost::Name(name)),
            _ => Err(InvalidAllowedHost),
        }
    }
}

impl AllowedHosts {
    /// The hosts of a server that listens at `local`: the `listed` ones. Without any, every host is allowed, unless the
    /// server listens on the loopback address and needs no key. Such a server allows only the names of the machine and
    /// its `own` ones.
    pub fn new(listed: Vec<AllowedHost>, own: Vec<AllowedHost>, local: IpAddr, has_keys: bool) -> Self {
        let is_open = listed.is_empty() && (has_keys || !local.to_canonical().is_loopback());
        if is_open || listed.contains(&AllowedHost::Any) {
            return AllowedHosts::Any;
        }
        AllowedHosts::These(listed.into_iter().chain(own).collect())
    }
}

/// Whether a request for `authority`, a host with or without a port, is answered. Health probes may use any address: a
/// page cannot forge an address as its host.
pub(crate) fn allowed_host(authority: &str, hosts: &AllowedHosts, is_probe: bool) -> bool {
    let AllowedHosts::These(hosts) = hosts else { return true };
    let Some(host) = host(authority) else { return false };
    match host {
        AllowedHost::Address(address) => is_probe || address.is_loopback() || hosts.contains(&host),
        AllowedHost::Name(name) => {
            is_under(&name, "localhost")
                || name == "localhost"
                || hosts.iter().any(|allowed| match allowed {
                    AllowedHost::Name(allowed) => name == *allowed,
                    AllowedHost::Under(parent) => is_under(&name, parent),
                    AllowedHost::Any | AllowedHost::Address(_) => false,
                })
        }
        AllowedHost::Any | AllowedHost::Under(_) => false,
    }
}

/// The name or address before the port.
fn host(authority: &str) -> Option<AllowedHost> {
    let authority: Authority = authority.parse().ok()?;
    let host = authority.host();
    if authority.as_str().contains('@') || host.starts_with('*') {
        return None;
    }
    let host: AllowedHost = host.parse().ok()?;
    Some(match host {
        AllowedHost::Address(address) => AllowedHost::Address(address.to_canonical()),
        name => name,
    })
}

fn is_under(name: &str, parent: &str) -> bool {
    name.strip_suffix(parent).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(listed: &[&str], local: &str, has_keys: bool) -> AllowedHosts {
        let listed = listed.iter().map(|host| host.parse().unwrap()).collect();
        AllowedHosts::new(listed, vec!["own.example".parse().unwrap()], local.parse().unwrap(), has_keys)
    }

    #[track_caller]
    fn check(hosts: &AllowedHosts, allowed: &[&str], refused: &[&str]) {
        for host in allowed {
            assert!(allowed_host(host, hosts, false), "{host}");
        }
        for host in refused {
            assert!(!allowed_host(host, hosts, false), "{host}");
        }
    }

    const LOCAL: [&str; 12] = [
        "localhost",
        "localhost:8091",
        "LocalHost.",
        "fox.localhost:8091",
        "a.b.localhost",
        "127.0.0.1",
        "127.0.0.1:8091",
        "127.1.2.3:80",
        "[::1]",
        "[::1]:8091",
        "[::ffff:127.0.0.1]:8091",
        "own.example:8091",
    ];
    const OTHERS: [&str; 14] = [
        "evil.example",
        "evil.example:8091",
        "localhost.evil.example",
        "evillocalhost",
        ".localhost",
        "127.0.0.1.evil.example",
        "10.0.0.7:8091",
        "0.0.0.0:8091",
        "[fe80::1]",
        "user@localhost",
        "localhost/",
        "",
        "*",
        "2130706433",
    ];

    #[test]
    fn a_server_of_this_machine_without_keys_is_asked_by_the_machines_names() {
        for local in ["127.0.0.1", "127.0.0.9", "::1", "::ffff:127.0.0.1"] {
            check(&hosts(&[], local, false), &LOCAL, &OTHERS);
        }
        for (local, has_keys) in [("127.0.0.1", true), ("0.0.0.0", false), ("::", false), ("10.0.0.7", false)] {
            assert_eq!(hosts(&[], local, has_keys), AllowedHosts::Any);
        }
        check(&AllowedHosts::Any, &OTHERS, &[]);
    }

    #[test]
    fn a_list_counts_whatever_the_server_listens_at() {
        let listed = ["Images.example.com", "*.cdn.example", "10.0.0.7", "[fd00::7]"];
        for (local, has_keys) in [("0.0.0.0", false), ("127.0.0.1", true)] {
            let hosts = hosts(&listed, local, has_keys);
            check(
                &hosts,
                &["images.example.com:443", "IMAGES.EXAMPLE.COM.", "a.cdn.example", "10.0.0.7:8091", "[fd00::7]:8091"],
                &["www.images.example.com", "cdn.example", "10.0.0.8", "[fd00::8]"],
            );
            check(&hosts, &LOCAL, &OTHERS[..6]);
        }
        assert_eq!(hosts(&["a.example", "*"], "127.0.0.1", false), AllowedHosts::Any);
    }

    #[test]
    fn a_probe_is_answered_by_address_and_by_no_other_name() {
        let hosts = hosts(&["images.example.com"], "0.0.0.0", false);
        assert!(allowed_host("10.244.0.7:8091", &hosts, true) && !allowed_host("evil.example", &hosts, true));
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for bad in ["", "*.", "*x", "https://example.com", "example.com:8091", "example.com/", "a b", "a.*.b"] {
            assert_eq!(bad.parse::<AllowedHost>(), Err(InvalidAllowedHost), "{bad}");
        }
    }
}
