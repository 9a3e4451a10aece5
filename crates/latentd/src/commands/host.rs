//! The host that a server listens on, and the host to reach it at.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// An IP address or a host name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    /// `0.0.0.0`, `::1` or `[::1]`.
    Address(IpAddr),
    /// `localhost`.
    Name(String),
}

impl Host {
    /// The socket addresses to listen on. IPv4 comes first, for clients that know nothing else.
    pub(crate) async fn addresses(&self, port: u16) -> io::Result<Vec<SocketAddr>> {
        match self {
            Host::Address(address) => Ok(vec![SocketAddr::new(*address, port)]),
            Host::Name(name) => {
                let mut found: Vec<_> = tokio::net::lookup_host((name.as_str(), port)).await?.collect();
                found.sort_by_key(SocketAddr::is_ipv6);
                Ok(found)
            }
        }
    }

    /// The host at which this machine reaches a server that listens here.
    pub(crate) fn reached(&self) -> Host {
        match self {
            Host::Address(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) => Host::Address(Ipv4Addr::LOCALHOST.into()),
            Host::Address(IpAddr::V6(Ipv6Addr::UNSPECIFIED)) => Host::Address(Ipv6Addr::LOCALHOST.into()),
            host => host.clone(),
        }
    }
}

impl FromStr for Host {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unbracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = unbracketed.parse() {
            return Ok(Host::Address(address));
        }
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        // Text without a letter is a malformed address.
        let is_name = text.bytes().all(is_part) && text.bytes().any(|byte| byte.is_ascii_alphabetic());
        if is_name {
            Ok(Host::Name(text.into()))
        } else {
            Err("must be an address or a name, e.g. 127.0.0.1, ::1 or localhost")
        }
    }
}

impl fmt::Display for Host {
    /// Formats the host as in a URL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Host::Address(address) => write!(f, "{address}"),
            Host::Name(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_an_address_or_a_name() {
        for (text, shown, reached) in [
            ("0.0.0.0", "0.0.0.0", "127.0.0.1"),
            ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
            ("10.0.0.7", "10.0.0.7", "10.0.0.7"),
            ("::", "[::]", "[::1]"),
            ("::1", "[::1]", "[::1]"),
            ("[::1]", "[::1]", "[::1]"),
            ("localhost", "localhost", "localhost"),
            ("gpu-3.internal", "gpu-3.internal", "gpu-3.internal"),
        ] {
            let host: Host = text.parse().unwrap();
            assert_eq!((host.to_string(), host.reached().to_string()), (shown.into(), reached.into()), "{text}");
        }
        for bad in ["", "[::1", "127.0.0.1:8091", "http://localhost", "256.0.0.1", "local host", "[localhost]"] {
            assert!(bad.parse::<Host>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_name_leads_to_addresses_of_which_those_of_ipv4_come_first() {
        let found = Host::Name("localhost".into()).addresses(80).await.unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 80), "{found:?}");
        assert!(found.is_sorted_by_key(SocketAddr::is_ipv6) && !found.is_empty(), "{found:?}");
    }
}
