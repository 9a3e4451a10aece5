//! Where the numbers of points stand in a plot: beside their points, and not on one another.

/// A rectangle in pixels: left, top, width, height.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rect {
    pub(super) left: i32,
    pub(super) top: i32,
    pub(super) width: i32,
    pub(super) height: i32,
}

/// Of a number's digits, at the size that they are drawn.
const DIGIT_WIDTH: i32 = 7;
const HEIGHT: i32 = 11;
/// Half of what a point's mark takes.
const MARK: i32 = 5;
/// How far from its point a number is at most, in rings.
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

/// A box for each of these numbered points, in pixels of an area of this size: the nearest place beside the point that is
/// free of marks and of the numbers before. Where all is full a number stands on others.
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

/// Places around a point, the nearest first, above it to the right before all others.
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
