//! Reads the public API from rustdoc's JSON: all items that can be named from the root, and their impls.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Foreign crates, each with the places in the API that name one of its items.
pub type Foreign = BTreeMap<String, BTreeSet<String>>;

/// The crates of the language.
const OWN: [&str; 3] = ["alloc", "core", "std"];

struct Walk<'a> {
    json: &'a Value,
    seen: HashSet<u64>,
    foreign: Foreign,
}

/// The project's folder.
pub fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A nightly cargo. Without that toolchain it returns `None`, and prints what was not checked.
pub fn nightly(what: &str) -> Option<Command> {
    let nightly = Command::new("rustup").args(["run", "nightly", "rustdoc", "--version"]).output();
    if !nightly.is_ok_and(|output| output.status.success()) {
        // The test harness hides `println!` of a passing test.
        let note = format!("not checked: {what} (needs a nightly toolchain: rustup toolchain install nightly)\n");
        std::io::stderr().write_all(note.as_bytes()).expect("stderr");
        return None;
    }
    let mut cargo = Command::new("rustup");
    cargo.args(["run", "nightly", "cargo"]).current_dir(here());
    // The cargo that runs the test has set these variables. The nightly cargo must find its own tools.
    for own in ["RUSTC", "RUSTDOC", "CARGO", "RUSTUP_TOOLCHAIN", "RUSTFLAGS", "RUSTDOCFLAGS"] {
        cargo.env_remove(own);
    }
    Some(cargo)
}

/// The foreign crates whose items the API names.
pub fn foreign(json: &Value) -> Foreign {
    let mut walk = Walk { json, seen: HashSet::new(), foreign: Foreign::new() };
    walk.item(json["root"].as_u64().expect("a root"), "");
    walk.foreign
}

// === impl Walk ===

impl Walk<'_> {
    fn item(&mut self, id: u64, within: &str) {
        let item = &self.json["index"][id.to_string()];
        if item.is_null() || !self.seen.insert(id) {
            return;
        }
        let place = match item["name"].as_str() {
            Some(name) if within.is_empty() => name.to_owned(),
            Some(name) => format!("{within}::{name}"),
            None => within.to_owned(),
        };
        let inner = &item["inner"];
        let of_others = &inner["impl"];
        // Blanket impls of other crates and auto traits are not part of this crate's API.
        if !of_others["blanket_impl"].is_null() || of_others["is_synthetic"] == true {
            return;
        }
        self.value(inner, &place);
    }

    /// Visits a value and all values in it. A path names its crate, and a number is the id of an item to visit.
    fn value(&mut self, value: &Value, place: &str) {
        match value {
            Value::Object(fields) => {
                if let Some(id) = fields.get("id").and_then(Value::as_u64) {
                    self.named(id, place);
                    if fields.contains_key("is_glob") {
                        self.item(id, place);
                    }
                }
                for (key, value) in fields {
                    match (key.as_str(), value) {
                        ("id" | "links", _) => {}
                        (
                            "items" | "impls" | "implementations" | "variants" | "fields" | "tuple",
                            Value::Array(ids),
                        ) => {
                            for id in ids {
                                match id.as_u64() {
                                    Some(id) => self.item(id, place),
                                    None => self.value(id, place),
                                }
                            }
                        }
                        _ => self.value(value, place),
                    }
                }
            }
            Value::Array(values) => values.iter().for_each(|value| self.value(value, place)),
            _ => {}
        }
    }

    fn named(&mut self, id: u64, place: &str) {
        let krate = &self.json["paths"][id.to_string()]["crate_id"];
        let Some(krate) = krate.as_u64().filter(|krate| *krate != 0) else { return };
        let name = self.json["external_crates"][krate.to_string()]["name"].as_str().expect("a name");
        if !OWN.contains(&name) {
            self.foreign.entry(name.to_owned()).or_default().insert(place.to_owned());
        }
    }
}
