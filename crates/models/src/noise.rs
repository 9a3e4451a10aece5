//! Initial noise from a seed, equal number by number to torch's CPU `randn`.
//!
//! The same seed therefore gives the same picture as diffusers with a CPU generator, alone and in a batch. Torch makes
//! 16 normals at a time from 16 uniforms by Box-Muller:
//! <https://github.com/pytorch/pytorch/blob/v2.7.0/aten/src/ATen/native/cpu/DistributionTemplates.h#L113>

use std::f64::consts::PI;

/// Returns `n` standard normals, as `torch.randn(n, generator=torch.Generator("cpu").manual_seed(seed))` draws them.
pub fn randn(seed: u64, n: usize) -> Vec<f32> {
    let mut generator = Mt19937::new(seed as u32);
    if n < BLOCK {
        return scalar_normals(&mut generator, n);
    }
    let mut values: Vec<f32> = (0..n).map(|_| generator.uniform_f32()).collect();
    for block in values.chunks_exact_mut(BLOCK) {
        box_muller(block.try_into().expect("chunks of 16. This is a bug."));
    }
    if !n.is_multiple_of(BLOCK) {
        // The tail overlaps the last whole block and is redrawn, as in torch.
        let tail: &mut [f32; BLOCK] = (&mut values[n - BLOCK..]).try_into().expect("the last 16. This is a bug.");
        tail.fill_with(|| generator.uniform_f32());
        box_muller(tail);
    }
    values
}

const BLOCK: usize = 16;

/// Turns 16 uniforms into 16 normals in place.
fn box_muller(block: &mut [f32; BLOCK]) {
    for j in 0..BLOCK / 2 {
        let u1 = 1.0 - block[j];
        let radius = (-2.0 * u1.ln()).sqrt();
        let theta = 2.0 * std::f32::consts::PI * block[j + BLOCK / 2];
        block[j] = radius * theta.cos();
        block[j + BLOCK / 2] = radius * theta.sin();
    }
}

/// Torch's path for fewer than 16 numbers: pairs in f64, the second kept for the next call.
fn scalar_normals(generator: &mut Mt19937, n: usize) -> Vec<f32> {
    let mut normals = Vec::with_capacity(n + 1);
    while normals.len() < n {
        let (u1, u2) = (generator.uniform_f64(), generator.uniform_f64());
        let radius = (-2.0 * (-u2).ln_1p()).sqrt();
        let theta = 2.0 * PI * u1;
        normals.extend([(radius * theta.cos()) as f32, (radius * theta.sin()) as f32]);
    }
    normals.truncate(n);
    normals
}

/// The Mersenne Twister of Matsumoto and Nishimura (1998), seeded by a 32-bit number.
///
/// Written here because crates such as `rand_mt` give only the 32-bit outputs: the four lines that twist the state are
/// fewer than an adapter would need.
struct Mt19937 {
    state: [u32; Self::N],
    next: usize,
}

impl Mt19937 {
    const N: usize = 624;
    const M: usize = 397;

    fn new(seed: u32) -> Self {
        let mut state = [seed; Self::N];
        for i in 1..Self::N {
            let previous = state[i - 1];
            state[i] = 1_812_433_253_u32.wrapping_mul(previous ^ (previous >> 30)).wrapping_add(i as u32);
        }
        Mt19937 { state, next: Self::N }
    }

    fn next_u32(&mut self) -> u32 {
        if self.next == Self::N {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn twist(&mut self) {
        for i in 0..Self::N {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % Self::N] & 0x7fff_ffff);
            let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + Self::M) % Self::N] ^ (y >> 1) ^ odd;
        }
        self.next = 0;
    }

    /// 24 random bits in [0, 1).
    fn uniform_f32(&mut self) -> f32 {
        (self.next_u32() & 0x00ff_ffff) as f32 * (1.0 / (1 << 24) as f32)
    }

    /// 53 random bits in [0, 1); the first number drawn is the high half.
    fn uniform_f64(&mut self) -> f64 {
        let bits = (u64::from(self.next_u32()) << 32) | u64::from(self.next_u32());
        (bits & ((1 << 53) - 1)) as f64 * (1.0 / (1_u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_the_published_one() {
        // std::mt19937's 10,000th output from the default seed, fixed by the C++ standard.
        let mut generator = Mt19937::new(5489);
        let last = (0..10_000).map(|_| generator.next_u32()).last();
        assert_eq!(last, Some(4_123_659_995));
    }

    #[test]
    fn a_seed_counts_its_low_32_bits() {
        assert_eq!(randn(7, 20), randn(7 + (1 << 32), 20));
        assert_ne!(randn(7, 20), randn(8, 20));
    }
}
