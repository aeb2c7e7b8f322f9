//! Files on disk: bounded reading, and writing that leaves the old file whole when it fails.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::error::{Error, Result};

/// Largest artifact read.
const MAX_BYTES: u64 = 1 << 30;

/// Read an artifact.
pub fn load(path: &Path) -> Result<Vec<u8>> {
    read(path, MAX_BYTES, |got| Error::artifact(format!("at most {MAX_BYTES} bytes"), got))
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> Error {
    let path = path.display().to_string();
    move |source| Error::Io { path: path.clone(), source }
}

/// Refuse pipes, sockets and devices: reading one can wait for ever, replacing one breaks it.
fn check_regular(path: &Path, meta: &fs::Metadata) -> Result<()> {
    if meta.is_file() || meta.is_dir() {
        return Ok(());
    }
    Err(Error::argument("path", "a regular file", format!("{} (a special file)", path.display())))
}

/// Read a file of at most `most` bytes; `too_large` makes the error for a larger one.
pub fn read(path: &Path, most: u64, too_large: impl Fn(String) -> Error) -> Result<Vec<u8>> {
    let meta = fs::metadata(path).map_err(io(path))?;
    check_regular(path, &meta)?;
    // Before anything is read: a sparse file has size without having content.
    if meta.is_file() && meta.len() > most {
        return Err(too_large(format!("{} bytes", meta.len())));
    }
    let file = fs::File::open(path).map_err(io(path))?;
    let mut bytes = Vec::new();
    // The reader is limited too: the file may grow meanwhile.
    file.take(most + 1).read_to_end(&mut bytes).map_err(io(path))?;
    if bytes.len() as u64 > most {
        return Err(too_large(format!("more than {most} bytes")));
    }
    Ok(bytes)
}

/// Saves so far: two threads may save to one path, each through a temporary file of its own.
static SAVES: AtomicU64 = AtomicU64::new(0);

/// Write a file: to a temporary one beside it, synced, then renamed, so that a full disk or a crash
/// leaves the old file whole. A link is followed, and the old file's permissions stay.
pub fn write(bytes: &[u8], path: &Path) -> Result<()> {
    let old = fs::metadata(path).ok();
    if let Some(meta) = &old {
        check_regular(path, meta)?;
    }
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let name =
        path.file_name().ok_or_else(|| Error::argument("path", "a file name", path.display()))?;
    let mut temp_name = std::ffi::OsString::from(".");
    temp_name.push(name);
    // Unique in this process too: two threads may save to one path.
    let turn = SAVES.fetch_add(1, Ordering::Relaxed);
    temp_name.push(format!(".{}-{turn}.tmp", std::process::id()));
    let temp = path.with_file_name(temp_name);
    let replace = || -> std::io::Result<()> {
        let mut file = fs::File::create_new(&temp)?;
        if let Some(meta) = &old {
            file.set_permissions(meta.permissions())?;
        }
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temp, path)
    };
    replace().map_err(|e| {
        let _ = fs::remove_file(&temp);
        io(path)(e)
    })
}
