//! Canonical peer priority (BEP 40): both ends of a connection compute the same number, so that a full swarm agrees on
//! whom to keep and nobody is locked out.

use std::net::{IpAddr, SocketAddr};

/// The priority of a connection between two addresses of one family; higher is better. 0 across families.
pub(crate) fn canonical_priority(one: SocketAddr, other: SocketAddr) -> u32 {
    match (one.ip(), other.ip()) {
        (a, b) if a == b => sorted_crc(one.port().to_be_bytes(), other.port().to_be_bytes()),
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let (a, b) = (a.octets(), b.octets());
            let whole = if a[..3] == b[..3] {
                4
            } else if a[..2] == b[..2] {
                3
            } else {
                2
            };
            sorted_crc(masked(a, whole), masked(b, whole))
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let (a, b) = (a.octets(), b.octets());
            // Six bytes count whole; beyond them one more for each further byte that agrees.
            let same = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
            let whole = if same < 6 { 6 } else { same + 1 };
            sorted_crc(masked(a, whole), masked(b, whole))
        }
        _ => 0,
    }
}

/// Keeps the first `whole` bytes and every other bit of the rest.
fn masked<const N: usize>(mut bytes: [u8; N], whole: usize) -> [u8; N] {
    for byte in bytes.iter_mut().skip(whole) {
        *byte &= 0x55;
    }
    bytes
}

fn sorted_crc<const N: usize>(a: [u8; N], b: [u8; N]) -> u32 {
    let (low, high) = if a <= b { (a, b) } else { (b, a) };
    !low.iter().chain(&high).fold(!0, |crc, byte| (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)])
}

/// CRC-32C (Castagnoli), reflected.
const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn priority(one: &str, other: &str) -> u32 {
        let (one, other) = (one.parse().unwrap(), other.parse().unwrap());
        let there = canonical_priority(one, other);
        assert_eq!(there, canonical_priority(other, one), "both ends agree");
        there
    }

    #[test]
    fn the_examples_of_the_specification_hold() {
        assert_eq!(priority("123.213.32.10:1", "98.76.54.32:2"), 0xec2d_7224);
        assert_eq!(priority("123.213.32.10:1", "123.213.32.234:2"), 0x9956_8189);
    }

    #[test]
    fn one_host_is_told_apart_by_ports_and_a_network_by_more_bits() {
        assert_ne!(priority("1.2.3.4:1", "1.2.3.4:2"), priority("1.2.3.4:1", "1.2.3.4:3"));
        // Within a /16 the third byte counts whole, else only half of its bits.
        assert_ne!(priority("1.2.3.4:1", "1.2.4.4:1"), priority("1.2.3.4:1", "1.2.6.4:1"));
        assert_eq!(priority("1.2.3.4:1", "9.2.4.4:1"), priority("1.2.3.4:1", "9.2.6.4:1"));
        assert_ne!(priority("[2001:db8::1]:1", "[2001:db9::1]:1"), priority("[2001:db8::1]:1", "[2001:dba::1]:1"));
        assert_eq!(priority("[2001:db8::1]:1", "1.2.3.4:1"), 0);
    }
}
