//! Policies of MTA-STS, and the records that lead to them and to reports on TLS: bounded, and what is read of one means
//! the same once it is written again. Records are apart by NUL.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postrider::delivery::sts::policy::{MAX_AGE_MAX, MX_BYTES_MAX, Policy};
use postrider::delivery::sts::record;
use postrider::mail::tlsrpt::record::{DESTINATIONS_MAX, Destination, read};

fuzz_target!(|input: &[u8]| {
    if let Ok(policy) = Policy::parse(input) {
        assert!(policy.mx.iter().map(|one| one.len() + 1).sum::<usize>() <= MX_BYTES_MAX);
        assert!((0..=MAX_AGE_MAX).contains(&policy.max_age));
        assert_eq!(Policy::parse(policy.to_string().as_bytes()), Ok(policy));
    }
    let texts: Vec<String> = String::from_utf8_lossy(input).split('\0').map(str::to_owned).collect();
    if let Ok(id) = record::id(&texts) {
        assert!((1..=32).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        assert_eq!(record::id(&[format!("v=STSv1; id={id};")]), Ok(id));
    }
    let Ok(found) = read(&texts) else { return };
    assert!((1..=DESTINATIONS_MAX).contains(&found.len()));
    for destination in found {
        let uri = destination.uri();
        assert!(uri.is_ascii() && !uri.contains(['\r', '\n']), "{uri:?}");
        if let Destination::Https(_) = destination {
            assert_eq!(Destination::read(&uri), Some(destination));
        }
    }
});
