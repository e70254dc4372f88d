//! Addresses, paths and domains: what is read can be written into a command line and is read the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postrider::mail::{Domain, Path, address};

fuzz_target!(|text: &str| {
    if let Ok(read) = address::parse(text) {
        check(&read);
        assert_eq!(read.to_string(), text, "an address is kept as it came");
    }
    if let Ok((path, rest)) = address::parse_path(text) {
        assert!(rest.is_empty() || rest.starts_with(' '));
        if let Path::Mailbox(read) = path {
            check(&read);
        }
    }
    if let Ok(domain) = Domain::parse(text) {
        assert_eq!(Domain::parse(domain.as_str()).as_ref(), Ok(&domain), "one form");
        assert!(domain.as_str().is_ascii() && domain.as_str().len() <= address::DOMAIN_BYTES_MAX);
    }
});

fn check(read: &postrider::mail::Address) {
    let text = read.to_string();
    assert!(!text.contains(char::is_control), "{text:?}");
    assert_eq!(address::parse(&text).as_ref(), Ok(read));
    let path = format!("<{text}> SIZE=1");
    assert_eq!(
        address::parse_path(&path),
        Ok((Path::Mailbox(read.clone()), " SIZE=1")),
        "ends at its bracket"
    );
    // Looked up and compared in one form, whoever wrote it.
    Domain::of(read);
}
