//! Whether two releases fit on this machine, or one replica more.

use std::path::Path;

use super::hands::Hands;
use crate::deploy::{Failure, News, Run};
use crate::model::Strategy;

impl Hands {
    /// Looks at free memory and disk. What cannot be known keeps nobody from deploying.
    pub(super) async fn resources(&self, run: &Run) -> Result<News, Failure> {
        let client = self.daemon.deploys.engine(&self.daemon).await?;
        let deploy = self.daemon.config.load().deploy.clone();
        // Beside each other: all of these, but of those that are replaced one by one only the largest.
        let (mut together, mut largest) = (0_u64, 0_u64);
        let members = run.plan.members.iter();
        for member in members.filter(|member| !member.is_stop_first()) {
            for old in &member.old {
                // A container that does not say is taken to need nothing.
                let used = client.usage(&old.name).await.ok().flatten();
                let used = used.map_or(0, |used| used.memory_bytes);
                match run.plan.is_rolled(member) {
                    true => largest = largest.max(used),
                    false => together += used,
                }
            }
        }
        let needed = together.max(largest);
        let reserve = u64::try_from(deploy.free_memory).unwrap_or(u64::MAX);
        if let Some(available) = available_memory()
            && available < needed.saturating_add(reserve)
        {
            let what = match run.plan.strategy {
                Strategy::BlueGreen => "two releases do not fit: the live one uses",
                Strategy::Rolling => "one replica more does not fit: beside the live ones it needs",
            };
            return Err(Failure::from(format!(
                "{what} {}, {} are available and {} must stay free (deploy.free_memory)",
                mib(needed),
                mib(available),
                mib(reserve)
            )));
        }
        let folder = client.data_folder().await.ok().flatten();
        // In a container the engine's folder is not there: the root is, and lies on the same disk.
        let folder = folder.filter(|folder| Path::new(folder).is_dir());
        let folder = folder.unwrap_or_else(|| "/".to_owned());
        let wanted = u64::try_from(deploy.free_disk).unwrap_or(u64::MAX);
        if let Some(free) = free_disk(Path::new(&folder))
            && free < wanted
        {
            return Err(Failure::from(format!(
                "the disk of {folder} has {} left, less than {} (deploy.free_disk)",
                mib(free),
                mib(wanted)
            )));
        }
        Ok(News::Nothing)
    }
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes / (1 << 20))
}

/// `MemAvailable` of `/proc/meminfo` (proc(5)): what can be used without swapping.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    available(&text)
}

fn available(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

fn free_disk(path: &Path) -> Option<u64> {
    let found = nix::sys::statvfs::statvfs(path).ok()?;
    found.blocks_available().checked_mul(found.fragment_size())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_read() {
        let text = "MemTotal:       24000000 kB\nMemFree:  1 kB\nMemAvailable:    1024 kB\n";
        assert_eq!(available(text), Some(1 << 20));
        assert_eq!(available("MemTotal: 1 kB\n"), None);
        assert!(available_memory().is_some_and(|bytes| bytes > 1 << 20));
        assert!(free_disk(Path::new("/")).is_some());
    }
}
