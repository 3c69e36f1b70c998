//! A token bucket: one request in a pause, with what a service has asked for on top.

use std::time::{Duration, Instant};

use crate::service::Limit;

/// Requests of one host. Time is handed in, so that tests need none.
#[derive(Debug)]
pub struct Bucket {
    pause: Duration,
    /// Requests that may follow each other without a pause.
    burst: f64,
    tokens: f64,
    filled: Instant,
    /// The service asked for silence until then.
    closed: Option<Instant>,
}

impl Bucket {
    /// A bucket with one token: a process that was just killed and started again must not be a way around the limit.
    /// Where an hour's worth is the limit, a tenth of it may come in a row.
    pub fn new(limit: Limit, now: Instant) -> Self {
        let burst = if limit.per >= Duration::from_secs(60) { (limit.requests / 10.0).max(1.0) } else { 1.0 };
        Self { pause: limit.pause(), burst, tokens: 1.0, filled: now, closed: None }
    }

    /// Takes a token, or says how long to wait before asking again.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        if let Some(until) = self.closed {
            if now < until {
                return Err(until - now);
            }
            self.closed = None;
        }
        let gained =
            now.saturating_duration_since(self.filled).as_secs_f64() / self.pause.as_secs_f64().max(1e-9);
        self.tokens = (self.tokens + gained).min(self.burst);
        self.filled = now;
        // Clocks round: a token that lacks a billionth is whole.
        if self.tokens >= 1.0 - 1e-9 {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(self.pause.mul_f64(1.0 - self.tokens))
    }

    /// Nothing more before then.
    pub fn close(&mut self, until: Instant) {
        self.closed = Some(self.closed.map_or(until, |c| c.max(until)));
    }

    /// The service named its own limit. It may slow us down; never faster than what was published.
    pub fn learn(&mut self, pause: Duration) {
        self.pause = self.pause.max(pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Service;

    /// Seconds at which the first `n` requests go out.
    fn schedule(limit: Limit, n: usize) -> Vec<f64> {
        let start = Instant::now();
        let mut now = start;
        let mut bucket = Bucket::new(limit, now);
        let mut out = Vec::new();
        while out.len() < n {
            match bucket.take(now) {
                Ok(()) => out.push((now - start).as_secs_f64()),
                Err(wait) => now += wait,
            }
        }
        out
    }

    #[test]
    fn arxiv_is_asked_once_in_three_seconds_and_openreview_files_36_times_an_hour() {
        let arxiv = schedule(Service::Arxiv.limit(), 11);
        assert!(arxiv.windows(2).all(|w| w[1] - w[0] > 2.999), "{arxiv:?}");
        let files = schedule(Service::OpenReviewFiles.limit(), 37);
        assert!(files[36] >= 3_599.0, "{}", files[36]);
    }

    #[test]
    fn a_service_that_asks_for_silence_gets_it_and_may_only_slow_us_down() {
        let now = Instant::now();
        let mut bucket = Bucket::new(Service::Crossref.limit(), now);
        bucket.close(now + Duration::from_secs(60));
        assert_eq!(bucket.take(now + Duration::from_secs(10)), Err(Duration::from_secs(50)));
        assert_eq!(bucket.take(now + Duration::from_secs(60)), Ok(()));
        bucket.learn(Duration::from_millis(1));
        assert!(bucket.take(now + Duration::from_millis(60_100)).is_err());
        bucket.learn(Duration::from_secs(5));
        assert!(bucket.take(now + Duration::from_secs(62)).is_err());
    }
}
