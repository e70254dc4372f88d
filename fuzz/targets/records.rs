//! DKIM and SPF records of strangers: none is too odd to be read, and an SPF record ends, whatever its names say.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use postrider::mail::dkim::Record;
use postrider::mail::spf::{self, Client, Names};

/// Each name has the same record.
struct Same<'t>(&'t str);

impl Names for Same<'_> {
    fn txt(&self, _: &str) -> Result<Vec<String>, String> {
        Ok(vec![self.0.to_owned()])
    }
    fn addresses(&self, name: &str, _: bool) -> Result<Vec<IpAddr>, String> {
        assert!(name.len() <= 253, "{name}");
        Ok(Vec::new())
    }
    fn mx(&self, _: &str) -> Result<Vec<String>, String> {
        Ok(vec!["mx.example.com".to_owned()])
    }
    fn reverse(&self, _: IpAddr) -> Result<Vec<String>, String> {
        Err("nobody answers".to_owned())
    }
}

fuzz_target!(|text: &str| {
    if let Ok(record) = Record::parse(text) {
        assert_eq!(Record::parse(&format!("{text} ")).as_ref(), Ok(&record));
    }
    for ip in ["192.0.2.1", "2001:db8::1"] {
        let ip = ip.parse().expect("an address");
        let client = Client { ip, sender: "strong-bad@email.example.com", helo: "mx.example.org" };
        spf::check_with(&Same(text), &client, "email.example.com", text);
    }
});
