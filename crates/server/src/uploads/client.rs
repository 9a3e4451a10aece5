//! The unit that shares of common resources are counted for: the holder of a key, or else an address.

use std::net::{IpAddr, Ipv6Addr};

/// A holder of shares. The owner of a job follows from any token that a request brings, but a client cannot take
/// another identity by inventing a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Client {
    /// Index of a key's name.
    Key(usize),
    /// The peer's address; of IPv6 only the network, since one host may use all addresses of it.
    Address(IpAddr),
    /// A request without a connection, as in tests.
    #[default]
    Unknown,
}

/// Bits of an IPv6 address that identify the host within its network (RFC 4291).
const INTERFACE_BITS: u32 = 64;

impl Client {
    /// The client at this address.
    pub(crate) fn at(address: IpAddr) -> Self {
        Client::Address(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> INTERFACE_BITS << INTERFACE_BITS).into(),
            address => address,
        })
    }

    /// The holder of a key, or else the client at `address`.
    pub(crate) fn new(holder: Option<usize>, address: Option<IpAddr>) -> Self {
        holder.map(Client::Key).or_else(|| address.map(Client::at)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_client_and_so_is_a_network_of_ipv6() {
        let at = |address: &str| Client::at(address.parse().unwrap());
        assert_eq!(at("10.0.0.1"), at("::ffff:10.0.0.1"));
        assert_ne!(at("10.0.0.1"), at("10.0.0.2"));
        assert_eq!(at("2001:db8:1:2::3"), at("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(at("2001:db8:1:2::3"), at("2001:db8:1:3::3"));
    }

    #[test]
    fn a_key_stands_over_the_address() {
        let ip = IpAddr::from([10, 0, 0, 1]);
        let address = Some(ip);
        assert_eq!(Client::new(Some(3), address), Client::Key(3));
        assert_eq!(Client::new(None, address), Client::Address(ip));
        assert_eq!(Client::new(None, None), Client::Unknown);
    }
}
