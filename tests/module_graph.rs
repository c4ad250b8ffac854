//! The files of `src/` import each other in one direction, and each file implements only the types that it declares.
//!
//! A path `crate::a::b::Name` names the file `a/b.rs` if there is one, and otherwise `a.rs`. A parent that re-exports
//! an item of its child imports the child. Comments and tests do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::{fs, io};

/// The code of each file, by the path of its module (`source::oauth2`).
type Sources = BTreeMap<String, String>;

/// Each file, with the files that it imports.
type Graph = BTreeMap<String, BTreeSet<String>>;

// === reading ===

/// Reads the files below `path`, which belong to the module `parent`, or to the crate if that is empty.
fn read(path: &Path, parent: &str, sources: &mut Sources) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("a name in UTF-8");
        let module = if parent.is_empty() { stem.to_owned() } else { format!("{parent}::{stem}") };
        if stem == "tests" || ["lib", "guide"].contains(&&*module) {
            continue;
        }
        if path.is_dir() {
            read(&path, &module, sources)?;
        } else {
            sources.insert(module, code(&fs::read_to_string(&path)?));
        }
    }
    Ok(())
}

fn sources() -> Sources {
    let mut sources = Sources::new();
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut sources).expect("the sources are readable");
    assert!(sources.len() > 40, "the sources were found: {:?}", sources.keys());
    sources
}

/// The text without comments, and without the unit tests at its end.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.map(|line| format!("{}\n", line.split(" // ").next().unwrap_or_default())).collect()
}

fn is_name_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Adds the paths at the start of `text`: `a::b`, `a::{b, c::D}`. Returns the text after them.
fn paths<'a>(text: &'a str, prefix: &[&'a str], found: &mut Vec<Vec<&'a str>>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut group) = text.strip_prefix('{') {
        loop {
            group = paths(group, prefix, found).trim_start();
            match group.split_at(1) {
                (",", rest) => group = rest,
                ("}", rest) => return rest,
                (other, _) => panic!("a path goes on with {other}"),
            }
        }
    }
    let (name, rest) = text.split_at(text.find(|c| !is_name_char(c)).unwrap_or(text.len()));
    let path: Vec<_> = prefix.iter().copied().chain(Some(name).filter(|name| !["", "self"].contains(name))).collect();
    match rest.strip_prefix("::") {
        Some(rest) if rest.starts_with(|c| is_name_char(c) || c == '{') => return paths(rest, &path, found),
        Some(rest) if rest.starts_with('*') => {
            found.push(path);
            return &rest[1..];
        }
        _ => found.push(path),
    }
    rest.strip_prefix(" as ").map_or(rest, |alias| alias.trim_start_matches(is_name_char))
}

/// The text after each `name::` that may begin a path.
fn after<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let start = format!("{name}::");
    let places = text.match_indices(&start);
    let places = places.filter(|(at, _)| !text[..*at].ends_with(|c| is_name_char(c) || c == ':'));
    places.map(|(at, start)| &text[at + start.len()..]).collect()
}

/// The file that a path names.
fn file(sources: &Sources, path: &[&str]) -> Option<String> {
    (1..=path.len()).rev().map(|length| path[..length].join("::")).find(|module| sources.contains_key(module))
}

fn imports(sources: &Sources, module: &str, text: &str) -> BTreeSet<String> {
    assert!(!text.contains("super::") && !text.contains("use self::"), "{module}: write `crate::module::Name`");
    let mut found = Vec::new();
    for rest in after(text, "crate") {
        paths(rest, &[], &mut found);
    }
    let own: Vec<_> = module.split("::").collect();
    // The paths of a child need no `crate::`.
    for child in text.lines().filter_map(|line| line.split_once("mod ")?.1.strip_suffix(';')) {
        let path = own.iter().copied().chain([child]).collect::<Vec<_>>();
        for rest in after(text, child) {
            paths(rest, &path, &mut found);
        }
    }
    let name = |path: &Vec<&str>| {
        file(sources, path).unwrap_or_else(|| panic!("{module} imports no file: crate::{}", path.join("::")))
    };
    found.iter().map(name).filter(|other| other != module).collect()
}

fn graph(sources: &Sources) -> Graph {
    sources.iter().map(|(module, text)| (module.clone(), imports(sources, module, text))).collect()
}

// === the rules ===

/// Finds a path from a file back to itself.
fn cycle(graph: &Graph) -> Option<Vec<&str>> {
    /// Continues from the end of `path`. `done` has the files that lead into no cycle.
    fn walk<'a>(graph: &'a Graph, path: &mut Vec<&'a str>, done: &mut BTreeSet<&'a str>) -> bool {
        let here = *path.last().expect("a path has a beginning");
        for next in graph.get(here).into_iter().flatten() {
            let before = path.iter().position(|file| file == next);
            path.push(next);
            if let Some(start) = before {
                path.drain(..start);
                return true;
            }
            if !done.contains(&**next) && walk(graph, path, done) {
                return true;
            }
            path.pop();
        }
        done.insert(here);
        false
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|file| {
        let mut path = vec![&**file];
        walk(graph, &mut path, &mut done).then_some(path)
    })
}

fn top(module: &str) -> &str {
    module.split("::").next().unwrap_or_default()
}

/// The graph of the top-level modules.
fn top_level(graph: &Graph) -> Graph {
    let mut tops = Graph::new();
    for (module, others) in graph {
        let others = others.iter().map(|other| top(other)).filter(|other| *other != top(module)).map(str::to_owned);
        tops.entry(top(module).to_owned()).or_default().extend(others);
    }
    tops
}

/// Whether a file declares this type or trait.
fn declares(text: &str, kinds: &[&str], name: &str) -> bool {
    kinds.iter().any(|kind| {
        let start = format!("{kind} {name}");
        text.match_indices(&start).any(|(at, _)| !text[at + start.len()..].starts_with(is_name_char))
    })
}

/// The last name of the path at the start of a type or trait.
fn last_name(path: &str) -> &str {
    let path = path.trim_start().trim_start_matches('&');
    let path = path.split(|c| !is_name_char(c) && c != ':').next().unwrap_or_default();
    path.rsplit("::").next().unwrap_or_default()
}

/// The types that a file implements but does not declare. A trait of the file may be implemented for any type.
fn implemented_elsewhere(text: &str, sources: &Sources) -> Vec<String> {
    const TYPES: [&str; 3] = ["struct", "enum", "union"];
    let blocks = text.split("\nimpl").skip(1).chain(text.split("\n    impl").skip(1));
    let headers = blocks.filter_map(|block| {
        let header = block.split('{').next()?;
        // Skip the generics, whose bounds may have generics, too.
        let mut depth = 0;
        let end = header.find(|c| {
            depth += i32::from(c == '<') - i32::from(c == '>');
            depth == 0
        })?;
        let header = if header.starts_with('<') { &header[end + 1..] } else { header };
        (!header.contains('$')).then(|| header.trim_start())
    });
    let foreign = headers.filter_map(|header| {
        let (of_trait, name) = match header.split_once(" for ") {
            Some((of_trait, implementer)) => (Some(last_name(of_trait)), last_name(implementer)),
            None => (None, last_name(header)),
        };
        let is_own = declares(text, &TYPES, name) || of_trait.is_some_and(|name| declares(text, &["trait"], name));
        // A trait may be implemented for a type parameter, or for a type of another crate.
        let is_known = of_trait.is_none() || sources.values().any(|text| declares(text, &TYPES, name));
        (!is_own && is_known).then(|| name.to_owned())
    });
    foreign.collect()
}

// === tests ===

#[test]
fn files_import_each_other_in_one_direction() {
    assert_eq!(cycle(&graph(&sources())), None);
}

#[test]
fn top_level_modules_form_no_cycle() {
    assert_eq!(cycle(&top_level(&graph(&sources()))), None);
}

#[test]
fn a_type_is_implemented_in_the_file_that_declares_it() {
    let sources = sources();
    for (module, text) in &sources {
        assert_eq!(implemented_elsewhere(text, &sources), <[String; 0]>::default(), "in {module}");
    }
}

#[test]
fn modules_do_not_import_forbidden_modules() {
    let graph = top_level(&graph(&sources()));
    let imports = |module: &str| graph.get(module).unwrap_or_else(|| panic!("there is no module {module}"));
    assert_eq!(imports("singleflight"), &["sync".to_owned()].into(), "the single flight does not depend on tokens");
    for (module, forbidden) in [
        ("cache", &["origin", "replay", "rejection", "layer", "service", "future"][..]),
        ("service", &["source"]),
        ("future", &["source"]),
        ("layer", &["source"]),
        ("source", &["cache", "singleflight", "layer", "service"]),
        ("testing", &["source", "cache", "layer", "service"]),
    ] {
        let found: Vec<_> = forbidden.iter().filter(|other| imports(module).contains(**other)).collect();
        assert!(found.is_empty(), "{module} imports {found:?}");
    }
}

// === the checks themselves ===

fn crate_of(files: &[(&str, &str)]) -> Sources {
    files.iter().map(|(module, text)| ((*module).to_owned(), code(text))).collect()
}

#[test]
fn a_cycle_is_found() {
    let files = crate_of(&[("a", "use crate::b::B;"), ("b", "use crate::c;"), ("c", "type B = crate::b::B;")]);
    assert_eq!(cycle(&graph(&files)).expect("b and c import each other"), ["b", "c", "b"]);
}

#[test]
fn a_cycle_between_a_parent_and_its_child_is_found() {
    for parent in ["mod b;\npub use b::B;", "pub mod b;\nuse crate::a::b::B;", "mod b;\nfn f() { b::f() }"] {
        let files = crate_of(&[("a", parent), ("a::b", "use crate::a::A;")]);
        assert_eq!(cycle(&graph(&files)).expect("a cycle"), ["a", "a::b", "a"], "{parent}");
    }
    let files = crate_of(&[("a", "mod b;\npub use b::B;"), ("a::b", "use crate::a::b::B;\n// crate::a::A")]);
    assert_eq!(cycle(&graph(&files)), None);
}

#[test]
fn every_form_of_an_import_is_read() {
    let files = crate_of(&[
        ("a", ""),
        ("a::b", ""),
        ("a::b::c", ""),
        ("d", ""),
        ("x", "use crate::a::{\n    A, b::{self, c::C as D},\n};\nfn f() { crate::d::f::<u8>() }"),
        ("y", "use crate::{a::b::*, d};"),
    ]);
    let graph = graph(&files);
    let names = |module: &str| graph[module].iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(names("x"), ["a", "a::b", "a::b::c", "d"]);
    assert_eq!(names("y"), ["a::b", "d"]);
}

#[test]
fn an_implementation_in_another_file_is_found() {
    let sources = crate_of(&[("a", "pub(crate) struct A<T>(T);"), ("b", "pub(crate) trait B {}")]);
    for foreign in [
        "\nimpl A {",
        "\nimpl<T> A<T> {",
        "\nimpl<T: Into<B>> A<T>\nwhere\n    T: C,\n{",
        "struct Ab;\nimpl A {",
        "\nimpl crate::a::A {",
        "\nimpl Default for A {",
        "\nimpl<T> fmt::Debug for crate::a::A<T> {",
        "\nimpl B for &A {",
    ] {
        assert_eq!(implemented_elsewhere(foreign, &sources), ["A"], "{foreign}");
    }
    for own in [
        "struct A;\nimpl A {",
        "pub enum A<T> {}\nimpl<T: B<C>> A<T> {",
        "struct A<T>(T);\nimpl<T> B for A<T> {",
        "trait B {}\nimpl<T> B for A<T> {",
        "\nimpl<T> B for T {",
        "\nimpl B for Vec<A> {",
        "\nimpl $name {",
    ] {
        assert_eq!(implemented_elsewhere(own, &sources), <[String; 0]>::default(), "{own}");
    }
}
