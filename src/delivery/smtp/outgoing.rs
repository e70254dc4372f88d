//! A message as it is handed over to one host: its content apart, which comes in pieces.

use crate::config::EightBit;
use crate::mail::{Address, Body, Handling, Ret};
use crate::queue::QueuedRecipient;

/// What is to be handed over.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// None: the null sender.
    pub sender: Option<&'a Address>,
    /// At least one; the results come in this order.
    pub recipients: &'a [&'a QueuedRecipient],
    /// BODY.
    pub body: Body,
    /// What becomes of 8-bit content at a host that does not offer to take it.
    pub eight_bit: EightBit,
    /// The client gave SMTPUTF8.
    pub smtputf8: bool,
    /// What goes before the content: header fields that are made for this attempt.
    pub prefix: &'a [u8],
    /// Bytes of the prefix and the content.
    pub size: u64,
    /// RET.
    pub ret: Option<Ret>,
    /// ENVID, xtext as given.
    pub envid: Option<&'a str>,
    /// MT-PRIORITY, REQUIRETLS, DELIVERBY.
    pub handling: Handling,
    /// Unix seconds: what is left of BY counts from here.
    pub now: i64,
    /// Commands and content may go out in one write, before the host has answered anything: nobody has to record
    /// first whose answer will be in doubt.
    pub single_write: bool,
}
