//! Real input: what lies on every Debian machine, with keys that repeat and lengths that vary.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::program::output;

/// Separates key and value where records travel as text. Real text does not hold it.
pub const KEY_END: char = '\x1f';

/// Ends a record where records travel as text.
pub const RECORD_END: char = '\x1e';

/// Records in the order in which they are produced.
pub type Records = Vec<(Vec<u8>, Vec<u8>)>;

/// The stanzas of the Debian package index, each under the name of its package.
pub fn package_index() -> Records {
    let list = ["indextargets", "--format", "$(FILENAME)", "Created-By: Packages"];
    let names = String::from_utf8(output(Command::new("apt-get").args(list))).unwrap();
    let mut records = Records::new();
    for name in names.lines() {
        // The lists may be compressed, in a way that only apt needs to know.
        let mut cat = Command::new("/usr/lib/apt/apt-helper");
        let text = output(cat.arg("cat-file").arg(name));
        let text = String::from_utf8_lossy(&text);
        for stanza in text.split("\n\n").filter(|stanza| !stanza.trim().is_empty()) {
            let package = stanza.lines().find_map(|line| line.strip_prefix("Package: "));
            let key = package.expect("a stanza names its package").as_bytes().to_vec();
            records.push((key, stanza.as_bytes().to_vec()));
        }
    }
    assert!(1000 < records.len(), "apt-get update fetches the package index");
    records
}

/// At least `count` lines of the text files on this machine, each under the name of its file.
pub fn lines_of_text(count: usize) -> Records {
    let mut records = Records::new();
    let mut waiting: Vec<PathBuf> =
        ["/usr/include", "/usr/share/doc", "/usr/share/perl", "/usr/lib/python3"]
            .map(PathBuf::from)
            .into();
    while let Some(path) = waiting.pop() {
        let Ok(entries) = std::fs::read_dir(&path) else { continue };
        let mut entries: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        entries.sort();
        for path in entries.into_iter().filter(|path| !path.is_symlink()) {
            if path.is_dir() {
                waiting.push(path);
            } else {
                take_lines(&path, &mut records);
            }
        }
        if count <= records.len() {
            break;
        }
    }
    // A small machine has less text than is wanted: the same text again, told apart.
    let once = records.len();
    assert!(0 < once, "there is text on this machine");
    while records.len() < count {
        let round = records.len() / once;
        let (key, value) = records[records.len() - once].clone();
        records.push((key, [&value[..], format!(" ({round})").as_bytes()].concat()));
    }
    records
}

fn take_lines(path: &Path, records: &mut Records) {
    let mut text = Vec::new();
    let opened = std::fs::File::open(path);
    let read = opened.and_then(|file| file.take(4 << 20).read_to_end(&mut text));
    let Ok(text) = String::from_utf8(text) else { return };
    if read.is_err() || text.contains([KEY_END, RECORD_END, '\0']) {
        return;
    }
    let key = path.to_string_lossy().into_owned().into_bytes();
    // An empty value would be sent as null by some of the clients.
    let lines = text.split('\n').filter(|line| !line.is_empty());
    records.extend(lines.map(|line| (key.clone(), line.as_bytes().to_vec())));
}

/// The records as one text, key and value and record each ended by a mark.
pub fn to_text(records: &Records) -> Vec<u8> {
    let mut text = Vec::new();
    for (key, value) in records {
        text.extend_from_slice(key);
        text.push(KEY_END as u8);
        text.extend_from_slice(value);
        text.push(RECORD_END as u8);
    }
    text
}

/// The records of such a text.
pub fn from_text(text: &[u8]) -> Records {
    let records = text.split(|byte| *byte == RECORD_END as u8).filter(|record| !record.is_empty());
    records
        .map(|record| {
            let end = record.iter().position(|byte| *byte == KEY_END as u8).expect("a key");
            (record[..end].to_vec(), record[end + 1..].to_vec())
        })
        .collect()
}

/// Fails unless both hold the same records, byte for byte, in the same order for each key.
pub fn assert_same_by_key(sent: &Records, found: &Records) {
    assert_eq!(found.len(), sent.len(), "as many records as were sent");
    let by_key = |records: &Records| {
        let mut map: HashMap<Vec<u8>, Vec<Vec<u8>>> = HashMap::new();
        for (key, value) in records {
            map.entry(key.clone()).or_default().push(value.clone());
        }
        map
    };
    let (sent, mut found) = (by_key(sent), by_key(found));
    for (key, values) in sent {
        let name = String::from_utf8_lossy(&key).into_owned();
        let found = found.remove(&key).unwrap_or_else(|| panic!("nothing under key {name}"));
        assert!(found == values, "the records under key {name} differ");
    }
}
