//! The door through which `fuzz/` reaches what reads foreign bytes in this room. Nothing else uses it.

use crate::mail::Reply;

use crate::delivery::smtp::body::dot_stuffing::Stuffer;
use crate::delivery::smtp::reply_reader::ReplyReader;

/// Reads replies from `pieces`, each arriving at once: those before the first malformed one, and what was
/// wrong with that.
pub fn read_replies<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Reply>, Option<String>) {
    let (mut reader, mut replies) = (ReplyReader::default(), Vec::new());
    for mut piece in pieces {
        while !piece.is_empty() {
            // Cannot fail: nothing is read from outside.
            let _ = reader.fill(|room| -> Result<usize, ()> {
                let count = piece.len().min(room.len());
                room[..count].copy_from_slice(&piece[..count]);
                piece = &piece[count..];
                Ok(count)
            });
            loop {
                match reader.next() {
                    Ok(Some(reply)) => replies.push(reply),
                    Ok(None) => break,
                    Err(malformed) => return (replies, Some(malformed.to_string())),
                }
            }
        }
    }
    (replies, None)
}

/// What goes over the wire behind DATA for content in these pieces.
pub fn stuff<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let (mut stuffer, mut gathered, mut out) = (Stuffer::new(), Vec::new(), Vec::new());
    for piece in pieces {
        // Cannot fail: writing to a Vec.
        let _ = stuffer.stuff(piece, &mut gathered, &mut |bytes: &[u8]| -> Result<(), ()> {
            out.extend_from_slice(bytes);
            Ok(())
        });
    }
    stuffer.finish(&mut gathered);
    out.extend_from_slice(&gathered);
    out
}
