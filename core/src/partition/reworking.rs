//! Batches that are made anew before they are appended (see [`crate::rework`]): which one is next, and
//! what becomes of it.
//!
//! Such a batch stays at the front of its partition's queue, under a number of its own, until its
//! work has ended. If it was refused in the meantime (the disk is full, the node stops, the topic is
//! gone), what comes back under that number meets nobody.

use tidemill_net::kafka::ErrorCode;
use tidemill_record::TopicPartition;
use tidemill_runtime::edge::{Chore, Done, Fault, Refusal};

use super::appending::QueuedAppend;
use super::checks::{refused, validate};
use super::{Home, Times};
use crate::message::Answer;
use crate::rework;

impl Home {
    /// The next batch to be made anew, as work for the background executor; one at a time.
    pub fn poll_rework(&mut self) -> Option<Chore> {
        while self.reworking.is_none() {
            let (id, number) = self.reworks.pop_front()?;
            let Some(queued) = self.reworked_next(id, number) else { continue };
            let chore = queued.rework.map(|rework| rework.chore(&queued.batch));
            self.reworking = Some((id, number));
            return chore;
        }
        None
    }

    /// The batch at the front of a partition's queue, if it is still the one of this number.
    fn reworked_next(&mut self, id: TopicPartition, number: u64) -> Option<&mut QueuedAppend> {
        let front = self.partitions.get_mut(&id)?.queued.front_mut()?;
        (front.rework_number == Some(number)).then_some(front)
    }

    /// The work of [`Home::poll_rework`] has ended.
    pub fn reworked(&mut self, result: Result<Done, Fault>, times: Times) {
        let (id, number) = self.reworking.take().expect("one was asked for");
        if self.reworked_next(id, number).is_none() {
            return;
        }
        let partition = self.partitions.get_mut(&id).expect("just seen");
        let mut queued = partition.queued.pop_front().expect("just seen");
        self.queued_bytes -= queued.size_bytes;
        let made = match result {
            Ok(Done::Computed(Ok(batch))) => {
                // It may have become too large for the topic.
                validate(&batch, &partition.rules).map(|validated| (batch, validated))
            }
            Ok(Done::Computed(Err(refusal))) => Err(refused_inside(refusal)),
            other => {
                tracing::warn!(?other, "a batch could not be made anew");
                partition.remember_refused(&queued);
                Err(refused(ErrorCode::KafkaStorageError))
            }
        };
        match made {
            Ok((batch, validated)) => {
                queued.size_bytes = batch.len();
                queued.batch = batch;
                queued.validated = validated;
                queued.rework = None;
                self.queued_bytes += queued.size_bytes;
                partition.queued.push_front(queued);
            }
            Err(answer) => self.answers.push((queued.reply_to, answer)),
        }
        self.append_queued(id, times);
    }
}

/// The answer to a batch whose inside is not as its topic wants it.
pub(super) fn refused_inside(refusal: Refusal) -> Answer {
    let (error, why) = rework::told(refusal.reason);
    match refusal.places {
        places if places.is_empty() => Answer::Refused { error, message: Some(why.to_owned()) },
        records => Answer::RefusedRecords { error, message: why, records },
    }
}
