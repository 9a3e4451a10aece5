//! Embeddings of the prompts seen last, so that a prompt is not encoded again for the next seed.

use candle_core::Tensor;
use lru::LruCache;

/// Keeps text streams by prompt, the least recently used making way, up to a bound on their bytes.
///
/// Negative prompts hardly ever change, and a client that tries seeds or sizes sends the same prompt
/// again: the text encoder is then the part of a short request that can be saved.
pub(crate) struct PromptCache {
    entries: LruCache<String, Tensor>,
    /// Of all entries.
    bytes: usize,
    max_bytes: usize,
}

impl PromptCache {
    /// Holds up to `max_bytes` of prompts and their embeddings; 0 keeps none.
    pub(crate) fn new(max_bytes: usize) -> Self {
        PromptCache { entries: LruCache::unbounded(), bytes: 0, max_bytes }
    }

    /// Of all prompts and embeddings that are kept.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The text stream of `prompt`, `[tokens, width]`, if it is kept.
    pub(crate) fn get(&mut self, prompt: &str) -> Option<Tensor> {
        self.entries.get(prompt).cloned()
    }

    /// Keeps `embeds` for `prompt`, unless it is larger than everything that may be kept.
    pub(crate) fn insert(&mut self, prompt: &str, embeds: &Tensor) {
        let added = size(prompt, embeds);
        if added > self.max_bytes {
            return;
        }
        if let Some(replaced) = self.entries.put(prompt.to_owned(), embeds.clone()) {
            self.bytes -= size(prompt, &replaced);
        }
        self.bytes += added;
        while self.bytes > self.max_bytes
            && let Some((prompt, embeds)) = self.entries.pop_lru()
        {
            self.bytes -= size(&prompt, &embeds);
        }
    }
}

fn size(prompt: &str, embeds: &Tensor) -> usize {
    prompt.len() + embeds.elem_count() * embeds.dtype().size_in_bytes()
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    /// The embeddings of a prompt of so many tokens, 100 bytes each.
    fn embeds(tokens: usize) -> Tensor {
        Tensor::zeros((tokens, 25), DType::F32, &Device::Cpu).unwrap()
    }

    #[test]
    fn the_least_recently_used_makes_way() {
        let mut cache = PromptCache::new(303);
        for prompt in ["a", "b", "c"] {
            cache.insert(prompt, &embeds(1));
        }
        assert_eq!(cache.bytes, 303);
        assert!(cache.get("a").is_some(), "used last");
        cache.insert("d", &embeds(1));
        let kept = ["a", "b", "c", "d"].map(|prompt| cache.get(prompt).is_some());
        assert_eq!((kept, cache.bytes), ([true, false, true, true], 303));
    }

    #[test]
    fn a_long_prompt_drives_out_several_and_a_longer_one_none() {
        let mut cache = PromptCache::new(303);
        for prompt in ["a", "b", "c"] {
            cache.insert(prompt, &embeds(1));
        }
        cache.insert("d", &embeds(4));
        assert_eq!((cache.get("d").is_none(), cache.bytes), (true, 303), "too long to keep");
        cache.insert("d", &embeds(2));
        assert_eq!((cache.get("b").is_none(), cache.get("c").is_some(), cache.bytes), (true, true, 302));
        cache.insert("c", &embeds(1));
        assert_eq!(cache.bytes, 302, "the same prompt again");
    }
}
