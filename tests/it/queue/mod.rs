//! What the queue tells and takes while a relay runs.

mod admin_live;
mod audit;
mod backup;
mod damage;
mod explainability;
mod files;
mod full_disk;
mod other_writers;
