//! The manners of asking: whose turn it is, what a service says of its limits, what its robots.txt asks.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use reqwest::Url;
use reqwest::header::HeaderMap;

use super::Http;
use crate::ask::{Ask, Keep, Want};
use crate::bucket::Bucket;
use crate::cache::Cache;
use crate::error::SourceError;
use crate::robots::Robots;
use crate::service::Service;

/// Our name in a robots.txt.
const AGENT: &str = "cycle";

impl Http {
    /// Pages without an API are fetched as far as their robots.txt lets programs do so; one that does not exist allows
    /// everything (RFC 9309, 2.3.1).
    pub(super) async fn heed_robots(&self, service: Service, url: &Url) -> Result<(), SourceError> {
        let asked = self.hosts[&service].robots.get_or_try_init(|| async {
            let mut place = url.clone();
            place.set_path("/robots.txt");
            place.set_query(None);
            let mut ask = Ask::get(service, place.as_str(), Want::Page).keep(Keep::Revalidate);
            ask.max_bytes = 512 << 10;
            let key = Cache::key("GET", place.as_str(), b"");
            let stored = self.cache.get(&key);
            match self.until_whole(&ask, &place, &key, stored).await {
                Ok(answer) => Ok(Robots::parse(&String::from_utf8_lossy(&answer.body), AGENT)),
                Err(SourceError::Refused { .. }) => Ok(Robots::default()),
                Err(e) => Err(e),
            }
        });
        let robots = asked.await?;
        if let Some(delay) = robots.delay {
            self.bucket(service, |b| b.learn(delay));
        }
        let path = url.query().map_or(url.path().into(), |q| format!("{}?{q}", url.path()));
        if robots.allows(&path) {
            return Ok(());
        }
        Err(SourceError::Robots { url: url.to_string() })
    }

    pub(super) fn bucket<T>(&self, service: Service, f: impl FnOnce(&mut Bucket) -> T) -> T {
        let host = &self.hosts[&service];
        f(&mut host.bucket.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) async fn sleep(&self, pause: Duration) -> Result<(), SourceError> {
        let end = Instant::now() + pause;
        loop {
            if (self.options.cancelled)() {
                return Err(SourceError::Interrupted);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            tokio::time::sleep(left.min(Duration::from_millis(100))).await;
        }
    }

    /// Waits for this host's turn and counts the request.
    pub(super) async fn turn(&self, service: Service) -> Result<(), SourceError> {
        loop {
            match self.bucket(service, |b| b.take(Instant::now())) {
                Ok(()) => break,
                Err(wait) if wait > self.options.patience => {
                    return Err(SourceError::Later { service, until: SystemTime::now() + wait });
                }
                Err(wait) => self.sleep(wait).await?,
            }
        }
        if let Some(budget) = self.options.budget
            && self.sent() >= budget
        {
            return Err(SourceError::Budget(budget));
        }
        self.sent.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Limits that an answer names: Crossref's rate, OpenAlex's credits of the day.
    pub(super) fn learn(&self, service: Service, headers: &HeaderMap) {
        let number = |name: &str| headers.get(name)?.to_str().ok()?.trim_end_matches('s').parse::<f64>().ok();
        if let (Some(limit), Some(seconds)) = (number("x-rate-limit-limit"), number("x-rate-limit-interval"))
            && limit > 0.0
            && let Ok(pause) = Duration::try_from_secs_f64(seconds / limit)
        {
            self.bucket(service, |b| b.learn(pause));
        }
        if let (Some(left), Some(reset)) = (number("x-ratelimit-remaining"), number("x-ratelimit-reset"))
            && left < 1.0
            && let Ok(reset) = Duration::try_from_secs_f64(reset)
        {
            self.bucket(service, |b| b.close(Instant::now() + reset));
        }
    }
}
