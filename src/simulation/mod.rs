//! Deterministic simulation: scheduler, retry, settlement and queue with a clock moved by hand and scripted hosts.
//!
//! The real code runs: the lanes, the reader that fills them, the schedule, the decisions of a settlement, and the
//! queue with its writer, statements and views on a database in memory, one group of operations a step
//! (`queue/sqlite/by_hand.rs`). The world is simulated: hosts, the order in which threads run, time, people with
//! `sqlite3`, and `kill -9`, which leaves what was committed. Windows and pages are tiny, so that a few dozen
//! recipients overflow all of them.
//!
//! A seed gives one history of such a world; the invariants are checked after every step. A failing seed is named and
//! can be run again: `SIM_SEED=17 cargo test --lib simulation`. `SIM_SEEDS=100000` runs more seeds.

mod hosts;
mod invariants;
mod world;

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::{self, DeliverySettings};
use crate::queue::Disk;

use world::World;

/// Seeds of one run. Each is a history of `STEPS` steps.
const SEEDS: u64 = 1_000;
const STEPS: usize = 200;

/// The settings of a config file with one listener and nothing else.
fn settings() -> DeliverySettings {
    let directory = tempfile::tempdir().unwrap();
    let path: &Path = &directory.path().join("postrider.toml");
    std::fs::write(path, "[[listen]]\naddress = \"127.0.0.1:587\"\ntls = \"off\"\n").unwrap();
    config::load(Some(path)).unwrap().settings.delivery
}

fn history(seed: u64, settings: &DeliverySettings) {
    let disk = Disk::new();
    let mut world = World::new(seed, settings.clone(), &disk);
    for step in 0..STEPS {
        world.step();
        world.check();
        // These checks take longer, and a fault in the tables does not go away.
        if step % 10 == 0 {
            world.check_tables();
        }
    }
    world.run_dry();
}

#[test]
fn invariants_hold_in_every_history() {
    let settings = settings();
    if let Ok(seed) = std::env::var("SIM_SEED") {
        return history(seed.parse().expect("SIM_SEED is a number"), &settings);
    }
    let seeds =
        std::env::var("SIM_SEEDS").map_or(SEEDS, |seeds| seeds.parse().expect("SIM_SEEDS is a number"));
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    let run = std::panic::catch_unwind(AssertUnwindSafe(|| history(seed, &settings)));
                    assert!(
                        run.is_ok(),
                        "seed {seed} failed, see above: SIM_SEED={seed} cargo test --lib simulation"
                    );
                }
            });
        }
    });
}
