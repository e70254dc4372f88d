//! BDAT's content: the same however it is cut into chunks; in lines, unless it is BINARYMIME, which stays byte
//! for byte; and sent on with DATA it comes out at the next host as it is here.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postrider::delivery::fuzzing::stuff;
use postrider::mail::Body;
use postrider::submission::fuzzing::{fix_header, read_chunks, read_data};

fuzz_target!(|input: &[u8]| {
    let Some((size, sent)) = input.split_first() else { return };
    let size = usize::from(*size).max(1);
    assert_eq!(read_chunks(sent.chunks(size), Body::BinaryMime), sent);
    fix_header(sent);

    let content = read_chunks([sent], Body::SevenBit);
    assert_eq!(read_chunks(sent.chunks(size), Body::SevenBit), content, "however it is cut");
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        let text = line.strip_suffix(b"\r\n").expect("lines end in CR LF");
        assert!(!text.contains(&b'\r'));
    }
    let fixed = fix_header(&content).expect("it is complete");
    let wire = stuff(fixed.chunks(size));
    assert_eq!(read_data([wire.as_slice()]), (fixed, Some(wire.len())), "the next host reads the same");
});
