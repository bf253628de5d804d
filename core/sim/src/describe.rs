//! Events in few words, for the trace: what matters of them, with bytes as their checksum.

use tidemill_runtime::edge::{Chore, Done, Fault, Next, Op};

use crate::network::ClientEvent;

pub(crate) fn describe_next(next: Next) -> String {
    match next {
        Next::Now => "now".into(),
        Next::At(at) => format!("at {}", at.nanos),
        Next::Idle => "idle".into(),
        Next::Stop => "stop".into(),
    }
}

pub(crate) fn describe_op(op: &Op) -> String {
    match op {
        Op::Accept { listener } => format!("accept {}", listener.0),
        Op::Receive { socket, into } => {
            format!("receive {} into {}", socket.0, into.capacity() - into.len())
        }
        Op::Send { socket, parts } => {
            let size: usize = parts.iter().map(bytes::Bytes::len).sum();
            let sum = parts.iter().fold(0, |sum, part| crc32c::crc32c_append(sum, part));
            format!("send {} {size} bytes {sum:08x}", socket.0)
        }
        Op::CloseSocket { socket } => format!("close socket {}", socket.0),
        Op::Open { path, how } => format!("open {} {how:?}", path.display()),
        Op::Write { file, position, bytes, durable } => {
            let how = if *durable { "durably" } else { "cached" };
            let sum = crc32c::crc32c(bytes);
            format!("write file {} at {position} {} bytes {sum:08x} {how}", file.0, bytes.len())
        }
        Op::Read { file, position, size } => format!("read file {} at {position} {size}", file.0),
        Op::Sync { file } => format!("sync file {}", file.0),
        Op::Allocate { file, position, size } => {
            format!("allocate file {} at {position} {size}", file.0)
        }
        Op::CloseFile { file } => format!("close file {}", file.0),
        Op::Chore(chore) => describe_chore(chore),
    }
}

fn describe_chore(chore: &Chore) -> String {
    match chore {
        // Where a function lies in memory is no part of a run.
        Chore::Compute(computation) => {
            let hash = crc32c::crc32c(&computation.bytes);
            format!("compute {} {hash:08x} {:?}", computation.bytes.len(), computation.wanted)
        }
        chore => format!("{chore:?}"),
    }
}

pub(crate) fn describe_result(result: &Result<Done, Fault>) -> String {
    match result {
        Ok(Done::Complete) => "done".into(),
        Ok(Done::Accepted { socket, .. }) => format!("accepted {}", socket.0),
        Ok(Done::Received { received, bytes }) => {
            format!("received {received} {:08x}", crc32c::crc32c(bytes))
        }
        Ok(Done::Opened { file, size }) => format!("opened {} of {size} bytes", file.0),
        Ok(Done::Read(bytes)) => format!("read {} {:08x}", bytes.len(), crc32c::crc32c(bytes)),
        Ok(Done::Listed(names)) => format!("listed {}", names.len()),
        Ok(Done::Space { total_bytes, usable_bytes }) => {
            format!("space {usable_bytes} of {total_bytes}")
        }
        Ok(Done::Computed(Ok(bytes))) => {
            format!("computed {} {:08x}", bytes.len(), crc32c::crc32c(bytes))
        }
        Ok(Done::Computed(Err(refusal))) => format!("computed nothing: {refusal:?}"),
        Err(fault) => format!("fault {fault:?}"),
    }
}

pub(crate) fn describe_client(event: &ClientEvent) -> String {
    match event {
        ClientEvent::Connected(id) => format!("connected {}", id.0),
        ClientEvent::Bytes(id, bytes) => {
            format!("bytes {} {} {:08x}", id.0, bytes.len(), crc32c::crc32c(bytes))
        }
        ClientEvent::Closed(id) => format!("closed {}", id.0),
        ClientEvent::Woken(number) => format!("woken {number}"),
    }
}
