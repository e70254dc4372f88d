//! What attempts go by and work with.

use std::sync::Arc;

use crate::clock::Clock;
use crate::config::{DeliverySettings, Routes};
use crate::queue::Queue;

use crate::delivery::host::pool::Pool;
use crate::delivery::https::Https;
use crate::delivery::job::signing::Signing;
use crate::delivery::report::report_limit::ReportLimits;
use crate::delivery::report::tls_reports::TlsReports;
use crate::delivery::route::lookup::Lookup;
use crate::delivery::smtp::connection::Connector;
use crate::delivery::sts::policies::Policies;

/// What an attempt goes by; swapped as a whole on reload.
pub struct DeliveryContext {
    /// `[delivery]`.
    pub settings: DeliverySettings,
    /// `[[route]]`.
    pub routes: Arc<Routes>,
    /// Signs mail of domains that have a key.
    pub signing: Signing,
    /// Name lookups.
    pub lookup: Arc<dyn Lookup + Send + Sync>,
    /// Fetches policies.
    pub https: Arc<Https>,
    /// Opens connections.
    pub connector: Connector,
}

/// What all attempts work with, for the life of the relay.
pub(in crate::delivery) struct Resources {
    pub(in crate::delivery) queue: Queue,
    pub(in crate::delivery) clock: Clock,
    pub(in crate::delivery) pool: Pool,
    pub(in crate::delivery) policies: Policies,
    pub(in crate::delivery) report_limits: ReportLimits,
    pub(in crate::delivery) tls_reports: TlsReports,
}
