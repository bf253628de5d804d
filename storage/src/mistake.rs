//! Mistakes that the simulator plants, to see that its checkers find them.
//!
//! Without the feature `mistakes`, which only the simulator turns on, none is ever made and no
//! code is left of them. With it, a thread makes the one it was told to ([`plant`]).

/// A mistake that a storage like this one could contain, or what is built upon it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mistake {
    /// A journal file is used again before the checkpoint that frees it is durable.
    RecycleEarly,
    /// A bad window is always taken for a torn tail, also when it had been reported durable.
    DamageIsTornTail,
    /// Windows of an earlier incarnation, or of an earlier use of their file, are replayed.
    ReplayOldWindows,
    /// Replay does not tell what producers had appended since the last checkpoint.
    StaleProducers,
    /// Replay does not tell how transactions began and ended since the last checkpoint.
    StaleTransactions,
    /// The coordinator of transactions answers an end before the record that says so is durable.
    EndEarly,
    /// After a start, the coordinator of transactions does not tell partitions how those ended that
    /// were about to.
    ForgetMarkers,
    /// To compaction, an aborted record is its key's last word.
    AbortedIsLastWord,
    /// A compacted segment takes the place of others before it is durable.
    SwapEarly,
    /// Compaction drops what has deleted a key, and the markers of transactions, before their time.
    MarksGoEarly,
    /// What a member of a share group says of records is answered before it is durable.
    ShareEarly,
    /// When one record's lock is over, those of all others are, too.
    LocksEndTogether,
    /// A share group passes over records that were given back.
    PassOverReleased,
    /// A share group forgets in a crash how often records were given out.
    ForgetDeliveries,
    /// A group that is upgraded begins with the first generation again.
    BeginAnew,
    /// A group that is upgraded gives away what its members read.
    GiveWhatIsRead,
    /// Who is silent in a group that is classic again is not missed, and nobody shares out anew.
    MissNobody,
    /// In a transaction, anybody commits offsets, whatever generation of the group it is of.
    TakeFromFenced,
    /// What a transaction commits has its place where that ends, and hides what was committed since.
    CountFromEnd,
    /// The offsets of an aborted transaction count.
    AbortedOffsetsCount,
    /// It is not written that the offsets of a deleted group are gone.
    ForgetGroupOnly,
}

#[cfg(feature = "mistakes")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Mistake>> = const { std::cell::Cell::new(None) };
}

/// From now on this thread makes `mistake`, or none.
#[cfg(feature = "mistakes")]
pub fn plant(mistake: Option<Mistake>) {
    PLANTED.set(mistake);
}

/// Whether this thread makes `mistake`.
#[cfg(feature = "mistakes")]
#[must_use]
pub fn is_made(mistake: Mistake) -> bool {
    PLANTED.get() == Some(mistake)
}

/// Never.
#[cfg(not(feature = "mistakes"))]
#[inline]
#[must_use]
pub const fn is_made(_: Mistake) -> bool {
    false
}
