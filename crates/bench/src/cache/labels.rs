//! Placement of the points' numbers in a plot: beside their points, without overlaps.

/// A rectangle in pixels: left, top, width, height.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rect {
    pub(super) left: i32,
    pub(super) top: i32,
    pub(super) width: i32,
    pub(super) height: i32,
}

/// Size of a digit in pixels, at the drawn font size.
const DIGIT_WIDTH: i32 = 7;
const HEIGHT: i32 = 11;
/// Half the size of a point's mark, in pixels.
const MARK: i32 = 5;
/// Number of rings around a point in which its number can be placed.
const RINGS: i32 = 8;

impl Rect {
    fn overlaps(&self, other: &Rect) -> bool {
        self.left < other.left + other.width
            && other.left < self.left + self.width
            && self.top < other.top + other.height
            && other.top < self.top + self.height
    }

    fn is_within(&self, (width, height): (i32, i32)) -> bool {
        self.left >= 0 && self.top >= 0 && self.left + self.width <= width && self.top + self.height <= height
    }
}

/// A box for each numbered point, in pixels of an area of this size. It is the nearest place beside the point that is
/// free of marks and of earlier numbers. If no place is free, the number overlaps others.
pub(super) fn places(points: &[(usize, (i32, i32))], area: (i32, i32)) -> Vec<Rect> {
    let mark =
        |&(_, (x, y)): &(usize, (i32, i32))| Rect { left: x - MARK, top: y - MARK, width: 2 * MARK, height: 2 * MARK };
    let marks: Vec<_> = points.iter().map(mark).collect();
    let mut placed: Vec<Rect> = Vec::new();
    for &(number, at) in points {
        let width = DIGIT_WIDTH * number.to_string().len() as i32;
        let candidates: Vec<_> = candidates(at, width).collect();
        let is_free =
            |place: &&Rect| place.is_within(area) && marks.iter().chain(&placed).all(|taken| !place.overlaps(taken));
        placed.push(*candidates.iter().find(is_free).unwrap_or(&candidates[0]));
    }
    placed
}

/// Places around a point, the nearest first. In each ring the first is above the point, to its right.
fn candidates((x, y): (i32, i32), width: i32) -> impl Iterator<Item = Rect> {
    (0..RINGS).flat_map(move |ring| {
        let away = MARK + 1 + ring * (HEIGHT / 2);
        let (right, left, middle) = (x + away, x - away - width, x - width / 2);
        let (above, below, beside) = (y - away - HEIGHT, y + away, y - HEIGHT / 2);
        [
            (right, above),
            (left, above),
            (right, below),
            (left, below),
            (right, beside),
            (left, beside),
            (middle, above),
            (middle, below),
        ]
        .map(|(left, top)| Rect { left, top, width, height: HEIGHT })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_points_close_together_are_apart() {
        let points: Vec<_> = (0..12).map(|i| (i + 1, (100 + 4 * i as i32, 100 - 3 * i as i32))).collect();
        let places = places(&points, (500, 400));
        for (i, place) in places.iter().enumerate() {
            assert!(places[..i].iter().all(|other| !place.overlaps(other)), "{i}: {places:?}");
        }
        let alone = super::places(&[(7, (100, 100))], (500, 400));
        assert_eq!(alone, [Rect { left: 106, top: 83, width: 7, height: HEIGHT }]);
    }

    #[test]
    fn a_number_at_the_edge_stays_inside() {
        for at in [(499, 3), (0, 0), (495, 399), (250, 0)] {
            let [place] = places(&[(12, at)], (500, 400))[..] else { panic!("one") };
            assert!(place.is_within((500, 400)), "{at:?}: {place:?}");
        }
    }
}
