//! The protocol in its own words: one connection that asks the real binary and waits for the answer.

// Each test of the binary is a program of its own and uses some of this.
#![allow(dead_code)]

pub(crate) mod records;
pub(crate) mod transactions;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidemill_net::kafka::alter_configs::{
    AlterConfigsRequest, AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
    ReplaceConfigsResource, ReplacingConfig,
};
use tidemill_net::kafka::create_topics::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequest,
};
use tidemill_net::kafka::describe_configs::{
    DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResponse, resource,
};
use tidemill_net::kafka::fetch::{FetchPartition, FetchResponse, OutgoingFetch};
use tidemill_net::kafka::produce::{OutgoingProduce, OutgoingProducePartition, ProduceResponse};
use tidemill_net::kafka::{
    ApiKey, ErrorCode, Request, TopicRef, decode_response, encode_request, parse_response_header,
};

use crate::process::Broker;

/// The longest an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    /// What it calls itself.
    pub(crate) name: &'static str,
}

/// What became of a batch.
#[derive(Debug)]
pub(crate) struct Produced {
    pub(crate) error_code: ErrorCode,
    pub(crate) error_message: Option<String>,
    pub(crate) base_offset: i64,
    pub(crate) log_append_time_ms: i64,
    pub(crate) throttle_time_ms: i32,
}

impl Client {
    /// Connects.
    pub(crate) fn open(broker: &Broker) -> Client {
        Self::at(&broker.address())
    }

    /// Connects to one of the broker's endpoints.
    pub(crate) fn at(address: &str) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { stream, name: "test" }
    }

    /// Asks, and returns the answer.
    pub(crate) fn ask<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        let mut out = BytesMut::new();
        encode_request(&mut out, version, 7, Some(self.name), request);
        let body = self.exchange(&out);
        let (correlation, response) = decode_response(version, &body).unwrap();
        assert_eq!(correlation, 7);
        response
    }

    /// Sends a frame, and returns the one that answers it, without its length.
    fn exchange(&mut self, frame: &[u8]) -> Vec<u8> {
        self.stream.write_all(frame).unwrap();
        self.receive()
    }

    /// The next frame, without its length.
    pub(crate) fn receive(&mut self) -> Vec<u8> {
        let mut size = [0; 4];
        self.stream.read_exact(&mut size).unwrap();
        let mut body = vec![0; u32::from_be_bytes(size) as usize];
        self.stream.read_exact(&mut body).unwrap();
        body
    }

    /// Sends a batch with acks=all, and tells what became of it.
    pub(crate) fn produce(&mut self, topic: &str, partition: i32, batch: &[u8]) -> Produced {
        const VERSION: i16 = 11;
        let records = Some(batch);
        let topic = TopicRef::Name(topic);
        let partitions = [OutgoingProducePartition { topic, partition, records }];
        let produce = OutgoingProduce {
            transactional_id: None,
            acks: -1,
            timeout_ms: 30_000,
            partitions: &partitions,
        };
        let mut out = BytesMut::new();
        produce.encode(&mut out, VERSION, 7, Some(self.name));
        let frame = self.exchange(&out);
        let (_, start) = parse_response_header(ApiKey::Produce, VERSION, &frame).unwrap();
        let response = ProduceResponse::parse(VERSION, &frame[start..]).unwrap();
        let told = &response.partitions[0];
        Produced {
            error_code: told.error_code,
            error_message: told.error_message.as_deref().map(str::to_owned),
            base_offset: told.base_offset,
            log_append_time_ms: told.log_append_time_ms,
            throttle_time_ms: response.throttle_time_ms,
        }
    }

    /// Fetches from the start of a partition, as one who knows of this leader epoch.
    pub(crate) fn fetch<T>(
        &mut self,
        topic: &str,
        leader_epoch: i32,
        look: impl FnOnce(&FetchResponse<'_>) -> T,
    ) -> T {
        const VERSION: i16 = 12;
        self.fetch_in(VERSION, TopicRef::Name(topic), leader_epoch, look)
    }

    /// The same in a version that names topics by id.
    pub(crate) fn fetch_in<T>(
        &mut self,
        version: i16,
        topic: TopicRef<'_>,
        leader_epoch: i32,
        look: impl FnOnce(&FetchResponse<'_>) -> T,
    ) -> T {
        let mut partition = FetchPartition::from_consumer(topic, 0, 0, 1 << 20);
        partition.current_leader_epoch = leader_epoch;
        let fetch = OutgoingFetch {
            max_bytes: 1 << 20,
            partitions: &[partition],
            ..OutgoingFetch::default()
        };
        let mut out = BytesMut::new();
        fetch.encode(&mut out, version, 7, Some(self.name));
        let frame = Bytes::from(self.exchange(&out));
        let (_, start) = parse_response_header(ApiKey::Fetch, version, &frame).unwrap();
        let body = frame.slice(start..);
        look(&FetchResponse::parse(version, &body).unwrap())
    }

    /// Makes a topic.
    pub(crate) fn create(&mut self, name: &str, partitions: i32) {
        self.create_with(name, partitions, &[]);
    }

    /// Makes a topic with configs of its own.
    pub(crate) fn create_with(&mut self, name: &str, partitions: i32, configs: &[(&str, &str)]) {
        let config = |(name, value): &(&str, &str)| CreatableTopicConfig {
            name: (*name).to_owned(),
            value: Some((*value).to_owned()),
        };
        let topic = CreatableTopic {
            name: name.to_owned(),
            num_partitions: partitions,
            replication_factor: 1,
            configs: configs.iter().map(config).collect(),
            ..CreatableTopic::default()
        };
        let request = CreateTopicsRequest {
            topics: vec![topic],
            timeout_ms: 60_000,
            ..CreateTopicsRequest::default()
        };
        let made = self.ask(7, &request);
        assert_eq!(made.topics[0].error_code, ErrorCode::None, "{made:?}");
    }

    /// The value of a config of a topic, and where it comes from.
    pub(crate) fn config(&mut self, topic: &str, name: &str) -> (String, i8) {
        let response = self.configs(resource::TOPIC, topic, name);
        let config = &response.results[0].configs[0];
        (config.value.clone().unwrap(), config.config_source)
    }

    /// One config of a resource, with all that is told of it.
    pub(crate) fn configs(&mut self, kind: i8, of: &str, name: &str) -> DescribeConfigsResponse {
        let asked = DescribeConfigsResource {
            resource_type: kind,
            resource_name: of.to_owned(),
            configuration_keys: Some(vec![name.to_owned()]),
        };
        let request = DescribeConfigsRequest {
            resources: vec![asked],
            include_synonyms: true,
            include_documentation: true,
        };
        self.ask(4, &request)
    }

    /// Sets configs with the older call: all of them.
    pub(crate) fn replace(
        &mut self,
        kind: i8,
        of: &str,
        configs: &[(&str, Option<&str>)],
    ) -> ErrorCode {
        let setting = |(name, value): &(&str, Option<&str>)| ReplacingConfig {
            name: (*name).to_owned(),
            value: value.map(str::to_owned),
        };
        let resource = ReplaceConfigsResource {
            resource_type: kind,
            resource_name: of.to_owned(),
            configs: configs.iter().map(setting).collect(),
        };
        let request = AlterConfigsRequest { resources: vec![resource], validate_only: false };
        self.ask(2, &request).responses[0].error_code
    }

    /// Changes configs one by one.
    pub(crate) fn alter(
        &mut self,
        kind: i8,
        of: &str,
        changes: &[(&str, i8, Option<&str>)],
    ) -> ErrorCode {
        let resource = altered(kind, of, changes);
        let request =
            IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
        self.ask(1, &request).responses[0].error_code
    }
}

/// Changes of configs, as a request names them.
pub(crate) fn altered(
    kind: i8,
    of: &str,
    changes: &[(&str, i8, Option<&str>)],
) -> AlterConfigsResource {
    let change = |(name, config_operation, value): &(&str, i8, Option<&str>)| AlterableConfig {
        name: (*name).to_owned(),
        config_operation: *config_operation,
        value: value.map(str::to_owned),
    };
    AlterConfigsResource {
        resource_type: kind,
        resource_name: of.to_owned(),
        configs: changes.iter().map(change).collect(),
    }
}
