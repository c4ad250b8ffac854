//! The links of the docs work, in the pages that rustdoc makes as docs.rs does, and in the files of the repository.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use public::{here, nightly};
use pulldown_cmark::{Options, Parser, html};
use serde_json::Value;

const PACKAGES: [&str; 3] = ["tower-bearer", "tower-bearer-redis", "tower-bearer-reqwest"];

/// The URL of the published docs. The test replaces it by the folder of the built docs.
const PUBLISHED: &str = "https://docs.rs/tower-bearer/latest/";

/// Builds the docs as docs.rs does: all features, their labels, links to the docs of other crates.
fn build() -> Option<PathBuf> {
    nightly("the links and labels of the docs")?;
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rustdoc");
    let docs = target.join("doc");
    for package in PACKAGES {
        // rustdoc keeps old pages, and links to them would seem to work.
        let _ = fs::remove_dir_all(docs.join(package.replace('-', "_")));
    }
    // The packages are built one after the other, because rustdoc links to another crate only if its pages exist.
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

/// The features in the manifest of a package that add to its API.
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

/// The pages in a folder with this extension, each with its text, without built and downloaded ones.
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
    assert!(pages.len() > 1, "{} contains no pages", folder.display());
    pages
}

/// The page that a browser shows for this one. rustdoc writes a redirection if an item is published elsewhere.
fn shown(page: &Path) -> PathBuf {
    let text = fs::read_to_string(page).unwrap_or_default();
    let moved = text.split("content=\"0;URL=").nth(1).and_then(|rest| rest.split('"').next());
    moved.map_or_else(|| page.to_owned(), |target| page.with_file_name(target))
}

/// The broken links, pictures and anchors of a page.
fn broken_links(page: &Path, html: &str) -> Vec<String> {
    let targets = [" href=\"", " src=\""].into_iter().flat_map(|attribute| html.split(attribute).skip(1));
    let targets = targets.map(|rest| rest.split('"').next().expect("a first part"));
    let is_broken = |target: &&str| {
        if ["http://", "https://", "data:"].iter().any(|scheme| target.starts_with(scheme)) {
            // The pages of the docs must link to each other with relative URLs.
            return target.starts_with(PUBLISHED);
        }
        let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
        let file = file.split('?').next().expect("a first part");
        let file = if file.is_empty() { page.to_owned() } else { shown(&page.with_file_name(file)) };
        // The anchors of a source file are its lines.
        let has_anchor = || fs::read_to_string(&file).is_ok_and(|text| text.contains(&format!("id=\"{anchor}\"")));
        !(file.exists() && (anchor.is_empty() || target.contains("../src/") || has_anchor()))
    };
    targets.filter(is_broken).map(|target| format!("{}: {target}", page.display())).collect()
}

#[test]
fn every_link_and_picture_works_and_every_feature_is_a_label() {
    let Some(docs) = build() else { return };
    let mut found = Vec::new();
    for package in PACKAGES {
        let pages = pages(&docs.join(package.replace('-', "_")), ".html");
        // An unresolved path is in the prose of another crate's trait, because rustdoc itself reports this crate's.
        found.extend(
            pages.iter().flat_map(|(page, html)| broken_links(page, html)).filter(|found| !found.contains("::")),
        );
        for feature in features(package) {
            let label = format!("Available on <strong>crate feature <code>{feature}</code></strong> only");
            assert!(pages.iter().any(|(_, html)| html.contains(&label)), "no page of {package} has the label {label}");
        }
    }
    for (page, text) in pages(&here(), ".md") {
        let mut html = String::new();
        html::push_html(&mut html, Parser::new_ext(&text, Options::ENABLE_TABLES));
        found.extend(broken_links(&page, &html.replace(PUBLISHED, &format!("{}/", docs.display()))));
        // rustdoc resolves such a link, but other renderers show the brackets.
        found.extend(html.contains("[<code>").then(|| format!("{}: a link without an address", page.display())));
    }
    assert!(found.is_empty(), "broken links:\n{}", found.join("\n"));
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
    assert!(readme.contains(life[0]), "the README has another diagram:\n{}", life[0]);
    // The README of the adapter has the same example, and compiles it.
    let reqwest =
        fs::read_to_string(here().join("crates/tower-bearer-reqwest/README.md")).expect("the adapter's README");
    let example = reqwest.split("```rust,no_run\n").nth(1).and_then(|rest| rest.split("```").next());
    assert!(readme.contains(example.expect("an example")), "the README's example with reqwest is another");
}
