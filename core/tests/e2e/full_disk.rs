//! A disk that is full: no false acknowledgement, no end of the process, and all is well again
//! when there is space again.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::corpus::{self, Records};
use crate::process::Broker;
use crate::program::{kept_dir, output, tidemill};

/// The journal's smallest size, room for the metadata, and little more.
const DISK_BYTES: u64 = 192 * 1024 * 1024;

/// A small file system of its own, unmounted at the end.
struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    fn mount() -> Self {
        let at = kept_dir("small-disk");
        let image = kept_dir("small-disk.img");
        std::fs::create_dir_all(&at).unwrap();
        let _ = Command::new("umount").arg(&at).output();
        let file = std::fs::File::create(&image).unwrap();
        file.set_len(DISK_BYTES).unwrap();
        output(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
        output(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at));
        Self { at }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).output();
    }
}

/// Everything acknowledged while the disk filled up is there, reads go on while it is full, and
/// once a topic is deleted producing works again without a restart.
#[test]
fn a_full_disk_is_a_state_and_heals() {
    let disk = SmallDisk::mount();
    let settings = ["--shards", "1", "--set", "tidemill.journal.bytes=64MiB"];
    let mut broker = Broker::start_in(&disk.at.join("broker"), &settings);
    broker.keep_dir();
    let address = broker.address();
    for topic in ["kept", "filler"] {
        tidemill(&["topic", "create", topic, "-p", "1", "-b", &address]);
    }
    let kept: Records = (0..1000).map(|n| (b"k".to_vec(), format!("kept {n}").into())).collect();
    assert!(produce(&address, "kept", &corpus::to_text(&kept)), "there is space at first");

    let filler = vec![b'x'; 8 * 1024 * 1024];
    let filler: Records =
        filler.chunks(64 * 1024).map(|chunk| (b"f".to_vec(), chunk.to_vec())).collect();
    let text = corpus::to_text(&filler);
    let mut stored = 0;
    while produce(&address, "filler", &text) {
        stored += filler.len();
        assert!(stored < 100_000, "the disk holds no more than this");
    }
    assert!(broker.is_alive(), "a full disk ended the process:\n{}", broker.log());
    assert!(stored <= consume(&address, "filler").len(), "what was acknowledged can be read");
    corpus::assert_same_by_key(&kept, &consume(&address, "kept"));

    tidemill(&["topic", "delete", "filler", "-b", &address]);
    let again: Records = (0..1000).map(|n| (b"k".to_vec(), format!("again {n}").into())).collect();
    assert!(produce(&address, "kept", &corpus::to_text(&again)), "healed: {}", broker.log());
    let both = [kept, again].concat();
    corpus::assert_same_by_key(&both, &consume(&address, "kept"));

    broker.kill();
    broker.run();
    corpus::assert_same_by_key(&both, &consume(&broker.address(), "kept"));
}

/// Whether all of it was acknowledged within the time a producer tries.
fn produce(address: &str, topic: &str, text: &[u8]) -> bool {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("full-disk-input");
    std::fs::write(&file, text).unwrap();
    let done = Command::new("kcat")
        .args(["-P", "-q", "-b", address, "-t", topic, "-p", "0"])
        .args(["-K", &corpus::KEY_END.to_string(), "-D", &corpus::RECORD_END.to_string()])
        .args(["-X", "acks=all", "-X", "enable.idempotence=true", "-X", "message.timeout.ms=10000"])
        .stdin(std::fs::File::open(&file).unwrap())
        .output()
        .unwrap();
    done.status.success() && !String::from_utf8_lossy(&done.stderr).contains("Delivery failed")
}

fn consume(address: &str, topic: &str) -> Records {
    let format = format!("%k{}%s{}", corpus::KEY_END, corpus::RECORD_END);
    corpus::from_text(&tidemill(&["consume", "-b", address, "-t", topic, "-e", "-f", &format]))
}
