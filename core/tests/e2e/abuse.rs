//! Bad input on the socket: the worst that happens is a closed connection.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::process::Broker;
use crate::program::tidemill;

/// Frames no client means.
fn bad_frames() -> Vec<(&'static str, Vec<u8>)> {
    let frame = |body: &[u8]| [&(body.len() as u32).to_be_bytes()[..], body].concat();
    let request = |api: i16, version: i16, body: &[u8]| {
        let header =
            [&api.to_be_bytes()[..], &version.to_be_bytes(), &[0, 0, 0, 7, 0xff, 0xff]].concat();
        frame(&[&header[..], body].concat())
    };
    let mut frames = vec![
        ("a length of two gigabytes", vec![0x7f, 0xff, 0xff, 0xff, 0, 3]),
        ("a negative length", vec![0xff, 0xff, 0xff, 0xfe]),
        ("an empty frame", frame(&[])),
        ("a frame that is too short for a header", frame(&[0, 3, 0])),
        ("an API nobody knows", request(9999, 0, &[])),
        ("a negative API", request(-1, 0, &[])),
        ("a version nobody knows", request(3, 99, &[])),
        ("a negative version", request(3, -1, &[])),
        ("two billion topics", request(3, 1, &[0x7f, 0xff, 0xff, 0xff])),
        ("two billion fetched topics", request(1, 4, &[0xff; 40])),
        ("a topic name with slashes", request(3, 1, b"\0\0\0\x01\0\x09../../etc")),
        ("a produce of nothing", request(0, 3, &[0xff, 0xff, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0])),
        ("a half frame, then silence", vec![0, 0, 1, 0, 0, 3]),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        ("TLS", vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]),
    ];
    // Bytes without any sense, the same in each run, behind an honest length.
    let mut state = 42_u64;
    for _ in 0..200 {
        let body: Vec<u8> = (0..200)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        frames.push(("random bytes", frame(&body)));
    }
    // A known API and version, then bytes without sense.
    for (api, version) in
        [(0, 9), (1, 12), (2, 6), (3, 9), (19, 5), (20, 4), (22, 2), (32, 4), (44, 1)]
    {
        let body: Vec<u8> =
            (0..100_u8).map(|n| n.wrapping_mul(167).wrapping_add(api as u8)).collect();
        frames.push(("a known API with a senseless body", request(api, version, &body)));
    }
    frames
}

/// Each bad frame gets an answer or a closed connection; the broker goes on serving others, and
/// its memory does not grow by what lengths claim.
#[test]
fn bad_input_costs_a_connection_at_most() {
    let mut broker = Broker::start("abuse", &["--shards", "1"]);
    let address = broker.address();
    tidemill(&["topic", "create", "kept", "-p", "1", "-b", &address]);
    let before = resident_bytes(broker.pid());
    for round in 0..5 {
        for (what, frame) in bad_frames() {
            let mut socket = TcpStream::connect(&address).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            // The broker may have closed the connection before all was sent.
            let _ = socket.write_all(&frame);
            let _ = socket.read(&mut [0; 4096]);
            assert!(broker.is_alive(), "{what}, round {round}:\n{}", broker.log());
        }
    }
    let grown = resident_bytes(broker.pid()).saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more than before");
    let listed = String::from_utf8(tidemill(&["topic", "list", "-b", &address])).unwrap();
    assert!(listed.contains("kept"), "{listed}");
    assert!(!listed.contains("etc"), "a name with slashes became a topic: {listed}");
    assert!(broker.stop().success());
}

/// A thousand connections that send half a frame and stay hold little memory each.
#[test]
fn slow_senders_hold_little_memory() {
    let mut broker = Broker::start("slow-senders", &["--shards", "1"]);
    let before = resident_bytes(broker.pid());
    let sockets: Vec<TcpStream> = (0..500)
        .map(|_| {
            let mut socket = TcpStream::connect(broker.address()).unwrap();
            // 100 MB announced, 11 bytes sent.
            socket.write_all(&[5, 0xf5, 0xe1, 0, 0, 0, 0, 9, 0, 0, 0]).unwrap();
            socket
        })
        .collect();
    tidemill(&["topic", "list", "-b", &broker.address()]);
    let grown = resident_bytes(broker.pid()).saturating_sub(before);
    drop(sockets);
    assert!(grown < 256 << 20, "{grown} bytes for 500 connections");
    assert!(broker.is_alive());
}

/// The memory of a process that is in RAM.
pub fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kib * 1024
}
