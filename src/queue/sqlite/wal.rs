//! The write-ahead log as a file: what SQLite's recovery will not tell.
//!
//! Recovery reads the log up to the first frame whose checksum is wrong, and takes that for the end. After a power cut
//! it is the end. After one flipped bit it is not: whole transactions behind it, each acknowledged, are gone without
//! a word. The format is SQLite's (<https://sqlite.org/fileformat2.html#the_write_ahead_log>).

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Result};
use std::os::unix::fs::FileExt as _;

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
/// The log is read and written in pieces of this size.
const PIECE_BYTES: usize = 1 << 20;

/// What is in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Found {
    /// Transactions that recovery finds.
    pub(super) whole: u64,
    /// A transaction is damaged, and recovery ends there.
    pub(super) damaged: bool,
    /// Whole transactions behind the damaged one. The next is written only when the one before is on disk, so
    /// these, and the damaged one, were acknowledged.
    pub(super) behind: u64,
    /// Up to the last frame of the log's present life.
    pub(super) bytes: u64,
}

/// Reads the log through, as far as its present life goes: it may have been much longer once.
pub(super) fn look(log: impl Read) -> Result<Found> {
    let mut log = BufReader::with_capacity(PIECE_BYTES, log);
    let mut found = Found::default();
    let mut header = [0; HEADER_BYTES];
    if !read_whole(&mut log, &mut header)? {
        return Ok(found);
    }
    let order = if header[3] & 1 == 1 { u32::from_be_bytes } else { u32::from_le_bytes };
    let page_bytes = match word(&header, 8) {
        1 => 65_536,
        bytes @ 512..=32_768 if bytes.is_power_of_two() => bytes as usize,
        _ => 4096,
    };
    // The running checksum as it stands in the file: of the header, then of each frame.
    let mut sum = (word(&header, 24), word(&header, 28));
    let header_is_whole = checksum(order, (0, 0), &header[..24]) == sum;
    let mut salts = header_is_whole.then(|| (word(&header, 16), word(&header, 20)));
    // Of the transaction at hand: whether a frame of it is bad.
    let mut bad = !header_is_whole;
    let mut frame = vec![0; FRAME_HEADER_BYTES + page_bytes];
    // Of the frame before, where it is of another life.
    let mut others: Option<(u32, u32)> = None;
    let mut at = HEADER_BYTES as u64;
    found.bytes = at;
    while read_whole(&mut log, &mut frame)? {
        at += frame.len() as u64;
        let of_frame = (word(&frame, 8), word(&frame, 12));
        let stored = (word(&frame, 16), word(&frame, 20));
        // A log is used again from its start, with other salts: behind its end stand frames of its last life.
        let ours = *salts.get_or_insert(of_frame) == of_frame;
        let said = checksum(order, checksum(order, sum, &frame[..8]), &frame[FRAME_HEADER_BYTES..]);
        let is_whole = ours && said == stored && word(&frame, 0) != 0;
        sum = stored;
        if !ours {
            // Two in a row that fit each other are no spoilt ones of ours.
            if others == Some(of_frame) && said == stored {
                break;
            }
            (bad, others) = (true, Some(of_frame));
            continue;
        }
        (others, found.bytes) = (None, at);
        bad |= !is_whole;
        found.damaged |= bad;
        let is_commit = word(&frame, 4) != 0;
        if is_commit {
            match (bad, found.damaged) {
                (true, _) => {}
                (false, false) => found.whole += 1,
                (false, true) => found.behind += 1,
            }
            bad = false;
        }
    }
    Ok(found)
}

/// False at the end of the file, also where it comes too early.
fn read_whole(log: &mut impl Read, bytes: &mut [u8]) -> Result<bool> {
    match log.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_be_bytes(word)
}

fn checksum(order: fn([u8; 4]) -> u32, (mut a, mut b): (u32, u32), bytes: &[u8]) -> (u32, u32) {
    for pair in bytes.chunks_exact(8) {
        a = a.wrapping_add(order([pair[0], pair[1], pair[2], pair[3]])).wrapping_add(b);
        b = b.wrapping_add(order([pair[4], pair[5], pair[6], pair[7]])).wrapping_add(a);
    }
    (a, b)
}

/// Writes the first `end` bytes of the log once more to where they are, cuts off what stands behind them, and syncs it.
/// Nobody else may write meanwhile. `end` is where SQLite has found the log's end: what is behind it is of no use to
/// anybody, and would be read, and told of, at each start.
///
/// After a failed fsync the kernel calls the pages clean and may drop them: they can be read for a while, and are not
/// on the disk. Written again they are dirty again, and this fsync says whether they arrive. Of the database nothing
/// has to be written again: what a checkpoint copied there stays in the log until the database is synced.
pub(super) fn write_again(log: &File, end: u64) -> Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = 0;
    while at < end {
        let wanted = (end - at).min(PIECE_BYTES as u64) as usize;
        let length = log.read_at(&mut piece[..wanted], at)?;
        if length == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        log.write_all_at(&piece[..length], at)?;
        at += length as u64;
    }
    if log.metadata()?.len() > end {
        log.set_len(end)?;
    }
    log.sync_all()
}

/// Bytes of a log of so many frames.
pub(super) fn bytes_of(frames: u64, page_bytes: u64) -> u64 {
    match frames {
        0 => 0,
        frames => HEADER_BYTES as u64 + frames * (FRAME_HEADER_BYTES as u64 + page_bytes),
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    /// The log of a database after so many transactions of two pages and more, and the bytes of a frame.
    fn log(transactions: u32) -> (Vec<u8>, usize) {
        let directory = tempfile::tempdir().unwrap();
        let conn = Connection::open(directory.path().join("x.db")).unwrap();
        conn.execute_batch(
            "PRAGMA page_size = 4096; PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0;
             CREATE TABLE t (x); INSERT INTO t VALUES (zeroblob(50000)); PRAGMA wal_checkpoint(RESTART)",
        )
        .unwrap();
        for n in 0..transactions {
            conn.execute("INSERT INTO t VALUES (zeroblob(?1))", [5000 + n]).unwrap();
        }
        (std::fs::read(directory.path().join("x.db-wal")).unwrap(), FRAME_HEADER_BYTES + 4096)
    }

    fn commits(log: &[u8], frame: usize) -> Vec<usize> {
        let starts = (HEADER_BYTES..log.len()).step_by(frame);
        starts.filter(|at| word(log, at + 4) != 0 && word(log, at + 8) == word(log, 16)).collect()
    }

    #[test]
    fn a_log_that_is_whole_is_called_so_wherever_it_ends() {
        let (log, frame) = log(10);
        let commits = commits(&log, frame);
        assert_eq!(commits.len(), 10, "the frames of before do not count");
        for end in (0..log.len()).step_by(100) {
            let whole = commits.iter().filter(|at| **at + frame <= end).count() as u64;
            let found = look(&log[..end]).unwrap();
            assert_eq!((found.whole, found.damaged, found.behind), (whole, false, 0), "{end}");
        }
    }

    /// Frames of an earlier life stand behind those of the present one, however many.
    #[test]
    fn a_log_that_was_once_long_is_read_as_far_as_it_goes_now() {
        struct Counted<'l>(&'l [u8], usize);
        impl Read for Counted<'_> {
            fn read(&mut self, into: &mut [u8]) -> Result<usize> {
                let length = self.0.read(into)?;
                self.1 += length;
                Ok(length)
            }
        }
        let directory = tempfile::tempdir().unwrap();
        let conn = Connection::open(directory.path().join("x.db")).unwrap();
        conn.execute_batch(
            "PRAGMA page_size = 4096; PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE t (x);
             INSERT INTO t VALUES (zeroblob(30000000)); PRAGMA wal_checkpoint(RESTART); INSERT INTO t VALUES (1)",
        )
        .unwrap();
        let log = std::fs::read(directory.path().join("x.db-wal")).unwrap();
        assert!(log.len() > 30_000_000);
        let mut counted = Counted(&log, 0);
        let found = look(&mut counted).unwrap();
        assert_eq!((found.whole, found.damaged, found.behind), (1, false, 0));
        assert!(found.bytes < 20_000 && counted.1 <= 2 * PIECE_BYTES, "{found:?} {}", counted.1);
    }

    #[test]
    fn what_stands_behind_the_end_is_cut_off_and_the_rest_is_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let bytes: Vec<u8> = (0..3 * PIECE_BYTES).map(|n| n as u8).collect();
        for end in [0, 1, PIECE_BYTES, PIECE_BYTES + 1, bytes.len()] {
            std::fs::write(&path, &bytes).unwrap();
            let log = File::options().read(true).write(true).open(&path).unwrap();
            write_again(&log, end as u64).unwrap();
            assert!(std::fs::read(&path).unwrap() == bytes[..end], "{end}");
            assert!(write_again(&log, end as u64 + 1).is_err(), "{end}");
        }
    }

    #[test]
    fn one_flipped_bit_is_found_and_what_stands_behind_it_is_counted() {
        let (log, frame) = log(10);
        let commits = commits(&log, frame);
        let last = commits[9] + frame;
        for at in (HEADER_BYTES..last).step_by(301) {
            let mut flipped = log.clone();
            flipped[at] ^= 0x10;
            let before = commits.iter().filter(|commit| **commit + frame <= at).count() as u64;
            let found = look(&*flipped).unwrap();
            assert_eq!(found.whole, before, "{at}");
            let behind = 9 - before;
            // The mark that ends a transaction may itself be what is flipped: then the count is one off.
            let in_frame_header = (at - HEADER_BYTES) % frame < FRAME_HEADER_BYTES;
            let off = found.behind.abs_diff(behind);
            assert!(off <= u64::from(in_frame_header), "{at}: {found:?}");
            assert!(found.damaged || behind == 0, "{at}: {found:?}");
        }
        // The header itself: recovery finds nothing at all.
        for at in 0..HEADER_BYTES {
            let mut flipped = log.clone();
            flipped[at] ^= 0x10;
            let found = look(&*flipped).unwrap();
            assert!(found.whole == 0 && found.damaged && found.behind >= 8, "{at}: {found:?}");
        }
    }

    /// Blocks reach the disk in any order: the last transaction may lack any of its frames, and was never acknowledged.
    #[test]
    fn a_last_transaction_that_is_torn_is_no_loss() {
        let (log, frame) = log(10);
        let commits = commits(&log, frame);
        for at in ((commits[8] + frame)..(commits[9] + frame)).step_by(512) {
            let mut torn = log.clone();
            torn[at..at + 512.min(commits[9] + frame - at)].fill(0x55);
            let found = look(&*torn).unwrap();
            assert_eq!((found.whole, found.behind), (9, 0), "{at}");
        }
    }
}
