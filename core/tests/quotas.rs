//! Quotas on the real binary: who exceeds one is answered, told to wait and not read for so long;
//! nobody else notices; and what was set survives a kill.
// Fixtures are tests, though they are no test functions.
#![allow(clippy::unwrap_used)]

mod process;
mod wire;

use std::time::{Duration, Instant};

use process::Broker;
use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::alter_client_quotas::{
    AlterClientQuotasRequest, QuotaChange, QuotaChanges,
};
use tidemill_net::kafka::describe_client_quotas::{
    ComponentFilter, DescribeClientQuotasRequest, QuotaEntity,
};
use tidemill_record::{BatchBuilder, Codec, Timestamp};
use wire::Client;

fn client_id(name: Option<&str>) -> Vec<QuotaEntity> {
    let entity_name = name.map(str::to_owned);
    vec![QuotaEntity { entity_type: "client-id".to_owned(), entity_name }]
}

fn alter(
    client: &mut Client,
    entity: Vec<QuotaEntity>,
    key: &str,
    value: Option<f64>,
) -> ErrorCode {
    let op =
        QuotaChange { key: key.to_owned(), value: value.unwrap_or(0.0), remove: value.is_none() };
    let entries = vec![QuotaChanges { entity, ops: vec![op] }];
    let request = AlterClientQuotasRequest { entries, validate_only: false };
    client.ask(1, &request).entries[0].error_code
}

/// All quotas that a filter lets through: names of clients, with their values.
fn described(
    client: &mut Client,
    components: &[(&str, i8, Option<&str>)],
    strict: bool,
) -> Result<Vec<(Option<String>, f64)>, ErrorCode> {
    let component = |(kind, match_type, matched): &(&str, i8, Option<&str>)| ComponentFilter {
        entity_type: (*kind).to_owned(),
        match_type: *match_type,
        matched: matched.map(str::to_owned),
    };
    let components = components.iter().map(component).collect();
    let told = client.ask(1, &DescribeClientQuotasRequest { components, strict });
    if told.error_code != ErrorCode::None {
        assert_eq!(told.entries, None);
        return Err(told.error_code);
    }
    let entries = told.entries.unwrap().into_iter();
    Ok(entries.map(|e| (e.entity[0].entity_name.clone(), e.values[0].value)).collect())
}

fn batch(bytes: usize) -> bytes::BytesMut {
    let mut builder = BatchBuilder::new(Codec::None);
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64;
    builder.append(Timestamp(now), None, Some(&vec![7; bytes]));
    builder.build()
}

/// Over time a producer gets its rate, from all its connections together; it is told how long to
/// wait, and is held to it even if it does not care. Others are not held up.
#[test]
fn a_producer_is_held_to_its_rate() {
    const RATE: usize = 200_000;
    let broker = Broker::start("produce-quota", &["--shards", "2"]);
    let mut one = Client::open(&broker);
    let mut other = Client::open(&broker);
    one.create("t", 2);
    let set = alter(&mut one, client_id(Some("test")), "producer_byte_rate", Some(RATE as f64));
    assert_eq!(set, ErrorCode::None);

    // A second's worth may be spent at once; with what follows, three seconds' worth is sent.
    let begun = Instant::now();
    let mut waits = 0;
    for _ in 0..6 {
        for (client, partition) in [(&mut one, 0), (&mut other, 1)] {
            let produced = client.produce("t", partition, &batch(RATE / 4));
            assert_eq!(produced.error_code, ErrorCode::None);
            assert!(0 <= produced.throttle_time_ms && produced.throttle_time_ms <= 3000);
            waits += i32::from(0 < produced.throttle_time_ms);
        }
    }
    let took = begun.elapsed();
    assert!(Duration::from_millis(1000) < took, "{took:?}");
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert!(2 <= waits, "{waits} waits were told");

    let mut free = Client::open(&broker);
    free.name = "free";
    for _ in 0..10 {
        assert_eq!(free.produce("t", 0, &batch(RATE / 4)).throttle_time_ms, 0);
    }
}

/// A consumer that has fetched more than its quota is told so with the records, and not read for so
/// long; without the quota it is as before.
#[test]
fn a_consumer_is_held_to_its_rate() {
    let broker = Broker::start("fetch-quota", &["--shards", "2"]);
    let mut client = Client::open(&broker);
    client.create("t", 1);
    client.produce("t", 0, &batch(300_000));
    let set = alter(&mut client, client_id(None), "consumer_byte_rate", Some(200_000.0));
    assert_eq!(set, ErrorCode::None);
    let begun = Instant::now();
    let wait_ms = client.fetch("t", -1, |told| {
        assert!(300_000 <= told.partitions[0].records.concat().len());
        told.throttle_time_ms
    });
    assert!((300..=600).contains(&wait_ms), "100,000 bytes of debt: {wait_ms} ms");
    assert!(begun.elapsed() < Duration::from_millis(wait_ms as u64), "the answer comes at once");
    // It does not wait, and is not read.
    let removed = alter(&mut client, client_id(None), "consumer_byte_rate", None);
    assert_eq!(removed, ErrorCode::None);
    assert!(Duration::from_millis(wait_ms as u64) <= begun.elapsed());
    assert_eq!(client.fetch("t", -1, |told| told.throttle_time_ms), 0);
}

/// Quotas are told by filters, as Kafka tells them, and are there after a kill; what is not carried
/// out is refused.
#[test]
fn quotas_are_kept_and_told() {
    let mut broker = Broker::start("kept-quotas", &["--shards", "2"]);
    let mut client = Client::open(&broker);
    let mut set = |entity, key: &str, value| alter(&mut client, entity, key, value);
    assert_eq!(set(client_id(Some("a")), "producer_byte_rate", Some(1024.0)), ErrorCode::None);
    assert_eq!(set(client_id(None), "consumer_byte_rate", Some(2048.0)), ErrorCode::None);
    let both = || {
        let user = QuotaEntity { entity_type: "user".to_owned(), entity_name: Some("u".into()) };
        [client_id(Some("a")), vec![user]].concat()
    };
    assert_eq!(set(both(), "producer_byte_rate", Some(4096.0)), ErrorCode::None);
    let ip = vec![QuotaEntity { entity_type: "ip".to_owned(), entity_name: None }];
    for (entity, key, value) in [
        (client_id(Some("a")), "request_percentage", 10.0),
        (client_id(Some("a")), "producer_byte_rate", 0.0),
        (client_id(Some("")), "producer_byte_rate", 1.0),
        (ip, "connection_creation_rate", 1.0),
        (Vec::new(), "producer_byte_rate", 1.0),
        (both().into_iter().chain(both()).collect(), "producer_byte_rate", 1.0),
    ] {
        assert_eq!(set(entity, key, Some(value)), ErrorCode::InvalidRequest, "{key} {value}");
    }

    broker.kill();
    broker.run();
    let mut client = Client::open(&broker);
    let mut ask = |components: &[_], strict| described(&mut client, components, strict);
    let (exact, default, any) = (0, 1, 2);
    let (a, none) = (Some("a".to_owned()), None);
    assert_eq!(ask(&[], false).unwrap().len(), 3);
    assert_eq!(ask(&[("client-id", default, None)], true), Ok(vec![(none.clone(), 2048.0)]));
    assert_eq!(ask(&[("client-id", exact, Some("a"))], true), Ok(vec![(a.clone(), 1024.0)]));
    assert_eq!(ask(&[("client-id", exact, Some("a"))], false).unwrap().len(), 2);
    let strictly_clients = ask(&[("client-id", any, None)], true).unwrap();
    assert_eq!(strictly_clients, [(none, 2048.0), (a, 1024.0)]);
    assert_eq!(ask(&[("ip", any, None)], false), Ok(Vec::new()));
    assert_eq!(ask(&[("user", exact, None)], false), Err(ErrorCode::InvalidRequest));
    let twice = [("user", any, None), ("user", default, None)];
    assert_eq!(ask(&twice, false), Err(ErrorCode::InvalidRequest));
    assert_eq!(ask(&[("planet", any, None)], false), Err(ErrorCode::UnsupportedVersion));
}
