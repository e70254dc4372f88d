//! Lines of a session, said to the command parser and the protocol: no panic, and every reply is one of ours.
#![no_main]

use libfuzzer_sys::fuzz_target;

/// The codes that submission sends; 0 where the reply depends on the world.
const CODES: &[u16] = &[
    0, 211, 214, 220, 221, 235, 250, 251, 252, 253, 334, 354, 421, 450, 451, 452, 453, 454, 455, 458, 459,
    500, 501, 502, 503, 504, 530, 535, 538, 550, 551, 552, 553, 554, 555,
];

fuzz_target!(|input: &[u8]| {
    let lines = input.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    for code in postrider::submission::fuzzing::converse(lines) {
        assert!(CODES.contains(&code), "{code}");
    }
});
