//! `tidemill config`: every setting, its value and who gave it, its bounds and its meaning.

use clap::Args;
use serde_json::json;

use super::failure::Failure;
use super::start::Given;
use super::{Output, print_line};
use crate::config::settings::Value;

/// `tidemill config …`
#[derive(Args, Debug)]
pub(super) struct Config {
    #[command(flatten)]
    given: Given,
    #[command(flatten)]
    output: Output,
}

impl Config {
    pub(super) fn run(self) -> Result<(), Failure> {
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
        for (setting, value, origin) in config.described() {
            let value = match value {
                Value::Unset => "(unset)".to_owned(),
                value => value.to_string(),
            };
            print_line(&format!("{} = {value}    [{origin}]", setting.name))?;
            print_line(&format!("    {} ({})", setting.doc, setting.kind.describe()))?;
        }
        Ok(())
    }
}
