//! Opens files beneath a folder without leaving it, whatever symbolic links say meanwhile.
//!
//! `openat2` with `RESOLVE_BENEATH` (Linux 5.6) lets the kernel refuse each step that leads out.
//! It also refuses absolute links that lead back in; those, and kernels and sandboxes without the
//! call, go a longer way: the path is resolved, compared with the folder, and opened part by part
//! with no link allowed, so that a link made in between is refused too.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

/// Whether a disk may be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// Only what the kernel has in its caches; else [`Miss::Later`].
    Cached,
    /// On a thread that may block.
    Blocking,
}

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub(super) enum Miss {
    #[error("no such file")]
    NotFound,
    #[error("permission denied")]
    Forbidden,
    #[error("a symbolic link leads out of the folder")]
    Escapes,
    /// Too many open files, or no memory.
    #[error("out of resources")]
    Exhausted,
    /// Ask again where blocking is allowed.
    #[error("not in the caches")]
    Later,
    #[error(transparent)]
    Failed(io::Error),
}

/// A folder that files are opened beneath.
#[derive(Debug)]
pub(super) struct Root<'a> {
    path: &'a Path,
    folder: OwnedFd,
    /// Links may lead out of it.
    follow: bool,
    patience: Patience,
}

/// What a name was opened as.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) facts: Facts,
}

/// What is asked about a file.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) kind: Kind,
    pub(super) size: u64,
    /// Seconds since the epoch, and nanoseconds.
    pub(super) modified: (i64, u32),
    pub(super) mode: u32,
}

/// Kinds that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
    /// Sockets, devices and pipes.
    Other,
}

impl From<&Metadata> for Facts {
    fn from(data: &Metadata) -> Self {
        let kind = match data.file_type() {
            kind if kind.is_file() => Kind::File,
            kind if kind.is_dir() => Kind::Folder,
            _ => Kind::Other,
        };
        Self {
            kind,
            size: data.len(),
            modified: (
                data.mtime(),
                u32::try_from(data.mtime_nsec()).unwrap_or_default(),
            ),
            mode: data.mode(),
        }
    }
}

/// To read; a pipe without a writer must not be waited for.
const READ: OFlags = OFlags::RDONLY
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

/// To ask about only.
const LOOK: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// So often a rename in the middle of a lookup is taken as bad luck.
const RACES: usize = 8;

impl<'a> Root<'a> {
    /// Opens the folder itself; links on the way to it are followed.
    pub(super) fn open(path: &'a Path, follow: bool, patience: Patience) -> Result<Self, Miss> {
        let flags = LOOK | OFlags::DIRECTORY;
        let folder = match patience {
            Patience::Blocking => openat(CWD, path, flags, Mode::empty()),
            Patience::Cached => {
                openat2(CWD, path, flags, Mode::empty(), ResolveFlags::CACHED).map_err(unsure)
            }
        };
        Ok(Self {
            path,
            folder: folder.map_err(miss)?,
            follow,
            patience,
        })
    }

    /// Opens a file to read it, or a folder to ask about it.
    pub(super) fn read(&self, name: &Path) -> Result<Opened, Miss> {
        match self.open_as(name, READ) {
            // A folder that may be entered, but not listed.
            Err(Miss::Forbidden) => match self.look(name)? {
                folder if folder.facts.kind == Kind::Folder => Ok(folder),
                _ => Err(Miss::Forbidden),
            },
            other => other,
        }
    }

    /// Opens it to ask about it alone.
    pub(super) fn look(&self, name: &Path) -> Result<Opened, Miss> {
        self.open_as(name, LOOK)
    }

    fn open_as(&self, name: &Path, flags: OFlags) -> Result<Opened, Miss> {
        let file = File::from(self.descriptor(name, flags)?);
        let data = file.metadata().map_err(Miss::Failed)?;
        Ok(Opened {
            facts: Facts::from(&data),
            file,
        })
    }

    fn descriptor(&self, name: &Path, flags: OFlags) -> Result<OwnedFd, Miss> {
        let name = if name.as_os_str().is_empty() {
            Path::new(".")
        } else {
            name
        };
        if self.follow && self.patience == Patience::Blocking {
            return openat(&self.folder, name, flags, Mode::empty()).map_err(miss);
        }
        let mut how = ResolveFlags::NO_MAGICLINKS;
        if !self.follow {
            how |= ResolveFlags::BENEATH;
        }
        if self.patience == Patience::Cached {
            let opened = openat2(
                &self.folder,
                name,
                flags,
                Mode::empty(),
                how | ResolveFlags::CACHED,
            );
            return opened.map_err(unsure).map_err(miss);
        }
        for _ in 0..RACES {
            match openat2(&self.folder, name, flags, Mode::empty(), how) {
                Err(Errno::AGAIN) => {}
                // Out of the folder, or a kernel or sandbox that does not know the call.
                Err(Errno::XDEV | Errno::NOSYS | Errno::PERM) => break,
                other => return other.map_err(miss),
            }
        }
        self.resolved(name, flags)
    }

    /// The longer way.
    fn resolved(&self, name: &Path, flags: OFlags) -> Result<OwnedFd, Miss> {
        let real = |path: PathBuf| path.canonicalize().map_err(missed);
        let root = real(self.path.to_owned())?;
        let target = real(self.path.join(name))?;
        let inside = target.strip_prefix(&root).map_err(|_| Miss::Escapes)?;
        let no_link = flags | OFlags::NOFOLLOW;
        let step = LOOK | OFlags::NOFOLLOW | OFlags::DIRECTORY;
        let mut parts = inside.components().peekable();
        let mut folder = openat(&self.folder, ".", LOOK, Mode::empty()).map_err(miss)?;
        if parts.peek().is_none() {
            return openat(&folder, ".", no_link, Mode::empty()).map_err(miss);
        }
        while let Some(part) = parts.next() {
            let how = if parts.peek().is_some() {
                step
            } else {
                no_link
            };
            folder = openat(&folder, part.as_os_str(), how, Mode::empty()).map_err(miss)?;
        }
        Ok(folder)
    }
}

/// In the cached way, what may be different on the longer one is asked there.
const fn unsure(error: Errno) -> Errno {
    match error {
        Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::MFILE | Errno::NFILE => error,
        Errno::NAMETOOLONG => error,
        _ => Errno::AGAIN,
    }
}

fn miss(error: Errno) -> Miss {
    match error {
        Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::LOOP | Errno::NXIO => {
            Miss::NotFound
        }
        Errno::ACCESS | Errno::PERM => Miss::Forbidden,
        Errno::MFILE | Errno::NFILE | Errno::NOMEM => Miss::Exhausted,
        Errno::AGAIN => Miss::Later,
        Errno::XDEV => Miss::Escapes,
        other => Miss::Failed(other.into()),
    }
}

fn missed(error: io::Error) -> Miss {
    match Errno::from_io_error(&error) {
        Some(errno) => miss(errno),
        None => Miss::Failed(error),
    }
}

/// A name as bytes, for texts that need not be UTF-8.
pub(super) fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// `root/` with `a.txt`, `folder/b.txt`, links of all sorts, and `outside.txt` beside it.
    fn world() -> (tempfile::TempDir, PathBuf) {
        let place = tempfile::tempdir().expect("a folder");
        let root = place.path().join("root");
        fs::create_dir_all(root.join("folder")).expect("a folder");
        fs::write(root.join("a.txt"), "a").expect("a file");
        fs::write(root.join("folder/b.txt"), "b").expect("a file");
        fs::write(place.path().join("outside.txt"), "secret").expect("a file");
        for (link, target) in [
            ("near", PathBuf::from("a.txt")),
            ("up-and-down", PathBuf::from("folder/../a.txt")),
            ("absolute", root.join("folder/b.txt")),
            ("out", PathBuf::from("../outside.txt")),
            ("out-absolute", place.path().join("outside.txt")),
            ("out-folder", PathBuf::from("..")),
            ("loop", PathBuf::from("loop")),
            ("dangling", PathBuf::from("nothing")),
            ("proc", PathBuf::from("/proc/self/root")),
        ] {
            symlink(target, root.join(link)).expect("a link");
        }
        (place, root)
    }

    fn text(root: &Root<'_>, name: &str) -> Result<String, Miss> {
        let mut text = String::new();
        let mut opened = root.read(Path::new(name))?;
        (opened.file.read_to_string(&mut text)).map_err(Miss::Failed)?;
        Ok(text)
    }

    #[test]
    fn links_that_stay_inside_are_followed() {
        let (_place, path) = world();
        let root = Root::open(&path, false, Patience::Blocking).expect("a root");
        for (name, expected) in [
            ("a.txt", "a"),
            ("near", "a"),
            ("up-and-down", "a"),
            ("absolute", "b"),
            ("folder/b.txt", "b"),
        ] {
            assert_eq!(text(&root, name).expect(name), expected, "{name}");
            let long = root.resolved(Path::new(name), READ);
            assert!(long.is_ok(), "{name} on the longer way: {long:?}");
        }
    }

    #[test]
    fn links_that_lead_out_are_refused_on_both_ways() {
        let (_place, path) = world();
        let root = Root::open(&path, false, Patience::Blocking).expect("a root");
        for name in [
            "out",
            "out-absolute",
            "out-folder/outside.txt",
            "out-folder",
            "proc/etc",
        ] {
            let refused = text(&root, name);
            assert!(matches!(refused, Err(Miss::Escapes)), "{name}: {refused:?}");
            let refused = root.resolved(Path::new(name), READ);
            assert!(matches!(refused, Err(Miss::Escapes)), "{name}: {refused:?}");
        }
    }

    #[test]
    fn links_lead_out_where_that_is_allowed() {
        let (_place, path) = world();
        let root = Root::open(&path, true, Patience::Blocking).expect("a root");
        assert_eq!(text(&root, "out").expect("followed"), "secret");
        assert_eq!(text(&root, "out-absolute").expect("followed"), "secret");
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        let (_place, path) = world();
        let root = Root::open(&path, false, Patience::Blocking).expect("a root");
        let long = "x".repeat(300);
        for name in ["nothing", "loop", "dangling", "a.txt/x", long.as_str()] {
            let missing = text(&root, name);
            assert!(
                matches!(missing, Err(Miss::NotFound)),
                "{name}: {missing:?}"
            );
        }
        let gone = Root::open(Path::new("/nonexistent-root"), false, Patience::Blocking);
        assert!(matches!(gone, Err(Miss::NotFound)));
    }

    #[test]
    fn the_cached_way_says_the_same_or_asks_for_the_longer_one() {
        let (_place, path) = world();
        let warm = (0..1_000).find_map(|_| Root::open(&path, false, Patience::Cached).ok());
        let root = warm.expect("a warm root");
        let longer = Root::open(&path, false, Patience::Blocking).expect("a root");
        for name in ["a.txt", "near"] {
            // A rename anywhere may send one lookup the longer way, and the kernel may forget a name.
            let warm = (0..1_000).find_map(|_| {
                text(&longer, name).expect("the longer way");
                text(&root, name).ok()
            });
            assert_eq!(warm.as_deref(), Some("a"), "{name}");
        }
        for name in ["out", "absolute", "out-folder/outside.txt"] {
            let later = text(&root, name);
            assert!(matches!(later, Err(Miss::Later)), "{name}: {later:?}");
        }
    }

    #[test]
    fn a_pipe_is_not_waited_for() {
        let (_place, path) = world();
        let pipe = path.join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).expect("a pipe");
        let root = Root::open(&path, false, Patience::Blocking).expect("a root");
        let opened = root.read(Path::new("pipe")).expect("opened");
        assert_eq!(opened.facts.kind, Kind::Other);
    }

    #[test]
    fn a_folder_that_cannot_be_listed_can_be_asked_about() {
        let (_place, path) = world();
        let folder = path.join("folder");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o111)).expect("permissions");
        let root = Root::open(&path, false, Patience::Blocking).expect("a root");
        let opened = root.read(Path::new("folder")).expect("opened");
        assert_eq!(opened.facts.kind, Kind::Folder);
        assert_eq!(text(&root, "folder/b.txt").expect("inside"), "b");
    }
}
