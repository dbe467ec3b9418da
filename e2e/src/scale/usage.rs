//! Processor time and memory of a process, as `/proc` has them.

use std::{fs, time::Instant};

use crate::{
    error::{Error, Result, While},
    process::Identity,
};

/// The kernel counts processor time in hundredths of a second.
const TICKS_A_SECOND: f64 = 100.0;

/// What a process has used so far.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    at: Instant,
    /// Seconds.
    user: f64,
    system: f64,
    /// Memory, in MiB.
    pub resident: f64,
    /// The most memory it ever had, in MiB.
    pub peak: f64,
    /// Seconds of all cores that were not idle.
    machine: f64,
}

/// Shares of one core over a time, in percent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cpu {
    /// In the process's own code.
    pub user: f64,
    /// In the kernel.
    pub system: f64,
    /// Of all processes of the machine together; over 100 where it has several cores.
    pub machine: f64,
}

impl Cpu {
    /// User and system time.
    pub fn total(&self) -> f64 {
        self.user + self.system
    }
}

impl Usage {
    /// What the process has used until now.
    ///
    /// # Errors
    /// When it has ended.
    pub fn of(process: Identity) -> Result<Self> {
        let ended = || Error::Malformed {
            what: format!("process {}", process.pid),
            why: "has ended".into(),
        };
        if !process.is_alive() {
            return Err(ended());
        }
        let read = |file: &str| {
            let path = format!("/proc/{}/{file}", process.pid);
            fs::read_to_string(&path).while_(|| format!("reading {path}"))
        };
        let (user, system) = processor_time(&read("stat")?).ok_or_else(ended)?;
        let status = read("status")?;
        let mebibytes = |name: &str| kibibytes(&status, name).map(|kib| kib / 1024.0);
        let machine = fs::read_to_string("/proc/stat").while_(|| "reading /proc/stat".into())?;
        Ok(Self {
            at: Instant::now(),
            user,
            system,
            resident: mebibytes("VmRSS:").ok_or_else(ended)?,
            peak: mebibytes("VmHWM:").ok_or_else(ended)?,
            machine: machine_time(&machine).ok_or_else(ended)?,
        })
    }

    /// Shares of a core since an earlier look.
    pub fn since(&self, earlier: &Self) -> Cpu {
        let seconds = self.at.duration_since(earlier.at).as_secs_f64();
        let share = |now: f64, then: f64| (now - then) / seconds * 100.0;
        Cpu {
            user: share(self.user, earlier.user),
            system: share(self.system, earlier.system),
            machine: share(self.machine, earlier.machine),
        }
    }
}

/// User and system seconds from `/proc/PID/stat`: fields 14 and 15.
fn processor_time(stat: &str) -> Option<(f64, f64)> {
    // the name, in parentheses, may hold anything; what follows it starts with field 3
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace().skip(11);
    let mut seconds = || Some(fields.next()?.parse::<f64>().ok()? / TICKS_A_SECOND);
    Some((seconds()?, seconds()?))
}

fn kibibytes(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// Seconds of all cores that were neither idle nor waiting for a disk, from `/proc/stat`.
fn machine_time(stat: &str) -> Option<f64> {
    let fields = stat
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace();
    let ticks: Vec<f64> = fields.filter_map(|field| field.parse().ok()).collect();
    // idle and iowait are the fourth and the fifth; guests' time, from the ninth on, is in the
    // first ones too
    let busy = |(at, ticks): (usize, &f64)| if at == 3 || at == 4 { 0.0 } else { *ticks };
    (ticks.len() >= 8)
        .then(|| ticks.iter().take(8).enumerate().map(busy).sum::<f64>() / TICKS_A_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 250 125 0 0 20 0 9 0 1 2 3";
        assert_eq!(processor_time(stat), Some((2.5, 1.25)));
        let machine = "cpu  100 20 30 4000 500 6 7 8 90 10\ncpu0 1 2 3\n";
        assert_eq!(machine_time(machine), Some(1.71));
        assert_eq!(kibibytes("VmRSS:\t   2048 kB\n", "VmRSS:"), Some(2048.0));
    }

    #[test]
    fn a_process_that_works_uses_a_core() {
        let process = Identity::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        let before = Usage::of(process).unwrap();
        let mut sum = 0u64;
        while before.at.elapsed().as_millis() < 300 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        let after = Usage::of(process).unwrap();
        assert!(after.since(&before).total() > 5.0, "{after:?} {before:?}");
        assert!(after.resident > 1.0 && after.peak >= after.resident);
    }
}
