//! The writer over a store that fails by a script: who is answered what, and what is kept and tried again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use crate::mail::Body;
use crate::queue::contract::{Backoffs, Effect, Marks, OpenStore, SharedReads, Store, StoreFailure};
use crate::queue::op::{Op, Outcomes};
use crate::queue::shared::Shared;
use crate::queue::slow::Call;
use crate::queue::writer::{Parts, Writer};
use crate::queue::*;

const RECIPIENT: RecipientId = RecipientId(7);
/// For two chunks.
const ROOM: u64 = 25;

/// Answers commits from a list, then with success; notes the operations of each.
struct Scripted {
    failures: VecDeque<StoreFailure>,
    commits: Arc<Mutex<Vec<Vec<&'static str>>>>,
    /// For so many bytes of mail.
    room: u64,
    /// Each commit waits for a word from here.
    disk: Option<Receiver<()>>,
}

impl Store for Scripted {
    fn commit(&mut self, group: &[Op], _: &Backoffs, _: Marks) -> Result<Vec<Effect>, StoreFailure> {
        let name = |op: &Op| match op {
            Op::Chunk { .. } => "chunk",
            Op::Barrier { .. } => "barrier",
            Op::Settle(_) => "settle",
            Op::Hold { .. } => "hold",
            _ => "other",
        };
        self.commits.lock().unwrap().push(group.iter().map(name).collect());
        if let Some(disk) = &self.disk {
            // Afterwards it answers at once.
            let _ = disk.recv();
        }
        if let Some(failure) = self.failures.pop_front() {
            return Err(failure);
        }
        let effect = |op: &Op| match op {
            Op::Settle(_) | Op::Hold { .. } => {
                Effect::Settled { next: vec![(RECIPIENT, None)], is_gone: false }
            }
            _ => Effect::Done,
        };
        Ok(group.iter().map(effect).collect())
    }
    fn has_room(&self, bytes: u64) -> bool {
        bytes <= self.room
    }
    fn tidy(&mut self) -> Result<(), StoreFailure> {
        Ok(())
    }
    fn changed_outside(&mut self) -> Result<bool, StoreFailure> {
        Ok(false)
    }
    fn purge(&mut self, _: i64) -> Result<bool, StoreFailure> {
        Ok(false)
    }
    fn close(&mut self) -> Result<(), StoreFailure> {
        Ok(())
    }
}

struct Bench {
    writer: Writer<'static>,
    ops: Sender<Op>,
    waits: Receiver<Op>,
    events: Receiver<Event>,
    shared: Arc<Shared>,
    commits: Arc<Mutex<Vec<Vec<&'static str>>>>,
    call: Arc<Call>,
}

type Answer = Receiver<Result<(), AcceptError>>;

impl Bench {
    fn new<const N: usize>(failures: [StoreFailure; N], busy_patience: Duration) -> Bench {
        Bench::on(None, failures, busy_patience)
    }

    fn on<const N: usize>(
        disk: Option<Receiver<()>>,
        failures: [StoreFailure; N],
        busy_patience: Duration,
    ) -> Bench {
        let failures = failures.into();
        let store = Scripted { failures, commits: Arc::default(), room: ROOM, disk };
        Bench::with(store, unbounded(), busy_patience)
    }

    fn with(
        store: Scripted,
        (tell, events): (Sender<Event>, Receiver<Event>),
        busy_patience: Duration,
    ) -> Bench {
        let (ops, waiting) = unbounded();
        let (shared, commits) = (Arc::new(Shared::new(100)), Arc::clone(&store.commits));
        let (call, waits) = (Arc::<Call>::default(), waiting.clone());
        let parts =
            Parts { shared: shared.clone(), ops: waiting, events: tell, call: call.clone(), busy_patience };
        Bench { writer: Writer::new(Box::new(store), parts), ops, waits, events, shared, commits, call }
    }

    fn barrier(&self) -> Answer {
        let (ack, answer) = bounded(2);
        self.ops.send(Op::Barrier { ack }).unwrap();
        answer
    }

    fn chunk(&self) -> Answer {
        let (ack, answer) = bounded(2);
        self.ops.send(Op::Chunk { message: MessageId(1), seq: 0, data: vec![0; 10], ack }).unwrap();
        answer
    }

    fn settle(&self) {
        self.ops.send(outcome(&self.shared)).unwrap();
    }

    /// The same, with word of it.
    fn settle_announced(&self) -> Recording {
        let Op::Settle(outcomes) = outcome(&self.shared) else { unreachable!("an outcome is a settlement") };
        let (outcomes, recording) = outcomes.announced();
        self.ops.send(Op::Settle(Box::new(outcomes))).unwrap();
        recording
    }

    fn is_settled(&self) -> bool {
        matches!(self.events.try_recv(), Ok(Event::Settled(rows)) if rows == [(RECIPIENT, None)])
    }

    fn commits(&self) -> Vec<Vec<&'static str>> {
        self.commits.lock().unwrap().clone()
    }
}

fn outcome(shared: &Shared) -> Op {
    let message = Arc::new(QueuedMessage {
        id: MessageId(1),
        sender: None,
        origin: Origin { user: None, client: None, helo: None },
        received_at: 0,
        expires_at: None,
        size: 10,
        body: Body::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
        handling: Default::default(),
        recipients: vec![],
        content: None,
    });
    let held = Settled {
        recipient: RECIPIENT,
        attempt: None,
        next_state: NextState::Hold(HeldBy::InDoubt),
        warned: false,
    };
    let (results, reports, pending_reports) = (vec![held], vec![], vec![]);
    let settlement = Settlement {
        message,
        at: 0,
        results,
        reports,
        pending_reports,
        expanded_told: false,
        tls_sessions: vec![],
        dialogue: None,
    };
    Op::Settle(Box::new(Outcomes::new(settlement, shared.ids(), 0, &shared.cache)))
}

fn all(answer: &Answer) -> Vec<Result<(), AcceptError>> {
    answer.try_iter().collect()
}

#[test]
fn a_busy_store_is_tried_again_and_each_operation_answered_once() {
    let busy = || StoreFailure::Busy("held".to_owned());
    let mut bench = Bench::new([busy()], Duration::from_secs(3600));
    let answer = bench.barrier();
    bench.writer.step().unwrap();
    assert_eq!((all(&answer), bench.shared.writable()), (vec![], false), "nobody is refused yet");
    bench.writer.step().unwrap();
    bench.writer.step().unwrap();
    assert_eq!((all(&answer), bench.shared.writable()), (vec![Ok(())], true));
    assert_eq!(bench.commits(), [["barrier"], ["barrier"]]);
    // When it lasts, new mail is refused, and the outcome is kept.
    let mut bench = Bench::new([busy()], Duration::ZERO);
    let answer = bench.barrier();
    bench.settle();
    bench.writer.step().unwrap();
    assert_eq!((all(&answer), bench.is_settled()), (vec![Err(AcceptError::Busy)], false));
    assert_eq!(bench.shared.refusal(), Err(AcceptError::Busy));
    bench.writer.step().unwrap();
    assert!(bench.is_settled());
    assert_eq!((bench.shared.refusal(), bench.commits()[1].as_slice()), (Ok(()), ["settle"].as_slice()));
}

#[test]
fn a_full_store_refuses_mail_and_keeps_the_outcomes_until_they_fit() {
    let full = || StoreFailure::Full("no room".to_owned());
    let mut bench = Bench::new([full(), full()], Duration::from_secs(3600));
    let first = bench.barrier();
    bench.settle();
    bench.writer.step().unwrap();
    assert_eq!(all(&first), [Err(AcceptError::Full)]);
    let second = bench.chunk();
    bench.writer.step().unwrap();
    assert_eq!((all(&second), bench.is_settled()), (vec![Err(AcceptError::Full)], false));
    assert_eq!((bench.shared.refusal(), bench.shared.writable()), (Err(AcceptError::Full), false));
    bench.writer.step().unwrap();
    assert!(bench.is_settled());
    assert_eq!((bench.shared.refusal(), bench.shared.writable()), (Ok(()), true));
    assert_eq!(bench.commits(), [vec!["settle", "barrier"], vec!["settle"], vec!["settle"]]);
}

/// Each session found room for its own chunk.
#[test]
fn mail_that_together_has_no_room_is_refused_and_outcomes_are_written() {
    let mut bench = Bench::new([], Duration::from_secs(3600));
    let fits = [bench.chunk(), bench.chunk()];
    bench.writer.step().unwrap();
    assert_eq!(fits.map(|answer| all(&answer)), [[Ok(())], [Ok(())]]);
    let too_many = [bench.chunk(), bench.chunk(), bench.chunk()];
    bench.settle();
    let barrier = bench.barrier();
    bench.writer.step().unwrap();
    assert_eq!(too_many.map(|answer| all(&answer)), [[Err(AcceptError::Full)]; 3]);
    assert_eq!((all(&barrier), bench.is_settled()), (vec![Ok(())], true));
    assert_eq!((bench.shared.refusal(), bench.shared.writable()), (Ok(()), true));
    assert_eq!(bench.commits(), [["chunk", "chunk"], ["settle", "barrier"]]);
}

#[test]
fn an_operation_that_is_to_blame_is_left_out_and_the_others_are_committed() {
    let to_blame = |at| StoreFailure::Operation { at, why: "constraint".to_owned() };
    let mut bench = Bench::new([to_blame(2), to_blame(0)], Duration::ZERO);
    let (first, bad) = (bench.barrier(), bench.chunk());
    bench.settle();
    let last = bench.barrier();
    bench.writer.step().unwrap();
    assert_eq!((all(&first), all(&last)), (vec![Ok(())], vec![Ok(())]));
    assert_eq!(all(&bad), [Err(AcceptError::Failed)]);
    // An outcome is not left out: its recipient is held.
    let commits: [&[&str]; 3] = [
        &["settle", "barrier", "chunk", "barrier"],
        &["settle", "barrier", "barrier"],
        &["hold", "barrier", "barrier"],
    ];
    assert_eq!(bench.commits(), commits);
    assert!(bench.is_settled() && bench.shared.writable());
}

#[test]
fn a_fatal_failure_ends_the_writer_and_nothing_is_tried_again() {
    let bench = Bench::new([StoreFailure::Fatal("fsync failed".to_owned())], Duration::from_secs(3600));
    let answer = bench.barrier();
    bench.settle();
    // Nobody can ask any more: a writer that went on would end without an error.
    let Bench { writer, ops, events, commits, .. } = bench;
    drop(ops);
    assert_eq!(writer.run(), Err("fsync failed".to_owned()));
    assert!(answer.recv().is_err(), "its caller reads a dropped answer as a failure");
    assert!(events.recv().is_err(), "the outcome is not called settled");
    assert_eq!(*commits.lock().unwrap(), [["settle", "barrier"]]);
}

#[test]
fn a_disk_that_does_not_answer_refuses_what_waits_and_keeps_the_outcomes() {
    let (answers, disk) = bounded::<()>(0);
    let patience = Duration::from_millis(100);
    let mut bench = Bench::on(Some(disk), [], patience);
    let in_the_store = bench.barrier();
    let Bench { writer, ops, waits, shared, commits, call, .. } = &mut bench;
    let (ops, waits, shared, commits, call) = (&*ops, &*waits, &*shared, &*commits, &*call);
    let in_the_store_too = in_the_store.clone();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while commits.lock().unwrap().is_empty() {
                std::thread::yield_now();
            }
            let (ack, answer) = bounded(2);
            ops.send(outcome(shared)).unwrap();
            ops.send(Op::Barrier { ack }).unwrap();
            let look = || call.look(shared, waits, patience);
            look();
            assert_eq!((all(&answer), shared.refusal()), (vec![], Ok(())), "nobody is refused yet");
            std::thread::sleep(patience);
            look();
            let busy = Err(AcceptError::Busy);
            assert_eq!((all(&answer), shared.refusal()), (vec![busy], busy));
            assert!(!shared.writable(), "no attempt starts");
            // Whether it will be on disk is not known.
            assert_eq!(all(&in_the_store_too), []);
            drop(answers);
        });
        writer.step().unwrap();
    });
    assert_eq!(all(&in_the_store), [Ok(())]);
    assert_eq!((bench.shared.refusal(), bench.shared.writable()), (Ok(()), true));
    bench.writer.step().unwrap();
    assert!(bench.is_settled(), "the outcome was kept");
}

/// Behind the word to stop: those who deliver are told at the same time, and the last outcome may come after it.
#[test]
fn what_was_kept_while_the_last_commit_lasted_is_committed_too() {
    let (answers, disk) = bounded::<()>(0);
    let bench = Bench::on(Some(disk), [], Duration::ZERO);
    bench.settle();
    bench.ops.send(Op::Stop).unwrap();
    let Bench { writer, ops, waits, events, shared, commits, call, .. } = bench;
    std::thread::scope(|scope| {
        let (shared, commits, call) = (&*shared, &*commits, &*call);
        scope.spawn(move || {
            while commits.lock().unwrap().is_empty() {
                std::thread::yield_now();
            }
            ops.send(outcome(shared)).unwrap();
            call.look(shared, &waits, Duration::ZERO);
            assert!(waits.is_empty(), "it is kept");
            drop(answers);
        });
        assert_eq!(writer.run(), Ok(()));
    });
    assert_eq!(*commits.lock().unwrap(), [["settle"], ["settle"]]);
    assert_eq!(events.try_iter().count(), 2, "both are told");
}

#[test]
fn outcomes_go_first_and_with_so_much_mail_that_their_commit_is_short() {
    let mut bench = Bench::with(willing(), unbounded(), Duration::ZERO);
    let answers: Vec<Answer> = (0..40).map(|_| bench.chunk()).collect();
    let behind = bench.barrier();
    bench.settle();
    for _ in 0..2 {
        bench.writer.step().unwrap();
    }
    let commits = bench.commits.lock().unwrap().clone();
    assert_eq!(commits[0], [vec!["settle"], vec!["chunk"; 16]].concat());
    assert_eq!(commits[1], [vec!["chunk"; 24], vec!["barrier"]].concat(), "alone it needs no such care");
    assert!(answers.iter().chain([&behind]).all(|answer| answer.try_recv() == Ok(Ok(()))));

    // As many messages as outcomes in any case.
    let _answers: Vec<Answer> = (0..60).map(|_| bench.chunk()).collect();
    (0..30).for_each(|_| bench.settle());
    bench.writer.step().unwrap();
    assert_eq!(bench.commits.lock().unwrap()[2], [vec!["settle"; 30], vec!["chunk"; 30]].concat());
}

/// Whoever delivers waits for it, so that a kill repeats one message of each connection at most, and not all that was
/// delivered meanwhile.
#[test]
fn an_outcome_is_over_once_it_is_on_disk() {
    let (disk, slow) = bounded(0);
    let mut bench = Bench::on(Some(slow), [], Duration::from_secs(3600));
    let first = bench.settle_announced();
    let Bench { writer, commits, .. } = &mut bench;
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| {
            while commits.lock().unwrap().is_empty() {
                std::thread::yield_now();
            }
            // Its commit has begun and does not end.
            std::thread::sleep(Duration::from_millis(50));
            assert!(!first.is_over());
            drop(disk);
            first.wait();
        });
        writer.step().unwrap();
        waits.join().unwrap();
    });
    let second = bench.settle_announced();
    drop(bench);
    second.wait();
}

#[test]
fn while_nothing_can_be_written_no_outcome_is_over() {
    let busy = || StoreFailure::Busy("held".to_owned());
    let mut bench = Bench::new([busy(), busy()], Duration::from_secs(3600));
    let outcomes = [bench.settle_announced(), bench.settle_announced()];
    for _ in 0..2 {
        bench.writer.step().unwrap();
        assert!(outcomes.iter().all(|outcome| !outcome.is_over()));
    }
    bench.writer.step().unwrap();
    assert!(outcomes.iter().all(Recording::is_over));
}

fn willing() -> Scripted {
    Scripted { failures: VecDeque::new(), commits: Arc::default(), room: u64::MAX, disk: None }
}

#[test]
fn a_group_has_so_many_operations_and_so_many_bytes_and_no_more() {
    let mut bench = Bench::with(willing(), unbounded(), Duration::ZERO);
    let answers: Vec<Answer> = (0..1300).map(|_| bench.barrier()).collect();
    for _ in 0..3 {
        bench.writer.step().unwrap();
    }
    let sizes: Vec<usize> = bench.commits().iter().map(Vec::len).collect();
    assert_eq!(sizes, [512, 512, 276]);
    assert!(answers.iter().all(|answer| all(answer) == [Ok(())]));
    // Chunks as sessions send them, of 256 KiB: 8 MiB are 32 of them.
    for _ in 0..100 {
        let (ack, _) = bounded(2);
        bench.ops.send(Op::Chunk { message: MessageId(1), seq: 0, data: vec![0; 256 << 10], ack }).unwrap();
    }
    bench.writer.step().unwrap();
    assert_eq!(bench.commits()[3].len(), 32);
}

/// With a scheduler that takes no events the writer stops behind the next commit.
#[test]
fn the_writer_waits_for_a_scheduler_that_is_behind() {
    let (tell, events) = bounded(2);
    let Bench { mut writer, ops, shared, commits, .. } =
        Bench::with(willing(), (tell, events.clone()), Duration::ZERO);
    let reading = std::thread::spawn(move || {
        for taken in 0..8 {
            std::thread::sleep(Duration::from_millis(20));
            let ahead = commits.lock().unwrap().len();
            assert!(ahead <= taken + 3, "{ahead} commits where {taken} events were taken");
            events.recv_timeout(Duration::from_secs(20)).expect("it goes on as they are taken");
        }
    });
    for _ in 0..8 {
        ops.send(outcome(&shared)).unwrap();
        writer.step().unwrap();
    }
    reading.join().unwrap();
}

/// A store whose disk does not answer.
struct Stuck(Receiver<()>);

impl OpenStore for Stuck {
    fn reads(&self) -> SharedReads {
        unreachable!("nobody reads here")
    }
    fn last_id(&self) -> i64 {
        0
    }
    fn last_time(&self) -> Option<i64> {
        None
    }
    fn store(&self) -> Result<Box<dyn Store + '_>, StoreFailure> {
        Ok(Box::new(Scripted { disk: Some(self.0.clone()), ..willing() }))
    }
}

/// Whoever comes when so many wait already waits outside.
#[test]
fn only_so_many_operations_wait_for_the_writer() {
    let (answer, disk) = bounded::<()>(0);
    let patience = Duration::from_secs(3600);
    let shared = Arc::new(Shared::new(100));
    let (ops, handle) = open::start(Box::new(Stuck(disk)), shared, patience, unbounded().0).unwrap();
    let hold = || Op::Hold { recipients: vec![RECIPIENT], why: String::new() };
    let limit = 10_000;
    let sent =
        (0..limit).take_while(|_| ops.send_timeout(hold(), Duration::from_millis(200)).is_ok()).count();
    // Those that wait, and the group that the disk has.
    assert!((1024..=1024 + 512).contains(&sent), "{sent}");
    drop(answer);
    handle.stop().unwrap();
}
