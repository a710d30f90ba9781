//! What the system says of this machine: its processor, its memory.

use std::fs;
use std::process::Command;

use crate::usage::BadUsage;

/// The processor's name, as the system gives it; else its architecture.
pub(crate) fn processor() -> String {
    let named = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| field(&text, "model name"));
    let named = named.or_else(|| {
        let said = Command::new("sysctl").args(["-n", "machdep.cpu.brand_string"]).output().ok()?;
        Some(String::from_utf8_lossy(&said.stdout).trim().to_owned())
    });
    named.filter(|name| !name.is_empty()).unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// Bytes of memory that can be used without swapping; `None` where the system does not say.
fn free_memory() -> Option<u64> {
    bytes("/proc/meminfo", "MemAvailable")
}

/// The most memory that this process has held so far, in bytes; `None` where the system does not say.
pub(crate) fn peak_memory() -> Option<u64> {
    bytes("/proc/self/status", "VmHWM")
}

/// Refuses what cannot fit, before the system ends the program for it.
pub(crate) fn check_memory(floats: f64) -> anyhow::Result<()> {
    const GIB: f64 = (1 << 30) as f64;
    let needed = floats * 4.0 / GIB;
    let free = free_memory().map_or(f64::INFINITY, |bytes| bytes as f64 / GIB);
    // Without a word from the system, what no machine has is refused all the same.
    if needed > free.min(65536.0) {
        let free =
            if free.is_finite() { format!("{free:.1} GiB are free") } else { "no machine has that".into() };
        let message = format!("this takes about {needed:.1} GiB of memory, but {free}; choose smaller sizes");
        return Err(BadUsage(message).into());
    }
    Ok(())
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
