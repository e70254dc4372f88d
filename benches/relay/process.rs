//! A relay's processes: their CPU time, their memory, their end. Linux only (proc(5)).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// Ends with this value.
pub(crate) enum Process {
    Ours(Child),
    /// The pid of Postfix's master, whose children do the work, and the config that it was started with.
    Postfix(u32, PathBuf),
    None,
}

impl Process {
    /// CPU time used so far, in milliseconds, children included.
    pub(crate) fn cpu_ms(&self) -> f64 {
        match self {
            Process::None => 0.0,
            Process::Ours(child) => cpu_ms(child.id(), false),
            Process::Postfix(master, _) => {
                cpu_ms(*master, true)
                    + children(*master).into_iter().map(|pid| cpu_ms(pid, false)).sum::<f64>()
            }
        }
    }

    /// Memory now, summed over the processes; what several share (libraries) is counted once.
    pub(crate) fn memory_mib(&self) -> f64 {
        self.all().into_iter().map(|pid| mib(pid, "smaps_rollup", "Pss:")).sum()
    }

    /// Highest resident memory so far, of our own relay.
    pub(crate) fn peak_mib(&self) -> f64 {
        self.of_ours("VmHWM:")
    }

    /// Resident memory now, of our own relay.
    pub(crate) fn resident_mib(&self) -> f64 {
        self.of_ours("VmRSS:")
    }

    fn of_ours(&self, line: &str) -> f64 {
        match self {
            Process::Ours(child) => mib(child.id(), "status", line),
            Process::Postfix(..) | Process::None => 0.0,
        }
    }

    fn all(&self) -> Vec<u32> {
        match self {
            Process::None => Vec::new(),
            Process::Ours(child) => vec![child.id()],
            Process::Postfix(master, _) => std::iter::once(*master).chain(children(*master)).collect(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        match self {
            Process::Ours(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            Process::Postfix(_, config) => {
                postfix(config, "stop");
            }
            Process::None => {}
        }
    }
}

/// Runs `postfix` with this config directory; false with its words where it fails.
pub(crate) fn postfix(config: &Path, verb: &str) -> bool {
    match Command::new("/usr/sbin/postfix").arg("-c").arg(config).arg(verb).output() {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            eprintln!("postfix {verb}: {}", String::from_utf8_lossy(&output.stderr).trim());
            false
        }
        Err(error) => {
            eprintln!("postfix {verb}: {error}");
            false
        }
    }
}

/// User and system time, the dead children's too where asked (in ticks of 10 ms).
fn cpu_ms(pid: u32, with_dead_children: bool) -> f64 {
    let fields = if with_dead_children { 11..15 } else { 11..13 };
    stat(pid).get(fields).map_or(0.0, |ticks| {
        let ticks = ticks.iter().map(|word| word.parse().unwrap_or(0.0));
        ticks.sum::<f64>() * 10.0
    })
}

/// A line of one of its files, in kB there.
fn mib(pid: u32, file: &str, name: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1024.0
}

fn children(of: u32) -> Vec<u32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .filter(|pid| stat(*pid).get(1).is_some_and(|parent| parent.parse() == Ok(of)))
        .collect()
}

/// The words of `stat` behind the name, which stands in parentheses and may hold anything: state, parent …
fn stat(pid: u32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    text.rsplit(')').next().unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}
