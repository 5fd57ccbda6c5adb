//! A disk in memory that forgets what was not synced.
//!
//! Files have a content that was synced and one that was only written; names have the place they
//! had at the last sync of the folder and the one they have now. A crash keeps, for each of them,
//! anything between the two.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::Disk;

/// What is wrong with the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Trouble {
    #[default]
    None,
    /// ENOSPC: half of what is written fits.
    Full,
    /// EROFS.
    ReadOnly,
    /// EIO from fsync; the pages are gone though they read well until a crash.
    SyncFails,
}

#[derive(Clone, Debug, Default)]
struct State {
    files: Vec<FileState>,
    names: BTreeMap<String, usize>,
    synced_names: BTreeMap<String, usize>,
    trouble: Trouble,
    /// Steps until the crash; `None`: none comes.
    left: Option<u64>,
    crashed: bool,
    steps: u64,
}

#[derive(Clone, Debug, Default)]
struct FileState {
    now: Vec<u8>,
    synced: Vec<u8>,
    /// A failed fsync: the rest never becomes durable.
    lost: bool,
}

/// A clone is the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory(Arc<Mutex<State>>);

impl Memory {
    pub(crate) fn trouble(&self, trouble: Trouble) {
        self.state().trouble = trouble;
    }

    /// Stops taking anything after `steps` more steps.
    pub(crate) fn crash_after(&self, steps: u64) {
        self.state().left = Some(steps);
    }

    pub(crate) fn has_crashed(&self) -> bool {
        self.state().crashed
    }

    /// Steps so far.
    pub(crate) fn steps(&self) -> u64 {
        self.state().steps
    }

    /// The disk after the crash. `keep` says, at each choice, how much of what was not synced is
    /// there: from 0, nothing, to 255, all of it; an odd number leaves zeros behind the part.
    pub(crate) fn after_power_cut(&self, mut keep: impl FnMut() -> u8) -> Self {
        let old = self.state().clone();
        let mut new = State::default();
        let names = if keep() < 128 {
            &old.synced_names
        } else {
            &old.names
        };
        for (name, file) in names {
            let file = &old.files[*file];
            let kept = keep();
            let content = if file.now.starts_with(&file.synced) && !file.lost {
                let more = file.now.len() - file.synced.len();
                let more = more * usize::from(kept) / 255;
                let mut content = file.now[..file.synced.len() + more].to_vec();
                if kept % 2 == 1 && content.len() < file.now.len() {
                    content.resize(file.now.len(), 0);
                }
                content
            } else {
                file.synced.clone()
            };
            new.names.insert(name.clone(), new.files.len());
            new.files.push(FileState {
                synced: content.clone(),
                now: content,
                lost: false,
            });
        }
        new.synced_names = new.names.clone();
        Self(Arc::new(Mutex::new(new)))
    }

    pub(crate) fn content(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        let file = state.names.get(name)?;
        Some(state.files[*file].now.clone())
    }

    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        let mut state = self.state();
        let file = FileState {
            now: bytes.to_vec(),
            synced: bytes.to_vec(),
            lost: false,
        };
        let at = state.files.len();
        state.files.push(file);
        state.names.insert(name.to_owned(), at);
        state.synced_names.insert(name.to_owned(), at);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics while it holds it")
    }

    /// One step; an error once the machine is off.
    fn step(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        state.steps += 1;
        if state.left == Some(0) {
            state.crashed = true;
        }
        if state.crashed {
            return Err(io::Error::other("the machine is off"));
        }
        if let Some(left) = &mut state.left {
            *left -= 1;
        }
        if state.trouble == Trouble::ReadOnly {
            return Err(io::Error::from(io::ErrorKind::ReadOnlyFilesystem));
        }
        Ok(state)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let (first, rest) = bytes.split_at(bytes.len() / 2);
        let mut state = self.step()?;
        let file = state.names[name];
        state.files[file].now.extend_from_slice(first);
        if state.trouble == Trouble::Full {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        drop(state);
        let mut state = self.step()?;
        state.files[file].now.extend_from_slice(rest);
        Ok(())
    }
}

impl Disk for Memory {
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.content(name))
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.write(name, bytes)
    }

    fn create(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.step()?;
        let at = state.files.len();
        state.files.push(FileState::default());
        state.names.insert(name.to_owned(), at);
        drop(state);
        self.write(name, bytes)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        let mut state = self.step()?;
        let at = state.names[name];
        let failing = state.trouble == Trouble::SyncFails;
        let file = &mut state.files[at];
        if failing {
            file.lost = true;
            return Err(io::Error::other("EIO"));
        }
        if !file.lost {
            file.synced = file.now.clone();
        }
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.step()?;
        if let Some(file) = state.names.remove(from) {
            state.names.insert(to.to_owned(), file);
        }
        Ok(())
    }

    fn sync_folder(&mut self) -> io::Result<()> {
        let mut state = self.step()?;
        state.synced_names = state.names.clone();
        Ok(())
    }
}
