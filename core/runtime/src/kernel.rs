//! Which Linux this is.

use std::ffi::CStr;

/// A kernel's version, as far as features go.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct KernelVersion {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
}

/// The oldest kernel the broker runs on.
pub const KERNEL_MIN: KernelVersion = KernelVersion { major: 6, minor: 1 };

/// The first kernel where a closed registered file is let go at once. Before it, the files of a
/// ring are let go in the order of the requests that used any of them, so one idle receive on a
/// registered socket would keep every file closed after it, and its disk space, for ever.
pub(crate) const KERNEL_FREES_FILES_AT_ONCE: KernelVersion = KernelVersion { major: 6, minor: 13 };

impl KernelVersion {
    /// Of the running kernel; `None` if it does not say so in the usual way.
    #[must_use]
    pub fn running() -> Option<Self> {
        let mut names = std::mem::MaybeUninit::<libc::utsname>::zeroed();
        // SAFETY: the kernel fills the structure, which is valid when zero, too.
        let names = unsafe {
            if libc::uname(names.as_mut_ptr()) != 0 {
                return None;
            }
            names.assume_init()
        };
        // SAFETY: the kernel ends each name with a zero within its array.
        let release = unsafe { CStr::from_ptr(names.release.as_ptr()) };
        Self::parse(release.to_str().ok()?)
    }

    fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        let major = numbers.next()?.parse().ok()?;
        let minor = numbers.next()?.parse().ok()?;
        Some(Self { major, minor })
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_releases_of_distributions() {
        let version = |major, minor| Some(KernelVersion { major, minor });
        assert_eq!(KernelVersion::parse("6.1.0-18-amd64"), version(6, 1));
        assert_eq!(KernelVersion::parse("6.18.44-fc-v769"), version(6, 18));
        assert_eq!(KernelVersion::parse("5.14.0-427.el9.x86_64"), version(5, 14));
        assert_eq!(KernelVersion::parse("7.0-rc1"), version(7, 0));
        assert_eq!(KernelVersion::parse("unknown"), None);
    }

    #[test]
    fn newer_kernels_compare_greater() {
        assert!(KERNEL_MIN < KERNEL_FREES_FILES_AT_ONCE);
        assert!(KernelVersion { major: 5, minor: 19 } < KERNEL_MIN);
        assert!(KernelVersion::running().is_some());
    }
}
