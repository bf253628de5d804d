//! A cluster played by bytes.
