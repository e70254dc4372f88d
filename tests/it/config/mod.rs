//! What a config file may say.

mod bad_configs;
mod environment;
mod guarded_files;
mod page;
