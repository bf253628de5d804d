//! What must hold of a batch before it is appended, and the answers to what is refused: errors of the
//! parts below, in Kafka's codes, with words that say why.

use tidemill_net::kafka::ErrorCode;
use tidemill_record::{LeaderEpoch, Timestamp, TimestampType, Validated};
use tidemill_storage::{AppendError, ReadError, TimestampPolicy};

use super::Rules;
use super::reworking::refused_inside;
use crate::message::Answer;

/// Is this a batch that the partition takes, as far as its header and its checksum say?
pub(super) fn validate(batch: &[u8], rules: &Rules) -> Result<Validated, Answer> {
    use tidemill_record::{BatchError, Limits};
    let limits = Limits { batch_bytes_max: rules.batch_bytes_max, control_allowed: false };
    tidemill_record::validate(batch, &limits).map_err(|error| {
        let code = match error {
            BatchError::ChecksumMismatch { .. } | BatchError::LengthTooSmall { .. } => {
                ErrorCode::CorruptMessage
            }
            BatchError::UnknownMagic { .. } => ErrorCode::UnsupportedForMessageFormat,
            BatchError::TooLarge { .. } => ErrorCode::MessageTooLarge,
            BatchError::Truncated { .. } => ErrorCode::CorruptMessage,
            _ => ErrorCode::InvalidRecord,
        };
        Answer::Refused { error: code, message: Some(error.to_string()) }
    })
}

/// All that must hold of a batch from a client before it is known what it is part of.
pub(super) fn check(
    batch: &[u8],
    rules: &Rules,
    zstd_allowed: bool,
    wall_ms: i64,
) -> Result<Validated, Answer> {
    let validated = validate(batch, rules)?;
    if validated.compression() == tidemill_record::Codec::Zstd && !zstd_allowed {
        return Err(refused(ErrorCode::UnsupportedCompressionType));
    }
    let validated = check_timestamps(validated, rules, wall_ms)?;
    check_keys(batch, validated, rules)
}

/// Whether the producer's clock is near enough to ours, as far as the header says: its latest record
/// and its first. The records between are looked at where the topic asks for it ([`crate::rework`]).
fn check_timestamps(batch: Validated, rules: &Rules, wall_ms: i64) -> Result<Validated, Answer> {
    if rules.log.timestamps == TimestampPolicy::LogAppendTime {
        return Ok(batch);
    }
    let refuse = |why: String| {
        Err(Answer::Refused { error: ErrorCode::InvalidTimestamp, message: Some(why) })
    };
    if batch.timestamp_type() == TimestampType::LogAppendTime {
        return refuse("a producer's records carry the broker's time".to_owned());
    }
    let (first, latest) = (batch.base_timestamp(), batch.max_timestamp());
    if latest != Timestamp::NONE && rules.ahead_max_ms < latest.0.saturating_sub(wall_ms) {
        let (latest, ms) = (latest.0, rules.ahead_max_ms);
        return refuse(format!("timestamp {latest} is more than {ms} ms ahead of the clock"));
    }
    let behind_max_ms = rules.wanted.behind_max_ms.filter(|_| first != Timestamp::NONE);
    match behind_max_ms {
        Some(ms) if ms < wall_ms.saturating_sub(first.0) => {
            refuse(format!("timestamp {} is more than {ms} ms behind the clock", first.0))
        }
        _ => Ok(batch),
    }
}

/// Whether all records have keys, where they must and it is little work to see.
fn check_keys(batch: &[u8], validated: Validated, rules: &Rules) -> Result<Validated, Answer> {
    rules.wanted.check_keys(batch, &validated).map_err(refused_inside)?;
    Ok(validated)
}

pub(super) fn epoch_error(claimed: LeaderEpoch, current: LeaderEpoch) -> Option<ErrorCode> {
    match claimed.cmp(&current) {
        std::cmp::Ordering::Less => Some(ErrorCode::FencedLeaderEpoch),
        std::cmp::Ordering::Greater => Some(ErrorCode::UnknownLeaderEpoch),
        std::cmp::Ordering::Equal => None,
    }
}

pub(super) fn refused(error: ErrorCode) -> Answer {
    Answer::Refused { error, message: None }
}

pub(super) fn refused_append(error: &AppendError) -> Answer {
    let (error, message) = match error {
        AppendError::SpaceNotReserved | AppendError::NoSpace => {
            (ErrorCode::KafkaStorageError, "the data directory's disk is full".to_owned())
        }
        AppendError::Closing => {
            (ErrorCode::UnknownTopicOrPartition, "the partition is being deleted".to_owned())
        }
        AppendError::Fenced => (
            ErrorCode::KafkaStorageError,
            "a write or sync failed: the node must be restarted to repair its data".to_owned(),
        ),
        AppendError::Damaged { from } => (
            ErrorCode::KafkaStorageError,
            format!("the partition is damaged from offset {} on", from.0),
        ),
        AppendError::FencedLeaderEpoch { .. } => {
            (ErrorCode::NotLeaderOrFollower, "another leader has appended since".to_owned())
        }
        AppendError::InvalidProducerEpoch { current, found, .. } => (
            ErrorCode::InvalidProducerEpoch,
            format!("producer epoch {} is older than {}", found.0, current.0),
        ),
        // Clients try this one again: room comes when others expire.
        AppendError::TooManyProducers { .. } => (
            ErrorCode::KafkaStorageError,
            "too many producers are remembered in this partition".to_owned(),
        ),
        AppendError::OutOfOrderSequence { expected, found, .. } => (
            ErrorCode::OutOfOrderSequenceNumber,
            format!("sequence {} was sent, {} is next", found.0, expected.0),
        ),
        AppendError::NotTransactional { .. } => (
            ErrorCode::InvalidTxnState,
            "the producer has a transaction open, and this is not part of it".to_owned(),
        ),
        AppendError::TooManyTransactions { limit } => (
            ErrorCode::PolicyViolation,
            format!("{limit} transactions, open or aborted, are remembered in this partition"),
        ),
        AppendError::FencedCoordinator { current, found } => (
            ErrorCode::TransactionCoordinatorFenced,
            format!("coordinator epoch {found} is older than {current}"),
        ),
        AppendError::NotAMarker => {
            (ErrorCode::InvalidRecord, "a control batch without a marker".to_owned())
        }
        AppendError::BatchTooLarge { size_bytes, limit_bytes } => (
            ErrorCode::MessageTooLarge,
            format!("a batch of {size_bytes} bytes, where {limit_bytes} fit"),
        ),
    };
    Answer::Refused { error, message: Some(message) }
}

pub(super) fn refused_read(error: &ReadError) -> Answer {
    refused(match error {
        ReadError::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        ReadError::Damaged { .. } | ReadError::Device { .. } => ErrorCode::KafkaStorageError,
        ReadError::Gone => ErrorCode::UnknownTopicOrPartition,
        // The client asks again; nothing is wrong with its request.
        ReadError::Busy => ErrorCode::KafkaStorageError,
    })
}

pub(super) fn offset_answer(found: Option<tidemill_storage::Found>) -> Answer {
    Answer::Offset {
        found: found.map(|found| (found.offset, found.timestamp)),
        leader_epoch: found.map_or(LeaderEpoch::NONE, |found| found.epoch),
    }
}
