//! The destination of a report's file. Neither the report nor an older one may be lost: the new file is written in full
//! beside the old one and then replaces it. Pipes, devices and the like just get the bytes.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rand::random;

pub(crate) enum Destination {
    /// A file that a new one replaces, or no file yet. The new file keeps the owner and the permissions of the old one.
    Replace { path: PathBuf, before: Option<Metadata> },
    /// A file that must stay: it has several names, or blaster may not replace it. Its contents are replaced.
    Overwrite(File),
    /// A terminal, a pipe, a device, or a descriptor of blaster by its name (/dev/stdout).
    Stream(File),
}

impl Destination {
    /// Checks, before there is anything to write, that `path` can be written. `open` opens files whose opening may block,
    /// such as FIFOs.
    pub(crate) fn new(
        path: &Path,
        open: impl Fn(&OpenOptions, &Path) -> io::Result<File>,
    ) -> io::Result<Self> {
        let mut write = OpenOptions::new();
        write.write(true);
        let path = match follow_links(path)? {
            LinkTarget::File(path) => path,
            // a copy of the descriptor: opened again, a file would be written from its beginning
            LinkTarget::Descriptor(1) => {
                return Ok(Self::Stream(File::from(io::stdout().as_fd().try_clone_to_owned()?)));
            }
            LinkTarget::Descriptor(2) => {
                return Ok(Self::Stream(File::from(io::stderr().as_fd().try_clone_to_owned()?)));
            }
            // it may be a log: what it holds stays
            LinkTarget::Descriptor(_) => {
                return Ok(Self::Stream(open(OpenOptions::new().append(true), path)?));
            }
        };
        let before = match fs::metadata(&path) {
            Ok(metadata) if !metadata.is_file() => return Ok(Self::Stream(open(&write, &path)?)),
            Ok(metadata) => Some(metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let Some(before) = before else {
            let probe = temporary_path(&path);
            new_file(&probe)?;
            fs::remove_file(probe)?;
            return Ok(Self::Replace { path, before: None });
        };
        // a file that blaster may not write must not be replaced either, even if the directory permits it
        let file = write.clone().read(true).open(&path).or_else(|_| write.open(&path))?;
        let probe = temporary_path(&path);
        let can_be_replaced = before.nlink() == 1
            && new_file(&probe).is_ok_and(|new| {
                let has_same_owner = fchown(new, Some(before.uid()), Some(before.gid())).is_ok();
                fs::remove_file(probe).is_ok() && has_same_owner
            });
        Ok(if can_be_replaced { Self::Replace { path, before: Some(before) } } else { Self::Overwrite(file) })
    }

    /// Writes all bytes, or leaves the old file as it was.
    pub(crate) fn write(
        &mut self,
        bytes: &[u8],
        write_all: impl Fn(&File, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        match self {
            Self::Stream(file) => write_all(file, bytes),
            Self::Overwrite(file) => rewrite(file, bytes, write_all),
            Self::Replace { path, before } => {
                let new = temporary_path(path);
                let file = new_file(&new)?;
                let written = write_all(&file, bytes).and_then(|()| {
                    if let Some(before) = before {
                        fchown(&file, Some(before.uid()), Some(before.gid()))?;
                        file.set_permissions(Permissions::from_mode(before.mode()))?;
                    }
                    // only this tells whether the disk had room
                    file.sync_all()?;
                    fs::rename(&new, path)
                });
                if written.is_err() {
                    // this may fail as well; the first error is the one to report
                    let _ = fs::remove_file(new);
                }
                written
            }
        }
    }
}

/// Replaces the contents of a file. If that fails, the file gets its old contents back: they had room before.
fn rewrite(
    file: &mut File,
    bytes: &[u8],
    write_all: impl Fn(&File, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut before = Vec::new();
    file.rewind()?;
    let has_read = file.read_to_end(&mut before);
    let empty = |file: &mut File| file.set_len(0).and_then(|()| file.rewind());
    empty(file)?;
    let written = write_all(file, bytes).and_then(|()| file.sync_all());
    if written.is_err() && has_read.is_ok() {
        empty(file)?;
        write_all(file, &before)?;
    }
    written
}

/// A new file with the usual permissions.
fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o666).open(path)
}

/// A path in the same directory with a name that nobody else uses and that is never too long.
fn temporary_path(path: &Path) -> PathBuf {
    path.with_file_name(format!(".blaster-{:016x}", random::<u64>()))
}

enum LinkTarget {
    /// A path that is no link.
    File(PathBuf),
    /// A descriptor by its name in /proc (proc(5)); `u32::MAX`: of another process.
    Descriptor(u32),
}

/// The target of `path`, if its last part is a link. The link itself stays.
fn follow_links(path: &Path) -> io::Result<LinkTarget> {
    /// The limit of the kernel.
    const LINKS_MAX: u32 = 40;
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        if !fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_symlink()) {
            return Ok(LinkTarget::File(path));
        }
        let directory = match path.parent() {
            Some(directory) if directory != Path::new("") => directory,
            _ => Path::new("."),
        };
        let directory = directory.canonicalize()?;
        if directory.starts_with("/proc") {
            let number = path.file_name().and_then(|name| name.to_str()?.parse().ok());
            let is_ours = Path::new("/proc/self/fd").canonicalize().is_ok_and(|ours| ours == directory);
            return Ok(LinkTarget::Descriptor(number.filter(|_| is_ours).unwrap_or(u32::MAX)));
        }
        path = directory.join(fs::read_link(&path)?);
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}
