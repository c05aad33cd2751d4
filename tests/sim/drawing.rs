//! Draws what a seed sends to swarms of several sizes, beside a plain server.

use std::fmt::Write;

/// What a seed sent so that so many had everything.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    pub leechers: usize,
    /// Of the whole content.
    pub copies: f64,
}

/// The drawing, with both axes logarithmic; a server without a swarm sends one copy to each.
pub fn copies_sent(points: &[Sent]) -> String {
    let most = points.iter().map(|point| point.leechers).max().unwrap_or(1).max(2) as f64;
    let decades = most.log10();
    let place = |leechers: f64, copies: f64| {
        let across = LEFT + leechers.log10() / decades * (WIDTH - LEFT - RIGHT);
        (across, HEIGHT - BOTTOM - copies.log10() / decades * (HEIGHT - TOP - BOTTOM))
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n\
         <title>Copies that one seed sends, beside a plain server</title>\n<style>{STYLE}</style>\n\
         <rect width=\"100%\" height=\"100%\" class=\"back\"/>\n"
    );
    let mut text = |x: f64, y: f64, class: &str, anchor: &str, words: &str| {
        writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\" text-anchor=\"{anchor}\">{words}</text>")
            .expect("strings take all");
    };
    text(12.0, 24.0, "head", "start", "Copies sent until everybody has everything");
    text(
        12.0,
        42.0,
        "small",
        "start",
        "simulated swarm: one seed, as fast as each leecher; a plain server sends one copy to each",
    );
    text(WIDTH - RIGHT, HEIGHT - 8.0, "small", "end", "leechers");
    for point in points {
        let leechers = point.leechers as f64;
        let (x, y) = place(leechers, 1.0);
        text(x, y + 18.0, "", "middle", &point.leechers.to_string());
        let (_, y) = place(leechers, leechers);
        text(LEFT - 8.0, y + 4.0, "", "end", &point.leechers.to_string());
        let (x, y) = place(leechers, point.copies.max(1.0));
        text(x, y - 9.0, "ours", "middle", &format!("{:.2}", point.copies));
    }
    let line = |copies: &dyn Fn(&Sent) -> f64| {
        let places = points.iter().map(|point| place(point.leechers as f64, copies(point).max(1.0)));
        places.map(|(x, y)| format!("{x:.1},{y:.1}")).collect::<Vec<_>>().join(" ")
    };
    let (server, seed) = (line(&|point| point.leechers as f64), line(&|point| point.copies));
    let (x, y) = place(most, most);
    text(x - 10.0, y + 14.0, "", "end", "a plain server");
    let (x, y) = place(most.sqrt(), 1.0);
    text(x, y - 26.0, "ours", "middle", "one seed of btfs");
    let (x0, y0) = place(1.0, 1.0);
    let (x1, _) = place(most, 1.0);
    let (_, y2) = place(most, 2.0);
    writeln!(svg, "<polyline points=\"{x0:.1},{TOP} {x0:.1},{y0:.1} {x1:.1},{y0:.1}\" class=\"axis\"/>")
        .and_then(|()| {
            writeln!(svg, "<line x1=\"{x0:.1}\" x2=\"{x1:.1}\" y1=\"{y2:.1}\" y2=\"{y2:.1}\" class=\"grid\"/>")
        })
        .and_then(|()| {
            writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" class=\"small\" text-anchor=\"end\">2</text>",
                LEFT - 8.0,
                y2 + 4.0
            )
        })
        .and_then(|()| writeln!(svg, "<polyline points=\"{server}\" class=\"server\"/>"))
        .and_then(|()| writeln!(svg, "<polyline points=\"{seed}\" class=\"seed\"/>\n</svg>"))
        .expect("strings take all");
    svg
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 44.0;
const STYLE: &str = "
text { font: 12px system-ui, sans-serif; fill: #24292f }
.head { font-size: 15px; font-weight: 600 } .small { font-size: 11px; fill: #57606a } .ours { fill: #1a7f37; font-weight: 600 }
.back { fill: #ffffff } .axis { fill: none; stroke: #24292f } .grid { stroke: #d0d7de; stroke-dasharray: 3 3 }
.server { fill: none; stroke: #d4722a; stroke-width: 2 } .seed { fill: none; stroke: #2da44e; stroke-width: 3 }
@media (prefers-color-scheme: dark) {
 text { fill: #e6edf3 } .small { fill: #8d96a0 } .ours { fill: #3fb950 } .back { fill: #0d1117 } .axis { stroke: #e6edf3 }
 .grid { stroke: #30363d } }
";
