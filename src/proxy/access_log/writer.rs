//! The thread that writes lines, and the file that it keeps in bounds.
//!
//! Nothing here can make a request wait. What cannot be written is lost: said once, not once a line.
//! A file that is full or old gets the time as a part of its name, and a new one takes its place;
//! old ones are compressed and thrown away by another thread, because that takes its time.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tracing::warn;

use super::Addressed;
use crate::clock;
use crate::config::{AccessLog as Config, Rotate};

/// How often the age of a file is looked at when nothing is written, and how long a rotation that
/// failed is not tried again.
const TICK: Duration = Duration::from_secs(10);

const BUFFER_BYTES: usize = 64 * 1024;

/// What the writer is told beside lines.
#[derive(Debug, Default)]
pub(super) struct Orders {
    /// The last one counts.
    targets: Mutex<Option<Vec<Target>>>,
    reopen: AtomicBool,
    /// Lines that there was no room for.
    pub(super) dropped: AtomicU64,
}

impl Orders {
    pub(super) fn follow(&self, targets: Vec<Target>) {
        *self.lock() = Some(targets);
        self.reopen.store(true, Ordering::Release);
    }

    pub(super) fn reopen(&self) {
        self.reopen.store(true, Ordering::Release);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Vec<Target>>> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    file: Option<PathBuf>,
    rotate: Option<Rotate>,
}

impl From<&Config> for Target {
    fn from(config: &Config) -> Self {
        Self {
            file: config.file.clone(),
            rotate: config.rotate.clone(),
        }
    }
}

impl Target {
    /// # Errors
    /// The file cannot be opened.
    pub(super) fn open(self) -> io::Result<Sink> {
        let Some(path) = &self.file else {
            return Ok(Sink::new(self, Box::new(io::stdout()), 0, clock::wall()));
        };
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let found = file.metadata()?;
        let written = found.len();
        // Not every file system knows when a file was made.
        let since = match written {
            0 => clock::wall(),
            _ => found.created().or_else(|_| found.modified())?,
        };
        Ok(Sink::new(self, Box::new(file), written, since))
    }
}

/// An open target.
pub(super) struct Sink {
    out: BufWriter<Box<dyn Write + Send>>,
    target: Target,
    written: u64,
    /// When the file was begun.
    since: SystemTime,
    /// A rotation failed; the next try.
    not_before: Option<SystemTime>,
    /// Old files are being compressed.
    tidying: Arc<AtomicBool>,
    /// The last write failed.
    broken: bool,
}

impl Sink {
    fn new(target: Target, out: Box<dyn Write + Send>, written: u64, since: SystemTime) -> Self {
        Self {
            out: BufWriter::with_capacity(BUFFER_BYTES, out),
            target,
            written,
            since,
            not_before: None,
            tidying: Arc::default(),
            broken: false,
        }
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        self.out.write_all(line)?;
        self.written += line.len() as u64;
        if self.is_full() {
            self.rotate(clock::wall());
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        let rotate = self.target.rotate.as_ref();
        rotate.is_some_and(|rotate| self.written >= rotate.size)
    }

    fn is_old(&self, now: SystemTime) -> bool {
        let age = self.target.rotate.as_ref().and_then(|rotate| rotate.age);
        let passed = now.duration_since(self.since).unwrap_or_default();
        self.written > 0 && age.is_some_and(|age| passed >= age)
    }

    /// What cannot be written is said once, not once a line: the disk is full for all of them.
    fn is_lost(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.broken, true) {
            let file = self.target.file.as_deref().unwrap_or(Path::new("stdout"));
            warn!(file = %file.display(), %error, "access log cannot be written, lines are lost");
        }
    }

    /// Looks at the age.
    fn tend(&mut self, now: SystemTime) {
        if self.is_old(now) || self.is_full() {
            self.rotate(now);
        }
    }

    /// Puts the file aside. One that cannot be is written on, and tried again later.
    fn rotate(&mut self, now: SystemTime) {
        let (Some(path), Some(rotate)) = (&self.target.file, &self.target.rotate) else {
            return;
        };
        if self.not_before.is_some_and(|then| now < then) {
            return;
        }
        self.not_before = Some(now + TICK);
        let aside = aside(path, now);
        let moved = self.out.flush().and_then(|()| fs::rename(path, &aside));
        let opened = moved.and_then(|()| self.target.clone().open());
        match opened {
            Ok(new) => {
                let (path, rotate) = (path.clone(), rotate.clone());
                let tidying = Arc::clone(&self.tidying);
                *self = Self {
                    tidying: Arc::clone(&tidying),
                    ..new
                };
                tidy_beside(path, rotate, tidying);
            }
            Err(error) => {
                warn!(file = %path.display(), %error, "access log cannot be rotated");
            }
        }
    }
}

/// The open logs, by their files. `None` is standard output.
pub(super) struct Sinks {
    open: HashMap<Option<PathBuf>, Sink>,
    /// That of `[log.access]`.
    main: Option<PathBuf>,
}

impl Sinks {
    /// The first is that of `[log.access]`.
    ///
    /// # Errors
    /// A file cannot be opened.
    pub(super) fn open(targets: impl Iterator<Item = Target>) -> io::Result<Self> {
        let targets: Vec<Target> = targets.collect();
        let main = targets.first().and_then(|target| target.file.clone());
        let mut open = HashMap::new();
        for target in targets {
            let file = target.file.clone();
            let sink = target.open().map_err(|error| match &file {
                Some(file) => io::Error::new(error.kind(), format!("{}: {error}", file.display())),
                None => error,
            })?;
            open.insert(file, sink);
        }
        Ok(Self { open, main })
    }

    /// A log that is not there any more, or could not be opened, leaves its lines to the main one.
    fn write(&mut self, Addressed { to, line }: &Addressed) {
        let file = match self.open.contains_key(&to.file) {
            true => &to.file,
            false => &self.main,
        };
        if let Some(sink) = self.open.get_mut(file)
            && let Err(error) = sink.write(line)
        {
            sink.is_lost(&error);
        }
    }

    fn flush(&mut self) {
        for sink in self.open.values_mut() {
            if sink.out.buffer().is_empty() {
                continue;
            }
            match sink.out.flush() {
                Ok(()) => sink.broken = false,
                Err(error) => sink.is_lost(&error),
            }
        }
    }

    /// Opens the same files by their names, as another program may have moved them; or others.
    fn reopen(&mut self, targets: Option<Vec<Target>>) {
        self.flush();
        let same = || (self.open.values().map(|sink| sink.target.clone())).collect();
        let is_new = targets.is_some();
        let targets = targets.unwrap_or_else(same);
        let files: Vec<_> = targets.iter().map(|target| target.file.clone()).collect();
        for target in targets {
            let file = target.file.clone();
            match target.open() {
                Ok(new) => {
                    let tidying = self.open.remove(&file).map(|old| old.tidying);
                    let tidying = tidying.unwrap_or_default();
                    self.open.insert(file, Sink { tidying, ..new });
                }
                Err(error) => {
                    let file = file.unwrap_or_default();
                    warn!(file = %file.display(), %error, "access log cannot be opened anew");
                }
            }
        }
        if is_new {
            // One that cannot be opened leaves its lines where they were.
            let main = files.first().filter(|file| self.open.contains_key(*file));
            self.main = main.cloned().unwrap_or_else(|| self.main.clone());
            let main = &self.main;
            self.open
                .retain(|file, _| files.contains(file) || file == main);
        }
    }

    fn tend(&mut self, now: SystemTime) {
        for sink in self.open.values_mut() {
            sink.tend(now);
        }
    }
}

/// Writes until the last handle is gone.
pub(super) fn write_all(queue: &Receiver<Option<Addressed>>, mut sinks: Sinks, orders: &Orders) {
    loop {
        let mut next = match queue.recv_timeout(TICK) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        loop {
            // Before any line that was written with a new configuration.
            if orders.reopen.swap(false, Ordering::AcqRel) {
                sinks.reopen(orders.lock().take());
            }
            if let Some(Some(line)) = &next {
                sinks.write(line);
            }
            next = match queue.try_recv() {
                Ok(line) => Some(line),
                Err(_) => break,
            };
        }
        sinks.flush();
        sinks.tend(clock::wall());
        let lost = orders.dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            warn!(lines = lost, "access log fell behind, lines dropped");
        }
    }
}

/// `access.log` as `access-2026-11-29T13-40-01.123.log`: names in the order of time.
fn aside(path: &Path, now: SystemTime) -> PathBuf {
    let (stem, ending) = parts(path);
    let time = clock::rfc3339(now).replace(':', "-");
    let time = time.strip_suffix('Z').unwrap_or(&time);
    path.with_file_name(format!("{stem}-{time}{ending}"))
}

/// A file's name before and from its last dot.
fn parts(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| {
        part.map(|part| part.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    let ending = match path.extension() {
        Some(ending) => format!(".{}", ending.to_string_lossy()),
        None => String::new(),
    };
    (text(path.file_stem()), ending)
}

/// Compresses and removes old files on a thread of its own, one at a time; what one leaves, the
/// next one does.
fn tidy_beside(path: PathBuf, rotate: Rotate, busy: Arc<AtomicBool>) {
    if busy.swap(true, Ordering::AcqRel) {
        return;
    }
    let done = Arc::clone(&busy);
    let thread = std::thread::Builder::new().name("access-log-tidy".to_owned());
    let started = thread.spawn(move || {
        if let Err(error) = tidy(&path, &rotate) {
            warn!(file = %path.display(), %error, "old access logs cannot be tidied");
        }
        done.store(false, Ordering::Release);
    });
    if started.is_err() {
        busy.store(false, Ordering::Release);
    }
}

/// Leaves the newest `keep` of the files that were put aside.
fn tidy(path: &Path, rotate: &Rotate) -> io::Result<()> {
    let mut old = put_aside(path)?;
    old.sort();
    let surplus = old.len().saturating_sub(rotate.keep);
    for file in old.drain(..surplus) {
        fs::remove_file(file)?;
    }
    if rotate.compress {
        for file in old.iter().filter(|file| !is_compressed(file)) {
            compress(file)?;
        }
    }
    Ok(())
}

/// The files that stand beside `path` with a time in their names.
fn put_aside(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (stem, ending) = parts(path);
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let plain = name.strip_suffix(".gz").unwrap_or(&name);
        let time = plain
            .strip_prefix(&stem)
            .and_then(|rest| rest.strip_prefix('-')?.strip_suffix(&ending));
        if time.is_some_and(is_time) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// `2026-11-29T13-40-01.123`
fn is_time(text: &str) -> bool {
    const FORM: &[u8] = b"0000-00-00T00-00-00.000";
    text.len() == FORM.len()
        && text.bytes().zip(FORM).all(|(byte, form)| match form {
            b'0' => byte.is_ascii_digit(),
            other => byte == *other,
        })
}

fn is_compressed(file: &Path) -> bool {
    file.extension().is_some_and(|ending| ending == "gz")
}

fn compress(file: &Path) -> io::Result<()> {
    let name = |ending: &str| {
        let mut name = file.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    let (temporary, whole) = (name(".gz.tmp"), name(".gz"));
    let mut from = File::open(file)?;
    let mode = from.metadata()?.permissions().mode();
    let to = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(mode & 0o777)
        .open(&temporary)?;
    let mut to = flate2::write::GzEncoder::new(to, flate2::Compression::default());
    let done = io::copy(&mut from, &mut to)
        .and_then(|_| to.finish())
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(&temporary, &whole));
    if let Err(error) = done {
        // The disk may be full of what was just written.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    fs::remove_file(file)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let all = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = all
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn target(path: &Path, rotate: Rotate) -> Target {
        Target {
            file: Some(path.to_owned()),
            rotate: Some(rotate),
        }
    }

    fn config(path: &Path, rotate: Option<Rotate>) -> Arc<Config> {
        Arc::new(Config {
            file: Some(path.to_owned()),
            rotate,
            ..Config::default()
        })
    }

    fn addressed(to: &Arc<Config>, line: &str) -> Addressed {
        let (to, line) = (Arc::clone(to), line.as_bytes().to_vec());
        Addressed { to, line }
    }

    fn rotate() -> Rotate {
        Rotate {
            size: 10,
            age: None,
            keep: 2,
            compress: false,
        }
    }

    /// Everything that was written to a log, the oldest first.
    fn contents(folder: &Path) -> String {
        let mut text = String::new();
        for name in names(folder) {
            let file = File::open(folder.join(&name)).unwrap();
            if name.ends_with(".gz") {
                let mut file = flate2::read::GzDecoder::new(file);
                file.read_to_string(&mut text).unwrap();
            } else {
                text.push_str(&fs::read_to_string(folder.join(&name)).unwrap());
            }
        }
        text
    }

    #[test]
    fn a_full_file_is_put_aside_whole_and_none_of_its_lines_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let mut sink = target(&path, rotate()).open().unwrap();
        sink.write(b"12345\n").unwrap();
        assert_eq!(names(folder.path()), ["access.log"]);
        sink.write(b"67890\n").unwrap();
        sink.write(b"x\n").unwrap();
        sink.out.flush().unwrap();
        let names = names(folder.path());
        assert_eq!(names.len(), 2, "{names:?}");
        let aside = fs::read_to_string(folder.path().join(&names[0])).unwrap();
        assert_eq!(aside, "12345\n67890\n", "{names:?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "x\n");
        // What a restart finds counts.
        drop(sink);
        fs::write(&path, "123456789\n").unwrap();
        let mut sink = target(&path, rotate()).open().unwrap();
        sink.tend(clock::wall() + TICK);
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
    }

    #[test]
    fn an_old_file_is_put_aside_unless_it_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access");
        let hourly = Rotate {
            size: 1 << 30,
            age: Some(Duration::from_secs(3600)),
            ..rotate()
        };
        let mut sink = target(&path, hourly).open().unwrap();
        let now = clock::wall();
        sink.tend(now + Duration::from_secs(7200));
        assert_eq!(names(folder.path()), ["access"]);
        sink.write(b"x\n").unwrap();
        sink.tend(now + Duration::from_secs(3500));
        assert_eq!(names(folder.path()).len(), 1);
        sink.tend(now + Duration::from_secs(3700));
        assert_eq!(names(folder.path()).len(), 2);
    }

    #[test]
    fn the_newest_are_kept_and_compressed_and_strangers_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let at = |day: &str| format!("access-2026-01-{day}T00-00-00.000.log");
        for day in ["01", "02", "03", "04"] {
            fs::write(folder.path().join(at(day)), day).unwrap();
        }
        let strangers = ["access-2026.log", "access-error.log", "other.log"];
        for stranger in strangers {
            fs::write(folder.path().join(stranger), "").unwrap();
        }
        let rules = Rotate {
            compress: true,
            ..rotate()
        };
        tidy(&path, &rules).unwrap();
        let mut expected: Vec<String> = strangers.map(str::to_owned).to_vec();
        expected.extend([at("03") + ".gz", at("04") + ".gz"]);
        expected.sort();
        assert_eq!(names(folder.path()), expected);
        assert_eq!(contents(folder.path()), "0304");
        fs::write(folder.path().join(at("05")), "05").unwrap();
        tidy(&path, &rules).unwrap();
        assert_eq!(contents(folder.path()), "0405");
    }

    #[test]
    fn a_file_that_was_moved_is_left_and_one_that_cannot_be_opened_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let big = Rotate {
            size: 1 << 30,
            ..rotate()
        };
        let log = config(&path, Some(big.clone()));
        let mut sinks = Sinks::open([Target::from(&*log)].into_iter()).unwrap();
        let write = |sinks: &mut Sinks, text: &str| {
            sinks.write(&addressed(&log, text));
            sinks.flush();
        };
        write(&mut sinks, "one\n");
        fs::rename(&path, folder.path().join("access.log.1")).unwrap();
        sinks.reopen(None);
        write(&mut sinks, "two\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        let moved = folder.path().join("moved");
        fs::create_dir(&moved).unwrap();
        fs::rename(&path, moved.join("access.log")).unwrap();
        fs::create_dir(&path).unwrap();
        // A folder is in the way.
        sinks.reopen(None);
        write(&mut sinks, "three\n");
        let text = fs::read_to_string(moved.join("access.log")).unwrap();
        assert_eq!(text, "two\nthree\n");
    }

    #[test]
    fn each_line_goes_to_its_own_log() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b, c] =
            ["a.log", "b.log", "c.log"].map(|name| config(&folder.path().join(name), None));
        let targets = |of: &[&Arc<Config>]| {
            of.iter()
                .map(|log| Target::from(&***log))
                .collect::<Vec<_>>()
        };
        let mut sinks = Sinks::open(targets(&[&a, &b]).into_iter()).unwrap();
        for (log, text) in [(&a, "1"), (&b, "2"), (&a, "3")] {
            sinks.write(&addressed(log, text));
        }
        sinks.flush();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!((read("a.log"), read("b.log")), ("13".into(), "2".into()));
        sinks.reopen(Some(targets(&[&b, &c])));
        assert_eq!(sinks.open.len(), 2, "the other one is closed");
        // A request of before ends now: its line goes to the main log, which is b.
        for (log, text) in [(&a, "4"), (&c, "5")] {
            sinks.write(&addressed(log, text));
        }
        sinks.flush();
        let texts = ["a.log", "b.log", "c.log"].map(read);
        assert_eq!(texts, ["13", "24", "5"]);
        let nowhere = config(&folder.path().join("gone/x.log"), None);
        sinks.reopen(Some(targets(&[&nowhere, &c])));
        sinks.write(&addressed(&nowhere, "6"));
        sinks.flush();
        assert_eq!(read("b.log"), "246", "the main log of before");
    }

    #[test]
    fn a_full_disk_is_said_once() {
        let full = config(Path::new("/dev/full"), None);
        let mut sinks = Sinks::open([Target::from(&*full)].into_iter()).unwrap();
        sinks.write(&addressed(&full, "fits into the buffer"));
        assert!(!sinks.open[&full.file].broken);
        sinks.flush();
        assert!(sinks.open[&full.file].broken);
        sinks.write(&addressed(&full, "this too, which proves nothing"));
        assert!(sinks.open[&full.file].broken);
    }

    #[test]
    fn a_full_disk_loses_lines_and_goes_on_when_there_is_room() {
        // Every write to it fails as on a full disk (full(4)).
        let full = config(Path::new("/dev/full"), None);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let (lines, queue) = std::sync::mpsc::sync_channel(8);
        let orders = Arc::new(Orders::default());
        let sinks = Sinks::open([Target::from(&*full)].into_iter()).unwrap();
        let (told, reader) = (Arc::clone(&orders), queue);
        let thread = std::thread::spawn(move || write_all(&reader, sinks, &told));
        for _ in 0..100 {
            lines
                .send(Some(addressed(&full, &"x".repeat(4096))))
                .unwrap();
        }
        let log = config(&path, Some(rotate()));
        orders.follow(vec![Target::from(&*log)]);
        lines.send(None).unwrap();
        while !path.exists() {
            std::thread::yield_now();
        }
        lines.send(Some(addressed(&log, "room\n"))).unwrap();
        drop(lines);
        thread.join().unwrap();
        assert!(fs::read_to_string(&path).unwrap().ends_with("room\n"));
    }
}
