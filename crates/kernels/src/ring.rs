//! Which layer lies in which of a list's places on the device: decided in plain numbers.
//!
//! Layers run in order, and after the last comes the first again, in the next step. A step that reuses residuals leaves
//! layers out; what was fetched for it in vain is overwritten.

/// Where the layers of a list are.
#[derive(Debug)]
pub(crate) struct Ring {
    num_layers: usize,
    /// The layer in each place: it is there, or on its way.
    held: Vec<Option<usize>>,
    /// The place that was used last.
    last: usize,
}

/// What to do for one layer's turn, in this order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Where the layer runs.
    pub(crate) place: usize,
    /// Whether it has to be fetched first.
    pub(crate) is_fetched: bool,
    /// What to fetch meanwhile: a layer, into a place.
    pub(crate) ahead: Option<(usize, usize)>,
}

impl Ring {
    /// Of so many layers, of which the first lie in the places.
    pub(crate) fn new(num_layers: usize, num_places: usize) -> Self {
        Ring { num_layers, held: (0..num_places).map(Some).collect(), last: 0 }
    }

    /// The turn of `layer`.
    pub(crate) fn turn(&mut self, layer: usize) -> Turn {
        let found = self.held.iter().position(|held| *held == Some(layer));
        let place = found.unwrap_or_else(|| self.other(self.last));
        self.held[place] = Some(layer);
        self.last = place;
        let (next, other) = ((layer + 1) % self.num_layers, self.other(place));
        let is_wanted = other != place && !self.held.contains(&Some(next));
        if is_wanted {
            self.held[other] = Some(next);
        }
        Turn { place, is_fetched: found.is_none(), ahead: is_wanted.then_some((next, other)) }
    }

    /// Nothing is known of what lies where: a copy could not be queued.
    pub(crate) fn forget(&mut self) {
        self.held.fill(None);
    }

    /// The other one of two places; the same where there is one.
    fn other(&self, place: usize) -> usize {
        (place + 1) % self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fetches in a row: of each turn what had to be waited for, and what was fetched ahead.
    fn fetches(ring: &mut Ring, layers: impl IntoIterator<Item = usize>) -> (Vec<usize>, Vec<usize>) {
        let (mut waited, mut ahead) = (Vec::new(), Vec::new());
        for layer in layers {
            let turn = ring.turn(layer);
            waited.extend(turn.is_fetched.then_some(layer));
            ahead.extend(turn.ahead.map(|(layer, _)| layer));
            assert_ne!(Some(turn.place), turn.ahead.map(|(_, place)| place), "the layer that runs stays");
        }
        (waited, ahead)
    }

    #[test]
    fn whole_steps_never_wait_for_a_layer() {
        for num_layers in 3..7 {
            let mut ring = Ring::new(num_layers, 2);
            let first = fetches(&mut ring, 0..num_layers);
            // The second was there from the start.
            assert_eq!(first, (vec![], (2..num_layers).chain([0]).collect()), "{num_layers}");
            let second = fetches(&mut ring, 0..num_layers);
            assert_eq!(second, (vec![], (1..num_layers).chain([0]).collect()), "{num_layers}");
        }
    }

    #[test]
    fn a_list_that_fits_is_never_fetched() {
        for num_layers in 1..3 {
            let mut ring = Ring::new(num_layers, num_layers);
            assert_eq!(fetches(&mut ring, (0..num_layers).cycle().take(10)), (vec![], vec![]));
        }
    }

    #[test]
    fn reused_steps_fetch_the_first_layer_once() {
        let mut ring = Ring::new(6, 2);
        fetches(&mut ring, 0..6);
        // Only the first runs: the second is fetched once, in case it is wanted.
        assert_eq!(fetches(&mut ring, [0, 0, 0]), (vec![], vec![1]));
        assert_eq!(fetches(&mut ring, 0..6), (vec![], vec![2, 3, 4, 5, 0]));
    }

    #[test]
    fn layers_behind_those_left_out_are_waited_for() {
        let mut ring = Ring::new(6, 2);
        // The first, which comes next, is still there.
        assert_eq!(fetches(&mut ring, [0, 5]), (vec![5], vec![]));
        assert_eq!(fetches(&mut ring, [0, 5]), (vec![5], vec![1]));
    }

    #[test]
    fn nothing_is_trusted_after_a_failure() {
        let mut ring = Ring::new(3, 2);
        ring.forget();
        assert_eq!(ring.turn(0), Turn { place: 1, is_fetched: true, ahead: Some((1, 0)) });
    }
}
