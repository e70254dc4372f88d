//! Names below a DNAME record (RFC 6672), whose aliases servers make without a signature.

use hickory_server::proto::rr::rdata::NULL;
use hickory_server::proto::rr::{Name, RData, RecordType};
use hickory_server::proto::serialize::binary::BinEncodable as _;

use super::{Key, Row, Victim, cname, forged, found, honest, name, record};
use crate::harness::dnssec::Reply;

/// The zone's names below `d` are those below its start, by a DNAME record that `key` signed.
fn dname(victim: &Victim, key: &Key, target: &Name, asked: &Name, kind: RecordType) -> Option<Reply> {
    let owner = name("d").append_domain(&victim.domain).unwrap();
    let of = |target: &Name| {
        let rdata = NULL::with(target.to_bytes().unwrap());
        record(&owner, RData::Unknown { code: RecordType::DNAME, rdata })
    };
    let mut signed = key.signed(vec![of(&victim.domain)]);
    // As it may come: signatures are of lower case.
    signed[0] = of(&name(&victim.domain.to_ascii().to_ascii_uppercase()));
    match kind {
        RecordType::DNAME if *asked == owner => found(signed),
        _ if *asked != owner && owner.zone_of(asked) => found([signed, vec![cname(asked, target)]].concat()),
        _ => None,
    }
}

/// A recipient's domain below it.
pub(super) fn rows() -> Vec<Row> {
    let below = |row: Row| Row { below: "www.d.", ..row };
    vec![
        below(honest("v-dname", "dane", |_, victim, asked, kind| {
            let target = name("www").append_domain(&victim.domain).unwrap();
            dname(victim, &victim.key, &target, asked, kind)
        })),
        // Whatever alias somebody makes of it.
        below(honest("v-dname-alias", "dane", |_, victim, asked, kind| {
            dname(victim, &victim.key, &name("evil.test"), asked, kind)
        })),
        below(forged("v-dname-planted", |_, victim, asked, kind| {
            dname(victim, &victim.planted, &name("evil.test"), asked, kind)
        })),
        below(forged("v-dname-evil", |tree, victim, asked, kind| {
            dname(victim, &tree.evil, &name("evil.test"), asked, kind)
        })),
    ]
}
