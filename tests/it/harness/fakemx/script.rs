//! What a fake says instead of the ordinary answers, and the certificates that it shows.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// A place in the dialogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// Before the client has said anything.
    Greeting,
    Ehlo,
    Helo,
    Starttls,
    /// Instead of the handshake, once the client has begun it; the connection is over then.
    Handshake,
    Auth,
    Mail,
    /// RCPT whose line holds this text.
    Rcpt(&'static str),
    Data,
    /// After so many bytes of content, before its end. With `Act::Say` the rest is still read.
    Content(usize),
    /// At BDAT, before the chunk is read; what comes then is read as commands.
    Bdat,
    /// After the chunk of this number in its transaction, from 1; not for the last, which is [`At::Dot`].
    Chunk(usize),
    /// After the final dot, or the last chunk.
    Dot,
    Rset,
    Quit,
}

/// What happens there instead of the ordinary answer.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// A reply; CR LF is put behind it. A 2xx or 354 means to this host what it says.
    Say(&'static str),
    /// These bytes as they are.
    Raw(Vec<u8>),
    /// Nothing; the connection is closed, after what the client still has to say was read.
    Close,
    /// Nothing; the connection is reset: whatever the client says next fails.
    Reset,
    /// A reply, then the connection is closed.
    SayAndClose(&'static str),
    /// Nothing; the connection stays open and silent until the client closes it or the fake stops.
    Stall,
    /// Nothing more is read or said until the fake stops.
    Asleep,
    /// One byte of an endless reply each time this passes.
    Drip(Duration),
    /// After this time, the other.
    Later(Duration, Box<Act>),
    /// One after the other. What the last says is meant.
    Then(Vec<Act>),
}

impl Act {
    /// What is said and meant.
    pub(super) fn words(&self) -> String {
        match self {
            Act::Say(reply) | Act::SayAndClose(reply) => (*reply).to_owned(),
            Act::Raw(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Act::Later(_, act) => act.words(),
            Act::Then(acts) => acts.last().map(Act::words).unwrap_or_default(),
            _ => String::new(),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Rule {
    at: At,
    /// How many times it does not hold yet, over all connections.
    spare: Option<Arc<AtomicUsize>>,
    /// How many times more it holds, over all connections; none: always.
    times: Option<Arc<AtomicUsize>>,
    act: Act,
    /// Only where commands came together.
    batched: bool,
}

/// How a fake behaves on a connection.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(super) offers: Vec<String>,
    pub(super) rules: Vec<Rule>,
    pub(super) tls: Option<Arc<ServerConfig>>,
    pub(super) implicit: bool,
    pub(super) at_most: Option<(usize, &'static str)>,
    pub(super) recipients_max: usize,
    pub(super) small_hellos: bool,
    pub(super) gate: Option<Gate>,
}

/// Whoever holds logins against what is known: hears the AUTH command, asks with challenges (base 64; none: the
/// client is gone), and says the last reply.
#[derive(Clone)]
pub(crate) struct Gate(pub(super) Arc<Verify>);

pub(super) type Verify = dyn Fn(&str, Ask<'_>) -> String + Send + Sync;

/// Sends a challenge and gives the response as it came.
pub(crate) type Ask<'a> = &'a mut dyn FnMut(&str) -> Option<String>;

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gate")
    }
}

impl Script {
    /// Takes everything.
    pub(crate) fn new() -> Script {
        let offers = ["PIPELINING", "SIZE 50000000", "8BITMIME", "DSN", "ENHANCEDSTATUSCODES"];
        let offers = offers.map(str::to_owned).to_vec();
        Script {
            offers,
            rules: Vec::new(),
            tls: None,
            implicit: false,
            at_most: None,
            recipients_max: usize::MAX,
            small_hellos: false,
            gate: None,
        }
    }

    /// These EHLO keywords and no others (STARTTLS comes with [`Script::tls`]).
    pub(crate) fn offering(mut self, keywords: &[&str]) -> Script {
        self.offers = keywords.iter().map(|keyword| (*keyword).to_owned()).collect();
        self
    }

    /// Offers STARTTLS too, with this certificate.
    pub(crate) fn tls(mut self, certificate: &Certificate) -> Script {
        self.tls = Some(Arc::clone(&certificate.config));
        self
    }

    /// TLS from the first byte.
    pub(crate) fn implicit_tls(self, certificate: &Certificate) -> Script {
        Script { implicit: true, ..self.tls(certificate) }
    }

    /// So many recipients in a transaction; those beyond are put off.
    pub(crate) fn recipients_max(self, recipients_max: usize) -> Script {
        Script { recipients_max, ..self }
    }

    /// Closes the connection on a ClientHello that is larger than middleboxes of old expected: on one with a
    /// post-quantum key share.
    pub(crate) fn small_hellos(self) -> Script {
        Script { small_hellos: true, ..self }
    }

    /// So many connections at once; those beyond hear this instead of a greeting.
    pub(crate) fn at_most(mut self, connections: usize, reply: &'static str) -> Script {
        self.at_most = Some((connections, reply));
        self
    }

    /// Logins are really verified: by this.
    pub(crate) fn gate(mut self, gate: impl Fn(&str, Ask<'_>) -> String + Send + Sync + 'static) -> Script {
        self.gate = Some(Gate(Arc::new(gate)));
        self
    }

    /// Always, at this place.
    pub(crate) fn on(mut self, at: At, act: Act) -> Script {
        self.rules.push(Rule { at, spare: None, times: None, act, batched: false });
        self
    }

    /// Always, at this place, once commands came together on the connection.
    pub(crate) fn in_a_batch(mut self, at: At, act: Act) -> Script {
        self.rules.push(Rule { at, spare: None, times: None, act, batched: true });
        self
    }

    /// The first `times` times, at this place, counted over all connections; then the next rule
    /// or the ordinary answer.
    pub(crate) fn first(mut self, times: usize, at: At, act: Act) -> Script {
        let times = Some(Arc::new(AtomicUsize::new(times)));
        self.rules.push(Rule { at, spare: None, times, act, batched: false });
        self
    }

    /// Always, at this place, but for the first `spared` times.
    pub(crate) fn after(mut self, spared: usize, at: At, act: Act) -> Script {
        let spare = Some(Arc::new(AtomicUsize::new(spared)));
        self.rules.push(Rule { at, spare, times: None, act, batched: false });
        self
    }

    /// Before all other rules.
    pub(super) fn at_once(mut self, at: At, act: Act) -> Script {
        self.rules.insert(0, Rule { at, spare: None, times: None, act, batched: false });
        self
    }

    pub(super) fn act(&self, batched: bool, fits: impl Fn(At) -> bool) -> Option<Act> {
        let used = |times: &Arc<AtomicUsize>| {
            times.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
        };
        self.rules
            .iter()
            .find(|rule| {
                let is_spared = || rule.spare.as_ref().is_some_and(used);
                let is_meant = fits(rule.at) && (batched || !rule.batched);
                is_meant && !is_spared() && rule.times.as_ref().is_none_or(used)
            })
            .map(|rule| rule.act.clone())
    }
}

/// A certificate for some names, and the CA that vouches for it.
pub(crate) struct Certificate {
    pub(super) config: Arc<ServerConfig>,
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// The CA's certificate, for `ca_file`.
    pub(crate) ca_pem: String,
}

impl Certificate {
    /// Good for these names (or addresses), and for no others.
    pub(crate) fn for_names(names: &[&str]) -> Certificate {
        Certificate::on(names, rustls::crypto::aws_lc_rs::default_provider(), rustls::ALL_VERSIONS)
    }

    /// What a server does with it.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// The same, on a server that knows no post-quantum key exchange.
    pub(crate) fn classical(names: &[&str]) -> Certificate {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
        Certificate::on(names, provider, rustls::ALL_VERSIONS)
    }

    /// The same, on a server that knows no TLS 1.3.
    pub(crate) fn tls12(names: &[&str]) -> Certificate {
        Certificate::on(names, rustls::crypto::aws_lc_rs::default_provider(), &[&rustls::version::TLS12])
    }

    /// By an authority that is sent too (or not), and over since yesterday (or not).
    pub(crate) fn by_authority(names: &[&str], is_sent: bool, is_over: bool) -> Certificate {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        if is_over {
            params.not_after = rcgen::date_time_ymd(2024, 1, 1);
            params.not_before = rcgen::date_time_ymd(2023, 1, 1);
        }
        Certificate::signed_by_authority(&params, is_sent)
    }

    /// The same with a common name, and no other name.
    pub(crate) fn with_common_name(name: &str) -> Certificate {
        let mut params = rcgen::CertificateParams::new([]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        Certificate::signed_by_authority(&params, true)
    }

    fn signed_by_authority(params: &rcgen::CertificateParams, is_sent: bool) -> Certificate {
        let (key, ca_key) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
        let mut ca = rcgen::CertificateParams::new([]).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        ca.distinguished_name.push(rcgen::DnType::CommonName, "an authority");
        let authority = ca.self_signed(&ca_key).unwrap();
        let leaf = params.signed_by(&key, &rcgen::Issuer::new(ca, ca_key)).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let chain = vec![leaf.der().clone(), authority.der().clone()];
        let sent = chain[..if is_sent { 2 } else { 1 }].to_vec();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(sent, key).unwrap();
        Certificate { config: Arc::new(config), chain, ca_pem: authority.pem() }
    }

    /// What a TLSA record holds of the host's certificate, or of the authority's where the usage is 0 or 2.
    pub(crate) fn tlsa(&self, (usage, selector, matching): (u8, u8, u8)) -> Vec<u8> {
        use aws_lc_rs::digest::{SHA256, SHA512, digest};
        let certificate = &self.chain[if usage % 2 == 0 { 1 } else { 0 }];
        let parsed = rustls::server::ParsedCertificate::try_from(certificate).unwrap();
        let selected = match selector {
            0 => certificate.to_vec(),
            _ => parsed.subject_public_key_info().to_vec(),
        };
        match matching {
            0 => selected,
            1 => digest(&SHA256, &selected).as_ref().to_vec(),
            _ => digest(&SHA512, &selected).as_ref().to_vec(),
        }
    }

    fn on(
        names: &[&str],
        provider: rustls::crypto::CryptoProvider,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Certificate {
        let key = rcgen::KeyPair::generate().unwrap();
        let (leaf, ca_pem) = vouched_for(names, &key);
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.clone()], key)
            .unwrap();
        Certificate { config: Arc::new(config), chain: vec![leaf], ca_pem }
    }
}

/// A CA that vouches for the certificates of several hosts.
pub(crate) struct Ca {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    /// Its own certificate, for `ca_file`.
    pub(crate) pem: String,
}

impl Ca {
    /// A new one.
    pub(crate) fn new() -> Ca {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut ca = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = ca.self_signed(&key).unwrap().pem();
        Ca { issuer: rcgen::Issuer::new(ca, key), pem }
    }

    /// Good for these names.
    pub(crate) fn certificate(&self, names: &[&str]) -> Certificate {
        self.certificate_until(names, 2099)
    }

    /// One that was good until the end of a year.
    pub(crate) fn certificate_until(&self, names: &[&str], year: i32) -> Certificate {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut leaf = rcgen::CertificateParams::new(names).unwrap();
        leaf.not_after = rcgen::date_time_ymd(year, 12, 31);
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = leaf.signed_by(&key, &self.issuer).unwrap().der().clone();
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.clone()], key)
            .unwrap();
        let authority = CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap();
        Certificate { config: Arc::new(config), chain: vec![leaf, authority], ca_pem: self.pem.clone() }
    }
}

/// A certificate for these names with this key, and the CA that signed it.
pub(super) fn vouched_for(
    names: &[&str],
    key: &impl rcgen::PublicKeyData,
) -> (CertificateDer<'static>, String) {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let leaf = rcgen::CertificateParams::new(names).unwrap().signed_by(key, &issuer).unwrap();
    (leaf.der().clone(), ca_pem)
}
