//! What the queue tells and takes while a relay runs.

mod admin_live;
mod damage;
mod explainability;
mod files;
mod other_writers;
