//! What of a model lies where: all of it on the device, or parts in host memory that are carried there when their turn
//! comes. Decided from bytes alone, before anything is loaded.

use std::fmt;

use bytesize::ByteSize;
use diffusion::{GuidanceKind, ModelCard};

use crate::component_bytes::ComponentBytes;
use crate::peaks::Peaks;
use crate::vae_half::VaeHalf;

/// What stays in host memory. diffusers calls the second *group offloading* with a stream, and vllm-omni layerwise
/// offloading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Offload {
    /// Nothing.
    #[default]
    None,
    /// The text encoder's layers and token embeddings.
    Encoder,
    /// These, and the transformer's blocks.
    Block,
}

impl Offload {
    /// All, from the fastest to the one that needs least of the device.
    pub const ALL: [Offload; 3] = [Offload::None, Offload::Encoder, Offload::Block];

    /// As a flag takes it.
    pub fn name(self) -> &'static str {
        match self {
            Offload::None => "none",
            Offload::Encoder => "encoder",
            Offload::Block => "block",
        }
    }
}

/// Bytes of a model's components, and of what a picture needs beside them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelBytes {
    /// The text encoder.
    pub text_encoder: ComponentBytes,
    /// The diffusion transformer.
    pub transformer: ComponentBytes,
    /// The VAE.
    pub vae: ComponentBytes,
    /// What the stages of a picture of the default size need at most.
    pub activations: u64,
}

/// Where the parts of a model are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The choice that it follows from.
    pub offload: Offload,
    /// Text encoder, transformer and VAE.
    pub parts: [Part; 3],
    /// Bytes that the stages of a picture of the default size need on the device beside them.
    pub activations: u64,
}

/// Where one component is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// In words.
    pub name: &'static str,
    /// Bytes on the device all along.
    pub device: u64,
    /// Bytes in host memory.
    pub host: u64,
}

impl Part {
    fn resident(name: &'static str, bytes: &ComponentBytes) -> Self {
        Part { name, device: bytes.all, host: 0 }
    }

    /// Of each kind of layers the device has room for two.
    fn streamed(name: &'static str, bytes: &ComponentBytes) -> Self {
        let host = bytes.lists.iter().map(|list| list.all).sum::<u64>() + bytes.tables;
        let places: u64 = bytes.lists.iter().map(|list| list.all.min(2 * list.largest)).sum();
        Part { name, device: bytes.all - host + places, host }
    }
}

impl Placement {
    /// Where the parts are with `offload`.
    pub fn new(offload: Offload, bytes: &ModelBytes) -> Self {
        let part = |name, bytes, streamed| match streamed {
            true => Part::streamed(name, bytes),
            false => Part::resident(name, bytes),
        };
        let parts = [
            part("text encoder", &bytes.text_encoder, offload >= Offload::Encoder),
            part("transformer", &bytes.transformer, offload >= Offload::Block),
            Part::resident("VAE", &bytes.vae),
        ];
        Placement { offload, parts, activations: bytes.activations }
    }

    /// The fastest with which weights and a picture of the default size fit into `free` bytes of the device.
    pub fn that_fits(bytes: &ModelBytes, free: u64) -> Option<Self> {
        Offload::ALL
            .map(|offload| Placement::new(offload, bytes))
            .into_iter()
            .find(|placement| placement.device_bytes().saturating_add(placement.activations) <= free)
    }

    /// Bytes of weights on the device.
    pub fn device_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.device).sum()
    }

    /// Bytes of weights in host memory.
    pub fn host_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.host).sum()
    }
}

impl fmt::Display for Placement {
    /// `text encoder 15.5 GiB on the host and 890.0 MiB on the device, transformer 38.0 GiB, VAE 242.0 MiB, a picture 3.1 GiB`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Part { name, device, host } in self.parts {
            match host {
                0 => write!(f, "{name} {}, ", ByteSize::b(device))?,
                _ => write!(f, "{name} {} on the host and {} on the device, ", ByteSize::b(host), ByteSize::b(device))?,
            }
        }
        write!(f, "a picture {}", ByteSize::b(self.activations))
    }
}

/// Bytes that the stages of a picture need at most: one of the default size with a prompt of the greatest length, and as
/// many pictures to edit as there have to be.
pub(crate) fn activations(
    card: &ModelCard,
    peaks: &Peaks,
    activation_bytes: usize,
    [encoder, decoder]: [VaeHalf; 2],
) -> u64 {
    let (size, pictures) = (card.default_size, card.input_images.min_images);
    let passes = if matches!(card.guidance, GuidanceKind::TrueCfg | GuidanceKind::Cfg) { 2 } else { 1 };
    let text = card.max_prompt_tokens;
    let tokens = size.image_seq_len() * (1 + pictures) + text;
    let bytes = |numbers: usize| (numbers * activation_bytes) as u64;
    let encode = if pictures > 0 { encoder.bytes(card.edit_size.of(size)) } else { 0 };
    [bytes(text * peaks.text), bytes(passes * tokens * peaks.block), encode, decoder.bytes(size)]
        .into_iter()
        .fold(0, u64::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::component_bytes::ListBytes;

    const GB: u64 = 1_000_000_000;

    /// Qwen-Image in bf16, about: 28 layers, 60 blocks.
    fn qwen_image() -> ModelBytes {
        let list = |all, count| ListBytes { all, largest: all / count };
        ModelBytes {
            text_encoder: ComponentBytes { all: 14 * GB + GB, lists: vec![list(14 * GB, 28)], tables: GB },
            transformer: ComponentBytes { all: 41 * GB, lists: vec![list(39 * GB, 60)], tables: 0 },
            vae: ComponentBytes { all: GB / 4, ..ComponentBytes::default() },
            activations: 3 * GB,
        }
    }

    fn bytes(offload: Offload) -> (u64, u64) {
        let placement = Placement::new(offload, &qwen_image());
        (placement.device_bytes() / 10_000_000, placement.host_bytes() / 10_000_000)
    }

    #[test]
    fn parts_lie_on_the_device_or_two_layers_of_each_list_do() {
        assert_eq!(bytes(Offload::None), (5625, 0));
        assert_eq!(bytes(Offload::Encoder), (4225, 1500));
        // 1 GB of the text encoder's layers, 2 + 1.3 of the transformer.
        assert_eq!(bytes(Offload::Block), (455, 5400));
    }

    #[test]
    fn whatever_is_chosen_no_byte_is_lost_and_lists_of_two_stay() {
        let pair = ComponentBytes { all: 10, lists: vec![ListBytes { all: 6, largest: 3 }], tables: 1 };
        let model = ModelBytes { text_encoder: pair.clone(), transformer: pair, ..ModelBytes::default() };
        for offload in Offload::ALL {
            let placement = Placement::new(offload, &model);
            assert!(placement.device_bytes() + placement.host_bytes() >= 20, "{offload:?}");
            assert!(placement.device_bytes() <= 20, "{offload:?}");
        }
        assert_eq!(Placement::new(Offload::Block, &model).device_bytes(), 18, "the tables are gone");
    }

    #[test]
    fn the_fastest_that_fits_is_found() {
        let found = |free| Placement::that_fits(&qwen_image(), free * GB).map(|placement| placement.offload);
        assert_eq!(found(139), Some(Offload::None));
        assert_eq!(found(80), Some(Offload::None));
        assert_eq!(found(48), Some(Offload::Encoder));
        assert_eq!(found(24), Some(Offload::Block));
        assert_eq!(found(7), None);
    }

    #[test]
    fn the_plan_is_told_in_a_line() {
        let told = Placement::new(Offload::Encoder, &qwen_image()).to_string();
        assert_eq!(
            told,
            "text encoder 14.0 GiB on the host and 953.7 MiB on the device, transformer 38.2 GiB, VAE 238.4 MiB, \
             a picture 2.8 GiB"
        );
    }
}
