//! Asks servers for answers with their proof. hickory's validator follows the signatures to the root's keys; what it
//! gets to see goes through `sieve.rs`.
//!
//! Each proof is a new one. The validator could keep what it thinks of signatures, under a hash that everybody can
//! compute: whoever makes two answers with the same hash, a true one and a forged one, would have the forged one proved
//! by the true one. So it keeps nothing; `kept_keys.rs` keeps answers, and their signatures are verified each time.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use hickory_resolver::config::ResolverOpts;
use hickory_resolver::net::DnsError as Refusal;
use hickory_resolver::net::dnssec::DnssecDnsHandle;
use hickory_resolver::net::xfer::{DnsHandle, FirstAnswer, RetryDnsHandle};
use hickory_resolver::proto::dnssec::TrustAnchors;
use hickory_resolver::proto::op::{DnsRequestOptions, Message, Query};
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{NameServerPool, PoolContext, TlsConfig};

use super::kept_keys::KeptKeys;
use super::proof::is_settled;
use super::scope::Provider;
use super::servers::{Heard, server_at};
use super::sieve::{Pool, Sieve};

/// After so many failures of a question: once more.
const ATTEMPTS: usize = 1;

/// Some servers, and the keys that everything has to be signed with in the end.
pub(super) struct Prover {
    servers: Pool,
    anchors: Arc<TrustAnchors>,
    keys: Arc<KeptKeys>,
}

impl Prover {
    pub(super) fn new(
        servers: &[SocketAddr],
        options: ResolverOpts,
        anchors: &Arc<TrustAnchors>,
        keys: &Arc<KeptKeys>,
    ) -> io::Result<Prover> {
        let tls = TlsConfig::new().map_err(io::Error::other)?;
        let configs = servers.iter().map(|server| server_at(*server));
        let context = Arc::new(PoolContext::new(options, tls));
        let pool = NameServerPool::from_config(configs, context, Provider::new(servers));
        let servers = RetryDnsHandle::new(pool, ATTEMPTS);
        Ok(Prover { servers, anchors: Arc::clone(anchors), keys: Arc::clone(keys) })
    }

    /// One answer, each record with what is proved of it. No alias is followed that the server did not follow.
    pub(super) async fn lookup(&self, name: &Name, kind: RecordType) -> Heard {
        let sieve = Sieve::new(self.servers.clone(), Arc::clone(&self.keys));
        let validator = DnssecDnsHandle::with_trust_anchor(sieve.clone(), Arc::clone(&self.anchors));
        let mut options = DnsRequestOptions::default();
        options.edns_set_dnssec_ok = true;
        let query = Query::query(name.clone(), kind);
        let response = validator.validation_cache_size(0).lookup(query, options).first_answer().await;
        let heard = response.and_then(|found| Ok(Refusal::from_response(found).map(Message::from)?));
        if is_settled(name, kind, &heard) {
            sieve.keep_keys();
        }
        heard
    }
}
