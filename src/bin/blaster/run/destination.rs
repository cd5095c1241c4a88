//! Where a report is written to, so that neither it nor an older one is lost: whole beside a file and then in its place,
//! or into whatever else the path leads to.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rand::random;

/// What a path leads to.
pub(crate) enum Destination {
    /// A file, or none yet: another one takes its place. With what is to be kept of it.
    Place { path: PathBuf, before: Option<Metadata> },
    /// A file that must stay the same: it has other names, it is not ours to replace, or its directory takes no other.
    Contents(File),
    /// A terminal, a pipe, a device, or a descriptor of our own by its name (/dev/stdout): it gets what is written.
    Stream(File),
}

impl Destination {
    /// Finds out, before there is anything to write, whether something can be written to `path`. `open` opens what may
    /// take its time to be opened, a FIFO for instance.
    pub(crate) fn new(
        path: &Path,
        open: impl Fn(&OpenOptions, &Path) -> io::Result<File>,
    ) -> io::Result<Self> {
        let mut write = OpenOptions::new();
        write.write(true);
        let path = match behind_links(path)? {
            Behind::File(path) => path,
            // the very same, with what was written to it before: what is opened anew would begin anew
            Behind::Descriptor(1) => {
                return Ok(Self::Stream(File::from(io::stdout().as_fd().try_clone_to_owned()?)));
            }
            Behind::Descriptor(2) => {
                return Ok(Self::Stream(File::from(io::stderr().as_fd().try_clone_to_owned()?)));
            }
            // what is there already, of a log for instance, is not ours
            Behind::Descriptor(_) => return Ok(Self::Stream(open(OpenOptions::new().append(true), path)?)),
        };
        let before = match fs::metadata(&path) {
            Ok(metadata) if !metadata.is_file() => return Ok(Self::Stream(open(&write, &path)?)),
            Ok(metadata) => Some(metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let Some(before) = before else {
            let probe = beside(&path);
            new_file(&probe)?;
            fs::remove_file(probe)?;
            return Ok(Self::Place { path, before: None });
        };
        // what may not be written may not be replaced either, whatever the directory's permissions say
        let file = write.clone().read(true).open(&path).or_else(|_| write.open(&path))?;
        let probe = beside(&path);
        let takes_its_place = before.nlink() == 1
            && new_file(&probe).is_ok_and(|new| {
                let is_alike = fchown(new, Some(before.uid()), Some(before.gid())).is_ok();
                fs::remove_file(probe).is_ok() && is_alike
            });
        Ok(if takes_its_place { Self::Place { path, before: Some(before) } } else { Self::Contents(file) })
    }

    /// Writes all of it, or leaves a file as it was.
    pub(crate) fn write(
        &mut self,
        bytes: &[u8],
        write_all: impl Fn(&File, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        match self {
            Self::Stream(file) => write_all(file, bytes),
            Self::Contents(file) => rewrite(file, bytes, write_all),
            Self::Place { path, before } => {
                let new = beside(path);
                let file = new_file(&new)?;
                let written = write_all(&file, bytes).and_then(|()| {
                    if let Some(before) = before {
                        fchown(&file, Some(before.uid()), Some(before.gid()))?;
                        file.set_permissions(Permissions::from_mode(before.mode()))?;
                    }
                    // only now it is known whether there was room
                    file.sync_all()?;
                    fs::rename(&new, path)
                });
                if written.is_err() {
                    // a full disk may refuse that, too; the first error is the one to tell
                    let _ = fs::remove_file(new);
                }
                written
            }
        }
    }
}

/// Replaces the contents of a file. Where that fails it gets back what it had, for which there was room.
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

/// A new file, with the permissions that a new file gets.
fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o666).open(path)
}

/// A name in the same directory that nobody else uses, and that is never too long.
fn beside(path: &Path) -> PathBuf {
    path.with_file_name(format!(".blaster-{:016x}", random::<u64>()))
}

/// What a path leads to.
enum Behind {
    /// A file, or what is none, by its own name.
    File(PathBuf),
    /// A descriptor of ours, by a name that the kernel keeps for it (proc(5)).
    Descriptor(u32),
}

/// What `path` means when its last part is a link, which stays.
fn behind_links(path: &Path) -> io::Result<Behind> {
    /// As many as the kernel follows.
    const LINKS_MAX: u32 = 40;
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        if !fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_symlink()) {
            return Ok(Behind::File(path));
        }
        let directory = match path.parent() {
            Some(directory) if directory != Path::new("") => directory,
            _ => Path::new("."),
        };
        let directory = directory.canonicalize()?;
        if directory.starts_with("/proc") {
            let number = path.file_name().and_then(|name| name.to_str()?.parse().ok());
            let is_ours = Path::new("/proc/self/fd").canonicalize().is_ok_and(|ours| ours == directory);
            return Ok(Behind::Descriptor(number.filter(|_| is_ours).unwrap_or(u32::MAX)));
        }
        path = directory.join(fs::read_link(&path)?);
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}
