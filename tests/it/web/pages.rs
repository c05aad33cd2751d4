//! What stands on the pages.

use std::net::SocketAddr;
use std::time::Instant;

use axum::http::StatusCode;
use btfs::base::size::Bytes;
use btfs::proto::metainfo::Metainfo;
use btfs::tracker::index::PER_PAGE;
use btfs::tracker::{Announce, Event};

use super::{Answer, Site, check_html};
use crate::index::torrents::{Torrent, named};

fn announce(site: &Site, torrent: &Torrent, port: u16, complete: bool) {
    let (info_hash, addr) = (torrent.info_hash(), ([127, 0, 0, 1], port).into());
    let announce = Announce { info_hash, addr, complete, event: Event::Regular, wanted: 0, uploaded: 0, downloaded: 0 };
    site.tracker.store.announce(Instant::now(), &announce, &mut Vec::new()).unwrap();
}

#[tokio::test]
async fn names_of_the_corpus_are_text() {
    let site = Site::new();
    let mut odd = 0;
    for entry in std::fs::read_dir("tests/corpus/torrents").unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let Ok(metainfo) = Metainfo::parse(&bytes) else { continue };
        let answer = site.publish(&site.token, bytes.clone()).await;
        assert!(answer.status.is_success(), "{}: {}", path.display(), answer.text());
        let url = answer.json()["page"].as_str().unwrap().replace("http://127.0.0.1:6969", "");
        // Checked for what could run, too, by each `get`.
        let page = site.get(&url).await;
        assert_eq!(page.status, StatusCode::OK, "{}", path.display());
        let texts = metainfo.entries.iter().map(|entry| String::from_utf8_lossy(&entry.path).into_owned());
        let texts = texts.chain([String::from_utf8_lossy(&metainfo.name).into_owned()]).chain(metainfo.comment.clone());
        for text in texts.filter(|text| text.contains(['<', '"', '\''])) {
            assert!(!page.text().contains(&text), "{}: {text:?} stands there as it is", path.display());
            odd += 1;
        }
        if answer.json()["new"] == true {
            assert_eq!(site.get(&format!("{url}.torrent")).await.body, bytes, "{}", path.display());
        }
        let json = site.get(&format!("{url}.json")).await.json();
        assert_eq!(json["name"], String::from_utf8_lossy(&metainfo.name).into_owned());
        let title: String = String::from_utf8_lossy(&metainfo.name).chars().take(80).collect();
        let query: String = url::form_urlencoded::byte_serialize(title.as_bytes()).collect();
        assert_eq!(site.get(&format!("/?q={query}")).await.status, StatusCode::OK);
        let feed = site.get(&format!("/feed.atom?q={query}")).await;
        assert!(!feed.text().contains("<script") && !feed.text().contains("<img"), "{}", path.display());
        assert!(!feed.text().chars().any(|c| c.is_control() && c != '\n'), "{}", path.display());
    }
    assert!(odd >= 3, "the corpus has names with HTML: {odd}");
    for page in 1..=site.index.len().div_ceil(PER_PAGE) {
        check_html(&site.get(&format!("/?sort=newest&page={page}")).await.text());
    }
}

#[tokio::test]
async fn a_search_shows_what_was_looked_for_as_text() {
    let site = Site::new();
    let page = site.get("/?q=%3Cscript%3Ealert(1)%3C/script%3E%22%20onfocus=%22x").await;
    assert_eq!(page.status, StatusCode::OK);
    let text = page.text();
    assert!(!text.contains("<script>alert") && text.contains("script") && text.contains("Nothing fits"), "{text}");
    let url = page.text();
    assert!(url.contains("/feed.atom?q=%3Cscript%3E"));
}

#[tokio::test]
async fn results_have_what_one_needs_to_choose() {
    let site = Site::new();
    let torrent = Torrent { length: 3 << 20, trackers: &["http://t.example/announce"], ..named("Some film") };
    site.add(&torrent);
    site.add(&named("another"));
    (1..=3).for_each(|port| announce(&site, &torrent, port, true));
    announce(&site, &torrent, 4, false);
    let text = site.get("/?q=film").await.text();
    let hash = torrent.info_hash();
    for part in [
        "1 torrent",
        "Some film",
        "3.00 MiB",
        "1 file",
        "just now",
        "swarm healthy",
        ">3<",
        &format!("href=\"/torrent/{hash}\""),
        &format!("href=\"/torrent/{hash}.torrent\""),
        &format!(
            "magnet:?xt=urn:btih:{hash}&#38;dn=Some%20film&#38;xl=3145728&#38;tr=http%3A%2F%2Ft.example%2Fannounce"
        ),
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("another"));
    let front = site.get("/").await.text();
    assert!(front.contains("another") && front.contains("2 torrents, 3 seeds and 1 leechers"), "{front}");
}

#[tokio::test]
async fn an_info_hash_leads_to_its_torrent() {
    let site = Site::new();
    site.add(&named("film"));
    let hash = named("film").info_hash();
    let answer = site.get(&format!("/?q=%20{}", hash.to_string().to_uppercase())).await;
    assert_eq!(
        (answer.status, answer.headers["location"].to_str().unwrap()),
        (StatusCode::SEE_OTHER, &*format!("/torrent/{hash}"))
    );
    assert_eq!(site.get(&format!("/torrent/{}", hash.to_string().to_uppercase())).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_torrents_page_has_tree_swarm_and_ways_to_take_it() {
    let site = Site::new();
    let torrent = Torrent {
        files: &["season 1/part 2.mkv", "season 1/part 10.mkv", "notes.txt"],
        comment: Some("first line\nsecond <b>line</b>"),
        trackers: &["udp://t.example:1/announce"],
        ..named("Series")
    };
    site.add(&torrent);
    announce(&site, &torrent, 1, false);
    site.index.sample(&site.tracker.store, std::time::SystemTime::now()).unwrap();
    let hash = torrent.info_hash();
    let text = site.get(&format!("/torrent/{hash}")).await.text();
    for part in [
        "<h1><bdi>Series</bdi></h1>",
        "season 1",
        "part 10.mkv",
        "3 files",
        "no seed at the moment",
        "udp://t.example:1/announce",
        "first line\nsecond &#60;b&#62;line",
        "<svg class=\"chart\"",
        "Leechers: 1 to 1, now 1.",
        &format!("btfs mount http://127.0.0.1:6969/torrent/{hash}.torrent"),
        &format!("value=\"magnet:?xt=urn:btih:{hash}"),
        &hash.to_string(),
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let json = site.get(&format!("/torrent/{hash}.json")).await.json();
    assert_eq!(json["files"].as_array().unwrap().len(), 3);
    assert_eq!((&json["leechers"], &json["comment"]), (&1.into(), &"first line\nsecond <b>line</b>".into()));
}

#[tokio::test]
async fn what_peers_say_they_have_moved_is_shown_of_each_torrent() {
    let site = Site::new();
    let (film, other) = (named("film"), named("other"));
    [film, other].iter().for_each(|torrent| site.add(torrent));
    for (port, uploaded, downloaded) in [(1000, 5 << 20, 0), (1001, 1 << 20, 7 << 30)] {
        let addr = SocketAddr::from(([192, 0, 2, 1], port));
        let (info_hash, event) = (film.info_hash(), Event::Started);
        let announce = Announce { info_hash, addr, complete: false, event, wanted: 0, uploaded, downloaded };
        site.tracker.store.announce(Instant::now(), &announce, &mut Vec::new()).unwrap();
    }
    let json = site.get(&format!("/torrent/{}.json", film.info_hash())).await.json();
    let figures = (&json["announced_uploaded_bytes"], &json["announced_downloaded_bytes"]);
    assert_eq!(figures, (&(6_u64 << 20).into(), &(7_u64 << 30).into()));
    let words = format!("sent {} of it and received {}.", Bytes(6 << 20), Bytes(7 << 30));
    assert!(site.get(&format!("/torrent/{}", film.info_hash())).await.text().contains(&words), "{words}");
    assert!(!site.get(&format!("/torrent/{}", other.info_hash())).await.text().contains("Peers say"));
}

#[tokio::test]
async fn a_torrent_of_very_many_files_has_a_bounded_page() {
    let site = Site::new();
    let names: Vec<String> = (0..5000).map(|number| format!("d{}/file {number}", number % 7)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let torrent = Torrent { files: &names, length: 1, ..named("many") };
    site.add(&torrent);
    let hash = torrent.info_hash();
    let page = site.get(&format!("/torrent/{hash}")).await;
    assert!(page.body.len() < 1 << 20 && page.text().contains("3\u{202f}000 more"));
    assert_eq!(site.get(&format!("/torrent/{hash}.json")).await.json()["files"].as_array().unwrap().len(), 5000);
}

#[tokio::test]
async fn long_comments_and_deep_trees_have_a_bounded_page() {
    let site = Site::new();
    let comment = "<é> ".repeat(500_000);
    let deep = (0..2000).map(|file| (0..90).map(|part| format!("{file}-{part}/")).collect::<String>() + "x");
    let deep: Vec<String> = deep.collect();
    let deep: Vec<&str> = deep.iter().map(String::as_str).collect();
    for torrent in
        [Torrent { comment: Some(&comment), ..named("comment") }, Torrent { files: &deep, length: 1, ..named("deep") }]
    {
        site.add(&torrent);
        let page = site.get(&format!("/torrent/{}", torrent.info_hash())).await;
        assert!(page.body.len() < 1 << 20, "{}: {}", torrent.name, page.body.len());
        assert!(page.text().contains("…") || page.text().contains("more; <a"), "it is said that there is more");
    }
}

#[tokio::test]
async fn a_page_past_the_last_leads_to_the_last() {
    let site = Site::new();
    (0..31).for_each(|number| site.add(&named(&format!("part {number}"))));
    for (page, leads_to) in [("3", "/?q=part&page=2"), ("18446744073709551615", "/?q=part&page=2")] {
        let answer = site.get(&format!("/?q=part&page={page}")).await;
        assert_eq!((answer.status, &answer.headers["location"]), (StatusCode::SEE_OTHER, &leads_to.parse().unwrap()));
    }
    // Of nothing there is one page, that says so.
    assert!(site.get("/?q=nothing").await.text().contains("Nothing fits"));
    assert_eq!(site.get("/?q=nothing&page=2").await.headers["location"], "/?q=nothing");
}

#[tokio::test]
async fn programs_get_json_page_by_page() {
    let site = Site::new();
    (0..31).for_each(|number| site.add(&named(&format!("part {number}"))));
    let first = site.get("/api/torrents?q=part").await.json();
    assert_eq!((&first["total"], first["torrents"].as_array().unwrap().len()), (&31.into(), 30));
    let second = site.get("/api/torrents?q=part&page=2").await.json();
    assert_eq!((&second["page"], second["torrents"].as_array().unwrap().len()), (&2.into(), 1));
    let one = &second["torrents"][0];
    assert!(one["torrent"].as_str().unwrap().starts_with("http://127.0.0.1:6969/torrent/"));
    assert_eq!((&one["seeds"], &one["size_bytes"]), (&0.into(), &100.into()));
    let page = site.get("/?q=part").await.text();
    assert!(page.contains("Page 1 of 2") && page.contains("href=\"/?q=part&#38;page=2\""), "{page}");
}

#[tokio::test]
async fn the_feed_is_atom_of_what_is_new() {
    let site = Site::new();
    site.add(&named("old & <new>"));
    site.add(&named("other"));
    let feed = site.get("/feed.atom?q=new").await;
    assert_eq!(feed.headers["content-type"], "application/atom+xml; charset=utf-8");
    let text = feed.text();
    let hash = named("old & <new>").info_hash();
    for part in [
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<feed xmlns=\"http://www.w3.org/2005/Atom\">",
        "<title>old &#38; &#60;new&#62;</title>",
        &format!("<id>http://127.0.0.1:6969/torrent/{hash}</id>"),
        "<link rel=\"self\" href=\"http://127.0.0.1:6969/feed.atom?q=new\"/>",
        "rel=\"enclosure\" type=\"application/x-bittorrent\"",
        "</feed>",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("other"));
    // XML has no way to say these.
    assert!(!site.get("/feed.atom?q=%EF%BF%BE%EF%BF%BFnew").await.text().contains(['\u{fffe}', '\u{ffff}']));
}

#[tokio::test]
async fn statistics_and_assets_are_there() {
    let site = Site::new();
    site.index.sample(&site.tracker.store, std::time::SystemTime::now()).unwrap();
    let text = site.get("/statistics").await.text();
    assert!(text.contains("Announces") && text.matches("<svg class=\"chart\"").count() == 2);
    let kept = |answer: &Answer| answer.headers["cache-control"].to_str().unwrap().contains("immutable");
    for (path, kind) in [("style.css", "text/css"), ("script.js", "text/javascript"), ("icon.svg", "image/svg+xml")] {
        let answer = site.get(&format!("/assets/{path}?v=1")).await;
        assert!(answer.status.is_success() && kept(&answer));
        assert!(answer.headers["content-type"].to_str().unwrap().starts_with(kind));
    }
    let style = site.get("/assets/style.css").await.text();
    assert!(!style.contains("http") && !style.contains("@import") && style.contains("prefers-color-scheme: dark"));
    for path in ["/upload", "/favicon.ico", "/robots.txt"] {
        assert_eq!(site.get(path).await.status, StatusCode::OK, "{path}");
    }
}
