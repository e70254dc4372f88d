//! Names below a DNAME record (RFC 6672), whose aliases servers make without a signature.

use hickory_server::proto::rr::rdata::NULL;
use hickory_server::proto::rr::{Name, RData, RecordType};
use hickory_server::proto::serialize::binary::BinEncodable as _;

use super::{Key, Row, Victim, cname, forged, found, honest, name, record};
use crate::harness::dnssec::Reply;

/// Names below `d` are those below `to`, by a DNAME record that `key` signed. `alias` is what servers make of it.
struct Renames<'a> {
    key: &'a Key,
    to: &'a str,
    alias: &'a str,
}

impl Renames<'_> {
    fn answer(&self, victim: &Victim, asked: &Name, kind: RecordType) -> Option<Reply> {
        let owner = name("d").append_domain(&victim.domain).unwrap();
        let of = |target: &str| {
            let rdata = NULL::with(name(target).to_bytes().unwrap());
            record(&owner, RData::Unknown { code: RecordType::DNAME, rdata })
        };
        let mut signed = self.key.signed(vec![of(self.to)]);
        // As it may come: signatures are of lower case.
        signed[0] = of(&self.to.to_ascii_uppercase());
        let alias = cname(asked, &name(self.alias));
        match kind {
            RecordType::DNAME if *asked == owner => found(signed),
            _ if *asked != owner && owner.zone_of(asked) => found([signed, vec![alias]].concat()),
            _ => None,
        }
    }
}

/// A recipient's domain below it.
pub(super) fn rows() -> Vec<Row> {
    let below = |row: Row| Row { below: "www.d.", ..row };
    vec![
        below(honest("v-dname", "dane", |_, victim, asked, kind| {
            let (to, alias) = ("v-dname.test", "www.v-dname.test");
            Renames { key: &victim.key, to, alias }.answer(victim, asked, kind)
        })),
        // Whatever alias somebody makes of it.
        below(honest("v-dname-alias", "dane", |_, victim, asked, kind| {
            let (to, alias) = ("v-dname-alias.test", "evil.test");
            Renames { key: &victim.key, to, alias }.answer(victim, asked, kind)
        })),
        below(forged("v-dname-planted", |_, victim, asked, kind| {
            let (to, alias) = ("evil.test", "www.evil.test");
            Renames { key: &victim.planted, to, alias }.answer(victim, asked, kind)
        })),
        below(forged("v-dname-evil", |tree, victim, asked, kind| {
            let (to, alias) = ("evil.test", "www.evil.test");
            Renames { key: &tree.evil, to, alias }.answer(victim, asked, kind)
        })),
    ]
}
