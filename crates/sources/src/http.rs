//! [`Http`]: the one place that opens a socket.

mod manners;

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};
use tokio::sync::{OnceCell, Semaphore};

use crate::ask::{Answer, Ask, HttpOptions, Keep};
use crate::body::{self, Unread, reason};
use crate::bucket::Bucket;
use crate::cache::{Cache, Entry, Partial, sha256};
use crate::error::SourceError;
use crate::retry::{self, Verdict};
use crate::robots::Robots;
use crate::service::Service;

struct Host {
    bucket: Mutex<Bucket>,
    turn: Semaphore,
    /// What its robots.txt says, once that was asked for.
    robots: OnceCell<Robots>,
}

/// All services, politely.
pub struct Http {
    client: reqwest::Client,
    options: HttpOptions,
    cache: Cache,
    hosts: HashMap<Service, Host>,
    sent: AtomicU64,
}

enum Failure {
    Again(String, Option<Duration>),
    Stop(SourceError),
}

const REDIRECTS: usize = 5;

impl Http {
    /// A client; nothing is sent yet.
    ///
    /// # Errors
    /// If the cache's folder cannot be made, or the proxy's address is none.
    pub fn new(options: HttpOptions) -> Result<Self, SourceError> {
        let cache = Cache::new(&options.cache)?;
        let agent = concat!("cycle/", env!("CARGO_PKG_VERSION"), " (research data sets");
        let agent = match &options.contact {
            Some(contact) => format!("{agent}; {contact})"),
            None => format!("{agent})"),
        };
        let mut builder = reqwest::Client::builder()
            .connect_timeout(options.connect)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(agent);
        if let Some(proxy) = &options.proxy {
            let bad = |e: reqwest::Error| SourceError::Usage(format!("{proxy} is no proxy: {e}"));
            builder = builder.proxy(reqwest::Proxy::all(proxy).map_err(bad)?);
        }
        let client = builder.build().map_err(|e| SourceError::Usage(format!("no HTTP client: {e}")))?;
        let now = Instant::now();
        let hosts = Service::ALL.into_iter().map(|service| {
            let limit = options.limits.get(&service).copied().unwrap_or(service.limit());
            let host = Host {
                bucket: Mutex::new(Bucket::new(limit, now)),
                turn: Semaphore::new(limit.at_once.max(1)),
                robots: OnceCell::new(),
            };
            (service, host)
        });
        Ok(Self { client, cache, hosts: hosts.collect(), sent: AtomicU64::new(0), options })
    }

    /// Requests that went out so far, repeated ones included.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// The cache behind it.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The user's address, for services that take it as a parameter.
    pub fn contact(&self) -> Option<&str> {
        self.options.contact.as_deref()
    }

    fn base(&self, service: Service) -> &str {
        self.options.bases.get(&service).map_or(service.base(), String::as_str)
    }

    /// The whole address of a question.
    ///
    /// # Errors
    /// If it is no web address.
    pub fn url(&self, ask: &Ask) -> Result<Url, SourceError> {
        let text = if ask.path.starts_with('/') {
            format!("{}{}", self.base(ask.service).trim_end_matches('/'), ask.path)
        } else {
            ask.path.clone()
        };
        let bad = |e: &dyn std::fmt::Display| SourceError::Unexpected {
            url: text.clone(),
            what: format!("no web address: {e}"),
        };
        let mut url = Url::parse(&text).map_err(|e| bad(&e))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad(&"only http and https are asked"));
        }
        if !ask.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&ask.query);
        }
        Ok(url)
    }

    /// Asks until there is a whole answer of the wanted kind, or no hope of one.
    ///
    /// # Errors
    /// [`SourceError`].
    pub async fn ask(&self, ask: &Ask) -> Result<Answer, SourceError> {
        let url = self.url(ask)?;
        let body = ask.json.as_ref().map(|v| v.to_string()).unwrap_or_default();
        let method = if ask.json.is_some() { Method::POST } else { Method::GET };
        let key = Cache::key(method.as_str(), url.as_str(), body.as_bytes());
        let stored = self.cache.get(&key);
        let answer =
            |body: Vec<u8>, sha256: String, cached| Answer { url: url.to_string(), body, sha256, cached };
        if let Some((entry, body)) = &stored
            && (ask.keep == Keep::Stored || self.options.offline)
        {
            return Ok(answer(body.clone(), entry.sha256.clone(), true));
        }
        if self.options.offline {
            return Err(SourceError::Offline { url: url.into() });
        }
        if ask.service.has_robots() {
            self.heed_robots(ask.service, &url).await?;
        }
        self.until_whole(ask, &url, &key, stored).await
    }

    /// Asks until there is a whole answer.
    async fn until_whole(
        &self,
        ask: &Ask,
        url: &Url,
        key: &str,
        stored: Option<(Entry, Vec<u8>)>,
    ) -> Result<Answer, SourceError> {
        let answer =
            |body: Vec<u8>, sha256: String, cached| Answer { url: url.to_string(), body, sha256, cached };
        let mut attempt = 0;
        loop {
            let (what, wait) = match self.once(ask, url, key, stored.as_ref().map(|s| &s.0)).await {
                Ok(Some(fresh)) => return Ok(answer(fresh.0, fresh.1, false)),
                Ok(None) => {
                    let Some((entry, body)) = stored else {
                        return Err(SourceError::Unexpected {
                            url: url.to_string(),
                            what: "HTTP 304 to a question without a stored answer".into(),
                        });
                    };
                    return Ok(answer(body, entry.sha256, true));
                }
                Err(Failure::Stop(error)) => return Err(error),
                Err(Failure::Again(what, wait)) => (what, wait),
            };
            attempt += 1;
            let pause = retry::backoff(self.options.pause, attempt - 1, fastrand::f64());
            let pause = wait.unwrap_or_default().max(pause);
            if wait.is_some_and(|w| w > self.options.patience) {
                return Err(SourceError::Later { service: ask.service, until: SystemTime::now() + pause });
            }
            if attempt >= self.options.tries {
                return Err(SourceError::Unreachable { url: url.to_string(), what, tries: attempt });
            }
            tracing::info!("{url}: {what}; another try in {:.1} s", pause.as_secs_f64());
            // What one request was told holds for all requests to this host.
            if wait.is_some() {
                self.bucket(ask.service, |b| b.close(Instant::now() + pause));
            } else {
                self.sleep(pause).await?;
            }
        }
    }

    /// Asks once and keeps nothing: for secrets.
    pub(crate) async fn ask_unstored(&self, ask: &Ask) -> Result<Answer, SourceError> {
        let url = self.url(ask)?;
        if self.options.offline {
            return Err(SourceError::Offline { url: url.into() });
        }
        self.turn(ask.service).await?;
        let mut call = match &ask.json {
            Some(json) => self.client.post(url.clone()).json(json),
            None => self.client.get(url.clone()),
        };
        for (name, value) in &ask.headers {
            call = call.header(name, value);
        }
        let lost =
            |e: reqwest::Error| SourceError::Unreachable { url: url.to_string(), what: reason(&e), tries: 1 };
        let response = call.timeout(self.options.silence).send().await.map_err(lost)?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes().await.map_err(lost)?.to_vec();
        match retry::judge(status, &headers, &body, SystemTime::now()) {
            Verdict::Fine => Ok(Answer { url: url.to_string(), body, sha256: String::new(), cached: false }),
            Verdict::Again(message, _) | Verdict::Never(message) => {
                Err(SourceError::Refused { url: url.to_string(), status, message })
            }
        }
    }

    /// The service whose address this is; a stranger's counts under the limit of who sent us there.
    fn service_of(&self, url: &Url, asked: Service) -> Service {
        let same = |s: &Service| {
            Url::parse(self.base(*s)).is_ok_and(|b| b.host_str() == url.host_str() && b.port() == url.port())
        };
        if same(&asked) { asked } else { Service::ALL.into_iter().find(same).unwrap_or(asked) }
    }

    /// One try: `None` if nothing has changed since the stored answer.
    async fn once(
        &self,
        ask: &Ask,
        url: &Url,
        key: &str,
        stored: Option<&Entry>,
    ) -> Result<Option<(Vec<u8>, String)>, Failure> {
        let stop = Failure::Stop;
        let partial = self.cache.partial(key);
        let mut at = url.clone();
        let mut response = None;
        // Held until the body is read: a service that allows one connection gets one.
        let mut held;
        for _ in 0..=REDIRECTS {
            let service = self.service_of(&at, ask.service);
            held =
                Some(self.hosts[&service].turn.acquire().await.map_err(|_| stop(SourceError::Interrupted))?);
            self.turn(service).await.map_err(stop)?;
            let headers = self.headers(ask, url, &at, &partial, stored);
            let mut call = match &ask.json {
                Some(json) => self.client.post(at.clone()).json(json),
                None => self.client.get(at.clone()),
            };
            call = call.headers(headers);
            let sent = tokio::select! {
                sent = tokio::time::timeout(self.options.silence, call.send()) => sent,
                stopped = self.until_cancelled() => return Err(stop(stopped)),
            };
            let answer = sent
                .map_err(|_| Failure::Again(format!("no answer within {:?}", self.options.silence), None))?
                .map_err(|e| Failure::Again(reason(&e), None))?;
            self.learn(service, answer.headers());
            if !answer.status().is_redirection() || answer.status().as_u16() == 304 {
                response = Some(answer);
                break;
            }
            let next =
                answer.headers().get("location").and_then(|v| v.to_str().ok()).and_then(|l| at.join(l).ok());
            at = next.ok_or_else(|| Failure::Again("a redirect to nowhere".into(), None))?;
            drop(held.take());
        }
        let response = response.ok_or_else(|| {
            stop(SourceError::Unexpected {
                url: url.to_string(),
                what: format!("more than {REDIRECTS} redirects"),
            })
        })?;
        let status = response.status().as_u16();
        if status == 304 {
            return Ok(None);
        }
        if status == 416 {
            self.cache.forget_cut(key);
            return Err(Failure::Again("HTTP 416: the file has changed since it was cut".into(), None));
        }
        let headers = response.headers().clone();
        let read = tokio::select! {
            read = body::read(response, partial, ask.max_bytes, self.options.silence) => read,
            stopped = self.until_cancelled() => return Err(stop(stopped)),
        };
        let (body, whole) = read.map_err(|e| match e {
            Unread::OtherPart => Failure::Again("another part of the body than was asked for".into(), None),
            Unread::TooLarge => stop(SourceError::TooLarge { url: url.to_string(), limit: ask.max_bytes }),
        })?;
        match retry::judge(status, &headers, &body.bytes, SystemTime::now()) {
            Verdict::Fine => {}
            Verdict::Again(what, wait) => return Err(Failure::Again(what, wait)),
            Verdict::Never(message) => {
                return Err(stop(SourceError::Refused { url: url.to_string(), status, message }));
            }
        }
        if let Err(what) = whole {
            self.cache.put_partial(key, &body).map_err(stop)?;
            return Err(Failure::Again(what, None));
        }
        if let Err(what) = body::check(ask.want, &body.bytes) {
            self.cache.forget_cut(key);
            return Err(Failure::Again(what, None));
        }
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(String::from);
        let entry = Entry {
            url: url.to_string(),
            sha256: sha256(&body.bytes),
            content_type: text("content-type").unwrap_or_default(),
            etag: text("etag"),
            last_modified: text("last-modified"),
        };
        self.cache.put(key, &entry, &body.bytes).map_err(stop)?;
        Ok(Some((body.bytes, entry.sha256)))
    }

    async fn until_cancelled(&self) -> SourceError {
        while !(self.options.cancelled)() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        SourceError::Interrupted
    }

    fn headers(
        &self,
        ask: &Ask,
        first: &Url,
        at: &Url,
        partial: &Partial,
        stored: Option<&Entry>,
    ) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut put = |name: &str, value: &str| {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                headers.insert(name, value);
            }
        };
        if first.origin() == at.origin() {
            for (name, value) in &ask.headers {
                put(name.as_str(), value);
            }
        }
        if let Some(validator) = partial.validator.as_deref().filter(|_| !partial.bytes.is_empty()) {
            put("range", &format!("bytes={}-", partial.bytes.len()));
            put("if-range", validator);
        } else if let Some(entry) = stored {
            if let Some(etag) = &entry.etag {
                put("if-none-match", etag);
            } else if let Some(date) = &entry.last_modified {
                put("if-modified-since", date);
            }
        }
        headers
    }
}
