//! What a fetch answers: of each partition what was read, in the words of the client's version.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::fetch::{
    AbortedTransaction, DivergingEpoch, FetchPartitionResponse, FetchResponse,
};
use tidemill_record::Offset;
use tidemill_storage::transactions::Aborted;

use super::super::ReplyForm;
use super::{Part, PartAnswer};

pub(super) fn encode_fetch(reply: ReplyForm, response: &FetchResponse<'_>) -> Vec<Bytes> {
    let mut parts = Vec::with_capacity(2 * response.partitions.len() + 1);
    let mut out = BytesMut::with_capacity(64 + 96 * response.partitions.len());
    response.encode(&mut out, &mut parts, reply.version, reply.correlation_id);
    parts
}

/// What an answer would tell of a partition that a session has not told before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct News {
    /// Records, an error or a divergence: always told.
    pub always: bool,
    /// High watermark, log start offset: told when they differ from what was told last.
    pub state: Option<(Offset, Offset)>,
}

impl Part {
    pub(super) fn news(&self) -> News {
        match &self.answer {
            Some(PartAnswer::Read(read)) => News {
                always: 0 < read.size_bytes || read.diverging.is_some(),
                state: Some((read.high_watermark, read.log_start_offset)),
            },
            _ => News { always: true, state: None },
        }
    }

    pub(super) fn response(
        &mut self,
        version: i16,
        read_committed: bool,
    ) -> FetchPartitionResponse<'_> {
        let topic = self.topic.as_ref();
        let partition = self.partition;
        let read = match self.answer.take() {
            Some(PartAnswer::Read(read)) => read,
            Some(PartAnswer::Failed(error)) => {
                return FetchPartitionResponse::failed(
                    topic,
                    partition,
                    for_version(error, version),
                );
            }
            None => {
                let error = self.id.err().unwrap_or(ErrorCode::UnknownServerError);
                return FetchPartitionResponse::failed(topic, partition, error);
            }
        };
        FetchPartitionResponse {
            last_stable_offset: read.last_stable_offset.0,
            log_start_offset: read.log_start_offset.0,
            diverging_epoch: read
                .diverging
                .map(|(epoch, end)| DivergingEpoch { epoch: epoch.0, end_offset: end.0 }),
            aborted_transactions: read_committed.then(|| told_aborted(&read.aborted)),
            records: Cow::Owned(read.batches),
            ..FetchPartitionResponse::at(topic, partition, read.high_watermark.0)
        }
    }
}

/// Of one producer's transactions the client is told where each begins; where it ends, the marker
/// says.
fn told_aborted<'a>(aborted: &[Aborted]) -> Cow<'a, [AbortedTransaction]> {
    let told = |aborted: &Aborted| AbortedTransaction {
        producer_id: aborted.producer_id.0,
        first_offset: aborted.first.0,
    };
    Cow::Owned(aborted.iter().map(told).collect())
}

/// Clients before version 6 know no storage error (it is told as "not leader").
fn for_version(error: ErrorCode, version: i16) -> ErrorCode {
    if error == ErrorCode::KafkaStorageError && version < 6 {
        ErrorCode::NotLeaderOrFollower
    } else {
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A consumer of before version 6 does not know the word for a failed disk.
    #[test]
    fn old_consumers_are_told_of_a_failed_disk_in_words_they_know() {
        let (storage, leader) = (ErrorCode::KafkaStorageError, ErrorCode::NotLeaderOrFollower);
        assert_eq!((for_version(storage, 5), for_version(storage, 6)), (leader, storage));
        assert_eq!(for_version(ErrorCode::OffsetOutOfRange, 4), ErrorCode::OffsetOutOfRange);
    }
}
