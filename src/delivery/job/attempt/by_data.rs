//! A host that offers CHUNKING and fails at BDAT: the message once more, by DATA on a fresh connection to it, and
//! what that says about the host.
//!
//! Something on the way may let the offer through and stop the command. Where the host says so it is remembered
//! (`host/hosts.rs`) at once; where the connection broke, only if the same message then goes well.

use crate::delivery::host::pool::PooledConnection;
use crate::delivery::job::attempt::round::{Answer, Round};
use crate::delivery::job::require_tls;
use crate::delivery::smtp::transaction::Bdat;
use crate::queue::Setting;

impl Round<'_> {
    /// As [`Round::transact_in_step`], and once more by DATA where BDAT went wrong.
    pub(super) fn transact_with_bdat(&mut self, line: &mut PooledConnection) -> Option<Answer> {
        let trouble = self.transact_in_step(line);
        let (why, said) = match &line.connection.bdat {
            Bdat::Unknown => return trouble,
            Bdat::Taken => {
                self.setup.connector.hosts.ended(&line.endpoint.name(), "chunking");
                return trouble;
            }
            // Nobody is left to try it for.
            _ if trouble.is_none() => return None,
            Bdat::Refused(reply) => (reply.clone(), true),
            Bdat::Broken(ours) => (ours.clone(), false),
        };
        let connector = &self.setup.connector;
        let host = line.endpoint.name();
        if said {
            connector.hosts.found(&host, Setting::NoChunking, &why);
        }
        log::debug!("{host}: BDAT went wrong ({why}); by DATA now");
        let opened = connector.open(&line.endpoint, self.deadline);
        let opened = if require_tls::is_strict(self.message) { require_tls::fit(opened) } else { opened };
        let Ok(mut connection) = opened else { return trouble };
        connection.capabilities.spare_bdat = true;
        // Who had to go command by command must here, too.
        connection.capabilities.pipelining &= line.connection.capabilities.pipelining;
        line.connection = connection;
        let trouble = self.transact_in_step(line);
        if !said && trouble.is_none() {
            connector.hosts.found(&host, Setting::NoChunking, &why);
        }
        trouble
    }
}
