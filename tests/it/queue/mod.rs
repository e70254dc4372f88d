//! What the queue tells and takes while a relay runs.

mod admin_live;
mod audit;
mod backup;
mod damage;
mod explainability;
pub mod files;
pub mod full_disk;
mod litestream;
mod other_writers;
mod suspended;
