//! Positions of patches, and the windows in which they attend.
//!
//! Port of `get_vision_position_ids` and `get_vision_window_index`:
//! <https://github.com/huggingface/transformers/blob/v5.0.0/src/transformers/models/qwen2_5_vl/modeling_qwen2_5_vl.py>

use kernels::RowLayout;

use super::config::VisionConfig;

/// Rows and columns of a picture's patches, both multiples of the merge size.
pub type Grid = (usize, usize);

/// The order of the patches of one or more pictures. The processor returns them in *block order*: the pictures one
/// after another, in each the blocks row by row, and in each block its patches row by row. The tower works in *window
/// order*: in each picture the windows row by row, and in each window its blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatchLayout {
    /// Row and column of each patch in its picture, in block order.
    pub positions: Vec<[u32; 2]>,
    /// Block-order index of each block in window order.
    pub window_index: Vec<u32>,
    /// Patches of each window, in window order.
    pub windows: RowLayout,
    /// Patches of each picture.
    pub pictures: RowLayout,
}

impl PatchLayout {
    /// Lays out pictures of the given grids. Windows at the right and lower edges may be partial.
    pub fn new(config: &VisionConfig, grids: &[Grid]) -> Self {
        let (merge, window) = (config.spatial_merge_size, config.window_tokens());
        let (mut positions, mut window_index, mut window_lengths) = (Vec::new(), Vec::new(), Vec::new());
        let mut first_block = 0;
        for &(rows, columns) in grids {
            let (block_rows, block_columns) = (rows / merge, columns / merge);
            for (block_row, block_column) in cells(0..block_rows, 0..block_columns) {
                let patches =
                    cells(block_row * merge..(block_row + 1) * merge, block_column * merge..(block_column + 1) * merge);
                positions.extend(patches.map(|(row, column)| [row as u32, column as u32]));
            }
            for (window_row, window_column) in cells(0..block_rows.div_ceil(window), 0..block_columns.div_ceil(window))
            {
                let span = |i: usize, end: usize| i * window..((i + 1) * window).min(end);
                let blocks = cells(span(window_row, block_rows), span(window_column, block_columns));
                let before = window_index.len();
                window_index.extend(blocks.map(|(row, column)| (first_block + row * block_columns + column) as u32));
                window_lengths.push((window_index.len() - before) * config.merge_unit());
            }
            first_block += block_rows * block_columns;
        }
        let picture_lengths: Vec<_> = grids.iter().map(|(rows, columns)| rows * columns).collect();
        let (windows, pictures) = (RowLayout::new(&window_lengths), RowLayout::new(&picture_lengths));
        PatchLayout { positions, window_index, windows, pictures }
    }

    /// Returns the window-order index of each block in block order.
    pub fn block_index(&self) -> Vec<u32> {
        let mut block_index = vec![0; self.window_index.len()];
        for (place, &block) in self.window_index.iter().enumerate() {
            block_index[block as usize] = place as u32;
        }
        block_index
    }

    /// Returns the block-order index of each patch in window order, with `merge_unit` patches per block.
    pub fn window_patches(&self, merge_unit: usize) -> Vec<u32> {
        let merge_unit = merge_unit as u32;
        self.window_index.iter().flat_map(|block| block * merge_unit..(block + 1) * merge_unit).collect()
    }
}

/// Iterates over the cells row by row.
fn cells(rows: std::ops::Range<usize>, columns: std::ops::Range<usize>) -> impl Iterator<Item = (usize, usize)> {
    rows.flat_map(move |row| columns.clone().map(move |column| (row, column)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Windows of 2 x 2 blocks of 2 x 2 patches.
    fn config() -> VisionConfig {
        VisionConfig {
            depth: 1,
            hidden_size: 8,
            intermediate_size: 8,
            num_heads: 2,
            out_hidden_size: 8,
            in_channels: 3,
            patch_size: 14,
            temporal_patch_size: 2,
            spatial_merge_size: 2,
            window_size: 56,
            fullatt_block_indexes: vec![],
            rope_theta: 1e4,
        }
    }

    #[test]
    fn patches_stand_in_blocks() {
        let layout = PatchLayout::new(&config(), &[(2, 4), (2, 2)]);
        let block = |column| [[0, column], [0, column + 1], [1, column], [1, column + 1]];
        assert_eq!(layout.positions, [block(0), block(2), block(0)].concat());
        assert_eq!(layout.pictures, RowLayout::new(&[8, 4]));
    }

    #[test]
    fn windows_at_the_edge_are_partial() {
        // 3 x 3 blocks: windows of 2 x 2, 2 x 1, 1 x 2 and 1 x 1 blocks; then a picture of one block.
        let layout = PatchLayout::new(&config(), &[(6, 6), (2, 2)]);
        assert_eq!(layout.window_index, [0, 1, 3, 4, 2, 5, 6, 7, 8, 9]);
        assert_eq!(layout.windows, RowLayout::new(&[16, 8, 8, 4, 4]));
        assert_eq!(layout.block_index(), [0, 1, 4, 2, 3, 5, 6, 7, 8, 9]);
        assert_eq!(layout.window_patches(4)[8..16], [12, 13, 14, 15, 16, 17, 18, 19]);
    }
}
