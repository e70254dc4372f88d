//! A host that gets commands in a batch wrong: the message once more, command by command, on a fresh connection to
//! it, and what that says about the host.
//!
//! Connections break for many reasons. A host is remembered as one that cannot take a batch (`host/hosts.rs`) only
//! where it says so itself, or where the same message goes well without one.

use crate::delivery::host::pool::PooledConnection;
use crate::delivery::job::attempt::round::{Answer, Round};
use crate::delivery::job::require_tls;
use crate::delivery::smtp::connection::Connection;
use crate::delivery::smtp::pipeline::{Batch, Disorder};
use crate::mail::Reply;
use crate::queue::Setting;

impl Round<'_> {
    /// Transactions on a connection of ours, and more on another to the same host where a batch of commands went
    /// wrong on it. As [`Round::transact`].
    pub(super) fn transact_in_step(&mut self, line: &mut PooledConnection) -> Option<Answer> {
        let trouble = self.transact(line);
        let disorder = match &line.connection.batch {
            Batch::InOrder if trouble.is_none() => {
                if line.connection.is_first_batch() {
                    let host = line.endpoint.name();
                    self.setup.connector.hosts.trust(&host);
                    self.setup.connector.hosts.ended(&host, "pipelining");
                }
                return None;
            }
            Batch::Broken(disorder) if trouble.is_some() => disorder.clone(),
            _ => return trouble,
        };
        let host = line.endpoint.name();
        let Some(connection) = self.fall_into_step(line, &host, &disorder) else { return trouble };
        line.connection = connection;
        self.transact_in_lock_step(line, &host, disorder.reply())
    }

    /// Another connection to the host, for a message that goes command by command; none where that would not help.
    fn fall_into_step(&self, line: &PooledConnection, host: &str, disorder: &Disorder) -> Option<Connection> {
        let hosts = &self.setup.connector.hosts;
        match disorder {
            Disorder::Said(reply) => hosts.found(host, Setting::NoPipelining, reply),
            Disorder::Muddled(_) => {}
            // A host may close between two messages, and whoever took batches before has other reasons to be
            // silent.
            Disorder::Silent(_) if line.connection.messages() > 1 || !hosts.suspect(host) => {
                return None;
            }
            Disorder::Silent(_) => {}
        }
        log::debug!("{host}: a batch of commands went wrong ({}); one by one now", disorder.reply());
        let opened = self.setup.connector.open(&line.endpoint, self.deadline);
        let opened = if require_tls::is_strict(self.message) { require_tls::fit(opened) } else { opened };
        let mut connection = opened.ok()?;
        connection.capabilities.pipelining = false;
        Some(connection)
    }

    fn transact_in_lock_step(
        &mut self,
        line: &mut PooledConnection,
        host: &str,
        why: &Reply,
    ) -> Option<Answer> {
        let trouble = self.transact(line);
        let hosts = &self.setup.connector.hosts;
        // A refusal that comes without a batch too is meant.
        let is_meant =
            why.code >= 400 && self.answers.iter().flatten().any(|answer| answer.reply.code == why.code);
        if trouble.is_none() && line.connection.is_usable() && !is_meant {
            hosts.found(host, Setting::NoPipelining, why);
        } else {
            hosts.trust(host);
        }
        trouble
    }
}
