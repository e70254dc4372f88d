//! What a DKIM signature costs: processor time for header, body and key, by algorithm, canonicalization and size.
//!
//! `cargo bench --bench signing`. The body is text in lines of 72 bytes, and comes in chunks as the queue has them. The
//! time is the thread's own (Linux), so that other load does not count.

use std::fs;
use std::hint::black_box;

use postrider::mail::dkim::{Algorithm, BodyHash, Canonicalization, Key, Signer};

const CHUNK_BYTES: usize = 256 << 10;
const HEADER: &str = "Received: from client.example ([192.0.2.7])\r\n\tby relay.example with ESMTPSA id 01K6GXFMRQ0;\
    Wed, 18 Nov 2026 11:06:40 +0000\r\nFrom: Me <me@example.com>\r\nTo: you@example.org\r\nSubject: a subject of some \
    words\r\nDate: Wed, 18 Nov 2026 11:06:40 +0000\r\nMessage-ID: <1@example.com>\r\nMIME-Version: 1.0\r\n\
    Content-Type: text/plain; charset=utf-8\r\n";
const LINE: &str = "A line of text as people write it, of words and blanks in between them.\r\n";

fn main() {
    use Canonicalization::{Relaxed, Simple};
    println!("algorithm  canonicalization  {:>9} {:>11} {:>11}", "bytes", "body us", "all us");
    for algorithm in [Algorithm::RsaSha256, Algorithm::Ed25519Sha256] {
        let key = Key::generate(algorithm).expect("random numbers");
        let (domain, selector) = ("example.com".to_owned(), "s1".to_owned());
        let mut signer =
            Signer { domain, selector, key, canonicalization: (Relaxed, Relaxed), expires_after: None };
        for canonicalization in [(Relaxed, Relaxed), (Relaxed, Simple), (Simple, Relaxed), (Simple, Simple)] {
            signer.canonicalization = canonicalization;
            for (bytes, rounds) in [(4 << 10, 2000), (1 << 20, 100)] {
                let body = LINE.repeat(bytes / LINE.len());
                let hash = || {
                    let mut hash = BodyHash::new(canonicalization.1);
                    body.as_bytes().chunks(CHUNK_BYTES).for_each(|chunk| hash.feed(black_box(chunk)));
                    hash.finish()
                };
                let sign = || signer.sign(black_box(HEADER.as_bytes()), &hash(), 1_800_000_000);
                println!(
                    "{:<10} {:<17} {bytes:>9} {:>11.1} {:>11.1}",
                    algorithm.key_type(),
                    format!("{}/{}", canonicalization.0.as_str(), canonicalization.1.as_str()),
                    micros(rounds, &hash),
                    micros(rounds, &sign),
                );
            }
        }
    }
}

/// Processor time of one call, the best of five series.
fn micros<T>(rounds: u32, call: &impl Fn() -> T) -> f64 {
    let series = |_| {
        let before = thread_nanos();
        (0..rounds).for_each(|_| drop(black_box(call())));
        (thread_nanos() - before) as f64 / f64::from(rounds) / 1000.0
    };
    (0..5).map(series).fold(f64::INFINITY, f64::min)
}

fn thread_nanos() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells it");
    text.split(' ').next().and_then(|nanos| nanos.parse().ok()).expect("a number")
}
