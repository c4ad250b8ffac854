//! The rooms of `src/` form no circle, and those that must not hear of each other do not.
//!
//! A room is a file directly below `src/` with the folder of its name. One room uses another where its code, not its
//! prose, says `crate::other`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::{fs, io};

type Rooms = BTreeMap<String, BTreeSet<String>>;

/// The rooms a source text names: `crate::one::…`, `crate::{one, two::…}`.
fn named(text: &str) -> impl Iterator<Item = &str> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(|line| line.split("crate::").skip(1)).map(|rest| {
        let end = rest.find(|c: char| !(c.is_ascii_lowercase() || c == '_')).unwrap_or(rest.len());
        assert!(end > 0, "write one `use crate::room::Name` a line, so that a search sees it: crate::{rest}");
        &rest[..end]
    })
}

fn read(path: &Path, room: &str, rooms: &mut Rooms) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        if path.ends_with("tests") || path.ends_with("tests.rs") {
            continue;
        }
        let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("a name in UTF-8").to_owned();
        let room = if room.is_empty() { stem.as_str() } else { room };
        if path.is_dir() {
            read(&path, room, rooms)?;
        } else if room != "lib" {
            let text = fs::read_to_string(&path)?;
            assert!(!text.contains("super::"), "{} reaches across with super::", path.display());
            let others = named(&text).filter(|other| *other != room).map(str::to_owned);
            rooms.entry(room.to_owned()).or_default().extend(others);
        }
    }
    Ok(())
}

fn rooms() -> Rooms {
    let mut rooms = Rooms::new();
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut rooms).expect("the sources are readable");
    rooms
}

/// A way from a room back to itself.
fn circle(rooms: &Rooms) -> Option<Vec<String>> {
    fn walk(rooms: &Rooms, way: &mut Vec<String>) -> bool {
        let here = way.last().expect("a way has a beginning").clone();
        rooms.get(&here).into_iter().flatten().any(|next| {
            let closed = way.contains(next);
            way.push(next.clone());
            let found = closed || walk(rooms, way);
            if !found {
                way.pop();
            }
            found
        })
    }
    rooms.keys().find_map(|room| {
        let mut way = vec![room.clone()];
        walk(rooms, &mut way).then_some(way)
    })
}

#[test]
fn the_rooms_form_no_circle() {
    let rooms = rooms();
    assert!(rooms.len() > 10, "the sources were found: {rooms:?}");
    assert_eq!(circle(&rooms), None);
}

#[test]
fn a_circle_would_be_found() {
    let rooms = [("a", "b"), ("b", "c"), ("c", "b")].map(|(from, to)| (from.to_owned(), [to.to_owned()].into()));
    let way = circle(&rooms.into()).expect("b and c need each other");
    assert_eq!(way, ["a", "b", "c", "b"]);
}

#[test]
fn rooms_do_not_hear_of_what_they_must_not_know() {
    let rooms = rooms();
    let knows = |room: &str| rooms.get(room).unwrap_or_else(|| panic!("there is no room {room}"));
    assert_eq!(knows("flight"), &BTreeSet::new(), "the flight knows nothing of tokens");
    for (room, strangers) in [
        ("cache", &["origin", "resend", "refusal", "layer", "service", "future"][..]),
        ("service", &["source"]),
        ("future", &["source"]),
        ("layer", &["source"]),
        ("source", &["cache", "flight", "layer", "service"]),
        ("testing", &["source", "cache", "layer", "service"]),
    ] {
        let met: Vec<_> = strangers.iter().filter(|stranger| knows(room).contains(**stranger)).collect();
        assert!(met.is_empty(), "{room} uses {met:?}");
    }
}
