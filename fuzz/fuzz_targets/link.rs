//! An admitted link leads to the configured origin, also according to an independent URL parser.
#![no_main]

use calmirror::graph::origin::Origin;
use libfuzzer_sys::fuzz_target;
use url::Url;

fuzz_target!(|link: &str| {
    let origin = Origin::of("https://graph.microsoft.com/v1.0").expect("a good address");
    for link in [link.to_owned(), format!("https://graph.microsoft.com{link}")] {
        let Ok(uri) = origin.admit(&link) else { continue };
        assert_eq!(uri.scheme_str(), Some("https"));
        assert!(uri.host().is_some_and(|h| h.eq_ignore_ascii_case("graph.microsoft.com")));
        assert!(matches!(uri.port_u16(), None | Some(443)));
        let url = Url::parse(&link).expect("an admitted link is a URL");
        assert_eq!(url.host_str(), Some("graph.microsoft.com"));
        assert_eq!(url.port_or_known_default(), Some(443));
        assert!(url.username().is_empty() && url.password().is_none());
    }
    // An address of a configuration file is refused or parsed, without a panic.
    let _ = Origin::of(link);
});
