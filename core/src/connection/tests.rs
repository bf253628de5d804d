//! What a connection receives, keeps and sends, in order.

use super::*;
use std::net::{IpAddr, Ipv4Addr};

fn connection() -> Connection {
    Connection::new(
        ConnectionId { index: 0, serial: 0 },
        SocketId(1),
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1),
        1 << 20,
        Instant::default(),
    )
}

fn budget() -> Budget {
    Budget::new(1 << 30)
}

/// One from which anything can be given back.
fn full_budget() -> Budget {
    let mut budget = budget();
    budget.take_request(1 << 20);
    budget.take_reply(1 << 20);
    budget
}

fn frame(size: usize) -> BytesMut {
    let mut bytes = BytesMut::new();
    bytes.extend_from_slice(&(size as u32).to_be_bytes());
    bytes.resize(frame::LENGTH_BYTES + size, 7);
    bytes
}

/// Shards answer in any order; the client sees the order in which it asked.
#[test]
fn replies_leave_in_the_order_of_their_requests() {
    let mut connection = connection();
    let first = connection.open_slot(0, 0, &mut budget());
    let second = connection.open_slot(0, 0, &mut budget());

    connection.fill_slot(second.number, None, vec![Bytes::from_static(b"second")], &mut budget());
    assert_eq!(connection.next_send(), None, "the first reply is still missing");

    connection.fill_slot(first.number, None, vec![Bytes::from_static(b"first")], &mut budget());
    let parts = connection.next_send().unwrap();
    assert_eq!(parts, [Bytes::from_static(b"first"), Bytes::from_static(b"second")]);
}

/// acks=0 takes a slot, so that order holds, but sends nothing.
#[test]
fn a_silent_slot_lets_the_next_reply_pass() {
    let mut connection = connection();
    let silent = connection.open_slot(0, 0, &mut budget());
    let loud = connection.open_slot(0, 0, &mut budget());
    connection.fill_slot(loud.number, None, vec![Bytes::from_static(b"loud")], &mut budget());
    connection.fill_slot(silent.number, None, Vec::new(), &mut budget());
    assert_eq!(connection.next_send().unwrap(), [Bytes::from_static(b"loud")]);
}

/// What was measured of a request is told once, when its reply has left, with its own stages;
/// of a silent one, and of replies that nobody took, nothing is told.
#[test]
fn each_request_that_is_answered_is_told_once() {
    let mut connection = connection();
    let open = |connection: &mut Connection, size| {
        let slot = connection.open_slot(size, 0, &mut budget());
        connection.measured(slot.number).unwrap().stamps.end(RequestStage::Work, 1600);
        slot.number
    };
    let send = |connection: &mut Connection, well| {
        let mut told = Vec::new();
        connection.next_send().unwrap();
        connection.sent(well, &mut full_budget(), |measured, _| {
            assert_eq!(measured.stamps.ticks(RequestStage::Work), 1600);
            told.push(measured.size_bytes);
        });
        told
    };
    let reply = || vec![Bytes::from_static(b"x")];
    let numbers: Vec<u64> = (1..=4).map(|size| open(&mut connection, size)).collect();
    connection.fill_slot(numbers[0], None, reply(), &mut full_budget());
    connection.fill_slot(numbers[1], None, Vec::new(), &mut full_budget());
    connection.fill_slot(numbers[2], None, reply(), &mut full_budget());
    assert_eq!(send(&mut connection, true), [1, 3]);
    assert!(connection.measured(numbers[2]).is_none(), "it has left");

    connection.fill_slot(numbers[3], None, reply(), &mut full_budget());
    assert!(send(&mut connection, false).is_empty());
    assert!(connection.should_close());
}

/// A client above its quota is answered, but nothing more of it is read until its time has come,
/// not even what has arrived; the longer of two times counts.
#[test]
fn a_muted_client_is_answered_and_not_read() {
    let mut connection = connection();
    let slot = connection.open_slot(0, 0, &mut budget());
    let at = |nanos| Instant { nanos };
    assert!(connection.mute(at(100)));
    assert!(!connection.mute(at(50)));
    connection.received(frame(10), at(0), 0);
    assert!(!connection.has_frame());
    assert!(matches!(connection.take_frame(), Taken::Nothing));
    let receive = connection.next_receive(&mut budget(), at(0));
    assert!(matches!(receive, Receive::Nothing));
    connection.fill_slot(slot.number, None, vec![Bytes::from_static(b"x")], &mut budget());
    assert!(connection.next_send().is_some());

    connection.unmute(at(50));
    assert!(!connection.has_frame());
    connection.unmute(at(100));
    assert!(matches!(connection.take_frame(), Taken::Frame(_)));
}

/// A client that asks without taking answers stops being read instead of filling memory.
#[test]
fn with_all_slots_open_the_socket_is_not_read() {
    let mut connection = connection();
    let slots: Vec<_> = (0..REQUESTS_PER_CONNECTION_MAX)
        .map(|_| connection.open_slot(0, 0, &mut budget()))
        .collect();
    assert!(matches!(connection.next_receive(&mut budget(), Instant::default()), Receive::Nothing));

    connection.fill_slot(slots[0].number, None, vec![Bytes::from_static(b"x")], &mut budget());
    let _parts = connection.next_send();
    connection.sent(true, &mut full_budget(), |_, _| ());
    assert!(matches!(connection.next_receive(&mut budget(), Instant::default()), Receive::Into(_)));
}

/// A frame that arrives in pieces is handed over once, whole, whatever the pieces are.
#[test]
fn a_frame_in_pieces_is_taken_whole() {
    let whole = frame(100_000);
    let mut connection = connection();
    let mut at = 0;
    while at < whole.len() {
        assert!(matches!(connection.take_frame(), Taken::Nothing));
        let Receive::Into(mut into) = connection.next_receive(&mut budget(), Instant::default())
        else {
            panic!("the frame is not whole")
        };
        let room = if into.capacity() == into.len() {
            RECEIVE_BYTES_MAX
        } else {
            into.capacity() - into.len()
        };
        let size = room.min(9_999).min(whole.len() - at);
        into.extend_from_slice(&whole[at..at + size]);
        at += size;
        connection.received(into, Instant::default(), 0);
    }
    let Taken::Frame(taken) = connection.take_frame() else { panic!("the frame is whole") };
    assert_eq!(taken, whole[frame::LENGTH_BYTES..]);
    assert!(matches!(connection.take_frame(), Taken::Nothing));
}

/// A length nobody would send is refused before any memory is set aside for it.
#[test]
fn a_claimed_length_above_the_limit_breaks_the_connection() {
    let mut connection = connection();
    let _into = connection.next_receive(&mut budget(), Instant::default());
    connection.received(BytesMut::from(&[0x7f, 0xff, 0xff, 0xff][..]), Instant::default(), 0);
    assert!(matches!(connection.take_frame(), Taken::Broken(_)));
}

/// What clients claim to send does not add up to more than the budget: who does not fit waits
/// with its socket unread, and goes on when another request was answered.
#[test]
fn a_large_request_waits_until_the_budget_has_room_for_all_of_it() {
    let mut budget = Budget::new(150_000);
    let head = |size: u32| BytesMut::from(&size.to_be_bytes()[..]);
    let (mut first, mut second) = (connection(), connection());
    for connection in [&mut first, &mut second] {
        let _into = connection.next_receive(&mut budget, Instant::default());
        connection.received(head(100_000), Instant::default(), 0);
    }
    assert!(matches!(first.next_receive(&mut budget, Instant::default()), Receive::Into(_)));
    assert!(matches!(second.next_receive(&mut budget, Instant::default()), Receive::Stalled));

    first.release(&mut budget);
    assert!(budget.take_freed());
    assert!(matches!(second.next_receive(&mut budget, Instant::default()), Receive::Into(_)));
}

/// The bug: a request that came a byte at a time held the budget for as long as it liked.
#[test]
fn a_request_that_never_ends_does_not_hold_the_budget_for_ever() {
    const LIMIT: Duration = Duration::from_secs(60);
    let at = |secs| Instant::default().after(Duration::from_secs(secs));
    let mut budget = budget();
    let mut slow = connection();
    let _into = slow.next_receive(&mut budget, at(0));
    assert!(!slow.is_request_overdue(at(1000), LIMIT), "an idle client owes nothing");
    slow.received(BytesMut::from(&100_000_u32.to_be_bytes()[..]), at(1000), 0);
    for second in 0..60 {
        let Receive::Into(mut into) = slow.next_receive(&mut budget, at(1000 + second)) else {
            panic!("there is room")
        };
        assert!(!slow.is_request_overdue(at(1000 + second), LIMIT));
        into.extend_from_slice(b"x");
        slow.received(into, at(1000 + second), 0);
    }
    let _into = slow.next_receive(&mut budget, at(1060));
    assert!(slow.is_request_overdue(at(1060), LIMIT));
    slow.release(&mut budget);
    assert_eq!(budget.used_bytes(), 0);
}

/// A client whose socket is not read is not the one who is slow.
#[test]
fn a_request_that_waits_for_the_budget_is_not_overdue() {
    const LIMIT: Duration = Duration::from_secs(60);
    let at = |secs| Instant::default().after(Duration::from_secs(secs));
    let mut budget = Budget::new(10_000);
    budget.take_request(10_000);
    let mut waiting = connection();
    let _into = waiting.next_receive(&mut budget, at(0));
    waiting.received(BytesMut::from(&100_000_u32.to_be_bytes()[..]), at(0), 0);
    assert!(matches!(waiting.next_receive(&mut budget, at(0)), Receive::Stalled));
    assert!(!waiting.is_request_overdue(at(100), LIMIT));

    budget.release_request(10_000);
    assert!(matches!(waiting.next_receive(&mut budget, at(100)), Receive::Into(_)));
    assert!(!waiting.is_request_overdue(at(100), LIMIT));
    assert!(waiting.is_request_overdue(at(160), LIMIT));
}
