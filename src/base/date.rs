//! Seconds since 1970 as people and feeds write them.

use std::fmt;

/// Seconds since 1970 as a date and a time of day in UTC; far away from today just the seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date(pub i64);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0;
        if !(-FAR..=FAR).contains(&seconds) {
            return write!(f, "{seconds} seconds after 1970-01-01");
        }
        let ((year, month, day), rest) = (self.calendar(), seconds.rem_euclid(86_400));
        write!(f, "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC", rest / 3600, rest / 60 % 60, rest % 60)
    }
}

impl Date {
    /// The day alone: `2024-02-29`. What is far away from today is moved to where four digits end.
    pub fn day(self) -> String {
        let (year, month, day) = Self(self.0.clamp(-FAR, FAR)).calendar();
        format!("{year:04}-{month:02}-{day:02}")
    }

    /// As RFC 3339 has it: `2024-02-29T12:34:56Z`.
    pub fn rfc3339(self) -> String {
        let rest = self.0.clamp(-FAR, FAR).rem_euclid(86_400);
        format!("{}T{:02}:{:02}:{:02}Z", self.day(), rest / 3600, rest / 60 % 60, rest % 60)
    }

    fn calendar(self) -> (i64, i64, i64) {
        let days = self.0.div_euclid(86_400);
        // Years that begin in March: the leap day comes last, and 146,097 days make 400 years.
        let day = days + 719_468;
        let (era, day) = (day.div_euclid(146_097), day.rem_euclid(146_097));
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        (year + era * 400 + i64::from(month >= 10), (month + 2) % 12 + 1, day)
    }
}

/// Year 1 to about year 3934.
const FAR: i64 = 62_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, shown) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (-1, "1969-12-31 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_709_210_096, "2024-02-29 12:34:56 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
            (i64::MIN, "-9223372036854775808 seconds after 1970-01-01"),
        ] {
            assert_eq!(Date(seconds).to_string(), shown);
        }
        assert_eq!(Date(1_709_210_096).rfc3339(), "2024-02-29T12:34:56Z");
        assert_eq!(Date(1_709_210_096).day(), "2024-02-29");
        assert_eq!(Date(i64::MAX).day().len(), 10);
    }
}
