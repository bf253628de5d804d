//! `tidemill config`: every setting, its value and who gave it, its bounds and its meaning. What is
//! changed while brokers run is in `configs.rs`.

use clap::Args;
use serde_json::json;

use super::configs::ConfigCommand;
use super::failure::Failure;
use super::start::Given;
use super::{Output, print_line};
use crate::config::settings::{Kind, Unit, Value};

/// `tidemill config …`
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Config {
    #[command(subcommand)]
    command: Option<ConfigCommand>,
    #[command(flatten)]
    given: Given,
    #[command(flatten)]
    output: Output,
}

impl Config {
    pub(super) fn run(self) -> Result<(), Failure> {
        if let Some(command) = self.command {
            return command.run();
        }
        let config = self.given.config()?;
        if self.output.is_json() {
            let rows = config.described().map(|(setting, value, origin)| {
                let value = match value {
                    Value::Unset => json!(null),
                    Value::Integer(number) => json!(number),
                    Value::Boolean(flag) => json!(flag),
                    Value::Text(text) => json!(text),
                };
                json!({
                    "name": setting.name,
                    "value": value,
                    "origin": origin.to_string(),
                    "kind": setting.kind.describe(),
                    "doc": setting.doc,
                })
            });
            return print_line(&json!(rows.collect::<Vec<_>>()).to_string());
        }
        for (place, (setting, value, origin)) in config.described().enumerate() {
            let value = match value {
                Value::Unset => "(unset)".to_owned(),
                value => value.to_string() + &in_larger_units(setting.kind, value),
            };
            let gap = if place == 0 { "" } else { "\n" };
            print_line(&format!("{gap}{} = {value}    [{origin}]", setting.name))?;
            print_line(&format!("    {}", setting.doc))?;
            print_line(&format!("    Takes {}.", setting.kind.describe()))?;
        }
        Ok(())
    }
}

/// The same in the largest unit that leaves a whole number: ` (256MiB)`; nothing if there is none.
fn in_larger_units(kind: Kind, value: &Value) -> String {
    let units: &[(&str, i64)] = match kind {
        Kind::Integer { unit: Unit::Bytes, .. } => {
            &[("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)]
        }
        Kind::Integer { unit: Unit::Millis, .. } => {
            &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)]
        }
        Kind::Integer { unit: Unit::Hours, .. } => &[("d", 24)],
        _ => &[],
    };
    let Value::Integer(number) = *value else { return String::new() };
    let fits = |(_, size): &&(&str, i64)| *size <= number && number % *size == 0;
    units
        .iter()
        .find(fits)
        .map_or_else(String::new, |(unit, size)| format!(" ({}{unit})", number / size))
}
