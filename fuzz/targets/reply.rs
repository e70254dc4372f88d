//! Replies of a foreign host: the same however they arrive, bounded, and printable.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postrider::delivery::fuzzing::read_replies;

fuzz_target!(|input: &[u8]| {
    let Some((size, bytes)) = input.split_first() else { return };
    let whole = read_replies([bytes]);
    let pieces = read_replies(bytes.chunks(usize::from(*size).max(1)));
    assert_eq!(pieces, whole, "however they arrive");
    for reply in whole.0 {
        assert!(reply.code <= 999);
        assert!(reply.text.lines().count() <= 100);
        assert!(!reply.text.contains(|c: char| c.is_control() && c != '\n'), "{:?}", reply.text);
    }
});
