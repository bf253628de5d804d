//! Many partitions that nobody uses: they cost a little memory and no time.

use std::time::Duration;

use crate::abuse::resident_bytes;
use crate::process::Broker;
use crate::program::tidemill;

/// The clock in which /proc counts CPU time: 100 a second on all Linux systems of ours.
const TICK_MS: u64 = 10;

/// What an idle partition may hold, and what the process may use of a core.
#[test]
fn idle_partitions_cost_little() {
    let partitions: u64 = if crate::is_long() { 10_000 } else { 1_000 };
    let broker = Broker::start("idle", &["--shards", "1"]);
    let before = resident_bytes(broker.pid());
    for topic in 0..10 {
        let name = format!("idle-{topic}");
        let count = (partitions / 10).to_string();
        tidemill(&["topic", "create", &name, "-p", &count, "-b", &broker.address()]);
    }
    let each = resident_bytes(broker.pid()).saturating_sub(before) / partitions;

    let cpu_before = cpu_ms(broker.pid());
    let measured = Duration::from_secs(5);
    // Not to wait for anything: this is the time that is measured.
    std::thread::sleep(measured);
    let cpu = cpu_ms(broker.pid()) - cpu_before;
    println!("{partitions} idle partitions: {each} bytes each, {cpu} ms of CPU in {measured:?}");
    assert!(each <= 16 * 1024, "{each} bytes for an idle partition");
    assert!(cpu <= 50, "{cpu} ms of CPU in {measured:?} while idle");
}

fn cpu_ms(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name of the process may hold spaces; the fields behind it do not.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks * TICK_MS
}
