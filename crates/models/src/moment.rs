//! The clock that chat templates may ask.

/// A point in time, for `strftime_now`.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Seconds since 1970, local time.
    pub seconds: i64,
}

impl Moment {
    /// The clock's time (UTC).
    pub fn now() -> Self {
        let seconds = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| d.as_secs() as i64);
        Self { seconds }
    }

    /// As C's `strftime` with the fields that templates use.
    pub(crate) fn format(self, pattern: &str) -> String {
        const MONTHS: [&str; 12] = [
            "January",
            "February",
            "March",
            "April",
            "May",
            "June",
            "July",
            "August",
            "September",
            "October",
            "November",
            "December",
        ];
        const DAYS: [&str; 7] =
            ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
        let days = self.seconds.div_euclid(86_400);
        let rest = self.seconds.rem_euclid(86_400);
        // Howard Hinnant's civil_from_days.
        let z = days + 719_468;
        let era = z.div_euclid(146_097);
        let doe = z.rem_euclid(146_097);
        let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let mp = (5 * doy + 2) / 153;
        let day = doy - (153 * mp + 2) / 5 + 1;
        let month = if mp < 10 { mp + 3 } else { mp - 9 };
        let year = yoe + era * 400 + i64::from(month <= 2);
        let weekday = DAYS[days.rem_euclid(7) as usize];
        let month_name = MONTHS[(month - 1) as usize];
        let mut out = String::new();
        let mut chars = pattern.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let field = match chars.next() {
                Some('d') => format!("{day:02}"),
                Some('m') => format!("{month:02}"),
                Some('Y') => year.to_string(),
                Some('y') => format!("{:02}", year.rem_euclid(100)),
                Some('B') => month_name.to_string(),
                Some('b') => month_name[..3].to_string(),
                Some('A') => weekday.to_string(),
                Some('a') => weekday[..3].to_string(),
                Some('j') => {
                    let january = if month > 2 { doy + 60 + i64::from(leap(year)) } else { doy - 305 };
                    format!("{january:03}")
                }
                Some('H') => format!("{:02}", rest / 3600),
                Some('M') => format!("{:02}", rest / 60 % 60),
                Some('S') => format!("{:02}", rest % 60),
                Some(other) => other.to_string(),
                None => String::new(),
            };
            out.push_str(&field);
        }
        out
    }
}

/// True for years of 366 days.
fn leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}
