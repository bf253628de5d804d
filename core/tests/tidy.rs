//! The rules of the house, as a test: `cargo tidy`.
//!
//! What no compiler checks and every reader relies on: which crate may know which, that each file
//! says what it is, that nothing lies about unused or unfinished, that the documents are true.
//! Each failure names the file and the rule.
//!
//! `TIDY_REWRITE=1 cargo tidy` rewrites what is generated (the table of APIs).
// Fixtures are tests, though they are no test functions.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Who may know whom. The table of docs/ARCHITECTURE.md; no arrow goes back.
const MAY_IMPORT: &[(&str, &str, &[&str])] = &[
    ("storage/record", "tidemill-record", &[]),
    ("core/runtime", "tidemill-runtime", &[]),
    ("storage", "tidemill-storage", &["tidemill-record"]),
    ("net", "tidemill-net", &["tidemill-record"]),
    ("net/client", "tidemill-client", &["tidemill-record", "tidemill-net"]),
    ("replication", "tidemill-replication", &["tidemill-record"]),
    ("perf", "tidemill-perf", &["tidemill-runtime"]),
    (
        "bench",
        "tidemill-bench",
        &[
            "tidemill-record",
            "tidemill-net",
            "tidemill-client",
            "tidemill-runtime",
            "tidemill-perf",
        ],
    ),
    (
        "core",
        "tidemill",
        &[
            "tidemill-record",
            "tidemill-runtime",
            "tidemill-storage",
            "tidemill-net",
            "tidemill-client",
            "tidemill-replication",
            "tidemill-perf",
            "tidemill-bench",
        ],
    ),
    (
        "core/sim",
        "tidemill-sim",
        &[
            "tidemill-record",
            "tidemill-runtime",
            "tidemill-storage",
            "tidemill-net",
            "tidemill-replication",
            "tidemill-perf",
            "tidemill",
        ],
    ),
];

/// Words that say nothing about what a file is for.
const EMPTY_WORDS: &[&str] = &[
    "manager",
    "handler",
    "helper",
    "helpers",
    "util",
    "utils",
    "common",
    "misc",
    "base",
    "impls",
    "data",
    "info",
    "context",
    "service",
    "engine",
    "processor",
    "wrapper",
    "object",
    "types",
];

/// Marks of unfinished work. Split, so that this file is not found by its own search.
const LEFTOVERS: &[&str] = &[
    concat!("FIX", "ME"),
    concat!("TO", "DO"),
    concat!("XX", "X"),
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
    concat!("dbg", "!("),
    concat!("(being ", "written)"),
];

/// Where the registries of packages live: a file that names one would bind us to it.
const REGISTRIES: &[&str] = &[
    concat!("crates", ".io"),
    concat!("pypi", ".org"),
    concat!("pythonhosted", ".org"),
    concat!("npmjs", ".org"),
    concat!("maven", ".org"),
    concat!("proxy.golang", ".org"),
    concat!("deb.debian", ".org"),
];

/// Paths that exist on one machine only.
const MACHINE_PATHS: &[&str] =
    &[concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("core lies in the repository").to_owned()
}

/// All files below `dir` that people wrote, as paths relative to the root.
fn files(dir: &str) -> Vec<PathBuf> {
    let root = root();
    let mut found = Vec::new();
    let mut waiting = vec![root.join(dir)];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let made = ["target", ".git", "tidemill-data", "corpus", "artifacts", "node_modules"];
            if made.contains(&name.as_str()) {
                continue;
            }
            if path.is_dir() {
                waiting.push(path);
            } else {
                found.push(path.strip_prefix(&root).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    let bytes = fs::read(root().join(path)).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn with_extension(extension: &str) -> Vec<PathBuf> {
    files(".").into_iter().filter(|path| path.extension().is_some_and(|e| e == extension)).collect()
}

/// Fails with all complaints at once: whoever cleans up wants the whole list.
fn report(rule: &str, complaints: &[String]) {
    assert!(complaints.is_empty(), "{rule}:\n  {}", complaints.join("\n  "));
}

/// The compiler guards a rule only where a crate's manifest leaves the other crate out.
#[test]
fn crates_know_only_whom_the_table_lets_them_know() {
    let mut complaints = Vec::new();
    for (dir, package, allowed) in MAY_IMPORT {
        let manifest: toml::Table = read(&Path::new(dir).join("Cargo.toml")).parse().unwrap();
        assert_eq!(manifest["package"]["name"].as_str(), Some(*package), "{dir}");
        // Tests may use more: they are nobody's dependency.
        for section in ["dependencies", "build-dependencies"] {
            let Some(known) = manifest.get(section).and_then(|s| s.as_table()) else { continue };
            for name in known.keys().filter(|name| name.starts_with("tidemill")) {
                if !allowed.contains(&name.as_str()) {
                    complaints.push(format!("{package} ({section}) knows {name}"));
                }
            }
        }
    }
    report("an arrow that is not in the table", &complaints);
}

#[test]
fn every_crate_is_in_the_table() {
    let workspace: toml::Table = read(Path::new("Cargo.toml")).parse().unwrap();
    let members = workspace["workspace"]["members"].as_array().unwrap();
    let members: BTreeSet<&str> = members.iter().filter_map(|member| member.as_str()).collect();
    let table: BTreeSet<&str> = MAY_IMPORT.iter().map(|(dir, ..)| *dir).collect();
    assert_eq!(members, table);
}

/// Each package we depend on is used where it is declared, and has a line that says why.
#[test]
fn every_dependency_is_used_and_explained() {
    let reasons = read(Path::new("docs/decisions/2026-11-22-dependencies.md"));
    let mut complaints = Vec::new();
    for (dir, package, _) in MAY_IMPORT {
        let manifest: toml::Table = read(&Path::new(dir).join("Cargo.toml")).parse().unwrap();
        for section in ["dependencies", "dev-dependencies"] {
            let Some(known) = manifest.get(section).and_then(|s| s.as_table()) else { continue };
            for name in known.keys() {
                if !name.starts_with("tidemill") && !reasons.contains(&format!("`{name}`")) {
                    complaints.push(format!("{package}: no line says why {name}"));
                }
                if !is_named_in(dir, &name.replace('-', "_")) {
                    complaints.push(format!("{package}: {name} is not used"));
                }
            }
        }
    }
    report("dependencies", &complaints);
}

/// Whether any source or test of a crate names `word`, a crate of Rust's.
fn is_named_in(dir: &str, word: &str) -> bool {
    // The library of the package tidemill has a name of its own.
    let word = if word == "tidemill" { "broker" } else { word };
    let places = ["src", "tests", "examples", "benches"].map(|place| Path::new(dir).join(place));
    let places = places.iter().filter(|place| root().join(place).exists());
    places
        .flat_map(|place| files(place.to_str().unwrap()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .any(|path| read(&path).contains(&format!("{word}::")))
}

/// The documents show the same table, so that nobody has to read a test to learn it.
#[test]
fn the_table_stands_in_the_architecture() {
    let text = read(Path::new("docs/ARCHITECTURE.md"));
    let complaints: Vec<String> = MAY_IMPORT
        .iter()
        .filter(|(dir, package, _)| !text.contains(&format!("| `{dir}` (`{package}`")))
        .map(|(dir, package, _)| format!("{dir} ({package})"))
        .collect();
    report("missing in docs/ARCHITECTURE.md", &complaints);
}

#[test]
fn every_source_file_says_what_it_is() {
    let mut complaints = Vec::new();
    for path in with_extension("rs") {
        let text = read(&path);
        let first = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with("#!["));
        if !first.is_some_and(|line| line.starts_with("//! ")) {
            complaints.push(path.display().to_string());
        }
    }
    report("does not open with a //! comment", &complaints);
}

/// A file that no module declares compiles for ever and does nothing.
#[test]
fn every_source_file_belongs_to_a_crate() {
    let mut complaints = Vec::new();
    for (dir, ..) in MAY_IMPORT {
        let source = Path::new(dir).join("src");
        let mut reached = BTreeSet::new();
        let roots = ["lib.rs", "main.rs"].map(|name| source.join(name));
        let mut waiting: Vec<PathBuf> =
            roots.into_iter().filter(|path| root().join(path).exists()).collect();
        while let Some(path) = waiting.pop() {
            waiting.extend(modules_of(&path));
            reached.insert(path);
        }
        let all = files(source.to_str().unwrap());
        let binaries = source.join("bin");
        let unreached = all.into_iter().filter(|path| {
            let rust = path.extension().is_some_and(|extension| extension == "rs");
            rust && !path.starts_with(&binaries) && !reached.contains(path)
        });
        complaints.extend(unreached.map(|path| path.display().to_string()));
    }
    report("no module declares it", &complaints);
}

/// The files of the modules that a file declares.
fn modules_of(path: &Path) -> Vec<PathBuf> {
    let dir = match path.file_name().and_then(|name| name.to_str()) {
        Some("lib.rs" | "main.rs" | "mod.rs") => path.parent().unwrap().to_owned(),
        _ => path.with_extension(""),
    };
    let text = read(path);
    let declared = text.lines().filter_map(|line| {
        let line = line.trim().strip_suffix(';')?;
        let at = line.find("mod ").filter(|at| *at == 0 || line[..*at].ends_with([' ', ')']))?;
        let visible = line[..at].trim();
        (visible.is_empty() || visible.starts_with("pub")).then(|| line[at + 4..].to_owned())
    });
    declared
        .flat_map(|name| [dir.join(format!("{name}.rs")), dir.join(name).join("mod.rs")])
        .filter(|path| root().join(path).exists())
        .collect()
}

#[test]
fn nothing_unfinished_is_left() {
    let mut complaints = Vec::new();
    for path in with_extension("rs") {
        for (number, line) in read(&path).lines().enumerate() {
            if LEFTOVERS.iter().any(|mark| line.contains(mark)) {
                complaints.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    report("unfinished", &complaints);
}

#[test]
fn file_names_say_something() {
    let mut complaints = Vec::new();
    for path in with_extension("rs") {
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        if stem.split('_').any(|word| EMPTY_WORDS.contains(&word)) {
            complaints.push(path.display().to_string());
        }
    }
    report("a name that says nothing", &complaints);
}

#[test]
fn no_file_is_bound_to_a_registry_or_a_machine() {
    let mut complaints = Vec::new();
    let text_kinds = ["rs", "md", "toml", "sh", "py", "xml", "yml", "yaml", "json", "txt"];
    for path in files(".") {
        let extension =
            path.extension().map_or(String::new(), |e| e.to_string_lossy().into_owned());
        let script = extension.is_empty();
        if !script && !text_kinds.contains(&extension.as_str()) {
            continue;
        }
        for (number, line) in read(&path).lines().enumerate() {
            if REGISTRIES.iter().chain(MACHINE_PATHS).any(|bad| line.contains(bad)) {
                complaints.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    report("bound to one registry or one machine", &complaints);
}

#[test]
fn documents_have_one_title_and_live_links() {
    let mut complaints = Vec::new();
    for path in with_extension("md") {
        let text = without_code(&read(&path));
        let titles = text.lines().filter(|line| line.starts_with("# ")).count();
        if titles != 1 {
            complaints.push(format!("{} has {titles} titles", path.display()));
        }
        for target in links(&text) {
            let file = target.split('#').next().unwrap_or_default();
            let inside = !file.is_empty() && !file.contains("://") && !file.starts_with("mailto:");
            let from = path.parent().unwrap_or(Path::new(""));
            if inside && !root().join(from).join(file).exists() {
                complaints.push(format!("{} links to {target}", path.display()));
            }
        }
    }
    report("documents", &complaints);
}

/// Comments in code blocks look like titles, and brackets like links.
fn without_code(text: &str) -> String {
    let mut inside = false;
    let kept = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        !inside && !fence
    });
    kept.collect::<Vec<_>>().join("\n")
}

/// The targets of `[text](target)`.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

/// Where the generated table lies in its document.
const TABLE_BEGIN: &str = "<!-- table of APIs: generated by TIDY_REWRITE=1 cargo tidy -->";
const TABLE_END: &str = "<!-- end of table -->";

/// What clients may ask for is what the documents say.
#[test]
fn the_table_of_apis_is_the_one_served() {
    let path = Path::new("docs/protocols/kafka.md");
    let text = read(path);
    let (before, rest) = text.split_once(TABLE_BEGIN).expect("the document has the mark");
    let (_, after) = rest.split_once(TABLE_END).expect("the document has the end mark");
    let wanted = format!("{before}{TABLE_BEGIN}\n{}{TABLE_END}{after}", table_of_apis());
    if std::env::var_os("TIDY_REWRITE").is_some() {
        fs::write(root().join(path), &wanted).unwrap();
    } else {
        assert!(wanted == text, "docs/protocols/kafka.md is old: TIDY_REWRITE=1 cargo tidy");
    }
}

fn table_of_apis() -> String {
    let mut table = "| API | number | versions | told to clients | compact from |\n".to_owned();
    table.push_str("|---|---|---|---|---|\n");
    for api in tidemill_net::kafka::APIS.iter().filter(|api| api.served) {
        let (number, name) = (api.key.to_wire(), api.name);
        let (told, served, max) = (api.advertised_min, api.served_min, api.max);
        let compact = match api.flexible_from {
            tidemill_net::kafka::NEVER => "never".to_owned(),
            version => version.to_string(),
        };
        let _ =
            writeln!(table, "| {name} | {number} | {served}–{max} | {told}–{max} | {compact} |");
    }
    table
}

/// Which files have outgrown a reader, for whoever looks: told, never failed.
#[test]
fn long_files_are_told() {
    let mut long = BTreeMap::new();
    for path in with_extension("rs") {
        let lines = read(&path).lines().count();
        if 700 < lines {
            long.insert(path, lines);
        }
    }
    for (path, lines) in long {
        println!("{} has {lines} lines", path.display());
    }
}
