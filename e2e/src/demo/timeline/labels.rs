//! Places the labels of marks in rows, so that no two texts cover each other and no leader crosses
//! a text.

/// Room between two texts of a row, in pixels.
const GAP: f64 = 8.0;
/// Room between a leader and a text that is not its own.
const LEADER_GAP: f64 = 3.0;
/// Room between a leader and its own text, where that does not stand above it.
const BESIDE: f64 = 4.0;
/// How many labels deep others are moved to make room for one.
const MOVES: usize = 3;
/// A label that more labels stand in the way of is not worth moving them.
const IN_THE_WAY: usize = 2;
/// Places that are tried for one label and those that it moves: bounds the time, not the result, of
/// all but crowded rows.
const TRIES: usize = 200;

/// A mark that wants a label.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Mark {
    /// Its position on the axis of time, in pixels.
    pub(super) x: f64,
    /// Texts for the label, the best first: a shorter text is used where a longer one has no room.
    pub(super) texts: Vec<String>,
    /// Marks of a lower number are placed first.
    pub(super) rank: u32,
}

/// Where a label stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Label {
    /// Index of its mark.
    pub(super) mark: usize,
    /// Its text.
    pub(super) text: String,
    /// Left end of the text.
    pub(super) left: f64,
    /// Right end of the text.
    right: f64,
    /// 0 is the row next to the chart.
    pub(super) row: usize,
}

/// Size of a label's text.
pub(super) const FONT_SIZE: f64 = 11.0;

/// Places labels between `left` and `right` in at most `rows` rows. Labels that are placed make
/// room for a later one if they keep their texts; a mark whose label fits nowhere has none.
pub(super) fn place(marks: &[Mark], left: f64, right: f64, rows: usize) -> Vec<Label> {
    let space = Space {
        marks,
        left,
        right,
        rows,
    };
    let mut order: Vec<usize> = (0..marks.len()).collect();
    order.sort_by(|&one, &other| {
        let (one, other) = (&marks[one], &marks[other]);
        one.rank.cmp(&other.rank).then(one.x.total_cmp(&other.x))
    });
    let mut placed: Vec<Label> = Vec::new();
    for mark in order {
        let texts = &marks[mark].texts;
        let with_label = texts
            .iter()
            .find_map(|text| space.insert(mark, text, &placed, MOVES, &mut TRIES.clone()));
        placed = with_label.unwrap_or(placed);
    }
    placed.sort_by_key(|label| label.mark);
    placed
}

/// Where labels may stand.
struct Space<'a> {
    marks: &'a [Mark],
    left: f64,
    right: f64,
    rows: usize,
}

impl Space<'_> {
    /// Every place for a mark's label with this text, the best first.
    fn candidates(&self, index: usize, text: &str) -> Vec<Label> {
        let x = self.marks[index].x;
        let width = text_width(text, FONT_SIZE);
        let mut candidates = Vec::new();
        for row in 0..self.rows {
            for start in [x - width / 2.0, x + BESIDE, x - BESIDE - width] {
                let left = start.min(self.right - width).max(self.left);
                let label = Label {
                    mark: index,
                    text: text.to_owned(),
                    left,
                    right: left + width,
                    row,
                };
                // a text that is pushed inwards must still be next to its leader
                let is_near = label.left <= x + BESIDE && label.right >= x - BESIDE;
                if is_near && label.right <= self.right {
                    candidates.push(label);
                }
            }
        }
        candidates
    }

    /// The labels with one more for this mark. Labels in its way are moved if they have room
    /// elsewhere; each of them may move others, `moves` deep.
    fn insert(
        &self,
        mark: usize,
        text: &str,
        placed: &[Label],
        moves: usize,
        tries: &mut usize,
    ) -> Option<Vec<Label>> {
        let candidates = self.candidates(mark, text);
        let is_free = |label: &&Label| {
            placed
                .iter()
                .all(|other| are_apart(label, other, self.marks))
        };
        if let Some(free) = candidates.iter().find(is_free) {
            return Some([placed, std::slice::from_ref(free)].concat());
        }
        if moves == 0 {
            return None;
        }
        candidates.into_iter().find_map(|label| {
            *tries = tries.checked_sub(1)?;
            let blocks = |other: &&Label| !are_apart(&label, other, self.marks);
            let in_the_way: Vec<Label> = placed.iter().filter(blocks).cloned().collect();
            if in_the_way.len() > IN_THE_WAY {
                return None;
            }
            let mut labels: Vec<Label> = placed
                .iter()
                .filter(|other| !in_the_way.contains(other))
                .cloned()
                .collect();
            labels.push(label);
            for other in in_the_way {
                labels = self.insert(other.mark, &other.text, &labels, moves - 1, tries)?;
            }
            Some(labels)
        })
    }
}

fn are_apart(one: &Label, other: &Label, marks: &[Mark]) -> bool {
    if one.row == other.row {
        return one.right + GAP <= other.left || other.right + GAP <= one.left;
    }
    // the leader of the label in the higher row passes the lower row
    let (high, low) = if one.row > other.row {
        (one, other)
    } else {
        (other, one)
    };
    let leader = marks[high.mark].x;
    leader < low.left - LEADER_GAP || leader > low.right + LEADER_GAP
}

/// The width of a text in a sans-serif font, in pixels, rather too much than too little: a viewer's
/// own font is not known.
pub(super) fn text_width(text: &str, size: f64) -> f64 {
    let units: u32 = text.chars().map(units).sum();
    f64::from(units) / 1000.0 * size * 1.13
}

/// The advance of a character in thousandths of the font's size: those of Helvetica, or of Segoe UI
/// and Roboto where these are wider. The fonts of most Linux desktops are an eighth wider still.
fn units(character: char) -> u32 {
    match character {
        'i' | 'j' | 'l' | '\'' | '|' => 240,
        '.' | ',' | ':' | ';' | '!' | 'f' | 't' | 'I' | ' ' => 290,
        'r' | '(' | ')' | '-' | '/' | '[' | ']' => 350,
        'c' | 'k' | 's' | 'v' | 'x' | 'y' | 'z' | 'J' => 520,
        'm' | 'M' | 'W' | '%' | '@' => 900,
        'w' => 740,
        '0'..='9' | 'a'..='z' | '$' | '_' => 570,
        'A'..='Z' | '+' | '=' | '<' | '>' | '−' | '–' => 690,
        _ => 600,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(x: f64, texts: &[&str]) -> Mark {
        Mark {
            x,
            texts: texts.iter().map(|&text| text.to_owned()).collect(),
            rank: 0,
        }
    }

    /// Whether a text covers another, or the leader of one in a higher row.
    fn overlap(labels: &[Label], marks: &[Mark]) -> bool {
        let pairs = labels
            .iter()
            .flat_map(|one| labels.iter().map(move |other| (one, other)));
        pairs
            .filter(|(one, other)| one.mark != other.mark)
            .any(|(one, other)| {
                let covers =
                    one.row == other.row && one.left < other.right && other.left < one.right;
                let leader = marks[one.mark].x;
                let is_crossed =
                    one.row > other.row && (other.left..=other.right).contains(&leader);
                covers || is_crossed
            })
    }

    #[test]
    fn labels_never_cover_each_other_and_stay_on_the_picture() {
        // close marks at many distances, both ends included
        for step in 1..40 {
            let marks: Vec<Mark> = (0..30)
                .map(|index| mark(f64::from(index * step % 601), &["woken in 21 ms", "21 ms"]))
                .collect();
            let labels = place(&marks, 0.0, 600.0, 3);
            assert!(!labels.is_empty());
            assert!(!overlap(&labels, &marks), "{step}: {labels:?}");
            assert!(
                labels
                    .iter()
                    .all(|label| label.left >= 0.0 && label.right <= 600.0)
            );
        }
    }

    #[test]
    fn a_shorter_text_is_used_where_the_longer_has_no_room_and_none_where_both_have_none() {
        let alone = place(&[mark(50.0, &["woken in 21 ms", "21 ms"])], 0.0, 100.0, 1);
        assert_eq!(alone[0].text, "woken in 21 ms");
        let narrow = place(&[mark(20.0, &["woken in 21 ms", "21 ms"])], 0.0, 40.0, 1);
        assert_eq!(narrow[0].text, "21 ms");
        assert_eq!(place(&[mark(5.0, &["woken in 21 ms"])], 0.0, 10.0, 1), []);
    }

    #[test]
    fn a_label_makes_room_for_a_later_one() {
        let marks = [
            mark(200.0, &["limit lowered to 1.51"]),
            mark(210.0, &["exhausted"]),
            mark(250.0, &["limit raised to 10.00"]),
            mark(252.0, &["one more"]),
        ];
        let labels = place(&marks, 0.0, 320.0, 3);
        assert_eq!(labels.len(), 4, "{labels:?}");
        assert!(!overlap(&labels, &marks), "{labels:?}");
    }

    #[test]
    fn the_label_of_a_lower_rank_has_its_place_first() {
        let mut marks = [mark(50.0, &["one of many"]), mark(52.0, &["exhausted"])];
        marks[1].rank = 0;
        marks[0].rank = 1;
        let labels = place(&marks, 0.0, 100.0, 1);
        assert_eq!(labels.len(), 1);
        assert_eq!(labels[0].text, "exhausted");
    }
}
