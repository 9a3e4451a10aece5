//! Placement of a model: all of it on the device, or parts in host memory that are copied to the device when needed. It
//! is decided from byte counts alone, before anything is loaded.

use std::collections::BTreeMap;
use std::fmt;

use bytesize::ByteSize;
use diffusion::{GuidanceKind, ModelCard};

use crate::component_bytes::ComponentBytes;
use crate::kept_bytes::KeptBytes;
use crate::peaks::Peaks;
use crate::residents::Residents;
use crate::vae_half::VaeHalf;

/// The parts that stay in host memory. diffusers calls block offloading *group offloading* with a stream, and vllm-omni
/// layerwise offloading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Offload {
    /// Nothing.
    #[default]
    None,
    /// The text encoder's layers and token embeddings.
    Encoder,
    /// The text encoder's part, and the transformer's blocks that do not fit on the device.
    Block,
}

impl Offload {
    /// All choices, from the fastest to the one that needs the least device memory.
    pub const ALL: [Offload; 3] = [Offload::None, Offload::Encoder, Offload::Block];

    /// Returns the name used by the command line flag.
    pub fn name(self) -> &'static str {
        match self {
            Offload::None => "none",
            Offload::Encoder => "encoder",
            Offload::Block => "block",
        }
    }
}

const TRANSFORMER: &str = "transformer";

/// Bytes of a model's components, and of the activations of a picture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelBytes {
    /// The text encoder.
    pub text_encoder: ComponentBytes,
    /// The diffusion transformer.
    pub transformer: ComponentBytes,
    /// The VAE.
    pub vae: ComponentBytes,
    /// Peak bytes of the stages for a picture of the default size.
    pub activations: u64,
}

/// Placement of a model's parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The choice that the placement follows.
    pub offload: Offload,
    /// With [`Offload::Block`], the transformer's blocks that stay on the device.
    pub residents: Residents,
    /// Text encoder, transformer and VAE.
    pub parts: [Part; 3],
    /// Peak bytes on the device of the stages for a picture of the default size.
    pub activations: u64,
}

/// Placement of one component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Name for messages.
    pub name: &'static str,
    /// Bytes that stay on the device.
    pub device: u64,
    /// Bytes in host memory.
    pub host: u64,
}

impl Part {
    fn resident(name: &'static str, bytes: &ComponentBytes) -> Self {
        Part { name, device: bytes.all, host: 0 }
    }

    /// The device holds buffers for two layers of each kind, beside the `residents`.
    fn streamed(name: &'static str, bytes: &ComponentBytes, residents: Residents) -> Self {
        const PLACES: usize = 2;
        let (mut host, mut places) = (bytes.tables, 0);
        let mut of_kind: BTreeMap<usize, usize> = BTreeMap::new();
        for (index, layer) in bytes.layers.iter().enumerate() {
            if residents.have(index) {
                continue;
            }
            host += layer.bytes;
            let taken = of_kind.entry(layer.kind).or_default();
            if *taken < PLACES {
                (*taken, places) = (*taken + 1, places + layer.bytes);
            }
        }
        Part { name, device: bytes.all - host + places, host }
    }
}

impl Placement {
    /// Returns the placement with `offload` that needs the least device memory.
    pub fn new(offload: Offload, bytes: &ModelBytes) -> Self {
        Placement::with_residents(offload, bytes, 0)
    }

    /// Returns the placement with `offload` that keeps as many of the transformer's blocks on the device as fit, with
    /// all other parts, into `room` bytes.
    pub fn within(offload: Offload, bytes: &ModelBytes, room: u64) -> Self {
        let most = if offload == Offload::Block { bytes.transformer.layers.len() } else { 0 };
        let placements = (0..=most).rev().map(|count| Placement::with_residents(offload, bytes, count));
        let fitting = { placements }.find(|placement| placement.device_bytes() <= room);
        fitting.unwrap_or_else(|| Placement::new(offload, bytes))
    }

    fn with_residents(offload: Offload, bytes: &ModelBytes, count: usize) -> Self {
        let part = |name, bytes, streamed: Option<Residents>| match streamed {
            Some(residents) => Part::streamed(name, bytes, residents),
            None => Part::resident(name, bytes),
        };
        let none = (offload >= Offload::Encoder).then_some(Residents::default());
        let residents = Residents { count, of: bytes.transformer.layers.len() };
        let parts = [
            part("text encoder", &bytes.text_encoder, none),
            part(TRANSFORMER, &bytes.transformer, (offload >= Offload::Block).then_some(residents)),
            Part::resident("VAE", &bytes.vae),
        ];
        Placement { offload, residents, parts, activations: bytes.activations }
    }

    /// Returns the fastest placement whose weights fit, with a picture of the default size, into `free` bytes of the
    /// device.
    pub fn that_fits(bytes: &ModelBytes, free: u64) -> Option<Self> {
        Offload::ALL
            .map(|offload| Placement::new(offload, bytes))
            .into_iter()
            .find(|placement| placement.device_bytes().saturating_add(placement.activations) <= free)
    }

    /// Returns the bytes of weights on the device.
    pub fn device_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.device).sum()
    }

    /// Returns the bytes of weights in host memory.
    pub fn host_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.host).sum()
    }
}

impl fmt::Display for Placement {
    /// `text encoder 15.5 GiB on the host and 890.0 MiB on the device, transformer 38.0 GiB, VAE 242.0 MiB, a picture 3.1 GiB`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Part { name, device, host } in self.parts {
            match host {
                0 => write!(f, "{name} {}", ByteSize::b(device))?,
                _ => write!(f, "{name} {} on the host and {} on the device", ByteSize::b(host), ByteSize::b(device))?,
            }
            if name == TRANSFORMER && self.offload == Offload::Block {
                let Residents { count, of } = self.residents;
                write!(f, " with {count} of {of} blocks")?;
            }
            f.write_str(", ")?;
        }
        write!(f, "a picture {}", ByteSize::b(self.activations))
    }
}

/// Bytes of a GPU that neither weights nor requests use: cuBLASLt's workspace, and kernels that are loaded at their
/// first launch.
pub const BESIDE_WEIGHTS: u64 = 128 << 20;

/// Bytes of the device reserved for requests: the operator's budget, or by default two pictures of the default size and
/// the caches.
pub fn reserved(bytes: &ModelBytes, memory_budget: Option<u64>) -> u64 {
    let usual = bytes.activations.saturating_mul(2).saturating_add(KeptBytes::default().all());
    memory_budget.unwrap_or(usual).saturating_add(BESIDE_WEIGHTS)
}

/// Peak bytes of a picture's stages, for the default size, a prompt of the greatest length and the fewest pictures to
/// edit that the model requires.
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
    use crate::component_bytes::LayerSize;

    const GB: u64 = 1_000_000_000;

    fn layers(kind: usize, count: u64, all: u64) -> Vec<LayerSize> {
        vec![LayerSize { kind, bytes: all / count }; count as usize]
    }

    /// Approximate sizes of Qwen-Image in bf16: 28 layers, 60 blocks.
    fn qwen_image() -> ModelBytes {
        ModelBytes {
            text_encoder: ComponentBytes { all: 14 * GB + GB, layers: layers(0, 28, 14 * GB), tables: GB },
            transformer: ComponentBytes { all: 41 * GB, layers: layers(0, 60, 39 * GB), tables: 0 },
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
        // 1 GB for the text encoder's layers, 2 + 1.3 GB for the transformer.
        assert_eq!(bytes(Offload::Block), (455, 5400));
    }

    #[test]
    fn whatever_is_chosen_no_byte_is_lost_and_lists_of_two_stay() {
        let pair = ComponentBytes { all: 10, layers: layers(0, 2, 6), tables: 1 };
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
    fn blocks_stay_on_the_device_as_far_as_there_is_room() {
        let within = |offload, room| Placement::within(offload, &qwen_image(), room);
        // 3.25 GB without the transformer's blocks. A block takes 0.65 GB, and there are buffers for two.
        for (room, count) in
            [(0, 0), (4_549, 0), (5_199, 0), (5_200, 1), (16_000, 17), (41_599, 56), (41_600, 57), (42_250, 60)]
        {
            let placement = within(Offload::Block, room * GB / 1000);
            assert_eq!(placement.residents, Residents { count, of: 60 }, "{room}");
            assert!(count == 0 || placement.device_bytes() <= room * GB / 1000, "{room}: {placement}");
        }
        // 58 resident blocks would need as much memory as 60, since the other two would fill both buffers.
        assert_eq!(within(Offload::Block, 42 * GB).residents.count, 57);
        assert_eq!(within(Offload::Block, u64::MAX).host_bytes(), within(Offload::Encoder, 0).host_bytes());
        assert_eq!(within(Offload::None, 0), Placement::new(Offload::None, &qwen_image()));
    }

    #[test]
    fn each_resident_block_takes_its_own_bytes_of_the_device_and_none_of_the_host() {
        // Three kinds: two lists, and the first block, which fp8 leaves unquantized.
        let kinds = [layers(0, 1, 9), layers(1, 4, 12), layers(2, 8, 16)];
        let transformer = ComponentBytes { all: 40, layers: kinds.concat(), tables: 0 };
        let model = ModelBytes { transformer, ..ModelBytes::default() };
        let placements = (0..=13).map(|count| Placement::with_residents(Offload::Block, &model, count));
        for (count, placement) in placements.enumerate() {
            let layers = &model.transformer.layers;
            let streamed = || layers.iter().enumerate().filter(|(index, _)| !placement.residents.have(*index));
            assert_eq!(streamed().count(), 13 - count);
            assert_eq!(placement.host_bytes(), streamed().map(|(_, layer)| layer.bytes).sum::<u64>(), "{count}");
            let places: u64 = (0..3)
                .map(|kind| {
                    streamed().filter(|(_, layer)| layer.kind == kind).take(2).map(|(_, l)| l.bytes).sum::<u64>()
                })
                .sum();
            assert_eq!(placement.device_bytes(), 40 - placement.host_bytes() + places, "{count}");
        }
    }

    #[test]
    fn requests_are_left_what_they_may_take_or_two_pictures() {
        assert_eq!(reserved(&qwen_image(), None), 6 * GB + KeptBytes::default().all() + BESIDE_WEIGHTS);
        assert_eq!(reserved(&qwen_image(), Some(16 * GB)), 16 * GB + BESIDE_WEIGHTS);
        assert_eq!(reserved(&qwen_image(), Some(u64::MAX)), u64::MAX);
    }

    #[test]
    fn the_plan_is_told_in_a_line() {
        let told = Placement::new(Offload::Encoder, &qwen_image()).to_string();
        assert_eq!(
            told,
            "text encoder 14.0 GiB on the host and 953.7 MiB on the device, transformer 38.2 GiB, VAE 238.4 MiB, \
             a picture 2.8 GiB"
        );
        let told = Placement::within(Offload::Block, &qwen_image(), 16 * GB).to_string();
        assert!(
            told.contains("transformer 26.0 GiB on the host and 13.4 GiB on the device with 17 of 60 blocks,"),
            "{told}"
        );
    }
}
