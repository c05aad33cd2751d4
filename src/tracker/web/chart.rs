//! Charts as SVG within a page: numbers and our own words only, colours by the style sheet.

use std::fmt::Write as _;

use super::view::count;
use crate::base::Date;

/// Figures over time, as steps.
pub(super) struct Chart<'c> {
    pub(super) title: &'static str,
    /// Seconds since 1970.
    pub(super) from: i64,
    pub(super) to: i64,
    pub(super) lines: &'c [Line],
}

/// One figure: each point holds until the next.
pub(super) struct Line {
    pub(super) name: &'static str,
    /// Of the style sheet.
    pub(super) class: &'static str,
    pub(super) points: Vec<(i64, u64)>,
}

impl Chart<'_> {
    /// The drawing, and what it says in words for those who cannot see it.
    pub(super) fn svg(&self) -> String {
        let most = self.lines.iter().flat_map(|line| &line.points).map(|&(_, value)| value).max().unwrap_or(0);
        let top = ceiling(most);
        let mut out = format!(
            "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}. {}\">",
            self.title,
            self.in_words()
        );
        for step in 0..=STEPS {
            let value = top / STEPS * step;
            let y = self.y(value, top);
            let _ = write!(out, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>");
            let (x, y) = (LEFT - 8.0, y + 4.0);
            let _ =
                write!(out, "<text class=\"scale\" x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\">{}</text>", count(value));
        }
        // Midnights (UTC), a dozen at most.
        let days = (self.to - self.from) / DAY;
        let every = (days / 8).max(1);
        let mut midnight = self.from - self.from.rem_euclid(DAY) + DAY;
        while midnight < self.to {
            let x = self.x(midnight);
            let bottom = HEIGHT - BOTTOM;
            let _ = write!(out, "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>");
            let date = Date(midnight).day();
            let _ = write!(
                out,
                "<text class=\"scale\" x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                HEIGHT - 6.0,
                &date[5..]
            );
            midnight += every * DAY;
        }
        for line in self.lines {
            let path = self.path(line, top);
            let (first, last) = (path.split(' ').next().unwrap_or_default(), self.x(self.to));
            if path.is_empty() {
                continue;
            }
            let (bottom, start) = (self.y(0, top), first.trim_start_matches('M').split(',').next().unwrap_or_default());
            let _ = write!(
                out,
                "<path class=\"area {}\" d=\"{path} L{last:.1},{bottom:.1} L{start},{bottom:.1} Z\"/>",
                line.class
            );
            let _ = write!(out, "<path class=\"line {}\" d=\"{path}\"/>", line.class);
            // Seen also where there is one figure so far.
            let value = line.points.last().map_or(0, |&(_, value)| value);
            let (class, x, y) = (line.class, last - 4.0, self.y(value, top));
            let _ = write!(out, "<circle class=\"dot {class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>");
        }
        out.push_str("</svg>");
        out
    }

    /// Steps: along, then up or down.
    fn path(&self, line: &Line, top: u64) -> String {
        let mut out = String::new();
        let mut last = None;
        for &(time, value) in &line.points {
            let (x, y) = (self.x(time), self.y(value, top));
            match last {
                None => _ = write!(out, "M{x:.1},{y:.1}"),
                Some(before) => _ = write!(out, " L{x:.1},{before:.1} L{x:.1},{y:.1}"),
            }
            last = Some(y);
        }
        if let Some(y) = last {
            let _ = write!(out, " L{:.1},{y:.1}", self.x(self.to));
        }
        out
    }

    fn in_words(&self) -> String {
        let words = self.lines.iter().filter_map(|line| {
            let values = || line.points.iter().map(|&(_, value)| value);
            let (least, most, last) = (values().min()?, values().max()?, values().next_back()?);
            Some(format!("{}: {least} to {most}, now {last}.", line.name))
        });
        words.collect::<Vec<_>>().join(" ")
    }

    fn x(&self, time: i64) -> f64 {
        let part = (time.clamp(self.from, self.to) - self.from) as f64 / (self.to - self.from).max(1) as f64;
        LEFT + part * (WIDTH - LEFT)
    }

    fn y(&self, value: u64, top: u64) -> f64 {
        HEIGHT - BOTTOM - value as f64 / top as f64 * (HEIGHT - BOTTOM - TOP)
    }
}

/// A round number, not below, that can be divided by [`STEPS`].
fn ceiling(most: u64) -> u64 {
    let mut unit = STEPS;
    loop {
        for round in [unit, unit.saturating_mul(2), unit.saturating_mul(5)] {
            if round >= most {
                return round;
            }
        }
        unit = unit.saturating_mul(10);
    }
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 56.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 28.0;
const STEPS: u64 = 4;
const DAY: i64 = 86_400;

#[cfg(test)]
mod tests {
    use super::*;

    fn svg(points: Vec<(i64, u64)>) -> String {
        let lines = [Line { name: "Seeds", class: "seeds", points }];
        Chart { title: "Test", from: 0, to: 7 * DAY, lines: &lines }.svg()
    }

    #[test]
    fn scales_are_round() {
        for (most, top) in [(0, 4), (4, 4), (5, 8), (9, 20), (21, 40), (41, 80), (81, 200), (100_000, 200_000)] {
            assert_eq!(ceiling(most), top, "{most}");
        }
        assert!(ceiling(u64::MAX) == u64::MAX);
    }

    #[test]
    fn a_chart_is_steps_and_words() {
        let drawn = svg(vec![(0, 0), (7 * DAY / 2, 4)]);
        assert!(drawn.contains("d=\"M56.0,192.0 L388.0,192.0 L388.0,10.0 L720.0,10.0\""), "{drawn}");
        assert!(drawn.contains("aria-label=\"Test. Seeds: 0 to 4, now 4.\""));
        assert_eq!(drawn.matches("text-anchor=\"middle\"").count(), 6);
    }

    #[test]
    fn what_is_out_of_range_stays_inside() {
        for points in [vec![], vec![(-100, u64::MAX)], vec![(0, 1); 3], vec![(i64::MAX, 1)]] {
            let drawn = svg(points);
            assert!(drawn.ends_with("</svg>") && !drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
        }
    }
}
