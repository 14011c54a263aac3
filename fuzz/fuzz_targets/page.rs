//! Parsing any response of Graph gives items or an error, and an item that is kept is JSON that
//! can be completed, stripped to a stub and compared.
#![no_main]

use bytes::Bytes;
use calmirror::graph::wire;
use calmirror::mirror::event::{complete, same_json};
use calmirror::json::JsonMembers;
use calmirror::mirror::page::{EventKind, Item};
use calmirror::mirror::series;
use calmirror::mirror::window::BodyFormat;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    for body in [BodyFormat::Html, BodyFormat::None] {
        let page = wire::page(&bytes, body).map(|page| page.present);
        let listing = wire::listing(&bytes, body).map(|listing| listing.items);
        let event = wire::event(&bytes, body).map(|event| vec![event]);
        for items in [page, listing, event].into_iter().flatten() {
            check(&items);
        }
    }
});

fn check(items: &[Item]) {
    for item in items {
        let value: Value =
            serde_json::from_slice(&item.content).expect("an item that is kept is JSON");
        assert_eq!(value["id"].as_str().map(str::as_bytes), Some(item.id.as_str().as_bytes()));
        assert!(same_json(&item.content, &item.content), "an item is the same as itself");
        if item.kind == EventKind::Occurrence {
            let stub = series::strip_to_stub(item.clone());
            for master in items.iter().filter(|other| other.kind == EventKind::Master) {
                let members = JsonMembers::parse(&master.content).expect("an item is an object");
                let whole =
                    complete(&members, &master.id, &stub.content, &item.id, item.span.start)
                        .expect("an occurrence is an object");
                serde_json::from_slice::<Value>(&whole).expect("a completed occurrence is JSON");
            }
        }
    }
}
