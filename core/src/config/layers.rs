//! Values of settings, layer over layer, each with who gave it; and why one was not taken.

use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::settings::{self, Setting, Value};
use crate::limits;

/// Where the value of a setting came from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Origin {
    /// Nobody gave one: the table's own.
    Default,
    /// This line of this file.
    File {
        /// The file, as it was named.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// `--set name=value`.
    Set,
    /// A flag with a name of its own, such as `--listen`.
    Flag(&'static str),
}

/// The values of all settings while they are being collected, layer over layer.
#[derive(Clone, Debug)]
pub struct Layers {
    /// As many as there are [settings](settings::all), in the same order.
    values: Vec<(Value, Origin)>,
}

/// Why there is no [`Config`](super::Config).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ConfigError {
    /// No setting has this name.
    UnknownSetting {
        /// As written.
        name: String,
        /// Where.
        origin: Origin,
        /// What was probably meant.
        nearest: Option<&'static str>,
    },
    /// The value is not one this setting can have.
    BadValue {
        /// Of which setting.
        name: &'static str,
        /// As written.
        value: String,
        /// Where.
        origin: Origin,
        /// What it can have.
        expected: String,
    },
    /// `--set` without an equals sign.
    NotAnAssignment {
        /// As written.
        text: String,
    },
    /// The file is missing or cannot be read.
    UnreadableFile {
        /// Which one.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// The file is not TOML.
    BadToml {
        /// Which one.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// Two settings that cannot both be right.
    Contradiction {
        /// One of them.
        name: &'static str,
        /// What must hold, and does not.
        reason: String,
    },
}

impl Default for Layers {
    /// The lowest layer: what the table says.
    fn default() -> Self {
        let values = settings::all().map(|setting| {
            let value = match setting.default {
                "" => Value::Unset,
                text => setting.kind.parse(text).expect("a test parses every default"),
            };
            (value, Origin::Default)
        });
        Self { values: values.collect() }
    }
}

impl Layers {
    /// Lays all settings of a TOML file over what is known so far.
    pub fn read_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let unreadable =
            |reason: String| ConfigError::UnreadableFile { path: path.to_owned(), reason };
        let size = std::fs::metadata(path).map_err(|e| unreadable(e.to_string()))?.len();
        if limits::CONFIG_FILE_BYTES_MAX < size {
            return Err(unreadable(format!("{size} bytes are too many for a configuration")));
        }
        let text = std::fs::read_to_string(path).map_err(|e| unreadable(e.to_string()))?;
        self.read_toml(&text, path)
    }

    /// Lays all settings of a TOML text over what is known so far. Dots in names may be written
    /// as dots or as TOML tables: both mean the same.
    pub fn read_toml(&mut self, text: &str, path: &Path) -> Result<(), ConfigError> {
        let hint = match path.extension() {
            Some(java) if java == "properties" => {
                "settings stand in a TOML file here, text in quotes"
            }
            _ => "text stands in quotes",
        };
        let table = DeTable::parse(text).map_err(|e| ConfigError::BadToml {
            path: path.to_owned(),
            line: line_of(text, e.span().map_or(0, |span| span.start)),
            reason: format!("{} ({hint}: name = \"text\")", e.message()),
        })?;
        self.lay_table("", table.get_ref(), text, path)
    }

    fn lay_table(
        &mut self,
        prefix: &str,
        table: &DeTable<'_>,
        text: &str,
        path: &Path,
    ) -> Result<(), ConfigError> {
        for (key, value) in table {
            let name = match prefix {
                "" => key.get_ref().to_string(),
                prefix => format!("{prefix}.{}", key.get_ref()),
            };
            let line = line_of(text, key.span().start);
            let origin = Origin::File { path: path.to_owned(), line };
            match value.get_ref() {
                // The parser bounds how deep tables nest.
                DeValue::Table(inner) => self.lay_table(&name, inner, text, path)?,
                DeValue::String(text) => self.set(&name, text, origin)?,
                DeValue::Integer(number) => self.set(&name, number.as_str(), origin)?,
                DeValue::Boolean(flag) => self.set(&name, &flag.to_string(), origin)?,
                DeValue::Float(number) => self.set(&name, number.as_str(), origin)?,
                other => {
                    return Err(ConfigError::BadToml {
                        path: path.to_owned(),
                        line,
                        reason: format!("{name} takes one value, no {}", other.type_str()),
                    });
                }
            }
        }
        Ok(())
    }

    /// Lays one `name=value` of the command line over what is known so far.
    pub fn assign(&mut self, text: &str) -> Result<(), ConfigError> {
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| ConfigError::NotAnAssignment { text: text.to_owned() })?;
        self.set(name.trim(), value.trim(), Origin::Set)
    }

    /// Lays one value over what is known so far.
    pub fn set(&mut self, name: &str, text: &str, origin: Origin) -> Result<(), ConfigError> {
        let Some(setting) = settings::find(name) else {
            let nearest = settings::nearest(name);
            return Err(ConfigError::UnknownSetting { name: name.to_owned(), origin, nearest });
        };
        match setting.kind.parse(text) {
            Ok(value) => {
                self.values[index_of(setting.name)] = (value, origin);
                Ok(())
            }
            Err(expected) => Err(ConfigError::BadValue {
                name: setting.name,
                value: text.to_owned(),
                origin,
                expected,
            }),
        }
    }

    /// Each setting with its value and who gave it.
    pub fn iter(&self) -> impl Iterator<Item = (&'static Setting, &Value, &Origin)> {
        settings::all().zip(&self.values).map(|(setting, (value, origin))| (setting, value, origin))
    }

    /// The value of one setting, unset perhaps.
    pub(super) fn value(&self, name: &str) -> &Value {
        &self.values[index_of(name)].0
    }

    pub(super) fn integer(&self, name: &str) -> Option<i64> {
        match self.value(name) {
            Value::Integer(number) => Some(*number),
            Value::Unset => None,
            _ => panic!("{name} is an integer in the table"),
        }
    }

    /// An integer that has a default and whose bounds fit `T`.
    pub(super) fn number<T: TryFrom<i64>>(&self, name: &str) -> T {
        let number = self.integer(name).expect("the table has a default for it");
        T::try_from(number).ok().expect("the table's bounds fit the field")
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match self.value(name) {
            Value::Text(text) => Some(text),
            Value::Unset => None,
            _ => panic!("{name} is text in the table"),
        }
    }

    pub(super) fn is(&self, name: &str) -> bool {
        *self.value(name) == Value::Boolean(true)
    }
}

/// Counts the line of a byte of `text`, from 1.
fn line_of(text: &str, position: usize) -> usize {
    1 + text.as_bytes().iter().take(position).filter(|byte| **byte == b'\n').count()
}

fn index_of(name: &str) -> usize {
    settings::all().position(|s| s.name == name).expect("only names of the table are asked for")
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{} line {line}", path.display()),
            Self::Set => f.write_str("--set"),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownSetting { name, origin, nearest: Some(nearest) } => {
                write!(f, "{origin}: no setting is named {name}; did you mean {nearest}?")
            }
            Self::UnknownSetting { name, origin, nearest: None } => write!(
                f,
                "{origin}: no setting is named {name}; `tidemill config` lists all of them"
            ),
            Self::BadValue { name, value, origin, expected } => {
                write!(f, "{origin}: {name} cannot be \"{value}\": expected {expected}")
            }
            Self::NotAnAssignment { text } => {
                write!(f, "--set wants name=value, but was given \"{text}\"")
            }
            Self::UnreadableFile { path, reason } => {
                write!(f, "cannot read the configuration {}: {reason}", path.display())
            }
            Self::BadToml { path, line, reason } => {
                write!(f, "{} line {line}: {reason}", path.display())
            }
            Self::Contradiction { name, reason } => write!(f, "{name} {reason}"),
        }
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A file of settings, read.
    pub(in crate::config) fn laid(text: &str) -> Result<Layers, ConfigError> {
        let mut layers = Layers::default();
        layers.read_toml(text, Path::new("tidemill.toml"))?;
        Ok(layers)
    }

    #[test]
    fn an_unknown_name_is_an_error_that_suggests_the_right_one() {
        let error = laid("\n\nnum.partition = 1").unwrap_err();
        assert_eq!(
            error.to_string(),
            "tidemill.toml line 3: no setting is named num.partition; did you mean num.partitions?"
        );
    }

    #[test]
    fn a_bad_value_is_an_error_that_says_what_would_fit() {
        let error = Layers::default().assign("num.partitions=many").unwrap_err();
        assert_eq!(
            error.to_string(),
            "--set: num.partitions cannot be \"many\": expected a number from 1 to 100000"
        );
        let error = laid("num.partitions = [1]").unwrap_err();
        assert_eq!(
            error.to_string(),
            "tidemill.toml line 1: num.partitions takes one value, no array"
        );
        let error = laid("log.dir = /data").unwrap_err();
        assert!(error.to_string().contains("text stands in quotes"), "{error}");
        let java = Layers::default()
            .read_toml("process.roles=broker,controller", Path::new("server.properties"))
            .unwrap_err();
        assert!(java.to_string().contains("settings stand in a TOML file here"), "{java}");
        assert!(laid("num.partitions = ").is_err());
        assert!(Layers::default().assign("num.partitions").is_err());
    }
}
