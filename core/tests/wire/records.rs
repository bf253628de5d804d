//! Produce and Fetch with all that can be said in them, in any version, and the bytes of the answers.

use std::io::{ErrorKind, Read as _, Write as _};

use bytes::{Bytes, BytesMut};
use tidemill_net::kafka::fetch::{FetchResponse, OutgoingFetch};
use tidemill_net::kafka::produce::{OutgoingProduce, OutgoingProducePartition, ProduceResponse};
use tidemill_net::kafka::{ApiKey, TopicRef, parse_response_header};
use tidemill_record::{BatchBuilder, Codec, Timestamp};

use super::Client;

/// A batch of a plain producer, one record for each value.
pub(crate) fn batch_of(values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None);
    for value in values {
        builder.append(Timestamp(1_000), None, Some(value.as_bytes()));
    }
    builder.build().freeze()
}

/// One batch, and where it is to go.
pub(crate) fn part<'a>(
    topic: &'a str,
    partition: i32,
    records: &'a [u8],
) -> OutgoingProducePartition<'a> {
    OutgoingProducePartition { topic: TopicRef::Name(topic), partition, records: Some(records) }
}

/// A request to append, as durable as it can be.
pub(crate) fn appending<'a>(partitions: &'a [OutgoingProducePartition<'a>]) -> OutgoingProduce<'a> {
    OutgoingProduce { transactional_id: None, acks: -1, timeout_ms: 30_000, partitions }
}

impl Client {
    /// Sends batches and does not wait for the answer.
    pub(crate) fn send_produce(
        &mut self,
        version: i16,
        correlation: i32,
        request: &OutgoingProduce<'_>,
    ) {
        let mut out = BytesMut::new();
        request.encode(&mut out, version, correlation, Some(self.name));
        self.stream.write_all(&out).unwrap();
    }

    /// The next answer, which is one to batches.
    pub(crate) fn take_produced<T>(
        &mut self,
        version: i16,
        look: impl FnOnce(i32, &ProduceResponse<'_>) -> T,
    ) -> T {
        let frame = self.receive();
        let (correlation, start) = parse_response_header(ApiKey::Produce, version, &frame).unwrap();
        look(correlation, &ProduceResponse::parse(version, &frame[start..]).unwrap())
    }

    /// Sends batches and looks at the answer.
    pub(crate) fn produce_with<T>(
        &mut self,
        version: i16,
        request: &OutgoingProduce<'_>,
        look: impl FnOnce(&ProduceResponse<'_>) -> T,
    ) -> T {
        self.send_produce(version, 7, request);
        self.take_produced(version, |_, told| look(told))
    }

    /// Asks for records and does not wait for the answer.
    pub(crate) fn send_fetch(
        &mut self,
        version: i16,
        correlation: i32,
        request: &OutgoingFetch<'_>,
    ) {
        let mut out = BytesMut::new();
        request.encode(&mut out, version, correlation, Some(self.name));
        self.stream.write_all(&out).unwrap();
    }

    /// The next answer, which is one with records.
    pub(crate) fn take_fetched<T>(
        &mut self,
        version: i16,
        look: impl FnOnce(&FetchResponse<'_>) -> T,
    ) -> T {
        let frame = Bytes::from(self.receive());
        let (_, start) = parse_response_header(ApiKey::Fetch, version, &frame).unwrap();
        look(&FetchResponse::parse(version, &frame.slice(start..)).unwrap())
    }

    /// Asks for records and looks at the answer.
    pub(crate) fn fetch_with<T>(
        &mut self,
        version: i16,
        request: &OutgoingFetch<'_>,
        look: impl FnOnce(&FetchResponse<'_>) -> T,
    ) -> T {
        self.send_fetch(version, 7, request);
        self.take_fetched(version, look)
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Waits until the broker closes the connection, without a word.
    pub(crate) fn expect_closed(&mut self) {
        loop {
            match self.stream.read(&mut [0]) {
                Ok(0) => return,
                // What was sent behind the last request that was read.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
                // The process was stopped for a while, and goes on.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => panic!("it goes on: {other:?}"),
            }
        }
    }
}
