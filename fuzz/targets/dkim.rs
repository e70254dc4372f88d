//! Mail to be signed: its body has one hash however it arrives, no header is too odd, and the field is short.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use postrider::mail::dkim::{Algorithm, BodyHash, Canonicalization, Key, Keyring, Signer, SigningKey};
use postrider::mail::header::{apart, fields};

static KEYRING: OnceLock<Keyring> = OnceLock::new();

fn keyring() -> Keyring {
    let key = |body| SigningKey {
        signer: Signer {
            domain: "example.com".to_owned(),
            selector: "s1".to_owned(),
            key: Key::generate(Algorithm::Ed25519Sha256).expect("random numbers"),
            canonicalization: (Canonicalization::Relaxed, body),
            expires_after: None,
        },
        from: None,
        until: None,
        skip_signed: true,
    };
    Keyring::new(vec![key(Canonicalization::Relaxed), key(Canonicalization::Simple)], None)
}

fuzz_target!(|input: &[u8]| {
    let Some((size, mail)) = input.split_first() else { return };
    let (header, body) = apart(mail);
    assert!(header.len() + body.len() <= mail.len());
    assert!(fields(header).iter().map(|field| field.whole.len()).sum::<usize>() <= header.len());
    let keyring = KEYRING.get_or_init(keyring);
    let Some(to_sign) = keyring.to_sign(header, Some("example.com")) else { return };
    for key in to_sign.signers(false, 1_800_000_000.into()).expect("always in force") {
        let canonicalization = key.signer.canonicalization.1;
        let hash = |pieces: &mut dyn Iterator<Item = &[u8]>| {
            let mut hash = BodyHash::new(canonicalization);
            pieces.for_each(|piece| hash.feed(piece));
            hash.finish()
        };
        let whole = hash(&mut std::iter::once(body));
        assert_eq!(hash(&mut body.chunks(usize::from(*size).max(1))), whole, "however it arrives");
        let field = key.signer.sign(header, &whole, 1_800_000_000).expect("a signature");
        assert!(field.ends_with("\r\n") && field.len() < 10_000, "{field}");
        assert!(field.trim_end().split("\r\n").all(|line| line.len() <= 78), "{field}");
    }
});
