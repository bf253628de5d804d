//! What one core can do: checksums, copies, system calls, reading clocks, and recording a
//! request's times with this very kit.

use std::hint::black_box;
use std::time::{Duration, Instant};

use tidemill_runtime::clock::{self, TickScale};

use super::{Measured, Step, Timetable, Watcher};
use crate::histogram::Recorder;
use crate::stage::{Kind, Stage, Stamps};

/// One thing to do again and again: how many bytes each moves, and doing it.
type Work = (&'static str, u64, Box<dyn FnMut()>);

/// The names of its cases.
#[must_use]
pub fn names() -> Vec<&'static str> {
    works().into_iter().map(|(name, ..)| name).collect()
}

/// Measures in so much time altogether, on the calling thread.
pub fn measure(whole: Duration, watch: Watcher<'_>) -> Vec<Measured> {
    let time = Timetable::of(whole);
    let works = works();
    let each = whole / works.len() as u32;
    let mut done = Vec::new();
    for (name, bytes, mut work) in works {
        watch(Step::Runs(name, time.share()));
        let measured = repeat(name, bytes, each, &mut work);
        watch(Step::Ended(&measured));
        done.push(measured);
    }
    done
}

fn repeat(name: &str, bytes: u64, duration: Duration, work: &mut dyn FnMut()) -> Measured {
    // Between two looks at the clock: as many as take about a millisecond.
    let mut batch = 1u64;
    let mut run = |batch: u64| {
        let began = Instant::now();
        (0..batch).for_each(|_| work());
        began.elapsed()
    };
    while run(batch) < Duration::from_millis(1) && batch < 1 << 24 {
        batch *= 2;
    }
    let cpu_before = clock::cpu_time();
    let (mut count, mut elapsed) = (0, Duration::ZERO);
    while elapsed < duration {
        elapsed += run(batch);
        count += batch;
    }
    let cpu = clock::cpu_time().saturating_sub(cpu_before);
    Measured { name: name.to_owned(), count, bytes: count * bytes, elapsed, cpu, latency: None }
}

fn works() -> Vec<Work> {
    vec![
        ("crc32c 16 KiB", 16 << 10, checksum(16 << 10)),
        ("crc32c 1 MiB", 1 << 20, checksum(1 << 20)),
        ("copy 16 KiB", 16 << 10, copy(16 << 10)),
        ("copy 64 MiB", 64 << 20, copy(64 << 20)),
        (
            "system call",
            0,
            Box::new(|| {
                black_box(std::process::id());
            }),
        ),
        (
            "read the clock",
            0,
            Box::new(|| {
                black_box(clock::monotonic());
            }),
        ),
        (
            "read the counter",
            0,
            Box::new(|| {
                black_box(clock::stamp());
            }),
        ),
        ("record a request, 7 stages", 0, record()),
    ]
}

fn checksum(size: usize) -> Box<dyn FnMut()> {
    let bytes = vec![0xa5u8; size];
    Box::new(move || {
        black_box(crc32c::crc32c(black_box(&bytes)));
    })
}

fn copy(size: usize) -> Box<dyn FnMut()> {
    let (from, mut to) = (vec![0xa5u8; size], vec![0u8; size]);
    Box::new(move || {
        to.copy_from_slice(black_box(&from));
        black_box(&mut to);
    })
}

/// What a shard pays for one produce request: seven readings of the counter, seven stamps, the
/// count of its total, and of one in sixteen those of its stages.
fn record() -> Box<dyn FnMut()> {
    const STAGES: [Stage; 7] = [
        Stage::Receive,
        Stage::Decode,
        Stage::Route,
        Stage::Append,
        Stage::Durable,
        Stage::Replicate,
        Stage::Respond,
    ];
    let mut recorder = Recorder::new(TickScale::measure(), 1);
    let mut far = 1u64;
    Box::new(move || {
        let mut stamps = Stamps::begin(0);
        stamps.set_kind(Kind::Produce);
        let mut ended = 0;
        for stage in STAGES {
            // Times that differ, as real ones do.
            far =
                far.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            black_box(clock::stamp());
            ended += 1000 + (far >> 44);
            stamps.end(stage, ended);
        }
        recorder.record(stamps.total_until(ended), black_box(&stamps));
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_does_its_work() {
        let measured = measure(Duration::from_millis(8), &mut |_| ());
        assert!(measured.iter().all(|measured| 0 < measured.count), "{measured:?}");
        let copied = measured.iter().find(|measured| measured.name == "copy 16 KiB").unwrap();
        assert_eq!(copied.bytes, copied.count * (16 << 10));
    }
}
