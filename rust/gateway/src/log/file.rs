//! The log's file: lines appended, and a new file begun where the old one is full, old or gone.
//!
//! In: whole lines. Out: lines in the file, and how many of them are not there: what is counted as lost
//! is what a reader misses. A file that somebody renamed or removed, as logrotate does, is left, and the
//! path's own file is opened again.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{Error, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// The file that lines go to.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    lines: Lines<File>,
    bytes: u64,
    opened: Instant,
    /// What is wrong, which somebody was told, while it is.
    trouble: Option<String>,
}

/// Lines on their way to something that may have no room.
#[derive(Debug)]
struct Lines<W> {
    out: W,
    /// Whether the last write ended in the middle of a line.
    torn: bool,
}

/// What became of some lines.
#[derive(Debug)]
struct Written {
    bytes: u64,
    /// Lines that are not there, or not whole.
    lost: u64,
    error: Option<Error>,
}

impl<W: Write> Lines<W> {
    /// Write as much of whole lines as there is room for. A torn line stays by itself: the next write
    /// begins on a line of its own.
    fn write(&mut self, lines: &[u8]) -> Written {
        let mut bytes = 0;
        if self.torn {
            match all(&mut self.out, b"\n") {
                (1, _) => (self.torn, bytes) = (false, 1),
                (_, error) => return Written { bytes, lost: count(lines), error },
            }
        }
        let (written, error) = all(&mut self.out, lines);
        let (there, missing) = lines.split_at(written);
        self.torn = there.last().is_some_and(|byte| *byte != b'\n');
        // A line that lacks its end alone is given that by the next write.
        let whole = u64::from(self.torn && missing.starts_with(b"\n"));
        Written { bytes: bytes + written as u64, lost: count(missing) - whole, error }
    }
}

/// Write all of it, or say how much.
fn all(out: &mut impl Write, bytes: &[u8]) -> (usize, Option<Error>) {
    let mut written = 0;
    while written < bytes.len() {
        match out.write(&bytes[written..]) {
            Ok(0) => return (written, Some(ErrorKind::WriteZero.into())),
            Ok(n) => written += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return (written, Some(e)),
        }
    }
    (written, None)
}

/// Ends of lines: a line whose end is not there is lost.
#[allow(clippy::naive_bytecount)] // once a batch that the disk took no more of
fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}

impl LogFile {
    /// Open a file, or make it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let (file, bytes) = append(path)?;
        let lines = Lines { out: file, torn: false };
        Ok(Self { path: path.into(), lines, bytes, opened: Instant::now(), trouble: None })
    }

    /// Whether a file could be opened: one that is there is left as it is, and none is made. Says whether a
    /// gateway has it open, as far as the file's system tells.
    pub fn check(path: &Path) -> Result<bool, Error> {
        match OpenOptions::new().append(true).read(true).open(path) {
            // A link to a file that is not there yet leads to where it would be.
            Err(e) if e.kind() == ErrorKind::NotFound => match std::fs::read_link(path) {
                Ok(to) => Self::check(&path.with_file_name("").join(to)),
                Err(_) => takes_a_file(path.parent().unwrap_or(Path::new(""))).map(|()| false),
            },
            opened => Ok(matches!(opened?.try_lock(), Err(TryLockError::WouldBlock))),
        }
    }

    /// Append lines; gives how many are lost. What goes to a file without a name, nobody finds again.
    pub fn write(&mut self, lines: &[u8]) -> u64 {
        if self.lines.out.metadata().is_ok_and(|m| m.is_file() && m.nlink() == 0) {
            return count(lines);
        }
        let Written { bytes, lost, error } = self.lines.write(lines);
        self.bytes += bytes;
        match error {
            Some(e) => self.tell(&format!("takes no records: {e}")),
            None => self.trouble = None,
        }
        lost
    }

    /// What is wrong, while it is.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Whether so many more bytes would make it longer than it may be.
    pub fn is_full(&self, more: usize, most: u64) -> bool {
        self.bytes + more as u64 > most
    }

    /// Whether it has anything in it.
    pub fn is_begun(&self) -> bool {
        self.bytes > 0
    }

    /// Whether it has been open for so long.
    pub fn is_old(&self, age: Duration) -> bool {
        self.is_begun() && self.opened.elapsed() >= age
    }

    /// Where another file than the open one, or none, stands at the path: open that.
    pub fn follow(&mut self) {
        let same = |a: &Metadata, b: &Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        let (there, here) = (std::fs::metadata(&self.path), self.lines.out.metadata());
        if let (Ok(there), Ok(here)) = (&there, &here)
            && same(there, here)
        {
            // Somebody may have cut it, as logrotate's copytruncate does.
            self.bytes = here.len();
            return;
        }
        match append(&self.path) {
            Ok((file, bytes)) => self.begin(file, bytes),
            Err(e) => self.tell(&format!("was moved away and cannot be opened again: {e}")),
        }
    }

    /// Put the file aside under its name and the time, and begin a new one.
    pub fn rotate(&mut self) {
        let moved = std::fs::rename(&self.path, aside(&self.path));
        match moved.and_then(|()| append(&self.path)) {
            Ok((file, bytes)) => self.begin(file, bytes),
            Err(e) => self.tell(&format!("goes on in its old file: {e}")),
        }
    }

    fn begin(&mut self, file: File, bytes: u64) {
        self.lines = Lines { out: file, torn: false };
        (self.bytes, self.opened, self.trouble) = (bytes, Instant::now(), None);
    }

    /// Say it once until it is mended.
    fn tell(&mut self, words: &str) {
        if self.trouble.is_none() {
            crate::say(&format!("the decision log {} {words}", self.path.display()));
        }
        self.trouble = Some(crate::plain(words));
    }
}

/// Whether a file can be made in a folder, which only a file tells: one of another name than the log's,
/// which a gateway that runs may be about to open.
fn takes_a_file(folder: &Path) -> Result<(), Error> {
    let path = folder.join(format!(".cr2fast-check-{}", uuid::Uuid::new_v4()));
    OpenOptions::new().append(true).create_new(true).open(&path)?;
    std::fs::remove_file(path)
}

fn append(path: &Path) -> Result<(File, u64), Error> {
    let mut file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
    // For others to see; a file that another gateway has, is written all the same.
    let _ = file.try_lock();
    let mut bytes = file.metadata()?.len();
    // A line that a kill cut short stays by itself.
    if bytes > 0 && !ends_with_newline(&mut file)? {
        file.write_all(b"\n")?;
        bytes += 1;
    }
    Ok((file, bytes))
}

fn ends_with_newline(file: &mut File) -> Result<bool, Error> {
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// A name for a file that is full: `decisions.20261126T144500Z.jsonl`, with a number where that is taken.
fn aside(path: &Path) -> PathBuf {
    let now =
        humantime::format_rfc3339_seconds(SystemTime::now()).to_string().replace(['-', ':'], "");
    let name =
        |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let (stem, extension) = (name(path.file_stem()), name(path.extension()));
    let tail = if extension.is_empty() { String::new() } else { format!(".{extension}") };
    let names = (0..).map(|n| match n {
        0 => format!("{stem}.{now}{tail}"),
        n => format!("{stem}.{now}.{n}{tail}"),
    });
    let mut paths = names.map(|name| path.with_file_name(name));
    paths.find(|path| !path.exists()).unwrap_or_else(|| path.with_extension("old"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk of so many bytes, which takes at most `piece` at once and is disturbed before each.
    struct Disk {
        room: usize,
        piece: usize,
        disturbed: bool,
        data: Vec<u8>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> Result<usize, Error> {
            self.disturbed = !self.disturbed;
            if self.disturbed {
                return Err(ErrorKind::Interrupted.into());
            }
            let n = bytes.len().min(self.room - self.data.len()).min(self.piece);
            if n == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            self.data.extend_from_slice(&bytes[..n]);
            Ok(n)
        }

        fn flush(&mut self) -> Result<(), Error> {
            Ok(())
        }
    }

    #[test]
    fn what_is_counted_is_what_is_missing_once_the_disk_has_room_again() {
        for room in 0..120 {
            for piece in [1, 3, 7, 1000] {
                let disk = Disk { room, piece, disturbed: false, data: vec![] };
                let mut lines = Lines { out: disk, torn: false };
                let (mut lost, mut sent) = (0, vec![]);
                for batch in 0..6 {
                    if batch == 4 {
                        lines.out.room = usize::MAX;
                    }
                    let rows: Vec<String> =
                        (0..=batch).map(|k| format!("{{\"n\":{}}}", 10 * batch + k)).collect();
                    let text = rows.join("\n") + "\n";
                    sent.extend(rows);
                    lost += lines.write(text.as_bytes()).lost;
                }
                let text = String::from_utf8(lines.out.data).unwrap();
                let there: Vec<&str> =
                    text.lines().filter(|line| sent.iter().any(|row| row == line)).collect();
                assert_eq!(there.len() as u64 + lost, sent.len() as u64, "{room} {piece}: {text}");
                assert!(!text.contains("\n\n"), "{text}");
                let torn = text.lines().count() - there.len();
                assert!(torn <= 4, "a torn line stays by itself: {text}");
            }
        }
    }
}
