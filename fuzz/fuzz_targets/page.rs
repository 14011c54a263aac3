//! Whatever Graph sends, reading it ends in items or an error, and an item that is kept is JSON
//! which can be completed, bared and compared.
#![no_main]

use bytes::Bytes;
use calmirror::graph::wire;
use calmirror::mirror::event::{Members, complete, same};
use calmirror::mirror::page::{Item, Kind};
use calmirror::mirror::series;
use calmirror::mirror::window::Body;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    for body in [Body::Html, Body::None] {
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
        assert!(same(&item.content, &item.content), "an item is the same as itself");
        if item.kind == Kind::Occurrence {
            let bare = series::bare(item.clone());
            for master in items.iter().filter(|other| other.kind == Kind::Master) {
                let members = Members::parse(&master.content).expect("an item is an object");
                let whole =
                    complete(&members, &master.id, &bare.content, &item.id, item.span.start)
                        .expect("an occurrence is an object");
                serde_json::from_slice::<Value>(&whole).expect("a completed occurrence is JSON");
            }
        }
    }
}
