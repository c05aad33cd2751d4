//! Addresses of peers in compact form: 4 or 16 bytes of address, 2 of port, big-endian (BEP 7, 23).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes of one IPv4 address with its port.
pub const COMPACT_V4_BYTES: usize = 6;

/// Bytes of one IPv6 address with its port.
pub const COMPACT_V6_BYTES: usize = 18;

/// Reads IPv4 addresses; ports of 0 are skipped, a tail of less than an address is dropped.
pub fn decode_v4(bytes: &[u8]) -> impl Iterator<Item = SocketAddr> + '_ {
    let (addrs, _) = bytes.as_chunks::<COMPACT_V4_BYTES>();
    addrs
        .iter()
        .filter_map(|&[a, b, c, d, high, low]| with_port(IpAddr::from([a, b, c, d]), u16::from_be_bytes([high, low])))
}

/// Reads IPv6 addresses; ports of 0 are skipped, a tail of less than an address is dropped.
pub fn decode_v6(bytes: &[u8]) -> impl Iterator<Item = SocketAddr> + '_ {
    let (addrs, _) = bytes.as_chunks::<COMPACT_V6_BYTES>();
    addrs.iter().filter_map(|addr| {
        let (ip, port) = addr.split_first_chunk::<16>()?;
        with_port(IpAddr::from(*ip), u16::from_be_bytes(port.try_into().ok()?))
    })
}

/// Appends an address: 6 bytes for IPv4, 18 for IPv6.
pub fn encode(addr: SocketAddr, out: &mut Vec<u8>) {
    match addr.ip() {
        IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
    }
    out.extend_from_slice(&addr.port().to_be_bytes());
}

/// Reads one bare address of 4 or 16 bytes (`external ip`, BEP 24; `yourip`, BEP 10).
pub fn decode_ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::V4(Ipv4Addr::from(v4)));
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| IpAddr::V6(Ipv6Addr::from(v6)))
}

/// Joins an address and a port from the wire; `None` for port 0, which nobody can be reached at.
pub fn with_port(ip: IpAddr, port: u16) -> Option<SocketAddr> {
    (port != 0).then_some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compact_addresses_round_trip() {
        let v4: Vec<SocketAddr> = vec!["127.0.0.1:6881".parse().unwrap(), "10.1.2.3:1".parse().unwrap()];
        let v6: Vec<SocketAddr> = vec!["[::1]:6881".parse().unwrap(), "[2001:db8::5]:65535".parse().unwrap()];
        let write = |addrs: &[SocketAddr]| {
            let mut out = Vec::new();
            addrs.iter().for_each(|addr| encode(*addr, &mut out));
            out
        };
        assert_eq!(write(&v4)[..6], [127, 0, 0, 1, 0x1a, 0xe1]);
        assert_eq!(decode_v4(&write(&v4)).collect::<Vec<_>>(), v4);
        assert_eq!(decode_v6(&write(&v6)).collect::<Vec<_>>(), v6);
    }

    #[test]
    fn port_0_and_cut_off_tails_are_skipped() {
        assert_eq!(decode_v4(&[127, 0, 0, 1, 0, 0]).count(), 0);
        assert_eq!(decode_v4(&[127, 0, 0, 1, 0, 9, 8]).count(), 1);
        assert_eq!(decode_v6(&[0; 17]).count(), 0);
        assert_eq!(decode_v6(&[0; 36]).count(), 0);
    }

    #[test]
    fn bare_addresses_have_4_or_16_bytes() {
        assert_eq!(decode_ip(&[1, 2, 3, 4]), Some("1.2.3.4".parse().unwrap()));
        assert_eq!(decode_ip(&[0; 16]), Some("::".parse().unwrap()));
        assert_eq!(decode_ip(&[0; 5]), None);
    }
}
