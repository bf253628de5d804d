//! What Produce, Fetch and ShareFetch have in common: lists of topics with lists of partitions, walked flat.
//!
//! On the wire partitions are grouped by topic. Reading, [`ByTopic`] yields them one after the
//! other, each with its topic; writing, neighbours of the same topic are put into one group.

use crate::cursor::{Form, Reader, Wire, WireError, Writer};
use tidemill_record::TopicId;

/// How a request names a topic: by text in older versions, by id in newer ones.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum TopicRef<'a> {
    /// By its name, which the topic shares with whatever bore it before.
    Name(&'a str),
    /// By its id, which no other topic ever has.
    Id(TopicId),
}

impl<'a> TopicRef<'a> {
    fn bytes_min(form: Form, by_id: bool) -> usize {
        if by_id { TopicId::bytes_min(form) } else { String::bytes_min(form) }
    }

    fn read(reader: &mut Reader<'a>, form: Form, by_id: bool) -> Result<TopicRef<'a>, WireError> {
        if by_id {
            reader.topic_id().map(TopicRef::Id)
        } else {
            reader.string(form.flexible).map(TopicRef::Name)
        }
    }

    fn write(self, writer: &mut Writer<'_>, form: Form, by_id: bool) {
        match self {
            TopicRef::Id(id) if by_id => writer.topic_id(id),
            TopicRef::Name(name) if !by_id => writer.string(name, form.flexible),
            _ => panic!("version {} names topics by {}", form.version, by(by_id)),
        }
    }
}

fn by(by_id: bool) -> &'static str {
    if by_id { "id" } else { "name" }
}

/// A partition's part of a message, as it is read from the wire.
pub trait PartitionWire<'a>: Clone {
    /// The fewest bytes it takes.
    fn bytes_min(form: Form) -> usize;
    /// Reads it, knowing its topic.
    fn read(topic: TopicRef<'a>, reader: &mut Reader<'a>, form: Form) -> Result<Self, WireError>;
}

/// A partition's part of a message, to be written behind its topic.
pub trait OfTopic {
    /// The topic it belongs to.
    fn topic(&self) -> TopicRef<'_>;
}

/// The partitions of a message in the order of the wire, whatever topics they belong to.
///
/// The whole list has been read once when this exists, so walking it cannot fail.
#[derive(Clone, Debug)]
pub struct ByTopic<'a, P> {
    reader: Reader<'a>,
    form: Form,
    by_id: bool,
    topics_left: usize,
    topic: TopicRef<'a>,
    partitions_left: usize,
    partitions_count: usize,
    element: std::marker::PhantomData<P>,
}

impl<'a, P: PartitionWire<'a>> ByTopic<'a, P> {
    /// A list that a version does not have.
    pub(crate) fn none() -> Self {
        ByTopic {
            reader: Reader::new(&[]),
            form: Form { version: 0, flexible: false },
            by_id: false,
            topics_left: 0,
            topic: TopicRef::Name(""),
            partitions_left: 0,
            partitions_count: 0,
            element: std::marker::PhantomData,
        }
    }

    /// Reads over the whole list, checking every field.
    pub(crate) fn read(
        reader: &mut Reader<'a>,
        form: Form,
        by_id: bool,
    ) -> Result<Self, WireError> {
        let topic_bytes_min = TopicRef::bytes_min(form, by_id) + if form.flexible { 2 } else { 4 };
        let topics_left = reader.count(form.flexible, topic_bytes_min)?;
        let mut list = ByTopic { reader: reader.clone(), form, by_id, topics_left, ..Self::none() };

        let mut walk = list.clone();
        while let Some(partition) = walk.try_next() {
            partition?;
            list.partitions_count += 1;
        }
        *reader = walk.reader;
        Ok(list)
    }

    /// How many partitions there are, already yielded ones included.
    pub fn partitions_count(&self) -> usize {
        self.partitions_count
    }

    #[inline]
    fn try_next(&mut self) -> Option<Result<P, WireError>> {
        while self.partitions_left == 0 {
            if self.topics_left == 0 {
                return None;
            }
            if let Err(error) = self.enter_topic() {
                return Some(Err(error));
            }
        }
        Some(self.read_partition())
    }

    /// Reads the head of the next topic. A topic without partitions is left at once.
    fn enter_topic(&mut self) -> Result<(), WireError> {
        self.topics_left -= 1;
        self.topic = TopicRef::read(&mut self.reader, self.form, self.by_id)?;
        self.partitions_left = self.reader.count(self.form.flexible, P::bytes_min(self.form))?;
        if self.partitions_left == 0 {
            self.reader.skip_tagged_fields(self.form.flexible)?;
        }
        Ok(())
    }

    #[inline]
    fn read_partition(&mut self) -> Result<P, WireError> {
        self.partitions_left -= 1;
        let partition = P::read(self.topic, &mut self.reader, self.form)?;
        if self.partitions_left == 0 {
            self.reader.skip_tagged_fields(self.form.flexible)?;
        }
        Ok(partition)
    }
}

impl<'a, P: PartitionWire<'a>> Iterator for ByTopic<'a, P> {
    type Item = P;

    #[inline]
    fn next(&mut self) -> Option<P> {
        self.try_next().map(|read| read.expect("these bytes have been read before, whole"))
    }
}

/// Writes `partitions` grouped by topic; neighbours of the same topic share a group.
pub(crate) fn write_by_topic<P: OfTopic>(
    writer: &mut Writer<'_>,
    form: Form,
    by_id: bool,
    partitions: &[P],
    mut write_partition: impl FnMut(&mut Writer<'_>, &P),
) {
    let groups = || partitions.chunk_by(|left, right| left.topic() == right.topic());
    writer.count(groups().count(), form.flexible);
    for group in groups() {
        group[0].topic().write(writer, form, by_id);
        writer.count(group.len(), form.flexible);
        for partition in group {
            write_partition(writer, partition);
        }
        writer.tag_count(0, form.flexible);
    }
}

/// Who leads a partition now, told to a client that asked the wrong one (KIP-951).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LeaderHint {
    /// The leader's id, to be found in the message's endpoints.
    pub leader_id: i32,
    /// The leader's epoch.
    pub leader_epoch: i32,
}

impl LeaderHint {
    /// Nobody known: what the wire's defaults say.
    const NONE: LeaderHint = LeaderHint { leader_id: -1, leader_epoch: -1 };

    pub(crate) fn read(
        reader: &mut Reader<'_>,
        form: Form,
    ) -> Result<Option<LeaderHint>, WireError> {
        let hint = LeaderHint { leader_id: reader.i32()?, leader_epoch: reader.i32()? };
        reader.skip_tagged_fields(form.flexible)?;
        Ok((hint != LeaderHint::NONE).then_some(hint))
    }

    /// Writes the structure where it always stands; -1 for nobody.
    pub(crate) fn write(hint: Option<LeaderHint>, writer: &mut Writer<'_>) {
        let hint = hint.unwrap_or(LeaderHint::NONE);
        writer.i32(hint.leader_id);
        writer.i32(hint.leader_epoch);
        writer.tag_count(0, true);
    }

    /// Writes the structure as a tagged field: fixed width, so its size is known.
    pub(crate) fn write_tagged(self, writer: &mut Writer<'_>, tag: u32) {
        writer.unsigned_varint(tag);
        writer.unsigned_varint(9);
        LeaderHint::write(Some(self), writer);
    }
}

/// Where a node that a [`LeaderHint`] names can be reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NodeEndpoint<'a> {
    /// The id leaders are named by.
    pub node_id: i32,
    /// Its host name or address.
    pub host: &'a str,
    /// Its port.
    pub port: i32,
    /// Its rack, if it has one.
    pub rack: Option<&'a str>,
}

impl<'a> NodeEndpoint<'a> {
    /// The fewest bytes it takes: two integers, two compact strings, no tags.
    const BYTES_MIN: usize = 4 + 1 + 4 + 1 + 1;

    pub(crate) fn read_list(reader: &mut Reader<'a>) -> Result<Vec<NodeEndpoint<'a>>, WireError> {
        let count = reader.count(true, NodeEndpoint::BYTES_MIN)?;
        reader.allow(count * size_of::<NodeEndpoint<'_>>())?;
        let mut endpoints = Vec::with_capacity(count);
        for _ in 0..count {
            endpoints.push(NodeEndpoint {
                node_id: reader.i32()?,
                host: reader.string(true)?,
                port: reader.i32()?,
                rack: reader.nullable_string(true)?,
            });
            reader.skip_tagged_fields(true)?;
        }
        Ok(endpoints)
    }

    pub(crate) fn write_list(writer: &mut Writer<'_>, endpoints: &[NodeEndpoint<'_>]) {
        writer.count(endpoints.len(), true);
        for endpoint in endpoints {
            writer.i32(endpoint.node_id);
            writer.string(endpoint.host, true);
            writer.i32(endpoint.port);
            writer.nullable_string(endpoint.rack, true);
            writer.tag_count(0, true);
        }
    }
}
