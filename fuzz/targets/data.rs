//! DATA's content: it ends at the first CR LF . CR LF and nowhere else, however it is cut; it holds no bare CR
//! or LF; and sent on to another host it comes out there as it is here.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postrider::delivery::fuzzing::stuff;
use postrider::submission::fuzzing::{fix_header, read_data};

fuzz_target!(|input: &[u8]| {
    let Some((size, wire)) = input.split_first() else { return };
    let size = usize::from(*size).max(1);
    let whole = read_data([wire]);
    assert_eq!(read_data(wire.chunks(size)), whole, "however it is cut");
    let (content, ended) = whole;

    // The CR LF of the command is the first of the end's, where the content is empty.
    let mut with_command = b"\r\n".to_vec();
    with_command.extend_from_slice(wire);
    let end = with_command.windows(5).position(|five| five == b"\r\n.\r\n");
    assert_eq!(ended, end.map(|at| at + 3));

    let Some(_) = ended else { return };
    has_only_lines(&content);
    let fixed = fix_header(&content).expect("it is complete");
    has_only_lines(&fixed);
    assert!(fixed.starts_with(b"Received: from "));
    let sent = stuff(fixed.chunks(size));
    assert_eq!(read_data([sent.as_slice()]), (fixed, Some(sent.len())), "the next host reads the same");
});

fn has_only_lines(content: &[u8]) {
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        let text = line.strip_suffix(b"\r\n").expect("lines end in CR LF");
        assert!(!text.contains(&b'\r'));
    }
}
