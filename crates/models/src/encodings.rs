//! A cache of recent prompt and picture encodings, which saves the encoders when a client sends them again.

use candle_core::Tensor;
use diffusion::{EncodingsUse, ImageSize, Lookups};
use lru::LruCache;

use crate::Result;

/// LRU cache of encodings, bounded by their total bytes.
///
/// Clients rarely change the negative prompt, repeat a prompt with other seeds or sizes, and edit the same picture
/// several times. In a short request the encoders are the part that a cache can save.
pub(crate) struct Encodings {
    entries: LruCache<Key, Encoding>,
    /// Total bytes of all entries.
    bytes: usize,
    max_bytes: usize,
}

/// The input of an encoder.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    /// A prompt, with the digests of the pictures that the text encoder saw beside it.
    Prompt { text: String, pictures: Vec<[u8; 32]> },
    /// A picture, encoded by the text encoder.
    Vision([u8; 32]),
    /// A picture's VAE latents at a size.
    Reference([u8; 32], ImageSize),
}

/// Encoded tokens and their grid.
#[derive(Clone, Debug)]
pub(crate) struct Encoding {
    /// `[tokens, width]`
    pub(crate) tokens: Tensor,
    /// Rows and columns of the picture's patches. A text is a single row.
    pub(crate) grid: (usize, usize),
}

impl Encodings {
    /// Creates a cache of at most `max_bytes` of keys and encodings; 0 keeps none.
    pub(crate) fn new(max_bytes: usize) -> Self {
        Encodings { entries: LruCache::unbounded(), bytes: 0, max_bytes }
    }

    /// Returns the total bytes of all entries.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the encoding of `key` if it is cached, and counts the hit or miss in `used`.
    pub(crate) fn get(&mut self, key: &Key, used: &mut EncodingsUse) -> Option<Encoding> {
        let kept = self.entries.get(key).cloned();
        let lookups: &mut Lookups = match key {
            Key::Prompt { .. } => &mut used.prompts,
            Key::Vision(_) => &mut used.vision,
            Key::Reference(..) => &mut used.references,
        };
        match kept {
            Some(_) => lookups.hits += 1,
            None => lookups.misses += 1,
        }
        kept
    }

    /// Caches `encoding`, unless it alone exceeds the bound.
    pub(crate) fn insert(&mut self, key: Key, encoding: &Encoding) {
        let added = size(&key, encoding);
        if added > self.max_bytes {
            return;
        }
        if let Some((key, replaced)) = self.entries.push(key, encoding.clone()) {
            self.bytes -= size(&key, &replaced);
        }
        self.bytes += added;
        while self.bytes > self.max_bytes
            && let Some((key, encoding)) = self.entries.pop_lru()
        {
            self.bytes -= size(&key, &encoding);
        }
    }

    /// Returns the encoding of `key`, calling `encode` on a miss. `work` is the number of operations that a miss costs.
    pub(crate) fn get_or<E>(
        &mut self,
        key: Key,
        used: &mut EncodingsUse,
        work: f64,
        encode: impl FnOnce() -> Result<Encoding, E>,
    ) -> Result<Encoding, E> {
        if let Some(kept) = self.get(&key, used) {
            return Ok(kept);
        }
        let encoding = encode()?;
        used.work += work;
        self.insert(key, &encoding);
        Ok(encoding)
    }
}

fn size(key: &Key, encoding: &Encoding) -> usize {
    let key = match key {
        Key::Prompt { text, pictures } => text.len() + pictures.len() * size_of::<[u8; 32]>(),
        Key::Vision(digest) | Key::Reference(digest, _) => digest.len(),
    };
    key + encoding.tokens.elem_count() * encoding.tokens.dtype().size_in_bytes()
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    fn prompt(text: &str) -> Key {
        Key::Prompt { text: text.into(), pictures: Vec::new() }
    }

    /// An encoding of the given number of tokens, 100 bytes each.
    fn encoding(tokens: usize) -> Encoding {
        Encoding { tokens: Tensor::zeros((tokens, 25), DType::F32, &Device::Cpu).unwrap(), grid: (1, tokens) }
    }

    fn keeps(encodings: &mut Encodings, key: &Key) -> bool {
        encodings.get(key, &mut EncodingsUse::default()).is_some()
    }

    #[test]
    fn the_least_recently_used_makes_way() {
        let mut encodings = Encodings::new(303);
        for text in ["a", "b", "c"] {
            encodings.insert(prompt(text), &encoding(1));
        }
        assert_eq!(encodings.bytes, 303);
        assert!(keeps(&mut encodings, &prompt("a")), "used last");
        encodings.insert(prompt("d"), &encoding(1));
        let kept = ["a", "b", "c", "d"].map(|text| keeps(&mut encodings, &prompt(text)));
        assert_eq!((kept, encodings.bytes), ([true, false, true, true], 303));
    }

    #[test]
    fn a_long_one_drives_out_several_and_a_longer_one_none() {
        let mut encodings = Encodings::new(303);
        for text in ["a", "b", "c"] {
            encodings.insert(prompt(text), &encoding(1));
        }
        encodings.insert(prompt("d"), &encoding(4));
        assert_eq!((keeps(&mut encodings, &prompt("d")), encodings.bytes), (false, 303), "too long to keep");
        encodings.insert(prompt("d"), &encoding(2));
        let kept = ["b", "c"].map(|text| keeps(&mut encodings, &prompt(text)));
        assert_eq!((kept, encodings.bytes), ([false, true], 302));
        encodings.insert(prompt("c"), &encoding(1));
        assert_eq!(encodings.bytes, 302, "the same prompt again");
    }

    #[test]
    fn kinds_share_one_bound_and_are_counted_apart() {
        let mut encodings = Encodings::new(1000);
        let mut used = EncodingsUse::default();
        let size = ImageSize { width: 16, height: 16 };
        let seen_with = Key::Prompt { text: "a".into(), pictures: vec![[1; 32]] };
        let keys = [prompt("a"), seen_with, Key::Vision([1; 32]), Key::Reference([1; 32], size)];
        for _ in 0..2 {
            for key in &keys {
                let made = encodings.get_or(key.clone(), &mut used, 7.0, || Ok::<_, ()>(encoding(1))).unwrap();
                assert_eq!(made.grid, (1, 1));
            }
        }
        assert_eq!(used.prompts, Lookups { hits: 2, misses: 2 }, "with and without a picture are two prompts");
        assert_eq!((used.vision, used.references), (Lookups { hits: 1, misses: 1 }, Lookups { hits: 1, misses: 1 }));
        assert_eq!(encodings.bytes(), 4 * 100 + 2 + 3 * 32);
        assert_eq!(used.work, 4.0 * 7.0, "what is kept takes no work");
    }
}
