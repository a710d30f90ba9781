//! What this machine is called, and what it has left.

use std::fs;
use std::process::Command;

/// The processor's name, as the system gives it; else its architecture.
pub(super) fn processor() -> String {
    let named = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| field(&text, "model name"));
    let named = named.or_else(|| {
        let said = Command::new("sysctl").args(["-n", "machdep.cpu.brand_string"]).output().ok()?;
        Some(String::from_utf8_lossy(&said.stdout).trim().to_owned())
    });
    named.filter(|name| !name.is_empty()).unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// Bytes of memory that can be used without swapping; `None` where the system does not say.
pub(super) fn free_memory() -> Option<u64> {
    bytes("/proc/meminfo", "MemAvailable")
}

/// The most memory that this process has held so far, in bytes; `None` where the system does not say.
pub(super) fn peak_memory() -> Option<u64> {
    bytes("/proc/self/status", "VmHWM")
}

fn bytes(path: &str, name: &str) -> Option<u64> {
    let value = field(&fs::read_to_string(path).ok()?, name)?;
    let kibibytes: u64 = value.strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// The value of the first line `name : value`.
fn field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}
