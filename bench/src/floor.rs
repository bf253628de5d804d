//! The floor: a broker that does nothing but receive and answer, on our own runtime.
//!
//! The same load is put on it as on a broker. What it uses is what the runtime, the kernel and
//! the network cost; what a broker uses beyond that is the broker's own.
//!
//! A produce is answered as if it were appended, without a look at it; a fetch is answered with
//! the same batches from memory each time. Both in the load generator's version only.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use bytes::{Bytes, BytesMut};
use tidemill_net::frame::frame_size;
use tidemill_net::kafka::TopicRef;
use tidemill_net::kafka::fetch::{FetchPartitionResponse, FetchResponse};
use tidemill_net::kafka::produce::{ProducePartitionResponse, ProduceResponse};
use tidemill_runtime::chores::BackgroundThread;
use tidemill_runtime::edge::{
    Completion, Done, Edge, ListenerId, Next, Op, Program, ShardId, SocketId, Token,
};
use tidemill_runtime::ring::{RingConfig, RingEdge};
use tidemill_runtime::shard::{ShardPlan, run_shards};
use tidemill_runtime::socket;

use crate::load::{FETCH_VERSION, PRODUCE_VERSION};
use crate::workload::BatchTemplate;

const REQUEST_BYTES_MAX: usize = 16 << 20;
const RECEIVE_ROOM: usize = 64 * 1024;
const PRODUCE_KEY: i16 = 0;

/// Serves until the process ends. `ready` is told the address.
pub fn serve(
    address: SocketAddr,
    fetch_bytes: usize,
    ready: impl FnOnce(SocketAddr),
) -> io::Result<()> {
    let listeners = socket::listen(address, 1)?;
    let bound = listeners[0].address();
    let template = BatchTemplate::new(0, 0, 64 * 1024, 1024).next_batch().to_vec();
    let records = Bytes::from(template.repeat(fetch_bytes.div_ceil(template.len())));
    let plan = ShardPlan { core: None, listeners, make: move |_: ShardId| Floor::new(records) };
    let root = PathBuf::from(".");
    let config = RingConfig::new(root.clone());
    let handle = run_shards(&config, vec![plan], BackgroundThread::new(root))?;
    ready(bound);
    handle.join();
    Ok(())
}

struct Floor {
    records: Bytes,
    links: Vec<Option<Link>>,
    accepting: bool,
    next_offset: i64,
}

struct Link {
    socket: SocketId,
    input: BytesMut,
    outgoing: Vec<Bytes>,
    sending: bool,
}

const ACCEPTED: Token = Token(u64::MAX);
const RECEIVED: u64 = 0;
const SENT: u64 = 1;
const CLOSED: u64 = 2;

impl Floor {
    fn new(records: Bytes) -> Self {
        Self { records, links: Vec::new(), accepting: false, next_offset: 0 }
    }

    fn handle(&mut self, completion: Completion, edge: &mut RingEdge<()>) {
        if completion.token == ACCEPTED {
            if let Ok(Done::Accepted { socket, .. }) = completion.result {
                let (input, outgoing) = (BytesMut::new(), Vec::new());
                let link = Link { socket, input, outgoing, sending: false };
                self.links.push(Some(link));
                self.receive(self.links.len() - 1, edge);
            }
            return;
        }
        let (i, what) = ((completion.token.0 >> 2) as usize, completion.token.0 & 3);
        match (what, completion.result) {
            (RECEIVED, Ok(Done::Received { bytes, received })) if 0 < received => {
                if let Some(link) = &mut self.links[i] {
                    link.input = bytes;
                }
                self.answer(i);
                self.receive(i, edge);
            }
            (SENT, Ok(_)) => {
                if let Some(link) = &mut self.links[i] {
                    link.sending = false;
                }
            }
            (CLOSED, _) => self.links[i] = None,
            // Ended or broken: whichever of receive and send tells it first closes.
            (RECEIVED, _) => {
                if let Some(link) = &self.links[i] {
                    let close = Op::CloseSocket { socket: link.socket };
                    edge.submit(Token((i as u64) << 2 | CLOSED), close);
                }
            }
            _ => {}
        }
        self.flush(i, edge);
    }

    fn receive(&mut self, i: usize, edge: &mut RingEdge<()>) {
        if let Some(link) = &mut self.links[i] {
            let mut into = std::mem::take(&mut link.input);
            into.reserve(RECEIVE_ROOM);
            let op = Op::Receive { socket: link.socket, into };
            edge.submit(Token((i as u64) << 2 | RECEIVED), op);
        }
    }

    fn answer(&mut self, i: usize) {
        let Some(link) = &mut self.links[i] else { return };
        while let Ok(Some(size)) = frame_size(&link.input, REQUEST_BYTES_MAX) {
            if link.input.len() < size {
                break;
            }
            let frame = link.input.split_to(size);
            let Some(header) = frame.get(4..12) else { continue };
            let api_key = i16::from_be_bytes([header[0], header[1]]);
            let id = i32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            let mut out = BytesMut::new();
            let topic = TopicRef::Name("floor");
            if api_key == PRODUCE_KEY {
                let appended = ProducePartitionResponse::appended(topic, 0, self.next_offset, 0);
                self.next_offset += 1;
                let partitions = vec![appended].into();
                ProduceResponse { partitions, ..ProduceResponse::default() }.encode(
                    &mut out,
                    PRODUCE_VERSION,
                    id,
                );
                link.outgoing.push(out.freeze());
            } else {
                let mut partition = FetchPartitionResponse::at(topic, 0, i64::MAX);
                partition.records = vec![self.records.clone()].into();
                let partitions = vec![partition].into();
                FetchResponse { partitions, ..FetchResponse::default() }.encode(
                    &mut out,
                    &mut link.outgoing,
                    FETCH_VERSION,
                    id,
                );
            }
        }
    }

    fn flush(&mut self, i: usize, edge: &mut RingEdge<()>) {
        if let Some(link) = &mut self.links[i]
            && !link.sending
            && !link.outgoing.is_empty()
        {
            link.sending = true;
            let parts = std::mem::take(&mut link.outgoing);
            let op = Op::Send { socket: link.socket, parts };
            edge.submit(Token((i as u64) << 2 | SENT), op);
        }
    }
}

impl Program<RingEdge<()>> for Floor {
    fn turn(&mut self, edge: &mut RingEdge<()>) -> Next {
        if !self.accepting {
            self.accepting = true;
            edge.submit(ACCEPTED, Op::Accept { listener: ListenerId(0) });
        }
        while let Some(completion) = edge.poll_completion() {
            self.handle(completion, edge);
        }
        Next::Idle
    }
}
