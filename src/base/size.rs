//! Byte counts, rates and durations as people write them.

use std::fmt;
use std::time::Duration;

/// Shows a byte count with three significant digits and a binary unit: `1.50 MiB`.
#[derive(Debug, Clone, Copy)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        let mut unit = 0;
        while value >= 1000.0 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        let decimals = match value {
            _ if unit == 0 => 0,
            v if v < 10.0 => 2,
            v if v < 100.0 => 1,
            _ => 0,
        };
        f.pad(&format!("{value:.decimals$} {}", UNITS[unit]))
    }
}

/// Shows a duration in its two largest units: `1 h 5 min`.
#[derive(Debug, Clone, Copy)]
pub struct Span(pub Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
        let text = match seconds {
            0..=59 => format!("{seconds} s"),
            60..=3599 => format!("{minutes} min {} s", seconds % 60),
            3600..=86_399 => format!("{hours} h {minutes} min"),
            _ => format!("{days} d {hours} h"),
        };
        f.pad(&text)
    }
}

/// A text that is no byte count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseBytesError;

impl fmt::Display for ParseBytesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected a number of bytes such as 16384, 256K, 1.5M or 2GiB")
    }
}

impl std::error::Error for ParseBytesError {}

/// Reads a byte count: a decimal number and an optional unit K, M, G, T (binary; `KiB` and `kb` are the same).
///
/// # Errors
/// [`ParseBytesError`] when it is something else, negative, or above 2^63 - 1.
pub fn parse_bytes(text: &str) -> Result<u64, ParseBytesError> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().map_err(|_| ParseBytesError)?;
    let unit = text[digits..].trim().to_ascii_lowercase();
    let unit = unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(&unit);
    let power = match unit {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return Err(ParseBytesError),
    };
    let bytes = number * 1024_f64.powi(power);
    (bytes <= i64::MAX as f64).then_some(bytes as u64).ok_or(ParseBytesError)
}

const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        for (bytes, text) in
            [(0, "0 B"), (999, "999 B"), (1024, "1.00 KiB"), (1_572_864, "1.50 MiB"), (u64::MAX, "16.0 EiB")]
        {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }

    #[test]
    fn sizes_are_understood() {
        for (text, bytes) in [("0", 0), ("16384", 16384), ("256K", 262_144), ("1.5 MiB", 1_572_864), ("2gb", 2 << 30)] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "-1", "K", "1X", "1.2.3", "99999999T"] {
            assert_eq!(parse_bytes(text), Err(ParseBytesError), "{text}");
        }
    }

    #[test]
    fn durations_read_well() {
        for (seconds, text) in [(5, "5 s"), (65, "1 min 5 s"), (3900, "1 h 5 min"), (90_000, "1 d 1 h")] {
            assert_eq!(Span(Duration::from_secs(seconds)).to_string(), text);
        }
    }
}
