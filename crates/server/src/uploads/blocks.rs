//! Storage for the bytes of a body while it arrives.

use std::collections::VecDeque;
use std::io::{self, Read};

/// A body in blocks: none is moved when the body grows, and each is freed once it is read.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    blocks: VecDeque<Vec<u8>>,
    /// Bytes of the first block that have been read.
    read: usize,
    len: usize,
}

/// Capacity of the first block; its memory grows with the body.
const FIRST_BLOCK: usize = 64 << 10;
/// Capacity of each later block, so large that the allocator returns it to the system (`kernels::return_memory`).
/// Memory that is never written is not resident.
const BLOCK: usize = 2 << 20;

impl Blocks {
    pub(super) fn extend(&mut self, mut piece: &[u8]) {
        self.len += piece.len();
        if self.blocks.is_empty() {
            self.blocks.push_back(Vec::new());
        }
        while !piece.is_empty() {
            let most = if self.blocks.len() == 1 { FIRST_BLOCK } else { BLOCK };
            match self.blocks.back_mut().filter(|block| block.len() < most) {
                Some(block) => {
                    let (now, later) = piece.split_at(piece.len().min(most - block.len()));
                    block.extend_from_slice(now);
                    piece = later;
                }
                None => self.blocks.push_back(Vec::with_capacity(BLOCK)),
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The whole body, if it is no longer than one block.
    pub(crate) fn in_one_piece(&self) -> Option<&[u8]> {
        match self.blocks.len() {
            0 => Some(&[]),
            1 => Some(&self.blocks[0]),
            _ => None,
        }
    }
}

impl Read for Blocks {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let Some(block) = self.blocks.front() else { return Ok(0) };
        let left = &block[self.read..];
        let count = left.len().min(to.len());
        to[..count].copy_from_slice(&left[..count]);
        self.read += count;
        if self.read == block.len() {
            self.blocks.pop_front();
            self.read = 0;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_give_back_what_came() {
        let bytes: Vec<u8> = (0..5_000_000_usize).map(|i| (i % 251) as u8).collect();
        for piece in [1000, 65_536, 70_000, 5_000_000] {
            let mut blocks = Blocks::default();
            bytes.chunks(piece).for_each(|piece| blocks.extend(piece));
            assert_eq!((blocks.len(), blocks.in_one_piece()), (bytes.len(), None), "{piece}");
            assert!(blocks.blocks.iter().all(|block| block.capacity() <= BLOCK), "{piece}");
            let mut read = Vec::new();
            blocks.read_to_end(&mut read).unwrap();
            assert!(read == bytes && blocks.blocks.is_empty(), "{piece}");
        }
        let mut small = Blocks::default();
        assert_eq!(small.in_one_piece(), Some(&[][..]));
        small.extend(b"ab");
        small.extend(b"c");
        assert_eq!(small.in_one_piece(), Some(&b"abc"[..]));
    }
}
