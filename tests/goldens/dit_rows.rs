//! Rows of a batch that own their tensors, and checks that hold for any transformer.

use candle_core::{Device, Tensor};
use models::{Dit, DitRow, ReferenceLatents, RequestPasses, Streams, forward, randn};

/// One transformer pass.
pub struct Row {
    pub latents: Tensor,
    pub token_grid: (usize, usize),
    pub references: Vec<ReferenceLatents>,
    pub prompt_embeds: Tensor,
    pub sigma: f32,
}

impl Row {
    /// Creates a row from the concatenated tokens of all pictures, starting with the generated one. `grids` are their
    /// rows and columns.
    pub fn new(pictures: &Tensor, grids: &[(usize, usize)], prompt_embeds: Tensor, sigma: f32) -> Self {
        let mut start = 0;
        let parts = grids.iter().map(|&token_grid| {
            let tokens = token_grid.0 * token_grid.1;
            let latents = pictures.narrow(0, start, tokens).unwrap();
            start += tokens;
            ReferenceLatents { latents, token_grid }
        });
        let mut parts: Vec<_> = parts.collect();
        assert_eq!(start, pictures.dim(0).unwrap(), "tokens of all pictures");
        let ReferenceLatents { latents, token_grid } = parts.remove(0);
        Row { latents, token_grid, references: parts, prompt_embeds, sigma }
    }

    pub fn dit_row(&self) -> DitRow<'_> {
        DitRow {
            latents: &self.latents,
            token_grid: self.token_grid,
            references: &self.references,
            prompt_embeds: &self.prompt_embeds,
            sigma: self.sigma,
            guidance: None,
        }
    }
}

/// Returns the velocity of every row of a batch without a cache.
pub fn velocities(dit: &impl Dit, rows: &[Row]) -> Vec<Tensor> {
    let passes = RequestPasses { rows: rows.iter().map(Row::dit_row).collect(), residuals: None };
    forward(dit, vec![passes]).unwrap().velocities
}

/// Checks that rows of different sizes, references and texts give the same bits together as alone, also after some rows
/// left the batch.
pub fn check_ragged_batch(dit: &impl Dit, channels: usize, text_width: usize) {
    let row = |seed, grids: &[(usize, usize)], text_len, sigma| {
        let tokens = grids.iter().map(|(rows, columns)| rows * columns).sum();
        Row::new(&random(seed, tokens, channels), grids, random(seed + 1, text_len, text_width), sigma)
    };
    let rows =
        [row(10, &[(5, 7), (6, 8), (3, 2)], 33, 0.7), row(20, &[(4, 4)], 9, 0.2), row(30, &[(2, 9), (8, 6)], 64, 1.0)];
    let together = velocities(dit, &rows);
    for (i, row) in rows.iter().enumerate() {
        let alone = velocities(dit, std::slice::from_ref(row));
        assert_eq!(numbers(&together[i]), numbers(&alone[0]), "row {i}");
    }

    let (streams, context) = dit.begin(&rows.each_ref().map(Row::dit_row)).unwrap();
    let left = [2, 0];
    let context = dit.select(&context, &left).unwrap();
    let (hidden, encoder) = dit.layouts(0, &context);
    let lengths = |of: &kernels::RowLayout| of.iter().map(|tokens| tokens.len()).collect::<Vec<_>>();
    let alone = dit.begin(&left.map(|i| rows[i].dit_row())).unwrap();
    let (alone_hidden, alone_encoder) = dit.layouts(0, &alone.1);
    assert_eq!((lengths(hidden), lengths(encoder)), (lengths(alone_hidden), lengths(alone_encoder)));
    assert!(streams.hidden_states.dim(0).unwrap() > alone.0.hidden_states.dim(0).unwrap());
    for (i, velocity) in run(dit, alone.0, &context).iter().enumerate() {
        assert_eq!(numbers(velocity), numbers(&together[left[i]]), "row {} of those left", left[i]);
    }
}

/// Runs all blocks of all segments, then the end.
fn run<D: Dit>(dit: &D, mut streams: Streams, context: &D::Context) -> Vec<Tensor> {
    for (segment, blocks) in dit.segments().iter().enumerate() {
        streams = dit.enter(segment, streams, context).unwrap();
        for index in 0..blocks.num_blocks {
            streams = dit.block(segment, index, &streams, context).unwrap();
        }
    }
    dit.end(&streams, context).unwrap()
}

fn random(seed: u64, rows: usize, columns: usize) -> Tensor {
    Tensor::from_vec(randn(seed, rows * columns), (rows, columns), &Device::Cpu).unwrap()
}

fn numbers(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}
