//! One round: a load through one relay, and what it took.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::load::Load;
use crate::peer::Peer;
use crate::shape::Shape;
use crate::stream::Keys;

/// Past this a round has failed: something is lost or stands still.
const ROUND_MAX: Duration = Duration::from_secs(300);
/// How often memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

#[derive(Clone, Copy)]
pub(crate) struct Measured {
    pub(crate) accepted_per_sec: f64,
    pub(crate) delivered_per_sec: f64,
    /// Of the relay alone.
    pub(crate) cpu_ms_per_message: f64,
    pub(crate) peak_mib: f64,
}

/// Sends the shape's load through the relay.
pub(crate) fn round(peer: &Peer, shape: &Shape, keys: &Keys, pipeline: bool) -> Measured {
    let load = Load {
        bytes: shape.bytes,
        domains: shape.domains,
        pipeline,
        connection_each: shape.connection_each,
        tls: shape.tls.then(|| keys.client.clone()),
        ..Load::new(peer.address, shape.sessions, shape.messages)
    };
    // Connections, threads and caches are warm before the clock runs.
    let warm = 20.max(shape.domains);
    Load { sessions: shape.sessions.min(4), messages: warm, ..load.clone() }.run();
    peer.sink.wait_for(warm, ROUND_MAX);
    let (cpu_before, seen_before) = (peer.process.cpu_ms(), peer.sink.count());
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let peak = scope.spawn(|| highest_memory(peer, &over));
        let began = Instant::now();
        load.run();
        let accepted = began.elapsed();
        peer.sink.wait_for(seen_before + shape.messages, ROUND_MAX);
        let delivered = began.elapsed();
        // The relay's last settlements are part of its work.
        std::thread::sleep(Duration::from_millis(300));
        over.store(true, Ordering::Relaxed);
        let count = shape.messages as f64;
        Measured {
            accepted_per_sec: count / accepted.as_secs_f64(),
            delivered_per_sec: count / delivered.as_secs_f64(),
            cpu_ms_per_message: (peer.process.cpu_ms() - cpu_before) / count,
            peak_mib: peak.join().expect("reading /proc"),
        }
    })
}

/// By looking now and then: what processes share is told only for the moment.
fn highest_memory(peer: &Peer, over: &AtomicBool) -> f64 {
    let mut highest: f64 = 0.0;
    loop {
        let last = over.load(Ordering::Relaxed);
        highest = highest.max(peer.process.memory_mib());
        if last {
            return highest;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
