//! The tracker's figures, now and over time.

use std::time::Instant;

use askama::Template;
use axum::extract::State;

use super::chart::{Chart, Line};
use super::view::{self, count};
use super::{Shown, SiteState};
use crate::base::size::{Bytes, Span};
use crate::tracker::index::Total;

#[derive(Template)]
#[template(path = "statistics.html", config = "src/tracker/web/askama.toml")]
struct StatisticsPage {
    tiles: Vec<(&'static str, String)>,
    charts: Vec<Drawing>,
    requests: Vec<(&'static str, String, String)>,
    facts: Vec<(&'static str, String)>,
}

struct Drawing {
    heading: &'static str,
    /// Classes of the style sheet, and what they stand for.
    colours: [(&'static str, &'static str); 2],
    svg: String,
}

pub(super) async fn page(State(site): SiteState) -> Shown {
    let now = view::now();
    let (mut totals, listed) = site
        .ask(move |site| Ok((site.index().totals(now - CHART_SECONDS)?, site.index().summary(&site.tracker().store))))
        .await?;
    let summary = site.tracker().summary(Instant::now());
    let (http, udp) = (summary.http, summary.udp);
    totals.push(Total {
        time: now,
        torrents: summary.torrents as u64,
        seeds: listed.seeds as u64,
        leechers: listed.leechers as u64,
        listed: site.index().len() as u64,
    });
    let row = |name, http, udp| (name, count(http), count(udp));
    Ok(view::html(&StatisticsPage {
        tiles: vec![
            ("listed torrents", count(site.index().len() as u64)),
            ("active torrents", count(summary.torrents as u64)),
            ("seeds", count(summary.seeds as u64)),
            ("leechers", count(summary.leechers as u64)),
            ("completed", count(summary.completed)),
        ],
        charts: charts(&totals, now),
        requests: vec![
            row("Announces", http.announces, udp.announces),
            row("Scrapes", http.scrapes, udp.scrapes),
            row("Refused", http.refused, udp.refused),
            row("Malformed", http.malformed, udp.malformed),
        ],
        facts: vec![
            ("Uptime", Span(std::time::Duration::from_secs(summary.uptime_seconds)).to_string()),
            ("Peers over IPv6", count(summary.peers_ipv6 as u64)),
            ("Announced as uploaded", Bytes(summary.announced_uploaded_bytes).to_string()),
            ("Announced as downloaded", Bytes(summary.announced_downloaded_bytes).to_string()),
            ("Version", summary.version.to_owned()),
        ],
    }))
}

fn charts(totals: &[Total], now: i64) -> Vec<Drawing> {
    let points = |of: fn(&Total) -> u64| totals.iter().map(|total| (total.time, of(total))).collect();
    let draw = |title, lines: &[Line]| Chart { title, from: now - CHART_SECONDS, to: now, lines }.svg();
    let peers = [
        Line { name: "Seeds", class: "seeds", points: points(|total| total.seeds) },
        Line { name: "Leechers", class: "leechers", points: points(|total| total.leechers) },
    ];
    let torrents = [
        Line { name: "Listed", class: "listed", points: points(|total| total.listed) },
        Line { name: "Active", class: "seeds", points: points(|total| total.torrents) },
    ];
    vec![
        Drawing {
            heading: "Peers of listed torrents",
            colours: [("seeds", "Seeds"), ("leechers", "Leechers")],
            svg: draw("Peers of the last seven days", &peers),
        },
        Drawing {
            heading: "Torrents",
            colours: [("listed", "Listed"), ("seeds", "Active")],
            svg: draw("Torrents of the last seven days", &torrents),
        },
    ]
}

const CHART_SECONDS: i64 = 7 * 86_400;
