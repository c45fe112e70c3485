//! etcd: the only place that speaks to it. Compare-and-swap writes, pages of a range, the current revision, leases.
//!
//! Keys are upstream's (`/registry/pods/<namespace>/<name>`), values are JSON documents without `metadata.resourceVersion`
//! (the key's mod revision is the resource version).

pub mod compaction;
pub mod encryption;
mod lease;
mod revision;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::{
    AlarmAction, AlarmType, Client, Compare, CompareOp, ConnectOptions, GetOptions, KvClient, PutOptions, SortOrder, SortTarget,
    Txn, TxnOp, TxnOpResponse,
};

use crate::metrics;
use encryption::Encryption;

/// How to reach etcd.
#[derive(Clone, Debug, Default)]
pub struct EtcdConfig {
    /// `--etcd-servers`.
    pub servers: Vec<String>,
    /// `--etcd-servers-overrides`: group, resource, and where they are kept.
    pub overrides: Vec<(String, String, Vec<String>)>,
    /// `--etcd-prefix`, with a leading and without a trailing slash: `/registry`.
    pub prefix: String,
    /// `--etcd-cafile`, read.
    pub ca: Option<Vec<u8>>,
    /// `--etcd-certfile` and `--etcd-keyfile`, read.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// `--encryption-provider-config`, and whether the file is followed.
    pub encryption: Option<(std::path::PathBuf, bool)>,
}

/// What etcd could not do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A create found the key taken.
    #[error("key exists")]
    Exists,
    /// A compare-and-swap lost: what is there now, or nothing. Callers retry with it.
    #[error("key changed")]
    Changed(Option<Stored>),
    /// The revision asked for was compacted away.
    #[error("required revision has been compacted")]
    Compacted,
    /// The revision asked for is not reached yet.
    #[error("required revision is a future revision")]
    Future,
    /// etcd did not answer in time, is away or has no leader. The write may or may not have happened.
    #[error("etcd unavailable: {0}")]
    Unavailable(String),
    /// etcd refused: out of space, request too large, permission denied.
    #[error("{0}")]
    Refused(String),
}

impl EtcdConfig {
    /// The same with other servers.
    #[must_use]
    pub fn at(&self, servers: &[String]) -> Self {
        Self { servers: servers.to_vec(), ..self.clone() }
    }
}

impl From<etcd_client::Error> for Error {
    fn from(error: etcd_client::Error) -> Self {
        match &error {
            etcd_client::Error::GRpcStatus(status) => {
                let message = status.message();
                if message.contains("required revision has been compacted") {
                    Self::Compacted
                } else if message.contains("required revision is a future revision") {
                    Self::Future
                } else {
                    use tonic::Code;
                    match status.code() {
                        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Aborted => {
                            Self::Unavailable(message.to_owned())
                        }
                        _ => Self::Refused(message.to_owned()),
                    }
                }
            }
            other => Self::Unavailable(other.to_string()),
        }
    }
}

/// A value and the revision that wrote it.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The whole key, prefix included.
    pub key: String,
    /// The document.
    pub value: Vec<u8>,
    /// etcd's mod revision.
    pub revision: u64,
    /// Whether another key than the present one encrypted it: any write renews it.
    pub stale: bool,
}

/// A page of a range.
#[derive(Debug)]
pub struct Page {
    /// In key order.
    pub items: Vec<Stored>,
    /// Whether more keys follow.
    pub more: bool,
    /// Keys in the whole range.
    pub count: u64,
    /// The revision of the store when the page was read.
    pub revision: u64,
}

/// The connection to etcd; cheap to clone.
#[derive(Clone)]
pub struct Storage {
    client: Client,
    kv: KvClient,
    prefix: Arc<str>,
    revisions: Arc<revision::Batcher>,
    leases: Arc<lease::Leases>,
    encryption: Option<Arc<Encryption>>,
    endpoints: usize,
}

/// Longest wait for one answer of etcd. A request's own deadline is usually shorter than twice this.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// Tries of a call beyond the first, and the pause before each. With two of three members well, one in six thousand calls fails.
const TRIES: u32 = 8;
const PAUSE: Duration = Duration::from_millis(10);

/// Whether an error says that no connection was there to send a call over.
fn never_sent(why: &str) -> bool {
    ["connect error", "error trying to connect", "Connection refused", "dns error"].iter().any(|words| why.contains(words))
}

impl Storage {
    /// Prepares connections to all endpoints; nothing is sent yet.
    ///
    /// # Errors
    /// When an address or a certificate is malformed.
    pub async fn connect(config: &EtcdConfig) -> Result<Self, Error> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(Duration::from_secs(3))
            .with_keep_alive(Duration::from_secs(30), Duration::from_secs(10))
            .with_require_leader(true);
        if config.ca.is_some() || config.identity.is_some() {
            let mut tls = etcd_client::TlsOptions::new();
            if let Some(ca) = &config.ca {
                tls = tls.ca_certificate(etcd_client::Certificate::from_pem(ca));
            }
            if let Some((cert, key)) = &config.identity {
                tls = tls.identity(etcd_client::Identity::from_pem(cert, key));
            }
            options = options.with_tls(tls);
        }
        let client = Client::connect(&config.servers, Some(options)).await?;
        let kv = client.kv_client().max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX);
        Ok(Self {
            kv,
            prefix: format!("{}/", config.prefix.trim_end_matches('/')).into(),
            revisions: Arc::default(),
            leases: Arc::default(),
            encryption: None,
            endpoints: config.servers.len(),
            client,
        })
    }

    /// Encrypts what is written from now on, and decrypts what is read.
    #[must_use]
    pub fn encrypted(mut self, encryption: Arc<Encryption>) -> Self {
        self.encryption = Some(encryption);
        self
    }

    /// The value as it is written.
    fn sealed<'a>(&self, key: &str, value: &'a [u8]) -> Result<Cow<'a, [u8]>, Error> {
        match &self.encryption {
            None => Ok(Cow::Borrowed(value)),
            Some(encryption) => encryption.seal(key, value).map_err(Error::Refused),
        }
    }

    /// The plain form of a value that was read below `key`, and whether it is stale. What cannot be decrypted stays as it is, with a line in
    /// the log; it is no document, and whoever reads it says so.
    pub fn plain<'a>(&self, key: &str, value: &'a [u8]) -> (Cow<'a, [u8]>, bool) {
        match self.encryption.as_ref().map(|encryption| encryption.open(key, value)) {
            None => (Cow::Borrowed(value), false),
            Some(Ok(opened)) => opened,
            Some(Err(why)) => {
                tracing::error!(err = why, "Cannot decrypt a value of etcd");
                (Cow::Borrowed(value), true)
            }
        }
    }

    /// A key-value pair of etcd with a readable key. Keys that are no text are nobody's objects.
    fn stored(&self, kv: etcd_client::KeyValue) -> Option<Stored> {
        let revision = kv.mod_revision().cast_unsigned();
        let (key, value) = kv.into_key_value();
        let key = String::from_utf8(key).ok()?;
        if self.encryption.is_none() {
            return Some(Stored { key, value, revision, stale: false });
        }
        let (plain, stale) = self.plain(&key, &value);
        let value = plain.into_owned();
        Some(Stored { key, value, revision, stale })
    }

    fn found(&self, answer: &etcd_client::TxnResponse) -> Option<Stored> {
        answer.op_responses().into_iter().find_map(|op| match op {
            TxnOpResponse::Get(mut get) => get.take_kvs().into_iter().find_map(|kv| self.stored(kv)),
            _ => None,
        })
    }

    /// `/registry/`.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The raw client, for the watch.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The key of `path` (`pods/default/a`).
    pub fn key(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    /// Writes a new key; its revision.
    ///
    /// # Errors
    /// [`Error::Exists`] where the key is taken.
    pub async fn create(&self, key: &str, value: &[u8], ttl: Option<Duration>) -> Result<u64, Error> {
        let options = self.put_options(ttl).await?;
        let value = self.sealed(key, value)?;
        let txn = Txn::new().when([Compare::mod_revision(key, CompareOp::Equal, 0)]).and_then([TxnOp::put(
            key,
            value.as_ref(),
            options,
        )]);
        let answer = self.txn("create", txn).await?;
        if answer.succeeded() { Ok(revision_of(answer.header())) } else { Err(Error::Exists) }
    }

    /// Replaces the key's value if it still has `expected`; the new revision.
    ///
    /// # Errors
    /// [`Error::Changed`] with the present value where the key has another revision.
    pub async fn update(&self, key: &str, expected: u64, value: &[u8], ttl: Option<Duration>) -> Result<u64, Error> {
        let options = self.put_options(ttl).await?;
        let value = self.sealed(key, value)?;
        let txn = Txn::new()
            .when([Compare::mod_revision(key, CompareOp::Equal, expected.cast_signed())])
            .and_then([TxnOp::put(key, value.as_ref(), options)])
            .or_else([TxnOp::get(key, None)]);
        let answer = self.txn("update", txn).await?;
        if answer.succeeded() { Ok(revision_of(answer.header())) } else { Err(Error::Changed(self.found(&answer))) }
    }

    /// Removes the key if it still has `expected`; the revision of the removal.
    ///
    /// # Errors
    /// [`Error::Changed`] with the present value where the key has another revision.
    pub async fn delete(&self, key: &str, expected: u64) -> Result<u64, Error> {
        let txn = Txn::new()
            .when([Compare::mod_revision(key, CompareOp::Equal, expected.cast_signed())])
            .and_then([TxnOp::delete(key, None)])
            .or_else([TxnOp::get(key, None)]);
        let answer = self.txn("delete", txn).await?;
        if answer.succeeded() { Ok(revision_of(answer.header())) } else { Err(Error::Changed(self.found(&answer))) }
    }

    /// The key's present value, read with a quorum, and the store's revision.
    pub async fn get(&self, key: &str) -> Result<(Option<Stored>, u64), Error> {
        let page = self.fetch("get", key.into(), GetOptions::new()).await?;
        let revision = page.revision;
        Ok((page.items.into_iter().next(), revision))
    }

    /// Up to `limit` keys from `start` to before `end` (whole keys), at `revision` (0: now).
    ///
    /// # Errors
    /// [`Error::Compacted`] where the revision is gone.
    pub async fn page(&self, start: &str, end: &str, limit: i64, revision: u64) -> Result<Page, Error> {
        let options = GetOptions::new()
            .with_range(end)
            .with_limit(limit)
            .with_revision(revision.cast_signed())
            .with_sort(SortTarget::Key, SortOrder::Ascend);
        self.fetch("list", start.into(), options).await
    }

    /// The revision of the store at some moment after the call; calls that wait together share one read.
    pub async fn current_revision(&self) -> Result<u64, Error> {
        let this = self.clone();
        self.revisions
            .read(move || {
                let this = this.clone();
                async move { this.read_revision().await }
            })
            .await
    }

    /// What keeps etcd from taking writes, by its alarms: that it is full, or that its data are damaged.
    ///
    /// # Errors
    /// etcd is away.
    pub async fn alarm(&self) -> Result<Option<&'static str>, Error> {
        let mut client = self.client.maintenance_client();
        let answer = timed("alarm", client.alarm(AlarmAction::Get, AlarmType::None, None)).await?;
        Ok(answer.alarms().iter().find_map(|member| match member.alarm() {
            AlarmType::Nospace => {
                Some("etcd is out of space (alarm NOSPACE): compact and defragment it, or raise its quota, then disarm the alarm")
            }
            AlarmType::Corrupt => Some("etcd's data are damaged (alarm CORRUPT)"),
            AlarmType::None => None,
        }))
    }

    /// Bytes of etcd's database.
    ///
    /// # Errors
    /// etcd is away.
    pub async fn size(&self) -> Result<i64, Error> {
        let mut client = self.client.maintenance_client();
        Ok(timed("status", client.status()).await?.db_size())
    }

    /// One linearizable read of the store's revision.
    async fn read_revision(&self) -> Result<u64, Error> {
        let options = GetOptions::new().with_count_only();
        Ok(self.fetch("get", b"compact_rev_key".to_vec(), options).await?.revision)
    }

    /// Writes a key below the prefix, so that the watch on it reaches the store's revision. Needed when the store moved on by
    /// keys outside the prefix (another tenant, `compact_rev_key`): the stream says nothing then, and etcd before 3.4.25
    /// cannot be trusted to report progress (etcd issue 15220).
    pub async fn touch(&self) -> Result<u64, Error> {
        let key = self.key("rk-progress");
        let answer = timed("update", self.kv.clone().put(key, "{}", None)).await?;
        Ok(revision_of(answer.header()))
    }

    async fn fetch(&self, operation: &'static str, key: Vec<u8>, options: GetOptions) -> Result<Page, Error> {
        let mut answer = self
            .tried(true, || {
                let (mut kv, key, options) = (self.kv.clone(), key.clone(), options.clone());
                async move { timed(operation, kv.get(key, Some(options))).await }
            })
            .await?;
        let (more, count) = (answer.more(), answer.count().cast_unsigned());
        let revision = revision_of(answer.header());
        let items = answer.take_kvs().into_iter().filter_map(|kv| self.stored(kv)).collect();
        Ok(Page { items, more, count, revision })
    }

    async fn txn(&self, operation: &'static str, txn: Txn) -> Result<etcd_client::TxnResponse, Error> {
        if self.endpoints == 1 {
            return timed(operation, self.kv.clone().txn(txn)).await;
        }
        self.tried(false, || {
            let (mut kv, txn) = (self.kv.clone(), txn.clone());
            async move { timed(operation, kv.txn(txn)).await }
        })
        .await
    }

    /// Tries a call again where etcd has several members and one of them is away: the connection's balancer hands calls to it now and
    /// then. Reads are tried again whatever happened, writes only where they surely were not sent.
    async fn tried<T, F, Fut>(&self, reads: bool, call: F) -> Result<T, Error>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let mut left = if self.endpoints > 1 { TRIES } else { 0 };
        loop {
            match call().await {
                Err(Error::Unavailable(why)) if left > 0 && (reads || never_sent(&why)) => {
                    left -= 1;
                    tokio::time::sleep(PAUSE).await;
                }
                other => return other,
            }
        }
    }

    async fn put_options(&self, ttl: Option<Duration>) -> Result<Option<PutOptions>, Error> {
        match ttl {
            None => Ok(None),
            Some(ttl) => Ok(Some(PutOptions::new().with_lease(self.leases.get(&self.client, ttl).await?))),
        }
    }
}

/// Runs a call with a deadline and measures it.
async fn timed<T>(operation: &'static str, call: impl Future<Output = Result<T, etcd_client::Error>>) -> Result<T, Error> {
    let started = Instant::now();
    let out = match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(Error::Unavailable("etcdserver: request timed out".into())),
    };
    metrics::etcd_request(operation, started.elapsed(), out.is_ok());
    out
}

fn revision_of(header: Option<&etcd_client::ResponseHeader>) -> u64 {
    header.map_or(0, |header| header.revision().cast_unsigned())
}
