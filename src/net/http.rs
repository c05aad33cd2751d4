//! The one HTTP client: trackers, `.torrent` URLs, later web seeds.
//! Caps every body, follows at most 5 redirects by hand under SSRF rules, keeps query bytes as they are, times out.
