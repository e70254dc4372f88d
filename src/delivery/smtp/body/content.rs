//! The content of a message for sending: in the pieces in which the queue keeps it, or in smaller ones. Before it may
//! go what stands not in the queue: signatures. The first piece of the queue can be looked at before anything is sent.

use std::borrow::Cow;
use std::io;

/// Gives one piece of the content at each call, none at its end. Pieces in memory are borrowed, others owned.
pub type Content<'s, 'c> = &'s mut dyn FnMut() -> io::Result<Option<Cow<'c, [u8]>>>;

/// Content, and how much of it was taken.
pub(in crate::delivery) struct Pieces<'s, 'c> {
    /// What goes before the content, as far as it was not taken.
    prefix: &'s [u8],
    content: Content<'s, 'c>,
    /// The current piece, and how many of its bytes were taken.
    piece: Option<Cow<'c, [u8]>>,
    taken: usize,
}

impl<'s, 'c> Pieces<'s, 'c> {
    /// Reads nothing yet.
    pub(in crate::delivery) fn new(prefix: &'s [u8], content: Content<'s, 'c>) -> Pieces<'s, 'c> {
        Pieces { prefix, content, piece: None, taken: 0 }
    }

    /// The first piece of the queue, which [`Pieces::next`] gives again; empty without content.
    ///
    /// # Errors
    /// The content cannot be read.
    pub(in crate::delivery) fn first(&mut self) -> io::Result<&[u8]> {
        if self.piece.is_none() {
            self.piece = (self.content)()?;
        }
        Ok(self.piece.as_deref().unwrap_or_default())
    }

    /// The next piece, or the first `bytes_max` bytes of what is left of it; none at the end of the content.
    ///
    /// # Errors
    /// The content cannot be read.
    pub(in crate::delivery) fn next(&mut self, bytes_max: u64) -> io::Result<Option<&[u8]>> {
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        if !self.prefix.is_empty() {
            let (now, later) = self.prefix.split_at(self.prefix.len().min(bytes_max));
            self.prefix = later;
            return Ok(Some(now));
        }
        while self.piece.as_ref().is_none_or(|piece| self.taken == piece.len()) {
            self.taken = 0;
            self.piece = (self.content)()?;
            if self.piece.is_none() {
                return Ok(None);
            }
        }
        let Some(piece) = &self.piece else { return Ok(None) };
        let from = self.taken;
        self.taken = piece.len().min(from.saturating_add(bytes_max));
        Ok(Some(&piece[from..self.taken]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_cut_where_that_is_wanted_and_nothing_is_lost() {
        let mut left = [&b"abcdef"[..], b"", b"gh"].into_iter();
        let mut content = || Ok(left.next().map(Cow::Borrowed));
        let mut pieces = Pieces::new(b"", &mut content);
        assert_eq!(pieces.first().unwrap(), b"abcdef");
        let got: Vec<_> =
            [4, 4, 9, 9].map(|most| pieces.next(most).unwrap().map(<[u8]>::to_vec)).into_iter().collect();
        assert_eq!(got, [Some(b"abcd".to_vec()), Some(b"ef".to_vec()), Some(b"gh".to_vec()), None]);
    }

    #[test]
    fn what_goes_before_the_content_is_cut_as_well_and_is_not_its_first_piece() {
        let mut left = [&b"abc"[..]].into_iter();
        let mut content = || Ok(left.next().map(Cow::Borrowed));
        let mut pieces = Pieces::new(b"12345", &mut content);
        assert_eq!(pieces.first().unwrap(), b"abc");
        let got: Vec<_> = [2, 9, 2, 9, 9].map(|most| pieces.next(most).unwrap().map(<[u8]>::to_vec)).to_vec();
        let wanted = [&b"12"[..], b"345", b"ab", b"c"].map(|piece| Some(piece.to_vec()));
        assert_eq!((&got[..4], &got[4]), (&wanted[..], &None));
    }

    #[test]
    fn a_piece_that_cannot_be_read_is_an_error() {
        let mut content = || Err(io::Error::other("disk on fire"));
        assert!(Pieces::new(b"", &mut content).first().is_err());
        assert!(Pieces::new(b"", &mut content).next(9).is_err());
    }
}
