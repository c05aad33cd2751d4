//! What the tracker has done and what it holds: counters that each thread keeps for itself, summed when somebody asks;
//! as JSON and as text for Prometheus.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde::Serialize;

use super::store::{Store, Totals};

/// What one thread, or all of HTTP, has done. On cache lines of its own: threads do not slow each other down.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Counters {
    pub(super) connects: AtomicU64,
    pub(super) announces: AtomicU64,
    pub(super) scrapes: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) malformed: AtomicU64,
    pub(super) received_bytes: AtomicU64,
    pub(super) sent_bytes: AtomicU64,
}

/// Counts one more, or many.
pub(super) fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

/// All counters.
#[derive(Debug)]
pub(super) struct Stats {
    started: Instant,
    pub(super) http: Counters,
    pub(super) udp: Vec<Counters>,
}

/// What was asked over one protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Requests {
    /// Connection ids given (UDP only).
    pub connects: u64,
    /// Announces answered with peers.
    pub announces: u64,
    /// Scrapes answered with figures.
    pub scrapes: u64,
    /// Well-formed requests that were refused.
    pub refused: u64,
    /// What made no sense.
    pub malformed: u64,
    /// Bytes of requests (HTTP: paths and queries only).
    pub received_bytes: u64,
    /// Bytes of answers (HTTP: bodies only).
    pub sent_bytes: u64,
}

/// What the tracker has done and what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// This program's version.
    pub version: &'static str,
    /// Since when it runs.
    pub uptime_seconds: u64,
    /// Torrents with at least one peer.
    pub torrents: usize,
    /// Torrents whose figures are kept although nobody takes part.
    pub idle_torrents: usize,
    /// Peers; one in two swarms counts twice.
    pub peers: usize,
    /// Of them those over IPv6.
    pub peers_ipv6: usize,
    /// Of them those that have everything.
    pub seeds: usize,
    /// Of them those that lack something.
    pub leechers: usize,
    /// Downloads completed, of the torrents that are known.
    pub completed: u64,
    /// Bytes that peers of these torrents say they have sent.
    pub announced_uploaded_bytes: u64,
    /// Bytes that peers of these torrents say they have received.
    pub announced_downloaded_bytes: u64,
    /// What was asked over HTTP.
    pub http: Requests,
    /// What was asked over UDP.
    pub udp: Requests,
}

impl Stats {
    pub(super) fn new(now: Instant, udp_workers: usize) -> Self {
        let udp = (0..udp_workers).map(|_| Counters::default()).collect();
        Self { started: now, http: Counters::default(), udp }
    }

    pub(super) fn summary(&self, now: Instant, store: &Store) -> Summary {
        let totals = store.totals();
        let Totals { torrents, idle_torrents, peers_v4, peers_v6, seeds, completed, uploaded, downloaded } = totals;
        Summary {
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: now.saturating_duration_since(self.started).as_secs(),
            torrents,
            idle_torrents,
            peers: peers_v4 + peers_v6,
            peers_ipv6: peers_v6,
            seeds,
            leechers: totals.leechers(),
            completed,
            announced_uploaded_bytes: uploaded,
            announced_downloaded_bytes: downloaded,
            http: requests([&self.http]),
            udp: requests(&self.udp),
        }
    }
}

fn requests<'c>(counters: impl IntoIterator<Item = &'c Counters>) -> Requests {
    let mut sum = Requests::default();
    for counters in counters {
        let Requests { connects, announces, scrapes, refused, malformed, received_bytes, sent_bytes } = &mut sum;
        for (sum, counter) in [
            (connects, &counters.connects),
            (announces, &counters.announces),
            (scrapes, &counters.scrapes),
            (refused, &counters.refused),
            (malformed, &counters.malformed),
            (received_bytes, &counters.received_bytes),
            (sent_bytes, &counters.sent_bytes),
        ] {
            *sum += counter.load(Ordering::Relaxed);
        }
    }
    sum
}

impl Summary {
    /// In Prometheus' text format, version 0.0.4.
    pub fn to_prometheus(&self) -> String {
        let mut out = String::new();
        let mut metric = |name: &str, kind: &str, help: &str, values: &[(&str, u64)]| {
            let _ = writeln!(out, "# HELP btfs_tracker_{name} {help}\n# TYPE btfs_tracker_{name} {kind}");
            for (labels, value) in values {
                let _ = writeln!(out, "btfs_tracker_{name}{labels} {value}");
            }
        };
        let many = |number: usize| number as u64;
        metric("info", "gauge", "The program.", &[(&format!("{{version=\"{}\"}}", self.version), 1)]);
        metric("uptime_seconds", "gauge", "Since when it runs.", &[("", self.uptime_seconds)]);
        metric("torrents", "gauge", "Torrents with at least one peer.", &[("", many(self.torrents))]);
        metric("idle_torrents", "gauge", "Torrents without peers.", &[("", many(self.idle_torrents))]);
        let ipv4 = many(self.peers - self.peers_ipv6);
        let by_family = [("{family=\"ipv4\"}", ipv4), ("{family=\"ipv6\"}", many(self.peers_ipv6))];
        metric("peers", "gauge", "Peers in all swarms.", &by_family);
        metric("seeds", "gauge", "Peers that have everything.", &[("", many(self.seeds))]);
        metric("leechers", "gauge", "Peers that lack something.", &[("", many(self.leechers))]);
        // Not counters: figures go with the torrents that are forgotten.
        metric("completed", "gauge", "Downloads completed, of the torrents that are known.", &[("", self.completed)]);
        let bytes = [
            ("{direction=\"up\"}", self.announced_uploaded_bytes),
            ("{direction=\"down\"}", self.announced_downloaded_bytes),
        ];
        metric("announced_bytes", "gauge", "Bytes that peers say they have moved.", &bytes);
        let (http, udp) = (&self.http, &self.udp);
        let requests = [
            ("{protocol=\"http\",kind=\"announce\"}", http.announces),
            ("{protocol=\"http\",kind=\"scrape\"}", http.scrapes),
            ("{protocol=\"http\",kind=\"refused\"}", http.refused),
            ("{protocol=\"http\",kind=\"malformed\"}", http.malformed),
            ("{protocol=\"udp\",kind=\"connect\"}", udp.connects),
            ("{protocol=\"udp\",kind=\"announce\"}", udp.announces),
            ("{protocol=\"udp\",kind=\"scrape\"}", udp.scrapes),
            ("{protocol=\"udp\",kind=\"refused\"}", udp.refused),
            ("{protocol=\"udp\",kind=\"malformed\"}", udp.malformed),
        ];
        metric("requests_total", "counter", "Requests, by what became of them.", &requests);
        let received = [("{protocol=\"http\"}", http.received_bytes), ("{protocol=\"udp\"}", udp.received_bytes)];
        metric("received_bytes_total", "counter", "Bytes of requests (HTTP: paths and queries).", &received);
        let sent = [("{protocol=\"http\"}", http.sent_bytes), ("{protocol=\"udp\"}", udp.sent_bytes)];
        metric("sent_bytes_total", "counter", "Bytes of answers (HTTP: bodies).", &sent);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::StoreConfig;
    use super::*;

    #[test]
    fn threads_are_summed_and_told_in_both_formats() {
        let now = Instant::now();
        let (stats, store) = (Stats::new(now, 2), Store::new(StoreConfig::default(), now));
        count(&stats.udp[0].announces, 2);
        count(&stats.udp[1].announces, 3);
        count(&stats.http.scrapes, 1);
        let summary = stats.summary(now, &store);
        assert_eq!((summary.udp.announces, summary.http.announces, summary.http.scrapes), (5, 0, 1));
        let text = summary.to_prometheus();
        assert!(text.contains("\nbtfs_tracker_requests_total{protocol=\"udp\",kind=\"announce\"} 5\n"), "{text}");
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            assert!(value.parse::<u64>().is_ok() && name.starts_with("btfs_tracker_"), "{line}");
        }
        let json = serde_json::to_value(summary).unwrap();
        assert_eq!(json["udp"]["announces"], 5);
    }
}
