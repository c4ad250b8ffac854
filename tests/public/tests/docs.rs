//! What the docs point to is there: in the pages that rustdoc makes as docs.rs does, and in the repository's own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use public::{here, nightly};
use pulldown_cmark::{Options, Parser, html};
use serde_json::Value;

const PACKAGES: [&str; 3] = ["tower-bearer", "tower-bearer-redis", "tower-bearer-reqwest"];

/// Where the docs are once they are published: here, the folder they were built into.
const PUBLISHED: &str = "https://docs.rs/tower-bearer/latest/";

/// Builds the docs as docs.rs does: all features, their labels, links to the docs of other crates.
fn build() -> Option<PathBuf> {
    nightly("the links and labels of the docs")?;
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rustdoc");
    let docs = target.join("doc");
    for package in PACKAGES {
        // rustdoc leaves old pages there, and links to them would be found good.
        let _ = fs::remove_dir_all(docs.join(package.replace('-', "_")));
    }
    // One after the other: rustdoc links to what another crate documents only where its pages are already there.
    for package in PACKAGES {
        let status = nightly("the links and labels of the docs")?
            .args(["doc", "-Z", "rustdoc-map", "--no-deps", "--all-features", "--package", package, "--target-dir"])
            .arg(&target)
            .env("RUSTDOCFLAGS", "-D warnings --cfg docsrs")
            .status()
            .expect("cargo");
        assert!(status.success());
    }
    Some(docs)
}

/// The features that bring something to the API of a package, as its manifest has them.
fn features(package: &str) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(here())
        .output()
        .expect("cargo");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let mut packages = metadata["packages"].as_array().expect("packages").iter();
    let package = packages.find(|of| of["name"] == package).expect("a member");
    let features = package["features"].as_object().expect("features").keys();
    features.filter(|feature| !["default", "follow-redirect", "tls"].contains(&feature.as_str())).cloned().collect()
}

/// The pages below a folder whose names end so, each with its text, but for what was built or fetched.
fn pages(folder: &Path, ends: &str) -> Vec<(PathBuf, String)> {
    fn read(folder: &Path, ends: &str, pages: &mut Vec<(PathBuf, String)>) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name in UTF-8");
            if path.is_dir() {
                if !name.starts_with('.') && !["target", "node_modules", "python_modules"].contains(&name) {
                    read(&path, ends, pages)?;
                }
            } else if name.ends_with(ends) {
                let text = fs::read_to_string(&path)?;
                pages.push((path, text));
            }
        }
        Ok(())
    }
    let mut pages = Vec::new();
    read(folder, ends, &mut pages).expect("the pages are readable");
    assert!(pages.len() > 1, "{} was to hold pages", folder.display());
    pages
}

/// The page that a browser shows for this one: rustdoc leaves a redirection where an item is published elsewhere.
fn shown(page: &Path) -> PathBuf {
    let text = fs::read_to_string(page).unwrap_or_default();
    let moved = text.split("content=\"0;URL=").nth(1).and_then(|rest| rest.split('"').next());
    moved.map_or_else(|| page.to_owned(), |target| page.with_file_name(target))
}

/// What a page points to that is not there: links and pictures, and places within a page.
fn dead(page: &Path, html: &str) -> Vec<String> {
    let targets = [" href=\"", " src=\""].into_iter().flat_map(|attribute| html.split(attribute).skip(1));
    let targets = targets.map(|rest| rest.split('"').next().expect("a first part"));
    let leads_nowhere = |target: &&str| {
        if ["http://", "https://", "data:"].iter().any(|scheme| target.starts_with(scheme)) {
            // The docs go to one another directly.
            return target.starts_with(PUBLISHED);
        }
        let (file, place) = target.split_once('#').unwrap_or((target, ""));
        let file = file.split('?').next().expect("a first part");
        let file = if file.is_empty() { page.to_owned() } else { shown(&page.with_file_name(file)) };
        // Places in a source are its lines.
        let has_place = || fs::read_to_string(&file).is_ok_and(|text| text.contains(&format!("id=\"{place}\"")));
        !(file.exists() && (place.is_empty() || target.contains("../src/") || has_place()))
    };
    targets.filter(leads_nowhere).map(|target| format!("{}: {target}", page.display())).collect()
}

#[test]
fn every_link_and_picture_leads_somewhere_and_every_feature_is_a_label() {
    let Some(docs) = build() else { return };
    let mut found = Vec::new();
    for package in PACKAGES {
        let pages = pages(&docs.join(package.replace('-', "_")), ".html");
        // A path that is left over is in the prose of another crate's trait; of ours rustdoc itself tells.
        found.extend(pages.iter().flat_map(|(page, html)| dead(page, html)).filter(|found| !found.contains("::")));
        for feature in features(package) {
            let label = format!("Available on <strong>crate feature <code>{feature}</code></strong> only");
            assert!(pages.iter().any(|(_, html)| html.contains(&label)), "nothing of {package} says {label}");
        }
    }
    for (page, text) in pages(&here(), ".md") {
        let mut html = String::new();
        html::push_html(&mut html, Parser::new_ext(&text, Options::ENABLE_TABLES));
        found.extend(dead(&page, &html.replace(PUBLISHED, &format!("{}/", docs.display()))));
        // rustdoc would find such an item, and other readers would see the brackets.
        found.extend(html.contains("[<code>").then(|| format!("{}: a link without an address", page.display())));
    }
    assert!(found.is_empty(), "these lead nowhere:\n{}", found.join("\n"));
}

#[test]
fn the_readme_shows_what_other_pages_show() {
    let readme = fs::read_to_string(here().join("README.md")).expect("the README");
    let front = fs::read_to_string(here().join("src/lib.rs")).expect("the front page");
    let front: Vec<_> = front.lines().filter_map(|line| line.strip_prefix("//!")).collect();
    let front = front.iter().map(|line| line.strip_prefix(' ').unwrap_or(line)).collect::<Vec<_>>().join("\n");
    let drawn: Vec<_> = front.split("```text\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let life: Vec<_> = drawn.iter().filter(|drawn| drawn.contains("fetched")).collect();
    assert_eq!(life.len(), 1, "one picture of a token's life");
    assert!(readme.contains(life[0]), "the README draws otherwise:\n{}", life[0]);
    // The same example, compiled there.
    let reqwest =
        fs::read_to_string(here().join("crates/tower-bearer-reqwest/README.md")).expect("the adapter's README");
    let example = reqwest.split("```rust,no_run\n").nth(1).and_then(|rest| rest.split("```").next());
    assert!(readme.contains(example.expect("an example")), "the README's example with reqwest is another");
}
