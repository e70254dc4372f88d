//! What sessions work with: what holds for the sessions that begin now, and what all sessions share.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;

use crate::clock::Clock;
use crate::config::{Limits, ListenAddress, ListenSettings, ListenTls, SubmissionSettings};
use crate::mail::{Address, Domain};

use crate::submission::limits::etrn_requests::EtrnRequests;
use crate::submission::limits::lockouts::Lockouts;
use crate::submission::limits::login_failures::LoginFailures;
use crate::submission::limits::rates::Rates;
use crate::submission::limits::sessions::SessionTable;
use crate::submission::ports::{MessageQueue, OnDemand, OperatorQueries};
use crate::submission::session::pool::Pool;
use crate::submission::users::Directory;
use crate::submission::wire::certificate::Certificate;
use crate::submission::wire::handshake::Handshakes;
use crate::submission::wire::tls::{self, TlsError};

/// Why submission cannot start, or cannot go over to new settings.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("[[listen]] address {address}: {source} ({remedy})")]
    Listen {
        /// Which.
        address: ListenAddress,
        /// What the system says.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// A socket that the process was started with is of no use.
    #[error(
        "a socket of systemd (LISTEN_FDS) cannot be used: {0}; postrider.socket has ListenStream= with IP addresses and paths only"
    )]
    Inherited(#[source] io::Error),
    /// A socket that the process was started with is for nobody.
    #[error(
        "systemd listens on {address}, which no [[listen]] has (they have {listed}); make ListenStream= in \
         postrider.socket and [[listen]] address the same, and restart both units"
    )]
    NotListed {
        /// Of the socket.
        address: ListenAddress,
        /// Of the listeners.
        listed: String,
    },
    /// The system gives no threads.
    #[error("starting threads: {0} (raise TasksMax)")]
    Threads(#[source] io::Error),
    /// Of a secret of this process.
    #[error("the system gives no random numbers")]
    Random,
    /// The certificate or its key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A listener wants TLS and there is no certificate.
    #[error("[[listen]] address {0} has TLS, but there is no [tls] certificate (set one, or tls = \"off\")")]
    NoCertificate(ListenAddress),
}

/// What holds for a session from its start to its end; a reload makes a new one for the sessions after it.
pub(in crate::submission) struct Service {
    pub(in crate::submission) hostname: Domain,
    pub(in crate::submission) tls: Option<Arc<ServerConfig>>,
    pub(in crate::submission) certificate: Option<Arc<Certificate>>,
    pub(in crate::submission) limits: Limits,
    pub(in crate::submission) aliases: BTreeMap<String, Vec<Address>>,
    pub(in crate::submission) lifetime: Duration,
    pub(in crate::submission) keep_subjects: bool,
    pub(in crate::submission) users: Box<dyn Directory>,
}

/// What listeners and sessions share.
pub(in crate::submission) struct SessionResources {
    pub(in crate::submission) service: RwLock<Arc<Service>>,
    pub(in crate::submission) ports: Ports,
    pub(in crate::submission) login_failures: LoginFailures,
    pub(in crate::submission) lockouts: Lockouts,
    pub(in crate::submission) rates: Rates,
    pub(in crate::submission) etrn_requests: EtrnRequests,
    pub(in crate::submission) handshakes: Handshakes,
    pub(in crate::submission) sessions: Arc<SessionTable>,
    pub(in crate::submission) pool: Arc<Pool>,
}

/// The other rooms, as the caller of `Submission::start` hands them in, and the clock.
pub(in crate::submission) struct Ports {
    pub(in crate::submission) queue: Arc<dyn MessageQueue>,
    pub(in crate::submission) operator_queries: Arc<dyn OperatorQueries>,
    pub(in crate::submission) on_demand: Arc<dyn OnDemand>,
    pub(in crate::submission) clock: Clock,
}

impl Service {
    /// At `now`, in Unix seconds. `before` is the certificate in use, which goes on where the settings want the same
    /// files.
    ///
    /// # Errors
    /// The certificate cannot be used, or there is none for a listener that wants TLS.
    pub(in crate::submission) fn new(
        settings: &SubmissionSettings,
        users: Box<dyn Directory>,
        now: i64,
        before: Option<&Arc<Certificate>>,
    ) -> Result<Service, StartError> {
        let open = |files| match before.filter(|before| before.is_of(files, &settings.hostname)) {
            Some(before) => before.read_again(now).map(|()| Arc::clone(before)),
            None => Certificate::open(files, &settings.hostname, now).map(Arc::new),
        };
        let certificate = settings.tls.as_ref().map(open).transpose()?;
        let tls = certificate.clone().map(|certificate| tls::server_config(certificate));
        let tls = tls.transpose().map_err(TlsError::Config)?;
        let without = |listen: &&ListenSettings| listen.tls != ListenTls::Off && tls.is_none();
        if let Some(listen) = settings.listen.iter().find(without) {
            return Err(StartError::NoCertificate(listen.address.clone()));
        }
        Ok(Service {
            hostname: settings.hostname.clone(),
            tls,
            certificate,
            limits: settings.limits.clone(),
            aliases: settings.aliases.clone(),
            lifetime: settings.lifetime,
            keep_subjects: settings.keep_subjects,
            users,
        })
    }
}

impl SessionResources {
    /// # Errors
    /// The system gives no threads.
    pub(in crate::submission) fn new(service: Service, ports: Ports) -> Result<SessionResources, StartError> {
        Ok(SessionResources {
            service: RwLock::new(Arc::new(service)),
            ports,
            login_failures: LoginFailures::new().map_err(|_| StartError::Random)?,
            lockouts: Lockouts::default(),
            rates: Rates::default(),
            etrn_requests: EtrnRequests::default(),
            handshakes: Handshakes::start().map_err(StartError::Threads)?,
            sessions: Arc::default(),
            pool: Pool::new(),
        })
    }

    /// What holds for a session that begins now.
    pub(in crate::submission) fn service(&self) -> Arc<Service> {
        // Only ever replaced whole, so there is nothing half done behind a poisoned lock.
        Arc::clone(&self.service.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sessions from now on go by this.
    pub(in crate::submission) fn set_service(&self, service: Arc<Service>) {
        *self.service.write().unwrap_or_else(PoisonError::into_inner) = service;
    }
}
