//! Makes a topic, shows what there is, changes a setting, and deletes the topic again.
//!
//! `cargo run -p tidemill-client --example admin -- localhost:9092 example`

use tidemill_client::{Admin, ConfigChange, ConfigResource, Error, Isolation, NewTopic, Start};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let brokers = arguments.next().unwrap_or_else(|| "localhost:9092".to_owned());
    let topic = arguments.next().unwrap_or_else(|| "example".to_owned());
    if let Err(error) = see_to(&brokers, &topic) {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

/// A topic's life, from its making to its end.
pub fn see_to(brokers: &str, topic: &str) -> Result<(), Error> {
    let mut admin = Admin::open(brokers)?;
    let cluster = admin.cluster()?;
    println!("cluster {:?}, nodes:", cluster.id.unwrap_or_default());
    for (id, address) in cluster.nodes {
        println!("  {id} at {address}");
    }
    admin.create_topic(&NewTopic::new(topic).partitions(3).config("retention.ms", "60000"))?;
    admin.create_partitions(topic, 4)?;
    for (name, view) in admin.topics()? {
        println!("topic {name}: {} partitions", view.partitions.len());
    }
    let resource = ConfigResource::Topic(topic.to_owned());
    let change = ConfigChange::Set("retention.ms".to_owned(), "120000".to_owned());
    admin.alter_configs(&resource, &[change])?;
    for config in admin.describe_configs(&resource)? {
        if config.name == "retention.ms" {
            println!("{} = {}", config.name, config.value.unwrap_or_default());
        }
    }
    let ends = admin.list_offsets(topic, &[0, 1, 2, 3], Start::Latest, Isolation::default())?;
    println!("ends: {ends:?}");
    println!("first kept: {:?}", admin.delete_records(topic, &[(0, None)])?);
    admin.delete_topic(topic)?;
    println!("deleted {topic}");
    Ok(())
}
