//! Selects the layers of a network that stay on the device, while the others are streamed from host memory.

/// `count` of a network's layers, evenly spread, so that the next streamed layer is copied while a resident one
/// computes. The first layer is always resident, because it also runs in reused steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Residents {
    /// Number of resident layers.
    pub count: usize,
    /// Number of layers in total.
    pub of: usize,
}

impl Residents {
    /// Whether layer `index` is resident.
    pub fn have(self, index: usize) -> bool {
        self.count > 0 && index * self.count % self.of < self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_there_are_to_be_are_evenly_spread_from_the_first_on() {
        for of in 1..70 {
            for count in 0..=of {
                let residents = Residents { count, of };
                let chosen: Vec<_> = (0..of).filter(|index| residents.have(*index)).collect();
                assert_eq!(chosen.len(), count, "of {of}");
                assert!(count == 0 || chosen[0] == 0, "{chosen:?}");
                let gaps = chosen.iter().zip(chosen.iter().skip(1).chain([&of])).map(|(one, next)| next - one);
                let (least, most) = gaps.fold((usize::MAX, 0), |(least, most), gap| (least.min(gap), most.max(gap)));
                assert!(count == 0 || most - least <= 1, "{chosen:?} of {of}");
            }
        }
    }

    #[test]
    fn of_no_layers_none_is_resident() {
        assert!(!Residents::default().have(3));
    }
}
