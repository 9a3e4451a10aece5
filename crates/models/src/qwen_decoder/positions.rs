//! Positions of a sequence's tokens on the three axes of M-RoPE.

/// Time, row and column of each token.
///
/// For text all three are equal, which makes M-RoPE plain RoPE. A model without M-RoPE uses only the first. Pictures
/// follow the rule of `get_rope_index`:
/// <https://github.com/huggingface/transformers/blob/v5.0.0/src/transformers/models/qwen2_5_vl/modeling_qwen2_5_vl.py>
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    tokens: Vec<[u32; 3]>,
    /// The position of the next text token.
    next: u32,
}

impl Positions {
    /// Creates the positions `0..tokens`, the same on every axis.
    pub fn sequential(tokens: usize) -> Self {
        let mut positions = Positions::default();
        positions.push_text(tokens);
        positions
    }

    /// Appends text. Each token advances by one on every axis.
    pub fn push_text(&mut self, tokens: usize) {
        let end = self.next + tokens as u32;
        self.tokens.extend((self.next..end).map(|position| [position; 3]));
        self.next = end;
    }

    /// Appends a picture of `rows` x `columns` tokens: a single time, with rows and columns counted from the current
    /// position. The next token is placed past the picture's longer side.
    pub fn push_picture(&mut self, rows: usize, columns: usize) {
        let start = self.next;
        let cells = (0..rows as u32).flat_map(|row| (0..columns as u32).map(move |column| (row, column)));
        self.tokens.extend(cells.map(|(row, column)| [start, start + row, start + column]));
        self.next += rows.max(columns) as u32;
    }

    /// Returns `[time, row, column]` of each token.
    pub fn tokens(&self) -> &[[u32; 3]] {
        &self.tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_takes_as_many_positions_as_its_longer_side() {
        let mut positions = Positions::sequential(2);
        positions.push_picture(2, 3);
        positions.push_text(1);
        let picture = [[2, 2, 2], [2, 2, 3], [2, 2, 4], [2, 3, 2], [2, 3, 3], [2, 3, 4]];
        assert_eq!(positions.tokens(), [[[0; 3], [1; 3]].as_slice(), &picture, &[[5; 3]]].concat());
    }
}
