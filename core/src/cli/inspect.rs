//! `tidemill inspect`: what lies in the files of a data directory, sound or not.
//!
//! Reads only, and never the files of a running broker's future: what is shown is what was on disk
//! at that moment. The last line counts what was found; damage ends the command with status 1.
//!
//! Start reading at [`InspectCommand::run`].

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tidemill_record::{Batch, Contents, Offset};
use tidemill_replication::quorum::layout::{
    BlockError, LogHeader, NodeFile, WRITE_HEADER_BYTES, WriteHeader, decode_entries,
};
use tidemill_replication::{DirectoryId, Record as MetadataRecord, Resource};
use tidemill_storage::block::BLOCK_BYTES;
use tidemill_storage::inspect::{
    InspectedWindow, JournalInspection, JournalThing, SegmentInspection, SegmentThing,
};
use tidemill_storage::io::segment_named;

use super::failure::Failure;
use super::{Output, counted, print_line};
use crate::limits;

/// The longest metadata write that is read as a whole; a length above it is taken for damage.
const WRITE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// `tidemill inspect …`
#[derive(Debug, Subcommand)]
pub(super) enum InspectCommand {
    /// The batches of a segment file: partitions/<topic>/<partition>/<base offset>.log, compacted
    /// ones <base offset>.<compaction>.log
    Segment(Segment),
    /// The commit windows of a journal file: journal/shard-<n>/<number>.journal
    Journal(Journal),
    /// The entries of a metadata log file: metadata/<first index>.log
    Metadata(Metadata),
}

/// `tidemill inspect segment …`
#[derive(Args, Debug)]
pub(super) struct Segment {
    /// The file; may be several.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Show the records in the batches too.
    #[arg(long)]
    records: bool,
    #[command(flatten)]
    output: Output,
}

/// `tidemill inspect journal …`
#[derive(Args, Debug)]
pub(super) struct Journal {
    /// The file.
    file: PathBuf,
    /// Show the entries of each window too.
    #[arg(long)]
    entries: bool,
    #[command(flatten)]
    output: Output,
}

/// `tidemill inspect metadata …`
#[derive(Args, Debug)]
pub(super) struct Metadata {
    /// The file, in its data directory.
    file: PathBuf,
    #[command(flatten)]
    output: Output,
}

impl InspectCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Segment(segment) => segment.run(),
            Self::Journal(journal) => journal.run(),
            Self::Metadata(metadata) => metadata.run(),
        }
    }
}

/// Prints what was found, one line each, and counts.
struct Findings {
    json: bool,
    /// Where they are found, if there are several such places.
    file: Option<String>,
    sound: u64,
    damaged: u64,
    /// The first line that could not be printed.
    failure: Option<Failure>,
}

impl Findings {
    fn new(output: &Output) -> Self {
        Self { json: output.is_json(), file: None, sound: 0, damaged: 0, failure: None }
    }

    /// Tells of one thing, in words and as fields.
    fn tell(&mut self, words: &str, fields: &Value) {
        if self.failure.is_some() {
            return;
        }
        let printed = match (self.json, &self.file) {
            (false, _) => print_line(words),
            (true, None) => print_line(&fields.to_string()),
            (true, Some(file)) => {
                let mut fields = fields.clone();
                fields["file"] = json!(file);
                print_line(&fields.to_string())
            }
        };
        self.failure = printed.err();
    }

    fn end(self, one: &str, many: &str, file: &Path) -> Result<(), Failure> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        if !self.json {
            let (sound, damaged) = (counted(self.sound, one, many), self.damaged);
            print_line(&format!("{sound} as written, {damaged} damaged"))?;
        }
        if self.damaged == 0 {
            return Ok(());
        }
        let (damaged, all) = (self.damaged, counted(self.sound + self.damaged, one, many));
        Err(Failure::new(format!("{} is damaged", file.display()))
            .because(format!("{damaged} of {all} not as written"))
            .fix("this only shows it: the lines above name the places"))
    }
}

impl Segment {
    /// Looks into all of them; ends with the first failure, the others are told where they occur.
    fn run(self) -> Result<(), Failure> {
        let mut outcome = Ok(());
        for (place, path) in self.files.iter().enumerate() {
            if 1 < self.files.len() && !self.output.is_json() {
                let gap = if place == 0 { "" } else { "\n" };
                print_line(&format!("{gap}{}", path.display()))?;
            }
            match (self.inspect(path), &outcome) {
                (Err(failure), Err(_)) => eprintln!("tidemill: {failure}"),
                (Err(failure), Ok(())) => outcome = Err(failure),
                (Ok(()), _) => {}
            }
        }
        outcome
    }

    fn inspect(&self, path: &Path) -> Result<(), Failure> {
        if path.extension().is_some_and(|extension| extension == "index") {
            let what = format!("{} is the index of a segment", path.display());
            return Err(Failure::usage(what).fix("the segment itself ends in .log"));
        }
        let (file, size) = open(path)?;
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let named = stem.and_then(|stem| match stem.parse() {
            Ok(base) => Some((Offset(base), 0)),
            Err(_) => segment_named(&stem),
        });
        let (base, compaction) = named.ok_or_else(|| {
            Failure::usage(format!("{} is not named after an offset", path.display()))
                .fix("a copy keeps the name: <offset of the first record>.log")
        })?;
        let mut findings = Findings::new(&self.output);
        findings.file = (1 < self.files.len()).then(|| path.display().to_string());
        let mut inspection = match compaction {
            0 => SegmentInspection::new(base, size),
            _ => SegmentInspection::with_gaps(base, size),
        };
        while let Some((position, size)) = inspection.next_read() {
            let bytes = read(path, &file, position, size as usize)?;
            inspection.take(&bytes, |thing| self.tell(&thing, &mut findings));
        }
        findings.end("batch", "batches", path)
    }

    fn tell(&self, thing: &SegmentThing<'_>, findings: &mut Findings) {
        match thing {
            SegmentThing::Batch { position, batch, checksum_is_right, follows } => {
                let sound = *checksum_is_right && *follows;
                findings.sound += u64::from(sound);
                findings.damaged += u64::from(!sound);
                tell_batch(*position, batch, *checksum_is_right, *follows, findings);
                if self.records {
                    tell_records(batch, findings);
                }
            }
            SegmentThing::Zeros { position, size_bytes } => findings.tell(
                &format!("{position:>12}  {size_bytes} zero bytes"),
                &json!({"position": position, "zeros": size_bytes}),
            ),
            SegmentThing::Unreadable { position, size_bytes, reason } => {
                findings.damaged += 1;
                findings.tell(
                    &format!("{position:>12}  {size_bytes} unreadable bytes: {reason}"),
                    &json!({"position": position, "unreadable": size_bytes, "reason": reason.to_string()}),
                );
            }
        }
    }
}

fn tell_batch(
    position: u64,
    batch: &Batch<'_>,
    checksum_is_right: bool,
    follows: bool,
    findings: &mut Findings,
) {
    let (first, last) = (batch.base_offset().0, batch.last_offset().0);
    let producer = batch.producer().map(|producer| producer.id.0);
    let mut words = format!(
        "{position:>12}  offsets {first}..{last}  epoch {}  {}  {} bytes  {}",
        batch.leader_epoch().0,
        counted(batch.records_count() as u64, "record", "records"),
        batch.size_bytes(),
        batch.compression().name(),
    );
    if let (Some(id), Some(sequence)) = (producer, batch.base_sequence()) {
        words.push_str(&format!("  producer {id} sequence {}", sequence.0));
    }
    if !checksum_is_right {
        words.push_str("  WRONG CHECKSUM");
    }
    if !follows {
        words.push_str("  DOES NOT FOLLOW");
    }
    let fields = json!({
        "position": position,
        "base_offset": first,
        "last_offset": last,
        "leader_epoch": batch.leader_epoch().0,
        "records": batch.records_count(),
        "size_bytes": batch.size_bytes(),
        "codec": batch.compression().name(),
        "producer_id": producer,
        "base_sequence": batch.base_sequence().map(|sequence| sequence.0),
        "max_timestamp_ms": batch.max_timestamp().0,
        "checksum_is_right": checksum_is_right,
        "follows": follows,
    });
    findings.tell(&words, &fields);
}

fn tell_records(batch: &Batch<'_>, findings: &mut Findings) {
    let text =
        |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let contents = match Contents::open(batch, limits::REQUEST_BYTES_MAX as usize) {
        Ok(contents) => contents,
        Err(reason) => return unreadable_records(&reason, findings),
    };
    for record in contents.records() {
        let record = match record {
            Ok(record) => record,
            Err(reason) => return unreadable_records(&reason, findings),
        };
        let (key, value) = (text(record.key), text(record.value));
        let words = format!(
            "              {} at {} ms: {} = {}",
            record.offset.0,
            record.timestamp.0,
            key.as_deref().unwrap_or("(no key)"),
            value.as_deref().unwrap_or("(null)"),
        );
        let fields = json!({
            "offset": record.offset.0,
            "timestamp_ms": record.timestamp.0,
            "key": key,
            "value": value,
        });
        findings.tell(&words, &fields);
    }
}

fn unreadable_records(reason: &dyn std::fmt::Display, findings: &mut Findings) {
    findings.damaged += 1;
    let words = format!("              unreadable records: {reason}");
    findings.tell(&words, &json!({"unreadable_records": reason.to_string()}));
}

impl Journal {
    fn run(self) -> Result<(), Failure> {
        let (file, size) = open(&self.file)?;
        let mut findings = Findings::new(&self.output);
        let mut inspection = JournalInspection::new(size);
        let mut has_bytes = false;
        while let Some((position, size)) = inspection.next_read() {
            let bytes = read(&self.file, &file, position, size as usize)?;
            has_bytes |= bytes.iter().any(|byte| *byte != 0);
            inspection.take(&bytes, |thing| match thing {
                JournalThing::Window(window) => self.tell_window(&window, &mut findings),
                JournalThing::NoWindow { position, size_bytes } => findings.tell(
                    &format!("{position:>12}  {size_bytes} bytes without a window"),
                    &json!({"position": position, "no_window": size_bytes}),
                ),
                JournalThing::NewerFormat { position, found } => {
                    findings.damaged += 1;
                    findings.tell(
                        &format!("{position:>12}  a window of the newer format {found}"),
                        &json!({"position": position, "newer_format": found}),
                    );
                }
            });
        }
        if has_bytes && findings.sound + findings.damaged == 0 && findings.failure.is_none() {
            return Err(Failure::new(format!("{} is no journal", self.file.display()))
                .because("there are bytes in it, but no commit window")
                .fix("journals are <data directory>/journal/shard-<n>/<number>.journal"));
        }
        findings.end("window", "windows", &self.file)
    }

    fn tell_window(&self, window: &InspectedWindow<'_>, findings: &mut Findings) {
        let header = &window.header;
        let payloads_are_sound = window.payloads().all(|(.., sound)| sound);
        let sound = window.trailer_is_sound() && payloads_are_sound;
        findings.sound += u64::from(sound);
        findings.damaged += u64::from(!sound);
        let words = format!(
            "{:>12}  window {}  incarnation {}  reported durable {}  {}  {} bytes{}",
            window.position,
            header.sequence,
            header.incarnation,
            header.mark,
            counted(u64::from(header.entries_count), "entry", "entries"),
            header.payload_bytes,
            if sound { "" } else { "  TORN OR DAMAGED" },
        );
        let fields = json!({
            "position": window.position,
            "shard": header.shard,
            "incarnation": header.incarnation,
            "sequence": header.sequence,
            "mark": header.mark,
            "file_use": header.file_use,
            "entries": header.entries_count,
            "payload_bytes": header.payload_bytes,
            "sound": sound,
        });
        findings.tell(&words, &fields);
        if self.entries {
            for (entry, _, sound) in window.payloads() {
                let (base, next) = (entry.base_offset.0, entry.next_offset.0);
                let words = format!(
                    "              {:?} {}  generation {}  offsets {base}..{next}  at {} of {:020}.log  {} bytes{}",
                    entry.kind,
                    entry.partition,
                    entry.generation,
                    entry.position,
                    entry.segment.0,
                    entry.data_bytes,
                    if sound { "" } else { "  DAMAGED" },
                );
                let fields = json!({
                    "entry": format!("{:?}", entry.kind),
                    "partition": entry.partition.to_string(),
                    "generation": entry.generation,
                    "base_offset": base,
                    "next_offset": next,
                    "segment": entry.segment.0,
                    "position": entry.position,
                    "data_bytes": entry.data_bytes,
                    "prefix_bytes": entry.prefix_bytes,
                    "sound": sound,
                });
                findings.tell(&words, &fields);
            }
        }
    }
}

impl Metadata {
    fn run(self) -> Result<(), Failure> {
        let directory = self.directory()?;
        let (file, size) = open(&self.file)?;
        let first = read(&self.file, &file, 0, BLOCK_BYTES)?;
        let header = LogHeader::decode(&first, directory).map_err(|reason| {
            Failure::new(format!("{} is no metadata log", self.file.display()))
                .because(in_words(reason))
                .fix("metadata logs are <data directory>/metadata/<number>.log")
        })?;
        let mut findings = Findings::new(&self.output);
        findings.tell(
            &format!("entries from {} on", header.first),
            &json!({"first": header.first.0, "previous_term": header.previous_term.0}),
        );
        let mut position = BLOCK_BYTES as u64;
        while position < size {
            let start = read(&self.file, &file, position, WRITE_HEADER_BYTES)?;
            let write = WriteHeader::decode(&start, directory)
                .filter(|(header, _)| header.body_bytes as usize <= WRITE_BYTES_MAX);
            let Some((header, _)) = write else {
                let rest = size - position;
                findings.tell(
                    &format!("{position:>12}  {rest} bytes without a write"),
                    &json!({"position": position, "no_write": rest}),
                );
                break;
            };
            let body_at = position + WRITE_HEADER_BYTES as u64;
            let body = read(&self.file, &file, body_at, header.body_bytes as usize)?;
            tell_write(position, &header, &body, directory, &mut findings);
            position += header.size_bytes() as u64;
        }
        findings.end("write", "writes", &self.file)
    }

    /// The id of the data directory, with which all checksums begin.
    fn directory(&self) -> Result<DirectoryId, Failure> {
        let data_dir = self.file.parent().and_then(Path::parent).unwrap_or(Path::new(".."));
        let path = data_dir.join("node");
        let (file, _) = open(&path).map_err(|failure| {
            failure.fix("the checksums need it: name the log where it lies, in its data directory")
        })?;
        let block = read(&path, &file, 0, BLOCK_BYTES)?;
        let node = NodeFile::decode(&block).map_err(|reason| {
            Failure::new(format!("{} does not say whose directory this is", path.display()))
                .because(in_words(reason))
                .fix("the checksums need it: name the log where it lies, in its data directory")
        })?;
        Ok(node.directory)
    }
}

fn tell_write(
    position: u64,
    header: &WriteHeader,
    body: &[u8],
    directory: DirectoryId,
    findings: &mut Findings,
) {
    let entries = (WriteHeader::crc_of(body, directory) == header.body_crc)
        .then(|| decode_entries(body, header.entries).ok())
        .flatten();
    let Some(entries) = entries else {
        findings.damaged += 1;
        let words = format!("{position:>12}  a write from {} on  TORN OR DAMAGED", header.first);
        findings
            .tell(&words, &json!({"position": position, "first": header.first.0, "sound": false}));
        return;
    };
    findings.sound += 1;
    for (index, records) in (header.first.0..).zip(&entries) {
        let records: Vec<String> = records.iter().map(told).collect();
        let words =
            format!("{position:>12}  {index} (term {})  {}", header.term, records.join("; "));
        let fields = json!({
            "position": position,
            "index": index,
            "term": header.term.0,
            "commit": header.commit.0,
            "records": records,
        });
        findings.tell(&words, &fields);
    }
}

/// A metadata record in words.
fn told(record: &MetadataRecord) -> String {
    match record {
        MetadataRecord::ClusterCreated { cluster } => format!("cluster {cluster} created"),
        MetadataRecord::NodeStarted { node, node_epoch, shards, .. } => {
            format!("node {node} started with {shards} shards, epoch {}", node_epoch.0)
        }
        MetadataRecord::TopicCreated { id, name, partitions, configs } => {
            let configs: String =
                configs.iter().map(|(name, value)| format!(", {name}={value}")).collect();
            let partitions = counted(partitions.len() as u64, "partition", "partitions");
            format!("topic {name} created as {id}: {partitions}{configs}")
        }
        MetadataRecord::PartitionsAdded { topic, new_count, .. } => {
            format!("topic {topic} grown to {new_count} partitions")
        }
        MetadataRecord::TopicDeleted { id } => format!("topic {id} deleted"),
        MetadataRecord::TopicDeletionFinished { id } => format!("files of topic {id} gone"),
        MetadataRecord::ConfigChanged { resource, name, value } => {
            let resource = match resource {
                Resource::Topic(id) => format!("topic {id}"),
                Resource::Node(node) => format!("node {node}"),
                Resource::Cluster => "all nodes".to_owned(),
                Resource::Group(name) => format!("group {name:?}"),
            };
            match value {
                Some(value) => format!("{resource}: {name} set to {value}"),
                None => format!("{resource}: {name} back to its default"),
            }
        }
        MetadataRecord::ProducerIdsGranted { first, count } => {
            format!("producer ids {first} to {} granted", first + count - 1)
        }
        MetadataRecord::QuotaChanged { entity, bound, rate } => match rate {
            Some(rate) => format!("{entity}: {} set to {rate}", bound.name()),
            None => format!("{entity}: {} unbounded", bound.name()),
        },
    }
}

fn in_words(error: BlockError) -> String {
    match error {
        BlockError::Empty => "its first block is empty".to_owned(),
        BlockError::NewerFormat { found } => format!("a newer version wrote it (format {found})"),
        BlockError::Damaged => {
            "its first block is damaged, or belongs to another file or directory".to_owned()
        }
    }
}

fn open(path: &Path) -> Result<(File, u64), Failure> {
    let unreadable = |error: std::io::Error| {
        Failure::new(format!("cannot read {}", path.display())).because(error)
    };
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.is_dir() {
        let what = format!("{} is a directory", path.display());
        return Err(Failure::usage(what).fix("name a file in it"));
    }
    Ok((file, metadata.len()))
}

/// Up to `size` bytes from `position` on; fewer at the end of the file.
fn read(path: &Path, file: &File, position: u64, size: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = vec![0; size];
    let mut filled = 0;
    while filled < size {
        match file.read_at(&mut bytes[filled..], position + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => {
                let what = format!("cannot read {} at {position}", path.display());
                return Err(Failure::new(what).because(error));
            }
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}
