//! Moments as services write them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Days since 1970-01-01 of a date of the Gregorian calendar (H. Hinnant, "chrono-compatible low-level date algorithms").
fn days(year: i64, month: i64, day: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let of_era = y.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// `2026-08-31T08:59:25.212Z`.
pub fn rfc3339(text: &str) -> Option<SystemTime> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || !text.ends_with('Z') {
        return None;
    }
    let seconds = days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    // A part of a second is rounded up: later is always safe.
    let more = u64::from(text.as_bytes().get(19) == Some(&b'.'));
    Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()? + more))
}

/// `2023-09-15` of milliseconds since 1970, in UTC (H. Hinnant, as above, "civil_from_days").
pub fn day(milliseconds: i64) -> String {
    let z = milliseconds.div_euclid(86_400_000) + 719_468;
    let era = z.div_euclid(146_097);
    let of_era = z.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// "Mon, 31 Aug 2026 08:59:26 GMT" without the zone, for a message in UTC.
pub fn shown(moment: SystemTime) -> String {
    httpdate::fmt_http_date(moment).trim_end_matches(" GMT").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reset_time_of_openreview_is_read_to_the_second_above() {
        let at = rfc3339("2026-08-31T08:59:25.212Z").unwrap();
        assert_eq!(shown(at), "Mon, 31 Aug 2026 08:59:26");
        assert_eq!(rfc3339("1970-01-01T00:00:00Z"), Some(UNIX_EPOCH));
        for (day_of, milliseconds) in [
            ("1970-01-01", 0),
            ("2024-02-29", 1_709_164_800_000),
            ("2023-09-15", 1_694_822_399_999),
            ("1969-12-31", -1),
        ] {
            assert_eq!(day(milliseconds), day_of);
        }
        assert_eq!(rfc3339("soon"), None);
        assert_eq!(rfc3339("2026-13-31T08:59:25Z"), None);
    }
}
