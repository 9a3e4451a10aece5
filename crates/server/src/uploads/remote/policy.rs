//! The policy on URLs, as far as their text decides.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use url::{Host, Url};

/// The operator's policy on remote pictures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageUrls {
    /// Allowed schemes.
    pub schemes: ImageUrlSchemes,
    /// Allowed hosts; if empty, all of the public internet.
    pub hosts: Vec<ImageUrlHost>,
}

/// Schemes of URLs that may be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageUrlSchemes {
    /// `https`: nobody on the way can read or replace the picture.
    Https,
    /// `http` and `https`.
    Any,
}

/// A host that pictures may come from: `example.com`, or `*.example.com` for the names below it, with `:PORT` if it is
/// not the scheme's default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageUrlHost {
    name: String,
    /// Whether the names below it are meant.
    is_suffix: bool,
    port: Option<u16>,
}

/// Why a URL is refused; the text follows "it must ".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("begin with https://")]
    Scheme,
    #[error("have no user and no password in it")]
    Credentials,
    #[error("be on a port of its scheme")]
    Port,
    #[error("be of a host that the server's operator allows")]
    Host,
    #[error("be of a public address")]
    Address,
}

impl ImageUrls {
    /// Checks whether a URL may be fetched. The addresses of a name are checked after the lookup; a literal address is
    /// checked here.
    pub(super) fn check(&self, url: &Url, is_public: fn(IpAddr) -> bool) -> Result<(), Refusal> {
        match url.scheme() {
            "https" => {}
            "http" if self.schemes == ImageUrlSchemes::Any => {}
            _ => return Err(Refusal::Scheme),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refusal::Credentials);
        }
        if self.hosts.is_empty() && url.port().is_some() {
            return Err(Refusal::Port);
        }
        let host = url.host().ok_or(Refusal::Host)?;
        if !self.hosts.is_empty() && !self.hosts.iter().any(|allowed| allowed.is_meant(&host, url.port())) {
            return Err(Refusal::Host);
        }
        let address = match host {
            Host::Ipv4(address) => IpAddr::V4(address),
            Host::Ipv6(address) => IpAddr::V6(address),
            Host::Domain(_) => return Ok(()),
        };
        if is_public(address) { Ok(()) } else { Err(Refusal::Address) }
    }
}

impl ImageUrlHost {
    /// `port` is `None` for the scheme's default.
    fn is_meant(&self, host: &Host<&str>, port: Option<u16>) -> bool {
        let host = host.to_string();
        let host = host.strip_suffix('.').unwrap_or(&host);
        let is_named = match self.is_suffix {
            true => host.strip_suffix(&self.name).is_some_and(|rest| rest.ends_with('.') && rest.len() > 1),
            false => host == self.name,
        };
        is_named && port == self.port
    }
}

/// The error for a text that is not a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be HOST, HOST:PORT or *.HOST, without a scheme or a path")]
pub struct InvalidHost;

impl FromStr for ImageUrlHost {
    type Err = InvalidHost;

    fn from_str(text: &str) -> Result<Self, InvalidHost> {
        let (is_suffix, rest) = text.strip_prefix("*.").map_or((false, text), |rest| (true, rest));
        // Normalized as in a URL: lower case, punycode, canonical addresses.
        let url = Url::parse(&format!("https://{rest}")).map_err(|_| InvalidHost)?;
        let name = url.host_str().unwrap_or_default().trim_end_matches('.').to_owned();
        let is_bare = url.path() == "/" && !rest.contains(['/', '@', '?', '#', '\\', '*']);
        if name.is_empty() || !is_bare || (is_suffix && !matches!(url.host(), Some(Host::Domain(_)))) {
            return Err(InvalidHost);
        }
        Ok(ImageUrlHost { name, is_suffix, port: url.port() })
    }
}

impl fmt::Display for ImageUrlHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        write!(f, "{}{}{port}", if self.is_suffix { "*." } else { "" }, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::super::address::is_public;
    use super::*;

    fn checked(schemes: ImageUrlSchemes, hosts: &[&str], url: &str) -> Result<(), Refusal> {
        let hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
        ImageUrls { schemes, hosts }.check(&Url::parse(url).unwrap(), is_public)
    }

    #[test]
    fn a_public_https_url_may_be_fetched() {
        use ImageUrlSchemes::{Any, Https};
        for (schemes, url, expected) in [
            (Https, "https://example.com/cat.png", Ok(())),
            (Https, "https://example.com:443/cat.png?size=1#top", Ok(())),
            (Https, "https://93.184.216.34/cat.png", Ok(())),
            (Https, "http://example.com/cat.png", Err(Refusal::Scheme)),
            (Any, "http://example.com/cat.png", Ok(())),
            (Any, "ftp://example.com/cat.png", Err(Refusal::Scheme)),
            (Any, "file:///etc/passwd", Err(Refusal::Scheme)),
            (Https, "https://me@example.com/", Err(Refusal::Credentials)),
            (Https, "https://:secret@example.com/", Err(Refusal::Credentials)),
            (Https, "https://example.com:8443/", Err(Refusal::Port)),
            (Any, "http://example.com:443/", Err(Refusal::Port)),
            (Https, "https://127.0.0.1/", Err(Refusal::Address)),
            (Https, "https://2130706433/", Err(Refusal::Address)),
            (Https, "https://0x7f.1/", Err(Refusal::Address)),
            (Https, "https://0177.0.0.1/", Err(Refusal::Address)),
            (Https, "https://[::1]/", Err(Refusal::Address)),
            (Https, "https://[::ffff:169.254.169.254]/", Err(Refusal::Address)),
        ] {
            assert_eq!(checked(schemes, &[], url), expected, "{url}");
        }
    }

    #[test]
    fn a_list_of_hosts_leaves_out_all_others() {
        let hosts = ["example.com", "*.Images.example", "cdn.example:8443", "10.0.0.1", "[2606:4700::1111]"];
        for (url, expected) in [
            ("https://example.com/", Ok(())),
            ("https://EXAMPLE.com./", Ok(())),
            ("https://www.example.com/", Err(Refusal::Host)),
            ("https://example.com.evil/", Err(Refusal::Host)),
            ("https://example.com:8443/", Err(Refusal::Host)),
            ("https://a.images.example/", Ok(())),
            ("https://a.b.images.example/", Ok(())),
            ("https://images.example/", Err(Refusal::Host)),
            ("https://evilimages.example/", Err(Refusal::Host)),
            ("https://cdn.example:8443/", Ok(())),
            ("https://cdn.example/", Err(Refusal::Host)),
            ("https://[2606:4700::1111]/", Ok(())),
            ("https://10.0.0.1/", Err(Refusal::Address)),
        ] {
            assert_eq!(checked(ImageUrlSchemes::Https, &hosts, url), expected, "{url}");
        }
    }

    #[test]
    fn a_host_is_written_as_in_a_url() {
        for (text, expected) in [
            ("Example.com.", "example.com"),
            ("*.example.com", "*.example.com"),
            ("example.com:8443", "example.com:8443"),
            ("bücher.example", "xn--bcher-kva.example"),
        ] {
            assert_eq!(text.parse::<ImageUrlHost>().map(|host| host.to_string()), Ok(expected.to_owned()));
        }
        for wrong in
            ["", "*", "*.", "https://example.com", "example.com/", "a b", "me@example.com", "*.10.0.0.1", "*.*.example"]
        {
            assert_eq!(wrong.parse::<ImageUrlHost>(), Err(InvalidHost), "{wrong}");
        }
    }
}
